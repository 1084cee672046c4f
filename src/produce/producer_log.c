/*-------------------------------------------------------------------------
 *
 * producer_log.c
 *		The internal topic __producer_state: what producers have numbered.
 *
 * A record's key says what it is about, "topic id/partition/producer id":
 *
 *	0/-1/7		the producer 7, which has a name
 *		{"name": "orders", "epoch": 3, "owner": "app", "owner_id": 16384,
 *		"system": 7....}
 *	17/0/7		its sequence in partition 0 of topic 17
 *		{"batches": [[4, 6, 120], [7, 7, 123]], "first": 0, "epoch": 3,
 *		"owner": ...}
 *
 * A batch is what one transaction has produced: from its first sequence to its
 * last one, and the offset of the first.  The latest five are kept, as Kafka
 * does.
 *
 * The value is of type json, not jsonb, since the offsets of the latest batch
 * are known when the record has been formed long since: they are put into its
 * text, where there is room for any number (producer.c).
 *
 * WHAT GOES.  A tombstone is written to the partition that has the record, by
 * who leads that: when the topic is dropped, in that transaction, and when the
 * producer was silent for long (producer_expiry.c).  Where leaders are spread,
 * who leads a partition of the log may have heard as a follower that the topic
 * is dropped, when nobody led, and has written no tombstones.  So what is of a
 * topic that is gone is loaded as well, and its entries expire.
 *
 * NO ROOM.  What does not fit is left out, the oldest first:
 * pg_topics.max_producers was lowered, or is less than that of the node that
 * has led.  What is not found in memory then is not taken to be unknown, and
 * is refused (topics_producer_require_all_known), until there is room, and the
 * log has been read again.
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

/*
 * Get the leader set of a partition of the log: the first ones are of the
 * first set, and each other set has one (internal_topic.c).
 */
int
topics_producer_log_set_of_partition(int32 log_partition)
{
	Assert(log_partition >= 0);
	return log_partition < STATE_PARTITIONS ? METADATA_SET : log_partition - STATE_PARTITIONS + 1;
}

/*
 * Get the leader set that an entry is written by: that of the partition;
 * names, the first.
 */
int
topics_producer_log_set(const ProducerKey *key)
{
	return topics_producer_has_name(key) ? METADATA_SET :
		topics_internal_topic_set_of(key->topic_id, key->partition);
}

/*
 * Choose the partition that has an entry's record: in the first leader set the
 * producer's id decides, so that a name is in the partition of its sequences.
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

/* Print an offset, behind as many spaces as it takes to fill a width. */
static char *
print_offset(char *end, int64 offset, int width)
{
	char		digits[MAXINT8LEN + 1];
	const int	length = pg_lltoa(offset, digits);

	for (; width > length; width--)
		*end++ = ' ';
	memcpy(end, digits, length);
	return end + length;
}

/*
 * Print the batches of a sequence.  The last "nlocal" take as many bytes,
 * whatever their offsets are.  Return the length.
 */
int
topics_producer_log_print_batches(char *buffer, const ProducerState *state, int nlocal)
{
	static const char begin[] = "{\"batches\": [";
	char	   *end = buffer + sizeof(begin) - 1;

	memcpy(buffer, begin, sizeof(begin) - 1);
	for (int i = 0; i < state->nbatches; i++)
	{
		const ProducerBatch *batch = &state->batches[i];

		if (i > 0)
		{
			*end++ = ',';
			*end++ = ' ';
		}
		*end++ = '[';
		end += pg_ltoa(batch->first, end);
		*end++ = ',';
		*end++ = ' ';
		end += pg_ltoa(batch->last, end);
		*end++ = ',';
		*end++ = ' ';
		end = print_offset(end, batch->offset, i < state->nbatches - nlocal ? 0 : MAXINT8LEN);
		*end++ = ']';
	}
	Assert(end - buffer < BATCHES_SIZE);
	*end = '\0';
	return end - buffer;
}

/*
 * Format the value of an entry's record: begins with the batches, if it has
 * any.
 */
Datum
topics_producer_log_format_value(const ProducerKey *key, const ProducerState *state, int nlocal)
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

		topics_producer_log_print_batches(batches, state, nlocal);
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
	bool		is_left;		/* no tombstone */
	ProducerState state;
	int32		log_partition;
	int64		record_offset;
} LoadedRecord;

/*
 * Parse "topic id/partition/producer id".  Return false if it is something
 * else.
 */
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

/* Where the records go that are read. */
typedef struct LoadedRecords
{
	HTAB	   *hash;			/* of LoadedRecord */
	int32		number;			/* the partition that is read */
} LoadedRecords;

