/*-------------------------------------------------------------------------
 *
 * worker_registry.c
 *		What the launcher and the workers of databases know of each other,
 *		and how other processes wake them, or send them away.
 *
 * A fixed array of slots in shared memory, one for each database that has the
 * extension and was ever worked in, or has partitions that a worker should know
 * of, or that a worker is to look into for the first time.  A slot stays the
 * database's until the launcher finds the database gone.  One whose database is
 * known not to have the extension is given to another database that needs one,
 * so that there is room for MAX_WORKERS databases with the extension, and for
 * any number without.
 *
 * A worker or a compactor is in its slot from the moment it says so (enter)
 * until it ends (leave).  The launcher starts a worker for a slot that wants
 * one; one that was started and has not entered yet finds in enter whether it
 * may stay.
 *
 * NO WISH IS LOST.  Who wants something of a database first puts it down (a
 * partition's requests, its place in the stack of moved ones, a flag here), and
 * then looks, under the mutex, whether there is a worker: that is woken, or
 * else the launcher.  A worker that ends says so under the mutex, and wakes the
 * launcher after that, which then looks at all that was put down.  So a wish
 * that found the worker still there is seen by the launcher, if not by it.  A
 * launcher that ends has a successor that looks at all from the start.
 *
 * LOCKING
 *
 *	mutex	(spinlock) the whole registry, but "changed" and "wall_offset", which
 *		are atomics, and what worker_life.c says.  Nothing is called while it
 *		is held, but the clock is read.  A latch is set after it was released.
 *		It is one of PGPROC's, so at worst it wakes another process.
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
#include "shared/worker_registry.h"

/* So much may the clocks drift apart before it shows. */
#define WALL_TOLERANCE_US 10000

WorkerRegistry *topics_worker_registry = NULL;

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

	topics_worker_registry = ShmemInitStruct("pg_topics workers", sizeof(WorkerRegistry), &found);
	if (!found)
	{
		memset(topics_worker_registry, 0, sizeof(WorkerRegistry));
		SpinLockInit(&topics_worker_registry->mutex);
		topics_worker_registry->look_again = true;
		topics_worker_registry->role_changes = 1;
		pg_atomic_init_u64(&topics_worker_registry->wall_offset, 0);
	}
}

/* ----------------------------------------------------------------
 *		Moments, as people see them
 * ----------------------------------------------------------------
 */

/*
 * Measure how far the wall's clock is ahead of the monotonic one; again, if the
 * process lost its processor between the two.
 */
static int64
measure_wall_offset(void)
{
	MonotonicTime before;
	TimestampTz wall;
	int			attempt = 0;

	do
	{
		before = topics_clock_now();
		wall = GetCurrentTimestamp();
	} while (topics_clock_now() - before > WALL_TOLERANCE_US / 10 && ++attempt < 5);
	return wall - before;
}

/*
 * Return the time of the wall's clock at a moment of the monotonic clock, not
 * far away.  It is the same at each look, in all sessions, as long as nobody
 * sets the clock: the two are not compared anew each time, since what passes
 * between a look at one and at the other differs by microseconds.
 */
TimestampTz
topics_worker_registry_wall_time(MonotonicTime time)
{
	pg_atomic_uint64 *kept = &topics_worker_registry->wall_offset;
	int64		offset = measure_wall_offset();
	int64		shown = (int64) pg_atomic_read_u64(kept);

	if (shown == 0 || offset - shown > WALL_TOLERANCE_US ||
		shown - offset > WALL_TOLERANCE_US)
	{
		pg_atomic_write_u64(kept, (uint64) offset);
		shown = offset;
	}
	return time + shown;
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
		if (topics_worker_registry->slots[i].database == database)
			return &topics_worker_registry->slots[i];
	return NULL;
}

/* Return true if no process is there, nor on its way. */
static bool
is_vacant(const WorkerSlot *slot)
{
	for (int kind = 0; kind < SERVE_KINDS; kind++)
		if (slot->process[kind].pid != 0 || slot->process[kind].starting)
			return false;
	return true;
}

