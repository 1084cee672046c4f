/*-------------------------------------------------------------------------
 *
 * log.c
 *		The log of one partition: append, seek, read.
 *
 * Physical order is offset order (log_am.c), so an offset is found without an
 * index: by a search over the blocks of its segment, in which each probe reads
 * the first visible record at or after a block.  Offsets are dense and records
 * of a segment are of similar size, so the search interpolates, and falls back
 * to halving when a guess was bad.
 *
 * The search sees what is committed when it looks (SnapshotSelf).  With the
 * caller's snapshot, which may be old, a probe into the part that it does not
 * see would run to the end of the segment.  What is found is right for the
 * caller all the same: a record's place does not depend on the snapshot, and
 * the records that the caller sees are a prefix of those that the search sees;
 * what is committed while the search goes on lies behind them.  (The search
 * needs no snapshot to be taken either, which a parallel worker may not do, and
 * looks at one row of a block rather than all.)
 *
 * Probes can meet rows of aborted transactions, which say nothing reliable
 * about the offsets around them: the offsets are used again further on.  Such
 * rows are skipped, so a probe costs as much as there are dead rows behind its
 * block.
 *
 * See docs/decisions/0003-no-index.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/table.h"
#include "access/tableam.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/itemptr.h"
#include "storage/lmgr.h"
#include "storage/predicate.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "pg_topics.h"

/* A reader of offsets from "next" to "upto" - 1, across segments. */
struct LogReader
{
	Relation	partition_rel;
	Snapshot	snapshot;
	int64		next;			/* the next offset to be returned is not below */
	int64		upto;
	Relation	segment_rel;	/* NULL between segments */
	Segment		segment;
	TableScanDesc scan;
	TupleTableSlot *slot;
	LOCKMODE	lock_to_release;	/* on a segment when it is left, or NoLock */
	int64		last_offset;	/* last record returned of this segment, or -1 */
	BlockNumber last_block;
};

/*
 * Where readers of this session stopped: the block that holds "offset" or
 * begins just behind it.  One place per segment, with the file that it is
 * about, since VACUUM FULL moves rows.
 */
typedef struct SeekMemory
{
	Oid			relid;			/* hash key */
	RelFileLocator locator;
	int64		offset;
	BlockNumber block;
} SeekMemory;

static HTAB *seek_memories = NULL;

/* A search is near enough to its target when so many blocks are left. */
#define NEAR_BLOCKS 1.5

/* Every so many probes, a search halves rather than interpolates. */
#define HALVE_EVERY 3

/* A probe is lower than interpolated, so that it becomes *low, not *high. */
#define LOW_BIAS_BLOCKS 0.5

/* ----------------------------------------------------------------
 *		Seek
 * ----------------------------------------------------------------
 */

/* Recall where a reader of this session stopped, or NULL. */
static SeekMemory *
recall_place(Relation rel)
{
	Oid			relid = RelationGetRelid(rel);
	SeekMemory *memory;

	if (seek_memories == NULL)
		return NULL;
	memory = hash_search(seek_memories, &relid, HASH_FIND, NULL);
	if (memory && !RelFileLocatorEquals(memory->locator, rel->rd_locator))
		return NULL;
	return memory;
}

/* Remember the block of the record with this offset, which our caller sees. */
void
topics_log_seek_remember(Relation rel, int64 offset, BlockNumber block)
{
	bool		found;
	SeekMemory *memory = topics_relation_memory_enter(&seek_memories, sizeof(SeekMemory),
													  RelationGetRelid(rel), &found);

	memory->locator = rel->rd_locator;
	memory->offset = offset;
	memory->block = block;
}

/* Scan the blocks from "low" to "high" - 1; *scan is made or reused. */
void
topics_log_scan_blocks(Relation rel, Snapshot snapshot, TableScanDesc *scan,
					   BlockNumber low, BlockNumber high)
{
	ItemPointerData mintid;
	ItemPointerData maxtid;

	ItemPointerSet(&mintid, low, FirstOffsetNumber);
	ItemPointerSet(&maxtid, high - 1, MaxOffsetNumber);
	if (*scan == NULL)
		*scan = topics_log_am_begin_tidrange(rel, snapshot, &mintid, &maxtid);
	else
		table_rescan_tidrange(*scan, &mintid, &maxtid);
}

