# A topic with more tables than the lock table has room for is dropped: its name
# is free and its places are given back at once, its tables go in steps.  What a
# rollback, a crash, a dump, a lock in the way and the lack of a worker do to
# that.

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

# The number of log tables of topics that are none any more
sub tables_left
{
	my ($node, $database) = @_;

	return $node->safe_psql(
		$database, q{
		SELECT count(*) FROM pg_class WHERE relnamespace = 'topic_log'::regnamespace AND relkind IN ('r', 'p')
			AND relname ~ '^t\d' AND substring(relname FROM '^t(\d+)')::bigint NOT IN (SELECT topic_id FROM topic_log.topic)}
	);
}

sub wait_until_gone
{
	my ($node, $database, $test_name) = @_;

	ok($node->poll_query_until($database, 'SELECT count(*) = 0 FROM topic_log.dropped_topic'),
		$test_name);
	is(tables_left($node, $database), '0', '... and so are its tables');
}

# ----------------------------------------------------------------------
# Little room for locks
# ----------------------------------------------------------------------

my $partitions = 240;
my $small = topics_node(
	'small',
	few_locks => 1,
	conf => q{
	pg_topics.worker_interval = '1h'
	pg_topics.max_partitions = 300
});

# each step finds room for its locks
$small->safe_psql('postgres', q{SELECT topics.create_topic('large', 10)});
$small->safe_psql('postgres', "SELECT topics.add_partitions('large', 10 * $_)")
  for 2 .. $partitions / 10;
$small->safe_psql('postgres',
	q{SELECT topics.produce('large', v, partition => 7) FROM unnest('{x,y}'::text[]) v});
$small->safe_psql('postgres', q{SELECT * FROM topics.consume('g', 'large', 1)});
$small->restart;
wait_for_worker($small, 'postgres', 'the worker runs');
is((sqlstate_of($small, 'postgres', q{SELECT count(*) FROM topic.large}))[0],
	'53200', 'there is no room for the locks of all tables');
my ($sqlstate, $message) = sqlstate_of($small, 'postgres', q{DROP EXTENSION pg_topics CASCADE});
is($sqlstate, '53200', '... so that the extension cannot be dropped');
like(
	$message,
	qr/HINT:  Drop large topics before, each with topics\.drop_topic\(\)/,
	'... and what to do is said');

$small->safe_psql('postgres', q{BEGIN; SELECT topics.drop_topic('large'); ROLLBACK});
is($small->safe_psql('postgres', q{SELECT value FROM topics.fetch('large', 7, 0)}),
	"x\ny", 'a drop that is rolled back keeps all');
is($small->safe_psql('postgres', q{SELECT value FROM topics.consume('g', 'large', 1)}),
	'y', '... and the places of groups');
is($small->safe_psql('postgres', 'SELECT count(*) FROM topic_log.dropped_topic'),
	'0', '... and leaves nothing to be done');

$small->safe_psql('postgres', q{SELECT topics.drop_topic('large')});
wait_until_gone($small, 'postgres', 'a topic that could be made can be dropped');
is($small->safe_psql('postgres', 'SELECT count(*) FROM topics.consumer_offset'),
	'0', '... and the places of groups');
$small->stop;

# ----------------------------------------------------------------------
# Half-way
# ----------------------------------------------------------------------

$partitions = 200;
my $node = topics_node(
	'main',
	points => 1,
	conf => q{
	pg_topics.worker_interval = '1h'
	pg_topics.max_partitions = 450
	max_locks_per_transaction = 64
	autovacuum = off
});
my $large =
  q{SELECT topics.create_topic('large', 200); SELECT topics.produce('large', 'old', partition => 7)};
$node->safe_psql('postgres', $large);
$node->safe_psql('postgres', 'CREATE ROLE owner; ALTER VIEW topic.large OWNER TO owner');
wait_for_worker($node, 'postgres', 'the worker runs');

my $reader = Session->new($node);
my $producer = Session->new($node);
$reader->value(q{BEGIN; SELECT value FROM topics.fetch('large', 7, 0)});
is( (   sqlstate_of(
			$node, 'postgres', q{SET lock_timeout = '50ms'; SELECT topics.drop_topic('large')}))[0],
	'55P03',
	'a reader is waited for');
