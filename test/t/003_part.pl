# Dumps in part, and what else leaves a topic without one of its parts: it is
# recognised, told of by one view and one error, and put right, or removed, by
# one call.  No offset that was used is given again.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Topics;
use TopicState;

my $node =
  topics_node('node', conf => "pg_topics.worker_interval = '100ms'\nmax_worker_processes = 40\n");
my $dumps = PostgreSQL::Test::Utils::tempdir;

$node->safe_psql(
	'postgres', q{
	CREATE TABLE item (id int PRIMARY KEY, name text);
	SELECT topics.create_topic('orders', 2, segment_bytes => 65536, value_type => 'jsonb');
	SELECT topics.create_topic('quiet');
	SELECT topics.create_topic('changes', segment_bytes => 65536);
	CREATE TRIGGER changed AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION topics.produce_change('changes');
	INSERT INTO item SELECT i, 'name ' || i FROM generate_series(1, 20) i;
	SELECT topics.produce('orders', jsonb_build_object('i', i, 'filler', repeat(md5(i::text), 10)), partition => i % 2) FROM generate_series(1, 300) i;
});
# the floor: raised by a seal, and by the worker's rounds
$node->safe_psql('postgres', q{CALL topics.roll_segment('orders')});
$node->safe_psql('postgres',
	q{SELECT topics.produce('orders', '{}', partition => i % 2) FROM generate_series(1, 114) i});
$node->safe_psql('postgres',
	q{BEGIN; SELECT count(*) FROM topics.consume('work', 'orders', max_records => 50); COMMIT});
my $floors =
  q{SELECT t.topic, p.partition, next_offset_floor FROM topic_log.partition p JOIN topics.topic t USING (topic_id)
	WHERE t.topic !~ '^__' ORDER BY 1, 2};
ok( $node->poll_query_until(
		'postgres', $floors, "changes|0|20\norders|0|207\norders|1|207\nquiet|0|0"),
	'the worker stores the ends of logs');
my $expected = same_state($node, 'postgres');

# An idle server writes nothing: no row changes
my $rows =
  q{SELECT string_agg(p::text || xmin, ' ' ORDER BY topic_id, partition) FROM topic_log.partition p};
my $before = $node->safe_psql('postgres', $rows);
my $round = $node->safe_psql('postgres', 'SELECT last_round FROM topics.worker');
ask_for_worker($node, 'postgres');
$node->poll_query_until('postgres',
	"SELECT last_round > '$round'::timestamptz + interval '1 s' FROM topics.worker");
is($node->safe_psql('postgres', $rows), $before, '... and writes nothing when nothing has moved');

ok( $node->poll_query_until(
		'postgres',
		q{SELECT n_tup_upd > 0 AND n_tup_hot_upd = n_tup_upd FROM pg_stat_user_tables WHERE relid = 'topic_log.partition'::regclass}
	),
	'... and changes rows in place');

# A transaction that has deleted records holds up neither the others nor a seal
my $deleter = $node->background_psql('postgres');
$deleter->query_safe(
	q{BEGIN; SELECT topics.delete_records('quiet', 0, 0); SELECT 1 FROM topic_log.partition FOR UPDATE}
);
$node->safe_psql('postgres',
	q{SELECT topics.produce('changes', 'one more'); CALL topics.roll_segment('changes')});
$deleter->query_safe('ROLLBACK');
$deleter->quit;
ok( $node->poll_query_until(
		'postgres',
		"SELECT next_offset_floor = 21 FROM topic_log.partition JOIN topics.topic USING (topic_id) WHERE topic = 'changes'"
	),
	'a locked row is stored later');
$expected = same_state($node, 'postgres');

my @from = ('--dbname', $node->connstr('postgres'));

sub new_database
{
	my ($name) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $name TEMPLATE template0");
	return ('--dbname', $node->connstr($name));
}

sub dump_and_restore
{
	my ($name, @options) = @_;

	command_ok([ 'pg_dump', @from, @options, '-Fc', '-f', "$dumps/$name" ],
		"$name: pg_dump @options");
	command_ok([ 'pg_restore', '--exit-on-error', new_database($name), "$dumps/$name" ],
		"$name: pg_restore");
	return;
}

