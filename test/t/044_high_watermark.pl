# What readers see while a synchronous standby is away: what it has confirmed,
# and nothing that its promotion can take back.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

my $node = topics_node(
	'primary',
	init => { allows_streaming => 1 },
	conf =>
	  "min_parallel_table_scan_size = 0\nparallel_setup_cost = 0\nparallel_tuple_cost = 0\nmax_connections = 50\n"
);
$node->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('t', 2);
	SELECT topics.create_topic('u');
	CREATE TABLE side (id int);
	CREATE FUNCTION detail_of(command text) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE detail text;
	BEGIN
		EXECUTE command;
		RETURN 'ok';
	EXCEPTION WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
		RETURN detail;
	END $$});
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->append_conf('postgresql.conf', "synchronous_standby_names = 'standby'");
$node->reload;
poll_until(
	sub {
		$node->safe_psql('postgres',
			q{SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'}) eq '1';
	}) or die 'no synchronous standby';

my ($reader, $old, $producer, $consumer, $listener, $observer) = map { Session->new($node) } 1 .. 6;

sub shows
{
	my ($sql, $expected, $test_name, $session) = @_;
	my $result = ($session // $reader)->query_within($sql, 60);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($result ? join("\n", @{ $result->{rows} }) . $result->{sqlstate} : 'no answer',
		$expected, $test_name);
}

# A session that waits for the standby in its commit.
sub waiting
{
	return Session->waiting_for_standby($node, $observer, @_);
}

# All that tells how far a partition of t is to be read, in one statement.
sub ends
{
	my ($partition) = @_;

	return qq{
		SELECT (SELECT count(*) FROM topic.t WHERE partition = $partition),
			(SELECT count(*) FROM topics.fetch('t', $partition, 0, 1000000)),
			coalesce((SELECT "offset" + 1 FROM topic.t WHERE partition = $partition
			 ORDER BY "offset" DESC LIMIT 1), 0),
			(SELECT o.offset FROM topics.list_offsets('t', 'latest') o
			 WHERE partition = $partition),
			(SELECT log_end_offset FROM topics.partition WHERE topic = 't'
			 AND partition = $partition),
			(SELECT log_end_offset FROM topics.consumer_lag WHERE topic = 't'
			 AND partition = $partition)};
}

sub all_say
{
	my ($partition, $end, $test_name, $session) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return shows(ends($partition), join('|', ($end) x 6), $test_name, $session);
}

# Where partition 0 of "t" ends.
sub log_end
{
	my ($session) = @_;
	return $session->value(
		q{SELECT o.offset FROM topics.list_offsets('t', 'latest') o WHERE partition = 0});
}

# Partition 0 of "t" can be read to an end, after a while.
sub comes_to
{
	my ($end, $test_name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok(poll_until(sub { log_end($observer) eq $end }), $test_name);
}

# The setting acts when the checkpointer has told the others.  The producer does
# not wait for standbys.
sub set_standby
{
	$node->adjust_conf('postgresql.conf', 'synchronous_standby_names', "'standby'");
	$node->reload;
	return poll_until(
		sub {
			my ($offset) =
			  $producer->query(q{CALL topics.send('u', 'try')})->{rows}[0] =~ /\|(\d+)/;
			$observer->value(q{SELECT o.offset FROM topics.list_offsets('u', 'latest') o}) <=
			  $offset;
		}) || die 'the setting does not act';
}

# What notifications have told since the last call.
sub told
{
	return join("\n", grep { /notification/ } @{ $listener->query('SELECT 1')->{rows} });
}

my $parallel = q{SELECT count(*) FROM topic.t};

# ----------------------------------------------------------------------
# With the standby, all is as ever
# ----------------------------------------------------------------------

$producer->value(
	q{INSERT INTO topic.t (value, partition) SELECT 'before', p FROM generate_series(0, 1) p,
	generate_series(1, 3)});
shows(q{SELECT count(*) FROM topic.t}, '6', 'what is acknowledged is read', $producer);
shows(q{SELECT count(*) FROM topics.consume('g', 't')}, '3', '... and consumed', $consumer);
shows(q{SELECT count(*) FROM topics.consume('g', 't')}, '3', '... and consumed', $consumer);
all_say(0, 3, '... by all');
shows(
	q{
	SELECT sum(topics.produce('t', g::text, partition => 0) * 0) FROM generate_series(1, 100) g;
	SELECT count(*) FROM topic.t WHERE partition = 0}, "0\n103", 'a producer reads its own',
	$producer);
shows(q{SELECT sum(n) FROM (SELECT count(*) n FROM topics.consume('g', 't')) x},
	'100', 'consumed', $consumer);
$listener->value(qq{SELECT 1; LISTEN @{[$observer->value(q{SELECT topics.channel('t')})]}});
all_say(0, 103, 'before');

# ----------------------------------------------------------------------
# It goes
# ----------------------------------------------------------------------

# cursors that fail, whose snapshots' memory is used again
my @failed = map { Session->new($node) } 1 .. 2;
$failed[0]->query(
	q{BEGIN; DECLARE c CURSOR FOR SELECT 1 / ("offset" - "offset") FROM topic.t;
	SAVEPOINT s; FETCH c; ROLLBACK TO s});
$failed[1]->value(
	q{BEGIN; DO $$
	DECLARE c CURSOR FOR SELECT 1 / ("offset" - "offset") FROM topic.t; x int;
	BEGIN
		OPEN c;
		BEGIN FETCH c INTO x; EXCEPTION WHEN OTHERS THEN NULL; END;
	END $$});
$node->safe_psql(
	'postgres', q{
	CREATE FUNCTION counts(n int) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE
		c bigint;
		others text;
	BEGIN
		SELECT count(*) INTO c FROM topic.t;
		IF n = 0 THEN RETURN c; END IF;
		SELECT counts(n - 1) INTO others;
		RETURN c || ' ' || others;
	END $$});
my $snapshot = Session->new($node);
$snapshot->value('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM topic.u');
$standby->stop('immediate');
poll_until(sub { $observer->value('SELECT count(*) FROM pg_stat_replication') eq '0' }) or die;

my @waiting = (
	waiting(
		q{INSERT INTO topic.t (value, partition) SELECT 'unconfirmed', g % 2 FROM generate_series(1, 6) g}
	));
shows(q{SET synchronous_commit = local; CALL topics.send('t', 'local', partition => 1)},
	"SET\n1|6", 'synchronous_commit = local is acknowledged', $producer);
shows(q{SET synchronous_commit = off; CALL topics.send('t', 'off', partition => 1)},
	"SET\n1|7", '... and off', $producer);

for my $session (@failed)
{
	shows('SELECT counts(6)', join(' ', (106) x 7), 'after a cursor that failed', $session);
	$session->query('ROLLBACK');
}

# The tables of the log themselves
my @segments = split /\n/, $observer->value(
	q{SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'topic_log.t1_p1'::regclass
	ORDER BY inhrelid});
shows(
	qq{SELECT count(*) FROM $segments[0] WHERE ctid = ANY (ARRAY(
		SELECT format('(0,%s)', g)::tid FROM generate_series(1, 20) g))},
	'3', 'a TID scan hides, too');
shows("COPY (SELECT \"offset\" FROM $segments[0]) TO STDOUT", "0\n1\n2", '... and COPY');
shows(qq{SELECT count(*) FROM $segments[0] TABLESAMPLE SYSTEM (100)}, '3', '... and a sample');

for my $level ('READ COMMITTED', 'REPEATABLE READ')
{
	$reader->value("SET default_transaction_isolation = '$level'");
	all_say(0, 103, "$level: nobody reads what is not confirmed");
	all_say(1, 3, '... of all partitions');
	shows(q{SELECT count(*) FROM topic.t WHERE value = 'unconfirmed' OR value IN ('local', 'off')},
		'0', '... by a filter');
	shows(q{SELECT count(*) FROM topic.t WHERE partition = 1 AND "offset" >= 3},
		'0', '... by offset');
	shows(q{SELECT "offset" FROM topic.t WHERE partition = 1 AND "offset" >= 1 ORDER BY "offset"},
		"1\n2", '... in order');
	shows(
		q{SELECT r.offset FROM topics.fetch('t', 1, 3) r},
		'',
		'... a fetch behind it finds nothing');
	shows(q{SELECT r.offset FROM topics.fetch('t', 1, 8) r}, '', '... up to the end');
	shows(q{SELECT r.offset FROM topics.fetch('t', 1, 9) r}, 'TP001', '... and no further');
	shows(q{SELECT count(*) FROM topics.latest('t')}, '0', '... nor as state');
	shows($parallel, '106', '... nor with parallel workers');
	shows(q{SELECT count(*) FROM topics.consume('g', 't')}, '0', '... nor by consuming');
}
$reader->value('RESET default_transaction_isolation');
like($reader->value(qq{EXPLAIN $parallel}), qr/Parallel/, 'the plan would have been parallel');
foreach my $call (
	q{topics.fetch('t', 1, 9)},
	q{topics.commit_offset('g2', 't', 1, 9)},
	q{topics.reset_offset('g2', 't', 1, to_offset => 9)})
{
	shows(
		qq{SELECT detail_of(\$\$SELECT $call\$\$)},
		'OFFSET_OUT_OF_RANGE: the log starts at offset 0 and ends at offset 3.',
		"an error tells the end that can be read: $call");
}
shows(q{SELECT topics.delete_records('t', 1, 5)}, 'TP001', 'it cannot be deleted');
shows(q{CALL topics.wait_offset('t', 1, 3, '200ms'); SELECT 1}, "CALL\n1", 'a wait goes on');
unlike(told(), qr/"1":[4-9]/, 'no notification tells of it');

# Sealing, retention and compaction stay below.
shows(
	q{SET synchronous_commit = local;
	CALL topics.roll_segment('t', 1); CALL topics.maintain('t'); RESET synchronous_commit},
	"SET\nCALL\nCALL\nRESET", 'a roll');
all_say(1, 3, '... changes nothing');

# A waiting session, and a fetch that waits.
$consumer->send(q{CALL topics.wait('g', 't', '1 min')});
$old->send(q{SELECT count(*) FROM topics.fetch('t', 1, 3, max_wait => '1 min')});

# SERIALIZABLE would have to know.
my $serializable = Session->new($node);
my $counting = q{BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM topic.t; COMMIT};
$serializable->send($counting);
ok( poll_until(
		sub {
			$observer->value(
				qq{SELECT wait_event IN ('Extension', 'PgTopicsHighWatermark')
				FROM pg_stat_activity WHERE pid = $serializable->{pid}}) eq 't';
		}),
	'SERIALIZABLE waits');
$observer->value("SELECT pg_cancel_backend($serializable->{pid})");
is($serializable->receive->{sqlstate}, '57014', '... can be cancelled');
$serializable->query('ROLLBACK');
$serializable->send($counting);

# ----------------------------------------------------------------------
# What else a producer has written
# ----------------------------------------------------------------------

push @waiting,
  waiting(q{BEGIN; INSERT INTO side VALUES (1); SELECT topics.produce('u', 'both'); COMMIT});
shows(q{SELECT count(*) FROM side}, '0', 'rows of other tables are not seen either');
shows(q{SELECT count(*) FROM topic.u}, '0', '... nor the record');
push @waiting, waiting(
	q{SET pg_topics.early_lock_release = on;
	BEGIN; INSERT INTO side VALUES (2); SELECT topics.produce('t', 'early', partition => 0); COMMIT});
shows(q{SELECT id FROM side}, '2', 'unless that is asked for');
all_say(0, 103, '... and not the record');

# A producer in the strict order holds the append lock: readers do not mind.
push @waiting,
  waiting(
	q{BEGIN; INSERT INTO side VALUES (3); SELECT topics.produce('t', 'x', partition => 1); COMMIT});
shows(q{SELECT count(*) FROM topics.fetch('t', 1, 5)}, '0', 'a fetch in what is hidden');

# ----------------------------------------------------------------------
# It comes back
# ----------------------------------------------------------------------

shows(q{SELECT count(*) FROM topic.t}, '106', 'a snapshot from before', $snapshot);
$standby->start;
is(scalar(grep { !$_->receive(60) } @waiting), 0, 'the producers are acknowledged');
shows($counting, "BEGIN\n116\nCOMMIT", 'SERIALIZABLE sees all', Session->new($node));
is_deeply(
	($serializable->receive(60) // {})->{rows},
	[ 'BEGIN', '114', 'COMMIT' ],
	'... and the one that waited what its snapshot sees');
is(($consumer->receive(60) // {})->{sqlstate}, '', 'a wait ends');
like(($old->receive(60)    // {})->{rows}[0], qr/^[56]$/, '... and a fetch gets the records');
all_say(0, 107, 'all is read');
all_say(1, 9, 'all is read');
shows($parallel, '116', '... with parallel workers, too');
shows(q{SELECT count(*) FROM topic.t}, '106', 'the old snapshot shows what it did', $snapshot);
all_say(1, 3, '... in everything', $snapshot);
$snapshot->value('COMMIT');
all_say(1, 9, '... until its end', $snapshot);
ok(poll_until(sub { told() =~ /"1":9/ }), 'a notification tells of it');

# ----------------------------------------------------------------------
# Many commits wait at once
# ----------------------------------------------------------------------

$standby->stop('immediate');
poll_until(sub { $observer->value('SELECT count(*) FROM pg_stat_replication') eq '0' }) or die;
$producer->value(
	q{SET synchronous_commit = local;
	DO $$ BEGIN
		FOR i IN 1 .. 200 LOOP
			PERFORM topics.produce('t', 'many', partition => i % 2);
			COMMIT;
		END LOOP;
	END $$});
all_say(0, 107, 'of many commits nothing is read');
all_say(1, 9, 'of many commits nothing is read');

# What a repair stores of the log's end counts as confirmed after a crash
my $repairer = Session->new($node);
$repairer->send(
	q{BEGIN; DELETE FROM topic_log.partition WHERE partition = 0
	 AND topic_id = (SELECT topic_id FROM topics.topic WHERE topic = 't');
	SELECT topics.repair_topic('t')});
ok( poll_until(
		sub {
			$observer->value(
				qq{SELECT state = 'active' AND wait_event IN ('Extension', 'PgTopicsHighWatermark')
				FROM pg_stat_activity WHERE pid = $repairer->{pid}}) eq 't';
		}),
	'repair_topic waits until all is confirmed');
$observer->value("SELECT pg_cancel_backend($repairer->{pid})");
is($repairer->receive->{sqlstate}, '57014', '... can be cancelled');
$repairer->query('ROLLBACK');

# The setting goes: all may be read at once.
$node->adjust_conf('postgresql.conf', 'synchronous_standby_names', "''");
$consumer->send(q{CALL topics.wait_offset('t', 1, 100, '1 min')});
$node->reload;
is(($consumer->receive(60) // {})->{sqlstate}, '', 'without the setting a wait ends');
all_say(0, 207, '... and all is read');

# A transaction that has begun with it keeps its cut.
set_standby();
$producer->value(q{CALL topics.send('t', 'cut', partition => 0)});
$snapshot->value('BEGIN ISOLATION LEVEL REPEATABLE READ');
all_say(0, 207, 'a transaction has a cut', $snapshot);
$node->adjust_conf('postgresql.conf', 'synchronous_standby_names', "''");
$node->reload;
comes_to(208, 'the setting goes');
all_say(0, 207, '... and the transaction keeps it', $snapshot);
$snapshot->value('COMMIT');

# ----------------------------------------------------------------------
# Statements that fail as they begin
# ----------------------------------------------------------------------

set_standby();
$producer->value(
	q{
	CREATE ROLE nobody;
	CREATE FUNCTION fail_to_begin(n int) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. n LOOP
			BEGIN
				SET LOCAL ROLE nobody;
				PERFORM FROM side;
			EXCEPTION WHEN insufficient_privilege THEN
				NULL;
			END;
		END LOOP;
	END $$});
$producer->value(q{BEGIN; SELECT fail_to_begin(1000)});
cmp_ok(
	$producer->value(
		q{SELECT used_bytes FROM pg_backend_memory_contexts WHERE name = 'TopTransactionContext'}),
	'<', 50000,
	'statements that fail as they begin leave nothing behind');
$producer->value('COMMIT');

# ----------------------------------------------------------------------
# A crash, with the standby away
# ----------------------------------------------------------------------

$node->adjust_conf('postgresql.conf', 'synchronous_standby_names', "'standby'");
$node->stop('immediate');
$node->start;
($reader, $producer, $consumer, $observer) = map { Session->new($node) } 1 .. 4;
my $known = log_end($reader);
all_say(0, $known, 'after a crash all agree on what is known to be confirmed');
cmp_ok($known, '<=', 208, '... which is no more than there is');
shows(q{SET synchronous_commit = local; CALL topics.send('t', 'after', partition => 0)},
	"SET\n0|208", '... and producers go on', $producer);
all_say(0, $known, '... unseen');
$node->adjust_conf('postgresql.conf', 'synchronous_standby_names', "''");
$node->reload;
comes_to(209, 'without the setting all can be read');
all_say(0, 209, '... by all');

# It comes: what was read goes on to be.
set_standby();
@waiting = (waiting(q{CALL topics.send('t', 'lost', partition => 0)}));
all_say(0, 209, 'with it what could be read can be, and no more');

# ----------------------------------------------------------------------
# The primary is lost, and the standby promoted
# ----------------------------------------------------------------------

$standby->append_conf('postgresql.conf', "synchronous_standby_names = ''");
$node->stop('immediate');
$standby->start;
$standby->promote;
my $promoted = Session->new($standby);
my $end = $promoted->value(
	q{SELECT o.offset FROM topics.list_offsets('t', 'latest') o WHERE partition = 0});
cmp_ok($end, '>=', 107, 'what was confirmed is there');
is($promoted->query(q{CALL topics.send('t', 'instead', partition => 0)})->{rows}[0],
	"0|$end", 'the next offset is given to another record');
is($promoted->value(qq{SELECT string_agg(value, '') FROM topics.fetch('t', 0, $end)}),
	'instead', '... which a reader gets who goes on');
done_testing();
