# docs/reference is complete and true to the catalogue: every function with its
# arguments, their types and defaults, and its result; every view with its
# columns; every setting of the server and of topics; every SQLSTATE and wait
# event.  And nothing has a heading that is not there.  Decisions are numbered
# once, and the links of all documents lead somewhere.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Topics;

my $root = "$FindBin::RealBin/../..";
my $node = topics_node('main');
my $record = 'partition integer, offset bigint, timestamp timestamptz, key, value, headers jsonb';

# ----------------------------------------------------------------------
# The pages
# ----------------------------------------------------------------------

# The cells of a table, a row for a line
sub cells
{
	my ($line) = @_;

	$line =~ s/^\|\s*|\s*\|$//g;
	return map { s/`//gr } split /\s*(?<!\\)\|\s*/, $line, -1;
}

# The tables of a text that begin with a column: rows without the header
sub table
{
	my ($text, $first_column) = @_;
	my @rows;

	while ($text =~ /^\| \Q$first_column\E \|.*\n\|[-:|]+\n((?:\|.*\n)*)/mg)
	{
		push @rows, map { [ cells($_) ] } split /\n/, $1;
	}
	return @rows;
}

# Headings of the second level with their texts
my (%section, @twice);
for my $page (glob "$root/docs/reference/*.md")
{
	my $text = slurp_file($page);

	while ($text =~ /^## ([^\n]*)\n(.*?)(?=^## |\z)/msg)
	{
		my ($heading, $body) = ($1, $2);

		for my $name (split /, /, $heading)
		{
			push @twice, $name if exists $section{$name} && $name =~ /\./;
			$section{$name} = $body;
		}
	}
}
is("@twice", '', 'no object has two headings');

sub rows
{
	my ($query) = @_;

	return map { [ split /\|/, $_, -1 ] } split /\n/, $node->safe_psql('postgres', $query);
}

# PostgreSQL's name of a type as the pages write it
sub short_type
{
	return $_[0] =~ s/timestamp with time zone/timestamptz/r;
}

# ----------------------------------------------------------------------
# Functions and procedures
# ----------------------------------------------------------------------

my %functions;
for my $row (
	rows(
		q{
	SELECT oid, 'topics.' || proname, prokind, proretset, format_type(prorettype, NULL)
	FROM pg_proc WHERE pronamespace = 'topics'::regnamespace}))
{
	my ($oid, $name, $kind, $set, $result) = @$row;
	my @arguments = rows(
		qq{
		SELECT n, coalesce(m, 'i'), format_type(t, NULL), pg_get_function_arg_default($oid, i::int)
		FROM pg_proc, unnest(coalesce(proallargtypes, proargtypes), proargnames, proargmodes) WITH ORDINALITY a (t, n, m, i)
		WHERE oid = $oid ORDER BY i});

	push @{ $functions{$name} },
	  {
		kind => $kind,
		set => $set eq 't',
		result => short_type($result),
		in => [ grep { $_->[1] ne 'o' } @arguments ],
		out => [ grep { $_->[1] =~ /[ob]/ } @arguments ]
	  };
}

# A default as the catalogue has it, as the pages write it
sub short_default
{
	my ($default) = @_;

	$default =~ s/^NULL::.*/NULL/;
	$default =~ s/^'00:00:00'::interval$/'0'/;
	$default =~ s/^'00:00:30'::interval$/'30 s'/;
	$default =~ s/::[a-z ]+$//;
	return $default;
}

# The arguments of a function as its section has them, types included where it
# has several for one
sub described_arguments
{
	my ($text, $function) = @_;
	my @described;

	for my $row (table($text, 'argument'))
	{
		my ($name, $types, $default) = @$row;
		my $argument = $function->{in}[ scalar @described ];
		my $type = short_type($argument ? $argument->[2] : '');

		$type = $types unless grep { $_ eq $type } split /, /, $types;
		push @described, "$name $type $default";
	}
	return join ', ', @described;
}

for my $name (sort keys %functions)
{
	my $text = $section{$name};

	if (!defined $text)
	{
		fail("$name has a heading");
		next;
	}
	for my $function (@{ $functions{$name} })
	{
		my $signature = join ', ', map { $_->[0] . ' ' . short_type($_->[2]) } @{ $function->{in} };
		my $arguments = join ', ',
		  map { $_->[0] . ' ' . short_type($_->[2]) . ' ' . short_default($_->[3] // '') }
		  @{ $function->{in} };
		my $columns = join ', ', map { $_->[0] . ' ' . short_type($_->[2]) } @{ $function->{out} };
		my ($result) = $text =~ /^Result: (.*)/m;

		is(described_arguments($text, $function), $arguments, "$name($signature): arguments");
		like($text, qr/^No arguments\.$/m, "$name: no arguments") if $arguments eq '';
		if (   $function->{set}
			&& $columns =~ s/key (?:text|bytea), value (?:text|bytea)/key, value/r eq $record)
		{
			like($result // '', qr/^`setof` \[record\]/, "$name: records");
		}
		elsif ($function->{set})
		{
			is(join(', ', map { "$_->[0] $_->[1]" } table($text, 'result column')),
				$columns, "$name: columns of the result");
		}
		elsif ($columns ne '')
		{
			is(($result // '') =~ s/"//gr, "a row `($columns)`.", "$name: row");
		}
		else
		{
			like(
				$result // '',
				$function->{kind} eq 'p' ? qr/^none\.$/ : qr/^`\Q$function->{result}\E`[.:]/,
				"$name: result");
		}
		like($text, qr/^Kafka: /m, "$name: Kafka's counterpart");
	}
}

# ----------------------------------------------------------------------
# Views
# ----------------------------------------------------------------------

my %views;
push @{ $views{ $_->[0] } }, $_->[1] . ' ' . short_type($_->[2]) for rows(
	q{
	SELECT attrelid::regclass, attname, format_type(atttypid, atttypmod)
	FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
	WHERE relnamespace = 'topics'::regnamespace AND relkind = 'v' AND attnum > 0 ORDER BY attrelid, attnum}
);
is( join(', ', map { "$_->[0] $_->[1]" } table($section{$_} // '', 'column')),
	join(', ', @{ $views{$_} }),
	"$_: columns") for sort keys %views;

# ----------------------------------------------------------------------
# Settings
# ----------------------------------------------------------------------

my %settings;
for my $row (
	rows(
		q{
	SELECT name, boot_val, min_val, max_val, unit,
		CASE context WHEN 'postmaster' THEN 'restart' WHEN 'sighup' THEN 'reload' WHEN 'user' THEN 'session' END
	FROM pg_settings WHERE name LIKE 'pg\_topics.%'}))
{
	my ($name, $default, $min, $max, $unit, $set_by) = @$row;
	my ($described) = table($section{$name} // '', 'default');

	$settings{$name} = 1;
	is(join('|', @{ $described // [] }),
		join('|', $default, $min eq '' ? '' : "$min to $max", $unit, $set_by), $name);
}

$node->safe_psql('postgres', q{SELECT topics.create_topic('t')});
is( join("\n", map { join '|', @$_[ 0 .. 2 ] } table($section{'Settings of a topic'}, 'setting')),
	$node->safe_psql(
		'postgres',
		q{SELECT name, value, kafka_name FROM topics.describe_topic('t') WHERE is_default IS NOT NULL}
	),
	'settings of a topic, with defaults and Kafka\'s names');

# ----------------------------------------------------------------------
# SQLSTATEs
# ----------------------------------------------------------------------

my $source = join '', map { slurp_file($_) } split /\n/, qx{find "$root/src" -name '*.[ch]'};
my %states = map { 'TP' . join('', /'(\d)'/g) => 1 } $source =~ /(MAKE_SQLSTATE\('T', 'P'.*)/g;

cmp_ok(scalar(keys %states), '>=', 4, 'pg_topics has SQLSTATEs of its own');
ok(defined $section{$_}, "$_ has a heading") for sort keys %states;

# plpgsql knows the conditions by the same names, but for prefixes and one
my %conditions = map {
	lc(s/^(?:T_R|E_R_I_E)_//r =~ s/^DATETIME_VALUE_OUT_OF_RANGE$/datetime_field_overflow/r) => 1
} $source =~ /errcode\(ERRCODE_(\w+)\)/g;
my %known =
  map { $_ => 1 } map { split /, /, $_->[0] } table($section{'PostgreSQL\'s own'}, 'SQLSTATE');
my @missing;

delete @conditions{ map { lc } $source =~ /ERRCODE_(\w+) MAKE_SQLSTATE/g };
cmp_ok(scalar(keys %conditions), '>=', 20, '... and raises PostgreSQL\'s');
for my $condition (sort keys %conditions)
{
	my $state = $node->safe_psql(
		'postgres', qq{
		DO \$\$ BEGIN
			RAISE $condition;
		EXCEPTION WHEN $condition THEN
			PERFORM set_config('test.state', SQLSTATE, false);
		END \$\$;
		SELECT current_setting('test.state')});

	push @missing, "$state $condition" unless $known{$state};
}
is("@missing", '', 'the pages have each of them');

# ----------------------------------------------------------------------
# Wait events
# ----------------------------------------------------------------------

is( join(' ', sort map { $_->[0] } table(slurp_file("$root/docs/operation.md"), 'wait event')),
	join(' ', sort $source =~ /"(PgTopics\w+)"/g),
	'wait events');

# ----------------------------------------------------------------------
# No heading without its object
# ----------------------------------------------------------------------

my @stale = grep {
		 /^(?:topics|pg_topics)\.|^TP/
	  && !$functions{$_}
	  && !$views{$_}
	  && !$settings{$_}
	  && !$states{$_}
} sort keys %section;
is("@stale", '', 'every heading has its object');

# ----------------------------------------------------------------------
# Decisions
# ----------------------------------------------------------------------

my $index = slurp_file("$root/docs/decisions/README.md");
my (%numbered, @lost);

for my $file (map { m{([^/]+)$} } glob "$root/docs/decisions/0*.md")
{
	my ($number) = $file =~ /^(\d{4})-/;
	my ($title) = slurp_file("$root/docs/decisions/$file") =~ /\A# (.*)/;
	my ($own_number, $name) = $title =~ /^(\d+)\. (.*)/;

	push @lost, $file
	  if $numbered{$number}++
	  || $own_number != $number
	  || $index !~ /^\| \[$number\]\(\Q$file\E\) \| \Q$name\E \| [^|]+ \|$/m;
}
is("@lost", '',
	'each decision has a number of its own, and stands in the index with its title and a status');
is(scalar(keys %numbered), scalar(() = $index =~ /^\| \[/mg), 'the index has no other');

# ----------------------------------------------------------------------
# Links
# ----------------------------------------------------------------------

# A heading's anchor, as GitHub makes it
sub anchor
{
	return lc($_[0]) =~ s/[^\w\- ]//gr =~ s/ /-/gr;
}

my @broken;
for my $page (glob("$root/docs/*.md $root/docs/*/*.md"))
{
	my $text = slurp_file($page) =~ s/^```.*?^```//gmsr;
	my ($directory, $file) = $page =~ m{^(.*)/(.*)};

	while ($text =~ /\]\(([^)#\s]*)(?:#([^)\s]+))?\)/g)
	{
		my ($target, $wanted) = ($1, $2);
		my $path = $target eq '' ? $page : "$directory/$target";

		next if $target =~ /^https?:/;
		push @broken, "$file: $target" unless -e $path;
		next unless defined $wanted && -f $path;
		push @broken, "$file: $target#$wanted"
		  unless grep { anchor($_) eq $wanted } slurp_file($path) =~ /^#+ (.*)/mg;
	}
}
is(join("\n", @broken), '', 'links of the documents lead somewhere');

$node->stop;
done_testing();
