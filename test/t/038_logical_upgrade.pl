# To a newer major by logical replication, as docs/operation.md has it: the schema
# by pg_dump, records and catalogue by a publication, while producers and consumers
# go on; then the application moves over.  With test/upgrade from the oldest to the
# newest server, otherwise between two of one major.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use AllKinds;
use Topics;
use TopicState;

my @servers = servers_to_upgrade(2);
my $temporary = PostgreSQL::Test::Utils::tempdir;
my $conf = q{
pg_topics.worker_interval = '1h'
autovacuum = off
wal_level = logical
max_wal_senders = 40
max_replication_slots = 40
max_worker_processes = 40
max_logical_replication_workers = 20
max_sync_workers_per_subscription = 4
max_locks_per_transaction = 256
wal_retrieve_retry_interval = '200ms'
};
my $old = topics_node('old', points => 1, conf => $conf);
my $new = topics_node('new', server => $servers[-1], extension => 0, conf => $conf);
my $bindir = dump_bindir($old, $new);
my @databases = ('postgres', $strange_name);

make_all_kinds($old, points => 1);

# ----------------------------------------------------------------------
# Producers and consumers that do not stop
# ----------------------------------------------------------------------

my $script = "$temporary/clients.sql";
append_to_file(
	$script, q{
	SELECT count(topics.produce('orders', 'live ' || i, partition => i % 2)) FROM generate_series(1, 20) i;
	INSERT INTO topic.history (value) VALUES ('live');
	UPDATE app.item SET name = 'live ' || clock_timestamp();
	BEGIN;
	SET LOCAL ROLE alice;
	SELECT count(*) FROM topics.consume('by consume', 'orders', max_records => 15);
	COMMIT;
	\sleep 50 ms
});

sub start_clients
{
	my ($database) = @_;
	my %clients = (output => '');

	$clients{handle} = IPC::Run::start(
		[ 'pgbench', '-n', '-c', '2', '-T', '3600', '-f', $script, $old->connstr($database) ],
		'>', \$clients{output}, '2>', \$clients{output});
	return \%clients;
}

sub stop_clients
{
	my ($clients) = @_;

	$clients->{handle}->signal('INT');
	$clients->{handle}->finish;
	unlike($clients->{output}, qr/error|aborted/i, 'the clients went on until they were stopped');
	$old->poll_query_until('postgres',
		q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbench'})
	  or die 'a client does not end';
	return;
}

# ----------------------------------------------------------------------
# What docs/operation.md says
# ----------------------------------------------------------------------

sub begin_to_follow
{
	my ($database) = @_;
	my $number = $database eq 'postgres' ? 1 : 2;
	my $schema = "$temporary/schema.$number";
	my $room = q{
		SELECT topics.alter_topic(topic, segment_bytes => 1073741824) FROM topics.topic WHERE topic NOT LIKE '\_\_%';
		SELECT format('CALL topics.roll_segment(%L)', topic) FROM topics.topic WHERE topic NOT LIKE '\_\_%' \gexec
		CALL topics.maintain();
	};
	my $publish = q{
		SELECT format('CREATE PUBLICATION upgrade FOR TABLE topic_log.topic, topic_log.partition, %s WITH (publish_via_partition_root)',
			string_agg('topic_log.t' || topic_id, ', ')) FROM topics.topic \gexec
		CREATE PUBLICATION upgrade_tables FOR TABLES IN SCHEMA app;
	};
	my $connection = $old->connstr($database) =~ s/'/''/gr;

	$old->safe_psql($database, $room);
	command_ok(
		[
			"$bindir/pg_dump", '--schema-only', '--create', '-f',
			$schema, '-d', $old->connstr($database)
		],
		"$database: pg_dump --schema-only");
	$new->psql('postgres', slurp_file($schema), on_error_stop => 0, stderr => \my $errors);
	is(join("\n", grep { /ERROR/ && !/database "postgres" already exists/ } split /\n/, $errors),
		'', "$database: its schema is restored");
	$old->safe_psql($database, $publish);
	$new->safe_psql($database,
		"CREATE SUBSCRIPTION upgrade_$number CONNECTION '$connection' PUBLICATION upgrade, upgrade_tables"
	);
	return;
}

my @clients = map { start_clients($_) } @databases;
my $globals = "$temporary/globals.sql";

command_ok(
	[ "$bindir/pg_dumpall", '--globals-only', '-f', $globals, '-d', $old->connstr('postgres') ],
	'pg_dumpall --globals-only');
$new->psql('postgres', slurp_file($globals), on_error_stop => 0);
begin_to_follow($_) for @databases;
for my $database (@databases)
{
	ok( $new->poll_query_until(
			$database, q{SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel}),
		"$database: all tables are copied");
}
# segments roll on both, each where it likes
$old->safe_psql($_, q{CALL topics.roll_segment('orders')}) for @databases;
$new->safe_psql($_, q{CALL topics.roll_segment('orders')}) for @databases;
stop_clients($_)                                           for @clients;
my $expected = states_of($old);
$old->wait_for_catchup("upgrade_$_") for 1, 2;
$new->safe_psql($databases[ $_ - 1 ], "DROP SUBSCRIPTION upgrade_$_") for 1, 2;
$old->stop;
$new->restart;
my $name = $old->pg_version . ' to ' . $new->pg_version . ', logically';
same_states($new, $expected, $name);
check_all_files($new, $name);
work_on_all_kinds($new, $name);
unlike(slurp_file($new->logfile), qr/PANIC|TRAP|terminated by signal/, "$name: no crash");

done_testing();
