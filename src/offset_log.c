/*-------------------------------------------------------------------------
 *
 * offset_log.c
 *		The internal topic __consumer_offsets: records of commits.
 *
 * A record's key says what it is about, "topic id/partition/group":
 *
 *	0/-1/g		the group g
 *		{"owner": "app", "owner_id": 16384, "system": 7...., "kind": "consume"}
 *	17/-1/g		its subscription to topic 17
 *		{"auto_offset_reset": "latest", "partitions": 2, "starts": [10, 4]}
 *	17/0/g		its committed offset in partition 0 of topic 17
 *		{"offset": 42, "metadata": "..."}
 *
 * The last record of a key is the one that counts; without a value it says
 * that there is no such thing any more.  All records of a group are in one
 * partition, which its name decides.
 *
 * A role is kept by id and by name: the id is right in the cluster that it
 * was written in, also after ALTER ROLE .. RENAME, the name in any other,
 * after a restore or an upgrade.
 *
 * Nothing is read while the server runs: entries in shared memory
 * (consumer_offset.c) are current.  They are loaded from the log when a
 * session first needs them after a restart.  TIDYING keeps that short: when
 * the log has become long against the number of entries, those whose record
 * is old are written anew, each under its claim so that nobody commits
 * meanwhile, and the log start goes up to the oldest record that counts.
 *
 * The topic is made when it is first needed, by another process in a
 * transaction of its own, since the one that needs it may stay open for long.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "access/xlog.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "buffer.h"
#include "compat.h"
#include "consumer.h"
#include "pg_topics.h"

#define OFFSETS_PARTITIONS 8	/* of the topic, when it is made */

/* Tidy where a partition has more records than this, or than 4 per entry. */
#define TIDY_RECORDS 20000
#define TIDY_RATIO 4
#define TIDY_BATCH 100			/* claims held at a time, shortly */

static const char *const reset_names[] = {"earliest", "latest", "none"};
static const char *const kind_names[] = {"consume", "simple"};

/* ----------------------------------------------------------------
 *		The topic
 * ----------------------------------------------------------------
 */

static Topic *
find_topic(void)
{
	return topics_catalog_lookup(CONSUMER_OFFSETS_TOPIC, true);
}

/* The topic, for a transaction that has prepared for writing. */
Topic *
topics_offset_log_topic(void)
{
	Topic	   *topic = find_topic();

	if (topic == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("topic \"%s\" does not exist", CONSUMER_OFFSETS_TOPIC),
				 errhint("It was dropped in this transaction.")));
	return topic;
}

int32
topics_offset_log_partition(Topic *offsets_topic, const char *group_id)
{
	return topics_partitioner_for_key(group_id, strlen(group_id), offsets_topic->partitions);
}

PGDLLEXPORT void topics_offset_log_create_main(Datum main_arg);

/* In a background process: make the topic, unless another one has. */
void
topics_offset_log_create_main(Datum main_arg)
{
	Oid			database;

	memcpy(&database, topics_background_begin(), sizeof(database));
	topics_background_connect(database);
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	topics_topic_create_internal(CONSUMER_OFFSETS_TOPIC, OFFSETS_PARTITIONS);
	PopActiveSnapshot();
	CommitTransactionCommand();
}

static void
create_topic(void)
{
	if (topics_background_run("topics_offset_log_create_main", "pg_topics create worker",
							  &MyDatabaseId, sizeof(MyDatabaseId)))
	{
		AcceptInvalidationMessages();
		if (find_topic())
			return;
	}
	topics_topic_create_internal(CONSUMER_OFFSETS_TOPIC, OFFSETS_PARTITIONS);
}

/* ----------------------------------------------------------------
 *		Writing
 * ----------------------------------------------------------------
 */

static void
append_group(StringInfo json, const GroupOffset *entry)
{
	char	   *owner = GetUserNameFromId(entry->facts.owner, true);

	appendStringInfoString(json, "{\"owner\": ");
	escape_json(json, owner ? owner : "");
	appendStringInfo(json, ", \"owner_id\": %u, \"system\": " UINT64_FORMAT ", \"kind\": \"%s\"}",
					 entry->facts.owner, GetSystemIdentifier(), kind_names[entry->facts.kind]);
}

