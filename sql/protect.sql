-- protect: what would lose a topic's records, or leave it without a part, is
-- refused, to a superuser, too; what says how log tables are stored is not
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup
\pset null ''

SELECT topics.create_topic('protect_topic', 2, value_type => 'varchar(20)');
SELECT topics.produce('protect_topic', i::text, partition => 0) FROM generate_series(0, 9) i;
CALL topics.roll_segment('protect_topic');
SELECT topics.produce('protect_topic', i::text, partition => 0) FROM generate_series(10, 19) i;
SELECT pg_temp.log_table('protect_topic') AS root, pg_temp.log_table('protect_topic', '_p0') AS p0,
	pg_temp.log_table('protect_topic', '_p0_s1') AS s1,
	pg_temp.log_table('protect_topic', '_p0_s2') AS s2 \gset
CREATE FUNCTION pg_temp.on_each(command text) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT t || ': ' || pg_temp.try(format(command, pg_temp.log_table('protect_topic', t)))
	FROM unnest(ARRAY['', '_p0', '_p0_s1', '_p0_s2']) t $$;

-- ---------------------------------------------------------------------
-- Refused
-- ---------------------------------------------------------------------
SELECT pg_temp.on_each('DROP TABLE %s');
SELECT pg_temp.on_each('DROP TABLE %s CASCADE');
SELECT pg_temp.on_each('ALTER TABLE %s SET ACCESS METHOD heap');
SELECT pg_temp.on_each('ALTER TABLE %s SET SCHEMA public');
SELECT pg_temp.on_each('ALTER TABLE %s RENAME TO other');
SELECT pg_temp.on_each('ALTER TABLE %s RENAME COLUMN key TO k');
SELECT pg_temp.on_each('ALTER TABLE %s ADD COLUMN more int');
SELECT pg_temp.on_each('ALTER TABLE %s DROP COLUMN headers CASCADE');
SELECT pg_temp.on_each('ALTER TABLE %s ALTER COLUMN value TYPE text');
SELECT pg_temp.on_each('ALTER TABLE %s ALTER COLUMN "offset" DROP NOT NULL');
SELECT pg_temp.on_each('ALTER TABLE %s ADD CHECK ("offset" > 0) NOT VALID');
SELECT pg_temp.on_each('ALTER TABLE %s ENABLE ROW LEVEL SECURITY');
SELECT pg_temp.on_each('CREATE RULE r AS ON INSERT TO %s DO INSTEAD NOTHING');
SELECT regexp_replace(command, '\mt\d+', 'tN', 'g'), pg_temp.try(command)
	FROM unnest(ARRAY[
		format('ALTER TABLE %s SET UNLOGGED', :'s1'),
		format('ALTER TABLE IF EXISTS ONLY %s SET (fillfactor = 90), SET UNLOGGED', :'s2'),
		format('ALTER TABLE %s DETACH PARTITION %s', :'root', :'p0'),
		format('ALTER TABLE %s DETACH PARTITION %s', :'p0', :'s1'),
		format('ALTER TABLE %s DETACH PARTITION %s CONCURRENTLY', :'p0', :'s2'),
		format('CREATE TABLE protect_more PARTITION OF %s DEFAULT', :'p0'),
		format('CREATE INDEX ON %s (key)', :'root'), format('CREATE INDEX ON ONLY %s (key)', :'p0'),
		'CREATE INDEX ON topic.protect_topic (key)',
		format('TRUNCATE %s', :'root'), format('TRUNCATE %s', :'s1'),
		'ALTER SCHEMA topic_log RENAME TO other', 'ALTER SCHEMA topic RENAME TO other',
		'ALTER SCHEMA topics RENAME TO other', 'DROP SCHEMA topic_log CASCADE',
		'DROP TABLE topic_log.topic', 'DROP SEQUENCE topic_log.topic_id_seq',
		'DROP ACCESS METHOD topic_log CASCADE', 'DROP FUNCTION topics.insert_record() CASCADE',
		'DROP TRIGGER produce ON topic.protect_topic',
		'DROP TRIGGER append_only ON topic.protect_topic',
		'DROP TRIGGER IF EXISTS append_only_row ON topic.protect_topic',
		'CREATE OR REPLACE TRIGGER produce INSTEAD OF INSERT ON topic.protect_topic'
			' FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()',
		'ALTER TABLE topic.protect_topic DISABLE TRIGGER produce',
		'ALTER VIEW topic.protect_topic RENAME COLUMN key TO k',
		'CREATE OR REPLACE VIEW topic.protect_topic AS SELECT * FROM topic.protect_topic',
		'ALTER VIEW topic.protect_topic SET (security_invoker = true)',
		'ALTER VIEW topic.protect_topic SET (security_barrier, security_invoker)',
		'ALTER TABLE IF EXISTS topic.protect_topic SET (security_invoker = ye)',
		'ALTER TABLE topic.protect_topic SET (security_invoker = 1)',
		'ALTER VIEW topic.protect_topic SET (security_invoker = maybe)',
		'CREATE RULE r AS ON INSERT TO topic.protect_topic DO INSTEAD NOTHING'])
		WITH ORDINALITY c (command, n)
	ORDER BY n;
