# Compaction on whole servers: real input, of which the last request of each
# visitor stays; under load and kill -9, at any moment, it loses nothing and is
# finished afterwards; a compacted log survives dump, restore and a standby.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Topics;
use TopicState;

my $node = topics_node(
	'main',
	init => { allows_streaming => 1 },
	conf => "pg_topics.worker_interval = '100ms'\nautovacuum = off\n");
my $temporary = PostgreSQL::Test::Utils::tempdir;

sub wait_until_clean
{
	my ($where, $topic, $name) = @_;

	return ok(
		$where->poll_query_until(
			'postgres', qq{
		SELECT bool_and(clean_offset = (SELECT max(end_offset) FROM topics.segment s WHERE s.topic = t.topic AND s.partition = p.partition AND s.state = 'sealed'))
		FROM topic_log.partition p JOIN topics.topic t USING (topic_id) WHERE t.topic = '$topic'}),
		$name);
}

# ----------------------------------------------------------------------
# The last request of each visitor
# ----------------------------------------------------------------------

my $data = $ENV{PG_TOPICS_DATA} || "$FindBin::RealBin/../../../shared/data";

SKIP:
{
	skip "no access.log in $data (PG_TOPICS_DATA names its directory)", 5
	  unless -r "$data/access.log";

	open my $handle, '<:raw', "$data/access.log" or die "$data/access.log: $!";
	my @lines = <$handle>;
	chomp @lines;
	close $handle;
	append_to_file(
		"$temporary/access.copy",
		join(
			'',
			map {
				my ($visitor) = split / /;
				my $value = s/([\\\t])/"\\" . ($1 eq "\t" ? 't' : $1)/ger;
				"$visitor\t$value\n"
			} @lines));

	$node->safe_psql(
		'postgres', qq{
		SELECT topics.create_topic('visitor', 2, cleanup_policy => 'compact', segment_bytes => 262144, min_cleanable_dirty_ratio => 0.01);
		CREATE TABLE original (number serial, key text, value text);
		\\copy original (key, value) FROM '$temporary/access.copy'});
	for (my $from = 1; $from <= @lines; $from += 1000)
	{
		$node->safe_psql('postgres',
			"INSERT INTO topic.visitor (key, value) SELECT key, value FROM original WHERE number BETWEEN $from AND $from + 999 ORDER BY number"
		);
	}
	my $expected = $node->safe_psql('postgres',
		'SELECT DISTINCT ON (key) key, value FROM original ORDER BY key, number DESC');
	is( $node->safe_psql(
			'postgres', q{SELECT key, value FROM topics.latest('visitor') ORDER BY key}),
		$expected,
		'latest() is the last request of each visitor, before');
	$node->safe_psql('postgres', q{CALL topics.roll_segment('visitor')});
	wait_until_clean($node, 'visitor', 'the worker compacts');
	is($node->safe_psql('postgres', 'SELECT key, value FROM topic.visitor ORDER BY key'),
		$expected, 'what is left is the last request of each visitor');
	is( $node->safe_psql(
			'postgres', q{SELECT key, value FROM topics.latest('visitor') ORDER BY key}),
		$expected,
		'and so is latest()');
	is( $node->safe_psql('postgres',
			q{SELECT count(*) FROM topics.segment WHERE topic = 'visitor' AND state = 'sealed' AND size_bytes < 131072}
		) <= 2,
		1,
		'few segments are small');
}

# ----------------------------------------------------------------------
# kill -9
# ----------------------------------------------------------------------

$node->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('state', 1, cleanup_policy => 'compact', segment_bytes => 131072, min_cleanable_dirty_ratio => 0);
	CREATE TABLE expected ("offset" bigint PRIMARY KEY, key text, value text);
	CREATE PROCEDURE more(n int, seed int) LANGUAGE plpgsql AS $$
	DECLARE p record;
	BEGIN
		FOR i IN 1 .. n LOOP
			PERFORM topics.produce('state', CASE WHEN (i + j) % 11 = 0 THEN NULL ELSE seed || ' ' || i || ' ' || j || repeat('x', 100) END, 'k' || (i * 37 + j * 101 + seed) % 500) FROM generate_series(1, 100) j;
			COMMIT;
		END LOOP;
		INSERT INTO expected SELECT r.offset, key, value FROM topic.state r WHERE r.offset > coalesce((SELECT max(e.offset) FROM expected e), -1);
	END $$;});
