/*-------------------------------------------------------------------------
 *
 * log_am.c
 *		The table access method "topic_log": a heap that keeps its order.
 *
 * A segment is a heap in everything that goes to disk: pages, WAL, crash
 * recovery, logical decoding, pg_dump.  What differs is that physical order
 * is offset order, always, which a heap does not promise: it puts small rows
 * into gaps left by large ones, reuses line pointers that VACUUM freed,
 * starts scans in the middle.  Here
 *
 *	- rows are appended at the last block, never into free space or to a
 *	  freed line pointer (append_rows);
 *	- a row's offset is above every offset before it, whichever process
 *	  writes it;
 *	- rows are never updated, deleted, locked or truncated away;
 *	- scans run from the first block to the last, and hide what lies below the
 *	  log start (log_start.c);
 *	- the segment that is appended to is left alone by VACUUM and has no
 *	  index; sealed segments are ordinary heaps to both.
 *
 * A scan also makes its rows durable before it shows them, and hides those that
 * a synchronous standby has not confirmed (read_cut.c): a commit is visible
 * before its WAL is flushed (transaction.c), and no reader may act on a record
 * that a crash, or a promotion, can take back.
 *
 * Rows come from log.c, or else from a foreign writer (foreign_writer.c).
 *
 * Most callbacks are heap's own: the struct is a copy of heap's with some
 * members replaced.
 *
 * See docs/decisions/0002-early-lock-release.md and
 * docs/decisions/0004-the-access-method.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/multixact.h"
#include "access/relation.h"
#include "access/relscan.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_am_d.h"
#include "commands/vacuum.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/predicate.h"
#include "storage/smgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "shared/shared.h"
#include "log/log.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_log_am_handler);

static TableAmRoutine methods;

/* What a segment's relcache entry has in rd_amcache. */
typedef struct SegmentBounds
{
	int64		base_offset;
	int64		end_offset;
} SegmentBounds;

bool
topics_log_am_is_log(Relation rel)
{
	return rel->rd_tableam == &methods;
}

/*
 * Take a log table's name apart: t<topic id>, t<topic id>_p<partition> or
 * t<topic id>_p<partition>_s<sequence>; what is missing is set to -1.
 */
bool
topics_log_am_parse_name(const char *relname, int64 *topic_id, int32 *partition,
						 int64 *sequence)
{
	char	   *p;

	*partition = -1;
	*sequence = -1;
	if (relname[0] != 't' || !isdigit((unsigned char) relname[1]))
		return false;
	*topic_id = strtoi64(relname + 1, &p, 10);
	if (*p == '\0')
		return true;
	if (p[0] != '_' || p[1] != 'p' || !isdigit((unsigned char) p[2]))
		return false;
	*partition = strtol(p + 2, &p, 10);
	if (*p == '\0')
		return true;
	if (p[0] != '_' || p[1] != 's' || !isdigit((unsigned char) p[2]))
		return false;
	*sequence = strtoi64(p + 2, &p, 10);
	return *p == '\0';
}

/*
 * Get the partition that a table is a segment of.  Return false for any other
 * table: any user may make one with this access method, which is then a heap
 * that keeps its order, and of no concern to topics.
 */
static bool
get_partition(Relation rel, TopicPartition *id)
{
	int64		sequence;

	id->database = MyDatabaseId;
	return topics_log_am_parse_name(RelationGetRelationName(rel), &id->topic_id,
									&id->partition, &sequence) &&
		sequence >= 0 && rel->rd_rel->relispartition &&
		RelationGetNamespace(rel) == get_namespace_oid(TOPIC_LOG_SCHEMA, true);
}

/* Return true if a table is a segment of a topic. */
bool
topics_log_am_is_segment(Relation rel)
{
	TopicPartition id;

	return topics_log_am_is_log(rel) && get_partition(rel, &id);
}

/* Get the state of a segment's partition, or NULL if it has none so far. */
PartitionState *
topics_log_am_state(Relation rel)
{
	TopicPartition id;

	return get_partition(rel, &id) ? topics_partition_state_find(&id) : NULL;
}