static void
append_subscription(StringInfo json, const GroupOffset *entry)
{
	appendStringInfo(json, "{\"auto_offset_reset\": \"%s\", \"partitions\": %d",
					 reset_names[entry->facts.reset], entry->facts.partitions);
	if (entry->facts.reset == RESET_LATEST)
	{
		appendStringInfoString(json, ", \"starts\": [");
		for (int32 partition = 0; partition < entry->facts.partitions; partition++)
		{
			GroupOffset place;
			int64		start = 0;

			if (topics_consumer_offset_peek(entry->key.group_id, entry->key.topic_id,
											partition, &place) &&
				(int64) pg_atomic_read_u64(&place.start) != NO_OFFSET)
				start = pg_atomic_read_u64(&place.start);
			appendStringInfo(json, "%s" INT64_FORMAT, partition > 0 ? ", " : "", start);
		}
		appendStringInfoChar(json, ']');
	}
	appendStringInfoChar(json, '}');
}

static void
append_offset(StringInfo json, const OffsetChange *change)
{
	appendStringInfo(json, "{\"offset\": " INT64_FORMAT, change->offset);
	if (change->metadata)
	{
		appendStringInfoString(json, ", \"metadata\": ");
		escape_json(json, change->metadata);
	}
	appendStringInfoChar(json, '}');
}

/* Give the record of a change to the transaction's buffer. */
void
topics_offset_log_add(Topic *offsets_topic, LocalOffset *local)
{
	const GroupOffsetKey *key = &local->shared->key;
	RecordDraft draft = {0};
	StringInfoData json;

	draft.key = CStringGetTextDatum(psprintf(INT64_FORMAT "/%d/%s", key->topic_id, key->partition,
											 key->group_id));
	draft.value_isnull = local->change->deleted;
	draft.headers_isnull = true;
	if (!local->change->deleted)
	{
		initStringInfo(&json);
		if (key->topic_id == NO_TOPIC)
			append_group(&json, local->shared);
		else if (key->partition == NO_PARTITION)
			append_subscription(&json, local->shared);
		else
			append_offset(&json, local->change);
		draft.value = DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
	}
	draft.partition = topics_offset_log_partition(offsets_topic, key->group_id);
	draft.create_time = local->commit_time;
	local->log_partition = draft.partition;
	local->ordinal = topics_append_buffer(offsets_topic, &draft);
}

/* ----------------------------------------------------------------
 *		Reading
 * ----------------------------------------------------------------
 */

static JsonbValue *
field(Jsonb *value, const char *name)
{
	return getKeyJsonValueFromContainer(&value->root, name, strlen(name), NULL);
}

static int64
number_of(JsonbValue *value, int64 missing)
{
	if (value == NULL || value->type != jbvNumeric)
		return missing;
	return DatumGetInt64(DirectFunctionCall1(numeric_int8, NumericGetDatum(value->val.numeric)));
}

static char *
string_of(JsonbValue *value)
{
	if (value == NULL || value->type != jbvString)
		return NULL;
	return pnstrdup(value->val.string.val, value->val.string.len);
}

static int
name_index(const char *name, const char *const *names, int count)
{
	for (int i = 0; name && i < count; i++)
		if (strcmp(name, names[i]) == 0)
			return i;
	return 0;
}

/* "topic id/partition/group" */
static bool
parse_key(const char *text, GroupOffsetKey *key)
{
	char	   *p;

	memset(key, 0, sizeof(*key));
	key->database = MyDatabaseId;
	key->topic_id = strtoi64(text, &p, 10);
	if (*p != '/')
		return false;
	key->partition = strtol(p + 1, &p, 10);
	if (*p != '/' || strlen(p + 1) >= NAMEDATALEN)
		return false;
	strlcpy(key->group_id, p + 1, NAMEDATALEN);
	return true;
}

static Oid
owner_of(Jsonb *value)
{
	char	   *name = string_of(field(value, "owner"));
	Oid			owner = (Oid) number_of(field(value, "owner_id"), InvalidOid);
	JsonbValue *system = field(value, "system");
	char	   *here = psprintf(UINT64_FORMAT, GetSystemIdentifier());

	if (system && system->type == jbvNumeric &&
		strcmp(numeric_normalize(system->val.numeric), here) == 0)
		return owner;
	return name ? get_role_oid(name, true) : InvalidOid;
}

static void
load_starts(const GroupOffsetKey *subscription, JsonbValue *starts)
{
	GroupOffsetKey key = *subscription;
	int			count;

	if (starts == NULL || starts->type != jbvBinary || !JsonContainerIsArray(starts->val.binary.data))
		return;
	count = JsonContainerSize(starts->val.binary.data);
	for (key.partition = 0; key.partition < count; key.partition++)
		topics_consumer_offset_load_start(&key,
										  number_of(getIthJsonbValueFromContainer(starts->val.binary.data,
																				  key.partition), 0));
}

