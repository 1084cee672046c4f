/*-------------------------------------------------------------------------
 *
 * partition_state.c
 *		What all processes share: the state of every partition in use.
 *
 * A fixed array of PartitionState, as large as pg_topics.max_partitions, and
 * a hash table from (database, topic, partition) to an element of it.  An
 * element is taken when its topic is created, or when a backend first needs
 * the partition after a restart, and given back when the topic is dropped.
 * Everything in it can be rebuilt from the log and the catalogue.
 *
 * IN RECOVERY nothing maintains what is shared: a commit is replayed by a
 * process that calls none of our functions, and so is a DROP.  So nobody takes
 * an element then.  A reader on a hot standby has states of its own, private to
 * its process, in which nothing is ever known: it looks everything up in the
 * log and the catalogue.  When recovery ends no element is taken, and the first
 * process that needs one finds it as after a restart.  A private state lives as
 * long as its process, and keeps to be one.  A reader that has met it in
 * recovery, and goes on after that, asks for the shared one
 * (topics_partition_state_current).
 *
 * NO ELEMENT IS LOST.  One is taken by the transaction that creates the topic,
 * which gives it back if it fails (topic_changes.c), or under a lock on the
 * partition's table (catalog.c).  A DROP holds that table exclusively until it
 * has given the element back, so nobody takes one after that.  What a DROP
 * DATABASE leaves is found by the launcher (worker.c).
 *
 * A fixed array rather than dynamic memory: the lock of a partition must stay a
 * lock even for a backend that still holds a pointer to an element which
 * meanwhile belongs to another topic.  Such a backend takes the lock, compares
 * "id" and starts over.
 *
 * LOCKING
 *
 *	registry lock	(LWLock) the hash table, the free list, and
 *		PartitionState.id.  Shared: look a state up.  Exclusive: take one, and
 *		give one back.  Nothing else is acquired while it is held, but the
 *		spinlock of a condition variable, for a broadcast.
 *	append_lock		(LWLock, one for each partition) the right to append to the
 *		partition, and to write what its readers go by.  Taken exclusively
 *		only, and by append_lock.c only, which never waits while it holds one.
 *		The database's lock, held exclusively, stands for all of them.
 *	the lock on the partition's table	(heavyweight) changes of its segments.
 *
 * The struct says which of them guards which field (shared.h).  src/README has
 * the order in which they, and all other locks, are taken.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"
#include "pg_topics.h"

typedef struct PartitionArray
{
	pg_atomic_uint32 unannounced;	/* see
									 * topics_partition_state_count_unannounced */
	int			free_head;		/* first free element, or -1 */
	int			nfree;
	int			nstates;
	PartitionState states[FLEXIBLE_ARRAY_MEMBER];
} PartitionArray;

typedef struct RegistryEntry
{
	TopicPartition id;			/* hash key */
	int			index;
} RegistryEntry;

static PartitionArray *shared = NULL;
static HTAB *state_registry = NULL;
static LWLock *registry_lock = NULL;

/* The states that this process has met in recovery, by their id. */
static HTAB *private_states = NULL;

#define FIRST_PRIVATE 64		/* room for as many at first */

/* The element's link in the free list; free elements have no database. */
#define FREE_NEXT(state) ((state)->id.partition)

static Size
compute_shared_size(void)
{
	return add_size(offsetof(PartitionArray, states),
					mul_size(pg_topics_max_partitions, sizeof(PartitionState)));
}

/* shmem_request_hook */
void
topics_partition_state_shmem_request(void)
{
	RequestAddinShmemSpace(MAXALIGN(compute_shared_size()));
	RequestAddinShmemSpace(hash_estimate_size(pg_topics_max_partitions,
											  sizeof(RegistryEntry)));
	RequestNamedLWLockTranche("pg_topics", 1);
}

static void
set_u32(pg_atomic_uint32 *field, uint32 value, bool is_new)
{
	if (is_new)
		pg_atomic_init_u32(field, value);
	else
		pg_atomic_write_u32(field, value);
}

static void
set_u64(pg_atomic_uint64 *field, uint64 value, bool is_new)
{
	if (is_new)
		pg_atomic_init_u64(field, value);
	else
		pg_atomic_write_u64(field, value);
}