/*
 * Guess where the end of a segment is, for interpolation: about *offset stands
 * at about *block.  It is only a hint, since it is read without a lock, and a
 * commit that is under way may have added blocks that are not counted.
 */
static void
guess_end(Relation rel, const Segment *segment, BlockNumber nblocks,
		  BlockNumber *block, int64 *offset)
{
	PartitionState *state = topics_log_am_state(rel);
	int64		next_offset = state ? pg_atomic_read_u64(&state->next_offset) : UNKNOWN_OFFSET;

	*block = nblocks;
	*offset = -1;
	if (next_offset == UNKNOWN_OFFSET)
		return;
	*offset = Min(next_offset, segment->end_offset);
	if (next_offset < segment->end_offset && state->active_base == segment->base_offset)
		*block = Min(nblocks, state->active_blocks);
}

/*
 * Narrow *low and *high, which are right already.
 *
 * Invariant: every visible record in blocks below *low is below the target,
 * and the first visible record from *high on is at or above it.  With
 * "exactly" the search ends when nothing is between them, or when the target
 * itself was found; else also where another probe would cost more than to
 * read from *low.  "low_offset" is about that of the first record at *low.
 * Return the number of probes.
 */
static int
search_blocks(Relation rel, const Segment *segment, int64 target, bool exactly,
			  int64 low_offset, BlockNumber *low, BlockNumber *high)
{
	TableScanDesc scan = NULL;
	TupleTableSlot *slot = NULL;
	BlockNumber guess_block = *high;
	int64		guess_offset = -1;
	int			probes = 0;

	if (*high - *low > 1)
		guess_end(rel, segment, *high, &guess_block, &guess_offset);
	while (*high - *low > 1)
	{
		BlockNumber probe = *low + (*high - *low) / 2;
		int64		offset;

		/* interpolate, a little low, and halve now and then */
		if (guess_offset > low_offset && guess_block > *low)
		{
			double		blocks = (double) (target - low_offset) * (guess_block - *low) /
				(double) (guess_offset - low_offset);

			if (!exactly && blocks < NEAR_BLOCKS)
				break;
			if (probes % HALVE_EVERY != HALVE_EVERY - 1)
			{
				blocks = Min(Max(blocks - LOW_BIAS_BLOCKS, 1), (double) (*high - *low - 1));
				probe = *low + (BlockNumber) blocks;
			}
		}

		if (slot == NULL)
			slot = table_slot_create(rel, NULL);
		topics_log_scan_blocks(rel, SnapshotSelf, &scan, probe, *high);
		probes++;
		if (!table_scan_getnextslot_tidrange(scan, ForwardScanDirection, slot))
		{
			*high = probe;		/* nothing visible from the probe to *high */
			guess_block = Min(guess_block, probe);
			continue;
		}
		offset = topics_log_get_offset(slot);
		if (offset > target)
		{
			guess_block = *high = probe;
			guess_offset = offset;
			continue;
		}
		*low = ItemPointerGetBlockNumber(&slot->tts_tid);
		low_offset = offset;
		if (offset == target)
		{
			*high = *low;		/* it is the first in its block that counts */
			break;
		}
	}
	if (scan)
	{
		table_endscan(scan);
		ExecDropSingleTupleTableSlot(slot);
	}
	return probes;
}

/*
 * Find a block from which a scan forward meets the record with offset "target"
 * before any higher one: the highest that can be found cheaply.  *probes is
 * set to the number of probes that it took.
 */
BlockNumber
topics_log_seek(Relation rel, const Segment *segment, int64 target, int *probes)
{
	SeekMemory *memory = recall_place(rel);
	BlockNumber low = 0;
	BlockNumber high;
	int64		low_offset = segment->base_offset;

	*probes = 0;
	if (target <= segment->base_offset)
		return 0;
	if (memory && memory->offset <= target)
	{
		/* right where we stopped, or it is a good lower bound */
		if (target - memory->offset <= 1)
			return memory->block;
		low = memory->block;
		low_offset = memory->offset;
	}
	high = RelationGetNumberOfBlocks(rel);
	*probes = search_blocks(rel, segment, target, false, low_offset, &low, &high);
	return low;
}

