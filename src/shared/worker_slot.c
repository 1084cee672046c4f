/*-------------------------------------------------------------------------
 *
 * worker_slot.c
 *		What a worker, or another process, says in its slot of the registry.
 *
 * A worker enters its slot before it connects to the database, and leaves it
 * by one of three ways: it rests, since there is nothing to be done or others
 * want its place; it has found that there is no extension; or it ends for
 * another reason, and then a successor is wanted.  It is out of the slot from
 * the moment that it has decided to rest, so that whoever wants something
 * after that wakes the launcher (worker_registry.c, "no wish is lost").
 *
 * LOCKING: worker_registry.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "shared/shared.h"
#include "shared/worker_registry.h"

/* What a kind of process is called. */
const char *
topics_worker_slot_name(ServeKind kind)
{
	static const char *const names[] = {
		[SERVE_WORKER] = "worker",
		[SERVE_COMPACTOR] = "compactor",
		[SERVE_REPLICATOR] = "replicator"
	};

	return names[Min(kind, SERVE_REPLICATOR)];
}

/* This process has come; the caller holds the mutex. */
static void
enter_process(ServeProcess *process)
{
	process->pid = MyProcPid;
	process->starting = false;
	process->leave = false;
	process->since = topics_clock_now();
	process->trouble = TROUBLE_NONE;
	pg_atomic_write_u32(&process->answered, pg_atomic_read_u32(&process->asked));
}

/*
 * This process is the database's worker.  Return its slot, or NULL if there is
 * a worker already, or must not be one now.
 */
WorkerSlot *
topics_worker_slot_enter(Oid database)
{
	WorkerSlot *slot = topics_worker_registry_find(database);

	if (slot == NULL)
		return NULL;
	topics_worker_life_begin(&slot->process[SERVE_WORKER]);
	SpinLockAcquire(&topics_worker_registry->mutex);
	if (slot->database == database && slot->process[SERVE_WORKER].pid == 0 && slot->commands == 0)
	{
		enter_process(&slot->process[SERVE_WORKER]);
		slot->latch = MyLatch;
		slot->wanted_since[SERVE_WORKER] = 0;
		slot->busy_since = slot->process[SERVE_WORKER].since;
		if (slot->full_began == 0)
			slot->full_began = slot->process[SERVE_WORKER].since;
	}
	else
		slot = NULL;
	SpinLockRelease(&topics_worker_registry->mutex);
	return slot;
}

/* The worker is not there any more; the caller holds the mutex. */
static void
clear_worker(WorkerSlot *slot)
{
	slot->process[SERVE_WORKER].pid = 0;
	slot->process[SERVE_WORKER].leave = false;
	slot->latch = NULL;
	slot->busy_since = 0;
}

/*
 * The worker means to end, and leaves when work comes due by itself.  Return
 * false if it is to stay, since a round was asked for meanwhile; one that is
 * asked to leave may in any case.
 */
bool
topics_worker_slot_rest(WorkerSlot *slot, const WorkDue *due)
{
	bool		rests;

	SpinLockAcquire(&topics_worker_registry->mutex);
	rests = slot->process[SERVE_WORKER].leave || !slot->round_wanted;
	if (rests)
	{
		slot->due = *due;
		slot->process[SERVE_WORKER].not_before = 0;
		clear_worker(slot);
	}
	SpinLockRelease(&topics_worker_registry->mutex);
	return rests;
}

/*
 * The worker ends.  If it does not by itself, its successor is to see what it
 * was at.  Otherwise the slot may be another one's by now.
 */
void
topics_worker_slot_leave(WorkerSlot *slot)
{
	Latch	   *latch;

	SpinLockAcquire(&topics_worker_registry->mutex);
	if (slot->process[SERVE_WORKER].pid == MyProcPid)
	{
		slot->round_wanted = true;
		slot->notify_not_before = 0;
		pg_atomic_write_u32(&slot->changed, 1);
		clear_worker(slot);
	}
	latch = topics_worker_registry->launcher_latch;
	SpinLockRelease(&topics_worker_registry->mutex);
	topics_worker_registry_set_latch(latch);
}

/* Return true if the launcher wants the place of this process. */
bool
topics_worker_slot_is_asked_to_leave(const WorkerSlot *slot, ServeKind kind)
{
	bool		leave;

	SpinLockAcquire(&topics_worker_registry->mutex);
	leave = slot->process[kind].leave;
	SpinLockRelease(&topics_worker_registry->mutex);
	return leave;
}

