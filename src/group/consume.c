/*-------------------------------------------------------------------------
 *
 * consume.c
 *		consume(): claim a partition for a group, read from its committed
 *		offset on, and move that when the transaction commits.
 *
 * No member is registered and no heartbeat sent: a claim is a lock that ends
 * with the transaction (consumer_offset.c).  So any number of sessions share a
 * topic's partitions.  Each call gets, of the free partitions with records, the
 * one that was served longest ago.  What the transaction does with the records
 * is done exactly once.
 *
 * A group's first call fixes where it begins in a topic (its subscription):
 * at the start of the log, or with 'latest' at the ends that the partitions
 * have then.  Partitions that are added later are read from their start.
 *
 * In READ COMMITTED records are read through a new snapshot, as a volatile
 * function's queries would: the statement's own may be older than the commit
 * that the group's place comes from.  In the other levels the transaction's
 * snapshot is used.  If the place comes from a commit that the snapshot does
 * not see, that is an error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "read/read.h"
#include "group/group.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_consume);
PG_FUNCTION_INFO_V1(topics_wait);

/* Arguments of consume(). */
enum
{
	CONSUME_ARG_GROUP_ID,
	CONSUME_ARG_TOPIC,
	CONSUME_ARG_MAX_RECORDS,	/* and, behind it, max_bytes and max_wait */
	CONSUME_ARG_AUTO_OFFSET_RESET = CONSUME_ARG_MAX_RECORDS + 3
};

/* Arguments of wait(); the first two are those of consume(). */
enum
{
	WAIT_ARG_MAX_WAIT = CONSUME_ARG_TOPIC + 1
};

/* A group's use of a topic, in one call. */
typedef struct Consumer
{
	GroupTopic	at;				/* its reset is as asked for, then as was
								 * subscribed */
	Topic	   *topic;
	int64		topic_id;		/* as the call began: "topic" follows DROP */
	PartitionState *topic_state;

	/* of consume() only */
	FetchLimits limits;
	FetchResult result;
	LocalOffset *subscription;
} Consumer;

/*
 * The partition that this session claimed last.  Partitions that the group was
 * never served from are tried from the next one on.  So a new group, of which
 * nothing is remembered yet, gets to the other partitions even if the records
 * of the first one make transactions fail.
 */
static int64 last_topic_id = NO_TOPIC;
static int32 last_partition;

/* A place, as consume() takes it in turn. */
typedef struct Candidate
{
	Place		place;
	bool		is_claimed;		/* by another session */
	uint64		served;
	int32		turn;			/* among those that were never served */
	LocalOffset *local;			/* once this transaction has claimed it */
} Candidate;

/* ----------------------------------------------------------------
 *		Places that are free
 * ----------------------------------------------------------------
 */

/* Find where this transaction has the group, and whether that is claimed. */
static void
look_at_group(const Consumer *consumer, Candidate *candidate)
{
	Place	   *place = &candidate->place;
	const int32 number = place->partition.number;
	GroupOffset entry;
	LocalOffset *local;
	uint32		claimed_by = 0;
	bool		found = topics_offset_table_peek(consumer->at.group_id, consumer->topic_id, number, &entry);

	topics_place_set(place, found ? &entry : NULL, consumer->at.reset);
	candidate->served = 0;
	if (found)
	{
		candidate->served = pg_atomic_read_u64(&entry.served);
		claimed_by = pg_atomic_read_u32(&entry.claimed_by);
	}
	local = topics_consumer_offset_find_local(consumer->at.group_id, consumer->topic_id, number);
	if (local && local->change)
	{
		place->parted_at = NO_OFFSET;
		place->position = topics_consumer_offset_get_position(local);
		place->has_begun = place->position != NO_OFFSET;
		if (place->position == NO_OFFSET && consumer->at.reset != RESET_NONE)
			place->position = 0;
	}
	candidate->is_claimed = claimed_by != 0 && claimed_by != (uint32) MyProcPid;
}

