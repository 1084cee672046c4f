# A producer that is stopped after produce() harms nobody; one that is stopped
# while it holds the append lock stops its partition, and nothing else.
#
# Not here: a stop between visibility and publication, which takes a debugger
# (the isolation specs have readers at that point).

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

my $node = topics_node('main');
wait_for_worker($node, 'postgres', 'the worker runs');

my ($stopped, $producer, $neighbour, $reader, $observer, $roller) =
  map { Session->new($node) } 1 .. 6;
$observer->value(
	q{
	SELECT topics.create_topic('stop', 3);
	SELECT topics.create_topic('other')});

# Sessions whose answers are still to come, when a test has failed.
my @owing;

# Each of these must come to an end while somebody is stopped.  The bound
# only keeps a failing test from hanging.
sub goes_on
{
	my ($session, $sql, $expected, $test_name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$session->send($sql);
	my $result = $session->receive(60);
	push @owing, $session unless $result;
	return is($result ? join("\n", @{ $result->{rows} }) . $result->{sqlstate} : 'no answer',
		$expected, $test_name);
}

# ----------------------------------------------------------------------
# After produce()
# ----------------------------------------------------------------------

$observer->value(q{SELECT topics.produce('stop', 'first', partition => 0)});
$stopped->value(q{BEGIN; SELECT topics.produce('stop', 'late', partition => 0)});
signal_backend('STOP', $stopped->{pid});

goes_on(
	$producer, q{SELECT topics.produce('stop', 'second', partition => 0)},
	'0', 'stopped after produce(): a producer to its partition');
goes_on($producer, q{CALL topics.send('stop', 'third', partition => 0)}, '0|2', '... send');
goes_on($reader, q{SELECT r.offset, value FROM topics.fetch('stop', 0, 0) r},
	"0|first\n1|second\n2|third", '... fetch');
goes_on($reader, q{SELECT value FROM topic.stop ORDER BY "offset"},
	"first\nsecond\nthird", '... SELECT');
goes_on($reader,
	q{SELECT o.offset FROM topics.list_offsets('stop', 'latest') o WHERE partition = 0},
	'3', '... list_offsets');

goes_on($roller, q{CALL topics.roll_segment('stop', 0)}, 'CALL', '... a roll of the partition');
goes_on($producer, q{CALL topics.send('stop', 'fourth', partition => 0)},
	'0|3', '... a producer after it');
goes_on($reader, q{SELECT max(r.offset) FROM topics.fetch('stop', 0, 0) r},
	'3', '... a reader after it');

signal_backend('CONT', $stopped->{pid});
is($stopped->query('COMMIT')->{sqlstate}, '', 'goes on, and commits');
$_->receive for splice @owing;
is($observer->value(q{SELECT value FROM topics.fetch('stop', 0, 4)}),
	'late', 'its record comes after those that were committed meanwhile');

# ----------------------------------------------------------------------
# With the append lock
# ----------------------------------------------------------------------

hold_append_lock(
	giant => $stopped,
	waiter => $producer,
	observer => $observer,
	node => $node,
	reading => 'SELECT count(*) FROM topic.stop',
	begin => q{
		BEGIN;
		INSERT INTO topic.stop (value, partition) SELECT 'giant', 1 FROM generate_series(1, 600000)},
	sql => q{CALL topics.send('stop', 'waited', partition => 1)});
pass('stopped with the append lock of a partition');

goes_on($neighbour, q{CALL topics.send('stop', 'neighbour', partition => 2)},
	'2|0', '... a producer to another partition');
goes_on($neighbour, q{CALL topics.send('other', 'neighbour')}, '0|0', '... to another topic');
goes_on($neighbour,
	q{SELECT count(*) FROM topics.produce_batch('other', array_fill('x'::text, '{1000}'))},
	'1', '... a batch');
goes_on($reader, q{SELECT count(*) FROM topic.stop WHERE partition = 1},
	'0', '... SELECT on the partition');
goes_on($reader, q{SELECT count(*) FROM topics.fetch('stop', 0, 0)},
	'5', '... fetch of another partition');
goes_on($reader, q{SELECT value FROM topics.fetch('stop', 2, 0)},
	'neighbour', '... of what came meanwhile');

goes_on($roller, q{CALL topics.roll_segment('stop', 2)}, 'CALL', '... a roll of another partition');
goes_on(
	$neighbour, q{CALL topics.send('stop', 'next', partition => 2)},
	'2|1', '... a producer to that one after it');
is($producer->receive(0), undef, '... and the producer to the same partition still waits');

signal_backend('CONT', $stopped->{pid});
is_deeply($stopped->receive->{rows}, ['COMMIT'], 'the giant goes on, and commits');
is_deeply($producer->receive->{rows}, ['1|600000'], 'the producer behind it is the next one');
$_->receive for splice @owing;
is( $observer->value(
		q{
		SELECT partition, count(*), min("offset"), max("offset") FROM topic.stop GROUP BY 1 ORDER BY 1}),
	"0|5|0|4\n1|600001|0|600000\n2|2|0|1",
	'all partitions are dense');

$node->stop;
done_testing();
