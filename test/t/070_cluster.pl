# A cluster of three nodes: the first leads, the others get its topics and its
# records, and go on with that whatever happens to them.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use TopicState;
use Topics;

my %node = map { $_ => topics_node($_, conf => "pg_topics.worker_interval = '1 s'\n") } qw(a b c);
my ($a, $b, $c) = @node{ 'a', 'b', 'c' };

# What a has and what another node has is the same, in time.
sub same_on
{
	my ($name, $test_name) = @_;
	my $expected;

	# a's worker may find something for the metadata meanwhile, and records be confirmed
	poll_until(
		sub {
			$expected = same_state($a, 'postgres');
			my $got = same_state($node{$name}, 'postgres');
			return !grep { ($got->{$_} // '') ne $expected->{$_} } keys %$expected;
		});
	return same_state($node{$name}, 'postgres', $expected, "$name: $test_name");
}

sub add_node
{
	my ($name) = @_;

	return $a->safe_psql('postgres',
		"CALL topics.add_node('$name', \$\$" . $node{$name}->connstr('postgres') . '$$)');
}

sub check_refused
{
	my ($statement, $expected_state, $pattern) = @_;
	my ($state, $message) = sqlstate_of($b, 'postgres', $statement);

	is($state, $expected_state, "a follower: $statement");
	like($message, $pattern, '... says why');
	return;
}

# ----------------------------------------------------------------------
# A cluster of one
# ----------------------------------------------------------------------

$a->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('old', 2);
	SELECT topics.produce('old', i::text, key => (i % 7)::text) FROM generate_series(1, 1000) i;});

# The role by which followers read the leader may not do more than that
$a->safe_psql('postgres', 'CREATE ROLE replica LOGIN REPLICATION IN ROLE pg_read_all_data');
$a->safe_psql('postgres',
	q{SELECT topics.create_cluster('a', $$} . $a->connstr('postgres') . ' user=replica$$)');
is( $a->safe_psql(
		'postgres',
		q{SELECT string_agg(key, ' ' ORDER BY "offset") FROM topic."__cluster_metadata"}),
	'epoch/1 cluster node/a topic/1',
	'the metadata have the node and its topic');
$a->safe_psql('postgres',
	q{CREATE ROLE app; CREATE ROLE reader; CREATE TYPE color AS ENUM ('red', 'green');});
$_->safe_psql('postgres', q{CREATE ROLE app; CREATE TYPE color AS ENUM ('red', 'green');})
  for $b, $c;
$c->safe_psql('postgres', 'CREATE ROLE application');
$a->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('colors', 3, key_type => 'color', value_type => 'color[]', notify => false);
	GRANT SELECT ON topic.colors TO reader; GRANT INSERT ON topic.colors TO PUBLIC;
	ALTER VIEW topic.colors OWNER TO app;
	INSERT INTO topic.colors (partition, key, value, headers) VALUES (1, 'red', '{green,red,NULL}', NULL), (1, 'green', NULL, '{"a": "b"}');}
);

# ----------------------------------------------------------------------
# A node comes
# ----------------------------------------------------------------------

add_node('b');
wait_for_replica($b, $a);
is(records_of($b, 'postgres', $_), records_of($a, 'postgres', $_), "b: records of $_")
  for qw(old colors);
is( $b->safe_psql(
		'postgres', q{SELECT relowner::regrole, relacl FROM pg_class WHERE relname = 'colors'}),
	'app|{app=arwdDxt/app,=a/app}',
	'... the rights of roles that are there');
$b->safe_psql('postgres', 'CREATE ROLE reader');
add_node('b');
$a->safe_psql('postgres',
	q{SELECT topics.create_topic('new'); ALTER ROLE app RENAME TO application});
$b->safe_psql('postgres', 'CREATE ROLE application');
$b->poll_query_until(
	'postgres', q{
	SELECT has_table_privilege('reader', 'topic.colors', 'SELECT') AND relowner = 'application'::regrole
	FROM pg_class WHERE relname = 'colors'}) or die 'the rights do not come';
same_on('b', 'those of roles that come later');
my $ends = $a->safe_psql('postgres',
	q{SELECT log_end_offset FROM topics.partition WHERE topic = 'old' AND partition = 0});
