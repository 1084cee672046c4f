# TopicState.pm: what topics hold, in a form that can be compared, and whether
# the files on disk keep their order.
package TopicState;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

our @EXPORT =
  qw(topic_state records_of same_state check_files leaves_of produce_and_abort sqlstate_of kill_and_start compact_by_hand);

# All topics of a database: who owns them, settings, channel, both ends of each
# partition, rights on them and on what there is beside them (but MAINTAIN, which
# PostgreSQL 17 brought).  One line each.
sub topic_state
{
	my ($node, $database) = @_;

	return $node->safe_psql(
		$database, q{
		SELECT to_jsonb(t), topics.channel(topic) FROM topics.topic t ORDER BY topic;
		SELECT topic, partition, log_start_offset, log_end_offset, first_timestamp, last_timestamp
			FROM topics.partition ORDER BY topic, partition;
		SELECT object, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END, privilege_type, is_grantable
			FROM (SELECT oid::regclass::text, relacl FROM pg_class WHERE relnamespace IN ('topic'::regnamespace, 'topics'::regnamespace)
				UNION ALL SELECT oid::regprocedure::text, proacl FROM pg_proc WHERE pronamespace = 'topics'::regnamespace
				UNION ALL SELECT nspname, nspacl FROM pg_namespace WHERE nspname IN ('topic', 'topics')) o(object, acl),
				LATERAL aclexplode(acl)
			WHERE privilege_type <> 'MAINTAIN' ORDER BY 1, 2, 3;});
}

# Consumer groups and their committed offsets.
sub group_state
{
	my ($node, $database) = @_;

	return $node->safe_psql(
		$database, q{
		SELECT * FROM topics.consumer_group ORDER BY group_id;
		SELECT group_id, topic, partition, committed_offset, metadata, commit_time AT TIME ZONE 'UTC'
			FROM topics.consumer_offset ORDER BY group_id, topic, partition;
		SELECT group_id, topic, partition, current_offset, lag FROM topics.consumer_lag ORDER BY group_id, topic, partition;}
	);
}

# All records of a topic in offset order, a line each.
sub records_of
{
	my ($node, $database, $topic) = @_;

	return $node->safe_psql(
		$database, qq{
		SELECT partition, "offset", "timestamp" AT TIME ZONE 'UTC', md5(key::text), octet_length(value::text), md5(value::text), headers
		FROM topic."$topic" ORDER BY partition, "offset"});
}

# Everything that should survive a move, as a hash.
sub state_of
{
	my ($node, $database) = @_;
	my %state = (
		'(catalogue)' => topic_state($node, $database),
		'(groups)' => group_state($node, $database));

	$state{$_} = records_of($node, $database, $_)
	  for split /\n/, $node->safe_psql($database, 'SELECT topic FROM topics.topic');
	return \%state;
}

