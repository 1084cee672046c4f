-- retention: records leave a partition by time, by bytes and by
-- delete_records; what is hidden, what is dropped, and what stays
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup

-- What a topic shows by every way of reading; the ways must agree.
CREATE FUNCTION pg_temp.shown(topic text, partition int DEFAULT 0)
	RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	plan text; first bigint; last bigint; n bigint; result text; other text; start bigint;
BEGIN
	SELECT p.log_start_offset INTO start
		FROM topics.partition p
		WHERE p.topic = $1 AND p.partition = $2;
	SELECT start || ': ' || concat_ws(' to ', min(f.offset), max(f.offset)) || ', ' || count(*)
		INTO result
		FROM topics.fetch(topic, partition, start, 100000, 100000000) f;
	FOREACH plan IN ARRAY ARRAY['seqscan', 'bitmapscan', 'tidscan'] LOOP
		PERFORM
			set_config('enable_seqscan', CASE plan WHEN 'seqscan' THEN 'on' ELSE 'off' END, true),
			set_config('enable_bitmapscan',
				CASE plan WHEN 'bitmapscan' THEN 'on' ELSE 'off' END, true);
		EXECUTE format('
			SELECT %s || %L || concat_ws(%L, min(r.offset), max(r.offset)) || %L || count(*)
			FROM %s r WHERE partition = %s AND "offset" >= 0 %s', start, ': ', ' to ', ', ',
			CASE plan WHEN 'tidscan' THEN pg_temp.log_table(topic)
				ELSE format('topic.%I', topic) END, partition,
			CASE plan WHEN 'tidscan' THEN 'AND ctid >= ''(0,0)''' ELSE '' END) INTO other;
		IF other <> result THEN result := result || ', BUT BY ' || plan || ' ' || other; END IF;
	END LOOP;
	EXECUTE format('
		SELECT %s || %L || concat_ws(%L, min(r.offset), max(r.offset)) || %L || count(*)
		FROM %s r TABLESAMPLE system (100) WHERE partition = %s',
		start, ': ', ' to ', ', ', pg_temp.log_table(topic), partition) INTO other;
	IF other <> result THEN result := result || ', BUT BY sample ' || other; END IF;
	RETURN result;
END $$;
CREATE VIEW kept AS
	SELECT topic, partition, base_offset, log_start_offset, log_end_offset, state
	FROM topics.segment
	WHERE state <> 'spare'
	ORDER BY 1, 2, 3;

-- Maintains until the log starts where it should and nothing waits to be
-- dropped: the worker may be at it as well.
CREATE PROCEDURE settle(name text, start bigint, partition int DEFAULT 0) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 1000 LOOP
		CALL topics.maintain(name);
		EXIT WHEN NOT EXISTS (SELECT FROM topics.segment s
				WHERE s.topic = name AND s.partition = $3 AND state = 'deleted')
			AND start = (SELECT p.log_start_offset FROM topics.partition p
				WHERE p.topic = name AND p.partition = $3);
	END LOOP;
END $$;

-- Four segments of 100 records, i hours old
CREATE PROCEDURE fill(name text, partition int DEFAULT 0, ages int[] DEFAULT '{40,30,20,10}')
	LANGUAGE plpgsql AS $$
DECLARE age int;
BEGIN
	FOREACH age IN ARRAY ages LOOP
		PERFORM topics.produce(name, i || repeat('x', 100), 'k', partition => $2,
				create_time => now() - age * interval '1 h')
			FROM generate_series(1, 100) i;
		COMMIT;
		CALL topics.roll_segment(name, $2);
	END LOOP;
END $$;

-- ---------------------------------------------------------------------
-- delete_records
-- ---------------------------------------------------------------------
SELECT topics.create_topic('retention_hand', 2);
CALL fill('retention_hand');
SELECT pg_temp.shown('retention_hand');
-- inside a segment, lower, the same, a bit higher
SELECT topics.delete_records('retention_hand', 0, 150);
SELECT topics.delete_records('retention_hand', 0, 120),
	topics.delete_records('retention_hand', 0, 0),
	topics.delete_records('retention_hand', 0, 150);
