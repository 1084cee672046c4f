# Session.pm: psql sessions that run beside each other, for tests that stop,
# cancel and kill.
#
# send() does not wait, receive() does.  A result is a hash: rows (with command
# tags, as psql prints them), sqlstate and message of the first error, '' if
# there was none, and lost if the connection is gone.  Nothing here dies of
# an error or a lost connection: the tests look.
package Session;

use strict;
use warnings FATAL => 'all';

use Cwd 'realpath';
use Exporter 'import';
use IO::Select;
use IPC::Open3;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(usleep);

our @EXPORT =
  qw(is_running poll_until signal_backend hold_append_lock is_waiting kill_server postmaster_pid
  wait_until_asked);

my %stopped;

# A session in database postgres.  Options: database, user, options (PGOPTIONS).
# undef if it cannot connect.
sub new
{
	my ($class, $node, %options) = @_;
	my $connection = $node->connstr($options{database} // 'postgres');

	$connection .= " user=$options{user}" if defined $options{user};
	local $ENV{PGOPTIONS} = $options{options} if defined $options{options};
	my $pid = open3(
		my $in, my $out, undef, 'psql',
		'-XAt', '-v', 'VERBOSITY=verbose', '-v',
		'SHOW_CONTEXT=never', '-d', $connection);
	my $self = bless {
		in => $in,
		out => $out,
		psql => $pid,
		select => IO::Select->new($out),
		buffer => '',
		number => 0,
		owner => $$
	}, $class;

	my $result = $self->query('SELECT pg_backend_pid()');
	$self->{pid} = $result->{rows}[0] unless $result->{lost};
	return $self->{pid} ? $self : undef;
}

# A session in whose commit, at the end of the SQL, the server waits for a
# synchronous standby, as "observer" sees.
sub waiting_for_standby
{
	my ($class, $node, $observer, $sql) = @_;
	my $self = $class->new($node);

	$self->send($sql);
	poll_until(
		sub {
			$observer->value(
				"SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $self->{pid}") eq
			  't';
		}) or die "does not wait for the standby: $sql";
	return $self;
}

sub DESTROY
{
	my ($self) = @_;

	return unless $self->{psql} && $self->{owner} == $$;
	local ($?, $!);
	close $self->{in};
	kill 'TERM', $self->{psql};
	waitpid $self->{psql}, 0;
}

# Sends SQL, maybe several statements, without waiting for anything.
sub send
{
	my ($self, $sql) = @_;
	local $SIG{PIPE} = 'IGNORE';

	$self->{number}++;
	syswrite $self->{in}, "$sql\n;\n\\echo end of $self->{number}\n";
	return;
}

# Waits for the answer to the last send().  Dies after PostgreSQL::Test's
# timeout; with a number of seconds it gives undef instead, and the answer is
# still to come.
sub receive
{
	my ($self, $seconds) = @_;
	my $deadline = time + ($seconds // $PostgreSQL::Test::Utils::timeout_default);
	my $end = qr/^end of $self->{number}\n/m;
	my %result = (rows => [], sqlstate => '', message => '', lost => 0);

	until ($self->{buffer} =~ $end)
	{
		my $left = $deadline - time;

		if ($left < 0 || !$self->{select}->can_read($left))
		{
			next if $left > 0;
			return undef if defined $seconds;
			die "no answer from session $self->{pid}";
		}
		next if sysread $self->{out}, $self->{buffer}, 65536, length $self->{buffer};
		$result{lost} = 1;
		last;
	}
	my $text = $self->{buffer};
	$self->{buffer} = '';
	$text =~ s/$end//;
	for (split /\n/, $text)
	{
		if (/^(?:ERROR|FATAL|PANIC):  (\w{5}): (.*)/)
		{
			($result{sqlstate}, $result{message}) = ($1, $2) unless $result{sqlstate};
		}
		elsif (
			!/^(?:WARNING|NOTICE|DETAIL|HINT|LOCATION|CONTEXT|STATEMENT|SCHEMA NAME|TABLE NAME|CONSTRAINT NAME):/
		  )
		{
			push @{ $result{rows} }, $_;
		}
	}
	$result{text} = $text;
	return \%result;
}

sub query
{
	my ($self, $sql) = @_;

	$self->send($sql);
	return $self->receive;
}

# The same, or undef if there is no answer after some seconds; it is waited for
# by the next query then.
sub query_within
{
	my ($self, $sql, $seconds) = @_;

	$self->receive if $self->{late};
	$self->send($sql);
	my $result = $self->receive($seconds);
	$self->{late} = !$result;
	return $result;
}

# Of a query that succeeds: its rows as one string.  Dies if it fails.
sub value
{
	my ($self, $sql) = @_;
	my $result = $self->query($sql);

	die "$sql failed: $result->{text}" if $result->{sqlstate} || $result->{lost};
	return join "\n", @{ $result->{rows} };
}

# Whether a process runs; one that nobody has waited for yet does not.
sub is_running
{
	my ($pid) = @_;

	open my $file, '<', "/proc/$pid/stat" or return 0;
	my $stat = <$file> // return 0;
	return $stat =~ /^\d+ \(.*\) [^ZX]/s;
}

# Polls until a condition holds; false after PostgreSQL::Test's timeout.
sub poll_until
{
	my ($condition) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	until ($condition->())
	{
		return 0 if time > $deadline;
		usleep(2000);
	}
	return 1;
}

# Sends a signal to a backend.  One that is stopped goes on at the latest when
# the test ends, or its server would never stop.
sub signal_backend
{
	my ($signal, $pid) = @_;

	kill $signal, $pid or die "could not send SIG$signal to $pid: $!";
	$stopped{$pid} = 1 if $signal eq 'STOP';
	delete $stopped{$pid} if $signal eq 'CONT';
	return;
}

sub postmaster_pid
{
	my ($node) = @_;
	my ($pid) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;

	return $pid;
}

# kill -9 of a whole server at once.  The postmaster is stopped first, so that
# it starts no more processes than those that are found; all of them are in
# the data directory.
sub kill_server
{
	my ($node) = @_;
	my $postmaster = postmaster_pid($node);

	kill 'STOP', $postmaster or die "could not stop the postmaster: $!";
	poll_until(sub { state_of($postmaster) eq 'T' }) or die 'the postmaster does not stop';
	kill 'KILL', processes_in($node->data_dir);
	poll_until(sub { !processes_in($node->data_dir) && !is_running($postmaster) })
	  or die 'the server does not die';
	# until its parent has waited for it, a new postmaster would think it alive
	unlink $node->data_dir . '/postmaster.pid', $node->host . '/.s.PGSQL.' . $node->port . '.lock';
	$node->{_pid} = undef;
	return;
}

# A process's state, as in ps; empty if there is none.
sub state_of
{
	my ($pid) = @_;

	open my $file, '<', "/proc/$pid/stat" or return '';
	return (<$file> // '') =~ /^\d+ \(.*\) (\S)/s ? $1 : '';
}

# Those whose working directory it is.
sub processes_in
{
	my $directory = realpath(shift);

	return map { m{(\d+)} } grep { (readlink("$_/cwd") // '') eq $directory } glob '/proc/[0-9]*';
}

END
{
	kill 'CONT', $_ for keys %stopped;
}

# Has "giant" commit "begin", which produces very many records to a
# partition, and stops its process while it holds the append lock, which
# "waiter" waits for with "sql": both are sent.  The proof that the lock is
# held, not only that it was: the giant has still its transaction id, and
# the waiter waits.
sub hold_append_lock
{
	my (%arguments) = @_;
	my ($giant, $waiter, $observer) = @arguments{qw(giant waiter observer)};
	my $probe = Session->new($arguments{node});

	$giant->value($arguments{begin});
	$giant->send('COMMIT');
	poll_until(
		sub {
			$observer->value(
				qq{
			SELECT backend_xid IS NOT NULL FROM pg_stat_activity
			WHERE pid = $giant->{pid} AND query LIKE 'COMMIT%'}) eq 't';
		}) or die 'the giant does not commit';
	$waiter->send($arguments{sql});
	poll_until(sub { is_waiting($observer, $waiter) }) or die 'the waiter does not wait';
	stop_between($giant->{pid}, $probe, $arguments{reading});
	die 'the giant was too fast'
	  unless is_waiting($observer, $waiter)
	  && $observer->value(
		"SELECT backend_xid IS NOT NULL FROM pg_stat_activity WHERE pid = $giant->{pid}") eq 't';
	return;
}

# Stops a process that appends, but not where it holds one of PostgreSQL's own
# locks for that: on WAL, which would stop every commit in the server, or on a
# page, which would stop whoever is "reading".
sub stop_between
{
	my ($pid, $probe, $reading) = @_;

	while (1)
	{
		signal_backend('STOP', $pid);
		$probe->send("SELECT pg_logical_emit_message(true, 'probe', ''); $reading");
		return if $probe->receive(2);
		signal_backend('CONT', $pid);
		$probe->receive;
	}
}

# Waits until so many followers have asked the leader for more, and it has nothing to give: one
# that is stopped then is sent to next
sub wait_until_asked
{
	my ($observer, $followers) = @_;

	poll_until(
		sub {
			$observer->value(
				qq{
				SELECT count(*) = $followers FROM pg_stat_activity
				WHERE state = 'active' AND query LIKE 'CALL topic_log.replica_fetch%' AND wait_event IS NOT NULL
				AND datname = 'postgres'}) eq 't';
		}) or die 'followers do not ask';
	return;
}

# Whether a session sleeps in its query, as another one sees it
sub is_waiting
{
	my ($observer, $waiter) = @_;

	return $observer->value(
		qq{
		SELECT state = 'active' AND wait_event_type IN ('Extension', 'LWLock')
		FROM pg_stat_activity WHERE pid = $waiter->{pid}}) eq 't';
}

1;
