# A producing transaction that waits for a synchronous standby: what else it did
# acts at once in other sessions, and a wait that ends before the standby has
# confirmed gives no acknowledgement.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

my $node = topics_node('primary', init => { allows_streaming => 1 });
$node->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('t');
	CREATE ROLE reader LOGIN;
	GRANT USAGE ON SCHEMA topics, topic TO reader;
	GRANT EXECUTE ON ALL ROUTINES IN SCHEMA topics TO reader;
	GRANT SELECT ON topic.t TO reader;
	CREATE FUNCTION version() RETURNS text LANGUAGE sql RETURN 'old';
	CREATE TABLE dropped ();
	CALL topics.send('t', 'zero')});
$node->backup('base');

# These have their caches filled before.
my $reader = Session->new($node, user => 'reader');
my $other = Session->new($node);
my $observer = Session->new($node);
is($reader->value('SELECT value FROM topic.t'), 'zero', 'the reader may read');
is($other->value('SELECT public.version(); SELECT count(*) FROM dropped'), "old\n0", 'old state');

$node->append_conf('postgresql.conf', "synchronous_standby_names = '*'");
$node->reload;
# the checkpointer tells the others
ok( $node->poll_query_until(
		'postgres',
		q{SELECT setting = '*' FROM pg_settings WHERE name = 'synchronous_standby_names'}),
	'a standby is asked for that is not there');

# A session that waits for the standby in its commit.
sub waiting
{
	return Session->waiting_for_standby($node, $observer, @_);
}

# ----------------------------------------------------------------------
# The transaction is over for everybody but its client
# ----------------------------------------------------------------------

my $producer = waiting(
	q{
	SET pg_topics.early_lock_release = on;
	BEGIN;
	REVOKE SELECT ON topic.t FROM reader;
	CREATE OR REPLACE FUNCTION version() RETURNS text LANGUAGE sql RETURN 'new';
	DROP TABLE dropped;
	SELECT topics.produce('t', 'one');
	COMMIT});
