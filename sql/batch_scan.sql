-- SELECT ... FROM topics.poll(...) and topics.consume(...): the function is called
-- once, as by PostgreSQL's own plan node, and gives the same records.
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup
\set VERBOSITY terse
SELECT topics.create_topic('batch_scan', 2);
SELECT count(topics.produce('batch_scan', format('value %s', repeat('x', i % 50)), key => i::text,
	partition => i % 2))
	FROM generate_series(1, 2000) i;
SELECT count(topics.produce('batch_scan', NULL, key => 'null', headers => '{"h": "1"}', partition
	=> i % 2))
	FROM generate_series(1, 10) i;
-- out of line
SELECT topics.produce('batch_scan', string_agg(md5(i::text), ''), partition => 0) IS NOT NULL AS
	produced
	FROM generate_series(1, 1000) i;
SELECT member_id AS m FROM topics.join_group('batch_scan', ARRAY['batch_scan']) \gset
SELECT set_config('batch_scan.m', :'m', false) IS NOT NULL AS set;
CREATE FUNCTION m() RETURNS text STABLE LANGUAGE sql AS $$
	SELECT current_setting('batch_scan.m') $$;

-- alone in FROM, and beside others
CREATE FUNCTION plan(sql text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS off) ' || sql LOOP
		RETURN NEXT regexp_replace(line, 'SubPlan \S+', 'SubPlan');
	END LOOP;
END $$;
SELECT plan($$ SELECT * FROM topics.poll('m') $$);
SELECT plan($$ SELECT "offset" FROM topics.poll_bytea('m', 5) p WHERE p.offset % 2 = 0
	ORDER BY value LIMIT 3 $$);
SELECT plan($$ SELECT * FROM topics.consume('g', 'batch_scan') $$);
SELECT plan($$ SELECT * FROM topics.consume_bytea('g', 'batch_scan') $$);
SELECT plan($$ SELECT * FROM topics.poll((SELECT 'm'::text)) $$) LIMIT 1;
SELECT count(*) FILTER (WHERE plan LIKE '%(Batch Scan)%') AS scans
	FROM plan($$ SELECT * FROM topics.poll('m') p, topics.topic t WHERE t.topic = p.topic $$);
SELECT plan($$ SELECT (SELECT count(*) FROM topics.poll('m', i)) FROM generate_series(1, 2) i $$);
-- not beside what its arguments come from, whole, numbered, or where rows are checked again
SELECT count(*) FILTER (WHERE plan LIKE '%(Batch Scan)%') AS scans
	FROM plan($$ SELECT * FROM generate_series(1, 2) i, topics.poll('m', i) $$);
SELECT plan($$ SELECT p FROM topics.poll('m') p $$);
SELECT plan($$ SELECT * FROM topics.poll('m') WITH ORDINALITY $$);
SELECT plan($$ SELECT * FROM ROWS FROM (topics.poll('m'), topics.poll('m')) p $$);
SELECT plan($$ SELECT topics.poll('m') $$);
SELECT count(*) FILTER (WHERE plan LIKE '%(Batch Scan)%') AS scans
	FROM plan($$ SELECT (SELECT count(*)
			FROM topics.poll('m', CASE WHEN 1 IN (SELECT partitions - i
	FROM topics.topic) THEN 1 ELSE 2 END))
		FROM generate_series(1, 2) i $$);
CREATE TABLE target (id bigint, value text);
SELECT count(*) FILTER (WHERE plan LIKE '%(Batch Scan)%') AS scans
	FROM plan($$ UPDATE target t SET value = p.value FROM topics.poll('m') p
	WHERE t.id = p.offset $$);
BEGIN;
SET LOCAL pg_topics.enable_offset_scan = off;
SELECT plan($$ SELECT * FROM topics.poll('m') $$);
COMMIT;

-- the same records, whatever the limits, in memory or in a file
CREATE FUNCTION rewind(member_id text) RETURNS void LANGUAGE sql AS $$
	SELECT topics.seek(member_id, 'batch_scan', 0, 3);
	SELECT topics.seek(member_id, 'batch_scan', 1, 7) $$;
CREATE FUNCTION polled(records int, bytes int) RETURNS text LANGUAGE sql AS $$
	SELECT rewind(m());
	SELECT concat_ws(' ', count(*), count(DISTINCT partition), max(topic), max(generation_id),
	sum(p.offset),
		md5(string_agg(format('%s %s %s %s %s %s', partition, p.offset, "timestamp", key, value,
	headers), ',' ORDER BY partition, p.offset)))
	FROM topics.poll(m(), records, bytes) p $$;
