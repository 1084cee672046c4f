/*-------------------------------------------------------------------------
 *
 * shmem.c
 *		What all processes share: the state of every partition in use.
 *
 * A fixed array of PartitionState, as large as pg_topics.max_partitions, and
 * a hash table from (database, topic, partition) to an element of it.  An
 * element is taken when its topic is created, or when a backend first needs
 * the partition after a restart, and given back when the topic is dropped.
 * Everything in it can be rebuilt from the log and the catalogue.
 *
 * A fixed array rather than dynamic memory: the lock of a partition must
 * stay a lock even for a backend that still holds a pointer to an element
 * which meanwhile belongs to another topic.  Such a backend takes the lock,
 * compares "id" and starts over.
 *
 * LOCKING
 *
 *	registry lock	(LWLock) the hash table, the free list, and changes of
 *		PartitionState.id.  Shared: look up.  Exclusive: take, give back.
 *		Nothing else is acquired while it is held, but the spinlock of a
 *		condition variable, for a broadcast.
 *	append_lock		(LWLock, one per partition) exclusive only.  Guards
 *		append_limit, last_append_time, spare_at and the tail_xxx fields, the right to append to the partition, and writing
 *		next_offset, commit_lsn and append_xid, which anybody may read.
 *		Taken by append_lock.c only, which never waits while it holds one.
 *	database lock	(LWLock, one of DATABASE_LOCKS by database OID) held shared
 *		by everybody who holds append locks, exclusive by a transaction with
 *		too many partitions, in place of their append locks.
 *		But tail_started is also set back to 0 when a cut commits, while
 *		append_limit keeps producers away, and to now by who finds it later.
 *	bounds_changes, cut_end	are written by who changes the partition's
 *		segments, one at a time by his lock on the partition's table.
 *	requests, foreign_writes, wake_at, claim_wanted: atomics.
 *	log_start_offset, log_start_sought	atomics that only rise; log_start.c.
 *	lowest_kept, droppable_bytes	what the last who looked has found
 *		(retention.c); others read them without a lock, and at worst look too.
 *	compact_at, looked_at	likewise (compact.c, maintain.c).
 *	moved, moved_below, WorkerSlot.moved	the stack of a database's partitions
 *		whose log end has moved, for NOTIFY (notify.c); see there, below.
 *	WorkerRegistry.mutex	(spinlock) all of the registry of workers but for
 *		the stacks.
 *
 * The order is: heavyweight locks; then append locks and the database lock in
 * any order, none of them waited for while another is held; then what heap's
 * insert takes: the extension lock of a segment, buffers, WAL insertion.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"

#include "compat.h"
#include "pg_topics.h"

/*
 * Database locks are shared by databases whose OIDs collide: harmless, and
 * it saves a registry of databases.
 */
#define DATABASE_LOCKS 64

typedef struct DatabaseGate
{
	ConditionVariable cv;		/* the lock was released, or a giant left */
	pg_atomic_uint32 giants;	/* waiting for the exclusive lock: newcomers
								 * stand back */
} DatabaseGate;

typedef struct TopicsShared
{
	DatabaseGate gates[DATABASE_LOCKS];
	int			free_head;		/* first free element, or -1 */
	int			nstates;
	PartitionState states[FLEXIBLE_ARRAY_MEMBER];
} TopicsShared;

typedef struct RegistryEntry
{
	TopicPartition id;			/* hash key */
	int			index;
} RegistryEntry;

static TopicsShared *shared = NULL;
static HTAB *registry = NULL;
static LWLockPadded *locks = NULL;	/* [0]: registry, then database locks */
static WorkerRegistry *workers = NULL;

/* The element's link in the free list; free elements have no database. */
#define FREE_NEXT(state) ((state)->id.partition)
#define REGISTRY_LOCK (&locks[0].lock)

static Size
shared_size(void)
{
	return add_size(offsetof(TopicsShared, states),
					mul_size(pg_topics_max_partitions, sizeof(PartitionState)));
}

/* shmem_request_hook */
void
topics_shmem_request(void)
{
	RequestAddinShmemSpace(MAXALIGN(shared_size()));
	RequestAddinShmemSpace(MAXALIGN(sizeof(WorkerRegistry)));
	RequestAddinShmemSpace(hash_estimate_size(pg_topics_max_partitions,
											  sizeof(RegistryEntry)));
	RequestNamedLWLockTranche("pg_topics", 1 + DATABASE_LOCKS);
}

