/*-------------------------------------------------------------------------
 *
 * append_lock.c
 *		The right to append to partitions: many locks, taken at once, by a
 *		wait that can be cancelled.
 *
 * A committing producer holds the append lock of each of its partitions from
 * the moment it knows its offsets until they are published (transaction.c).
 * The lock is an LWLock, since a heavyweight lock convoys under many clients
 * (10,000 against 22,000 commits a second with 32), but a plain LWLockAcquire
 * cannot be interrupted, and behind a transaction of millions of records a wait
 * may be long.  So: LWLockConditionalAcquire, and where that fails for some
 * microseconds, sleep on the partition's condition variable, which is signalled
 * at every release.
 *
 * Nobody sleeps while holding a lock of ours: before sleeping for the k-th lock
 * those held are released, and the set is tried again from the start.  So there
 * is no deadlock by any order, and a partition never waits for a transaction
 * that itself waits for another partition.  What a set of locks taken like that
 * lacks is a promise of progress.  Two rules give it:
 *
 *	- After MAX_ROUNDS failed rounds, or with more than MAX_APPEND_LOCKS
 *	  partitions (a backend can hold 200 LWLocks), the transaction takes the
 *	  database lock (an LWLock, one of DATABASE_LOCKS by database OID)
 *	  exclusively instead, which every other producer holds shared beside its
 *	  append locks.
 *	- A producer that waits for the exclusive lock is counted in the gate's
 *	  "giants"; newcomers sleep while there are any, so that the shared holders
 *	  drain.
 *
 * WHAT A HOLDER MAY DO.  It writes the fields of PartitionState that the lock
 * guards, and appends: the segment's extension lock, buffers and WAL come after
 * it, and so does the lock of offset_table.c, for the publication.  It does not
 * look into the catalogue, wait for a heavyweight lock or for another append
 * lock, or allocate what may fail.  All that was done before, and is only
 * checked under the lock (append.c); so is a log end that nobody knows, which
 * is stored under it (log_end.c).  Once the commit record is written a holder
 * raises nothing (transaction.c, which also says what PostgreSQL itself does
 * meanwhile).
 *
 * INTERRUPTS.  An LWLock holds interrupts off, so that no process is thrown out
 * of code that must not stop halfway.  A holder of these locks may stop
 * anywhere before the commit record: its rows are dead then, and next_offset
 * has not moved.  So try_lock takes that back, and a holder obeys a
 * cancel as any other process does, whatever it is at.  From the commit record
 * on PostgreSQL itself holds interrupts off.
 *
 * TIMEOUTS.  A wait obeys lock_timeout, from its first sleep until all locks
 * are held, and statement_timeout also where PostgreSQL has disarmed it
 * (timeout.c).  Every process can see who waits for whom (append_wait.c): a
 * holder writes its pid beside the lock.
 *
 * LOCKING.  The append lock is taken exclusively only.  The database lock is
 * shared by all holders of append locks, and exclusive for a giant, which then
 * needs no append lock.  Both come after all heavyweight locks, and, as no
 * process waits for one while it holds another, in any order.
 *
 * WAKE-UPS.  A sleeper is on the condition variable's list before it tests the
 * lock (ConditionVariablePrepareToSleep), and every release signals after
 * releasing: no release is missed.  A sleeper that was signalled but dies
 * before it tries must pass the signal on, and an aborting holder has had its
 * LWLocks released for it without a signal: both are made good by the
 * broadcasts of topics_append_lock_at_abort.
 *
 * See docs/decisions/0005-cancellable-append-lock.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/wait_event.h"

#include "base/base.h"
#include "shared/shared.h"

#define MAX_APPEND_LOCKS 100
#define MAX_ROUNDS 64
#define SPIN_ATTEMPTS 20		/* about 10 us in all */
#define SPIN_DELAYS 10

/*
 * Database locks are shared by databases whose OIDs collide: harmless, and it
 * saves a registry of databases.
 */
#define DATABASE_LOCKS 64

typedef struct DatabaseGate
{
	ConditionVariable cv;		/* the lock was released, or a giant left */
	pg_atomic_uint32 giants;	/* waiting for the exclusive lock: newcomers
								 * stand back */
	pg_atomic_uint32 holder;	/* pid of the giant that has the lock, or 0 */
} DatabaseGate;

static DatabaseGate *gates = NULL;
static LWLockPadded *database_locks = NULL;

static PartitionState *held[MAX_APPEND_LOCKS];	/* what this backend holds, or
												 * did when it failed */
static int	nheld = 0;
static bool has_database_lock = false;
static bool exclusive = false;	/* the database lock, in place of the rest */
static bool is_giant = false;	/* we count among the giants */
static ConditionVariable *sleeping_on = NULL;
static bool waiting = false;	/* has slept, and does not have its locks yet */

/* shmem_request_hook */
void
topics_append_lock_shmem_request(void)
{
	RequestAddinShmemSpace(MAXALIGN(DATABASE_LOCKS * sizeof(DatabaseGate)));
	RequestNamedLWLockTranche("pg_topics_database", DATABASE_LOCKS);
}

