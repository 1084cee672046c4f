/*-------------------------------------------------------------------------
 *
 * worker_registry.c
 *		What the launcher and the workers of databases know of each other,
 *		and how other processes wake them, or send them away.
 *
 * A fixed array of slots in shared memory, one for each database that has a
 * worker, or has partitions that a worker should know of.  A slot stays the
 * database's until the launcher finds the database gone.
 *
 * A worker or a compactor is in its slot from the moment it says so (enter)
 * until it ends (leave).  The launcher starts a worker for a slot that has
 * none; one that was started and has not entered yet finds in enter whether it
 * may stay.
 *
 * LOCKING
 *
 *	mutex	(spinlock) the whole registry.  Nothing is called while it is held.
 *		A latch is set after it was released.  It is one of PGPROC's, so at
 *		worst it wakes another process.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "shared/shared.h"

typedef struct WorkerRegistry
{
	slock_t		mutex;			/* guards all below */
	Latch	   *launcher;
	bool		look_again;		/* databases or extensions came or went */
	bool		hinted;			/* the lack of worker processes was logged */
	WorkerSlot	slots[MAX_WORKERS];
} WorkerRegistry;

static WorkerRegistry *registry = NULL;

/* shmem_request_hook */
void
topics_worker_registry_shmem_request(void)
{
	RequestAddinShmemSpace(MAXALIGN(sizeof(WorkerRegistry)));
}

/* shmem_startup_hook; the caller holds AddinShmemInitLock. */
void
topics_worker_registry_shmem_startup(void)
{
	bool		found;

	registry = ShmemInitStruct("pg_topics workers", sizeof(WorkerRegistry), &found);
	if (!found)
	{
		memset(registry, 0, sizeof(WorkerRegistry));
		SpinLockInit(&registry->mutex);
		registry->look_again = true;
	}
}

/* ----------------------------------------------------------------
 *		Slots
 * ----------------------------------------------------------------
 */

/* The slot of a database, or NULL; the caller holds the mutex. */
static WorkerSlot *
find_slot(Oid database)
{
	for (int i = 0; i < MAX_WORKERS; i++)
		if (registry->slots[i].database == database)
			return &registry->slots[i];
	return NULL;
}

/* Find a database's slot, or take a free one; NULL if there is none. */
static WorkerSlot *
find_or_take_slot(Oid database)
{
	WorkerSlot *slot = find_slot(database);

	if (slot != NULL)
		return slot;
	slot = find_slot(InvalidOid);
	if (slot != NULL)
	{
		slot->database = database;
		slot->has_extension = true; /* until its worker has looked */
		slot->commands = 0;
		slot->not_before = 0;
	}
	return slot;
}

/* The slot of a database that has one, or NULL. */
WorkerSlot *
topics_worker_registry_find(Oid database)
{
	WorkerSlot *slot;

	SpinLockAcquire(&registry->mutex);
	slot = find_slot(database);
	SpinLockRelease(&registry->mutex);
	return slot;
}

/* The slot of a database; one is taken, if need be.  NULL if all are. */
WorkerSlot *
topics_worker_registry_get(Oid database)
{
	static WorkerSlot *mine = NULL;
	WorkerSlot *slot;

	/* a database that we are connected to keeps its slot */
	if (mine && mine->database == database)
		return mine;

	SpinLockAcquire(&registry->mutex);
	slot = find_or_take_slot(database);
	SpinLockRelease(&registry->mutex);
	if (database == MyDatabaseId)
		mine = slot;
	return slot;
}

/* Copy a database's slot.  Return false if it has none. */
bool
topics_worker_registry_read(Oid database, WorkerSlot *copy)
{
	WorkerSlot *slot;

	SpinLockAcquire(&registry->mutex);
	slot = find_slot(database);
	if (slot != NULL)
		*copy = *slot;
	SpinLockRelease(&registry->mutex);
	return slot != NULL;
}

/* The number of a slot, from 0 to MAX_WORKERS - 1, and the slot of a number. */
int
topics_worker_registry_index(const WorkerSlot *slot)
{
	return slot - registry->slots;
}

WorkerSlot *
topics_worker_registry_at(int index)
{
	Assert(index >= 0 && index < MAX_WORKERS);
	return &registry->slots[index];
}

/* ----------------------------------------------------------------
 *		To wake
 * ----------------------------------------------------------------
 */

/* Something was asked of this database's worker, if it has one. */
void
topics_worker_registry_wake_worker(void)
{
	Latch	   *latch = NULL;
	WorkerSlot *slot;

	SpinLockAcquire(&registry->mutex);
	slot = find_slot(MyDatabaseId);
	if (slot != NULL && slot->pid != 0)
	{
		latch = slot->latch;
		slot->round_wanted = true;
	}
	SpinLockRelease(&registry->mutex);
	if (latch)
		SetLatch(latch);
}

