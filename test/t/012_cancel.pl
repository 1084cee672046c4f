# Cancel, terminate, statement_timeout and lock_timeout: in the wait for the
# append lock, in a giant's commit, and at random moments.  Each ends what it is
# meant for promptly, leaves no record, lock or offset behind, and harms nobody
# else.  The view topics.append_wait tells who waits for whom.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use POSIX qw(WNOHANG);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use Session;
use Topics;

my $interrupts = $ENV{PG_TOPICS_LONG} ? 10000 : 400;

my $node = topics_node('main', conf => "max_connections = 60\nlog_statement = none\n");
my ($giant, $waiter, $cancelled, $terminated, $timed_out, $neighbour, $observer) =
  map { Session->new($node) } 1 .. 7;
$observer->value(q{SELECT topics.create_topic('t', 2)});

sub waits
{
	my ($session) = @_;

	return $observer->value(
		qq{
		SELECT state = 'active' AND wait_event_type IN ('Extension', 'LWLock')
		FROM pg_stat_activity WHERE pid = $session->{pid}}) eq 't';
}

# A session's answer, which must come although the giant does not move.
sub answer
{
	my ($session, $what) = @_;
	my $result = $session->receive(60);

	return $result // { rows => ["no answer: $what"], sqlstate => 'none', lost => 0, text => '' };
}

sub giant_begin
{
	my ($value) = @_;

	return
	  qq{BEGIN; INSERT INTO topic.t (value, partition) SELECT '$value', 0 FROM generate_series(1, 600000)};
}

# ----------------------------------------------------------------------
# Waiters for the append lock, while a commit of 600,000 records holds it.
# The giant is stopped, so that it cannot be what ends the wait.
# ----------------------------------------------------------------------

hold_append_lock(
	giant => $giant,
	waiter => $waiter,
	observer => $observer,
	node => $node,
	reading => 'SELECT count(*) FROM topic.t',
	begin => giant_begin('giant'),
	sql => q{CALL topics.send('t', 'patient', partition => 0)});

$cancelled->send(q{SELECT topics.produce('t', 'cancelled', partition => 0)});
$terminated->send(q{SELECT topics.produce('t', 'terminated', partition => 0)});
ok(poll_until(sub { waits($cancelled) && waits($terminated) }),
	'two more producers wait for the append lock');

# The rows of topics.append_wait of some sessions, whom the giant blocks.
sub append_waits
{
	return $observer->value(
		"SELECT topic, partition, waiter_pid FROM topics.append_wait WHERE holder_pid = $giant->{pid} AND waiter_pid IN ("
		  . join(', ', map { $_->{pid} } @_)
		  . ') ORDER BY array_position(ARRAY['
		  . join(', ', map { $_->{pid} } @_)
		  . '], waiter_pid)');
}

is( append_waits($waiter, $cancelled, $terminated),
	join("\n", map { "t|0|$_->{pid}" } $waiter, $cancelled, $terminated),
	'topics.append_wait: all three wait for the giant');
is( $observer->value(
		"SELECT count(*) FROM topics.append_wait WHERE since BETWEEN pg_postmaster_start_time() AND clock_timestamp()"
	),
	'3',
	'... since some time, and nobody else waits');

# A timeout ends a wait in whatever statement the commit is: PostgreSQL itself
# disarms statement_timeout before it commits.
my %sqlstate = (statement_timeout => '57014', lock_timeout => '55P03');
my @commits = (
	[ 'send', q{CALL topics.send('t', 'timed out', partition => 0)} ],
	[ 'a statement', q{SELECT topics.produce('t', 'timed out', partition => 0)} ],
	[ 'INSERT', q{INSERT INTO topic.t (value, partition) VALUES ('timed out', 0)} ],
	[ 'COMMIT', q{BEGIN; SELECT topics.produce('t', 'timed out', partition => 0); COMMIT} ],
	[
		'COMMIT for two partitions',
		q{BEGIN; SELECT topics.produce('t', 'timed out', partition => p) FROM generate_series(0, 1) p; COMMIT}
	],
	[
		'COMMIT in a procedure',
		q{DO $$ BEGIN PERFORM topics.produce('t', 'timed out', partition => 0); COMMIT; END $$}
	]);
