-- scan: the plans of plain SELECTs on topics, and that they give the right rows
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup
SET max_parallel_workers_per_gather = 0;
SET datestyle = ISO;

-- The plan of a query, in the words of PostgreSQL 15: numbers of topics differ
-- from run to run, others between major versions.
CREATE FUNCTION pg_temp.plan(query text, options text DEFAULT '')
	RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF' || options || ') ' || query LOOP
		line := regexp_replace(regexp_replace(line, '\mt\d+(_\w+)?\M', 'tN\1', 'g'), 'brin_\w+',
			'brin_N');
		line := regexp_replace(regexp_replace(line, '\(InitPlan \S+\)\.col1', '$0'), 'InitPlan .*',
			'InitPlan');
		line := regexp_replace(replace(line, '("offset" IS NOT NULL) AND ', ''),
			'\(\((partition = \d+)\)\)', '(\1)');
		line := replace(line, 'p.next_offset = "offset"', '"offset" = p.next_offset');
		line := regexp_replace(line, 'jit_\w+ = ''\d+'', ', '', 'g');
		line := regexp_replace(regexp_replace(line, '([Rr]ows[=:] ?\d+)\.00', '\1', 'g'),
			E'\n *Disabled: \\w+', '', 'g');
		CONTINUE WHEN line ~ 'Filter: \("offset" IS NOT NULL\)|^ *Disabled: |^ *Replaces: ';
		RETURN NEXT line;
	END LOOP;
