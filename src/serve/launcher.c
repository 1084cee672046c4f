/*-------------------------------------------------------------------------
 *
 * launcher.c
 *		The launcher: gives databases with work a worker, and a compactor.
 *
 * As autovacuum's: a static background worker, which starts others where there
 * is work, at most pg_topics.max_workers at a time; they go when there is none
 * (worker.c).  Where nobody works the launcher alone is there, and sleeps until
 * somebody asks, or something comes due (worker_due.c).
 *
 * It is connected to no database, and cannot look into one.  What is to be
 * done stands in shared memory.  Only whether a database has the extension it
 * cannot know: at start it starts a worker in each database that takes
 * connections, and later in one that has come, or that the extension has come
 * to or gone from (hooks.c); a worker that finds no extension says so and
 * ends.  A server without the extension has a launcher that sleeps for good.
 *
 * PLACES.  Who waits longest gets the next place.  If all are taken, a worker
 * is asked to give up its own: one that has nothing to do, after IDLE_PLACE_MS
 * at the least, so that databases with little to do do not chase each other;
 * else the one that came first, after BUSY_PLACE_MS.  It goes between two
 * pieces of its work, and its database waits for its next turn.  So n
 * databases whose work never ends share the places in turns, and one that
 * comes to them waits for about BUSY_PLACE_MS for each place that is wanted
 * before its own.  A worker that hangs keeps its place: there is no way to
 * take it.
 *
 * Compactors have places of their own, pg_topics.max_compactors, since one is
 * at work for hours where there is much to compact, or the rate is low; the
 * workers go on with the rest.  Who waits longest gets the next place; one
 * that others wait for ends after the partition that it is at.
 *
 * A place is free when its process has gone, and PostgreSQL knows: only then
 * has it a process for the next one.  Where max_worker_processes leaves none,
 * the launcher says so once in the log, topics.worker says it as long as it
 * lasts, and the launcher tries again after WORKER_RESTART_MS, or when one of
 * ours has ended.  Producers attach segments themselves then, and CALL
 * topics.maintain() does the rest.
 *
 * The launcher also asks the processes whether they still answer
 * (worker_life.c).
 *
 * A worker is connected to its database, which DROP DATABASE, RENAME and
 * CREATE DATABASE .. TEMPLATE do not allow.  Before such a command the worker
 * is told to end, and none is started before the command's transaction has
 * ended (worker_registry.c).
 *
 * See docs/decisions/0012-workers-on-demand.md.
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
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "group/group.h"
#include "serve/serve.h"
#include "pg_topics.h"

#define LAUNCHER_RESTART_S 5	/* the postmaster starts it again after that */
#define IDLE_PLACE_MS 1000		/* a place is kept so long by who rests, */
#define BUSY_PLACE_MS 5000		/* and so long by who works */
#define ASK_MS 10000			/* between two questions whether a process
								 * answers */
#define LONGEST_NAP_MS 60000	/* with any work to come: the clock of the
								 * wall may be set meanwhile */

PGDLLEXPORT void topics_launcher_main(Datum main_arg);

/* What this launcher has started, and PostgreSQL has not seen the end of. */
static BackgroundWorkerHandle *started[SERVE_KINDS][MAX_WORKERS];

/* Processes that were said not to answer. */
static pid_t reported[SERVE_KINDS][MAX_WORKERS];

/* Databases that take connections, when they were last listed. */
static List *connectable = NIL;

/* Databases that workers have looked into, and found without the extension. */
static List *looked_into = NIL;

/* There are databases that have no slot yet, since others are looked into. */
static bool slots_are_short = false;

/* A look at all slots, and what comes of it. */
typedef struct Survey
{
	MonotonicTime now;
	MonotonicTime next;			/* when to look again */
	WorkerSlot *slots;			/* copies */
	int			taken[SERVE_KINDS]; /* places */
	bool		any_extension;	/* there is, or may be, a database with it */
} Survey;

/* A database that waits for a process. */
typedef struct Waiter
{
	int			index;			/* of its slot */
	MonotonicTime since;
} Waiter;

/* ----------------------------------------------------------------
 *		Databases
 * ----------------------------------------------------------------
 */

/*
 * List all databases, and in "connectable" those in which a worker could be
 * needed: not one whose DROP DATABASE was cut short, which takes no
 * connections.
 */
