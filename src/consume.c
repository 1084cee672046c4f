/*-------------------------------------------------------------------------
 *
 * consume.c
 *		consume(): claim a partition for a group, read from its committed
 *		offset on, and move that when the transaction commits.
 *
 * No member is registered and no heartbeat sent: a claim is a lock that ends
 * with the transaction (consumer_offset.c).  So any number of sessions share
 * a topic's partitions, each call getting the free one with records that was
 * served longest ago, and what the transaction does with the records is done
 * exactly once.
 *
 * A group's first call fixes where it begins in a topic (its subscription):
 * at the start of the log, or with 'latest' at the ends that the partitions
 * have then.  Partitions that are added later are read from their start.
 *
 * In READ COMMITTED records are read through a new snapshot, as a volatile
 * function's queries would: the statement's own may be older than the commit
 * that the group's place comes from.  In the other levels the transaction's
 * snapshot is used, and a place that it does not account for is an error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "consumer.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_consume);
PG_FUNCTION_INFO_V1(topics_wait);

/* A group's use of a topic, in one call. */
typedef struct Consumer
{
	char	   *group_id;
	char	   *topic_name;
	Oid			view_relid;
	int64		topic_id;
	Topic	   *topic;
	PartitionState *topic_state;
	LocalOffset *subscription;	/* NULL in wait() */
	OffsetReset reset;
} Consumer;

/*
 * The partition that this session claimed last.  Partitions that the group was
 * never served from are tried from the next one on: should the first one's
 * records make transactions fail, a new group, of which nothing is remembered
 * then, gets to the others all the same.
 */
static int64 last_topic_id = NO_TOPIC;
static int32 last_partition;

/* Where a group stands in a partition. */
typedef struct Place
{
	int64		position;		/* next offset to be consumed, or NO_OFFSET */
	int64		log_start;
	int64		log_end;
	bool		is_claimed;		/* by another session */
	uint64		served;
} Place;

/* ----------------------------------------------------------------
 *		Places
 * ----------------------------------------------------------------
 */

/* The two ends of a partition's log; without opening it, as a rule. */
static void
look_at_log(Topic *topic, int32 partition, PartitionState *state, Place *place)
{
	place->log_start = pg_atomic_read_u64(&state->log_start_offset);
	place->log_end = pg_atomic_read_u64(&state->next_offset);
	if (place->log_start == UNKNOWN_OFFSET || place->log_end == UNKNOWN_OFFSET ||
		RecoveryInProgress())
	{
		Relation	rel = topics_fetch_open_partition(topic, partition);

		PushActiveSnapshot(GetTransactionSnapshot());
		place->log_start = topics_log_start(rel, state);
		place->log_end = topics_log_end(rel, state);
		PopActiveSnapshot();
		table_close(rel, AccessShareLock);
	}
}

/* Where the group stands, to this transaction, and whether that is taken. */
static void
look_at_group(const Consumer *consumer, int32 partition, Place *place)
{
	GroupOffset entry;
	LocalOffset *local;
	uint32		claimed_by = 0;

	place->position = NO_OFFSET;
	place->served = 0;
	if (topics_offset_table_peek(consumer->group_id, consumer->topic_id, partition, &entry))
	{
		place->position = pg_atomic_read_u64(&entry.committed);
		if (place->position == NO_OFFSET)
			place->position = pg_atomic_read_u64(&entry.start);
		place->served = pg_atomic_read_u64(&entry.served);
		claimed_by = pg_atomic_read_u32(&entry.claimed_by);
	}
	local = topics_consumer_offset_find_local(consumer->group_id, consumer->topic_id, partition);
	if (local && local->change)
		place->position = topics_consumer_offset_position(local);
	if (place->position == NO_OFFSET && consumer->reset != RESET_NONE)
		place->position = 0;
	place->is_claimed = claimed_by != 0 && claimed_by != (uint32) MyProcPid;
}

/* Is there anything for the group: a record, or an error to tell it? */
static bool
has_something(const Place *place)
{
	if (place->position == NO_OFFSET)
		return place->log_end > place->log_start;
	return place->position > place->log_end ||
		place->log_end > Max(place->position, place->log_start);
}

