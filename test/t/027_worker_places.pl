# Workers come when there is work and go when there is none: idle databases have
# none, whatever asks for one brings it, more databases than places take turns,
# and topics.worker says whether a worker rests, waits for a place, cannot be
# started, or does not answer.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

my $node = topics_node('node',
	conf =>
	  "autovacuum = off\npg_topics.worker_interval = '100ms'\nmax_worker_processes = 8\nmax_prepared_transactions = 1\n"
);
my @databases = map { "d$_" } 1 .. 6;
my $workers =
  q{FROM pg_stat_activity WHERE backend_type IN ('pg_topics worker', 'pg_topics compactor')};
my $launcher = q{FROM pg_stat_activity WHERE backend_type = 'pg_topics launcher'};

# Waits until a query of a database has a result.
sub wait_for_value
{
	my ($database, $query, $expected, $test_name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($node->poll_query_until($database, $query, $expected), $test_name);
}

sub all_rest
{
	my ($test_name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_for_value('postgres', "SELECT count(*) $workers", '0', $test_name);
}

sub status_of
{
	my ($database) = @_;

	return $node->safe_psql($database,
		'SELECT pid IS NULL, state, step, sqlstate, message FROM topics.worker');
}

# A session that hears of new records of topic t, and whether it has.
sub listen_in
{
	my ($database) = @_;
	my $session = Session->new($node, database => $database);

	$session->value(q{SELECT format('LISTEN %I', topics.channel('t')) \gexec});
	return $session;
}

# Runs a query in it, and remembers if it heard anything by then.
sub run_in
{
	my ($session, $sql) = @_;
	my $result = $session->query($sql);

	$session->{heard} = 1 if $result->{text} =~ /Asynchronous notification/;
	return $result->{rows}[0];
}

sub produce_in
{
	my ($session) = @_;

	run_in($session, q{SELECT topics.produce('t', 'x')});
	return;
}

# Waits until it has heard of what was produced since the last time.
sub hears
{
	my ($session, $test_name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(poll_until(sub { run_in($session, 'SELECT 1'); $session->{heard} }), $test_name);
	$session->{heard} = 0;
	return;
}

# ----------------------------------------------------------------------
# Nothing to do
# ----------------------------------------------------------------------

for my $database (@databases)
{
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql(
		$database, q{
		CREATE EXTENSION pg_topics;
		SELECT topics.create_topic('t', notify => true);
		SELECT topics.produce('t', 'x')});
}

# A segment that was larger than retention_bytes is the lowest now, and stays,
# and nothing is in the one after it: there is nothing to do here, either.
$node->safe_psql(
	'd6', q{
	SELECT topics.create_topic('large', segment_bytes => 65536, retention_bytes => 65536);
	INSERT INTO topic.large (value) SELECT repeat(md5(g::text), 60) FROM generate_series(1, 100) g});
wait_for_value(
	'd6',
	q{SELECT string_agg(state, ' ' ORDER BY base_offset) FROM topics.segment WHERE topic = 'large' AND log_end_offset IS NOT NULL},
	'sealed active',
	'a segment is rolled, and the next one empty');
all_rest('seven databases with the extension: all workers go');
is(status_of($_), 't|resting|||', "... database $_ says that its worker rests")
  for 'postgres', @databases;
is($node->safe_psql('postgres', "SELECT count(*) $launcher"), '1', '... there is the launcher');
like(
	$node->safe_psql(
		'postgres', q{
		SET min_parallel_table_scan_size = 0;
		SET parallel_setup_cost = 0;
		SET parallel_tuple_cost = 0;
		CREATE TABLE wide AS SELECT g FROM generate_series(1, 100000) g;
		EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) SELECT count(*) FROM wide}),
	qr/Workers Launched: 2/,
	'... and a parallel query has its processes');

# ----------------------------------------------------------------------
# Something to do, that somebody asks for
# ----------------------------------------------------------------------

my $d1 = listen_in('d1');
produce_in($d1);
hears($d1, 'a record in a database whose worker rests is told of');
wait_for_value('d1', q{SELECT state IN ('idle', 'busy') FROM topics.worker}, 't',
	'... by a worker');
all_rest('... which goes again');

$node->safe_psql(
	'd2', q{
	SELECT topics.create_topic('small', segment_bytes => 65536);
	INSERT INTO topic.small (value) SELECT repeat(md5(g::text), 60) FROM generate_series(1, 100) g});
wait_for_value(
	'd2', q{SELECT count(*) > 0 FROM topics.segment WHERE topic = 'small' AND state = 'sealed'},
	't', 'a segment is rolled where the worker rested');

$node->safe_psql('d2', q{SELECT topics.delete_records('small', 0, -1)});
wait_for_value(
	'd2',
	q{SELECT count(*) FROM topics.segment WHERE topic = 'small' AND state IN ('sealed', 'deleted')},
	'0',
	'... and dropped');

all_rest('all rest');

# ----------------------------------------------------------------------
# Something to do that nobody asks for
# ----------------------------------------------------------------------

$node->safe_psql(
	'd3', q{
	SELECT topics.create_topic('later', retention_time => '2 hours', segment_time => '-1 s');
	SELECT topics.produce('later', 'x')});
wait_for_value(
	'd3',
	q{SELECT state, next_round > now() + interval '1 hour' AND next_round < now() + interval '2 hours' FROM topics.worker},
	'resting|t',
	'a record that is to expire: the worker rests, and it is known when it is to come');
$node->safe_psql(
	'd3', q{
	SELECT topics.create_topic('aged', retention_time => '30 s', segment_time => '-1 s');
	SELECT topics.produce('aged', 'x')});
all_rest('... it rests');
wait_for_value(
	'd3', q{SELECT log_start_offset FROM topics.partition WHERE topic = 'aged'},
	'1', '... it comes by itself, and the record expires');

# new settings of a topic are looked at, though nobody produces
$node->safe_psql('d3',
	q{SELECT topics.create_topic('kept', retention_time => '-1 s'); SELECT topics.produce('kept', 'x')}
);
all_rest('all rest');
$node->safe_psql('d3', q{SELECT topics.alter_topic('kept', retention_time => '0 s')});
wait_for_value(
	'd3', q{SELECT log_start_offset FROM topics.partition WHERE topic = 'kept'},
	'1', 'alter_topic brings the worker');

# a group's owner is renamed, in another database
$node->safe_psql(
	'd4', q{
	CREATE ROLE old_name;
	GRANT USAGE ON SCHEMA topics, topic TO old_name;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA topics TO old_name;
	GRANT SELECT ON topic.t TO old_name;
	SET ROLE old_name;
	SELECT topics.commit_offset('g', 't', 0, 0)});
all_rest('all rest');
$node->safe_psql('d5', 'ALTER ROLE old_name RENAME TO new_name');
wait_for_value('d4',
	q{SELECT count(*) > 0 FROM topic.__consumer_offsets WHERE value::text LIKE '%new_name%'},
	't', 'a role that is renamed in another database is followed');
all_rest('all rest');
$node->safe_psql(
	'd5', q{
	BEGIN;
	ALTER ROLE new_name RENAME TO newest_name;
	PREPARE TRANSACTION 'rename'});
$node->safe_psql('d5', q{COMMIT PREPARED 'rename'});
wait_for_value('d4',
	q{SELECT count(*) > 0 FROM topic.__consumer_offsets WHERE value::text LIKE '%newest_name%'},
	't', '... also by a prepared transaction');
all_rest('all rest');

# ----------------------------------------------------------------------
# The launcher goes and comes
# ----------------------------------------------------------------------

$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) $launcher");
produce_in($d1);
hears($d1, 'what is asked for while there is no launcher is done when there is');

# ----------------------------------------------------------------------
# More databases than places
# ----------------------------------------------------------------------

$node->safe_psql('postgres', 'ALTER SYSTEM SET pg_topics.max_workers = 1');
$node->reload;
my $d2 = listen_in('d2');
my $d3 = listen_in('d3');

# the worker of d1 has something to do all the time, that of d2 once
produce_in($d2);
ok( poll_until(
		sub {
			produce_in($d1);
			run_in($d2, 'SELECT 1');
			return $d2->{heard};
		}),
	'one place: another database has it in its turn');
for my $turn (1 .. 3)
{
	$_->{heard} = 0 for $d1, $d2, $d3;
	ok( poll_until(
			sub {
				produce_in($_) for $d1, $d2, $d3;
				return $d1->{heard} && $d2->{heard} && $d3->{heard};
			}),
		"... three that never rest take turns ($turn)");
}

# A worker that does not answer keeps its place.  It is stopped while it waits:
# elsewhere it may hold a lock that all need who connect.
my $waits = q{wait_event_type IN ('Activity', 'Extension')};
my $pid;
ok( poll_until(
		sub {
			my $is_there;

			($is_there, $pid) = split /\|/, run_in(
				$d1, qq{
				SELECT count(a.pid) > 0, max(a.pid) FILTER (WHERE a.state = 'idle' AND $waits)
				FROM topics.worker w JOIN pg_stat_activity a ON a.pid = w.pid});
			produce_in($d1) if $is_there eq 'f';
			return $pid && kill('STOP', $pid);
		}),
	'the worker is stopped');
$_->{heard} = 0 for $d1, $d2, $d3;
produce_in($d2);
wait_for_value(
	'd1', q{SELECT state FROM topics.worker LIMIT 1},
	'hung', '... and topics.worker says that it does not answer');
like(
	status_of('d1'),
	qr/^f\|hung\|hang\|55000\|the worker, process $pid, does not answer/,
	'... which it is');
is( status_of('d2'),
	't|waiting|start|53400|the worker is in another database: "d1"',
	'... another database waits for a place, and says so');
like(
	$node->safe_psql('d2', 'SELECT hint FROM topics.worker'),
	qr/None of these answers/,
	'... and that none will come');
my $active = $node->safe_psql('d2',
	q{SELECT format('topic_log.t%s_p0_s1', topic_id) FROM topics.topic WHERE topic = 't'});
my $age = "SELECT age(relfrozenxid) < 5 FROM pg_class WHERE oid = '$active'::regclass";
$node->safe_psql('postgres', 'SELECT pg_current_xact_id()') for 1 .. 5;
is($node->safe_psql('d2', $age), 'f', '... where a segment that is appended to is old');
$node->safe_psql('d2', "VACUUM (FREEZE) $active");
is($node->safe_psql('d2', $age), 't', '... VACUUM does not leave it to a worker');
ok( poll_until(
		sub {
			slurp_file($node->logfile) =~
			  /the worker of database "d1", process $pid, does not answer/;
		}),
	'... and the log says who');
kill 'CONT', $pid or die "could not send SIGCONT: $!";
hears($d2, 'it goes on, and the other one has its turn');
wait_for_value(
	'd1', q{SELECT count(*) FROM topics.worker WHERE step = 'hang'},
	'0', '... and nothing hangs any more');

# The launcher that does not answer
my $launcher_pid = $node->safe_psql('postgres', "SELECT pid $launcher");
all_rest('all rest');
wait_for_value('postgres', "SELECT $waits $launcher", 't', 'the launcher rests, too');
kill 'STOP', $launcher_pid or die "could not send SIGSTOP: $!";
$d3->{heard} = 0;
produce_in($d3);
wait_for_value(
	'd3',
	q{SELECT step, message FROM topics.worker},
	"hang|the launcher, process $launcher_pid, does not answer",
	'a launcher that does not answer is seen');
kill 'CONT', $launcher_pid or die "could not send SIGCONT: $!";
hears($d3, '... it goes on');

# ----------------------------------------------------------------------
# More databases than places for compactors
# ----------------------------------------------------------------------

$node->safe_psql('postgres',
	q{ALTER SYSTEM SET pg_topics.compaction_rate = '1kB'; ALTER SYSTEM RESET pg_topics.max_workers}
);
$node->reload;
for my $database (qw(d4 d5))
{
	$node->safe_psql(
		$database, q{
		SELECT topics.create_topic('c', cleanup_policy => 'compact', min_cleanable_dirty_ratio => 0);
		SELECT count(topics.produce('c', i || repeat('x', 1000), (i % 10)::text)) FROM generate_series(1, 1000) i;
		CALL topics.roll_segment('c')});
	wait_for_value('postgres',
		q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_topics compactor'},
		'1', "a compactor is at work (in d4, when $database has work)");
}
is( $node->safe_psql(
		'postgres',
		q{SELECT datname FROM pg_stat_activity WHERE backend_type = 'pg_topics compactor'}),
	'd4',
	'... the second one waits for the first');
$node->safe_psql('postgres', q{ALTER SYSTEM SET pg_topics.compaction_rate = 0});
$node->reload;
wait_for_value($_, 'SELECT count(*) FROM topic.c', '10', "... $_ is compacted") for qw(d4 d5);

# Without places for compactors workers do it.
$node->safe_psql('postgres', q{ALTER SYSTEM SET pg_topics.max_compactors = 0});
$node->reload;
$node->safe_psql(
	'd6', q{
	SELECT topics.create_topic('c', cleanup_policy => 'compact', min_cleanable_dirty_ratio => 0);
	SELECT count(topics.produce('c', i || repeat('x', 1000), (i % 10)::text)) FROM generate_series(1, 1000) i;
	CALL topics.roll_segment('c')});
wait_for_value('d6', 'SELECT count(*) FROM topic.c', '10',
	'without compactors the worker compacts');
all_rest('all rest at the end');
unlike(slurp_file($node->logfile), qr/PANIC:|TRAP:|was terminated by signal/, 'no crash');

$node->stop('fast');
done_testing();
