/*-------------------------------------------------------------------------
 *
 * settle.c
 *		The worker sees to groups that have members: who is taken for dead, and
 *		what is assigned since topics have changed.
 *
 * The worker removes members that have not called, or not polled, for longer
 * than they may, and has partitions assigned again when topics came, went, or
 * have more of them (rebalance.c).  It looks when the first member can be
 * overdue, when topics have changed, and at all groups every GROUPS_LOOK_MS;
 * so does topics.maintain().
 *
 * Each group is seen to in a transaction of its own.  One that fails keeps no
 * other from being seen to, nor does one that others have locked, which is not
 * waited for: who joins may do so in a transaction that stays open.  Either is
 * tried again, later each time, and topics.worker tells who has it locked.
 *
 * TAKE-OVER.  A node that comes to lead a leader set in which a group has no
 * member left gives its partitions to the members that the group has here in
 * other sets (take_over).
 *
 * See docs/decisions/0018-members.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "group/group.h"

#define BUSY_MS 100				/* what is busy, or fails, is tried again:
								 * first after so long, and no longer than
								 * that */
#define FAILED_MS 1000
#define MOST_MS 60000

/* A group that is to be looked at again. */
typedef struct RetryGroup
{
	MemberGroup group;
	bool		is_partial;		/* it was seen to, but for topics that are
								 * left for later */
	long		delay_ms;
	MonotonicTime at;
} RetryGroup;

/* A group that is looked at. */
typedef struct SettledGroup
{
	const MemberGroup *group;
	bool		is_busy;		/* another transaction changes it right now */
	bool		is_partial;		/* some topics are left for later */
} SettledGroup;

static List *retries = NIL;		/* of RetryGroup, in TopMemoryContext */

/* ----------------------------------------------------------------
 *		What becomes of a group's members
 * ----------------------------------------------------------------
 */

/*
 * Remove those members of a leader set that have not called for too long;
 * return their number.
 */
