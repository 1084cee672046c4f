/*-------------------------------------------------------------------------
 *
 * maintain.c
 *		What has to be done for a partition from time to time.
 *
 *	roll	cut the active segment: it is too large or too old, or VACUUM asked
 *	spare	attach the next segment when the active segment is half full
 *	seal	freeze and index segments that are full
 *	expire	move the log start up, as policy wants it (retention.c)
 *	drop	drop the segments below it
 *	look	whether it pays to compact it (compact.c)
 *
 * Each step has transactions of its own, so that locks are held shortly and a
 * failure costs one step; a step that takes two, as the cut does, is two rows
 * of the table "steps".  The worker does this on its own, a partition at a
 * time; CALL topics.maintain() and topics.roll_segment() do it by hand.  The
 * caller supplies the way to get to the next transaction.
 *
 * A partition is looked at when topics_maintain_is_due says so: another process
 * has asked for a step (PartitionState.requests), a time has come, or no
 * process has looked at the partition since the server started.
 *
 * To compact a partition is no step: it takes many turns, by a process of its
 * own (compactor.c), by the worker where there is none, or by hand.  Nor is it
 * one to store how far logs have come, which is done for all at once
 * (checkpoint.c).
 *
 * TO ADD A STEP: a function that does its part in one transaction, and a row of
 * the table "steps", at its place in the order; a WorkStep for it (shared.h),
 * with a name in backoff.c, under which the view topics.worker shows where work
 * has failed.  If another process finds it due, a REQUEST_xxx for that
 * (shared.h); if a look does, a line in topics_maintain_is_due.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "group/group.h"
#include "keep/keep.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_maintain);
PG_FUNCTION_INFO_V1(topics_roll_segment);

/* The work on one partition, step by step. */
typedef struct Upkeep
{
	Oid			view_relid;
	Partition	partition;		/* as the current transaction has found it
								 * (find_partition); a step opens it */
	NextTransaction next_transaction;

	/* what is to be done */
	uint32		requests;
	bool		retention;		/* something might have to leave */

	/* what a step leaves to those after it */
	bool		cut;			/* the active segment was cut, at cut_at,
								 * where a segment is missing now */
	int64		cut_at;
	bool		put_off;		/* it was to be cut, and could not be now */
	int64		sealed_upto;	/* by the step's transactions so far */
	bool		active_expired; /* more would leave if the active segment were
								 * cut */
	bool		worth_compaction;
} Upkeep;

/*
 * Find the partition, in a new transaction.  Return false if the topic or the
 * partition has gone.  What is found stays until the transaction ends: DROP
 * begins at the root, whose lock is taken here, and waited for where a DROP
 * has it.  The view's lock is not taken, since a rename wants that: it would
 * wait for a VACUUM, and others behind it.
 */
static bool
find_partition(Upkeep *upkeep)
{
	Partition  *partition = &upkeep->partition;
	Topic	   *topic = topics_catalog_get(upkeep->view_relid, true);

	if (topic == NULL)
		return false;
	LockRelationOid(topic->root_relid, AccessShareLock);
	topic = topics_catalog_get(upkeep->view_relid, true);
	if (topic == NULL || partition->number >= topic->partitions)
		return false;
	partition->relid = topics_catalog_partition_relid(topic, partition->number);
	if (!OidIsValid(partition->relid))
		return false;
	partition->topic = topic;
	partition->state = topics_catalog_try_partition_state(topic, partition->number);
	return partition->state != NULL;
}

/* ----------------------------------------------------------------
 *		Whether there is something to do
 * ----------------------------------------------------------------
 */

/*
 * Return true if the active segment is older than segment_time, or than
 * retention_time.  The latter is for the sake of records with a timestamp in
 * the future: sealed, they are no younger than the seal.
 *
 * An active segment that seems to come from the future, since the clock was
 * set back, is as old as now: else it would not be rolled until the clock is
 * there again.  (Another process that writes active_started beside us writes
 * the time as well.)
 */
