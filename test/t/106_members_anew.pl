# A leader set that moves to and fro: a member that takes over there again has another generation
# than before, in which it commits nothing that others have done since.

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
	  "pg_topics.worker_interval = '1 s'\npg_topics.automatic_failover = off\npg_topics.node_timeout = '1 s'\n"
  );

$a->safe_psql('postgres', q{SELECT topics.create_topic('s', 3, leaders => 'spread')});
await_leaders('abc', 'each node leads a partition');
my $at_a = join_group($a, 'g', q{'{s}', client_id => 'at_a'});
ok( poll_until(
		sub {
			$b->safe_psql('postgres',
				q{SELECT count(*) FROM topics.consumer_lag WHERE group_id = 'g'}) > 0;
		}),
	'b has heard of the group');
my $at_b = join_group($b, 'g', q{'{s}', client_id => 'at_b'});
$c->safe_psql('postgres',
	q{SELECT topics.produce('s', i::text, partition => 2) FROM generate_series(0, 9) i});

$a->safe_psql('postgres', q{CALL topics.move_leader('b', 'c')});
await_leaders('abb', 'b leads what c has led');
await_has($b, $at_b, 's:1 s:2', 'who is at b takes over');
is(poll($b, $at_b, 'max_records => 1'), 's:2=0', '... and polls');
my $before = generation_of($b, $at_b, 's:2');

$a->safe_psql('postgres', q{CALL topics.rebalance_leaders()});
await_leaders('abc', 'c leads again');
is(answer($c, "SELECT topics.remove_member('g', '$at_b->{id}')"),
	'', 'the member of b is removed at c');
my $at_c = join_group($c, 'g', q{'{s}', client_id => 'at_c'});
await_has($c, $at_c, 's:2', 'another one has all at c');
is(split(' ', poll($c, $at_c)), 10, '... and polls');
is(commit($c, $at_c, 's:2', 10, generation_of($c, $at_c, 's:2')), '', '... and commits');
is(answer($c, call_sql('leave_group', $at_c)), '', '... and leaves');

$a->safe_psql('postgres', q{CALL topics.move_leader('b', 'c')});
await_leaders('abb', 'b leads once more');
await_has($b, $at_b, 's:1 s:2', 'who is at b takes over once more');
my $after = generation_of($b, $at_b, 's:2');
cmp_ok($after, '>', $before, 'in a later generation');
is(commit($b, $at_b, 's:2', 1, $before),
	'TP002', 'what it polled before the other one did is not committed');
is(poll($b, $at_b), '', 'there is nothing left');
$_->stop for $a, $b, $c;
done_testing();
