/*-------------------------------------------------------------------------
 *
 * scan.c
 *		Plain SQL reads a topic in offset order, from the first wanted one.
 *
 * Physical order is offset order, so for
 *
 *		SELECT ... FROM topic.x WHERE partition = 0 AND "offset" >= 42
 *		ORDER BY "offset" LIMIT 100
 *
 * there is nothing to sort, and the block search of log.c finds the place to
 * begin at.  The planner does not know that: it is offered a path of its own
 * for each segment, the Offset Scan (a CustomScan, by set_rel_pathlist_hook).
 * All the rest is PostgreSQL's: the Append over segments is ordered since
 * their ranges are, segments are pruned by constants and parameters, partitions
 * are merged, min and max of "offset" become a scan with LIMIT 1.
 *
 * An Offset Scan has bounds, from conditions that compare "offset" with
 * something that is known when the scan starts: constants, parameters,
 * columns of tables that are joined before.  They are evaluated once per
 * (re)scan.  Forward it seeks the lower bound, and ends at the first record
 * above the upper one; backward the other way round.  What lies outside of
 * the bounds in between is skipped, so their conditions need not be checked
 * again.  All other conditions are an ordinary filter.
 *
 * Rows come from a TID range scan through the table access method, with the
 * query's snapshot: so WAL is flushed and predicate locks are taken where
 * they always are (log_scan_begin, log_am.c).  Only visible rows are looked
 * at: the offset of an aborted row is used again further on.
 *
 * In a parallel plan an Offset Scan runs whole in one process, or shared:
 * then the processes take turns to take CHUNK_BLOCKS blocks each, and the
 * order is lost.
 *
 * Beside that, this file sees to it that a transaction which asks a topic
 * again knows the segments that were attached meanwhile, by whatever plan it
 * asks (read_messages_again).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/parallel.h"
#include "access/relscan.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "catalog/pg_opfamily_d.h"
#include "catalog/pg_type_d.h"
#include "commands/explain.h"
#include "executor/executor.h"
#include "executor/nodeCustom.h"
#include "miscadmin.h"
#include "nodes/extensible.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/plancat.h"
#include "optimizer/restrictinfo.h"
#include "partitioning/partbounds.h"
#include "storage/bufmgr.h"
#include "storage/lock.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/selfuncs.h"
#include "utils/spccache.h"

#include "compat.h"
#include "pg_topics.h"

/*
 * Blocks that the search is expected to read, for its cost: less in a small
 * segment, and never more than it spares.
 */
#define SEEK_PAGES 2.0

/* Blocks that a process of a parallel scan takes at a time. */
#define CHUNK_BLOCKS 32

/* What CustomScan.custom_private holds, by position. */
enum
{
	PRIVATE_DIRECTION,			/* Integer: ScanDirection */
	PRIVATE_BASE_OFFSET,		/* Const, bigint: of the segment, a hint */
	PRIVATE_END_OFFSET			/* Const, bigint: as well */
};

/* A condition on "offset": the column is on the left. */
typedef struct OffsetBound
{
	int			strategy;		/* BTLessStrategyNumber ... */
	Oid			type;			/* of the value: int2, int4 or int8 */
	ExprState  *value;
} OffsetBound;

/* What the processes of a parallel scan share. */
typedef struct SharedScan
{
	pg_atomic_uint64 next_block;	/* NOT_STARTED, or the next to be taken */
} SharedScan;

#define NOT_STARTED PG_UINT64_MAX
#define ALL_TAKEN ((uint64) MaxBlockNumber + 1)

