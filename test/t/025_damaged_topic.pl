# A topic that is damaged, or dropped while it is looked at, costs nobody else a
# row of the administration views.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;
use TopicState;

my $node = topics_node('node', conf => "pg_topics.worker_interval = '1h'\nautovacuum = off\n");
$node->safe_psql(
	'postgres', q{
	SELECT topics.create_topic(t) FROM unnest(ARRAY['a', 'damaged', 'z']) t;
	SELECT topics.produce(t, 'v') FROM unnest(ARRAY['a', 'damaged', 'z']) t;
	SELECT topics.commit_offset('g', t, 0, 1) FROM unnest(ARRAY['a', 'damaged', 'z']) t;
	CALL topics.maintain('damaged');
	CREATE ROLE reader LOGIN;
	GRANT SELECT ON topic.a, topic.damaged, topic.z TO reader;
	GRANT USAGE ON SCHEMA topics TO reader;
	GRANT USAGE ON SCHEMA topic_log TO reader;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA topic_log TO reader;
	GRANT SELECT ON topics.partition TO reader;});
my $view = sub {
	my ($columns, $name) = @_;

	return
		"SELECT $columns FROM topics.$name WHERE topic NOT LIKE '\\_\\_%'"
	  . ($name eq 'segment' ? ' AND base_offset = 0' : '')
	  . ' ORDER BY topic';
};
my %query = (
	partition =>
	  $view->('topic, log_start_offset, log_end_offset, first_timestamp IS NULL', 'partition'),
	segment => $view->('topic, base_offset, log_end_offset, state', 'segment'),
	lag => $view->('topic, current_offset, log_end_offset, lag', 'consumer_lag'),
	offset => $view->('topic, committed_offset', 'consumer_offset'),
	topic => $view->('topic, partitions', 'topic'),);
my %whole = map { $_ => $node->safe_psql('postgres', $query{$_}) } keys %query;
like($whole{partition}, qr/^a\|0\|1\|f\ndamaged\|0\|1\|f\nz\|0\|1\|f$/, 'three topics');

my $file = $node->data_dir . '/' . $node->safe_psql(
	'postgres', q{
	SELECT pg_relation_filepath(format('topic_log.t%s_p0_s1', topic_id)::regclass)
	FROM topics.topic WHERE topic = 'damaged'});
$node->stop;
unlink $file or die "could not remove $file: $!";
$node->start;

my $session = Session->new($node);
my %damaged = (
	partition => $whole{partition} =~ s/^damaged.*$/damaged|||t/mr,
	segment => $whole{segment} =~ s/^(damaged\|0).*$/$1||/mr,
	lag => $whole{lag} =~ s/^(damaged\|1).*$/$1||/mr,
	offset => $whole{offset},
	topic => $whole{topic},);
for my $name (sort keys %query)
{
	my $result = $session->query($query{$name});

	is(join("\n", @{ $result->{rows} }), $damaged{$name}, "$name: the others have their rows");
	next if $name eq 'offset' || $name eq 'topic';
	like(
		$result->{text},
		qr/WARNING:  \w+: could not look at partition 0 of topic "damaged"\nDETAIL:  could not open file/,
		'... and a warning says what is wrong');
}
my $reader = Session->new($node, user => 'reader');
my $result = $reader->query($query{partition});
like(
	$result->{text},
	qr/could not look at partition 0 of topic "damaged"/,
	'a reader of the topic is told');
unlike($result->{text}, qr/could not open/, '... but not why');
is($session->value(q{CALL topics.send('a', 'v')}), '0|1', 'and the others go on');

# ----------------------------------------------------------------------
# A topic that is dropped meanwhile
# ----------------------------------------------------------------------

for my $name (qw(partition segment lag))
{
	$session->value(q{SELECT topics.create_topic('m')});
	$session->value(q{SELECT topics.commit_offset('g', 'm', 0, 0)});
	my $looker = Session->new($node);
	$looker->value($query{$name});
	$session->value(q{BEGIN; SELECT topics.drop_topic('m')});
	$looker->send($query{$name});
	ok( poll_until(
			sub {
				$node->safe_psql('postgres',
					"SELECT count(*) FROM pg_locks WHERE pid = $looker->{pid} AND NOT granted") eq
				  '1';
			}),
		"$name: waits for a topic that is being dropped");
	$session->value('COMMIT');
	my $rows = $looker->receive;
	is($rows->{sqlstate}, '', '... and does not fail');
	is(join(' ', map { /^(\w+)/ } @{ $rows->{rows} }), 'a damaged z', '... but shows the others');
	unlike($rows->{text}, qr/topic "m"/, '... without a word');
}

# ----------------------------------------------------------------------
# A cancel is the statement's own, and the session goes on
# ----------------------------------------------------------------------

$session->value(q{SELECT topics.create_topic('m')});
my $holder = Session->new($node);
$holder->value(q{BEGIN; SELECT topics.drop_topic('m')});
$query{broken} = 'SELECT count(*) FROM topics.broken_topic';
for my $name (qw(partition segment broken))
{
	my $looker = Session->new($node);
	$looker->value(q{SET statement_timeout = '100ms'});
	is($looker->query($query{$name})->{sqlstate}, '57014',
		"$name: a cancel in the look at a topic");
	is($looker->query('SELECT 1')->{text}, "1\n", '... ends the statement alone');
	is($looker->query('ROLLBACK')->{sqlstate}, '', '... and the session goes on');
}
$holder->value('ROLLBACK');

# ----------------------------------------------------------------------
# What a topic lacks, and what is said to put it right
# ----------------------------------------------------------------------

my $broken = 'SELECT topic, partition, problem, hint FROM topics.broken_topic';
like(
	$session->value($broken),
	qr/^damaged\|0\|It cannot be read: could not open file [^|]*\|Restore the file, .*allow_system_table_mods[^\n]*$/,
	'broken_topic: a file is missing');
my $locker = Session->new($node);
$locker->value(
	q{BEGIN; DO $$ BEGIN EXECUTE format('LOCK TABLE topic_log.t%s_p0', topic_id) FROM topics.topic WHERE topic = 'a'; END $$}
);
$session->value(q{SET lock_timeout = '10ms'});
is($session->query($broken)->{sqlstate},
	'55P03', '... but not since a lock is waited for too long');
$session->value('RESET lock_timeout');
$locker->value('ROLLBACK');
is((sqlstate_of($node, 'postgres', q{SELECT topics.repair_topic('damaged')}))[0],
	'58P01', '... repair_topic cannot read it either');
$session->value(
	q{SET allow_system_table_mods = on;
	DO $$ BEGIN EXECUTE format('DROP TABLE topic_log.t%s_p0_s1', topic_id) FROM topics.topic WHERE topic = 'damaged'; END $$;
	RESET allow_system_table_mods});
like(
	$session->value(q{SELECT action FROM topics.repair_topic('damaged')}),
	qr/^It has no record: the log starts, and goes on, at offset \d{4,}\.$/,
	'... before the log table is dropped');
is($session->value($broken), '', '... which puts it right');

$node->stop;
done_testing();