/* shmem_startup_hook; the caller holds AddinShmemInitLock. */
void
topics_append_lock_shmem_startup(void)
{
	bool		found;

	database_locks = GetNamedLWLockTranche("pg_topics_database");
	gates = ShmemInitStruct("pg_topics gates", DATABASE_LOCKS * sizeof(DatabaseGate), &found);
	if (!found)
		for (int i = 0; i < DATABASE_LOCKS; i++)
		{
			ConditionVariableInit(&gates[i].cv);
			pg_atomic_init_u32(&gates[i].giants, 0);
			pg_atomic_init_u32(&gates[i].holder, 0);
		}
}

static LWLock *
find_database_lock(void)
{
	return &database_locks[MyDatabaseId % DATABASE_LOCKS].lock;
}

static DatabaseGate *
find_database_gate(void)
{
	return &gates[MyDatabaseId % DATABASE_LOCKS];
}

/* Acquire a lock if it is free.  Interrupts are not held off for it. */
static bool
try_lock(LWLock *lock, LWLockMode mode)
{
	if (!LWLockConditionalAcquire(lock, mode))
		return false;
	RESUME_INTERRUPTS();
	return true;
}

static void
unlock(LWLock *lock)
{
	HOLD_INTERRUPTS();			/* LWLockRelease resumes them */
	LWLockRelease(lock);
}

/* Note that an append lock is ours. */
static void
note_held(PartitionState *state)
{
	held[nheld++] = state;
	pg_atomic_write_u32(&state->holder, MyProcPid);
}

/*
 * Take back a note of who holds a lock.  The lock may be another process's by
 * now, which has written its own pid then.
 */
static void
forget_holder(pg_atomic_uint32 *holder)
{
	uint32		expected = MyProcPid;

	(void) pg_atomic_compare_exchange_u32(holder, &expected, 0);
}

/*
 * About to sleep, for the append lock of a partition, or for the database lock
 * if that is NULL.  What is waited for may change during a wait.
 */
static void
begin_wait(const PartitionState *state)
{
	topics_append_wait_enter(state ? &state->id : NULL, is_giant);
	if (!waiting)
		topics_timeout_begin_wait();
	waiting = true;
}

/* The wait is over, or has failed.  Raises nothing. */
static void
end_wait(void)
{
	waiting = false;
	topics_timeout_end_wait();
	topics_append_wait_leave();
}

/*
 * The wait is over.  If lock_timeout has come in the last moment, that is
 * reported here: the next wait forgets whose the cancel was.
 */
static void
finish_wait(void)
{
	if (likely(!waiting))
		return;
	end_wait();
	CHECK_FOR_INTERRUPTS();
}

/*
 * Acquire the lock, if it is free now or shortly.  A commit of few records
 * holds it for a few microseconds, which is less than it takes to go to sleep
 * and be woken.
 */
static bool
spin_and_acquire(LWLock *lock)
{
	for (int attempt = 0; !try_lock(lock, LW_EXCLUSIVE); attempt++)
	{
		if (attempt == SPIN_ATTEMPTS)
			return false;
		for (int i = 0; i < SPIN_DELAYS; i++)
			SPIN_DELAY();
	}
	return true;
}

/*
 * Sleep until the lock is ours: the append lock of a partition, or the database
 * lock if that is NULL.  Nothing else of ours is held meanwhile.
 */
static void
sleep_and_acquire(PartitionState *state)
{
	LWLock	   *lock = state ? &state->append_lock : find_database_lock();
	ConditionVariable *cv = state ? &state->append_cv : &find_database_gate()->cv;

	Assert(nheld == 0 && !has_database_lock);

	sleeping_on = cv;
	ConditionVariablePrepareToSleep(cv);
	while (!try_lock(lock, LW_EXCLUSIVE))
	{
		begin_wait(state);
		ConditionVariableSleep(cv, topics_wait_event_get(WAIT_APPEND_LOCK));
	}
	ConditionVariableCancelSleep();
	sleeping_on = NULL;
}

static void
release_append_locks(void)
{
	while (nheld > 0)
	{
		PartitionState *state = held[--nheld];

		pg_atomic_write_u32(&state->holder, 0);
		unlock(&state->append_lock);
		/* during a cut some sleepers do not want the lock */
		if (state->append_limit == NO_LIMIT && state->cut_end == 0)
			ConditionVariableSignal(&state->append_cv);
		else
			ConditionVariableBroadcast(&state->append_cv);
	}
}

static void
release_database_share(void)
{
	unlock(find_database_lock());
	has_database_lock = false;
	if (pg_atomic_read_u32(&find_database_gate()->giants) > 0)
		ConditionVariableBroadcast(&find_database_gate()->cv);
}

/* Share the database lock, unless a giant has it or waits for it. */
static bool
try_database_share(void)
{
	if (pg_atomic_read_u32(&find_database_gate()->giants) == 0 &&
		try_lock(find_database_lock(), LW_SHARED))
		has_database_lock = true;
	return has_database_lock;
}

