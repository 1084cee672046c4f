/*-------------------------------------------------------------------------
 *
 * consumer_offset.c
 *		Committed offsets of consumer groups: in shared memory, and in the
 *		transaction that is going to change them.
 *
 * As in Kafka, a commit is a record of the internal topic __consumer_offsets
 * (offset_log.c), and what is current is kept in memory: here, a hash table
 * of entries, as many as pg_topics.max_group_offsets.  A row of a table
 * instead would be updated at every commit, and a snapshot held open
 * somewhere would keep all its versions.
 *
 * A transaction that has to do with an entry pins it, notes what it will
 * change (OffsetChange, a stack per entry so that ROLLBACK TO can take
 * changes back), and does the following when it commits (transaction.c):
 *
 *	1. pre_commit: give a record per change to the transaction's buffer, so
 *	   that they are appended to __consumer_offsets with all others;
 *	2. publish: after the commit record, with the append locks still held,
 *	   store the changes in the entries.
 *
 * So an offset is committed if and only if the transaction is, and order and
 * durability of commits are those of the log.
 *
 * CLAIMS.  Who changes the committed offset of a partition holds its claim,
 * a heavyweight lock on (group, topic, partition), until the transaction
 * ends.  topics.consume() takes it without waiting and passes over what it
 * does not get; topics.commit_offset() and reset_offset() wait.  The lock is
 * released by PostgreSQL, after step 2: the next one to have it reads what
 * the last one committed.  A rolled-back savepoint releases it too, together
 * with the change.  Everybody who uses a group holds its group lock shared;
 * topics.delete_group() has it exclusively.
 *
 * SNAPSHOTS.  A committed offset is not MVCC.  In REPEATABLE READ it can come
 * from a transaction whose other writes the snapshot does not show; so the
 * last committer's xid is kept, and such a claim fails with 40001.
 *
 * UNCOMMITTED ENTRIES.  The first transactions that use a group find no
 * entry and make one, with committed = NO_OFFSET.  Its facts (owner, where
 * to begin) hold for all who come while it is there, and whoever commits
 * first writes its record.  When the last pin goes and nobody has committed,
 * the entry goes too.  So nobody waits for a group's first transaction.
 *
 * LOCKING
 *
 *	table lock	(LWLock) exclusive: add and remove entries, load.  Shared: find
 *		and pin an entry, walk, publish.  A pinned entry stays where it is.
 *	claim	(heavyweight) the right to change "committed" and what belongs to
 *		it; these are atomics, which anybody may read.
 *	pins, served, claimed_by: atomics.  has_metadata, facts: table lock.
 *
 * The table lock comes after the append locks (publish holds them); under it
 * nothing else is acquired.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "consumer.h"
#include "pg_topics.h"

#define LOCK_MAGIC 0x7470		/* tells our locks of this kind from others' */
#define LOADED_TOPIC INT64CONST(-1) /* key of the entry that says "loaded" */
#define RECENT_XIDS (UINT64CONST(1) << 30)

static HTAB *table = NULL;
static LWLock *table_lock = NULL;

static List *locals = NIL;		/* of LocalOffset, in TopTransactionContext */
static int64 offsets_topic_id;	/* where this commit's records go */

/* ----------------------------------------------------------------
 *		Shared memory
 * ----------------------------------------------------------------
 */

void
topics_consumer_offset_shmem_request(void)
{
	RequestAddinShmemSpace(hash_estimate_size(pg_topics_max_group_offsets, sizeof(GroupOffset)));
	RequestNamedLWLockTranche("pg_topics_consumer_offsets", 1);
}

void
topics_consumer_offset_shmem_startup(void)
{
	HASHCTL		ctl = {0};

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	table_lock = &GetNamedLWLockTranche("pg_topics_consumer_offsets")[0].lock;
	ctl.keysize = sizeof(GroupOffsetKey);
	ctl.entrysize = sizeof(GroupOffset);
	table = topics_shmem_init_hash("pg_topics consumer offsets", pg_topics_max_group_offsets,
								   &ctl, HASH_ELEM | HASH_BLOBS);
	LWLockRelease(AddinShmemInitLock);
}

