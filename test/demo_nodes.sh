# shellcheck shell=bash
# test/demo_nodes.sh: what ./demo --nodes 3 shows, a cluster of three servers.
#
# Each step is a function: it shows what it does, and fails if something is not
# as it should be.  show_nodes, at the end, calls the steps in their order.  What
# starts servers and shows statements is in ./demo.

nodes=(a b c)

# how many records were produced, and the digest of them that the first node had which was asked
produced=0
digest=
# the heading that stands last
where=
# the node that leads
leader=a

# ----------------------------------------------------------------------
# What steps are made of.  What is shown ends with an empty line, as psql's tables do
# ----------------------------------------------------------------------

# say_where <where>: a heading, if it is another one
say_where() {
	[ "$where" = "$1" ] || say "== $1"
	where=$1
}

# wrong <message>: ends the demo, with what the servers said last
wrong() {
	tail -n 5 "$work"/?/server.log >&2
	fail "$*"
}

# on <node>: runs what comes on standard input there, and shows it
on() {
	say_where "On $1"
	show_at "$work/$1" || wrong "that failed on $1"
}

# ask <node> <query>: its result, which is not shown
ask() { psql_at "$work/$1" -Atq -v ON_ERROR_STOP=1 -c "$2" || wrong "$1 could not be asked"; }

conninfo() { say "host=$work/$1 dbname=demo user=demo"; }

# produce <number> <comment>: so many records
produce() {
	on "$leader" <<END
$2
INSERT INTO topic.payments (key, value)
SELECT (ARRAY['anna', 'boris', 'chen', 'goran'])[1 + n % 4], jsonb_build_object('euro', n) FROM generate_series(1, $1) n;
END
	say
	produced=$((produced + $1))
	digest=
}

# lag_of <follower>: how many records it lacks, as the leader knows; nothing if that does not know
lag_of() {
	ask "$leader" "SELECT sum(lag) FROM topics.replica WHERE topic = 'payments' AND node = '$1' HAVING bool_and(lag IS NOT NULL)"
}

# wait_for <follower>: until the leader knows that it lacks nothing
wait_for() {
	local lag end=$((SECONDS + 60))
	while true; do
		lag=$(lag_of "$1")
		[ "$lag" != 0 ] || break
		[ $SECONDS -lt $end ] || wrong "$1 still lacks records after a minute"
		sleep 0.1
	done
}

# expect_same <comment> <records r> <node...>: shows how many the nodes have, and their digest.  There must
# be as many as were produced, and they must be the same at all nodes, however they are read.
expect_same() {
	local node found names="${*:3}" query="SELECT count(*) AS records,
    md5(string_agg(r::text, ' ' ORDER BY r.partition, r.offset)) AS digest
FROM $2"
	say_where "On ${names// /, }"
	say "$1"
	say "$query;"
	say ' node | records |              digest              '
	say '------+---------+----------------------------------'
	for node in "${@:3}"; do
		found=$(ask "$node" "$query")
		printf ' %-4s | %7s | %s\n' "$node" "${found%|*}" "${found#*|}"
		[ "${found%|*}" = "$produced" ] || wrong "$produced records were produced, and $node has ${found%|*}"
		[ "$found" = "${digest:=$found}" ] || wrong "$node has other records than the node before"
	done
	say
}

# wait_for_end <node>: until no process of its server is left
wait_for_end() {
	local process left=yes end=$((SECONDS + 60))
	while [ -n "$left" ]; do
		[ $SECONDS -lt $end ] || wrong "the server of $1 still has processes after a minute"
		left=
		for process in /proc/[0-9]*; do
			[ ! "$process/cwd" -ef "$work/$1/data" ] || left=yes
		done
		sleep 0.1
	done
}

# kill_node <node>: its server is killed
kill_node() {
	local pid
	pid=$(head -n 1 "$work/$1/data/postmaster.pid")
	say_where "The server of $1 is killed"
	say "\$ kill -KILL $pid"
	kill -KILL "$pid"
	wait_for_end "$1"
	# Until its parent has asked for it, it seems to be alive.  In some containers nobody ever asks.
	rm -f "$work/$1/data/postmaster.pid" "$work/$1"/.s.PGSQL.*.lock
	say
}

# find_leader <node...>: sets "leader" to one of these that leads
find_leader() {
	local node end=$((SECONDS + 60))
	leader=
	while [ -z "$leader" ]; do
		[ $SECONDS -lt $end ] || wrong "no node leads after a minute"
		for node in "$@"; do
			[ "$(ask "$node" "SELECT role FROM topics.node WHERE is_self")" != leader ] || leader=$node
		done
		sleep 0.1
	done
}

# ----------------------------------------------------------------------
# Steps
# ----------------------------------------------------------------------

start_nodes() {
	local node
	say "Starting three private servers: sockets in $work/{a,b,c}, no port, fsync on"
	for node in "${nodes[@]}"; do
		as_account mkdir "$work/$node"
		new_server "$work/$node"
	done
	say
	say_where 'On a, b, c'
	say 'CREATE EXTENSION pg_topics;'
	for node in "${nodes[@]}"; do
		ask "$node" 'CREATE EXTENSION pg_topics'
		ask "$node" "ALTER SYSTEM SET pg_topics.node_timeout = '1 s'"
		ask "$node" 'SELECT pg_reload_conf()' >/dev/null
	done
	say "ALTER SYSTEM SET pg_topics.node_timeout = '1 s';  -- after which a node that is silent is taken for lost"
	say
}