SELECT pg_temp.shown('retention_hand');
SELECT topics.delete_records('retention_hand', before_offset => 151, partition => 0);
SELECT pg_temp.shown('retention_hand');
SELECT o.offset FROM topics.list_offsets('retention_hand', 'earliest') o;
SELECT o.offset FROM topics.list_offsets('retention_hand', now() - interval '100 h') o;
SELECT pg_temp.try($$SELECT * FROM topics.fetch('retention_hand', 0, 150)$$);
-- the segment below goes, the one that is partly below stays
CALL settle('retention_hand', 151);
SELECT * FROM kept WHERE topic = 'retention_hand';
SELECT pg_temp.shown('retention_hand');
-- transactional
BEGIN;
SELECT topics.delete_records('retention_hand', 0, 200);
SAVEPOINT s;
SELECT topics.delete_records('retention_hand', 0, 300);
ROLLBACK TO s;
COMMIT;
SELECT pg_temp.shown('retention_hand');
BEGIN;
SELECT topics.delete_records('retention_hand', 0, 250);
ROLLBACK;
SELECT pg_temp.shown('retention_hand');
BEGIN;
SAVEPOINT s;
SELECT topics.delete_records('retention_hand', 0, 250);
RELEASE s;
COMMIT;
SELECT pg_temp.shown('retention_hand');
BEGIN;
SELECT topics.delete_records('retention_hand', 0, 260);
PREPARE TRANSACTION 'retention';
ROLLBACK;
SELECT pg_temp.shown('retention_hand');
-- all of it; the offsets go on
SELECT topics.delete_records('retention_hand', 0, -1);
SELECT pg_temp.shown('retention_hand');
CALL settle('retention_hand', 400);
SELECT * FROM kept WHERE topic = 'retention_hand';
SELECT count(*) FROM topic_log.segment s JOIN topics.topic t USING (topic_id)
	WHERE t.topic = 'retention_hand';
CALL topics.send('retention_hand', 'next', partition => 0);
-- also of a tail, which is cut
SELECT topics.delete_records('retention_hand', 0, 401);
CALL settle('retention_hand', 401);
SELECT * FROM kept WHERE topic = 'retention_hand';
CALL topics.send('retention_hand', 'next', partition => 0);
SELECT pg_temp.shown('retention_hand');
-- bad arguments, rights
SELECT a, pg_temp.try(format('SELECT topics.delete_records(%s)', a))
	FROM unnest(ARRAY[$$'retention_hand', 0, 403$$, $$'retention_hand', 0, -2$$,
		$$'retention_hand', 2, 0$$,
		$$'retention_hand', -1, 0$$, $$'retention_hand', 1, 1$$, $$'retention_none', 0, 0$$,
		$$NULL, 0, 0$$, $$'retention_hand', NULL, 0$$, $$'retention_hand', 0, NULL$$,
		$$'retention_hand', 0, 9223372036854775807$$,
		$$'retention_hand', 0, '-9223372036854775808'$$]) a;
BEGIN READ ONLY;
SELECT topics.delete_records('retention_hand', 0, 402);
ROLLBACK;
CREATE ROLE regress_retention;
GRANT USAGE ON SCHEMA topics, topic TO regress_retention;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA topics TO regress_retention;
GRANT ALL ON topic.retention_hand TO regress_retention;
SET ROLE regress_retention;
SELECT topics.delete_records('retention_hand', 0, -1);
RESET ROLE;
DROP OWNED BY regress_retention;
DROP ROLE regress_retention;

-- ---------------------------------------------------------------------
-- By time
-- ---------------------------------------------------------------------
SELECT topics.create_topic('retention_time', 2, retention_time => '-1 s');
CALL fill('retention_time');
CALL fill('retention_time', 1, '{10,40,20,30}');
CALL topics.maintain('retention_time');
SELECT pg_temp.shown('retention_time'), pg_temp.shown('retention_time', 1);
SELECT topics.alter_topic('retention_time', retention_time => '1000000 years');
CALL topics.maintain('retention_time');
SELECT topics.alter_topic('retention_time', retention_time => '25 h');
CALL settle('retention_time', 200);
-- out of order: only from the lower end
SELECT pg_temp.shown('retention_time'), pg_temp.shown('retention_time', 1);
-- policy "compact" deletes nothing
SELECT topics.alter_topic('retention_time', retention_time => '0', cleanup_policy => 'compact',
	min_compaction_lag_time => '1000 days');
CALL topics.maintain('retention_time');
SELECT pg_temp.shown('retention_time'), pg_temp.shown('retention_time', 1);
SELECT topics.alter_topic('retention_time', retention_time => '9 h',
	cleanup_policy => 'compact,delete');
CALL settle('retention_time', 400);
CALL settle('retention_time', 400, 1);
SELECT * FROM kept WHERE topic = 'retention_time';
-- one record holds its segment: not row by row
SELECT topics.create_topic('retention_one', retention_time => '25 h');
SELECT count(topics.produce('retention_one', i::text,
		create_time => now() - CASE i WHEN 50 THEN 24 ELSE 26 END * interval '1 h'))
	FROM generate_series(1, 100) i;
CALL topics.maintain('retention_one');
SELECT pg_temp.shown('retention_one');
CALL topics.roll_segment('retention_one');
SELECT pg_temp.shown('retention_one');
SELECT topics.alter_topic('retention_one', retention_time => '23 h');
CALL settle('retention_one', 100);
SELECT pg_temp.shown('retention_one');
-- a quiet tail expires: it is cut first
SELECT count(topics.produce('retention_one', i::text, create_time => now() - interval '26 h'))
	FROM generate_series(1, 100) i;
