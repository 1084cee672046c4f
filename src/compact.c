/*-------------------------------------------------------------------------
 *
 * compact.c
 *		Compaction: of each key the latest record stays, at its offset.
 *
 * As in Kafka, a partition has a clean part, up to clean_offset (in
 * topic_log.partition), and a dirty one above it, up to the first segment
 * that cannot be compacted yet.  A run
 *
 *	maps	the keys of dirty records to the latest offset of each, until the
 *			map is full (offset_map.c): so memory is bounded, and the end of
 *			what was mapped is the end of the run;
 *	copies	the segments below that end, without the records that have a later
 *			one of their key in the map, and without tombstones that have been
 *			there for delete_retention_time since they were first clean;
 *	ends	by moving clean_offset up.
 *
 * WHICH SEGMENTS: sealed ones, whose records are visible to every snapshot
 * there is, and older than min_compaction_lag_time.  Rows are copied frozen,
 * so every snapshot sees all of the new file; were a row in it newer than
 * some snapshot, that one would see it appear, and were it the reason for
 * an older one to go, see neither.  A snapshot that stays open delays the
 * compaction of what came after it, and nothing else.
 *
 * HOW A SEGMENT IS REPLACED: as VACUUM FULL does it.  The rows go into a new
 * table under a lock that keeps neither readers nor anybody else out, then
 * the files are swapped under ACCESS EXCLUSIVE on the segment, which is
 * acquired as retention.c does: nobody waits behind us for long.  The
 * segment stays the same table with the same bounds, so no plan and no
 * partition descriptor changes.  Small neighbours are merged: the first gets
 * the rows of all, and the bounds; the others are dropped in the same
 * transaction, which takes ACCESS EXCLUSIVE on the partition's table as well.
 * Rejected: to attach a new segment in the place of the old, which takes that
 * lock always, and a scan of the new table under it.
 *
 * CRASHES: each replacement is a transaction, and leaves a log that is right
 * by itself, since a record goes only where a later one of its key is.
 * clean_offset moves after all of them.  Whatever happens before, the next
 * run begins where this one did.
 *
 * WHOSE CODE RUNS: nobody's.  Keys are compared by their bytes, and rows are
 * copied as they are.
 *
 * next_offset_floor rises before the first file is swapped: the last record
 * of the log may be a tombstone that goes, and the offset it had must not
 * come again.  It also says up to where the log can have gaps, for readers
 * who check (fetch.c), whatever cleanup_policy says by then.
 *
 * A run takes many turns of the worker: one maps a segment or replaces a
 * group of them, and then others are served.  What it remembers (Run) is the
 * process's own.  Two processes that compact one partition do no harm:
 * segments are locked, and looked at again under the lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/multixact.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/partition.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "offset_map.h"
#include "pg_topics.h"

#define COPY_BATCH_ROWS 1000
#define COPY_BATCH_BYTES (1024 * 1024)
#define LOOK_AGAIN_MS 60000		/* at what is not due, for settings that changed */
#define RETRY_MS 1000			/* when locks were in the way */
#define RUN_STALE_MS INT64CONST(30000)	/* a run without a turn may be ended */
#define REINDEX_BLOCKS 1024		/* a smaller table's index is built in the swap */

/* The run of this process, if there is one. */
typedef struct Run
{
	MemoryContext cxt;			/* of the map */
	TopicPartition id;
	OffsetMap  *map;
	bool		mapping;		/* else copying */
	TimestampTz last_turn;
	bool		in_turn;		/* the transaction that uses it has not ended */
	bool		full;			/* the map is full: there may be more to do */
	bool		expired;		/* there are tombstones to be let go */
	int64		clean_offset;	/* where the clean part ended */
	int64		next;			/* to be mapped next; to be copied next */
	int64		mapped;			/* end of what is mapped */
} Run;

static Run *run = NULL;

/* A segment that a run may replace, and what becomes of it. */
typedef struct Candidate
{
	Segment		segment;
	int64		bytes;			/* on disk, now */
	int64		records;
	int64		live;
	bool		tombstones;		/* among those that stay */
	TimestampTz tombstones_from;	/* since when the segment's count as clean */
	TimestampTz sealed_at;
} Candidate;