static int64
get_bound_value(List *datums)
{
	return DatumGetInt64(castNode(Const, linitial_node(PartitionRangeDatum, datums)->value)->constvalue);
}

/* Read the bounds that a segment is attached with. */
void
topics_log_am_bounds(Oid relid, int64 *base_offset, int64 *end_offset)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	bool		isnull = true;
	Datum		datum = 0;
	PartitionBoundSpec *spec;

	if (HeapTupleIsValid(tuple))
		datum = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_relpartbound, &isnull);
	if (isnull)
		elog(ERROR, "segment %u has no bounds", relid);
	spec = stringToNode(TextDatumGetCString(datum));
	*base_offset = get_bound_value(spec->lowerdatums);
	*end_offset = get_bound_value(spec->upperdatums);
	ReleaseSysCache(tuple);
}

static void
report_append_only(Relation rel)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("%s is append-only", topics_catalog_describe_log(RelationGetRelid(rel))),
			 errhint("Records leave a topic by retention, or by topics.delete_records().")));
}

/* ----------------------------------------------------------------
 *		Appending
 * ----------------------------------------------------------------
 */

static bool
has_free_lines(Relation rel, BlockNumber block)
{
	Buffer		buffer = ReadBuffer(rel, block);
	bool		result;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	result = !PageIsNew(BufferGetPage(buffer)) && PageHasFreeLinePointers(BufferGetPage(buffer));
	UnlockReleaseBuffer(buffer);
	return result;
}

/*
 * Make the end of the table the place where heap inserts next.
 *
 * Heap puts a row on the target block if it fits there, else on a new block
 * at the end, provided it is kept away from the free space map.  So the
 * target must be the last block.  A page on which VACUUM has freed line
 * pointers would take the row at one of those, before older rows: it is
 * passed over by adding an empty page.  (No process frees line pointers on a
 * segment while rows are added to it, see log_vacuum.)
 */
static void
aim_at_end(Relation rel)
{
	BlockNumber nblocks = RelationGetNumberOfBlocks(rel);

	if (nblocks > 0 && has_free_lines(rel, nblocks - 1))
	{
		Buffer		buffer;

		LockRelationForExtension(rel, ExclusiveLock);
		buffer = ReadBufferExtended(rel, MAIN_FORKNUM, P_NEW, RBM_NORMAL, NULL);
		nblocks = BufferGetBlockNumber(buffer) + 1;
		ReleaseBuffer(buffer);
		UnlockRelationForExtension(rel, ExclusiveLock);
	}
	RelationSetTargetBlock(rel, nblocks > 0 ? nblocks - 1 : InvalidBlockNumber);
}

static void
append_rows(Relation rel, TupleTableSlot **slots, int nslots, CommandId cid,
			TableInsertOptions options)
{
	if (!(options & TOPIC_LOG_AIMED) || has_free_lines(rel, RelationGetTargetBlock(rel)))
		aim_at_end(rel);
	options &= ~(TOPIC_LOG_APPEND | TOPIC_LOG_AIMED);
	heap_multi_insert(rel, slots, nslots, cid, options | TABLE_INSERT_SKIP_FSM, NULL);
}

/*
 * Find the highest offset in a segment, or -1: of what is committed, and what
 * this very command has written.
 */
int64
topics_log_am_last_offset(Relation rel)
{
	TableScanDesc scan = topics_beginscan(rel, SnapshotSelf);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	int64		result = -1;

	if (table_scan_getnextslot(scan, BackwardScanDirection, slot))
		result = topics_log_get_offset(slot);
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	return result;
}

/*
 * Open the table of a segment's partition.  The caller closes it with its lock:
 * a function that reads a topic holds no lock longer, and one on a partition
 * without one on the topic's root would stand in the way of a DROP that others
 * of its locks wait for.
 */
static Relation
open_partition(Relation rel)
{
	return relation_open(get_partition_parent(RelationGetRelid(rel), true), AccessShareLock);
}

/* Readers of the partition are warned of rows of any of its segments. */
static void
check_partition_readers(Relation rel)
{
	Relation	partition_rel = open_partition(rel);

	CheckForSerializableConflictIn(partition_rel, NULL, InvalidBlockNumber);
	relation_close(partition_rel, AccessShareLock);
}