/* Count how often extensions came or went. */
uint32
topics_worker_slot_changes(void)
{
	uint32		changes;

	SpinLockAcquire(&topics_worker_registry->mutex);
	changes = topics_worker_registry->changes;
	SpinLockRelease(&topics_worker_registry->mutex);
	return changes;
}

/* The worker has found that its database has the extension. */
void
topics_worker_slot_note_extension(WorkerSlot *slot)
{
	SpinLockAcquire(&topics_worker_registry->mutex);
	slot->is_confirmed = true;
	slot->process[SERVE_WORKER].futile = 0;
	SpinLockRelease(&topics_worker_registry->mutex);
}

/*
 * The worker has found that its database does not have the extension.
 * "changes" was counted before it looked.  Return false, and note nothing, if
 * it has to look again.
 */
bool
topics_worker_slot_note_no_extension(WorkerSlot *slot, uint32 changes)
{
	bool		holds;

	SpinLockAcquire(&topics_worker_registry->mutex);
	holds = topics_worker_registry->changes == changes;
	if (holds)
	{
		slot->has_extension = slot->is_confirmed = false;
		for (int kind = SERVE_WORKER + 1; kind < SERVE_KINDS; kind++)
			slot->wanted_since[kind] = 0;
		slot->process[SERVE_WORKER].not_before = 0;
		slot->process[SERVE_WORKER].futile = 0;
		/* so that the first who changes something says so */
		pg_atomic_write_u32(&slot->changed, 0);
		clear_worker(slot);
	}
	SpinLockRelease(&topics_worker_registry->mutex);
	return holds;
}

/* Return true, once, if a round was asked for since the last call. */
bool
topics_worker_slot_take_round_wanted(WorkerSlot *slot)
{
	bool		wanted;

	SpinLockAcquire(&topics_worker_registry->mutex);
	wanted = slot->round_wanted;
	slot->round_wanted = false;
	SpinLockRelease(&topics_worker_registry->mutex);
	return wanted;
}

/*
 * Return true, once, if members of groups are to be looked at by now: with
 * *all in all groups, since there were *changes of topics, or that was not
 * done since a time.
 */
bool
topics_worker_slot_take_members(WorkerSlot *slot, MonotonicTime look_after, bool *all, uint32 *changes)
{
	MonotonicTime now = topics_clock_now();
	bool		is_due;

	SpinLockAcquire(&topics_worker_registry->mutex);
	is_due = slot->members_due != 0 && slot->members_due <= now;
	if (is_due)
	{
		slot->members_due = 0;
		*changes = slot->topic_changes;
		*all = slot->topic_changes != slot->topics_followed || slot->groups_looked < look_after;
	}
	SpinLockRelease(&topics_worker_registry->mutex);
	return is_due;
}

/* All groups were looked at, after so many changes of topics. */
void
topics_worker_slot_note_groups_looked(WorkerSlot *slot, uint32 changes)
{
	MonotonicTime now = topics_clock_now();

	SpinLockAcquire(&topics_worker_registry->mutex);
	slot->topics_followed = changes;
	slot->groups_looked = now;
	SpinLockRelease(&topics_worker_registry->mutex);
}

/* Return true if a round was asked for that has not begun. */
bool
topics_worker_slot_is_round_wanted(const WorkerSlot *slot)
{
	bool		wanted;

	SpinLockAcquire(&topics_worker_registry->mutex);
	wanted = slot->round_wanted;
	SpinLockRelease(&topics_worker_registry->mutex);
	return wanted;
}

/* The worker itself asks for another round: it leaves some of this one. */
void
topics_worker_slot_want_round(WorkerSlot *slot)
{
	SpinLockAcquire(&topics_worker_registry->mutex);
	slot->round_wanted = true;
	pg_atomic_write_u32(&slot->changed, 1);
	SpinLockRelease(&topics_worker_registry->mutex);
}

/* The worker begins a round; "full" if it is one over all that there is. */
void
topics_worker_slot_begin_round(WorkerSlot *slot, bool full)
{
	MonotonicTime now = topics_clock_now();

	SpinLockAcquire(&topics_worker_registry->mutex);
	slot->round_began = now;
	if (full)
		slot->full_began = now;
	SpinLockRelease(&topics_worker_registry->mutex);
	/* before it looks: what changes from now on is for the next one */
	if (full)
		pg_atomic_exchange_u32(&slot->changed, 0);
}

/* The worker has ended a round, in which it looked at so many partitions. */
void
topics_worker_slot_end_round(WorkerSlot *slot, int partitions)
{
	TimestampTz now = GetCurrentTimestamp();

	SpinLockAcquire(&topics_worker_registry->mutex);
	slot->last_round = now;
	slot->partitions = partitions;
	SpinLockRelease(&topics_worker_registry->mutex);
}

