# Whether test/crashes, by which ./check looks at the logs of tests that have
# passed, sees what it is to see, and lets pass what tests do themselves.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Topics;

my $program = "$FindBin::RealBin/../crashes";
my $directory = PostgreSQL::Test::Utils::tempdir();

# What the program says of logs with these lines, one each
sub crashes_of
{
	my (@logs) = @_;
	my @names = map { "$directory/$_.log" } 1 .. @logs;
	my ($output, $errors) = ('', '');

	append_to_file($names[$_], "LOG:  starting\n$logs[$_]\nLOG:  shutting down\n") for 0 .. $#logs;
	IPC::Run::run([ $program, @names ], '>', \$output, '2>', \$errors);
	my $status = $? >> 8;
	unlink @names;
	$output =~ s{^\Q$directory\E/}{}gm;
	return "$status $output$errors";
}

for my $line (
	'LOG:  background worker "pg_topics worker" (PID 2) was terminated by signal 6: Aborted',
	'LOG:  server process (PID 2) was terminated by signal 11: Segmentation fault',
	'TRAP: FailedAssertion("false", File: "x.c", Line: 1, PID: 2)',
	'PANIC:  cannot abort transaction 3, it was already committed',
	'==2==ERROR: AddressSanitizer: heap-use-after-free on address 0x1',
	'src/x.c:10:3: runtime error: signed integer overflow',
	'WARNING:  problem in alloc set TopMemoryContext: detected write past chunk end in block 0x1, chunk 0x2',
	'WARNING:  relcache reference leak: relation "t" not closed',
	'WARNING:  resource was not closed: relation "t"',
	'WARNING:  leaked hash_seq_search scan for hash table 0x1',
	'WARNING:  you don\'t own a lock of type AccessShareLock')
{
	is(crashes_of($line), "1 1.log: $line\n", "seen: $line");
}

my $killed = 'LOG:  server process (PID 2) was terminated by signal 9: Killed';
my $full = 'PANIC:  could not write to file "x": No space left on device';
my $aborted = 'LOG:  server process (PID 2) was terminated by signal 6: Aborted';

is(crashes_of($killed), '0 ', 'a process that was killed');
is(crashes_of("$full\n$aborted"), '0 ', 'a server without room for WAL');
is(crashes_of("$full\n$aborted\n$aborted"), "1 1.log: $aborted\n", '... that ends once more');
is(crashes_of($full, $aborted), "1 2.log: $aborted\n", '... and another one');

# The real thing: a background process that aborts when no test looks
my $node = topics_node('main', conf => 'restart_after_crash = on');
wait_for_worker($node, 'postgres', 'a worker');
my $pid = worker_pid($node, 'postgres');
kill 'ABRT', $pid or die "could not send SIGABRT: $!";
$node->wait_for_log(qr/\(PID $pid\) was terminated by signal 6/);
wait_for_worker($node, 'postgres', 'it comes again', $pid);
$node->stop;
my $output = '';
ok(!IPC::Run::run([ $program, $node->logfile ], '>', \$output), 'a worker that has aborted');
like($output, qr/\A.*background worker "pg_topics worker" \(PID $pid\) was terminated by signal 6/,
	'... is named');
# it was meant
open my $log, '>', $node->logfile or die "could not empty the log: $!";
close $log;

done_testing();
