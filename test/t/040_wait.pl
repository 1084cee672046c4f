# Waiting for records: what wakes whom, that nothing else does, that no wake-up
# is lost, and that a wait ends when it should and holds nothing meanwhile.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Session;
use Topics;

my $round_trips = 20000;

my $node = topics_node(
	'main',
	init => { allows_streaming => 'logical' },
	conf => "max_connections = 150\nlog_statement = none\npg_topics.worker_interval = '1h'\n");
my ($observer, $waiter, $other, $producer) = map { Session->new($node) } 1 .. 4;
$observer->value(
	q{
	SELECT topics.create_topic('t', 2);
	SELECT topics.create_topic('dropped');
	SELECT topics.create_topic('rolled_back');
	SELECT topics.produce('t', 'first', partition => 0);
	CREATE ROLE reader LOGIN;
	GRANT USAGE ON SCHEMA topics, topic TO reader;
	GRANT EXECUTE ON ALL ROUTINES IN SCHEMA topics TO reader;
	GRANT SELECT ON topic.t TO reader});
my $reader = Session->new($node, user => 'reader');
my @owing;

sub sleeps
{
	my ($session) = @_;

	return $observer->value(
		qq{
		SELECT state = 'active' AND wait_event_type = 'Extension'
		FROM pg_stat_activity WHERE pid = $session->{pid}}) eq 't';
}

# Sends a statement that waits, and comes back when it does.
sub send_to_sleep
{
	my ($session, $sql) = @_;

	$session->send($sql);
	poll_until(sub { sleeps($session) }) or die "does not wait: $sql";
	return;
}

# The answer, rows and SQLSTATE, of who should be awake.  The bound only keeps
# a failing test from hanging.
sub answer
{
	my ($session) = @_;
	my $result = $session->receive(60);

	push @owing, $session unless $result;
	return $result ? join(' ', @{ $result->{rows} }, $result->{sqlstate}) : 'no answer';
}