for my $round (1 .. 5)
{
	# what is compacted while this runs is not noted: no key's latest record is among it
	$node->safe_psql('postgres', "CALL more(40, $round)");
	$node->safe_psql('postgres', q{CALL topics.roll_segment('state')});
	# from a moment when the worker is at it, or has been
	$node->poll_query_until('postgres',
		q{SELECT next_offset_floor > 0 FROM topic_log.partition p JOIN topics.topic t USING (topic_id) WHERE t.topic = 'state'}
	);
	my $produced = $node->safe_psql('postgres',
		q{SELECT log_end_offset FROM topics.partition WHERE topic = 'state'});
	kill_and_start($node);
	is( $node->safe_psql(
			'postgres', q{SELECT log_end_offset FROM topics.partition WHERE topic = 'state'}),
		$produced,
		"round $round: the log ends where it did");
	wait_for_worker($node, 'postgres', "round $round: the worker is back");
	wait_until_clean($node, 'state', "round $round: what was begun is finished");
	is( $node->safe_psql(
			'postgres', q{
		SELECT count(*) FROM (SELECT * FROM (SELECT DISTINCT ON (key) "offset", key, value FROM expected ORDER BY key, "offset" DESC) e WHERE value IS NOT NULL) e
		FULL JOIN topics.latest('state') l USING ("offset", key, value) WHERE e.* IS NULL OR l.* IS NULL}
		),
		'0',
		"round $round: no key has lost its latest record");
	is( $node->safe_psql(
			'postgres',
			q{SELECT count(*) FROM topic.state r WHERE NOT EXISTS (SELECT FROM expected e WHERE e.offset = r.offset AND e.key = r.key AND e.value IS NOT DISTINCT FROM r.value)}
		),
		'0',
		"round $round: each record has its place and value");
	is($node->safe_psql('postgres', q{SELECT count(*) - count(DISTINCT key) FROM topic.state}),
		'0', "round $round: each key is there once");
}
is( $node->safe_psql(
		'postgres',
		q{SELECT count(*) FROM pg_class WHERE relname LIKE 'pg_temp_%' AND relkind = 'r'}),
	'0',
	'no half-made table stays');

# ----------------------------------------------------------------------
# It survives
# ----------------------------------------------------------------------

# the last records are tombstones, and go: the end stays
$node->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('gone', cleanup_policy => 'compact', min_cleanable_dirty_ratio => 0, delete_retention_time => '0');
	SELECT topics.produce('gone', 'x', 'kept'), topics.produce('gone', 'x', 'key'), topics.produce('gone', NULL, 'key');
	CALL topics.roll_segment('gone');});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM topic.gone}),
	'a tombstone at the end goes');

my $everything = q{
	SELECT topic, partition, log_start_offset, log_end_offset FROM topics.partition WHERE topic <> '__consumer_offsets' ORDER BY 1, 2;
	SELECT 'gone', r.offset, key, value FROM topic.gone r UNION ALL SELECT 'state', r.offset, key, md5(value) FROM topic.state r ORDER BY 1, 2;
	SELECT count(*) FROM topics.fetch('state', 0, 0, 100000, 100000000);};
my $before = $node->safe_psql('postgres', $everything);
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('flush'));
is($standby->safe_psql('postgres', $everything), $before, 'a standby shows the same');
$standby->stop;
kill_and_start($node);
is($node->safe_psql('postgres', $everything), $before, 'after kill -9 the same');

my $target = topics_node('target', extension => 0, conf => "pg_topics.worker_interval = '100ms'\n");
command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('postgres'), '-f', "$temporary/dump" ],
	'pg_dump');
command_ok(
	[
		'pg_restore', '--exit-on-error', '-j', '2', '-d', $target->connstr('postgres'),
		"$temporary/dump"
	],
	'pg_restore');
is($target->safe_psql('postgres', $everything), $before, 'restored the same');

for my $where ($node, $target)
{
	is($where->safe_psql('postgres', q{CALL topics.send('gone', 'y', 'key')}),
		'0|3', 'the next offset is the next, on ' . $where->name);
}
$target->safe_psql('postgres', q{CALL more(20, 6); CALL topics.roll_segment('state');});
wait_until_clean($target, 'state', 'compaction goes on where it was restored');
is($target->safe_psql('postgres', q{SELECT count(*) - count(DISTINCT key) FROM topic.state}),
	'0', 'each key is there once');

done_testing();
