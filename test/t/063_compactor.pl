# The compactor: it keeps to pg_topics.compaction_rate; while it sleeps it is in
# nobody's way, and ends at once when it is told to; where there is no process
# for it the worker compacts; what is done by hand has no limit.

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

my $node = topics_node('main',
	conf =>
	  "autovacuum = off\npg_topics.worker_interval = '100ms'\npg_topics.compaction_rate = '1kB'\npg_topics.max_compactors = 3\n"
);
my $compactor =
  q{FROM pg_stat_activity WHERE backend_type = 'pg_topics compactor' AND datname = 'postgres'};
my $half_made =
  q{SELECT count(*) FROM pg_class WHERE relname LIKE 'pg_temp_%' AND relnamespace = 'topic_log'::regnamespace};

sub set_rate
{
	my ($rate) = @_;

	$node->safe_psql('postgres', "ALTER SYSTEM SET pg_topics.compaction_rate = '$rate'");
	$node->reload;
	return;
}

# 1 MB in a sealed segment, of 10 keys
sub prepare
{
	my ($topic, $policy) = @_;

	$node->safe_psql(
		'postgres', qq{
		SELECT topics.create_topic('$topic', cleanup_policy => '$policy', retention_time => '-1 s', min_cleanable_dirty_ratio => 0);
		SELECT count(topics.produce('$topic', i || repeat('x', 1000), (i % 10)::text)) FROM generate_series(1, 1000) i;
		CALL topics.roll_segment('$topic')});
	return;
}

sub is_compacted
{
	my ($topic, $test_name) = @_;

	return ok(
		$node->poll_query_until(
			'postgres', qq{SELECT count(*) = 10 AND min("offset") = 990 FROM topic.$topic}),
		$test_name);
}

# ----------------------------------------------------------------------
# It sleeps
# ----------------------------------------------------------------------

wait_for_worker($node, 'postgres', 'there is a worker');
prepare('t', 'compact');
my $sleeps =
  qq{SELECT count(*) = 1 $compactor AND wait_event_type = 'Extension' AND state = 'active' AND backend_xmin IS NOT NULL};
ok($node->poll_query_until('postgres', $sleeps), 'a compactor sleeps in the middle of its work');

# the worker goes on: seals, moves the log start, drops
$node->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('other', retention_time => '-1 s', retention_bytes => 0);
	SELECT count(topics.produce('other', repeat('x', 100))) FROM generate_series(1, 100);
	CALL topics.roll_segment('other')});
ok( $node->poll_query_until(
		'postgres',
		q{SELECT log_start_offset = 100 AND (SELECT count(*) = 0 FROM topics.segment WHERE topic = 'other' AND state IN ('sealed', 'deleted')) FROM topics.partition WHERE topic = 'other'}
	),
	'the worker goes on meanwhile');
is($node->safe_psql('postgres', q{SET lock_timeout = '10 s'; CALL topics.send('t', 'x', 'k')}),
	'0|1000', 'producers go on');
is($node->safe_psql('postgres', q{SET lock_timeout = '10 s'; SELECT count(*) FROM topic.t}),
	'1001', 'readers go on');
is($node->safe_psql('postgres', qq{SELECT count(*) $compactor}), '1', 'there is one compactor');

# it is told to end
my $pid = $node->safe_psql('postgres', "SELECT pid $compactor");
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
ok( $node->poll_query_until(
		'postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)"),
	'it ends when it is terminated');
ok($node->poll_query_until('postgres', $sleeps), '... and another one comes');
$node->safe_psql('postgres', q{CREATE DATABASE busy; CREATE DATABASE copy});
$node->safe_psql(
	'busy', q{
	CREATE EXTENSION pg_topics;
	SELECT topics.create_topic('t', cleanup_policy => 'compact', min_cleanable_dirty_ratio => 0);
	SELECT count(topics.produce('t', i || repeat('x', 1000), 'k')) FROM generate_series(1, 1000) i;
	CALL topics.roll_segment('t')});
ok($node->poll_query_until('postgres', $sleeps =~ s/postgres/busy/r),
	'another database has its own');
$node->safe_psql('postgres',
	q{DROP DATABASE copy; CREATE DATABASE copy TEMPLATE busy; DROP DATABASE busy});
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_database WHERE datname = 'busy'}),
	'0', 'it gives way to commands that need the database');

# somebody wants the lock
ok($node->poll_query_until('postgres', $sleeps), 'the compactor sleeps');
$pid = $node->safe_psql('postgres', "SELECT pid $compactor");
$node->safe_psql('postgres', q{SET lock_timeout = '10 s'; SELECT topics.drop_topic('t')});
is($node->safe_psql('postgres', q{SELECT count(*) FROM topics.topic WHERE topic = 't'}),
	'0', 'it gives way to who drops the topic');
