-- group: committed offsets set by hand, groups' owners and rights, the views.
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup
CREATE FUNCTION pg_temp.offsets(of_group text) RETURNS SETOF text LANGUAGE sql AS
$$ SELECT topic || ' ' || partition || ': ' || committed_offset
	FROM topics.consumer_offset
	WHERE group_id = of_group
	ORDER BY topic, partition $$;
CREATE FUNCTION pg_temp.got(group_id text, topic text, max_records integer DEFAULT 500)
	RETURNS text LANGUAGE sql VOLATILE AS
$$ SELECT coalesce(min(r.partition) || ': '
		|| string_agg(r.offset || '=' || r.value, ' ' ORDER BY r.offset), 'nothing')
	FROM topics.consume(group_id, topic, max_records) r $$;

SELECT topics.create_topic('g', 2, retention_time => '-1 day');
BEGIN;
SELECT count(topics.produce('g', 'v' || i, partition => i % 2,
		create_time => '2026-01-01'::timestamptz + i * interval '1 minute'))
	FROM generate_series(0, 9) i;
COMMIT;

-- commit_offset: twice, lower, the end, beyond it, a foreign partition, a member
SELECT topics.commit_offset('hand', 'g', 0, 3, 'by hand');
SELECT topics.commit_offset('hand', 'g', 0, 3);
SELECT topics.commit_offset('hand', 'g', 0, 3, 'again');
SELECT pg_temp.try(format('SELECT topics.commit_offset(%s)', a)) FROM unnest(ARRAY[
	$$'hand', 'g', 0, 2$$, $$'hand', 'g', 0, 6$$, $$'hand', 'g', 0, -1$$,
	$$'hand', 'g', 0, -9223372036854775808$$, $$'hand', 'g', 0, 9223372036854775807$$,
	$$'hand', 'g', 2, 0$$, $$'hand', 'g', -1, 0$$, $$'hand', 'g', 2147483647, 0$$,
	$$'hand', 'g', -2147483648, 0$$, $$'hand', 'nowhere', 0, 0$$,
	$$'hand', 'g', 0, 4, NULL, 'member'$$, $$'hand', 'g', 0, 4, NULL, NULL, 1$$,
	$$'hand', 'g', 0, 4, repeat('m', 4097)$$, $$NULL, 'g', 0, 4$$, $$'hand', NULL, 0, 4$$,
	$$'hand', 'g', NULL, 4$$, $$'hand', 'g', 0, NULL$$,
	$$'', 'g', 0, 4$$, $$repeat('g', 256), 'g', 0, 4$$]) a;
SELECT partition, committed_offset, metadata, commit_time > now() - interval '1 hour'
	FROM topics.consumer_offset
	WHERE group_id = 'hand';
SELECT topics.commit_offset('hand', 'g', 0, 5, repeat('m', 4096));
SELECT committed_offset, length(metadata) FROM topics.consumer_offset WHERE group_id = 'hand';
-- transactional
BEGIN;
SELECT topics.commit_offset('hand', 'g', 1, 1);
SELECT topics.commit_offset('hand', 'g', 1, 2);
SELECT pg_temp.try($$SELECT topics.commit_offset('hand', 'g', 1, 1)$$);
SELECT * FROM pg_temp.offsets('hand');
ROLLBACK;
BEGIN;
SELECT topics.commit_offset('hand', 'g', 1, 1);
SAVEPOINT s;
SELECT topics.commit_offset('hand', 'g', 1, 4);
ROLLBACK TO s;
COMMIT;
SELECT * FROM pg_temp.offsets('hand');
-- consume goes on from there, and takes the metadata away
SELECT pg_temp.got('hand', 'g', 2);
SELECT partition, committed_offset, metadata IS NULL
	FROM topics.consumer_offset
	WHERE group_id = 'hand'
	ORDER BY 1;
