-- rights: who may do what; hostile names; a hostile search_path
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup

CREATE ROLE regress_rights_owner;
CREATE ROLE regress_rights_user;
CREATE ROLE regress_rights_member IN ROLE regress_rights_user;
SELECT topics.create_topic('rights_secret', 2);
SELECT topics.produce('rights_secret', 'secret', 'secret', partition => 0);

-- all that can be called, on a topic of somebody else
CREATE FUNCTION pg_temp.attempts() RETURNS TABLE (attempt text, result text) LANGUAGE sql AS $$
	-- of a file PostgreSQL says it in one way or another
	SELECT a,
		regexp_replace(pg_temp.try(a), '(must be superuser|permission denied to COPY).*',
			'no right to COPY from a file')
	FROM unnest(ARRAY[
		$a$SELECT topics.create_topic('rights_new')$a$,
		$a$SELECT topics.alter_topic('rights_secret', notify => false)$a$,
		$a$SELECT topics.rename_topic('rights_secret', 'rights_mine')$a$,
		$a$SELECT topics.drop_topic('rights_secret')$a$,
		$a$SELECT topics.drop_topic('rights_secret', if_exists => true)$a$,
		$a$SELECT topics.add_partitions('rights_secret', 3)$a$,
		$a$SELECT topics.produce('rights_secret', 'x')$a$,
		$a$SELECT topics.produce('rights_secret', 'x'::bytea)$a$,
		$a$SELECT topics.produce('rights_secret', '1'::jsonb)$a$,
		$a$SELECT topics.produce_batch('rights_secret', '{x}')$a$,
		$a$SELECT topics.produce_batch_bytea('rights_secret', '{x}')$a$,
		$a$SELECT * FROM topics.fetch('rights_secret', 0, 0)$a$,
		$a$SELECT * FROM topics.fetch_bytea('rights_secret', 0, 0)$a$,
		$a$SELECT * FROM topics.fetch('rights_secret', 0, 99)$a$,
		$a$SELECT * FROM topics.fetch('rights_secret', 99, 0)$a$,
		$a$SELECT * FROM topics.list_offsets('rights_secret', 'latest')$a$,
		$a$SELECT * FROM topics.list_offsets('rights_secret', now())$a$,
		$a$SELECT * FROM topic.rights_secret$a$,
		$a$INSERT INTO topic.rights_secret (value) VALUES ('x')$a$,
		$a$COPY topic.rights_secret (value) FROM '/dev/null'$a$,
		$a$UPDATE topic.rights_secret SET value = 'x'$a$, $a$DELETE FROM topic.rights_secret$a$,
		$a$ALTER VIEW topic.rights_secret RENAME TO rights_mine$a$,
		$a$DROP VIEW topic.rights_secret$a$,
		$a$SELECT count(*) FROM topic_log.topic$a$, $a$SELECT count(*) FROM topic_log.partition$a$,
		$a$SELECT * FROM topic_log.segment_status()$a$,
		$a$SELECT * FROM topic_log.partition_status()$a$, $a$SELECT topic_log.may_see(0)$a$,
		$a$SELECT nextval('topic_log.topic_id_seq')$a$, 'SELECT * FROM topics.topic',
		'SELECT * FROM topics.partition', 'SELECT * FROM topics.segment']) a $$;

-- ---------------------------------------------------------------------
-- Without a grant: nothing
-- ---------------------------------------------------------------------
SET ROLE regress_rights_user;
SELECT attempt, split_part(result, ':', 1)
	FROM pg_temp.attempts()
	WHERE result NOT LIKE '42501: permission denied for schema topic%';
