# The clock is set back, by ten days: background processes do not notice, and
# what was put down while the clock was ahead does not stay for ten days.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Topics;

plan skip_all => 'needs Linux' unless $^O eq 'linux';

my $directory = $PostgreSQL::Test::Utils::tmp_check;
my $library = "$directory/workers_clock.so";
my $ten_days = 10 * 86400;

system_or_bail($ENV{CC} // 'cc', '-shared', '-fPIC', '-o', $library,
	"$FindBin::RealBin/../clock.c");

# The clock of the server's processes is so many seconds ahead.
sub set_clock
{
	my ($seconds) = @_;

	append_to_file("$directory/workers_clock.new", "$seconds\n");
	rename "$directory/workers_clock.new", "$directory/workers_clock"
	  or die "could not set the clock: $!";
	return;
}

my $node = topics_node('main',
	conf =>
	  "pg_topics.worker_interval = '100ms'\npg_topics.compaction_rate = '1MB'\nautovacuum = off\n");
$node->stop;
set_clock($ten_days);
{
	local $ENV{LD_PRELOAD} = $library;
	local $ENV{TEST_CLOCK} = "$directory/workers_clock";
	$node->start;
}
wait_for_worker($node, 'postgres', 'there is a worker, with the clock ten days ahead');
cmp_ok(
	$node->safe_psql('postgres', 'SELECT extract(epoch FROM clock_timestamp())'),
	'>',
	time + $ten_days - 3600,
	'... of which the server knows');

# Two sealed segments of 10 records each, and an active one.
sub produce_segments
{
	my ($topic) = @_;

	$node->safe_psql(
		'postgres', qq{
		SELECT count(topics.produce('$topic', i::text, 'k' || i)) FROM generate_series(1, 10) i;
		CALL topics.roll_segment('$topic');
		SELECT count(topics.produce('$topic', i::text, 'k' || i)) FROM generate_series(1, 10) i;
		CALL topics.roll_segment('$topic');
		SELECT topics.produce('$topic', 'last', 'k')});
	return;
}

$node->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('aged', retention_time => '1 hour', segment_time => '-1 s');
	SELECT topics.create_topic('kept', retention_time => '-1 s', segment_time => '-1 s');
	SELECT topics.create_topic('large', cleanup_policy => 'compact', min_cleanable_dirty_ratio => 0);
	SELECT topics.create_topic('compacted', cleanup_policy => 'compact', min_cleanable_dirty_ratio => 0.9,
		delete_retention_time => '1 hour')});
produce_segments('aged');
produce_segments('kept');
produce_segments('compacted');

# Tombstones, in a segment that is clean.
$node->safe_psql(
	'postgres', q{
	SELECT count(topics.produce('compacted', NULL, 'k' || i)) FROM generate_series(1, 10) i;
	CALL topics.roll_segment('compacted');
	SELECT topics.alter_topic('compacted', min_cleanable_dirty_ratio => 0);
	CALL topics.maintain('compacted')});
ok( $node->poll_query_until(
		'postgres',
		q{SELECT count(*) > 0 FROM topic_log.segment WHERE tombstones_from > now() - interval '1 minute'}
	),
	'there are tombstones to be let go');

# Compaction, which takes some seconds at its rate, is under way.
$node->safe_psql(
	'postgres', q{
	SELECT count(topics.produce('large', repeat(md5(i::text), 100), 'k')) FROM generate_series(1, 2000) i;
	CALL topics.roll_segment('large')});
ok( $node->poll_query_until(
		'postgres',
		q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'pg_topics compactor'}),
	'a compactor is at work');

# ----------------------------------------------------------------------
# Back
# ----------------------------------------------------------------------

wait_for_worker($node, 'postgres', 'a worker');
my $worker = worker_pid($node, 'postgres');
set_clock(0);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
wait_for_worker($node, 'postgres', 'the clock is set back: a worker that ends has a successor',
	$worker);
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM topic.large}),
	'... compaction that was under way goes on');
$node->safe_psql('postgres', q{CALL topics.maintain('compacted')});
ok( $node->poll_query_until(
		'postgres', q{
		SELECT count(*) = 0 FROM topic_log.segment s JOIN topics.topic t USING (topic_id)
		WHERE t.topic IN ('aged', 'compacted')
			AND (s.sealed_at > clock_timestamp() OR s.tombstones_from > clock_timestamp())}),
	'... and no segment that anything is to leave has a time in the future');
is( $node->safe_psql(
		'postgres', q{SELECT log_start_offset FROM topics.partition WHERE topic = 'aged'}),
	'0',
	'... from when on its records stay for retention_time');

# Two hours later: what is older than an hour goes.
set_clock(7200);
ok( $node->poll_query_until(
		'postgres', q{SELECT log_start_offset >= 20 FROM topics.partition WHERE topic = 'aged'}),
	'records that came while the clock was ahead expire');
$node->safe_psql('postgres', q{CALL topics.maintain('compacted')});
ok( $node->poll_query_until(
		'postgres', q{SELECT count(*) = 0 FROM topic.compacted WHERE value IS NULL}),
	'... and tombstones go');

# A policy that comes later finds the same.
$node->safe_psql('postgres', q{SELECT topics.alter_topic('kept', retention_time => '1 s')});
ok( $node->poll_query_until(
		'postgres', q{SELECT log_start_offset >= 20 FROM topics.partition WHERE topic = 'kept'}),
	'... also by a retention_time that was set since');

$node->stop;
done_testing();
