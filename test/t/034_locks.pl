# A full lock table is PostgreSQL's error with its hint, leaves nothing half
# made and hurts nobody else; and users' event triggers see nothing of what
# pg_topics makes for itself.

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
	few_locks => 1,
	conf => q{
	pg_topics.worker_interval = '1h'
	# room for one of the attempts below, not for what each would leave
	pg_topics.max_partitions = 2500
});

# Everything in the catalogues that a topic leaves
my $objects = q{
	SELECT (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_attribute), (SELECT count(*) FROM pg_depend),
		(SELECT count(*) FROM pg_inherits), (SELECT count(*) FROM pg_trigger), (SELECT count(*) FROM topic_log.topic),
		(SELECT count(*) FROM topic_log.partition)};

$node->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('log', 2);
	SELECT topics.produce('log', 'record ' || i, partition => i % 2) FROM generate_series(1, 10) i;});
my $before = $node->safe_psql('postgres', $objects);
my $state_before = same_state($node, 'postgres');

# A reader and a producer are in the middle of their work meanwhile
my $reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM topic.log');
my $producer = $node->background_psql('postgres');
$producer->query_safe(q{BEGIN; SELECT topics.produce('log', 'open', partition => 0)});

my $many = 2000;
for my $call (
	"SELECT topics.create_topic('many', $many)",
	"SELECT topics.add_partitions('log', $many)",
	"SELECT topics.create_topic('many', $many)")
{
	my ($state, $message) = sqlstate_of($node, 'postgres', $call);

	is($state, '53200', "the lock table is full: $call");
	like($message, qr/out of shared memory/, '... is the error');
	like($message, qr/HINT:.*max_locks_per_transaction/, '... with the setting');
	is($node->safe_psql('postgres', $objects), $before,
		'... and nothing is left in the catalogues');
	same_state(
		$node, 'postgres',
		{ %$state_before, '(catalogue)' => topic_state($node, 'postgres') },
		'... records are as they were');
}
is( $node->safe_psql('postgres', q{SELECT string_agg(topic || partitions, ' ') FROM topics.topic}),
	'log2',
	'topics are as they were');

$producer->query_safe('COMMIT');
$producer->quit;
is($reader->query_safe('SELECT count(*) FROM topic.log'), '10', 'the reader goes on');
$reader->quit;
is($node->safe_psql('postgres', q{CALL topics.send('log', 'after', partition => 0)}),
	'0|6', 'produce goes on');
is( $node->safe_psql(
		'postgres',
		q{SELECT topics.create_topic('many', 3); SELECT partitions FROM topics.topic WHERE topic = 'many'}
	),
	"\n3",
	'a topic of fewer partitions can be created by that name');
$node->safe_psql('postgres', q{SELECT topics.add_partitions('log', 4)});
is($node->safe_psql('postgres', q{CALL topics.send('log', 'new partition', partition => 3)}),
	'3|0', 'and partitions added');

# Several topics, and a transaction into all of their partitions
$node->safe_psql('postgres', "SELECT topics.create_topic('w$_', 10)") for 1 .. 3;
$node->safe_psql('postgres',
	q{SELECT topics.produce('w' || t, 'x', partition => p) FROM generate_series(1, 3) t, generate_series(0, 9) p}
);
is( $node->safe_psql(
		'postgres', q{SELECT sum(log_end_offset) FROM topics.partition WHERE topic LIKE 'w%'}),
	'30',
	'a transaction into 30 partitions');
check_files($node, 'postgres', 'with a small lock table');

# ----------------------------------------------------------------------
# Event triggers
# ----------------------------------------------------------------------

# One that notes what it sees, and one that would refuse it.
$node->safe_psql(
	'postgres', q{
	CREATE TABLE seen (tag text, object text);
	CREATE FUNCTION note_end() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO seen SELECT tg_tag, object_identity FROM pg_event_trigger_ddl_commands(); END $$;
	CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
		IF current_setting('test.refuse', true) = 'on' THEN RAISE 'no DDL: %', tg_tag; END IF; END $$;
	CREATE EVENT TRIGGER note_end ON ddl_command_end EXECUTE FUNCTION note_end();
	CREATE EVENT TRIGGER refuse ON ddl_command_start EXECUTE FUNCTION refuse();
	CREATE TABLE proof (); });
is($node->safe_psql('postgres', 'SELECT count(*) FROM seen'), '1', 'the event trigger works');
isnt($node->psql('postgres', q{SET test.refuse = on; CREATE TABLE refused ()}),
	0, 'the other one too');
$node->safe_psql('postgres', 'TRUNCATE seen');

# Producing with a segment to be attached on the way, rolling, maintaining
$node->safe_psql('postgres', q{SET test.refuse = on; CALL topics.roll_segment('log')});
$node->safe_psql('postgres', q{SET test.refuse = on; CALL topics.maintain()});
$node->safe_psql('postgres',
	q{SET test.refuse = on; SELECT count(topics.produce('w1', repeat('x', 100), partition => 0)) FROM generate_series(1, 3000)}
);
my $segments = $node->safe_psql('postgres',
	q{SELECT count(*) FROM topics.segment WHERE topic = 'log' AND partition = 0});
cmp_ok($segments, '>', 1, 'segments were made');
$node->safe_psql('postgres', q{ALTER SYSTEM SET pg_topics.worker_interval = '100ms'});
$node->append_conf('postgresql.conf', "test.refuse = on\n");
$node->reload;
wait_for_worker($node, 'postgres', 'the worker runs');
$node->safe_psql('postgres',
	q{SELECT topics.alter_topic('w2', segment_time => '1 ms'); SELECT topics.produce('w2', 'x', partition => 0)}
);
ok( $node->poll_query_until(
		'postgres', q{SELECT count(*) = 1 FROM topics.segment s JOIN topics.topic USING (topic)
	JOIN pg_index i ON i.indrelid = ('topic_log.t' || topic_id || '_p0_s1')::regclass
	WHERE topic = 'w2' AND partition = 0 AND state = 'sealed' AND base_offset = 0}),
	'the worker rolls and seals');
is($node->safe_psql('postgres', 'SELECT count(*) FROM seen'),
	'0', 'event triggers saw nothing of segments');

is(join("\n", grep { /PANIC|TRAP|terminated by signal/ } split /\n/, slurp_file($node->logfile)),
	'', 'no crash');
done_testing();
