/*-------------------------------------------------------------------------
 *
 * consumer_offset.c
 *		What a transaction does to committed offsets: its claims, its changes,
 *		and what becomes of them at its end.
 *
 * As in Kafka, a commit is a record of the internal topic __consumer_offsets
 * (offset_log.c), and what is current is kept in memory (offset_table.c).  A
 * row of a table instead would be updated at every commit, and a snapshot held
 * open somewhere would keep all its versions.
 *
 * A transaction pins each entry of the table that it uses, and notes what it
 * will change: an OffsetChange, on a stack per entry, so that ROLLBACK TO can
 * take changes back.  When it commits (transaction.c), it does the following:
 *
 *	1. pre_commit: give a record per change to the transaction's buffer, so
 *	   that they are appended to __consumer_offsets with all others;
 *	2. publish: after the commit record, with the append locks still held,
 *	   store the changes in the entries.
 *
 * So an offset is committed if and only if the transaction is, and order and
 * durability of commits are those of the log.
 *
 * CLAIMS.  A transaction that changes the committed offset of a partition holds
 * the claim, a heavyweight lock on (group, topic, partition), until it ends.
 * topics.consume() takes the claim without waiting, and passes over what it
 * does not get; topics.commit_offset() and reset_offset() wait.  PostgreSQL
 * releases the lock, after step 2: the next transaction to have it reads what
 * the last one committed.  A rolled-back savepoint releases it too, together
 * with the change.  Each transaction that uses a group holds its group lock
 * shared; topics.delete_group() has it exclusively.
 *
 * MEMBERS of a group need no claim: a partition is one member's.  What they
 * commit is checked once more with the append locks held, under which a
 * partition gets another owner (member_table.c): so a member that was paused
 * between its check and its commit, and has lost the partition meanwhile,
 * commits nothing, and the new owner starts from the last offset that was
 * committed.
 *
 * DROPPED TOPICS.  The transaction that drops a topic writes tombstones for all
 * entries of the topic.  It needs no claim: a transaction that has a change of
 * such an entry to commit keeps a lock on the topic's tables.  The DROP has
 * waited for that, and now no other transaction gets one.  A group that is
 * deleted at the same time only gets more tombstones.
 *
 * SNAPSHOTS.  A committed offset is not MVCC.  In REPEATABLE READ it can come
 * from a transaction whose other writes the snapshot does not show.  So the xid
 * of the last commit is kept, and such a claim fails with 40001.
 *
 * See docs/decisions/0010-committed-offsets.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "group/group.h"

/*
 * A commit that is further back is taken as visible: a snapshot's xids, of 32
 * bits, could not be compared with its xid.
 */
#define RECENT_XIDS (UINT64CONST(1) << 30)

#define MANY_LOCALS 64			/* more are found by a hash table */

static List *locals = NIL;		/* of LocalOffset, in TopTransactionContext */

/* The same by their keys, if there are many, or NULL. */
static HTAB *known_locals = NULL;

/* The outermost subtransaction that holds a group's lock, if one does. */
static SubTransactionId group_locked = InvalidSubTransactionId;

/* The transaction commits offsets as a member. */
static bool has_members = false;

static int64 offsets_topic_id;	/* where this commit's records go */

/*
 * What this node was in a leader set when the transaction's first call began;
 * 0: in no cluster.
 */
static uint64 generations[MAX_LEADER_SETS];
static uint64 forgotten;		/* and how often offsets were forgotten */

/* ----------------------------------------------------------------
 *		While the transaction runs
 * ----------------------------------------------------------------
 */

/* An entry that the transaction uses, by its key. */
typedef struct KnownLocal
{
	GroupOffsetKey key;			/* hash key: must be first */
	LocalOffset *local;
} KnownLocal;

/* Find what the transaction uses by its key, or NULL. */
static LocalOffset *
find_local(const GroupOffsetKey *key)
{
	ListCell   *lc;

	if (known_locals)
	{
		const KnownLocal *known = hash_search(known_locals, key, HASH_FIND, NULL);

		return known ? known->local : NULL;
	}
	foreach(lc, locals)
	{
		LocalOffset *local = lfirst(lc);

		if (local->shared && topics_offset_table_compare_keys(&local->shared->key, key, sizeof(GroupOffsetKey)) == 0)
			return local;
	}
	return NULL;
}