-- metadata of any kind
SELECT topics.commit_offset('meta', 'g', 0, 0, '');
SELECT metadata = '' FROM topics.consumer_offset WHERE group_id = 'meta';
SELECT topics.commit_offset('meta', 'g', 0, 1, E'quote " back \\ line \n tab \t Größe \u20ac');
SELECT metadata FROM topics.consumer_offset WHERE group_id = 'meta';

-- reset_offset: one target, and only one
SELECT pg_temp.try(format('SELECT * FROM topics.reset_offset(%s)', a)) FROM unnest(ARRAY[
	$$'hand', 'g'$$, $$'hand', 'g', to_offset => 1, shift_by => 1$$,
	$$'hand', 'g', to_position => 'earliest', to_offset => 1, to_time => now(), shift_by => 1$$,
	$$'hand', 'g', to_position => 'first'$$, $$'hand', 'g', to_offset => -1$$,
	$$'hand', 'g', to_offset => 6$$,
	$$'hand', 'g', to_offset => 9223372036854775807$$,
	$$'hand', 'g', to_offset => -9223372036854775808$$,
	$$'hand', 'g', 2, to_offset => 0$$, $$'hand', 'g', -1, to_offset => 0$$,
	$$'hand', 'nowhere', to_offset => 0$$,
	$$NULL, 'g', to_offset => 0$$, $$'hand', NULL, to_offset => 0$$]) a;
SELECT * FROM topics.reset_offset('hand', 'g', to_position => 'earliest', dry_run => true);
SELECT * FROM pg_temp.offsets('hand');
SELECT * FROM topics.reset_offset('hand', 'g', to_position => 'earliest');
SELECT * FROM topics.reset_offset('hand', 'g', to_position => 'latest');
SELECT * FROM topics.reset_offset('hand', 'g', 1, to_offset => 2);
SELECT * FROM topics.reset_offset('hand', 'g', shift_by => -1);
SELECT * FROM topics.reset_offset('hand', 'g', shift_by => -9223372036854775808);
SELECT * FROM topics.reset_offset('hand', 'g', shift_by => 9223372036854775807);
SELECT * FROM topics.reset_offset('hand', 'g', shift_by => 0);
SELECT * FROM topics.reset_offset('hand', 'g', to_time => '2026-01-01 00:05');
SELECT * FROM topics.reset_offset('hand', 'g', to_time => 'infinity');
SELECT * FROM topics.reset_offset('hand', 'g', to_time => '-infinity');
SELECT * FROM pg_temp.offsets('hand');
-- rolled back, and to a savepoint
BEGIN;
SELECT * FROM topics.reset_offset('hand', 'g', 0, to_offset => 4);
SAVEPOINT s;
SELECT * FROM topics.reset_offset('hand', 'g', 0, to_offset => 1);
ROLLBACK TO s;
COMMIT;
SELECT * FROM pg_temp.offsets('hand');
-- what was consumed in the transaction counts
BEGIN;
SELECT pg_temp.got('hand', 'g', 2);
SELECT * FROM topics.reset_offset('hand', 'g', shift_by => -1);
COMMIT;
SELECT * FROM pg_temp.offsets('hand');
-- a dry run makes no group
SELECT * FROM topics.reset_offset('dry', 'g', to_position => 'latest', dry_run => true);
SELECT count(*) FROM topics.consumer_group WHERE group_id = 'dry';

-- Views
SELECT pg_temp.got('stream', 'g', 1);
SELECT group_id, owner = current_user::regrole AS mine, group_type, state
	FROM topics.consumer_group
	ORDER BY 1;
BEGIN;
SELECT pg_temp.got('stream', 'g', 1);
SELECT state FROM topics.consumer_group WHERE group_id = 'stream';
COMMIT;
SELECT state FROM topics.consumer_group WHERE group_id = 'stream';
SELECT group_id, topic, partition, current_offset, log_end_offset, lag, consumer_id, client_id, host
	FROM topics.consumer_lag
	ORDER BY 1, 2, 3;
