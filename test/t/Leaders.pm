# Leaders.pm: a cluster of three nodes, one of which leads, and the others may come to.
package Leaders;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use FindBin;
use IO::Handle;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

our @EXPORT =
  qw(make_cluster all_records produce_records check_same find_leader wait_for_leader others_than check_acknowledged check_whole note_acknowledged check_terms start_clients check_clients report_kills check_contents
  leaders_on await_leaders is_shown wait_in_commit move_leader_to wait_for_all own_end term_of set_automatic cut_link cut_off heal_links);

my @nodes;
my %acknowledged;

# How nodes reach each other.  With links: by a directory in their own data directory,
# which is where a server's processes are, with a link to the other one's socket.
my $has_links;

sub conninfo_of
{
	my ($node) = @_;

	return $node->connstr('postgres') unless $has_links;
	return 'port=' . $node->port . ' dbname=postgres host=/proc/self/cwd/peers/' . $node->name;
}

# Three servers a, b and c, with topic t; a leads.  Options as of topics_node, and
# links => 1 for nodes that can be cut off.
sub make_cluster
{
	my (%options) = @_;

	$has_links = delete $options{links};
	@nodes = map { topics_node($_, %options) } qw(a b c);
	my ($first, @others) = @nodes;

	heal_links() if $has_links;
	$first->safe_psql('postgres',
			q{SELECT topics.create_topic('t', 3); SELECT topics.create_cluster('a', $$}
		  . conninfo_of($first)
		  . '$$)');
	$first->safe_psql('postgres',
		"CALL topics.add_node('" . $_->name . q{', $$} . conninfo_of($_) . '$$)')
	  for @others;
	return @nodes;
}

# Who leads each partition of topic s, whose leaders are spread, as a node sees it; '' if that
# cannot be asked right now
sub leaders_on
{
	my ($node) = @_;

	return (
		$node->psql(
			'postgres',
			q{SELECT string_agg(node, '' ORDER BY partition) FROM topics.replica WHERE topic = 's' AND role = 'leader'}
		))[1];
}

# All nodes that are up say in time that these lead
sub await_leaders
{
	my ($leaders, $test_name) = @_;

	ok( poll_until(
			sub {
				!grep { leaders_on($_) ne $leaders } grep { $_->{_pid} } @nodes;
			}),
		$test_name) or diag(join ' ', map { $_->{_pid} ? leaders_on($_) : '' } @nodes);
	return;
}

# All nodes reach each other.
sub heal_links
{
	for my $from (@nodes)
	{
		my $peers = $from->data_dir . '/peers';

		mkdir $peers;
		for my $to (@nodes)
		{
			my $link = "$peers/" . $to->name;

			symlink $to->host, $link or die "could not link $link: $!" unless -l $link;
		}
	}
	return;
}

# A node does not reach another one any more.  Both run.
sub cut_link
{
	my ($from, $to) = @_;

	unlink $from->data_dir . '/peers/' . $to->name or die "could not cut a link: $!";
	# who still has one connects again
	$to->safe_psql('postgres',
		q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pg_topics' AND backend_type = 'client backend'}
	);
	return;
}

# A node reaches nobody, and nobody reaches it.
sub cut_off
{
	my ($node) = @_;

	for my $other (others_than($node))
	{
		cut_link($node, $other);
		cut_link($other, $node);
	}
	return;
}

sub others_than
{
	my ($node) = @_;

	return grep { $_ != $node } @nodes;
}

# A node that goes back to what another one has refuses who has begun to read before.
sub all_records
{
	my ($node) = @_;

	for (;;)
	{
		my ($failed, $records, $error) = $node->psql('postgres',
			q{SELECT string_agg(partition || ':' || "offset" || '=' || value, ' ' ORDER BY partition, "offset") FROM topic.t}
		);

		return $records unless $failed;
		die $error unless $error =~ /Try again/;
	}
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

# Other nodes have in time what the leader has of each partition of a topic, or of a query.
sub check_contents
{
	my ($leader, $topic) = @_;
	my $records = qq{SELECT partition, count(*), md5(string_agg(r::text, ' ' ORDER BY "offset"))
		FROM $topic r GROUP BY 1 ORDER BY 1};
	my $expected = $leader->safe_psql('postgres', $records);

	for my $other (others_than($leader))
	{
		ok( poll_until(
				sub {
					my ($failed, $rows) = $other->psql('postgres', $records);
					!$failed && $rows eq $expected;
				}),
			$other->name . " has what the leader has of $topic");
	}
	return;
}

my $round = 0;

# All nodes are there, and whole: the leader takes records, and the others have the same.
sub check_whole
{
	my ($leader, $test_name) = @_;

	is(produce_records($leader, 'whole' . ++$round . '_', 6),
		6, "$test_name: " . $leader->name . ' leads');
	check_same($leader, $test_name, others_than($leader));
	check_acknowledged($leader, $test_name);
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

# What was acknowledged in another way than by produce_records.
sub note_acknowledged
{
	$acknowledged{$_} = 1 for @_;
	return;
}

# How often a record is shown on a node.
sub is_shown
{
	my ($node, $value) = @_;

	return $node->safe_psql('postgres', "SELECT count(*) FROM topic.t WHERE value = '$value'");
}

# Waits until a session waits for followers in its commit.
sub wait_in_commit
{
	my ($node, $session) = @_;

	return $node->poll_query_until('postgres',
		"SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $session->{pid}");
}

# Waits until these nodes, or all, have all that the leader has, whether it is confirmed or not.
sub wait_for_all
{
	my ($leader, @others) = @_;
	my $ends = q{
		SELECT string_agg(topic || ' ' || partition || ' ' || log_end_offset, ', ' ORDER BY topic, partition) FROM topics.replica
		WHERE node = (SELECT node FROM topics.node WHERE is_self)};

	@others = others_than($leader) unless @others;
	return poll_until(
		sub {
			my $wanted = $leader->safe_psql('postgres', $ends);

			return !grep { $_->safe_psql('postgres', $ends) ne $wanted } @others;
		});
}

# Has a node lead, where all are there; when it does, all have the same.
sub move_leader_to
{
	my ($to) = @_;
	my $leader = wait_for_leader(@nodes);

	$leader->safe_psql('postgres', "CALL topics.move_leader('" . $to->name . "')")
	  if $leader != $to;
	check_same($to, 'moved to ' . $to->name, others_than($to));
	wait_for_all($to) or die 'nodes do not have the same';
	return;
}

# Where the logs of topic t end on a node, in all, with what is not confirmed.
sub own_end
{
	my ($node) = @_;

	return $node->safe_psql(
		'postgres', q{
		SELECT sum(log_end_offset) FROM topics.replica
		WHERE topic = 't' AND node = (SELECT node FROM topics.node WHERE is_self)});
}

sub term_of
{
	my ($node) = @_;

	return $node->safe_psql('postgres', 'SELECT term FROM topic_log.cluster');
}

# These nodes, or all, elect a leader by themselves, or do not.
sub set_automatic
{
	my ($value, @those) = @_;

	for my $node (@those ? @those : @nodes)
	{
		$node->safe_psql('postgres', "ALTER SYSTEM SET pg_topics.automatic_failover = $value");
		$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
	}
	return;
}

# Of these nodes the one that says that it leads, in the highest term if there are two,
# in time; undef if there is none.
sub wait_for_leader
{
	my (@candidates) = @_;
	my ($leader, $highest);

	poll_until(
		sub {
			($leader, $highest) = (undef, 0);
			for my $node (@candidates)
			{
				my ($result, $term) =
				  $node->psql('postgres', 'SELECT term FROM topic_log.cluster WHERE leader = node');

				($leader, $highest) = ($node, $term)
				  if $result == 0 && $term ne '' && $term > $highest;
			}
			return $leader;
		});
	return $leader;
}

my ($clients, $clients_file);

# leader_clients.py begins to produce and to consume on all nodes, while so many are killed.
sub start_clients
{
	my ($kills, $partitions) = @_;

	$clients_file = "$PostgreSQL::Test::Utils::tmp_check/leader_clients.txt";
	open $clients, '|-', python_with('psycopg2'), '-B', "$FindBin::RealBin/leader_clients.py",
	  $clients_file, $kills, $partitions, map { $_->connstr('postgres') } @nodes
	  or die "could not start the clients: $!";
	$clients->autoflush(1);
	return;
}

# Who asks for many kills wants to know.
sub report_kills
{
	my ($report) = @_;

	$ENV{PG_TOPICS_LEADER_KILLS} ? diag($report) : note($report);
	return;
}

# The clients end, and look at what this node has: the number of cases of each check, and some
# of them.
sub check_clients
{
	my ($leader, $test_name) = @_;

	print {$clients} $leader->connstr('postgres') . "\n";
	ok(close $clients, 'the clients have ended');
	my %result = map { /^([^\t]*)\t(\d+)\t?(.*)/ ? ($1 => [ $2, $3 ]) : () } split /\n/,
	  slurp_file($clients_file);
	my %means = (
		'lost' => 'what was acknowledged is there',
		'doubled' => 'nothing is there twice',
		'reordered' => 'the records of a producer are in order in each partition',
		'rolled back' => 'nothing that was rolled back is there',
		'invented' => 'nothing that nobody has produced is there',
		'torn' => 'of a transaction all is there or nothing',
		'taken back' => 'what was ever read is where it was',
		'consumed twice' => 'nothing was consumed in two transactions that were acknowledged',
		'skipped' => 'everything was consumed',
		'copied twice' => 'nothing was copied in two transactions',
		'not copied' => 'everything was copied',
		'failed clients' => 'no client has failed');

	for my $check (sort keys %means)
	{
		my ($count, $cases) = @{ $result{$check} // [ 'not checked', '' ] };

		is($count, 0, "$test_name: $means{$check}") or diag("$check: $cases");
	}
	cmp_ok($result{acknowledged}[0], '>', 100, 'records were acknowledged');
	cmp_ok($result{consumed}[0], '>', 100, '... and consumed');
	report_kills(
		join "\n", $test_name, map { "$_: $result{$_}[0]" } 'acknowledged',
		'unknown', 'hasty and lost',
		'consumed', 'consumed, unknown');
	return %result;
}

# By the logs of the servers nobody has led in a term of another one.
sub check_terms
{
	my ($test_name) = @_;
	my (%leader, @wrong);

	for my $node (@nodes)
	{
		my $name = $node->name;

		for
		  my $term (slurp_file($node->logfile) =~ /node "$name" leads from now on, in term (\d+)/g)
		{
			push @wrong, "$leader{$term} and $name in term $term" if $leader{$term};
			$leader{$term} = $name;
		}
	}
	cmp_ok(scalar keys %leader, '>', 0, "$test_name: nodes were elected");
	return is("@wrong", '', "$test_name: of each term one leads, and was elected once");
}

1;
