# kill -9 of the whole server under load, immediate shutdown, both again during
# recovery, and kill -9 of a backend: afterwards each acknowledged record is at
# its offset with its value, once; what a reader has read is there too; of
# each transaction all or nothing; offsets are dense; the worker is back.
#
# PG_TOPICS_LONG: 50 kills of the server instead of 3.

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

my $kills = $ENV{PG_TOPICS_LONG} ? 50 : 3;
my $producers = 8;
my $partitions = 3;

# PostgreSQL::Test::Cluster turns off both.
my $node = topics_node(
	'main', conf => q{
max_connections = 60
fsync = on
restart_after_crash = on
checkpoint_timeout = 1h
log_statement = none
max_wal_size = 4GB
});
my $directory = $node->basedir;
$node->safe_psql('postgres',
	qq{SELECT topics.create_topic('crash', $partitions, segment_bytes => 1048576)});

# ----------------------------------------------------------------------
# Load
# ----------------------------------------------------------------------

# A value is producer.round.transaction:records:number, so that what belongs
# together and how much that is can be told from any record.  Each line of
# the notes is a record that must be there: partition, offset, value.  Lines
# are written when the server's answer has come.
sub produce
{
	my ($name) = @_;
	my $session = Session->new($node) or return;
	my $transaction = 0;

	open my $notes, '>>', "$directory/notes.$name" or die "could not open notes: $!";
	while (1)
	{
		my $tag = "$name." . ++$transaction;
		my $partition = int rand $partitions;
		my $kind = int rand 10;

		if ($kind < 6)
		{
			my $value = "$tag:1:1" . ('x' x int rand 200);
			my $result =
			  $session->query("CALL topics.send('crash', '$value', partition => $partition)");

			syswrite $notes, "$result->{rows}[0]|$value\n"
			  if @{ $result->{rows} } && $result->{rows}[0] =~ /^\d+\|\d+$/;
			last if $result->{lost};
		}
		elsif ($kind < 9)
		{
			my $count = 1 + int rand 20;
			my $total = $count * $partitions;
			my $result = $session->query(
				qq{
				BEGIN;
				SELECT topics.produce('crash', '$tag:rolled back', partition => $partition);
				ROLLBACK;
				BEGIN;
				INSERT INTO topic.crash (value, partition)
				SELECT format('$tag:$total:%s', n * $partitions + p), p
				FROM generate_series(0, $count - 1) n, generate_series(0, $partitions - 1) p;
				COMMIT;
				SELECT partition, first_offset, record_count FROM topics.last_produced();});
			my @rows = @{ $result->{rows} };

			# an acknowledged commit counts, also if the server did not live to say where
			syswrite $notes, "committed|$tag|$total\n" if grep { $_ eq 'COMMIT' } @rows;
			for (grep { /^\d+\|\d+\|\d+$/ } @rows)
			{
				my ($p, $first, $records) = split /\|/;

				syswrite $notes, join '',
				  map { "$p|" . ($first + $_) . "|$tag:$total:" . ($_ * $partitions + $p) . "\n" }
				  0 .. $records - 1;
			}
			last if $result->{lost};
		}
		else
		{
			my $result = $session->query(
				qq{
				BEGIN;
				INSERT INTO topic.crash (value, partition)
				SELECT '$tag:rolled back', $partition FROM generate_series(1, 500);
				SAVEPOINT s;
				SELECT 1 / 0;
				ROLLBACK});
			last if $result->{lost};
		}
	}
}

# Reads on from where it was, by fetch and by SELECT in turn.
sub consume
{
	my ($name) = @_;
	my $session = Session->new($node) or return;
	my @next = split / /, $session->value(
		q{
		SELECT string_agg(log_end_offset::text, ' ' ORDER BY partition) FROM topics.partition WHERE topic = 'crash'}
	);
	my $turn = 0;

	open my $notes, '>>', "$directory/notes.$name" or die "could not open notes: $!";
	while (1)
	{
		my $partition = $turn++ % $partitions;
		my $result = $session->query(
			$turn % 2
			? qq{SELECT r.partition, r.offset, value FROM topics.fetch('crash', $partition, $next[$partition]) r}
			: qq{SELECT r.partition, r.offset, value FROM topic.crash r
				WHERE partition = $partition AND r.offset >= $next[$partition]});

		last if $result->{lost};
		syswrite $notes, join '', map { "$_\n" } grep { !/filler/ } @{ $result->{rows} };
		$next[$partition] += @{ $result->{rows} };
	}
}

