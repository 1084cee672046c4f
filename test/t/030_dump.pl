# pg_dump and pg_restore, in every form: each record comes back at its offset,
# files are in order, owners and rights are as they were, and producing goes
# on at the next offset.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Topics;
use TopicState;

my $source = topics_node('source', points => 1, conf => "pg_topics.worker_interval = '1h'\n");
my $dumps = PostgreSQL::Test::Utils::tempdir;

# ----------------------------------------------------------------------
# What is dumped
# ----------------------------------------------------------------------

$source->safe_psql(
	'postgres', q{
	CREATE ROLE alice; CREATE ROLE bob; CREATE ROLE reader; CREATE ROLE writer; CREATE ROLE stranger;
	GRANT USAGE ON SCHEMA topics, topic TO alice, bob, reader, writer;
	GRANT CREATE ON SCHEMA topic TO alice, bob;
	GRANT EXECUTE ON ALL ROUTINES IN SCHEMA topics TO alice, bob, reader, writer;
	CREATE SCHEMA app;
	GRANT USAGE ON SCHEMA app TO alice;
	CREATE DOMAIN app.positive AS integer CHECK (VALUE > 0);
	-- ids with a gap: a dropped topic's is not given again
	SELECT topics.create_topic('dropped');
	SELECT topics.drop_topic('dropped');
	SET ROLE alice;
	SELECT topics.create_topic('orders', 3, segment_bytes => 1048576, retention_time => '30000 days', retention_bytes => 123456789,
		max_message_bytes => 500000, notify => false);
	SELECT topics.create_topic('a.dotted-Name', 2, key_type => 'app.positive', value_type => 'jsonb', timestamp_type => 'LogAppendTime',
		segment_time => '100 days', min_cleanable_dirty_ratio => 0.25);
	SELECT topics.create_topic('empty', 2, cleanup_policy => 'compact');
	SET ROLE bob;
	SELECT topics.create_topic('-.-', 1, key_type => 'bytea', value_type => 'bytea');
	SELECT topics.create_topic('SELECT', 1, value_type => 'numeric(10,2)');
	GRANT SELECT ON topic."-.-" TO reader;
	SET ROLE alice;
	GRANT SELECT ON topic.orders TO reader;
	GRANT INSERT ON topic.orders TO writer;
	GRANT SELECT ON topic."a.dotted-Name" TO reader WITH GRANT OPTION;});

# Several segments per partition, most of them sealed, with dead rows in each.
# Partition 2 has no record.
for my $round (1 .. 4)
{
	produce_and_abort(
		$source, 'postgres', q{
		SELECT topics.produce('orders', repeat('dead', 2000), partition => i % 2) FROM generate_series(1, 30) i;
		SELECT topics.produce('a.dotted-Name', '{"dead": true}'::jsonb, '7')},
		"round $round: rows of an aborted transaction");
	$source->safe_psql(
		'postgres', qq{
		SELECT count(topics.produce('orders', 'round $round record ' || i || repeat('x', i), 'key ' || i, partition => i % 2,
			create_time => '2024-02-03 04:05:06.789+00'::timestamptz - i * interval '1 min', headers => jsonb_build_array(jsonb_build_array('n', i::text))))
			FROM generate_series(1, 200) i;
		-- out of line, compressible and not
		SELECT topics.produce('orders', (SELECT string_agg(md5(j::text), '') FROM generate_series(1, 3000) j), NULL, partition => 0);
		SELECT topics.produce('orders', repeat('long ', 50000), '', partition => 1);
		SELECT topics.produce('orders', NULL, 'tombstone', partition => 1);
		SELECT count(topics.produce('a.dotted-Name', jsonb_build_object('i', i, 'long', repeat(md5(i::text), 200)), i::text))
			FROM generate_series(1, 60) i;
		SELECT topics.produce('-.-', decode('00ff5c0a0d09', 'hex'), decode('00', 'hex'));
		SELECT topics.produce('-.-', decode(repeat('deadbeef', 20000), 'hex'));
		SELECT topics.produce('-.-', ''::bytea, ''::bytea);
		SELECT topics.produce('SELECT', '12.345');});
	next if $round == 4;
	$source->safe_psql('postgres', q{CALL topics.roll_segment('orders')});
	$source->safe_psql('postgres', q{CALL topics.roll_segment('a.dotted-Name')});
}
produce_and_abort(
	$source,
	'postgres',
	q{SELECT topics.produce('orders', repeat('dead', 2000), partition => 0) FROM generate_series(1, 30)},
	'rows of an aborted transaction at the end');
