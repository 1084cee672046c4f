/*-------------------------------------------------------------------------
 *
 * make_topic.c
 *		Make a topic: its tables, its view, and its row in the catalogue.
 *
 *	topic_log.topic			a row: id, view, settings
 *	topic_log.partition		a row per partition
 *	topic_log.t<id>			partitioned by LIST (partition)
 *	topic_log.t<id>_p<n>	partitioned by RANGE ("offset")
 *	topic_log.t<id>_p<n>_s<m>	segments
 *	topic.<name>			the view, with its triggers
 *
 * Log tables belong to the extension's owner; the view to the role that
 * creates the topic.  The view's owner has SELECT on the log table, since a
 * view reads with its owner's rights; hooks.c keeps that so when the owner
 * changes.
 *
 * It stands below topic.c, which checks what a user wants: __consumer_offsets
 * is made here too, for offset_log.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "commands/sequence.h"
#include "commands/tablecmds.h"
#include "executor/spi.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"

#include "shared/shared.h"
#include "log/log.h"
#include "pg_topics.h"

#define KEPT_FOR_GOOD "10000 years" /* of tombstones */

#define INTERNAL_SEGMENT_BYTES 1048576

/*
 * Lock a topic's name: nobody else creates a topic of this name until our
 * transaction ends.  Return true if no table or view has it.
 */
bool
topics_make_topic_lock_name(const char *name)
{
	Oid			namespace = get_namespace_oid(TOPIC_SCHEMA, false);
	uint16		hash = (uint16) hash_bytes((const unsigned char *) name, strlen(name));

	/* 0 would be the schema itself; a collision costs but a wait */
	LockDatabaseObject(NamespaceRelationId, namespace, hash | 1, ExclusiveLock);
	AcceptInvalidationMessages();
	return !OidIsValid(get_relname_relid(name, namespace));
}

/*
 * The functions that make a part of a topic are called between
 * topics_statement_begin and topics_statement_end.
 */

/* Attach the table of a partition. */
void
topics_make_topic_attach_partition(int64 topic_id, int32 partition)
{
	/* not PARTITION OF: that would lock out the topic's readers */
	topics_statement_execute("ALTER TABLE topic_log.t" INT64_FORMAT " ATTACH PARTITION"
							 " topic_log.t" INT64_FORMAT "_p%d FOR VALUES IN (%d)",
							 topic_id, topic_id, partition, partition);
}

/* Make the table of a partition, without segments. */
Oid
topics_make_topic_create_table(int64 topic_id, int32 partition)
{
	char		name[NAMEDATALEN];
	Oid			relid;

	snprintf(name, sizeof(name), "t" INT64_FORMAT "_p%d", topic_id, partition);
	topics_statement_execute("CREATE TABLE topic_log.%s (LIKE topic_log.t" INT64_FORMAT ")"
							 " PARTITION BY RANGE (\"offset\")", name, topic_id);
	relid = get_relname_relid(name, get_namespace_oid(TOPIC_LOG_SCHEMA, false));
	topics_segment_protect_from_analyze(relid);
	topics_make_topic_attach_partition(topic_id, partition);
	return relid;
}

/* Make the tables of the partitions from .. to-1, with a first segment each. */
void
topics_make_topic_create_partitions(int64 topic_id, int32 from, int32 to, int64 segment_bytes,
									const LeaderSets *sets)
{
	/* dropped again if this (sub)transaction fails */
	topics_topic_changes_note(topic_id, from, to, true);
	topics_partition_state_reserve(topic_id, from, to, sets);
	for (int32 partition = from; partition < to; partition++)
	{
		TopicPartition id = {MyDatabaseId, partition, topic_id};
		Partition	created = {.number = partition};

		CHECK_FOR_INTERRUPTS();
		created.relid = topics_make_topic_create_table(topic_id, partition);
		topics_statement_execute("INSERT INTO topic_log.partition (topic_id, partition)"
								 " VALUES (" INT64_FORMAT ", %d)", topic_id, partition);
		created.state = topics_partition_state_get(&id, topics_leader_set_of(sets, partition));
		topics_cut_cover_offset(&created, 0, segment_bytes, COVER_BESIDES);
	}
}