sub problems
{
	my ($database) = @_;

	return $node->safe_psql($database,
		'SELECT topic, partition, problem FROM topics.broken_topic ORDER BY 1, 2 NULLS FIRST, 3');
}

# All that a client does with a topic says the same, with the cure.
sub check_refused
{
	my ($database, $topic, @statements) = @_;

	for my $statement (@statements)
	{
		my ($state, $message) = sqlstate_of($node, $database, $statement);

		is($state, '55000', "$database: $statement");
		like($message, qr/topic "$topic" is not complete/, '... says what is wrong');
		like($message, qr/HINT:.*topics\.repair_topic\(\)/, '... and the cure');
	}
	return;
}

sub repair_all
{
	my ($database) = @_;

	return $node->safe_psql(
		$database, q{
		SELECT b.topic, r.partition, r.action FROM (SELECT DISTINCT topic FROM topics.broken_topic) b,
			topics.repair_topic(b.topic) r ORDER BY 1, 2 NULLS FIRST});
}

# After a repair topics work, and offsets are at "least".
sub check_works
{
	my ($database, $topic, $partition, $least, $value) = @_;
	my ($end) = split /\n/,
	  $node->safe_psql($database,
		qq{SELECT l.offset FROM topics.list_offsets('$topic', 'latest') l WHERE partition = $partition}
	  );

	cmp_ok($end, '>=', $least, "$database: $topic goes on at no used offset");
	is( $node->safe_psql(
			$database, qq{CALL topics.send('$topic', '$value', partition => $partition)}),
		"$partition|$end",
		'... and is produced to');
	is( $node->safe_psql(
			$database, qq{SELECT r.offset FROM topics.fetch('$topic', $partition, $end) r}),
		$end,
		'... and read');
	is( $node->safe_psql(
			$database,
			qq{SELECT count(*) > 0 FROM topics.list_offsets('$topic', 'earliest') l, topics.fetch('$topic', $partition, l.offset) WHERE l.partition = $partition}
		),
		't',
		'... from its start');
	return;
}

# ----------------------------------------------------------------------
# Schema only: tables and views without rows
# ----------------------------------------------------------------------

dump_and_restore('schema_only', '--schema-only');
is( problems('schema_only'),
	join("\n",
		map { "$_||The catalogue has no row for it." } qw(__consumer_offsets changes orders quiet)),
	'schema_only: every topic is told of');
check_refused(
	'schema_only',
	'orders',
	q{SELECT topics.create_topic('orders')},
	q{SELECT topics.create_topic('orders', if_not_exists => true)},
	q{SELECT topics.produce('orders', '{}')},
	q{INSERT INTO topic.orders (value) VALUES ('{}')},
	q{SELECT * FROM topics.fetch('orders', 0, 0)},
	q{SELECT topics.alter_topic('orders', notify => false)});
check_refused('schema_only', 'changes', q{INSERT INTO item VALUES (1, 'x')});
check_refused('schema_only', '__consumer_offsets',
	q{SELECT topics.create_topic('other'); SELECT * FROM topics.consume('work', 'other')});
is( $node->safe_psql(
		'schema_only',
		q{SELECT topics.create_topic('new'); SELECT topic_id FROM topics.topic WHERE topic = 'new'}
	),
	"\n6",
	'schema_only: a new topic passes the ids of the others');
$node->safe_psql('schema_only', q{SELECT topics.drop_topic('quiet')});
is( $node->safe_psql(
		'schema_only', q{SELECT to_regclass('topic.quiet'), to_regclass('topic_log.t2')}),
	'|',
	'schema_only: drop_topic removes what is left');
like(repair_all('schema_only'), qr/^orders\|\|The catalogue got a row/m, 'schema_only: repair');
is(problems('schema_only'), '', '... puts it right');
check_works('schema_only', 'orders', 1, 0, '{}');
$node->safe_psql('schema_only', q{INSERT INTO item VALUES (1, 'x')});
is($node->safe_psql('schema_only', 'SELECT count(*) FROM topic.changes'), '1', '... triggers, too');
is( $node->safe_psql(
		'schema_only', q{BEGIN; SELECT count(*) FROM topics.consume('work', 'orders'); COMMIT}),
	'1',
	'... and groups');

