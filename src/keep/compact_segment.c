/*-------------------------------------------------------------------------
 *
 * compact_segment.c
 *		The segments that compaction replaces: which there are, what of them
 *		stays, and how the new one comes in their place.
 *
 * compact.c has the design: why a segment keeps its table and gets new files,
 * which locks that takes, and what is not written anew.
 *
 * See docs/decisions/0009-compaction.md.
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
#include "catalog/pg_am_d.h"
#include "catalog/pg_class.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "keep/keep.h"
#include "pg_topics.h"

#define COPY_BATCH_ROWS 1000
#define COPY_BATCH_BYTES (1024 * 1024)
#define REINDEX_BLOCKS 1024		/* a smaller table's index is built in the
								 * swap */
#define MAX_GROUP 4				/* times segment_bytes are read at most, to
								 * merge */
#define MERGE_SHARE 4			/* a segment is not written anew to be merged
								 * with what has less than this part of its
								 * size */

/* ----------------------------------------------------------------
 *		Candidates
 * ----------------------------------------------------------------
 */

/*
 * List the sealed segments from the log start on that have all of their
 * records, and of these, those with an offset in from .. below-1.
 */
List *
topics_compact_segment_list(const Partition *partition, int64 from, int64 below)
{
	const TopicPartition *id = &partition->state->id;
	int64		start = topics_log_start(partition->state);
	int64		end = topics_log_end(partition, NULL);
	int			count;
	Segment    *segments = topics_segment_list(partition->rel, &count);
	List	   *result = NIL;

	for (int i = 0; i < count && segments[i].end_offset <= end && segments[i].base_offset < below; i++)
	{
		CompactCandidate *candidate;
		TimestampTz sealed_at;
		TimestampTz tombstones_from;

		if (segments[i].end_offset <= start || segments[i].end_offset <= from)
			continue;
		if (!topics_segment_row_read(id, segments[i].base_offset, &sealed_at, &tombstones_from))
			break;				/* not sealed yet, or a restore has not filled
								 * it */
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
bool
topics_compact_segment_tombstones_expired(const CompactCandidate *candidate,
										  const TopicSettings *settings)
{
	return candidate->tombstones_from != 0 &&
		candidate->tombstones_from <= topics_clock_ago(settings->delete_retention_ms);
}

/* ----------------------------------------------------------------
 *		Their rows
 * ----------------------------------------------------------------
 */

/* Begin a scan of all of a segment, in order, that hides nothing. */
TableScanDesc
topics_compact_segment_begin_scan(Relation rel, Snapshot snapshot)
{
	ItemPointerData first;
	ItemPointerData last;

	ItemPointerSet(&first, 0, FirstOffsetNumber);
	ItemPointerSet(&last, MaxBlockNumber, MaxOffsetNumber);
	return topics_log_am_begin_tidrange(rel, snapshot, &first, &last);
}

/* Get the next row of such a scan, at the pace of this process. */
bool
topics_compact_segment_next_row(TableScanDesc scan, TupleTableSlot *slot)
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

/* Return true if a record has a key; *hash is the key's. */
bool
topics_compact_segment_hash_key(const CompactRun *run, TupleTableSlot *slot, KeyHash *hash)
{
	bool		isnull;
	Datum		key = slot_getattr(slot, Anum_log_key, &isnull);

	/* from before the policy had "compact": it stays */
	if (isnull)
		return false;
	*hash = topics_offset_map_hash(run->map,
								   TupleDescAttr(slot->tts_tupleDescriptor, Anum_log_key - 1), key);
	return true;
}

/* ----------------------------------------------------------------
 *		Copy
 * ----------------------------------------------------------------
 */

/*
 * Return true if a candidate's tombstones go in this turn.  While a snapshot
 * sees an older log start they do not: it may also see the records that they
 * delete, in segments below the published one, which nobody compacts any more.
 */
static bool
tombstones_go(const CompactTurn *turn, const CompactCandidate *candidate)
{
	return turn->lowest_start >= turn->log_start &&
		topics_compact_segment_tombstones_expired(candidate, turn->settings);
}

/*
 * Return true if a record of a candidate stays; *tombstone says what it is
 * then.
 */
static bool
record_stays(const CompactTurn *turn, TupleTableSlot *slot, bool drop_tombstones, bool *tombstone)
{
	const CompactRun *run = turn->run;
	int64		offset = topics_log_get_offset(slot);
	KeyHash		hash;
	bool		value_isnull;

	*tombstone = false;
	/* some snapshot may see what lies between the two */
	if (offset < turn->log_start)
		return offset >= turn->lowest_start;
	if (!topics_compact_segment_hash_key(run, slot, &hash))
		return true;
	if (offset < run->mapped && topics_offset_map_get(run->map, &hash) > offset)
		return false;
	/* what is above the map counts, too: it has the segment's age later */
	(void) slot_getattr(slot, Anum_log_value, &value_isnull);
	*tombstone = value_isnull;
	return !value_isnull || !drop_tombstones || offset >= run->clean_offset;
}

/*
 * Lock a candidate against all that change segments or rows, without waiting,
 * and see whether it still is what was listed.
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
count_row_bytes(TupleTableSlot *slot, const HeapTuple tuple)
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
	topics_pace_account(count_row_bytes(slot, tuple));
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
	TableScanDesc scan = topics_compact_segment_begin_scan(rel, snapshot);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	bool		drop_tombstones = tombstones_go(turn, candidate);

	topics_pace_note_locked(RelationGetRelid(rel));
	while (topics_compact_segment_next_row(scan, slot))
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
 * Find out what of a candidate stays.  It was read for that already if it did
 * not go with the last group: what was counted then may be off by what another
 * process has done meanwhile, which does no harm.
 *
 * It is not read where the catalogue knows: of a segment that is clean to its
 * end, whether it has tombstones.  Of one that is clean in part nobody knows.
 */
static void
count_records(const CompactTurn *turn, CompactCandidate *candidate)
{
	const CompactCandidate *before = &turn->run->counted;

	if (before->counted && before->bytes == candidate->bytes &&
		before->segment.relid == candidate->segment.relid &&
		before->segment.end_offset == candidate->segment.end_offset)
	{
		candidate->counted = true;
		candidate->records = before->records;
		candidate->live = before->live;
		candidate->tombstones = before->tombstones;
	}
	else if (topics_offset_map_is_empty(turn->run->map) &&
			 candidate->segment.end_offset <= turn->run->clean_offset &&
			 !tombstones_go(turn, candidate) &&
			 turn->lowest_start <= candidate->segment.base_offset)
		candidate->tombstones = candidate->tombstones_from != 0;
	else
		read_candidate(turn, candidate, NULL);
}

static int64
count_dead_records(const CompactCandidate *candidate)
{
	return candidate->records - candidate->live;
}

/* Guess the bytes on disk of what stays. */
static int64
guess_live_bytes(const CompactCandidate *candidate)
{
	if (count_dead_records(candidate) == 0)
		return candidate->counted && candidate->records == 0 ? 0 : candidate->bytes;
	return (int64) ((double) candidate->bytes * candidate->live / candidate->records);
}

/*
 * Return true if a candidate that was counted is to be merged into a group.
 *
 * Neighbours of different ages of tombstones are not: that would make some of
 * these younger, so that they never went, or older.  Nor is a segment from
 * which nothing goes written anew for the sake of a small one; that waits
 * until more of its kind have come.
 */
static bool
candidate_belongs(const SegmentGroup *group, const CompactCandidate *candidate,
				  const TopicSettings *settings)
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
		 (count_dead_records(candidate) > 0 || live <= MERGE_SHARE * group->live));
}