/* WakeupCheck: is there something in a partition that nobody has claimed? */
static bool
something_is_free(void *arg)
{
	Consumer   *consumer = arg;

	AcceptInvalidationMessages();
	consumer->topic = topics_catalog_get(consumer->view_relid, true);
	if (consumer->topic == NULL || consumer->topic->topic_id != consumer->topic_id)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("topic \"%s\" was dropped", consumer->topic_name)));
	for (int32 partition = 0; partition < consumer->topic->partitions; partition++)
	{
		PartitionState *state = topics_catalog_partition_state(consumer->topic, partition);
		Place		place;

		look_at_group(consumer, partition, &place);
		look_at_log(consumer->topic, partition, state, &place);
		if (!has_something(&place))
		{
			/* say what is wanted, and look once more */
			topics_wakeup_want(state, (place.position == NO_OFFSET ? place.log_start :
									   Max(place.position, place.log_start)) + 1);
			look_at_log(consumer->topic, partition, state, &place);
		}
		if (has_something(&place) && place.is_claimed)
		{
			topics_wakeup_want_claim(consumer->topic_state);
			look_at_group(consumer, partition, &place);
		}
		if (has_something(&place) && !place.is_claimed)
			return true;
	}
	return false;
}

/* ----------------------------------------------------------------
 *		Joining the group
 * ----------------------------------------------------------------
 */

/* The topic's log ends now: where a group begins with 'latest'. */
static int64 *
log_ends(Topic *topic)
{
	int64	   *ends = palloc(sizeof(int64) * topic->partitions);

	for (int32 partition = 0; partition < topic->partitions; partition++)
	{
		Place		place;

		look_at_log(topic, partition, topics_catalog_partition_state(topic, partition), &place);
		ends[partition] = place.log_end;
	}
	return ends;
}

/* Have the group's subscription, made if this is its first call. */
static void
subscribe(Consumer *consumer, OffsetReset reset)
{
	GroupOffsetFacts facts = {.reset = reset,.partitions = consumer->topic->partitions};
	GroupOffset entry;
	const int64 *starts = NULL;

	if (reset == RESET_LATEST &&
		!topics_offset_table_peek(consumer->group_id, consumer->topic_id, NO_PARTITION, &entry))
		starts = log_ends(consumer->topic);
	consumer->subscription = topics_consumer_offset_use(consumer->group_id, consumer->topic_id,
														NO_PARTITION, &facts, starts);
	consumer->reset = consumer->subscription->shared->facts.reset;
	if (topics_consumer_offset_exists(consumer->subscription))
		return;
	topics_consumer_offset_change(consumer->subscription, 1, NULL);
	/* lest the topic be gone at the commit */
	table_close(topics_fetch_open_partition(consumer->topic, 0), NoLock);
}

static void
look_up_topic(Consumer *consumer)
{
	consumer->topic = topics_catalog_lookup(consumer->topic_name, false);
	topics_catalog_require(consumer->topic, ACL_SELECT);
	consumer->topic_id = consumer->topic->topic_id;
	consumer->view_relid = consumer->topic->view_relid;
	consumer->topic_state = topics_catalog_partition_state(consumer->topic, 0);
}

static OffsetReset
reset_argument(FunctionCallInfo fcinfo, int argument)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(argument));

	if (strcmp(name, "earliest") == 0)
		return RESET_EARLIEST;
	if (strcmp(name, "latest") == 0)
		return RESET_LATEST;
	if (strcmp(name, "none") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid auto_offset_reset \"%s\"", name),
				 errhint("Use 'earliest', 'latest' or 'none'.")));
	return RESET_NONE;
}

/* ----------------------------------------------------------------
 *		Claiming
 * ----------------------------------------------------------------
 */

static void
report_out_of_range(const Consumer *consumer, int32 partition, const Place *place)
{
	if (place->position == NO_OFFSET)
		ereport(ERROR,
				(errcode(ERRCODE_OFFSET_OUT_OF_RANGE),
				 errmsg("consumer group \"%s\" has no committed offset in partition %d of topic \"%s\"",
						consumer->group_id, partition, consumer->topic_name),
				 errdetail("Its auto_offset_reset is \"none\"."),
				 errhint("Set one with topics.reset_offset().")));
	ereport(ERROR,
			(errcode(ERRCODE_OFFSET_OUT_OF_RANGE),
			 errmsg("committed offset " INT64_FORMAT " of consumer group \"%s\" is out of range for partition %d of topic \"%s\"",
					place->position, consumer->group_id, partition, consumer->topic_name),
			 topics_log_range_detail(place->log_start, place->log_end),
			 errhint("Set another one with topics.reset_offset().")));
}

/*
 * Move the group on where nothing was read; who reads has a lock already.  The
 * table stays locked, lest the topic be gone at the commit.
 */
