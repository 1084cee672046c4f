# Physical order is offset order, whatever is done to the tables: VACUUM in
# every form, CLUSTER, synchronized and parallel scans, indexes, on logs with
# rows of aborted transactions in the middle and at the end.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Topics;
use TopicState;

# A small buffer pool, so that a log is worth a synchronized scan (more than a
# quarter of it).  No worker: what happens to segments is said below.
my $node = topics_node(
	'main',
	points => 1,
	conf => q{
	shared_buffers = '1MB'
	autovacuum = off
	pg_topics.worker_interval = '1h'
});

my $expected = 0;
my $round = 0;

# Records of all sizes, with rows of aborted transactions before and behind.
sub produce
{
	my ($topic) = @_;
	my $end = $node->safe_psql('postgres',
		"SELECT log_end_offset FROM topics.partition WHERE topic = '$topic'");

	$round++;
	produce_and_abort(
		$node, 'postgres',
		"SELECT topics.produce('$topic', repeat('dead', i % 400)) FROM generate_series(1, 300) i",
		"round $round: rows of an aborted transaction");
	my $got = $node->safe_psql(
		'postgres', qq{
		SELECT count(topics.produce('$topic', 'round $round ' || i || ' ' || repeat('x', i % 1500))) FROM generate_series(1, 300) i;
		SELECT first_offset, record_count FROM topics.last_produced()});
	is($got, "300\n$end|300", "round $round: 300 records from offset $end");
	produce_and_abort(
		$node, 'postgres',
		"SELECT topics.produce('$topic', repeat('dead', i % 300)) FROM generate_series(1, 100) i",
		"round $round: rows of an aborted transaction behind them");
	return;
}

# Each record is fetched at its offset, alone, jumping to and fro, so that it is
# searched for; and all in one go.
sub check_fetch
{
	my ($topic, $test_name) = @_;

	is( $node->safe_psql(
			'postgres', qq{
		SELECT count(*), count(f.offset), count(*) FILTER (WHERE f.offset <> o)
		FROM (SELECT o FROM topics.partition p, generate_series(p.log_start_offset, p.log_end_offset - 1) o
			WHERE p.topic = '$topic' ORDER BY md5(o::text)) s
		LEFT JOIN LATERAL topics.fetch('$topic', 0, o, max_records => 1) f ON true}),
		$node->safe_psql(
			'postgres',
			"SELECT log_end_offset, log_end_offset, 0 FROM topics.partition WHERE topic = '$topic'"
		),
		"$test_name: fetch finds each offset");
	is( $node->safe_psql(
			'postgres', qq{
		SELECT count(*), md5(string_agg(f.offset || value, ',')) FROM topics.fetch('$topic', 0, 0, 1000000, 1000000000) f}
		),
		$node->safe_psql(
			'postgres',
			qq{SELECT count(*), md5(string_agg("offset" || value, ',' ORDER BY "offset")) FROM topic."$topic"}
		),
		"$test_name: fetch and SELECT agree");
}

sub active_segment
{
	my ($topic) = @_;

	return $node->safe_psql(
		'postgres', qq{
		SELECT 'topic_log.t' || t.topic_id || '_p0_s' || (SELECT count(*) FROM topics.segment WHERE topic = '$topic' AND state <> 'spare')
		FROM topics.topic t WHERE topic = '$topic'});
}

# A command with the active segment for %s.
sub on_active
{
	my ($command, $topic) = @_;
	my $segment = active_segment($topic);

	return $command =~ s/%s/$segment/r;
}

# ----------------------------------------------------------------------
# Commands on the active segment, each followed by more records
# ----------------------------------------------------------------------

$node->safe_psql('postgres', q{SELECT topics.create_topic('log')});
for my $command (
	'VACUUM %s',
	'VACUUM (INDEX_CLEANUP on, TRUNCATE on) %s',
	'VACUUM (ANALYZE) %s',
	'ANALYZE %s',
	'VACUUM (DISABLE_PAGE_SKIPPING) %s',
	'VACUUM FULL %s',
	'VACUUM',
	'ALTER TABLE %s SET TABLESPACE pg_default',
	'CHECKPOINT')
{
	produce('log');
	$node->safe_psql('postgres', on_active($command, 'log'));
	check_files($node, 'postgres', $command);
	produce('log');
	check_files($node, 'postgres', "produce after $command");
	check_fetch('log', $command);
}

