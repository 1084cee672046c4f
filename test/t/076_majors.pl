# A cluster whose nodes are of different majors: topics of every type and kind are the
# same on all, whoever leads, while producers, consumers and the keeping of records go
# on, and after a follower was killed.  With test/upgrade the nodes are of the majors
# that are installed, otherwise of one.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use AllKinds;
use Session;
use Topics;
use TopicState;

my @servers = servers_to_upgrade(2);
my $conf = "pg_topics.worker_interval = '2 s'\nautovacuum = off\nmax_locks_per_transaction = 256\n";

# The leader's topics whose types a follower does not have
sub lacking_on
{
	my ($follower, $leader) = @_;
	my %lacks;

	for (
		split /\n/,
		$leader->safe_psql(
			'postgres',
			q{SELECT topic, format_type(atttypid, atttypmod) FROM topics.topic JOIN pg_attribute
				ON attrelid = format('topic.%I', topic)::regclass AND attname IN ('key', 'value')}
		))
	{
		my ($topic, $type) = split /\|/;

		$type =~ s/'/''/g;
		$lacks{$topic} = 1
		  if $follower->safe_psql('postgres', "SELECT to_regtype('$type') IS NULL") eq 't';
	}
	return sort keys %lacks;
}

# What a topic has; of one that is compacted, which each node does at its own time, the
# latest of each key.
sub contents_of
{
	my ($node, $topic, $is_compacted) = @_;

	return records_of($node, 'postgres', $topic) unless $is_compacted;
	return $node->safe_psql('postgres',
		"SELECT partition, key, value FROM topics.latest('$topic') ORDER BY 1, 2, 3");
}

sub same_records
{
	my ($follower, $leader, $test_name) = @_;
	my @different;

	wait_for_replica($follower, $leader) or return fail("$test_name: all has come");
	for (
		split /\n/,
		$leader->safe_psql(
			'postgres', q{SELECT topic, cleanup_policy LIKE '%compact%' FROM topics.topic}))
	{
		my ($topic, $policy) = split /\|/;
		my @is = map { contents_of($_, $topic, $policy eq 't') } $follower, $leader;

		push @different, $topic if $is[0] ne $is[1];
	}
	is("@different", '', "$test_name: record by record");
	is( $follower->safe_psql(
			'postgres',
			'SELECT group_id, topic, partition, committed_offset, metadata FROM topics.consumer_offset ORDER BY 1, 2, 3'
		),
		$leader->safe_psql(
			'postgres',
			'SELECT group_id, topic, partition, committed_offset, metadata FROM topics.consumer_offset ORDER BY 1, 2, 3'
		),
		"$test_name: committed offsets");
	return check_files($follower, 'postgres', $test_name);
}

# A cluster that the first of these leads
sub check_cluster
{
	my ($number, $leading, @following) = @_;
	my $leader = topics_node("leader_$number", server => $leading, conf => $conf);
	my @followers =
	  map { topics_node("follower_${number}_$_", server => $following[$_], conf => $conf) }
	  0 .. $#following;
	my $of = sub { my ($node) = @_; $leader->pg_version . ' leads ' . $node->pg_version };

	make_all_kinds($leader);
	make_surroundings($_) for @followers;
	$leader->safe_psql('postgres',
		q{SELECT topics.create_cluster('leader', $$} . $leader->connstr('postgres') . '$$)');
	for my $follower (@followers)
	{
		my @lacking = lacking_on($follower, $leader);

		# it waits until the node has all topics
		my $adding = Session->new($leader);

		$adding->send("CALL topics.add_node('"
			  . $follower->name
			  . "', \$\$"
			  . $follower->connstr('postgres')
			  . '$$)');
		if (@lacking)
		{
			ok( $follower->poll_query_until(
					'postgres',
					q{SELECT count(*) > 0 FROM topics.worker WHERE message LIKE '%cannot be had%'}),
				$of->($follower) . ": @lacking cannot be had, and is shown");
			$leader->safe_psql('postgres', "SELECT topics.drop_topic('$_')") for @lacking;
		}
		is($adding->receive->{sqlstate}, '', $of->($follower) . ': the node is added');
	}
	same_records($_, $leader, $of->($_)) for @followers;

	# while the other one hears of it
	if (@followers == 1)
	{
		$leader->safe_psql('postgres', 'SELECT topics.alter_cluster(acks_followers => 0)');
		$leader->poll_query_until('postgres', 'SELECT NOT change_open FROM topic_log.cluster');
	}
	$followers[-1]->stop('immediate');
	work_on_all_kinds($leader, $leader->pg_version . ' with followers');
	$followers[-1]->start;
	same_records($_, $leader, $of->($_) . ', after work') for @followers;
	for my $node ($leader, @followers)
	{
		unlike(
			slurp_file($node->logfile),
			qr/PANIC|TRAP|terminated by signal/,
			$node->name . ': no crash');
		$node->stop;
	}
	return;
}

check_cluster(1, @servers);
check_cluster(2, reverse @servers) if defined $servers[0];

done_testing();
