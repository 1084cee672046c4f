-- produce: one record: types, headers, partitions, times, sizes, transactions
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup

SELECT topics.create_topic('produce_text', retention_time => '-1 s'),
	topics.create_topic('produce_bytea', 1, 'bytea', 'bytea'),
	topics.create_topic('produce_jsonb', value_type => 'jsonb'),
	topics.create_topic('produce_int', 1, 'int8', 'varchar(3)');
CREATE VIEW produce_text AS
	SELECT r.offset, key, value, headers
	FROM topic.produce_text r
	ORDER BY r.offset;

-- ---------------------------------------------------------------------
-- The forms of the call
-- ---------------------------------------------------------------------
SELECT topics.produce('produce_text', 'literal');
SELECT topics.produce('produce_text', 'text'::text, 'key'::text),
	topics.produce('produce_text', 'varchar'::varchar, 'key'::varchar),
	topics.produce('produce_text', 'name'::name, 'key'::char(5));
SELECT topics.produce('produce_text', '\x6279746573'::bytea, '\x6b6579'),
	topics.produce('produce_text', 'bytes, literal key'::bytea, key => 'key');
SELECT topics.produce('produce_text', '{"b": 1,   "a": null}'::jsonb, 'key');
SELECT topics.produce(topic => 'produce_text', value => 'by name', key => 'key',
	headers => '[["h", "1"]]', partition => 0, create_time => '2020-01-01 00:00:00Z');
SELECT topics.produce('produce_text', 'by position', NULL, NULL, NULL, NULL);
SELECT topics.produce('produce_text', NULL),
	topics.produce('produce_text', NULL, NULL),
	topics.produce('produce_text', NULL, 'tombstone'),
	topics.produce('produce_text', NULL::bytea, NULL::bytea),
	topics.produce('produce_text', NULL::jsonb);
SELECT topics.produce('produce_text', ''),
	topics.produce('produce_text', '', ''),
	topics.produce('produce_text', ''::bytea, ''::bytea);
SELECT topics.produce('produce_text', E'tab\tnewline\n quote'' backslash\\ ä€😀', E'\x01');
SELECT * FROM produce_text;
SELECT pg_temp.try($$SELECT topics.produce(NULL, 'x')$$);
SELECT pg_temp.try($$SELECT topics.produce('produce_nosuch', 'x')$$);
SELECT pg_temp.try($$SELECT topics.produce('produce_text', 1)$$);

-- ---------------------------------------------------------------------
-- Types: checked in the call
-- ---------------------------------------------------------------------
SELECT topics.produce('produce_bytea', '\x00ff'::bytea, '\x0001'::bytea),
	topics.produce('produce_bytea', 'text', 'key'),
	topics.produce('produce_bytea', '\x41', '\x42');
SELECT key, value FROM topic.produce_bytea;
SELECT pg_temp.try($$SELECT topics.produce('produce_bytea', 'bad \ escape')$$);
SELECT topics.produce('produce_jsonb', '{"a":1}'),
	topics.produce('produce_jsonb', '[1, 2]'::jsonb),
	topics.produce('produce_jsonb', '"s"'::bytea),
	topics.produce('produce_jsonb', 'null'),
	topics.produce('produce_jsonb', NULL::jsonb);
SELECT value, jsonb_typeof(value) FROM topic.produce_jsonb r ORDER BY r.offset;
SELECT pg_temp.try($$SELECT topics.produce('produce_jsonb', '{')$$);
SELECT pg_temp.try($$SELECT topics.produce('produce_jsonb', '"\u0000"')$$);
SELECT pg_temp.try($$SELECT topics.produce('produce_jsonb',
	(repeat('[', 100000) || repeat(']', 100000)))$$) ~ '^54001: stack depth limit exceeded';
SELECT topics.produce('produce_jsonb', repeat('[', 1000) || repeat(']', 1000));
SELECT topics.produce('produce_int', 'abc', '9223372036854775807'),
	topics.produce('produce_int', 'äöü', ' -9223372036854775808 '),
	topics.produce('produce_int', 'ab   ', NULL),
	topics.produce('produce_int', 'abc'::bytea, '42'::bytea);
