/*-------------------------------------------------------------------------
 *
 * maintain.c
 *		What has to be done for a partition from time to time.
 *
 *	roll	cut the tail when it is too large or too old, or VACUUM asked
 *	spare	attach the next segment when the tail is half full
 *	seal	freeze and index segments that are full
 *	expire	move the log start up, as policy wants it (retention.c)
 *	drop	drop the segments below it
 *	look	whether it pays to compact it
 *	compact	keep the latest record of each key (compact.c)
 *
 * Each step is a transaction, so that locks are held shortly and a failure
 * costs one step.  The worker does this on its own, but for compaction, which
 * has a process for itself (compactor.c); CALL topics.maintain() and
 * topics.roll_segment() do it by hand.  Who calls supplies the way to
 * get to the next transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "consumer.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_maintain);
PG_FUNCTION_INFO_V1(topics_roll_segment);

/*
 * The partition's table, or InvalidOid if topic or partition have gone.  What
 * is found stays until the transaction ends: DROP begins at the root, whose
 * lock is taken here, and waited for where a DROP has it.  Not the view's,
 * which a rename wants: it would wait for a VACUUM, and others behind it.
 */
static Oid
find_partition(Oid view_relid, int32 partition, Topic **topic, PartitionState **state)
{
	Oid			relid;

	*topic = topics_catalog_get(view_relid, true);
	if (*topic == NULL)
		return InvalidOid;
	LockRelationOid((*topic)->root_relid, AccessShareLock);
	*topic = topics_catalog_get(view_relid, true);
	if (*topic == NULL || partition >= (*topic)->partitions)
		return InvalidOid;
	relid = topics_catalog_partition_relid(*topic, partition);
	if (OidIsValid(relid))
		*state = topics_catalog_partition_state(*topic, partition);
	return relid;
}

/*
 * Is the tail older than segment_time, or than retention_time?  The latter
 * for the sake of records with a timestamp in the future: sealed, they are no
 * younger than the seal.
 *
 * A tail that seems to come from the future, since the clock was set back, is
 * as old as now: else it would not be rolled until the clock is there again.
 * (Who writes tail_started beside us writes the time as well.)
 */
static bool
tail_is_old(Topic *topic, PartitionState *state)
{
	const TopicSettings *settings = &topic->settings;
	TimestampTz started = state->tail_started;
	TimestampTz now = GetCurrentTimestamp();
	int64		age_ms;

	if (started == 0 || (int64) pg_atomic_read_u64(&state->next_offset) <= state->tail_base)
		return false;
	if (started > now)
		state->tail_started = started = now;
	age_ms = (now - started) / 1000;
	return (settings->segment_ms >= 0 && age_ms >= settings->segment_ms) ||
		(settings->delete && settings->retention_ms >= 0 && age_ms >= settings->retention_ms);
}

/* Is there anything to do?  Cheap: looks at shared memory only. */
bool
topics_maintain_is_due(Topic *topic, int32 partition)
{
	TopicPartition id = {MyDatabaseId, partition, topic->topic_id};
	PartitionState *state = topics_partition_state_find(&id);

	return state == NULL || !state->looked_at ||
		pg_atomic_read_u32(&state->requests) != 0 ||
		pg_atomic_read_u64(&state->next_offset) == UNKNOWN_OFFSET ||
		tail_is_old(topic, state) || topics_retention_is_due(&topic->settings, state) ||
		topics_compact_is_due(&topic->settings, state);
}

/* Is it to be compacted?  Cheap, too. */
static bool
wants_compaction(Topic *topic, int32 partition)
{
	TopicPartition id = {MyDatabaseId, partition, topic->topic_id};
	PartitionState *state = topics_partition_state_find(&id);

	return state != NULL && topics_compact_is_wanted(&topic->settings, state);
}

/*
 * The partitions that compaction pays for now, in the caller's transaction:
 * DuePartitions, in a memory context.  Not those that have failed, and whose
 * time to try again has not come.
 */
List *
topics_maintain_collect_compaction(MemoryContext cxt)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, topics_catalog_list())
	{
		Topic	   *topic = topics_catalog_get(lfirst_oid(lc), true);
		WorkPiece	piece = {MyDatabaseId, lfirst_oid(lc), 0, WORK_COMPACT};

		for (; topic && piece.partition < topic->partitions; piece.partition++)
			if (wants_compaction(topic, piece.partition) && topics_backoff_left(&piece) <= 0)
			{
				MemoryContext old = MemoryContextSwitchTo(cxt);
				DuePartition *due = palloc(sizeof(DuePartition));

				due->piece = piece;
				due->topic = topic->name;
				result = lappend(result, due);
				MemoryContextSwitchTo(old);
			}
	}
	return result;
}

