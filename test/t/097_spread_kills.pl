# Nodes are killed again and again, each of which leads some partitions of spread topics, under
# producers and consumers of all nodes: what was acknowledged is there once and in order, and is
# consumed once, and all nodes have the same at the end.
#
# leader_clients.py has the clients.  PG_TOPICS_LEADER_KILLS is how many nodes are killed at least.
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

my $wanted = $ENV{PG_TOPICS_LEADER_KILLS} // ($ENV{PG_TOPICS_LONG} ? 50 : 8);
plan skip_all => 'not installed: python3 with psycopg2' unless defined python_with('psycopg2');

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

start_clients($wanted, 0);

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

set_automatic('off');
ok( poll_until(
		sub {
			$nodes[0]->psql('postgres', "CALL topics.move_leader('a', '" . $_->name . "')")
			  for @nodes[ 1, 2 ];
			$nodes[0]
			  ->safe_psql('postgres', q{SELECT count(*) FROM topic_log.cluster WHERE leader = node})
			  == 4;
		}),
	'one node leads all');
check_clients($nodes[0], "$killed nodes killed");
check_contents($nodes[0], $_) for qw(topic.t topic.copy);
check_files($_, 'postgres', $_->name) for @nodes;
done_testing();
