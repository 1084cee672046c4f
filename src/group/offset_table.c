/*-------------------------------------------------------------------------
 *
 * offset_table.c
 *		The current committed offsets, in shared memory.
 *
 * A hash table of entries for all databases, as many as
 * pg_topics.max_group_offsets: groups, their subscriptions, and where they
 * stand in a partition (GroupOffset, group.h).  Transactions change it when
 * they commit (consumer_offset.c); what it holds is rebuilt from the log
 * (offset_log.c).
 *
 * UNCOMMITTED ENTRIES.  The first transaction that uses a group finds no
 * entry, and makes one with committed = NO_OFFSET.  The entry's facts (owner,
 * where to begin) hold for all transactions that come while it is there, and
 * the first one to commit writes its record.  When the last pin goes and none
 * has committed, the entry goes too.  So no transaction waits for a group's
 * first one.
 *
 * LOADED.  state_load.c says whether a database's log has been read: after a
 * restart it has not.
 *
 * IN RECOVERY nobody maintains the table, and what was read into it would be
 * old at once.  So a reader on a hot standby reads the log into a table of its
 * own, private to the process and to the transaction.  The shared table stays
 * empty until recovery has ended.
 *
 * Entries are in a list as well as in the hash table, since those of a topic
 * that was dropped are removed after the commit record: there the list can be
 * walked, but not the hash table (hash_seq_init may raise).
 *
 * LOCKING
 *
 *	table lock	(LWLock) exclusive: add and remove entries, load.  Shared: find
 *		and pin an entry, walk, publish.  A pinned entry stays where it is.
 *	claim	(heavyweight, consumer_offset.c) the right to change "committed" and
 *		what belongs to it; these are atomics, which any process may read.
 *	pins, served, claimed_by: atomics.  has_metadata, facts, of: table lock
 *		(member_table.c).
 *
 * The table lock comes after the append locks (a commit publishes with them
 * held); under it nothing else is acquired but the registry lock
 * (partition_state.c), and the notes of state_load.c.
 *
 * See docs/decisions/0010-committed-offsets.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "base/compat.h"
#include "base/base.h"
#include "group/group.h"
#include "pg_topics.h"

#define FIRST_PRIVATE 256		/* room for as many entries at first */

/* A table of entries, and the list of them. */
typedef struct OffsetTable
{
	HTAB	   *hash;
	dlist_head *all;
} OffsetTable;

static OffsetTable shared_table;
static LWLock *table_lock = NULL;

/* What was read in recovery, until this transaction ends or reads it again. */
static OffsetTable private_table;
static dlist_head private_entries;
static MemoryContext private_cxt = NULL;

/* The one that this process goes by. */
static OffsetTable *table = &shared_table;

void
topics_offset_table_shmem_request(void)
{
	RequestAddinShmemSpace(MAXALIGN(sizeof(dlist_head)));
	RequestAddinShmemSpace(hash_estimate_size(pg_topics_max_group_offsets, sizeof(GroupOffset)));
	RequestNamedLWLockTranche("pg_topics_consumer_offsets", 1);
}

void
topics_offset_table_shmem_startup(void)
{
	HASHCTL		ctl = {0};
	bool		found;

	table_lock = &GetNamedLWLockTranche("pg_topics_consumer_offsets")[0].lock;
	ctl.keysize = sizeof(GroupOffsetKey);
	ctl.entrysize = sizeof(GroupOffset);
	ctl.hash = topics_offset_table_hash_key;
	ctl.match = topics_offset_table_compare_keys;
	shared_table.hash = topics_shmem_init_hash("pg_topics consumer offsets",
											   pg_topics_max_group_offsets, &ctl,
											   HASH_ELEM | HASH_FUNCTION | HASH_COMPARE);
	shared_table.all = ShmemInitStruct("pg_topics consumer offset list", sizeof(dlist_head), &found);
	if (!found)
		dlist_init(shared_table.all);
}

/* MemoryContextCallback: the private table has gone. */
static void
leave_private_table(void *arg)
{
	table = &shared_table;
	private_cxt = NULL;
}

