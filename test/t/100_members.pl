# Members of consumer groups, on one server: who is silent is removed, who waits is
# woken, who has lost a partition commits nothing; what a restart and the clock leave; rights,
# bounds, dump and restore.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Members;
use Session;
use Topics;
use TopicState;

my $node = topics_node(
	'main',
	points => 1,
	conf => q{
autovacuum = off
restart_after_crash = on
pg_topics.worker_interval = '1h'
});
my ($observer, $first, $second, $third);

# Sessions, also anew when the server was restarted
sub connect_all
{
	($observer, $first, $second, $third) = map { Session->new($node) } 1 .. 4;
	return;
}
connect_all();

# The server begins anew since a process was killed: then sessions from before are lost
sub await_restart
{
	my ($where, $session) = @_;

	poll_until(sub { $session->query('SELECT 1')->{lost} }) or die 'the server does not go down';
	poll_until(sub { Session->new($where) }) or die 'the server does not come back';
	return;
}

# A session begins a statement that sleeps
sub begin_to_wait
{
	my ($session, $sql, $test_name) = @_;

	$session->send($sql);
	return ok(poll_until(sub { is_waiting($observer, $session) }), $test_name);
}

# ----------------------------------------------------------------------
# Members that are silent
# ----------------------------------------------------------------------

create_topics($node, 't,f', 6, 3);
create_topics($node, 'empty', 1, 0);
my $waits = join_group($node, 'waits',
	q{'{empty}', client_id => 'waits', session_timeout => '3 s', max_poll_interval => '3 s'});
is(poll($node, $waits), '', 'a member has nothing to poll');
begin_to_wait($second, wait_sql($waits, '1 h'), '... and waits');
# which is removed later than it would be
my $later = join_group($node, 'later', q{'{empty}', session_timeout => '4 s'});