/*
 * Count up, or begin with 0.  A process that compares the count with what it
 * was must never find an old value again.
 */
static void
count_up_u32(pg_atomic_uint32 *field, bool is_new)
{
	if (is_new)
		pg_atomic_init_u32(field, 0);
	else
		pg_atomic_fetch_add_u32(field, 1);
}

/*
 * Make a state one of "id", of which nothing is known.  Every field of the
 * struct has its line here, in the struct's order.
 *
 * Unless the memory is new, processes may still hold a pointer to it, as the
 * state of a topic that was dropped.  They may sleep on it, and a stack or the
 * list of high_watermark.c may have it: so locks, condition variables, the
 * stack's link and "listed" stay as they are.
 */
static void
init_state(PartitionState *state, const TopicPartition *id, int set, bool is_new)
{
#ifdef USE_ASSERT_CHECKING
	/* a field that was forgotten is to be seen */
	if (is_new)
		memset(state, 0x7f, sizeof(PartitionState));
#endif

	state->id = *id;
	state->set = set;

	if (is_new)
	{
		LWLockInitialize(&state->append_lock, registry_lock->tranche);
		ConditionVariableInit(&state->append_cv);
		pg_atomic_init_u32(&state->holder, 0);
	}
	set_u64(&state->next_offset, UNKNOWN_OFFSET, is_new);
	set_u64(&state->commit_lsn, InvalidXLogRecPtr, is_new);
	set_u32(&state->append_xid, InvalidTransactionId, is_new);
	set_u64(&state->publish_xid, InvalidTransactionId, is_new);
	set_u64(&state->append_end, 0, is_new);
	state->active_blocks = 0;
	state->active_toast_bytes = 0;
	state->last_append_time = 0;
	state->active_base = 0;
	state->active_started = 0;
	state->spare_at = NO_LIMIT;
	state->active_file = InvalidOid;

	state->bounds_changes = is_new ? 0 : state->bounds_changes + 1;
	state->append_limit = NO_LIMIT;
	state->cut_end = 0;

	if (is_new)
		pg_atomic_init_u32(&state->listed, 0);
	state->mark = 0;
	state->found_at_mark = 0;
	state->found_position = InvalidXLogRecPtr;
	state->found_confirmed = 0;
	state->confirmed_end = 0;
	state->excluded_by = 0;
	memset(state->end_at_mark, 0, sizeof(state->end_at_mark));

	set_u32(&state->requests, 0, is_new);
	count_up_u32(&state->foreign_writes, is_new);
	set_u32(&state->foreign_commits, 0, is_new);
	set_u32(&state->attacher, 0, is_new);
	set_u64(&state->wake_at, NOBODY_WAITS, is_new);
	set_u64(&state->log_start_offset, UNKNOWN_OFFSET, is_new);
	set_u64(&state->log_start_sought, UNKNOWN_OFFSET, is_new);
	set_u64(&state->leader_end, UNKNOWN_OFFSET, is_new);
	for (int i = 0; i < MAX_FOLLOWERS; i++)
		set_u64(&state->follower_end[i], UNKNOWN_OFFSET, is_new);

	if (is_new)
	{
		pg_atomic_init_u32(&state->moved, 0);
		state->moved_below = 0;
	}

	state->told_end = 0;

	if (is_new)
		ConditionVariableInit(&state->data_cv);
	set_u32(&state->claim_wanted, 0, is_new);
	set_u64(&state->channels_wanted, 0, is_new);

	state->looked_at = false;
	state->stored_floor = 0;
	state->stored_high_watermark = 0;
	state->lowest_kept = DT_NOBEGIN;
	state->retention_looked = 0;
	state->droppable_bytes = UNKNOWN_BYTES;
	state->compact_at = LOOK_NOW;
	state->compact_tries = 0;
	state->compact_not_before = 0;
	memset(&state->drop_delay, 0, sizeof(WorkDelay));
	memset(&state->compact_delay, 0, sizeof(WorkDelay));
}