/* ----------------------------------------------------------------
 *		What can be compacted, and whether it is time
 * ----------------------------------------------------------------
 */

/* Is it time to look?  Cheap: looks at shared memory only. */
bool
topics_compact_is_due(const TopicSettings *settings, const PartitionState *state)
{
	return settings->compact && state->compact_at <= GetCurrentTimestamp();
}

static bool
run_is_for(const PartitionState *state)
{
	return run != NULL && memcmp(&run->id, &state->id, sizeof(TopicPartition)) == 0;
}

static void
end_run(void)
{
	MemoryContext cxt = run->cxt;

	run = NULL;
	MemoryContextDelete(cxt);
}

/* Sealed segments from the log start on that have all of their records. */
static List *
list_candidates(Relation partition_rel, PartitionState *state, int64 from, int64 below)
{
	int64		start = topics_log_start(partition_rel, state);
	int64		end = topics_log_end(partition_rel, state);
	int			count;
	Segment    *segments = topics_segment_list(partition_rel, &count);
	List	   *result = NIL;

	for (int i = 0; i < count && segments[i].end_offset <= end && segments[i].base_offset < below; i++)
	{
		Candidate  *candidate;
		TimestampTz sealed_at;
		TimestampTz tombstones_from;

		if (segments[i].end_offset <= start || segments[i].end_offset <= from)
			continue;
		if (!topics_segment_row_read(&state->id, segments[i].base_offset, &sealed_at, &tombstones_from))
			break;				/* not sealed yet, or a restore has not filled it */
		candidate = palloc0(sizeof(Candidate));
		candidate->segment = segments[i];
		candidate->sealed_at = sealed_at;
		candidate->tombstones_from = tombstones_from;
		candidate->bytes = topics_segment_bytes(segments[i].relid);
		result = lappend(result, candidate);
	}
	pfree(segments);
	return result;
}

/* May a segment's tombstones go? */
static bool
tombstones_expired(const Candidate *candidate, const TopicSettings *settings)
{
	return candidate->tombstones_from != 0 &&
		GetCurrentTimestamp() - candidate->tombstones_from >= settings->delete_retention_ms * 1000;
}

/* Does it pay to begin a run? */
static bool
worth_it(List *candidates, const TopicSettings *settings, int64 clean_offset, bool *expired)
{
	int64		clean = 0;
	int64		dirty = 0;
	ListCell   *lc;

	*expired = false;

	foreach(lc, candidates)
	{
		Candidate  *candidate = lfirst(lc);

		if (candidate->segment.end_offset <= clean_offset)
			clean += candidate->bytes;
		else
			dirty += candidate->bytes;
		*expired |= tombstones_expired(candidate, settings);
	}
	return *expired ||
		(dirty > 0 && dirty >= settings->min_cleanable_dirty_ratio * (clean + dirty));
}

/*
 * The end of a transaction.  What a turn has left in memory does not hold if
 * it was rolled back: the run begins anew.
 */
static void
at_transaction_event(XactEvent event, void *arg)
{
	if (run == NULL || !run->in_turn ||
		(event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT))
		return;
	run->in_turn = false;
	if (event == XACT_EVENT_ABORT)
		end_run();
}