# Context switches that a session's process has made by itself: it sleeps on
# when they do not move.
sub switches
{
	my ($session) = @_;

	return slurp_file("/proc/$session->{pid}/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m
	  ? $1
	  : die 'no context switches';
}

my $far = q{CALL topics.wait_offset('t', 1, 1000000, '1 h')};

# ----------------------------------------------------------------------
# What wakes
# ----------------------------------------------------------------------

send_to_sleep($waiter, q{CALL topics.wait_offset('t', 0, 1, '1 h')});
is( $observer->value(
		"SELECT backend_xmin IS NULL AND backend_xid IS NULL FROM pg_stat_activity WHERE pid = $waiter->{pid}"
	),
	't',
	'a waiting procedure holds no snapshot');
is($observer->value("SELECT string_agg(locktype, ' ') FROM pg_locks WHERE pid = $waiter->{pid}"),
	'virtualxid', '... and no lock');

$producer->value(q{BEGIN; SELECT topics.produce('t', 'never', partition => 0)});
ok(sleeps($waiter), 'produce wakes nobody');
my $before = switches($waiter);
$producer->value('ROLLBACK');
$producer->value(
	q{BEGIN; SAVEPOINT s; SELECT topics.produce('t', 'never', partition => 0); ROLLBACK TO s; COMMIT}
);
$producer->value(q{CALL topics.send('t', 'elsewhere', partition => 1)});
is(switches($waiter), $before, '... nor does ROLLBACK, nor a record in another partition');
$producer->value(q{BEGIN; SELECT topics.produce('t', 'second', partition => 0); COMMIT});
is(answer($waiter), 'CALL ', '... and COMMIT does');
is($waiter->value(q{SELECT r.offset, r.value FROM topics.fetch('t', 0, 1) r}),
	'1|second', '... and the record is there');

# Two wait for different things: each gets his own.
send_to_sleep($waiter, q{CALL topics.wait_offset('t', 0, 3, '1 h')});
send_to_sleep($other, q{CALL topics.wait_offset('t', 0, 2, '1 h')});
$producer->value(q{CALL topics.send('t', 'third', partition => 0)});
is(answer($other), 'CALL ', 'who waits for less is woken');
ok(poll_until(sub { sleeps($waiter) }), '... and who waits for more goes on waiting');
$producer->value(q{CALL topics.send('t', 'fourth', partition => 0)});
is(answer($waiter), 'CALL ', '... until his record comes');

# One commit, many waiters.
my @crowd = map { Session->new($node) } 1 .. 100;
$_->send(q{CALL topics.wait_offset('t', 0, 4, '1 h')}) for @crowd;

sub crowd_sleeps
{
	return $observer->value(
		q{
		SELECT count(*) FROM pg_stat_activity
		WHERE wait_event_type = 'Extension' AND state = 'active' AND query LIKE 'CALL topics.wait_offset%'}
	) == @crowd;
}
ok(poll_until(\&crowd_sleeps), '100 sessions wait');
$producer->value(q{CALL topics.send('t', 'fifth', partition => 0)});
is(scalar(grep { answer($_) eq 'CALL ' } @crowd), 100, 'one commit wakes them all');

# A foreign writer, who publishes no log end.
my $segment = $observer->value(
	q{
	SELECT 'topic_log.t' || topic_id || '_p0' FROM topics.topic WHERE topic = 't'});
send_to_sleep($waiter, q{CALL topics.wait_offset('t', 0, 5, '1 h')});
$producer->value(
	qq{INSERT INTO $segment ("offset", "timestamp", partition, value) VALUES (5, now(), 0, 'foreign')}
);
is(answer($waiter), 'CALL ', 'a foreign writer wakes');
is($observer->value("SELECT string_agg(locktype, ' ') FROM pg_locks WHERE pid = $waiter->{pid}"),
	'', '... and no lock is left');
send_to_sleep($waiter, q{CALL topics.wait_offset('t', 0, 7, '1 h')});
$producer->value(
	qq{INSERT INTO $segment ("offset", "timestamp", partition, value) VALUES (6, now(), 0, 'foreign')}
);
ok(poll_until(sub { sleeps($waiter) }), '... and who waits for more goes on waiting');
is($observer->value("SELECT string_agg(locktype, ' ') FROM pg_locks WHERE pid = $waiter->{pid}"),
	'virtualxid', '... without the locks that his look took');
$producer->value(q{CALL topics.send('t', 'eighth', partition => 0)});
is(answer($waiter), 'CALL ', '... until his record comes');

# DROP, and what comes after it under the same name.
send_to_sleep($waiter, q{CALL topics.wait_offset('dropped', 0, 0, '1 h')});
$producer->value(
	q{SELECT topics.drop_topic('dropped'); SELECT topics.create_topic('dropped'); CALL topics.send('dropped', 'another topic')}
);
is(answer($waiter), '42704', 'DROP ends a wait');
send_to_sleep($waiter, q{CALL topics.wait_offset('rolled_back', 0, 0, '1 h')});
$producer->value(q{BEGIN; SELECT topics.drop_topic('rolled_back'); ROLLBACK});
ok(sleeps($waiter), '... unless it is rolled back');
$producer->value(q{SELECT topics.rename_topic('rolled_back', 'renamed')});
ok(sleeps($waiter), '... and RENAME does not');
$producer->value(q{CALL topics.send('renamed', 'first')});
is(answer($waiter), 'CALL ', '... it is the same topic');

# Partitions that are added: a group waits for them, too.
$observer->value(q{SELECT topics.create_topic('growing')});
send_to_sleep($waiter, q{CALL topics.wait('group', 'growing', '1 h')});
$producer->value(q{SELECT topics.add_partitions('growing', 2)});
ok(poll_until(sub { sleeps($waiter) }), 'new partitions, which are empty, end no wait');
$producer->value(q{CALL topics.send('growing', 'in the new one', partition => 1)});
is(answer($waiter), 'CALL ', '... and their records do');

# REVOKE
send_to_sleep($reader, q{CALL topics.wait_offset('t', 0, 8, '1 h')});
$observer->value('REVOKE SELECT ON topic.t FROM reader');
$producer->value(q{CALL topics.send('t', 'secret', partition => 0)});
is(answer($reader), '42501', 'who may not read any more does not learn of a record');
$observer->value('GRANT SELECT ON topic.t TO reader');

# ----------------------------------------------------------------------
# max_wait of fetch
# ----------------------------------------------------------------------

my $fetch = q{SELECT r.offset, r.value FROM topics.fetch('t', 0, %d, max_wait => '1 minute') r};
send_to_sleep($waiter, sprintf $fetch, 9);
is( $observer->value(
		"SELECT count(*) FROM pg_locks WHERE pid = $waiter->{pid} AND relation::regclass::text LIKE 'topic_log.%'"
	),
	'0',
	'a waiting fetch holds no lock of the log');
$producer->value(
	q{BEGIN; SELECT topics.produce_batch('t', ARRAY['a', 'b'], partition => 0); COMMIT});
is(answer($waiter), '9|a 10|b ', '... and returns what came after its snapshot');
# in a transaction, whose earlier statements do not matter
$waiter->value('BEGIN; SELECT count(*) FROM topic.t');
send_to_sleep($waiter, sprintf $fetch, 11);
$producer->value(q{CALL topics.send('t', 'c', partition => 0)});
is(answer($waiter), '11|c ', '... in a transaction too');
$waiter->value('COMMIT');
send_to_sleep($reader, sprintf $fetch, 12);
$observer->value('REVOKE SELECT ON topic.t FROM reader');
$producer->value(q{CALL topics.send('t', 'secret', partition => 0)});
is(answer($reader), '42501', '... but not to who may not read any more');
$observer->value('GRANT SELECT ON topic.t TO reader');
send_to_sleep($waiter, q{SELECT * FROM topics.fetch('dropped', 0, 1, max_wait => '1 minute')});
$producer->value(q{SELECT topics.drop_topic('dropped')});
is(answer($waiter), '42704', '... and DROP does not wait for it');

# ----------------------------------------------------------------------
# What ends a wait
# ----------------------------------------------------------------------

for my $sql ($far, q{SELECT * FROM topics.fetch('t', 1, 1, max_wait => '1 minute')})
{
	my ($name) = $sql =~ /topics\.(\w+)/;
	my $victim = Session->new($node);

	send_to_sleep($waiter, $sql);
	$observer->value("SELECT pg_cancel_backend($waiter->{pid})");
	is(answer($waiter), '57014', "$name: cancel");
	$waiter->value(q{SET statement_timeout = '100ms'});
	$waiter->send($sql);
	is(answer($waiter), '57014', "$name: statement_timeout");
	$waiter->value('RESET statement_timeout');
	is($waiter->value('SELECT 1'), '1', "$name: ... and the session goes on");
	send_to_sleep($victim, $sql);
	$observer->value("SELECT pg_terminate_backend($victim->{pid})");
	like(answer($victim), qr/ 57P01$/, "$name: terminate");
}
is( $observer->value(
		q{SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
	WHERE a.backend_type = 'client backend' AND pid <> pg_backend_pid()}),
	'0',
	'no lock is left');

# ----------------------------------------------------------------------
# What wakes nobody: commits beside waiters for a far offset
# ----------------------------------------------------------------------

# what those who were cancelled wanted is forgotten with the next record
$producer->value("CALL topics.send('t', 'x', partition => $_)") for 0, 1;
$_->send($far) for @crowd;
ok(poll_until(\&crowd_sleeps), '100 sessions wait for a far offset');
# in the kernel too: what pg_stat_activity says comes a little earlier
poll_until(
	sub {
		!grep { slurp_file("/proc/$_->{pid}/status") !~ /^State:\s+S/m } @crowd;
	});
my @before = map { switches($_) } @crowd;
$producer->value(
	q{
	DO $$ BEGIN FOR i IN 1 .. 10000 LOOP PERFORM topics.produce('t', 'x', partition => i % 2); COMMIT; END LOOP; END $$}
);
my $switches = 0;
$switches += switches($crowd[$_]) - $before[$_] for 0 .. $#crowd;
# PostgreSQL itself wakes a sleeper who has fallen behind in the invalidation
# queue: now and then, where waking by commit would be a million times
cmp_ok($switches, '<', 10 * @crowd, '10,000 commits wake none of them');
is($observer->value(q{SELECT count(*) FROM topic.t WHERE value = 'x'}),
	'10002', '... the commits were made');

# ----------------------------------------------------------------------
# No wake-up is lost: one answers the other, through two topics
# ----------------------------------------------------------------------

$observer->value(
	q{
	SELECT topics.create_topic('ping', segment_bytes => 1048576);
	SELECT topics.create_topic('pong', segment_bytes => 1048576);
	CREATE PROCEDURE play(first text, second text, rounds int) LANGUAGE plpgsql AS $$
	DECLARE before timestamptz;
	BEGIN
		FOR i IN 0 .. rounds - 1 LOOP
			IF first = 'ping' THEN
				PERFORM topics.produce('ping', i::text);
				COMMIT;
			END IF;
			before := clock_timestamp();
			CALL topics.wait_offset(second, 0, i, '1 minute');
			IF clock_timestamp() - before > '50 s' THEN
				RAISE EXCEPTION 'the wake-up of round % was lost', i;
			END IF;
			IF first = 'pong' THEN
				PERFORM topics.produce('pong', i::text);
				COMMIT;
			END IF;
		END LOOP;
	END $$});
$_->value('SET synchronous_commit = off') for $waiter, $other;
$waiter->send("CALL play('ping', 'pong', $round_trips)");
$other->send("CALL play('pong', 'ping', $round_trips)");
is( join(' ', map { my $r = $_->receive; "@{ $r->{rows} } $r->{text}" } $waiter, $other),
	"CALL CALL\n CALL CALL\n",
	"$round_trips round trips without a lost wake-up");
is( $observer->value(
		q{SELECT string_agg(topic || ' ' || log_end_offset, ' ' ORDER BY topic) FROM topics.partition WHERE topic LIKE 'p%'}
	),
	"ping $round_trips pong $round_trips",
	'... all records are there');

# ----------------------------------------------------------------------
# Fast shutdown, with 100 waiters and an open producer
# ----------------------------------------------------------------------

ok(crowd_sleeps(), '100 sessions are waiting still');
$producer->value(q{BEGIN; SELECT topics.produce('t', 'open')});
my $start = time;
$node->stop('fast');
cmp_ok(time - $start, '<', 10, 'fast shutdown within 10 seconds');
undef $_ for @crowd, $observer, $waiter, $other, $producer, $reader;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|was terminated by signal/, 'nothing has crashed');