SELECT key, '<' || value || '>' FROM topic.produce_int r ORDER BY r.offset;
SELECT pg_temp.try($$SELECT topics.produce('produce_int', 'abcd')$$);
SELECT pg_temp.try($$SELECT topics.produce('produce_int', 'abcd'::bytea)$$);
SELECT pg_temp.try($$SELECT topics.produce('produce_int', 'abc', '9223372036854775808')$$);
SELECT pg_temp.try($$SELECT topics.produce('produce_int', 'abc', '')$$);
-- bytes for a text topic are UTF-8
SELECT b, pg_temp.try(format('SELECT topics.produce(%L, %L::bytea)', 'produce_text', b))
	FROM unnest(ARRAY['\xff', '\x00', '\x6100', '\xc3', '\xc0af', '\xeda080',
		'\xf4908080']::bytea[]) b;
SELECT pg_temp.try($$SELECT topics.produce('produce_text', 'x'::bytea, '\xff'::bytea)$$);
SELECT count(*) FROM produce_text WHERE value !~ '^[ -~]*$' AND value NOT LIKE 'tab%';

-- domains: the schema registry
CREATE DOMAIN produce_key AS text NOT NULL CHECK (VALUE ~ '^[a-z]+$');
CREATE DOMAIN produce_order AS jsonb CHECK (VALUE ? 'id' AND jsonb_typeof(VALUE->'id') = 'number');
CREATE DOMAIN produce_big_order AS produce_order CHECK ((VALUE->>'id')::int > 10);
CREATE DOMAIN produce_code AS varchar(2) DEFAULT 'x' CHECK (VALUE <> 'no');
SELECT topics.create_topic('produce_domain', 1, 'produce_key', 'produce_big_order'),
	topics.create_topic('produce_code', value_type => 'produce_code');
SELECT topics.produce('produce_domain', '{"id": 11}', 'a'),
	topics.produce('produce_domain', '{"id": 12}'::jsonb, 'b'),
	topics.produce('produce_domain', '{"id": 13}'::bytea, 'c'::bytea),
	topics.produce('produce_domain', NULL, 'd');
SELECT key, value, pg_typeof(key), pg_typeof(value) FROM topic.produce_domain r ORDER BY r.offset;
SELECT c, pg_temp.try(format('SELECT topics.produce(%L, %s)', 'produce_domain', c))
	FROM unnest(ARRAY[
		$$'{"id": 11}'$$, $$'{"id": 11}', NULL$$, $$'{"id": 11}', 'A'$$, $$'{"id": 1}', 'a'$$,
		$$'{"id": "11"}', 'a'$$, $$'{}', 'a'$$, $$'{"id": 1}'::jsonb, 'a'$$,
		$$'[]'::bytea, 'a'::bytea$$, $$'{"id": 11}'::bytea, NULL$$]) c;
SELECT topics.produce('produce_code', 'ab'), topics.produce('produce_code', NULL);
SELECT value FROM topic.produce_code r ORDER BY r.offset;
SELECT pg_temp.try($$SELECT topics.produce('produce_code', 'no')$$),
	pg_temp.try($$SELECT topics.produce('produce_code', 'abc')$$);
-- the CHECK as it stands now
ALTER DOMAIN produce_key DROP CONSTRAINT produce_key_check;
SELECT topics.produce('produce_domain', '{"id": 14}', 'A');
ALTER DOMAIN produce_key ADD CHECK (VALUE <> 'B') NOT VALID;
SELECT pg_temp.try($$SELECT topics.produce('produce_domain', '{"id": 14}', 'B')$$);
-- a compacted topic needs a key
SELECT topics.create_topic('produce_compact', cleanup_policy => 'compact');
SELECT pg_temp.try($$SELECT topics.produce('produce_compact', 'x')$$);
SELECT topics.produce('produce_compact', NULL, 'k');

-- ---------------------------------------------------------------------
-- Headers
-- ---------------------------------------------------------------------
SELECT h, pg_temp.try(format('SELECT topics.produce(%L, %L, headers => %L)',
		'produce_text', 'header', h))
	FROM unnest(ARRAY[
		'[]', '{}', '[["a", "1"]]', '[["a", "1"], ["b", null], ["a", "2"]]', '[["", ""]]',
		'[["a", {"base64": "AAH/"}]]', '[["a", {"base64": ""}]]',
		'{"b": "2", "a": "1", "n": null}', '{"q\"": "\\", "x": {"base64": "AA=="}}', '{"": ""}']) h;
