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

# What a statement gives, or its SQLSTATE
sub answer
{
	my ($where, $statement) = @_;
	my ($result, $rows, $error) =
	  $where->psql('postgres', "\\set VERBOSITY verbose\n$statement");

	return $error =~ /(?:ERROR|FATAL):  ([0-9A-Z]{5}): / ? $1 : $rows;
}

# A new member of a group; it stays for a long time, unless the arguments say otherwise
sub join_group
{
	my ($where, $group, $arguments) = @_;

	$arguments .= ", session_timeout => '30 min'" if $arguments !~ /session_timeout/;
	my ($id, $generation) = split /\|/,
	  $where->safe_psql('postgres', "SELECT * FROM topics.join_group('$group', $arguments)");
	return { group => $group, id => $id, generation => $generation };
}

# A statement that polls for a member: what it gets, as topic:partition=offset
sub poll_sql
{
	my ($member, $limits) = @_;

	$limits = defined $limits ? ", $limits" : '';
	return
	  qq{SELECT string_agg(topic || ':' || partition || '=' || p.offset, ' ' ORDER BY topic, partition, p.offset) FROM topics.poll('$member->{id}'$limits) p};
}

# ... that commits an offset for a member, in the generation in which it has joined
sub commit_sql
{
	my ($member, $place, $offset, $generation) = @_;
	my ($topic, $partition) = split /:/, $place;

	$generation //= $member->{generation};
	return
	  "SELECT topics.commit_offset('$member->{group}', '$topic', $partition, $offset, NULL, '$member->{id}', $generation)";
}

# ... that calls a function with a member, and maybe with a partition
sub call_sql
{
	my ($function, $member, $place, @more) = @_;
	my ($topic, $partition) = split /:/, $place // '';

	return "SELECT topics.$function('$member->{id}'"
	  . (defined $topic ? ", '$topic', $partition" : '')
	  . join('', map { ", $_" } @more) . ')';
}

sub wait_sql { my ($member, $wait) = @_; return "CALL topics.poll_wait('$member->{id}', '$wait')" }
sub poll     { my ($where, @poll) = @_;   return answer($where, poll_sql(@poll)) }
sub commit   { my ($where, @commit) = @_; return answer($where, commit_sql(@commit)) }

# The partitions that a member has
sub has
{
	my ($where, $member, $what) = @_;

	$what //= q{topic || ':' || partition};
	return answer($where,
		"SELECT string_agg($what, ' ' ORDER BY topic, partition) FROM topics.assignment('$member->{id}')"
	);
}

# The members of a group, by their client_id
sub members
{
	my ($where, $group) = @_;

	return answer($where,
		"SELECT string_agg(client_id, ' ' ORDER BY client_id) FROM topics.group_member WHERE group_id = '$group'"
	);
}

# All that the views show of a group's members, but for what is of the moment
sub stored
{
	my ($where, $group) = @_;

	return $where->safe_psql(
		'postgres', qq{
		SELECT m.member_id, group_instance_id, client_id, host, m.role, assignor, generation_id, subscription, m.partitions, assignment,
			session_timeout, max_poll_interval, state
		FROM topics.group_member m JOIN topics.consumer_group USING (group_id) WHERE group_id = '$group' ORDER BY 1});
}

# The committed offsets of a group
sub committed
{
	my ($where, $group) = @_;

	return $where->safe_psql('postgres',
		"SELECT string_agg(topic || ':' || partition || '=' || committed_offset, ' ' ORDER BY topic, partition) FROM topics.consumer_offset WHERE group_id = '$group'"
	);
}

