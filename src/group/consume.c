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
	char	   *group_id;
	char	   *topic_name;
	Topic	   *topic;
	int64		topic_id;		/* as the call began: "topic" follows DROP */
	PartitionState *topic_state;
	OffsetReset reset;			/* as asked for, then as was subscribed */

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

/* Where a group stands in a partition. */
typedef struct Place
{
	Partition	partition;
	int64		position;		/* next offset to be consumed, or NO_OFFSET */
	int64		parted_at;		/* of a group that had consumed what is gone,
								 * or NO_OFFSET */
	int64		log_start;
	int64		log_end;		/* that may be read */
	int64		next_offset;	/* that is published */
	bool		is_claimed;		/* by another session */
	uint64		served;
	int32		turn;			/* among those that were never served */
	LocalOffset *local;			/* once this transaction has claimed it */
} Place;

/* ----------------------------------------------------------------
 *		Places
 * ----------------------------------------------------------------
 */

/*
 * Read the two ends of the log; without opening it, as a rule.  In SERIALIZABLE
 * it counts as read, even if nothing is found.
 */
static void
look_at_log(Place *place)
{
	Partition  *partition = &place->partition;
	Snapshot	snapshot = IsolationIsSerializable() ? GetTransactionSnapshot() : NULL;

	place->log_start = pg_atomic_read_u64(&partition->state->log_start_offset);
	place->next_offset = pg_atomic_read_u64(&partition->state->next_offset);
	if (place->log_start != UNKNOWN_OFFSET && place->next_offset != UNKNOWN_OFFSET &&
		snapshot == NULL && !RecoveryInProgress())
	{
		place->log_end = topics_min(place->next_offset, topics_read_cut_limit(partition->state, NULL));
		return;
	}
	topics_catalog_open_partition(partition, AccessShareLock);
	PushActiveSnapshot(GetTransactionSnapshot());
	place->log_start = topics_log_start(partition->state);
	place->next_offset = topics_log_next_offset(partition);
	place->log_end = topics_log_end(partition, snapshot);
	PopActiveSnapshot();
	topics_catalog_close_partition(partition, AccessShareLock);
}

/*
 * Read the ends again when every producer that is publishing has done so: the
 * group may have read a record that is visible and not published.
 */
static void
look_at_settled_log(Place *place)
{
	topics_catalog_open_partition(&place->partition, AccessShareLock);
	(void) topics_log_next_offset_settled(&place->partition);
	topics_catalog_close_partition(&place->partition, AccessShareLock);
	look_at_log(place);
}

/* Find where this transaction has the group, and whether that is claimed. */
static void
look_at_group(const Consumer *consumer, Place *place)
{
	int32		number = place->partition.number;
	GroupOffset entry;
	LocalOffset *local;
	uint32		claimed_by = 0;

	place->position = place->parted_at = NO_OFFSET;
	place->served = 0;
	if (topics_offset_table_peek(consumer->group_id, consumer->topic_id, number, &entry))
	{
		place->position = pg_atomic_read_u64(&entry.committed);
		if (place->position == NO_OFFSET)
			place->position = pg_atomic_read_u64(&entry.start);
		place->parted_at = pg_atomic_read_u64(&entry.parted_at);
		place->served = pg_atomic_read_u64(&entry.served);
		claimed_by = pg_atomic_read_u32(&entry.claimed_by);
	}
	local = topics_consumer_offset_find_local(consumer->group_id, consumer->topic_id, number);
	if (local && local->change)
	{
		place->parted_at = NO_OFFSET;
		place->position = topics_consumer_offset_get_position(local);
	}
	if (place->position == NO_OFFSET && consumer->reset != RESET_NONE)
		place->position = 0;
	place->is_claimed = claimed_by != 0 && claimed_by != (uint32) MyProcPid;
}

/* Return true if there is a record for the group, or an error to tell it. */
static bool
has_record_or_error(const Place *place)
{
	if (place->position == NO_OFFSET)
		return place->log_end > place->log_start;
	return place->parted_at != NO_OFFSET || place->position > place->next_offset ||
		place->log_end > Max(place->position, place->log_start);
}

