# A cut is given without a partition that is locked, on the follower or on the leader: the follower
# may have a part of a transaction, and does not lead before it has the rest.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Leaders;
use Session;
use TopicState;
use Topics;

my ($a, $b, $c) =
  make_cluster(conf =>
	  "pg_topics.worker_interval = '1 s'\npg_topics.automatic_failover = off\npg_topics.node_timeout = '1 s'\npg_topics.acks_timeout = '2 min'\nmax_prepared_transactions = 1\n"
  );
my $stopped = 'SELECT count(*) FROM topic_log.lacking WHERE is_stopped';

# What a transaction does that has a record in both topics
sub both
{
	my ($value) = @_;

	return
	  "BEGIN; SELECT topics.produce('t', '$value', partition => 0); SELECT topics.produce('u', '$value'); COMMIT";
}

# Until a node has a topic's log up to an offset, confirmed or not, as is seen from one where no
# topic is locked
sub has
{
	my ($seen_from, $node, $topic, $end) = @_;

	return $seen_from->poll_query_until(
		'postgres', qq{
		SELECT log_end_offset = $end FROM topics.replica
		WHERE topic = '$topic' AND partition = 0 AND node = '} . $node->name . q{'});
}

sub check_failover_refused
{
	my ($test_name) = @_;
	my ($result, $output, $errors) = $b->psql('postgres', q{CALL topics.failover('a')});

	like($errors, qr/node "b" cannot lead.*all of some partitions/s, $test_name);
	return;
}

sub check_all_have
{
	my ($value, $test_name) = @_;

	ok(wait_for_all($a), "$test_name: the others have all");
	for my $node ($a, $b, $c)
	{
		my $shown =
		  "SELECT count(*) = 2 FROM (SELECT value FROM topic.t UNION ALL SELECT value FROM topic.u) r WHERE value = '$value'";

		ok( $node->poll_query_until('postgres', $shown),
			"$test_name: " . $node->name . ' shows all of it');
		ok($node->poll_query_until('postgres', "$stopped", '0'), "... and lacks nothing");
	}
	return;
}

$a->safe_psql('postgres', q{SELECT topics.create_topic('u')});
$a->safe_psql('postgres', both('first'));
ok(wait_for_all($a), 'all have the first record');
for my $node ($b, $c)
{
	is($node->safe_psql('postgres', $stopped), '0', $node->name . ' lacks nothing');
}

# ----------------------------------------------------------------------
# Locked on the follower
# ----------------------------------------------------------------------

my $locker = Session->new($b);
my $producer = Session->new($a);

$locker->value('BEGIN');
$locker->value('LOCK topic.t IN ACCESS EXCLUSIVE MODE');
kill_server($c);
$producer->send(both('half'));
ok(has($a, $b, 'u', 2), 'locked on b: it has what the transaction has in another topic');
ok($b->poll_query_until('postgres', $stopped, '1'), '... and notes that it lacks the rest');
is($b->safe_psql('postgres', q{SELECT count(*) FROM topic.u WHERE value = 'half'}),
	'0', '... and does not show it');
kill_server($a);
$c->start;
check_failover_refused('... with the leader lost, it does not lead');
is($b->safe_psql('postgres', $stopped), '1', '... and goes on lacking it');
# which ends the lock as well
kill_server($b);
$b->start;
check_failover_refused('... nor after a restart');
$a->start;
check_all_have('half', 'when the leader is back');
move_leader_to($b);
move_leader_to($a);

# ----------------------------------------------------------------------
# Locked on the leader
# ----------------------------------------------------------------------

kill_server($b);
kill_server($c);
$a->safe_psql('postgres', q{SET pg_topics.acks = '1'; } . both('leader'));
$locker = Session->new($a);
$locker->value('BEGIN');
$locker->value('LOCK topic.t IN ACCESS EXCLUSIVE MODE');
$b->start;
$c->start;
ok(has($_, $_, 'u', 3), 'locked on a: ' . $_->name . ' has what is in another topic') for $b, $c;
ok( $_->poll_query_until('postgres', $stopped, '1'),
	'... and ' . $_->name . ' notes that it lacks the rest') for $b, $c;
kill_server($a);
check_failover_refused('... with the leader lost, it does not lead');
$a->start;
check_all_have('leader', 'when nobody locks it any more');

# ----------------------------------------------------------------------
# The metadata are locked: the follower does not hear of a new topic
# ----------------------------------------------------------------------

