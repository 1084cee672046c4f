/*-------------------------------------------------------------------------
 *
 * place.c
 *		Where a group stands in a partition, and whether there is something for
 *		it.
 *
 * A place is looked at twice: what is committed, and the two ends of the log.
 * consume() does so for a partition that it has claimed, poll() for one that
 * the member was assigned.
 *
 * A group's first call that uses a topic fixes where it begins there (its
 * subscription): at the start of the log, or with 'latest' at the ends that the
 * partitions have then.  Partitions that are added later are read from their
 * start.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "read/read.h"
#include "group/group.h"
#include "pg_topics.h"

/* ----------------------------------------------------------------
 *		Subscriptions
 * ----------------------------------------------------------------
 */

/* Return an argument auto_offset_reset. */
OffsetReset
topics_place_reset_argument(FunctionCallInfo fcinfo, int argument)
{
	char	   *name = topics_argument_get_text(fcinfo, argument);

	for (int i = 0; i < RESET_KINDS; i++)
		if (strcmp(name, topics_reset_names[i]) == 0)
			return (OffsetReset) i;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid auto_offset_reset \"%s\"", name),
			 errhint("Use 'earliest', 'latest' or 'none'.")));
}

/* Read the topic's log ends as they are now, where 'latest' begins. */
static int64 *
read_log_ends(Topic *topic)
{
	int64	   *ends = palloc(sizeof(int64) * topic->partitions);

	for (int32 number = 0; number < topic->partitions; number++)
	{
		Place		place = {.partition = topics_catalog_partition(topic, number)};

		topics_place_look(&place);
		ends[number] = place.log_end;
	}
	return ends;
}

/*
 * Find a group's subscription to a topic.  In a group's first call it is made,
 * and the topic is kept from being dropped before the commit.
 */
LocalOffset *
topics_place_subscribe(const char *group_id, Topic *topic, OffsetReset reset)
{
	GroupOffsetFacts facts = {.reset = reset,.partitions = topic->partitions};
	GroupOffset entry;
	const int64 *starts = NULL;
	LocalOffset *subscription;
	Partition	first;

	if (reset == RESET_LATEST &&
		!topics_offset_table_peek(group_id, topic->topic_id, NO_PARTITION, &entry))
		starts = read_log_ends(topic);
	subscription = topics_consumer_offset_use(group_id, topic->topic_id, NO_PARTITION, &facts, starts);
	if (topics_consumer_offset_exists(subscription))
		return subscription;
	if (topics_cluster_follows(METADATA_SET))
		topics_cluster_report_no_subscription(group_id, NameStr(topic->name));
	topics_consumer_offset_create(subscription);
	first = topics_catalog_partition(topic, 0);
	topics_catalog_hold_partition(&first);
	return subscription;
}

/* ----------------------------------------------------------------
 *		Looking
 * ----------------------------------------------------------------
 */

/* Set where the group stands, by its entry, or NULL if it has none there. */
void
topics_place_set(Place *place, const GroupOffset *entry, OffsetReset reset)
{
	place->position = place->parted_at = NO_OFFSET;
	if (entry)
	{
		place->position = pg_atomic_read_u64((pg_atomic_uint64 *) &entry->committed);
		place->parted_at = pg_atomic_read_u64((pg_atomic_uint64 *) &entry->parted_at);
	}
	place->has_begun = place->position != NO_OFFSET;
	if (entry && !place->has_begun)
		place->position = pg_atomic_read_u64((pg_atomic_uint64 *) &entry->start);
	if (place->position == NO_OFFSET && reset != RESET_NONE)
		place->position = 0;
}

/*
 * Read the two ends of the log; without opening it, as a rule.  In SERIALIZABLE
 * it counts as read, even if nothing is found.
 */
void
topics_place_look(Place *place)
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
look_settled(Place *place)
{
	topics_catalog_open_partition(&place->partition, AccessShareLock);
	(void) topics_log_next_offset_settled(&place->partition);
	topics_catalog_close_partition(&place->partition, AccessShareLock);
	topics_place_look(place);
}

/* Return true if there is a record for the group, or an error to tell it. */
bool
topics_place_has_record_or_error(const Place *place)
{
	if (place->position == NO_OFFSET)
		return place->log_end > place->log_start;
	return place->parted_at != NO_OFFSET || place->position > place->next_offset ||
		place->log_end > Max(place->position, place->log_start);
}

/*
 * In a check of a wait: look, and return true if there is something.  Else
 * whoever makes it so wakes this process.
 */
