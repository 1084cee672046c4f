/*-------------------------------------------------------------------------
 *
 * log_end.c
 *		Where the log of a partition ends: for producers, and for readers.
 *
 * THE NEXT OFFSET is in shared memory while there are producers.  It
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
 * IN SERIALIZABLE a reader that stops at the end meets the transactions that
 * have written behind it (topics_log_meet_writers).
 *
 * See docs/decisions/0011-high-watermark.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "catalog/namespace.h"
#include "executor/tuptable.h"
#include "storage/bufmgr.h"
#include "storage/itemptr.h"
#include "storage/lmgr.h"
#include "storage/predicate.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "pg_topics.h"

/* ----------------------------------------------------------------
 *		Look the end up
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
		topics_log_scan_blocks(rel, SnapshotSelf, &scan, probe, high);
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

		topics_log_scan_blocks(rel, snapshot, &scan, block, nblocks);
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

	topics_log_scan_blocks(rel, SnapshotSelf, &scan, 0, Max(RelationGetNumberOfBlocks(rel), 1));
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

/*
 * Look up what the roll by size and by age needs to know of the active
 * segment.
 */
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

/* ----------------------------------------------------------------
 *		The next offset
 * ----------------------------------------------------------------
 */

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

/* ----------------------------------------------------------------
 *		How far a reader reads
 * ----------------------------------------------------------------
 */

/*
 * Get the log end as a snapshot sees it, if shared memory can tell: where the
 * last commit is one that the snapshot sees, published or not.  Otherwise
 * return false.
 *
 * The snapshot was taken before, so a transaction that has not appended yet
 * when append_xid is read is none that it sees.  (A producer that fails resets
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
	return Max(end, topics_log_start(state));
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
 * sees, and a scan that comes to them notes the conflict: but a reader that
 * goes by offsets stops before.  So that part of the log is scanned here,
 * once.
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