/* shmem_startup_hook; the caller holds AddinShmemInitLock. */
void
topics_partition_state_shmem_startup(void)
{
	HASHCTL		ctl = {0};
	bool		found;
	const TopicPartition nobody = {InvalidOid, 0, 0};

	registry_lock = &GetNamedLWLockTranche("pg_topics")[0].lock;
	shared = ShmemInitStruct("pg_topics partitions", compute_shared_size(), &found);
	if (!found)
	{
		pg_atomic_init_u32(&shared->unannounced, 0);
		shared->nstates = pg_topics_max_partitions;
		shared->free_head = 0;
		shared->nfree = shared->nstates;
		for (int i = 0; i < shared->nstates; i++)
		{
			PartitionState *state = &shared->states[i];

			init_state(state, &nobody, METADATA_SET, true);
			FREE_NEXT(state) = i + 1 < shared->nstates ? i + 1 : -1;
		}
	}

	ctl.keysize = sizeof(TopicPartition);
	ctl.entrysize = sizeof(RegistryEntry);
	state_registry = topics_shmem_init_hash("pg_topics registry", pg_topics_max_partitions,
											&ctl, HASH_ELEM | HASH_BLOBS);
}

/*
 * Count transactions in progress that put records into segments of their own,
 * and whose messages are not all sent (cut.c).  Raises nothing.
 */
void
topics_partition_state_count_unannounced(int change)
{
	pg_atomic_fetch_add_u32(&shared->unannounced, change);
}

/* Return true if there is such a transaction, which may be visible already. */
bool
topics_partition_state_has_unannounced(void)
{
	bool		result = pg_atomic_read_u32(&shared->unannounced) > 0;

	/* what was sent before it was counted down is there now */
	pg_read_barrier();
	return result;
}

/* The state of a partition, or NULL if nobody has needed it so far. */
PartitionState *
topics_partition_state_find(const TopicPartition *id)
{
	RegistryEntry *entry;
	PartitionState *state;

	LWLockAcquire(registry_lock, LW_SHARED);
	entry = hash_search(state_registry, id, HASH_FIND, NULL);
	state = entry ? &shared->states[entry->index] : NULL;
	LWLockRelease(registry_lock);
	return state;
}

/*
 * The state of "id", in a free element if it has none.  The result is NULL if
 * there is no free element.  The caller holds the registry lock.
 */
static PartitionState *
take_state(const TopicPartition *id, int set)
{
	RegistryEntry *entry;
	PartitionState *state;
	bool		found;

	Assert(LWLockHeldByMeInMode(registry_lock, LW_EXCLUSIVE));

	entry = hash_search(state_registry, id, HASH_FIND, NULL);
	if (entry)
		return &shared->states[entry->index];
	if (shared->free_head < 0)
		return NULL;

	entry = hash_search(state_registry, id, HASH_ENTER_NULL, &found);
	if (entry == NULL)
		return NULL;
	entry->index = shared->free_head;
	state = &shared->states[entry->index];
	shared->free_head = FREE_NEXT(state);
	shared->nfree--;
	init_state(state, id, set, false);
	return state;
}

/* Raise an error: so many elements are wanted, and "nfree" are free. */
static void
report_no_place(int wanted, int nfree)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("too many partitions"),
			 nfree == 0 ?
			 errdetail("All %d places for partitions in shared memory are taken.",
					   pg_topics_max_partitions) :
			 errdetail("%d places for partitions are needed, and %d of %d in shared memory are free.",
					   wanted, nfree, pg_topics_max_partitions),
			 errhint("Increase pg_topics.max_partitions and restart the server, or drop topics.")));
}

/* Return true if all processes share the state. */
static inline bool
is_shared(const PartitionState *state)
{
	return state >= shared->states && state < shared->states + shared->nstates;
}

/* The state of a partition for this process alone, made if need be. */
static PartitionState *
get_private_state(const TopicPartition *id, int set)
{
	PartitionState *state;
	bool		found;

	if (private_states == NULL)
	{
		HASHCTL		ctl = {0};

		StaticAssertStmt(offsetof(PartitionState, id) == 0, "the hash key comes first");
		ctl.keysize = sizeof(TopicPartition);
		ctl.entrysize = sizeof(PartitionState);
		private_states = hash_create("pg_topics private states", FIRST_PRIVATE, &ctl,
									 HASH_ELEM | HASH_BLOBS);
	}
	state = hash_search(private_states, id, HASH_ENTER, &found);
	if (!found)
		init_state(state, id, set, true);
	return state;
}

