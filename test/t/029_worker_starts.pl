# Where a worker is started, and where not: in no database but the one that a
# command is about, not in one that takes no connections, seldom in one where
# none gets far, and in one whose extension came in a way of its own.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

my $node = topics_node(
	'main',
	extension => 0,
	conf => "log_min_messages = debug1\nmax_prepared_transactions = 2\nautovacuum = off\n");

# How many workers were started in a database since there was so much in the log
sub starts
{
	my ($database, $before) = @_;
	my $log = slurp_file($node->logfile, $before // 0);

	return () =
	  $log =~ /starting background worker process "pg_topics worker for database "$database"/g;
}

sub wait_for_start
{
	my ($database, $before, $test_name) = @_;

	return ok(poll_until(sub { starts($database, $before) > 0 }), $test_name);
}

# ----------------------------------------------------------------------
# Only where something has changed
# ----------------------------------------------------------------------

my @plain = map { "plain_$_" } 1 .. 4;
$node->safe_psql('postgres', "CREATE DATABASE $_") for @plain, 'other';
wait_for_start($_, 0, "a worker looks into $_")    for @plain;
wait_for_no_worker($node, $_, '... and goes')      for @plain, 'other';

my $before = -s $node->logfile;
$node->safe_psql('postgres', "ALTER DATABASE $plain[0] CONNECTION LIMIT 5");
$node->safe_psql('postgres', "ALTER DATABASE other RENAME TO another");
$node->safe_psql('postgres', 'CREATE DATABASE new');
$node->safe_psql('another', 'CREATE EXTENSION pg_topics');
wait_for_start($_, $before, "a worker looks into $_")   for 'new', 'another';
is(starts($_, $before), 0, "... and not into $_ again") for @plain;

# what a prepared transaction has done, another session may commit
$node->safe_psql('postgres', 'CREATE DATABASE closed ALLOW_CONNECTIONS false');
$before = -s $node->logfile;
$node->safe_psql($plain[3], $_)
  for q{BEGIN; CREATE TABLE t (); PREPARE TRANSACTION 'plain'}, q{COMMIT PREPARED 'plain'};
$node->safe_psql('postgres', $_)
  for q{BEGIN; ALTER DATABASE closed ALLOW_CONNECTIONS true; PREPARE TRANSACTION 'closed'},
  q{COMMIT PREPARED 'closed'};
wait_for_start('closed', $before, 'a worker looks into a database that takes connections now');
is(starts($_, $before), 0, "... COMMIT PREPARED does not bring it into $_") for @plain;

# ----------------------------------------------------------------------
# The extension comes unseen
# ----------------------------------------------------------------------

my $use = q{SELECT topics.create_topic('t'); SELECT topics.produce('t', 'x')};

$before = -s $node->logfile;
$node->safe_psql(
	$plain[1], q{
	BEGIN;
	CREATE EXTENSION pg_topics;
	PREPARE TRANSACTION 'extension'});
$node->safe_psql($plain[1], q{COMMIT PREPARED 'extension'});
$node->safe_psql($plain[1], $use);
wait_for_start($plain[1], $before, 'a prepared CREATE EXTENSION: the first use brings a worker');

SKIP:
{
	my $directory = $node->config_data('--sharedir') . '/extension';

	skip "cannot write to $directory", 1 unless -w $directory;
	append_to_file("$directory/needs_pg_topics.control",
		"default_version = '1.0'\nrequires = 'pg_topics'\n");
	append_to_file("$directory/needs_pg_topics--1.0.sql", "SELECT 1;\n");
	$before = -s $node->logfile;
	$node->safe_psql($plain[2], 'CREATE EXTENSION needs_pg_topics CASCADE');
	unlink glob "$directory/needs_pg_topics*";
	wait_for_start($plain[2], $before, 'CREATE EXTENSION .. CASCADE of another brings a worker');
}

# ----------------------------------------------------------------------
# No worker can be there
# ----------------------------------------------------------------------

# As DROP DATABASE leaves it when it is interrupted
$node->safe_psql('postgres', 'CREATE DATABASE invalid');
$node->safe_psql('invalid', "CREATE EXTENSION pg_topics; $use");
$node->safe_psql('postgres', 'CREATE DATABASE damaged');
$node->safe_psql('damaged', "CREATE EXTENSION pg_topics; $use; CHECKPOINT");
$node->safe_psql('postgres', q{UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'invalid'});
my $damaged =
  $node->safe_psql('postgres', q{SELECT oid FROM pg_database WHERE datname = 'damaged'});
$node->stop;
rename $node->data_dir . "/base/$damaged/PG_VERSION", $node->basedir . '/PG_VERSION'
  or die "could not rename: $!";
$before = -s $node->logfile;
$node->start;

# The time of day at which workers have failed
my @times;
ok( poll_until(
		sub {
			@times = slurp_file($node->logfile, $before) =~
			  /(\d\d:\d\d:\d\d\.\d+).*FATAL: .*is not a valid data directory/g;
			@times >= 3;
		}),
	'a worker is started again and again in a database whose files are damaged');
my @seconds = map { my ($h, $m, $s) = split /:/; $h * 3600 + $m * 60 + $s } @times;
my @waits = map { ($seconds[ $_ + 1 ] - $seconds[$_]) % 86400 } 0, 1;
cmp_ok($waits[1], '>=', 1.5 * $waits[0], '... after a longer time each time');
is(starts('invalid', $before), 0, 'none in a database whose DROP DATABASE was interrupted');
rename $node->basedir . '/PG_VERSION', $node->data_dir . "/base/$damaged/PG_VERSION"
  or die "could not rename: $!";
is($node->safe_psql('damaged', $use =~ s/.*; //r), '0', 'nothing else happened to it');
is($node->psql('postgres', 'DROP DATABASE invalid'), 0, 'the other one is dropped');

$node->stop;
done_testing();
