/*-------------------------------------------------------------------------
 *
 * log.c
 *		The log of one partition: append, seek, read, and its two ends.
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
 * THE LOG END (next_offset) is in shared memory while there are producers.  It
 * is looked up in the log after a restart and after a foreign writer's
 * commit, under the append lock and with a fresh snapshot: every producer
 * publishes before it releases the lock, so whatever was committed is seen.
 * During recovery it is looked up every time, since the replayed commits
 * publish nothing.
 *
 * HOW FAR ONE READS is another question, which topics_log_end answers for every
 * function that reads by offset: up to what its snapshot sees.  Shared memory
 * tells, as long as the snapshot sees the last commit; otherwise the log is
 * searched for the last record that it sees.  Synchronous standbys are a second
 * limit (read_cut.c).
 *
 * See docs/decisions/0003-no-index.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "catalog/namespace.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/itemptr.h"
#include "storage/lmgr.h"
#include "storage/predicate.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
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
static void
scan_blocks(Relation rel, Snapshot snapshot, TableScanDesc *scan, BlockNumber low, BlockNumber high)
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
		scan_blocks(rel, SnapshotSelf, &scan, probe, *high);
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
 *		The ends
 * ----------------------------------------------------------------
 */

/*
 * Find the last block of a segment that has a record which a snapshot sees, or
 * a lower one with nothing visible in between.  What the snapshot sees is a
 * prefix of what is committed.  So the search goes down from the end, in ever
 * longer steps, to a block whose next committed record is seen.
 */
static BlockNumber
find_last_seen_block(Relation rel, Snapshot snapshot, TupleTableSlot *slot, BlockNumber nblocks)
{
	TableScanDesc scan = NULL;
	BlockNumber low = 0;		/* its next committed record is seen, or 0 */
	BlockNumber high = nblocks; /* that of this block is not */
	BlockNumber step = 1;

	while (high - low > 1)
	{
		BlockNumber probe = low > 0 || step >= high ? low + (high - low) / 2 : high - step;

		step *= 2;
		scan_blocks(rel, SnapshotSelf, &scan, probe, high);
		if (table_scan_getnextslot_tidrange(scan, ForwardScanDirection, slot) &&
			table_tuple_satisfies_snapshot(rel, slot, snapshot))
			low = ItemPointerGetBlockNumber(&slot->tts_tid);
		else
			high = probe;
	}
	if (scan)
		table_endscan(scan);
	return low;
}

/* Find the last record of a segment that a snapshot sees. */
static bool
find_last_in_segment(Oid relid, Snapshot snapshot, int64 *offset, TimestampTz *timestamp)
{
	Relation	rel = table_open(relid, AccessShareLock);
	BlockNumber nblocks = RelationGetNumberOfBlocks(rel);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = NULL;
	bool		found = false;

	if (nblocks > 0)
	{
		BlockNumber block = find_last_seen_block(rel, snapshot, slot, nblocks);

		scan_blocks(rel, snapshot, &scan, block, nblocks);
		while (table_scan_getnextslot_tidrange(scan, ForwardScanDirection, slot))
		{
			bool		isnull;

			found = true;
			*offset = topics_log_get_offset(slot);
			*timestamp = DatumGetTimestampTz(slot_getattr(slot, Anum_log_timestamp, &isnull));
		}
		table_endscan(scan);
	}
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, AccessShareLock);
	return found;
}

/* Find the last record of the log that a snapshot sees. */
static bool
find_last_record(Relation partition_rel, Snapshot snapshot,
				 int64 *offset, TimestampTz *timestamp)
{
	int			count;
	Segment    *segments = topics_segment_list(partition_rel, &count);
	bool		found = false;

	for (int i = count - 1; i >= 0 && !found; i--)
		found = find_last_in_segment(segments[i].relid, snapshot, offset, timestamp);
	pfree(segments);
	return found;
}

/* What is found in the log about its end. */
typedef struct FoundEnd
{
	int64		end;
	int64		floor;			/* what the catalogue says of it */
	TimestampTz last_timestamp; /* of the last record, or 0 */
	bool		complete;		/* the catalogue has a row for the partition,
								 * and the log all that there was by the row */
} FoundEnd;

/*
 * Look the log end up in the log, as a snapshot sees it.  It is not complete
 * while a restore is under way, or when records are lost (broken_topic.c).
 */
