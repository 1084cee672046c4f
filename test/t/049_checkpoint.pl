# What was confirmed before a crash, as far as the catalogue knows: of a transaction
# all records can be read after it, or none, and of a key that was compacted one.
# The synchronous standby is away by then.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use TopicState;
use Topics;

my $node = topics_node(
	'primary',
	init => { allows_streaming => 1 },
	conf => "pg_topics.worker_interval = '1h'\nautovacuum = off\n");

# Crashes, and starts with synchronous standbys of a name, or without.  What was done
# by then is durable.
sub start_with
{
	my ($names) = @_;

	$node->safe_psql('postgres', 'CHECKPOINT');
	$node->stop('immediate');
	$node->adjust_conf('postgresql.conf', 'synchronous_standby_names', "'$names'");
	$node->start;
	return;
}

# Commits a record in each of the topics
sub produce
{
	my ($value, @topics) = @_;

	$node->safe_psql('postgres', join ' ', 'BEGIN;',
		(map { "SELECT topics.produce('$_', '$value', 'key');" } @topics), 'COMMIT;');
	return;
}

my $all = q{
	SELECT (SELECT string_agg(value, ' ' ORDER BY "offset") FROM topic.a),
		(SELECT string_agg(value, ' ' ORDER BY "offset") FROM topic.b),
		(SELECT string_agg(value, ' ' ORDER BY "offset") FROM topic.state)};

sub shows
{
	my ($expected, $test_name) = @_;

	return is($node->safe_psql('postgres', $all), $expected, $test_name);
}

# Somebody who stays in a transaction that has locked the row of a partition
sub lock_a_row
{
	my $session = Session->new($node);

	$session->value(q{BEGIN; SELECT topics.delete_records('a', 0, 1)});
	return $session;
}

$node->append_conf('postgresql.conf', q{synchronous_standby_names = ''});
$node->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('a'), topics.create_topic('b'),
		topics.create_topic('state', cleanup_policy => 'compact', min_cleanable_dirty_ratio => 0)});

# ----------------------------------------------------------------------
# A transaction
# ----------------------------------------------------------------------

# the ends of one topic's logs alone are stored
produce('1', 'a', 'b');
$node->safe_psql('postgres', q{CALL topics.maintain('a')});
start_with('nobody');
shows('||', 'what is stored of one topic is not shown without the others');
start_with('');
$node->safe_psql('postgres', 'CALL topics.maintain()');
produce('2', 'a', 'b');
$node->safe_psql('postgres', q{CALL topics.maintain('a')});
start_with('nobody');
shows('1|1|', 'what is stored of all is shown');
$node->safe_psql('postgres',
	q{SET synchronous_commit = local; SELECT topics.produce('a', 'unconfirmed'); CALL topics.maintain()}
);
start_with('nobody');
shows('1|1|', 'what is not confirmed is not stored as such');

# ----------------------------------------------------------------------
# A key
# ----------------------------------------------------------------------

start_with('');
produce('3', 'state');
$node->safe_psql('postgres', q{CALL topics.roll_segment('state')});
produce('4', 'state', 'b');
ok(compact_by_hand($node, 'state'), 'the topic is compacted');
start_with('nobody');
shows('1 2 unconfirmed|1 2 4|4', 'what was compacted is shown, and what was committed with it');

# somebody has locked the row of a partition
start_with('');
produce('5', 'state', 'b', 'a');
my $deleter = lock_a_row();
ok(compact_by_hand($node, 'state'), 'where nobody confirms anything compaction does not wait');
$deleter = undef;
start_with('nobody');
like(
	$node->safe_psql('postgres', $all),
	qr/^1 2 unconfirmed( 5|)\|1 2 4\1\|5$/,
	'nor is a key without its latest record');

# ----------------------------------------------------------------------
# With a standby
# ----------------------------------------------------------------------

start_with('');
$node->backup('base');
my $standby = new_node('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
start_with('standby');
# the worker that has just been started may have stored the first ones
do
{
	$deleter = undef;
	produce('6', 'state', 'b', 'a');
	$deleter = lock_a_row();
} until $node->safe_psql(
	'postgres', q{
	SELECT high_watermark < log_end_offset FROM topic_log.partition JOIN topics.topic USING (topic_id)
		JOIN topics.partition USING (topic, partition) WHERE topic = 'state'}) eq 't';
my $six =
  $node->safe_psql('postgres', q{SELECT string_agg(value, ' ') FROM topic.b WHERE value = '6'});
$node->safe_psql('postgres', q{CALL topics.roll_segment('state'); CALL topics.maintain('state')});
shows("1 2 unconfirmed 5 $six|1 2 4 5 $six|5 $six",
	'where somebody confirms, compaction waits for that row');
$deleter->query('COMMIT');
ok(compact_by_hand($node, 'state'), '... and no longer');
shows("2 unconfirmed 5 $six|1 2 4 5 $six|6", '... so that the older record goes');
$standby->stop('immediate');
start_with('standby');
shows("2 unconfirmed 5 $six|1 2 4 5 $six|6", 'what was confirmed is shown after a crash');

# A snapshot stays as it is when the standby comes, also in a topic that nobody has
# read since the crash: there is no worker that would
start_with('');
produce('7', 'a', 'b');
$node->append_conf('postgresql.conf', 'max_worker_processes = 0');
start_with('standby');
my $seven = q{SELECT count(*) FROM topic.%s WHERE value = '7'};
my $snapshot = Session->new($node);

is($snapshot->value('BEGIN ISOLATION LEVEL REPEATABLE READ; ' . sprintf $seven, 'a'),
	"BEGIN\n0", 'a snapshot without what is not known to be confirmed');
$standby->start;
ok($node->poll_query_until('postgres', sprintf($seven, 'a'), '1'), '... others see it confirmed');
is($snapshot->value(sprintf $seven, 'b'), '0', '... and the snapshot nothing of it');
is($snapshot->value('COMMIT; ' . sprintf $seven, 'b'), "COMMIT\n1", '... until its end');

done_testing();
