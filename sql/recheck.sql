-- recheck: what records were checked against holds when they are stored
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup

\set VERBOSITY terse
CREATE DOMAIN recheck_key AS text;
CREATE DOMAIN recheck_base AS int;
CREATE DOMAIN recheck_value AS recheck_base;
SELECT topics.create_topic('recheck', 2, 'recheck_key', 'recheck_value', retention_time => '-1 s'),
	topics.create_topic('recheck_plain', 2, retention_time => '-1 s');

-- ---------------------------------------------------------------------
-- A domain gets a constraint in the transaction that produces
-- ---------------------------------------------------------------------
BEGIN;
SELECT topics.produce('recheck', '1', 'k') IS NOT NULL,
	topics.produce('recheck_plain', 'lost') IS NOT NULL;
ALTER DOMAIN recheck_value ADD CONSTRAINT large CHECK (VALUE > 10);
COMMIT;
SELECT pg_temp.count('recheck'), pg_temp.count('recheck_plain');
-- of the key; of the domain below; NOT NULL, there too; what is not validated holds from now on
BEGIN;
SELECT topics.produce('recheck', '1', 'Key') IS NOT NULL;
ALTER DOMAIN recheck_key ADD CONSTRAINT small CHECK (VALUE = lower(VALUE));
COMMIT;
BEGIN;
SELECT topics.produce('recheck', '1', 'k') IS NOT NULL;
ALTER DOMAIN recheck_base ADD CONSTRAINT large CHECK (VALUE > 10);
COMMIT;
BEGIN;
SELECT topics.produce('recheck', '1') IS NOT NULL;
ALTER DOMAIN recheck_key SET NOT NULL;
COMMIT;
BEGIN;
SELECT topics.produce('recheck', NULL, 'k') IS NOT NULL;
ALTER DOMAIN recheck_base SET NOT NULL;
COMMIT;
BEGIN;
SELECT topics.produce('recheck', '1', 'k') IS NOT NULL;
ALTER DOMAIN recheck_value ADD CONSTRAINT large CHECK (VALUE > 10) NOT VALID;
COMMIT;
-- whatever way a record comes
BEGIN;
INSERT INTO topic.recheck (key, value) VALUES ('k', 1);
ALTER DOMAIN recheck_value ADD CONSTRAINT large CHECK (VALUE > 10);
COMMIT;
BEGIN;
COPY topic.recheck (key, value) FROM STDIN;
k	1
\.
ALTER DOMAIN recheck_value ADD CONSTRAINT large CHECK (VALUE > 10);
COMMIT;
BEGIN;
SELECT topics.produce_batch('recheck', '{11,12,1}'::text[], '{a,b,c}'::text[]);
ALTER DOMAIN recheck_value ADD CONSTRAINT large CHECK (VALUE > 10);
COMMIT;
DO $$
BEGIN
	PERFORM topics.produce('recheck', '1', 'k');
	ALTER DOMAIN recheck_value ADD CONSTRAINT large CHECK (VALUE > 10);
	COMMIT;
END $$;
-- a statement that has prepared its checks before
CREATE FUNCTION recheck_alter() RETURNS int LANGUAGE plpgsql AS
$$ BEGIN ALTER DOMAIN recheck_base ADD CONSTRAINT large CHECK (VALUE > 10); RETURN 1; END $$;
INSERT INTO topic.recheck (key, value) SELECT 'k', recheck_alter();
-- many, in a file
SET work_mem = '64kB';
BEGIN;
SELECT count(topics.produce('recheck', (i + 10)::text, 'k')) FROM generate_series(1, 20000) i;
SELECT topics.produce('recheck', '1', 'k') IS NOT NULL;
ALTER DOMAIN recheck_value ADD CONSTRAINT large CHECK (VALUE > 10);
COMMIT;
SELECT pg_temp.count('recheck');

-- what holds is stored, what was rolled back does not matter
BEGIN;
SELECT topics.produce('recheck', '11', 'k') IS NOT NULL,
	topics.produce('recheck', NULL, NULL) IS NOT NULL;
SAVEPOINT a;
SELECT topics.produce('recheck', '1', 'k') IS NOT NULL;
ROLLBACK TO a;
ALTER DOMAIN recheck_value ADD CONSTRAINT large CHECK (VALUE > 10);
SAVEPOINT a;
ALTER DOMAIN recheck_value ADD CONSTRAINT larger CHECK (VALUE > 20);
ROLLBACK TO a;
COMMIT;
SELECT pg_temp.count('recheck');
ALTER DOMAIN recheck_value DROP CONSTRAINT large;
BEGIN;
SELECT count(topics.produce('recheck', (i + 10)::text, 'k')) FROM generate_series(1, 20000) i;
ALTER DOMAIN recheck_value ADD CONSTRAINT large CHECK (VALUE > 10);
COMMIT;
RESET work_mem;
SELECT pg_temp.count('recheck');
SELECT topics.produce('recheck', '1', 'k');
SELECT topics.produce('recheck', '11', 'k') IS NOT NULL;

