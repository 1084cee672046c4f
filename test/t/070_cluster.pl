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
my $connstr = $a->connstr('postgres');
$a->safe_psql('postgres', qq{SELECT topics.create_cluster('a', \$\$$connstr user=replica\$\$)});
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

# By the leader's conninfo the new node must come to the leader, and be let in
$a->safe_psql('postgres', 'CREATE ROLE nobody LOGIN');
for (
	[
		'host=/nowhere user=replica',
		'08006', qr/node "b" reports: connection to node "a" failed:.*nowhere/s
	],
	[
		"$connstr user=nobody",
		'42501', qr/node "a" reports: permission denied.*attribute REPLICATION/s
	],
	[ $b->connstr('postgres'), '55000', qr/node "a" reports: this database leads no cluster/ ])
{
	my ($conninfo, $expected_state, $pattern) = @$_;

	$a->safe_psql('postgres', "SELECT topics.alter_node('a', \$\$$conninfo\$\$)");
	my ($state, $message) = sqlstate_of($a, 'postgres',
		"CALL topics.add_node('b', \$\$" . $b->connstr('postgres') . '$$)');
	is($state, $expected_state, "a node is not added: $conninfo");
	like($message, $pattern, '... and the error says why');
}
$b->safe_psql('postgres', 'CREATE ROLE replica LOGIN REPLICATION IN ROLE pg_read_all_data');
like(
	(   sqlstate_of(
			$a, 'postgres',
			"CALL topics.add_node('b', \$\$" . $b->connstr('postgres') . ' user=replica$$)'))[1],
	qr/42501: permission denied to make a database node "b".*HINT:.*superuser/s,
	'... nor by a role that is no superuser');
is( $a->safe_psql('postgres', 'SELECT node FROM topics.node')
	  . $b->safe_psql('postgres', 'SELECT count(*) FROM topics.cluster'),
	'a0',
	'... nothing has become of it');
$a->safe_psql('postgres', qq{SELECT topics.alter_node('a', \$\$$connstr user=replica\$\$)});

add_node('b');
wait_for_replica($b, $a);
is( $b->safe_psql('postgres', 'SELECT node, leader, epoch > 0, acks_followers FROM topics.cluster'),
	'b|a|t|1',
	'what b is');
is( $a->safe_psql('postgres', 'SELECT cluster_id FROM topics.cluster'),
	$b->safe_psql('postgres', 'SELECT cluster_id FROM topics.cluster'),
	'... in the same cluster');
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
	q{ALTER VIEW topic.old RENAME TO older},
	q{ALTER TABLE topic.old RENAME TO older},
	q{ALTER VIEW topic.old OWNER TO app},
	q{GRANT SELECT ON topic.old TO app},
	q{REVOKE ALL ON ALL TABLES IN SCHEMA topic FROM app},
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

# The leader is elsewhere: its followers hear of that, or are told where to look
$a->safe_psql('postgres',
	qq{SELECT topics.alter_node('a', \$\$$connstr user=replica connect_timeout=9\$\$, 'host=new')});
$b->poll_query_until('postgres',
	q{SELECT leader_conninfo ~ 'connect_timeout=9' FROM topic_log.cluster})
  or die 'the new address does not come';
like(
	(sqlstate_of($b, 'postgres', q{SELECT topics.produce('old', 'x')}))[1],
	qr/leads: host=new\./,
	"the leader's new address");
$b->safe_psql('postgres',
	qq{SELECT topics.alter_node('a', \$\$$connstr user=replica connect_timeout=8\$\$)});
is( $b->safe_psql(
		'postgres', q{SELECT leader_conninfo ~ 'connect_timeout=8' FROM topic_log.cluster}),
	't',
	'... as a follower is told itself');
$a->safe_psql('postgres', qq{SELECT topics.alter_node('a', \$\$$connstr user=replica\$\$)});
$b->poll_query_until('postgres',
	q{SELECT leader_conninfo !~ 'connect_timeout' FROM topic_log.cluster})
  or die 'the old address does not come back';
is((sqlstate_of($_->[0], 'postgres', "SELECT topics.alter_node('$_->[1]', 'host=x')"))[0],
	$_->[2], 'alter_node: ' . $_->[0]->name . " of $_->[1]")
  for [ $a, 'z', '42704' ], [ $a, 'Z', '42602' ], [ $b, 'b', 'TP004' ], [ $b, 'z', 'TP004' ];

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
for my $name ('beside_1', 'beside_2')
{
	$a->safe_psql('postgres', "SELECT topics.create_topic('$name')");
	ok( poll_until(
			sub {
				$b->safe_psql('postgres', "SELECT count(*) FROM topics.topic WHERE topic = '$name'")
				  eq '1';
			}),
		'... nor those that are made later, however long it is missing');
	sleep 3;
}
$_->safe_psql('postgres', 'CREATE TYPE pair AS (a int, b text)') for $b, $c;
# a shows it when b has confirmed that it has it
$_->poll_query_until('postgres', q{SELECT count(*) = 1 FROM topic.pairs})
  or die 'it does not go on'
  for $b, $a;
same_on('b', 'goes on when the type is there');

# What has failed is tried again at once when somebody says that it is put right
$a->safe_psql('postgres', q{ALTER TYPE color ADD VALUE 'blue'});
$a->safe_psql('postgres',
	q{SET pg_topics.acks = 1; INSERT INTO topic.hues (key, partition) VALUES ('blue', 0)});