typedef struct OffsetScanState
{
	CustomScanState css;		/* must be first */
	ScanDirection direction;	/* of the plan */
	Segment		segment;		/* its bounds as of planning: hints */
	OffsetBound *bounds;
	int			nbounds;
	SharedScan *shared;			/* NULL unless parallel */

	bool		started;		/* since the last rescan */
	bool		nothing;		/* no offset can be within the bounds */
	int64		lower;			/* lowest wanted offset */
	int64		upper;			/* highest */
	BlockNumber nblocks;
	BlockNumber start_block;
	TableScanDesc scan;			/* kept over rescans */
	bool		has_range;		/* it has a range of blocks to read */

	int64		last_offset;	/* of the last record returned, or -1 */
	BlockNumber last_block;
	int64		probes;			/* for EXPLAIN, of all rescans */
} OffsetScanState;

static Plan *plan_offset_scan(PlannerInfo *root, RelOptInfo *rel, CustomPath *path,
							  List *tlist, List *clauses, List *custom_plans);
static Node *create_state(CustomScan *cscan);
static void begin_offset_scan(CustomScanState *css, EState *estate, int eflags);
static TupleTableSlot *exec_offset_scan(CustomScanState *css);
static void end_offset_scan(CustomScanState *css);
static void rescan_offset_scan(CustomScanState *css);
static Size estimate_shared(CustomScanState *css, ParallelContext *pcxt);
static void initialize_shared(CustomScanState *css, ParallelContext *pcxt, void *coordinate);
static void reinitialize_shared(CustomScanState *css, ParallelContext *pcxt, void *coordinate);
static void attach_shared(CustomScanState *css, shm_toc *toc, void *coordinate);
static void explain_offset_scan(CustomScanState *css, List *ancestors, ExplainState *es);

static set_rel_pathlist_hook_type previous_pathlist = NULL;
static topics_relation_hook_type previous_relation_hook = NULL;
static ExecutorStart_hook_type previous_executor_start = NULL;

static const CustomPathMethods path_methods = {
	.CustomName = "Offset Scan",
	.PlanCustomPath = plan_offset_scan
};

static const CustomScanMethods forward_methods = {
	.CustomName = "Offset Scan",
	.CreateCustomScanState = create_state
};

static const CustomScanMethods backward_methods = {
	.CustomName = "Offset Scan Backward",
	.CreateCustomScanState = create_state
};

static const CustomExecMethods exec_methods = {
	.CustomName = "Offset Scan",
	.BeginCustomScan = begin_offset_scan,
	.ExecCustomScan = exec_offset_scan,
	.EndCustomScan = end_offset_scan,
	.ReScanCustomScan = rescan_offset_scan,
	.EstimateDSMCustomScan = estimate_shared,
	.InitializeDSMCustomScan = initialize_shared,
	.ReInitializeDSMCustomScan = reinitialize_shared,
	.InitializeWorkerCustomScan = attach_shared,
	.ExplainCustomScan = explain_offset_scan
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
 * A condition as "offset operator value", with a value that does not depend
 * on the row: or NULL if it is no such condition.  Operators are known by
 * their family, so that "offset >= 42", which is int84ge, is one too.
 */
static OpExpr *
offset_condition(PlannerInfo *root, RelOptInfo *rel, RestrictInfo *rinfo)
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

/* The RestrictInfos among "clauses" that are conditions on "offset". */
static List *
offset_conditions(PlannerInfo *root, RelOptInfo *rel, List *clauses)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, clauses)
		if (offset_condition(root, rel, lfirst(lc)) != NULL)
			result = lappend(result, lfirst(lc));
	return result;
}

static int64
integer_value(Datum value, Oid type)
{
	switch (type)
	{
		case INT2OID:
			return DatumGetInt16(value);
		case INT4OID:
			return DatumGetInt32(value);
		default:
			Assert(type == INT8OID);
			return DatumGetInt64(value);
	}
}

static void
get_operator(const OpExpr *op, int *strategy, Oid *type)
{
	Oid			left_type;

	get_op_opfamily_properties(op->opno, INTEGER_BTREE_FAM_OID, false,
							   strategy, &left_type, type);
}

/*
 * Narrow the bounds by "offset operator value".  False if no offset is left.
 */
