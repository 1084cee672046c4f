/*-------------------------------------------------------------------------
 *
 * offset_path.c
 *		The planner is offered to read a segment in offset order.
 *
 * Physical order is offset order, so for
 *
 *		SELECT ... FROM topic.x WHERE partition = 0 AND "offset" >= 42
 *		ORDER BY "offset" LIMIT 100
 *
 * there is nothing to sort, and the block search of log.c finds the place to
 * begin at.  The planner does not know that: it is offered a path of its own
 * for each segment, the Offset Scan (a CustomScan, by set_rel_pathlist_hook),
 * which offset_scan.c executes.  All the rest is PostgreSQL's: the Append over
 * segments is ordered since their ranges are, segments are pruned by constants
 * and parameters, partitions are merged, min and max of "offset" become a scan
 * with LIMIT 1.
 *
 * A condition that compares "offset" with something that is known when the
 * scan starts (a constant, a parameter, a column of a table that is joined
 * before) becomes a bound of the scan.  All other conditions are an ordinary
 * filter.
 *
 * See docs/decisions/0008-offset-scan.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/pg_opfamily_d.h"
#include "catalog/pg_type_d.h"
#include "nodes/extensible.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/restrictinfo.h"
#include "partitioning/partbounds.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/selfuncs.h"
#include "utils/spccache.h"

#include "base/compat.h"
#include "base/base.h"
#include "log/log.h"
#include "read/read.h"
#include "pg_topics.h"

/*
 * Blocks that the search is expected to read, for its cost: so many, but fewer
 * in a small segment, and never more than the search spares.
 */
#define MAX_SEEK_PAGES 2.0
#define SEEK_PAGES_PER_DOUBLING 0.25	/* of the segment's size */

/* To read a block, as a multiple of what it costs a sequential scan. */
#define READ_PAGE_COST 1.02

/* To compare an offset with the bounds, as a fraction of an operator's call. */
#define COMPARISON_COST 0.25

/* Part of the leader's time that a worker costs it (get_parallel_divisor). */
#define LEADER_TIME_PER_WORKER 0.3

static Plan *plan_offset_scan(PlannerInfo *root, RelOptInfo *rel, CustomPath *path,
							  List *tlist, List *clauses, List *custom_plans);

static set_rel_pathlist_hook_type previous_offset_pathlist = NULL;

static const CustomPathMethods offset_path_methods = {
	.CustomName = "Offset Scan",
	.PlanCustomPath = plan_offset_scan
};

/* ----------------------------------------------------------------
 *		Conditions
 * ----------------------------------------------------------------
 */

static bool
is_offset_column(RelOptInfo *rel, Node *node)
{
	Var		   *var = (Var *) node;

	return IsA(node, Var) && var->varno == (int) rel->relid && var->varlevelsup == 0 &&
		var->varattno == Anum_log_offset;
}

/*
 * Return a condition as "offset operator value", with a value that does not
 * depend on the row, or NULL if it is no such condition.  Operators are known
 * by their family, so that "offset >= 42", which is int84ge, is one too.
 */
static OpExpr *
match_offset_condition(PlannerInfo *root, RelOptInfo *rel, RestrictInfo *rinfo)
{
	OpExpr	   *op = (OpExpr *) rinfo->clause;
	Node	   *value;

	if (rinfo->pseudoconstant || !IsA(op, OpExpr) || list_length(op->args) != 2 ||
		!restriction_is_securely_promotable(rinfo, rel))
		return NULL;
	if (is_offset_column(rel, lsecond(op->args)))
	{
		Oid			commutator = get_commutator(op->opno);

		if (!OidIsValid(commutator))
			return NULL;
		op = copyObject(op);
		op->opno = commutator;
		op->opfuncid = get_opcode(commutator);
		op->args = list_make2(lsecond(op->args), linitial(op->args));
	}
	value = lsecond(op->args);
	if (!is_offset_column(rel, linitial(op->args)) ||
		get_op_opfamily_strategy(op->opno, INTEGER_BTREE_FAM_OID) == 0 ||
		bms_is_member(rel->relid, pull_varnos(root, value)) ||
		contain_volatile_functions(value))
		return NULL;
	return op;
}

/* Return the RestrictInfos among "clauses" that are conditions on "offset". */
static List *
select_offset_conditions(PlannerInfo *root, RelOptInfo *rel, List *clauses)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, clauses)
	{
		if (match_offset_condition(root, rel, lfirst(lc)) != NULL)
			result = lappend(result, lfirst(lc));
	}
	return result;
}