-- values that are stored out of line
CREATE DOMAIN recheck_text AS text;
SELECT topics.create_topic('recheck_wide', value_type => 'recheck_text', retention_time => '-1 s');
BEGIN;
SELECT topics.produce('recheck_wide', repeat('x', 100000)),
	topics.produce('recheck_wide', (SELECT string_agg(md5(i::text), '')
		FROM generate_series(1, 1000) i));
ALTER DOMAIN recheck_text ADD CONSTRAINT wide CHECK (length(VALUE) > 31999);
COMMIT;
BEGIN;
SELECT topics.produce('recheck_wide', repeat('x', 40000));
SELECT pg_temp.try('ALTER DOMAIN recheck_text ADD CONSTRAINT wider CHECK (length(VALUE) > 32000)');
ROLLBACK;
BEGIN;
SELECT topics.produce('recheck_wide', repeat('x', 40000));
ALTER DOMAIN recheck_text ADD CONSTRAINT x CHECK (VALUE !~ '^x') NOT VALID;
COMMIT;
SELECT length(value) FROM topic.recheck_wide r ORDER BY r.offset;
-- a consumer's work is taken back with it
BEGIN;
SELECT count(*) FROM topics.consume('recheck_group', 'recheck_wide');
SELECT topics.produce('recheck', '11', 'k') IS NOT NULL;
ALTER DOMAIN recheck_value ADD CONSTRAINT never CHECK (VALUE <> 11) NOT VALID;
COMMIT;
SELECT count(*) FROM topics.consume('recheck_group', 'recheck_wide');

-- ---------------------------------------------------------------------
-- A CHECK at the commit: as who produced, with that search_path, and
-- without a trace
-- ---------------------------------------------------------------------
CREATE ROLE regress_recheck_user;
CREATE ROLE regress_recheck_other;
CREATE SCHEMA recheck_path;
GRANT USAGE ON SCHEMA recheck_path, topics TO regress_recheck_user, regress_recheck_other;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA topics TO regress_recheck_user, regress_recheck_other;
CREATE TABLE recheck_trace (t text);
GRANT ALL ON recheck_trace TO PUBLIC;
CREATE DOMAIN recheck_hostile AS text;
SELECT topics.create_topic('recheck_hostile', value_type => 'recheck_hostile',
	retention_time => '-1 s');
GRANT INSERT ON topic.recheck_hostile TO regress_recheck_user, regress_recheck_other;
CREATE FUNCTION recheck_path.recheck_who() RETURNS text LANGUAGE sql AS $$ SELECT 'path' $$;
CREATE FUNCTION public.recheck_who() RETURNS text LANGUAGE sql AS $$ SELECT 'public' $$;
CREATE FUNCTION public.recheck_check(v text) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
	RAISE NOTICE '% as %, path %, finds %', v,
		coalesce(nullif(current_user, session_user), 'itself'), current_setting('search_path'),
		recheck_who();
	BEGIN
		EXECUTE v;
		RAISE NOTICE 'done';
	EXCEPTION WHEN OTHERS THEN
		RAISE NOTICE '%', SQLERRM;
	END;
	RETURN true;
END $$;
-- roles and paths change from record to record
CREATE FUNCTION recheck_produce(v text) RETURNS int LANGUAGE sql SECURITY DEFINER
SET search_path = recheck_path, pg_temp AS $$ SELECT topics.produce('recheck_hostile', v) $$;
ALTER FUNCTION recheck_produce OWNER TO regress_recheck_user;
BEGIN;
SELECT recheck_produce('SELECT 1'), topics.produce('recheck_hostile', 'SELECT 2');
SET LOCAL ROLE regress_recheck_other;
SELECT topics.produce('recheck_hostile', 'SELECT 3');
RESET ROLE;
SELECT recheck_produce(c) FROM unnest(ARRAY['RESET ROLE', 'SET ROLE regress_recheck_other',
	'INSERT INTO public.recheck_trace VALUES (1)', 'CREATE TEMP TABLE recheck_temp ()',
	'SELECT topics.produce(''recheck_hostile'', ''SELECT 4'')',
	'SELECT * FROM topics.consume(''recheck_group'', ''recheck_wide'')',
	'SET LOCAL search_path = public', 'SET transaction_read_only = off',
	'DECLARE recheck_cursor CURSOR FOR SELECT 1',
	'DECLARE recheck_cursor CURSOR WITH HOLD FOR SELECT 1']) c;
ALTER DOMAIN recheck_hostile ADD CHECK (public.recheck_check(VALUE));
COMMIT;
SELECT count(*) FROM recheck_trace;
SELECT count(*) FROM pg_cursors WHERE name = 'recheck_cursor';
SELECT current_user = session_user, current_setting('search_path'),
	current_setting('transaction_read_only');
SELECT pg_temp.count('recheck_hostile');
-- what other types do is nothing to it, unless there are too many to remember
BEGIN;
SELECT topics.produce('recheck_hostile', 'SELECT 5');
CREATE TEMP TABLE recheck_other () ON COMMIT DROP;
ALTER DOMAIN recheck_text ADD CONSTRAINT short CHECK (length(VALUE) < 1000000);
COMMIT;
BEGIN;
SELECT topics.produce('recheck_hostile', 'SELECT 6');
SELECT count(pg_temp.try(format('CREATE TEMP TABLE recheck_%s () ON COMMIT DROP', i)))
	FROM generate_series(1, 70) i;