# Passes if two states, as made by this function without a third argument,
# are the same.  Says the first line that differs.
sub same_state
{
	my ($node, $database, $expected, $test_name) = @_;
	my $got = state_of($node, $database);

	return $got unless defined $expected;
	for my $topic (sort keys %$expected)
	{
		my @expected = split /\n/, $expected->{$topic};
		my @got = split /\n/, $got->{$topic} // '';

		for my $i (0 .. (@expected > @got ? $#expected : $#got))
		{
			next if ($expected[$i] // '(nothing)') eq ($got[$i] // '(nothing)');
			fail($test_name);
			diag(
				sprintf "%s, line %d\nexpected: %s\n     got: %s",
				$topic, $i + 1,
				$expected[$i] // '(nothing)',
				$got[$i]      // '(nothing)');
			return $got;
		}
	}
	is(join(' ', sort keys %$got), join(' ', sort keys %$expected), $test_name);
	return $got;
}

# The segments of all topics, or of one topic's partition.
sub leaves_of
{
	my ($node, $database, $topic, $partition) = @_;
	my $where = defined $topic
	  ? qq{AND c.relname LIKE (SELECT 't' || topic_id || '\\_p$partition\\_s%'
		FROM topics.topic WHERE topic = '$topic')}
	  : '';

	return split /\n/, $node->safe_psql(
		$database, qq{
		SELECT c.relname FROM pg_class c
		WHERE c.relkind = 'r' AND c.relispartition AND relnamespace = 'topic_log'::regnamespace $where
		ORDER BY length(relname), relname});
}

# What is wrong in the order of segments' rows.
sub files_query
{
	my (@leaves) = @_;

	return 'SET enable_indexscan = off; SET enable_bitmapscan = off; SELECT * FROM (' . join(
		"\nUNION ALL\n",
		map {
			my ($topic_id, $partition) = /^t(\d+)_p(\d+)_/ or die "$_ is no segment";
			qq{SELECT '$_' AS leaf, count(*) AS wrong, min(o) AS at FROM (
			SELECT "offset" AS o, lag("offset") OVER (ORDER BY ctid) AS by_place, lag("offset") OVER () AS by_scan
			FROM topic_log.$_) s, (SELECT coalesce(max(gaps_below), 0) AS gaps_below FROM topic_log.partition
			WHERE topic_id = $topic_id AND partition = $partition) p
			WHERE by_place >= o OR by_scan <> by_place OR (by_place <> o - 1 AND o > gaps_below)}
		} @leaves) . ') s WHERE wrong > 0';
}

# In every file rows lie in the order of their offsets, without a gap but where
# the catalogue says that the topic was compacted, and a partition's files have
# no gap between them.  Reads sequentially; the order that a scan returns is
# compared too, for nothing here sorts.
sub check_files
{
	my ($node, $database, $test_name) = @_;
	my @leaves;
	my $wrong;

	# one may be dropped between the list and the look
	for my $attempt (1 .. 5)
	{
		@leaves = leaves_of($node, $database);
		die 'no segments' unless @leaves;
		$wrong = eval { $node->safe_psql($database, files_query(@leaves)) };
		last if defined $wrong;
		die $@ if $@ !~ /does not exist/ || $attempt == 5;
	}
	is($wrong, '',
		"$test_name: physical order is offset order in each of " . @leaves . ' segments');

	my @topics =
	  split /\n/, $node->safe_psql($database, 'SELECT topic FROM topics.topic ORDER BY 1');
	my $records = join "\nUNION ALL\n",
	  map { qq{SELECT '$_' AS topic, partition, "offset" FROM topic."$_"} } @topics;

	$wrong = $node->safe_psql(
		$database, qq{
		WITH dense AS MATERIALIZED (SELECT topic, p.partition, log_end_offset, greatest(p.log_start_offset, gaps_below) AS start
			FROM topics.partition p JOIN topics.topic t USING (topic) JOIN topic_log.partition USING (topic_id, partition))
		SELECT p.topic, p.partition, p.start, p.log_end_offset, count(r.offset), min(r.offset), max(r.offset)
		FROM dense p LEFT JOIN ($records) r ON r.topic = p.topic AND r.partition = p.partition AND r.offset >= p.start
		GROUP BY 1, 2, 3, 4
		HAVING count(r.offset) <> log_end_offset - start
			OR min(r.offset) <> start OR max(r.offset) <> log_end_offset - 1});
	return is($wrong, '', "$test_name: partitions are dense from start to end");
}

# Runs statements in a transaction that fails at its commit, after pg_topics
# has appended.  So it leaves dead rows in the log.  The server has test points.
sub produce_and_abort
{
	my ($node, $database, $statements, $test_name) = @_;
	my $session = Session->new($node, database => $database);

	stop_at($node, 'append-done');
	$session->send("BEGIN; $statements; COMMIT");
	fail_at($node, 'append-done', wait_until_at($node, 'append-done'));
	return like($session->receive->{message}, qr/made to fail at test point/, $test_name);
}

# kill -9 of the postmaster, and a new start as soon as what is left of the old
# server has seen that and ended.
sub kill_and_start
{
	my ($node) = @_;
	my $pid = $node->{_pid};
	my $attempts = 10 * $PostgreSQL::Test::Utils::timeout_default;

	$node->kill9;
	while (kill 0, $pid)
	{
		die "process $pid does not end" unless $attempts--;
		select undef, undef, undef, 0.1;
	}
	until ($node->start(fail_ok => 1))
	{
		die 'the server does not start after kill -9' unless $attempts--;
		select undef, undef, undef, 0.1;
		$node->stop('fast', fail_ok => 1);
	}
	return;
}

# Rolls and compacts a topic until all that there was is clean: snapshots and
# locks of others delay it.
sub compact_by_hand
{
	my ($node, $topic, $database) = @_;
	my $attempts = 10 * $PostgreSQL::Test::Utils::timeout_default;
	my $query = qq{
		SELECT bool_and(clean_offset = log_end_offset) FROM topic_log.partition p JOIN topics.topic t USING (topic_id) JOIN topics.partition s USING (topic, partition)
		WHERE topic = '$topic' AND log_end_offset > 0};

	$database //= 'postgres';
	$node->safe_psql($database, "CALL topics.roll_segment('$topic')");
	while ($attempts--)
	{
		$node->safe_psql($database, "CALL topics.maintain('$topic')");
		return 1 if $node->safe_psql($database, $query) eq 't';
		select undef, undef, undef, 0.1;
	}
	return 0;
}

# The SQLSTATE that a statement fails with, or 00000, and the message.
sub sqlstate_of
{
	my ($node, $database, $statement) = @_;
	my ($result, $stdout, $stderr) = $node->psql($database, "\\set VERBOSITY verbose\n$statement");

	return $stderr =~ /(?:ERROR|FATAL):  ([0-9A-Z]{5}): / ? ($1, $stderr) : ('00000', $stderr);
}

1;