-- log tables below a table of another, which would change them as well
CREATE TABLE protect_parent (LIKE :root) PARTITION BY LIST (partition);
SELECT pg_temp.try(format('ALTER TABLE protect_parent ATTACH PARTITION %s DEFAULT', :'root'));
DROP TABLE protect_parent;
-- the catalogue
CREATE TABLE protect_child (LIKE topic_log.partition INCLUDING ALL);
SELECT command, pg_temp.try(command)
	FROM unnest(ARRAY['ALTER TABLE topic_log.partition SET UNLOGGED',
		'ALTER TABLE topic_log.topic DROP COLUMN notify CASCADE',
		'ALTER TABLE topic_log.topic RENAME TO other',
		'ALTER TABLE topic_log.topic RENAME COLUMN notify TO other',
		'ALTER TABLE topic_log.segment SET SCHEMA public',
		'ALTER TABLE topic_log.partition DROP CONSTRAINT partition_pkey',
		'ALTER TABLE topic_log.partition RENAME CONSTRAINT partition_pkey TO other',
		'ALTER INDEX topic_log.partition_pkey RENAME TO other',
		'ALTER TABLE topic_log.partition ENABLE ROW LEVEL SECURITY',
		'ALTER SEQUENCE topic_log.topic_id_seq RENAME TO other',
		'CREATE TABLE protect_more () INHERITS (topic_log.partition)',
		'ALTER TABLE protect_child INHERIT topic_log.partition',
		'CREATE RULE r AS ON INSERT TO topic_log.topic DO INSTEAD NOTHING'])
		WITH ORDINALITY c (command, n)
	ORDER BY n;
DROP TABLE protect_child;
SELECT c.oid::regclass, pg_temp.try(format('TRUNCATE %s CASCADE', c.oid::regclass))
	FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
	WHERE relnamespace = 'topic_log'::regnamespace AND relkind = 'r' AND d.deptype = 'e'
	ORDER BY c.relname;
SELECT pg_temp.try('TRUNCATE topic_log.partition, topic_log.topic');
BEGIN;
SET LOCAL allow_system_table_mods = on;
SELECT pg_temp.try('TRUNCATE topic_log.dropped_topic');
ROLLBACK;
-- nothing was changed
SELECT count(*) FROM topic.protect_topic;
SELECT topics.produce('protect_topic', '20', partition => 0);
SELECT * FROM topics.broken_topic;