$timed_out->value("\\set SHOW_CONTEXT errors\nSELECT 1");
for my $timeout (sort keys %sqlstate)
{
	$timed_out->value("SET $timeout = '100ms'");
	for (@commits)
	{
		my ($what, $sql) = @$_;

		$timed_out->send($sql);
		my $result = answer($timed_out, $timeout);
		is($result->{sqlstate}, $sqlstate{$timeout}, "$timeout ends the wait of $what");
		like(
			$result->{message},
			$timeout eq 'lock_timeout' ? qr/due to lock timeout/ : qr/due to statement timeout/,
			"... and says so");
		like(
			$result->{text},
			qr/^CONTEXT:  wait for process $giant->{pid}, which appends to partition 0 of topic "t"$/m,
			"... and for whom");
	}
	is(append_waits($timed_out), '', '... and the view has forgotten it');
	$timed_out->value("RESET $timeout");
}
$timed_out->value(q{SET statement_timeout = '100ms'});
$timed_out->send(
	q{SELECT count(topics.produce('t', 'timed out', partition => 0)) FROM generate_series(1, 1000000000)}
);
is(answer($timed_out, 'statement_timeout')->{sqlstate}, '57014', 'statement_timeout ends produce');
$timed_out->value('RESET statement_timeout');

# in the extended protocol, where Sync commits
my $script = $node->basedir . '/produce.sql';
append_to_file($script, q{SELECT topics.produce('t', 'timed out', partition => 0);});
for my $timeout (sort keys %sqlstate)
{
	local $ENV{PGOPTIONS} = "-c $timeout=100ms";
	my ($out, $err) = ('', '');
	my $pgbench = IPC::Run::start(
		[ 'pgbench', '-n', '-M', 'extended', '-t', '1', '-f', $script, $node->connstr('postgres') ],
		'>', \$out, '2>', \$err, IPC::Run::timer(60, name => 'pgbench'));
	eval { $pgbench->finish };
	$pgbench->kill_kill if $@;
	like(
		$err,
		$timeout eq 'lock_timeout' ? qr/due to lock timeout/ : qr/due to statement timeout/,
		"$timeout ends the wait of an implicit commit in the extended protocol");
}

# Where PostgreSQL would not end a statement, nobody does: its timer is that of
# each statement of a message, and it runs out once.
$observer->value(q{SELECT topics.create_topic('timed')});
for (
	[
		'each statement of a message',
		'1s', q{SELECT pg_sleep(0.6)\; SELECT pg_sleep(0.6)\; SELECT topics.produce('timed', 'x')}
	],
	[
		'the time before it was set',
		'0',
		q{SELECT count(*) FROM pg_sleep(1.2), set_config('statement_timeout', '1s', true), topics.produce('timed', 'x')}
	],
	[
		'a cancel that was caught',
		'500ms',
		q{DO $$ BEGIN
			BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END;
			PERFORM topics.produce('timed', 'x'); END $$}
	])
{
	my ($what, $time, $sql) = @$_;

	$timed_out->value("SET statement_timeout = '$time'");
	is($timed_out->query($sql)->{sqlstate}, '', "statement_timeout does not count twice: $what");
	$timed_out->value('RESET statement_timeout');
}

# The lock of the whole database, which every holder of append locks shares.
$observer->value(q{SELECT topics.create_topic('wide', 101)});
my $wide_sql =
  q{SELECT count(topics.produce('wide', 'wide', partition => p)) FROM generate_series(0, 100) p};
for my $timeout (sort keys %sqlstate)
{
	$timed_out->value("SET $timeout = '100ms'");
	$timed_out->send($wide_sql);
	is(answer($timed_out, $timeout)->{sqlstate},
		$sqlstate{$timeout}, "$timeout ends the wait for the lock of the database");
	$timed_out->value("RESET $timeout");
}
my $wide = Session->new($node);
$wide->send($wide_sql);
ok( poll_until(sub { append_waits($wide) eq "||$wide->{pid}" }),
	'topics.append_wait: a producer to 101 partitions waits for the giant');
