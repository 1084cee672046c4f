# Groups on a hot standby: offsets are shown as they are replayed, a group can be
# waited for, consuming and committing are refused; and after a promotion groups
# go on at their places, with nothing skipped and nothing twice.

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

my $primary = topics_node('primary', init => { allows_streaming => 1 });
$primary->safe_psql(
	'postgres', q{
	SELECT topics.create_topic('t', 2);
	SELECT count(topics.produce('t', 'v' || i, partition => i % 2)) FROM generate_series(0, 9) i;});
$primary->safe_psql('postgres', q{SELECT count(*) FROM topics.consume('g', 't', 2)});
$primary->safe_psql('postgres', q{SELECT topics.commit_offset('hand', 't', 0, 1, 'meta')});
$primary->safe_psql('postgres',
	q{SELECT count(*) FROM topics.consume('late', 't', auto_offset_reset => 'latest')});
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

my $offsets =
  q{SELECT group_id, partition, committed_offset, metadata FROM topics.consumer_offset ORDER BY 1, 2;
	SELECT group_id, partition, lag FROM topics.consumer_lag ORDER BY 1, 2};

sub same_offsets
{
	my ($name) = @_;

	$primary->wait_for_catchup($standby, 'replay');
	return is($standby->safe_psql('postgres', $offsets),
		$primary->safe_psql('postgres', $offsets), $name);
}

same_offsets('the standby shows committed offsets and lags');
$primary->safe_psql('postgres', q{SELECT count(*) FROM topics.consume('g', 't', 2)});
same_offsets('... and later ones');
$primary->safe_psql('postgres',
	q{SELECT count(*) FROM topics.reset_offset('hand', 't', to_position => 'earliest')});
same_offsets('... also lower ones');
$primary->safe_psql('postgres', q{SELECT topics.delete_group('hand')});
same_offsets('... and that a group is no more');

is((sqlstate_of($standby, 'postgres', $_))[0], '25006', "refused: $_")
  foreach q{SELECT * FROM topics.consume('g', 't')}, q{SELECT topics.commit_offset('g', 't', 0, 5)},
  q{SELECT * FROM topics.reset_offset('g', 't', to_offset => 0)},
  q{SELECT topics.delete_group('g')};

is((sqlstate_of($standby, 'postgres', q{CALL topics.wait('g', 't', '1 h')}))[0],
	'00000', 'wait returns where there is something');
my $waiter = Session->new($standby);
$waiter->send(q{CALL topics.wait('late', 't', '1 h')});
ok( $standby->poll_query_until(
		'postgres',
		"SELECT wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = $waiter->{pid}"),
	'... and waits where there is not');
$primary->safe_psql('postgres', q{SELECT topics.produce('t', 'new', partition => 1)});
is(join(' ', @{ $waiter->receive->{rows} }), 'CALL', '... until a record is replayed');

$primary->wait_for_catchup($standby, 'replay');
my %place = map { split /\|/ } split /\n/,
  $primary->safe_psql('postgres',
	q{SELECT partition, committed_offset FROM topics.consumer_offset WHERE group_id = 'g'});
$primary->stop;
$standby->promote;
is( $standby->safe_psql(
		'postgres', q{
		SELECT r.partition, r.offset FROM topics.consume('g', 't') r;
		SELECT r.partition, r.offset FROM topics.consume('g', 't') r;
		SELECT r.partition, r.offset FROM topics.consume('g', 't') r}),
	join(
		"\n",
		map {
			my $p = $_;
			map { "$p|$_" } ($place{$p} // 0) .. 4 + $p
		} 0,
		1),
	'after the promotion the group goes on at its places');
is($standby->safe_psql('postgres', q{SELECT value FROM topics.consume('late', 't')}),
	'new', '... and one that had begun at the end, there');
$standby->stop;
done_testing();