\set VERBOSITY sqlstate
CALL topics.send('rights_secret', 'x');
CALL topics.send_bytea('rights_secret', 'x');
CALL topics.roll_segment('rights_secret');
CALL topics.maintain();
\set VERBOSITY default
RESET ROLE;
-- the schemas alone: functions and views are closed
GRANT USAGE ON SCHEMA topics, topic, topic_log TO regress_rights_user;
SET ROLE regress_rights_user;
SELECT attempt, result FROM pg_temp.attempts();
RESET ROLE;
-- all functions and views, but no topic: one sees nothing, not even how long its log is
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA topics, topic_log TO regress_rights_user;
GRANT SELECT ON topics.topic, topics.partition, topics.segment TO regress_rights_user;
REVOKE USAGE ON SCHEMA topic_log FROM regress_rights_user;
SET ROLE regress_rights_user;
SELECT attempt, result FROM pg_temp.attempts();
SELECT count(*) FROM topics.topic WHERE topic LIKE 'rights%';
SELECT count(*) FROM topics.partition WHERE topic LIKE 'rights%';
SELECT count(*) FROM topics.segment WHERE topic LIKE 'rights%';
-- also not by a function that is cheap enough to be called first
CREATE FUNCTION pg_temp.leak(text) RETURNS bool LANGUAGE plpgsql COST 0.0000001 AS
$$ BEGIN RAISE NOTICE 'leaked: %', $1; RETURN true; END $$;
SELECT count(*) FROM topics.topic WHERE pg_temp.leak(topic);
SELECT count(*) FROM topics.partition WHERE pg_temp.leak(topic);
CALL topics.send('rights_secret', 'x');
CALL topics.roll_segment('rights_secret');
CALL topics.maintain('rights_secret');
CALL topics.maintain();
RESET ROLE;
SELECT pg_temp.count('rights_secret');

-- ---------------------------------------------------------------------
-- SELECT is to consume, INSERT is to produce; a REVOKE holds at the next call
-- ---------------------------------------------------------------------
GRANT INSERT ON topic.rights_secret TO regress_rights_user;
SET ROLE regress_rights_user;
SELECT topics.produce('rights_secret', 'p', partition => 0),
	topics.produce_batch('rights_secret', '{b}', partition => 0);
INSERT INTO topic.rights_secret (value, partition) VALUES ('i', 0);
CALL topics.send('rights_secret', 's', partition => 0);
SELECT * FROM topics.last_produced();
SELECT pg_temp.try($$SELECT * FROM topics.fetch('rights_secret', 0, 0)$$),
	pg_temp.try('SELECT * FROM topic.rights_secret'),
	pg_temp.try($$INSERT INTO topic.rights_secret (value) VALUES ('x') RETURNING value$$);
SELECT count(*) FROM topics.topic WHERE topic = 'rights_secret';
RESET ROLE;
REVOKE INSERT ON topic.rights_secret FROM regress_rights_user;
GRANT SELECT ON topic.rights_secret TO regress_rights_user;
SET ROLE regress_rights_member;
SELECT r.offset, value FROM topics.fetch('rights_secret', 0, 0) r;
SELECT value FROM topic.rights_secret r ORDER BY r.offset;
SELECT topic, partitions FROM topics.topic WHERE topic LIKE 'rights%';
SELECT partition, log_end_offset FROM topics.partition WHERE topic = 'rights_secret' ORDER BY 1;
SELECT pg_temp.try($$SELECT topics.produce('rights_secret', 'x')$$),
	pg_temp.try($$INSERT INTO topic.rights_secret (value) VALUES ('x')$$);
SELECT pg_temp.try($$SELECT topics.alter_topic('rights_secret')$$),
	pg_temp.try($$SELECT topics.drop_topic('rights_secret')$$);
RESET ROLE;
-- in the middle of a transaction, and of a prepared statement
PREPARE rights_fetch AS SELECT count(*) FROM topics.fetch('rights_secret', 0, 0);
SET ROLE regress_rights_user;
EXECUTE rights_fetch;
RESET ROLE;
BEGIN;
SET LOCAL ROLE regress_rights_user;
SELECT count(*) FROM topics.fetch('rights_secret', 0, 0);
RESET ROLE;
REVOKE SELECT ON topic.rights_secret FROM regress_rights_user;
SET LOCAL ROLE regress_rights_user;
SAVEPOINT a;
EXECUTE rights_fetch;
ROLLBACK TO a;
SELECT pg_temp.try('SELECT * FROM topic.rights_secret');
COMMIT;
SELECT has_table_privilege('regress_rights_user', 'topic.rights_secret', 'SELECT');
-- a right that is gone at the commit does not matter: it held in the call
GRANT INSERT ON topic.rights_secret TO regress_rights_user;
BEGIN;
SET LOCAL ROLE regress_rights_user;
SELECT topics.produce('rights_secret', 'was allowed', partition => 0);
RESET ROLE;
REVOKE INSERT ON topic.rights_secret FROM regress_rights_user;
COMMIT;
SELECT count(*) FROM topic.rights_secret WHERE value = 'was allowed';