static bool
narrow(int64 *lower, int64 *upper, int strategy, int64 value)
{
	switch (strategy)
	{
		case BTLessStrategyNumber:
			if (value == PG_INT64_MIN)
				return false;
			*upper = Min(*upper, value - 1);
			break;
		case BTLessEqualStrategyNumber:
			*upper = Min(*upper, value);
			break;
		case BTEqualStrategyNumber:
			*lower = Max(*lower, value);
			*upper = Min(*upper, value);
			break;
		case BTGreaterEqualStrategyNumber:
			*lower = Max(*lower, value);
			break;
		case BTGreaterStrategyNumber:
			if (value == PG_INT64_MAX)
				return false;
			*lower = Max(*lower, value + 1);
			break;
		default:
			elog(ERROR, "unexpected strategy %d of an operator on \"offset\"", strategy);
	}
	return *lower <= *upper;
}

/* ----------------------------------------------------------------
 *		Paths
 * ----------------------------------------------------------------
 */

/*
 * The part of a segment that has to be read, by the conditions that are
 * constants exactly, since offsets are dense from the base offset on; by the
 * others as PostgreSQL guesses.  *has_lower and *has_upper tell whether a
 * bound is to be searched for in the segment.
 */
static double
part_to_read(PlannerInfo *root, RelOptInfo *rel, const Segment *segment, List *conditions,
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
		OpExpr	   *op = offset_condition(root, rel, lfirst(lc));
		Node	   *value = estimate_expression_value(root, lsecond(op->args));
		int			strategy;
		Oid			type;

		get_operator(op, &strategy, &type);
		if (!IsA(value, Const))
		{
			*has_lower |= strategy >= BTEqualStrategyNumber;
			*has_upper |= strategy <= BTEqualStrategyNumber;
			unknown = lappend(unknown, lfirst(lc));
		}
		else if (((Const *) value)->constisnull ||
				 !narrow(&lower, &upper, strategy,
						 integer_value(((Const *) value)->constvalue, type)))
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
 * The cost of reading that part, and before that of the search for its begin.
 *
 * To read it costs a little more than by a sequential scan, which has a ring
 * of buffers: enough for the planner to tell them apart.  So where nothing is
 * gained the sequential scan stays, and in a parameterized Append it can
 * stand in for a segment that is empty; PostgreSQL can give it parameters
 * afterwards, unlike a CustomPath.
 */
static void
cost_offset_scan(PlannerInfo *root, RelOptInfo *rel, const Segment *segment, Path *path,
				 bool backward, List *clauses, List *conditions)
{
	bool		has_lower;
	bool		has_upper;
	double		part = part_to_read(root, rel, segment, conditions, &has_lower, &has_upper);
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
		seek = Min(Min(SEEK_PAGES, log2(rel->pages) / 4) * random_page,
				   (rel->pages - pages) * seq_page);
	startup = cpu_tuple_cost + filter.startup + path->pathtarget->cost.startup + seek;

	/* comparing the offset is a fraction of an operator's call */
	per_tuple = cpu_tuple_cost + filter.per_tuple + 0.25 * cpu_operator_cost;
	cpu = per_tuple * tuples + path->pathtarget->cost.per_tuple * path->rows;
	if (path->parallel_workers > 0)
	{
		double		divisor = path->parallel_workers;

		/* as get_parallel_divisor has it */
		if (parallel_leader_participation)
			divisor += Max(0, 1.0 - 0.3 * path->parallel_workers);
		cpu /= divisor;
		path->rows = clamp_row_est(path->rows / divisor);
	}
	path->startup_cost = startup;
	path->total_cost = startup + 1.02 * pages * seq_page + cpu;
}

static CustomPath *
make_path(PlannerInfo *root, RelOptInfo *rel, const Segment *segment, Relids required_outer,
		  bool backward, List *pathkeys, int workers)
{
	CustomPath *cpath = makeNode(CustomPath);
	Path	   *path = &cpath->path;
	List	   *clauses = rel->baserestrictinfo;
	List	   *conditions;

	path->pathtype = T_CustomScan;
	path->parent = rel;
	path->pathtarget = rel->reltarget;
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
	conditions = offset_conditions(root, rel, clauses);
	cost_offset_scan(root, rel, segment, path, backward, clauses, conditions);

	cpath->flags = CUSTOMPATH_SUPPORT_PROJECTION;
	if (workers == 0)
		cpath->flags |= TOPICS_TIDRANGE_TURNS;
	cpath->custom_private = list_make3(makeInteger(backward ? BackwardScanDirection : ForwardScanDirection),
									   makeConst(INT8OID, -1, InvalidOid, sizeof(int64),
												 Int64GetDatum(segment->base_offset), false, FLOAT8PASSBYVAL),
									   makeConst(INT8OID, -1, InvalidOid, sizeof(int64),
												 Int64GetDatum(segment->end_offset), false, FLOAT8PASSBYVAL));
	cpath->methods = &path_methods;
	return cpath;
}

/* For generate_implied_equalities_for_column: is it about "offset"? */
static bool
ec_member_is_offset(PlannerInfo *root, RelOptInfo *rel, EquivalenceClass *ec,
					EquivalenceMember *em, void *arg)
{
	return is_offset_column(rel, (Node *) em->em_expr);
}

/* Paths for the inner side of a nested loop, with bounds from the outer. */
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

		if (!join_clause_is_movable_to(rinfo, rel) || offset_condition(root, rel, rinfo) == NULL)
			continue;
		outer = bms_union(bms_difference(rinfo->clause_relids, rel->relids), rel->lateral_relids);
		foreach(other, outers)
			if (bms_equal(lfirst(other), outer))
				break;
		if (other == NULL)
			outers = lappend(outers, outer);
		all_outers = bms_union(all_outers, outer);
	}
	if (list_length(outers) > 1)
		outers = lappend(outers, all_outers);
	foreach(lc, outers)
		add_path(rel, (Path *) make_path(root, rel, segment, lfirst(lc), false, NIL, 0));
}

