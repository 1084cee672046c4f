# Physical standbys: what is read there is always a dense prefix, producing
# is refused until promotion, and goes on after it.  A tail that was lost by
# promotion or by recovery to an earlier point is loud: who had read it gets
# "offset out of range".

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Topics;
use TopicState;

my $primary = topics_node(
	'primary',
	init => { allows_streaming => 1, has_archiving => 1 },
	conf =>
	  "pg_topics.worker_interval = '1h'\nmax_wal_senders = 5\nwal_keep_size = '256MB'\nautovacuum = off\n"
);
$primary->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('log', 2, segment_bytes => 65536);
	SELECT topics.produce('log', 'first ' || i, partition => i % 2) FROM generate_series(1, 100) i;});
$primary->backup('base');

sub make_standby
{
	my ($name) = @_;
	my $standby = PostgreSQL::Test::Cluster->new($name);

	$standby->init_from_backup($primary, 'base', has_streaming => 1);
	$standby->start;
	return $standby;
}

sub catch_up
{
	my ($standby) = @_;

	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
}

# ----------------------------------------------------------------------
# Reading on a standby
# ----------------------------------------------------------------------

my $standby = make_standby('standby');
catch_up($standby);
same_state(
	$standby, 'postgres',
	same_state($primary, 'postgres'),
	'the standby shows what the primary does');

# One statement's view of a partition: dense, and all ways of looking agree
# that it is no shorter than what was seen before.
my $look = q{
	SELECT count(*) || ' ' || coalesce(min("offset"), 0) || ' ' || coalesce(max("offset") + 1, 0) FROM topic.log WHERE partition = 0;
	SELECT count(*) || ' ' || min(f.offset) || ' ' || max(f.offset) + 1 FROM topics.fetch('log', 0, 0, 1000000, 1000000000) f;
	SELECT "offset" FROM topics.list_offsets('log', 'latest') WHERE partition = 0;
	SELECT log_end_offset FROM topics.partition WHERE topic = 'log' AND partition = 0;
	SELECT max(log_end_offset) FROM topics.segment WHERE topic = 'log' AND partition = 0 AND state <> 'spare';};

# The primary produces, aborts and rolls while readers look.  The same session
# throughout, so that what it has cached of the segments grows old.
my $reader = $standby->background_psql('postgres');
my $repeatable = $standby->background_psql('postgres');
$repeatable->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
my ($looks, $gaps, $back, $previous) = (0, 0, 0, 0);
for my $round (1 .. 15)
{
	my $writer = IPC::Run::start(
		[ 'psql', '-Xq', '-d', $primary->connstr('postgres') ],
		'<',
		\(  join "\n",
			(   map {
					qq{SELECT count(topics.produce('log', 'round $round statement $_ ' || i, partition => i % 2)) FROM generate_series(1, 60) i;
			BEGIN; SELECT topics.produce('log', 'gone'); ROLLBACK;
			CALL topics.roll_segment('log', 0);}
				} 1 .. 3)),
		'>',
		\my $output,
		'2>',
		\my $errors);
	for (1 .. 6)
	{
		my @ends = split /\n/, $reader->query_safe($look);
		die "unexpected: @ends" unless @ends == 5;
		for my $end (@ends)
		{
			if ($end =~ /^(\d+) (\d+) (\d+)$/)
			{
				$gaps++ unless $1 == $3 && $2 == 0;
				$end = $3;
			}
			$back++ if $end < $previous;
			$previous = $end;
		}
		$looks++;
	}
	$writer->finish;
	die $errors if $errors;
}
is($gaps, 0, "$looks looks at the standby saw no gap");
is($back, 0, 'and each look saw no less than the one before');
is($repeatable->query_safe('SELECT count(*) FROM topic.log WHERE partition = 0'),
	'50', 'an old snapshot on the standby still sees its own prefix');
is( $repeatable->query_safe(
		q{SELECT count(*), max(f.offset) FROM topics.fetch('log', 0, 0, 100000) f}),
	'50|49',
	'also through fetch');
$repeatable->quit;
catch_up($standby);
is( $reader->query_safe('SELECT max("offset") + 1 FROM topic.log WHERE partition = 0'),
	$primary->safe_psql(
		'postgres', q{SELECT log_end_offset FROM topics.partition WHERE partition = 0}),
	'an old session on the standby sees the end');
$reader->quit;
same_state($standby, 'postgres', same_state($primary, 'postgres'), 'the standby caught up');
check_files($standby, 'postgres', 'standby');
cmp_ok($standby->safe_psql('postgres', q{SELECT count(*) FROM topics.segment WHERE partition = 0}),
	'>', 40, 'over many segments');

for my $command (
	q{SELECT topics.produce('log', 'x')},
	q{SELECT topics.produce_batch('log', ARRAY['x'])},
	q{INSERT INTO topic.log (value) VALUES ('x')},
	"COPY topic.log (value) FROM stdin;\nx\n\\.",
	q{CALL topics.send('log', 'x')},
	q{SELECT topics.create_topic('other')},
	q{SELECT topics.alter_topic('log', notify => false)},
	q{SELECT topics.add_partitions('log', 3)},
	q{SELECT topics.rename_topic('log', 'other')},
	q{SELECT topics.drop_topic('log')},
	q{CALL topics.roll_segment('log')},
	q{CALL topics.maintain()})
{
	my ($state, $message) = sqlstate_of($standby, 'postgres', "$command;\n");
	my $name = (split /\n/, $command)[0];
	is($state, '25006', "on a standby: $name");
	like($message, qr/cannot execute .* (in a read-only transaction|during recovery)/,
		'... says so');
}
is((sqlstate_of($standby, 'postgres', q{SELECT * FROM topics.fetch('log', 0, 1000000)}))[0],
	'TP001', 'out of range on a standby');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM topics.last_produced()}),
	'0', 'nothing was produced there');

