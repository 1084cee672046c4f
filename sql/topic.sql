-- topic: create, alter, rename, drop, add partitions; the topic as a view
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup

-- How many partitions shared memory has room for, found without making them:
-- a topic whose first table has no room for its type fails after its places were taken.
CREATE FUNCTION pg_temp.free_places() RETURNS int LANGUAGE plpgsql
SET client_min_messages = warning AS $$
DECLARE
	low int := 0;
	high int := least(10000, current_setting('pg_topics.max_partitions')::int);
	middle int;
BEGIN
	WHILE low < high LOOP
		middle := (low + high + 1) / 2;
		EXECUTE (SELECT format('CREATE TYPE topic_log.t%s_p0 AS ENUM ()',
				last_value + is_called::int)
			FROM topic_log.topic_id_seq);
		BEGIN
			PERFORM topics.create_topic('topic_probe', middle);
			RAISE 'the probe was created';
		EXCEPTION
			WHEN program_limit_exceeded THEN high := middle - 1;
			WHEN duplicate_object THEN low := middle;
		END;
		EXECUTE (SELECT format('DROP TYPE IF EXISTS topic_log.t%s_p0, topic_log.t%s_p0',
				last_value, last_value + 1)
			FROM topic_log.topic_id_seq);
	END LOOP;
	RETURN low;
END $$;

-- All that topics leave in the catalogues and in shared memory; of segments,
-- which the worker may attach at any time, those that belong nowhere
CREATE FUNCTION pg_temp.traces() RETURNS text LANGUAGE sql AS $$
	SELECT md5(concat(
		(SELECT string_agg(c::text, ',' ORDER BY c.oid)
			FROM (SELECT oid, relname, relnamespace, relowner, relacl FROM pg_class
				WHERE relnamespace IN ('topics'::regnamespace, 'topic'::regnamespace,
						'topic_log'::regnamespace)
					AND relname !~ '^t\d+_p\d+_s') c),
		(SELECT string_agg(relname, ',') FROM pg_class
			WHERE relname ~ '^t\d+_p\d+_s\d+$' AND oid NOT IN (SELECT inhrelid FROM pg_inherits)),
		(SELECT count(*) FROM pg_class
			WHERE relkind = 't' AND oid NOT IN (SELECT reltoastrelid FROM pg_class)),
		(SELECT count(*) FROM pg_type
			WHERE typrelid <> 0 AND typrelid NOT IN (SELECT oid FROM pg_class)),
		(SELECT count(*) FROM pg_inherits
			WHERE inhrelid NOT IN (SELECT oid FROM pg_class)
				OR inhparent NOT IN (SELECT oid FROM pg_class)),
		(SELECT count(*) FROM pg_depend
			WHERE classid = 'pg_class'::regclass AND objid NOT IN (SELECT oid FROM pg_class)),
		(SELECT string_agg(t::text, ',' ORDER BY topic_id) FROM topic_log.topic t),
		(SELECT string_agg(concat_ws(' ', topic_id, partition, log_start_offset), ','
				ORDER BY topic_id, partition)
			FROM topic_log.partition),
		(SELECT count(*) FROM pg_shdepend
			WHERE classid = 'pg_class'::regclass
				AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
				AND objid NOT IN (SELECT oid FROM pg_class)),
		(SELECT count(*) FROM pg_trigger), pg_temp.free_places())) $$;

-- ---------------------------------------------------------------------
-- Create
-- ---------------------------------------------------------------------
SELECT pg_temp.try($$SELECT topics.create_topic('topic_a')$$);
\pset expanded on
\pset tuples_only off
SELECT topic, owner = current_user::regrole AS owned, partitions, retention_time, retention_bytes,
		segment_bytes, segment_time, max_message_bytes, timestamp_type, cleanup_policy,
		delete_retention_time, min_compaction_lag_time, min_cleanable_dirty_ratio, notify
	FROM topics.topic
	WHERE topic = 'topic_a';
