# Leader epochs: a reader that had passed what was truncated is told, a group too, and
# others are not.
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
  "pg_topics.worker_interval = '1 s'\npg_topics.automatic_failover = off\npg_topics.node_timeout = '1 s'\n";
my ($a, $b) = map { topics_node($_, conf => $conf) } qw(a b);

sub epoch_end
{
	my ($node, $epoch) = @_;

	return $node->safe_psql('postgres',
			'SELECT * FROM topics.offset_for_leader_epoch($$t$$, 0'
		  . (defined $epoch ? ", $epoch" : '')
		  . ')');
}

# What a reader gets that has read up to an offset in an epoch: values, or an error
sub fetched
{
	my ($node, $from, $epoch) = @_;
	my ($state, $message) = sqlstate_of($node, 'postgres',
		"SELECT * FROM topics.fetch('t', 0, $from, leader_epoch => $epoch)");

	return $state if $state ne '00000';
	return $node->safe_psql('postgres',
		"SELECT coalesce(string_agg(value, ' '), '') FROM topics.fetch('t', 0, $from, leader_epoch => $epoch)"
	);
}

sub produce
{
	my ($node, @values) = @_;

	$node->safe_psql('postgres',
		"SET pg_topics.acks = '1'; "
		  . join('; ', map { "SELECT topics.produce('t', '$_')" } @values));
	return;
}

sub follows
{
	my ($follower, $leader) = @_;

	return $leader->poll_query_until('postgres',
		q{SELECT in_sync FROM topics.node WHERE node = '} . $follower->name . q{'})
	  && $follower->poll_query_until('postgres',
		q{SELECT bool_and(lag = 0) FROM topics.replica WHERE role = 'follower'});
}

# ----------------------------------------------------------------------
# Without a cluster
# ----------------------------------------------------------------------

$a->safe_psql('postgres', q{SELECT topics.create_topic('t', 1)});
produce($a, qw(r0 r1 r2));
is(epoch_end($a), '0|3', 'without a cluster there is epoch 0');
is(epoch_end($a, 7), '|', '... and none above');
is(fetched($a, 1, 0), 'r1 r2', '... in which one reads');
is(fetched($a, 3, 0), '', '... up to the end');
is(fetched($a, 4, 0), 'TP001', '... and not beyond');
is(fetched($a, 1, 1), 'TP004', 'an epoch that is not known');
is(fetched($a, 1, -1), '22023', 'an epoch that cannot be');
is((sqlstate_of($a, 'postgres', q{SELECT topics.offset_for_leader_epoch('t', 0, -1)}))[0],
	'22023', '... for offset_for_leader_epoch');
is((sqlstate_of($a, 'postgres', q{SELECT topics.offset_for_leader_epoch('t', 1)}))[0],
	'22023', 'a partition that is not there');
is((sqlstate_of($a, 'postgres', q{SELECT topics.offset_for_leader_epoch(NULL, 0)}))[0],
	'22004', 'no topic');
$a->safe_psql('postgres', 'CREATE ROLE stranger; GRANT USAGE ON SCHEMA topics TO stranger');
is( (   sqlstate_of(
			$a, 'postgres', q{SET ROLE stranger; SELECT topics.offset_for_leader_epoch('t', 0)})
	)[0],
	'42501',
	'no right to the topic');

# ----------------------------------------------------------------------
# A planned move truncates nothing
# ----------------------------------------------------------------------

