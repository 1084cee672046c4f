# Document.pm: the examples of a page in Markdown, run as a reader runs them.
#
# A "```sql" block is pasted into psql on a terminal (Terminal.pm), all blocks of
# a page into one session.  If a "```text" block follows directly, that is what
# psql says; else it says nothing of an error.  A block may end with COPY ... FROM
# STDIN; "```data" blocks are what is pasted when psql asks for that.
package Document;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use Test::More;

our @EXPORT = qw(blocks_of paste_example paste_examples);

my $message = qr/^(?:ERROR|FATAL|WARNING|NOTICE|INFO|DETAIL|HINT|CONTEXT|LINE \d+): .*\n/m;

# The fenced blocks of a text: language, text, and the text of the "text" block
# that follows directly.
sub blocks_of
{
	my ($text) = @_;
	my @blocks;

	while ($text =~ /^```(\w+)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?/msg)
	{
		push @blocks, { language => $1, text => $2, expected => $3 };
	}
	return @blocks;
}

# What may differ: blanks at line ends, and whether messages come between the
# results or, as where psql writes the two to two places, after them.
sub normalize
{
	my ($text) = @_;
	my $messages = join '', $text =~ /($message)/g;

	$text =~ s/$message//g;
	$text =~ s/[ \t]+$//mg;
	$text =~ s/\n\n+/\n/g;
	$text =~ s/\A\n+|\n+\z//g;
	return "$text\n$messages";
}

# Pastes an example into psql, which must ask for such a thing; false if it does
# not, or does not come back to a prompt.
sub paste_example
{
	my ($psql, $title, $example) = @_;
	my ($first_line) = $example->{text} =~ /^(.*)$/m;
	my $name = "$title: $first_line";
	my $wanted = $example->{language} eq 'data' ? 'data' : 'command';

	if ($psql->asks_for ne $wanted)
	{
		fail($name);
		diag('psql asks for: ' . $psql->asks_for);
		return 0;
	}
	my $output = eval { $psql->paste($example->{text}) };

	if (!defined $output)
	{
		fail($name);
		diag($@);
		return 0;
	}
	if (defined $example->{expected})
	{
		is(normalize($output), normalize($example->{expected}), $name);
	}
	else
	{
		unlike($output, qr/^(?:ERROR|FATAL): /m, $name);
	}
	return 1;
}

# Pastes a page's examples into psql, up to one that leaves psql nowhere.
sub paste_examples
{
	my ($psql, $title, $text) = @_;

	for my $example (grep { $_->{language} =~ /^(?:sql|data)$/ } blocks_of($text))
	{
		paste_example($psql, $title, $example) or return;
	}
	is($psql->asks_for, 'command', "$title: psql asks for a command at the end");
	return;
}

1;
