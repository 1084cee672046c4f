-- insert: INSERT and COPY into a topic's view, and what one cannot do to it
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup

SELECT topics.create_topic('insert_text', retention_time => '-1 s'),
	topics.create_topic('insert_two', 2, retention_time => '-1 s'),
	topics.create_topic('insert_log_time', timestamp_type => 'LogAppendTime');
CREATE VIEW insert_text AS
	SELECT r.offset, CASE WHEN "timestamp" < '2021-01-01' THEN "timestamp" END, key, value, headers
	FROM topic.insert_text r
	ORDER BY 1;

-- ---------------------------------------------------------------------
-- INSERT
-- ---------------------------------------------------------------------
INSERT INTO topic.insert_text (key, value) VALUES ('k1', 'v1'), ('k2', 'v2');
INSERT INTO topic.insert_text (value, key, headers, "timestamp", partition)
	VALUES ('v3', 'k3', '{"a": "1"}', '2020-01-01 00:00:00Z', 0);
INSERT INTO topic.insert_text
	VALUES (0, NULL, '2020-01-02 00:00:00Z', 'k4', 'v4', '[["a", null]]'),
		(DEFAULT, DEFAULT, DEFAULT, DEFAULT, 'v5', DEFAULT),
		(NULL, NULL, NULL, 'k6', NULL, NULL);
INSERT INTO topic.insert_text DEFAULT VALUES;
INSERT INTO topic.insert_text (value)
	SELECT 'select ' || i FROM generate_series(1, 3) i ORDER BY i DESC;
WITH w AS (INSERT INTO topic.insert_text (value) VALUES ('with') RETURNING value) SELECT * FROM w;
-- a transaction does not see its own records: INSERT from the topic itself ends
INSERT INTO topic.insert_text (key, value)
	SELECT 'copy of ' || key, value FROM topic.insert_text WHERE key IN ('k1', 'k2');
SELECT * FROM insert_text;
PREPARE insert_prepared (text, text) AS INSERT INTO topic.insert_text (key, value) VALUES ($1, $2);
EXECUTE insert_prepared ('p', '1');
EXECUTE insert_prepared ('p', '2');
SELECT r.offset, value FROM topic.insert_text r WHERE key = 'p' ORDER BY 1;

-- RETURNING: what is known before the commit, in the form it will have
INSERT INTO topic.insert_two (key, value, headers, "timestamp")
	VALUES ('key', 'v', '{"h": "1"}', '2020-01-01 00:00:00Z')
	RETURNING partition = (topics.murmur2('key') & 2147483647) % 2, "offset", "timestamp", key,
		value, headers;
INSERT INTO topic.insert_two (value, partition)
	VALUES ('v', 1)
	RETURNING partition, "offset", "timestamp" BETWEEN now() AND clock_timestamp();
INSERT INTO topic.insert_log_time (value, "timestamp")
	VALUES ('v', '2020-01-01')
	RETURNING "timestamp" IS DISTINCT FROM '2020-01-01' AS not_the_time_given;

-- another trigger sees what ours has chosen, and may show something else
CREATE FUNCTION insert_tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	NEW.key = format('partition %s of %s', NEW.partition, NEW.value);
	RETURN NEW;
END $$;
BEGIN;
CREATE TRIGGER z_row INSTEAD OF INSERT ON topic.insert_two
	FOR EACH ROW EXECUTE FUNCTION insert_tell();
INSERT INTO topic.insert_two (key, value, headers)
	SELECT 'key', i, '{"h": "1"}' FROM generate_series(1, 3) i
	RETURNING key, value, headers;
ROLLBACK;
DROP FUNCTION insert_tell();

-- checks are those of produce
SELECT s, pg_temp.try('INSERT INTO topic.insert_two ' || s) FROM unnest(ARRAY[
	$$(partition, value) VALUES (2, 'x')$$, $$(partition, value) VALUES (-1, 'x')$$,
	$$("timestamp") VALUES ('infinity')$$, $$(headers) VALUES ('1')$$,
	$$(headers) VALUES ('{"a": 1}')$$,
	$$(value) VALUES (repeat('x', 1048577))$$, $$("offset", value) VALUES (0, 'x')$$,
	$$("offset") VALUES (-1)$$, $$("offset") SELECT "offset" FROM topic.insert_text$$,
	$$VALUES (0, 1)$$, $$(nosuch) VALUES (1)$$]) s;
SELECT pg_temp.count('insert_two');
-- of a failed statement nothing stays
INSERT INTO topic.insert_two (partition, value) SELECT 2 - i, i FROM generate_series(1, 3) i;
SELECT pg_temp.count('insert_two');

