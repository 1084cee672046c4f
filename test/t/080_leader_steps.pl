# A node is killed at a step of an election, of a planned move, or of the way back: what was
# acknowledged stays, and the same call can be made again.
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

# Kills a node that a call, made on another one or on itself, has brought to a step; without
# a call it comes there by itself.
sub kill_at
{
	my ($point, $killed, $caller, $call) = @_;

	stop_at($killed, $point) if defined $call;
	my $session = Session->new($caller);
	$session->send($call) if defined $call;
	ok(wait_until_at($killed, $point), "$point: " . $killed->name . ' is there');
	kill_server($killed);
	go_on_from($killed, $point);
	return $session;
}

# ----------------------------------------------------------------------
# An election
# ----------------------------------------------------------------------

produce_records($a, 'first', 20);
check_whole($a, 'at first');

# a voter, before its promise is durable
kill_server($a);
my $session = kill_at('promise-given', $c, $b, q{CALL topics.failover('a')});
is($session->receive(60)->{sqlstate}, 'TP009', 'promise-given: too few promise');
$c->start;
$b->safe_psql('postgres', q{CALL topics.failover('a')});
$a->start;
check_whole($b, 'promise-given');

# the candidate, when it has promised itself
kill_server($b);
kill_at('election-promised', $c, $c, q{CALL topics.failover('b')});
$c->start;
$a->safe_psql('postgres', q{CALL topics.failover('b')});
$b->start;
check_whole($a, 'election-promised');

# the candidate, when others have promised it
kill_server($a);
kill_at('election-asked', $b, $b, q{CALL topics.failover('a')});
$b->start;
$c->safe_psql('postgres', q{CALL topics.failover('a')});
$a->start;
check_whole($c, 'election-asked');

# the new leader, before it has said so to anybody
kill_server($c);
kill_at('election-won', $a, $a, q{CALL topics.failover('c')});
$a->start;
$c->start;
is(find_leader($a), $a, 'election-won: it leads all the same');
check_whole($a, 'election-won');

# ----------------------------------------------------------------------
# The way back, with a tail that nobody has confirmed
# ----------------------------------------------------------------------

for my $point ('replica-truncates', 'replica-adopts')
{
	kill_server($_) for $b, $c;
	produce_records($a, "tail_$point", 30, '1');
	kill_server($a);
	$_->start for $b, $c;
	$b->safe_psql('postgres', q{CALL topics.failover('a')});
	is(produce_records($b, "after_$point", 6), 6, "$point: b leads");
	stop_at($a, $point);
	$a->start;
	kill_at($point, $a, $b);
	$a->start;
	check_whole($b, $point);
	is($a->safe_psql('postgres', q{SELECT count(*) FROM topic.t WHERE value LIKE 'tail%'}),
		'0', '... without what nobody has confirmed');
	$b->safe_psql('postgres', q{CALL topics.move_leader('a')});
	check_whole($a, "$point, and back");
}

# ----------------------------------------------------------------------
# A planned move
# ----------------------------------------------------------------------

# the leader, while nobody may append
my $producer = Session->new($a);
stop_at($a, 'move-frozen');
$session = Session->new($a);
$session->send(q{CALL topics.move_leader('b')});
ok(wait_until_at($a, 'move-frozen'), 'move-frozen: a is there');
$producer->send(q{SELECT topics.produce('t', 'waits')});
ok( $a->poll_query_until(
		'postgres',
		q{SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Extension' AND query LIKE '%produce%'}
	),
	'... a producer waits');
kill_server($a);
go_on_from($a, 'move-frozen');
$a->start;
check_whole($a, 'move-frozen, killed');

# ... and it is cancelled
$producer = Session->new($a);
stop_at($a, 'move-frozen');
$session = Session->new($a);
$session->send(q{CALL topics.move_leader('b')});
my $pid = wait_until_at($a, 'move-frozen');
ok($pid, 'move-frozen again');
$producer->send(q{SELECT topics.produce('t', 'waited')});
$a->poll_query_until('postgres',
	q{SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Extension' AND query LIKE '%produce%'}
);
$a->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
go_on_from($a, 'move-frozen');
is($session->receive(60)->{sqlstate}, '57014', '... is cancelled');
like($producer->receive(60)->{sqlstate} // '',
	qr/^(TP004)?$/, '... and the producer goes on, or is told to go elsewhere');
# the other node may have been asked already
$b->poll_query_until('postgres',
	q{SELECT count(*) = 0 FROM pg_stat_activity WHERE query LIKE '%take_lead%' AND state = 'active' AND pid <> pg_backend_pid()}
);
my $leader = find_leader($a, $b, $c);
check_whole($leader, 'move-frozen, cancelled');
$leader->safe_psql('postgres', q{CALL topics.move_leader('a')});
check_whole($a, 'move-frozen, and back');

# the node that is to lead, at each of its steps
for my $point ('election-promised', 'election-asked', 'election-won')
{
	$session = kill_at($point, $b, $a, q{CALL topics.move_leader('b')});
	like($session->receive(60)->{sqlstate}, qr/^08/, "move, $point: the node is lost");
	$b->start;
	$leader = find_leader($a, $b, $c) // $c;
	if ($leader == $c)
	{
		$c->safe_psql('postgres', q{CALL topics.failover('b')});
	}
	check_whole($leader, "move, $point");
	$leader->safe_psql('postgres', q{CALL topics.move_leader('a')}) if $leader != $a;
	check_whole($a, "move, $point, and back");
}

# ----------------------------------------------------------------------
# Who looks while what is committed is forgotten
# ----------------------------------------------------------------------

# a new leader forgets what it knew of offsets before it leads, and once more after that: between
# the two somebody reads them, and a consumer finds them known, and looks after the second time
$leader->safe_psql('postgres', q{CALL topics.move_leader('a')}) if $leader != $a;
is($a->safe_psql('postgres', q{SELECT max("offset") FROM topics.consume('between', 't', 5)}),
	'4', 'a group has consumed');
stop_at($b, 'role-changed');
my $mover = Session->new($a);
$mover->send(q{CALL topics.move_leader('b')});
ok(wait_until_at($b, 'role-changed'), 'role-changed: b is there');
stop_at($b, 'offsets-known');
my $consumer = Session->new($b);
$consumer->query('BEGIN');
$consumer->send(q{SELECT max("offset") FROM topics.consume('between', 't', 5)});
ok(wait_until_at($b, 'offsets-known'), '... a consumer has found the offsets known');
go_on_from($b, 'role-changed');
is($mover->receive(60)->{sqlstate}, '', '... the leader has moved');
go_on_from($b, 'offsets-known');
$consumer->receive(60);
is($consumer->query('COMMIT')->{sqlstate}, '40001', '... the consumer does not commit what it saw');
is($b->safe_psql('postgres', q{SELECT min("offset") FROM topics.consume('between', 't', 5)}),
	'5', '... the group goes on where it was');
$leader = $b;
check_whole($b, 'role-changed');

done_testing();
