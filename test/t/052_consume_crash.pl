# Exactly once, whatever ends: copiers take records from one topic, note them in
# a table and produce them to another topic, in one transaction, while sessions
# are terminated and cancelled, transactions roll back, and the whole server is
# killed.  Afterwards table and copy hold each record once, and committed
# offsets have never gone back.  What a restart rebuilds from the log is what was
# there before; so is what a dump carries into another cluster.
#
# PG_TOPICS_LONG: 30 kills of the server instead of 3.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use POSIX qw(WNOHANG);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use Session;
use Topics;
use TopicState;

my $kills = $ENV{PG_TOPICS_LONG} ? 30 : 3;
my $partitions = 5;
my $copiers = 4;

my $node = topics_node(
	'main', conf => q{
max_connections = 60
fsync = on
restart_after_crash = on
log_statement = none
});
$node->safe_psql(
	'postgres', qq{
	SELECT topics.create_topic('source', $partitions);
	SELECT topics.create_topic('copy', 3);
	CREATE TABLE noted (partition int, "offset" bigint, value text)});

# ----------------------------------------------------------------------
# Load
# ----------------------------------------------------------------------

# Skewed: the higher a partition's number, the more records.
sub produce
{
	my ($name) = @_;
	my $session = Session->new($node) or return;

	for (my $i = 0;; $i++)
	{
		last if $session->query(
			qq{
			BEGIN;
			SELECT count(topics.produce('source', '$name-$i-' || n, partition => (sqrt(random()) * $partitions)::int % $partitions))
			FROM generate_series(1, 1 + (random() * 20)::int) n;
			@{[ rand() < 0.1 ? 'ROLLBACK' : 'COMMIT' ]}})->{lost};
	}
}

# A transaction takes up to three partitions; savepoints are rolled back, and
# whole transactions.  What a rolled-back part took comes again.
sub copy
{
	my ($take) = @_;
	my $session;

	while (1)
	{
		$session //= Session->new($node) or return;
		my $level = ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')[ rand 3 ];
		my $step = sub { $take =~ s/LIMIT/1 + int rand 30/er };
		my $sql = "BEGIN ISOLATION LEVEL $level;\n" . $step->();

		$sql .= ";\nSAVEPOINT s;\n" . $step->() . ";\nROLLBACK TO s;\n" . $step->() if rand() < 0.3;
		$sql .= ";\nSAVEPOINT s;\n" . $step->() . ";\nRELEASE s;\n" if rand() < 0.3;
		$sql .= ";\n" . (rand() < 0.15 ? 'ROLLBACK' : 'COMMIT');
		my $result = $session->query($sql);
		# who was terminated begins anew; who finds no server is done
		if    ($result->{lost}) { undef $session; last unless $session = Session->new($node) }
		elsif ($result->{sqlstate} && $result->{sqlstate} !~ /^(40001|57014|40P01|57P01)$/)
		{
			print STDERR "copier: $result->{text}";
			POSIX::_exit(1);
		}
	}
}

my $take = q{
	WITH r AS MATERIALIZED (SELECT * FROM topics.consume('copier', 'source', LIMIT)),
	w AS (INSERT INTO noted SELECT partition, r.offset, value FROM r)
	INSERT INTO topic.copy (key, value) SELECT partition::text, value FROM r};
my %children;

sub start
{
	my ($function, @arguments) = @_;
	my $child = fork;

	die "could not fork: $!" unless defined $child;
	if ($child == 0)
	{
		srand $$;
		eval { $function->(@arguments); 1 } or do { print STDERR "client: $@"; POSIX::_exit(1) };
		POSIX::_exit(0);
	}
	$children{$child} = 1;
}

my $failures = 0;

sub wait_for_clients
{
	return poll_until(
		sub {
			for my $child (keys %children)
			{
				next if waitpid($child, WNOHANG) == 0;
				$failures++ if $?;
				delete $children{$child};
			}
			return !%children;
		});
}

sub count_noted { return $node->safe_psql('postgres', 'SELECT count(*) FROM noted') }

# ----------------------------------------------------------------------
# What must hold
# ----------------------------------------------------------------------

my %before;

sub committed
{
	return map { split /\|/ } split /\n/, $node->safe_psql(
		'postgres', q{
		SELECT partition, committed_offset FROM topics.consumer_offset WHERE group_id = 'copier'});
}