/* Cut the tail; two transactions, see segment.c. */
static void
roll(Oid view_relid, int32 partition, NextTransaction next_transaction)
{
	Topic	   *topic;
	PartitionState *state;
	Oid			relid = find_partition(view_relid, partition, &topic, &state);
	int64		segment_bytes;
	int64		cut_at;

	topics_backoff_step(STEP_ROLL);
	if (!OidIsValid(relid))
		return;
	segment_bytes = topic->settings.segment_bytes;
	PushActiveSnapshot(GetTransactionSnapshot());
	if (!topics_segment_cut(relid, state, &cut_at))
	{
		PopActiveSnapshot();
		return;
	}
	PopActiveSnapshot();
	next_transaction();
	TEST_POINT("cut-done");

	relid = find_partition(view_relid, partition, &topic, &state);
	if (!OidIsValid(relid))
		return;
	PushActiveSnapshot(GetTransactionSnapshot());
	topics_segment_cover(relid, state, cut_at, cut_at, segment_bytes, false);
	PopActiveSnapshot();
	pg_atomic_fetch_or_u32(&state->requests, REQUEST_SEAL);
	next_transaction();
}

/* Attach a segment behind the tail. */
static void
make_spare(Oid view_relid, int32 partition, NextTransaction next_transaction)
{
	Topic	   *topic;
	PartitionState *state;
	Oid			relid = find_partition(view_relid, partition, &topic, &state);
	Relation	rel;
	Segment		tail;
	int64		end;
	int64		wanted;
	bool		needed;

	topics_backoff_step(STEP_SPARE);
	if (!OidIsValid(relid))
		return;
	PushActiveSnapshot(GetTransactionSnapshot());
	rel = table_open(relid, AccessShareLock);
	end = topics_log_end(rel, state);
	/* the offset that has to have a segment; a tail just filled has none above */
	wanted = topics_segment_find(rel, end, &tail) ? tail.end_offset : end;
	needed = !topics_segment_covers(rel, wanted, wanted);
	table_close(rel, NoLock);
	if (needed)
		topics_segment_cover(relid, state, wanted, wanted, topic->settings.segment_bytes, false);
	PopActiveSnapshot();
	next_transaction();
}

static bool
has_index(Oid relid)
{
	Relation	rel = try_relation_open(relid, AccessShareLock);
	bool		result = rel == NULL || topics_log_am_has_index(rel);

	if (rel)
		relation_close(rel, AccessShareLock);
	return result;
}

/* Freeze and index the full segments that are not yet. */
static void
seal(Oid view_relid, int32 partition, NextTransaction next_transaction)
{
	int64		done = 0;

	topics_backoff_step(STEP_SEAL);
	for (;;)
	{
		Topic	   *topic;
		PartitionState *state;
		Oid			relid = find_partition(view_relid, partition, &topic, &state);
		Relation	rel;
		Segment		segment;
		bool		found;

		if (!OidIsValid(relid))
			return;
		PushActiveSnapshot(GetTransactionSnapshot());
		rel = table_open(relid, AccessShareLock);
		found = topics_segment_find_next(rel, done, &segment) &&
			segment.end_offset <= topics_log_end(rel, state);
		table_close(rel, NoLock);
		if (found && !has_index(segment.relid))
			topics_segment_seal(segment.relid);
		if (found && has_index(segment.relid) && topics_segment_row_note_sealed(&state->id, &segment))
			state->compact_at = LOOK_NOW;
		PopActiveSnapshot();
		if (!found)
			return;
		done = segment.end_offset;
		next_transaction();
	}
}

/* Move the log start up.  True if the tail must be cut for more to go. */
static bool
expire(Oid view_relid, int32 partition, NextTransaction next_transaction)
{
	Topic	   *topic;
	PartitionState *state;
	Oid			relid = find_partition(view_relid, partition, &topic, &state);
	bool		cut;

	topics_backoff_step(STEP_EXPIRE);
	if (!OidIsValid(relid))
		return false;
	PushActiveSnapshot(GetTransactionSnapshot());
	cut = topics_retention_advance(topic, relid, state);
	PopActiveSnapshot();
	next_transaction();
	return cut;
}

/* Drop the segments below the log start, as far as locks allow. */
static void
drop(Oid view_relid, int32 partition, NextTransaction next_transaction)
{
	bool		more = true;

	topics_backoff_step(STEP_DROP);
	while (more)
	{
		Topic	   *topic;
		PartitionState *state;
		Oid			relid = find_partition(view_relid, partition, &topic, &state);

		if (!OidIsValid(relid))
			return;
		PushActiveSnapshot(GetTransactionSnapshot());
		more = topics_retention_drop(relid, state);
		PopActiveSnapshot();
		next_transaction();
	}
}

