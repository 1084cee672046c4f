/*-------------------------------------------------------------------------
 *
 * producer_monitor.c
 *		The administration view of producers that number their records.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "base/base.h"
#include "log/log.h"
#include "produce/produce.h"
#include "produce/producer.h"
#include "serve/serve.h"

PG_FUNCTION_INFO_V1(topics_producer_status);

/* Columns of producer_status. */
enum
{
	PRODUCER_ID,
	PRODUCER_EPOCH,
	PRODUCER_NAME,
	PRODUCER_OWNER,
	PRODUCER_TOPIC,
	PRODUCER_PARTITION,
	PRODUCER_LAST_SEQUENCE,
	PRODUCER_LAST_OFFSET,
	PRODUCER_LAST_TIME,
	PRODUCER_COLUMNS
};

/*
 * Return true if the user may see a producer, in a topic, or NULL for that of
 * a name.
 */
static bool
may_see(const ProducerState *state, Topic *topic)
{
	if (topics_catalog_is_monitor() || topics_catalog_is_admin())
		return true;
	return OidIsValid(state->owner) && has_privs_of_role(GetUserId(), state->owner) &&
		(topic == NULL || topics_catalog_may_see(topic));
}

/* Find the name of a producer that has one, or NULL. */
static const char *
find_name(int64 producer_id, ProducerState *state)
{
	const ProducerKey key = {MyDatabaseId, -1, 0, producer_id};

	return topics_producer_table_peek(&key, state) ? state->name : NULL;
}

static void
put_producer(ReturnSetInfo *rsinfo, const ProducerEntry *entry, Topic *topic)
{
	const ProducerState *state = &entry->state;
	const ProducerBatch *last = &state->batches[Max(state->nbatches - 1, 0)];
	ProducerState named;
	const char *name = find_name(entry->key.producer_id, &named);
	Datum		values[PRODUCER_COLUMNS] = {0};
	bool		nulls[PRODUCER_COLUMNS] = {false};

	values[PRODUCER_ID] = Int64GetDatum(entry->key.producer_id);
	values[PRODUCER_EPOCH] = Int32GetDatum(state->epoch);
	nulls[PRODUCER_NAME] = name == NULL;
	values[PRODUCER_NAME] = name ? CStringGetTextDatum(name) : (Datum) 0;
	values[PRODUCER_OWNER] = ObjectIdGetDatum(state->owner);
	nulls[PRODUCER_TOPIC] = nulls[PRODUCER_PARTITION] = topic == NULL;
	nulls[PRODUCER_LAST_SEQUENCE] = nulls[PRODUCER_LAST_OFFSET] = topic == NULL;
	if (topic)
	{
		values[PRODUCER_TOPIC] = CStringGetTextDatum(NameStr(topic->name));
		values[PRODUCER_PARTITION] = Int32GetDatum(entry->key.partition);
		values[PRODUCER_LAST_SEQUENCE] = Int32GetDatum(last->last);
		values[PRODUCER_LAST_OFFSET] =
			Int64GetDatum(last->offset + (((uint32) last->last - (uint32) last->first) & PG_INT32_MAX));
	}
	values[PRODUCER_LAST_TIME] = TimestampTzGetDatum(state->used_at);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* producer_status(): a row for each entry */
Datum
topics_producer_status(PG_FUNCTION_ARGS)
{
	ProducerEntry *entries;
	int			count;

	topics_settings_require_preload();
	topics_producer_prepare(false);
	InitMaterializedSRF(fcinfo, 0);
	entries = topics_producer_table_list(0, &count);
	for (int i = 0; i < count; i++)
	{
		const bool	is_name = topics_producer_has_name(&entries[i].key);
		Topic	   *topic = is_name ? NULL : topics_catalog_by_id(entries[i].key.topic_id);

		CHECK_FOR_INTERRUPTS();
		if ((is_name || topic) && may_see(&entries[i].state, topic))
			put_producer((ReturnSetInfo *) fcinfo->resultinfo, &entries[i], topic);
	}
	return (Datum) 0;
}