static List *
list_databases(void)
{
	MemoryContext cxt = CurrentMemoryContext;
	List	   *result = NIL;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	list_free(connectable);
	connectable = NIL;
	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old = MemoryContextSwitchTo(cxt);

		result = lappend_oid(result, database->oid);
		MemoryContextSwitchTo(TopMemoryContext);
		if (database->datallowconn && !database->datistemplate &&
			database->datconnlimit != DATCONNLIMIT_INVALID_DB)
			connectable = lappend_oid(connectable, database->oid);
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
	Oid			database = InvalidOid;

	for (int i = 0; i < MAX_WORKERS; i++)
	{
		WorkerSlot	slot;

		topics_worker_registry_read_at(i, &slot);
		if (OidIsValid(slot.database))
			result = lappend_oid(result, slot.database);
	}
	while (OidIsValid(database = topics_partition_state_next_database(database)))
		result = list_append_unique_oid(result, database);
	while (OidIsValid(database = topics_offset_table_next_database(database)))
		result = list_append_unique_oid(result, database);
	while (OidIsValid(database = topics_producer_table_next_database(database)))
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
		topics_producer_table_forget_database(database);
		topics_follower_forget_database(database);
		topics_mark_slot_forget_database(database);
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

/*
 * Remember which databases lack the extension: another database may take the
 * slot that says so.
 */
static void
note_looked_into(const WorkerSlot *slots, bool forget_looks)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, forget_looks ? NIL : looked_into)
		if (list_member_oid(connectable, lfirst_oid(lc)))
		result = lappend_oid(result, lfirst_oid(lc));
	for (int i = 0; i < MAX_WORKERS; i++)
	{
		if (!OidIsValid(slots[i].database))
			continue;
		result = slots[i].has_extension ? list_delete_oid(result, slots[i].database) :
			list_append_unique_oid(result, slots[i].database);
	}
	list_free(looked_into);
	looked_into = result;
	MemoryContextSwitchTo(old);
}

/*
 * See to it that each database has a slot that a worker is to look into; as far
 * as there are any.
 */
static void
claim_slots(void)
{
	ListCell   *lc;

	slots_are_short = false;
	foreach(lc, connectable)
	{
		Oid			database = lfirst_oid(lc);
		SlotClaim	claim = list_member_oid(looked_into, database) ? SLOT_FOUND :
			topics_worker_registry_claim_slot(database);

		if (claim == SLOT_NOT_YET)
			slots_are_short = true;
		if (claim == SLOT_NONE && topics_worker_registry_claim_hint(HINT_NO_SLOT))
			ereport(LOG,
					(errmsg("pg_topics: there is no worker for database \"%s\"",
							read_database_name(database)),
					 errdetail("All %d places for databases with the extension are taken. Whether this one has it is not known.",
							   MAX_WORKERS),
					 errhint("CALL topics.maintain() regularly in databases that have no worker; the view topics.worker tells.")));
	}
}

/* ----------------------------------------------------------------
 *		A look at all slots
 * ----------------------------------------------------------------
 */

/* How many processes of a kind there may be at a time. */
static int
count_places(int kind)
{
	switch (kind)
	{
		case SERVE_WORKER:
			return pg_topics_max_workers;
		case SERVE_COMPACTOR:
			return pg_topics_max_compactors;
		default:
			return MAX_WORKERS; /* a follower is nothing without */
	}
}

/* Return true if a process that this launcher has started is still there. */
static bool
is_started(int kind, int index)
{
	pid_t		pid;

	if (started[kind][index] != NULL &&
		GetBackgroundWorkerPid(started[kind][index], &pid) == BGWH_STOPPED)
	{
		pfree(started[kind][index]);
		started[kind][index] = NULL;
		topics_worker_registry_end_start(index, kind, false);
	}
	return started[kind][index] != NULL;
}

/* Return true if a place is taken. */
static bool
is_taken(const Survey *survey, int kind, int index)
{
	return survey->slots[index].process[kind].pid != 0 || started[kind][index] != NULL;
}