/* Go by the shared table. */
static void
use_shared_table(void)
{
	if (private_cxt)
		MemoryContextDelete(private_cxt);
}

/* Go by a private table, a new one. */
static void
use_private_table(void)
{
	HASHCTL		ctl = {0};
	MemoryContextCallback *callback;

	use_shared_table();
	private_cxt = AllocSetContextCreate(TopTransactionContext, "pg_topics private offsets",
										ALLOCSET_DEFAULT_SIZES);
	callback = MemoryContextAllocZero(private_cxt, sizeof(MemoryContextCallback));
	callback->func = leave_private_table;
	MemoryContextRegisterResetCallback(private_cxt, callback);

	ctl.keysize = sizeof(GroupOffsetKey);
	ctl.entrysize = sizeof(GroupOffset);
	ctl.hash = topics_offset_table_hash_key;
	ctl.match = topics_offset_table_compare_keys;
	ctl.hcxt = private_cxt;
	private_table.hash = hash_create("pg_topics private offsets", FIRST_PRIVATE, &ctl,
									 HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
	private_table.all = &private_entries;
	dlist_init(private_table.all);
	table = &private_table;
}

/* ----------------------------------------------------------------
 *		Entries
 * ----------------------------------------------------------------
 */

/* Count the bytes of a key: of a name's room most is not used. */
static Size
count_key_bytes(const GroupOffsetKey *key)
{
	return offsetof(GroupOffsetKey, group_id) + strlen(key->group_id);
}

/* HashValueFunc */
uint32
topics_offset_table_hash_key(const void *key, Size size)
{
	return hash_bytes(key, count_key_bytes(key));
}

/* HashCompareFunc */
int
topics_offset_table_compare_keys(const void *a, const void *b, Size size)
{
	const Size	bytes = count_key_bytes(a);

	return bytes != count_key_bytes(b) || memcmp(a, b, bytes) != 0;
}

/* Make the key of a group, a subscription or a partition. */
GroupOffsetKey
topics_offset_table_make_key(const char *group_id, int64 topic_id, int32 partition)
{
	GroupOffsetKey key;

	Assert(strlen(group_id) <= MAX_GROUP_ID);
	memset(&key, 0, sizeof(key));
	key.database = MyDatabaseId;
	key.topic_id = topic_id;
	key.partition = partition;
	strlcpy(key.group_id, group_id, sizeof(key.group_id));
	return key;
}

/* Make the tag of the heavyweight lock on what a key is about. */
LOCKTAG
topics_offset_table_make_lock_tag(const GroupOffsetKey *key)
{
	return topics_user_lock_tag(USER_LOCK_OFFSET,
								hash_bytes_extended((const unsigned char *) key, count_key_bytes(key), 0));
}

/*
 * Find an entry, or make it.  Return NULL if there is no room.  The caller
 * holds the table lock exclusively.
 */
static GroupOffset *
find_or_make_entry(const GroupOffsetKey *key, const GroupOffsetFacts *facts, bool *made)
{
	GroupOffset *entry;
	bool		found = false;

	Assert(LWLockHeldByMeInMode(table_lock, LW_EXCLUSIVE));
	*made = false;
	entry = hash_search(table->hash, key, HASH_FIND, NULL);
	if (entry)
		return entry;
	if (table == &private_table)
		entry = hash_search(table->hash, key, HASH_ENTER, &found);
	else if (hash_get_num_entries(table->hash) < pg_topics_max_group_offsets)
		entry = hash_search(table->hash, key, HASH_ENTER_NULL, &found);
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
	pg_atomic_init_u64(&entry->parted_at, NO_OFFSET);
	pg_atomic_init_u64(&entry->served, 0);
	pg_atomic_init_u32(&entry->claimed_by, 0);
	pg_atomic_init_u32(&entry->pins, 0);
	if (is_members_partition(key->partition))
		dlist_init(&entry->of.head.members);
	else
		pg_atomic_init_u64(&entry->of.assigned.position, NO_OFFSET);
	dlist_push_tail(table->all, &entry->link);
	return entry;
}

/* Remove an entry.  Raises nothing.  The caller holds the table lock. */
static void
remove_entry(OffsetTable *from, GroupOffset *entry)
{
	topics_member_table_detach(entry);
	dlist_delete(&entry->link);
	(void) hash_search(from->hash, &entry->key, HASH_REMOVE, NULL);
}

/* Raise an error: there is no room for so many entries. */
void
topics_offset_table_report_full(int wanted)
{
	int64		nfree;

	LWLockAcquire(table_lock, LW_SHARED);
	nfree = pg_topics_max_group_offsets - hash_get_num_entries(shared_table.hash);
	LWLockRelease(table_lock);
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("too many committed offsets of consumer groups"),
			 nfree > 0 && wanted > nfree ?
			 errdetail("%d places for them are needed, and " INT64_FORMAT " of %d in shared memory are free; each group takes one, and one more per topic and per partition.",
					   wanted, nfree, pg_topics_max_group_offsets) :
			 errdetail("All %d places for them in shared memory are taken; each group takes one, and one more per topic and per partition.",
					   pg_topics_max_group_offsets),
			 errhint("Increase pg_topics.max_group_offsets and restart the server, or delete groups with topics.delete_group().")));
}

