/*-------------------------------------------------------------------------
 *
 * offset_scan.c
 *		The plan node "Offset Scan" reads a segment from an offset on, in
 *		order.
 *
 * offset_path.c offers it to the planner.
 *
 * An Offset Scan has bounds, from conditions that compare "offset" with
 * something that is known when the scan starts: constants, parameters,
 * columns of tables that are joined before.  They are evaluated once per
 * (re)scan.  Forward, the scan seeks the lower bound, and ends at the first
 * record above the upper one; backward it is the other way round.  Records
 * outside of the bounds that it meets in between are skipped, so the
 * conditions of the bounds need not be checked again.  All other conditions
 * are an ordinary filter.
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
 * See docs/decisions/0008-offset-scan.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/relscan.h"
#include "access/stratnum.h"
#include "access/tableam.h"
#include "catalog/pg_opfamily_d.h"
#include "catalog/pg_type_d.h"
#include "commands/explain.h"
#include "executor/executor.h"
#include "executor/nodeCustom.h"
#include "nodes/extensible.h"
#include "nodes/makefuncs.h"
#include "storage/bufmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "base/compat.h"
#include "log/log.h"
#include "read/read.h"
#include "pg_topics.h"

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

static Node *create_offset_scan_state(CustomScan *cscan);
static void begin_offset_scan(CustomScanState *css, EState *estate, int eflags);
static TupleTableSlot *exec_offset_scan(CustomScanState *css);
static void end_offset_scan(CustomScanState *css);
static void rescan_offset_scan(CustomScanState *css);
static Size estimate_shared_scan(CustomScanState *css, ParallelContext *pcxt);
static void initialize_shared_scan(CustomScanState *css, ParallelContext *pcxt, void *coordinate);
static void reinitialize_shared_scan(CustomScanState *css, ParallelContext *pcxt, void *coordinate);
static void attach_shared_scan(CustomScanState *css, shm_toc *toc, void *coordinate);
static void explain_offset_scan(CustomScanState *css, List *ancestors, ExplainState *es);

static const CustomScanMethods forward_methods = {
	.CustomName = "Offset Scan",
	.CreateCustomScanState = create_offset_scan_state
};

static const CustomScanMethods backward_methods = {
	.CustomName = "Offset Scan Backward",
	.CreateCustomScanState = create_offset_scan_state
};

static const CustomExecMethods offset_exec_methods = {
	.CustomName = "Offset Scan",
	.BeginCustomScan = begin_offset_scan,
	.ExecCustomScan = exec_offset_scan,
	.EndCustomScan = end_offset_scan,
	.ReScanCustomScan = rescan_offset_scan,
	.EstimateDSMCustomScan = estimate_shared_scan,
	.InitializeDSMCustomScan = initialize_shared_scan,
	.ReInitializeDSMCustomScan = reinitialize_shared_scan,
	.InitializeWorkerCustomScan = attach_shared_scan,
	.ExplainCustomScan = explain_offset_scan
};

/* ----------------------------------------------------------------
 *		Bounds
 * ----------------------------------------------------------------
 */

static int64
get_integer(Datum value, Oid type)
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

/*
 * Look up which bound "offset operator value" is: a strategy of btree, and the
 * type of the value.
 */
void
topics_offset_scan_operator(const OpExpr *op, int *strategy, Oid *type)
{
	Oid			left_type;

	get_op_opfamily_properties(op->opno, INTEGER_BTREE_FAM_OID, false,
							   strategy, &left_type, type);
}

/*
 * Narrow the bounds by "offset operator value".  Return false if no offset is
 * left.
 */
