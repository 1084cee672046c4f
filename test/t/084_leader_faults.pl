# Elections that cross each other, and records that a leader had alone: two operators who
# have two nodes lead at once; a record of an earlier term that comes to a majority late
# (figure 8 of the Raft paper); a promise that is asked for in the middle of an append.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Leaders;
use Session;
use Topics;

my ($a, $b, $c) = make_cluster(
	points => 1,
	conf =>
	  "pg_topics.worker_interval = '1 s'\npg_topics.automatic_failover = off\npg_topics.node_timeout = '1 s'\npg_topics.acks_timeout = '2 min'\n"
);

sub call_failover
{
	my ($node, $lost) = @_;
	my $session = Session->new($node);

	$session->send("CALL topics.failover('" . $lost->name . "')");
	return $session;
}

# A session that produces a record, and has come to wait for followers with it.
sub produce_alone
{
	my ($node, $value) = @_;
	my $session = Session->new($node);

	$session->send("SELECT topics.produce('t', '$value', partition => 0)");
	wait_in_commit($node, $session) or die "nobody waits with $value";
	return $session;
}

# ----------------------------------------------------------------------
# Two operators
# ----------------------------------------------------------------------

produce_records($a, 'first', 20);
my $leader = $a;
for my $turn (1 .. 3)
{
	my $lost = $leader;
	my @others = others_than($lost);

	kill_server($lost);
	my @calls = map { call_failover($_, $lost) } @others;
	my @results = map { $_->receive } @calls;
	my $ends = join ' ', map { $_->{lost} ? 'lost' : $_->{sqlstate} || 'done' } @results;

	like($ends, qr/^(?:(?:done|40001|TP004|TP009)(?: |$)){2}/, "both call failover: $ends");
	if ($ends !~ /done/)
	{
		# each was in the other's way, and they know
		$others[0]->safe_psql('postgres', "CALL topics.failover('" . $lost->name . "')");
	}
	# who has promised itself a term in vain has the other one elected once more
	$leader = find_leader(@others);
	is(produce_records($leader, "turn$turn", 6), 6, '... one leads');
	$lost->start;
	check_whole($leader, "both call failover, turn $turn");
}
move_leader_to($a);

# one of them has promised itself a term when the other one comes
kill_server($a);
stop_at($b, 'election-promised');
my $slow = call_failover($b, $a);
wait_until_at($b, 'election-promised') or die 'b does not promise';
$c->safe_psql('postgres', q{CALL topics.failover('a')});
is(produce_records($c, 'between', 6), 6, 'the other one was faster: c leads');
my $term = term_of($c);
go_on_from($b, 'election-promised');
my $result = $slow->receive;
like($result->{lost} ? 'lost' : $result->{sqlstate},
	qr/^(?:|40001|TP009)$/, '... and the slow one hears of it, or leads after it');
$leader = wait_for_leader($b, $c);

if ($result->{sqlstate} eq '')
{
	is($leader, $b, '... in which case it leads');
	cmp_ok(term_of($b), '>', $term, '... in a later term');
}
else
{
	is($leader, $c, '... in which case c leads on');
}
$a->start;
check_whole($leader, 'a slow operator');
move_leader_to($a);

# ... and it has the promises that it needs
kill_server($a);
stop_at($b, 'election-asked');
$slow = call_failover($b, $a);
wait_until_at($b, 'election-asked') or die 'b does not ask';
$c->safe_psql('postgres', q{CALL topics.failover('a')});
is(produce_records($c, 'beside', 6), 6, 'c leads, although b was promised a term');
go_on_from($b, 'election-asked');
is($slow->receive->{sqlstate}, '40001', '... in which b does not come to lead');
is(find_leader($b, $c), $c, '... and c leads on');
$a->start;
check_whole($c, 'a promise that has passed');
move_leader_to($a);

# ----------------------------------------------------------------------
# Figure 8: a record of an earlier term comes to a majority
# ----------------------------------------------------------------------

# Some records of which no follower hears.
sub append_more
{
	my ($node) = @_;

	return $node->safe_psql('postgres',
		q{SET pg_topics.acks = '1'; SELECT count(topics.produce('t', 'more', partition => p)) FROM generate_series(0, 2) p, generate_series(1, 5)}
	);
}

# The first node appends alone, and is killed; so does the second, in the next term.  Then the
# first one leads again, and the third one has got its record, but has not come into its term.
# One of the first two has appended more than the other one: only terms decide who is ahead.
# Returns the session that waits with that record, and one that waits with one of the new term.
sub play_figure8
{
	my ($turn, $first, $second, $third, $longer) = @_;

	kill_server($_) for $second, $third;
	append_more($first) if $first == $longer;
	my $before = own_end($first);
	produce_alone($first, "old$turn");
	is(own_end($first), $before + 1, "turn $turn: " . $first->name . ' has a record alone');
	kill_server($first);

	# the third one promises, and hears no more
	$_->start for $second, $third;
	stop_at($second, 'election-won');
	my $call = call_failover($second, $first);
	wait_until_at($second, 'election-won') or die 'nobody is elected';
	kill_server($third);
	go_on_from($second, 'election-won');
	is($call->receive->{sqlstate}, '', '... ' . $second->name . ' leads alone');
	append_more($second) if $second == $longer;
	produce_alone($second, "other$turn");
	my $alone_in = term_of($second);
	kill_server($second);

	stop_at($third, 'replica-adopts');
	$_->start for $first, $third;
	wait_until_at($third, 'replica-adopts') or die 'nobody follows';
	cmp_ok(term_of($first), '>', $alone_in,
		'... ' . $first->name . ' leads again, in a later term');
	is(own_end($third), own_end($first), '... and its record is on two nodes');
	my $own = produce_alone($first, "own$turn");
	is(is_shown($first, "old$turn"), '0', '... which does not show it');
	is(is_shown($third, "old$turn"), '0', '... nor does the other one');
	return $own;
}