/* Return true if a member has a partition, or is to have it. */
static bool
is_entry_assigned(const GroupOffset *entry)
{
	return entry->key.partition >= 0 && (entry->of.assigned.owner || entry->of.assigned.target);
}

/* Forget where a group begins, together with the subscription that says so. */
static void
forget_starts(const GroupOffset *subscription)
{
	GroupOffsetKey key = subscription->key;

	Assert(LWLockHeldByMeInMode(table_lock, LW_EXCLUSIVE));
	for (key.partition = 0; key.partition < subscription->facts.partitions; key.partition++)
	{
		GroupOffset *entry = hash_search(table->hash, &key, HASH_FIND, NULL);

		if (entry == NULL)
			continue;
		pg_atomic_write_u64(&entry->start, NO_OFFSET);
		if (!is_entry_committed(entry) && !is_entry_assigned(entry) && pg_atomic_read_u32(&entry->pins) == 0)
			remove_entry(table, entry);
	}
}

/*
 * Return true if an entry of a partition is kept though nothing is committed
 * there.  The entry knows whose the partition is, and when it was served last.
 * Without that, a partition whose records make every transaction fail would
 * always be the next one.
 */
static bool
is_entry_remembered(GroupOffset *entry)
{
	GroupOffsetKey key = entry->key;
	GroupOffset *subscription;

	if (key.partition < 0)
		return false;
	if ((int64) pg_atomic_read_u64(&entry->start) != NO_OFFSET || is_entry_assigned(entry))
		return true;
	key.partition = NO_PARTITION;
	subscription = hash_search(table->hash, &key, HASH_FIND, NULL);
	return subscription && is_entry_committed(subscription) && pg_atomic_read_u64(&entry->served) != 0;
}

/*
 * Remove an entry if it is not needed: neither committed nor pinned.  The
 * caller holds the table lock exclusively.
 */
void
topics_offset_table_trim(GroupOffset *entry)
{
	bool		is_subscription = entry->key.topic_id != NO_TOPIC && entry->key.partition == NO_PARTITION;

	Assert(LWLockHeldByMeInMode(table_lock, LW_EXCLUSIVE));
	if (is_entry_committed(entry) || pg_atomic_read_u32(&entry->pins) > 0)
		return;
	if (is_subscription && entry->facts.reset == RESET_LATEST)
		forget_starts(entry);
	if (!is_entry_remembered(entry))
		remove_entry(table, entry);
}

/* Remove the entry of a key if there is one that is not needed. */
static void
remove_unused_entry(const GroupOffsetKey *key)
{
	GroupOffset *entry;

	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	entry = hash_search(table->hash, key, HASH_FIND, NULL);
	if (entry)
		topics_offset_table_trim(entry);
	LWLockRelease(table_lock);
}

