/*-------------------------------------------------------------------------
 *
 * rebalance.c
 *		A group's members change: which partitions each is to have.
 *
 * A rebalance is a transaction: it locks what the group's members are, reads
 * their record (member_log.c), changes it, assigns partitions (assignor.c),
 * and writes the record anew, with the next generation.  Its commit gives
 * partitions their targets (member_table.c).  It waits for no member.  Each
 * takes the new generation by its next poll, so that nobody stops whose
 * partitions stay: all assignors are cooperative, in Kafka's words, and differ
 * in what they choose.
 *
 * Who begins one: topics.join_group(), leave_group() and remove_member(); and
 * the worker (settle.c).
 *
 * A group whose last member goes, and that has committed nothing, goes too.
 *
 * LEADER SETS.  Where a topic's partitions are led by several nodes, a member
 * joins at each of them.  What a group's members are in a leader set is a
 * record of that set, and stands for itself: it has a generation of its own,
 * and the set's partitions are assigned to its members, by the node that leads
 * it.  So all that is said of commits and owners holds in each set, under its
 * own append lock.
 *
 * See docs/decisions/0018-members.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "regex/regex.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "group/group.h"
#include "pg_topics.h"

#define LOST_GENERATIONS 100	/* more than a crash takes back */
#define LEFT_OUT_AT_MOST 65535
#define GENERATIONS_OF_TERM 65536	/* no term leaves out as many at once */
#define MOST_TERMS 32000		/* that have their own */

/* A topic that is assigned. */
typedef struct SubjectTopic
{
	Topic	   *topic;
	OffsetReset reset;			/* of the first member that wants it */
	int32	   *numbers;		/* its partitions that are of the leader set */
	int32		count;			/* of these */
} SubjectTopic;

/* What is assigned: the topics of a group, in the order of the assignor's. */
typedef struct Subject
{
	const char *group_id;
	int			set;
	int			ntopics;
	SubjectTopic *topics;
} Subject;

/* ----------------------------------------------------------------
 *		Reading
 * ----------------------------------------------------------------
 */

static void
copy_assigned(MemberRow *row)
{
	PlacedPartition *assigned = palloc(sizeof(PlacedPartition) * Max(row->nassigned, 1));

	memcpy(assigned, row->assigned, sizeof(PlacedPartition) * row->nassigned);
	row->assigned = assigned;
}

/*
 * Remove members that a record names and that shared memory had no room for:
 * they count as gone.
 */
static void
remove_unknown(GroupMembers *members, int set)
{
	int			left = 0;

	for (int i = 0; i < members->count; i++)
	{
		bool		is_known;

		topics_offset_table_lock(LW_SHARED);
		is_known = topics_member_table_find(members->rows[i].member_id, set) != NULL;
		topics_offset_table_unlock();
		if (is_known)
			members->rows[left++] = members->rows[i];
	}
	members->count = left;
}

/*
 * Read what is committed of a group's members in a leader set, also where
 * another node leads it; palloc'd, or NULL if there is no record.
 */
static GroupMembers *
read_record(const char *group_id, int set)
{
	GroupOffset entry;
	Jsonb	   *value;

	if (!topics_offset_table_peek(group_id, NO_TOPIC, make_members_partition(set), &entry) ||
		!is_entry_committed(&entry))
		return NULL;
	value = topics_offset_log_read_value(&entry);
	return value ? topics_member_log_parse(value) : NULL;
}

/*
 * Read who a group's members are in a leader set, for a transaction that has
 * locked that exclusively.  *local is the transaction's own entry of it.  The
 * result is in TopTransactionContext, for the caller to change.
 */
GroupMembers *
topics_rebalance_read(const char *group_id, int set, LocalOffset **local)
{
	const int32 partition = make_members_partition(set);
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	GroupMembers *members;

	*local = topics_consumer_offset_use(group_id, NO_TOPIC, partition, NULL, NULL);
	if ((*local)->change && (*local)->change->members)
	{
		members = palloc(sizeof(GroupMembers));
		*members = *(*local)->change->members;
		members->rows = palloc(sizeof(MemberRow) * (members->count + 1));
		memcpy(members->rows, (*local)->change->members->rows, sizeof(MemberRow) * members->count);
		/* what an outer subtransaction has changed may be returned to */
		for (int i = 0; i < members->count; i++)
			copy_assigned(&members->rows[i]);
	}
	else if (topics_consumer_offset_exists(*local))
	{
		members = read_record(group_id, set);
		if (members == NULL)
			elog(ERROR, "record of the members of consumer group \"%s\" is missing", group_id);
		remove_unknown(members, set);
	}
	else
		members = palloc0(sizeof(GroupMembers));
	if (members->rows == NULL)
		members->rows = palloc0(sizeof(MemberRow));
	MemoryContextSwitchTo(old);
	return members;
}

