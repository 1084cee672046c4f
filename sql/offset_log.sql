-- offset_log: the internal topic __consumer_offsets: what is in it, who may
-- touch it, and that compaction keeps it short and loses nothing
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup

SELECT topics.create_topic('offset_log', partitions => 2);
SELECT topics.produce_batch('offset_log', array(SELECT 'v' || i FROM generate_series(1, 30000) i),
	partition => 0);

-- a record per group, subscription and committed offset, in one partition per group
SELECT topics.commit_offset('offset_log kept', 'offset_log', 0, 7, 'with "metadata"');
SELECT count(*)
	FROM topics.consume('offset_log latest', 'offset_log', auto_offset_reset => 'latest');
SELECT count(*) FROM topics.consume('offset_log busy', 'offset_log', max_records => 3);
SELECT regexp_replace(key, '^[1-9][0-9]*/', 'topic/') AS key,
		value - 'system' - 'owner' - 'owner_id' AS value
	FROM topic.__consumer_offsets
	WHERE key LIKE '%offset\_log%'
	ORDER BY key;
SELECT count(DISTINCT partition) FROM topic.__consumer_offsets WHERE key LIKE '%offset\_log latest';

-- nobody else writes to it or changes it, nor does anybody's last commit show it
SELECT pg_temp.try($$SELECT topics.produce('__consumer_offsets', 'x')$$);
SELECT pg_temp.try($$INSERT INTO topic.__consumer_offsets (key) VALUES ('x')$$);
SELECT pg_temp.try($$SELECT topics.drop_topic('__consumer_offsets')$$);
SELECT pg_temp.try($$SELECT topics.alter_topic('__consumer_offsets', retention_time => '1 s')$$);
SELECT pg_temp.try($$SELECT topics.add_partitions('__consumer_offsets', 100)$$);
SELECT topic, partition, record_count FROM topics.last_produced();

-- many commits: of each key the latest record stays, at its offset
CREATE PROCEDURE offset_log_clean() LANGUAGE plpgsql AS $$
BEGIN
	-- other sessions' snapshots and locks delay it
	CALL topics.roll_segment('__consumer_offsets');
	FOR i IN 1 .. 1000 LOOP
		CALL topics.maintain('__consumer_offsets');
		EXIT WHEN NOT EXISTS (SELECT
			FROM topic_log.partition p JOIN topics.partition USING (partition)
			WHERE topic_id = (SELECT topic_id FROM topics.topic WHERE topic = '__consumer_offsets')
				AND topic = '__consumer_offsets'
				AND clean_offset < log_end_offset);
	END LOOP;
END $$;
DO $$ BEGIN
	FOR i IN 1..21000 LOOP
		PERFORM topics.consume('offset_log busy', 'offset_log', max_records => 1);
		COMMIT;
	END LOOP;
END $$;
CREATE TABLE offset_log_before AS SELECT * FROM topics.consumer_offset;
SELECT group_id, partition, committed_offset, metadata
	FROM offset_log_before
	WHERE topic = 'offset_log'
	ORDER BY 1, 2;
SELECT cleanup_policy, segment_bytes, retention_time < '0' AS unlimited
	FROM topics.topic
	WHERE topic = '__consumer_offsets';
CALL offset_log_clean();
SELECT count(*)
	FROM (SELECT * FROM offset_log_before EXCEPT SELECT * FROM topics.consumer_offset) lost;
SELECT count(*) - count(DISTINCT key) AS superseded FROM topic.__consumer_offsets;
SELECT max(log_end_offset) > 20000 AS same_end, min(log_start_offset) AS log_start,
		sum(size_bytes) < 1000000 AS short
	FROM topics.partition
	WHERE topic = '__consumer_offsets';

-- a topic that is dropped takes what was committed in it along, if it is dropped
UPDATE topic_log.topic SET min_cleanable_dirty_ratio = 0
	WHERE view = 'topic.__consumer_offsets'::regclass;
