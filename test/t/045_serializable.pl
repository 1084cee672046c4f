# SERIALIZABLE under load: transactions that read the end of a log, by any
# function, and produce what they have read.  In any serial order each record's
# value is its offset.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Topics;

my $node = topics_node('main',
	conf =>
	  "default_transaction_isolation = 'serializable'\nmax_pred_locks_per_transaction = 256\n");

my %reads = (
	list => q{SELECT o.offset AS read FROM topics.list_offsets('t', 'latest') o},
	fetch => q{SELECT count(*) AS read FROM topics.fetch('t', 0, 0, 1000000)},
	view => q{SELECT log_end_offset AS read FROM topics.partition WHERE topic = 't'},
	scan => q{SELECT coalesce((SELECT "offset" + 1 FROM topic.t ORDER BY "offset" DESC LIMIT 1), 0)
		AS read});

# the name => functions that the clients choose between
my %mixes = (map({ $_ => [$_] } sort keys %reads), mixed => [ sort keys %reads ]);

for my $mix (sort keys %mixes)
{
	my @scripts;

	$node->safe_psql('postgres', q{SELECT topics.create_topic('t')});
	for my $name (@{ $mixes{$mix} })
	{
		my $file = "$PostgreSQL::Test::Utils::tmp_check/$name.sql";
		my $read = $reads{$name} =~ s/\s*\n\s*/\n/r;

		append_to_file($file,
			"BEGIN;\n$read \\gset\nSELECT topics.produce('t', (:read)::text);\nCOMMIT;\n")
		  unless -e $file;
		push @scripts, '-f', $file;
	}
	command_ok(
		[
			'pgbench', '-n', '-c', '6', '-j', '2', '-T', '2', '--max-tries=0',
			@scripts, '-h', $node->host, '-p', $node->port, 'postgres'
		],
		"$mix: load");
	is( $node->safe_psql(
			'postgres', q{
			SET default_transaction_isolation = 'read committed';
			SELECT count(*) > 20, count(*) FILTER (WHERE value <> "offset"::text) FROM topic.t}),
		't|0',
		"$mix: each record is what its transaction had read");
	$node->safe_psql('postgres',
		q{SET default_transaction_isolation = 'read committed'; SELECT topics.drop_topic('t')});
}
done_testing();
