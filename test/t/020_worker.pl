# The worker and its launcher: they come back however they are ended, roll
# segments by age and by size without being asked, come back at once after a
# command that they gave way to, hold up no shutdown, and are not needed.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

my $node = topics_node('main', conf => "pg_topics.worker_interval = '100ms'\nautovacuum = off\n");
my $observer = Session->new($node);
wait_for_worker($node, 'postgres', 'the worker runs');
$observer->value(q{SELECT topics.create_topic('t'); SELECT topics.produce('t', 'first')});

sub launcher_pid
{
	return $node->safe_psql('postgres',
		q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_topics launcher'});
}

# The same, of a session that is connected already.
sub launcher_pid_of
{
	my ($session) = @_;

	return $session->value(
		q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_topics launcher'});
}

# A session does not lose its connection: none of this is a crash.
sub still_there
{
	my ($number, $what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is_deeply($observer->query(q{CALL topics.send('t', 'on')})->{rows},
		["0|$number"], "... $what");
}

# ----------------------------------------------------------------------
# Ended, it comes back
# ----------------------------------------------------------------------

my $pid = worker_pid($node, 'postgres');
is($observer->value("SELECT pg_terminate_backend($pid)"), 't',
	'pg_terminate_backend of the worker');
wait_for_worker($node, 'postgres', '... it comes back', $pid);
still_there(1, 'and nobody has noticed');

$pid = worker_pid($node, 'postgres');
kill 'TERM', $pid or die "could not send SIGTERM: $!";
wait_for_worker($node, 'postgres', 'SIGTERM: it comes back', $pid);
still_there(2, 'and nobody has noticed');

$pid = worker_pid($node, 'postgres');
is($observer->value("SELECT pg_cancel_backend($pid)"), 't', 'a cancel');
still_there(3, 'harms nothing');

my $launcher = launcher_pid();
is($observer->value("SELECT pg_terminate_backend($launcher)"),
	't', 'pg_terminate_backend of the launcher');
ok( $node->poll_query_until(
		'postgres', qq{
		SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'pg_topics launcher' AND pid <> $launcher}
	),
	'... it comes back');
# the cancel may have ended the worker, if that was in a statement
wait_for_worker($node, 'postgres', '... and the worker is there');
$pid = worker_pid($node, 'postgres');
is($observer->value("SELECT pg_terminate_backend($pid)"), 't', '... which, ended after it,');
wait_for_worker($node, 'postgres', '... comes back, too', $pid);
still_there(4, 'and nobody has noticed');

# ----------------------------------------------------------------------
# Segments roll, and nobody calls maintain
# ----------------------------------------------------------------------

# a topic's segments with records that are sealed and have their index
sub sealed
{
	my ($topic) = @_;

	return $observer->value(
		qq{
		SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
		WHERE c.relname LIKE (SELECT 't' || topic_id || '\\_p%' FROM topics.topic WHERE topic = '$topic')}
	);
}

sub rolls_on
{
	my ($topic, $count) = @_;

	return poll_until(sub { sealed($topic) >= $count });
}

$observer->value(
	q{
	SELECT topics.create_topic('age', segment_time => '50 milliseconds');
	SELECT topics.create_topic('size', 2, segment_bytes => 65536);
	SELECT topics.create_topic('neither')});
for my $round (1 .. 3)
{
	$observer->value(q{SELECT topics.produce('age', 'x')});
	ok(rolls_on('age', $round), "segment_time: roll $round") or last;
}
is( $observer->value(
		q{SELECT string_agg(base_offset || '-' || log_end_offset, ' ' ORDER BY base_offset) FROM topics.segment WHERE topic = 'age' AND state = 'sealed'}
	),
	'0-1 1-2 2-3',
	'... a record each');

# Records are larger than was guessed, so the roll is by size, not by bounds.
for my $round (1 .. 3)
{
	$observer->value(
		q{INSERT INTO topic.size (value, partition) SELECT repeat(md5(g::text), 60), 1 FROM generate_series(1, 50) g}
	);
	ok(rolls_on('size', $round), "segment_bytes: roll $round") or last;
}
is( $observer->value(
		q{SELECT count(*) FROM topics.segment WHERE topic = 'size' AND state = 'sealed' AND log_end_offset - log_start_offset <> 50}
	),
	'0',
	'... of 50 records each');
is( $observer->value(
		q{SELECT count(*) FROM topics.segment WHERE topic = 'size' AND partition = 0 AND state = 'sealed'}
	),
	'0',
	'... an empty partition does not roll');

# A quiet active segment is old for ever, and must not be rolled again and again.  That the worker has been round is seen by what it does for others.
$observer->value(q{SELECT topics.produce('neither', 'x')});
my $segments = $observer->value(q{SELECT count(*) FROM topics.segment WHERE topic = 'age'});
for my $round (4 .. 6)
{
	$observer->value(
		q{INSERT INTO topic.size (value, partition) SELECT repeat(md5(g::text), 60), 1 FROM generate_series(1, 50) g}
	);
	rolls_on('size', $round) or last;
}
is($observer->value(q{SELECT count(*) FROM topics.segment WHERE topic = 'age'}),
	$segments, 'a quiet topic does not go on rolling');
is( $observer->value(
		q{SELECT count(*) FROM topics.segment WHERE topic = 'neither' AND state = 'sealed'}),
	'0',
	'nor does one with the default settings');

# ----------------------------------------------------------------------
# Settings of a database, of a role and of the server are for others
# ----------------------------------------------------------------------

my %strict = (
	default_transaction_read_only => 'on',
	default_transaction_isolation => 'serializable',
	default_transaction_deferrable => 'on',
	statement_timeout => '1ms',
	lock_timeout => '1ms',
	idle_in_transaction_session_timeout => '1ms',
	temp_file_limit => '0',
	role => 'nobody',
	session_replication_role => 'replica',
	row_security => 'off',
	search_path => 'nowhere',
	zero_damaged_pages => 'on',
	ignore_checksum_failure => 'on',
	exit_on_error => 'on');
$strict{transaction_timeout} = '1ms' if $node->pg_version >= 17;
$node->safe_psql('postgres', 'CREATE ROLE nobody; CREATE DATABASE strict');
$node->safe_psql('strict', 'CREATE EXTENSION pg_topics');
# sessions from before: what is set is not for them
my $inside = Session->new($node, database => 'strict');
my $reader = Session->new($node, database => 'strict');
wait_for_worker($node, 'strict', 'a worker in a database of many settings');

for my $whose ('DATABASE strict', 'ROLE ALL IN DATABASE strict',
	'ROLE CURRENT_USER IN DATABASE strict')
{
	my $old = worker_pid($node, 'strict');

	$node->safe_psql('postgres', "ALTER $whose SET $_ = '$strict{$_}'") for sort keys %strict;
	$observer->value("SELECT pg_terminate_backend($old)");
	wait_for_worker($node, 'strict', "ALTER $whose SET: the worker comes back", $old);
	$inside->value(
		q{
		SELECT topics.create_topic('sealed', segment_time => '50 milliseconds');
		SELECT topics.create_topic('short', segment_time => '50 milliseconds', retention_time => '50 milliseconds');
		SELECT topics.create_topic('state', segment_time => '50 milliseconds', cleanup_policy => 'compact', min_cleanable_dirty_ratio => 0)}
	);
	$reader->value(q{SELECT format('LISTEN %I', topics.channel('sealed')) \gexec});
	$inside->value(
		q{SELECT topics.produce(topic, repeat('x', 1000), 'k') FROM (VALUES ('sealed'), ('short'), ('state')) t (topic), generate_series(1, 100)}
	);
	ok(poll_until(sub { $reader->query('SELECT 1')->{text} =~ /Asynchronous notification/ }),
		'... it sends notifications');
	ok( poll_until(
			sub {
				$inside->value(
					q{SELECT count(*) FROM topics.segment WHERE topic = 'sealed' AND state = 'sealed' AND log_end_offset = 100}
				);
			}),
		'... seals');
	ok( poll_until(
			sub {
				$inside->value(
					q{SELECT count(*) = 0 FROM topics.segment WHERE topic = 'short' AND base_offset = 0}
				) eq 't';
			}),
		'... drops segments');
	ok(poll_until(sub { $inside->value('SELECT count(*) FROM topic.state') eq '1' }),
		'... compacts');
	$reader->value('UNLISTEN *');
	is($inside->value('SELECT count(*) FROM topics.worker WHERE failures > 0'),
		'0', '... and nothing of it fails');
	$inside->value(
		q{SELECT topics.drop_topic(topic) FROM unnest(ARRAY['sealed', 'short', 'state']) topic});
	$node->safe_psql('postgres', "ALTER $whose RESET ALL");
}
undef $_ for $inside, $reader;

# A deferrable launcher would wait until a transaction is over that has begun before.
my $writer = Session->new($node);
$writer->value(
	q{BEGIN ISOLATION LEVEL SERIALIZABLE READ WRITE NOT DEFERRABLE; SELECT count(*) FROM topic.t});
$observer->value(
	q{
	SET default_transaction_read_only = off;
	SET default_transaction_isolation = 'read committed';
	SET default_transaction_deferrable = off});
my @everywhere = grep { /^default_/ } sort keys %strict;
$observer->value("ALTER SYSTEM SET $_ = '$strict{$_}'") for @everywhere;
$launcher = launcher_pid_of($observer);
$node->reload;
$observer->value('CREATE DATABASE late TEMPLATE strict');
ok( poll_until(
		sub {
			$observer->value(
				q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_topics worker' AND datname = 'late'}
			) eq '1';
		}),
	'in postgresql.conf: the launcher starts a worker all the same');
is(launcher_pid_of($observer), $launcher, '... and has not been ended');
$observer->value("ALTER SYSTEM RESET $_") for @everywhere;
$node->reload;
$writer->value('ROLLBACK');
undef $writer;
# the observer and all that come now see the server as it was
$observer->value(
	q{RESET default_transaction_read_only; RESET default_transaction_isolation; RESET default_transaction_deferrable}
);
$observer->value("DROP DATABASE $_") for qw(late strict);

# ----------------------------------------------------------------------
# Commands that need a database for themselves
# ----------------------------------------------------------------------

# The worker comes back because the command has ended, not some time later: an
# hour passes before the launcher looks unasked.
$node->append_conf('postgresql.conf', "pg_topics.worker_interval = '1h'\n");
$node->reload;

sub comes_back
{
	my ($database, $not_pid, $what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_for_worker($node, $database, "$what: the worker comes back at once", $not_pid);
}

sub pid_in
{
	my ($database) = @_;

	wait_for_worker($node, $database, "a worker in database $database");
	return worker_pid($node, $database);
}

$node->safe_psql('postgres', 'CREATE DATABASE one');
$node->safe_psql('one', q{CREATE EXTENSION pg_topics; SELECT topics.create_topic('t')});
$pid = pid_in('one');
is($node->psql('postgres', 'CREATE DATABASE two TEMPLATE one'), 0, 'CREATE DATABASE TEMPLATE');
comes_back('one', $pid, 'to the template');
comes_back('two', 0, 'in the copy');
is($node->safe_psql('two', q{CALL topics.send('t', 'x')}), '0|0', '... whose topic works');

$pid = pid_in('one');
is($node->psql('postgres', 'ALTER DATABASE one RENAME TO three'), 0, 'ALTER DATABASE RENAME');
comes_back('three', $pid, 'after the renaming');

$pid = pid_in('three');
is($node->psql('postgres', 'BEGIN; ALTER DATABASE three RENAME TO one; ROLLBACK'),
	0, 'ALTER DATABASE RENAME, rolled back');
comes_back('three', $pid, 'after the rollback');

$pid = pid_in('three');
isnt($node->psql('postgres', 'ALTER DATABASE three RENAME TO two'),
	0, 'ALTER DATABASE RENAME that fails');
comes_back('three', $pid, 'after the failure');

# two commands at once: it stays away until both have ended
my ($a, $b) = map { Session->new($node) } 1 .. 2;
$pid = pid_in('three');
$a->value('BEGIN; ALTER DATABASE three RENAME TO four');
$b->send('ALTER DATABASE three RENAME TO five');
ok( poll_until(
		sub {
			$observer->value(
				"SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $b->{pid}") eq
			  't';
		}),
	'while one renames, another waits to do so');
wait_for_no_worker($node, 'three', '... and the worker stays away');
$a->value('ROLLBACK');
is($b->receive->{sqlstate}, '', '... until both have ended');
comes_back('five', $pid, 'after both');

$pid = worker_pid($node, 'postgres');
is($node->psql('postgres', 'DROP DATABASE five'), 0, 'DROP DATABASE');
is(worker_pid($node, 'postgres'), $pid, '... others keep their worker');

# ----------------------------------------------------------------------
# Shutdown with an open producer
# ----------------------------------------------------------------------

$a->value(q{BEGIN; SELECT topics.produce('t', 'open')});
$b->value('BEGIN');
$b->send(q{INSERT INTO topic.t (value) SELECT 'busy' FROM generate_series(1, 1000000000)});
wait_for_worker($node, 'postgres', 'a worker and two open producers');
my $start = time;
$node->stop('fast');
cmp_ok(time - $start, '<', 10, '... a fast shutdown takes less than 10 seconds');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|was terminated by signal/, '... without a crash');

# ----------------------------------------------------------------------
# No process to be had
# ----------------------------------------------------------------------

# PostgreSQL's launcher and ours have taken them.  There are two databases
# with the extension, and so two that get no worker.
my $position = -s $node->logfile;
$node->append_conf('postgresql.conf', "max_worker_processes = 2\n");
$node->start;
$observer = Session->new($node);
is($observer->value('SELECT count(*) FROM topic.t'),
	'5', 'without processes: what was acknowledged is there');
is_deeply($observer->query(q{CALL topics.send('t', 'alone')})->{rows}, ['0|5'], '... produce');
is_deeply(
	$observer->query(
		q{INSERT INTO topic.size (value, partition) SELECT repeat('x', 1000), 0 FROM generate_series(1, 5000)}
	)->{rows},
	['INSERT 0 5000'],
	'... more than a segment');
is($observer->query(q{CALL topics.maintain()})->{sqlstate}, '', '... maintain');
is($observer->query(q{CALL topics.roll_segment('size', 0)})->{sqlstate}, '', '... a roll');
is_deeply($observer->query(q{CALL topics.send('size', 'after it', partition => 0)})->{rows},
	['0|5000'], '... produce after it');
is($observer->value(q{SELECT count(*) FROM topics.fetch('size', 0, 4990)}), '11', '... fetch');
is($node->safe_psql('two', q{CALL topics.send('t', 'alone')}),
	'0|1', '... the other database as well');
$observer->value(q{SELECT topics.create_topic('old')});
$observer->value(q{CALL topics.send('old', 'v')}) for 1 .. 10;
my $active = $observer->value(
	q{SELECT format('topic_log.t%s_p0_s1', topic_id) FROM topics.topic WHERE topic = 'old'});
my $age = "SELECT age(relfrozenxid) < 5 FROM pg_class WHERE oid = '$active'::regclass";
like(
	$observer->query("VACUUM (VERBOSE) $active")->{text},
	qr/INFO:  \w+: log table "\w+" is not vacuumed\nDETAIL:  .* partition 0 of topic "old" .*\nHINT:  .*without a worker/,
	'... VACUUM says that it does nothing in a segment that is appended to');
is($observer->value($age), 'f', '... which has become old');
$observer->value("VACUUM (FREEZE) $active");
is($observer->value($age), 't', '... but freezes it where it must, and no worker could');
is($observer->value(q{CALL topics.send('old', 'v')}), '0|10', '... produce goes on there');
is( $observer->value(
		qq{SELECT count(*), bool_and(n = "offset") FROM
		(SELECT "offset", row_number() OVER (ORDER BY ctid) - 1 AS n FROM $active) r}
	),
	'11|t',
	'... in order');
is( $observer->value(
		q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_topics worker'}),
	'0',
	'... without a worker');
is( $observer->value(q{SELECT pid IS NULL, state, step, sqlstate, message FROM topics.worker}),
	't|missing|start|53400|no background worker process is left',
	'... and topics.worker says why');
my $hint = qr/LOG:  pg_topics: no background worker process is left for database "\w+"/;
ok(poll_until(sub { slurp_file($node->logfile, $position) =~ $hint }), '... the log says so');
# the launcher has been round again when it has met a new database
$node->safe_psql('postgres', 'CREATE DATABASE six');
$node->safe_psql('six', 'CREATE EXTENSION pg_topics');
ok( $node->poll_query_until(
		'six',
		q{SELECT state = 'missing' AND message = 'no background worker process is left' FROM topics.worker}
	),
	'... and topics.worker says so in the database whose turn comes later');
$node->stop;
my $log = slurp_file($node->logfile, $position);
is(scalar(() = $log =~ /$hint/g), 1, '... once');
like(
	$log,
	qr/HINT:  Increase max_worker_processes, or CALL topics\.maintain\(\) regularly\./,
	'... with the cure');
unlike($log, qr/ERROR|WARNING/, '... and nothing has failed');
done_testing();
