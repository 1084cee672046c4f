# Logical replication of a topic's log: into a plain table, and into a log
# table of the same shape where pg_topics is installed as well.  What arrives
# is a prefix in the order of offsets, of committed records only.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Topics;
use TopicState;

my $publisher = topics_node(
	'publisher',
	points => 1,
	init => { allows_streaming => 'logical' },
	conf => "pg_topics.worker_interval = '1h'\n");
my $plain = PostgreSQL::Test::Cluster->new('plain');
my $log = topics_node('log', conf => "pg_topics.worker_interval = '100ms'\n");
$plain->init;
$plain->start;

$publisher->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('log', 2, segment_bytes => 65536);
	CREATE PUBLICATION root FOR TABLE topic_log.t1 WITH (publish = 'insert', publish_via_partition_root);
	CREATE PUBLICATION lists FOR TABLE topic_log.t1_p0, topic_log.t1_p1 WITH (publish = 'insert', publish_via_partition_root);}
);
$plain->safe_psql(
	'postgres', q{
	CREATE SCHEMA topic_log;
	CREATE TABLE topic_log.t1 ("offset" bigint, "timestamp" timestamptz, partition int, key text, value text, headers jsonb,
		arrived bigserial);});
$log->safe_psql('postgres', q{SELECT topics.create_topic('copy', 2)});
$plain->safe_psql('postgres',
		'CREATE SUBSCRIPTION plain CONNECTION \''
	  . $publisher->connstr
	  . " dbname=postgres' PUBLICATION root");
$log->safe_psql('postgres',
		'CREATE SUBSCRIPTION log CONNECTION \''
	  . $publisher->connstr
	  . " dbname=postgres' PUBLICATION lists WITH (copy_data = false)");
$plain->wait_for_subscription_sync($publisher, 'plain');

# Several producers at once, with rollbacks, savepoints, transactions that
# commit in another order than they began, failures behind the append, rolls.
sub produce_some
{
	my ($name) = @_;
	my @writers;

	my $slow = $publisher->background_psql('postgres');
	$slow->query_safe(
		"BEGIN; SELECT topics.produce('log', '$name slow ' || i, partition => i % 2) FROM generate_series(1, 5) i"
	);
	produce_and_abort(
		$publisher, 'postgres',
		q{SELECT topics.produce('log', 'gone', partition => i % 2) FROM generate_series(1, 50) i},
		"$name: rows of an aborted transaction");
	for my $writer (1 .. 3)
	{
		my $script = join "\n", map {
			qq{BEGIN; SELECT count(topics.produce('log', '$name writer $writer round $_ record ' || i || repeat('x', i * 20), partition => i % 2)) FROM generate_series(1, 20) i;
			SAVEPOINT s; SELECT topics.produce('log', 'gone'); ROLLBACK TO s; COMMIT;
			BEGIN; SELECT topics.produce('log', 'gone'); ROLLBACK;}
		} 1 .. 10;
		my %writer = (out => '', err => '');
		$writer{handle} = IPC::Run::start(
			[ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $publisher->connstr('postgres') ],
			'<', \$script, '>', \$writer{out}, '2>', \$writer{err});
		push @writers, \%writer;
	}
	$publisher->safe_psql('postgres', q{CALL topics.roll_segment('log')});
	for my $writer (@writers)
	{
		$writer->{handle}->finish;
		is($writer->{err}, '', "$name: a writer");
	}
	$slow->query_safe('COMMIT');
	$slow->quit;
	$publisher->safe_psql('postgres', q{CALL topics.roll_segment('log')});
	# out of line, and the last of each partition
	$publisher->safe_psql('postgres',
		qq{SELECT topics.produce('log', (SELECT string_agg(md5(j::text), '') FROM generate_series(1, 3000) j), '$name', '[["h", "v"]]', p) FROM generate_series(0, 1) p}
	);
	return;
}

# A record, to be compared.  In a plain table rows may lie in another order than
# they arrived, which "arrived" knows.
my $row = q{partition, "offset", "timestamp" AT TIME ZONE 'UTC', key, md5(value), headers};

sub check_subscribers
{
	my ($name) = @_;
	my $expected = $publisher->safe_psql('postgres',
		qq{SELECT $row FROM topic.log ORDER BY partition, "offset"});

	$publisher->wait_for_catchup('plain');
	$publisher->wait_for_catchup('log');
	unlike($publisher->safe_psql('postgres', 'SELECT value FROM topic.log'),
		qr/gone/, "$name: only committed records");
	ok( $plain->safe_psql('postgres', "SELECT $row FROM topic_log.t1 ORDER BY partition, arrived")
		  eq $expected,
		"$name: a plain table got all records in the order of offsets");
	ok( $log->safe_psql('postgres', qq{SELECT $row FROM topic.copy ORDER BY partition, "offset"})
		  eq $expected,
		"$name: a log table has all records");
	check_files($log, 'postgres', "$name: log table");

	for my $partition (0, 1)
	{
		is( $log->safe_psql(
				'postgres',
				qq{SELECT count(*), min(f.offset), max(f.offset) FROM topics.fetch('copy', $partition, 0, 1000000, 1000000000) f}
			),
			$publisher->safe_psql(
				'postgres',
				qq{SELECT count(*), min(f.offset), max(f.offset) FROM topics.fetch('log', $partition, 0, 1000000, 1000000000) f}
			),
			"$name: fetch reads partition $partition");
	}
	is( $log->safe_psql('postgres', q{SELECT * FROM topics.list_offsets('copy', 'latest')}),
		$publisher->safe_psql('postgres', q{SELECT * FROM topics.list_offsets('log', 'latest')}),
		"$name: the ends agree");
	return;
}

produce_some('first');
check_subscribers('first');

# The subscriber rolls by itself, where it likes; its bounds are its own
$log->safe_psql('postgres', q{CALL topics.roll_segment('copy')});
produce_some('rolled');
check_subscribers('rolled');

# After a crash in the middle it goes on where it was
$log->stop('immediate');
produce_some('down');
$log->start;
check_subscribers('down');

# Who writes to the copy besides is refused by order: the log has one writer.
# An offset that is there already does not come again.
my ($state, $message) = sqlstate_of(
	$log, 'postgres', q{
	INSERT INTO topic_log.t1_p0 SELECT * FROM topic_log.t1_p0 ORDER BY "offset" LIMIT 1});
is($state, '55000', 'an offset that is there is not written twice');
like($message, qr/append-only/, '... says why');

# Without the subscription the copy is a topic like any: produce goes on
$log->safe_psql('postgres', 'DROP SUBSCRIPTION log');
my $end = $log->safe_psql('postgres',
	q{SELECT "offset" FROM topics.list_offsets('copy', 'latest') WHERE partition = 0});
is($log->safe_psql('postgres', q{CALL topics.send('copy', 'taken over', partition => 0)}),
	"0|$end", 'produce goes on in the copy');
check_files($log, 'postgres', 'taken over');

for my $node ($publisher, $log)
{
	is( join("\n",
			grep { /PANIC|TRAP|terminated by signal/ } split /\n/,
			slurp_file($node->logfile)),
		'',
		'no crash on ' . $node->name);
}
done_testing();