# What is noted and copied is what lies below the committed offsets, once each.
sub check_copy
{
	my ($name) = @_;
	my %now = committed();

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(scalar(grep { ($now{$_} // 0) < $before{$_} } keys %before),
		0, "$name: no committed offset has gone back");
	is( $node->safe_psql(
			'postgres', q{
			SELECT count(*), count(*) FILTER (WHERE n.count = 1 AND n.value = s.value), (SELECT count(*) FROM noted) - count(*)
			FROM topic.source s JOIN topics.consumer_offset o ON o.group_id = 'copier' AND o.partition = s.partition AND s.offset < committed_offset
			LEFT JOIN (SELECT partition, "offset", min(value) AS value, count(*) FROM noted GROUP BY 1, 2) n
				ON n.partition = s.partition AND n.offset = s.offset}) =~ s/^(\d+)\|\1\|0$/right/r,
		'right',
		'... what is below them is noted once, and nothing else');
	is( $node->safe_psql(
			'postgres', q{
			SELECT count(*) FROM ((SELECT value, count(*) FROM noted GROUP BY 1 EXCEPT SELECT value, count(*) FROM topic.copy GROUP BY 1)
			UNION ALL (SELECT value, count(*) FROM topic.copy GROUP BY 1 EXCEPT SELECT value, count(*) FROM noted GROUP BY 1)) d}
		),
		'0',
		'... and copied');
	is( $node->safe_psql(
			'postgres', q{
			SELECT count(*) FROM (SELECT n.offset, lag(n.offset) OVER (PARTITION BY n.key ORDER BY c.partition, c.offset) AS before
			FROM topic.copy c JOIN (SELECT partition::text AS key, value, "offset" FROM noted) n USING (key, value)) s WHERE before >= s.offset}
		),
		'0',
		'... in their order');
	%before = %now;
	return;
}

# ----------------------------------------------------------------------
# kill -9 of the server
# ----------------------------------------------------------------------

for my $kill (1 .. $kills)
{
	my $done = count_noted();

	start(\&produce, "p$kill.$_") for 1 .. 2;
	start(\&copy, $take) for 1 .. $copiers;
	ok($node->poll_query_until('postgres', "SELECT count(*) > $done + 1500 FROM noted"),
		"kill $kill: copiers work");
	usleep(rand 200000);
	kill_and_start($node);
	ok(wait_for_clients(), '... and end with the server');
	check_copy("kill $kill");
}

# ----------------------------------------------------------------------
# Sessions are terminated and cancelled
# ----------------------------------------------------------------------

my $done = count_noted();
start(\&produce, "q$_") for 1 .. 2;
start(\&copy, $take) for 1 .. $copiers;
my $killer = Session->new($node);
my ($victims, $seen) = (0, 0);
until ($victims >= 100 && $seen >= 2000)
{
	my $function = rand() < 0.5 ? 'pg_terminate_backend' : 'pg_cancel_backend';

	$victims += $killer->value(
		qq{SELECT count($function(pid)) FROM (SELECT pid FROM pg_stat_activity
		WHERE state <> 'idle' AND query LIKE '%copier%' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1) s}
	);
	# one that has waited for nothing but the dice
	usleep(rand 20000);
	$seen = count_noted() - $done;
}
cmp_ok($victims, '>=', 100, "$victims sessions were terminated or cancelled");
my $claims = $node->safe_psql(
	'postgres', q{SELECT count(*) FROM pg_locks WHERE locktype = 'userlock'
	AND pid NOT IN (SELECT pid FROM pg_stat_activity)});
is($claims, '0', '... and left no claim');
kill_and_start($node);
ok(wait_for_clients(), 'the load ends');
is($failures, 0, 'no client met an error that it should not have');
check_copy('terminated and cancelled sessions');

# The rest, in one session: nothing is left over
$node->safe_psql(
	'postgres', qq{DO \$\$ DECLARE n bigint; BEGIN
	LOOP @{[ $take =~ s/LIMIT/1000/r ]}; GET DIAGNOSTICS n = ROW_COUNT; COMMIT; EXIT WHEN n = 0; END LOOP; END \$\$}
);
check_copy('the rest');
is( $node->safe_psql(
		'postgres',
		q{SELECT (SELECT count(*) FROM topic.source) - (SELECT count(*) FROM topic.copy)}),
	'0',
	'in the end all is copied: ' . count_noted() . ' records');
is( $node->safe_psql(
		'postgres',
		q{SELECT count(*) FROM topics.consumer_lag WHERE group_id = 'copier' AND lag <> 0}),
	'0',
	'... and no lag is left');

# ----------------------------------------------------------------------
# What restarts, dumps and other clusters keep of groups
# ----------------------------------------------------------------------

$node->safe_psql(
	'postgres', q{
	CREATE ROLE worker;
	CREATE ROLE gone;
	GRANT USAGE ON SCHEMA topics, topic TO worker, gone;
	GRANT EXECUTE ON ALL ROUTINES IN SCHEMA topics, topic_log TO worker, gone;
	GRANT SELECT ON ALL TABLES IN SCHEMA topics TO worker;
	GRANT SELECT ON topic.source, topic.copy TO worker, gone;
	SELECT topics.commit_offset('by hand', 'source', 0, 1, E'meta "data" \\\\ line\nend');
	SELECT topics.commit_offset('deleted', 'source', 0, 1);
	SELECT topics.delete_group('deleted');
	SET ROLE worker;
	SELECT count(*) FROM topics.consume('owned', 'source', 3);
	SELECT count(*) FROM topics.consume('at the end', 'copy', auto_offset_reset => 'latest');
	SELECT count(*) FROM topics.consume('strict', 'copy', auto_offset_reset => 'latest');
	SET ROLE gone;
	SELECT count(*) FROM topics.consume('orphan', 'copy', 3);
	RESET ROLE;
	SELECT * FROM topics.reset_offset('strict', 'copy', to_position => 'earliest');});
my $query = q{
	SELECT group_id, owner, group_type, state FROM topics.consumer_group ORDER BY 1;
	SELECT group_id, topic, partition, committed_offset, metadata, commit_time AT TIME ZONE 'UTC' FROM topics.consumer_offset ORDER BY 1, 2, 3;
	SELECT * FROM topics.consumer_lag ORDER BY 1, 2, 3;};
my $state = $node->safe_psql('postgres', $query);
$node->restart;
is($node->safe_psql('postgres', $query),
	$state, 'a restart rebuilds groups, offsets, metadata and places to begin');
kill_and_start($node);
is($node->safe_psql('postgres', $query), $state, '... and kill -9');
is( $node->safe_psql(
		'postgres', q{
		SELECT topics.produce('copy', 'new', partition => 0);
		SELECT value FROM topics.consume('at the end', 'copy', auto_offset_reset => 'earliest')}),
	"0\nnew",
	'a group that had begun at the end goes on there');

$node->safe_psql('postgres', 'ALTER ROLE worker RENAME TO renamed');
$state = $node->safe_psql('postgres', $query);
like($state, qr/^owned\|renamed\|consume\|Empty$/m, 'a renamed role keeps its group');
$node->restart;
is($node->safe_psql('postgres', $query), $state, '... over a restart');
is( $node->safe_psql(
		'postgres', q{SET ROLE renamed; SELECT count(*) FROM topics.consume('owned', 'source', 3)}),
	'3',
	'... and uses it');
$state = $node->safe_psql('postgres', $query);
is( (   sqlstate_of(
			$node,
			'postgres',
			q{CREATE ROLE worker; GRANT renamed TO gone; SET ROLE worker; SELECT topics.delete_group('owned')}
		))[0],
	'42501',
	'... but a new role of the old name does not');

# Into a cluster with roles of other OIDs, where one is missing
$node->safe_psql('postgres', q{ALTER ROLE renamed RENAME TO mover});
$node->safe_psql(
	'postgres', q{
	SET ROLE mover; SELECT count(*) FROM topics.consume('owned', 'source', 3);
	RESET ROLE; REVOKE ALL ON ALL TABLES IN SCHEMA topic FROM gone; DROP OWNED BY gone;});
my $target = topics_node('target', extension => 0);
$target->safe_psql('postgres',
	'CREATE ROLE filler1; CREATE ROLE filler2; CREATE ROLE mover; CREATE ROLE worker; CREATE ROLE renamed'
);
# groups' records say what owners are called now, when the worker has been there, or somebody has called
$node->safe_psql('postgres', q{CALL topics.maintain('__consumer_offsets')});
my $dump = PostgreSQL::Test::Utils::tempdir . '/dump';
command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('postgres'), '-f', $dump ], 'pg_dump');
command_ok(
	[ 'pg_restore', '--exit-on-error', '-j', '2', '-d', $target->connstr('postgres'), $dump ],
	'pg_restore into another cluster');
my ($expected) = map { s/^orphan\|gone\|/orphan||/mr } $node->safe_psql('postgres', $query);
is($target->safe_psql('postgres', $query),
	$expected, 'groups, offsets and owners are back, by name; a missing owner is none');
$target->safe_psql('postgres',
	q{GRANT USAGE ON SCHEMA topics, topic TO mover, filler1; GRANT EXECUTE ON ALL ROUTINES IN SCHEMA topics TO mover, filler1; GRANT SELECT ON topic.source TO mover, filler1}
);
is( $target->safe_psql('postgres',
		q{SET ROLE mover; SELECT min(r.offset) FROM topics.consume('owned', 'source', 1) r}) =~
	  /^\d+$/ ? 1 : 0,
	1,
	'... and the owner goes on');
is( (sqlstate_of($target, 'postgres', q{SET ROLE filler1; SELECT topics.delete_group('owned')}))[0],
	'42501',
	'... and nobody else');
$target->restart;
like(
	$target->safe_psql('postgres', $query),
	qr/^owned\|mover\|consume\|Empty$/m,
	'... over a restart');
$target->stop;
$node->stop;
done_testing();
