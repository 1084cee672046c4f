# A full disk: of the data, of temporary files, of WAL.  The producer gets
# 53100 and its transaction is aborted, or the server ends for the lack of WAL;
# once there is space again all goes on, and nothing acknowledged is lost.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

# ./check mounts these if it is root
my $small = $ENV{PG_TOPICS_SMALL_DISKS};
plan skip_all => 'needs two small file systems, which root mounts' unless $small;

my $node = topics_node(
	'main',
	extension => 0,
	init => { extra => [ '-X', "$small-tap-wal/pg_wal", '--wal-segsize=1' ] },
	conf => q{
fsync = on
restart_after_crash = on
max_wal_size = 8MB
min_wal_size = 2MB
wal_keep_size = 0
checkpoint_timeout = 1h
autovacuum = off
pg_topics.worker_interval = 100ms
});
mkdir "$small-tap-data/space";
$node->safe_psql('postgres', qq{CREATE TABLESPACE small LOCATION '$small-tap-data/space'});
$node->safe_psql('postgres', 'CREATE DATABASE small TABLESPACE small');
# where its temporary files go as well
my ($session, $observer);
my $records = 0;

sub connect_all
{
	($session, $observer) = map { Session->new($node, database => 'small') } 1 .. 2;
	return $session && $observer;
}

ok(connect_all(), 'a database on a small disk');
$session->value(
	q{
	CREATE EXTENSION pg_topics;
	SELECT topics.create_topic('t', segment_bytes => 1048576);
	SELECT topics.create_topic('quiet');
	SELECT topics.produce('quiet', 'before')});

# Takes all the space that a file system has left but for some kB.
sub fill
{
	my ($disk, $keep) = @_;
	my $free = (split ' ', (split /\n/, qx{df --output=avail -k $small-tap-$disk})[1])[0];

	open my $file, '>', "$small-tap-$disk/filler" or die "could not fill $disk: $!";
	for (1 .. ($free - $keep))
	{
		last unless syswrite $file, 'x' x 1024;
	}
	close $file;
	return;
}

sub make_space
{
	my ($disk) = @_;

	unlink "$small-tap-$disk/filler" or die "could not make space: $!";
	return;
}

# Lets PostgreSQL 19 read on a full disk: of each table that has no visibility map
# yet it makes one while it reads, or says that it cannot.
sub make_readable
{
	return if $node->pg_version->major < 19;
	my $result = $observer->query('SELECT count(*) FROM topic.t');

	return if !$result->{sqlstate};
	is($result->{sqlstate}, '53100', 'no space for a visibility map: 53100');
	truncate "$small-tap-data/filler", (-s "$small-tap-data/filler") - 1024 * 1024
	  or die "could not make a little space: $!";
	return;
}

# Produces transactions of 100 records until one fails, as it must; the failure.
sub produce_until_full
{
	for (1 .. 5000)
	{
		my $result = $session->query(
			qq{
			INSERT INTO topic.t (value) SELECT ($records + g) || repeat('.', 500) FROM generate_series(0, 99) g}
		);

		return $result if $result->{sqlstate} || $result->{lost};
		$records += 100;
	}
	return { sqlstate => 'not full', lost => 0, text => '' };
}

# All that was acknowledged is there, in order, and nothing else.  Where
# the answer did not come, its transaction may be there as a whole.
sub check
{
	my ($what, $unanswered) = @_;

	make_readable() if -e "$small-tap-data/filler";
	my $found = $observer->value('SELECT count(*) FROM topic.t');

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$records += 100 if $unanswered && $found == $records + 100;
	is($found, $records, "$what: what was acknowledged is there, $records records");
	is( $observer->value(
			q{SELECT count(*) FROM topic.t WHERE rtrim(value, '.')::bigint <> "offset"}),
		'0',
		'... in order');
	is($observer->value(qq{SELECT count(*) FROM topics.fetch('t', 0, $records)}),
		'0', '... to the end of the log');
	is($observer->value(q{SELECT count(*) FROM topics.fetch('quiet', 0, 0)}),
		'1', '... other topics are readable');
	return;
}

