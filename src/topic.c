/*-------------------------------------------------------------------------
 *
 * topic.c
 *		Create, alter, rename, drop and describe topics; add partitions.
 *
 * All of it is transactional, because all of it is rows and tables:
 *
 *	topic_log.topic			a row: id, view, settings
 *	topic_log.partition		a row per partition
 *	topic_log.t<id>			partitioned by LIST (partition)
 *	topic_log.t<id>_p<n>	partitioned by RANGE ("offset")
 *	topic_log.t<id>_p<n>_s<m>	segments
 *	topic.<name>			the view, with its triggers
 *
 * Log tables belong to the extension's owner; the view to who created the
 * topic.  The view's owner has SELECT on the log table, since a view reads
 * with its owner's rights; hooks.c keeps that so when the owner changes.
 *
 * Statements are built from numbers and quoted names only, and run with a
 * fixed search_path.  Changes of one topic exclude each other by a lock on
 * its view; creations of one name by a lock on the name.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "commands/tablecmds.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "parser/parse_type.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "consumer.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_create_topic);
PG_FUNCTION_INFO_V1(topics_alter_topic);
PG_FUNCTION_INFO_V1(topics_rename_topic);
PG_FUNCTION_INFO_V1(topics_drop_topic);
PG_FUNCTION_INFO_V1(topics_add_partitions);
PG_FUNCTION_INFO_V1(topics_describe_topic);

#define MAX_TOPIC_PARTITIONS 100000
#define INTERNAL_SEGMENT_BYTES 1048576

/* The view that drop_topic is dropping right now. */
static Oid dropping_view = InvalidOid;

/* Return true if it is this view: hooks.c lets the command pass. */
bool
topics_topic_is_being_dropped(Oid view_relid)
{
	return view_relid == dropping_view;
}

/* ----------------------------------------------------------------
 *		As the extension's owner, with SPI
 * ----------------------------------------------------------------
 */

typedef struct SqlScope
{
	OwnerScope	owner;
	int			guc_level;
} SqlScope;

static SqlScope
enter_owner(void)
{
	SqlScope	scope;

	scope.guc_level = NewGUCNestLevel();
	topics_settings_override("search_path", "pg_catalog, pg_temp");
	topics_settings_override("default_tablespace", "");
	scope.owner = topics_extension_become_owner();
	SPI_connect();
	return scope;
}

static void
leave_owner(SqlScope scope)
{
	SPI_finish();
	topics_extension_become_caller(scope.owner);
	AtEOXact_GUC(false, scope.guc_level);
	CommandCounterIncrement();
}

static void
execute(const char *format,...) pg_attribute_printf(1, 2);

static void
execute(const char *format,...)
{
	StringInfoData sql;
	int			needed;

	initStringInfo(&sql);
	do
	{
		va_list		args;

		va_start(args, format);
		needed = appendStringInfoVA(&sql, format, args);
		va_end(args);
		if (needed > 0)
			enlargeStringInfo(&sql, needed);
	} while (needed > 0);

	if (SPI_execute(sql.data, false, 0) < 0)
		elog(ERROR, "could not execute \"%s\"", sql.data);
	pfree(sql.data);
}

/*
 * The last statement must have changed rows: in REPEATABLE READ it does not
 * see a catalogue row that another session has changed.
 */
static void
require_changed_rows(void)
{
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent change of the topic")));
}

/* ----------------------------------------------------------------
 *		Arguments
 * ----------------------------------------------------------------
 */

/*
 * Kafka's rule for names, with PostgreSQL's length.  Names that begin with
 * two underscores are for topics of the system.
 */
void
topics_topic_check_name(const char *name)
{
	size_t		length = strlen(name);
	const char *problem = NULL;

	if (length == 0)
		problem = "It is empty.";
	else if (length >= NAMEDATALEN)
		problem = "It is longer than 63 bytes.";
	else if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		problem = "It is \".\" or \"..\".";
	else if (topics_catalog_is_internal(name))
		problem = "Names that begin with \"__\" are reserved.";
	else if (strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != length)
		problem = "It has a character other than ASCII letters, digits, \".\", \"_\" and \"-\".";
	if (problem)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid topic name \"%s\"", name),
				 errdetail("%s", problem)));
}

static char *
text_argument(FunctionCallInfo fcinfo, int argument, const char *name)
{
	topics_argument_require(fcinfo, argument, name);
	return text_to_cstring(PG_GETARG_TEXT_PP(argument));
}

static Oid
get_type_namespace(Oid type)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	Oid			namespace = ((Form_pg_type) GETSTRUCT(tuple))->typnamespace;

	ReleaseSysCache(tuple);
	return namespace;
}