/*
 * Return true if a slot can be taken: it is free, or its database does not have
 * the extension.  The caller holds the mutex.
 */
static bool
can_take(const WorkerSlot *slot)
{
	return !OidIsValid(slot->database) ||
		(!slot->has_extension && slot->commands == 0 && is_vacant(slot));
}

/* Find a slot to take, a free one first; NULL if there is none. */
static WorkerSlot *
find_slot_to_take(void)
{
	WorkerSlot *slot = find_slot(InvalidOid);

	for (int i = 0; i < MAX_WORKERS && slot == NULL; i++)
		if (can_take(&topics_worker_registry->slots[i]))
			slot = &topics_worker_registry->slots[i];
	return slot;
}

/* Nothing comes due by itself. */
static const WorkDue nothing_due = {NEVER, DT_NOEND, 0};

/* Make a slot one of a database, or a free one. */
static void
reset_slot(WorkerSlot *slot, Oid database)
{
	memset(slot, 0, sizeof(WorkerSlot));
	slot->database = database;
	slot->has_extension = OidIsValid(database); /* until its worker has looked */
	slot->due = nothing_due;
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

	SpinLockAcquire(&topics_worker_registry->mutex);
	slot = find_slot(database);
	SpinLockRelease(&topics_worker_registry->mutex);
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

	SpinLockAcquire(&topics_worker_registry->mutex);
	slot = find_or_take_slot(database);
	SpinLockRelease(&topics_worker_registry->mutex);
	if (database == MyDatabaseId)
		mine = slot;
	return slot;
}

/* Copy a database's slot.  Return false if it has none. */
bool
topics_worker_registry_read(Oid database, WorkerSlot *copy)
{
	WorkerSlot *slot;

	SpinLockAcquire(&topics_worker_registry->mutex);
	slot = find_slot(database);
	if (slot != NULL)
		*copy = *slot;
	SpinLockRelease(&topics_worker_registry->mutex);
	return slot != NULL;
}

/* The number of a slot, from 0 to MAX_WORKERS - 1, and the slot of a number. */
int
topics_worker_registry_index(const WorkerSlot *slot)
{
	return slot - topics_worker_registry->slots;
}

WorkerSlot *
topics_worker_registry_at(int index)
{
	Assert(index >= 0 && index < MAX_WORKERS);
	return &topics_worker_registry->slots[index];
}

/* ----------------------------------------------------------------
 *		To wake
 * ----------------------------------------------------------------
 */

/*
 * The latch of who is to see that something is wanted of a database: its
 * worker, or else the launcher; NULL if there is neither.  The caller holds
 * the mutex.
 */
static Latch *
find_latch(WorkerSlot *slot)
{
	if (slot->process[SERVE_WORKER].pid != 0)
		return slot->latch;
	if (slot->wanted_since[SERVE_WORKER] == 0)
		slot->wanted_since[SERVE_WORKER] = topics_clock_now();
	return topics_worker_registry->launcher_latch;
}

/*
 * Set a latch, if it is one.  The launcher is asked, too, whether it answers,
 * so that it is known by when it should have done something.
 */
void
topics_worker_registry_set_latch(Latch *latch)
{
	if (latch == NULL)
		return;
	SetLatch(latch);
	if (latch == topics_worker_registry->launcher_latch)
		topics_worker_life_ask(&topics_worker_registry->launcher);
}

/*
 * The slot of this database, which was "slot", for something that is wanted of
 * it.  Who wants that knows better than a worker that has found no extension.
 * NULL if there is none.  The caller holds the mutex.
 */
static WorkerSlot *
use_slot(WorkerSlot *slot)
{
	/* it may have been given away since it was found */
	if (slot->database != MyDatabaseId)
		slot = find_or_take_slot(MyDatabaseId);
	if (slot != NULL)
		slot->has_extension = true;
	return slot;
}