/* Pin an entry as topics_offset_table_pin does, if there was none just now. */
static GroupOffset *
make_and_pin_entry(const GroupOffsetKey *key, const GroupOffsetFacts *facts, const int64 *starts,
				   uint32 *pins)
{
	GroupOffset *entry;
	bool		made;

	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	entry = find_or_make_entry(key, facts, &made);
	if (entry && made && starts)
	{
		GroupOffsetKey place = *key;

		for (place.partition = 0; place.partition < facts->partitions; place.partition++)
		{
			bool		place_made;
			GroupOffset *start = find_or_make_entry(&place, NULL, &place_made);

			if (start == NULL)
			{
				forget_starts(entry);
				remove_entry(table, entry);
				entry = NULL;
				break;
			}
			pg_atomic_write_u64(&start->start, starts[place.partition]);
		}
	}
	if (entry)
		*pins = pg_atomic_fetch_add_u32(&entry->pins, 1);
	LWLockRelease(table_lock);
	return entry;
}

/*
 * Pin an entry.  It is made if there is none, with these facts; a subscription
 * together with where the group begins in each partition ("starts"): no
 * process sees the one without the other.  *pins is how many pins the entry
 * had.  Return NULL if there is no room.
 */
GroupOffset *
topics_offset_table_pin(const GroupOffsetKey *key, const GroupOffsetFacts *facts,
						const int64 *starts, uint32 *pins)
{
	GroupOffset *entry;

	LWLockAcquire(table_lock, LW_SHARED);
	entry = hash_search(table->hash, key, HASH_FIND, NULL);
	if (entry)
		*pins = pg_atomic_fetch_add_u32(&entry->pins, 1);
	LWLockRelease(table_lock);
	return entry ? entry : make_and_pin_entry(key, facts, starts, pins);
}

/*
 * Lock the table: shared, to store what was committed in entries that are
 * pinned; and for what member_table.c does.
 */
void
topics_offset_table_lock(LWLockMode mode)
{
	LWLockAcquire(table_lock, mode);
}

bool
topics_offset_table_is_locked(LWLockMode mode)
{
	return LWLockHeldByMeInMode(table_lock, mode);
}

void
topics_offset_table_unlock(void)
{
	LWLockRelease(table_lock);
}

/* Let go of an entry that was pinned.  Raises nothing. */
void
topics_offset_table_unpin(GroupOffset *entry)
{
	GroupOffsetKey key = entry->key;

	/*
	 * Without a pin the entry may be removed, and its memory be another
	 * one's, while we look at it.  So this look only tells whether to look
	 * again, by key and with the lock.  It comes after the pin is gone, not
	 * before: the group may be deleted in between.
	 */
	if (pg_atomic_sub_fetch_u32(&entry->pins, 1) == 0 && !is_entry_committed(entry))
		remove_unused_entry(&key);
}

/* Copy an entry as it is now.  Return false if there is none. */
bool
topics_offset_table_peek(const char *group_id, int64 topic_id, int32 partition, GroupOffset *copy)
{
	GroupOffsetKey key = topics_offset_table_make_key(group_id, topic_id, partition);
	GroupOffset *entry;

	LWLockAcquire(table_lock, LW_SHARED);
	entry = hash_search(table->hash, &key, HASH_FIND, NULL);
	if (entry)
		*copy = *entry;
	LWLockRelease(table_lock);
	return entry != NULL;
}

/*
 * Find an entry.  The caller holds the table lock.
 */
GroupOffset *
topics_offset_table_find(const GroupOffsetKey *key)
{
	return hash_search(table->hash, key, HASH_FIND, NULL);
}

/* Return true if a list of this group and this topic has the entry. */
static bool
is_entry_listed(GroupOffset *entry, const char *group_id, int64 topic_id)
{
	if (entry->key.database != MyDatabaseId)
		return false;
	if (topic_id != NO_TOPIC && entry->key.topic_id != topic_id)
		return false;
	if (group_id)
		return strcmp(entry->key.group_id, group_id) == 0;
	return is_entry_committed(entry) || pg_atomic_read_u32(&entry->claimed_by) != 0;
}

