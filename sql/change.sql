-- produce_change: changes of tables as records
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup

SELECT topics.create_topic('change', 4);
-- records from an offset on, without the time; and what was there is skipped
CREATE VIEW changes AS
	SELECT partition, r.offset, key, value::jsonb - 'time' - 'schema' AS value,
		value::jsonb ->> 'schema' AS schema
	FROM topic.change r;
CREATE TABLE seen (partition int PRIMARY KEY, upto bigint);
INSERT INTO seen SELECT partition, 0 FROM generate_series(0, 3) partition;
CREATE FUNCTION pg_temp.new() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	-- records of one partition in their order, and partitions by their first key
	RETURN QUERY
		SELECT concat_ws(' ', coalesce(key, 'NULL'), value)
		FROM changes JOIN seen USING (partition)
		WHERE "offset" >= upto ORDER BY min(key) OVER (PARTITION BY partition), partition, "offset";
	UPDATE seen SET upto = log_end_offset
		FROM topics.partition p
		WHERE p.topic = 'change' AND p.partition = seen.partition;
END $$;

CREATE TABLE items (id int PRIMARY KEY, name text, dropped int, price numeric DEFAULT 1.50,
	info jsonb, tags text[], at timestamptz DEFAULT '2020-01-01 00:00:00Z',
	total numeric GENERATED ALWAYS AS (price * 2) STORED);
ALTER TABLE items DROP COLUMN dropped;
CREATE TRIGGER changes AFTER INSERT OR UPDATE OR DELETE ON items
	FOR EACH ROW EXECUTE FUNCTION topics.produce_change('change');
CREATE TRIGGER truncated AFTER TRUNCATE ON items
	FOR EACH STATEMENT EXECUTE FUNCTION topics.produce_change('change');

-- ---------------------------------------------------------------------
-- What a change looks like
-- ---------------------------------------------------------------------
INSERT INTO items (id, name, info, tags)
	VALUES (1, E'te"a\\\n', '{"a": [1, null]}', ARRAY['x', NULL]);
SELECT value::jsonb - 'time' FROM topic.change;
SELECT string_agg(k, ' ' ORDER BY n)
	FROM topic.change, json_object_keys(value::json) WITH ORDINALITY o (k, n);
BEGIN;
SELECT now() AS now \gset
UPDATE items SET name = NULL;
DELETE FROM items;
COMMIT;
SELECT count(*) FROM topic.change WHERE (value::jsonb ->> 'time')::timestamptz = :'now';
SELECT pg_temp.new();
-- each row of a statement; and none of it after ROLLBACK
INSERT INTO items (id) SELECT generate_series(1, 3);
SELECT pg_temp.new();
BEGIN;
INSERT INTO items (id) VALUES (4);
SAVEPOINT s;
DELETE FROM items;
ROLLBACK TO s;
COMMIT;
BEGIN;
DELETE FROM items;
ROLLBACK;
SELECT pg_temp.new();
-- the record goes where produce() puts this key
SELECT DISTINCT partition = (topics.murmur2(key::bytea) & 2147483647) % 4 FROM topic.change;
-- a changed key ends one row and begins another
UPDATE items SET id = 5, name = 'five' WHERE id = 1;
SELECT pg_temp.new();
-- other UPDATEs do not; nor does one to the same key
UPDATE items SET id = 5, price = 2.5 WHERE id = 5;
SELECT pg_temp.new();
INSERT INTO items (id) VALUES (5) ON CONFLICT (id) DO UPDATE SET name = 'conflict';
SELECT pg_temp.new();
-- a column that was added later, with a default that no row holds
ALTER TABLE items ADD COLUMN late text DEFAULT 'late';
UPDATE items SET name = 'x' WHERE id = 5;
SELECT pg_temp.new();
-- TRUNCATE in every partition
TRUNCATE items;
SELECT pg_temp.new();
-- values out of line, changed and unchanged
INSERT INTO items (id, name) SELECT 6, string_agg(md5(i::text), '') FROM generate_series(1, 1000) i;
UPDATE items SET price = 3 WHERE id = 6;
SELECT value::jsonb ->> 'op',
		length(value::jsonb -> 'old' ->> 'name'),
		length(value::jsonb -> 'new' ->> 'name')
	FROM changes JOIN seen USING (partition)
	WHERE "offset" >= upto
	ORDER BY "offset";
