/*-------------------------------------------------------------------------
 *
 * read_cut.c
 *		How far a snapshot reads where commits wait to be confirmed.
 *
 * Readers stop at the high watermark (shared/high_watermark.c).  It moves while
 * a statement runs.  So what it was is kept with the statement's snapshot, for
 * all partitions at once: the cut.  All scans and functions of a statement
 * agree, and in REPEATABLE READ all statements of a transaction.
 *
 * The cut is made when the first topic is read, after the snapshot was taken.
 * A record that the snapshot sees has been announced by its producer before, so
 * its partition is in the cut, or all that the snapshot sees of it is
 * confirmed.  A partition whose log end is looked up later joins the cut then.
 *
 * In READ COMMITTED a statement's cut is found by the address of its snapshot.
 * We register that as well, so no other snapshot can have the address
 * meanwhile, until the statement's executor ends.  The cut of a snapshot
 * without an executor (fetch() that has waited, consume(), an expression in
 * PL/pgSQL) is removed when nobody else uses the snapshot.
 *
 * A SERIALIZABLE transaction hides nothing that its snapshot sees: no conflict
 * would tell of a transaction that did not see what was hidden.  It waits until
 * that is confirmed, once.  The wait can be cancelled.
 *
 * Other processes cannot be told of the cut: a query whose cut hides something
 * runs without parallel workers.  A worker of a query whose cut hides nothing
 * makes its own, later, which hides nothing of that snapshot either.
 *
 * During recovery readers see what was replayed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"

#define OURS_AND_EXECUTORS 2	/* registrations of a snapshot */
#define SPARE_LIMITS 16			/* that are entered while a cut is made */
#define OLD_XIDS 1000000000		/* transactions: long before the oldest
								 * snapshot */

typedef enum CutState
{
	CUT_NOT_MADE,
	CUT_MADE,
	NO_CUT						/* nothing is hidden */
} CutState;

typedef struct ReadCut
{
	CutState	is_made;
	uint64		marks[MAX_LEADER_SETS]; /* the open ones when it was made */
	uint64		generations[MAX_LEADER_SETS];	/* of what this node was then */
	XLogRecPtr	positions[MAX_LEADER_SETS]; /* what was confirmed then,
											 * whatever the marks */
	int			count;
	int			room;
	PartitionLimit *limits;		/* by address of the state */
	MemoryContext cxt;
} ReadCut;

/* A statement in READ COMMITTED. */
typedef struct Statement
{
	struct Statement *outer;
	Snapshot	snapshot;		/* registered: its address is no other's */
	bool		is_running;		/* in an executor, or about to be */
	ReadCut		cut;
} Statement;

static Statement *statements = NULL;	/* the one that began last comes first */

/* That of a transaction in REPEATABLE READ. */
static ReadCut transaction_cut;

/*
 * In SERIALIZABLE: all up to these marks was waited for; 0: nothing.  As what
 * this node was then.
 */
static uint64 waited_for[MAX_LEADER_SETS];
static uint64 waited_generations[MAX_LEADER_SETS];

/* What runs now is for ourselves, and is not to miss what is unconfirmed. */
static bool shows_all = false;

static ExecutorStart_hook_type previous_executor_start = NULL;
static ExecutorRun_hook_type previous_executor_run = NULL;

/* ----------------------------------------------------------------
 *		Cuts
 * ----------------------------------------------------------------
 */

static int
compare_limits(const void *a, const void *b)
{
	const PartitionState *sa = ((const PartitionLimit *) a)->state;
	const PartitionState *sb = ((const PartitionLimit *) b)->state;

	return sa < sb ? -1 : sa > sb;
}

static void
sort_limits(ReadCut *cut)
{
	if (cut->count > 1)
		qsort(cut->limits, cut->count, sizeof(PartitionLimit), compare_limits);
}

/*
 * On a follower, when a cut was made: refuse a snapshot that sees a part of
 * what the leader committed at once.  It was taken while a long cut of the
 * leader's came in, which is confirmed by now, so that nothing of it is hidden
 * any more.  What was too long ago is not remembered.
 */