/*
 * Find the lowest block such that no record below "target" stands in it or
 * behind it.  A scan backward that wants the records below the target begins
 * one block before.
 */
BlockNumber
topics_log_seek_end(Relation rel, const Segment *segment, int64 target, int *probes)
{
	BlockNumber low = 0;
	BlockNumber high = RelationGetNumberOfBlocks(rel);

	*probes = 0;
	if (target < segment->end_offset)
		*probes = search_blocks(rel, segment, target, true, segment->base_offset, &low, &high);
	return high;
}

/* ----------------------------------------------------------------
 *		Errors
 * ----------------------------------------------------------------
 */

/* errdetail() of all that is out of range, with Kafka's name of the error. */
int
topics_log_range_detail(int64 start, int64 end)
{
	return errdetail("OFFSET_OUT_OF_RANGE: the log starts at offset " INT64_FORMAT " and ends at offset " INT64_FORMAT ".",
					 start, end);
}

/* Raise TP001 for an offset that is not in the log; "hint" may be NULL. */
void
topics_log_report_out_of_range(const char *topic, int32 partition, int64 offset,
							   int64 start, int64 end, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_OFFSET_OUT_OF_RANGE),
			 errmsg("offset " INT64_FORMAT " is out of range for partition %d of topic \"%s\"",
					offset, partition, topic),
			 topics_log_range_detail(start, end),
			 hint ? errhint("%s", hint) : 0));
}

/* ----------------------------------------------------------------
 *		Append
 * ----------------------------------------------------------------
 */

/* Get the offset that a tuple of a log table was formed with. */
int64
topics_log_tuple_offset(const HeapTupleData *tuple)
{
	return *(const int64 *) ((const char *) tuple->t_data + tuple->t_data->t_hoff);
}

/* The same, of its timestamp. */
TimestampTz
topics_log_tuple_timestamp(const HeapTupleData *tuple)
{
	return *(const TimestampTz *) ((const char *) tuple->t_data + tuple->t_data->t_hoff + sizeof(int64));
}

/*
 * Get the size in bytes of a key, a value or headers, in their own type; a
 * value elsewhere is not fetched.
 */
int64
topics_log_value_bytes(Datum value, bool isnull, int typlen)
{
	if (isnull)
		return 0;
	if (typlen == -1)
		return toast_raw_datum_size(value) - VARHDRSZ;
	if (typlen == -2)
		return strlen(DatumGetCString(value));
	return typlen;
}

/*
 * Give tuples that were formed with offset and timestamp 0 their offsets, or
 * leave them GIVEN_OFFSETS, and append them.  With append_time not 0, it is
 * their timestamp too.  The caller holds the append lock and ROW EXCLUSIVE on
 * the segment, which has room for them.  "slots" are as many slots for heap
 * tuples.  "last_block" is that of the segment's last record if the caller
 * knows, or invalid.
 */
void
topics_log_append(Relation segment_rel, TupleTableSlot **slots, HeapTupleData *tuples,
				  int ntuples, int64 first_offset, TimestampTz append_time, CommandId cid,
				  BlockNumber last_block)
{
	TableInsertOptions options = TOPIC_LOG_APPEND;

	for (int i = 0; i < ntuples; i++)
	{
		char	   *data = (char *) tuples[i].t_data + tuples[i].t_data->t_hoff;

		/* NOT NULL int8 and timestamptz in front: fixed places */
		if (first_offset != GIVEN_OFFSETS)
			*(int64 *) data = first_offset + i;
		if (append_time != 0)
			*(TimestampTz *) (data + sizeof(int64)) = append_time;
		ExecStoreHeapTuple(&tuples[i], slots[i], false);
	}
	if (last_block != InvalidBlockNumber)
	{
		RelationSetTargetBlock(segment_rel, last_block);
		options |= TOPIC_LOG_AIMED;
	}
	table_multi_insert(segment_rel, slots, ntuples, cid, options, NULL);
}

/* ----------------------------------------------------------------
 *		Read
 * ----------------------------------------------------------------
 */

/*
 * Read the records from offset "from" to "upto" - 1 that a snapshot sees, in
 * order.  The partition's table stays open in the caller's hands, with a
 * lock; segments are locked ACCESS SHARE, with keep_locks until the end of
 * the transaction, so that out-of-line values of records stay readable.
 */