static GroupOffsetKey
make_key(const char *group_id, int64 topic_id, int32 partition)
{
	GroupOffsetKey key;

	Assert(strlen(group_id) < NAMEDATALEN);
	memset(&key, 0, sizeof(key));
	key.database = MyDatabaseId;
	key.topic_id = topic_id;
	key.partition = partition;
	strlcpy(key.group_id, group_id, NAMEDATALEN);
	return key;
}

static bool
is_committed(GroupOffset *entry)
{
	return (int64) pg_atomic_read_u64(&entry->committed) != NO_OFFSET;
}

/*
 * Find or make an entry.  NULL if there is no room.  The caller holds the
 * table lock exclusively.
 */
static GroupOffset *
find_or_make(const GroupOffsetKey *key, const GroupOffsetFacts *facts, bool *made)
{
	GroupOffset *entry;
	bool		found = false;

	Assert(LWLockHeldByMeInMode(table_lock, LW_EXCLUSIVE));
	*made = false;
	entry = hash_search(table, key, HASH_FIND, NULL);
	if (entry)
		return entry;
	if (hash_get_num_entries(table) < pg_topics_max_group_offsets)
		entry = hash_search(table, key, HASH_ENTER_NULL, &found);
	if (entry == NULL)
		return NULL;

	*made = true;
	memset((char *) entry + sizeof(GroupOffsetKey), 0, sizeof(GroupOffset) - sizeof(GroupOffsetKey));
	if (facts)
		entry->facts = *facts;
	pg_atomic_init_u64(&entry->committed, NO_OFFSET);
	pg_atomic_init_u64(&entry->start, NO_OFFSET);
	pg_atomic_init_u64(&entry->commit_xid, 0);
	pg_atomic_init_u64(&entry->commit_time, 0);
	pg_atomic_init_u64(&entry->record_offset, 0);
	pg_atomic_init_u64(&entry->served, 0);
	pg_atomic_init_u32(&entry->claimed_by, 0);
	pg_atomic_init_u32(&entry->pins, 0);
	return entry;
}

static void
report_full(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("too many committed offsets of consumer groups"),
			 errdetail("All %d places for them in shared memory are taken; each group takes one, and one more per topic and per partition.",
					   pg_topics_max_group_offsets),
			 errhint("Increase pg_topics.max_group_offsets and restart the server, or delete groups with topics.delete_group().")));
}

/* Places where a group begins go with the subscription that they belong to. */
static void
forget_starts(const GroupOffset *subscription)
{
	GroupOffsetKey key = subscription->key;

	Assert(LWLockHeldByMeInMode(table_lock, LW_EXCLUSIVE));
	for (key.partition = 0; key.partition < subscription->facts.partitions; key.partition++)
	{
		GroupOffset *entry = hash_search(table, &key, HASH_FIND, NULL);

		if (entry == NULL)
			continue;
		pg_atomic_write_u64(&entry->start, NO_OFFSET);
		if (!is_committed(entry) && pg_atomic_read_u32(&entry->pins) == 0)
			hash_search(table, &key, HASH_REMOVE, NULL);
	}
}

/*
 * Is an entry of a partition kept though nothing is committed there?  With it
 * would go when the partition was served last, and one whose records make
 * every transaction fail would always be the next one.
 */
static bool
is_remembered(GroupOffset *entry)
{
	GroupOffsetKey key = entry->key;
	GroupOffset *subscription;

	if (key.partition == NO_PARTITION)
		return false;
	if ((int64) pg_atomic_read_u64(&entry->start) != NO_OFFSET)
		return true;
	key.partition = NO_PARTITION;
	subscription = hash_search(table, &key, HASH_FIND, NULL);
	return subscription && is_committed(subscription) && pg_atomic_read_u64(&entry->served) != 0;
}

