# docs/recipes/log-aggregation.md, from its top to its bottom: rsyslog writes
# into a topic, with the configuration that the page prints, beside Debian's
# own rsyslog.conf, and what the page does with the messages is what it
# prints.  This test's own are only the server and where rsyslog's files are:
# it does not run as root.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use IO::Socket::UNIX;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Document;
use Session;
use Terminal;
use Topics;

my ($rsyslogd) = grep { -x } map { "$_/rsyslogd" } split(/:/, $ENV{PATH}), '/usr/sbin';
die 'no rsyslogd: install the packages rsyslog and rsyslog-pgsql' unless $rsyslogd;

my $page = slurp_file("$FindBin::RealBin/../../docs/recipes/log-aggregation.md");
my $directory = PostgreSQL::Test::Utils::tempdir_short;
my $daemon;

# ----------------------------------------------------------------------
# The server lets the page's role in by its password only
# ----------------------------------------------------------------------

my $node = topics_node('main', extension => 0);
my $hba = $node->data_dir . '/pg_hba.conf';
my $rules = slurp_file($hba);
unlink $hba;
append_to_file($hba, "local all syslog_writer scram-sha-256\n$rules");
$node->reload;

# ----------------------------------------------------------------------
# rsyslog
# ----------------------------------------------------------------------

# Debian's configuration, with its files in our directory, without what needs
# root, and with the machine's name that the page prints
sub debian_conf
{
	my $conf = slurp_file('/etc/rsyslog.conf');

	$conf =~ s{^module\(load="imuxsock"\)}{module(load="imuxsock" SysSock.Name="$directory/log")}m
	  or die '/etc/rsyslog.conf does not load imuxsock';
	$conf =~ s{^module\(load="imklog"\).*\n}{}m;
	$conf =~ s{^\$(?:FileOwner|FileGroup) .*\n}{}mg;
	$conf =~ s{/var/spool/rsyslog|/var/log|/etc/rsyslog\.d}{$directory}g;
	return qq{global(localHostname="web1")\n$conf};
}

# As the page says, /etc/rsyslog.d/pgsql.conf; only the server is another
sub write_conf
{
	my ($conf) = @_;
	my $server = sprintf '@/postgres?host=%s&port=%d', $node->host, $node->port;

	$conf =~ s{(conninfo="[^"@]*)[^"]*"}{$1$server"} or die 'no conninfo';
	append_to_file("$directory/pgsql.conf", $conf);
	append_to_file("$directory/rsyslog", debian_conf());
	return;
}

sub start_rsyslog
{
	$daemon = fork // die "could not fork: $!";
	if ($daemon == 0)
	{
		open STDOUT, '>>', "$directory/output";
		open STDERR, '>&', \*STDOUT;
		exec $rsyslogd, '-n', '-f', "$directory/rsyslog", '-i', "$directory/pid" or POSIX::_exit(1);
	}
	return poll_until(sub { -S "$directory/log" });
}

sub stop_rsyslog
{
	kill 'TERM', $daemon;
	waitpid $daemon, 0;
	undef $daemon;
	unlink "$directory/log";
	return;
}

END
{
	local $?;
	if ($daemon) { kill 'TERM', $daemon; waitpid $daemon, 0 }
}

# ----------------------------------------------------------------------
# The page
# ----------------------------------------------------------------------

# The page's commands are those of an administrator: of these, only what
# says something to the log can be run here
sub run_commands
{
	my ($commands) = @_;
	my $said = 0;

	for my $command (split /\n/, $commands)
	{
		if ($command =~ /^sudo systemctl restart rsyslog$/)
		{
			ok(start_rsyslog(), 'rsyslog starts') or diag(slurp_file("$directory/output"));
		}
		elsif ($command =~ s/^logger /logger -u $directory\/log /)
		{
			system($command) == 0 or die "could not run $command";
			$said++;
		}
		else
		{
			like($command, qr/^sudo (?:apt-get|chmod) /, "known: $command");
		}
	}
	return unless $said;
	return ok(
		$node->poll_query_until(
			'postgres', qq{
			SELECT count(*) = $said FROM topic.syslog r WHERE r.value ->> 'program' IN ('sshd', 'backup')}),
		'what was said to rsyslog comes into the topic');
}

my %blocks;
my $psql = Terminal->new($node, 'postgres', (Terminal::editors())[0]);
for my $block (blocks_of($page))
{
	my $language = $block->{language};

	$blocks{$language}++;
	paste_example($psql, 'the page', $block) if $language eq 'sql';
	write_conf($block->{text}) if $language eq 'conf';
	run_commands($block->{text}) if $language eq 'sh';
}
undef $psql;
is_deeply(\%blocks, { sql => 4, text => 1, sh => 2, conf => 1 }, 'all of the page was run');
is(slurp_file("$directory/output"), '', 'rsyslog has nothing to say of its configuration');

# ----------------------------------------------------------------------
# What the page promises
# ----------------------------------------------------------------------

# As syslog(3) would: priority 12 is user.warning
sub say_to_log
{
	my ($program, $message) = @_;
	my $socket = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Peer => "$directory/log")
	  or die "log socket: $!";

	defined $socket->send("<12>Mar  1 10:00:01 $program: $message") or die "log socket: $!";
	return;
}

say_to_log('app[42]', q{it's a "test" with \ and 'quotes'; DROP TABLE x; -- Größe});
say_to_log('app[42]', "not \xff UTF-8");
say_to_log('app[42]', "line $_") for 1 .. 500;
ok( $node->poll_query_until(
		'postgres',
		q{SELECT count(*) = 502 FROM topic.syslog r WHERE r.value ->> 'program' = 'app'}),
	'every message comes into the topic');
is( $node->safe_psql(
		'postgres', q{SELECT r.value ->> 'severity', r.value ->> 'message' FROM topic.syslog r
		WHERE r.value ->> 'program' = 'app' AND r.value ->> 'message' NOT LIKE 'line %' ORDER BY r.offset}
	),
	qq{warning|it's a "test" with \\ and 'quotes'; DROP TABLE x; -- Größe\nwarning|not   UTF-8},
	'... as it was said, but for a byte that is not UTF-8');
is( $node->safe_psql(
		'postgres', q{SELECT count(DISTINCT r.partition), min(r.key), max(r.key) FROM topic.syslog r
		WHERE r.timestamp BETWEEN now() - interval '10 minutes' AND now() AND r.value ->> 'program' = 'app'}
	),
	'1|web1|web1',
	'... of one host in one partition, with the time when it was said');
is( $node->safe_psql(
		'postgres',
		q{SELECT string_agg(n, ' ' ORDER BY r.offset) FROM topic.syslog r, substring(r.value ->> 'message' FROM '^line (\d+)') n}
	),
	join(' ', 1 .. 500),
	'... in their order');

# The server is away: the queue keeps what comes
$node->stop('fast');
say_to_log('app', "away $_") for 1 .. 50;
$node->start;
say_to_log('app', 'after');
ok( $node->poll_query_until(
		'postgres',
		q{SELECT count(*) = 51 FROM topic.syslog r WHERE r.value ->> 'message' ~ 'away|after'}),
	'what was said while the server was away is there');
stop_rsyslog();
$node->stop;
done_testing();