/*
 * Read by which assignor a group's members in a leader set are assigned
 * partitions, also where another node leads it.  Return false if it has none.
 */
bool
topics_rebalance_read_assignor(const char *group_id, int set, Assignor *assignor)
{
	const GroupMembers *members = read_record(group_id, set);

	if (members == NULL)
		return false;
	*assignor = members->assignor;
	return members->count > 0;
}

/* Return true if a group has members in a leader set, for this transaction. */
static bool
has_members_in(const char *group_id, int set)
{
	const LocalOffset *local = topics_consumer_offset_find_local(group_id, NO_TOPIC, make_members_partition(set));

	if (local && local->change)
		return !local->change->deleted && local->change->members->count > 0;
	return topics_member_table_has_members(group_id, set);
}

/*
 * Return true if a group has members, for this transaction: here, or as far as
 * is known elsewhere.
 */
bool
topics_rebalance_has_members(const char *group_id)
{
	for (int set = -1; (set = topics_leader_set_after(topics_member_table_sets(), set)) >= 0;)
		if (has_members_in(group_id, set))
			return true;
	return false;
}

/* ----------------------------------------------------------------
 *		Topics
 * ----------------------------------------------------------------
 */

/* Return true if a member's pattern matches all of a topic's name. */
static bool
matches_pattern(const char *pattern, const char *name)
{
	return DatumGetBool(DirectFunctionCall2Coll(textregexeq, C_COLLATION_OID, CStringGetTextDatum(name),
												CStringGetTextDatum(psprintf("^(?:%s)$", pattern))));
}

/* Return true if a member may get a topic that it has not named by its id. */
static bool
may_get(const MemberRow *row, const Topic *topic)
{
	return !topics_catalog_is_internal(NameStr(topic->name)) &&
		pg_class_aclcheck(topic->view_relid, row->role, ACL_SELECT) == ACLCHECK_OK;
}

/* Return true if a member has named a topic of an id. */
static bool
has_named(const MemberRow *row, int64 topic_id)
{
	for (int i = 0; i < row->ntopics; i++)
		if (row->topics[i].topic_id == topic_id)
			return true;
	return false;
}

/* Return true if a member is to get partitions of a topic. */
static bool
is_subscribed(const MemberRow *row, const Topic *topic)
{
	if (row->pattern)
		return may_get(row, topic) && matches_pattern(row->pattern, NameStr(topic->name));
	return has_named(row, topic->topic_id);
}

/*
 * Find the topic that has the name of one that a member has named, and that
 * was dropped; NULL if there is none that it may get.
 */
static const Topic *
find_remade(const MemberRow *row, const NamedTopic *named)
{
	const Topic *topic = named->name && topics_catalog_by_id(named->topic_id) == NULL ?
		topics_catalog_lookup(named->name, true) : NULL;

	return topic && may_get(row, topic) && !has_named(row, topic->topic_id) ? topic : NULL;
}

/* Get the leader sets in which a topic has partitions: a bit for each. */
static uint32
get_sets(const Topic *topic)
{
	uint32		result = 0;

	if (topic->leader_sets.count == 0)
		return 1U << METADATA_SET;
	for (int32 number = 0; number < Min(topic->partitions, topic->leader_sets.count); number++)
		result |= 1U << topics_leader_set_of(&topic->leader_sets, number);
	return result;
}

/*
 * Get the leader sets in which the topics that a member wants have partitions:
 * a bit for each.
 */
uint32
topics_rebalance_wanted_sets(const MemberRow *row)
{
	uint32		result = 0;
	ListCell   *lc;

	for (int i = 0; row->pattern == NULL && i < row->ntopics; i++)
	{
		const Topic *topic = topics_catalog_by_id(row->topics[i].topic_id);

		if (topic == NULL)
			topic = find_remade(row, &row->topics[i]);
		if (topic)
			result |= get_sets(topic);
	}
	if (row->pattern == NULL)
		return result;
	foreach(lc, topics_catalog_list())
	{
		const Topic *topic = topics_catalog_get(lfirst_oid(lc), true);

		CHECK_FOR_INTERRUPTS();
		if (topic && is_subscribed(row, topic))
			result |= get_sets(topic);
	}
	return result;
}