SELECT headers FROM produce_text WHERE value = 'header' ORDER BY "offset";
SELECT h, pg_temp.try(format('SELECT topics.produce(%L, %L, headers => %L)',
		'produce_text', 'bad header', h))
	FROM unnest(ARRAY[
		'"a"', '1', 'null', 'true', '["a"]', '["a", "1"]', '[["a"]]', '[["a", "1", "2"]]',
		'[[1, "1"]]', '[[null, "1"]]', '[["a", 1]]', '[["a", true]]', '[["a", []]]', '[["a", {}]]',
		'[{"a": "1"}]', '[["a", {"base64": 1}]]', '[["a", {"base64": null}]]',
		'[["a", {"base64": "AAE=", "x": 1}]]', '[["a", {"hex": "00"}]]',
		'{"a": 1}', '{"a": ["1"]}', '{"a": {"b": "1"}}', '[["a", "1"], []]', '[["a", "1"]',
		'{"a": "\u0000"}']) h;
-- what base64 is not
SELECT pg_temp.try($$SELECT topics.produce('produce_text', 'bad header',
	headers => '[["a", {"base64": "secret!"}]]')$$) ~ '^22023: ';
SELECT pg_temp.try($$SELECT topics.produce('produce_text', 'bad header',
	headers => '{"a": {"base64": "AAE"}}')$$) ~ '^22023: ';
-- as many as there is room for
SELECT topics.produce('produce_text', 'many',
	headers => (SELECT jsonb_agg(jsonb_build_array('h' || i % 10, i::text))
		FROM generate_series(1, 20000) i));
SELECT jsonb_array_length(headers), headers->0, headers->19999
	FROM produce_text
	WHERE value = 'many';
SELECT left(pg_temp.try($$SELECT topics.produce('produce_text', 'many',
	headers => (SELECT jsonb_agg(jsonb_build_array('h' || i, i::text))
		FROM generate_series(1, 65536) i))$$), 60);

-- ---------------------------------------------------------------------
-- Times
-- ---------------------------------------------------------------------
SELECT topics.create_topic('produce_time', retention_time => '-1 s'),
	topics.create_topic('produce_log_time', timestamp_type => 'LogAppendTime');
SELECT topics.produce('produce_time', t, create_time => t::timestamptz)
	FROM unnest(ARRAY['2020-01-01 12:00:00.123456+02', '4714-11-24 00:00:00+00 BC',
		'294276-12-31 23:59:59.999999+00', 'epoch']) t;
SELECT "timestamp" FROM topic.produce_time r ORDER BY r.offset;
SELECT pg_temp.try($$SELECT topics.produce('produce_time', 'x', create_time => 'infinity')$$),
	pg_temp.try($$SELECT topics.produce('produce_time', 'x', create_time => '-infinity')$$);
BEGIN;
SELECT clock_timestamp() AS now \gset
SELECT topics.produce('produce_time', 'now');
SELECT clock_timestamp() AS later \gset
COMMIT;
SELECT "timestamp" BETWEEN :'now' AND :'later' FROM topic.produce_time WHERE value = 'now';
-- LogAppendTime is the commit's, whatever the producer says
BEGIN;
SELECT topics.produce('produce_log_time', '1', create_time => '2100-01-01'),
	topics.produce('produce_log_time', '2', create_time => '1999-01-01'),
	topics.produce('produce_log_time', '3');
SELECT clock_timestamp() AS now \gset
COMMIT;
SELECT count(DISTINCT "timestamp"), bool_and("timestamp" BETWEEN :'now' AND clock_timestamp())
	FROM topic.produce_log_time;

-- ---------------------------------------------------------------------
-- Sizes
-- ---------------------------------------------------------------------
SELECT topics.create_topic('produce_size');
SELECT topics.produce('produce_size', ''),
	topics.produce('produce_size', repeat('x', 1048576)),
	topics.produce('produce_size', repeat('x', 1048575), 'k'),
	topics.produce('produce_size', 'k', repeat('ä', 524287));
SELECT pg_temp.try($$SELECT topics.produce('produce_size', repeat('x', 1048577))$$);
SELECT pg_temp.try($$SELECT topics.produce('produce_size', repeat('x', 1048576), 'k')$$);
SELECT pg_temp.try($$SELECT topics.produce('produce_size', 'v', repeat('x', 1048576))$$);
SELECT pg_temp.try($$SELECT topics.produce('produce_size', repeat('x', 1048570),
	headers => '[["a", "1"]]')$$) ~ '^54000';