# ----------------------------------------------------------------------
# Promotion with everything received
# ----------------------------------------------------------------------

my $complete = make_standby('complete');
catch_up($complete);
my $before = same_state($primary, 'postgres');
my ($end) = $primary->safe_psql('postgres',
	q{SELECT log_end_offset FROM topics.partition WHERE partition = 0});
# a session that has read while it was a standby
my $old_session = $complete->background_psql('postgres');
is( $old_session->query_safe(
		q{SELECT "offset" FROM topics.list_offsets('log', 'latest') WHERE partition = 0}),
	$end,
	'the end, before promotion');
$complete->promote;
is( $complete->safe_psql('postgres', q{CALL topics.send('log', 'after promotion', partition => 0)}),
	"0|$end",
	'produce goes on at the next offset');
is( $old_session->query_safe(q{CALL topics.send('log', 'from an old session', partition => 0)}),
	'0|' . ($end + 1),
	'also in a session that was there before');
is( $old_session->query_safe(
		qq{SELECT string_agg(value, ',' ORDER BY f.offset) FROM topics.fetch('log', 0, $end) f}),
	'after promotion,from an old session',
	'and reads there');
$old_session->quit;
$complete->safe_psql('postgres', q{CALL topics.roll_segment('log', 0)});
is( $complete->safe_psql('postgres', q{CALL topics.send('log', 'rolled', partition => 0)}),
	'0|' . ($end + 2),
	'segments roll');
wait_for_worker($complete, 'postgres', 'the worker has started');
check_files($complete, 'postgres', 'promoted');
$complete->stop;

# ----------------------------------------------------------------------
# Promotion without the tail
# ----------------------------------------------------------------------

# The standby is cut off; the primary goes on, and rolls; then it is lost.
catch_up($standby);
$standby->stop;
$standby->adjust_conf('postgresql.conf', 'primary_conninfo', "''");
$standby->start;
is($primary->safe_psql('postgres', q{CALL topics.send('log', 'lost', partition => 0)}),
	"0|$end", 'a record that will be lost');
$primary->safe_psql('postgres', q{CALL topics.roll_segment('log', 0)});
$primary->safe_psql('postgres', q{SELECT topics.produce('log', 'lost too', partition => 0)});
is( $primary->safe_psql(
		'postgres',
		qq{SELECT string_agg(value, ',' ORDER BY f.offset) FROM topics.fetch('log', 0, $end) f}),
	'lost,lost too',
	'a consumer has read it');
my $consumer = $end + 2;

$standby->promote;
is( $standby->safe_psql(
		'postgres', q{SELECT log_end_offset FROM topics.partition WHERE partition = 0}),
	$end,
	'the new primary ends before it');
my ($state, $message) =
  sqlstate_of($standby, 'postgres', "SELECT * FROM topics.fetch('log', 0, $consumer)");
is($state, 'TP001', 'the consumer gets offset out of range');
like($message, qr/OFFSET_OUT_OF_RANGE/, 'with the name that Kafka gives it');
like($message, qr/\b$end\b/, 'and the end of the log');
is($standby->safe_psql('postgres', qq{SELECT count(*) FROM topics.fetch('log', 0, $end)}),
	'0', 'who stands at the end waits');
same_state($standby, 'postgres', $before, 'the rest is there');
is($standby->safe_psql('postgres', q{CALL topics.send('log', 'instead', partition => 0)}),
	"0|$end", 'producing goes on there');
check_files($standby, 'postgres', 'promoted without the tail');
$standby->stop;

# ----------------------------------------------------------------------
# Recovery to a point in time
# ----------------------------------------------------------------------

my $wal_here =
  $primary->safe_psql('postgres', q{SELECT pg_walfile_name(pg_create_restore_point('here'))});
my $here = same_state($primary, 'postgres');
my $end_here = $primary->safe_psql('postgres',
	q{SELECT log_end_offset FROM topics.partition WHERE partition = 0});
$primary->safe_psql(
	'postgres', q{
	CALL topics.roll_segment('log', 0);});
$primary->safe_psql(
	'postgres', q{
	SELECT topics.produce('log', 'later ' || i, partition => 0) FROM generate_series(1, 10) i;
	SELECT topics.create_topic('later');
	SELECT pg_switch_wal()});
# not up to where the log is now: the worker may have written to the next file
$primary->poll_query_until('postgres',
	qq{SELECT last_archived_wal >= '$wal_here' FROM pg_stat_archiver})
  or die 'not archived';

my $restored = PostgreSQL::Test::Cluster->new('restored');
$restored->init_from_backup($primary, 'base', has_restoring => 1, standby => 0);
$restored->append_conf('postgresql.conf',
	"recovery_target_name = 'here'\nrecovery_target_timeline = 'current'\nrecovery_target_action = 'promote'\n"
);
$restored->start;
$restored->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'still recovering';
same_state($restored, 'postgres', $here, 'recovery to a point in time shows that point');
is( (sqlstate_of($restored, 'postgres', "SELECT * FROM topics.fetch('log', 0, $end_here + 10)"))[0],
	'TP001',
	'who has read later records gets offset out of range');
is($restored->safe_psql('postgres', q{CALL topics.send('log', 'instead', partition => 0)}),
	"0|$end_here", 'producing goes on at the point');
check_files($restored, 'postgres', 'recovered');

for my $node ($primary, $standby, $complete, $restored)
{
	is( join("\n",
			grep { /PANIC|TRAP|terminated by signal/ } split /\n/,
			slurp_file($node->logfile)),
		'',
		'no crash on ' . $node->name);
}

done_testing();