# Rewrites must not lose or reorder either, nor does the view of an old session
for my $command (
	'CLUSTER %s USING nothing',
	'CREATE INDEX ON %s ("offset")',
	'CREATE INDEX CONCURRENTLY ON %s ("offset")',
	'ALTER TABLE %s SET ACCESS METHOD heap',
	'ALTER TABLE %s SET UNLOGGED',
	'DROP TABLE %s',
	'TRUNCATE %s',
	'UPDATE %s SET value = NULL',
	'DELETE FROM %s',
	'UPDATE %s SET value = NULL WHERE false',
	'DELETE FROM %s WHERE false',
	'SELECT * FROM %s FOR UPDATE',
	'INSERT INTO %s SELECT * FROM topic.log ORDER BY "offset" LIMIT 1')
{
	my $before = $node->safe_psql('postgres',
		'SELECT count(*), max("offset"), md5(string_agg(value, \',\' ORDER BY "offset")) FROM topic.log'
	);
	my ($state) = sqlstate_of($node, 'postgres', on_active($command, 'log'));

	isnt($state, '00000', "refused: $command") unless $command =~ /WHERE false/;
	is( $node->safe_psql(
			'postgres',
			'SELECT count(*), max("offset"), md5(string_agg(value, \',\' ORDER BY "offset")) FROM topic.log'
		),
		$before,
		"... and nothing has changed: $command");
	# CREATE INDEX CONCURRENTLY leaves what its user has to drop
	$node->safe_psql(
		'postgres', qq{DO \$\$ DECLARE i text; BEGIN
		FOR i IN SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid LOOP EXECUTE 'DROP INDEX ' || i; END LOOP; END \$\$}
	);
}
produce('log');
check_files($node, 'postgres', 'after what was refused');
check_fetch('log', 'after what was refused');

# ----------------------------------------------------------------------
# Room on pages that are not the last, and line pointers that are free
# ----------------------------------------------------------------------

# A session remembers the page where it last put a row, and there is still room
# for a small one when another session's large rows have gone behind it.
$node->safe_psql('postgres', q{SELECT topics.create_topic('room')});
my $small = $node->background_psql('postgres');
my $large = $node->background_psql('postgres');
for my $i (1 .. 5)
{
	$small->query_safe("SELECT topics.produce('room', 'small $i')");
	$large->query_safe(
		"SELECT count(topics.produce('room', repeat('x', 1900))) FROM generate_series(1, 9)");
}
$small->quit;
$large->quit;
check_files($node, 'postgres', 'small rows beside large ones');
check_fetch('room', 'small rows beside large ones');

# Rows of an aborted transaction between others, all on the last page.  VACUUM
# would free their line pointers, and the next row would stand at one of them.
sub produce_around_dead_rows
{
	my ($topic) = @_;

	$node->safe_psql('postgres', "SELECT topics.create_topic('$topic')");
	$node->safe_psql('postgres',
		"SELECT topics.produce('$topic', 'before ' || i) FROM generate_series(1, 3) i");
	produce_and_abort(
		$node, 'postgres',
		"SELECT topics.produce('$topic', 'dead') FROM generate_series(1, 3) i",
		"$topic: dead rows");
	$node->safe_psql('postgres',
		"SELECT topics.produce('$topic', 'behind ' || i) FROM generate_series(1, 3) i");
	return active_segment($topic);
}

my $page = produce_around_dead_rows('page');
$node->safe_psql('postgres', "VACUUM $page");
$node->safe_psql('postgres', q{SELECT topics.produce('page', 'after') FROM generate_series(1, 3)});
is($node->safe_psql('postgres', "SELECT max(ctid) FROM $page"),
	'(0,12)', 'VACUUM freed no line pointer of the active segment');
