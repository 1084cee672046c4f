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
 * WHICH SEGMENTS: sealed ones, older than min_compaction_lag_time, whose
 * records are visible to every snapshot there is.  Rows are copied frozen, so
 * that every snapshot sees all of the new file.  If a row in it were newer than
 * some snapshot, that snapshot would see a record appear.  And where an older
 * record goes because of a newer one of its key, a snapshot that does not see the
 * newer one would see neither.  A snapshot that stays open delays the compaction
 * of what was committed after it, and nothing else.
 *
 * The primary does not know of snapshots on standbys without
 * hot_standby_feedback.  For their sake all rows must have been frozen before,
 * or their page found to be visible to all: replaying that has canceled the
 * queries on standbys that do not see the rows.  What the sealing could not
 * freeze is frozen now.
 *
 * HOW A SEGMENT IS REPLACED: as VACUUM FULL does it.  The rows go into a new
 * table, under a lock that neither readers nor producers wait for.  Then the
 * files are swapped under ACCESS EXCLUSIVE on the segment, which is acquired as
 * retention.c does it: nobody waits behind us for long.  The segment stays the
 * same table with the same bounds, so no plan and no partition descriptor
 * changes.  Small neighbours are merged: the first gets the rows of all, and the
 * bounds; the others are dropped in the same transaction, which takes ACCESS
 * EXCLUSIVE on the partition's table as well.  Rejected: to attach a new segment
 * in the place of the old one, which always takes that lock, and a scan of the
 * new table under it.
 *
 * CRASHES: each replacement is a transaction, and leaves a log that is right
 * by itself, since a record goes only where a later one of its key is.
 * clean_offset moves after all of them.  Whatever happens before, the next
 * run begins where this one did.
 *
 * WHOSE CODE RUNS: nobody's.  Keys are compared by their bytes, and rows are
 * copied as they are.
 *
 * next_offset_floor rises before the first file is swapped: the last record of
 * the log may be a tombstone that goes, and its offset must not be given again.
 * It also says up to where the log can have gaps, to readers that check
 * (fetch.c), whatever cleanup_policy says by then.
 *
 * WHAT IS NOT TOUCHED: a clean segment from which nothing goes is read, since
 * only its keys tell that, but not written; nor is it merged with much smaller
 * neighbours, or each run would write it anew.  With an empty map only
 * tombstones can go, and segments whose tombstones stay are not even read.
 *
 * HOW FAST: at the pace that the process was given (pace.c).  It sleeps in the
 * middle of a scan.  Meanwhile it holds
 *
 *	a pin on a page of a sealed segment, which nobody writes to;
 *	a lock on the segment, SHARE UPDATE EXCLUSIVE, or ACCESS SHARE while it
 *			maps, and ACCESS SHARE on the tables above: it gives them up when
 *			another process waits for them;
 *	a snapshot, so that VACUUM of other tables leaves what died since, as during
 *			any query, until the turn is over.
 *
 * It never sleeps with ACCESS EXCLUSIVE on a segment.  What a turn reads is
 * bounded (MAX_GROUP).
 *
 * A run takes many turns: one maps a segment or replaces a group of them, each
 * in a transaction of its own.  What it remembers (CompactRun) is the process's
 * own.  Two processes that compact one partition do no harm: segments are locked,
 * and looked at again under the lock.
 *
 * compact_at, in shared memory, is 0 when a run pays, or when it is to be looked
 * at at once; it stays 0 during a run.  Else it is when to look again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
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
#define REINDEX_BLOCKS 1024		/* a smaller table's index is built in the swap */
#define MAX_GROUP 4				/* times segment_bytes are read at most, to merge */
#define MERGE_SHARE 4			/* a segment is not written anew to be merged with
								 * what has less than this part of its size */

/* The run of this process, if there is one. */
static CompactRun *run = NULL;

/* ----------------------------------------------------------------
 *		What can be compacted, and whether it is time
 * ----------------------------------------------------------------
 */

/* Return true if it is time to look.  Cheap: looks at shared memory only. */
bool
topics_compact_is_due(const TopicSettings *settings, const PartitionState *state)
{
	return settings->compact && state->compact_at != COMPACTION_WANTED &&
		state->compact_at <= GetCurrentTimestamp();
}