static void
log_multi_insert(Relation rel, TupleTableSlot **slots, int nslots, CommandId cid,
				 TableInsertOptions options, struct BulkInsertStateData *bistate)
{
	TopicPartition id;

	/* a table that is being rewritten is in order, as its source was */
	bool		is_foreign = !(options & TOPIC_LOG_APPEND) && get_partition(rel, &id);

	if (is_foreign)
		topics_foreign_writer_check(rel, slots, nslots);
	append_rows(rel, slots, nslots, cid, options);
	if (is_foreign && IsolationIsSerializable())
		check_partition_readers(rel);
}

static void
log_tuple_insert(Relation rel, TupleTableSlot *slot, CommandId cid,
				 TableInsertOptions options, struct BulkInsertStateData *bistate)
{
	log_multi_insert(rel, &slot, 1, cid, options, bistate);
}

/* ----------------------------------------------------------------
 *		What a log does not do
 *
 * The argument lists differ between majors, and none is looked at.
 * ----------------------------------------------------------------
 */

static void
log_tuple_insert_speculative(Relation rel, TupleTableSlot *slot, CommandId cid,
							 TableInsertOptions options,
							 struct BulkInsertStateData *bistate, uint32 token)
{
	report_append_only(rel);
}

static TM_Result
log_tuple_delete(TOPICS_TUPLE_DELETE_ARGS)
{
	report_append_only(rel);
	return TM_Invisible;
}

static TM_Result
log_tuple_update(TOPICS_TUPLE_UPDATE_ARGS)
{
	report_append_only(rel);
	return TM_Invisible;
}

static TM_Result
log_tuple_lock(TOPICS_TUPLE_LOCK_ARGS)
{
	report_append_only(rel);
	return TM_Invisible;
}

/*
 * Called for a new table, and for TRUNCATE of an old one.  An empty table is
 * truncated by parallel pg_restore before it is filled: that does no harm.
 */
static void
log_set_new_filelocator(Relation rel, const RelFileLocator *newrlocator,
						char persistence, TransactionId *freezeXid,
						MultiXactId *minmulti)
{
	if (!RelFileLocatorEquals(rel->rd_locator, *newrlocator) &&
		RelationGetNumberOfBlocks(rel) > 0)
		report_append_only(rel);
	GetHeapamTableAmRoutine()->relation_set_new_filelocator(rel, newrlocator, persistence,
															freezeXid, minmulti);
}

static void
log_nontransactional_truncate(Relation rel)
{
	if (RelationGetNumberOfBlocks(rel) > 0)
		report_append_only(rel);
}

/* VACUUM FULL keeps the order; CLUSTER would make that of an index. */
static void
log_copy_for_cluster(Relation old_rel, Relation new_rel, Relation old_index, bool use_sort,
					 TransactionId oldest_xmin, TOPICS_COPY_SNAPSHOT_ARG
					 TransactionId *xid_cutoff, MultiXactId *multi_cutoff,
					 double *num_tuples, double *tups_vacuumed, double *tups_recently_dead)
{
	if (old_index != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot cluster %s", topics_catalog_describe_log(RelationGetRelid(old_rel))),
				 errdetail("Its physical order is the order of its offsets.")));
	GetHeapamTableAmRoutine()->relation_copy_for_cluster(old_rel, new_rel, NULL, false, oldest_xmin,
														 TOPICS_COPY_SNAPSHOT
														 xid_cutoff, multi_cutoff, num_tuples,
														 tups_vacuumed, tups_recently_dead);
}

/* ----------------------------------------------------------------
 *		Scans
 * ----------------------------------------------------------------
 */

/* Make durable what a scan may see. */
static void
flush_for_scan(Relation rel)
{
	PartitionState *state;

	if (RecoveryInProgress())
		return;
	state = topics_log_am_state(rel);
	if (state)					/* else nothing was written since the restart */
		topics_log_flush(state);
}

/*
 * In a serializable transaction, a reader of a segment has also read that there
 * is no segment above it: producers check for conflicts on the partition as
 * well.
 */