/* ----------------------------------------------------------------
 *		Paths
 * ----------------------------------------------------------------
 */

/*
 * Estimate the part of a segment that has to be read, from 0 to 1.  Conditions
 * with constants tell it exactly, since offsets are dense from the base offset
 * on; for the others PostgreSQL guesses.  *has_lower and *has_upper tell
 * whether a bound is to be searched for in the segment.
 */
static double
estimate_part_to_read(PlannerInfo *root, RelOptInfo *rel, const Segment *segment, List *conditions,
					  bool *has_lower, bool *has_upper)
{
	int64		lower = segment->base_offset;
	int64		upper = segment->end_offset - 1;
	double		first;
	double		last;
	List	   *unknown = NIL;
	ListCell   *lc;
	double		part;

	*has_lower = *has_upper = false;
	if (rel->tuples < 1)
		return 1;
	foreach(lc, conditions)
	{
		OpExpr	   *op = match_offset_condition(root, rel, lfirst(lc));
		Node	   *value;
		int			strategy;
		Oid			type;

		/* or it were not among the conditions */
		Assert(op != NULL);
		value = estimate_expression_value(root, lsecond(op->args));
		topics_offset_scan_operator(op, &strategy, &type);
		if (!IsA(value, Const))
		{
			*has_lower |= strategy >= BTEqualStrategyNumber;
			*has_upper |= strategy <= BTEqualStrategyNumber;
			unknown = lappend(unknown, lfirst(lc));
		}
		else if (((Const *) value)->constisnull ||
				 !topics_offset_scan_narrow(&lower, &upper, strategy, type,
											((Const *) value)->constvalue))
			return 0;
	}

	*has_lower |= lower > segment->base_offset;
	*has_upper |= upper < segment->end_offset - 1;
	first = (double) lower - (double) segment->base_offset;
	last = Min((double) upper - (double) segment->base_offset + 1, rel->tuples);
	part = Max(last - first, 0) / rel->tuples;
	if (unknown != NIL)
		part *= clauselist_selectivity(root, unknown, rel->relid, JOIN_INNER, NULL);
	return part;
}

/*
 * Set the cost of reading that part, and before that of the search for its
 * begin.
 *
 * Reading costs a little more than by a sequential scan, which has a ring of
 * buffers: enough for the planner to tell them apart (READ_PAGE_COST).  So the
 * sequential scan stays where nothing is gained.  In a parameterized Append it
 * can stand in for a segment that is empty: PostgreSQL can give it parameters
 * afterwards, unlike a CustomPath.
 */
static void
cost_offset_scan(PlannerInfo *root, RelOptInfo *rel, const Segment *segment, Path *path,
				 bool backward, List *clauses, List *conditions)
{
	bool		has_lower;
	bool		has_upper;
	double		part = estimate_part_to_read(root, rel, segment, conditions, &has_lower, &has_upper);
	double		pages = Min(Max(ceil(rel->pages * part), 1), rel->pages);
	double		tuples = rel->tuples * part;
	double		random_page;
	double		seq_page;
	QualCost	filter;
	Cost		startup;
	Cost		seek = 0;
	Cost		per_tuple;
	Cost		cpu;

	get_tablespace_page_costs(rel->reltablespace, &random_page, &seq_page);
	cost_qual_eval(&filter, list_difference_ptr(clauses, conditions), root);

	if ((backward ? has_upper : has_lower) && rel->pages > 1)
		seek = Min(Min(MAX_SEEK_PAGES, SEEK_PAGES_PER_DOUBLING * log2(rel->pages)) * random_page,
				   (rel->pages - pages) * seq_page);
	startup = cpu_tuple_cost + filter.startup + path->pathtarget->cost.startup + seek;

	per_tuple = cpu_tuple_cost + filter.per_tuple + COMPARISON_COST * cpu_operator_cost;
	cpu = per_tuple * tuples + path->pathtarget->cost.per_tuple * path->rows;
	if (path->parallel_workers > 0)
	{
		double		divisor = path->parallel_workers;

		if (parallel_leader_participation)
			divisor += Max(0, 1.0 - LEADER_TIME_PER_WORKER * path->parallel_workers);
		cpu /= divisor;
		path->rows = clamp_row_est(path->rows / divisor);
	}
	path->startup_cost = startup;
	path->total_cost = startup + READ_PAGE_COST * pages * seq_page + cpu;
}

