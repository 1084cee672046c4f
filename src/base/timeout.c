/*-------------------------------------------------------------------------
 *
 * timeout.c
 *		PostgreSQL's timeouts in waits that PostgreSQL does not know of.
 *
 * transaction_timeout runs until PostgreSQL writes the commit record, so
 * nothing is to be done for it.
 *
 * statement_timeout does not: PostgreSQL disarms it before it commits, since a
 * commit of its own hardly waits.  A commit with records may wait for other
 * producers.  So what is left of the time is armed again, with PostgreSQL's own
 * timer, while the commit does our work (topics_timeout_begin_commit).  Where
 * PostgreSQL has not disarmed it, in a procedure that commits, nothing is done.
 *
 * THE TIMER NEVER FIRES AFTER THE COMMIT RECORD, where an error would be a
 * PANIC, and where a cancel would end the wait for a synchronous standby:
 * topics_timeout_end_commit comes before PostgreSQL goes on with the commit.
 * It disarms the timer, after which its handler does not run any more, and
 * then obeys a cancel that the handler has asked for.
 *
 * lock_timeout counts for a wait, from its first sleep until the process has
 * what it waits for (topics_timeout_begin_wait).  PostgreSQL uses the same
 * timer for its own locks, so nothing that waits for one of these is called
 * meanwhile.  Our own background processes wait for an append lock as long as
 * it takes: its holder waits for none of theirs.
 *
 * No system call is made as long as an earlier alarm of the process is due
 * before, so a statement pays for this with one or two looks at the clock; and
 * nothing, if no timeout is set.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "base/base.h"

static bool commit_is_timed = false;	/* STATEMENT_TIMEOUT is armed by us */
static bool wait_is_timed = false;	/* and so is LOCK_TIMEOUT */

/*
 * Return when the current statement has to be over.  At the end of a pipeline
 * no statement runs, and the client may have taken its time since the last one:
 * that does not count.
 */
static TimestampTz
compute_deadline(void)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentStatementStartTimestamp(),
													   StatementTimeout);

	if (debug_query_string == NULL)
	{
		TimestampTz now = GetCurrentTimestamp();

		if (deadline <= now)
			deadline = TimestampTzPlusMilliseconds(now, StatementTimeout);
	}
	return deadline;
}

/*
 * The commit begins with our work: have statement_timeout end it.  Only
 * processes that serve a client have statements with a beginning.
 */
void
topics_timeout_begin_commit(void)
{
	if (likely(StatementTimeout <= 0) ||
		(MyBackendType != B_BACKEND && MyBackendType != B_WAL_SENDER) ||
		get_timeout_active(STATEMENT_TIMEOUT) ||
		topics_pending_describe() == NULL)
		return;
	commit_is_timed = true;
	enable_timeout_at(STATEMENT_TIMEOUT, compute_deadline());
}

/* Our work is done, and may still fail: PostgreSQL goes on with the commit. */
void
topics_timeout_end_commit(void)
{
	if (likely(!commit_is_timed))
		return;
	commit_is_timed = false;
	/* the indicator stays, for the message */
	disable_timeout(STATEMENT_TIMEOUT, true);
	Assert(INTERRUPTS_CAN_BE_PROCESSED());
	CHECK_FOR_INTERRUPTS();
}

/* The transaction has failed.  Raises nothing. */
void
topics_timeout_at_abort(void)
{
	if (commit_is_timed)
		disable_timeout(STATEMENT_TIMEOUT, false);
	commit_is_timed = false;
}

/* About to sleep for what is a lock to the user: have lock_timeout end it. */
void
topics_timeout_begin_wait(void)
{
	if (LockTimeout <= 0 || topics_background_is_ours())
		return;
	wait_is_timed = true;
	enable_timeout_after(LOCK_TIMEOUT, LockTimeout);
}

/*
 * The wait is over, or has failed.  Raises nothing: if the time was over at the
 * last moment, the next CHECK_FOR_INTERRUPTS does.
 */
void
topics_timeout_end_wait(void)
{
	if (wait_is_timed)
		disable_timeout(LOCK_TIMEOUT, true);
	wait_is_timed = false;
}