/*
 * Something was asked of this database's worker, which comes if it is not
 * there.  Raises nothing.
 */
void
topics_worker_registry_wake_worker(void)
{
	WorkerSlot *slot = topics_worker_registry_get(MyDatabaseId);
	Latch	   *latch = NULL;

	if (slot == NULL)
		return;
	SpinLockAcquire(&topics_worker_registry->mutex);
	slot = use_slot(slot);
	if (slot != NULL)
	{
		slot->round_wanted = true;
		latch = find_latch(slot);
	}
	SpinLockRelease(&topics_worker_registry->mutex);
	topics_worker_registry_set_latch(latch);
}

/* Wake a slot's worker for its notifications, not for a round. */
void
topics_worker_registry_wake_notifier(WorkerSlot *slot)
{
	Latch	   *latch;

	SpinLockAcquire(&topics_worker_registry->mutex);
	latch = find_latch(slot);
	SpinLockRelease(&topics_worker_registry->mutex);
	topics_worker_registry_set_latch(latch);
}

/*
 * Members of groups of this database are to be looked at at a time, or before;
 * with "topics_changed" those of all groups.  Raises nothing.
 */
void
topics_worker_registry_want_members(MonotonicTime at, bool topics_changed)
{
	WorkerSlot *slot = topics_worker_registry_get(MyDatabaseId);
	Latch	   *latch = NULL;

	if (slot == NULL)
		return;
	SpinLockAcquire(&topics_worker_registry->mutex);
	slot = use_slot(slot);
	if (slot != NULL)
	{
		slot->topic_changes += topics_changed ? 1 : 0;
		if (slot->members_due == 0 || at < slot->members_due)
		{
			slot->members_due = at;
			latch = find_latch(slot);
		}
	}
	SpinLockRelease(&topics_worker_registry->mutex);
	topics_worker_registry_set_latch(latch);
}

/*
 * A transaction has changed something in this database that a round may have to
 * look at, at its time.  Costs next to nothing if others have before.  Raises
 * nothing.
 */
void
topics_worker_registry_note_change(void)
{
	WorkerSlot *slot = topics_worker_registry_get(MyDatabaseId);
	Latch	   *latch = NULL;

	if (slot == NULL || pg_atomic_read_u32(&slot->changed) != 0)
		return;
	SpinLockAcquire(&topics_worker_registry->mutex);
	slot = use_slot(slot);
	/* a worker that is there comes to it by itself */
	if (slot != NULL && pg_atomic_exchange_u32(&slot->changed, 1) == 0 && slot->process[SERVE_WORKER].pid == 0)
		latch = topics_worker_registry->launcher_latch;
	SpinLockRelease(&topics_worker_registry->mutex);
	topics_worker_registry_set_latch(latch);
}

/* A role was renamed: groups of all databases may have owners of its name. */
void
topics_worker_registry_note_roles(void)
{
	Latch	   *latch;

	SpinLockAcquire(&topics_worker_registry->mutex);
	topics_worker_registry->role_changes++;
	for (int i = 0; i < MAX_WORKERS; i++)
		pg_atomic_write_u32(&topics_worker_registry->slots[i].changed, 1);
	latch = topics_worker_registry->launcher_latch;
	SpinLockRelease(&topics_worker_registry->mutex);
	topics_worker_registry_set_latch(latch);
}

/* Databases came or went, or take connections now. */
void
topics_worker_registry_wake_launcher(void)
{
	Latch	   *latch;

	SpinLockAcquire(&topics_worker_registry->mutex);
	topics_worker_registry->look_again = true;
	latch = topics_worker_registry->launcher_latch;
	SpinLockRelease(&topics_worker_registry->mutex);
	topics_worker_registry_set_latch(latch);
}

/*
 * The extension came to this database, or went: a worker is to look into it,
 * and into no other.
 */