/*
 * Make a path that reads a segment: with bounds from the relations in
 * required_outer, too, and shared by this number of workers.
 */
static CustomPath *
make_offset_path(PlannerInfo *root, RelOptInfo *rel, const Segment *segment, Relids required_outer,
				 bool backward, List *pathkeys, int workers)
{
	CustomPath *cpath = topics_custom_scan_make_path(rel, &offset_path_methods);
	Path	   *path = &cpath->path;
	List	   *clauses = rel->baserestrictinfo;
	List	   *conditions;

	path->param_info = get_baserel_parampathinfo(root, rel, required_outer);
	path->parallel_aware = workers > 0;
	path->parallel_safe = rel->consider_parallel;
	path->parallel_workers = workers;
	path->pathkeys = pathkeys;
	path->rows = rel->rows;
	if (path->param_info)
	{
		path->rows = path->param_info->ppi_rows;
		clauses = list_concat_copy(clauses, path->param_info->ppi_clauses);
	}
	conditions = select_offset_conditions(root, rel, clauses);
	cost_offset_scan(root, rel, segment, path, backward, clauses, conditions);

	/*
	 * A scan of a range of TIDs cannot turn around: heap counts down the
	 * blocks of the range at each step, back and forth, and ends when none is
	 * left. So a cursor that is to turn around gets its records from a
	 * Materialize.
	 */
	Assert((cpath->flags & CUSTOMPATH_SUPPORT_BACKWARD_SCAN) == 0);
	cpath->custom_private = topics_offset_scan_private(backward ? BackwardScanDirection :
													   ForwardScanDirection, segment);
	return cpath;
}

/*
 * For generate_implied_equalities_for_column: return true if a member is
 * "offset".
 */
static bool
ec_member_is_offset(PlannerInfo *root, RelOptInfo *rel, EquivalenceClass *ec,
					EquivalenceMember *em, void *arg)
{
	return is_offset_column(rel, (Node *) em->em_expr);
}

/* Add paths for the inner side of a nested loop, with bounds from the outer. */
static void
add_parameterized_paths(PlannerInfo *root, RelOptInfo *rel, const Segment *segment)
{
	List	   *clauses = list_copy(rel->joininfo);
	List	   *outers = NIL;
	Relids		all_outers = NULL;
	ListCell   *lc;

	if (rel->has_eclass_joins)
		clauses = list_concat(clauses,
							  generate_implied_equalities_for_column(root, rel, ec_member_is_offset, NULL,
																	 rel->lateral_referencers));
	foreach(lc, clauses)
	{
		RestrictInfo *rinfo = lfirst(lc);
		Relids		outer;
		ListCell   *other;

		if (!join_clause_is_movable_to(rinfo, rel) || match_offset_condition(root, rel, rinfo) == NULL)
			continue;
		outer = bms_union(bms_difference(rinfo->clause_relids, rel->relids), rel->lateral_relids);
		foreach(other, outers)
		{
			if (bms_equal(lfirst(other), outer))
				break;
		}
		if (other == NULL)
			outers = lappend(outers, outer);
		all_outers = bms_union(all_outers, outer);
	}
	if (list_length(outers) > 1)
		outers = lappend(outers, all_outers);
	foreach(lc, outers)
		add_path(rel, (Path *) make_offset_path(root, rel, segment, lfirst(lc), false, NIL, 0));
}

/* Add a path that several processes share, for a large part of a segment. */
static void
add_parallel_path(PlannerInfo *root, RelOptInfo *rel, const Segment *segment, List *conditions)
{
	bool		has_lower;
	bool		has_upper;
	double		part = estimate_part_to_read(root, rel, segment, conditions, &has_lower, &has_upper);
	int			workers = compute_parallel_worker(rel, ceil(rel->pages * part), -1,
												  max_parallel_workers_per_gather);

	if (workers > 0)
		add_partial_path(rel, (Path *) make_offset_path(root, rel, segment, NULL, false, NIL, workers));
}

/* Build the order of "offset", as far as a node above has use for it. */
static List *
build_useful_pathkeys(PlannerInfo *root, RelOptInfo *rel, int strategy)
{
	Oid			operator = get_opfamily_member(INTEGER_BTREE_FAM_OID, INT8OID, INT8OID, strategy);
	Var		   *offset = makeVar(rel->relid, Anum_log_offset, INT8OID, -1, InvalidOid, 0);

	return truncate_useless_pathkeys(root, rel,
									 topics_build_expression_pathkey(root, (Expr *) offset, operator,
																	 rel->relids));
}