static void
move_without_reading(const Consumer *consumer, LocalOffset *local, int64 offset)
{
	table_close(topics_fetch_open_partition(consumer->topic, local->shared->key.partition), NoLock);
	topics_consumer_offset_change(local, offset, NULL);
}

/*
 * The group's place is behind the log start: go where auto_offset_reset says,
 * and say so.  Who never was anywhere begins at the log start.
 */
static void
skip_removed(const Consumer *consumer, LocalOffset *local, Place *place)
{
	int32		partition = local->shared->key.partition;
	int64		lost = place->log_start - place->position;

	if (place->position == 0 && topics_consumer_offset_position(local) == NO_OFFSET)
	{
		place->position = place->log_start;
		return;
	}
	if (consumer->reset == RESET_NONE)
		report_out_of_range(consumer, partition, place);
	ereport(NOTICE,
			(errmsg("consumer group \"%s\" skips " INT64_FORMAT " offsets of partition %d of topic \"%s\" that were removed",
					consumer->group_id, lost, partition, consumer->topic_name),
			 errdetail("The log starts at offset " INT64_FORMAT " now; auto_offset_reset is \"%s\".",
					   place->log_start,
					   consumer->reset == RESET_LATEST ? "latest" : "earliest")));
	if (consumer->reset == RESET_LATEST)
	{
		place->position = place->log_end;
		move_without_reading(consumer, local, place->log_end);
	}
	else
		place->position = place->log_start;
}

/*
 * Claim a partition, if it is free and, with the claim, still has something.
 * The result is the transaction's own entry, and where to read from.
 */
static LocalOffset *
claim(const Consumer *consumer, int32 partition, int64 *from)
{
	LocalOffset *local = topics_consumer_offset_use(consumer->group_id, consumer->topic_id,
													partition, NULL, NULL);
	bool		is_ours = local->claimed != InvalidSubTransactionId;
	PartitionState *state = topics_catalog_partition_state(consumer->topic, partition);
	Place		place;

	if (!topics_consumer_offset_claim(local, consumer->topic_state, false))
		return NULL;

	look_at_group(consumer, partition, &place);
	look_at_log(consumer->topic, partition, state, &place);
	if (place.position == NO_OFFSET ? has_something(&place) : place.position > place.log_end)
		report_out_of_range(consumer, partition, &place);
	if (has_something(&place) && place.position < place.log_start)
		skip_removed(consumer, local, &place);
	*from = place.position;
	if (!has_something(&place))
	{
		if (!is_ours && local->change == NULL)
			topics_consumer_offset_unclaim(local);
		return NULL;
	}
	pg_atomic_write_u64(&local->shared->served,
						pg_atomic_add_fetch_u64(&consumer->subscription->shared->served, 1));
	last_topic_id = consumer->topic_id;
	last_partition = partition;
	return local;
}

typedef struct Candidate
{
	int32		partition;
	int32		turn;			/* among those that were never served */
	uint64		served;
} Candidate;

/* Served longest ago first. */
static int
compare_candidates(const void *a, const void *b)
{
	const Candidate *ca = a;
	const Candidate *cb = b;

	if (ca->served != cb->served)
		return ca->served < cb->served ? -1 : 1;
	return ca->turn < cb->turn ? -1 : 1;
}

/* Claim one of the partitions that are free and have something, or none. */
static LocalOffset *
claim_one(const Consumer *consumer, int64 *from)
{
	Topic	   *topic = consumer->topic;
	Candidate  *candidates = palloc(sizeof(Candidate) * topic->partitions);
	int			ncandidates = 0;
	int32		first = last_topic_id == consumer->topic_id ? last_partition + 1 : 0;
	LocalOffset *local = NULL;

	for (int32 partition = 0; partition < topic->partitions; partition++)
	{
		Place		place;

		look_at_group(consumer, partition, &place);
		if (place.is_claimed)
			continue;
		look_at_log(topic, partition, topics_catalog_partition_state(topic, partition), &place);
		if (!has_something(&place))
			continue;
		candidates[ncandidates].partition = partition;
		candidates[ncandidates].turn = (partition - first + topic->partitions) % topic->partitions;
		candidates[ncandidates++].served = place.served;
	}
	qsort(candidates, ncandidates, sizeof(Candidate), compare_candidates);
	for (int i = 0; i < ncandidates && local == NULL; i++)
		local = claim(consumer, candidates[i].partition, from);
	pfree(candidates);
	return local;
}

