/*-------------------------------------------------------------------------
 *
 * call_scan.c
 *		What the plan nodes that read a function of ours have in common.
 *
 * PostgreSQL puts what a function in FROM returns into a tuplestore first: each
 * row is formed, copied, and taken apart again.  For some of our functions the
 * planner is offered a path of our own (a CustomScan, by set_rel_pathlist_hook)
 * that does without: Fetch Scan (fetch_scan.c) and Batch Scan (batch_scan.c).
 * They find the call, plan it, and evaluate its arguments as here.
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
#include "optimizer/pathnode.h"
#include "optimizer/restrictinfo.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "base/base.h"
#include "read/read.h"
#include "pg_topics.h"

/* ----------------------------------------------------------------
 *		Planning
 * ----------------------------------------------------------------
 */

/* Return true if a function is of our schema, and one of these in C. */
static bool
is_ours(HeapTuple tuple, const char *const *sources, int count)
{
	Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(tuple);
	bool		isnull;
	Datum		datum;
	char	   *source;

	if (proc->prolang != ClanguageId || proc->prosecdef ||
		!heap_attisnull(tuple, Anum_pg_proc_proconfig, NULL) ||
		proc->pronamespace != get_namespace_oid(TOPICS_SCHEMA, true))
		return false;
	datum = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_prosrc, &isnull);
	source = isnull ? "" : TextDatumGetCString(datum);
	for (int i = 0; i < count; i++)
		if (strcmp(source, sources[i]) == 0)
			return true;
	return false;
}

/*
 * Return the call that a range table entry is, or NULL if it is anything else.
 */
static FuncExpr *
get_call(RangeTblEntry *rte)
{
	RangeTblFunction *function;

	if (rte->rtekind != RTE_FUNCTION || rte->funcordinality || list_length(rte->functions) != 1)
		return NULL;
	function = linitial(rte->functions);
	return IsA(function->funcexpr, FuncExpr) ? (FuncExpr *) function->funcexpr : NULL;
}

/* Return true if the query wants all columns in one, as a row. */
static bool
wants_whole_row(RelOptInfo *rel)
{
	return rel->min_attr <= InvalidAttrNumber &&
		!bms_is_empty(rel->attr_needed[InvalidAttrNumber - rel->min_attr]);
}

/*
 * Return true if a plan node of ours can read a relation: it is a call of one
 * of these functions, by their names in C, and gives what the query wants of
 * it.
 */
bool
topics_call_scan_fits(RelOptInfo *rel, RangeTblEntry *rte, const char *const *sources, int count)
{
	FuncExpr   *call = get_call(rte);
	HeapTuple	tuple;
	bool		result;

	if (call == NULL || !pg_topics_enable_offset_scan || rel->pathlist == NIL ||
		!bms_is_empty(rel->lateral_relids) || wants_whole_row(rel))
		return false;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(call->funcid));
	if (!HeapTupleIsValid(tuple))
		return false;
	result = is_ours(tuple, sources, count);
	ReleaseSysCache(tuple);
	return result;
}

/*
 * Offer the planner a path whose cost beyond the start is a part of what the
 * function costs.
 */
void
topics_call_scan_add_path(RelOptInfo *rel, const CustomPathMethods *methods, double cost)
{
	Path	   *function = linitial(rel->pathlist);
	Path	   *path = &topics_custom_scan_make_path(rel, methods)->path;

	path->rows = function->rows;
	path->startup_cost = function->startup_cost;
	path->total_cost = function->startup_cost + cost * (function->total_cost - function->startup_cost);
	add_path(rel, path);
}

/* Make the plan of such a path. */
Plan *
topics_call_scan_make_plan(PlannerInfo *root, RelOptInfo *rel, const CustomPath *path, List *tlist,
						   List *clauses, const CustomScanMethods *methods)
{
	CustomScan *cscan = topics_custom_scan_make_plan(path, tlist, extract_actual_clauses(clauses, false), methods);
	FuncExpr   *call = get_call(root->simple_rte_array[rel->relid]);
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

/* Get a plan's call ready; the memory is the query's. */
void
topics_call_scan_begin(ScannedCall *call, CustomScanState *css)
{
	CustomScan *cscan = (CustomScan *) css->ss.ps.plan;
	int			nargs;

	call->expression = linitial_node(FuncExpr, cscan->custom_exprs);
	require_execute_right(call->expression->funcid);
	fmgr_info(call->expression->funcid, &call->function);
	fmgr_info_set_expr((Node *) call->expression, &call->function);
	call->arguments = ExecInitExprList(call->expression->args, &css->ss.ps);
	nargs = list_length(call->arguments);
	call->fcinfo = palloc(SizeForFunctionCallInfo(nargs));
	InitFunctionCallInfoData(*call->fcinfo, &call->function, nargs, call->expression->inputcollid, NULL, NULL);
}

/* Evaluate the arguments, which are good until the scan's next row. */
FunctionCallInfo
topics_call_scan_evaluate(ScannedCall *call, PlanState *ps)
{
	for (int i = 0; i < call->fcinfo->nargs; i++)
		call->fcinfo->args[i].value = ExecEvalExprSwitchContext(list_nth(call->arguments, i), ps->ps_ExprContext,
																&call->fcinfo->args[i].isnull);
	return call->fcinfo;
}

void
topics_call_scan_explain(const ScannedCall *call, CustomScanState *css, List *ancestors, ExplainState *es)
{
	topics_custom_scan_explain(css, "Function Call", (Node *) call->expression, ancestors, es);
}
