# The server is killed, the step fails, is cancelled, or goes on, at every step
# of a commit, a roll, a new spare, a transaction that needs more room, a seal
# and a drop: nothing that was acknowledged is lost, a transaction is there
# wholly or not at all, no lock or unfinished segment is left, and what was
# begun is finished afterwards without anybody's help.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

# What makes somebody come to the points, and how many records it produces.
# Segments have room for 512 records, and the topic has 100.
my %operations = (
	commit => {
		sql => q{INSERT INTO topic.%s (value) SELECT 'new' FROM generate_series(1, 10)},
		records => 10,
		points => [qw(append-locked append-done commit-visible commit-published commit-durable)]
	},
	# there is no spare
	roll => {
		sql => q{CALL topics.roll_segment('%s')},
		points => [
			qw(cut-limited cut-bound bounds-visible bounds-committed cut-done segment-created segment-attached seal-frozen seal-indexed)
		]
	},
	# there is one
	'second roll' => {
		before =>
		  q{CALL topics.roll_segment('%s'); INSERT INTO topic.%s (value) SELECT 'old' FROM generate_series(1, 300)},
		records_before => 300,
		segments => 3,
		sql => q{CALL topics.roll_segment('%s')},
		points => [
			qw(cut-limited cut-bound bounds-visible bounds-committed cut-done gap-closed seal-frozen seal-indexed)
		]
	},
	# the worker comes for it; at bounds-visible readers wait for the new table's lock
	spare => {
		sql => q{INSERT INTO topic.%s (value) SELECT 'new' FROM generate_series(1, 300)},
		records => 300,
		points => [qw(segment-created segment-attached bounds-committed)]
	},
	# more than the segment has room for
	giant => {
		sql => q{INSERT INTO topic.%s (value) SELECT 'new' FROM generate_series(1, 2000)},
		records => 2000,
		points => [qw(end-raised bounds-visible bounds-committed)]
	},
	'giant before a spare' => {
		before => q{INSERT INTO topic.%s (value) SELECT 'old' FROM generate_series(1, 300)},
		records_before => 300,
		segments => 2,
		sql => q{INSERT INTO topic.%s (value) SELECT 'new' FROM generate_series(1, 2000)},
		records => 2000,
		points => [qw(spare-moved end-raised bounds-committed)]
	},
	drop => {
		sql => q{SELECT topics.drop_topic('%s')},
		drops => 1,
		points => [qw(topic-dropped topics-committed)]
	});

# past the commit record, where nothing can fail any more
my %committed = map { $_ => 1 }
  qw(commit-visible commit-published commit-durable bounds-visible bounds-committed topics-committed);

my $node =
  topics_node('main', points => 1, conf => "fsync = on\npg_topics.worker_interval = '1h'\n");
my ($actor, $reader, $neighbour);
my ($number, $topic_id) = (0);

sub connect_all
{
	($actor, $reader, $neighbour) = map { Session->new($node) } 1 .. 3;
	return;
}

