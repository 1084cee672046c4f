# Members of a topic whose partitions are led by several nodes: one joins at each node that leads,
# and has what that one leads.  They go on wherever a set of leaders goes.

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

my ($a, $b, $c) =
  make_cluster(conf =>
	  "pg_topics.worker_interval = '1 s'\npg_topics.automatic_failover = off\npg_topics.node_timeout = '1 s'\npg_topics.acks_timeout = '20 s'\n"
  );
my %nodes = (a => $a, b => $b, c => $c);

sub produce
{
	my ($node, $partition, $value) = @_;

	return $node->safe_psql('postgres',
		"SET pg_topics.acks = 'all'; SELECT topics.produce('s', '$value', partition => $partition)"
	);
}

# A node has heard of a group, and of what it has subscribed to
sub heard_of
{
	my ($node, $group) = @_;

	return poll_until(
		sub {
			$node->safe_psql('postgres',
				"SELECT count(*) FROM topics.consumer_lag WHERE group_id = '$group'") > 0;
		});
}

$a->safe_psql('postgres', q{SELECT topics.create_topic('s', 6, leaders => 'spread')});
await_leaders('abcabc', 'each node leads two partitions');
my %leader = (0 => $a, 1 => $b, 2 => $c, 3 => $a, 4 => $b, 5 => $c);
produce($leader{$_}, $_, "first of $_") for 0 .. 5;

# ----------------------------------------------------------------------
# A member at each node
# ----------------------------------------------------------------------

is(answer($b, q{SELECT topics.join_group('g', '{s}')}),
	'TP004', 'a group begins where the metadata are led');
is(answer($b, q{SELECT topics.join_group('g', '{t}')}),
	'TP004', '... and one of a topic that is led there alone has its members there');
my %one = (a => join_group($a, 'g', q{'{s}', client_id => 'one_a'}));
ok(heard_of($nodes{$_}, 'g'), "$_ has heard of the group") for qw(b c);
$one{$_} = join_group($nodes{$_}, 'g', "'{s}', client_id => 'one_$_'") for qw(b c);
my %expected = (a => 's:0 s:3', b => 's:1 s:4', c => 's:2 s:5');
for my $name (qw(a b c))
{
	is( poll($nodes{$name}, $one{$name}),
		join(' ', map { "$_=0" } split ' ', $expected{$name}),
		"the member at $name polls what $name leads");
	is(has($nodes{$name}, $one{$name}), $expected{$name}, '... and has that');
	is(commit($nodes{$name}, $one{$name}, (split ' ', $expected{$name})[0], 1),
		'', '... and commits');
}
is(commit($b, $one{b}, 's:0', 1), 'TP004', 'what another node leads is committed there');
is(answer($b, call_sql('seek', $one{b}, 's:0', 0)), 'TP004', '... and sought');
is(commit($b, $one{b}, 's:4', 1, $one{b}{generation} + 1),
	'TP002', 'each set has generations of its own');
is(answer($b, "SELECT topics.commit_offset('g', 's', 4, 1)"),
	'TP003', 'who is no member commits nothing');
is(answer($b, "SELECT topics.reset_offset('g', 's', 4, to_position => 'earliest')"),
	'55000', '... and resets nothing');
is(answer($b, q{SELECT * FROM topics.consume('g', 's')}), 'TP011', '... and does not consume');
ok(poll_until(sub { members($_, 'g') eq 'one_a one_b one_c' }), $_->name . ' shows all members')
  for $a, $b, $c;
is(answer($a, poll_sql($one{b})), 'TP004', 'a member is told where it has joined');
like(
	($a->psql('postgres', poll_sql($one{b})))[2],
	qr/led by another node.*node "b" leads.*Call for it on that node/s,
	'... by name');
is(answer($a, "SELECT topics.remove_member('g', '$one{b}{id}')"),
	'TP004', '... and who would remove it');
is(answer($a, "SELECT topics.heartbeat('nobody')"), 'TP003', 'nobody is told so');
like(answer($b, call_sql('heartbeat', $one{b})), qr/^\d+$/, 'a heartbeat');
is( $b->safe_psql(
		'postgres',
		q{SELECT string_agg(partition || client_id, ' ' ORDER BY partition) FROM topics.consumer_lag WHERE group_id = 'g' AND client_id <> ''}
	),
	'1one_b 4one_b',
	'lag names those that are here');
is($a->safe_psql('postgres', q{SELECT state FROM topics.consumer_group WHERE group_id = 'g'}),
	'Stable', 'the group is stable');

my %two = map { $_ => join_group($nodes{$_}, 'g', "'{s}', client_id => 'two_$_'") } qw(a b c);
for my $name (qw(a b c))
{
	my ($first, $second) = split ' ', $expected{$name};

	poll($nodes{$name}, $_) for $one{$name}, $two{$name};
	my ($of_one, $of_two) = map { has($nodes{$name}, $_) } $one{$name}, $two{$name};
	is(join(' ', sort $of_one, $of_two),
		$expected{$name}, "another program shares what $name leads");
	is(poll($nodes{$name}, $two{$name}), '', '... and all is polled') if $of_two eq $first;
}
is(answer($nodes{$_}, call_sql('leave_group', $two{$_})), '', "it leaves at $_") for qw(a b c);
await_has($nodes{$_}, $one{$_}, $expected{$_}, "the first one has all at $_") for qw(a b c);

# ----------------------------------------------------------------------
# Leaders move
# ----------------------------------------------------------------------

# ... in which it commits
sub commit_now
{
	my ($where, $member, $place, $offset) = @_;

	return commit($where, $member, $place, $offset, generation_of($where, $member, $place));
}

