# Somebody is stopped when he has looked, and others go on: what he then makes
# of what he has seen loses nothing of what came meanwhile.

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

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|was terminated by signal/, 'nothing has crashed');
done_testing();
