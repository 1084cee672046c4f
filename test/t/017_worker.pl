# What the worker does, what happens without it, and that neither it nor an
# open producer holds up a shutdown.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

# Batches of 100 records of 100 bytes, so that 64 kB are some hundred records.
my $clients = 8;
my $batches = 60;

sub produce_concurrently
{
	my ($node, $topic) = @_;

	$node->pgbench(
		"-n -c $clients -j 2 -t $batches", 0, [qr/number of transactions actually processed: @{[$clients * $batches]}/],
		[qr/^$/], "$clients clients produce to $topic",
		{
			"017_$topic" =>
			  "SELECT topics.produce_batch('$topic', array_fill(repeat('x', 100), '{100}'), partition => :client_id % 2);\n"
			  . "CALL topics.send('$topic', 'single', partition => :client_id % 2);"
		});
}

sub is_dense
{
	my ($node, $topic, $test_name) = @_;
	my $each = $clients / 2 * $batches * 101;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is( $node->safe_psql('postgres', qq{
			SELECT partition, count(*), count(DISTINCT "offset"), min("offset"), max("offset")
			FROM topic.$topic GROUP BY 1 ORDER BY 1}),
		join("\n", map { "$_|$each|$each|0|" . ($each - 1) } 0, 1), $test_name);
	is( $node->safe_psql('postgres', qq{
			SELECT count(*) FROM (SELECT r.offset, row_number() OVER () - 1 AS n
				FROM topics.fetch('$topic', 1, 0, 1000000, 1000000000) r) f WHERE "offset" <> n}),
		'0', '... by fetch too');
	# rows are where the bounds say
	my $id = $node->safe_psql('postgres', "SELECT topic_id FROM topics.topic WHERE topic = '$topic'");
	is( $node->safe_psql('postgres', qq{
			SELECT count(*) FROM topics.segment s WHERE topic = '$topic' AND log_end_offset - log_start_offset <>
				(SELECT count(*) FROM topic.$topic r WHERE r.partition = s.partition
					AND r.offset >= s.base_offset AND r.offset < s.end_offset)}),
		'0', '... and in each segment by its bounds');
	return $id;
}

# ----------------------------------------------------------------------
# With a worker: spares, rolls by size, sealed segments
# ----------------------------------------------------------------------

my $node = topics_node('main', conf => "max_connections = 100\npg_topics.worker_interval = '100ms'\nautovacuum = off\n");
wait_for_worker($node, 'postgres', 'the worker runs');
$node->safe_psql('postgres', q{SELECT topics.create_topic('size', 2, segment_bytes => 65536)});
produce_concurrently($node, 'size');
my $id = is_dense($node, 'size', 'dense');
ok( $node->poll_query_until('postgres', q{
		SELECT count(*) > 20 FROM topics.segment WHERE topic = 'size' AND state = 'sealed'}),
	'more than 20 segments were filled');
is( $node->safe_psql('postgres', q{SELECT count(*) FROM topics.segment WHERE topic = 'size' AND size_bytes > 4 * 65536}),
	'0', '... none much larger than segment_bytes');
ok( $node->poll_query_until('postgres', q{
		SELECT count(*) = 2 FROM topics.segment WHERE topic = 'size' AND state = 'spare'
			OR topic = 'size' AND state = 'active' AND log_end_offset < base_offset + (end_offset - base_offset) / 2}),
	'there is a spare where the active segment is half full');
ok( $node->poll_query_until('postgres', qq{
		SELECT count(*) = 0 FROM pg_class c
		JOIN topics.segment s ON c.relname LIKE 't${id}\\_p' || s.partition || '\\_s%' AND c.relkind = 'r'
			AND pg_get_expr(c.relpartbound, c.oid) = format('FOR VALUES FROM (%L) TO (%L)', base_offset, end_offset)
		WHERE s.topic = 'size' AND state = 'sealed'
			AND NOT EXISTS (SELECT FROM pg_index i JOIN pg_class b ON b.oid = i.indexrelid JOIN pg_am a ON a.oid = b.relam
				WHERE i.indrelid = c.oid AND a.amname = 'brin')}),
	'all sealed segments get their BRIN index');