-- domains
CREATE DOMAIN insert_key AS text NOT NULL CHECK (VALUE <> '');
CREATE DOMAIN insert_value AS int CHECK (VALUE > 0);
SELECT topics.create_topic('insert_domain', 1, 'insert_key', 'insert_value');
INSERT INTO topic.insert_domain (key, value) VALUES ('a', 1), ('b', NULL);
SELECT s, pg_temp.try('INSERT INTO topic.insert_domain ' || s)
	FROM unnest(ARRAY[$$(value) VALUES (1)$$, $$(key) VALUES (NULL)$$, $$(key) VALUES ('')$$,
		$$(key, value) VALUES ('c', 0)$$, $$(key, value) VALUES ('c', 'x')$$, 'DEFAULT VALUES']) s;

-- ON CONFLICT has nothing to conflict with; MERGE is not for views before PostgreSQL 17
SELECT pg_temp.try($$INSERT INTO topic.insert_two (value) VALUES ('x')
	ON CONFLICT ("offset") DO NOTHING$$);
BEGIN;
SELECT pg_temp.try($$MERGE INTO topic.insert_two t USING (VALUES (1)) s (a) ON false
		WHEN NOT MATCHED THEN INSERT (value) VALUES ('x')$$)
	~ CASE WHEN current_setting('server_version_num')::int >= 170000 THEN '^ok$'
		ELSE '^0A000: cannot execute MERGE' END;
ROLLBACK;

-- ---------------------------------------------------------------------
-- COPY
-- ---------------------------------------------------------------------
SELECT max("offset") + 1 AS n FROM topic.insert_text \gset
COPY topic.insert_text (value) FROM STDIN;
copied 1
\N
tab\there, newline\nthere, backslash \\

\.
COPY topic.insert_text (key, value) FROM STDIN (FORMAT csv, HEADER);
key,value
ck,"a ""quoted""
value"
,""
\.
COPY topic.insert_text (headers, "timestamp", value, partition) FROM STDIN;
{"a": "1"}	2020-01-01 00:00:00Z	all	0
[["a", {"base64": "AA=="}], ["a", "2"]]	2020-01-02 00:00:00Z	\N	\N
\.
COPY topic.insert_text FROM STDIN;
0	\N	2020-01-03 00:00:00Z	whole	row	\N
\.
COPY topic.insert_text (key, value) FROM STDIN WHERE key <> 'left out';
left out	1
kept	2
\.
COPY topic.insert_text (key) FROM STDIN;
\.
SELECT * FROM insert_text WHERE "offset" >= :n;
-- a bad row takes the others with it
COPY topic.insert_text (key, headers) FROM STDIN;
good	\N
bad	{"a": 1}
\.
COPY topic.insert_text (value, partition) FROM STDIN;
good	0
bad	1
\.
COPY topic.insert_text ("offset", value) FROM STDIN;
5	x
\.
COPY topic.insert_text FROM STDIN;
0	5	2020-01-03 00:00:00Z	whole	row	\N
\.
COPY topic.insert_domain (key, value) FROM STDIN;
c	3
c	-3
\.
-- a column that is left out is NULL, which the domain does not allow
COPY topic.insert_domain (value) FROM STDIN;
4
\.
COPY topic.insert_text (value) FROM STDIN (FREEZE);
x
\.
SELECT count(*) FROM insert_text WHERE key = 'good' OR value IN ('good', 'x');
SELECT key, value FROM topic.insert_domain r ORDER BY r.offset;
-- out, by a query, and in again
BEGIN;
COPY topic.insert_text (value) FROM STDIN;
not committed
\.
ROLLBACK;
BEGIN;
SAVEPOINT a;
COPY topic.insert_text (value) FROM STDIN;
not committed
\.
ROLLBACK TO a;
COPY topic.insert_text (value) FROM STDIN;
committed
\.
COMMIT;
COPY (SELECT key, value FROM topic.insert_text r WHERE r.offset >= :n + 4 ORDER BY r.offset)
	TO STDOUT;
COPY topic.insert_text TO STDOUT;
-- binary
CREATE TABLE insert_table (value bytea);
INSERT INTO insert_table SELECT sha512(int4send(i)) FROM generate_series(1, 1000) i;
SELECT topics.create_topic('insert_bytea', 1, 'bytea', 'bytea');
\getenv abs_builddir PG_ABS_BUILDDIR
\set file :abs_builddir '/results/insert_copy.data'
COPY (SELECT value FROM insert_table) TO :'file' (FORMAT binary);
COPY topic.insert_bytea (value) FROM :'file' (FORMAT binary);
SELECT count(*), bool_and(value = sha512(int4send(r.offset::int + 1))) FROM topic.insert_bytea r;
-- order and count of many, beyond work_mem
SET work_mem = '64kB';
SELECT topics.create_topic('insert_many');
COPY (SELECT i FROM generate_series(0, 29999) i) TO :'file';
COPY topic.insert_many (value) FROM :'file';
INSERT INTO topic.insert_many (value) SELECT i FROM generate_series(30000, 49999) i;
RESET work_mem;
SELECT count(*), bool_and(value = r.offset::text) FROM topic.insert_many r;

