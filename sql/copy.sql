-- copy: the usual COPY FROM into a topic does without the view's trigger,
-- which nobody can tell but by the time it takes; all else goes by the trigger
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup

SELECT topics.create_topic('copy_text', 2),
	topics.create_topic('copy_small', 1, max_message_bytes => 10);
CREATE ROLE copy_by_table;
CREATE ROLE copy_by_column;
CREATE ROLE copy_not;
GRANT USAGE ON SCHEMA topic TO copy_by_table, copy_by_column, copy_not;
GRANT INSERT ON topic.copy_text TO copy_by_table;
GRANT INSERT (key, value) ON topic.copy_text TO copy_by_column;
-- Calls of the trigger since the last flush of statistics
CREATE FUNCTION pg_temp.calls() RETURNS bigint LANGUAGE sql AS
$$ SELECT coalesce(pg_stat_get_xact_function_calls('topics.insert_record()'::regprocedure), 0) $$;
SET track_functions = 'all';

-- ---------------------------------------------------------------------
-- Without the trigger
-- ---------------------------------------------------------------------
SELECT pg_stat_force_next_flush();
BEGIN;
COPY topic.copy_text (value, partition) FROM STDIN;
plain	0
\N	0
\.
COPY topic.copy_text (partition, key, value)
	FROM STDIN (FORMAT csv, DELIMITER ';', NULL 'nix', QUOTE '''', ESCAPE '\', HEADER match,
		FORCE_NOT_NULL (key));
partition;key;value
0;nix;nix
0;'a;b';'it\'s'
\.
COPY topic.copy_text (value, partition) FROM STDIN (ENCODING 'latin1');
Zürich	0
\.
SELECT pg_temp.calls();
COMMIT;
SELECT r.offset, key, value FROM topic.copy_text r WHERE partition = 0 ORDER BY 1;
-- found by search_path it is the same view
SELECT pg_stat_force_next_flush();
BEGIN;
SET LOCAL search_path = topic;
COPY copy_text (value) FROM STDIN;
by search_path
\.
SELECT pg_temp.calls();
ROLLBACK;
-- a default of the view
ALTER VIEW topic.copy_text ALTER key SET DEFAULT 'from ' || 'default';
SELECT pg_stat_force_next_flush();
BEGIN;
COPY topic.copy_text (value, partition) FROM STDIN;
with default	1
\.
SELECT pg_temp.calls();
COMMIT;
ALTER VIEW topic.copy_text ALTER key DROP DEFAULT;
SELECT key, value FROM topic.copy_text r WHERE partition = 1;
-- the right to the whole view
SELECT pg_stat_force_next_flush();
BEGIN;
SET LOCAL ROLE copy_by_table;
COPY topic.copy_text (value) FROM STDIN;
allowed
\.
RESET ROLE;
SELECT pg_temp.calls();
ROLLBACK;

-- files and programs of the server, for those who may read them
\getenv abs_builddir PG_ABS_BUILDDIR
\set file :abs_builddir '/results/copy.data'
COPY (VALUES ('from', 0), ('a file', 0)) TO :'file';
GRANT pg_read_server_files TO copy_by_table;
SELECT pg_stat_force_next_flush();
BEGIN;
COPY topic.copy_text (value, partition) FROM :'file';
COPY topic.copy_text (value, partition) FROM PROGRAM 'printf "from,0\na program,0\n"' (FORMAT csv);
SET LOCAL ROLE copy_by_table;
COPY topic.copy_text (value, partition) FROM :'file';
RESET ROLE;
SELECT pg_temp.calls();
COMMIT;
SELECT count(*), min(value), max(value) FROM topic.copy_text r WHERE value ~ 'from|a (file|program)'
	AND partition = 0;
\set VERBOSITY sqlstate
BEGIN;
SET LOCAL ROLE copy_by_table;
COPY topic.copy_text (value) FROM PROGRAM 'echo x';
ROLLBACK;
REVOKE pg_read_server_files FROM copy_by_table;
BEGIN;
SET LOCAL ROLE copy_by_table;
COPY topic.copy_text (value, partition) FROM :'file';
ROLLBACK;
\set VERBOSITY default
COPY topic.copy_text (value) FROM '/no/such/file';
COPY topic.copy_text (value) FROM PROGRAM 'exit 3';

-- ---------------------------------------------------------------------
-- With it
-- ---------------------------------------------------------------------
SELECT pg_stat_force_next_flush();
BEGIN;
COPY topic.copy_text (value) FROM STDIN WHERE value = 'yes';
yes
no
\.
SELECT pg_temp.calls();
SET ROLE copy_by_column;
COPY topic.copy_text (key, value) FROM STDIN;
k	v
\.
RESET ROLE;
SELECT pg_temp.calls();
ROLLBACK;
-- here it would not be called at all, and is refused
BEGIN;
SET LOCAL session_replication_role = replica;
\copy topic.copy_text (value) FROM /dev/null
ROLLBACK;
SELECT count(*) FROM topic.copy_text WHERE value = 'replica';
-- somebody else's triggers
CREATE FUNCTION copy_tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE NOTICE '% % for each %', TG_WHEN, TG_OP, TG_LEVEL;
	RETURN NEW;
END $$;
SELECT pg_stat_force_next_flush();
BEGIN;
CREATE TRIGGER a_row INSTEAD OF INSERT ON topic.copy_text FOR EACH ROW EXECUTE FUNCTION copy_tell();
COPY topic.copy_text (value) FROM STDIN;
x
\.
SELECT pg_temp.calls();
ROLLBACK;
BEGIN;
CREATE TRIGGER before BEFORE INSERT ON topic.copy_text EXECUTE FUNCTION copy_tell();
COPY topic.copy_text (value) FROM STDIN;
x
\.
ROLLBACK;
BEGIN;
CREATE TRIGGER after AFTER INSERT ON topic.copy_text EXECUTE FUNCTION copy_tell();
COPY topic.copy_text (value) FROM STDIN;
x
\.
ROLLBACK;
-- a view that only looks like a topic
CREATE VIEW copy_view AS SELECT 'x'::text AS value;
\copy copy_view (value) FROM /dev/null

-- ---------------------------------------------------------------------
-- The same errors on both ways
-- ---------------------------------------------------------------------
COPY topic.copy_small (value) FROM STDIN;
short
0123456789a
\.
COPY topic.copy_small (value) FROM STDIN WHERE true;
short
0123456789a
\.
COPY topic.copy_small (partition, value) FROM STDIN;
0	x
one	x
\.
COPY topic.copy_small (partition, value) FROM STDIN WHERE true;
0	x
one	x
\.
COPY topic.copy_small (partition, value) FROM STDIN (FORMAT csv, HEADER match);
partition,wert
\.
\copy topic.copy_small (nosuch) FROM /dev/null
\copy topic.copy_small (value, value) FROM /dev/null
\copy topic.copy_small (value) FROM /dev/null (FORMAT csv, QUOTE 'too long')
\copy topic.copy_small (value) FROM /dev/null (nosuch)
\copy topic.copy_nosuch (value) FROM /dev/null
SET ROLE copy_not;
\copy topic.copy_text (value) FROM /dev/null
SET ROLE copy_by_column;
\copy topic.copy_text (value, partition) FROM /dev/null
RESET ROLE;
BEGIN READ ONLY;
\copy topic.copy_text (value) FROM /dev/null
ROLLBACK;
SELECT pg_temp.count('copy_small');

DROP VIEW copy_view;
DROP FUNCTION copy_tell();
SELECT topics.drop_topic('copy_text'), topics.drop_topic('copy_small');
REVOKE ALL ON SCHEMA topic FROM copy_by_table, copy_by_column, copy_not;
DROP ROLE copy_by_table, copy_by_column, copy_not;
