# The internal topic __consumer_offsets is compacted: whatever step the server is
# killed at, groups and committed offsets are afterwards what they were; commits
# go on meanwhile; a restart reads little; and a standby that has not looked while
# there was a tombstone has heard of it all the same.
#
# PG_TOPICS_LONG: 100,000 commits instead of 30,000.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Session;
use Topics;
use TopicState;

my $node = topics_node(
	'main',
	points => 1,
	init => { allows_streaming => 1 },
	conf => q{
fsync = on
autovacuum = off
log_statement = none
max_worker_processes = 0
});
$node->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('t', 3);
	SELECT count(topics.produce('t', 'v', partition => p)) FROM generate_series(0, 2) p, generate_series(1, 5);
	CREATE PROCEDURE commit_often(name text, commits int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. commits LOOP
			PERFORM topics.reset_offset(name, 't', i % 3, to_offset => i % 5);
			COMMIT;
		END LOOP;
	END $$;
	SELECT topics.commit_offset('kept', 't', 2, 2, E'meta "data"');});

my $state_query = q{
	SELECT group_id, owner, group_type, state FROM topics.consumer_group ORDER BY 1;
	SELECT group_id, topic, partition, committed_offset, metadata, commit_time AT TIME ZONE 'UTC' FROM topics.consumer_offset ORDER BY 1, 2, 3;
	SELECT * FROM topics.consumer_lag ORDER BY 1, 2, 3;};
sub state { my ($where) = @_; return $where->safe_psql('postgres', $state_query) }

# Settings of the internal topic, which alter_topic leaves alone
sub set
{
	my ($assignments) = @_;

	return $node->safe_psql(
		'postgres', qq{
		UPDATE topic_log.topic SET $assignments WHERE view = 'topic.__consumer_offsets'::regclass;
		GRANT SELECT ON topic.__consumer_offsets TO CURRENT_USER;});    # so that everybody hears of it
}

my $superseded = q{SELECT count(*) - count(DISTINCT key) FROM topic.__consumer_offsets};

# ----------------------------------------------------------------------
# Killed at every step
# ----------------------------------------------------------------------

set('min_cleanable_dirty_ratio = 0');
for my $point (qw(compact-mapped compact-copied compact-swapped))
{
	for my $fate ('goes on', 'is killed')
	{
		my $what = "at $point it $fate";
		my $by_hand = Session->new($node);

		$node->safe_psql(
			'postgres', q{
			SELECT count(*) FROM topics.consume('latest', 't', auto_offset_reset => 'latest');
			SELECT topics.commit_offset('deleted', 't', 2, 3);
			CALL commit_often('busy', 200);
			SELECT topics.delete_group('deleted');
			CALL topics.roll_segment('__consumer_offsets');});
		my $before = state($node);
		stop_at($node, $point);
		$by_hand->send(q{CALL topics.maintain('__consumer_offsets')});
		ok(defined wait_until_at($node, $point), "$what: somebody comes there") or next;
		if ($point ne 'compact-swapped')
		{
			$node->safe_psql('postgres',
				q{SELECT topics.reset_offset(g, 't', 1, to_offset => 4) FROM unnest(ARRAY['busy', 'kept', 'late']) g}
			);
			isnt(state($node), $before, '... commits go on meanwhile');
			$before = state($node);
		}
		if ($fate eq 'goes on')
		{
			go_on_from($node, $point);
		}
		else
		{
			kill_server($node);
			go_on_from($node, $point);
			$node->start;
			is(state($node), $before, '... and all is there');
		}
		ok(compact_by_hand($node, '__consumer_offsets'), '... it is finished');
		is($node->safe_psql('postgres', $superseded), '0', '... with one record of each key');
		is(state($node), $before, '... and what was committed');
		$node->restart;
		is(state($node), $before, '... also after a restart');
	}
}
is( $node->safe_psql(
		'postgres',
		q{SELECT committed_offset, metadata FROM topics.consumer_offset WHERE group_id = 'kept' AND partition = 2}
	),
	'2|meta "data"',
	'metadata is read from the record that stayed');