/* Return true if a partition has something and nobody else has claimed it. */
static bool
is_place_free(const Consumer *consumer, int32 number)
{
	Place		place = {.partition = topics_catalog_partition(consumer->topic, number)};

	look_at_group(consumer, &place);
	look_at_log(&place);
	if (!has_record_or_error(&place))
	{
		/* say what is wanted, and look once more */
		int64		wanted = (place.position == NO_OFFSET ? place.log_start :
							  Max(place.position, place.log_start)) + 1;

		topics_wakeup_want(place.partition.state, wanted);
		look_at_log(&place);
		if (place.log_end < wanted && place.next_offset >= wanted)
			topics_wakeup_want_confirmation();
	}
	if (has_record_or_error(&place) && place.is_claimed)
	{
		topics_wakeup_want_claim(consumer->topic_state);
		look_at_group(consumer, &place);
	}
	return has_record_or_error(&place) && !place.is_claimed;
}

/* Return true if this node leads a partition: who leads it consumes it. */
static bool
is_led_here(const Topic *topic, int32 number)
{
	return !topics_cluster_follows(topics_leader_set_of(&topic->leader_sets, number));
}

/*
 * Return true if this node leads any partition of a topic, or is where groups are made.  A group
 * that is new is made there.
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
 * WakeupCheck: return true if any partition has something and is free; or if another node has come
 * to lead all, which is an error to who looks.
 */
static bool
is_any_place_free(void *arg)
{
	Consumer   *consumer = arg;
	Topic	   *topic;

	AcceptInvalidationMessages();
	topic = topics_catalog_get(consumer->topic->view_relid, true);
	if (topic == NULL || topic->topic_id != consumer->topic_id)
		topics_catalog_report_dropped(consumer->topic_name);
	Assert(topic == consumer->topic);
	if (!may_be_consumed(topic))
		return true;
	for (int32 number = 0; number < topic->partitions; number++)
		if (is_led_here(topic, number) && is_place_free(consumer, number))
			return true;
	return false;
}

/* ----------------------------------------------------------------
 *		Joining the group
 * ----------------------------------------------------------------
 */

static OffsetReset
get_reset_argument(FunctionCallInfo fcinfo, int argument)
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

/* Find the topic, as it is now, and check the right to read it. */
static void
look_up_topic(Consumer *consumer)
{
	consumer->topic = topics_catalog_lookup(consumer->topic_name, false);
	topics_catalog_require(consumer->topic, ACL_SELECT);
	consumer->topic_id = consumer->topic->topic_id;
	consumer->topic_state = topics_catalog_partition_state(consumer->topic, 0);
}

/* Use the group until the transaction ends; it is made if it is new. */
static void
join_group(Consumer *consumer)
{
	topics_consumer_offset_lock_group(consumer->group_id, false);
	(void) topics_group_use(consumer->group_id, GROUP_CONSUME);
	/* the lock may have been waited for */
	look_up_topic(consumer);
}

/* Read the topic's log ends as they are now, where 'latest' begins. */
static int64 *
read_log_ends(Topic *topic)
{
	int64	   *ends = palloc(sizeof(int64) * topic->partitions);

	for (int32 number = 0; number < topic->partitions; number++)
	{
		Place		place = {.partition = topics_catalog_partition(topic, number)};

		look_at_log(&place);
		ends[number] = place.log_end;
	}
	return ends;
}

/*
 * Find the group's subscription to the topic.  In a group's first call it is
 * made, and the topic is kept from being dropped before the commit.
 */
static void
subscribe_group(Consumer *consumer)
{
	GroupOffsetFacts facts = {.reset = consumer->reset,.partitions = consumer->topic->partitions};
	GroupOffset entry;
	const int64 *starts = NULL;
	Partition	first;

	if (consumer->reset == RESET_LATEST &&
		!topics_offset_table_peek(consumer->group_id, consumer->topic_id, NO_PARTITION, &entry))
		starts = read_log_ends(consumer->topic);
	consumer->subscription = topics_consumer_offset_use(consumer->group_id, consumer->topic_id,
														NO_PARTITION, &facts, starts);
	consumer->reset = consumer->subscription->shared->facts.reset;
	if (topics_consumer_offset_exists(consumer->subscription))
		return;
	if (topics_cluster_follows(METADATA_SET))
		topics_cluster_report_no_subscription(consumer->group_id, consumer->topic_name);
	topics_consumer_offset_create(consumer->subscription);
	first = topics_catalog_partition(consumer->topic, 0);
	topics_catalog_hold_partition(&first);
}

/* ----------------------------------------------------------------
 *		Claiming
 * ----------------------------------------------------------------
 */

