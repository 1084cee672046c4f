-- fetch: from an offset on, within limits, as text and as bytes
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup

SELECT topics.create_topic('fetch_text', 2, retention_time => '-1 day');
SELECT topics.produce_batch('fetch_text', array_agg('value ' || i ORDER BY i),
		array_agg('k' || i ORDER BY i), partition => 0)
	FROM generate_series(0, 999) i;
\pset tuples_only off
SELECT topics.produce('fetch_text', 'v', 'k', '{"h": "1"}', 1, '2020-01-01 00:00:00Z');
-- a record, its columns and their order
SELECT * FROM topics.fetch('fetch_text', 1, 0);
SELECT * FROM topics.fetch_bytea('fetch_text', 1, 0);
SELECT * FROM topic.fetch_text WHERE partition = 1;
\pset tuples_only on

-- ---------------------------------------------------------------------
-- Where from
-- ---------------------------------------------------------------------
SELECT r.offset, key, value FROM topics.fetch('fetch_text', 0, 0, max_records => 2) r;
SELECT r.offset, value FROM topics.fetch('fetch_text', 0, 998) r;
SELECT count(*) FROM topics.fetch('fetch_text', 0, 1000);
SELECT count(*), min(r.offset), max(r.offset) FROM topics.fetch('fetch_text', 0, 0) r;
-- every offset gives itself first
SELECT count(*) FILTER (WHERE r.offset = i AND r.value = 'value ' || i)
	FROM generate_series(0, 999) i, LATERAL topics.fetch('fetch_text', 0, i, max_records => 1) r;
SELECT o, pg_temp.try(format('SELECT * FROM topics.fetch(%L, 0, %s)', 'fetch_text', o))
	FROM unnest(ARRAY[-9223372036854775808, -1, 1001, 2147483648, 9223372036854775807]) o;
SELECT pg_temp.try($$SELECT * FROM topics.fetch_bytea('fetch_text', 1, 2)$$);
SELECT p, pg_temp.try(format('SELECT * FROM topics.fetch(%L, %s, 0)', 'fetch_text', p))
	FROM unnest(ARRAY[-2147483648, -1, 2, 2147483647]) p;
SELECT pg_temp.try($$SELECT * FROM topics.fetch('fetch_nosuch', 0, 0)$$);
-- an empty log begins and ends at 0
SELECT topics.create_topic('fetch_empty');
SELECT count(*) FROM topics.fetch('fetch_empty', 0, 0);
SELECT pg_temp.try($$SELECT * FROM topics.fetch('fetch_empty', 0, 1)$$);
SELECT a, pg_temp.try(format('SELECT * FROM topics.fetch(%s)', a))
	FROM unnest(ARRAY[$$NULL, 0, 0$$, $$'fetch_text', NULL, 0$$, $$'fetch_text', 0, NULL$$,
		$$'fetch_text', 0, 0, NULL$$, $$'fetch_text', 0, 0, max_bytes => NULL$$,
		$$'fetch_text', 0, 0, max_wait => NULL$$]) a;

-- ---------------------------------------------------------------------
-- How much: at least one record
-- ---------------------------------------------------------------------
SELECT n, count(r)
	FROM unnest(ARRAY[1, 2, 499, 500, 1000, 2147483647]) n,
		LATERAL topics.fetch('fetch_text', 0, 0, max_records => n) r
	GROUP BY n ORDER BY n;
SELECT a, pg_temp.try(format('SELECT * FROM topics.fetch(%L, 0, 0, %s)', 'fetch_text', a))
	FROM unnest(ARRAY['max_records => 0', 'max_records => -1', 'max_records => -2147483648',
		'max_bytes => 0', 'max_bytes => -1', 'max_bytes => -2147483648', $$max_wait => '1 s'$$,
		$$max_wait => '-1 s'$$, $$max_wait => '1 month -30 days'$$]) a;
-- records 0 to 9 have 9 bytes of key and value each
SELECT n, count(r)
	FROM unnest(ARRAY[1, 8, 9, 10, 17, 18, 19, 26, 27, 90]) n,
		LATERAL topics.fetch('fetch_text', 0, 0, max_bytes => n) r
	GROUP BY n ORDER BY n;
SELECT topics.produce('fetch_empty', v)
	FROM (VALUES (repeat('x', 600000)), (repeat('y', 1000000)), ('z'), (NULL), (NULL), ('')) r (v);
SELECT i, count(*), sum(length(r.value))
	FROM generate_series(0, 5) i, LATERAL topics.fetch('fetch_empty', 0, i) r
	GROUP BY i ORDER BY i;
SELECT count(*) FROM topics.fetch('fetch_empty', 0, 0, max_bytes => 1600000);
-- headers count
SELECT topics.produce('fetch_empty', '',
		headers => jsonb_build_array(jsonb_build_array('h', repeat('x', 1000))))
	FROM generate_series(1, 5);
SELECT count(*) BETWEEN 1 AND 2 FROM topics.fetch('fetch_empty', 0, 6, max_bytes => 2100);

-- ---------------------------------------------------------------------
-- Bytes and types
-- ---------------------------------------------------------------------
-- 1000 random byte strings from 0 to 600 bytes, with each byte there is
SELECT topics.create_topic('fetch_bytea', 1, 'bytea', 'bytea');
CREATE TABLE fetch_bytes AS
	SELECT i,
		substr((SELECT string_agg(sha512(int4send(i * 100 + j)), '' ORDER BY j)
				FROM generate_series(0, 9) j),
			1, i % 601) AS b
	FROM generate_series(0, 999) i;
SELECT count(DISTINCT get_byte(b, j)) FROM fetch_bytes, generate_series(0, length(b) - 1) j;
SELECT topics.produce_batch_bytea('fetch_bytea', array_agg(b ORDER BY i), array_agg(b ORDER BY i))
	FROM fetch_bytes;