/* Remove an entry that nobody needs: not committed, nor pinned. */
static void
remove_if_unused(const GroupOffsetKey *key)
{
	GroupOffset *entry;

	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	entry = hash_search(table, key, HASH_FIND, NULL);
	if (entry && !is_committed(entry) && pg_atomic_read_u32(&entry->pins) == 0)
	{
		bool		is_subscription = key->topic_id != NO_TOPIC && key->partition == NO_PARTITION;

		if (is_subscription && entry->facts.reset == RESET_LATEST)
			forget_starts(entry);
		if (!is_remembered(entry))
			hash_search(table, key, HASH_REMOVE, NULL);
	}
	LWLockRelease(table_lock);
}

/* A copy of an entry as it is now; false if there is none. */
bool
topics_consumer_offset_peek(const char *group_id, int64 topic_id, int32 partition, GroupOffset *copy)
{
	GroupOffsetKey key = make_key(group_id, topic_id, partition);
	GroupOffset *entry;

	LWLockAcquire(table_lock, LW_SHARED);
	entry = hash_search(table, &key, HASH_FIND, NULL);
	if (entry)
		*copy = *entry;
	LWLockRelease(table_lock);
	return entry != NULL;
}

/*
 * Copy the entries of a group, in any state, or with NULL those of this
 * database's groups that are committed or claimed, into "result", which has
 * room for so many.  -1 if there are more.
 */
static int
copy_entries(const char *group_id, GroupOffset *result, int64 room)
{
	HASH_SEQ_STATUS seq;
	GroupOffset *entry;
	int			count = 0;

	LWLockAcquire(table_lock, LW_SHARED);
	hash_seq_init(&seq, table);
	while ((entry = hash_seq_search(&seq)) != NULL)
	{
		if (entry->key.database != MyDatabaseId || entry->key.topic_id == LOADED_TOPIC)
			continue;
		if (group_id ? strcmp(entry->key.group_id, group_id) != 0 :
			!is_committed(entry) && pg_atomic_read_u32(&entry->claimed_by) == 0)
			continue;
		if (count >= room)
		{
			hash_seq_term(&seq);
			count = -1;
			break;
		}
		result[count++] = *entry;
	}
	LWLockRelease(table_lock);
	return count;
}

/*
 * Copies of the entries of a group, in any state, or with NULL of those of
 * this database's groups that are committed or claimed; palloc'd.  None that
 * was committed before the call is missing: the log is tidied up to the
 * oldest of them (offset_log.c).  Memory is not allocated under the lock, so
 * entries may be added before they are copied; they come in any order, so if
 * there are too many it is done anew.
 */
GroupOffset *
topics_consumer_offset_list(const char *group_id, int *count)
{
	for (;;)
	{
		GroupOffset *result;
		int64		room;

		LWLockAcquire(table_lock, LW_SHARED);
		room = hash_get_num_entries(table);
		LWLockRelease(table_lock);
		TEST_POINT("offsets-counted");

		result = MemoryContextAllocHuge(CurrentMemoryContext, Max(room, 1) * sizeof(GroupOffset));
		*count = copy_entries(group_id, result, room);
		if (*count >= 0)
			return result;
		pfree(result);
	}
}

/* Remove all entries that a test picks, but for those that are pinned. */
static void
remove_entries(Oid database, int64 topic_id)
{
	HASH_SEQ_STATUS seq;
	GroupOffset *entry;

	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	hash_seq_init(&seq, table);
	while ((entry = hash_seq_search(&seq)) != NULL)
	{
		if (entry->key.database != database ||
			(topic_id != NO_TOPIC && entry->key.topic_id != topic_id))
			continue;
		pg_atomic_write_u64(&entry->committed, NO_OFFSET);
		pg_atomic_write_u64(&entry->start, NO_OFFSET);
		if (pg_atomic_read_u32(&entry->pins) == 0)
			hash_search(table, &entry->key, HASH_REMOVE, NULL);
	}
	LWLockRelease(table_lock);
}