static void
state_init(PartitionState *state, const TopicPartition *id)
{
	state->id = *id;
	pg_atomic_write_u64(&state->next_offset, UNKNOWN_OFFSET);
	pg_atomic_write_u64(&state->commit_lsn, InvalidXLogRecPtr);
	pg_atomic_write_u32(&state->append_xid, InvalidTransactionId);
	pg_atomic_write_u64(&state->log_start_offset, UNKNOWN_OFFSET);
	pg_atomic_write_u64(&state->log_start_sought, UNKNOWN_OFFSET);
	pg_atomic_write_u32(&state->requests, 0);
	pg_atomic_write_u64(&state->wake_at, NOBODY_WAITS);
	pg_atomic_write_u32(&state->claim_wanted, 0);
	state->append_limit = NO_LIMIT;
	state->cut_end = 0;
	state->last_append_time = 0;
	state->tail_started = 0;
	state->tail_base = 0;
	state->spare_at = NO_LIMIT;
	state->tail_blocks = 0;
	state->lowest_kept = 0;
	state->droppable_bytes = UNKNOWN_BYTES;
	state->tail_file = InvalidOid;
	state->compact_at = LOOK_NOW;
	state->looked_at = false;
	state->role = ROLE_LEADER;
	state->leader_epoch = 0;
	/* bounds_changes and foreign_writes only ever grow: old readers notice */
	state->bounds_changes++;
	pg_atomic_fetch_add_u32(&state->topic_bounds_changes, 1);
	pg_atomic_fetch_add_u32(&state->foreign_writes, 1);
}

/* shmem_startup_hook */
void
topics_shmem_startup(void)
{
	HASHCTL		ctl = {0};
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	locks = GetNamedLWLockTranche("pg_topics");
	shared = ShmemInitStruct("pg_topics partitions", shared_size(), &found);
	if (!found)
	{
		memset(shared, 0, offsetof(TopicsShared, states));
		for (int i = 0; i < DATABASE_LOCKS; i++)
		{
			ConditionVariableInit(&shared->gates[i].cv);
			pg_atomic_init_u32(&shared->gates[i].giants, 0);
		}
		shared->nstates = pg_topics_max_partitions;
		shared->free_head = 0;
		for (int i = 0; i < shared->nstates; i++)
		{
			PartitionState *state = &shared->states[i];

			memset(state, 0, sizeof(PartitionState));
			LWLockInitialize(&state->append_lock, locks[0].lock.tranche);
			ConditionVariableInit(&state->append_cv);
			pg_atomic_init_u64(&state->next_offset, UNKNOWN_OFFSET);
			pg_atomic_init_u64(&state->commit_lsn, InvalidXLogRecPtr);
			pg_atomic_init_u32(&state->append_xid, InvalidTransactionId);
			pg_atomic_init_u32(&state->foreign_writes, 0);
			pg_atomic_init_u64(&state->log_start_offset, UNKNOWN_OFFSET);
			pg_atomic_init_u64(&state->log_start_sought, UNKNOWN_OFFSET);
			pg_atomic_init_u32(&state->requests, 0);
			pg_atomic_init_u64(&state->wake_at, NOBODY_WAITS);
			pg_atomic_init_u32(&state->moved, 0);
			ConditionVariableInit(&state->data_cv);
			pg_atomic_init_u32(&state->claim_wanted, 0);
			pg_atomic_init_u32(&state->topic_bounds_changes, 0);
			FREE_NEXT(state) = i + 1 < shared->nstates ? i + 1 : -1;
		}
	}

	ctl.keysize = sizeof(TopicPartition);
	ctl.entrysize = sizeof(RegistryEntry);
	registry = topics_shmem_init_hash("pg_topics registry", pg_topics_max_partitions,
									  &ctl, HASH_ELEM | HASH_BLOBS);

	workers = ShmemInitStruct("pg_topics workers", sizeof(WorkerRegistry), &found);
	if (!found)
	{
		memset(workers, 0, sizeof(WorkerRegistry));
		SpinLockInit(&workers->mutex);
		for (int i = 0; i < MAX_WORKERS; i++)
			pg_atomic_init_u32(&workers->slots[i].moved, 0);
		workers->look_again = true;
	}
	LWLockRelease(AddinShmemInitLock);
}

WorkerRegistry *
topics_shmem_workers(void)
{
	return workers;
}

/* Something was asked of this database's worker, if it has one. */
void
topics_shmem_wake_worker(void)
{
	Latch	   *latch = NULL;

	SpinLockAcquire(&workers->mutex);
	for (int i = 0; i < MAX_WORKERS; i++)
		if (workers->slots[i].database == MyDatabaseId && workers->slots[i].pid != 0)
		{
			latch = workers->slots[i].latch;
			workers->slots[i].round_wanted = true;
		}
	SpinLockRelease(&workers->mutex);

	/* the latch is one of PGPROC's: at worst it wakes another process */
	if (latch)
		SetLatch(latch);
}

