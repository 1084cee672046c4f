/*-------------------------------------------------------------------------
 *
 * log_end.c
 *		Where the log of a partition ends: for producers, and for readers.
 *
 * THE NEXT OFFSET is in shared memory while there are producers.  It is looked
 * up in the log after a restart and after a foreign writer's commit, with a
 * fresh snapshot, and stored under the append lock.  As long as it is not known
 * nobody appends, so whatever was committed is seen.
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
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/itemptr.h"
#include "storage/predicate.h"
#include "utils/inval.h"
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
	int64		floor;			/* what is sure of it without the records */
	int64		stored_floor;	/* what the catalogue says of it */
	int64		confirmed;		/* what is sure to be confirmed */
	int64		lowest_base;	/* where the lowest segment begins, or 0 */
	int64		last_offset;	/* of the last record, or -1 */
	TimestampTz last_timestamp; /* of it, or 0 */
	bool		has_row;		/* the catalogue has a row for the partition */
	bool		complete;		/* only of find_end_now: it has, and the log
								 * all that there must be by the row */
} FoundEnd;

/* Look the log end up in the log, as a snapshot sees it. */
static FoundEnd
find_end(const Partition *partition, Snapshot snapshot)
{
	FoundEnd	found = {.last_offset = -1};
	PartitionRow row;
	Segment		lowest;

	found.has_row = topics_log_start_read_row(&partition->state->id, snapshot, &row);
	found.stored_floor = row.next_offset_floor;
	if (topics_segment_find_next(partition->rel, 0, &lowest))
		found.lowest_base = lowest.base_offset;
	(void) find_last_record(partition->rel, snapshot, &found.last_offset, &found.last_timestamp);
	found.floor = Max(Max(row.log_start_offset, found.lowest_base), found.stored_floor);
	found.end = Max(found.floor, found.last_offset + 1);
	found.confirmed = Max(Max(row.log_start_offset, found.lowest_base), row.high_watermark);
	return found;
}

/*
 * Look the log end up in the log, as it is now.  The log is not complete while
 * a restore is under way, or when records are lost (broken_topic.c): those at
 * its end, or those below the lowest segment, for the log begins in that.
 *
 * What is not there, and need not be, the row tells, read after the log:
 * retention drops segments below the log start, which it has moved before, and
 * compaction raises gaps_below with what it takes.
 */
static FoundEnd
find_end_now(const Partition *partition)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	FoundEnd	found = find_end(partition, snapshot);
	PartitionRow row;
	int64		allowed;

	UnregisterSnapshot(snapshot);
	(void) topics_log_start_read_row(&partition->state->id, NULL, &row);
	allowed = Max(row.log_start_offset, row.gaps_below);
	found.complete = found.has_row && found.lowest_base <= allowed &&
		found.stored_floor <= Max(found.last_offset + 1, allowed);
	return found;
}

/*
 * Find the first committed record from an offset on, as it is now;
 * PG_INT64_MAX if there is none.  Rows that are committed while they are
 * passed may be missed; then what is found is behind them, and they are
 * committed at the second look.
 */
static int64
find_committed(Relation partition_rel, int64 from)
{
	int64		found = topics_log_find_first(partition_rel, from, PG_INT64_MAX, SnapshotSelf);

	if (found < PG_INT64_MAX)
		found = topics_log_find_first(partition_rel, from, PG_INT64_MAX, SnapshotSelf);
	return found;
}

/*
 * Find the log end as a snapshot sees it, which may be an old one: compaction
 * may have taken the last records that it sees, if these are tombstones.  It
 * takes none that a snapshot does not see.  So the first record behind, if
 * there is one, is where the log ends; and if not, it ends where it does now.
 */
