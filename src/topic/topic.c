/*-------------------------------------------------------------------------
 *
 * topic.c
 *		Create, alter, rename, drop and describe topics; add partitions.
 *
 * All of it is transactional, because all of it is rows and tables
 * (make_topic.c).
 *
 * Changes of one topic exclude each other by a lock on its view; creations of
 * one name by a lock on the name.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/tablecmds.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "parser/parse_type.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "group/group.h"
#include "topic/topic.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_create_topic);
PG_FUNCTION_INFO_V1(topics_alter_topic);
PG_FUNCTION_INFO_V1(topics_rename_topic);
PG_FUNCTION_INFO_V1(topics_drop_topic);
PG_FUNCTION_INFO_V1(topics_add_partitions);
PG_FUNCTION_INFO_V1(topics_describe_topic);

/*
 * PostgreSQL reads all partitions of a table again for each one that is
 * attached, so the time to make a topic grows with their square.
 */
#define MAX_TOPIC_PARTITIONS 10000

/* The view that drop_topic is dropping right now. */
static Oid	dropping_view = InvalidOid;

/* Return true if drop_topic is dropping this view: hooks.c lets it pass. */
bool
topics_topic_is_being_dropped(Oid view_relid)
{
	return view_relid == dropping_view;
}

/* ----------------------------------------------------------------
 *		Arguments
 * ----------------------------------------------------------------
 */

/*
 * Require a name to be good for a topic: by Kafka's rule, with PostgreSQL's
 * length.  Names that begin with two underscores are for topics of the system.
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

static Oid
get_type_namespace(Oid type)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	Oid			namespace = ((Form_pg_type) GETSTRUCT(tuple))->typnamespace;

	ReleaseSysCache(tuple);
	return namespace;
}

/* Error context: the argument that an error about a type's name is about. */
static void
describe_type_argument(void *arg)
{
	errcontext("argument \"%s\" of topics.create_topic()", (const char *) arg);
}

/* Get a type's name as it can stand in any statement, after checking it. */
static char *
get_column_type(FunctionCallInfo fcinfo, int argument, const char *what)
{
	char	   *name = PG_ARGISNULL(argument) ? pstrdup("text") :
		text_to_cstring(PG_GETARG_TEXT_PP(argument));
	ErrorContextCallback callback = {
		error_context_stack, describe_type_argument, unconstify(char *, what)
	};
	Oid			type;
	int32		typmod;

	/* the default is this type, whatever search_path finds under the name */
	if (strcmp(name, "text") == 0)
		name = "pg_catalog.text";
	error_context_stack = &callback;
	topics_parse_type(name, &type, &typmod);
	if (object_aclcheck(TypeRelationId, type, GetUserId(), ACL_USAGE) != ACLCHECK_OK)
		aclcheck_error_type(ACLCHECK_NO_PRIV, type);
	error_context_stack = callback.previous;
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
	return format_type_extended(type, typmod,
								FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY);
}

/* ----------------------------------------------------------------
 *		Create
 * ----------------------------------------------------------------
 */

static int32
get_partitions_argument(FunctionCallInfo fcinfo, int argument)
{
	int32		partitions = PG_ARGISNULL(argument) ? 1 : PG_GETARG_INT32(argument);

	if (partitions < 1 || partitions > MAX_TOPIC_PARTITIONS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid number of partitions: %d", partitions),
				 errdetail("A topic has from 1 to %d partitions.", MAX_TOPIC_PARTITIONS),
				 partitions < 1 ? 0 : errhint("Use several topics.")));
	return partitions;
}

/* Require the right to create topics. */
static void
require_create_right(void)
{
	Oid			namespace = get_namespace_oid(TOPIC_SCHEMA, false);

	if (object_aclcheck(NamespaceRelationId, namespace, GetUserId(), ACL_CREATE) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_SCHEMA, TOPIC_SCHEMA);
}

/*
 * Raise an error since a topic has this name, or say so and skip.  What has the
 * name and is no topic is an error in any case.
 */
