/*-------------------------------------------------------------------------
 *
 * wakeup.c
 *		Waiting for records, and waking the processes that wait: at no cost to
 *		a producer whose records nobody waits for.
 *
 * A process that waits, the sleeper, sleeps on the condition variable of the
 * topic, data_cv in the state of the topic's partition 0.  There is one for
 * each topic, since a process can sleep on one only, and a consumer waits for
 * any partition of a topic.  The sleeper writes down what it waits for: in the
 * partition's wake_at the lowest log end at which any sleeper wants to be
 * woken, in the topic's claim_wanted that some sleeper waits for a claim to be
 * released.  So a producer whose records nobody waits for reads one number.  A
 * producer that does wake somebody takes the number away and wakes all
 * sleepers of the topic; each of them looks, and writes down anew what it
 * wants, or goes.  Nothing has to be cleaned up after a sleeper that was
 * cancelled or terminated: what it left costs one broadcast.
 *
 * NO WAKE-UP IS LOST.  The producer, once the commit is visible, does
 *
 *		P1	next_offset := N
 *		P2	full barrier
 *		P3	read wake_at; if it is above N, done
 *		P4	wake_at := nobody, by an exchange
 *		P5	broadcast
 *
 * and the sleeper, from the start or after any wake-up, being on the list of
 * the condition variable (S0),
 *
 *		S1	lower wake_at to W, if it is above, by compare and exchange
 *		S2	full barrier
 *		S3	read next_offset; if it is W or more, done
 *		S4	sleep until taken off the list
 *
 * Let a producer's N be W or more.  Of P1 P2 P3 and S1 S2 S3 either P3 comes
 * after S1 or S3 after P1.  If S3 comes after P1, the sleeper sees N, and does
 * not sleep.  Else P3 sees what S1 left, W or lower, unless another producer's
 * P4 has taken it away between the two.  That one broadcasts afterwards, in
 * P5, when the sleeper is on the list since S0, so it is woken, and starts
 * again with S1; and so on, until either the first case holds, or P3 sees W
 * or lower and our own producer broadcasts.  It does not matter that others
 * lower wake_at meanwhile, since it is only ever lowered by S1; nor that P5
 * wakes sleepers that want more: they go through S1 again.
 *
 * A next_offset of UNKNOWN_OFFSET (a foreign writer's commit, a topic that
 * was dropped) is above any W.  No process sleeps after having read it: it
 * looks the log end up, which makes it known, or finds the topic gone.  So it
 * becomes known without a broadcast, and needs none: every sleeper was woken
 * when it became unknown.
 *
 * Claims work in the same way, with claim_wanted for wake_at and the release of
 * the claim for P1.
 *
 * SEVERAL TOPICS.  Who waits for partitions of several topics, as a member of
 * a group does, sleeps on a channel, one of a few condition variables that
 * belong to no topic.  It sets the channel's bit in the state of each topic
 * before S1.  P5 takes the bits away, by an exchange, and wakes these channels
 * as well as the topic.  A producer that finds no bit there comes after
 * another one that has taken it, and wakes the channel, as for wake_at.
 *
 * The state can be given to another topic while somebody sleeps.  Giving it
 * back broadcasts (partition_state.c), and the check compares "id".
 *
 * The latch that a condition variable uses is shared with all other waits of
 * a process, and a check may do some of these (for a lock, say), and reset
 * what a broadcast had set.  So the latch is set before every sleep, which
 * makes the condition variable look at its list once.
 *
 * LONG WAITS hold no snapshot, lest VACUUM clean nothing anywhere for as
 * long, and no lock, lest DROP wait.  Both would be kept by a SELECT: so long
 * waits are procedures.  topics_wakeup_release_snapshots gives back the
 * snapshot that CALL was given, as COMMIT in a procedure does, and refuses
 * where another one stays.  Checks run under a resource owner of their own,
 * so that locks they take go at their end.
 *
 * Where commits wait for synchronous standbys, records can be read when those
 * have confirmed them, which a producer that has waited for it makes known by a
 * second broadcast.  Others do not wait: so a check that finds records which
 * are only published asks to be called again soon
 * (topics_wakeup_want_confirmation).
 *
 * On a hot standby commits are replayed by a process that publishes nothing.
 * There a wait looks at the replayed position every STANDBY_NAP_MS, and calls
 * the check if that has moved.  The states are private there
 * (partition_state.c), so that a wait which outlives recovery is woken by
 * nobody: it calls the check every STANDBY_NAP_MS until its end.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "tcop/pquery.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "shared/shared.h"

#define STANDBY_NAP_MS 100
#define CONFIRMATION_NAP_MS 100

static ConditionVariable *channels = NULL;

/* What the check waits for is published, and not yet confirmed. */
static bool nap_wanted = false;

