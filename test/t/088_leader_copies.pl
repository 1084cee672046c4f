# Nodes that are not what they were: a follower, and a node that led, are restored from a copy
# of their own files; and nodes whose clocks are hours apart.  What was acknowledged stays, and
# a node leads only with all of that.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use File::Path qw(remove_tree);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::RecursiveCopy;
use PostgreSQL::Test::Utils;
use Test::More;
use Leaders;
use Session;
use TopicState;
use Topics;

my ($a, $b, $c) =
  make_cluster(conf =>
	  "pg_topics.worker_interval = '1 s'\npg_topics.automatic_failover = off\npg_topics.node_timeout = '1 s'\npg_topics.acks_timeout = '2 min'\n"
  );

# Copies the files of a node, which is stopped for that.
sub save
{
	my ($node) = @_;

	$node->stop;
	remove_tree($node->basedir . '/saved');
	PostgreSQL::Test::RecursiveCopy::copypath($node->data_dir, $node->basedir . '/saved');
	$node->start;
	return;
}

# A node that is down is what it was then, when it starts.
sub restore
{
	my ($node) = @_;

	remove_tree($node->data_dir);
	PostgreSQL::Test::RecursiveCopy::copypath($node->basedir . '/saved', $node->data_dir);
	chmod 0700, $node->data_dir;
	return;
}

produce_records($a, 'first', 20);
check_whole($a, 'at first');

# ----------------------------------------------------------------------
# A follower is restored
# ----------------------------------------------------------------------

save($c);
check_whole($a, 'copied');
$a->safe_psql('postgres',
	q{SELECT topics.create_topic('new', 2); SELECT topics.produce('new', 'x')});
produce_records($a, 'since', 50);
wait_for_all($a);
$c->stop;
restore($c);
$c->start;
ok( $c->poll_query_until('postgres', q{SELECT count(*) = 1 FROM topics.topic WHERE topic = 'new'}),
	'a restored follower has what came since');
check_whole($a, 'a restored follower');
check_files($c, 'postgres', 'a restored follower');

# ... across a term, with a tail of its own that nobody has confirmed
kill_server($_) for $a, $b;
$a->start;
$b->start;
check_whole($a, 'restarted');
move_leader_to($c);
kill_server($_) for $a, $b;
produce_records($c, 'tail', 7, '1');
save($c);
kill_server($c);
$_->start for $a, $b;
$a->safe_psql('postgres', q{CALL topics.failover('c')});
is(produce_records($a, 'instead', 20), 20, 'another node leads');
$c->start;
check_whole($a, 'the old leader is back');
kill_server($c);
restore($c);
$c->start;
check_whole($a, '... and again, from a copy of when it led');
is($c->safe_psql('postgres', q{SELECT count(*) FROM topic.t WHERE value LIKE 'tail%'}),
	'0', '... without what nobody has confirmed');
is($c->safe_psql('postgres', q{SELECT count(*) FROM topics.truncated WHERE value LIKE 'tail%'}),
	'7', '... which it has kept');

# ----------------------------------------------------------------------
# A node that led is restored, and does not know that it does not lead any more
# ----------------------------------------------------------------------

save($a);
check_whole($a, 'a leader is copied');
produce_records($a, 'later', 20);
move_leader_to($b);
produce_records($b, 'latest', 20);
wait_for_all($b);
kill_server($a);
restore($a);
$a->start;
my $ghost = Session->new($a)->query(q{SELECT topics.produce('t', 'ghost')});
ok($ghost->{lost} || $ghost->{sqlstate} eq 'TP004', 'a restored leader acknowledges nothing')
  or diag($ghost->{text});
check_whole($b, 'a restored leader');
is(is_shown($_, 'ghost'), '0', '... nor is that shown by ' . $_->name) for $a, $b, $c;

# ... where the one that leads since is lost: who has all is elected, in place of who thinks
# that it leads
kill_server($a);
wait_for_all($b, $c);
kill_server($b);
restore($a);
$a->start;
$ghost = Session->new($a);
$ghost->send(q{SELECT topics.produce('t', 'ghost')});
set_automatic('on', $c);
is(find_leader($a, $c), $c, '... without the leader: who has all is elected');
check_same($c, '... and', $a);
my $told = $ghost->receive;
ok($told->{lost} || $told->{sqlstate} eq 'TP004', '... the restored one acknowledges nothing')
  or diag($told->{text});