/*
 * Return true if a topic that a pattern has found, or that was made anew, is to
 * be left for later: where the metadata are led by another node, that one's
 * members make the group's subscription, and this one waits to hear of it.
 */
static bool
is_left_for_later(const char *group_id, const Topic *topic)
{
	GroupOffset entry;

	return topics_cluster_follows(METADATA_SET) &&
		!(topics_offset_table_peek(group_id, topic->topic_id, NO_PARTITION, &entry) &&
		  is_entry_committed(&entry));
}

/*
 * What a member has named and was dropped, and made anew, it wants as that is
 * now.  Return true if there is such a topic; *is_whole becomes false if one is
 * left for later.
 */
static bool
follow_names(const char *group_id, MemberRow *row, bool *is_whole)
{
	NamedTopic *topics = NULL;

	for (int i = 0; row->pattern == NULL && i < row->ntopics; i++)
	{
		const Topic *topic = find_remade(row, &row->topics[i]);

		if (topic == NULL)
			continue;
		if (is_left_for_later(group_id, topic))
		{
			*is_whole = false;
			continue;
		}
		/* what an outer subtransaction has changed may be returned to */
		if (topics == NULL)
		{
			topics = MemoryContextAlloc(TopTransactionContext, sizeof(NamedTopic) * row->ntopics);
			memcpy(topics, row->topics, sizeof(NamedTopic) * row->ntopics);
			row->topics = topics;
		}
		topics[i].topic_id = topic->topic_id;
	}
	if (topics)
		topics_member_log_sort_topics(row);
	return topics != NULL;
}

/* Note a topic, unless it is noted, or has nothing in the leader set. */
static void
add_topic(Subject *subject, Topic *topic, OffsetReset reset)
{
	SubjectTopic *added;

	for (int i = 0; i < subject->ntopics; i++)
		if (subject->topics[i].topic == topic)
			return;
	/* the first set's members make the subscriptions of all */
	if (subject->set != METADATA_SET && (get_sets(topic) & (1U << subject->set)) == 0)
		return;
	subject->topics = repalloc(subject->topics, sizeof(SubjectTopic) * (subject->ntopics + 1));
	added = &subject->topics[subject->ntopics++];
	added->topic = topic;
	added->reset = reset;
	added->numbers = palloc(sizeof(int32) * topic->partitions);
	added->count = 0;
	for (int32 number = 0; number < topic->partitions; number++)
		if (topics_leader_set_of(&topic->leader_sets, number) == subject->set)
			added->numbers[added->count++] = number;
}

/*
 * Find the topics that any member is to get partitions of.  Return false if
 * some are left for later.
 */
static bool
find_topics(Subject *subject, const GroupMembers *members)
{
	List	   *all = NIL;
	bool		listed = false;
	bool		is_whole = true;

	subject->ntopics = 0;
	subject->topics = palloc(sizeof(SubjectTopic));
	for (int i = 0; i < members->count; i++)
	{
		const MemberRow *row = &members->rows[i];
		ListCell   *lc;

		for (int j = 0; row->pattern == NULL && j < row->ntopics; j++)
		{
			Topic	   *topic = topics_catalog_by_id(row->topics[j].topic_id);

			if (topic)
				add_topic(subject, topic, row->reset);
		}
		if (row->pattern == NULL)
			continue;
		if (!listed)
			all = topics_catalog_list();
		listed = true;
		foreach(lc, all)
		{
			Topic	   *topic = topics_catalog_get(lfirst_oid(lc), true);

			CHECK_FOR_INTERRUPTS();
			if (topic == NULL || !is_subscribed(row, topic))
				continue;
			if ((get_sets(topic) & (1U << subject->set)) != 0 && is_left_for_later(subject->group_id, topic))
				is_whole = false;
			else
				add_topic(subject, topic, row->reset);
		}
	}
	return is_whole;
}

/* ----------------------------------------------------------------
 *		Assigning
 * ----------------------------------------------------------------
 */

static int
compare_numbers(const void *a, const void *b)
{
	const int32 na = *(const int32 *) a;
	const int32 nb = *(const int32 *) b;

	return na < nb ? -1 : na > nb;
}

/*
 * Note in what the assignor goes by which partitions of a topic a member has
 * so far.
 */
