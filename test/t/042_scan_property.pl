# Plain SELECTs by Offset Scan give what they give without it: random WHERE,
# ORDER BY, LIMIT, cursors, joins and parameters, against the same query with
# pg_topics.enable_offset_scan = off.  The log has rows of aborted
# transactions, segments that were rolled and empty ones, records of very
# different size; it grows meanwhile, and is read through old snapshots too.
#
# The seed is printed; PG_TOPICS_SEED repeats a run, PG_TOPICS_QUERIES makes it
# shorter or longer.  A mismatch shows the query.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;
use TopicState;

my $seed = $ENV{PG_TOPICS_SEED} // 20240607;
my $queries = $ENV{PG_TOPICS_QUERIES} // ($ENV{PG_TOPICS_LONG} ? 20000 : 1500);
my $partitions = 3;
my $rounds = 5;

srand($seed);
note "seed $seed, $queries queries";

my $node = topics_node('scan', points => 1, conf => "autovacuum = off\nfsync = off\n");

sub pick { return $_[ int(rand(@_)) ]; }

# ----------------------------------------------------------------------
# The log
# ----------------------------------------------------------------------

my @end = (0) x $partitions;

# Records whose size changes from one to the next
sub append
{
	my ($count, $partition) = @_;
	my $sizes =
	  pick('10', '1500', '(i * 7919) % 3000', 'CASE WHEN i % 50 = 0 THEN 6000 ELSE 5 END');

	$node->safe_psql(
		'postgres', qq{
		INSERT INTO topic.log (partition, key, value, "timestamp")
		SELECT $partition, 'k' || i % 10, repeat('v', $sizes), '2024-01-01'::timestamptz + i * interval '1 second'
		FROM generate_series(1, $count) i});
	$end[$partition] += $count;
	return;
}

sub append_in_vain
{
	my ($count, $partition) = @_;

	produce_and_abort(
		$node,
		'postgres',
		"SELECT topics.produce('log', repeat('dead', i % 300), partition => $partition) FROM generate_series(1, $count) i",
		"$count rows of an aborted transaction in partition $partition");
	return;
}

sub grow
{
	for my $partition (0 .. $partitions - 1)
	{
		append_in_vain(pick(1, 30, 400), $partition) if rand() < 0.4;
		append(pick(1, 7, 60, 500, 1500), $partition) if rand() < 0.8;
		append_in_vain(pick(1, 30, 400), $partition) if rand() < 0.4;
		$node->safe_psql('postgres', "CALL topics.roll_segment('log', $partition)") if rand() < 0.5;
	}
	$node->safe_psql('postgres', "CALL topics.maintain('log')") if rand() < 0.5;
	if (rand() < 0.3)
	{
		my $root = $node->safe_psql('postgres',
			"SELECT 'topic_log.t' || topic_id FROM topics.topic WHERE topic = 'log'");
		$node->safe_psql('postgres', "ANALYZE $root");
	}
	return;
}

# ----------------------------------------------------------------------
# Queries
# ----------------------------------------------------------------------

# An offset that is likely to be interesting: somewhere, near an end, outside
sub offset
{
	my $end = pick(@end);
	my $offset =
	  pick(int(rand($end + 1)), int(rand(5)), $end - 2 + int(rand(4)), -1, int(rand($end + 1)));

	return rand() < 0.02 ? pick('NULL', '9223372036854775807', '-9223372036854775808') : $offset;
}

sub value
{
	my $offset = offset();

	return pick(
		$offset, $offset, $offset, "($offset)::bigint",
		"(SELECT $offset)",
		"(SELECT ($offset)::bigint)");
}

