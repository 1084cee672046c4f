# A leader that has lost what a follower has: restored to an earlier state, or
# replaced by a standby that was behind.  The follower gets nothing of it,
# however much it writes, and keeps what it has.  A leader that was killed, or
# replaced by a standby that has all, is followed on.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::RecursiveCopy;
use PostgreSQL::Test::Utils;
use Test::More;
use File::Path qw(remove_tree);
use Session;
use TopicState;
use Topics;

my $a = topics_node(
	'a',
	init => { allows_streaming => 1 },
	conf => "pg_topics.worker_interval = '1 s'\npg_topics.acks_timeout = '2 s'\n");
my $b = topics_node('b', conf => "pg_topics.worker_interval = '1 s'\n");

sub produce
{
	my ($what, $count, $acks) = @_;

	$acks //= 'all';
	return $a->safe_psql('postgres',
		qq{SET pg_topics.acks = '$acks'; SELECT topics.produce('t', '$what ' || i) FROM generate_series(1, $count) i}
	);
}

sub records
{
	my ($node) = @_;

	return $node->safe_psql('postgres',
		q{SELECT count(*) || ' ' || md5(string_agg(value, ' ' ORDER BY "offset")) FROM topic.t});
}

sub epoch
{
	my ($node) = @_;

	return $node->safe_psql('postgres', 'SELECT epoch || epoch_id::text FROM topic_log.cluster');
}

# What b has of the leader, and its WAL, survives with its records.
sub check_followed
{
	my ($what) = @_;

	ok(wait_for_replica($b, $a), "$what: the follower goes on");
	is(records($b), records($a), '... with what the leader has');
	is(epoch($b), epoch($a), '... in its epoch');
	is( $b->safe_psql(
			'postgres', q{
			SELECT count(*) FROM pg_replication_origin_status WHERE external_id LIKE 'pg\_topics\_%' AND remote_lsn > '0/0'}
		),
		'1',
		'... and knows its place in the leader\'s WAL');
	return;
}

sub check_refused
{
	my ($what) = @_;
	my $before = records($b);
	my $from = -s $b->logfile;

	# by now the leader's log is the longer one
	produce($what, 100, 1);
	ok( poll_until(
			sub {
				$b->safe_psql('postgres',
					q{SELECT count(*) FROM topics.worker WHERE message ~ 'does not have any more'})
				  > 0;
			}),
		"$what: the follower stops, and says why");
	$b->restart;
	produce("$what, again", 100, 1);
	ok(poll_until(sub { slurp_file($b->logfile, $from) =~ /FENCED_LEADER_EPOCH/ }),
		'... also after its restart');
	is(records($b), $before, '... and has what it had');
	return;
}

sub save
{
	my ($node, $name) = @_;

	PostgreSQL::Test::RecursiveCopy::copypath($node->data_dir, $node->basedir . "/$name");
	return;
}

# The directory of a server that is stopped becomes what was saved.
sub restore
{
	my ($node, $saved) = @_;
	my $port = $node->port;

	remove_tree($node->data_dir);
	PostgreSQL::Test::RecursiveCopy::copypath($saved, $node->data_dir);
	chmod 0700, $node->data_dir;
	unlink $node->data_dir . '/postmaster.pid';
	$node->append_conf('postgresql.conf', "port = $port");
	return;
}