static void
set_owners(AssignorTopic *assigned, const SubjectTopic *subject, const MemberRow *row, int index)
{
	for (int i = 0; i < row->nassigned; i++)
	{
		const int32 *number;

		if (row->assigned[i].topic_id != subject->topic->topic_id)
			continue;
		number = bsearch(&row->assigned[i].partition, subject->numbers, subject->count, sizeof(int32), compare_numbers);
		if (number)
			assigned->owners[number - subject->numbers] = index;
	}
}

static int
compare_ids(const void *a, const void *b, void *members)
{
	const MemberRow *rows = ((const GroupMembers *) members)->rows;

	return strcmp(rows[*(const int *) a].member_id, rows[*(const int *) b].member_id);
}

/*
 * Name members for the assignor, which goes by the order of names where it has
 * a choice.  In other leader sets than the first they have other names, so
 * that the order begins with another one in each: else the same member would
 * be the first in all, and where a set has few partitions have all.
 */
static char **
name_members(const GroupMembers *members, int set)
{
	char	  **names = palloc(sizeof(char *) * Max(members->count, 1));
	int		   *order = palloc(sizeof(int) * Max(members->count, 1));

	for (int i = 0; i < members->count; i++)
		order[i] = i;
	qsort_arg(order, members->count, sizeof(int), compare_ids, unconstify(GroupMembers *, members));
	for (int i = 0; i < members->count; i++)
		names[order[i]] = set == METADATA_SET ? members->rows[order[i]].member_id :
			psprintf("%010d", (i + members->count - set % members->count) % members->count);
	return names;
}

/* Make what the assignor goes by: who has what so far. */
static AssignorGroup
make_assignor_group(const Subject *subject, const GroupMembers *members)
{
	AssignorGroup group = {subject->ntopics, NULL, members->count, NULL};
	AssignorMember *rows = palloc0(sizeof(AssignorMember) * Max(members->count, 1));
	char	  **names = name_members(members, subject->set);

	group.topics = palloc0(sizeof(AssignorTopic) * Max(subject->ntopics, 1));
	for (int t = 0; t < subject->ntopics; t++)
	{
		AssignorTopic *topic = &group.topics[t];

		topic->name = NameStr(subject->topics[t].topic->name);
		topic->partitions = subject->topics[t].count;
		topic->owners = palloc(sizeof(int) * Max(topic->partitions, 1));
		for (int i = 0; i < topic->partitions; i++)
			topic->owners[i] = ASSIGNOR_NOBODY;
	}
	for (int i = 0; i < members->count; i++)
	{
		const MemberRow *row = &members->rows[i];
		bool	   *subscribed = palloc0(sizeof(bool) * Max(subject->ntopics, 1));

		for (int t = 0; t < subject->ntopics; t++)
		{
			subscribed[t] = is_subscribed(row, subject->topics[t].topic);
			set_owners(&group.topics[t], &subject->topics[t], row, i);
		}
		rows[i] = (AssignorMember)
		{
			names[i], subject->set == METADATA_SET ? row->instance_id : NULL, subscribed
		};
	}
	group.members = rows;
	return group;
}

/*
 * Since which generation a partition is a member's: if it had it so far, by
 * its record or in fact, since then; else since this one.
 */
static int32
find_since(const MemberRow *row, const GroupOffset *entry, int64 topic_id, int32 partition, int32 generation)
{
	const PlacedPartition *placed = topics_member_log_find_placed(row, topic_id, partition);
	int32		since = placed ? placed->since : generation;

	if (row->shared == NULL || !row->shared->joined)
		return since;
	topics_offset_table_lock(LW_SHARED);
	if (entry->of.assigned.owner == row->shared)
		since = Min(since, entry->of.assigned.since);
	topics_offset_table_unlock();
	return since;
}

/*
 * Give members what the assignor says.  Return true if that is not what they
 * have.
 */