/*
 * The state of a partition, made if need be: then all is unknown in it, for its
 * users to fill.  The caller has a lock that keeps the partition from being
 * dropped, or makes it.
 */
PartitionState *
topics_partition_state_get(const TopicPartition *id, int set)
{
	PartitionState *state;
	int			nfree;

	if (RecoveryInProgress())
		return get_private_state(id, set);
	state = topics_partition_state_find(id);
	if (state)
		return state;

	LWLockAcquire(registry_lock, LW_EXCLUSIVE);
	state = take_state(id, set);
	nfree = shared->nfree;
	LWLockRelease(registry_lock);
	if (state == NULL)
		report_no_place(1, nfree);
	return state;
}

/*
 * Return true if a state is to be gone by: it is shared, or, as long as
 * recovery goes on, private.
 */
bool
topics_partition_state_is_current(const PartitionState *state)
{
	return is_shared(state) || RecoveryInProgress();
}

/*
 * The state to go by, of a partition whose state was got before, maybe in
 * recovery.  The caller has a lock as for topics_partition_state_get.
 */
PartitionState *
topics_partition_state_current(PartitionState *state)
{
	if (likely(topics_partition_state_is_current(state)))
		return state;
	return topics_partition_state_get(&state->id, state->set);
}

/*
 * Give an element back; the caller holds the registry lock.  A backend that
 * still has a pointer to it reads that the log end is unknown.
 */
static void
give_back_state(PartitionState *state)
{
	Assert(LWLockHeldByMeInMode(registry_lock, LW_EXCLUSIVE));
	hash_search(state_registry, &state->id, HASH_REMOVE, NULL);
	memset(&state->id, 0, sizeof(TopicPartition));
	pg_atomic_write_u64(&state->next_offset, UNKNOWN_OFFSET);
	FREE_NEXT(state) = shared->free_head;
	shared->free_head = topics_partition_state_index(state);
	shared->nfree++;
	/* a process that waits for the topic's records finds it gone (wakeup.c) */
	topics_wakeup_topic(state);
}

/*
 * Give back partitions from .. to-1 of a topic that is no more.  The caller
 * then calls topics_moved_sort.  Raises nothing.
 */
void
topics_partition_state_release(int64 topic_id, int32 from, int32 to)
{
	LWLockAcquire(registry_lock, LW_EXCLUSIVE);
	for (int32 partition = from; partition < to; partition++)
	{
		TopicPartition id = {MyDatabaseId, partition, topic_id};
		RegistryEntry *entry = hash_search(state_registry, &id, HASH_FIND, NULL);

		if (entry)
			give_back_state(&shared->states[entry->index]);
	}
	LWLockRelease(registry_lock);
}

/*
 * Give back all partitions of a database that is no more, or has dropped the
 * extension.  The caller then calls topics_moved_sort.  Raises nothing: the
 * array can be walked after the commit record, the hash table could not, since
 * hash_seq_init may raise.
 */
void
topics_partition_state_release_database(Oid database)
{
	LWLockAcquire(registry_lock, LW_EXCLUSIVE);
	for (int i = 0; i < shared->nstates; i++)
		if (shared->states[i].id.database == database)
			give_back_state(&shared->states[i]);
	LWLockRelease(registry_lock);
}

/*
 * The database with the lowest OID above "after" that has a state, or
 * InvalidOid.
 */
Oid
topics_partition_state_next_database(Oid after)
{
	Oid			result = InvalidOid;

	for (int i = 0; i < shared->nstates; i++)
	{
		Oid			database = *(volatile Oid *) &shared->states[i].id.database;

		if (database > after && (database < result || !OidIsValid(result)))
			result = database;
	}
	return result;
}

/*
 * What was found of a database's partitions by their topics' settings does not
 * hold any more.  Raises nothing.
 */
void
topics_partition_state_look_again(Oid database)
{
	for (int i = 0; i < shared->nstates; i++)
	{
		PartitionState *state = &shared->states[i];

		/* at worst it is another database's by now, and looked at in vain */
		if (state->id.database == database && state->compact_at != COMPACTION_WANTED)
			state->compact_at = LOOK_NOW;
	}
}

/*
 * A database's role in a cluster has changed: its log ends, and what is looked
 * up with them, are looked up anew.  The caller sees to it that nobody
 * appends.  Raises nothing.
 */
