# The documents are true: what they show can be pasted into psql, block by
# block, and psql says what they print; and their links lead somewhere.
#
# Each page has a new database, and each way of reading a terminal a new
# server, since roles are the server's.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Document;
use Terminal;
use Topics;

my $root = "$FindBin::RealBin/../..";
my @pages = ("$root/README.md", sort glob "$root/docs/*.md $root/docs/{recipes,reference}/*.md");

# ----------------------------------------------------------------------
# Links
# ----------------------------------------------------------------------

# As GitHub makes anchors of headings
sub anchors
{
	my ($text) = @_;

	return map { lc(s/[^\w\- ]//gr) =~ tr/ /-/r } $text =~ /^#+ +(.*?) *$/mg;
}

for my $page (@pages)
{
	my ($directory) = $page =~ m{^(.*)/};
	my $text = slurp_file($page) =~ s/^```.*?^```$//msgr;
	my @broken;

	for my $link ($text =~ /\]\(([^)\s]+)\)/g)
	{
		my ($file, $anchor) = split /#/, $link, 2;

		next if $link =~ /^https?:/;
		$file = $file eq '' ? $page : "$directory/$file";
		push @broken, $link
		  unless -e $file
		  && (!defined $anchor || grep { $_ eq $anchor } anchors(slurp_file($file)));
	}
	is("@broken", '', 'no broken link: ' . $page =~ s{^\Q$root\E/}{}r);
}

cmp_ok(scalar(split /\n/, slurp_file("$root/README.md")), '<=', 220, 'README.md is short');

# ----------------------------------------------------------------------
# Examples
# ----------------------------------------------------------------------

cmp_ok(scalar(grep { m{/recipes/} } @pages), '>=', 4, 'there are recipes');
for my $editor (Terminal::editors())
{
	my $node = topics_node("with $editor->{name}" =~ tr/ /_/r, extension => 0);

	for my $page (@pages)
	{
		my ($title) = $page =~ m{^\Q$root\E/(?:docs/)?(.+)\.md$};

		# that page needs rsyslog: 091_rsyslog.pl
		next if $title eq 'recipes/log-aggregation';
		$node->safe_psql('template1', qq{CREATE DATABASE "$title"});
		paste_examples(
			Terminal->new($node, $title, $editor),
			"$title, $editor->{name}",
			slurp_file($page));
	}
	$node->stop;
}
done_testing();