$reader->send('SELECT value FROM topic.t');
is(($reader->receive(60) // { sqlstate => 'no answer' })->{sqlstate},
	'42501', 'its REVOKE acts at once');
$reader->send(q{SELECT topics.fetch('t', 0, 0)});
is(($reader->receive(60) // { sqlstate => 'no answer' })->{sqlstate}, '42501', '... for fetch too');
$other->send('SELECT public.version()');
is_deeply(($other->receive(60) // {})->{rows},
	['new'], 'its CREATE OR REPLACE FUNCTION acts at once');
$other->send('SELECT * FROM dropped');
is(($other->receive(60) // { sqlstate => 'no answer' })->{sqlstate},
	'42P01', 'its DROP TABLE acts at once');
is($observer->value(q{SELECT r.offset, value FROM topics.fetch('t', 0, 1) r}),
	'', 'its record is not seen');
is($observer->value("SELECT count(*) FROM pg_locks WHERE pid = $producer->{pid}"),
	'0', 'it has no locks any more');
is($producer->receive(0), undef, '... and it still waits');

# Others that wait queue up behind nobody's append lock.
my $second = waiting(q{CALL topics.send('t', 'two')});
is($observer->value(q{SELECT log_end_offset FROM topics.partition}),
	'1', 'a second producer got to its wait as well, and nobody sees its record');

# ----------------------------------------------------------------------
# Waits that end early
# ----------------------------------------------------------------------

sub ends
{
	my ($session, $call) = @_;

	$observer->value("SELECT $call($session->{pid})");
	return $session->receive;
}

my $result = ends($producer, 'pg_cancel_backend');
ok($result->{lost}, 'cancel: the connection of a producer is closed');
is(scalar(grep { $_ eq 'COMMIT' } @{ $result->{rows} }), 0, '... without an acknowledgement');

$result = ends($second, 'pg_cancel_backend');
is($result->{sqlstate}, '40003', 'cancel: send raises 40003');
is_deeply($result->{rows}, [], '... and gives no offset');
ok(!$result->{lost}, '... in a session that lives on');
is($second->value(q{SELECT 1}), '1', '... and works');

$result = ends(waiting(q{SELECT topics.produce('t', 'three')}), 'pg_cancel_backend');
ok($result->{lost}, 'cancel: so is that of a producer without a transaction block');

for my $sql (q{CALL topics.send('t', 'terminated')},
	q{BEGIN; SELECT topics.produce('t', 'terminated'); COMMIT})
{
	$result = ends(waiting($sql), 'pg_terminate_backend');
	ok($result->{lost}, "terminate: $sql");
	is(scalar(grep { /COMMIT|\|/ } @{ $result->{rows} }), 0, '... without an acknowledgement');
}

# Who does not ask for the standby does not wait, and nobody else is affected.
is_deeply(
	$other->query(q{SET synchronous_commit = local; CALL topics.send('t', 'local')})->{rows},
	[ 'SET', '0|6' ],
	'synchronous_commit = local does not wait');

# With the strict order, the wait comes before the transaction is visible.
my $strict = waiting(q{SET pg_topics.early_lock_release = off; CALL topics.send('t', 'strict')});
is($observer->value(q{SELECT count(*) FROM topic.t WHERE value = 'strict'}),
	'0', 'without early release a record is not seen before it is confirmed');
$result = ends($strict, 'pg_cancel_backend');
is($result->{sqlstate}, '40003', '... and without an acknowledgement if the wait is cancelled');
$strict = waiting(q{SET pg_topics.early_lock_release = off; CALL topics.send('t', 'strict')});

# ----------------------------------------------------------------------
# Waits behind a commit that waits for the standby
# ----------------------------------------------------------------------

# With the strict order it has the append lock.  It cannot be ended by a timeout,
# but the wait behind it can.
my %sqlstate = (statement_timeout => '57014', lock_timeout => '55P03');
for my $timeout (sort keys %sqlstate)
{
	for my $sql (q{SELECT topics.produce('t', 'behind')},
		q{BEGIN; SELECT topics.produce('t', 'behind'); COMMIT})
	{
		$other->value("SET $timeout = '100ms'");
		$other->send($sql);
		is(($other->receive(30) // { sqlstate => 'no answer' })->{sqlstate},
			$sqlstate{$timeout}, "$timeout ends the wait behind it: $sql");
	}
	$other->value("RESET $timeout");
}
my $behind = Session->new($node);
$behind->send(q{SELECT topics.produce('t', 'behind')});
ok( poll_until(
		sub {
			$observer->value(
				"SELECT topic, partition, holder_pid FROM topics.append_wait WHERE waiter_pid = $behind->{pid}"
			) eq "t|0|$strict->{pid}";
		}),
	'topics.append_wait: who waits for it');
$observer->value("SELECT pg_terminate_backend($behind->{pid})");
is($behind->receive->{sqlstate}, '57P01', '... and can be terminated');

# NOTIFY: a commit that waits for the standby has the lock on the queue of
# notifications.  A producer that notifies too waits for that, and keeps nobody
# from the partition meanwhile.
$observer->value(q{SET synchronous_commit = local; SELECT topics.create_topic('n')});
$observer->value(q{SELECT topics.create_topic('told')});
my $told = waiting(q{BEGIN; NOTIFY pg_topics_test; SELECT topics.produce('told', 'x'); COMMIT});
$other->value(q{SET lock_timeout = '100ms'});
$other->send(q{SELECT topics.produce('told', 'behind')});
is(($other->receive(30) // { sqlstate => 'no answer' })->{sqlstate},
	'55P03', 'NOTIFY: who is notified can read the record: the order is strict');
$other->value('RESET lock_timeout');
ends($told, 'pg_cancel_backend');

# Maintenance by hand, for which producers wait, does not wait for the standby.
my $roller = Session->new($node);
$roller->send(q{CALL topics.roll_segment('told')});
is_deeply(($roller->receive(30) // { rows => ['no answer'] })->{rows},
	['CALL'], 'a segment is rolled by hand');

my $notifier = waiting('BEGIN; CREATE TABLE written (); NOTIFY pg_topics_test; COMMIT');
my $notifying = q{BEGIN; NOTIFY pg_topics_test; SELECT topics.produce('n', 'notifying'); COMMIT};
$behind = Session->new($node);
$behind->send("SET synchronous_commit = local; $notifying");
ok( poll_until(
		sub {
			$observer->value("SELECT pg_blocking_pids($behind->{pid}) = ARRAY[$notifier->{pid}]")
			  eq 't';
		}),
	'NOTIFY: a producer that notifies waits for a notifier');
$other->send(q{SET synchronous_commit = local; CALL topics.send('n', 'quiet')});
is_deeply(
	($other->receive(30) // { rows => ['no answer'] })->{rows},
	[ 'SET', '0|0' ],
	'... and keeps no other producer waiting');
for my $timeout (sort keys %sqlstate)
{
	$other->value("SET $timeout = '100ms'");
	$other->send($notifying);
	is(($other->receive(30) // { sqlstate => 'no answer' })->{sqlstate},
		$sqlstate{$timeout}, "... $timeout ends such a wait");
	$other->value("RESET $timeout");
}
$observer->value("SELECT pg_terminate_backend($behind->{pid})");
is(($behind->receive(30) // { sqlstate => 'no answer' })->{sqlstate}, '57P01', '... and terminate');
$observer->value('RESET synchronous_commit');
$other->value('SET synchronous_commit = local');

# ----------------------------------------------------------------------
# The standby comes
# ----------------------------------------------------------------------

my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
is_deeply(
	$strict->receive->{rows},
	[ 'SET', '0|8' ],
	'with the standby the wait ends, acknowledged');
is_deeply($observer->query(q{CALL topics.send('t', 'confirmed')})->{rows},
	['0|9'], 'and send goes on');
is_deeply(
	$observer->query(q{BEGIN; SELECT topics.produce('t', 'last'); COMMIT})->{rows},
	[ 'BEGIN', '0', 'COMMIT' ],
	'... and produce');
$node->wait_for_catchup($standby);
is( $standby->safe_psql(
		'postgres', q{SELECT string_agg(value, ' ' ORDER BY "offset") FROM topic.t}),
	$node->safe_psql('postgres', q{SELECT string_agg(value, ' ' ORDER BY "offset") FROM topic.t}),
	'the standby has all of it');

# acknowledged means: on the standby
my $acknowledged = $observer->query(q{CALL topics.send('t', 'acknowledged')})->{rows}[0];
$node->stop('immediate');
$standby->promote;
is( $standby->safe_psql(
		'postgres',
		q{SELECT partition || '|' || "offset" FROM topic.t WHERE value = 'acknowledged'}),
	$acknowledged,
	'an acknowledged record survives the loss of the primary');
$standby->stop;
done_testing();
