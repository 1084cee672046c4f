/*-------------------------------------------------------------------------
 *
 * worker.c
 *		The launcher, and a worker per database that has the extension.
 *
 * The launcher is a static background worker.  It cannot look into databases to
 * see where the extension is, so at start, and whenever a database or the
 * extension comes (hooks.c), it starts a worker in each database that takes
 * connections; a worker that finds no extension says so and ends.
 *
 * The worker goes round the partitions that have something to be done
 * (maintain.c): when woken at once for those that asked, and every
 * pg_topics.worker_interval for all.  Between rounds, and between their steps,
 * it sends the notifications that are due (notify.c).  It has another process
 * do the compaction (compactor.c).  It schedules, and knows nothing else.
 *
 * Each partition is a piece of work of its own: one that fails, or that ends
 * the worker, is not tried again before its time (backoff.c), and the others
 * go on.
 *
 * No session waits for a worker.  Where max_worker_processes leaves none, the
 * launcher says so once in the log; producers then attach segments themselves,
 * and CALL topics.maintain() does the rest.
 *
 * A worker is connected to its database, which DROP DATABASE, RENAME and
 * CREATE DATABASE .. TEMPLATE do not allow.  Before such a command the worker
 * is told to end, and none is started before the command's transaction has
 * ended (worker_registry.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "storage/procsignal.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/ps_status.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "group/group.h"
#include "keep/keep.h"
#include "serve/serve.h"
#include "pg_topics.h"

#define LAUNCHER_RESTART_S 5	/* the postmaster starts it again after that */

PGDLLEXPORT void topics_launcher_main(Datum main_arg);
PGDLLEXPORT void topics_worker_main(Datum main_arg);

/* What a round finds. */
typedef struct Round
{
	MemoryContext cxt;			/* of the list */
	List	   *due;
	int			partitions;		/* that were looked at */
	Oid			view_relid;		/* the topic that is being looked at */
} Round;

static WorkerSlot *worker_slot = NULL;

/* ----------------------------------------------------------------
 *		The launcher
 * ----------------------------------------------------------------
 */

/*
 * List all databases, and in *connectable those in which a worker could be
 * needed.
 */
static List *
list_databases(List **connectable)
{
	MemoryContext cxt = CurrentMemoryContext;
	List	   *result = NIL;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old = MemoryContextSwitchTo(cxt);

		result = lappend_oid(result, database->oid);
		if (database->datallowconn && !database->datistemplate)
			*connectable = lappend_oid(*connectable, database->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(cxt);
	return result;
}

/*
 * List the databases that anything in shared memory is of: not all of them have
 * a slot.
 */
static List *
list_known_databases(void)
{
	List	   *result = NIL;
	Oid			slots[MAX_WORKERS];
	Oid			database = InvalidOid;

	topics_worker_registry_list(slots);
	for (int i = 0; i < MAX_WORKERS; i++)
		if (OidIsValid(slots[i]))
			result = lappend_oid(result, slots[i]);
	while (OidIsValid(database = topics_partition_state_next_database(database)))
		result = list_append_unique_oid(result, database);
	while (OidIsValid(database = topics_offset_table_next_database(database)))
		result = list_append_unique_oid(result, database);
	return result;
}

/*
 * Give up slots, and shared memory, of databases that are no more.  "known" are
 * those that had any before the databases were listed: one that was created
 * after that is not in the list either, and may have sessions that produce.
 */
static void
forget_databases(List *known, List *databases)
{
	ListCell   *lc;

	foreach(lc, known)
	{
		Oid			database = lfirst_oid(lc);

		if (list_member_oid(databases, database) || !topics_worker_registry_is_vacant(database))
			continue;
		topics_partition_state_release_database(database);
		/* while the slot is still the database's: its stack is found by it */
		topics_moved_sort(database);
		topics_offset_table_forget_database(database);
		topics_worker_registry_forget(database);
	}
}

/* Read the name of a database, for a message; palloc'd. */
static char *
read_database_name(Oid database)
{
	MemoryContext cxt = CurrentMemoryContext;
	char	   *name;

	StartTransactionCommand();
	name = get_database_name(database);
	name = MemoryContextStrdup(cxt, name ? name : "?");
	CommitTransactionCommand();
	MemoryContextSwitchTo(cxt);
	return name;
}

/* Start a worker in a database.  Return false if there is no process for it. */
static bool
start_worker(Oid database)
{
	BackgroundWorker worker = {0};
	BackgroundWorkerHandle *handle;
	char	   *name = read_database_name(database);

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION |
		BGWORKER_INTERRUPTIBLE;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	strlcpy(worker.bgw_library_name, "pg_topics", MAXPGPATH);
	strlcpy(worker.bgw_function_name, "topics_worker_main", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "pg_topics worker for database \"%s\"", name);
	strlcpy(worker.bgw_type, "pg_topics worker", BGW_MAXLEN);

	if (RegisterDynamicBackgroundWorker(&worker, &handle))
	{
		pfree(handle);
		return true;
	}
	topics_worker_registry_note_no_process(database);
	if (topics_worker_registry_claim_hint(HINT_NO_PROCESS))
		ereport(LOG,
				(errmsg("pg_topics: no background worker process is left for database \"%s\"", name),
				 errdetail("Topics work without: segments are attached by producers."),
				 errhint("Increase max_worker_processes, or CALL topics.maintain() regularly.")));
	return false;
}

/* Databases that workers have looked into, and found without the extension. */
static List *looked_into = NIL;

/*
 * Remember which databases lack the extension: another database may take the
 * slot that says so.
 */
static void
note_looked_into(List *connectable, bool look_again)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, look_again ? NIL : connectable)
	{
		if (list_member_oid(looked_into, lfirst_oid(lc)) ||
			topics_worker_registry_lacks_extension(lfirst_oid(lc)))
			result = lappend_oid(result, lfirst_oid(lc));
	}
	list_free(looked_into);
	looked_into = result;
	MemoryContextSwitchTo(old);
}