/* ----------------------------------------------------------------
 *		consume
 * ----------------------------------------------------------------
 */

/*
 * Read a claimed partition, and move on.  False if there was no record: the
 * snapshot is too old for it, or compaction has taken all that there were.
 */
static bool
read_claimed(const Consumer *consumer, LocalOffset *local, int64 from,
			 const FetchLimits *limits, FetchResult *result)
{
	int32		partition = local->shared->key.partition;
	PartitionState *state = topics_catalog_partition_state(consumer->topic, partition);
	int64		end = pg_atomic_read_u64(&state->next_offset);	/* before the snapshot */
	bool		is_fresh = !IsolationUsesXactSnapshot();
	Snapshot	snapshot = RegisterSnapshot(is_fresh ? GetLatestSnapshot() : GetTransactionSnapshot());
	FetchRequest request = {consumer->topic, partition, from, *limits};
	int64		next = from;

	(void) topics_fetch_records(&request, snapshot, result, &next);
	UnregisterSnapshot(snapshot);
	if (next == from && is_fresh && end != UNKNOWN_OFFSET)
		move_without_reading(consumer, local, Max(end, from));
	else if (next > from)
		topics_consumer_offset_change(local, next, NULL);
	return next > from;
}

/* One attempt at getting records. */
static bool
consume_once(const Consumer *consumer, const FetchLimits *limits, FetchResult *result)
{
	LocalOffset *local;
	int64		from;

	while ((local = claim_one(consumer, &from)) != NULL)
	{
		if (read_claimed(consumer, local, from, limits, result))
			return true;
		if (IsolationUsesXactSnapshot())
			return false;		/* the next attempt would see no more */
	}
	return false;
}

/* consume(group_id, topic, max_records, max_bytes, max_wait, auto_offset_reset) */
Datum
topics_consume(PG_FUNCTION_ARGS)
{
	Consumer	consumer = {0};
	FetchLimits limits;
	FetchResult result;
	OffsetReset reset;
	TimestampTz deadline;

	topics_require_preload();
	topics_argument_require_all(fcinfo, PG_NARGS(), "topics.consume()");
	topics_produce_check_context("topics.consume()");
	consumer.group_id = topics_group_argument(fcinfo, 0);
	consumer.topic_name = text_to_cstring(PG_GETARG_TEXT_PP(1));
	limits = topics_fetch_limits(fcinfo, 2);
	reset = reset_argument(fcinfo, 5);
	look_up_topic(&consumer);
	topics_offset_log_prepare(true);
	topics_consumer_offset_lock_group(consumer.group_id, false);
	(void) topics_group_use(consumer.group_id, GROUP_CONSUME);
	look_up_topic(&consumer);
	subscribe(&consumer, reset);

	topics_fetch_begin_result(&result, fcinfo, consumer.topic);
	deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), limits.max_wait_ms);
	while (!consume_once(&consumer, &limits, &result))
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

		if (limits.max_wait_ms == 0 || left <= 0 || IsolationUsesXactSnapshot() ||
			!topics_wakeup_wait(consumer.topic_state, something_is_free, &consumer, left))
			break;
		topics_catalog_require(consumer.topic, ACL_SELECT);
	}
	return (Datum) 0;
}

/* CALL wait(group_id, topic, max_wait) */
Datum
topics_wait(PG_FUNCTION_ARGS)
{
	Consumer	consumer = {0};
	GroupOffset entry;
	long		timeout_ms;

	topics_require_preload();
	topics_argument_require_all(fcinfo, PG_NARGS(), "topics.wait()");
	consumer.group_id = topics_group_argument(fcinfo, 0);
	consumer.topic_name = text_to_cstring(PG_GETARG_TEXT_PP(1));
	timeout_ms = topics_wakeup_max_wait(PG_GETARG_INTERVAL_P(2), WAKEUP_MAX_WAIT_MS);
	look_up_topic(&consumer);
	topics_offset_log_prepare(false);
	topics_group_require_owner(consumer.group_id, true);
	if (topics_offset_table_peek(consumer.group_id, consumer.topic_id, NO_PARTITION, &entry))
		consumer.reset = entry.facts.reset;

	topics_wakeup_release_snapshots(fcinfo, "topics.wait()");
	(void) topics_wakeup_wait(consumer.topic_state, something_is_free, &consumer, timeout_ms);
	topics_wakeup_restore_snapshot();
	look_up_topic(&consumer);
	PG_RETURN_VOID();
}
