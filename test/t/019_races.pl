# Somebody is stopped when he has looked, and others go on: what he then makes
# of what he has seen loses nothing of what came meanwhile.  Or where others wait
# for him: he does not wait for them.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

my $node = topics_node('main', points => 1, conf => "pg_topics.worker_interval = '1h'\n");
my ($slow, $quick) = map { Session->new($node) } 1 .. 2;

# ----------------------------------------------------------------------
# Retention: a segment is sealed after another process has begun to look for
# what has expired.  Its second record came in between, and has not expired.
# ----------------------------------------------------------------------

stop_at($node, 'retention-begun');
$quick->value(
	q{
	SELECT topics.create_topic('kept', retention_time => '1 hour');
	SELECT topics.produce('kept', 'old', create_time => now() - interval '2 hours')});
my $pid = wait_until_at($node, 'retention-begun');
is($pid, worker_pid($node, 'postgres'), 'retention: the worker looks');
$quick->value($_)
  for q{SELECT topics.produce('kept', 'young')}, q{CALL topics.roll_segment('kept')};
is( $quick->value(
		q{
		SELECT string_agg(base_offset || '-' || log_end_offset, ' ') FROM topics.segment WHERE topic = 'kept' AND state = 'sealed'}
	),
	'0-2',
	'... a record comes, and the segment is sealed');
go_on_from($node, 'retention-begun');
ok( poll_until(
		sub {
			$quick->value(
				qq{
		SELECT count(*) FROM pg_locks WHERE pid = $pid AND relation = (
			SELECT 'topic_log.t' || topic_id || '_p0' FROM topics.topic WHERE topic = 'kept')::regclass}
			) eq '0';
		}),
	'... the worker has decided');
is($quick->value(q{SELECT string_agg(value, ' ' ORDER BY r.offset) FROM topic.kept r}),
	'old young', '... and the record is there');

# ----------------------------------------------------------------------
# Committed offsets: groups are added while they are listed.
# ----------------------------------------------------------------------

sub add_groups
{
	my ($name) = @_;

	return $quick->value(
		qq{SELECT topics.commit_offset('$name' || g, 'kept', 0, 1) FROM generate_series(1, 20) g});
}

add_groups('before');
stop_at($node, 'offsets-counted');
$slow->send(q{SELECT count(*) FROM topics.consumer_offset WHERE group_id LIKE 'before%'});
ok(wait_until_at($node, 'offsets-counted'), 'committed offsets: somebody lists them');
add_groups('meanwhile');
go_on_from($node, 'offsets-counted');
is_deeply($slow->receive->{rows},
	['20'], '... and has all that there were, although there are more now');

# ----------------------------------------------------------------------
# A group's place is removed after the consumer has claimed it: it goes on at
# the log start, says so, and does not pass what is left.
# ----------------------------------------------------------------------

for my $case (
	[ 'READ COMMITTED', 2, '2|third' ],
	[ 'REPEATABLE READ', 2, '2|third' ],
	[ 'READ COMMITTED', 3, '' ])
{
	my ($isolation, $before, $rest) = @$case;

	$quick->value($_)
	  for q{SELECT topics.create_topic('removed')},
	  q{SELECT count(topics.produce('removed', v)) FROM unnest('{first,second,third}'::text[]) v},
	  q{SELECT count(*) FROM topics.consume('late', 'removed', 1)};
	stop_at($node, 'place-claimed');
	$slow->send(
		"BEGIN ISOLATION LEVEL $isolation; SELECT r.offset, value FROM topics.consume('late', 'removed') r; COMMIT"
	);
	ok(wait_until_at($node, 'place-claimed'), "$isolation: a consumer has a place");
	$quick->value("SELECT topics.delete_records('removed', 0, $before)");
	go_on_from($node, 'place-claimed');
	my $answer = $slow->receive;
	is_deeply(
		[ $answer->{sqlstate}, grep { /^\d/ } @{ $answer->{rows} } ],
		[ '', $rest || () ],
		"... what is before $before is removed, and it has the rest");
	is( $quick->value(
			q{SELECT committed_offset FROM topics.consumer_offset WHERE group_id = 'late' AND topic = 'removed'}
		),
		$rest ? '3' : '1',
		'... where its group is now');
	$quick->value(q{SELECT topics.drop_topic('removed')});
}