# All that is polled until nothing is left
sub drain
{
	my ($where, $member) = @_;
	my @polled;

	while ((my $got = poll($where, $member)) ne '') { push @polled, split ' ', $got }
	return join ' ', @polled;
}

drain($nodes{$_}, $one{$_}) for qw(a b c);
is(commit_now($nodes{$_}, $one{$_}, (split ' ', $expected{$_})[1], 1), '', "... and commits at $_")
  for qw(a b c);
$a->safe_psql('postgres', q{CALL topics.move_leader('b', 'c')});
await_leaders('abbabb', 'what c has led b leads');
produce($b, $_, "second of $_") for 1, 2, 4, 5;
is(answer($c, poll_sql($one{c})), 'TP004', 'the member at c is refused there');
is(drain($b, $one{c}), 's:2=1 s:5=1', '... and goes on at b');
is(commit_now($b, $one{c}, 's:2', 2), '', '... and commits');
is(drain($b, $one{b}), 's:1=1 s:4=1', 'who was at b has what it had');
is(commit_now($b, $one{b}, $_, 2), '', '... and commits') for qw(s:1 s:4);
is(answer($b, call_sql('leave_group', $one{c})), '', 'the member of c leaves');
await_has($b, $one{b}, 's:1 s:2 s:4 s:5', 'who is at b has that, too: nobody else does');
is(drain($b, $one{b}), 's:5=1', '... from where the group stands');
is(commit_now($b, $one{b}, 's:5', 2), '', '... and commits');

is( $b->safe_psql(
		'postgres',
		"SELECT partitions, assignment FROM topics.group_member WHERE member_id = '$one{b}{id}'"),
	'4|{"s": [1, 2, 4, 5]}',
	'the view has one row for it');
my $both = join_group($b, 'g', q{'{s}', client_id => 'zzz'});
poll($b, $_) for $one{b}, $both, $one{b}, $both;
is(has($b, $_) =~ tr/:/:/, 2, 'a program that joins at b shares all that b leads')
  for $one{b}, $both;
$a->safe_psql('postgres', q{CALL topics.rebalance_leaders()});
await_leaders('abcabc', 'c leads again');
ok( poll_until(
		sub {
			poll($b, $_, 'max_records => 0') for $one{b}, $both;
			join(' ', sort map { has($b, $_) } $one{b}, $both) eq 's:1 s:4';
		}),
	'at b is left what b leads, and shared');
my $kept = has($b, $both);
is(answer($c, "SELECT topics.remove_member('g', '$_->{id}')"), '', 'at c they are removed')
  for $one{b}, $both;
is(has($b, $both), $kept, '... and stay at b');
$one{c} = join_group($c, 'g', q{'{s}', client_id => 'again_c', session_timeout => '2 s'});
await_has($c, $one{c}, 's:2 s:5', 'a new one has all at c');

# ----------------------------------------------------------------------
# A node is lost
# ----------------------------------------------------------------------

produce($c, $_, "third of $_") for 2, 5;
is(drain($c, $one{c}), 's:2=2 s:5=2', 'it polls');
is(commit($c, $one{c}, 's:2', 3), '', '... and commits some');
$c->stop('immediate');
$b->safe_psql('postgres', q{CALL topics.failover('c')});
await_leaders('abbabb', 'c is lost, and b leads');
is(answer($b, call_sql('leave_group', $both)), '', 'one leaves at b');
await_has(
	$b, $one{b},
	's:1 s:2 s:4 s:5',
	'who is silent goes, and who is at b has all that b leads');
is(drain($b, $one{b}), 's:5=2', '... from the committed offsets: none is skipped, none is lost');
is(members($b, 'g'), 'one_a one_b', '... which the view shows');
$c->start;
$_->stop('immediate') for $a, $b, $c;
$_->start for $a, $b, $c;
ok(poll_until(sub { answer($b, call_sql('heartbeat', $one{b})) =~ /^\d+$/ }),
	'after all were down it goes on');
ok(poll_until(sub { answer($a, call_sql('heartbeat', $one{a})) =~ /^\d+$/ }), '... at a as well');
is(has($b, $one{b}), 's:1 s:2 s:4 s:5', '... with what it had');

# ----------------------------------------------------------------------
# A pattern
# ----------------------------------------------------------------------

my %pattern = (a => join_group($a, 'p', q{topic_pattern => 'n.*', client_id => 'p_a'}));
ok( poll_until(
		sub {
			$b->safe_psql('postgres',
				q{SELECT count(*) FROM topics.consumer_group WHERE group_id = 'p'}) == 1;
		}),
	'b has heard of the group');
$pattern{b} = join_group($b, 'p', q{topic_pattern => 'n.*', client_id => 'p_b'});
$a->safe_psql('postgres', q{SELECT topics.create_topic('n', 3, leaders => 'spread')});
ok( poll_until(
		sub {
			poll($b, $pattern{b});
			has($b, $pattern{b}) ne '';
		}),
	'a topic that is new is found at each node');
poll($a, $pattern{a});
is(has($a, $pattern{a}), 'n:0', '... which has what it leads');
is(answer($nodes{$_}, call_sql('leave_group', $pattern{$_})), '', "it leaves at $_") for qw(b a);
is(answer($nodes{$_}, call_sql('leave_group', $one{$_})), '', "all leave at $_")     for qw(b a);
is($a->safe_psql('postgres', q{SELECT state FROM topics.consumer_group WHERE group_id = 'g'}),
	'Empty', 'the group is empty');
$_->stop for $a, $b, $c;
unlike(
	slurp_file($_->logfile),
	qr/PANIC|TRAP|was terminated by signal (?!9)/,
	'nothing has crashed on ' . $_->name) for $a, $b, $c;
done_testing();