$source->safe_psql('postgres', 'CALL topics.maintain()');
is( $source->safe_psql(
		'postgres',
		q{SELECT state, count(*) FROM topics.segment WHERE topic = 'orders' AND partition = 0 GROUP BY 1 ORDER BY 1}
	),
	"active|1\nsealed|3\nspare|1",
	'the source has sealed, active and spare segments');
is( $source->safe_psql(
		'postgres',
		q{SELECT count(*) FROM pg_indexes WHERE tablename LIKE 't%\_p0\_s1' AND indexdef LIKE '%USING brin%'}
	),
	'2',
	'and indexes');
# The latest id belongs to nobody any more, and is not given again
$source->safe_psql('postgres',
	q{SELECT topics.create_topic('dropped'); SELECT topics.drop_topic('dropped')});
my $next_id = 1 + $source->safe_psql('postgres', 'SELECT last_value FROM topic_log.topic_id_seq');
check_files($source, 'postgres', 'source');
my $expected = same_state($source, 'postgres');

# ----------------------------------------------------------------------
# What must hold afterwards
# ----------------------------------------------------------------------

sub check_rights
{
	my ($node, $database, $name) = @_;

	is( $node->safe_psql(
			$database, q{SET ROLE reader; SELECT count(*) FROM topics.fetch('orders', 0, 0)}),
		'404',
		"$name: the reader fetches");
	is($node->safe_psql($database, q{SET ROLE reader; SELECT count(*) FROM topic."-.-"}),
		'12', "$name: the reader selects");
	is( (sqlstate_of($node, $database, q{SET ROLE reader; SELECT topics.produce('orders', 'x')}))
		[0],
		'42501',
		"$name: the reader does not produce");
	is((sqlstate_of($node, $database, q{SET ROLE reader; SELECT * FROM topic.empty}))[0],
		'42501', "$name: the reader reads nothing else");
	is((sqlstate_of($node, $database, q{SET ROLE stranger; SELECT * FROM topic.orders}))[0],
		'42501', "$name: the stranger does not select");
	is( (   sqlstate_of(
				$node, $database, q{SET ROLE stranger; SELECT * FROM topics.fetch('orders', 0, 0)})
		)[0],
		'42501',
		"$name: the stranger does not fetch");
	is((sqlstate_of($node, $database, q{SET ROLE bob; SELECT topics.drop_topic('orders')}))[0],
		'42501', "$name: only the owner drops");
	is( (   sqlstate_of(
				$node, $database,
				q{SET ROLE writer; SELECT topics.produce('orders', repeat('x', 500001))}))[0],
		'54000',
		"$name: settings act");
	is( (   sqlstate_of(
				$node, $database, q{SELECT topics.produce('a.dotted-Name', '{}'::jsonb, '-1')}))[0],
		'23514',
		"$name: the domain checks");
}

