# 24 writers, of single records, batches, several partitions and savepoints,
# with rollbacks, beside readers: in every snapshot of every isolation level
# each partition is a dense prefix, each transaction is there as a whole or
# not at all, its records of a partition stand together, those of a session in
# the order of their production, and nothing ever changes below a former end.
#
# A record's value is writer:transaction:number, the last one counting per
# partition.  Writers say in a table, in the same transaction, how many records
# they produced: so a snapshot of both shows whether they agree.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use POSIX qw(WNOHANG);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

my $writers = 24;
my $transactions = $ENV{PG_TOPICS_LONG} ? 2000 : 150;

# Small segments: the readers also meet rolls.
my $node =
  topics_node('main', conf => "max_connections = 60\npg_topics.worker_interval = '100ms'\n");
$node->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('load', 4, segment_bytes => 262144);
	CREATE TABLE committed (writer int, tx int, records int);

	CREATE FUNCTION tags(writer int, tx int, first int, last int) RETURNS text[]
	RETURN (SELECT array_agg(format('%s:%s:%s', writer, tx, n) ORDER BY n) FROM generate_series(first, last) n);

	-- All that is wrong in one snapshot, a line each; none is expected.
	CREATE FUNCTION wrong() RETURNS SETOF text LANGUAGE sql STABLE AS $$
	WITH record AS MATERIALIZED (
		SELECT partition, "offset" AS place, tag[1]::int AS writer, tag[2]::int AS tx, tag[3] AS number
		FROM (SELECT *, string_to_array(value, ':') AS tag FROM topic.load) r),
	part AS (
		SELECT partition, writer, tx, count(*) AS records, min(place) AS first, max(place) AS last,
			count(DISTINCT place - CASE WHEN number ~ '^\d+$' THEN number::bigint END) AS runs
		FROM record GROUP BY 1, 2, 3)
	SELECT format('partition %s: %s records, offsets %s to %s, %s different', partition, count(*),
		min(place), max(place), count(DISTINCT place))
	FROM record GROUP BY partition
	HAVING min(place) <> 0 OR count(*) <> max(place) + 1 OR count(DISTINCT place) <> count(*)
	UNION ALL
	SELECT format('rolled back: %s:%s:%s', writer, tx, number) FROM record WHERE number !~ '^\d+$'
	UNION ALL
	SELECT format('%s:%s has %s records in the topic and %s in the table', writer, tx, t.records, c.records)
	FROM (SELECT writer, tx, sum(records)::int AS records FROM part GROUP BY 1, 2) t
		FULL JOIN committed c USING (writer, tx)
	WHERE t.records IS DISTINCT FROM c.records
	UNION ALL
	SELECT format('%s:%s is torn or in disorder in partition %s', writer, tx, partition) FROM part
	WHERE last - first + 1 <> records OR runs <> 1
	UNION ALL
	SELECT format('%s:%s comes after a later one in partition %s', writer, tx, partition)
	FROM (SELECT *, lag(last) OVER (PARTITION BY partition, writer ORDER BY tx) AS before FROM part) p
	WHERE before > first
	$$;

	-- What one saw, to be seen again: of each partition its end, and a digest
	-- of all below a former end.
	CREATE FUNCTION ends() RETURNS text LANGUAGE sql STABLE AS $$
	SELECT string_agg(partition || '=' || count, ' ' ORDER BY partition)
	FROM (SELECT partition, count(*) FROM topic.load GROUP BY 1) p
	$$;
	CREATE FUNCTION digest(ends text) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT md5(string_agg(value, ' ' ORDER BY r.partition, "offset"))
	FROM topic.load r JOIN (SELECT split_part(e, '=', 1)::int, split_part(e, '=', 2)::bigint
		FROM string_to_table(ends, ' ') e) AS p (partition, finish)
		ON r.partition = p.partition AND r.offset < finish
	$$});

# ----------------------------------------------------------------------
# Writers
# ----------------------------------------------------------------------

my $script = $node->basedir . '/writer.sql';
append_to_file(
	$script, q{
\set tx :tx + 1
\set kind :client_id % 4
\set p random(0, 3)
\set q (:p + 1) % 4
\set n random(1, 40)
\set fate random(1, 10)
\if :fate = 1
	BEGIN;
	SELECT topics.produce('load', :client_id || ':' || :tx || ':rolled back', partition => :p);
	SELECT topics.produce_batch('load', array_fill(:client_id || ':' || :tx || ':rolled back', '{30}'), partition => :q);
	ROLLBACK;
\elif :kind = 0
	BEGIN;
	SELECT topics.produce('load', :client_id || ':' || :tx || ':1', partition => :p);
	INSERT INTO committed VALUES (:client_id, :tx, 1);
	COMMIT;
\elif :kind = 1
	BEGIN;
	INSERT INTO committed VALUES (:client_id, :tx, :n);
	SELECT topics.produce_batch('load', tags(:client_id, :tx, 1, :n), partition => :p);
	COMMIT;
\elif :kind = 2
	BEGIN;
	INSERT INTO committed VALUES (:client_id, :tx, :n * 4);
	INSERT INTO topic.load (value, partition)
		SELECT tag, p FROM unnest(tags(:client_id, :tx, 1, :n)) tag, generate_series(0, 3) p;
	COMMIT;
\else
	BEGIN;
	INSERT INTO committed VALUES (:client_id, :tx, :n + 2);
	SELECT topics.produce('load', :client_id || ':' || :tx || ':1', partition => :p);
	SAVEPOINT a;
	SELECT topics.produce_batch('load', array_fill(:client_id || ':' || :tx || ':undone', '{30}'), partition => :p);
	SAVEPOINT b;
	SELECT topics.produce('load', :client_id || ':' || :tx || ':undone', partition => :q);
	RELEASE b;
	ROLLBACK TO a;
	SELECT topics.produce_batch('load', tags(:client_id, :tx, 2, :n + 1), partition => :p);
	RELEASE a;
	SAVEPOINT c;
	SELECT topics.produce('load', :client_id || ':' || :tx || ':1', partition => :q);
	COMMIT;
\endif
});

