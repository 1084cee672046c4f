# The clock goes back an hour, and ten years forward, and back: offsets and
# order do not notice, LogAppendTime never goes back within a partition,
# segment_time rolls an active segment at most once for a jump, nothing is lost.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

my ($library) = glob '/usr/lib/*/faketime/libfaketime.so.1';
plan skip_all => 'needs libfaketime (package faketime)' unless $library;

# The server's clock is what this file says, but for time that is only waited.
my $clock = "$PostgreSQL::Test::Utils::tmp_check/clock";

sub set_clock
{
	my ($offset) = @_;

	# in one step: the server reads it at every look at its clock
	append_to_file("$clock.new", "$offset\n");
	rename "$clock.new", $clock or die "could not set the clock: $!";
	return;
}

# libfaketime does not reach background workers: the postmaster starts them in a
# signal handler, in the middle of its own call of select().  So there are none,
# and topics.maintain() does in a session what the worker does.
my $node = topics_node(
	'main',
	extension => 0,
	conf => "max_worker_processes = 0\nautovacuum = off\nfsync = on\n");
$node->stop;
set_clock('+0');

sub start
{
	local $ENV{LD_PRELOAD} = $library;
	local $ENV{FAKETIME_TIMESTAMP_FILE} = $clock;
	local $ENV{FAKETIME_NO_CACHE} = 1;
	local $ENV{FAKETIME_DONT_FAKE_MONOTONIC} = 1;

	return $node->start;
}

start();
my $session = Session->new($node);
$session->value(
	q{
	CREATE EXTENSION pg_topics;
	SELECT topics.create_topic('appended', 2, timestamp_type => 'LogAppendTime', segment_time => '10 minutes', retention_time => '-1 s');
	SELECT topics.create_topic('created', 2, segment_time => '10 minutes', retention_time => '-1 s')});

my $records = 0;
my $began = time;

# What must hold at any time.
sub check
{
	my ($what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	for my $topic ('appended', 'created')
	{
		is( $session->value(
				qq{
				SELECT partition, count(*), min("offset"), max("offset"), bool_and(value::bigint = "offset")
				FROM topic.$topic GROUP BY 1 ORDER BY 1}),
			join("\n", map { "$_|$records|0|" . ($records - 1) . '|t' } 0, 1),
			"$what: $topic has all records in order");
		is( $session->value(
				qq{SELECT count(*) FROM topics.fetch('$topic', 1, 0, max_records => 10000)}),
			$records,
			'... by fetch too');
	}
	return is(
		$session->value(
			q{
			SELECT count(*) FROM (SELECT "timestamp" < lag("timestamp") OVER (PARTITION BY partition ORDER BY "offset") AS back FROM topic.appended) t
			WHERE back}),
		'0',
		'... LogAppendTime has not gone back');
}

sub produce
{
	for (1 .. 10)
	{
		for my $topic ('appended', 'created')
		{
			$session->value(
				qq{INSERT INTO topic.$topic (value, partition) VALUES ('$records', 0), ('$records', 1)}
			);
		}
		$records++;
	}
	return;
}

# As the worker does, again and again.
sub maintain
{
	$session->value('CALL topics.maintain()') for 1 .. 3;
	return;
}

sub sealed_segments
{
	return $session->value(
		q{
		SELECT string_agg(n::text, ' ' ORDER BY topic, partition)
		FROM (SELECT topic, partition, count(*) FILTER (WHERE state = 'sealed') AS n
			FROM topics.segment GROUP BY 1, 2) s});
}

sub hours_off
{
	return $session->value(q{SELECT round(extract(epoch FROM clock_timestamp() - '}
		  . gmtime($began)
		  . q{ UTC') / 3600)});
}

produce();
check('at first');
is(hours_off(), '0', 'the clock is right');
my $highest = $session->value(q{SELECT max("timestamp") FROM topic.appended});

# ----------------------------------------------------------------------
# An hour back
# ----------------------------------------------------------------------

set_clock('-3600');
is(hours_off(), '-1', 'the clock goes back an hour');
produce();
check('an hour back');
is($session->value(qq{SELECT count(*) FROM topic.appended WHERE "timestamp" > '$highest'}),
	'0', '... LogAppendTime stands still');
is( $session->value(
		qq{SELECT count(*) FROM topic.created WHERE "timestamp" < '$highest'::timestamptz - interval '30 minutes'}
	),
	'20',
	'... CreateTime is what the clock says');
maintain();
is(sealed_segments(), '0 0 0 0', '... and nothing is rolled');

# Where LogAppendTime was, the server has to find out when it starts.
$node->stop('immediate');
start();
$session = Session->new($node);
is(hours_off(), '-1', 'a crash, and a start with the clock still back');
produce();
check('after the start');
maintain();
is(sealed_segments(), '0 0 0 0', '... and nothing is rolled');

# ----------------------------------------------------------------------
# Ten years forward
# ----------------------------------------------------------------------

set_clock('+3650d');
cmp_ok(hours_off(), '>', 80000, 'the clock goes ten years forward');
maintain();
is(sealed_segments(), '1 1 1 1', '... tails are old, and rolled once');
produce();
check('ten years on');
maintain();
is(sealed_segments(), '1 1 1 1', '... and nothing is rolled again');
is( $session->value(
		q{SELECT count(*) FROM topics.list_offsets('appended', now() - interval '1 year') o WHERE o.offset = 30}
	),
	'2',
	'... the records of today are found by time');

# ----------------------------------------------------------------------
# Back to now
# ----------------------------------------------------------------------

set_clock('+0');
is(hours_off(), '0', 'the clock is right again');
produce();
check('back from there');
maintain();
is(sealed_segments(), '1 1 1 1', '... and nothing is rolled');

# An active segment that began ten years from now is rolled when its time has come since.
set_clock('+3600');
maintain();
is(sealed_segments(), '2 2 2 2', 'an hour later the active segment is rolled');
produce();
check('an hour later');
maintain();
is(sealed_segments(), '2 2 2 2', '... and nothing else is rolled');

$node->stop('immediate');
start();
$session = Session->new($node);
check('after a crash');
produce();
check('at the end');
$node->stop;
done_testing();