/* Databases or extensions came or went. */
void
topics_shmem_wake_launcher(void)
{
	Latch	   *latch;

	SpinLockAcquire(&workers->mutex);
	workers->look_again = true;
	latch = workers->launcher;
	SpinLockRelease(&workers->mutex);
	if (latch)
		SetLatch(latch);
}

/* ----------------------------------------------------------------
 *		Partitions that have moved
 *
 * A partition whose log end has moved is pushed onto its database's stack,
 * for the worker to tell of, once: its flag "moved" says that it is in one.
 * A push takes the flag first, then links the partition to the top.  Who pops
 * takes the whole stack, follows the links, and clears each flag before he
 * looks at what the flag was about.  So a producer who finds the flag set has
 * published before that look, and only who holds the flag writes the link.
 * Nobody pops less than everything, so a partition cannot be popped and
 * pushed again under somebody who compares the top.
 *
 * A state can be given to another topic while it is in a stack.  Then it is
 * told of, for nothing, or, if its database is another one now, moved over
 * by who pops it (sort_moved).  A database that has gone has its stack sorted
 * out when its states are given back.
 * ----------------------------------------------------------------
 */

/* The slot of a database; one is taken, if need be.  NULL if all are. */
static WorkerSlot *
slot_of(Oid database)
{
	static WorkerSlot *mine = NULL;
	WorkerSlot *slot = NULL;

	/* a database that we are connected to keeps its slot */
	if (mine && mine->database == database)
		return mine;

	SpinLockAcquire(&workers->mutex);
	for (int i = 0; i < MAX_WORKERS && slot == NULL; i++)
		if (workers->slots[i].database == database)
			slot = &workers->slots[i];
	for (int i = 0; i < MAX_WORKERS && slot == NULL; i++)
		if (!OidIsValid(workers->slots[i].database))
		{
			slot = &workers->slots[i];
			slot->database = database;
			slot->has_extension = true;
			slot->not_before = 0;
		}
	SpinLockRelease(&workers->mutex);
	if (database == MyDatabaseId)
		mine = slot;
	return slot;
}

/*
 * The partition's log end has moved: its database's worker is to say so.  The
 * new end was stored before.  Raises nothing.
 */
void
topics_shmem_push_moved(PartitionState *state)
{
	WorkerSlot *slot;
	Latch	   *latch = NULL;
	uint32		top;

	pg_memory_barrier();
	if (pg_atomic_read_u32(&state->moved) != 0 ||
		pg_atomic_exchange_u32(&state->moved, 1) != 0)
		return;
	slot = OidIsValid(state->id.database) ? slot_of(state->id.database) : NULL;
	if (slot == NULL)
	{
		pg_atomic_write_u32(&state->moved, 0);
		return;
	}

	top = pg_atomic_read_u32(&slot->moved);
	do
	{
		state->moved_below = top;
		pg_write_barrier();
	} while (!pg_atomic_compare_exchange_u32(&slot->moved, &top, topics_shmem_index(state) + 1));
	if (top != 0)
		return;					/* whoever was first has set the latch */

	SpinLockAcquire(&workers->mutex);
	if (slot->pid != 0)
		latch = slot->latch;
	SpinLockRelease(&workers->mutex);
	if (latch)
		SetLatch(latch);
}

/*
 * Take all of a stack into "result", which has room for all states there are.
 * From now on they can be pushed again, so their log ends are to be looked at
 * after this.
 */
int
topics_shmem_pop_moved(WorkerSlot *slot, PartitionState **result)
{
	uint32		top = pg_atomic_exchange_u32(&slot->moved, 0);
	int			count = 0;

	while (top != 0)
	{
		PartitionState *state = &shared->states[top - 1];

		top = state->moved_below;
		pg_atomic_exchange_u32(&state->moved, 0);
		result[count++] = state;
	}
	return count;
}

/* Sort out a stack, some of whose states have another owner now, or none. */
static void
sort_moved(Oid database)
{
	uint32		top = 0;

	for (int i = 0; i < MAX_WORKERS && top == 0; i++)
		if (workers->slots[i].database == database)
			top = pg_atomic_exchange_u32(&workers->slots[i].moved, 0);
	while (top != 0)
	{
		PartitionState *state = &shared->states[top - 1];

		top = state->moved_below;
		pg_atomic_exchange_u32(&state->moved, 0);
		topics_shmem_push_moved(state);
	}
}

/* The state of a partition, or NULL if nobody has needed it so far. */
PartitionState *
topics_shmem_find(const TopicPartition *id)
{
	RegistryEntry *entry;
	PartitionState *state;

	LWLockAcquire(REGISTRY_LOCK, LW_SHARED);
	entry = hash_search(registry, id, HASH_FIND, NULL);
	state = entry ? &shared->states[entry->index] : NULL;
	LWLockRelease(REGISTRY_LOCK);
	return state;
}