static bool
take_assignment(GroupMembers *members, const Subject *subject, const AssignorGroup *group)
{
	int		   *counts = palloc0(sizeof(int) * Max(members->count, 1));
	bool		changed = false;
	MemberRow  *before = palloc(sizeof(MemberRow) * Max(members->count, 1));

	memcpy(before, members->rows, sizeof(MemberRow) * members->count);
	for (int t = 0; t < subject->ntopics; t++)
		for (int i = 0; i < group->topics[t].partitions; i++)
			if (group->topics[t].owners[i] != ASSIGNOR_NOBODY)
				counts[group->topics[t].owners[i]]++;
	for (int i = 0; i < members->count; i++)
	{
		members->rows[i].assigned = MemoryContextAllocZero(TopTransactionContext,
														   sizeof(PlacedPartition) * Max(counts[i], 1));
		members->rows[i].nassigned = 0;
	}
	for (int t = 0; t < subject->ntopics; t++)
	{
		const int64 topic_id = subject->topics[t].topic->topic_id;

		for (int i = 0; i < group->topics[t].partitions; i++)
		{
			const int	owner = group->topics[t].owners[i];
			const int32 number = subject->topics[t].numbers[i];
			GroupOffset *entry;
			MemberRow  *row;

			if (owner == ASSIGNOR_NOBODY)
				continue;
			CHECK_FOR_INTERRUPTS();
			row = &members->rows[owner];
			entry = topics_consumer_offset_use(subject->group_id, topic_id, number, NULL, NULL)->shared;
			changed |= topics_member_log_find_placed(&before[owner], topic_id, number) == NULL;
			row->assigned[row->nassigned++] = (PlacedPartition)
			{
				topic_id, number,
					find_since(&before[owner], entry, topic_id, number, members->generation),
					entry
			};
		}
	}
	for (int i = 0; i < members->count; i++)
	{
		changed |= members->rows[i].nassigned != before[i].nassigned;
		topics_member_log_sort_placed(&members->rows[i]);
	}
	return changed;
}

/*
 * Pin what members had: an entry that nobody needs any more goes when it is
 * let go.  What is in a topic that was dropped has gone with it.
 */
static void
pin_former(const char *group_id, const GroupMembers *members)
{
	for (int i = 0; i < members->count; i++)
		for (int j = 0; j < members->rows[i].nassigned; j++)
			if (topics_catalog_by_id(members->rows[i].assigned[j].topic_id))
				(void) topics_consumer_offset_use(group_id, members->rows[i].assigned[j].topic_id,
												  members->rows[i].assigned[j].partition, NULL, NULL);
}

/* Find or make the places of members in shared memory. */
static void
find_shared(GroupMembers *members, GroupOffset *group)
{
	const int	set = get_members_set(group->key.partition);

	for (int i = 0; i < members->count; i++)
	{
		MemberRow  *row = &members->rows[i];

		if (row->shared)
			continue;
		topics_offset_table_lock(LW_SHARED);
		row->shared = topics_member_table_find(row->member_id, set);
		row->serial = row->shared ? row->shared->serial : 0;
		topics_offset_table_unlock();
		if (row->shared == NULL && !topics_member_table_reserve(row, group))
			topics_member_table_report_full();
	}
}

/* ----------------------------------------------------------------
 *		A rebalance
 * ----------------------------------------------------------------
 */

/* Return true if the group has committed an offset, for this transaction. */
static bool
has_offsets(const GroupOffset *entries, int count)
{
	for (int i = 0; i < count; i++)
	{
		const GroupOffsetKey *key = &entries[i].key;
		const LocalOffset *local = topics_consumer_offset_find_local(key->group_id, key->topic_id, key->partition);

		if (key->partition >= 0 &&
			(local ? topics_consumer_offset_get_position(local) != NO_OFFSET : is_entry_committed(&entries[i])))
			return true;
	}
	return false;
}

/*
 * Return true if others may use a group than the members that are "leaving":
 * other nodes, of which not all is known here, or members in other leader
 * sets.
 */
static bool
is_used_elsewhere(const GroupOffset *entries, int count, int32 leaving)
{
	if ((topics_mark_slot_sets() & ~(1U << METADATA_SET)) != 0)
		return true;
	for (int i = 0; i < count; i++)
	{
		const GroupOffsetKey *key = &entries[i].key;

		if (is_members_partition(key->partition) && key->partition != leaving &&
			has_members_in(key->group_id, get_members_set(key->partition)))
			return true;
	}
	return false;
}

/*
 * The last member has gone: if the group has committed no offset, and nobody
 * else uses it, delete it.  Else return false: its generation is kept.
 */
static bool
give_back(const char *group_id, const GroupOffset *leaving)
{
	int			count;
	GroupOffset *entries;
	bool		is_kept;

	if (!topics_consumer_offset_try_lock_group(group_id, true))
		return false;
	entries = topics_offset_table_list(group_id, NO_TOPIC, &count);
	is_kept = has_offsets(entries, count) || is_used_elsewhere(entries, count, leaving->key.partition);
	for (int i = 0; i < count && !is_kept; i++)
	{
		const GroupOffsetKey *key = &entries[i].key;

		topics_consumer_offset_delete(topics_consumer_offset_use(group_id, key->topic_id, key->partition, NULL, NULL), NULL);
	}
	pfree(entries);
	return !is_kept;
}

