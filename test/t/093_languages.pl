# README.md's lines in other languages run as printed, within the frame that
# each language needs, and print the record that they produce.
#
# A language without compiler or driver is skipped: what Debian has of them is
# python3-psycopg2, default-jdk-headless and libpostgresql-jdbc-java, golang-go
# and golang-github-lib-pq-dev, nodejs and node-pg.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use Document;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Topics;

my $directory = PostgreSQL::Test::Utils::tempdir;
my $jdbc = '/usr/share/java/postgresql.jar';
my $gopath = '/usr/share/gocode';
my $python = python_with('psycopg2');

$ENV{NODE_PATH} = join ':', grep { defined } $ENV{NODE_PATH}, '/usr/share/nodejs',
  '/usr/local/lib/node_modules', '/usr/lib/node_modules';
# Debian's packages for Go are found by GOPATH
@ENV{qw(GO111MODULE GOPATH CGO_ENABLED GOCACHE)} =
  ('off', $gopath, '0', $ENV{GOCACHE} // "$directory/cache");

my %language = (
	python => {
		missing => !defined $python && 'python3 with psycopg2',
		command => [ $python, 'example.py' ],
		file => 'example.py',
		frame => "import psycopg2\n%s",
		prints => q([('anna', '{"item": "tea"}')]),
	},
	java => {
		missing => !(-f $jdbc && runs('javac -version')) && "javac and $jdbc",
		command => [ 'java', '-cp', $jdbc, 'Example.java' ],
		file => 'Example.java',
		frame => q(
class Example {
	public static void main(String[] arguments) throws Exception {
		var db = java.sql.DriverManager.getConnection("jdbc:postgresql://<server>/shop");
%s
	}
}),
		prints => 'anna {"item": "tea"}',
	},
	go => {
		missing => !(-d "$gopath/src/github.com/lib/pq" && runs('go version'))
		  && "go and $gopath/src/github.com/lib/pq",
		command => [ 'go', 'run', 'example.go' ],
		file => 'example.go',
		frame => q(package main

import (
	"database/sql"
	"fmt"

	_ "github.com/lib/pq"
)

func main() {
	var key, value string
	db, err := sql.Open("postgres", "dbname=shop sslmode=disable")
%s
	if err != nil {
		panic(err)
	}
}
),
		prints => 'anna {"item": "tea"}',
	},
	js => {
		missing => !runs(q(node -e 'require("pg")')) && 'node with the module pg',
		command => [ 'node', 'example.js' ],
		file => 'example.js',
		frame => q(
const pg = require('pg');
(async () => {
const db = new pg.Client({ database: 'shop' })
await db.connect()
%s
await db.end()
})();
),
		prints => 'anna {"item": "tea"}',
	});

sub runs { my ($command) = @_; return system("$command >/dev/null 2>&1") == 0 }

my @blocks = grep { exists $language{ $_->{language} } }
  blocks_of(slurp_file("$FindBin::RealBin/../../README.md"));
is(join(' ', map { $_->{language} } @blocks), 'python java go js', 'README.md has four languages');

my $node = topics_node('main', conf => "listen_addresses = '127.0.0.1'\n");
my $server = '127.0.0.1:' . $node->port;

$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql(
	'shop', q{CREATE EXTENSION pg_topics;
	SELECT topics.create_topic('orders', partitions => 2, value_type => 'jsonb')});
@ENV{qw(PGHOST PGPORT PGUSER)} = ($node->host, $node->port, scalar getpwuid $<);
chdir $directory or die "could not go to $directory: $!";
for my $block (@blocks)
{
	my $language = $language{ $block->{language} };

  SKIP:
	{
		skip "not installed: $language->{missing}", 1 if $language->{missing};

		my ($output, $errors);
		my $code = sprintf $language->{frame}, $block->{text};
		$code =~ s/<server>/$server/;
		append_to_file($language->{file}, $code);
		run_log($language->{command}, '>', \$output, '2>', \$errors);
		is("$output$errors", "$language->{prints}\n", $block->{language});
		$node->safe_psql('shop',
			q{SELECT topics.delete_records('orders', partition, -1) FROM topics.partition WHERE topic = 'orders'}
		);
	}
}
chdir '/';
$node->stop;
done_testing();
