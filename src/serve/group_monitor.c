/*-------------------------------------------------------------------------
 *
 * group_monitor.c
 *		What the views of consumer groups show.
 *
 * Users see the groups that they may use (group.c), with the topics that they
 * may read; the roles that look after the server see all.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "read/read.h"
#include "group/group.h"
#include "serve/serve.h"

PG_FUNCTION_INFO_V1(topics_group_status);
PG_FUNCTION_INFO_V1(topics_offset_status);
PG_FUNCTION_INFO_V1(topics_lag_status);

/* For qsort: by group, topic, partition; what is of none comes first. */
static int
compare_entries(const void *a, const void *b)
{
	const GroupOffsetKey *ka = &((const GroupOffset *) a)->key;
	const GroupOffsetKey *kb = &((const GroupOffset *) b)->key;
	int			order = strcmp(ka->group_id, kb->group_id);

	if (order != 0)
		return order;
	if (ka->topic_id != kb->topic_id)
		return ka->topic_id < kb->topic_id ? -1 : 1;
	return ka->partition < kb->partition ? -1 : ka->partition > kb->partition;
}

/*
 * Shows an entry, which is the first of "remaining" in an array, by group; the
 * topic is NULL for the group's own.  "first" is the group's first one of the
 * topic: its subscription, if it has one.
 */
typedef void (*EntryVisitor) (ReturnSetInfo *rsinfo, GroupOffset *entry, int remaining, Topic *topic,
							  const GroupOffset *first);

/*
 * Visit the entries of the groups that the user may see: a group's own, then
 * per topic its subscription and its partitions.
 */
static void
visit_entries(FunctionCallInfo fcinfo, EntryVisitor visit)
{
	GroupOffset *entries;
	int			count;
	bool		shown = false;
	Topic	   *topic = NULL;
	int64		topic_id = NO_TOPIC;
	const GroupOffset *first = NULL;

	topics_settings_require_preload();
	topics_offset_log_prepare(false);
	InitMaterializedSRF(fcinfo, 0);
	entries = topics_offset_table_list(NULL, NO_TOPIC, &count);
	qsort(entries, count, sizeof(GroupOffset), compare_entries);
	for (int i = 0; i < count; i++)
	{
		GroupOffsetKey *key = &entries[i].key;

		CHECK_FOR_INTERRUPTS();
		if (is_members_partition(key->partition))
			continue;
		if (key->topic_id == NO_TOPIC)
		{
			shown = topics_group_may_use(entries[i].facts.owner) || topics_catalog_is_monitor();
			topic_id = NO_TOPIC;
		}
		else if (key->topic_id != topic_id)
		{
			topic_id = key->topic_id;
			first = &entries[i];
			topic = topics_catalog_by_id(topic_id);
			if (topic && !topics_catalog_may_see(topic))
				topic = NULL;
		}
		if (shown && (key->topic_id == NO_TOPIC || topic))
			visit((ReturnSetInfo *) fcinfo->resultinfo, &entries[i], count - i, topic, first);
	}
}

/* States of a group, as Kafka names them. */
static const char *const state_empty = "Empty";
static const char *const state_stable = "Stable";
static const char *const state_rebalance = "PreparingRebalance";

/* Say in which state a group is whose members are of a leader set. */
static const char *
get_set_state(const char *group_id, int set)
{
	const GroupOffsetKey key = topics_offset_table_make_key(group_id, NO_TOPIC, make_members_partition(set));
	const bool	may_call = topics_member_log_may_call(set);
	const char *result = state_empty;
	GroupOffset *entry;
	dlist_iter	iter;

	topics_offset_table_lock(LW_SHARED);
	entry = topics_offset_table_find(&key);
	/* elsewhere it is known of members no more than that there are some */
	if (entry && entry->of.head.count > 0 && !may_call)
		result = state_stable;
	else if (entry)
		dlist_foreach(iter, &entry->of.head.members)
	{
		if (!topics_member_table_is_settled(dlist_container(Member, link, iter.cur)))
		{
			result = state_rebalance;
			break;
		}
		result = state_stable;
	}
	topics_offset_table_unlock();
	return result;
}

/*
 * Say in which state a group with members is: the least settled one of its
 * leader sets.
 */
static const char *
get_members_state(const char *group_id)
{
	const char *result = state_empty;

	for (int set = -1; (set = topics_leader_set_after(topics_member_table_sets(), set)) >= 0;)
	{
		const char *state = get_set_state(group_id, set);

		if (state == state_rebalance)
			return state;
		if (state == state_stable)
			result = state;
	}
	return result;
}