-- ---------------------------------------------------------------------
-- What is written stays, also where nothing matches
-- ---------------------------------------------------------------------
SELECT s, pg_temp.try(s) FROM unnest(ARRAY[
	$$UPDATE topic.insert_text SET value = 'x'$$,
	$$UPDATE topic.insert_text SET value = 'x' WHERE false$$,
	$$UPDATE topic.insert_text SET value = 'x' WHERE "offset" = -1$$,
	'DELETE FROM topic.insert_text', 'DELETE FROM topic.insert_text WHERE false',
	'TRUNCATE topic.insert_text', 'SELECT * FROM topic.insert_text FOR UPDATE',
	'LOCK TABLE topic.insert_text IN SHARE MODE']) s;
SELECT s, pg_temp.try(format(s, pg_temp.log_table('insert_text'))) FROM unnest(ARRAY[
	'TRUNCATE %s', 'TRUNCATE %s_p0', 'TRUNCATE %s_p0_s1', 'DELETE FROM %s', 'DELETE FROM %s_p0_s1',
	$$UPDATE %s SET value = 'x'$$, $$UPDATE %s_p0_s1 SET value = 'x' WHERE "offset" = 0$$,
	'UPDATE %s_p0_s1 SET "offset" = 1000000', 'UPDATE %s SET partition = 0',
	'SELECT * FROM %s FOR UPDATE', 'SELECT * FROM %s_p0_s1 FOR KEY SHARE',
	'INSERT INTO %s ("offset", "timestamp", partition) VALUES (0, now(), 0)',
	'INSERT INTO %s ("offset", "timestamp", partition) VALUES (5, now(), 0)',
	'INSERT INTO %s ("offset", "timestamp", partition) VALUES (-1, now(), 0)',
	'INSERT INTO %s ("offset", "timestamp", partition) VALUES (NULL, now(), 0)',
	'INSERT INTO %s_p0_s1 ("offset", "timestamp", partition) VALUES (0, now(), 0)']) s;
SELECT count(*), count(DISTINCT "offset"), max("offset") + 1 = count(*) FROM topic.insert_text;
-- the trigger functions are for topics only
CREATE VIEW insert_not AS
	SELECT NULL::int AS partition, NULL::bigint AS "offset", NULL::timestamptz AS "timestamp",
		NULL::text AS key, NULL::text AS value, NULL::jsonb AS headers;
CREATE TRIGGER produce INSTEAD OF INSERT ON insert_not
	FOR EACH ROW EXECUTE FUNCTION topics.insert_record();
SELECT regexp_replace(pg_temp.try('INSERT INTO insert_not VALUES (0)'), 'relation \d+',
	'relation N');
CREATE TRIGGER produce BEFORE INSERT ON insert_table
	FOR EACH ROW EXECUTE FUNCTION topics.insert_record();
SELECT pg_temp.try('INSERT INTO insert_table VALUES (NULL)');
SELECT pg_temp.try('SELECT topics.insert_record()'), pg_temp.try('SELECT topics.append_only()');
-- where the view's triggers do not fire nothing is lost quietly
SET session_replication_role = replica;
SELECT stmt, pg_temp.try(stmt) FROM unnest(ARRAY[
	'INSERT INTO topic.insert_text (value) VALUES (1)',
	'WITH i AS (INSERT INTO topic.insert_text (value) VALUES (1) RETURNING 1) SELECT 1',
	'UPDATE topic.insert_text SET value = 1', 'DELETE FROM topic.insert_text']) stmt;
\set VERBOSITY default
\copy topic.insert_text (value) FROM /dev/null
\set VERBOSITY terse
COPY (SELECT count(*) FROM topic.insert_text WHERE value IS NULL) TO STDOUT;
EXPLAIN (COSTS OFF) INSERT INTO topic.insert_text (value) VALUES (1);
SELECT topics.produce('insert_text', 'with produce');
RESET session_replication_role;
SELECT value FROM topic.insert_text ORDER BY "offset" DESC LIMIT 1;

DROP VIEW insert_text, insert_not;
DROP TABLE insert_table;
SELECT topics.drop_topic('insert_' || t)
	FROM unnest(ARRAY['text', 'two', 'log_time', 'domain', 'bytea', 'many']) t;
DROP DOMAIN insert_key, insert_value;
