/*-------------------------------------------------------------------------
 *
 * cut.c
 *		Which segment holds which offsets: cut the active segment, cover offsets.
 *
 * To cover offsets is to see to it that each of them has a segment.  A new
 * segment is attached above the others, the end of a segment is raised, or the
 * lower bound of a segment is brought down to where a cut has left a gap.
 *
 * topics_cut_active_segment is the first transaction of a cut,
 * topics_cut_cover the second; both are steps of maintain.c, the roll.  If the
 * second does not come, since its process has died, the next one that needs
 * the offsets calls topics_cut_cover: a producer, after a short wait
 * (append.c).
 *
 * A cut brings the end of the active segment down to next_offset.  The next
 * segment begins there.
 *
 * WHY A CUT IS SAFE, AND WHY IT TAKES TWO TRANSACTIONS
 *
 * The first transaction brings the bound down in pg_class, as
 * StorePartitionBound wrote it, under SHARE UPDATE EXCLUSIVE on the partition's
 * table (one cutter or attacher at a time) and on the segment (no VACUUM or
 * ANALYZE, which update pg_class in place).  Neither producers nor readers are
 * locked out.  Producers are kept below the cut by append_limit, which is set
 * under the append lock together with the choice of the offset; when the limit
 * is lifted, bounds_changes tells producers that what they know of the segments
 * is out of date.  No row lies above the cut, so a reader that still uses the
 * old bound misses nothing.
 *
 * The second transaction puts a segment in place from the cut on.  Were it the
 * same transaction, another backend could build a partition descriptor from
 * two ages: RelationBuildPartitionDesc lists the children by a fresh snapshot,
 * but takes their bounds from the syscache, and the active segment's entry
 * there is old until the invalidation message arrives, which is sent only
 * after the commit is visible.  The backend would see the new segment inside
 * the old bounds of the active segment, and with the same upper bound twice it
 * would write outside of an array.
 *
 * So, before a segment is given offsets that another one had, every backend
 * that may use the old entry must be done with it.  A backend that builds a
 * descriptor holds ACCESS SHARE on pg_inherits from before it takes the
 * snapshot, and a backend that acquires that lock absorbs invalidation
 * messages first.  The second transaction therefore waits for each holder that
 * took the lock before the messages of the first (wait_for_old_readers); a
 * later holder has read them.  (The messages are sent before the cutter's lock
 * on the partition's table is released: a process that has that lock now comes
 * after them.)  Holders release the lock at once, except in a transaction that
 * has queried pg_inherits itself, such as pg_dump's.  If a holder keeps it for
 * OLD_READERS_MS, the cut is not begun, or is taken back.
 *
 * A hot standby replays both commits with nothing between them.  There the
 * remaining rule keeps memory safe: the upper bound that the cut segment had
 * is not given to another one.  A descriptor that mixes both ages merely
 * lacks a segment for the offsets that were cut off.  A reader by offset makes
 * it anew before it uses it (segment.c); a plain SELECT lacks the segment, for
 * one query in some microseconds per cut.
 *
 * WHY A NEW SEGMENT IS ATTACHED BEFORE IT IS NEEDED
 *
 * A query that was planned before the segment was attached does not know the
 * segment, and would see of a transaction that spans two segments only what is
 * in the old one.  So the segment's commit comes well before its first record:
 * the worker keeps a spare ahead of the active segment, and a producer that
 * finds none has it attached by another process.  Only if that fails the
 * producer attaches it in its own transaction.
 *
 * WHY NOBODY USES A CHANGE THAT IS NOT ANNOUNCED
 *
 * A commit is visible before its invalidation messages are sent.  A reader
 * that takes its snapshot in between does not hear of the change, so it must
 * not see records that go by it.  A segment that is attached stays locked
 * ACCESS EXCLUSIVE until the messages are sent, and a producer locks the
 * segment.  For a change of bounds, which locks nobody out, producers are kept
 * below the lowest offset that gets another segment, by append_limit.  A
 * producer that attaches a segment in its own transaction has its records
 * there when it becomes visible: as long as there is one
 * (topics_partition_state_has_unannounced), readers go by no segments that
 * they have in memory (topics_segment_hear).
 *
 * Early is not enough: a transaction that runs a cached plan while it holds
 * all locks hears of no new segment for as long as it runs.  So the records
 * that one transaction produces to a partition lie in one segment.  Where they
 * do not fit, the end of the active segment is raised, which every plan that
 * has the active segment follows, after the spare above was moved out of the
 * way in a transaction before.  (Only where no process is to be had for that,
 * the records go on in the next segment.)
 *
 * See docs/decisions/0006-cut-in-two-transactions.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "pg_topics.h"

/* How many records a new segment is made for, at least and at most. */
#define MIN_SEGMENT_RECORDS INT64CONST(10)
#define MAX_SEGMENT_RECORDS (INT64CONST(1) << 40)

