# What the worker does for members of groups: one group that is busy, or fails, keeps no other up,
# and topics.worker tells who holds it up;
# topics that change while nothing is known of members are assigned all the same; members for
# whom shared memory has no room after a restart are gone, and no call fails for that.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;
use TopicState;

my $node = topics_node('node', conf => "pg_topics.max_members = 20\nlog_statement = none\n");

# Joins a group, and returns the member's id
sub join_group
{
	my ($group, $arguments) = @_;

	return $node->safe_psql('postgres',
		"SELECT member_id FROM topics.join_group('$group', $arguments)");
}

sub comes_to_be
{
	my ($query, $expected, $name) = @_;

	ok($node->poll_query_until('postgres', $query, $expected), $name);
}

sub members_of
{
	my ($group) = @_;

	return "SELECT count(*) FROM topics.group_member WHERE group_id = '$group'";
}

$node->safe_psql('postgres',
	q{SELECT topics.create_topic('t', 2); SELECT topics.create_topic('q1'); SELECT topics.create_topic('q2')}
);

# ----------------------------------------------------------------------
# Busy and failing groups
# ----------------------------------------------------------------------

# "aaa" comes first, and cannot take the topic that somebody is about to drop
my $first = join_group('aaa', "topic_pattern => 'q.*'");
my $dropper = Session->new($node);

$node->safe_psql('postgres', q{SELECT topics.create_topic('q3')});
comes_to_be("SELECT assignment ? 'q3' FROM topics.group_member WHERE group_id = 'aaa'",
	't', 'a new topic is assigned to a member with a pattern');
$node->safe_psql('postgres', q{SELECT topics.create_topic('q4', 2)});
$dropper->query('BEGIN');
$dropper->query("SELECT topics.drop_topic('q4')");
join_group('mmm', "'{t}', session_timeout => '1 s'");
my $busy = Session->new($node);
$busy->query('BEGIN');
$busy->query("SELECT topics.join_group('mmm', '{t}')");
join_group('zzz', "'{t}', session_timeout => '1 s'");
comes_to_be(members_of('zzz'), '0', 'a silent member of another group is removed meanwhile');
is($node->safe_psql('postgres', members_of('mmm')), '1', '... that of the busy one is not yet');
$busy->query('ROLLBACK');
comes_to_be(members_of('mmm'), '0', '... and is when it is not busy any more');
$dropper->query('COMMIT');
is($node->safe_psql('postgres', "SELECT topics.heartbeat('$first') > 0"),
	't', 'the first one lives');

