/*-------------------------------------------------------------------------
 *
 * custom_scan.c
 *		What the two plan nodes of our own have in common.
 *
 * Offset Scan (offset_path.c, offset_scan.c) and Fetch Scan (fetch_scan.c)
 * are CustomScans.  PostgreSQL meets each of them in four forms: the path that
 * the planner may choose, the plan, the state of an execution, and the lines
 * of EXPLAIN.  What they fill in alike is filled in here; each of them has its
 * own methods, costs, and callbacks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/explain.h"
#include "executor/executor.h"
#include "nodes/extensible.h"
#include "nodes/pathnodes.h"
#include "utils/ruleutils.h"

#include "base/compat.h"
#include "read/read.h"

/* Make a path that reads a relation; the caller sets its rows and costs. */
CustomPath *
topics_custom_scan_make_path(RelOptInfo *rel, const CustomPathMethods *methods)
{
	CustomPath *path = makeNode(CustomPath);

	path->path.pathtype = T_CustomScan;
	path->path.parent = rel;
	path->path.pathtarget = rel->reltarget;
	path->flags = CUSTOMPATH_SUPPORT_PROJECTION;
	path->methods = methods;
	return path;
}

/* Make the plan of a path, which filters by "quals" and returns "tlist". */
CustomScan *
topics_custom_scan_make_plan(const CustomPath *path, List *tlist, List *quals,
							 const CustomScanMethods *methods)
{
	CustomScan *plan = makeNode(CustomScan);

	plan->scan.plan.targetlist = tlist;
	plan->scan.plan.qual = quals;
	plan->flags = path->flags;
	plan->custom_private = path->custom_private;
	plan->methods = methods;
	return plan;
}

/*
 * Make the state of an execution: a struct of this size that begins with a
 * CustomScanState.
 */
CustomScanState *
topics_custom_scan_make_state(Size size, const CustomExecMethods *methods)
{
	CustomScanState *css = palloc0(size);

	NodeSetTag(css, T_CustomScanState);
	css->methods = methods;
	return css;
}

/* Write a line of EXPLAIN: an expression of the plan, as SQL. */
void
topics_custom_scan_explain(CustomScanState *css, const char *label, Node *expression,
						   List *ancestors, ExplainState *es)
{
	List	   *context = set_deparse_context_plan(es->deparse_cxt, css->ss.ps.plan, ancestors);

	ExplainPropertyText(label, deparse_expression(expression, context, es->verbose, false), es);
}
