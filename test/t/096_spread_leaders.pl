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

my ($a, $b, $c) = make_cluster(
	points => 1,
	conf =>
	  "pg_topics.worker_interval = '1 s'\npg_topics.automatic_failover = off\npg_topics.node_timeout = '1 s'\npg_topics.acks_timeout = '20 s'\n"
);
my %nodes = (a => $a, b => $b, c => $c);

sub records
{
	my ($node) = @_;

	return $node->safe_psql('postgres',
		q{SELECT string_agg(partition || ':' || "offset" || '=' || value, ' ' ORDER BY partition, "offset") FROM topic.s}
	);
}

sub check_equal
{
	my ($test_name, @nodes) = @_;

	@nodes = ($a, $b, $c) unless @nodes;
	ok( poll_until(
			sub {
				my %seen = map { records($_) => 1 } @nodes;
				keys %seen == 1;
			}),
		"$test_name: all have the same") or diag(join "\n", map { records($_) } @nodes);
	return;
}

# Produces to what a node leads, and has it acknowledged by followers
sub produce
{
	my ($node, $value) = @_;

	return $node->safe_psql('postgres',
		"SET pg_topics.acks = 'all'; SELECT topics.produce('s', '$value'); SELECT partition FROM topics.last_produced()"
	) =~ s/.*\n//sr;
}

# What docs/nodes.md says, as it stands there
my ($statements) =
  slurp_file("$FindBin::RealBin/../../docs/nodes.md") =~
  /^## Spread leaders.*?^((?:    [^\n]*;\n)+)/ms;
my ($create, $rest) = split /;\n\K/, $statements, 2;

$a->safe_psql('postgres', $create);
ok( poll_until(
		sub {
			$a->safe_psql('postgres', $rest) =~ /^0\|a\n1\|b\n2\|c\n3\|a\n4\|b\n5\|c\n\d\|[abc]\|/;
		}),
	'the statements of the page, when each node leads what it is to');
is( $a->psql(
		'postgres',
		q{SELECT topics.create_topic('s', 6, leaders => 'spread', cleanup_policy => 'compact')}),
	3,
	'a compacted topic has one leader');
$a->safe_psql('postgres', q{SELECT topics.create_topic('s', 6, leaders => 'spread')});
await_leaders('abcabc', 'each node leads some partitions');
for my $name (qw(a b c a b c))
{
	like(
		produce($nodes{$name}, "from $name"),
		{ a => qr/^[03]$/, b => qr/^[14]$/, c => qr/^[25]$/ }->{$name},
		"without a key a record goes to what node $name leads");
}
check_equal('spread');

# ----------------------------------------------------------------------
# Keys, transactions, groups
# ----------------------------------------------------------------------

my %leader_of = (0 => 'a', 1 => 'b', 2 => 'c', 3 => 'a', 4 => 'b', 5 => 'c');
my $routed = 0;

for my $key (1 .. 12)
{
	for my $name (qw(a b c))
	{
		my ($partition, $leader, $is_self) = split /\|/,
		  $nodes{$name}->safe_psql('postgres',
			"SELECT partition, leader, is_self FROM topics.route('s', 'k$key')");

		$routed += $leader_of{$partition} eq $leader && ($leader eq $name) == ($is_self eq 't');
		my $state = Session->new($nodes{$name})
		  ->query("SELECT topics.produce('s', 'key $key', key => 'k$key')")->{sqlstate};
		$routed += $state eq ($leader eq $name ? '' : 'TP004');
	}
}
is($routed, 72, 'route() says where a key is taken');

my $session = Session->new($a);
$session->query(q{CREATE TABLE done (what text)});
is( $session->query(
		q{BEGIN; INSERT INTO done VALUES ('both'); SELECT topics.produce('t', 'with s'), topics.produce('s', 'with t'); COMMIT}
	)->{sqlstate},
	'',
	'a transaction of several sets that a node leads');
is($b->psql('postgres', q{SELECT topics.produce('t', 'x')}),
	3, 'what is not spread is led by one node');
check_equal('keys');
check_whole($a, 'beside it');

sub consumed
{
	my ($node, $group) = @_;

	return $node->safe_psql('postgres',
		"SELECT coalesce(string_agg(partition || ':' || \"offset\", ' ' ORDER BY partition, \"offset\"), '') FROM topics.consume('$group', 's', 1000)"
	);
}

