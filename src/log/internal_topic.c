/*-------------------------------------------------------------------------
 *
 * internal_topic.c
 *		Topics of pg_topics' own, in which it keeps a state: of each key the
 *		latest record says what is.
 *
 * They are compacted topics like any other.  What is current is kept in shared
 * memory by the file whose state it is; the log is read when that is lacking,
 * after a restart, or where another node has led.
 *
 * A state topic has STATE_PARTITIONS partitions of the first leader set, among
 * which a record's name decides, and behind them one for each other leader
 * set: what is about a partition of a user's topic is led by who leads that
 * one.
 *
 * A topic is made when it is first needed, by another process in a transaction
 * of its own: that of the process that needs it may stay open for long.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "log/log.h"

/* What a process that makes a topic is told. */
typedef struct TopicToMake
{
	Oid			database;
	NameData	name;
} TopicToMake;

static const char *const state_topics[] = {
	[STATE_OFFSETS] = CONSUMER_OFFSETS_TOPIC,
	[STATE_PRODUCERS] = PRODUCER_STATE_TOPIC
};

/* Get which state a topic has, of StateKind, or -1 if it has none. */
int
topics_internal_topic_state(const char *name)
{
	for (int kind = 0; kind < STATE_KINDS; kind++)
		if (strcmp(name, state_topics[kind]) == 0)
			return kind;
	return -1;
}

/*
 * Return true if a node may go on with a topic whose tombstones it has missed.
 * What they delete it keeps then: a producer's state, which only says more of
 * that than nodes know which have forgotten it, and which that node lets expire
 * once it leads.
 */
bool
topics_internal_topic_tolerates_missed(const char *name)
{
	return strcmp(name, PRODUCER_STATE_TOPIC) == 0;
}

/*
 * Have a partition of each topic for each leader set.  With "create" those
 * topics are made that are not there: whoever makes one meanwhile waits for
 * us, or we for that.
 */
void
topics_internal_topic_cover_sets(int highest_set, bool create)
{
	for (int i = 0; i < STATE_KINDS; i++)
	{
		if (create && topics_catalog_lookup(state_topics[i], true) == NULL)
			topics_make_topic_create_internal(state_topics[i], STATE_PARTITIONS);
		topics_make_topic_cover_set(state_topics[i], STATE_PARTITIONS + highest_set);
	}
}

/* Make a topic, unless it is there. */
static void
create_topic(const char *name)
{
	topics_make_topic_create_internal(name, STATE_PARTITIONS + topics_catalog_highest_set());
}

PGDLLEXPORT void topics_internal_topic_create_main(Datum main_arg);

/* Main function of a background process: make a topic, unless it is there. */
void
topics_internal_topic_create_main(Datum main_arg)
{
	TopicToMake make;

	memcpy(&make, topics_background_begin(), sizeof(make));
	topics_background_connect(make.database);
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	create_topic(NameStr(make.name));
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* Let another process make a topic, or make it here if that fails. */
void
topics_internal_topic_create(const char *name)
{
	TopicToMake make = {.database = MyDatabaseId};

	namestrcpy(&make.name, name);
	if (topics_background_run("topics_internal_topic_create_main", "pg_topics create worker",
							  &make, sizeof(make)))
	{
		AcceptInvalidationMessages();
		if (topics_catalog_lookup(name, true))
			return;
	}
	create_topic(name);
}

/* Find a topic, for a transaction that has prepared for writing. */
Topic *
topics_internal_topic_require(const char *name)
{
	Topic	   *topic = topics_catalog_lookup(name, true);

	if (topic == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("topic \"%s\" does not exist", name),
				 errhint("It was dropped in this transaction.")));
	return topic;
}

/*
 * Get the leader set of a partition of a user's topic, by which what is about
 * it is written.
 */
int
topics_internal_topic_set_of(int64 topic_id, int32 partition)
{
	const TopicPartition id = {MyDatabaseId, partition, topic_id};
	const PartitionState *state = topics_partition_state_find(&id);
	const Topic *topic;

	if (state)
		return state->set;
	topic = topics_catalog_by_id(topic_id);
	return topic ? topics_leader_set_of(&topic->leader_sets, partition) : METADATA_SET;
}

/*
 * Get the partition in which all records of a leader set are, or -1 if there
 * are several: of the first one.
 */