/* Return true if a partition has something and nobody else has claimed it. */
static bool
is_place_free(const Consumer *consumer, int32 number)
{
	Candidate	candidate = {.place.partition = topics_catalog_partition(consumer->topic, number)};

	look_at_group(consumer, &candidate);
	if (topics_place_watch(&candidate.place) && candidate.is_claimed)
	{
		topics_wakeup_want_claim(consumer->topic_state);
		look_at_group(consumer, &candidate);
	}
	return topics_place_has_record_or_error(&candidate.place) && !candidate.is_claimed;
}

/* Return true if this node leads a partition: who leads it consumes it. */
static bool
is_led_here(const Topic *topic, int32 number)
{
	return !topics_cluster_follows(topics_leader_set_of(&topic->leader_sets, number));
}

/*
 * Return true if this node leads any partition of a topic, or is where groups
 * are made.  A group that is new is made there.
 */
static bool
may_be_consumed(const Topic *topic)
{
	if (!topics_cluster_follows(METADATA_SET))
		return true;
	for (int32 number = 0; number < topic->partitions; number++)
		if (is_led_here(topic, number))
			return true;
	return false;
}

/*
 * WakeupCheck: return true if any partition has something and is free; or if
 * another node has come to lead all, which is an error to who looks.
 */
static bool
is_any_place_free(void *arg)
{
	Consumer   *consumer = arg;
	Topic	   *topic;

	AcceptInvalidationMessages();
	topic = topics_catalog_get(consumer->topic->view_relid, true);
	if (topic == NULL || topic->topic_id != consumer->topic_id)
		topics_catalog_report_dropped(consumer->at.topic_name);
	Assert(topic == consumer->topic);
	if (!may_be_consumed(topic))
		return true;
	for (int32 number = 0; number < topic->partitions; number++)
		if (is_led_here(topic, number) && is_place_free(consumer, number))
			return true;
	return false;
}

/* ----------------------------------------------------------------
 *		Using the group
 * ----------------------------------------------------------------
 */

/* Find the topic, as it is now, and check the right to read it. */
static void
look_up_topic(Consumer *consumer)
{
	consumer->topic = topics_catalog_lookup(consumer->at.topic_name, false);
	topics_catalog_require(consumer->topic, ACL_SELECT);
	consumer->topic_id = consumer->topic->topic_id;
	consumer->topic_state = topics_catalog_partition_state(consumer->topic, 0);
}

/* Use the group until the transaction ends; it is made if it is new. */
static void
use_group(Consumer *consumer)
{
	topics_consumer_offset_lock_group(consumer->at.group_id, false);
	(void) topics_group_use(consumer->at.group_id, GROUP_CONSUME);
	/* the lock may have been waited for */
	look_up_topic(consumer);
}

/* Find the group's subscription to the topic, or make it. */
static void
subscribe_group(Consumer *consumer)
{
	consumer->subscription = topics_place_subscribe(consumer->at.group_id, consumer->topic, consumer->at.reset);
	consumer->at.reset = consumer->subscription->shared->facts.reset;
}

/* ----------------------------------------------------------------
 *		Claiming
 * ----------------------------------------------------------------
 */

/*
 * Move the group on where nothing was read.  The table is locked here, as
 * reading a record would have done.
 */
static void
move_without_reading(const Candidate *candidate, int64 offset)
{
	topics_catalog_hold_partition(&candidate->place.partition);
	topics_consumer_offset_change(candidate->local, offset, NULL);
}

/* Remember that the partition was served now: its next turn comes last. */
static void
note_served(const Consumer *consumer, const Candidate *candidate)
{
	pg_atomic_write_u64(&candidate->local->shared->served,
						pg_atomic_add_fetch_u64(&consumer->subscription->shared->served, 1));
	last_topic_id = consumer->topic_id;
	last_partition = candidate->place.partition.number;
}

/*
 * Claim a place, if it is free and, with the claim, still has something.  Then
 * its position is where to read from.
 */
