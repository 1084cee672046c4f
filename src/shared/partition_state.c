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
	int			free_head;		/* first free element, or -1 */
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
init_state(PartitionState *state, const TopicPartition *id, bool is_new)
{
#ifdef USE_ASSERT_CHECKING
	/* a field that was forgotten is to be seen */
	if (is_new)
		memset(state, 0x7f, sizeof(PartitionState));
#endif

	state->id = *id;

	if (is_new)
	{
		LWLockInitialize(&state->append_lock, registry_lock->tranche);
		ConditionVariableInit(&state->append_cv);
		pg_atomic_init_u32(&state->holder, 0);
	}
	set_u64(&state->next_offset, UNKNOWN_OFFSET, is_new);
	set_u64(&state->commit_lsn, InvalidXLogRecPtr, is_new);
	set_u32(&state->append_xid, InvalidTransactionId, is_new);
	set_u32(&state->publish_xid, InvalidTransactionId, is_new);
	set_u64(&state->append_end, 0, is_new);
	state->active_blocks = 0;
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
	state->confirmed_end = 0;
	memset(state->end_at_mark, 0, sizeof(state->end_at_mark));

	set_u32(&state->requests, 0, is_new);
	count_up_u32(&state->foreign_writes, is_new);
	set_u32(&state->foreign_commits, 0, is_new);
	set_u64(&state->wake_at, NOBODY_WAITS, is_new);
	set_u64(&state->log_start_offset, UNKNOWN_OFFSET, is_new);
	set_u64(&state->log_start_sought, UNKNOWN_OFFSET, is_new);

	if (is_new)
	{
		pg_atomic_init_u32(&state->moved, 0);
		state->moved_below = 0;
	}

	state->told_end = 0;

	if (is_new)
		ConditionVariableInit(&state->data_cv);
	set_u32(&state->claim_wanted, 0, is_new);
	count_up_u32(&state->topic_bounds_changes, is_new);

	state->role = ROLE_LEADER;
	state->leader_epoch = 0;

	state->looked_at = false;
	state->lowest_kept = 0;
	state->droppable_bytes = UNKNOWN_BYTES;
	state->compact_at = LOOK_NOW;
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
		shared->nstates = pg_topics_max_partitions;
		shared->free_head = 0;
		for (int i = 0; i < shared->nstates; i++)
		{
			PartitionState *state = &shared->states[i];

			init_state(state, &nobody, true);
			FREE_NEXT(state) = i + 1 < shared->nstates ? i + 1 : -1;
		}
	}

	ctl.keysize = sizeof(TopicPartition);
	ctl.entrysize = sizeof(RegistryEntry);
	state_registry = topics_shmem_init_hash("pg_topics registry", pg_topics_max_partitions,
											&ctl, HASH_ELEM | HASH_BLOBS);
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
take_state(const TopicPartition *id)
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
	init_state(state, id, false);
	return state;
}

/* Raise an error: there is no free element. */
static void
report_no_place(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("too many partitions"),
			 errdetail("All %d places for partitions in shared memory are taken.",
					   pg_topics_max_partitions),
			 errhint("Increase pg_topics.max_partitions and restart the server, or drop topics.")));
}

/*
 * The state of a partition, made if need be: then all is unknown in it, for its
 * users to fill.  The caller knows that the partition exists.
 */
PartitionState *
topics_partition_state_get(const TopicPartition *id)
{
	PartitionState *state = topics_partition_state_find(id);

	if (state)
		return state;

	LWLockAcquire(registry_lock, LW_EXCLUSIVE);
	state = take_state(id);
	LWLockRelease(registry_lock);
	if (state == NULL)
		report_no_place();
	return state;
}

/*
 * Give an element back; the caller holds the registry lock.  A backend that
 * still has a pointer to it reads that the log end is unknown.
 */
static void
give_back_state(RegistryEntry *entry)
{
	PartitionState *state = &shared->states[entry->index];
	int			index = entry->index;

	Assert(LWLockHeldByMeInMode(registry_lock, LW_EXCLUSIVE));
	hash_search(state_registry, &entry->id, HASH_REMOVE, NULL);
	memset(&state->id, 0, sizeof(TopicPartition));
	pg_atomic_write_u64(&state->next_offset, UNKNOWN_OFFSET);
	FREE_NEXT(state) = shared->free_head;
	shared->free_head = index;
	/* a process that waits for the topic's records finds it gone (wakeup.c) */
	ConditionVariableBroadcast(&state->data_cv);
}

/*
 * Give back partitions "from" and up of a topic that is no more.  The caller
 * then calls topics_moved_sort.
 */
void
topics_partition_state_release(int64 topic_id, int32 from)
{
	HASH_SEQ_STATUS seq;
	RegistryEntry *entry;

	LWLockAcquire(registry_lock, LW_EXCLUSIVE);
	hash_seq_init(&seq, state_registry);
	while ((entry = hash_seq_search(&seq)) != NULL)
		if (entry->id.database == MyDatabaseId && entry->id.topic_id == topic_id &&
			entry->id.partition >= from)
			give_back_state(entry);
	LWLockRelease(registry_lock);
}

/*
 * Give back all partitions of a database that is no more.  The caller then
 * calls topics_moved_sort.
 */
void
topics_partition_state_release_database(Oid database)
{
	HASH_SEQ_STATUS seq;
	RegistryEntry *entry;

	LWLockAcquire(registry_lock, LW_EXCLUSIVE);
	hash_seq_init(&seq, state_registry);
	while ((entry = hash_seq_search(&seq)) != NULL)
		if (entry->id.database == database)
			give_back_state(entry);
	LWLockRelease(registry_lock);
}

/*
 * Take places for partitions from .. to-1 of a new topic, all or none, so that
 * the command that creates the topic finds a lack of them, not a producer.
 */
void
topics_partition_state_reserve(int64 topic_id, int32 from, int32 to)
{
	bool		full = false;

	LWLockAcquire(registry_lock, LW_EXCLUSIVE);
	for (int32 partition = from; partition < to && !full; partition++)
	{
		TopicPartition id = {MyDatabaseId, partition, topic_id};
		PartitionState *state = take_state(&id);

		full = state == NULL;
		if (state)
			state->looked_at = true;	/* it is new */
	}
	LWLockRelease(registry_lock);

	if (full)
	{
		topics_partition_state_release(topic_id, from);
		report_no_place();
	}
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
