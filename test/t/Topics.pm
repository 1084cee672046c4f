# Topics.pm: what the TAP tests share.
#
# Every test makes its own servers with topics_node(), and waits for states,
# never for time: the wait_for_... functions fail after PostgreSQL::Test's
# timeout (PG_TEST_TIMEOUT_DEFAULT, 180 s).
package Topics;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Time::HiRes qw(usleep);

our @EXPORT =
  qw(topics_node new_node servers_to_upgrade bindir_of loses_attribute_versions dump_bindir ask_for_worker wait_for_worker wait_for_no_worker worker_pid stop_at wait_until_at stop_again_at go_on_from fail_at exhaust_scans_at wait_for_replica python_with);

# The first python3 that has a module; undef if none has.
sub python_with
{
	my ($module) = @_;
	my ($python) = grep { -x && !system "$_ -c 'import $module' 2>/dev/null" }
	  map { "$_/python3" } split(/:/, $ENV{PATH}), '/usr/bin';

	return $python;
}

# As little room for locks as a server may have
my $few_locks = q{
max_locks_per_transaction = 10
max_connections = 10
max_worker_processes = 4
max_wal_senders = 0
autovacuum_max_workers = 1
};

# A server by its install_path, or that of the PATH if it is undef; not yet made.
sub new_node
{
	my ($name, $server) = @_;

	return PostgreSQL::Test::Cluster->new($name, defined $server ? (install_path => $server) : ());
}