int32
topics_internal_topic_partition_of_set(const Topic *topic, int set)
{
	if (set == METADATA_SET || STATE_PARTITIONS + set - 1 >= topic->partitions)
		return -1;
	return STATE_PARTITIONS + set - 1;
}

/*
 * Read a range of the log: all of it, confirmed or not, for what was committed
 * is committed.
 */
static void
read_range(const Partition *partition, int64 from, int64 upto, StateReader read, void *arg)
{
	bool		shows_all = topics_read_cut_show_all(true);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	LogReader  *reader = topics_log_reader_open(partition->rel, from, upto, snapshot, false);
	MemoryContext row_cxt = AllocSetContextCreate(CurrentMemoryContext, "pg_topics record",
												  ALLOCSET_DEFAULT_SIZES);
	TupleTableSlot *slot;

	while ((slot = topics_log_reader_next(reader)) != NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(row_cxt);

		CHECK_FOR_INTERRUPTS();
		read(slot, arg);
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_cxt);
	}
	topics_log_reader_close(reader);
	MemoryContextDelete(row_cxt);
	UnregisterSnapshot(snapshot);
	(void) topics_read_cut_show_all(shows_all);
}

/*
 * Read a partition of a topic's log, and return its end.  "read" is called for
 * each record, in a memory context of its own.  The snapshot that reads is
 * taken after the end was looked up: it sees all records below.  Another one
 * is taken before, and held: for a record that it does not see, compaction
 * does not take an older record of the same key away meanwhile.
 */
int64
topics_internal_topic_read(Topic *topic, int32 number, StateReader read, void *arg)
{
	Partition	partition = topics_catalog_open_for_reading(topic, number);
	Snapshot	held = RegisterSnapshot(GetLatestSnapshot());
	int64		start = topics_log_start(partition.state);
	int64		end = topics_log_next_offset(&partition);

	read_range(&partition, start, end, read, arg);
	UnregisterSnapshot(held);
	topics_catalog_close_partition(&partition, AccessShareLock);
	return end;
}

/* ----------------------------------------------------------------
 *		What records have in common
 * ----------------------------------------------------------------
 */

/*
 * Parse a record's key, "topic id/partition/name".  Return the name, a part of
 * the text, or NULL if it is something else.
 */
const char *
topics_internal_topic_parse_key(const char *text, int64 *topic_id, int32 *partition)
{
	char	   *p;

	*topic_id = strtoi64(text, &p, 10);
	if (*p != '/')
		return NULL;
	*partition = strtol(p + 1, &p, 10);
	return *p == '/' ? p + 1 : NULL;
}

/*
 * Write whose something is, as fields of JSON.  A role is kept by id and by
 * name.  The id is right in the cluster of databases that wrote it, also after
 * ALTER ROLE ..  RENAME; the name in any other, after a restore or an upgrade.
 */
void
topics_internal_topic_format_owner(StringInfo json, Oid owner)
{
	char	   *name = GetUserNameFromId(owner, true);

	appendStringInfoString(json, "\"owner\": ");
	escape_json(json, name ? name : "");
	appendStringInfo(json, ", \"owner_id\": %u, \"system\": " UINT64_FORMAT, owner, GetSystemIdentifier());
}

/* Find an owner: by id, or by name if another cluster of databases wrote it. */
Oid
topics_internal_topic_read_owner(Jsonb *value)
{
	char	   *name = topics_json_string(topics_json_field(value, "owner"));
	Oid			owner = (Oid) topics_json_number(topics_json_field(value, "owner_id"), InvalidOid);
	JsonbValue *system = topics_json_field(value, "system");
	char	   *here = psprintf(UINT64_FORMAT, GetSystemIdentifier());

	if (system && system->type == jbvNumeric &&
		strcmp(numeric_normalize(system->val.numeric), here) == 0)
		return owner;
	return name ? get_role_oid(name, true) : InvalidOid;
}

/*
 * Return true if a user's topic is there, of which a record is: to be asked
 * while it is read.
 */
bool
topics_internal_topic_is_left(int64 topic_id)
{
	return OidIsValid(get_relname_relid(psprintf("t" INT64_FORMAT, topic_id),
										get_namespace_oid(TOPIC_LOG_SCHEMA, false)));
}