/* A scan that several processes share, for large parts of large segments. */
static void
add_parallel_path(PlannerInfo *root, RelOptInfo *rel, const Segment *segment, List *conditions)
{
	bool		has_lower;
	bool		has_upper;
	double		part = part_to_read(root, rel, segment, conditions, &has_lower, &has_upper);
	int			workers = compute_parallel_worker(rel, ceil(rel->pages * part), -1,
												  max_parallel_workers_per_gather);

	if (workers > 0)
		add_partial_path(rel, (Path *) make_path(root, rel, segment, NULL, false, NIL, workers));
}

/* The order of "offset", as far as anybody above has use for it. */
static List *
useful_pathkeys(PlannerInfo *root, RelOptInfo *rel, int strategy)
{
	Oid			operator = get_opfamily_member(INTEGER_BTREE_FAM_OID, INT8OID, INT8OID, strategy);
	Var		   *offset = makeVar(rel->relid, Anum_log_offset, INT8OID, -1, InvalidOid, 0);

	return truncate_useless_pathkeys(root, rel,
									 topics_build_expression_pathkey(root, (Expr *) offset, operator,
																	 rel->relids));
}

/*
 * The bounds of a segment: its parent in the query knows them, otherwise it
 * is read for itself.  They may change before the plan is executed, and are
 * but hints.
 */
static void
find_bounds(PlannerInfo *root, RelOptInfo *rel, Oid relid, Segment *segment)
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