static void
enter_local(HTAB *hash, LocalOffset *local)
{
	KnownLocal *known = hash_search(hash, &local->shared->key, HASH_ENTER, NULL);

	known->local = local;
}

/*
 * The transaction uses one more.  From some number on it finds them by a hash
 * table.
 */
static void
note_local(LocalOffset *local)
{
	HASHCTL		ctl = {
		.keysize = sizeof(GroupOffsetKey),.entrysize = sizeof(KnownLocal),.hcxt = TopTransactionContext,
		.hash = topics_offset_table_hash_key,.match = topics_offset_table_compare_keys
	};
	HTAB	   *hash;
	ListCell   *lc;

	if (known_locals)
		enter_local(known_locals, local);
	else if (list_length(locals) > MANY_LOCALS)
	{
		hash = hash_create("pg_topics offsets of a transaction", MANY_LOCALS * 4, &ctl,
						   HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
		foreach(lc, locals)
			enter_local(hash, lfirst(lc));
		known_locals = hash;	/* it has all, or there is none */
	}
}

/* This transaction's own view of an entry, or NULL if it has none. */
LocalOffset *
topics_consumer_offset_find_local(const char *group_id, int64 topic_id, int32 partition)
{
	const GroupOffsetKey key = topics_offset_table_make_key(group_id, topic_id, partition);

	return find_local(&key);
}

/*
 * Before what is committed is looked at, for who will commit offsets: note
 * what this node is in each leader set.  Where that becomes another one what
 * was looked at may be old, or forgotten.
 */
void
topics_consumer_offset_note_generations(void)
{
	if (locals != NIL)
		return;
	topics_mark_slot_note_generations(generations);
	forgotten = topics_state_load_forgotten(STATE_OFFSETS);
}

/*
 * Use an entry in this (sub)transaction: it stays until the end.  It is made if
 * there is none, with these facts.  The result lives as long.
 */
LocalOffset *
topics_consumer_offset_use(const char *group_id, int64 topic_id, int32 partition,
						   const GroupOffsetFacts *facts, const int64 *starts)
{
	GroupOffsetKey key = topics_offset_table_make_key(group_id, topic_id, partition);
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	LocalOffset *local = palloc0(sizeof(LocalOffset));
	LocalOffset *known;
	GroupOffset *entry;
	uint32		pins = 0;

	local->set = topics_offset_log_leader_set(&key);
	local->ordinal = -1;
	local->subxid = GetCurrentSubTransactionId();
	locals = lappend(locals, local);
	MemoryContextSwitchTo(old);

	entry = topics_offset_table_pin(&key, facts, starts, &pins);
	if (entry == NULL)
	{
		locals = list_delete_last(locals);
		topics_offset_table_report_full(starts ? facts->partitions + 1 : 1);
	}

	/* an entry without pins had none of ours */
	known = pins > 0 ? find_local(&key) : NULL;
	if (known)
	{
		locals = list_delete_last(locals);
		topics_offset_table_unpin(entry);
		pfree(local);
		return known;
	}
	local->shared = entry;
	note_local(local);
	return local;
}

/* Return true if this transaction sees such a group or subscription. */
bool
topics_consumer_offset_exists(const LocalOffset *local)
{
	return local->change ? !local->change->deleted : is_entry_committed(local->shared);
}

/* Return the committed offset, with this transaction's change, or NO_OFFSET. */
int64
topics_consumer_offset_get_position(const LocalOffset *local)
{
	if (local->change)
		return local->change->deleted ? NO_OFFSET : local->change->offset;
	return pg_atomic_read_u64(&local->shared->committed);
}

/* Begin a change: it replaces one that this subtransaction has made before. */
static OffsetChange *
push_change(LocalOffset *local)
{
	SubTransactionId subxid = GetCurrentSubTransactionId();
	OffsetChange *change = local->change;

	if (change == NULL || change->subxid != subxid)
	{
		change = MemoryContextAlloc(TopTransactionContext, sizeof(OffsetChange));
		change->below = local->change;
		change->subxid = subxid;
		local->change = change;
	}
	change->deleted = false;
	change->metadata = NULL;
	change->type = local->shared->facts.type;
	change->members = NULL;
	change->member = NULL;
	change->rewrite_of = 0;
	return change;
}

/* The group or subscription will exist when the transaction commits. */
void
topics_consumer_offset_create(LocalOffset *local)
{
	Assert(local->shared->key.partition == NO_PARTITION);
	push_change(local)->offset = IT_EXISTS;
}

/* The group will be of another type when the transaction commits. */
void
topics_consumer_offset_change_type(LocalOffset *local, GroupType type)
{
	OffsetChange *change = push_change(local);

	Assert(local->shared->key.topic_id == NO_TOPIC && local->shared->key.partition == NO_PARTITION);
	change->offset = IT_EXISTS;
	change->type = type;
}

/*
 * A group's members will be these when the transaction commits, which holds
 * the lock on them.  They live in TopTransactionContext.
 */
void
topics_consumer_offset_change_members(LocalOffset *local, const GroupMembers *members)
{
	OffsetChange *change = push_change(local);

	Assert(is_members_partition(local->shared->key.partition));
	change->offset = IT_EXISTS;
	change->members = members;
}

static OffsetChange *
change_offset(LocalOffset *local, int64 offset, const char *metadata)
{
	OffsetChange *change = push_change(local);

	change->offset = offset;
	if (metadata)
		change->metadata = MemoryContextStrdup(TopTransactionContext, metadata);
	return change;
}

/* The committed offset and its metadata will be these after the commit. */
void
topics_consumer_offset_change(LocalOffset *local, int64 offset, const char *metadata)
{
	Assert(local->claimed != InvalidSubTransactionId);
	change_offset(local, offset, metadata);
}

/*
 * The same, if the member still has the partition then, as it had in the
 * generation that it has given.  The member is one that had this serial, and
 * may have gone.
 */
void
topics_consumer_offset_change_as_member(LocalOffset *local, int64 offset, const char *metadata,
										const Member *member, uint64 serial, int32 generation)
{
	OffsetChange *change = change_offset(local, offset, metadata);

	change->member = member;
	change->serial = serial;
	change->generation = generation;
	has_members = true;
}

/*
 * The entry will be no more when the transaction commits.  With a topic_state,
 * the processes that wait in that topic are woken then.
 */
void
topics_consumer_offset_delete(LocalOffset *local, PartitionState *topic_state)
{
	push_change(local)->deleted = true;
	if (topic_state)
		local->topic_state = topic_state;
}

/* Return true if this transaction has deleted the entry. */
bool
topics_consumer_offset_is_deleted(const LocalOffset *local)
{
	return local->change && local->change->deleted;
}

/* ----------------------------------------------------------------
 *		Claims
 * ----------------------------------------------------------------
 */

/* Raise 40001 if the snapshot does not see what the last commit did. */
static void
require_visible_commit(GroupOffset *entry)
{
	uint64		xid = pg_atomic_read_u64(&entry->commit_xid);
	uint64		next = U64FromFullTransactionId(ReadNextFullTransactionId());

	if (!IsolationUsesXactSnapshot() || xid == 0 || next - xid > RECENT_XIDS)
		return;
	if (XidInMVCCSnapshot((TransactionId) xid, GetTransactionSnapshot()))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to a concurrent commit of consumer group \"%s\"",
						entry->key.group_id),
				 errhint("The transaction might succeed if retried.")));
}