DELETE FROM items;
SELECT count(*) FROM pg_temp.new();

-- ---------------------------------------------------------------------
-- Keys
-- ---------------------------------------------------------------------
CREATE TABLE pairs (b text, c timestamptz, a int, n numeric, PRIMARY KEY (a, b));
CREATE TRIGGER changes AFTER INSERT OR UPDATE OR DELETE ON pairs
	FOR EACH ROW EXECUTE FUNCTION topics.produce_change('change');
-- several columns: an array, in the order of the table
INSERT INTO pairs VALUES ('"b', '2020-01-01 00:00:00Z', 1);
SELECT pg_temp.new();
-- named ones
CREATE OR REPLACE TRIGGER changes AFTER INSERT OR UPDATE OR DELETE ON pairs
	FOR EACH ROW EXECUTE FUNCTION topics.produce_change('change', 'n', 'a');
INSERT INTO pairs VALUES ('c', NULL, 2, NULL), ('d', NULL, 3, 1.0);
UPDATE pairs SET c = now() WHERE a = 3;
SELECT key FROM pg_temp.new() line, regexp_replace(line, ' \{.*', '') key;
UPDATE pairs SET n = 1.00 WHERE a = 3;
UPDATE pairs SET n = 1 WHERE a = 2;
SELECT key FROM pg_temp.new() line, regexp_replace(line, ' \{.*', '') key;
CREATE OR REPLACE TRIGGER changes AFTER INSERT OR UPDATE OR DELETE ON pairs
	FOR EACH ROW EXECUTE FUNCTION topics.produce_change('change', 'n');
INSERT INTO pairs VALUES ('e', NULL, 4);
UPDATE pairs SET n = NULL WHERE a = 3;
-- records without key go anywhere
SELECT key FROM pg_temp.new() line, regexp_replace(line, ' \{.*', '') key ORDER BY 1;
-- columns that cannot be
CREATE OR REPLACE TRIGGER changes AFTER INSERT OR UPDATE OR DELETE ON pairs
	FOR EACH ROW EXECUTE FUNCTION topics.produce_change('change', 'nosuch');
SELECT pg_temp.try('DELETE FROM pairs');
CREATE OR REPLACE TRIGGER changes AFTER INSERT OR UPDATE OR DELETE ON pairs
	FOR EACH ROW EXECUTE FUNCTION topics.produce_change('change', 'ctid');
SELECT pg_temp.try('DELETE FROM pairs');
DO $$ BEGIN
	EXECUTE 'CREATE OR REPLACE TRIGGER changes AFTER DELETE ON pairs
		FOR EACH ROW EXECUTE FUNCTION topics.produce_change(''change'''
		|| repeat(', ''a''', 33) || ')';
END $$;
SELECT pg_temp.try('DELETE FROM pairs');
CREATE TABLE keyless (a int);
CREATE TRIGGER changes AFTER INSERT ON keyless
	FOR EACH ROW EXECUTE FUNCTION topics.produce_change('change');
SELECT pg_temp.try('INSERT INTO keyless VALUES (1)');
SELECT count(*) FROM keyless;