/*
 * The guess goes by the active segment if that has more than these, or a good
 * part of the bytes of a segment.
 */
#define MIN_SAMPLE_BYTES (10 * BLCKSZ)
#define MIN_SAMPLE_RECORDS 100
#define SAMPLE_SHARE 4
#define FIRST_GUESS_RECORD_BYTES 128	/* and by this otherwise */

#define OLD_READERS_MS 1000
#define LIMIT_NAP_MS 10
#define LIMIT_LOCK_TIMEOUT "500ms"	/* well below deadlock_timeout */
#define LIMIT_LOCK_TIMEOUT_MS 500

/* What this transaction changes of a partition's segments. */
typedef struct PendingChange
{
	PartitionState *state;
	TopicPartition id;
	SubTransactionId subxid;
	bool		has_limit;		/* we set append_limit */
	bool		is_cut;			/* ... in a cut's first half */
	bool		is_undone;		/* we take that back */
	bool		is_beside_records;	/* this transaction has records for them */
	int64		completes;		/* the cut_end that our commit makes obsolete */
} PendingChange;

/* The changes of this transaction, in TopMemoryContext. */
static List *pending_changes = NIL;

/* What keeps offsets from having one segment. */
typedef enum CoverSituation
{
	/* Nothing: one segment has them, or several if one cannot be had. */
	COVERED,

	/*
	 * The first half of a cut stands, and the second cannot follow, since old
	 * readers do not go: the cut is undone.
	 */
	CUT_IS_STUCK,

	/*
	 * Offsets have no segment, and there is a segment above them.  A cut has
	 * left the gap, or a process that has moved a spare up and then could not
	 * raise the end below it.  The segment above is brought down.
	 */
	GAP_BELOW_SEGMENT,

	/* Offsets have no segment, and there is none above: one is attached. */
	NO_SEGMENT_ABOVE,

	/* The segment of the first offset ends too early: its end is raised. */
	END_TOO_LOW,

	/*
	 * The same, but the segment above is in the way.  It is the last one, an
	 * empty spare, and is moved up.  The end is raised by another
	 * transaction.
	 */
	SPARE_IN_THE_WAY
} CoverSituation;

/* Offsets being covered, and what was found there. */
typedef struct Cover
{
	Partition  *partition;		/* open while it is looked at */
	PendingChange *change;
	const CoverRequest *request;
	bool		drained;		/* no old readers: offsets can change hands */
	CoverMode	mode;
	int64		lowest;			/* offset that gets another segment, or
								 * NO_LIMIT */

	/* of the current step */
	int64		first;
	int64		last;
	int64		gap;			/* first offset without a segment */
	Segment		segment;		/* the one that has "first", for its end */
	Segment		next;			/* the one above the segment, or the gap */
} Cover;

/* ----------------------------------------------------------------
 *		Pending changes
 * ----------------------------------------------------------------
 */

static PendingChange *
note_change(PartitionState *state)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	PendingChange *change = palloc(sizeof(PendingChange));

	change->state = state;
	change->id = state->id;
	change->subxid = GetCurrentSubTransactionId();
	change->has_limit = change->is_cut = change->is_undone = change->is_beside_records = false;
	change->completes = 0;
	pending_changes = lappend(pending_changes, change);
	MemoryContextSwitchTo(old);
	return change;
}

/*
 * Announce a change: after our commit, when invalidation messages were sent, or
 * after our (sub)transaction's abort.  Raises nothing.
 *
 * After a commit our lock on the partition's table is released, and another
 * process may be changing segments.  What we write is ours all the same: no
 * process begins a cut while a limit or cut_end stands, and each of the two is
 * reset only by the process that set it, or that found it set while it had the
 * lock.
 *
 * A limit stands only until the first half of a cut is announced, whatever
 * becomes of the second: then bounds_changes makes producers look at the
 * bounds again.
 */
