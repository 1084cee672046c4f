# What a follower has is what the leader has: every type, large values, giant
# transactions, what comes while it is being read; and who waits on a follower is
# told.  The statements of docs/nodes.md are run as they stand there.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;
use AllKinds;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;
use TopicState;
use Topics;

my %node = map { $_ => topics_node($_) } qw(a b c);
my ($a, $b, $c) = @node{ 'a', 'b', 'c' };

sub same_records
{
	my ($name, @topics) = @_;

	wait_for_replica($node{$name}, $a);
	is(records_of($node{$name}, 'postgres', $_), records_of($a, 'postgres', $_), "$name: $_")
	  for @topics;
	return;
}

make_all_kinds($a);
make_surroundings($_) for $b, $c;

# ----------------------------------------------------------------------
# The page's statements, with the addresses of these servers
# ----------------------------------------------------------------------

my ($statements) = slurp_file("$FindBin::RealBin/../../docs/nodes.md") =~ /^((?:    .*;\n)+)/m;

like($statements, qr/create_cluster.*add_node.*topics\.replica/s, 'the page has statements');
for my $name (keys %node)
{
	my $where = $node{$name}->host =~ s/'/''/gr . ' port=' . $node{$name}->port;

	$statements =~ s/host=$name dbname=app/host=$where dbname=postgres/;
	$statements =~ s/ user=postgres//;
}
is( $a->safe_psql('postgres', $statements) =~ s/\|[^|]*\|(leader|follower)\|.*/|$1/gr,
	"\na|leader\nb|follower\nc|follower",
	'... that can be run');

# ----------------------------------------------------------------------
# Data
# ----------------------------------------------------------------------

my @topics = grep { !/^__/ } split /\n/,
  $a->safe_psql('postgres', 'SELECT topic FROM topics.topic ORDER BY 1');

cmp_ok(scalar @topics, '>=', 60, 'topics of all kinds');
same_records('b', @topics);
$a->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('wide', 2, value_type => 'bytea', max_message_bytes => 100000000, segment_bytes => 65536);
	SELECT topics.produce('wide', string_agg(sha256(i::text::bytea), '' ORDER BY i), partition => 0) FROM generate_series(1, 700000) i;
	SELECT topics.produce('wide', repeat('x', n)::bytea, partition => n % 2) FROM generate_series(0, 200000, 7919) n;
	SELECT topics.create_topic('giant', 150);
	SELECT topics.produce('giant', i::text, partition => i % 150) FROM generate_series(1, 30000) i;});
same_records($_, 'wide', 'giant') for qw(b c);
check_files($b, 'postgres', 'b');

# ----------------------------------------------------------------------
# Who waits on a follower
# ----------------------------------------------------------------------

$a->safe_psql('postgres', q{SELECT topics.create_topic('told')});
wait_for_replica($b, $a);
is( $b->safe_psql('postgres', q{SELECT topics.channel('told')}),
	$a->safe_psql('postgres', q{SELECT topics.channel('told')}),
	'a channel has the same name on all nodes');
my $waiter = Session->new($b, database => 'postgres');
my $fetcher = Session->new($b, database => 'postgres');
my $listener = Session->new($b, database => 'postgres');

$listener->query(q{DO $$BEGIN EXECUTE format('LISTEN %I', topics.channel('told')); END$$});
$waiter->send(q{CALL topics.wait_offset('told', 0, 0, '1 min')});
$fetcher->send(q{SELECT value FROM topics.fetch('told', 0, 0, max_wait => '1 min')});
$b->poll_query_until('postgres',
	q{SELECT count(*) = 2 FROM pg_stat_activity WHERE wait_event_type = 'Extension' AND backend_type = 'client backend'}
) or die 'nobody waits';
$a->safe_psql('postgres', q{SELECT topics.produce('told', 'news')});
is($waiter->receive->{sqlstate}, '', 'wait_offset ends on a follower');
is($fetcher->receive->{rows}[0], 'news', 'fetch gets what it has waited for');
ok( poll_until(
		sub {
			grep { /Asynchronous notification/ } @{ $listener->query('SELECT 1')->{rows} };
		}),
	'a listener is told');