static void
report_existing_topic(const char *name, bool skip)
{
	topics_broken_topic_report_view(name);
	topics_broken_topic_report_other(name);
	ereport(skip ? NOTICE : ERROR,
			(errcode(ERRCODE_DUPLICATE_OBJECT),
			 skip ? errmsg("topic \"%s\" already exists, skipping", name) :
			 errmsg("topic \"%s\" already exists", name)));
}

/* Arguments of create_topic; if_not_exists comes after the settings. */
enum
{
	CREATE_TOPIC,
	CREATE_PARTITIONS,
	CREATE_KEY_TYPE,
	CREATE_VALUE_TYPE,
	CREATE_FIRST_SETTING
};

/* Raise the error of who would have a topic of several leaders compacted. */
static void
report_compacted_spread(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("a topic whose leaders are spread cannot be compacted"),
			 errdetail("A follower that has not seen a tombstone in time has to read a topic anew, and would drop what it leads of it."),
			 errhint("Leave leaders out, or have cleanup_policy be 'delete'.")));
}

/*
 * Get the leader sets of a new topic, by an argument: 'here', or 'spread' over
 * as many as there are nodes.  Those that are new are made before the commit
 * (node/leader_set.c).
 */
static LeaderSets
get_leaders_argument(FunctionCallInfo fcinfo, int argument, const TopicSettingValues *settings)
{
	char	   *leaders = topics_argument_get_text(fcinfo, argument);
	LeaderSets	sets = {0};
	ClusterRow	row;

	if (strcmp(leaders, "here") == 0)
		return sets;
	if (strcmp(leaders, "spread") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value of leaders: \"%s\"", leaders),
				 errhint("Use 'here' or 'spread'.")));
	if (!topics_cluster_read_row(&row))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database is in no cluster"),
				 errhint("Make one with topics.create_cluster(), or leave leaders out.")));
	if (topics_topic_setting_used(settings).compact)
		report_compacted_spread();
	for (int set = METADATA_SET + 1; set <= row.voters && set < MAX_LEADER_SETS; set++)
		sets.sets[sets.count++] = set;
	topics_mark_slot_require(1 + sets.count);
	topics_make_topic_cover_set(METADATA_TOPIC, 1 + sets.count);
	topics_internal_topic_cover_sets(sets.count, true);
	return sets;
}

/*
 * create_topic(topic, partitions, key_type, value_type, settings..,
 * if_not_exists, leaders)
 */
Datum
topics_create_topic(PG_FUNCTION_ARGS)
{
	const int	if_not_exists = CREATE_FIRST_SETTING + topics_topic_setting_count();
	NewTopic	topic = {.owner = GetUserId()};

	topic.name = topics_argument_get_text(fcinfo, CREATE_TOPIC);
	topic.partitions = get_partitions_argument(fcinfo, CREATE_PARTITIONS);
	topics_settings_require_preload();
	PreventCommandIfReadOnly("topics.create_topic()");
	topics_cluster_require_leader("topics.create_topic()");
	topics_topic_check_name(topic.name);
	topic.settings = topics_topic_setting_arguments(fcinfo, CREATE_FIRST_SETTING);
	require_create_right();

	if (!topics_make_topic_lock_name(topic.name))
	{
		report_existing_topic(topic.name,
							  !PG_ARGISNULL(if_not_exists) && PG_GETARG_BOOL(if_not_exists));
		PG_RETURN_VOID();
	}
	topic.key_type = get_column_type(fcinfo, CREATE_KEY_TYPE, "key_type");
	topic.value_type = get_column_type(fcinfo, CREATE_VALUE_TYPE, "value_type");
	topics_topic_setting_add_defaults(topic.settings);
	topic.leader_sets = get_leaders_argument(fcinfo, if_not_exists + 1, topic.settings);
	topics_make_topic_create(&topic);
	PG_RETURN_VOID();
}

/* ----------------------------------------------------------------
 *		Change
 * ----------------------------------------------------------------
 */

