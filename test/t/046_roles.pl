# The roles of topics.create_roles where roles come from elsewhere: in another
# database of the cluster, and after a dump was restored into another cluster,
# names mean nothing until create_roles is told to take them over.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Topics;
use TopicState;

my $source = topics_node('source');
my $target = topics_node('target', extension => 0);
my $dumps = PostgreSQL::Test::Utils::tempdir;

$source->safe_psql(
	'postgres', q{
	SELECT topics.create_roles();
	CREATE ROLE reader IN ROLE topics_reader;
	CREATE ROLE admin IN ROLE topics_admin;
	CREATE ROLE monitor IN ROLE topics_monitor;
	SELECT topics.create_topic('orders');
	SELECT topics.produce('orders', 'x')});
$source->safe_psql('postgres', q{SELECT * FROM topics.consume('group', 'orders')});

# What members of the roles get: the topics that the monitor is shown, the
# groups that the administrator is shown, the records that the reader reads in
# a topic of old and in a new one.
sub rights_in
{
	my ($node, $database) = @_;
	my @got = (
		$node->safe_psql($database, 'SET ROLE monitor; SELECT count(*) FROM topics.topic'),
		$node->safe_psql($database, 'SET ROLE admin; SELECT count(*) FROM topics.consumer_group'),
		(sqlstate_of($node, $database, 'SET ROLE reader; SELECT * FROM topic.orders'))[0]);

	$node->safe_psql($database, q{SELECT topics.create_topic('new')});
	push @got, (sqlstate_of($node, $database, 'SET ROLE reader; SELECT * FROM topic.new'))[0];
	$node->safe_psql($database, q{SELECT topics.drop_topic('new')});
	return join ' ', @got;
}
my $all = '2 1 00000 00000';
is(rights_in($source, 'postgres'), $all, 'where they were made they count');

# ----------------------------------------------------------------------
# Another database of the cluster
# ----------------------------------------------------------------------

$source->safe_psql('postgres', 'CREATE DATABASE other');
$source->safe_psql(
	'other', q{
	CREATE EXTENSION pg_topics;
	SELECT topics.create_topic('orders');
	SELECT topics.produce('orders', 'x');
	GRANT USAGE ON SCHEMA topics, topic TO PUBLIC;
	GRANT SELECT ON ALL TABLES IN SCHEMA topics TO PUBLIC});
$source->safe_psql('other', q{SELECT * FROM topics.consume('group', 'orders')});
is(rights_in($source, 'other'), '0 0 42501 42501', 'in another database they do not');
is((sqlstate_of($source, 'other', 'SELECT topics.create_roles()'))[0],
	'42710', '... and are not taken for made there');
$source->safe_psql('other', 'SELECT topics.create_roles(take_over => true)');
is(rights_in($source, 'other'), $all, '... until they are taken over');

# ----------------------------------------------------------------------
# Another cluster
# ----------------------------------------------------------------------

command_ok(
	[
		'pg_dumpall', '--globals-only', '-d', $source->connstr('postgres'),
		'-f', "$dumps/globals.sql"
	],
	'dump roles');
$target->psql('postgres', slurp_file("$dumps/globals.sql"), on_error_stop => 0);
command_ok([ 'pg_dump', '-Fc', '-f', "$dumps/custom", $source->connstr('postgres') ], 'dump');
$target->safe_psql('postgres', 'CREATE DATABASE restored');
command_ok(
	[ 'pg_restore', '--exit-on-error', '--dbname', $target->connstr('restored'), "$dumps/custom" ],
	'restore');
is( rights_in($target, 'restored'),
	'0 0 00000 42501',
	'restored elsewhere: what was granted is there, as any grant; no more');
is($target->safe_psql('restored', 'SELECT count(*) FROM topic_log.role'),
	'0', '... since OIDs are not dumped');
is((sqlstate_of($target, 'restored', 'SELECT topics.create_roles()'))[0],
	'42710', '... and the names are not trusted');
$target->safe_psql('restored', 'SELECT topics.create_roles(take_over => true)');
is(rights_in($target, 'restored'), $all, '... until they are taken over');

done_testing();