/* Read all slots, and count the places that are taken. */
static void
read_slots(Survey *survey)
{
	bool		any_ended = false;

	survey->any_extension = false;
	memset(survey->taken, 0, sizeof(survey->taken));
	for (int i = 0; i < MAX_WORKERS; i++)
		for (int kind = 0; kind < SERVE_KINDS; kind++)
			any_ended |= started[kind][i] != NULL && !is_started(kind, i);
	if (any_ended)
		topics_worker_registry_forget_lack();
	for (int i = 0; i < MAX_WORKERS; i++)
	{
		topics_worker_registry_read_at(i, &survey->slots[i]);
		for (int kind = 0; kind < SERVE_KINDS; kind++)
			survey->taken[kind] += is_taken(survey, kind, i);
		survey->any_extension |= OidIsValid(survey->slots[i].database) && survey->slots[i].has_extension;
	}
}

/* Look again at this time, or before. */
static void
look_at(Survey *survey, MonotonicTime time)
{
	survey->next = Min(survey->next, time);
}

/*
 * Return the time at which a database wants a process that it does not have, or
 * NEVER.
 */
static MonotonicTime
get_wanted_time(const Survey *survey, int kind, int index)
{
	const WorkerSlot *slot = &survey->slots[index];

	if (!OidIsValid(slot->database) || is_taken(survey, kind, index) || slot->commands > 0)
		return NEVER;
	if (kind == SERVE_WORKER)
		return topics_worker_due_time(index, slot);
	return slot->has_extension && slot->wanted_since[kind] != 0 && count_places(kind) > 0 ?
		slot->wanted_since[kind] : NEVER;
}

static int
compare_waiters(const void *a, const void *b)
{
	const Waiter *wa = a;
	const Waiter *wb = b;

	return wa->since < wb->since ? -1 : wa->since > wb->since;
}

/*
 * Collect the databases that want a process now, who waits longest first.  The
 * result has room for all.
 */
static int
collect_waiters(Survey *survey, int kind, Waiter *waiters)
{
	int			count = 0;

	for (int i = 0; i < MAX_WORKERS; i++)
	{
		const WorkerSlot *slot = &survey->slots[i];
		MonotonicTime time = get_wanted_time(survey, kind, i);

		if (time > survey->now)
			look_at(survey, time);
		else if (list_member_oid(connectable, slot->database))
		{
			MonotonicTime since = slot->wanted_since[kind];

			waiters[count].index = i;
			waiters[count++].since = since != 0 ? since : survey->now;
		}
	}
	qsort(waiters, count, sizeof(Waiter), compare_waiters);
	return count;
}

/* Return true if any database wants a worker now. */
static bool
anybody_waits(Survey *survey)
{
	for (int i = 0; i < MAX_WORKERS; i++)
		if (get_wanted_time(survey, SERVE_WORKER, i) <= survey->now)
			return true;
	return false;
}

/* ----------------------------------------------------------------
 *		To start, and to make room
 * ----------------------------------------------------------------
 */

/* Start a worker in a database.  Return NULL if there is no process for it. */
static BackgroundWorkerHandle *
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
	strlcpy(worker.bgw_library_name, "pg_topics", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "topics_worker_main", sizeof(worker.bgw_function_name));
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "pg_topics worker for database \"%s\"", name);
	strlcpy(worker.bgw_type, "pg_topics worker", sizeof(worker.bgw_type));
	return RegisterDynamicBackgroundWorker(&worker, &handle) ? handle : NULL;
}

/* Say that there is no process for a database. */
static void
report_no_process(int kind, int index, Oid database)
{
	topics_worker_registry_end_start(index, kind, true);
	if (kind == SERVE_COMPACTOR)
		topics_worker_registry_ask_for_round(index);	/* the worker compacts */
	else if (topics_worker_registry_claim_hint(HINT_NO_PROCESS))
		ereport(LOG,
				(errmsg("pg_topics: no background worker process is left for database \"%s\"",
						read_database_name(database)),
				 kind >= SERVE_REPLICATOR ? errdetail("What this database follows other nodes in gets nothing without.") :
				 errdetail("Topics work without: segments are attached by producers."),
				 errhint("Increase max_worker_processes, or CALL topics.maintain() regularly.")));
}

/*
 * Start a process for a database, if it may have one now.  Return false if the
 * server has none to be had.
 */