my $stays = join_group($node, 'silent', q{'{t}', client_id => 'stays'});
is(poll($node, $stays) =~ tr/=//, 18, 'the only member polls all');
join_group($node, 'silent', q{'{t}', client_id => 'silent', session_timeout => '2 s'});
my $beats = join_group($node, 'silent', q{'{t}', client_id => 'beats', max_poll_interval => '2 s'});
like(members($node, 'silent'), qr/stays/, 'two have joined');
is(poll($node, $stays), '', '... for which it gives up partitions');
is(has($node, $stays) =~ tr/:/:/, 2, '... and keeps some');
begin_to_wait($first, wait_sql($stays, '1 h'), '... and waits');
my ($heard, $beaten) = ('', 0);
ok( poll_until(
		sub {
			$heard = answer($node, call_sql('heartbeat', $beats));
			$beaten++ if $heard =~ /^\d+$/;
			return $heard eq 'TP003' && members($node, 'silent') eq 'stays';
		}),
	'who is silent is removed, and who beats and does not poll');
is($first->receive->{sqlstate}, '', '... which wakes the other one');
like(poll($node, $stays), qr/^(t:\d=\d ?){12}$/, '... that polls what they had');
is(has($node, $stays) =~ tr/:/:/, 6, '... and has all');
like(
	slurp_file($node->logfile),
	qr/1 of [23] members of consumer group "silent" have gone: they have not called in time/,
	'... the log says so');

ok(poll_until(sub { members($node, 'later') eq '' }), 'another one is removed after 4 s');
is(members($node, 'waits'), 'waits', '... but not the one that waits, after 3');
ok(is_waiting($observer, $second), '... and it waits');
$node->safe_psql('postgres', q{SELECT topics.produce('empty', 'x')});
is($second->receive->{sqlstate}, '', '... until there is a record');
is(poll($node, $waits), 'empty:0=0', '... that it polls');
is( answer(
		$node, q{SELECT count(*) FROM topics.consumer_group WHERE group_id IN ('later', 'waits')}),
	'1',
	'a group that has committed nothing goes with its last member');

# The worker ends on its way to remove one
for my $how ('terminated', 'killed')
{
	my $group = "worker $how";
	my $stays = join_group($node, $group, q{'{t}', client_id => 'stays'});

	poll($node, $stays);
	stop_at($node, 'round-begins');
	join_group($node, $group, q{'{t}', client_id => 'silent', session_timeout => '100 ms'});
	my $worker = wait_until_at($node, 'round-begins');
	is( $observer->value("SELECT backend_type FROM pg_stat_activity WHERE pid = $worker"),
		'pg_topics worker',
		'the worker comes for a member');
	$observer->value("SELECT pg_terminate_backend($worker)") if $how eq 'terminated';
	kill 'KILL', $worker if $how eq 'killed';
	go_on_from($node, 'round-begins');
	await_restart($node, $observer) if $how eq 'killed';
	ok(poll_until(sub { members($node, $group) eq 'stays' }),
		"... and is $how: another one removes it");
	ok(poll_until(sub { !is_running($worker) }), '... and not the same');
	like(poll($node, $stays), qr/^(t:\d=\d ?)*$/, '... who stays goes on');
	is(has($node, $stays) =~ tr/:/:/, 6, '... and has all');
}
connect_all();

# ----------------------------------------------------------------------
# Members that wait
# ----------------------------------------------------------------------

create_topics($node, 'w1,w2,w3', 2, 0);
my $one = join_group($node, 'wait', q{'{w1,w2,w3}', client_id => 'one'});
is(poll($node, $one), '', 'a member has nothing to poll');
for my $topic (qw(w2 w1 w3))
{
	begin_to_wait($first, wait_sql($one, '1 h'), 'it waits');
	$node->safe_psql('postgres', "SELECT topics.produce('$topic', 'x', partition => 1)");
	is($first->receive->{sqlstate}, '', "... and is woken by a record of $topic");
	is(poll($node, $one), "$topic:1=0", '... that it polls');
}
begin_to_wait($first, poll_sql($one, q{max_wait => '1 min'}), 'it polls, and waits');
$node->safe_psql('postgres', q{SELECT topics.produce('w2', 'x', partition => 0)});
is($first->receive->{rows}[0], 'w2:0=0', '... for the next record');
$node->safe_psql('postgres', q{SELECT topics.produce('w2', 'x', partition => 0)});
is($first->query(wait_sql($one, '1 h'))->{sqlstate}, '', 'who has something to poll does not wait');
is($first->query(wait_sql($one, '0'))->{sqlstate}, '', '... nor who is given no time');
is(poll($node, $one), 'w2:0=1', '... it polls that');

begin_to_wait($first, wait_sql($one, '1 h'), 'it waits');
is(answer($node, call_sql('seek', $one, 'w1:1', 0)), '', '... another session seeks');
is($first->receive->{sqlstate}, '', '... which wakes it');
is(poll($node, $one), 'w1:1=0', '... and it polls again');

is(answer($node, call_sql('pause', $one, "w1:$_")), '', "partition $_ is paused") for 0, 1;
begin_to_wait($first, wait_sql($one, '1 h'), '... and it waits');
my $other =
  join_group($node, 'other', q{'{w1}', client_id => 'other', auto_offset_reset => 'latest'});
is(poll($node, $other), '', '... as does one of another group');
begin_to_wait($second, wait_sql($other, '1 h'), '... in another session');
$node->safe_psql('postgres', q{SELECT topics.produce('w1', 'x', partition => 0)});
is($second->receive->{sqlstate}, '', '... which a record wakes');
is(poll($node, $other), 'w1:0=0', '... that it polls');
ok(is_waiting($observer, $first), '... but not the one that has paused the partition');
is(poll($node, $one), '', '... and polls nothing there');
is(answer($node, call_sql('resume', $one, 'w1:0')), '', '... the partition is resumed');
is($first->receive->{sqlstate}, '', '... which wakes it');
is(poll($node, $one), 'w1:0=0', '... and it polls');
is(has($node, $one, q{CASE WHEN paused THEN topic || ':' || partition END}),
	'w1:1', '... the other one is paused still');

my $two = join_group($node, 'wait', q{'{w1,w2,w3}', client_id => 'two'});
is(poll($node, $two), '', 'a second member has nothing yet');
begin_to_wait($second, poll_sql($two, q{max_wait => '1 min'}), '... it polls, and waits');
is(poll($node, $one), '', '... for the first one, which polls');
like($second->receive->{rows}[0], qr/^w1:[01]=0/, '... and gets what that gave up');
begin_to_wait($first, wait_sql($one, '1 h'), 'both wait');
begin_to_wait($second, wait_sql($two, '1 h'), '... the other one too');
is(answer($node, "SELECT topics.remove_member('wait', '$one->{id}')"), '', '... one is removed');
is($first->receive->{sqlstate}, 'TP003', '... and told so');
is($second->receive->{sqlstate}, '', '... and the other one is woken');

my $static = join_group($node, 'static', q{'{w1}', group_instance_id => 'i'});
poll($node, $static);
begin_to_wait($first, wait_sql($static, '1 h'), 'a static member waits');
my $successor = join_group($node, 'static', q{'{w1}', group_instance_id => 'i'});
is($first->receive->{sqlstate}, 'TP012', '... and is told when another one takes its place');
is($successor->{generation}, $static->{generation}, '... in the same generation');
like(poll($node, $successor), qr/^w1:0=0 w1:1=0$/, '... which goes on from what was committed');

is(answer($node, 'BEGIN; ' . wait_sql($two, '1 h')),
	'25001', 'to wait in a transaction is refused');
is( $first->query(
			'BEGIN ISOLATION LEVEL REPEATABLE READ; '
		  . poll_sql($two) . '; '
		  . poll_sql($two, q{max_wait => '1 min'}))->{sqlstate},
	'',
	'with a snapshot nobody waits');
$first->query('ROLLBACK');
is(answer($node, 'BEGIN READ ONLY; ' . poll_sql($two)), '25006', 'to poll is to write');

# ----------------------------------------------------------------------
# Fencing
# ----------------------------------------------------------------------

$node->safe_psql('postgres', 'CREATE TABLE work (who text)');

sub work
{
	return $node->safe_psql('postgres', q{SELECT coalesce(string_agg(who, ' '), '') FROM work});
}

# A member that works on all that it has polled, in a transaction of the first session
sub begin_work
{
	my ($member, @commits) = @_;
	my $done = $first->query(
		join '; ', 'BEGIN',
		'INSERT INTO work VALUES (\'done\')',
		map { commit_sql($member, @$_) } @commits);

	return is($done->{sqlstate}, '', 'a transaction works, and commits offsets');
}

sub nothing_done
{
	my ($test_name) = @_;

	is($first->query('COMMIT')->{sqlstate}, 'TP002', $test_name);
	return is(work(), '', '... and of its work nothing is stored');
}

# Removed meanwhile
create_topics($node, 'two', 2, 4);
my $a = join_group($node, 'removed', q{'{two}'});
like(poll($node, $a), qr/^(two:\d=\d ?){8}$/, 'a member polls');
is(commit($node, $a, 'two:0', 2), '', '... and commits an offset');
begin_work($a, [ 'two:0', 4 ], [ 'two:1', 4 ]);
is(answer($node, "SELECT topics.remove_member('removed', '$a->{id}')"), '', '... it is removed');
my $b = join_group($node, 'removed', q{'{two}'});
is( poll($node, $b),
	'two:0=2 two:0=3 two:1=0 two:1=1 two:1=2 two:1=3',
	'... another one begins at what was committed');
nothing_done('... the commit fails');
is(committed($node, 'removed'), 'two:0=2', '... and no offset');
is(commit($node, $b, 'two:0', 4), '', '... the other one commits');

# Given up meanwhile, in another session
for my $case ('given up', 'kept', 'in a savepoint', 'not given up')
{
	my $group = "fenced: $case";
	my $a = join_group($node, $group, q{'{two}'});

	poll($node, $a);
	commit($node, $a, "two:$_", 1) for 0, 1;
	my $b = join_group($node, $group, q{'{two}'});
	# what it will keep is known by the group's record, before it polls
	my $kept = answer($node,
		"SELECT (assignment->'two'->>0) FROM topics.group_member WHERE member_id = '$a->{id}'");
	my $given_up = 1 - $kept;
	begin_work($a, [ "two:$kept", 4 ]);
	$first->query('SAVEPOINT s') if $case eq 'in a savepoint';
	$first->value(commit_sql($a, "two:$given_up", 4)) if $case ne 'kept';
	$first->query('ROLLBACK TO s') if $case eq 'in a savepoint';
	poll($node, $a) if $case ne 'not given up';
	is( poll($node, $b),
		$case eq 'not given up' ? '' : join(' ', map { "two:$given_up=$_" } 1 .. 3),
		"$case: another member polls");

	if ($case eq 'given up')
	{
		nothing_done('... the commit fails');
		is(committed($node, $group), 'two:0=1 two:1=1', '... and no offset');
		is(answer($node, call_sql('seek', $a, "two:$kept")), '', '... it goes back in what it has');
		is(poll($node, $a), join(' ', map { "two:$kept=$_" } 1 .. 3), '... and polls that again');
		next;
	}
	is($first->query('COMMIT')->{sqlstate}, '', '... the commit succeeds');
	is(work(), 'done', '... with its work');
	$node->safe_psql('postgres', 'TRUNCATE work');
	is( committed($node, $group),
		join(' ', map { "two:$_=" . ($_ == $kept || $case eq 'not given up' ? 4 : 1) } 0, 1),
		'... and its offsets');
	next if $case ne 'not given up';
	poll($node, $a);
	is(poll($node, $b), '', '... the other one begins there, when it has the partition');
	is(has($node, $b), "two:$given_up", '... which it has');
}

# A commit that has its append locks: who takes the partition waits for it
$a = join_group($node, 'in time', q{'{two}'});
poll($node, $a);
commit($node, $a, 'two:0', 1);
begin_work($a, map { [ "two:$_", 3 ] } 0, 1);
stop_at($node, 'append-locked');
$first->send('COMMIT');
is(wait_until_at($node, 'append-locked'), $first->{pid}, 'a commit has its append locks');
begin_to_wait(
	$second,
	"SELECT topics.remove_member('in time', '$a->{id}')",
	'... who removes the member waits');
go_on_from($node, 'append-locked');
is($first->receive->{sqlstate}, '', '... the commit is in time');
is($second->receive->{sqlstate}, '', '... and then the member is removed');
$b = join_group($node, 'in time', q{'{two}'});
is(poll($node, $b), 'two:0=3 two:1=3', '... another one begins behind it');
is(work(), 'done', '... the work is stored');
$node->safe_psql('postgres', 'TRUNCATE work');

# A commit that waits for its append locks, with who takes the partition: either is first
for my $order ('commit first', 'removed first')
{
	my $holds = join_group($node, $order, q{'{w1}'});

	poll($node, $holds);
	my $a = join_group($node, $order, q{'{two}'});
	poll($node, $a);
	commit($node, $a, 'two:0', 1);
	begin_work($a, map { [ "two:$_", 3 ] } 0, 1);
	stop_at($node, 'append-locked');
	$third->send(commit_sql($holds, 'w1:0', 0));
	is(wait_until_at($node, 'append-locked'), $third->{pid}, 'another member has the append lock');
	my @steps =
	  ([ $first, 'COMMIT' ], [ $second, "SELECT topics.remove_member('$order', '$a->{id}')" ]);
	begin_to_wait(@$_, "$order: it is waited for")
	  for $order eq 'commit first' ? @steps : reverse @steps;
	go_on_from($node, 'append-locked');
	is($third->receive->{sqlstate}, '', '... it commits');
	my $end = $first->receive->{sqlstate};
	is($second->receive->{sqlstate}, '', '... the member is removed');
	like($end, qr/^(TP002)?$/, '... and commits before, or not');
	is(work(), $end eq '' ? 'done' : '', '... its work is stored, or not');
	is( committed($node, $order),
		($end eq '' ? 'two:0=3 two:1=3' : 'two:0=1') . ' w1:0=0',
		'... and its offsets');
	my $b = join_group($node, $order, q{'{two}'});
	is( poll($node, $b),
		$end eq '' ? 'two:0=3 two:1=3' : 'two:0=1 two:0=2 two:0=3 two:1=0 two:1=1 two:1=2 two:1=3',
		'... another one begins behind them');
	$node->safe_psql('postgres', 'TRUNCATE work');
}

# A poll in the middle of which the member is removed
$a = join_group($node, 'polling', q{'{two}'});
stop_at($node, 'place-polled');
$first->send(poll_sql($a));
is(wait_until_at($node, 'place-polled'), $first->{pid}, 'a member polls');
like(answer($node, call_sql('heartbeat', $a)), qr/^\d+$/, '... and beats in another session');
$second->send(poll_sql($a));
ok( poll_until(
		sub {
			$observer->value(
				"SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $second->{pid}")
			  eq 't';
		}),
	'... where another poll waits for it');
is(answer($node, "SELECT topics.remove_member('polling', '$a->{id}')"), '', '... it is removed');
$b = join_group($node, 'polling', q{'{two}'});
go_on_from($node, 'place-polled');
is($_->receive->{sqlstate}, 'TP003', '... the poll fails') for $first, $second;
is(poll($node, $b) =~ tr/=//, 8, '... and another one polls all');
stop_at($node, 'place-polled');
$node->safe_psql('postgres', q{SELECT topics.produce('two', 'x', partition => 0)});
$first->send(poll_sql($b));
wait_until_at($node, 'place-polled');
$observer->value("SELECT pg_terminate_backend($first->{pid})");
go_on_from($node, 'place-polled');
ok($first->receive->{lost}, 'a poll that is terminated');
is(poll($node, $b), 'two:0=4', '... has moved nothing, and is in nobody\'s way');
connect_all();

# The same transaction commits, and leaves
$a = join_group($node, 'leaves', q{'{two}'});
poll($node, $a);
is( answer(
		$node,
		join('; ', 'BEGIN', commit_sql($a, 'two:0', 3), call_sql('leave_group', $a), 'COMMIT')),
	"\n",
	'a member leaves in the transaction that commits its offset');
is(committed($node, 'leaves'), 'two:0=3', '... which is stored');
is(members($node, 'leaves'), '', '... and has left');

# ----------------------------------------------------------------------
# Cooperative
# ----------------------------------------------------------------------

$a = join_group($node, 'cooperative', q{'{f}', assignor => 'cooperative-sticky'});
is(poll($node, $a, 'max_records => 6') =~ tr/=//, 6, 'a member has polled some');
my $positions = has($node, $a, q{partition || '@' || coalesce(position::text, '')});
$b = join_group($node, 'cooperative', q{'{f}', assignor => 'cooperative-sticky'});
is(poll($node, $b), '', 'another one that joins has nothing yet');
is(has($node, $a, q{partition || '@' || coalesce(position::text, '')}),
	$positions, '... what the first one has it has until it polls');
is(answer($node, q{SELECT state FROM topics.consumer_group WHERE group_id = 'cooperative'}),
	'PreparingRebalance', '... the group is in a rebalance');
begin_to_wait($second, wait_sql($b, '1 h'), '... and the other one waits');
my $polled = poll($node, $a);
my %kept = map { /:(\d)/ ? ($1 => 1) : () } split / /, has($node, $a);
is(scalar keys %kept, 3, '... as the first one polls it keeps half');
is( $polled,
	join(
		' ',
		map {
			my ($partition, $at) = /(\d+)@(\d*)/;
			map { "f:$partition=$_" } $kept{$partition} ? ($at || 0) .. 2 : ();
		} split / /,
		$positions),
	'... where it goes on');
is($second->receive->{sqlstate}, '', '... and the other one is woken');
is( poll($node, $b),
	join(
		' ',
		map {
			my $partition = $_;
			map { "f:$partition=$_" } 0 .. 2
		} grep { !$kept{$_} } 0 .. 5),
	'... and begins in the other half');
is(commit($node, $a, "f:$_", 3),
	'', 'who keeps a partition commits in the generation that it had there')
  for sort keys %kept;
is(commit($node, $a, 'f:' . (grep { !$kept{$_} } 0 .. 5)[0], 3),
	'TP002', '... but not in what it had');
is(answer($node, q{SELECT state FROM topics.consumer_group WHERE group_id = 'cooperative'}),
	'Stable', '... the group is settled');

# ----------------------------------------------------------------------
# Restarts
# ----------------------------------------------------------------------

# Has the committed offsets be read from the log once more: somebody else has written to it
sub read_again
{
	my ($where) = @_;

	$where->safe_psql(
		'postgres', q{
		SELECT format('INSERT INTO topic_log.%I ("offset", "timestamp", partition, key, value) VALUES (%s, now(), 0, %L, %L)',
			(SELECT relname FROM pg_class WHERE relname LIKE format('t%s\_p0\_s%%', topic_id) AND relkind = 'r' ORDER BY oid DESC LIMIT 1),
			log_end_offset, '0/0/nobody', '{"offset": 0}')
		FROM topics.partition JOIN topics.topic USING (topic) WHERE topic = '__consumer_offsets' AND partition = 0
		\gexec});
}

my $positions_of = q{partition || '@' || coalesce(position::text, '-')};
for my $how ('fast', 'immediate', 'kill -9')
{
	my $group = "restart: $how";
	my $a = join_group($node, $group, q{'{f}', client_id => 'a', group_instance_id => 'i'});

	poll($node, $a);
	commit($node, $a, "f:$_", 1) for 0 .. 5;
	my $b = join_group($node, $group, q{'{f}', client_id => 'b'});
	poll($node, $_) for $a, $b;
	my $brief = join_group($node, "$group, brief", q{'{f}', session_timeout => '2 s'});
	my $before = stored($node, $group);
	my ($of_a) = has($node, $a) =~ /^f:(\d)/;
	my ($of_b) = has($node, $b) =~ /^f:(\d)/;
	is(poll($node, $b), '', "$how: all was polled");
	is(commit($node, $b, "f:$of_b", 2), '', '... and some of it committed');
	# has targets, and no partitions
	my $pending = "$group, pending";
	my ($giver, $taker) = (join_group($node, $pending, q{'{two}'}));
	poll($node, $giver);
	commit($node, $giver, "two:$_", 1) for 0, 1;
	$taker = join_group($node, $pending, q{'{two}'});
	is(has($node, $taker), '', '... one waits for what another one has');

	if ($how eq 'kill -9')
	{
		kill_server($node);
		$node->start;
	}
	else
	{
		$node->stop($how);
		$node->start;
	}
	connect_all();
	is(stored($node, $group),
		$before, '... a restart: members, generation and assignment are the same');
	is( answer(
			$node,
			"SELECT count(*) FROM topics.group_member WHERE group_id = '$group' AND last_heartbeat < '20 min' AND last_poll < '20 min'"
		),
		'2',
		'... as if each had just called');
	is(answer($node, call_sql('heartbeat', $b)), $b->{generation}, '... they go on');
	is(commit($node, $a, "f:$of_a", 2), '', '... commit in the generation from before');
	is(commit($node, $b, "f:$of_a", 3), 'TP002', '... but not what is another one\'s');
	for my $member ($a, $b)
	{
		is( poll($node, $member),
			join(
				' ',
				map {
					my $one = $_;
					map { "f:$one=$_" } ($one == $of_a || $one == $of_b ? 2 : 1) .. 2
				} has($node, $member, 'partition::text') =~ /\d/g),
			'... and poll on from the committed offset');
	}
	my ($taken) = has($node, $taker) =~ /:(\d)/;
	is( poll($node, $taker),
		join(' ', map { "two:$taken=$_" } 1 .. 4),
		'... who has waited begins there') if $taken == 0;
	is( poll($node, $taker),
		join(' ', map { "two:$taken=$_" } 1 .. 3),
		'... who has waited begins there') if $taken == 1;
	is(commit($node, $giver, "two:$taken", 2), 'TP002', '... and the former one is fenced there');
	is(commit($node, $giver, 'two:' . (1 - $taken), 2), '', '... and not in what it has kept');
	ok( poll_until(sub { members($node, "$group, brief") eq '' }),
		'... who does not call after the restart is removed');
	is(members($node, $group), 'a b', '... but not the others');
	read_again($node);
	is(answer($node, call_sql('leave_group', $a)), '', '... one leaves');
	cmp_ok(
		answer($node, call_sql('heartbeat', $b)),
		'>=',
		$b->{generation} + 100,
		'... with a generation that none can have had that is lost, also where the log was read twice'
	);
	like(poll($node, $b), qr/^(f:\d=[12] ?)*$/, '... and another one polls');
	is(has($node, $b) =~ tr/:/:/, 6, '... and has all');
}

# ----------------------------------------------------------------------
# Rights
# ----------------------------------------------------------------------

create_topics($node, 'open1,open2,closed', 2, 1);
$node->safe_psql(
	'postgres', q{
	SELECT topics.create_roles();
	CREATE ROLE team;
	CREATE ROLE alice LOGIN IN ROLE team;
	CREATE ROLE bob LOGIN IN ROLE team;
	CREATE ROLE carol LOGIN;
	CREATE ROLE admin LOGIN IN ROLE topics_admin;
	GRANT USAGE ON SCHEMA topics, topic TO team, carol;
	GRANT EXECUTE ON ALL ROUTINES IN SCHEMA topics TO team, carol;
	GRANT SELECT ON ALL TABLES IN SCHEMA topics TO team, carol;
	GRANT SELECT ON topic.open1, topic.open2 TO team, carol});

sub answer_as
{
	my ($role, $statement) = @_;

	return answer($node, "SET ROLE $role; $statement");
}

sub join_as
{
	my ($role, $group, $arguments) = @_;
	my ($id, $generation) = split /\|/,
	  answer_as($role,
		"SELECT * FROM topics.join_group('$group', $arguments, session_timeout => '30 min')");

	return { group => $group, id => $id, generation => $generation };
}

my $of_alice = join_as('alice', 'of alice', q{topic_pattern => '(open|closed).*'});
is( answer_as('alice', poll_sql($of_alice)),
	'open1:0=0 open1:1=0 open2:0=0 open2:1=0',
	'a pattern finds the topics that a role may read');
is(answer_as('alice', q{SELECT topics.join_group('of alice', '{closed}')}),
	'42501', '... and no list finds others');
for my $statement (
	poll_sql($of_alice),
	wait_sql($of_alice, '0'),
	commit_sql($of_alice, 'open1:0', 1),
	"SELECT topics.remove_member('of alice', '$of_alice->{id}')",
	q{SELECT topics.join_group('of alice', '{open1}')},
	(map { call_sql($_, $of_alice) } qw(heartbeat leave_group)),
	"SELECT * FROM topics.assignment('$of_alice->{id}')",
	(map { call_sql($_, $of_alice, 'open1:0') } qw(seek pause resume)))
{
	is( answer_as('bob', $statement),
		'42501', 'refused to another role: ' . substr $statement,
		0, 30);
}
is(answer_as('bob', 'SELECT count(*) FROM topics.group_member WHERE group_id = \'of alice\''),
	'0', '... which does not see it');
is(answer_as('admin', 'SELECT count(*) FROM topics.group_member WHERE group_id = \'of alice\''),
	'1', '... as an administrator does');
is(answer_as('alice', commit_sql($of_alice, 'open1:0', 1)), '', 'it is who it was');
is(answer_as('admin', "SELECT topics.remove_member('of alice', '$of_alice->{id}')"),
	'', '... until an administrator removes it');
is(answer_as('alice', poll_sql($of_alice)), 'TP003', '... of which it hears');

my $of_team = join_as('team', 'of team', q{'{open1,open2}'});
is(answer_as('alice', poll_sql($of_team, 1)), 'open1:0=0', 'roles of a role call for its member');
is(answer_as('bob', poll_sql($of_team, 1)), 'open1:1=0', '... each of them');
is(answer_as('bob', commit_sql($of_team, 'open1:0', 1)), '', '... and commit');
is(answer_as('carol', poll_sql($of_team, 1)), '42501', '... but not others');
my $also = join_as('alice', 'of team', q{'{open1,open2}'});
is(answer_as('bob', poll_sql($also)), '42501', 'in their group each may have a member of its own');
is(answer_as('bob', "SELECT topics.remove_member('of team', '$also->{id}')"),
	'', '... which the others may remove');
$node->safe_psql('postgres', 'REVOKE SELECT ON topic.open2 FROM team');
is(answer_as('alice', poll_sql($of_team)), '42501', 'a topic that it may not read any more');
is(answer_as('alice', commit_sql($of_team, 'open2:0', 1)), '42501', '... it does not commit in');
$node->safe_psql('postgres', 'GRANT SELECT ON topic.open2 TO team');
is( answer_as('alice', poll_sql($of_team)),
	'open2:0=0 open2:1=0',
	'... nothing was skipped meanwhile');

# ----------------------------------------------------------------------
# Dump and restore
# ----------------------------------------------------------------------

my $dumped =
  join_group($node, 'dumped', q{'{f,two}', client_id => 'dumped', session_timeout => '3 s'});
poll($node, $dumped);
commit($node, $dumped, 'f:2', 2);
commit($node, $dumped, 'two:1', 3);
my $dump = PostgreSQL::Test::Utils::tempdir . '/dump.sql';
begin_to_wait($second, wait_sql($dumped, '1 h'), 'a member waits');
command_ok([ 'pg_dump', '-d', $node->connstr('postgres'), '-f', $dump ], '... while pg_dump runs');
is(members($node, 'dumped'), 'dumped', '... and is there');
my $target = topics_node('target', extension => 0, conf => "pg_topics.worker_interval = '1h'\n");
$target->safe_psql(
	'postgres',
	'CREATE ROLE ' . join '; CREATE ROLE ',
	qw(team alice bob carol admin topics_reader topics_writer topics_admin topics_monitor));
command_ok(
	[
		'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $target->connstr('postgres'), '-f',
		$dump
	],
	'... it is restored in another cluster');
is(committed($target, 'dumped'), 'f:2=2 two:1=3', '... with committed offsets');
is(answer($target, q{SELECT group_type FROM topics.consumer_group WHERE group_id = 'dumped'}),
	'member', '... of the group of members');
ok(poll_until(sub { members($target, 'dumped') eq '' }), '... who does not call is removed');
$dumped = join_group($target, 'dumped', q{'{f}', client_id => 'anew'});
like(poll($target, $dumped), qr/f:1=2 f:2=2 f:3=0/, '... the group goes on from them');
is(commit($target, $dumped, 'f:2', 3), '', '... and commits');
$target->stop;

# ----------------------------------------------------------------------
# Bounds, and the clock
# ----------------------------------------------------------------------

my $directory = $PostgreSQL::Test::Utils::tmp_check;
my $library = "$directory/members_clock.so";
my $ten_days = 10 * 86400;

system_or_bail($ENV{CC} // 'cc', '-shared', '-fPIC', '-o', $library,
	"$FindBin::RealBin/../clock.c");

# The clock of the small server's processes is so many seconds ahead
sub set_clock
{
	my ($seconds) = @_;

	append_to_file("$directory/members_clock.new", "$seconds\n");
	rename "$directory/members_clock.new", "$directory/members_clock"
	  or die "could not set the clock: $!";
	return;
}

my $small = topics_node(
	'small',
	points => 1,
	conf => q{
restart_after_crash = on
pg_topics.max_members = 16
pg_topics.max_group_offsets = 100
pg_topics.worker_interval = '1h'
autovacuum = off
});
$small->stop;
set_clock($ten_days);
{
	local $ENV{LD_PRELOAD} = $library;
	local $ENV{TEST_CLOCK} = "$directory/members_clock";
	$small->start;
}
create_topics($small, 't', 1, 3);
my $lasting =
  join_group($small, 'clock', q{'{t}', client_id => 'lasting', max_poll_interval => '1 day'});
is(poll($small, $lasting), 't:0=0 t:0=1 t:0=2', 'a member polls, with the clock ten days ahead');
for my $ahead (0, 2 * $ten_days, $ten_days)
{
	set_clock($ahead);
	cmp_ok(
		abs($small->safe_psql('postgres', 'SELECT extract(epoch FROM clock_timestamp())') -
			  time -
			  $ahead),
		'<', 3600,
		"the clock is set to $ahead seconds ahead");
	join_group($small, 'clock', q{'{t}', client_id => 'silent', session_timeout => '300 ms'});
	ok(poll_until(sub { members($small, 'clock') eq 'lasting' }), '... who is silent is removed');
	is(commit($small, $lasting, 't:0', 1), '', '... and the other one commits');
}

sub check_full
{
	my ($statement, $setting, $test_name) = @_;
	my ($state, $message) = sqlstate_of($small, 'postgres', $statement);

	is($state, '54000', $test_name);
	like($message, qr/HINT:.*\Q$setting\E/, '... and the error names the setting');
	return;
}

my $join = q{SELECT topics.join_group('many', '{t}', session_timeout => '30 min')};
$small->safe_psql('postgres', "BEGIN; $join; SAVEPOINT s; $join; ROLLBACK TO s; $join; ROLLBACK")
  for 1 .. 10;
my @many = map { join_group($small, 'many', q{'{t}'}) } 1 .. 15;
check_full($join, 'pg_topics.max_members', 'no more members than there is room for') for 1 .. 3;
is(poll($small, $many[0]), 't:0=0 t:0=1 t:0=2', '... those that there are go on')
  if has($small, $many[0]) =~ /t:0/;
is(answer($small, call_sql('leave_group', $many[14])), '', '... when one leaves');
is(answer($small, 'BEGIN; ' . call_sql('leave_group', $many[13]) . '; ROLLBACK'),
	'', '... and another one does not');

# Who joins ends in the middle of that
for my $point (qw(append-locked append-done))
{
	for my $fate (qw(fails terminated killed))
	{
		my ($session, $other) = map { Session->new($small) } 1 .. 2;

		stop_at($small, $point);
		$session->send($join);
		my $pid = wait_until_at($small, $point);
		is($pid, $session->{pid}, "... at $point who joins is to end: $fate");
		fail_at($small, $point, $pid) if $fate eq 'fails';
		$small->safe_psql('postgres', "SELECT pg_terminate_backend($pid)") if $fate eq 'terminated';
		kill 'KILL', $pid if $fate eq 'killed';
		go_on_from($small, $point) if $fate ne 'fails';
		$session->receive;

		await_restart($small, $other) if $fate eq 'killed';
		is(answer($small, q{SELECT count(*) FROM topics.group_member WHERE group_id = 'many'}),
			'14', '... no member is left of it');
	}
}
is(join_group($small, 'many', q{'{t}'})->{generation} > 1, 1, '... and there is room for one');
check_full($join, 'pg_topics.max_members', '... and not for two');
$small->safe_psql('postgres',
	q{SELECT topics.remove_member(group_id, member_id) FROM topics.group_member WHERE group_id = 'many'}
);
is(answer($small, q{SELECT count(*) FROM topics.group_member}),
	'1', 'all of a group are removed at once');

$small->safe_psql('postgres',
	q{SELECT topics.create_topic('wide', 200); SELECT topics.create_topic('forty', 40)});
my $wide = q{SELECT topics.join_group('wide', '{wide}')};
check_full($wide, 'pg_topics.max_group_offsets',
	'a topic has more partitions than there is room for')
  for 1 .. 10;
$small->safe_psql('postgres',
	q{BEGIN; SELECT topics.join_group('rolled back', '{forty}'); ROLLBACK})
  for 1 .. 10;
my @forty = map { join_group($small, "forty$_", q{'{forty}'}) } 1 .. 2;
my $late = q{SELECT topics.join_group('forty3', '{forty}')};
check_full($late, 'pg_topics.max_group_offsets', 'a third group does not find room') for 1 .. 10;
is(answer($small, q{SELECT count(*) FROM topics.consumer_group WHERE group_id ~ 'wide|forty'}),
	'2', '... nothing of it is left');
is(poll($small, $forty[1]), '', '... the others go on');
is(commit($small, $forty[1], 'forty:39', 0), '', '... and commit');
is(answer($small, call_sql('leave_group', $forty[1])), '', '... until one leaves');
is(answer($small, q{SELECT topics.delete_group('forty2')}), '', '... and is deleted');
isnt(answer($small, $late), '54000', '... then there is room');
check_full($late =~ s/forty3/forty4/r, 'pg_topics.max_group_offsets', '... for one');
$small->stop;

$node->stop;
unlike(
	slurp_file($_->logfile),
	qr/PANIC|TRAP|was terminated by signal (?!9)/,
	'nothing has crashed on ' . $_->name) for $node, $small, $target;
done_testing();