$reader->value('COMMIT');
$producer->value(q{BEGIN; SELECT topics.produce('large', 'late')});

stop_at($node, 'tables-dropped');
$node->safe_psql('postgres', q{SELECT topics.drop_topic('large')});
my $worker = wait_until_at($node, 'tables-dropped');
cmp_ok(tables_left($node, 'postgres'), '>', $partitions, 'dropped, and most tables are there');
is($producer->query('COMMIT')->{sqlstate}, '55000', '... a producer is told');
is((sqlstate_of($node, 'postgres', q{SELECT topics.produce('large', 'x')}))[0],
	'42704', '... the topic is gone');
is($node->safe_psql('postgres', 'SELECT count(*) FROM topics.broken_topic'),
	'0', '... and nothing is broken');
is( (   sqlstate_of(
			$node, 'postgres',
			q{SELECT topics.repair_topic('back', topic_id) FROM topic_log.dropped_topic}))[0],
	'42704',
	'... or to be repaired');
$node->safe_psql('postgres', 'DROP ROLE owner');

# its name, and its places in shared memory, are free
$node->safe_psql('postgres', $large =~ s/old/new/r);
is($node->safe_psql('postgres', q{SELECT value FROM topic.large WHERE partition = 7}),
	'new', 'another topic takes the name');

# a dump that is made now has the tables
my $dump = PostgreSQL::Test::Utils::tempdir . '/dump';
command_ok([ 'pg_dump', '-Fc', '-f', $dump, $node->connstr('postgres') ], 'dump');
$node->safe_psql('postgres', 'CREATE DATABASE restored');

# a server that crashes, in the middle of the second step
go_on_from($node, 'tables-dropped');
ok($node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM topic_log.dropped_topic'),
	'the worker drops the rest');
is(tables_left($node, 'postgres'), '0', '... all of it');
stop_at($node, 'tables-dropped');
$node->safe_psql('postgres', q{SELECT topics.drop_topic('large')});
$worker = wait_until_at($node, 'tables-dropped');
$node->stop('immediate');
go_on_from($node, 'tables-dropped');
$node->start;
wait_until_gone($node, 'postgres', 'after a crash the worker goes on');

# ----------------------------------------------------------------------
# Beside others
# ----------------------------------------------------------------------

# who drops the rest meanwhile
stop_at($node, 'tables-dropped');
$node->safe_psql('postgres', $large);
$node->safe_psql('postgres', q{SELECT topics.drop_topic('large')});
wait_until_at($node, 'tables-dropped');
$node->safe_psql('postgres', 'CALL topics.maintain()');
is(tables_left($node, 'postgres'), '0', 'what the worker has begun is finished by hand');

# it is in the middle, and is asked for something else
$node->safe_psql('postgres', $large);
$node->safe_psql('postgres',
	q{SELECT topics.create_topic('beside'); SELECT topics.produce('beside', 'x'); CALL topics.roll_segment('beside')}
);
my $log_end = -s $node->logfile;
go_on_from($node, 'tables-dropped');
stop_at($node, 'tables-dropped');
$node->safe_psql('postgres', q{SELECT topics.drop_topic('large')});
$worker = wait_until_at($node, 'tables-dropped');
unlike(slurp_file($node->logfile, $log_end), qr/ERROR/, '... and the worker finds that');
$node->safe_psql('postgres', q{SELECT topics.delete_records('beside', 0, -1)});
stop_again_at($node, 'tables-dropped', $worker);
cmp_ok(tables_left($node, 'postgres'), '>', 0, 'the worker has not dropped all tables');
is( $node->safe_psql(
		'postgres',
		q{SELECT count(*) FROM topics.segment WHERE topic = 'beside' AND state = 'deleted'}),
	'0',
	'... and has done what it was asked for meanwhile');
go_on_from($node, 'tables-dropped');
wait_until_gone($node, 'postgres', 'it goes on with them');

