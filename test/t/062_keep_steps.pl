# The server is killed, or goes on, at every step of retention and of
# compaction: nothing is lost that is to be kept, and what was begun is
# finished afterwards without anybody's help.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Session;
use Topics;

my $node = topics_node(
	'main',
	points => 1,
	conf => "fsync = on\nautovacuum = off\npg_topics.worker_interval = '100ms'\n");
my $number = 0;

# Three segments of 100 records.  What is to be done is done by the worker.
sub prepare
{
	my $topic = 'topic' . ++$number;

	$node->safe_psql('postgres',
		qq{SELECT topics.create_topic('$topic', retention_time => '-1 s')});
	for my $segment (1 .. 3)
	{
		$node->safe_psql(
			'postgres', qq{
			SELECT count(topics.produce('$topic', (i + 100 * $segment) || repeat('x', 50), (i % 10)::text)) FROM generate_series(0, 99) i;
			CALL topics.roll_segment('$topic')});
	}
	return $topic;
}

my %operations = (
	retention => {
		settings => 'retention_bytes => 0',
		points => [qw(retention-moved retention-locked retention-dropped)],
		meanwhile => '0|300,300|300',
		result => '300|300|0|',
		segments => '0'
	},
	compaction => {
		settings => q{cleanup_policy => 'compact', min_cleanable_dirty_ratio => 0},
		points => [qw(compact-mapped compact-copied compact-swapped)],
		meanwhile => '0|300',
		result => '0|300|10|290',
		segments => '1'
	});

for my $name (sort keys %operations)
{
	my $operation = $operations{$name};

	for my $point (@{ $operation->{points} })
	{
		for my $fate ('goes on', 'is killed')
		{
			my $topic = prepare();
			my $what = "$name: at $point it $fate";

			stop_at($node, $point);
			$node->safe_psql('postgres',
				qq{SELECT topics.alter_topic('$topic', $operation->{settings})});
			my $stopped = wait_until_at($node, $point);
			ok(defined $stopped, "$what: somebody comes there") or next;
			my $ends =
			  q{SELECT log_start_offset, log_end_offset FROM topics.partition WHERE topic = '%s'};

			if ($fate eq 'goes on')
			{
				go_on_from($node, $point);
			}
			else
			{
				kill_server($node);
				go_on_from($node, $point);
				$node->start;
				my $found = $node->safe_psql('postgres', $ends =~ s/%s/$topic/r);
				ok((grep { $_ eq $found } split /,/, $operation->{meanwhile}),
					"... the log has the ends $found");
				is( $node->safe_psql(
						'postgres',
						qq{SELECT count(*) FROM (SELECT key, max("offset") FROM topic.$topic GROUP BY 1 HAVING max("offset") < 290) r}
					),
					'0',
					'... and no latest record is missing');
				wait_for_worker($node, 'postgres', '... the worker is back');
			}
			ok( $node->poll_query_until(
					'postgres', qq{
				SELECT concat_ws('|', log_start_offset, log_end_offset, (SELECT count(*) FROM topic.$topic), coalesce((SELECT min("offset") FROM topic.$topic)::text, '')) = '$operation->{result}'
				FROM topics.partition WHERE topic = '$topic'}),
				'... it is finished');
			ok( $node->poll_query_until(
					'postgres',
					qq{SELECT count(*) = $operation->{segments} FROM topics.segment WHERE topic = '$topic' AND state IN ('sealed', 'deleted')}
				),
				'... with nothing left behind');
			is($node->safe_psql('postgres', qq{CALL topics.send('$topic', 'next', 'k')}),
				'0|300', '... and the log goes on');
			is( $node->safe_psql(
					'postgres',
					q{SELECT count(*) FROM pg_class WHERE relname LIKE 'pg_temp_%' AND relnamespace = 'topic_log'::regnamespace}
				),
				'0',
				'... no half-made table');
			$node->safe_psql('postgres', qq{SELECT topics.drop_topic('$topic')});
		}
	}
}

# ----------------------------------------------------------------------
# A cut is taken back, since somebody reads the list of segments for long: it is
# tried again, though no record comes
# ----------------------------------------------------------------------

my $segments = q{SELECT count(*) FROM topics.segment WHERE topic = 'quiet' AND base_offset = 0};
$node->safe_psql('postgres',
	q{SELECT topics.create_topic('quiet', retention_time => '-1 s', segment_time => '1 s')});
stop_at($node, 'cut-done');
$node->safe_psql('postgres', q{CALL topics.send('quiet', 'x')});
ok(defined wait_until_at($node, 'cut-done'), 'a cut is half done');
my $reader = Session->new($node);
$reader->value('BEGIN; LOCK TABLE pg_inherits IN ACCESS SHARE MODE');
go_on_from($node, 'cut-done');
ok($node->poll_query_until('postgres', "$segments AND state = 'active'", '1'),
	'... and is taken back');
$reader->value('COMMIT');
ok($node->poll_query_until('postgres', "$segments AND state = 'sealed'", '1'),
	'... and comes in the end');

# ----------------------------------------------------------------------
# Rolled by hand, it waits for who is in the way: longer than a cut does
# ----------------------------------------------------------------------

$segments = q{SELECT count(*) FROM topics.segment WHERE topic = 'by_hand' AND base_offset = 0};
$node->safe_psql('postgres',
	q{SELECT topics.create_topic('by_hand'); CALL topics.send('by_hand', 'x')});
$reader->value('BEGIN; LOCK TABLE pg_inherits IN ACCESS SHARE MODE');
my $roller = Session->new($node);
$roller->send(q{CALL topics.roll_segment('by_hand')});
sleep 2;
is($node->safe_psql('postgres', "$segments AND state = 'active'"),
	'1', 'a segment that is rolled by hand is not cut');
$reader->value('COMMIT');
is($roller->receive->{sqlstate}, '', '... before that is possible');
is($node->safe_psql('postgres', "$segments AND state = 'sealed'"), '1', '... and then it is');
done_testing();
