/*-------------------------------------------------------------------------
 *
 * worker_registry.c
 *		What the launcher and the workers of databases know of each other,
 *		and how other processes wake them, or have them out of the way.
 *
 * A fixed array of slots in shared memory, one for each database that has a
 * worker, or has partitions that a worker should know of.  A slot stays the
 * database's until the launcher finds the database gone.
 *
 * LOCKING
 *
 *	WorkerRegistry.mutex	(spinlock) the whole registry.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/shmem.h"

#include "compat.h"
#include "pg_topics.h"

static WorkerRegistry *workers = NULL;

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

	workers = ShmemInitStruct("pg_topics workers", sizeof(WorkerRegistry), &found);
	if (!found)
	{
		memset(workers, 0, sizeof(WorkerRegistry));
		SpinLockInit(&workers->mutex);
		workers->look_again = true;
	}
}

WorkerRegistry *
topics_worker_registry_get(void)
{
	return workers;
}

/* The slot of a database; the caller holds the mutex. */
static WorkerSlot *
find_slot(Oid database)
{
	for (int i = 0; i < MAX_WORKERS; i++)
		if (workers->slots[i].database == database)
			return &workers->slots[i];
	return NULL;
}

/* The slot of a database; one is taken, if need be.  NULL if all are. */
WorkerSlot *
topics_worker_registry_slot(Oid database)
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

/* The number of a slot. */
int
topics_worker_registry_index(const WorkerSlot *slot)
{
	return slot - workers->slots;
}

/* The slot of a database that has one, or NULL. */
WorkerSlot *
topics_worker_registry_find(Oid database)
{
	WorkerSlot *slot;

	SpinLockAcquire(&workers->mutex);
	slot = find_slot(database);
	SpinLockRelease(&workers->mutex);
	return slot;
}

/* Something was asked of this database's worker, if it has one. */
void
topics_worker_registry_wake_worker(void)
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
topics_worker_registry_wake_launcher(void)
{
	Latch	   *latch;

	SpinLockAcquire(&workers->mutex);
	workers->look_again = true;
	latch = workers->launcher;
	SpinLockRelease(&workers->mutex);
	if (latch)
		SetLatch(latch);
}

/* The same of a slot's worker, which need not go round its partitions. */
void
topics_worker_registry_wake_slot(WorkerSlot *slot)
{
	Latch	   *latch = NULL;

	SpinLockAcquire(&workers->mutex);
	if (slot->pid != 0)
		latch = slot->latch;
	SpinLockRelease(&workers->mutex);
	if (latch)
		SetLatch(latch);
}

/*
 * A command needs the database for itself: end its worker, and the compactor, and
 * have none until topics_worker_registry_come_back.  Without waiting: the command does that, as it
 * waits for any other session to go.  True if there is one to come back.
 *
 * One that was claimed and has not entered its slot does not do so (enter_slot).
 */
bool
topics_worker_registry_give_way(Oid database)
{
	WorkerSlot *slot;
	pid_t		pid = 0;
	pid_t		compactor = 0;

	SpinLockAcquire(&workers->mutex);
	slot = find_slot(database);
	if (slot)
	{
		pid = slot->pid;
		compactor = slot->compactor;
		slot->commands++;
	}
	SpinLockRelease(&workers->mutex);
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

	SpinLockAcquire(&workers->mutex);
	slot = find_slot(database);
	/* its slot may have been given up, with the database */
	if (slot && slot->commands > 0 && --slot->commands == 0)
		slot->not_before = 0;
	SpinLockRelease(&workers->mutex);
	topics_worker_registry_wake_launcher();
}