bool
topics_offset_scan_narrow(int64 *lower, int64 *upper, int strategy, Oid type, Datum datum)
{
	int64		value = get_integer(datum, type);

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
 *		Plans
 * ----------------------------------------------------------------
 */

/* Make the custom_private of a path, and of its plan, that reads a segment. */
List *
topics_offset_scan_private(ScanDirection direction, const Segment *segment)
{
	return list_make3(makeInteger(direction),
					  makeConst(INT8OID, -1, InvalidOid, sizeof(int64),
								Int64GetDatum(segment->base_offset), false, FLOAT8PASSBYVAL),
					  makeConst(INT8OID, -1, InvalidOid, sizeof(int64),
								Int64GetDatum(segment->end_offset), false, FLOAT8PASSBYVAL));
}

/* Return the methods of a plan with this custom_private. */
const CustomScanMethods *
topics_offset_scan_methods(const List *custom_private)
{
	return intVal(list_nth(custom_private, PRIVATE_DIRECTION)) == BackwardScanDirection ?
		&backward_methods : &forward_methods;
}

static Node *
create_offset_scan_state(CustomScan *cscan)
{
	CustomScanState *css = topics_custom_scan_make_state(sizeof(OffsetScanState), &offset_exec_methods);

	topics_custom_scan_slot_ops(css, &TTSOpsBufferHeapTuple);
	return (Node *) css;
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

		topics_offset_scan_operator(op, &bound->strategy, &bound->type);
		bound->value = ExecInitExpr(lsecond(op->args), &css->ss.ps);
	}
	state->last_offset = -1;
}

/* Evaluate the bounds, which sets either lower and upper, or nothing. */
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
			!topics_offset_scan_narrow(&state->lower, &state->upper, bound->strategy,
									   bound->type, value);
	}
	state->started = true;
}

/* Let the scan read the blocks from "first" to "last". */
static void
set_scan_range(OffsetScanState *state, BlockNumber first, BlockNumber last)
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

/* Return the first block that can hold a record at or above the lower bound. */
static BlockNumber
seek_lower_bound(OffsetScanState *state)
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
 * Evaluate the bounds and find the range of blocks to read.  One end of the
 * range is sought; the other one is that of the table, and the scan recognizes
 * by the offsets where it has to end.
 */