/* A type's name as it can stand in any statement, after checking it. */
static char *
column_type(FunctionCallInfo fcinfo, int argument, const char *what)
{
	char	   *name = PG_ARGISNULL(argument) ? pstrdup("text") :
		text_to_cstring(PG_GETARG_TEXT_PP(argument));
	Oid			type;
	int32		typmod;

	/* the default is what it says, whatever search_path finds under the name */
	if (strcmp(name, "text") == 0)
		name = "pg_catalog.text";
	topics_parse_type(name, &type, &typmod);
	if (isAnyTempNamespace(get_type_namespace(type)) ||
		isAnyTempNamespace(get_type_namespace(getBaseType(type))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s cannot be a temporary type", what),
				 errdetail("It would go with the session, and the topic is to stay.")));
	if (get_typtype(type) == TYPTYPE_PSEUDO || !get_typisdefined(type))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s cannot be \"%s\"", what, name),
				 errdetail("It must be a type that a column can have.")));
	if (object_aclcheck(TypeRelationId, type, GetUserId(), ACL_USAGE) != ACLCHECK_OK)
		aclcheck_error_type(ACLCHECK_NO_PRIV, type);
	return format_type_extended(type, typmod,
								FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY);
}

/* ----------------------------------------------------------------
 *		Create
 * ----------------------------------------------------------------
 */

/* Nobody else creates a topic of this name until our transaction ends. */
static void
lock_name(const char *name, Oid namespace)
{
	uint16		hash = (uint16) hash_bytes((const unsigned char *) name, strlen(name));

	/* 0 would be the schema itself; a collision costs but a wait */
	LockDatabaseObject(NamespaceRelationId, namespace, hash | 1, ExclusiveLock);
	AcceptInvalidationMessages();
}

/* Make the tables of partitions from .. to-1, with a first segment each. */
static void
create_partitions(int64 topic_id, int32 from, int32 to, int64 segment_bytes)
{
	Oid			namespace = get_namespace_oid(TOPIC_LOG_SCHEMA, false);

	/* dropped again if this (sub)transaction fails */
	topics_topic_changes_note(topic_id, from, true);
	topics_partition_state_reserve(topic_id, from, to);
	for (int32 partition = from; partition < to; partition++)
	{
		TopicPartition id = {MyDatabaseId, partition, topic_id};
		char		name[NAMEDATALEN];

		CHECK_FOR_INTERRUPTS();
		snprintf(name, sizeof(name), "t" INT64_FORMAT "_p%d", topic_id, partition);
		execute("CREATE TABLE topic_log.%s (LIKE topic_log.t" INT64_FORMAT ") PARTITION BY RANGE (\"offset\")",
				name, topic_id);
		topics_segment_protect_from_analyze(get_relname_relid(name, namespace));
		/* not PARTITION OF: that would lock out the topic's readers */
		execute("ALTER TABLE topic_log.t" INT64_FORMAT " ATTACH PARTITION topic_log.%s FOR VALUES IN (%d)",
				topic_id, name, partition);
		execute("INSERT INTO topic_log.partition (topic_id, partition) VALUES (" INT64_FORMAT ", %d)",
				topic_id, partition);
		topics_segment_cover(get_relname_relid(name, namespace), topics_partition_state_get(&id),
							 0, 0, segment_bytes, false);
	}
}

static void
create_log_table(int64 topic_id, const char *key_type, const char *value_type)
{
	execute("CREATE TABLE topic_log.t" INT64_FORMAT " ("
			"\"offset\" pg_catalog.int8 NOT NULL,"
			" \"timestamp\" pg_catalog.timestamptz NOT NULL,"
			" partition pg_catalog.int4 NOT NULL,"
			" key %s, value %s, headers pg_catalog.jsonb"
			") PARTITION BY LIST (partition)", topic_id, key_type, value_type);
	topics_segment_protect_from_analyze(get_relname_relid(psprintf("t" INT64_FORMAT, topic_id),
														  get_namespace_oid(TOPIC_LOG_SCHEMA, false)));
}

static Oid
create_view(int64 topic_id, const char *name, Oid namespace)
{
	const char *view = quote_qualified_identifier(TOPIC_SCHEMA, name);

	execute("CREATE VIEW %s AS SELECT partition, \"offset\", \"timestamp\", key, value, headers"
			" FROM topic_log.t" INT64_FORMAT, view, topic_id);
	execute("CREATE TRIGGER produce INSTEAD OF INSERT ON %s"
			" FOR EACH ROW EXECUTE FUNCTION topics.insert_record()", view);
	/* the first also when no row matches; the second lets the first be fired */
	execute("CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON %s"
			" FOR EACH STATEMENT EXECUTE FUNCTION topics.append_only()", view);
	execute("CREATE TRIGGER append_only_row INSTEAD OF UPDATE OR DELETE ON %s"
			" FOR EACH ROW EXECUTE FUNCTION topics.append_only()", view);
	return get_relname_relid(name, namespace);
}

