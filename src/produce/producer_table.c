/*-------------------------------------------------------------------------
 *
 * producer_table.c
 *		The current sequences of producers, in shared memory.
 *
 * A hash table of entries for all databases, as many as
 * pg_topics.max_producers: producers that have a name, and where each producer
 * that numbers its records stands in a partition.  Transactions change it when
 * they commit (producer.c); what it holds is rebuilt from the log
 * (producer_log.c).
 *
 * RESERVED ENTRIES.  What a commit stores needs a place, and nothing can fail
 * after the commit record.  So a transaction that finds none makes the entry
 * before, with NO_EPOCH; when it has ended, and nothing was stored, the entry
 * goes.  No other transaction does so meanwhile, nor removes one that was
 * found: each has locked the producer's sequence in the partition
 * (producer.c).
 *
 * Entries are in a list as well as in the hash table, since those of a topic
 * that was dropped are removed after the commit record: there the list can be
 * walked, but not the hash table (hash_seq_init may raise).
 *
 * LOCKING
 *
 *	table lock	(LWLock) exclusive: add, change and remove entries.
 *				Shared: copy them.
 *
 * The table lock comes after the append locks (a commit publishes with them
 * held); under it nothing else is acquired but the registry lock
 * (partition_state.c), and the notes of state_load.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "produce/producer.h"

#define ALL_SETS (-1)			/* in place of a leader set */

static HTAB *table = NULL;
static dlist_head *all = NULL;
static LWLock *table_lock = NULL;

void
topics_producer_table_shmem_request(void)
{
	RequestAddinShmemSpace(MAXALIGN(sizeof(dlist_head)));
	RequestAddinShmemSpace(hash_estimate_size(pg_topics_max_producers, sizeof(ProducerEntry)));
	RequestNamedLWLockTranche("pg_topics_producers", 1);
}

void
topics_producer_table_shmem_startup(void)
{
	HASHCTL		ctl = {.keysize = sizeof(ProducerKey),.entrysize = sizeof(ProducerEntry)};
	bool		found;

	table_lock = &GetNamedLWLockTranche("pg_topics_producers")[0].lock;
	table = topics_shmem_init_hash("pg_topics producers", pg_topics_max_producers, &ctl,
								   HASH_ELEM | HASH_BLOBS);
	all = ShmemInitStruct("pg_topics producer list", sizeof(dlist_head), &found);
	if (!found)
		dlist_init(all);
}

/*
 * Find an entry, or make it, whose record is to be in a partition of the log.
 * Return NULL if there is no room.  The caller holds the lock.
 */
static ProducerEntry *
find_or_make_entry(const ProducerKey *key, int32 log_partition)
{
	ProducerEntry *entry = hash_search(table, key, HASH_FIND, NULL);

	Assert(LWLockHeldByMeInMode(table_lock, LW_EXCLUSIVE));
	if (entry)
		return entry;
	if (hash_get_num_entries(table) >= pg_topics_max_producers)
		return NULL;
	entry = hash_search(table, key, HASH_ENTER_NULL, NULL);
	if (entry == NULL)
		return NULL;
	memset(&entry->state, 0, sizeof(entry->state));
	entry->state.epoch = NO_EPOCH;
	entry->log_partition = log_partition;
	entry->record_offset = -1;
	dlist_push_tail(all, &entry->link);
	return entry;
}

/* Remove an entry.  Raises nothing.  The caller holds the lock. */
static void
remove_entry(ProducerEntry *entry)
{
	dlist_delete(&entry->link);
	(void) hash_search(table, &entry->key, HASH_REMOVE, NULL);
}

static void
report_full(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("too many producers that number their records"),
			 errdetail("All %d places for them in shared memory are taken; each takes one per partition, and one if it has a name.",
					   pg_topics_max_producers),
			 errhint("Increase pg_topics.max_producers and restart the server.")));
}

/* Copy what is committed.  Return false if that is nothing. */
bool
topics_producer_table_peek(const ProducerKey *key, ProducerState *state)
{
	ProducerEntry *entry;
	bool		found;

	LWLockAcquire(table_lock, LW_SHARED);
	entry = hash_search(table, key, HASH_FIND, NULL);
	found = entry && entry->state.epoch != NO_EPOCH;
	if (found)
		*state = entry->state;
	LWLockRelease(table_lock);
	return found;
}

/*
 * Find the producer of this database that has a name.  Return false if there
 * is none.  Of several it is the latest: a node may have missed that one has
 * expired (make_topic.c).
 */
bool
topics_producer_table_find_name(const char *name, ProducerKey *key, ProducerState *state)
{
	dlist_iter	iter;
	bool		found = false;

	LWLockAcquire(table_lock, LW_SHARED);
	dlist_foreach(iter, all)
	{
		const ProducerEntry *entry = dlist_container(ProducerEntry, link, iter.cur);

		if (entry->key.database != MyDatabaseId || entry->state.epoch == NO_EPOCH ||
			!topics_producer_has_name(&entry->key) || strcmp(entry->state.name, name) != 0 ||
			(found && entry->state.used_at <= state->used_at))
			continue;
		*key = entry->key;
		*state = entry->state;
		found = true;
	}
	LWLockRelease(table_lock);
	return found;
}

/* Find when a producer was last used: in any partition, or its name. */
TimestampTz
topics_producer_table_last_use(int64 producer_id)
{
	dlist_iter	iter;
	TimestampTz result = 0;

	LWLockAcquire(table_lock, LW_SHARED);
	dlist_foreach(iter, all)
	{
		const ProducerEntry *entry = dlist_container(ProducerEntry, link, iter.cur);

		if (entry->key.producer_id == producer_id && entry->key.database == MyDatabaseId &&
			entry->state.epoch != NO_EPOCH)
			result = Max(result, entry->state.used_at);
	}
	LWLockRelease(table_lock);
	return result;
}