/* Note a record, from a slot of the log table. */
static void
read_record(TupleTableSlot *slot, void *arg)
{
	const LoadedRecords *records = arg;
	ProducerKey key;
	LoadedRecord *record;
	bool		isnull;
	Datum		datum = slot_getattr(slot, Anum_log_key, &isnull);

	if (isnull || !parse_key(TextDatumGetCString(datum), &key))
		return;
	record = hash_search(records->hash, &key, HASH_ENTER, NULL);
	memset(&record->state, 0, sizeof(record->state));
	record->log_partition = records->number;
	record->record_offset = topics_log_get_offset(slot);
	record->state.used_at = DatumGetTimestampTz(slot_getattr(slot, Anum_log_timestamp, &isnull));
	datum = slot_getattr(slot, Anum_log_value, &isnull);
	record->is_left = !isnull;
	if (record->is_left)
		read_value(&record->state,
				   DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(TextDatumGetCString(datum)))));
	/* what somebody else wrote may be anything */
	if (record->state.epoch < 0 || (!topics_producer_has_name(&key) && record->state.nbatches == 0))
		record->is_left = false;
}

/* Remove from shared memory what is not in the log. */
static void
unload_missing(HTAB *records, const int64 *ends, int32 partitions)
{
	int			count;
	ProducerEntry *entries = topics_producer_table_list(0, &count);

	for (int i = 0; i < count; i++)
	{
		const LoadedRecord *record = hash_search(records, &entries[i].key, HASH_FIND, NULL);
		const int32 number = entries[i].log_partition;

		/* as if by a tombstone at the end: what was committed later stays */
		if (record == NULL || !record->is_left)
			(void) topics_producer_table_load(&entries[i].key, NULL, number,
											  number < partitions ? ends[number] - 1 : PG_INT64_MAX);
	}
	pfree(entries);
}

/* Order records, the latest first. */
static int
compare_records(const void *a, const void *b)
{
	const TimestampTz ta = (*(const LoadedRecord *const *) a)->state.used_at;
	const TimestampTz tb = (*(const LoadedRecord *const *) b)->state.used_at;

	return ta > tb ? -1 : ta < tb;
}

/*
 * Load what was read, as far as there is room.  Return how much is left out.
 */
static int
load_records(HTAB *records, MemoryContext cxt)
{
	const LoadedRecord **sorted =
		MemoryContextAllocHuge(cxt, sizeof(LoadedRecord *) * (hash_get_num_entries(records) + 1));
	int64		count = 0;
	int			left_out = 0;
	HASH_SEQ_STATUS seq;
	const LoadedRecord *record;

	hash_seq_init(&seq, records);
	while ((record = hash_seq_search(&seq)) != NULL)
		if (record->is_left)
			sorted[count++] = record;
	qsort(sorted, count, sizeof(LoadedRecord *), compare_records);
	for (int64 i = 0; i < count; i++)
		if (!topics_producer_table_load(&sorted[i]->key, &sorted[i]->state, sorted[i]->log_partition,
										sorted[i]->record_offset))
			left_out++;
	return left_out;
}

static void
warn_left_out(int left_out)
{
	ereport(WARNING,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("there is no room for %d sequences and names of producers", left_out),
			 errdetail("All %d places for them in shared memory are taken. What is not found there is refused: it may be among those that are left out.",
					   pg_topics_max_producers),
			 errhint("Increase pg_topics.max_producers and restart the server.")));
}

/* Load the whole log into shared memory. */
static void
load_topic(Topic *topic)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "pg_topics load",
											  ALLOCSET_DEFAULT_SIZES);
	int64	   *ends = MemoryContextAlloc(cxt, sizeof(int64) * topic->partitions);
	const int32 partitions = topic->partitions;
	HASHCTL		ctl = {.keysize = sizeof(ProducerKey),.entrysize = sizeof(LoadedRecord),.hcxt = cxt};
	LoadedRecords records = {
		hash_create("pg_topics load", FIRST_RECORDS, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT), 0
	};
	int			left_out;

	/* with a topic its partitions' leader sets are known */
	(void) topics_catalog_highest_set();
	for (; records.number < partitions; records.number++)
		ends[records.number] = topics_internal_topic_read(topic, records.number, read_record, &records);
	unload_missing(records.hash, ends, partitions);
	left_out = load_records(records.hash, cxt);
	if (topics_state_load_note_left_out(STATE_PRODUCERS, left_out) != left_out && left_out > 0)
		warn_left_out(left_out);
	hash_destroy(records.hash);
	MemoryContextDelete(cxt);
}

/*
 * On a standby nobody maintains the table: bring it to what the log says now.
 * It is not noted as loaded, so that it is read again after a promotion.
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
 * Make sure that shared memory has what is committed, and for writing that
 * there is a topic.  This is called before any look at producers.
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
