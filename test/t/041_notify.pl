# NOTIFY of new records: what is told, that it is told together and not too
# often, in as few notifications as can hold it, and not lost while the worker
# is away.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

my $node = topics_node('main',
	conf =>
	  "pg_topics.worker_interval = '1h'\nmax_locks_per_transaction = 256\nlog_statement = none\nautovacuum = off\n"
);
wait_for_worker($node, 'postgres', 'the worker runs');
my ($listener, $producer, $observer) = map { Session->new($node) } 1 .. 3;
$observer->value(
	q{
	SELECT topics.create_topic('t', 3);
	SELECT topics.create_topic('quiet', notify => false);
	SELECT topics.create_topic('end');
	SELECT topics.create_topic('gone');
	CREATE ROLE reader LOGIN;
	GRANT USAGE ON SCHEMA topics, topic TO reader;
	GRANT EXECUTE ON ALL ROUTINES IN SCHEMA topics TO reader});

my %channel = map { $_ => $observer->value("SELECT topics.channel('$_')") } qw(t quiet end gone);
my $pid = worker_pid($node, 'postgres');

# Channels are secrets of who may read.
like($channel{$_}, qr/^topic_[0-9a-f]{32}$/, "the channel of $_") for sort keys %channel;
isnt($channel{t}, $channel{quiet}, '... each topic has its own');
my $reader = Session->new($node, user => 'reader');
is($reader->query(q{SELECT topics.channel('t')})->{sqlstate},
	'42501', '... unknown to who may not read');
$observer->value('GRANT SELECT ON topic.t TO reader');
is($reader->value(q{SELECT topics.channel('t')}), $channel{t}, '... and known to who may');
is($observer->query(q{SELECT topics.channel('nosuch')})->{sqlstate},
	'42704', '... of topics that exist');
$observer->value(q{SELECT topics.rename_topic('gone', 'renamed')});
is($observer->value(q{SELECT topics.channel('renamed')}),
	$channel{gone}, '... and stays when the topic is renamed');

$listener->value("LISTEN $_") for values %channel;

# What the listener has got up to and with the first notification that a
# pattern matches: payloads with the topic's channel as "t: {...}".
my @told;

sub told_until
{
	my ($pattern) = @_;
	my %name = reverse %channel;
	my $found;

	@told = ();
	poll_until(
		sub {
			for (@{ $listener->query('SELECT')->{rows} })
			{
				next
				  unless
				  /^Asynchronous notification "(\w+)" with payload "(.*)" received from server process with PID (\d+)\.$/;
				push @told, "$name{$1}: $2";
				$pid = $3;
				$found ||= $told[-1] =~ $pattern;
			}
			return $found;
		});
	return join "\n", @told;
}

# ----------------------------------------------------------------------
# What is told
# ----------------------------------------------------------------------

$producer->value(q{CALL topics.send('t', 'first', partition => 1)});
is(told_until(qr/./), 't: {"topic":"t","end_offsets":{"1":1}}', 'a record is told of');
is($pid, worker_pid($node, 'postgres'), '... by the worker');
$producer->value(q{BEGIN; SELECT topics.produce('t', 'never'); ROLLBACK});
$producer->value(
	q{
	SELECT topics.produce_batch('quiet', ARRAY['a', 'b']);
	BEGIN; SELECT topics.produce('t', i::text, partition => i % 2 * 2) FROM generate_series(1, 6) i; COMMIT}
);
is( told_until(qr/"t"/),
	't: {"topic":"t","end_offsets":{"0":3,"2":3}}',
	'all partitions of a topic are told of together, a rollback and a topic without notify not at all'
);
$observer->value(
	q{SELECT topics.alter_topic('quiet', notify => true); SELECT topics.alter_topic('t', notify => false)}
);
$producer->value(q{CALL topics.send('t', 'not told', partition => 0)});
$producer->value(q{CALL topics.send('quiet', 'told')});
is( told_until(qr/"quiet"/),
	'quiet: {"topic":"quiet","end_offsets":{"0":3}}',
	'notify can be changed');