-- every setting, by name
SELECT topics.create_topic('topic_b', partitions => 3, key_type => 'varchar(10)',
	value_type => 'numeric(5,2)[]', retention_time => '-1 ms', retention_bytes => 1000,
	segment_bytes => 65536, segment_time => '1 h', max_message_bytes => 1,
	timestamp_type => 'LogAppendTime', cleanup_policy => 'compact',
	delete_retention_time => '2 days', min_compaction_lag_time => '5 min',
	min_cleanable_dirty_ratio => 0, notify => false);
SELECT topic, partitions, retention_time, retention_bytes, segment_bytes, segment_time,
		max_message_bytes, timestamp_type, cleanup_policy, delete_retention_time,
		min_compaction_lag_time, min_cleanable_dirty_ratio, notify
	FROM topics.topic
	WHERE topic = 'topic_b';
\pset expanded off
\pset tuples_only on
SELECT attname, format_type(atttypid, atttypmod)
	FROM pg_attribute
	WHERE attrelid = 'topic.topic_b'::regclass AND attnum > 0
	ORDER BY attnum;
-- what is NULL is the default
SELECT topics.create_topic('topic_null', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
	NULL, NULL, NULL, NULL, NULL);
SELECT count(DISTINCT (partitions, retention_time, retention_bytes, segment_bytes, segment_time,
		max_message_bytes, timestamp_type, cleanup_policy, delete_retention_time,
		min_compaction_lag_time, min_cleanable_dirty_ratio, notify))
	FROM topics.topic
	WHERE topic IN ('topic_a', 'topic_null');
SELECT topics.drop_topic('topic_null');

-- the ends of ranges
SELECT s, pg_temp.try(format('SELECT topics.create_topic(%L, %s)', 'topic_bad', s))
	FROM unnest(ARRAY[
		'0', '-1', '100001', '2147483647', '-2147483648', 'segment_bytes => 65535',
		'segment_bytes => -1', 'segment_bytes => -9223372036854775808',
		'max_message_bytes => 0', 'max_message_bytes => -1', 'max_message_bytes => 268435457',
		'max_message_bytes => 2147483647',
		$$timestamp_type => 'createtime'$$, $$timestamp_type => ''$$, $$cleanup_policy => 'none'$$,
		$$cleanup_policy => 'compact;delete'$$,
		$$delete_retention_time => '-1 s'$$, $$min_compaction_lag_time => '-1 day'$$,
		'min_cleanable_dirty_ratio => -0.1', 'min_cleanable_dirty_ratio => 1.1',
		$$min_cleanable_dirty_ratio => 'NaN'$$, $$min_cleanable_dirty_ratio => 'infinity'$$]) s;
SELECT s, pg_temp.try(format('SELECT topics.create_topic(%L, %s), topics.drop_topic(%1$L)',
		'topic_good', s))
	FROM unnest(ARRAY[
		'16', 'segment_bytes => 9223372036854775807', 'max_message_bytes => 268435456',
		'retention_bytes => -9223372036854775808', 'retention_bytes => 9223372036854775807',
		$$retention_time => '178000000 years'$$, $$segment_time => '-178000000 years'$$,
		$$segment_time => '178000000 years'$$,
		$$cleanup_policy => 'compact,delete'$$, 'min_cleanable_dirty_ratio => 1']) s;

