/*-------------------------------------------------------------------------
 *
 * cut.c
 *		A segment for every offset: cut the tail, cover offsets, undo a cut.
 *
 * WHY A CUT IS SAFE, AND WHY IT TAKES TWO TRANSACTIONS
 *
 * The first transaction brings the bound down in pg_class, as
 * StorePartitionBound wrote it, under SHARE UPDATE EXCLUSIVE on the
 * partition's table (one cutter or attacher at a time) and on the segment
 * (no VACUUM or ANALYZE, which update pg_class in place).  Neither producers
 * nor readers are locked out.  Producers are kept below the cut by
 * append_limit, set under the append lock together with the choice of the
 * offset; when it is lifted, bounds_changes tells them that what they know of
 * the segments is out of date.  No row lies above the cut, so a reader that
 * still uses the old bound misses nothing.
 *
 * The second transaction puts a segment in place from the cut on.  Were it
 * the same transaction, another backend could build a partition descriptor
 * from two ages: RelationBuildPartitionDesc lists the children by a fresh
 * snapshot, but takes their bounds from the syscache, and the tail's entry
 * there is old until the invalidation message arrives, which is sent only
 * after the commit is visible.  It would see the new segment inside the old
 * bounds of the tail, and with the same upper bound twice it would write
 * outside of an array.
 *
 * So between the two, everybody who may use the old entry must have gone:
 * before a segment is given offsets that another one had.  Who builds a descriptor holds ACCESS SHARE on pg_inherits from before he
 * takes the snapshot, and whoever acquires that lock absorbs invalidation
 * messages first.  A holder from before the first transaction's messages is
 * therefore waited for (wait_for_old_readers); a later one has read them.
 * (Messages are sent before the cutter's lock on the partition's table goes:
 * who has that lock now comes after them.)  Holders let go at once, but for a
 * transaction that has queried pg_inherits itself, such as pg_dump's: if one
 * does not go for OLD_READERS_MS, the cut is not begun, or is taken back.
 *
 * A hot standby replays both commits with nothing between them; there the
 * remaining rule keeps memory safe: the upper bound that the cut segment had
 * is not given to another one.  A descriptor that mixes both ages is then
 * merely without a segment for the cut one's offsets, for one query in some
 * microseconds per cut.
 *
 * WHY A NEW SEGMENT IS ATTACHED BEFORE IT IS NEEDED
 *
 * A query that was planned before the segment was attached does not know
 * it, and would see of a transaction that spans both only what is in the old
 * one.  So the segment's commit comes well before its first record: the
 * worker keeps a spare ahead of the tail, and a producer that finds none has
 * it attached by another process.  Only if that fails it is
 * attached in the producer's own transaction.
 *
 * Early is not enough: a transaction that runs a cached plan while it holds
 * all locks hears of no segment for as long as it runs.  So the records
 * that one transaction produces to a partition lie in one segment.  Where
 * they do not fit the end of the tail is raised, which every plan that has
 * the tail follows, after the spare above was moved out of the way in a
 * transaction before.  (Only where no process is to be had for
 * that do they go on in the next segment.)
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "compat.h"
#include "pg_topics.h"

/* What this transaction changes of a partition's segments. */
typedef struct PendingChange
{
	PartitionState *state;
	TopicPartition id;
	bool		has_limit;		/* we set append_limit */
	bool		is_cut;			/* ... in a cut's first half */
	int64		completes;		/* the cut_end that our commit makes obsolete */
} PendingChange;

#define OLD_READERS_MS 1000

/* One at a time: the worker's and each producer's transaction need no more. */
static List *pending = NIL;

static PendingChange *
note_change(PartitionState *state)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	PendingChange *change = palloc(sizeof(PendingChange));

	change->state = state;
	change->id = state->id;
	change->has_limit = change->is_cut = false;
	change->completes = 0;
	pending = lappend(pending, change);
	MemoryContextSwitchTo(old);
	return change;
}

/*
 * Wait until nobody holds a lock on pg_inherits who holds one now.  False if
 * somebody still does after OLD_READERS_MS.
 */
