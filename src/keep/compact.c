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
 *			there for delete_retention_time since they were first clean, as far
 *			as is known: all of a segment's are of one age, and of none before
 *			all of it is clean;
 *	ends	by moving clean_offset up.
 *
 * WHICH SEGMENTS: sealed ones, older than min_compaction_lag_time, whose
 * records are visible to every snapshot there is.  Rows are copied frozen, so
 * that every snapshot sees all of the new file.  If a row in it were newer
 * than some snapshot, that snapshot would see a record appear.  And where an
 * older record goes because of a newer one of its key, a snapshot that does
 * not see the newer one would see neither.  A snapshot that stays open delays
 * the compaction of what was committed after it, and nothing else.
 *
 * RECORDS BELOW THE LOG START go when no snapshot reads them any more: one that
 * is older than the move of the log start does (log_start.c).  Nor do
 * tombstones go before.  Such a snapshot may have kept retention from dropping
 * the segments below, and sees what was deleted there.
 *
 * The primary does not know of snapshots on standbys without
 * hot_standby_feedback.  For their sake all rows must have been frozen before,
 * or their page found to be visible to all: replaying that has canceled the
 * queries on standbys that do not see the rows.  What the sealing could not
 * freeze is frozen now.
 *
 * HOW A SEGMENT IS REPLACED: as VACUUM FULL does it.  The rows go into a new
 * table, under a lock that neither readers nor producers wait for.  Then the
 * files are swapped under ACCESS EXCLUSIVE on the segment, which is acquired
 * as retention.c does it: nobody waits behind us for long.  The segment stays
 * the same table with the same bounds, so no plan and no partition descriptor
 * changes.  Small neighbours are merged: the first gets the rows of all, and
 * the bounds; the others are dropped in the same transaction, which takes
 * ACCESS EXCLUSIVE on the partition's table as well.  Rejected: to attach a
 * new segment in the place of the old one, which always takes that lock, and a
 * scan of the new table under it.
 *
 * CRASHES: each replacement is a transaction, and leaves a log that is right
 * by itself, since a record goes only where a later one of its key is.
 * clean_offset moves after all of them.  Whatever happens before, the next
 * run begins where this one did.
 *
 * NO USER'S CODE RUNS.  Keys are compared by their bytes, and rows are
 * copied as they are.
 *
 * next_offset_floor rises before the first file is swapped: the last record of
 * the log may be a tombstone that goes, and its offset must not be given
 * again.  With it rises gaps_below, which tells readers that check (fetch.c) up
 * to where the log can have gaps, whatever cleanup_policy says by then.  The
 * stored high watermark is above all of it by then (checkpoint.c).
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
 * The index of a large segment is not built in the swap, which would read all
 * of it under ACCESS EXCLUSIVE.  It is dropped, and the commit asks for the
 * segment to be sealed anew.  Should a restart come before that is done, the
 * sealing comes by itself, and retention, which waits for the index, asks as
 * well.
 *
 * It never sleeps with ACCESS EXCLUSIVE on a segment.  What a turn reads is
 * bounded (MAX_GROUP, compact_segment.c).
 *
 * A RUN GIVES WAY.  There is one at a time in a process, and others wait for
 * its end.  Where a lock is in the way, of a transaction that has read the
 * topic and stays open, it is tried again each second for PATIENCE_MS; then
 * the run is given up, at the price of another map, and the next partition has
 * its turn.  The partition is looked at again after that time, and after twice
 * as long whenever that was in vain, up to MAX_DELAY_MS (compact_tries
 * counts).  As long as the table that was locked then (compact_delay) is
 * locked, the look is all that it costs.
 *
 * A run takes many turns: one maps a segment or replaces a group of them, each
 * in a transaction of its own.  What it remembers (CompactRun) is the
 * process's own.  Two processes that compact one partition do no harm:
 * segments are locked, and looked at again under the lock.
 *
 * compact_at, in shared memory, is 0 when a run pays, or when it is to be
 * looked at at once; it stays 0 during a run.  Else it is when to look again.
 *
 * See docs/decisions/0009-compaction.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "keep/keep.h"
