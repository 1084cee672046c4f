# pg_upgrade, by copying and by linking: topics are as they were, and
# producing goes on.  Between two servers of one major version, which is what
# any machine has; log tables are moved as between different ones.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Topics;
use TopicState;

my $old = topics_node('old', points => 1, conf => "pg_topics.worker_interval = '1h'\n");
$old->safe_psql(
	'postgres', q{
	CREATE ROLE alice; CREATE ROLE reader;
	GRANT USAGE ON SCHEMA topics, topic TO alice, reader;
	GRANT CREATE ON SCHEMA topic TO alice;
	GRANT EXECUTE ON ALL ROUTINES IN SCHEMA topics TO alice, reader;
	CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
	SELECT topics.create_topic('dropped'); SELECT topics.drop_topic('dropped');
	SET ROLE alice;
	SELECT topics.create_topic('or.ders', 2, segment_bytes => 1048576, retention_time => '3 days');
	SELECT topics.create_topic('typed', 1, key_type => 'positive', value_type => 'jsonb');
	SELECT topics.create_topic('empty', 3);
	RESET ROLE;
	SELECT topics.create_roles();
	CREATE ROLE monitor IN ROLE topics_monitor;
	SET ROLE alice;
	GRANT SELECT ON topic."or.ders" TO reader;});
for my $round (1 .. 3)
{
	produce_and_abort(
		$old, 'postgres',
		q{SELECT topics.produce('or.ders', repeat('dead', 2000)) FROM generate_series(1, 30) i},
		"round $round: dead rows");
	$old->safe_psql(
		'postgres', qq{
		SELECT count(topics.produce('or.ders', 'round $round record ' || i || repeat('x', i), 'key ' || i, partition => i % 2)) FROM generate_series(1, 200) i;
		SELECT topics.produce('or.ders', (SELECT string_agg(md5(j::text), '') FROM generate_series(1, 3000) j), NULL, partition => 0);
		SELECT count(topics.produce('typed', jsonb_build_object('i', i, 'long', repeat(md5(i::text), 200)), i::text)) FROM generate_series(1, 60) i;}
	);
	$old->safe_psql('postgres', q{CALL topics.roll_segment('or.ders')}) if $round < 3;
}
produce_and_abort(
	$old,
	'postgres',
	q{SELECT topics.produce('or.ders', repeat('dead', 2000), partition => 0) FROM generate_series(1, 30) i},
	'dead rows at the end');
$old->safe_psql('postgres',
	q{SELECT topics.create_topic('dropped'); SELECT topics.drop_topic('dropped')});
my $next_id = 1 + $old->safe_psql('postgres', 'SELECT last_value FROM topic_log.topic_id_seq');
my $expected = same_state($old, 'postgres');
my $end = $old->safe_psql('postgres',
	q{SELECT log_end_offset FROM topics.partition WHERE topic = 'or.ders' AND partition = 0});
my $segments = $old->safe_psql('postgres',
	'SELECT topic, partition, base_offset, end_offset, state FROM topics.segment ORDER BY 1, 2, 3');
$old->stop;

# pg_upgrade writes into the current directory
chdir PostgreSQL::Test::Utils::tempdir or die $!;

# Linking comes last: it uses the old server up
for my $mode ('copy', 'link')
{
	my $new = PostgreSQL::Test::Cluster->new("new_$mode");
	my $bindir = $new->config_data('--bindir');

	# where the programs are, not where they were configured to be
	for my $directory (split /:/, $ENV{PATH})
	{
		$bindir = $directory, last if -x "$directory/pg_upgrade";
	}
	$new->init;
	$new->append_conf('postgresql.conf',
		"shared_preload_libraries = 'pg_topics'\npg_topics.worker_interval = '100ms'\n");
	command_ok(
		[
			'pg_upgrade', '--old-datadir',
			$old->data_dir, '--new-datadir',
			$new->data_dir, '--old-bindir',
			$bindir, '--new-bindir',
			$bindir, '--socketdir',
			$new->host, '--old-port',
			$old->port, '--new-port',
			$new->port, $mode eq 'link' ? '--link' : ()
		],
		"pg_upgrade, $mode");
	$new->start;

	same_state($new, 'postgres', $expected, "$mode: everything is there");
	check_files($new, 'postgres', $mode);
	wait_for_worker($new, 'postgres', "$mode: the worker runs");
	is( $new->safe_psql(
			'postgres',
			'SELECT topic, partition, base_offset, end_offset, state FROM topics.segment WHERE state = \'sealed\' ORDER BY 1, 2, 3'
		),
		join("\n", grep { /sealed$/ } split /\n/, $segments),
		"$mode: segments have their bounds");
	is( $new->safe_psql(
			'postgres', q{SET ROLE reader; SELECT count(*) FROM topics.fetch('or.ders', 0, 0)}),
		$end,
		"$mode: the reader reads");
	is( (sqlstate_of($new, 'postgres', q{SET ROLE reader; SELECT topics.produce('or.ders', 'x')}))
		[0],
		'42501',
		"$mode: and no more than that");
	is( $new->safe_psql(
			'postgres', q{SET ROLE alice; CALL topics.send('or.ders', 'after', partition => 0)}),
		"0|$end",
		"$mode: produce goes on at the next offset");
	is($new->safe_psql('postgres', q{CALL topics.send('empty', 'first', partition => 2)}),
		'2|0', "$mode: an empty partition begins at 0");
	$new->safe_psql('postgres', q{SET ROLE alice; CALL topics.roll_segment('or.ders')});
	is( $new->safe_psql('postgres', q{CALL topics.send('or.ders', 'rolled', partition => 0)}),
		'0|' . ($end + 1),
		"$mode: segments roll");
	is($new->safe_psql('postgres', q{SET ROLE monitor; SELECT count(*) FROM topics.topic}),
		'0', "$mode: the roles of create_roles are not trusted in another cluster");
	$new->safe_psql('postgres', 'SELECT topics.create_roles(take_over => true)');
	is($new->safe_psql('postgres', q{SET ROLE monitor; SELECT count(*) FROM topics.topic}),
		'3', "$mode: ... until they are taken over");
	$new->safe_psql('postgres', q{SELECT topics.create_topic('new')});
	is($new->safe_psql('postgres', q{SELECT topic_id FROM topics.topic WHERE topic = 'new'}),
		$next_id, "$mode: a new topic gets a new id");
	check_files($new, 'postgres', "$mode, afterwards");
	$new->stop;
	unlike(slurp_file($new->logfile), qr/PANIC|TRAP|terminated by signal/, "$mode: no crash");
}

done_testing();