static void
announce_change(const PendingChange *change, bool commit)
{
	PartitionState *state = change->state;

	if (change->is_beside_records)
		topics_partition_state_count_unannounced(-1);
	if (memcmp(&state->id, &change->id, sizeof(TopicPartition)) != 0)
		return;
	if (change->is_cut && !commit)
		state->cut_end = 0;
	if (change->completes != 0 && commit)
		state->cut_end = 0;

	/*
	 * the new active segment has no record: no producer appends under the
	 * limit
	 */
	if (change->is_cut && commit)
		state->active_started = 0;

	/*
	 * the old one is active again: it is cut in the next round, or else when
	 * it is old, from now on
	 */
	if (change->is_undone && commit)
	{
		state->active_started = GetCurrentTimestamp();
		pg_atomic_fetch_or_u32(&state->requests, REQUEST_ROLL);
		topics_worker_registry_note_change();
	}
	state->bounds_changes++;
	pg_write_barrier();
	if (change->has_limit)
		state->append_limit = NO_LIMIT;
	ConditionVariableBroadcast(&state->append_cv);
}

static void
announce_changes(bool commit)
{
	ListCell   *lc;

	foreach(lc, pending_changes)
		announce_change(lfirst(lc), commit);
	list_free_deep(pending_changes);
	pending_changes = NIL;
}

/* Return true if this transaction changes segments. */
bool
topics_cut_is_pending(void)
{
	return pending_changes != NIL;
}

void
topics_cut_at_commit(void)
{
	if (pending_changes != NIL)
		TEST_POINT("bounds-committed");
	announce_changes(true);
}

void
topics_cut_at_abort(void)
{
	announce_changes(false);
}

/* At the end of a subtransaction. */
void
topics_cut_at_subend(bool commit, SubTransactionId subxid, SubTransactionId parent)
{
	ListCell   *lc;

	foreach(lc, pending_changes)
	{
		PendingChange *change = lfirst(lc);

		if (change->subxid != subxid)
			continue;
		if (commit)
			change->subxid = parent;
		else
		{
			announce_change(change, false);
			pending_changes = foreach_delete_current(pending_changes, lc);
			pfree(change);
		}
	}
}

/* ----------------------------------------------------------------
 *		Keeping others away
 * ----------------------------------------------------------------
 */

/*
 * Wait until no process holds a lock on pg_inherits that holds one now.
 * Return false if one still does after OLD_READERS_MS.
 */
static bool
wait_for_old_readers(void)
{
	VirtualTransactionId *old;
	LOCKTAG		tag;
	int			nold;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, InheritsRelationId);
	old = GetLockConflicts(&tag, AccessExclusiveLock, &nold);
	for (int waited_ms = 0; nold > 0; waited_ms++)
	{
		int			nheld;
		VirtualTransactionId *holders;

		if (waited_ms >= OLD_READERS_MS)
			return false;
		CHECK_FOR_INTERRUPTS();
		pg_usleep(1000);
		holders = GetLockConflicts(&tag, AccessExclusiveLock, &nheld);
		for (int i = 0; i < nold; i++)
		{
			bool		holds = false;

			for (int j = 0; j < nheld && !holds; j++)
				holds = VirtualTransactionIdEquals(old[i], holders[j]);
			if (!holds)
				old[i--] = old[--nold];
		}
		pfree(holders);
	}
	pfree(old);
	return true;
}

/*
 * Keep producers below an offset until our commit or abort is announced.
 * Return false if the log has gone beyond it already.
 */
static bool
set_append_limit(const Cover *cover, int64 limit)
{
	Partition  *partition = cover->partition;
	PartitionState *state = partition->state;
	bool		below;

	topics_catalog_reopen_partition(partition, NoLock);
	/* the process that had our lock before us may be about to lift its limit */
	while (state->append_limit != NO_LIMIT)
		topics_append_lock_sleep(state, LIMIT_NAP_MS);
	topics_append_lock_end_sleeping();

	below = topics_log_lock_end(partition) <= limit;
	if (below)
	{
		cover->change->has_limit = true;
		state->append_limit = limit;
	}
	topics_append_lock_release();
	topics_catalog_close_partition(partition, NoLock);
	return below;
}