sub goes_on
{
	my ($what) = @_;
	my $result = $session->query(
		qq{
		INSERT INTO topic.t (value) SELECT ($records + g) || '.' FROM generate_series(0, 4999) g});

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($result->{sqlstate}, '', "$what: produce goes on");
	$records += 5000;
	check('... and then');
	ok( poll_until(
			sub {
				$observer->value(
					q{
			SELECT count(*) = count(*) FILTER (WHERE EXISTS (
				SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
				WHERE c.relname LIKE 't1\_p0\_s%' AND pg_get_expr(c.relpartbound, c.oid) LIKE '%FROM (''' || base_offset || ''') TO%'))
			FROM topics.segment WHERE topic = 't' AND state = 'sealed'}) eq 't';
			}),
		'... the worker has sealed what is full');
	return;
}

produce_a_little();

sub produce_a_little
{
	$session->value(
		qq{INSERT INTO topic.t (value) SELECT ($records + g) || '.' FROM generate_series(0, 99) g});
	return $records += 100;
}

# ----------------------------------------------------------------------
# The data
# ----------------------------------------------------------------------

fill('data', 2048);
my $result = produce_until_full();
is($result->{sqlstate}, '53100', 'no space for data: 53100');
ok(!$result->{lost}, '... in a session that lives on');
check('while it is full');
is( $session->query(
		q{INSERT INTO topic.t (value) SELECT repeat(md5(g::text), 30) FROM generate_series(1, 2000) g}
	)->{sqlstate},
	'53100',
	'... and again');
check('while it is full');
make_space('data');
goes_on('with space again');

# ----------------------------------------------------------------------
# Temporary files: a transaction larger than work_mem
# ----------------------------------------------------------------------

fill('data', 1024);
is( $session->query(
		q{INSERT INTO topic.t (value) SELECT repeat(md5(g::text), 30) FROM generate_series(1, 100000) g}
	)->{sqlstate},
	'53100',
	'no space for a temporary file: 53100');
like($session->query('SELECT 1')->{rows}[0], qr/^1$/, '... in a session that lives on');
$session->value('BEGIN; SAVEPOINT s');
is( $session->query(
		q{INSERT INTO topic.t (value) SELECT repeat(md5(g::text), 30) FROM generate_series(1, 100000) g}
	)->{sqlstate},
	'53100',
	'... also behind a savepoint');
is_deeply(
	$session->query('ROLLBACK TO s; COMMIT')->{rows},
	[ 'ROLLBACK', 'COMMIT' ],
	'... which can be gone back to');
check('... and then');
make_space('data');
is( $observer->value(
		q{SELECT count(*) FROM pg_ls_tmpdir((SELECT oid FROM pg_tablespace WHERE spcname = 'small'))}
	),
	'0',
	'... no file is left');
goes_on('with space again');

# ----------------------------------------------------------------------
# WAL: PostgreSQL cannot do without, and ends
# ----------------------------------------------------------------------

my $position = -s $node->logfile;
fill('wal', 512);
$result = produce_until_full();
ok($result->{lost} || $result->{sqlstate} eq '53100', 'no space for WAL: no acknowledgement');
ok(poll_until(sub { slurp_file($node->logfile, $position) =~ /No space left on device/ }),
	'... the log says why');
make_space('wal');
# whether it has come back by itself, or given up
if ($result->{lost})
{
	ok( poll_until(
			sub {
				my $log = slurp_file($node->logfile, $position);
				return $log =~ /database system is (shut down|ready to accept connections)/;
			}),
		'... the server has ended or restarted');
	$node->stop('immediate', fail_ok => 1);
	$node->{_pid} = undef unless -e $node->data_dir . '/postmaster.pid';
	$node->start;
}
ok(poll_until(\&connect_all), 'with space again the server is back');
check('after recovery', 1);
goes_on('after recovery');
wait_for_worker($node, 'small', 'the worker is back');
$node->stop;
done_testing();