# ----------------------------------------------------------------------
# How much a restart reads: with the settings that the topic has
# ----------------------------------------------------------------------

my $commits = $ENV{PG_TOPICS_LONG} ? 100_000 : 30_000;
my $records = 'SELECT count(*) FROM topic.__consumer_offsets';

set('min_cleanable_dirty_ratio = 0.5');
$node->append_conf('postgresql.conf', 'max_worker_processes = 8');
my $holder = Session->new($node);
$holder->value('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM topics.consumer_group');
$node->safe_psql('postgres', "CALL commit_often('busy', $commits)");
cmp_ok($node->safe_psql('postgres', $records),
	'>=', $commits, "$commits commits under a snapshot: the log has them all");
my $before = state($node);
my $start;

sub reload
{
	my ($name) = @_;

	$node->restart;
	$start = time;
	is(state($node), $before, $name);
	return time - $start;
}
my $held = reload('... a restart rebuilds what was committed');
ok( $node->poll_query_until('postgres', "SELECT count(*) < 12000 FROM topic.__consumer_offsets"),
	'the snapshot is gone, and the worker leaves a segment at most of what is not compacted');
my $short = reload('... and what was committed');
$node->append_conf('postgresql.conf', 'max_worker_processes = 0');
$node->restart;
$node->safe_psql('postgres',
	q{BEGIN; SELECT topics.drop_topic('t'); SELECT count(*) FROM topics.consumer_group; ROLLBACK;});
is(state($node), $before,
	'the first to load what was committed has dropped the topic, and rolls back');
note(sprintf 'loaded in %.0f ms, then in %.0f ms', 1000 * $held, 1000 * $short);

# ----------------------------------------------------------------------
# A standby
# ----------------------------------------------------------------------

$node->safe_psql(
	'postgres', q{SELECT topics.commit_offset(g, 't', 0, 1) FROM unnest(ARRAY['goes', 'stays']) g;
	SELECT count(*) FROM topics.consume('goes too', 't', auto_offset_reset => 'latest')});
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby', install_path => $ENV{PG_TOPICS_POINTS});
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('flush'));
is(state($standby), state($node), 'the standby shows what the primary does');

set(q{min_cleanable_dirty_ratio = 0, delete_retention_time = '0'});
$node->safe_psql('postgres',
	q{SELECT topics.delete_group(g) FROM unnest(ARRAY['goes', 'goes too']) g});
ok(compact_by_hand($node, '__consumer_offsets'), 'groups are deleted');
ok( poll_until(
		sub {
			$node->safe_psql('postgres', q{CALL topics.maintain('__consumer_offsets')});
			return $node->safe_psql('postgres',
				q{SELECT count(*) FROM topic.__consumer_offsets WHERE key LIKE '%/goes%'}) eq '0';
		}),
	'... and their tombstones go');
$node->wait_for_catchup($standby, 'replay', $node->lsn('flush'));
$before = state($node);
$node->stop;
is(state($standby), $before, '... the standby has heard of it');
$standby->promote;
is(state($standby), $before, '... a promotion finds the same');
is((sqlstate_of($standby, 'postgres', q{SELECT topics.delete_group('goes')}))[0],
	'42704', '... and a group is no more');
is( $standby->safe_psql(
		'postgres',
		q{SELECT topics.commit_offset('stays', 't', 0, 4); SELECT count(*) FROM topics.consume('goes too', 't')}
	),
	"\n5",
	'... others go on, and begin anew');
$standby->stop;
unlike(
	slurp_file($_->logfile),
	qr/PANIC|TRAP|was terminated by signal (?!9)/,
	'nothing has crashed on ' . $_->name) for $node, $standby;
done_testing();
