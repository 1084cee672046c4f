# ALTER DOMAIN at the same moment as commits: either it fails, or no record is
# stored that violates the constraint; it meets no deadlock; and what results
# can be dumped and restored.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

my $rounds = $ENV{PG_TOPICS_LONG} ? 400 : 40;
my $node = topics_node('main', conf => "deadlock_timeout = '100ms'\n");

$node->safe_psql('postgres', 'CREATE DOMAIN number AS int');
my @producers = map { Session->new($node) } 1 .. 4;
my $admin = Session->new($node);
my %states;
my $wrong = 0;

# The records of two topics' partitions, in another order in every second
# session.  Those of the first two sessions violate the constraint.
sub produce_all
{
	foreach my $i (0 .. $#producers)
	{
		my @places = map { [ $_ < 4 ? 'a' : 'b', $_ % 4 ] } 0 .. 7;

		@places = reverse @places if $i % 2;
		$producers[$i]->value('BEGIN');
		$producers[$i]
		  ->value("SELECT topics.produce('$_->[0]', '" . ($i - 2) . "', partition => $_->[1])")
		  foreach @places;
	}
}

foreach my $round (1 .. $rounds)
{
	$admin->value('ALTER DOMAIN number DROP CONSTRAINT IF EXISTS positive');
	$admin->value(
			"SELECT topics.drop_topic(t, true), topics.create_topic(t, 4, value_type => 'number')"
		  . q{ FROM unnest('{a,b}'::text[]) t});
	produce_all();

	# the one that alters comes first, second, and so on
	my @commands = map { [ $_, 'COMMIT' ] } @producers;
	splice @commands, $round % 5, 0,
	  [ $admin, 'ALTER DOMAIN number ADD CONSTRAINT positive CHECK (VALUE >= 0)' ];
	$_->[0]->send($_->[1]) foreach @commands;
	$states{ "$_->[1] " . $_->[0]->receive->{sqlstate} }++ foreach @commands;

	my $added =
	  $admin->value(q{SELECT count(*) FROM pg_constraint WHERE contypid = 'number'::regtype});
	my $bad = $admin->value(
		q{SELECT count(*) FROM (SELECT value FROM topic.a UNION ALL SELECT value FROM topic.b) r
		WHERE value::int < 0});
	$wrong++ if $added ? $bad : $bad % 8 || !$bad;
	last if $added && $round >= $rounds / 2;
}
is($wrong, 0, 'the constraint is refused, or holds');
is_deeply([ grep { !/^(?:COMMIT|ALTER DOMAIN .*) (?:23514)?$/ } keys %states ],
	[], 'what fails, fails by the constraint')
  or diag explain \%states;
note explain \%states;

# ----------------------------------------------------------------------
# What results can be restored
# ----------------------------------------------------------------------

my $dump = PostgreSQL::Test::Utils::tempdir . '/dump';
my $content = q{SELECT r.partition, r.offset, value FROM topic.a r ORDER BY 1, 2};

$admin->value('SELECT 1');
$producers[0]->value('BEGIN');
$producers[0]->value(q{SELECT topics.produce('a', '5', partition => 0)});
$admin->query('ALTER DOMAIN number ADD CONSTRAINT small CHECK (VALUE < 5)');
is($producers[0]->query('COMMIT')->{sqlstate}, '23514', 'a record that waited too long is refused');
$node->command_ok([ 'pg_dump', '-f', $dump, '-d', $node->connstr('postgres') ], 'pg_dump');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok(
	[
		'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1',
		'-o', '/dev/null', '-f', $dump,
		'-d', $node->connstr('restored')
	],
	'and restore');
is( $node->safe_psql('restored', $content),
	$node->safe_psql('postgres', $content),
	'it is all there');

done_testing();