sub bound
{
	my $offset = 'r."offset"';

	return pick(
		sub { return "$offset " . pick('<', '<=', '>', '>=', '>', '>=', '=') . ' ' . value() },
		sub { return value() . ' ' . pick('<', '<=', '>', '>=', '=') . " $offset" },
		sub {
			my $from = int(rand(pick(@end) + 1));
			return "$offset BETWEEN $from AND $from + " . pick(0, 3, 40, 700);
		},
		sub {
			return "$offset IN (" . join(', ', map { offset() } 1 .. 3) . ')';
		},
		sub { return "($offset < " . value() . " OR $offset > " . value() . ')' })->();
}

sub conditions
{
	my @conditions;

	push @conditions, 'r.partition = ' . int(rand($partitions)) if rand() < 0.7;
	push @conditions, 'r.partition IN (0, 2)' if rand() < 0.1;
	push @conditions, bound() for 1 .. pick(0, 1, 1, 1, 2, 2, 3);
	push @conditions,
	  pick("r.key = 'k3'", 'length(r.value) > 100', q{r."timestamp" < '2024-01-01 00:05'})
	  if rand() < 0.2;
	return @conditions ? 'WHERE ' . join(' AND ', @conditions) : '';
}

# Where the order is complete, rows are compared one by one; without ORDER BY
# as a set.  "partition" makes an order by offset complete.
sub query
{
	my $columns = 'r.partition, r."offset", r.key, md5(r.value)';
	my $where = conditions();
	my $direction = pick('', 'DESC');
	my $order = pick(
		"ORDER BY r.\"offset\" $direction, r.partition",
		"ORDER BY r.partition, r.\"offset\" $direction");
	my $limit = rand() < 0.6 ? 'LIMIT ' . pick(1, 2, 10, 200, 2000) : '';
	my $skip = $limit && rand() < 0.2 ? 'OFFSET ' . pick(1, 30) : '';

	return pick(
		sub { return "SELECT $columns FROM topic.log r $where $order $limit $skip" },
		sub { return "SELECT $columns FROM topic.log r $where $order $limit $skip" },
		sub {
			my $one = 'r.partition = ' . int(rand($partitions));
			$where = $where ? "$where AND $one" : "WHERE $one";
			return
			  "SELECT $columns FROM topic.log r $where ORDER BY r.\"offset\" $direction $limit $skip";
		},
		sub {
			return
			  "SELECT count(*), sum(s.\"offset\"), min(s.md5), max(s.md5) FROM (SELECT $columns FROM topic.log r $where) s";
		},
		sub { return "SELECT min(r.\"offset\"), max(r.\"offset\") FROM topic.log r $where" },
		sub {
			return
			  'SELECT p.n, s.* FROM place p, LATERAL (SELECT r.partition, r."offset" FROM topic.log r '
			  . 'WHERE r.partition = p.n AND r."offset" '
			  . pick('<', '<=', '=', '>=', '>')
			  . ' p.o + '
			  . pick(-1, 0, 10)
			  . " ORDER BY r.\"offset\" $direction LIMIT "
			  . pick(1, 5, 100)
			  . ') s ORDER BY 1, 3';
		},
		sub {
			return
				'SELECT p.n, r."offset", r.key FROM place p '
			  . pick('', 'LEFT ')
			  . 'JOIN topic.log r ON r.partition = p.n AND r."offset" '
			  . pick('= p.o', 'BETWEEN p.o AND p.o + 3', '> p.o AND r."offset" < 5 + p.o')
			  . ' ORDER BY 1, 2';
		},
		sub {
			return
			  'SELECT a."offset", b.key FROM topic.log a JOIN topic.log b USING ("offset") WHERE a.partition = 0 AND b.partition = 1 '
			  . 'AND a."offset" '
			  . pick('<', '>=') . ' '
			  . value()
			  . ' ORDER BY 1 LIMIT '
			  . pick(1, 20, 300);
		})->();
}