/*
 * Start the workers that are wanted, as far as there are slots and processes.
 * When one of them ends, the launcher is woken, and goes on with others.
 */
static void
start_workers(List *connectable, bool look_again)
{
	ListCell   *lc;

	note_looked_into(connectable, look_again);
	foreach(lc, connectable)
	{
		Oid			database = lfirst_oid(lc);
		StartClaim	claim;

		if (list_member_oid(looked_into, database))
			continue;
		claim = topics_worker_registry_claim_start(database);
		if (claim == START_NOW && !start_worker(database))
			break;
		if (claim == START_NO_SLOT && topics_worker_registry_is_full() &&
			topics_worker_registry_claim_hint(HINT_NO_SLOT))
			ereport(LOG,
					(errmsg("pg_topics: there is no worker for database \"%s\"",
							read_database_name(database)),
					 errdetail("All %d places for databases with the extension are taken. Whether this one has it is not known.",
							   MAX_WORKERS),
					 errhint("CALL topics.maintain() regularly in databases that have no worker; the view topics.worker tells.")));
	}
}

/*
 * Choose the milliseconds until the launcher looks again if no process wakes
 * it: until a database that lacks a worker may have its next one.  Every
 * process that makes a difference wakes the launcher, with two exceptions, for
 * which it looks now and then: settings of databases that are changed, and the
 * end of a worker that an earlier launcher has started.
 */
static long
choose_launcher_nap(void)
{
	return topics_worker_registry_time_to_start(Max(WORKER_RESTART_MS, pg_topics_worker_interval));
}

void
topics_launcher_main(Datum main_arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	topics_background_connect(InvalidOid);

	topics_worker_registry_enter_launcher();
	for (;;)
	{
		MemoryContext cxt = AllocSetContextCreate(TopMemoryContext, "pg_topics launcher",
												  ALLOCSET_DEFAULT_SIZES);
		MemoryContext old = MemoryContextSwitchTo(cxt);
		bool		look_again = topics_worker_registry_take_look_again();
		List	   *known = list_known_databases();
		List	   *connectable = NIL;
		List	   *databases;

		databases = list_databases(&connectable);
		TEST_POINT("databases-listed");
		forget_databases(known, databases);
		topics_backoff_keep_databases(databases);
		start_workers(connectable, look_again);

		MemoryContextSwitchTo(old);
		MemoryContextDelete(cxt);
		topics_background_wait(choose_launcher_nap(), WAIT_LAUNCHER_IDLE);
	}
}

