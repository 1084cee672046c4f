# The programs of docs/clients.md: each producer's records are in the log once and in
# order, and what the consumer makes of them, too, although the server that leads is
# killed twice, and another node has the lead moved to it, in the middle.
#
# A language without compiler or driver is skipped, as in 093_languages.pl, whose
# packages these are.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use Document;
use IO::Handle;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;
use Topics;

my $records = 2000;
my $directory = PostgreSQL::Test::Utils::tempdir;
my $jdbc = '/usr/share/java/postgresql.jar';
my $gopath = '/usr/share/gocode';
my $python = python_with('psycopg2');
my $user = getpwuid $<;

$ENV{NODE_PATH} = join ':', grep { defined } $ENV{NODE_PATH}, '/usr/share/nodejs',
  '/usr/local/lib/node_modules', '/usr/lib/node_modules';
@ENV{qw(GO111MODULE GOPATH CGO_ENABLED GOCACHE)} =
  ('off', $gopath, '0', $ENV{GOCACHE} // "$directory/cache");

sub runs { my ($command) = @_; return system("$command >/dev/null 2>&1") == 0 }

sub conninfo
{
	my ($node) = @_;
	return "host=127.0.0.1 port=" . $node->port . " dbname=postgres user=$user sslmode=disable";
}

my %language = (
	python => {
		missing => !defined $python && 'python3 with psycopg2',
		file => 'producer.py',
		command => [ $python, 'producer.py' ],
		address => \&conninfo,
	},
	java => {
		missing => !(-f $jdbc && runs('javac -version')) && "javac and $jdbc",
		file => 'Producer.java',
		compile => [qw(javac Producer.java)],
		command => [ 'java', '-cp', "$jdbc:.", 'Producer' ],
		address =>
		  sub { return "jdbc:postgresql://127.0.0.1:" . $_[0]->port . "/postgres?user=$user" },
	},
	go => {
		missing => !(-d "$gopath/src/github.com/lib/pq" && runs('go version'))
		  && "go and $gopath/src/github.com/lib/pq",
		file => 'producer.go',
		compile => [qw(go build producer.go)],
		command => ['./producer'],
		address => \&conninfo,
	},
	js => {
		missing => !runs(q(node -e 'require("pg")')) && 'node with the module pg',
		file => 'producer.js',
		command => [ 'node', 'producer.js' ],
		address => sub { return "postgresql://$user\@127.0.0.1:" . $_[0]->port . '/postgres' },
	});

# ----------------------------------------------------------------------
# A cluster, and the programs
# ----------------------------------------------------------------------

my @blocks = blocks_of(slurp_file("$FindBin::RealBin/../../docs/clients.md"));
is( join(' ', map { $_->{language} } @blocks),
	'sql python java go js python',
	'the page has a procedure, four producers, and a consumer');
my $procedure = (shift @blocks)->{text};
my $consumer = (pop @blocks)->{text};

my $conf =
  "listen_addresses = '127.0.0.1'\npg_topics.worker_interval = '1 s'\npg_topics.node_timeout = '1 s'\n";
my %node = map { $_ => topics_node($_, conf => $conf) } qw(a b c);

$node{a}->safe_psql(
	'postgres',
	q{SELECT topics.create_topic('orders', 3), topics.create_topic('invoices', 3);
	SELECT topics.create_cluster('a', $$} . $node{a}->connstr('postgres') . '$$)');
$node{a}->safe_psql('postgres',
	"CALL topics.add_node('$_', \$\$" . $node{$_}->connstr('postgres') . '$$)')
  for qw(b c);
$_->safe_psql('postgres', $procedure) for values %node;
chdir $directory or die "could not go to $directory: $!";

my %running;    # by language

# Start a program, whose input is a pipe and whose errors go to a file.
sub start_program
{
	my ($name, @command) = @_;
	my $harness;

	pipe my $read, my $write or die "could not make a pipe: $!";
	$write->autoflush(1);
	$harness = IPC::Run::start(\@command, '<', $read, '>', "$name.out", '2>>', "$name.err");
	close $read;
	return { harness => $harness, input => $write, last => 0 };
}

sub start_producer
{
	my ($name) = @_;
	my $language = $language{$name};

	$running{$name} = start_program($name, @{ $language->{command} },
		$name, map { $language->{address}->($node{$_}) } qw(b c a));
	return;
}

# Have all producers produce up to a number.
sub feed
{
	my ($upto) = @_;

	for my $program (@running{ grep { $_ ne 'consumer' } sort keys %running })
	{
		print { $program->{input} } map { "order $_\n" } $program->{last} + 1 .. $upto;
		$program->{last} = $upto;
	}
	return;
}

for my $block (@blocks)
{
	my $language = $language{ $block->{language} };

	next if $language->{missing};
	append_to_file($language->{file}, $block->{text});
	if ($language->{compile} && !run_log($language->{compile}))
	{
		fail("$block->{language} is compiled");
		next;
	}
	start_producer($block->{language});
}
if (!$language{python}{missing})
{
	append_to_file('consumer.py', $consumer);
	$running{consumer} =
	  start_program('consumer', $python, 'consumer.py', map { conninfo($node{$_}) } qw(b c a));
}
my @producers = grep { $_ ne 'consumer' } sort keys %running;

# ----------------------------------------------------------------------
# Nodes that lead, one after the other
# ----------------------------------------------------------------------

my $leader = $node{a};

# Wait until every producer has so many records in the log.
sub wait_for_records
{
	my ($count) = @_;

	return $leader->poll_query_until('postgres',
		"SELECT count(*) = ${\ scalar @producers} FROM (SELECT FROM topic.orders WHERE headers IS NOT NULL GROUP BY key HAVING count(*) >= $count) p"
	);
}

# Wait until a node leads, and note it.
sub find_leader
{
	my (@names) = @_;
	my $name;

	poll_until(
		sub {
			($name) = grep {
				my ($result, $leads) =
				  $node{$_}->psql('postgres', 'SELECT leader = node FROM topics.cluster');
				$result == 0 && $leads eq 't'
			} @names;
			return defined $name;
		}) or die 'no node leads';
	$leader = $node{$name};
	return;
}

# Wait until all nodes have all that there is.
sub wait_for_nodes
{
	return $leader->poll_query_until('postgres',
		'SELECT count(*) = 3 FROM topics.node WHERE in_sync');
}

sub kill_leader
{
	my $old = $leader;

	kill_server($old);
	find_leader(grep { $_ ne $old->name } keys %node);
	isnt($leader->name, $old->name, 'node ' . $leader->name . ' leads after node ' . $old->name);
	$old->start;
	return;
}

# Stop a follower's replicator where it is in no transaction.
sub stop_replicator
{
	my ($follower) = @_;
	my $query = "FROM pg_stat_activity WHERE backend_type = 'pg_topics replicator'";
	my $pid = $follower->safe_psql('postgres', "SELECT pid $query");

	poll_until(
		sub {
			signal_backend('STOP', $pid);
			return 1 if $follower->safe_psql('postgres', "SELECT xact_start IS NULL $query") eq 't';
			signal_backend('CONT', $pid);
			return 0;
		}) or die 'the replicator is not idle';
	return $pid;
}

# Whether something was sent to a node by TCP that it has not received.
sub has_unread
{
	my ($to) = @_;
	my $port = sprintf '%04X', $to->port;

	return slurp_file('/proc/net/tcp') =~ /^ *\d+: \w+:$port \w+:\w+ 01 \w+:(?!0+ )\w+ /m;
}

sub note_counts
{
	note(
		$leader->safe_psql(
			'postgres',
			'SELECT key, count(*), count(*) - count(headers) AS markers, max("offset") FROM topic.orders GROUP BY 1 ORDER BY 1'
		));
	return;
}

feed(1);
ok(wait_for_records(1), 'all producers have begun');
ok(wait_for_nodes(), 'all nodes have that');

# ----------------------------------------------------------------------
# The next leader has a record that it does not show yet
# ----------------------------------------------------------------------

# Both followers are to confirm; node b has the record, and node c does not ask for it.
my $waiting =
  "FROM pg_stat_activity WHERE application_name IN ('python', 'java', 'go', 'js') AND wait_event = 'SyncRep'";
my $all_wait = "SELECT count(*) = ${\ scalar @producers} $waiting";

$leader->safe_psql('postgres', 'SELECT topics.alter_cluster(acks_followers => 2)');
my $replicator = stop_replicator($node{c});
feed(2);
ok($leader->poll_query_until('postgres', $all_wait), 'nobody is acknowledged');
ok( $leader->poll_query_until(
		'postgres',
		"SELECT count(*) = 0 FROM topics.replica r JOIN topics.replica l USING (topic, partition) WHERE r.node = 'b' AND l.node = 'a' AND r.log_end_offset < l.log_end_offset"
	),
	'node b has all records');
kill_server($leader);
find_leader('b');
ok($leader->poll_query_until('postgres', $all_wait), 'the producers wait at node b');
is($leader->safe_psql('postgres', q{SELECT count(*) FROM topic.orders WHERE value = 'order 2'}),
	0, '... which shows nothing new');
signal_backend('CONT', $replicator);
$node{a}->start;
ok(wait_for_records(2), '... until it does');
ok(wait_for_nodes(), 'all nodes are back');
$leader->safe_psql('postgres', 'SELECT topics.alter_cluster(acks_followers => NULL)');

# ----------------------------------------------------------------------
# A program that is started anew, while its last session has a record under way
# ----------------------------------------------------------------------

SKIP:
{
	skip "not installed: $language{python}{missing}", 2 if $language{python}{missing};
	my $session = "FROM pg_stat_activity WHERE application_name = 'python'";
	my $pid = $leader->safe_psql('postgres', "SELECT pid $session");
	my $program = $running{python};

	signal_backend('STOP', $pid);
	feed(3);
	# the statement has left the program: it waits for the answer
	ok(poll_until(sub { has_unread($leader) }), 'python: a record is sent');
	$program->{harness}->kill_kill;
	start_producer('python');
	feed(3);
	ok( $leader->poll_query_until(
			'postgres', "SELECT count(*) = 1 $session AND wait_event = 'advisory' AND pid <> $pid"),
		'... and the new program waits until that session has ended');
	signal_backend('CONT', $pid);
}
ok(wait_for_records(3), 'all go on');

# ----------------------------------------------------------------------
# In the middle of all
# ----------------------------------------------------------------------

feed($records);
ok(wait_for_records(100), '... and go on');
# an unknown outcome, and the same node leads
for my $count (120, 140, 160)
{
	$leader->safe_psql('postgres',
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name IN ('python', 'java', 'go', 'js')"
	);
	ok(wait_for_records($count), '... and on, in other sessions');
}
note_counts();
kill_leader();
ok(wait_for_records(300), '... and on, with another node');
ok(wait_for_nodes(), 'the node is back');
note_counts();
kill_leader();
ok(wait_for_records(500), '... and on, with the next one');
ok(wait_for_nodes(), 'that node is back');
note_counts();
my ($to) = grep { $_ ne $leader->name } sort keys %node;
$leader->safe_psql('postgres', "CALL topics.move_leader('$to')");
find_leader($to);
note_counts();
close $_->{input} for @running{@producers};

# ----------------------------------------------------------------------
# What is in the logs
# ----------------------------------------------------------------------

for my $name (@producers)
{
	ok(eval { $running{$name}{harness}->finish }, "$name: the producer ends")
	  or diag(slurp_file("$name.err"));
}
note_counts();
# How many numbers of a producer are in a topic, how many different ones, the highest, and
# whether they are in order.
sub numbers_of
{
	my ($node, $topic, $name) = @_;

	return $node->safe_psql(
		'postgres', qq{
		SELECT count(*), count(DISTINCT number), max(number), bool_and(number > before) IS NOT FALSE
		FROM (SELECT number, lag(number) OVER (ORDER BY "offset") AS before
			  FROM (SELECT "offset", substr(value, 7)::int AS number FROM topic.$topic WHERE key = '$name' AND value IS NOT NULL) r) r}
	);
}

my $all = "$records|$records|$records|t";

for my $name (map { $_->{language} } @blocks)
{
  SKIP:
	{
		skip "not installed: $language{$name}{missing}", 2 if $language{$name}{missing};
		is(numbers_of($leader, 'orders', $name), $all, "$name: each record is there once, in order")
		  or diag(slurp_file("$name.err"));
		skip "not installed: $language{python}{missing}", 1 if $language{python}{missing};
		poll_until(sub { (split /\|/, numbers_of($leader, 'invoices', $name))[2] eq $records });
		is(numbers_of($leader, 'invoices', $name),
			$all, "$name: ... and was consumed once, in order")
		  or diag(slurp_file('consumer.err'));
	}
}

END
{
	local $?;
	$_->{harness}->kill_kill for grep { $_->{harness}->pumpable } values %running;
}
chdir '/';
$_->stop for values %node;
done_testing();