void
topics_log_am_lock_partition(Relation rel, Snapshot snapshot)
{
	/* ANALYZE has no snapshot, and no conflicts */
	if (IsolationIsSerializable() && rel->rd_rel->relispartition &&
		snapshot != NULL && IsMVCCSnapshot(snapshot))
	{
		Relation	partition_rel = open_partition(rel);

		PredicateLockRelation(partition_rel, snapshot);
		if (topics_log_am_is_segment(rel))
			topics_log_meet_writers(partition_rel, snapshot);
		relation_close(partition_rel, AccessShareLock);
	}
}

/*
 * Get the bounds of a segment, cached with its relcache entry, which is built
 * anew when they change.  The result is a copy, for any look-up may free those
 * of the entry.
 */
static SegmentBounds
get_cached_bounds(Relation rel)
{
	if (rel->rd_amcache == NULL)
	{
		SegmentBounds bounds;

		topics_log_am_bounds(RelationGetRelid(rel), &bounds.base_offset, &bounds.end_offset);
		rel->rd_amcache = MemoryContextAlloc(CacheMemoryContext, sizeof(bounds));
		memcpy(rel->rd_amcache, &bounds, sizeof(bounds));
	}
	return *(SegmentBounds *) rel->rd_amcache;
}

/*
 * Get a partition's state, with its log end known.  Without synchronous
 * standbys nobody needs this, and a partition that is only scanned has no
 * state.
 */
static PartitionState *
get_known_state(Relation rel, const TopicPartition *id)
{
	PartitionState *state = topics_catalog_get_state(id);

	/* a parallel query has looked before it began, or else hides all */
	if (pg_atomic_read_u64(&state->next_offset) == UNKNOWN_OFFSET && !IsInParallelMode())
	{
		Partition	partition = {.number = id->partition,.state = state,.rel = open_partition(rel)};

		partition.relid = RelationGetRelid(partition.rel);
		(void) topics_log_next_offset(&partition);
		relation_close(partition.rel, AccessShareLock);
	}
	return state;
}

/* Look the log end of a segment's partition up, if it is not known. */
void
topics_log_am_know_end(Relation rel)
{
	TopicPartition id;

	if (topics_log_am_is_log(rel) && get_partition(rel, &id))
		(void) get_known_state(rel, &id);
}

/*
 * Get what a scan must hide since a synchronous standby has not confirmed it:
 * records from the result on; NO_LIMIT if that is nothing.
 */
int64
topics_log_am_hidden_from(Relation rel, Snapshot snapshot)
{
	TopicPartition id;
	int64		limit;

	if (snapshot == NULL || likely(!topics_read_cut_may_hide(snapshot)) ||
		!get_partition(rel, &id))
		return NO_LIMIT;
	limit = topics_read_cut_limit(get_known_state(rel, &id), snapshot);
	return limit >= get_cached_bounds(rel).end_offset ? NO_LIMIT : limit;
}

/*
 * Get what a scan must hide below the log's start: records below the result.  A
 * scan without the snapshot of a query (a rewrite, an index build) sees all.
 */
int64
topics_log_am_hidden_below(Relation rel, Snapshot snapshot)
{
	TopicPartition id;

	if (snapshot == NULL || snapshot->snapshot_type != SNAPSHOT_MVCC ||
		!get_partition(rel, &id))
		return 0;
	return topics_log_start_for_scan(&id, topics_partition_state_find(&id),
									 get_cached_bounds(rel).base_offset, snapshot);
}

static TableScanDesc
begin_durable_scan(Relation rel, Snapshot snapshot, int nkeys, struct ScanKeyData *key,
				   ParallelTableScanDesc pscan, uint32 flags)
{
	flush_for_scan(rel);

	topics_log_am_lock_partition(rel, snapshot);
	/* heap does this for sequential and sample scans itself */
	if (flags & SO_TYPE_TIDRANGESCAN)
		PredicateLockRelation(rel, snapshot);

	return heap_beginscan(rel, snapshot, nkeys, key, pscan, flags & ~SO_ALLOW_SYNC);
}

