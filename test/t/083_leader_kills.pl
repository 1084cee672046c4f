# The leader is killed again and again, under producers and consumers: what was acknowledged
# is there once and in order, and is consumed once, and all nodes have the same at the end.
#
# Some producers are content with the leader's own acknowledgement (acks = 1), so that a
# leader that is killed has a tail that nobody else has, and which it has to take back.
# leader_clients.py has the clients, and says what they were told and what is there.
# PG_TOPICS_LEADER_KILLS is how many leaders are killed at least.
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

my $wanted = $ENV{PG_TOPICS_LEADER_KILLS} // ($ENV{PG_TOPICS_LONG} ? 50 : 10);
plan skip_all => 'not installed: python3 with psycopg2' unless defined python_with('psycopg2');

my @nodes =
  make_cluster(conf =>
	  "pg_topics.worker_interval = '1 s'\npg_topics.node_timeout = '1 s'\npg_topics.acks_timeout = '5 s'\nmax_connections = 100\n"
  );
my $leader = $nodes[0];
my %is_down;
my $killed = 0;

$leader->safe_psql('postgres',
	q{SELECT topics.drop_topic('t'); SELECT topics.create_topic('t', 4), topics.create_topic('copy', 4)}
);
ok(wait_for_replica($_, $leader), $_->name . ' has the topics') for others_than($leader);

# ----------------------------------------------------------------------
# Kills
# ----------------------------------------------------------------------

# Of the nodes that are up, the one that leads, in time.
sub await_leader
{
	$leader = wait_for_leader(grep { !$is_down{ $_->name } } @nodes) or die 'no node leads';
	return $leader;
}

sub kill_nodes
{
	my (@killed) = @_;

	for my $node (@killed)
	{
		# both are the end of it, and the second one in the middle of anything
		if   ($killed % 3 == 2) { $node->stop('immediate') }
		else                    { kill_server($node) }
		$is_down{ $node->name } = 1;
	}
	$killed++;
	return;
}

sub start_nodes
{
	for my $node (grep { $is_down{ $_->name } } @nodes)
	{
		$node->start;
		delete $is_down{ $node->name };
	}
	return;
}

sub replicator_of
{
	my ($node) = @_;

	return $node->safe_psql('postgres',
		q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_topics replicator'});
}

# How many records the leader has that are not confirmed.
sub unconfirmed
{
	return $leader->safe_psql(
		'postgres', q{
		SELECT sum(r.log_end_offset - p.log_end_offset) FROM topics.replica r JOIN topics.partition p USING (topic, partition)
		WHERE topic = 't' AND node = (SELECT node FROM topics.node WHERE is_self)});
}

# The leader is killed when it has records that these followers have not.
sub kill_ahead_of
{
	my (@behind) = @_;
	my @stopped = map { replicator_of($_) } @behind;

	signal_backend('STOP', $_) for @stopped;
	if (@behind == 2)
	{
		# more than those have that wait for followers; or it takes none any more
		my $looks = 100;

		poll_until(sub { unconfirmed() >= 60 || !$looks-- });
	}
	else
	{
		wait_for_records(50);
	}
	kill_nodes($leader);
	signal_backend('CONT', $_) for @stopped;
	return await_leader();
}

my %kill = (
	plain => sub {
		kill_nodes($leader);
		return await_leader();
	},

	# what the leader has alone goes
	tail => sub { return kill_ahead_of(others_than($leader)) },

	# one of the others cannot be elected
	behind => sub {
		my ($behind) = others_than($leader);
		my $new = kill_ahead_of($behind);

		isnt($new->name, $behind->name, 'who is behind does not lead');
		return;
	},

	# before anybody misses it
	called => sub {
		my ($one) = others_than($leader);
		my $lost = $leader->name;

		kill_nodes($leader);
		my ($state) = sqlstate_of($one, 'postgres', "CALL topics.failover('$lost')");
		like($state, qr/^(00000|40001|TP009)$/, 'failover is called');
		return await_leader();
	},

	# the next one as soon as it leads: one node is left
	two => sub {
		kill_nodes($leader);
		kill_nodes(await_leader());
		return;
	},

	# ... and the one that leads when the first one is back
	three => sub {
		my $first = $leader;

		kill_nodes($first);
		kill_nodes(await_leader());
		$first->start;
		delete $is_down{ $first->name };
		kill_nodes(await_leader());
		return;
	},

	all => sub {
		kill_nodes(@nodes);
		return;
	});

# ----------------------------------------------------------------------
# Clients
# ----------------------------------------------------------------------

start_clients($wanted, 4);

# Waits for so many more records that are confirmed, whoever leads.
sub wait_for_records
{
	my ($more) = @_;
	my $before;

	return poll_until(
		sub {
			my ($result, $count) = $leader->psql('postgres',
				q{SELECT sum(log_end_offset) FROM topics.partition WHERE topic = 't'});

			if ($result != 0)
			{
				await_leader();
				return 0;
			}
			$before //= $count;
			return $count >= $before + $more;
		});
}

# All nodes are there, and follow.
sub all_in_sync
{
	return poll_until(
		sub {
			await_leader()
			  ->safe_psql('postgres', 'SELECT count(*) = 3 FROM topics.node WHERE in_sync') eq 't';
		});
}

ok(wait_for_records(100), 'the clients work');
my @round = qw(tail two all called three behind plain);
while ($killed < $wanted)
{
	my $kind = shift @round;

	push @round, $kind;
	$kill{$kind}->();
	start_nodes();
	await_leader();
	ok(wait_for_records(100), "$killed killed ($kind): the clients go on with " . $leader->name)
	  && ok(all_in_sync(), '... and all nodes are there')
	  or last;
}

# ----------------------------------------------------------------------
# What was acknowledged, and what is there
# ----------------------------------------------------------------------

# whoever leads leads on, however loaded the machine is
set_automatic('off');
all_in_sync();
my %result = check_clients($leader, "$killed leaders killed");
cmp_ok($result{'hasty and lost'}[0], '>', 0, '... and lost, of who did not wait for followers');

my $truncated = 0;
for my $node (@nodes)
{
	$truncated += $node->safe_psql('postgres', 'SELECT count(*) FROM topics.truncated');
	check_files($node, 'postgres', $node->name);
}
cmp_ok($truncated, '>', 0, 'leaders came back with what nobody else had');
report_kills("truncated: $truncated");

# each node compacts by itself: the latest record of a key is the same
my $latest = '(SELECT DISTINCT ON (partition, key) * FROM topic.__consumer_offsets'
  . ' ORDER BY partition, key, "offset" DESC)';
check_contents($leader, $_) for 'topic.t', 'topic.copy', $latest;
check_terms("$killed leaders killed");
done_testing();
