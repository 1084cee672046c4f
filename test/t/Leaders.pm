# Leaders.pm: a cluster of three nodes, one of which leads, and the others may come to.
package Leaders;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

our @EXPORT =
  qw(make_cluster all_records produce_records check_same find_leader others_than check_acknowledged);

my @nodes;
my %acknowledged;

# Three servers a, b and c, with topic t; a leads.  Options as of topics_node.
sub make_cluster
{
	my (%options) = @_;

	@nodes = map { topics_node($_, %options) } qw(a b c);
	my ($first, @others) = @nodes;

	$first->safe_psql('postgres',
			q{SELECT topics.create_topic('t', 3); SELECT topics.create_cluster('a', $$}
		  . $first->connstr('postgres')
		  . '$$)');
	$first->safe_psql('postgres',
		"CALL topics.add_node('" . $_->name . q{', $$} . $_->connstr('postgres') . '$$)')
	  for @others;
	return @nodes;
}

sub others_than
{
	my ($node) = @_;

	return grep { $_ != $node } @nodes;
}

sub all_records
{
	my ($node) = @_;

	return $node->safe_psql('postgres',
		q{SELECT string_agg(partition || ':' || "offset" || '=' || value, ' ' ORDER BY partition, "offset") FROM topic.t}
	);
}

# Produces so many records, whose values begin with a word; they are acknowledged
# by followers, unless "acks" says otherwise.
sub produce_records
{
	my ($node, $what, $count, $acks) = @_;
	my $done;

	$acks //= 'all';
	$done = $node->safe_psql('postgres',
		qq{SET pg_topics.acks = '$acks'; SELECT count(topics.produce('t', '$what' || i, key => i::text)) FROM generate_series(1, $count) i}
	);
	$acknowledged{"$what$_"} = 1 for $acks eq 'all' ? 1 .. $count : ();
	return $done;
}

# All that was acknowledged is there once.
sub check_acknowledged
{
	my ($node, $test_name) = @_;
	my %seen;

	$seen{$_}++ for map { s/.*=//r } split ' ', all_records($node);
	my @lost = grep { !$seen{$_} } sort keys %acknowledged;
	my @doubled = grep { ($seen{$_} // 0) > 1 } sort keys %acknowledged;

	return is(
		"lost @lost doubled @doubled",
		'lost  doubled ',
		"$test_name: nothing acknowledged is lost");
}

# Other nodes follow the leader, and have the same, in time.
sub check_same
{
	my ($leader, $test_name, @others) = @_;

	for my $other (@others)
	{
		my $name = $other->name;

		ok( $other->poll_query_until(
				'postgres', "SELECT leader = '" . $leader->name . "' FROM topics.cluster"),
			"$test_name: $name follows " . $leader->name);
		ok(poll_until(sub { all_records($other) eq all_records($leader) }),
			"$test_name: $name has the leader's records")
		  or diag(all_records($other) . "\n" . all_records($leader));
	}
	return;
}

# A node of these that takes records, in time; undef if there is none.
sub find_leader
{
	my (@candidates) = @_;
	my $leader;

	poll_until(
		sub {
			for my $node (@candidates)
			{
				my $got = eval {
					$node->psql(
						'postgres',
						q{SET pg_topics.acks_timeout = '5 s'; SELECT topics.produce('t', 'probe')},
						on_error_stop => 1,
						timeout => 30);
				};
				$leader = $node if defined $got && $got == 0;
				return 1 if $leader;
			}
			return 0;
		});
	return $leader;
}

1;