void
topics_worker_registry_note_extension(void)
{
	WorkerSlot *slot;

	SpinLockAcquire(&topics_worker_registry->mutex);
	topics_worker_registry->changes++;
	slot = find_or_take_slot(MyDatabaseId);
	if (slot != NULL)
		slot->has_extension = true;
	else
		topics_worker_registry->forget_looks = true;
	SpinLockRelease(&topics_worker_registry->mutex);
	topics_worker_registry_wake_launcher();
}

/* ----------------------------------------------------------------
 *		Commands that need a database for themselves
 * ----------------------------------------------------------------
 */

/*
 * A command needs the database for itself: end its processes, and let none
 * enter before topics_worker_registry_come_back.  Return true if
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
	pid_t		pids[SERVE_KINDS] = {0};

	SpinLockAcquire(&topics_worker_registry->mutex);
	slot = find_slot(database);
	if (slot != NULL)
	{
		for (int kind = 0; kind < SERVE_KINDS; kind++)
			pids[kind] = slot->process[kind].pid;
		slot->commands++;
	}
	SpinLockRelease(&topics_worker_registry->mutex);
	for (int kind = 0; kind < SERVE_KINDS; kind++)
		if (pids[kind] != 0)
			kill(pids[kind], SIGTERM);
	return slot != NULL;
}

/* The command is over, whatever became of it.  Raises nothing. */
void
topics_worker_registry_come_back(Oid database)
{
	WorkerSlot *slot;

	SpinLockAcquire(&topics_worker_registry->mutex);
	slot = find_slot(database);
	/* its slot may have been given up, with the database */
	if (slot != NULL && slot->commands > 0 && --slot->commands == 0)
	{
		for (int kind = 0; kind < SERVE_KINDS; kind++)
		{
			slot->process[kind].not_before = 0;
			slot->process[kind].futile = 0;
		}
		/* another one may have its OID by now */
		slot->has_extension = true;
	}
	SpinLockRelease(&topics_worker_registry->mutex);
	topics_worker_registry_wake_launcher();
}

/* ----------------------------------------------------------------
 *		Who looks from outside
 * ----------------------------------------------------------------
 */

/* The launcher, as others see it. */
ServeProcess *
topics_worker_registry_launcher(void)
{
	return &topics_worker_registry->launcher;
}

/*
 * Return true if all places for workers are held by such that do not answer: so
 * nobody gives one up.
 */
bool
topics_worker_registry_places_hang(void)
{
	int			hung = 0;

	SpinLockAcquire(&topics_worker_registry->mutex);
	for (int i = 0; i < MAX_WORKERS; i++)
		hung += topics_worker_life_is_hung(&topics_worker_registry->slots[i].process[SERVE_WORKER]);
	SpinLockRelease(&topics_worker_registry->mutex);
	return hung >= pg_topics_max_workers;
}

/*
 * Return true if what is asked of a database's worker will be done: it is
 * there, or can come.
 */
bool
topics_worker_registry_serves(Oid database)
{
	WorkerSlot	slot;

	if (!topics_worker_registry_read(database, &slot) ||
		topics_worker_life_is_hung(&slot.process[SERVE_WORKER]))
		return false;
	return slot.process[SERVE_WORKER].pid != 0 ||
		(slot.has_extension && slot.process[SERVE_WORKER].trouble != TROUBLE_NO_PROCESS &&
		 !topics_worker_registry_places_hang() &&
		 topics_worker_registry->launcher.pid != 0 && !topics_worker_life_is_hung(&topics_worker_registry->launcher));
}

/* ----------------------------------------------------------------
 *		The launcher's side
 * ----------------------------------------------------------------
 */

/* This process is the launcher, which is to be woken. */
void
topics_worker_registry_enter_launcher(void)
{
	topics_worker_life_begin(&topics_worker_registry->launcher);
	SpinLockAcquire(&topics_worker_registry->mutex);
	topics_worker_registry->launcher_latch = MyLatch;
	topics_worker_registry->launcher.pid = MyProcPid;
	topics_worker_registry->launcher.since = topics_clock_now();
	pg_atomic_write_u32(&topics_worker_registry->launcher.answered,
						pg_atomic_read_u32(&topics_worker_registry->launcher.asked));
	topics_worker_registry->look_again = true;
	/* what an earlier launcher has started has come by now, or never will */
	for (int i = 0; i < MAX_WORKERS; i++)
		for (int kind = 0; kind < SERVE_KINDS; kind++)
			topics_worker_registry->slots[i].process[kind].starting = false;
	SpinLockRelease(&topics_worker_registry->mutex);
}