CALL settle('retention_one', 200);
SELECT pg_temp.shown('retention_one');
-- a tail with a timestamp in the future is not deleted early; when its seal is old, it goes
SELECT topics.create_topic('retention_future', retention_time => '1 h');
SELECT count(topics.produce('retention_future', i::text,
		create_time => now() + (i - 2) * interval '100 years'))
	FROM generate_series(1, 2) i;
CALL topics.maintain('retention_future');
SELECT pg_temp.shown('retention_future');
CALL topics.roll_segment('retention_future');
SELECT pg_temp.shown('retention_future');
UPDATE topic_log.segment s SET sealed_at = sealed_at - interval '59 min'
	FROM topics.topic t
	WHERE t.topic = 'retention_future' AND t.topic_id = s.topic_id;
CALL topics.maintain('retention_future');
SELECT pg_temp.shown('retention_future');
UPDATE topic_log.segment s SET sealed_at = sealed_at - interval '2 min'
	FROM topics.topic t
	WHERE t.topic = 'retention_future' AND t.topic_id = s.topic_id;
CALL settle('retention_future', 2);
SELECT pg_temp.shown('retention_future');

-- any time is one: of the beginning of PostgreSQL's, and before; and any setting
SELECT topics.create_topic('retention_epoch', retention_time => '100 years');
SELECT topics.produce('retention_epoch', 'x', create_time => '2000-01-01 00:00:00+00'),
	topics.produce('retention_epoch', 'y');
CALL topics.roll_segment('retention_epoch');
CALL topics.maintain('retention_epoch');
SELECT pg_temp.shown('retention_epoch');
SELECT topics.produce('retention_epoch', 'z', create_time => '2000-01-01 00:00:00+00');
CALL topics.maintain('retention_epoch');
SELECT pg_temp.shown('retention_epoch');
SELECT topics.alter_topic('retention_epoch', retention_time => '1000000 years');
CALL topics.maintain('retention_epoch');
SELECT pg_temp.shown('retention_epoch');
SELECT topics.drop_topic('retention_epoch');

-- ---------------------------------------------------------------------
-- By bytes
-- ---------------------------------------------------------------------
SELECT topics.create_topic('retention_bytes', retention_time => '-1 s');
CALL fill('retention_bytes');
SELECT sum(size_bytes) AS total, min(size_bytes) FILTER (WHERE base_offset = 0) AS lowest
	FROM topics.segment
	WHERE topic = 'retention_bytes' AND state <> 'spare' \gset
-- without the lowest there would be less than this
SELECT topics.alter_topic('retention_bytes', retention_bytes => :total - :lowest + 1);
CALL topics.maintain('retention_bytes');
SELECT pg_temp.shown('retention_bytes');
SELECT topics.alter_topic('retention_bytes', retention_bytes => :total - :lowest);
CALL settle('retention_bytes', 100);
SELECT pg_temp.shown('retention_bytes');
SELECT topics.alter_topic('retention_bytes', retention_bytes => 0);
SELECT topics.produce('retention_bytes', 'tail');
CALL settle('retention_bytes', 400);
SELECT * FROM kept WHERE topic = 'retention_bytes';
SELECT pg_temp.shown('retention_bytes');

-- Bytes out of line count, where a segment is cut and in what is kept
CREATE FUNCTION pg_temp.wide(bytes int, seed int) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(md5((seed * 1000 + i)::text), '') FROM generate_series(1, bytes / 32) i $$;
SELECT topics.create_topic('retention_wide', segment_bytes => 131072, retention_bytes => 524288,
	retention_time => '-1 s');
DO $$ BEGIN
	FOR i IN 1 .. 40 LOOP
		PERFORM topics.produce('retention_wide', pg_temp.wide(16000, i * 10 + j))
			FROM generate_series(1, 4) j;
		COMMIT;
		CALL topics.maintain('retention_wide');
	END LOOP;
END $$;
SELECT sum(size_bytes) BETWEEN 524288 AND 524288 + 3 * 131072 AS kept,
		max(size_bytes) < 2 * 131072 + 65536 AS cut
	FROM topics.segment
	WHERE topic = 'retention_wide' AND state <> 'deleted';

SELECT topics.drop_topic(topic) FROM topics.topic WHERE topic ~ '^retention_';
SELECT count(*) FROM topic_log.segment s
	WHERE NOT EXISTS (SELECT FROM topic_log.topic t WHERE t.topic_id = s.topic_id);
DROP VIEW kept;
DROP PROCEDURE fill, settle;