SELECT pg_temp.try($$SELECT topics.produce('produce_size', string_agg(repeat('x', 1000000), ''))
	FROM generate_series(1, 600)$$);
SELECT topics.alter_topic('produce_size', max_message_bytes => 268435456);
SELECT pg_temp.try($$SELECT topics.produce('produce_size',
	string_agg(repeat('x', 1048576), '') || 'y') FROM generate_series(1, 256)$$);
-- what does not compress: lines of 32 hex digits, 4.8 MB
SELECT string_agg(md5(i::text), '' ORDER BY i) AS large FROM generate_series(1, 150000) i \gset
SELECT topics.produce('produce_size', string_agg(md5(i::text), '' ORDER BY i), 'large')
	FROM generate_series(1, 150000) i;
SELECT topics.produce('produce_size', repeat(repeat('y', 1000000), 50), 'long');
SELECT r.offset, length(key), length(value), value ~ '^x*$' OR value = 'k'
	FROM topic.produce_size r
	WHERE r.offset < 4
	ORDER BY 1;
SELECT key, length(value), value = :'large', value = repeat('y', length(value))
	FROM topic.produce_size r
	WHERE r.offset >= 4
	ORDER BY r.offset;
SELECT topics.alter_topic('produce_size', max_message_bytes => 1);
SELECT topics.produce('produce_size', 'x'),
	pg_temp.try($$SELECT topics.produce('produce_size', 'x', 'k')$$);

-- integers of the call
SELECT p, pg_temp.try(format('SELECT topics.produce(%L, %L, partition => %s)',
		'produce_text', 'x', p))
	FROM unnest(ARRAY['-1', '1', '2147483647', '-2147483648', '2147483648']) p;

-- ---------------------------------------------------------------------
-- Transactions
-- ---------------------------------------------------------------------
SELECT topics.create_topic('produce_tx', 2);
CREATE VIEW produce_tx AS SELECT partition, r.offset, value FROM topic.produce_tx r ORDER BY 1, 2;
-- not seen by its own transaction; ROLLBACK leaves no gap
BEGIN;
SELECT topics.produce('produce_tx', 'a', partition => 0);
SELECT count(*) FROM produce_tx;
COMMIT;
BEGIN;
SELECT topics.produce('produce_tx', 'rolled back', partition => 0);
ROLLBACK;
SELECT topics.produce('produce_tx', 'b', partition => 0);
SELECT * FROM produce_tx;
-- a statement that fails takes its records with it
SELECT pg_temp.try($$SELECT topics.produce('produce_tx', i::text, partition => 2 - i)
	FROM generate_series(1, 3) i$$);
SELECT topics.produce('produce_tx', (10 / (3 - i))::text, partition => 0)
	FROM generate_series(1, 3) i;
SELECT count(*) FROM produce_tx;
-- savepoints, on two partitions
BEGIN;
SELECT topics.produce('produce_tx', '1', partition => 0);
SAVEPOINT a;
SELECT topics.produce('produce_tx', 'not', partition => 0),
	topics.produce('produce_tx', 'not', partition => 1);
SAVEPOINT b;
SELECT topics.produce('produce_tx', 'not', partition => 1);
ROLLBACK TO a;
SELECT topics.produce('produce_tx', '2', partition => 1);
SAVEPOINT c;
SELECT topics.produce('produce_tx', '3', partition => 0);
SAVEPOINT d;
SELECT topics.produce('produce_tx', '4', partition => 0);
RELEASE c;
SAVEPOINT e;
SELECT topics.produce('produce_tx', '5', partition => 1);
SAVEPOINT f;
SELECT topics.produce('produce_tx', 'not', partition => 0);
ROLLBACK TO f;
ROLLBACK TO f;
RELEASE e;
COMMIT;
SELECT * FROM produce_tx WHERE "offset" >= CASE partition WHEN 0 THEN 2 ELSE 0 END;
-- released into a savepoint that is rolled back
BEGIN;
SAVEPOINT a; SAVEPOINT b;
SELECT topics.produce('produce_tx', 'not', partition => 0);
RELEASE b;
ROLLBACK TO a;
COMMIT;
SELECT count(*) FROM produce_tx;
-- plpgsql
DO $$
BEGIN
	FOR i IN 1 .. 20 LOOP
		BEGIN
			PERFORM topics.produce('produce_tx', 'plpgsql ' || i, partition => 1);
			IF i % 3 = 0 THEN RAISE division_by_zero; END IF;
		EXCEPTION WHEN division_by_zero THEN
			PERFORM topics.produce('produce_tx', 'caught ' || i, partition => 1);
		END;
	END LOOP;