/*
 * Find the bounds of a segment.  Its parent in the query knows them; a segment
 * that is read for itself has none, and the catalogue is asked.  They may
 * change before the plan is executed, and are but hints.
 */
static void
find_segment_bounds(PlannerInfo *root, RelOptInfo *rel, Oid relid, Segment *segment)
{
	RelOptInfo *parent = rel->reloptkind == RELOPT_OTHER_MEMBER_REL && root->append_rel_array ?
		root->simple_rel_array[root->append_rel_array[rel->relid]->parent_relid] : NULL;

	segment->relid = relid;
	if (parent && parent->boundinfo && parent->boundinfo->strategy == PARTITION_STRATEGY_RANGE)
	{
		PartitionBoundInfo bounds = parent->boundinfo;

		for (int i = 1; i < bounds->ndatums; i++)
			if (bounds->indexes[i] >= 0 && parent->part_rels[bounds->indexes[i]] == rel)
			{
				segment->base_offset = DatumGetInt64(bounds->datums[i - 1][0]);
				segment->end_offset = DatumGetInt64(bounds->datums[i][0]);
				return;
			}
	}
	topics_log_am_bounds(relid, &segment->base_offset, &segment->end_offset);
}

/*
 * Return true if a relation of the query is a segment, in itself or as a
 * member of its topic, and is not sampled.
 */
static bool
is_plain_segment(RelOptInfo *rel, RangeTblEntry *rte)
{
	Relation	relation;
	bool		result;

	if (rte->rtekind != RTE_RELATION || rte->relkind != RELKIND_RELATION ||
		rte->tablesample != NULL || !IS_SIMPLE_REL(rel))
		return false;
	relation = table_open(rte->relid, NoLock);
	result = topics_log_am_is_segment(relation);
	table_close(relation, NoLock);
	return result;
}

/* set_rel_pathlist_hook */
static void
add_offset_paths(PlannerInfo *root, RelOptInfo *rel, Index rti, RangeTblEntry *rte)
{
	Segment		segment;
	List	   *conditions;
	List	   *ascending;
	List	   *descending;

	if (previous_offset_pathlist)
		previous_offset_pathlist(root, rel, rti, rte);
	if (!pg_topics_enable_offset_scan || !is_plain_segment(rel, rte))
		return;

	find_segment_bounds(root, rel, rte->relid, &segment);
	conditions = select_offset_conditions(root, rel, rel->baserestrictinfo);
	ascending = build_useful_pathkeys(root, rel, BTLessStrategyNumber);
	descending = build_useful_pathkeys(root, rel, BTGreaterStrategyNumber);

	if (conditions != NIL || ascending != NIL)
		add_path(rel, (Path *) make_offset_path(root, rel, &segment, rel->lateral_relids, false, ascending, 0));
	if (descending != NIL)
		add_path(rel, (Path *) make_offset_path(root, rel, &segment, rel->lateral_relids, true, descending, 0));
	add_parameterized_paths(root, rel, &segment);
	if (rel->consider_parallel && rel->lateral_relids == NULL && conditions != NIL)
		add_parallel_path(root, rel, &segment, conditions);
}

/* ----------------------------------------------------------------
 *		Plans
 * ----------------------------------------------------------------
 */

/* PlanCustomPath: tell the bounds from the conditions that filter rows. */
static Plan *
plan_offset_scan(PlannerInfo *root, RelOptInfo *rel, CustomPath *path,
				 List *tlist, List *clauses, List *custom_plans)
{
	CustomScan *cscan;
	List	   *bounds = NIL;
	List	   *filter = NIL;
	ListCell   *lc;

	foreach(lc, clauses)
	{
		OpExpr	   *op = match_offset_condition(root, rel, lfirst(lc));

		if (op)
			bounds = lappend(bounds, op);
		else
			filter = lappend(filter, lfirst(lc));
	}
	cscan = topics_custom_scan_make_plan(path, tlist, extract_actual_clauses(filter, false),
										 topics_offset_scan_methods(path->custom_private));
	cscan->scan.scanrelid = rel->relid;
	cscan->custom_exprs = bounds;
	return (Plan *) cscan;
}

void
topics_offset_path_init(void)
{
	previous_offset_pathlist = set_rel_pathlist_hook;
	set_rel_pathlist_hook = add_offset_paths;
}