/* ----------------------------------------------------------------
 *		Covering offsets
 *
 * classify_offsets says what is missing, take_cover_step does something about
 * it, until nothing is missing.
 * ----------------------------------------------------------------
 */

/* Look for the first gap in the offsets, and for a segment above it. */
static CoverSituation
classify_gap(Cover *cover)
{
	Relation	partition_rel = cover->partition->rel;
	Segment		segment;

	cover->gap = cover->first;
	while (cover->gap <= cover->last &&
		   topics_segment_find(partition_rel, cover->gap, &segment))
		cover->gap = segment.end_offset;
	if (cover->gap > cover->last)
		return COVERED;
	return topics_segment_find_next(partition_rel, cover->gap, &cover->next) ?
		GAP_BELOW_SEGMENT : NO_SEGMENT_ABOVE;
}

/* Return true if cover->next is the last segment, and may be moved. */
static bool
may_move_next(const Cover *cover)
{
	Segment		top;

	return cover->mode == COVER_ALONE && topics_segment_last(cover->partition->rel, &top) &&
		top.relid == cover->next.relid;
}

/* Find out what keeps the offsets from having one segment. */
static CoverSituation
classify_offsets(Cover *cover)
{
	Partition  *partition = cover->partition;
	int64		end;
	CoverSituation result;

	topics_catalog_reopen_partition(partition, NoLock);
	end = pg_atomic_read_u64(&partition->state->next_offset);

	/*
	 * if the log has grown since the caller looked, it needs offsets further
	 * up
	 */
	cover->first = cover->request->first;
	if (end != UNKNOWN_OFFSET)
		cover->first = Max(cover->first, end);
	cover->last = cover->request->last + (cover->first - cover->request->first);

	if (topics_segment_fits(partition->rel, cover->first, cover->last))
		result = COVERED;
	else if (!topics_segment_find(partition->rel, cover->first, &cover->segment))
		result = !cover->drained && partition->state->cut_end != 0 ?
			CUT_IS_STUCK : classify_gap(cover);
	else if (!cover->drained)
		/* no offset may change hands: the records have to go on above */
		result = classify_gap(cover);
	else if (!topics_segment_find_next(partition->rel, cover->segment.end_offset, &cover->next) ||
			 cover->next.base_offset > cover->last)
		result = END_TOO_LOW;
	else
		result = may_move_next(cover) ? SPARE_IN_THE_WAY : classify_gap(cover);
	topics_catalog_close_partition(partition, NoLock);
	return result;
}

/* This transaction gives offsets from here on another segment. */
static void
note_lowest(Cover *cover, int64 offset)
{
	cover->lowest = topics_min(cover->lowest, offset);
}

/*
 * Take the first half of a cut back: the segment that ends where the offsets
 * begin gets its old end.  No segment was attached since, so no descriptor of
 * whatever age has an overlap.  A query that was planned in between, for
 * offsets from the cut on, does not see records that come now: to it they
 * have not come yet.  Who wanted the cut has gone, so our commit asks for
 * another one.
 */
static void
undo_cut(Cover *cover)
{
	Partition  *partition = cover->partition;
	Segment		segment;
	bool		found;

	topics_catalog_reopen_partition(partition, NoLock);
	found = topics_segment_find(partition->rel, cover->first - 1, &segment) &&
		segment.end_offset == cover->first;
	topics_catalog_close_partition(partition, NoLock);
	if (!found)
		elog(ERROR, "no segment ends at offset " INT64_FORMAT, cover->first);
	segment.end_offset = partition->state->cut_end;
	note_lowest(cover, cover->first);
	topics_segment_set_bounds(partition->relid, &segment);
	cover->change->is_undone = true;
	TEST_POINT("cut-undone");
}

/* Bring the segment above the gap down to where the gap begins. */
static void
close_gap(Cover *cover)
{
	Segment		lowered = cover->next;

	lowered.base_offset = cover->gap;
	note_lowest(cover, cover->gap);
	topics_segment_set_bounds(cover->partition->relid, &lowered);
	TEST_POINT("gap-closed");
}