/* A topic is no more: its id is never used again. */
void
topics_consumer_offset_forget_topic(int64 topic_id)
{
	remove_entries(MyDatabaseId, topic_id);
}

void
topics_consumer_offset_forget_database(Oid database)
{
	remove_entries(database, NO_TOPIC);
}

/* ----------------------------------------------------------------
 *		Loading: offset_log.c reads the log
 * ----------------------------------------------------------------
 */

static LOCKTAG
lock_tag(const GroupOffsetKey *key)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) key, sizeof(*key), 0);
	LOCKTAG		tag;

	/* two keys of one hash would be one claim: harmless */
	tag.locktag_field1 = key->database;
	tag.locktag_field2 = (uint32) (hash >> 32);
	tag.locktag_field3 = (uint32) hash;
	tag.locktag_field4 = LOCK_MAGIC;
	tag.locktag_type = LOCKTAG_USERLOCK;
	tag.locktag_lockmethodid = DEFAULT_LOCKMETHOD;
	return tag;
}

static GroupOffsetKey
loaded_key(void)
{
	return make_key("", LOADED_TOPIC, NO_PARTITION);
}

static bool
is_loaded(void)
{
	GroupOffsetKey key = loaded_key();
	GroupOffset *entry;
	bool		loaded;

	LWLockAcquire(table_lock, LW_SHARED);
	entry = hash_search(table, &key, HASH_FIND, NULL);
	loaded = entry && is_committed(entry);
	LWLockRelease(table_lock);
	return loaded;
}

/*
 * Is the log still to be read?  If so the caller is the one to do it, then
 * calls end_load; others wait here.
 */
bool
topics_consumer_offset_begin_load(void)
{
	GroupOffsetKey key = loaded_key();
	LOCKTAG		tag = lock_tag(&key);

	if (is_loaded())
		return false;
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	if (!is_loaded())
		return true;
	LockRelease(&tag, ExclusiveLock, false);
	return false;
}

/*
 * The log is read.  With offsets_topic_id 0 there was none.  -1: what was
 * read is good for now, but has to be read again (on a standby).
 */
void
topics_consumer_offset_end_load(int64 offsets_topic_id)
{
	GroupOffsetKey key = loaded_key();
	LOCKTAG		tag = lock_tag(&key);
	GroupOffset *entry = NULL;
	bool		made;

	if (offsets_topic_id >= 0)
	{
		LWLockAcquire(table_lock, LW_EXCLUSIVE);
		entry = find_or_make(&key, NULL, &made);
		if (entry)
		{
			pg_atomic_write_u64(&entry->start, offsets_topic_id);
			pg_atomic_write_u64(&entry->committed, 1);
		}
		LWLockRelease(table_lock);
		if (entry == NULL)
			report_full();
	}
	LockRelease(&tag, ExclusiveLock, false);
}

/*
 * One record of the log; offset NO_OFFSET is a tombstone.  An entry that is
 * newer already stays as it is.
 */
void
topics_consumer_offset_load(const GroupOffsetKey *key, const GroupOffsetFacts *facts,
							int64 offset, TimestampTz commit_time,
							int64 record_offset, bool has_metadata)
{
	GroupOffset *entry;
	bool		made;

	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	entry = find_or_make(key, facts, &made);
	if (entry && (!is_committed(entry) ||
				  record_offset > (int64) pg_atomic_read_u64(&entry->record_offset)))
	{
		if (facts)
			entry->facts = *facts;
		entry->has_metadata = has_metadata;
		pg_atomic_write_u64(&entry->commit_time, commit_time);
		pg_atomic_write_u64(&entry->record_offset, record_offset);
		pg_atomic_write_u64(&entry->committed, offset);
	}
	LWLockRelease(table_lock);
	if (entry == NULL)
		report_full();
	if (offset == NO_OFFSET)
		remove_if_unused(key);
}