END $$;
SELECT string_agg(value, ', ' ORDER BY "offset")
	FROM produce_tx
	WHERE partition = 1 AND "offset" >= 2;
SELECT count(*) = max("offset") + 1 FROM produce_tx WHERE partition = 1;
-- 200 nested savepoints, each with a record; the innermost hundred go
SELECT topics.create_topic('produce_deep');
\o /dev/null
\set ECHO none
BEGIN;
SELECT format('SAVEPOINT s%s; SELECT topics.produce(''produce_deep'', ''%s'')', i, i)
	FROM generate_series(1, 200) i \gexec
ROLLBACK TO s101;
SELECT topics.produce('produce_deep', 'end');
COMMIT;
\o
\set ECHO all
SELECT count(*),
		count(*) FILTER (WHERE value = (r.offset + 1)::text),
		max(value) FILTER (WHERE r.offset = 100)
	FROM topic.produce_deep r;
-- the same by recursion, and every second level fails
CREATE FUNCTION pg_temp.descend(level int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM topics.produce('produce_deep', 'level ' || level);
	IF level < 200 THEN PERFORM pg_temp.descend(level + 1); END IF;
	IF level = 150 THEN RAISE division_by_zero; END IF;
EXCEPTION WHEN division_by_zero THEN
	PERFORM topics.produce('produce_deep', 'caught');
END $$;
SELECT pg_temp.descend(1);
SELECT count(*),
		max(value) FILTER (WHERE r.offset = 101),
		max(value) FILTER (WHERE r.offset = 249),
		max(value) FILTER (WHERE r.offset = 250)
	FROM topic.produce_deep r;

-- PREPARE TRANSACTION
BEGIN;
SELECT topics.produce('produce_tx', 'prepared', partition => 0);
PREPARE TRANSACTION 'regress_produce';
BEGIN;
SELECT topics.create_topic('produce_prepared');
PREPARE TRANSACTION 'regress_produce';
BEGIN;
SELECT topics.drop_topic('produce_deep');
PREPARE TRANSACTION 'regress_produce';
SELECT count(*) FROM pg_prepared_xacts WHERE gid = 'regress_produce';
SELECT count(*) FROM produce_tx WHERE value = 'prepared';
-- nothing is left to be produced: allowed, and the session goes on
BEGIN;
SAVEPOINT a;
SELECT topics.produce('produce_tx', 'prepared', partition => 0);
ROLLBACK TO a;
PREPARE TRANSACTION 'regress_produce';
SELECT topics.produce('produce_tx', 'between', partition => 0);
COMMIT PREPARED 'regress_produce';
SELECT count(*) FROM produce_tx WHERE value IN ('prepared', 'between');

-- read-only, parallel and security-restricted contexts
BEGIN READ ONLY;
SELECT topics.produce('produce_tx', 'x');
ROLLBACK;
BEGIN;
SELECT topics.produce('produce_tx', 'before it was read only', partition => 0);
SET TRANSACTION READ ONLY;
COMMIT;
SELECT proname FROM pg_proc
	WHERE pronamespace = 'topics'::regnamespace AND proparallel <> 'u' AND proname <> 'murmur2';
CREATE FUNCTION produce_in_index(int) RETURNS int LANGUAGE sql IMMUTABLE AS $$
	SELECT topics.produce('produce_tx', 'from an index', partition => 0) $$;
CREATE TABLE produce_indexed AS SELECT 1 AS a;
SELECT pg_temp.try('CREATE INDEX ON produce_indexed (produce_in_index(a))');
CREATE FUNCTION produce_in_matview() RETURNS int LANGUAGE sql VOLATILE AS $$
	SELECT topics.produce('produce_tx', 'from a materialized view', partition => 0) $$;
CREATE MATERIALIZED VIEW produce_matview AS SELECT produce_in_matview() WITH NO DATA;
SELECT pg_temp.try('REFRESH MATERIALIZED VIEW produce_matview');
DROP MATERIALIZED VIEW produce_matview;
CREATE FUNCTION produce_insert() RETURNS int LANGUAGE sql VOLATILE AS $$
	INSERT INTO topic.produce_tx (value) VALUES ('from a materialized view') RETURNING partition $$;
CREATE MATERIALIZED VIEW produce_matview AS SELECT produce_insert() WITH NO DATA;
SELECT pg_temp.try('REFRESH MATERIALIZED VIEW produce_matview');
SELECT count(*) FROM produce_tx WHERE value LIKE 'from a%';
DROP MATERIALIZED VIEW produce_matview;
DROP TABLE produce_indexed;
DROP FUNCTION produce_in_index, produce_in_matview, produce_insert;

-- in triggers, also those deferred to the commit
CREATE TABLE produce_table (id int, note text);
CREATE FUNCTION produce_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	PERFORM topics.produce('produce_tx', TG_ARGV[0] || ' ' || NEW.id, partition => 0);
	RETURN NEW;
END $$;
CREATE TRIGGER now AFTER INSERT ON produce_table FOR EACH ROW EXECUTE FUNCTION produce_row('now');
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON produce_table DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION produce_row('deferred');
SELECT count(*) AS n FROM produce_tx WHERE partition = 0 \gset
BEGIN;
INSERT INTO produce_table VALUES (1), (2);
SELECT topics.produce('produce_tx', 'between', partition => 0);
COMMIT;
SELECT value FROM produce_tx WHERE partition = 0 AND "offset" >= :n;
BEGIN;
INSERT INTO produce_table VALUES (3);
ROLLBACK;
SELECT count(*) - :n FROM produce_tx WHERE partition = 0;

-- create and produce in one transaction
BEGIN;
SELECT topics.create_topic('produce_new', 2);
SELECT topics.produce('produce_new', 'first', partition => 1);
INSERT INTO topic.produce_new (value, partition) VALUES ('second', 1);
COMMIT;
SELECT r.offset, value FROM topics.fetch('produce_new', 1, 0) r;

-- ---------------------------------------------------------------------
-- More than memory: order and savepoints hold
-- ---------------------------------------------------------------------
SET work_mem = '64kB';
SELECT topics.create_topic('produce_spill', 3);
BEGIN;
SELECT count(topics.produce('produce_spill', i || repeat('.', i % 200), partition => i % 3))
	FROM generate_series(1, 6000) i;
SAVEPOINT a;
SELECT count(topics.produce('produce_spill', 'not', partition => i % 3))
	FROM generate_series(1, 6000) i;
ROLLBACK TO a;
SELECT count(topics.produce('produce_spill', i || repeat('.', i % 200), partition => i % 3))
	FROM generate_series(6001, 6010) i;
SAVEPOINT b;
SELECT count(topics.produce('produce_spill', i || repeat('.', i % 200), partition => i % 3))
	FROM generate_series(6011, 12000) i;
RELEASE b;
-- larger than a chunk and than work_mem
SELECT topics.produce('produce_spill', 'L' || repeat('z', 900000), partition => 0),
		topics.produce('produce_spill', 'L' || string_agg(md5(i::text), ''), partition => 0)
	FROM generate_series(1, 20000) i;
SELECT topics.produce('produce_spill', '12003', partition => 0);
COMMIT;
RESET work_mem;
SELECT partition, count(*), min(r.offset), max(r.offset),
		bool_and(substring(value FROM '\d+')::int
			= r.offset * 3 + CASE partition WHEN 0 THEN 3 ELSE partition END)
	FROM topic.produce_spill r
	WHERE value NOT LIKE 'L%' AND r.offset < 4000
	GROUP BY 1 ORDER BY 1;
SELECT r.offset, length(value) FROM topics.fetch('produce_spill', 0, 4000, max_bytes => 10000000) r;

DROP TABLE produce_table;
DROP FUNCTION produce_row;
DROP VIEW produce_text, produce_tx;
SELECT topics.drop_topic('produce_' || t)
	FROM unnest(ARRAY['text', 'bytea', 'jsonb', 'int', 'domain', 'code', 'compact', 'time',
		'log_time', 'size', 'tx', 'deep', 'new', 'spill']) t;
DROP DOMAIN produce_big_order, produce_order, produce_key, produce_code;