static bool
active_segment_is_old(Topic *topic, PartitionState *state)
{
	const TopicSettings *settings = &topic->settings;
	TimestampTz started = state->active_started;
	TimestampTz now = GetCurrentTimestamp();
	int64		age_ms;

	if (started == 0 || (int64) pg_atomic_read_u64(&state->next_offset) <= state->active_base)
		return false;
	if (started > now)
		state->active_started = started = now;
	age_ms = (now - started) / 1000;
	return (settings->segment_ms >= 0 && age_ms >= settings->segment_ms) ||
		(settings->delete && settings->retention_ms >= 0 && age_ms >= settings->retention_ms);
}

/*
 * Return true if there is anything to do for a partition, but to compact it.
 * Cheap: looks at shared memory only.
 */
bool
topics_maintain_is_due(Topic *topic, int32 partition)
{
	TopicPartition id = {MyDatabaseId, partition, topic->topic_id};
	PartitionState *state = topics_partition_state_find(&id);

	return state == NULL || !state->looked_at ||
		pg_atomic_read_u32(&state->requests) != 0 ||
		pg_atomic_read_u64(&state->next_offset) == UNKNOWN_OFFSET ||
		active_segment_is_old(topic, state) || topics_retention_is_due(&topic->settings, state) ||
		topics_compact_is_due(&topic->settings, state);
}

/* Return true if a partition is to be compacted.  Cheap, too. */
static bool
wants_compaction(Topic *topic, int32 partition)
{
	TopicPartition id = {MyDatabaseId, partition, topic->topic_id};
	PartitionState *state = topics_partition_state_find(&id);

	return state != NULL && topics_compact_is_wanted(&topic->settings, state);
}

/* Partitions to be compacted, of some topics. */
typedef struct Wanted
{
	List	   *views;			/* of the topics */
	MemoryContext cxt;			/* of the result */
	List	   *result;
} Wanted;

/* Collect the partitions that compaction pays for now; in a subtransaction. */
static void
collect_wanted(void *arg)
{
	Wanted	   *wanted = arg;
	ListCell   *lc;

	foreach(lc, wanted->views)
	{
		Topic	   *topic = topics_catalog_get(lfirst_oid(lc), true);
		WorkPiece	piece = {MyDatabaseId, lfirst_oid(lc), 0, WORK_COMPACT, METADATA_SET};

		for (; topic && piece.partition < topic->partitions; piece.partition++)
			if (wants_compaction(topic, piece.partition) && topics_backoff_left(&piece) <= 0)
			{
				MemoryContext old = MemoryContextSwitchTo(wanted->cxt);
				DuePartition *due = palloc(sizeof(DuePartition));

				due->piece = piece;
				due->topic = topic->name;
				wanted->result = lappend(wanted->result, due);
				MemoryContextSwitchTo(old);
			}
	}
}

/* Try that; where it fails, topic by topic, and then leave out what fails. */
static List *
try_to_collect(List *views, MemoryContext cxt)
{
	Wanted		wanted = {views, cxt, NIL};
	ErrorData  *error = topics_subtransaction_try(collect_wanted, &wanted);
	MemoryContext old;
	ListCell   *lc;

	if (error == NULL)
		return wanted.result;
	FreeErrorData(error);
	wanted.result = NIL;
	if (list_length(views) < 2)
		return NIL;				/* the worker's rounds say so */
	old = MemoryContextSwitchTo(cxt);
	foreach(lc, views)
		wanted.result = list_concat(wanted.result,
									try_to_collect(list_make1_oid(lfirst_oid(lc)), cxt));
	MemoryContextSwitchTo(old);
	return wanted.result;
}

/*
 * List the partitions that compaction pays for now, in the caller's
 * transaction: DuePartitions, in a memory context.  Those that have failed,
 * and whose time to try again has not come, are left out, and so are topics
 * that cannot be looked at.
 */