static bool
claim_place(const Consumer *consumer, Candidate *candidate)
{
	Place	   *place = &candidate->place;
	LocalOffset *local = topics_consumer_offset_use(consumer->at.group_id, consumer->topic_id,
													place->partition.number, NULL, NULL);
	bool		is_ours = local->claimed != InvalidSubTransactionId;

	if (!topics_consumer_offset_claim(local, consumer->topic_state, false))
		return false;
	candidate->local = local;

	/* the topic may have been dropped since, and the state be another one's */
	place->partition = topics_catalog_partition(consumer->topic, place->partition.number);
	look_at_group(consumer, candidate);
	if (topics_place_settle(place, &consumer->at) == PLACE_SKIPS_ALL)
		move_without_reading(candidate, place->position);
	if (!topics_place_has_record_or_error(place))
	{
		if (!is_ours && local->change == NULL)
			topics_consumer_offset_unclaim(local);
		return false;
	}
	note_served(consumer, candidate);
	return true;
}

/* Find the places that are free and have something; palloc'd. */
static Candidate *
find_free_places(const Consumer *consumer, int *count)
{
	int32		partitions = consumer->topic->partitions;
	int32		first = last_topic_id == consumer->topic_id ? last_partition + 1 : 0;
	Candidate  *candidates = palloc0(sizeof(Candidate) * partitions);

	*count = 0;
	for (int32 number = 0; number < partitions; number++)
	{
		Candidate  *candidate = &candidates[*count];

		if (!is_led_here(consumer->topic, number))
			continue;
		candidate->place.partition = topics_catalog_partition(consumer->topic, number);
		candidate->turn = (number - first + partitions) % partitions;
		look_at_group(consumer, candidate);
		if (candidate->is_claimed)
			continue;
		topics_place_look(&candidate->place);
		if (topics_place_has_record_or_error(&candidate->place))
			(*count)++;
	}
	return candidates;
}

/* Order places: the one that was served longest ago first. */
static int
compare_places(const void *a, const void *b)
{
	const Candidate *ca = a;
	const Candidate *cb = b;

	if (ca->served != cb->served)
		return ca->served < cb->served ? -1 : 1;
	return ca->turn < cb->turn ? -1 : 1;
}

/* Claim one of the places that are free and have something, if there is one. */
static bool
claim_free_place(const Consumer *consumer, Candidate *claimed)
{
	int			count;
	Candidate  *candidates = find_free_places(consumer, &count);
	bool		found = false;

	qsort(candidates, count, sizeof(Candidate), compare_places);
	for (int i = 0; i < count && !found; i++)
	{
		*claimed = candidates[i];
		found = claim_place(consumer, claimed);
	}
	pfree(candidates);
	return found;
}

/* ----------------------------------------------------------------
 *		consume
 * ----------------------------------------------------------------
 */

/*
 * Read from a claimed place, and move on.  Return false if there was no record:
 * the snapshot is too old for it, or compaction has taken all that there were,
 * or the place was removed.
 */
static bool
read_place(Consumer *consumer, const Candidate *candidate)
{
	const Place *place = &candidate->place;
	int64		from = place->position;
	bool		is_fresh = !IsolationUsesXactSnapshot();
	int64		end = topics_place_readable_end(place);

	/* taken after the end was read: it sees all records below */
	Snapshot	snapshot = RegisterSnapshot(is_fresh ? GetLatestSnapshot() : GetTransactionSnapshot());
	FetchRequest request = {consumer->topic, place->partition.number, from, consumer->limits, true, NO_LEADER_EPOCH};
	int64		next = from;

	TEST_POINT("place-claimed");
	(void) topics_fetch_records(&request, snapshot, &consumer->result, &next);
	UnregisterSnapshot(snapshot);
	if (next > from)
		topics_consumer_offset_change(candidate->local, next, NULL);
	else if (is_fresh && end != UNKNOWN_OFFSET && !topics_place_is_removed(place))
		move_without_reading(candidate, Max(end, from));
	return next > from;
}

/* Get records from one partition, if there are any to be had at this moment. */
static bool
consume_once(Consumer *consumer)
{
	Candidate	claimed;

	while (claim_free_place(consumer, &claimed))
	{
		if (read_place(consumer, &claimed))
			return true;
		if (IsolationUsesXactSnapshot() && !topics_place_is_removed(&claimed.place))
			return false;		/* the next attempt would see no more */
	}
	return false;
}