$a->safe_psql('postgres',
	q{SELECT topics.create_cluster('a', $$} . $a->connstr('postgres') . '$$)');
$a->safe_psql('postgres', q{CALL topics.add_node('b', $$} . $b->connstr('postgres') . '$$)');
produce($a, qw(r3 r4));
is(epoch_end($a, 0), '0|3', 'what was there before the cluster is of epoch 0');
is(epoch_end($a), '1|5', '... and what came then of epoch 1');
is($a->safe_psql('postgres', 'SELECT DISTINCT epoch FROM topics.node'),
	'1', '... as topics.node says');
is(fetched($a, 3, 0), 'r3 r4', 'who has read in epoch 0 goes on in epoch 1');
is(fetched($a, 4, 0), 'TP010', '... but not from behind what there is of epoch 0');

my $reader = Session->new($a);
$reader->value('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($reader->value(q{SELECT topics.offset_for_leader_epoch('t', 0)}), '(1,5)', 'a snapshot');
$a->safe_psql('postgres', q{CALL topics.move_leader('b')});
produce($b, qw(r5));
ok(follows($a, $b), 'the leader moves');
is($reader->value(q{SELECT topics.offset_for_leader_epoch('t', 0)}),
	'(1,5)', '... and the snapshot sees what it saw');
is($reader->value(q{SELECT count(*) FROM topics.fetch('t', 0, 3, leader_epoch => 1)}),
	'2', '... and reads it');
$reader->value('COMMIT');

for my $node ($a, $b)
{
	my $name = 'on ' . $node->name;

	is(epoch_end($node, 1), '1|5', "an epoch that is over, $name");
	is(epoch_end($node), '2|6', "... and the one that goes on, $name");
	is(fetched($node, 5, 1), 'r5', "who has read all of epoch 1 goes on, $name");
	is(fetched($node, 6, 2), '', "who has read all waits, $name");
}

# ----------------------------------------------------------------------
# Records are lost that were read
# ----------------------------------------------------------------------

$b->safe_psql('postgres', 'SELECT topics.alter_cluster(acks_followers => 0)');
ok(follows($a, $b), 'followers are asynchronous');
kill_server($a);
produce($b, qw(lost6 lost7 lost8));
is(fetched($b, 6, 2), 'lost6 lost7 lost8', 'records that only the leader has are read');
kill_server($b);
$a->start;
$a->safe_psql('postgres', q{CALL topics.failover('b', allow_data_loss => true)});
is(fetched($a, 9, 2), 'TP010', 'on the new leader: their reader is told');
produce($a, qw(r6 r7 r8 r9));
is(fetched($a, 9, 2), 'TP010', '... also when there are others at these offsets');
is(fetched($a, 7, 2), 'TP010', '... who has read one of them too');
my ($state, $message) =
  sqlstate_of($a, 'postgres', q{SELECT * FROM topics.fetch('t', 0, 9, leader_epoch => 2)});
like(
	$message,
	qr/epoch 2 end at offset 6.*Go back to offset 6, with leader_epoch => 2/s,
	'... and hears where to go on');
is(fetched($a, 6, 2), 'r6 r7 r8 r9', '... where it gets the others');
is($a->safe_psql('postgres', q{SELECT string_agg(value, ' ') FROM topics.fetch('t', 0, 9)}),
	'r9', 'who tells no epoch is told nothing');
$reader = Session->new($a);
is($reader->value(q{SELECT topics.offset_for_leader_epoch('t', 0)}),
	'(65,10)', 'a session that knows the epochs');
$b->start;
ok(follows($b, $a), 'the node that led follows');
is(fetched($b, 9, 2), 'TP010', '... and tells their reader, too');
is(epoch_end($b, 2), '2|6', '... where it was truncated');
is($b->safe_psql('postgres', q{SELECT DISTINCT epoch FROM topics.truncated}),
	'2', '... in topics.truncated they have their epoch');

# Two nodes that lead without each other, each in epochs of its own
kill_server($a);
$b->safe_psql('postgres', q{CALL topics.failover('a', allow_data_loss => true)});
produce($b, qw(r10));
is(epoch_end($b), '66|11', 'b leads without a');
kill_server($b);
$a->start;
produce($a, qw(lost10 lost11));
is(epoch_end($a), '65|12', '... and a without b');
is(fetched($a, 11, 66), 'TP004', '... and b\'s reader is told that a knows nothing of that');
$reader = Session->new($a);
is($reader->value(q{SELECT topics.offset_for_leader_epoch('t', 0)}),
	'(65,12)', '... which a session has seen');
$b->start;
ok(follows($a, $b), 'the lower one gives way');
is($reader->value(q{SELECT topics.offset_for_leader_epoch('t', 0)}),
	'(66,11)', '... and the session sees that');

for my $node ($a, $b)
{
	my $name = 'on ' . $node->name;

	is(epoch_end($node), '66|11', "one epoch, $name");
	is(fetched($node, 11, 65), 'TP010', "the other one's reader is told, $name");
	is(fetched($node, 11, 66), '', "... and its own one goes on, $name");
}

# ----------------------------------------------------------------------
# A group that had consumed what is lost
# ----------------------------------------------------------------------

produce($b, qw(r11));
is( $b->safe_psql(
		'postgres', q{SELECT count(*) > 5 FROM topics.consume('g', 't', max_wait => '10 s')}),
	't',
	'a group');
ok(follows($a, $b), 'the follower has its offset');
my $locker = Session->new($a);
$locker->value('BEGIN');
$locker->value('LOCK topic.t IN ACCESS EXCLUSIVE MODE');
produce($b, qw(lost12 lost13));
is( $b->safe_psql(
		'postgres',
		q{SET pg_topics.acks = '1'; SELECT string_agg(value, ' ') FROM topics.consume('g', 't')}),
	'lost12 lost13',
	'it consumes records that only the leader has');
ok( $a->poll_query_until(
		'postgres',
		q{SELECT EXISTS (SELECT FROM topic."__consumer_offsets" WHERE value->>'offset' = '14')}),
	'... while the follower has the committed offset');
kill_server($b);
$locker->value('ROLLBACK');
$a->safe_psql('postgres', q{CALL topics.failover('b', allow_data_loss => true)});
produce($a, qw(r12 r13 r14));
($state, $message) = sqlstate_of($a, 'postgres', q{SELECT * FROM topics.consume('g', 't')});
is($state, 'TP010', 'on the new leader the group is told');
like($message, qr/log ended at offset 12.*offset 12 misses nothing/s, '... from where on');
is((sqlstate_of($a, 'postgres', q{SELECT * FROM topics.consume('g', 't')}))[0],
	'TP010', '... and again');
kill_server($a);
$a->start;
is((sqlstate_of($a, 'postgres', q{SELECT * FROM topics.consume('g', 't')}))[0],
	'TP010', '... also after a restart');
$a->safe_psql('postgres', q{SELECT topics.reset_offset('g', 't', 0, to_offset => 12)});
is($a->safe_psql('postgres', q{SELECT string_agg(value, ' ') FROM topics.consume('g', 't')}),
	'r12 r13 r14', '... until it says where it goes on');
$b->start;
ok(follows($b, $a), 'the node that led follows');
$a->safe_psql('postgres', q{CALL topics.move_leader('b')});
produce($b, qw(r15));
is( $b->safe_psql(
		'postgres',
		q{SELECT string_agg(value, ' ') FROM topics.consume('g', 't', max_wait => '1 min')}),
	'r15',
	'... and the group goes on there');

# ----------------------------------------------------------------------
# A reader that waits while another node comes to lead
# ----------------------------------------------------------------------

ok(follows($a, $b), 'both nodes have all');
my $epoch =
  $b->safe_psql('postgres', q{SELECT leader_epoch FROM topics.offset_for_leader_epoch('t', 0)});
my $waiter = Session->new($b);
$waiter->send(
	"SELECT value, (topics.offset_for_leader_epoch('t', 0)).leader_epoch FROM topics.fetch('t', 0, 16, max_wait => '30 s', leader_epoch => $epoch)"
);
$b->safe_psql('postgres', q{CALL topics.move_leader('a')});
produce($a, qw(r16));
my $waited = $waiter->receive;
is( "$waited->{sqlstate} @{ $waited->{rows} }",
	' ',
	'it gets no record of a later epoch than it is told');
is(fetched($b, 16, $epoch), 'r16', '... but the next time');

done_testing();
