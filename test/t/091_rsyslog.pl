# docs/recipes/log-aggregation.md: rsyslog writes into a topic, with the
# configuration that the page prints.  Only the server, and the input (a
# socket in place of the system's), are this test's own.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use IO::Socket::UNIX;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

my ($rsyslogd) = grep { -x } map { "$_/rsyslogd" } split(/:/, $ENV{PATH}), '/usr/sbin';
die 'no rsyslogd: install the packages rsyslog and rsyslog-pgsql' unless $rsyslogd;

my $page = slurp_file("$FindBin::RealBin/../../docs/recipes/log-aggregation.md");
my ($conf) = $page =~ /^```conf\n(.*?)^```/ms or die 'the page has no configuration';
my ($setup) = $page =~ /^## The topic\n.*?^```sql\nCREATE EXTENSION pg_topics;\n(.*?)^```/ms or die 'the page has no topic';

my $node = topics_node('main');
# the page's role connects by itself here
$node->safe_psql('postgres', $setup);
append_to_file($node->data_dir . '/pg_hba.conf', "local all all trust\n");
$node->reload;

my $directory = PostgreSQL::Test::Utils::tempdir_short;
my $server = sprintf 'postgresql://syslog_writer@/postgres?host=%s&port=%d', $node->host, $node->port;
$conf =~ s{conninfo="[^"]*"}{conninfo="$server"} or die 'no conninfo';
append_to_file("$directory/rsyslog.conf", qq{global(workDirectory="$directory")
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="$directory/log")
$conf});

my $daemon;

sub start_rsyslog
{
	$daemon = fork // die "could not fork: $!";
	if ($daemon == 0)
	{
		open STDOUT, '>>', "$directory/output";
		open STDERR, '>&', \*STDOUT;
		exec $rsyslogd, '-n', '-f', "$directory/rsyslog.conf", '-i', "$directory/pid" or POSIX::_exit(1);
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
END { local $?; if ($daemon) { kill 'TERM', $daemon; waitpid $daemon, 0 } }

# As syslog(3) would: priority 12 is user.warning, 86 authpriv.info
sub say_to_log
{
	my ($priority, $program, $message) = @_;
	my $socket = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Peer => "$directory/log") or die "log socket: $!";

	defined $socket->send("<$priority>Mar  1 10:00:01 $program: $message") or die "log socket: $!";
	return;
}

ok(start_rsyslog(), 'rsyslog starts with the configuration of the page') or diag(slurp_file("$directory/output"));
say_to_log(12, 'app[42]', q{it's a "test" with \ and 'quotes'; DROP TABLE x; -- Größe});
say_to_log(86, 'sshd', 'Accepted publickey for root');
say_to_log(12, 'app[42]', "line $_") for 1 .. 500;
ok($node->poll_query_until('postgres', 'SELECT count(*) = 502 FROM topic.syslog'), 'every message comes into the topic');
is($node->safe_psql('postgres', q{SELECT r.value ->> 'program', r.value ->> 'severity', r.value ->> 'message' FROM topic.syslog r
		WHERE r.value ->> 'message' NOT LIKE '%line %' ORDER BY r.offset}) =~ s/\| /|/gr,
	qq{app|warning|it's a "test" with \\ and 'quotes'; DROP TABLE x; -- Größe\nsshd|info|Accepted publickey for root},
	'... with program, severity and text as they were said');
is($node->safe_psql('postgres', q{SELECT count(DISTINCT r.partition), count(DISTINCT r.key), count(*) FILTER (WHERE r.timestamp BETWEEN now() - interval '10 minutes' AND now()) FROM topic.syslog r}),
	'1|1|502', '... of one host in one partition, with the time when it was said');
is($node->safe_psql('postgres', q{SELECT string_agg(n, ' ' ORDER BY r.offset) FROM topic.syslog r, substring(r.value ->> 'message' FROM 'line (\d+)') n}),
	join(' ', 1 .. 500), '... in their order');

# The server is away: the queue keeps what comes
$node->stop('fast');
say_to_log(12, 'app', "away $_") for 1 .. 50;
$node->start;
say_to_log(12, 'app', 'after');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 51 FROM topic.syslog r WHERE r.value ->> 'message' ~ 'away|after'}),
	'what was said while the server was away is there');
stop_rsyslog();
$node->stop;
done_testing();