END $$;
CREATE FUNCTION pg_temp.run(query text) RETURNS SETOF text LANGUAGE sql AS
$$ SELECT pg_temp.plan(query, ', ANALYZE, BUFFERS OFF, TIMING OFF, SUMMARY OFF') $$;
-- What a query gives with and without the offset scan, if it is the same.
CREATE FUNCTION pg_temp.same(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE with_it text; without_it text;
BEGIN
	EXECUTE 'SELECT string_agg(q::text, '' '') FROM (' || query || ') q' INTO with_it;
	SET LOCAL pg_topics.enable_offset_scan = off;
	EXECUTE 'SELECT string_agg(q::text, '' '') FROM (' || query || ') q' INTO without_it;
	RESET pg_topics.enable_offset_scan;
	RETURN CASE WHEN with_it IS NOT DISTINCT FROM without_it THEN coalesce(with_it, 'nothing')
		ELSE format('DIFFERENT: %s, and without the scan %s', with_it, without_it) END;
END $$;

-- Two partitions; partition 0 has sealed segments for 0-999 and 1000-1999 and
-- an active one with 500 records, partition 1 one of each.
SELECT topics.create_topic('scan', 2, retention_time => '-1 s');
SELECT topics.produce_batch('scan', array_agg(i::text || repeat('x', 90)), partition => p,
		create_times => array_agg('2020-01-01'::timestamptz + i * interval '1 minute'))
	FROM generate_series(0, 999) i, generate_series(0, 1) p
	GROUP BY p ORDER BY p;
CALL topics.roll_segment('scan');
SELECT topics.produce_batch('scan', array_agg(i::text || repeat('x', 90)), partition => 0,
		create_times => array_agg('2020-01-01'::timestamptz + i * interval '1 minute'))
	FROM generate_series(1000, 1999) i;
CALL topics.roll_segment('scan', 0);
SELECT topics.produce_batch('scan', array_agg(i::text || repeat('x', 90)), partition => p,
		create_times => array_agg('2020-01-01'::timestamptz + i * interval '1 minute'))
	FROM generate_series(0, 1) p, LATERAL generate_series(2000 - p * 1000, 2499 - p * 1000) i
	GROUP BY p ORDER BY p;
CALL topics.maintain('scan');
SELECT pg_temp.try(format('ANALYZE %s', pg_temp.log_table('scan')));

-- ---------------------------------------------------------------------
-- One partition: from the first wanted offset on, in order
-- ---------------------------------------------------------------------
SELECT pg_temp.plan($$SELECT * FROM topic.scan r
	WHERE partition = 0 AND r.offset >= 1042 ORDER BY r.offset LIMIT 100$$);
SELECT pg_temp.run($$SELECT * FROM topic.scan r
	WHERE partition = 0 AND r.offset >= 1542 ORDER BY r.offset LIMIT 3$$);
-- it goes on where the session stopped, without a search
SELECT pg_temp.run($$SELECT * FROM topic.scan r
	WHERE partition = 0 AND r.offset >= 1545 ORDER BY r.offset LIMIT 3$$);
SELECT pg_temp.same($$SELECT r.offset FROM topic.scan r
	WHERE partition = 0 AND r.offset >= 1998 ORDER BY r.offset LIMIT 5$$);
-- the upper bound ends it
SELECT pg_temp.run($$SELECT * FROM topic.scan r
	WHERE partition = 0 AND r.offset BETWEEN 998 AND 1001 ORDER BY r.offset$$);
SELECT pg_temp.run($$SELECT * FROM topic.scan r WHERE partition = 1 AND r.offset = 500$$);
-- other conditions are a filter
SELECT pg_temp.run($$SELECT * FROM topic.scan r
	WHERE partition = 0 AND r.offset > 100 AND r.offset < 200 AND value LIKE '1_0%'
	ORDER BY r.offset$$);

-- it reads no more than it has to, forward and backward
CREATE FUNCTION pg_temp.blocks(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE plan json;
BEGIN
	EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ' || query INTO plan;
	RETURN (plan -> 0 -> 'Plan' ->> 'Shared Hit Blocks')::bigint
		+ (plan -> 0 -> 'Plan' ->> 'Shared Read Blocks')::bigint;
END $$;
SELECT pg_temp.blocks($$SELECT * FROM topic.scan r
	WHERE partition = 1 AND r.offset BETWEEN 300 AND 303 ORDER BY r.offset$$) BETWEEN 1 AND 8;
SELECT pg_temp.blocks($$SELECT * FROM topic.scan r
	WHERE partition = 1 AND r.offset BETWEEN 700 AND 703 ORDER BY r.offset DESC$$) BETWEEN 1 AND 8;
SELECT pg_temp.blocks($$SELECT * FROM topic.scan r
	WHERE partition = 1 ORDER BY r.offset DESC LIMIT 1$$) BETWEEN 1 AND 3;

-- Backward
SELECT pg_temp.plan($$SELECT * FROM topic.scan r
	WHERE partition = 0 AND r.offset < 1042 ORDER BY r.offset DESC LIMIT 100$$);
SELECT pg_temp.run($$SELECT * FROM topic.scan r
	WHERE partition = 0 AND r.offset <= 1001 ORDER BY r.offset DESC LIMIT 3$$);
SELECT pg_temp.same($$SELECT r.offset FROM topic.scan r
	WHERE partition = 0 AND r.offset <= 1001 AND r.offset >= 997 ORDER BY r.offset DESC$$);
SELECT pg_temp.same($$SELECT r.offset FROM topic.scan r
	WHERE partition = 0 ORDER BY r.offset DESC LIMIT 3$$);

-- An order that begins with the offset
SELECT pg_temp.plan($$SELECT * FROM topic.scan r
	WHERE partition = 0 ORDER BY r.offset, key LIMIT 3$$);
SELECT pg_temp.plan($$SELECT * FROM topic.scan r
	WHERE partition = 0 ORDER BY partition, r.offset LIMIT 3$$);

-- ---------------------------------------------------------------------
-- Which conditions count
-- ---------------------------------------------------------------------
CREATE FUNCTION pg_temp.condition(condition text) RETURNS text LANGUAGE sql AS
$$ SELECT condition || ': ' || coalesce(
		string_agg(DISTINCT substring(line, 'Offset Cond: (.*)'), '; '), 'no offset scan')
	FROM pg_temp.plan('SELECT * FROM topic.scan r WHERE partition = 0 AND ' || condition) line $$;
SELECT pg_temp.condition(c) FROM unnest(ARRAY[
	'r.offset < 10', 'r.offset <= 10', 'r.offset = 10', 'r.offset >= 2400', 'r.offset > 2400',
	'10 > r.offset', '10 >= r.offset', '10 = r.offset', '2400 <= r.offset', '2400 < r.offset',
	'r.offset < 10::smallint', 'r.offset < 10::bigint', '10::smallint > r.offset',
	'r.offset BETWEEN 5 AND 10',
	'r.offset >= 2300 AND NOT r.offset > 2310', 'r.offset < (SELECT 10)',
	'r.offset > length(current_user) + 2300',
	-- these do not
	'r.offset < 10.5', 'r.offset < random() * 10', 'r.offset <> 10', 'r.offset + 1 < 10',
	'(r.offset < 10 OR r.offset > 2400)', 'r.offset < r.partition', 'r.offset < length(value)']) c;
SELECT c || ': ' || pg_temp.same('SELECT r.offset FROM topic.scan r
		WHERE partition = 1 AND ' || c || ' ORDER BY 1')
	FROM unnest(ARRAY[
		'r.offset < 3', 'r.offset <= 3', 'r.offset = 3', 'r.offset >= 1497', 'r.offset > 1497',
		'3 > r.offset', '1497 < r.offset',
		'r.offset BETWEEN 998 AND 1001', 'r.offset > 998 AND r.offset < 1001',
		'r.offset > 5 AND r.offset < 6', 'r.offset > 10 AND r.offset < 5',
		'r.offset < 0', 'r.offset > 1499', 'r.offset < NULL', 'r.offset = NULL::bigint',
		'r.offset > 1497 AND r.offset > NULL',
		'r.offset > 9223372036854775807', 'r.offset < -9223372036854775808',
		'r.offset >= 9223372036854775807', 'r.offset <= -9223372036854775808',
		'r.offset >= -9223372036854775808 AND r.offset < 2',
		'r.offset <= 9223372036854775807 AND r.offset > 1498',
		'r.offset < 3 AND r.offset < 2 AND r.offset <= 7 AND r.offset >= 1',
		'r.offset = 4 AND r.offset = 5', 'r.offset IN (4, 1200)',
		'r.offset < 3 AND r.offset >= (SELECT 1)',
		'r.offset < 3 AND r.offset >= (SELECT NULL::bigint)']) c;

-- ---------------------------------------------------------------------
-- Parameters
-- ---------------------------------------------------------------------
PREPARE from_offset(bigint) AS
	SELECT r.offset FROM topic.scan r
	WHERE partition = 0 AND r.offset >= $1
	ORDER BY r.offset LIMIT 3;
SET plan_cache_mode = force_custom_plan;
SELECT pg_temp.run('EXECUTE from_offset(1500)');
SET plan_cache_mode = force_generic_plan;
SELECT pg_temp.run('EXECUTE from_offset(1500)');
EXECUTE from_offset(1500);
EXECUTE from_offset(0);
EXECUTE from_offset(2498);
EXECUTE from_offset(2500);
EXECUTE from_offset(NULL);
EXECUTE from_offset(-9223372036854775808);
PREPARE in_partition(int, int, int) AS
	SELECT r.partition, r.offset FROM topic.scan r
	WHERE partition = $1 AND r.offset > $2 AND r.offset < $3
	ORDER BY r.offset DESC LIMIT 2;
SELECT pg_temp.run('EXECUTE in_partition(1, 10, 1003)');
EXECUTE in_partition(1, 10, 1003);
EXECUTE in_partition(0, 10, 12);
EXECUTE in_partition(1, 10, 11);
EXECUTE in_partition(3, 10, 1003);
RESET plan_cache_mode;

-- ---------------------------------------------------------------------
-- LATERAL and joins
-- ---------------------------------------------------------------------
CREATE TABLE scan_place (partition int PRIMARY KEY, next_offset bigint NOT NULL);
INSERT INTO scan_place VALUES (0, 1998), (1, 700);
ANALYZE scan_place;
SELECT pg_temp.run($$SELECT *
	FROM scan_place p,
		LATERAL (SELECT r.offset FROM topic.scan r
			WHERE r.partition = p.partition AND r.offset >= p.next_offset ORDER BY r.offset
			LIMIT 3) s$$);
SELECT pg_temp.same($$SELECT *
	FROM scan_place p,
		LATERAL (SELECT r.offset FROM topic.scan r
			WHERE r.partition = p.partition AND r.offset >= p.next_offset ORDER BY r.offset
			LIMIT 3) s$$);
BEGIN;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SELECT pg_temp.run($$SELECT p.partition, r.offset
	FROM scan_place p JOIN topic.scan r ON r.offset = p.next_offset
	WHERE r.partition = 0$$);
COMMIT;
SELECT pg_temp.same($$SELECT p.partition, r.offset
	FROM scan_place p JOIN topic.scan r ON r.partition = p.partition AND r.offset = p.next_offset
	ORDER BY 1$$);
SELECT pg_temp.plan($$SELECT p.partition, r.offset
	FROM scan_place p JOIN topic.scan r ON r.partition = p.partition
		AND r.offset > p.next_offset - 3
		AND r.offset < p.next_offset + 2$$);
SELECT pg_temp.same($$SELECT p.partition, r.offset
	FROM scan_place p JOIN topic.scan r ON r.partition = p.partition
		AND r.offset > p.next_offset - 3
		AND r.offset < p.next_offset + 2
	ORDER BY 1, 2$$);
SELECT pg_temp.same($$SELECT p.partition,
		(SELECT count(*) FROM topic.scan r
			WHERE r.partition = p.partition AND r.offset < p.next_offset)
	FROM scan_place p ORDER BY 1$$);
SELECT pg_temp.same($$SELECT p.partition, r.offset
	FROM scan_place p LEFT JOIN topic.scan r ON r.partition = p.partition
		AND r.offset = p.next_offset + 1000
	ORDER BY 1$$);
-- two logs, merged by their order
SELECT pg_temp.plan($$SELECT * FROM topic.scan a JOIN topic.scan b ON b.offset = a.offset
	WHERE a.partition = 0 AND b.partition = 1 ORDER BY a.offset LIMIT 10$$);
SELECT pg_temp.same($$SELECT a.partition, a.offset, b.partition, b.offset
	FROM topic.scan a JOIN topic.scan b ON b.offset = a.offset
	WHERE a.partition = 0 AND b.partition = 1 AND a.offset > 996 ORDER BY a.offset LIMIT 5$$);

-- ---------------------------------------------------------------------
-- Several partitions, and the ends of the log
-- ---------------------------------------------------------------------
SELECT pg_temp.plan($$SELECT * FROM topic.scan r
	WHERE r.offset >= 1400 ORDER BY r.offset LIMIT 10$$);
SELECT pg_temp.same($$SELECT r.offset, partition FROM topic.scan r
	WHERE r.offset >= 998 ORDER BY r.offset, partition LIMIT 7$$);
SELECT pg_temp.same($$SELECT r.offset, partition FROM topic.scan r
	ORDER BY r.offset DESC, partition LIMIT 3$$);
SELECT pg_temp.run($$SELECT min(r.offset), max(r.offset) FROM topic.scan r WHERE partition = 0$$);
SELECT pg_temp.same($$SELECT min(r.offset), max(r.offset) FROM topic.scan r WHERE partition = 0$$);
SELECT pg_temp.plan($$SELECT max(r.offset) FROM topic.scan r$$);
SELECT pg_temp.same($$SELECT min(r.offset), max(r.offset) FROM topic.scan r$$);
SELECT pg_temp.same($$SELECT min(r.offset) FROM topic.scan r
	WHERE partition = 0 AND r.offset > 1200$$);
SELECT pg_temp.same($$SELECT max(r.offset) FROM topic.scan r
	WHERE partition = 0 AND r.offset < 1200$$);

-- ---------------------------------------------------------------------
-- Where another path is better
-- ---------------------------------------------------------------------
SELECT pg_temp.plan($$SELECT count(*) FROM topic.scan r WHERE partition = 1$$);
SELECT pg_temp.plan($$SELECT * FROM topic.scan r WHERE partition = 1 AND value LIKE '%7%'$$);
SELECT pg_temp.plan($$SELECT * FROM topic.scan r WHERE partition = 1 ORDER BY key LIMIT 1$$);
-- sealed segments are excluded by their BRIN index
SELECT count(*) FROM topic.scan r WHERE r.timestamp < '2020-01-01 00:03' AND partition = 0;
BEGIN;
SET LOCAL enable_seqscan = off;
SELECT pg_temp.plan($$SELECT * FROM topic.scan r
	WHERE r.timestamp < '2020-01-01 00:03' AND partition = 0$$);
COMMIT;
-- switched off, which EXPLAIN (SETTINGS) shows
SET pg_topics.enable_offset_scan = off;
SELECT pg_temp.plan($$SELECT * FROM topic.scan r
	WHERE partition = 1 AND r.offset >= 1400 ORDER BY r.offset LIMIT 3$$, ', SETTINGS');
RESET pg_topics.enable_offset_scan;
-- only segments of topics
CREATE TABLE scan_own ("offset" bigint, t text) USING topic_log;
SELECT pg_temp.plan($$SELECT * FROM scan_own WHERE "offset" > 5 ORDER BY "offset"$$);
DROP TABLE scan_own;

-- ---------------------------------------------------------------------
-- Cursors
-- ---------------------------------------------------------------------
BEGIN;
DECLARE c SCROLL CURSOR FOR
	SELECT r.offset FROM topic.scan r
	WHERE partition = 0 AND r.offset BETWEEN 998 AND 1002
	ORDER BY r.offset;
FETCH 3 c;
FETCH BACKWARD 2 c;
FETCH ALL c;
FETCH 2 c;
FETCH BACKWARD ALL c;
FETCH BACKWARD 2 c;
FETCH ABSOLUTE 4 c;
FETCH LAST c;
FETCH FIRST c;
CLOSE c;
DECLARE c SCROLL CURSOR FOR
	SELECT r.offset FROM topic.scan r
	WHERE partition = 0 AND r.offset BETWEEN 998 AND 1002
	ORDER BY r.offset DESC;
FETCH 3 c;
FETCH BACKWARD 2 c;
FETCH ALL c;
FETCH 2 c;
FETCH BACKWARD ALL c;
FETCH LAST c;
CLOSE c;
COMMIT;

-- back and forth over many blocks, as often as one likes
SELECT topics.create_topic('scan_turn');
INSERT INTO topic.scan_turn (value)
	SELECT (SELECT string_agg(md5(i || ' ' || j), '') FROM generate_series(1, 47) j)
	FROM generate_series(0, 59) i;
BEGIN;
DECLARE c SCROLL CURSOR FOR
	SELECT r.offset FROM topic.scan_turn r WHERE partition = 0 AND r.offset >= 3 ORDER BY r.offset;
DO $$
DECLARE c refcursor := 'c';
BEGIN
	MOVE FORWARD 50 FROM c;
	FOR i IN 1 .. 20 LOOP
		MOVE BACKWARD 30 FROM c;
		MOVE FORWARD 30 FROM c;
	END LOOP;
END $$;
FETCH c;
-- which costs memory, so only with SCROLL
DECLARE d CURSOR FOR
	SELECT r.offset FROM topic.scan_turn r WHERE partition = 0 AND r.offset >= 3 ORDER BY r.offset;
FETCH 2 d;
FETCH BACKWARD d;
COMMIT;
SELECT topics.drop_topic('scan_turn');

-- ---------------------------------------------------------------------
-- EXPLAIN in another form
-- ---------------------------------------------------------------------
SELECT regexp_replace(plan, '\mt\d+(_\w+)?\M', 'tN\1', 'g') FROM (
	SELECT string_agg(line, E'\n') AS plan
	FROM pg_temp.plan($$SELECT r.offset FROM topic.scan r
			WHERE partition = 1 AND r.offset >= 1498 ORDER BY r.offset$$,
		', ANALYZE, BUFFERS OFF, TIMING OFF, SUMMARY OFF, FORMAT YAML') line) p;
SELECT pg_temp.plan($$SELECT r.offset FROM topic.scan r
	WHERE partition = 1 AND r.offset >= 1498 ORDER BY r.offset$$, ', VERBOSE');

-- ---------------------------------------------------------------------
-- In parallel
-- ---------------------------------------------------------------------
SET max_parallel_workers_per_gather = 2;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SELECT pg_temp.plan($$SELECT count(*) FROM topic.scan r
	WHERE partition = 0 AND r.offset >= 500 AND r.offset < 900$$);
SELECT pg_temp.same($$SELECT count(*), sum(r.offset), min(value) FROM topic.scan r
	WHERE partition = 0 AND r.offset >= 500 AND r.offset < 900$$);
SELECT pg_temp.same($$SELECT count(*), sum(r.offset), min(value) FROM topic.scan r
	WHERE partition = 0 AND r.offset >= 500 AND r.offset < 2300$$);
SELECT pg_temp.same($$SELECT count(*), sum(r.offset), min(value) FROM topic.scan r
	WHERE r.offset >= 500 AND r.offset < 2300$$);
SELECT pg_temp.same($$SELECT count(*), sum(r.offset), min(value) FROM topic.scan r
	WHERE partition = 1 AND r.offset >= (SELECT 1490)$$);
SELECT pg_temp.same($$SELECT count(*) FROM topic.scan r WHERE partition = 0 AND r.offset >= NULL$$);
-- processes take turns, and each block is read once
SELECT topics.create_topic('scan_large');
SELECT topics.produce_batch('scan_large', array_agg(i::text || repeat('x', 90)))
	FROM generate_series(0, 19999) i;
SELECT pg_temp.plan($$SELECT count(*) FROM topic.scan_large r
	WHERE r.offset >= 500 AND r.offset < 15000$$);
SELECT pg_temp.same($$SELECT count(*), sum(r.offset) FROM topic.scan_large r
	WHERE r.offset >= 500 AND r.offset < 15000$$);
SELECT pg_temp.same($$SELECT count(*), sum(r.offset) FROM topic.scan_large r
	WHERE r.offset >= 500$$);
SELECT topics.drop_topic('scan_large');
RESET max_parallel_workers_per_gather;
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;

-- ---------------------------------------------------------------------
-- Limits
-- ---------------------------------------------------------------------
SELECT pg_temp.try('SELECT * FROM topic.scan r
	WHERE partition = 0 AND r.offset >= 42 ORDER BY r.offset LIMIT 1 FOR UPDATE');
SELECT pg_temp.same($$SELECT r.offset FROM topic.scan r, scan_place p
	WHERE r.partition = 0 AND r.offset >= 42 AND p.partition = 0
	ORDER BY r.offset LIMIT 2 FOR UPDATE OF p$$);

SELECT topics.drop_topic('scan');
DROP TABLE scan_place;
