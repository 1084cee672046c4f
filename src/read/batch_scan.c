/*-------------------------------------------------------------------------
 *
 * batch_scan.c
 *		SELECT ... FROM topics.poll(...) or topics.consume(...).
 *
 * These functions take records: where the member or the group stands moves
 * behind all that a call has read, whether or not the query reads on.  So the
 * function is called when the first row is asked for, once, and reads its
 * batch to the end, as in a FunctionScan.  The batch is kept in a cheaper form
 * than PostgreSQL's tuplestore (batch.c).
 *
 * A scan that begins anew returns the same rows again; the function is called
 * again only if its arguments may have changed.  A FunctionScan does the same,
 * so this node can stand where that can, but not beside what its arguments
 * come from (LATERAL).
 *
 * The function learns from its ReturnSetInfo that a Batch Scan has called it
 * (topics_fetch_open_sink).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "nodes/extensible.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/paths.h"

#include "read/read.h"
#include "pg_topics.h"

/*
 * Cost beyond the start, as a part of what the function costs, whose rows are
 * stored first.
 */
#define COST_OF_BATCH 0.9

typedef struct BatchScanState
{
	CustomScanState css;		/* must be first */
	ScannedCall call;
	Bitmapset  *params;			/* those that its arguments have */
	Batch	   *batch;			/* once the function was called, or NULL */
} BatchScanState;

static Plan *plan_batch_scan(PlannerInfo *root, RelOptInfo *rel, CustomPath *path,
							 List *tlist, List *clauses, List *custom_plans);
static Node *create_batch_scan_state(CustomScan *cscan);
static void begin_batch_scan(CustomScanState *css, EState *estate, int eflags);
static TupleTableSlot *exec_batch_scan(CustomScanState *css);
static void end_batch_scan(CustomScanState *css);
static void rescan_batch_scan(CustomScanState *css);
static void explain_batch_scan(CustomScanState *css, List *ancestors, ExplainState *es);

static const char *const batch_sources[] = {"topics_consume", "topics_poll"};

static set_rel_pathlist_hook_type previous_batch_pathlist = NULL;

static const CustomPathMethods batch_path_methods = {
	.CustomName = "Batch Scan",
	.PlanCustomPath = plan_batch_scan
};

static const CustomScanMethods batch_scan_methods = {
	.CustomName = "Batch Scan",
	.CreateCustomScanState = create_batch_scan_state
};

static const CustomExecMethods batch_exec_methods = {
	.CustomName = "Batch Scan",
	.BeginCustomScan = begin_batch_scan,
	.ExecCustomScan = exec_batch_scan,
	.EndCustomScan = end_batch_scan,
	.ReScanCustomScan = rescan_batch_scan,
	.ExplainCustomScan = explain_batch_scan
};

/* ----------------------------------------------------------------
 *		Planning
 * ----------------------------------------------------------------
 */

/* set_rel_pathlist_hook */
static void
add_batch_path(PlannerInfo *root, RelOptInfo *rel, Index rti, RangeTblEntry *rte)
{
	if (previous_batch_pathlist)
		previous_batch_pathlist(root, rel, rti, rte);
	/* a rescan would not see what a subquery in an argument depends on */
	if (topics_call_scan_fits(rel, rte, batch_sources, lengthof(batch_sources)) &&
		!contain_subplans((Node *) rte->functions))
		topics_call_scan_add_path(rel, &batch_path_methods, COST_OF_BATCH);
}

static Plan *
plan_batch_scan(PlannerInfo *root, RelOptInfo *rel, CustomPath *path,
				List *tlist, List *clauses, List *custom_plans)
{
	return topics_call_scan_make_plan(root, rel, path, tlist, clauses, &batch_scan_methods);
}

static Node *
create_batch_scan_state(CustomScan *cscan)
{
	return (Node *) topics_custom_scan_make_state(sizeof(BatchScanState), &batch_exec_methods);
}

/* ----------------------------------------------------------------
 *		Execution
 * ----------------------------------------------------------------
 */

/* Collect the parameters of an expression that change while a query runs. */
static bool
collect_params(Node *node, void *params)
{
	if (node == NULL)
		return false;
	if (IsA(node, Param))
	{
		const Param *param = (const Param *) node;

		if (param->paramkind == PARAM_EXEC)
			*(Bitmapset **) params = bms_add_member(*(Bitmapset **) params, param->paramid);
		return false;
	}
	return expression_tree_walker(node, collect_params, params);
}

static void
begin_batch_scan(CustomScanState *css, EState *estate, int eflags)
{
	BatchScanState *state = (BatchScanState *) css;

	topics_call_scan_begin(&state->call, css);
	(void) collect_params((Node *) state->call.expression, &state->params);
}

/*
 * Call the function.  The batch is the query's, all else is gone with the
 * first row.
 */
static void
fill_batch(BatchScanState *state)
{
	PlanState  *ps = &state->css.ss.ps;
	TupleDesc	desc = state->css.ss.ss_ScanTupleSlot->tts_tupleDescriptor;
	FunctionCallInfo fcinfo = topics_call_scan_evaluate(&state->call, ps);
	Batch	   *batch = topics_batch_create(desc);
	BatchSetInfo info = {
		.rsinfo = {
			.type = T_ReturnSetInfo,
			.econtext = ps->ps_ExprContext,
			.expectedDesc = desc,
			.allowedModes = SFRM_BATCH
		},
		.batch = batch
	};
	MemoryContext old = MemoryContextSwitchTo(ps->ps_ExprContext->ecxt_per_tuple_memory);

	fcinfo->resultinfo = (Node *) &info;
	fcinfo->isnull = false;
	(void) FunctionCallInvoke(fcinfo);
	fcinfo->resultinfo = NULL;
	MemoryContextSwitchTo(old);
	topics_batch_rewind(batch);
	state->batch = batch;
}

/* ExecScan's access method */
static TupleTableSlot *
read_batch_scan(ScanState *ss)
{
	BatchScanState *state = (BatchScanState *) ss;

	if (state->batch == NULL)
		fill_batch(state);
	(void) topics_batch_next(state->batch, ss->ss_ScanTupleSlot);
	return ss->ss_ScanTupleSlot;
}

/* ExecScan's recheck method: there is no other version of a record */
static bool
recheck_batch_scan(ScanState *ss, TupleTableSlot *slot)
{
	return true;
}

static TupleTableSlot *
exec_batch_scan(CustomScanState *css)
{
	return ExecScan(&css->ss, read_batch_scan, recheck_batch_scan);
}

static void
forget_batch(BatchScanState *state)
{
	ExecClearTuple(state->css.ss.ss_ScanTupleSlot);
	if (state->batch)
		topics_batch_free(state->batch);
	state->batch = NULL;
}

static void
rescan_batch_scan(CustomScanState *css)
{
	BatchScanState *state = (BatchScanState *) css;

	if (bms_overlap(css->ss.ps.chgParam, state->params))
		forget_batch(state);
	else if (state->batch)
		topics_batch_rewind(state->batch);
	ExecScanReScan(&css->ss);
}

static void
end_batch_scan(CustomScanState *css)
{
	forget_batch((BatchScanState *) css);
}

static void
explain_batch_scan(CustomScanState *css, List *ancestors, ExplainState *es)
{
	topics_call_scan_explain(&((BatchScanState *) css)->call, css, ancestors, es);
}

void
topics_batch_scan_init(void)
{
	RegisterCustomScanMethods(&batch_scan_methods);
	previous_batch_pathlist = set_rel_pathlist_hook;
	set_rel_pathlist_hook = add_batch_path;
}