/*
 * Acquire a group's lock until the (sub)transaction ends, and note that it is
 * held.
 */
static bool
acquire_group_lock(const LOCKTAG *tag, LOCKMODE mode, bool wait)
{
	if (!topics_user_lock_acquire(tag, mode, wait))
		return false;
	if (group_locked == InvalidSubTransactionId)
		group_locked = GetCurrentSubTransactionId();
	return true;
}

/*
 * Claim a partition for its group until the (sub)transaction ends.  Without
 * "wait", return false if another transaction has it.  The topic's state is for
 * waking the processes that wait for the claim.
 */
bool
topics_consumer_offset_claim(LocalOffset *local, PartitionState *topic_state, bool wait)
{
	LOCKTAG		tag = topics_offset_table_make_lock_tag(&local->shared->key);

	if (local->claimed == InvalidSubTransactionId)
	{
		if (!topics_user_lock_acquire(&tag, ExclusiveLock, wait))
			return false;
		local->topic_state = topic_state;
		local->claimed = GetCurrentSubTransactionId();
		local->released = false;
		pg_atomic_write_u32(&local->shared->claimed_by, MyProcPid);
	}
	require_visible_commit(local->shared);
	return true;
}

/*
 * The lock of a claim is released: say so in the entry, unless another
 * transaction has claimed it already, and wake the processes that wait.
 */
