# Producers that number their records: whatever ends, in one server, in a copy of
# it or in a cluster, a record that is repeated is stored once, and what is known of
# sequences, names and epochs is what was committed.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Leaders;
use Session;
use Topics;
use TopicState;

my $node = topics_node(
	'main',
	points => 1,
	init => { allows_streaming => 1 },
	conf => q{
autovacuum = off
restart_after_crash = on
pg_topics.worker_interval = '1h'
});

# A producer of a server, maybe one with a name: its id and its epoch
sub init_producer
{
	my ($where, $name) = @_;
	my $argument = defined $name ? "'$name'" : '';
	my ($id, $epoch) = split /\|/,
	  $where->safe_psql('postgres', "SELECT * FROM topics.init_producer($argument)");

	return { id => $id, epoch => $epoch };
}

# Arguments of produce and send; "place" is a topic, or a topic and a partition
sub numbered
{
	my ($producer, $place, $sequence, $value) = @_;
	my ($topic, $partition) = split /:/, $place;

	$partition //= 0;
	return
	  "('$topic', '$value', partition => $partition, producer_id => $producer->{id}, producer_epoch => $producer->{epoch}, sequence => $sequence)";
}

sub produce_sql { return 'SELECT topics.produce' . numbered(@_) }
sub send_sql    { return 'CALL topics.send' . numbered(@_) }

# What a statement gives, or its SQLSTATE; followers confirm it if there are any
sub answer
{
	my ($where, $statement, $acks) = @_;

	$acks //= 'all';
	my ($result, $rows, $error) = $where->psql('postgres',
		"\\set VERBOSITY verbose\nSET pg_topics.acks = '$acks';\n$statement");

	return $error =~ /(?:ERROR|FATAL):  ([0-9A-Z]{5}): / ? $1 : $rows;
}

# Sends a record: partition and offset, or an SQLSTATE
sub send_record
{
	my ($where, @record) = @_;

	return answer($where, send_sql(@record));
}

sub last_sequence_sql
{
	my ($producer, $place) = @_;
	my ($topic, $partition) = split /:/, $place;

	$partition //= 0;
	return "SELECT topics.last_sequence($producer->{id}, '$topic', $partition)";
}

sub last_sequence
{
	my ($where, @arguments) = @_;

	return answer($where, last_sequence_sql(@arguments));
}

# The records of a topic's partition, as offset=value
sub records
{
	my ($where, $place) = @_;
	my ($topic, $partition) = split /:/, $place;

	$partition //= 0;
	return $where->safe_psql('postgres',
		qq{SELECT string_agg("offset" || '=' || value, ' ' ORDER BY "offset") FROM topic.$topic WHERE partition = $partition}
	);
}

my $view_query = q{
	SELECT producer_id, producer_epoch, producer_name, owner, topic, partition, last_sequence, last_offset, last_time AT TIME ZONE 'UTC'
	FROM topics.producer ORDER BY producer_id, topic, partition};
sub view { my ($where) = @_; return $where->safe_psql('postgres', $view_query) }

# Waits until a session waits for a lock that another one holds
sub waits_for_lock
{
	my ($session, $test_name) = @_;

	return ok(
		$node->poll_query_until(
			'postgres',
			"SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $session->{pid}"),
		$test_name);
}

# Before __producer_state is there: this topic's append locks come before that one's
$node->safe_psql('postgres', q{SELECT topics.create_topic(t, 2) FROM unnest('{t,u,v}'::text[]) t});

# ----------------------------------------------------------------------
# Restarts
# ----------------------------------------------------------------------

my $plain = init_producer($node);
my $named = init_producer($node, 'orders');
is(send_record($node, $plain, 't', $_, "a$_"), "0|$_", "sequence $_ is stored") for 0 .. 2;
$node->safe_psql('postgres',
	join "; ", 'BEGIN', (map { produce_sql($named, 't:1', $_, "n$_") } 0 .. 3), 'COMMIT');