-- in the order in which they come: nothing here makes the server sort them
CREATE FUNCTION polled_bytea(records int, bytes int) RETURNS text LANGUAGE sql AS $$
	SELECT rewind(m());
	SELECT concat_ws(' ', count(*),
		md5(string_agg(format('%s %s %s %s %s %s', partition, p.offset, "timestamp", key, value,
	headers), ',')))
	FROM topics.poll_bytea(m(), records, bytes) p $$;
CREATE FUNCTION all_ways(records int, bytes int) RETURNS TABLE (as_text text, as_bytes text)
	LANGUAGE plpgsql AS $$
BEGIN
	-- each time another plan: the settings of now
	EXECUTE 'DISCARD PLANS';
	RETURN QUERY SELECT polled(records, bytes), polled_bytea(records, bytes);
END $$;
SELECT count(*) AS polled FROM topics.poll(m(), 1);
CREATE TABLE ways AS
	SELECT records, bytes, w.*
	FROM unnest('{1,2,999,5000}'::int[]) records, unnest('{1,100,10000000}'::int[]) bytes,
		all_ways(records, bytes) w;
SET pg_topics.enable_offset_scan = off;
CREATE TABLE by_function AS SELECT records, bytes, w.* FROM ways o, all_ways(o.records, o.bytes) w;
RESET pg_topics.enable_offset_scan;
SET work_mem = '64kB';
CREATE TABLE in_file AS SELECT records, bytes, w.* FROM ways o, all_ways(o.records, o.bytes) w;
RESET work_mem;
SELECT count(*) FROM ways;
SELECT count(*) AS differ FROM ways JOIN by_function f USING (records, bytes)
	JOIN in_file i USING (records, bytes)
	WHERE (ways.as_text, ways.as_bytes) <> (f.as_text, f.as_bytes) OR (ways.as_text,
	ways.as_bytes) <> (i.as_text, i.as_bytes);
SELECT split_part(as_text, ' ', 1) AS records, split_part(as_text, ' ', 2) AS partitions,
	split_part(as_bytes, ' ', 1) AS as_bytes
	FROM ways WHERE records = 5000 AND bytes = 10000000;
DROP TABLE ways, by_function, in_file;

-- EXPLAIN takes nothing, nor does a query that asks for no row; one that asks for one takes all
CREATE FUNCTION at() RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(a.position::text, ' ' ORDER BY partition) FROM topics.assignment(m()) a $$;
SELECT rewind(:'m');
EXPLAIN (COSTS off) SELECT "offset" FROM topics.poll(m(), 10);
SELECT "offset" FROM topics.poll(:'m', 10) LIMIT 0;
SELECT at();
SELECT count(*) FROM (SELECT FROM topics.poll(:'m', 10) LIMIT 1) p;
SELECT at() IN ('13 7', '3 17') AS all_are_taken;
-- also if it fails behind them, or is rolled back
SELECT rewind(:'m');
SELECT 1 / (p.offset - p.offset) AS failed FROM topics.poll(:'m', 10) p;
SELECT at() IN ('13 7', '3 17') AS all_are_taken;
-- limits, rights and members are checked as by the function
BEGIN READ ONLY;
SELECT "offset" FROM topics.poll(:'m', 10);
ROLLBACK;
SELECT "offset" FROM topics.poll(:'m', 0);
SELECT "offset" FROM topics.poll(NULL);
SELECT "offset" FROM topics.poll('nobody');

-- a cursor takes its batch when it is first read, and can go back
SELECT topics.pause(:'m', 'batch_scan', 1);
SELECT rewind(:'m');
BEGIN;
DECLARE c CURSOR FOR SELECT "offset" FROM topics.poll(m(), 4);
DECLARE s SCROLL CURSOR FOR SELECT "offset" FROM topics.poll(m(), 4);
DECLARE h CURSOR WITH HOLD FOR SELECT "offset" FROM topics.poll(m(), 4);
SELECT at();
FETCH 2 FROM c;
SELECT at();
FETCH 2 FROM s;
FETCH BACKWARD 1 FROM s;
FETCH 2 FROM h;
SELECT at();
FETCH 3 FROM c;
FETCH 3 FROM c;
FETCH ALL FROM s;
MOVE ABSOLUTE 1 FROM s;
FETCH FROM s;
COMMIT;
FETCH ALL FROM h;
CLOSE h;
SELECT at();

-- in a join it is called once, and read again
SELECT rewind(:'m');
BEGIN;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SET LOCAL enable_material = off;
CREATE TEMP TABLE three (i) ON COMMIT DROP AS SELECT generate_series(1, 3);
ANALYZE three;
SELECT i, array_agg(p.offset ORDER BY p.offset) FROM three LEFT
	JOIN topics.poll(m(), 3) p ON p.offset > i + 2 GROUP BY i ORDER BY i;
