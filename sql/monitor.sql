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
GRANT EXECUTE ON FUNCTION topic_log.worker_status() TO regress_monitor;
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

SELECT topics.drop_topic(topic) FROM topics.topic WHERE topic ~ '^monitor_';
DROP DOMAIN monitor_domain;
DROP OWNED BY regress_monitor;
DROP ROLE regress_monitor;