static void
report_out_of_range(const Consumer *consumer, const Place *place)
{
	if (place->position == NO_OFFSET)
		ereport(ERROR,
				(errcode(ERRCODE_OFFSET_OUT_OF_RANGE),
				 errmsg("consumer group \"%s\" has no committed offset in partition %d of topic \"%s\"",
						consumer->group_id, place->partition.number, consumer->topic_name),
				 errdetail("Its auto_offset_reset is \"none\"."),
				 errhint("Set one with topics.reset_offset().")));
	ereport(ERROR,
			(errcode(ERRCODE_OFFSET_OUT_OF_RANGE),
			 errmsg("committed offset " INT64_FORMAT " of consumer group \"%s\" is out of range for partition %d of topic \"%s\"",
					place->position, consumer->group_id, place->partition.number,
					consumer->topic_name),
			 topics_log_range_detail(place->log_start, place->log_end),
			 errhint("Set another one with topics.reset_offset().")));
}

/* The group has consumed records that are gone, and maybe others are in their place. */
static void
report_truncated(const Consumer *consumer, const Place *place)
{
	ereport(ERROR,
			(errcode(ERRCODE_LOG_TRUNCATED),
			 errmsg("partition %d of topic \"%s\" was truncated below the committed offset " INT64_FORMAT " of consumer group \"%s\"",
					place->partition.number, consumer->topic_name, place->position, consumer->group_id),
			 errdetail("LogTruncationException: a node has come to lead whose log ended at offset " INT64_FORMAT ".", place->parted_at),
			 errhint("Set another one with topics.reset_offset(): offset " INT64_FORMAT " misses nothing.", place->parted_at)));
}

/*
 * Move the group on where nothing was read.  The table is locked here, as
 * reading a record would have done.
 */
static void
move_without_reading(const Place *place, int64 offset)
{
	topics_catalog_hold_partition(&place->partition);
	topics_consumer_offset_change(place->local, offset, NULL);
}

/*
 * The group's place is behind the log start: go where auto_offset_reset says,
 * and say so.  A group that never was anywhere begins at the log start.
 */
static void
skip_removed(const Consumer *consumer, Place *place)
{
	int64		lost = place->log_start - place->position;

	if (place->position == 0 && topics_consumer_offset_get_position(place->local) == NO_OFFSET)
	{
		place->position = place->log_start;
		return;
	}
	if (consumer->reset == RESET_NONE)
		report_out_of_range(consumer, place);
	ereport(NOTICE,
			(errmsg("consumer group \"%s\" skips " INT64_FORMAT " offsets of partition %d of topic \"%s\" that were removed",
					consumer->group_id, lost, place->partition.number, consumer->topic_name),
			 errdetail("The log starts at offset " INT64_FORMAT " now; auto_offset_reset is \"%s\".",
					   place->log_start,
					   consumer->reset == RESET_LATEST ? "latest" : "earliest")));
	if (consumer->reset == RESET_LATEST)
	{
		place->position = place->log_end;
		move_without_reading(place, place->log_end);
	}
	else
		place->position = place->log_start;
}

/* Remember that the partition was served now: its next turn comes last. */
static void
note_served(const Consumer *consumer, const Place *place)
{
	pg_atomic_write_u64(&place->local->shared->served,
						pg_atomic_add_fetch_u64(&consumer->subscription->shared->served, 1));
	last_topic_id = consumer->topic_id;
	last_partition = place->partition.number;
}

/*
 * Claim a place, if it is free and, with the claim, still has something.  Then
 * its position is where to read from.
 */
static bool
claim_place(const Consumer *consumer, Place *place)
{
	LocalOffset *local = topics_consumer_offset_use(consumer->group_id, consumer->topic_id,
													place->partition.number, NULL, NULL);
	bool		is_ours = local->claimed != InvalidSubTransactionId;

	if (!topics_consumer_offset_claim(local, consumer->topic_state, false))
		return false;
	place->local = local;

	/* the topic may have been dropped since, and the state be another one's */
	place->partition = topics_catalog_partition(consumer->topic, place->partition.number);
	look_at_group(consumer, place);
	look_at_log(place);
	if (place->parted_at != NO_OFFSET)
		report_truncated(consumer, place);
	if (place->position > place->next_offset)
		look_at_settled_log(place);
	if (place->position == NO_OFFSET ? has_record_or_error(place) : place->position > place->next_offset)
		report_out_of_range(consumer, place);
	if (has_record_or_error(place) && place->position < place->log_start)
		skip_removed(consumer, place);
	if (!has_record_or_error(place))
	{
		if (!is_ours && local->change == NULL)
			topics_consumer_offset_unclaim(local);
		return false;
	}
	note_served(consumer, place);
	return true;
}