static int64
find_seen_end(const Partition *partition, Snapshot snapshot)
{
	PartitionRow now;
	int64		end;
	int64		unseen;

	/* before the log: what it says is not about later records */
	(void) topics_log_start_read_row(&partition->state->id, NULL, &now);
	end = find_end(partition, snapshot).end;
	unseen = find_committed(partition->rel, end);
	return unseen < PG_INT64_MAX ? unseen : Max(end, now.next_offset_floor);
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

	topics_log_scan_blocks(rel, SnapshotSelf, &scan, 0, topics_max(RelationGetNumberOfBlocks(rel), 1));
	if (table_scan_getnextslot_tidrange(scan, ForwardScanDirection, slot))
	{
		bool		isnull;

		result = topics_min(result,
							DatumGetTimestampTz(slot_getattr(slot, Anum_log_timestamp, &isnull)));
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	return result;
}

/* A log end that was looked up, and what else is found on the way. */
typedef struct EndLookup
{
	uint32		foreign_writes; /* counted when we began */
	FoundEnd	found;

	/*
	 * for the roll by size and by age, of the active segment, if there is one
	 */
	bool		has_active;
	Segment		active;
	BlockNumber active_blocks;
	int64		active_toast_bytes;
	TimestampTz active_started; /* 0: it is empty */
} EndLookup;

/* Look at the active segment of a log that ends at lookup->found.end. */
static void
look_at_active_segment(const Partition *partition, EndLookup *lookup)
{
	int64		end = lookup->found.end;
	Relation	rel;

	lookup->has_active = topics_segment_find(partition->rel, end, &lookup->active);
	if (!lookup->has_active)
		return;
	rel = table_open(lookup->active.relid, AccessShareLock);
	lookup->active_blocks = RelationGetNumberOfBlocks(rel);
	lookup->active_toast_bytes = topics_segment_toast_bytes(rel);
	lookup->active_started = end > lookup->active.base_offset ? find_first_timestamp(rel) : 0;
	table_close(rel, AccessShareLock);
}

/*
 * Look the log end up, to store it then.  The caller does not hold the append
 * lock, since catalogues are read here.  Nobody appends meanwhile: a producer
 * needs a next_offset that is known.
 */
static void
look_up_end(const Partition *partition, EndLookup *lookup)
{
	memset(lookup, 0, sizeof(EndLookup));
	lookup->foreign_writes = pg_atomic_read_u32(&partition->state->foreign_writes);
	pg_memory_barrier();
	AcceptInvalidationMessages();
	topics_cluster_attend();
	lookup->found = find_end_now(partition);
	/* a restore is not at its end yet: this may not be that of the log */
	if (lookup->found.complete)
		look_at_active_segment(partition, lookup);
}

/* ----------------------------------------------------------------
 *		The next offset
 * ----------------------------------------------------------------
 */

/*
 * Store a log end that was looked up, under the append lock.  Return false if
 * it may be out of date.
 *
 * A foreign writer that commits while we look is not blocked by the append
 * lock. It counts foreign_writes after it became visible, so if our snapshot
 * missed it, either the count has moved by now, or it will reset next_offset
 * after we have set it.  An end that another process has stored meanwhile is
 * known then; if it is not any more, a foreign writer has come as well.
 */
static bool
store_end(PartitionState *state, const EndLookup *lookup)
{
	Assert(topics_append_lock_held(state));
	if (lookup->foreign_writes != pg_atomic_read_u32(&state->foreign_writes))
		return false;
	state->active_started = lookup->active_started;
	state->active_blocks = lookup->active_blocks;
	state->active_toast_bytes = lookup->active_toast_bytes;
	state->active_file = InvalidOid;
	if (lookup->has_active)
	{
		state->active_base = lookup->active.base_offset;
		state->spare_at = topics_segment_half(state->active_base, lookup->active.end_offset);
	}
	state->stored_floor = lookup->found.floor;
	state->stored_high_watermark = lookup->found.confirmed;
	state->last_append_time = Max(state->last_append_time, lookup->found.last_timestamp);
	pg_atomic_write_u64(&state->commit_lsn,
						topics_high_watermark_looked_up(state, lookup->found.confirmed));
	/* a snapshot that was taken before takes this for running */
	pg_atomic_write_u64(&state->publish_xid, LOOKED_UP | ReadNextTransactionId());
	pg_write_barrier();
	pg_atomic_write_u64(&state->next_offset, lookup->found.end);
	pg_memory_barrier();
	topics_replica_cut_note_moved(state);
	if (lookup->foreign_writes == pg_atomic_read_u32(&state->foreign_writes))
		return true;
	pg_atomic_write_u64(&state->next_offset, UNKNOWN_OFFSET);
	return false;
}

/*
 * Acquire the append lock of a partition, and get the offset that the next
 * record gets.  Where that is not known it is looked up before: under the lock
 * nothing is.  The caller has the partition's table open, and releases the
 * lock.
 */
int64
topics_log_lock_end(const Partition *partition)
{
	PartitionState *state = partition->state;

	for (;;)
	{
		bool		known = pg_atomic_read_u64(&state->next_offset) != UNKNOWN_OFFSET;
		EndLookup	lookup;
		uint64		next;

		if (!known)
			look_up_end(partition, &lookup);
		topics_append_lock_acquire(&state, 1);
		next = pg_atomic_read_u64(&state->next_offset);
		if (next != UNKNOWN_OFFSET)
			return next;
		if (!known && (!lookup.found.complete || store_end(state, &lookup)))
			return lookup.found.end;
		topics_append_lock_release();
		CHECK_FOR_INTERRUPTS();
	}
}

/* Get the next offset when nobody has the append lock. */
static int64
get_next_offset_under_lock(const Partition *partition)
{
	Partition	current = *partition;
	int64		next;

	current.state = topics_partition_state_current(partition->state);
	next = topics_log_lock_end(&current);
	topics_append_lock_release();
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
 * Return true if a snapshot sees all below next_offset, which was published
 * with this publish_xid.
 *
 * LOOKED_UP: that was the next transaction when the end was looked up, in what
 * earlier ones had committed.  A snapshot sees these if it sees that one, so
 * that it was taken later; or if all earlier ones have ended for it.  Else
 * each read would look the end up on a server that nobody writes to.
 */
static bool
sees_published(uint64 publish_xid, Snapshot snapshot)
{
	TransactionId xid = (TransactionId) publish_xid;

	if (!TransactionIdIsValid(xid))
		return false;
	return !XidInMVCCSnapshot(xid, snapshot) ||
		((publish_xid & LOOKED_UP) != 0 &&
		 TransactionIdPrecedesOrEquals(xid, snapshot->xmin));
}

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
	return *end != UNKNOWN_OFFSET &&
		sees_published(pg_atomic_read_u64(&state->publish_xid), snapshot);
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
		return snapshot ? find_seen_end(partition, snapshot) : find_end_now(partition).end;

	state = topics_partition_state_current(partition->state);
	end = topics_log_next_offset(partition);
	if (snapshot && !get_seen_end(state, snapshot, &end))
		end = find_seen_end(partition, snapshot);
	topics_log_flush(state);
	end = topics_min(end, topics_read_cut_limit(state, snapshot));
	/* records of an old snapshot may have gone */
	return topics_max(end, topics_log_start(state));
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

/* Make durable what is published of a partition. */
void
topics_log_flush_published(PartitionState *state)
{
	XLogRecPtr	lsn = pg_atomic_read_u64(&state->commit_lsn);

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
