# CALL topics.wait: what wakes who waits for a group (a commit that produces, the
# release of a claim however it comes about, a place that goes back, partitions
# that are added), that nothing else does, that it never spins on records that
# it cannot get, holds nothing meanwhile, and ends at once when it has to.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Session;
use Topics;

my $node = topics_node('main',
	conf => "max_connections = 150\nlog_statement = none\npg_topics.worker_interval = '1h'\n");
my ($observer, $waiter, $one, $two) = map { Session->new($node) } 1 .. 4;
my $number = 0;

sub sleeps
{
	my ($session) = @_;

	return $observer->value(
		qq{
		SELECT state = 'active' AND wait_event_type = 'Extension'
		FROM pg_stat_activity WHERE pid = $session->{pid}}) eq 't';
}

sub send_to_sleep
{
	my ($session, $sql) = @_;

	$session->send($sql);
	poll_until(sub { sleeps($session) }) or die "does not wait: $sql";
	return;
}

# What a session that should be awake answers; the bound keeps a test that
# fails from hanging.
sub answer
{
	my ($session) = @_;
	my $result = $session->receive(60) or return 'no answer';

	return join ' ', @{ $result->{rows} }, $result->{sqlstate};
}

# Context switches that a process has made by itself: when they do not move it
# sleeps on, and when its CPU time does not it does not spin.
sub activity
{
	my ($session) = @_;
	my ($switches) =
	  slurp_file("/proc/$session->{pid}/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m;
	my @stat = split ' ', slurp_file("/proc/$session->{pid}/stat") =~ s/^.*\) //sr;

	return $switches . '/' . ($stat[11] + $stat[12]);
}

# A new topic of two records, both consumed by group g, and by group late, which
# has begun at the end and committed nothing.
sub fresh
{
	my ($unread) = @_;

	$number++;
	$observer->value(
		"SELECT topics.drop_topic('t', true); SELECT topics.delete_group(group_id) FROM topics.consumer_group"
	);
	$observer->value(
		q{SELECT topics.create_topic('t');
		SELECT count(topics.produce('t', 'v' || i)) FROM generate_series(0, 1) i});
	$observer->value(q{SELECT count(*) FROM topics.consume('g', 't')});
	$observer->value(
		q{SELECT count(*) FROM topics.consume('late', 't', auto_offset_reset => 'latest')});
	$observer->value(q{SELECT count(topics.produce('t', 'new' || i)) FROM generate_series(0, 1) i})
	  if $unread;
	return;
}

my $wait = q{CALL topics.wait('g', 't', '1 h')};
my $consume = q{SELECT r.offset FROM topics.consume('g', 't', 1) r};

