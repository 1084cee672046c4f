# Topics whose partitions are led by several nodes (create_topic, leaders => 'spread').
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Leaders;
use Session;
use TopicState;
use Topics;

my ($a, $b, $c) = make_cluster(points => 1,
	conf =>
	  "pg_topics.worker_interval = '1 s'\npg_topics.automatic_failover = off\npg_topics.node_timeout = '1 s'\npg_topics.acks_timeout = '20 s'\n"
);
my %nodes = (a => $a, b => $b, c => $c);

# Who leads each partition of topic s, as a node sees it
sub leaders_on
{
	my ($node) = @_;

	return $node->safe_psql('postgres',
		q{SELECT string_agg(node, '' ORDER BY partition) FROM topics.replica WHERE topic = 's' AND role = 'leader'});
}

# All nodes say that these lead
sub await_leaders
{
	my ($leaders, $test_name) = @_;

	ok(poll_until(sub { !grep { leaders_on($_) ne $leaders } grep { $_->{_pid} } values %nodes }), $test_name)
	  or diag(join ' ', map { $_->{_pid} ? leaders_on($_) : '' } values %nodes);
	return;
}

sub records
{
	my ($node) = @_;

	return $node->safe_psql('postgres',
		q{SELECT string_agg(partition || ':' || "offset" || '=' || value, ' ' ORDER BY partition, "offset") FROM topic.s});
}

sub check_equal
{
	my ($test_name, @nodes) = @_;

	@nodes = ($a, $b, $c) unless @nodes;
	ok(poll_until(sub { my %seen = map { records($_) => 1 } @nodes; keys %seen == 1 }), "$test_name: all have the same")
	  or diag(join "\n", map { records($_) } @nodes);
	return;
}

# Produces to what a node leads, and has it acknowledged by followers
sub produce
{
	my ($node, $value) = @_;

	return $node->safe_psql('postgres',
		"SET pg_topics.acks = 'all'; SELECT topics.produce('s', '$value'); SELECT partition FROM topics.last_produced()") =~ s/.*\n//sr;
}

is( $a->psql('postgres', q{SELECT topics.create_topic('s', 6, leaders => 'spread', cleanup_policy => 'compact')}),
	3, 'a compacted topic has one leader');
$a->safe_psql('postgres', q{SELECT topics.create_topic('s', 6, leaders => 'spread')});
await_leaders('abcabc', 'each node leads some partitions');
for my $name (qw(a b c a b c))
{
	like(produce($nodes{$name}, "from $name"), { a => qr/^[03]$/, b => qr/^[14]$/, c => qr/^[25]$/ }->{$name},
		"without a key a record goes to what node $name leads");
}
check_equal('spread');
done_testing();