/* In the postmaster: register the launcher. */
void
topics_worker_register(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = LAUNCHER_RESTART_S;
	strlcpy(worker.bgw_library_name, "pg_topics", MAXPGPATH);
	strlcpy(worker.bgw_function_name, "topics_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "pg_topics launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "pg_topics launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

/* ----------------------------------------------------------------
 *		The worker
 * ----------------------------------------------------------------
 */

/* before_shmem_exit: say that there is no worker any more. */
static void
leave_worker_slot(int code, Datum arg)
{
	if (topics_background_is_told_to_end())
		topics_backoff_excuse(false);
	topics_notify_give_back();
	topics_worker_registry_leave(worker_slot);
}

/* Return true if the database has the extension; if not, say so in the slot. */
static bool
check_extension_exists(void)
{
	for (;;)
	{
		uint32		changes = topics_worker_registry_changes();
		bool		exists;

		StartTransactionCommand();
		exists = topics_extension_exists();
		CommitTransactionCommand();
		if (exists)
		{
			topics_worker_registry_note_extension(worker_slot);
			return true;
		}
		/* not by the transaction that dropped it: to write the file can fail */
		topics_backoff_forget_database();
		if (topics_worker_registry_note_no_extension(worker_slot, changes))
			return false;
	}
}

/* Between two steps of a piece of work. */
static void
commit_and_notify(void)
{
	CommitTransactionCommand();
	CHECK_FOR_INTERRUPTS();
	(void) topics_notify_send(worker_slot);
	StartTransactionCommand();
}

/* Work: do what is due for a partition. */
static void
maintain_due_partition(void *arg)
{
	const DuePartition *due = arg;

	topics_maintain_partition(due->piece.view_relid, due->piece.partition, false,
							  commit_and_notify);
}

/* Work: write anew what records of groups say of their owners. */
static void
follow_group_owners(void *arg)
{
	topics_offset_log_follow_owners((MemoryContext) arg, commit_and_notify);
}

/* Work: store how far logs have come. */
static void
store_log_floors(void *arg)
{
	topics_maintain_store_floors(InvalidOid, (MemoryContext) arg, commit_and_notify);
}

/* Work: drop the tables of topics that were dropped. */
static void
drop_tables(void *arg)
{
	topics_dropped_topic_finish(false, (MemoryContext) arg, commit_and_notify);
}

/*
 * Work: collect the partitions of a topic that have something to be done now,
 * or for which something has failed that is to be tried again now.
 */
static void
collect_due_of_topic(void *arg)
{
	Round	   *round = arg;
	Topic	   *topic = topics_catalog_get(round->view_relid, true);
	WorkPiece	piece = {MyDatabaseId, round->view_relid, 0, WORK_MAINTAIN};

	if (topic == NULL)
	{
		/* a DROP that has just committed holds its lock until all know of it */
		LockRelationOid(round->view_relid, AccessShareLock);
		if (get_rel_name(round->view_relid) != NULL)
			topics_broken_topic_report_view(get_rel_name(round->view_relid));
		if (get_rel_name(round->view_relid) != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("topic \"%s\" cannot be used", get_rel_name(round->view_relid))));
	}
	for (; topic && piece.partition < topic->partitions; piece.partition++)
	{
		long		left = topics_backoff_left(&piece);

		round->partitions++;
		if (left == 0 || (left < 0 && topics_maintain_is_due(topic, piece.partition)))
		{
			DuePartition *due = MemoryContextAlloc(round->cxt, sizeof(DuePartition));
			MemoryContext old = MemoryContextSwitchTo(round->cxt);

			due->piece = piece;
			due->topic = topic->name;
			round->due = lappend(round->due, due);
			MemoryContextSwitchTo(old);
		}
	}
}

/* Work: collect what is due now, of all topics. */
static void
collect_due(void *arg)
{
	Round	   *round = arg;
	ListCell   *lc;

	/* else each topic would say so */
	topics_extension_check_version();
	foreach(lc, topics_catalog_list())
	{
		Oid			view_relid = lfirst_oid(lc);
		const WorkPiece piece = {MyDatabaseId, view_relid, WHOLE_TOPIC, WORK_MAINTAIN};

		round->view_relid = view_relid;
		(void) topics_backoff_run(&piece, get_rel_name(view_relid), collect_due_of_topic, round);
	}
}

/*
 * Work, where no compactor is to be had: a turn of compaction.  If there are
 * more, the next round has the next one.
 */
static void
compact_due_partition(void *arg)
{
	const DuePartition *due = arg;

	if (topics_maintain_compact(due->piece.view_relid, due->piece.partition, commit_and_notify))
		topics_worker_registry_wake_worker();
}

/* Let a compactor compact what is wanted, or else do it in this process. */
static void
arrange_compaction(MemoryContext cxt)
{
	List	   *wanted;
	ListCell   *lc;

	StartTransactionCommand();
	wanted = topics_maintain_collect_compaction(cxt);
	CommitTransactionCommand();
	MemoryContextSwitchTo(cxt);

	if (wanted == NIL || topics_compactor_start(worker_slot))
	{
		topics_compact_abandon();
		return;
	}
	foreach(lc, wanted)
	{
		DuePartition *due = lfirst(lc);

		CHECK_FOR_INTERRUPTS();
		due->piece.kind = WORK_MAINTAIN;	/* the worker's, should it not
											 * survive it */
		(void) topics_backoff_run(&due->piece, NameStr(due->topic), compact_due_partition, due);
	}
}

/* One round over all that is due; "full" if it is time for one over all. */
static void
run_round(bool full)
{
	const WorkPiece whole = WHOLE_ROUND;
	const WorkPiece owners = {MyDatabaseId, InvalidOid, WHOLE_TOPIC, WORK_OWNERS};
	const WorkPiece floors = {MyDatabaseId, InvalidOid, WHOLE_TOPIC, WORK_FLOORS};
	const WorkPiece tables = {MyDatabaseId, InvalidOid, WHOLE_TOPIC, WORK_TABLES};
	const MonotonicTime began = topics_clock_now();
	MemoryContext cxt = AllocSetContextCreate(TopMemoryContext, "pg_topics worker",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);
	Round		round = {cxt, NIL, 0, InvalidOid};
	bool		looked = topics_backoff_run(&whole, NULL, collect_due, &round);
	ListCell   *lc;

	foreach(lc, round.due)
	{
		DuePartition *due = lfirst(lc);

		CHECK_FOR_INTERRUPTS();
		if (!topics_backoff_run(&due->piece, NameStr(due->topic), maintain_due_partition, due) &&
			topics_backoff_left(&whole) >= 0)
			break;				/* too much fails */
		pgstat_report_stat(false);
	}
	(void) topics_backoff_run(&owners, CONSUMER_OFFSETS_TOPIC, follow_group_owners, cxt);
	(void) topics_backoff_run(&tables, NULL, drop_tables, cxt);
	/* in between, only if they have failed, and are to be tried again now */
	if (full || topics_backoff_left(&floors) == 0)
		(void) topics_backoff_run(&floors, NULL, store_log_floors, cxt);
	pgstat_report_stat(false);
	if (looked && topics_backoff_left(&whole) < 0)
	{
		topics_backoff_forget_untried(began);
		topics_worker_registry_note_round(worker_slot, round.partitions);
	}
	arrange_compaction(cxt);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(cxt);
}

static long
count_ms_since(instr_time then)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, then);
	return (long) INSTR_TIME_GET_MILLISEC(now);
}