/*
 * What is hidden is hidden by scan keys of heap's, "offset" >= log start and
 * "offset" < limit.  Sequential and TID range scans heed them by themselves;
 * for the others see shows_row below.  Most scans have none.
 */
static TableScanDesc
log_scan_begin(Relation rel, Snapshot snapshot, int nkeys, struct ScanKeyData *key,
			   ParallelTableScanDesc pscan, uint32 flags)
{
	int64		start;
	int64		limit;
	ScanKeyData keys[2];
	TableScanDesc scan;

	if (nkeys > 0)
		return begin_durable_scan(rel, snapshot, nkeys, key, pscan, flags);
	start = topics_log_am_hidden_below(rel, snapshot);
	limit = topics_log_am_hidden_from(rel, snapshot);
	if (start > 0)
		ScanKeyInit(&keys[nkeys++], Anum_log_offset, BTGreaterEqualStrategyNumber, F_INT8GE,
					Int64GetDatum(start));
	if (limit != NO_LIMIT)
		ScanKeyInit(&keys[nkeys++], Anum_log_offset, BTLessStrategyNumber, F_INT8LT,
					Int64GetDatum(limit));
	scan = begin_durable_scan(rel, snapshot, nkeys, nkeys > 0 ? keys : NULL, pscan, flags);
	/* all of it waits to be dropped, or to be confirmed */
	if (nkeys > 0 && (flags & SO_TYPE_SEQSCAN) &&
		(start >= get_cached_bounds(rel).end_offset || limit <= get_cached_bounds(rel).base_offset))
		heap_setscanlimits(scan, 0, 0);
	return scan;
}

/*
 * Begin a TID range scan that hides nothing: for log.c, which finds its way
 * through the blocks, and knows where the log starts.
 */
TableScanDesc
topics_log_am_begin_tidrange(Relation rel, Snapshot snapshot,
							 ItemPointer mintid, ItemPointer maxtid)
{
	TableScanDesc scan;

	if (!topics_log_am_is_log(rel))
		return topics_beginscan_tidrange(rel, snapshot, mintid, maxtid);
	scan = begin_durable_scan(rel, snapshot, 0, NULL, NULL,
							  SO_TYPE_TIDRANGESCAN | SO_ALLOW_PAGEMODE);
	rel->rd_tableam->scan_set_tidrange(scan, mintid, maxtid);
	return scan;
}

/* Return true if a scan shows a row that heap found without its scan keys. */
static bool
shows_row(TableScanDesc scan, TupleTableSlot *slot)
{
	int64		offset;

	if (scan->rs_nkeys == 0)
		return true;
	offset = topics_log_get_offset(slot);
	for (int i = 0; i < scan->rs_nkeys; i++)
	{
		int64		bound = DatumGetInt64(scan->rs_key[i].sk_argument);

		if (scan->rs_key[i].sk_strategy == BTLessStrategyNumber ? offset >= bound : offset < bound)
			return false;
	}
	return true;
}

static bool
log_scan_bitmap_next_tuple(TOPICS_BITMAP_NEXT_TUPLE_ARGS)
{
	while (GetHeapamTableAmRoutine()->scan_bitmap_next_tuple(TOPICS_BITMAP_NEXT_TUPLE))
		if (shows_row(scan, slot))
			return true;
	return false;
}

static bool
log_scan_sample_next_tuple(TableScanDesc scan, struct SampleScanState *scanstate,
						   TupleTableSlot *slot)
{
	while (GetHeapamTableAmRoutine()->scan_sample_next_tuple(scan, scanstate, slot))
		if (shows_row(scan, slot))
			return true;
	return false;
}

/*
 * A row by its place, for a TID scan.  (Other callers' snapshots are not those
 * of a query.)
 */
static bool
log_tuple_fetch_row_version(Relation rel, ItemPointer tid, Snapshot snapshot, TupleTableSlot *slot)
{
	if (!GetHeapamTableAmRoutine()->tuple_fetch_row_version(rel, tid, snapshot, slot))
		return false;
	if (snapshot->snapshot_type == SNAPSHOT_MVCC)
	{
		int64		offset = topics_log_get_offset(slot);

		if (offset < topics_log_am_hidden_below(rel, snapshot) ||
			offset >= topics_log_am_hidden_from(rel, snapshot))
		{
			ExecClearTuple(slot);
			return false;
		}
	}
	return true;
}