$a->poll_query_until('postgres', q{SELECT bool_and(lag = 0) FROM topics.replica}) or die;
check_files($b, 'postgres', 'b');
is( $a->safe_psql(
		'postgres', q{SELECT node, role, is_self, last_asked IS NOT NULL FROM topics.node}),
	"a|leader|t|f\nb|follower|f|t",
	'the nodes, as the leader sees them');
is( $b->safe_psql(
		'postgres', q{SELECT node, role, is_self, last_asked IS NOT NULL FROM topics.node}),
	"a|leader|f|f\nb|follower|t|f",
	'... and a follower');
is( $_->safe_psql(
		'postgres',
		q{SELECT node, role, log_end_offset, lag, lag_time FROM topics.replica WHERE topic = 'old' AND partition = 0}
	),
	"a|leader|$ends|0|\nb|follower|$ends|0|",
	'the replicas, as ' . $_->name . ' sees them') for $a, $b;

# ----------------------------------------------------------------------
# What a follower refuses
# ----------------------------------------------------------------------

my $elsewhere = qr/DETAIL:.*NOT_LEADER_OR_FOLLOWER: node "a" leads: .*port='\d+'/;

check_refused($_, 'TP004', $elsewhere)
  for (
	q{SELECT topics.produce('old', 'x')},
	q{INSERT INTO topic.old (value) VALUES ('x')},
	q{BEGIN; SELECT * FROM topics.consume('work', 'old'); COMMIT},
	q{SELECT topics.create_topic('mine')},
	q{SELECT topics.alter_topic('old', notify => false)},
	q{SELECT topics.rename_topic('old', 'new_name')},
	q{SELECT topics.add_partitions('old', 5)},
	q{SELECT topics.drop_topic('old')},
	q{SELECT topics.delete_records('old', 0, 10)},
	q{CALL topics.add_node('d', 'host=/nowhere')});
is( $b->safe_psql('postgres', q{SELECT count(*) FROM topics.fetch('old', 0, 0)}),
	$a->safe_psql('postgres', q{SELECT count(*) FROM topics.fetch('old', 0, 0)}),
	'a follower is read');

# ----------------------------------------------------------------------
# Topics' life
# ----------------------------------------------------------------------

$a->safe_psql(
	'postgres', q{
	SELECT topics.alter_topic('old', retention_time => '3 days', max_message_bytes => 5000);
	SELECT topics.add_partitions('new', 4);
	SELECT topics.rename_topic('colors', 'hues');
	SELECT topics.rename_topic('new', 'colors');
	SELECT topics.produce('colors', i::text, partition => i % 4) FROM generate_series(1, 100) i;
	SELECT topics.delete_records('old', 0, 100);
	REVOKE INSERT ON topic.hues FROM PUBLIC;});
same_on('b', 'names, settings, partitions, log starts');
$a->safe_psql(
	'postgres', q{
	BEGIN; SELECT topics.drop_topic('colors'); SELECT topics.create_topic('colors', key_type => 'int8', value_type => 'jsonb');
	INSERT INTO topic.colors (key, value) VALUES (5, '{"a": 1}'); COMMIT;});
same_on('b', 'a topic that was dropped and made again');

# Committed offsets
$a->safe_psql('postgres',
	q{BEGIN; SELECT count(*) FROM topics.consume('work', 'old', max_records => 10); COMMIT;});
same_on('b', 'committed offsets');

# A compacted topic: gaps
$a->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('state', cleanup_policy => 'compact', segment_bytes => 65536, min_cleanable_dirty_ratio => 0);
	SELECT topics.produce('state', i::text, key => (i % 10)::text) FROM generate_series(1, 5000) i;});
compact_by_hand($a, 'state') or die 'not compacted';
add_node('c');
wait_for_replica($c, $a);
is(records_of($c, 'postgres', 'state'), records_of($a, 'postgres', 'state'), 'c: a compacted log');
check_files($c, 'postgres', 'c');

# ----------------------------------------------------------------------
# What may happen to a follower
# ----------------------------------------------------------------------

$c->stop('immediate');
$a->safe_psql('postgres',
	q{SELECT topics.produce('old', i::text, partition => i % 2) FROM generate_series(1, 3000) i});