set_automatic('off', $c);
$b->start;
check_whole($c, 'a restored leader, and one that is lost');

move_leader_to($a);

# ----------------------------------------------------------------------
# Clocks that are hours apart
# ----------------------------------------------------------------------

my $library = "$PostgreSQL::Test::Utils::tmp_check/nodes_clock.so";
my %hours = (a => 1, b => 0, c => -1);

sub start_with_clock
{
	my ($node) = @_;
	my $name = $node->name;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/nodes_clock_$name";

	append_to_file($file, $hours{$name} * 3600 . "\n") unless -f $file;
	local $ENV{LD_PRELOAD} = $library;
	local $ENV{TEST_CLOCK} = $file;
	return $node->start;
}

sub hours_off
{
	my ($node) = @_;

	return $node->safe_psql('postgres',
		'SELECT round((extract(epoch FROM clock_timestamp()) - ' . time . ') / 3600)');
}

# LogAppendTime of a topic does not go back on any node, whichever led, and is the same.
sub check_append_time
{
	my ($leader, $test_name) = @_;
	my $query =
	  q{SELECT string_agg("offset" || ' ' || extract(epoch FROM "timestamp"), ', ' ORDER BY "offset"), bool_and("timestamp" >= before) IS NOT FALSE
		FROM (SELECT *, lag("timestamp") OVER (ORDER BY "offset") AS before FROM topic.appended) r};
	my $expected = $leader->safe_psql('postgres', $query);

	like($expected, qr/\|t$/, "$test_name: LogAppendTime has not gone back");
	for my $other (others_than($leader))
	{
		ok(poll_until(sub { $other->safe_psql('postgres', $query) eq $expected }),
			'... and is the same on ' . $other->name);
	}
	return;
}

sub produce_appended
{
	my ($node) = @_;

	return $node->safe_psql('postgres',
		q{SELECT count(topics.produce('appended', i::text)) FROM generate_series(1, 5) i});
}

SKIP:
{
	skip 'needs Linux', 1 unless $^O eq 'linux';
	system_or_bail($ENV{CC} // 'cc',
		'-shared', '-fPIC', '-o', $library, "$FindBin::RealBin/../clock.c");
	$a->safe_psql('postgres',
		q{SELECT topics.create_topic('appended', timestamp_type => 'LogAppendTime')});
	for my $node ($c, $b, $a)
	{
		$node->stop;
		start_with_clock($node);
		is(hours_off($node), $hours{ $node->name }, 'the clock of ' . $node->name);
	}
	my $leader = find_leader($a, $b, $c);
	check_whole($leader, 'clocks apart');
	set_automatic('on');

	# longer than anybody waits for a leader
	my $term = term_of($leader);
	for my $look (1 .. 2)
	{
		my $since = $leader->safe_psql('postgres', 'SELECT clock_timestamp()');

		produce_appended($leader);
		ok( $leader->poll_query_until(
				'postgres',
				"SELECT count(*) = 2 FROM topics.node WHERE last_asked > '$since'::timestamptz + interval '1.5 s'"
			),
			'followers ask');
	}
	is(term_of($leader), $term, '... and nobody takes the leader for lost');
	is($leader->safe_psql('postgres', 'SELECT count(*) FROM topics.node WHERE in_sync'),
		'3', '... nor a follower');
	check_append_time($leader, 'clocks apart');

	# each of them leads, the one ahead before the one behind
	for my $lost ($a, $b, $c)
	{
		move_leader_to($lost);
		produce_appended($lost);
		kill_server($lost);
		$leader = find_leader(others_than($lost));
		ok($leader, $lost->name . ' is lost: another node is elected') or last;
		produce_appended($leader);
		start_with_clock($lost);
		check_whole($leader, $lost->name . ' was lost');
		check_append_time($leader, $lost->name . ' was lost');
	}
	my $truncated = 0;
	$truncated +=
	  $_->safe_psql('postgres', q{SELECT count(*) FROM topics.truncated WHERE topic = 'appended'})
	  for $a, $b, $c;
	is($truncated, '0', 'nothing was taken back');
}

check_terms('at the end');
done_testing();
