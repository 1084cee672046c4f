# Nodes of different versions: the cluster can do what all of them can, and a node that can
# do less than the cluster is none of its nodes.  The function that tells a version's level is
# replaced, as an upgrade would.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Leaders;
use TopicState;
use Topics;

my $conf =
  "pg_topics.worker_interval = '1 s'\npg_topics.automatic_failover = off\npg_topics.node_timeout = '1 s'\n";
my ($a, $b, $c) = make_cluster(conf => $conf);

# The node gets a version that has a level, and is started anew.
sub install
{
	my ($node, $level) = @_;

	$node->safe_psql('postgres',
		"CREATE OR REPLACE FUNCTION topic_log.feature_level() RETURNS integer LANGUAGE SQL IMMUTABLE PARALLEL SAFE RETURN $level"
	);
	$node->restart;
	return;
}

sub has_level
{
	my ($level, $test_name, @nodes) = @_;

	return ok(
		!(  grep {
				!$_->poll_query_until('postgres',
					"SELECT feature_level = $level FROM topics.cluster")
			} @nodes),
		$test_name);
}

# What a node is refused for
sub is_refused
{
	my ($node, $test_name) = @_;

	return ok(
		$node->poll_query_until(
			'postgres',
			q{SELECT EXISTS (SELECT FROM topics.worker WHERE sqlstate = '0A000' AND message LIKE '%has feature level%')}
		),
		$test_name);
}

has_level(1, 'all nodes have level 1', $a, $b, $c);
install($c, 3);
ok( $a->poll_query_until('postgres', q{SELECT feature_level = 3 FROM topics.node WHERE node = 'c'}),
	'a follower has a newer version');
install($b, 2);
ok( $a->poll_query_until('postgres', q{SELECT feature_level = 2 FROM topics.node WHERE node = 'b'}),
	'... and another one');
is($a->safe_psql('postgres', 'SELECT feature_level FROM topics.cluster'),
	'1', '... and the leader has not');
is(produce_records($a, 'mixed', 10), '10', '... which goes on');

# the leader is upgraded last
install($a, 2);
is(produce_records($a, 'upgraded', 10), '10', 'the leader has it, too');
has_level(2, '... and the cluster what the last one has', $a, $b, $c);
check_same($a, 'upgraded', $b, $c);
install($b, 3);
$a->safe_psql('postgres', q{CALL topics.move_leader('b')});
has_level(2, 'another node leads', $a, $b, $c);
install($a, 3);
has_level(3, '... and hears of the last one', $a, $b, $c);

# ----------------------------------------------------------------------
# Older than the others
# ----------------------------------------------------------------------

install($c, 2);
is_refused($c, 'a follower that goes back to an older version');
produce_records($b, 'without', 10);
is($c->safe_psql('postgres', q{SELECT count(*) FROM topic.t WHERE value LIKE 'without%'}),
	'0', '... does not follow');
my ($state, $message) = sqlstate_of($c, 'postgres', q{CALL topics.failover('b')});
is($state, '0A000', '... and does not lead');
like(
	$message,
	qr/"c" has feature level 2, and the cluster has 3.*ALTER EXTENSION pg_topics UPDATE/s,
	'... and says why');
install($c, 3);
check_same($b, 'it has the newer one again', $a, $c);

install($b, 2);
is((sqlstate_of($b, 'postgres', q{SELECT topics.produce('t', 'x')}))[0],
	'0A000', 'a leader that goes back takes nothing');
$a->safe_psql('postgres', q{CALL topics.failover('b')});
is(find_leader($a), $a, '... until another one leads');
is_refused($b, '... which it does not follow');
install($b, 3);
check_same($a, 'it has the newer one again', $b, $c);

my $d = topics_node('d', conf => $conf);
install($d, 2);
is( (   sqlstate_of(
			$a, 'postgres', q{CALL topics.add_node('d', $$} . $d->connstr('postgres') . '$$)'))[0],
	'0A000',
	'a node that is older does not join');
is($a->safe_psql('postgres', q{SELECT count(*) FROM topics.node}), '3', '... not by half');
install($d, 4);
$a->safe_psql('postgres', q{CALL topics.add_node('d', $$} . $d->connstr('postgres') . '$$)');
is($a->safe_psql('postgres', q{SELECT feature_level FROM topics.node WHERE node = 'd'}),
	'4', 'one that is newer does');
check_acknowledged($a, 'all that was acknowledged is there');

done_testing();