/* Let go what is not to be kept any longer. */
static void
retain(Oid view_relid, int32 partition, NextTransaction next_transaction)
{
	if (expire(view_relid, partition, next_transaction))
	{
		roll(view_relid, partition, next_transaction);
		seal(view_relid, partition, next_transaction);
		(void) expire(view_relid, partition, next_transaction);
	}
	drop(view_relid, partition, next_transaction);
}

/* See whether it pays to compact. */
static void
look(Oid view_relid, int32 partition, NextTransaction next_transaction)
{
	Topic	   *topic;
	PartitionState *state;
	Oid			relid = find_partition(view_relid, partition, &topic, &state);

	if (!OidIsValid(relid) || !topics_compact_is_due(&topic->settings, state))
		return;
	topics_backoff_step(STEP_COMPACT);
	PushActiveSnapshot(GetTransactionSnapshot());
	topics_compact_look(topic, relid, state);
	PopActiveSnapshot();
	next_transaction();
	if (topics_compact_is_wanted(&topic->settings, state))
		topics_worker_registry_wake_worker();
}

/* A turn of compaction, in a transaction, and in another one at the end. */
static CompactResult
compact(Oid view_relid, int32 partition, NextTransaction next_transaction)
{
	Topic	   *topic;
	PartitionState *state;
	Oid			relid = find_partition(view_relid, partition, &topic, &state);
	CompactResult result;

	if (!OidIsValid(relid) || !topic->settings.compact)
		return COMPACT_DONE;
	PushActiveSnapshot(GetTransactionSnapshot());
	result = topics_compact_turn(topic, relid, state);
	PopActiveSnapshot();
	next_transaction();
	return result;
}

/*
 * The same, by who compacts what is wanted.  True if the next turn can come at
 * once.
 */
bool
topics_maintain_compact(Oid view_relid, int32 partition, NextTransaction next_transaction)
{
	CompactResult result = compact(view_relid, partition, next_transaction);
	Topic	   *topic = topics_catalog_get(view_relid, true);

	if (result != COMPACT_DONE && topic != NULL)
		topics_catalog_partition_state(topic, partition)->compact_at = COMPACTION_WANTED;
	return result == COMPACT_MORE;
}

/* Do what was requested, or is due. */
static void
do_requests(Oid view_relid, int32 partition, uint32 requests, bool retention,
			NextTransaction next_transaction)
{
	if (requests & REQUEST_ROLL)
	{
		roll(view_relid, partition, next_transaction);
		requests |= REQUEST_SEAL;
	}
	if (requests & REQUEST_SPARE)
		make_spare(view_relid, partition, next_transaction);
	if (requests & REQUEST_SEAL)
		seal(view_relid, partition, next_transaction);
	if (retention || (requests & (REQUEST_SEAL | REQUEST_DROP)))
		retain(view_relid, partition, next_transaction);
	look(view_relid, partition, next_transaction);
}

/* What a partition was asked for, taken off its state to be done. */
typedef struct TakenRequests
{
	PartitionState *state;
	TopicPartition id;
	uint32		requests;
} TakenRequests;

/* It was not done: the next who comes round has to.  Also called by exit(). */
static void
give_requests_back(int code, Datum arg)
{
	TakenRequests *taken = (TakenRequests *) DatumGetPointer(arg);

	/* should it become another topic's right now, that is looked at in vain */
	if (memcmp(&taken->state->id, &taken->id, sizeof(TopicPartition)) == 0)
		pg_atomic_fetch_or_u32(&taken->state->requests, taken->requests);
}

/*
 * Do all that is due for a partition but to compact it, and with "roll_now" cut
 * its tail, due or not.  In a transaction, and in another one at the end.  What was
 * requested stays so if an error, or the end of the process, comes before it
 * is done.
 */