/*
 * Assign partitions to members, in their generation.  Return true if that
 * changes anything, or what they want.  *is_whole is false if some topics are
 * left for later.
 */
static bool
assign_partitions(LocalOffset *local, GroupMembers *members, bool *is_whole)
{
	const GroupOffsetKey *key = &local->shared->key;
	Subject		subject = {.group_id = key->group_id,.set = get_members_set(key->partition)};
	AssignorGroup group;
	bool		changed = false;
	bool		has_followed = true;

	for (int i = 0; i < members->count; i++)
		changed |= follow_names(key->group_id, &members->rows[i], &has_followed);
	*is_whole = find_topics(&subject, members) && has_followed;
	group = make_assignor_group(&subject, members);
	topics_assignor_assign(members->assignor, &group);
	for (int t = 0; t < subject.ntopics; t++)
		(void) topics_place_subscribe(key->group_id, subject.topics[t].topic, subject.topics[t].reset);
	find_shared(members, local->shared);
	return take_assignment(members, &subject, &group) || changed;
}

/*
 * Get the lowest generation that members have in the term in which this node
 * leads a leader set.  A node that led before has given none that is as high,
 * unless it has rebalanced very often.
 */
static int32
first_generation_of_term(int set)
{
	ClusterRow	row;

	if (!topics_cluster_read_row_of(set, &row))
		return 0;
	return Min(row.term, MOST_TERMS) * GENERATIONS_OF_TERM;
}

/*
 * Get the next generation of a group.  Behind those that a crash or a failover
 * may have taken back it leaves some out: all of the terms before, and of this
 * term as many as chance has it, so that two that go on from the same one
 * differ.  What was polled in one that is lost must not count for one of now,
 * or of later.
 *
 * So it does when the first members come to another leader set than the first.
 * A member that is alive in other sets may have been there before, if the
 * group was deleted meanwhile.
 */
static int32
next_generation(const LocalOffset *local, int32 generation)
{
	bool		leaves_out;

	topics_offset_table_lock(LW_SHARED);
	leaves_out = local->shared->of.head.is_loaded;
	topics_offset_table_unlock();
	leaves_out |= generation == 0 && local->set != METADATA_SET;
	if (leaves_out)
		generation = topics_max(generation, first_generation_of_term(local->set));
	if (generation >= PG_INT32_MAX - LEFT_OUT_AT_MOST)
		return 1;
	return generation + (leaves_out ? pg_prng_uint64_range(&pg_global_prng_state, LOST_GENERATIONS, LEFT_OUT_AT_MOST) : 1);
}

/*
 * The group's members become these when the transaction commits, with the next
 * generation, and the partitions that are theirs then.
 */
void
topics_rebalance_run(const char *group_id, LocalOffset *local, GroupMembers *members)
{
	bool		is_whole;

	pin_former(group_id, members);
	if (members->count == 0 && give_back(group_id, local->shared))
		return;
	members->generation = next_generation(local, members->generation);
	(void) assign_partitions(local, members, &is_whole);
	topics_consumer_offset_change_members(local, members);
	/* the worker looks until it has all */
	if (!is_whole)
		topics_worker_registry_want_members(topics_clock_now(), true);
}

/*
 * The group's members stay, and get what has changed of topics when the
 * transaction commits, in the next generation; if nothing has, nothing changes.
 * Return false if some topics are left for later.
 */
bool
topics_rebalance_look_again(const char *group_id, LocalOffset *local, GroupMembers *members)
{
	bool		is_whole;

	members->generation = next_generation(local, members->generation);
	pin_former(group_id, members);
	if (assign_partitions(local, members, &is_whole))
		topics_consumer_offset_change_members(local, members);
	return is_whole;
}

/*
 * The group's members become these when the transaction commits, each with the
 * partitions that its row says, in the same generation: a static member has
 * another id.
 */
void
topics_rebalance_replace(const char *group_id, LocalOffset *local, GroupMembers *members)
{
	find_shared(members, local->shared);
	for (int i = 0; i < members->count; i++)
	{
		MemberRow  *row = &members->rows[i];

		for (int j = 0; j < row->nassigned; j++)
			row->assigned[j].entry = topics_catalog_by_id(row->assigned[j].topic_id) == NULL ? NULL :
				topics_consumer_offset_use(group_id, row->assigned[j].topic_id, row->assigned[j].partition, NULL, NULL)->shared;
	}
	topics_consumer_offset_change_members(local, members);
}