my $own = play_figure8(1, $a, $b, $c, $a);
kill_server($_) for $a, $c;
go_on_from($c, 'replica-adopts');
ok($own->receive->{lost}, '... and acknowledges nothing before it is killed');
$_->start for $b, $c;
is(find_leader($b, $c), $b, '... the other one, of a later term, leads');
is(is_shown($b, 'other1'), '1', '... with its own record');
is(is_shown($b, 'old1'), '0', '... and without that of the earlier term');
$a->start;
check_whole($b, 'an earlier record on two nodes is gone');

for my $node ($a, $c)
{
	is( $node->safe_psql('postgres', q{SELECT count(*) FROM topics.truncated WHERE value = 'old1'}),
		'1',
		'... ' . $node->name . ' has taken it out');
}

# ... and a record of the new term is there as well
move_leader_to($a);
$own = play_figure8(2, $a, $b, $c, $b);
go_on_from($c, 'replica-adopts');
is($own->receive->{sqlstate}, '', 'a follower is in the new term, and that is acknowledged');
note_acknowledged('own2', 'old2');
is(is_shown($a, $_), '1', "... $_ is shown") for 'old2', 'own2';
ok(poll_until(sub { is_shown($c, 'own2') eq '1' }), '... there, too');
kill_server($a);
$b->start;
ok( $b->poll_query_until(
		'postgres', q{SELECT count(*) > 0 FROM topics.worker WHERE message ~ 'cannot lead'}),
	'... who was alone in an earlier term is not elected any more');
is(is_shown($b, 'other2'), '0', '... and shows nothing of that');
$c->safe_psql('postgres', q{CALL topics.failover('a')});
is(find_leader($c), $c, '... but who has more');
is(is_shown($c, $_), '1', "... $_ is there") for 'old2', 'own2';
$a->start;
check_whole($c, 'an earlier record was acknowledged');
is($b->safe_psql('postgres', q{SELECT count(*) FROM topics.truncated WHERE value = 'other2'}),
	'1', '... and b has taken out its own');
move_leader_to($a);

# ----------------------------------------------------------------------
# A promise in the middle of an append
# ----------------------------------------------------------------------

# Whether a topic is there.
sub is_known
{
	my ($node, $topic) = @_;

	return $node->safe_psql('postgres', "SELECT count(*) FROM topics.topic WHERE topic = '$topic'");
}

# Whether a node asks this one for its promise, and waits.
sub is_asked
{
	my ($node) = @_;

	return $node->poll_query_until('postgres',
		q{SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE '%topic\_log.promise%' AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()}
	);
}

# The candidate lacks what the voter appends: the leader is well, and acknowledges that, since
# the voter has it, and so the candidate must not lead
stop_at($b, 'replica-appended');
produce_records($a, 'seen', 3);
wait_until_at($b, 'replica-appended') or die 'b does not stop';
stop_at($c, 'append-done');
my $producer = produce_alone($a, 'flying');
wait_until_at($c, 'append-done') or die 'c does not append';
my $call = call_failover($b, $a);
ok(is_asked($c), 'c is asked for its promise in the middle of an append');
go_on_from($c, 'append-done');
is($call->receive->{sqlstate}, 'TP009', '... it has more than b then');
is($producer->receive->{sqlstate}, '', '... which is acknowledged');
note_acknowledged('flying');
go_on_from($b, 'replica-appended');
check_whole($a, 'who lacks what is appended is refused');

# ... or has it, as the leader that is lost has told both
stop_at($c, 'append-done');
$producer = Session->new($a);
is($producer->query(q{SELECT topics.produce('t', 'both', partition => 0)})->{sqlstate},
	'', 'b has a record');
note_acknowledged('both');
wait_until_at($c, 'append-done') or die 'c does not append';
kill_server($a);
$call = call_failover($b, $a);
ok(is_asked($c), '... c is asked in the middle of that');
go_on_from($c, 'append-done');
is($call->receive->{sqlstate}, '', '... and b leads');
is(produce_records($b, 'then', 6), 6, '... with a majority');
$a->start;
check_whole($b, 'who has what is appended is elected');

# ... or it has promised, with more of the old leader at hand that it has not appended: it
# must not confirm that any more.  The old leader knows of nothing, and would acknowledge it.
move_leader_to($a);
kill_server($c);
$a->safe_psql('postgres', q{SELECT topics.create_topic('made')});
ok(poll_until(sub { is_known($b, 'made') }), 'b has a new topic');
stop_at($b, 'replica-appended');
produce_records($a, 'before', 1, '1');
wait_until_at($b, 'replica-appended') or die 'b does not stop';
$producer = produce_alone($a, 'late');
stop_at($c, 'replica-appended');
$c->start;
wait_until_at($c, 'replica-appended') or die 'c does not stop';
is($c->safe_psql('postgres', q{SELECT leader FROM topics.cluster}), 'a', 'c follows a');
is(call_failover($b, $a)->receive->{sqlstate}, '', '... and promises to follow b');
go_on_from($c, 'replica-appended');
go_on_from($b, 'replica-appended');
$result = $producer->receive;
ok($result->{lost}, '... the old leader does not acknowledge what c had at hand')
  or die 'what was acknowledged is lost';
is(find_leader($b), $b, '... b leads');
is(is_shown($b, 'late'), '0', '... without that');
check_whole($b, 'a promise, and more of the old leader');

check_terms('at the end');
done_testing();
