/*-------------------------------------------------------------------------
 *
 * compactor.c
 *		A process that compacts the topics of a database.
 *
 * The worker has it started when compaction pays (maintain.c), and it ends
 * when there is nothing more to compact.  It is a process of its own since a
 * turn of compaction takes as long as a segment is large and
 * pg_topics.compaction_rate is low, all in one transaction; meanwhile the
 * worker attaches spares, lets records go and notifies.  Where there is no
 * process to be had the worker compacts himself, and is late with the rest.
 *
 * There is one per database.  Its pid stands in the worker's slot, so that
 * commands that need the database for themselves end it as they end the
 * worker (topics_worker_registry_give_way).
 *
 * An error costs a partition its turn; the others go on.  When it is tried
 * again, and what is logged, backoff.c decides.
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

#include "compat.h"
#include "pg_topics.h"

#define LOOK_MS 200				/* whether locks are free that were in the way */

PGDLLEXPORT void topics_compactor_main(Datum main_arg);

/* What the worker gives along. */
typedef struct CompactorArgs
{
	int			slot;
	Oid			database;
} CompactorArgs;

static WorkerSlot *my_slot = NULL;

/* ----------------------------------------------------------------
 *		In the worker
 * ----------------------------------------------------------------
 */

/*
 * Have a compactor for our database, if there is none.  False if there is no
 * process to be had.
 */
bool
topics_compactor_start(WorkerSlot *slot)
{
	static BackgroundWorkerHandle *started = NULL;
	CompactorArgs args = {topics_worker_registry_index(slot), MyDatabaseId};
	MemoryContext old;
	pid_t		pid;

	/* one that was started has not come to its slot yet, or an earlier worker's is there */
	if (topics_worker_registry_has_compactor(slot) ||
		(started != NULL && GetBackgroundWorkerPid(started, &pid) != BGWH_STOPPED))
		return true;
	if (started != NULL)
		pfree(started);
	old = MemoryContextSwitchTo(TopMemoryContext);
	started = topics_background_start("topics_compactor_main", "pg_topics compactor",
									  &args, sizeof(args));
	MemoryContextSwitchTo(old);
	return started != NULL;
}

/* ----------------------------------------------------------------
 *		The compactor
 * ----------------------------------------------------------------
 */

static void
leave_slot(int code, Datum arg)
{
	if (topics_background_told_to_end)
		topics_backoff_excuse(true);
	topics_worker_registry_leave_compactor(my_slot);
}

static void
next_transaction(void)
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
										 next_transaction);
}

/* A turn for each partition that wants one.  *more says whether to go on at once. */
static bool
go_round(bool *more)
{
	MemoryContext cxt = AllocSetContextCreate(TopMemoryContext, "pg_topics compactor round",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);
	List	   *wanted = NIL;
	ListCell   *lc;

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

static void
wait_a_little(void)
{
	pgstat_report_activity(STATE_IDLE, NULL);
	topics_background_wait(LOOK_MS, WAIT_COMPACTOR_IDLE);
}

void
topics_compactor_main(Datum main_arg)
{
	CompactorArgs args;
	bool		more;

	memcpy(&args, topics_background_begin(), sizeof(args));
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	my_slot = topics_worker_registry_at(args.slot);
	if (!topics_worker_registry_enter_compactor(my_slot, args.database))
		proc_exit(0);
	before_shmem_exit(leave_slot, 0);
	topics_background_connect(args.database);
	SetConfigOption("statement_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	topics_backoff_take_over(true);
	topics_pace_limit(&pg_topics_compaction_rate);

	pgstat_report_activity(STATE_RUNNING, "compacting topics");
	while (go_round(&more) || topics_compact_is_running())
	{
		if (!more)
			wait_a_little();
		pgstat_report_activity(STATE_RUNNING, "compacting topics");
	}
	proc_exit(0);
}