static void
start_offset_scan(OffsetScanState *state)
{
	Relation	rel = state->css.ss.ss_currentRelation;
	Snapshot	snapshot = state->css.ss.ps.state->es_snapshot;
	BlockNumber first = 0;
	BlockNumber last;
	int64		hidden;

	evaluate_bounds(state);
	state->has_range = false;
	if (state->nothing)
		return;

	/* before the size is asked for: all producers are met, or meet us */
	topics_log_am_lock_partition(rel, snapshot);

	/* the scan hides records below the log's start: do not read them */
	hidden = topics_log_am_hidden_below(rel, snapshot);
	if (hidden > 0)
		state->lower = Max(state->lower, hidden);
	hidden = topics_log_am_hidden_from(rel, snapshot);
	if (hidden != NO_LIMIT)
		state->upper = Min(state->upper, hidden - 1);

	state->nblocks = RelationGetNumberOfBlocks(rel);
	last = state->nblocks > 0 ? state->nblocks - 1 : 0;
	if (state->shared)
		return;					/* take_next_chunk does the rest */

	if (ScanDirectionIsForward(state->direction))
	{
		first = seek_lower_bound(state);
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
	set_scan_range(state, first, Max(first, last));
}

/*
 * Take the next blocks of a parallel scan; return false if all are taken.
 * Each process searches for the first block.  They may find different ones,
 * since each session remembers other places: all of them are right, and the
 * first process to store its block decides.
 */
static bool
take_next_chunk(OffsetScanState *state)
{
	pg_atomic_uint64 *next = &state->shared->next_block;
	uint64		block = pg_atomic_read_u64(next);

	if (block == NOT_STARTED)
	{
		state->start_block = seek_lower_bound(state);
		(void) pg_atomic_compare_exchange_u64(next, &block, state->start_block);
	}
	block = pg_atomic_fetch_add_u64(next, CHUNK_BLOCKS);
	if (block >= state->nblocks)
		return false;
	set_scan_range(state, block, Min(block + CHUNK_BLOCKS, state->nblocks) - 1);
	return true;
}

/*
 * Read the next record within the bounds in the current range of blocks; return
 * false if there is none.  Beyond the far bound the scan ends.  Records before
 * the near bound, at the start, are skipped.
 */
static bool
read_in_range(OffsetScanState *state, TupleTableSlot *slot)
{
	while (table_scan_getnextslot_tidrange(state->scan, state->direction, slot))
	{
		int64		offset = topics_log_get_offset(slot);

		if (offset < state->lower)
		{
			if (ScanDirectionIsBackward(state->direction))
				return false;
		}
		else if (offset > state->upper)
		{
			if (ScanDirectionIsForward(state->direction))
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
read_offset_scan(ScanState *ss)
{
	OffsetScanState *state = (OffsetScanState *) ss;
	TupleTableSlot *slot = ss->ss_ScanTupleSlot;

	/* no cursor turns around in this node: see make_offset_path */
	Assert(ScanDirectionIsForward(ss->ps.state->es_direction));
	if (!state->started)
		start_offset_scan(state);
	if (state->nothing)
		return ExecClearTuple(slot);

	if (state->shared == NULL)
	{
		if (read_in_range(state, slot))
			return slot;
		return ExecClearTuple(slot);
	}
	for (;;)
	{
		if (state->has_range && read_in_range(state, slot))
			return slot;
		/* a record above the upper bound was found: all that is left is, too */
		if (state->has_range && !TTS_EMPTY(slot))
			pg_atomic_write_u64(&state->shared->next_block, ALL_TAKEN);
		if (!take_next_chunk(state))
			return ExecClearTuple(slot);
	}
}

/* ExecScan's recheck method, for EvalPlanQual */
static bool
recheck_offset_scan(ScanState *ss, TupleTableSlot *slot)
{
	OffsetScanState *state = (OffsetScanState *) ss;
	int64		offset = topics_log_get_offset(slot);

	if (!state->started)
		evaluate_bounds(state);
	return !state->nothing && offset >= state->lower && offset <= state->upper;
}

static TupleTableSlot *
exec_offset_scan(CustomScanState *css)
{
	return ExecScan(&css->ss, read_offset_scan, recheck_offset_scan);
}

/*
 * Remember where the scan stopped: the session's next search in the segment
 * begins there.
 */
static void
remember_place(OffsetScanState *state)
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

	remember_place(state);
	state->started = false;
	ExecScanReScan(&css->ss);
}

static void
end_offset_scan(CustomScanState *css)
{
	OffsetScanState *state = (OffsetScanState *) css;

	remember_place(state);
	ExecClearTuple(css->ss.ss_ScanTupleSlot);
	if (state->scan)
		table_endscan(state->scan);
}

/* ----------------------------------------------------------------
 *		Parallel scans
 * ----------------------------------------------------------------
 */

static Size
estimate_shared_scan(CustomScanState *css, ParallelContext *pcxt)
{
	return sizeof(SharedScan);
}

static void
initialize_shared_scan(CustomScanState *css, ParallelContext *pcxt, void *coordinate)
{
	OffsetScanState *state = (OffsetScanState *) css;

	state->shared = coordinate;
	pg_atomic_init_u64(&state->shared->next_block, NOT_STARTED);
}

static void
reinitialize_shared_scan(CustomScanState *css, ParallelContext *pcxt, void *coordinate)
{
	pg_atomic_write_u64(&((SharedScan *) coordinate)->next_block, NOT_STARTED);
}

static void
attach_shared_scan(CustomScanState *css, shm_toc *toc, void *coordinate)
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
		topics_custom_scan_explain(css, "Offset Cond", (Node *) make_ands_explicit(cscan->custom_exprs),
								   ancestors, es);
	if (es->analyze && state->scan)
	{
		ExplainPropertyInteger("Start Block", NULL, state->start_block, es);
		ExplainPropertyInteger("Search Probes", NULL, state->probes, es);
	}
}

void
topics_offset_scan_init(void)
{
	RegisterCustomScanMethods(&forward_methods);
	RegisterCustomScanMethods(&backward_methods);
}
