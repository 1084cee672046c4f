# Members of consumer groups beyond one server: a standby shows who they are, and after
# its promotion they go on; in a cluster of nodes they go on at whichever node leads.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Leaders;
use Members;
use Session;
use Topics;

my $calls_of = sub {
	my ($member) = @_;

	return (
		poll_sql($member),
		wait_sql($member, '0'),
		commit_sql($member, 't:0', 2),
		"SELECT * FROM topics.assignment('$member->{id}')",
		"SELECT topics.remove_member('$member->{group}', '$member->{id}')",
		"SELECT topics.join_group('$member->{group}', '{t}')",
		(map { call_sql($_, $member) } qw(heartbeat leave_group)),
		(map { call_sql($_, $member, 't:0') } qw(seek pause resume)));
};

# ----------------------------------------------------------------------
# A standby
# ----------------------------------------------------------------------

my $primary = topics_node(
	'primary',
	init => { allows_streaming => 1 },
	conf => "pg_topics.worker_interval = '1h'\nautovacuum = off\n");
create_topics($primary, 't,u', 4, 3);
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

sub check_standby
{
	my ($test_name) = @_;

	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
	is(stored($standby, 'g'), stored($primary, 'g'), $test_name);
	return is(committed($standby, 'g'), committed($primary, 'g'), '... and committed offsets');
}

