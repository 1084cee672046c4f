# Retention on whole servers: real input of four days of which one stays, by
# the worker alone; the log start survives crash, dump and restore, and a
# standby sees it; a long reader delays space and nothing else; a restore
# beside a worker loses nothing.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::Local qw(timegm);
use Topics;
use TopicState;

my $node = topics_node(
	'main',
	init => { allows_streaming => 1 },
	conf =>
	  "pg_topics.worker_interval = '100ms'\nautovacuum = off\nmax_locks_per_transaction = 512\n");
my $temporary = PostgreSQL::Test::Utils::tempdir;

sub segments
{
	my ($where, $topic, $condition) = @_;

	return $where->safe_psql('postgres',
		"SELECT count(*) FROM topics.segment WHERE topic = '$topic' AND state <> 'spare' AND $condition"
	);
}

# ----------------------------------------------------------------------
# A long reader
# ----------------------------------------------------------------------

$node->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('read', retention_time => '-1 s');
	SELECT count(topics.produce('read', repeat('x', 100))) FROM generate_series(1, 1000);
	CALL topics.roll_segment('read');
	SELECT count(topics.produce('read', repeat('y', 100))) FROM generate_series(1, 1000);
	CALL topics.roll_segment('read');});
my $reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($reader->query_safe('SELECT count(*) FROM topic.read'), '2000', 'a reader begins');

$node->safe_psql('postgres', q{SELECT topics.alter_topic('read', retention_bytes => 0)});
ok( $node->poll_query_until(
		'postgres', q{SELECT log_start_offset = 2000 FROM topics.partition WHERE topic = 'read'}),
	'the worker moves the log start all the same');
is($node->safe_psql('postgres', 'SELECT count(*) FROM topic.read'),
	'0', 'others see nothing below it');
is($reader->query_safe('SELECT count(*) FROM topic.read'),
	'2000', 'the reader still sees what it saw');
is((sqlstate_of($node, 'postgres', q{SELECT * FROM topics.fetch('read', 0, 1999)}))[0],
	'TP001', 'a consumer that was behind is told');
# the worker has tried to drop, and goes on trying: nobody queues behind it for long
is($node->safe_psql('postgres', q{SET lock_timeout = '5s'; CALL topics.send('read', 'z')}),
	'0|2000', 'producers go on');
is( $node->safe_psql(
		'postgres', q{SET lock_timeout = '5s'; SELECT count(*) FROM topics.fetch('read', 0, 2000)}),
	'1',
	'readers go on');
is(segments($node, 'read', "state = 'deleted'"), '2', 'space waits for the reader');
$reader->query_safe('COMMIT');
ok( $node->poll_query_until(
		'postgres',
		q{SELECT count(*) = 0 FROM topics.segment WHERE topic = 'read' AND state = 'deleted'}),
	'and comes back when it has gone');
$reader->quit;

# ----------------------------------------------------------------------
# Four days of a web server's log
# ----------------------------------------------------------------------

my $data = $ENV{PG_TOPICS_DATA} || "$FindBin::RealBin/../../../shared/data";