static void
announce_release(LocalOffset *local)
{
	uint32		me = MyProcPid;

	(void) pg_atomic_compare_exchange_u32(&local->shared->claimed_by, &me, 0);
	if (local->wake)
		topics_wakeup_topic(local->topic_state);
	else
		topics_wakeup_claim_released(local->topic_state);
	local->released = false;
}

/*
 * Give back a claim that was taken right now, and not used.  Records may have
 * come since we looked, and another consumer may have passed over them because
 * of our claim: so it is woken.
 */
void
topics_consumer_offset_unclaim(LocalOffset *local)
{
	LOCKTAG		tag = topics_offset_table_make_lock_tag(&local->shared->key);
	ResourceOwner old = CurrentResourceOwner;

	Assert(local->claimed == GetCurrentSubTransactionId());
	local->claimed = InvalidSubTransactionId;
	CurrentResourceOwner = CurTransactionResourceOwner;
	LockRelease(&tag, ExclusiveLock, false);
	CurrentResourceOwner = old;
	announce_release(local);
}

/*
 * Write a group's record, which says whose the group is, anew when the
 * transaction commits.  Return false if there is no such group, or another
 * transaction is about to delete it: then there is no need.
 */
bool
topics_consumer_offset_rewrite_group(const char *group_id)
{
	GroupOffsetKey key = topics_offset_table_make_key(group_id, NO_TOPIC, NO_PARTITION);
	LOCKTAG		tag = topics_offset_table_make_lock_tag(&key);
	GroupOffset entry;
	LocalOffset *local;
	OffsetChange *change;

	/* with the lock held the group cannot be deleted */
	if (!acquire_group_lock(&tag, ShareLock, false) ||
		!topics_offset_table_peek(group_id, NO_TOPIC, NO_PARTITION, &entry) ||
		!is_entry_committed(&entry))
		return false;
	local = topics_consumer_offset_use(group_id, NO_TOPIC, NO_PARTITION, NULL, NULL);
	change = push_change(local);
	change->offset = IT_EXISTS;
	change->rewrite_of = (TimestampTz) pg_atomic_read_u64(&local->shared->commit_time);
	return true;
}

/* A topic is dropped: delete what is committed in it. */
void
topics_consumer_offset_delete_topic(int64 topic_id)
{
	int			count;
	GroupOffset *entries = topics_offset_table_list(NULL, topic_id, &count);

	for (int i = 0; i < count; i++)
	{
		const GroupOffsetKey *key = &entries[i].key;

		Assert(key->topic_id == topic_id);
		CHECK_FOR_INTERRUPTS();
		topics_consumer_offset_delete(topics_consumer_offset_use(key->group_id, topic_id,
																 key->partition, NULL, NULL), NULL);
	}
	pfree(entries);
}

/*
 * Use a group, or exclude all other users of it; return false where that has
 * to be waited for.
 */
bool
topics_consumer_offset_try_lock_group(const char *group_id, bool exclusive)
{
	GroupOffsetKey key = topics_offset_table_make_key(group_id, NO_TOPIC, NO_PARTITION);
	LOCKTAG		tag = topics_offset_table_make_lock_tag(&key);

	return acquire_group_lock(&tag, exclusive ? ExclusiveLock : ShareLock, false);
}

/*
 * Lock what a group's members are until the transaction ends: exclusively to
 * change it, shared for what there must be no members for.
 */
bool
topics_consumer_offset_lock_members(const char *group_id, bool exclusive, bool wait)
{
	GroupOffsetKey key = topics_offset_table_make_key(group_id, NO_TOPIC, MEMBERS_PARTITION);
	LOCKTAG		tag = topics_offset_table_make_lock_tag(&key);

	return acquire_group_lock(&tag, exclusive ? ExclusiveLock : ShareLock, wait);
}

/* Use a group, or exclude all other users of it, until the transaction ends. */
void
topics_consumer_offset_lock_group(const char *group_id, bool exclusive)
{
	GroupOffsetKey key = topics_offset_table_make_key(group_id, NO_TOPIC, NO_PARTITION);
	LOCKTAG		tag = topics_offset_table_make_lock_tag(&key);

	(void) acquire_group_lock(&tag, exclusive ? ExclusiveLock : ShareLock, true);
}

