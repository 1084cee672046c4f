-- monitor: describe_topic, and the view topics.worker
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup
\pset tuples_only off

-- ---------------------------------------------------------------------
-- describe_topic
-- ---------------------------------------------------------------------
SELECT topics.create_topic('monitor_plain');
SELECT name, CASE WHEN name IN ('topic_id', 'owner') THEN 'varies' ELSE value END AS value,
		is_default, kafka_name, description
	FROM topics.describe_topic('monitor_plain');
SELECT d.value = t.topic_id::text AS id, o.value::regrole = current_user::regrole AS owner
	FROM topics.topic t, topics.describe_topic(topic) d, topics.describe_topic(topic) o
	WHERE topic = 'monitor_plain' AND d.name = 'topic_id' AND o.name = 'owner';
-- every setting changed
CREATE DOMAIN monitor_domain AS numeric(5,2);
SELECT topics.create_topic('monitor_changed', 3, 'varchar(10)', 'monitor_domain',
	retention_time => '-1 s', retention_bytes => 5, segment_bytes => 65536, segment_time => '1 h',
	max_message_bytes => 10, timestamp_type => 'LogAppendTime', cleanup_policy => 'compact,delete',
	delete_retention_time => '0', min_compaction_lag_time => '1 s',
	min_cleanable_dirty_ratio => 0.25, notify => false);
SELECT name, value, is_default FROM topics.describe_topic('monitor_changed')
	WHERE name NOT IN ('topic_id', 'owner');
-- the same value, said otherwise
SELECT topics.alter_topic('monitor_changed', segment_time => '168 h',
	segment_bytes => 1024 * 1024 * 1024);
SELECT name, value, is_default FROM topics.describe_topic('monitor_changed')
	WHERE name ~ '^segment';
-- it has all that the view has, with the same values
SELECT v.key
	FROM topics.topic t, jsonb_each_text(to_jsonb(t)) v
		LEFT JOIN topics.describe_topic('monitor_changed') d ON d.name = v.key AND d.value = v.value
	WHERE t.topic = 'monitor_changed' AND d.name IS NULL;
SELECT name FROM topics.describe_topic('monitor_plain') WHERE description IS NULL;
\pset tuples_only on
SELECT pg_temp.try($$SELECT topics.describe_topic('monitor_nosuch')$$);
SELECT pg_temp.try($$SELECT topics.describe_topic(NULL)$$);
BEGIN READ ONLY;
SELECT count(*) FROM topics.describe_topic('monitor_plain');
ROLLBACK;

-- ---------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------
CREATE ROLE regress_monitor;
GRANT USAGE ON SCHEMA topics TO regress_monitor;
SET ROLE regress_monitor;
SELECT pg_temp.try($$SELECT topics.describe_topic('monitor_plain')$$);
SELECT pg_temp.try('SELECT * FROM topics.worker');
RESET ROLE;
GRANT EXECUTE ON FUNCTION topics.describe_topic(text) TO regress_monitor;
GRANT SELECT ON topics.worker TO regress_monitor;
SET ROLE regress_monitor;
SELECT pg_temp.try($$SELECT topics.describe_topic('monitor_plain')$$);
SELECT pg_temp.try('SELECT * FROM topics.worker');
RESET ROLE;
GRANT SELECT ON topic.monitor_plain TO regress_monitor;
SET ROLE regress_monitor;
SELECT count(*) FROM topics.describe_topic('monitor_plain');
SELECT count(*), count(step) FROM topics.worker;
SELECT pg_temp.try($$SELECT topics.describe_topic('monitor_changed')$$);
RESET ROLE;
-- its owner, also without SELECT
ALTER VIEW topic.monitor_changed OWNER TO regress_monitor;
REVOKE ALL ON topic.monitor_changed FROM regress_monitor;
SET ROLE regress_monitor;
SELECT value FROM topics.describe_topic('monitor_changed') WHERE name = 'owner';
RESET ROLE;

-- every view, without a grant, with SELECT on the views alone, and as the roles
-- that look after a server
CREATE ROLE regress_monitor_none;
CREATE ROLE regress_monitor_stats IN ROLE pg_read_all_stats;
CREATE ROLE regress_monitor_views;
CREATE ROLE regress_monitor_all IN ROLE pg_monitor;
GRANT USAGE ON SCHEMA topics TO regress_monitor_none, regress_monitor_views;
GRANT SELECT ON ALL TABLES IN SCHEMA topics TO regress_monitor_views;
SELECT count(*) FROM topics.consume('monitor_group', 'monitor_plain');
SELECT topics.commit_offset('monitor_group', 'monitor_plain', 0, 0, 'metadata');
CREATE FUNCTION pg_temp.read_views() RETURNS TABLE (name name, result text, seen text)
LANGUAGE plpgsql AS $$
BEGIN
	FOR name IN SELECT relname FROM pg_class
		WHERE relnamespace = 'topics'::regnamespace AND relkind = 'v'
		ORDER BY relname COLLATE "C"
	LOOP
		result := pg_temp.try(format('SELECT * FROM topics.%I', name));
		seen := NULL;
		IF result = 'ok' THEN
			EXECUTE format($q$
				SELECT string_agg(DISTINCT x, ',' ORDER BY x)
				FROM topics.%I v,
					coalesce(to_jsonb(v) ->> 'topic', to_jsonb(v) ->> 'group_id') x
				WHERE starts_with(x, 'monitor')$q$, name) INTO seen;
		END IF;
		RETURN NEXT;
	END LOOP;
END $$;
SET ROLE regress_monitor_none;
SELECT * FROM pg_temp.read_views();
SET ROLE regress_monitor_stats;
SELECT * FROM pg_temp.read_views();
SET ROLE regress_monitor_views;
SELECT * FROM pg_temp.read_views();
SET ROLE regress_monitor_all;
SELECT * FROM pg_temp.read_views();
SELECT count(*) > 0 FROM topics.describe_topic('monitor_plain');
-- but no record, and nothing of the schema that is closed
SELECT pg_temp.try($$SELECT * FROM topic.monitor_plain$$),
	pg_temp.try($$SELECT topics.fetch('monitor_plain', 0, 0)$$),
	pg_temp.try($$SELECT topic_log.worker_status()$$);
RESET ROLE;
SELECT topics.delete_group('monitor_group');
DROP OWNED BY regress_monitor_none, regress_monitor_views;
DROP ROLE regress_monitor_none, regress_monitor_stats, regress_monitor_views, regress_monitor_all;

-- A view keeps no table of a log locked, in SERIALIZABLE either: a lock on a
-- partition without one on the topic's root would meet a DROP in a deadlock
SELECT topics.create_topic('monitor_locks', 2);
SELECT topics.produce('monitor_locks', 'a', partition => 0);
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT log_end_offset FROM topics.partition WHERE topic = 'monitor_locks' ORDER BY partition;
SELECT count(*) > 0 FROM topics.segment WHERE topic = 'monitor_locks';
SELECT count(*) FROM topics.consumer_lag;
SELECT relation::regclass, mode FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
	WHERE pid = pg_backend_pid() AND mode <> 'SIReadLock'
	AND relnamespace = 'topic_log'::regnamespace AND relname ~ '^t[0-9]';
COMMIT;

SELECT topics.drop_topic(topic) FROM topics.topic WHERE topic ~ '^monitor_';
DROP DOMAIN monitor_domain;
DROP OWNED BY regress_monitor;
DROP ROLE regress_monitor;