is(Session->new($b)->query(q{SELECT * FROM topics.consume('g', 's')})->{sqlstate},
	'TP004', 'a group begins on the node that leads the metadata');
my %seen;
$seen{$_}++ for split ' ', consumed($a, 'g');
ok( $b->poll_query_until(
		'postgres', q{SELECT count(*) = 1 FROM topics.consumer_group WHERE group_id = 'g'}),
	'another node has heard of it');
for my $name (qw(a b c b a c b c a))
{
	ok( $nodes{$name}->poll_query_until(
			'postgres', q{SELECT count(*) = 1 FROM topics.consumer_group WHERE group_id = 'g'}),
		"$name knows the group") or next;
	$seen{$_}++ for split ' ', consumed($nodes{$name}, 'g');
}
my $all = $a->safe_psql('postgres',
	q{SELECT string_agg(partition || ':' || "offset", ' ' ORDER BY partition, "offset") FROM topic.s}
);
is( join(' ', sort grep { $seen{$_} == 1 } keys %seen),
	join(' ', sort split ' ', $all),
	'consumed where they are led, records are consumed once');
is(consumed($_, 'g'), '', 'nothing is left on ' . $_->name) for $a, $b, $c;
is(Session->new($b)->query(q{SELECT * FROM topics.consume('h', 's')})->{sqlstate},
	'TP004', 'another one as well');
is(Session->new($a)->query(q{SELECT topics.commit_offset('g', 's', 1, 0)})->{sqlstate},
	'TP004', 'an offset is committed where its partition is led');

# ----------------------------------------------------------------------
# Moves, failover, and the way back
# ----------------------------------------------------------------------

$a->safe_psql('postgres', q{CALL topics.move_leader('b')});
await_leaders('bbcbbc', 'a planned move is of all that a node leads');
ok(produce($_, 'after the move') ne '', 'records go to ' . $_->name) for $b, $c;
is(consumed($b, 'g') ne '', 1, 'the group goes on there');
$c->safe_psql('postgres', q{CALL topics.rebalance_leaders()});
await_leaders('abcabc', 'each set goes back to its preferred node');
check_equal('rebalanced');

$c->stop('immediate');
$b->safe_psql('postgres', q{CALL topics.failover('c')});
await_leaders('abbabb', 'a failover is of what the lost node leads');
my $before = records($b);
ok(produce($b, 'without c') ne '', 'they take records there');
$c->start;
await_leaders('abbabb', 'the one that comes back follows');
check_equal('after a failover');
$a->safe_psql('postgres', q{CALL topics.rebalance_leaders()});
await_leaders('abcabc', '... and leads again what it preferred');
set_automatic('on');
$b->stop('immediate');
ok(poll_until(sub { leaders_on($a) !~ /b/ && leaders_on($a) eq leaders_on($c) }),
	'others elect a leader for each set that is without')
  or diag(leaders_on($a) . ' ' . leaders_on($c));
ok(produce($_, 'without b') ne '', 'records go to ' . $_->name) for $a, $c;
$b->start;
check_equal('after an election');
$_->stop('immediate') for $a, $b, $c;
$_->start for $a, $b, $c;
check_equal('after all were down');
ok( poll_until(
		sub {
			leaders_on($a) =~ /^[abc]{6}$/ && !grep { leaders_on($_) ne leaders_on($a) } $b, $c;
		}),
	'all know the leaders');
$c->poll_query_until('postgres', 'SELECT leader IS NOT NULL FROM topics.cluster');
ok(poll_until(sub { $a->psql('postgres', q{CALL topics.rebalance_leaders()}) == 0 }),
	'leaders are rebalanced');
await_leaders('abcabc', 'rebalanced');
ok(produce($_, 'again') ne '', 'records go to ' . $_->name) for $a, $b, $c;
check_equal('all');

# ----------------------------------------------------------------------
# Nodes go and come
# ----------------------------------------------------------------------

# How many nodes vote in each leader set, on the node that leads it
sub await_voters
{
	my ($voters, $test_name) = @_;
	my $query =
	  q{SELECT string_agg(leader_set || ':' || voters || ':' || acks_followers, ' ') FROM topic_log.cluster WHERE leader = node};

	ok( poll_until(
			sub {
				my @sets = map { split ' ', $_->safe_psql('postgres', $query) } $a, $b, $c;
				return join(' ', sort @sets) eq join ' ',
				  map { "$_:$voters:" . int($voters / 2) } 0 .. 3;
			}),
		$test_name
	) or diag(map { $_->name . ': ' . $_->safe_psql('postgres', $query) . "\n" } $a, $b, $c);
	return;
}