List *
topics_maintain_collect_compaction(MemoryContext cxt)
{
	return try_to_collect(topics_catalog_list(), cxt);
}

/*
 * Return true if the end of a log is known, or can be: it is not while a
 * restore is under way, or when records are lost.
 */
static bool
log_end_is_known(Partition *partition)
{
	topics_catalog_reopen_partition(partition, AccessShareLock);
	(void) topics_log_next_offset(partition);
	topics_catalog_close_partition(partition, NoLock);
	return pg_atomic_read_u64(&partition->state->next_offset) != UNKNOWN_OFFSET;
}

/* ----------------------------------------------------------------
 *		Steps: each does its part in one transaction
 * ----------------------------------------------------------------
 */

/* What a step did in its transaction. */
typedef enum StepResult
{
	RESULT_NOTHING,				/* the next one can have the transaction */
	RESULT_DONE,
	RESULT_MORE					/* there may be more, in another transaction */
} StepResult;

/*
 * Cut the active segment: half of a roll, see cut.c.  What is put off stays
 * asked for.
 */
static StepResult
cut_active_segment(Upkeep *upkeep)
{
	Partition  *partition = &upkeep->partition;
	CutResult	result = topics_cut_active_segment(partition, &upkeep->cut_at);

	upkeep->cut = result == CUT_BEGUN;
	upkeep->put_off = result == CUT_PUT_OFF;
	if (upkeep->put_off)
		pg_atomic_fetch_or_u32(&partition->state->requests, REQUEST_ROLL);
	return upkeep->cut ? RESULT_DONE : RESULT_NOTHING;
}

/* Put a segment in place from the cut on: the other half of a roll. */
static StepResult
cover_cut(Upkeep *upkeep)
{
	Partition  *partition = &upkeep->partition;

	topics_cut_cover_offset(partition, upkeep->cut_at, partition->topic->settings.segment_bytes,
							COVER_ALONE);
	pg_atomic_fetch_or_u32(&partition->state->requests, REQUEST_SEAL);
	upkeep->cut = false;
	return RESULT_DONE;
}

/* Attach a segment behind the active segment. */
static StepResult
attach_spare(Upkeep *upkeep)
{
	Partition  *partition = &upkeep->partition;
	Segment		active;
	int64		end;
	int64		wanted;
	bool		needed;

	topics_catalog_reopen_partition(partition, AccessShareLock);
	end = topics_log_next_offset(partition);

	/*
	 * the offset that has to have a segment; an active segment just filled
	 * has none above
	 */
	wanted = topics_segment_find(partition->rel, end, &active) ? active.end_offset : end;
	needed = !topics_segment_covers(partition->rel, wanted, wanted);
	topics_catalog_close_partition(partition, NoLock);
	if (needed)
		topics_cut_cover_offset(partition, wanted, partition->topic->settings.segment_bytes,
								COVER_ALONE);
	return RESULT_DONE;
}

/* Return true if a segment has its index, or has gone. */
static bool
segment_has_index(Oid relid)
{
	Relation	rel = try_relation_open(relid, AccessShareLock);
	bool		result = rel == NULL || topics_log_index_exists(rel);

	if (rel)
		relation_close(rel, AccessShareLock);
	return result;
}

/* Freeze and index the next full segment, unless it is already. */
static StepResult
seal_segment(Upkeep *upkeep)
{
	Partition  *partition = &upkeep->partition;
	Segment		segment;
	bool		found;

	topics_catalog_reopen_partition(partition, AccessShareLock);
	found = topics_segment_find_next(partition->rel, upkeep->sealed_upto, &segment) &&
		segment.end_offset <= topics_log_end(partition, NULL);
	topics_catalog_close_partition(partition, NoLock);
	if (!found)
	{
		upkeep->sealed_upto = 0;
		return RESULT_NOTHING;
	}
	if (!segment_has_index(segment.relid))
		topics_seal_segment(segment.relid);
	if (segment_has_index(segment.relid) &&
		topics_segment_row_note_sealed(&partition->state->id, &segment))
	{
		LogFloor	floor = {partition->state, partition->state->id, segment.end_offset};

		(void) topics_log_start_store_floors(&floor, 1, false);
		partition->state->compact_at = LOOK_NOW;
	}
	upkeep->sealed_upto = segment.end_offset;
	return RESULT_MORE;
}

