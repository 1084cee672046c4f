# Real input: three groups follow a web server's access log at once.  One counts
# hits per visitor into a table while its sessions are killed, one is woken by
# LISTEN in one session and by CALL wait in another, one consumes through
# PgBouncer in transaction pooling.  Each has
# seen every line once in the end, and the counts are those of a plain GROUP BY.
#
# PG_TOPICS_DATA names the directory; without it, ../shared/data beside the
# repository.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use POSIX qw(WNOHANG);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

my $data = $ENV{PG_TOPICS_DATA} || "$FindBin::RealBin/../../../shared/data";
plan skip_all => "no access.log in $data (PG_TOPICS_DATA names its directory)"
  unless -r "$data/access.log";
my ($bouncer) = grep { -x } map { "$_/pgbouncer" } split(/:/, $ENV{PATH}), '/usr/sbin';
die 'no pgbouncer: install the package' unless $bouncer;

my $node = topics_node('main', conf => "log_statement = none\nmax_connections = 60\n");
my $directory = PostgreSQL::Test::Utils::tempdir;
open my $log, '<:raw', "$data/access.log" or die "access.log: $!";
my @lines = <$log>;
chomp @lines;
$node->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('access', 6, segment_bytes => 262144);
	CREATE TABLE original (visitor text, line text);
	CREATE TABLE hits (visitor text PRIMARY KEY, hits bigint NOT NULL);
	CREATE TABLE followed (partition int, "offset" bigint, line text);
	CREATE TABLE waiting (followed bigint);
	CREATE TABLE told (at timestamptz DEFAULT now());
	CREATE TABLE pooled (partition int, "offset" bigint, line text, session int DEFAULT pg_backend_pid());}
);

# ----------------------------------------------------------------------
# PgBouncer: 3 connections of its own for all clients
# ----------------------------------------------------------------------

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $user = $node->safe_psql('postgres', 'SELECT current_user');
append_to_file(
	"$directory/pgbouncer.ini",
	join "\n",
	'[databases]',
	"postgres = host=@{[$node->host]} port=@{[$node->port]} dbname=postgres user=$user pool_size=3",
	'[pgbouncer]',
	'pool_mode = transaction',
	'listen_addr =',
	"listen_port = $port",
	"unix_socket_dir = $directory",
	'auth_type = any',
	"logfile = $directory/pgbouncer.log",
	"pidfile = $directory/pgbouncer.pid",
	'');
system_or_bail($bouncer, '-d', "$directory/pgbouncer.ini");

END
{
	local $?;
	kill 'TERM', slurp_file("$directory/pgbouncer.pid")
	  if defined $directory && -s "$directory/pgbouncer.pid";
}

# A client of PgBouncer: as a Session, with another connection string
{

	package Pooled;
	sub host    { return $directory }
	sub connstr { return "host=$directory port=$port dbname=postgres" }
}
my $pooled = bless {}, 'Pooled';

# ----------------------------------------------------------------------
# Load
# ----------------------------------------------------------------------

my %children;

sub start
{
	my ($function) = @_;
	my $child = fork;

	die "could not fork: $!" unless defined $child;
	if ($child == 0)
	{
		srand $$;
		eval { $function->(); 1 } or do { print STDERR "client: $@"; POSIX::_exit(1) };
		POSIX::_exit(0);
	}
	$children{$child} = 1;
	return;
}

# Until every line is done: a function is given a session, and says whether to
# go on after it has looked.
sub work
{
	my ($where, $sql, $table) = @_;
	my $session;

	while (1)
	{
		$session //= Session->new($where) or next;
		my $result = $session->query($sql);
		if ($result->{lost}) { undef $session; next }
		die $result->{text}
		  if $result->{sqlstate} && $result->{sqlstate} !~ /^(57P01|08P01|08006)$/;
		last if grep { /^done$/ } @{ $result->{rows} };
		select undef, undef, undef, 0.02;    # else they take the processors from who produces
	}
	return;
}