/* A record, in a slot of the log table. */
static void
load_record(TupleTableSlot *slot)
{
	GroupOffsetKey key;
	GroupOffsetFacts facts = {0};
	bool		isnull;
	int64		record_offset;
	TimestampTz commit_time;
	Datum		datum;
	Jsonb	   *value;
	int64		offset = 1;

	datum = slot_getattr(slot, Anum_log_key, &isnull);
	if (isnull || !parse_key(TextDatumGetCString(datum), &key))
		return;
	if (key.topic_id != NO_TOPIC &&
		!OidIsValid(get_relname_relid(psprintf("t" INT64_FORMAT, key.topic_id),
									  get_namespace_oid(TOPIC_LOG_SCHEMA, false))))
		return;					/* dropped */
	record_offset = DatumGetInt64(slot_getattr(slot, Anum_log_offset, &isnull));
	commit_time = DatumGetTimestampTz(slot_getattr(slot, Anum_log_timestamp, &isnull));

	datum = slot_getattr(slot, Anum_log_value, &isnull);
	if (isnull)
	{
		topics_consumer_offset_load(&key, NULL, NO_OFFSET, commit_time, record_offset, false);
		return;
	}
	value = DatumGetJsonbP(datum);
	if (key.topic_id == NO_TOPIC)
	{
		facts.owner = owner_of(value);
		facts.kind = name_index(string_of(field(value, "kind")), kind_names, lengthof(kind_names));
	}
	else if (key.partition == NO_PARTITION)
	{
		facts.reset = name_index(string_of(field(value, "auto_offset_reset")),
								 reset_names, lengthof(reset_names));
		facts.partitions = number_of(field(value, "partitions"), 0);
	}
	else
		offset = number_of(field(value, "offset"), 0);
	topics_consumer_offset_load(&key, key.partition == NO_PARTITION ? &facts : NULL, offset,
								commit_time, record_offset, field(value, "metadata") != NULL);
	if (key.partition == NO_PARTITION && facts.reset == RESET_LATEST)
		load_starts(&key, field(value, "starts"));
}

static Relation
open_log(Topic *topic, int32 partition)
{
	Relation	rel = table_open(topics_catalog_partition_relid(topic, partition), AccessShareLock);

	topics_segment_learn(RelationGetRelid(rel), topics_catalog_partition_state(topic, partition));
	return rel;
}

static void
load_partition(Topic *topic, int32 partition)
{
	PartitionState *state = topics_catalog_partition_state(topic, partition);
	Relation	rel = open_log(topic, partition);
	int64		start = topics_log_start(rel, state);
	int64		end = topics_log_end(rel, state);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	LogReader  *reader = topics_log_reader_open(rel, start, end, snapshot, false);
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "pg_topics load",
											  ALLOCSET_DEFAULT_SIZES);
	TupleTableSlot *slot;

	while ((slot = topics_log_reader_next(reader)) != NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(cxt);

		CHECK_FOR_INTERRUPTS();
		load_record(slot);
		MemoryContextSwitchTo(old);
		MemoryContextReset(cxt);
	}
	topics_log_reader_close(reader);
	MemoryContextDelete(cxt);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
}

static void
load(void)
{
	Topic	   *topic = find_topic();

	for (int32 partition = 0; topic && partition < topic->partitions; partition++)
		load_partition(topic, partition);
	topics_consumer_offset_end_load(RecoveryInProgress() ? -1 : topic ? topic->topic_id : 0);
}

/*
 * Have what is committed in shared memory, and before writing the topic too.
 * Everybody calls this before he looks at groups.
 */
void
topics_offset_log_prepare(bool for_write)
{
	if (for_write && find_topic() == NULL)
		create_topic();
	if (topics_consumer_offset_begin_load())
		load();
}

/* The metadata of a committed offset, palloc'd, or NULL. */
char *
topics_offset_log_metadata(const GroupOffset *entry)
{
	Topic	   *topic = entry->has_metadata ? find_topic() : NULL;
	int64		offset = pg_atomic_read_u64((pg_atomic_uint64 *) &entry->record_offset);
	Snapshot	snapshot;
	Relation	rel;
	LogReader  *reader;
	TupleTableSlot *slot;
	char	   *result = NULL;
	bool		isnull;

	if (topic == NULL)
		return NULL;
	rel = open_log(topic, topics_offset_log_partition(topic, entry->key.group_id));
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	reader = topics_log_reader_open(rel, offset, offset + 1, snapshot, false);
	slot = topics_log_reader_next(reader);
	if (slot)
	{
		Datum		value = slot_getattr(slot, Anum_log_value, &isnull);

		if (!isnull)
			result = string_of(field(DatumGetJsonbP(value), "metadata"));
	}
	topics_log_reader_close(reader);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return result;
}

