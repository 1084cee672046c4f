# A node that is a Patroni cluster of two servers, with synchronous mode.  Its primary is
# killed while clients produce: the standby is promoted and takes the node's place, first
# when the node leads, then when it follows.  The other nodes go on with it, and what was
# acknowledged is there once, on each of them.
#
# etcd and Patroni run as the test's own processes, on loopback.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use HTTP::Tiny;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use Session;
use Topics;

for my $program (qw(patroni etcd))
{
	plan
	  skip_all => "no $program in the PATH: Debian's packages are patroni and etcd-server"
	  unless grep { -x "$_/$program" } split /:/,
	  $ENV{PATH};
}

my $directory = PostgreSQL::Test::Utils::tempdir;
my $user = getpwuid $>;
my @producers;
my %process;

# Processes of the test's own, ended by their id, also when it dies
sub run_process
{
	my ($name, @command) = @_;
	my $log = "$PostgreSQL::Test::Utils::log_path/079_patroni_$name.log";
	my $pid = fork // die "could not fork: $!";

	if ($pid == 0)
	{
		open STDIN, '<', '/dev/null';
		open STDOUT, '>>', $log;
		open STDERR, '>&', \*STDOUT;
		exec @command or POSIX::_exit(1);
	}
	$process{$name} = $pid;
	return;
}

sub end_process
{
	my ($name, $signal) = @_;
	my $pid = delete $process{$name} or return;

	kill $signal, $pid;
	waitpid $pid, 0;
	return;
}

END
{
	local $?;
	kill 'KILL', @producers;
	# Patroni stops its server
	end_process($_, 'INT') for grep { $_ ne 'etcd' } keys %process;
	end_process('etcd', 'TERM');
}

# ----------------------------------------------------------------------
# Patroni
# ----------------------------------------------------------------------

my $etcd = '127.0.0.1:' . PostgreSQL::Test::Cluster::get_free_port();
my $etcd_peers = 'http://127.0.0.1:' . PostgreSQL::Test::Cluster::get_free_port();

# PostgreSQL::Test has the ports and directories of the two servers; Patroni makes and
# starts them.
my %rest;
my %server = map { $_ => PostgreSQL::Test::Cluster->new($_) } qw(one two);

sub write_patroni_conf
{
	my ($server) = @_;
	my $name = $server->name;
	my $bindir = bindir_of($server);
	my $address = '127.0.0.1:' . $server->port;

	$rest{$name} = '127.0.0.1:' . PostgreSQL::Test::Cluster::get_free_port();
	mkdir $server->basedir;
	append_to_file("$directory/$name.yml", <<"CONF");
scope: a
name: $name
restapi: {listen: '$rest{$name}', connect_address: '$rest{$name}'}
etcd3: {host: '$etcd'}
bootstrap:
  dcs:
    ttl: 5
    loop_wait: 1
    retry_timeout: 3
    synchronous_mode: true
    postgresql:
      use_pg_rewind: true
      parameters:
        shared_preload_libraries: pg_topics
        pg_topics.worker_interval: 1s
        pg_topics.automatic_failover: 'off'
        pg_topics.node_timeout: 1s
  initdb: [encoding: UTF8, no-locale, no-sync]
  pg_hba:
    - local all all trust
    - host all all 127.0.0.1/32 trust
    - host replication all 127.0.0.1/32 trust
postgresql:
  listen: '$address'
  connect_address: '$address'
  data_dir: '@{[$server->data_dir]}'
  bin_dir: '$bindir'
  pgpass: '$directory/$name.pgpass'
  authentication:
    superuser: {username: '$user'}
    replication: {username: '$user'}
  parameters:
    unix_socket_directories: '@{[$server->host]}'
CONF
	return;
}

sub start_patroni
{
	my ($name) = @_;

	return run_process($name, 'patroni', "$directory/$name.yml");
}

