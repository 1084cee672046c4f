-- list_offsets: the ends of the log, and offsets by time
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup

SELECT topics.create_topic('list_topic', 3, retention_time => '-1 s');
SELECT * FROM topics.list_offsets('list_topic', 'earliest');
SELECT * FROM topics.list_offsets('list_topic', 'latest');
SELECT * FROM topics.list_offsets('list_topic', timestamptz '2020-01-01');
SELECT topics.produce('list_topic', 'a', partition => 0, create_time => '2020-01-01'),
	topics.produce('list_topic', 'b', partition => 0, create_time => '2020-01-03'),
	topics.produce('list_topic', 'c', partition => 0, create_time => '2020-01-02'),
	topics.produce('list_topic', 'd', partition => 2, create_time => '2021-01-01');
SELECT * FROM topics.list_offsets('list_topic', 'earliest');
SELECT * FROM topics.list_offsets('list_topic', 'latest');
-- the first offset whose timestamp is not before it, not the first that is after
SELECT t, o.*
	FROM unnest(ARRAY['-infinity', '2020-01-01', '2020-01-01 00:00:00.000001', '2020-01-02',
			'2020-01-03', '2020-01-03 00:00:00.000001', '2021-01-01', 'infinity']::timestamptz[])
			WITH ORDINALITY t (t, n),
		topics.list_offsets('list_topic', t) o
	WHERE partition <> 1
	ORDER BY n, partition;
-- produced, not committed
BEGIN;
SELECT topics.produce('list_topic', 'e', partition => 1, create_time => '2022-01-01');
SELECT * FROM topics.list_offsets('list_topic', 'latest') WHERE partition = 1;
ROLLBACK;
SELECT * FROM topics.list_offsets('list_topic', 'latest') WHERE partition = 1;

SELECT a, pg_temp.try(format('SELECT * FROM topics.list_offsets(%s)', a))
	FROM unnest(ARRAY[$$'list_topic', 'EARLIEST'$$, $$'list_topic', ''$$,
		$$'list_topic', '2020-01-01'$$, $$'list_topic', NULL$$, $$'list_topic', NULL::timestamptz$$,
		$$NULL, 'latest'$$, $$'list_nosuch', 'latest'$$, $$'list_nosuch', now()$$]) a;

-- ---------------------------------------------------------------------
-- By time, over several segments, with times out of order and the same time
-- many times: for each time around those there are, what a full read finds
-- ---------------------------------------------------------------------
CREATE FUNCTION pg_temp.wrong(topic text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE result bigint;
BEGIN
	EXECUTE format($q$
		WITH r AS MATERIALIZED (SELECT partition, "offset", "timestamp" FROM topic.%1$I),
			t AS (SELECT DISTINCT "timestamp" + d * interval '1 us' AS at
				FROM r, generate_series(-1, 1) d)
		SELECT count(*) FROM t, topics.list_offsets(%1$L, at) o
		WHERE o.offset <> coalesce(
				(SELECT min(r.offset) FROM r WHERE r.partition = o.partition AND r.timestamp >= at),
				(SELECT max(r.offset) + 1 FROM r WHERE r.partition = o.partition), 0)
			OR o.timestamp IS DISTINCT FROM (SELECT r.timestamp FROM r
				WHERE r.partition = o.partition AND r.offset = o.offset)$q$, topic) INTO result;
	RETURN result;
END $$;
SELECT topics.create_topic('list_time', 2, retention_time => '-1 s');
DO $$
BEGIN
	FOR s IN 0 .. 4 LOOP
		PERFORM topics.produce('list_time', 'v', partition => i % 2,
				create_time => '2020-01-01'::timestamptz
					+ (s * 10 + i * 7919 % 40) * interval '1 h')
			FROM generate_series(1, 60) i;
		COMMIT;
		IF s < 4 THEN CALL topics.roll_segment('list_time'); END IF;
	END LOOP;
END $$;
SELECT partition, count(*) FILTER (WHERE state = 'sealed'), count(*) FILTER (WHERE state = 'active')
	FROM topics.segment
	WHERE topic = 'list_time'
	GROUP BY 1 ORDER BY 1;
SELECT pg_temp.wrong('list_time');
-- whatever the session's settings
SET enable_bitmapscan = off; SET enable_tidscan = off;
SELECT pg_temp.wrong('list_time');
SET enable_seqscan = off;
SELECT pg_temp.wrong('list_time');
RESET enable_bitmapscan; RESET enable_tidscan; RESET enable_seqscan;
-- an index of one's own on a sealed segment, in another order
SELECT pg_temp.log_table('list_time', '_p0_s1') AS s1,
	pg_temp.log_table('list_time', '_p0_s2') AS s2 \gset
CREATE INDEX ON :s1 ("timestamp");
CREATE INDEX ON :s2 ("timestamp" DESC, "offset" DESC);
SELECT pg_temp.wrong('list_time');
-- many blocks: BRIN ranges, and a late time at the very end
SELECT topics.create_topic('list_large', retention_time => '-1 s');
SELECT topics.produce_batch('list_large', array_agg(repeat('x', 500)),
		create_times => array_agg('2020-01-01'::timestamptz + (i + i % 100 * 50) * interval '1 s'))
	FROM generate_series(1, 20000) i;
CALL topics.roll_segment('list_large');
SELECT topics.produce('list_large', 'early', create_time => '2019-01-01'),
	topics.produce('list_large', 'late', create_time => '2030-01-01');
SELECT count(*)
	FROM generate_series(0, 26000, 1000) s,
		topics.list_offsets('list_large', '2020-01-01'::timestamptz + s * interval '1 s') o
	WHERE o.offset <> (SELECT min(r.offset) FROM topic.list_large r
		WHERE r.timestamp >= '2020-01-01'::timestamptz + s * interval '1 s');
SELECT * FROM topics.list_offsets('list_large', 'latest');

-- LogAppendTime: the same, with rising times
SELECT topics.create_topic('list_append', timestamp_type => 'LogAppendTime');
DO $$ BEGIN
	FOR i IN 1 .. 20 LOOP
		PERFORM topics.produce('list_append', 'v') FROM generate_series(1, 3);
		COMMIT;
	END LOOP;
	CALL topics.roll_segment('list_append');
END $$;
SELECT pg_temp.wrong('list_append');

SELECT topics.drop_topic('list_' || t) FROM unnest(ARRAY['topic', 'time', 'large', 'append']) t;
