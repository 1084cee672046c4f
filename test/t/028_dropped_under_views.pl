# Topics come and go, and are produced to, while all views are read: in no
# transaction is that an error, or a deadlock.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Topics;

my $node = topics_node('main', conf => 'max_pred_locks_per_transaction = 256');

sub script
{
	my ($name, $text) = @_;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/$name.sql";

	append_to_file($file, $text);
	return ('-f', $file);
}

# pgbench's arguments for a number of clients that run for some seconds
sub load
{
	my ($clients, $seconds, @scripts) = @_;

	return ('pgbench', '-n', '-c', $clients, '-T', $seconds, '--failures-detailed',
		@scripts, '-h', $node->host, '-p', $node->port, 'postgres');
}

$node->safe_psql(
	'postgres', q{
	SELECT topics.create_roles();
	CREATE ROLE nobody LOGIN;
	GRANT topics_monitor TO nobody;
	SELECT topics.create_topic('stays', 2)});

my @changing = script('change', <<'END');
SELECT topics.create_topic('goes', 2);
SELECT topics.produce('goes', 'a', partition => 0);
SELECT topics.consume('group', 'goes');
\sleep 5 ms
SELECT topics.drop_topic('goes');
END
my $views = $node->safe_psql(
	'postgres', q{
	SELECT string_agg(format('SELECT count(*) FROM %s;', oid::regclass), E'\n' ORDER BY relname)
	FROM pg_class WHERE relnamespace = 'topics'::regnamespace AND relkind = 'v'});
like($views, qr/topics\.partition/, 'there are views');

for my $isolation ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')
{
	my @reading = script("read $isolation", "BEGIN ISOLATION LEVEL $isolation;\n$views\nCOMMIT;\n");

	for my $role ('', 'nobody')
	{
		my $name = "$isolation, " . ($role || 'superuser');
		my ($changes, $failed) = ('', '');
		my $changer = IPC::Run::start([ load(1, 4, @changing) ], '>', \$changes, '2>&1');
		my $output = `PGUSER='$role' @{[ join ' ', map { "'$_'" } load(3, 3, @reading) ]} 2>&1`;

		is($?, 0, "$name: no error") or diag($output);
		like($output, qr/number of deadlock failures: 0 /, '... and no deadlock');
		ok($changer->finish, '... nor for the one who drops') or diag($changes);
		like($changes, qr/number of deadlock failures: 0 /, '... and no deadlock');
		$node->safe_psql('postgres', q{SELECT topics.drop_topic('goes', if_exists => true)});
	}
}
done_testing();