check_files($node, 'postgres', 'VACUUM of a page with dead rows in the middle');
check_fetch('page', 'VACUUM of a page with dead rows in the middle');

# Should they be free for any reason, the next row passes the page over.  Here
# VACUUM takes the table for a heap.
$page = produce_around_dead_rows('freed');
my $as = sub {
	$node->safe_psql('postgres',
		"UPDATE pg_class SET relam = (SELECT oid FROM pg_am WHERE amname = '$_[0]') WHERE oid = '$page'::regclass"
	);
};
$as->('heap');
$node->safe_psql('postgres', "VACUUM $page");
$as->('topic_log');
$node->safe_psql('postgres', q{SELECT topics.produce('freed', 'after') FROM generate_series(1, 3)});
is($node->safe_psql('postgres', "SELECT max(ctid) FROM $page"),
	'(1,3)', 'a page with free line pointers is passed over');
check_files($node, 'postgres', 'free line pointers on the last page');
check_fetch('freed', 'free line pointers on the last page');

# ----------------------------------------------------------------------
# Scans: from the first block on, whoever else is scanning
# ----------------------------------------------------------------------

cmp_ok(
	$node->safe_psql('postgres', "SELECT pg_relation_size('" . active_segment('log') . "')"),
	'>',
	1024 * 1024,
	'the log is larger than the buffer pool');

# What a scan returns begins with offset 0 while another one is under way, and
# VACUUM FULL stores what a scan returns.
my $other = $node->background_psql('postgres');
$other->query_safe(
	'SET synchronize_seqscans = on; BEGIN; DECLARE c CURSOR FOR SELECT "offset" FROM '
	  . active_segment('log'));
$other->query_safe('MOVE FORWARD 4000 IN c');
is( $node->safe_psql(
		'postgres',
		'SET synchronize_seqscans = on; SELECT "offset" FROM ' . active_segment('log') . ' LIMIT 1'
	),
	'0',
	'a scan beside another one begins at offset 0');
is($other->query_safe('FETCH BACKWARD 1 FROM c; MOVE ABSOLUTE 0 IN c; FETCH 1 FROM c'),
	"3998\n0", 'and a cursor goes back');
$other->query_safe('MOVE FORWARD 4000 IN c; COMMIT');

# The same with a heap of this size, or it proves nothing
$node->safe_psql('postgres', 'CREATE TABLE heap AS SELECT * FROM topic.log ORDER BY "offset"');
$other->query_safe('BEGIN; DECLARE c CURSOR FOR SELECT "offset" FROM heap; MOVE FORWARD 4000 IN c');
isnt($node->safe_psql('postgres', 'SELECT "offset" FROM heap LIMIT 1'),
	'0', 'a heap of this size is scanned from the middle');
$other->query_safe('COMMIT; BEGIN; DECLARE c CURSOR FOR SELECT "offset" FROM '
	  . active_segment('log')
	  . '; MOVE FORWARD 4000 IN c; COMMIT');
$other->quit;
$node->safe_psql('postgres', 'VACUUM FULL ' . active_segment('log'));
check_files($node, 'postgres', 'VACUUM FULL after scans that ended in the middle');
check_fetch('log', 'VACUUM FULL after scans that ended in the middle');

my $parallel =
  q{SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 3;};
like(
	$node->safe_psql('postgres', "$parallel EXPLAIN SELECT count(*) FROM topic.log"),
	qr/Parallel Seq Scan/,
	'a parallel plan');
for my $query ('count(*), count(DISTINCT "offset"), min("offset"), max("offset")',
	'sum(hashtext(value))')
{
	is( $node->safe_psql('postgres', "$parallel SELECT $query FROM topic.log"),
		$node->safe_psql(
			'postgres', "SET max_parallel_workers_per_gather = 0; SELECT $query FROM topic.log"),
		"a parallel scan finds the same: $query");
}
is( $node->safe_psql(
		'postgres',
		'SELECT count(*) > 0, bool_and("offset" >= 0) FROM topic_log.'
		  . (leaves_of($node, 'postgres', 'log', 0))[0]
		  . ' TABLESAMPLE SYSTEM (50)'),
	't|t',
	'a sample scan works');

