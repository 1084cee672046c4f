/*-------------------------------------------------------------------------
 *
 * compactor.c
 *		A process that compacts the topics of a database.
 *
 * The worker finds that compaction pays (maintain.c), and the launcher starts
 * a compactor, pg_topics.max_compactors at a time; it ends when there is
 * nothing more to compact.  It is a process of its own since a turn of
 * compaction takes as long as a segment is large and pg_topics.compaction_rate
 * is low, all in one transaction; meanwhile the worker attaches spares, lets
 * records go and notifies, or goes.  Where there is no process to be had the
 * worker compacts itself, and is late with the rest.
 *
 * A database has one.  Its pid stands in the worker's slot, so that commands
 * that need the database for themselves end it as they end the worker
 * (topics_worker_registry_give_way).  If another database waits for its place
 * it ends, and waits for another one, but not in the middle of a run: what a
 * run remembers of keys is its own, and without its end nothing is clean.
 *
 * An error costs a partition its turn; the others go on.  backoff.c decides
 * when that partition is tried again, and what is logged.
 *
 * See docs/decisions/0009-compaction.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "keep/keep.h"
#include "serve/serve.h"

#define LOOK_MS 200				/* between looks at locks that were held */

PGDLLEXPORT void topics_compactor_main(Datum main_arg);

/* What the launcher gives along. */
typedef struct CompactorArgs
{
	int			slot;
	Oid			database;
} CompactorArgs;

static WorkerSlot *compactor_slot = NULL;
static bool finished = false;	/* nothing is left to be compacted */

/* ----------------------------------------------------------------
 *		In the launcher
 * ----------------------------------------------------------------
 */

/*
 * Start a compactor for a database, by its slot.  The result is palloc'd; NULL
 * if there is no process to be had.
 */
BackgroundWorkerHandle *
topics_compactor_start(int slot, Oid database)
{
	CompactorArgs args = {slot, database};

	return topics_background_start("topics_compactor_main", "pg_topics compactor",
								   &args, sizeof(args));
}

/* ----------------------------------------------------------------
 *		The compactor
 * ----------------------------------------------------------------
 */

/* before_shmem_exit: say that there is no compactor any more. */
static void
leave_compactor_slot(int code, Datum arg)
{
	if (topics_background_is_told_to_end())
		topics_backoff_excuse(SERVE_COMPACTOR);
	topics_worker_slot_leave_as(compactor_slot, SERVE_COMPACTOR, finished);
}

/* Between two steps of a turn. */
static void
commit_and_go_on(void)
{
	CommitTransactionCommand();
	CHECK_FOR_INTERRUPTS();
	StartTransactionCommand();
}

/* A partition's turn, and whether the next one can come at once. */
typedef struct Turn
{
	const DuePartition *due;
	bool		more;
} Turn;

static void
take_turn(void *arg)
{
	Turn	   *turn = arg;

	turn->more = topics_maintain_compact(turn->due->piece.view_relid, turn->due->piece.partition,
										 commit_and_go_on);
}

/*
 * Take a turn for each partition that wants one.  Return false if none does.
 * *more says whether the next turns can come at once.
 */
static bool
take_turns(bool *more)
{
	MemoryContext cxt = AllocSetContextCreate(TopMemoryContext, "pg_topics compactor round",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);
	List	   *wanted = NIL;
	ListCell   *lc;

	topics_worker_slot_take_wish(compactor_slot, SERVE_COMPACTOR);
	StartTransactionCommand();
	if (topics_extension_exists())
	{
		topics_compact_check(true);
		wanted = topics_maintain_collect_compaction(cxt);
	}
	else
		topics_compact_abandon();
	CommitTransactionCommand();
	MemoryContextSwitchTo(cxt);

	*more = false;
	foreach(lc, wanted)
	{
		Turn		turn = {lfirst(lc), false};

		(void) topics_backoff_run(&turn.due->piece, NameStr(turn.due->topic), take_turn, &turn);
		pgstat_report_stat(false);
		*more |= turn.more;
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(cxt);
	return wanted != NIL;
}

/* Wait a little for locks that were in the way. */
static void
wait_for_locks(void)
{
	pgstat_report_activity(STATE_IDLE, NULL);
	topics_background_wait(LOOK_MS, WAIT_COMPACTOR_IDLE);
}

/* Return true if this process is to end for the sake of another database. */
static bool
gives_way(void)
{
	return !topics_compact_is_running() &&
		topics_worker_slot_is_asked_to_leave(compactor_slot, SERVE_COMPACTOR);
}

void
topics_compactor_main(Datum main_arg)
{
	CompactorArgs args;
	bool		more;

	memcpy(&args, topics_background_begin(), sizeof(args));
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	compactor_slot = topics_worker_registry_at(args.slot);
	if (!topics_worker_slot_enter_as(compactor_slot, SERVE_COMPACTOR, args.database))
		proc_exit(0);
	before_shmem_exit(leave_compactor_slot, 0);
	topics_background_connect(args.database);
	topics_backoff_take_over(SERVE_COMPACTOR);
	topics_pace_limit(&pg_topics_compaction_rate);

	pgstat_report_activity(STATE_RUNNING, "compacting topics");
	while (take_turns(&more) || topics_compact_is_running())
	{
		if (gives_way())
			proc_exit(0);
		if (!more)
			wait_for_locks();
		pgstat_report_activity(STATE_RUNNING, "compacting topics");
	}
	finished = true;
	proc_exit(0);
}
