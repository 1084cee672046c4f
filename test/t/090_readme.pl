# The documents are true: what they show can be pasted into psql, block by
# block, and psql says what they print.  Each page has a new database; and a
# server for each line editor that psql may have, since roles are the server's.
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

cmp_ok(scalar(grep { m{/recipes/} } @pages), '>=', 4, 'there are recipes');
for my $editor (Terminal::editors())
{
	my $node = topics_node("with $editor->{name}" =~ tr/ /_/r, extension => 0);

	for my $page (@pages)
	{
		my ($title) = $page =~ m{^\Q$root\E/(?:docs/)?(.+)\.md$};

		$node->safe_psql('template1', qq{CREATE DATABASE "$title"});
		paste_examples($node, $title, $editor, $title, slurp_file($page));
	}
	$node->stop;
}
done_testing();