static bool
start_process(Survey *survey, int kind, int index)
{
	Oid			database = survey->slots[index].database;
	MemoryContext old;

	if (!topics_worker_registry_begin_start(index, kind))
	{
		look_at(survey, survey->slots[index].process[kind].not_before);
		return survey->slots[index].process[kind].trouble != TROUBLE_NO_PROCESS;
	}
	old = MemoryContextSwitchTo(TopMemoryContext);
	started[kind][index] = kind == SERVE_COMPACTOR ? topics_compactor_start(index, database) :
		kind >= SERVE_REPLICATOR ? topics_replicator_start(index, database, kind - SERVE_REPLICATOR) :
		start_worker(database);
	MemoryContextSwitchTo(old);
	if (started[kind][index] != NULL)
	{
		survey->taken[kind]++;
		return true;
	}
	report_no_process(kind, index, database);
	look_at(survey, survey->now + WORKER_RESTART_MS * INT64CONST(1000));
	return false;
}

/* Return true if a process that is there can be asked for its place. */
static bool
can_be_asked(const ServeProcess *process)
{
	return process->pid != 0 && !process->leave && !topics_worker_life_is_hung(process);
}

/*
 * Choose who is to give up a place now: who rests before who works, and of
 * these the one that came first.  Return its index, or -1 if all have to be
 * left theirs for a while.
 */
static int
choose_to_leave(Survey *survey, int kind)
{
	int			result = -1;
	bool		result_rests = false;

	for (int i = 0; i < MAX_WORKERS; i++)
	{
		const WorkerSlot *slot = &survey->slots[i];
		const ServeProcess *process = &slot->process[kind];
		bool		rests = kind == SERVE_WORKER && slot->busy_since == 0;
		MonotonicTime until = process->since +
			(rests ? IDLE_PLACE_MS : BUSY_PLACE_MS) * INT64CONST(1000);

		if (!can_be_asked(process))
			continue;
		if (until > survey->now)
			look_at(survey, until);
		else if (result < 0 || (rests && !result_rests) ||
				 (rests == result_rests &&
				  process->since < survey->slots[result].process[kind].since))
		{
			result = i;
			result_rests = rests;
		}
	}
	return result;
}

/* Have so many places given up, beside those that are just being. */
static void
make_room(Survey *survey, int kind, int wanted)
{
	for (int i = 0; i < MAX_WORKERS; i++)
	{
		const ServeProcess *process = &survey->slots[i].process[kind];

		/* it is on its way, or has been asked */
		if (is_taken(survey, kind, i) && process->pid == 0)
		{
			wanted -= !process->starting;
			/* nobody tells when it has come, to be asked later */
			if (wanted > 0 && process->starting)
				look_at(survey, survey->now + IDLE_PLACE_MS * INT64CONST(1000));
		}
		else if (process->pid != 0 && process->leave)
			wanted--;
	}
	while (wanted-- > 0)
	{
		int			index = choose_to_leave(survey, kind);

		if (index < 0)
			return;
		topics_worker_registry_ask_to_leave(index, kind);
		topics_worker_registry_read_at(index, &survey->slots[index]);
	}
}

/* Give processes of a kind to databases that want one, as far as there are. */
static void
give_places(Survey *survey, int kind)
{
	int			most = count_places(kind);
	Waiter	   *waiters = palloc(sizeof(Waiter) * MAX_WORKERS);
	int			count = collect_waiters(survey, kind, waiters);
	int			waiting = 0;
	bool		any = true;

	for (int i = 0; i < count; i++)
	{
		int			index = waiters[i].index;
		bool		place = survey->taken[kind] < most;

		topics_worker_registry_want(index, kind,
									place ? TROUBLE_NONE : TROUBLE_NO_PLACE);
		if (place && any)
			any = start_process(survey, kind, index);
		else if (place && kind == SERVE_WORKER)
			topics_worker_registry_want(index, kind, TROUBLE_NO_PROCESS);
		if (!place || !any)
			waiting++;
	}
	make_room(survey, kind, waiting + Max(survey->taken[kind] - most, 0));
	pfree(waiters);
}

/* ----------------------------------------------------------------
 *		Whether processes answer
 * ----------------------------------------------------------------
 */