/* Return true if the catalogue still has the row that a topic was read from. */
static bool
has_row(const Topic *topic)
{
	return topics_catalog_view_of(topic->topic_id) == topic->view_relid;
}

/*
 * Lock a topic, which must be the caller's, so that nobody else changes it
 * until the transaction ends.  NULL if there is none, and missing_ok.  A row
 * that was deleted by hand may still be in the cache.
 */
static Topic *
lock_own_topic(const char *name, LOCKMODE mode, bool missing_ok)
{
	for (;;)
	{
		Topic	   *topic = topics_catalog_lookup(name, missing_ok);
		Oid			view;

		if (topic == NULL)
		{
			Assert(missing_ok);
			return NULL;
		}
		topics_catalog_require_owner(topic);
		topics_catalog_require_not_internal(topic);
		view = topic->view_relid;
		LockRelationOid(view, mode);
		topic = topics_catalog_lookup(name, true);
		if (topic && topic->view_relid == view)
		{
			if (!has_row(topic))
				topics_broken_topic_report(name, topic->topic_id);
			return topic;
		}
		UnlockRelationOid(view, mode);
	}
}

/* Arguments of alter_topic. */
enum
{
	ALTER_TOPIC,
	ALTER_FIRST_SETTING
};

/* alter_topic(topic, settings..) */
Datum
topics_alter_topic(PG_FUNCTION_ARGS)
{
	Topic	   *topic;
	TopicSettingValues *settings;
	StatementScope scope;

	topics_settings_require_preload();
	PreventCommandIfReadOnly("topics.alter_topic()");
	topics_cluster_require_leader("topics.alter_topic()");
	settings = topics_topic_setting_arguments(fcinfo, ALTER_FIRST_SETTING);
	topic = lock_own_topic(topics_argument_get_text(fcinfo, ALTER_TOPIC),
						   ShareUpdateExclusiveLock, false);

	scope = topics_statement_begin();
	topics_topic_setting_execute(psprintf("UPDATE topic_log.topic SET %s"
										  " WHERE topic_id = " INT64_FORMAT " AND partitions = %d",
										  topics_topic_setting_assignments(),
										  topic->topic_id, topic->partitions),
								 settings);
	topics_statement_require_change();
	CacheInvalidateRelcacheByRelid(topic->view_relid);
	topics_statement_end(scope);
	CommandCounterIncrement();
	topic = topics_catalog_get(topic->view_relid, false);
	if (topic->settings.compact && topic->leader_sets.count > 0)
		report_compacted_spread();
	/* work that fails may do better with the new settings; if not, no harm */
	topics_backoff_reset(topic->view_relid);
	topics_topic_changes_note_settings();
	PG_RETURN_VOID();
}

/* Arguments of add_partitions. */
enum
{
	ADD_TOPIC,
	ADD_PARTITIONS
};

/* add_partitions(topic, partitions): the new total */
Datum
topics_add_partitions(PG_FUNCTION_ARGS)
{
	Topic	   *topic;
	Topic		before;
	int32		partitions;
	StatementScope scope;

	topics_settings_require_preload();
	PreventCommandIfReadOnly("topics.add_partitions()");
	topics_cluster_require_leader("topics.add_partitions()");
	topics_argument_require(fcinfo, ADD_PARTITIONS);
	partitions = get_partitions_argument(fcinfo, ADD_PARTITIONS);
	topic = lock_own_topic(topics_argument_get_text(fcinfo, ADD_TOPIC),
						   ShareUpdateExclusiveLock, false);
	if (partitions <= topic->partitions)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("topic \"%s\" has %d partitions already", NameStr(topic->name),
						topic->partitions),
				 errdetail("The new number, %d, is a total and must be larger.", partitions)));

	before = *topic;
	scope = topics_statement_begin();
	topics_make_topic_create_partitions(before.topic_id, before.partitions, partitions,
										before.settings.segment_bytes, &before.leader_sets);
	topics_statement_execute("UPDATE topic_log.topic SET partitions = %d"
							 " WHERE topic_id = " INT64_FORMAT, partitions, before.topic_id);
	topics_statement_require_change();
	CacheInvalidateRelcacheByRelid(before.view_relid);
	topics_statement_end(scope);
	PG_RETURN_VOID();
}