/* Find the places that are free and have something; palloc'd. */
static Place *
find_free_places(const Consumer *consumer, int *count)
{
	int32		partitions = consumer->topic->partitions;
	int32		first = last_topic_id == consumer->topic_id ? last_partition + 1 : 0;
	Place	   *places = palloc0(sizeof(Place) * partitions);

	*count = 0;
	for (int32 number = 0; number < partitions; number++)
	{
		Place	   *place = &places[*count];

		if (!is_led_here(consumer->topic, number))
			continue;
		place->partition = topics_catalog_partition(consumer->topic, number);
		place->turn = (number - first + partitions) % partitions;
		look_at_group(consumer, place);
		if (place->is_claimed)
			continue;
		look_at_log(place);
		if (has_record_or_error(place))
			(*count)++;
	}
	return places;
}

/* Order places: the one that was served longest ago first. */
static int
compare_places(const void *a, const void *b)
{
	const Place *pa = a;
	const Place *pb = b;

	if (pa->served != pb->served)
		return pa->served < pb->served ? -1 : 1;
	return pa->turn < pb->turn ? -1 : 1;
}

/* Claim one of the places that are free and have something, if there is one. */
static bool
claim_free_place(const Consumer *consumer, Place *claimed)
{
	int			count;
	Place	   *places = find_free_places(consumer, &count);
	bool		found = false;

	qsort(places, count, sizeof(Place), compare_places);
	for (int i = 0; i < count && !found; i++)
	{
		*claimed = places[i];
		found = claim_place(consumer, claimed);
	}
	pfree(places);
	return found;
}

/* ----------------------------------------------------------------
 *		consume
 * ----------------------------------------------------------------
 */

/* Return true if the log start has passed a place since it was claimed. */
static bool
is_place_removed(const Place *place)
{
	return place->position < topics_log_start(place->partition.state);
}

/*
 * Read from a claimed place, and move on.  Return false if there was no record:
 * the snapshot is too old for it, or compaction has taken all that there were,
 * or the place was removed.
 */
static bool
read_place(Consumer *consumer, const Place *place)
{
	int64		from = place->position;
	bool		is_fresh = !IsolationUsesXactSnapshot();
	int64		end = topics_min((int64) pg_atomic_read_u64(&place->partition.state->next_offset),
								 topics_read_cut_limit(place->partition.state, NULL));

	/* taken after the end was read: it sees all records below */
	Snapshot	snapshot = RegisterSnapshot(is_fresh ? GetLatestSnapshot() : GetTransactionSnapshot());
	FetchRequest request = {consumer->topic, place->partition.number, from, consumer->limits, true, NO_LEADER_EPOCH};
	int64		next = from;

	TEST_POINT("place-claimed");
	(void) topics_fetch_records(&request, snapshot, &consumer->result, &next);
	UnregisterSnapshot(snapshot);
	if (next > from)
		topics_consumer_offset_change(place->local, next, NULL);
	else if (is_fresh && end != UNKNOWN_OFFSET && !is_place_removed(place))
		move_without_reading(place, Max(end, from));
	return next > from;
}

/* Get records from one partition, if there are any to be had at this moment. */
static bool
consume_once(Consumer *consumer)
{
	Place		place;

	while (claim_free_place(consumer, &place))
	{
		if (read_place(consumer, &place))
			return true;
		if (IsolationUsesXactSnapshot() && !is_place_removed(&place))
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
		topics_cluster_report_no_group();
	return true;
}

/* Read the first two arguments of consume() and wait(): group and topic. */
static Consumer
get_consumer_arguments(FunctionCallInfo fcinfo)
{
	Consumer	consumer = {0};

	consumer.group_id = topics_group_get_argument(fcinfo, CONSUME_ARG_GROUP_ID);
	consumer.topic_name = text_to_cstring(PG_GETARG_TEXT_PP(CONSUME_ARG_TOPIC));
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
	consumer.reset = get_reset_argument(fcinfo, CONSUME_ARG_AUTO_OFFSET_RESET);

	look_up_topic(&consumer);
	if (!may_be_consumed(consumer.topic))
		topics_cluster_report_no_group();
	topics_offset_log_prepare(true);
	join_group(&consumer);
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
	topics_group_require_owner(consumer.group_id, true);
	if (topics_offset_table_peek(consumer.group_id, consumer.topic_id, NO_PARTITION, &entry))
		consumer.reset = entry.facts.reset;

	topics_wakeup_release_snapshots(fcinfo, "topics.wait()");
	(void) topics_wakeup_wait(consumer.topic_state, is_any_place_free, &consumer, timeout_ms);
	topics_wakeup_restore_snapshot();
	look_up_topic(&consumer);
	if (!may_be_consumed(consumer.topic))
		topics_cluster_require_leader("topics.wait()");
	PG_RETURN_VOID();
}