SELECT count(*), count(*) FILTER (WHERE r.key = b AND r.value = b)
	FROM topics.fetch_bytea('fetch_bytea', 0, 0, 1000, 10000000) r JOIN fetch_bytes ON i = r.offset;
SELECT count(*), count(*) FILTER (WHERE r.key = b AND r.value = b)
	FROM topic.fetch_bytea r JOIN fetch_bytes ON i = r.offset;
SELECT count(*), count(*) FILTER (WHERE r.key::bytea = b AND r.value = b::text)
	FROM topics.fetch('fetch_bytea', 0, 0, 1000, 10000000) r JOIN fetch_bytes ON i = r.offset;
-- the same one by one
SELECT count(topics.produce('fetch_bytea', b, b)) FROM (SELECT b FROM fetch_bytes ORDER BY i) o;
SELECT count(*), count(*) FILTER (WHERE r.key = b AND r.value = b)
	FROM topics.fetch_bytea('fetch_bytea', 0, 1000, 1000, 10000000) r
		JOIN fetch_bytes ON i = r.offset - 1000;
-- for a text topic most of them are no text, and are refused
SELECT count(*) FILTER (WHERE result = 'ok'),
		count(*) FILTER (WHERE result LIKE '22021: invalid byte sequence%'),
		count(*)
	FROM (SELECT pg_temp.try(format('SELECT topics.produce(%L, %L::bytea, partition => 0)',
			'fetch_text', b)) AS result
		FROM fetch_bytes
		WHERE length(b) > 20) r;
SELECT count(*) FROM topics.fetch('fetch_text', 0, 1000);
-- text as bytes, other types as their text
SELECT topics.create_topic('fetch_jsonb', 1, 'int8', 'jsonb'),
	topics.create_topic('fetch_varchar', 1, 'varchar(3)', 'timestamptz');
SELECT topics.produce('fetch_jsonb', '{"b": [1, "ä"],"a":null}', '-42'),
	topics.produce('fetch_jsonb', NULL, NULL),
	topics.produce('fetch_varchar', '2020-01-01 12:00:00+02', 'ä€😀');
SELECT key, value, pg_typeof(key), pg_typeof(value) FROM topics.fetch('fetch_jsonb', 0, 0);
SELECT convert_from(key, 'UTF8'), convert_from(value, 'UTF8')
	FROM topics.fetch_bytea('fetch_jsonb', 0, 0);
SELECT key, value FROM topics.fetch('fetch_varchar', 0, 0);
SELECT key, convert_from(value, 'UTF8') FROM topics.fetch_bytea('fetch_varchar', 0, 0);
SELECT key + 1, value->'b'->>1 FROM topic.fetch_jsonb WHERE key IS NOT NULL;
-- large, out of line
SELECT topics.create_topic('fetch_large', value_type => 'jsonb');
SELECT topics.produce('fetch_large',
		jsonb_build_object('i', i, 'text',
			(SELECT string_agg(md5((i * j)::text), '') FROM generate_series(1, 5000) j)))
	FROM generate_series(1, 4) i;
SELECT r.offset, value::jsonb->>'i', length(value::jsonb->>'text'),
		value = (SELECT v.value::text FROM topic.fetch_large v WHERE v.offset = r.offset)
	FROM topics.fetch('fetch_large', 0, 1, max_bytes => 400000) r;

-- ---------------------------------------------------------------------
-- Who reads what
-- ---------------------------------------------------------------------
-- two readers at different places in one statement; a cursor; a snapshot
SELECT a.offset, b.offset
	FROM topics.fetch('fetch_text', 0, 10, 3) a
		JOIN topics.fetch('fetch_text', 0, 500, 3) b ON b.offset = a.offset + 490
	ORDER BY 1;
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT r.offset FROM topics.fetch('fetch_text', 0, 0) r;
FETCH 2 FROM c;
FETCH LAST FROM c;
FETCH PRIOR FROM c;
COMMIT;
SELECT topics.produce('fetch_large', '{"last": true}') AS p \gset
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM topics.fetch('fetch_large', 0, 4);
SELECT topics.produce('fetch_large', '{"unseen": true}') AS p \gset
SELECT count(*) FROM topics.fetch('fetch_large', 0, 4);
SELECT pg_temp.try($$SELECT * FROM topics.fetch('fetch_large', 0, 6)$$);
COMMIT;
SELECT value FROM topics.fetch('fetch_large', 0, 5);
-- over segments
SELECT topics.create_topic('fetch_segments');
DO $$ BEGIN
	FOR s IN 0 .. 4 LOOP
		FOR i IN 0 .. 9 LOOP
			PERFORM topics.produce('fetch_segments', (s * 10 + i)::text);
		END LOOP;
		COMMIT;
		CALL topics.roll_segment('fetch_segments');
	END LOOP;
END $$;
SELECT count(*) FROM topics.segment WHERE topic = 'fetch_segments' AND state = 'sealed';
SELECT string_agg(value, ' ' ORDER BY r.offset)
	FROM topics.fetch('fetch_segments', 0, 7, max_records => 35) r;
SELECT bool_and(n = 50 - o)
	FROM (SELECT o, (SELECT count(*) FROM topics.fetch('fetch_segments', 0, o)) AS n
		FROM generate_series(0, 50) o) c;
SELECT string_agg(value, ' ' ORDER BY "offset")
	FROM topic.fetch_segments
	WHERE "offset" BETWEEN 8 AND 31;

SELECT topics.drop_topic('fetch_' || t)
	FROM unnest(ARRAY['text', 'empty', 'bytea', 'jsonb', 'varchar', 'large', 'segments']) t;
DROP TABLE fetch_bytes;