kill_server($c);
$producer = Session->new($a);
$locker = Session->new($a);
$locker->value('BEGIN');
$producer->value(q{SET pg_topics.acks = '1'});
my @feeds = split ' ',
  $a->safe_psql('postgres',
	q{SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE query LIKE 'CALL topic_log.replica_fetch%'}
  );
kill 'STOP', @feeds;
$producer->query(
	q{BEGIN; SELECT topics.create_topic('x'); SELECT topics.produce('x', 'new'); SELECT topics.produce('t', 'new', partition => 0); COMMIT}
);
$locker->value('LOCK topic."__cluster_metadata" IN ACCESS EXCLUSIVE MODE');
kill 'CONT', @feeds;
ok($b->poll_query_until('postgres', $stopped, '2'),
	'metadata locked on a: b notes that it lacks them, and a topic of which it has not heard');
kill_server($a);
$c->start;
check_failover_refused('... and does not lead');
$a->start;
ok(wait_for_all($a), '... the others have all when the leader is back');
ok($_->poll_query_until('postgres', $stopped, '0'), '... and ' . $_->name . ' lacks nothing')
  for $b, $c;
is( $_->safe_psql(
		'postgres',
		q{SELECT (SELECT count(*) FROM topic.x) || ' ' || (SELECT count(*) FROM topic.t WHERE value = 'new')}
	),
	'1 1',
	'... and all of it is on ' . $_->name) for $b, $c;

# ----------------------------------------------------------------------
# A topic is dropped that was left out
# ----------------------------------------------------------------------

$a->safe_psql('postgres', q{SELECT topics.create_topic('v')});
$a->safe_psql('postgres', q{SELECT topics.produce('v', 'first')});
$a->safe_psql('postgres', q{CALL topics.remove_node('c')});
$c->safe_psql('postgres', 'SELECT topic_log.leave_cluster()');
$c->safe_psql('postgres', 'DROP EXTENSION pg_topics CASCADE; CREATE EXTENSION pg_topics');
my $dropper = Session->new($a);
$dropper->value(q{BEGIN; SELECT topics.drop_topic('v')});
my $adder = Session->new($a);
$adder->send(q{CALL topics.add_node('c', $$} . $c->connstr('postgres') . '$$)');
ok($c->poll_query_until('postgres', $stopped, '1'),
	'while a topic is being dropped a node comes, and notes that it lacks that');
$dropper->value('COMMIT');
is($adder->receive->{sqlstate}, '', '... is there when it is dropped');
ok($a->poll_query_until('postgres', q{SELECT counts FROM topics.node WHERE node = 'c'}),
	'... and counts when it is dropped');
ok($c->poll_query_until('postgres', $stopped, '0'), '... and lacks nothing');

# ----------------------------------------------------------------------
# With nothing more than the follower has
# ----------------------------------------------------------------------

$locker = Session->new($b);
$locker->value('BEGIN');
$locker->value('LOCK topic.t IN ACCESS EXCLUSIVE MODE');
$a->safe_psql('postgres', q{SELECT topics.produce('u', 'only there')});
ok(has($a, $b, 'u', 4), 'a topic that is locked, and of which there is nothing new');
is($b->safe_psql('postgres', $stopped), '0', '... is not lacking');
$locker->value('ROLLBACK');
move_leader_to($b);

# ----------------------------------------------------------------------
# The leader's first commit since its start says where all logs end
# ----------------------------------------------------------------------

$b->safe_psql('postgres',
	q{BEGIN; LOCK topic.x IN ACCESS EXCLUSIVE MODE; PREPARE TRANSACTION 'locks x'});
kill_server($_) for $a, $c, $b;
$b->start;
my %first = (
	dropper => q{SELECT topics.drop_topic('x')},
	producer => q{SELECT topics.produce('t', 'first commit', partition => 0)});
for my $who (sort keys %first)
{
	my $session = Session->new($b);

	$session->value(q{SET pg_topics.acks = '1'});
	$session->send($first{$who});
	$first{$who} = $session;
	ok( $b->poll_query_until(
			'postgres',
			"SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $session->{pid}"),
		"the leader's first commit waits for who has a topic locked: $who");
}
is( $b->safe_psql(
		'postgres',
		q{SELECT count(*) FROM pg_locks WHERE classid = 'topic_log.cluster'::regclass AND mode = 'ExclusiveLock'}
	),
	'0',
	q{... without the node's row, which who drops the topic takes next});
$b->safe_psql('postgres', q{ROLLBACK PREPARED 'locks x'});
is($first{$_}->receive->{sqlstate}, '', "... and is done when the topic is dropped: $_")
  for sort keys %first;
$a->start;
$c->start;
ok(wait_for_all($b), '... and the others have it');

done_testing();
