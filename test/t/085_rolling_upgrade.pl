# Nodes go to a newer major of PostgreSQL by pg_upgrade, one after the other, while
# producers and a consumer group go on: nothing that was acknowledged is lost, doubled or
# reordered, and each upgraded node takes its place by itself.  One that cannot hear from
# enough others neither leads nor promises anything.  With test/upgrade the majors are
# those that are installed, otherwise one and the same.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use IPC::Run ();
use POSIX    ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;
use Time::HiRes qw(usleep);
use Topics;
use TopicState;

my @servers = servers_to_upgrade(2);
my @producers = qw(p1 p2);
my $directory = PostgreSQL::Test::Utils::tempdir;
my $conf = q{
shared_preload_libraries = 'pg_topics'
pg_topics.worker_interval = '1 s'
pg_topics.node_timeout = '3 s'
pg_topics.acks_timeout = '20 s'
};
my %node;    # by name: the server that it is on now

# ----------------------------------------------------------------------
# Clients, as docs/clients.md has them; each is a process
# ----------------------------------------------------------------------

my %clients;      # by name: pid
my %addresses;    # by name: a server at the node's address, whichever is there

# A file of a client's, which has a number in each line.
sub note_number { my ($name, $number) = @_; return append_to_file("$directory/$name", "$number\n") }

sub latest_number
{
	my ($name) = @_;

	return -e "$directory/$name" && slurp_file("$directory/$name") =~ /(\d+)\n\z/ ? $1 : 0;
}

# Require an error to be one after which a client goes on.
sub check_error
{
	my ($result) = @_;

	return if $result->{lost} || $result->{sqlstate} =~ /^(?:TP00[459]|08|40|53|57)/;
	die "unexpected error: $result->{text}";
}

# Until the client is to end: have it run something in a session with one node after
# another, as long as that gives no error.
sub run_client
{
	my ($name, $begin, $step) = @_;
	my @nodes = sort keys %addresses;
	my $session;

	$ENV{PGAPPNAME} = $name;
	until (-e "$directory/end_$name")
	{
		my $result;

		if (!$session)
		{
			$session = Session->new($addresses{ $nodes[0] });
			$result = $begin->($session) if $session;
		}
		else
		{
			$result = $step->($session);
		}
		if (!$result || $result->{lost} || $result->{sqlstate})
		{
			check_error($result) if $result;
			$session = undef;
			push @nodes, shift @nodes;
			usleep(50_000);
		}
		usleep(3000);
	}
	return;
}

# Each record has the producer's next number, which is its sequence as well: after an error
# the producer repeats it, in whatever session, and it is stored once.
sub run_producer
{
	my ($name) = @_;
	my ($partition) = $name =~ /(\d)/;
	my $last = 0;
	my @id;

	run_client(
		$name,
		sub {
			my ($session) = @_;
			my $result =
			  $session->query(@id ? 'SELECT 1' : "SELECT * FROM topics.init_producer('$name')");

			return $result if $result->{lost} || $result->{sqlstate};
			@id = split /\|/, $result->{rows}[0] unless @id;
			return $result;
		},
		sub {
			my ($session) = @_;
			my $number = $last + 1;
			my $result = $session->query(
				qq{SELECT topics.produce('orders', 'order $number', key => '$name', headers => jsonb_build_object('number', '$number'), partition => $partition, producer_id => $id[0], producer_epoch => $id[1], sequence => $last)}
			);

			return $result if $result->{lost} || $result->{sqlstate};
			$last = $number;
			note_number($name, $last);
			return $result;
		});
	return;
}

# What is consumed goes to another topic, in the same transaction.
sub run_consumer
{
	my ($name) = @_;
	my $consumed = 0;

	run_client(
		$name,
		sub { my ($session) = @_; return $session->query('SELECT 1') },
		sub {
			my ($session) = @_;
			my $result = $session->query(
				q{INSERT INTO topic.invoices (key, value)
				SELECT key, value FROM topics.consume('billing', 'orders')}
			);

			return $result if $result->{lost} || $result->{sqlstate};
			$consumed += $1 if $result->{rows}[-1] =~ /^INSERT 0 (\d+)/;
			note_number($name, $consumed);
			return $result;
		});
	return;
}

sub start_client
{
	my ($name, $function) = @_;
	my $child = fork;

	die "could not fork: $!" unless defined $child;
	if ($child == 0)
	{
		eval { $function->($name); 1 } or do { print STDERR "$name: $@"; POSIX::_exit(1) };
		POSIX::_exit(0);
	}
	$clients{$name} = $child;
	return;
}