SELECT r.offset FROM topics.consume('lag', 'g', auto_offset_reset => 'latest') r;
SELECT partition, current_offset, lag FROM topics.consumer_lag WHERE group_id = 'lag' ORDER BY 1;
SELECT topics.produce('g', 'one more', partition => 1);
SELECT partition, current_offset, lag FROM topics.consumer_lag WHERE group_id = 'lag' ORDER BY 1;

-- Rights: a group is its owner's; one needs SELECT on the topic as well
CREATE ROLE regress_group_owner;
CREATE ROLE regress_group_member IN ROLE regress_group_owner;
CREATE ROLE regress_group_other;
GRANT USAGE ON SCHEMA topics, topic TO regress_group_owner, regress_group_other;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA topics TO regress_group_owner, regress_group_other;
GRANT EXECUTE ON ALL PROCEDURES IN SCHEMA topics TO regress_group_owner, regress_group_other;
GRANT SELECT ON topics.consumer_group, topics.consumer_offset, topics.consumer_lag
	TO regress_group_owner, regress_group_other;
GRANT SELECT ON topic.g TO regress_group_owner, regress_group_other;
SET ROLE regress_group_owner;
SELECT pg_temp.got('owned', 'g', 1);
SELECT group_id, owner FROM topics.consumer_group;
SET ROLE regress_group_member;
SELECT pg_temp.got('owned', 'g', 1);
SELECT group_id, owner FROM topics.consumer_group;
SET ROLE regress_group_other;
SELECT pg_temp.try(a) FROM unnest(ARRAY[
	$$SELECT pg_temp.got('owned', 'g', 1)$$, $$SELECT topics.commit_offset('owned', 'g', 0, 2)$$,
	$$SELECT * FROM topics.reset_offset('owned', 'g', to_offset => 0)$$,
	$$SELECT * FROM topics.reset_offset('owned', 'g', to_offset => 0, dry_run => true)$$,
	$$SELECT topics.delete_group('owned')$$, $$SELECT topics.delete_group('nowhere')$$]) a;
CALL topics.wait('owned', 'g', '0');
SELECT (SELECT count(*) FROM topics.consumer_group),
	(SELECT count(*) FROM topics.consumer_offset),
	(SELECT count(*) FROM topics.consumer_lag);
SELECT pg_temp.got('others', 'g', 1);
RESET ROLE;
-- REVOKE holds from the next call on, and hides the topic
REVOKE SELECT ON topic.g FROM regress_group_owner;
SET ROLE regress_group_owner;
SELECT pg_temp.try(a) FROM unnest(ARRAY[
	$$SELECT pg_temp.got('owned', 'g', 1)$$, $$SELECT topics.commit_offset('owned', 'g', 0, 2)$$,
	$$SELECT * FROM topics.reset_offset('owned', 'g', to_offset => 0)$$]) a;
CALL topics.wait('owned', 'g', '0');
SELECT (SELECT count(*) FROM topics.consumer_group),
	(SELECT count(*) FROM topics.consumer_offset),
	(SELECT count(*) FROM topics.consumer_lag);
RESET ROLE;
GRANT SELECT ON topic.g TO regress_group_owner;
-- topics_admin
SELECT topics.create_roles();
GRANT topics_admin TO regress_group_other;
SET ROLE regress_group_other;
SELECT group_id FROM topics.consumer_group WHERE group_id IN ('owned', 'hand') ORDER BY 1;
SELECT topics.commit_offset('owned', 'g', 0, 4);
SELECT topics.delete_group('owned');
RESET ROLE;
REVOKE topics_admin FROM regress_group_other;
DROP OWNED BY topics_reader, topics_writer, topics_admin, topics_monitor;
DROP ROLE topics_reader, topics_writer, topics_admin, topics_monitor;
-- to the world there is nothing
SELECT count(*) FROM pg_proc
	WHERE pronamespace = 'topics'::regnamespace
		AND has_function_privilege('public', oid, 'EXECUTE');