/* Begin a run if it is time for one. */
static bool
begin_run(Relation partition_rel, PartitionState *state, const TopicSettings *settings)
{
	int64		clean_offset = topics_log_start_clean_offset(&state->id);
	List	   *candidates = list_candidates(partition_rel, state, 0, PG_INT64_MAX);
	MemoryContext cxt;
	MemoryContext old;
	static bool registered = false;
	bool		expired;

	if (!registered)
		RegisterXactCallback(at_transaction_event, NULL);
	registered = true;
	if (!worth_it(candidates, settings, clean_offset, &expired))
		return false;

	cxt = AllocSetContextCreate(TopMemoryContext, "pg_topics compaction", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(cxt);
	run = palloc0(sizeof(Run));
	run->cxt = cxt;
	run->id = state->id;
	run->map = topics_offset_map_create((Size) maintenance_work_mem * 1024);
	run->mapping = true;
	run->expired = expired;
	run->clean_offset = clean_offset;
	run->next = run->mapped = Max(clean_offset, topics_log_start(partition_rel, state));
	MemoryContextSwitchTo(old);
	return true;
}

/* ----------------------------------------------------------------
 *		Map
 * ----------------------------------------------------------------
 */

/* A scan of all of a segment, in order; what is hidden is shown. */
static TableScanDesc
begin_scan(Relation rel, Snapshot snapshot)
{
	ItemPointerData first;
	ItemPointerData last;

	ItemPointerSet(&first, 0, FirstOffsetNumber);
	ItemPointerSet(&last, MaxBlockNumber, MaxOffsetNumber);
	return topics_log_am_begin_tidrange(rel, snapshot, &first, &last);
}

static int64
offset_of(TupleTableSlot *slot)
{
	bool		isnull;

	return DatumGetInt64(slot_getattr(slot, Anum_log_offset, &isnull));
}

/* Is a record of a key; *hash is the key's. */
static bool
hash_key(TupleTableSlot *slot, KeyHash *hash)
{
	bool		isnull;
	Datum		key = slot_getattr(slot, Anum_log_key, &isnull);

	/* from before the policy had "compact": it stays */
	if (isnull)
		return false;
	*hash = topics_offset_map_hash(run->map, TupleDescAttr(slot->tts_tupleDescriptor, Anum_log_key - 1),
								   key);
	return true;
}

/* Has everybody's snapshot seen this row, and is it old enough? */
static bool
is_ripe(TupleTableSlot *slot, TransactionId oldest_xmin, TimestampTz before)
{
	bool		should_free;
	HeapTuple	tuple = ExecFetchSlotHeapTuple(slot, false, &should_free);
	TransactionId xmin = HeapTupleHeaderGetXmin(tuple->t_data);
	bool		isnull;
	bool		result = (HeapTupleHeaderXminFrozen(tuple->t_data) ||
						  TransactionIdPrecedes(xmin, oldest_xmin)) &&
		DatumGetTimestampTz(slot_getattr(slot, Anum_log_timestamp, &isnull)) <= before;

	if (should_free)
		heap_freetuple(tuple);
	return result;
}

/*
 * Map the next segment.  False at the end of what can be mapped: then
 * "mapped" is the end of the run.
 */
static bool
map_segment(Relation partition_rel, PartitionState *state, const TopicSettings *settings)
{
	List	   *candidates = list_candidates(partition_rel, state, run->next, PG_INT64_MAX);
	Candidate  *candidate;
	Relation	rel;
	Snapshot	snapshot;
	TableScanDesc scan;
	TupleTableSlot *slot;
	TransactionId oldest_xmin;
	TimestampTz before = GetCurrentTimestamp() - settings->min_compaction_lag_ms * 1000;
	int64		before_segment = run->mapped;
	bool		ripe = true;

	if (candidates == NIL)
		return false;
	candidate = linitial(candidates);
	if (candidate->sealed_at <= before)
		before = DT_NOEND;		/* whatever its records say */

	rel = table_open(candidate->segment.relid, AccessShareLock);
	oldest_xmin = GetOldestNonRemovableTransactionId(rel);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = begin_scan(rel, snapshot);
	slot = table_slot_create(rel, NULL);
	while (ripe && table_scan_getnextslot_tidrange(scan, ForwardScanDirection, slot))
	{
		int64		offset = offset_of(slot);
		KeyHash		hash;

		CHECK_FOR_INTERRUPTS();
		ripe = is_ripe(slot, oldest_xmin, before);
		if (!ripe || run->full || offset < run->next)
			continue;
		if (hash_key(slot, &hash) && !topics_offset_map_put(run->map, &hash, offset))
			run->full = true;
		else
			run->mapped = offset + 1;
	}
	if (!ripe)
	{
		/* it is copied whole or not at all; what is mapped of it does no harm */
		run->mapped = before_segment;
		run->full = false;
	}
	else if (!run->full)
		run->mapped = run->next = candidate->segment.end_offset;
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
	return ripe && !run->full;
}

/* ----------------------------------------------------------------
 *		Copy
 * ----------------------------------------------------------------
 */

/* Does a record of a candidate stay? */
static bool
stays(TupleTableSlot *slot, const Candidate *candidate, int64 log_start, bool drop_tombstones,
	  bool *tombstone)
{
	int64		offset = offset_of(slot);
	KeyHash		hash;
	bool		value_isnull;

	*tombstone = false;
	if (offset < log_start)
		return false;
	if (offset >= run->mapped || !hash_key(slot, &hash))
		return true;
	if (topics_offset_map_get(run->map, &hash) > offset)
		return false;
	(void) slot_getattr(slot, Anum_log_value, &value_isnull);
	*tombstone = value_isnull;
	return !value_isnull || !drop_tombstones || offset >= run->clean_offset;
}

/* Count what of a candidate stays. */
static void
count_records(Candidate *candidate, const TopicSettings *settings, int64 log_start)
{
	Relation	rel = table_open(candidate->segment.relid, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = begin_scan(rel, snapshot);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	bool		drop_tombstones = tombstones_expired(candidate, settings);

	while (table_scan_getnextslot_tidrange(scan, ForwardScanDirection, slot))
	{
		bool		tombstone;

		CHECK_FOR_INTERRUPTS();
		candidate->records++;
		if (stays(slot, candidate, log_start, drop_tombstones, &tombstone))
		{
			candidate->live++;
			candidate->tombstones |= tombstone;
		}
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
}

static int64
live_bytes(const Candidate *candidate)
{
	return candidate->records == 0 ? 0 :
		(int64) ((double) candidate->bytes * candidate->live / candidate->records);
}

/*
 * Lock a candidate against everybody who changes segments or rows, without
 * waiting, and see whether it still is what was listed.
 */
static bool
lock_candidate(Relation partition_rel, const Segment *segment)
{
	Segment		now;

	return ConditionalLockRelationOid(segment->relid, ShareUpdateExclusiveLock) &&
		topics_segment_find(partition_rel, segment->base_offset, &now) &&
		now.relid == segment->relid && now.base_offset == segment->base_offset &&
		now.end_offset == segment->end_offset;
}

/*
 * The next segments to be replaced by one, locked and counted; NIL if none is
 * left.  *busy is set if somebody else has the next one.
 *
 * Neighbours of different ages of tombstones are not merged: that would make
 * some of these younger, so that they never went, or older.
 */
static List *
next_group(Relation partition_rel, PartitionState *state, const TopicSettings *settings, bool *busy)
{
	List	   *candidates = list_candidates(partition_rel, state, run->next, run->mapped);
	int64		log_start = topics_log_start(partition_rel, state);
	int64		bytes = 0;
	bool		tombstones = false;
	TimestampTz tombstones_from = 0;
	List	   *group = NIL;
	ListCell   *lc;

	*busy = false;
	foreach(lc, candidates)
	{
		Candidate  *candidate = lfirst(lc);

		if (!lock_candidate(partition_rel, &candidate->segment))
		{
			*busy = group == NIL;
			break;
		}
		count_records(candidate, settings, log_start);
		if (group != NIL &&
			(bytes + live_bytes(candidate) > settings->segment_bytes ||
			 candidate->segment.base_offset != ((Candidate *) llast(group))->segment.end_offset ||
			 (candidate->tombstones && tombstones &&
			  candidate->tombstones_from != tombstones_from)))
			break;
		bytes += live_bytes(candidate);
		if (candidate->tombstones)
		{
			tombstones = true;
			tombstones_from = candidate->tombstones_from;
		}
		group = lappend(group, candidate);
	}
	return group;
}

/* Rows on their way into the new table. */
typedef struct Batch
{
	Relation	rel;
	MemoryContext cxt;
	TupleTableSlot *slots[COPY_BATCH_ROWS];
	int			count;
	Size		bytes;
	CommandId	cid;
} Batch;

static void
flush_batch(Batch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->cxt);

	if (batch->count > 0)
		table_multi_insert(batch->rel, batch->slots, batch->count, batch->cid,
						   TABLE_INSERT_FROZEN, NULL);
	for (int i = 0; i < batch->count; i++)
		ExecClearTuple(batch->slots[i]);
	batch->count = 0;
	batch->bytes = 0;
	MemoryContextSwitchTo(old);
	MemoryContextReset(batch->cxt);
}

static void
add_to_batch(Batch *batch, TupleTableSlot *slot)
{
	MemoryContext old = MemoryContextSwitchTo(batch->cxt);
	HeapTuple	tuple = ExecCopySlotHeapTuple(slot);

	MemoryContextSwitchTo(old);
	if (batch->slots[batch->count] == NULL)
		batch->slots[batch->count] = MakeSingleTupleTableSlot(RelationGetDescr(batch->rel),
															  &TTSOpsHeapTuple);
	ExecStoreHeapTuple(tuple, batch->slots[batch->count++], false);
	batch->bytes += tuple->t_len;
	if (batch->count == COPY_BATCH_ROWS || batch->bytes >= COPY_BATCH_BYTES)
		flush_batch(batch);
}

static void
copy_records(const Candidate *candidate, const TopicSettings *settings, int64 log_start, Batch *batch)
{
	Relation	rel = table_open(candidate->segment.relid, NoLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = begin_scan(rel, snapshot);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	bool		drop_tombstones = tombstones_expired(candidate, settings);

	while (table_scan_getnextslot_tidrange(scan, ForwardScanDirection, slot))
	{
		bool		tombstone;

		CHECK_FOR_INTERRUPTS();
		if (stays(slot, candidate, log_start, drop_tombstones, &tombstone))
			add_to_batch(batch, slot);
	}
	flush_batch(batch);
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
}

/* A new table beside the first of a group, with what stays of all. */
static Oid
copy_group(List *group, const TopicSettings *settings, int64 log_start)
{
	Candidate  *first = linitial(group);
	Relation	rel = table_open(first->segment.relid, NoLock);
	Batch	   *batch = palloc0(sizeof(Batch));
	Oid			new_relid;
	ListCell   *lc;

	new_relid = make_new_heap(first->segment.relid, rel->rd_rel->reltablespace, rel->rd_rel->relam,
							  rel->rd_rel->relpersistence, ShareUpdateExclusiveLock);
	table_close(rel, NoLock);

	batch->rel = table_open(new_relid, AccessExclusiveLock);
	batch->cxt = AllocSetContextCreate(CurrentMemoryContext, "pg_topics copy", ALLOCSET_DEFAULT_SIZES);
	batch->cid = GetCurrentCommandId(true);
	foreach(lc, group)
		copy_records(lfirst(lc), settings, log_start, batch);
	for (int i = 0; i < COPY_BATCH_ROWS && batch->slots[i]; i++)
		ExecDropSingleTupleTableSlot(batch->slots[i]);
	MemoryContextDelete(batch->cxt);
	table_close(batch->rel, NoLock);
	pfree(batch);
	return new_relid;
}

/* ----------------------------------------------------------------
 *		Swap
 * ----------------------------------------------------------------
 */

/* Could we have this lock right now?  Asked before the work is done for it. */
static bool
is_free(Oid relid)
{
	if (!ConditionalLockRelationOid(relid, AccessExclusiveLock))
		return false;
	UnlockRelationOid(relid, AccessExclusiveLock);
	return true;
}

/* Has nobody a lock that would keep us from swapping? */
static bool
group_is_free(Oid partition_relid, List *group)
{
	ListCell   *lc;

	foreach(lc, group)
		if (!is_free(((Candidate *) lfirst(lc))->segment.relid))
			return false;
	return list_length(group) == 1 || is_free(partition_relid);
}

static bool
lock_group(Oid partition_relid, List *group)
{
	ListCell   *lc;

	if (list_length(group) > 1 && !topics_retention_lock(partition_relid))
		return false;
	foreach(lc, group)
		if (!topics_retention_lock(((Candidate *) lfirst(lc))->segment.relid))
			return false;
	return true;
}

/* Drop the others of a group: the first has their rows. */
static void
drop_others(List *group, const TopicPartition *id)
{
	ObjectAddresses *objects = new_object_addresses();
	ListCell   *lc;

	for_each_from(lc, group, 1)
	{
		Candidate  *candidate = lfirst(lc);
		ObjectAddress object = {RelationRelationId, candidate->segment.relid, 0};

		add_exact_object_address(&object, objects);
		topics_segment_row_forget(id, candidate->segment.base_offset);
	}
	performMultipleDeletions(objects, DROP_RESTRICT, 0);
	free_object_addresses(objects);
}

/*
 * Drop our own index on a large segment, which is built again when that is
 * sealed anew: the swap would do it under its lock.
 */
static void
drop_index(Oid relid, BlockNumber nblocks)
{
	Relation	rel;
	List	   *indexes;
	ListCell   *lc;

	if (nblocks < REINDEX_BLOCKS)
		return;
	rel = table_open(relid, NoLock);
	indexes = RelationGetIndexList(rel);
	table_close(rel, NoLock);
	foreach(lc, indexes)
	{
		ObjectAddress object = {RelationRelationId, lfirst_oid(lc), 0};
		Relation	index = index_open(lfirst_oid(lc), AccessExclusiveLock);
		bool		ours = index->rd_rel->relam == BRIN_AM_OID &&
			index->rd_index->indnatts == 2 &&
			index->rd_index->indkey.values[0] == Anum_log_offset &&
			index->rd_index->indkey.values[1] == Anum_log_timestamp;

		index_close(index, NoLock);
		if (ours)
			performDeletion(&object, DROP_RESTRICT, 0);
	}
	CommandCounterIncrement();
}

/* Put the new table's files in the place of a group. */
static void
swap_group(Oid partition_relid, PartitionState *state, List *group, Oid new_relid)
{
	Candidate  *first = linitial(group);
	Candidate  *last = llast(group);
	Segment		merged = first->segment;
	Relation	new_rel = table_open(new_relid, AccessExclusiveLock);
	TransactionId frozen_xid = new_rel->rd_rel->relfrozenxid;
	MultiXactId min_multi = new_rel->rd_rel->relminmxid;
	char		persistence = new_rel->rd_rel->relpersistence;
	BlockNumber nblocks = RelationGetNumberOfBlocks(new_rel);

	table_close(new_rel, NoLock);
	drop_index(first->segment.relid, nblocks);
	topics_finish_heap_swap(first->segment.relid, new_relid, frozen_xid, min_multi, persistence);
	CommandCounterIncrement();
	if (list_length(group) > 1)
	{
		drop_others(group, &state->id);
		merged.end_offset = last->segment.end_offset;
		topics_segment_set_bounds(partition_relid, &merged);
	}
}

/* What the catalogue is to say of the segment that a group has become. */
static void
note_group(PartitionState *state, List *group)
{
	Candidate  *first = linitial(group);
	Candidate  *last = llast(group);
	TimestampTz sealed_at = 0;
	TimestampTz tombstones_from = 0;
	bool		tombstones = false;
	ListCell   *lc;

	foreach(lc, group)
	{
		Candidate  *candidate = lfirst(lc);

		sealed_at = Max(sealed_at, candidate->sealed_at);
		tombstones |= candidate->tombstones;
		if (candidate->tombstones)
			tombstones_from = Max(tombstones_from, candidate->tombstones_from);
	}
	if (tombstones_from == 0 && last->segment.end_offset <= run->mapped)
		tombstones_from = GetCurrentTimestamp();
	topics_segment_row_update(&state->id, first->segment.base_offset, sealed_at,
							  tombstones ? tombstones_from : 0);
}

/* Replace a group of segments.  False if locks are in the way. */
static bool
replace_group(Oid partition_relid, PartitionState *state, const TopicSettings *settings, List *group)
{
	Relation	partition_rel = table_open(partition_relid, AccessShareLock);
	int64		log_start = topics_log_start(partition_rel, state);
	int64		dead = 0;
	Oid			new_relid;
	Oid			save_userid;
	int			save_context;
	bool		done = true;
	ListCell   *lc;

	/* dropping wants the table unused by its own session */
	table_close(partition_rel, NoLock);
	foreach(lc, group)
		dead += ((Candidate *) lfirst(lc))->records - ((Candidate *) lfirst(lc))->live;

	if (dead > 0 || list_length(group) > 1)
	{
		if (!group_is_free(partition_relid, group))
			return false;
		topics_extension_become_owner(&save_userid, &save_context);
		new_relid = copy_group(group, settings, log_start);
		TEST_POINT("compact-copied");
		done = lock_group(partition_relid, group);
		if (done)
		{
			swap_group(partition_relid, state, group, new_relid);
			TEST_POINT("compact-swapped");
		}
		else
		{
			ObjectAddress object = {RelationRelationId, new_relid, 0};

			performDeletion(&object, DROP_RESTRICT, 0);
		}
		SetUserIdAndSecContext(save_userid, save_context);
	}
	if (done)
		note_group(state, group);
	return done;
}

/* ----------------------------------------------------------------
 *		Turns
 * ----------------------------------------------------------------
 */

/* Somebody is in the way: try again a little later. */
static void
wait_a_little(PartitionState *state)
{
	state->compact_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), RETRY_MS);
}

/* The run's end, in the catalogue too. */
static void
finish_run(PartitionState *state, const TopicSettings *settings)
{
	bool		more = run->full;
	int64		delay_ms = LOOK_AGAIN_MS;

	if (run->mapped > run->clean_offset)
	{
		topics_log_start_raise_clean_offset(&state->id, run->mapped);
		delay_ms = Min(delay_ms, settings->delete_retention_ms);
	}
	end_run();
	state->compact_at = more ? 0 :
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), delay_ms);
}

