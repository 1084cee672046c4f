# A copy of a node takes its place, and the node itself is started again: who has admitted the
# copy has nothing to do with it any more.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use File::Path qw(remove_tree);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::RecursiveCopy;
use PostgreSQL::Test::Utils;
use Test::More;
use Leaders;
use Session;
use TopicState;
use Topics;

my ($a, $b, $c) =
  make_cluster(conf =>
	  "wal_level = replica\npg_topics.worker_interval = '1 s'\npg_topics.automatic_failover = off\npg_topics.node_timeout = '1 s'\n"
  );

# Exchanges the files of a node, which is down, for those that were put away.
sub exchange
{
	my ($node) = @_;
	my ($here, $away) = ($node->data_dir, $node->basedir . '/away');

	rename $here, "$away.new" or die "could not move $here: $!";
	rename $away, $here or die "could not move $away: $!";
	rename "$away.new", $away or die "could not move $away.new: $!";
	return;
}

sub says
{
	my ($node, $text) = @_;

	return $node->poll_query_until('postgres',
		"SELECT EXISTS (SELECT FROM topics.worker WHERE message LIKE '%$text%')");
}

# ----------------------------------------------------------------------
# A copy is promoted
# ----------------------------------------------------------------------

produce_records($a, 'first', 10);
$b->stop;
PostgreSQL::Test::RecursiveCopy::copypath($b->data_dir, $b->basedir . '/away');
chmod 0700, $b->basedir . '/away';
append_to_file($b->data_dir . '/standby.signal', '');
kill_server($c);
$b->start;
$b->promote;
ok(says($b, 'is not admitted yet'), 'a copy of b waits to be admitted');
is($a->safe_psql('postgres', 'SELECT count(*) FROM topic_log.admitted'),
	'1', '... by a, which is not enough');
is((sqlstate_of($b, 'postgres', q{CALL topics.failover('a')}))[0], 'TP009',
	'... and does not lead');
$c->start;
check_same($a, 'admitted', $b, $c);
is($c->safe_psql('postgres', 'SELECT string_agg(DISTINCT node, $$ $$) FROM topic_log.admitted'),
	'b', '... c has admitted it, too');

# ----------------------------------------------------------------------
# The node itself comes again
# ----------------------------------------------------------------------

# what is acknowledged is on a and on the copy: b and c are no majority
kill_server($c);
produce_records($a, 'copied', 10);
kill_server($_) for $a, $b;
exchange($b);
$_->start for $b, $c;
my ($state, $message) = sqlstate_of($b, 'postgres', q{CALL topics.failover('a')});
is($state, 'TP009', 'b itself is not elected');
like($message, qr/node "c" has admitted another server as that node/, '... as c says');
$a->start;
ok(says($b, 'another server was admitted as node "b"'), '... and does not follow');
is($b->safe_psql('postgres', q{SELECT count(*) FROM topic.t WHERE value LIKE 'copied%'}),
	'0', '... but gets nothing');
is($a->safe_psql('postgres', q{SELECT in_sync FROM topics.node WHERE node = 'b'}),
	'f', '... and confirms nothing');
is((sqlstate_of($b, 'postgres', q{CALL topics.failover('a')}))[0],
	'55000', '... nor asks anybody any more');
check_same($a, 'beside it', $c);

kill_server($b);
exchange($b);
$b->start;
check_same($a, 'the copy again', $b, $c);
kill_server($a);
$b->safe_psql('postgres', q{CALL topics.failover('a')});
is(find_leader($b), $b, 'the copy is elected');
check_acknowledged($b, '... with all that was acknowledged');
$a->start;
check_same($b, 'the copy leads', $a, $c);

# ----------------------------------------------------------------------
# It is another node by now
# ----------------------------------------------------------------------

$b->safe_psql('postgres', q{CALL topics.move_leader('a')});
kill_server($b);
$a->safe_psql('postgres', q{CALL topics.remove_node('b')});
remove_tree($b->data_dir);
my $new = topics_node('d',
	conf => "pg_topics.worker_interval = '1 s'\npg_topics.automatic_failover = off\n");
$a->safe_psql('postgres', q{CALL topics.add_node('b', $$} . $new->connstr('postgres') . '$$)');
is($a->safe_psql('postgres', q{SELECT counts FROM topics.node WHERE node = 'b'}),
	't', 'another database takes the name, and nobody minds');
is((sqlstate_of($a, 'postgres', q{SELECT topic_log.admit('b', 'x', 'y', 'z')}))[0],
	'55000', 'of another cluster nobody is admitted');
is( (   sqlstate_of(
			$a, 'postgres',
			q{SELECT topic_log.admit('b', cluster_id, 'y', 'z') FROM topics.cluster}))[0],
	'TP003',
	'nor another database');
$a->safe_psql('postgres', 'CREATE ROLE stranger; GRANT USAGE ON SCHEMA topic_log TO stranger');
is( (   sqlstate_of(
			$a, 'postgres', q{SET ROLE stranger; SELECT topic_log.admit('b', 'x', 'y', 'z')}))[0],
	'42501',
	'nor by anybody');

done_testing();
