# README.md is true: its tour runs as printed, and its reference names all
# that there is.  So are the pages of docs/recipes, each in a new database.
#
# A "```sql" block of tour or page is given to psql; if a "```text" block follows
# directly, that is what psql says.  A block may fail only where an ERROR is
# printed.
use strict;
use warnings;

use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = "$FindBin::RealBin/../..";
my $readme = slurp_file("$root/README.md");

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_topics'\n");
$node->start;

# ----------------------------------------------------------------------
# The tour
# ----------------------------------------------------------------------

# What two machines print differently: timestamps, and blanks at line ends
sub normalize
{
	my ($text) = @_;
	$text =~ s/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?[+-]\d\d/<timestamp>/g;
	$text =~ s/^psql:<stdin>:\d+: //mg;
	$text =~ s/[ \t]+$//mg;
	$text =~ s/\A\n+|\n+\z//g;
	return $text;
}

# Runs a text's examples in a database; the result is their number.
sub run_examples
{
	my ($text, $database, $prefix) = @_;
	my $examples = 0;

	while ($text =~ /^```sql\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?/msg)
	{
		my ($sql, $expected) = ($1, $2);
		my ($output, $errors) = ('', '');
		my ($name) = $sql =~ /^(.*)$/m;

		run_log(
			[ 'psql', '-X', '-d', $node->connstr($database) ],
			'<', \$sql, '>', \$output, '2>', \$errors);
		if (defined $expected)
		{
			is(normalize($output . $errors), normalize($expected), "${prefix}output: $name");
		}
		else
		{
			is($errors, '', "${prefix}no error: $name");
		}
		$examples++;
	}
	return $examples;
}

my ($tour) = $readme =~ /^## Five-minute tour\n(.*?)^## /ms
  or die "README.md has no tour";
cmp_ok(run_examples($tour, 'postgres', ''), '>=', 10, 'the tour has examples');

# ----------------------------------------------------------------------
# Recipes
# ----------------------------------------------------------------------

my @pages = glob "$root/docs/recipes/*.md";
cmp_ok(scalar(@pages), '>=', 4, 'there are recipes');
for my $page (@pages)
{
	my ($name) = $page =~ m{([^/]+)\.md$};

	$node->safe_psql('template1', qq{CREATE DATABASE "$name"});
	cmp_ok(run_examples(slurp_file($page), $name, "$name: "), '>=', 4, "$name has examples");
}

# ----------------------------------------------------------------------
# The reference
# ----------------------------------------------------------------------

my ($reference) = $readme =~ /^## Reference\n(.*?)^## Limits/ms
  or die "README.md has no reference";

# Each as it must stand in the reference: a function with its parameters' names
sub named_in_reference
{
	my ($what, $query) = @_;
	my @missing = grep { $reference !~ /(?<![\w.])\Q$_\E(?!\w)/ }
	  split /\n/, $node->safe_psql('postgres', $query);
	is("@missing", '', "the reference names every $what");
}

named_in_reference('function and procedure', q{
	SELECT DISTINCT 'topics.' || proname FROM pg_proc
	WHERE pronamespace = 'topics'::regnamespace});
named_in_reference('parameter', q{
	SELECT DISTINCT unnest(proargnames) FROM pg_proc
	WHERE pronamespace = 'topics'::regnamespace AND proname <> 'murmur2'});
named_in_reference('view', q{
	SELECT 'topics.' || relname FROM pg_class
	WHERE relnamespace = 'topics'::regnamespace AND relkind = 'v'});
named_in_reference('column of a view', q{
	SELECT DISTINCT attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
	WHERE relnamespace = 'topics'::regnamespace AND relkind = 'v' AND attnum > 0});
named_in_reference('setting of the server', q{
	SELECT name FROM pg_settings WHERE name LIKE 'pg\_topics.%'});

my %defaults = map { split /\|/ } split /\n/, $node->safe_psql('postgres', q{
	SELECT name, replace(current_setting(name), 's', ' s') FROM pg_settings
	WHERE name IN ('pg_topics.max_partitions', 'pg_topics.max_group_offsets', 'pg_topics.worker_interval')});
like($reference, qr/`\Q$_\E` \| \Q$defaults{$_}\E \|/, "the default of $_")
  foreach sort keys %defaults;

my @states = map { 'TP' . join('', /'(\d)'/g) }
  grep { /MAKE_SQLSTATE\('T', 'P'/ } split /\n/, slurp_file("$root/src/pg_topics.h");
cmp_ok(scalar(@states), '>=', 3, 'pg_topics has SQLSTATEs of its own');
like($reference, qr/^\| $_ \|/m, "the reference names $_") foreach @states;

$node->stop;
done_testing();