-- ---------------------------------------------------------------------
-- Not refused
-- ---------------------------------------------------------------------
SELECT pg_temp.on_each('ALTER TABLE %s ALTER COLUMN value SET STATISTICS 0');
SELECT pg_temp.on_each('ALTER TABLE %s ALTER COLUMN value SET STORAGE EXTERNAL');
SELECT pg_temp.on_each('ALTER TABLE %s REPLICA IDENTITY FULL');
SELECT pg_temp.on_each('ALTER TABLE %s SET TABLESPACE pg_default');
SELECT pg_temp.on_each('ALTER TABLE %s DISABLE TRIGGER ALL');
SELECT pg_temp.on_each('COMMENT ON TABLE %s IS NULL');
SELECT pg_temp.try(format('ALTER TABLE %s SET (autovacuum_enabled = off)', :'s1')),
	pg_temp.try(format('ALTER TABLE %s SET LOGGED', :'s1')),
	pg_temp.try(format('CREATE INDEX protect_key ON %s (key)', :'s1')),
	pg_temp.try('ALTER INDEX topic_log.protect_key RENAME TO protect_other'),
	pg_temp.try('DROP INDEX topic_log.protect_other'),
	pg_temp.try('ALTER VIEW topic.protect_topic SET (security_barrier)'),
	pg_temp.try('ALTER VIEW topic.protect_topic SET (check_option = local)'),
	pg_temp.try('ALTER VIEW topic.protect_topic SET (security_invoker = off)'),
	pg_temp.try('ALTER VIEW topic.protect_topic RESET (security_invoker, check_option)'),
	pg_temp.try('ALTER TABLE topic_log.partition SET (fillfactor = 40)'),
	pg_temp.try('ALTER TABLE topic_log.topic DISABLE TRIGGER ALL');
-- what was refused above, and then done nevertheless: readers have no right to the log
SET allow_system_table_mods = on;
ALTER VIEW topic.protect_topic SET (security_barrier, security_invoker = ye);
RESET allow_system_table_mods;
SELECT topic, partition, problem, hint FROM topics.broken_topic;
SELECT * FROM topics.repair_topic('protect_topic');
SELECT reloptions FROM pg_class WHERE oid = 'topic.protect_topic'::regclass;
SELECT * FROM topics.broken_topic;
-- triggers of one's own on the view
CREATE FUNCTION protect_trigger() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER a INSTEAD OF INSERT ON topic.protect_topic
	FOR EACH ROW EXECUTE FUNCTION protect_trigger();
CREATE OR REPLACE TRIGGER a INSTEAD OF INSERT ON topic.protect_topic
	FOR EACH ROW EXECUTE FUNCTION protect_trigger();
DROP TRIGGER a ON topic.protect_topic;
-- names like ours elsewhere are nobody's
CREATE TABLE t1_p0 (a int);
ALTER TABLE t1_p0 RENAME TO t1_p0_s1;
ALTER TABLE t1_p0_s1 SET UNLOGGED;
DROP TABLE t1_p0_s1;
CREATE TABLE topic_log.t999999 (a int);
DROP TABLE topic_log.t999999;

-- ---------------------------------------------------------------------
-- Gaps
-- ---------------------------------------------------------------------
SELECT pg_temp.try(format('INSERT INTO %s VALUES (21, now(), 0), (23, now(), 0)', :'root'));
SELECT pg_temp.try(format('INSERT INTO %s VALUES (30, now(), 0)', :'root'));
SELECT topics.produce('protect_topic', '21', partition => 0);
-- in an empty log a copy may begin where it likes; that shows, until it is repaired
INSERT INTO :root VALUES (5, now(), 1), (6, now(), 1);
SELECT topic, partition, problem, hint FROM topics.broken_topic;
SELECT pg_temp.try($$SELECT * FROM topics.fetch('protect_topic', 1, 0)$$);
SELECT * FROM topics.repair_topic('protect_topic');
SELECT * FROM topics.broken_topic;
SELECT r.offset FROM topics.fetch('protect_topic', 1, 5) r;
SELECT pg_temp.try($$SELECT * FROM topics.fetch('protect_topic', 1, 0)$$);
CALL topics.send('protect_topic', 'next', partition => 1);
-- of a compacted log anything may be missing
SELECT topics.create_topic('protect_compact', cleanup_policy => 'compact');
SELECT pg_temp.log_table('protect_compact') AS compact \gset
INSERT INTO :compact VALUES (0, now(), 0, 'a'), (2, now(), 0, 'b'), (7, now(), 0, 'c');
SELECT r.offset FROM topics.fetch('protect_compact', 0, 0) r;
-- a segment with a name that none of ours has
BEGIN;
SET LOCAL allow_system_table_mods = on;
SELECT pg_temp.log_table('protect_compact', '_p0') AS p0 \gset
CREATE TABLE topic_log.protect_p99999999999_s1 (LIKE :compact);
ALTER TABLE :p0 ATTACH PARTITION topic_log.protect_p99999999999_s1
	FOR VALUES FROM (9000000000000000) TO (9000000000000001);
