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

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_language_d.h"
#include "catalog/pg_proc.h"
#include "commands/explain.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/extensible.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/cost.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/restrictinfo.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "base/compat.h"
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
	FuncExpr   *call;			/* of topics.fetch or its twin */
	FmgrInfo	function;		/* the one called, for errors */
	ExprState  *arguments[FETCH_ARGUMENTS];

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

/*
 * Return the call of topics.fetch or its twin that a range table entry is, or
 * NULL if it is anything else.
 */
static FuncExpr *
find_fetch_call(RangeTblEntry *rte)
{
	RangeTblFunction *function;
	FuncExpr   *call;
	HeapTuple	tuple;
	bool		result = false;

	if (rte->rtekind != RTE_FUNCTION || rte->funcordinality || list_length(rte->functions) != 1)
		return NULL;
	function = linitial(rte->functions);
	call = (FuncExpr *) function->funcexpr;
	if (!IsA(call, FuncExpr) || list_length(call->args) != FETCH_ARGUMENTS)
		return NULL;

	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(call->funcid));
	if (HeapTupleIsValid(tuple))
	{
		Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(tuple);

		if (proc->prolang == ClanguageId && !proc->prosecdef &&
			heap_attisnull(tuple, Anum_pg_proc_proconfig, NULL) &&
			proc->pronamespace == get_namespace_oid(TOPICS_SCHEMA, true))
		{
			bool		isnull;
			Datum		source = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_prosrc, &isnull);

			result = !isnull && strcmp(TextDatumGetCString(source), "topics_fetch") == 0;
		}
		ReleaseSysCache(tuple);
	}
	return result ? call : NULL;
}

/* Return true if the query wants all columns in one, as a row. */
static bool
wants_whole_row(RelOptInfo *rel)
{
	return rel->min_attr <= InvalidAttrNumber &&
		!bms_is_empty(rel->attr_needed[InvalidAttrNumber - rel->min_attr]);
}

/* set_rel_pathlist_hook */
static void
add_fetch_path(PlannerInfo *root, RelOptInfo *rel, Index rti, RangeTblEntry *rte)
{
	Path	   *path;
	Path	   *function;

	if (previous_fetch_pathlist)
		previous_fetch_pathlist(root, rel, rti, rte);
	if (!pg_topics_enable_offset_scan || rel->pathlist == NIL ||
		bms_membership(root->all_baserels) != BMS_SINGLETON ||
		!bms_is_empty(rel->lateral_relids) || find_fetch_call(rte) == NULL || wants_whole_row(rel))
		return;

	function = linitial(rel->pathlist);
	path = &topics_custom_scan_make_path(rel, &fetch_path_methods)->path;
	path->rows = function->rows;
	path->startup_cost = function->startup_cost;
	path->total_cost = function->startup_cost + COST_WITHOUT_STORE * (function->total_cost - function->startup_cost);
	add_path(rel, path);
}

static Plan *
plan_fetch_scan(PlannerInfo *root, RelOptInfo *rel, CustomPath *path,
				List *tlist, List *clauses, List *custom_plans)
{
	CustomScan *cscan = topics_custom_scan_make_plan(path, tlist,
													 extract_actual_clauses(clauses, false),
													 &fetch_scan_methods);
	FuncExpr   *call = find_fetch_call(root->simple_rte_array[rel->relid]);
	TupleDesc	desc = get_expr_result_tupdesc((Node *) call, false);

	/* the whole call, so that the plan depends on the function */
	cscan->custom_exprs = list_make1(copyObject(call));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);
		Var		   *column = makeVar(rel->relid, i + 1, attribute->atttypid, attribute->atttypmod,
									 attribute->attcollation, 0);

		cscan->custom_scan_tlist = lappend(cscan->custom_scan_tlist,
										   makeTargetEntry((Expr *) column, i + 1, NULL, false));
	}
	return (Plan *) cscan;
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

/* Check the right to call the function, as ExecInitFunc does. */
static void
require_execute_right(Oid function)
{
	AclResult	result = object_aclcheck(ProcedureRelationId, function, GetUserId(), ACL_EXECUTE);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_FUNCTION, get_func_name(function));
	InvokeFunctionExecuteHook(function);
}

static void
begin_fetch_scan(CustomScanState *css, EState *estate, int eflags)
{
	FetchScanState *state = (FetchScanState *) css;
	CustomScan *cscan = (CustomScan *) css->ss.ps.plan;

	state->call = linitial_node(FuncExpr, cscan->custom_exprs);
	require_execute_right(state->call->funcid);
	fmgr_info(state->call->funcid, &state->function);
	for (int i = 0; i < FETCH_ARGUMENTS; i++)
		state->arguments[i] = ExecInitExpr(list_nth(state->call->args, i), &css->ss.ps);
}

/* Evaluate the arguments, and begin to read. */
static void
start_fetch_scan(FetchScanState *state)
{
	LOCAL_FCINFO(fcinfo, FETCH_ARGUMENTS);
	PlanState  *ps = &state->css.ss.ps;

	InitFunctionCallInfoData(*fcinfo, &state->function, FETCH_ARGUMENTS, InvalidOid, NULL, NULL);
	for (int i = 0; i < FETCH_ARGUMENTS; i++)
		fcinfo->args[i].value = ExecEvalExprSwitchContext(state->arguments[i], ps->ps_ExprContext,
														  &fcinfo->args[i].isnull);
	state->request = topics_fetch_request(fcinfo);
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
	topics_custom_scan_explain(css, "Function Call", (Node *) ((FetchScanState *) css)->call,
							   ancestors, es);
}

void
topics_fetch_scan_init(void)
{
	RegisterCustomScanMethods(&fetch_scan_methods);
	previous_fetch_pathlist = set_rel_pathlist_hook;
	set_rel_pathlist_hook = add_fetch_path;
}