/* A place to begin, which a subscription's record has. */
void
topics_consumer_offset_load_start(const GroupOffsetKey *key, int64 start)
{
	GroupOffset *entry;
	bool		made;

	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	entry = find_or_make(key, NULL, &made);
	if (entry)
		pg_atomic_write_u64(&entry->start, start);
	LWLockRelease(table_lock);
	if (entry == NULL)
		report_full();
}

/*
 * After the commit of a writer other than us to a log table: if it was, or
 * may have been, the one of __consumer_offsets, it is to be read again.
 */
void
topics_consumer_offset_log_changed(int64 topic_id)
{
	GroupOffsetKey key = loaded_key();
	GroupOffset *entry;

	LWLockAcquire(table_lock, LW_SHARED);
	entry = hash_search(table, &key, HASH_FIND, NULL);
	if (entry)
	{
		int64		offsets_topic_id = pg_atomic_read_u64(&entry->start);

		if (offsets_topic_id == 0 || offsets_topic_id == topic_id)
			pg_atomic_write_u64(&entry->committed, NO_OFFSET);
	}
	LWLockRelease(table_lock);
}

/* ----------------------------------------------------------------
 *		While the transaction runs
 * ----------------------------------------------------------------
 */

static LocalOffset *
local_of(const GroupOffset *shared)
{
	ListCell   *lc;

	foreach(lc, locals)
	{
		LocalOffset *local = lfirst(lc);

		if (local->shared == shared)
			return local;
	}
	return NULL;
}

/* This transaction's own view of an entry, or NULL if it has none. */
LocalOffset *
topics_consumer_offset_find_local(const char *group_id, int64 topic_id, int32 partition)
{
	ListCell   *lc;

	foreach(lc, locals)
	{
		LocalOffset *local = lfirst(lc);
		GroupOffsetKey *key = &local->shared->key;

		if (key->partition == partition && key->topic_id == topic_id &&
			strcmp(key->group_id, group_id) == 0)
			return local;
	}
	return NULL;
}

/*
 * Find or make an entry, and pin it.  A subscription that is made comes
 * together with the places where its partitions begin ("starts"): nobody
 * sees the one without the other.  NULL if there is no room.
 */
static GroupOffset *
make_and_pin(const GroupOffsetKey *key, const GroupOffsetFacts *facts, const int64 *starts)
{
	GroupOffset *entry;
	bool		made;

	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	entry = find_or_make(key, facts, &made);
	if (entry && made && starts)
	{
		GroupOffsetKey place = *key;

		for (place.partition = 0; place.partition < facts->partitions; place.partition++)
		{
			bool		place_made;
			GroupOffset *start = find_or_make(&place, NULL, &place_made);

			if (start == NULL)
			{
				forget_starts(entry);
				hash_search(table, key, HASH_REMOVE, NULL);
				entry = NULL;
				break;
			}
			pg_atomic_write_u64(&start->start, starts[place.partition]);
		}
	}
	if (entry)
		pg_atomic_fetch_add_u32(&entry->pins, 1);
	LWLockRelease(table_lock);
	return entry;
}

/*
 * Have to do with an entry, which is made if need be, with these facts, and
 * stays until the end of the transaction.
 */