# Consumes when it was told that there are records, and until there are none;
# says so when it begins to wait.  A notification can come with the answer to
# any query.  The other session may take all that it was told of, so that it is
# only sure to be told of what comes while it waits.
sub listen_and_follow
{
	my $session = Session->new($node);
	my $done = "SELECT 1 FROM followed HAVING count(*) >= " . @lines;
	my ($told, $times) = (0, 0);
	my $ask = sub {
		my @rows = @{ $session->query($_[0])->{rows} };

		$told ||= grep { /^Asynchronous notification "topic_/ } @rows;
		return grep { /^\d+$/ } @rows;
	};

	$session->value('LISTEN ' . $session->value(q{SELECT topics.channel('access')}));
	while (1)
	{
		$told = 0;
		my ($count) = $ask->(
			q{
			WITH done AS (INSERT INTO followed SELECT partition, r.offset, value
				FROM topics.consume('following', 'access', 200) r RETURNING 1)
			SELECT count(*) FROM done});
		next if $count > 0;
		$ask->('INSERT INTO waiting SELECT count(*) FROM followed');
		poll_until(sub { my $end = $ask->($done); $told || ($end && $times) })
		  or die 'was told of nothing';
		last unless $told;
		$times++;
		$session->value('INSERT INTO told DEFAULT VALUES');
	}
	return;
}

my $total = @lines;
my $done = sub { "SELECT 'done' FROM $_[0] HAVING $_[1] >= $total" };
my $count = q{
	BEGIN;
	INSERT INTO hits SELECT split_part(value, ' ', 1), count(*) FROM topics.consume('counting', 'access', 100) GROUP BY 1 ORDER BY 1
	ON CONFLICT (visitor) DO UPDATE SET hits = hits.hits + excluded.hits;
	COMMIT;
	} . $done->('hits', 'sum(hits)');
my $follow = q{
	CALL topics.wait('following', 'access', '1 s');
	INSERT INTO followed SELECT partition, r.offset, value FROM topics.consume('following', 'access', 200) r;
	} . $done->('followed', 'count(*)');
my $pool = q{
	BEGIN;
	INSERT INTO pooled (partition, "offset", line) SELECT partition, r.offset, value FROM topics.consume('pooled', 'access', 50) r;
	COMMIT;
	} . $done->('pooled', 'count(*)');

start(sub { work($node, $count) }) for 1 .. 3;
start(sub { work($node, $follow) });
start(\&listen_and_follow);
start(sub { work($pooled, $pool) }) for 1 .. 6;

# The log comes while they work, and with each part one of the sessions that
# count is killed in the middle of what it does.
my $killer = Session->new($node);
my $killed = 0;

sub kill_one
{
	return poll_until(
		sub {
			$killer->value(
				q{SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity
				WHERE query LIKE '%counting%' AND state <> 'idle' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1) s}
			);
		}) && ++$killed;
}

sub escape
{
	return $_[0] =~
	  s/([\\\t\r\n])/"\\" . { "\\" => "\\", "\t" => 't', "\r" => 'r', "\n" => 'n' }->{$1}/ger;
}
my @copy = map { escape((split / /)[0]) . "\t" . escape($_) . "\n" } @lines;
append_to_file("$directory/original", join '', @copy);
$node->safe_psql('postgres', "\\copy original FROM '$directory/original'");
my $parts = 0;
while (my @part = splice @copy, 0, @lines / 40)
{
	$parts++;
	append_to_file("$directory/part.$parts", join '', @part);
	if (!@copy)
	{
		my $before = $total - @part;
		poll_until(sub { $killer->value("SELECT count(*) FROM waiting WHERE followed = $before") })
		  or die 'nobody waits';
	}
	$node->safe_psql('postgres', "\\copy topic.access (key, value) FROM '$directory/part.$parts'");
	kill_one() if @copy;
}

my $failures = 0;
ok( poll_until(
		sub {
			for my $child (keys %children)
			{
				next if waitpid($child, WNOHANG) == 0;
				$failures++ if $?;
				delete $children{$child};
			}
			return !%children;
		}),
	'three groups come to the end of the log');
is($failures, 0, '... without an error');
cmp_ok($killed, '>=', 39, "... while $killed sessions of one were killed");

# ----------------------------------------------------------------------
# What they have
# ----------------------------------------------------------------------

is($node->safe_psql('postgres', 'SELECT count(*) FROM original'), $total, "$total lines");
is( $node->safe_psql(
		'postgres', q{
		SELECT count(*) FROM ((SELECT visitor, count(*) FROM original GROUP BY 1 EXCEPT SELECT * FROM hits)
		UNION ALL (SELECT * FROM hits EXCEPT SELECT visitor, count(*) FROM original GROUP BY 1)) d}),
	'0',
	'hits per visitor are those of a plain GROUP BY');
for my $table ('followed', 'pooled')
{
	is( $node->safe_psql(
			'postgres',
			qq{SELECT count(*), count(DISTINCT (partition, "offset")), count(r.offset) FILTER (WHERE r.value = line)
			FROM $table LEFT JOIN topic.access r USING (partition, "offset")}),
		"$total|$total|$total",
		"$table: every line once");
}
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM told'),
	'>', 0, 'notifications have woken one session');
is($node->safe_psql('postgres', q{SELECT count(*), sum(lag) FROM topics.consumer_lag}),
	'18|0', 'no group has a lag');
my $pool_sessions = $node->safe_psql('postgres', 'SELECT count(DISTINCT session) FROM pooled');
cmp_ok($pool_sessions, '<=', 3,
	"6 clients of PgBouncer shared $pool_sessions sessions of the server");
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_locks WHERE locktype = 'userlock'}),
	'0', 'no claim is left');
$node->stop;
done_testing();