static void
refuse_torn_set(int set, Snapshot snapshot)
{
	LongCut		cuts[MAX_LONG_CUTS];
	TransactionId next = ReadNextTransactionId();
	bool		is_all;
	bool		is_torn = false;
	int			count;

	if (topics_mark_slot_kind_of(set) != CLUSTER_FOLLOWER)
		return;
	count = topics_replica_cut_long(set, cuts, &is_all);
	for (int i = 0; i < count && !is_torn; i++)
	{
		/* what is that old is seen by all snapshots */
		if (next - cuts[i].last_xid > OLD_XIDS)
			continue;
		is_torn = XidInMVCCSnapshot(cuts[i].last_xid, snapshot) &&
			(!XidInMVCCSnapshot(cuts[i].first_xid, snapshot) || (i == 0 && !is_all));
	}
	if (is_torn)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("the snapshot was taken while this follower was getting a large transaction, or catching up"),
				 errdetail("It would show a part of what was committed at once."),
				 errhint("Try again.")));
}

static void
refuse_torn_snapshot(Snapshot snapshot)
{
	uint32		sets = topics_mark_slot_sets();

	for (int set = -1; (set = topics_leader_set_after(sets, set)) >= 0;)
		refuse_torn_set(set, snapshot);
}

/*
 * Whenever a reader asks how far it may read, also with a cut from before:
 * refuse a snapshot that sees records which were taken away since, as another
 * node has come to lead.  Others have their offsets by now, and are confirmed,
 * so that nothing there is hidden any more; and a segment can have been cut
 * where the log ended then, with these records behind its end.
 */
static void
refuse_truncated_set(int set, Snapshot snapshot)
{
	TransactionId xid = topics_high_watermark_truncated_by(set);

	if (likely(!TransactionIdIsValid(xid)) || ReadNextTransactionId() - xid > OLD_XIDS ||
		!XidInMVCCSnapshot(xid, snapshot))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("the snapshot was taken before unconfirmed records were truncated"),
			 errdetail("It would show records that the node that leads does not have."),
			 errhint("Try again.")));
}

static void
refuse_truncated_snapshot(Snapshot snapshot)
{
	uint32		sets = topics_mark_slot_sets();

	for (int set = -1; (set = topics_leader_set_after(sets, set)) >= 0;)
		refuse_truncated_set(set, snapshot);
}

/* Add to a cut what there is in a leader set, as of now. */
static void
add_set(ReadCut *cut, int set)
{
	int			count;

	for (;;)
	{
		int			room = topics_high_watermark_count_listed(set) + SPARE_LIMITS;

		if (cut->limits == NULL)
			cut->limits = MemoryContextAlloc(cut->cxt, sizeof(PartitionLimit) * room);
		else if (cut->room < cut->count + room)
			cut->limits = repalloc(cut->limits, sizeof(PartitionLimit) * (cut->count + room));
		cut->room = topics_max(cut->room, cut->count + room);
		if (topics_high_watermark_cut(set, cut->limits + cut->count, cut->room - cut->count, &count,
									  &cut->marks[set], &cut->generations[set], &cut->positions[set]))
			break;
	}
	cut->count += count;
}

/*
 * Make a cut, as of now.  It is one of each leader set: what a transaction has
 * in several is confirmed by the followers of each.
 */
static void
make_cut(ReadCut *cut, MemoryContext cxt)
{
	uint32		sets = topics_mark_slot_sets();

	memset(cut, 0, sizeof(ReadCut));
	cut->cxt = cxt;
	for (int set = -1; (set = topics_leader_set_after(sets, set)) >= 0;)
		add_set(cut, set);
	/* without a cluster the first slot is that of all sets */
	for (int set = METADATA_SET + 1; set < MAX_LEADER_SETS; set++)
	{
		if ((sets & (1 << set)) != 0)
			continue;
		cut->marks[set] = cut->marks[METADATA_SET];
		cut->generations[set] = cut->generations[METADATA_SET];
		cut->positions[set] = cut->positions[METADATA_SET];
	}
	sort_limits(cut);
	cut->is_made = CUT_MADE;
}