# ----------------------------------------------------------------------
# Freezing
# ----------------------------------------------------------------------

$node->safe_psql(
	'postgres', q{CREATE PROCEDURE burn(transactions integer) LANGUAGE plpgsql AS $$ BEGIN
	FOR i IN 1 .. transactions LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$});

# Uses up transaction ids.
sub burn
{
	my ($transactions) = @_;

	$node->safe_psql('postgres', "SET synchronous_commit = off; CALL burn($transactions)");
}

# Was it frozen after the last burn?
sub frozen_age
{
	my ($segment) = @_;

	return $node->safe_psql('postgres',
		"SELECT age(relfrozenxid) < 2000 FROM pg_class WHERE oid = '$segment'::regclass");
}

# VACUUM FREEZE of the active segment asks the worker to cut it, and produce goes on.
$node->safe_psql('postgres', q{ALTER SYSTEM SET pg_topics.worker_interval = '100ms'});
$node->reload;
wait_for_worker($node, 'postgres', 'the worker runs');
my $base = $node->safe_psql('postgres',
	q{SELECT base_offset FROM topics.segment WHERE topic = 'log' AND state = 'active'});
my $end =
  $node->safe_psql('postgres', q{SELECT log_end_offset FROM topics.partition WHERE topic = 'log'});
my $frozen = active_segment('log');
burn(2000);
is(frozen_age($frozen), 'f', 'the active segment is not frozen');
$node->safe_psql('postgres', "VACUUM FREEZE $frozen");
ok( $node->poll_query_until(
		'postgres',
		qq{SELECT base_offset = $end FROM topics.segment WHERE topic = 'log' AND state = 'active'}),
	"VACUUM FREEZE: the worker cuts the active segment at $end");
ok( $node->poll_query_until(
		'postgres',
		qq{SELECT count(*) = 1 FROM pg_index WHERE indrelid = '$frozen'::regclass AND indisvalid}),
	'... and seals it');
is(frozen_age($frozen), 't', '... which freezes it');
produce('log');
check_files($node, 'postgres', 'after VACUUM FREEZE');
check_fetch('log', 'after VACUUM FREEZE');

# A sealed segment is vacuumed as any table
burn(2000);
$node->safe_psql('postgres', "VACUUM FREEZE $frozen");
is(frozen_age($frozen), 't', 'a sealed segment is vacuumed as any table');

# Only dead rows: nothing to cut, so it is vacuumed itself
$node->safe_psql('postgres', q{SELECT topics.create_topic('dead')});
produce_and_abort(
	$node, 'postgres',
	q{SELECT topics.produce('dead', repeat('x', 1000)) FROM generate_series(1, 100)},
	'a log with dead rows only');
burn(2000);
my $dead = active_segment('dead');
cmp_ok($node->safe_psql('postgres', "SELECT pg_relation_size('$dead')"),
	'>', 50000, '... which are there');
$node->safe_psql('postgres', "VACUUM FREEZE $dead");
is(frozen_age($dead), 't', 'VACUUM FREEZE works there');
produce('dead');
check_files($node, 'postgres', 'produce after VACUUM of dead rows');
check_fetch('dead', 'produce after VACUUM of dead rows');

# VACUUM frees line pointers of a heap; were the active segment a heap, the next record
# would stand before older ones.  With a hole in the last page that is shown
# on the first segment, when it has no committed row at all.
produce_and_abort(
	$node, 'postgres',
	q{SELECT topics.produce('dead', 'x') FROM generate_series(1, 3)},
	'dead rows at the end of the last page');
$node->safe_psql('postgres', "VACUUM $dead");
produce('dead');
check_files($node, 'postgres', 'VACUUM with dead rows at the end');

