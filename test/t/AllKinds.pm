# AllKinds.pm: a cluster with topics of every kind, and what may stand beside
# them, for tests that move it to another server; and the work that goes on in
# it there, as if nothing had happened.
package AllKinds;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Topics;
use TopicState;

our @EXPORT =
  qw(make_all_kinds make_surroundings drop_what_pg_upgrade_refuses work_on_all_kinds states_of
  same_states check_all_files $strange_name);

# A database whose name has to be quoted wherever it goes, beside the usual one
our $strange_name = q{we"ird 'n$ame; \ü};
my @databases = ('postgres', $strange_name);

# Every type of PostgreSQL's that has input, with a value.  Range and multirange
# types are added by range_examples.
my %example = (
	'bool' => 't',
	'bytea' => '\x00ff5c0a0d09',
	'"char"' => 'x',
	'name' => 'A "name"',
	'int2' => '-32768',
	'int4' => '2147483647',
	'int8' => '-9223372036854775808',
	'text' => "tab\tquote' back\\slash é",
	'oid' => '4294967295',
	'tid' => '(4294967294,65535)',
	'xid' => '4294967295',
	'cid' => '7',
	'xid8' => '18446744073709551615',
	'int2vector' => '1 -2 3',
	'oidvector' => '1 2 4294967295',
	'json' => '{"b": 1,  "a": [null, "\u00e9"]}',
	'jsonb' => '{"b": 1.50, "a": [null, {"c": true}]}',
	'jsonpath' => '$."a"[*]?(@ > 3)',
	'xml' => '<a b="1">x &amp; y<c/></a>',
	'point' => '(1.5,-2)',
	'lseg' => '[(0,0),(1,1e-10)]',
	'path' => '[(0,0),(1,1),(2,0)]',
	'box' => '(1,1),(0,0)',
	'polygon' => '((0,0),(1,1),(2,0))',
	'line' => '{1,-1,0}',
	'circle' => '<(0,0),2.5>',
	'cidr' => '10.0.0.0/8',
	'inet' => '2001:db8::1/64',
	'macaddr' => '08:00:2b:01:02:03',
	'macaddr8' => '08:00:2b:01:02:03:04:05',
	'float4' => '-1.1754944e-38',
	'float8' => 'NaN',
	'numeric' => '-12345678901234567890.098765432109876543210',
	'money' => '-12.34',
	'bpchar' => 'trailing  ',
	'varchar' => '',
	'date' => '4713-01-01 BC',
	'time' => '24:00:00',
	'timetz' => '03:04:05.678901-15:59',
	'timestamp' => 'infinity',
	'timestamptz' => '294276-12-31 23:59:59.999999+00',
	'interval' => '-178000000 years 3 mons -2 days 03:04:05.678901',
	'bit' => '1',
	'varbit' => '10101110101',
	'refcursor' => 'a cursor',
	'regclass' => 'app.item',
	'regtype' => 'app.pair[]',
	'regrole' => 'alice',
	'uuid' => 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',
	'txid_snapshot' => '10:20:10,14,15',
	'pg_snapshot' => '10:20:10,14,15',
	'pg_lsn' => 'FF/12345678',
	'tsvector' => q{'a':1A 'b''c':2,3B},
	'tsquery' => q{'a' & !( 'b':*C <-> 'c' )},
	# those of PostgreSQL 19
	'oid8' => '18446744073709551615',
	# those that pg_upgrade does not move, or not from every major
	'aclitem' => 'alice=r/alice',
	'regproc' => 'app.add_pair',
	'regprocedure' => 'length(text)',
	'regoper' => '||/',
	'regoperator' => '+(integer,integer)',
	'regconfig' => 'english',
	'regdictionary' => 'simple',
	'regnamespace' => 'app',
	'regcollation' => '"C"',
	'regdatabase' => 'template1',
	# those of others
	'numeric(10,2)' => '-12.34',
	'text[]' => '[0:1]={a,"b \"c\" NULL"}',
	'int4[]' => '{{1,2},{3,NULL}}',
	'jsonb[]' => '{"{\"a\": 1}",NULL}',
	'app.positive' => '7',
	'app.positive[]' => '{7,8}',
	'app.mood' => 'so so',
	'app.mood[]' => '{"so so",happy}',
	'app.pair' => '(1,"a ""b""",2.50)',
	'app.pair[]' => '{"(1,a,2.50)","(2,,)"}',
	'app.sum_pair' => '(1,"a ""b""",2.50)',
	'app.item' => '(1,gone,"a name")',
	'app.span' => '[1.5,2.5)',
	'app.span_multirange' => '{[1.5,2.5),[3,)}',
	# of contrib, where that is there
	'app.ltree' => 'top.science.x',
	'app.hstore' => '"a"=>"1", "b"=>NULL',
	'app.citext' => 'Case');

# The values after change_types
my %changed_example = (
	'app.pair' => '(1,2.50)',
	'app.sum_pair' => '(1,2.50)',
	'app.pair[]' => '{"(1,2.50)","(2,)"}',
	'app.item' => '(1,"a name")');
my %first_example = map { $_ => $example{$_} } keys %changed_example;

# What pg_upgrade refuses to move, or from 15 to 16
my @not_for_pg_upgrade =
  qw(aclitem regproc regprocedure regoper regoperator regconfig regdictionary regnamespace regcollation regdatabase);

# Types of PostgreSQL's that no value can be written of
my @without_input =
  qw(pg_node_tree pg_ndistinct pg_dependencies pg_mcv_list gtsvector pg_brin_bloom_summary pg_brin_minmax_multi_summary);

my %range_examples = (
	int4range => '[1,5)',
	int8range => '[1,)',
	numrange => '(1.50,2]',
	daterange => '[2024-01-01,infinity)',
	tsrange => '["2024-01-01 00:00:00",)',
	tstzrange => '["2024-01-01 00:00:00+00","2024-01-02 00:00:00+00")');
for my $range (keys %range_examples)
{
	$example{$range} = $range_examples{$range};
	$example{ $range =~ s/range$/multirange/r } = "{$range_examples{$range}}";
}

my %topic_of = map { ($_ => 'type.' . s/[^A-Za-z0-9_.]/-/gr) } keys %example;

# What is there before topics: roles and types
my $surroundings = q{
	CREATE SCHEMA app;
	GRANT USAGE, CREATE ON SCHEMA app TO alice, bob;
	CREATE DOMAIN app.positive AS integer CHECK (VALUE > 0);
	CREATE TYPE app.mood AS ENUM ('sad', 'so so', 'happy');
	CREATE TYPE app.pair AS (a integer, b text, c numeric);
	CREATE DOMAIN app.sum_pair AS app.pair CHECK ((VALUE).a > 0);
	CREATE TABLE app.item (id integer PRIMARY KEY, gone text, name text);
	CREATE TYPE app.span AS RANGE (subtype = float8);
	CREATE FUNCTION app.add_pair(p app.pair) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT p.a + p.c';
	DO $$ DECLARE extension text; BEGIN
		FOREACH extension IN ARRAY ARRAY['ltree', 'hstore', 'citext'] LOOP
			IF EXISTS (SELECT FROM pg_available_extensions WHERE name = extension) THEN
				EXECUTE format('CREATE EXTENSION %I SCHEMA app', extension);
			END IF;
		END LOOP;
	END $$;};

my $roles = q{
	CREATE ROLE alice; CREATE ROLE bob; CREATE ROLE "Strange ""reader"; CREATE ROLE old_name;
	ALTER ROLE bob SET pg_topics.early_lock_release = off;};

my $rights = q{
	GRANT USAGE ON SCHEMA topics, topic TO alice, bob, "Strange ""reader", old_name;
	GRANT CREATE ON SCHEMA topic TO alice, bob;
	GRANT EXECUTE ON ALL ROUTINES IN SCHEMA topics TO alice, bob, "Strange ""reader", old_name;
	GRANT SELECT ON ALL TABLES IN SCHEMA topics TO alice, old_name;};

# Topics, by what is special of them.  The ids have gaps: a dropped topic's is
# not given again.
my $topics = q{
	SELECT topics.create_topic('dropped'); SELECT topics.drop_topic('dropped');
	SET ROLE alice;
	SELECT topics.create_topic('orders', 3, segment_bytes => 65536, retention_time => '-1 s');
	SELECT topics.create_topic('a.dotted-Name', 2, key_type => 'app.positive', value_type => 'jsonb',
		timestamp_type => 'LogAppendTime', segment_time => '100 days', retention_time => '30000 days',
		retention_bytes => 123456789, max_message_bytes => 500000, delete_retention_time => '2 days',
		min_compaction_lag_time => '1 s', min_cleanable_dirty_ratio => 0.25, notify => false);
	SELECT topics.create_topic('empty', 2);
	SELECT topics.create_topic('state', 2, cleanup_policy => 'compact', min_cleanable_dirty_ratio => 0,
		delete_retention_time => '1000 days', segment_bytes => 65536);
	SELECT topics.create_topic('both', cleanup_policy => 'compact,delete', min_cleanable_dirty_ratio => 0, retention_time => '-1 s');
	SET ROLE bob;
	SELECT topics.create_topic('trimmed', 2, segment_bytes => 65536, retention_bytes => 65536, retention_time => '-1 s');
	SELECT topics.create_topic('history', retention_time => '-1 s');
	SELECT topics.create_topic('old_name', retention_time => '-1 s');
	ALTER VIEW topic.old_name RENAME TO "SELECT";
	SELECT topics.create_topic('changes');
	SELECT topics.create_topic('published', 2);
	SET ROLE alice;
	GRANT SELECT ON topic.orders TO "Strange ""reader", old_name WITH GRANT OPTION;
	GRANT INSERT, SELECT ON topic.orders TO bob;
	GRANT SELECT (key) ON topic.empty TO bob;
	RESET ROLE;
	COMMENT ON VIEW topic.orders IS 'what customers want';
	GRANT EXECUTE ON FUNCTION topics.murmur2(bytea) TO PUBLIC;
	REVOKE EXECUTE ON FUNCTION topics.delete_group(text) FROM bob;
	SELECT topics.create_topic('dropped'); SELECT topics.drop_topic('dropped');};

# What users have with topics: views, a function, triggers, indexes, options
my $beside = q{
	CREATE VIEW app.order_count AS SELECT partition, count(*) FROM topic.orders GROUP BY 1;
	CREATE MATERIALIZED VIEW app.order_keys AS SELECT key, max("offset") AS latest FROM topic.orders GROUP BY key;
	CREATE FUNCTION app.next_orders() RETURNS SETOF bigint LANGUAGE sql
		BEGIN ATOMIC SELECT c.offset FROM topics.consume('app.next_orders', 'orders', max_records => 3) c; END;
	CREATE TABLE app.customer (name text, part integer GENERATED ALWAYS AS (topics.murmur2(decode(name, 'escape')) & 7) STORED);
	CREATE INDEX customer_part ON app.customer ((topics.murmur2(decode(name, 'escape'))));
	INSERT INTO app.customer VALUES ('anna'), ('dora');
	CREATE TRIGGER change AFTER INSERT OR UPDATE OR DELETE ON app.item FOR EACH ROW EXECUTE FUNCTION topics.produce_change('changes');
	INSERT INTO app.item (id, name) VALUES (1, 'tea'), (2, 'cups');
	UPDATE app.item SET name = 'pot' WHERE id = 2;
	CREATE TABLE app.audit (at bigserial, key text);
	CREATE FUNCTION app.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO app.audit (key) VALUES (NEW.key); RETURN NEW; END $$;
	CREATE TRIGGER note INSTEAD OF INSERT ON topic.history FOR EACH ROW EXECUTE FUNCTION app.note();
	ALTER VIEW topic.history SET (security_barrier);
	DO $$ DECLARE root text := (SELECT 'topic_log.t' || topic_id FROM topics.topic WHERE topic = 'orders'); BEGIN
		EXECUTE format('CREATE PUBLICATION orders FOR TABLE %s WITH (publish = ''insert'', publish_via_partition_root)', root);
		EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', root);
		EXECUTE format('ALTER TABLE %s_p0_s1 ALTER COLUMN value SET STORAGE EXTERNAL, SET (autovacuum_enabled = off)', root);
		EXECUTE format('CREATE INDEX own_index ON %s_p0_s1 (key)', root);
		EXECUTE format('CREATE STATISTICS topic_log.own_statistics ON key, value FROM %s_p0_s1', root);
	END $$;};

# Groups, and their offsets in each way that there is
my $groups = q{
	SET ROLE alice;
	BEGIN; SELECT count(*) FROM topics.consume('by consume', 'orders', max_records => 40); COMMIT;
	BEGIN; SELECT count(*) FROM topics.consume('by consume', 'orders', max_records => 30); COMMIT;
	BEGIN; SELECT count(*) FROM topics.consume('by consume', 'state', auto_offset_reset => 'latest'); COMMIT;
	SELECT topics.commit_offset('by commit', 'orders', 0, 17, 'metadata é');
	SELECT topics.commit_offset('by commit', 'a.dotted-Name', 1, 0);
	SELECT topics.reset_offset('by reset', 'orders', to_position => 'latest');
	SELECT topics.reset_offset('by reset', 'orders', 1, to_offset => 20);
	SELECT topics.commit_offset('deleted', 'orders', 0, 1); SELECT topics.delete_group('deleted');
	SET ROLE bob;
	SELECT topics.reset_offset('bob''s', 'orders', to_time => '2024-02-03 04:00:00+00');
	BEGIN; SELECT count(*) FROM topics.consume('bob''s', 'trimmed'); COMMIT;
	SET ROLE old_name;
	SELECT topics.commit_offset('of a renamed role', 'orders', 0, 3);
	RESET ROLE;
	SELECT count(*) FROM app.next_orders();
	SELECT topics.create_topic('dropped');
	SELECT topics.commit_offset('by commit', 'dropped', 0, 0);
	SELECT topics.drop_topic('dropped');};

# A round of records for all but the topics of types.
sub produce_round
{
	my ($node, $database, $round) = @_;

	$node->safe_psql(
		$database, qq{
		SELECT topics.produce('orders', 'round $round record ' || i || repeat('x', i * 4), 'key ' || i, partition => i % 2,
			create_time => '2024-02-03 04:05:06.789+00'::timestamptz - i * interval '1 min',
			headers => jsonb_build_array(jsonb_build_array('n', i::text), jsonb_build_array('null', NULL)))
			FROM generate_series(1, 200) i;
		SET default_toast_compression = pglz;
		SELECT topics.produce('orders', repeat('long ', 50000), '', partition => 1);
		SET default_toast_compression = lz4;
		SELECT topics.produce('orders', repeat('long ', 50000), NULL, partition => 1);
		SELECT topics.produce('orders', repeat('inline ', 500), NULL, partition => 0);
		RESET default_toast_compression;
		SELECT topics.produce('orders', (SELECT string_agg(md5(j::text), '') FROM generate_series(1, 3000) j), NULL, partition => 0);
		SELECT topics.produce('orders', NULL, 'tombstone', partition => 1);
		SELECT topics.produce('orders', NULL, NULL, partition => 0);
		SELECT topics.produce('orders', '', '', partition => 0);
		SELECT topics.produce('a.dotted-Name', jsonb_build_object('i', i, 'long', repeat(md5(i::text), 200)), i::text)
			FROM generate_series(1, 60) i;
		SELECT topics.produce('state', CASE WHEN i % 7 = 0 THEN NULL ELSE 'round $round ' || i || repeat('x', 300) END, (i % 40)::text)
			FROM generate_series(1, 200) i;
		SELECT topics.produce('both', i::text, (i % 3)::text) FROM generate_series(1, 20) i;
		SELECT topics.produce('trimmed', repeat(md5(i::text), 20), partition => i % 2) FROM generate_series(1, 400) i;
		COPY topic.history (key, value, timestamp) FROM stdin;
$round\tlong ago\t1970-01-01 00:00:00+00
$round\tbefore\t2000-02-03 04:05:06.789012+00
$round\ta year later\t2001-02-03 04:05:06.789012+00
$round\tout of order\t1999-12-31 23:59:59.999999+00
\\.
		INSERT INTO topic."SELECT" (value) VALUES ('round $round');
		SELECT topics.produce('published', 'round $round ' || i, partition => i % 2) FROM generate_series(1, 10) i;}
	);
	return;
}

# The types that this server has, of those of which there is an example.
sub types_of
{
	my ($node, $database) = @_;
	my @types = sort keys %example;
	my $list = join ', ', map { "('$_')" } @types;

	return split /\n/,
	  $node->safe_psql($database,
		"SELECT name FROM (VALUES $list) t(name) WHERE to_regtype(name) IS NOT NULL ORDER BY name COLLATE \"C\""
	  );
}

# A record to each topic of a type: its value, and itself as key.
sub produce_types
{
	my ($node, $database, @types) = @_;

	$node->safe_psql(
		$database,
		join "\n",
		map {
			my $value = $example{$_} =~ s/'/''/gr;
			my $cast = $_ eq 'bytea' ? '::bytea' : '';

			"SELECT topics.produce('$topic_of{$_}', '$value'$cast, '$value'$cast);"
		} @types);
	return;
}

# What topics of all kinds need of a database that gets them from another node.
sub make_surroundings
{
	my ($node) = @_;

	$node->safe_psql('postgres', $_) for $roles, $surroundings;
	change_types($node, 'postgres');
	$node->safe_psql('postgres', 'ALTER ROLE old_name RENAME TO new_name');
	return;
}

sub change_types
{
	my ($node, $database) = @_;

	$node->safe_psql($database,
		'ALTER TYPE app.pair DROP ATTRIBUTE b; ALTER TABLE app.item DROP COLUMN gone');
	return;
}

# Makes all of it.  With test points, there are dead rows as well.
sub make_all_kinds
{
	my ($node, %options) = @_;
	my $quoted = '"' . ($strange_name =~ s/"/""/gr) . '"';

	$node->safe_psql('postgres', $roles);
	$node->safe_psql('postgres', "CREATE DATABASE $quoted");
	$node->safe_psql('postgres', "ALTER DATABASE $quoted SET pg_topics.enable_offset_scan = off");
	for my $database (@databases)
	{
		$node->safe_psql($database, 'CREATE EXTENSION IF NOT EXISTS pg_topics');
		$node->safe_psql($database, $_) for $surroundings, $rights, $topics;
		make_types($node, $database) if $database eq 'postgres';
		make_records($node, $database, $options{points});
		$node->safe_psql($database, $_) for $beside, $groups;
	}
	$node->safe_psql('postgres', 'ALTER ROLE old_name RENAME TO new_name');
	$node->safe_psql('postgres', 'SELECT topics.create_roles()');
	$node->safe_psql('postgres', 'CREATE ROLE monitor IN ROLE topics_monitor');
	for my $database (@databases)
	{
		$node->safe_psql($database, 'CALL topics.maintain()');
		for my $topic ('state', 'both', '__consumer_offsets')
		{
			ok(compact_by_hand($node, $topic, $database), "$database: $topic is compacted");
		}
		$node->safe_psql($database, q{SELECT topics.delete_records('orders', 1, 25)});
	}
	return;
}

sub make_records
{
	my ($node, $database, $points) = @_;

	for my $round (1 .. 3)
	{
		produce_round($node, $database, $round);
		produce_and_abort(
			$node,
			$database,
			q{SELECT topics.produce('orders', repeat('dead', 2000), partition => i % 2) FROM generate_series(1, 30) i},
			"$database: rows of an aborted transaction") if $points;
		next if $round == 3;
		$node->safe_psql($database, "CALL topics.roll_segment('$_')")
		  for qw(orders state both trimmed);
	}
	return;
}

# A topic for each type, and a change of two of the types afterwards.
sub make_types
{
	my ($node, $database) = @_;
	my @types = types_of($node, $database);

	@example{ keys %first_example } = values %first_example;
	my $without = join ', ', map { "'$_'" } @without_input;

	is( $node->safe_psql(
			$database, qq{
		SELECT typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace
			AND (typtype IN ('r', 'm') OR (typtype = 'b' AND typarray <> 0 OR typname IN ('int2vector', 'oidvector')))
			AND typname NOT IN ($without) AND oid <> ALL (ARRAY[}
			  . join(', ', map { "'$_'::regtype" } @types)
			  . ']::oid[])'),
		'',
		'there is a value of each type');
	$node->safe_psql(
		$database,
		join "\n",
		map {
			"SELECT topics.create_topic('$topic_of{$_}', 2, key_type => '$_', value_type => '$_');"
		} @types);
	produce_types($node, $database, @types);
	change_types($node, $database);
	@example{ keys %changed_example } = values %changed_example;
	produce_types($node, $database, @types);
	return;
}

# What pg_upgrade says that it does not move goes with its topic.
sub drop_what_pg_upgrade_refuses
{
	my ($node) = @_;

	$node->safe_psql(
		'postgres',
		join "\n",
		map {
			"SELECT topics.drop_topic('$topic_of{$_}') FROM topics.topic WHERE topic = '$topic_of{$_}';"
		} @not_for_pg_upgrade);
	return;
}

# ----------------------------------------------------------------------
# What is there, and whether it is the same elsewhere
# ----------------------------------------------------------------------

sub states_of
{
	my ($node) = @_;

	return { map { $_ => same_state($node, $_) } @databases };
}

sub same_states
{
	my ($node, $expected, $test_name) = @_;

	same_state($node, $_, $expected->{$_}, "$test_name: everything is in $_") for @databases;
	return;
}

sub check_all_files
{
	my ($node, $test_name) = @_;

	for my $database (@databases)
	{
		check_files($node, $database, "$test_name, $database");
		is($node->safe_psql($database, 'SELECT * FROM topics.broken_topic'),
			'', "$test_name: nothing is missing in $database");
	}
	return;
}

# ----------------------------------------------------------------------
# Work that goes on
# ----------------------------------------------------------------------

# Producers, consumers and the keeping of records, as users and the worker
# would have them.
sub work_on_all_kinds
{
	my ($node, $name) = @_;

	for my $database (@databases)
	{
		my $test_name = "$name, $database";

		my $start = start_of_trimmed($node, $database);

		check_rights($node, $database, $test_name);
		check_producing($node, $database, $test_name, $name);
		check_consuming($node, $database, $test_name);
		check_keeping($node, $database, $test_name, $start);
		check_beside($node, $database, $test_name);
	}
	check_all_files($node, "$name, afterwards");
	return;
}

sub check_rights
{
	my ($node, $database, $name) = @_;
	my %refused = (
		q{SET ROLE "Strange ""reader"; SELECT topics.produce('orders', 'x')} => 'a reader produces',
		q{SET ROLE "Strange ""reader"; SELECT * FROM topic.empty} => 'a reader reads all',
		q{SET ROLE bob; SELECT value FROM topic.empty} => 'a reader of a column reads another',
		q{SET ROLE bob; SELECT topics.drop_topic('orders')} => 'another than the owner drops',
		q{SET ROLE bob; SELECT topics.delete_group('by reset')} => 'a revoked function is called',
		q{SET ROLE bob; SELECT topics.commit_offset('by commit', 'orders', 0, 18)} =>
		  'another than the owner uses a group');

	is((sqlstate_of($node, $database, $_))[0], '42501', "$name: $refused{$_}: refused")
	  for sort keys %refused;
	is( $node->safe_psql(
			$database,
			q{SET ROLE "Strange ""reader"; SELECT f.offset FROM topics.fetch('orders', 1, 25, 1) f; RESET ROLE; SET ROLE bob; SELECT key FROM topic.empty LIMIT 0}
		),
		'25',
		"$name: who may read reads");
	return;
}

sub end_of
{
	my ($node, $database, $topic, $partition) = @_;

	return $node->safe_psql($database,
		"SELECT log_end_offset FROM topics.partition WHERE topic = '$topic' AND partition = $partition"
	);
}

sub check_producing
{
	my ($node, $database, $name, $round) = @_;
	my $end = end_of($node, $database, 'orders', 0);
	my $empty_end = end_of($node, $database, 'empty', 1);

	is( $node->safe_psql(
			$database, q{SET ROLE bob; CALL topics.send('orders', 'after', partition => 0)}),
		"0|$end",
		"$name: producing goes on at offset $end");
	is($node->safe_psql($database, q{CALL topics.send('empty', 'next', partition => 1)}),
		"1|$empty_end", "$name: in a partition that was empty, too");
	produce_round($node, $database, $round);
	if ($database eq 'postgres')
	{
		my %is_topic = map { $_ => 1 } split /\n/,
		  $node->safe_psql($database, 'SELECT topic FROM topics.topic');
		my @types = grep { $is_topic{ $topic_of{$_} } } types_of($node, $database);

		produce_types($node, $database, @types);
		is( $node->safe_psql(
				$database,
				join "\nUNION ALL\n",
				map {
					qq{SELECT '$_' FROM topic."$topic_of{$_}" GROUP BY key::text HAVING count(DISTINCT partition) > 1}
				} @types),
			'',
			"$name: equal keys of each of " . @types . ' types are in one partition');
	}
	$node->safe_psql($database, q{SET ROLE alice; CALL topics.roll_segment('orders')});
	$end = end_of($node, $database, 'orders', 0);
	is($node->safe_psql($database, q{CALL topics.send('orders', 'rolled', partition => 0)}),
		"0|$end", "$name: segments roll");
	is( $node->safe_psql(
			$database, q{
			SELECT max(topic_id) AS latest FROM topics.topic \gset
			SET ROLE alice;
			SELECT topics.create_topic('new');
			SELECT topic_id > :latest FROM topics.topic WHERE topic = 'new';
			SELECT topics.drop_topic('new')}),
		"\nt\n",
		"$name: a new topic gets a new id");
	return;
}

sub check_consuming
{
	my ($node, $database, $name) = @_;
	my $consume = q{SET ROLE alice; BEGIN;
		SELECT c.partition, min(c.offset) FROM topics.consume('by consume', 'orders', max_records => 3) c GROUP BY 1; COMMIT};
	my %current = map { split /\|/ } split /\n/,
	  $node->safe_psql($database,
		q{SELECT partition, coalesce(current_offset, 0) FROM topics.consumer_lag WHERE group_id = 'by consume' AND topic = 'orders' AND lag > 0}
	  );
	my ($partition, $offset) = split /\|/, $node->safe_psql($database, $consume);

	is($offset, $current{$partition}, "$name: a group goes on where it was");
	($partition, $offset) = split /\|/, $node->safe_psql($database, $consume);
	isnt($offset, undef, "$name: and on");
	is( $node->safe_psql(
			$database, q{SET ROLE alice;
		SELECT topics.commit_offset('by commit', 'orders', 0, committed_offset + 1, 'more') FROM topics.consumer_offset
			WHERE group_id = 'by commit' AND topic = 'orders';
		SELECT old_offset = new_offset - 1 FROM topics.reset_offset('by reset', 'orders', 0, shift_by => 1);
		SET ROLE new_name;
		SELECT topics.commit_offset('of a renamed role', 'orders', 0, committed_offset + 1) FROM topics.consumer_offset
			WHERE group_id = 'of a renamed role'}),
		"\nt\n",
		"$name: offsets are committed and reset");
	return;
}

sub start_of_trimmed
{
	my ($node, $database) = @_;

	return $node->safe_psql($database,
		q{SELECT sum(log_start_offset) FROM topics.partition WHERE topic = 'trimmed'});
}

sub check_keeping
{
	my ($node, $database, $name, $start) = @_;

	wait_for_worker($node, $database, "$name: the worker runs") if $database ne $strange_name;
	# one maintain() cuts, the next drops
	$node->safe_psql($database, 'CALL topics.maintain(); CALL topics.maintain()');
	cmp_ok(start_of_trimmed($node, $database), '>', $start, "$name: retention goes on");
	ok(compact_by_hand($node, 'state', $database), "$name: compaction goes on");
	is($node->safe_psql($database, q{SELECT count(*), count(DISTINCT key) FROM topic.state}),
		'40|40', "$name: a record of each key is left");
	return;
}

sub check_beside
{
	my ($node, $database, $name) = @_;

	is( $node->safe_psql(
			$database, q{
		UPDATE app.item SET name = name || '!' WHERE id = 1;
		SELECT value::jsonb #>> '{new,name}' = (SELECT name FROM app.item WHERE id = 1) FROM topic.changes ORDER BY "offset" DESC LIMIT 1;
		SELECT (SELECT count(*) FROM app.audit) = log_end_offset - 12 FROM topics.partition WHERE topic = 'history';
		SELECT sum(count) = (SELECT count(*) FROM topic.orders) FROM app.order_count;
		REFRESH MATERIALIZED VIEW app.order_keys;
		SELECT count(*) = (SELECT count(DISTINCT key) + 1 FROM topic.orders) FROM app.order_keys;
		SELECT count(*) FROM app.next_orders();
		SET enable_seqscan = off;
		SELECT name FROM app.customer WHERE topics.murmur2(decode(name, 'escape')) = topics.murmur2('anna');}
		),
		"t\nt\nt\nt\n3\nanna",
		"$name: what stands beside topics goes on");
	return;
}

1;