is( $node->safe_psql('postgres', qq{
		SELECT count(*) FROM pg_class c WHERE relname LIKE 't${id}\\_p%\\_s%' AND relkind = 'r' AND relhasindex
			AND age(relfrozenxid) > 1000}),
	'0', '... and are frozen');
is( $node->safe_psql('postgres', qq{
		SELECT count(*) FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid
		JOIN topics.segment s ON c.relname LIKE 't${id}\\_p' || s.partition || '\\_s%'
			AND pg_get_expr(c.relpartbound, c.oid) = format('FOR VALUES FROM (%L) TO (%L)', base_offset, end_offset)
		WHERE s.topic = 'size' AND state <> 'sealed' AND c.relkind = 'r'}),
	'0', '... the others have none');

# By age, without anybody producing
$node->safe_psql('postgres', q{
	SELECT topics.create_topic('age', 1, segment_time => '1 ms');
	SELECT topics.create_topic('for_ever', 1, segment_time => '-1 ms');
	SELECT topics.produce('age', 'old'), topics.produce('for_ever', 'old')});
ok( $node->poll_query_until('postgres', q{
		SELECT count(*) = 1 FROM topics.segment WHERE topic = 'age' AND state = 'sealed' AND end_offset = 1}),
	'segment_time: an old segment is rolled');
is($node->safe_psql('postgres', q{CALL topics.send('age', 'new')}), '0|1', '... and records go on in the next one');
is($node->safe_psql('postgres', q{SELECT count(*) FROM topics.segment WHERE topic = 'for_ever' AND state = 'sealed'}), '0',
	'... but not where segment_time is negative');

# ----------------------------------------------------------------------
# Fast shutdown, with an open producer and 50 sessions
# ----------------------------------------------------------------------

my @sessions = map { Session->new($node) } 1 .. 50;
my $open = Session->new($node);
$open->value(q{BEGIN; SELECT topics.produce('size', 'never')});
my $postmaster = $node->{_pid};
my $end = time + 10;
system_or_bail('pg_ctl', '-W', '-D', $node->data_dir, '-m', 'fast', 'stop');
poll_until(sub { !is_running($postmaster) || time > $end });
ok(!is_running($postmaster), 'a fast shutdown takes less than 10 seconds');
ok($open->query('COMMIT')->{lost}, '... the open producer is gone');
@sessions = ();
poll_until(sub { !-e $node->data_dir . '/postmaster.pid' });
$node->{_pid} = undef;
$node->start;
is($node->safe_psql('postgres', q{SELECT count(*) FROM topic.size WHERE value = 'never'}), '0', '... and so is its record');
$node->stop;

# ----------------------------------------------------------------------
# Without: PostgreSQL's launcher and ours take all processes
# ----------------------------------------------------------------------

my $without = topics_node('without', conf => "max_worker_processes = 2\nmax_connections = 60\npg_topics.worker_interval = '100ms'\n");
my $hint = qr/HINT:  Increase max_worker_processes, or CALL topics\.maintain\(\) regularly/;
ok(poll_until(sub { slurp_file($without->logfile) =~ $hint }), 'max_worker_processes exhausted: a hint in the log');
$without->safe_psql('postgres', q{SELECT topics.create_topic('alone', 2, segment_bytes => 65536)});
produce_concurrently($without, 'alone');
is_dense($without, 'alone', '... producers attach segments themselves');
cmp_ok($without->safe_psql('postgres', q{SELECT count(*) FROM topics.segment WHERE topic = 'alone' AND log_end_offset > log_start_offset}),
	'>', 2, '... several');
for (1 .. 30)
{
	$without->safe_psql('postgres', q{
		SELECT topics.produce_batch('alone', array_fill(repeat('x', 100), '{800}'), partition => 0)});
	$without->safe_psql('postgres', q{CALL topics.maintain('alone')});
}
cmp_ok($without->safe_psql('postgres', q{SELECT count(*) FROM topics.segment WHERE topic = 'alone' AND partition = 0 AND state = 'sealed'}),
	'>', 20, '... maintain() rolls by size and seals');
is( $without->safe_psql('postgres', q{SELECT count(*) - max("offset") - 1 FROM topic.alone WHERE partition = 0}), '0',
	'... and all is dense');
my @hints = slurp_file($without->logfile) =~ /$hint/g;
is(scalar @hints, 1, '... the hint comes once');
$without->stop;
done_testing();