/* Guess how many records fill "bytes", from those in the active segment. */
static int64
guess_records(PartitionState *state, int64 bytes)
{
	int64		records = (int64) pg_atomic_read_u64(&state->next_offset) - state->active_base;
	int64		sample = topics_partition_state_active_bytes(state);
	double		guess = (double) bytes / FIRST_GUESS_RECORD_BYTES;

	if (records > 0 && records < MAX_SEGMENT_RECORDS && sample > MIN_SAMPLE_BYTES &&
		(records > MIN_SAMPLE_RECORDS || sample >= bytes / SAMPLE_SHARE))
		guess = (double) bytes / ((double) sample / records);
	return (int64) Max(MIN_SEGMENT_RECORDS, Min(guess, (double) MAX_SEGMENT_RECORDS));
}

/* Attach a segment above the others, at least up to the last of the offsets. */
static void
attach_above(Cover *cover)
{
	Partition  *partition = cover->partition;
	Segment		top;
	int64		base_offset;
	int64		end_offset;

	topics_catalog_reopen_partition(partition, NoLock);
	if (cover->last > PG_INT64_MAX - MAX_SEGMENT_RECORDS - 1)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("offsets of partition %d of topic \"%s\" are exhausted",
						partition->number, NameStr(partition->topic->name))));
	base_offset = topics_segment_last(partition->rel, &top) ? top.end_offset : cover->first;
	topics_catalog_close_partition(partition, NoLock);

	end_offset = topics_max(base_offset + guess_records(partition->state, cover->request->segment_bytes),
							cover->last + 1);
	if (end_offset == partition->state->cut_end)
		end_offset++;			/* see the head of this file: a hot standby */
	note_lowest(cover, base_offset);
	topics_segment_attach(partition->relid, base_offset, end_offset);
}

/* Raise the end of the segment that has the first offset. */
static void
raise_end(Cover *cover)
{
	Segment		raised = cover->segment;

	raised.end_offset = cover->last + 1;
	note_lowest(cover, cover->segment.end_offset);
	topics_segment_set_bounds(cover->partition->relid, &raised);
	TEST_POINT("end-raised");
}

/*
 * Move the spare up, so that another transaction can raise the end of the
 * segment below.  Return false, with nothing done, if the spare is not empty
 * any more.
 */
static bool
move_spare_up(const Cover *cover)
{
	Segment		moved = cover->next;

	if (!set_append_limit(cover, cover->next.base_offset))
		return false;
	moved.base_offset = cover->last + 1;
	moved.end_offset = Max(cover->next.end_offset,
						   moved.base_offset + (cover->next.end_offset - cover->next.base_offset));
	topics_segment_set_bounds(cover->partition->relid, &moved);
	TEST_POINT("spare-moved");
	return true;
}

/*
 * Do what a situation asks for.  Return true if the next step must be taken by
 * another transaction.
 */
static bool
take_cover_step(Cover *cover, CoverSituation situation)
{
	switch (situation)
	{
		case COVERED:
			break;
		case CUT_IS_STUCK:
			undo_cut(cover);
			break;
		case GAP_BELOW_SEGMENT:
			close_gap(cover);
			break;
		case NO_SEGMENT_ABOVE:
			attach_above(cover);
			break;
		case END_TOO_LOW:
			raise_end(cover);
			break;
		case SPARE_IN_THE_WAY:
			return move_spare_up(cover);
	}
	return false;
}

/*
 * See to it that the offsets from request->first to request->last have one
 * segment, or several if one cannot be had, in the caller's transaction.
 * Return false, only with COVER_ALONE, if it takes another transaction after
 * this one.  The caller holds no append lock, and does not have the partition's
 * table open.
 */