# Sealed segments: VACUUM FULL and CLUSTER by a user's index keep the order
$node->safe_psql('postgres', "CREATE INDEX by_offset ON $frozen (\"offset\")");
for my $command (
	"VACUUM FULL $frozen",
	"CLUSTER $frozen USING by_offset",
	"REINDEX TABLE $frozen",
	"VACUUM (FREEZE, ANALYZE) $frozen",
	"REINDEX TABLE CONCURRENTLY $frozen")
{
	my ($state, $message) = sqlstate_of($node, 'postgres', $command);

	like($state, qr/^(00000|0A000)$/, "$command works or is refused");
	check_files($node, 'postgres', $command);
	check_fetch('log', $command);
}

# ----------------------------------------------------------------------
# Indexes of users on sealed segments
# ----------------------------------------------------------------------

for my $concurrently ('', 'CONCURRENTLY ')
{
	my $name = 'by_value_' . length $concurrently;

	$node->safe_psql('postgres', "CREATE INDEX ${concurrently}$name ON $frozen (value)");
	like(
		$node->safe_psql(
			'postgres',
			"SET enable_seqscan = off; EXPLAIN SELECT * FROM $frozen WHERE value LIKE 'round 3 7 %' OR value = 'x'"
		),
		qr/Scan/,
		'an index plan');
	my $key =
	  $node->safe_psql('postgres', "SELECT value FROM $frozen WHERE \"offset\" = $base + 77");
	is( $node->safe_psql(
			'postgres',
			"SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT \"offset\" FROM $frozen WHERE value = '$key' ORDER BY value"
		),
		$base + 77,
		"CREATE INDEX ${concurrently}on a sealed segment: finds");
	is( $node->safe_psql(
			'postgres',
			"SET enable_seqscan = off; SELECT count(*) FROM (SELECT value FROM $frozen ORDER BY value) s"
		),
		$node->safe_psql('postgres', "SELECT count(*) FROM $frozen"),
		'... and holds every record');
	$node->safe_psql('postgres', "DROP INDEX topic_log.$name");
}
is( $node->safe_psql(
		'postgres',
		qq{SET enable_seqscan = off; SELECT count(*) FROM topic.log WHERE "offset" BETWEEN $base AND $end - 1}
	),
	$end - $base,
	'the BRIN index hides nothing');

# After a restart nothing is known in shared memory, yet all of it holds
$node->restart;
$node->safe_psql('postgres', "CREATE INDEX by_value ON $frozen (value)");
pass('a sealed segment is indexed after a restart');
check_files($node, 'postgres', 'after a restart');
produce('log');
$node->stop('immediate');
$node->start;
check_files($node, 'postgres', 'after a crash');
produce('log');
check_files($node, 'postgres', 'produce after a crash');
check_fetch('log', 'produce after a crash');

# ----------------------------------------------------------------------
# Autovacuum against wraparound
# ----------------------------------------------------------------------

$node->append_conf(
	'postgresql.conf', q{
	autovacuum = on
	autovacuum_naptime = '1s'
	autovacuum_freeze_max_age = 100000
	vacuum_freeze_min_age = 0
	pg_topics.worker_interval = '100ms'
});
$node->restart;
produce('log');
my $old = active_segment('log');
my $old_end =
  $node->safe_psql('postgres', q{SELECT log_end_offset FROM topics.partition WHERE topic = 'log'});
burn(120000);
ok( $node->poll_query_until(
		'postgres', "SELECT age(relfrozenxid) < 100000 FROM pg_class WHERE oid = '$old'::regclass"),
	'autovacuum against wraparound has the active segment rolled, and it is frozen');
is( $node->safe_psql(
		'postgres',
		q{SELECT base_offset FROM topics.segment WHERE topic = 'log' AND state = 'active'}),
	$old_end,
	'the log was cut at its end');
ok( $node->poll_query_until(
		'postgres',
		q{SELECT max(age(relfrozenxid)) < 100000 FROM pg_class WHERE relkind IN ('r', 't')}),
	'nothing holds the database back');
produce('log');
check_files($node, 'postgres', 'after autovacuum against wraparound');
check_fetch('log', 'after autovacuum against wraparound');

is(join("\n", grep { /PANIC|TRAP|terminated by signal/ } split /\n/, slurp_file($node->logfile)),
	'', 'no crash');
done_testing();