# b begins anew, with nothing
sub add_again
{
	$a->safe_psql('postgres', q{CALL topics.remove_node('b')});
	$b->safe_psql('postgres',
		q{SELECT topics.drop_topic(topic) FROM topics.topic WHERE topic NOT LIKE '\_\_%'});
	$a->safe_psql('postgres', q{CALL topics.add_node('b', $$} . $b->connstr('postgres') . '$$)');
	return check_followed('added again');
}

$a->safe_psql('postgres',
		q{SELECT topics.create_topic('t'); SELECT topics.create_cluster('a', $$}
	  . $a->connstr('postgres')
	  . '$$)');
is($a->safe_psql('postgres', 'SELECT epoch FROM topic_log.cluster'),
	'1', 'a cluster begins with epoch 1');
produce('first', 10);
$a->safe_psql('postgres', q{CALL topics.add_node('b', $$} . $b->connstr('postgres') . '$$)');
check_followed('at first');

# ----------------------------------------------------------------------
# An honest leader
# ----------------------------------------------------------------------

for my $round (1 .. 3)
{
	produce("round $round", 10);
	kill_server($round == 2 ? $b : $a);
	($round == 2            ? $b : $a)->start;
	produce("after round $round", 10);
	check_followed("killed, round $round");
}
is($a->safe_psql('postgres', 'SELECT epoch FROM topic_log.cluster'),
	'3', 'an epoch for each start that has written');
$a->restart;
$b->restart;
check_followed('restarted');
is($a->safe_psql('postgres', 'SELECT epoch FROM topic_log.cluster'),
	'3', 'none for one that has not');

# ----------------------------------------------------------------------
# A leader that is restored
# ----------------------------------------------------------------------

$a->stop;
save($a, 'saved');
$a->start;
produce('lost', 20);
check_followed('with more');
my $whole = records($b);

$a->stop;
restore($a, $a->basedir . '/saved');
$a->start;
ok( poll_until(
		sub {
			$b->safe_psql('postgres',
				q{SELECT count(*) FROM topics.worker WHERE message ~ 'does not have any more'}) > 0;
		}),
	'restored, and nothing written: the follower stops');
check_refused('restored');
is(records($b), $whole, '... with what was acknowledged');

# ----------------------------------------------------------------------
# A standby takes the leader's place
# ----------------------------------------------------------------------

sub promote_in_place_of_leader
{
	my ($saved) = @_;

	restore($a, $saved);
	$a->append_conf('postgresql.conf', "primary_conninfo = ''");
	$a->set_standby_mode;
	$a->start;
	$a->promote;
	return;
}

sub leads
{
	return $a->safe_psql('postgres', q{SELECT role = 'leader' FROM topics.node WHERE is_self});
}

add_again();
$a->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($a, 'backup', has_streaming => 1);
$standby->start;
produce('on both', 20);
$a->wait_for_catchup($standby);
$standby->stop;
ok(wait_for_replica($b, $a), 'the follower has what the standby has');
$a->stop;
promote_in_place_of_leader($standby->data_dir);
ok(poll_until(sub { leads() eq 't' }), 'a standby that has all is elected');
produce('of the promoted', 20);
check_followed('a standby that has all');

$a->stop;
save($a, 'behind');
$a->start;
produce('lost', 20);
check_followed('with more');
$whole = records($b);
$a->stop;
promote_in_place_of_leader($a->basedir . '/behind');
ok( poll_until(
		sub {
			$a->safe_psql('postgres',
				q{SELECT count(*) FROM topics.worker WHERE message ~ 'cannot lead' AND step = 'elect'}
			) > 0;
		}),
	'a standby that was behind is not elected, and says so');
is(leads(), 'f', '... and does not lead');
is((sqlstate_of($a, 'postgres', q{SELECT topics.produce('t', 'x')}))[0],
	'TP004', '... nor take records');
is(records($b), $whole, 'the follower has what was acknowledged');
my ($state, $message) = sqlstate_of($b, 'postgres', q{CALL topics.failover('a')});
is($state, 'TP009', '... and cannot lead by itself');
$b->safe_psql('postgres', q{CALL topics.failover('a', allow_data_loss => true)});
ok(poll_until(sub { records($a) eq $whole }),
	'... but if it is told to, the standby follows it, and heals');
$b->safe_psql('postgres', q{SELECT topics.produce('t', 'of b')});
ok(poll_until(sub { records($a) eq records($b) }), '... and both go on');
$whole = records($b);
$b->safe_psql('postgres', q{CALL topics.remove_node('a')});

# the follower leads what it has
$b->safe_psql('postgres', 'SELECT topic_log.leave_cluster()');
is(records($b), $whole, 'the follower can leave, and lead what it has');
ok( poll_until(
		sub { $b->safe_psql('postgres', q{SELECT count(*) FROM pg_replication_origin}) eq '0' }),
	'... without a trace of the leader');
$b->stop;
done_testing();