-- SECURITY DEFINER: whose function it is
SET ROLE regress_group_owner;
CREATE FUNCTION pg_temp.as_owner() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$
	SELECT count(*) FROM topics.consume('definer', 'g', 1) $$;
GRANT EXECUTE ON FUNCTION pg_temp.as_owner() TO regress_group_other;
SET ROLE regress_group_other;
SELECT pg_temp.as_owner();
SELECT pg_temp.try($$SELECT pg_temp.got('definer', 'g', 1)$$);
RESET ROLE;
-- a group outlives its owner
REVOKE ALL ON SCHEMA topics, topic FROM regress_group_owner;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA topics FROM regress_group_owner;
REVOKE ALL ON ALL PROCEDURES IN SCHEMA topics FROM regress_group_owner;
REVOKE ALL ON topics.consumer_group, topics.consumer_offset, topics.consumer_lag
	FROM regress_group_owner;
REVOKE ALL ON topic.g FROM regress_group_owner;
DROP OWNED BY regress_group_owner;
DROP ROLE regress_group_member;
DROP ROLE regress_group_owner;
SELECT group_id, owner IS NULL FROM topics.consumer_group WHERE group_id = 'definer';
SELECT topics.delete_group('definer');

-- delete_group, and what comes after it
SELECT topics.delete_group('hand');
SELECT pg_temp.try($$SELECT topics.delete_group('hand')$$);
SELECT pg_temp.try('SELECT topics.delete_group(NULL)');
SELECT * FROM pg_temp.offsets('hand');
BEGIN;
SELECT topics.delete_group('stream');
SELECT pg_temp.try(a)
	FROM unnest(ARRAY[$$SELECT pg_temp.got('stream', 'g', 1)$$,
		$$SELECT topics.commit_offset('stream', 'g', 0, 0)$$,
		$$SELECT * FROM topics.reset_offset('stream', 'g', to_offset => 0)$$]) a;
ROLLBACK;
SELECT * FROM pg_temp.offsets('stream');
BEGIN;
SAVEPOINT s;
SELECT topics.delete_group('stream');
ROLLBACK TO s;
SELECT pg_temp.got('stream', 'g', 1);
COMMIT;
-- a group that the transaction itself has made
BEGIN;
SELECT pg_temp.got('brief', 'g', 1);
SELECT topics.delete_group('brief');
COMMIT;
SELECT count(*) FROM topics.consumer_group WHERE group_id = 'brief';
SELECT topics.delete_group('stream');
SELECT pg_temp.got('stream', 'g', 1);

-- The internal topic is nobody's to touch
SELECT pg_temp.try(a) FROM unnest(ARRAY[$$SELECT topics.produce('__consumer_offsets', '{}', 'x')$$,
	$$INSERT INTO topic.__consumer_offsets (key, value) VALUES ('x', '{}')$$,
	$$SELECT topics.drop_topic('__consumer_offsets')$$,
	$$SELECT topics.rename_topic('__consumer_offsets', 'mine')$$,
	$$SELECT topics.add_partitions('__consumer_offsets', 20)$$,
	$$SELECT topics.create_topic('__mine')$$]) a;
SET ROLE regress_group_other;
SELECT pg_temp.try('SELECT count(*) FROM topic.__consumer_offsets');
RESET ROLE;

SELECT count(topics.delete_group(group_id)) > 0 FROM topics.consumer_group;
SELECT (SELECT count(*) FROM topics.consumer_group),
	(SELECT count(*) FROM topics.consumer_offset),
	(SELECT count(*) FROM topics.consumer_lag);
SELECT topics.drop_topic('g');
DROP OWNED BY regress_group_other;
DROP ROLE regress_group_other;