# ----------------------------------------------------------------------
# Without the logs
# ----------------------------------------------------------------------

dump_and_restore('no_logs', '--exclude-table-data=topic_log.t*_p*_s*');
like(
	problems('no_logs'),
	qr/^orders\|0\|Records are missing from offset 0 to 206\.$/m,
	'no_logs: what is missing is told');
check_refused(
	'no_logs',
	'orders',
	q{SELECT topics.produce('orders', '{}', partition => 0)},
	q{INSERT INTO topic.orders (value) VALUES ('{}')},
	q{SELECT * FROM topics.fetch('orders', 0, 0)});
is($node->safe_psql('no_logs', q{SELECT topics.produce('quiet', 'x')}),
	'0', 'no_logs: what lacks nothing works');
like(
	repair_all('no_logs'),
	qr/^orders\|0\|It has no record: the log starts, and goes on, at offset \d+\.$/m,
	'no_logs: repair says what is lost');
is(problems('no_logs'), '', '... and puts it right');
check_works('no_logs', 'orders', $_, 207, '{}') for 0, 1;
check_works('no_logs', 'changes', 0, 21, 'x');
is((sqlstate_of($node, 'no_logs', q{SELECT * FROM topics.fetch('orders', 0, 100)}))[0],
	'TP001', 'no_logs: what is lost is out of range');
is( $node->safe_psql(
		'no_logs', q{BEGIN; SELECT count(*) FROM topics.consume('work', 'orders'); COMMIT}),
	'1',
	'no_logs: groups begin anew');
check_files($node, 'no_logs', 'no_logs');

# Without the log of groups only: producing goes on
dump_and_restore('no_offsets', '--exclude-table-data=topic_log.t4_p*_s*');
is($node->safe_psql('no_offsets', q{CALL topics.send('orders', '{}', partition => 0)}),
	'0|207', 'no_offsets: other topics are not concerned');
check_refused('no_offsets', '__consumer_offsets',
	q{BEGIN; SELECT count(*) FROM topics.consume('work', 'orders'); COMMIT});
# maintenance does not make it look as if nothing was lost
$node->safe_psql('no_offsets', 'CALL topics.maintain()');
check_refused('no_offsets', '__consumer_offsets',
	q{SELECT topics.delete_records('__consumer_offsets', p, -1) FROM generate_series(0, 7) p});
like(repair_all('no_offsets'), qr/^__consumer_offsets\|\d\|It has no record/m,
	'no_offsets: repair');
is( $node->safe_psql(
		'no_offsets',
		q{BEGIN; SELECT count(*) FROM topics.consume('work', 'orders', max_records => 10); COMMIT}),
	'10',
	'... and groups begin anew');

# One segment is missing: the others are kept
dump_and_restore(
	'no_first',
	'--exclude-table-data=topic_log.t1_p0_s1',
	'--exclude-table-data=topic_log.t1_p1_s2');
like(
	problems('no_first'),
	qr/^orders\|0\|Records are missing from offset 0 to 149\.$/m,
	'no_first: problem');
like(
	problems('no_first'),
	qr/^orders\|1\|Records are missing from offset 150 to 206\.$/m,
	'no_last: problem');
like(repair_all('no_first'), qr/Records below offset 150 are lost/, 'no_first: repair');
is(problems('no_first'), '', '... puts it right');
is( $node->safe_psql(
		'no_first', q{SELECT count(*), min(r.offset) FROM topics.fetch('orders', 0, 150) r}),
	'57|150',
	'... and keeps what is there');
is( $node->safe_psql(
		'no_first', q{SELECT count(*), max(r.offset) FROM topics.fetch('orders', 1, 0) r}),
	'150|149',
	'... on the other side, too');
is($node->safe_psql('no_first', q{CALL topics.send('orders', '{}', partition => 0)}),
	'0|207', 'no_first: the end is known');
check_works('no_first', 'orders', 1, 207, '{}');
is($node->safe_psql('no_first', q{SELECT count(*) FROM topics.fetch('orders', 1, 0) r}),
	'151', '... reading goes on over the gap');

