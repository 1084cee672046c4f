/*-------------------------------------------------------------------------
 *
 * rebalance.c
 *		A group's members change: which partitions each is to have, and who is
 *		taken for dead.
 *
 * A rebalance is a transaction: it locks what the group's members are, reads
 * their record (member_log.c), changes it, assigns partitions (assignor.c), and writes
 * the record anew, with the next generation.  Its commit gives partitions their
 * targets (member_table.c).  It waits for no member.  Each takes the new generation
 * by its next poll, so that nobody stops whose partitions stay: all assignors are
 * cooperative, in Kafka's words, and differ in what they choose.
 *
 * Who begins one: topics.join_group(), leave_group() and remove_member(); and the
 * worker (topics_rebalance_settle), which removes members that have not called, or not
 * polled, for longer than they may, and looks again when topics came, went, or
 * have more partitions.
 *
 * A group whose last member goes, and that has committed nothing, goes too.
 *
 * See docs/decisions/0018-members.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "regex/regex.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "group/group.h"
#include "pg_topics.h"

#define LOST_GENERATIONS 100	/* more than a crash takes back */
#define LEFT_OUT_AT_MOST 65535

#define BUSY_MS 100				/* what is busy, or fails, is tried again:
								 * first after so long, and no longer than
								 * that */
#define FAILED_MS 1000
#define MOST_MS 60000

/* What is assigned: the topics of a group, in the order of the assignor's. */
typedef struct Subject
{
	int			ntopics;
	Topic	  **topics;
	OffsetReset *resets;		/* of the first member that wants it */
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

/* Remove members that a record names and that shared memory had no room for: they count as gone. */
static void
remove_unknown(GroupMembers *members)
{
	int			left = 0;

	for (int i = 0; i < members->count; i++)
	{
		bool		is_known;

		topics_offset_table_lock(LW_SHARED);
		is_known = topics_member_table_find(members->rows[i].member_id) != NULL;
		topics_offset_table_unlock();
		if (is_known)
			members->rows[left++] = members->rows[i];
	}
	members->count = left;
}

/*
 * Read who a group's members are, for a transaction that has locked that exclusively.  *local is the
 * transaction's own entry of it.  The result is in TopTransactionContext, for the caller to change.
 */
GroupMembers *
topics_rebalance_read(const char *group_id, LocalOffset **local)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	GroupMembers *members;
	GroupOffset entry;

	*local = topics_consumer_offset_use(group_id, NO_TOPIC, MEMBERS_PARTITION, NULL, NULL);
	members = palloc0(sizeof(GroupMembers));
	if ((*local)->change && (*local)->change->members)
	{
		*members = *(*local)->change->members;
		members->rows = palloc(sizeof(MemberRow) * (members->count + 1));
		memcpy(members->rows, (*local)->change->members->rows, sizeof(MemberRow) * members->count);
		/* what an outer subtransaction has changed may be returned to */
		for (int i = 0; i < members->count; i++)
			copy_assigned(&members->rows[i]);
	}
	else if (topics_consumer_offset_exists(*local) &&
			 topics_offset_table_peek(group_id, NO_TOPIC, MEMBERS_PARTITION, &entry))
	{
		Jsonb	   *value = topics_offset_log_read_value(&entry);

		if (value == NULL)
			elog(ERROR, "record of the members of consumer group \"%s\" is missing", group_id);
		members = topics_member_log_parse(value);
		remove_unknown(members);
	}
	if (members->rows == NULL)
		members->rows = palloc0(sizeof(MemberRow));
	MemoryContextSwitchTo(old);
	return members;
}

