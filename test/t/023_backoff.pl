# Topics whose maintenance fails, in several ways, also such that it ends the
# worker or the server each time: the others are served as before, each failure
# is logged as often as it is tried, which becomes ever more seldom, the view
# topics.worker says what fails, and after the mend all is done and the row gone.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use Fcntl ':seek';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

# A partition whose time had come before would be found by any round.
my $node = topics_node(
	'main',
	points => 1,
	conf => q{
fsync = on
restart_after_crash = on
autovacuum = off
pg_topics.worker_interval = '100ms'
});
wait_for_worker($node, 'postgres', 'a worker');
my $session = Session->new($node);
my $round = 0;

# A row of topics.worker, without the times; '' if there is none.
sub failing
{
	my ($topic) = @_;
	my $which = defined $topic ? "topic = '$topic'" : 'step IS NOT NULL AND topic IS NULL';

	return $session->value(
		"SELECT partition, step, sqlstate, message FROM topics.worker WHERE $which");
}

sub wait_until_failing
{
	my ($topic, $expected, $test_name) = @_;
	my $got;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	poll_until(sub { ($got = failing($topic)) ne '' });
	return like($got, $expected, $test_name);
}

sub wait_until_well
{
	my ($topic, $test_name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok(poll_until(sub { failing($topic) eq '' }), $test_name) || diag(failing($topic));
}

sub sealed
{
	my ($topic) = @_;

	return $session->value(
		qq{SELECT count(*) FROM topics.topic t JOIN topic_log.segment s USING (topic_id) WHERE topic = '$topic'}
	);
}

# Somebody else's topic is rolled, sealed and expired by the worker, soon.
sub others_are_served
{
	my ($test_name) = @_;
	my $start = time;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$round++;
	$session->value(q{CALL topics.send('well', 'x')});
	ok( poll_until(
			sub {
				$session->value(q{SELECT o.offset FROM topics.list_offsets('well', 'earliest') o})
				  eq $round;
			}),
		"$test_name: others are rolled, sealed and expired");
	ok(poll_until(sub { segment_of('well', $round - 1) eq '' }), '... and dropped');
	cmp_ok(time - $start, '<', 20, '... soon');
	return;
}

# How many errors, or other lines, the worker has logged about a topic.
sub logged
{
	my ($severity, $topic) = @_;
	my ($last, $count) = ('', 0);

	for (split /\n/, slurp_file($node->logfile))
	{
		$last = $1 if / (ERROR|WARNING|LOG|STATEMENT):  /;
		$count++ if $last eq $severity && /work for (?:partition \d+ of )?topic "$topic"$/;
	}
	return $count;
}

# The work has failed some times, each logged once, ever more time apart.
sub fails_more_seldom
{
	my ($topic, $times, $test_name) = @_;
	my ($failures, $distance);
	my $before = logged('ERROR', $topic) -
	  $session->value("SELECT failures FROM topics.worker WHERE topic = '$topic'");

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	poll_until(
		sub {
			($failures, $distance) = split /\|/, $session->value(
				qq{
			SELECT failures, extract(epoch FROM next_try - failing_since) FROM topics.worker WHERE topic = '$topic'}
			);
			$failures >= $times;
		});
	is(logged('ERROR', $topic) - $before, $failures, "$test_name: an error for each try");
	cmp_ok(
		$distance, '>=',
		2**$failures - 1,
		"... of which the next one, after $failures, is 2^$failures - 1 s after the first");
	cmp_ok($distance, '<', 2**$failures + 15, '... or a little later');
	return;
}

# The tables of a topic
sub log_of
{
	my ($topic) = @_;

	return $session->value(
		"SELECT 'topic_log.t' || topic_id FROM topics.topic WHERE topic = '$topic'");
}

sub segment_of
{
	my ($topic, $base_offset) = @_;

	return $session->value(
		qq{
		SELECT inhrelid::regclass FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
		WHERE inhparent = '}
		  . log_of($topic)
		  . qq{_p0'::regclass AND pg_get_expr(relpartbound, inhrelid) LIKE 'FOR VALUES FROM (''$base_offset'')%'}
	);
}

$session->value(
	q{
	SELECT topics.create_topic('well', segment_time => '50 ms', retention_time => '10 ms');
	CREATE ROLE owner LOGIN});
others_are_served('before');

# A round is noted at its end, after what it has done is seen
sub worker_row
{
	return $session->value(
		'SELECT count(*), count(step), count(last_round), max(pid), max(partitions) FROM topics.worker'
	);
}
my $one_row = '1|0|1|' . worker_pid($node, 'postgres') . '|1';
ok(poll_until(sub { worker_row() eq $one_row }), 'one row if nothing fails') or diag(worker_row());

# ----------------------------------------------------------------------
# Somebody is in the way, for long (looked at again further below)
# ----------------------------------------------------------------------

my $locker = Session->new($node);
$session->value(q{SELECT topics.create_topic('locked', segment_time => '50 ms')});
# who produces is not
$locker->value('BEGIN; LOCK TABLE ONLY ' . log_of('locked') . '_p0 IN SHARE UPDATE EXCLUSIVE MODE');
$session->value(q{SELECT topics.produce('locked', 'x')});
wait_until_failing(
	'locked',
	qr/^0\|roll\|55P03\|canceling statement due to lock timeout$/,
	'somebody is in the way');

# ----------------------------------------------------------------------
# An index that cannot be built
# ----------------------------------------------------------------------

# The name that a segment's index gets
sub index_name
{
	my ($table) = @_;

	return 'topic_log.brin_'
	  . $session->value(
		qq{SELECT '$table'::regclass::oid || '_' || to_hex(system_identifier) FROM pg_control_system()}
	  );
}

# A name that a dump has brought, made from another cluster's OID, is in
# nobody's way.
$session->value(q{SELECT topics.create_topic('restored')});
$session->value('CREATE TABLE topic_log.brin_'
	  . $session->value("SELECT '" . segment_of('restored', 0) . "'::regclass::oid")
	  . ' ()');
is( $session->query(
		q{SELECT topics.produce('restored', 'x'); CALL topics.roll_segment('restored')})->{message},
	'',
	'an index has a name of its own');

$session->value(q{SELECT topics.create_topic('index', segment_time => '50 ms')});
my $segment = segment_of('index', 0);
my $in_the_way = index_name($segment);
$session->value(qq{CREATE TABLE $in_the_way (); SELECT topics.produce('index', 'x')});
wait_until_failing(
	'index',
	qr/^0\|seal\|42P07\|relation "brin_\w+" already exists$/,
	'an index cannot be built: the view says so');
others_are_served('meanwhile');
fails_more_seldom('index', 3, 'the index');
is(sealed('index'), '0', '... in vain');
# by hand it is tried at once, and fails, and the worker begins anew
is($session->query(q{CALL topics.maintain('index')})->{sqlstate}, '42P07',
	'maintain fails as well');
ok( poll_until(
		sub { $session->value(q{SELECT failures FROM topics.worker WHERE topic = 'index'}) eq '1' }
	),
	'... and the worker tries again at once');
$session->value("DROP TABLE $in_the_way");
wait_until_well('index', 'the mend: the row goes by itself');
is(sealed('index'), '1', '... when the segment is sealed');

# ----------------------------------------------------------------------
# A segment that cannot be dropped, until the topic is altered
# ----------------------------------------------------------------------

$session->value(
	q{SELECT topics.create_topic('dependent', segment_time => '50 ms', retention_time => '-1 s')});
$segment = segment_of('dependent', 0);
$session->value(
	qq{SELECT topics.produce('dependent', 'x'); CREATE VIEW depends AS SELECT value FROM $segment});
ok(poll_until(sub { sealed('dependent') eq '1' }), 'a segment');
$session->value(q{SELECT topics.alter_topic('dependent', retention_bytes => 0)});
wait_until_failing(
	'dependent',
	qr/^0\|drop\|2BP01\|cannot drop table $segment because other objects depend on it: view public\.depends depends on table $segment$/,
	'... on which a view depends');
others_are_served('meanwhile');
fails_more_seldom('dependent', 3, 'the drop');
$session->value('DROP VIEW depends');
$session->value(q{SELECT topics.alter_topic('dependent', notify => false)});
my $start = time;
wait_until_well('dependent', 'the mend, and alter_topic: the row goes');
ok(poll_until(sub { segment_of('dependent', 0) eq '' }), '... the segment too');
cmp_ok(time - $start, '<', 3, '... without waiting for the next try');

# ----------------------------------------------------------------------
# Who is shown what
# ----------------------------------------------------------------------

$session->value(
	q{
	SELECT topics.create_topic('mine', segment_time => '50 ms', retention_time => '-1 s');
	ALTER VIEW topic.mine OWNER TO owner;
	CREATE ROLE reader LOGIN;
	CREATE ROLE monitor LOGIN IN ROLE pg_monitor;
	SELECT topics.create_roles();
	CREATE ROLE admin LOGIN IN ROLE topics_admin;
	GRANT USAGE ON SCHEMA topics, topic TO PUBLIC;
	GRANT SELECT ON topics.worker, topic.mine TO PUBLIC});
$segment = segment_of('mine', 0);
$session->value(
	qq{SELECT topics.produce('mine', 'x'); CREATE VIEW depends AS SELECT value FROM $segment});
ok(poll_until(sub { sealed('mine') eq '1' }), 'a segment');
$session->value(q{SELECT topics.alter_topic('mine', retention_bytes => 0)});
wait_until_failing('mine', qr/2BP01/, 'somebody\'s topic fails');
my %shown = (owner => 'mine', reader => '', monitor => 'mine', admin => 'mine');
is( Session->new($node, user => $_)
	  ->value(q{SELECT topic FROM topics.worker WHERE topic IS DISTINCT FROM 'locked'}),
	$shown{$_},
	"... which is shown to $_: '$shown{$_}'") for sort keys %shown;
is( Session->new($node, user => 'reader')
	  ->value('SELECT pid, count(message) FROM topics.worker GROUP BY 1'),
	worker_pid($node, 'postgres') . '|0',
	'... that there is a worker, to all');
# it goes on failing until the server has been restarted

# ----------------------------------------------------------------------
# A topic that cannot be looked at, and the whole database
# ----------------------------------------------------------------------

$session->value(q{SELECT topics.create_topic('altered')});
$session->value('SET allow_system_table_mods = on; ALTER TABLE '
	  . log_of('altered')
	  . ' ADD COLUMN more int; RESET allow_system_table_mods');
# the view is loaded anew
$session->value(
	'COMMENT ON VIEW topic.altered IS NULL; ALTER VIEW topic.altered SET (security_barrier)');
wait_until_failing(
	'altered',
	qr/^\|look\|55000\|topic "altered" is not complete$/,
	'a topic that was altered from below');
others_are_served('meanwhile');
fails_more_seldom('altered', 3, 'the look at it');
my $warnings = logged('WARNING', 'altered');
cmp_ok($warnings, '<=', logged('ERROR', 'altered') + 1, '... which warns no more often');

$session->value(q{UPDATE pg_extension SET extversion = '0.9' WHERE extname = 'pg_topics'});
wait_until_failing(
	undef,
	qr/^\|look\|TP005\|library and SQL objects/,
	'SQL objects of another version: no topic is looked at');
$session->value(q{UPDATE pg_extension SET extversion = '1.0' WHERE extname = 'pg_topics'});
wait_until_well(undef, '... until they are of the same');
others_are_served('afterwards');

# ----------------------------------------------------------------------
# The ends of logs cannot be stored, in the rounds that do so now and then
# ----------------------------------------------------------------------

# full rounds are longer apart than the first tries
$node->adjust_conf('postgresql.conf', 'pg_topics.worker_interval', "'3s'");
$node->reload;
$session->value(q{SELECT topics.create_topic('floors')});
my $id = log_of('floors') =~ s/^topic_log\.t//r;
$session->value(
	qq{
	CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \$\$BEGIN RAISE 'refused'; END\$\$;
	CREATE TRIGGER refuse BEFORE UPDATE OF next_offset_floor ON topic_log.partition
	FOR EACH ROW WHEN (NEW.topic_id = $id) EXECUTE FUNCTION refuse();
	SELECT topics.produce('floors', 'x')});
wait_until_failing(undef, qr/^\|floors\|P0001\|refused$/, 'the ends of logs cannot be stored');
ok( poll_until(
		sub {
			$session->value(
				q{SELECT coalesce(max(failures), 0) FROM topics.worker WHERE step = 'floors'}) >= 3;
		}),
	'... which fails ever more seldom');
is($session->query(q{CALL topics.maintain('floors')})->{sqlstate}, 'P0001', '... by hand as well');
is( $session->value(
		q{SELECT count(*) FROM pg_backend_memory_contexts WHERE name LIKE 'pg_topics floors%'}),
	'0',
	'... and leaves no memory behind');
$session->value('DROP FUNCTION refuse CASCADE');
wait_until_well(undef, '... until they can be');
is($session->value("SELECT next_offset_floor FROM topic_log.partition WHERE topic_id = $id"),
	'1', '... and are');
$node->adjust_conf('postgresql.conf', 'pg_topics.worker_interval', "'100ms'");
$node->reload;

# ----------------------------------------------------------------------
# Notifications of a topic that fails
# ----------------------------------------------------------------------

my $listener = Session->new($node);
my %channel;
for my $topic (qw(first second))
{
	$session->value("SELECT topics.create_topic('$topic')");
	$channel{$topic} = $session->value("SELECT topics.channel('$topic')");
	$listener->value("LISTEN $channel{$topic}");
}

sub told_of
{
	my ($topic) = @_;

	return poll_until(
		sub {
			grep { /Asynchronous notification "$channel{$topic}"/ }
			  @{ $listener->query('SELECT')->{rows} };
		});
}
my $position = -s $node->logfile;
stop_at($node, 'notify-topic');
$session->value(
	q{BEGIN; SELECT topics.produce('first', 'x'), topics.produce('second', 'x'); COMMIT});
my $worker = wait_until_at($node, 'notify-topic');
fail_at($node, 'notify-topic', $worker);
ok(told_of('second'), 'the NOTIFY of one topic fails: the other is told of');
like(
	failing('first'),
	qr/^\|notify\|XX000\|made to fail at test point "notify-topic"$|^$/,
	'... the view says so, for a second');
ok(told_of('first'), '... then the first one too');
is(failing('first'), '', '... and the row is gone');
unlike(
	slurp_file($node->logfile, $position),
	qr/CONTEXT:  work for all topics of the database/,
	'... and it was but one topic that failed');

# ----------------------------------------------------------------------
# The one in the way is still there
# ----------------------------------------------------------------------

ok( poll_until(
		sub { $session->value(q{SELECT failures FROM topics.worker WHERE topic = 'locked'}) >= 5 }),
	'who is in the way, is so for the fifth time');
cmp_ok(
	$session->value(
		q{SELECT extract(epoch FROM next_try - now()) FROM topics.worker WHERE topic = 'locked'}),
	'<=', 10,
	'... and the next try is within 10 seconds');
$locker->value('ROLLBACK');
wait_until_well('locked', '... and succeeds without him');
is(sealed('locked'), '1', '... and does the work');

# ----------------------------------------------------------------------
# A worker that is told to end is not to blame
# ----------------------------------------------------------------------

$session->value(q{SELECT topics.create_topic('killer', segment_time => '50 ms')});
stop_at($node, 'seal-frozen');
$session->value(q{SELECT topics.produce('killer', 'x')});
$worker = wait_until_at($node, 'seal-frozen');
$session->value("SELECT pg_terminate_backend($worker)");
go_on_from($node, 'seal-frozen');
wait_for_worker($node, 'postgres',
	'the worker is told to end within a piece of work, and comes back', $worker);
ok(poll_until(sub { sealed('killer') eq '1' }), '... and does it');
unlike(slurp_file($node->logfile), qr/ended during work/, '... and that was no failure');

# ----------------------------------------------------------------------
# Work that ends the server, again and again
# ----------------------------------------------------------------------

$position = -s $node->logfile;
for my $crash (1 .. 3)
{
	# it comes there when its time has come; another topic does not
	stop_at($node, 'seal-frozen');
	$session->value(q{SELECT topics.produce('killer', 'y')}) if $crash == 1;
	$worker = wait_until_at($node, 'seal-frozen');
	ok($worker, "crash $crash: the worker is at it") or last;
	kill 'KILL', $worker or die "could not kill $worker: $!";
	poll_until(sub { !is_running($worker) });
	go_on_from($node, 'seal-frozen');
	ok(poll_until(sub { ($session = Session->new($node)) && worker_pid($node, 'postgres') }),
		'... the server and a worker are back');
	# who might be stopped on another topic's behalf would be no crash of this one's
	stop_at($node, 'seal-frozen') if $crash < 3;
	ok( poll_until(
			sub {
				$session->value(q{SELECT failures FROM topics.worker WHERE topic = 'killer'}) eq
				  $crash;
			}),
		"... which has failed $crash times");
}
is( failing('killer'),
	'0|seal||the worker or the server ended during this work',
	'... the view says at what');
like(
	$session->value(
		q{SELECT extract(epoch FROM next_try - now()) FROM topics.worker WHERE topic = 'killer'}),
	qr/^[0-4]\./,
	'... and that it has 4 seconds');
like(
	slurp_file($node->logfile, $position),
	qr/LOG:  pg_topics worker or the server ended during work that is tried again in 4 s\n.*DETAIL:  It was at step "seal" for partition 0 of topic "killer"\./,
	'... the log too');
others_are_served('after crashes');
wait_until_well('killer', 'what does not crash any more succeeds');
is(sealed('killer'), '2', '... when it is done');

# ----------------------------------------------------------------------
# The compactor's work
# ----------------------------------------------------------------------

# a process of its own; the point is within its transaction
$session->value(
	q{
	SELECT topics.create_topic('keyed', cleanup_policy => 'compact', min_cleanable_dirty_ratio => 0);
	SELECT topics.produce_batch('keyed', array_agg('v' || i), array_agg('k' || i % 2)) FROM generate_series(1, 10) i;
	SELECT topics.produce('keyed', 'v11', 'k1')});
stop_at($node, 'compact-copied');
$position = -s $node->logfile;
$session->value(q{CALL topics.roll_segment('keyed')});
my $compactor = wait_until_at($node, 'compact-copied');
fail_at($node, 'compact-copied', $compactor);
stop_at($node, 'compact-mapped');
wait_until_failing(
	'keyed',
	qr/^0\|compact\|XX000\|made to fail at test point "compact-copied"$/,
	'compaction fails');
others_are_served('meanwhile');
like(
	slurp_file($node->logfile, $position),
	qr/ERROR:  made to fail at test point "compact-copied"\n.*CONTEXT:  work for partition 0 of topic "keyed"/,
	'... the log says for what topic');
is(() = slurp_file($node->logfile, $position) =~ /made to fail/g, 1, '... once');
$session->value(q{SELECT topics.alter_topic('keyed', min_cleanable_dirty_ratio => 0.01)});
$compactor = wait_until_at($node, 'compact-mapped');
ok($compactor, 'it is tried again at once when the topic is altered');
kill 'KILL', $compactor or die "could not kill $compactor: $!";
poll_until(sub { !is_running($compactor) });
go_on_from($node, 'compact-mapped');
ok(poll_until(sub { ($session = Session->new($node)) && worker_pid($node, 'postgres') }),
	'the compactor crashes: the server and a worker are back');
wait_until_failing(
	'keyed',
	qr/^0\|compact\|\|the worker or the server ended during this work$/,
	'... and the next compactor knows');
wait_until_well('keyed', '... and succeeds when its time has come');
# its first turn may be followed by others
ok( poll_until(
		sub {
			$session->value(
				q{SELECT string_agg(key || '=' || value, ' ' ORDER BY key) FROM topic.keyed}) eq
			  'k0=v10 k1=v11';
		}),
	'... and the topic is compacted');

# ----------------------------------------------------------------------
# A file that has gone, a page that is corrupt, a note that is very old
# ----------------------------------------------------------------------

$session->value(
	q{
	SELECT topics.create_topic('gone'), topics.create_topic('corrupt'), topics.produce('gone', 'x'), topics.produce('corrupt', 'x')}
);
my %file = map {
		$_ => $node->data_dir . '/'
	  . $session->value("SELECT pg_relation_filepath('" . segment_of($_, 0) . "')")
} qw(gone corrupt);

# the entry of a failing piece of work, as backoff.c writes it
sub change_notes
{
	my ($change) = @_;
	my $file = $node->data_dir . '/pg_stat_tmp/pg_topics.work';
	my $notes = slurp_file($file);

	$change->($notes);
	open my $out, '>:raw', $file or die "could not open $file: $!";
	print $out $notes;
	close $out or die "could not write $file: $!";
	return;
}

wait_until_failing('mine', qr/2BP01/, 'the other one still fails');
$node->stop;
rename $file{gone}, "$file{gone}.away" or die "could not rename $file{gone}: $!";
open my $page, '+<:raw', $file{corrupt} or die "could not open $file{corrupt}: $!";
read $page, my $header, 24;
seek $page, 0, SEEK_SET;
print $page "\xff" x 24;
close $page or die "could not write $file{corrupt}: $!";
# the only notes are of mine and altered: the former has failed very often
my $entry;
change_notes(
	sub {
		$entry = unpack('L', $_[0]) - 0x70674b00;
		die 'the notes have another format' if $entry <= 56 || (length($_[0]) - 4) % $entry;
		for (my $at = 4; $at < length $_[0]; $at += $entry)
		{
			my ($database, $view, $partition, $kind, $set, $step, $under_way, $failures) =
			  unpack 'LLlllllL', substr $_[0], $at, 32;

			next if !$database || $partition != 0;
			substr($_[0], $at + 28, 4) = pack 'l', 30;
			substr($_[0], $at + 48, 8) = pack 'q', 0;
		}
	});
$node->start;
$session = Session->new($node);
wait_until_failing('gone', qr/^0\|look\|58P01\|could not open file/, 'a file has gone');
wait_until_failing('corrupt', qr/^0\|look\|XX001\|invalid page in block 0/, 'a page is corrupt');
others_are_served('meanwhile');
fails_more_seldom($_, 3, $_) for qw(gone corrupt);
ok( poll_until(
		sub { $session->value(q{SELECT failures FROM topics.worker WHERE topic = 'mine'}) > 30 }),
	'what failed before the restart has failed since');
like(
	$session->value(
		q{SELECT extract(epoch FROM next_try - now()) FROM topics.worker WHERE topic = 'mine'}),
	qr/^(?:29\d|300)\./,
	'... and is never put off for more than 5 minutes');

rename "$file{gone}.away", $file{gone} or die "could not rename $file{gone}: $!";
open $page, '+<:raw', $file{corrupt} or die "could not open $file{corrupt}: $!";
print $page $header;
close $page or die "could not write $file{corrupt}: $!";
wait_until_well($_, "$_, mended: the row goes") for qw(gone corrupt);
is_deeply($session->query("CALL topics.send('$_', 'y')")->{rows},
	['0|1'], '... and the log goes on')
  for qw(gone corrupt);
$session->value('DROP VIEW depends');
$session->value('CALL topics.maintain()');
wait_until_well('mine', 'maintain has everything tried again');

# ----------------------------------------------------------------------
# Notes that are none, and more of them than there is room for
# ----------------------------------------------------------------------

my $database = $session->value('SELECT oid FROM pg_database WHERE datname = current_database()');
my %notes = (
	'a file with anything in it' => "\xff" x 4000,
	'notes behind a valid header that make no sense' => pack('L', 0x70674b00 + $entry)
	  . pack("a$entry", pack 'L3l4', $database, 9, 0, 0, 77, 0, 3)
	  . "\xff" x 4000,
	'notes of a database that there is not' => pack('L', 0x70674b00 + $entry)
	  . pack("a$entry", pack 'L3', 9, 9) x 1000,
	'' => pack('L', 0x70674b00 + $entry) . join '',
	map { pack "a$entry", pack 'L3', 1, $_ } 1 .. 1000);
for my $what (
	'a file with anything in it',
	'notes behind a valid header that make no sense',
	'notes of a database that there is not',
	'')
{
	$node->stop;
	change_notes(sub { $_[0] = $notes{$what} });
	$node->start;
	$session = Session->new($node);
	next if $what eq '';
	others_are_served($what);
	is($session->value(q{SELECT count(*) FROM topics.worker WHERE topic <> 'altered'}),
		'0', '... and none of it is taken for a failure');
}
# no place is left
wait_until_failing(
	undef,
	qr/^\|look\|55000\|topic "altered" is not complete$/,
	'no room for what fails: the whole round does');
is(failing('altered'), '', '... in its place');
$session->value('DROP EXTENSION pg_topics CASCADE; CREATE EXTENSION pg_topics');
wait_until_well(undef, '... until that is no more');

# ----------------------------------------------------------------------
# A topic that is dropped while it fails
# ----------------------------------------------------------------------

$node->append_conf('postgresql.conf', "pg_topics.worker_interval = '1h'\n");
$node->stop;
change_notes(sub { $_[0] = '' });
$node->start;
wait_for_worker($node, 'postgres', 'a worker that rests');
$session = Session->new($node);
$session->value(q{SELECT topics.create_topic('dropped', segment_bytes => 65536)});
$in_the_way = index_name(segment_of('dropped', 0));
$session->value(
	qq{CREATE TABLE $in_the_way (); SELECT topics.produce('dropped', repeat(md5(i::text), 3)) FROM generate_series(1, 2000) i}
);
wait_until_failing('dropped', qr/^0\|seal\|42P07/, 'a topic fails');
# two clocks say when it is and when to try, so a tenth of the shortest delay is between them
my $next_try = $session->value(q{SELECT next_try - interval '0.1 s' FROM topics.worker});
$session->value(q{SELECT topics.drop_topic('dropped')});
ok( poll_until(
		sub { $session->value(qq{SELECT last_round > '$next_try' FROM topics.worker}) eq 't' }),
	'... and is dropped: it is looked at once more');
my $last_round = $session->value('SELECT last_round FROM topics.worker');
$session->value('SELECT 1') for 1 .. 100;
is($session->value('SELECT last_round, count(step) FROM topics.worker GROUP BY 1'),
	"$last_round|0", '... and never again');
unlike(slurp_file($node->logfile), qr/PANIC:|TRAP:/, 'no crash but those that were meant');
$node->stop;
done_testing();