/* Return true if a look has found that a run pays, or if one goes on. */
bool
topics_compact_is_wanted(const TopicSettings *settings, const PartitionState *state)
{
	return settings->compact && state->compact_at == COMPACTION_WANTED;
}

/* Return true if this process has a run. */
bool
topics_compact_is_running(void)
{
	return run != NULL;
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

/*
 * List the sealed segments from the log start on that have all of their records,
 * and of these, those with an offset in from .. below-1.
 */
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
		CompactCandidate *candidate;
		TimestampTz sealed_at;
		TimestampTz tombstones_from;

		if (segments[i].end_offset <= start || segments[i].end_offset <= from)
			continue;
		if (!topics_segment_row_read(&state->id, segments[i].base_offset, &sealed_at, &tombstones_from))
			break;				/* not sealed yet, or a restore has not filled it */
		candidate = palloc0(sizeof(CompactCandidate));
		candidate->segment = segments[i];
		candidate->sealed_at = sealed_at;
		candidate->tombstones_from = tombstones_from;
		candidate->bytes = topics_segment_bytes(segments[i].relid);
		result = lappend(result, candidate);
	}
	pfree(segments);
	return result;
}

/* Return true if a segment's tombstones may go. */
static bool
tombstones_expired(const CompactCandidate *candidate, const TopicSettings *settings)
{
	return candidate->tombstones_from != 0 &&
		GetCurrentTimestamp() - candidate->tombstones_from >= settings->delete_retention_ms * 1000;
}

/* Have the partition looked at again after some time. */
static void
look_again_in(PartitionState *state, int64 delay_ms)
{
	state->compact_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), delay_ms);
}

/*
 * Return true if it pays to begin a run.  If not, compact_at says when to look
 * again.  *expired says whether there are tombstones to be let go.
 */
static bool
run_is_worth_it(Relation partition_rel, PartitionState *state, const TopicSettings *settings,
		 int64 clean_offset, bool *expired)
{
	int64		delay_ms = LOOK_AGAIN_MS;
	int64		clean = 0;
	int64		dirty = 0;
	ListCell   *lc;

	/* first: a segment that is sealed from here on asks for another look */
	look_again_in(state, LOOK_AGAIN_MS);
	*expired = false;
	foreach(lc, list_candidates(partition_rel, state, 0, PG_INT64_MAX))
	{
		CompactCandidate *candidate = lfirst(lc);

		if (candidate->segment.end_offset <= clean_offset)
			clean += candidate->bytes;
		else
			dirty += candidate->bytes;
		if (tombstones_expired(candidate, settings))
			*expired = true;
		else if (candidate->tombstones_from != 0)
			delay_ms = Min(delay_ms, settings->delete_retention_ms);
	}
	if (*expired || (dirty > 0 && dirty >= settings->min_cleanable_dirty_ratio * (clean + dirty)))
		return true;
	if (delay_ms < LOOK_AGAIN_MS && state->compact_at > GetCurrentTimestamp())
		look_again_in(state, delay_ms);
	return false;
}

/*
 * Look whether a partition should be compacted: cheap, for a process that leaves
 * it to another one.
 */
void
topics_compact_look(Topic *topic, Oid partition_relid, PartitionState *state)
{
	Relation	rel = table_open(partition_relid, AccessShareLock);
	bool		expired;

	if (run_is_worth_it(rel, state, &topic->settings, topics_log_start_clean_offset(&state->id), &expired))
		state->compact_at = COMPACTION_WANTED;
	table_close(rel, NoLock);
}

/*
 * A transaction was rolled back: what a turn has left in memory may not hold, and
 * compaction by hand may have been canceled.  The run begins anew.
 */
static void
end_run_at_abort(XactEvent event, void *arg)
{
	if (run != NULL && event == XACT_EVENT_ABORT)
		end_run();
}

