# To a newer major, by dump and by pg_upgrade: topics of every kind are as they
# were, and so is what stands beside them; producers and consumers go on, from
# server to server.  With test/upgrade these are of different majors, otherwise of
# one, which is what any machine has; log tables are moved alike.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use File::Basename qw(basename dirname);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use AllKinds;
use Topics;
use TopicState;

my @servers = servers_to_upgrade(3);
my $temporary = PostgreSQL::Test::Utils::tempdir;
my $conf = q{
pg_topics.worker_interval = '1h'
autovacuum = off
wal_level = logical
max_wal_senders = 5
max_locks_per_transaction = 256
};

my $old = topics_node('old', points => 1, conf => $conf);
make_all_kinds($old, points => 1);
check_all_files($old, 'old');
my $expected = states_of($old);
my $checksums = $old->safe_psql('postgres', 'SHOW data_checksums') eq 'on';

# ----------------------------------------------------------------------
# By dump, with the newer server's programs
# ----------------------------------------------------------------------

sub dump_and_restore
{
	my ($number, $server) = @_;
	my $new = topics_node("restored_$number", server => $server, extension => 0, conf => $conf);
	my $name = 'dump to ' . $new->pg_version;
	my $bindir = dump_bindir($old, $new);
	my $dump = "$temporary/dump_$number";

	command_ok(
		[
			"$bindir/pg_dumpall", '--globals-only',
			'-d', $old->connstr('postgres'),
			'-f', "$dump.globals"
		],
		"$name: pg_dumpall --globals-only");
	# there is a role postgres already
	$new->psql('postgres', slurp_file("$dump.globals"), on_error_stop => 0);
	for my $database ('postgres', $strange_name)
	{
		my @create = $database eq 'postgres' ? () : ('--create');

		$dump .= '_of_another' if @create;
		command_ok(
			[ "$bindir/pg_dump", '-Fd', '-j', '2', '-f', $dump, '-d', $old->connstr($database) ],
			"$name: pg_dump of $database");
		command_ok(
			[
				"$bindir/pg_restore", '--exit-on-error', '-j', '2', @create, '-d',
				$new->connstr('postgres'), $dump
			],
			"$name: pg_restore of $database");
	}
	same_states($new, $expected, $name);
	check_all_files($new, $name);
	work_on_all_kinds($new, $name);
	check_roles($new, $name);
	$new->stop;
	unlike(slurp_file($new->logfile), qr/PANIC|TRAP|terminated by signal/, "$name: no crash");
	return;
}

# The roles of create_roles() are roles like others in another cluster.
sub check_roles
{
	my ($node, $name) = @_;
	my $topics = $node->safe_psql('postgres', 'SELECT count(*) FROM topics.topic');

	is($node->safe_psql('postgres', q{SET ROLE monitor; SELECT count(*) FROM topics.topic}),
		'0', "$name: the roles of create_roles are not trusted in another cluster");
	$node->safe_psql('postgres', 'SELECT topics.create_roles(take_over => true)');
	is($node->safe_psql('postgres', q{SET ROLE monitor; SELECT count(*) FROM topics.topic}),
		$topics, "$name: ... until they are taken over");
	return;
}

if (defined $servers[1])
{
	dump_and_restore($_, $servers[$_]) for 1 .. $#servers;
}
else
{
	dump_and_restore(1);
}

# ----------------------------------------------------------------------
# By pg_upgrade, from each to the next
# ----------------------------------------------------------------------

# How files get to the new cluster.  All but the first use the old one up.
my @modes = (['--copy'], [ '--link', '--jobs', '2' ], ['--swap']);