/* ----------------------------------------------------------------
 *		The end of a transaction
 * ----------------------------------------------------------------
 */

/*
 * Return true if the transaction uses a group: with a lock or a pin, even if it
 * got nothing.
 */
bool
topics_consumer_offset_is_pending(void)
{
	return locals != NIL || group_locked != InvalidSubTransactionId;
}

/*
 * Return true if there is a change to be written.  A change of a group or a
 * subscription says that it exists: another transaction may have committed that
 * meanwhile.
 */
static bool
needs_record(LocalOffset *local)
{
	if (local->change == NULL)
		return false;
	if (local->change->deleted || local->change->rewrite_of != 0)
		return is_entry_committed(local->shared);
	if (local->change->type != local->shared->facts.type)
		return true;
	return local->shared->key.partition != NO_PARTITION || !is_entry_committed(local->shared);
}

/*
 * Require this node to be what it was when the group was used: otherwise others
 * may have used it on another node, which led meanwhile.  And require that what
 * is committed was not forgotten since: it would have seemed to be nothing.
 */
static void
require_same_role(int set)
{
	if (topics_cluster_follows(set))
		topics_cluster_report_no_group(set);
	if (!topics_mark_slot_is_generation(set, generations[set]) ||
		topics_state_load_forgotten(STATE_OFFSETS) != forgotten)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("another node may have led since this transaction has used a consumer group"),
				 errhint("The transaction might succeed if retried.")));
}

/* Before the commit record: give records to the transaction's buffer. */
void
topics_consumer_offset_pre_commit(void)
{
	Topic	   *offsets_topic = NULL;
	ListCell   *lc;

	foreach(lc, locals)
	{
		LocalOffset *local = lfirst(lc);

		local->ordinal = -1;
		if (local->change == NULL)
			continue;
		if (local->change->rewrite_of == 0 &&
			(!local->change->deleted || local->shared->key.topic_id == NO_TOPIC))
			require_same_role(local->set);

		/*
		 * of a topic that is dropped a follower gets the records from the
		 * leader
		 */
		else if (topics_cluster_follows(local->set))
			continue;
		if (!needs_record(local))
			continue;
		if (offsets_topic == NULL)
		{
			offsets_topic = topics_internal_topic_require(CONSUMER_OFFSETS_TOPIC);
			offsets_topic_id = offsets_topic->topic_id;
		}
		local->commit_time = local->change->rewrite_of != 0 ? local->change->rewrite_of :
			GetCurrentTimestamp();
		topics_offset_log_add_record(offsets_topic, local);
	}
}

/*
 * With the append locks held: require each member to have the partitions that
 * it commits offsets of.  Raises the error of who has lost one.
 */
void
topics_consumer_offset_require_members(void)
{
	ListCell   *lc;

	if (!has_members)
		return;
	foreach(lc, locals)
	{
		const LocalOffset *local = lfirst(lc);
		const OffsetChange *change = local->change;

		if (change && change->member && !change->deleted)
			topics_member_table_require_owner(local->shared, change->member, change->serial,
											  change->generation);
	}
}

/* Store a change in its entry. */
static void
publish_change(LocalOffset *local, uint64 xid)
{
	GroupOffset *entry = local->shared;
	OffsetChange *change = local->change;
	int64		offset = change->deleted ? NO_OFFSET : change->offset;
	int64		before = pg_atomic_read_u64(&entry->committed);

	if (before == NO_OFFSET)
		before = pg_atomic_read_u64(&entry->start);
	if (change->deleted)
		pg_atomic_write_u64(&entry->start, NO_OFFSET);
	/* a group that goes back, or begins anew, has records again */
	local->wake = change->deleted || (before != NO_OFFSET && offset < before);
	entry->has_metadata = change->metadata != NULL;
	pg_atomic_write_u64(&entry->commit_time, local->commit_time);
	if (change->rewrite_of == 0)
		pg_atomic_write_u64(&entry->commit_xid, xid);
	pg_atomic_write_u64(&entry->record_offset, local->ordinal +
						topics_append_first_offset(offsets_topic_id, local->log_partition));
	pg_atomic_write_u64(&entry->parted_at, NO_OFFSET);
	pg_atomic_write_u64(&entry->committed, offset);
}