for my $timeout (sort keys %sqlstate)
{
	$timed_out->value("SET $timeout = '100ms'");
	$timed_out->send(q{CALL topics.send('t', 'timed out', partition => 1)});
	is(answer($timed_out, $timeout)->{sqlstate},
		$sqlstate{$timeout}, "$timeout ends the wait behind it");
	$timed_out->value("RESET $timeout");
}
$neighbour->send(q{CALL topics.send('t', 'neighbour', partition => 1)});
ok( poll_until(
		sub {
			$observer->value(
				"SELECT topic IS NULL, holder_pid FROM topics.append_wait WHERE waiter_pid = $neighbour->{pid}"
			) eq "t|$wide->{pid}";
		}),
	'topics.append_wait: others stand back for it');
$observer->value("SELECT pg_cancel_backend($wide->{pid})");
is(answer($wide, 'cancel')->{sqlstate}, '57014', '... until it is cancelled');
is_deeply(answer($neighbour, 'after it')->{rows}, ['1|0'], '... and they go on');

# Who may see it: names of topics only with a right.
$observer->value(
	q{
	CREATE ROLE nobody LOGIN;
	GRANT USAGE ON SCHEMA topics, topic TO nobody;
	GRANT SELECT ON topics.append_wait TO nobody});
my $nobody = Session->new($node, user => 'nobody');
my $mine = "SELECT topic FROM topics.append_wait WHERE waiter_pid = $waiter->{pid}";
is($nobody->value($mine), '', 'topics.append_wait: not without a right');
$observer->value('GRANT SELECT ON topic.t TO nobody');
is($nobody->value($mine), 't', '... of a topic that one may read');
$observer->value('REVOKE SELECT ON topic.t FROM nobody; GRANT pg_monitor TO nobody');
is($nobody->value($mine), 't', '... of all for pg_monitor');
is( $nobody->value("SELECT waiter_pid FROM topics.append_wait"),
	$observer->value("SELECT waiter_pid FROM topics.append_wait"),
	'... as for a superuser');

$observer->value("SELECT pg_cancel_backend($cancelled->{pid})");
is(answer($cancelled, 'cancel')->{sqlstate}, '57014', 'cancel ends the wait');

$observer->value("SELECT pg_terminate_backend($terminated->{pid})");
my $result = answer($terminated, 'terminate');
is($result->{sqlstate}, '57P01', 'terminate ends the wait');
ok($result->{lost}, '... and the session');
is(append_waits($cancelled, $terminated), '', 'and neither waits according to the view');

$neighbour->send(q{CALL topics.send('t', 'neighbour', partition => 1)});
is_deeply(answer($neighbour, 'another partition')->{rows},
	['1|1'], 'another partition does not notice');

# Not a wait for both: what is free is not kept while waiting for the rest.
$cancelled->send(
	q{BEGIN; SELECT topics.produce('t', 'both', partition => 1);
	SELECT topics.produce('t', 'both', partition => 0); COMMIT});
ok(poll_until(sub { waits($cancelled) }), 'a producer to both partitions waits');
$neighbour->send(q{CALL topics.send('t', 'neighbour', partition => 1)});
is_deeply(answer($neighbour, 'another partition')->{rows},
	['1|2'], '... without keeping others from the free one');
$observer->value("SELECT pg_cancel_backend($cancelled->{pid})");
is(answer($cancelled, 'cancel')->{sqlstate}, '57014', '... and is cancelled');

is( $observer->value(
		qq{SELECT count(*) FROM pg_locks WHERE pid IN ($cancelled->{pid}, $terminated->{pid}, $timed_out->{pid})}
	),
	'0',
	'nothing is left of them in pg_locks');
ok(waits($waiter), 'the patient one still waits');