/*
 * Choose the next segments to be replaced by one; they are locked and counted.
 * There are none if none is left.  *busy is set if another process has the
 * next one.
 */
SegmentGroup
topics_compact_segment_choose(const CompactTurn *turn, bool *busy)
{
	const TopicSettings *settings = turn->settings;
	List	   *candidates = topics_compact_segment_list(turn->partition, turn->run->next,
														 turn->run->mapped);
	SegmentGroup group = {NIL};
	ListCell   *lc;

	*busy = false;
	foreach(lc, candidates)
	{
		CompactCandidate *candidate = lfirst(lc);

		if (group.candidates != NIL &&
			(group.read + candidate->bytes) / MAX_GROUP > settings->segment_bytes)
			break;
		if (!lock_candidate(turn->partition->rel, &candidate->segment))
		{
			*busy = group.candidates == NIL;
			turn->run->blocked = candidate->segment.relid;
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
		group.dead += count_dead_records(candidate);
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
 * Return true if no other process has a lock that would keep us from swapping;
 * else run->blocked is the table.
 * This is asked before the work is done that needs the locks.
 */
static bool
group_is_free(const CompactTurn *turn, List *group)
{
	ListCell   *lc;

	foreach(lc, group)
	{
		turn->run->blocked = ((CompactCandidate *) lfirst(lc))->segment.relid;
		if (!topics_retention_lock_is_free(turn->run->blocked))
			return false;
	}
	turn->run->blocked = turn->partition->relid;
	return list_length(group) == 1 || topics_retention_lock_is_free(turn->run->blocked);
}

static bool
lock_group(const CompactTurn *turn, List *group)
{
	ListCell   *lc;

	turn->run->blocked = turn->partition->relid;
	if (list_length(group) > 1 && !topics_retention_lock(turn->run->blocked))
		return false;
	foreach(lc, group)
	{
		turn->run->blocked = ((CompactCandidate *) lfirst(lc))->segment.relid;
		if (!topics_retention_lock(turn->run->blocked))
			return false;
	}
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
 * sealed anew: the swap would do it under its lock.  Return false if there is
 * none.
 */
static bool
drop_own_indexes(Oid relid)
{
	Relation	rel;
	List	   *indexes;
	ListCell   *lc;
	bool		dropped = false;

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
		dropped |= ours;
	}
	CommandCounterIncrement();
	return dropped;
}

/* Put the new table's files in the place of a segment's. */
static void
swap_files(PartitionState *state, Oid relid, Oid new_relid)
{
	Relation	new_rel = table_open(new_relid, AccessExclusiveLock);
	TransactionId frozen_xid = new_rel->rd_rel->relfrozenxid;
	MultiXactId min_multi = new_rel->rd_rel->relminmxid;
	char		persistence = new_rel->rd_rel->relpersistence;
	BlockNumber nblocks = RelationGetNumberOfBlocks(new_rel);

	table_close(new_rel, NoLock);
	if (nblocks >= REINDEX_BLOCKS && drop_own_indexes(relid))
		topics_compact_note_unsealed(state);
	topics_finish_heap_swap(relid, new_relid, frozen_xid, min_multi, persistence);
	CommandCounterIncrement();
}

/*
 * Put the new table, if there is one, and the bounds of all in the place of a
 * group.
 */
static void
swap_group(const CompactTurn *turn, List *group, Oid new_relid)
{
	CompactCandidate *first = linitial(group);
	CompactCandidate *last = llast(group);
	Segment		merged = first->segment;

	if (OidIsValid(new_relid))
		swap_files(turn->partition->state, first->segment.relid, new_relid);
	if (list_length(group) > 1)
	{
		drop_merged(group, &turn->partition->state->id);
		merged.end_offset = last->segment.end_offset;
		topics_segment_set_bounds(turn->partition->relid, &merged);
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
	int64		tombstones_below = 0;
	bool		tombstones = false;
	ListCell   *lc;

	foreach(lc, group)
	{
		CompactCandidate *candidate = lfirst(lc);

		/* a follower that has not come so far will not hear of them */
		if (tombstones_go(turn, candidate))
			tombstones_below = Max(tombstones_below,
								   Min(candidate->segment.end_offset, turn->run->clean_offset));
		sealed_at = Max(sealed_at, candidate->sealed_at);
		tombstones |= candidate->tombstones;
		if (candidate->tombstones)
			tombstones_from = Max(tombstones_from, candidate->tombstones_from);
	}
	if (tombstones_from == 0 && last->segment.end_offset <= turn->run->mapped)
		tombstones_from = GetCurrentTimestamp();
	topics_segment_row_update(&turn->partition->state->id, first->segment.base_offset, sealed_at,
							  tombstones ? tombstones_from : 0);
	if (tombstones_below > 0)
		topics_log_start_note_tombstones(&turn->partition->state->id, tombstones_below);
}

/*
 * Return true if a group's first segment is as it should be already, and the
 * others are empty.  Then it only needs their bounds.
 */
static bool
first_has_everything(const SegmentGroup *group)
{
	const CompactCandidate *first = linitial(group->candidates);

	return count_dead_records(first) == 0 && group->live == guess_live_bytes(first);
}

/* Replace a group of segments.  Return false if locks are in the way. */
bool
topics_compact_segment_replace(const CompactTurn *turn, const SegmentGroup *group)
{
	Oid			new_relid = InvalidOid;
	OwnerScope	scope;
	bool		done = true;

	if (group->dead > 0 || list_length(group->candidates) > 1)
	{
		if (!group_is_free(turn, group->candidates))
			return false;
		scope = topics_extension_become_owner();
		if (!first_has_everything(group))
			new_relid = copy_group(turn, group->candidates);
		TEST_POINT("compact-copied");
		done = lock_group(turn, group->candidates);
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