-- types
CREATE TYPE topic_enum AS ENUM ('a', 'b');
CREATE TYPE topic_pair AS (a int, b text);
CREATE DOMAIN topic_domain AS topic_pair CHECK ((VALUE).a > 0);
CREATE SCHEMA "Topic schema";
CREATE DOMAIN "Topic schema"."Do""main" AS int;
CREATE TYPE topic_shell;
SELECT t, pg_temp.try(format('SELECT topics.create_topic(%L, value_type => %L),
		topics.drop_topic(%1$L)', 'topic_type', t))
	FROM unnest(ARRAY[
		'int', 'double precision', 'timestamp(3) with time zone', 'character varying', 'char(3)',
		'"char"', 'bit varying(5)', 'interval day to second(3)',
		'numeric(1000,0)', 'text[]', 'int4range', 'topic_enum', 'topic_pair', 'topic_pair[]',
		'topic_domain', '"Topic schema"."Do""main"', 'pg_catalog.jsonb', 'pg_class',
		'', ' ', 'nosuch', 'public.nosuch', 'nosuch.text', 'text; DROP TABLE x', 'text) --',
		'text NOT NULL', 'text COLLATE "C"', 'setof int', 'serial',
		'anyelement', 'record', 'void', 'trigger', 'internal', 'cstring', 'unknown', 'topic_shell',
		'varchar(0)', 'numeric(1001,0)', 'int(3)']) t;
-- the argument is named, whatever is wrong with the type
SELECT topics.create_topic('topic_temp', key_type => 'nosuch');
SELECT topics.create_topic('topic_temp', value_type => 'int int');
-- a type of pg_temp goes with the session, and would take a column of the log with it
CREATE DOMAIN pg_temp.topic_temp AS text;
SELECT pg_temp.try($$SELECT topics.create_topic('topic_temp', value_type => 'pg_temp.topic_temp')$$)
		<> 'ok' AS refused,
	pg_temp.try($$SELECT topics.create_topic('topic_temp2', key_type => 'topic_temp[]')$$)
		<> 'ok' AS refused;
SET client_min_messages = warning;
SELECT topics.drop_topic('topic_temp', if_exists => true),
	topics.drop_topic('topic_temp2', if_exists => true);
RESET client_min_messages;
DROP DOMAIN pg_temp.topic_temp;
DROP DOMAIN topic_domain, "Topic schema"."Do""main";
DROP SCHEMA "Topic schema";
DROP TYPE topic_enum, topic_pair, topic_shell;

-- the name is taken
SELECT pg_temp.try($$SELECT topics.create_topic('topic_a')$$);
SELECT topics.create_topic('topic_a', 7, if_not_exists => true);
SELECT partitions FROM topics.topic WHERE topic = 'topic_a';
SELECT pg_temp.try($$SELECT topics.create_topic(NULL)$$);

-- ---------------------------------------------------------------------
-- Alter
-- ---------------------------------------------------------------------
SELECT topics.alter_topic('topic_a', retention_time => '1 day', retention_bytes => 5,
	segment_bytes => 70000, segment_time => '-1 s', max_message_bytes => 10,
	timestamp_type => 'LogAppendTime', cleanup_policy => 'compact,delete',
	delete_retention_time => '0', min_compaction_lag_time => '1 s',
	min_cleanable_dirty_ratio => 1, notify => false);
CREATE VIEW topic_settings AS
	SELECT retention_time, retention_bytes, segment_bytes, segment_time, max_message_bytes,
		timestamp_type, cleanup_policy, delete_retention_time, min_compaction_lag_time,
		min_cleanable_dirty_ratio, notify
	FROM topics.topic
	WHERE topic = 'topic_a';
SELECT * FROM topic_settings;
-- NULL and what is not named stay; what is produced next follows
SELECT topics.alter_topic('topic_a', notify => NULL);
SELECT * FROM topic_settings;
SELECT topics.alter_topic('topic_a', cleanup_policy => 'delete');
SELECT pg_temp.try($$SELECT topics.produce('topic_a', '12345678901')$$);
SELECT topics.alter_topic('topic_a', max_message_bytes => 11);
SELECT pg_temp.try($$SELECT topics.produce('topic_a', '12345678901')$$);
SELECT s, pg_temp.try(format('SELECT topics.alter_topic(%L, %s)', 'topic_a', s))
	FROM unnest(ARRAY['segment_bytes => 1', 'max_message_bytes => 0',
		$$timestamp_type => 'x'$$, $$cleanup_policy => ''$$, $$delete_retention_time => '-1'$$,
		'min_cleanable_dirty_ratio => 2']) s;
SELECT pg_temp.try($$SELECT topics.alter_topic('topic_nosuch')$$);
SELECT pg_temp.try($$SELECT topics.alter_topic(NULL)$$);
BEGIN;
SELECT topics.alter_topic('topic_a', max_message_bytes => 3, retention_bytes => 77);
SELECT pg_temp.try($$SELECT topics.produce('topic_a', '1234')$$);
ROLLBACK;
SELECT max_message_bytes, retention_bytes FROM topic_settings;
SELECT pg_temp.try($$SELECT topics.produce('topic_a', '1234')$$);
DROP VIEW topic_settings;

-- ---------------------------------------------------------------------
-- Rename
-- ---------------------------------------------------------------------
CREATE ROLE regress_topic_reader;
GRANT SELECT ON topic.topic_a TO regress_topic_reader;
SELECT topics.rename_topic('topic_a', 'topic_c');
SELECT r.offset, value FROM topic.topic_c r ORDER BY 1;
SELECT has_table_privilege('regress_topic_reader', 'topic.topic_c', 'SELECT');
SELECT topics.produce('topic_c', 'renamed');
SELECT r.offset, value FROM topics.fetch('topic_c', 0, 1) r;
SELECT pg_temp.try($$SELECT topics.produce('topic_a', 'x')$$);
SELECT pg_temp.try($$SELECT topics.rename_topic('topic_c', 'topic_b')$$);
SELECT pg_temp.try($$SELECT topics.rename_topic('topic_c', 'topic_c')$$);
SELECT pg_temp.try($$SELECT topics.rename_topic('topic_c', 'a b')$$);
SELECT pg_temp.try($$SELECT topics.rename_topic('topic_nosuch', 'topic_d')$$);
SELECT pg_temp.try($$SELECT topics.rename_topic('topic_c', NULL)$$);
-- ALTER VIEW is the same, with the same rule for names
ALTER VIEW topic.topic_c RENAME TO topic_a;
SELECT pg_temp.try($$ALTER VIEW topic.topic_a RENAME TO "a b"$$);
SELECT pg_temp.try($$ALTER VIEW topic.topic_a RENAME TO __a$$);
SELECT pg_temp.try($$ALTER TABLE topic.topic_a RENAME TO "%s"$$);
SELECT topic FROM topics.topic WHERE topic LIKE 'topic\_%' ORDER BY 1;
-- records produced before the rename arrive, under the new name
BEGIN;
SELECT topics.produce('topic_a', 'before');
SELECT topics.rename_topic('topic_a', 'topic_c');
SELECT topics.produce('topic_c', 'after');
COMMIT;
SELECT * FROM topics.last_produced();
SELECT r.offset, value FROM topic.topic_c r ORDER BY 1;
SELECT topics.rename_topic('topic_c', 'topic_a');

-- ---------------------------------------------------------------------
-- Add partitions
-- ---------------------------------------------------------------------
SELECT pg_temp.try($$SELECT topics.produce('topic_a', 'x', partition => 1)$$);
SELECT topics.add_partitions('topic_a', 3);
SELECT topics.produce('topic_a', 'in 1', partition => 1),
	topics.produce('topic_a', 'in 2', partition => 2);
SELECT partition, r.offset, value FROM topic.topic_a r ORDER BY 1, 2;
SELECT partition, log_start_offset, log_end_offset
	FROM topics.partition
	WHERE topic = 'topic_a'
	ORDER BY 1;
SELECT n, pg_temp.try(format('SELECT topics.add_partitions(%L, %s)', 'topic_a', n))
	FROM unnest(ARRAY['3', '2', '0', '-1', '100001', 'NULL']) n;
SELECT pg_temp.try($$SELECT topics.add_partitions('topic_nosuch', 2)$$);
-- in the transaction that adds it, and in one that does not commit
BEGIN;
SELECT topics.add_partitions('topic_a', 4);
SELECT topics.produce('topic_a', 'in 3', partition => 3);
COMMIT;
SELECT value FROM topics.fetch('topic_a', 3, 0);
BEGIN;
SELECT topics.add_partitions('topic_a', 5);
SELECT topics.produce('topic_a', 'in 4', partition => 4);
ROLLBACK;
SELECT pg_temp.try($$SELECT topics.produce('topic_a', 'x', partition => 4)$$);
SELECT partitions FROM topics.topic WHERE topic = 'topic_a';

-- ---------------------------------------------------------------------
-- ROLLBACK leaves no trace, in the catalogues or in shared memory
-- ---------------------------------------------------------------------
SELECT pg_temp.traces() AS before, pg_temp.free_places() AS free \gset
BEGIN; SELECT topics.create_topic('topic_r', 4);
SELECT topics.produce('topic_r', 'x', partition => 3); ROLLBACK;
SELECT pg_temp.traces() = :'before' AS create;
BEGIN; SELECT topics.drop_topic('topic_a'); ROLLBACK;
SELECT pg_temp.traces() = :'before' AS drop;
BEGIN; SELECT topics.rename_topic('topic_a', 'topic_r'); ROLLBACK;
SELECT pg_temp.traces() = :'before' AS rename;
BEGIN; SELECT topics.alter_topic('topic_a', retention_bytes => 1); ROLLBACK;
SELECT pg_temp.traces() = :'before' AS alter;
BEGIN; SELECT topics.add_partitions('topic_a', 6); ROLLBACK;
SELECT pg_temp.traces() = :'before' AS add_partitions;
BEGIN; SAVEPOINT a; SELECT topics.create_topic('topic_r', 4); ROLLBACK TO a; COMMIT;
SELECT pg_temp.traces() = :'before' AS create_in_savepoint;
BEGIN; SAVEPOINT a; SELECT topics.create_topic('topic_r', 4); RELEASE a; ROLLBACK;
SELECT pg_temp.traces() = :'before' AS create_released;
BEGIN; SAVEPOINT a; SELECT topics.drop_topic('topic_a'); ROLLBACK TO a; COMMIT;
SELECT pg_temp.traces() = :'before' AS drop_in_savepoint;
BEGIN; SAVEPOINT a; SELECT topics.add_partitions('topic_a', 9); ROLLBACK TO a; COMMIT;
SELECT pg_temp.traces() = :'before' AS add_in_savepoint;
BEGIN; SELECT topics.create_topic('topic_r', 2); SELECT topics.drop_topic('topic_r'); COMMIT;
SELECT pg_temp.traces() = :'before' AS create_and_drop;
BEGIN; SELECT topics.create_topic('topic_r', 2); SELECT topics.drop_topic('topic_r'); ROLLBACK;
SELECT pg_temp.traces() = :'before' AS neither;
DO $$ BEGIN
	PERFORM topics.create_topic('topic_r', 3);
	RAISE division_by_zero;
EXCEPTION WHEN division_by_zero THEN
END $$;
SELECT pg_temp.traces() = :'before' AS exception;
-- the log goes on where it was after a DROP that was rolled back
SELECT topics.produce('topic_a', 'after all', partition => 0);
SELECT r.offset, value FROM topics.fetch('topic_a', 0, 4) r;
-- what a savepoint keeps and what it drops
BEGIN;
SELECT topics.create_topic('topic_s1');
SAVEPOINT a;
SELECT topics.create_topic('topic_s2');
SELECT topics.drop_topic('topic_s1');
ROLLBACK TO a;
SELECT topics.produce('topic_s1', 'kept');
SELECT pg_temp.try($$SELECT topics.produce('topic_s2', 'x')$$);
COMMIT;
SELECT value FROM topic.topic_s1;
-- a topic is there only once, and gone for good: places are given back
SELECT topics.drop_topic('topic_s1');
SELECT pg_temp.traces() = :'before' AS same, pg_temp.free_places() = :free AS places;

-- ---------------------------------------------------------------------
-- Drop
-- ---------------------------------------------------------------------
SELECT topics.create_topic('topic_d', 2);
SELECT topics.produce('topic_d', 'old', partition => 1);
SELECT topic_id AS old_id FROM topics.topic WHERE topic = 'topic_d' \gset
CREATE VIEW topic_dependent AS SELECT * FROM topic.topic_d;
SELECT pg_temp.try($$SELECT topics.drop_topic('topic_d')$$);
SELECT pg_temp.count('topic_d');
DROP VIEW topic_dependent;
SELECT topics.drop_topic('topic_d');
SELECT count(*) FROM pg_class WHERE relname ~ ('^t' || :'old_id' || '(_|$)');
SELECT count(*) FROM topic_log.partition WHERE topic_id = :old_id;
SELECT pg_temp.try($$SELECT topics.drop_topic('topic_d')$$);
SELECT topics.drop_topic('topic_d', if_exists => true);
SELECT pg_temp.try($$SELECT topics.drop_topic(NULL)$$);
-- the same name again is another topic, also within a transaction
SELECT topics.create_topic('topic_d', 2);
SELECT pg_temp.count('topic_d'), topic_id > :old_id FROM topics.topic WHERE topic = 'topic_d';
BEGIN;
SELECT topics.produce('topic_d', 'to the old one', partition => 0);
SELECT topics.drop_topic('topic_d');
SELECT topics.create_topic('topic_d', 2);
SELECT topics.produce('topic_d', 'to the new one', partition => 0);
COMMIT;
BEGIN;
SELECT topics.drop_topic('topic_d');
SELECT topics.create_topic('topic_d', value_type => 'int');
SELECT topics.produce('topic_d', '42');
COMMIT;
SELECT value + 1 FROM topic.topic_d;
-- produced in a savepoint that was rolled back: nothing is lost by the drop
BEGIN;
SAVEPOINT a;
SELECT topics.produce('topic_d', '43');
ROLLBACK TO a;
SELECT topics.drop_topic('topic_d');
COMMIT;
SELECT count(*) FROM topics.topic WHERE topic = 'topic_d';

-- ---------------------------------------------------------------------
-- The topic is a view
-- ---------------------------------------------------------------------
CREATE ROLE regress_topic_one;
CREATE ROLE regress_topic_two;
GRANT USAGE, CREATE ON SCHEMA topic TO regress_topic_one, regress_topic_two;
CREATE FUNCTION pg_temp.log_rights(topic text) RETURNS text LANGUAGE sql AS
$$ SELECT string_agg(a.grantee::regrole || ' ' || a.privilege_type,
		', ' ORDER BY a.grantee::regrole::text)
	FROM pg_class c, aclexplode(c.relacl) a
	WHERE c.oid = pg_temp.log_table(topic)::regclass AND a.grantee <> c.relowner $$;
SELECT topics.create_topic('topic_v');
SELECT topics.produce('topic_v', 'x');
ALTER VIEW topic.topic_v OWNER TO regress_topic_one;
SELECT owner, pg_temp.log_rights(topic) FROM topics.topic WHERE topic = 'topic_v';
SET ROLE regress_topic_one;
SELECT value FROM topic.topic_v;
RESET ROLE;
REASSIGN OWNED BY regress_topic_one TO regress_topic_two;
SELECT owner, pg_temp.log_rights(topic) FROM topics.topic WHERE topic = 'topic_v';
SET ROLE regress_topic_two;
SELECT value FROM topic.topic_v;
RESET ROLE;
BEGIN;
ALTER TABLE topic.topic_v OWNER TO regress_topic_one;
ROLLBACK;
SELECT owner, pg_temp.log_rights(topic) FROM topics.topic WHERE topic = 'topic_v';
-- the log table's rights do not hold the former owner
DROP OWNED BY regress_topic_one;
DROP ROLE regress_topic_one;
SELECT pg_temp.try('ALTER VIEW topic.topic_v SET SCHEMA public');
SELECT pg_temp.try('ALTER TABLE topic.topic_v SET SCHEMA public');
SELECT pg_temp.try('DROP VIEW topic.topic_v');
SELECT pg_temp.try('DROP VIEW topic.topic_v CASCADE');
SELECT pg_temp.try('DROP OWNED BY regress_topic_two');
SELECT pg_temp.try('DROP OWNED BY regress_topic_two CASCADE');
SELECT pg_temp.try('DROP TABLE ' || pg_temp.log_table('topic_v') || ' CASCADE');
SELECT pg_temp.try('DROP SCHEMA topic CASCADE');
SELECT value FROM topic.topic_v;
-- the type of a column does not go either
CREATE DOMAIN topic_domain AS text;
SELECT topics.create_topic('topic_t', value_type => 'topic_domain');
SELECT pg_temp.try('DROP DOMAIN topic_domain CASCADE');
SELECT topics.drop_topic('topic_t');
DROP DOMAIN topic_domain;
-- other views there are no topics
CREATE VIEW topic.topic_other AS SELECT 1 AS one;
SELECT command, pg_temp.try(format('SELECT topics.%s', command))
	FROM unnest(ARRAY[$$alter_topic('topic_other')$$, $$add_partitions('topic_other', 2)$$,
		$$rename_topic('topic_other', 'topic_new')$$, $$repair_topic('topic_other')$$,
		$$drop_topic('topic_other', if_exists => true)$$, $$describe_topic('topic_other')$$,
		$$channel('topic_other')$$, $$produce_batch('topic_other', '{x}')$$,
		$$fetch('topic_other', 0, 0)$$, $$latest('topic_other')$$,
		$$list_offsets('topic_other', 'latest')$$, $$consume('topic_g', 'topic_other')$$,
		$$commit_offset('topic_g', 'topic_other', 0, 0)$$,
		$$reset_offset('topic_g', 'topic_other', to_position => 'latest')$$,
		$$delete_records('topic_other', 0, -1)$$]) command;
CALL topics.send('topic_other', 'x');
CALL topics.maintain('topic_other');
CALL topics.roll_segment('topic_other');
CALL topics.wait('topic_g', 'topic_other');
CALL topics.wait_offset('topic_other', 0, 0);
SELECT pg_temp.try($$SELECT topics.produce('topic_other', 'x')$$);
SELECT pg_temp.try($$SELECT topics.drop_topic('topic_other')$$);
SELECT pg_temp.try($$SELECT topics.create_topic('topic_other')$$);
SELECT pg_temp.try($$SELECT topics.create_topic('topic_other', if_not_exists => true)$$);
DROP VIEW topic.topic_other;
-- nor are tables; what the view was replaced by must have its columns
CREATE TABLE topic.topic_other (value text);
SELECT pg_temp.try($$SELECT topics.produce('topic_other', 'x')$$);
SELECT pg_temp.try($$SELECT topics.drop_topic('topic_other')$$);
SELECT pg_temp.try($$SELECT topics.create_topic('topic_other')$$);
SELECT pg_temp.try($$SELECT topics.create_topic('topic_other', if_not_exists => true)$$);
SELECT pg_temp.try($$SELECT topics.rename_topic('topic_v', 'topic_other')$$);
DROP TABLE topic.topic_other;
SET allow_system_table_mods = on;
CREATE OR REPLACE VIEW topic.topic_v AS
	SELECT partition, "offset", "timestamp", key, upper(value) AS value, headers, 1 AS more
	FROM topics.fetch('topic_a', 0, 0);
RESET allow_system_table_mods;
SELECT pg_temp.try($$INSERT INTO topic.topic_v (value) VALUES ('x')$$);
SELECT topics.produce('topic_v', 'produce does not need it');

SELECT topics.drop_topic('topic_v');
SELECT topics.drop_topic('topic_a');
SELECT topics.drop_topic('topic_b');
DROP OWNED BY regress_topic_two, regress_topic_reader;
DROP ROLE regress_topic_two, regress_topic_reader;