static void
create_log_table(int64 topic_id, const char *key_type, const char *value_type)
{
	topics_statement_execute("CREATE TABLE topic_log.t" INT64_FORMAT " ("
							 "\"offset\" pg_catalog.int8 NOT NULL,"
							 " \"timestamp\" pg_catalog.timestamptz NOT NULL,"
							 " partition pg_catalog.int4 NOT NULL,"
							 " key %s, value %s, headers pg_catalog.jsonb"
							 ") PARTITION BY LIST (partition)", topic_id, key_type, value_type);
	topics_segment_protect_from_analyze(get_relname_relid(psprintf("t" INT64_FORMAT, topic_id),
														  get_namespace_oid(TOPIC_LOG_SCHEMA, false)));
}

/* Make the triggers of a topic's view, in the place of those that it has. */
void
topics_make_topic_create_triggers(const char *name)
{
	const char *view = quote_qualified_identifier(TOPIC_SCHEMA, name);

	topics_statement_execute("CREATE OR REPLACE TRIGGER produce INSTEAD OF INSERT ON %s"
							 " FOR EACH ROW EXECUTE FUNCTION topics.insert_record()", view);

	/*
	 * the first also when no row matches; the second lets the first be fired
	 */
	topics_statement_execute("CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE ON %s"
							 " FOR EACH STATEMENT EXECUTE FUNCTION topics.append_only()", view);
	topics_statement_execute("CREATE OR REPLACE TRIGGER append_only_row INSTEAD OF UPDATE OR DELETE ON %s"
							 " FOR EACH ROW EXECUTE FUNCTION topics.append_only()", view);
}

/*
 * Make a topic's view, and return its OID.  It belongs to the extension's owner
 * then, and its grants become those of whoever gets it.
 */
Oid
topics_make_topic_create_view(int64 topic_id, const char *name)
{
	topics_statement_execute("CREATE VIEW %s AS SELECT partition, \"offset\", \"timestamp\", key, value, headers"
							 " FROM topic_log.t" INT64_FORMAT,
							 quote_qualified_identifier(TOPIC_SCHEMA, name), topic_id);
	topics_make_topic_create_triggers(name);
	topics_role_grant_new_topic(name);
	return get_relname_relid(name, get_namespace_oid(TOPIC_SCHEMA, false));
}

/* Write leader sets as an array, palloc'd. */
static char *
format_leader_sets(const LeaderSets *sets)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoChar(&text, '{');
	for (int i = 0; i < sets->count; i++)
		appendStringInfo(&text, "%s%d", i > 0 ? "," : "", sets->sets[i]);
	appendStringInfoChar(&text, '}');
	return text.data;
}

/*
 * The leader sets of pg_topics' own topics.  The metadata have a partition for
 * each, which says who leads it.  Committed offsets are in those that the
 * group's name decides, or, of partitions of other sets, in one for each of
 * these.
 */
static LeaderSets
get_internal_sets(const char *name)
{
	LeaderSets	sets = {0};

	if (strcmp(name, METADATA_TOPIC) == 0)
		for (int set = METADATA_SET; set < MAX_LEADER_SETS; set++)
			sets.sets[sets.count++] = set;
	else if (topics_internal_topic_state(name) >= 0)
		for (int i = 0; i < STATE_PARTITIONS + MAX_LEADER_SETS - 1; i++)
			sets.sets[sets.count++] = topics_max(i - STATE_PARTITIONS + 1, METADATA_SET);
	return sets;
}

/* Make a topic's row, with a new notify_key if that is NULL. */
static void
insert_topic_row(int64 topic_id, Oid view, int32 partitions, const char *notify_key,
				 const LeaderSets *sets, TopicSettingValues *settings)
{
	const char *key = notify_key ? quote_literal_cstr(notify_key) : "DEFAULT";

	topics_topic_setting_execute(psprintf("INSERT INTO topic_log.topic (topic_id, partitions, view, notify_key, leader_sets%s)"
										  " VALUES (" INT64_FORMAT ", %d, %u, %s, '%s'%s)",
										  topics_topic_setting_columns(), topic_id, partitions, view,
										  key, format_leader_sets(sets), topics_topic_setting_parameters()),
								 settings);
}