# ----------------------------------------------------------------------
# The launcher has listed the databases.  One that comes after that is not
# taken for one that has gone: its partitions keep their state, and their locks.
# ----------------------------------------------------------------------

$node->safe_psql('postgres', 'CREATE DATABASE base');
$node->safe_psql('base',
	q{CREATE EXTENSION pg_topics; SELECT topics.create_topic('t', notify => true)});
wait_for_worker($node, 'base', 'a database with a worker');
stop_at($node, 'databases-listed');
$quick->value('SELECT pg_terminate_backend(' . worker_pid($node, 'base') . ')');
ok(wait_until_at($node, 'databases-listed'), '... the launcher has listed it');
wait_for_no_worker($node, 'base', '... and its worker is gone');
$quick->value('CREATE DATABASE later TEMPLATE base');
my ($holder, $waiter) = map { Session->new($node, database => 'later') } 1 .. 2;
is($holder->value(q{CALL topics.send('t', 'first')}), '0|0', 'another database');
stop_at($node, 'append-locked');
$holder->send(q{CALL topics.send('t', 'second')});
ok(wait_until_at($node, 'append-locked'), '... somebody is about to append in it');
go_on_from($node, 'databases-listed');
wait_for_worker($node, 'base', '... the launcher goes on');
$waiter->send(q{CALL topics.send('t', 'third')});
ok( poll_until(
		sub {
			$quick->value(
				qq{
		SELECT state = 'idle' OR wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = $waiter->{pid}}
			) eq 't';
		}),
	'... and somebody else appends');
go_on_from($node, 'append-locked');
is_deeply(
	[ $holder->receive->{rows}[0], $waiter->receive->{rows}[0] ],
	[ '0|1', '0|2' ],
	'... one after the other');

# ----------------------------------------------------------------------
# A producer waits while the active segment is being cut, as long as its
# timeouts allow; and for a lock on the topic's tables.
# ----------------------------------------------------------------------

my %sqlstate = (statement_timeout => '57014', lock_timeout => '55P03');

