# Another node comes to lead: by failover, by a planned move, by a majority; and the
# one that led comes back, and follows.
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

my ($a, $b, $c) = make_cluster(
	points => 1,
	conf =>
	  "pg_topics.worker_interval = '1 s'\npg_topics.automatic_failover = off\npg_topics.node_timeout = '1 s'\npg_topics.acks_timeout = '20 s'\n"
);

produce_records($a, 'first', 20);
check_same($a, 'three nodes', $b, $c);

# ----------------------------------------------------------------------
# Committed offsets that come while they are read
# ----------------------------------------------------------------------

my $place = q{SELECT committed_offset FROM topics.consumer_offset WHERE group_id = 'g'};
my $reader = Session->new($b);

$a->safe_psql('postgres', q{SELECT topics.commit_offset('g', 't', 0, 1)});
ok($b->poll_query_until('postgres', "SELECT ($place) = 1"), 'a follower has a committed offset');
$a->safe_psql('postgres', q{SELECT topics.commit_offset('g', 't', 0, 2)});
wait_for_replica($b, $a, 'postgres');
stop_at($b, 'offsets-read');
$reader->send($place);
wait_until_at($b, 'offsets-read') or die 'nobody reads offsets';
$a->safe_psql('postgres', q{SELECT topics.commit_offset('g', 't', 0, 3)});
wait_for_replica($b, $a, 'postgres');
go_on_from($b, 'offsets-read');
$reader->receive;
is($b->safe_psql('postgres', $place), '3', '... and the next one, which came meanwhile');

# ----------------------------------------------------------------------
# A planned move
# ----------------------------------------------------------------------

$reader = Session->new($a);
$reader->value(q{BEGIN; SELECT topics.commit_offset('g', 't', 0, 4)});
my $consumer = Session->new($a);
$consumer->value(q{BEGIN; SELECT count(*) > 0 FROM topics.consume('h', 't', 5)});
my $deleter = Session->new($a);
$deleter->value(
	q{SELECT topics.commit_offset('other', 't', 0, 4); BEGIN; SELECT topics.delete_group('other')});
$a->safe_psql('postgres', q{CALL topics.move_leader('b')});
is($reader->query('COMMIT')->{sqlstate},
	'TP004', 'an offset is not committed where another node leads by now');
is($deleter->query('COMMIT')->{sqlstate}, 'TP004', '... and no group is deleted');
is($b->safe_psql('postgres', $place), '3', '... nor does the group stand there');
is($b->safe_psql('postgres', 'SELECT leader FROM topics.cluster'), 'b', 'b leads after the move');
is((sqlstate_of($a, 'postgres', q{SELECT topics.produce('t', 'x')}))[0],
	'TP004', '... and a takes no records');
is(produce_records($b, 'moved', 20), 20, '... and b does, which followers confirm');
$b->safe_psql('postgres', q{SELECT count(*) FROM topics.consume('h', 't', 5)}) for 1 .. 3;
check_same($b, 'after the move', $a, $c);
$a->safe_psql('postgres', q{CALL topics.move_leader('a', 'b')});
is(produce_records($a, 'back', 20), 20, 'and back, called on another node');
check_same($a, 'after the move back', $b, $c);
is($consumer->query('COMMIT')->{sqlstate},
	'40001', 'nothing is consumed that may have been consumed elsewhere meanwhile');

# Who waits for records hears that others lead
$a->safe_psql('postgres', q{SELECT topics.create_topic('quiet')});
$a->safe_psql('postgres', q{SELECT count(*) FROM topics.consume('g', 'quiet')});
my $observer = Session->new($a);
my %waiter = map { $_ => Session->new($a) } qw(wait consume);
$waiter{wait}->send(q{CALL topics.wait('g', 'quiet', '10 min')});
$waiter{consume}->send(q{SELECT count(*) FROM topics.consume('h', 'quiet', max_wait => '1 min')});
for my $who (sort keys %waiter)
{
	ok(poll_until(sub { is_waiting($observer, $waiter{$who}) }), "a session waits in $who");
}
$a->safe_psql('postgres', q{CALL topics.move_leader('b')});
is($waiter{$_}->receive->{sqlstate}, 'TP004', "... and hears that another node leads: $_")
  for sort keys %waiter;
$b->safe_psql('postgres', q{CALL topics.move_leader('a')});
check_same($a, 'after waits', $b, $c);

# ----------------------------------------------------------------------
# Failover, with a tail that nobody has confirmed
# ----------------------------------------------------------------------

$_->stop('immediate') for $b, $c;
produce_records($a, 'lost', 5, '1');
$a->stop('immediate');
$_->start for $b, $c;
my ($state, $message) = sqlstate_of($b, 'postgres', q{CALL topics.failover('b')});
is($state, '55000', 'a node is not lost that is this one');
$b->safe_psql('postgres', q{CALL topics.failover('a')});
is(produce_records($b, 'new', 20), 20, 'b leads after the failover');
check_same($b, 'after the failover', $c);
$b->safe_psql('postgres', q{SELECT topics.create_topic('later')});
$a->start;
check_same($b, 'the lost node comes back', $a);
is($a->safe_psql('postgres', q{SELECT count(*), min(value), max(value) FROM topics.truncated}),
	'5|lost1|lost5', '... and what nobody had confirmed is in topics.truncated');
is( $a->safe_psql(
		'postgres',
		'SELECT bool_and(truncated_at BETWEEN "timestamp" AND clock_timestamp()) FROM topics.truncated'
	),
	't',
	'... with when it was taken away');