/* ----------------------------------------------------------------
 *		Tidying
 * ----------------------------------------------------------------
 */

static int64
record_offset_of(const GroupOffset *entry)
{
	return pg_atomic_read_u64((pg_atomic_uint64 *) &entry->record_offset);
}

static int
compare_record_offsets(const void *a, const void *b)
{
	int64		oa = record_offset_of(a);
	int64		ob = record_offset_of(b);

	return oa < ob ? -1 : oa > ob;
}

/* The entries whose records are in a partition of the log, oldest first. */
static GroupOffset *
entries_of(Topic *topic, int32 partition, int *count)
{
	int			all;
	GroupOffset *entries = topics_consumer_offset_list(NULL, &all);

	*count = 0;
	for (int i = 0; i < all; i++)
		if (topics_offset_log_partition(topic, entries[i].key.group_id) == partition)
			entries[(*count)++] = entries[i];
	qsort(entries, *count, sizeof(GroupOffset), compare_record_offsets);
	return entries;
}

static void
look_at_ends(Topic *topic, int32 partition, int64 *start, int64 *end)
{
	PartitionState *state = topics_catalog_partition_state(topic, partition);
	Relation	rel = open_log(topic, partition);

	*start = topics_log_start(rel, state);
	*end = topics_log_end(rel, state);
	table_close(rel, AccessShareLock);
}

/* Write up to TIDY_BATCH entries anew; how many were looked at. */
static int
rewrite_batch(GroupOffset *entries, int count)
{
	int			upto = Min(count, TIDY_BATCH);

	for (int i = 0; i < upto; i++)
	{
		Topic	   *topic = entries[i].key.topic_id == NO_TOPIC ? NULL :
			topics_catalog_by_id(entries[i].key.topic_id);

		if (entries[i].key.topic_id != NO_TOPIC && topic == NULL)
			continue;			/* dropped just now */
		(void) topics_consumer_offset_rewrite(&entries[i],
											  topic ? topics_catalog_partition_state(topic, 0) : NULL,
											  topics_offset_log_metadata(&entries[i]));
	}
	return upto;
}

/*
 * Let the log of a partition begin at the oldest record that counts, after
 * the old ones were written anew.  Who is committing meanwhile writes behind
 * the log end that we saw first.
 */
static void
tidy_partition(int32 partition, MemoryContext cxt, NextTransaction next_transaction)
{
	Topic	   *topic = find_topic();
	MemoryContext old;
	GroupOffset *entries;
	int			count;
	int			done = 0;
	int64		start;
	int64		end;
	int64		oldest;

	if (topic == NULL || partition >= topic->partitions)
		return;
	look_at_ends(topic, partition, &start, &end);
	if (end - start <= TIDY_RECORDS)
		return;
	old = MemoryContextSwitchTo(cxt);	/* it outlives transactions */
	entries = entries_of(topic, partition, &count);
	MemoryContextSwitchTo(old);
	if (end - start > TIDY_RATIO * (int64) count)
	{
		int64		recent = end - Max(TIDY_RECORDS / 2, count);

		while (done < count && record_offset_of(&entries[done]) < recent)
		{
			done += rewrite_batch(entries + done, count - done);
			next_transaction();
		}

		topic = find_topic();
		if (topic == NULL)
			return;
		look_at_ends(topic, partition, &start, &end);
		entries = entries_of(topic, partition, &count);
		oldest = count > 0 ? Min(record_offset_of(&entries[0]), end) : end;
		if (oldest > start)
		{
			PushActiveSnapshot(GetTransactionSnapshot());
			(void) topics_log_start_move(topics_catalog_partition_state(topic, partition), oldest);
			PopActiveSnapshot();
		}
		next_transaction();
	}
	MemoryContextReset(cxt);
}

/*
 * Keep what is to be read after a restart short.  In a transaction, and in
 * another one at the end; "parent" outlives them.
 */
void
topics_offset_log_tidy(MemoryContext parent, NextTransaction next_transaction)
{
	MemoryContext cxt;

	if (find_topic() == NULL)
		return;
	topics_offset_log_prepare(false);
	next_transaction();
	cxt = AllocSetContextCreate(parent, "pg_topics tidy", ALLOCSET_DEFAULT_SIZES);
	for (int32 partition = 0; partition < OFFSETS_PARTITIONS; partition++)
		tidy_partition(partition, cxt, next_transaction);
	MemoryContextDelete(cxt);
}