/* The end of the mapping: is there anything to be done with the map? */
static void
finish_map(PartitionState *state, const TopicSettings *settings)
{
	if (run->mapped == run->clean_offset && !run->expired)
	{
		finish_run(state, settings);
		return;
	}
	run->mapping = false;
	run->next = 0;
	topics_log_start_raise_floor(&state->id, run->mapped);
	TEST_POINT("compact-mapped");
}

/*
 * A turn of compaction, in the caller's transaction.  The next one is due at
 * state->compact_at, at once if that is 0.
 */
void
topics_compact_turn(Topic *topic, Oid partition_relid, PartitionState *state)
{
	const TopicSettings settings = topic->settings;
	Relation	rel = table_open(partition_relid, AccessShareLock);
	List	   *group;
	bool		busy;

	state->compact_at = 0;
	/* one run at a time, unless its partition has gone, or is not served */
	if (run != NULL && !run_is_for(state))
	{
		if (GetCurrentTimestamp() - run->last_turn < RUN_STALE_MS * 1000)
		{
			wait_a_little(state);
			table_close(rel, NoLock);
			return;
		}
		end_run();
	}
	if (run == NULL && !begin_run(rel, state, &settings))
	{
		state->compact_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOOK_AGAIN_MS);
		table_close(rel, NoLock);
		return;
	}

	run->in_turn = true;
	run->last_turn = GetCurrentTimestamp();
	if (run->mapping)
	{
		if (!map_segment(rel, state, &settings))
			finish_map(state, &settings);
		table_close(rel, NoLock);
		return;
	}

	group = next_group(rel, state, &settings, &busy);
	table_close(rel, NoLock);
	if (busy || (group != NIL && !replace_group(partition_relid, state, &settings, group)))
		wait_a_little(state);
	else if (group != NIL)
		run->next = ((Candidate *) llast(group))->segment.end_offset;
	else
		finish_run(state, &settings);
}

/* End the run, if there is one: who compacts by hand does one after the other. */
void
topics_compact_abandon(void)
{
	if (run != NULL)
		end_run();
}
