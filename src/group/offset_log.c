/*-------------------------------------------------------------------------
 *
 * offset_log.c
 *		The internal topic __consumer_offsets: records of commits.
 *
 * A record's key says what it is about, "topic id/partition/group":
 *
 *	0/-1/g		the group g
 *		{"owner": "app", "owner_id": 16384, "system": 7...., "group_type": "consume"}
 *	0/-2/g		its members, and which partitions they have (member_log.c)
 *		{"generation": 7, "assignor": "range", "members": [...]}
 *	0/-3/g		the same in leader set 1; 0/-4/g in set 2, and so on
 *	17/-1/g		its subscription to topic 17
 *		{"auto_offset_reset": "latest", "partitions": 2, "starts": [10, 4]}
 *	17/0/g		its committed offset in partition 0 of topic 17
 *		{"offset": 42, "metadata": "..."}
 *
 * The last record of a key is the one that counts; without a value it says
 * that there is no such thing any more.  All records of a group that are of the
 * first leader set are in one partition, which its name decides; those of
 * another set are in that one's.
 *
 * The log is not read while the server runs: the entries in shared memory
 * (offset_table.c) are current.  They are loaded from the log when a session
 * first needs them after a restart; on a standby, which hears of no commit,
 * each time, into memory of the session's own.
 *
 * COMPACTION (compact.c) keeps the log short: it is a topic like any other
 * with cleanup_policy compact, and small segments.  What there is to load is
 * the entries, what compaction has not come to yet (no more than the entries
 * again, or a few segments), and the active segment.  It grows beyond that
 * only while a snapshot is held open, which compaction waits for.  Tombstones
 * are written for a group that is deleted, and for what is committed in a
 * topic that is dropped (consumer_offset.c), so nothing stays for ever.
 *
 * DELETED ENTRIES.  An entry that is in shared memory, but not in the log that
 * was read, was deleted, and its tombstone has gone since: a standby, or a
 * server that was one, may not have looked while the tombstone was there.
 *
 * See docs/decisions/0010-committed-offsets.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "read/read.h"
#include "group/group.h"
#include "pg_topics.h"

#define FIRST_RECORDS 1024		/* room for as many keys at first, to load */

#define OWNERS_BATCH 100		/* groups whose owners are looked at in a
								 * transaction */

const char *const topics_reset_names[RESET_KINDS] = {"earliest", "latest", "none"};
static const char *const type_names[GROUP_TYPES] = {"consume", "simple", "member"};

/* ----------------------------------------------------------------
 *		The topic
 * ----------------------------------------------------------------
 */

static Topic *
find_offsets_topic(void)
{
	return topics_catalog_lookup(CONSUMER_OFFSETS_TOPIC, true);
}

/*
 * Get the leader set that an entry is written by: that of the partition which
 * was consumed, or that which members are of.  What a group is, and what it
 * has subscribed to, is of the first.
 */
int
topics_offset_log_leader_set(const GroupOffsetKey *key)
{
	if (is_members_partition(key->partition))
		return get_members_set(key->partition);
	if (key->topic_id == NO_TOPIC || key->partition == NO_PARTITION)
		return METADATA_SET;
	return topics_internal_topic_set_of(key->topic_id, key->partition);
}

/*
 * Choose the partition that has an entry's record: the group's name decides,
 * or, in other leader sets than the first, the set does.
 */
int32
topics_offset_log_choose_partition(Topic *offsets_topic, const GroupOffsetKey *key)
{
	int32		partition = topics_internal_topic_partition_of_set(offsets_topic, topics_offset_log_leader_set(key));

	if (partition >= 0)
		return partition;
	return topics_partitioner_for_key(key->group_id, strlen(key->group_id),
									  topics_min(offsets_topic->partitions, STATE_PARTITIONS));
}

/* ----------------------------------------------------------------
 *		Writing
 * ----------------------------------------------------------------
 */

const char *
topics_offset_log_type_name(GroupType type)
{
	return type_names[type];
}