LocalOffset *
topics_consumer_offset_use(const char *group_id, int64 topic_id, int32 partition,
						   const GroupOffsetFacts *facts, const int64 *starts)
{
	GroupOffsetKey key = make_key(group_id, topic_id, partition);
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	LocalOffset *local = palloc0(sizeof(LocalOffset));
	LocalOffset *known;
	GroupOffset *entry;

	local->ordinal = -1;
	locals = lappend(locals, local);
	MemoryContextSwitchTo(old);

	LWLockAcquire(table_lock, LW_SHARED);
	entry = hash_search(table, &key, HASH_FIND, NULL);
	if (entry)
		pg_atomic_fetch_add_u32(&entry->pins, 1);
	LWLockRelease(table_lock);
	if (entry == NULL)
		entry = make_and_pin(&key, facts, starts);
	if (entry == NULL)
	{
		locals = list_delete_last(locals);
		report_full();
	}

	known = local_of(entry);
	if (known)
	{
		locals = list_delete_last(locals);
		pg_atomic_fetch_sub_u32(&entry->pins, 1);
		pfree(local);
		return known;
	}
	local->shared = entry;
	return local;
}

/* Is there such a group or subscription, to this transaction? */
bool
topics_consumer_offset_exists(const LocalOffset *local)
{
	return local->change ? !local->change->deleted : is_committed(local->shared);
}

/* The committed offset, as this transaction has changed it, or NO_OFFSET. */
int64
topics_consumer_offset_position(const LocalOffset *local)
{
	if (local->change)
		return local->change->deleted ? NO_OFFSET : local->change->offset;
	return pg_atomic_read_u64(&local->shared->committed);
}

static OffsetChange *
new_change(LocalOffset *local)
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
	change->rewrite_of = 0;
	return change;
}

/* What the entry will be when the transaction commits. */
void
topics_consumer_offset_change(LocalOffset *local, int64 offset, const char *metadata)
{
	OffsetChange *change = new_change(local);

	Assert(local->shared->key.partition == NO_PARTITION ||
		   local->claimed != InvalidSubTransactionId);
	change->offset = offset;
	if (metadata)
		change->metadata = MemoryContextStrdup(TopTransactionContext, metadata);
}

/*
 * It will be no more; whoever waits in the topic, if there is one, is to look
 * again then.
 */
void
topics_consumer_offset_delete(LocalOffset *local, PartitionState *topic_state)
{
	new_change(local)->deleted = true;
	if (topic_state)
		local->topic_state = topic_state;
}

/* Has this transaction deleted it? */
bool
topics_consumer_offset_is_deleted(const LocalOffset *local)
{
	return local->change && local->change->deleted;
}

/* ----------------------------------------------------------------
 *		Claims
 * ----------------------------------------------------------------
 */

/* Raise if the snapshot does not see what the last committer did. */
static void
require_visible(GroupOffset *entry)
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
 * Have a lock until the (sub)transaction ends.  Not longer: a cursor that was
 * opened before a savepoint is the owner of what it locks after it.
 */