/*
 * Count the milliseconds until the next round over all partitions, or over what
 * has failed.
 */
static long
count_ms_to_round(instr_time last_round)
{
	long		left = pg_topics_worker_interval - count_ms_since(last_round);
	long		again = topics_backoff_next_round();

	if (again >= 0)
		left = Min(left, again);
	return Max(left, 0);
}

/* Return true if it is time for a round, or somebody has asked for one. */
static bool
round_is_due(instr_time last_round)
{
	return topics_worker_registry_take_round_wanted(worker_slot) || count_ms_to_round(last_round) == 0;
}

/*
 * Send the notifications that are due, and wait until there is something to do.
 */
static void
wait_for_work(instr_time last_round)
{
	long		timeout = count_ms_to_round(last_round);
	long		notify = topics_notify_send(worker_slot);

	if (notify >= 0)
		timeout = Min(timeout, notify);
	topics_background_wait(timeout, WAIT_WORKER_IDLE);
}

void
topics_worker_main(Datum main_arg)
{
	Oid			database = DatumGetObjectId(main_arg);
	instr_time	last_round;
	instr_time	last_full;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, topics_background_end);
	BackgroundWorkerUnblockSignals();
	worker_slot = topics_worker_registry_enter(database);
	if (worker_slot == NULL)
		proc_exit(0);
	before_shmem_exit(leave_worker_slot, 0);
	topics_background_connect(database);
	topics_pace_limit(&pg_topics_compaction_rate);

	topics_backoff_take_over(false);
	INSTR_TIME_SET_CURRENT(last_full);
	while (check_extension_exists())
	{
		bool		full = count_ms_since(last_full) >= pg_topics_worker_interval;

		pgstat_report_activity(STATE_RUNNING, "maintaining topics");
		run_round(full);
		if (full)
			INSTR_TIME_SET_CURRENT(last_full);
		pgstat_report_activity(STATE_IDLE, NULL);
		INSTR_TIME_SET_CURRENT(last_round);
		do
			wait_for_work(last_round);
		while (!round_is_due(last_round));
	}
	proc_exit(0);
}
