-- roles: create_roles, what each of its roles may do, and that a name alone
-- gives nothing
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup

CREATE ROLE regress_roles_owner;
CREATE ROLE regress_roles_creator CREATEROLE;
GRANT USAGE ON SCHEMA topics, topic TO regress_roles_owner, regress_roles_creator;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA topics TO regress_roles_owner, regress_roles_creator;
GRANT CREATE ON SCHEMA topic TO regress_roles_owner;
GRANT SELECT ON topics.topic, topics.consumer_group TO regress_roles_creator;
SET ROLE regress_roles_owner;
SELECT topics.create_topic('roles_before');
SELECT topics.produce('roles_before', 'secret');
SELECT count(*) FROM topics.consume('roles_group', 'roles_before', 1);

-- ---------------------------------------------------------------------
-- Planted names
-- ---------------------------------------------------------------------
SET ROLE regress_roles_creator;
CREATE ROLE topics_admin;
CREATE ROLE topics_monitor;
CREATE ROLE topics_reader;
CREATE ROLE topics_writer;
GRANT topics_admin, topics_monitor, topics_reader, topics_writer TO regress_roles_creator;
CREATE FUNCTION pg_temp.attempts() RETURNS TABLE (attempt text, result text) LANGUAGE sql AS $$
	SELECT a, split_part(pg_temp.try(a), E'\n', 1) FROM unnest(ARRAY[
		$a$SELECT * FROM topics.fetch('roles_before', 0, 0)$a$,
		$a$SELECT * FROM topic.roles_before$a$,
		$a$SELECT topics.produce('roles_before', 'x')$a$,
		$a$SELECT topics.delete_group('roles_group')$a$,
		$a$SELECT * FROM topics.describe_topic('roles_before')$a$,
		$a$SELECT topics.create_topic('roles_mine')$a$,
		$a$SELECT topics.alter_topic('roles_before', notify => false)$a$,
		$a$SELECT * FROM topic.__consumer_offsets$a$,
		$a$SELECT * FROM topic_log.role$a$,
		$a$SELECT topics.create_roles()$a$,
		$a$SELECT topics.create_roles(take_over => true)$a$]) a $$;
SELECT attempt, result FROM pg_temp.attempts();
SELECT count(*) FROM topics.topic WHERE topic LIKE 'roles%';
SELECT count(*) FROM topics.consumer_group WHERE group_id LIKE 'roles%';
RESET ROLE;
SELECT pg_temp.try('SELECT topics.create_roles()');
DROP ROLE topics_admin, topics_monitor, topics_reader, topics_writer;

-- ---------------------------------------------------------------------
-- Made by the function
-- ---------------------------------------------------------------------
SELECT topics.create_roles();
-- again: nothing is to be done
SELECT topics.create_roles(take_over => true);
SELECT rolname, rolsuper, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls
	FROM pg_roles WHERE rolname LIKE 'topics\_%' ORDER BY 1;
SELECT name, role = name::text::regrole, system_identifier = (pg_control_system()).system_identifier
	FROM topic_log.role ORDER BY 1;
-- the topics that there are, and those that come
SET ROLE regress_roles_owner;
SELECT topics.create_topic('roles_after');
RESET ROLE;
CREATE FUNCTION pg_temp.rights() RETURNS TABLE (topic text, grantee text, privilege text)
LANGUAGE sql AS $$
	SELECT relname, grantee::regrole::text, privilege_type || ' by ' || grantor::regrole
	FROM pg_class, aclexplode(relacl)
	WHERE relnamespace = 'topic'::regnamespace AND grantee::regrole::text LIKE 'topics\_%'
	ORDER BY relname, 2, 3 $$;
SELECT * FROM pg_temp.rights();
CREATE ROLE regress_roles_reader IN ROLE topics_reader;
CREATE ROLE regress_roles_writer IN ROLE topics_writer;
CREATE ROLE regress_roles_admin IN ROLE topics_admin;
CREATE ROLE regress_roles_monitor IN ROLE topics_monitor;
SET ROLE regress_roles_reader;
SELECT attempt, result FROM pg_temp.attempts();
SELECT count(*) FROM topics.fetch('roles_before', 0, 0);
SELECT count(*) FROM topic.roles_after;
SELECT count(*) FROM topics.consume('roles_reader', 'roles_before', 1);
SELECT topic FROM topics.topic WHERE topic LIKE 'roles%' ORDER BY 1;
SELECT group_id FROM topics.consumer_group WHERE group_id LIKE 'roles%' ORDER BY 1;
SET ROLE regress_roles_writer;
SELECT attempt, result FROM pg_temp.attempts();
CALL topics.send('roles_after', 'by the writer');
INSERT INTO topic.roles_after (value) VALUES ('inserted');
COPY topic.roles_after (value) FROM STDIN;
copied
\.
SELECT pg_temp.try('SELECT * FROM topics.topic');
SET ROLE regress_roles_monitor;
SELECT attempt, result FROM pg_temp.attempts();
SELECT topic FROM topics.topic WHERE topic LIKE 'roles%' ORDER BY 1;
SELECT group_id FROM topics.consumer_group WHERE group_id LIKE 'roles%' ORDER BY 1;
SELECT topic, log_end_offset FROM topics.partition WHERE topic LIKE 'roles%' ORDER BY 1;
SET ROLE regress_roles_admin;
SELECT topic FROM topics.topic WHERE topic LIKE 'roles%' ORDER BY 1;
SELECT group_id FROM topics.consumer_group WHERE group_id LIKE 'roles%' ORDER BY 1;
SELECT attempt, result FROM pg_temp.attempts();
SELECT group_id FROM topics.consumer_group WHERE group_id LIKE 'roles%' ORDER BY 1;
RESET ROLE;
SELECT value FROM topic.roles_after r ORDER BY r.offset;

