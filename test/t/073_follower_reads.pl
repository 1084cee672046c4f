# What readers of a follower see of the leader's transactions: of each all records
# or none, at every moment, whatever happens to the follower meanwhile.
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

my $conf =
  "pg_topics.worker_interval = '1 s'\nmax_worker_processes = 20\nmax_connections = 40\npg_topics.max_partitions = 4000\nmax_locks_per_transaction = 500\n";
my %node = map { $_ => topics_node($_, conf => $conf, points => 1) } qw(a b c);
my ($a, $b, $c) = @node{ 'a', 'b', 'c' };
my $leader = Session->new($a);

# 100,000 records of 1 kB in 20 partitions: a cut of 25 responses
my $records = 100_000;
my $giant =
  qq{SELECT count(topics.produce('giant', repeat(chr(97 + i % 26), 1000), partition => i % 20)) FROM generate_series(1, $records) i};

$leader->value(
	q{
	SELECT topics.create_topic('giant', 20); SELECT topics.create_topic('left', 2);
	SELECT topics.create_topic('right', 3); SELECT topics.create_topic('broad', 1000)});
$leader->value("SELECT topics.create_cluster('a', \$\$" . $a->connstr('postgres') . '$$)');
$leader->value("CALL topics.add_node('$_', \$\$" . $node{$_}->connstr('postgres') . '$$)')
  for qw(b c);

# All of it in one snapshot: by scans, and, which is faster, by the ends of the logs
my $counts = q{SELECT (SELECT count(*) FROM topic.giant), (SELECT count(*) FROM topic.left),
	(SELECT count(*) FROM topic.right), (SELECT sum("offset") FROM topics.list_offsets('broad', 'latest'))};
my $ends = 'SELECT ' . join ', ',
  map { qq{(SELECT sum("offset") FROM topics.list_offsets('$_', 'latest'))} }
  qw(giant left right broad);
my (@torn, %reader);

# What is torn in a row: a transaction that is seen in part.
sub check_row
{
	my ($how, $row) = @_;

	return unless $row =~ /^(\d+)\|(\d+)\|(\d+)\|(\d+)$/;
	push @torn, "$how: $row" if $1 % $records || $2 != $3 || $4 % 1000;
	return;
}

# Reads on a node in one snapshot; false if it was away.  Its session is made anew then.
sub look
{
	my ($node, $query) = @_;
	my $name = $node->name;
	my $session = $reader{$name} //= Session->new($node) // return 0;
	my $result =
	  $session->query("$query; BEGIN ISOLATION LEVEL REPEATABLE READ; $query; $query; COMMIT");
	my @rows = grep { /\|/ } @{ $result->{rows} };

	check_row($name, $_) for @rows;
	push @torn, "$name: two in one snapshot: @rows[1, 2]" if @rows == 3 && $rows[1] ne $rows[2];
	delete $reader{$name} if $result->{lost} || $result->{sqlstate};
	return @rows == 3 ? $rows[2] : 0;
}

# Looks at followers again and again until they have all, and passes if nothing was
# torn; "between" is called before each look.
sub looks_until
{
	my ($test_name, $expected, $between) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	my $looks = 0;
	my @behind = ($b, $c);

	while (@behind)
	{
		if (time > $deadline)
		{
			fail("$test_name: all comes");
			last;
		}
		$between->() if $between;
		@behind = grep { look($_, $looks % 20 == 19 ? $counts : $ends) ne $expected } $b, $c;
		$looks++;
	}
	is(join("\n", splice @torn), '', "$test_name: all or nothing, in $looks looks");
	is(look($_, $counts), $expected, '... and then all, on ' . $_->name) for $b, $c;
	return;
}

# How many bytes of the topics a node has, seen or not
sub bytes_on
{
	my ($node) = @_;

	return $node->safe_psql('postgres',
		q{SELECT sum(pg_relation_size(oid)) FROM pg_class WHERE relname LIKE 't%\_p%\_s%' AND relkind = 'r'}
	);
}

# ----------------------------------------------------------------------
# While a giant transaction comes
# ----------------------------------------------------------------------

my $producer = Session->new($a);
my ($giants, $pairs, $broads) = (0, 0, 0);

sub total { return join '|', $giants * $records, $pairs, $pairs, $broads * 1000; }

# c is killed in the middle of it, when it has some of the records and not all
for my $mode (qw(none immediate))
{
	my $before = bytes_on($c);
	my $killed = $mode eq 'none';

	$producer->send($giant);
	$giants++;
	looks_until(
		"a giant transaction, c is stopped: $mode",
		total(),
		sub {
			return if $killed || bytes_on($c) < $before + 20_000_000;
			$c->stop($mode);
			$c->start;
			$killed = 1;
		});
	ok($killed, '... in the middle');
	$producer->receive;
}
is($leader->value($counts), total(), 'the leader shows all');

# c was away while others came
$c->stop;
$leader->value($giant);
$giants++;
$leader->value(
	q{SELECT topics.produce('broad', i::text, partition => i % 1000) FROM generate_series(1, 1000) i}
);
$broads++;
$c->start;
looks_until('c catches up', total());

# c is killed in work on all, and then in work on one partition: neither waits, for
# what is committed with it is there
my $log_end = -s $c->logfile;
stop_at($c, 'append-done');
$leader->value(
	q{SELECT topics.produce('broad', i::text, partition => i % 1000) FROM generate_series(1, 1000) i}
);
$broads++;
for my $time (1 .. 2)
{
	wait_until_at($c, 'append-done') or die 'the replicator does not stop';
	$c->stop('immediate');
	$time == 1 ? stop_at($c, 'append-done') : go_on_from($c, 'append-done');
	$c->start;
}
looks_until('c goes on', total());
is( join("\n",
		slurp_file($c->logfile, $log_end) =~ /tried again in (.* s)\n.*step "fetch" for (\w+)/g),
	"0 s\nall\n0 s\npartition",
	'... at once');