/* Begin a run if it is time for one. */
static bool
begin_run(Relation partition_rel, PartitionState *state, const TopicSettings *settings)
{
	int64		clean_offset = topics_log_start_clean_offset(&state->id);
	MemoryContext cxt;
	MemoryContext old;
	static bool registered = false;
	bool		expired;

	if (!registered)
		RegisterXactCallback(end_run_at_abort, NULL);
	registered = true;
	if (!run_is_worth_it(partition_rel, state, settings, clean_offset, &expired))
		return false;

	cxt = AllocSetContextCreate(TopMemoryContext, "pg_topics compaction", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(cxt);
	run = palloc0(sizeof(CompactRun));
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
begin_segment_scan(Relation rel, Snapshot snapshot)
{
	ItemPointerData first;
	ItemPointerData last;

	ItemPointerSet(&first, 0, FirstOffsetNumber);
	ItemPointerSet(&last, MaxBlockNumber, MaxOffsetNumber);
	return topics_log_am_begin_tidrange(rel, snapshot, &first, &last);
}

/* The next row of such a scan, at our pace. */
static bool
read_next_row(TableScanDesc scan, TupleTableSlot *slot)
{
	BlockNumber block = TTS_EMPTY(slot) ? InvalidBlockNumber :
		ItemPointerGetBlockNumber(&slot->tts_tid);

	CHECK_FOR_INTERRUPTS();
	if (!table_scan_getnextslot_tidrange(scan, ForwardScanDirection, slot))
		return false;
	if (ItemPointerGetBlockNumber(&slot->tts_tid) != block)
		topics_pace_account(BLCKSZ);
	return true;
}

static int64
get_offset(TupleTableSlot *slot)
{
	bool		isnull;

	return DatumGetInt64(slot_getattr(slot, Anum_log_offset, &isnull));
}

/* Return true if a record has a key; *hash is the key's. */
static bool
hash_key(const CompactRun *run, TupleTableSlot *slot, KeyHash *hash)
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

/*
 * Return true if every snapshot sees this row, and it is old enough.  *frozen is
 * reset if replay has not canceled the queries on standbys that do not see it.
 * It has where the row was frozen, and where its page was found to be all visible
 * (which keeps VACUUM from coming back to freeze it).
 */
static bool
row_is_ripe(TupleTableSlot *slot, TransactionId oldest_xmin, TimestampTz before, bool *frozen)
{
	bool		should_free;
	HeapTuple	tuple = ExecFetchSlotHeapTuple(slot, false, &should_free);
	TransactionId xmin = HeapTupleHeaderGetXmin(tuple->t_data);
	bool		isnull;
	bool		xmin_frozen = HeapTupleHeaderXminFrozen(tuple->t_data);
	bool		result = (xmin_frozen || TransactionIdPrecedes(xmin, oldest_xmin)) &&
		DatumGetTimestampTz(slot_getattr(slot, Anum_log_timestamp, &isnull)) <= before;

	*frozen &= xmin_frozen ||
		PageIsAllVisible(BufferGetPage(((BufferHeapTupleTableSlot *) slot)->buffer));
	if (should_free)
		heap_freetuple(tuple);
	return result;
}

/* Freeze a segment.  Return false if that cannot be now, or was in vain. */
static bool
freeze_segment(Oid relid)
{
	if (run->froze == relid || !ConditionalLockRelationOid(relid, ShareUpdateExclusiveLock))
		return false;
	run->froze = relid;
	topics_segment_freeze(relid);
	return true;
}

/*
 * Map the next segment, or have it frozen for that.  Return false at the end of
 * what can be mapped: then "mapped" is the end of the run.
 */
static bool
map_segment(Relation partition_rel, PartitionState *state, const TopicSettings *settings)
{
	List	   *candidates = list_candidates(partition_rel, state, run->next, PG_INT64_MAX);
	CompactCandidate *candidate;
	Relation	rel;
	Snapshot	snapshot;
	TableScanDesc scan;
	TupleTableSlot *slot;
	TransactionId oldest_xmin;
	TimestampTz before = GetCurrentTimestamp() - settings->min_compaction_lag_ms * 1000;
	int64		before_segment = run->mapped;
	bool		ripe = true;
	bool		frozen = true;

	if (candidates == NIL)
		return false;
	candidate = linitial(candidates);
	if (candidate->sealed_at <= before)
		before = DT_NOEND;		/* whatever its records say */

	rel = table_open(candidate->segment.relid, AccessShareLock);
	topics_pace_note_locked(RelationGetRelid(rel));
	oldest_xmin = GetOldestNonRemovableTransactionId(rel);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = begin_segment_scan(rel, snapshot);
	slot = table_slot_create(rel, NULL);
	while (ripe && read_next_row(scan, slot))
	{
		int64		offset = get_offset(slot);
		KeyHash		hash;

		ripe = row_is_ripe(slot, oldest_xmin, before, &frozen);
		if (!ripe || run->full || offset < run->next)
			continue;
		if (hash_key(run, slot, &hash) && !topics_offset_map_put(run->map, &hash, offset))
			run->full = true;
		else
			run->mapped = offset + 1;
	}
	if (!ripe || !frozen)
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
	if (ripe && !frozen)
		return freeze_segment(candidate->segment.relid);
	return ripe && !run->full;
}

/* ----------------------------------------------------------------
 *		Copy
 * ----------------------------------------------------------------
 */

/* Return true if a record of a candidate stays; *tombstone says what it is then. */
static bool
record_stays(const CompactTurn *turn, TupleTableSlot *slot, bool drop_tombstones, bool *tombstone)
{
	const CompactRun *run = turn->run;
	int64		offset = get_offset(slot);
	KeyHash		hash;
	bool		value_isnull;

	*tombstone = false;
	if (offset < turn->log_start)
		return false;
	if (offset >= run->mapped || !hash_key(run, slot, &hash))
		return true;
	if (topics_offset_map_get(run->map, &hash) > offset)
		return false;
	(void) slot_getattr(slot, Anum_log_value, &value_isnull);
	*tombstone = value_isnull;
	return !value_isnull || !drop_tombstones || offset >= run->clean_offset;
}

/*
 * Lock a candidate against all that change segments or rows, without waiting, and
 * see whether it still is what was listed.
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

/* Count the bytes of a row, in the table and out of line. */
static Size
row_bytes(TupleTableSlot *slot, const HeapTuple tuple)
{
	Size		result = tuple->t_len;

	if (!HeapTupleHasExternal(tuple))
		return result;
	for (int i = 0; i < slot->tts_tupleDescriptor->natts; i++)
	{
		bool		isnull;
		Datum		value = slot_getattr(slot, i + 1, &isnull);

		if (!isnull && TupleDescAttr(slot->tts_tupleDescriptor, i)->attlen == -1 &&
			VARATT_IS_EXTERNAL(DatumGetPointer(value)))
			result += toast_datum_size(value);
	}
	return result;
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
	topics_pace_account(row_bytes(slot, tuple));
	if (batch->count == COPY_BATCH_ROWS || batch->bytes >= COPY_BATCH_BYTES)
		flush_batch(batch);
}

/*
 * Read a candidate.  What stays of it goes into "batch", or is counted if
 * that is NULL.
 */
static void
read_candidate(const CompactTurn *turn, CompactCandidate *candidate, Batch *batch)
{
	Relation	rel = table_open(candidate->segment.relid, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = begin_segment_scan(rel, snapshot);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	bool		drop_tombstones = tombstones_expired(candidate, turn->settings);

	topics_pace_note_locked(RelationGetRelid(rel));
	while (read_next_row(scan, slot))
	{
		bool		tombstone;
		bool		stay = record_stays(turn, slot, drop_tombstones, &tombstone);

		if (batch == NULL)
		{
			candidate->records++;
			candidate->live += stay;
			candidate->tombstones |= stay && tombstone;
		}
		else if (stay)
			add_to_batch(batch, slot);
	}
	if (batch)
		flush_batch(batch);
	else
		candidate->counted = true;
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
}

/*
 * Find out what of a candidate stays.  It was read for that already if it did not
 * go with the last group: what was counted then may be off by what another
 * process has done meanwhile, which does no harm.
 */
static void
count_records(const CompactTurn *turn, CompactCandidate *candidate)
{
	const CompactCandidate *before = &turn->run->counted;

	if (before->counted && before->bytes == candidate->bytes &&
		memcmp(&before->segment, &candidate->segment, sizeof(Segment)) == 0)
	{
		candidate->counted = true;
		candidate->records = before->records;
		candidate->live = before->live;
		candidate->tombstones = before->tombstones;
	}
	else if (topics_offset_map_is_empty(turn->run->map) &&
			 !tombstones_expired(candidate, turn->settings) &&
			 turn->log_start <= candidate->segment.base_offset)
		candidate->tombstones = candidate->tombstones_from != 0;
	else
		read_candidate(turn, candidate, NULL);
}

static int64
count_dead(const CompactCandidate *candidate)
{
	return candidate->records - candidate->live;
}

/* Guess the bytes on disk of what stays. */
static int64
guess_live_bytes(const CompactCandidate *candidate)
{
	if (count_dead(candidate) == 0)
		return candidate->counted && candidate->records == 0 ? 0 : candidate->bytes;
	return (int64) ((double) candidate->bytes * candidate->live / candidate->records);
}

/*
 * Return true if a candidate that was counted is to be merged into a group.
 *
 * Neighbours of different ages of tombstones are not: that would make some of
 * these younger, so that they never went, or older.  Nor is a segment from which
 * nothing goes written anew for the sake of a small one; that waits until more of
 * its kind have come.
 */
static bool
candidate_belongs(const SegmentGroup *group, const CompactCandidate *candidate, const TopicSettings *settings)
{
	const CompactCandidate *last = llast(group->candidates);
	int64		live = guess_live_bytes(candidate);

	if (candidate->segment.base_offset != last->segment.end_offset ||
		group->live + live > settings->segment_bytes ||
		(candidate->tombstones && group->tombstones &&
		 candidate->tombstones_from != group->tombstones_from))
		return false;
	return live == 0 ||
		((group->dead > 0 || group->live <= MERGE_SHARE * live) &&
		 (count_dead(candidate) > 0 || live <= MERGE_SHARE * group->live));
}

/*
 * Choose the next segments to be replaced by one; they are locked and counted.
 * There are none if none is left.  *busy is set if another process has the next
 * one.
 */
static SegmentGroup
choose_group(const CompactTurn *turn, Relation partition_rel, bool *busy)
{
	const TopicSettings *settings = turn->settings;
	List	   *candidates = list_candidates(partition_rel, turn->state,
											 turn->run->next, turn->run->mapped);
	SegmentGroup group = {NIL};
	ListCell   *lc;

	*busy = false;
	foreach(lc, candidates)
	{
		CompactCandidate *candidate = lfirst(lc);

		if (group.candidates != NIL &&
			group.read + candidate->bytes > MAX_GROUP * settings->segment_bytes)
			break;
		if (!lock_candidate(partition_rel, &candidate->segment))
		{
			*busy = group.candidates == NIL;
			break;
		}
		count_records(turn, candidate);
		if (group.candidates != NIL && !candidate_belongs(&group, candidate, settings))
		{
			turn->run->counted = *candidate;
			break;
		}
		group.candidates = lappend(group.candidates, candidate);
		group.read += candidate->bytes;
		group.live += guess_live_bytes(candidate);
		group.dead += count_dead(candidate);
		if (candidate->tombstones)
		{
			group.tombstones = true;
			group.tombstones_from = candidate->tombstones_from;
		}
	}
	return group;
}

/* Make a new table beside the first of a group, with what stays of all. */
static Oid
copy_group(const CompactTurn *turn, List *group)
{
	CompactCandidate *first = linitial(group);
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
		read_candidate(turn, lfirst(lc), batch);
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

/*
 * Return true if we could have this lock now, but for readers that are done in no
 * time.  Asked before the work is done for it.
 */
static bool
lock_is_free(Oid relid)
{
	if (!topics_retention_try_lock(relid))
		return false;
	UnlockRelationOid(relid, AccessExclusiveLock);
	return true;
}

/* Return true if no other process has a lock that would keep us from swapping. */
static bool
group_is_free(Oid partition_relid, List *group)
{
	ListCell   *lc;

	foreach(lc, group)
		if (!lock_is_free(((CompactCandidate *) lfirst(lc))->segment.relid))
			return false;
	return list_length(group) == 1 || lock_is_free(partition_relid);
}

static bool
lock_group(Oid partition_relid, List *group)
{
	ListCell   *lc;

	if (list_length(group) > 1 && !topics_retention_lock(partition_relid))
		return false;
	foreach(lc, group)
		if (!topics_retention_lock(((CompactCandidate *) lfirst(lc))->segment.relid))
			return false;
	return true;
}

/* Drop the others of a group: the first has their rows. */
static void
drop_merged(List *group, const TopicPartition *id)
{
	ObjectAddresses *objects = new_object_addresses();
	ListCell   *lc;

	for_each_from(lc, group, 1)
	{
		CompactCandidate *candidate = lfirst(lc);
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
drop_own_indexes(Oid relid, BlockNumber nblocks)
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

/* Put the new table's files in the place of a segment's. */
static void
swap_files(Oid relid, Oid new_relid)
{
	Relation	new_rel = table_open(new_relid, AccessExclusiveLock);
	TransactionId frozen_xid = new_rel->rd_rel->relfrozenxid;
	MultiXactId min_multi = new_rel->rd_rel->relminmxid;
	char		persistence = new_rel->rd_rel->relpersistence;
	BlockNumber nblocks = RelationGetNumberOfBlocks(new_rel);

	table_close(new_rel, NoLock);
	drop_own_indexes(relid, nblocks);
	topics_finish_heap_swap(relid, new_relid, frozen_xid, min_multi, persistence);
	CommandCounterIncrement();
}

/* Put the new table, if there is one, and the bounds of all in the place of a group. */
static void
swap_group(const CompactTurn *turn, List *group, Oid new_relid)
{
	CompactCandidate *first = linitial(group);
	CompactCandidate *last = llast(group);
	Segment		merged = first->segment;

	if (OidIsValid(new_relid))
		swap_files(first->segment.relid, new_relid);
	if (list_length(group) > 1)
	{
		drop_merged(group, &turn->state->id);
		merged.end_offset = last->segment.end_offset;
		topics_segment_set_bounds(turn->partition_relid, &merged);
	}
}

/* Note in the catalogue what segment a group has become. */
static void
note_replaced(const CompactTurn *turn, List *group)
{
	CompactCandidate *first = linitial(group);
	CompactCandidate *last = llast(group);
	TimestampTz sealed_at = 0;
	TimestampTz tombstones_from = 0;
	bool		tombstones = false;
	ListCell   *lc;

	foreach(lc, group)
	{
		CompactCandidate *candidate = lfirst(lc);

		sealed_at = Max(sealed_at, candidate->sealed_at);
		tombstones |= candidate->tombstones;
		if (candidate->tombstones)
			tombstones_from = Max(tombstones_from, candidate->tombstones_from);
	}
	if (tombstones_from == 0 && last->segment.end_offset <= turn->run->mapped)
		tombstones_from = GetCurrentTimestamp();
	topics_segment_row_update(&turn->state->id, first->segment.base_offset, sealed_at,
							  tombstones ? tombstones_from : 0);
}

/*
 * Return true if a group's first segment is as it should be already, and the
 * others are empty.  Then it only needs their bounds.
 */
static bool
first_has_everything(const SegmentGroup *group)
{
	const CompactCandidate *first = linitial(group->candidates);

	return count_dead(first) == 0 && group->live == guess_live_bytes(first);
}

/* Replace a group of segments.  Return false if locks are in the way. */
static bool
replace_group(const CompactTurn *turn, const SegmentGroup *group)
{
	Oid			new_relid = InvalidOid;
	OwnerScope	scope;
	bool		done = true;

	if (group->dead > 0 || list_length(group->candidates) > 1)
	{
		if (!group_is_free(turn->partition_relid, group->candidates))
			return false;
		scope = topics_extension_become_owner();
		if (!first_has_everything(group))
			new_relid = copy_group(turn, group->candidates);
		TEST_POINT("compact-copied");
		done = lock_group(turn->partition_relid, group->candidates);
		if (done)
		{
			swap_group(turn, group->candidates, new_relid);
			TEST_POINT("compact-swapped");
		}
		else if (OidIsValid(new_relid))
		{
			ObjectAddress object = {RelationRelationId, new_relid, 0};

			performDeletion(&object, DROP_RESTRICT, 0);
		}
		topics_extension_become_caller(scope);
	}
	if (done)
		note_replaced(turn, group->candidates);
	return done;
}

/* ----------------------------------------------------------------
 *		Turns
 * ----------------------------------------------------------------
 */

/* End the run, in the catalogue too.  If it did anything, look again at once. */
static CompactResult
finish_run(PartitionState *state)
{
	bool		moved = run->mapped > run->clean_offset;
	CompactResult result = moved || run->expired ? COMPACT_MORE : COMPACT_DONE;

	if (moved)
		topics_log_start_raise_clean_offset(&state->id, run->mapped);
	end_run();
	return result;
}

/* Map a segment.  At the end, see whether there is anything to do with the map. */
static CompactResult
take_map_turn(Relation partition_rel, PartitionState *state, const TopicSettings *settings)
{
	if (map_segment(partition_rel, state, settings))
		return COMPACT_MORE;
	if (run->mapped == run->clean_offset && !run->expired)
		return finish_run(state);
	run->mapping = false;
	run->next = 0;
	topics_log_start_raise_floor(&state->id, run->mapped);
	TEST_POINT("compact-mapped");
	return COMPACT_MORE;
}

/* Replace the next group; closes the partition's table. */
static CompactResult
take_copy_turn(Relation partition_rel, PartitionState *state, const TopicSettings *settings)
{
	CompactTurn turn = {
		.run = run,
		.settings = settings,
		.state = state,
		.partition_relid = RelationGetRelid(partition_rel),
		.log_start = topics_log_start(partition_rel, state)
	};
	bool		busy;
	SegmentGroup group = choose_group(&turn, partition_rel, &busy);

	/* dropping wants the table unused by its own session */
	table_close(partition_rel, NoLock);
	if (busy || (group.candidates != NIL && !replace_group(&turn, &group)))
	{
		run->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), RETRY_MS);
		return COMPACT_LATER;
	}
	if (group.candidates == NIL)
		return finish_run(state);
	run->next = ((CompactCandidate *) llast(group.candidates))->segment.end_offset;
	return COMPACT_MORE;
}

/*
 * End the run if its topic has gone, or is not to be compacted any more; or, if
 * "later" is set, not before some time, since it has failed, or was done by hand.
 * It would keep others waiting.  In a transaction.
 */
void
topics_compact_check(bool later)
{
	PartitionState *state;
	Topic	   *topic;

	if (run == NULL)
		return;
	state = topics_partition_state_find(&run->id);
	topic = topics_catalog_by_id(run->id.topic_id);
	if (state == NULL || topic == NULL || !topic->settings.compact ||
		(later && !topics_compact_is_wanted(&topic->settings, state) &&
		 state->compact_at > GetCurrentTimestamp()))
		end_run();
}

/*
 * A turn of compaction, in the caller's transaction.  Where it fails, or
 * nothing is to be done, compact_at says when to look again.
 */
CompactResult
topics_compact_turn(Topic *topic, Oid partition_relid, PartitionState *state)
{
	const TopicSettings settings = topic->settings;
	Oid			root_relid = topic->root_relid;
	Relation	rel;
	CompactResult result;

	topics_compact_check(false);
	look_again_in(state, LOOK_AGAIN_MS);
	/* one run at a time */
	if (run != NULL && (!run_is_for(state) || run->not_before > GetCurrentTimestamp()))
		return COMPACT_LATER;

	rel = table_open(partition_relid, AccessShareLock);
	topics_pace_begin(root_relid, partition_relid);
	if (run == NULL && !begin_run(rel, state, &settings))
		result = COMPACT_DONE;
	else if (run->mapping)
		result = take_map_turn(rel, state, &settings);
	else
		return take_copy_turn(rel, state, &settings);
	table_close(rel, NoLock);
	return result;
}

/* End the run, if there is one. */
void
topics_compact_abandon(void)
{
	if (run != NULL)
		end_run();
}