sub end_client
{
	my ($name) = @_;

	append_to_file("$directory/end_$name", '');
	waitpid delete $clients{$name}, 0;
	return is($?, 0, "$name has met no other error than a client has to expect");
}

# Every client has got something done since this was called.
sub clients_go_on
{
	my ($test_name) = @_;
	my %before = map { $_ => latest_number($_) } keys %clients;

	return ok(
		poll_until(
			sub {
				return !grep { latest_number($_) < $before{$_} + 20 } keys %before;
			}),
		"$test_name: producers and consumers go on"
	) || diag(join ' ', map { "$_: $before{$_} " . latest_number($_) } sort keys %before);
}

END
{
	local $?;
	kill 'KILL', values %clients;
}

# ----------------------------------------------------------------------
# The cluster
# ----------------------------------------------------------------------

# What a node says, or undef if it cannot be asked.
sub ask
{
	my ($name, $query) = @_;
	my ($result, $answer) = $node{$name}->psql('postgres', $query);

	return $result == 0 ? $answer : undef;
}

# The node that leads, in time.
sub find_leader
{
	my (@names) = @_;
	my $leader;

	poll_until(
		sub {
			($leader) = grep {
				(ask($_, q{SELECT count(*) FROM topics.node WHERE is_self AND role = 'leader'})
					  // '') eq '1'
			} @names ? @names : sort keys %node;
			return defined $leader;
		}) or die 'no node leads';
	return $leader;
}

# Whether the database is the node, and no copy of it.
my $is_admitted =
  'SELECT c.system_identifier = s.system_identifier FROM topic_log.cluster c, pg_control_system() s';

# All nodes have all, and count.
sub all_in_sync
{
	my ($test_name) = @_;
	my $counts = q{SELECT count(*) FILTER (WHERE counts AND in_sync),
		(SELECT count(*) FROM topics.replica WHERE NOT in_sync) FROM topics.node};

	return ok(
		poll_until(
			sub {
				return 0 if grep { (ask($_, $is_admitted) // '') ne 't' } keys %node;
				return (ask(find_leader(), $counts) // '') eq '3|0';
			}),
		"$test_name: all nodes are admitted, and in sync");
}

# A call is refused, and says why; it is made again if a node was too slow for that.
sub check_refused
{
	my ($name, $statement, $state, $message, $test_name) = @_;
	my ($got, $text);

	poll_until(
		sub {
			($got, $text) = sqlstate_of($node{$name}, 'postgres', $statement);
			return $got ne $state || $text =~ $message;
		});
	is($got, $state, $test_name);
	return like($text, $message, '... and says why');
}

# A call is done, maybe when it is made again, as its hint says.
sub check_done
{
	my ($name, $statement, $test_name) = @_;
	my ($got, $text);

	poll_until(
		sub {
			($got, $text) = sqlstate_of($node{$name}, 'postgres', $statement);
			return $got ne 'TP009';
		});
	return is($got, '00000', $test_name) || diag($text);
}

# ----------------------------------------------------------------------
# The upgrade of a node
# ----------------------------------------------------------------------

my $upgrades = 0;
my $checksums;

# A new server at the address of a node's.
sub new_server
{
	my ($name, $server) = @_;
	my $new = PostgreSQL::Test::Cluster->new(
		$name . '_' . ++$upgrades,
		port => $node{$name}->port,
		defined $server ? (install_path => $server) : ());
	my %options;

	$options{extra} = [ $checksums ? '--data-checksums' : '--no-data-checksums' ]
	  if $new->pg_version >= 18;
	$new->init(%options);
	$new->append_conf('postgresql.conf', $conf);
	return $new;
}

# Of a server that is stopped (docs/operation.md).
sub forget_attribute_versions
{
	my ($old, @databases) = @_;
	my $forget =
	  q{UPDATE pg_attribute SET attoptions = nullif(ARRAY(SELECT o FROM unnest(attoptions) o WHERE o NOT LIKE 'pg_attver=%'), '{}') }
	  . qq{WHERE attoptions::text LIKE '%pg_attver=%'\n};

	diag($old->pg_version . ' notes versions of columns that the next server does not know');
	for my $database (@databases)
	{
		my $output;
		my @command = (
			bindir_of($old) . '/postgres',
			'--single', '-D', $old->data_dir,
			'-c', 'allow_system_table_mods=on', '-c', 'shared_preload_libraries=');

		IPC::Run::run([ @command, $database ], '<', \$forget, '>&', \$output) or die $output;
	}
	return;
}

# pg_upgrade of a node that is stopped, to a server of the same address.
sub upgrade
{
	my ($name, $server, $databases) = @_;
	my $old = $node{$name};
	my $new = new_server($name, $server);
	my @options = ('--no-sync', $upgrades % 2 ? '--link' : ());

	forget_attribute_versions($old, split /\n/, $databases)
	  if loses_attribute_versions($old, $new);
	chdir $directory or die $!;    # it writes there
	ok( run_log(
			[
				bindir_of($new) . '/pg_upgrade', '--old-datadir',
				$old->data_dir, '--new-datadir',
				$new->data_dir, '--old-bindir',
				bindir_of($old), '--new-bindir',
				bindir_of($new), '--socketdir',
				PostgreSQL::Test::Utils::tempdir_short(), @options
			]),
		"$name: pg_upgrade from " . join ' ',
		$old->pg_version,
		'to',
		$new->pg_version,
		@options) or die 'no upgraded server';
	chdir '/';
	$node{$name} = $new;
	return;
}

sub stop_node
{
	my ($name) = @_;
	my $databases =
	  $node{$name}->safe_psql('postgres', 'SELECT datname FROM pg_database WHERE datallowconn');

	$node{$name}->stop;
	return $databases;
}

# Upgrades a node while the others go on.  With a function, that is called instead of the
# start of the upgraded server, which it starts.
sub upgrade_node
{
	my ($name, $server, $start) = @_;
	my $databases = stop_node($name);
	my $title = "$name is away";

	clients_go_on($title);
	ok( defined ask(
			find_leader(grep { $_ ne $name } keys %node),
			"SELECT topics.create_topic('made_$upgrades')"),
		"$title: a topic is made");
	upgrade($name, $server, $databases);
	$title = "$name is " . $node{$name}->pg_version;
	if ($start)
	{
		$start->($name);
	}
	else
	{
		$node{$name}->start;
	}
	all_in_sync($title);
	clients_go_on($title);
	return;
}

# A node after pg_upgrade is a copy of what it was, which may have promised something since:
# it needs both others.
sub start_alone
{
	my ($name) = @_;
	my $leader = find_leader(grep { $_ ne $name } keys %node);
	my ($other) = grep { $_ ne $name && $_ ne $leader } keys %node;
	my $copy = qr/node "$name" is a copy of that node, which was not admitted yet/;

	$node{$_}->stop for $other, $leader;
	$node{$name}->start;
	ok( $node{$name}->poll_query_until(
			'postgres',
			qq{SELECT count(*) > 0 FROM topics.worker WHERE message = 'this server is a copy of node "$name", and is not admitted yet'}
		),
		"$name is upgraded while the others are away: it is not admitted");
	check_refused(
		$name,
		"CALL topics.failover('$leader')",
		'TP009',
		qr/0 of 3 nodes have promised to follow it, and 2 are needed: node "$other": .*; node "$name": it is a copy/s,
		'... and does not come to lead');
	check_refused(
		$name, q{SELECT topics.produce('orders', 'x')},
		'TP004',
		qr/not led by this node/,
		'... and takes no records');

	$node{$other}->start;
	check_refused($other, "CALL topics.failover('$leader')",
		'TP009', $copy, "... nor does it promise anything to $other, which is back");
	check_refused(
		$name, "CALL topics.failover('$leader')",
		'TP009',
		qr/and 2 are needed/,
		'... whose promise is not enough');
	is( ask($name, q{SELECT count(*) FROM topics.worker WHERE message LIKE '%is not admitted yet'}),
		1,
		'... and it is still not admitted');
	$node{$leader}->start;
	return;
}

# ----------------------------------------------------------------------
# From major to major
# ----------------------------------------------------------------------

%node = map { $_ => topics_node($_, server => $servers[0], conf => $conf) } qw(a b c);
%addresses = %node;
$checksums = $node{a}->safe_psql('postgres', 'SHOW data_checksums') eq 'on';
$node{a}->safe_psql(
	'postgres',
	q{SELECT topics.create_topic('orders', 3, segment_bytes => 131072), topics.create_topic('invoices', 3);
	SELECT topics.create_cluster('a', $$} . $node{a}->connstr('postgres') . '$$)');
$node{a}->safe_psql('postgres',
	"CALL topics.add_node('$_', \$\$" . $node{$_}->connstr('postgres') . '$$)')
  for qw(b c);
start_client($_, \&run_producer) for @producers;
start_client('consumer', \&run_consumer);
clients_go_on($node{a}->pg_version);

for my $number (1 .. $#servers)
{
	my @waiting = sort keys %node;

	while (@waiting)
	{
		my $leader = find_leader();
		my ($next) = grep { $_ ne $leader } @waiting;

		if (!defined $next)
		{
			my ($to) = grep { $_ ne $leader } sort keys %node;

			$next = $leader;
			check_done(
				$leader,
				"CALL topics.move_leader('$to')",
				"the lead goes from $leader to $to");
			is(find_leader(), $to, "... $to leads");
		}
		@waiting = grep { $_ ne $next } @waiting;
		upgrade_node($next, $servers[$number], !@waiting && $number == 1 ? \&start_alone : undef);
	}
}

# ----------------------------------------------------------------------
# Afterwards
# ----------------------------------------------------------------------

my $lost = find_leader();
kill_server($node{$lost});
my $leader = find_leader(grep { $_ ne $lost } keys %node);
isnt($leader, $lost, "$lost is killed, and another node leads");
clients_go_on('... which was upgraded');
$node{$lost}->start;
all_in_sync("$lost is back");
check_done($leader, 'CALL topics.rebalance_leaders()', 'the node that made the cluster is to lead');
$leader = find_leader();
is($leader, 'a', '... and does');
clients_go_on('... at last');

end_client($_) for @producers;

# How many numbers of a producer are in a topic, how many different ones, the lowest and
# the highest, and whether they are in order.
sub numbers_of
{
	my ($topic, $name) = @_;

	return $node{$leader}->safe_psql(
		'postgres', qq{
		SELECT count(*), count(DISTINCT number), min(number), max(number), bool_and(number > before) IS NOT FALSE
		FROM (SELECT number, lag(number) OVER (ORDER BY "offset") AS before
			  FROM (SELECT "offset", substr(value, 7)::int AS number FROM topic.$topic WHERE key = '$name' AND value IS NOT NULL) r) r}
	);
}

for my $name (@producers)
{
	my $last = latest_number($name);
	my $all = "$last|$last|1|$last|t";

	is(numbers_of('orders', $name), $all, "$name: each record is there once, in order");
	poll_until(sub { (split /\|/, numbers_of('invoices', $name))[3] eq $last });
	is(numbers_of('invoices', $name), $all, '... and was consumed once, in order');
}
end_client('consumer');

sub contents_of
{
	my ($name) = @_;

	return join "\n",
	  (map { records_of($node{$name}, 'postgres', $_) } qw(orders invoices)),
	  $node{$name}->safe_psql(
		'postgres',
		q{SELECT * FROM topics.topic ORDER BY topic_id;
		SELECT group_id, topic, partition, committed_offset FROM topics.consumer_offset ORDER BY 1, 2, 3}
	  );
}

# A follower has the same, in time: while it gets something, it may refuse to be read.
sub check_contents
{
	my ($name, $expected, $test_name) = @_;

	return ok(
		poll_until(
			sub {
				(eval { contents_of($name) } // '') eq $expected;
			}),
		$test_name);
}

my $contents = contents_of($leader);
for my $name (sort keys %node)
{
	check_contents($name, $contents, "$name has what the leader has");
	check_files($node{$name}, 'postgres', $name);
}

# ----------------------------------------------------------------------
# All at once: there is nobody who can tell what these nodes have promised
# ----------------------------------------------------------------------

my %databases = map { $_ => stop_node($_) } grep { $_ ne $leader } sort keys %node;
$databases{$leader} = stop_node($leader);
upgrade($_, $servers[-1], $databases{$_}) for sort keys %node;
$_->start for values %node;
for my $name (sort keys %node)
{
	my ($lost) = grep { $_ ne $name } sort keys %node;

	check_refused(
		$name,
		"CALL topics.failover('$lost')",
		'TP009',
		qr/0 of 3 nodes have promised.*is a copy of that node, which was not admitted yet/,
		"all nodes were upgraded at once: $name cannot lead");
}
check_done(
	$leader,
	q{CALL topics.failover('b', allow_data_loss => true)},
	'... and the one that led does, if it is told to without promises');
all_in_sync('afterwards');
check_contents($_, $contents, "$_ has all that it had") for sort keys %node;
$_->stop for values %node;

done_testing();
