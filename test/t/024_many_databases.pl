# Places in shared memory and databases: more databases than there are places
# for workers, databases that go with topics in them, an extension that is
# dropped and made again at once, and what is said when there is no room.  The
# build for tests has places for 4 workers.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;
use TopicState;

my $node = topics_node(
	'node',
	points => 1,
	conf =>
	  "max_worker_processes = 20\npg_topics.max_partitions = 32\npg_topics.max_group_offsets = 100\nautovacuum = off\n"
);

# ----------------------------------------------------------------------
# Workers
# ----------------------------------------------------------------------

$node->safe_psql('postgres', "CREATE DATABASE without_$_") for 1 .. 6;
for (1 .. 2)
{
	$node->safe_psql('postgres', "CREATE DATABASE with_$_");
	$node->safe_psql("with_$_", 'CREATE EXTENSION pg_topics');
	wait_for_worker($node, "with_$_", "database $_ with the extension has a worker");
}
unlike(
	slurp_file($node->logfile),
	qr/there is no worker for database/,
	'nothing is said of databases without');
my $before = -s $node->logfile;
$node->safe_psql('postgres', 'CREATE DATABASE with_3');
$node->safe_psql('with_3', 'CREATE EXTENSION pg_topics');
wait_for_worker($node, 'with_3', 'database 3 with the extension has a worker');
$node->safe_psql('postgres', 'CREATE DATABASE with_4');
$node->safe_psql('with_4', 'CREATE EXTENSION pg_topics');
ok( poll_until(
		sub { slurp_file($node->logfile, $before) =~ /LOG: .*there is no worker for database/ }),
	'one more than there is room for has none, and the log says so');
my $why =
  q{SELECT pid IS NULL, step, sqlstate, message, hint ~ 'topics.maintain' FROM topics.worker};
is( $node->safe_psql('with_4', $why),
	't|start|54000|all 4 places for databases with the extension are taken|t',
	'... and topics.worker');
$node->safe_psql(
	'with_4', q{
	SELECT topics.create_topic('t');
	SELECT topics.produce('t', 'x');
	CALL topics.maintain()});
$node->safe_psql('with_2', 'DROP EXTENSION pg_topics CASCADE');
wait_for_worker($node, 'with_4', 'when another one drops the extension there is room');
ok( $node->poll_query_until(
		'with_4', 'SELECT count(*) = 1 AND min(last_round) IS NOT NULL FROM topics.worker'),
	'... and it does its work');
$node->safe_psql('postgres', 'DROP DATABASE with_4');
$node->safe_psql('with_2', 'CREATE EXTENSION pg_topics');
wait_for_worker($node, 'with_2', 'after a DROP DATABASE, too');
$node->safe_psql('postgres', "DROP DATABASE with_$_")    for 1 .. 3;
$node->safe_psql('postgres', "DROP DATABASE without_$_") for 1 .. 6;

# ----------------------------------------------------------------------
# Databases that never had a worker
# ----------------------------------------------------------------------

for my $round (1 .. 2)
{
	$node->safe_psql('postgres', 'CREATE DATABASE hidden IS_TEMPLATE true');
	$node->safe_psql(
		'hidden', q{
		CREATE EXTENSION pg_topics;
		SELECT topics.create_topic('hidden', 16);});
	$node->safe_psql('postgres', 'ALTER DATABASE hidden ALLOW_CONNECTIONS false');
	$node->safe_psql('postgres', 'ALTER DATABASE hidden IS_TEMPLATE false');
	$node->safe_psql('postgres', 'DROP DATABASE hidden');
}
ok( poll_until(
		sub {
			(sqlstate_of($node, 'postgres', q{SELECT topics.create_topic('wide', 32)}))[0] eq
			  '00000';
		}),
	'databases that go give their places back, also if they never had a worker');

# ----------------------------------------------------------------------
# What is said
# ----------------------------------------------------------------------

my $session = Session->new($node);
like(
	$session->query(q{SELECT topics.create_topic('one')})->{text},
	qr/DETAIL:  All 32 places for partitions in shared memory are taken/,
	'no room');
$session->value(q{SELECT topics.drop_topic('wide')});
$session->value(q{SELECT topics.create_topic('most', 20)});
like(
	$session->query(q{SELECT topics.create_topic('more', 13)})->{text},
	qr/DETAIL:  13 places for partitions are needed, and 12 of 32 in shared memory are free/,
	'not enough room');