# ----------------------------------------------------------------------
# Data only
# ----------------------------------------------------------------------

command_ok([ 'pg_dump', @from, '-Fc', '-f', "$dumps/full" ], 'pg_dump');
my @data = new_database('data');
command_ok([ 'pg_restore', '--exit-on-error', '--schema-only', @data, "$dumps/full" ],
	'schema first');
my ($stdout, $stderr) =
  run_command([ 'pg_restore', '--exit-on-error', '--data-only', @data, "$dumps/full" ]);
like(
	$stderr,
	qr/topic "changes" is not complete.*--disable-triggers/s,
	'a trigger that produces says what to do');
$node->safe_psql('postgres', 'DROP DATABASE data');
@data = new_database('data');
command_ok([ 'pg_restore', '--exit-on-error', '--schema-only', @data, "$dumps/full" ],
	'schema first');
command_ok(
	[ 'pg_restore', '--exit-on-error', '--data-only', '--disable-triggers', @data, "$dumps/full" ],
	'then data, without triggers');
same_state($node, 'data', $expected, 'data: everything is back');
is(problems('data'), '', 'data: nothing is missing');

# ----------------------------------------------------------------------
# Without the catalogue, and one schema
# ----------------------------------------------------------------------

dump_and_restore(
	'no_rows',
	'--exclude-table-data=topic_log.topic',
	'--exclude-table-data=topic_log.partition');
like(problems('no_rows'), qr/^orders\|\|The catalogue has no row for it\.$/m, 'no_rows: problem');
repair_all('no_rows');
is(problems('no_rows'), '', '... is put right');
is( $node->safe_psql(
		'no_rows',
		q{SELECT count(*), min("offset"), max("offset") FROM topic.orders WHERE partition = 1}),
	'207|0|206',
	'... and no record is lost');
check_works('no_rows', 'orders', 1, 207, '{}');

command_ok([ 'pg_dump', @from, '-n', 'topic_log', '-Fc', '-f', "$dumps/log" ],
	'pg_dump -n topic_log');
my @log = new_database('log');
$node->safe_psql('log', 'CREATE EXTENSION pg_topics');
run_command([ 'pg_restore', @log, "$dumps/log" ]);
like(
	$node->safe_psql(
		'log', 'SELECT topic, topic_id, problem, hint FROM topics.broken_topic WHERE topic_id = 1'),
	qr/^\|1\|It has no view\.\|.*topic_id => 1/m,
	'log: tables without a view are told of');
$node->safe_psql('log', q{SELECT topics.repair_topic('mine', topic_id => 1)});
is($node->safe_psql('log', q{SELECT count(*) FROM topic.mine}), '414', '... and get one');
check_works('log', 'mine', 0, 207, '{}');
is( (   sqlstate_of(
			$node, 'log', q{SELECT topics.repair_topic('__consumer_offsets', topic_id => 2)}))[0],
	'55000',
	'log: not every table can be the log of groups');
$node->safe_psql('log', q{SELECT topics.repair_topic('__consumer_offsets', topic_id => 4)});
is( $node->safe_psql(
		'log', q{SELECT sum(current_offset) FROM topics.consumer_lag WHERE topic = 'mine'}),
	'50',
	'... but the one that was');

# ----------------------------------------------------------------------
# Tables that are attached to nothing: their records are not lost
# ----------------------------------------------------------------------