# Waits until Patroni says of one of its servers that it is the primary, or the synchronous
# standby, which may be promoted.
sub wait_for_role
{
	my ($name, $role, $test_name) = @_;
	my $http = HTTP::Tiny->new(timeout => 3);

	return ok(
		poll_until(
			sub {
				usleep(50_000);
				return $http->get("http://$rest{$name}/$role")->{success};
			}),
		$test_name);
}

# The machine of a server is lost: all at once.
sub lose
{
	my ($name) = @_;

	kill 'STOP', $process{$name};
	kill_server($server{$name});
	return end_process($name, 'KILL');
}

# ----------------------------------------------------------------------
# Clients
# ----------------------------------------------------------------------

# The node as others reach it: whichever server may be written to
{

	package AnyServer;
	sub new     { my ($class, $connstr) = @_; return bless { connstr => $connstr }, $class }
	sub connstr { return $_[0]{connstr} }
}

my $conninfo = sprintf
  'host=127.0.0.1,127.0.0.1 port=%d,%d dbname=postgres user=%s target_session_attrs=read-write connect_timeout=3',
  (map { $server{$_}->port } qw(one two)), $user;

# A process that produces w-1, w-2 and so on until there is a file "stop", and notes what
# is acknowledged.
sub produce_until_stopped
{
	my ($number) = @_;
	my $node = AnyServer->new($conninfo);
	my ($session, $i);

	open my $acknowledged, '>', "$directory/acknowledged.$number" or POSIX::_exit(1);
	$acknowledged->autoflush(1);
	until (-e "$directory/stop")
	{
		$session //= eval { Session->new($node) };
		usleep(50_000), next unless $session;
		my $value = "$number-" . ++$i;
		my $result =
		  eval { $session->query("SELECT 'in ' || topics.produce('t', '$value', key => '$value')") };
		if (   $result
			&& !$result->{lost}
			&& $result->{sqlstate} eq ''
			&& $result->{text} =~ /^in /
			&& $result->{text} !~ /WARNING/)
		{
			print $acknowledged "$value\n";
			next;
		}
		undef $session;
	}
	undef $session;
	POSIX::_exit(0);
}

sub start_producers
{
	unlink "$directory/stop";
	for my $number (@_)
	{
		my $pid = fork // die "could not fork: $!";
		produce_until_stopped($number) if $pid == 0;
		push @producers, $pid;
	}
	return;
}

sub stop_producers
{
	append_to_file("$directory/stop", '');
	waitpid $_, 0 for @producers;
	@producers = ();
	return;
}

sub acknowledged
{
	return map { split /\n/, slurp_file($_) } glob "$directory/acknowledged.*";
}

# Until so many more are acknowledged
sub wait_for_records
{
	my ($more, $test_name) = @_;
	my $wanted = acknowledged() + $more;

	return ok(poll_until(sub { usleep(20_000); acknowledged() >= $wanted }), $test_name);
}