await_voters(3, 'three nodes vote in each set');
is($a->psql('postgres', q{CALL topics.remove_node('c')}), 3, 'a node that leads is not removed');
$a->safe_psql('postgres', q{CALL topics.move_leader('b', 'c'); CALL topics.remove_node('c')});
await_voters(2, '... and when it does not, two are left in each set');
ok(produce($_, 'of two') ne '', 'records go to ' . $_->name) for $a, $b;
$c->safe_psql('postgres', q{DROP EXTENSION pg_topics CASCADE; CREATE EXTENSION pg_topics});
$a->safe_psql('postgres', q{CALL topics.add_node('c', $$} . $c->connstr('postgres') . '$$)');
await_voters(3, 'a node that comes is counted in each set');
ok(poll_until(sub { $a->psql('postgres', q{CALL topics.rebalance_leaders()}) == 0 }),
	'it leads what it had');
await_leaders('abcabc', 'each leads its own');
ok(produce($_, 'of three') ne '', 'records go to ' . $_->name) for $a, $b, $c;
check_equal('of three');
$a->safe_psql('postgres', q{SELECT topics.alter_cluster(2)});
ok( poll_until(
		sub {
			!grep {
				$_->safe_psql('postgres',
					'SELECT count(*) FROM topic_log.cluster WHERE acks_followers = 2') ne 4
			} $a, $b, $c;
		}),
	'how many followers are waited for goes for each set');
$a->safe_psql('postgres', q{SELECT topics.add_partitions('s', 8)});
ok(poll_until(sub { leaders_on($c) eq 'abcabcab' }), 'partitions are added');
$a->safe_psql('postgres', q{SELECT topics.drop_topic('s')});
ok( poll_until(
		sub {
			!grep {
				$_->safe_psql('postgres', q{SELECT count(*) FROM topics.topic WHERE topic = 's'})
			} $a, $b, $c;
		}),
	'the topic is dropped');
$a->safe_psql('postgres', q{SELECT topics.create_topic('s', 3, leaders => 'spread')});
await_leaders('abc', 'another one of the name');
ok(produce($_, 'new') ne '', 'records go to ' . $_->name) for $a, $b, $c;
check_equal('another topic');
check_whole($a, 'at the end');

$a->safe_psql('postgres', q{SELECT topics.alter_cluster(NULL)});
await_voters(3, 'one of two followers is waited for again');

# A node that cannot have a topic leads neither that nor the metadata: it would be gone
$_->safe_psql('postgres', q{CREATE TYPE mood AS ENUM ('sad', 'happy')}) for $a, $c;
$a->safe_psql('postgres',
	q{SELECT topics.create_topic('moods', 6, value_type => 'mood', leaders => 'spread')});
$a->safe_psql('postgres', q{SET pg_topics.acks = 'all'; SELECT topics.produce('moods', 'happy')});
is($a->psql('postgres', q{CALL topics.move_leader('b')}),
	3, 'who cannot have a topic does not come to lead');
is($_->safe_psql('postgres', q{SELECT value FROM topic.moods}),
	'happy', 'the topic is there on ' . $_->name)
  for $a, $c;
$b->safe_psql('postgres', q{CREATE TYPE mood AS ENUM ('sad', 'happy'); CALL topics.maintain()});
ok( $b->poll_query_until(
		'postgres', q{SELECT count(*) = 1 FROM topics.topic WHERE topic = 'moods'}),
	'... and comes when its type does');
ok($b->poll_query_until('postgres', q{SELECT count(*) = 1 FROM topic.moods}),
	'... with its record');
$a->safe_psql('postgres', q{CALL topics.move_leader('b')});
await_leaders('bbc', 'then it leads');
$b->safe_psql('postgres', q{SELECT topics.drop_topic('moods'); CALL topics.rebalance_leaders()});
await_leaders('abc', 'as before');

# ----------------------------------------------------------------------
# A dump of it, and a node that is by itself
# ----------------------------------------------------------------------

# All that a group has not consumed, with what is produced now, to each partition
sub consumed_alone
{
	my ($node) = @_;

	$node->safe_psql('postgres', "SELECT topics.produce('s', 'alone', partition => $_)") for 0 .. 2;
	return join ' ', sort map { split ' ', consumed($node, 'alone') } 1 .. 4;
}

$a->safe_psql('postgres', q{SELECT count(*) FROM topics.consume('alone', 's', 1000)}) for 1 .. 3;
ok( $b->poll_query_until(
		'postgres', q{SELECT count(*) = 1 FROM topics.consumer_group WHERE group_id = 'alone'}),
	'b knows the group');
is(consumed($b, 'alone') ne '', 1, 'b consumes');
my $ends = join ' ', map {
		$_ . ':'
	  . $a->safe_psql('postgres', qq{SELECT max("offset") + 1 FROM topic.s WHERE partition = $_})
} 0 .. 2;
my $plain = topics_node('plain', points => 1);
my $dump = "$PostgreSQL::Test::Utils::tmp_check/spread.sql";
$b->command_ok([ 'pg_dump', '--file', $dump, $b->connstr('postgres') ], 'a dump');
$plain->safe_psql('postgres', 'DROP EXTENSION pg_topics');
$plain->command_ok(
	[ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $plain->connstr('postgres') ],
	'... is restored where there is no cluster');
my $expected = join ' ', sort split(' ', $ends),
  $a->safe_psql('postgres',
	q{SELECT string_agg('2:' || "offset", ' ') FROM topic.s WHERE partition = 2});
is(consumed_alone($plain), $expected, 'a group goes on there, and takes what is new');
is( Session->new($plain)
	  ->query(q{SET default_transaction_isolation = 'serializable'; SELECT count(*) FROM topic.s})
	  ->{sqlstate},
	'', '... and all is read');
$plain->safe_psql('postgres',
		q{SELECT topics.drop_topic('t'); SELECT topics.create_cluster('plain', $$}
	  . $plain->connstr('postgres')
	  . '$$)');
ok( poll_until(
		sub {
			!grep {
				$plain->psql('postgres', "SELECT topics.produce('s', 'led', partition => $_)")
			} 0 .. 2;
		}),
	'it leads all in a cluster of its own');
my @alone = map { split ' ', consumed($plain, 'alone') } 1 .. 4;
cmp_ok(scalar @alone, '>=', 3, '... and the group goes on');
$plain->stop('immediate');
$plain->start;
is( scalar(
		grep { $plain->psql('postgres', "SELECT topics.produce('s', 'led', partition => $_)") }
		  0 .. 2),
	0,
	'... also after a crash');
$plain->safe_psql('postgres', 'SELECT topic_log.leave_cluster()');
is( scalar(
		grep { $plain->psql('postgres', "SELECT topics.produce('s', 'led', partition => $_)") }
		  0 .. 2),
	0,
	'... and in none again');
push @alone, map { split ' ', consumed($plain, 'alone') } 1 .. 4;
is( join(' ', sort @alone),
	join(
		' ',
		sort split ' ',
		$plain->safe_psql(
			'postgres',
			q{SELECT string_agg(partition || ':' || "offset", ' ') FROM topic.s WHERE value = 'led'}
		)),
	'... and the group goes on: all is consumed once');

# ----------------------------------------------------------------------
# A cluster of one that grows
# ----------------------------------------------------------------------

my $fresh = topics_node('fresh', points => 1);

$plain->safe_psql('postgres',
	q{SELECT topics.create_cluster('plain', $$} . $plain->connstr('postgres') . '$$)');
ok( poll_until(
		sub {
			$plain->psql('postgres', q{SELECT topics.produce('s', 'alone', partition => 1)}) == 0;
		}),
	'a node leads all by itself');
$plain->safe_psql('postgres',
	q{CALL topics.add_node('fresh', $$} . $fresh->connstr('postgres') . '$$)');
ok( $plain->poll_query_until(
		'postgres',
		'SELECT count(*) = 4 AND bool_and(voters = 2 AND acks_followers = 1) FROM topic_log.cluster'
	),
	'... and the other one counts in each leader set'
) or diag($plain->safe_psql('postgres', 'SELECT leader_set, voters FROM topic_log.cluster'));
$plain->safe_psql('postgres',
	q{SET pg_topics.acks = 'all'; SELECT topics.produce('s', 'both', partition => 1)});
ok(poll_until(sub { records($fresh) eq records($plain) }), '... and has all');
done_testing();