/* Return true if a group has members, for this transaction. */
bool
topics_rebalance_has_members(const char *group_id)
{
	const LocalOffset *local = topics_consumer_offset_find_local(group_id, NO_TOPIC, MEMBERS_PARTITION);

	if (local && local->change)
		return !local->change->deleted && local->change->members->count > 0;
	return topics_member_table_has_members(group_id);
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

/* Return true if a member is to get partitions of a topic. */
static bool
is_subscribed(const MemberRow *row, const Topic *topic)
{
	if (row->pattern)
		return !topics_catalog_is_internal(NameStr(topic->name)) && topic->leader_sets.count == 0 &&
			pg_class_aclcheck(topic->view_relid, row->role, ACL_SELECT) == ACLCHECK_OK &&
			matches_pattern(row->pattern, NameStr(topic->name));
	for (int i = 0; i < row->ntopics; i++)
		if (row->topic_ids[i] == topic->topic_id)
			return true;
	return false;
}

/* Note a topic, unless it is noted. */
static void
add_topic(Subject *subject, Topic *topic, OffsetReset reset)
{
	for (int i = 0; i < subject->ntopics; i++)
		if (subject->topics[i] == topic)
			return;
	subject->topics = repalloc(subject->topics, sizeof(Topic *) * (subject->ntopics + 1));
	subject->resets = repalloc(subject->resets, sizeof(OffsetReset) * (subject->ntopics + 1));
	subject->topics[subject->ntopics] = topic;
	subject->resets[subject->ntopics++] = reset;
}

/* Find the topics that any member is to get partitions of. */
static void
find_topics(Subject *subject, const GroupMembers *members)
{
	List	   *all = NIL;
	bool		listed = false;

	subject->ntopics = 0;
	subject->topics = palloc(sizeof(Topic *));
	subject->resets = palloc(sizeof(OffsetReset));
	for (int i = 0; i < members->count; i++)
	{
		const MemberRow *row = &members->rows[i];
		ListCell   *lc;

		for (int j = 0; row->pattern == NULL && j < row->ntopics; j++)
		{
			Topic	   *topic = topics_catalog_by_id(row->topic_ids[j]);

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
			if (topic && is_subscribed(row, topic))
				add_topic(subject, topic, row->reset);
		}
	}
}

/* ----------------------------------------------------------------
 *		Assigning
 * ----------------------------------------------------------------
 */

/* Make what the assignor goes by: who has what so far. */
static AssignorGroup
make_assignor_group(const Subject *subject, const GroupMembers *members)
{
	AssignorGroup group = {subject->ntopics, NULL, members->count, NULL};
	AssignorMember *rows = palloc0(sizeof(AssignorMember) * Max(members->count, 1));

	group.topics = palloc0(sizeof(AssignorTopic) * Max(subject->ntopics, 1));
	for (int t = 0; t < subject->ntopics; t++)
	{
		const Topic *topic = subject->topics[t];

		group.topics[t].name = NameStr(topic->name);
		group.topics[t].partitions = topic->partitions;
		group.topics[t].owners = palloc(sizeof(int) * topic->partitions);
		/* the topic itself follows the catalogue */
		for (int32 number = 0; number < group.topics[t].partitions; number++)
			group.topics[t].owners[number] = ASSIGNOR_NOBODY;
	}
	for (int i = 0; i < members->count; i++)
	{
		const MemberRow *row = &members->rows[i];
		bool	   *subscribed = palloc0(sizeof(bool) * Max(subject->ntopics, 1));

		for (int t = 0; t < subject->ntopics; t++)
		{
			const Topic *topic = subject->topics[t];

			subscribed[t] = is_subscribed(row, topic);
			for (int j = 0; j < row->nassigned; j++)
				if (row->assigned[j].topic_id == topic->topic_id && row->assigned[j].partition < group.topics[t].partitions)
					group.topics[t].owners[row->assigned[j].partition] = i;
		}
		rows[i] = (AssignorMember)
		{
			row->member_id, row->instance_id, subscribed
		};
	}
	group.members = rows;
	return group;
}

/*
 * Since which generation a partition is a member's: if it had it so far, by its record or in fact,
 * since then; else since this one.
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

/* Give members what the assignor says.  Return true if that is not what they have. */
static bool
take_assignment(const char *group_id, GroupMembers *members, const Subject *subject, const AssignorGroup *group)
{
	int		   *counts = palloc0(sizeof(int) * Max(members->count, 1));
	bool		changed = false;
	MemberRow  *before = palloc(sizeof(MemberRow) * Max(members->count, 1));

	memcpy(before, members->rows, sizeof(MemberRow) * members->count);
	for (int t = 0; t < subject->ntopics; t++)
		for (int32 number = 0; number < group->topics[t].partitions; number++)
			if (group->topics[t].owners[number] != ASSIGNOR_NOBODY)
				counts[group->topics[t].owners[number]]++;
	for (int i = 0; i < members->count; i++)
	{
		members->rows[i].assigned = MemoryContextAllocZero(TopTransactionContext,
														   sizeof(PlacedPartition) * Max(counts[i], 1));
		members->rows[i].nassigned = 0;
	}
	for (int t = 0; t < subject->ntopics; t++)
	{
		const Topic *topic = subject->topics[t];

		for (int32 number = 0; number < group->topics[t].partitions; number++)
		{
			const int	owner = group->topics[t].owners[number];
			GroupOffset *entry;
			MemberRow  *row;

			if (owner == ASSIGNOR_NOBODY)
				continue;
			CHECK_FOR_INTERRUPTS();
			row = &members->rows[owner];
			entry = topics_consumer_offset_use(group_id, topic->topic_id, number, NULL, NULL)->shared;
			changed |= topics_member_log_find_placed(&before[owner], topic->topic_id, number) == NULL;
			row->assigned[row->nassigned++] = (PlacedPartition)
			{
				topic->topic_id, number,
					find_since(&before[owner], entry, topic->topic_id, number, members->generation),
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
 * Pin what members had: an entry that nobody needs any more goes when it is let go.  What is in
 * a topic that was dropped has gone with it.
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
	for (int i = 0; i < members->count; i++)
	{
		MemberRow  *row = &members->rows[i];

		if (row->shared)
			continue;
		topics_offset_table_lock(LW_SHARED);
		row->shared = topics_member_table_find(row->member_id);
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
 * The last member has gone: if the group has committed no offset, and nobody else uses it, delete it.
 * Else return false: its generation is kept.
 */
static bool
give_back(const char *group_id)
{
	int			count;
	GroupOffset *entries;
	bool		is_kept;

	if (!topics_consumer_offset_try_lock_group(group_id, true))
		return false;
	entries = topics_offset_table_list(group_id, NO_TOPIC, &count);
	is_kept = has_offsets(entries, count);
	for (int i = 0; i < count && !is_kept; i++)
	{
		const GroupOffsetKey *key = &entries[i].key;

		topics_consumer_offset_delete(topics_consumer_offset_use(group_id, key->topic_id, key->partition, NULL, NULL), NULL);
	}
	pfree(entries);
	return !is_kept;
}

/* Assign partitions to members, in their generation.  Return true if that changes anything. */
static bool
assign_partitions(const char *group_id, LocalOffset *local, GroupMembers *members)
{
	Subject		subject;
	AssignorGroup group;

	find_topics(&subject, members);
	group = make_assignor_group(&subject, members);
	topics_assignor_assign(members->assignor, &group);
	for (int t = 0; t < subject.ntopics; t++)
		(void) topics_place_subscribe(group_id, subject.topics[t], subject.resets[t]);
	find_shared(members, local->shared);
	return take_assignment(group_id, members, &subject, &group);
}

/*
 * Get the next generation of a group.  Behind those that a crash or a failover may have taken back it
 * leaves some out, as many as chance has it, so that two that go on from the same one differ: what was
 * polled in one that is lost must not count for one of now.
 */
static int32
next_generation(const LocalOffset *local, int32 generation)
{
	bool		is_loaded;

	topics_offset_table_lock(LW_SHARED);
	is_loaded = local->shared->of.head.is_loaded;
	topics_offset_table_unlock();
	if (generation >= PG_INT32_MAX - LEFT_OUT_AT_MOST)
		return 1;
	return generation + (is_loaded ? pg_prng_uint64_range(&pg_global_prng_state, LOST_GENERATIONS, LEFT_OUT_AT_MOST) : 1);
}

/*
 * The group's members become these when the transaction commits, with the next generation, and the
 * partitions that are theirs then.
 */
void
topics_rebalance_run(const char *group_id, LocalOffset *local, GroupMembers *members)
{
	pin_former(group_id, members);
	if (members->count == 0 && give_back(group_id))
		return;
	members->generation = next_generation(local, members->generation);
	(void) assign_partitions(group_id, local, members);
	topics_consumer_offset_change_members(local, members);
}

/*
 * The group's members become these when the transaction commits, each with the partitions that its
 * row says, in the same generation: a static member has another id.
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

/* ----------------------------------------------------------------
 *		The worker's part
 * ----------------------------------------------------------------
 */

/* Remove those members that have not called for too long; return their number. */
static int
remove_overdue(GroupMembers *members)
{
	MonotonicTime now = topics_clock_now();
	int			left = 0;
	int			removed = 0;

	for (int i = 0; i < members->count; i++)
	{
		const Member *member;
		bool		overdue;

		topics_offset_table_lock(LW_SHARED);
		member = topics_member_table_find(members->rows[i].member_id);
		overdue = member && topics_member_table_is_overdue(member, now);
		topics_offset_table_unlock();
		if (overdue)
			removed++;
		else
			members->rows[left++] = members->rows[i];
	}
	members->count = left;
	return removed;
}

/* A group that is to be looked at again. */
typedef struct RetryGroup
{
	char		group_id[MAX_GROUP_ID + 1];
	long		delay_ms;
	MonotonicTime at;
} RetryGroup;

static List *retries = NIL;		/* of RetryGroup, in TopMemoryContext */

/* A group that is looked at. */
typedef struct SettledGroup
{
	const char *group_id;
	bool		is_busy;		/* another transaction changes it right now */
} SettledGroup;

static RetryGroup *
find_retry(const char *group_id)
{
	ListCell   *lc;

	foreach(lc, retries)
		if (strcmp(((RetryGroup *) lfirst(lc))->group_id, group_id) == 0)
		return lfirst(lc);
	return NULL;
}

/* A group was looked at: forget it, or note when to do so again. */
static void
note_retry(const char *group_id, long delay_ms)
{
	RetryGroup *retry = find_retry(group_id);
	MemoryContext old;

	if (delay_ms == 0)
	{
		if (retry)
		{
			retries = list_delete_ptr(retries, retry);
			pfree(retry);
		}
		return;
	}
	if (retry == NULL)
	{
		old = MemoryContextSwitchTo(TopMemoryContext);
		retry = palloc0(sizeof(RetryGroup));
		strlcpy(retry->group_id, group_id, sizeof(retry->group_id));
		retries = lappend(retries, retry);
		MemoryContextSwitchTo(old);
	}
	retry->delay_ms = Min(Max(delay_ms, retry->delay_ms * 2), MOST_MS);
	retry->at = topics_clock_in(retry->delay_ms);
}

/*
 * Look: remove members of a group that are overdue, and assign topics that have changed; in a
 * subtransaction.
 */
static void
settle_group(void *arg)
{
	SettledGroup *group = arg;
	LocalOffset *local;
	GroupMembers *members;
	int			before;
	int			removed;

	if (!topics_consumer_offset_try_lock_group(group->group_id, false) ||
		!topics_consumer_offset_lock_members(group->group_id, true, false))
	{
		group->is_busy = true;
		return;
	}
	if (!topics_member_table_has_members(group->group_id))
		return;
	members = topics_rebalance_read(group->group_id, &local);
	before = members->count;
	removed = remove_overdue(members);
	if (removed > 0)
	{
		ereport(LOG,
				(errmsg("%d of %d members of consumer group \"%s\" have gone: they have not called in time",
						removed, before, group->group_id)));
		topics_rebalance_run(group->group_id, local, members);
		return;
	}
	members->generation = next_generation(local, members->generation);
	pin_former(group->group_id, members);
	if (assign_partitions(group->group_id, local, members))
		topics_consumer_offset_change_members(local, members);
}

/*
 * See to a group, in a transaction of its own.  One that fails does not keep others from being
 * seen to.
 */
static void
see_to_group(const char *group_id, NextTransaction next_transaction)
{
	SettledGroup group = {group_id, false};
	ErrorData  *error;

	PushActiveSnapshot(GetTransactionSnapshot());
	topics_offset_log_prepare(false);
	topics_consumer_offset_note_generations();
	error = topics_subtransaction_try(settle_group, &group);
	if (error && ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION)
		ReThrowError(error);
	if (error)
		ereport(LOG,
				(errmsg("could not assign partitions to members of consumer group \"%s\": %s",
						group_id, error->message),
				 error->detail ? errdetail_internal("%s", error->detail) : 0));
	PopActiveSnapshot();
	note_retry(group_id, error ? FAILED_MS : group.is_busy ? BUSY_MS : 0);
	next_transaction();
}

/* List the groups to be seen to now, palloc'd; *due is when that is to be done again. */
static List *
list_groups(bool all, MonotonicTime *due)
{
	List	   *found = topics_member_table_list_groups(all, due);
	List	   *result = NIL;
	MonotonicTime now = topics_clock_now();
	ListCell   *lc;

	foreach(lc, found)
	{
		const RetryGroup *retry = find_retry(lfirst(lc));

		if (retry == NULL || retry->at <= now)
			result = lappend(result, lfirst(lc));
	}
	/* those that are looked at for what has changed before */
	foreach(lc, retries)
	{
		RetryGroup *retry = lfirst(lc);
		ListCell   *other;
		bool		listed = false;

		foreach(other, result)
			listed |= strcmp(lfirst(other), retry->group_id) == 0;
		if (retry->at <= now && !listed)
			result = lappend(result, pstrdup(retry->group_id));
	}
	return result;
}

/*
 * Remove members of this database that have not called in time; with "topics_changed", look at all
 * groups.  The caller is in a transaction, and in another one at the end; "parent" outlives them.
 */
void
topics_rebalance_settle(MemoryContext parent, bool topics_changed, NextTransaction next_transaction)
{
	MemoryContext cxt = AllocSetContextCreate(parent, "pg_topics groups", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old;
	MonotonicTime due;
	List	   *groups;
	ListCell   *lc;

	/* who leads sees to it */
	if (topics_cluster_follows(METADATA_SET))
		return;
	old = MemoryContextSwitchTo(cxt);
	groups = list_groups(topics_changed, &due);
	MemoryContextSwitchTo(old);
	foreach(lc, groups)
		see_to_group(lfirst(lc), next_transaction);
	MemoryContextDelete(cxt);
	if (due == NEVER && retries == NIL)
		return;
	due = topics_min(due, topics_clock_in(GROUPS_LOOK_MS));
	foreach(lc, retries)
		due = topics_min(due, ((RetryGroup *) lfirst(lc))->at);
	topics_worker_registry_want_members(due, false);
}