void
topics_partition_state_forget_ends(Oid database)
{
	for (int i = 0; i < shared->nstates; i++)
	{
		PartitionState *state = &shared->states[i];

		if (state->id.database != database)
			continue;
		/* who is looking them up right now does so again (log_end.c) */
		pg_atomic_fetch_add_u32(&state->foreign_writes, 1);
		pg_atomic_write_u64(&state->next_offset, UNKNOWN_OFFSET);
	}
}

/*
 * The partitions of a leader set have no marks, and nothing of them is known
 * to be confirmed.  The caller holds the locks of the marks that they had, and
 * of those that they will have.
 */
void
topics_partition_state_forget_marks(Oid database, int set)
{
	for (int i = 0; i < shared->nstates; i++)
	{
		PartitionState *state = &shared->states[i];

		if (state->id.database != database || state->set != set)
			continue;
		state->mark = 0;
		state->found_at_mark = 0;
		state->found_position = InvalidXLogRecPtr;
		state->found_confirmed = 0;
		state->confirmed_end = 0;
		state->excluded_by = 0;
	}
}

/*
 * A number in a leader set is another follower's now, of which nothing is
 * known.
 */
void
topics_partition_state_forget_follower(int set, int number)
{
	for (int i = 0; i < shared->nstates; i++)
		if (shared->states[i].id.database == MyDatabaseId && shared->states[i].set == set)
			pg_atomic_write_u64(&shared->states[i].follower_end[number], UNKNOWN_OFFSET);
}

/*
 * Take places for partitions from .. to-1 of a new topic, all or none, so that
 * the command that creates the topic finds a lack of them, not a producer.
 * Nobody knows them yet.  A state that there is all the same is that of another
 * topic with this id, which an extension had that this transaction has dropped:
 * it is made anew.
 */
void
topics_partition_state_reserve(int64 topic_id, int32 from, int32 to, const LeaderSets *sets)
{
	int			wanted = 0;
	int			nfree;

	LWLockAcquire(registry_lock, LW_EXCLUSIVE);
	for (int32 partition = from; partition < to; partition++)
	{
		TopicPartition id = {MyDatabaseId, partition, topic_id};

		if (hash_search(state_registry, &id, HASH_FIND, NULL) == NULL)
			wanted++;
	}
	nfree = shared->nfree;
	for (int32 partition = from; partition < to && wanted <= nfree; partition++)
	{
		TopicPartition id = {MyDatabaseId, partition, topic_id};
		int			set = topics_leader_set_of(sets, partition);
		PartitionState *state = take_state(&id, set);

		Assert(state != NULL);	/* the hash table has as many places */
		init_state(state, &id, set, false);
		state->looked_at = true;	/* it is new */
	}
	LWLockRelease(registry_lock);
	if (wanted > nfree)
		report_no_place(wanted, nfree);
}

/*
 * A partition that is there is of a leader set.  While a dump is restored its
 * topic's row comes later than its records; there is no cluster then, and all
 * sets are one.  Raises nothing.
 */
void
topics_partition_state_note_set(const TopicPartition *id, int set)
{
	PartitionState *state = topics_partition_state_find(id);

	if (state == NULL || state->set == set)
		return;
	LWLockAcquire(registry_lock, LW_EXCLUSIVE);
	if (memcmp(&state->id, id, sizeof(TopicPartition)) == 0)
		state->set = set;
	LWLockRelease(registry_lock);
}

/* Get the leader set of a topic's partition. */
int
topics_leader_set_of(const LeaderSets *sets, int32 partition)
{
	return sets->count == 0 ? METADATA_SET : sets->sets[partition % sets->count];
}

/* Return the bytes of the active segment, as far as they were published. */
int64
topics_partition_state_active_bytes(const PartitionState *state)
{
	return (int64) state->active_blocks * BLCKSZ + state->active_toast_bytes;
}

/* The place of a state, which is also its place in the order of locks. */
int
topics_partition_state_index(const PartitionState *state)
{
	return state - shared->states;
}

/* The state in a place. */
PartitionState *
topics_partition_state_at(int index)
{
	Assert(index >= 0 && index < shared->nstates);
	return &shared->states[index];
}
