-- batch: many records in one call
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup

SELECT topics.create_topic('batch_text', retention_time => '-1 s'),
	topics.create_topic('batch_bytea', 2, 'bytea', 'bytea'),
	topics.create_topic('batch_jsonb', 3, 'int8', 'jsonb');

-- the arrays go together; NULL arrays and NULL elements
SELECT topics.produce_batch('batch_text', ARRAY['a', 'b']);
SELECT topics.produce_batch('batch_text', ARRAY['c', NULL, ''], ARRAY['k', 'tombstone', NULL],
	ARRAY['[["h", "1"]]', NULL, '{"x": "y"}']::jsonb[], 0,
	ARRAY['2020-01-01 00:00:00Z', NULL, '2020-01-03 00:00:00Z']::timestamptz[]);
SELECT topics.produce_batch('batch_text', record_values => '{d,"e,f",NULL,"NULL"}', keys => NULL,
	create_times => NULL);
SELECT topics.produce_batch('batch_text', '[5:6]={g,h}', '[-1:0]={i,j}');
SELECT r.offset, key, value, headers, CASE WHEN "timestamp" < '2021-01-01' THEN "timestamp" END
	FROM topic.batch_text r
	ORDER BY 1;
SELECT count(DISTINCT "timestamp") FROM topic.batch_text WHERE value IN ('a', 'b');
-- nothing
SELECT topics.produce_batch('batch_text', '{}'),
	topics.produce_batch('batch_text', '{}', '{}', '{}', 0, '{}'),
	topics.produce_batch_bytea('batch_text', '{}');
-- bytes, and conversions
SELECT topics.produce_batch_bytea('batch_bytea', ARRAY['\x00', '\xff', NULL]::bytea[],
		ARRAY['\x01', '\x01', '\x01']::bytea[]),
	topics.produce_batch('batch_bytea', '{"\\\\x00ff", abc}', partition => 1),
	topics.produce_batch_bytea('batch_text', ARRAY['\x6162']::bytea[]);
SELECT key, value FROM topic.batch_bytea r WHERE key IS NOT NULL ORDER BY r.offset;
SELECT value FROM topic.batch_bytea r WHERE key IS NULL ORDER BY r.offset;
SELECT topics.produce_batch('batch_jsonb', ARRAY['{"a":1}', 'null', NULL], ARRAY['1', '2', '3']);
SELECT key, value FROM topic.batch_jsonb ORDER BY key;

-- what is wrong with the call
SELECT c, pg_temp.try(format('SELECT topics.produce_batch(%s)', c)) FROM unnest(ARRAY[
	$$NULL, '{a}'$$, $$'batch_nosuch', '{a}'$$, $$'batch_text', NULL$$,
	$$'batch_text', NULL, '{a}'$$, $$'batch_text', '{a,b}', '{k}'$$, $$'batch_text', '{a}', '{}'$$,
	$$'batch_text', '{a}', headers => '{}'$$,
	$$'batch_text', '{a,b}', create_times => '{2020-01-01}'$$,
	$$'batch_text', '{{a},{b}}'$$, $$'batch_text', '{a,b}', '{{k},{k}}'$$,
	$$'batch_text', '{a}', partition => 1$$, $$'batch_text', '{a}', partition => -1$$,
	$$'batch_text', '{}', partition => -1$$,
	$$'batch_text', '{a}', headers => '{1}'$$,
	$$'batch_text', '{a}', create_times => '{infinity}'$$, $$'batch_jsonb', '{1,x}'$$,
	$$'batch_jsonb', '{1,1}', '{1,x}'$$]) c;
SELECT pg_temp.try($$SELECT topics.produce_batch_bytea('batch_text',
	ARRAY['a', '\xff']::bytea[])$$);
SELECT pg_temp.try($$SELECT topics.produce_batch('batch_text', ARRAY['a', repeat('x', 1048577)])$$);
-- all of a batch or nothing: the good first element is not there
SELECT pg_temp.count('batch_jsonb'), pg_temp.count('batch_text');

-- order, over several calls and beyond work_mem; keyed records keep theirs
SET work_mem = '64kB';
BEGIN;
SELECT topics.produce_batch('batch_jsonb', array_agg(i::text), array_agg((i % 10)::text))
	FROM generate_series(1, 20000) i;
SELECT topics.produce_batch('batch_jsonb', array_agg(i::text), array_agg((i % 10)::text))
	FROM generate_series(20001, 40000) i;
COMMIT;
RESET work_mem;
SELECT count(*), count(DISTINCT key), bool_and(one_partition), bool_and(in_order) FROM (
	SELECT key, value::int, partition = first_value(partition) OVER w AS one_partition,
		value::int > coalesce(lag(value::int) OVER w, 0) AS in_order
	FROM topic.batch_jsonb
	WHERE jsonb_typeof(value) = 'number'
	WINDOW w AS (PARTITION BY key ORDER BY "offset")) r;
SELECT sum(record_count),
		bool_and(first_offset + record_count = (SELECT log_end_offset FROM topics.partition p
			WHERE p.topic = l.topic AND p.partition = l.partition))
	FROM topics.last_produced() l;

-- out-of-line elements of arrays out of a table
CREATE TABLE batch_arrays AS
	SELECT ARRAY[repeat('abc', 100000),
		(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 3000) i)] AS v;
SELECT topics.produce_batch('batch_text', v, v) FROM batch_arrays;
SELECT count(*) FROM batch_arrays, topic.batch_text r WHERE r.key = r.value AND r.value = ANY (v);

DROP TABLE batch_arrays;
SELECT topics.drop_topic('batch_text'), topics.drop_topic('batch_bytea'),
	topics.drop_topic('batch_jsonb');
