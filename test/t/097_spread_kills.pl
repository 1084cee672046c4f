# Nodes are killed again and again, each of which leads some partitions of spread topics, under
# producers and consumers of all nodes: what was acknowledged is there once and in order, and is
# consumed once, and all nodes have the same at the end.
#
# leader_clients.py has the clients.  PG_TOPICS_LEADER_KILLS is how many nodes are killed at least.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use IO::Handle;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Leaders;
use Session;
use TopicState;
use Topics;

my $wanted = $ENV{PG_TOPICS_LEADER_KILLS} // ($ENV{PG_TOPICS_LONG} ? 50 : 8);
my ($python) = grep { -x && !system "$_ -c 'import psycopg2' 2>/dev/null" }
  map { "$_/python3" } split(/:/, $ENV{PATH}), '/usr/bin';
plan skip_all => 'not installed: python3 with psycopg2' unless defined $python;

my @nodes =
  make_cluster(conf =>
	  "pg_topics.worker_interval = '1 s'\npg_topics.node_timeout = '1 s'\npg_topics.acks_timeout = '5 s'\nmax_connections = 100\nmax_worker_processes = 24\n"
  );
my $killed = 0;

$nodes[0]->safe_psql('postgres',
	q{SELECT topics.drop_topic('t'); SELECT topics.create_topic('t', 6, leaders => 'spread'), topics.create_topic('copy', 6, leaders => 'spread')}
);
ok(wait_for_replica($_, $nodes[0]), $_->name . ' has the topics') for @nodes[ 1, 2 ];

# Where the log of each partition ends for readers, as far as any node that is up knows
sub ends
{
	my %ends;

	for my $node (grep { $_->{_pid} } @nodes)
	{
		my ($result, $rows) =
		  $node->psql('postgres',
			q{SELECT partition, log_end_offset FROM topics.partition WHERE topic = 't'});

		next if $result != 0;
		for (split /\n/, $rows)
		{
			my ($partition, $end) = split /\|/;
			$ends{$partition} = $end if $end ne '' && $end > ($ends{$partition} // 0);
		}
	}
	return %ends;
}

# So many more records are confirmed in each partition.
sub wait_for_records
{
	my ($more) = @_;
	my %before = ends();

	return poll_until(
		sub {
			my %now = ends();

			return !grep { ($now{$_} // 0) < ($before{$_} // 0) + $more } 0 .. 5;
		});
}

sub kill_nodes
{
	for my $node (@_)
	{
		if   ($killed++ % 3 == 2) { $node->stop('immediate') }
		else                      { kill_server($node) }
	}
	return;
}

my $results = "$PostgreSQL::Test::Utils::tmp_check/spread_clients.txt";
open my $clients, '|-', $python, '-B', "$FindBin::RealBin/leader_clients.py", $results, $wanted, 0,
  map { $_->connstr('postgres') } @nodes
  or die "could not start the clients: $!";
$clients->autoflush(1);

ok(wait_for_records(10), 'the clients work');
my @round = ([0], [1], [ 0, 1 ], [2], [ 0, 1, 2 ], [ 1, 2 ]);
while ($killed < $wanted)
{
	my $kind = shift @round;
	my @those = @nodes[@$kind];
	my $names = join ' and ', map { $_->name } @those;

	push @round, $kind;
	kill_nodes(@those);
	# two of three go on without the third
	ok(wait_for_records(5), "without $names the others lead all") if @those == 1;
	$_->start for @those;
	ok(wait_for_records(10), "$killed killed ($names): the clients go on") or last;
	$nodes[ $killed % 3 ]->psql('postgres', 'CALL topics.rebalance_leaders()');
}

for my $node (@nodes)
{
	$node->safe_psql('postgres', 'ALTER SYSTEM SET pg_topics.automatic_failover = off');
	$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
}
ok( poll_until(
		sub {
			$nodes[0]->psql('postgres', "CALL topics.move_leader('a', '" . $_->name . "')")
			  for @nodes[ 1, 2 ];
			$nodes[0]
			  ->safe_psql('postgres', q{SELECT count(*) FROM topic_log.cluster WHERE leader = node})
			  == 4;
		}),
	'one node leads all');
print {$clients} $nodes[0]->connstr('postgres') . "\n";
ok(close $clients, 'the clients have ended');
my %result = check_clients($results, "$killed nodes killed");
cmp_ok($result{acknowledged}[0], '>', 100, 'records were acknowledged');
cmp_ok($result{consumed}[0], '>', 100, '... and consumed');
my $report = join "\n", "$killed nodes killed",
  map { "$_: $result{$_}[0]" } 'acknowledged', 'unknown', 'hasty and lost', 'consumed',
  'consumed, unknown';
$ENV{PG_TOPICS_LEADER_KILLS} ? diag($report) : note($report);
for my $topic (qw(t copy))
{
	my $records =
	  qq{SELECT partition, count(*), md5(string_agg(r::text, ' ' ORDER BY "offset")) FROM topic.$topic r GROUP BY 1 ORDER BY 1};
	my $expected = $nodes[0]->safe_psql('postgres', $records);

	for my $other (@nodes[ 1, 2 ])
	{
		ok( poll_until(
				sub {
					my ($r, $rows) = $other->psql('postgres', $records);
					$r == 0 && $rows eq $expected;
				}),
			$other->name . " has what the leader has of $topic");
	}
	check_files($_, 'postgres', $_->name) for @nodes;
}
done_testing();
