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

DROP TABLE items, pairs, keyless, typed, latest, wrong, seen, "odd ""schema"."Parts";
DROP SCHEMA "odd ""schema";
SELECT topics.drop_topic(t)
	FROM unnest(ARRAY['change_jsonb', 'change_bytea', 'change_domain', 'change_compact']) t;
DROP DOMAIN no_delete;