# Producing goes on: in the log as it stands, and in topics that come.
sub check_goes_on
{
	my ($node, $database, $name) = @_;
	my $end = $node->safe_psql($database,
		q{SELECT log_end_offset FROM topics.partition WHERE topic = 'orders' AND partition = 0});

	is( $node->safe_psql(
			$database, qq{SET ROLE writer; CALL topics.send('orders', 'after', partition => 0)}),
		"0|$end",
		"$name: produce goes on at offset $end");
	is($node->safe_psql($database, q{CALL topics.send('orders', 'first', partition => 2)}),
		'2|0', "$name: an empty partition begins at 0");
	is($node->safe_psql($database, q{CALL topics.send('empty', 'first', 'key', partition => 0)}),
		'0|0', "$name: an empty topic begins at 0");
	is($node->safe_psql($database, qq{SELECT value FROM topics.fetch('orders', 0, $end)}),
		'after', "$name: and is read there");
	$node->safe_psql($database, q{SET ROLE alice; CALL topics.roll_segment('orders')});
	is( $node->safe_psql($database, q{CALL topics.send('orders', 'rolled', partition => 0)}),
		'0|' . ($end + 1),
		"$name: segments roll");
	$node->safe_psql($database, 'CALL topics.maintain()');

	$node->safe_psql($database,
		q{SET ROLE alice; SELECT topics.create_topic('new'); SELECT topics.produce('new', 'x')});
	is($node->safe_psql($database, q{SELECT topic_id FROM topics.topic WHERE topic = 'new'}),
		$next_id, "$name: a new topic gets a new id");
	is($node->safe_psql($database, q{SELECT count(*) FROM topic.new}),
		'1', "$name: and holds only its own");
	$node->safe_psql($database, q{SELECT topics.drop_topic('new')});
	check_files($node, $database, "$name, afterwards");
}

sub check_copy
{
	my ($node, $database, $name) = @_;

	same_state($node, $database, $expected, "$name: everything is back");
	check_files($node, $database, $name);
	check_rights($node, $database, $name);
	check_goes_on($node, $database, $name);
}

# ----------------------------------------------------------------------
# Into a new cluster, one database per form
# ----------------------------------------------------------------------

# The worker runs here while databases are restored, as it would anywhere
my $target = topics_node(
	'target',
	extension => 0,
	conf => "pg_topics.worker_interval = '100ms'\nmax_worker_processes = 30\n");
my @from = ('--dbname', $source->connstr('postgres'));

command_ok(
	[
		'pg_dumpall', '--globals-only', '-d', $source->connstr('postgres'),
		'-f', "$dumps/globals.sql"
	],
	'dump roles');
$target->psql('postgres', slurp_file("$dumps/globals.sql"), on_error_stop => 0);

sub new_database
{
	my ($name) = @_;

	$target->safe_psql('postgres', "CREATE DATABASE $name TEMPLATE template0");
	return ('--dbname', $target->connstr($name));
}

# psql -1 is not used: a restore that fails half-way is seen by ON_ERROR_STOP
command_ok([ 'pg_dump', @from, '-f', "$dumps/plain.sql" ], 'pg_dump, plain');
command_ok(
	[
		'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', new_database('plain'), '-f',
		"$dumps/plain.sql"
	],
	'restore with psql');
check_copy($target, 'plain', 'plain');

command_ok([ 'pg_dump', @from, '--inserts', '--rows-per-insert=7', '-f', "$dumps/inserts.sql" ],
	'pg_dump --inserts');
command_ok(
	[
		'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', new_database('inserts'), '-f',
		"$dumps/inserts.sql"
	],
	'restore with psql');
check_copy($target, 'inserts', 'inserts');

command_ok([ 'pg_dump', @from, '-Fc', '-f', "$dumps/custom" ], 'pg_dump, custom');
command_ok([ 'pg_restore', '--exit-on-error', new_database('custom'), "$dumps/custom" ],
	'pg_restore');
check_copy($target, 'custom', 'custom');

command_ok([ 'pg_restore', '--single-transaction', new_database('single'), "$dumps/custom" ],
	'pg_restore in one transaction');
check_copy($target, 'single', 'single transaction');

command_ok(
	[ 'pg_restore', '--exit-on-error', '-j', '4', new_database('parallel'), "$dumps/custom" ],
	'pg_restore -j 4');
check_copy($target, 'parallel', 'parallel');

command_ok([ 'pg_dump', @from, '-Fd', '-j', '3', '-f', "$dumps/directory" ],
	'pg_dump -j 3, directory');
command_ok(
	[ 'pg_restore', '--exit-on-error', '-j', '4', new_database('directory'), "$dumps/directory" ],
	'pg_restore -j 4');