# Begins with what "before" does in session one, waits, does in session one what
# must not wake, then what must, and looks what the group gets.
sub wakes
{
	my ($name, %step) = @_;

	fresh($step{unread});
	$one->value($step{before}) if $step{before};
	send_to_sleep($waiter, $step{wait} // $wait);
	if ($step{not})
	{
		my $before = activity($waiter);
		$one->value($_) for @{ $step{not} };
		is(activity($waiter), $before, "$name: woken by nothing else");
	}
	$one->value($step{wakes});
	is(answer($waiter), $step{answer} // 'CALL ', $name);
	is($waiter->value($step{then} // $consume), $step{gets}, '... and there is something')
	  if defined $step{gets};
	$one->query('COMMIT');
	return;
}

# ----------------------------------------------------------------------
# What wakes, and what does not
# ----------------------------------------------------------------------

wakes(
	'a commit that produces',
	gets => 2,
	not => [
		q{BEGIN; SELECT topics.produce('t', 'x')},
		'ROLLBACK',
		q{BEGIN; SAVEPOINT s; SELECT topics.produce('t', 'x'); ROLLBACK TO s; COMMIT},
		q{BEGIN; SELECT topics.produce('t', 'x')}
	],
	wakes => 'COMMIT');
my $claimed = "BEGIN; $consume";
wakes(
	'a claim that is committed, with records left',
	unread => 1,
	before => $claimed,
	wakes => 'COMMIT',
	gets => 3,
	not => [ q{SELECT topics.produce('t', 'x')}, 'SAVEPOINT s', $consume, 'ROLLBACK TO s' ]);
wakes(
	'a claim that is rolled back',
	unread => 1,
	before => $claimed,
	wakes => 'ROLLBACK',
	gets => 2);
wakes(
	'a claim that is rolled back to a savepoint',
	unread => 1,
	before => "BEGIN; SAVEPOINT s; $consume",
	wakes => 'ROLLBACK TO s',
	gets => 2);
wakes(
	'one that a cursor from before the savepoint had',
	unread => 1,
	before =>
	  q{BEGIN; DECLARE c CURSOR FOR SELECT r.offset FROM topics.consume('g', 't', 1) r; SAVEPOINT s; FETCH c},
	wakes => 'ROLLBACK TO s',
	gets => 2);
wakes(
	'an EXCEPTION block',
	unread => 1,
	before => 'BEGIN',
	gets => 2,
	before => "BEGIN; SAVEPOINT s; $consume",
	wakes =>
	  q{DO $$ BEGIN RAISE division_by_zero; EXCEPTION WHEN OTHERS THEN NULL; END $$; ROLLBACK});
wakes(
	'commit_offset that is rolled back',
	unread => 1,
	before => q{BEGIN; SELECT topics.commit_offset('g', 't', 0, 3)},
	wakes => 'ROLLBACK',
	gets => 2);
wakes(
	'commit_offset that leaves something',
	unread => 1,
	before => q{BEGIN; SELECT topics.commit_offset('g', 't', 0, 3)},
	wakes => 'COMMIT',
	gets => 3);
wakes(
	'reset_offset',
	wakes => q{SELECT * FROM topics.reset_offset('g', 't', shift_by => -1)},
	gets => 1,
	not => [
		q{BEGIN; SELECT * FROM topics.reset_offset('g', 't', shift_by => -1)},
		'ROLLBACK',
		q{SELECT * FROM topics.reset_offset('g', 't', shift_by => 1)}
	]);
wakes(
	'reset_offset of a group that has committed nothing',
	wait => q{CALL topics.wait('late', 't', '1 h')},
	wakes => q{SELECT * FROM topics.reset_offset('late', 't', to_position => 'earliest')},
	then => q{SELECT r.offset FROM topics.consume('late', 't', 1) r},
	gets => 0);
wakes(
	'delete_group',
	wakes => q{SELECT topics.delete_group('g')},
	gets => 0,
	not => [ q{BEGIN; SELECT topics.delete_group('g')}, 'ROLLBACK' ]);
wakes(
	'an added partition',
	before => 'SELECT topics.add_partitions(\'t\', 2)',
	gets => 0,
	wakes => q{SELECT topics.produce('t', 'x', partition => 1)});
wakes(
	'a partition that is added meanwhile',
	wakes =>
	  q{SELECT topics.add_partitions('t', 2); SELECT topics.produce('t', 'x', partition => 1)},
	gets => 0);
wakes('DROP TOPIC', wakes => q{SELECT topics.drop_topic('t')}, answer => '42704');
wakes(
	'consume with max_wait',
	wait => q{SELECT r.offset FROM topics.consume('g', 't', max_wait => '1 minute') r},
	wakes => q{SELECT topics.produce('t', 'x')},
	answer => '2 ');
wakes(
	'consume with max_wait, a claim',
	unread => 1,
	before => "BEGIN; $consume",
	wait => q{SELECT r.offset FROM topics.consume('g', 't', 1, max_wait => '1 minute') r},
	wakes => 'ROLLBACK',
	answer => '2 ');

# A killed session gives its claim back
fresh(1);
my $victim = Session->new($node);
$victim->value($claimed);
send_to_sleep($waiter, $wait);
$observer->value("SELECT pg_terminate_backend($victim->{pid})");
is(answer($waiter), 'CALL ', 'a session that is terminated');
is($waiter->value($consume), 2, '... and its record comes again');

# ----------------------------------------------------------------------
# While it waits
# ----------------------------------------------------------------------

fresh(1);
$one->value($claimed);
send_to_sleep($waiter, $wait);
is( $observer->value(
		"SELECT backend_xmin IS NULL AND backend_xid IS NULL FROM pg_stat_activity WHERE pid = $waiter->{pid}"
	),
	't',
	'a waiter holds no snapshot');
is($observer->value("SELECT string_agg(locktype, ' ') FROM pg_locks WHERE pid = $waiter->{pid}"),
	'virtualxid', '... and no lock');
# records keep coming for a partition that another one has claimed
my $before = activity($waiter);
$two->value(q{SELECT topics.produce('t', 'x')}) for 1 .. 200;
is(activity($waiter), $before, 'it sleeps on while records come that it cannot get');
$one->value('COMMIT');
is(answer($waiter), 'CALL ', '... until it can');

# cancelled, timed out, terminated
fresh(0);
send_to_sleep($waiter, $wait);
my $start = time;
$observer->value("SELECT pg_cancel_backend($waiter->{pid})");
is(answer($waiter), '57014', 'cancel ends it');
$waiter->send("SET statement_timeout = '10 ms'; $wait");
is(answer($waiter), 'SET 57014', '... and statement_timeout');
$waiter->value('RESET statement_timeout');
is($waiter->query(q{CALL topics.wait('g', 't', '1 ms')})->{sqlstate},
	'', '... and its own time, which is no error');
send_to_sleep($waiter, $wait);
$observer->value("SELECT pg_terminate_backend($waiter->{pid})");
ok($waiter->receive(60)->{lost}, '... and terminate');
cmp_ok(time - $start, '<', 10, '... at once');

# ----------------------------------------------------------------------
# Many: N sessions share what there is; all work is done, and all go to sleep
# ----------------------------------------------------------------------

fresh(0);
$observer->value(
	q{SELECT topics.drop_topic('t'); SELECT topics.create_topic('t', 7); CREATE TABLE work (value text)}
);
my $procedure = q{
	CREATE PROCEDURE consume_on(until bigint) LANGUAGE plpgsql AS $$
	BEGIN
		LOOP
			CALL topics.wait('g', 't', '1 h');
			INSERT INTO work SELECT value FROM topics.consume('g', 't', 10);
			COMMIT;
			EXIT WHEN (SELECT count(*) FROM work) >= until;
		END LOOP;
	END $$};
$observer->value($procedure);
my @crowd = map { Session->new($node) } 1 .. 8;
$_->send('CALL consume_on(3000)') for @crowd;

for my $i (1 .. 60)
{
	$two->value(
		"SELECT count(topics.produce('t', 'v' || $i || '-' || n, partition => (random() * random() * 6)::int)) FROM generate_series(1, 50) n"
	);
}
poll_until(sub { $observer->value('SELECT count(*) FROM work') == 3000 });
is($observer->value('SELECT count(*), count(DISTINCT value) FROM work'),
	'3000|3000', '8 sessions that wait and consume do 3000 records of 7 partitions once each');
# the last ones are asleep: one more record each lets them see that all is done
ok( poll_until(
		sub {
			$two->value(q{SELECT topics.produce('t', 'x')});
			@crowd = grep { !defined $_->receive(0) } @crowd;
			return !@crowd;
		}),
	'... and all end');

# fast shutdown
fresh(0);
@crowd = map { Session->new($node) } 1 .. 100;
$_->send($wait) for @crowd;
ok( poll_until(
		sub {
			$observer->value(
				q{SELECT count(*) FROM pg_stat_activity
	WHERE wait_event_type = 'Extension' AND query LIKE 'CALL topics.wait%'}) == 100;
		}),
	'100 sessions wait');
my $producer = Session->new($node);
$producer->value(q{BEGIN; SELECT topics.produce('t', 'never')});
$start = time;
$node->stop('fast');
cmp_ok(time - $start,
	'<', 10, '... and a fast shutdown ends them, with an open producer, within 10 seconds');
done_testing();