# Topics with so many records in each partition
sub create_topics
{
	my ($where, $topics, $partitions, $records) = @_;

	$where->safe_psql(
		'postgres', qq{
		SELECT topics.create_topic(t, $partitions) FROM unnest('{$topics}'::text[]) t;
		SELECT count(topics.produce(t, 'v' || i, partition => i % $partitions))
		FROM unnest('{$topics}'::text[]) t, generate_series(0, $records * $partitions - 1) i});
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
join_group($node, 'silent', q{'{t}', client_id => 'silent', session_timeout => '1 s'});
my $beats = join_group($node, 'silent', q{'{t}', client_id => 'beats', max_poll_interval => '1 s'});
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
is(answer($node, q{SELECT count(*) FROM topics.consumer_group WHERE group_id IN ('later', 'waits')}),
	'1', 'a group that has committed nothing goes with its last member');

# The worker ends on its way to remove one
for my $how ('terminated', 'killed')
{
	my $group = "worker $how";
	my $stays = join_group($node, $group, q{'{t}', client_id => 'stays'});

	poll($node, $stays);
	stop_at($node, 'round-begins');
	join_group($node, $group, q{'{t}', client_id => 'silent', session_timeout => '100 ms'});
	my $worker = wait_until_at($node, 'round-begins');
	is($observer->value("SELECT backend_type FROM pg_stat_activity WHERE pid = $worker"),
		'pg_topics worker', 'the worker comes for a member');
	$observer->value("SELECT pg_terminate_backend($worker)") if $how eq 'terminated';
	kill 'KILL', $worker if $how eq 'killed';
	go_on_from($node, 'round-begins');
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
is($first->query(wait_sql($one, '0'))->{sqlstate},   '', '... nor who is given no time');
is(poll($node, $one), 'w2:0=1', '... it polls that');

begin_to_wait($first, wait_sql($one, '1 h'), 'it waits');
is(answer($node, call_sql('seek', $one, 'w1:1', 0)), '', '... another session seeks');
is($first->receive->{sqlstate}, '',       '... which wakes it');
is(poll($node, $one),           'w1:1=0', '... and it polls again');

is(answer($node, call_sql('pause', $one, "w1:$_")), '', "partition $_ is paused") for 0, 1;
begin_to_wait($first, wait_sql($one, '1 h'), '... and it waits');
my $other = join_group($node, 'other', q{'{w1}', client_id => 'other', auto_offset_reset => 'latest'});
is(poll($node, $other), '', '... as does one of another group');
begin_to_wait($second, wait_sql($other, '1 h'), '... in another session');
$node->safe_psql('postgres', q{SELECT topics.produce('w1', 'x', partition => 0)});
is($second->receive->{sqlstate}, '',       '... which a record wakes');
is(poll($node, $other),          'w1:0=0', '... that it polls');
ok(is_waiting($observer, $first), '... but not the one that has paused the partition');
is(poll($node, $one), '', '... and polls nothing there');
is(answer($node, call_sql('resume', $one, 'w1:0')), '', '... the partition is resumed');
is($first->receive->{sqlstate}, '',       '... which wakes it');
is(poll($node, $one),           'w1:0=0', '... and it polls');
is(has($node, $one, q{CASE WHEN paused THEN topic || ':' || partition END}),
	'w1:1', '... the other one is paused still');

my $two = join_group($node, 'wait', q{'{w1,w2,w3}', client_id => 'two'});
is(poll($node, $two), '', 'a second member has nothing yet');
begin_to_wait($second, poll_sql($two, q{max_wait => '1 min'}), '... it polls, and waits');
is(poll($node, $one), '', '... for the first one, which polls');
like($second->receive->{rows}[0], qr/^w1:[01]=0/, '... and gets what that gave up');
begin_to_wait($first,  wait_sql($one, '1 h'), 'both wait');
begin_to_wait($second, wait_sql($two, '1 h'), '... the other one too');
is(answer($node, "SELECT topics.remove_member('wait', '$one->{id}')"), '', '... one is removed');
is($_->receive->{sqlstate}, '', '... and both are woken') for $first, $second;
is(poll($node, $one), 'TP003', '... to be told');

my $static = join_group($node, 'static', q{'{w1}', group_instance_id => 'i'});
poll($node, $static);
begin_to_wait($first, wait_sql($static, '1 h'), 'a static member waits');
my $successor = join_group($node, 'static', q{'{w1}', group_instance_id => 'i'});
is($first->receive->{sqlstate}, '', '... and is woken when another one takes its place');
is(poll($node, $static), 'TP003', '... to be told');
is($successor->{generation}, $static->{generation}, '... in the same generation');
like(poll($node, $successor), qr/^w1:0=0 w1:1=0$/, '... which goes on from what was committed');

is(answer($node, 'BEGIN; ' . wait_sql($two, '1 h')),
	'25001', 'to wait in a transaction is refused');
is($first->query('BEGIN ISOLATION LEVEL REPEATABLE READ; ' . poll_sql($two) . '; ' . poll_sql($two, q{max_wait => '1 min'}))->{sqlstate},
	'', 'with a snapshot nobody waits');
$first->query('ROLLBACK');
is(answer($node, 'BEGIN READ ONLY; ' . poll_sql($two)), '25006', 'to poll is to write');

# ----------------------------------------------------------------------
# Fencing
# ----------------------------------------------------------------------

$node->safe_psql('postgres', 'CREATE TABLE work (who text)');
sub work { return $node->safe_psql('postgres', q{SELECT coalesce(string_agg(who, ' '), '') FROM work}) }

# A member that works on all that it has polled, in a transaction of the first session
sub begin_work
{
	my ($member, @commits) = @_;
	my $done =
	  $first->query(join '; ', 'BEGIN', 'INSERT INTO work VALUES (\'done\')', map { commit_sql($member, @$_) } @commits);

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
	is(poll($node, $b), $case eq 'not given up' ? '' : join(' ', map { "two:$given_up=$_" } 1 .. 3),
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
is($first->receive->{sqlstate},  '', '... the commit is in time');
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
	my @steps = (
		[ $first, 'COMMIT' ],
		[ $second, "SELECT topics.remove_member('$order', '$a->{id}')" ]);
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
is(answer($node, join '; ', 'BEGIN', commit_sql($a, 'two:0', 3), call_sql('leave_group', $a), 'COMMIT'),
	'', 'a member leaves in the transaction that commits its offset');
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
		} split / /, $positions),
	'... where it goes on');
is($second->receive->{sqlstate}, '', '... and the other one is woken');
is( poll($node, $b),
	join(' ', map { my $partition = $_; map { "f:$partition=$_" } 0 .. 2 } grep { !$kept{$_} } 0 .. 5),
	'... and begins in the other half');
is(commit($node, $a, "f:$_", 3), '', 'who keeps a partition commits in the generation that it had there')
  for sort keys %kept;
is(commit($node, $a, 'f:' . (grep { !$kept{$_} } 0 .. 5)[0], 3),
	'TP002', '... but not in what it had');
is(answer($node, q{SELECT state FROM topics.consumer_group WHERE group_id = 'cooperative'}),
	'Stable', '... the group is settled');
$node->stop;
done_testing();