-- ---------------------------------------------------------------------
-- Topics of other types
-- ---------------------------------------------------------------------
SELECT topics.create_topic('change_jsonb', key_type => 'bigint', value_type => 'jsonb');
SELECT topics.create_topic('change_bytea', key_type => 'bytea', value_type => 'bytea');
CREATE DOMAIN no_delete AS jsonb CHECK (VALUE ->> 'op' <> 'DELETE');
SELECT topics.create_topic('change_domain', value_type => 'no_delete');
CREATE TABLE typed (id bigint PRIMARY KEY, bytes bytea);
CREATE TRIGGER j AFTER INSERT ON typed
	FOR EACH ROW EXECUTE FUNCTION topics.produce_change('change_jsonb');
CREATE TRIGGER b AFTER INSERT ON typed
	FOR EACH ROW EXECUTE FUNCTION topics.produce_change('change_bytea', 'bytes');
CREATE TRIGGER c AFTER INSERT ON typed
	FOR EACH ROW EXECUTE FUNCTION topics.produce_change('change_bytea', 'id');
CREATE TRIGGER d AFTER INSERT OR DELETE ON typed
	FOR EACH ROW EXECUTE FUNCTION topics.produce_change('change_domain');
INSERT INTO typed VALUES (9000000000, '\x00ff');
SELECT key, value - 'time' FROM topic.change_jsonb;
SELECT key, convert_from(value, 'UTF8')::jsonb - 'time' FROM topic.change_bytea ORDER BY "offset";
SELECT key, value - 'time' FROM topic.change_domain;
SELECT pg_temp.try('DELETE FROM typed');
CREATE TRIGGER e AFTER UPDATE ON typed
	FOR EACH ROW EXECUTE FUNCTION topics.produce_change('change_jsonb', 'bytes');
SELECT pg_temp.try('UPDATE typed SET id = id');

-- a compacted topic: DELETE leaves a tombstone, and TRUNCATE has no key
SELECT topics.create_topic('change_compact', cleanup_policy => 'compact');
CREATE TABLE latest (id int PRIMARY KEY, v text);
CREATE TRIGGER changes AFTER INSERT OR UPDATE OR DELETE ON latest
	FOR EACH ROW EXECUTE FUNCTION topics.produce_change('change_compact');
CREATE TRIGGER truncated AFTER TRUNCATE ON latest
	FOR EACH STATEMENT EXECUTE FUNCTION topics.produce_change('change_compact');
INSERT INTO latest VALUES (1, 'a');
UPDATE latest SET id = 2;
DELETE FROM latest;
SELECT key, value::jsonb ->> 'op' FROM topic.change_compact ORDER BY "offset";
SELECT pg_temp.try('TRUNCATE latest');