COMMIT;

-- ---------------------------------------------------------------------
-- A topic's settings get stricter
-- ---------------------------------------------------------------------
BEGIN;
SELECT topics.produce('recheck_plain', 'long') IS NOT NULL;
SELECT topics.alter_topic('recheck_plain', max_message_bytes => 3);
COMMIT;
BEGIN;
SELECT topics.produce('recheck_plain', 'abc') IS NOT NULL;
SAVEPOINT a;
SELECT topics.produce('recheck_plain', 'long') IS NOT NULL;
ROLLBACK TO a;
SELECT topics.alter_topic('recheck_plain', max_message_bytes => 3);
COMMIT;
BEGIN;
SELECT topics.alter_topic('recheck_plain', max_message_bytes => 100000);
SELECT topics.produce('recheck_plain', repeat('x', 90000)) IS NOT NULL;
SELECT topics.alter_topic('recheck_plain', max_message_bytes => 89999);
COMMIT;
BEGIN;
SELECT topics.produce('recheck_plain', 'abc') IS NOT NULL;
SELECT topics.alter_topic('recheck_plain', cleanup_policy => 'compact');
COMMIT;
BEGIN;
SELECT topics.produce('recheck_plain', 'ab', 'k') IS NOT NULL;
SELECT topics.alter_topic('recheck_plain', cleanup_policy => 'compact');
COMMIT;
SELECT key, value FROM topic.recheck_plain ORDER BY 2;

-- ---------------------------------------------------------------------
-- What PostgreSQL refuses to change while a topic has a column of it, records
-- or not
-- ---------------------------------------------------------------------
CREATE DOMAIN recheck_inner AS int;
CREATE TYPE recheck_pair AS (a recheck_inner, b int);
CREATE TYPE recheck_range AS RANGE (subtype = recheck_inner);
CREATE DOMAIN recheck_array AS recheck_inner[];
CREATE DOMAIN recheck_pairs AS recheck_pair[];
CREATE TABLE recheck_row (a recheck_inner, b int);
-- what a command says, and undo it
CREATE FUNCTION pg_temp.would(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	result := pg_temp.try(command);
	RAISE EXCEPTION 'undo';
EXCEPTION WHEN raise_exception THEN
	RETURN result;
END $$;
CREATE FUNCTION pg_temp.try_with(type text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	command text;
BEGIN
	PERFORM topics.create_topic('recheck_type', value_type => type);
	RETURN NEXT type;
	FOREACH command IN ARRAY ARRAY['DOMAIN recheck_inner ADD CHECK (VALUE > 0)',
		'DOMAIN recheck_inner SET NOT NULL',
		'TYPE recheck_pair ALTER ATTRIBUTE b TYPE text', 'TABLE recheck_row ALTER b TYPE text',
		'TABLE recheck_row ADD c int DEFAULT 1'] LOOP
		IF split_part(command, ' ', 2) = 'recheck_inner' OR type ~ split_part(command, ' ', 2) THEN
			RETURN NEXT '  ' || command || E'\n    ' || pg_temp.would('ALTER ' || command);
		END IF;
	END LOOP;
	RETURN NEXT '  DROP TYPE CASCADE: ' || pg_temp.would('DROP DOMAIN recheck_inner CASCADE');
	PERFORM topics.drop_topic('recheck_type');
END $$;
SET client_min_messages = warning;
SELECT pg_temp.try_with(t) FROM unnest(ARRAY['recheck_inner[]', 'recheck_pair', 'recheck_pair[]',
	'recheck_pairs', 'recheck_range', 'recheck_multirange', 'recheck_array', 'recheck_row']) t;
-- a value of an enum type that is not committed yet is not produced
CREATE TYPE recheck_enum AS ENUM ('a');
SELECT topics.create_topic('recheck_enum', value_type => 'recheck_enum');
BEGIN;
ALTER TYPE recheck_enum ADD VALUE 'b';
SELECT topics.produce('recheck_enum', 'b');
ROLLBACK;

SELECT count(topics.drop_topic(t))
	FROM unnest(ARRAY['recheck', 'recheck_plain', 'recheck_wide', 'recheck_hostile',
		'recheck_enum']) t;
SELECT topics.delete_group('recheck_group');
DROP TABLE recheck_trace, recheck_row;
DROP DOMAIN recheck_value, recheck_base, recheck_key, recheck_text, recheck_hostile, recheck_array,
	recheck_pairs;
DROP TYPE recheck_range, recheck_pair, recheck_enum;
DROP DOMAIN recheck_inner;
DROP FUNCTION recheck_check, recheck_produce, public.recheck_who, recheck_alter;
DROP SCHEMA recheck_path CASCADE;
DROP OWNED BY regress_recheck_user, regress_recheck_other;
DROP ROLE regress_recheck_user, regress_recheck_other;