my $full_list = (run_command([ 'pg_restore', '--list', "$dumps/full" ]))[0];
append_to_file("$dumps/list", $full_list =~ s/^.*TABLE ATTACH topic_log t1_p[01]_s[12] .*\n//mgr);
command_ok(
	[ 'pg_restore', '--exit-on-error', '-L', "$dumps/list", new_database('loose'), "$dumps/full" ],
	'loose: pg_restore -L');
like(problems('loose'), qr/^orders\|1\|Log table "t1_p1_s2" is not attached\.$/m, 'loose: problem');
check_refused('loose', 'orders', q{SELECT topics.produce('orders', '{}', partition => 0)});
like(
	repair_all('loose'),
	qr/^orders\|0\|Log table "t1_p0_s1" was attached again\.$/m,
	'loose: repair');
is(problems('loose'), '', '... puts it right');
same_state($node, 'loose', $expected, 'loose: everything is back');
is($node->safe_psql('loose', q{CALL topics.send('orders', '{}', partition => 1)}),
	'1|207', '... and goes on');
is( $node->safe_psql(
		'loose', q{
		SET allow_system_table_mods = on; ALTER TABLE topic_log.t1_p1 DETACH PARTITION topic_log.t1_p1_s1;
		SELECT topics.drop_topic('orders');
		SELECT count(*) FROM pg_class WHERE relname LIKE 't1%' AND relnamespace = 'topic_log'::regnamespace}
	),
	"\n0",
	'loose: drop_topic removes such tables, too');

# A spare that is attached above them does not make it look as if the log ended there
$node->safe_psql('loose',
	q{SELECT topics.create_topic('spared', segment_bytes => 65536); SELECT topics.produce('spared', i::text) FROM generate_series(1, 500) i}
);
$node->poll_query_until(
	'loose', q{
	SELECT (SELECT count(*) FROM topics.segment WHERE topic = 'spared') = 2 AND next_offset_floor = 500
	FROM topic_log.partition JOIN topics.topic USING (topic_id) WHERE topic = 'spared'}
) or die 'no spare';
my $spared =
  q{SELECT substring(l.relname, '^t\d+_p0_s1$') FROM pg_class l WHERE l.relispartition AND l.relname ~ '_s1$' AND l.relname LIKE}
  . q{ (SELECT 't' || topic_id FROM topics.topic WHERE topic = 'spared') || '\_p0%'};
my $first = $node->safe_psql('loose', $spared);
my $last = $node->safe_psql('loose',
	q{SELECT max(base_offset) - 1 FROM topics.segment WHERE topic = 'spared'});
command_ok([ 'pg_dump', '--dbname', $node->connstr('loose'), '-Fc', '-f', "$dumps/spared" ],
	'spared: pg_dump');
my $spared_list = (run_command([ 'pg_restore', '--list', "$dumps/spared" ]))[0];
append_to_file("$dumps/spared_list", $spared_list =~ s/^.*TABLE ATTACH topic_log $first .*\n//mr);
command_ok(
	[
		'pg_restore', '--exit-on-error',
		'-L', "$dumps/spared_list",
		new_database('spared'), "$dumps/spared"
	],
	'spared: pg_restore -L');
check_refused(
	'spared', 'spared',
	q{SELECT topics.produce('spared', 'x')}, q{INSERT INTO topic.spared (value) VALUES ('x')});
is( problems('spared'),
	"spared|0|Log table \"$first\" is not attached.\nspared|0|Records are missing from offset 0 to $last.",
	'spared: problems');
is(repair_all('spared'), "spared|0|Log table \"$first\" was attached again.", 'spared: repair');
is($node->safe_psql('spared', q{CALL topics.send('spared', 'x')}), '0|500', '... puts it right');

command_ok([ 'pg_dump', @from, '-t', 'topic_log.t1_p1_s1', '-Fc', '-f', "$dumps/one" ],
	'one: pg_dump -t');
my @one = new_database('one');
$node->safe_psql('one', 'CREATE EXTENSION pg_topics');
run_command([ 'pg_restore', @one, "$dumps/one" ]);
is( $node->safe_psql(
		'one',
		q{SELECT topics.create_topic('new'); SELECT topic_id FROM topics.topic WHERE topic = 'new'}
	),
	"\n2",
	'one: its id is not used again');
$node->safe_psql('one', q{SELECT topics.repair_topic('mine', topic_id => 1)});
is($node->safe_psql('one', 'SELECT count(*), min(partition) FROM topic.mine'),
	'150|1', 'one: its records are a topic again');
is(problems('one'), '', '... that lacks nothing');

# Restored beside another topic of the same id: nothing of it gets into that
new_database('beside');
$node->safe_psql('beside',
	q{CREATE EXTENSION pg_topics; SELECT topics.create_topic('mine'), topics.produce('mine', '{}')}
);
run_command([ 'pg_restore', '--dbname', $node->connstr('beside'), "$dumps/full" ]);
like(
	problems('beside'),
	qr/^mine\|1\|Log table "t1_p1" is not attached\.\norders\|\|Its view reads the log of topic "mine"\.$/m,
	'beside: problems');
is((sqlstate_of($node, 'beside', $_))[0], '55000', "beside: $_")
  for q{SELECT topics.create_topic('orders')}, q{SELECT topics.produce('orders', '{}')},
  q{SELECT topics.repair_topic('orders')}, q{SELECT topics.drop_topic('orders')};
$node->safe_psql('beside', q{SELECT topics.repair_topic('mine')});
is($node->safe_psql('beside', q{SELECT count(*) FROM topic.mine}),
	'1', 'beside: repair_topic adds nothing');
$node->safe_psql('beside',
	q{DROP VIEW topic.orders; DROP TABLE topic_log.t1_p0_s2, topic_log.t1_p1});
unlike(problems('beside'), qr/mine|orders/, 'beside: what is left over can be dropped');

# Without rights: the owner of the view reads the log by one
$node->safe_psql(
	'postgres', q{
	CREATE ROLE part_owner LOGIN;
	SELECT topics.create_topic('owned'), topics.produce('owned', 'x');
	ALTER VIEW topic.owned OWNER TO part_owner;});
dump_and_restore('no_rights', '--no-privileges');
is( problems('no_rights'),
	'owned||The owner of its view may not read its log table.',
	'no_rights: problem');
repair_all('no_rights');
is( $node->safe_psql(
		'no_rights',
		q{GRANT USAGE ON SCHEMA topic TO part_owner; SET ROLE part_owner; SELECT value FROM topic.owned}
	),
	'x',
	'... is put right');
is(problems('no_rights'), '', '... and told of no more');

# ----------------------------------------------------------------------
# By hand: what is not refused
# ----------------------------------------------------------------------

$node->safe_psql('postgres', q{CREATE DATABASE hand});
$node->safe_psql(
	'hand', q{
	CREATE EXTENSION pg_topics;
	SELECT topics.create_topic('triggers'), topics.create_topic('view'), topics.create_topic('tables', 2), topics.create_topic('unlogged');
	SELECT topics.produce('unlogged', 'x', partition => 0) FROM generate_series(1, 10);
	SELECT topics.produce('view', 'x');});
$node->safe_psql(
	'hand', q{
	CALL topics.maintain();
	SET allow_system_table_mods = on;
	DROP TRIGGER produce ON topic.triggers;
	ALTER TABLE topic_log.t4_p0_s1 SET UNLOGGED;
	DROP TABLE topic_log.t3_p1;
	DROP TABLE topic_log.t3_p0_s1;});
check_refused('hand', 'unlogged', q{SELECT topics.produce('unlogged', 'x')});
check_refused(
	'hand', 'tables',
	q{SELECT topics.produce('tables', 'x', partition => 1)},
	q{SELECT * FROM topics.fetch('tables', 1, 0)});
$node->stop('immediate');
$node->start;
is( problems('hand'),
	join("\n",
		'tables|0|Records are missing from offset 0 to 8388607.',
		'tables|1|The partition has no log table.',
		'triggers||Its view lacks a trigger.',
		'unlogged|0|Log table "t4_p0_s1" is not logged.',
		'unlogged|0|Records are missing from offset 0 to 9.'),
	'hand: problems');
repair_all('hand');
is(problems('hand'), '', '... are put right');
check_works('hand', 'unlogged', 0, 10, 'x');
check_works('hand', 'tables', 1, 0, 'x');
$node->safe_psql('hand', q{INSERT INTO topic.triggers (value) VALUES ('x')});
is($node->safe_psql('hand', 'SELECT count(*) FROM topic.triggers'),
	'1', 'hand: the trigger is back');

# a crash alone changes nothing
$node->safe_psql('postgres', q{SELECT topics.produce('orders', '{}', partition => 0)});
kill_and_start($node);
is($node->safe_psql('postgres', q{CALL topics.send('orders', '{}', partition => 0)}),
	'0|208', 'after a crash the next offset is dense');
is(problems('postgres'), '', 'the source lacks nothing');
is(scalar $node->log_contains('PANIC|TRAP|terminated by signal 11|signal 6'), '', 'no crash');

done_testing();
