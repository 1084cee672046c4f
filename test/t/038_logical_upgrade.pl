# An upgrade by logical replication: the schema by pg_dump, all tables by a
# publication, and then the application moves over.  Sequences do not come along.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Topics;
use TopicState;

my $old = topics_node(
	'old',
	init => { allows_streaming => 'logical' },
	conf => "pg_topics.worker_interval = '1h'\nmax_wal_senders = 20\nmax_replication_slots = 40\n");
my $new = topics_node(
	'new',
	extension => 0,
	conf =>
	  "pg_topics.worker_interval = '100ms'\nmax_worker_processes = 40\nmax_logical_replication_workers = 20\nmax_sync_workers_per_subscription = 4\n"
);
my $dump = PostgreSQL::Test::Utils::tempdir . '/schema';

$old->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('dropped'); SELECT topics.drop_topic('dropped');
	SELECT topics.create_topic('orders', 2, segment_bytes => 65536, retention_time => '-1 s');
	SELECT topics.create_topic('state', cleanup_policy => 'compact', min_cleanable_dirty_ratio => 0);
	SELECT topics.produce('orders', repeat(md5(i::text), 10), partition => i % 2) FROM generate_series(1, 300) i;
	SELECT topics.produce('state', i::text, (i % 7)::text) FROM generate_series(1, 100) i;});
$old->safe_psql('postgres',
	q{BEGIN; SELECT count(*) FROM topics.consume('work', 'orders', max_records => 40); COMMIT});
$old->safe_psql('postgres', q{CALL topics.roll_segment('orders')});
ok(compact_by_hand($old, 'state'), 'the old server has compacted');

command_ok([ 'pg_dump', '-s', '-d', $old->connstr('postgres'), '-f', $dump ], 'dump the schema');
command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $new->connstr('postgres'), '-f', $dump ],
	'restore it');
$old->safe_psql('postgres', 'CREATE PUBLICATION upgrade FOR ALL TABLES');
$new->safe_psql('postgres',
		q{CREATE SUBSCRIPTION upgrade CONNECTION '}
	  . $old->connstr
	  . q{ dbname=postgres' PUBLICATION upgrade});
$new->wait_for_subscription_sync($old, 'upgrade');
# what is produced meanwhile comes along, too
$old->safe_psql('postgres',
	q{SELECT topics.produce('orders', i::text, partition => i % 2) FROM generate_series(1, 10) i});
$old->safe_psql('postgres',
	q{BEGIN; SELECT count(*) FROM topics.consume('work', 'orders', max_records => 5); COMMIT});
$old->wait_for_catchup('upgrade');
my $expected = same_state($old, 'postgres');
$new->safe_psql('postgres', 'DROP SUBSCRIPTION upgrade');
$old->stop;

same_state($new, 'postgres', $expected, 'everything is there');
is($new->safe_psql('postgres', 'SELECT * FROM topics.broken_topic'), '', 'nothing is missing');
is($new->safe_psql('postgres', q{SELECT count(*) FROM topics.fetch('orders', 0, 0)}),
	'155', 'fetch');
is($new->safe_psql('postgres', q{CALL topics.send('orders', 'x', partition => 1)}),
	'1|155', 'produce');
is( $new->safe_psql(
		'postgres', q{SELECT sum(current_offset) FROM topics.consumer_lag WHERE group_id = 'work'}),
	'45',
	'groups go on');
is( $new->safe_psql(
		'postgres',
		q{SELECT topics.create_topic('next'); SELECT topic_id FROM topics.topic WHERE topic = 'next'}
	),
	"\n5",
	'a new topic passes the ids that are used');
is(join("\n", grep { /PANIC|TRAP|terminated by signal/ } split /\n/, slurp_file($new->logfile)),
	'', 'no crash');
done_testing();