/* Arguments of rename_topic. */
enum
{
	RENAME_TOPIC,
	RENAME_NEW_NAME
};

/* rename_topic(topic, new_name) */
Datum
topics_rename_topic(PG_FUNCTION_ARGS)
{
	char	   *new_name = topics_argument_get_text(fcinfo, RENAME_NEW_NAME);
	Topic	   *topic;

	topics_settings_require_preload();
	PreventCommandIfReadOnly("topics.rename_topic()");
	topics_cluster_require_leader("topics.rename_topic()");
	topics_topic_check_name(new_name);
	topic = lock_own_topic(topics_argument_get_text(fcinfo, RENAME_TOPIC),
						   AccessExclusiveLock, false);
	require_create_right();
	if (!topics_make_topic_lock_name(new_name))
		report_existing_topic(new_name, false);
	RenameRelationInternal(topic->view_relid, new_name, false, false);
	CommandCounterIncrement();
	PG_RETURN_VOID();
}

/* Drop a view that is a topic. */
static void
drop_view(Oid view_relid)
{
	ObjectAddress view = {RelationRelationId, view_relid, 0};

	dropping_view = view_relid;
	PG_TRY();
	{
		performDeletion(&view, DROP_RESTRICT, 0);
	}
	PG_FINALLY();
	{
		dropping_view = InvalidOid;
	}
	PG_END_TRY();
}

/*
 * Drop all that there is of a topic, whose view is locked; of a large one the
 * tables go later.  With the root's lock nobody uses its log any more.
 */
void
topics_topic_drop_parts(const TopicParts *parts)
{
	StatementScope scope;

	/* before the topic has gone: what is loaded then lacks its offsets */
	topics_offset_log_prepare(false);
	topics_producer_prepare(false);
	scope = topics_statement_begin();
	if (OidIsValid(parts->root_relid))
		LockRelationOid(parts->root_relid, AccessExclusiveLock);
	if (OidIsValid(parts->view_relid))
		drop_view(parts->view_relid);
	topics_dropped_topic_take_tables(parts);
	topics_statement_execute("DELETE FROM topic_log.topic WHERE topic_id = " INT64_FORMAT,
							 parts->topic_id);
	if (parts->has_row)
		topics_statement_require_change();
	topics_statement_execute("DELETE FROM topic_log.partition WHERE topic_id = " INT64_FORMAT,
							 parts->topic_id);
	topics_statement_execute("DELETE FROM topic_log.segment WHERE topic_id = " INT64_FORMAT,
							 parts->topic_id);
	topics_topic_changes_note(parts->topic_id, 0, parts->partitions, false);
	topics_consumer_offset_delete_topic(parts->topic_id);
	topics_producer_delete_topic(parts->topic_id);
	TEST_POINT("topic-dropped");
	topics_statement_end(scope);
}

/*
 * Find and lock a topic by its view, whether it can be used or not.  Return
 * false if there is nothing.  Who has made the view owns the topic, and a view
 * without a row of the catalogue is an administrator's.
 */
static bool
lock_topic_parts(const char *name, TopicParts *parts)
{
	for (;;)
	{
		Oid			view = get_relname_relid(name, get_namespace_oid(TOPIC_SCHEMA, false));

		if (!OidIsValid(view) || !topics_broken_topic_find(ALL_TOPICS, view, parts))
			return false;
		if (!(parts->has_row && topics_catalog_owns_view(view)) &&
			!topics_catalog_is_admin())
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("must be owner of topic \"%s\"", name)));
		LockRelationOid(view, AccessExclusiveLock);
		if (get_relname_relid(name, get_namespace_oid(TOPIC_SCHEMA, false)) == view &&
			topics_broken_topic_find(parts->topic_id, view, parts))
			return true;
		UnlockRelationOid(view, AccessExclusiveLock);
	}
}