like(
	slurp_file($node->logfile),
	qr/\[$pid\].*ERROR:  canceling work on partition 0 of topic "\w+"/,
	'... and says so');
is($node->safe_psql('postgres', $half_made), '0', '... no half-made table stays');
ok($node->poll_query_until('postgres', "SELECT count(*) = 0 $compactor"),
	'it ends when nothing is left to be compacted');

# by hand there is no limit
prepare('hand', 'delete');
$node->safe_psql('postgres',
	q{SELECT topics.alter_topic('hand', cleanup_policy => 'compact'); CALL topics.maintain('hand')}
);
set_rate('0');
is_compacted('hand', 'what is begun slowly is finished at once when there is no limit any more');

# ----------------------------------------------------------------------
# The rate
# ----------------------------------------------------------------------

# a megabyte to be mapped, counted and copied: 3 MB
set_rate('1MB');
prepare('rate', 'delete');
my $began = time;
$node->safe_psql('postgres', q{SELECT topics.alter_topic('rate', cleanup_policy => 'compact')});
is_compacted('rate', 'a segment is compacted');
cmp_ok(time - $began, '>=', 2, '... not faster than it may be');

# ----------------------------------------------------------------------
# A large segment loses its index, and gets it back
# ----------------------------------------------------------------------

# 8 MB and more stay of it, so that the index is not built in the swap
set_rate('0');
$node->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('large', cleanup_policy => 'compact,delete', retention_time => '-1 s', min_cleanable_dirty_ratio => 0);
	SELECT count(topics.produce('large', (SELECT string_agg(md5((i * 100 + j)::text), '') FROM generate_series(1, 55) j), (i % 6000)::text)) FROM generate_series(1, 6100) i;
	CALL topics.roll_segment('large')});
my $segment = $node->safe_psql('postgres',
	q{SELECT format('topic_log.t%s_p0_s1', topic_id) FROM topics.topic WHERE topic = 'large'});
my $index = qq{FROM pg_index WHERE indrelid = '$segment'::regclass};
ok($node->poll_query_until('postgres', q{SELECT count(*) = 6000 FROM topic.large}),
	'a large segment is compacted');
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 $index"), '... and indexed again');
# should that request have got lost
my $dropped = $node->safe_psql('postgres', "SELECT indexrelid::regclass $index");
$node->safe_psql('postgres', "DROP INDEX $dropped");
$node->safe_psql('postgres', q{SELECT topics.alter_topic('large', retention_bytes => 0)});
ok( $node->poll_query_until(
		'postgres', q{SELECT log_start_offset = 6100 FROM topics.partition WHERE topic = 'large'}),
	'retention asks for an index that is missing, and goes on');

# ----------------------------------------------------------------------
# A run whose topic goes, or is not to be compacted any more
# ----------------------------------------------------------------------

set_rate('1kB');
prepare('given_up', 'compact');
ok($node->poll_query_until('postgres', $sleeps), 'a compactor sleeps');
prepare('next', 'compact');
$node->safe_psql('postgres', q{SELECT topics.alter_topic('given_up', cleanup_policy => 'delete')});
set_rate('0');
is_compacted('next', 'the next one has its turn');
is($node->safe_psql('postgres', q{SELECT count(*) FROM topic.given_up}),
	'1000', '... and the first one is left alone');

# ----------------------------------------------------------------------
# A run that somebody has finished by hand
# ----------------------------------------------------------------------

my $reader = Session->new($node);
ok($node->poll_query_until('postgres', "SELECT count(*) = 0 $compactor"), 'there is no compactor');
$reader->value('BEGIN');
# the lock is there before there is anything to compact
$node->safe_psql('postgres',
	q{SELECT topics.create_topic('put_off', cleanup_policy => 'compact', min_cleanable_dirty_ratio => 0)}
);
$node->safe_psql('postgres',
	q{SELECT count(topics.produce('put_off', i || repeat('x', 1000), (i % 10)::text)) FROM generate_series(1, 1000) i}
);
$reader->value('SELECT count(*) FROM topic.put_off');
$node->safe_psql('postgres', q{CALL topics.roll_segment('put_off')});
# it has tried, and tries again every second
ok( $node->poll_query_until(
		'postgres',
		qq{SELECT count(*) = 1 $compactor AND state = 'idle' AND clock_timestamp() - backend_start > '1.5 s'}
	),
	'a compactor waits for a reader');
$reader->value('ROLLBACK');
$node->safe_psql('postgres', q{CALL topics.maintain('put_off')});
is_compacted('put_off', 'its work is done by hand');
prepare('behind', 'compact');
is_compacted('behind', '... and the next one has its turn');

# ----------------------------------------------------------------------
# A run that waits for a lock gives way
# ----------------------------------------------------------------------

