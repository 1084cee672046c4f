# Limits of groups: shared memory that is full is an error that names the setting,
# hurts nobody else, and its places are used again; 10,000 groups work, and are
# there after a restart; commits under a snapshot that is held open leave no dead
# rows and cost the same; many partitions and few sessions, with skewed load,
# starve none.
#
# PG_TOPICS_LONG: 100,000 commits instead of 10,000.

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

# ----------------------------------------------------------------------
# Full
# ----------------------------------------------------------------------

my $small =
  topics_node('small', conf => "pg_topics.max_group_offsets = 100\nlog_statement = none\n");
$small->safe_psql(
	'postgres', q{SELECT topics.create_topic('t', 3); SELECT topics.create_topic('wide', 200);
	SELECT topics.produce('t', 'v', partition => p) FROM generate_series(0, 2) p});

# A group takes 1 place, 1 for the topic, 1 per partition in which it committed
sub fill
{
	my $made = 0;

	while (1)
	{
		my ($state, $message) =
		  sqlstate_of($small, 'postgres', "SELECT topics.commit_offset('g$made', 't', 0, 0)");

		return ($made, $state, $message) if $state ne '00000';
		$made++;
	}
}

my ($made, $state, $message) = fill();
is($state, '54000', 'when all places are taken, another group fails');
like($message, qr/HINT:.*pg_topics\.max_group_offsets/, '... and the error names the setting');
cmp_ok($made, '>=', 45, "... after $made groups");
is($small->safe_psql('postgres', q{SELECT count(*) FROM topics.consumer_group}),
	$made, '... which are there');
is((sqlstate_of($small, 'postgres', q{SELECT topics.commit_offset('g1', 't', 0, 1)}))[0],
	'00000', '... and go on');
is( (   sqlstate_of(
			$small, 'postgres',
			q{SELECT * FROM topics.consume('late', 't', auto_offset_reset => 'latest')}))[0],
	'54000',
	'... consume fails too');
is((sqlstate_of($small, 'postgres', q{CALL topics.send('t', 'v')}))[0],
	'00000', '... but no producer');
$small->safe_psql('postgres', "SELECT topics.delete_group('g$_')") for 0 .. 4;
$small->safe_psql('postgres',
	"BEGIN; SELECT topics.commit_offset('n', 't', 0, 0); SELECT topics.commit_offset('n', 't', 1, 0); ROLLBACK"
) for 1 .. 20;
is( (   sqlstate_of(
			$small, 'postgres',
			q{SELECT * FROM topics.consume('late', 'wide', auto_offset_reset => 'latest')}))[0],
	'54000',
	'a group that begins at the end of more partitions than there is room for fails');
$small->safe_psql('postgres', "SELECT topics.delete_group('g$_')") for 5 .. $made - 1;
is($small->safe_psql('postgres', 'SELECT count(*) FROM topics.consumer_group'),
	'0', 'all are deleted');
is((fill())[0], $made, '... and as many places are there again, after rollbacks and failures, too');
$small->restart;
is($small->safe_psql('postgres', q{SELECT count(*) FROM topics.consumer_group}),
	$made, 'a restart finds them all');
$small->safe_psql('postgres', q{SELECT topics.drop_topic('t')});
$small->safe_psql('postgres', "SELECT topics.delete_group(group_id) FROM topics.consumer_group");
$small->safe_psql('postgres',
	q{SELECT topics.create_topic('t', 3); SELECT topics.produce('t', 'v', partition => 0)});
is((fill())[0], $made, 'a dropped topic gives its places back');
$small->stop;

# ----------------------------------------------------------------------
# 10,000 groups
# ----------------------------------------------------------------------

my $node = topics_node('main',
	conf => "log_statement = none\nsynchronous_commit = off\npg_topics.worker_interval = '1h'\n");