/* The launcher ends. */
void
topics_worker_registry_leave_launcher(void)
{
	SpinLockAcquire(&topics_worker_registry->mutex);
	topics_worker_registry->launcher_latch = NULL;
	topics_worker_registry->launcher.pid = 0;
	SpinLockRelease(&topics_worker_registry->mutex);
}

/*
 * Return true, once, if the launcher was woken to look at the databases since
 * the last call.  With *forget_looks those that have no slot are to be looked
 * into again.
 */
bool
topics_worker_registry_take_look_again(bool *forget_looks)
{
	bool		look_again;

	SpinLockAcquire(&topics_worker_registry->mutex);
	look_again = topics_worker_registry->look_again;
	*forget_looks = topics_worker_registry->forget_looks;
	topics_worker_registry->look_again = topics_worker_registry->forget_looks = false;
	SpinLockRelease(&topics_worker_registry->mutex);
	return look_again;
}

/* Copy a slot, whose database may be InvalidOid. */
void
topics_worker_registry_read_at(int index, WorkerSlot *copy)
{
	SpinLockAcquire(&topics_worker_registry->mutex);
	*copy = topics_worker_registry->slots[index];
	SpinLockRelease(&topics_worker_registry->mutex);
}

/* Have a slot for a database that a worker is to look into. */
SlotClaim
topics_worker_registry_claim_slot(Oid database)
{
	WorkerSlot *slot;
	bool		full = true;

	SpinLockAcquire(&topics_worker_registry->mutex);
	slot = find_or_take_slot(database);
	for (int i = 0; i < MAX_WORKERS && slot == NULL && full; i++)
		full = topics_worker_registry->slots[i].is_confirmed;
	SpinLockRelease(&topics_worker_registry->mutex);
	return slot != NULL ? SLOT_FOUND : full ? SLOT_NONE : SLOT_NOT_YET;
}

/*
 * Return true if in every slot is a database that has the extension, so that
 * there is none for another database.
 */
bool
topics_worker_registry_is_full(void)
{
	bool		full = true;

	SpinLockAcquire(&topics_worker_registry->mutex);
	for (int i = 0; i < MAX_WORKERS && full; i++)
		full = topics_worker_registry->slots[i].is_confirmed;
	SpinLockRelease(&topics_worker_registry->mutex);
	return full;
}

/* Return true if a database has none of our processes. */
bool
topics_worker_registry_is_vacant(Oid database)
{
	WorkerSlot *slot;
	bool		vacant;

	SpinLockAcquire(&topics_worker_registry->mutex);
	slot = find_slot(database);
	vacant = slot == NULL || is_vacant(slot);
	SpinLockRelease(&topics_worker_registry->mutex);
	return vacant;
}

/* Give up the slot of a database that is no more. */
void
topics_worker_registry_forget(Oid database)
{
	WorkerSlot *slot;

	SpinLockAcquire(&topics_worker_registry->mutex);
	slot = find_slot(database);
	if (slot != NULL)
		reset_slot(slot, InvalidOid);
	SpinLockRelease(&topics_worker_registry->mutex);
}

/*
 * A process is wanted that there is none of, for this reason if there is
 * trouble.  It counts from the first time on.
 */
