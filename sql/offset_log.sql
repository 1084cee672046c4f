-- offset_log: the internal topic __consumer_offsets: what is in it, who may
-- touch it, and that tidying keeps it short and loses nothing
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup

SELECT topics.create_topic('offset_log', partitions => 2);
SELECT topics.produce_batch('offset_log', array(SELECT 'v' || i FROM generate_series(1, 30000) i), partition => 0);

-- a record per group, subscription and committed offset, in one partition per group
SELECT topics.commit_offset('offset_log kept', 'offset_log', 0, 7, 'with "metadata"');
SELECT count(*) FROM topics.consume('offset_log latest', 'offset_log', auto_offset_reset => 'latest');
SELECT count(*) FROM topics.consume('offset_log busy', 'offset_log', max_records => 3);
SELECT regexp_replace(key, '^[1-9][0-9]*/', 'topic/') AS key, value - 'system' - 'owner' - 'owner_id' AS value
FROM topic.__consumer_offsets WHERE key LIKE '%offset\_log%' ORDER BY key;
SELECT count(DISTINCT partition) FROM topic.__consumer_offsets WHERE key LIKE '%offset\_log latest';

-- nobody else writes to it or changes it, nor does anybody's last commit show it
SELECT pg_temp.try($$SELECT topics.produce('__consumer_offsets', 'x')$$);
SELECT pg_temp.try($$INSERT INTO topic.__consumer_offsets (key) VALUES ('x')$$);
SELECT pg_temp.try($$SELECT topics.drop_topic('__consumer_offsets')$$);
SELECT pg_temp.try($$SELECT topics.alter_topic('__consumer_offsets', retention_time => '1 s')$$);
SELECT pg_temp.try($$SELECT topics.add_partitions('__consumer_offsets', 100)$$);
SELECT topic, partition, record_count FROM topics.last_produced();

-- many commits: the log begins at what counts, and old records that count were written anew
DO $$ BEGIN
	FOR i IN 1..21000 LOOP
		PERFORM topics.consume('offset_log busy', 'offset_log', max_records => 1);
		COMMIT;
	END LOOP;
END $$;
CREATE TABLE offset_log_before AS SELECT * FROM topics.consumer_offset;
SELECT group_id, partition, committed_offset, metadata FROM offset_log_before WHERE topic = 'offset_log' ORDER BY 1, 2;
CALL topics.maintain('__consumer_offsets');
SELECT count(*) FROM (SELECT * FROM offset_log_before EXCEPT SELECT * FROM topics.consumer_offset) lost;
SELECT log_start_offset > 0 AS tidied, log_end_offset - log_start_offset <= 20000 AS short
FROM topics.partition WHERE topic = '__consumer_offsets' AND log_end_offset > 20000;

-- a group that is deleted, and a topic that is dropped, leave nothing
SELECT topics.delete_group('offset_log kept');
SELECT pg_temp.try($$SELECT topics.delete_group('offset_log kept')$$);
SELECT topics.drop_topic('offset_log');
SELECT * FROM topics.consumer_offset WHERE group_id LIKE 'offset\_log%';
SELECT topics.delete_group('offset_log latest');
SELECT topics.delete_group('offset_log busy');
SELECT * FROM topics.consumer_group WHERE group_id LIKE 'offset\_log%';
DROP TABLE offset_log_before;
