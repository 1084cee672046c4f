/*-------------------------------------------------------------------------
 *
 * early_work.c
 *		What PostgreSQL would wait for under our append locks is done before.
 *
 * Between the append and the commit record PostgreSQL still does work of its
 * own, for which it may need heavyweight locks.  No deadlock detector sees an
 * append lock, and all producers of a partition stand behind a holder that
 * waits.  So topics_early_work_run takes such locks when no append lock is held
 * yet.  It may be called several times in a commit, the last time right before
 * the append locks are taken: what it has done once costs nothing more, and
 * what a check of the records has added is found.
 *
 * From 15 to 19 PostgreSQL does this after XACT_EVENT_PRE_COMMIT:
 *
 *	AtEOXact_Parallel, AfterTriggerEndXact, AtEOXact_LargeObject
 *		memory only.  (Triggers run, and portals close, before PRE_COMMIT.)
 *	PreCommit_on_commit_actions
 *		locks catalogues, and the temporary tables: run_on_commit_actions.
 *	smgrDoPendingSyncs, AtEOXact_RelationMap
 *		I/O, the first with wal_level minimal only.
 *	PreCommit_Notify
 *		waits for the lock on the queue of notifications: lock_notify_queue.
 *		With the lock come invalidation messages.  They may have an entry of
 *		the relcache built anew, which reads catalogues.
 *	PreCommit_CheckForSerializationFailure
 *		LWLocks.  It may raise.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/async.h"
#include "commands/tablecmds.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"

#include "produce/produce.h"

/*
 * Drop and empty the temporary tables that are ON COMMIT DROP or DELETE ROWS,
 * which PostgreSQL would do under our append locks: it locks catalogues for
 * that.  Its own call then finds nothing to drop, and, as long as the flag is
 * not set again, nothing to empty.
 */
static void
run_on_commit_actions(void)
{
	PreCommit_on_commit_actions();
	MyXactFlags &= ~XACT_FLAGS_ACCESSEDTEMPNAMESPACE;
}

/*
 * Return true if the transaction has used NOTIFY (or LISTEN): only async.c
 * knows, and tells it by refusing to prepare such a transaction.
 */
static bool
has_notified(void)
{
	MemoryContext old = CurrentMemoryContext;
	bool		exit_on_error = ExitOnAnyError;
	volatile bool result = false;

	ExitOnAnyError = false;
	PG_TRY();
	{
		AtPrepare_Notify();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(old);
		FlushErrorState();
		result = true;
	}
	PG_END_TRY();
	ExitOnAnyError = exit_on_error;
	return result;
}

static bool notified = false;	/* as the last run has found */

/*
 * Take the lock under which PreCommit_Notify writes to the queue of
 * notifications, which it would wait for under our append locks.  A commit that
 * waits for a standby may hold it for long.
 */
static void
lock_notify_queue(void)
{
	notified = has_notified();
	if (notified)
		LockSharedObject(DatabaseRelationId, InvalidOid, 0, AccessExclusiveLock);
}

/* Do what PostgreSQL would wait for.  The caller holds no append lock. */
void
topics_early_work_run(void)
{
	run_on_commit_actions();
	lock_notify_queue();
}

/* Return true if the transaction has used NOTIFY (or LISTEN). */
bool
topics_early_work_has_notified(void)
{
	return notified;
}