# All nodes have what was acknowledged once, and the same at all.
sub check_records
{
	my ($test_name, @nodes) = @_;
	my %log;

	for my $node (@nodes)
	{
		my %times;

		$log{ $node->name } = $node->safe_psql('postgres',
			q{SELECT partition, "offset", value FROM topic.t r ORDER BY 1, 2});
		$times{ (split /\|/)[2] }++ for split /\n/, $log{ $node->name };
		is(join(' ', grep { ($times{$_} // 0) != 1 } acknowledged()),
			'', "$test_name: " . $node->name . ' has once what was acknowledged');
		is(join(' ', grep { $times{$_} > 1 } keys %times), '', '... and nothing twice');
	}
	my ($first, @others) = map { $log{ $_->name } } @nodes;
	ok(!(grep { $_ ne $first } @others), "$test_name: all have the same");
	return;
}

# ----------------------------------------------------------------------

run_process(
	'etcd', 'etcd',
	'--data-dir' => "$directory/etcd",
	'--listen-client-urls' => "http://$etcd",
	'--advertise-client-urls' => "http://$etcd",
	'--listen-peer-urls' => $etcd_peers,
	'--initial-advertise-peer-urls' => $etcd_peers,
	'--initial-cluster' => "default=$etcd_peers");
write_patroni_conf($_) for values %server;
start_patroni('one');
wait_for_role('one', 'primary', 'Patroni has made a server');
start_patroni('two');
my $b = topics_node('b',
	conf =>
	  "pg_topics.worker_interval = '1 s'\npg_topics.automatic_failover = off\npg_topics.node_timeout = '1 s'\n"
);
$server{one}->safe_psql('postgres',
	qq{CREATE EXTENSION pg_topics; SELECT topics.create_topic('t', 3); SELECT topics.create_cluster('a', '$conninfo')}
);
wait_for_role('two', 'synchronous', 'and a synchronous standby');
$server{one}
  ->safe_psql('postgres', q{CALL topics.add_node('b', $$} . $b->connstr('postgres') . '$$)');

# ----------------------------------------------------------------------
# The node leads
# ----------------------------------------------------------------------

my ($primary, $standby) = qw(one two);
for my $round (1 .. ($ENV{PG_TOPICS_LONG} ? 3 : 1))
{
	start_producers(map { "$round$_" } 1 .. 3);
	wait_for_records(100, "round $round: records are acknowledged");
	lose($primary);
	wait_for_role($standby, 'primary', "round $round: the standby is promoted")
	  or last;
	wait_for_records(100, "round $round: ... and records are acknowledged again");
	stop_producers();
	ok(wait_for_replica($b, $server{$standby}), "round $round: the follower goes on")
	  or diag($b->safe_psql('postgres', 'SELECT * FROM topics.worker'));
	check_records("round $round", $server{$standby}, $b);
	start_patroni($primary);
	($primary, $standby) = ($standby, $primary);
	wait_for_role($standby, 'synchronous', "round $round: the lost server is the standby now");
}

# ----------------------------------------------------------------------
# The node follows
# ----------------------------------------------------------------------

$server{$primary}->safe_psql('postgres', q{CALL topics.move_leader('b')});
$b->safe_psql('postgres',
	q{SELECT topics.produce('t', 'moved ' || i) FROM generate_series(1, 100) i});
lose($primary);
wait_for_role($standby, 'primary', 'the node follows: the standby is promoted');
$b->safe_psql('postgres',
	q{SELECT topics.produce('t', 'promoted ' || i) FROM generate_series(1, 100) i});
ok(wait_for_replica($server{$standby}, $b), '... and follows');
check_records('the node follows', $b, $server{$standby});
is($b->safe_psql('postgres', q{SELECT count(*) FROM topic.t WHERE value ~ '^(moved|promoted) '}),
	200, '... and no record is lost');
$b->safe_psql('postgres', q{CALL topics.move_leader('a')});
is($server{$standby}->safe_psql('postgres', 'SELECT leader FROM topics.cluster'),
	'a', '... and leads again');

# ----------------------------------------------------------------------
# The hook of docs/high-availability.md
# ----------------------------------------------------------------------

my ($hook) =
  slurp_file("$FindBin::RealBin/../../docs/high-availability.md") =~
  /^(    SELECT format\('CALL.*?\\gexec\n)/ms;
ok( $server{$standby}
	  ->poll_query_until('postgres', q{SELECT in_sync FROM topics.node WHERE node = 'b'}),
	'the follower is in sync');
$b->safe_psql('postgres', $hook);
is($b->safe_psql('postgres', 'SELECT leader FROM topics.cluster'),
	'a', 'a hook on the node that follows does nothing');
$server{$standby}->safe_psql('postgres', $hook);
is($b->safe_psql('postgres', 'SELECT leader FROM topics.cluster'),
	'b', '... and on the one that leads it has another one lead');
$b->stop;
done_testing();
