# Terminal.pm: psql on a pseudo-terminal, into which text is pasted as a person
# pastes it.
#
# With readline the terminal marks what is pasted (bracketed paste), and psql
# gets all of it as one line: a command that reads on, like COPY FROM STDIN,
# does not find the rest, and a backslash command takes the rest for its
# arguments.  Otherwise psql gets it line by line, and the terminal itself echoes
# what comes while psql is at work.  So what psql says is what the terminal shows
# between two prompts, or what psql writes to a file.
package Terminal;

use strict;
use warnings FATAL => 'all';

use IO::Pty;
use IO::Select;
use POSIX ();
use PostgreSQL::Test::Utils;

# psql's prompts for a command, for the rest of one, and for the data of COPY
my %prompt = (1 => 'command=> ', 2 => 'rest-> ', 3 => 'data>> ');
my $any_prompt = qr/(command|rest|data)(?:=|-|>)> \z/;

# How psql can read a terminal here: with readline, if it is linked with that,
# and without a line editor.
sub editors
{
	my ($psql) = grep { -x } map { "$_/psql" } split /:/, $ENV{PATH};
	my $plain = { name => 'no line editor', option => '--no-readline' };

	return `ldd '$psql'` =~ /libreadline/
	  ? ({ name => 'readline', brackets => 1 }, $plain)
	  : $plain;
}

# psql in a database, at its first prompt.
sub new
{
	my ($class, $node, $database, $editor) = @_;
	my $self = bless {
		pty => IO::Pty->new,
		screen => '',
		directory => PostgreSQL::Test::Utils::tempdir,
		outputs => 1,
		owner => $$,
		brackets => $editor->{brackets}
	}, $class;
	my @command = (
		'psql', '-X', '-d',
		$node->connstr($database),
		map { ('-v', "PROMPT$_=$prompt{$_}") } keys %prompt);

	push @command, $editor->{option} if $editor->{option};
	push @command, '-o', $self->output_file unless $self->{brackets};
	$self->{psql} = fork // die "could not fork: $!";
	if ($self->{psql} == 0)
	{
		my $terminal = $self->{pty}->slave;

		$self->{pty}->make_slave_controlling_terminal;
		# so large that nothing needs a pager or a second row
		$terminal->set_winsize(1000, 1000);
		open STDIN, '<&', $terminal;
		open STDOUT, '>&', $terminal;
		open STDERR, $self->{brackets} ? '>&'      : '>>',
		  $self->{brackets}            ? $terminal : $self->message_file;
		@ENV{qw(TERM INPUTRC PSQL_HISTORY)} = ('xterm', '/dev/null', '/dev/null');
		exec @command or POSIX::_exit(1);
	}
	$self->{pty}->close_slave;
	$self->{pty}->blocking(0);
	($self->{asks_for}) = $self->type('', $any_prompt) =~ $any_prompt;
	return $self;
}

# What psql's prompt asks for: 'command', 'rest' of a command, 'data'
sub asks_for { my ($self) = @_; return $self->{asks_for} }

sub DESTROY
{
	my ($self) = @_;

	return unless $self->{psql} && $self->{owner} == $$;
	local ($?, $!);
	kill 'KILL', $self->{psql};
	waitpid $self->{psql}, 0;
	return;
}

sub output_file  { my ($self) = @_; return "$self->{directory}/output.$self->{outputs}" }
sub message_file { my ($self) = @_; return "$self->{directory}/messages" }

# Types, and waits until what the terminal shows from then on matches; the result
# is what it shows.  Dies if psql ends, or shows nothing more for a minute.
sub type
{
	my ($self, $keys, $expected) = @_;
	my $pty = IO::Select->new($self->{pty});
	my $screen = '';

	while ($keys ne '' || $screen !~ $expected)
	{
		my (undef, $writable) = IO::Select::select($pty, $keys ne '' ? $pty : undef, undef, 60)
		  or die "psql waits, at:\n$screen\n";

		substr($keys, 0, syswrite($self->{pty}, $keys) // 0) = '' if $writable && @$writable;
		sysread($self->{pty}, $screen, 65536, length $screen) // $!{EAGAIN}
		  or die "psql has ended, at:\n$screen\n";
	}
	return $screen;
}

# Pastes text and presses Enter; psql comes to another prompt.  The result is what
# it has said.
sub paste
{
	my ($self, $text) = @_;
	my ($output, $screen);

	# a terminal sends the key Enter for an end of line in what is pasted
	chomp $text;
	$text =~ tr/\n/\r/;
	if ($self->{brackets} && $self->{asks_for} ne 'data')
	{
		$screen = $self->type("\e[200~$text\e[201~\r", qr/\e\[\?2004l.*$any_prompt/s);
		($output) = $screen =~ /.*\e\[\?2004l\r?(.*)/s;
	}
	elsif ($self->{brackets})
	{
		# psql asks for each line of data, after the terminal has shown all of them
		$screen = $self->type("$text\r", qr/\\\.\r\n.*\e\[\?2004h$any_prompt/s);
		($output) = $screen =~ /\\\.\r\n(?:data>> )*(.*)/s;
	}
	elsif ($text =~ /\bFROM STDIN\b[^;]*;\z/i)
	{
		# what is typed now is data
		$screen = $self->type("$text\r", qr/data>> \z/);
		$output = '';
	}
	else
	{
		my ($file, $number) = ($self->output_file, $self->{outputs}++);

		# what the terminal shows of the command, in pieces maybe, is not what the command shows
		$screen = $self->type(
			sprintf("%s\r\\o %s\r\\echo 'end' of %s\r", $text, $self->output_file, $number),
			qr/end of $number\r\n.*$any_prompt/s);
		$output = slurp_file($file) . slurp_file($self->message_file);
		truncate $self->message_file, 0;
	}
	($self->{asks_for}) = $screen =~ $any_prompt;
	$output =~ s/\r//g;
	$output =~ s/(?:\e\[\?2004h)?$any_prompt//;
	return $output;
}

1;