-- ---------------------------------------------------------------------
-- Ownership
-- ---------------------------------------------------------------------
GRANT USAGE ON SCHEMA topics, topic TO regress_rights_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA topics TO regress_rights_owner;
GRANT EXECUTE ON ALL PROCEDURES IN SCHEMA topics TO regress_rights_owner;
SET ROLE regress_rights_owner;
SELECT pg_temp.try($$SELECT topics.create_topic('rights_owned')$$);
RESET ROLE;
GRANT CREATE ON SCHEMA topic TO regress_rights_owner;
SET ROLE regress_rights_owner;
SELECT topics.create_topic('rights_owned', 1);
SELECT topics.produce('rights_owned', 'x');
SELECT value FROM topic.rights_owned;
SELECT topics.alter_topic('rights_owned', notify => false),
	topics.add_partitions('rights_owned', 2),
	topics.rename_topic('rights_owned', 'rights_renamed');
CALL topics.roll_segment('rights_renamed');
CALL topics.maintain('rights_renamed');
CALL topics.maintain();
-- the log tables are not his
SELECT relowner::regrole <> 'regress_rights_owner'::regrole,
		has_table_privilege('regress_rights_owner', oid, 'SELECT'),
		has_table_privilege('regress_rights_owner', oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
	FROM pg_class
	WHERE oid = (SELECT refobjid FROM pg_rewrite r JOIN pg_depend d ON d.objid = r.oid
		WHERE r.ev_class = 'topic.rights_renamed'::regclass
			AND refobjid <> 'topic.rights_renamed'::regclass
		LIMIT 1);
GRANT SELECT ON topic.rights_renamed TO regress_rights_user;
RESET ROLE;
SET ROLE regress_rights_user;
SELECT value FROM topic.rights_renamed;
SELECT pg_temp.try($$SELECT topics.rename_topic('rights_renamed', 'x')$$);
RESET ROLE;
-- without CREATE he keeps his topics, but cannot give them new names
REVOKE CREATE ON SCHEMA topic FROM regress_rights_owner;
SET ROLE regress_rights_owner;
SELECT pg_temp.try($$SELECT topics.rename_topic('rights_renamed', 'rights_owned')$$);
SELECT topics.alter_topic('rights_renamed', notify => true);
-- the rights of the view's owner to it are his to take
REVOKE INSERT ON topic.rights_renamed FROM regress_rights_owner;
SELECT pg_temp.try($$SELECT topics.produce('rights_renamed', 'x')$$);
SELECT topics.drop_topic('rights_renamed');
RESET ROLE;
-- a type needs its right
CREATE DOMAIN rights_domain AS text;
REVOKE USAGE ON TYPE rights_domain FROM PUBLIC;
GRANT CREATE ON SCHEMA topic TO regress_rights_owner;
SET ROLE regress_rights_owner;
SELECT pg_temp.try($$SELECT topics.create_topic('rights_typed', value_type => 'rights_domain')$$);
RESET ROLE;
DROP DOMAIN rights_domain;
-- a CHECK runs as who produces
CREATE FUNCTION rights_who(text) RETURNS bool LANGUAGE plpgsql AS
$$ BEGIN RAISE NOTICE 'checked as %', current_user; RETURN true; END $$;
CREATE DOMAIN rights_checked AS text CHECK (rights_who(VALUE));
SELECT topics.create_topic('rights_checked', value_type => 'rights_checked');
GRANT INSERT ON topic.rights_checked TO regress_rights_user;
SET ROLE regress_rights_user;
SELECT topics.produce('rights_checked', 'x');
INSERT INTO topic.rights_checked (value) VALUES ('x');
RESET ROLE;
SELECT topics.drop_topic('rights_checked');
DROP DOMAIN rights_checked;
DROP FUNCTION rights_who;

-- ---------------------------------------------------------------------
-- Names: Kafka's rule, or refused; through every function
-- ---------------------------------------------------------------------
CREATE TABLE rights_name (n serial, name text);
INSERT INTO rights_name (name)
	VALUES ('select'), ('Upper'), ('UPPER'), ('upper'), ('a.b.c'), ('-'), ('--'), ('topic.x'),
		('...'), ('.a'), ('_a'), ('0'), ('1e5'), ('t1_p0'), ('pg_class'), ('user'),
		('order-lines.v1_2'), (repeat('x', 63));
INSERT INTO rights_name (name)
	VALUES (''), (' '), ('.'), ('..'), ('__x'), ('__'), (repeat('x', 64)), (repeat('x', 249)),
		(repeat('x', 100000)), ('a b'), (' a'), ('a '), ('a"b'), ('"'), ($$a'b$$),
		($$'; DROP TABLE rights_name; --$$), ('$$'), ('$1'), (E'a\nb'), (E'a\tb'),
		('%'), ('%s%n'), ('../x'), ('a/b'), ('a\b'), ('a,b'), ('a;b'), ('a:b'), ('a*'), ('a(b)'),
		('{}'), ('-- x'), ('topic."x"'), ('ä'), ('😀'), (U&'\200B'), ('a@b'), ('#'), ('a=b'),
		('a|b'), ('a+b'), ('NU LL');
CREATE FUNCTION pg_temp.use(name text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text;
BEGIN
	result := pg_temp.try(format('SELECT topics.create_topic(%L, 2)', name));
	IF result <> 'ok' THEN RETURN 'create: ' || result; END IF;
	PERFORM topics.produce(name, 'v', partition => 0);
	PERFORM topics.produce_batch(name, '{v}', partition => 0);
	EXECUTE format('INSERT INTO topic.%I (value, partition) VALUES (%L, 0)', name, 'v');
	PERFORM topics.alter_topic(name, notify => false);
	PERFORM topics.add_partitions(name, 3);
	PERFORM topics.list_offsets(name, 'latest'), topics.list_offsets(name, now());
	IF NOT EXISTS (SELECT FROM topics.topic t WHERE topic = name AND partitions = 3)
		THEN RETURN 'not in topics.topic'; END IF;
	PERFORM topics.rename_topic(name, 'rights_renamed');
	PERFORM topics.rename_topic('rights_renamed', name);
	EXECUTE format('ALTER VIEW topic.%I RENAME TO rights_renamed', name);
	EXECUTE format('ALTER VIEW topic.rights_renamed RENAME TO %I', name);
	RETURN 'ok';
END $$;
SELECT n, left(name, 70), regexp_replace(pg_temp.use(name), 'x{70,}', 'x..')
	FROM rights_name
	ORDER BY n;
-- committed, and read
SELECT topic, count(*)
	FROM topics.partition p JOIN rights_name ON name = topic, topics.fetch(topic, partition, 0)
	WHERE log_end_offset = 3
	GROUP BY 1 ORDER BY topic COLLATE "C";
-- the other functions, with names that are none: no such topic
SELECT f, result, count(*)
	FROM unnest(ARRAY['SELECT topics.produce(%L, %L)', 'SELECT topics.produce_batch(%L, %L)',
		'SELECT topics.alter_topic(%L)', 'SELECT topics.drop_topic(%L)',
		'SELECT topics.add_partitions(%L, 5)', 'SELECT topics.fetch(%L, 0, 0)',
		$$SELECT topics.list_offsets(%L, 'latest')$$, 'SELECT topics.list_offsets(%L, now())',
		$$SELECT topics.rename_topic(%L, 'rights_x')$$,
		$$SELECT topics.rename_topic('select', %L)$$]) WITH ORDINALITY f (f, i), rights_name,
		LATERAL (SELECT left(pg_temp.try(format(f, name, '{x}')), 5) AS result) r
	WHERE n > 18
	GROUP BY f, i, result ORDER BY i;
\set VERBOSITY sqlstate
CALL topics.send(E'a"b\n%s$$', 'x');
CALL topics.roll_segment(E'a"b\n%s$$');
CALL topics.maintain(E'a"b\n%s$$');
\set VERBOSITY default
CALL topics.send('order-lines.v1_2', 'x', partition => 0);
CALL topics.roll_segment('select');
CALL topics.maintain('Upper');
SELECT count(topics.drop_topic(name)) FROM rights_name WHERE n <= 18;
SELECT count(*) FROM topics.topic JOIN rights_name ON name = topic;
DROP TABLE rights_name;

-- ---------------------------------------------------------------------
-- A hostile search_path: nothing of what was planted runs.  Whatever is
-- called of schema rights_evil or pg_temp raises.
-- ---------------------------------------------------------------------
CREATE SCHEMA rights_evil;
DO $$
DECLARE t text; o text; f text;
BEGIN
	FOREACH t IN ARRAY '{int4,int8,text,name,oid,regclass,bool,timestamptz,interval,
		jsonb}'::text[] LOOP
		FOREACH o IN ARRAY '{=,<>,<,<=,>,>=}'::text[] LOOP
			EXECUTE format('CREATE FUNCTION rights_evil.%I (pg_catalog.%I, pg_catalog.%2$I)
				RETURNS bool LANGUAGE plpgsql AS %L', t || o, t, 'BEGIN RAISE ''attacked''; END');
			EXECUTE format('CREATE OPERATOR rights_evil.%s (LEFTARG = pg_catalog.%I,
				RIGHTARG = pg_catalog.%2$I, FUNCTION = rights_evil.%I)', o, t, t || o);
		END LOOP;
	END LOOP;
	FOREACH f IN ARRAY '{now(),clock_timestamp(),nextval(regclass),count(text),
		pg_table_size(regclass),quote_ident(text),pg_get_userbyid(oid),int8(int4),text(bool),
		insert_record(),append_only(),log_am_handler(internal),may_see(oid)}'::text[] LOOP
		EXECUTE format('CREATE FUNCTION rights_evil.%s RETURNS text LANGUAGE plpgsql AS %L',
			replace(f, 'internal', 'pg_catalog.int4'), 'BEGIN RAISE ''attacked''; END');
	END LOOP;
	FOREACH o IN ARRAY '{=,<>,<,<=,>,>=}'::text[] LOOP
		EXECUTE format('CREATE FUNCTION rights_evil.%I (pg_catalog.int8, pg_catalog.int4)
			RETURNS bool LANGUAGE plpgsql AS %L', 'int84' || o, 'BEGIN RAISE ''attacked''; END');
		EXECUTE format('CREATE OPERATOR rights_evil.%s (LEFTARG = pg_catalog.int8,
			RIGHTARG = pg_catalog.int4, FUNCTION = rights_evil.%I)', o, 'int84' || o);
	END LOOP;
	CREATE FUNCTION rights_evil.attack(anyelement)
		RETURNS bool LANGUAGE plpgsql AS 'BEGIN RAISE ''attacked''; END';
	FOREACH t IN ARRAY '{int8,int4,text,bytea,jsonb,timestamptz,interval,regclass,regrole,oid,
		float8,bool}'::text[] LOOP
		EXECUTE format('CREATE DOMAIN rights_evil.%I AS pg_catalog.%1$I
			CHECK (rights_evil.attack(VALUE))', t);
		EXECUTE format('CREATE DOMAIN pg_temp.%I AS pg_catalog.%1$I
			CHECK (rights_evil.attack(VALUE))', t);
	END LOOP;
	FOREACH t IN ARRAY '{topic,partition,pg_class,pg_namespace,pg_extension,pg_inherits,
		pg_partitioned_table,rights_path}'::pg_catalog.text[] LOOP
		EXECUTE format('CREATE VIEW rights_evil.%I AS SELECT rights_evil.attack(1)', t);
		EXECUTE format('CREATE TEMP VIEW %I AS SELECT rights_evil.attack(1)', t);
	END LOOP;
	GRANT USAGE ON SCHEMA rights_evil TO PUBLIC;
END $$;
SET search_path = rights_evil, pg_temp, topic, topic_log, topics, pg_catalog;
-- the trap works
SELECT 1 = 1;
SELECT topics.create_topic('rights_path', 2, 'pg_catalog.text', 'pg_catalog.text');
SELECT topics.create_topic('rights_path', if_not_exists => true);
SELECT topics.produce('rights_path', 'v', 'k', '{"h": "1"}', 0);
SELECT topics.produce_batch('rights_path', '{v}', partition => 0);
INSERT INTO topic.rights_path (value, partition) VALUES ('v', 0);
COPY topic.rights_path (value, partition) FROM STDIN;
v	0
\.
CALL topics.send('rights_path', 'v', partition => 0);
SELECT * FROM topics.last_produced();
SELECT r.offset, value FROM topics.fetch('rights_path', 0, 0) r;
SELECT r.offset FROM topics.list_offsets('rights_path', 'latest') r;
SELECT r.offset FROM topics.list_offsets('rights_path', pg_catalog.now()) r;
CALL topics.roll_segment('rights_path');
CALL topics.maintain('rights_path');
SELECT r.offset FROM topics.list_offsets('rights_path', pg_catalog.timestamptz('2020-01-01')) r;
SELECT topics.alter_topic('rights_path', retention_bytes => 5);
SELECT topics.add_partitions('rights_path', 3);
SELECT topics.rename_topic('rights_path', 'rights_path2');
SELECT pg_catalog.count(topic) OPERATOR(pg_catalog.>) 0 FROM topics.topic;
SELECT pg_catalog.count(topic) OPERATOR(pg_catalog.>) 0 FROM topics.partition;
SELECT pg_catalog.count(topic) OPERATOR(pg_catalog.>) 0 FROM topics.segment;
ALTER VIEW topic.rights_path2 OWNER TO regress_rights_owner;
SELECT topics.drop_topic('rights_path2');
-- the default types are PostgreSQL's own
SELECT topics.create_topic('rights_default');
SELECT topics.drop_topic('rights_default');
RESET search_path;
SELECT topics.create_topic('rights_default');
SELECT format_type(atttypid, atttypmod)
	FROM pg_attribute
	WHERE attrelid = 'topic.rights_default'::pg_catalog.regclass AND attname IN ('key', 'value');
SELECT topics.drop_topic('rights_default');
SET client_min_messages = warning;
DROP SCHEMA rights_evil CASCADE;
RESET client_min_messages;

-- CREATE EXTENSION where an attacker was first
\set dbname :DBNAME
CREATE DATABASE regression_rights;
\c regression_rights
\set ECHO none
\i :setup
SET client_min_messages = warning;
SELECT pg_temp.try('DROP EXTENSION pg_topics');
CREATE FUNCTION public.attack(anyelement)
	RETURNS bool LANGUAGE plpgsql AS 'BEGIN RAISE ''attacked''; END';
DO $$
DECLARE t text;
BEGIN
	FOREACH t IN ARRAY '{int8,int4,text,bytea,jsonb,timestamptz,interval,regclass,regrole,oid,
		float8,bool}'::text[] LOOP
		EXECUTE format('CREATE DOMAIN public.%I AS pg_catalog.%1$I
			CHECK (public.attack(VALUE))', t);
	END LOOP;
	FOREACH t IN ARRAY '{int4,int8,text,name,oid,regclass,bool}'::text[] LOOP
		EXECUTE format('CREATE FUNCTION public.%I (pg_catalog.%I, pg_catalog.%2$I)
			RETURNS bool LANGUAGE plpgsql AS %L', t || '=', t, 'BEGIN RAISE ''attacked''; END');
		EXECUTE format('CREATE OPERATOR public.= (LEFTARG = pg_catalog.%I,
			RIGHTARG = pg_catalog.%1$I, FUNCTION = public.%I)', t, t || '=');
	END LOOP;
END $$;
CREATE VIEW public.pg_class AS SELECT public.attack(1);
CREATE SCHEMA topics;
SELECT pg_temp.try('CREATE EXTENSION pg_topics');
DROP SCHEMA topics;
SET search_path = public, pg_catalog;
CREATE EXTENSION pg_topics;
RESET search_path;
-- nothing of it depends on what was there
SELECT pg_describe_object(classid, objid, objsubid), pg_describe_object(refclassid, refobjid, 0)
	FROM pg_depend
	WHERE deptype = 'n'
		AND (refclassid, refobjid) IN (
			SELECT 'pg_type'::regclass, oid FROM pg_type
			WHERE typnamespace = 'public'::regnamespace
			UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc
			WHERE pronamespace = 'public'::regnamespace
			UNION ALL SELECT 'pg_operator'::regclass, oid FROM pg_operator
			WHERE oprnamespace = 'public'::regnamespace)
		AND pg_describe_object(classid, objid, 0) ~ 'topic';
SELECT topics.create_topic('t');
SELECT topics.produce('t', 'v');
SELECT value FROM topic.t;
SELECT topic FROM topics.topic;
SELECT topics.drop_topic('t');
\c :dbname
DROP DATABASE regression_rights;
\set ECHO all
SELECT topics.drop_topic('rights_secret');
DROP OWNED BY regress_rights_owner, regress_rights_user, regress_rights_member;
DROP ROLE regress_rights_owner, regress_rights_user, regress_rights_member;
