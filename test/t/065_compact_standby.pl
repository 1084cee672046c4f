# Compaction and a snapshot on a standby that the primary does not know of: it
# keeps what it sees, or its query is canceled, as by any VACUUM.

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

my $primary = topics_node(
	'primary',
	points => 1,
	init => { allows_streaming => 1 },
	conf => "pg_topics.worker_interval = '1h'\nautovacuum = off\n");
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf',
	"hot_standby_feedback = off\nmax_standby_streaming_delay = -1\n");
$standby->start;

# 200 records in two segments, sealed and frozen, of which the log start goes
# into the second one
$primary->safe_psql('postgres',
	q{SELECT topics.create_topic('t', retention_time => '-1 s', min_cleanable_dirty_ratio => 0)});
for my $segment (0, 1)
{
	$primary->safe_psql(
		'postgres', qq{
		SELECT count(topics.produce('t', repeat('x', 1000), (100 * $segment + i)::text)) FROM generate_series(0, 99) i;
		CALL topics.roll_segment('t')});
}
my $table = $primary->safe_psql('postgres',
	q{SELECT format('topic_log.t%s_p0', topic_id) FROM topics.topic WHERE topic = 't'});
$primary->safe_psql('postgres', "VACUUM (FREEZE) $table");
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));

# without a lock
my $reader = Session->new($standby);
$reader->value('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($reader->value('SELECT 1'), '1', 'a snapshot on the standby');

# somebody keeps the lowest segment from being dropped
my $holder = Session->new($primary);
$holder->value("BEGIN; LOCK TABLE ${table}_s1 IN ACCESS SHARE MODE");
$primary->safe_psql('postgres',
	q{SELECT topics.delete_records('t', 0, 150); SELECT topics.alter_topic('t', cleanup_policy => 'compact')}
);
ok( poll_until(
		sub {
			$primary->safe_psql('postgres', q{CALL topics.send('t', 'x', 'more')});
			compact_by_hand($primary, 't');
			$primary->safe_psql('postgres', "SELECT pg_relation_size('${table}_s2') < 80000") eq
			  't';
		}),
	'the records below the log start have gone on the primary');

# it has replayed that, or waits for the reader
my $upto = $primary->lsn('flush');
ok( $standby->poll_query_until(
		'postgres', qq{
		SELECT pg_last_wal_replay_lsn() >= '$upto'
			OR EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'startup' AND wait_event = 'RecoveryConflictSnapshot')}
	),
	'the standby has replayed that, or waits');
my $parts =
  q{SELECT count(*) FILTER (WHERE r.offset < 100), count(*) FILTER (WHERE r.offset BETWEEN 100 AND 149), count(*) FILTER (WHERE r.offset BETWEEN 150 AND 199) FROM topic.t r};
is($reader->value($parts), '100|50|50', 'the snapshot sees what it saw');
$reader->value('COMMIT');
$holder->value('COMMIT');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
is($reader->value($parts), '0|0|50', '... and a new one what is left');

# ----------------------------------------------------------------------
# A merge that is copying locks nobody out, on the standby either
# ----------------------------------------------------------------------

$primary->safe_psql('postgres', q{SELECT topics.create_topic('m', min_cleanable_dirty_ratio => 0)});
for my $segment (0, 1)
{
	$primary->safe_psql(
		'postgres', q{
		SELECT count(topics.produce('m', repeat('x', 100), (i % 10)::text)) FROM generate_series(1, 100) i;
		CALL topics.roll_segment('m')});
}
# not before: the worker may come to it before we do
stop_at($primary, 'compact-copied');
$primary->safe_psql('postgres', q{SELECT topics.alter_topic('m', cleanup_policy => 'compact')});
my $merger = Session->new($primary);
$merger->send(q{CALL topics.maintain('m')});
ok(wait_until_at($primary, 'compact-copied'), 'a merge has copied');
# what it has written so far
$primary->safe_psql('postgres', q{CALL topics.send('t', 'x', 'k')});
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
is( $standby->safe_psql(
		'postgres', q{
		SELECT count(*) FROM pg_locks JOIN pg_class c ON c.oid = relation
		WHERE mode = 'AccessExclusiveLock' AND relname ~ ('^t' || (SELECT topic_id FROM topics.topic WHERE topic = 'm') || '_p0')}
	),
	'0',
	'... and the standby has no lock on the partition or a segment');
go_on_from($primary, 'compact-copied');
is($merger->receive->{sqlstate}, '', '... and ends');
ok( $primary->poll_query_until(
		'postgres',
		q{SELECT count(*) = 1 FROM topics.segment WHERE topic = 'm' AND state = 'sealed'}),
	'... with one segment');

done_testing();