static void
insert_row(int64 topic_id, int32 partitions, Oid view, TopicSettingValues *settings)
{
	topics_topic_setting_execute(psprintf("INSERT INTO topic_log.topic (topic_id, partitions, view%s)"
										  " VALUES (" INT64_FORMAT ", %d, %u%s)",
										  topics_topic_setting_columns(), topic_id, partitions, view,
										  topics_topic_setting_parameters()),
								 settings);
}

/*
 * Make a topic of pg_topics' own, unless it is there: of the extension's
 * owner, with text keys and jsonb values, and compacted.  Its segments are small,
 * since the last one is read whole after a restart.
 */
void
topics_topic_create_internal(const char *name, int32 partitions)
{
	static const char *const differing[][2] = {
		{"retention_time", "-1 day"},
		{"segment_bytes", CppAsString2(INTERNAL_SEGMENT_BYTES)},
		{"max_message_bytes", "268435456"},
		{"cleanup_policy", "compact"},
		{"delete_retention_time", "10 minutes"},
		{"notify", "false"}
	};
	Oid			namespace = get_namespace_oid(TOPIC_SCHEMA, false);
	TopicSettingValues *settings;
	SqlScope	scope;
	int64		topic_id;
	Oid			view;

	lock_name(name, namespace);
	if (OidIsValid(get_relname_relid(name, namespace)))
		return;

	settings = topics_topic_setting_from_text(differing, lengthof(differing));
	topics_topic_setting_add_defaults(settings);
	scope = enter_owner();
	topic_id = nextval_internal(get_relname_relid("topic_id_seq",
												  get_namespace_oid(TOPIC_LOG_SCHEMA, false)), false);
	create_log_table(topic_id, "pg_catalog.text", "pg_catalog.jsonb");
	create_partitions(topic_id, 0, partitions, INTERNAL_SEGMENT_BYTES);
	view = create_view(topic_id, name, namespace);
	insert_row(topic_id, partitions, view, settings);
	leave_owner(scope);
}

static int32
partitions_argument(FunctionCallInfo fcinfo)
{
	int32		partitions = PG_ARGISNULL(1) ? 1 : PG_GETARG_INT32(1);

	if (partitions < 1 || partitions > MAX_TOPIC_PARTITIONS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid number of partitions: %d", partitions),
				 errdetail("A topic has from 1 to %d partitions.", MAX_TOPIC_PARTITIONS)));
	return partitions;
}

/* create_topic(topic, partitions, key_type, value_type, settings.., if_not_exists) */
Datum
topics_create_topic(PG_FUNCTION_ARGS)
{
	enum
	{
		FIRST_SETTING = 4
	};
	const int	if_not_exists = FIRST_SETTING + topics_topic_setting_count();
	char	   *name = text_argument(fcinfo, 0, "topic");
	int32		partitions = partitions_argument(fcinfo);
	Oid			user = GetUserId();
	Oid			namespace;
	Oid			view;
	char	   *key_type;
	char	   *value_type;
	int64		topic_id;
	TopicSettingValues *settings;
	SqlScope	scope;

	topics_require_preload();
	PreventCommandIfReadOnly("topics.create_topic()");
	topics_topic_check_name(name);
	settings = topics_topic_setting_arguments(fcinfo, FIRST_SETTING);
	namespace = get_namespace_oid(TOPIC_SCHEMA, false);
	if (object_aclcheck(NamespaceRelationId, namespace, user, ACL_CREATE) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_SCHEMA, TOPIC_SCHEMA);

	lock_name(name, namespace);
	if (OidIsValid(get_relname_relid(name, namespace)))
	{
		bool		quiet = !PG_ARGISNULL(if_not_exists) && PG_GETARG_BOOL(if_not_exists);

		ereport(quiet ? NOTICE : ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 quiet ? errmsg("topic \"%s\" already exists, skipping", name) :
				 errmsg("topic \"%s\" already exists", name)));
		PG_RETURN_VOID();
	}
	key_type = column_type(fcinfo, 2, "key_type");
	value_type = column_type(fcinfo, 3, "value_type");
	topics_topic_setting_add_defaults(settings);

	scope = enter_owner();
	topic_id = nextval_internal(get_relname_relid("topic_id_seq",
												  get_namespace_oid(TOPIC_LOG_SCHEMA, false)), false);
	create_log_table(topic_id, key_type, value_type);
	create_partitions(topic_id, 0, partitions, topics_topic_setting_used(settings).segment_bytes);
	view = create_view(topic_id, name, namespace);
	insert_row(topic_id, partitions, view, settings);
	CommandCounterIncrement();
	ATExecChangeOwner(view, user, true, AccessExclusiveLock);
	leave_owner(scope);
	PG_RETURN_VOID();
}