static int
remove_overdue(GroupMembers *members, int set)
{
	MonotonicTime now = topics_clock_now();
	int			left = 0;
	int			removed = 0;

	for (int i = 0; i < members->count; i++)
	{
		const Member *member;
		bool		overdue;

		topics_offset_table_lock(LW_SHARED);
		member = topics_member_table_find(members->rows[i].member_id, set);
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

/*
 * A member of one leader set becomes one of another, unless it is, or wants
 * nothing there.
 */
static void
add_from_other_set(GroupMembers *members, const MemberRow *row, int set)
{
	MemberRow  *added = &members->rows[members->count];

	for (int i = 0; i < members->count; i++)
		if (strcmp(members->rows[i].member_id, row->member_id) == 0)
			return;
	if ((topics_rebalance_wanted_sets(row) & (1U << set)) == 0)
		return;
	*added = *row;
	added->assigned = NULL;
	added->nassigned = 0;
	added->shared = NULL;
	added->serial = 0;
	members->count++;
}

/*
 * A group has no member in a leader set that this node leads: those that it
 * has here in others, and that call, are its members there from now on.  They
 * were of another node that led the set, and have not found this one.  Return
 * false if there is none.
 */
static bool
take_over(const MemberGroup *group, GroupMembers *members)
{
	for (int set = -1; (set = topics_leader_set_after(topics_member_table_sets(), set)) >= 0;)
	{
		LocalOffset *local;
		GroupMembers *others;
		MemberRow  *rows;

		if (set == group->set || !topics_member_log_may_call(set) ||
			!topics_member_table_has_members(group->group_id, set))
			continue;
		others = topics_rebalance_read(group->group_id, set, &local);
		(void) remove_overdue(others, set);
		if (members->count == 0)
			members->assignor = others->assignor;
		rows = MemoryContextAllocZero(TopTransactionContext,
									  sizeof(MemberRow) * (members->count + others->count + 1));
		memcpy(rows, members->rows, sizeof(MemberRow) * members->count);
		members->rows = rows;
		for (int i = 0; i < others->count; i++)
			add_from_other_set(members, &others->rows[i], group->set);
	}
	return members->count > 0;
}

static bool
is_same_group(const MemberGroup *a, const MemberGroup *b)
{
	return a->set == b->set && strcmp(a->group_id, b->group_id) == 0;
}

static RetryGroup *
find_retry(const MemberGroup *group)
{
	ListCell   *lc;

	foreach(lc, retries)
		if (is_same_group(&((RetryGroup *) lfirst(lc))->group, group))
		return lfirst(lc);
	return NULL;
}

/* A group was looked at: forget it, or note when to do so again. */
static void
note_retry(const MemberGroup *group, long delay_ms, long most_ms, bool is_partial)
{
	RetryGroup *retry = find_retry(group);
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
		retry->group = *group;
		retries = lappend(retries, retry);
		MemoryContextSwitchTo(old);
	}
	retry->is_partial = is_partial;
	retry->delay_ms = Min(Max(delay_ms, retry->delay_ms * 2), most_ms);
	retry->at = topics_clock_in(retry->delay_ms);
}

/*
 * Look: remove members of a group that are overdue, and assign topics that
 * have changed; in a subtransaction.
 */
static void
settle_group(void *arg)
{
	SettledGroup *settled = arg;
	const MemberGroup *group = settled->group;
	LocalOffset *local;
	GroupMembers *members;
	int			before;
	int			removed;

	if (!topics_consumer_offset_try_lock_group(group->group_id, false) ||
		!topics_consumer_offset_lock_members(group->group_id, true, false))
	{
		settled->is_busy = true;
		return;
	}
	if (!topics_member_log_may_call(group->set))
		return;
	members = topics_rebalance_read(group->group_id, group->set, &local);
	before = members->count;
	if (before == 0)
	{
		if (take_over(group, members))
			topics_rebalance_run(group->group_id, local, members);
		return;
	}
	removed = remove_overdue(members, group->set);
	if (removed > 0)
	{
		ereport(LOG,
				(errmsg("%d of %d members of consumer group \"%s\" have gone: they have not called in time",
						removed, before, group->group_id)));
		topics_rebalance_run(group->group_id, local, members);
		return;
	}
	settled->is_partial = !topics_rebalance_look_again(group->group_id, local, members);
}

/*
 * See to a group, in a transaction of its own.  One that fails does not keep
 * others from being seen to.
 */
static void
see_to_group(const MemberGroup *group, NextTransaction next_transaction)
{
	SettledGroup settled = {group, false, false};
	ErrorData  *error;

	PushActiveSnapshot(GetTransactionSnapshot());
	topics_consumer_offset_note_generations();
	topics_offset_log_prepare(topics_cluster_leads_any());
	error = topics_subtransaction_try(settle_group, &settled);
	if (error && ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION)
		ReThrowError(error);
	if (error)
		ereport(LOG,
				(errmsg("could not assign partitions to members of consumer group \"%s\": %s",
						group->group_id, error->message),
				 error->detail ? errdetail_internal("%s", error->detail) : 0));
	PopActiveSnapshot();
	topics_member_table_note_held_up(group->group_id, error == NULL && settled.is_busy);
	/* to try a lock again costs little */
	note_retry(group, error ? FAILED_MS : settled.is_busy || settled.is_partial ? BUSY_MS : 0,
			   settled.is_busy ? FAILED_MS : MOST_MS, error == NULL && settled.is_partial);
	next_transaction();
}

/*
 * Return true if a group is not to be looked at yet: that has failed, or was
 * busy.
 */
static bool
is_held_back(const MemberGroup *group)
{
	const RetryGroup *retry = find_retry(group);

	return retry && !retry->is_partial && retry->at > topics_clock_now();
}

/* Add a group to a list, unless it is there, or is not to be looked at yet. */
static List *
add_group(List *groups, const MemberGroup *group)
{
	MemberGroup *added;
	ListCell   *lc;

	if (is_held_back(group))
		return groups;
	foreach(lc, groups)
		if (is_same_group(lfirst(lc), group))
		return groups;
	added = palloc(sizeof(MemberGroup));
	*added = *group;
	return lappend(groups, added);
}

/*
 * List the groups to be seen to now, palloc'd; *due is when that is to be done
 * again.  If all are, each is in all leader sets that this node leads: it may
 * have lost its members there.
 */
static List *
list_groups(bool all, MonotonicTime *due)
{
	const int	highest = all ? topics_catalog_highest_set() : METADATA_SET;
	int			count;
	MemberGroup *found = topics_member_table_list_groups(all, &count, due);
	List	   *result = NIL;
	ListCell   *lc;

	/* they come one by one, by name */
	for (int i = 0; i < count; i++)
		if (!is_held_back(&found[i]))
			result = lappend(result, &found[i]);
	for (int i = 0; i < count && highest > METADATA_SET; i++)
		for (int set = METADATA_SET; set <= highest; set++)
		{
			MemberGroup group = found[i];

			group.set = set;
			if (topics_member_log_may_call(set))
				result = add_group(result, &group);
		}
	/* those that are looked at for what has changed before */
	foreach(lc, retries)
	{
		const RetryGroup *retry = lfirst(lc);

		if (retry->at <= topics_clock_now())
			result = add_group(result, &retry->group);
	}
	return result;
}

/*
 * Remove members of this database that have not called in time; with
 * "topics_changed", look at all groups.  The caller is in a transaction, and
 * in another one at the end; "parent" outlives them.
 */
void
topics_settle_groups(MemoryContext parent, bool topics_changed, NextTransaction next_transaction)
{
	MemoryContext cxt = AllocSetContextCreate(parent, "pg_topics groups", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old;
	MonotonicTime due;
	List	   *groups;
	ListCell   *lc;

	/* who leads sees to it */
	if (topics_cluster_follows(METADATA_SET) && !topics_cluster_leads_any())
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