GRANT SELECT ON topic.__consumer_offsets TO CURRENT_USER;	-- so that it is heard of
CREATE VIEW offset_log_records AS
	SELECT regexp_replace(key, '^[1-9][0-9]*/', 'topic/') AS key, value IS NULL AS is_tombstone
	FROM topic.__consumer_offsets
	WHERE key LIKE '%offset\_log%'
	ORDER BY key, "offset";
BEGIN;
SELECT topics.drop_topic('offset_log');
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT topics.drop_topic('offset_log');
ROLLBACK TO s;
COMMIT;
SELECT count(*)
	FROM (SELECT * FROM offset_log_before EXCEPT SELECT * FROM topics.consumer_offset) lost;
BEGIN;
SELECT topics.commit_offset('offset_log new', 'offset_log', 0, 7);
SELECT topics.commit_offset('offset_log kept', 'offset_log', 0, 8);
SELECT topics.drop_topic('offset_log');
COMMIT;
SELECT * FROM topics.consumer_offset WHERE group_id LIKE 'offset\_log%';
CALL offset_log_clean();
SELECT * FROM offset_log_records;

-- a group that is deleted leaves nothing: its tombstones go as well, in time
SELECT topics.delete_group('offset_log kept');
SELECT pg_temp.try($$SELECT topics.delete_group('offset_log kept')$$);
SELECT topics.delete_group('offset_log ' || g) FROM unnest(ARRAY['latest', 'busy', 'new']) g;
SELECT * FROM topics.consumer_group WHERE group_id LIKE 'offset\_log%';
CALL offset_log_clean();
SELECT * FROM offset_log_records;
UPDATE topic_log.topic SET delete_retention_time = '0'
	WHERE view = 'topic.__consumer_offsets'::regclass;
GRANT SELECT ON topic.__consumer_offsets TO CURRENT_USER;
DO $$ BEGIN
	FOR i IN 1 .. 1000 LOOP
		CALL offset_log_clean();
		EXIT WHEN NOT EXISTS (SELECT FROM offset_log_records);
	END LOOP;
END $$;
SELECT count(*) FROM offset_log_records;
UPDATE topic_log.topic SET delete_retention_time = '10 min', min_cleanable_dirty_ratio = 0.5
	WHERE view = 'topic.__consumer_offsets'::regclass;
GRANT SELECT ON topic.__consumer_offsets TO CURRENT_USER;

-- a group's record has its owner's name, for a dump; renamed, it is written anew
CREATE ROLE regress_offset_owner;
GRANT USAGE ON SCHEMA topics, topic TO regress_offset_owner;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA topics TO regress_offset_owner;
SELECT topics.create_topic('offset_log');
GRANT SELECT ON topic.offset_log TO regress_offset_owner;
SET ROLE regress_offset_owner;
SELECT topics.commit_offset('offset_log owned', 'offset_log', 0, 0, 'm');
RESET ROLE;
SELECT topics.commit_offset('offset_log other', 'offset_log', 0, 0);
ALTER ROLE regress_offset_owner RENAME TO regress_offset_renamed;
CALL topics.maintain('__consumer_offsets');
SELECT DISTINCT key, value->>'owner' AS owner, value->>'group_type' AS type,
		value->'owner_id' = to_jsonb('regress_offset_renamed'::regrole::oid::bigint) AS same_role,
		"timestamp" = min("timestamp") OVER (PARTITION BY key) AS same_time
	FROM topic.__consumer_offsets
	WHERE key LIKE '0/-1/offset\_log owned'
	ORDER BY owner;
SELECT count(*) FROM topic.__consumer_offsets
	WHERE key LIKE '0/-1/offset\_log other' AND value->>'owner' = CURRENT_USER;
SELECT group_id, owner = 'regress_offset_renamed'::regrole AS renamed
	FROM topics.consumer_group
	WHERE group_id LIKE 'offset\_log%'
	ORDER BY 1;
SELECT topics.delete_group(group_id) FROM topics.consumer_group WHERE group_id LIKE 'offset\_log%';
SELECT topics.drop_topic('offset_log');
DROP OWNED BY regress_offset_renamed;
DROP ROLE regress_offset_renamed;
DROP VIEW offset_log_records;
DROP TABLE offset_log_before;
DROP PROCEDURE offset_log_clean;