static FoundEnd
find_end(const Partition *partition, Snapshot snapshot)
{
	FoundEnd	found = {0};
	PartitionRow row;
	bool		has_row = topics_log_start_read_row(&partition->state->id, snapshot, &row);
	Segment		first;
	int64		last_offset = -1;
	int64		end = row.log_start_offset;

	if (topics_segment_find_next(partition->rel, 0, &first))
		end = Max(end, first.base_offset);
	found.floor = Max(end, row.next_offset_floor);
	(void) find_last_record(partition->rel, snapshot, &last_offset, &found.last_timestamp);
	end = Max(end, last_offset + 1);
	found.complete = has_row && row.next_offset_floor <= Max(end, row.gaps_below);
	found.end = Max(end, row.next_offset_floor);
	return found;
}

/* Look the log end up in the log, as it is now. */
static FoundEnd
find_end_now(const Partition *partition)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	FoundEnd	found = find_end(partition, snapshot);

	UnregisterSnapshot(snapshot);
	return found;
}

/*
 * Return true if the log end is known, or can be.  The caller has the
 * partition's table open.
 */
bool
topics_log_is_complete(const Partition *partition)
{
	return RecoveryInProgress() ||
		pg_atomic_read_u64(&partition->state->next_offset) != UNKNOWN_OFFSET ||
		find_end_now(partition).complete;
}

