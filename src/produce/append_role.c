/*-------------------------------------------------------------------------
 *
 * append_role.c
 *		As what this node appends: whether it leads, and as the same until the commit.
 *
 * What goes by this node's role is looked at when the commit begins, under the
 * append locks, when all is appended, and after the wait for followers.  Each
 * time the generation of each leader set (mark_slot.c) is to be the same as
 * before: another one says that another node may have led meanwhile, whose log
 * goes on without this.
 *
 * While a role is handed over, or a candidate is answered, the set is frozen:
 * who comes then waits (topics_append_role_wait), and who has the locks
 * already is waited for.
 *
 * On a node that follows, the replicator appends, which keeps the node's role
 * itself (replicator.c, hold_row).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "pg_topics.h"

/* When the commit begins: of all sets that there are. */
static uint32 expected_sets = 0;
static uint64 expected[MAX_LEADER_SETS];

/* From the append to the wait: of those that are appended to. */
static uint32 appending_sets = 0;
static uint64 generations[MAX_LEADER_SETS];
static bool replicates = false;

/* The commit begins: the records are appended if the role is the same then. */
void
topics_append_role_expect(void)
{
	expected_sets = topics_mark_slot_sets();
	for (int set = -1; (set = topics_leader_set_after(expected_sets, set)) >= 0;)
		expected[set] = topics_mark_slot_generation_of(set);
}

/*
 * The records are of some leader sets; "is_replica": it is the replicator that
 * appends them.
 */
void
topics_append_role_begin(uint32 sets, bool is_replica)
{
	appending_sets = sets;
	replicates = is_replica;
}

/* Return one of the sets that is frozen, or -1. */
static int
find_frozen_set(void)
{
	for (int set = -1; (set = topics_leader_set_after(appending_sets, set)) >= 0;)
		if (unlikely(topics_mark_slot_is_frozen(set)))
			return set;
	return -1;
}

/*
 * Before the locks: wait until no set is frozen.  The wait can be interrupted.
 */
void
topics_append_role_wait(void)
{
	for (int set = find_frozen_set(); set >= 0; set = find_frozen_set())
		topics_mark_slot_wait_frozen(set);
}

/*
 * Before an error that is final for a client, which goes by what this node
 * knows: raise another one if another node may lead by now, and know better.
 */
void
topics_append_role_require_lease(int set)
{
	if (likely(topics_mark_slot_has_lease(set)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_NOT_LEADER),
			 errmsg("this node does not know whether it still leads"),
			 errdetail("NOT_LEADER_OR_FOLLOWER: too few followers have asked it for anything since pg_topics.node_timeout, and another node may have been elected."),
			 errhint("Look at topics.node on other nodes, and try again. With pg_topics.acks = all the commit waits for followers.")));
}

/*
 * Under the locks: who does not wait for followers needs to know that no other
 * node has come to lead.
 */
static void
require_lease(int set)
{
	if (pg_topics_acks != ACKS_ALL && !replicates)
		topics_append_role_require_lease(set);
}

/*
 * Under the locks: note as what this node appends, before it is looked whether
 * it may.  Both are looked at again when that is done.
 */
void
topics_append_role_note(void)
{
	for (int set = -1; (set = topics_leader_set_after(appending_sets, set)) >= 0;)
	{
		generations[set] = topics_mark_slot_generation_of(set);
		require_lease(set);
	}
}

/*
 * Under the locks: return true if a set is frozen, so that these are to be
 * given back.
 */
bool
topics_append_role_must_wait(void)
{
	return unlikely(find_frozen_set() >= 0);
}

/*
 * Return one of some sets of which this node is not what it was before, or -1.
 */
static int
find_changed(uint32 sets, const uint64 *before)
{
	for (int set = -1; !replicates && (set = topics_leader_set_after(sets, set)) >= 0;)
		if (topics_mark_slot_generation_of(set) != before[set])
			return set;
	return -1;
}

/*
 * Return a set of which this node is not what it was when the commit began, or
 * -1.
 */
int
topics_append_role_find_unexpected(void)
{
	return find_changed(appending_sets & expected_sets, expected);
}

/*
 * Return a set of which this node is not what it was when the locks were
 * taken, or -1.
 */
int
topics_append_role_find_changed(void)
{
	return find_changed(appending_sets, generations);
}

/*
 * From append to publish: the leader sets of what was appended, a bit for
 * each.
 */
uint32
topics_append_role_sets(void)
{
	return appending_sets;
}

/* As what this node has appended: see topics_mark_slot_generation. */
uint64
topics_append_role_generation(int set)
{
	return generations[set];
}
