# What users of a node see when another one comes to lead: groups go on where they were
# committed, who waits or listens is woken, topics that were changed are as the new leader
# has them.  And two nodes, of which one is no majority.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Leaders;
use Session;
use TopicState;
use Topics;

my ($a, $b, $c) =
  make_cluster(conf =>
	  "pg_topics.worker_interval = '1 s'\npg_topics.automatic_failover = off\npg_topics.node_timeout = '1 s'\npg_topics.acks_timeout = '20 s'\n"
  );

sub consume
{
	my ($node, $count) = @_;

	return $node->safe_psql('postgres',
		qq{SELECT string_agg(value, ' ' ORDER BY value) FROM topics.consume('g', 'one', $count)});
}

sub committed
{
	my ($node) = @_;

	return $node->safe_psql('postgres',
		q{SELECT current_offset FROM topics.consumer_lag WHERE group_id = 'g' AND topic = 'one'});
}

# By the conninfo of a, others connect as a role that may replicate and read, and no more
for my $node ($a, $b, $c)
{
	$node->safe_psql('postgres', 'CREATE ROLE replica LOGIN REPLICATION IN ROLE pg_read_all_data');
}
$a->safe_psql('postgres',
	q{SELECT topics.alter_node('a', $$} . $a->connstr('postgres') . ' user=replica$$)');

# ----------------------------------------------------------------------
# Groups
# ----------------------------------------------------------------------

$a->safe_psql('postgres',
	q{SELECT topics.create_topic('one'); SELECT topics.produce('one', to_char(i, 'FM00')) FROM generate_series(1, 30) i}
);
is(consume($a, 10), join(' ', map { sprintf '%02d', $_ } 1 .. 10), 'a group consumes on a');
$a->safe_psql('postgres', q{CALL topics.move_leader('b')});
is((sqlstate_of($a, 'postgres', q{SELECT * FROM topics.consume('g', 'one', 10)}))[0],
	'TP004', 'after the move: not on a');
is( consume($b, 10),
	join(' ', map { sprintf '%02d', $_ } 11 .. 20),
	'... but on b, from where it was');
ok(poll_until(sub { committed($a) eq '20' }), '... and a hears of it');

# what was consumed without an acknowledgement is consumed again
kill_server($_) for $a, $c;
$b->safe_psql('postgres',
	q{SET pg_topics.acks = '1'; SELECT count(*) FROM topics.consume('g', 'one', 5)});
is(committed($b), '25', 'a group consumes, and no follower hears of it');
kill_server($b);
$_->start for $a, $c;
$a->safe_psql('postgres', q{CALL topics.failover('b')});
my $again;
poll_until(sub { ($again = consume($a, 10)) ne '' });    # when followers have confirmed it
is( $again,
	join(' ', map { sprintf '%02d', $_ } 21 .. 30),
	'... another leader gives that out again');
$b->start;
check_same($a, 'b is back', $b, $c);
ok(poll_until(sub { committed($b) eq '30' }), '... with what was committed');

# ----------------------------------------------------------------------
# Who waits, and who listens
# ----------------------------------------------------------------------

my $channel = $c->safe_psql('postgres', q{SELECT topics.channel('one')});
my $waiter = Session->new($c);
my $listener = Session->new($c);
$listener->query("LISTEN \"$channel\"");
$waiter->send(q{CALL topics.wait_offset('one', 0, 30, '1 min')});
$a->stop('immediate');
$c->safe_psql('postgres', q{CALL topics.failover('a')});
$c->safe_psql('postgres', q{SELECT topics.produce('one', 'woken')});
is($waiter->receive(30)->{sqlstate} // '', '', 'who waits on the new leader is woken');
ok( poll_until(
		sub {
			grep { /^Asynchronous notification/ } @{ $listener->query('SELECT 1')->{rows} };
		}),
	'... and who listens');
$a->start;
check_same($c, 'a is back', $a, $b);

# ----------------------------------------------------------------------
# Topics that are dropped
# ----------------------------------------------------------------------

$c->safe_psql('postgres',
	q{SELECT topics.create_topic('short'); SELECT topics.produce('short', 'x') FROM generate_series(1, 100)}
);
ok($b->poll_query_until('postgres', q{SELECT count(*) = 100 FROM topic.short}), 'b has a topic');
kill_server($b);
$c->safe_psql('postgres', q{SELECT topics.drop_topic('short')});
$c->safe_psql('postgres', q{CALL topics.move_leader('a')});
$b->start;
check_same($a, 'a topic was dropped meanwhile', $b, $c);
ok( $b->poll_query_until(
		'postgres', q{SELECT count(*) = 0 FROM topics.topic WHERE topic = 'short'}),
	'... it goes');

# ... by a transaction that has not ended
$a->safe_psql('postgres', q{SELECT topics.create_topic('dropping')});
my $dropper = Session->new($a);
$dropper->query($_) for 'BEGIN', q{SELECT topics.drop_topic('dropping')};
$a->safe_psql('postgres', q{CALL topics.move_leader('c')});
is($dropper->query('COMMIT')->{sqlstate}, 'TP004', 'who drops a topic keeps no other from leading');
check_same($c, 'a topic was to be dropped', $a, $b);

# ----------------------------------------------------------------------
# Topics that only the old leader has changed
# ----------------------------------------------------------------------

$c->safe_psql('postgres',
	q{SELECT topics.create_topic('gone'); SELECT topics.create_topic('grown', 2)});
for my $node ($a, $b)
{
	ok( $node->poll_query_until(
			'postgres', q{SELECT count(*) = 2 FROM topics.topic WHERE topic IN ('gone', 'grown')}),
		$node->name . ' has the topics');
	$node->safe_psql('postgres', 'CHECKPOINT');    # nobody waits for topics to be durable there
}
kill_server($_) for $a, $b;
$c->safe_psql(
	'postgres', q{
	SET pg_topics.acks = '0';
	SELECT topics.drop_topic('gone');
	SELECT topics.add_partitions('grown', 5);
	SELECT topics.create_topic('lost');
	SELECT topics.rename_topic('one', 'two');});
kill_server($c);
$_->start for $a, $b;
$b->safe_psql('postgres', q{CALL topics.failover('c')});
$b->safe_psql('postgres', q{SELECT topics.create_topic('new'); SELECT topics.produce('new', 'x')});
$c->start;
my $topics =
  q{SELECT string_agg(topic || ' ' || topic_id || ' ' || partitions, ', ' ORDER BY topic_id) FROM topics.topic WHERE topic NOT LIKE '\_\_%'};
ok(poll_until(sub { $c->safe_psql('postgres', $topics) eq $b->safe_psql('postgres', $topics) }),
	'topics are as the new leader has them')
  or diag($c->safe_psql('postgres', $topics) . "\n" . $b->safe_psql('postgres', $topics));
is( $b->safe_psql(
		'postgres',
		q{SELECT string_agg(topic, ' ' ORDER BY topic) FROM topics.topic WHERE topic NOT LIKE '\_\_%'}
	),
	'dropping gone grown new one t',
	'... and nothing of what nobody had heard of');
ok( poll_until(
		sub {
			$c->safe_psql('postgres', q{SELECT string_agg(value, ' ') FROM topic.new}) eq 'x';
		}),
	'... with their records');
check_same($b, 'topics', $a, $c);

# ----------------------------------------------------------------------
# The node that leads is lost for good
# ----------------------------------------------------------------------

kill_server($b);
$a->safe_psql('postgres', q{CALL topics.failover('b')});
$a->safe_psql('postgres', q{CALL topics.remove_node('b')});
is( $a->safe_psql(
		'postgres', q{SELECT string_agg(node || ' ' || role, ', ' ORDER BY node) FROM topics.node}),
	'a leader, c follower',
	'a lost node is removed');
is(produce_records($a, 'two', 10), 10, '... and the others go on');
$b->start;
ok($b->poll_query_until('postgres', 'SELECT is_removed FROM topic_log.cluster'),
	'... it hears of that when it comes back');
is((sqlstate_of($b, 'postgres', q{CALL topics.failover('a')}))[0],
	'55000', '... and does not lead others that were removed');
kill_server($b);

# ----------------------------------------------------------------------
# Two nodes
# ----------------------------------------------------------------------

check_same($a, 'two nodes', $c);
kill_server($a);
my ($state, $message) = sqlstate_of($c, 'postgres', q{CALL topics.failover('a')});
is($state, 'TP009', 'one of two nodes is no majority');
like(
	$message,
	qr/1 of 2 nodes have promised.*2 are needed.*allow_data_loss/s,
	'... and the error says so');
$a->start;
is(find_leader($a), $a, '... the one that led leads, when it is back');
check_same($a, 'two nodes again', $c);
kill_server($c);
produce_records($a, 'unseen', 7, '1');
kill_server($a);
$c->start;
$c->safe_psql('postgres', q{CALL topics.failover('a', allow_data_loss => true)});
$c->safe_psql('postgres', q{SET pg_topics.acks = '1'; SELECT topics.produce('t', 'other')});
$a->start;
check_same($c, 'allow_data_loss', $a);
is( $a->safe_psql('postgres', q{SELECT count(*) FROM topics.truncated WHERE value LIKE 'unseen%'}),
	'7',
	'... what is lost is in topics.truncated');

# what was confirmed is given up only then
$c->safe_psql('postgres', q{SELECT topics.alter_cluster(acks_followers => 0)});
is($c->safe_psql('postgres', q{SELECT acks_followers FROM topics.cluster}),
	'0', 'asynchronous followers');
kill_server($a);
produce_records($c, 'confirmed', 5, '1');
is($c->safe_psql('postgres', q{SELECT count(*) FROM topic.t WHERE value LIKE 'confirmed%'}),
	'5', '... which nobody waits for');
kill_server($c);
$a->start;
is((sqlstate_of($a, 'postgres', q{CALL topics.failover('c')}))[0],
	'TP009', '... and which are needed to fail over');
$a->safe_psql('postgres', q{CALL topics.failover('c', allow_data_loss => true)});
$c->start;
check_same($a, 'allow_data_loss with confirmed records', $c);
is( $c->safe_psql(
		'postgres', q{SELECT count(*) FROM topics.truncated WHERE value LIKE 'confirmed%'}),
	'5',
	'... are in topics.truncated');


# ... and of three nodes one is left
kill_server($c);
$a->safe_psql('postgres', q{CALL topics.remove_node('c')});
is(produce_records($a, 'alone', 5), 5, 'the last node goes on alone');
is($a->safe_psql('postgres', 'SELECT acks_followers FROM topics.cluster'),
	'0', '... and waits for nobody');

done_testing();