$node->safe_psql(
	'postgres',
	q{SELECT topics.create_topic('t', 50); SELECT topics.produce('t', 'v', partition => 0);
	CREATE PROCEDURE make(from_number int, upto int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN from_number .. upto LOOP
			PERFORM topics.consume('group ' || i, 't');
			COMMIT;
		END LOOP;
	END $$});
my %time;
for my $step ([ 1, 1000, 'first' ], [ 1001, 9000, 'rest' ], [ 9001, 10000, 'last' ])
{
	my ($from, $upto, $name) = @$step;
	my $start = time;

	$node->safe_psql('postgres', "CALL make($from, $upto)");
	$time{$name} = time - $start;
}
is($node->safe_psql('postgres', 'SELECT count(*) FROM topics.consumer_group'),
	'10000', '10,000 groups');
is( $node->safe_psql(
		'postgres', q{SELECT count(*) FROM topics.consumer_offset WHERE committed_offset = 1}),
	'10000',
	'... with their offsets');
cmp_ok(
	$time{last}, '<',
	5 * $time{first} + 1,
	sprintf '... the last thousand took %.1f s, the first %.1f s',
	@time{qw(last first)});
my $start = time;
$node->restart;
is( $node->safe_psql(
		'postgres', q{SELECT count(*) FROM topics.consumer_offset WHERE committed_offset = 1}),
	'10000',
	sprintf '... after a restart, in %.1f s',
	time - $start);

# ----------------------------------------------------------------------
# Commits under a snapshot that is held open
# ----------------------------------------------------------------------

my $commits = $ENV{PG_TOPICS_LONG} ? 100000 : 10000;
$node->safe_psql(
	'postgres', q{
	SELECT count(topics.produce('t', 'v', partition => 0)) FROM generate_series(1, 5);
	CREATE PROCEDURE commit_often(commits int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. commits LOOP
			PERFORM topics.reset_offset('often', 't', 0, to_offset => i % 5);
			COMMIT;
		END LOOP;
	END $$});
my $dead = q{SELECT coalesce(sum(n_dead_tup + n_tup_upd + n_tup_del), 0)
	FROM pg_stat_user_tables WHERE schemaname IN ('topic_log', 'topics') AND (n_tup_upd > 0 OR n_tup_del > 0 OR n_dead_tup > 0)};
my $slice = $commits / 10;
$node->safe_psql('postgres', 'CALL commit_often(1000)');
$start = time;
$node->safe_psql('postgres', "CALL commit_often($slice)");
my $alone = time - $start;
my $holder = Session->new($node);
$holder->value('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM topics.consumer_group');
my $before = $node->safe_psql('postgres', $dead);
my @slices;

for (1 .. 10)
{
	$start = time;
	$node->safe_psql('postgres', "CALL commit_often($slice)");
	push @slices, time - $start;
}
cmp_ok(
	$slices[-1],
	'<',
	3 * $slices[0] + 1,
	sprintf
	  "$commits commits under a snapshot that is held open: the last tenth took %.2f s, the first %.2f s, one without %.2f s",
	$slices[-1],
	$slices[0],
	$alone);
# what was committed before the snapshot may be compacted meanwhile, in a few updates of the catalogue
cmp_ok(
	$node->safe_psql('postgres', $dead),
	'<',
	$before + 100,
	'... and hardly a row was updated, deleted or left dead');
is( $node->safe_psql(
		'postgres', q{SELECT committed_offset FROM topics.consumer_offset WHERE group_id = 'often'}
	),
	$slice % 5,
	'... the last one counts');
$holder->value('COMMIT');

# ----------------------------------------------------------------------
# Fair: 50 partitions, 3 sessions, and most of the load in one partition
# ----------------------------------------------------------------------

$node->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('skewed', 50);
	SELECT count(topics.produce('skewed', 'v', partition => p)) FROM generate_series(0, 49) p, generate_series(1, CASE WHEN p = 17 THEN 2000 ELSE 4 END);
	CREATE TABLE served (number bigserial, partition int);
	CREATE PROCEDURE serve(calls int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. calls LOOP
			INSERT INTO served (partition) SELECT min(partition) FROM topics.consume('fair', 'skewed', 1) HAVING count(*) > 0;
			-- the busy one gets more all the time
			PERFORM topics.produce('skewed', 'more', partition => 17) FROM generate_series(1, 3);
			COMMIT;
		END LOOP;
	END $$});
my @sessions = map { Session->new($node) } 1 .. 3;
$_->send('CALL serve(50)') for @sessions;
is(join(' ', map { $_->receive->{sqlstate} } @sessions),
	'  ', '3 sessions make 50 transactions each');
is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT partition) FROM served'),
	'150|50', '... and every one of 50 partitions is served');
cmp_ok(
	$node->safe_psql(
		'postgres',
		q{SELECT max(n) FROM (SELECT count(*) AS n FROM served GROUP BY partition HAVING partition <> 17) s}
	),
	'<=', 4,
	'... in turn');
cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FROM served WHERE partition = 17}),
	'<=', 4, '... the busy one no oftener than others');
# alone, a round is a round
is( $node->safe_psql(
		'postgres', q{
	SELECT topics.create_topic('even', 20);
	SELECT topics.produce('even', 'v', partition => p) FROM generate_series(0, 19) p, generate_series(1, 3)}
	) =~ tr/\n//,
	60,
	'records in 20 partitions');
my @order = split /\n/,
  $node->safe_psql('postgres',
	join(";\n", (q{SELECT partition FROM topics.consume('even', 'even', 1)}) x 60));
my @rounds = map {
	[ sort { $a <=> $b } @order[ $_ * 20 .. $_ * 20 + 19 ] ]
} 0 .. 2;
is(scalar(grep { "@$_" eq join(' ', 0 .. 19) } @rounds),
	3, 'one session alone serves each partition once a round');
$node->stop;
done_testing();