/* Find the timestamp of a segment's first record, but not one in the future. */
static TimestampTz
find_first_timestamp(Relation rel)
{
	TableScanDesc scan = NULL;
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TimestampTz result = GetCurrentTimestamp();

	scan_blocks(rel, SnapshotSelf, &scan, 0, Max(RelationGetNumberOfBlocks(rel), 1));
	if (table_scan_getnextslot_tidrange(scan, ForwardScanDirection, slot))
	{
		bool		isnull;

		result = Min(result,
					 DatumGetTimestampTz(slot_getattr(slot, Anum_log_timestamp, &isnull)));
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	return result;
}

/* Look up what the roll by size and by age needs to know of the active segment. */
static void
look_at_active_segment(const Partition *partition, int64 end)
{
	PartitionState *state = partition->state;
	Segment		active;

	state->active_started = 0;
	state->active_blocks = 0;
	state->active_file = InvalidOid;
	if (topics_segment_find(partition->rel, end, &active))
	{
		Relation	rel = table_open(active.relid, AccessShareLock);

		state->active_base = active.base_offset;
		state->spare_at = active.base_offset + (active.end_offset - active.base_offset) / 2;
		state->active_blocks = RelationGetNumberOfBlocks(rel);
		if (end > active.base_offset)
			state->active_started = find_first_timestamp(rel);
		table_close(rel, AccessShareLock);
	}
}

/*
 * Take the heavyweight locks that looking up the log end needs, so that they
 * are not waited for under the append lock: of the catalogue, and of the
 * segments from the last one down to one with rows.  Return what was locked:
 * it is not to stay locked when the partition's table is not.
 */
static List *
lock_for_lookup(Relation partition_rel)
{
	Oid			catalogue = get_relname_relid("partition", get_namespace_oid(TOPIC_LOG_SCHEMA, false));
	List	   *locked = list_make1_oid(catalogue);
	int			count;
	Segment    *segments;

	LockRelationOid(catalogue, AccessShareLock);
	segments = topics_segment_list(partition_rel, &count);
	for (int i = count - 1; i >= 0; i--)
	{
		Relation	rel = table_open(segments[i].relid, AccessShareLock);
		BlockNumber nblocks = RelationGetNumberOfBlocks(rel);

		locked = lappend_oid(locked, segments[i].relid);
		table_close(rel, NoLock);
		if (nblocks > 0)
			break;
	}
	pfree(segments);
	return locked;
}

/* Get the next offset, with the append lock held meanwhile. */
static int64
get_next_offset_under_lock(const Partition *partition)
{
	PartitionState *state = topics_partition_state_current(partition->state);
	Partition	current = *partition;
	List	   *locked = NIL;
	ListCell   *lc;
	int64		next;

	current.state = state;
	if (pg_atomic_read_u64(&state->next_offset) == UNKNOWN_OFFSET)
		locked = lock_for_lookup(partition->rel);
	topics_append_lock_acquire(&state, 1);
	next = topics_log_next_offset_locked(&current);
	topics_append_lock_release();
	foreach(lc, locked)
		UnlockRelationOid(lfirst_oid(lc), AccessShareLock);
	list_free(locked);
	return next;
}

/*
 * Get the offset that the next record gets.  The caller holds the append lock,
 * and has the partition's table open.
 */
int64
topics_log_next_offset_locked(const Partition *partition)
{
	PartitionState *state = partition->state;
	uint64		next = pg_atomic_read_u64(&state->next_offset);

	Assert(topics_append_lock_held(state));
	while (next == UNKNOWN_OFFSET)
	{
		uint32		writes = pg_atomic_read_u32(&state->foreign_writes);
		FoundEnd	found;

		/*
		 * A foreign writer that commits while we look is not blocked by the
		 * append lock.  It counts foreign_writes after it became visible, so
		 * if our snapshot missed it, either the count has moved by now, or it
		 * will reset next_offset after we have set it.
		 */
		pg_memory_barrier();
		AcceptInvalidationMessages();
		found = find_end_now(partition);
		next = found.end;
		/* a restore is not at its end yet: this may not be that of the log */
		if (!found.complete)
			return next;
		look_at_active_segment(partition, next);
		state->stored_floor = found.floor;
		state->last_append_time = Max(state->last_append_time, found.last_timestamp);
		pg_atomic_write_u64(&state->commit_lsn,
							topics_high_watermark_looked_up(state, found.floor));
		/* a snapshot that was taken before takes this for running */
		pg_atomic_write_u32(&state->publish_xid, ReadNextTransactionId());
		pg_write_barrier();
		pg_atomic_write_u64(&state->next_offset, next);
		pg_memory_barrier();
		if (writes != pg_atomic_read_u32(&state->foreign_writes))
			next = UNKNOWN_OFFSET;
	}
	return next;
}

/*
 * Get the offset that the next record gets, as it is published; it is looked up
 * where it is not known.  The caller has the partition's table open.
 */
int64
topics_log_next_offset(const Partition *partition)
{
	uint64		next;

	if (RecoveryInProgress())
		return find_end_now(partition).end;
	next = pg_atomic_read_u64(&topics_partition_state_current(partition->state)->next_offset);
	if (next == UNKNOWN_OFFSET)
		next = get_next_offset_under_lock(partition);
	return next;
}

/* Get the next offset after the commits that are being published now. */
int64
topics_log_next_offset_settled(const Partition *partition)
{
	if (RecoveryInProgress())
		return topics_log_next_offset(partition);
	return get_next_offset_under_lock(partition);
}

/*
 * Get the log end as a snapshot sees it, if shared memory can tell: where the
 * last commit is one that the snapshot sees, published or not.  Otherwise
 * return false.
 *
 * The snapshot was taken before, so a transaction that has not appended yet when
 * append_xid is read is none that it sees.  (A producer that fails resets
 * append_xid: it never names a transaction that has ended otherwise.)
 */
static bool
get_seen_end(PartitionState *state, Snapshot snapshot, int64 *end)
{
	TransactionId xid = pg_atomic_read_u32(&state->append_xid);

	/* nobody knows where a foreign writer's rows end */
	if (pg_atomic_read_u32(&state->foreign_commits) != 0)
		return false;
	pg_read_barrier();
	if (TransactionIdIsValid(xid) && !XidInMVCCSnapshot(xid, snapshot))
	{
		*end = pg_atomic_read_u64(&state->append_end);
		pg_read_barrier();
		return pg_atomic_read_u32(&state->append_xid) == xid && TransactionIdDidCommit(xid);
	}
	*end = pg_atomic_read_u64(&state->next_offset);
	pg_read_barrier();
	xid = pg_atomic_read_u32(&state->publish_xid);
	return *end != UNKNOWN_OFFSET && TransactionIdIsValid(xid) && !XidInMVCCSnapshot(xid, snapshot);
}

/*
 * Get how far a reader with this snapshot reads: see log.h.  The caller has the
 * partition's table open, and is not a producer that commits.
 */
int64
topics_log_end(const Partition *partition, Snapshot snapshot)
{
	PartitionState *state;
	int64		end;

	if (snapshot && !IsMVCCSnapshot(snapshot))
		snapshot = NULL;
	if (snapshot)
		topics_log_meet_writers(partition->rel, snapshot);
	if (RecoveryInProgress())
		return snapshot ? find_end(partition, snapshot).end : find_end_now(partition).end;

	state = topics_partition_state_current(partition->state);
	end = topics_log_next_offset(partition);
	if (snapshot && !get_seen_end(state, snapshot, &end))
		end = find_end(partition, snapshot).end;
	topics_log_flush(state);
	end = Min(end, topics_read_cut_limit(state, snapshot));
	/* records of an old snapshot may have gone */
	return Max(end, topics_log_start_published(state));
}

/* Flush WAL up to a position, which may be right behind a page's header. */
static void
flush_upto(XLogRecPtr lsn)
{
	uint32		in_page = lsn % XLOG_BLCKSZ;

	/* there is nothing yet to be flushed then */
	if (in_page == (XLogSegmentOffset(lsn, wal_segment_size) < XLOG_BLCKSZ ?
					SizeOfXLogLongPHD : SizeOfXLogShortPHD))
		lsn -= in_page;
	XLogFlush(lsn);
}

/*
 * Make durable what readers may see of a partition.
 *
 * Everything published is covered by commit_lsn.  A commit is visible a moment
 * before it is published.  While a producer is between append and publication,
 * the position of its commit record is not known, but the record is inserted,
 * so WAL is flushed up to what is inserted by now.  append_xid is read before
 * the reader's snapshot could be any newer: the snapshot exists already.
 */
void
topics_log_flush(PartitionState *state)
{
	XLogRecPtr	lsn;

	if (pg_atomic_read_u32(&state->append_xid) == InvalidTransactionId &&
		pg_atomic_read_u32(&state->foreign_commits) == 0)
	{
		pg_read_barrier();
		lsn = pg_atomic_read_u64(&state->commit_lsn);
	}
	else
		lsn = GetXLogInsertRecPtr();
	if (lsn != InvalidXLogRecPtr)
		flush_upto(lsn);
}

/* ----------------------------------------------------------------
 *		SERIALIZABLE
 * ----------------------------------------------------------------
 */

/* Partitions that this transaction has met the writers of. */
static List *met_partitions = NIL;	/* in TopTransactionContext */

/*
 * In a serializable transaction: have conflicts noted with all transactions
 * that write to a partition and that the snapshot does not see.
 *
 * A producer checks for readers' predicate locks on the partition when its rows
 * are written.  So a producer that checks later finds ours.  The rows of one
 * that has checked before stand in the log by now, behind all that the snapshot
 * sees, and a scan that comes to them notes the conflict: but a reader that goes
 * by offsets stops before.  So that part of the log is scanned here, once.
 */
void
topics_log_meet_writers(Relation partition_rel, Snapshot snapshot)
{
	Oid			relid = RelationGetRelid(partition_rel);
	int64		last_offset = -1;
	TimestampTz timestamp;
	LogReader  *reader;
	MemoryContext old;

	if (!IsolationIsSerializable() || RecoveryInProgress() ||
		list_member_oid(met_partitions, relid))
		return;
	old = MemoryContextSwitchTo(TopTransactionContext);
	met_partitions = lappend_oid(met_partitions, relid);
	MemoryContextSwitchTo(old);

	PredicateLockRelation(partition_rel, snapshot);
	AcceptInvalidationMessages();
	(void) find_last_record(partition_rel, snapshot, &last_offset, &timestamp);
	reader = topics_log_reader_open(partition_rel, last_offset + 1, PG_INT64_MAX, snapshot, false);
	while (topics_log_reader_next(reader) != NULL)
		;						/* sees none */
	topics_log_reader_close(reader);
}

/* Forget at the end of a transaction. */
void
topics_log_forget_transaction(void)
{
	met_partitions = NIL;
}

/* ----------------------------------------------------------------
 *		The start, and errors
 * ----------------------------------------------------------------
 */

/* Get the log start offset: nothing below it can be asked for. */
int64
topics_log_start(PartitionState *state)
{
	return topics_log_start_published(state);
}

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

/*
 * Give tuples that were formed with offset and timestamp 0 their offsets, and
 * append them.  With append_time not 0, it is their timestamp too.  The caller
 * holds the append lock and ROW EXCLUSIVE on the segment, which has room for
 * them.  "slots" are as many slots for heap tuples.  "last_block" is that of
 * the segment's last record if the caller knows, or invalid.
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
			scan_blocks(reader->segment_rel, reader->snapshot, &reader->scan, block,
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