/* shmem_request_hook */
void
topics_wakeup_shmem_request(void)
{
	RequestAddinShmemSpace(MAXALIGN(sizeof(ConditionVariable) * WAKEUP_CHANNELS));
}

/* shmem_startup_hook; the caller holds AddinShmemInitLock. */
void
topics_wakeup_shmem_startup(void)
{
	bool		found;

	channels = ShmemInitStruct("pg_topics wakeup", sizeof(ConditionVariable) * WAKEUP_CHANNELS, &found);
	for (int i = 0; !found && i < WAKEUP_CHANNELS; i++)
		ConditionVariableInit(&channels[i]);
}

/* ----------------------------------------------------------------
 *		To wake.  Nothing here may raise, or allocate.
 * ----------------------------------------------------------------
 */

/*
 * Wake the sleepers of a topic, and of the channels on which it is waited for.
 */
static void
wake_sleepers(PartitionState *topic_state)
{
	uint64		wanted = 0;

	ConditionVariableBroadcast(&topic_state->data_cv);
	if (pg_atomic_read_u64(&topic_state->channels_wanted) != 0)
		wanted = pg_atomic_exchange_u64(&topic_state->channels_wanted, 0);
	for (int channel = 0; wanted != 0; channel++, wanted >>= 1)
		if (wanted & 1)
			ConditionVariableBroadcast(&channels[channel]);
}

/* Let all sleepers of a channel look. */
void
topics_wakeup_channel(int channel)
{
	ConditionVariableBroadcast(&channels[channel]);
}

/*
 * The log end "next_offset" of a partition was stored: wake the topic's
 * sleepers, if one of them waits for it.
 */
void
topics_wakeup_published(PartitionState *state, PartitionState *topic_state, int64 next_offset)
{
	int64		wanted;

	pg_memory_barrier();		/* P2 */
	wanted = (int64) pg_atomic_read_u64(&state->wake_at);
	if (likely(wanted == NOBODY_WAITS || next_offset < wanted))
		return;
	pg_atomic_exchange_u64(&state->wake_at, NOBODY_WAITS);
	wake_sleepers(topic_state);
}

/* Something else about the topic has changed: let all its sleepers look. */
void
topics_wakeup_topic(PartitionState *topic_state)
{
	wake_sleepers(topic_state);
}

/* A claim of a partition of the topic is free: its lock was released. */
void
topics_wakeup_claim_released(PartitionState *topic_state)
{
	pg_memory_barrier();
	if (likely(pg_atomic_read_u32(&topic_state->claim_wanted) == 0))
		return;
	pg_atomic_exchange_u32(&topic_state->claim_wanted, 0);
	wake_sleepers(topic_state);
}

/* ----------------------------------------------------------------
 *		To wait
 * ----------------------------------------------------------------
 */

/*
 * In a check: wake this process when the partition's log end is "next_offset"
 * or more.  The check says so before it looks whether it is (S1 and S2).  A
 * check that also looks before, and finds that it need not wait, spares the
 * next producer a broadcast.
 */
void
topics_wakeup_want(PartitionState *state, int64 next_offset)
{
	uint64		wanted = pg_atomic_read_u64(&state->wake_at);

	while ((int64) wanted > next_offset &&
		   !pg_atomic_compare_exchange_u64(&state->wake_at, &wanted, next_offset))
		;
	pg_memory_barrier();
}

/*
 * In a check: wake this process when a claim is released.  The check says so
 * before it looks, too.
 */
void
topics_wakeup_want_claim(PartitionState *topic_state)
{
	pg_atomic_write_u32(&topic_state->claim_wanted, 1);
	pg_memory_barrier();
}

/*
 * In a check of a wait on a channel: wake the channel for this topic, too.
 * The check says so before it says what it wants of it.
 */