/* Take a free element for "id"; the caller holds the registry lock. */
static PartitionState *
take_state(const TopicPartition *id)
{
	RegistryEntry *entry;
	PartitionState *state;
	bool		found;

	Assert(LWLockHeldByMeInMode(REGISTRY_LOCK, LW_EXCLUSIVE));

	entry = hash_search(registry, id, HASH_FIND, NULL);
	if (entry)
		return &shared->states[entry->index];
	if (shared->free_head < 0)
		return NULL;

	entry = hash_search(registry, id, HASH_ENTER_NULL, &found);
	if (entry == NULL)
		return NULL;
	entry->index = shared->free_head;
	state = &shared->states[entry->index];
	shared->free_head = FREE_NEXT(state);
	state_init(state, id);
	return state;
}

static void
report_full(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("too many partitions"),
			 errdetail("All %d places for partitions in shared memory are taken.",
					   pg_topics_max_partitions),
			 errhint("Increase pg_topics.max_partitions and restart the server, or drop topics.")));
}

/*
 * The state of a partition, made if need be: all unknown, for its users to
 * fill.  The caller knows that the partition exists.
 */
PartitionState *
topics_shmem_get(const TopicPartition *id)
{
	PartitionState *state = topics_shmem_find(id);

	if (state)
		return state;

	LWLockAcquire(REGISTRY_LOCK, LW_EXCLUSIVE);
	state = take_state(id);
	LWLockRelease(REGISTRY_LOCK);
	if (state == NULL)
		report_full();
	return state;
}

static void
give_back(RegistryEntry *entry)
{
	PartitionState *state = &shared->states[entry->index];
	int			index = entry->index;

	Assert(LWLockHeldByMeInMode(REGISTRY_LOCK, LW_EXCLUSIVE));
	hash_search(registry, &entry->id, HASH_REMOVE, NULL);
	memset(&state->id, 0, sizeof(TopicPartition));
	pg_atomic_write_u64(&state->next_offset, UNKNOWN_OFFSET);
	FREE_NEXT(state) = shared->free_head;
	shared->free_head = index;
	/* who waits for the topic's records finds it gone (wakeup.c) */
	ConditionVariableBroadcast(&state->data_cv);
}

/* Give back partitions "from" and up of a topic that is no more. */
void
topics_shmem_release(int64 topic_id, int32 from)
{
	HASH_SEQ_STATUS seq;
	RegistryEntry *entry;

	LWLockAcquire(REGISTRY_LOCK, LW_EXCLUSIVE);
	hash_seq_init(&seq, registry);
	while ((entry = hash_seq_search(&seq)) != NULL)
		if (entry->id.database == MyDatabaseId && entry->id.topic_id == topic_id &&
			entry->id.partition >= from)
			give_back(entry);
	LWLockRelease(REGISTRY_LOCK);
	sort_moved(MyDatabaseId);
}

/* Give back everything of a database that is no more. */
void
topics_shmem_release_database(Oid database)
{
	HASH_SEQ_STATUS seq;
	RegistryEntry *entry;

	LWLockAcquire(REGISTRY_LOCK, LW_EXCLUSIVE);
	hash_seq_init(&seq, registry);
	while ((entry = hash_seq_search(&seq)) != NULL)
		if (entry->id.database == database)
			give_back(entry);
	LWLockRelease(REGISTRY_LOCK);
	sort_moved(database);
}

/*
 * Take places for partitions from .. to-1 of a new topic, all or none, so
 * that a lack of them is found by who creates the topic, not by a producer.
 */
void
topics_shmem_reserve(int64 topic_id, int32 from, int32 to)
{
	bool		full = false;

	LWLockAcquire(REGISTRY_LOCK, LW_EXCLUSIVE);
	for (int32 partition = from; partition < to && !full; partition++)
	{
		TopicPartition id = {MyDatabaseId, partition, topic_id};
		PartitionState *state = take_state(&id);

		full = state == NULL;
		if (state)
			state->looked_at = true;	/* it is new */
	}
	LWLockRelease(REGISTRY_LOCK);

	if (full)
	{
		topics_shmem_release(topic_id, from);
		report_full();
	}
}

/* The place of a state, which is also its place in the order of locks. */
int
topics_shmem_index(const PartitionState *state)
{
	return state - shared->states;
}

static int
database_slot(void)
{
	return MyDatabaseId % DATABASE_LOCKS;
}

LWLock *
topics_shmem_database_lock(void)
{
	return &locks[1 + database_slot()].lock;
}

ConditionVariable *
topics_shmem_database_cv(void)
{
	return &shared->gates[database_slot()].cv;
}

pg_atomic_uint32 *
topics_shmem_database_giants(void)
{
	return &shared->gates[database_slot()].giants;
}