static void
log_scan_rescan(TableScanDesc scan, struct ScanKeyData *key, bool set_params,
				bool allow_strat, bool allow_sync, bool allow_pagemode)
{
	heap_rescan(scan, key, set_params, allow_strat, false, allow_pagemode);
}

static Size
log_parallelscan_initialize(Relation rel, ParallelTableScanDesc pscan)
{
	Size		size = table_block_parallelscan_initialize(rel, pscan);

	pscan->phs_syncscan = false;
	return size;
}

/* ----------------------------------------------------------------
 *		VACUUM
 * ----------------------------------------------------------------
 */

/* How far a segment is filled, as far as VACUUM and indexes care. */
typedef enum SegmentFill
{
	FILL_NONE,					/* no committed record so far */
	FILL_ACTIVE,				/* being appended to, or it is not known */
	FILL_SEALED					/* full */
} SegmentFill;

static SegmentFill
get_segment_fill(Relation rel, PartitionState **state)
{
	TopicPartition id;
	int64		base_offset;
	int64		end_offset;
	int64		next_offset;

	*state = NULL;
	if (!get_partition(rel, &id))
		return FILL_SEALED;		/* detached: no process appends to it */
	topics_log_am_bounds(RelationGetRelid(rel), &base_offset, &end_offset);
	*state = topics_partition_state_find(&id);
	if (*state == NULL)
		return FILL_ACTIVE;
	next_offset = pg_atomic_read_u64(&(*state)->next_offset);
	if (next_offset == UNKNOWN_OFFSET)
		return FILL_ACTIVE;
	if (next_offset >= end_offset)
		return FILL_SEALED;
	return next_offset <= base_offset ? FILL_NONE : FILL_ACTIVE;
}

/*
 * Return true if a segment has had its last record.  This is for a restore,
 * when the log end is not known yet.
 *
 * Compaction may have taken the last record; then the floor of next_offset
 * says that there was one.  A parallel restore can make an index before it
 * comes to the row that has the floor.  Then the answer is true: a restore
 * makes only indexes that were there, on segments that were sealed.
 */
static bool
was_segment_filled(Relation rel)
{
	TopicPartition id;
	int64		base_offset;
	int64		end_offset;
	int64		log_start;
	int64		floor;

	topics_log_am_bounds(RelationGetRelid(rel), &base_offset, &end_offset);
	return topics_log_am_last_offset(rel) >= end_offset - 1 ||
		(get_partition(rel, &id) &&
		 (!topics_log_start_read(&id, NULL, &log_start, &floor) || floor >= end_offset));
}

/*
 * Return true if a segment gets no record any more, and all that it has can be
 * read: a scan of an index hides nothing.
 */
bool
topics_log_am_is_sealed(Relation rel)
{
	PartitionState *state;
	SegmentFill fill;
	TopicPartition id;

	if (topics_high_watermark_applies() && get_partition(rel, &id))
	{
		state = get_known_state(rel, &id);
		/* in a restore it may be unknown: all that there is is older */
		if (pg_atomic_read_u64(&state->next_offset) != UNKNOWN_OFFSET &&
			topics_read_cut_limit(state, NULL) < get_cached_bounds(rel).end_offset)
			return false;
	}
	fill = get_segment_fill(rel, &state);
	return fill == FILL_SEALED || was_segment_filled(rel);
}

/* Say that a segment is left alone, to who asks for a report. */
static void
report_left_alone(Relation rel, TOPICS_VACUUM_PARAMS *params, bool must_freeze)
{
	ereport((params->options & VACOPT_VERBOSE) ? INFO : DEBUG1,
			(errmsg("log table \"%s\" is not vacuumed", RelationGetRelationName(rel)),
			 errdetail("It is the segment that records of %s are appended to.",
					   topics_catalog_describe_log(RelationGetRelid(rel))),
			 !topics_worker_registry_serves(MyDatabaseId) ?
			 errhint("VACUUM (FREEZE) freezes it, without a worker while producers wait.") :
			 must_freeze ? errhint("The worker cuts it off, and freezes it.") :
			 errhint("It is frozen when it is full.")));
}

