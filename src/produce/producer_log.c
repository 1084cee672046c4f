/*-------------------------------------------------------------------------
 *
 * producer_log.c
 *		The internal topic __producer_state: what producers have numbered.
 *
 * A record's key says what it is about, "topic id/partition/producer id":
 *
 *	0/-1/7		the producer 7, which has a name
 *		{"name": "orders", "epoch": 3, "owner": "app", "owner_id": 16384, "system": 7....}
 *	17/0/7		its sequence in partition 0 of topic 17
 *		{"batches": [[4, 6, 120], [7, 7, 123]], "first": 0, "epoch": 3, "owner": ...}
 *
 * A batch is what one transaction has produced: from its first sequence to its last
 * one, and the offset of the first.  The latest five are kept, as Kafka does.
 *
 * The value is of type json, not jsonb, since the offsets of the latest batch are
 * known when the record has been formed long since: they are put into its text,
 * where there is room for any number (producer.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "produce/producer.h"

#define FIRST_RECORDS 256		/* room for as many keys at first, to load */

/* ----------------------------------------------------------------
 *		Writing
 * ----------------------------------------------------------------
 */

/* Get the leader set that an entry is written by: that of the partition; names, the first. */
int
topics_producer_log_set(const ProducerKey *key)
{
	return topics_producer_has_name(key) ? METADATA_SET :
		topics_internal_topic_set_of(key->topic_id, key->partition);
}

/*
 * Choose the partition that has an entry's record: in the first leader set the producer's
 * id decides, so that a name is in the partition of its sequences.
 */
int32
topics_producer_log_choose_partition(Topic *state_topic, const ProducerKey *key)
{
	int32		partition = topics_internal_topic_partition_of_set(state_topic, topics_producer_log_set(key));

	if (partition >= 0)
		return partition;
	return topics_partitioner_for_key((const char *) &key->producer_id, sizeof(key->producer_id),
									  topics_min(state_topic->partitions, STATE_PARTITIONS));
}

Datum
topics_producer_log_format_key(const ProducerKey *key)
{
	return CStringGetTextDatum(psprintf(INT64_FORMAT "/%d/" INT64_FORMAT,
										key->topic_id, key->partition, key->producer_id));
}

/*
 * Print the batches of a sequence: as many bytes, whatever their offsets are.  Return
 * their number.
 */
int
topics_producer_log_print_batches(char *text, Size size, const ProducerState *state)
{
	int			length = snprintf(text, size, "{\"batches\": [");

	for (int i = 0; i < state->nbatches; i++)
		length += snprintf(text +length, size - length, "%s[%d, %d, %20lld]", i > 0 ? ", " : "",
						   state->batches[i].first, state->batches[i].last,
						   (long long) state->batches[i].offset);
	Assert(length < (int) size);
	return length;
}

/* Format the value of an entry's record: begins with the batches, if it has any. */
Datum
topics_producer_log_format_value(const ProducerKey *key, const ProducerState *state)
{
	StringInfoData json;

	initStringInfo(&json);
	if (topics_producer_has_name(key))
	{
		appendStringInfoString(&json, "{\"name\": ");
		escape_json(&json, state->name);
	}
	else
	{
		char		batches[BATCHES_SIZE];

		topics_producer_log_print_batches(batches, sizeof(batches), state);
		appendStringInfo(&json, "%s], \"first\": %d", batches, state->first);
	}
	appendStringInfo(&json, ", \"epoch\": %d, ", state->epoch);
	topics_internal_topic_format_owner(&json, state->owner);
	appendStringInfoChar(&json, '}');
	return CStringGetTextDatum(json.data);
}

/* ----------------------------------------------------------------
 *		Reading
 * ----------------------------------------------------------------
 */

/* What the log says of a key: its latest record. */
typedef struct LoadedRecord
{
	ProducerKey key;			/* hash key: must be first */
	bool		is_left;		/* neither a tombstone, nor of a topic that
								 * has gone */
	ProducerState state;
	int64		record_offset;
} LoadedRecord;

/* Parse "topic id/partition/producer id".  Return false if it is something else. */
static bool
parse_key(const char *text, ProducerKey *key)
{
	const char *id;
	char	   *end;

	memset(key, 0, sizeof(*key));
	key->database = MyDatabaseId;
	id = topics_internal_topic_parse_key(text, &key->topic_id, &key->partition);
	if (id == NULL)
		return false;
	key->producer_id = strtoi64(id, &end, 10);
	return *end == '\0';
}

static void
read_batches(ProducerState *state, JsonbValue *array)
{
	JsonbContainer *batches;

	if (array == NULL || array->type != jbvBinary || !JsonContainerIsArray(array->val.binary.data))
		return;
	batches = array->val.binary.data;
	for (int i = 0; i < (int) JsonContainerSize(batches) && state->nbatches < PRODUCER_BATCHES; i++)
	{
		JsonbValue *batch = getIthJsonbValueFromContainer(batches, i);
		JsonbContainer *numbers;

		if (batch->type != jbvBinary || !JsonContainerIsArray(batch->val.binary.data))
			continue;
		numbers = batch->val.binary.data;
		state->batches[state->nbatches++] = (ProducerBatch)
		{
			.first = topics_json_number(getIthJsonbValueFromContainer(numbers, 0), 0),
				.last = topics_json_number(getIthJsonbValueFromContainer(numbers, 1), 0),
				.offset = topics_json_number(getIthJsonbValueFromContainer(numbers, 2), UNKNOWN_PLACE)
		};
	}
}

