# Loaded late, loaded behind others, loaded in another version than the SQL
# objects: each is said clearly, with the cure.

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

my $node = topics_node('main');
$node->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('log', 2);
	SELECT topics.produce('log', 'record ' || i, partition => 0) FROM generate_series(1, 10) i;});
my $before = same_state($node, 'postgres');

# Everything that uses shared memory or the catalogue.
my @calls = (
	q{SELECT topics.produce('log', 'x')},
	q{SELECT topics.produce_batch('log', ARRAY['x'])},
	q{CALL topics.send('log', 'x')},
	q{INSERT INTO topic.log (value) VALUES ('x')},
	"COPY topic.log (value) FROM stdin;\nx\n\\.\n",
	q{SELECT * FROM topics.fetch('log', 0, 0)},
	q{SELECT * FROM topics.list_offsets('log', 'latest')},
	q{SELECT * FROM topics.list_offsets('log', now())},
	q{SELECT topics.create_topic('other')},
	q{SELECT topics.alter_topic('log', notify => false)},
	q{SELECT topics.add_partitions('log', 3)},
	q{SELECT topics.rename_topic('log', 'other')},
	q{SELECT topics.drop_topic('log')},
	q{CALL topics.maintain('log')},
	q{CALL topics.roll_segment('log')},
	q{SELECT * FROM topics.partition},
	q{SELECT * FROM topics.segment},
	q{SELECT * FROM topics.topic});

# ----------------------------------------------------------------------
# Library and SQL objects of different versions
# ----------------------------------------------------------------------

# Also to a session that has used the topic before, from its next look at the
# catalogue on; a new one stands for it here.
$node->safe_psql('postgres',
	q{UPDATE pg_extension SET extversion = '0.9' WHERE extname = 'pg_topics'});
for my $call (@calls)
{
	my ($state, $message) = sqlstate_of($node, 'postgres', "$call;");
	my $name = (split /\n/, $call)[0];

	is($state, 'TP005', "other version: $name");
	like(
		$message,
		qr/The library is version [0-9.]+, the extension in this database is version 0\.9\./,
		'... names both versions');
	like($message, qr/HINT:.*ALTER EXTENSION pg_topics UPDATE/, '... and the cure');
}

# Until that is done a worker tries again, later and later, and does not end at
# what it does beside.
$node->stop;
my $log_end = -s $node->logfile;
$node->start;
ok( poll_until(
		sub {
			(() = slurp_file($node->logfile, $log_end) =~
				  /different versions.*?CONTEXT:  work for all topics of the database/gs) > 1;
		}),
	'the worker says so, too');
unlike(slurp_file($node->logfile, $log_end), qr/exited with exit code 1/, '... and does not end');
$node->safe_psql('postgres',
	q{UPDATE pg_extension SET extversion = '1.0' WHERE extname = 'pg_topics'});
same_state($node, 'postgres', $before, 'nothing has changed, and all works again');

# ----------------------------------------------------------------------
# Not preloaded, with topics there
# ----------------------------------------------------------------------

$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "''");
$node->restart;
for my $call (@calls)
{
	my ($state, $message) = sqlstate_of($node, 'postgres', "$call;");
	my $name = (split /\n/, $call)[0];

	is($state, '55000', "not preloaded: $name");
	like($message, qr/pg_topics must be loaded via "shared_preload_libraries"/, '... says why');
	like(
		$message,
		qr/HINT:.*Put pg_topics first in shared_preload_libraries and restart/,
		'... and the cure');
}
for my $call (
	q{SELECT * FROM topic.log},
	q{SELECT * FROM topic_log.t1_p0_s1},
	q{INSERT INTO topic_log.t1_p0_s1 ("offset", "timestamp", partition) VALUES (10, now(), 0)},
	q{VACUUM topic_log.t1_p0_s1},
	q{VACUUM FULL topic_log.t1_p0_s1})
{
	my ($state, $message) = sqlstate_of($node, 'postgres', $call);

	is($state, '55000', "not preloaded: $call");
	like($message, qr/pg_topics must be loaded via "shared_preload_libraries"/, '... says why');
}
is($node->safe_psql('postgres', 'CREATE TABLE plain AS SELECT 1 AS one; SELECT one FROM plain'),
	'1', 'everything else works');
$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "'pg_topics'");
$node->restart;
same_state($node, 'postgres', $before, 'preloaded again: all is there');

# ----------------------------------------------------------------------
# Not the first of the libraries: one warning, when the server starts
# ----------------------------------------------------------------------

sub warnings_of
{
	my ($libraries) = @_;
	my $from = -s $node->logfile;

	$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "'$libraries'");
	$node->restart;
	is($node->safe_psql('postgres', q{SELECT count(*) FROM topics.fetch('log', 0, 0)}),
		'10', "$libraries: works");
	return substr slurp_file($node->logfile), $from;
}

my $log = warnings_of('plpgsql, pg_topics');
my @warnings = $log =~ /WARNING:  (.*)/g;
is( "@warnings",
	'pg_topics is not the first of "shared_preload_libraries"',
	'behind another library: one warning');
like($log, qr/HINT:  Put pg_topics first in shared_preload_libraries/, '... with the cure');
my $order = q{SELECT sqlstate, message, hint FROM topics.worker WHERE step = 'load'};
is( $node->safe_psql('postgres', $order),
	'55000|pg_topics is not the first of "shared_preload_libraries"'
	  . '|Put pg_topics first in shared_preload_libraries and restart the server.',
	'... and topics.worker says so');
$node->safe_psql(
	'postgres', q{
	CREATE ROLE reader; GRANT USAGE ON SCHEMA topics TO reader;
	GRANT SELECT ON topics.worker TO reader;
	CREATE ROLE monitor IN ROLE pg_monitor});
is($node->safe_psql('postgres', "SET ROLE monitor; $order") ne '', 1, '... to pg_monitor');
is($node->safe_psql('postgres', "SET ROLE reader; $order"), '', '... and not to all');
for my $libraries (
	'pg_topics',
	'pg_topics, plpgsql',
	' pg_topics ,plpgsql',
	'"pg_topics",plpgsql',
	'pg_topics.so, plpgsql',
	'$libdir/pg_topics, plpgsql')
{
	unlike(warnings_of($libraries), qr/WARNING/, "first, no warning: $libraries");
	is($node->safe_psql('postgres', $order), '', '... and no row');
}
is($node->safe_psql('postgres', q{CALL topics.send('log', 'after all', partition => 0)}),
	'0|10', 'produce goes on');

done_testing();
