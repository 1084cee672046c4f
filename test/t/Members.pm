# Members.pm: calls for members of consumer groups, and what they have.
package Members;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use Test::More;
use Session;

our @EXPORT =
  qw(answer join_group poll_sql commit_sql call_sql wait_sql poll commit has await_has generation_of members stored committed create_topics);

# What a statement gives, or its SQLSTATE
sub answer
{
	my ($where, $statement) = @_;
	my ($result, $rows, $error) = $where->psql('postgres', "\\set VERBOSITY verbose\n$statement");

	return $error =~ /(?:ERROR|FATAL):  ([0-9A-Z]{5}): / ? $1 : $rows;
}

# A new member of a group; it stays for a long time, unless the arguments say otherwise
sub join_group
{
	my ($where, $group, $arguments) = @_;

	$arguments .= ", session_timeout => '30 min'" if $arguments !~ /session_timeout/;
	my ($id, $generation) = split /\|/,
	  $where->safe_psql('postgres', "SELECT * FROM topics.join_group('$group', $arguments)");
	return { group => $group, id => $id, generation => $generation };
}

# A statement that polls for a member: what it gets, as topic:partition=offset
sub poll_sql
{
	my ($member, $limits) = @_;

	$limits = defined $limits ? ", $limits" : '';
	return
	  qq{SELECT string_agg(topic || ':' || partition || '=' || p.offset, ' ' ORDER BY topic, partition, p.offset) FROM topics.poll('$member->{id}'$limits) p};
}

# ... that commits an offset for a member, in the generation in which it has joined
sub commit_sql
{
	my ($member, $place, $offset, $generation) = @_;
	my ($topic, $partition) = split /:/, $place;

	$generation //= $member->{generation};
	return
	  "SELECT topics.commit_offset('$member->{group}', '$topic', $partition, $offset, NULL, '$member->{id}', $generation)";
}

# ... that calls a function with a member, and maybe with a partition
sub call_sql
{
	my ($function, $member, $place, @more) = @_;
	my ($topic, $partition) = split /:/, $place // '';

	return
		"SELECT topics.$function('$member->{id}'"
	  . (defined $topic ? ", '$topic', $partition" : '')
	  . join('', map { ", $_" } @more) . ')';
}

sub wait_sql { my ($member, $wait) = @_;  return "CALL topics.poll_wait('$member->{id}', '$wait')" }
sub poll     { my ($where, @poll) = @_;   return answer($where, poll_sql(@poll)) }
sub commit   { my ($where, @commit) = @_; return answer($where, commit_sql(@commit)) }

# The partitions that a member has
sub has
{
	my ($where, $member, $what) = @_;

	$what //= q{topic || ':' || partition};
	return answer($where,
		"SELECT string_agg($what, ' ' ORDER BY topic, partition) FROM topics.assignment('$member->{id}')"
	);
}

# A member has in time these partitions
sub await_has
{
	my ($where, $member, $places, $test_name) = @_;
	my $got;

	return ok(
		poll_until(
			sub {
				poll($where, $member, 'max_records => 0');
				return ($got = has($where, $member)) eq $places;
			}),
		$test_name) || diag("has $got");
}

# The generation in which a member would commit an offset of a partition
sub generation_of
{
	my ($where, $member, $place) = @_;
	my ($topic, $partition) = split /:/, $place;

	return answer($where,
		"SELECT generation_id FROM topics.assignment('$member->{id}') WHERE topic = '$topic' AND partition = $partition"
	);
}

# The members of a group, by their client_id
sub members
{
	my ($where, $group) = @_;

	return answer($where,
		"SELECT string_agg(client_id, ' ' ORDER BY client_id) FROM topics.group_member WHERE group_id = '$group'"
	);
}

# All that the views show of a group's members, but for what is of the moment
sub stored
{
	my ($where, $group) = @_;

	return $where->safe_psql(
		'postgres', qq{
		SELECT m.member_id, group_instance_id, client_id, host, m.role, assignor, generation_id, subscription, m.partitions, assignment,
			session_timeout, max_poll_interval, state
		FROM topics.group_member m JOIN topics.consumer_group USING (group_id) WHERE group_id = '$group' ORDER BY 1}
	);
}

# The committed offsets of a group
sub committed
{
	my ($where, $group) = @_;

	return $where->safe_psql('postgres',
		"SELECT string_agg(topic || ':' || partition || '=' || committed_offset, ' ' ORDER BY topic, partition) FROM topics.consumer_offset WHERE group_id = '$group'"
	);
}

# Topics with so many records in each partition
sub create_topics
{
	my ($where, $topics, $partitions, $records) = @_;

	$where->safe_psql(
		'postgres', qq{
		SELECT topics.create_topic(t, $partitions) FROM unnest('{$topics}'::text[]) t;
		SELECT count(topics.produce(t, 'v' || i, partition => i % $partitions))
		FROM unnest('{$topics}'::text[]) t, generate_series(0, $records * $partitions - 1) i});
	return;
}

1;