# A snapshot from the middle of it, with which topics are read when it is complete
my $before = bytes_on($c);
my %old = map { $_ => Session->new($c) } ('REPEATABLE READ', 'SERIALIZABLE', 'cursor');

$producer->send($giant);
poll_until(sub { bytes_on($c) > $before + 20_000_000 }) or die;
stop_at($c, 'replica-appended');
wait_until_at($c, 'replica-appended') or die 'the replicator does not stop';
$old{$_}->value("BEGIN ISOLATION LEVEL $_; SELECT count(*) FROM pg_class")
  for 'REPEATABLE READ', 'SERIALIZABLE';
$old{cursor}->value("BEGIN; DECLARE c CURSOR FOR $counts");
cmp_ok(bytes_on($c), '<', $before + 100_000_000, 'c has some of it');
is(look($c, $ends), total(), '... and shows nothing');
go_on_from($c, 'replica-appended');
$giants++;
looks_until('it is completed', total());
$producer->receive;
my $whole = join '|', map { $_ * $records } $giants - 1, $giants;

for my $how (sort keys %old)
{
	my $result = $old{$how}->query($how eq 'cursor' ? 'FETCH c' : $counts);

	like($result->{sqlstate} || $result->{rows}[0],
		qr/^(?:40001|($whole)\|.*)$/,
		"a snapshot from the middle sees all or nothing, or is refused: $how");
}
undef %old;

# ----------------------------------------------------------------------
# A transaction that has read, and stays
# ----------------------------------------------------------------------

my $open = Session->new($b);
$open->value('BEGIN; SELECT count(*) FROM topic.left');
$leader->value(
	q{SELECT topics.add_partitions('left', 4), topics.alter_topic('left', max_message_bytes => 12345)}
);
ok( poll_until(
		sub {
			$b->safe_psql('postgres',
				q{SELECT partitions, max_message_bytes FROM topics.topic WHERE topic = 'left'}) eq
			  '4|12345';
		}),
	'readers of a follower are not in the way of new partitions and settings');
undef $open;

# ----------------------------------------------------------------------
# What expires between the leader's cut and its response
# ----------------------------------------------------------------------

$leader->value(
	q{SELECT topics.create_topic('expiring', segment_bytes => 65536); SELECT topics.produce('expiring', 'x') FROM generate_series(1, 5)}
);
$c->poll_query_until('postgres', q{SELECT count(*) = 5 FROM topic.expiring}) or die;
$c->stop;
for (1 .. 6)
{
	$leader->value(
		q{SELECT count(topics.produce('expiring', repeat('x', 500))) FROM generate_series(1, 100)});
	$leader->value(q{CALL topics.roll_segment('expiring', 0)});
}
stop_at($a, 'replica-first-cut');
$c->start;
wait_until_at($a, 'replica-first-cut') or die 'no session begins';
$leader->value(q{SELECT topics.delete_records('expiring', 0, 505)});
$leader->value(q{CALL topics.maintain('expiring')});
ok( poll_until(
		sub {
			$leader->value(q{SELECT min(base_offset) FROM topics.segment WHERE topic = 'expiring'})
			  == 505;
		}),
	'segments are dropped that are in the cut of a follower');
stop_at($c, 'replica-appended');
go_on_from($a, 'replica-first-cut');
my $place = '5|0';
for (
	my $pid = wait_until_at($c, 'replica-appended');
	$pid && $place eq '5|0';
	$pid = stop_again_at($c, 'replica-appended', $pid))
{
	$place = $c->safe_psql('postgres',
		q{SELECT r.log_end_offset, p.log_start_offset FROM topics.replica r JOIN topics.partition p USING (topic, partition) WHERE topic = 'expiring' AND node = 'c'}
	);
}
go_on_from($c, 'replica-appended');
is($place, '605|505', '... whose log does not go on behind a gap');

# ----------------------------------------------------------------------
# Very many partitions, and two topics
# ----------------------------------------------------------------------

for (1 .. 3)
{
	$producer->send(
		q{SELECT count(topics.produce('broad', repeat('x', 5000), partition => i % 1000)) FROM generate_series(1, 1000) i}
	);
	$broads++;
	looks_until('1,000 partitions', total());
	$producer->receive;
}

# Transactions that write as many records to the one topic as to the other, some of
# them in subtransactions that are undone
for my $round (1 .. 3)
{
	my $stopped = 0;
	my $session = Session->new($a);

	$session->send(
		q{DO $$BEGIN FOR i IN 1..700 LOOP
		PERFORM topics.produce('left', i::text) FROM generate_series(1, i % 7);
		BEGIN PERFORM topics.produce('left', 'undone'); RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN NULL; END;
		PERFORM topics.produce('right', i::text) FROM generate_series(1, i % 7);
		COMMIT; END LOOP; END$$});
	$pairs += 2100;
	looks_until(
		'two topics',
		total(),
		sub {
			return if $round == 1 || $stopped++;
			my $node = $round == 2 ? $b : $c;
			$node->stop('immediate');
			$node->start;
		});
	is($session->receive->{rows}[-1], 'DO', '... acknowledged');
}
is( $_->safe_psql('postgres', 'SELECT count(*), count(DISTINCT partition) FROM topic.broad'),
	$broads * 1000 . '|1000',
	'all records of 1,000 partitions on ' . $_->name) for $b, $c;
is(scalar $_->log_contains('PANIC|TRAP|terminated by signal'), '', 'no crash of ' . $_->name)
  for values %node;

done_testing();