/* Return true if a transaction has claimed a partition for the group. */
static bool
group_is_active(const GroupOffset *group, int remaining)
{
	for (int i = 1; i < remaining; i++)
	{
		GroupOffset *entry = (GroupOffset *) &group[i];

		if (strcmp(entry->key.group_id, group->key.group_id) != 0)
			break;
		if (pg_atomic_read_u32(&entry->claimed_by) != 0)
			return true;
	}
	return false;
}

/* Columns of group_status. */
enum
{
	GROUP_ID,
	GROUP_OWNER,
	GROUP_TYPE,
	GROUP_STATE,
	GROUP_COLUMNS
};

static void
put_group(ReturnSetInfo *rsinfo, GroupOffset *entry, int remaining, Topic *topic, const GroupOffset *first)
{
	Datum		values[GROUP_COLUMNS];
	bool		nulls[GROUP_COLUMNS] = {false};

	if (entry->key.topic_id != NO_TOPIC)
		return;
	values[GROUP_ID] = CStringGetTextDatum(entry->key.group_id);
	values[GROUP_OWNER] = ObjectIdGetDatum(entry->facts.owner);
	values[GROUP_TYPE] = CStringGetTextDatum(topics_offset_log_type_name(entry->facts.type));
	values[GROUP_STATE] = CStringGetTextDatum(entry->facts.type == GROUP_MEMBER ? get_members_state(entry->key.group_id) :
											  group_is_active(entry, remaining) ? state_stable : state_empty);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* Columns of offset_status. */
enum
{
	OFFSET_GROUP,
	OFFSET_TOPIC,
	OFFSET_PARTITION,
	OFFSET_COMMITTED,
	OFFSET_METADATA,
	OFFSET_COMMIT_TIME,
	OFFSET_COLUMNS
};

/* The metadata of a committed offset, which is in its record. */
typedef struct EntryMetadata
{
	const GroupOffset *entry;
	char	   *metadata;		/* palloc'd, or NULL */
} EntryMetadata;

/* Look: the record. */
static void
look_at_metadata(void *arg)
{
	EntryMetadata *look = arg;

	look->metadata = topics_offset_log_metadata(look->entry);
}

/* Read an entry's metadata, or NULL if there is none, or it cannot be read. */
static char *
read_metadata(const GroupOffset *entry)
{
	EntryMetadata look = {.entry = entry};
	Topic	   *topic = entry->has_metadata ? topics_catalog_lookup(CONSUMER_OFFSETS_TOPIC, true) : NULL;

	if (topic)
		(void) topics_guarded_look(topic,
								   topics_offset_log_choose_partition(topic, &entry->key),
								   look_at_metadata, &look);
	return look.metadata;
}

static void
put_committed_offset(ReturnSetInfo *rsinfo, GroupOffset *entry, int remaining, Topic *topic, const GroupOffset *first)
{
	Datum		values[OFFSET_COLUMNS];
	bool		nulls[OFFSET_COLUMNS] = {false};
	char	   *metadata;

	if (entry->key.partition == NO_PARTITION || !is_entry_committed(entry))
		return;
	metadata = read_metadata(entry);
	values[OFFSET_GROUP] = CStringGetTextDatum(entry->key.group_id);
	values[OFFSET_TOPIC] = CStringGetTextDatum(NameStr(topic->name));
	values[OFFSET_PARTITION] = Int32GetDatum(entry->key.partition);
	values[OFFSET_COMMITTED] = Int64GetDatum(pg_atomic_read_u64(&entry->committed));
	nulls[OFFSET_METADATA] = metadata == NULL;
	values[OFFSET_METADATA] = metadata ? CStringGetTextDatum(metadata) : (Datum) 0;
	values[OFFSET_COMMIT_TIME] = TimestampTzGetDatum(pg_atomic_read_u64(&entry->commit_time));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * Columns of lag_status; the last three are of the member that has the
 * partition.
 */
enum
{
	LAG_GROUP,
	LAG_TOPIC,
	LAG_PARTITION,
	LAG_CURRENT_OFFSET,
	LAG_LOG_END_OFFSET,
	LAG_LAG,
	LAG_CONSUMER_ID,
	LAG_CLIENT_ID,
	LAG_HOST,
	LAG_COLUMNS
};

/* A partition that a group consumes from. */
typedef struct PartitionLag
{
	Topic	   *topic;
	int32		partition;
	bool		has_ends;
	int64		start;
	int64		end;
} PartitionLag;

/* Look: the two ends of the log. */
static void
look_at_log_ends(void *arg)
{
	PartitionLag *lag = arg;
	Partition	opened = topics_catalog_open_for_reading(lag->topic, lag->partition);

	lag->start = topics_log_start(opened.state);
	lag->end = topics_log_end(&opened, GetActiveSnapshot());
	lag->has_ends = true;
	topics_catalog_close_partition(&opened, AccessShareLock);
}

/* Say which member has a partition, if one has. */
static void
put_owner(Datum *values, bool *nulls, const char *group_id, int64 topic_id, int32 partition)
{
	const GroupOffsetKey key = topics_offset_table_make_key(group_id, topic_id, partition);
	GroupOffset *entry;
	Member		owner = {0};

	topics_offset_table_lock(LW_SHARED);
	entry = topics_offset_table_find(&key);
	if (entry && entry->of.assigned.owner)
		owner = *entry->of.assigned.owner;
	topics_offset_table_unlock();
	nulls[LAG_CONSUMER_ID] = nulls[LAG_CLIENT_ID] = owner.serial == 0;
	nulls[LAG_HOST] = owner.host[0] == '\0';
	values[LAG_CONSUMER_ID] = CStringGetTextDatum(owner.key.member_id);
	values[LAG_CLIENT_ID] = CStringGetTextDatum(owner.client_id);
	values[LAG_HOST] = CStringGetTextDatum(owner.host);
}

static void
put_partition_lag(ReturnSetInfo *rsinfo, const char *group_id, Topic *topic, int32 partition, int64 committed)
{
	Datum		values[LAG_COLUMNS] = {0};
	bool		nulls[LAG_COLUMNS] = {false};
	GroupOffset entry;
	PartitionLag lag = {.topic = topic,.partition = partition};
	int64		position = committed;

	if (partition >= topic->partitions)
		return;
	if (committed == NO_OFFSET &&
		topics_offset_table_peek(group_id, topic->topic_id, partition, &entry))
		position = pg_atomic_read_u64(&entry.start);
	if (topics_guarded_look(topic, partition, look_at_log_ends, &lag) == GUARDED_DROPPED)
		return;
	if (position == NO_OFFSET || position < lag.start)
		position = lag.start;
	values[LAG_GROUP] = CStringGetTextDatum(group_id);
	values[LAG_TOPIC] = CStringGetTextDatum(NameStr(topic->name));
	values[LAG_PARTITION] = Int32GetDatum(partition);
	put_owner(values, nulls, group_id, topic->topic_id, partition);
	nulls[LAG_CURRENT_OFFSET] = committed == NO_OFFSET;
	values[LAG_CURRENT_OFFSET] = Int64GetDatum(committed);
	nulls[LAG_LOG_END_OFFSET] = nulls[LAG_LAG] = !lag.has_ends;
	values[LAG_LOG_END_OFFSET] = Int64GetDatum(lag.end);
	values[LAG_LAG] = Int64GetDatum(Max(lag.end - position, 0));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * Put a row for each partition of a topic that the group has subscribed to, or
 * else for those that it has committed an offset in.
 */
static void
put_group_lag(ReturnSetInfo *rsinfo, GroupOffset *entry, int remaining, Topic *topic, const GroupOffset *first)
{
	const GroupOffsetKey *key = &entry->key;
	int			next = 1;

	if (key->topic_id == NO_TOPIC)
		return;
	Assert(topic != NULL);
	if (key->partition != NO_PARTITION)
	{
		if (is_entry_committed(entry) && first->key.partition != NO_PARTITION)
			put_partition_lag(rsinfo, key->group_id, topic, key->partition,
							  pg_atomic_read_u64(&entry->committed));
		return;
	}
	for (int32 partition = 0; partition < topic->partitions; partition++)
	{
		int64		committed = NO_OFFSET;

		while (next < remaining && entry[next].key.topic_id == key->topic_id &&
			   strcmp(entry[next].key.group_id, key->group_id) == 0 &&
			   entry[next].key.partition < partition)
			next++;
		if (next < remaining && entry[next].key.topic_id == key->topic_id &&
			strcmp(entry[next].key.group_id, key->group_id) == 0 &&
			entry[next].key.partition == partition)
			committed = pg_atomic_read_u64(&entry[next].committed);
		put_partition_lag(rsinfo, key->group_id, topic, partition, committed);
	}
}

/* group_status(): the rows of the view topics.consumer_group */
Datum
topics_group_status(PG_FUNCTION_ARGS)
{
	visit_entries(fcinfo, put_group);
	return (Datum) 0;
}

/* offset_status(): the rows of the view topics.consumer_offset */
Datum
topics_offset_status(PG_FUNCTION_ARGS)
{
	visit_entries(fcinfo, put_committed_offset);
	return (Datum) 0;
}

/* lag_status(): the rows of the view topics.consumer_lag */
Datum
topics_lag_status(PG_FUNCTION_ARGS)
{
	visit_entries(fcinfo, put_group_lag);
	return (Datum) 0;
}
