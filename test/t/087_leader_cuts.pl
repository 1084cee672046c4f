# Nodes that are cut off, and come back: a leader that does not know that it was deposed
# acknowledges nothing, a follower that missed the leader for long deposes nobody, and a
# connection that is broken in one direction is no reason to change anything, or leads to
# another leader, but never to two.
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
	links => 1,
	conf =>
	  "pg_topics.worker_interval = '1 s'\npg_topics.node_timeout = '1 s'\npg_topics.acks_timeout = '2 min'\n"
);

sub count_like
{
	my ($node, $from, $pattern) = @_;

	return $node->safe_psql('postgres',
		"SELECT count(DISTINCT value) FROM $from WHERE value ~ '$pattern'");
}

produce_records($a, 'first', 20);
check_whole($a, 'at first');

# ----------------------------------------------------------------------
# A leader that is cut off both ways
# ----------------------------------------------------------------------

my $consumed = q{SELECT count(*) FROM topics.consume('g', 't', 1000)};
my $hasty = Session->new($a);
my %waiting = map { $_ => Session->new($a) } qw(producer inserter sender consumer);

$hasty->value(q{SET pg_topics.acks = '1'});
cut_off($a);
$waiting{producer}->send(q{SELECT topics.produce('t', 'cut producer')});
$waiting{inserter}->send(q{BEGIN; INSERT INTO topic.t (value) VALUES ('cut inserter'); COMMIT});
$waiting{sender}->send(q{CALL topics.send('t', 'cut sender')});
$waiting{consumer}->send($consumed);
my $alone = 0;
my $result;

until (($result = $hasty->query("SELECT topics.produce('t', 'alone $alone')"))->{sqlstate})
{
	$alone++;
}
is($result->{sqlstate}, 'TP004', 'a leader that is cut off takes no records any more');
cmp_ok($alone, '>', 0, '... but has taken some with acks = 1');
my $leader = wait_for_leader($b, $c);
ok($leader, '... another node leads by itself');
is(produce_records($leader, 'meanwhile', 20), 20, '... and takes records');
is($a->safe_psql('postgres', q{SELECT leader = node FROM topic_log.cluster}),
	't', '... of which the old leader does not know');
for my $who (sort keys %waiting)
{
	ok(!defined $waiting{$who}->receive(0), "... the $who waits there");
}
is(count_like($a, 'topic.t', '^(cut|alone)'), '0', '... nothing of what it has taken is shown');

heal_links();
for my $who (sort keys %waiting)
{
	$result = $waiting{$who}->receive;
	ok( $result->{lost} || $result->{sqlstate} eq '40003',
		"when it is back: the $who is not told a lie") or diag($result->{text});
}
check_whole($leader, 'a leader was cut off');
is(count_like($leader, 'topic.t', '^(cut|alone)'),
	'0', '... nothing of what it took alone is there');
is(count_like($a, 'topics.truncated', '^cut'), '3', '... it has kept that');
is(count_like($a, 'topics.truncated', '^alone'), $alone, '... all of it');
is($leader->safe_psql('postgres', $consumed =~ s/count\(\*\)/count(*) > 0/r),
	't', '... what was consumed there is consumed again');
move_leader_to($a);

# ----------------------------------------------------------------------
# ... with a record that the next one has
# ----------------------------------------------------------------------

# c has it, and comes to say so when it does not reach the leader any more; b has it not
my $writer = Session->new($a);
stop_at($b, 'append-locked');
stop_at($c, 'replica-appended');
$writer->send(q{SELECT topics.produce('t', 'kept', partition => 0)});
my $in_b = wait_until_at($b, 'append-locked') or die 'b does not append';
wait_until_at($c, 'replica-appended') or die 'c does not append';
ok(wait_in_commit($a, $writer), 'a commit waits');

cut_off($a);
fail_at($b, 'append-locked', $in_b);
go_on_from($c, 'replica-appended');
is(wait_for_leader($b, $c), $c, '... another node leads, which has its record');
is(find_leader($c), $c, '... and takes records');
is(is_shown($c, 'kept'), '1', '... and shows it');
ok(!defined $writer->receive(0), '... the commit waits');
heal_links();
$result = $writer->receive;
ok($result->{lost} || $result->{sqlstate} eq '', '... and is not told that it is rolled back')
  or diag($result->{text});