my $one = join_group($primary, 'g', q{'{t,u}', client_id => 'one', group_instance_id => 'i'});
is(poll($primary, $one) =~ tr/=//, 24, 'a member polls');
check_standby('a standby shows it');
is(commit($primary, $one, 't:0', 1), '', 'it commits');
my $two = join_group($primary, 'g', q{'{t,u}', client_id => 'two'});
poll($primary, $_) for $one, $two;
my $brief = join_group($primary, 'g', q{'{t}', client_id => 'brief', session_timeout => '1 s'});
ok( poll_until(sub { members($primary, 'g') eq 'one two' }),
	'another one comes, and a third one that goes');
poll($primary, $_) for $one, $two, $one, $two;
check_standby('... of which the standby hears');
is( $standby->safe_psql(
		'postgres',
		q{SELECT count(*) FROM topics.group_member WHERE last_heartbeat IS NULL AND last_poll IS NULL}
	),
	'2',
	'... but not when they called');
is(answer($standby, $_), '25006', 'refused there: ' . substr $_, 0, 50) for $calls_of->($one);
check_standby('a standby goes on');
my $before = stored($primary, 'g');
my ($of_one) = has($primary, $one) =~ /^(t:\d)/;
my ($of_two) = has($primary, $two) =~ /(u:\d)/;
is(commit($primary, $two, $of_two, 2), '', 'a member commits');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
$primary->stop;
$standby->promote;
is(stored($standby, 'g'), $before, 'a promotion finds the same members');
is(answer($standby, call_sql('heartbeat', $one)) =~ /^\d+$/, 1, '... they go on');
is(commit($standby, $one, $of_one, 2), '', '... and commit in the generation from before');
is(commit($standby, $one, $of_two, 2), 'TP002', '... but not what is another one\'s');
like(poll($standby, $two), qr/(?<!\S)\Q$of_two\E=2/, '... poll on from committed offsets');
unlike(poll($standby, $one), qr/\Q$of_one\E=[01]/, '... each of them');
ok( is( answer(
			$standby, q{SELECT count(*) FROM topics.group_member WHERE last_heartbeat < '20 min'}),
		'2',
		'... whose time begins anew'));
join_group($standby, 'g', q{'{t}', client_id => 'brief', session_timeout => '1 s'});
ok(poll_until(sub { members($standby, 'g') eq 'one two' }), '... and who is silent is removed');
is(answer($standby, call_sql('leave_group', $one)), '', '... one leaves');
poll($standby, $two);
is(has($standby, $two) =~ tr/:/:/, 8, '... and the other one has all');
$standby->stop;

# ----------------------------------------------------------------------
# A cluster of nodes
# ----------------------------------------------------------------------

my ($a, $b, $c) = make_cluster(
	points => 1,
	conf =>
	  "pg_topics.worker_interval = '1 s'\npg_topics.automatic_failover = off\npg_topics.node_timeout = '1 s'\npg_topics.acks_timeout = '20 s'\npg_topics.acks = 'all'\n"
);
$a->safe_psql('postgres',
	q{SELECT count(topics.produce('t', 'v' || i, partition => i % 3)) FROM generate_series(0, 11) i}
);

# A static member of group g, and one that is not, each with some of topic t
my $static = join_group($a, 'g', q{'{t}', client_id => 'static', group_instance_id => 'i'});
poll($a, $static);
is(commit($a, $static, "t:$_", 1), '', "an offset is committed in partition $_") for 0 .. 2;
my $other = join_group($a, 'g', q{'{t}', client_id => 'other'});
poll($a, $static);
poll($a, $other);
my %places = map { $_->{id} => [ has($a, $_) =~ /t:\d/g ] } $static, $other;
is(@{ $places{ $static->{id} } } + @{ $places{ $other->{id} } },
	3, 'two members have all partitions');
my $stored = stored($a, 'g');
my $committed = 1;

# Where a node leads by now the members are there, and go on
sub check_leader
{
	my ($where, $test_name, @others) = @_;
	my $name = $where->name;

	is(stored($where, 'g'), $stored, "$test_name: members, generation and assignment are the same");
	for my $member ($static, $other)
	{
		my @mine = @{ $places{ $member->{id} } };

		is( poll($where, $member),
			join(
				' ',
				map {
					my $place = $_;
					map { "$place=$_" } $committed .. 3
				} @mine),
			"... a member polls on $name from the committed offset");
		is(commit($where, $member, $_, $committed + 1), '', "... and commits in $_") for @mine;
	}
	is(commit($where, $static, $places{ $other->{id} }[0], $committed + 1),
		'TP002', '... but not what is another one\'s');
	$committed++;
	for my $follower (@others)
	{
		is(answer($follower, $_), 'TP004', $follower->name . ' refuses ' . substr $_, 0, 50)
		  for $calls_of->($static);
		ok(poll_until(sub { committed($follower, 'g') eq committed($where, 'g') }),
			'... and shows what is committed');
	}
	return;
}

is(poll($a, $_), '', 'all was polled') for $static, $other;
my $session = Session->new($a);
$session->value('BEGIN; ' . commit_sql($static, $places{ $static->{id} }[0], 4));
my $waiter = Session->new($a);
$waiter->send(wait_sql($other, '1 h'));
my $observer = Session->new($a);
ok(poll_until(sub { is_waiting($observer, $waiter) }), 'a member waits on the leader');
$a->safe_psql('postgres', q{CALL topics.move_leader('b')});
check_leader($b, 'after a move', $a, $c);
like($session->query('COMMIT')->{sqlstate},
	qr/^(40001|TP004)$/, 'who has committed on the old leader does not');
is($waiter->receive->{sqlstate}, 'TP004', '... and who waits there is told');
is(committed($b, 'g'), 't:0=2 t:1=2 t:2=2', '... nothing is committed of it');

ok(poll_until(sub { committed($c, 'g') eq committed($b, 'g') }), 'others have what is committed');
$b->stop('immediate');
$c->safe_psql('postgres', q{CALL topics.failover('b')});
check_leader($c, 'after a failover');
$b->start;
check_same($c, 'the lost node comes back', $a, $b);
is(answer($b, poll_sql($static)), 'TP004', '... and refuses members');
is( answer(
		$c,
		q{SELECT count(*) FROM topics.group_member WHERE last_heartbeat < '20 min' AND group_id = 'g'}
	),
	'2',
	'their time begins anew');
join_group($c, 'g', q{'{t}', client_id => 'brief', session_timeout => '1 s'});
ok( poll_until(sub { members($c, 'g') eq 'other static' }),
	'who is silent is removed by the new leader');
poll($c, $_) for $static, $other, $static;
$static = join_group($c, 'g', q{'{t}', client_id => 'static', group_instance_id => 'i'});
is( poll($c, $static),
	join(' ', map { "$_=3" } has($c, $static) =~ /t:\d/g),
	'a static member comes anew');
is(answer($c, call_sql('leave_group', $other)), '', '... the other one leaves');
poll($c, $static);
is(has($c, $static), 't:0 t:1 t:2', '... and it has all');
$stored = stored($c, 'g');
$c->safe_psql('postgres', q{CALL topics.move_leader('a')});
is(stored($a, 'g'), $stored, 'back on the first node it is the same');
is(poll($a, $static), 't:0=3 t:1=3 t:2=3', '... where the member goes on');
is(answer($c, commit_sql($static, 't:0', 4)), 'TP004', '... and not on the one before');

# Who has looked whether members are known, before they are forgotten, and known again
$a->safe_psql('postgres', q{CALL topics.move_leader('b')});
$b->safe_psql('postgres', q{SELECT * FROM topics.group_member});
my $caller = Session->new($b);
stop_at($b, 'member-called');
$caller->send(poll_sql($static));
is(wait_until_at($b, 'member-called'), $caller->{pid}, 'a member calls on the leader');
$b->safe_psql('postgres', q{CALL topics.move_leader('a')});
$a->safe_psql('postgres', q{CALL topics.move_leader('b')});
go_on_from($b, 'member-called');
is($caller->receive->{sqlstate},
	'40001', '... which another one was in between: the call can be tried again');
is(poll($b, $static), 't:0=3 t:1=3 t:2=3', '... it is known');

$_->stop for $a, $b, $c;
unlike(
	slurp_file($_->logfile),
	qr/PANIC|TRAP|was terminated by signal (?!9)/,
	'nothing has crashed on ' . $_->name) for $primary, $standby, $a, $b, $c;
done_testing();
