# A topic is changed in every way while others work with it: each setting to
# several values and back, partitions, name, owner, rights, segments, log
# start; another one is dropped and made again under its name, and a third one
# goes from compaction to retention and back.  Meanwhile producers produce in
# every way, groups consume, readers fetch and select.
#
# Nobody sees an error but those that are documented for the change at hand.
# In the end acknowledged records fill the log without a gap, each once, in
# each producer's order, with the key's partition by the number of partitions
# at the time; groups have no lag and have got each record once, but for what
# the log start has passed; readers have seen nothing else, and snapshots did
# not change; of a topic that was dropped nothing shows in its successor.
#
# Every client notes each operation in a file: when it began and ended, its
# SQLSTATE, and what came of it.  The test goes on when these files say that
# the clients have met a change, and judges by them.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use POSIX qw(WNOHANG);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use Session;
use Topics;

my $node = topics_node('main',
	conf =>
	  "pg_topics.worker_interval = '100ms'\nlog_statement = none\nmax_connections = 60\nmax_parallel_workers_per_gather = 0\n"
);
my $directory = PostgreSQL::Test::Utils::tempdir;
my $partitions = 3;
my @names = ('orders', 'moved');

$node->safe_psql(
	'postgres', q{
	CREATE ROLE boss LOGIN;
	CREATE ROLE other LOGIN;
	CREATE ROLE app LOGIN;
	GRANT USAGE ON SCHEMA topics, topic TO boss, other, app;
	GRANT CREATE ON SCHEMA topic TO boss, other;
	GRANT EXECUTE ON ALL ROUTINES IN SCHEMA topics TO boss, other, app;
	GRANT SELECT ON ALL TABLES IN SCHEMA topics TO boss, other, app;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA topic_log TO boss, other, app;
	CREATE TABLE consumed (group_id text, topic_id bigint, partition int, "offset" bigint, key text, value text);
	GRANT INSERT ON consumed TO app;
	-- the topic that this transaction has consumed from, whatever its name is by now
	CREATE FUNCTION consumed_topic() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
		SELECT DISTINCT topic_id FROM pg_locks l JOIN pg_class c ON c.oid = relation JOIN topics.topic ON relname ~ ('^t' || topic_id || '_p[0-9]+$')
		WHERE l.pid = pg_backend_pid() AND topic <> '__consumer_offsets' $$;});
my $super = Session->new($node);
my $boss = Session->new($node, user => 'boss');
my $other = Session->new($node, user => 'other');
$boss->value(
	qq{
	SELECT topics.create_topic('orders', $partitions, retention_time => '-1 s', min_compaction_lag_time => '1 day');
	SELECT topics.create_topic('state', retention_time => '-1 s', segment_bytes => 65536, min_cleanable_dirty_ratio => 0, delete_retention_time => '0');
	SELECT topics.create_topic('temp', 2, retention_time => '-1 s');
	GRANT SELECT, INSERT ON topic.orders, topic.state, topic.temp TO app;});

# ----------------------------------------------------------------------
# Clients
# ----------------------------------------------------------------------

my %children;
my $notes;
my $called;

# A client of its own process: its function is called again and again until
# there is a file named $stop, with its session, and the number of the call.
# Producers pause, lest on a busy machine the log grows faster than it is read.
sub client
{
	my ($name, $stop, $function) = @_;
	my $child = fork;

	die "could not fork: $!" unless defined $child;
	if ($child == 0)
	{
		srand $$;
		eval {
			my $session = Session->new($node, user => 'app') or die 'cannot connect';

			$called = $names[0];
			open $notes, '>', "$directory/$name" or die "$name: $!";
			$notes->autoflush;
			for (my $number = 0; !-e "$directory/stop.$stop"; $number++)
			{
				$function->($session, $number);
				usleep($stop eq 'producers' ? 60_000 : 20_000);
			}
			1;
		} or do { print STDERR "client $name: $@"; POSIX::_exit(1) };
		POSIX::_exit(0);
	}
	$children{$child} = $name;
	return;
}

# Notes an operation.
sub note_down
{
	my ($begin, $what, $sqlstate, @rest) = @_;

	print $notes join("\t", $begin, time, $what, $sqlstate || '00000', @rest) . "\n";
	return;
}

# The answer to a query; a topic that has gone may have its other name.
sub ask
{
	my ($session, $sql) = @_;
	my $result = $session->query($sql);

	die "lost the connection: $result->{text}" if $result->{lost};
	$called = $names[ $called eq $names[0] ] if $result->{sqlstate} =~ /^(42704|42P01)$/;
	return $result;
}

# Produces by a function that is given the records, [key, value], and sends the
# statements; notes where they went.
sub produce
{
	my ($session, $name, $number, $count, $how, $keyless) = @_;
	my @records = map {
		[
			$keyless ? undef : 'k' . ($number * 7 + $_) % 23,
			"$name.$number.$_ " . 'x' x (($number * 131 + $_ * 17) % 600)
		]
	} 0 .. $count - 1;
	my $begin = time;
	my $result = $how->($session, @records);
	my $sqlstate = $result->{sqlstate};
	my @ranges = $sqlstate ? () : @{
		ask($session,
			q{SELECT partition || ':' || first_offset || ':' || record_count FROM topics.last_produced()}
		)->{rows}
	};

	note_down($begin, 'produce', $sqlstate, $number, $count, join ' ', @ranges);
	return;
}