-- ---------------------------------------------------------------------
-- Tables of other kinds
-- ---------------------------------------------------------------------
CREATE SCHEMA "odd ""schema";
CREATE TABLE "odd ""schema"."Parts" (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE low PARTITION OF "odd ""schema"."Parts" FOR VALUES FROM (0) TO (10);
CREATE TABLE high (v text, gone int, id int NOT NULL);
ALTER TABLE high DROP COLUMN gone;
ALTER TABLE "odd ""schema"."Parts" ATTACH PARTITION high FOR VALUES FROM (10) TO (20);
CREATE TRIGGER changes AFTER INSERT OR UPDATE OR DELETE ON "odd ""schema"."Parts"
	FOR EACH ROW EXECUTE FUNCTION topics.produce_change('change');
INSERT INTO "odd ""schema"."Parts" VALUES (1, 'low'), (11, 'high');
UPDATE "odd ""schema"."Parts" SET v = upper(v);
-- across partitions: a DELETE and an INSERT in any case
UPDATE "odd ""schema"."Parts" SET id = 12 WHERE id = 1;
SELECT DISTINCT schema FROM changes WHERE value ->> 'table' = 'Parts';
SELECT pg_temp.new();
-- a partition's own
CREATE TRIGGER own AFTER DELETE ON high
	FOR EACH ROW EXECUTE FUNCTION topics.produce_change('change', 'v');
DELETE FROM high WHERE id = 12;
SELECT pg_temp.new();

-- deferred to the commit
CREATE CONSTRAINT TRIGGER changes_2 AFTER INSERT ON items DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION topics.produce_change('change');
DROP TRIGGER changes ON items;
INSERT INTO items (id, name) VALUES (7, 'deferred');
SELECT pg_temp.new();

-- what replication applies fires what is enabled for it
SET session_replication_role = replica;
INSERT INTO items (id, name) VALUES (8, 'replicated');
SELECT pg_temp.new();
ALTER TABLE items ENABLE ALWAYS TRIGGER changes_2;
INSERT INTO items (id, name) VALUES (9, 'replicated');
RESET session_replication_role;
SELECT pg_temp.new();

-- ---------------------------------------------------------------------
-- A partition's columns in another order
-- ---------------------------------------------------------------------
SELECT topics.create_topic('change_order', 4, cleanup_policy => 'compact');
CREATE TABLE meas (dev int, gone int, day int, v text, PRIMARY KEY (dev, day))
	PARTITION BY RANGE (day);
ALTER TABLE meas DROP COLUMN gone;
CREATE TABLE meas_new PARTITION OF meas FOR VALUES FROM (10) TO (20);
CREATE TABLE meas_old (day int NOT NULL, lost text, v text, dev int NOT NULL);
ALTER TABLE meas_old DROP COLUMN lost;
ALTER TABLE meas ATTACH PARTITION meas_old FOR VALUES FROM (0) TO (10);
-- a level below, in an order of its own
CREATE TABLE meas_middle (v text, day int NOT NULL, dev int NOT NULL) PARTITION BY LIST (dev);
CREATE TABLE meas_deep (dev int NOT NULL, v text, day int NOT NULL);
ALTER TABLE meas_middle ATTACH PARTITION meas_deep DEFAULT;
ALTER TABLE meas ATTACH PARTITION meas_middle FOR VALUES FROM (20) TO (30);
CREATE TRIGGER changes AFTER INSERT OR UPDATE OR DELETE ON meas
	FOR EACH ROW EXECUTE FUNCTION topics.produce_change('change_order');
INSERT INTO meas VALUES (15, 5, 'old'), (5, 15, 'new'), (25, 5, 'old'), (5, 25, 'deep');
INSERT INTO meas_old (dev, day, v) VALUES (15, 6, 'directly');
SELECT key, value::json ->> 'table', value::json -> 'new' FROM topics.latest('change_order')
	ORDER BY value::json -> 'new' ->> 'v', key;
-- over partitions, and to a key that another one had
UPDATE meas SET dev = 5, day = 14 WHERE dev = 15 AND day = 5;
UPDATE meas SET dev = 15, day = 5 WHERE dev = 5 AND day = 15;
DELETE FROM meas WHERE day = 25;
SELECT key, value::json -> 'old', value::json -> 'new' FROM topics.latest('change_order')
	ORDER BY key COLLATE "C";
-- columns that are named, and columns that came later
ALTER TABLE meas ADD COLUMN late int DEFAULT 7;
CREATE OR REPLACE TRIGGER changes AFTER INSERT OR UPDATE OR DELETE ON meas
	FOR EACH ROW EXECUTE FUNCTION topics.produce_change('change_order', 'late', 'day', 'dev');
UPDATE meas SET v = 'late' WHERE day IN (5, 14);
SELECT key, value::json -> 'new' FROM topics.latest('change_order')
	WHERE value ~ 'late' ORDER BY key COLLATE "C";
-- the trigger of a table in between tells of that table
CREATE TRIGGER own AFTER INSERT ON meas_middle
	FOR EACH ROW EXECUTE FUNCTION topics.produce_change('change_order');
INSERT INTO meas VALUES (1, 21, 'middle');
SELECT key, value::json ->> 'table', value::json -> 'new' FROM topics.latest('change_order')
	WHERE value ~ 'middle' ORDER BY key COLLATE "C";
-- a partition's own primary key says nothing of the rows of the others
CREATE TABLE halves (id int, half int) PARTITION BY LIST (half);
CREATE TABLE halves_1 PARTITION OF halves (PRIMARY KEY (id)) FOR VALUES IN (1);
CREATE TRIGGER changes AFTER INSERT ON halves
	FOR EACH ROW EXECUTE FUNCTION topics.produce_change('change_order');
SELECT pg_temp.try('INSERT INTO halves VALUES (1, 1)');

-- ---------------------------------------------------------------------
-- A key is the same under all settings
-- ---------------------------------------------------------------------
CREATE FUNCTION pg_temp.settings(other boolean) RETURNS void LANGUAGE sql AS $$
	SELECT set_config(name, CASE WHEN other THEN its_other ELSE usual END, false)
	FROM (VALUES
			('timezone', 'UTC', 'Asia/Tokyo'),
			('datestyle', 'ISO, MDY', 'German, DMY'),
			('intervalstyle', 'postgres', 'sql_standard'),
			('extra_float_digits', '1', '-15'),
			('bytea_output', 'hex', 'escape'),
			('lc_monetary', 'C', 'C.UTF-8'),
			('quote_all_identifiers', 'off', 'on'),
			('array_nulls', 'on', 'off'),
			('search_path', 'public', 'kinds, public'))
		o (name, usual, its_other)
$$;
CREATE SCHEMA kinds;
CREATE TYPE kinds.pair AS (at timestamptz, f float8);
CREATE TYPE kinds.span AS RANGE (subtype = timestamptz);
CREATE DOMAIN kinds.moment AS timestamptz;
CREATE TABLE kinds.named ();
-- each in a table of its own; twice, with a key of one column and with one of two
CREATE TEMP TABLE kind (name text, type text, value text);
INSERT INTO kind VALUES
	('timestamptz', 'timestamptz', '2020-01-01 12:00:00.123456Z'),
	('timestamp', 'timestamp', '2020-01-02 12:00:00'),
	('timetz', 'timetz', '12:00:00+03'),
	('date', 'date', '2020-01-02'),
	('interval', 'interval', '-1 year 2 days -03:00:01'),
	('float8', 'float8', '0.1234567890123456'),
	('float4', 'float4', '0.12345678'),
	('money', 'money', '12.34'),
	('bytea', 'bytea', '\x5c00ff'),
	('regclass', 'regclass', 'kinds.named'),
	('regtype', 'regtype', 'kinds.pair'),
	('dates', 'date[]', '{2020-01-02,NULL}'),
	('byteas', 'bytea[]', '{"\\x00ff"}'),
	('composite', 'kinds.pair', '("2020-01-01 12:00:00Z",0.1234567890123456)'),
	('composites', 'kinds.pair[]', '{"(\"2020-01-01 12:00:00Z\",0.1234567890123456)"}'),
	('range', 'tstzrange', '["2020-01-01 12:00:00Z",)'),
	('multirange', 'datemultirange', '{[2020-01-02,2020-01-03)}'),
	('own range', 'kinds.span', '["2020-01-01 13:00:00Z",)'),
	('domain', 'kinds.moment', '2020-01-01 12:00:00Z'),
	('domains', 'kinds.moment[]', '{2020-01-01 12:00:00Z}'),
	('jsonb', 'jsonb', '{"a": [1.50, "2020-01-02"]}'),
	('numeric', 'numeric', '1.50'),
	('text', 'text', 'a"b');
SELECT topics.create_topic('change_kind', 16, cleanup_policy => 'compact');
CREATE PROCEDURE pg_temp.change_all(other boolean, change text) LANGUAGE plpgsql AS $$
DECLARE k record;
BEGIN
	FOR k IN SELECT format('kinds.%I', 'of ' || name || n) AS relation
		FROM pg_temp.kind, generate_series(1, 2) n
	LOOP
		PERFORM pg_temp.settings(other);
		EXECUTE format(change, k.relation);
		PERFORM pg_temp.settings(false);
	END LOOP;
END $$;
DO $$
DECLARE k record;
BEGIN
	FOR k IN SELECT format('kinds.%I', 'of ' || name || n) AS relation, *
		FROM pg_temp.kind, generate_series(1, 2) n
	LOOP
		EXECUTE format('CREATE TABLE %s (name text DEFAULT %L, k %s, v int)',
			k.relation, k.name, k.type);
		EXECUTE format('CREATE TRIGGER changes AFTER INSERT OR UPDATE OR DELETE ON %s
			FOR EACH ROW EXECUTE FUNCTION topics.produce_change(''change_kind'', %s ''k'')',
			k.relation, CASE WHEN k.n = 2 THEN '''name'', ' END);
		EXECUTE format('INSERT INTO %s (k) VALUES (%L)', k.relation, k.value);
	END LOOP;
END $$;
SELECT value::json ->> 'table', key FROM topic.change_kind
	ORDER BY value::json ->> 'table' COLLATE "C";
CALL pg_temp.change_all(true, 'UPDATE %s SET v = 1');
CALL pg_temp.change_all(false, 'UPDATE %s SET v = 2');
-- a key of its own for each row, in one partition
SELECT count(DISTINCT key), count(DISTINCT (partition, key)),
		count(DISTINCT value::json ->> 'table')
	FROM topic.change_kind;

-- nor do the settings tell what text is as a key of a topic of another type
SELECT topics.create_topic('change_of_text', 4, key_type => 'timestamptz');
CREATE TABLE texts (d text, t timestamp);
CREATE TRIGGER d AFTER INSERT ON texts
	FOR EACH ROW EXECUTE FUNCTION topics.produce_change('change_of_text', 'd');
CREATE TRIGGER t AFTER INSERT ON texts
	FOR EACH ROW EXECUTE FUNCTION topics.produce_change('change_of_text', 't');
INSERT INTO texts VALUES ('02/01/2020', '2020-02-01');
SELECT pg_temp.settings(true) \g /dev/null
INSERT INTO public.texts VALUES ('02/01/2020', '01.02.2020');
SELECT pg_temp.settings(false) \g /dev/null
SELECT DISTINCT key FROM topic.change_of_text;
-- a domain is checked as anywhere, under the session's own, and limits its values
CREATE FUNCTION kinds.is_good(timestamptz) RETURNS boolean LANGUAGE plpgsql
	AS 'BEGIN RETURN good($1); END';
CREATE FUNCTION kinds.good(timestamptz) RETURNS boolean LANGUAGE sql
	RETURN $1 > '2000-01-01';
CREATE DOMAIN kinds.late AS timestamptz(0) CHECK (kinds.is_good(VALUE));
SELECT topics.create_topic('change_of_domain', key_type => 'kinds.late');
CREATE TABLE times (at timestamptz PRIMARY KEY);
CREATE TRIGGER changes AFTER INSERT ON times
	FOR EACH ROW EXECUTE FUNCTION topics.produce_change('change_of_domain');
SET search_path = kinds, public;
INSERT INTO times VALUES ('2020-01-01 00:00:00.7Z');
SELECT pg_temp.try('INSERT INTO times VALUES (''1999-01-01'')');
RESET search_path;
SELECT key FROM topic.change_of_domain;
-- where INSERT puts a key does not depend on them either
SELECT pg_temp.settings(false) \g /dev/null
SELECT count(topics.create_topic('kind_' || replace(name, ' ', '_'), 8, key_type => type))
	FROM kind;
CREATE PROCEDURE pg_temp.insert_all(other boolean) LANGUAGE plpgsql AS $$
DECLARE k record;
BEGIN
	FOR k IN SELECT 'kind_' || replace(name, ' ', '_') AS topic, * FROM pg_temp.kind LOOP
		PERFORM pg_temp.settings(other);
		EXECUTE format('INSERT INTO topic.%I (key) SELECT k FROM kinds.%I',
			k.topic, 'of ' || k.name || '1');
		PERFORM pg_temp.settings(false);
	END LOOP;
END $$;
CALL pg_temp.insert_all(false);
CALL pg_temp.insert_all(true);
SELECT count(*), count(DISTINCT topic) FROM topics.partition
	WHERE topic ~ '^kind_' AND log_end_offset = 2;
-- a tombstone meets each of them
CALL pg_temp.change_all(true, 'DELETE FROM %s');
SELECT count(*), count(value) FROM topics.latest('change_kind');
SET timezone = 'UTC';

-- ---------------------------------------------------------------------
-- Wrong use
-- ---------------------------------------------------------------------
SELECT pg_temp.try('SELECT topics.produce_change()');
CREATE TABLE wrong (id int PRIMARY KEY);
CREATE TRIGGER t BEFORE INSERT ON wrong
	FOR EACH ROW EXECUTE FUNCTION topics.produce_change('change');
SELECT pg_temp.try('INSERT INTO wrong VALUES (1)');
CREATE OR REPLACE TRIGGER t AFTER INSERT ON wrong
	FOR EACH STATEMENT EXECUTE FUNCTION topics.produce_change('change');
SELECT pg_temp.try('INSERT INTO wrong VALUES (1)');
CREATE OR REPLACE TRIGGER t AFTER INSERT ON wrong
	FOR EACH ROW EXECUTE FUNCTION topics.produce_change();
SELECT pg_temp.try('INSERT INTO wrong VALUES (1)');
CREATE OR REPLACE TRIGGER t AFTER INSERT ON wrong
	FOR EACH ROW EXECUTE FUNCTION topics.produce_change('change_nosuch');
SELECT pg_temp.try('INSERT INTO wrong VALUES (1)');
SELECT count(*) FROM wrong;

-- ---------------------------------------------------------------------
-- Rights: of who changes the table
-- ---------------------------------------------------------------------
CREATE ROLE regress_change;
GRANT USAGE ON SCHEMA public TO regress_change;
GRANT ALL ON items TO regress_change;
SET ROLE regress_change;
SELECT pg_temp.try('INSERT INTO items (id) VALUES (10); SET CONSTRAINTS ALL IMMEDIATE');
RESET ROLE;
GRANT INSERT ON topic.change TO regress_change;
SET ROLE regress_change;
SELECT pg_temp.try('INSERT INTO items (id) VALUES (10); SET CONSTRAINTS ALL IMMEDIATE');
RESET ROLE;
SELECT pg_temp.new();
REVOKE INSERT ON topic.change FROM regress_change;
SET ROLE regress_change;
SELECT pg_temp.try('INSERT INTO items (id) VALUES (11); SET CONSTRAINTS ALL IMMEDIATE');
RESET ROLE;
DROP OWNED BY regress_change;
DROP ROLE regress_change;
-- nothing to do with whether the topic is there when nothing changes
DROP VIEW changes;
SELECT topics.drop_topic('change');
UPDATE items SET name = 'x' WHERE false;
SELECT pg_temp.try('INSERT INTO items (id) VALUES (12); SET CONSTRAINTS ALL IMMEDIATE');

DROP TABLE items, pairs, keyless, typed, latest, wrong, seen, "odd ""schema"."Parts",
	meas, halves, texts, times;
DROP SCHEMA "odd ""schema";
SELECT count(topics.drop_topic(topic)) FROM topics.topic WHERE topic ~ '^kind_';
SELECT topics.drop_topic(t)
	FROM unnest(ARRAY['change_jsonb', 'change_bytea', 'change_domain', 'change_compact',
		'change_order', 'change_kind', 'change_of_text', 'change_of_domain']) t;
DROP DOMAIN no_delete;
SET client_min_messages = warning;
DROP SCHEMA kinds CASCADE;
RESET client_min_messages;