$observer->value(q{SELECT topics.alter_topic('t', notify => true)});

# A foreign writer
my $table = $observer->value(
	q{SELECT 'topic_log.t' || topic_id || '_p0' FROM topics.topic WHERE topic = 'quiet'});
$producer->value(
	qq{INSERT INTO $table ("offset", "timestamp", partition, value) VALUES (3, now(), 0, 'foreign')}
);
is( told_until(qr/"quiet"/),
	'quiet: {"topic":"quiet","end_offsets":{"0":4}}',
	'a foreign writer is told of');

# ----------------------------------------------------------------------
# Together, and not too often
# ----------------------------------------------------------------------

$node->append_conf('postgresql.conf', "pg_topics.notify_interval = '60s'\n");
$node->reload;
ok( $node->poll_query_until(
		'postgres',
		q{SELECT setting = '60000' FROM pg_settings WHERE name = 'pg_topics.notify_interval'}),
	'the interval is a minute');
# the interval in force is the one of the last notification before
$producer->value(q{CALL topics.send('end', 'x')});
told_until(qr/"end"/);
$producer->value(
	q{
	DO $$ BEGIN FOR i IN 1 .. 2000 LOOP PERFORM topics.produce('t', 'x', partition => 1); COMMIT; END LOOP; END $$;
	CALL topics.send('quiet', 'x');
	CALL topics.send('renamed', 'x');
	SELECT topics.drop_topic('renamed');
	CALL topics.send('end', 'x')});
wait_for_worker($node, 'postgres', 'a worker that waits for the interval');
my $worker = worker_pid($node, 'postgres');
is(join(' ', grep { /^Async/ } @{ $listener->query('SELECT')->{rows} }),
	'', 'nothing is told within the interval');

# The worker is killed while there is something to be told: the next one does.
$observer->value("SELECT pg_terminate_backend($worker)");
wait_for_worker($node, 'postgres', 'another worker', $worker);
is( told_until(qr/"end"/),
	join("\n",
		't: {"topic":"t","end_offsets":{"1":2001}}',
		'quiet: {"topic":"quiet","end_offsets":{"0":5}}',
		'end: {"topic":"end","end_offsets":{"0":2}}'),
	'2,000 commits are told of at once, by the next worker, and dropped topics not');

# ----------------------------------------------------------------------
# 1,000 partitions
# ----------------------------------------------------------------------

$node->append_conf('postgresql.conf', "pg_topics.notify_interval = '10ms'\n");
$node->reload;
$observer->value(q{SELECT topics.create_topic('wide', 1000)});
$channel{wide} = $observer->value(q{SELECT topics.channel('wide')});
$listener->value("LISTEN $channel{wide}");
wait_for_worker($node, 'postgres', 'a worker');
$worker = worker_pid($node, 'postgres');
$observer->value("SELECT pg_terminate_backend($worker)");
wait_for_worker($node, 'postgres', 'a worker with the new interval', $worker);
my %ends;

sub all_told
{
	told_until(qr/"wide"/);
	for (@told)
	{
		my ($list) = /"end_offsets":\{(.*)\}\}$/ or next;
		$ends{$1} = $2 while $list =~ /"(\d+)":(\d+)/g;
	}
	return keys %ends == 1000;
}
$producer->value(
	q{BEGIN; SELECT count(topics.produce('wide', 'x', partition => i)) FROM generate_series(0, 999) i; COMMIT}
);
my ($notifications, $longest) = (0, 0);
ok( poll_until(
		sub {
			my $all = all_told();

			$notifications += @told;
			length > $longest and $longest = length for @told;
			return $all;
		}),
	'a transaction in 1,000 partitions is told of completely');
is(scalar(grep { $_ != 1 } values %ends), 0, '... with the right offsets');
cmp_ok($notifications, '<', 10, "... in few notifications: $notifications");
cmp_ok($longest, '<=', 8000 + length 'wide: ', "... of less than 8,000 bytes each: $longest");