SELECT at();
-- a subquery of each row: again, but where arguments change
SELECT i, (SELECT array_agg(p.offset ORDER BY p.offset) FROM topics.poll(m(), 3) p
	WHERE p.offset > i + 5) FROM three ORDER BY i;
SELECT at();
SELECT i, (SELECT array_agg(p.offset ORDER BY p.offset) FROM topics.poll(m(), i) p) FROM three
	ORDER BY i;
SELECT at();
SELECT i, (SELECT array_agg(p.offset ORDER BY p.offset)
		FROM topics.poll(m(), (SELECT count(*)::int FROM three t WHERE t.i <= three.i)) p)
	FROM three ORDER BY i;
SELECT at();
-- the same of a batch in a file
SET LOCAL work_mem = '64kB';
SELECT i, (SELECT count(*) FROM topics.poll(m(), 900) p WHERE p.offset > i + 20) FROM three
	ORDER BY i;
SELECT at();
ROLLBACK;

-- two in one statement, one after the other
SELECT rewind(:'m');
SELECT array_agg("offset" ORDER BY "offset") FROM
	(SELECT "offset" FROM topics.poll(m(), 3) UNION ALL SELECT "offset"
	FROM topics.poll_bytea(m(), 2)) p;
WITH a AS MATERIALIZED (SELECT "offset"
	FROM topics.poll(m(), 2)), b AS MATERIALIZED (SELECT "offset" FROM topics.poll(m(), 2))
	SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b), at() AS before, (SELECT count(*)
	FROM a JOIN b USING ("offset")) AS in_both;
SELECT at();

-- prepared, and in PL/pgSQL, where each row may call for the member
PREPARE p(text, int) AS SELECT "offset" FROM topics.poll($1, $2);
EXECUTE p(:'m', 1);
SET plan_cache_mode = force_generic_plan;
EXECUTE p(:'m', 2);
EXECUTE p(:'m', NULL);
EXECUTE p('nobody', 1);
RESET plan_cache_mode;
CREATE FUNCTION work() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	r record;
	done text := '';
BEGIN
	FOR r IN SELECT * FROM topics.poll(m(), 60) LOOP
		IF r.offset = 20 THEN
			PERFORM topics.seek(m(), r.topic, r.partition, r.offset);
			EXIT;
		END IF;
		done := done || r.offset || ' ';
	END LOOP;
	RETURN done || 'at ' || at();
END $$;
SELECT work();
INSERT INTO target SELECT p.offset, value FROM topics.poll(m(), 5) p;
SELECT count(*), min(id), max(id) FROM target;

-- consume: the offset moves behind the batch, with the transaction
CREATE FUNCTION consumed() RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(current_offset::text, ' ' ORDER BY partition) FROM topics.consumer_lag
	WHERE group_id = 'batch_consume' $$;
BEGIN;
SELECT count(*) FROM (SELECT FROM topics.consume('batch_consume', 'batch_scan', 10) LIMIT 1) c;
SELECT count(*), min(c.offset) FROM topics.consume('batch_consume', 'batch_scan', 5) c;
COMMIT;
SELECT consumed();
BEGIN;
SELECT count(*) FROM topics.consume_bytea('batch_consume', 'batch_scan', 5);
ROLLBACK;
SELECT consumed();
BEGIN;
DECLARE c CURSOR FOR SELECT partition, "offset"
	FROM topics.consume('batch_consume', 'batch_scan', 3);
FETCH 1 FROM c;
SAVEPOINT s;
SELECT partition, "offset" FROM topics.consume('batch_consume', 'batch_scan', 1);
ROLLBACK TO s;
FETCH 5 FROM c;
COMMIT;
SELECT consumed();

-- a right is needed to call it, and a plan does not outlive the function
CREATE ROLE batch_reader;
GRANT USAGE ON SCHEMA topics TO batch_reader;
SET ROLE batch_reader;
SELECT "offset" FROM topics.poll(:'m');
SELECT "offset" FROM topics.consume('batch_consume', 'batch_scan');
RESET ROLE;
GRANT EXECUTE ON FUNCTION topics.poll(text, integer, integer, interval) TO batch_reader;
SET ROLE batch_reader;
\set VERBOSITY sqlstate
SELECT "offset" FROM topics.poll(:'m');
\set VERBOSITY terse
RESET ROLE;
BEGIN;
ALTER FUNCTION topics.poll(text, integer, integer, interval) RENAME TO poll_renamed;
EXECUTE p(:'m', 1);
ROLLBACK;

DEALLOCATE p;
DROP TABLE target;
DROP FUNCTION m(), at(), plan(text), rewind(text), polled(int, int), polled_bytea(int, int),
	all_ways(int, int), work(), consumed();
SELECT topics.leave_group(:'m');
SELECT topics.drop_topic('batch_scan');
DROP OWNED BY batch_reader;
DROP ROLE batch_reader;