/* Add a partition to a cut. */
static int64
add_limit(ReadCut *cut, PartitionState *state)
{
	int64		limit = topics_high_watermark_limit_found(state, cut->positions[state->set]);

	if (cut->count == cut->room)
	{
		cut->room *= 2;
		cut->limits = repalloc(cut->limits, sizeof(PartitionLimit) * cut->room);
	}
	cut->limits[cut->count].state = state;
	cut->limits[cut->count++].limit = limit;
	sort_limits(cut);
	return limit;
}

/* Find the offset at which a cut ends in a partition, or NO_LIMIT. */
static int64
find_limit(ReadCut *cut, PartitionState *state)
{
	PartitionLimit key = {.state = state};
	PartitionLimit *found = NULL;

	if (cut->is_made == NO_CUT)
		return NO_LIMIT;
	if (cut->count > 0)
		found = bsearch(&key, cut->limits, cut->count, sizeof(PartitionLimit), compare_limits);
	if (found)
		return found->limit;

	/*
	 * not in the list when the cut was made, since its end was not known; or
	 * the marks have begun anew
	 */
	if (state->found_at_mark >= cut->marks[state->set] ||
		topics_mark_slot_generation_of(state->set) != cut->generations[state->set])
		return add_limit(cut, state);
	return NO_LIMIT;
}

static void
remove_statement(Statement **link)
{
	Statement  *statement = *link;

	*link = statement->outer;
	UnregisterSnapshotFromOwner(statement->snapshot, TopTransactionResourceOwner);
	if (statement->cut.limits)
		pfree(statement->cut.limits);
	pfree(statement);
}

/*
 * Add a snapshot.  We register it as well: so it is not freed, and its address
 * given to another one, as long as it is here, however its statement ends.
 */
static Statement *
add_statement(Snapshot snapshot, bool is_running)
{
	Statement  *statement = MemoryContextAllocZero(TopTransactionContext, sizeof(Statement));

	statement->snapshot = RegisterSnapshotOnOwner(snapshot, TopTransactionResourceOwner);
	statement->is_running = is_running;
	statement->outer = statements;
	statements = statement;
	return statement;
}

/*
 * Find a snapshot.  Those that nobody else uses any more, and no executor will
 * remove, are removed.
 */
static Statement *
find_statement(Snapshot snapshot)
{
	Statement **link = &statements;
	Statement  *found = NULL;

	while (*link)
	{
		Statement  *statement = *link;

		if (statement->snapshot == snapshot)
			found = statement;
		else if (!statement->is_running && statement->snapshot->regd_count == 1 &&
				 statement->snapshot->active_count == 0)
		{
			remove_statement(link);
			continue;
		}
		link = &statement->outer;
	}
	return found;
}

/* Find the cut that is kept with a snapshot, made if need be. */
static ReadCut *
find_cut(Snapshot snapshot)
{
	ReadCut    *cut;

	if (IsolationUsesXactSnapshot())
		cut = &transaction_cut;
	else
	{
		Statement  *statement = find_statement(snapshot);

		/* fetch() that has waited, an expression without an executor */
		if (statement == NULL)
			statement = add_statement(snapshot, false);
		cut = &statement->cut;
	}
	if (cut->is_made == CUT_NOT_MADE)
	{
		make_cut(cut, TopTransactionContext);
		refuse_torn_snapshot(snapshot);
	}
	refuse_truncated_snapshot(snapshot);
	return cut;
}

/* ----------------------------------------------------------------
 *		SERIALIZABLE
 * ----------------------------------------------------------------
 */

/* Return true if a commit that the snapshot sees is not yet published. */
static bool
awaits_publication(const ReadCut *cut, Snapshot snapshot)
{
	for (int i = 0; i < cut->count; i++)
	{
		TransactionId xid = pg_atomic_read_u32(&cut->limits[i].state->append_xid);

		if (TransactionIdIsValid(xid) && !XidInMVCCSnapshot(xid, snapshot))
			return true;
	}
	return false;
}

/*
 * Wait until all that a snapshot sees is confirmed, unless that was truncated.
 */