signal_backend('CONT', $giant->{pid});
is_deeply($giant->receive->{rows}, ['COMMIT'], 'the giant commits');
is_deeply($waiter->receive->{rows}, ['0|600000'], 'and the patient one is next');
is($observer->value('SELECT count(*) FROM topics.append_wait'), '0', 'nobody waits any more');
is_deeply($cancelled->query(q{CALL topics.send('t', 'again', partition => 0)})->{rows},
	['0|600001'], 'the cancelled session produces again');
is_deeply($timed_out->query(q{CALL topics.send('t', 'again', partition => 0)})->{rows},
	['0|600002'], 'and so does the timed out one');

# ----------------------------------------------------------------------
# The giant itself, in the middle of its commit
# ----------------------------------------------------------------------

my $next = 600003;
for my $fate ('cancel', 'terminate')
{
	hold_append_lock(
		giant => $giant,
		waiter => $waiter,
		observer => $observer,
		node => $node,
		reading => 'SELECT count(*) FROM topic.t',
		begin => giant_begin("giant: $fate"),
		sql => q{CALL topics.send('t', 'behind it', partition => 0)});
	$observer->value("SELECT pg_${fate}_backend($giant->{pid})");
	signal_backend('CONT', $giant->{pid});
	$result = $giant->receive;
	is( $result->{sqlstate},
		$fate eq 'cancel' ? '57014' : '57P01',
		"$fate of the giant in its commit");
	is_deeply($waiter->receive->{rows}, ["0|$next"], '... whose offsets the next producer gets');
	$next++;
	is($observer->value("SELECT count(*) FROM topic.t WHERE value = 'giant: $fate'"),
		'0', '... and no record of it is seen');

	if ($fate eq 'cancel')
	{
		is_deeply(
			$giant->query(q{CALL topics.send('t', 'the same session', partition => 0)})->{rows},
			["0|$next"], '... and its session produces again');
		$next++;
	}
}
is( $observer->value(
		q{SELECT count(*), min("offset"), max("offset") FROM topic.t WHERE partition = 0}),
	"$next|0|" . ($next - 1),
	'the partition is dense');
is( $observer->value(
		q{SELECT count(*), min(r.offset), max(r.offset) FROM topics.fetch('t', 0, 599990) r}),
	($next - 599990) . '|599990|' . ($next - 1),
	'and so it is by fetch, across the dead rows');

# ----------------------------------------------------------------------
# At random moments
# ----------------------------------------------------------------------

# Producers of all kinds to one topic of small segments, so that the interrupts
# also meet rolls and attachments.  They note what was acknowledged.
my $producers = 8;
$observer->value(q{SELECT topics.create_topic('random', 4, segment_bytes => 65536)});

sub produce_until_told
{
	my ($number) = @_;
	my ($session, $round) = (undef, 0);
	my $file = $node->basedir . "/acknowledged.$number";

	open my $acknowledged, '>>', $file or die "could not open $file: $!";
	while (!-e $node->basedir . '/stop')
	{
		my $partition = int rand 4;
		my $tag = "$number." . ++$round;
		# Transactions go as one message, which an error ends: sent by themselves,
		# statements behind a BEGIN that was cancelled would be transactions of
		# their own.
		my $kind = int rand 3;
		my $sql =
		  $kind == 0 ? "CALL topics.send('random', '$tag:1', partition => $partition)"
		  : 'BEGIN\; '
		  . (
			$kind == 1 ? "SELECT topics.produce('random', '$tag:3')\\; " x 3
			: "INSERT INTO topic.random (value, partition) SELECT '$tag:400', g % 4 FROM generate_series(1, 200) g\\; "
			  x 2) . 'COMMIT';

		unless ($session)
		{
			$session = Session->new($node) or next;
			$session->value("SET application_name = 'producer'");
		}
		my $result = $session->query($sql);
		my $last = $result->{rows}[-1] // '';
		syswrite $acknowledged, "$tag\n" if $last eq 'COMMIT' || $kind == 0 && $last =~ /^\d\|\d+$/;
		syswrite $acknowledged, "unexpected: $result->{text}\n"
		  if $result->{sqlstate} && $result->{sqlstate} !~ /^(57014|57P01|25P02)$/;
		$session->query('ROLLBACK') if $result->{sqlstate} && !$result->{lost};
		$session = undef if $result->{lost};
	}
}