# a table that is in use keeps its own topic only, and not one that comes behind
$node->safe_psql('postgres', $large);
$node->safe_psql('postgres', $large =~ s/'large'/'second'/gr);
my %users;
foreach my $topic ('large', 'second')
{
	my $id =
	  $node->safe_psql('postgres', "SELECT topic_id FROM topics.topic WHERE topic = '$topic'");

	$users{$id} = Session->new($node);
	$users{$id}->value("BEGIN; SELECT count(*) FROM topic_log.t${id}_p150_s1");
	$node->safe_psql('postgres', "SELECT topics.drop_topic('$topic')");
}
my ($first, $behind) = split /\n/,
  $node->safe_psql('postgres', 'SELECT topic_id FROM topic_log.dropped_topic');
ok( $node->poll_query_until(
		'postgres',
		q{SELECT count(*) = 1 FROM topics.worker WHERE step = 'drop' AND sqlstate = '55P03'}),
	'the worker tells of tables that are in use');
$users{$behind}->value('COMMIT');
ok( $node->poll_query_until(
		'postgres', "SELECT count(*) = 0 FROM topic_log.dropped_topic WHERE topic_id = $behind"),
	'... and drops those of another topic');
cmp_ok(tables_left($node, 'postgres'), '>', 0, '... and not those');
$users{$first}->value('COMMIT');
$node->safe_psql('postgres', 'CALL topics.maintain()');
wait_until_gone($node, 'postgres', '... until they are free');

# what others have made of its tables keeps a large topic, too; what they make
# of them when it is dropped is named
my $view = q{SELECT format('CREATE VIEW of_log AS SELECT * FROM topic_log.t%s_p199_s1', topic_id)};
$node->safe_psql('postgres', $large);
$node->safe_psql('postgres', "$view FROM topics.topic WHERE topic = 'large' \\gexec");
$reader = Session->new($node);
my $refused = $reader->query(q{SELECT topics.drop_topic('large')});
is($refused->{sqlstate}, '2BP01', 'a view on a log table keeps a large topic');
like(
	$refused->{text},
	qr/DETAIL:  view public.of_log depends on table topic_log.t\d+_p199_s1\n/,
	'... and is named');
$node->safe_psql('postgres', 'DROP VIEW of_log');
stop_at($node, 'tables-dropped');
$node->safe_psql('postgres', q{SELECT topics.drop_topic('large')});
wait_until_at($node, 'tables-dropped');
$node->safe_psql('postgres', "$view FROM topic_log.dropped_topic \\gexec");
go_on_from($node, 'tables-dropped');
ok( $node->poll_query_until(
		'postgres',
		q{SELECT count(*) = 1 FROM topics.worker WHERE step = 'drop' AND sqlstate = '2BP01'
			AND message LIKE '%: view public.of_log depends on table %'}),
	'the worker tells of a view that was made later');
$node->safe_psql('postgres', 'DROP VIEW of_log');
$node->safe_psql('postgres', 'CALL topics.maintain()');
wait_until_gone($node, 'postgres', '... until it has gone');

# ----------------------------------------------------------------------
# Restored
# ----------------------------------------------------------------------

command_ok([ 'pg_restore', '--exit-on-error', '--dbname', $node->connstr('restored'), $dump ],
	'restore');
wait_for_worker($node, 'restored', 'the worker runs there');
is($node->safe_psql('restored', q{SELECT value FROM topic.large WHERE partition = 7}),
	'new', 'the topic that was there is');
is( $node->safe_psql('restored', 'SELECT topic IS NULL, problem, hint FROM topics.broken_topic'),
	't|It was dropped before the dump, which had its log tables nevertheless.|CALL topics.maintain() drops them, by a superuser or a member of topics_admin.',
	'what was dropped is told of');
cmp_ok(tables_left($node, 'restored'), '>', $partitions, '... and the worker leaves it alone');
my $lock = Session->new($node, database => 'restored');
my $segment = $node->safe_psql('restored',
	q{SELECT 'topic_log.t' || topic_id || '_p150_s1' FROM topic_log.dropped_topic});
$lock->value("BEGIN; SELECT count(*) FROM $segment");
is((sqlstate_of($node, 'restored', 'CALL topics.maintain()'))[0],
	'55P03', 'by hand, beside a lock: an error');
$lock->value('COMMIT');
$node->safe_psql('restored', 'CALL topics.maintain()');
wait_until_gone($node, 'restored', 'by hand the tables go');
is($node->safe_psql('restored', 'SELECT count(*) FROM topics.broken_topic'),
	'0', '... and nothing is told of any more');

done_testing();
