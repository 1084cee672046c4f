# What others hold keeps the worker from dropping and compacting, and nothing
# fails: topics.worker names who is in the way, whatever it is, and until when.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

my $primary = topics_node(
	'primary',
	init => { allows_streaming => 1 },
	conf =>
	  "pg_topics.worker_interval = '100ms'\nautovacuum = off\nmax_prepared_transactions = 5\nwal_receiver_status_interval = '1s'\n"
);
$primary->backup('base');

# the rows of what is late
sub delays
{
	my (%options) = @_;

	return $primary->safe_psql(
		'postgres',
		q{SELECT topic, partition, step, failures, sqlstate, message, hint FROM topics.worker
			WHERE sqlstate IN ('55P03', '55006') ORDER BY topic, step},
		extra_params => $options{user} ? [ '-U', $options{user} ] : []);
}

# When a step was first held up
sub delayed_since
{
	my ($step) = @_;

	return $primary->safe_psql('postgres',
		"SELECT failing_since FROM topics.worker WHERE step = '$step'");
}

sub comes_to_be
{
	my ($expected, $test_name) = @_;
	my $found;

	poll_until(sub { ($found = delays()) eq $expected });
	is($found, $expected, $test_name);
}

# 100 records, sealed
sub fill
{
	my ($topic) = @_;

	$primary->safe_psql(
		'postgres', qq{
		SELECT count(topics.produce('$topic', repeat('x', 1000), (i % 10)::text)) FROM generate_series(1, 100) i;
		CALL topics.roll_segment('$topic')});
	return;
}

sub is_compacted
{
	my ($topic, $test_name) = @_;

	$primary->safe_psql('postgres', "CALL topics.maintain('$topic')");
	return ok(
		$primary->poll_query_until(
			'postgres',
			"SELECT count(*) = count(DISTINCT key) FROM topic.$topic WHERE \"offset\" < 100"),
		$test_name);
}

$primary->safe_psql(
	'postgres', q{
	CREATE ROLE owner LOGIN;
	CREATE ROLE other LOGIN;
	SELECT topics.create_roles();
	GRANT topics_reader TO owner, other;
	GRANT CREATE, USAGE ON SCHEMA topic TO owner;
	SET ROLE owner;
	SELECT topics.create_topic('dropped', 2, retention_time => '-1 s');
	SELECT topics.create_topic('compacted', retention_time => '-1 s', cleanup_policy => 'compact', min_cleanable_dirty_ratio => 0)}
);
is(delays(), '', 'nothing is late');

# ----------------------------------------------------------------------
# A lock, of a transaction that was prepared and forgotten
# ----------------------------------------------------------------------

$primary->safe_psql(
	'postgres', q{
	SELECT count(topics.produce('dropped', 'x', partition => 1)) FROM generate_series(1, 100) i;
	CALL topics.roll_segment('dropped');
	BEGIN; SELECT count(*) FROM topic.dropped; PREPARE TRANSACTION 'for "gotten';
	SELECT topics.delete_records('dropped', 1, 100)});
my $by_prepared =
  'dropped|1|drop||55P03|a lock of prepared transaction "for "gotten" is in the way|Use COMMIT PREPARED \'for "gotten\' or ROLLBACK PREPARED \'for "gotten\' in database "postgres".';
comes_to_be($by_prepared, 'dropping waits for a prepared transaction');
like(
	$primary->safe_psql(
		'postgres', q{SELECT now() - failing_since FROM topics.worker WHERE step = 'drop'}),
	qr/^00:00:(0[5-9]|[1-9])/,
	'... since then');
my $first_since = delayed_since('drop');
is(scalar(grep { delayed_since('drop') ne $first_since } 1 .. 10), 0, '... at each look');
ok( $primary->poll_query_until(
		'postgres',
		q{SELECT next_try BETWEEN now() - interval '1 s' AND now() + interval '1 s' FROM topics.worker WHERE step = 'drop'}
	),
	'... and is tried again with the next round');
is(delays(user => 'owner'), $by_prepared, '... which the owner may see');
is(delays(user => 'other'), '', '... and not everybody');
$primary->safe_psql('postgres', q{ROLLBACK PREPARED 'for "gotten'});
is(delays(), '', 'it has ended, and nobody is in the way');
ok( $primary->poll_query_until(
		'postgres',
		q{SELECT count(*) = 0 FROM topics.segment WHERE topic = 'dropped' AND state = 'deleted'}),
	'... and the segment goes');

# ----------------------------------------------------------------------
# A lock, of a process
# ----------------------------------------------------------------------

my $session = Session->new($primary);
$session->value('BEGIN; SELECT count(*) FROM topic.compacted');
fill('compacted');
comes_to_be(
	"compacted|0|compact||55P03|a lock of process $session->{pid} is in the way|It goes on when that transaction ends.",
	'compaction waits for a session');
