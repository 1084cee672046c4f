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
 * meanwhile.  Our own background processes have a lock_timeout, too
 * (background.c): a commit that waits for a lost standby may hold an append
 * lock for hours, and other partitions are not to wait for that.
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
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "base/base.h"

static bool commit_is_timed = false;	/* STATEMENT_TIMEOUT is armed by us */
static bool wait_is_timed = false;	/* and so is LOCK_TIMEOUT */

/*
 * Return when the commit's work has to be over: when PostgreSQL's own timer
 * would have ended the statement.  The time of the message from the client
 * does not tell that, since each statement of a message has all of the time.
 *
 * It may be over already, where the commit is not the statement's: at the end
 * of a pipeline, or where a cancel was caught.  Or the timer did not run,
 * since the statement itself has set the timeout.  Then the commit has a time
 * of its own.
 */
static TimestampTz
compute_deadline(void)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz longest = TimestampTzPlusMilliseconds(now, StatementTimeout);
	TimestampTz deadline = get_timeout_finish_time(STATEMENT_TIMEOUT);

	return deadline > now && deadline < longest ? deadline : longest;
}

/*
 * PostgreSQL forgets its timer when it disarms it, also if that has fired in
 * the last moment.  Then the cancel, which is still to be obeyed, would be
 * reported as a user's.
 */
static void
report_late_timeout(void)
{
	TimestampTz deadline = get_timeout_finish_time(STATEMENT_TIMEOUT);

	if (likely(!QueryCancelPending) || get_timeout_indicator(LOCK_TIMEOUT, false) ||
		deadline <= GetCurrentStatementStartTimestamp() || deadline > GetCurrentTimestamp())
		return;
	QueryCancelPending = false;
	ereport(ERROR,
			(errcode(ERRCODE_QUERY_CANCELED),
			 errmsg("canceling statement due to statement timeout")));
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
	report_late_timeout();
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
	if (LockTimeout <= 0)
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