static bool
is_segment(RelOptInfo *rel, RangeTblEntry *rte)
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
add_paths(PlannerInfo *root, RelOptInfo *rel, Index rti, RangeTblEntry *rte)
{
	Segment		segment;
	List	   *conditions;
	List	   *ascending;
	List	   *descending;

	if (previous_pathlist)
		previous_pathlist(root, rel, rti, rte);
	if (!pg_topics_enable_offset_scan || !is_segment(rel, rte))
		return;

	find_bounds(root, rel, rte->relid, &segment);
	conditions = offset_conditions(root, rel, rel->baserestrictinfo);
	ascending = useful_pathkeys(root, rel, BTLessStrategyNumber);
	descending = useful_pathkeys(root, rel, BTGreaterStrategyNumber);

	if (conditions != NIL || ascending != NIL)
		add_path(rel, (Path *) make_path(root, rel, &segment, rel->lateral_relids, false, ascending, 0));
	if (descending != NIL)
		add_path(rel, (Path *) make_path(root, rel, &segment, rel->lateral_relids, true, descending, 0));
	add_parameterized_paths(root, rel, &segment);
	if (rel->consider_parallel && rel->lateral_relids == NULL && conditions != NIL)
		add_parallel_path(root, rel, &segment, conditions);
}

/* ----------------------------------------------------------------
 *		Plans
 * ----------------------------------------------------------------
 */

static Plan *
plan_offset_scan(PlannerInfo *root, RelOptInfo *rel, CustomPath *path,
				 List *tlist, List *clauses, List *custom_plans)
{
	CustomScan *cscan = makeNode(CustomScan);
	List	   *filter = NIL;
	ListCell   *lc;

	foreach(lc, clauses)
	{
		OpExpr	   *op = offset_condition(root, rel, lfirst(lc));

		if (op)
			cscan->custom_exprs = lappend(cscan->custom_exprs, op);
		else
			filter = lappend(filter, lfirst(lc));
	}
	cscan->scan.plan.targetlist = tlist;
	cscan->scan.plan.qual = extract_actual_clauses(filter, false);
	cscan->scan.scanrelid = rel->relid;
	cscan->flags = path->flags;
	cscan->custom_private = path->custom_private;
	cscan->methods = intVal(list_nth(path->custom_private, PRIVATE_DIRECTION)) == BackwardScanDirection ?
		&backward_methods : &forward_methods;
	return (Plan *) cscan;
}

static Node *
create_state(CustomScan *cscan)
{
	OffsetScanState *state = palloc0(sizeof(OffsetScanState));

	NodeSetTag(state, T_CustomScanState);
	state->css.methods = &exec_methods;
	topics_custom_scan_slot_ops(&state->css, &TTSOpsBufferHeapTuple);
	return (Node *) state;
}

/* ----------------------------------------------------------------
 *		Execution
 * ----------------------------------------------------------------
 */

static void
begin_offset_scan(CustomScanState *css, EState *estate, int eflags)
{
	OffsetScanState *state = (OffsetScanState *) css;
	CustomScan *cscan = (CustomScan *) css->ss.ps.plan;
	ListCell   *lc;

	topics_custom_scan_init_slot(css, estate, &TTSOpsBufferHeapTuple);

	state->direction = intVal(list_nth(cscan->custom_private, PRIVATE_DIRECTION));
	state->segment.relid = RelationGetRelid(css->ss.ss_currentRelation);
	state->segment.base_offset =
		DatumGetInt64(castNode(Const, list_nth(cscan->custom_private, PRIVATE_BASE_OFFSET))->constvalue);
	state->segment.end_offset =
		DatumGetInt64(castNode(Const, list_nth(cscan->custom_private, PRIVATE_END_OFFSET))->constvalue);

	state->bounds = palloc(sizeof(OffsetBound) * list_length(cscan->custom_exprs));
	foreach(lc, cscan->custom_exprs)
	{
		OpExpr	   *op = castNode(OpExpr, lfirst(lc));
		OffsetBound *bound = &state->bounds[state->nbounds++];

		get_operator(op, &bound->strategy, &bound->type);
		bound->value = ExecInitExpr(lsecond(op->args), &css->ss.ps);
	}
	state->last_offset = -1;
}