my $log = $node->basedir . '/pgbench.log';
my $pgbench = fork;
die "could not fork: $!" unless defined $pgbench;
if ($pgbench == 0)
{
	open STDOUT, '>', $log and open STDERR, '>&', \*STDOUT or POSIX::_exit(1);
	exec 'pgbench', '-n', '-c', $writers, '-j', 2, '-t', $transactions, '-D', 'tx=0', '-f', $script,
	  $node->connstr('postgres')
	  or POSIX::_exit(1);
}

# ----------------------------------------------------------------------
# Readers
# ----------------------------------------------------------------------

my @readers;
for my $level ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')
{
	push @readers,
	  {
		name => $level,
		session => Session->new($node),
		ends => '',
		digest => '',
		begin => "BEGIN ISOLATION LEVEL $level",
		snapshots => 0,
		refused => 0,
		wrong => ''
	  };
}

# Readers of fetch() carry on where they stopped, and note what they got.
my $fetcher = Session->new($node);
my @fetched = ([], [], [], []);

# whatever happens, pgbench does not stay
END
{
	local $?;
	if ($pgbench && waitpid($pgbench, WNOHANG) == 0)
	{
		kill 'TERM', $pgbench;
		waitpid $pgbench, 0;
	}
}

my ($finished, $status) = (0, 0);
my $looks_left = 10;    # after the last commit: one, and more for who has had few
until ($finished && ($looks_left-- == 0 || !grep { $_->{snapshots} < 3 } @readers))
{
	if (!$finished && waitpid($pgbench, WNOHANG) == $pgbench)
	{
		($finished, $status) = (1, $?);
	}

	$_->{session}->send("$_->{begin};\nSELECT * FROM wrong();\nSELECT 'ends', ends();\n"
		  . "SELECT 'digest', digest('$_->{ends}');\nCOMMIT")
	  for @readers;
	for my $partition (0 .. 3)
	{
		my $rows = $fetched[$partition];
		my $result = $fetcher->query(
			sprintf q{SELECT r.offset, value FROM topics.fetch('load', %d, %d, 100000) r},
			$partition, scalar @$rows);
		if ($result->{sqlstate})
		{
			fail("fetch of partition $partition from " . @$rows);
			die $result->{text};
		}
		for (@{ $result->{rows} })
		{
			my ($offset, $value) = split /\|/;
			die "fetch of partition $partition: offset $offset where " . @$rows . ' was next'
			  if $offset != @$rows;
			push @$rows, $value;
		}
	}
	for my $reader (@readers)
	{
		my $result = $reader->{session}->receive;

		# a segment was made, and filled, while it was planned: try again
		if ($result->{sqlstate} eq '40001' && $result->{text} =~ /while the query was planned/)
		{
			$reader->{refused}++;
			next;
		}
		my %got = map { /^(ends|digest)\|(.*)/ ? ($1, $2) : () } @{ $result->{rows} };
		my @wrong = grep { !/^(ends|digest)\||^(BEGIN|COMMIT)$/ } @{ $result->{rows} };

		# what was seen before is still there, in its place
		push @wrong, "changed below $reader->{ends}"
		  if $reader->{digest} ne '' && $got{digest} ne $reader->{digest};
		push @wrong, $result->{text} if $result->{sqlstate};
		$reader->{wrong} ||= join "\n", @wrong;
		$reader->{snapshots}++;

		$reader->{ends} = $got{ends} // '';
		$reader->{digest} = $reader->{session}->value("SELECT digest('$reader->{ends}')");
	}
}

is($status, 0, "$writers writers have made $transactions transactions each")
  or diag(slurp_file($log));
for my $reader (@readers)
{
	is($reader->{wrong}, '', "$reader->{name}: nothing wrong in $reader->{snapshots} snapshots");
	cmp_ok($reader->{snapshots}, '>', 2, '... which were several');
	cmp_ok($reader->{refused}, '<', $reader->{snapshots},
		"... and $reader->{refused} were refused");
}

my $session = $readers[0]{session};
for my $partition (0 .. 3)
{
	is( join("\n", @{ $fetched[$partition] }),
		$session->value(
			qq{SELECT value FROM topic.load WHERE partition = $partition ORDER BY "offset"}),
		"fetch from offset to offset has read all of partition $partition: "
		  . @{ $fetched[$partition] }
		  . ' records');
}
cmp_ok(
	$session->value(
		q{SELECT count(*) FROM topics.segment WHERE topic = 'load' AND log_end_offset > log_start_offset}
	),
	'>', 8,
	'the partitions were rolled meanwhile');
is($session->value('SELECT count(*) >= 24 * 100 FROM committed'),
	't', 'most transactions have committed');

$node->stop;
done_testing();