/*
 * Copy the entries of a list into "result", which has room for so many.  Return
 * their number, or -1 if there are more.
 */
static int
copy_entries(const char *group_id, int64 topic_id, GroupOffset *result, int64 room)
{
	dlist_iter	iter;
	int			count = 0;

	LWLockAcquire(table_lock, LW_SHARED);
	dlist_foreach(iter, table->all)
	{
		GroupOffset *entry = dlist_container(GroupOffset, link, iter.cur);

		if (!is_entry_listed(entry, group_id, topic_id))
			continue;
		if (count >= room)
		{
			count = -1;
			break;
		}
		result[count++] = *entry;
	}
	LWLockRelease(table_lock);
	return count;
}

/*
 * List the entries of a group, in any state, or with NULL those of this
 * database's groups that are committed or claimed; only those of a topic, or
 * with NO_TOPIC of all.  The result is palloc'd copies.
 *
 * None that was committed before the call is missing: a transaction that drops
 * a topic writes tombstones for all of them.  Memory is not allocated under the
 * lock, so entries may be added before they are copied.  The copies come in any
 * order, so if there are too many of them, all is done anew.
 */
GroupOffset *
topics_offset_table_list(const char *group_id, int64 topic_id, int *count)
{
	for (;;)
	{
		GroupOffset *result;
		int64		room;

		LWLockAcquire(table_lock, LW_SHARED);
		room = hash_get_num_entries(table->hash);
		LWLockRelease(table_lock);
		TEST_POINT("offsets-counted");

		result = MemoryContextAllocHuge(CurrentMemoryContext, Max(room, 1) * sizeof(GroupOffset));
		*count = copy_entries(group_id, topic_id, result, room);
		if (*count >= 0)
			return result;
		pfree(result);
	}
}

/* In place of a leader set: all of them */
#define ALL_SETS (-1)

/*
 * Return true if an entry may be of a leader set.  Of a partition of which
 * nothing is in shared memory nobody uses a place.
 */
static bool
may_be_of_set(const GroupOffset *entry, int set)
{
	const TopicPartition id = {entry->key.database, entry->key.partition, entry->key.topic_id};
	const PartitionState *state;

	if (set == ALL_SETS)
		return true;
	if (is_members_partition(entry->key.partition))
		return set == get_members_set(entry->key.partition);
	if (entry->key.partition < 0)
		return set == METADATA_SET;
	if (entry->of.assigned.owner)
		return set == entry->of.assigned.owner->key.set;
	if (entry->of.assigned.target)
		return set == entry->of.assigned.target->key.set;
	state = topics_partition_state_find(&id);
	return state == NULL || state->set == set;
}

/*
 * Nothing is committed any more in a topic, or with NO_TOPIC in a database, in
 * a leader set: remove the entries, but for those that are pinned.  Raises
 * nothing.
 */
static void
remove_entries(Oid database, int64 topic_id, int set)
{
	dlist_mutable_iter iter;

	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	if (topic_id == NO_TOPIC)
		topics_state_load_forget(database, STATE_OFFSETS);
	dlist_foreach_modify(iter, shared_table.all)
	{
		GroupOffset *entry = dlist_container(GroupOffset, link, iter.cur);

		if (entry->key.database != database ||
			(topic_id != NO_TOPIC && entry->key.topic_id != topic_id) || !may_be_of_set(entry, set))
			continue;
		pg_atomic_write_u64(&entry->committed, NO_OFFSET);
		pg_atomic_write_u64(&entry->start, NO_OFFSET);
		/* the log may have been truncated below that */
		pg_atomic_write_u64(&entry->record_offset, 0);
		pg_atomic_write_u64(&entry->parted_at, NO_OFFSET);
		topics_member_table_detach(entry);
		if (pg_atomic_read_u32(&entry->pins) == 0)
			remove_entry(&shared_table, entry);
	}
	LWLockRelease(table_lock);
}