/* Move the log start up. */
static StepResult
expire_records(Upkeep *upkeep)
{
	upkeep->active_expired = topics_retention_advance(&upkeep->partition);
	return RESULT_DONE;
}

/* Drop segments below the log start, as far as locks allow. */
static StepResult
drop_expired(Upkeep *upkeep)
{
	return topics_retention_drop(&upkeep->partition) ? RESULT_MORE : RESULT_DONE;
}

/* Look whether it pays to compact, if it is time to. */
static StepResult
look_at_compaction(Upkeep *upkeep)
{
	Partition  *partition = &upkeep->partition;
	const TopicSettings *settings = &partition->topic->settings;

	if (!topics_compact_is_due(settings, partition->state))
		return RESULT_NOTHING;
	topics_backoff_step(STEP_COMPACT);
	topics_compact_look(partition);
	upkeep->worth_compaction = topics_compact_is_wanted(settings, partition->state);
	return RESULT_DONE;
}

/* ----------------------------------------------------------------
 *		Which steps, and in what order
 * ----------------------------------------------------------------
 */

static bool
roll_is_due(const Upkeep *upkeep)
{
	return (upkeep->requests & REQUEST_ROLL) != 0;
}

static bool
cover_is_due(const Upkeep *upkeep)
{
	if (upkeep->cut)
		TEST_POINT("cut-done");
	return upkeep->cut;
}

static bool
spare_is_due(const Upkeep *upkeep)
{
	return (upkeep->requests & REQUEST_SPARE) != 0;
}

static bool
seal_is_due(const Upkeep *upkeep)
{
	return (upkeep->requests & (REQUEST_SEAL | REQUEST_ROLL)) != 0;
}

static bool
retention_is_due(const Upkeep *upkeep)
{
	return upkeep->retention || seal_is_due(upkeep) || (upkeep->requests & REQUEST_DROP) != 0;
}

static bool
expired_roll_is_due(const Upkeep *upkeep)
{
	return upkeep->active_expired;
}

typedef struct Step
{
	WorkStep	name;
	bool		(*is_due) (const Upkeep *upkeep);	/* NULL: "take" sees to
													 * it, and notes the step */
	StepResult	(*take) (Upkeep *upkeep);
} Step;

/* In the order in which they are taken; whether one is due is asked then. */
static const Step steps[] = {
	{STEP_ROLL, roll_is_due, cut_active_segment},
	{STEP_ROLL, cover_is_due, cover_cut},
	{STEP_SPARE, spare_is_due, attach_spare},
	{STEP_SEAL, seal_is_due, seal_segment},
	{STEP_EXPIRE, retention_is_due, expire_records},
	/* the active segment too, so that a quiet topic's last records go */
	{STEP_ROLL, expired_roll_is_due, cut_active_segment},
	{STEP_ROLL, cover_is_due, cover_cut},
	{STEP_SEAL, expired_roll_is_due, seal_segment},
	{STEP_EXPIRE, expired_roll_is_due, expire_records},
	{STEP_DROP, retention_is_due, drop_expired},
	{STEP_COMPACT, NULL, look_at_compaction},
};

/*
 * Do what is due; the partition may go at any time between two transactions.
 */
