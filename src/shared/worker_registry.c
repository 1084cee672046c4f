/*-------------------------------------------------------------------------
 *
 * worker_registry.c
 *		What the launcher and the workers of databases know of each other,
 *		and how other processes wake them, or send them away.
 *
 * A fixed array of slots in shared memory, one for each database that has a
 * worker, or has partitions that a worker should know of, or that a worker is
 * to look into for the first time.  A slot stays the database's until the
 * launcher finds the database gone.  One whose database is known not to have
 * the extension is given to another database that needs one, so that there is
 * room for MAX_WORKERS databases with the extension, and for any number
 * without.
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
	uint32		changes;		/* they did so often */
	bool		hinted[WORKER_HINTS];	/* that was logged */
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

/*
 * Return true if a slot can be taken: it is free, or its database does not have
 * the extension.  The caller holds the mutex.
 */
static bool
can_take(const WorkerSlot *slot)
{
	return !OidIsValid(slot->database) ||
		(!slot->has_extension && slot->pid == 0 && slot->compactor == 0 && slot->commands == 0);
}

/* Find a slot to take, a free one first; NULL if there is none. */
static WorkerSlot *
find_slot_to_take(void)
{
	WorkerSlot *slot = find_slot(InvalidOid);

	for (int i = 0; i < MAX_WORKERS && slot == NULL; i++)
		if (can_take(&registry->slots[i]))
			slot = &registry->slots[i];
	return slot;
}

/* Make a slot one of a database, or a free one. */
static void
reset_slot(WorkerSlot *slot, Oid database)
{
	slot->database = database;
	slot->has_extension = OidIsValid(database); /* until its worker has looked */
	slot->is_confirmed = false;
	slot->no_process = false;
	slot->round_wanted = false;
	slot->last_round = 0;
	slot->partitions = 0;
	slot->commands = 0;
	slot->not_before = 0;
}

/* Find a database's slot, or take one; NULL if there is none. */
static WorkerSlot *
find_or_take_slot(Oid database)
{
	WorkerSlot *slot = find_slot(database);

	if (slot == NULL)
	{
		slot = find_slot_to_take();
		if (slot != NULL)
			reset_slot(slot, database);
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

	/* a database with the extension keeps its slot */
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
	registry->changes++;
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

/*
 * Return true, once, if the launcher was woken since the last call.  Then an
 * earlier worker that has found no extension does not count.
 */
bool
topics_worker_registry_take_look_again(void)
{
	bool		look_again;

	SpinLockAcquire(&registry->mutex);
	look_again = registry->look_again;
	registry->look_again = false;
	for (int i = 0; i < MAX_WORKERS && look_again; i++)
		if (OidIsValid(registry->slots[i].database))
			registry->slots[i].has_extension = true;
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

/* Return true if a worker has found that a database lacks the extension. */
bool
topics_worker_registry_lacks_extension(Oid database)
{
	WorkerSlot *slot;
	bool		lacks;

	SpinLockAcquire(&registry->mutex);
	slot = find_slot(database);
	lacks = slot != NULL && !slot->has_extension;
	SpinLockRelease(&registry->mutex);
	return lacks;
}

/*
 * Return true if every slot has a worker that has found the extension, so that
 * there is none for another database.
 */
bool
topics_worker_registry_is_full(void)
{
	bool		full = true;

	SpinLockAcquire(&registry->mutex);
	for (int i = 0; i < MAX_WORKERS && full; i++)
		full = registry->slots[i].is_confirmed;
	SpinLockRelease(&registry->mutex);
	return full;
}

/* Return true if a database has neither worker nor compactor. */
bool
topics_worker_registry_is_vacant(Oid database)
{
	WorkerSlot *slot;
	bool		vacant;

	SpinLockAcquire(&registry->mutex);
	slot = find_slot(database);
	vacant = slot == NULL || (slot->pid == 0 && slot->compactor == 0);
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
		reset_slot(slot, InvalidOid);
	SpinLockRelease(&registry->mutex);
}

/*
 * Say whether a worker should be started in the database now.  If so, the next
 * one is not to be started for WORKER_RESTART_MS.
 */
StartClaim
topics_worker_registry_claim_start(Oid database)
{
	MonotonicTime now = topics_clock_now();
	WorkerSlot *slot;
	StartClaim	result = START_NOT;

	SpinLockAcquire(&registry->mutex);
	slot = find_or_take_slot(database);
	if (slot == NULL)
		result = START_NO_SLOT;
	else if (slot->pid == 0 && slot->has_extension && slot->commands == 0 &&
			 slot->not_before <= now)
	{
		slot->not_before = now + WORKER_RESTART_MS * 1000;
		slot->no_process = false;
		result = START_NOW;
	}
	SpinLockRelease(&registry->mutex);
	return result;
}

/* There was no process for the worker that was to be started. */
void
topics_worker_registry_note_no_process(Oid database)
{
	WorkerSlot *slot;

	SpinLockAcquire(&registry->mutex);
	slot = find_slot(database);
	if (slot != NULL)
		slot->no_process = true;
	SpinLockRelease(&registry->mutex);
}

/*
 * Milliseconds until a database may have its next worker that lacks one now;
 * at most "limit".
 */
long
topics_worker_registry_time_to_start(long limit)
{
	MonotonicTime now = topics_clock_now();

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

/* Return true the first time: the hint is to be logged. */
bool
topics_worker_registry_claim_hint(WorkerHint hint)
{
	bool		first;

	SpinLockAcquire(&registry->mutex);
	first = !registry->hinted[hint];
	registry->hinted[hint] = true;
	SpinLockRelease(&registry->mutex);
	return first;
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
	slot->is_confirmed = false;
	SpinLockRelease(&registry->mutex);
}

/* Count how often databases or extensions came or went. */
uint32
topics_worker_registry_changes(void)
{
	uint32		changes;

	SpinLockAcquire(&registry->mutex);
	changes = registry->changes;
	SpinLockRelease(&registry->mutex);
	return changes;
}

/* The worker has found that its database has the extension. */
void
topics_worker_registry_note_extension(WorkerSlot *slot)
{
	SpinLockAcquire(&registry->mutex);
	slot->is_confirmed = true;
	SpinLockRelease(&registry->mutex);
}

/*
 * The worker has found that its database does not have the extension.
 * "changes" was counted before it looked.  Return false, and note nothing, if
 * it has to look again.
 */
bool
topics_worker_registry_note_no_extension(WorkerSlot *slot, uint32 changes)
{
	bool		holds;

	SpinLockAcquire(&registry->mutex);
	holds = registry->changes == changes;
	if (holds)
		slot->has_extension = slot->is_confirmed = false;
	SpinLockRelease(&registry->mutex);
	return holds;
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