sub first_row
{
	my ($session, $sql) = @_;
	my $result = $session->query_within($sql, 60);

	return 'no answer' unless $result;
	return $result->{sqlstate} || ($result->{rows}[0] // '');
}

# A new topic, as it is before the operation.  Its name and number of records.
sub prepare
{
	my ($operation) = @_;
	my $topic = 'topic' . ++$number;
	my $records = 100;

	$neighbour->value(
		qq{
		SELECT topics.create_topic('$topic', segment_bytes => 65536);
		INSERT INTO topic.$topic (value) SELECT 'old' FROM generate_series(1, 100)});
	# a worker that is on its round may have come by and made a spare
	return prepare($operation)
	  if $neighbour->value(qq{SELECT count(*) FROM topics.segment WHERE topic = '$topic'}) > 1;
	$topic_id = $neighbour->value("SELECT topic_id FROM topics.topic WHERE topic = '$topic'");
	if ($operation->{before})
	{
		$neighbour->value($_) for split /;/, $operation->{before} =~ s/%s/$topic/gr;
		$records += $operation->{records_before};
		ok( poll_until(
				sub {
					$neighbour->value(
						qq{SELECT count(*) FROM topics.segment WHERE topic = '$topic'}) >=
					  $operation->{segments};
				}),
			'... prepared, with a spare') or return;
	}
	return ($topic, $records);
}

# All is in order, and there is nothing left to be done.
sub check
{
	my ($topic, $what, @counts) = @_;
	my $count = first_row($neighbour, "SELECT count(*) FROM topic.$topic");

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok((grep { $_ eq $count } @counts), "$what: all or nothing, $count records");
	is( first_row(
			$neighbour, qq{
			SELECT min("offset"), max("offset"), count(DISTINCT "offset"), count(*) FILTER (WHERE value = 'old' AND "offset" >= $counts[0])
			FROM topic.$topic}),
		'0|' . ($count - 1) . "|$count|0",
		'... dense, those from before in front');
	is( first_row($neighbour, "SELECT log_end_offset FROM topics.partition WHERE topic = '$topic'"),
		$count,
		'... with that end');
	ok( poll_until(
			sub {
				first_row(
					$neighbour, qq{
			SELECT count(*) FILTER (WHERE base_offset <= $count AND end_offset > $count) = 1
				AND bool_and(base_offset = below OR below IS NULL)
				AND bool_and(indexed = (end_offset <= $count))
			FROM (
				SELECT base_offset, end_offset, lag(end_offset) OVER (ORDER BY base_offset) AS below,
					EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid) AS indexed
				FROM topics.topic t JOIN topics.segment s USING (topic)
				JOIN pg_class c ON c.relname LIKE 't' || topic_id || '\\_p0\\_s%'
					AND pg_get_expr(c.relpartbound, c.oid) LIKE '%FROM (''' || base_offset || ''') TO%'
				WHERE topic = '$topic') s}) eq 't';
			}),
		'... segments follow each other, full ones are sealed, one takes records');
	is(first_row($neighbour, "CALL topics.send('$topic', 'last')"), "0|$count",
		'... which it does');
	is( first_row(
			$neighbour,
			qq{SELECT count(*), max(r.offset) FROM topics.fetch('$topic', 0, 0, max_records => 10000) r}
		),
		($count + 1) . "|$count",
		'... and fetch has them');
	is(first_row($neighbour, qq{CALL topics.roll_segment('$topic')}), 'CALL', '... another roll');
	return is(
		first_row($neighbour, qq{CALL topics.send('$topic', 'in a new segment')}),
		'0|' . ($count + 1),
		'... works');
}

# Has the worker go round, for another topic's sake.
sub wake_worker
{
	$neighbour->value($_)
	  for q{CALL topics.send('neighbour', 'x')},
	  q{SELECT topics.delete_records('neighbour', 0, -1)};
	return;
}

# A step failed, or was cancelled, in a session or a worker.
sub check_interrupted
{
	my ($topic, $what, $operation, $point, $fate, $before, $all) = @_;
	my $result = $actor->receive(60) // { sqlstate => 'no answer' };
	my $failed = $result->{sqlstate} ne '';

	if ($fate eq 'fails')
	{
		like($result->{sqlstate}, qr/^(XX000)?$/,
			'... the operation does, or another process for it');
	}
	elsif ($operation->{records} && $committed{$point})
	{
		is($result->{sqlstate}, '', '... too late');
	}
	else { like($result->{sqlstate}, qr/^(57014)?$/, '... the operation is, or it was too late') }
	ok( poll_until(
			sub {
				first_row(
					$neighbour, qq{
			SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
			WHERE l.pid <> pg_backend_pid() AND (a.backend_type LIKE 'pg_topics%' OR a.backend_type = 'client backend')}
				) eq '0';
			}),
		'... no lock is left');
	is( first_row(
			$neighbour, q{
			SELECT count(*) FROM pg_class WHERE relnamespace = 'topic_log'::regnamespace AND relname ~ '_s\d+$' AND NOT relispartition}
		),
		'0',
		'... nor a segment half made');

	# what a failed worker has left undone waits for its next round
	wake_worker();
	$operation->{drops}
	  ? check_drop($topic, $what, !$failed, $before)
	  : check($topic, $what, $failed ? $before : $all);
	return is(first_row($actor, 'SELECT 1'), '1', '... its session goes on');
}

# A topic that was dropped, or not: either way wholly
sub check_drop
{
	my ($topic, $what, $must_be_gone, $count) = @_;
	my $gone =
	  first_row($neighbour, "SELECT count(*) FROM topics.topic WHERE topic = '$topic'") eq '0';

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($gone || !$must_be_gone, "$what: dropped, or as before the crash");
	return check($topic, $what, $count) unless $gone;
	is( first_row(
			$neighbour, qq{
			SELECT (SELECT count(*) FROM pg_class WHERE relnamespace IN ('topic_log'::regnamespace, 'topic'::regnamespace)
					AND (relname = '$topic' OR relname ~ '^t${topic_id}(_|\$)'))
				+ (SELECT count(*) FROM topic_log.topic WHERE topic_id = $topic_id)
				+ (SELECT count(*) FROM topic_log.partition WHERE topic_id = $topic_id)}),
		'0',
		'... nothing is left of it');
	return;
}

connect_all();
$neighbour->value(q{SELECT topics.create_topic('neighbour')});
$number = 1;
for my $name (sort keys %operations)
{
	my $operation = $operations{$name};

	for my $point (@{ $operation->{points} })
	{
		for my $fate ('goes on', $committed{$point} ? () : ('fails'), 'is cancelled', 'is killed')
		{
			my $what = "$name, at $point, $fate";
			my ($topic, $before) = prepare($operation) or last;
			my $all = $before + ($operation->{records} // 0);

			stop_at($node, $point);
			$actor->send($operation->{sql} =~ s/%s/$topic/gr);
			my $pid = wait_until_at($node, $point);
			ok($pid, "$what: somebody has come there") or last;

			# others do not care, but for a table that is being dropped
			unless ($operation->{drops})
			{
				my $seen = first_row($reader, "SELECT count(*) FROM topic.$topic");
				ok($seen eq $before || $seen eq $all, '... SELECT sees all or nothing');
				is( first_row(
						$reader,
						"SELECT count(*) FROM topics.fetch('$topic', 0, 0, max_records => $before)"
					),
					$before,
					'... fetch reads');
			}
			like(first_row($reader, q{CALL topics.send('neighbour', 'x')}),
				qr/^0\|\d+$/, '... another topic takes records');

			if ($fate eq 'goes on')
			{
				go_on_from($node, $point);
				my $result = $actor->receive(60);

				is($result ? $result->{sqlstate} : 'no answer', '', '... the operation succeeds');
				$operation->{drops}
				  ? check_drop($topic, $what, 1, $before)
				  : check($topic, $what, $all);
			}
			elsif ($fate eq 'fails')
			{
				fail_at($node, $point, $pid);
				check_interrupted($topic, $what, $operation, $point, $fate, $before, $all);
			}
			elsif ($fate eq 'is cancelled')
			{
				$neighbour->value("SELECT pg_cancel_backend($pid)");
				go_on_from($node, $point);
				check_interrupted($topic, $what, $operation, $point, $fate, $before, $all);
			}
			else
			{
				kill_server($node);
				my $answer = $actor->receive;
				my $acknowledged = grep { /^(INSERT|CALL)/ } @{ $answer->{rows} };

				$node->start;
				connect_all();
				$operation->{drops}
				  ? check_drop($topic, $what, 0, $before)
				  : check($topic, $what, $acknowledged ? $all : ($before, $all));
			}
		}
	}
}
$node->stop;
unlike(
	slurp_file($node->logfile),
	qr/PANIC|TRAP|was terminated by signal/,
	'nothing has crashed on its own');
done_testing();