my $before = view($node);
is($before =~ tr/\n//, 2, 'the view has two sequences and a name');

for my $how ('kill -9', 'a clean restart')
{
	my $next = $how eq 'kill -9' ? 3 : 4;

	if ($how eq 'kill -9')
	{
		kill_server($node);
		$node->start;
	}
	else
	{
		$node->restart;
	}
	is(view($node), $before, "$how: the view is what it was");
	is(send_record($node, $plain, 't', 1, 'again'),
		'0|1', '... a repeated record is where it was at first');
	is(send_record($node, $named, 't:1', 2, 'again'), '1|2', '... also one within a transaction');
	is(last_sequence($node, $plain, 't'), $next - 1, '... last_sequence is right');
	is(send_record($node, $plain, 't', $next + 1, 'x'), 'TP008', '... a gap is refused');
	is(send_record($node, $plain, 't', $next, "a$next"), "0|$next", '... and the next one taken');
	$before = view($node);
}
is(records($node, 't'), '0=a0 1=a1 2=a2 3=a3 4=a4', 'each record is there once');
is(records($node, 't:1'), '0=n0 1=n1 2=n2 3=n3', '... in each partition');

# ----------------------------------------------------------------------
# A commit that ends anywhere
# ----------------------------------------------------------------------

# What becomes of a process that is stopped at a point
my %fate = (
	'the server is killed' => sub {
		my ($point) = @_;

		kill_server($node);
		go_on_from($node, $point);
		$node->start;
	},
	'the backend is killed' => sub {
		my ($point, $pid) = @_;

		go_on_from($node, $point) if kill 'KILL', $pid;
		poll_until(sub { $node->psql('postgres', 'SELECT 1') == 0 && !is_running($pid) })
		  or die 'the server does not come back';
	},
	'it is terminated' => sub {
		my ($point, $pid) = @_;

		$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
		go_on_from($node, $point);
	},
	'it fails' => sub {
		my ($point, $pid) = @_;

		fail_at($node, $point, $pid);
	});
my $sequence = 0;
my $crashing = init_producer($node, 'crashing');

for my $point (qw(append-locked append-done commit-visible))
{
	for my $fate (sort keys %fate)
	{
		next if $point eq 'commit-visible' && $fate eq 'it fails';
		my $session = Session->new($node);

		stop_at($node, $point);
		$session->send(send_sql($crashing, 'u', $sequence, "c$sequence"));
		my $pid = wait_until_at($node, $point);
		is($pid, $session->{pid}, "at $point $fate") or next;
		$fate{$fate}->($point, $pid);
		my $result = $session->receive;
		if ($fate eq 'it fails')
		{
			like($result->{message}, qr/made to fail/, '... the producer has an error');
		}
		elsif ($fate eq 'it is terminated' && $point eq 'commit-visible')
		{
			# it has committed, and may say so before it ends
			is($result->{rows}[0] // "0|$sequence", "0|$sequence",
				'... the producer has committed');
		}
		else
		{
			ok($result->{lost}, '... the producer has no answer');
		}
		is(send_record($node, $crashing, 'u', $sequence, "c$sequence"),
			"0|$sequence", '... it repeats its record');
		is(send_record($node, $crashing, 'u', $sequence, 'again'), "0|$sequence", '... and again');
		$sequence++;
	}
}
is( records($node, 'u'),
	join(' ', map { "$_=c$_" } 0 .. $sequence - 1),
	'each record is there once, in order');
is(last_sequence($node, $crashing, 'u'), $sequence - 1, '... and last_sequence is right');

# ----------------------------------------------------------------------
# Two sessions with the same sequence
# ----------------------------------------------------------------------

my ($first, $second) = map { Session->new($node) } 1 .. 2;
my $twice = init_producer($node);

# The first produces a sequence, and the second the same; both values as the first ends
sub produce_twice
{
	my ($sequence, $end) = @_;

	$first->value('BEGIN; ' . produce_sql($twice, 'v', $sequence, "first$sequence"));
	$second->send(send_sql($twice, 'v', $sequence, "second$sequence"));
	waits_for_lock($second, "sequence $sequence is produced twice: the second one waits");
	$first->query($end);
	return $second->receive->{rows}[0];
}

is(produce_twice(0, 'COMMIT'), '0|0', '... until the first commits: it gets that offset');
is(produce_twice(1, 'ROLLBACK'), '0|1', '... until the first rolls back: it stores its own');
is(produce_twice(2, "SELECT pg_terminate_backend(pg_backend_pid())"),
	'0|2', '... until the first is terminated: it stores its own');
$first = Session->new($node);
is(records($node, 'v'), '0=first0 1=second1 2=second2', '... each is there once');

$first->value('BEGIN; SAVEPOINT s; ' . produce_sql($twice, 'v', 3, 'first3'));
$second->send(last_sequence_sql($twice, 'v'));
waits_for_lock($second, 'last_sequence waits for who is about to produce');
$first->value('ROLLBACK TO s');
is($second->receive->{rows}[0], '2', '... until that savepoint is rolled back');
is($second->value(send_sql($twice, 'v', 3, 'second3')), '0|3', '... and another one produces it');
$first->value(produce_sql($twice, 'v', 3, 'first3'));
$first->value('COMMIT');
is(records($node, 'v'), '0=first0 1=second1 2=second2 3=second3', '... and not the first');

# The same records in several sessions at once, each commits by itself
my $many = init_producer($node);
$node->safe_psql(
	'postgres', qq{
	CREATE PROCEDURE produce_all(who text) LANGUAGE plpgsql AS \$\$
	BEGIN
		FOR i IN 0 .. 199 LOOP
			PERFORM topics.produce('v', i::text, partition => 1, producer_id => $many->{id}, producer_epoch => 0, sequence => i);
			COMMIT;
		END LOOP;
	END \$\$});
my @sessions = map { Session->new($node) } 1 .. 3;
$_->send("CALL produce_all('x')") for @sessions;
is(join(' ', map { $_->receive->{sqlstate} } @sessions), '  ', 'three sessions produce the same');
is( records($node, 'v:1'),
	join(' ', map { "$_=$_" } 0 .. 199),
	'... of which each record is there once, in order');

# ----------------------------------------------------------------------
# Fencing
# ----------------------------------------------------------------------

my $holder = Session->new($node);
my $old = init_producer($node, 'fenced');
is(send_record($node, $old, 'u:1', 0, 'e0'), '1|0', 'a producer of epoch 0');
$first->value('BEGIN; ' . produce_sql($old, 'u:1', 1, 'fenced'));
my $new = init_producer($node, 'fenced');
is("$new->{id} $new->{epoch}", "$old->{id} 1", 'a name keeps its id, and has the next epoch');
is($first->query('COMMIT')->{sqlstate}, 'TP007', '... the commit of who has the one before fails');
is(records($node, 'u:1'), '0=e0', '... and stores nothing');
is(last_sequence($node, $new, 'u:1'), '0', '... nor is the sequence taken');
is(send_record($node, $old, 'u:1', 1, 'fenced'), 'TP007', '... and the next call of it');
is(send_record($node, $new, 'u:1', 0, 'e1'), '1|1', '... the other one begins anew');

# A commit that has looked at epochs, and waits for the first of its append locks
stop_at($node, 'append-done');
$holder->send(q{SELECT topics.produce('u', 'held', partition => 1)});
is(wait_until_at($node, 'append-done'), $holder->{pid}, 'a session holds an append lock');
$first->send(produce_sql($new, 'u:1', 1, 'fenced'));
ok(poll_until(sub { is_waiting($second, $first) }), '... a commit with a sequence waits for it');
$old = $new;
$new = init_producer($node, 'fenced');
is($new->{epoch}, 2, '... and another process takes the name');
go_on_from($node, 'append-done');
$holder->receive;
is($first->receive->{sqlstate}, 'TP007', '... then the commit fails');
is(records($node, 'u:1'), '0=e0 1=e1 2=held', '... and stores nothing');
is(last_sequence($node, $new, 'u:1'), '0', '... nor is the sequence taken');

# A commit that has its append locks: who takes the name waits for it
stop_at($node, 'append-locked');
$first->send(send_sql($new, 'u:1', 0, 'e2'));
wait_until_at($node, 'append-locked');
$second->send(q{SELECT producer_epoch FROM topics.init_producer('fenced')});
ok(poll_until(sub { is_waiting($holder, $second) }), 'who takes a name waits for a commit');
go_on_from($node, 'append-locked');
is($first->receive->{rows}[0], '1|3', '... which is in time');
is($second->receive->{rows}[0], '3', '... and then has the next epoch');
$new->{epoch} = 3;
is(send_record($node, $new, 'u:1', 0, 'e3'), '1|4', '... and produces');
is(records($node, 'u:1'), '0=e0 1=e1 2=held 3=e2 4=e3', '... in this order');

# Two processes that take a new name at once
$first->value(q{BEGIN; SELECT FROM topics.init_producer('both')});
$second->send(q{SELECT producer_epoch FROM topics.init_producer('both')});
waits_for_lock($second, 'who takes a name waits for another one who does');
$first->value('COMMIT');
is($second->receive->{rows}[0], '1', '... and has the next epoch');
is( $node->safe_psql(
		'postgres', q{SELECT count(*) FROM topics.producer WHERE producer_name = 'both'}),
	'1',
	'... of one id');

# ----------------------------------------------------------------------
# Expiry
# ----------------------------------------------------------------------

sub set_expiration
{
	my ($where, $value) = @_;

	return $where->safe_psql('postgres',
		"ALTER SYSTEM SET pg_topics.producer_id_expiration = '$value'; SELECT pg_reload_conf()");
}

sub rows_of
{
	my ($where, $producer) = @_;

	return $where->safe_psql('postgres',
		"SELECT count(*) FROM topics.producer WHERE producer_id = $producer->{id}");
}

my $silent = init_producer($node, 'silent');
my $busy = init_producer($node, 'busy');
my $open = init_producer($node);
send_record($node, $silent, 't', 0, 'silent');
send_record($node, $open, 't', 0, 'open0');
$first->value('BEGIN; ' . produce_sql($open, 't', 1, 'open1'));
# of its name only is anything stored before this transaction commits
my $held = init_producer($node, 'held');
my $undone = init_producer($node, 'undone');
$second->value('BEGIN; ' . produce_sql($held, 't:1', 0, 'held0'));
$second->value('SAVEPOINT s; ' . produce_sql($undone, 't:1', 0, 'undone0') . '; ROLLBACK TO s');
set_expiration($node, '3s');
my ($round, $busy_rows) = (0, '');
ok( poll_until(
		sub {
			$busy_rows = $node->safe_psql(
				'postgres',
				join ";\n",
				produce_sql($busy, 't', $round++, 'busy'),
				q{CALL topics.maintain('__producer_state')},
				"SELECT count(*) FROM topics.producer WHERE producer_id = $busy->{id}");
			return
				 rows_of($node, $silent) eq '0'
			  && rows_of($node, $plain) eq '0'
			  && rows_of($node, $undone) eq '0';
		}),
	'producers that are silent go');
is($busy_rows, "0\n2", '... the name of one that produces does not');
is(last_sequence($node, $busy, 't'), $round - 1, "... after $round records");
is(rows_of($node, $open), '1', '... nor does one that a transaction uses');
is($first->query('COMMIT')->{sqlstate}, '', '... which commits');
is(last_sequence($node, $open, 't'), '1', '... and is known');
is(rows_of($node, $held), '1', '... nor a name that a transaction uses');
$second->value('COMMIT');
$node->safe_psql('postgres', q{CALL topics.maintain('__producer_state')});
is(rows_of($node, $held), '2', '... which was used when it commits');
like(send_record($node, $held, 't:1', 0, 'again'), qr/^1\|\d+$/, '... and goes on');
is( $node->safe_psql(
		'postgres',
		"SELECT string_agg(DISTINCT split_part(key, '/', 2), ' ') FROM topic.__producer_state WHERE value IS NULL AND key LIKE '%/$silent->{id}'"
	),
	'-1 0',
	'... tombstones are in the log, of the name and of the sequence');
set_expiration($node, '1d');
is(send_record($node, $silent, 't', 1, 'x'), 'TP007', 'the id of a name that has gone is refused');
my $reborn = init_producer($node, 'silent');
is(join(' ', $reborn->{epoch}, $reborn->{id} eq $silent->{id} ? 'same' : 'other'),
	'0 other', '... which gets another one');
$node->restart;
is(rows_of($node, $silent), '0', 'a restart does not find it');
is(rows_of($node, $busy), '2', '... but the others');
($first, $second) = map { Session->new($node) } 1 .. 2;

# ----------------------------------------------------------------------
# As many as there is room for
# ----------------------------------------------------------------------

my $small =
  topics_node('small', conf => "pg_topics.max_producers = 16\npg_topics.worker_interval = '1h'\n");
$small->safe_psql('postgres', q{SELECT topics.create_topic('t', 2)});
my @taken = map { init_producer($small) } 1 .. 16;
is(send_record($small, $taken[$_], 't', 0, "p$_"), "0|$_", "producer $_ finds room") for 0 .. 15;
my $late = init_producer($small);

for my $statement (send_sql($late, 't', 0, 'late'), q{SELECT topics.init_producer('late')})
{
	my ($state, $message) = sqlstate_of($small, 'postgres', $statement);

	is($state, '54000', "no more: $statement");
	like($message, qr/HINT:.*pg_topics\.max_producers/, '... and the error names the setting');
}
is( $small->safe_psql(
		'postgres',
		'SELECT (SELECT count(*) FROM topic.t), (SELECT count(*) FROM topic.__producer_state), (SELECT count(*) FROM topics.producer)'
	),
	'16|16|16',
	'... nothing was stored');
is(send_record($small, $taken[0], 't', 1, 'next'), '0|16', '... those that there are go on');
is($small->safe_psql('postgres', q{CALL topics.send('t', 'x', partition => 1)}),
	'1|0', '... and who numbers nothing');
$small->restart;
is(send_record($small, $taken[3], 't', 0, 'again'), '0|3', '... also after a restart');
$small->safe_psql('postgres', 'BEGIN; ' . produce_sql($taken[$_], 't:1', 0, 'x') . '; ROLLBACK')
  for 0 .. 3;
set_expiration($small, '1s');
ok( poll_until(
		sub {
			$small->safe_psql('postgres', q{CALL topics.maintain('__producer_state')});
			return $small->safe_psql('postgres', 'SELECT count(*) FROM topics.producer') eq '0';
		}),
	'all have expired');
set_expiration($small, '1d');
is(send_record($small, init_producer($small), 't:1', 0, "again$_"), "1|$_", 'there is room again')
  for 1 .. 16;
is((sqlstate_of($small, 'postgres', send_sql($late, 't', 0, 'late')))[0],
	'54000', '... for as many');
$small->safe_psql('postgres', q{SELECT topics.drop_topic('t'); SELECT topics.create_topic('t', 2)});
is(send_record($small, $late, 't', 0, 'late'), '0|0', '... and when a topic is dropped');

# ----------------------------------------------------------------------
# Room for less than the log has
# ----------------------------------------------------------------------

sub restart_with_room
{
	my ($places) = @_;

	$small->safe_psql('postgres', "ALTER SYSTEM SET pg_topics.max_producers = $places");
	$small->restart;
	return;
}

# How many keys have a state that is no tombstone
my $states_query = q{
	SELECT count(*) FILTER (WHERE value IS NOT NULL)
	FROM (SELECT DISTINCT ON (key) value FROM topic.__producer_state ORDER BY key, "offset" DESC) s};

restart_with_room(64);
my $early = init_producer($small, 'early');
send_record($small, $early, 't', 0, 'early');
my @old = map { init_producer($small) } 0 .. 19;
send_record($small, $old[$_], 't', 0, "old$_") for 0 .. 19;
my @recent = map { init_producer($small) } 0 .. 9;
is(send_record($small, $recent[$_], 't', 0, "recent$_"), '0|' . (22 + $_), "producer $_")
  for 0 .. 9;
restart_with_room(16);
my $stored = q{SELECT count(*) FROM topic.t};
$before = $small->safe_psql('postgres', $stored);
is(send_record($small, $recent[0], 't', 0, 'again'),
	'0|22', 'room for less: a repeated record of a recent producer is known');
like(
	slurp_file($small->logfile),
	qr/WARNING:  there is no room for 17 sequences and names of producers/,
	'... the log says how much is left out');
is(send_record($small, $recent[9], 't', 1, 'next'), '0|32', '... who finds room goes on');
is($small->safe_psql('postgres', q{CALL topics.send('t', 'x', partition => 1)}),
	'1|0', '... and who numbers nothing');

for my $statement (
	send_sql($old[0], 't', 0, 'again'),
	send_sql($old[0], 't', 1, 'next'),
	last_sequence_sql($old[0], 't'),
	send_sql($early, 't', 0, 'again'),
	q{SELECT topics.init_producer('early')},
	send_sql(init_producer($small), 't', 0, 'new'))
{
	my ($state, $message) = sqlstate_of($small, 'postgres', $statement);

	is($state, '54000', "refused: $statement");
	like($message, qr/is not known.*HINT:.*pg_topics\.max_producers/s,
		'... and the error says why');
}
is($small->safe_psql('postgres', $stored), $before + 2, '... and stores nothing');
restart_with_room(64);
is(send_record($small, $old[0], 't', 0, 'again'), '0|2', 'with more room all is known again');
is(send_record($small, $early, 't', 0, 'again'), '0|1', '... also of a name');
is(init_producer($small, 'early')->{epoch}, '1', '... and its epoch');
restart_with_room(16);
set_expiration($small, '1s');
ok( poll_until(
		sub {
			$small->safe_psql('postgres', q{CALL topics.maintain('__producer_state')});
			return $small->safe_psql('postgres', $states_query) eq '0';
		}),
	'what was left out expires as well');
set_expiration($small, '1d');
is(send_record($small, init_producer($small), 't:1', 0, 'new'),
	'1|1', '... and a new producer is taken');
is(init_producer($small, 'early')->{epoch}, '0', '... and a new name');
$small->stop;

# ----------------------------------------------------------------------
# Compaction
# ----------------------------------------------------------------------

$node->safe_psql(
	'postgres', q{
	UPDATE topic_log.topic SET min_cleanable_dirty_ratio = 0 WHERE view = 'topic.__producer_state'::regclass;
	GRANT SELECT ON topic.__producer_state TO CURRENT_USER;});    # so that everybody hears of it
my $superseded = q{SELECT count(*) - count(DISTINCT key) FROM topic.__producer_state};
cmp_ok($node->safe_psql('postgres', $superseded), '>', 200, 'the log has older records');
my $end = last_sequence($node, $busy, 't');
$before = view($node);
ok(compact_by_hand($node, '__producer_state'), '... it is compacted');
is($node->safe_psql('postgres', $superseded), '0', '... and has one record of each key');
is(view($node), $before, '... and all is known');
$node->restart;
is(view($node), $before, '... also after a restart');
kill_server($node);
$node->start;
is(view($node), $before, '... and kill -9');
like(send_record($node, $busy, 't', $end, 'again'),
	qr/^0\|\d+$/, 'a repeated record is known after it');
is(last_sequence($node, $busy, 't'), $end, '... as is the last one');
is(send_record($node, $busy, 't', $end + 2, 'x'), 'TP008', '... and a gap');
is(init_producer($node, 'busy')->{epoch}, 1, '... and the epoch of a name');
is( $node->safe_psql(
		'postgres',
		q{SELECT count(*) FROM topics.producer p, LATERAL topics.fetch(topic, partition, last_offset, 1) r WHERE topic IS NOT NULL AND r.offset <> p.last_offset}
	),
	'0',
	'offsets are those of records');

# ----------------------------------------------------------------------
# A topic that is dropped, and another one of its name
# ----------------------------------------------------------------------

my $survivor = init_producer($node, 'survivor');
send_record($node, $survivor, $_, 0, 'first') for qw(t v);
send_record($node, $survivor, 'v', 1, 'second');
$node->safe_psql('postgres', q{SELECT topics.drop_topic('v')});
is($node->safe_psql('postgres', q{SELECT count(*) FROM topics.producer WHERE topic = 'v'}),
	'0', 'a topic is dropped: its sequences go');
is(rows_of($node, $survivor), '2', '... but not those of others, nor the name');
$node->safe_psql('postgres', q{SELECT topics.create_topic('v', 2)});

for my $when ('at once', 'after a restart')
{
	$node->restart if $when eq 'after a restart';
	is(last_sequence($node, $survivor, $when eq 'at once' ? 'v' : 'v:1'),
		'', "$when: in another one of the name nothing is known");
}
is(send_record($node, $survivor, 'v', $_, "anew$_"), "0|$_", "sequence $_ begins anew") for 0 .. 1;
is(send_record($node, $survivor, 'v', 3, 'x'), 'TP008', '... and a gap is refused');
is(records($node, 'v'), '0=anew0 1=anew1', '... each is there once');

# ----------------------------------------------------------------------
# Dump and restore
# ----------------------------------------------------------------------

my $target = topics_node('target', points => 1, extension => 0);
my $dump = PostgreSQL::Test::Utils::tempdir . '/dump.sql';
command_ok([ 'pg_dump', '-d', $node->connstr('postgres'), '-f', $dump ], 'pg_dump');
command_ok(
	[
		'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $target->connstr('postgres'), '-f',
		$dump
	],
	'... is restored in another cluster');
# the view's times are when a record was stored: they are in the log
is(view($target), view($node), '... where all is known');

for my $when ('at once', 'after a restart')
{
	$target->restart if $when eq 'after a restart';
	is(send_record($target, $survivor, 'v', 1, 'again'), '0|1', "$when a repeated record is known");
	is(send_record($target, $survivor, 'v', 3, 'x'), 'TP008', '... and a gap');
	is(last_sequence($target, $survivor, 'v'), '1', '... and the last one');
}
$new = init_producer($target, 'survivor');
is("$new->{id} $new->{epoch}", "$survivor->{id} 1", '... and the epoch of a name goes on');
is(send_record($target, $survivor, 'v', 2, 'x'), 'TP007', '... which fences the one before');
is(send_record($target, $new, 'v', 0, 'e1'), '0|2', '... and goes on');
$target->stop;

# ----------------------------------------------------------------------
# A standby
# ----------------------------------------------------------------------

$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby', install_path => $ENV{PG_TOPICS_POINTS});
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;

sub check_standby
{
	my ($test_name) = @_;

	$node->wait_for_catchup($standby, 'replay', $node->lsn('flush'));
	return is(view($standby), view($node), $test_name);
}

check_standby('a standby shows producers');
is(send_record($node, $survivor, 'v', $_, "s$_"), "0|$_", "sequence $_")
  && check_standby('... is shown there')
  for 2 .. 4;
$named = init_producer($node, 'only now');
check_standby('... and a name');
send_record($node, $named, 'v:1', 0, 'x');
$named = init_producer($node, 'only now');
check_standby('... and its epoch');
$node->safe_psql('postgres', q{SELECT topics.drop_topic('t')});
check_standby('... and that a topic is dropped');
is((sqlstate_of($standby, 'postgres', $_))[0], '25006', "refused there: $_")
  foreach send_sql($survivor, 'v', 5, 'x'), q{SELECT topics.init_producer('only now')};
$node->stop;
$before = view($standby);
$standby->promote;
is(view($standby), $before, 'a promotion finds the same');
is(send_record($standby, $survivor, 'v', 3, 'again'), '0|3', '... a repeated record is known');
is(send_record($standby, $survivor, 'v', 6, 'x'), 'TP008', '... and a gap');
is(send_record($standby, $survivor, 'v', 5, 's5'), '0|5', '... the next one is taken');
is(records($standby, 'v'), '0=anew0 1=anew1 2=s2 3=s3 4=s4 5=s5', '... each is there once');
is(init_producer($standby, 'only now')->{epoch}, $named->{epoch} + 1, '... and epochs go on');
$standby->stop;

# ----------------------------------------------------------------------
# A cluster of nodes
# ----------------------------------------------------------------------

my ($a, $b, $c) = make_cluster(
	points => 1,
	conf =>
	  "pg_topics.worker_interval = '1 s'\npg_topics.automatic_failover = off\npg_topics.node_timeout = '1 s'\npg_topics.acks_timeout = '20 s'\n"
);
my %nodes = (a => $a, b => $b, c => $c);

# Of what is stored in topic t all is known where another node leads by now
sub check_leader
{
	my ($where, $producer, $last, $test_name) = @_;
	my $name = $where->name;

	is(send_record($where, $producer, 't', $last, 'again'),
		"0|$last", "$test_name: a repeated record is known on $name");
	is(send_record($where, $producer, 't', $last + 2, 'x'), 'TP008', '... and a gap is refused');
	is(last_sequence($where, $producer, 't'), $last, '... and the last one is known');
	is( send_record($where, $producer, 't', $last + 1, "r" . ($last + 1)),
		'0|' . ($last + 1),
		'... the next one is taken');
	return;
}

my $worker = init_producer($a, 'worker');
is(send_record($a, $worker, 't', $_, "r$_"), "0|$_", "sequence $_ is stored on a leader")
  for 0 .. 2;
check_same($a, 'a leader', $b, $c);
is(send_record($b, $worker, 't', $_, 'x'), 'TP004', "sequence $_ is refused on a follower")
  for 2, 3;
is((sqlstate_of($b, 'postgres', last_sequence_sql($worker, 't')))[0],
	'TP004', '... as is last_sequence');
is((sqlstate_of($b, 'postgres', q{SELECT topics.init_producer('worker')}))[0],
	'TP004', '... and init_producer');

# A record that nobody has confirmed is gone with the leader
$_->stop('immediate') for $b, $c;
$a->safe_psql('postgres', "SET pg_topics.acks = '1'; " . produce_sql($worker, 't', 3, 'lost3'));
is(answer($a, last_sequence_sql($worker, 't'), '1'), '3', 'a leader alone stores a sequence');
my %waiting = (
	'who repeats it' => send_sql($worker, 't', 3, 'again'),
	'who asks for the last one' => last_sequence_sql($worker, 't'));
for my $who (sort keys %waiting)
{
	my $session = Session->new($a);

	$session->send($waiting{$who});
	ok(wait_in_commit($a, $session), "... $who waits for followers");
	$waiting{$who} = $session;
}
$a->stop('immediate');
ok($waiting{$_}->receive->{lost}, "... and $_ has no answer") for sort keys %waiting;
$_->start for $b, $c;
$b->safe_psql('postgres', q{CALL topics.failover('a')});
check_leader($b, $worker, 2, 'after a failover');
$a->start;
check_same($b, 'the lost node comes back', $a, $c);
$b->safe_psql('postgres', q{CALL topics.move_leader('a')});
check_leader($a, $worker, 3, 'after a move back');
check_same($a, 'moved back', $b, $c);

# A transaction that is open while others lead
my $session = Session->new($a);
$session->value('BEGIN; ' . produce_sql($worker, 't', 5, 'x'));
$a->safe_psql('postgres', q{CALL topics.move_leader('c')});
check_leader($c, $worker, 4, 'after a move');
$old = $worker;
$worker = init_producer($c, 'worker');
is("$worker->{id} $worker->{epoch}", "$old->{id} 1", '... and the epoch of a name goes on');
check_same($c, 'moved', $a, $b);
$c->safe_psql('postgres', q{CALL topics.move_leader('a')});
like($session->query('COMMIT')->{sqlstate},
	qr/^(40001|TP004)$/, 'a sequence of a transaction from before is not stored');
is(send_record($a, $old, 't', 6, 'x'), 'TP007', 'who was fenced on another node is so here');
is(send_record($a, $worker, 't', 0, 'e1'), '0|6', '... and who fenced it goes on');
check_same($a, 'at the end', $b, $c);
is(records($a, 't'), '0=r0 1=r1 2=r2 3=r3 4=r4 5=r5 6=e1', 'each record is there once, in order');

# ----------------------------------------------------------------------
# A topic whose leaders are spread
# ----------------------------------------------------------------------

# Each partition of topic s, at the node that leads it: repeats a record, and produces the next
sub check_spread
{
	my ($leaders, $producer, $last, $test_name) = @_;

	for my $partition (0 .. 2)
	{
		my $name = substr $leaders, $partition, 1;
		my $place = "s:$partition";

		is(send_record($nodes{$name}, $producer, $place, $last, 'again'),
			"$partition|$last", "$test_name: a repeated record is known in partition $partition");
		is(send_record($nodes{$name}, $producer, $place, $last + 2, 'x'),
			'TP008', '... and a gap is refused');
		is(last_sequence($nodes{$name}, $producer, $place), $last, '... and the last one is known');
		is( send_record($nodes{$name}, $producer, $place, $last + 1, 'r' . ($last + 1)),
			"$partition|" . ($last + 1),
			'... the next one is taken');
	}
	return;
}

$a->safe_psql('postgres', q{SELECT topics.create_topic('s', 3, leaders => 'spread')});
await_leaders('abc', 'each node leads a partition');
my $spread = init_producer($a, 'spread');
for my $name (qw(a b c))
{
	my $partition = index 'abc', $name;

	ok( poll_until(
			sub {
				send_record($nodes{$name}, $spread, "s:$partition", 0, 'r0') eq "$partition|0";
			}),
		"$name knows the producer, and stores a record");
	is(send_record($nodes{$name}, $spread, 's:' . ($partition + 1) % 3, 0, 'x'),
		'TP004', '... but not in the partition of another');
}
check_spread('abc', $spread, 0, 'spread');
$a->safe_psql('postgres', q{CALL topics.move_leader('b')});
await_leaders('bbc', 'what one node leads is moved');
check_spread('bbc', $spread, 1, 'moved');
ok(wait_for_all($b), '... and all have it all');
$c->stop('immediate');
$b->safe_psql('postgres', q{CALL topics.failover('c')});
$c->start;
await_leaders('bbb', 'one leads all when another is lost');
check_spread('bbb', $spread, 2, 'after a failover');
$old = $spread;
$spread = init_producer($b, 'spread');
is($spread->{epoch}, 1, 'the name has its next epoch');
$b->safe_psql('postgres', q{CALL topics.rebalance_leaders()});
await_leaders('abc', 'each leads its own again');

for my $name (qw(a b c))
{
	my $partition = index 'abc', $name;

	ok( poll_until(
			sub {
				send_record($nodes{$name}, $spread, "s:$partition", 0, 'e1') eq "$partition|4";
			}),
		"the next epoch goes on at $name");
	is(send_record($nodes{$name}, $old, "s:$partition", 4, 'x'),
		'TP007', '... and fences the one before');
}

# One that leads a partition hears of epochs later, and does not take for fenced what it has not heard of
my @replicators = split /\n/,
  $b->safe_psql('postgres',
	q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_topics replicator'});
signal_backend('STOP', $_) for @replicators;
my $next = init_producer($a, 'spread');
my $other = init_producer($a, 'another name');
is(send_record($b, $next, 's:1', 0, 'x'),
	'40001', 'an epoch that a node has not heard of is no final error');
is(send_record($b, $other, 's:1', 0, 'x'), '40001', '... nor is a name');
signal_backend('CONT', $_) for @replicators;
ok(poll_until(sub { send_record($b, $next, 's:1', 0, 'e2') eq '1|5' }),
	'... it goes on when it has');
is(send_record($b, $spread, 's:1', 1, 'x'), 'TP007', '... and fences the one before');
check_contents($a, 'topic.s');
is( records($b, "s:$_"),
	'0=r0 1=r1 2=r2 3=r3 4=e1' . ($_ == 1 ? ' 5=e2' : ''),
	"partition $_ has each record once") for 0 .. 2;

# ----------------------------------------------------------------------
# What goes where leaders are spread
# ----------------------------------------------------------------------

# Of a topic by its id, or of all: which partitions have states, and which a tombstone last
sub states_of
{
	my ($where, $topic_id) = @_;

	return $where->safe_psql(
		'postgres', qq{
		SELECT string_agg(part || ':' || (value IS NOT NULL)::int, ' ' ORDER BY part)
		FROM (SELECT DISTINCT ON (key) split_part(key, '/', 2) part, value FROM topic.__producer_state
			WHERE key LIKE '$topic_id/%' ORDER BY key, "offset" DESC) s});
}

sub topic_id_of
{
	my ($name) = @_;

	return $a->safe_psql('postgres',
		"SELECT topic_id FROM topic_log.topic WHERE view = 'topic.$name'::regclass");
}

# Has each node delete what is old
sub expire_all
{
	$_->safe_psql('postgres', q{CALL topics.maintain('__producer_state')}) for @_;
	return;
}

my $s_id = topic_id_of('s');
is(states_of($a, $s_id), '0:1 1:1 2:1', 'each partition has a state');
$a->safe_psql('postgres', q{SELECT topics.drop_topic('s')});
ok( poll_until(sub { states_of($a, $s_id) eq '0:0 1:0 2:0' }),
	'a topic is dropped: who leads a partition writes the tombstone');

$a->safe_psql('postgres', q{SELECT topics.create_topic('s', 3, leaders => 'spread')});
await_leaders('abc', 'another topic');
$s_id = topic_id_of('s');
$spread = init_producer($a);
for my $name (qw(a b c))
{
	my $partition = index 'abc', $name;

	ok( poll_until(
			sub {
				send_record($nodes{$name}, $spread, "s:$partition", 0, 'r0') eq "$partition|0";
			}),
		"$name stores a record");
}
ok(wait_for_all($a), '... and all have it all');
$c->stop('immediate');
$a->safe_psql('postgres', q{SELECT topics.drop_topic('s')});
ok( poll_until(
		sub {
			$b->safe_psql('postgres', q{SELECT count(*) FROM topics.topic WHERE topic = 's'}) eq
			  '0';
		}),
	'it is dropped when one that leads is lost');
$b->safe_psql('postgres', q{CALL topics.failover('c')});
ok(poll_until(sub { states_of($b, $s_id) eq '0:0 1:0 2:1' }),
	'... for whom nobody writes a tombstone');
set_expiration($_, '1s') for $a, $b;
ok( poll_until(
		sub {
			expire_all($a, $b);
			return states_of($b, $s_id) eq '0:0 1:0 2:0';
		}),
	'... it expires where another one leads');
is($b->safe_psql('postgres', $states_query), '0', '... and so do all others, and names');

# The lost one misses tombstones
is( $_->safe_psql(
		'postgres',
		q{SELECT delete_retention_time FROM topic_log.topic WHERE view = 'topic.__producer_state'::regclass}
	),
	'1 day',
	'tombstones stay for a day on ' . $_->name) for $a, $b;
$_->safe_psql(
	'postgres', q{
	UPDATE topic_log.topic SET min_cleanable_dirty_ratio = 0, delete_retention_time = '0' WHERE view = 'topic.__producer_state'::regclass}
) for $a, $b;
for my $where ($a, $b)
{
	ok( poll_until(
			sub {
				compact_by_hand($where, '__producer_state');
				return $where->safe_psql('postgres',
					q{SELECT count(*) FROM topic.__producer_state WHERE value IS NULL}) eq '0';
			}),
		'tombstones go on ' . $where->name)
	  or diag(
		$where->safe_psql(
			'postgres', q{SELECT partition, count(*) FROM topic.__producer_state GROUP BY 1}));
}
set_expiration($_, '1d') for $a, $b;
$c->start;
$spread = init_producer($a, 'after');
ok(wait_for_all($a), 'who has missed tombstones goes on');
ok( poll_until(
		sub {
			$c->safe_psql('postgres',
				q{SELECT count(*) FROM topics.producer WHERE producer_name = 'after'}) eq '1';
		}),
	'... and hears of new names');
is(states_of($c, $s_id), '0:1 1:1 2:1', '... and has kept what they delete');
$a->safe_psql('postgres', q{CALL topics.move_leader('c')});
set_expiration($c, '1s');
$b->safe_psql('postgres', q{CALL topics.rebalance_leaders()});
ok( poll_until(
		sub {
			expire_all($a, $b, $c);
			return states_of($c, $s_id) !~ /1$/;
		}),
	'... what it has kept expires when it leads');
$_->stop for $a, $b, $c;
unlike(
	slurp_file($_->logfile),
	qr/PANIC|TRAP|was terminated by signal (?!9)/,
	'nothing has crashed on ' . $_->name) for $node, $standby, $small, $target, $a, $b, $c;
done_testing();