# ----------------------------------------------------------------------
# In a pipeline: its statements are one transaction, without a block
# ----------------------------------------------------------------------

$node->start;
my $script = $node->basedir . '/pipeline.sql';
for my $statement (
	q{SELECT topics.produce('t', 'never', partition => 1)},
	q{SELECT count(*) FROM topics.consume('piped', 't')},
	q{SELECT count(*) FROM topics.consume('piped', 'pong', auto_offset_reset => 'latest')})
{
	unlink $script;
	append_to_file($script,
		"\\startpipeline\n$statement;\nCALL topics.wait_offset('t', 0, 0, '0');\n\\endpipeline\n");
	$node->command_checks_all(
		[ 'pgbench', '-n', '-M', 'extended', '-t', 1, '-f', $script, 'postgres' ],
		2, [],
		[qr/topics\.wait_offset\(\) cannot run in/],
		"no wait behind: $statement");
}
$node->stop;

# ----------------------------------------------------------------------
# On a hot standby
# ----------------------------------------------------------------------

$node->start;
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
($observer, $waiter) = map { Session->new($standby) } 1 .. 2;
$producer = Session->new($node);

send_to_sleep($waiter, qq{CALL topics.wait_offset('ping', 0, $round_trips, '1 h')});
is( $observer->value(
		"SELECT backend_xmin IS NULL FROM pg_stat_activity WHERE pid = $waiter->{pid}"),
	't',
	'a waiter on a standby holds no snapshot');
$producer->value(q{CALL topics.send('pong', 'elsewhere')});
$producer->value(q{CALL topics.send('ping', 'to the standby')});
is(answer($waiter), 'CALL ', '... and is woken by replay');
send_to_sleep(
	$waiter,
	sprintf q{SELECT r.value FROM topics.fetch('ping', 0, %d, max_wait => '1 minute') r},
	$round_trips + 1);
$producer->value(q{CALL topics.send('ping', 'fetched there')});
is(answer($waiter), 'fetched there ', '... and so is fetch');
send_to_sleep($waiter, sprintf q{CALL topics.wait_offset('ping', 0, %d, '1 h')}, $round_trips + 2);
$node->stop;
$standby->promote;
$observer->value(q{CALL topics.send('ping', 'after the promotion')});
is(answer($waiter), 'CALL ', 'and by a commit after the promotion');
undef $_ for $observer, $waiter, $producer;
$standby->stop;

# whoever did not answer in time is not waited for any longer
undef @owing;
done_testing();