void
topics_wakeup_want_channel(PartitionState *topic_state, int channel)
{
	const uint64 bit = UINT64CONST(1) << channel;

	if ((pg_atomic_read_u64(&topic_state->channels_wanted) & bit) == 0)
		pg_atomic_fetch_or_u64(&topic_state->channels_wanted, bit);
	pg_memory_barrier();
}

/*
 * In a check: what it waits for is published, but has still to be confirmed by
 * synchronous standbys.  Call it again before long.
 */
void
topics_wakeup_want_confirmation(void)
{
	nap_wanted = true;
}

/* Call a check.  The locks that it takes, and its memory, go at its end. */
static bool
run_check(WakeupCheck check, void *arg, MemoryContext cxt)
{
	ResourceOwner old_owner = CurrentResourceOwner;
	ResourceOwner owner = ResourceOwnerCreate(old_owner, "pg_topics wait");
	MemoryContext old = MemoryContextSwitchTo(cxt);
	bool		result;

	/* should it fail, the transaction's abort sets all this right */
	CurrentResourceOwner = owner;
	result = check(arg);
	CurrentResourceOwner = old_owner;
	ResourceOwnerRelease(owner, RESOURCE_RELEASE_BEFORE_LOCKS, true, false);
	/* as if aborted: locks are released, not handed to the parent */
	ResourceOwnerRelease(owner, RESOURCE_RELEASE_LOCKS, false, false);
	ResourceOwnerRelease(owner, RESOURCE_RELEASE_AFTER_LOCKS, true, false);
	ResourceOwnerDelete(owner);
	MemoryContextSwitchTo(old);
	MemoryContextReset(cxt);
	return result;
}

/* Milliseconds that are left of a time that began at "start"; below 0, none. */
static long
count_ms_left(instr_time start, long timeout_ms)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, start);
	return timeout_ms - (long) INSTR_TIME_GET_MILLISEC(now);
}

/* Sleep until woken, or the time is over. */
static void
sleep_until_woken(ConditionVariable *cv, long timeout_ms)
{
	/* a wait within the check may have reset what a broadcast had set */
	SetLatch(MyLatch);
	(void) ConditionVariableTimedSleep(cv, timeout_ms, topics_wait_event_get(WAIT_RECORD));
}

/*
 * In a wait that has begun in recovery, where nobody wakes us: sleep until more
 * was replayed, or the time is over; once recovery has ended, for a moment.
 */
static void
sleep_until_replayed(ConditionVariable *cv, XLogRecPtr seen, instr_time start, long timeout_ms)
{
	long		left;

	while ((left = count_ms_left(start, timeout_ms)) > 0)
	{
		(void) ConditionVariableTimedSleep(cv, Min(left, STANDBY_NAP_MS),
										   topics_wait_event_get(WAIT_RECORD));
		if (!RecoveryInProgress() || GetXLogReplayRecPtr(NULL) != seen)
			break;
	}
}

/*
 * Wait on a condition variable until "check" is true.  Return false if it is
 * not after timeout_ms.  "in_recovery" is so to the end of the wait.
 */
static bool
wait_on(ConditionVariable *cv, bool in_recovery, WakeupCheck check, void *arg, long timeout_ms)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "pg_topics wait",
											  ALLOCSET_SMALL_SIZES);
	instr_time	start;
	bool		done;

	INSTR_TIME_SET_CURRENT(start);
	ConditionVariablePrepareToSleep(cv);	/* S0 */
	for (;;)
	{
		XLogRecPtr	replayed = in_recovery ? GetXLogReplayRecPtr(NULL) : InvalidXLogRecPtr;
		long		left;

		CHECK_FOR_INTERRUPTS();
		nap_wanted = false;
		done = run_check(check, arg, cxt);
		left = count_ms_left(start, timeout_ms);
		if (done || left <= 0)
			break;

		/* the check's look at the catalogue is not to hold VACUUM up */
		InvalidateCatalogSnapshot();

		/*
		 * If the check has slept on another condition variable, we are not on
		 * our list; then this puts us there, and returns at once.
		 */
		if (in_recovery)
			sleep_until_replayed(cv, replayed, start, timeout_ms);
		else
			sleep_until_woken(cv, nap_wanted ? Min(left, CONFIRMATION_NAP_MS) : left);
	}
	ConditionVariableCancelSleep();
	MemoryContextDelete(cxt);
	return done;
}

