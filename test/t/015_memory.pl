# A transaction of 1,000,000 records, by any way in, needs work_mem and a
# fixed amount of memory, and keeps the order; so does one into 1,000 partitions.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

plan skip_all => 'needs /proc/<pid>/status' unless -r '/proc/self/status';

my $records = 1_000_000;

# What is buffered must not hide in the buffer cache.  64 locks are the default up
# to PostgreSQL 18, and 19 has more.
my $node = topics_node(
	'main',
	conf => q{
	shared_buffers = 16MB
	work_mem = 4MB
	max_wal_size = 2GB
	max_locks_per_transaction = 64
});
$node->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('one'); SELECT topics.create_topic('four', 4); SELECT topics.create_topic('wide', 1000)}
);

# Memory of a backend that it has had at most, less what it shares, in kB
sub private_peak
{
	my ($session) = @_;
	my $status = slurp_file("/proc/$session->{pid}/status");
	my ($peak) = $status =~ /^VmHWM:\s+(\d+) kB/m;
	my ($shared) = $status =~ /^RssShmem:\s+(\d+) kB/m;
	my ($files) = $status =~ /^RssFile:\s+(\d+) kB/m;

	return $peak - $shared - $files;
}

# In a new session: how much more memory "sql" takes than that which comes first
sub growth
{
	my ($sql) = @_;
	my $session = Session->new($node);

	$session->value(
		q{BEGIN; SELECT topics.produce('one', 'x'); SELECT count(*) FROM topic.one; ROLLBACK});
	my $before = private_peak($session);
	my $result = $session->query($sql);
	die $result->{text} if $result->{sqlstate};
	return private_peak($session) - $before;
}

sub is_in_order
{
	my ($topic, $partition, $step, $expected, $test_name) = @_;

	is( $node->safe_psql(
			'postgres', qq{
			SELECT count(*), count(*) FILTER (WHERE value::bigint <> (r.offset - first) * $step + $partition)
			FROM topic.$topic r, (SELECT max("offset") - $expected + 1 AS first FROM topic.$topic WHERE partition = $partition) f
			WHERE partition = $partition AND r.offset >= first}),
		"$expected|0",
		$test_name);
}

my $file = $node->basedir . '/records';
open my $data, '>', $file or die "could not open $file: $!";
print $data "$_\n" for 0 .. $records - 1;
close $data;

my $last = $records - 1;
my %ways = (
	'INSERT .. SELECT' =>
	  "INSERT INTO topic.one (value) SELECT g::text FROM generate_series(0, $last) g",
	'COPY' => "COPY topic.one (value) FROM '$file'",
	'produce' => "SELECT count(topics.produce('one', g::text)) FROM generate_series(0, $last) g",
	'produce_batch, 1000 at a time' => qq{
		DO \$\$ BEGIN FOR i IN 0 .. $records / 1000 - 1 LOOP
			PERFORM topics.produce_batch('one', (SELECT array_agg(g::text ORDER BY g) FROM generate_series(i * 1000, i * 1000 + 999) g));
		END LOOP; END \$\$},
	'produce with a savepoint each' => qq{
		DO \$\$ BEGIN FOR i IN 0 .. 99999 LOOP
			BEGIN
				PERFORM topics.produce('one', i::text);
				IF i % 10 = 5 THEN PERFORM topics.produce('one', 'undone'); RAISE division_by_zero; END IF;
			EXCEPTION WHEN division_by_zero THEN PERFORM topics.produce('one', i::text);
			END;
		END LOOP; END \$\$});
for my $way (sort keys %ways)
{
	my $count = $way =~ /savepoint/ ? 100_000 : $records;
	my $growth = growth($ways{$way});

	# a million tuples alone have 60 MB
	cmp_ok($growth, '<', 40 * 1024, "$count records by $way: $growth kB");
	is_in_order('one', 0, 1, $count, '... in order');
}

my $growth = growth(
	"INSERT INTO topic.four (value, partition) SELECT g::text, g % 4 FROM generate_series(0, $last) g"
);
cmp_ok($growth, '<', 40 * 1024, "$records records to four partitions: $growth kB");
is_in_order('four', $_, 4, $records / 4, "... in order in partition $_") for 0 .. 3;

$growth = growth(
	q{INSERT INTO topic.wide (value, partition) SELECT g::text, g % 1000 FROM generate_series(0, 99999) g}
);
# most of it are PostgreSQL's caches; assertions make them larger
my $limit = 120 * 1024;
$limit *= 3 if $node->safe_psql('postgres', 'SHOW debug_assertions') eq 'on';
cmp_ok($growth, '<', $limit, "100000 records to 1000 partitions: $growth kB");
is( $node->safe_psql(
		'postgres', q{
		SELECT count(*) FROM (
			SELECT partition, count(*), max("offset"), bool_and(value::int = "offset" * 1000 + partition) AS ordered
			FROM topic.wide GROUP BY 1) p
		WHERE count = 100 AND max = 99 AND ordered}),
	'1000',
	'... in order in each');

ok($node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_ls_tmpdir()'),
	'no temporary file is left');
$node->stop;
done_testing();