-- ---------------------------------------------------------------------
-- The owner's REVOKE stands; another owner's grants are his
-- ---------------------------------------------------------------------
SET ROLE regress_roles_owner;
REVOKE SELECT ON topic.roles_after FROM topics_reader;
RESET ROLE;
SELECT topics.create_roles();
ALTER VIEW topic.roles_before OWNER TO regress_roles_creator;
SELECT * FROM pg_temp.rights();
SET ROLE regress_roles_reader;
SELECT pg_temp.try('SELECT * FROM topic.roles_after');
RESET ROLE;
-- unless the roles are taken over
BEGIN;
SELECT topics.create_roles(take_over => true);
SELECT has_table_privilege('topics_reader', 'topic.roles_after', 'SELECT');
ROLLBACK;
-- a topic that is repaired is a new view
DO $$ BEGIN
	SET LOCAL allow_system_table_mods = on;
	DELETE FROM topic_log.topic WHERE view = 'topic.roles_after'::regclass;
END $$;
DO $$
DECLARE t text := substring(pg_get_viewdef('topic.roles_after'::regclass) FROM 't(\d+)');
BEGIN
	DROP VIEW topic.roles_after;
	PERFORM topics.repair_topic('roles_after', t::bigint);
END $$;
SELECT topic, grantee, split_part(privilege, ' ', 1) FROM pg_temp.rights();

-- ---------------------------------------------------------------------
-- Renamed, dropped, made again: nothing
-- ---------------------------------------------------------------------
SELECT split_part(pg_temp.try('DROP ROLE topics_admin'), E'\n', 1);
ALTER ROLE topics_reader RENAME TO regress_roles_renamed;
CREATE ROLE topics_reader;
DROP OWNED BY topics_admin;
DROP ROLE topics_admin;
CREATE ROLE topics_admin;
GRANT topics_admin, topics_reader TO regress_roles_creator;
SELECT topics.create_topic('roles_third');
SELECT grantee, privilege FROM pg_temp.rights() WHERE topic = 'roles_third';
SET ROLE regress_roles_creator;
SELECT count(*) FROM topics.topic WHERE topic = 'roles_third';
SELECT count(*) FROM topics.consumer_group WHERE group_id LIKE 'roles%';
SELECT pg_temp.try($$SELECT topics.delete_group('roles_reader')$$);
RESET ROLE;
SELECT pg_temp.try('SELECT topics.create_roles()');
-- taken over, with its members; the renamed one keeps its grants, and gets no more
SELECT topics.create_roles(take_over => true);
SELECT grantee, privilege ~ '^(SELECT|INSERT)' FROM pg_temp.rights() WHERE topic = 'roles_third';
SET ROLE regress_roles_creator;
SELECT count(*) FROM topic.roles_third;
SELECT topics.delete_group('roles_reader');
RESET ROLE;

-- ---------------------------------------------------------------------
-- A row from another cluster is none
-- ---------------------------------------------------------------------
SELECT count(*) FROM topics.consume('roles_third', 'roles_third', 1);
SET ROLE regress_roles_creator;
SELECT group_id FROM topics.consumer_group WHERE group_id LIKE 'roles%';
RESET ROLE;
UPDATE topic_log.role SET system_identifier = system_identifier + 1;
SET ROLE regress_roles_creator;
SELECT group_id FROM topics.consumer_group WHERE group_id LIKE 'roles%';
SELECT pg_temp.try($$SELECT topics.delete_group('roles_third')$$);
SET ROLE regress_roles_monitor;
SELECT count(*) FROM topics.topic WHERE topic LIKE 'roles%';
RESET ROLE;
SELECT split_part(pg_temp.try('SELECT topics.create_roles()'), E'\n', 1);
-- rolled back, nothing is left
BEGIN;
SELECT topics.create_roles(take_over => true);
SELECT count(*) FROM topic_log.role r
	WHERE r.system_identifier = (pg_control_system()).system_identifier;
ROLLBACK;
SELECT count(*) FROM topic_log.role r
	WHERE r.system_identifier = (pg_control_system()).system_identifier;
BEGIN READ ONLY;
SELECT pg_temp.try('SELECT topics.create_roles()');
COMMIT;

SELECT topics.drop_topic('roles_before'), topics.drop_topic('roles_after'),
	topics.drop_topic('roles_third');
SELECT topics.delete_group('roles_third');
DROP OWNED BY regress_roles_owner, regress_roles_creator, regress_roles_renamed, topics_reader,
	topics_writer, topics_admin, topics_monitor;
DROP ROLE regress_roles_reader, regress_roles_writer, regress_roles_admin, regress_roles_monitor,
	regress_roles_owner, regress_roles_creator, regress_roles_renamed, topics_reader, topics_writer,
	topics_admin, topics_monitor;
