# The programs of docs/clients.md: each producer's records are in the log once and in
# order, and what the consumer makes of them, too, although the server that leads is
# killed twice, and another node has the lead moved to it, in the middle.  Members of
# groups work on each record, and commit in order; they lose partitions, are removed,
# killed and started anew meanwhile.  Whoever's name another one takes ends.
#
# A language without compiler or driver is skipped, as in 093_languages.pl, whose
# packages these are.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use Document;
use Fcntl;
use IO::Handle;
use IPC::Run;
use POSIX qw(mkfifo);
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
		producer => { file => 'producer.py', command => [ $python, 'producer.py' ] },
		member => { file => 'member.py', command => [ $python, 'member.py' ] },
		address => \&conninfo,
	},
	java => {
		missing => !(-f $jdbc && runs('javac -version')) && "javac and $jdbc",
		producer => {
			file => 'Producer.java',
			compile => [qw(javac Producer.java)],
			command => [ 'java', '-cp', "$jdbc:.", 'Producer' ]
		},
		member => {
			file => 'Member.java',
			compile => [qw(javac Member.java)],
			command => [ 'java', '-cp', "$jdbc:.", 'Member' ]
		},
		address =>
		  sub { return "jdbc:postgresql://127.0.0.1:" . $_[0]->port . "/postgres?user=$user" },
	},
	go => {
		missing => !(-d "$gopath/src/github.com/lib/pq" && runs('go version'))
		  && "go and $gopath/src/github.com/lib/pq",
		producer => {
			file => 'producer.go',
			compile => [qw(go build producer.go)],
			command => ['./producer']
		},
		member =>
		  { file => 'member.go', compile => [qw(go build member.go)], command => ['./member'] },
		address => \&conninfo,
	},
	js => {
		missing => !runs(q(node -e 'require("pg")')) && 'node with the module pg',
		producer => { file => 'producer.js', command => [ 'node', 'producer.js' ] },
		member => { file => 'member.js', command => [ 'node', 'member.js' ] },
		address => sub { return "postgresql://$user\@127.0.0.1:" . $_[0]->port . '/postgres' },
	});

# ----------------------------------------------------------------------
# A cluster, and the programs
# ----------------------------------------------------------------------

my @blocks = blocks_of(slurp_file("$FindBin::RealBin/../../docs/clients.md"));
is( join(' ', map { $_->{language} } @blocks),
	'python java go js python python java go js',
	'the page has four producers, a consumer, and four members of a group');
my $consumer = (splice @blocks, 4, 1)->{text};

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
chdir $directory or die "could not go to $directory: $!";

my (%running, %member);    # by language

# Start a program, whose input is a pipe and whose output and errors go to files.
sub start_program
{
	my ($name, @command) = @_;
	my $harness;

	pipe my $read, my $write or die "could not make a pipe: $!";
	$write->autoflush(1);
	$harness = IPC::Run::start(\@command, '<', $read, '>', "$name.out", '2>>', "$name.err");
	close $read;
	return { harness => $harness, input => $write, last => 0, name => $name };
}

sub start_producer
{
	my ($name) = @_;
	my $language = $language{$name};

	$running{$name} = start_program(
		$name, @{ $language->{producer}{command} },
		$name, map { $language->{address}->($node{$_}) } qw(b c a));
	return;
}