/*
 * Wait for something of a topic until "check" is true.  Return false if it is
 * not after timeout_ms.  The check is called at least once, and whenever
 * something that it wanted may have come about.  The wait can be interrupted.
 * For a long one the caller has released its snapshots.
 */
bool
topics_wakeup_wait(PartitionState *topic_state, WakeupCheck check, void *arg, long timeout_ms)
{
	/* and to the end of the wait: the state is our own then */
	const bool	in_recovery = RecoveryInProgress() ||
		!topics_partition_state_is_current(topic_state);

	return wait_on(&topic_state->data_cv, in_recovery, check, arg, timeout_ms);
}

/* The same, for something of several topics, on a channel; not in recovery. */
bool
topics_wakeup_wait_on_channel(int channel, WakeupCheck check, void *arg, long timeout_ms)
{
	return wait_on(&channels[channel], false, check, arg, timeout_ms);
}

/* ----------------------------------------------------------------
 *		What waiting procedures have in common
 * ----------------------------------------------------------------
 */

/*
 * Convert an argument max_wait to milliseconds, rounded away from 0.  Raise an
 * error unless it is from 0 to limit_ms, which is WAKEUP_MAX_WAIT_MS at most.
 */
long
topics_wakeup_max_wait(const Interval *max_wait, long limit_ms)
{
	int64		days = (int64) max_wait->month * DAYS_PER_MONTH + max_wait->day;

	/* cannot overflow: 2^31 months and days, 2^63 microseconds */
	int64		ms = days * SECS_PER_DAY * 1000 + max_wait->time / 1000;
	int64		us = max_wait->time % 1000;

	Assert(limit_ms <= WAKEUP_MAX_WAIT_MS);
	ms += us > 0 ? 1 : us < 0 ? -1 : 0;
	if (ms < 0 || ms > limit_ms)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_wait must be from 0 to %ld seconds", limit_ms / 1000),
				 errdetail("It is %s.",
						   DatumGetCString(DirectFunctionCall1(interval_out,
															   IntervalPGetDatum(max_wait))))));
	return (long) ms;
}

/*
 * A procedure that gives a row runs with a snapshot that is kept for the row's
 * out-of-line values.  Give it back, as a commit does: our rows have none.
 */
static void
forget_hold_snapshot(void)
{
	if (ActivePortal == NULL || ActivePortal->holdSnapshot == NULL)
		return;
	if (ActivePortal->resowner)
		UnregisterSnapshotFromOwner(ActivePortal->holdSnapshot, ActivePortal->resowner);
	ActivePortal->holdSnapshot = NULL;
}

/*
 * Give back the snapshots that a procedure was called with, so that its wait
 * does not hold up VACUUM, without ending the transaction.  "command" is for
 * the error, where that is not possible.
 */
void
topics_wakeup_release_snapshots(FunctionCallInfo fcinfo, const char *command)
{
	CallContext *context = (CallContext *) fcinfo->context;
	const char *pending = topics_pending_describe();

	if (context == NULL || !IsA(context, CallContext) || context->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run inside a transaction block", command),
				 errdetail("It would keep the transaction's snapshot and locks while it waits."),
				 errhint("Call it on its own, or in a procedure after COMMIT. A driver that begins transactions by itself needs autocommit for it.")));
	if (pending)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run in a transaction that %s", command, pending),
				 errdetail("It would keep the transaction's records, claims and locks from others while it waits."),
				 errhint("COMMIT before.")));
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run in a transaction that has written", command),
				 errdetail("It would keep the transaction open while it waits."),
				 errhint("COMMIT before.")));
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s can only run in isolation level READ COMMITTED", command),
				 errdetail("The transaction keeps its snapshot, and would not see what it waits for."),
				 errhint("Set default_transaction_isolation to \"read committed\".")));

	ForgetPortalSnapshots();
	forget_hold_snapshot();
	InvalidateCatalogSnapshot();
	if (TransactionIdIsValid(MyProc->xmin))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run while a query is open", command),
				 errdetail("A cursor or a loop over a query keeps its snapshot while it waits."),
				 errhint("Close cursors before, and do not call it in a loop over a query.")));
}

/* Take a snapshot again, a new one, for the statement to go on with. */
void
topics_wakeup_restore_snapshot(void)
{
	EnsurePortalSnapshotExists();
}