void
topics_worker_registry_want(int index, ServeKind kind, StartTrouble trouble)
{
	WorkerSlot *slot = &topics_worker_registry->slots[index];
	MonotonicTime now = topics_clock_now();

	SpinLockAcquire(&topics_worker_registry->mutex);
	if (slot->process[kind].pid == 0 && slot->wanted_since[kind] == 0)
		slot->wanted_since[kind] = now;
	/* that there is no process is known until one was started */
	if (slot->process[kind].trouble != TROUBLE_NO_PROCESS)
		slot->process[kind].trouble = trouble;
	SpinLockRelease(&topics_worker_registry->mutex);
}

/*
 * A process is about to be started.  Return false if it must not be now.  The
 * next one is not to be started for WORKER_RESTART_MS, unless this one ends by
 * itself; for longer and longer if none comes to look into the database, as one
 * whose files are damaged.
 */
bool
topics_worker_registry_begin_start(int index, ServeKind kind)
{
	WorkerSlot *slot = &topics_worker_registry->slots[index];
	ServeProcess *process = &slot->process[kind];
	MonotonicTime now = topics_clock_now();
	bool		result;

	SpinLockAcquire(&topics_worker_registry->mutex);
	result = process->pid == 0 && !process->starting && process->not_before <= now &&
		slot->commands == 0 && OidIsValid(slot->database);
	if (result)
	{
		process->starting = true;
		process->not_before = now +
			((WORKER_RESTART_MS * INT64CONST(1000)) << Min(process->futile, MAX_RESTART_DOUBLED));
		process->futile++;
	}
	SpinLockRelease(&topics_worker_registry->mutex);
	return result;
}

/*
 * The process is not on its way any more: there was none, or it has come, or it
 * has ended before.
 */
void
topics_worker_registry_end_start(int index, ServeKind kind, bool no_process)
{
	ServeProcess *process = &topics_worker_registry->slots[index].process[kind];

	SpinLockAcquire(&topics_worker_registry->mutex);
	process->starting = false;
	if (no_process)
	{
		process->trouble = TROUBLE_NO_PROCESS;
		/* that says nothing of the database */
		process->futile = 0;
	}
	SpinLockRelease(&topics_worker_registry->mutex);
}

/*
 * A process has gone: there may be one for those who had none.  The caller is
 * the launcher: while a process still ends, there is none to be had yet.
 */
void
topics_worker_registry_forget_lack(void)
{
	SpinLockAcquire(&topics_worker_registry->mutex);
	for (int i = 0; i < MAX_WORKERS; i++)
	{
		WorkerSlot *slot = &topics_worker_registry->slots[i];

		for (int kind = 0; kind < SERVE_KINDS; kind++)
			if (slot->process[kind].trouble == TROUBLE_NO_PROCESS)
				slot->process[kind].not_before = 0;
	}
	SpinLockRelease(&topics_worker_registry->mutex);
}

/* Ask a process to give its place to another database's. */
void
topics_worker_registry_ask_to_leave(int index, ServeKind kind)
{
	WorkerSlot *slot = &topics_worker_registry->slots[index];
	Latch	   *latch = NULL;

	SpinLockAcquire(&topics_worker_registry->mutex);
	slot->process[kind].leave = true;
	if (kind == SERVE_WORKER)
		latch = slot->latch;
	SpinLockRelease(&topics_worker_registry->mutex);
	topics_worker_registry_set_latch(latch);
}

/* Ask for a round in a slot's database. */
void
topics_worker_registry_ask_for_round(int index)
{
	WorkerSlot *slot = &topics_worker_registry->slots[index];
	Latch	   *latch;

	SpinLockAcquire(&topics_worker_registry->mutex);
	slot->round_wanted = true;
	latch = find_latch(slot);
	SpinLockRelease(&topics_worker_registry->mutex);
	topics_worker_registry_set_latch(latch);
}

/* Return true the first time: the hint is to be logged. */
bool
topics_worker_registry_claim_hint(WorkerHint hint)
{
	bool		first;

	SpinLockAcquire(&topics_worker_registry->mutex);
	first = !topics_worker_registry->hinted[hint];
	topics_worker_registry->hinted[hint] = true;
	SpinLockRelease(&topics_worker_registry->mutex);
	return first;
}