static void
wait_for_snapshot(Snapshot snapshot)
{
	int			polls = 0;

	for (;;)
	{
		ReadCut		cut;
		bool		awaits;

		make_cut(&cut, CurrentMemoryContext);
		awaits = awaits_publication(&cut, snapshot);
		pfree(cut.limits);
		if (!awaits)
			break;
		topics_high_watermark_nap(&polls);
	}
	for (int set = -1; (set = topics_leader_set_after(topics_mark_slot_sets(), set)) >= 0;)
		waited_for[set] = topics_high_watermark_wait_for_all(set, refuse_truncated_snapshot, snapshot,
															 &waited_generations[set]);
	for (int set = METADATA_SET + 1; set < MAX_LEADER_SETS; set++)
	{
		if ((topics_mark_slot_sets() & (1 << set)) != 0)
			continue;
		waited_for[set] = waited_for[METADATA_SET];
		waited_generations[set] = waited_generations[METADATA_SET];
	}
}

/* ----------------------------------------------------------------
 *		What readers ask
 * ----------------------------------------------------------------
 */

/*
 * Where the setting is gone, or was never there: return true if a cut is kept
 * with the snapshot nevertheless.  A transaction in REPEATABLE READ that has
 * read without one has none, whatever becomes of the setting.
 */
static bool
is_cut_kept(Snapshot snapshot)
{
	if (snapshot == NULL)
		return false;
	if (IsolationUsesXactSnapshot())
	{
		if (transaction_cut.is_made == CUT_NOT_MADE)
			transaction_cut.is_made = NO_CUT;
		return transaction_cut.is_made != NO_CUT;
	}
	for (Statement *statement = statements; statement; statement = statement->outer)
	{
		if (statement->snapshot == snapshot)
			return statement->cut.is_made != CUT_NOT_MADE;
	}
	return false;
}

/*
 * Return true if something may be hidden from a reader with this snapshot.
 * NULL stands for what is confirmed now.
 */
bool
topics_read_cut_may_hide(Snapshot snapshot)
{
	if (shows_all || (snapshot && !IsMVCCSnapshot(snapshot)))
		return false;
	topics_cluster_attend();
	if (likely(!topics_high_watermark_applies()))
		return is_cut_kept(snapshot);
	return !RecoveryInProgress();
}

/*
 * Show all that is committed, confirmed or not, until this is called again or
 * the transaction, or a subtransaction, fails.  Return what was shown before.
 */
bool
topics_read_cut_show_all(bool show)
{
	bool		before = shows_all;

	shows_all = show;
	return before;
}

/*
 * Get the offset at which a reader with this snapshot has to stop, or NO_LIMIT.
 * NULL stands for what is confirmed now.  The partition's log end is known.
 */
int64
topics_read_cut_limit(PartitionState *state, Snapshot snapshot)
{
	ReadCut    *cut;

	if (likely(!topics_read_cut_may_hide(snapshot)))
	{
		/* where nothing is hidden something can have been taken away, too */
		if (snapshot && !shows_all && IsMVCCSnapshot(snapshot))
			refuse_truncated_snapshot(snapshot);
		return NO_LIMIT;
	}
	if (snapshot == NULL)
		return topics_high_watermark_get(state);
	if (IsolationIsSerializable())
	{
		if (waited_for[state->set] == 0 || state->found_at_mark > waited_for[state->set] ||
			topics_mark_slot_generation_of(state->set) != waited_generations[state->set])
		{
			wait_for_snapshot(snapshot);
			refuse_torn_snapshot(snapshot);
		}
		refuse_truncated_snapshot(snapshot);
		return NO_LIMIT;
	}
	/* not one that can be registered as it is */
	if (!IsolationUsesXactSnapshot() && !snapshot->copied)
		return topics_high_watermark_get(state);
	cut = find_cut(snapshot);
	return find_limit(cut, state);
}

/* Forget all at the end of a transaction. */
void
topics_read_cut_forget(void)
{
	while (statements)
		remove_statement(&statements);
	memset(&transaction_cut, 0, sizeof(transaction_cut));
	memset(waited_for, 0, sizeof(waited_for));
	shows_all = false;
}