static void
take_steps(Upkeep *upkeep)
{
	for (size_t i = 0; i < lengthof(steps); i++)
	{
		const Step *step = &steps[i];
		StepResult	result = RESULT_MORE;

		if (step->is_due && !step->is_due(upkeep))
			continue;
		while (result == RESULT_MORE)
		{
			if (!find_partition(upkeep))
				return;
			if (step->is_due)
				topics_backoff_step(step->name);
			PushActiveSnapshot(GetTransactionSnapshot());
			result = step->take(upkeep);
			PopActiveSnapshot();
			if (result != RESULT_NOTHING)
				upkeep->next_transaction();
		}
	}
	if (upkeep->worth_compaction)
		topics_worker_registry_wake_worker();
}

/* What a partition was asked for, taken off its state to be done. */
typedef struct TakenRequests
{
	PartitionState *state;
	TopicPartition id;
	uint32		requests;
} TakenRequests;

/*
 * Give requests back that were not done: the next process that comes round does
 * them.  Also called by exit().
 */
static void
give_requests_back(int code, Datum arg)
{
	TakenRequests *taken = (TakenRequests *) DatumGetPointer(arg);

	/* should it become another topic's right now, that is looked at in vain */
	if (memcmp(&taken->state->id, &taken->id, sizeof(TopicPartition)) == 0)
		pg_atomic_fetch_or_u32(&taken->state->requests, taken->requests);
	topics_worker_registry_note_change();
}

/*
 * Return true if a log that ends at "end" is to have a spare: by the rule by
 * which producers ask for one, the active segment is half full; or it has
 * none.
 */
static bool
wants_spare(const Partition *partition, int64 end)
{
	Segment		active;

	return !topics_segment_find(partition->rel, end, &active) ||
		end >= topics_segment_half(active.base_offset, active.end_offset);
}

/*
 * Decide what is to be done, of what was asked for and of what is due.  Return
 * false if that cannot be known yet.
 */
static bool
choose_work(Upkeep *upkeep, TakenRequests *taken, bool roll_now)
{
	Partition  *partition = &upkeep->partition;
	PartitionState *state = partition->state;
	const TopicSettings *settings = &partition->topic->settings;
	bool		known;

	PushActiveSnapshot(GetTransactionSnapshot());
	topics_catalog_reopen_partition(partition, AccessShareLock);
	/* before a restart, or by a foreign writer, anything may be left undone */
	if (!state->looked_at || pg_atomic_read_u64(&state->next_offset) == UNKNOWN_OFFSET)
	{
		taken->requests |= REQUEST_SEAL | REQUEST_DROP;
		if (wants_spare(partition, topics_log_next_offset(partition)))
			taken->requests |= REQUEST_SPARE;
	}
	/* a restore that has not come to the partition's row: leave it alone */
	known = pg_atomic_read_u64(&state->next_offset) != UNKNOWN_OFFSET;
	state->looked_at = known;
	topics_catalog_close_partition(partition, NoLock);
	PopActiveSnapshot();

	upkeep->requests = taken->requests;
	if (roll_now || active_segment_is_old(partition->topic, state) ||
		topics_partition_state_active_bytes(state) >= settings->segment_bytes)
		upkeep->requests |= REQUEST_ROLL;
	/* if only half of the cut is done, the rest is a segment and a seal */
	if (upkeep->requests & REQUEST_ROLL)
		taken->requests |= REQUEST_SPARE | REQUEST_SEAL;
	upkeep->retention = topics_retention_is_due(settings, state);
	return known;
}

/*
 * Do all that is due for a partition but to compact it, and with "roll_now"
 * cut its active segment, due or not.  Return false if that could not be cut
 * now.  The call is made in a transaction, and returns in another one.  What
 * was requested stays so if an error, or the end of the process, comes before
 * it is done.
 */
