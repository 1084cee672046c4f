# Members of consumer groups under load: they join, leave, die and are stopped for
# longer than they may be silent, sessions are killed, the server restarts, and partitions
# are added, while records are produced.  Each inserts what it polls into a table, in the
# transaction that commits its offsets.  In the end every record is in the table
# once, in the order of its partition.  The same with a real log, which is produced over
# connections that break.

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

my $members = 6;
my $faults = $ENV{PG_TOPICS_LONG} ? 400 : 50;
my $data = $ENV{PG_TOPICS_DATA} || "$FindBin::RealBin/../../../shared/data";
my $directory = PostgreSQL::Test::Utils::tempdir;
my $node = topics_node(
	'main', conf => q{
log_statement = none
max_connections = 60
restart_after_crash = on
pg_topics.worker_interval = '1h'
});

# Records that members have consumed: those of a group in the order in which it did
$node->safe_psql(
	'postgres', q{
	CREATE TABLE consumed (id bigserial, group_id text, topic text, partition int, "offset" bigint,
		value text, line int, member text, UNIQUE (group_id, topic, partition, "offset"))});

# ----------------------------------------------------------------------
# Processes
# ----------------------------------------------------------------------

# The pids of those that run, by name
my %children;

sub start
{
	my ($name, $function) = @_;
	my $child = fork;

	die "could not fork: $!" unless defined $child;
	if ($child == 0)
	{
		srand $$;
		eval { $function->(); 1 } or do { print STDERR "$name: $@"; POSIX::_exit(1) };
		POSIX::_exit(0);
	}
	$children{$name} = $child;
	return;
}

# What a file's name says is so from now on, for all of them
sub announce { my ($what) = @_; append_to_file("$directory/$what", ''); return }
sub is_so { my ($what) = @_; return -e "$directory/$what" }

# Waits until all have ended; the names of those that have failed
sub wait_for_children
{
	my (@failed, %left);

	%left = %children;
	poll_until(
		sub {
			for my $name (sort keys %left)
			{
				next if waitpid($left{$name}, WNOHANG) == 0;
				push @failed, $name if $?;
				delete $left{$name};
			}
			return !%left;
		}) or push @failed, keys %left;
	%children = ();
	return "@failed";
}

END
{
	local $?;
	kill 'KILL', values %children;
}

# Connects as "name", also while the server restarts
sub connect_as
{
	my ($name) = @_;
	my $session;

	poll_until(sub { $session = Session->new($node) }) or die 'cannot connect';
	$session->query("SET application_name = '$name'");
	return $session;
}

# ----------------------------------------------------------------------
# Members
# ----------------------------------------------------------------------

# What a member can be told at any time; of all else it dies
sub is_expected
{
	my ($result) = @_;

	return $result->{lost} || $result->{sqlstate} =~ /^(TP002|TP003|57P0[123]|08P01|08006)$/;
}

