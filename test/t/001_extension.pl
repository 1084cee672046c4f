# The extension comes and goes, and its processes with it: they start and end
# with CREATE and DROP EXTENSION, stand in nobody's way, and survive a crash.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Topics;

# What CREATE EXTENSION makes, in a database that has none of it.
my $leftovers = q{
	SELECT (SELECT count(*) FROM pg_extension WHERE extname = 'pg_topics')
		+ (SELECT count(*) FROM pg_namespace WHERE nspname IN ('topics', 'topic', 'topic_log'))
		+ (SELECT count(*) FROM pg_am WHERE amname = 'topic_log')};

# Not preloaded: an error that says what to do, and nothing is left behind.
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;
for my $command ('CREATE EXTENSION pg_topics', q{LOAD 'pg_topics'})
{
	my ($result, $stdout, $stderr) = $node->psql('postgres', $command);
	isnt($result, 0, "$command fails without preload");
	like($stderr, qr/ERROR:  pg_topics must be loaded via "shared_preload_libraries"/,
		'... says why');
	like($stderr, qr/HINT:  Put pg_topics first in shared_preload_libraries/, '... and what to do');
}
is($node->safe_psql('postgres', $leftovers), '0', 'nothing is left of the failed CREATE EXTENSION');

# Preloaded: the launcher is there from the start, a worker with the extension.
# PostgreSQL::Test::Cluster has turned restart_after_crash off.
$node->append_conf('postgresql.conf',
	"shared_preload_libraries = 'pg_topics'\nrestart_after_crash = on\n");
$node->restart;
ok( $node->poll_query_until(
		'postgres',
		q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'pg_topics launcher'}),
	'the launcher runs');
wait_for_no_worker($node, 'postgres', 'no worker without the extension');

# There who may create schemas may have some of the extension's names, and
# anything in them.
$node->safe_psql(
	'postgres', q{
	CREATE ROLE planter LOGIN;
	GRANT CREATE ON DATABASE postgres TO planter});
for my $columns ('topic_id bigint, view oid, partitions integer', 'topic_id text, view text')
{
	is( (   $node->psql(
				'postgres', qq{
				CREATE SCHEMA topic;
				CREATE SCHEMA topics;
				CREATE SCHEMA topic_log;
				CREATE TABLE topic_log.topic ($columns);
				CREATE INDEX topic_view_key ON topic_log.topic (view);
				CREATE INDEX topic_pkey ON topic_log.topic (topic_id);
				CREATE TABLE topic_log.t1 (x integer);
				CREATE VIEW topic.v AS SELECT 1 AS x;
				INSERT INTO topic_log.topic VALUES (1, 'topic.v'::regclass::oid);
				ALTER VIEW topic.v RENAME TO w;
				ALTER VIEW topic.w OWNER TO planter;
				ALTER TABLE topic_log.t1 ADD y integer;
				DROP VIEW topic.w;
				DROP TABLE topic_log.t1;
				DROP SCHEMA topic, topics, topic_log CASCADE},
				connstr => $node->connstr('postgres') . ' user=planter',
				on_error_stop => 1))[0],
		0,
		"a table topic_log.topic of somebody else's: $columns");
}
$node->safe_psql('postgres', 'DROP OWNED BY planter; DROP ROLE planter');
$node->safe_psql('postgres', 'CREATE EXTENSION pg_topics');
wait_for_worker($node, 'postgres', 'CREATE EXTENSION starts the worker');

# A rolled back CREATE or DROP EXTENSION changes nothing.
$node->safe_psql('postgres', 'BEGIN; DROP EXTENSION pg_topics; ROLLBACK');
$node->safe_psql('postgres',
	q{SELECT topics.create_topic('kept'); SELECT topics.produce('kept', 'one')});
wait_for_worker($node, 'postgres', 'the worker outlives DROP EXTENSION that was rolled back');

# DROP EXTENSION ends the worker and takes everything along; it can come again.
$node->safe_psql('postgres', q{SELECT topics.drop_topic('kept'); DROP EXTENSION pg_topics});
wait_for_no_worker($node, 'postgres', 'DROP EXTENSION ends the worker');
is($node->safe_psql('postgres', $leftovers), '0', 'nothing is left after DROP EXTENSION');
$node->safe_psql('postgres', 'CREATE EXTENSION pg_topics');
wait_for_worker($node, 'postgres', 'a second CREATE EXTENSION starts a worker again');

# Commands that need a database for themselves do not meet the worker.
for my $database ('dropped', 'renamed', 'template')
{
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, q{CREATE EXTENSION pg_topics; SELECT topics.create_topic('t')});
	wait_for_worker($node, $database, "a worker in database $database");
}
is($node->psql('postgres', 'DROP DATABASE dropped'), 0, 'DROP DATABASE');
is($node->psql('postgres', 'ALTER DATABASE renamed RENAME TO other_name'),
	0, 'ALTER DATABASE RENAME');
is($node->psql('postgres', 'CREATE DATABASE copied TEMPLATE template'),
	0, 'CREATE DATABASE TEMPLATE');
wait_for_worker($node, 'copied', 'the copied database has its own worker');
is($node->safe_psql('copied', q{SELECT topics.produce('t', 'one')}),
	'0', 'and its topic takes records');

SKIP:
{
	skip 'the worker keeps away for half a minute: PG_TOPICS_LONG', 2 unless $ENV{PG_TOPICS_LONG};
	wait_for_worker($node, 'other_name', 'the worker comes back after the renaming');
	wait_for_worker($node, 'template', 'the worker comes back to the template');
}

# Only its database's worker ends by DROP DATABASE.
wait_for_worker($node, 'postgres', 'the worker of another database goes on');

# kill -9 of the worker makes the postmaster restart the whole server.
$node->safe_psql('postgres',
	q{SELECT topics.create_topic('crash'); SELECT topics.produce('crash', 'before')});
my $pid = worker_pid($node, 'postgres');
kill 'KILL', $pid or die "could not kill worker $pid: $!";
wait_for_worker($node, 'postgres', 'the worker is back after a crash', $pid);
$node->safe_psql('postgres', q{SELECT topics.produce('crash', 'after')});
is( $node->safe_psql(
		'postgres', q{SELECT string_agg(value, ' ' ORDER BY "offset") FROM topic.crash}),
	'before after',
	'records from before and after the crash');

# The worker does not hold up a shutdown.
my $start = time;
$node->stop('fast');
cmp_ok(time - $start, '<', 10, 'a fast shutdown takes less than 10 seconds');

done_testing();