bool
topics_maintain_partition(Oid view_relid, int32 partition, bool roll_now,
						  NextTransaction next_transaction)
{
	Upkeep		upkeep = {
		.view_relid = view_relid,
		.partition = {.number = partition},
		.next_transaction = next_transaction
	};
	TakenRequests taken;

	if (!find_partition(&upkeep))
		return true;
	taken.state = upkeep.partition.state;
	taken.id = taken.state->id;
	taken.requests = pg_atomic_exchange_u32(&taken.state->requests, 0);
	PG_ENSURE_ERROR_CLEANUP(give_requests_back, PointerGetDatum(&taken));
	{
		bool		known = choose_work(&upkeep, &taken, roll_now);

		next_transaction();
		if (known)
			take_steps(&upkeep);
	}
	PG_END_ENSURE_ERROR_CLEANUP(give_requests_back, PointerGetDatum(&taken));
	return !upkeep.put_off;
}

/* ----------------------------------------------------------------
 *		Compaction
 * ----------------------------------------------------------------
 */

/* Take a turn of compaction, in a transaction, and end in another one. */
static CompactResult
compact_partition(Oid view_relid, int32 partition, NextTransaction next_transaction)
{
	Upkeep		upkeep = {
		.view_relid = view_relid,
		.partition = {.number = partition},
		.next_transaction = next_transaction
	};
	CompactResult result;

	if (!find_partition(&upkeep) || !upkeep.partition.topic->settings.compact)
		return COMPACT_DONE;
	PushActiveSnapshot(GetTransactionSnapshot());

	/*
	 * of a log that is not complete, what is lost would not be missed any
	 * more
	 */
	result = log_end_is_known(&upkeep.partition) ? topics_compact_turn(&upkeep.partition) :
		COMPACT_DONE;
	PopActiveSnapshot();
	next_transaction();
	return result;
}

/*
 * The same, by a process that compacts what is wanted.  Return true if the
 * next turn can come at once.
 */
bool
topics_maintain_compact(Oid view_relid, int32 partition, NextTransaction next_transaction)
{
	CompactResult result = compact_partition(view_relid, partition, next_transaction);
	Topic	   *topic = topics_catalog_get(view_relid, true);

	if (result != COMPACT_DONE && topic != NULL)
	{
		PartitionState *state = topics_catalog_try_partition_state(topic, partition);

		if (state)
			state->compact_at = COMPACTION_WANTED;
	}
	return result == COMPACT_MORE;
}

/* ----------------------------------------------------------------
 *		By hand
 * ----------------------------------------------------------------
 */

/*
 * A transaction by hand commits as the worker's do (background.c): others wait
 * for its locks, or for a cut, and are not to wait until a synchronous standby
 * is back.
 */
static int	guc_level;

static void
begin_transaction_by_hand(void)
{
	guc_level = NewGUCNestLevel();
	topics_settings_override("synchronous_commit", "off");
}

/* Go to the next transaction. */
static void
commit_by_hand(void)
{
	SPI_commit();
	begin_transaction_by_hand();
}

/*
 * Begin with a transaction of our own: what was written before is the user's.
 */
static void
begin_by_hand(void)
{
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	SPI_commit();
	begin_transaction_by_hand();
}

static void
end_by_hand(void)
{
	AtEOXact_GUC(false, guc_level);
	SPI_finish();
}

/*
 * Compact a partition now, at full speed, and without saying that it is
 * wanted.  Where something is in the way, the rest is left to the compactor.
 */
static void
compact_by_hand(Oid view_relid, int32 partition, PartitionState *state)
{
	CompactResult result;

	topics_compact_abandon();
	while ((result = compact_partition(view_relid, partition, commit_by_hand)) == COMPACT_MORE)
		CHECK_FOR_INTERRUPTS();
	topics_compact_abandon();
	if (result == COMPACT_LATER)
	{
		state->compact_at = LOOK_NOW;
		topics_worker_registry_wake_worker();
	}
}