ok( $a->poll_query_until(
		'postgres', q{SELECT count(*) = 1 FROM topics.topic WHERE topic = 'later'}),
	'... and new topics come there');

# ----------------------------------------------------------------------
# The newest of a tail are kept: 100,000 records, or 64 MB
# ----------------------------------------------------------------------

# A leader is lost with what a statement has produced there; the rows of topics.truncated when it is
# back, and another one leads
sub kept_of_tail
{
	my ($old, $new, $produces) = @_;

	$_->stop('immediate') for grep { $_ != $old } $a, $b, $c;
	$old->safe_psql('postgres', "SET pg_topics.acks = '1'; $produces");
	$old->stop('immediate');
	$_->start for grep { $_ != $old } $a, $b, $c;
	$new->safe_psql('postgres', q{CALL topics.failover('} . $old->name . q{')});
	$old->start;
	ok(wait_for_all($new), 'a node comes back that led, with a long tail');
	return $old->safe_psql('postgres',
		q{SELECT topic, count(*), min(value::int), max(value::int) FROM (SELECT topic, split_part(value, ' ', 1) AS value FROM topics.truncated WHERE topic <> 't') r GROUP BY topic}
	);
}

is( kept_of_tail(
		$b, $a, q{SELECT count(topics.produce('later', i::text)) FROM generate_series(1, 100100) i}
	),
	'later|100000|101|100100',
	'of more records than that the newest are kept');
is( kept_of_tail(
		$a,
		$b,
		q{SELECT count(topics.produce('later', rpad(i || ' ', 1000000, 'x'))) FROM generate_series(1, 70) i}
	),
	'later|67|4|70',
	'... and of wide ones as many as may be');

# ----------------------------------------------------------------------
# A majority elects a leader by itself
# ----------------------------------------------------------------------

for my $node ($a, $b, $c)
{
	$node->safe_psql('postgres', 'ALTER SYSTEM SET pg_topics.automatic_failover = on');
	$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
}
my $leader = find_leader($b);

# Has a follower ask for promises that is behind; the other one refuses
sub candidate_in_vain
{
	my ($test_name, $leader_lives) = @_;
	my ($behind, $other) = others_than($leader);

	stop_at($behind, 'replica-appended');
	produce_records($leader, 'seen', 5);
	wait_until_at($behind, 'replica-appended') or die 'the replicator does not stop';
	produce_records($leader, 'unseen', 5);
	$leader->stop('immediate') unless $leader_lives;
	is((sqlstate_of($behind, 'postgres', "CALL topics.failover('" . $leader->name . "')"))[0],
		'TP009', "$test_name: who is behind does not lead");
	go_on_from($behind, 'replica-appended');
	return $other;
}

candidate_in_vain('the leader is well', 1);
$leader = find_leader($leader);
check_same($leader, 'a candidate in vain', others_than($leader));

my $ahead = candidate_in_vain('the leader is lost', 0);
my $gone = $leader;
$leader = find_leader($ahead);
is($leader, $ahead, 'who has more is elected');
$gone->start;
check_same($leader, 'another candidate in vain', others_than($leader));

for my $round (1 .. 3)
{
	my $lost = $leader;

	$lost->stop('immediate');
	$leader = find_leader(others_than($lost));
	ok($leader, "round $round: another node is elected") or last;
	is(produce_records($leader, "round$round", 10), 10, '... and takes records');
	$lost->start;
	check_same($leader, "round $round", others_than($leader));
}

sub waits_at
{
	my ($node, $session, $event) = @_;

	return $node->poll_query_until('postgres',
		"SELECT wait_event IN ('$event', 'Extension') FROM pg_stat_activity WHERE pid = $session->{pid}"
	);
}

# The processes of nodes stand still.
sub freeze
{
	my @pids = map { ($_->{_pid}, split ' ', `ps -o pid= --ppid $_->{_pid}`) } @_;

	kill STOP => @pids;
	return reverse @pids;
}

# A leader that stands still for a while, with a commit that waits, and a reader for it
my @others = others_than($leader);
my ($producer, $serializable) = map { Session->new($leader) } 1 .. 2;
$serializable->query('BEGIN ISOLATION LEVEL SERIALIZABLE');
kill_server($_) for @others;
$producer->send(q{SELECT topics.produce('t', 'nobody has heard')});
ok(waits_at($leader, $producer, 'SyncRep'), 'a commit waits for followers that are gone');
$serializable->send(q{SELECT count(*) FROM topic.t WHERE value = 'nobody has heard'});
ok(waits_at($leader, $serializable, 'PgTopicsHighWatermark'), '... and a reader for the commit');
my @stopped = freeze($leader);
$_->start for @others;
my $stopped = $leader;
$leader = find_leader(@others);
ok($leader, 'the leader stands still: another node is elected');
is(produce_records($leader, 'meanwhile', 10), 10, '... and takes records');
kill CONT => @stopped;
check_same($leader, 'a leader stood still', others_than($leader));
ok($producer->receive(30)->{lost}, 'the commit is not acknowledged');
is($serializable->receive(30)->{sqlstate}, '40001', 'the reader hears that it was truncated');
is((sqlstate_of($stopped, 'postgres', q{SELECT topics.produce('t', 'x')}))[0],
	'TP004', '... it takes no records any more');

# All at once
$_->stop('immediate') for $a, $b, $c;
$_->start for $a, $b, $c;
$leader = find_leader($a, $b, $c);
ok($leader, 'all nodes were killed: one leads');
is(produce_records($leader, 'again', 10), 10, '... and takes records');
check_same($leader, 'all nodes were killed', others_than($leader));

done_testing();