# a busy group is not tried at each moment
$busy->query('BEGIN');
$busy->query("SELECT topics.join_group('aaa', topic_pattern => 'q.*')");
$node->safe_psql('postgres', q{SELECT topics.create_topic('q5')});
comes_to_be(
	"SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
	WHERE NOT l.granted AND a.backend_type LIKE 'pg_topics%'", '0', 'the worker does not wait for it');
comes_to_be(
	"SELECT count(*), min(message), min(hint), min(now() - failing_since) BETWEEN '5 s' AND '1 min'
	FROM topics.worker WHERE step = 'expire' AND sqlstate = '55P03' AND topic IS NULL",
	"1|a lock of process $busy->{pid} on consumer group \"aaa\" is in the way|It goes on when that transaction ends.|t",
	'... and topics.worker tells who is in the way');
$busy->query('ROLLBACK');
is($node->safe_psql('postgres', "SELECT count(*) FROM topics.worker WHERE step = 'expire'"),
	'0', '... until that has gone');
comes_to_be("SELECT assignment ? 'q5' FROM topics.group_member WHERE group_id = 'aaa'",
	't', '... and comes back to it');

# ----------------------------------------------------------------------
# Nothing is known of members
# ----------------------------------------------------------------------

$node->restart;
$node->safe_psql('postgres', q{SELECT topics.add_partitions('q1', 3)});
is($node->safe_psql('postgres', "SELECT topics.heartbeat('$first') > 0"),
	't', 'a member is there after a restart');
comes_to_be(
	"SELECT assignment -> 'q1' FROM topics.group_member WHERE group_id = 'aaa'",
	'[0, 1, 2]',
	'... and has partitions that were added before anybody called');
$node->safe_psql('postgres', "SELECT count(*) FROM topics.poll('$first')");
is( $node->safe_psql(
		'postgres', "SELECT count(*) FROM topics.assignment('$first') WHERE topic = 'q1'"),
	'3',
	'... which it gets by its next poll');

# ----------------------------------------------------------------------
# A topic that is dropped, and made anew
# ----------------------------------------------------------------------

$node->safe_psql(
	'postgres', q{
	CREATE ROLE reader;
	GRANT USAGE ON SCHEMA topics, topic TO reader;
	GRANT EXECUTE ON ALL ROUTINES IN SCHEMA topics TO reader;
	SELECT topics.create_topic('r');
	GRANT SELECT ON topic.r TO reader});
my $reader = $node->safe_psql('postgres',
	q{SET ROLE reader; SELECT member_id FROM topics.join_group('remade 1', '{r}')});
my $owner = join_group('remade 2', "'{r}'");
$node->safe_psql(
	'postgres', q{
	SELECT topics.produce('r', 'old');
	SELECT count(*) FROM topics.group_member m, topics.poll(m.member_id) WHERE group_id LIKE 'remade%';
	BEGIN; SELECT topics.drop_topic('r'); SELECT topics.create_topic('r', 2); COMMIT});
comes_to_be(
	"SELECT assignment -> 'r' FROM topics.group_member WHERE group_id = 'remade 2'",
	'[0, 1]',
	'a topic that is made anew is assigned to who had the one of its name');
is( $node->safe_psql(
		'postgres',
		"SELECT subscription, assignment FROM topics.group_member WHERE group_id = 'remade 1'"),
	'{}|{}',
	'... but not to a role that may not read it');
$node->safe_psql('postgres',
	q{GRANT SELECT ON topic.r TO reader; SELECT topics.create_topic('another')});
comes_to_be("SELECT assignment -> 'r' FROM topics.group_member WHERE group_id = 'remade 1'",
	'[0, 1]', '... before it may');
$node->safe_psql('postgres', q{SELECT topics.produce('r', 'new', partition => 0)});
is( $node->safe_psql(
		'postgres',
		qq{SELECT value FROM topics.poll('$reader'); SELECT value FROM topics.poll('$owner')}),
	"new\nnew",
	'... and what is in it comes');

# ----------------------------------------------------------------------
# No room
# ----------------------------------------------------------------------

$node->safe_psql('postgres', "SELECT topics.leave_group('$_')") for $reader, $owner;
my @many = map { join_group("many$_", "'{t}'") } 1 .. 19;
my ($state, $message) = sqlstate_of($node, 'postgres', q{SELECT topics.join_group('more', '{t}')});
is($state, '54000', 'when all places are taken nobody joins');
like($message, qr/HINT:.*pg_topics\.max_members/, '... and the error names the setting');
is((sqlstate_of($node, 'postgres', q{SELECT count(*) FROM topics.consume('claims', 't')}))[0],
	'00000', '... but who consumes by claims');
$node->safe_psql('postgres', "SELECT topics.leave_group('$many[0]')");
is((sqlstate_of($node, 'postgres', q{SELECT topics.join_group('more', '{t}')}))[0],
	'00000', 'a place that was left is taken');

$node->append_conf('postgresql.conf', 'pg_topics.max_members = 16');
$node->restart;
is((sqlstate_of($node, 'postgres', q{SELECT count(*) FROM topics.consume('claims', 't')}))[0],
	'00000', 'with less room than members, after a restart, calls work');
is( $node->safe_psql(
		'postgres', q{SELECT count(*) FROM topics.group_member WHERE last_poll IS NOT NULL}),
	'16',
	'... as many members are there as there is room for');
is( $node->safe_psql(
		'postgres', q{SELECT topics.remove_member(group_id, member_id) FROM topics.group_member
		WHERE last_poll IS NOT NULL LIMIT 1}),
	'',
	'... and one can be removed');
is((sqlstate_of($node, 'postgres', q{SELECT topics.join_group('yet', '{t}')}))[0],
	'00000', '... and another one join');
$node->stop;
done_testing();