/* Evaluate the bounds: from here on they are lower and upper, or nothing. */
static void
evaluate_bounds(OffsetScanState *state)
{
	ExprContext *econtext = state->css.ss.ps.ps_ExprContext;

	state->nothing = false;
	state->lower = PG_INT64_MIN;
	state->upper = PG_INT64_MAX;

	for (int i = 0; i < state->nbounds && !state->nothing; i++)
	{
		OffsetBound *bound = &state->bounds[i];
		bool		isnull;
		Datum		value = ExecEvalExprSwitchContext(bound->value, econtext, &isnull);

		state->nothing = isnull ||
			!narrow(&state->lower, &state->upper, bound->strategy,
					integer_value(value, bound->type));
	}
	state->started = true;
}

/* Read the blocks from "first" to "last". */
static void
scan_range(OffsetScanState *state, BlockNumber first, BlockNumber last)
{
	ItemPointerData mintid;
	ItemPointerData maxtid;

	ItemPointerSet(&mintid, first, FirstOffsetNumber);
	ItemPointerSet(&maxtid, last, MaxOffsetNumber);
	if (state->scan == NULL)
		state->scan = topics_beginscan_tidrange(state->css.ss.ss_currentRelation,
												state->css.ss.ps.state->es_snapshot,
												&mintid, &maxtid);
	else
		table_rescan_tidrange(state->scan, &mintid, &maxtid);
	state->has_range = true;
}

/* The first block that can hold a record at or above the lower bound. */
static BlockNumber
seek_lower(OffsetScanState *state)
{
	int			probes;
	BlockNumber block;

	if (state->lower == PG_INT64_MIN)
		return 0;
	block = topics_log_seek(state->css.ss.ss_currentRelation, &state->segment,
							state->lower, &probes);
	state->probes += probes;
	return block;
}

/*
 * Evaluate the bounds and find the range of blocks to read.  The other end of
 * the range is that of the table: it is recognized by the offsets there.
 */
static void
start(OffsetScanState *state)
{
	Relation	rel = state->css.ss.ss_currentRelation;
	BlockNumber first = 0;
	BlockNumber last;
	int64		hidden;

	evaluate_bounds(state);
	state->has_range = false;
	if (state->nothing)
		return;

	/* what is below the log's start is hidden by the scan: do not read it */
	hidden = topics_log_am_hidden_below(rel, state->css.ss.ps.state->es_snapshot);
	if (hidden > 0)
		state->lower = Max(state->lower, hidden);

	state->nblocks = RelationGetNumberOfBlocks(rel);
	last = state->nblocks > 0 ? state->nblocks - 1 : 0;
	if (state->shared)
		return;					/* next_chunk does the rest */

	if (ScanDirectionIsForward(state->direction))
	{
		first = seek_lower(state);
		state->start_block = first;
	}
	else
	{
		if (state->upper != PG_INT64_MAX)
		{
			int			probes;
			BlockNumber end = topics_log_seek_end(rel, &state->segment, state->upper + 1, &probes);

			state->probes += probes;
			last = end > 0 ? end - 1 : 0;
		}
		state->start_block = last;
	}
	scan_range(state, first, Max(first, last));
}

/*
 * Take the next blocks of a parallel scan.  Each process searches for the
 * first block, and may find another one, since sessions remember other
 * things: each is right, and the first who comes decides.
 */
static bool
next_chunk(OffsetScanState *state)
{
	pg_atomic_uint64 *next = &state->shared->next_block;
	uint64		block = pg_atomic_read_u64(next);

	if (block == NOT_STARTED)
	{
		state->start_block = seek_lower(state);
		(void) pg_atomic_compare_exchange_u64(next, &block, state->start_block);
	}
	block = pg_atomic_fetch_add_u64(next, CHUNK_BLOCKS);
	if (block >= state->nblocks)
		return false;
	scan_range(state, block, Min(block + CHUNK_BLOCKS, state->nblocks) - 1);
	return true;
}

static inline int64
slot_offset(TupleTableSlot *slot)
{
	bool		isnull;

	return DatumGetInt64(slot_getattr(slot, Anum_log_offset, &isnull));
}

