# A roll that ends between its two transactions: the producers complete it,
# with a background worker to help them and with none.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

# 3 are taken: by PostgreSQL's launcher, ours, and our worker
for my $processes (8, 3)
{
	my $node = topics_node("processes_$processes",
		conf => "max_worker_processes = $processes\npg_topics.worker_interval = '1h'\n");
	wait_for_worker($node, 'postgres', "max_worker_processes = $processes: the worker runs");
	my ($stopped, $roller, $one, $two, $observer) = map { Session->new($node) } 1 .. 5;

	$observer->value(q{
		SELECT topics.create_topic('t', 2);
		SELECT topics.produce('t', 'first', partition => p) FROM generate_series(0, 1) p});

	# the second transaction waits for all processes
	signal_backend('STOP', $stopped->{pid});
	$roller->send(q{CALL topics.roll_segment('t', 0)});
	ok( poll_until(
			sub {
				$observer->value(qq{
					SELECT wait_event LIKE 'ProcSignalBarrier%' FROM pg_stat_activity
					WHERE pid = $roller->{pid}}) eq 't';
			}),
		'a roll is between its two transactions');
	$observer->value("SELECT pg_cancel_backend($roller->{pid})");
	is($roller->receive->{sqlstate}, '57014', '... and is cancelled');
	signal_backend('CONT', $stopped->{pid});

	# one partition, and one of two
	$one->send(q{CALL topics.send('t', 'second', partition => 0)});
	$two->send(q{
		BEGIN;
		SELECT topics.produce('t', 'third', partition => 1);
		SELECT topics.produce('t', 'third', partition => 0);
		COMMIT});
	my @answers = map { $_->receive(30) } $one, $two;

	is_deeply([ map { $_ ? $_->{sqlstate} : 'no answer' } @answers ], [ '', '' ], '... two producers complete it')
	  or last;
	is( $observer->value(q{
			SELECT partition, count(*), min("offset"), max("offset") FROM topic.t GROUP BY 1 ORDER BY 1}),
		"0|3|0|2\n1|2|0|1",
		'... and all records are there');
	is($observer->value(q{SELECT count(*) FROM topics.segment WHERE partition = 0 AND log_end_offset > log_start_offset}),
		'2', '... in two segments');
	$roller->value(q{CALL topics.roll_segment('t', 0)});
	is_deeply($one->query(q{CALL topics.send('t', 'fourth', partition => 0)})->{rows}, ['0|3'],
		'... and the next roll works');
	$node->stop;
}
done_testing();
