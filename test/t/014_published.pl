# A producer that is stopped between visibility and publication: its commit is
# in every snapshot, and the log end does not know.  Readers see all of its
# transaction or nothing, and all reads of a statement the same; nobody calls an
# offset out of range by mistake, and a crash takes back nothing that was read.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

my $node = topics_node('main', points => 1, conf => "fsync = on\nwal_writer_delay = 10s\n");
my ($producer, $second, $neighbour, $reader, $early, $late, $beyond, $observer) =
  map { Session->new($node) } 1 .. 8;

$observer->value(
	q{
	SELECT topics.create_topic('t', 3);
	SELECT topics.produce('t', 'before', partition => p) FROM generate_series(0, 2) p});

# What everybody else does meanwhile.  The bound only keeps a failing test
# from hanging.
sub goes_on
{
	my ($session, $sql, $expected, $test_name) = @_;
	my $result = $session->query_within($sql, 60);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($result ? join("\n", @{ $result->{rows} }) . $result->{sqlstate} : 'no answer',
		$expected, $test_name);
}

# A transaction of two partitions, of 3 records each, that is stopped at a point
sub produce_and_stop
{
	my ($point, $value) = @_;

	stop_at($node, $point);
	$producer->send(
		qq{
		INSERT INTO topic.t (value, partition) SELECT '$value', g % 2 FROM generate_series(1, 6) g});
	return ok(wait_until_at($node, $point), "stopped at $point");
}

my $all = q{SELECT partition, count(*), max("offset") FROM topic.t GROUP BY 1 ORDER BY 1};
my $fetch = q{SELECT count(*), max(r.offset) FROM topics.fetch('t', 0, 0) r};
my $log_ends =
  q{SELECT string_agg(log_end_offset::text, ' ' ORDER BY partition) FROM topics.partition WHERE topic = 't'};

# A snapshot from before, of which the readers must hold to.
$early->value('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class');

# ----------------------------------------------------------------------
# Appended, not yet committed
# ----------------------------------------------------------------------

produce_and_stop('append-done', 'first');
goes_on($reader, $all, "0|1|0\n1|1|0\n2|1|0", '... SELECT sees nothing of it');
goes_on($reader, $fetch, '1|0', '... nor fetch');
goes_on($neighbour, q{CALL topics.send('t', 'beside', partition => 2)},
	'2|1', '... another partition goes on');

# ----------------------------------------------------------------------
# Visible, not yet published
# ----------------------------------------------------------------------

stop_at($node, 'commit-visible');
go_on_from($node, 'append-done');
ok(wait_until_at($node, 'commit-visible'), 'stopped between visibility and publication');
is($producer->receive(0), undef, '... not acknowledged');

goes_on($reader, $all, "0|4|3\n1|4|3\n2|2|1", '... SELECT sees the whole transaction');
goes_on($reader, q{SELECT count(*) FROM topic.t WHERE partition = 1 AND "offset" >= 1},
	'3', '... also by offset');
goes_on($reader, $fetch, '4|3', '... fetch too');
goes_on($reader, q{SELECT count(*) FROM topics.fetch('t', 0, 1) r}, '3', '... from any offset');
goes_on($reader, $log_ends, '4 4 2', '... which is the end that the views show');
goes_on($reader, q{SELECT o.offset FROM topics.list_offsets('t', 'latest') o WHERE partition = 0},
	'4', '... and list_offsets');
goes_on(
	$reader, q{
	SELECT (SELECT count(*) FROM topic.t WHERE partition = 0),
		(SELECT count(*) FROM topics.fetch('t', 0, 0)),
		(SELECT o.offset FROM topics.list_offsets('t', 'latest') o WHERE partition = 0),
		(SELECT log_end_offset FROM topics.partition WHERE topic = 't' AND partition = 0)},
	'4|4|4|4', '... all in one statement');