SELECT topic, partition, problem FROM topics.broken_topic;
SELECT * FROM topics.repair_topic('protect_compact');
ROLLBACK;

-- ---------------------------------------------------------------------
-- repair_topic
-- ---------------------------------------------------------------------
-- nothing to be done
SELECT * FROM topics.repair_topic('protect_topic');
SELECT pg_temp.try(c)
	FROM unnest(ARRAY[$$SELECT topics.repair_topic(NULL)$$,
		$$SELECT topics.repair_topic('nosuch')$$,
		$$SELECT topics.repair_topic('nosuch', topic_id => 999999)$$,
		$$SELECT topics.repair_topic('protect_compact', topic_id)
			FROM topics.topic WHERE topic = 'protect_topic'$$]) c;
CREATE ROLE regress_protect;
GRANT USAGE ON SCHEMA topics, topic TO regress_protect;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA topics, topic_log TO regress_protect;
GRANT SELECT ON ALL TABLES IN SCHEMA topics TO regress_protect;
-- a session that knows the topic sees that its row is gone
SELECT topics.create_topic('protect_lost');
SELECT topics.produce('protect_lost', 'x');
DELETE FROM topic_log.topic WHERE view = 'topic.protect_lost'::regclass;
SELECT pg_temp.try($$SELECT topics.alter_topic('protect_lost', retention_bytes => 1000000)$$);
SELECT topics.repair_topic('protect_lost');
SELECT topics.alter_topic('protect_lost', retention_bytes => 1000000);
SELECT topics.produce('protect_lost', 'x');
DELETE FROM topic_log.topic WHERE view = 'topic.protect_lost'::regclass;
SELECT pg_temp.try($$SELECT topics.add_partitions('protect_lost', 2)$$);
SELECT topics.repair_topic('protect_lost');
SELECT topics.produce('protect_lost', 'x');
DELETE FROM topic_log.topic WHERE view = 'topic.protect_lost'::regclass;
SELECT pg_temp.try($$SELECT topics.rename_topic('protect_lost', 'protect_found')$$),
	pg_temp.try($$SELECT topics.create_topic('protect_lost', if_not_exists => true)$$),
	pg_temp.try($$SELECT topics.rename_topic('protect_compact', 'protect_lost')$$);
SELECT topics.repair_topic('protect_lost');
SELECT topics.produce('protect_lost', 'x');
DELETE FROM topic_log.topic WHERE view = 'topic.protect_lost'::regclass;
SELECT topics.drop_topic('protect_lost');
SELECT * FROM topics.broken_topic;
-- without a row of the catalogue nobody owns it
DELETE FROM topic_log.topic WHERE view = 'topic.protect_topic'::regclass;
SELECT topic, partition, problem FROM topics.broken_topic;
SET ROLE regress_protect;
SELECT count(*) FROM topics.broken_topic;
SELECT pg_temp.try($$SELECT topics.repair_topic('protect_topic')$$),
	pg_temp.try($$SELECT topics.drop_topic('protect_topic')$$);
RESET ROLE;
SELECT * FROM topics.repair_topic('protect_topic');
-- what was to be kept for ever, maybe, is kept
SELECT retention_time, retention_bytes, cleanup_policy FROM topics.topic
	WHERE topic = 'protect_topic';
SELECT count(*), sum("offset") FROM topic.protect_topic;
ALTER VIEW topic.protect_topic OWNER TO regress_protect;
DELETE FROM topic_log.partition WHERE partition = 1
	AND topic_id = (SELECT topic_id FROM topics.topic WHERE topic = 'protect_topic');
SET ROLE regress_protect;
SELECT topic, partition, problem FROM topics.broken_topic;
SELECT partition, regexp_replace(action, '\d{3,}', 'N') FROM topics.repair_topic('protect_topic');
SELECT topics.drop_topic('protect_topic');
RESET ROLE;
SELECT topics.drop_topic('protect_compact');
DROP OWNED BY regress_protect;
DROP ROLE regress_protect;
DROP FUNCTION protect_trigger();