#include "pg_topics.h"

#define LOOK_AGAIN_MS 60000		/* at what is worth it, or comes to be by time
								 * alone */
#define RETRY_MS 1000			/* when locks were in the way */
#define PATIENCE_MS 5000		/* then a run gives way to others */
#define MAX_DELAY_MS 60000		/* and is begun anew after this, at most */

/* The run of this process, if there is one. */
static CompactRun *run = NULL;

/* What this transaction looks at, or has a turn of, or NULL. */
static PartitionState *under_way = NULL;
static TopicPartition under_way_id;

/* Where this transaction has left a segment without its index, or NULL. */
static PartitionState *unsealed = NULL;
static TopicPartition unsealed_id;

/* ----------------------------------------------------------------
 *		What can be compacted, and whether it is time
 * ----------------------------------------------------------------
 */

/* Return true if it is time to look.  Cheap: looks at shared memory only. */
bool
topics_compact_is_due(const TopicSettings *settings, const PartitionState *state)
{
	return settings->compact && state->compact_at != COMPACTION_WANTED &&
		state->compact_at <= topics_clock_now();
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

/* Let the partition be looked at again after some time. */
static void
look_again_in(PartitionState *state, int64 delay_ms)
{
	state->compact_at = topics_clock_in(delay_ms);
}

/* What is older than this no snapshot needs of a partition's log. */
static TransactionId
find_horizon(const CompactCandidate *candidate)
{
	Relation	rel = table_open(candidate->segment.relid, AccessShareLock);
	TransactionId horizon = GetOldestNonRemovableTransactionId(rel);

	table_close(rel, AccessShareLock);
	return horizon;
}

/*
 * Return true if it pays to begin a run.  If not, compact_at says when to look
 * again.  *expired says whether there are tombstones to be let go.
 */
static bool
run_is_worth_it(const Partition *partition, const TopicSettings *settings, int64 clean_offset,
				bool *expired)
{
	PartitionState *state = partition->state;
	int64		delay_ms = -1;
	bool		is_seen = true; /* all that is to go has gone for all
								 * snapshots */
	int64		clean = 0;
	int64		dirty = 0;
	List	   *candidates;
	ListCell   *lc;

	/* first: a segment that is sealed from here on asks for another look */
	look_again_in(state, LOOK_AGAIN_MS);
	*expired = false;
	topics_segment_row_correct_times(&state->id);
	candidates = topics_compact_segment_list(partition, 0, PG_INT64_MAX);
	foreach(lc, candidates)
	{
		CompactCandidate *candidate = lfirst(lc);

		if (candidate->segment.end_offset <= clean_offset)
			clean += candidate->bytes;
		else
			dirty += candidate->bytes;

		/*
		 * above, a run that was given up has left them: they go when all is
		 * clean
		 */
		if (topics_compact_segment_tombstones_expired(candidate, settings))
			*expired |= candidate->segment.base_offset < clean_offset;
		else if (candidate->tombstones_from != 0)
			delay_ms = Min(LOOK_AGAIN_MS, settings->delete_retention_ms);
	}
	/* if they may go (tombstones_go, compact_segment.c) */
	if (*expired)
	{
		int64		lowest_start = topics_log_start_settle(state);

		*expired = is_seen = lowest_start >= topics_log_start(state);
		if (!is_seen)
			topics_delay_by_snapshot(&state->compact_delay, find_horizon(linitial(candidates)));
		/* nobody tells when the snapshot has gone that keeps them */
		if (delay_ms < 0)
			delay_ms = LOOK_AGAIN_MS;
	}
	if (*expired || (dirty > 0 && dirty >= settings->min_cleanable_dirty_ratio * (clean + dirty)))
		return true;
	if (is_seen)
		topics_delay_end(&state->compact_delay);
	/* who seals, drops, or alters the topic asks for another look */
	if (state->compact_at > topics_clock_now())
		state->compact_at = delay_ms < 0 ? NEVER : topics_clock_in(delay_ms);
	return false;
}

/*
 * Return true if the last run was given up, and it is not time for another one
 * yet, or the lock is still in the way.  Then compact_at says when to look
 * again.
 */
static bool
is_put_off(PartitionState *state)
{
	MonotonicTime not_before = state->compact_not_before;

	if (state->compact_tries == 0)
		return false;
	if (not_before <= topics_clock_now())
	{
		if (!OidIsValid(state->compact_delay.relid) ||
			topics_retention_lock_is_free(state->compact_delay.relid))
			return false;
		not_before = topics_clock_in(PATIENCE_MS);
	}
	state->compact_at = not_before;
	return true;
}

/*
 * Note that the caller's transaction leaves a segment of a partition without
 * its index: it is sealed anew.
 */
void
topics_compact_note_unsealed(PartitionState *state)
{
	unsealed = state;
	unsealed_id = state->id;
}

/*
 * A transaction was rolled back: what a turn has left in memory may not hold,
 * and compaction by hand may have been canceled.  The run begins anew, when
 * the time of what has failed comes (backoff.c): compact_at has what the
 * transaction has put there at its beginning, and would have it pass for done.
 *
 * Or it was committed, and no process can have looked at the segment since,
 * for its lock is not released yet: now the sealing is asked for.  (Should the
 * state be another topic's by now, that is looked at in vain.)
 */
static void
finish_transaction(XactEvent event, void *arg)
{
	if (unsealed && event == XACT_EVENT_COMMIT &&
		memcmp(&unsealed->id, &unsealed_id, sizeof(TopicPartition)) == 0)
	{
		pg_atomic_fetch_or_u32(&unsealed->requests, REQUEST_SEAL);
		topics_worker_registry_wake_worker();
	}
	if (under_way && event == XACT_EVENT_ABORT &&
		memcmp(&under_way->id, &under_way_id, sizeof(TopicPartition)) == 0)
	{
		under_way->compact_at = LOOK_NOW;
		topics_worker_registry_note_change();
	}
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
		unsealed = under_way = NULL;
	if (run != NULL && event == XACT_EVENT_ABORT)
		end_run();
}

/* The caller's transaction looks at a partition, or takes a turn. */
static void
note_under_way(PartitionState *state)
{
	static bool registered = false;

	if (!registered)
		RegisterXactCallback(finish_transaction, NULL);
	registered = true;
	under_way = state;
	under_way_id = state->id;
}

/*
 * Look whether a partition should be compacted: cheap, for a process that
 * leaves it to another one.
 */
void
topics_compact_look(Partition *partition)
{
	PartitionState *state = partition->state;
	bool		expired;

	note_under_way(state);
	if (is_put_off(state))
		return;
	topics_catalog_reopen_partition(partition, AccessShareLock);
	if (run_is_worth_it(partition, &partition->topic->settings,
						topics_log_start_clean_offset(&state->id), &expired))
		state->compact_at = COMPACTION_WANTED;
	topics_catalog_close_partition(partition, NoLock);
}

/* Begin a run if it is time for one. */
static bool
begin_run(const Partition *partition, const TopicSettings *settings)
{
	PartitionState *state = partition->state;
	int64		clean_offset = topics_log_start_clean_offset(&state->id);
	MemoryContext cxt;
	MemoryContext old;
	bool		expired;

	if (!run_is_worth_it(partition, settings, clean_offset, &expired))
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
	run->next = run->mapped = topics_max(clean_offset, topics_log_start(state));
	MemoryContextSwitchTo(old);
	return true;
}

/* ----------------------------------------------------------------
 *		Map
 * ----------------------------------------------------------------
 */

/*
 * Return true if every snapshot sees this row, and it is old enough; *unseen
 * is set if not every snapshot does.  *frozen is reset if replay has not
 * canceled the queries on standbys that do not see it.  It has where the row
 * was frozen, and where its page was found to be all visible (which keeps
 * VACUUM from coming back to freeze it).
 */
static bool
row_is_ripe(TupleTableSlot *slot, TransactionId oldest_xmin, TimestampTz before, bool *frozen,
			bool *unseen)
{
	bool		should_free;
	HeapTuple	tuple = ExecFetchSlotHeapTuple(slot, false, &should_free);
	TransactionId xmin = HeapTupleHeaderGetXmin(tuple->t_data);
	bool		isnull;
	bool		xmin_frozen = HeapTupleHeaderXminFrozen(tuple->t_data);
	bool		is_seen = xmin_frozen || TransactionIdPrecedes(xmin, oldest_xmin);
	bool		result = is_seen &&
		DatumGetTimestampTz(slot_getattr(slot, Anum_log_timestamp, &isnull)) <= before;

	*unseen |= !is_seen;
	*frozen &= xmin_frozen ||
		PageIsAllVisible(BufferGetPage(((BufferHeapTupleTableSlot *) slot)->buffer));
	if (should_free)
		heap_freetuple(tuple);
	return result;
}

/* Freeze a segment.  Return false if that cannot be now, or was in vain. */
static bool
freeze_segment(PartitionState *state, Oid relid)
{
	if (run->froze == relid)
		return false;
	if (!ConditionalLockRelationOid(relid, ShareUpdateExclusiveLock))
	{
		run->delayed = true;
		topics_delay_by_lock(&state->compact_delay, relid);
		return false;
	}
	run->froze = relid;
	topics_seal_freeze(relid);
	return true;
}

/*
 * Map the next segment, or freeze it for that.  Return false at the end of what
 * can be mapped: then "mapped" is the end of the run.
 */
static bool
map_segment(const Partition *partition, const TopicSettings *settings)
{
	List	   *candidates = topics_compact_segment_list(partition, run->next, PG_INT64_MAX);
	CompactCandidate *candidate;
	Relation	rel;
	Snapshot	snapshot;
	TableScanDesc scan;
	TupleTableSlot *slot;
	TransactionId oldest_xmin;
	TimestampTz before = topics_clock_ago(settings->min_compaction_lag_ms);
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
	scan = topics_compact_segment_begin_scan(rel, snapshot);
	slot = table_slot_create(rel, NULL);
	while (ripe && topics_compact_segment_next_row(scan, slot))
	{
		int64		offset = topics_log_get_offset(slot);
		KeyHash		hash;

		ripe = row_is_ripe(slot, oldest_xmin, before, &frozen, &run->delayed);
		if (!ripe || !frozen || run->full || offset < run->next)
			continue;
		if (topics_compact_segment_hash_key(run, slot, &hash) &&
			!topics_offset_map_put(run->map, &hash, offset))
			run->full = true;
		else
			run->mapped = offset + 1;
	}
	if (!ripe || !frozen)
	{
		/*
		 * it is copied whole or not at all; what is mapped of it does no
		 * harm, since every snapshot sees that
		 */
		run->mapped = before_segment;
		run->full = false;
	}
	else if (!run->full)
		run->mapped = run->next = candidate->segment.end_offset;
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
	if (run->delayed)
		topics_delay_by_snapshot(&partition->state->compact_delay, oldest_xmin);
	if (ripe && !frozen)
		return freeze_segment(partition->state, candidate->segment.relid);
	return ripe && !run->full;
}

/* ----------------------------------------------------------------
 *		Turns
 * ----------------------------------------------------------------
 */

/*
 * A lock is in the way.  Try again a little later, or, after some time of that,
 * let others have their turns.
 */
static CompactResult
give_way(PartitionState *state)
{
	int64		delay = PATIENCE_MS;

	topics_delay_by_lock(&state->compact_delay, run->blocked);
	if (run->give_up_at == 0)
		run->give_up_at = topics_clock_in(PATIENCE_MS);
	if (topics_clock_now() < run->give_up_at)
	{
		run->not_before = topics_clock_in(RETRY_MS);
		return COMPACT_LATER;
	}
	for (int i = 0; i < state->compact_tries && delay < MAX_DELAY_MS; i++)
		delay *= 2;
	delay = Min(delay, MAX_DELAY_MS);
	state->compact_tries++;
	state->compact_not_before = topics_clock_in(delay);
	look_again_in(state, delay);
	end_run();
	return COMPACT_DONE;
}

/*
 * End the run, in the catalogue too.  If it did anything, look again at once.
 */
static CompactResult
finish_run(PartitionState *state)
{
	bool		moved = run->mapped > run->clean_offset;
	CompactResult result = moved || run->changed ? COMPACT_MORE : COMPACT_DONE;

	if (moved)
		topics_log_start_raise_clean_offset(&state->id, run->mapped);
	if (!run->delayed)
		topics_delay_end(&state->compact_delay);
	state->compact_tries = 0;
	end_run();
	return result;
}

/*
 * Map a segment.  At the end, see whether there is anything to do with the
 * map.
 */
static CompactResult
take_map_turn(const Partition *partition, const TopicSettings *settings)
{
	if (map_segment(partition, settings))
		return COMPACT_MORE;
	/* whether a lock is still in the way shows when that is wanted */
	if (!run->delayed && !OidIsValid(partition->state->compact_delay.relid))
		topics_delay_end(&partition->state->compact_delay);
	if (run->mapped == run->clean_offset && !run->expired)
		return finish_run(partition->state);
	/* else a reader after a restart would see neither of two records of a key */
	if (!topics_checkpoint_reach(partition->state, run->mapped))
	{
		run->blocked = topics_log_start_relid();
		return give_way(partition->state);
	}
	run->mapping = false;
	run->next = 0;
	(void) topics_log_start_settle(partition->state);
	topics_log_start_allow_gaps(&partition->state->id, run->mapped);
	TEST_POINT("compact-mapped");
	return COMPACT_MORE;
}

/* Replace the next group; closes the partition's table. */
static CompactResult
take_copy_turn(Partition *partition, const TopicSettings *settings)
{
	CompactTurn turn = {
		.run = run,
		.settings = settings,
		.partition = partition
	};
	bool		busy;
	SegmentGroup group;

	/* in this order: both may rise meanwhile */
	turn.lowest_start = topics_log_start_lowest(partition->state);
	turn.log_start = topics_log_start(partition->state);
	group = topics_compact_segment_choose(&turn, &busy);

	/* dropping wants the table unused by its own session */
	topics_catalog_close_partition(partition, NoLock);
	if (busy || (group.candidates != NIL && !topics_compact_segment_replace(&turn, &group)))
		return give_way(partition->state);
	if (group.candidates == NIL)
		return finish_run(partition->state);
	if (OidIsValid(partition->state->compact_delay.relid))
		topics_delay_end(&partition->state->compact_delay);
	run->give_up_at = 0;
	run->changed |= group.dead > 0;
	run->next = ((CompactCandidate *) llast(group.candidates))->segment.end_offset;
	return COMPACT_MORE;
}

/*
 * End the run if its topic has gone, or is not to be compacted any more; or,
 * if "later" is set, not before some time, since it has failed, or was done by
 * hand.  It would keep others waiting.  In a transaction.
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
		 state->compact_at > topics_clock_now()))
		end_run();
}

/*
 * A turn of compaction, in the caller's transaction.  Where nothing is to be
 * done, compact_at says when to look again.
 */
CompactResult
topics_compact_turn(Partition *partition)
{
	const TopicSettings settings = partition->topic->settings;
	Oid			root_relid = partition->topic->root_relid;
	CompactResult result;

	note_under_way(partition->state);
	topics_compact_check(false);
	look_again_in(partition->state, LOOK_AGAIN_MS);
	/* one run at a time */
	if (run != NULL && (!run_is_for(partition->state) || run->not_before > topics_clock_now()))
		return COMPACT_LATER;

	topics_catalog_reopen_partition(partition, AccessShareLock);
	topics_pace_begin(root_relid, partition->relid);
	if (run == NULL && !begin_run(partition, &settings))
		result = COMPACT_DONE;
	else if (run->mapping)
		result = take_map_turn(partition, &settings);
	else
		return take_copy_turn(partition, &settings);
	topics_catalog_close_partition(partition, NoLock);
	return result;
}

/* End the run, if there is one. */
void
topics_compact_abandon(void)
{
	if (run != NULL)
		end_run();
}