$session->value(q{SELECT topics.create_topic('rest', 4)});
is($session->value(q{SELECT topics.drop_topic('rest')}), '', 'what fits is made');
$session->value(
	q{SELECT topics.commit_offset('g' || i, 'most', 0, 0) FROM generate_series(1, 41) i});
like(
	$session->query(q{SELECT * FROM topics.consume('all', 'most', auto_offset_reset => 'latest')})
	  ->{text},
	qr/DETAIL:  21 places for them are needed, and \d+ of 100 in shared memory are free/,
	'not enough room for a group');

# ----------------------------------------------------------------------
# An extension that is dropped and made again
# ----------------------------------------------------------------------

$session->value(q{DROP EXTENSION pg_topics CASCADE});
$session->value(q{CREATE EXTENSION pg_topics; SELECT topics.create_topic('first', 4)});
$session->value(
	q{SELECT count(topics.produce('first', 'x', partition => 0)) FROM generate_series(1, 10)});
$session->value(q{SELECT topics.create_topic('second', 4)});
my $other = Session->new($node);
$session->value(
	q{BEGIN;
	DROP EXTENSION pg_topics CASCADE;
	CREATE EXTENSION pg_topics;
	SELECT topics.create_topic('again', 4);
	SELECT count(topics.produce('again', 'x', partition => 0)) FROM generate_series(1, 2);
	COMMIT});
is($session->value(q{CALL topics.send('again', 'y', partition => 0)}),
	'0|2', 'a topic of the new extension has a log of its own');
is( $session->value(
		q{SELECT log_start_offset, log_end_offset FROM topics.partition WHERE partition = 0 AND topic = 'again'}
	),
	'0|3',
	'... and its own ends');
# 4 are in use
is($session->value(q{SELECT topics.create_topic('fill', 28)}), '', 'no place is lost');
$session->value(
	q{BEGIN;
	SAVEPOINT s;
	DROP EXTENSION pg_topics CASCADE;
	CREATE EXTENSION pg_topics;
	SELECT topics.create_topic('again', 1);
	ROLLBACK TO s;
	SELECT topics.produce('again', 'z', partition => 0);
	COMMIT});
is($other->value(q{CALL topics.send('again', 'y', partition => 0)}),
	'0|4', 'what is rolled back leaves the topic as it was');
is((sqlstate_of($node, 'postgres', q{SELECT topics.create_topic('more')}))[0],
	'54000', '... and all places in use');

# ----------------------------------------------------------------------
# After the commit record nothing raises
# ----------------------------------------------------------------------

my $log = -s $node->logfile;
$session->value(q{SELECT topics.drop_topic('fill'); SELECT topics.create_topic('last')});
$session->value(q{SELECT topics.commit_offset('g', 'last', 0, 0)});
for my $command (q{SELECT topics.drop_topic('last')}, q{DROP EXTENSION pg_topics CASCADE})
{
	stop_at($node, 'topics-committed');
	$session->send($command);
	my $pid = wait_until_at($node, 'topics-committed');
	exhaust_scans_at($node, 'topics-committed', $pid);
	my $result = $session->receive;
	is("$result->{sqlstate}$result->{lost}", '0', "$command, with all scans of hash tables in use");
}
unlike(slurp_file($node->logfile, $log), qr/PANIC/, '... is no crash');

# ----------------------------------------------------------------------
# Dropped in the middle of a round
# ----------------------------------------------------------------------

wait_for_no_worker($node, 'postgres', 'no worker without the extension');
stop_at($node, 'round-begins');
$node->safe_psql('postgres', q{CREATE EXTENSION pg_topics});
$node->safe_psql('postgres', q{SELECT topics.create_topic('t')});
ok(wait_until_at($node, 'round-begins'), 'a worker begins a round');
$log = -s $node->logfile;
$node->safe_psql('postgres', q{DROP EXTENSION pg_topics CASCADE});
go_on_from($node, 'round-begins');
wait_for_no_worker($node, 'postgres', 'it finds no extension any more, and goes');
unlike(slurp_file($node->logfile, $log), qr/ERROR|exit code 1/, '... without a failure');

$node->stop;
done_testing();