bool
topics_cut_cover(Partition *partition, const CoverRequest *request, CoverMode mode)
{
	Cover		cover = {.partition = partition,.request = request,.mode = mode,.lowest = NO_LIMIT};
	OwnerScope	scope;
	CoverSituation situation;
	bool		again;

	/* from the top, as DROP takes them: attaching looks at the root */
	LockRelationOid(get_partition_parent(partition->relid, false), AccessShareLock);
	LockRelationOid(partition->relid, ShareUpdateExclusiveLock);
	topics_segment_forget_bounds(partition->relid);
	cover.change = note_change(partition->state);
	cover.change->completes = partition->state->cut_end;
	if (mode == COVER_FOR_RECORDS)
	{
		topics_partition_state_count_unannounced(1);
		cover.change->is_beside_records = true;
	}
	scope = topics_extension_become_owner();
	cover.drained = wait_for_old_readers();
	do
	{
		CHECK_FOR_INTERRUPTS();
		situation = classify_offsets(&cover);
		again = take_cover_step(&cover, situation);
	} while (situation != COVERED && !again);
	/* last: no lock is waited for under the limit */
	if (mode == COVER_ALONE && cover.lowest != NO_LIMIT && !again &&
		!set_append_limit(&cover, cover.lowest))
		elog(ERROR, "partition %d has records at offsets that had no segment", partition->number);
	topics_extension_become_caller(scope);
	return !again;
}

/* The same for a single offset. */
void
topics_cut_cover_offset(Partition *partition, int64 offset, int64 segment_bytes, CoverMode mode)
{
	CoverRequest request = {offset, offset, segment_bytes};

	(void) topics_cut_cover(partition, &request, mode);
}

/* ----------------------------------------------------------------
 *		Cutting
 * ----------------------------------------------------------------
 */

/*
 * Choose where to cut: under the append lock, so that from here on no producer
 * goes beyond.  Return false if the active segment has no record, or is not
 * "active".
 */
static bool
choose_cut(const Partition *partition, Segment *active, int64 *cut_at)
{
	PartitionState *state = partition->state;
	PendingChange *change = note_change(state);
	Oid			expected = active->relid;
	bool		found;

	/* have the bounds read before the lock, if they have become invalid */
	(void) topics_segment_find(partition->rel, 0, active);
	*cut_at = topics_log_lock_end(partition);
	found = topics_segment_find(partition->rel, *cut_at, active) && active->relid == expected &&
		active->base_offset < *cut_at;
	if (found)
	{
		change->has_limit = change->is_cut = true;
		state->append_limit = *cut_at;
		state->cut_end = active->end_offset;
	}
	topics_append_lock_release();
	return found;
}

/*
 * The first half of a cut: bring the active segment's end down to next_offset.
 * Do nothing if there is nothing to cut, or, with CUT_PUT_OFF, if the second
 * half of an earlier cut is missing, or that of this one could not follow.
 * After CUT_BEGUN the caller commits, and covers the offset *cut_at in its
 * next transaction (topics_cut_cover_offset).  Producers wait a little for
 * that, and then do it themselves.
 *
 * All locks are taken before the limit is set, so that no process that holds
 * one of them, say ANALYZE, keeps producers waiting.  Those of catalogues are
 * not: they are waited for shortly, since the one who has them may be a
 * producer that waits for us, which no deadlock detector sees.
 */
CutResult
topics_cut_active_segment(Partition *partition, int64 *cut_at)
{
	PartitionState *state = partition->state;
	Segment		active;
	CutResult	result = CUT_NOTHING;

	topics_catalog_reopen_partition(partition, ShareUpdateExclusiveLock);
	topics_segment_forget_bounds(partition->relid);
	/* the second half of an earlier cut comes first */
	if (state->append_limit != NO_LIMIT || state->cut_end != 0 || !wait_for_old_readers())
		result = CUT_PUT_OFF;
	else if (topics_segment_find(partition->rel, topics_log_next_offset(partition), &active))
	{
		LockRelationOid(active.relid, ShareUpdateExclusiveLock);
		if (choose_cut(partition, &active, cut_at))
			result = CUT_BEGUN;
	}
	topics_catalog_close_partition(partition, NoLock);

	if (result == CUT_BEGUN)
	{
		OwnerScope	scope;
		int			guc_level = NewGUCNestLevel();

		if (LockTimeout <= 0 || LockTimeout > LIMIT_LOCK_TIMEOUT_MS)
			topics_settings_override("lock_timeout", LIMIT_LOCK_TIMEOUT);
		TEST_POINT("cut-limited");
		scope = topics_extension_become_owner();
		active.end_offset = *cut_at;
		topics_segment_set_bounds(partition->relid, &active);
		TEST_POINT("cut-bound");
		topics_extension_become_caller(scope);
		AtEOXact_GUC(false, guc_level);
	}
	return result;
}