/*
 * Get how long tombstones of one of pg_topics' own topics stay; "is_spread"
 * says that it is in several leader sets.  Those of the cluster's metadata
 * stay for good (node/metadata.c).
 *
 * A node that has missed tombstones reads the topic anew.  It cannot with one
 * that is in several sets, so its tombstones stay for good, too.  But of
 * producers there would be one for each that there ever was.  There the node
 * goes on (topics_internal_topic_tolerates_missed), and keeps what they delete
 * until it comes to lead, and that expires.
 */
static const char *
get_tombstone_time(const char *name, bool is_spread)
{
	if (strcmp(name, METADATA_TOPIC) == 0)
		return KEPT_FOR_GOOD;
	if (!is_spread)
		return "10 minutes";
	return topics_internal_topic_tolerates_missed(name) ? "1 day" : KEPT_FOR_GOOD;
}

/* The settings of pg_topics' own topics. */
static TopicSettingValues *
get_internal_settings(const char *name, int32 partitions)
{
	const char *const settings[][2] = {
		{"retention_time", "-1 day"},
		{"segment_bytes", CppAsString2(INTERNAL_SEGMENT_BYTES)},
		{"max_message_bytes", "268435456"},
		{"cleanup_policy", "compact"},
		{"delete_retention_time", get_tombstone_time(name, partitions > STATE_PARTITIONS)},
		{"notify", "false"}
	};

	return topics_topic_setting_from_text(settings, lengthof(settings));
}

/*
 * The settings of a topic whose own are lost.  Nobody knows how long its
 * records were to be kept, and the worker would act within seconds: they stay.
 */
static TopicSettingValues *
get_cautious_settings(void)
{
	static const char *const settings[][2] = {{"retention_time", "-1 day"}};

	return topics_topic_setting_from_text(settings, lengthof(settings));
}

/* Make the row of a topic that has lost it. */
void
topics_make_topic_insert_row(int64 topic_id, Oid view, const char *name, int32 partitions)
{
	TopicSettingValues *settings = topics_catalog_is_internal(name) ? get_internal_settings(name, partitions) :
		get_cautious_settings();
	LeaderSets	sets = get_internal_sets(name);

	topics_topic_setting_add_defaults(settings);
	insert_topic_row(topic_id, view, partitions, NULL, &sets, settings);
}

/* Read a number by a query that has one. */
static int64
query_number(const char *sql)
{
	bool		isnull;

	if (SPI_execute(sql, false, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not execute \"%s\"", sql);
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

/*
 * Return true if there is a table of this id, if only a segment, or a row of
 * it; with the operator ">=" also if there is one of a higher id.
 */
static bool
is_id_used(int64 topic_id, const char *operator)
{
	const char *const sql = "SELECT count(*) FROM (SELECT FROM topic_log.topic WHERE topic_id %s " INT64_FORMAT
		" UNION ALL SELECT FROM topic_log.partition WHERE topic_id %s " INT64_FORMAT
		" UNION ALL SELECT FROM pg_class WHERE relname ~ '^t" INT64_FORMAT "(_p[0-9]|$)'"
		" AND relnamespace = 'topic_log'::regnamespace) used";

	return query_number(psprintf(sql, operator, topic_id, operator, topic_id, topic_id)) > 0;
}

/*
 * Take the next id.  Where there is something of this id, or above, already,
 * the sequence has not come along with the tables, as by logical replication:
 * then it goes above all that there is.  The lock, not held to the end of the
 * transaction, has one process do so at a time.
 */
static int64
take_topic_id(void)
{
	Oid			sequence = get_relname_relid("topic_id_seq",
											 get_namespace_oid(TOPIC_LOG_SCHEMA, false));
	int64		topic_id;

	LockRelationOid(sequence, ShareUpdateExclusiveLock);
	topic_id = nextval_internal(sequence, false);
	if (is_id_used(topic_id, ">="))
	{
		(void) query_number("SELECT setval('topic_log.topic_id_seq', GREATEST("
							"(SELECT last_value FROM topic_log.topic_id_seq),"
							" (SELECT max(topic_id) FROM topic_log.topic),"
							" (SELECT max(topic_id) FROM topic_log.partition),"
							" (SELECT max(substring(relname FROM '^t([0-9]{1,18})(_|$)')::int8) FROM pg_class"
							" WHERE relnamespace = 'topic_log'::regnamespace)))");
		topic_id = nextval_internal(sequence, false);
	}
	UnlockRelationOid(sequence, ShareUpdateExclusiveLock);
	return topic_id;
}

/*
 * Use an id that is given, as another node has it: the next one that is taken
 * here is above it.
 */
static int64
use_topic_id(int64 topic_id)
{
	if (is_id_used(topic_id, "="))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("there is a topic with id " INT64_FORMAT " already", topic_id),
				 errhint("See topics.broken_topic.")));
	(void) query_number(psprintf("SELECT setval('topic_log.topic_id_seq', GREATEST(" INT64_FORMAT
								 ", (SELECT last_value FROM topic_log.topic_id_seq)))", topic_id));
	return topic_id;
}