my @settings = (
	('') x 12,
	'SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off;',
	'SET LOCAL enable_sort = off;',
	'SET LOCAL enable_sort = off;',
	'SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off;',
	'SET LOCAL debug_parallel = on;',
	'SET LOCAL parallel_setup_cost = 0; SET LOCAL parallel_tuple_cost = 0; SET LOCAL min_parallel_table_scan_size = 0;'
);
my $parallel_mode = $node->safe_psql('postgres',
	q{SELECT name FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query')});
s/debug_parallel/$parallel_mode/ for @settings;

my $compared = 0;
my $explained = 0;
my $by_offset_scan = 0;
my @mismatches;

# Runs a query as a statement, prepared or by a cursor
sub rows
{
	my ($session, $query, $how) = @_;

	return $session->value($query) if $how eq 'plain';
	return $session->value(
		"SET LOCAL plan_cache_mode = force_generic_plan; PREPARE q AS $query; EXECUTE q; EXECUTE q; DEALLOCATE q"
	) if $how eq 'prepared';
	return $session->value(
		"DECLARE c SCROLL CURSOR FOR $query; FETCH 7 c; FETCH BACKWARD 4 c; FETCH 10000 c; FETCH 1 c; FETCH BACKWARD 10000 c; FETCH 5 c; CLOSE c"
	);
}

sub compare
{
	my ($session, $in_transaction) = @_;
	my $query = query();
	my $how = pick('plain', 'plain', 'prepared', 'cursor');
	my $settings = pick(@settings);
	my %result;

	# a cursor's rows have a defined order only if the query's have
	$how = 'plain' if $how eq 'cursor' && $query !~ /ORDER BY/;
	for my $scan (qw(on off))
	{
		my $set = "SET LOCAL pg_topics.enable_offset_scan = $scan; $settings";

		$session->value($in_transaction ? "SAVEPOINT s; $set" : "BEGIN; $set");
		if ($scan eq 'on' && rand() < 0.1)
		{
			$explained++;
			$by_offset_scan++ if $session->value("EXPLAIN $query") =~ /Offset Scan/;
		}
		$result{$scan} = rows($session, $query, $how);
		$session->value($in_transaction ? 'ROLLBACK TO s' : 'ROLLBACK');
	}
	$compared++;
	push @mismatches, "($how; $settings) $query\nwith:\n$result{on}\nwithout:\n$result{off}"
	  if $result{on} ne $result{off};
	return;
}

# ----------------------------------------------------------------------

$node->safe_psql(
	'postgres', qq{
	SELECT topics.create_topic('log', $partitions, segment_bytes => 300000, retention_time => '-1 s');
	CREATE TABLE place (n int, o bigint);
	INSERT INTO place SELECT i % $partitions, i * 197 FROM generate_series(0, 8) i;
	ANALYZE place});

my $new = Session->new($node);
my @old;

for my $round (1 .. $rounds)
{
	grow();
	# a snapshot that stays, in every other round
	if ($round % 2)
	{
		my $session = Session->new($node);

		$session->value('BEGIN ISOLATION LEVEL '
			  . pick('REPEATABLE READ', 'SERIALIZABLE')
			  . '; SELECT count(*) FROM topic.log');
		push @old, $session;
	}
	for (1 .. $queries / $rounds)
	{
		my $old = rand() < 0.4;

		compare($old ? pick(@old) : $new, $old);
	}
}

cmp_ok($compared, '>=', $queries - $rounds, "$compared queries were compared");
cmp_ok(
	$by_offset_scan, '>',
	$explained / 2,
	"$by_offset_scan of $explained that were looked at had an Offset Scan");
is(scalar(@mismatches), 0, "they give the same with and without (seed $seed)")
  or diag(join("\n\n", @mismatches > 5 ? @mismatches[ 0 .. 4 ] : @mismatches));
is( $node->safe_psql(
		'postgres',
		"SELECT string_agg(log_end_offset::text, ' ' ORDER BY partition) FROM topics.partition WHERE topic = 'log'"
	),
	join(' ', @end),
	'the log has what was appended');

undef @old;
undef $new;
$node->stop;
done_testing();