static void
format_group(StringInfo json, const GroupOffset *entry, GroupType type)
{
	appendStringInfoChar(json, '{');
	topics_internal_topic_format_owner(json, entry->facts.owner);
	appendStringInfo(json, ", \"group_type\": \"%s\"}", type_names[type]);
}

static void
format_subscription(StringInfo json, const GroupOffset *entry)
{
	appendStringInfo(json, "{\"auto_offset_reset\": \"%s\", \"partitions\": %d",
					 topics_reset_names[entry->facts.reset], entry->facts.partitions);
	if (entry->facts.reset == RESET_LATEST)
	{
		appendStringInfoString(json, ", \"starts\": [");
		for (int32 partition = 0; partition < entry->facts.partitions; partition++)
		{
			GroupOffset place;
			int64		start = 0;

			if (topics_offset_table_peek(entry->key.group_id, entry->key.topic_id,
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
format_offset(StringInfo json, const OffsetChange *change)
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
topics_offset_log_add_record(Topic *offsets_topic, LocalOffset *local)
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
		if (is_members_partition(key->partition))
			topics_member_log_format(&json, local->change->members);
		else if (key->topic_id == NO_TOPIC)
			format_group(&json, local->shared, local->change->type);
		else if (key->partition == NO_PARTITION)
			format_subscription(&json, local->shared);
		else
			format_offset(&json, local->change);
		draft.value = DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
	}
	draft.partition = topics_offset_log_choose_partition(offsets_topic, key);
	draft.create_time = local->commit_time;
	local->log_partition = draft.partition;
	local->ordinal = topics_append_buffer(offsets_topic, &draft);
}

/* ----------------------------------------------------------------
 *		Reading
 * ----------------------------------------------------------------
 */

/* Return the index of a name, or 0 if it is not among them. */
static int
find_name(const char *name, const char *const *names, int count)
{
	for (int i = 0; name && i < count; i++)
		if (strcmp(name, names[i]) == 0)
			return i;
	return 0;
}

/* Parse "topic id/partition/group".  Return false if it is something else. */
static bool
parse_record_key(const char *text, GroupOffsetKey *key)
{
	const char *group_id;

	memset(key, 0, sizeof(*key));
	key->database = MyDatabaseId;
	group_id = topics_internal_topic_parse_key(text, &key->topic_id, &key->partition);
	if (group_id == NULL || strlen(group_id) > MAX_GROUP_ID)
		return false;
	if (is_members_partition(key->partition) &&
		(key->topic_id != NO_TOPIC || get_members_set(key->partition) >= MAX_LEADER_SETS))
		return false;
	strlcpy(key->group_id, group_id, sizeof(key->group_id));
	return true;
}

/* What the log says of a key: its latest record. */
typedef struct LoadedRecord
{
	GroupOffsetKey key;			/* hash key: must be first */
	bool		topic_is_gone;	/* neither to be loaded nor to be unloaded */
	bool		deleted;		/* it is a tombstone */
	bool		has_metadata;
	GroupOffsetFacts facts;
	int64		offset;
	TimestampTz commit_time;
	int64		record_offset;
	int64	   *starts;			/* palloc'd, or NULL */
	int			nstarts;
	Jsonb	   *members;		/* palloc'd, or NULL: it is about other things */
} LoadedRecord;

static void
read_group_starts(LoadedRecord *record, JsonbValue *starts, MemoryContext cxt)
{
	if (starts == NULL || starts->type != jbvBinary || !JsonContainerIsArray(starts->val.binary.data))
		return;
	record->nstarts = JsonContainerSize(starts->val.binary.data);
	record->starts = MemoryContextAlloc(cxt, sizeof(int64) * Max(record->nstarts, 1));
	for (int i = 0; i < record->nstarts; i++)
		record->starts[i] =
			topics_json_number(getIthJsonbValueFromContainer(starts->val.binary.data, i), 0);
}

static void
read_record_value(LoadedRecord *record, Jsonb *value, MemoryContext cxt)
{
	record->offset = IT_EXISTS;
	record->has_metadata = topics_json_field(value, "metadata") != NULL;
	if (is_members_partition(record->key.partition))
	{
		record->members = MemoryContextAlloc(cxt, VARSIZE(value));
		memcpy(record->members, value, VARSIZE(value));
	}
	else if (record->key.topic_id == NO_TOPIC)
	{
		record->facts.owner = topics_internal_topic_read_owner(value);
		record->facts.type = find_name(topics_json_string(topics_json_field(value, "group_type")),
									   type_names, lengthof(type_names));
	}
	else if (record->key.partition == NO_PARTITION)
	{
		record->facts.reset = find_name(topics_json_string(topics_json_field(value, "auto_offset_reset")),
										topics_reset_names, lengthof(topics_reset_names));
		record->facts.partitions = topics_json_number(topics_json_field(value, "partitions"), 0);
		if (record->facts.reset == RESET_LATEST)
			read_group_starts(record, topics_json_field(value, "starts"), cxt);
	}
	else
		record->offset = topics_json_number(topics_json_field(value, "offset"), 0);
}

/* Where the records go that are read. */
typedef struct LoadedRecords
{
	HTAB	   *hash;
	MemoryContext cxt;			/* of what hangs off them */
} LoadedRecords;

/* Note a record, from a slot of the log table. */
static void
read_record(TupleTableSlot *slot, void *arg)
{
	LoadedRecords *records = arg;
	GroupOffsetKey key;
	LoadedRecord *record;
	bool		isnull;
	bool		found;
	Datum		datum;

	datum = slot_getattr(slot, Anum_log_key, &isnull);
	if (isnull || !parse_record_key(TextDatumGetCString(datum), &key))
		return;
	record = hash_search(records->hash, &key, HASH_ENTER, &found);
	if (found && record->starts)
		pfree(record->starts);
	if (found && record->members)
		pfree(record->members);
	memset((char *) record + sizeof(GroupOffsetKey), 0, sizeof(LoadedRecord) - sizeof(GroupOffsetKey));
	record->topic_is_gone = key.topic_id != NO_TOPIC && !topics_internal_topic_is_left(key.topic_id);
	record->record_offset = topics_log_get_offset(slot);
	record->commit_time = DatumGetTimestampTz(slot_getattr(slot, Anum_log_timestamp, &isnull));
	datum = slot_getattr(slot, Anum_log_value, &record->deleted);
	if (!record->deleted && !record->topic_is_gone)
		read_record_value(record, DatumGetJsonbP(datum), records->cxt);
}

/* Remove from shared memory what is not in the log. */
static void
unload_missing(Topic *topic, HTAB *records, const int64 *ends)
{
	int			count;
	GroupOffset *entries = topics_offset_table_list(NULL, NO_TOPIC, &count);

	for (int i = 0; i < count; i++)
	{
		const GroupOffsetKey *key = &entries[i].key;
		LoadedRecord *record = hash_search(records, key, HASH_FIND, NULL);
		int32		partition = topics_offset_log_choose_partition(topic, key);

		/* as if by a tombstone at the end: what was committed later stays */
		if (record == NULL || record->deleted)
			topics_offset_table_load_record(key, NULL, NO_OFFSET, 0, ends[partition] - 1, NO_OFFSET, false);
	}
	pfree(entries);
}

/*
 * Return where the log of a partition parted from what a group had consumed
 * there, or NO_OFFSET.  Another node may have come to lead without the
 * records, though with the committed offset, where somebody had it lead
 * without a majority.
 */
static int64
find_parted_at(Topic *topic, const LoadedRecord *record)
{
	TopicPartition log;
	int64		end;

	if (record->key.partition == NO_PARTITION || record->offset <= 0)
		return NO_OFFSET;
	log = topics_catalog_partition_state(topic, topics_offset_log_choose_partition(topic, &record->key))->id;
	end = topics_leader_epoch_find_end(topics_offset_log_leader_set(&record->key), &log, record->record_offset, record->key.topic_id, record->key.partition);
	return record->offset > end ? end : NO_OFFSET;
}

static void
load_record(Topic *topic, const LoadedRecord *record)
{
	GroupOffsetKey place = record->key;

	if (record->members)
	{
		topics_member_log_load(&record->key, record->members, record->commit_time, record->record_offset);
		return;
	}
	topics_offset_table_load_record(&record->key,
									place.partition == NO_PARTITION ? &record->facts : NULL,
									record->offset, record->commit_time, record->record_offset,
									find_parted_at(topic, record), record->has_metadata);
	for (place.partition = 0; place.partition < record->nstarts; place.partition++)
		topics_offset_table_load_start(&place, record->starts[place.partition]);
}

/* Load the whole log into shared memory. */
static void
load_offsets_topic(Topic *topic)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "pg_topics load",
											  ALLOCSET_DEFAULT_SIZES);
	int64	   *ends = palloc(sizeof(int64) * topic->partitions);
	HASHCTL		ctl = {
		.keysize = sizeof(GroupOffsetKey),.entrysize = sizeof(LoadedRecord),.hcxt = cxt,
		.hash = topics_offset_table_hash_key,.match = topics_offset_table_compare_keys
	};
	LoadedRecords records = {
		hash_create("pg_topics load", FIRST_RECORDS, &ctl, HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT),
		cxt
	};
	MemoryContext record_cxt = AllocSetContextCreate(cxt, "pg_topics record", ALLOCSET_DEFAULT_SIZES);
	HASH_SEQ_STATUS seq;
	LoadedRecord *record;

	/* with a topic its partitions' leader sets are known */
	(void) topics_catalog_highest_set();
	for (int32 number = 0; number < topic->partitions; number++)
		ends[number] = topics_internal_topic_read(topic, number, read_record, &records);
	unload_missing(topic, records.hash, ends);
	topics_leader_epoch_load();
	hash_seq_init(&seq, records.hash);
	while ((record = hash_seq_search(&seq)) != NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(record_cxt);

		if (!record->deleted && !record->topic_is_gone)
			load_record(topic, record);
		MemoryContextSwitchTo(old);
		MemoryContextReset(record_cxt);
	}
	hash_destroy(records.hash);
	MemoryContextDelete(cxt);
	pfree(ends);
}

/*
 * Make sure that shared memory has what is committed, and for writing that
 * there is a topic.  This is called before any look at groups.
 */
void
topics_offset_log_prepare(bool for_write)
{
	Topic	   *topic;

	if (for_write)
	{
		topic = find_offsets_topic();
		if (topics_cluster_follows(METADATA_SET) && (topic == NULL || !topics_cluster_leads_any()))
			topics_cluster_report_no_group(METADATA_SET);
		if (topic == NULL)
			topics_internal_topic_create(CONSUMER_OFFSETS_TOPIC);
		topics_consumer_offset_note_generations();
	}

	else if (find_offsets_topic() == NULL && !RecoveryInProgress())
		return;

	/*
	 * who leads some partitions, and not those of others, hears of others all
	 * the time
	 */
	while (topics_offset_table_begin_load(for_write && topics_cluster_leads_any()))
	{
		topic = find_offsets_topic();
		if (topic)
			load_offsets_topic(topic);
		TEST_POINT("offsets-read");
		if (topics_offset_table_end_load(topic ? topic->topic_id : NO_TOPIC))
			break;
	}
}

/*
 * Read the value of an entry's record, palloc'd, or NULL if it has none.  The
 * record is where the entry says: compaction leaves the latest record of a key
 * at its offset.
 */
Jsonb *
topics_offset_log_read_value(const GroupOffset *entry)
{
	Topic	   *topic = topics_internal_topic_require(CONSUMER_OFFSETS_TOPIC);
	int32		number = topics_offset_log_choose_partition(topic, &entry->key);
	Partition	partition = topics_catalog_open_for_reading(topic, number);
	int64		offset = pg_atomic_read_u64((pg_atomic_uint64 *) &entry->record_offset);
	bool		shows_all = topics_read_cut_show_all(true);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	LogReader  *reader = topics_log_reader_open(partition.rel, offset, offset + 1, snapshot, false);
	TupleTableSlot *slot = topics_log_reader_next(reader);
	Jsonb	   *result = NULL;

	if (slot)
	{
		bool		isnull;
		Datum		value = slot_getattr(slot, Anum_log_value, &isnull);

		if (!isnull)
			result = DatumGetJsonbPCopy(value);
	}
	topics_log_reader_close(reader);
	UnregisterSnapshot(snapshot);
	(void) topics_read_cut_show_all(shows_all);
	topics_catalog_close_partition(&partition, AccessShareLock);
	return result;
}

/* Read a string in the record of an entry, palloc'd, or NULL. */
static char *
read_record_string(const GroupOffset *entry, const char *name)
{
	Jsonb	   *value = topics_offset_log_read_value(entry);

	return value ? topics_json_string(topics_json_field(value, name)) : NULL;
}

/* Read the metadata of a committed offset, palloc'd, or NULL. */
char *
topics_offset_log_metadata(const GroupOffset *entry)
{
	return entry->has_metadata && find_offsets_topic() ? read_record_string(entry, "metadata") : NULL;
}

/* ----------------------------------------------------------------
 *		Owners that were renamed
 * ----------------------------------------------------------------
 */

static bool owners_are_known = false;	/* no role was renamed since */
static bool follows_roles = false;	/* this process hears of it */

static void
forget_owners(Datum arg, int cacheid, uint32 hashvalue)
{
	owners_are_known = false;
}

/* Return true if the owner has another name than the group's record says. */
static bool
is_owner_renamed(const GroupOffset *group)
{
	char	   *name = GetUserNameFromId(group->facts.owner, true);
	char	   *recorded = name ? read_record_string(group, "owner") : NULL;

	return recorded && strcmp(name, recorded) != 0;
}

/*
 * In a worker that is about to follow owners: "followed" says that no role was
 * renamed since another one has.  A process that does so itself hears of it.
 */
void
topics_offset_log_note_roles(bool followed)
{
	if (!followed)
		owners_are_known = false;
	else if (!follows_roles)
		owners_are_known = true;
}

/* Return true if no role was renamed since this process has followed owners. */
bool
topics_offset_log_knows_owners(void)
{
	return owners_are_known;
}

/*
 * Write the records of groups anew whose owners were renamed: a dump goes by
 * the name.  The next call does what cannot be done now.  The caller is in a
 * transaction, and in another one at the end; "parent" outlives them.
 */
void
topics_offset_log_follow_owners(MemoryContext parent, NextTransaction next_transaction)
{
	bool		done = true;
	MemoryContext cxt;
	MemoryContext old;
	GroupOffset *entries;
	int			count;
	int			looked_at = 0;

	if (!follows_roles)
		CacheRegisterSyscacheCallback(AUTHOID, forget_owners, (Datum) 0);
	follows_roles = true;
	if (owners_are_known || find_offsets_topic() == NULL)
		return;
	topics_offset_log_prepare(false);

	cxt = AllocSetContextCreate(parent, "pg_topics owners", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(cxt);	/* it outlives transactions */
	entries = topics_offset_table_list(NULL, NO_TOPIC, &count);
	MemoryContextSwitchTo(old);
	owners_are_known = true;	/* unless we hear of another change meanwhile */
	for (int i = 0; i < count; i++)
	{
		if (entries[i].key.topic_id != NO_TOPIC || entries[i].key.partition != NO_PARTITION)
			continue;
		CHECK_FOR_INTERRUPTS();
		if (find_offsets_topic() == NULL)
			break;
		if (is_owner_renamed(&entries[i]) &&
			!topics_consumer_offset_rewrite_group(entries[i].key.group_id))
			done = false;
		if (++looked_at % OWNERS_BATCH == 0)
			next_transaction();
	}
	MemoryContextDelete(cxt);
	next_transaction();
	owners_are_known &= done;
}