my @children;

sub start_load
{
	my ($round) = @_;

	for my $number (1 .. $producers + 1)
	{
		my $child = fork;
		die "could not fork: $!" unless defined $child;
		if ($child == 0)
		{
			srand $round * 1000 + $number;
			eval { $number > $producers ? consume("reader.$round") : produce("$number.$round"); 1 }
			  or print STDERR "client $number: $@";
			POSIX::_exit(0);
		}
		push @children, $child;
	}
}

# Waits until the load has got somewhere: every client has noted something,
# and all together so many lines.
sub wait_for_load
{
	my ($round, $lines) = @_;

	return poll_until(
		sub {
			my @notes = glob "$directory/notes.*.$round";
			my $bytes = 0;

			$bytes += -s $_ // 0 for @notes;
			return @notes == $producers + 1 && !(grep { !-s $_ } @notes) && $bytes > 40 * $lines;
		});
}

sub wait_for_clients
{
	return poll_until(
		sub {
			@children = grep { waitpid($_, WNOHANG) == 0 } @children;
			!@children;
		});
}

# ----------------------------------------------------------------------
# Ends of servers
# ----------------------------------------------------------------------

# Starts the server without waiting, and calls a function in its recovery.
sub interrupt_recovery
{
	my ($function) = @_;
	my $position = -s $node->logfile;

	system_or_bail('pg_ctl', '-W', '-D', $node->data_dir, '-l', $node->logfile, 'start');
	poll_until(sub { slurp_file($node->logfile, $position) =~ /redo starts at/ })
	  or die 'no recovery';
	$function->(postmaster_pid($node));
	unlike(
		slurp_file($node->logfile, $position),
		qr/redo done|ready to accept connections/,
		'... in the middle of recovery');
}

# ----------------------------------------------------------------------
# What must hold afterwards
# ----------------------------------------------------------------------

my ($acknowledged, $read, $lost) = (0, 0, 0);
my (@noted, %committed);

# Takes over the clients' notes of a round.
sub collect_notes
{
	my ($round) = @_;

	for my $file (glob "$directory/notes.*.$round")
	{
		for (split /\n/, slurp_file($file))
		{
			if    (/^committed\|(.*)\|(\d+)$/) { $committed{$1} = $2 }
			elsif (/^(\d+)\|(\d+)\|(.*)$/)
			{
				push @noted, [ $1, $2, $3 ];
				$file =~ /reader/ ? $read++ : $acknowledged++;
			}
		}
	}
}