static void
read_value(ProducerState *state, Jsonb *value)
{
	char	   *name = topics_json_string(topics_json_field(value, "name"));

	state->epoch = topics_json_number(topics_json_field(value, "epoch"), 0);
	state->first = topics_json_number(topics_json_field(value, "first"), 0);
	state->owner = topics_internal_topic_read_owner(value);
	if (name)
		strlcpy(state->name, name, sizeof(state->name));
	read_batches(state, topics_json_field(value, "batches"));
}

/* Note a record, from a slot of the log table. */
static void
read_record(TupleTableSlot *slot, void *arg)
{
	ProducerKey key;
	LoadedRecord *record;
	bool		isnull;
	Datum		datum = slot_getattr(slot, Anum_log_key, &isnull);

	if (isnull || !parse_key(TextDatumGetCString(datum), &key))
		return;
	record = hash_search((HTAB *) arg, &key, HASH_ENTER, NULL);
	memset(&record->state, 0, sizeof(record->state));
	record->record_offset = topics_log_get_offset(slot);
	record->state.used_at = DatumGetTimestampTz(slot_getattr(slot, Anum_log_timestamp, &isnull));
	datum = slot_getattr(slot, Anum_log_value, &isnull);
	record->is_left = !isnull &&
		(topics_producer_has_name(&key) || topics_internal_topic_is_left(key.topic_id));
	if (record->is_left)
		read_value(&record->state,
				   DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(TextDatumGetCString(datum)))));
	/* what somebody else wrote may be anything */
	if (record->state.epoch < 0 || (!topics_producer_has_name(&key) && record->state.nbatches == 0))
		record->is_left = false;
}

/* Remove from shared memory what is not in the log. */
static void
unload_missing(Topic *topic, HTAB *records, const int64 *ends)
{
	int			count;
	ProducerEntry *entries = topics_producer_table_list(0, &count);

	for (int i = 0; i < count; i++)
	{
		const ProducerKey *key = &entries[i].key;
		const LoadedRecord *record = hash_search(records, key, HASH_FIND, NULL);

		/* as if by a tombstone at the end: what was committed later stays */
		if (record == NULL || !record->is_left)
			topics_producer_table_load(key, NULL, ends[topics_producer_log_choose_partition(topic, key)] - 1);
	}
	pfree(entries);
}

/* Load the whole log into shared memory. */
static void
load_topic(Topic *topic)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "pg_topics load",
											  ALLOCSET_DEFAULT_SIZES);
	int64	   *ends = MemoryContextAlloc(cxt, sizeof(int64) * topic->partitions);
	HASHCTL		ctl = {.keysize = sizeof(ProducerKey),.entrysize = sizeof(LoadedRecord),.hcxt = cxt};
	HTAB	   *records = hash_create("pg_topics load", FIRST_RECORDS, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	HASH_SEQ_STATUS seq;
	const LoadedRecord *record;

	/* with a topic its partitions' leader sets are known */
	(void) topics_catalog_highest_set();
	for (int32 number = 0; number < topic->partitions; number++)
		ends[number] = topics_internal_topic_read(topic, number, read_record, records);
	unload_missing(topic, records, ends);
	hash_seq_init(&seq, records);
	while ((record = hash_seq_search(&seq)) != NULL)
		if (record->is_left)
			topics_producer_table_load(&record->key, &record->state, record->record_offset);
	hash_destroy(records);
	MemoryContextDelete(cxt);
}

/*
 * On a standby nobody maintains the table: bring it to what the log says now.  It is not
 * noted as loaded, so that it is read again after a promotion.
 */
static void
load_in_recovery(Topic *topic)
{
	LOCKTAG		tag = topics_user_lock_tag(USER_LOCK_STATE_LOAD, STATE_PRODUCERS);

	if (topic == NULL)
		return;
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	load_topic(topic);
	LockRelease(&tag, ExclusiveLock, false);
}

/*
 * Make sure that shared memory has what is committed, and for writing that there is a
 * topic.  This is called before any look at producers.
 */
void
topics_producer_log_prepare(bool for_write)
{
	Topic	   *topic = topics_catalog_lookup(PRODUCER_STATE_TOPIC, true);

	if (topic == NULL && !for_write)
		return;
	if (topic == NULL)
	{
		topics_cluster_require_leader("the first call of topics.produce() with a sequence");
		topics_internal_topic_create(PRODUCER_STATE_TOPIC);
	}
	if (RecoveryInProgress())
	{
		load_in_recovery(topic);
		return;
	}
	while (topics_state_load_begin(STATE_PRODUCERS, for_write && topics_cluster_leads_any()))
	{
		topic = topics_catalog_lookup(PRODUCER_STATE_TOPIC, true);
		if (topic)
			load_topic(topic);
		if (topics_state_load_end(STATE_PRODUCERS, topic ? topic->topic_id : 0))
			break;
	}
}