/* Have an entry, for what the commit will store. */
void
topics_producer_table_reserve(const ProducerKey *key, int32 log_partition)
{
	ProducerEntry *entry;

	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	entry = find_or_make_entry(key, log_partition);
	LWLockRelease(table_lock);
	if (entry == NULL)
		report_full();
}

/* Remove an entry in which nothing was stored.  Raises nothing. */
void
topics_producer_table_unreserve(const ProducerKey *key)
{
	ProducerEntry *entry;

	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	entry = hash_search(table, key, HASH_FIND, NULL);
	if (entry && entry->state.epoch == NO_EPOCH)
		remove_entry(entry);
	LWLockRelease(table_lock);
}

/*
 * Store what was committed, in an entry that was reserved; NULL: it is no
 * more.  Raises nothing.  If the entry has gone, this node has got another
 * role, and will read the log.
 */
void
topics_producer_table_store(const ProducerKey *key, const ProducerState *state, int32 log_partition,
							int64 record_offset)
{
	ProducerEntry *entry;

	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	entry = hash_search(table, key, HASH_FIND, NULL);
	if (entry && state)
	{
		entry->state = *state;
		entry->log_partition = log_partition;
		entry->record_offset = record_offset;
	}
	else if (entry)
		remove_entry(entry);
	LWLockRelease(table_lock);
}

/*
 * Store what a record of the log says; NULL is a tombstone.  An entry that is
 * newer already stays as it is.  Return false if there is no room.
 */
bool
topics_producer_table_load(const ProducerKey *key, const ProducerState *state, int32 log_partition,
						   int64 record_offset)
{
	ProducerEntry *entry;

	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	entry = state ? find_or_make_entry(key, log_partition) : hash_search(table, key, HASH_FIND, NULL);
	if (entry && record_offset > entry->record_offset)
	{
		if (state)
		{
			entry->state = *state;
			entry->log_partition = log_partition;
			entry->record_offset = record_offset;
		}
		else if (entry->state.epoch != NO_EPOCH)
			remove_entry(entry);
	}
	LWLockRelease(table_lock);
	return entry != NULL || state == NULL;
}

/*
 * Copy the entries of a list into "result", which has room for so many.
 * Return their number.
 */
static int
copy_entries(int64 topic_id, ProducerEntry *result, int64 room)
{
	dlist_iter	iter;
	int			count = 0;

	LWLockAcquire(table_lock, LW_SHARED);
	dlist_foreach(iter, all)
	{
		const ProducerEntry *entry = dlist_container(ProducerEntry, link, iter.cur);

		if (entry->key.database != MyDatabaseId || entry->state.epoch == NO_EPOCH ||
			(topic_id != 0 && entry->key.topic_id != topic_id))
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
 * List the entries of this database, or only those of a topic.  The result is
 * palloc'd copies.  Memory is not allocated under the lock, so if there are
 * more by then, all is done anew.
 */
ProducerEntry *
topics_producer_table_list(int64 topic_id, int *count)
{
	for (;;)
	{
		ProducerEntry *result;
		int64		room;

		LWLockAcquire(table_lock, LW_SHARED);
		room = hash_get_num_entries(table);
		LWLockRelease(table_lock);
		result = MemoryContextAllocHuge(CurrentMemoryContext, Max(room, 1) * sizeof(ProducerEntry));
		*count = copy_entries(topic_id, result, room);
		if (*count >= 0)
			return result;
		pfree(result);
	}
}

/* ----------------------------------------------------------------
 *		Forgetting
 * ----------------------------------------------------------------
 */

/*
 * Return true if an entry is of a leader set: its record is in a partition of
 * that one.
 */
static bool
is_of_set(const ProducerEntry *entry, int set)
{
	return set == ALL_SETS || topics_producer_log_set_of_partition(entry->log_partition) == set;
}

/*
 * Remove the entries of a topic, or with 0 of a database, in a leader set.
 * Raises nothing.
 */
static void
remove_entries(Oid database, int64 topic_id, int set)
{
	dlist_mutable_iter iter;

	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	if (topic_id == 0)
		topics_state_load_forget(database, STATE_PRODUCERS);
	dlist_foreach_modify(iter, all)
	{
		ProducerEntry *entry = dlist_container(ProducerEntry, link, iter.cur);

		if (entry->key.database == database &&
			(topic_id == 0 || entry->key.topic_id == topic_id) && is_of_set(entry, set))
			remove_entry(entry);
	}
	LWLockRelease(table_lock);
}

/* Forget a topic that is no more: its id is never used again. */
void
topics_producer_table_forget_topic(int64 topic_id)
{
	remove_entries(MyDatabaseId, topic_id, ALL_SETS);
}

void
topics_producer_table_forget_database(Oid database)
{
	topics_state_load_forget_left_out(database, STATE_PRODUCERS);
	remove_entries(database, 0, ALL_SETS);
}

/*
 * Forget what is of a leader set, as this node has another role there: it is
 * read again.
 */
void
topics_producer_table_forget_set(int set)
{
	remove_entries(MyDatabaseId, 0, set);
}

/*
 * The database with the lowest OID above "after" that has an entry, or
 * InvalidOid.
 */
Oid
topics_producer_table_next_database(Oid after)
{
	dlist_iter	iter;
	Oid			result = InvalidOid;

	LWLockAcquire(table_lock, LW_SHARED);
	dlist_foreach(iter, all)
	{
		Oid			database = dlist_container(ProducerEntry, link, iter.cur)->key.database;

		if (database > after && (database < result || !OidIsValid(result)))
			result = database;
	}
	LWLockRelease(table_lock);
	return result;
}