# Start a member of the group that is called as its language, as its so many-th program
sub start_member
{
	my ($name, $which) = @_;
	my $language = $language{$name};

	$member{$name} = start_program("member-$name-$which", @{ $language->{member}{command} },
		$name, "member-$name", map { $language->{address}->($node{$_}) } qw(b c a));
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

# The program of a block, ready to run
sub make_program
{
	my ($kind, $block) = @_;
	my $program = $language{ $block->{language} }{$kind};

	append_to_file($program->{file}, $block->{text});
	return !$program->{compile} || run_log($program->{compile});
}

my @languages = grep { !$language{$_}{missing} } map { $_->{language} } @blocks[ 0 .. 3 ];

for my $i (0 .. $#blocks)
{
	my $kind = $i < 4 ? 'producer' : 'member';

	next if $language{ $blocks[$i]{language} }{missing};
	make_program($kind, $blocks[$i]) or die "$blocks[$i]{language}: the $kind is not compiled";
}

# More than a member can write before somebody reads it, in each partition
$node{a}->safe_psql('postgres',
	q{INSERT INTO topic.orders (partition, key, value) SELECT i % 3, 'bulk', repeat('x', 200) FROM generate_series(1, 600) i}
);
start_producer($_) for @languages;
if (!$language{python}{missing})
{
	append_to_file('consumer.py', $consumer);
	$running{consumer} =
	  start_program('consumer', $python, 'consumer.py', map { conninfo($node{$_}) } qw(b c a));
}

# ----------------------------------------------------------------------
# Nodes that lead, one after the other
# ----------------------------------------------------------------------

my $leader = $node{a};

# Wait until every producer has so many records in the log.
sub wait_for_records
{
	my ($count) = @_;

	return $leader->poll_query_until('postgres',
		"SELECT count(*) = ${\ scalar @languages} FROM (SELECT FROM topic.orders WHERE headers IS NOT NULL GROUP BY key HAVING count(*) >= $count) p"
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

# How many connections to a node have sent something by TCP that it has not received.
sub count_unread
{
	my ($to) = @_;
	my $port = sprintf '%04X', $to->port;

	return
	  scalar(() = slurp_file('/proc/net/tcp') =~ /^ *\d+: \w+:$port \w+:\w+ 01 \w+:(?!0+ )\w+ /mg);
}

# Wait until a program's errors have a text.
sub wait_for_error
{
	my ($program, $error) = @_;

	return poll_until(sub { slurp_file("$program->{name}.err") =~ $error });
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
# Members that work on a batch, and lose partitions
# ----------------------------------------------------------------------

# The id of a member of a group
sub member_id
{
	my ($group, $client_id) = @_;

	return $leader->safe_psql('postgres',
		"SELECT member_id FROM topics.group_member WHERE group_id = '$group' AND client_id = '$client_id'"
	);
}

# Wait until a group has one member, which is another one than before.
sub wait_for_member
{
	my ($group, $before) = @_;

	return poll_until(
		sub {
			my ($result, $id) = $leader->psql('postgres',
				"SELECT string_agg(member_id, ' ') FROM topics.group_member WHERE group_id = '$group'"
			);
			return $result == 0 && $id ne '' && $id !~ / / && $id ne $before;
		});
}

# Start a member whose output nobody reads, so that it stops in its work, and have it lose
# partitions meanwhile.
sub lose_partitions
{
	my ($name) = @_;
	my $file = "member-$name-1.out";

	mkfifo($file, 0600) or die "could not make $file: $!";
	sysopen my $reader, $file, O_RDWR or die "could not open $file: $!";
	start_member($name, 1);
	ok( $leader->poll_query_until(
			'postgres',
			"SELECT sum(position) = 500 FROM topics.group_member, topics.assignment(member_id) WHERE group_id = '$name'"
		),
		"$name: a member has a batch");

	# what it would do by its next poll, if it were not at work: the other one gets its share
	my $id = member_id($name, "member-$name");
	my $other = $leader->safe_psql('postgres',
		"SELECT member_id FROM topics.join_group('$name', '{orders}', client_id => 'other')");

	$leader->safe_psql('postgres', "SELECT topics.poll('$id')");
	isnt($leader->safe_psql('postgres', "SELECT count(*) FROM topics.assignment('$other')"),
		'0', '... and another one gets partitions of it');
	$member{$name}{reader} = IPC::Run::start([ 'cat', $file ], '>', "member-$name-1.done");
	# who is the only reader until then
	poll_until(sub { -s "member-$name-1.done" });
	close $reader;
	ok(wait_for_error($member{$name}, qr/is not the member's in generation/),
		'... in which it cannot commit');
	$leader->safe_psql('postgres', "SELECT topics.leave_group('$other')");
	return ok(wait_for_member($name, $id), '... it joins again');
}

for my $name (@languages)
{
	# Node writes to a pipe without waiting
	if ($name eq 'js')
	{
		start_member($name, 1);
		ok(wait_for_member($name, ''), "$name: a member joins");
	}
	else
	{
		lose_partitions($name);
	}

	my $id = member_id($name, "member-$name");

	$leader->safe_psql('postgres', "SELECT topics.remove_member('$name', '$id')");
	ok(wait_for_member($name, $id), '... it joins again when it was removed');
	ok(wait_for_error($member{$name}, qr/does not exist/), '... of which it was told');
}

# ----------------------------------------------------------------------
# The next leader has a record that it does not show yet
# ----------------------------------------------------------------------

# Both followers are to confirm; node b has the record, and node c does not ask for it.
my $waiting =
  "FROM pg_stat_activity WHERE application_name IN ('python', 'java', 'go', 'js') AND wait_event = 'SyncRep'";
my $all_wait = "SELECT count(*) = ${\ scalar @languages} $waiting";

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
# Programs that are started anew, while their last sessions have a record under way
# ----------------------------------------------------------------------

my %session = split /[|\n]/,
  $leader->safe_psql('postgres',
	q{SELECT application_name, pid FROM pg_stat_activity WHERE application_name IN ('python', 'java', 'go', 'js')}
  );
my $log = -s $leader->logfile;

signal_backend('STOP', $_) for values %session;
feed(3);
# the statements have left the programs, which wait for the answer
ok(poll_until(sub { count_unread($leader) >= @languages }), 'records are sent');
$running{$_}{harness}->kill_kill for @languages;
start_producer($_) for @languages;
feed(3);
ok(wait_for_records(3), '... and the new programs do not wait for the old sessions');
signal_backend('CONT', $_) for values %session;
# lib/pq would have sent the record after another answer
for my $name (grep { $_ ne 'go' } @languages)
{
	ok( poll_until(
			sub {
				slurp_file($leader->logfile, $log) =~
				  /\[$session{$name}\] $name ERROR:  producer \d+ is fenced/;
			}),
		"$name: ... which are fenced");
}

# ----------------------------------------------------------------------
# Members that are started anew, while the former ones run, and after they were killed
# ----------------------------------------------------------------------

for my $name (@languages)
{
	my $former = $member{$name};

	start_member($name, 2);
	ok(wait_for_error($former, qr/is fenced/), "$name: a member whose name another one takes ends");
	ok(!$former->{harness}->finish, '... with an error');
	$former->{reader}->finish if $former->{reader};
	$member{$name}{harness}->kill_kill;
	start_member($name, 3);
}

# ----------------------------------------------------------------------
# In the middle of all
# ----------------------------------------------------------------------

feed($records);
ok(wait_for_records(100), '... and go on');
# an unknown outcome, and the same node leads
for my $count (120, 140, 160)
{
	$leader->safe_psql('postgres',
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name ~ '(python|java|go|js)\$'"
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
ok(wait_for_records($records), 'all is there');

# ----------------------------------------------------------------------
# Two producers of one name
# ----------------------------------------------------------------------

my %former = map { $_ => $running{$_} } @languages;
my $epochs =
  q{SELECT string_agg(producer_name || '=' || producer_epoch, ' ' ORDER BY producer_name) FROM topics.producer WHERE topic IS NULL};
my $before = $leader->safe_psql('postgres', $epochs);

$before =~ s/=(\d+)/'=' . ($1 + 1)/ge;
start_producer($_) for @languages;
feed($records);
ok($leader->poll_query_until('postgres', $epochs, $before), 'other producers take their names');
for my $name (@languages)
{
	print { $former{$name}{input} } "order of another one\n";
	close $former{$name}{input};
	ok(!$former{$name}{harness}->finish, "$name: the former one ends, with an error");
	like(slurp_file("$name.err"), qr/producer \d+ is fenced/, '... that says so');
	close $running{$name}{input};
	ok($running{$name}{harness}->finish, '... and the latter one when all is there')
	  or diag(slurp_file("$name.err"));
}

# ----------------------------------------------------------------------
# What is in the logs
# ----------------------------------------------------------------------

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

for my $name (map { $_->{language} } @blocks[ 0 .. 3 ])
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

# ----------------------------------------------------------------------
# What the members have done
# ----------------------------------------------------------------------

# How often a program has left records out
sub count_gaps
{
	my ($file) = @_;
	my (%next, $gaps);

	$gaps = 0;
	for (split /\n/, slurp_file($file))
	{
		my ($partition, $offset) = split / /;

		$gaps++ if $offset > ($next{$partition} // $offset);
		$next{$partition} = $offset + 1;
	}
	return $gaps;
}

for my $name (@languages)
{
	my @files = map { -f ? $_ : s/out$/done/r } map { "member-$name-$_.out" } 1 .. 3;

	ok( $leader->poll_query_until(
			'postgres',
			"SELECT count(*) = 3 AND sum(lag) = 0 FROM topics.consumer_lag WHERE group_id = '$name'"
		),
		"$name: the member has done all") or diag(slurp_file("member-$name-3.err"));
	$member{$name}{harness}->signal('TERM');
	$member{$name}{harness}->finish;
	is( $leader->safe_psql(
			'postgres', "SELECT state FROM topics.consumer_group WHERE group_id = '$name'"),
		'Empty',
		'... and leaves when it is told to end') or diag(slurp_file("member-$name-3.err"));

	my %done = map { $_ => 1 } map { split /\n/, slurp_file($_) } @files;

	is( join("\n", sort keys %done),
		join(
			"\n",
			sort split /\n/,
			$leader->safe_psql(
				'postgres',
				q{SELECT concat_ws(' ', partition, r.offset, value) FROM topic.orders r})),
		'... each record was worked on');
	is(join(' ', map { count_gaps($_) } @files), '0 0 0', '... none was left out');
	is( $leader->safe_psql(
			'postgres',
			qq{SELECT count(DISTINCT key), bool_and(committed >= before) FROM (
				SELECT key, committed, lag(committed, 1, 0) OVER (PARTITION BY key ORDER BY "offset") AS before
				FROM (SELECT "offset", key, (value::json->>'offset')::int AS committed FROM topic."__consumer_offsets") r
				WHERE key LIKE '%/$name' AND committed IS NOT NULL) r}),
		'3|t',
		'... and offsets were committed in order');
}

END
{
	local $?;
	$_->{harness}->kill_kill for grep { $_->{harness}->pumpable } values %running, values %member;
}
chdir '/';
$_->stop for values %node;
done_testing();