/* Say once of a process that it does not answer. */
static void
report_if_hung(const WorkerSlot *slot, int index, int kind)
{
	const ServeProcess *process = &slot->process[kind];

	if (!topics_worker_life_is_hung(process) || reported[kind][index] == process->pid)
		return;
	reported[kind][index] = process->pid;
	ereport(LOG,
			(errmsg("pg_topics: the %s of database \"%s\", process %d, does not answer",
					topics_worker_slot_name(kind),
					read_database_name(slot->database), (int) process->pid),
			 errdetail("It was stopped, or hangs in the operating system. What the database wants of it is not done."),
			 errhint("Look at it with tools of the operating system; the view topics.worker tells when it answers again.")));
}

/* Ask all processes that there are, from time to time. */
static void
ask_processes(Survey *survey)
{
	static MonotonicTime ask_at = 0;

	int			taken = 0;

	for (int kind = 0; kind < SERVE_KINDS; kind++)
		taken += survey->taken[kind];
	if (taken == 0)
		return;
	if (ask_at <= survey->now)
	{
		for (int i = 0; i < MAX_WORKERS; i++)
		{
			WorkerSlot *slot = topics_worker_registry_at(i);

			for (int kind = 0; kind < SERVE_KINDS; kind++)
			{
				topics_worker_life_ask(&slot->process[kind]);
				report_if_hung(&survey->slots[i], i, kind);
			}
		}
		ask_at = survey->now + ASK_MS * INT64CONST(1000);
	}
	look_at(survey, ask_at);
}

/* ----------------------------------------------------------------
 *		The process
 * ----------------------------------------------------------------
 */

/*
 * See which databases there are, if they may have changed, or any of them is to
 * get a worker.
 */
static void
look_at_databases(Survey *survey)
{
	bool		forget_looks;
	bool		look_again = topics_worker_registry_take_look_again(&forget_looks);
	List	   *known;
	List	   *databases;

	read_slots(survey);
	if (!look_again && !slots_are_short && !anybody_waits(survey))
		return;
	known = list_known_databases();
	databases = list_databases();
	TEST_POINT("databases-listed");
	forget_databases(known, databases);
	topics_backoff_keep_databases(databases);
	note_looked_into(survey->slots, forget_looks);
	claim_slots();
	read_slots(survey);
}

/*
 * Choose the milliseconds until the launcher looks again if no process wakes
 * it: -1 for ever.  Every process that makes a difference wakes it.  The clock
 * of the wall does not, if it is set.
 */
static long
choose_nap(const Survey *survey)
{
	MonotonicTime next = survey->next;

	if (survey->any_extension)
		next = topics_min(next, topics_clock_in(Min(Max(pg_topics_worker_interval, 1000), LONGEST_NAP_MS)));
	return next == NEVER ? -1 : (long) topics_clock_ms_until(next);
}

/* Look at all that there is to do, and do it.  Return how long to sleep. */
static long
look_around(void)
{
	Survey		survey = {.now = topics_clock_now(),.next = NEVER};

	survey.slots = palloc(sizeof(WorkerSlot) * MAX_WORKERS);
	look_at_databases(&survey);
	for (int kind = SERVE_REPLICATOR; kind < SERVE_KINDS; kind++)
		give_places(&survey, kind);
	read_slots(&survey);
	give_places(&survey, SERVE_COMPACTOR);
	read_slots(&survey);
	give_places(&survey, SERVE_WORKER);
	ask_processes(&survey);
	return choose_nap(&survey);
}

/* before_shmem_exit */
static void
leave_launcher(int code, Datum arg)
{
	topics_worker_registry_leave_launcher();
}

void
topics_launcher_main(Datum main_arg)
{
	MemoryContext cxt;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	topics_background_connect(InvalidOid);

	(void) topics_mark_slot_start_position();
	topics_worker_registry_enter_launcher();
	before_shmem_exit(leave_launcher, 0);
	cxt = AllocSetContextCreate(TopMemoryContext, "pg_topics launcher", ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		long		nap;

		MemoryContextSwitchTo(cxt);
		nap = look_around();
		MemoryContextReset(cxt);
		topics_background_wait(nap, WAIT_LAUNCHER_IDLE);
	}
}

/* In the postmaster: register the launcher. */
void
topics_launcher_register(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = LAUNCHER_RESTART_S;
	strlcpy(worker.bgw_library_name, "pg_topics", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "topics_launcher_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "pg_topics launcher", sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, "pg_topics launcher", sizeof(worker.bgw_type));
	RegisterBackgroundWorker(&worker);
}