/* Sleep until no transaction has or wants the database lock exclusively. */
static void
sleep_until_no_giant(void)
{
	ConditionVariable *cv = &find_database_gate()->cv;

	sleeping_on = cv;
	ConditionVariablePrepareToSleep(cv);
	while (pg_atomic_read_u32(&find_database_gate()->giants) > 0)
	{
		begin_wait(NULL);
		ConditionVariableSleep(cv, topics_wait_event_get(WAIT_APPEND_LOCK));
	}
	ConditionVariableCancelSleep();
	sleeping_on = NULL;
}

/* Acquire the database lock exclusively, as a giant. */
static void
acquire_database(void)
{
	pg_atomic_fetch_add_u32(&find_database_gate()->giants, 1);
	is_giant = true;
	sleep_and_acquire(NULL);
	has_database_lock = true;
	exclusive = true;
	pg_atomic_write_u32(&find_database_gate()->holder, MyProcPid);
}

/*
 * One round: all locks, or none.  states[*missed], unless *missed is -1, is
 * the one that an earlier round did not get: it is slept for, and kept.
 */
static bool
try_all_locks(PartitionState **states, int nstates, int *missed)
{
	int			kept = *missed;

	if (kept >= 0)
	{
		sleep_and_acquire(states[kept]);
		note_held(states[kept]);
	}

	*missed = -1;
	if (!try_database_share())
	{
		release_append_locks();
		sleep_until_no_giant();
		return false;
	}

	for (int i = 0; i < nstates; i++)
	{
		if (i == kept)
			continue;
		if (!spin_and_acquire(&states[i]->append_lock))
		{
			release_append_locks();
			release_database_share();
			*missed = i;
			return false;
		}
		note_held(states[i]);
	}
	return true;
}

/*
 * Acquire the append locks of "states".  The wait for them can be cancelled;
 * then none is held.  Interrupts are allowed once this returns: an error
 * releases the locks.
 */
void
topics_append_lock_acquire(PartitionState **states, int nstates)
{
	int			missed = -1;
	bool		done = false;

	Assert(nheld == 0 && !has_database_lock && nstates > 0);

	if (nstates <= MAX_APPEND_LOCKS)
		for (int round = 0; !done && (round < MAX_ROUNDS || nstates == 1); round++)
			done = try_all_locks(states, nstates, &missed);
	if (!done)
		acquire_database();
	finish_wait();
}

/* Release what topics_append_lock_acquire took.  Raises nothing. */
void
topics_append_lock_release(void)
{
	release_append_locks();
	if (exclusive)
	{
		pg_atomic_write_u32(&find_database_gate()->holder, 0);
		unlock(find_database_lock());
		has_database_lock = exclusive = is_giant = false;
		pg_atomic_fetch_sub_u32(&find_database_gate()->giants, 1);
		ConditionVariableBroadcast(&find_database_gate()->cv);
	}
	else if (has_database_lock)
		release_database_share();
}

/* Return true if this backend has the right to append to the partition. */
bool
topics_append_lock_held(const PartitionState *state)
{
	return (exclusive && LWLockHeldByMeInMode(find_database_lock(), LW_EXCLUSIVE)) ||
		LWLockHeldByMe((LWLock *) &state->append_lock);
}

/* Return the pid of the giant that has this database's lock, or 0. */
int
topics_append_lock_giant(void)
{
	return (int) pg_atomic_read_u32(&find_database_gate()->holder);
}

/*
 * Sleep until something changes with the partition, or until the timeout; the
 * first time return at once, so that what changed before is not missed.  It is
 * part of a wait that the caller ends by topics_append_lock_end_sleeping.
 */
void
topics_append_lock_sleep(PartitionState *state, long timeout_ms)
{
	Assert(nheld == 0 && !has_database_lock);

	begin_wait(state);
	sleeping_on = &state->append_cv;
	(void) ConditionVariableTimedSleep(&state->append_cv, timeout_ms,
									   topics_wait_event_get(WAIT_APPEND_LOCK));
}

/* The wait is over, if there was one. */
void
topics_append_lock_end_sleeping(void)
{
	if (sleeping_on)
		ConditionVariableCancelSleep();
	sleeping_on = NULL;
	finish_wait();
}

/*
 * Wake the sleepers after an abort.  AbortTransaction has released the LWLocks
 * before this is called, and they may have new holders: so nothing that the
 * locks guard is touched here.
 */
void
topics_append_lock_at_abort(void)
{
	if (waiting)
		end_wait();
	if (exclusive)
		forget_holder(&find_database_gate()->holder);
	if (is_giant)
		pg_atomic_fetch_sub_u32(&find_database_gate()->giants, 1);
	if (is_giant || has_database_lock)
		ConditionVariableBroadcast(&find_database_gate()->cv);
	while (nheld > 0)
	{
		PartitionState *state = held[--nheld];

		forget_holder(&state->holder);
		ConditionVariableBroadcast(&state->append_cv);
	}
	if (sleeping_on)
		ConditionVariableBroadcast(sleeping_on);
	has_database_lock = exclusive = is_giant = false;
	sleeping_on = NULL;
}