/* Forget a topic that is no more: its id is never used again. */
void
topics_offset_table_forget_topic(int64 topic_id)
{
	remove_entries(MyDatabaseId, topic_id, ALL_SETS);
}

void
topics_offset_table_forget_database(Oid database)
{
	remove_entries(database, NO_TOPIC, ALL_SETS);
}

/*
 * Forget what is of a leader set, as this node has another role there: it is
 * read again.  What is of others may be in use, and stays.
 */
void
topics_offset_table_forget_set(int set)
{
	remove_entries(MyDatabaseId, NO_TOPIC, set);
}

/*
 * The database with the lowest OID above "after" that has an entry, or
 * InvalidOid.
 */
Oid
topics_offset_table_next_database(Oid after)
{
	dlist_iter	iter;
	Oid			result = InvalidOid;

	LWLockAcquire(table_lock, LW_SHARED);
	dlist_foreach(iter, shared_table.all)
	{
		Oid			database = dlist_container(GroupOffset, link, iter.cur)->key.database;

		if (database > after && (database < result || !OidIsValid(result)))
			result = database;
	}
	LWLockRelease(table_lock);
	return result;
}

/* ----------------------------------------------------------------
 *		Loading: offset_log.c reads the log
 * ----------------------------------------------------------------
 */

/*
 * Return true if the log is still to be read.  Then the caller does that, and
 * calls topics_offset_table_end_load.  With "may_be_old"
 * what other nodes have committed in the last moments may be lacking.  In
 * recovery it is to be read each time, by each process for itself.
 */
bool
topics_offset_table_begin_load(bool may_be_old)
{
	if (RecoveryInProgress())
	{
		use_private_table();
		return true;
	}
	use_shared_table();
	return topics_state_load_begin(STATE_OFFSETS, may_be_old);
}

/*
 * The log of this topic has been read, or NO_TOPIC if there was none.  Return
 * false if what was read has been forgotten: then the caller begins anew.
 */
bool
topics_offset_table_end_load(int64 offsets_topic_id)
{
	/* what was read in recovery is good for now only, even if that is over */
	return table == &private_table || topics_state_load_end(STATE_OFFSETS, offsets_topic_id);
}

/*
 * Store what a record of the log says; offset NO_OFFSET is a tombstone.  An
 * entry that is newer already stays as it is.  "parted_at" is where the log
 * parted from what the group had consumed, or NO_OFFSET.
 */
void
topics_offset_table_load_record(const GroupOffsetKey *key, const GroupOffsetFacts *facts,
								int64 offset, TimestampTz commit_time,
								int64 record_offset, int64 parted_at, bool has_metadata)
{
	GroupOffset *entry;
	bool		made;

	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	entry = find_or_make_entry(key, facts, &made);
	if (entry && record_offset >= (int64) pg_atomic_read_u64(&entry->record_offset))
	{
		if (facts)
			entry->facts = *facts;
		entry->has_metadata = has_metadata;
		pg_atomic_write_u64(&entry->commit_time, commit_time);
		pg_atomic_write_u64(&entry->record_offset, record_offset);
		pg_atomic_write_u64(&entry->parted_at, parted_at);
		pg_atomic_write_u64(&entry->committed, offset);
	}
	LWLockRelease(table_lock);
	if (entry == NULL)
		topics_offset_table_report_full(1);
	if (offset == NO_OFFSET)
		remove_unused_entry(key);
}

/* Store where a group begins in a partition, as its subscription says. */
void
topics_offset_table_load_start(const GroupOffsetKey *key, int64 start)
{
	GroupOffset *entry;
	bool		made;

	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	entry = find_or_make_entry(key, NULL, &made);
	if (entry)
		pg_atomic_write_u64(&entry->start, start);
	LWLockRelease(table_lock);
	if (entry == NULL)
		topics_offset_table_report_full(1);
}
