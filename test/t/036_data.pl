# Real input: a web server's access log and status documents.  The directory
# is named by PG_TOPICS_DATA; without it, ../shared/data beside the repository.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Topics;
use TopicState;

my $data = $ENV{PG_TOPICS_DATA} || "$FindBin::RealBin/../../../shared/data";
plan skip_all => "no access.log and status.jsonl in $data (PG_TOPICS_DATA names their directory)"
  unless -r "$data/access.log" && -r "$data/status.jsonl";

sub lines_of
{
	my ($file) = @_;

	open my $handle, '<:raw', $file or die "$file: $!";
	my @lines = <$handle>;
	chomp @lines;
	close $handle;
	return @lines;
}

my @access = lines_of("$data/access.log");
my @status = lines_of("$data/status.jsonl");
my %lines_of_visitor;
for my $line (@access)
{
	my ($visitor) = split / /, $line;
	push @{ $lines_of_visitor{$visitor} }, $line;
}

# restart_after_crash is off in these servers: kill -9 ends all of them
my $node = topics_node('main');
my $temporary = PostgreSQL::Test::Utils::tempdir;

# COPY's text format: what it would take for an escape is escaped
sub escape
{
	return $_[0] =~
	  s/([\\\t\r\n])/"\\" . { "\\" => "\\", "\t" => 't', "\r" => 'r', "\n" => 'n' }->{$1}/ger;
}

# ----------------------------------------------------------------------
# In
# ----------------------------------------------------------------------

$node->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('by.copy', 4, segment_bytes => 262144);
	SELECT topics.create_topic('by-produce', 4, segment_bytes => 262144);
	SELECT topics.create_topic('status', value_type => 'jsonb', segment_bytes => 262144);});

append_to_file("$temporary/access.copy",
	join('', map { escape((split / /)[0]) . "\t" . escape($_) . "\n" } @access));
$node->safe_psql('postgres', qq{\\copy topic."by.copy" (key, value) FROM '$temporary/access.copy'});

# Batches of all sizes, of several records each, and through single calls
my @queue = @access;
my $batches = '';
for (my $size = 1; @queue; $size = $size * 3 % 997 + 1)
{
	my @batch = splice @queue, 0, $size;
	my $literal = sub { '$line$' . $_[0] . '$line$' };

	if (@batch < 3)
	{
		$batches .=
			"SELECT topics.produce('by-produce', "
		  . $literal->($_) . ', '
		  . $literal->((split / /)[0]) . ");\n"
		  for @batch;
	}
	else
	{
		$batches .=
			"SELECT topics.produce_batch('by-produce', ARRAY["
		  . join(',', map { $literal->($_) } @batch)
		  . "],\n ARRAY["
		  . join(',', map { $literal->((split / /)[0]) } @batch) . "]);\n";
	}
}
$node->safe_psql('postgres', $batches);

append_to_file("$temporary/status.copy", join('', map { escape($_) . "\n" } @status));
$node->safe_psql('postgres', qq{\\copy topic.status (value) FROM '$temporary/status.copy'});
cmp_ok(
	$node->safe_psql(
		'postgres', q{SELECT sum(pg_relation_size(reltoastrelid)) FROM pg_class
	WHERE relname LIKE (SELECT 't' || topic_id || '\_p0\_s%' FROM topics.topic WHERE topic = 'status') AND relkind = 'r'}
	),
	'>',
	100000,
	'status documents are stored out of line');

# ----------------------------------------------------------------------
# Out
# ----------------------------------------------------------------------

# The values of a topic's partition in order, read by fetch in steps.
sub fetch_all
{
	my ($where, $database, $topic, $partition, $from) = @_;
	my $step = 1337;
	my @values;

	# one statement per step: the reader knows only the last offset he saw
	for (my $next = $from;; $next += $step)
	{
		my $got = $where->safe_psql(
			$database, qq{
			SELECT encode(convert_to(value, 'UTF8'), 'hex') FROM topics.fetch('$topic', $partition, $next, $step, 100000000)}
		);
		my @step = map { pack 'H*', $_ } split /\n/, $got;

		push @values, @step;
		last if @step < $step;
	}
	return @values;
}