/* Wake a slot's worker for its notifications, not for a round. */
void
topics_worker_registry_wake_notifier(const WorkerSlot *slot)
{
	Latch	   *latch = NULL;

	SpinLockAcquire(&registry->mutex);
	if (slot->pid != 0)
		latch = slot->latch;
	SpinLockRelease(&registry->mutex);
	if (latch)
		SetLatch(latch);
}

/* Databases or extensions came or went. */
void
topics_worker_registry_wake_launcher(void)
{
	Latch	   *latch;

	SpinLockAcquire(&registry->mutex);
	registry->look_again = true;
	latch = registry->launcher;
	SpinLockRelease(&registry->mutex);
	if (latch)
		SetLatch(latch);
}

/* ----------------------------------------------------------------
 *		Commands that need a database for themselves
 * ----------------------------------------------------------------
 */

/*
 * A command needs the database for itself: end its worker and its compactor,
 * and let none enter before topics_worker_registry_come_back.  Return true if
 * the database has a slot, and so something to come back.
 *
 * This does not wait for them to end.  The command does, as it waits for any
 * other session to go.  A worker that was started and has not entered its slot
 * yet finds there that it must not.
 */
bool
topics_worker_registry_give_way(Oid database)
{
	WorkerSlot *slot;
	pid_t		pid = 0;
	pid_t		compactor = 0;

	SpinLockAcquire(&registry->mutex);
	slot = find_slot(database);
	if (slot != NULL)
	{
		pid = slot->pid;
		compactor = slot->compactor;
		slot->commands++;
	}
	SpinLockRelease(&registry->mutex);
	if (pid != 0)
		kill(pid, SIGTERM);
	if (compactor != 0)
		kill(compactor, SIGTERM);
	return slot != NULL;
}

/* The command is over, whatever became of it.  Raises nothing. */
void
topics_worker_registry_come_back(Oid database)
{
	WorkerSlot *slot;

	SpinLockAcquire(&registry->mutex);
	slot = find_slot(database);
	/* its slot may have been given up, with the database */
	if (slot != NULL && slot->commands > 0 && --slot->commands == 0)
		slot->not_before = 0;
	SpinLockRelease(&registry->mutex);
	topics_worker_registry_wake_launcher();
}

/* ----------------------------------------------------------------
 *		The launcher's side
 * ----------------------------------------------------------------
 */

/* This process is the launcher, which is to be woken. */
void
topics_worker_registry_enter_launcher(void)
{
	SpinLockAcquire(&registry->mutex);
	registry->launcher = MyLatch;
	registry->look_again = true;
	SpinLockRelease(&registry->mutex);
}

/* Return true, once, if the launcher was woken since the last call. */
bool
topics_worker_registry_take_look_again(void)
{
	bool		look_again;

	SpinLockAcquire(&registry->mutex);
	look_again = registry->look_again;
	registry->look_again = false;
	SpinLockRelease(&registry->mutex);
	return look_again;
}

/*
 * List the database of each slot, or InvalidOid; "databases" has MAX_WORKERS
 * places.
 */
void
topics_worker_registry_list(Oid *databases)
{
	SpinLockAcquire(&registry->mutex);
	for (int i = 0; i < MAX_WORKERS; i++)
		databases[i] = registry->slots[i].database;
	SpinLockRelease(&registry->mutex);
}

/* Return true if a database's slot has neither worker nor compactor. */
bool
topics_worker_registry_is_vacant(Oid database)
{
	WorkerSlot *slot;
	bool		vacant;

	SpinLockAcquire(&registry->mutex);
	slot = find_slot(database);
	vacant = slot != NULL && slot->pid == 0 && slot->compactor == 0;
	SpinLockRelease(&registry->mutex);
	return vacant;
}

/* Give up the slot of a database that is no more. */
void
topics_worker_registry_forget(Oid database)
{
	WorkerSlot *slot;

	SpinLockAcquire(&registry->mutex);
	slot = find_slot(database);
	if (slot != NULL)
	{
		slot->database = InvalidOid;
		slot->has_extension = false;
		slot->round_wanted = false;
		slot->last_round = 0;
		slot->partitions = 0;
		slot->commands = 0;
		slot->not_before = 0;
	}
	SpinLockRelease(&registry->mutex);
}

/*
 * Return true if a worker should be started in the database now.  Then the next
 * one is not to be started for WORKER_RESTART_MS.  With "look_again", an
 * earlier worker that has found no extension does not count.
 */
