# Acknowledged replication: what a commit waits for in a cluster, what others see
# meanwhile, and how a wait ends.
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

my $conf =
  "pg_topics.automatic_failover = off\npg_topics.worker_interval = '1 s'\nmax_worker_processes = 20\nmax_connections = 40\n";
my %node = (
	a => topics_node('a', conf => $conf, init => { allows_streaming => 1 }),
	b => topics_node('b', conf => $conf),
	c => topics_node('c', conf => $conf));
my ($a, $b, $c) = @node{ 'a', 'b', 'c' };
my $observer = Session->new($a);
my %paused;

# A node is a database of a server: b, or b/other.
sub address_of
{
	my ($node, $database) = @_;

	return $node->connstr($database // 'postgres');
}

sub add_node
{
	my ($name, $node, $database) = @_;

	return $observer->value(
		"CALL topics.add_node('$name', \$\$" . address_of($node, $database) . '$$)');
}

sub replicator_of
{
	my ($node, $database) = @_;
	my $query =
	  "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_topics replicator' AND datname = '$database' AND wait_event IN ('PgTopicsPeer', 'Extension')";
	my $pid;

	poll_until(sub { $pid = $node->safe_psql('postgres', $query) }) or die 'no replicator';
	return $pid;
}

# Stops replicators: they neither append nor confirm.
sub pause
{
	for my $name (@_)
	{
		my ($server, $database) = split m{/}, $name;

		$paused{$name} = replicator_of($node{$server}, $database // 'postgres');
		signal_backend('STOP', $paused{$name});
	}
	return;
}

sub resume
{
	signal_backend('CONT', delete $paused{$_}) for @_;
	return;
}

# A session in whose commit, at the end of the SQL, the leader waits.
sub waiting
{
	return Session->waiting_for_standby($a, $observer, @_);
}

sub is_waiting_for_others
{
	my ($session) = @_;

	return $observer->value(
		"SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $session->{pid}") eq 't'
	  && !defined $session->receive(0);
}

# The answer to SQL that is not to wait: its last row.
sub answer
{
	my ($session, $sql) = @_;

	$session->send($sql);
	my $result = $session->receive(15) // return 'no answer';
	return $result->{sqlstate} || $result->{rows}[-1];
}

# What is seen of a topic, which may still be to come.
sub values_on
{
	my ($node, $topic) = @_;
	my ($status, $values) = $node->psql('postgres',
		qq{SELECT string_agg(value::text, ' ' ORDER BY partition, "offset") FROM topic."$topic"});

	return $status ? "no $topic" : $values;
}

# Passes when a topic has these values, in time.
sub comes_to
{
	my ($node, $topic, $expected, $test_name) = @_;

	poll_until(sub { values_on($node, $topic) eq $expected });
	return is(values_on($node, $topic), $expected, $test_name);
}

sub acks_followers
{
	return $observer->value('SELECT acks_followers FROM topic_log.cluster');
}

# ----------------------------------------------------------------------
# How many followers are waited for
# ----------------------------------------------------------------------

$observer->value(q{SELECT topics.create_topic('t'); CREATE TABLE plain (value text)});
like((sqlstate_of($a, 'postgres', 'SELECT topics.alter_cluster(0)'))[0],
	qr/55000/, 'alter_cluster: in no cluster');
$observer->value("SELECT topics.create_cluster('a', \$\$" . address_of($a) . '$$)');
is(acks_followers(), 0, 'one node: no follower');
add_node('b', $b);
is(acks_followers(), 1, 'two nodes: one');
add_node('c', $c);
is(acks_followers(), 1, 'three nodes: one');
$b->safe_psql('postgres', 'CREATE DATABASE fourth');
$b->safe_psql('fourth', 'CREATE EXTENSION pg_topics');
add_node('d', $b, 'fourth');
is(acks_followers(), 2, 'four nodes: two');
$observer->value('SELECT topics.alter_cluster(3)');
is(acks_followers(), 3, 'all three');
is($observer->query("SELECT topics.alter_cluster($_)")->{sqlstate}, '22023', "alter_cluster($_)")
  for -1, 4, 2147483647;
is(acks_followers(), 3, '... changes nothing');
$observer->value(q{SELECT topics.alter_topic('t', min_insync_replicas => 4)});
is($observer->query('SELECT topics.alter_cluster(NULL)')->{sqlstate},
	'22023', 'alter_cluster(NULL): a topic wants more');
$observer->value(q{SELECT topics.alter_topic('t', min_insync_replicas => 1)});
$observer->value('SELECT topics.alter_cluster(NULL)');
is(acks_followers(), 2, 'alter_cluster(NULL)');

# a node at another one's address
for ([ 'e', address_of($b) ], [ 'b', address_of($c) ])
{
	my ($name, $address) = @$_;
	my $before = $observer->value(
		q{SELECT string_agg(n::text, ' ') FROM (
		SELECT node, advertised_conninfo, counts FROM topics.node ORDER BY 1) n});

	is($observer->query("CALL topics.add_node('$name', \$\$$address\$\$)")->{sqlstate},
		'42710', "add_node: $name, at the address of another");
	is( $observer->value(
			q{SELECT string_agg(n::text, ' ') FROM (
		SELECT node, advertised_conninfo, counts FROM topics.node ORDER BY 1) n}),
		$before,
		'... changes nothing');
}

# a node that was made anew at its address has nothing
$b->safe_psql('fourth', 'DROP EXTENSION pg_topics CASCADE; CREATE EXTENSION pg_topics');
add_node('d', $b, 'fourth');
is(acks_followers(), 2, 'add_node: who has lost all counts again');
is($b->safe_psql('fourth', q{SELECT count(*) FROM topics.topic WHERE topic = 't'}),
	'1', '... when it has all');

$b->safe_psql('postgres', q{CALL topics.remove_node('d')});
is(acks_followers(), 1, 'remove_node, from a follower: three nodes again');
is((sqlstate_of($b, 'postgres', q{CALL topics.remove_node('b')}))[0],
	'55000', '... not on the node itself');

# the database at a node's address is another node
$b->safe_psql('fourth', 'DROP EXTENSION pg_topics CASCADE; CREATE EXTENSION pg_topics');
add_node('d', $b, 'fourth');
$b->safe_psql('fourth', 'DROP EXTENSION pg_topics CASCADE; CREATE EXTENSION pg_topics');
$b->safe_psql('fourth', q{SELECT topics.create_cluster('other', 'host=other')});
like(
	$observer->query(q{CALL topics.remove_node('d')})->{text},
	qr/WARNING.*could not be told/,
	'remove_node: of whom another has the place');
is($b->safe_psql('fourth', 'SELECT node FROM topics.node'), 'other', '... which stays what it is');
$b->safe_psql('fourth', 'SELECT topic_log.leave_cluster()');
is((sqlstate_of($b, 'postgres', 'SELECT topics.alter_cluster(0)'))[0],
	'TP004', 'alter_cluster: on a follower');
$observer->value('CREATE ROLE nobody LOGIN');
is(Session->new($a, user => 'nobody')->query('SELECT topics.alter_cluster(0)')->{sqlstate},
	'42501', 'alter_cluster: for superusers');
is($observer->query('BEGIN READ ONLY; SELECT topics.alter_cluster(0)')->{sqlstate},
	'25006', 'alter_cluster: in a read-only transaction');
$observer->query('ROLLBACK');
is(answer($observer, 'BEGIN; SELECT topics.alter_cluster(2); ROLLBACK'), 'ROLLBACK', 'undone');
is(acks_followers(), 1, '... is as it was');

# ----------------------------------------------------------------------
# Nobody sees what is not confirmed, and nothing overtakes
# ----------------------------------------------------------------------

my $other = Session->new($a);
is(answer($other, q{CALL topics.send('t', 'zero')}), '0|0', 'a commit is acknowledged');
is(values_on($a, 't'), 'zero', '... and seen');
comes_to($_, 't', 'zero', '... on ' . $_->name) for $b, $c;

# A group that has read all there is
is( $other->value(q{BEGIN; SELECT string_agg(value, ' ') FROM topics.consume('work', 't'); COMMIT}),
	"BEGIN\nzero\nCOMMIT", 'a consumer');

sub hidden_on_leader
{
	my ($expected, $end, $test_name) = @_;
	my $reader = Session->new($a);

	is(values_on($a, 't'), $expected, "$test_name: SELECT");
	is( $reader->value(
			q{SELECT string_agg(value, ' ' ORDER BY "offset") FROM topics.fetch('t', 0, 0)}),
		$expected,
		'... fetch');
	is($reader->value(qq{SELECT count(*) FROM topics.fetch('t', 0, $end, max_wait => '10 ms')}),
		0, '... fetch that waits');
	is($reader->value(q{SELECT "offset" FROM topics.list_offsets('t', 'latest')}),
		$end, '... list_offsets');
	is($reader->value(q{SELECT log_end_offset FROM topics.partition WHERE topic = 't'}),
		$end, '... topics.partition');
	is($reader->value(q{SELECT lag FROM topics.consumer_lag WHERE topic = 't'}),
		0, '... topics.consumer_lag');
	is( $reader->value(
			q{BEGIN; SELECT count(*) FROM topics.consume('work', 't', max_wait => '10 ms'); ROLLBACK}
		),
		"BEGIN\n0\nROLLBACK",
		'... consume');
	is( $reader->value(
			q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM topic.t; COMMIT}),
		"BEGIN\n$end\nCOMMIT",
		'... REPEATABLE READ');
	return;
}

pause('b', 'c');
my $first = waiting(
	q{BEGIN; INSERT INTO plain VALUES ('first'); SELECT topics.produce('t', 'first'); COMMIT});
is($observer->value('SELECT string_agg(value, $$ $$) FROM plain'),
	'first', 'what it wrote to tables is seen');
is($observer->value("SELECT count(*) FROM pg_locks WHERE pid = $first->{pid}"),
	0, '... and it has no locks');
is(answer($other, q{SET pg_topics.acks = 1; CALL topics.send('t', 'one')}),
	'0|2', 'acks=1 does not wait');
is(answer($other, q{SET pg_topics.acks = 0; CALL topics.send('t', 'none')}),
	'0|3', 'acks=0 does not');
is( answer(
		$other,
		q{SET pg_topics.acks = 1; SET synchronous_commit = off; CALL topics.send('t', 'off')}),
	'0|4',
	'nor acks=1 with synchronous_commit = off');
my @waiting =
  map { waiting("SET synchronous_commit = $_; CALL topics.send('t', '$_')") } qw(off local on);
hidden_on_leader('zero', 1, 'not confirmed');
is(values_on($_, 't'), 'zero', 'hidden on ' . $_->name) for $b, $c;
my $waiter = Session->new($a);
$waiter->send(q{CALL topics.wait_offset('t', 0, 3, '1 min'); SELECT count(*) FROM topic.t});
my $fetcher = Session->new($a);
$fetcher->send(q{SELECT value FROM topics.fetch('t', 0, 1, max_records => 1, max_wait => '1 min')});
ok(is_waiting_for_others($first), 'the first still waits');
resume('c');
is($first->receive->{rows}[-1], 'COMMIT', 'with one follower it is acknowledged');
is($_->receive->{rows}[-1] =~ s/\d+$/n/r, '0|n', '... and the next one') for @waiting;
is($fetcher->receive->{rows}[0], 'first', 'who has waited for a record gets it');
is($waiter->receive->{rows}[-1], 8, '... and who waits for the offset');
my $all = 'zero first one none off off local on';
is(values_on($a, 't'), $all, 'the records are in order');
comes_to($c, 't', $all, 'on c');
resume('b');
comes_to($b, 't', $all, 'on b');

# Two followers are wanted
$observer->value('SELECT topics.alter_cluster(2)');
pause('b');
$first = waiting(q{CALL topics.send('t', 'two')});
poll_until(
	sub {
		$observer->value(q{SELECT lag FROM topics.replica WHERE node = 'c' AND topic = 't'}) eq '0';
	}) or die;
ok(is_waiting_for_others($first), 'two are wanted, and one has it');
is(values_on($_, 't'), $all, 'hidden on ' . $_->name) for $a, $b, $c;
resume('b');
is($first->receive->{rows}[0], '0|8', 'both have it');
$all .= ' two';
is(values_on($a, 't'), $all, '... it is seen');
comes_to($_, 't', $all, '... on ' . $_->name) for $b, $c;

# Many commits, more than there are marks: nobody turns in circles meanwhile
pause('b');
is(answer($other, q{SET pg_topics.acks = 1; CALL topics.send('t', 'many')}) =~ s/\d+$/n/r,
	'0|n', 'many')
  for 1 .. 40;
poll_until(
	sub {
		$observer->value(q{SELECT lag FROM topics.replica WHERE node = 'c' AND topic = 't'}) eq '0';
	}) or die;
my $calls = sub {
	$observer->value('SELECT pg_stat_clear_snapshot()');
	return $observer->value(
		q{SELECT state_change FROM pg_stat_activity WHERE query LIKE 'CALL topic_log.replica_fetch%' AND wait_event IN ('PgTopicsReplicaFeed', 'Extension') ORDER BY pid}
	);
};
is(values_on($a, 't'), $all, 'hidden');
my $seen_idle = 0;
my $before = $calls->();
for (1 .. 20)
{
	my $now = $calls->();
	$seen_idle++ if $now ne '' && $now eq $before;
	$before = $now;
}
cmp_ok($seen_idle, '>', 10, 'the follower that has all waits for news');
resume('b');
$all .= ' many' x 40;
comes_to($_, 't', $all, 'all on ' . $_->name) for $a, $b, $c;

# k is raised, and lowered, while commits wait
$observer->value('SELECT topics.alter_cluster(1)');
pause('b', 'c');
$first = waiting(q{CALL topics.send('t', 'raised')});
$observer->value('SELECT topics.alter_cluster(2)');
resume('c');
poll_until(
	sub {
		$observer->value(q{SELECT lag FROM topics.replica WHERE node = 'c' AND topic = 't'}) eq '0';
	}) or die;
ok(is_waiting_for_others($first), 'acks_followers is raised: it waits for both');
$observer->value('SELECT topics.alter_cluster(1)');
like($first->receive->{rows}[0], qr/^0/, 'lowered: one is enough');
pause('c');
$first = waiting(q{CALL topics.send('t', 'lowered')});
$observer->value('SELECT topics.alter_cluster(0)');
ok(is_waiting_for_others($first), '0: not before another node knows of it');
$observer->value('SELECT topics.alter_cluster(0)');
ok(is_waiting_for_others($first), '... however often it is said');
resume('c');
like($first->receive->{rows}[0], qr/^0/, '... then it goes on');
pause('c');
$all .= ' raised lowered';
is(values_on($a, 't'), $all, '... and is seen');
like(answer($other, q{CALL topics.send('t', 'nowait')}), qr/^0/, '... and no commit waits');
$all .= ' nowait';
is(values_on($a, 't'), $all, '... nor reader');
$observer->value('SELECT topics.alter_cluster(1)');
resume('b', 'c');
comes_to($_, 't', $all, 'all on ' . $_->name) for $b, $c;

# ----------------------------------------------------------------------
# Waits that end without a confirmation
# ----------------------------------------------------------------------

$observer->value(q{SELECT topics.create_topic('ends')});
pause('b', 'c');
for my $sql (
	q{SELECT topics.produce('ends', 'produce')},
	q{BEGIN; SELECT topics.produce('ends', 'block'); COMMIT},
	q{INSERT INTO topic.ends (value) VALUES ('insert')},
	qq{COPY topic.ends (value) FROM stdin;\ncopy\n\\.\n},
	q{DO $$BEGIN PERFORM topics.produce('ends', 'do'); COMMIT; END$$})
{
	my $session = Session->new($a);
	$session->value(q{SET pg_topics.acks_timeout = '20 ms'});
	my $result = $session->query($sql);
	ok($result->{lost}, 'acks_timeout: the connection is closed: ' . substr $sql, 0, 40);
	like($result->{text}, qr/too few followers have confirmed/, '... and says why');
	is(scalar(grep { /COMMIT|INSERT|COPY|DO/ } @{ $result->{rows} }),
		0, '... without an acknowledgement');
}
my $sender = Session->new($a);
my $result =
  $sender->query(q{SET pg_topics.acks_timeout = '20 ms'; CALL topics.send('ends', 'send')});
is($result->{sqlstate}, '40003', 'acks_timeout: send');
is($sender->value('SELECT 1'), 1, '... in a session that lives on');
$sender->value('RESET pg_topics.acks_timeout');

# statement_timeout is over when a commit waits, but for CALL
$result = $sender->query(q{SET statement_timeout = '50 ms'; CALL topics.send('ends', 'timeout')});
is($result->{sqlstate}, '40003', 'statement_timeout: send');
my $patient = waiting(q{SET statement_timeout = '50 ms'; SELECT topics.produce('ends', 'patient')});

sub ends
{
	my ($call, $sql) = @_;
	my $session = waiting($sql);

	$observer->value("SELECT $call($session->{pid})");
	return $session->receive;
}

for my $call (qw(pg_cancel_backend pg_terminate_backend))
{
	for my $sql (qq{SELECT topics.produce('ends', '$call')},
		qq{BEGIN; SELECT topics.produce('ends', '$call'); COMMIT})
	{
		$result = ends($call, $sql);
		ok($result->{lost}, "$call: $sql");
		is(scalar(grep { /COMMIT/ } @{ $result->{rows} }), 0, '... without an acknowledgement');
	}
	$result = ends($call, qq{CALL topics.send('ends', '$call')});
	is(scalar(grep { /\|/ } @{ $result->{rows} }), 0, "$call: send is not acknowledged");
	is($result->{sqlstate}, '40003', '... it raises') if $call eq 'pg_cancel_backend';
}
ok(is_waiting_for_others($patient), 'statement_timeout does not end the wait of others');
is(values_on($a, 'ends'), '', 'nothing of that is seen');
resume('b', 'c');
is($patient->receive->{rows}[-1] =~ s/\d+/n/r, 'n', '... until it is confirmed');
my $ended =
	'produce block insert copy do send timeout patient'
  . ' pg_cancel_backend' x 3
  . ' pg_terminate_backend' x 3;
comes_to($_, 'ends', $ended, 'each is there once on ' . $_->name) for $a, $b, $c;

# ----------------------------------------------------------------------
# Administration does not wait
# ----------------------------------------------------------------------

$observer->value('SELECT topics.alter_cluster(2)');
$observer->value(q{SELECT topics.create_topic('doomed'); CREATE ROLE app});
like(answer($other, q{SET pg_topics.acks = 'all'; CALL topics.send('doomed', 'x')}),
	qr/^0/, 'confirmed by two');
pause('b', 'c');
for my $sql (
	q{SELECT topics.create_topic('created', 3)},
	q{SELECT topics.alter_topic('created', retention_time => '3 days')},
	q{SELECT topics.add_partitions('created', 5)},
	q{GRANT SELECT ON topic.created TO app},
	q{ALTER VIEW topic.created OWNER TO app},
	q{SELECT topics.rename_topic('created', 'renamed')},
	q{SELECT topics.delete_records('t', 0, 3)},
	q{SELECT topics.drop_topic('doomed')},
	q{CALL topics.maintain('t')},
	q{CALL topics.roll_segment('t')},
	q{SELECT topics.alter_cluster(1)},
	q{SELECT topics.alter_cluster(2)})
{
	isnt(answer($other, $sql), 'no answer', "all followers are away: $sql");
}
is($observer->value(q{SELECT log_start_offset FROM topics.partition WHERE topic = 't'}),
	3, 'records are deleted');
$first =
  waiting(q{BEGIN; SELECT topics.create_topic('made'); SELECT topics.produce('made', 'x'); COMMIT});
is(values_on($a, 'made'), '', 'a record of a new topic is waited for');

# ----------------------------------------------------------------------
# Consumers
# ----------------------------------------------------------------------

my $consumer = Session->new($a);
my $consume =
  q{BEGIN; SELECT string_agg(value, ' ') FROM topics.consume('readers', 't', max_records => 2); COMMIT};

$consumer->value(q{SET pg_topics.acks = 1});
is($consumer->value($consume), "BEGIN\nnone off\nCOMMIT", 'acks=1: committed offsets do not wait');
my $slow = waiting($consume);
resume('b', 'c');
is( join("\n", @{ $slow->receive->{rows} }),
	"BEGIN\noff local\nCOMMIT",
	'acks=all: committed offsets wait');
is($first->receive->{rows}[-1], 'COMMIT', '... as did the record of a new topic');
pause('b', 'c');
is($consumer->value($consume), "BEGIN\non two\nCOMMIT", 'the next ones, not confirmed');
is( answer($other,
		q{RESET synchronous_commit; SET pg_topics.acks = 1; CALL topics.send('t', 'lost?')}) =~
	  s/\d+$/n/r,
	'0|n',
	'a record that is not confirmed');

# ----------------------------------------------------------------------
# The leader is killed
# ----------------------------------------------------------------------

$a->stop('immediate');
$a->start;
$observer = Session->new($a);
$other = Session->new($a);
unlike(values_on($a, 't'), qr/lost/,
	'after a crash of the leader: what is not confirmed is hidden');
$consumer = Session->new($a);
$consumer->value(q{SET pg_topics.acks = 1});
my $again = $consumer->query($consume)->{rows}[1] // '';
unlike($again, qr/local|on|off|two|none|lost/, 'nothing is consumed twice');
is( $observer->value(
		q{SELECT committed_offset FROM topics.consumer_offset WHERE group_id = 'readers'}),
	$again eq '' ? 9 : 11,
	'the committed offset is there');
resume('b', 'c');
$all =~ s/^zero first one //;
$all .= ' lost?';
comes_to($_, 't', $all, 'a follower comes back: all is seen on ' . $_->name) for $a, $b, $c;
is($consumer->value($consume), "BEGIN\n" . 'many many' . "\nCOMMIT", 'the consumer goes on');
$a->stop('immediate');
$a->start;
$observer = Session->new($a);
$other = Session->new($a);
comes_to($_, 't', $all, 'a crash with followers there: ' . $_->name) for $a, $b, $c;
like(answer($other, q{CALL topics.send('t', 'after')}), qr/^0/, 'commits go on');
$all .= ' after';
comes_to($_, 't', $all, 'seen on ' . $_->name) for $a, $b, $c;


# ----------------------------------------------------------------------
# A type that is missing
# ----------------------------------------------------------------------

$observer->value('SELECT topics.alter_cluster(1)');
$_->safe_psql('postgres', q{CREATE TYPE color AS ENUM ('red', 'green')}) for $a, $c;
$observer->value(q{SELECT topics.create_topic('colors', value_type => 'color')});
like(answer($other, q{INSERT INTO topic.colors (value) VALUES ('red')}),
	qr/^INSERT/, 'a type that one follower does not have: the other one confirms');
pause('c');
my $colored = waiting(q{BEGIN; INSERT INTO topic.colors (value) VALUES ('green'); COMMIT});
like(answer($other, q{CALL topics.send('t', 'beside')}), qr/^0/, '... and this one all else');
$all .= ' beside';
ok(is_waiting_for_others($colored), '... while the topic waits for the one that has the type');
is(values_on($a, 'colors'), 'red', '... its record is hidden');
is(values_on($a, 't'), $all, '... and other topics are seen');
my $both = waiting(
	q{BEGIN; INSERT INTO topic.colors (value) VALUES ('red'); SELECT topics.produce('t', 'both'); COMMIT}
);
$b->safe_psql('postgres', q{CREATE TYPE color AS ENUM ('red', 'green')});
is($colored->receive->{rows}[-1], 'COMMIT', 'it goes on when the type is there');
is($both->receive->{rows}[-1], 'COMMIT', '... so does a transaction with records in both');
$all .= ' both';
resume('c');
comes_to($_, 'colors', 'red green red', 'colors on ' . $_->name) for $a, $b, $c;
$a->safe_psql('postgres', 'CREATE TYPE pair AS (a int, b text)');
$observer->value(q{SELECT topics.create_topic('pairs', value_type => 'pair')});
$colored = waiting(q{INSERT INTO topic.pairs (value) VALUES ((1, 'x'))});
like(answer($other, q{CALL topics.send('t', 'others')}),
	qr/^0/, 'a type that no follower has: other topics go on');
$all .= ' others';
ok(is_waiting_for_others($colored), '... the topic waits');
is(values_on($a, 'pairs'), '', '... its record is hidden');
is(values_on($a, 't'), $all, '... and others are seen');
$c->safe_psql('postgres', 'CREATE TYPE pair AS (a int, b text)');
is($colored->receive->{rows}[0], 'INSERT 0 1', '... it goes on when one has the type');
comes_to($_, 'pairs', '(1,x)', 'pairs on ' . $_->name) for $a, $c;
$b->safe_psql('postgres', 'CREATE TYPE pair AS (a int, b text)');
comes_to($b, 'pairs', '(1,x)', 'pairs on b');
comes_to($_, 't', $all, 't on ' . $_->name) for $a, $b, $c;

# ----------------------------------------------------------------------
# Databases of one server
# ----------------------------------------------------------------------

# a/second leads b/fourth; a/alone is in no cluster
$a->safe_psql('postgres', "CREATE DATABASE $_") for qw(second alone);
$a->safe_psql($_, q{CREATE EXTENSION pg_topics; SELECT topics.create_topic('t')})
  for qw(second alone);
# it was removed, and leads what it had
$b->safe_psql('fourth', "SELECT topics.drop_topic(topic) FROM topics.topic");
$a->safe_psql('second',
	"SELECT topics.create_cluster('one', \$\$" . address_of($a, 'second') . '$$)');
$a->safe_psql('second', q{CALL topics.add_node('two', $$} . address_of($b, 'fourth') . '$$)');
my %session = map { $_ => Session->new($a, database => $_) } qw(second alone);

pause('b', 'c');
$first = waiting(q{CALL topics.send('t', 'here')});
like(answer($session{$_}, q{CALL topics.send('t', 'there')}), qr/^0/, "$_ does not wait for others")
  for qw(second alone);
is($a->safe_psql($_, 'SELECT value FROM topic.t'), 'there', "... nor readers of $_")
  for qw(second alone);
ok(is_waiting_for_others($first), '... while the first waits');
resume('b', 'c');
like($first->receive->{rows}[0], qr/^0/, '... and goes on');
$all .= ' here';
pause('b/fourth');
$session{second}->send(q{CALL topics.send('t', 'second')});
poll_until(sub { is_waiting_for_others($session{second}) }) or die;
like(answer($other, q{CALL topics.send('t', 'first')}), qr/^0/, 'the other way round');
$all .= ' first';
is(values_on($a, 't'), $all, '... its readers neither');
like(answer($session{alone}, q{CALL topics.send('t', 'alone')}), qr/^0/, '... nor in no cluster');
is($a->safe_psql('second', 'SELECT value FROM topic.t'), 'there', '... while that one is hidden');

# The follower's database is dropped
resume('b/fourth');
like($session{second}->receive->{rows}[0], qr/^0/, 'it goes on');
$b->safe_psql('postgres', 'DROP DATABASE fourth WITH (FORCE)');
$session{second}->send(q{CALL topics.send('t', 'dropped')});
poll_until(sub { is_waiting_for_others($session{second}) }) or die;
is($a->safe_psql('second', 'SELECT count(*) FROM topic.t'),
	2, 'a follower that was dropped confirms nothing');
like(
	(sqlstate_of($a, 'second', q{CALL topics.remove_node('two')}))[1],
	qr/WARNING.*could not be told/,
	'it is removed');
like($session{second}->receive->{rows}[0], qr/^0/, '... and nobody waits any more');
is($a->safe_psql('second', 'SELECT count(*) FROM topic.t'), 3, '... nor is anything hidden');

# The database makes another cluster, and hides what is not confirmed in that
$a->safe_psql('second', q{SELECT topics.create_topic('u'); CALL topics.send('u', 'x')});
$b->safe_psql('postgres', 'CREATE DATABASE fifth');
$b->safe_psql('fifth', 'CREATE EXTENSION pg_topics');
for my $round (1, 2)
{
	$a->safe_psql('second', q{CALL topics.add_node('five', $$} . address_of($b, 'fifth') . '$$)');
	my $count = $a->safe_psql('second', 'SELECT count(*) FROM topic.u');
	pause('b/fifth');
	$a->safe_psql('second', q{SET pg_topics.acks = 1; CALL topics.send('u', 'y')});
	is($a->safe_psql('second', 'SELECT count(*) FROM topic.u'),
		$count, "round $round: hidden until it is confirmed");
	resume('b/fifth');
	ok(poll_until(sub { $a->safe_psql('second', 'SELECT count(*) FROM topic.u') == $count + 1 }),
		'... and seen then');
	# listed as a partition with something unconfirmed when the cluster ends
	$a->safe_psql('second', q{CALL topics.send('u', 'z')});
	$a->safe_psql('second', q{CALL topics.remove_node('five')});
	$b->safe_psql('fifth', 'SELECT topics.drop_topic(topic) FROM topics.topic');
	$a->safe_psql('second', 'SELECT topic_log.leave_cluster()');
	$a->safe_psql('second',
		"SELECT topics.create_cluster('one', \$\$" . address_of($a, 'second') . '$$)');
}

# ----------------------------------------------------------------------
# A topic that somebody has locked
# ----------------------------------------------------------------------

# A small response is on the way; what is to be given then is more than what a
# connection holds
sub begin_large
{
	my $session = Session->new($a);

	# all but the commit: a follower is answered meanwhile, and asks again
	$session->value('SET pg_topics.acks = 1; BEGIN');
	$session->value(
		q{SELECT count(topics.produce('locked', repeat('x', 100000))) FROM generate_series(1, 200)}
	);
	return $session;
}
my $given =
  q{SELECT count(*) = 2 FROM pg_stat_activity WHERE query LIKE 'CALL topic_log.replica_fetch%' AND datname = 'postgres' AND state = 'idle'};
$observer->value(q{SELECT topics.create_topic('locked')});
comes_to($_, 'locked', '', 'a topic on ' . $_->name) for $b, $c;
my $giver = begin_large();
wait_until_asked($observer, 2);
pause('b', 'c');
$observer->value(q{SET pg_topics.acks = 1; CALL topics.send('locked', 'small')});
poll_until(sub { $observer->value($given) eq 't' }) or die;
$giver->value('COMMIT');
my $locker = Session->new($a);
$locker->value(q{BEGIN; SELECT topics.drop_topic('locked')});
resume('b', 'c');
like(answer($other, q{SET pg_topics.acks_timeout = '5 s'; CALL topics.send('t', 'unlocked')}),
	qr/^0/, 'a topic that is locked keeps no commit to another one waiting');
$locker->value('COMMIT');
$all .= ' unlocked';
comes_to($_, 't', $all, 'seen on ' . $_->name) for $a, $b, $c;

# A follower that hangs while it is sent to keeps nobody from the topic
$observer->value(q{SELECT topics.create_topic('locked')});
comes_to($_, 'locked', '', 'a topic on ' . $_->name) for $b, $c;
$giver = begin_large();
wait_until_asked($observer, 2);
pause('b', 'c');
$giver->value('COMMIT');
poll_until(
	sub {
		$observer->value(
			q{SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'ClientWrite'}) eq 't';
	}) or die 'nobody is sent to';
isnt(answer(Session->new($a), q{SET lock_timeout = '2 s'; SELECT topics.drop_topic('locked')}),
	'55P03', 'a topic is dropped while a follower hangs');
resume('b', 'c');

# ----------------------------------------------------------------------
# What is sent to replica_fetch()
# ----------------------------------------------------------------------

my $incarnation =
  $observer->value(
	q{SELECT value ->> 'incarnation' FROM topic."__cluster_metadata" WHERE key = 'node/b' ORDER BY "offset" DESC LIMIT 1}
  );
my ($cluster_id, $epoch, $term) = split /\|/,
  $observer->value('SELECT cluster_id, epoch, term FROM topic_log.cluster');

# A request, as replica_feed.c has it
sub request
{
	my (%r) = (
		version => 4,
		set => 0,
		node => 'b',
		incarnation => $incarnation,
		cluster => $cluster_id,
		epoch => $epoch,
		epoch_id => '',
		term => $term,
		promised_term => 0,
		position => 0,
		first => 1,
		mark => -1,
		wait => 0,
		ends => [],
		@_);
	my $bytes = pack 'n n Z* Z* Z* q> Z* q> q> q> C q> N N', $r{version}, $r{set}, $r{node},
	  $r{incarnation},
	  $r{cluster}, $r{epoch},
	  $r{epoch_id}, $r{term}, $r{promised_term}, $r{position}, $r{first}, $r{mark}, $r{wait},
	  $r{count} // scalar @{ $r{ends} };

	$bytes .= pack 'q> N q>', @$_ for @{ $r{ends} };
	return unpack 'H*', $bytes;
}

sub fetch_answer
{
	my ($session, $hex) = @_;

	$session->send("CALL topic_log.replica_fetch('\\x$hex', NULL)");
	my $result = $session->receive(15) // return 'no answer';
	return $result->{sqlstate} if $result->{sqlstate};
	return 'lost' if $result->{lost};
	return length $result->{rows}[0] > 50 ? 'response' : "@{ $result->{rows} }";
}

$observer->value(
	'CREATE ROLE fetcher LOGIN REPLICATION IN ROLE pg_read_all_data; CREATE ROLE plain LOGIN IN ROLE pg_read_all_data'
);
is(fetch_answer(Session->new($a, user => 'nobody'), request()),
	'42501', 'replica_fetch: without rights on the schema');
my $nobody = Session->new($a, user => 'plain');
is(fetch_answer($nobody, request()), '42501', '... without REPLICATION');
is(fetch_answer($nobody, request(first => 0)), '55000', '... in no session');
is(fetch_answer($nobody, substr request(), 0, 12), '08P01', '... cut off');

my $fetch = Session->new($a, user => 'fetcher');
is($fetch->query('CALL topic_log.replica_fetch(NULL, NULL)')->{sqlstate}, '22004', 'NULL');
is(fetch_answer($fetch, ''), '08P01', 'no bytes');
is(fetch_answer($fetch, 'ff' x 100), 'TP005', 'garbage is another version');
is(fetch_answer($fetch, request(version => $_)), 'TP005', "version $_") for 0, 1, 3, 5, 65535;
is(fetch_answer($fetch, request(set => 5)), '55000', 'of a leader set that there is not');
is(fetch_answer($fetch, request(set => $_)), '08P01', "of leader set $_") for 10, 65535;
is(fetch_answer($fetch, request(cluster => 'x')), '55000', 'of another cluster');
is(fetch_answer($fetch, request(cluster => '')), '55000', 'of none');
my $epoch_id = $observer->value('SELECT epoch_id FROM topic_log.cluster');
is(fetch_answer($fetch, request(epoch_id => $_)),
	'XX001', "of another epoch: '" . substr($_, 0, 20) . "'")
  for '00000000-0000-0000-0000-000000000000', 'x', q{' OR '1'='1}, 'a' x 100000;
is(fetch_answer(Session->new($a, user => 'fetcher'), request(epoch_id => $epoch_id)),
	'response', 'of this one');
is(fetch_answer($fetch, request(node => $_)), 'TP003', "node '" . substr($_, 0, 20) . "'")
  for 'z', '', 'a' x 100000, q{b' OR '1'='1};
is(fetch_answer($fetch, request(incarnation => $_)), 'TP003', "incarnation '$_'")
  for '', 'x', '00000000-0000-0000-0000-000000000000';
is( fetch_answer($fetch, request(node => "b\xff")),
	$observer->value('SHOW server_encoding') eq 'UTF8' ? '22021' : 'TP003',
	'a node that is not UTF-8');
is(fetch_answer($fetch, request(first => 0)), '55000', 'no session was begun');
my $whole = request(ends => [ [ 1, 0, 5 ], [ 2, 1, 7 ] ]);
my %answers;

for my $length (0 .. length($whole) / 2 - 1)
{
	$answers{ fetch_answer($fetch, substr $whole, 0, 2 * $length) }++;
}
is(join(' ', sort keys %answers), '08P01', 'each request that is cut off');
is(fetch_answer($fetch, request() . '00'), '08P01', 'a byte too many');
is(fetch_answer($fetch, request(count => $_)), '08P01', "count $_")
  for 1, 2147483647, 4294967295, 2147483648;
# garbage where the numbers are: nothing crashes, whatever is answered
for my $ends (
	[ [ 9223372036854775807, 4294967295, 9223372036854775807 ] ],
	[ [ -1, 2147483648, -9223372036854775808 ], [ 0, 0, 0 ] ],
	[ map { [ $_, $_, $_ ] } 0 .. 2000 ],
	[ map { [ 1, 0, -1 ] } 0 .. 2000 ])
{
	isnt(fetch_answer($fetch, request(ends => $ends)), 'lost', 'absurd ends');
	isnt(fetch_answer($fetch, request(ends => $ends, first => 0, mark => $_)),
		'lost', "... and mark $_")
	  for 0, 9223372036854775807, -9223372036854775808;
}
isnt(fetch_answer($fetch, request(first => 0, wait => 4294967295)), 'no answer', 'a negative wait');
isnt(
	$fetch->query('BEGIN; CALL topic_log.replica_fetch(\'\\x' . request() . '\', NULL); ROLLBACK')
	  ->{lost},
	1,
	'in a transaction block');
$fetch->query('ROLLBACK');
ok( !$fetch->query(
			q{DO $$DECLARE r bytea; BEGIN FOR i IN 1..20 LOOP CALL topic_log.replica_fetch('\x}
		  . request()
		  . q{', r); END LOOP; END$$})->{lost},
	'in a loop');
ok( !$fetch->query(
		q{CREATE TEMP TABLE r AS SELECT 1; CREATE FUNCTION pg_temp.f() RETURNS bytea LANGUAGE plpgsql AS $$DECLARE r bytea; BEGIN CALL topic_log.replica_fetch('\x}
		  . request()
		  . q{', r); RETURN r; END$$; SELECT count(pg_temp.f()) FROM generate_series(1, 10)}
	)->{lost},
	'in a function of a query');
is($observer->value('SELECT 1'), 1, 'the server is there');
undef $fetch;
like(answer($other, q{CALL topics.send('t', 'sane')}), qr/^0/, 'commits go on');
$all .= ' sane';
comes_to($_, 't', $all, 'seen on ' . $_->name) for $a, $b, $c;

# Another session takes b's name: b gets an error, and comes back
$observer->value('SELECT topics.alter_cluster(2)');
my $thief = Session->new($a, user => 'fetcher');
is(fetch_answer($thief, request()), 'response', 'a second session of b');
like(answer($other, q{CALL topics.send('t', 'taken')}), qr/^0/, '... b comes back');
is(fetch_answer($thief, request(first => 0)), '55006', '... and the second one is told');
is(fetch_answer($thief, request(first => 0, mark => 5)), '55006', '... always');
$all .= ' taken';
comes_to($b, 't', $all, 'b goes on');
undef $thief;

# ----------------------------------------------------------------------
# A synchronous standby beside the cluster
# ----------------------------------------------------------------------

my $standby = PostgreSQL::Test::Cluster->new('standby');
$observer->value('SELECT topics.alter_cluster(1)');
$observer->value('CHECKPOINT');
$a->backup('base');
$standby->init_from_backup($a, 'base', has_streaming => 1);
$a->append_conf('postgresql.conf', "synchronous_standby_names = 'standby'");
$a->reload;
$a->poll_query_until('postgres',
	q{SELECT setting = 'standby' FROM pg_settings WHERE name = 'synchronous_standby_names'})
  or die;
# a session that has the setting
$observer = Session->new($a);
my $patience = waiting(q{CALL topics.send('t', 'standby')});
poll_until(
	sub {
		$observer->value(
			"SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $patience->{pid}") eq
		  't';
	}) or die;
is( $observer->value(
		q{SELECT bool_or(lag = 0) FROM topics.replica WHERE node <> 'a' AND topic = 't'}),
	'f',
	'what the standby does not have, followers are not given');
is(values_on($_, 't'), $all, '... it is hidden on ' . $_->name) for $a, $b, $c;
my $zero = Session->new($a);
like(answer($zero, q{SET pg_topics.acks = 0; CALL topics.send('t', 'acks_0')}),
	qr/^0/, 'acks=0 does not wait for the standby');
like(
	answer(
		$zero,
		q{SET pg_topics.acks = 1; SET synchronous_commit = local; CALL topics.send('t', 'local')}),
	qr/^0/,
	'nor acks=1 with synchronous_commit = local');
pause('b', 'c');
my $one = waiting(q{SET pg_topics.acks = 1; CALL topics.send('t', 'acks_1')});
my $last = waiting(q{CALL topics.send('t', 'last')});
$standby->start;
like(($one->receive(10) // { rows => ['no answer'] })->{rows}[-1],
	qr/^0/, 'acks=1 waits for the standby alone');
poll_until(
	sub {
		$observer->value(
			'SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn) = 0 FROM pg_stat_replication')
		  eq 't';
	}) or die;
ok(is_waiting_for_others($last), 'acks=all waits for followers as well');
resume('b', 'c');
like($_->receive->{rows}[0], qr/^0/, 'with both it is acknowledged') for $patience, $last;
$all .= ' standby acks_0 local acks_1 last';
comes_to($_, 't', $all, 'seen on ' . $_->name) for $a, $b, $c;
$standby->stop('immediate');
$node{standby} = $standby;

is(scalar $_->log_contains('PANIC|TRAP|terminated by signal'), '', 'no crash of ' . $_->name)
  for values %node;

done_testing();