$node->safe_psql('postgres',
	q{SELECT topics.create_topic('held', cleanup_policy => 'compact', min_cleanable_dirty_ratio => 0)}
);
$node->safe_psql('postgres',
	q{SELECT count(topics.produce('held', i || repeat('x', 1000), (i % 10)::text)) FROM generate_series(1, 1000) i}
);
ok($node->poll_query_until('postgres', "SELECT count(*) = 0 $compactor"), 'there is no compactor');
$reader->value('BEGIN');
$reader->value('SELECT count(*) FROM topic.held');
$node->safe_psql('postgres', q{CALL topics.roll_segment('held')});
ok($node->poll_query_until('postgres', qq{SELECT count(*) = 1 $compactor AND state = 'idle'}),
	'a compactor waits for a reader');
prepare('beside', 'compact');
$node->safe_psql(
	'postgres', q{
	DO $$ BEGIN
		FOR i IN 1 .. 100 LOOP
			PERFORM topics.reset_offset('g', 'beside', 0, to_offset => i);
			COMMIT;
		END LOOP;
	END $$;
	CALL topics.roll_segment('__consumer_offsets')});
is_compacted('beside', 'another topic has its turn meanwhile');
ok( $node->poll_query_until(
		'postgres',
		q{SELECT count(*) - count(DISTINCT key) = 0 FROM topic.__consumer_offsets HAVING count(*) > 0}
	),
	'... and __consumer_offsets');
is($reader->value('SELECT count(*) FROM topic.held'),
	'1000', '... and that of the reader is as it was');
# it does not come back to map it again and again
ok($node->poll_query_until('postgres', "SELECT count(*) = 0 $compactor"),
	'the compactor ends, as long as the lock is there');
$reader->value('ROLLBACK');
is_compacted('held', 'when the reader has ended its topic is compacted, too');

# ----------------------------------------------------------------------
# What fails is told of until it is done, and done when its time comes
# ----------------------------------------------------------------------

# who fails first may be the worker, which looks whether all is sealed
my $told = q{SELECT count(*) > 0 FROM topics.worker WHERE sqlstate = '55P03' AND topic};
prepare('locked', 'delete');
my $locked = $node->safe_psql('postgres',
	q{SELECT format('topic_log.t%s_p0_s1', topic_id) FROM topics.topic WHERE topic = 'locked'});
$reader->value("BEGIN; LOCK TABLE $locked");
$node->safe_psql('postgres', q{SELECT topics.alter_topic('locked', cleanup_policy => 'compact')});
prepare('unlocked', 'compact');
is_compacted('unlocked', 'beside a segment that is locked another topic has its turn');
ok( $node->poll_query_until('postgres', "$told = 'locked' AND failures >= 3"),
	'... and as long as it is locked topics.worker tells of it');
$reader->value('ROLLBACK');
$began = time;
is_compacted('locked', 'when it is not, its topic is compacted');
cmp_ok(time - $began, '<', 30, '... soon');

$node->safe_psql('postgres',
	q{SELECT topics.create_topic('pending', cleanup_policy => 'compact', min_cleanable_dirty_ratio => 0)}
);
$node->safe_psql('postgres',
	q{SELECT count(topics.produce('pending', i || repeat('x', 1000), (i % 10)::text)) FROM generate_series(1, 1000) i}
);
$reader->value(q{BEGIN; SELECT topics.delete_records('pending', 0, 10)});
$node->safe_psql('postgres', q{CALL topics.roll_segment('pending')});
ok($node->poll_query_until('postgres', "$told = 'pending' AND step = 'compact'"),
	'a compactor fails beside delete_records()');
$reader->value('ROLLBACK');
$began = time;
is_compacted('pending', '... and begins anew');
cmp_ok(time - $began, '<', 30, '... when its time has come');

# ----------------------------------------------------------------------
# No process to be had
# ----------------------------------------------------------------------

# PostgreSQL's launcher, ours, a worker
$node->safe_psql('postgres', 'DROP DATABASE copy');
$node->append_conf('postgresql.conf', "max_worker_processes = 3\n");
$node->restart;
prepare('alone', 'compact');
is_compacted('alone', 'where there is no other process the worker compacts');
is($node->safe_psql('postgres', qq{SELECT count(*) $compactor}), '0', '... itself');

# ----------------------------------------------------------------------
# Shutdown
# ----------------------------------------------------------------------

$node->append_conf('postgresql.conf', "max_worker_processes = 8\n");
set_rate('1kB');
$node->restart;
prepare('down', 'compact');
ok($node->poll_query_until('postgres', $sleeps), 'a compactor sleeps');
$began = time;
$node->stop('fast');
cmp_ok(time - $began, '<', 10, 'the server stops all the same');

done_testing();