check_refusal();
drop_what_pg_upgrade_refuses($old);
for my $number (1 .. $#servers)
{
	my $new = new_cluster("upgraded_$number", $servers[$number]);
	my @options = @{ $modes[ ($number - 1) % @modes ] };

	@options = ('--link') if $options[0] eq '--swap' && $new->pg_version < 18;
	my $name = join ' ', $old->pg_version, 'to', $new->pg_version, @options;
	my $next_id = "SELECT last_value FROM topic_log.topic_id_seq";
	my $latest_id = $old->safe_psql('postgres', $next_id);

	my $standby = $options[0] eq '--link' ? standby_of($old, "standby_$number") : undef;

	# pg_upgrade takes logical slots along from 17 on
	my $subscriber = $old->pg_version >= 17 ? subscriber_of($old, "subscriber_$number") : undef;

	$expected = states_of($old);
	forget_attribute_versions($old) if loses_attribute_versions($old, $new);
	stop_following($subscriber, $old) if $subscriber;
	$old->stop;
	$standby->stop if $standby;
	upgrade($old, $new, $name, @options);
	$standby = upgrade_standby($standby, $old, $new, $name) if $standby;
	$new->start;
	same_states($new, $expected, $name);
	is($new->safe_psql('postgres', $next_id), $latest_id, "$name: ids go on");
	check_all_files($new, $name);
	work_on_all_kinds($new, $name);
	check_roles($new, $name);
	check_standby($standby, $new, $name) if $standby;
	check_subscriber($subscriber, $new, $name) if $subscriber;
	unlike(slurp_file($new->logfile), qr/PANIC|TRAP|terminated by signal/, "$name: no crash");
	$old = $new;
}
$old->stop;

sub new_cluster
{
	my ($name, $server) = @_;
	my $node = new_node($name, $server);
	my %options;

	# both alike, or pg_upgrade refuses; on by default from 18 on
	$options{extra} = [ $checksums ? '--data-checksums' : '--no-data-checksums' ]
	  if $node->pg_version >= 18;
	$node->init(%options);
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_topics'\n$conf");
	return $node;
}

sub standby_of
{
	my ($node, $name) = @_;
	my $standby = new_node($name, $node->{_install_path});

	$node->backup($name);
	$standby->init_from_backup($node, $name, has_streaming => 1);
	$standby->start;
	$node->wait_for_catchup($name);
	return $standby;
}

# As PostgreSQL's documentation has it: after both servers were stopped, the
# primary first, and before the new one starts, by rsync of both directories.  The
# new standby; undef where there is no rsync.
sub upgrade_standby
{
	my ($standby, $from, $to, $name) = @_;
	my $site = "$temporary/site";
	my $parent = dirname(dirname($from->data_dir));
	my @data = map { basename(dirname($_->data_dir)) . '/pgdata' } $from, $to;

	if (!grep { -x "$_/rsync" } split /:/, $ENV{PATH})
	{
		diag('no rsync: the standby is not upgraded');
		return;
	}
	my $new = new_node($standby->name . '_upgraded', $to->{_install_path});
	mkdir $_ or die $! for $site, "$site/" . dirname($data[0]);
	rename $standby->data_dir, "$site/$data[0]" or die $!;
	chdir $parent or die $!;
	command_ok(
		[
			'rsync', '--archive', '--delete', '--hard-links',
			'--size-only', '--no-inc-recursive', '--relative', @data,
			"$site/"
		],
		"$name: rsync to the standby");
	rename "$site/$data[1]", $new->data_dir or die $!;
	$new->append_conf('postgresql.conf', 'port = ' . $new->port);
	$new->append_conf('postgresql.conf',
		"primary_conninfo = '" . $to->connstr . ' application_name=' . $new->name . "'");
	$new->set_standby_mode;
	return $new;
}

sub check_standby
{
	my ($standby, $primary, $name) = @_;

	$standby->start;
	$primary->wait_for_catchup($standby->name);
	same_states($standby, states_of($primary), "$name, the standby");
	check_all_files($standby, "$name, the standby");
	$standby->promote;
	work_on_all_kinds($standby, "$name, the standby promoted");
	$standby->stop;
	return;
}

# A table elsewhere that follows a topic.
sub subscriber_of
{
	my ($node, $name) = @_;
	my $subscriber = new_node($name, $node->{_install_path});
	my $root = $node->safe_psql('postgres',
		q{SELECT 'topic_log.t' || topic_id FROM topics.topic WHERE topic = 'orders'});

	$subscriber->init;
	$subscriber->start;
	$subscriber->safe_psql(
		'postgres', qq{
		CREATE SCHEMA topic_log;
		CREATE TABLE $root ("offset" bigint, "timestamp" timestamptz, partition int, key text, value text, headers jsonb);
		CREATE VIEW orders AS SELECT * FROM $root;
		CREATE SUBSCRIPTION $name CONNECTION '}
		  . $node->connstr . q{ dbname=postgres' PUBLICATION orders});
	$subscriber->wait_for_subscription_sync($node, $name);
	return $subscriber;
}

sub stop_following
{
	my ($subscriber, $node) = @_;

	$node->wait_for_catchup($subscriber->name);
	$subscriber->safe_psql('postgres', 'ALTER SUBSCRIPTION ' . $subscriber->name . ' DISABLE');
	$node->poll_query_until('postgres', 'SELECT NOT bool_or(active) FROM pg_replication_slots')
	  or die 'the subscriber does not end';
	return;
}

sub check_subscriber
{
	my ($subscriber, $publisher, $name) = @_;
	my $subscription = $subscriber->name;
	my $query =
	  q{SELECT partition, "offset", "timestamp", md5(key), md5(value), headers FROM %s WHERE partition <> 1 OR "offset" >= 25 ORDER BY 1, 2};

	$subscriber->safe_psql('postgres', $_)
	  for "ALTER SUBSCRIPTION $subscription CONNECTION '"
	  . $publisher->connstr
	  . q{ dbname=postgres'},
	  "ALTER SUBSCRIPTION $subscription ENABLE";
	$publisher->wait_for_catchup($subscription);
	ok( $subscriber->safe_psql('postgres', sprintf $query, 'orders') eq
		  $publisher->safe_psql('postgres', sprintf $query, 'topic.orders'),
		"$name: a subscriber goes on where it was");
	$subscriber->safe_psql('postgres', "DROP SUBSCRIPTION $subscription");
	$subscriber->stop;
	return;
}

# Users wait for a newer minor release (docs/operation.md).
sub forget_attribute_versions
{
	my ($node) = @_;
	my $forget = q{
		SET allow_system_table_mods = on;
		UPDATE pg_attribute SET attoptions = nullif(ARRAY(SELECT o FROM unnest(attoptions) o WHERE o NOT LIKE 'pg_attver=%'), '{}')
			WHERE attoptions::text LIKE '%pg_attver=%'};

	diag($node->pg_version . ' notes versions of columns that the next server does not know');
	$node->safe_psql($_, $forget)
	  for split /\n/,
	  $node->safe_psql('postgres', 'SELECT datname FROM pg_database WHERE datallowconn');
	return;
}

sub upgrade
{
	my ($from, $to, $name, @options) = @_;

	command_ok([ upgrade_command($from, $to, grep { $_ ne '--copy' } @options) ],
		"$name: pg_upgrade");
	return;
}

sub upgrade_command
{
	my ($from, $to, @options) = @_;

	# it writes into the current directory
	chdir $temporary or die $!;
	return (
		bindir_of($to) . '/pg_upgrade', '--old-datadir', $from->data_dir,
		'--new-datadir', $to->data_dir, '--old-bindir',
		bindir_of($from), '--new-bindir', bindir_of($to),
		'--socketdir', $to->host, '--old-port',
		$from->port, '--new-port', $to->port,
		@options);
}

# It names the tables of topics whose types it does not move.
sub check_refusal
{
	my $new = new_cluster('refusing', $servers[1]);

	command_checks_all(
		[ upgrade_command($old, $new, '--check') ], 1,
		[qr/reg\* data types in user tables/], [],
		'pg_upgrade says what it does not move');
	my ($list) = glob $new->data_dir . '/pg_upgrade_output.d/*/tables_using_reg*.txt';
	like(slurp_file($list), qr/topic_log\.t\d+_p0_s1\.value/, '... and in which tables');
	return;
}

done_testing();