sub list
{
	return join ', ', map { sprintf $_[0], @$_ } @_[ 1 .. $#_ ];
}

my %ways = (
	single => sub {
		my ($session, $record) = @_;
		return ask($session, sprintf q{SELECT topics.produce('%s', key => '%s', value => '%s')},
			$called, @$record);
	},
	batch => sub {
		my ($session, @records) = @_;

		return ask(
			$session,
			sprintf
			  'SELECT topics.produce_batch(\'%s\', keys => ARRAY[%s], record_values => ARRAY[%s])',
			$called,
			join(', ', map { "'$_->[0]'" } @records),
			join(', ', map { "'$_->[1]'" } @records));
	},
	insert => sub {
		my ($session, @records) = @_;

		return ask($session,
			"INSERT INTO topic.$called (key, value) VALUES " . list("('%s', '%s')", @records));
	},
	copy => sub {
		my ($session, @records) = @_;

		open my $file, '>', "$directory/data.$$" or die "data: $!";
		print $file "$_->[0]\t$_->[1]\n" for @records;
		close $file;
		return ask($session, "\\copy topic.$called (key, value) FROM '$directory/data.$$'");
	},
	transaction => sub {    # that others may come in the middle of
		my ($session, @records) = @_;
		my $call = sub {
			sprintf q{SELECT topics.produce('%s', key => '%s', value => '%s');}, $called,
			  @{ shift @records };
		};
		my $result = ask($session, 'BEGIN; ' . $call->());

		usleep(20_000);
		return $result->{sqlstate}
		  ? (ask($session, 'ROLLBACK'), $result)[1]
		  : ask($session, join ' ', (map { $call->() } 1 .. @records), 'COMMIT;');
	},
	keyless => sub {
		my ($session, @records) = @_;

		return ask(
			$session, sprintf 'SELECT topics.produce_batch(\'%s\', ARRAY[%s])',
			$called, join(', ', map { "'$_->[1]'" } @records));
	});
my @producers = sort keys %ways;

# Consumes into the table, or thinks better of it.  What was consumed from is
# locked, so it is not dropped meanwhile.
sub consume
{
	my ($session, $group, $topic, $limit, $end) = @_;
	my $begin = time;
	my $result = ask(
		$session, qq{
		BEGIN;
		CREATE TEMPORARY TABLE IF NOT EXISTS taken (partition int, "offset" bigint, key text, value text);
		TRUNCATE taken;
		INSERT INTO taken SELECT r.partition, r.offset, r.key, split_part(r.value, ' ', 1) FROM topics.consume('$group', '$topic', $limit) r;
		INSERT INTO consumed SELECT '$group', (SELECT consumed_topic()), taken.* FROM taken;
		$end;});
	my ($count) = map { /^INSERT 0 (\d+)/ ? $1 : () } reverse @{ $result->{rows} };

	note_down($begin, 'consume', $result->{sqlstate}, $end eq 'COMMIT' ? $count // 0 : 0);
	return;
}

my %positions;

sub fetch
{
	my ($session, $topic, $partition) = @_;
	my $from = $positions{$partition} //= 0;
	my $begin = time;
	my $result = ask($session,
		qq{SELECT r.offset || '=' || split_part(r.value, ' ', 1) FROM topics.fetch('$topic', $partition, $from, 200) r}
	);
	my @rows = @{ $result->{rows} };

	note_down($begin, 'fetch', $result->{sqlstate}, $partition, $from, join ' ', @rows);
	$positions{$partition} = (split /=/, $rows[-1])[0] + 1 if @rows && !$result->{sqlstate};
	if ($result->{sqlstate} eq 'TP001')
	{
		my ($start) = @{
			ask($session,
				qq{SELECT o.offset FROM topics.list_offsets('$topic', 'earliest') o WHERE partition = $partition}
			)->{rows}
		};

		$positions{$partition} = $start if defined $start && $start =~ /^\d+$/;
	}
	return;
}

# Two looks in one snapshot, the second with a plan made before others' changes.
sub look_twice
{
	my ($session, $number) = @_;
	my $begin = time;
	my $select = sub {
		qq{SELECT partition, count(*), min("offset"), max("offset"), sum(hashtext(value)) FROM topic.$called GROUP BY 1 ORDER BY 1};
	};
	my $prepared = "looks_$called";

	# until it was made it may fail, and then is made the next time
	ask($session, "PREPARE $prepared AS " . $select->()) unless $positions{$prepared};
	$positions{$prepared} = 1;
	my $first = ask($session, 'BEGIN ISOLATION LEVEL REPEATABLE READ; ' . $select->());
	usleep(50_000);
	my $second = ask($session, "EXECUTE $prepared");
	ask($session, 'ROLLBACK');
	my @rows = grep { /\|/ } @{ $first->{rows} };
	my $sparse = grep { my @row = split /\|/; $row[1] != $row[3] - $row[2] + 1 } @rows;
	my $same = join("\n", @rows) eq join "\n", grep { /\|/ } @{ $second->{rows} };
	my $sqlstate = $first->{sqlstate} || $second->{sqlstate};

	delete $positions{$prepared} if $second->{sqlstate} eq '26000';
	note_down($begin, 'look', $sqlstate,
		$sparse || (!$sqlstate && !$same)
		? "WRONG: $first->{text} $second->{text}" =~ s/\s+/ /gr
		: 'right');
	usleep(1_000_000 * (time - $begin));    # it reads all
	return;
}

for my $name (@producers)
{
	my $count = { single => 1, transaction => 3 }->{$name};

	client(
		$name,
		'producers',
		sub {
			produce($_[0], $name, $_[1], $count // 1 + int rand 7, $ways{$name},
				$name eq 'keyless');
		});
}
client("busy.$_", 'groups',
	sub { consume($_[0], 'busy', $called, 200, $_[1] % 4 ? 'COMMIT' : 'ROLLBACK') })
  for 1 .. 3;
client('calm', 'groups', sub { consume($_[0], 'calm', $called, 1000, 'COMMIT') });
client('fetcher', 'groups', sub { fetch($_[0], $called, $_) for 0 .. 7 });
client('looker', 'groups', \&look_twice);
client(
	'state',
	'producers',
	sub {
		my ($session, $number) = @_;
		my $begin = time;
		my ($key, $value) =
		  ('k' . $number * 7 % 12, $number % 9 ? "'state.$number.0 " . 'y' x 200 . "'" : 'NULL');
		my $result = ask($session, "CALL topics.send('state', $value, '$key')");

		note_down(
			$begin, 'send', $result->{sqlstate}, $number, $key,
			$value eq 'NULL' ? 'NULL' : "state.$number.0",
			@{ $result->{rows} });
	});
client('stated', 'groups', sub { consume($_[0], 'stated', 'state', 100, 'COMMIT') });
client(
	'temp',
	'producers',
	sub {
		my ($session, $number) = @_;
		my $begin = time;
		my $result = ask($session,
			"BEGIN; SELECT topics.produce('temp', 'temp.$number.0', partition => @{[$number % 2]}); SELECT pg_backend_pid();"
		);

		usleep(10_000);
		$result =
		  $result->{sqlstate} ? (ask($session, 'ROLLBACK'), $result)[1] : ask($session, 'COMMIT');
		note_down($begin, 'produce', $result->{sqlstate}, $number);
	});
client('temped', 'groups', sub { consume($_[0], 'temped', 'temp', 100, 'COMMIT') });
client('tempfetch', 'groups', sub { fetch($_[0], 'temp', $_) for 0, 1 });
my @orders_clients = (@producers, qw(busy calm fetcher looker));
my @files = map {
	$_ eq 'busy'
	  ? (map { "busy.$_" } 1 .. 3)
	  : $_
} @orders_clients, qw(state stated temp temped tempfetch);

# ----------------------------------------------------------------------
# Progress
# ----------------------------------------------------------------------

sub reap
{
	for my $child (keys %children)
	{
		next if waitpid($child, WNOHANG) == 0;
		die "client $children{$child} failed" if $?;
		delete $children{$child};
	}
	return !%children;
}

# The operations that a client has noted, from a place in its file on, as
# [begin, end, what, sqlstate, ...].
sub operations
{
	my ($name, $from) = @_;
	my @lines;

	open my $file, '<', "$directory/$name" or return ();
	seek $file, $from // 0, 0;
	@lines = map { /\n$/ ? [ split /\t/, s/\n//r, -1 ] : () } <$file>;
	return @lines;
}

# Waits until each of some clients has noted an operation that was begun after
# this was called, and that a condition holds for.  "busy" is any session of
# that group: it may be that one finds nothing for long.
sub met
{
	my ($what, $condition, @clients) = @_;
	my $since = time;
	my %from = map { $_ => -s "$directory/$_" // 0 } @files;
	my %missing = map { $_ => 1 } @clients;
	my $result = poll_until(
		sub {
			reap() and die 'all clients have ended';
			for my $name (keys %missing)
			{
				delete $missing{$name}
				  if grep { $_->[0] >= $since && $condition->($_) }
				  map { operations($_, $from{$_}) } grep { $_ eq $name || /^$name\.\d$/ } @files;
			}
			usleep(10_000);
			return !%missing;
		});

	ok($result,
		"$what: met by all clients" . ($result ? '' : ', but ' . join ' ', sort keys %missing));
	return;
}

sub works { return $_[0][3] eq '00000' && ($_[0][2] ne 'consume' || $_[0][4] > 0) }

sub ends_with
{
	my ($sqlstate) = @_;
	return sub { $_[0][3] eq $sqlstate }
}

# The clients of "orders" but for some
sub without
{
	my %without = map { $_ => 1 } @_;

	return grep { !$without{$_} } @orders_clients;
}

# As an administrator: it must succeed.
my @failures;

sub change
{
	my ($session, $sql) = @_;
	my $result = $session->query($sql);

	push @failures, "$sql: $result->{text}" if $result->{sqlstate} || $result->{lost};
	return join "\n", @{ $result->{rows} };
}

sub value_of { return $super->value("SELECT $_[0] FROM topics.topic WHERE topic = 'orders'") }

sub alter
{
	my ($name, $value) = @_;

	change($boss, "SELECT topics.alter_topic('orders', $name => $value)");
	return value_of("$name = $value") eq 't' ? () : ("$name is not $value");
}

# The topic "temp": dropped and made again, in one transaction or in two, or
# renamed away and dropped then.
my @lives = ([ 0, 0, $super->value(q{SELECT topic_id FROM topics.topic WHERE topic = 'temp'}) ]);
my $shown = '';

sub make_anew
{
	my $way = @lives % 3;
	my $begin = time;

	change($boss, 'BEGIN') if $way == 0;
	if ($way == 1)
	{
		change($boss, q{SELECT topics.rename_topic('temp', 'temp_away')});
		change($boss, q{SELECT topics.create_topic('temp', 2, retention_time => '-1 s')});
	}
	else
	{
		change($boss, q{SELECT topics.drop_topic('temp')});
		change($boss, q{SELECT topics.create_topic('temp', 2, retention_time => '-1 s')});
	}
	$shown .= change(
		$boss, q{
		SELECT 'end ' || log_end_offset FROM topics.partition WHERE topic = 'temp' AND log_end_offset > 0;
		SELECT 'place ' || committed_offset FROM topics.consumer_offset WHERE topic = 'temp';
		SELECT 'record ' || r.value FROM topic.temp r;});
	change($boss, 'GRANT SELECT, INSERT ON topic.temp TO app');
	change($boss, 'COMMIT') if $way == 0;
	change($boss, q{SELECT topics.drop_topic('temp_away')}) if $way == 1;
	push @lives,
	  [ $begin, time, $super->value(q{SELECT topic_id FROM topics.topic WHERE topic = 'temp'}) ];
	return;
}

# ----------------------------------------------------------------------
# Settings
# ----------------------------------------------------------------------

met('the load', \&works, @orders_clients, qw(state stated temp temped tempfetch));

my @settings = (
	[ retention_time => q{'1 day'}, q{'30 days'}, q{'-1 s'} ],
	[ retention_bytes => 1_000_000_000, 100_000_000_000, -1 ],
	[ segment_bytes => 65536, 1_000_000, 1_073_741_824 ],
	[ segment_time => q{'100 ms'}, q{'1 h'}, q{'-1 s'}, q{'7 days'} ],
	[ max_message_bytes => 256, 268_435_456, 1_048_576 ],
	[ timestamp_type => q{'LogAppendTime'}, q{'CreateTime'} ],
	[ cleanup_policy => q{'compact'}, q{'compact,delete'}, q{'delete'} ],
	[ delete_retention_time => q{'0'}, q{'2 days'}, q{'1 day'} ],
	[ min_compaction_lag_time => q{'10 days'}, q{'1 day'} ],
	[ min_cleanable_dirty_ratio => 0, 1, 0.5 ],
	[ notify => 'false', 'true' ],
	# more than one would want followers
	[ min_insync_replicas => 1 ]);
my %refused = (
	'max_message_bytes => 256' => [ '54000', @producers ],
	map { ("cleanup_policy => '$_'" => [ '22004', 'keyless' ]) } 'compact', 'compact,delete');
my $all_settings = q{SELECT to_jsonb(t) - 'owner' FROM topics.topic t WHERE topic = 'orders'};
my $before = $super->value($all_settings);
is( join(' ', sort map { $_->[0] } @settings),
	$super->value(
		q{SELECT string_agg(k, ' ' ORDER BY k)
	FROM topics.topic t, jsonb_object_keys(to_jsonb(t)) k WHERE topic = 'orders' AND k NOT IN ('topic', 'topic_id', 'owner', 'partitions')}
	),
	'there are no other settings');
my @wrong;
my ($segments, $rounds) =
  (q{SELECT count(*) FROM topics.segment WHERE topic = 'orders' AND state = 'sealed'}, 0);
for my $setting (@settings)
{
	my ($name, @values) = @$setting;

	for my $value (@values)
	{
		my $sealed = $super->value($segments);

		push @wrong, alter($name, $value);
		my ($sqlstate, @refused) = @{ $refused{"$name => $value"} // [] };

		met("$name => $value", \&works, without(@refused));
		met('... it refuses records', ends_with($sqlstate), @refused) if @refused;
		if ("$name $value" =~ /^(segment_bytes 65536|segment_time '100 ms')$/)
		{
			ok(poll_until(sub { usleep(20_000); $super->value($segments) > $sealed + 2 }),
				'... segments are rolled by it');
		}
		if ($name eq 'timestamp_type')
		{
			my $age = $super->value(
				qq{
				SELECT now() - "timestamp" < '1 h' FROM topic.orders r WHERE value LIKE 'single.%' ORDER BY "timestamp" DESC LIMIT 1}
			);

			push @wrong, 'no recent record' if $age ne 't';
		}
		make_anew() if $rounds++ % 6 == 0;
	}
}
is("@wrong", '', 'each setting has each value in turn');
is($super->value($all_settings), $before, 'all settings are back');

# ----------------------------------------------------------------------
# Retention, segments
# ----------------------------------------------------------------------

sub starts
{
	return $super->value(
		q{SELECT string_agg(log_start_offset::text, ' ' ORDER BY partition) FROM topics.partition WHERE topic = 'orders'}
	);
}

# Waits until the log starts of all partitions have risen.
sub risen
{
	my ($before, $what) = @_;
	my @before = split / /, $before;

	return ok(
		poll_until(
			sub {
				my @now = split / /, starts();

				usleep(50_000);
				return !grep { $now[$_] <= $before[$_] } 0 .. $#before;
			}),
		$what);
}

my $starts = starts();
is($starts, '0 0 0', 'no setting has let a record go that it should not');
alter(segment_bytes => 65536);
for my $setting ([ retention_bytes => 0, -1 ], [ retention_time => q{'300 ms'}, q{'-1 s'} ])
{
	my ($name, $short, $long) = @$setting;

	alter($name, $short);
	change($boss, q{CALL topics.roll_segment('orders')});
	change($boss, q{CALL topics.maintain('orders')});
	risen($starts, "$name => $short lets records go");
	met("$name => $short", \&works, @orders_clients);
	alter($name, $long);
	$starts = starts();
	change($boss, q{CALL topics.roll_segment('orders')});
	met("$name => $long", \&works, @orders_clients);
	change($boss, q{CALL topics.maintain('orders')});
	is(starts(), $starts, "$name => $long keeps them");
	make_anew();
}

# what was seen of a log's end while there was no limit does not hold with one
alter(retention_bytes => 0);
change($boss, q{CALL topics.roll_segment('orders')});
risen($starts, 'retention_bytes => 0, again');
alter(retention_bytes => -1);
$starts = starts();

# ----------------------------------------------------------------------
# Partitions
# ----------------------------------------------------------------------

my @counts = ([ $partitions, 0, 0 ]);
for my $count (4, 6, 8)
{
	my $begin = time;

	change($boss, "SELECT topics.add_partitions('orders', $count)");
	push @counts, [ $count, $begin, time ];
	met("$count partitions", \&works, @orders_clients);
	ok( poll_until(
			sub {
				usleep(20_000);
				$super->value(
					qq{SELECT count(*) FROM topics.consumer_offset WHERE topic = 'orders' AND partition = $count - 1 AND group_id IN ('busy', 'calm') AND committed_offset > 0}
				) == 2;
			}),
		'... both groups consume from the last');
	make_anew();
}

# ----------------------------------------------------------------------
# Name, owner, rights
# ----------------------------------------------------------------------

for my $rename (
	q{SELECT topics.rename_topic('orders', 'moved')},
	'ALTER VIEW topic.orders RENAME TO moved',
	q{BEGIN; SELECT topics.rename_topic('orders', 'moved'); SELECT topics.alter_topic('moved', notify => false); COMMIT;}
  )
{
	change($boss, $rename);
	met('a new name', \&works, @orders_clients);
	change($boss,
		$rename =~ s/orders/old/gr =~ s/moved/orders/gr =~ s/old/moved/gr =~ s/false/true/r);
	met('the old name', \&works, @orders_clients);
}
make_anew();

my @readers = without(@producers);
change($boss, 'REVOKE INSERT ON topic.orders FROM app');
met('no right to produce', ends_with('42501'), @producers);
met('no right to produce', \&works, 'fetcher', 'looker');
change($boss, 'GRANT INSERT ON topic.orders TO app; REVOKE SELECT ON topic.orders FROM app');
met('no right to consume', ends_with('42501'), @readers);
met('no right to consume', \&works, @producers);
change($boss, 'GRANT SELECT ON topic.orders TO app');
met('rights again', \&works, @orders_clients);

for my $pair ([ 'other', $other, $boss ], [ 'boss', $boss, $other ])
{
	my ($name, $new, $old) = @$pair;

	change($super, "ALTER VIEW topic.orders OWNER TO $name");
	is($old->query(q{SELECT topics.alter_topic('orders', notify => true)})->{sqlstate},
		'42501', "$name is the owner, not who was");
	change($new, q{SELECT topics.alter_topic('orders', notify => true)});
	met("the owner $name", \&works, @orders_clients);
}

# ----------------------------------------------------------------------
# Log start, segments; cleanup_policy of a topic that is compacted
# ----------------------------------------------------------------------

my @policies = ('compact', 'delete', 'compact,delete', 'compact');
for my $round (1 .. 8)
{
	my $partition = $round % 2;
	my ($from, $to) = split /\|/,
	  $super->value(
		qq{SELECT log_start_offset, log_end_offset FROM topics.partition WHERE topic = 'orders' AND partition = $partition}
	  );
	my $before = $from + int(($to - $from) / 4);

	is(change($boss, "SELECT topics.delete_records('orders', $partition, $before)"),
		$before, "records before $before are deleted");
	is($boss->query("SELECT * FROM topics.fetch('orders', $partition, $before - 1)")->{sqlstate},
		'TP001', '... who asks for them is told')
	  if $before > 0;
	change($boss, q{CALL topics.roll_segment('orders')});
	change($boss,
		qq{SELECT topics.alter_topic('state', cleanup_policy => '$policies[$round % 4]')});
	change($boss, q{CALL topics.roll_segment('state')});
	change($boss, q{CALL topics.maintain('state')});
	met("round $round", \&works, @orders_clients, qw(state stated temp temped));
	make_anew() if $round % 2;
}

# ----------------------------------------------------------------------
# What came of it
# ----------------------------------------------------------------------

append_to_file("$directory/stop.producers", '');
my $lag =
  q{SELECT coalesce(sum(lag), -1) FROM topics.consumer_lag WHERE group_id IN ('busy', 'calm', 'stated', 'temped')};
ok( poll_until(
		sub {
			reap();
			usleep(20_000);
			!(grep { $_ =~ /^(?:state|temp|@{[join '|', @producers]})$/ } values %children)
			  && $super->value($lag) eq '0';
		}),
	'no group has a lag');
append_to_file("$directory/stop.groups", '');
ok(poll_until(\&reap), 'all clients have ended');
is($super->value(q{SELECT count(*) FROM pg_locks WHERE locktype IN ('userlock', 'advisory')}),
	'0', 'no claim is left');
is($shown, '', 'a topic that was made again is empty, and no group stands anywhere in it');

# what each kind of operation may meet, beside a name that was not there
my %documented = (
	produce => qr/^(00000|42704|42P01|42501|54000|22004|55000)$/,
	send => qr/^(00000|22004)$/,
	consume => qr/^(00000|42704|42501)$/,
	fetch => qr/^(00000|42704|42501|TP001|22023)$/,
	look => qr/^(00000|42P01|42501|40001|26000)$/);
my %notes = map { my $name = $_; $name => [ operations($name) ] } @files;
my %seen;
my @undocumented;
for my $name (sort keys %notes)
{
	for my $op (@{ $notes{$name} })
	{
		$seen{ $op->[3] }++;
		# a topic goes for good only where one is dropped, and only 8 partitions are asked for
		next
		  if $op->[3] =~ $documented{ $op->[2] }
		  && ($op->[3] ne '55000' || $name eq 'temp')
		  && ($op->[3] ne '22023' || $name eq 'fetcher')
		  && ($op->[3] ne '22004' || $name eq 'keyless');
		push @undocumented, join ' ', $name, @$op;
	}
}
is( "@undocumented[0 .. ($#undocumented > 9 ? 9 : $#undocumented)]",
	'',
	'no client has met an error that is not documented');
cmp_ok($seen{$_} // 0, '>', 0, "... and some have met $_")
  for qw(00000 42704 42P01 42501 54000 22004 TP001);
is(join("\n", grep { /WRONG/ } map { join ' ', @$_ } @{ $notes{looker} }),
	'', 'no snapshot had a gap, or changed');

# where everything is: in the log, and where it was consumed from
my %at;
my (@twice, @different);

sub place
{
	my ($partition, $offset, $value, $by) = @_;
	my $is = $at{$partition}{$offset} //= $value;

	push @different, "$partition/$offset is $is, and $value for $by" if $is ne $value;
	return;
}
my (%ends, %in_log, %keys);
for (
	split /\n/,
	$super->value(
		q{SELECT partition, log_start_offset, log_end_offset FROM topics.partition WHERE topic = 'orders'}
	))
{
	my ($partition, $start, $end) = split /\|/;

	$ends{$partition} = [ $start, $end ];
}
for (
	split /\n/,
	$super->value(
		q{SELECT partition, r.offset, coalesce(key, ''), split_part(value, ' ', 1) FROM topic.orders r}
	))
{
	my ($partition, $offset, $key, $value) = split /\|/;

	push @twice, "$partition/$offset in the log" if $in_log{$partition}{$offset}++;
	place($partition, $offset, $value, 'the log');
	$keys{$value} = $key;
}
is(scalar(keys %ends), 8, 'there are 8 partitions');
my %consumed;
for (
	split /\n/,
	$super->value(
		q{SELECT group_id, partition, c.offset, coalesce(key, ''), value FROM consumed c WHERE group_id IN ('busy', 'calm')}
	))
{
	my ($group, $partition, $offset, $key, $value) = split /\|/;

	push @twice, "$partition/$offset for $group" if $consumed{$group}{$partition}{$offset}++;
	place($partition, $offset, $value, $group);
	$keys{$value} = $key;
}
my @gaps;
for my $op (grep { $_->[2] eq 'fetch' && $_->[3] eq '00000' } @{ $notes{fetcher} })
{
	my ($partition, $expected, $rows) = @$op[ 4 .. 6 ];

	for (split / /, $rows)
	{
		my ($offset, $value) = split /=/;

		push @gaps, "$partition/$expected for a reader" if $offset != $expected;
		place($partition, $offset, $value, 'a reader');
		$expected = $offset + 1;
	}
}
is("@different", '', 'every place has one value for all');
is("@twice", '', 'every record is there once, and was consumed once by each group');

# acknowledged records fill the partitions, in each producer's order
my %ranges;
my (@disorder, @misplaced);
my %hash = map { split /\|/ } split /\n/,
  $super->value(
	q{SELECT 'k' || i, topics.murmur2(convert_to('k' || i, 'UTF8')) & 2147483647 FROM generate_series(0, 22) i}
  );
my $acknowledged = 0;
for my $name (@producers)
{
	my %last;

	for my $op (grep { $_->[3] eq '00000' } @{ $notes{$name} })
	{
		my ($begin, $end, undef, undef, $number, $count, $ranges) = @$op;
		my $told = 0;
		my @possible = map {
			my $n = $counts[$_][0];
			$counts[$_][1] <= $end && ($_ == $#counts || $counts[ $_ + 1 ][2] >= $begin) ? $n : ()
		} 0 .. $#counts;

		for (split / /, $ranges)
		{
			my ($partition, $first, $n) = split /:/;
			my $before = -1;

			$told += $n;
			push @{ $ranges{$partition} }, [ $first, $n, $name ];
			push @disorder, "$name.$number in $partition at $first"
			  if $first <= ($last{$partition} // -1);
			$last{$partition} = $first + $n - 1;
			for my $offset ($first .. $first + $n - 1)
			{
				my $value = $at{$partition}{$offset};

				if (!defined $value)
				{
					push @gaps, "$partition/$offset of $name.$number"
					  if $offset >= $ends{$partition}[0];
					next;
				}
				my ($by, $of, $i) = split /\./, $value;

				push @disorder, "$partition/$offset has $value, not one of $name.$number"
				  if $by ne $name || $of != $number || $i <= $before;
				$before = $i;
				next if $name eq 'keyless';
				my $key = 'k' . ($number * 7 + $i) % 23;

				push @misplaced, "$value with $keys{$value} in $partition"
				  if ($keys{$value} // $key) ne $key
				  || !grep { $hash{$key} % $_ == $partition } @possible;
			}
		}
		push @gaps, "$name.$number: $told of $count" if $told != $count;
		$acknowledged += $count;
	}
}
for my $partition (sort keys %ends)
{
	my $next = 0;

	for my $range (sort { $a->[0] <=> $b->[0] } @{ $ranges{$partition} // [] })
	{
		push @gaps, "$partition/$next, and $range->[0] of $range->[2] is next"
		  if $range->[0] != $next;
		$next = $range->[0] + $range->[1];
	}
	push @gaps, "$partition ends at $ends{$partition}[1], not $next"
	  if $ends{$partition}[1] != $next;
	push @gaps, map { "$partition/$_ is not in the log" }
	  grep { !$in_log{$partition}{$_} } $ends{$partition}[0] .. $next - 1;
	push @gaps, map { "$partition/$_ is below the log start" }
	  grep { $_ < $ends{$partition}[0] } keys %{ $in_log{$partition} };
	for my $group ('busy', 'calm')
	{
		push @gaps, map { "$partition/$_ for $group" }
		  grep { !$consumed{$group}{$partition}{$_} } $ends{$partition}[0] .. $next - 1;
	}
}
is("@gaps[0 .. ($#gaps > 9 ? 9 : $#gaps)]",
	'', "$acknowledged acknowledged records fill the log, and were consumed");
is("@disorder[0 .. ($#disorder > 9 ? 9 : $#disorder)]", '', "... in each producer's order");
is( "@misplaced[0 .. ($#misplaced > 9 ? 9 : $#misplaced)]",
	'',
	'... each with its key, where the key belongs');
is(join(' ', map { $ends{$_}[0] } 3 .. 7),
	'0 0 0 0 0', 'the log of an added partition begins at 0, so both groups have all of it');

# the topic that was compacted, and not, and again
my (%state, %fold, @stale);
for my $op (grep { $_->[3] eq '00000' } @{ $notes{state} })
{
	my ($key, $value, $row) = @$op[ 5 .. 7 ];
	my ($partition, $offset) = split /\|/, $row;

	$state{$offset} = "$key|$value";
	$fold{$key} = $value eq 'NULL' ? undef : "$offset|$key|$value";
}
my $latest =
  q{SELECT r.offset, key, split_part(value, ' ', 1) FROM topics.latest('state') r ORDER BY 1};
my $expected = join "\n",
  sort { ($a =~ /^(\d+)/)[0] <=> ($b =~ /^(\d+)/)[0] } grep { defined } values %fold;
is($super->value($latest),
	$expected, 'the latest record of each key is the one that was produced last');
for (
	split /\n/,
	$super->value(
		q{SELECT r.offset, key, coalesce(split_part(value, ' ', 1), 'NULL') FROM topic.state r
	UNION ALL SELECT c.offset, key, coalesce(value, 'NULL') FROM consumed c WHERE group_id = 'stated'})
  )
{
	my ($offset, $row) = split /\|/, $_, 2;

	push @stale, "$offset is $row" if ($state{$offset} // '') ne $row;
}
is("@stale", '',
	'what is left of its log, and what was consumed, was produced, where it was produced');
cmp_ok(
	$super->value('SELECT count(*) FROM topic.state'),
	'<',
	scalar keys %state,
	'something was compacted');
is( $super->value(
		q{SELECT count(*) - count(DISTINCT c.offset) FROM consumed c WHERE group_id = 'stated'}),
	'0',
	'its group has consumed no record twice');

# the topic that was dropped and made again
is( $super->value(
		q{SELECT count(*) FILTER (WHERE topic_id IS NULL), count(*) - count(DISTINCT value) FROM consumed WHERE group_id = 'temped'}
	),
	'0|0',
	'no record of a dropped topic was consumed from its successor');
is( $super->value(
		q{SELECT topic_id, partition, count(*), min(c.offset), max(c.offset) FROM consumed c WHERE group_id = 'temped'
		GROUP BY 1, 2 HAVING min(c.offset) <> 0 OR max(c.offset) <> count(*) - 1}),
	'',
	'... and from each from its start, without a gap');
my %lived = map { $_->[4] => $_ } grep { $_->[3] eq '00000' } @{ $notes{temp} };
my @risen;
for my $op (grep { $_->[2] eq 'fetch' && $_->[3] eq '00000' } @{ $notes{tempfetch} })
{
	my ($life) = grep { $_->[1] <= $op->[0] } reverse @lives;

	for (split / /, $op->[6])
	{
		my ($number) = /\.(\d+)\./;

		push @risen, $_ if !$lived{$number} || $lived{$number}[1] < $life->[0];
	}
}
is("@risen", '',
	'nobody has fetched a record of a dropped topic from its successor, or one that was not acknowledged'
);
my %in_last = map { /\.(\d+)\./ => 1 } split /\n/, $super->value('SELECT value FROM topic.temp');
my ($begun, $made) = @{ $lives[-1] };
is(join(' ', grep { !$in_last{$_} && $lived{$_}[0] >= $made } keys %lived),
	'', 'the last one has all that was acknowledged since it was made');
is(join(' ', grep { !$lived{$_} || $lived{$_}[1] < $begun } keys %in_last),
	'', '... and nothing from before');
cmp_ok(scalar(@lives), '>=', 12, @lives . ' topics had its name');

# with nobody there who would produce anew what is lost
change($boss, q{SELECT topics.alter_topic('state', cleanup_policy => 'compact')});
change($boss, q{CALL topics.roll_segment('state')});
ok( poll_until(
		sub {
			change($boss, q{CALL topics.maintain('state')});
			usleep(20_000);
			$super->value('SELECT count(*) FROM topic.state') <= split /\n/, $expected;
		}),
	'all of the log is compacted');
is($super->value($latest), $expected, '... and has the latest record of each key, where it was');

# ----------------------------------------------------------------------
# A topic to which nothing else happens
# ----------------------------------------------------------------------

# What has piled up while there was no limit goes when there is one again,
# though the last look under the old limit had found nothing more to do.
# Nobody looks for another reason: the worker has done all that was asked for
# when it has dropped something of another topic, asked for later, twice.
sub start_of
{
	return $super->value("SELECT log_start_offset FROM topics.partition WHERE topic = '$_[0]'");
}

sub fill
{
	my ($topic) = @_;

	change($boss, "SELECT count(topics.produce('$topic', 'v', 'k')) FROM generate_series(1, 100)");
	change($boss, "CALL topics.roll_segment('$topic')");
	return;
}

sub worker_is_done
{
	for (1, 2)
	{
		fill('bell');
		change($boss, q{SELECT topics.delete_records('bell', 0, -1)});
		poll_until(
			sub {
				usleep(20_000);
				$super->value(
					q{SELECT count(*) FROM topics.segment WHERE topic = 'bell' AND state = 'deleted'}
				) eq '0';
			}) or die 'the worker drops nothing';
	}
	return;
}

change($boss,
	q{SELECT topics.create_topic('quiet', retention_time => '-1 s', retention_bytes => 0), topics.create_topic('bell', retention_time => '-1 s')}
);
my $produced = 0;
for my $change ('retention_bytes => -1', q{cleanup_policy => 'compact'})
{
	fill('quiet');
	$produced += 200;
	ok(poll_until(sub { usleep(20_000); start_of('quiet') == $produced - 100 }), 'a limit');
	worker_is_done();
	change($boss, "SELECT topics.alter_topic('quiet', $change)");
	fill('quiet');
	worker_is_done();
	is(start_of('quiet'), $produced - 100, "$change: no limit");
	change($boss,
		q{SELECT topics.alter_topic('quiet', cleanup_policy => 'delete', retention_bytes => 0)});
	ok(poll_until(sub { usleep(20_000); start_of('quiet') == $produced }),
		'... and the limit again: what has piled up goes');
}

is("@failures", '', 'every change was made');
my $log = slurp_file($node->logfile);
is(join("\n", grep { /PANIC|TRAP|terminated by signal|XX00|WARNING/ } split /\n/, $log),
	'', 'nothing is wrong in the server log');
$node->stop;
done_testing();