$b->poll_query_until('postgres',
	q{SELECT failures >= 4 FROM topics.worker WHERE step = 'fetch' AND topic = 'hues'})
  or die 'a missing value is not told of';
my $next_try = $b->safe_psql('postgres',
	q{SELECT next_try FROM topics.worker WHERE step = 'fetch' AND topic = 'hues'});
$_->safe_psql('postgres', q{ALTER TYPE color ADD VALUE 'blue'}) for $b, $c;
$b->safe_psql('postgres', q{CALL topics.maintain('hues')});
$b->poll_query_until('postgres', q{SELECT count(*) = 1 FROM topic.hues WHERE key = 'blue'})
  or die 'it does not go on';
is($b->safe_psql('postgres', "SELECT clock_timestamp() < '$next_try'"),
	't', 'topics.maintain() has what failed on a follower tried again');

# Nor does it keep others when it is so much that several responses have it
$a->safe_psql('postgres', q{ALTER TYPE color ADD VALUE 'violet'});
$a->safe_psql(
	'postgres', q{
	SET pg_topics.acks = 1;
	SELECT topics.create_topic('big', key_type => 'color', max_message_bytes => 2000000);
	INSERT INTO topic.big (key, value) SELECT 'violet', repeat(md5(i::text), 31250) FROM generate_series(1, 13) i;
	SELECT topics.produce('old', 'behind', partition => 0);});
ok( $b->poll_query_until('postgres', q{SELECT count(*) > 0 FROM topic.old WHERE value = 'behind'}),
	'b: much of one partition, which cannot be had, does not stop others');
$_->safe_psql('postgres', q{ALTER TYPE color ADD VALUE 'violet'; CALL topics.maintain('big')})
  for $b, $c;
# nobody sees it before a follower has it
$a->poll_query_until('postgres', 'SELECT count(*) = 13 FROM topic.big') or die 'nobody has it';
wait_for_replica($b, $a);
same_on('b', 'goes on with much of one partition');

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

# The roles are each server's
$c->safe_psql('postgres', 'SELECT topics.create_roles()');
is( $c->safe_psql(
		'postgres',
		q{SELECT has_table_privilege('topics_monitor', 'topics.topic', 'SELECT'), has_table_privilege('topics_reader', 'topic.old', 'SELECT')}
	),
	't|f',
	'a follower has its own roles, and the grants of the leader');

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
poll_until(
	sub {
		$c->safe_psql('postgres', q{SELECT count(*) FROM topics.worker WHERE step IS NOT NULL}) eq
		  '0';
	}) or die 'what failed for a node that has left is still told of';

# ----------------------------------------------------------------------
# A name is one database's
# ----------------------------------------------------------------------

my %same = (first => $c, second => $b);

$same{$_}->safe_psql('postgres', "CREATE DATABASE $_"),
  $same{$_}->safe_psql($_,
	q{CREATE EXTENSION pg_topics; CREATE TYPE color AS ENUM ('red', 'green', 'blue', 'violet'); CREATE TYPE pair AS (a int, b text)}
  ) for keys %same;

# The SQLSTATE, '' if there was no error, and the message
sub add_same
{
	my ($state, $message) = sqlstate_of($a, 'postgres',
		"CALL topics.add_node('d', \$\$" . $same{ $_[0] }->connstr($_[0]) . '$$)');

	return ($state eq '00000' ? '' : $state, $message);
}

is((add_same('first'))[0], '', 'a database becomes a node');
my ($state, $message) = add_same('second');
is($state, '42710', '... and another one of the same name does not');
like(
	$message,
	qr/node "d" is another database, which follows.*HINT:.*remove_node/s,
	'... which the error says');
is($b->safe_psql('second', 'SELECT count(*) FROM topics.cluster'),
	'0', '... nothing has become of it');
is((add_same('first'))[0], '', '... but the first may be added again');
$c->stop('immediate');
poll_until(sub { (add_same('second'))[0] eq '' }) or die 'a node cannot be replaced';
$c->start;
$c->poll_query_until('first',
	q{SELECT message ~ 'node "d" is another database by now' FROM topics.worker WHERE step = 'connect'}
) or die 'not told of';
is($a->safe_psql('postgres', q{SELECT in_sync FROM topics.node WHERE node = 'd'}),
	't', '... when the first was lost, another one takes its place for good');
$a->safe_psql('postgres', q{CALL topics.remove_node('d')});
$c->safe_psql('first', 'SELECT topic_log.leave_cluster()');

# Alone again: what a topic wanted of a cluster is in nobody's way
$b->safe_psql(
	'second', q{
	SELECT topics.create_cluster('b', 'host=b');
	UPDATE topic_log.topic SET min_insync_replicas = 2 WHERE topic_id = (SELECT topic_id FROM topics.topic WHERE topic = 'old')}
);
is((sqlstate_of($b, 'second', q{SELECT topics.produce('old', 'x')}))[0],
	'TP009', 'a cluster of one has too few replicas');
$b->safe_psql('second', 'SELECT topic_log.leave_cluster()');
$b->safe_psql('second', q{SELECT topics.produce('old', 'x')});
is(scalar $_->log_contains('PANIC|TRAP|terminated by signal'), '', 'no crash of ' . $_->name)
  for values %node;

done_testing();