# A member of a group that consumes until all is "consumed".
#
# One that does not know whether it has committed, or has not, goes back to the committed
# offsets, or is another member from then on.
sub consume
{
	my ($name, $group, $arguments) = @_;
	my ($session, $id);
	my $ask = sub {
		my ($sql) = @_;

		$session //= connect_as($name);
		my $result = $session->query($sql);
		die "$sql: $result->{text}" if $result->{sqlstate} && !is_expected($result);
		undef $id if $result->{sqlstate} eq 'TP003';
		undef $session if $result->{lost};
		return $result->{lost} || $result->{sqlstate} ? undef : $result->{rows};
	};

	until (is_so("$group-consumed"))
	{
		unless (defined $id)
		{
			my $rows = $ask->("SELECT member_id FROM topics.join_group('$group', $arguments)")
			  or next;
			$id = $rows->[0];
		}
		my $fate = rand;
		my $work = qq{
			WITH polled AS MATERIALIZED (SELECT * FROM topics.poll('$id', 40)),
				done AS (INSERT INTO consumed (group_id, topic, partition, "offset", value, line, member)
					SELECT '$group', topic, partition, p.offset, value, (headers->0->>1)::int, '$id' FROM polled p)
			SELECT count(topics.commit_offset('$group', topic, partition, next, NULL, '$id', generation_id)), sum(records)
			FROM (SELECT topic, partition, max(p.offset) + 1 AS next, max(generation_id) AS generation_id, count(*) AS records
				FROM polled p GROUP BY 1, 2) n};
		my $polled = $ask->('BEGIN') && $ask->($work);
		usleep(rand 100_000) if $polled && rand() < 0.5;    # works
		my $committed = $polled && $fate > 0.04 && $ask->($fate > 0.08 ? 'COMMIT' : 'ROLLBACK');

		if ($committed && $fate > 0.08)
		{
			if ($fate < 0.1)
			{
				undef $id if $ask->("SELECT topics.leave_group('$id')");
			}
			elsif ($polled->[0] =~ /^0/)
			{
				$ask->("CALL topics.poll_wait('$id', '200 ms')");
			}
			next;
		}
		if ($polled && $fate < 0.02)
		{
			# dies, and is another one then
			undef $session;
			undef $id;
		}
		$ask->('ROLLBACK') if $session;
		next unless defined $id;
		if ($fate < 0.02 || $fate > 0.5)
		{
			$ask->("SELECT topics.leave_group('$id')") if $fate > 0.75;
			undef $id;
			next;
		}
		my $went_back;
		until ($went_back || !defined $id)
		{
			$went_back =
			  $ask->("SELECT topics.seek('$id', topic, partition) FROM topics.assignment('$id')");
		}
	}
	$ask->("SELECT topics.leave_group('$id')") if defined $id && $name =~ /[135]$/;
	return;
}

sub start_member
{
	my ($number, $group, $arguments) = @_;

	start("member$number", sub { consume("member$number", $group, $arguments) });
	return;
}

# ----------------------------------------------------------------------
# Faults
# ----------------------------------------------------------------------

my $observer;

sub ask
{
	my ($sql) = @_;

	for (;;)
	{
		$observer //= connect_as('observer');
		my $result = $observer->query($sql);
		return join "\n", @{ $result->{rows} } unless $result->{lost};
		undef $observer;
	}
}

# The pid of a process's backend, if it has one now
sub backend_of
{
	my ($name) = @_;

	return ask("SELECT pid FROM pg_stat_activity WHERE application_name = '$name' LIMIT 1");
}

