# What docs/tour.md says of more than one session: what a consumer's open
# transaction holds, consuming outside of a transaction block, and whether a
# commit has happened on a connection that is gone.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

my $node = topics_node('main');
my $consume = q{SELECT value FROM topics.consume('g', 'parcels')};

$node->safe_psql(
	'postgres', q{SELECT topics.create_topic('parcels');
	SELECT topics.produce('parcels', n::text) FROM generate_series(1, 3) n});

# What a session's open transaction holds: state, xid, xmin and locks
sub holds
{
	my ($session) = @_;

	return $node->safe_psql(
		'postgres', qq{
		SELECT state, backend_xid, backend_xmin,
			(SELECT string_agg(DISTINCT format('%s %s', CASE locktype WHEN 'relation' THEN relation::regclass::text ELSE locktype END, mode), ', ')
			 FROM pg_locks WHERE pg_locks.pid = pg_stat_activity.pid AND locktype <> 'virtualxid')
		FROM pg_stat_activity WHERE pid = $session->{pid}});
}

# ----------------------------------------------------------------------
# A transaction that stays open
# ----------------------------------------------------------------------

my $consumer = Session->new($node);
my $root = $node->safe_psql('postgres',
	q{SELECT 'topic_log.t' || topic_id FROM topics.topic WHERE topic = 'parcels'});
my $table = "${root}_p0";

# what it has not met before it looks up
$consumer->query($_) foreach 'BEGIN', $consume, 'ROLLBACK';
$consumer->query('BEGIN');
is(scalar @{ $consumer->query($consume)->{rows} }, 3, 'a consumer has records');
is( holds($consumer),
	"idle in transaction|||${root} AccessShareLock, ${table} AccessShareLock, ${table}_s1 AccessShareLock, userlock ExclusiveLock, userlock ShareLock",
	'... and holds neither an xid nor an xmin, but its claim and the locks of a reader');
is($node->safe_psql('postgres', $consume), '', 'its partition is given to nobody else');
for my $statement (
	q{SELECT topics.reset_offset('g', 'parcels', to_offset => 0)},
	q{SELECT topics.delete_group('g')},
	q{SELECT topics.drop_topic('parcels')})
{
	my ($result, $output, $errors) =
	  $node->psql('postgres', "SET lock_timeout = '100 ms'; $statement");
	like($errors, qr/canceling statement due to lock timeout/, "it is waited for: $statement");
}
$consumer->query('ROLLBACK');

$consumer->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
$consumer->query($consume);
like(holds($consumer), qr/^idle in transaction\|\|\d+\|/, 'in REPEATABLE READ it holds an xmin');
$consumer->query('ROLLBACK');

$consumer->query('BEGIN');
$consumer->query(q{SELECT topics.produce('parcels', '4')});
is(holds($consumer), 'idle in transaction|||', 'a transaction that has produced holds nothing');
$consumer->query('ROLLBACK');

$consumer->query(q{SET idle_in_transaction_session_timeout = '10 ms'});
$consumer->query('BEGIN');
$consumer->query($consume);
ok( $node->poll_query_until(
		'postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $consumer->{pid}"),
	'idle_in_transaction_session_timeout ends a consumer');

# ----------------------------------------------------------------------
# Outside of a transaction block
# ----------------------------------------------------------------------

$consumer = Session->new($node);
is(join(' ', @{ $consumer->query($consume)->{rows} }), '1 2 3', 'the records come to another one');
undef $consumer;
is($node->safe_psql('postgres', $consume),
	'', '... and after it has consumed outside of BEGIN, and is gone, to nobody');

# ----------------------------------------------------------------------
# Whether a commit has happened
# ----------------------------------------------------------------------

my $producer = Session->new($node);
$producer->query('BEGIN');
$producer->query(q{SELECT topics.produce('parcels', '5')});
my $xid = $producer->query('SELECT pg_current_xact_id()')->{rows}[0];
is($node->safe_psql('postgres', "SELECT pg_xact_status('$xid')"),
	'in progress', 'a transaction is in progress');
$producer->query('COMMIT');
undef $producer;
is($node->safe_psql('postgres', "SELECT pg_xact_status('$xid')"),
	'committed', '... it has committed');

$producer = Session->new($node);
$producer->query('BEGIN');
$producer->query(q{SELECT topics.produce('parcels', '6')});
$xid = $producer->query('SELECT pg_current_xact_id()')->{rows}[0];
undef $producer;
ok($node->poll_query_until('postgres', "SELECT pg_xact_status('$xid') = 'aborted'"),
	'... or not, since its connection broke');
is($node->safe_psql('postgres', 'SELECT value FROM topic.parcels ORDER BY "offset"'),
	"1\n2\n3\n5", 'and so have its records');

$node->stop;
done_testing();