void
topics_maintain_partition(Oid view_relid, int32 partition, bool roll_now,
						  NextTransaction next_transaction)
{
	Topic	   *topic;
	PartitionState *state;
	Oid			relid = find_partition(view_relid, partition, &topic, &state);
	TakenRequests taken;
	uint32		requests;
	Relation	rel;
	bool		retention;
	bool		restored;

	if (!OidIsValid(relid))
		return;
	taken.state = state;
	taken.id = state->id;
	taken.requests = pg_atomic_exchange_u32(&state->requests, 0);
	PG_ENSURE_ERROR_CLEANUP(give_requests_back, PointerGetDatum(&taken));
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		rel = table_open(relid, AccessShareLock);
		/* before a restart, or by a foreign writer, anything may be left undone */
		if (!state->looked_at || pg_atomic_read_u64(&state->next_offset) == UNKNOWN_OFFSET)
			taken.requests |= REQUEST_SPARE | REQUEST_SEAL | REQUEST_DROP;
		(void) topics_log_end(rel, state);
		/* a restore that has not come to the partition's row: leave it alone */
		restored = pg_atomic_read_u64(&state->next_offset) != UNKNOWN_OFFSET;
		state->looked_at = restored;
		table_close(rel, NoLock);
		PopActiveSnapshot();
		requests = taken.requests;
		if (roll_now || tail_is_old(topic, state) ||
			(int64) state->tail_blocks * BLCKSZ >= topic->settings.segment_bytes)
			requests |= REQUEST_ROLL;
		/* if only half of the cut is done, the rest is a segment and a seal */
		if (requests & REQUEST_ROLL)
			taken.requests |= REQUEST_SPARE | REQUEST_SEAL;
		retention = topics_retention_is_due(&topic->settings, state);
		next_transaction();

		if (restored)
			do_requests(view_relid, partition, requests, retention, next_transaction);
	}
	PG_END_ENSURE_ERROR_CLEANUP(give_requests_back, PointerGetDatum(&taken));
}

/* ----------------------------------------------------------------
 *		By hand
 * ----------------------------------------------------------------
 */

static void
require_no_transaction_block(FunctionCallInfo fcinfo, const char *command)
{
	CallContext *context = (CallContext *) fcinfo->context;

	topics_require_preload();
	if (context == NULL || !IsA(context, CallContext) || context->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run inside a transaction block", command)));
	PreventCommandIfReadOnly(command);
}

/*
 * Compact a partition now, at full speed, and without saying that it is
 * wanted: what is in the way is left to the compactor then.
 */
static void
compact_by_hand(Oid view_relid, int32 partition, PartitionState *state)
{
	CompactResult result;

	topics_compact_abandon();
	while ((result = compact(view_relid, partition, SPI_commit)) == COMPACT_MORE)
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
	List	   *views = NIL;
	ListCell   *lc;

	require_no_transaction_block(fcinfo, "topics.maintain()");
	if (!PG_ARGISNULL(0))
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

	SPI_connect_ext(SPI_OPT_NONATOMIC);
	foreach(lc, views)
	{
		Topic	   *topic = topics_catalog_get(lfirst_oid(lc), true);

		if (topic == NULL || !topics_catalog_is_owner(topic))
			continue;
		topics_backoff_reset(topic->view_relid);
		for (int32 partition = 0; partition < topic->partitions; partition++)
		{
			PartitionState *state = topics_catalog_partition_state(topic, partition);

			CHECK_FOR_INTERRUPTS();
			pg_atomic_fetch_or_u32(&state->requests,
								   REQUEST_SPARE | REQUEST_SEAL | REQUEST_DROP);
			/* first, or the worker would be told to have it done */
			compact_by_hand(lfirst_oid(lc), partition, state);
			topics_maintain_partition(lfirst_oid(lc), partition, false, SPI_commit);
			compact_by_hand(lfirst_oid(lc), partition, state);
			topic = topics_catalog_get(lfirst_oid(lc), true);
			if (topic == NULL)
				break;
		}
		if (topic && strcmp(NameStr(topic->name), CONSUMER_OFFSETS_TOPIC) == 0)
			topics_offset_log_follow_owners(PortalContext, SPI_commit);
	}
	SPI_finish();
	PG_RETURN_VOID();
}

/* roll_segment(topic, partition): begin a new segment now */
Datum
topics_roll_segment(PG_FUNCTION_ARGS)
{
	Topic	   *topic;
	Oid			view_relid;
	int32		from = 0;
	int32		upto;

	require_no_transaction_block(fcinfo, "topics.roll_segment()");
	topics_argument_require(fcinfo, 0, "topic");
	topic = topics_catalog_lookup(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	topics_catalog_require_owner(topic);
	view_relid = topic->view_relid;
	upto = topic->partitions;
	if (!PG_ARGISNULL(1))
	{
		from = PG_GETARG_INT32(1);
		topics_catalog_check_partition(topic, from);
		upto = from + 1;
	}

	SPI_connect_ext(SPI_OPT_NONATOMIC);
	for (int32 partition = from; partition < upto; partition++)
		topics_maintain_partition(view_relid, partition, true, SPI_commit);
	SPI_finish();
	PG_RETURN_VOID();
}
