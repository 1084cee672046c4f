-- errors: they name the topic and the partition, the function that was called,
-- the argument that is null, the header, element, key or value that is bad
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup
\set SHOW_CONTEXT always
SELECT topics.create_topic('errors_int', 2, 'int', 'int');
SELECT topics.create_topic('errors', 1);
CREATE DOMAIN errors_domain AS text CHECK (VALUE <> 'bad');
SELECT topics.create_topic('errors_checked', 1, value_type => 'errors_domain');

-- ---------------------------------------------------------------------
-- The function called, not its twin; the argument that is null
-- ---------------------------------------------------------------------
SELECT topics.fetch_bytea('errors', NULL, 0);
SELECT * FROM topics.fetch_bytea('errors', 0, NULL);
SELECT * FROM topics.fetch('errors', 0, 0, max_wait => NULL);
SELECT * FROM topics.consume_bytea('errors_group', NULL);
SELECT topics.produce(NULL, 'x'::bytea);
SELECT topics.produce_batch_bytea('errors', NULL);
SELECT topics.produce_batch_bytea(NULL, '{}');
CALL topics.send_bytea(NULL, 'x');
SELECT * FROM topics.list_offsets('errors', NULL::timestamptz);
SELECT topics.commit_offset('errors_group', 'errors', 0, NULL);
SELECT topics.commit_offset('errors_group', 'errors', 0, 0, member_id => 'm');
BEGIN;
CALL topics.send_bytea('errors', 'x');
ROLLBACK;
BEGIN READ ONLY;
SELECT topics.produce_batch_bytea('errors', '{x}');
ROLLBACK;
BEGIN READ ONLY;
SELECT * FROM topics.consume_bytea('errors_group', 'errors');
ROLLBACK;
SELECT * FROM topics.fetch_bytea('errors', 0, 0, max_bytes => 0);

-- ---------------------------------------------------------------------
-- What of which record
-- ---------------------------------------------------------------------
SELECT topics.produce('errors_int', '1', 'x');
SELECT topics.produce('errors_int', 'x', '1');
SELECT topics.produce('errors_int', '1', '1', partition => 7);
SELECT topics.produce('errors_checked', 'bad');
SELECT topics.produce('errors_int', 'x'::bytea);
SELECT topics.produce('errors_int', '"x"'::jsonb);
CALL topics.send('errors_int', 'x');
SELECT topics.produce_batch('errors_int', '{1,2,x}');
SELECT topics.produce_batch('errors_int', '{1,2,3}', '{1,x,3}');
SELECT topics.produce_batch('errors_checked', '{good,bad}');
SELECT topics.produce_batch('errors', '{1,2}', headers => ARRAY['{}', '[["a"]]']::jsonb[]);
SELECT topics.produce_batch('errors', ARRAY['1', repeat('x', 1048577)]);
SELECT topics.produce_batch('errors', '{1,2}', create_times => '{now,infinity}');
SELECT topics.produce_batch_bytea('errors', ARRAY['1', '\xff']::bytea[]);
-- nothing of it was produced, and the next call says nothing of it
SELECT pg_temp.count('errors'), pg_temp.count('errors_int'), pg_temp.count('errors_checked');
SELECT topics.produce_batch('errors_int', '{1}', partition => 1);
SELECT 1 / 0;

-- ---------------------------------------------------------------------
-- Headers: which one, and no byte of its value
-- ---------------------------------------------------------------------
SELECT h, pg_temp.try(format('SELECT topics.produce(''errors'', ''v'', headers => %L)', h))
FROM unnest(ARRAY[
	'[["a", "1"], ["trace", {"base64": "A?E="}]]', '{"a": "1", "trace": {"base64": "AAE"}}',
	'[["a", {"base64": "AAE=="}]]', '[["a", {"base64": "=AAE"}]]', '[["a", {"base64": "A"}]]',
	'[["a", {"base64": "secret!"}]]', '[["a", "1"], ["b", 5]]', '[["a", "1"], [5, "b"]]',
	'[["a", "1"], ["b"]]', '{"a": "1", "b": {"c": "d"}}', '[["é", {"base64": "é"}]]', '5',
	'[["a", {"base64": "AA E=\n"}], ["b", {"base64": ""}], ["c", {"base64": "A-_A"}]]']) h;