# A started server that has pg_topics loaded, and the extension in database
# postgres.  Options: conf => more of postgresql.conf, init => arguments of
# PostgreSQL::Test::Cluster::init, extension => 0 for none, points => 1 for
# a build whose processes can be stopped at test points, server => one of
# servers_to_upgrade, few_locks => 1 for a lock table that a topic of some hundred
# partitions fills.
sub topics_node
{
	my ($name, %options) = @_;
	my $node =
	  new_node($name, $options{points} ? $ENV{PG_TOPICS_POINTS} : $options{server});

	$node->init(%{ $options{init} // {} });
	mkdir $node->data_dir . '/test_points' if $options{points};
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_topics'\n");
	$node->append_conf('postgresql.conf', $few_locks) if $options{few_locks};
	$node->append_conf('postgresql.conf', $options{conf}) if defined $options{conf};
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION pg_topics') if $options{extension} // 1;
	return $node;
}

# The servers that an upgrade goes through, by their install_path: those of
# test/upgrade, oldest first, or one and the same (undef) as often as asked for.
sub servers_to_upgrade
{
	my ($count) = @_;

	return $ENV{PG_TOPICS_SERVERS} ? split(/:/, $ENV{PG_TOPICS_SERVERS}) : (undef) x $count;
}

# Where a node's programs are, not where they were configured to be.
sub bindir_of
{
	my ($node) = @_;

	return $node->{_install_path} . '/bin' if $node->{_install_path};
	for my $directory (split /:/, $ENV{PATH})
	{
		return $directory if -x "$directory/pg_upgrade";
	}
	die 'no pg_upgrade in the PATH';
}

# PostgreSQL's minor releases of November 2026 note versions of columns, which
# programs of a newer major that are older than these cannot restore, of any table.
sub knows_attribute_versions
{
	my ($node) = @_;

	return slurp_file(bindir_of($node) . '/pg_dump') =~ /pg_attver/;
}

# Whether a server notes what the one after it does not know.
sub loses_attribute_versions
{
	my ($from, $to) = @_;

	return knows_attribute_versions($from) && !knows_attribute_versions($to);
}

# Where the programs are that dump a server for a newer one: the newer's own, unless
# they write what they cannot restore.
sub dump_bindir
{
	my ($from, $to) = @_;

	return bindir_of(loses_attribute_versions($from, $to) ? $from : $to);
}

sub worker_query
{
	my ($database) = @_;

	return
	  "FROM pg_stat_activity WHERE backend_type = 'pg_topics worker' AND datname = '$database'";
}

# The pid of a database's worker; empty if there is none.
sub worker_pid
{
	my ($node, $database) = @_;

	return $node->safe_psql('postgres', 'SELECT pid ' . worker_query($database));
}

# Gives the worker of a database something to do: to look whether the extension,
# which it has, is there.
sub ask_for_worker
{
	my ($node, $database) = @_;

	$node->psql($database, 'CREATE EXTENSION IF NOT EXISTS pg_topics');
	return;
}

# Asks for a worker of a database that has the extension, waits until it is
# there, and passes or fails a test by it.  Also while the server is restarting.
# With a pid: another one than that.  A worker without work goes after 10 s.
sub wait_for_worker
{
	my ($node, $database, $test_name, $not_pid) = @_;
	my $query = 'SELECT count(*) ' . worker_query($database);
	my $attempts = 10 * $PostgreSQL::Test::Utils::timeout_default;

	$query .= " AND pid <> $not_pid" if defined $not_pid;
	while ($attempts--)
	{
		my ($result, $count) = $node->psql('postgres', $query);

		return pass($test_name) if $result == 0 && $count eq '1';
		ask_for_worker($node, $database) if $result == 0 && $attempts % 10 == 9;
		usleep(100_000);
	}
	return fail($test_name);
}

sub wait_for_no_worker
{
	my ($node, $database, $test_name) = @_;

	return ok($node->poll_query_until('postgres', 'SELECT count(*) = 0 ' . worker_query($database)),
		$test_name);
}

# Test points (test/test_point.c).  The next process of a server that comes to
# TEST_POINT(name) is to stop there.
sub stop_at
{
	my ($node, $name) = @_;

	go_on_from($node, $name);    # of a server that was killed
	append_to_file($node->data_dir . "/test_points/$name", '');
	return;
}

# Waits until a process has stopped at a point; its pid, undef if none came.
sub wait_until_at
{
	my ($node, $name) = @_;
	my $attempts = 100 * $PostgreSQL::Test::Utils::timeout_default;

	while ($attempts--)
	{
		my ($stopped) = glob $node->data_dir . "/test_points/$name.*";

		return $1 if defined $stopped && $stopped =~ /\.(\d+)$/;
		usleep(10_000);
	}
	return;
}

# Who is stopped at a point goes on; nobody stops there any more.
sub go_on_from
{
	my ($node, $name) = @_;

	unlink glob $node->data_dir . "/test_points/{$name,$name.*}";
	return;
}

# The process that is stopped at a point goes on until it comes there again.
sub stop_again_at
{
	my ($node, $name, $pid) = @_;
	my $point = $node->data_dir . "/test_points/$name";

	append_to_file($point, '');
	unlink "$point.$pid";
	return wait_until_at($node, $name);
}

# The process that is stopped at a point raises an error there.
sub fail_at
{
	my ($node, $name, $pid) = @_;
	my $file = $node->data_dir . "/test_points/$name.$pid";

	rename $file, "$file.fail" or die "could not rename $file: $!";
	return;
}

# The process that is stopped at a point goes on, with as many scans of hash
# tables open as there can be.
sub exhaust_scans_at
{
	my ($node, $name, $pid) = @_;
	my $file = $node->data_dir . "/test_points/$name.$pid";

	rename $file, "$file.scans" or die "could not rename $file: $!";
	return;
}

# Waits until a follower's logs end where the leader's do, and it has the topics
# that the leader has.
sub wait_for_replica
{
	my ($follower, $leader, $database) = @_;
	my $query =
	  'SELECT t.topic, p.partition, log_end_offset FROM topics.topic t LEFT JOIN topics.partition p USING (topic) ORDER BY 1, 2';

	$database //= 'postgres';
	return poll_until(
		sub {
			# a follower that catches up may answer with 40001
			my (undef, $here) = $follower->psql($database, $query);

			return $here eq $leader->safe_psql($database, $query);
		});
}

1;
