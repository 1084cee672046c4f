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

sub waits_for_lock
{
	my ($observer, $session) = @_;

	return $observer->value(
		qq{
		SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $session->{pid}}) eq 't';
}

# 2 are taken: by PostgreSQL's launcher and ours; so our worker has none either
for my $processes (8, 2)
{
	my $node = topics_node("processes_$processes",
		conf => "max_worker_processes = $processes\npg_topics.worker_interval = '1h'\n");
	wait_for_worker($node, 'postgres', "max_worker_processes = $processes: the worker runs")
	  if $processes > 2;
	my ($tail, $between, $roller, $one, $two, $observer) = map { Session->new($node) } 1 .. 6;

	$observer->value(
		q{
		SELECT topics.create_topic('t', 2);
		SELECT topics.produce('t', 'first', partition => p) FROM generate_series(0, 1) p});

	# The first transaction waits for the active segment, with the partition locked, for
	# which we stand in line: so we have it when the first transaction ends.
	$tail->value('BEGIN; LOCK TABLE topic_log.t1_p0_s1 IN SHARE UPDATE EXCLUSIVE MODE');
	$roller->send(q{CALL topics.roll_segment('t', 0)});
	ok(poll_until(sub { waits_for_lock($observer, $roller) }),
		'a roll waits for the active segment');
	$between->send('BEGIN; LOCK TABLE topic_log.t1_p0 IN SHARE UPDATE EXCLUSIVE MODE');
	ok(poll_until(sub { waits_for_lock($observer, $between) }), '... somebody waits for the roll');
	$tail->value('COMMIT');
	is($between->receive->{sqlstate}, '', '... and is there between its two transactions');
	ok(poll_until(sub { waits_for_lock($observer, $roller) }),
		'... of which the second one now waits');
	$observer->value("SELECT pg_cancel_backend($roller->{pid})");
	is($roller->receive->{sqlstate}, '57014', '... and is cancelled');
	$between->value('COMMIT');

	# one partition, and one of two
	$one->send(q{CALL topics.send('t', 'second', partition => 0)});
	$two->send(
		q{
		BEGIN;
		SELECT topics.produce('t', 'third', partition => 1);
		SELECT topics.produce('t', 'third', partition => 0);
		COMMIT});
	my @answers = map { $_->receive(30) } $one, $two;

	is_deeply(
		[ map { $_ ? $_->{sqlstate} : 'no answer' } @answers ],
		[ '', '' ],
		'... two producers complete it') or last;
	is( $observer->value(
			q{
			SELECT partition, count(*), min("offset"), max("offset") FROM topic.t GROUP BY 1 ORDER BY 1}),
		"0|3|0|2\n1|2|0|1",
		'... and all records are there');
	is( $observer->value(
			q{SELECT count(*) FROM topics.segment WHERE partition = 0 AND log_end_offset > log_start_offset}
		),
		'2',
		'... in two segments');
	$roller->value(q{CALL topics.roll_segment('t', 0)});
	is_deeply($one->query(q{CALL topics.send('t', 'fourth', partition => 0)})->{rows},
		['0|3'], '... and the next roll works');
	$node->stop;
}
done_testing();
