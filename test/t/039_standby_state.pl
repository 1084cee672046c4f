# What is known on a hot standby, where nobody maintains it: reading takes no
# place in shared memory, so that nothing is left of it after the promotion; a
# wait goes on over the promotion; and a session whose list of segments was
# built while a change was replayed does not stay behind.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;
use TopicState;

my $primary = topics_node(
	'primary',
	init => { allows_streaming => 1 },
	conf =>
	  "pg_topics.max_partitions = 32\npg_topics.max_group_offsets = 100\npg_topics.worker_interval = '1h'\nautovacuum = off\n"
);
$primary->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('log', 2, segment_bytes => 65536);
	SELECT topics.produce('log', 'first ' || i, partition => i % 2) FROM generate_series(1, 100) i;
	SELECT count(*) FROM topics.consume('g', 'log');});
$primary->backup('base');

my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

sub catch_up
{
	return $primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
}

# ----------------------------------------------------------------------
# Topics, groups and databases come and go, and a reader looks at each
# ----------------------------------------------------------------------

my $reader = Session->new($standby);
for my $round (1 .. 4)
{
	$primary->safe_psql('postgres', qq{SELECT topics.create_topic('passing_$round', 16)});
	$primary->safe_psql('postgres',
		qq{SELECT count(*) FROM topics.consume('passing_$round', 'passing_$round', auto_offset_reset => 'latest')}
	);
	catch_up();
	is($reader->value(q{SELECT count(*) FROM topics.partition WHERE topic LIKE 'passing%'}),
		'16', "the standby shows the topic of round $round");
	is($reader->value(q{SELECT count(*) FROM topics.consumer_lag WHERE topic LIKE 'passing%'}),
		'16', '... and its group');
	$primary->safe_psql('postgres', qq{SELECT topics.drop_topic('passing_$round')});
	$primary->safe_psql('postgres', qq{SELECT topics.delete_group('passing_$round')});

	$primary->safe_psql('postgres', 'CREATE DATABASE passing');
	$primary->safe_psql(
		'passing', q{
		CREATE EXTENSION pg_topics;
		SELECT topics.create_topic('other', 4);
		SELECT count(r) FROM generate_series(1, 5) i, topics.consume('other' || i, 'other', auto_offset_reset => 'latest') r;}
	);
	catch_up();
	is($standby->safe_psql('passing', q{SELECT count(*) FROM topics.consumer_lag}),
		'20', '... and those of another database');
	$primary->safe_psql('postgres', 'DROP DATABASE passing');
	catch_up();
}
is( $standby->safe_psql(
		'postgres', q{SELECT failures FROM topics.worker WHERE failures IS NOT NULL}),
	'',
	'nothing fails there');

# ----------------------------------------------------------------------
# A list of segments that is built while a change is replayed
#
# ACCESS EXCLUSIVE on pg_class, replayed, stops a session of the standby where
# it looks the segments up one by one, having listed them.  The transaction that
# has it attaches a segment, and fills it.
# ----------------------------------------------------------------------

my $observer = Session->new($standby);
my $stale = Session->new($standby);
my $waits = 'SELECT count(*) FROM pg_locks WHERE NOT granted';
my $count = q{SELECT count(*) FROM topic.log WHERE partition = 0};
my $fetch = q{SELECT count(*) FROM topics.fetch('log', 0, 0, 1000000, 1000000000)};

# All that the query looks at is known, but for what it looks up of the segments
# of partition 0.
my $oid = $standby->safe_psql('postgres', q{SELECT 'topic_log.t1_p0'::regclass::oid});
$stale->value(q{SELECT count(*) FROM topic.log WHERE partition = 1});
$stale->value(qq{SELECT pg_relation_size($oid), pg_table_is_visible($oid)});
$stale->value('SET plan_cache_mode = force_generic_plan');
$stale->value("PREPARE counted AS $count");
$observer->value($waits) for 1 .. 2;