/* ----------------------------------------------------------------
 *		Statements
 * ----------------------------------------------------------------
 */

/*
 * MemoryContextCallback: the executor of a statement ends.  Its cut stays for a
 * caller that goes on with the snapshot.
 */
static void
forget_statement(void *arg)
{
	Statement **link = &statements;

	while (*link && *link != arg)
		link = &(*link)->outer;
	if (*link == NULL)
		return;
	if ((*link)->snapshot->active_count == 0 && (*link)->snapshot->regd_count <= OURS_AND_EXECUTORS)
		remove_statement(link);
	else
		(*link)->is_running = false;
}

static void
go_on_starting(QueryDesc *query, int eflags)
{
	if (previous_executor_start)
		previous_executor_start(query, eflags);
	else
		standard_ExecutorStart(query, eflags);
}

/*
 * Start a statement that was added, and have it forgotten with its executor.
 * If there comes to be none, find_statement removes it.
 */
static void
start_noted_statement(QueryDesc *query, int eflags, Statement *statement)
{
	PG_TRY();
	{
		MemoryContextCallback *callback;

		go_on_starting(query, eflags);
		callback = MemoryContextAlloc(query->estate->es_query_cxt, sizeof(MemoryContextCallback));
		callback->func = forget_statement;
		callback->arg = statement;
		MemoryContextRegisterResetCallback(query->estate->es_query_cxt, callback);
	}
	PG_CATCH();
	{
		statement->is_running = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/* ExecutorStart_hook */
static void
start_statement(QueryDesc *query, int eflags)
{
	Statement  *statement = NULL;

	topics_cluster_attend();
	if (unlikely(topics_high_watermark_applies()) && query->snapshot &&
		!IsolationUsesXactSnapshot() && !RecoveryInProgress() &&
	/* otherwise it runs in the statement that has called it */
		find_statement(query->snapshot) == NULL)
		statement = add_statement(query->snapshot, true);
	if (statement)
		start_noted_statement(query, eflags, statement);
	else
		go_on_starting(query, eflags);
}

/*
 * Return true if a plan reads a log table.  Of those that it reads the log ends
 * are looked up, which parallel workers cannot do.
 */
static bool
reads_log(const PlannedStmt *plan)
{
	Oid			namespace = get_namespace_oid(TOPIC_LOG_SCHEMA, true);
	bool		result = false;
	ListCell   *lc;

	foreach(lc, plan->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind == RTE_RELATION && OidIsValid(namespace) &&
			get_rel_namespace(rte->relid) == namespace)
		{
			Relation	rel = relation_open(rte->relid, AccessShareLock);

			topics_log_am_know_end(rel);
			relation_close(rel, NoLock);
			result = true;
		}
	}
	return result;
}

/* Return true if a query must not use parallel workers. */
static bool
must_run_alone(const QueryDesc *query)
{
	if (!query->plannedstmt->parallelModeNeeded || !topics_high_watermark_applies() ||
		RecoveryInProgress() || IsolationIsSerializable())
		return false;
	/* called by a parallel query: nothing can be looked up */
	if (IsInParallelMode())
		return true;
	/* in REPEATABLE READ functions that workers call may read logs, too */
	if (!reads_log(query->plannedstmt) &&
		!(IsolationUsesXactSnapshot() && transaction_cut.is_made != CUT_NOT_MADE))
		return false;
	return find_cut(query->snapshot)->count > 0;
}

/*
 * ExecutorRun_hook: the executor uses no workers if the number of rows is
 * limited.
 */
static void
run_statement(TOPICS_EXECUTOR_RUN_ARGS)
{
	if (count == 0 && must_run_alone(query))
		count = PG_UINT64_MAX;
	if (previous_executor_run)
		previous_executor_run(TOPICS_EXECUTOR_RUN);
	else
		standard_ExecutorRun(TOPICS_EXECUTOR_RUN);
}

void
topics_read_cut_init(void)
{
	previous_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = start_statement;
	previous_executor_run = ExecutorRun_hook;
	ExecutorRun_hook = run_statement;
}