my @children;
for my $number (1 .. $producers)
{
	my $child = fork;
	die "could not fork: $!" unless defined $child;
	if ($child == 0)
	{
		srand $number;
		eval { produce_until_told($number); 1 } or print STDERR "producer $number: $@";
		POSIX::_exit(0);
	}
	push @children, $child;
}

my ($hits, $misses) = (0, 0);
while ($hits < $interrupts)
{
	my $call = $hits % 10 == 9 ? 'pg_terminate_backend' : 'pg_cancel_backend';
	my $hit = $observer->value(
		qq{
		SELECT count(*) FILTER (WHERE $call(pid)) FROM (
			SELECT pid FROM pg_stat_activity WHERE application_name = 'producer' AND state <> 'idle'
			ORDER BY random() LIMIT 1) p});

	$hits += $hit;
	last if !$hit && ++$misses > 100 * $interrupts;
	usleep(rand 5000);
}
append_to_file($node->basedir . '/stop', '');
ok( poll_until(
		sub {
			@children = grep { waitpid($_, WNOHANG) == 0 } @children;
			!@children;
		}),
	"$producers producers have survived $hits cancels and terminates");
kill 'KILL', @children if @children;

my @lines = map { split /\n/, slurp_file($node->basedir . "/acknowledged.$_") } 1 .. $producers;
is(join("\n", grep { /^unexpected/ } @lines), '', 'no other error than 57014 and 57P01');
my %acknowledged = map { $_ => 1 } @lines;
my $found = $observer->query(
	q{
	SELECT split_part(value, ':', 1), split_part(value, ':', 2), count(*) FROM topic.random GROUP BY 1, 2}
);
my ($torn, $unacknowledged) = (0, 0);
for (@{ $found->{rows} })
{
	my ($tag, $expected, $count) = split /\|/;

	$torn++ if $expected ne $count;
	$unacknowledged++ unless delete $acknowledged{$tag};
}
diag(   "$hits cancels and terminates, $misses of idle sessions: "
	  . scalar(@lines)
	  . ' acknowledged transactions, '
	  . keys(%acknowledged)
	  . " lost, $unacknowledged unacknowledged, $torn torn")
  if $ENV{PG_TOPICS_LONG};
is($torn, 0, 'all or none of each transaction');
is( join(' ', keys %acknowledged),
	'',
	'all acknowledged transactions are there: '
	  . scalar(@lines)
	  . ", and $unacknowledged unacknowledged");
cmp_ok($unacknowledged, '<=', $hits, '... no more of the latter than there were interrupts');
cmp_ok(scalar @lines, '>', $producers, '... the producers did get through');
is( $observer->value(
		q{
		SELECT count(*) FROM (
			SELECT FROM topic.random GROUP BY partition
			HAVING count(*) <> max("offset") + 1 OR count(DISTINCT "offset") <> count(*)) p}),
	'0',
	'all partitions are dense');

ok( $node->poll_query_until(
		'postgres', q{
		SELECT count(*) = 0 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE l.pid <> pg_backend_pid() AND a.backend_type = 'client backend'}),
	'no locks are left');
for my $partition (0 .. 3)
{
	my $end = $observer->value(
		"SELECT log_end_offset FROM topics.partition WHERE topic = 'random' AND partition = $partition"
	);

	is_deeply(
		$neighbour->query("CALL topics.send('random', 'last', partition => $partition)")->{rows},
		["$partition|$end"], "partition $partition takes records");
}
is( $observer->value(
		q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND state LIKE 'idle in%'}
	),
	'0',
	'and no transaction is left open');
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|was terminated by signal/, 'nothing has crashed');
done_testing();