# There is no other process to attach a segment, and somebody who may use the old
# bounds of the active one, which keeps it from being made longer.
$primary->append_conf('postgresql.conf', 'max_worker_processes = 1');
$primary->restart;
my $holder = Session->new($primary);
$holder->value('BEGIN; SELECT count(*) FROM pg_inherits');
my $segments = q{SELECT count(*) FROM topics.segment WHERE topic = 'log' AND partition = 0};
my $before = $primary->safe_psql('postgres', $segments);
my $writer = Session->new($primary);
$writer->value('BEGIN');
$writer->value('LOCK TABLE pg_catalog.pg_class IN ACCESS EXCLUSIVE MODE');
$writer->value('SELECT pg_switch_wal()');
poll_until(
	sub {
		$observer->value(
			q{SELECT count(*) FROM pg_locks WHERE relation = 1259 AND mode = 'AccessExclusiveLock'})
		  eq '1';
	}) or die 'the lock was not replayed';
$stale->send('EXECUTE counted');
ok( poll_until(sub { $observer->value($waits) ne '0' }),
	'a session of the standby stops while it looks the segments up');
$writer->value(
	q{SELECT count(topics.produce('log', repeat(md5(i::text), 100), partition => 0)) FROM generate_series(1, 5000) i}
);
is($writer->query('COMMIT')->{sqlstate}, '', 'a segment is attached, and filled');
$holder->value('COMMIT');
$stale->receive;
catch_up();
my $all = $primary->safe_psql('postgres', $count);
cmp_ok($primary->safe_psql('postgres', $segments), '>', $before, 'there is another segment');
is($stale->value($count), $all, 'the session sees the records');
is($stale->value('EXECUTE counted'), $all, '... also by the plan that was made meanwhile');
is($stale->value($fetch), $all, '... also by fetch');

# ----------------------------------------------------------------------
# A wait over the promotion, and what is left after it
# ----------------------------------------------------------------------

my $end = $primary->safe_psql('postgres',
	q{SELECT log_end_offset FROM topics.partition WHERE topic = 'log' AND partition = 0});
my $offset_waiter = Session->new($standby);
my $group_waiter = Session->new($standby);
$offset_waiter->send(qq{CALL topics.wait_offset('log', 0, $end, '1 h')});
$primary->safe_psql('postgres',
	q{SELECT count(*) FROM topics.consume('late', 'log', auto_offset_reset => 'latest')});
catch_up();
$group_waiter->send(q{CALL topics.wait('late', 'log', '1 h')});
ok( $standby->poll_query_until(
		'postgres',
		"SELECT count(*) = 2 FROM pg_stat_activity WHERE pid IN ($offset_waiter->{pid}, $group_waiter->{pid}) AND wait_event_type = 'Extension'"
	),
	'two sessions wait on the standby');
my $old_cursor = Session->new($standby);
$old_cursor->value(q{BEGIN; DECLARE c CURSOR FOR SELECT f.offset FROM topics.fetch('log', 0, 0) f});
$primary->stop;
$standby->promote;
is($standby->safe_psql('postgres', qq{CALL topics.send('log', 'x', partition => 0)}),
	"0|$end", 'after the promotion the log goes on at its end');
$standby->safe_psql('postgres', qq{CALL topics.send('log', 'y', partition => 0)});
is(join(' ', @{ $offset_waiter->receive->{rows} }), 'CALL', 'which ends the wait for an offset');
is(join(' ', @{ $group_waiter->receive->{rows} }), 'CALL', '... and that of a group');
is($old_cursor->value('FETCH 1 FROM c; COMMIT'), "0\nCOMMIT", 'an older reader goes on');
is($reader->value($count), $all + 2, 'and an older session sees the records');

# __consumer_offsets has 8, log 2
is($standby->safe_psql('postgres', q{SELECT topics.create_topic('fill', 22)}),
	'', 'all places for partitions are to be had');
is((sqlstate_of($standby, 'postgres', q{SELECT topics.create_topic('one_too_many')}))[0],
	'54000', '... and no more');
$standby->safe_psql('postgres',
	q{SELECT count(*) FROM topics.consume('full', 'fill', auto_offset_reset => 'latest')});
is( $standby->safe_psql(
		'postgres', q{SELECT count(*) FROM topics.consumer_lag WHERE group_id = 'full'}),
	'22',
	'and places for groups');
wait_for_worker($standby, 'postgres', 'the worker has started');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM topics.worker WHERE failures > 0}),
	'0', 'and nothing fails');
$standby->stop;

done_testing();