# A process stops, until its member has been removed.  Or for a while: who is stopped may have
# what others need to remove it, or to say so, or its member has left.
sub stop_for_long
{
	my ($pid, $name) = @_;
	my $deadline = time + 3;
	my $ids =
	  "SELECT string_agg(member_id, ' ') FROM topics.group_member WHERE client_id = '$name'";
	my $before = ask($ids);

	return unless kill 'STOP', $pid;
	while (time < $deadline)
	{
		$observer->send($ids);
		my $result = $observer->receive(2);

		last if !$result || ($result->{rows}[0] // '') ne $before;
		usleep(10_000);
	}
	kill 'CONT', $pid;
	undef $observer;
	return;
}

my %done;

# Something happens to a member, or to who has one of these names
sub one_fault
{
	my ($group, $arguments, @others) = @_;
	my $number = 1 + int rand $members;
	my $name = "member$number";
	my $fault = (qw(stop stop_backend terminate terminate_other kill))[ rand 5 ];

	if ($fault eq 'stop')
	{
		stop_for_long($children{$name}, $name);
	}
	elsif ($fault eq 'stop_backend')
	{
		my $pid = backend_of($name);
		stop_for_long($pid, $name) if $pid;
	}
	elsif ($fault eq 'kill')
	{
		kill 'KILL', $children{$name};
		waitpid $children{$name}, 0;
		start_member($number, $group, $arguments);
	}
	else
	{
		$name = $others[ rand @others ] if $fault eq 'terminate_other' && @others;
		my $pid = backend_of($name);
		ask("SELECT pg_terminate_backend($pid)") if $pid;
	}
	$done{$fault}++;
	return;
}

# So much has been consumed since; a fault comes in the middle of work
sub wait_for_progress
{
	my ($group) = @_;
	my $query = "SELECT last_value FROM consumed_id_seq";
	my $before = ask($query);

	return poll_until(sub { ask($query) > $before + 20 });
}

# Everything in these topics was consumed by a group: waits for that, and looks
sub check_consumed
{
	my ($group, $test_name, @topics) = @_;
	my $records = join ' UNION ALL ',
	  map { qq{SELECT '$_' AS topic, partition, "offset", value FROM topic.$_} } @topics;
	my $missing = qq{
		SELECT count(*) FROM ($records) r LEFT JOIN (SELECT * FROM consumed WHERE group_id = '$group') c
		USING (topic, partition, "offset") WHERE c.id IS NULL OR c.value <> r.value};

	ok(poll_until(sub { ask($missing) eq '0' }), "$test_name: every record was consumed")
	  or diag(ask("SELECT * FROM topics.consumer_lag WHERE group_id = '$group'"));
	ok( poll_until(
			sub {
				ask("SELECT count(*) > 0 AND count(*) = count(consumer_id) AND sum(lag) = 0 FROM topics.consumer_lag WHERE group_id = '$group'"
				) eq 't';
			}),
		'... there is no lag, and each partition is a member\'s'
	) or diag(ask("SELECT * FROM topics.consumer_lag WHERE group_id = '$group'"));
	announce("$group-consumed");
	is(wait_for_children(), '', '... no process has failed');
	is( ask("SELECT count(*) FROM consumed WHERE group_id = '$group'"),
		ask("SELECT count(*) FROM ($records) r"),
		'... nothing else was consumed');
	is( ask(qq{
			SELECT count(*) FROM (SELECT "offset", lag("offset") OVER (PARTITION BY topic, partition ORDER BY id) AS before
			FROM consumed WHERE group_id = '$group') c WHERE "offset" <> coalesce(before, -1) + 1}
		),
		'0',
		'... and each partition in its order');
	note(
		"$test_name: ",
		ask("SELECT count(*) || ' records, ' || count(DISTINCT member) || ' members' FROM consumed WHERE group_id = '$group'"
		));
	return;
}

# ----------------------------------------------------------------------
# Numbered payloads, in two topics
# ----------------------------------------------------------------------

sub produce_numbers
{
	my ($name) = @_;
	my ($session, $number) = (undef, 0);

	until (is_so('enough'))
	{
		$session //= connect_as($name);
		my $first = $number + 1;
		$number += 1 + int rand 8;
		my $end = rand() < 0.05 ? 'ROLLBACK' : 'COMMIT';
		my $topic = rand() < 0.5 ? 'one' : 'two';
		my $result = $session->query(
			qq{BEGIN; SELECT count(topics.produce('$topic', '$name ' || i, key => i::text)) FROM generate_series($first, $number) i; $end}
		);

		undef $session if $result->{lost};
		die $result->{text} if $result->{sqlstate} && !is_expected($result);
		usleep(10_000);
	}
	return;
}

$node->safe_psql('postgres',
	q{SELECT topics.create_topic(t, 8) FROM unnest('{one,two}'::text[]) t});
my $arguments = q{'{one,two}', session_timeout => '1 s', assignor => 'cooperative-sticky'};
my @producers = map { "producer$_" } 1 .. 3;
for my $name (@producers)
{
	start($name, sub { produce_numbers($name) });
}
start_member($_, 'numbers', $arguments) for 1 .. $members;
for my $fault (1 .. $faults)
{
	ok(wait_for_progress('numbers'), "fault $fault: the group goes on") or last;
	ask(qq{SELECT topics.add_partitions('one', @{[ 8 + $fault / 8 ]})}) if $fault % 8 == 0;
	ask('SELECT topics.add_partitions(\'two\', 12)') if $fault == 12;
	if ($fault % 20 == 15)
	{
		undef $observer;
		$node->stop($fault % 40 == 15 ? 'immediate' : 'fast');
		$node->start;
		$done{restart}++;
		next;
	}
	one_fault('numbers', $arguments, @producers);
}
ok(wait_for_progress('numbers'), 'the group goes on');
announce('enough');
check_consumed('numbers', 'numbered payloads', 'one', 'two');
note(join ', ', map { "$_ $done{$_}" } sort keys %done);

# ----------------------------------------------------------------------
# A real log, over connections that break
# ----------------------------------------------------------------------

# Every so many'th line, each of which is stored once however often it is sent
sub produce_lines
{
	my ($name, $lines, $first, $step) = @_;
	my ($session, %sequence);
	my ($id, $epoch);
	my $ask = sub {
		my ($sql) = @_;

		for (;;)
		{
			$session //= connect_as($name);
			my $result = $session->query($sql);

			undef $session if $result->{lost};
			next if $result->{lost};
			die $result->{text} if $result->{sqlstate} && !is_expected($result);
			return $result->{rows} unless $result->{sqlstate};
		}
	};

	($id, $epoch) =
	  split /\|/, $ask->('SELECT producer_id, producer_epoch FROM topics.init_producer()')->[0];
	for (my $line = $first; $line < @$lines; $line += 20 * $step)
	{
		my @statements;

		for (my $one = $line; $one < @$lines && $one < $line + 20 * $step; $one += $step)
		{
			my ($visitor) = split / /, $lines->[$one];
			my $partition = unpack('%32C*', $visitor) % 6;
			my $value = $lines->[$one] =~ s/'/''/gr;

			push @statements,
			  sprintf
			  q{SELECT topics.produce('access', '%s', key => '%s', partition => %d, headers => '{"line": "%d"}', producer_id => %d, producer_epoch => %d, sequence => %d)},
			  $value, $visitor, $partition, $one, $id, $epoch, $sequence{$partition}++;
		}
		$ask->(join ";\n", 'BEGIN', @statements, 'COMMIT');
		usleep(30_000);
	}
	return;
}

SKIP:
{
	skip "no access.log in $data (PG_TOPICS_DATA names its directory)", 1
	  unless -r "$data/access.log";
	open my $log, '<:raw', "$data/access.log" or die "access.log: $!";
	my @lines = <$log>;
	close $log;
	chomp @lines;

	%done = ();
	$node->safe_psql('postgres', q{SELECT topics.create_topic('access', 6)});
	$arguments = q{topic_pattern => 'acc.*', session_timeout => '1 s', assignor => 'sticky'};
	start_member($_, 'lines', $arguments) for 1 .. $members;
	for my $name (@producers)
	{
		my ($number) = $name =~ /(\d)/;

		start($name, sub { produce_lines($name, \@lines, $number - 1, scalar @producers) });
	}
	my $count = 'SELECT sum(log_end_offset) FROM topics.partition WHERE topic = \'access\'';
	my $broken = 0;
	while (ask($count) < @lines)
	{
		my $pid = backend_of($producers[ rand @producers ]);

		$broken++ if $pid && ask("SELECT pg_terminate_backend($pid)") eq 't';
		one_fault('lines', $arguments) if wait_for_progress('lines');
	}
	cmp_ok($broken, '>', 5, 'connections of producers have broken');
	check_consumed('lines', 'a real log', 'access');
	note(join ', ', map { "$_ $done{$_}" } sort keys %done);

	append_to_file("$directory/lines", join '', map { s/([\\\t\r\n])/\\$1/gr . "\n" } @lines);
	$node->safe_psql(
		'postgres', qq{
		CREATE TABLE original (line serial, value text);
		\\copy original (value) FROM '$directory/lines'
	});
	is( $node->safe_psql(
			'postgres', q{
			SELECT count(*), count(DISTINCT c.line), count(*) FILTER (WHERE c.value = o.value)
			FROM consumed c LEFT JOIN original o ON o.line = c.line + 1 WHERE group_id = 'lines'}),
		join('|', (scalar @lines) x 3),
		'every line was consumed once');
	is( $node->safe_psql(
			'postgres', qq{
			SELECT count(*) FROM (SELECT line, lag(line) OVER (PARTITION BY partition, line % @{[ scalar @producers ]} ORDER BY id) AS before
			FROM consumed WHERE group_id = 'lines') c WHERE line < before}),
		'0',
		'... in the order of each producer in each partition');
}

$node->stop;
unlike(
	slurp_file($node->logfile),
	qr/PANIC|TRAP|was terminated by signal (?!9)/,
	'nothing has crashed');
done_testing();