sub check_log
{
	my ($what) = @_;
	my (@log, %count, %expected, %values, @wrong);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	for (
		split /\n/,
		$node->safe_psql(
			'postgres', q{
		SELECT partition, "offset", value FROM topic.crash WHERE value NOT LIKE 'filler%' ORDER BY partition, "offset"}
		))
	{
		my ($partition, $offset, $value) = split /\|/;

		$log[$partition][$offset] = $value;
		push @wrong, "$value comes twice" if $values{$value}++;
		if ($value =~ /^(.*):(\d+):\d+x*$/) { $count{$1}++; $expected{$1} = $2 }
		else                                { push @wrong, "not committed: $value" }
	}
	push @wrong, map { "$_ is torn: $count{$_} of $expected{$_}" }
	  grep { $count{$_} != $expected{$_} } keys %count;
	my @missing =
	  map { "$_ was acknowledged" } grep { ($count{$_} // 0) != $committed{$_} } keys %committed;
	for (@noted)
	{
		my ($partition, $offset, $value) = @$_;
		my $there = $log[$partition][$offset] // 'nothing';

		push @missing, "partition $partition, offset $offset: $there, not $value"
		  if $there ne $value;
	}
	$lost += @missing;
	$#missing = 9 if @missing > 10;
	is(join("\n", @missing), '', "$what: what was acknowledged or read is there");
	is(join("\n", @wrong), '', '... nothing is torn, doubled or not committed');
	is( $node->safe_psql(
			'postgres', q{
			SELECT partition, count(*), count(DISTINCT "offset"), max("offset") + 1, max(log_end_offset)
			FROM topic.crash JOIN topics.partition p USING (partition) WHERE p.topic = 'crash' GROUP BY 1
			HAVING count(*) <> max("offset") + 1 OR count(DISTINCT "offset") <> count(*)
				OR max(log_end_offset) <> max("offset") + 1}),
		'',
		'... and offsets are dense');
}

# ----------------------------------------------------------------------
# The whole server
# ----------------------------------------------------------------------

my $round = 0;

for (1 .. $kills)
{
	$round++;
	start_load($round);
	ok(wait_for_load($round, 500 + rand 1500), "kill $_: load runs") or last;
	usleep(rand 300000);
	kill_server($node);
	ok(wait_for_clients(), '... and ends with the server');
	$node->start;
	collect_notes($round);
	check_log("kill $_");
}
wait_for_worker($node, 'postgres', 'the worker is back');

# ----------------------------------------------------------------------
# Immediate shutdown, and ends during recovery, with much to recover
# ----------------------------------------------------------------------

$node->safe_psql('postgres', 'CHECKPOINT');
$round++;
start_load($round);
ok(wait_for_load($round, 500), 'immediate shutdown: load runs');
Session->new($node)->value(
	q{
	INSERT INTO topic.crash (value, partition)
	SELECT 'filler' || repeat('x', 100), g % 3 FROM generate_series(1, 900000) g});
$node->stop('immediate');
ok(wait_for_clients(), '... and ends with the server');

interrupt_recovery(sub { kill_server($node) });
interrupt_recovery(
	sub {
		my ($postmaster) = @_;

		kill 'QUIT', $postmaster;
		poll_until(sub { !is_running($postmaster) }) or die 'the server does not stop';
	});
$node->start;
collect_notes($round);
check_log('immediate shutdown, and two ends during recovery');
wait_for_worker($node, 'postgres', 'the worker is back');

# ----------------------------------------------------------------------
# A backend: the postmaster ends all others, and starts anew
# ----------------------------------------------------------------------

for my $victim ('producer', 'worker')
{
	$round++;
	start_load($round);
	ok(wait_for_load($round, 500), "kill -9 of a $victim: load runs");
	my $worker;
	my $pid;
	# at an instant nobody may be active, or the worker between two lives
	poll_until(
		sub {
			$worker = worker_pid($node, 'postgres');
			$pid = $victim eq 'worker' ? $worker : $node->safe_psql(
				'postgres', q{
			SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND state = 'active'
				AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1});
			return $worker && $pid;
		}) or die "no $victim";
	kill 'KILL', $pid or die "could not kill $pid: $!";
	ok(wait_for_clients(), '... all clients lose their connections');
	ok(poll_until(sub { Session->new($node) }), '... and the server is back');
	wait_for_worker($node, 'postgres', '... with a worker', $worker);
	collect_notes($round);
	check_log("kill -9 of a $victim");
}

for my $partition (0 .. $partitions - 1)
{
	my $end = $node->safe_psql('postgres',
		"SELECT log_end_offset FROM topics.partition WHERE topic = 'crash' AND partition = $partition"
	);

	is( $node->safe_psql('postgres', "CALL topics.send('crash', 'last', partition => $partition)"),
		"$partition|$end",
		"partition $partition takes records at the next offset");
}
diag(
	"$round rounds with $kills kills of the whole server: $acknowledged acknowledged with their offsets, "
	  . "$read read, $lost lost")
  if $ENV{PG_TOPICS_LONG};
cmp_ok(
	$acknowledged, '>',
	100 * $round,
	"$acknowledged records were acknowledged with their offsets, $read read, $lost lost");
$node->stop;
done_testing();