SELECT pg_temp.try(format('SELECT topics.produce(''errors'', ''v'', headers => %L)',
	jsonb_build_array(jsonb_build_array(repeat('é', 40), 1))));
-- what is taken is what decode() takes
SELECT setseed(0.5);
SELECT s FROM (
		SELECT string_agg(
			substr('AQgz09+/= !-_' || chr(10) || chr(9), (random() * 14)::int + 1, 1), '')
		FROM generate_series(1, 2000) i, generate_series(1, 1 + i % 9) GROUP BY i) x (s),
	LATERAL (SELECT pg_temp.try(format('SELECT decode(%L, ''base64'')', s)) = 'ok' AS theirs,
		pg_temp.try(format('SELECT topics.produce(''errors'', ''v'', headers => %L)',
			jsonb_build_object('a', jsonb_build_object('base64', s)))) = 'ok' AS ours) y
	WHERE ours <> theirs;

-- ---------------------------------------------------------------------
-- "offset" of send: a result
-- ---------------------------------------------------------------------
CALL topics.send('errors', 'x', "offset" => 5);
CALL topics.send_bytea('errors', 'x', NULL, NULL, NULL, NULL, 0);
CALL topics.send('errors_int', '1', "offset" => NULL, partition => 0);
-- a variable of PL/pgSQL may have what was there before
DO $$
DECLARE p int; o bigint;
BEGIN
	FOR i IN 1 .. 2 LOOP
		CALL topics.send('errors_int', '1', NULL, NULL, p, NULL, o);
	END LOOP;
END $$;

-- ---------------------------------------------------------------------
-- Topics, not tables
-- ---------------------------------------------------------------------
TRUNCATE topic.errors;
TRUNCATE pg_temp.errors_nosuch, topic.errors;
TRUNCATE topics.topic;
CREATE TABLE errors_table (value text);
CREATE VIEW errors_view AS SELECT value FROM errors_table;
CREATE TRIGGER produce INSTEAD OF INSERT ON errors_view
	FOR EACH ROW EXECUTE FUNCTION topics.insert_record();
INSERT INTO errors_view VALUES ('x');
DROP TABLE errors_table CASCADE;
-- columns of a view, by its owner
CREATE ROLE regress_errors;
GRANT USAGE, CREATE ON SCHEMA topic TO regress_errors;
ALTER VIEW topic.errors OWNER TO regress_errors;
SET ROLE regress_errors;
ALTER VIEW topic.errors RENAME COLUMN key TO k;
ALTER TABLE topic.errors RENAME value TO v;
CREATE OR REPLACE VIEW topic.errors AS
	SELECT partition, "offset", "timestamp", value AS key, key AS value, headers
	FROM topic.errors_int;
SET search_path = topic;
ALTER TABLE errors RENAME COLUMN value TO v;
RESET search_path;
RESET ROLE;
-- where that was lifted, nothing is stored under another name
SET allow_system_table_mods = on;
ALTER VIEW topic.errors RENAME COLUMN key TO k;
ALTER VIEW topic.errors RENAME COLUMN value TO key;
ALTER VIEW topic.errors RENAME COLUMN k TO value;
INSERT INTO topic.errors (key, value) VALUES ('key', 'value');
\copy topic.errors (key, value) FROM /dev/null
ALTER VIEW topic.errors RENAME COLUMN value TO k;
ALTER VIEW topic.errors RENAME COLUMN key TO value;
ALTER VIEW topic.errors RENAME COLUMN k TO key;
RESET allow_system_table_mods;
INSERT INTO topic.errors (key, value) VALUES ('key', 'value');
SELECT key, value FROM topic.errors WHERE key IS NOT NULL;

SELECT topics.drop_topic(topic) FROM topics.topic WHERE topic ~ '^errors';
DROP DOMAIN errors_domain;
DROP OWNED BY regress_errors;
DROP ROLE regress_errors;