note_acknowledged('kept');
check_whole($c, 'a commit that the next leader has');
is(is_shown($a, 'kept'), '1', '... it is there once');
move_leader_to($a);

# ----------------------------------------------------------------------
# A follower that is cut off
# ----------------------------------------------------------------------

my $term = term_of($a);
cut_off($c);
is(produce_records($a, 'without_c', 20), 20, 'a follower is cut off: the others go on');
ok( $c->poll_query_until(
		'postgres', q{SELECT count(*) > 0 FROM topics.worker WHERE message ~ 'cannot lead'}),
	'... it misses the leader, and asks to lead, in vain');
is(produce_records($a, 'still_without_c', 20), 20, '... which goes on');
is((sqlstate_of($c, 'postgres', q{SELECT topics.produce('t', 'nowhere')}))[0],
	'TP004', '... it does not lead');
is($c->safe_psql('postgres', 'SELECT promised_term <= term FROM topic_log.cluster'),
	't', '... nor promise anything, as nobody wants it to lead');
heal_links();
check_whole($a, 'the follower is back');
is(term_of($a), $term, '... and has deposed nobody');

# ... where somebody has it ask, so that it cannot follow in this term any more
cut_off($c);
is(produce_records($a, 'once_more', 20), 20, 'cut off again');
for (1 .. 3)
{
	is((sqlstate_of($c, 'postgres', q{CALL topics.failover('a')}))[0],
		'TP009', '... it does not lead, although it is told to');
}
is($c->safe_psql('postgres', 'SELECT promised_term > term + 1 FROM topic_log.cluster'),
	't', '... and has promised higher terms');
my $busy = Session->new($a);
$busy->value(q{BEGIN; SELECT topics.produce('t', 'busy')});
heal_links();
check_whole($a, 'the follower with a higher term is back');
is($a->safe_psql('postgres', 'SELECT leader FROM topics.cluster'), 'a', '... a leads on');
like($busy->query('COMMIT')->{sqlstate},
	qr/^(|TP004)$/, '... who was in a transaction goes on, or is told');

# ----------------------------------------------------------------------
# One direction
# ----------------------------------------------------------------------

# The leader reaches nobody, but is reached: nobody misses it
$term = term_of($a);
cut_link($a, $_) for $b, $c;
for my $look (1 .. 3)
{
	my $since = $a->safe_psql('postgres', 'SELECT clock_timestamp()');

	is(produce_records($a, "reached$look", 20), 20, 'a leader reaches nobody, and goes on');
	# all have asked since for longer than they would wait for a leader
	ok( $a->poll_query_until(
			'postgres',
			"SELECT count(*) = 2 FROM topics.node WHERE last_asked > '$since'::timestamptz + interval '1.5 s'"
		),
		'... others reach it');
}
is(term_of($a), $term, '... it leads on in its term');
heal_links();
check_whole($a, 'a leader that reached nobody');

# ... and the other way round: another one leads, and the old leader follows that
cut_link($_, $a) for $b, $c;
$leader = wait_for_leader($b, $c);
is(produce_records($leader, 'deaf', 20), 20, 'a leader is reached by nobody: another one leads');
check_same($leader, '... which it follows', others_than($leader));
heal_links();
check_whole($leader, 'a leader that nobody reached');
move_leader_to($a);

# Two followers that do not reach each other: the leader is lost, and neither can lead
cut_link($b, $c);
cut_link($c, $b);
is(produce_records($a, 'apart', 20), 20, 'followers do not reach each other');
kill_server($a);
for my $node ($b, $c)
{
	is((sqlstate_of($node, 'postgres', q{CALL topics.failover('a')}))[0],
		'TP009', '... ' . $node->name . ' does not lead alone');
}
$a->start;
is(find_leader($a), $a, '... the one that led leads when it is back');
check_same($a, '... and both follow', $b, $c);
heal_links();
check_whole(wait_for_leader($a, $b, $c), 'all are back');

check_terms('at the end');
done_testing();