check_copy($target, 'directory', 'directory');

# Schema first, data later
my @split = new_database('split');
command_ok([ 'pg_dump', @from, '--schema-only', '-f', "$dumps/schema.sql" ],
	'pg_dump --schema-only');
command_ok([ 'pg_dump', @from, '--data-only', '-f', "$dumps/data.sql" ], 'pg_dump --data-only');
command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', @split, '-f', "$dumps/schema.sql" ],
	'restore the schema');
command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', @split, '-f', "$dumps/data.sql" ],
	'restore the data');
check_copy($target, 'split', 'schema, then data');

@split = new_database('split_parallel');
command_ok([ 'pg_restore', '--exit-on-error', '--schema-only', @split, "$dumps/custom" ],
	'pg_restore --schema-only');
command_ok([ 'pg_restore', '--exit-on-error', '--data-only', '-j', '4', @split, "$dumps/custom" ],
	'pg_restore --data-only -j 4');
check_copy($target, 'split_parallel', 'schema, then data in parallel');

# Data of the catalogue first, then maintenance as the worker might do it, then
# the log: a half-restored topic is not maintained into something that the rest
# of the restore does not fit.
my @steps = new_database('steps');
command_ok([ 'pg_restore', '--exit-on-error', '--section=pre-data', @steps, "$dumps/custom" ],
	'restore pre-data');
my $list = (run_command([ 'pg_restore', '--list', '--section=data', "$dumps/custom" ]))[0];
my @entries = grep { /TABLE DATA|SEQUENCE SET/ } split /\n/, $list;
my @catalogue = grep { !/ topic_log t\d+_p\d+_s\d+ / } @entries;
my @logs = grep { / topic_log t\d+_p\d+_s\d+ / } @entries;
cmp_ok(scalar @logs, '>', 5, 'the dump has data of segments');
append_to_file("$dumps/first.list", join("\n", @catalogue) . "\n");
append_to_file("$dumps/second.list", join("\n", reverse @logs) . "\n");
command_ok([ 'pg_restore', '--exit-on-error', '-L', "$dumps/first.list", @steps, "$dumps/custom" ],
	'restore the catalogue');
$target->safe_psql('steps', 'CALL topics.maintain()');
command_ok([ 'pg_restore', '--exit-on-error', '-L', "$dumps/second.list", @steps, "$dumps/custom" ],
	'restore the log, last segments first');
$target->safe_psql('steps', 'CALL topics.maintain()');
command_ok([ 'pg_restore', '--exit-on-error', '--section=post-data', @steps, "$dumps/custom" ],
	'restore post-data');
check_copy($target, 'steps', 'step by step');

# ----------------------------------------------------------------------
# Without the access method: readable, and that is said to who produces
# ----------------------------------------------------------------------

command_ok(
	[
		'pg_restore', '--exit-on-error',
		'--no-table-access-method', new_database('heap'),
		"$dumps/custom"
	],
	'pg_restore --no-table-access-method');
same_state($target, 'heap', $expected, 'heap: everything is back');
is($target->safe_psql('heap', q{SELECT count(*) FROM topics.fetch('orders', 0, 0)}),
	'404', 'heap: fetch works');
my ($state, $message) = sqlstate_of($target, 'heap', q{SELECT topics.produce('SELECT', '1')});
is($state, '55000', 'heap: produce is refused');
like($message, qr/access method "topic_log"/, 'heap: the error names the access method');
like($message, qr/HINT:.*repair_topic/, 'heap: and the cure');
same_state($target, 'heap', $expected, 'heap: nothing was written');
$target->safe_psql('heap',
	q{SELECT topics.repair_topic(topic) FROM (SELECT DISTINCT topic FROM topics.broken_topic) b});
check_copy($target, 'heap', 'heap, repaired');

# The source was not touched by any of this
same_state($source, 'postgres', $expected, 'the source is as it was');
is($target->log_contains('PANIC|TRAP|terminated by signal'), '', 'no crash');

done_testing();