SKIP:
{
	skip "no access.log in $data (PG_TOPICS_DATA names its directory)", 8
	  unless -r "$data/access.log";

	open my $handle, '<:raw', "$data/access.log" or die "$data/access.log: $!";
	my @lines = <$handle>;
	chomp @lines;
	close $handle;

	# the log's own times, moved: all is logged at five past the hour, and the
	# day that stays begins half an hour off that
	my @times = map {
		m{\[(\d+)/May/(\d+):(\d+):(\d+):(\d+) \+0000\]}
		  ? timegm($5, $4, $3, $1, 4, $2)
		  : die "no time: $_"
	} @lines;
	my ($last) = sort { $b <=> $a } @times;
	my $shift = time - $last - 1800;
	my %hours;
	for my $i (0 .. $#lines)
	{
		push @{ $hours{ int($times[$i] / 3600) } }, $i;
	}
	my $script = qq{SELECT topics.create_topic('access', 2, retention_time => '-1 s');\n};
	for my $hour (sort { $a <=> $b } keys %hours)
	{
		$script .= qq{COPY topic.access (key, value, "timestamp") FROM STDIN;\n};
		for my $i (@{ $hours{$hour} })
		{
			my ($visitor) = split / /, $lines[$i];
			my $value = $lines[$i] =~ s/([\\\t])/"\\" . ($1 eq "\t" ? 't' : $1)/ger;
			my @at = gmtime($times[$i] + $shift);

			$script .= sprintf "%s\t%s\t%04d-%02d-%02d %02d:%02d:%02d+00\n", $visitor, $value,
			  $at[5] + 1900, $at[4] + 1, @at[ 3, 2, 1, 0 ];
		}
		$script .= "\\.\nCALL topics.roll_segment('access');\n";
	}
	append_to_file("$temporary/access.sql", $script);
	$node->safe_psql('postgres', "\\i $temporary/access.sql");
	is( $node->safe_psql('postgres', 'SELECT count(*) FROM topic.access'),
		scalar @lines,
		'four days are there');
	cmp_ok(segments($node, 'access', 'true'), '>=', 2 * keys %hours, 'in segments of an hour');
	my %before = map {
		$_ => $node->safe_psql('postgres',
			qq{SELECT value FROM topic.access WHERE partition = $_ AND "timestamp" >= now() - interval '1 day' ORDER BY "offset"}
		)
	} (0, 1);

	$node->safe_psql('postgres', q{SELECT topics.alter_topic('access', retention_time => '1 day')});
	ok( $node->poll_query_until(
			'postgres',
			q{SELECT bool_and(first_timestamp >= now() - interval '1 day') FROM topics.partition WHERE topic = 'access'}
		),
		'the worker lets expired hours go');
	ok( $node->poll_query_until(
			'postgres',
			q{SELECT count(*) = 0 FROM topics.segment WHERE topic = 'access' AND state = 'deleted'}
		),
		'and their files');
	my @stay = grep { $times[$_] + $shift >= time - 86400 } 0 .. $#lines;
	is($node->safe_psql('postgres', 'SELECT count(*) FROM topic.access'),
		scalar @stay, 'the last day stays');
	cmp_ok(segments($node, 'access', 'true'), '<=', 2 * 26, 'in a day of segments');

	# by offset, with the bytes of the file
	my %seen;
	for my $partition (0, 1)
	{
		is( $node->safe_psql(
				'postgres',
				qq{SELECT value FROM topics.fetch('access', $partition, (SELECT log_start_offset FROM topics.partition WHERE topic = 'access' AND partition = $partition), 100000, 100000000)}
			),
			$before{$partition},
			"partition $partition: what stays is what was there, at its place");
		push @{ $seen{all} }, split /\n/, $before{$partition};
	}
	is( join("\n", sort @{ $seen{all} }),
		join("\n", sort @lines[@stay]),
		'and the bytes of the file');
}

# ----------------------------------------------------------------------
# It survives
# ----------------------------------------------------------------------

# hidden inside a segment, all deleted, all dropped
$node->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('kept', 4, retention_time => '-1 s', segment_bytes => 65536);
	SELECT count(topics.produce('kept', i || repeat('x', 100), partition => p)) FROM generate_series(1, 300) i, generate_series(0, 3) p;
	CALL topics.roll_segment('kept');
	SELECT count(topics.produce('kept', i || repeat('x', 100), partition => p)) FROM generate_series(1, 300) i, generate_series(0, 3) p;
	SELECT topics.delete_records('kept', 0, 100), topics.delete_records('kept', 1, 450), topics.delete_records('kept', 2, -1);}
);
ok( $node->poll_query_until(
		'postgres',
		q{SELECT count(*) = 0 FROM topics.segment WHERE topic = 'kept' AND state = 'deleted'}),
	'what is below is dropped');

my $ends =
  q{SELECT partition, log_start_offset, log_end_offset FROM topics.partition WHERE topic = 'kept' ORDER BY 1};