/*
 * Vacuum a segment that is appended to.  The caller keeps producers out.
 * Blocks stay: readers remember where they have stopped.
 */
static void
vacuum_active_segment(Relation rel, TOPICS_VACUUM_PARAMS *params, BufferAccessStrategy bstrategy)
{
	VacuumParams kept = *params;

	kept.truncate = VACOPTVALUE_DISABLED;
	GetHeapamTableAmRoutine()->relation_vacuum(rel, &kept, bstrategy);
}

/*
 * Sealed segments are vacuumed as any heap.  The active one is left alone:
 * freed line pointers would break its order, and it will be frozen once, when
 * it is sealed.  If that cannot wait, the worker is asked to cut it.  If none
 * can come, or the segment has no committed record and so cannot be cut, it is
 * vacuumed under a lock that keeps producers out; otherwise their rows could
 * meet line pointers that are just being freed.
 */
static void
log_vacuum(Relation rel, TOPICS_VACUUM_PARAMS *params, BufferAccessStrategy bstrategy)
{
	bool		must_freeze = params->is_wraparound || params->freeze_min_age == 0;
	PartitionState *state;
	SegmentFill fill;

	if (RelationGetNumberOfBlocks(rel) == 0 ||
		(fill = get_segment_fill(rel, &state)) == FILL_SEALED)
	{
		GetHeapamTableAmRoutine()->relation_vacuum(rel, params, bstrategy);
		return;
	}
	if (must_freeze && !topics_worker_registry_serves(MyDatabaseId))
	{
		LockRelation(rel, ShareRowExclusiveLock);
		vacuum_active_segment(rel, params, bstrategy);
	}
	else if (must_freeze && fill == FILL_NONE &&
			 ConditionalLockRelation(rel, ShareRowExclusiveLock) &&
			 get_segment_fill(rel, &state) == FILL_NONE)
		vacuum_active_segment(rel, params, bstrategy);
	else
	{
		if (state && must_freeze)
			pg_atomic_fetch_or_u32(&state->requests, REQUEST_ROLL);
		topics_worker_registry_wake_worker();
		report_left_alone(rel, params, must_freeze);
	}
}

/* ----------------------------------------------------------------
 *		The routine
 * ----------------------------------------------------------------
 */

/* TOAST tables of segments are plain heaps. */
static Oid
log_toast_am(Relation rel)
{
	return HEAP_TABLE_AM_OID;
}

Datum
topics_log_am_handler(PG_FUNCTION_ARGS)
{
	if (methods.type != T_TableAmRoutine)
	{
		methods = *GetHeapamTableAmRoutine();
		methods.tuple_insert = log_tuple_insert;
		methods.multi_insert = log_multi_insert;
		methods.tuple_insert_speculative = log_tuple_insert_speculative;
		methods.tuple_delete = log_tuple_delete;
		methods.tuple_update = log_tuple_update;
		methods.tuple_lock = log_tuple_lock;
		methods.relation_set_new_filelocator = log_set_new_filelocator;
		methods.relation_nontransactional_truncate = log_nontransactional_truncate;
		methods.relation_copy_for_cluster = log_copy_for_cluster;
		methods.scan_begin = log_scan_begin;
		methods.scan_rescan = log_scan_rescan;
		methods.tuple_fetch_row_version = log_tuple_fetch_row_version;
		methods.scan_bitmap_next_tuple = log_scan_bitmap_next_tuple;
		methods.scan_sample_next_tuple = log_scan_sample_next_tuple;
		methods.parallelscan_initialize = log_parallelscan_initialize;
		methods.relation_vacuum = log_vacuum;
		methods.index_build_range_scan = topics_log_index_build_range_scan;
		methods.index_validate_scan = topics_log_index_validate_scan;
		methods.relation_toast_am = log_toast_am;
	}
	PG_RETURN_POINTER(&methods);
}