bool
topics_place_watch(Place *place)
{
	topics_place_look(place);
	if (!topics_place_has_record_or_error(place))
	{
		/* say what is wanted, and look once more */
		int64		wanted = (place->position == NO_OFFSET ? place->log_start :
							  Max(place->position, place->log_start)) + 1;

		topics_wakeup_want(place->partition.state, wanted);
		topics_place_look(place);
		if (place->log_end < wanted && place->next_offset >= wanted)
			topics_wakeup_want_confirmation();
	}
	return topics_place_has_record_or_error(place);
}

/* ----------------------------------------------------------------
 *		Beginning to read
 * ----------------------------------------------------------------
 */

static void
report_out_of_range(const GroupTopic *at, const Place *place)
{
	if (place->position == NO_OFFSET)
		ereport(ERROR,
				(errcode(ERRCODE_OFFSET_OUT_OF_RANGE),
				 errmsg("consumer group \"%s\" has no committed offset in partition %d of topic \"%s\"",
						at->group_id, place->partition.number, at->topic_name),
				 errdetail("Its auto_offset_reset is \"none\"."),
				 at->is_member ? errhint("Begin somewhere with topics.seek().") :
				 errhint("Set one with topics.reset_offset().")));
	ereport(ERROR,
			(errcode(ERRCODE_OFFSET_OUT_OF_RANGE),
			 errmsg("committed offset " INT64_FORMAT " of consumer group \"%s\" is out of range for partition %d of topic \"%s\"",
					place->position, at->group_id, place->partition.number, at->topic_name),
			 topics_log_range_detail(place->log_start, place->log_end),
			 at->is_member ? errhint("Go on elsewhere with topics.seek().") :
			 errhint("Set another one with topics.reset_offset().")));
}

/*
 * The group has consumed records that are gone, and maybe others are in their
 * place.
 */
static void
report_truncated(const GroupTopic *at, const Place *place)
{
	ereport(ERROR,
			(errcode(ERRCODE_LOG_TRUNCATED),
			 errmsg("partition %d of topic \"%s\" was truncated below the committed offset " INT64_FORMAT " of consumer group \"%s\"",
					place->partition.number, at->topic_name, place->position, at->group_id),
			 errdetail("LogTruncationException: a node has come to lead whose log ended at offset " INT64_FORMAT ".", place->parted_at),
			 at->is_member ?
			 errhint("Go on elsewhere with topics.seek(): offset " INT64_FORMAT " misses nothing.", place->parted_at) :
			 errhint("Set another one with topics.reset_offset(): offset " INT64_FORMAT " misses nothing.", place->parted_at)));
}

/*
 * The group's place is behind the log start: go where auto_offset_reset says,
 * and say so.  A group that never was anywhere begins at the log start.
 */
static PlaceMove
skip_removed(const GroupTopic *at, Place *place)
{
	int64		lost = place->log_start - place->position;

	if (place->position == 0 && !place->has_begun)
	{
		place->position = place->log_start;
		return PLACE_STAYS;
	}
	if (at->reset == RESET_NONE)
		report_out_of_range(at, place);
	ereport(NOTICE,
			(errmsg("consumer group \"%s\" skips " INT64_FORMAT " offsets of partition %d of topic \"%s\" that were removed",
					at->group_id, lost, place->partition.number, at->topic_name),
			 errdetail("The log starts at offset " INT64_FORMAT " now; auto_offset_reset is \"%s\".",
					   place->log_start, topics_reset_names[at->reset])));
	place->position = at->reset == RESET_LATEST ? place->log_end : place->log_start;
	return at->reset == RESET_LATEST ? PLACE_SKIPS_ALL : PLACE_STAYS;
}

/*
 * Before a place is read, by who alone may move it: look, and move it on where
 * its records were removed.  Raises an error if it is not in the log.
 */
PlaceMove
topics_place_settle(Place *place, const GroupTopic *at)
{
	topics_place_look(place);
	if (place->parted_at != NO_OFFSET)
		report_truncated(at, place);
	if (place->position > place->next_offset)
		look_settled(place);
	if (place->position == NO_OFFSET ? topics_place_has_record_or_error(place) :
		place->position > place->next_offset)
		report_out_of_range(at, place);
	if (topics_place_has_record_or_error(place) && place->position < place->log_start)
		return skip_removed(at, place);
	return PLACE_STAYS;
}

/* Return true if the log start has passed a place since it was looked at. */
bool
topics_place_is_removed(const Place *place)
{
	return place->position < topics_log_start(place->partition.state);
}

/*
 * Get the offset up to which a snapshot that is taken now sees all records;
 * UNKNOWN_OFFSET if that has to be looked up.
 */
int64
topics_place_readable_end(const Place *place)
{
	return topics_min((int64) pg_atomic_read_u64(&place->partition.state->next_offset),
					  topics_read_cut_limit(place->partition.state, NULL));
}