$c->start;
$a->stop('immediate');
$a->start;
wait_for_replica($c, $a);
is(records_of($c, 'postgres', 'old'), records_of($a, 'postgres', 'old'),
	'c: after crashes of both');
$a->safe_psql('postgres', q{SELECT topics.produce('old', 'more', partition => 1)});
same_on('b', 'b: all the same');

# A type that is not there stops its topic alone
$a->safe_psql(
	'postgres', q{
	CREATE TYPE pair AS (a int, b text);
	SELECT topics.create_topic('pairs', value_type => 'pair');
	SET pg_topics.acks = 1;
	INSERT INTO topic.pairs (value) VALUES ((1, 'x'));
	SELECT topics.produce('old', 'beside', partition => 0);});
$b->poll_query_until('postgres',
	q{SELECT message ~ '^topic "[a-z]+" cannot be had: type "public.pair" does not exist' FROM topics.worker WHERE step = 'metadata'}
) or die 'not told of';
is( $b->poll_query_until('postgres', q{SELECT count(*) > 0 FROM topic.old WHERE value = 'beside'}),
	1,
	'b: a missing type does not stop other topics');
$_->safe_psql('postgres', 'CREATE TYPE pair AS (a int, b text)') for $b, $c;
# a shows it when b has confirmed that it has it
$_->poll_query_until('postgres', q{SELECT count(*) = 1 FROM topic.pairs})
  or die 'it does not go on'
  for $b, $a;
same_on('b', 'goes on when the type is there');

# A dump of a node is in no cluster, and can become one, or join one
for my $dump ('alone', 'joins')
{
	$a->safe_psql('postgres', "CREATE DATABASE $dump TEMPLATE template0");
	$a->command_ok(
		[
			'bash',
			'-c',
			"pg_dump -d '" . $a->connstr('postgres') =~
			  s/'//gr . "' | psql -qXAt -v ON_ERROR_STOP=1 -d '" . $a->connstr($dump) =~
			  s/'//gr . "'"
		],
		"$dump: restored");
}
is( $a->safe_psql('alone', 'SELECT count(*) FROM topics.node')
	  . $a->safe_psql('alone',
		q{CALL topics.send('old', 'x', partition => 0); SELECT topics.create_cluster('z', 'host=z'); SELECT node FROM topics.node}
	  ) =~ s/^\d\|\d+\n//r,
	"0\nz",
	'a dump of the leader leads its own topics, and makes a cluster of its own');
like(
	(   sqlstate_of(
			$a,
			'joins',
			q{SELECT topic_log.join_cluster('d', 'a', 'x', 'host=a', 'host=a', '99', gen_random_uuid()::text)}
		))[1],
	qr/a database with topics cannot join a cluster/,
	'... and cannot join one with its topics');

# ----------------------------------------------------------------------
# A node goes
# ----------------------------------------------------------------------

$a->safe_psql('postgres', q{CALL topics.remove_node('b')});
is( $b->safe_psql('postgres', q{CALL topics.send('old', 'mine', partition => 0)}),
	'0|'
	  . $a->safe_psql(
		'postgres',
		q{SELECT log_end_offset FROM topics.partition WHERE topic = 'old' AND partition = 0}),
	'b: leads its own topics then');
$c->stop;
my ($ret, $stdout, $stderr) = $a->psql('postgres', q{CALL topics.remove_node('c')});
like($stderr, qr/WARNING:  node "c" was removed, but could not be told/, 'c: cannot be told');
$c->start;
$c->poll_query_until('postgres',
	q{SELECT message ~ 'node "c" is not in the cluster' FROM topics.worker WHERE step = 'connect'})
  or die 'not told of';
is((sqlstate_of($c, 'postgres', q{SELECT topics.produce('old', 'x')}))[0],
	'TP004', '... and does not lead by itself');
$c->safe_psql('postgres', 'SELECT topic_log.leave_cluster()');
$c->safe_psql('postgres', q{SELECT topics.produce('old', 'x')});
is(scalar $_->log_contains('PANIC|TRAP|terminated by signal'), '', 'no crash of ' . $_->name)
  for values %node;

done_testing();
