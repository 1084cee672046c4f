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
use Terminal;

our @EXPORT = qw(blocks_of paste_examples);

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

# Pastes a page's examples into psql in a database; the result is their number.
sub paste_examples
{
	my ($node, $database, $editor, $title, $text) = @_;
	my @examples = grep { $_->{language} =~ /^(?:sql|data)$/ } blocks_of($text);
	my $psql = Terminal->new($node, $database, $editor);
	my $asked = 'command';

	for my $example (@examples)
	{
		my $data = $example->{language} eq 'data';
		my $name = sprintf '%s, %s: %s', $title, $editor->{name}, $example->{text} =~ /^(.*)$/m;
		my $output;

		if ($asked ne ($data ? 'data' : 'command')
			|| !eval { ($asked, $output) = $psql->paste($example->{text}, $asked); 1 })
		{
			fail($name);
			diag($@ || "psql asks for: $asked");
			last;
		}
		if (defined $example->{expected})
		{
			is(normalize($output), normalize($example->{expected}), $name);
		}
		else
		{
			unlike($output, qr/^(?:ERROR|FATAL): /m, $name);
		}
	}
	return scalar @examples;
}

1;