/* The worker is at work from now on, or waits for some. */
void
topics_worker_slot_note_busy(WorkerSlot *slot, bool busy)
{
	MonotonicTime now = topics_clock_now();

	SpinLockAcquire(&topics_worker_registry->mutex);
	slot->busy_since = busy ? now : 0;
	SpinLockRelease(&topics_worker_registry->mutex);
}

/* Notifications were sent: there are no more for so long. */
void
topics_worker_slot_note_notified(WorkerSlot *slot, int interval_ms)
{
	MonotonicTime until = topics_clock_in(interval_ms);

	SpinLockAcquire(&topics_worker_registry->mutex);
	slot->notify_not_before = until;
	SpinLockRelease(&topics_worker_registry->mutex);
}

/* Count how often roles were renamed, and once. */
uint32
topics_worker_slot_role_changes(void)
{
	uint32		changes;

	SpinLockAcquire(&topics_worker_registry->mutex);
	changes = topics_worker_registry->role_changes;
	SpinLockRelease(&topics_worker_registry->mutex);
	return changes;
}

/*
 * The worker has seen to the owners of groups after so many changes of roles.
 */
void
topics_worker_slot_note_roles_followed(WorkerSlot *slot, uint32 role_changes)
{
	SpinLockAcquire(&topics_worker_registry->mutex);
	slot->roles_followed = role_changes;
	SpinLockRelease(&topics_worker_registry->mutex);
}

/* Return true if a database can have a process of a kind. */
static bool
may_come(ServeKind kind)
{
	return kind != SERVE_COMPACTOR || pg_topics_max_compactors > 0;
}

/*
 * The worker has found that there is something to be done by another process,
 * or nothing.  Return false if there is none that will, so that it has to
 * itself.
 */
bool
topics_worker_slot_want(WorkerSlot *slot, ServeKind kind, bool wanted)
{
	const ServeProcess *process = &slot->process[kind];
	MonotonicTime now = topics_clock_now();
	Latch	   *latch = NULL;
	bool		will;

	SpinLockAcquire(&topics_worker_registry->mutex);
	if (wanted && slot->wanted_since[kind] == 0)
	{
		slot->wanted_since[kind] = now;
		latch = topics_worker_registry->launcher_latch;
	}
	else if (!wanted)
		slot->wanted_since[kind] = 0;
	will = process->pid != 0 || process->starting ||
		(may_come(kind) && process->trouble != TROUBLE_NO_PROCESS);
	SpinLockRelease(&topics_worker_registry->mutex);
	topics_worker_registry_set_latch(latch);
	return will;
}

/*
 * This process is the one of its kind of the database, whose slot this was.
 * Return false if there is one already, or must not be one now.
 */
bool
topics_worker_slot_enter_as(WorkerSlot *slot, ServeKind kind, Oid database)
{
	bool		entered = false;

	topics_worker_life_begin(&slot->process[kind]);
	SpinLockAcquire(&topics_worker_registry->mutex);
	if (slot->database == database && slot->process[kind].pid == 0 && slot->commands == 0)
	{
		enter_process(&slot->process[kind]);
		entered = true;
	}
	SpinLockRelease(&topics_worker_registry->mutex);
	return entered;
}

/*
 * Such a process is about to look: what is wanted from now on, is wanted anew.
 */
void
topics_worker_slot_take_wish(WorkerSlot *slot, ServeKind kind)
{
	SpinLockAcquire(&topics_worker_registry->mutex);
	slot->wanted_since[kind] = 0;
	slot->process[kind].futile = 0;
	SpinLockRelease(&topics_worker_registry->mutex);
}

/*
 * Such a process ends; "finished" if it has done all.  Else there is to be
 * another one.
 */
void
topics_worker_slot_leave_as(WorkerSlot *slot, ServeKind kind, bool finished)
{
	MonotonicTime now = topics_clock_now();
	Latch	   *latch;

	SpinLockAcquire(&topics_worker_registry->mutex);
	slot->process[kind].pid = 0;
	slot->process[kind].leave = false;
	if (finished)
		slot->process[kind].not_before = 0;
	else if (slot->wanted_since[kind] == 0)
		slot->wanted_since[kind] = now;
	latch = topics_worker_registry->launcher_latch;
	SpinLockRelease(&topics_worker_registry->mutex);
	topics_worker_registry_set_latch(latch);
}