LogReader *
topics_log_reader_open(Relation partition_rel, int64 from, int64 upto, Snapshot snapshot,
					   bool keep_locks)
{
	LogReader  *reader = palloc0(sizeof(LogReader));

	/* also where there is no segment to read: that, too, was read */
	PredicateLockRelation(partition_rel, snapshot);
	reader->partition_rel = partition_rel;
	reader->snapshot = snapshot;
	reader->lock_to_release = keep_locks ? NoLock : AccessShareLock;
	reader->next = from;
	reader->upto = upto;
	return reader;
}

static void
leave_segment(LogReader *reader)
{
	if (reader->last_offset >= 0)
		topics_log_seek_remember(reader->segment_rel, reader->last_offset, reader->last_block);
	table_endscan(reader->scan);
	ExecDropSingleTupleTableSlot(reader->slot);
	table_close(reader->segment_rel, reader->lock_to_release);
	reader->segment_rel = NULL;
}

/* Open the next segment that has rows.  Return false if there is none. */
static bool
enter_next_segment(LogReader *reader)
{
	BlockNumber nblocks;

	while (reader->next < reader->upto &&
		   topics_segment_find_next(reader->partition_rel, reader->next, &reader->segment))
	{
		reader->segment_rel = table_open(reader->segment.relid, AccessShareLock);
		nblocks = RelationGetNumberOfBlocks(reader->segment_rel);
		if (nblocks > 0)
		{
			int			probes;
			BlockNumber block = topics_log_seek(reader->segment_rel, &reader->segment,
												reader->next, &probes);

			reader->slot = table_slot_create(reader->segment_rel, NULL);
			reader->scan = NULL;
			reader->last_offset = -1;
			topics_log_scan_blocks(reader->segment_rel, reader->snapshot, &reader->scan, block,
								   Max(nblocks, block + 1));
			return true;
		}
		table_close(reader->segment_rel, reader->lock_to_release);
		reader->segment_rel = NULL;
		reader->next = Max(reader->next, reader->segment.end_offset);
	}
	return false;
}

/* Read the next record, in a slot that is good until the next call, or NULL. */
TupleTableSlot *
topics_log_reader_next(LogReader *reader)
{
	for (;;)
	{
		if (reader->segment_rel == NULL && !enter_next_segment(reader))
			return NULL;

		while (table_scan_getnextslot_tidrange(reader->scan, ForwardScanDirection, reader->slot))
		{
			int64		offset = topics_log_get_offset(reader->slot);

			if (offset < reader->next)
				continue;
			if (offset >= reader->upto)
				return NULL;
			reader->next = offset + 1;
			reader->last_offset = offset;
			reader->last_block = ItemPointerGetBlockNumber(&reader->slot->tts_tid);
			return reader->slot;
		}

		leave_segment(reader);
		reader->next = Max(reader->next, reader->segment.end_offset);
	}
}

void
topics_log_reader_close(LogReader *reader)
{
	if (reader->segment_rel)
		leave_segment(reader);
	pfree(reader);
}

/*
 * Find the timestamp of the first record from "from" to "upto" - 1 that a
 * snapshot sees.  Return false if there is none.
 */
bool
topics_log_find_timestamp(Relation partition_rel, int64 from, int64 upto, Snapshot snapshot,
						  TimestampTz *timestamp)
{
	LogReader  *reader;
	TupleTableSlot *slot;
	bool		isnull;

	if (from >= upto)
		return false;
	reader = topics_log_reader_open(partition_rel, from, upto, snapshot, false);
	slot = topics_log_reader_next(reader);
	if (slot)
		*timestamp = DatumGetTimestampTz(slot_getattr(slot, Anum_log_timestamp, &isnull));
	topics_log_reader_close(reader);
	return slot != NULL;
}

/*
 * Find the offset of the first record from "from" to "upto" - 1 that a snapshot
 * sees, or "upto".
 */
int64
topics_log_find_first(Relation partition_rel, int64 from, int64 upto, Snapshot snapshot)
{
	LogReader  *reader = topics_log_reader_open(partition_rel, from, upto, snapshot, false);
	TupleTableSlot *slot = topics_log_reader_next(reader);
	int64		result = slot ? topics_log_get_offset(slot) : upto;

	topics_log_reader_close(reader);
	return result;
}
