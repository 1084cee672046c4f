# Another node comes to lead: by failover, by a planned move, by a majority; and the
# one that led comes back, and follows.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use TopicState;
use Topics;

my $conf =
  "pg_topics.worker_interval = '1 s'\npg_topics.automatic_failover = off\npg_topics.node_timeout = '1 s'\npg_topics.acks_timeout = '20 s'\n";
my %node = map { $_ => topics_node($_, conf => $conf) } qw(a b c);
my ($a, $b, $c) = @node{ 'a', 'b', 'c' };

sub records
{
	my ($node) = @_;

	return $node->safe_psql('postgres',
		q{SELECT string_agg(partition || ':' || "offset" || '=' || value, ' ' ORDER BY partition, "offset") FROM topic.t}
	);
}

sub produce
{
	my ($node, $what, $count, $acks) = @_;

	$acks //= 'all';
	return $node->safe_psql('postgres',
		qq{SET pg_topics.acks = '$acks'; SELECT count(topics.produce('t', '$what' || i, key => i::text)) FROM generate_series(1, $count) i}
	);
}

# All nodes that are up have the same, in time
sub check_same
{
	my ($leader, $test_name, @others) = @_;

	for my $other (@others)
	{
		my $name = $other->name;

		ok( $other->poll_query_until(
				'postgres', "SELECT leader = '" . $leader->name . "' FROM topics.cluster"),
			"$test_name: $name follows " . $leader->name);
		ok( poll_until(sub { records($other) eq records($leader) }),
			"$test_name: $name has the leader's records"
		) or diag(records($other) . "\n" . records($leader));
	}
	return;
}

$a->safe_psql('postgres',
		'SELECT topics.create_topic(\'t\', 3); SELECT topics.create_cluster(\'a\', $$'
	  . $a->connstr('postgres')
	  . '$$)');
$a->safe_psql('postgres',
	"CALL topics.add_node('$_', \$\$" . $node{$_}->connstr('postgres') . '$$)')
  for qw(b c);
produce($a, 'first', 20);
check_same($a, 'three nodes', $b, $c);

# ----------------------------------------------------------------------
# A planned move
# ----------------------------------------------------------------------

$a->safe_psql('postgres', q{CALL topics.move_leader('b')});
is($b->safe_psql('postgres', 'SELECT leader FROM topics.cluster'), 'b', 'b leads after the move');
is((sqlstate_of($a, 'postgres', q{SELECT topics.produce('t', 'x')}))[0],
	'TP004', '... and a takes no records');
is(produce($b, 'moved', 20), 20, '... and b does, which followers confirm');
check_same($b, 'after the move', $a, $c);
$a->safe_psql('postgres', q{CALL topics.move_leader('a', 'b')});
is(produce($a, 'back', 20), 20, 'and back, called on another node');
check_same($a, 'after the move back', $b, $c);

# ----------------------------------------------------------------------
# Failover, with a tail that nobody has confirmed
# ----------------------------------------------------------------------

$_->stop('immediate') for $b, $c;
produce($a, 'lost', 5, '1');
$a->stop('immediate');
$_->start for $b, $c;
my ($state, $message) = sqlstate_of($b, 'postgres', q{CALL topics.failover('b')});
is($state, '55000', 'a node is not lost that is this one');
$b->safe_psql('postgres', q{CALL topics.failover('a')});
is(produce($b, 'new', 20), 20, 'b leads after the failover');
check_same($b, 'after the failover', $c);
$b->safe_psql('postgres', q{SELECT topics.create_topic('later')});
$a->start;
check_same($b, 'the lost node comes back', $a);
is($a->safe_psql('postgres', q{SELECT count(*), min(value), max(value) FROM topics.truncated}),
	'5|lost1|lost5', '... and what nobody had confirmed is in topics.truncated');
ok( $a->poll_query_until(
		'postgres', q{SELECT count(*) = 1 FROM topics.topic WHERE topic = 'later'}),
	'... and new topics come there');

# ----------------------------------------------------------------------
# A majority elects a leader by itself
# ----------------------------------------------------------------------

# A node that takes records, in time; undef if there is none.
sub find_leader
{
	my (@nodes) = @_;
	my $leader;

	poll_until(
		sub {
			for my $node (@nodes)
			{
				my $got = eval {
					$node->psql(
						'postgres',
						q{SET pg_topics.acks_timeout = '5 s'; SELECT topics.produce('t', 'probe')},
						on_error_stop => 1,
						timeout => 30);
				};
				$leader = $node if defined $got && $got == 0;
				return 1 if $leader;
			}
			return 0;
		});
	return $leader;
}

sub others
{
	my ($leader) = @_;

	return grep { $_ != $leader } $a, $b, $c;
}

for my $node ($a, $b, $c)
{
	$node->safe_psql('postgres', 'ALTER SYSTEM SET pg_topics.automatic_failover = on');
	$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
}
my $leader = find_leader($b);
for my $round (1 .. 3)
{
	my $lost = $leader;

	$lost->stop('immediate');
	$leader = find_leader(others($lost));
	ok($leader, "round $round: another node is elected") or last;
	is(produce($leader, "round$round", 10), 10, '... and takes records');
	$lost->start;
	check_same($leader, "round $round", others($leader));
}

# A leader that stands still for a while
my $pid = $leader->safe_psql('postgres', 'SELECT pg_backend_pid()') && $leader->{_pid};
my @stopped = ($pid, split ' ', `ps -o pid= --ppid $pid`);
kill STOP => @stopped;
my $stopped = $leader;
$leader = find_leader(others($stopped));
ok($leader, 'a leader stands still: another node is elected');
is(produce($leader, 'meanwhile', 10), 10, '... and takes records');
kill CONT => reverse @stopped;
check_same($leader, 'a leader stood still', others($leader));
is((sqlstate_of($stopped, 'postgres', q{SELECT topics.produce('t', 'x')}))[0],
	'TP004', '... it takes no records any more');

# All at once
$_->stop('immediate') for $a, $b, $c;
$_->start for $a, $b, $c;
$leader = find_leader($a, $b, $c);
ok($leader, 'all nodes were killed: one leads');
is(produce($leader, 'again', 10), 10, '... and takes records');
check_same($leader, 'all nodes were killed', others($leader));

done_testing();
