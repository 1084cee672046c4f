/*-------------------------------------------------------------------------
 *
 * log_index.c
 *		Indexes of sealed segments.
 *
 * Appending maintains no index, so only a sealed segment can have one.  Heap's
 * callbacks insist on a heap, so these are our own; they are simpler, since
 * rows are never updated and no process writes to a sealed segment.
 *
 * See docs/decisions/0003-no-index.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/relscan.h"
#include "access/tableam.h"
#include "catalog/index.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "storage/bufmgr.h"
#include "storage/procarray.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/tuplesort.h"

#include "base/compat.h"
#include "log/log.h"

static void
require_indexable(Relation rel)
{
	if (RelationGetNumberOfBlocks(rel) > 0 && !topics_log_am_is_sealed(rel))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot index the active segment of %s",
						topics_catalog_describe_log(RelationGetRelid(rel))),
				 errdetail("Records are being appended to it, and appending maintains no index."),
				 errhint("Index it when it is sealed, see the view topics.segment.")));
}

/* Return true if a snapshot, now or later, sees a row of SnapshotAny. */
static bool
may_be_visible(TupleTableSlot *slot, TransactionId oldest_xmin)
{
	BufferHeapTupleTableSlot *hslot = (BufferHeapTupleTableSlot *) slot;
	HTSV_Result result;

	LockBuffer(hslot->buffer, BUFFER_LOCK_SHARE);
	result = HeapTupleSatisfiesVacuum(hslot->base.tuple, oldest_xmin, hslot->buffer);
	LockBuffer(hslot->buffer, BUFFER_LOCK_UNLOCK);
	return result != HEAPTUPLE_DEAD;
}

/*
 * Return true if a segment has an index that is maintained or used.
 * relhasindex alone stays true after the last index was dropped; and CREATE
 * INDEX CONCURRENTLY that fails leaves an index behind that is not used.
 */
bool
topics_log_index_exists(Relation rel)
{
	ListCell   *lc;
	bool		found = false;

	if (!rel->rd_rel->relhasindex)
		return false;
	foreach(lc, RelationGetIndexList(rel))
	{
		HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(lc)));

		if (!HeapTupleIsValid(tuple))
			continue;
		found |= ((Form_pg_index) GETSTRUCT(tuple))->indisready;
		ReleaseSysCache(tuple);
	}
	return found;
}

double
topics_log_index_build_range_scan(Relation rel, Relation index, struct IndexInfo *info,
								  bool allow_sync, bool anyvisible, bool progress,
								  BlockNumber start_blockno, BlockNumber numblocks,
								  IndexBuildCallback callback, void *callback_state,
								  TableScanDesc scan)
{
	EState	   *estate = CreateExecutorState();
	ExprContext *econtext = GetPerTupleExprContext(estate);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	ExprState  *predicate;
	TransactionId oldest_xmin = GetOldestNonRemovableTransactionId(rel);
	double		ntuples = 0;

	require_indexable(rel);
	econtext->ecxt_scantuple = slot;
	predicate = ExecPrepareQual(info->ii_Predicate, estate);
	if (scan == NULL)
		scan = table_beginscan_strat(rel, SnapshotAny, 0, NULL, true, false);
	if (start_blockno != 0 || numblocks != InvalidBlockNumber)
		heap_setscanlimits(scan, start_blockno, numblocks);

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		Datum		values[INDEX_MAX_KEYS];
		bool		isnull[INDEX_MAX_KEYS];

		CHECK_FOR_INTERRUPTS();
		ResetPerTupleExprContext(estate);
		if (scan->rs_snapshot == SnapshotAny && !may_be_visible(slot, oldest_xmin))
			continue;
		ntuples++;
		if (predicate && !ExecQual(predicate, econtext))
			continue;
		FormIndexDatum(info, slot, estate, values, isnull);
		callback(index, &slot->tts_tid, values, isnull, true, callback_state);
	}

	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	FreeExecutorState(estate);
	info->ii_ExpressionsState = NIL;
	info->ii_PredicateState = NULL;
	return ntuples;
}

/* Insert into the index the rows whose TIDs are not in state->tuplesort. */
void
topics_log_index_validate_scan(Relation rel, Relation index, struct IndexInfo *info,
							   Snapshot snapshot, struct ValidateIndexState *state)
{
	EState	   *estate = CreateExecutorState();
	ExprContext *econtext = GetPerTupleExprContext(estate);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	ExprState  *predicate = ExecPrepareQual(info->ii_Predicate, estate);
	TableScanDesc scan = table_beginscan_strat(rel, snapshot, 0, NULL, true, false);
	int64		indexed = -1;	/* the next TID of the index, encoded */
	bool		more = true;

	econtext->ecxt_scantuple = slot;
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		int64		tid = itemptr_encode(&slot->tts_tid);
		Datum		values[INDEX_MAX_KEYS];
		bool		isnull[INDEX_MAX_KEYS];

		CHECK_FOR_INTERRUPTS();
		ResetPerTupleExprContext(estate);
		state->htups++;
		while (more && indexed < tid)
		{
			Datum		datum;
			bool		datum_isnull;

			more = topics_tuplesort_getdatum(state->tuplesort, &datum, &datum_isnull);
			indexed = more ? DatumGetInt64(datum) : -1;
		}
		if (more && indexed == tid)
			continue;
		if (predicate && !ExecQual(predicate, econtext))
			continue;
		FormIndexDatum(info, slot, estate, values, isnull);
		index_insert(index, values, isnull, &slot->tts_tid, rel,
					 info->ii_Unique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO,
					 false, info);
		state->tups_inserted++;
	}

	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	FreeExecutorState(estate);
	info->ii_ExpressionsState = NIL;
	info->ii_PredicateState = NULL;
}
