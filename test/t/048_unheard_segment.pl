# Readers beside a change of segments that is committed, and of which they have
# not been told yet: they see all of a transaction that goes by it, or nothing,
# or are told to try again.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

# of each partition; readers have asked before, so that they know the segments
my $count =
  q{SELECT count(*) FILTER (WHERE partition = 0), count(*) FILTER (WHERE partition = 1) FROM topic.t};

# PostgreSQL's launcher and ours take 2 processes: no worker has made a spare
my $node = topics_node(
	'alone',
	points => 1,
	conf => "max_worker_processes = 2\npg_topics.worker_interval = '1h'\n");
my ($producer, $observer, @readers) = map { Session->new($node) } 1 .. 6;

# Each partition's segment is full: the next record is in another one.
$observer->value(
	q{
	SELECT topics.create_topic('t', 2, segment_bytes => 65536);
	INSERT INTO topic.t (value, partition) SELECT 'x', 0
	FROM topics.segment s, generate_series(1, s.end_offset) WHERE s.topic = 't' AND s.partition = 0});
my $full = $observer->value(q{SELECT count(*) FROM topic.t});

cmp_ok($full, '>', 10, 'a segment is full, and there is no other');
is($observer->value(q{SELECT count(*) FROM topics.segment WHERE topic = 't' AND partition = 0}),
	'1', '... indeed');

my ($fresh, $planned, $repeatable, $serializable) = @readers;
is($_->value($count), "$full|0", '... which readers see') for @readers;
$planned->value('SET plan_cache_mode = force_generic_plan');
$planned->value("PREPARE q AS $count");
$planned->value('EXECUTE q');

stop_at($node, 'commit-visible');
$producer->send(
	q{INSERT INTO topic.t (value, partition) SELECT 'new', p FROM generate_series(0, 1) p});
ok(wait_until_at($node, 'commit-visible'), 'a producer attaches a segment itself, and is visible');
my $all = $full + 1 . '|1';

# the segment is locked as long as it is not announced
$fresh->send($count);
$planned->send('EXECUTE q');
$repeatable->send("BEGIN ISOLATION LEVEL REPEATABLE READ; $count");
$serializable->send(
	"BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM topics.fetch('t', 0, 0, 10000)");
for my $session (@readers)
{
	ok( poll_until(
			sub {
				$observer->value(
					qq{SELECT wait_event_type FROM pg_stat_activity WHERE pid = $session->{pid}})
				  eq 'Lock';
			}),
		'... a reader hears of it, and waits until it is announced');
}
go_on_from($node, 'commit-visible');
is($producer->receive->{sqlstate}, '', '... the producer goes on');
is($fresh->receive->{rows}[0], $all, '... a query sees all of its records');
is($planned->receive->{sqlstate}, '40001', '... a plan from before is not used');
is($planned->value('EXECUTE q'), $all, '... but made anew');
is($repeatable->receive->{rows}[-1], $all, '... all in REPEATABLE READ');
is($serializable->receive->{rows}[-1], $full + 1, '... and by fetch()');
$_->value('COMMIT') for $repeatable, $serializable;
is($_->value($count), $all, '... and all is as before') for @readers;
$node->stop;

# The bounds of a spare come down.  A query that leaves out what it knows to be
# of other offsets would miss records there.
$node = topics_node(
	'bounds',
	points => 1,
	conf => "pg_topics.worker_interval = '1h'\n");
($producer, $observer, my $roller, my $reader) = map { Session->new($node) } 1 .. 4;
$observer->value(
	q{
	SELECT topics.create_topic('t', 2, segment_bytes => 65536);
	INSERT INTO topic.t (value, partition) SELECT 'x', 0 FROM generate_series(1, 300)});
ok( poll_until(
		sub {
			$observer->value(
				q{SELECT count(*) FROM topics.segment WHERE topic = 't' AND partition = 0}) > 1;
		}),
	'there is a spare');
my $above =
  q{SELECT count(*), min("offset") FROM topic.t WHERE partition = 0 AND "offset" >= 300 AND "offset" < 310};

is($reader->value($above), '0|', '... and nothing in it');
stop_at($node, 'cut-done');
$roller->send(q{CALL topics.roll_segment('t', 0)});
ok(wait_until_at($node, 'cut-done'), 'a roll is between its two transactions');
stop_at($node, 'bounds-visible');
go_on_from($node, 'cut-done');
ok(wait_until_at($node, 'bounds-visible'), '... and the second is visible');
$producer->send(
	q{INSERT INTO topic.t (value, partition) SELECT 'new', 0 FROM generate_series(1, 5)});
ok( poll_until(
		sub {
			$observer->value(
				qq{SELECT count(*) FROM topics.append_wait WHERE waiter_pid = $producer->{pid}}) eq
			  '1';
		}),
	'... a producer waits until it is announced');
is($reader->value($above), '0|', '... a reader sees nothing yet');
go_on_from($node, 'bounds-visible');
is($producer->receive->{sqlstate}, '', '... the producer goes on');
is($roller->receive->{sqlstate}, '', '... as does the roll');
is($reader->value($above), '5|300', '... whose records the reader sees');

# A segment is cut, and another attached for offsets that the first one had, while a
# query is planned: there is no spare, and segments are made smaller now.
$observer->value(
	q{
	SELECT topics.create_topic('cut', 2, segment_bytes => 1048576);
	SELECT topics.create_topic('beside');
	INSERT INTO topic.cut (value, partition) SELECT 'x', 0 FROM generate_series(1, 100);
	INSERT INTO topic.beside (value) VALUES ('x');
	SELECT topics.alter_topic('cut', segment_bytes => 65536)});
my $cut = $count =~ s/topic\.t/topic.cut/r;
is($reader->value($cut), '100|0', 'a topic has a large segment');
my $beside = $observer->value(
	q{SELECT c.oid::regclass FROM topics.topic, pg_class c WHERE topic = 'beside' AND relname ~ ('^t' || topic_id || '_p0_s')}
);
my $locker = Session->new($node);
$locker->value("BEGIN; LOCK TABLE $beside");
$reader->send("$cut UNION ALL SELECT count(*), 0 FROM topic.beside");
ok( poll_until(
		sub {
			$observer->value(
				qq{SELECT wait_event_type FROM pg_stat_activity WHERE pid = $reader->{pid}}) eq
			  'Lock';
		}),
	'... a query that has it waits for a lock while it is planned');
$roller->value(q{CALL topics.roll_segment('cut', 0)});
like(
	$observer->value(
		q{
		SELECT string_agg(pg_get_expr(c.relpartbound, c.oid), ' ' ORDER BY c.oid)
		FROM topics.topic, pg_class c WHERE topic = 'cut' AND relname ~ ('^t' || topic_id || '_p0_s')}
	),
	qr/^FOR VALUES FROM \('0'\) TO \('100'\) FOR VALUES FROM \('100'\) TO \('\d{3}'\)$/,
	'... a segment has offsets that were those of the large one');
$producer->value(
	q{INSERT INTO topic.cut (value, partition) SELECT 'new', p FROM generate_series(0, 1) p});
$locker->value('COMMIT');
is($reader->receive->{sqlstate}, '40001', '... the query is told to try again');
is($reader->value($cut), '101|1', '... and then sees both records');
$node->stop;
done_testing();