# ----------------------------------------------------------------------
# What the worker could not send
# ----------------------------------------------------------------------

# It waits for a lock on the catalogue, until lock_timeout or its end.
sub worker_waits
{
	return $observer->value(
		q{
		SELECT count(*) = 1 FROM pg_stat_activity
		WHERE backend_type = 'pg_topics worker' AND wait_event_type = 'Lock'}) eq 't';
}
# its first round over 1,000 partitions is done, and invalidates no more of what
# the producer has looked up, who would wait for the lock as well
ok( $node->poll_query_until(
		'postgres', q{
	SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pg_topics worker' AND state <> 'idle'}
	),
	'the worker is idle, or gone');
$producer->value(q{SELECT topics.produce('end', 'x')});
told_until(qr/"end"/);
$observer->value('BEGIN; LOCK TABLE topic_log.topic IN ACCESS EXCLUSIVE MODE');
my $log = $node->logfile;
$producer->value(q{SELECT topics.produce('end', 'x')});
ok(poll_until(sub { slurp_file($log) =~ /canceling statement due to lock timeout/ }),
	'the worker cannot send');
$observer->value('ROLLBACK');
is(told_until(qr/"end"/), 'end: {"topic":"end","end_offsets":{"0":4}}', '... and does later');
$observer->value('BEGIN; LOCK TABLE topic_log.topic IN ACCESS EXCLUSIVE MODE');
$producer->value(q{SELECT topics.produce('end', 'x')});
ok(poll_until(\&worker_waits), 'the worker is about to send');
$worker = worker_pid($node, 'postgres');
$observer->value("SELECT pg_terminate_backend($worker)");
ok(poll_until(sub { !is_running($worker) }), '... and is killed');
$observer->value('ROLLBACK');
is(told_until(qr/"end"/), 'end: {"topic":"end","end_offsets":{"0":5}}',
	'... and the next one does');

# ----------------------------------------------------------------------
# A state that is in the stack when its topic is dropped, and used again
# ----------------------------------------------------------------------

$node->append_conf('postgresql.conf', "pg_topics.notify_interval = '60s'\n");
$node->reload;
$node->poll_query_until('postgres',
	q{SELECT setting = '60000' FROM pg_settings WHERE name = 'pg_topics.notify_interval'});
$producer->value(q{CALL topics.send('end', 'x')});
told_until(qr/"end"/);
$producer->value(
	q{
	CALL topics.send('wide', 'x', partition => 7);
	SELECT topics.drop_topic('wide')});
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', q{CREATE EXTENSION pg_topics; SELECT topics.create_topic('there', 1000)});
my $there = $node->safe_psql('other', q{SELECT topics.channel('there')});
wait_for_worker($node, 'other', 'a worker in another database');
%ends = ();
my $elsewhere = Session->new($node);
$elsewhere->value("\\c other\nSELECT 1");
$elsewhere->value(qq{LISTEN "$there"});
$node->safe_psql(
	'other', q{
	BEGIN; SELECT count(topics.produce('there', 'y', partition => i)) FROM generate_series(0, 999) i; COMMIT}
);
wait_for_worker($node, 'other', '... which is still there');
my $second = worker_pid($node, 'other');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($second)");
ok( poll_until(
		sub {
			for (@{ $elsewhere->query('SELECT 1')->{rows} })
			{
				next unless /^Async.*"end_offsets":\{(.*)\}\}"/;
				my $list = $1;
				$ends{$1} = $2 while $list =~ /"(\d+)":(\d+)/g;
			}
			return keys %ends == 1000;
		}),
	'states that another database has used are told of');

$node->stop;
unlike(
	slurp_file($node->logfile),
	qr/PANIC|TRAP|was terminated by signal|ERROR:  (?!permission denied for topic|topic "nosuch"|canceling statement due to lock timeout)/,
	'no error was logged');
done_testing();
