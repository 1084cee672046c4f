/*-------------------------------------------------------------------------
 *
 * group_monitor.c
 *		What the views of consumer groups show.
 *
 * Everybody sees the groups that one may use (group.c), with the topics that
 * one may read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "consumer.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_group_status);
PG_FUNCTION_INFO_V1(topics_offset_status);
PG_FUNCTION_INFO_V1(topics_lag_status);

/* The groups of this database that the user may use, as entries by name. */
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
 * Walk the entries of the groups that the user may use: a group's own entry,
 * then per topic its subscription and its partitions.
 */
typedef void (*EntryVisitor) (ReturnSetInfo *rsinfo, GroupOffset *entry, int remaining, Topic *topic);

static void
visit_entries(FunctionCallInfo fcinfo, EntryVisitor visit)
{
	GroupOffset *entries;
	int			count;
	bool		shown = false;
	Topic	   *topic = NULL;
	int64		topic_id = NO_TOPIC;

	topics_require_preload();
	topics_offset_log_prepare(false);
	InitMaterializedSRF(fcinfo, 0);
	entries = topics_offset_table_list(NULL, NO_TOPIC, &count);
	qsort(entries, count, sizeof(GroupOffset), compare_entries);
	for (int i = 0; i < count; i++)
	{
		GroupOffsetKey *key = &entries[i].key;

		CHECK_FOR_INTERRUPTS();
		if (key->topic_id == NO_TOPIC)
		{
			shown = topics_group_may_use(entries[i].facts.owner);
			topic_id = NO_TOPIC;
		}
		else if (key->topic_id != topic_id)
		{
			topic_id = key->topic_id;
			topic = topics_catalog_by_id(topic_id);
			if (topic && !topics_catalog_may_read(topic))
				topic = NULL;
		}
		if (shown && (key->topic_id == NO_TOPIC || topic))
			visit((ReturnSetInfo *) fcinfo->resultinfo, &entries[i], count - i, topic);
	}
}

/* Has anybody claimed a partition for the group? */
static bool
is_active(const GroupOffset *group, int remaining)
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

static void
visit_group(ReturnSetInfo *rsinfo, GroupOffset *entry, int remaining, Topic *topic)
{
	Datum		values[4];
	bool		nulls[4] = {false};

	if (entry->key.topic_id != NO_TOPIC)
		return;
	values[0] = CStringGetTextDatum(entry->key.group_id);
	values[1] = ObjectIdGetDatum(entry->facts.owner);
	values[2] = CStringGetTextDatum(entry->facts.kind == GROUP_CONSUME ? "consume" : "simple");
	values[3] = CStringGetTextDatum(is_active(entry, remaining) ? "Stable" : "Empty");
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
visit_offset(ReturnSetInfo *rsinfo, GroupOffset *entry, int remaining, Topic *topic)
{
	Datum		values[6];
	bool		nulls[6] = {false};
	char	   *metadata;

	if (entry->key.partition == NO_PARTITION || !is_committed(entry))
		return;
	metadata = topics_offset_log_metadata(entry);
	values[0] = CStringGetTextDatum(entry->key.group_id);
	values[1] = CStringGetTextDatum(NameStr(topic->name));
	values[2] = Int32GetDatum(entry->key.partition);
	values[3] = Int64GetDatum(pg_atomic_read_u64(&entry->committed));
	nulls[4] = metadata == NULL;
	values[4] = metadata ? CStringGetTextDatum(metadata) : (Datum) 0;
	values[5] = TimestampTzGetDatum(pg_atomic_read_u64(&entry->commit_time));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
put_lag(ReturnSetInfo *rsinfo, const char *group_id, Topic *topic, int32 partition, int64 committed)
{
	Datum		values[9] = {0};
	bool		nulls[9] = {false, false, false, false, false, false, true, true, true};
	GroupOffset entry;
	Relation	rel;
	PartitionState *state;
	int64		position = committed;
	int64		start;
	int64		end;

	if (partition >= topic->partitions)
		return;
	if (committed == NO_OFFSET &&
		topics_offset_table_peek(group_id, topic->topic_id, partition, &entry))
		position = pg_atomic_read_u64(&entry.start);
	rel = topics_fetch_open_partition(topic, partition);
	state = topics_catalog_partition_state(topic, partition);
	start = topics_log_start(rel, state);
	end = topics_log_end(rel, state);
	table_close(rel, AccessShareLock);
	if (position == NO_OFFSET || position < start)
		position = start;
	values[0] = CStringGetTextDatum(group_id);
	values[1] = CStringGetTextDatum(NameStr(topic->name));
	values[2] = Int32GetDatum(partition);
	nulls[3] = committed == NO_OFFSET;
	values[3] = Int64GetDatum(committed);
	values[4] = Int64GetDatum(end);
	values[5] = Int64GetDatum(Max(end - position, 0));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * A row for each partition of a topic that the group has subscribed to, or
 * else for those that it has committed an offset in.
 */
static void
visit_lag(ReturnSetInfo *rsinfo, GroupOffset *entry, int remaining, Topic *topic)
{
	const GroupOffsetKey *key = &entry->key;
	int			next = 1;
	GroupOffset subscription;

	if (key->topic_id == NO_TOPIC)
		return;
	if (key->partition != NO_PARTITION)
	{
		if (is_committed(entry) &&
			!topics_offset_table_peek(key->group_id, key->topic_id, NO_PARTITION, &subscription))
			put_lag(rsinfo, key->group_id, topic, key->partition,
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
		put_lag(rsinfo, key->group_id, topic, partition, committed);
	}
}

/* group_status(): the rows of the view topics.consumer_group */
Datum
topics_group_status(PG_FUNCTION_ARGS)
{
	visit_entries(fcinfo, visit_group);
	return (Datum) 0;
}

/* offset_status(): the rows of the view topics.consumer_offset */
Datum
topics_offset_status(PG_FUNCTION_ARGS)
{
	visit_entries(fcinfo, visit_offset);
	return (Datum) 0;
}

/* lag_status(): the rows of the view topics.consumer_lag */
Datum
topics_lag_status(PG_FUNCTION_ARGS)
{
	visit_entries(fcinfo, visit_lag);
	return (Datum) 0;
}