static bool
wait_for_old_readers(void)
{
	VirtualTransactionId *old;
	LOCKTAG		tag;
	int			nold;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, InheritsRelationId);
	old = GetLockConflicts(&tag, AccessExclusiveLock, &nold);
	for (int waited = 0; nold > 0; waited++)
	{
		int			nheld;
		VirtualTransactionId *holders;

		if (waited >= OLD_READERS_MS)
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
 * Take the first half of a cut back, where the second cannot follow: the
 * segment that ends at "offset" gets its old end.  Nothing was attached since
 * in between, so no descriptor of whatever age has an overlap.  A query that
 * was planned in between, for offsets from the cut on, does not see records
 * that come now: to it they have not come yet.
 */
static void
undo_cut(Oid partition_relid, PartitionState *state, int64 offset)
{
	Relation	partition_rel = table_open(partition_relid, NoLock);
	Segment		cut;
	bool		found = topics_segment_find(partition_rel, offset - 1, &cut) &&
		cut.end_offset == offset;

	table_close(partition_rel, NoLock);
	if (!found)
		elog(ERROR, "no segment ends at offset " INT64_FORMAT, offset);
	cut.end_offset = state->cut_end;
	topics_segment_set_bounds(partition_relid, &cut);
	TEST_POINT("cut-undone");
}

/*
 * Keep producers below an offset until our commit or abort is announced.
 * False if the log has gone beyond it already.
 */
static bool
set_limit(PendingChange *change, Oid partition_relid, int64 limit)
{
	PartitionState *state = change->state;
	Relation	partition_rel = table_open(partition_relid, NoLock);
	bool		below;

	/* who had our lock before us may be about to lift his */
	while (state->append_limit != NO_LIMIT)
		topics_append_lock_sleep(state, 10);

	topics_append_lock_acquire(&state, 1);
	below = topics_log_end_locked(partition_rel, state) <= limit;
	if (below)
	{
		change->has_limit = true;
		state->append_limit = limit;
	}
	topics_append_lock_release();
	table_close(partition_rel, NoLock);
	return below;
}

/*
 * A segment ends before "last": raise its end.  False if the next segment,
 * which is empty, had to be moved up for that, and was: another transaction
 * can raise the end then.
 */
static bool
raise_end(PendingChange *change, Oid partition_relid, Segment *segment,
		  const Segment *next, int64 last)
{
	if (next == NULL || next->base_offset > last)
	{
		segment->end_offset = last + 1;
		topics_segment_set_bounds(partition_relid, segment);
		TEST_POINT("end-raised");
		return true;
	}
	else
	{
		Segment		moved = *next;

		/* if it is not empty any more, look again at where the log end is */
		if (!set_limit(change, partition_relid, next->base_offset))
			return true;
		moved.base_offset = last + 1;
		moved.end_offset = Max(next->end_offset, last + 1 + (next->end_offset - next->base_offset));
		topics_segment_set_bounds(partition_relid, &moved);
		TEST_POINT("spare-moved");
		return false;
	}
}

/*
 * One step towards a segment for the offsets from first to last; true if
 * none is left.  *again says whether there can be another transaction, and
 * is set if the next step needs one.
 */
static bool
cover_step(PendingChange *change, Oid partition_relid, int64 first, int64 last,
		   int64 segment_bytes, bool drained, bool *again)
{
	PartitionState *state = change->state;
	int64		end = pg_atomic_read_u64(&state->next_offset);
	bool		may_repeat = *again;

	Relation	partition_rel = table_open(partition_relid, NoLock);
	Segment		segment;
	Segment		next;
	Segment		top;
	bool		has_next;

	/* the log has grown since the caller looked: what he needs is further up */
	if (end != UNKNOWN_OFFSET && end > first)
	{
		last += end - first;
		first = end;
	}

	*again = false;
	if (topics_segment_fits(partition_rel, first, last))
	{
		table_close(partition_rel, NoLock);
		return true;
	}
	if (topics_segment_find(partition_rel, first, &segment))
	{
		has_next = topics_segment_find_next(partition_rel, segment.end_offset, &next);
		/* if the end cannot be raised, let the records go on above */
		if (!drained ||
			(has_next && next.base_offset <= last &&
			 (!may_repeat || !topics_segment_last(partition_rel, &top) ||
			  top.relid != next.relid)))
		{
			int64		uncovered = first;

			while (uncovered <= last && topics_segment_find(partition_rel, uncovered, &segment))
				uncovered = segment.end_offset;
			if (uncovered <= last && !topics_segment_find_next(partition_rel, uncovered, &next))
			{
				topics_segment_attach_above(partition_rel, state, first, last, segment_bytes);
				return false;
			}
			table_close(partition_rel, NoLock);
			if (uncovered > last)
				return true;
			/* somebody has moved it up, and then could not raise the end */
			next.base_offset = uncovered;
			topics_segment_set_bounds(partition_relid, &next);
			TEST_POINT("gap-closed");
			return false;
		}
		table_close(partition_rel, NoLock);
		*again = !raise_end(change, partition_relid, &segment, has_next ? &next : NULL, last);
	}
	else if (topics_segment_find_next(partition_rel, first, &next))
	{
		table_close(partition_rel, NoLock);
		if (!drained && state->cut_end != 0)
			undo_cut(partition_relid, state, first);
		else
		{
			next.base_offset = first;
			topics_segment_set_bounds(partition_relid, &next);
			TEST_POINT("gap-closed");
		}
	}
	else if (!drained && state->cut_end != 0)
	{
		table_close(partition_rel, NoLock);
		undo_cut(partition_relid, state, first);
	}
	else
		topics_segment_attach_above(partition_rel, state, first, last, segment_bytes);
	return false;
}

/*
 * Have one segment for the offsets from first to last, or where that cannot
 * be, several: by attaching one above the others, by raising the end of the
 * one that has "first", or by bringing the one above down to where a cut has
 * left a gap.  In the caller's transaction; false, only with may_repeat, if
 * it takes another one after this.  The caller has no lock of ours (append_lock.c), and not the
 * partition's table open.
 */
bool
topics_segment_cover(Oid partition_relid, PartitionState *state,
					 int64 first, int64 last, int64 segment_bytes, bool may_repeat)
{
	OwnerScope	scope;
	PendingChange *change;
	bool		drained;
	bool		again;

	/* from the top, as DROP takes them: attaching looks at the root */
	LockRelationOid(get_partition_parent(partition_relid, false), AccessShareLock);
	LockRelationOid(partition_relid, ShareUpdateExclusiveLock);
	topics_segment_forget_bounds(partition_relid);
	change = note_change(state);
	change->completes = state->cut_end;
	scope = topics_extension_become_owner();
	drained = wait_for_old_readers();
	do
	{
		CHECK_FOR_INTERRUPTS();
		again = may_repeat;
		if (cover_step(change, partition_relid, first, last, segment_bytes, drained, &again))
			break;
	} while (!again);
	topics_extension_become_caller(scope);
	return !again;
}

/*
 * Choose where to cut: under the append lock, so that from here on no
 * producer goes beyond.  False if the tail has no record, or is not "tail".
 */
static bool
choose_cut(Relation partition_rel, PartitionState *state, Segment *tail, int64 *cut_at)
{
	PendingChange *change = note_change(state);
	Oid			expected = tail->relid;
	bool		found;

	topics_append_lock_acquire(&state, 1);
	*cut_at = topics_log_end_locked(partition_rel, state);
	found = topics_segment_find(partition_rel, *cut_at, tail) && tail->relid == expected;
	if (found && tail->base_offset < *cut_at)
	{
		change->has_limit = change->is_cut = true;
		state->append_limit = *cut_at;
		state->cut_end = tail->end_offset;
	}
	else
		found = false;
	topics_append_lock_release();
	return found;
}

/*
 * The first half of a cut: bring the tail's end down to next_offset.  False,
 * and nothing done, if there is nothing to cut, or the second half could not
 * follow.  The caller commits, and then calls topics_segment_cover(cut_at,
 * cut_at) in its next transaction; producers wait a little for that, and then
 * do it themselves.
 *
 * All locks are taken before the limit is set, so that nobody who holds one
 * of them, say ANALYZE, keeps producers waiting.
 */
bool
topics_segment_cut(Oid partition_relid, PartitionState *state, int64 *cut_at)
{
	Relation	partition_rel = table_open(partition_relid, ShareUpdateExclusiveLock);
	Segment		tail;
	bool		found = false;

	topics_segment_forget_bounds(partition_relid);
	/* the second half of an earlier cut comes first */
	if (state->append_limit == NO_LIMIT && state->cut_end == 0 &&
		wait_for_old_readers() &&
		topics_segment_find(partition_rel, topics_log_end(partition_rel, state), &tail))
	{
		LockRelationOid(tail.relid, ShareUpdateExclusiveLock);
		found = choose_cut(partition_rel, state, &tail, cut_at);
	}
	table_close(partition_rel, NoLock);

	if (found)
	{
		OwnerScope	scope;

		TEST_POINT("cut-limited");
		scope = topics_extension_become_owner();
		tail.end_offset = *cut_at;
		topics_segment_set_bounds(partition_relid, &tail);
		TEST_POINT("cut-bound");
		topics_extension_become_caller(scope);
	}
	return found;
}

/* A partition's segments have changed: so have the topic's. */
static void
count_for_topic(TopicPartition id)
{
	PartitionState *state;

	id.partition = 0;
	state = topics_partition_state_find(&id);
	if (state)
		pg_atomic_fetch_add_u32(&state->topic_bounds_changes, 1);
}

/*
 * After our commit, when others were told of it (invalidation messages were
 * sent), or after our abort.  Must not raise.
 *
 * After a commit our lock on the partition's table is gone, and somebody else
 * may be changing segments.  What we write is ours all the same: nobody
 * begins a cut while a limit or cut_end stands, and each is reset only by
 * who set it, or found it set while he had the lock.
 *
 * A limit stands only until the first half is announced, whatever becomes of
 * the second: then bounds_changes makes producers look at the bounds again.
 */
static void
finish_changes(bool commit)
{
	ListCell   *lc;

	foreach(lc, pending)
	{
		PendingChange *change = lfirst(lc);
		PartitionState *state = change->state;

		if (memcmp(&state->id, &change->id, sizeof(TopicPartition)) != 0)
			continue;
		if (change->has_limit && !commit)
			state->cut_end = 0;
		if (change->completes != 0 && commit)
			state->cut_end = 0;
		/* the new tail has no record: nobody appends while the limit stands */
		if (change->is_cut && commit)
			state->tail_started = 0;
		state->bounds_changes++;
		count_for_topic(change->id);
		pg_write_barrier();
		if (change->has_limit)
			state->append_limit = NO_LIMIT;
		ConditionVariableBroadcast(&state->append_cv);
	}
	list_free_deep(pending);
	pending = NIL;
}

/* Does this transaction change segments? */
bool
topics_segment_is_pending(void)
{
	return pending != NIL;
}

void
topics_segment_at_commit(void)
{
	if (pending != NIL)
		TEST_POINT("bounds-committed");
	finish_changes(true);
}

void
topics_segment_at_abort(void)
{
	finish_changes(false);
}