make_cluster() {
	on a <<END
-- a makes a cluster, and leads it. b and c come, and follow.
SELECT topics.create_cluster('a', '$(conninfo a)');
CALL topics.add_node('b', '$(conninfo b)');
CALL topics.add_node('c', '$(conninfo c)');
SELECT node, role, is_self, advertised_conninfo FROM topics.node;
-- A topic that is made on the leader comes to the followers, and so do its records.
SELECT topics.create_topic('payments', partitions => 3, value_type => 'jsonb');
END
	produce 1000 '-- 1,000 records of four customers. The key chooses the partition.'
	wait_for b
	wait_for c
	on a <<'END'
-- The commit was acknowledged when one follower had it. A moment later both have all:
SELECT partition, node, role, log_end_offset, lag FROM topics.replica WHERE topic = 'payments' ORDER BY 1, 2;
END
}

read_followers() {
	on b <<'END'
-- A follower is read as the leader is: by topics.fetch, from an offset on,
SELECT r.offset, r.key, r.value FROM topics.fetch('payments', 1, 42, max_records => 3) r;
END
	on c <<'END'
-- and by SELECT.
SELECT partition, string_agg(DISTINCT key, ', ') AS keys, count(*) AS records, min("offset"), max("offset")
FROM topic.payments GROUP BY 1 ORDER BY 1;
END
	expect_same '-- All have the same records, at the same offsets and with the same times.' \
		'topic.payments r' "${nodes[@]}"
	expect_same '-- topics.fetch returns these, too.' \
		"generate_series(0, 2) p, topics.fetch('payments', p, 0, max_records => 1000) r" b c
}

write_to_follower() {
	local said
	say_where 'On b'
	# the place in the sources is not for users
	said=$(show_at "$work/b" -v VERBOSITY=verbose 2>&1 <<'END' | sed '/^LOCATION: /d'
-- A follower is not written to. Its error, TP004, says where the leader is.
SELECT topics.produce('payments', '{"euro": 5}', key => 'anna');
END
	) || true
	say "$said"
	[[ $said == *"ERROR:  TP004: "*"host='$work/a'"* ]] || wrong "b did not refuse, with TP004 and the leader's address"
	say
}

lose_follower() {
	local lag
	kill_node c
	produce 500 '-- Producers go on: commits wait for one follower, and b is there. 500 more records'
	wait_for b
	on a <<'END'
-- b has them. Of c the leader knows what c said last, and so what it lacks.
SELECT partition, node, log_end_offset, lag, lag_time FROM topics.replica
WHERE topic = 'payments' AND role = 'follower' ORDER BY 2, 1;
SELECT node, clock_timestamp() - last_asked AS silent_for FROM topics.node WHERE role = 'follower';
END
	lag=$(lag_of c)
	[ "$lag" = 500 ] || wrong "c lacks 500 records, and topics.replica says: ${lag:-not known}"
}

return_follower() {
	say_where 'The server of c starts again'
	say "\$ pg_ctl -D $work/c/data start"
	start_server "$work/c"
	say
	wait_for c
	on a <<'END'
-- c went on where it had stopped. It has all again:
SELECT node, sum(log_end_offset) AS records, sum(lag) AS lag FROM topics.replica
WHERE topic = 'payments' GROUP BY 1 ORDER BY 1;
END
	expect_same '-- Nothing is missing, doubled or in another order.' 'topic.payments r' "${nodes[@]}"
}

lose_leader() {
	on a <<'END'
-- A consumer group reads what there is, and commits how far it has come.
SELECT count(*) FROM topics.consume('accounting', 'payments', 700);
END
	kill_node a
	find_leader b c
	on "$leader" <<'END'
-- The others did not hear from it for a second, and have elected one of them:
SELECT node, leader, epoch FROM topics.cluster;
END
	produce 500 '-- Producers go on there: 500 more records'
	on "$leader" <<'END'
-- So does the group, from where it was.
SELECT count(*) FROM topics.consume('accounting', 'payments', 5000);
END
}

return_leader() {
	say_where 'The server of a starts again'
	say "\$ pg_ctl -D $work/a/data start"
	start_server "$work/a"
	say
	wait_for a
	on a <<'END'
-- a has heard who leads by now, and follows.
SELECT node, role, is_self FROM topics.node;
END
	expect_same '-- Nothing is missing, doubled or in another order.' 'topic.payments r' "${nodes[@]}"
	on "$leader" <<'END'
-- As planned, a leads again, since it has made the cluster. Nobody loses anything by that.
CALL topics.rebalance_leaders();
END
	leader=a
	produce 100 '-- a takes records again.'
	wait_for b
	wait_for c
	expect_same '-- And all have them.' 'topic.payments r' "${nodes[@]}"
}

# ----------------------------------------------------------------------

show_nodes() {
	start_nodes
	make_cluster
	read_followers
	write_to_follower
	lose_follower
	return_follower
	lose_leader
	return_leader
}

try_nodes() {
	say "You are in psql on node a now, which leads. Try:"
	say "  SELECT * FROM topics.node;"
	say "  SELECT * FROM topics.replica;"
	say "  \\c - - $work/b      to node b, and so to c and back"
	say "  docs/nodes.md says what is the same on all nodes, and what is not"
	say "Quit with \\q: the servers then stop, and $work is removed with all that is in it."
	trap : INT
	psql_at "$work/a" || true
	say "Stopping the servers ..."
}