my $expected = "0|100|600\n1|450|600\n2|600|600\n3|0|600";
my $shown =
  q{SELECT partition, min(r.offset), max(r.offset), count(*) FROM topic.kept r GROUP BY 1 ORDER BY 1};
my $rows = "0|100|599|500\n1|450|599|150\n3|0|599|600";

sub check_kept
{
	my ($where, $name, $database) = @_;
	$database //= 'postgres';

	is($where->safe_psql($database, $ends), $expected, "$name: the ends of the log");
	is($where->safe_psql($database, $shown), $rows, "$name: what is shown");
	like(
		($where->psql($database, q{SELECT * FROM topics.fetch('kept', 2, 599)}))[2],
		qr/out of range/,
		"$name: what was deleted is out of range");
	return;
}

check_kept($node, 'at first');
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('flush'));
check_kept($standby, 'on a standby');
$standby->stop;

kill_and_start($node);
check_kept($node, 'after kill -9');
wait_for_worker($node, 'postgres', 'the worker is back');

my $target = topics_node('target', extension => 0, conf => "pg_topics.worker_interval = '100ms'\n");
command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('postgres'), '-f', "$temporary/dump" ],
	'pg_dump');
command_ok(
	[
		'pg_restore', '--exit-on-error', '-j', '2', '-d', $target->connstr('postgres'),
		"$temporary/dump"
	],
	'pg_restore');
check_kept($target, 'restored');

for my $where ($node, $target)
{
	is($where->safe_psql('postgres', qq{CALL topics.send('kept', 'next', partition => $_)}),
		"$_|600", "partition $_ goes on at the next offset on " . $where->name)
	  for 0 .. 3;
}

# ----------------------------------------------------------------------
# A restore beside a worker
# ----------------------------------------------------------------------

# segments that are not restored yet must not pass for expired ones
$node->safe_psql('postgres', q{CREATE DATABASE old});
$node->safe_psql(
	'old', q{
	CREATE EXTENSION pg_topics;
	SELECT topics.create_topic('t', retention_time => '1 day');
	SELECT count(topics.produce('t', i::text)) FROM generate_series(1, 100) i;
	CALL topics.roll_segment('t');
	SELECT count(topics.produce('t', i::text)) FROM generate_series(1, 100) i;
	CALL topics.roll_segment('t');
	SELECT count(topics.produce('t', i::text)) FROM generate_series(1, 100) i;});
command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('old'), '-f', "$temporary/old" ], 'pg_dump');
$node->safe_psql('postgres', q{CREATE DATABASE new});
my @new = ('-d', $node->connstr('new'));
command_ok([ 'pg_restore', '--exit-on-error', '--section=pre-data', @new, "$temporary/old" ],
	'restore pre-data');
my @data = grep { /TABLE DATA|SEQUENCE SET/ } split /\n/,
  (run_command([ 'pg_restore', '--list', '--section=data', "$temporary/old" ]))[0];
my @first = grep { !/ t\d+_p\d+_s\d+ / } @data;
my @lower = grep { / t\d+_p\d+_s[12] / } @data;
my @upper = grep { / t\d+_p\d+_s[3-9] / } @data;
is(scalar @lower, 2, 'two segments below');

for my $part (\@first, \@upper, \@lower)
{
	unlink "$temporary/list";
	append_to_file("$temporary/list", join("\n", @$part) . "\n");
	command_ok([ 'pg_restore', '--exit-on-error', '-L', "$temporary/list", @new, "$temporary/old" ],
		'restore data');
	next if $part == \@first;
	$node->safe_psql('new', q{CALL topics.maintain('t')});
}
command_ok([ 'pg_restore', '--exit-on-error', '--section=post-data', @new, "$temporary/old" ],
	'restore post-data');
$node->safe_psql('new', q{CALL topics.maintain('t')});
is($node->safe_psql('new', q{SELECT min(r.offset), max(r.offset), count(*) FROM topic.t r}),
	'0|299|300', 'nothing was taken for expired');

done_testing();
