# ./demo ends well, with one server and with three; and however it ends, it
# leaves neither a process nor a file.  With three it is run as a user runs it,
# who has the repository only; the other runs have the programs of this test.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Session;

my $directory_pattern = qr{^Starting .* in (/tmp/pg_topics\.\w+)}m;
my $demo;

($ENV{PG_TOPICS_BINDIR}) = grep { -x "$_/postgres" } split /:/, $ENV{PATH};
my $output_file = PostgreSQL::Test::Utils::tempdir . '/output';

# Runs ./demo, in a process group of its own, as a shell does.  With a pattern and
# a function: calls the function, with the group, once the output matches.  The
# result is how it ended, as a shell says it, and the output.
sub run_demo
{
	my ($arguments, $pattern, $act) = @_;

	unlink $output_file;
	$demo = fork // die "could not fork: $!";
	if ($demo == 0)
	{
		$SIG{INT} = 'DEFAULT';
		setpgrp;
		open STDIN, '<', '/dev/null';
		open STDOUT, '>', $output_file;
		open STDERR, '>&', \*STDOUT;
		exec "$FindBin::RealBin/../../demo", @$arguments or POSIX::_exit(1);
	}
	if ($pattern)
	{
		poll_until(sub { -e $output_file && slurp_file($output_file) =~ $pattern })
		  or die 'the demo does not say: ' . slurp_file($output_file);
		$act->($demo, slurp_file($output_file));
	}
	waitpid $demo, 0;
	undef $demo;
	my $status = $? & 127 ? 128 + ($? & 127) : $? >> 8;
	my $output = slurp_file($output_file);
	note($output);
	return ($status, $output);
}

END
{
	local $?;
	if ($demo) { kill 'TERM', -$demo; waitpid $demo, 0 }
}

# Passes if the demo's directory is gone, and no process is in it
sub check_nothing_left
{
	my ($output, $test_name) = @_;
	my ($directory) = $output =~ $directory_pattern or die "no directory in: $output";

	ok(!-e $directory, "$test_name: no file is left");
	is(join(' ', grep { (readlink("$_/cwd") // '') =~ m{^\Q$directory\E/} } glob '/proc/[0-9]*'),
		'', "$test_name: no process is left");
	return;
}

my ($status, $output) = run_demo([]);
is($status, 0, 'one server');
like(
	$output,
	qr/^COMMIT;\n\nThat took .*\n.* server is stopped and .* removed\.$/m,
	'... to the end');
unlike($output, qr/^(?:ERROR|FATAL|WARNING):/m, '... without an error');
check_nothing_left($output, 'one server');

{
	delete local $ENV{PG_TOPICS_BINDIR};
	($status, $output) = run_demo([ '--nodes', '3' ]);
}
is($status, 0, 'three servers');
like(
	$output,
	qr/^ a    \|    2100 \| (\w{32})\n b    \|    2100 \| \1\n c    \|    2100 \| \1\n\nThat took .*\n.* servers are stopped and .* removed\.$/m,
	'... to the same records on all');
is( join(' ', $output =~ /^(?:ERROR|FATAL|WARNING):.*/mg),
	'ERROR:  TP004: partition 1 of topic "payments" is not led by this node',
	'... with the one error that is meant');
check_nothing_left($output, 'three servers');

# Ctrl-C: the terminal sends it to all of the group
($status, $output) =
  run_demo([ '--nodes', '3' ], qr/^\$ kill -KILL/m, sub { kill 'INT', -$_[0] });
is($status, 130, 'interrupted');
check_nothing_left($output, 'interrupted');

# A statement that fails, since the server has been stopped
($status, $output) = run_demo(
	[ '--nodes', '3' ],
	qr/^CREATE EXTENSION/m,
	sub {
		my ($directory) = $_[1] =~ $directory_pattern;
		my ($postmaster) = split /\n/, slurp_file("$directory/a/data/postmaster.pid");
		kill 'INT', $postmaster or die "could not stop the server: $!";
	});
is($status, 1, 'a server stopped');
check_nothing_left($output, 'a server stopped');

is((run_demo([ '--nodes', '2' ]))[0], 2, 'two servers: refused');

done_testing();
