# A follower is given nothing that a synchronous standby of the leader does not have.  So
# when the standby takes the leader's place, the follower goes on with it, also if the
# leader was lost with a commit that waited for the standby.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

my $conf =
  "pg_topics.worker_interval = '1 s'\npg_topics.automatic_failover = off\npg_topics.node_timeout = '1 s'\n";
my $a = topics_node('a', init => { allows_streaming => 1 }, conf => $conf);
my $b = topics_node('b', conf => $conf);
my $standby = PostgreSQL::Test::Cluster->new('standby');

sub records
{
	my ($node) = @_;

	return $node->safe_psql('postgres',
		q{SELECT string_agg(value, ' ' ORDER BY "offset") FROM topic.t});
}

# How many records the follower has, as far as the leader knows
sub end_of_b
{
	return $a->safe_psql('postgres',
		q{SELECT log_end_offset FROM topics.replica WHERE topic = 't' AND node = 'b'});
}

$a->backup('backup');
$standby->init_from_backup($a, 'backup', has_streaming => 1);
$standby->start;
$a->append_conf('postgresql.conf', "synchronous_standby_names = '*'");
$a->reload;
my $conninfo = sprintf 'host=%s port=%s dbname=postgres target_session_attrs=read-write',
  join(',', map { $_->host } $a, $standby),
  join(',', map { $_->port } $a, $standby);
$a->safe_psql('postgres',
	qq{SELECT topics.create_topic('t'); SELECT topics.create_cluster('a', '$conninfo')});
$a->safe_psql('postgres', q{CALL topics.add_node('b', $$} . $b->connstr('postgres') . '$$)');
$a->safe_psql('postgres', q{SELECT topics.produce('t', 'first')});
ok(wait_for_replica($b, $a), 'a follower, and a synchronous standby');

# ----------------------------------------------------------------------
# The standby is away
# ----------------------------------------------------------------------

my $observer = Session->new($a);
$standby->stop;
my $producer =
  Session->waiting_for_standby($a, $observer, q{SELECT topics.produce('t', 'while it is away')});
# the leader answers the follower meanwhile, again and again
my $heard = $observer->value(q{SELECT last_asked FROM topics.node WHERE node = 'b'});
ok( poll_until(
		sub {
			$observer->value(
				qq{SELECT last_asked > '$heard'::timestamptz + interval '2 s' FROM topics.node WHERE node = 'b'}
			) eq 't';
		}),
	'the standby is away: the follower asks on');
is(end_of_b(), '1', '... and is not given what the standby does not have');
$standby->start;
ok($producer->receive->{sqlstate} eq '', 'the standby is back: the commit is acknowledged');
ok(wait_for_replica($b, $a), '... and the follower has it');

# ----------------------------------------------------------------------
# The standby takes the leader's place
# ----------------------------------------------------------------------

$standby->stop;
$producer = Session->waiting_for_standby($a, $observer, q{SELECT topics.produce('t', 'lost')});
kill_server($a);
$standby->start;
$standby->promote;
# it leads when the follower has admitted it
ok( poll_until(
		sub {
			($standby->psql('postgres', q{SELECT topics.produce('t', 'of the promoted')}))[0] == 0;
		}),
	'the standby is promoted: it leads');
ok(wait_for_replica($b, $standby), 'the standby is promoted: the follower goes on');
is(records($b), 'first while it is away of the promoted', '... with what was acknowledged');
is(records($standby), records($b), '... on both');
undef $producer;
$_->stop for $b, $standby;
done_testing();