sub ends_in_time
{
	my ($what) = @_;

	for my $timeout (sort keys %sqlstate)
	{
		for my $sql (q{SELECT topics.produce('cut', 'x')},
			q{BEGIN; SELECT topics.produce('cut', 'x'); COMMIT})
		{
			my $session = Session->new($node);

			$session->value("SET $timeout = '100ms'");
			$session->send($sql);
			is(($session->receive(30) // { sqlstate => 'no answer' })->{sqlstate},
				$sqlstate{$timeout}, "... $timeout ends its wait: $sql");
		}
	}
	return;
}

$quick->value(q{SELECT topics.create_topic('cut'); SELECT topics.produce('cut', 'first')});
stop_at($node, 'cut-limited');
$slow->send(q{CALL topics.roll_segment('cut')});
ok(wait_until_at($node, 'cut-limited'), 'a segment is being cut');
my $producer = Session->new($node);
$producer->send(q{CALL topics.send('cut', 'second')});
ok( poll_until(
		sub {
			$quick->value(
				"SELECT topic, partition, holder_pid IS NULL FROM topics.append_wait WHERE waiter_pid = $producer->{pid}"
			) eq 'cut|0|t';
		}),
	'... a producer waits, which topics.append_wait tells');
ends_in_time();
go_on_from($node, 'cut-limited');
is($slow->receive->{sqlstate}, '', '... the cut is done');
is_deeply($producer->receive->{rows}, ['0|1'], '... and the producer goes on');
is($quick->value('SELECT count(*) FROM topics.append_wait'), '0', '... and waits no more');

$slow->value('BEGIN; LOCK TABLE topic.cut IN ACCESS EXCLUSIVE MODE');
ends_in_time();
$slow->value('COMMIT');

# ----------------------------------------------------------------------
# A producer is told to end between its append and its commit record, and when
# it has none of PostgreSQL's locks to wait for: it does, and nobody waits on.
# ----------------------------------------------------------------------

stop_at($node, 'append-done');
$slow->send(q{SELECT topics.produce('cut', 'cancelled')});
my $stopped = wait_until_at($node, 'append-done');
is($stopped, $slow->{pid}, 'a producer has appended');
$producer->send(q{CALL topics.send('cut', 'third')});
ok( poll_until(
		sub {
			$quick->value(
				"SELECT holder_pid FROM topics.append_wait WHERE waiter_pid = $producer->{pid}") eq
			  $stopped;
		}),
	'... another one waits for it');
$quick->value("SELECT pg_cancel_backend($stopped)");
go_on_from($node, 'append-done');
is_deeply(
	[ $slow->receive->{sqlstate}, $producer->receive->{rows}[0] ],
	[ '57014', '0|2' ],
	'... and gets its offset when that is cancelled');

# ----------------------------------------------------------------------
# A serialization failure after the append: the commit of a rival makes the
# producer the victim.  Its record is dead, its offset is used again, and a
# producer that waited for the append lock goes on.
# ----------------------------------------------------------------------

$quick->value(
	q{
	SELECT topics.create_topic('late');
	SELECT topics.produce('late', 'zero');
	CREATE TABLE other (n int);
	INSERT INTO other VALUES (0)});
my $seen =
  q{SELECT string_agg(r.offset || '=' || value, ' ' ORDER BY r.offset) FROM topics.fetch('late', 0, 0) r};
my $expected = '0=zero';
my $rival = Session->new($node);
for my $round (1, 2)
{
	$slow->value(
		q{BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT n FROM other; SELECT topics.produce('late', 'late')}
	);
	$rival->value("BEGIN ISOLATION LEVEL SERIALIZABLE; $seen; UPDATE other SET n = n + 1");
	stop_at($node, 'append-done');
	$slow->send('COMMIT');
	is(wait_until_at($node, 'append-done'), $slow->{pid}, 'a serializable producer has appended');
	is($quick->value($seen), $expected, '... which nobody sees');
	$rival->value('COMMIT');
	if ($round == 2)
	{
		$producer->send(q{SELECT topics.produce('late', 'waiter')});
		ok( poll_until(
				sub {
					$quick->value(
						"SELECT holder_pid FROM topics.append_wait WHERE waiter_pid = $producer->{pid}"
					) eq $slow->{pid};
				}),
			'... and another producer waits for');
	}
	go_on_from($node, 'append-done');
	is($slow->receive->{sqlstate}, '40001', '... and it fails, when a rival has committed');
	if ($round == 2)
	{
		is($producer->receive->{sqlstate}, '', '... and the other producer goes on');
		$expected .= ' 2=waiter';
	}
	is($quick->value($seen), $expected, '... its record is dead');
	my $next = $round == 1 ? 1 : 3;
	is_deeply($quick->query(q{CALL topics.send('late', 'next')})->{rows},
		["0|$next"], '... and its offset is used again');
	$expected .= " $next=next";
}

# ----------------------------------------------------------------------
# Nobody waits for a lock of PostgreSQL's while others wait for him where the
# deadlock detector does not see it.  A transaction has rebuilt an index of a
# catalogue, and commits behind him.
# ----------------------------------------------------------------------

sub is_waiting_for
{
	my ($what, $session) = @_;

	return poll_until(
		sub {
			$quick->value(
				"SELECT count(*) FROM pg_stat_activity WHERE pid = $session->{pid} AND wait_event_type = '$what'"
			) eq '1';
		});
}

# What a session answers in time.
sub answer
{
	my ($session) = @_;
	my $result = $session->receive(30) // { rows => ['no answer'], sqlstate => '' };

	return $result->{sqlstate} || join ' ', @{ $result->{rows} };
}

sub answer_to
{
	my ($session, $sql) = @_;

	$session->send($sql);
	return answer($session);
}

my $rebuilder = Session->new($node);

# Under the append lock: a wide value, when the segment has become invalid.
my $wide = q{(SELECT string_agg(md5(g::text), '') FROM generate_series(1, 1000) g)};
$quick->value(qq{SELECT topics.create_topic('wide'); SELECT count(topics.produce('wide', $wide))});
my $log = $quick->value(q{SELECT 'topic_log.t' || topic_id FROM topics.topic WHERE topic = 'wide'});
for my $what (
	"GRANT SELECT ON ${log}_p0_s1 TO pg_monitor",
	"GRANT SELECT ON ${log}_p0 TO pg_monitor",
	'VACUUM '
	. $quick->value(
		"SELECT reltoastrelid::regclass FROM pg_class WHERE oid = '${log}_p0_s1'::regclass"))
{
	stop_at($node, 'append-locked');
	$slow->send(q{SELECT topics.produce('wide', 'holder')});
	wait_until_at($node, 'append-locked');
	$producer->send("SELECT topics.produce('wide', $wide)");
	ok(is_waiting_for('Extension', $producer), "a wide record waits: $what");
	$quick->value($what);
	$rebuilder->value(
		q{BEGIN; REINDEX INDEX pg_class_oid_index; SELECT topics.produce('wide', 'rebuilt')});
	go_on_from($node, 'append-locked');
	is(answer($slow), '0', '... it gets the append lock');
	is(answer($producer), '0', '... and waits for nothing else');
	is(answer_to($rebuilder, 'COMMIT'), 'COMMIT', '... and then comes the one with the index');
}

# A reader that looks the log end up.
wait_for_worker($node, 'postgres', 'a worker');
my $worker = worker_pid($node, 'postgres');
signal_backend('STOP', $worker);
$quick->value(
	qq{INSERT INTO ${log}_p0_s1 SELECT max("offset") + 1, now(), 0, NULL, 'foreign', NULL FROM ${log}_p0_s1}
);
$rebuilder->value(
	q{BEGIN; REINDEX TABLE topic_log.partition; SELECT topics.produce('wide', 'rebuilt')});
$slow->send(q{SELECT count(*) > 0 FROM topics.fetch('wide', 0, 0)});
ok(is_waiting_for('Lock', $slow), 'a reader that looks the log end up waits for an index');
is(answer_to($rebuilder, 'COMMIT'), 'COMMIT', '... and nobody for the reader');
is(answer($slow), 't', '... who reads on');
signal_backend('CONT', $worker);

# The one who cuts a segment, by hand.
stop_at($node, 'cut-limited');
$slow->send(q{CALL topics.roll_segment('wide')});
wait_until_at($node, 'cut-limited');
$rebuilder->value(
	q{BEGIN; REINDEX INDEX pg_class_oid_index; SELECT topics.produce('wide', 'rebuilt')});
go_on_from($node, 'cut-limited');
is(answer_to($rebuilder, 'COMMIT'), 'COMMIT', 'producers wait for a cut, but not for ever');
is(answer($slow), '55P03', '... which gives up');

# ----------------------------------------------------------------------
# An append lock is held for long: our own processes give up as well.
# ----------------------------------------------------------------------

$quick->value(
	q{
	SELECT topics.create_topic('long', segment_bytes => 65536);
	SELECT count(topics.produce('long', 'x')) FROM generate_series(1, 300)});
ok( poll_until(
		sub {
			$quick->value(q{SELECT count(*) FROM topics.segment WHERE topic = 'long'}) eq '2';
		}),
	'a topic has a spare');
stop_at($node, 'append-done');
$slow->send(q{SELECT topics.produce('long', 'holder')});
wait_until_at($node, 'append-done');
$producer->value(q{SET lock_timeout = '100ms'});
$producer->send(q{SELECT count(topics.produce('long', 'x')) FROM generate_series(1, 3000)});
is(answer($producer), '55P03', '... lock_timeout ends a wait for the process that is to move it');
$producer->value('RESET lock_timeout');
wait_for_worker($node, 'postgres', '... by a worker that is stopped now');
$worker = worker_pid($node, 'postgres');
signal_backend('STOP', $worker);
go_on_from($node, 'append-done');
is(answer($slow), '0', '... when the lock is released');
$quick->value(
	q{SELECT count(topics.produce('long', repeat('x', 1000))) FROM generate_series(1, 100)});
stop_at($node, 'append-done');
$slow->send(q{SELECT topics.produce('long', 'holder')});
wait_until_at($node, 'append-done');
signal_backend('CONT', $worker);
ok( poll_until(
		sub {
			$quick->value(
				q{SELECT count(*) FROM topics.worker WHERE topic = 'long' AND step = 'roll' AND sqlstate = '55P03'}
			) eq '1';
		}),
	'the worker gives up to cut a segment behind a commit that does not end');
go_on_from($node, 'append-done');
is(answer($slow), '0', '... which ends');

# ----------------------------------------------------------------------
# A view has listed the segments of a partition, and others let one go.
# ----------------------------------------------------------------------

$quick->value(
	q{
	SELECT topics.create_topic('looked_at');
	SELECT topics.produce('looked_at', 'x');
	CALL topics.roll_segment('looked_at');
	SELECT topics.produce('looked_at', 'y');
	CREATE ROLE looker;
	GRANT USAGE ON SCHEMA topics TO looker;
	GRANT SELECT ON topics.segment, topics.partition, topic.looked_at TO looker});
$slow->value('SET ROLE looker');    # who sees no other
for my $view ('segment', 'partition')
{
	stop_at($node, 'view-segments-listed');
	$slow->send(
		qq{SELECT count(size_bytes) > 0, count(*) - count(size_bytes) FROM topics.$view WHERE topic = 'looked_at'}
	);
	ok(wait_until_at($node, 'view-segments-listed'), "topics.$view has listed segments");
	$quick->value(
		q{SELECT topics.delete_records('looked_at', 0, -1); CALL topics.maintain('looked_at')});
	go_on_from($node, 'view-segments-listed');
	is(answer($slow), 't|0', "... and shows them all, though one is let go");
	$quick->value(q{SELECT topics.produce('looked_at', 'z')});
	$quick->value(q{CALL topics.roll_segment('looked_at')});
}
$slow->value('RESET ROLE');
unlike(slurp_file($node->logfile), qr/could not look at partition/,
	'... and calls nothing damaged');

$node->stop;

# ----------------------------------------------------------------------
# Two producers have to attach segments themselves, to the same two partitions;
# one finds only under the lock that the lower one is full.
# ----------------------------------------------------------------------

my $alone = topics_node(
	'alone',
	points => 1,
	conf => "max_worker_processes = 0
");
my ($filler, $first, $other, $look) = map { Session->new($alone) } 1 .. 4;

sub waits_for
{
	my ($session, $type, $test_name) = @_;

	return ok(
		poll_until(
			sub {
				$look->value("SELECT wait_event_type IN ($type) FROM pg_stat_activity"
					  . " WHERE pid = $session->{pid}") eq 't';
			}),
		$test_name);
}

sub produces
{
	my ($count, $partition) = @_;

	return
	  "SELECT count(topics.produce('both', 'v', partition => $partition)) FROM generate_series(1, $count)";
}

$look->value(q{SELECT topics.create_topic('both', 2, segment_bytes => 65536)});
$look->value(produces(400, 0));
$look->value(produces(508, 1));
stop_at($alone, 'append-done');
$filler->send(produces(105, 0));
ok(wait_until_at($alone, 'append-done'), 'a commit fills the lower partition');
$first->send(join '; ', 'BEGIN', produces(10, 0), produces(10, 1), 'COMMIT');
waits_for($first, q{'Extension'}, '... one that has attached to the higher waits for it');
$other->send(join '; ', 'BEGIN', produces(200, 0), produces(10, 1), 'COMMIT');
waits_for($other, q{'Lock'}, '... and one that has to attach to both for that');
go_on_from($alone, 'append-done');
is(answer($filler), '105', '... which ends');
like(answer($_), qr/^BEGIN .* COMMIT$/, '... and so do they, without a deadlock')
  for $first, $other;
is( $look->value(
		q{SELECT string_agg(log_end_offset::text, ' ' ORDER BY partition) FROM topics.partition
	WHERE topic = 'both'}),
	'715 528',
	'... and all is there');
$alone->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|was terminated by signal/, 'nothing has crashed');
done_testing();