/* Make a topic, whose name is locked and free. */
void
topics_make_topic_create(const NewTopic *topic)
{
	StatementScope scope;
	int64		topic_id;
	Oid			view;

	topics_topic_setting_add_defaults(topic->settings);
	scope = topics_statement_begin();
	topic_id = topic->topic_id != 0 ? use_topic_id(topic->topic_id) : take_topic_id();
	create_log_table(topic_id, topic->key_type, topic->value_type);
	topics_make_topic_create_partitions(topic_id, 0, topic->partitions,
										topics_topic_setting_used(topic->settings).segment_bytes,
										&topic->leader_sets);
	view = topics_make_topic_create_view(topic_id, topic->name);
	insert_topic_row(topic_id, view, topic->partitions, topic->notify_key, &topic->leader_sets, topic->settings);
	if (OidIsValid(topic->owner))
	{
		CommandCounterIncrement();
		ATExecChangeOwner(view, topic->owner, true, AccessExclusiveLock);
	}
	topics_statement_end(scope);
}

/*
 * Make a topic of pg_topics' own, unless it is there: of the extension's
 * owner, with text keys and jsonb values, and compacted.  Its segments are
 * small, since the last one is read whole after a restart.  The caller says
 * what else it is.
 */
void
topics_make_topic_create_internal_as(NewTopic *topic)
{
	topic->key_type = "pg_catalog.text";
	/* of this one a record's text is completed when it is appended */
	topic->value_type = strcmp(topic->name, PRODUCER_STATE_TOPIC) == 0 ? "pg_catalog.json" :
		"pg_catalog.jsonb";
	topic->settings = get_internal_settings(topic->name, topic->partitions);
	topic->leader_sets = get_internal_sets(topic->name);
	if (topics_make_topic_lock_name(topic->name))
		topics_make_topic_create(topic);
	else
		topics_broken_topic_report_view(topic->name);
}

/* The same with an id of this database. */
void
topics_make_topic_create_internal(const char *name, int32 partitions)
{
	NewTopic	topic = {.name = name,.partitions = partitions};

	topics_make_topic_create_internal_as(&topic);
}

/*
 * Have a topic of pg_topics' own, if it is there, with so many partitions at
 * least, in several leader sets: its tombstones stay longer
 * (get_tombstone_time).
 */
void
topics_make_topic_cover_set(const char *name, int32 partitions)
{
	Topic	   *topic = topics_catalog_lookup(name, true);
	Topic		before;
	StatementScope scope;

	if (topic == NULL || topic->partitions >= partitions)
		return;
	LockRelationOid(topic->view_relid, ShareUpdateExclusiveLock);
	topic = topics_catalog_lookup(name, false);
	if (topic->partitions >= partitions)
		return;
	before = *topic;
	scope = topics_statement_begin();
	topics_make_topic_create_partitions(before.topic_id, before.partitions, partitions,
										before.settings.segment_bytes, &before.leader_sets);
	topics_statement_execute("UPDATE topic_log.topic SET partitions = %d, delete_retention_time = '%s' WHERE topic_id = " INT64_FORMAT,
							 partitions, get_tombstone_time(name, true), before.topic_id);
	CacheInvalidateRelcacheByRelid(before.view_relid);
	topics_statement_end(scope);
}
