/*-------------------------------------------------------------------------
 *
 * fetch_scan.c
 *		SELECT ... FROM topics.fetch(...), record by record.
 *
 * PostgreSQL puts what a function in FROM returns into a tuplestore first,
 * which is a sixth of the time of reading a log.  So the planner is offered a
 * path of our own (a CustomScan, by set_rel_pathlist_hook) that reads as the
 * function does and returns each record at once.
 *
 * It is offered only where nothing but the function stands in FROM.  There the
 * function is not read a second time with the same arguments: a tuplestore
 * would be better at that, and after max_wait another call need not give the
 * same records.  Anywhere else, and as a part of ROWS FROM, the function is
 * called.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "nodes/extensible.h"
#include "optimizer/paths.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "read/read.h"
#include "pg_topics.h"

/*
 * Cost of a Fetch Scan beyond the start, as a part of what the function costs,
 * whose rows are stored first.
 */
#define COST_WITHOUT_STORE 0.8

typedef struct FetchScanState
{
	CustomScanState css;		/* must be first */
	ScannedCall call;			/* of topics.fetch or its twin */

	FetchRequest request;
	RecordOutput output;
	Fetch		fetch;
	bool		started;		/* "fetch" is open */
	bool		may_wait;		/* there was no record and no wait yet */
	bool		ended;			/* there are no more records */
	Snapshot	snapshot;		/* registered, after a wait; or NULL */
} FetchScanState;

static Plan *plan_fetch_scan(PlannerInfo *root, RelOptInfo *rel, CustomPath *path,
							 List *tlist, List *clauses, List *custom_plans);
static Node *create_fetch_scan_state(CustomScan *cscan);
static void begin_fetch_scan(CustomScanState *css, EState *estate, int eflags);
static TupleTableSlot *exec_fetch_scan(CustomScanState *css);
static void end_fetch_scan(CustomScanState *css);
static void rescan_fetch_scan(CustomScanState *css);
static void explain_fetch_scan(CustomScanState *css, List *ancestors, ExplainState *es);

static const char *const fetch_sources[] = {"topics_fetch"};

static set_rel_pathlist_hook_type previous_fetch_pathlist = NULL;

static const CustomPathMethods fetch_path_methods = {
	.CustomName = "Fetch Scan",
	.PlanCustomPath = plan_fetch_scan
};

static const CustomScanMethods fetch_scan_methods = {
	.CustomName = "Fetch Scan",
	.CreateCustomScanState = create_fetch_scan_state
};

static const CustomExecMethods fetch_exec_methods = {
	.CustomName = "Fetch Scan",
	.BeginCustomScan = begin_fetch_scan,
	.ExecCustomScan = exec_fetch_scan,
	.EndCustomScan = end_fetch_scan,
	.ReScanCustomScan = rescan_fetch_scan,
	.ExplainCustomScan = explain_fetch_scan
};

/* ----------------------------------------------------------------
 *		Planning
 * ----------------------------------------------------------------
 */

/* set_rel_pathlist_hook */
static void
add_fetch_path(PlannerInfo *root, RelOptInfo *rel, Index rti, RangeTblEntry *rte)
{
	if (previous_fetch_pathlist)
		previous_fetch_pathlist(root, rel, rti, rte);
	if (bms_membership(root->all_baserels) == BMS_SINGLETON &&
		topics_call_scan_fits(rel, rte, fetch_sources, lengthof(fetch_sources)))
		topics_call_scan_add_path(rel, &fetch_path_methods, COST_WITHOUT_STORE);
}

static Plan *
plan_fetch_scan(PlannerInfo *root, RelOptInfo *rel, CustomPath *path,
				List *tlist, List *clauses, List *custom_plans)
{
	return topics_call_scan_make_plan(root, rel, path, tlist, clauses, &fetch_scan_methods);
}

static Node *
create_fetch_scan_state(CustomScan *cscan)
{
	return (Node *) topics_custom_scan_make_state(sizeof(FetchScanState), &fetch_exec_methods);
}

/* ----------------------------------------------------------------
 *		Execution
 * ----------------------------------------------------------------
 */

static void
begin_fetch_scan(CustomScanState *css, EState *estate, int eflags)
{
	topics_call_scan_begin(&((FetchScanState *) css)->call, css);
}

/* Evaluate the arguments, and begin to read. */
static void
start_fetch_scan(FetchScanState *state)
{
	PlanState  *ps = &state->css.ss.ps;

	state->request = topics_fetch_request(topics_call_scan_evaluate(&state->call, ps));
	state->output = topics_fetch_output(state->request.topic,
										state->css.ss.ss_ScanTupleSlot->tts_tupleDescriptor);
	topics_fetch_open(&state->fetch, &state->request, ps->state->es_snapshot);
	state->started = state->may_wait = true;
}

/* Close what is open; the scan can be started again. */
static void
stop_fetch_scan(FetchScanState *state)
{
	if (state->started)
		topics_fetch_close(&state->fetch);
	state->started = false;
	if (state->snapshot)
		UnregisterSnapshot(state->snapshot);
	state->snapshot = NULL;
}

/*
 * There was no record: wait for one, and begin anew.  Return false if there
 * still is none.
 */
static bool
restart_after_wait(FetchScanState *state)
{
	if (!state->may_wait)
		return false;
	stop_fetch_scan(state);
	state->snapshot = topics_fetch_wait(&state->request);
	if (state->snapshot == NULL)
		return false;
	topics_fetch_open(&state->fetch, &state->request, state->snapshot);
	state->started = true;
	state->may_wait = false;
	return true;
}

/* ExecScan's access method */
static TupleTableSlot *
read_fetch_scan(ScanState *ss)
{
	FetchScanState *state = (FetchScanState *) ss;
	TupleTableSlot *slot = ss->ss_ScanTupleSlot;

	ExecClearTuple(slot);
	if (state->ended)
		return slot;
	if (!state->started)
		start_fetch_scan(state);
	do
	{
		if (topics_fetch_next(&state->fetch, &state->output, slot->tts_values, slot->tts_isnull))
		{
			state->may_wait = false;
			return ExecStoreVirtualTuple(slot);
		}
	} while (restart_after_wait(state));
	state->ended = true;
	return slot;
}

/* ExecScan's recheck method: there is no other version of a record */
static bool
recheck_fetch_scan(ScanState *ss, TupleTableSlot *slot)
{
	return true;
}

static TupleTableSlot *
exec_fetch_scan(CustomScanState *css)
{
	return ExecScan(&css->ss, read_fetch_scan, recheck_fetch_scan);
}

static void
rescan_fetch_scan(CustomScanState *css)
{
	stop_fetch_scan((FetchScanState *) css);
	((FetchScanState *) css)->ended = false;
	ExecScanReScan(&css->ss);
}

static void
end_fetch_scan(CustomScanState *css)
{
	ExecClearTuple(css->ss.ss_ScanTupleSlot);
	stop_fetch_scan((FetchScanState *) css);
}

static void
explain_fetch_scan(CustomScanState *css, List *ancestors, ExplainState *es)
{
	topics_call_scan_explain(&((FetchScanState *) css)->call, css, ancestors, es);
}

void
topics_fetch_scan_init(void)
{
	RegisterCustomScanMethods(&fetch_scan_methods);
	previous_fetch_pathlist = set_rel_pathlist_hook;
	set_rel_pathlist_hook = add_fetch_path;
}