static bool
lock(const LOCKTAG *tag, LOCKMODE mode, bool wait)
{
	ResourceOwner old = CurrentResourceOwner;
	bool		locked;

	/* should it fail, the (sub)transaction's abort sets this right */
	CurrentResourceOwner = CurTransactionResourceOwner;
	locked = LockAcquire(tag, mode, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
	CurrentResourceOwner = old;
	return locked;
}

/*
 * Claim a partition for its group until the (sub)transaction ends.  Without
 * "wait", false if another transaction has it.  The topic's state is for
 * waking those who wait for the claim.
 */
bool
topics_consumer_offset_claim(LocalOffset *local, PartitionState *topic_state, bool wait)
{
	LOCKTAG		tag = lock_tag(&local->shared->key);

	if (local->claimed == InvalidSubTransactionId)
	{
		if (!lock(&tag, ExclusiveLock, wait))
			return false;
		local->topic_state = topic_state;
		local->claimed = GetCurrentSubTransactionId();
		local->released = false;
		pg_atomic_write_u32(&local->shared->claimed_by, MyProcPid);
	}
	require_visible(local->shared);
	return true;
}

/*
 * The lock is gone: say so, unless another transaction has it already, and
 * wake who waits.
 */
static void
release_claim(LocalOffset *local)
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
 * come since we looked, which somebody did not get for our claim: wake him.
 */
void
topics_consumer_offset_unclaim(LocalOffset *local)
{
	LOCKTAG		tag = lock_tag(&local->shared->key);
	ResourceOwner old = CurrentResourceOwner;

	Assert(local->claimed == GetCurrentSubTransactionId());
	local->claimed = InvalidSubTransactionId;
	CurrentResourceOwner = CurTransactionResourceOwner;
	LockRelease(&tag, ExclusiveLock, false);
	CurrentResourceOwner = old;
	release_claim(local);
}

/*
 * Write an entry's record anew, as it is, when the transaction commits.  False,
 * if somebody else is about to change it, or has: then there is no need.
 */
bool
topics_consumer_offset_rewrite(const GroupOffset *entry, PartitionState *topic_state,
							   const char *metadata)
{
	GroupOffsetKey key = make_key(entry->key.group_id, NO_TOPIC, NO_PARTITION);
	LOCKTAG		group_tag = lock_tag(&key);
	LocalOffset *local;
	OffsetChange *change;

	/* keep deleters of the group away */
	if (LockAcquire(&group_tag, ShareLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	local = topics_consumer_offset_use(entry->key.group_id, entry->key.topic_id,
									   entry->key.partition, NULL, NULL);
	if (entry->key.partition != NO_PARTITION &&
		!topics_consumer_offset_claim(local, topic_state, false))
		return false;
	if (!is_committed(local->shared) ||
		pg_atomic_read_u64(&local->shared->record_offset) !=
		pg_atomic_read_u64((pg_atomic_uint64 *) &entry->record_offset))
		return false;
	change = new_change(local);
	change->offset = pg_atomic_read_u64(&local->shared->committed);
	change->rewrite_of = (TimestampTz) pg_atomic_read_u64(&local->shared->commit_time);
	if (metadata)
		change->metadata = MemoryContextStrdup(TopTransactionContext, metadata);
	return true;
}

/* Use a group, or exclude everybody else from it, until the transaction ends. */
void
topics_consumer_offset_lock_group(const char *group_id, bool exclusive)
{
	GroupOffsetKey key = make_key(group_id, NO_TOPIC, NO_PARTITION);
	LOCKTAG		tag = lock_tag(&key);

	(void) lock(&tag, exclusive ? ExclusiveLock : ShareLock, true);
}

/* ----------------------------------------------------------------
 *		The end of a transaction
 * ----------------------------------------------------------------
 */

bool
topics_consumer_offset_is_pending(void)
{
	ListCell   *lc;

	foreach(lc, locals)
	{
		LocalOffset *local = lfirst(lc);

		if (local->change || local->claimed != InvalidSubTransactionId)
			return true;
	}
	return false;
}

/*
 * A change of a group or subscription says that it exists; if another
 * transaction has committed that meanwhile, there is nothing to be written.
 */
static bool
is_needed(LocalOffset *local)
{
	if (local->change == NULL)
		return false;
	if (local->change->deleted || local->change->rewrite_of != 0)
		return is_committed(local->shared);
	return local->shared->key.partition != NO_PARTITION || !is_committed(local->shared);
}

/* Before the commit record: records for the transaction's buffer. */
void
topics_consumer_offset_pre_commit(void)
{
	Topic	   *offsets_topic = NULL;
	ListCell   *lc;

	foreach(lc, locals)
	{
		LocalOffset *local = lfirst(lc);

		local->ordinal = -1;
		if (!is_needed(local))
			continue;
		if (offsets_topic == NULL)
		{
			offsets_topic = topics_offset_log_topic();
			offsets_topic_id = offsets_topic->topic_id;
		}
		local->commit_time = local->change->rewrite_of != 0 ? local->change->rewrite_of :
			GetCurrentTimestamp();
		topics_offset_log_add(offsets_topic, local);
	}
}

static void
publish_entry(LocalOffset *local, uint64 xid)
{
	GroupOffset *entry = local->shared;
	OffsetChange *change = local->change;
	int64		offset = change->deleted ? NO_OFFSET : change->offset;
	int64		before = pg_atomic_read_u64(&entry->committed);

	if (before == NO_OFFSET)
		before = pg_atomic_read_u64(&entry->start);
	if (change->deleted)
		pg_atomic_write_u64(&entry->start, NO_OFFSET);
	/* a place that went back, or begins anew, has records again */
	local->wake = change->deleted || (before != NO_OFFSET && offset < before);
	entry->has_metadata = change->metadata != NULL;
	pg_atomic_write_u64(&entry->commit_time, local->commit_time);
	if (change->rewrite_of == 0)
		pg_atomic_write_u64(&entry->commit_xid, xid);
	pg_atomic_write_u64(&entry->record_offset, local->ordinal +
						topics_append_first_offset(offsets_topic_id, local->log_partition));
	pg_atomic_write_u64(&entry->committed, offset);
}

/*
 * After the commit record, with the append locks still held: what was changed
 * holds from now on.  Raises nothing.
 */
void
topics_consumer_offset_publish(void)
{
	uint64		xid = U64FromFullTransactionId(GetTopFullTransactionIdIfAny());
	ListCell   *lc;

	if (locals == NIL)
		return;
	LWLockAcquire(table_lock, LW_SHARED);
	foreach(lc, locals)
	{
		LocalOffset *local = lfirst(lc);

		if (local->ordinal >= 0)
			publish_entry(local, xid);
	}
	LWLockRelease(table_lock);
}

/* A subtransaction's changes and claims become its parent's. */
void
topics_consumer_offset_subcommit(SubTransactionId subxid, SubTransactionId parent)
{
	ListCell   *lc;

	foreach(lc, locals)
	{
		LocalOffset *local = lfirst(lc);
		OffsetChange *change = local->change;

		if (local->claimed == subxid)
			local->claimed = parent;
		if (change == NULL || change->subxid != subxid)
			continue;
		change->subxid = parent;
		if (change->below && change->below->subxid == parent)
			change->below = change->below->below;
	}
}

/* What a subtransaction changed and claimed is as if it had not been. */
void
topics_consumer_offset_subabort(SubTransactionId subxid)
{
	ListCell   *lc;

	foreach(lc, locals)
	{
		LocalOffset *local = lfirst(lc);

		if (local->claimed == subxid)
		{
			local->claimed = InvalidSubTransactionId;
			local->released = true;
		}
		while (local->change && local->change->subxid == subxid)
			local->change = local->change->below;
	}
}

static void
unpin(GroupOffset *entry)
{
	GroupOffsetKey key = entry->key;

	/*
	 * Without a pin the entry may be removed, and its memory be another one's,
	 * while we look at it: the look only tells whether to look again, by key
	 * and with the lock.  Not before the pin is gone: a group may be deleted
	 * in between.
	 */
	if (pg_atomic_sub_fetch_u32(&entry->pins, 1) == 0 && !is_committed(entry))
		remove_if_unused(&key);
}

/*
 * Locks were released, by commit or abort of the transaction, or by abort of
 * a subtransaction.  Raises nothing.
 */
void
topics_consumer_offset_after_locks(bool is_commit, bool is_top_level)
{
	ListCell   *lc;

	if (locals == NIL || (is_commit && !is_top_level))
		return;
	foreach(lc, locals)
	{
		LocalOffset *local = lfirst(lc);

		if (local->released || (is_top_level && local->claimed != InvalidSubTransactionId))
			release_claim(local);
		else if (is_top_level && local->wake && local->topic_state)
			topics_wakeup_topic(local->topic_state);
		if (is_top_level)
			unpin(local->shared);
	}
	if (is_top_level)
		locals = NIL;			/* the memory goes with the transaction */
}
