# Real input through a cluster of three: a web server's access log by visitor, and
# status documents of which each is stored out of line, in transactions with both.
# Meanwhile a follower is killed, comes back, another one joins, the leader is
# killed, and a group consumes.  In the end all nodes have what the files have.
#
# PG_TOPICS_DATA names the directory; without it, ../shared/data beside the
# repository.

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

my $data = $ENV{PG_TOPICS_DATA} || "$FindBin::RealBin/../../../shared/data";
plan skip_all => "no access.log in $data (PG_TOPICS_DATA names its directory)"
  unless -r "$data/access.log";

my @visits = split /\n/, slurp_file("$data/access.log");
my @documents = split /\n/, slurp_file("$data/status.jsonl");
my %node = map { $_ => topics_node($_) } qw(a b c);
my ($a, $b, $c) = @node{ 'a', 'b', 'c' };
my $batches = 50;

sub add_node
{
	my ($name) = @_;

	return $a->safe_psql('postgres',
		"CALL topics.add_node('$name', \$\$" . $node{$name}->connstr('postgres') . '$$)');
}

# A batch of each file, in one transaction
sub produce_batch
{
	my ($batch) = @_;
	my @part = map {
		my $lines = $_;
		my $size = @$lines / $batches;
		my @rows =
		  map { "(\$line\$$_\$line\$)" } @$lines[ $batch * $size .. ($batch + 1) * $size - 1 ];
		join ', ', @rows;
	} \@visits, \@documents;

	$a->safe_psql(
		'postgres', qq{
		BEGIN;
		INSERT INTO topic.visits (key, value) SELECT split_part(line, ' ', 1), line FROM (VALUES $part[0]) v (line);
		INSERT INTO topic.status (value) SELECT line::jsonb FROM (VALUES $part[1]) v (line);
		COMMIT;});
	return;
}

# Consume all that there is, in the transaction that counts it
sub consume_all
{
	while (
		$a->safe_psql(
			'postgres', q{
			WITH taken AS (SELECT key FROM topics.consume('counters', 'visits', max_records => 700)),
				counted AS (INSERT INTO hits SELECT key, count(*) FROM taken GROUP BY key
					ON CONFLICT (visitor) DO UPDATE SET hits = hits.hits + excluded.hits)
			SELECT count(*) FROM taken}) > 0)
	{
	}
	return;
}

$a->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('visits', 6, segment_bytes => 131072);
	SELECT topics.create_topic('status', 2, value_type => 'jsonb');
	CREATE TABLE hits (visitor text PRIMARY KEY, hits bigint NOT NULL);});
$a->safe_psql('postgres',
	q{SELECT topics.create_cluster('a', $$} . $a->connstr('postgres') . '$$)');
add_node('b');
for my $batch (0 .. $batches - 1)
{
	produce_batch($batch);
	consume_all() if $batch % 10 == 9;
	if ($batch == 10)
	{
		# with one follower no commit would be acknowledged without it
		$a->safe_psql('postgres', q{SELECT topics.alter_cluster(acks_followers => 0)});
		$b->stop('immediate');
	}
	$b->start if $batch == 18;
	add_node('c') if $batch == 25;
	$a->safe_psql('postgres', q{SELECT topics.alter_cluster(acks_followers => NULL)})
	  if $batch == 26;
	$b->stop('immediate') if $batch == 32;
	$b->start if $batch == 38;
	if ($batch == 43)
	{
		$a->stop('immediate');
		$a->start;
	}
}
consume_all();
wait_for_replica($_, $a) for $b, $c;
is($a->safe_psql('postgres', 'SELECT acks_followers FROM topic_log.cluster'),
	1, 'one of two followers is waited for');
for my $name (sort keys %node)
{
	is( $node{$name}
		  ->safe_psql('postgres', 'SELECT value FROM topic.visits ORDER BY value COLLATE "C"'),
		join("\n", sort @visits),
		"$name: each line of the log, once");
	is( $node{$name}->safe_psql(
			'postgres', 'SELECT count(*), sum(hashtextextended(value::text, 0)) FROM topic.status'),
		$a->safe_psql(
			'postgres', 'SELECT count(*), sum(hashtextextended(value::text, 0)) FROM topic.status'),
		"$name: the documents");
	check_files($node{$name}, 'postgres', $name);
}
is($a->safe_psql('postgres', 'SELECT count(*) FROM topic.status'), scalar @documents,
	'all of them');
is( records_of($_, 'postgres', 'visits'),
	records_of($a, 'postgres', 'visits'),
	$_->name . ': record by record') for $b, $c;
my %hits;
$hits{ (split / /)[0] }++ for @visits;
is( $a->safe_psql('postgres', 'SELECT visitor, hits FROM hits ORDER BY visitor COLLATE "C"'),
	join("\n", map { "$_|$hits{$_}" } sort keys %hits),
	'the group has counted each line once');
is( $_->safe_psql(
		'postgres', q{SELECT sum(lag) FROM topics.consumer_lag WHERE group_id = 'counters'}),
	0,
	$_->name . ': no lag') for $a, $b, $c;

done_testing();