/* Wait until another attempt is worth it; return false if none is any more. */
static bool
wait_for_place(Consumer *consumer, MonotonicTime deadline)
{
	long		left = topics_clock_ms_until(deadline);

	if (consumer->limits.max_wait_ms == 0 || left <= 0 || IsolationUsesXactSnapshot() ||
		!topics_wakeup_wait(consumer->topic_state, is_any_place_free, consumer, left))
		return false;
	topics_catalog_require(consumer->topic, ACL_SELECT);
	if (!may_be_consumed(consumer->topic))
		topics_cluster_report_no_group(METADATA_SET);
	return true;
}

/* Read the first two arguments of consume() and wait(): group and topic. */
static Consumer
get_consumer_arguments(FunctionCallInfo fcinfo)
{
	Consumer	consumer = {0};

	consumer.at.group_id = topics_group_get_argument(fcinfo, CONSUME_ARG_GROUP_ID);
	consumer.at.topic_name = text_to_cstring(PG_GETARG_TEXT_PP(CONSUME_ARG_TOPIC));
	return consumer;
}

/*
 * consume(group_id, topic, max_records, max_bytes, max_wait,
 *		   auto_offset_reset)
 */
Datum
topics_consume(PG_FUNCTION_ARGS)
{
	Consumer	consumer;
	MonotonicTime deadline;

	topics_settings_require_preload();
	topics_argument_require_all(fcinfo, PG_NARGS());
	topics_produce_check_call(fcinfo);
	consumer = get_consumer_arguments(fcinfo);
	consumer.limits = topics_fetch_limits(fcinfo, CONSUME_ARG_MAX_RECORDS);
	consumer.at.reset = topics_place_reset_argument(fcinfo, CONSUME_ARG_AUTO_OFFSET_RESET);

	look_up_topic(&consumer);
	if (!may_be_consumed(consumer.topic))
		topics_cluster_report_no_group(METADATA_SET);
	topics_offset_log_prepare(true);
	TEST_POINT("offsets-known");
	use_group(&consumer);
	subscribe_group(&consumer);

	topics_fetch_begin_result(&consumer.result, fcinfo, consumer.topic);
	deadline = topics_clock_in(consumer.limits.max_wait_ms);
	while (!consume_once(&consumer) && wait_for_place(&consumer, deadline))
		;
	return (Datum) 0;
}

/*
 * CALL wait(group_id, topic, max_wait)
 *
 * There need not be such a group: its first consume makes it, and before that a
 * consumer waits.  It waits as a group that begins at the start of the log.
 */
Datum
topics_wait(PG_FUNCTION_ARGS)
{
	Consumer	consumer;
	GroupOffset entry;
	long		timeout_ms;

	topics_settings_require_preload();
	topics_argument_require_all(fcinfo, PG_NARGS());
	consumer = get_consumer_arguments(fcinfo);
	timeout_ms = topics_wakeup_max_wait(PG_GETARG_INTERVAL_P(WAIT_ARG_MAX_WAIT), WAKEUP_MAX_WAIT_MS);

	look_up_topic(&consumer);
	if (!may_be_consumed(consumer.topic))
		topics_cluster_require_leader("topics.wait()");
	topics_offset_log_prepare(false);
	topics_group_require_owner(consumer.at.group_id, true);
	topics_group_refuse_type(consumer.at.group_id, GROUP_MEMBER, GROUP_CONSUME);
	if (topics_offset_table_peek(consumer.at.group_id, consumer.topic_id, NO_PARTITION, &entry))
		consumer.at.reset = entry.facts.reset;

	topics_wakeup_release_snapshots(fcinfo, "topics.wait()");
	(void) topics_wakeup_wait(consumer.topic_state, is_any_place_free, &consumer, timeout_ms);
	topics_wakeup_restore_snapshot();
	look_up_topic(&consumer);
	if (!may_be_consumed(consumer.topic))
		topics_cluster_require_leader("topics.wait()");
	PG_RETURN_VOID();
}
