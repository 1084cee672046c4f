-- member: members of groups: what they are assigned, poll and commit, on one node.
-- Members' ids are drawn by chance: they are kept in variables.
\getenv abs_srcdir PG_ABS_SRCDIR
\set setup :abs_srcdir '/test/regress/setup.sql'
\i :setup
-- the message of an error names the member: the state says enough
CREATE FUNCTION pg_temp.state_of(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
BEGIN
	EXECUTE command;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN SQLSTATE || ' ' || detail;
END $$;

SELECT topics.create_topic('member_a', partitions => 4);
SELECT topics.create_topic('member_b', partitions => 2);
SELECT count(topics.produce('member_a', 'a' || i, partition => i % 4))
FROM generate_series(0, 19) i;

-- one member has all
SELECT member_id AS m1, generation_id AS g FROM topics.join_group('g', '{member_a}',
	client_id => 'one') \gset
SELECT :g, :'m1' LIKE 'one-%' AS named;
SELECT topic, partition, position, paused FROM topics.assignment(:'m1');
SELECT topic, partition, "offset", value, generation_id FROM topics.poll(:'m1', 7);
SELECT topic, partition, "offset", value, generation_id FROM topics.poll(:'m1', 4);
SELECT group_id, group_type, state FROM topics.consumer_group WHERE group_id = 'g';
SELECT topics.commit_offset('g', 'member_a', 0, 5, NULL, :'m1', 1);
SELECT topics.commit_offset('g', 'member_a', 1, 2, 'half', :'m1', 1);
SELECT partition, current_offset, lag, client_id FROM topics.consumer_lag WHERE group_id = 'g'
ORDER BY partition;

-- a second one joins: it gets nothing before the first one polls
SELECT member_id AS m2, generation_id AS g FROM topics.join_group('g', '{member_a,member_b}',
	client_id => 'two') \gset
SELECT :g;
SELECT topic, partition FROM topics.assignment(:'m2') ORDER BY topic, partition;
SELECT count(*) FROM topics.poll(:'m2');
SELECT group_id, state FROM topics.consumer_group WHERE group_id = 'g';
SELECT topics.heartbeat(:'m1');
-- what it has polled it may commit until then
SELECT topics.commit_offset('g', 'member_a', 1, 3, NULL, :'m1', 1);
SELECT count(*) FROM topics.poll(:'m1');
SELECT topic, partition FROM topics.assignment(:'m1') ORDER BY topic, partition;
SELECT count(*) FROM topics.poll(:'m2') WHERE topic = 'member_a';
SELECT topic, partition, position FROM topics.assignment(:'m2') ORDER BY topic, partition;
SELECT group_id, state FROM topics.consumer_group WHERE group_id = 'g';
SELECT client_id, generation_id, assignor, subscription, partitions, assignment, session_timeout
FROM topics.group_member WHERE group_id = 'g' ORDER BY client_id;

-- fenced: what is another one's now, what is no member, what is of another generation
SELECT topics.commit_offset('g', 'member_a', 3, 5, NULL, :'m1', 1);
SELECT topics.commit_offset('g', 'member_a', 3, 5, NULL, :'m1', 2);
SELECT topics.commit_offset('g', 'member_a', 0, 5, NULL, :'m1', 3);
SELECT topics.commit_offset('g', 'member_a', 0, 5, NULL, 'nobody', 2);
SELECT topics.commit_offset('g', 'member_a', 0, 5);
SELECT topics.commit_offset('g', 'member_a', 0, 5, NULL, :'m1', 1);
SELECT topics.reset_offset('g', 'member_a', to_offset => 0);
SELECT topics.delete_group('g');
SELECT count(*) FROM topics.consume('g', 'member_a');
SELECT topics.join_group('g', '{member_a}', assignor => 'sticky');

-- seek, pause, resume
SELECT topics.seek(:'m1', 'member_a', 0, 3);
SELECT topics.seek(:'m1', 'member_a', 0, 6);
SELECT pg_temp.state_of(format('SELECT topics.seek(%L, ''member_a'', 3, 0)', :'m1'));
SELECT topics.seek(:'m1', 'member_a', 0);
SELECT position FROM topics.assignment(:'m1') WHERE partition = 0;
SELECT topics.seek(:'m1', 'member_a', 0, 3);
SELECT topics.pause(:'m1', 'member_a', 0);
SELECT count(*) FROM topics.poll(:'m1');
SELECT topic, partition, position, paused FROM topics.assignment(:'m1') WHERE paused;
SELECT topics.resume(:'m1', 'member_a', 0);
SELECT "offset" FROM topics.poll(:'m1');

-- leave
SELECT topics.leave_group(:'m1');
SELECT pg_temp.state_of(format('SELECT topics.poll(%L)', :'m1'));
SELECT count(*) FROM topics.poll(:'m2');
SELECT topic, partition, position FROM topics.assignment(:'m2') ORDER BY topic, partition;
SELECT topics.remove_member('g', :'m2');
SELECT pg_temp.state_of(format('SELECT topics.remove_member(''g'', %L)', :'m2'));
SELECT group_id, group_type, state FROM topics.consumer_group WHERE group_id = 'g';
SELECT partition, committed_offset FROM topics.consumer_offset WHERE group_id = 'g' ORDER BY 1;
SELECT topics.delete_group('g');

-- a group that has committed nothing goes with its last member
SELECT member_id AS m FROM topics.join_group('h', topic_pattern => 'member_.*') \gset
SELECT topic, partition FROM topics.assignment(:'m') ORDER BY topic, partition;
SELECT topics.leave_group(:'m');
SELECT group_id FROM topics.consumer_group WHERE group_id = 'h';

-- rolled back: neither joined nor left
BEGIN;
SELECT member_id AS m FROM topics.join_group('h', '{member_a}') \gset
SAVEPOINT s;
SELECT member_id AS m3 FROM topics.join_group('h', '{member_a}') \gset
ROLLBACK TO s;
COMMIT;
SELECT count(*) FROM topics.group_member WHERE group_id = 'h';
SELECT pg_temp.state_of(format('SELECT topics.heartbeat(%L)', :'m3'));
BEGIN;
SELECT topics.leave_group(:'m');
ROLLBACK;
SELECT topics.heartbeat(:'m');
SELECT topics.leave_group(:'m');

-- the last member commits and leaves in one transaction: the offset stays
SELECT member_id AS m FROM topics.join_group('l', '{member_a}') \gset
SELECT count(*) FROM topics.poll(:'m', 2);
BEGIN;
SELECT topics.commit_offset('l', 'member_a', 0, 2, NULL, :'m', 1);
SELECT topics.leave_group(:'m');
COMMIT;
SELECT partition, committed_offset FROM topics.consumer_offset WHERE group_id = 'l';
-- a topic that is named twice is one
SELECT member_id AS m FROM topics.join_group('l', '{member_a,member_a}') \gset
SELECT subscription, partitions FROM topics.group_member WHERE group_id = 'l';
SELECT topics.leave_group(:'m'), topics.delete_group('l');

-- static members: the same partitions, no new generation, and who was there is fenced
SELECT member_id AS m1 FROM topics.join_group('s', '{member_a}', group_instance_id => 'i1') \gset
SELECT member_id AS m2 FROM topics.join_group('s', '{member_a}', group_instance_id => 'i2') \gset
SELECT count(*) >= 0 FROM topics.poll(:'m1');
SELECT count(*) >= 0 FROM topics.poll(:'m2');
SELECT member_id AS m3, generation_id FROM topics.join_group('s', '{member_a}',
	group_instance_id => 'i1') \gset
SELECT :generation_id;
SELECT pg_temp.state_of(format('SELECT topics.heartbeat(%L)', :'m1'));
SELECT topic, partition FROM topics.assignment(:'m3') ORDER BY topic, partition;
SELECT topics.leave_group(:'m2'), topics.leave_group(:'m3');

-- a group is of one type
SELECT count(*) FROM topics.consume('c', 'member_a');
SELECT topics.join_group('c', '{member_a}');
SELECT topics.commit_offset('simple', 'member_a', 0, 2);
SELECT group_type FROM topics.consumer_group WHERE group_id = 'simple';
SELECT member_id AS m FROM topics.join_group('simple', '{member_a}') \gset
SELECT group_type FROM topics.consumer_group WHERE group_id = 'simple';
SELECT "offset" FROM topics.poll(:'m') WHERE partition = 0;
SELECT topics.leave_group(:'m');

-- bad arguments
SELECT topics.join_group('x');
SELECT topics.join_group('x', '{member_a}', topic_pattern => '.*');
SELECT topics.join_group('x', '{nosuch}');
SELECT topics.join_group('x', '{}');
SELECT topics.join_group('x', '{member_a,NULL}');
SELECT topics.join_group('x', '{member_a}', assignor => 'best');
SELECT topics.join_group('x', topic_pattern => '(');
SELECT topics.join_group('x', topic_pattern => 'a)|(.*');
SELECT topics.join_group('x', topic_pattern => '(a*)\1');
SELECT topics.join_group('x', '{__consumer_offsets}');
CALL topics.wait('simple', 'member_a', '1 ms');
SELECT topics.join_group('x', '{member_a}', session_timeout => '1 ms');
SELECT topics.join_group('x', '{member_a}', session_timeout => '1 day');
SELECT topics.join_group('x', '{member_a}', client_id => '');
SELECT topics.join_group(repeat('x', 256), '{member_a}');
SELECT member_id AS m FROM topics.join_group(repeat('x', 255), '{member_a}') \gset
SELECT topics.commit_offset(repeat('x', 255), 'member_a', 0, 1, NULL, :'m', 1);
SELECT count(*) FROM topics.poll(:'m', 1);
SELECT topics.commit_offset(repeat('x', 255), 'member_a', 0, 1, NULL, :'m', 1);
SELECT length(group_id), committed_offset FROM topics.consumer_offset
WHERE group_id LIKE 'xxx%';
SELECT topics.leave_group(:'m');
SELECT topics.delete_group(repeat('x', 255));
BEGIN READ ONLY;
SELECT topics.poll('m');
ROLLBACK;

-- where a group begins in a topic the first member has said: another value is ignored, and told
SELECT member_id AS m FROM topics.join_group('w', '{member_a}', auto_offset_reset => 'latest') \gset
SELECT member_id AS m2 FROM topics.join_group('w', '{member_a,member_b}') \gset
SELECT topics.leave_group(:'m2');
SELECT member_id AS m2 FROM topics.join_group('w', '{member_a,member_b}',
	auto_offset_reset => 'latest') \gset
SELECT topics.leave_group(:'m');
SELECT topics.leave_group(:'m2');

-- partitions that are added, and a topic that is dropped, are seen to by the worker
SELECT member_id AS m FROM topics.join_group('w', topic_pattern => 'member_.*') \gset
SELECT topics.add_partitions('member_b', 3);
SELECT topics.create_topic('member_c');
SELECT topics.drop_topic('member_a');
CALL topics.maintain('__consumer_offsets');
SELECT count(*) FROM topics.poll(:'m');
SELECT topic, partition FROM topics.assignment(:'m') ORDER BY topic, partition;
SELECT topics.leave_group(:'m');
SELECT topics.drop_topic('member_b'), topics.drop_topic('member_c');

-- a topic that was dropped and made anew is the members' again, from its beginning on
SELECT topics.create_topic('member_a', partitions => 2), topics.create_topic('member_b');
SELECT member_id AS m FROM topics.join_group('again', '{member_a,member_b}') \gset
SELECT count(topics.produce('member_a', 'old' || i, partition => i % 2))
FROM generate_series(0, 9) i;
SELECT count(*) FROM topics.poll(:'m');
SELECT topics.commit_offset('again', 'member_a', 0, 4, NULL, :'m', 1);
SELECT topics.drop_topic('member_a');
CALL topics.maintain('__consumer_offsets');
SELECT subscription, assignment FROM topics.group_member WHERE group_id = 'again';
-- what another one is renamed to, which the member has already, is not
SELECT topics.rename_topic('member_b', 'member_a');
CALL topics.maintain('__consumer_offsets');
SELECT subscription, assignment FROM topics.group_member WHERE group_id = 'again';
SELECT topics.rename_topic('member_a', 'member_b');
SELECT topics.create_topic('member_a', partitions => 3);
SELECT topics.produce('member_a', 'new', partition => 1);
CALL topics.maintain('__consumer_offsets');
SELECT subscription, assignment FROM topics.group_member WHERE group_id = 'again';
SELECT topic, partition, "offset", value FROM topics.poll(:'m');
SELECT topic, partition, position FROM topics.assignment(:'m') ORDER BY topic, partition;
SELECT topic, partition, committed_offset FROM topics.consumer_offset WHERE group_id = 'again';
SELECT topics.leave_group(:'m');
SELECT topics.drop_topic('member_a'), topics.drop_topic('member_b');
SELECT topics.delete_group(group_id) FROM topics.consumer_group
WHERE group_id IN ('c', 'simple', 's');