my $since = delayed_since('compact');
$primary->safe_psql('postgres', q{CALL topics.maintain('compacted')});
is(delayed_since('compact'), $since, '... also after somebody has tried in vain');
# when the run is given up, it is known when the next one comes
ok( $primary->poll_query_until(
		'postgres',
		q{SELECT next_try > now() + interval '2 s' AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'pg_topics compactor') FROM topics.worker WHERE step = 'compact'}
	),
	'... and it is tried again after some time');
$session->value('COMMIT');
is(delays(), '', 'it has ended');
is( $primary->safe_psql(
		'postgres',
		q{SELECT topic, partition, step, failures, sqlstate, message, next_try > now(), failing_since FROM topics.worker}
	),
	"compacted|0|compact||00000|nobody is in the way any more|t|$since",
	'... and the next try is still to come');
is_compacted('compacted', '... and the topic is compacted');
ok( $primary->poll_query_until(
		'postgres', q{SELECT count(*) = 0 FROM topics.worker WHERE step IS NOT NULL}),
	'... which nothing is said of any more');

# ----------------------------------------------------------------------
# Snapshots
# ----------------------------------------------------------------------

# Of each kind: what begins it, what ends it, and what is said of it.
my $name = 'compacted1';

sub waits_for_snapshot
{
	my ($kind, $begin, $text, $end) = @_;

	$primary->safe_psql('postgres',
		qq{SELECT topics.create_topic('$name', retention_time => '-1 s', cleanup_policy => 'compact', min_cleanable_dirty_ratio => 0)}
	);
	$begin->();
	fill($name);
	comes_to_be("$name|0|compact||55006|" . $text->(), "compaction waits for a snapshot: $kind");
	if ($end)
	{
		$end->();
		ok(poll_until(sub { delays() eq '' }), '... which has ended');
		is_compacted($name, '... and the topic is compacted');
	}
	$name++;
	return;
}

waits_for_snapshot(
	'of a process',
	sub { $session->value('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1') },
	sub {
		"process $session->{pid} has a transaction that may still need what is to go|It goes on when that transaction ends.";
	},
	sub { $session->value('COMMIT') });
waits_for_snapshot(
	'a process that writes',
	sub { $session->value('BEGIN; SELECT pg_current_xact_id() IS NULL') },
	sub {
		"process $session->{pid} has a transaction that may still need what is to go|It goes on when that transaction ends.";
	},
	sub { $session->value('COMMIT') });
waits_for_snapshot(
	'a prepared transaction',
	sub { $primary->safe_psql('postgres', q{BEGIN; CREATE TABLE t (); PREPARE TRANSACTION 'p'}) },
	sub {
		q{prepared transaction "p" is older than what is to be done|Use COMMIT PREPARED 'p' or ROLLBACK PREPARED 'p' in database "postgres".};
	},
	sub { $primary->safe_psql('postgres', q{ROLLBACK PREPARED 'p'}) });

my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "hot_standby_feedback = on\n");
$standby->start;
my $reader = Session->new($standby);

# Its snapshot is known to the primary.
sub read_on_standby
{
	my ($known) = @_;

	# or what it has still to replay is in conflict with the snapshot
	$primary->wait_for_catchup($standby);
	$reader->value('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM topics.topic');
	ok($primary->poll_query_until('postgres', "SELECT count(*) = 1 FROM $known"),
		'the standby has told of a query');
	return;
}
waits_for_snapshot(
	'of a standby',
	sub { read_on_standby(q{pg_stat_replication WHERE backend_xmin IS NOT NULL}) },
	sub {
		my $walsender = $primary->safe_psql('postgres', q{SELECT pid FROM pg_stat_replication});

		"the standby of process $walsender has a query that may still need what is to go|It goes on when that query ends; see hot_standby_feedback.";
	},
	sub { $reader->value('COMMIT') });

# With a slot, the standby may be gone for ever.
$primary->safe_psql('postgres', q{SELECT pg_create_physical_replication_slot('left')});
$standby->append_conf('postgresql.conf', "primary_slot_name = 'left'\n");
$standby->reload;
waits_for_snapshot(
	'a slot whose standby is no more',
	sub {
		read_on_standby(q{pg_replication_slots WHERE xmin IS NOT NULL});
		$standby->stop('immediate');
	},
	sub {
		'replication slot "left" keeps what is to go for its standby|It goes on when the query on the standby ends. If there is no such standby any more, drop the slot.';
	},
	sub {
		ok( $primary->poll_query_until('postgres', q{SELECT NOT active FROM pg_replication_slots}),
			'the slot is left');
		$primary->safe_psql('postgres', q{SELECT pg_drop_replication_slot('left')});
	});
done_testing();