/* Arguments of drop_topic. */
enum
{
	DROP_TOPIC,
	DROP_IF_EXISTS
};

/* drop_topic(topic, if_exists) */
Datum
topics_drop_topic(PG_FUNCTION_ARGS)
{
	char	   *name = topics_argument_get_text(fcinfo, DROP_TOPIC);
	bool		if_exists = !PG_ARGISNULL(DROP_IF_EXISTS) && PG_GETARG_BOOL(DROP_IF_EXISTS);
	Topic	   *topic;
	TopicParts	parts = {0};

	topics_settings_require_preload();
	PreventCommandIfReadOnly("topics.drop_topic()");
	topics_cluster_require_leader("topics.drop_topic()");
	topic = topics_catalog_lookup(name, true);
	if ((topic == NULL || !has_row(topic)) && lock_topic_parts(name, &parts))
	{
		topics_topic_drop_parts(&parts);
		PG_RETURN_VOID();
	}
	topic = lock_own_topic(name, AccessExclusiveLock, if_exists);
	if (topic == NULL)
	{
		topics_broken_topic_report_other(name);
		ereport(NOTICE, (errmsg("topic \"%s\" does not exist, skipping", name)));
		PG_RETURN_VOID();
	}
	parts.topic_id = topic->topic_id;
	parts.view_relid = topic->view_relid;
	parts.root_relid = topic->root_relid;
	parts.has_row = true;
	parts.partitions = topic->partitions;
	topics_topic_drop_parts(&parts);
	PG_RETURN_VOID();
}

/* ----------------------------------------------------------------
 *		Describe
 * ----------------------------------------------------------------
 */

/*
 * Build the rows for VALUES that say what a topic is, and its settings:
 * (number, name, value, is_default, note).
 */
static char *
build_description(const Topic *topic)
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
	appendStringInfoString(&rows, ", (-2.5, 'replicas', (SELECT string_agg(node, ', ' ORDER BY role DESC, node)"
						   " FROM topics.node), NULL, 'Nodes of the cluster, which all have it; the first leads')");
	appendStringInfoString(&rows, topics_topic_setting_descriptions());
	return rows.data;
}

/*
 * describe_topic(topic): a row for each thing to know about it.  What it
 * means, and what Kafka calls it, is in the comments on the columns of
 * topics.topic.
 */
Datum
topics_describe_topic(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Topic	   *topic = topics_catalog_lookup(topics_argument_get_text(fcinfo, 0), false);
	StatementScope scope;

	if (!topics_catalog_may_see(topic))
		topics_catalog_require(topic, ACL_SELECT);
	InitMaterializedSRF(fcinfo, 0);
	scope = topics_statement_begin();
	if (SPI_execute(psprintf("SELECT name, value, is_default,"
							 " substring(description FROM '\\(([a-z.]+)\\)$'),"
							 " COALESCE(note, regexp_replace(description, ' \\([a-z.]+\\)$', ''))"
							 " FROM topic_log.topic t JOIN pg_class c ON c.oid = t.view,"
							 " LATERAL (VALUES %s) r (number, name, value, is_default, note)"
							 " LEFT JOIN pg_attribute a ON attrelid = 'topics.topic'::regclass AND attname = name"
							 " LEFT JOIN pg_description ON objoid = attrelid AND objsubid = attnum AND classoid = 'pg_class'::regclass"
							 " WHERE t.topic_id = " INT64_FORMAT " AND (name <> 'replicas' OR value IS NOT NULL) ORDER BY number",
							 build_description(topic), topic->topic_id),
					true, 0) < 0)
		elog(ERROR, "could not describe topic \"%s\"", NameStr(topic->name));
	for (uint64 i = 0; i < SPI_processed; i++)
		tuplestore_puttuple(rsinfo->setResult, SPI_tuptable->vals[i]);
	topics_statement_end(scope);
	return (Datum) 0;
}