# ----------------------------------------------------------------------
# A follower that does not read what it gets
# ----------------------------------------------------------------------

wait_until_asked(Session->new($a), 2);
my $replicator = $b->safe_psql('postgres',
	q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_topics replicator'});

signal_backend('STOP', $replicator);
$a->safe_psql('postgres',
	q{SELECT count(topics.produce('told', repeat('x', 1000))) FROM generate_series(1, 20000)});
ok( $a->poll_query_until(
		'postgres',
		q{SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'ClientWrite'
		AND query LIKE '%replica_fetch%' AND backend_xmin IS NULL AND backend_xid IS NULL}),
	'nothing on the leader waits for a follower that does not read')
  or diag $a->safe_psql('postgres',
	'SELECT pid, state, wait_event, backend_xmin, backend_xid, query FROM pg_stat_activity');
signal_backend('CONT', $replicator);

# ----------------------------------------------------------------------
# While records come
# ----------------------------------------------------------------------

$c->stop('immediate');
my $load = $a->background_psql('postgres');
$load->query_safe(
	q{SELECT topics.create_topic('busy', 2, segment_bytes => 65536, cleanup_policy => 'compact', min_cleanable_dirty_ratio => 0)}
);
for my $round (1 .. 20)
{
	$load->query_safe(
		qq{SELECT topics.produce('busy', repeat(i::text, 20), key => (i % 50)::text, partition => i % 2) FROM generate_series(1, 500) i}
	);
	$load->query_safe(q{SELECT topics.produce('told', i::text) FROM generate_series(1, 50) i});
	$c->start if $round == 5;
	compact_by_hand($a, 'busy') if $round == 10;
	$a->safe_psql('postgres', q{SELECT topics.delete_records('busy', 1, 3000)}) if $round == 12;
	$b->stop('immediate') if $round == 13;
	$b->start if $round == 14;
}
$load->quit;
same_records($_, 'told') for qw(b c);
is( $_->safe_psql(
		'postgres',
		q{SELECT key, value, partition FROM topics.latest('busy') ORDER BY key COLLATE "C", partition}
	),
	$a->safe_psql(
		'postgres',
		q{SELECT key, value, partition FROM topics.latest('busy') ORDER BY key COLLATE "C", partition}
	),
	$_->name . ': a compacted topic has the same state') for $b, $c;
is( $_->safe_psql(
		'postgres',
		q{SELECT log_start_offset FROM topics.partition WHERE topic = 'busy' ORDER BY partition}),
	"0\n3000",
	$_->name . ': and starts where the leader\'s does') for $b, $c;
check_files($_, 'postgres', $_->name) for $b, $c;
# Tombstones that were removed while a follower was away
$a->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('gone', cleanup_policy => 'compact', segment_bytes => 65536, min_cleanable_dirty_ratio => 0, delete_retention_time => '0');
	SELECT topics.produce('gone', repeat('x', 1000), key => i::text) FROM generate_series(1, 100) i;});
same_records('c', 'gone');
$c->stop;
$a->safe_psql('postgres',
	q{SELECT topics.produce('gone', NULL::text, key => i::text) FROM generate_series(1, 90) i});
compact_by_hand($a, 'gone') or die;
$a->safe_psql('postgres',
	q{SELECT topics.produce('gone', 'y', key => i::text) FROM generate_series(91, 100) i});
compact_by_hand($a, 'gone') or die for 1 .. 2;
is( $a->safe_psql(
		'postgres',
		q{SELECT tombstones_below > 100, (SELECT count(*) FROM topic.gone WHERE value IS NULL) FROM topic_log.partition JOIN topics.topic USING (topic_id) WHERE topic = 'gone'}
	),
	't|0',
	'tombstones were removed');
$c->start;
$c->poll_query_until('postgres', q{SELECT count(*) = 10 FROM topics.latest('gone')}) or die;
same_records('c', 'gone');
ok($c->log_contains('topic "gone" is read anew'), 'c: has read the topic anew');
is(scalar $_->log_contains('PANIC|TRAP|terminated by signal'), '', 'no crash of ' . $_->name)
  for $a, $b, $c;

done_testing();