bool
topics_worker_registry_claim_start(Oid database, bool look_again)
{
	TimestampTz now = GetCurrentTimestamp();
	WorkerSlot *slot;
	bool		start = false;

	SpinLockAcquire(&registry->mutex);
	slot = find_or_take_slot(database);
	if (slot != NULL && look_again)
		slot->has_extension = true;
	if (slot != NULL && slot->pid == 0 && slot->has_extension && slot->commands == 0 &&
		slot->not_before <= now)
	{
		slot->not_before = TimestampTzPlusMilliseconds(now, WORKER_RESTART_MS);
		start = true;
	}
	SpinLockRelease(&registry->mutex);
	return start;
}

/*
 * Milliseconds until a database may have its next worker that lacks one now;
 * at most "limit".
 */
long
topics_worker_registry_time_to_start(long limit)
{
	TimestampTz now = GetCurrentTimestamp();

	SpinLockAcquire(&registry->mutex);
	for (int i = 0; i < MAX_WORKERS; i++)
	{
		const WorkerSlot *slot = &registry->slots[i];

		/*
		 * a database that takes no connections will have no worker, but that
		 * is not known here
		 */
		if (OidIsValid(slot->database) && slot->pid == 0 && slot->has_extension &&
			slot->commands == 0 && slot->not_before != 0)
			limit = Min(limit, slot->not_before > now ?
						(slot->not_before - now) / 1000 + 1 : WORKER_RESTART_MS);
	}
	SpinLockRelease(&registry->mutex);
	return limit;
}

/* Return true the first time: the lack of worker processes is to be logged. */
bool
topics_worker_registry_claim_hint(void)
{
	bool		hint;

	SpinLockAcquire(&registry->mutex);
	hint = !registry->hinted;
	registry->hinted = true;
	SpinLockRelease(&registry->mutex);
	return hint;
}

/* ----------------------------------------------------------------
 *		The worker's side
 * ----------------------------------------------------------------
 */

/*
 * This process is the database's worker.  Return its slot, or NULL if there is
 * a worker already, or must not be one now.
 */
WorkerSlot *
topics_worker_registry_enter(Oid database)
{
	WorkerSlot *slot;
	Latch	   *launcher = NULL;

	SpinLockAcquire(&registry->mutex);
	slot = find_slot(database);
	if (slot != NULL && slot->pid == 0 && slot->commands == 0)
	{
		slot->pid = MyProcPid;
		slot->latch = MyLatch;
		launcher = registry->launcher;
	}
	else
		slot = NULL;
	SpinLockRelease(&registry->mutex);
	/* the launcher need not look again whether this worker has come */
	if (launcher)
		SetLatch(launcher);
	return slot;
}

/* The worker ends. */
void
topics_worker_registry_leave(WorkerSlot *slot)
{
	SpinLockAcquire(&registry->mutex);
	slot->pid = 0;
	slot->latch = NULL;
	SpinLockRelease(&registry->mutex);
}

/* The worker has found that its database does not have the extension. */
void
topics_worker_registry_note_no_extension(WorkerSlot *slot)
{
	SpinLockAcquire(&registry->mutex);
	slot->has_extension = false;
	SpinLockRelease(&registry->mutex);
}

/* The worker has ended a round, in which it looked at so many partitions. */
void
topics_worker_registry_note_round(WorkerSlot *slot, int partitions)
{
	TimestampTz now = GetCurrentTimestamp();

	SpinLockAcquire(&registry->mutex);
	slot->last_round = now;
	slot->partitions = partitions;
	SpinLockRelease(&registry->mutex);
}

/* Return true, once, if a round was asked for since the last call. */
bool
topics_worker_registry_take_round_wanted(WorkerSlot *slot)
{
	bool		wanted;

	SpinLockAcquire(&registry->mutex);
	wanted = slot->round_wanted;
	slot->round_wanted = false;
	SpinLockRelease(&registry->mutex);
	return wanted;
}

/* ----------------------------------------------------------------
 *		The compactor's side
 * ----------------------------------------------------------------
 */

/* Return true if the slot's database has a compactor. */
bool
topics_worker_registry_has_compactor(const WorkerSlot *slot)
{
	bool		running;

	SpinLockAcquire(&registry->mutex);
	running = slot->compactor != 0;
	SpinLockRelease(&registry->mutex);
	return running;
}

/*
 * This process is the compactor of the database, whose slot this was.  Return
 * false if there is a compactor already, or must not be one now.
 */
bool
topics_worker_registry_enter_compactor(WorkerSlot *slot, Oid database)
{
	bool		entered = false;

	SpinLockAcquire(&registry->mutex);
	if (slot->database == database && slot->compactor == 0 && slot->commands == 0)
	{
		slot->compactor = MyProcPid;
		entered = true;
	}
	SpinLockRelease(&registry->mutex);
	return entered;
}

/* The compactor ends. */
void
topics_worker_registry_leave_compactor(WorkerSlot *slot)
{
	SpinLockAcquire(&registry->mutex);
	slot->compactor = 0;
	SpinLockRelease(&registry->mutex);
}