/* ----------------------------------------------------------------
 *		Change
 * ----------------------------------------------------------------
 */

/* A topic of the caller's own, which nobody else changes meanwhile. */
static Topic *
lock_own_topic(const char *name, LOCKMODE mode, bool missing_ok)
{
	for (;;)
	{
		Topic	   *topic = topics_catalog_lookup(name, missing_ok);
		Oid			view;

		if (topic == NULL)
			return NULL;
		topics_catalog_require_owner(topic);
		topics_catalog_require_not_internal(topic);
		view = topic->view_relid;
		LockRelationOid(view, mode);
		topic = topics_catalog_lookup(name, true);
		if (topic && topic->view_relid == view)
			return topic;
		UnlockRelationOid(view, mode);
	}
}

/* alter_topic(topic, settings..) */
Datum
topics_alter_topic(PG_FUNCTION_ARGS)
{
	Topic	   *topic;
	TopicSettingValues *settings;
	SqlScope	scope;

	topics_require_preload();
	PreventCommandIfReadOnly("topics.alter_topic()");
	settings = topics_topic_setting_arguments(fcinfo, 1);
	topic = lock_own_topic(text_argument(fcinfo, 0, "topic"), ShareUpdateExclusiveLock, false);

	scope = enter_owner();
	topics_topic_setting_execute(psprintf("UPDATE topic_log.topic SET %s"
										  " WHERE topic_id = " INT64_FORMAT " AND partitions = %d",
										  topics_topic_setting_assignments(),
										  topic->topic_id, topic->partitions),
								 settings);
	require_changed_rows();
	CacheInvalidateRelcacheByRelid(topic->view_relid);
	leave_owner(scope);
	/* work that fails may do better with the new settings; if not, no harm */
	topics_backoff_reset(topic->view_relid);
	PG_RETURN_VOID();
}

/* add_partitions(topic, partitions): the new total */
Datum
topics_add_partitions(PG_FUNCTION_ARGS)
{
	Topic	   *topic;
	Topic		before;
	int32		partitions;
	SqlScope	scope;

	topics_require_preload();
	PreventCommandIfReadOnly("topics.add_partitions()");
	topics_argument_require(fcinfo, 1, "partitions");
	partitions = partitions_argument(fcinfo);
	topic = lock_own_topic(text_argument(fcinfo, 0, "topic"), ShareUpdateExclusiveLock, false);
	if (partitions <= topic->partitions)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("topic \"%s\" has %d partitions already", NameStr(topic->name),
						topic->partitions),
				 errdetail("The new number, %d, is a total and must be larger.", partitions)));

	before = *topic;
	scope = enter_owner();
	create_partitions(before.topic_id, before.partitions, partitions,
					  before.settings.segment_bytes);
	execute("UPDATE topic_log.topic SET partitions = %d WHERE topic_id = " INT64_FORMAT,
			partitions, before.topic_id);
	require_changed_rows();
	CacheInvalidateRelcacheByRelid(before.view_relid);
	leave_owner(scope);
	PG_RETURN_VOID();
}

/* rename_topic(topic, new_name) */
Datum
topics_rename_topic(PG_FUNCTION_ARGS)
{
	char	   *new_name = text_argument(fcinfo, 1, "new_name");
	Oid			namespace;
	Topic	   *topic;

	topics_require_preload();
	PreventCommandIfReadOnly("topics.rename_topic()");
	topics_topic_check_name(new_name);
	topic = lock_own_topic(text_argument(fcinfo, 0, "topic"), AccessExclusiveLock, false);
	namespace = get_namespace_oid(TOPIC_SCHEMA, false);
	if (object_aclcheck(NamespaceRelationId, namespace, GetUserId(), ACL_CREATE) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_SCHEMA, TOPIC_SCHEMA);
	lock_name(new_name, namespace);
	if (OidIsValid(get_relname_relid(new_name, namespace)))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("topic \"%s\" already exists", new_name)));
	RenameRelationInternal(topic->view_relid, new_name, false, false);
	CommandCounterIncrement();
	PG_RETURN_VOID();
}