/*
 * The next record within the bounds in the current range of blocks.  Beyond
 * the far bound the scan ends; before the near one records are skipped: at
 * the start, and when a cursor turned around beyond the far one.
 */
static bool
next_in_range(OffsetScanState *state, ScanDirection direction, TupleTableSlot *slot)
{
	while (table_scan_getnextslot_tidrange(state->scan, direction, slot))
	{
		int64		offset = slot_offset(slot);

		if (offset < state->lower)
		{
			if (ScanDirectionIsBackward(direction))
				return false;
		}
		else if (offset > state->upper)
		{
			if (ScanDirectionIsForward(direction))
				return false;
		}
		else
		{
			state->last_offset = offset;
			state->last_block = ItemPointerGetBlockNumber(&slot->tts_tid);
			return true;
		}
	}
	return false;
}

/* ExecScan's access method */
static TupleTableSlot *
next_record(ScanState *ss)
{
	OffsetScanState *state = (OffsetScanState *) ss;
	TupleTableSlot *slot = ss->ss_ScanTupleSlot;
	ScanDirection direction = ss->ps.state->es_direction;

	if (ScanDirectionIsBackward(state->direction))
		direction = ScanDirectionIsForward(direction) ? BackwardScanDirection : ForwardScanDirection;
	if (!state->started)
		start(state);
	if (state->nothing)
		return ExecClearTuple(slot);

	if (state->shared == NULL)
	{
		if (next_in_range(state, direction, slot))
			return slot;
		return ExecClearTuple(slot);
	}
	for (;;)
	{
		if (state->has_range && next_in_range(state, direction, slot))
			return slot;
		/* found the upper bound: what is left is above it */
		if (state->has_range && !TTS_EMPTY(slot))
			pg_atomic_write_u64(&state->shared->next_block, ALL_TAKEN);
		if (!next_chunk(state))
			return ExecClearTuple(slot);
	}
}

/* ExecScan's recheck method, for EvalPlanQual */
static bool
recheck_record(ScanState *ss, TupleTableSlot *slot)
{
	OffsetScanState *state = (OffsetScanState *) ss;
	int64		offset = slot_offset(slot);

	if (!state->started)
		evaluate_bounds(state);
	return !state->nothing && offset >= state->lower && offset <= state->upper;
}

static TupleTableSlot *
exec_offset_scan(CustomScanState *css)
{
	return ExecScan(&css->ss, next_record, recheck_record);
}

/* The session's next search in the segment begins where we stopped. */
static void
remember(OffsetScanState *state)
{
	if (state->last_offset >= 0)
		topics_log_seek_remember(state->css.ss.ss_currentRelation, state->last_offset,
								 state->last_block);
	state->last_offset = -1;
}

static void
rescan_offset_scan(CustomScanState *css)
{
	OffsetScanState *state = (OffsetScanState *) css;

	remember(state);
	state->started = false;
	ExecScanReScan(&css->ss);
}

static void
end_offset_scan(CustomScanState *css)
{
	OffsetScanState *state = (OffsetScanState *) css;

	remember(state);
	ExecClearTuple(css->ss.ss_ScanTupleSlot);
	if (state->scan)
		table_endscan(state->scan);
}

/* ----------------------------------------------------------------
 *		Parallel scans
 * ----------------------------------------------------------------
 */

static Size
estimate_shared(CustomScanState *css, ParallelContext *pcxt)
{
	return sizeof(SharedScan);
}

static void
initialize_shared(CustomScanState *css, ParallelContext *pcxt, void *coordinate)
{
	OffsetScanState *state = (OffsetScanState *) css;

	state->shared = coordinate;
	pg_atomic_init_u64(&state->shared->next_block, NOT_STARTED);
}

static void
reinitialize_shared(CustomScanState *css, ParallelContext *pcxt, void *coordinate)
{
	pg_atomic_write_u64(&((SharedScan *) coordinate)->next_block, NOT_STARTED);
}