/* Return true if this commit changes what is not only atomics. */
static bool
changes_members(void)
{
	ListCell   *lc;

	foreach(lc, locals)
	{
		const LocalOffset *local = lfirst(lc);

		if (local->ordinal >= 0 && (is_members_partition(local->shared->key.partition) ||
									local->change->type != local->shared->facts.type))
			return true;
	}
	return false;
}

/*
 * After the commit record, with the append locks still held: store what was
 * changed.  Raises nothing.
 */
void
topics_consumer_offset_publish(void)
{
	uint64		xid = U64FromFullTransactionId(GetTopFullTransactionIdIfAny());
	ListCell   *lc;

	if (locals == NIL)
		return;
	topics_offset_table_lock(changes_members() ? LW_EXCLUSIVE : LW_SHARED);
	foreach(lc, locals)
	{
		LocalOffset *local = lfirst(lc);

		if (local->ordinal < 0)
			continue;
		if (is_members_partition(local->shared->key.partition))
			topics_member_table_apply(local->shared, local->change->deleted ? NULL : local->change->members, false);
		if (local->change->type != local->shared->facts.type)
			local->shared->facts.type = local->change->type;
		publish_change(local, xid);
	}
	topics_offset_table_unlock();
}

/* What a subtransaction uses, its changes and claims become its parent's. */
void
topics_consumer_offset_subcommit(SubTransactionId subxid, SubTransactionId parent)
{
	ListCell   *lc;

	if (group_locked == subxid)
		group_locked = parent;
	foreach(lc, locals)
	{
		LocalOffset *local = lfirst(lc);
		OffsetChange *change = local->change;

		if (local->subxid == subxid)
			local->subxid = parent;
		if (local->claimed == subxid)
			local->claimed = parent;
		if (change == NULL || change->subxid != subxid)
			continue;
		change->subxid = parent;
		if (change->below && change->below->subxid == parent)
			change->below = change->below->below;
	}
}

/* Undo what a subtransaction used, changed and claimed. */
void
topics_consumer_offset_subabort(SubTransactionId subxid)
{
	ListCell   *lc;

	if (group_locked == subxid)
		group_locked = InvalidSubTransactionId;
	foreach(lc, locals)
	{
		LocalOffset *local = lfirst(lc);

		if (local->subxid == subxid)
			local->subxid = InvalidSubTransactionId;
		if (local->claimed == subxid)
		{
			local->claimed = InvalidSubTransactionId;
			local->released = true;
		}
		while (local->change && local->change->subxid == subxid)
			local->change = local->change->below;
	}
}

/*
 * A group's members have changed: they look, and so does the worker.  Where
 * the last one has gone, those in other leader sets may take its place, for
 * which the worker looks at all.
 */
static void
tell_members(const LocalOffset *local)
{
	const OffsetChange *change = local->change;
	const bool	has_none = change->deleted || change->members->count == 0;

	topics_wakeup_channel(topics_member_table_channel(local->shared->key.group_id));
	topics_worker_registry_want_members(topics_clock_now(), has_none && topics_member_table_has_other_sets());
}

/*
 * Locks were released, by commit or abort of the transaction, or by abort of a
 * subtransaction: announce released claims, and unpin entries that are not used
 * any more.  Raises nothing.
 */
void
topics_consumer_offset_after_locks(bool is_commit, bool is_top_level)
{
	ListCell   *lc;

	if (is_commit && !is_top_level)
		return;
	foreach(lc, locals)
	{
		LocalOffset *local = lfirst(lc);

		if (local->released || (is_top_level && local->claimed != InvalidSubTransactionId))
			announce_release(local);
		else if (is_top_level && local->wake && local->topic_state)
			topics_wakeup_topic(local->topic_state);
		if (is_top_level && is_commit && local->change && is_members_partition(local->shared->key.partition))
			tell_members(local);
		if (is_top_level)
			topics_offset_table_unpin(local->shared);
		else if (local->subxid == InvalidSubTransactionId)
		{
			if (known_locals)
				(void) hash_search(known_locals, &local->shared->key, HASH_REMOVE, NULL);
			topics_offset_table_unpin(local->shared);
			locals = foreach_delete_current(locals, lc);
			pfree(local);
		}
	}
	if (is_top_level)
	{
		topics_member_table_release_unused();
		locals = NIL;			/* the memory goes with the transaction */
		known_locals = NULL;
		has_members = false;
		group_locked = InvalidSubTransactionId;
	}
}