/* maintain(topic): the worker's work, for one topic or all of one's own */
Datum
topics_maintain(PG_FUNCTION_ARGS)
{
	const bool	all = PG_ARGISNULL(0);
	List	   *views = NIL;
	ListCell   *lc;

	topics_argument_require_no_block(fcinfo, "topics.maintain()");
	if (!all)
	{
		Topic	   *topic = topics_catalog_lookup(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);

		topics_catalog_require_owner(topic);
		views = list_make1_oid(topic->view_relid);
	}
	else
	{
		topics_backoff_reset(InvalidOid);
		views = topics_catalog_list();
	}

	begin_by_hand();
	foreach(lc, views)
	{
		Topic	   *topic = topics_catalog_get(lfirst_oid(lc), true);

		if (topic == NULL || !topics_catalog_is_owner(topic))
			continue;
		topics_backoff_reset(topic->view_relid);
		for (int32 partition = 0; partition < topic->partitions; partition++)
		{
			PartitionState *state = topics_catalog_try_partition_state(topic, partition);

			CHECK_FOR_INTERRUPTS();
			if (state == NULL)
				break;			/* just dropped */
			pg_atomic_fetch_or_u32(&state->requests,
								   REQUEST_SPARE | REQUEST_SEAL | REQUEST_DROP);
			/* first, or the worker would be told to have it done */
			compact_by_hand(lfirst_oid(lc), partition, state);
			(void) topics_maintain_partition(lfirst_oid(lc), partition, false, commit_by_hand);
			compact_by_hand(lfirst_oid(lc), partition, state);
			/* what that has left to be sealed anew */
			if ((pg_atomic_read_u32(&state->requests) & REQUEST_SEAL) != 0)
				(void) topics_maintain_partition(lfirst_oid(lc), partition, false, commit_by_hand);
			topic = topics_catalog_get(lfirst_oid(lc), true);
			if (topic == NULL)
				break;
		}
		if (topic && !all)
			topics_checkpoint_store(topic->view_relid, PortalContext, commit_by_hand);
		if (topic && strcmp(NameStr(topic->name), CONSUMER_OFFSETS_TOPIC) == 0)
		{
			topics_offset_log_follow_owners(PortalContext, commit_by_hand);
			topics_settle_groups(PortalContext, true, commit_by_hand);
		}
		if (topic && strcmp(NameStr(topic->name), PRODUCER_STATE_TOPIC) == 0)
			topics_producer_expire(PortalContext, commit_by_hand);
	}
	if (all)
	{
		topics_checkpoint_store(InvalidOid, PortalContext, commit_by_hand);
		/* to whom they belonged is not known any more, nor does it matter */
		(void) topics_dropped_topic_finish(topics_catalog_is_admin(), PortalContext, commit_by_hand,
										   NULL);
	}
	end_by_hand();
	PG_RETURN_VOID();
}

/* Arguments of roll_segment. */
enum
{
	ROLL_TOPIC,
	ROLL_PARTITION
};

/* roll_segment(topic, partition): begin a new segment now */
Datum
topics_roll_segment(PG_FUNCTION_ARGS)
{
	Topic	   *topic;
	Oid			view_relid;
	int32		from = 0;
	int32		upto;

	topics_argument_require_no_block(fcinfo, "topics.roll_segment()");
	topic = topics_catalog_lookup(topics_argument_get_text(fcinfo, ROLL_TOPIC), false);
	topics_catalog_require_owner(topic);
	view_relid = topic->view_relid;
	upto = topic->partitions;
	if (!PG_ARGISNULL(ROLL_PARTITION))
	{
		from = PG_GETARG_INT32(ROLL_PARTITION);
		topics_catalog_check_partition(topic, from);
		upto = from + 1;
	}

	begin_by_hand();
	for (int32 partition = from; partition < upto; partition++)
		/* it waits for who is in the way, without a lock of its own */
		while (!topics_maintain_partition(view_relid, partition, true, commit_by_hand))
			CHECK_FOR_INTERRUPTS();
	end_by_hand();
	PG_RETURN_VOID();
}