sub check_access
{
	my ($where, $database, $name) = @_;
	my %place;

	for my $topic ('by.copy', 'by-produce')
	{
		my %seen;
		my ($count, $wrong) = (0, 0);

		for my $partition (0 .. 3)
		{
			for my $line (fetch_all($where, $database, $topic, $partition, 0))
			{
				my ($visitor) = split / /, $line;

				$count++;
				$place{$visitor}{$partition} = 1;
				$wrong++ if ($lines_of_visitor{$visitor}[ $seen{$visitor}++ // 0 ] // '') ne $line;
			}
		}
		is($count, scalar @access, "$name: $topic has every line");
		is($wrong, 0, "$name: each visitor's lines are byte-exact and in their order in $topic");
		is( scalar(grep { ($seen{$_} // 0) != @{ $lines_of_visitor{$_} } } keys %lines_of_visitor),
			0,
			"$name: no visitor is missing in $topic");
		# one transaction's records are in one segment; what is too large is cut off
		$where->safe_psql($database, qq{CALL topics.maintain('$topic')}) if $name eq 'produced';
		cmp_ok(
			$where->safe_psql(
				$database,
				qq{SELECT min(n) FROM (SELECT count(*) AS n FROM topics.segment WHERE topic = '$topic' AND state <> 'spare' GROUP BY partition) s}
			),
			'>', 1,
			"$name: over several segments");
	}
	is(scalar(grep { keys %{ $place{$_} } != 1 } keys %place),
		0, "$name: each visitor is in one partition, the same in both topics");
	is( $where->safe_psql(
			$database,
			q{SELECT count(*) FROM (SELECT partition, "offset", key, value FROM topic."by.copy"
		EXCEPT SELECT partition, "offset", key, value FROM topic."by-produce") s}),
		'0',
		"$name: both topics agree on every offset");
	return;
}

sub check_status
{
	my ($where, $database, $name) = @_;

	is( $where->safe_psql(
			$database, qq{
		CREATE TEMPORARY TABLE original (number serial, document jsonb);
		\\copy original (document) FROM '$temporary/status.copy'
		SELECT count(*), count(r.offset), count(*) FILTER (WHERE r.value = document), count(f.offset) FILTER (WHERE f.value::jsonb = document)
		FROM original LEFT JOIN topic.status r ON r.offset = number - 1
		LEFT JOIN topics.fetch('status', 0, 0, 1000000, 1000000000) f ON f.offset = number - 1}),
		join('|', (scalar @status) x 4),
		"$name: every status document is equal, at its place");
}

check_access($node, 'postgres', 'produced');
check_status($node, 'postgres', 'produced');

# Two readers at different places, in one transaction each, do not disturb each other
my $first = $node->background_psql('postgres');
my $second = $node->background_psql('postgres');
my (@first, @second);
my ($end) = $node->safe_psql('postgres',
	q{SELECT log_end_offset FROM topics.partition WHERE topic = 'by.copy' AND partition = 1});
for (my $i = 0; $i < $end; $i += 100)
{
	push @first, split /\n/,
	  $first->query_safe(
		"SELECT f.offset || ' ' || md5(value) FROM topics.fetch('by.copy', 1, $i, 100, 100000000) f"
	  );
	my $from = $end - $i - 100 < 0 ? 0 : $end - $i - 100;
	unshift @second, split /\n/,
	  $second->query_safe(
		"SELECT f.offset || ' ' || md5(value) FROM topics.fetch('by.copy', 1, $from, $end - $i - $from, 100000000) f"
	  );
}
$first->quit;
$second->quit;
is(scalar @first, $end, 'a reader from the start reads all');
is( join("\n", @second),
	join("\n", @first),
	'and so does one that reads from the end to the start at the same time');

# ----------------------------------------------------------------------
# A crash, and a move
# ----------------------------------------------------------------------

my $before = same_state($node, 'postgres');
kill_and_start($node);
same_state($node, 'postgres', $before, 'after kill -9 all is there');
check_access($node, 'postgres', 'after kill -9');
check_status($node, 'postgres', 'after kill -9');
check_files($node, 'postgres', 'after kill -9');

my $target = topics_node('target', extension => 0);
command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('postgres'), '-f', "$temporary/dump" ],
	'pg_dump');
command_ok(
	[
		'pg_restore', '--exit-on-error', '-j', '2', '-d', $target->connstr('postgres'),
		"$temporary/dump"
	],
	'pg_restore into a new cluster');
same_state($target, 'postgres', $before, 'restored: all is there');
check_access($target, 'postgres', 'restored');
check_status($target, 'postgres', 'restored');
check_files($target, 'postgres', 'restored');

for my $where ($node, $target)
{
	my ($visitor) = split / /, $access[0];
	my ($partition, $next) = split /\|/, $where->safe_psql(
		'postgres', qq{
		SELECT partition, log_end_offset FROM topics.partition WHERE topic = 'by.copy'
		AND partition = (SELECT partition FROM topic."by.copy" WHERE key = '$visitor' LIMIT 1)});

	is( $where->safe_psql('postgres', qq{CALL topics.send('by.copy', 'another line', '$visitor')}),
		"$partition|$next",
		'the visitor comes again: same partition, next offset, on ' . $where->name);
	is( $where->safe_psql('postgres', q{CALL topics.send('status', '{"on": true}')}),
		'0|' . @status,
		'and another document');
	check_files($where, 'postgres', 'producing went on on ' . $where->name);
}

done_testing();