static void
attach_shared(CustomScanState *css, shm_toc *toc, void *coordinate)
{
	((OffsetScanState *) css)->shared = coordinate;
}

/* ----------------------------------------------------------------
 *		EXPLAIN
 * ----------------------------------------------------------------
 */

static void
explain_offset_scan(CustomScanState *css, List *ancestors, ExplainState *es)
{
	OffsetScanState *state = (OffsetScanState *) css;
	CustomScan *cscan = (CustomScan *) css->ss.ps.plan;

	if (cscan->custom_exprs != NIL)
	{
		List	   *context = set_deparse_context_plan(es->deparse_cxt, (Plan *) cscan, ancestors);
		Node	   *condition = (Node *) make_ands_explicit(cscan->custom_exprs);

		ExplainPropertyText("Offset Cond",
							deparse_expression(condition, context, es->verbose, false), es);
	}
	if (es->analyze && state->scan)
	{
		ExplainPropertyInteger("Start Block", NULL, state->start_block, es);
		ExplainPropertyInteger("Search Probes", NULL, state->probes, es);
	}
}

/* ----------------------------------------------------------------
 *		Plans that are older than a segment
 * ----------------------------------------------------------------
 */

/*
 * Have our next statement about a table look for news of it.
 *
 * A session hears that a segment was attached when it reads invalidation
 * messages, which it does after it has acquired a lock; but not for a lock
 * that it holds already, and has read messages for (LOCALLOCK.lockCleared).
 * So a READ COMMITTED transaction that asks a topic a second time would go by
 * the segments of the first: by a cached plan, and by a new one too.  Of one
 * partition it sees the more only later; but of a transaction that produced
 * to two partitions it would see half, if only one of the two has a segment
 * that it does not know.
 *
 * Therefore after the start of each query on a topic the lock on the topic's
 * root table, which every query on it acquires before it is planned or a
 * cached plan is taken to be good, is made to be one for which messages are
 * yet to be read.  That is always safe to say, and costs a look at the
 * table of local locks, and the next query a look at the message queue.
 *
 * The snapshot of a statement is taken after that, and a segment gets its
 * first record some time after it was attached (segment.c); what is left
 * is a segment that is attached, and filled by a commit, between the two.
 */
static void
read_messages_again(Oid relid, LOCKMODE lockmode)
{
	LOCKTAG		tag;
	LOCALLOCK  *locallock;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relid);
	(void) topics_lock_acquire(&tag, lockmode, &locallock);
	locallock->lockCleared = false;
	LockRelease(&tag, lockmode, false);
}

/* Called for each table: for a topic's log table, before its partitions' turn. */
static void
look_again(TOPICS_RELATION_HOOK_ARGS)
{
	Oid			parent = TOPICS_RELATION_HOOK_PARENT;

	if (previous_relation_hook)
		previous_relation_hook(TOPICS_RELATION_HOOK_PASS);
	if (OidIsValid(parent))
		topics_segment_learn_topic(parent);
}

/* ExecutorStart_hook */
static void
start_executor(QueryDesc *query, int eflags)
{
	ListCell   *lc;

	if (previous_executor_start)
		previous_executor_start(query, eflags);
	else
		standard_ExecutorStart(query, eflags);

	if (IsParallelWorker())
		return;
	foreach(lc, query->plannedstmt->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (rte->rtekind == RTE_RELATION && rte->relkind == RELKIND_PARTITIONED_TABLE &&
			get_rel_namespace(rte->relid) == get_namespace_oid(TOPIC_LOG_SCHEMA, true))
			read_messages_again(rte->relid, rte->rellockmode);
	}
}

void
topics_scan_init(void)
{
	previous_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = start_executor;
	RegisterCustomScanMethods(&forward_methods);
	RegisterCustomScanMethods(&backward_methods);
	previous_relation_hook = topics_relation_hook;
	topics_relation_hook = look_again;
	previous_pathlist = set_rel_pathlist_hook;
	set_rel_pathlist_hook = add_paths;
}