/* drop_topic(topic, if_exists) */
Datum
topics_drop_topic(PG_FUNCTION_ARGS)
{
	char	   *name = text_argument(fcinfo, 0, "topic");
	bool		if_exists = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);
	Topic	   *topic;
	ObjectAddress view = {RelationRelationId, InvalidOid, 0};
	ObjectAddress root = {RelationRelationId, InvalidOid, 0};
	int64		topic_id;
	SqlScope	scope;

	topics_require_preload();
	PreventCommandIfReadOnly("topics.drop_topic()");
	/* before the topic has gone: what is loaded then lacks its offsets */
	topics_offset_log_prepare(false);
	topic = lock_own_topic(name, AccessExclusiveLock, if_exists);
	if (topic == NULL)
	{
		ereport(NOTICE, (errmsg("topic \"%s\" does not exist, skipping", name)));
		PG_RETURN_VOID();
	}
	topic_id = topic->topic_id;
	view.objectId = topic->view_relid;
	root.objectId = topic->root_relid;

	scope = enter_owner();
	dropping_view = view.objectId;
	PG_TRY();
	{
		performDeletion(&view, DROP_RESTRICT, 0);
	}
	PG_FINALLY();
	{
		dropping_view = InvalidOid;
	}
	PG_END_TRY();
	performDeletion(&root, DROP_RESTRICT, 0);
	execute("DELETE FROM topic_log.topic WHERE topic_id = " INT64_FORMAT, topic_id);
	require_changed_rows();
	execute("DELETE FROM topic_log.partition WHERE topic_id = " INT64_FORMAT, topic_id);
	require_changed_rows();
	execute("DELETE FROM topic_log.segment WHERE topic_id = " INT64_FORMAT, topic_id);
	topics_topic_changes_note(topic_id, 0, false);
	topics_consumer_offset_delete_topic(topic_id);
	TEST_POINT("topic-dropped");
	leave_owner(scope);
	PG_RETURN_VOID();
}

/* ----------------------------------------------------------------
 *		Describe
 * ----------------------------------------------------------------
 */

/* What a topic is and its settings, as rows (number, name, value, is_default, note) for VALUES. */
static char *
description_rows(const Topic *topic)
{
	StringInfoData rows;

	initStringInfo(&rows);
	appendStringInfo(&rows, "(-5, 'topic_id', t.topic_id::text, NULL::bool, NULL),"
					 " (-4, 'owner', pg_get_userbyid(c.relowner), NULL, NULL),"
					 " (-3, 'partitions', t.partitions::text, NULL, NULL),"
					 " (-2, 'key_type', %s, NULL, 'Type of keys'),"
					 " (-1, 'value_type', %s, NULL, 'Type of values')",
					 quote_literal_cstr(format_type_with_typemod(topic->key.type, topic->key.typmod)),
					 quote_literal_cstr(format_type_with_typemod(topic->value.type, topic->value.typmod)));
	appendStringInfoString(&rows, topics_topic_setting_descriptions());
	return rows.data;
}

/*
 * describe_topic(topic): a row for each thing to know about it.  What it means,
 * and what Kafka calls it, is in the comments on the columns of topics.topic.
 */
Datum
topics_describe_topic(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Topic	   *topic = topics_catalog_lookup(text_argument(fcinfo, 0, "topic"), false);
	SqlScope	scope;

	if (!topics_catalog_may_read(topic))
		topics_catalog_require(topic, ACL_SELECT);
	InitMaterializedSRF(fcinfo, 0);
	scope = enter_owner();
	if (SPI_execute(psprintf("SELECT name, value, is_default,"
							 " substring(description FROM '\\(([a-z.]+)\\)$'),"
							 " COALESCE(note, regexp_replace(description, ' \\([a-z.]+\\)$', ''))"
							 " FROM topic_log.topic t JOIN pg_class c ON c.oid = t.view,"
							 " LATERAL (VALUES %s) r (number, name, value, is_default, note)"
							 " LEFT JOIN pg_attribute a ON attrelid = 'topics.topic'::regclass AND attname = name"
							 " LEFT JOIN pg_description ON objoid = attrelid AND objsubid = attnum AND classoid = 'pg_class'::regclass"
							 " WHERE t.topic_id = " INT64_FORMAT " ORDER BY number",
							 description_rows(topic), topic->topic_id),
					true, 0) < 0)
		elog(ERROR, "could not describe topic \"%s\"", NameStr(topic->name));
	for (uint64 i = 0; i < SPI_processed; i++)
		tuplestore_puttuple(rsinfo->setResult, SPI_tuptable->vals[i]);
	leave_owner(scope);
	return (Datum) 0;
}