goes_on($early, $fetch, '1|0', '... an old snapshot fetches nothing of it');
goes_on($early, $log_ends, '1 1 1', '... and is shown the end of what it sees');
goes_on(
	$early, $all, '0|1|0
1|1|0
2|1|0', '... an old snapshot sees nothing of it');
goes_on($neighbour, q{CALL topics.send('t', 'beside', partition => 2)},
	'2|2', '... another partition goes on');

# a group that has read it is not out of range
goes_on($reader,
	q{SELECT count(*), max(r.offset) FROM topics.consume('g', 't') r WHERE partition = 0},
	'4|3', '... consume too');
goes_on($reader,
	q{SELECT count(*), max(r.offset) FROM topics.consume('g', 't') r WHERE partition = 1},
	'4|3', '... from each partition');
goes_on($reader, q{SELECT count(*) FROM topics.consume('g', 't') WHERE partition = 2},
	'3', '... from the others');
my $consumer = Session->new($node);
$consumer->send(q{SELECT count(*) FROM topics.consume('g', 't')});

# What comes behind is not known before the publication.
goes_on(
	$late, q{SELECT r.offset FROM topics.fetch('t', 0, 4) r},
	'', '... at the end there is nothing yet');
$late->send(q{SELECT r.offset FROM topics.fetch('t', 1, 6) r});
$beyond->send(q{SELECT r.offset, value FROM topics.fetch('t', 1, 5) r});
$second->send(q{CALL topics.send('t', 'second', partition => 0)});
for my $waiting ($late, $beyond, $second, $consumer)
{
	ok( poll_until(
			sub {
				$observer->value(
					qq{
			SELECT state = 'active' AND wait_event_type IN ('Extension', 'LWLock')
			FROM pg_stat_activity WHERE pid = $waiting->{pid}}) eq 't';
			}),
		'... one that needs to know the end waits');
}
$observer->value("SELECT pg_cancel_backend($late->{pid})");
is($late->receive->{sqlstate}, '57014', '... and can be cancelled');

go_on_from($node, 'commit-visible');
is_deeply($producer->receive->{rows}, ['INSERT 0 6'], 'the producer goes on, and is acknowledged');
is_deeply($second->receive->{rows}, ['0|4'], 'the next producer has the next offset');
like($consumer->receive->{rows}[0], qr/^[01]$/, 'the group goes on behind it');
is($beyond->receive->{sqlstate}, 'TP001', 'one that was never there is out of range');
goes_on($late, q{SELECT value FROM topics.fetch('t', 0, 4)}, 'second', 'fetch goes on behind it');
goes_on($reader, $log_ends, '5 4 3', 'the ends are published');
$early->value('COMMIT');

# ----------------------------------------------------------------------
# A roll beside it
# ----------------------------------------------------------------------

produce_and_stop('commit-visible', 'rolled');
$second->send(q{CALL topics.roll_segment('t', 0)});
ok( poll_until(
		sub {
			$observer->value(
				qq{
		SELECT state = 'active' AND wait_event_type IN ('Extension', 'LWLock')
		FROM pg_stat_activity WHERE pid = $second->{pid}}) eq 't';
		}),
	'a roll waits for the publication');
goes_on($reader, $all, "0|8|7\n1|7|6\n2|3|2", '... SELECT sees the whole transaction');
go_on_from($node, 'commit-visible');
is_deeply($producer->receive->{rows}, ['INSERT 0 6'], '... the producer goes on');
is($second->receive->{sqlstate}, '', '... and so does the roll');
goes_on(
	$reader,
	q{SELECT base_offset, log_end_offset FROM topics.segment WHERE topic = 't' AND partition = 0 ORDER BY 1 LIMIT 2},
	"0|8\n8|8",
	'... which has cut behind the records');

# ----------------------------------------------------------------------
# A cancel that comes too late
# ----------------------------------------------------------------------

# The commit is done: an error would say that it is not.
for my $sql (
	q{INSERT INTO topic.t (value, partition) VALUES ('late', 2)},
	q{SELECT topics.produce('t', 'late', partition => 2)},
	q{CALL topics.send('t', 'late', partition => 2)})
{
	my ($command) = $sql =~ /(\w+)/;

	stop_at($node, 'commit-durable');
	$producer->send($sql);
	ok(wait_until_at($node, 'commit-durable'), "$command: stopped behind the commit");
	$observer->value("SELECT pg_cancel_backend($producer->{pid})");
	go_on_from($node, 'commit-durable');
	is($producer->receive->{sqlstate}, '', '... a cancel is too late');
}
goes_on($reader, q{SELECT count(*) FROM topic.t WHERE value = 'late'}, '3', '... all is there');
$producer->query('SELECT 1');

# ----------------------------------------------------------------------
# The server dies there
# ----------------------------------------------------------------------

# What was not read may be lost with the crash, or not, but not in part.
for my $point ('commit-visible', 'commit-published')
{
	for my $is_read (0, 1)
	{
		my $count = $observer->value(q{SELECT count(*) FROM topic.t});

		produce_and_stop($point, "$point $is_read");
		goes_on($reader, 'SELECT count(*) FROM topic.t', $count + 6, '... and read') if $is_read;
		kill_server($node);
		is($producer->receive->{lost}, 1, '... the server dies');
		$node->start;
		($producer, $second, $neighbour, $reader, $early, $late, $beyond, $observer) =
		  map { Session->new($node) } 1 .. 8;
		my $after = $observer->value('SELECT count(*) FROM topic.t');

		if ($is_read) { is($after, $count + 6, '... what was read is there') }
		else { ok($after == $count || $after == $count + 6, '... all or nothing is there') }
		goes_on($observer, q{SELECT sum(log_end_offset) FROM topics.partition WHERE topic = 't'},
			$after, '... dense');
		goes_on(
			$producer,
			q{CALL topics.send('t', 'after', partition => 1)},
			'1|' . $observer->value('SELECT count(*) FROM topic.t WHERE partition = 1'),
			'... and goes on');
	}
}
$node->stop;
done_testing();
