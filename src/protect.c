/*-------------------------------------------------------------------------
 *
 * protect.c
 *		Commands that would break a topic are refused, to superusers, too.
 *
 * A topic's log tables belong to pg_topics, as catalogues do to PostgreSQL:
 * what would lose records or have others in their place is refused to all, with
 * the exceptions that PostgreSQL makes for its own, allow_system_table_mods and
 * pg_upgrade.  Log tables are
 *
 *	not dropped			in any way but by topics.drop_topic(), by retention and
 *						with the extension
 *	not altered			but in what says how they are stored and replicated: see
 *						is_harmless.  So not SET UNLOGGED, after which a crash
 *						empties a log; not SET ACCESS METHOD, whose rows are in
 *						no order; not DETACH, RENAME or SET SCHEMA, after which
 *						records are not found
 *	not indexed			from the partitioned tables: a segment gets its index
 *						when it is full
 *
 * The tables of the catalogue are not altered either, nor made parents or
 * children of others, of which a command would reach them, as log tables are
 * not: dropping a column of theirs, say, with CASCADE drops the extension.  Nor
 * are they truncated.  And a topic's view keeps its definition, its columns,
 * its triggers and its owner's rights (hooks.c has what concerns the view as a
 * whole).
 *
 * On a node that follows in a cluster, a topic's view keeps its name, its
 * owner and its grants, too: they are the leader's.  (What changes these for
 * many objects at once, as DROP OWNED does, is put back by the replicator.)
 *
 * Tables of which the catalogue knows nothing, which a dump in part can leave,
 * may be altered and dropped.  That is also why a restore is not in the way of
 * this: the catalogue's rows come after all tables were made.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/index.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "log/log.h"
#include "doors.h"
#include "pg_topics.h"

/* ----------------------------------------------------------------
 *		What is protected, and from whom
 * ----------------------------------------------------------------
 */

/* Return true while a script of ours runs: CREATE EXTENSION, or its UPDATE. */
static bool
is_own_script(void)
{
	return creating_extension && CurrentExtensionObject == get_extension_oid("pg_topics", true);
}

/* Return true if nothing is refused now. */
static bool
is_permitted(void)
{
	return IsBinaryUpgrade || allowSystemTableMods || topics_hooks_is_dropping_extension() ||
		is_own_script() || topics_extension_is_acting();
}

/*
 * Return true if a table, or the table of an index, is one of the catalogue's:
 * the extension's own in schema "topic_log".
 */
static bool
is_catalogue_table(Oid relid)
{
	Oid			namespace = get_namespace_oid(TOPIC_LOG_SCHEMA, true);
	Oid			extension;

	if (!OidIsValid(namespace) || get_rel_namespace(relid) != namespace)
		return false;
	if (get_rel_relkind(relid) == RELKIND_INDEX)
		relid = IndexGetRelation(relid, true);
	extension = getExtensionOfObject(RelationRelationId, relid);
	return OidIsValid(extension) && extension == get_extension_oid("pg_topics", true);
}

/* Return true if a log table is attached, and what it is attached to, too. */
static bool
is_attached(Oid relid, const TopicPartition *id, int64 sequence)
{
	if (id->partition < 0)
		return true;			/* the topic's own table */
	if (!get_rel_relispartition(relid))
		return false;
	return sequence < 0 || get_rel_relispartition(get_partition_parent(relid, true));
}

/*
 * Return true if a table is a log table of a topic that the catalogue knows.
 * One that is attached to nothing is part of no log.
 */
static bool
is_log_table(Oid relid)
{
	Oid			namespace = get_namespace_oid(TOPIC_LOG_SCHEMA, true);
	char	   *name;
	TopicPartition id;
	int64		sequence;

	if (!OidIsValid(namespace) || get_rel_namespace(relid) != namespace ||
		!OidIsValid(topics_extension_find_log_schema()))
		return false;
	name = get_rel_name(relid);
	return name && topics_log_am_parse_name(name, &id.topic_id, &id.partition, &sequence) &&
		is_attached(relid, &id, sequence) &&
		OidIsValid(topics_catalog_view_of(id.topic_id));
}

/* Return true if a table is pg_topics', of whichever kind. */
static bool
is_own_table(Oid relid)
{
	return is_log_table(relid) || is_catalogue_table(relid);
}

/* Return true if a relation is the view of a topic. */
static bool
is_topic_view(Oid relid)
{
	Oid			namespace = get_namespace_oid(TOPIC_SCHEMA, true);

	return OidIsValid(namespace) && get_rel_namespace(relid) == namespace &&
		get_rel_relkind(relid) == RELKIND_VIEW && topics_catalog_get(relid, true) != NULL;
}

static Oid
look_up(const RangeVar *relation)
{
	return relation ? RangeVarGetRelid(relation, NoLock, true) : InvalidOid;
}

static void
refuse_change(Oid relid, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 is_topic_view(relid) ?
			 errmsg("cannot %s of topic \"%s\"", what, get_rel_name(relid)) :
			 is_log_table(relid) ?
			 errmsg("cannot %s of the log of %s", what, topics_catalog_describe_log(relid)) :
			 errmsg("cannot %s of catalogue table \"%s\"", what, get_rel_name(relid)),
			 errdetail("Records could be lost, or not be found."),
			 errhint("Use the functions of schema \"%s\".", TOPICS_SCHEMA)));
}

/* ----------------------------------------------------------------
 *		Drops and truncations, of whatever command
 * ----------------------------------------------------------------
 */

/*
 * A relation is dropped.  (A column goes with its type as well, but then the
 * topic's view goes, too, which hooks.c refuses.)
 */
void
topics_protect_from_drop(Oid relid)
{
	if (get_rel_relkind(relid) == RELKIND_INDEX || is_permitted() || !is_log_table(relid))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("cannot drop table %s because it has the log of %s",
					quote_qualified_identifier(TOPIC_LOG_SCHEMA, get_rel_name(relid)),
					topics_catalog_describe_log(relid)),
			 errhint("Use topics.drop_topic() to drop the topic and its log.")));
}

/*
 * A table is truncated, by a command that names it or by one that reaches it.
 * Log tables refuse that themselves (log_am.c).
 */
void
topics_protect_from_truncate(Oid relid)
{
	if (!is_permitted() && is_catalogue_table(relid))
		refuse_change(relid, "remove the rows");
}

/* ----------------------------------------------------------------
 *		Commands
 * ----------------------------------------------------------------
 */

/*
 * Return true if a command on a table says only how it is stored, replicated or
 * owned.  Triggers of log tables do not fire, but pg_restore switches those of
 * all tables off and on.
 */
static bool
is_harmless(AlterTableType subtype)
{
	switch (subtype)
	{
		case AT_SetStatistics:
		case AT_SetOptions:
		case AT_ResetOptions:
		case AT_SetStorage:
		case AT_SetCompression:
		case AT_SetTableSpace:
		case AT_SetRelOptions:
		case AT_ResetRelOptions:
		case AT_ReplicaIdentity:
		case AT_DropCluster:
		case AT_ChangeOwner:
		case AT_SetLogged:
		case AT_EnableTrigAll:
		case AT_DisableTrigAll:
		case AT_EnableTrigUser:
		case AT_DisableTrigUser:
			return true;
		default:
			return false;
	}
}

/* What a command does to a table, as an error says it. */
static const char *
describe_command(AlterTableType subtype)
{
	switch (subtype)
	{
		case AT_SetUnLogged:
			return "stop the logging";
		case AT_SetAccessMethod:
			return "change the access method";
		case AT_DetachPartition:
		case AT_DetachPartitionFinalize:
			return "detach a partition";
		case AT_AttachPartition:
			return "attach a partition";
		default:
			return "change the definition";
	}
}

/*
 * Check SET (..) of a topic's view.  With security_invoker its readers would
 * need rights to the log table, which only its owner has.  The other options
 * leave it readable.
 */
static void
check_view_options(Oid relid, const AlterTableCmd *command)
{
	ListCell   *lc;

	if (command->subtype != AT_SetRelOptions)
		return;
	foreach(lc, (List *) command->def)
	{
		DefElem    *option = lfirst_node(DefElem, lc);
		bool		value = true;

		if (option->defnamespace || strcmp(option->defname, "security_invoker") != 0)
			continue;
		/* what is no Boolean, PostgreSQL refuses */
		if (option->arg && (!parse_bool(defGetString(option), &value) || !value))
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot set \"%s\" of topic \"%s\"", option->defname, get_rel_name(relid)),
				 errdetail("Readers have no right to the log table; the view reads it with its owner's.")));
	}
}

/* The other table that a command makes a parent or a child of this one. */
static Oid
find_relative(const AlterTableCmd *command)
{
	switch (command->subtype)
	{
		case AT_AttachPartition:
			return look_up(((PartitionCmd *) command->def)->name);
		case AT_AddInherit:
			return look_up((RangeVar *) command->def);
		default:
			return InvalidOid;
	}
}

static void
check_alter_table(const AlterTableStmt *statement)
{
	Oid			relid = look_up(statement->relation);
	bool		is_own = OidIsValid(relid) && is_own_table(relid);
	bool		is_view = OidIsValid(relid) && is_topic_view(relid);
	ListCell   *lc;

	foreach(lc, statement->cmds)
	{
		AlterTableCmd *command = lfirst_node(AlterTableCmd, lc);
		Oid			relative;

		if (is_own && !is_harmless(command->subtype))
			refuse_change(relid, describe_command(command->subtype));
		if (is_view)
			check_view_options(relid, command);
		if (is_view && command->subtype == AT_ChangeOwner)
			topics_cluster_require_leader("ALTER VIEW .. OWNER TO of a topic");
		/* below a table of another, it would change with that */
		relative = find_relative(command);
		if (OidIsValid(relative) && is_own_table(relative))
			refuse_change(relative, "change the parent or a child");
	}
}

static void
check_rename(const RenameStmt *statement)
{
	Oid			relid;

	if (statement->renameType == OBJECT_SCHEMA)
	{
		if (topics_extension_exists() &&
			(strcmp(statement->subname, TOPIC_SCHEMA) == 0 ||
			 strcmp(statement->subname, TOPICS_SCHEMA) == 0 ||
			 strcmp(statement->subname, TOPIC_LOG_SCHEMA) == 0))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot rename schema \"%s\"", statement->subname),
					 errdetail("It is pg_topics', which looks for it by this name.")));
		return;
	}
	relid = look_up(statement->relation);
	if (!OidIsValid(relid))
		return;
	if ((statement->renameType == OBJECT_COLUMN && is_topic_view(relid)) ||
		(statement->renameType != OBJECT_TRIGGER &&
		 (is_catalogue_table(relid) ||
		  (statement->renameType != OBJECT_INDEX && get_rel_relkind(relid) != RELKIND_INDEX &&
		   is_log_table(relid)))))
		refuse_change(relid, statement->renameType == OBJECT_COLUMN ? "rename a column" :
					  "change the name");
	if ((statement->renameType == OBJECT_VIEW || statement->renameType == OBJECT_TABLE) &&
		is_topic_view(relid))
		topics_cluster_require_leader("ALTER VIEW .. RENAME TO of a topic");
}

/* Return true if a trigger of a relation calls one of our functions. */
static bool
is_own_trigger(Oid relid, const char *name)
{
	Oid			trigger_oid = get_trigger_oid(relid, name, true);
	Relation	rel = table_open(TriggerRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			function = InvalidOid;

	ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(trigger_oid));
	scan = systable_beginscan(rel, TriggerOidIndexId, true, NULL, 1, &key);
	if (HeapTupleIsValid(tuple = systable_getnext(scan)))
		function = ((Form_pg_trigger) GETSTRUCT(tuple))->tgfoid;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return OidIsValid(function) &&
		get_func_namespace(function) == get_namespace_oid(TOPICS_SCHEMA, true);
}

/* DROP TRIGGER name ON view */
static void
check_drop_trigger(const DropStmt *statement)
{
	ListCell   *lc;

	foreach(lc, statement->objects)
	{
		List	   *object = castNode(List, lfirst(lc));
		List	   *name = list_truncate(list_copy(object), list_length(object) - 1);
		Oid			relid = look_up(makeRangeVarFromNameList(name));

		if (OidIsValid(relid) && is_topic_view(relid) && is_own_trigger(relid, strVal(llast(object))))
			refuse_change(relid, "drop a trigger");
	}
}

/* CREATE OR REPLACE TRIGGER name ON view, which would take ours away */
static void
check_create_trigger(const CreateTrigStmt *statement)
{
	Oid			relid = statement->replace ? look_up(statement->relation) : InvalidOid;

	if (OidIsValid(relid) && is_topic_view(relid) && is_own_trigger(relid, statement->trigname))
		refuse_change(relid, "replace a trigger");
}

/* Find the first of some tables of which a check is true, or InvalidOid. */
static Oid
find_table(List *tables, bool (*check) (Oid relid))
{
	ListCell   *lc;

	foreach(lc, tables)
	{
		Oid			relid = look_up(lfirst_node(RangeVar, lc));

		if (OidIsValid(relid) && check(relid))
			return relid;
	}
	return InvalidOid;
}

/* CREATE TABLE .. PARTITION OF or INHERITS (a table of ours) */
static void
check_create_table(const CreateStmt *statement)
{
	Oid			relid = find_table(statement->inhRelations, is_own_table);

	if (OidIsValid(relid))
		refuse_change(relid, "make a partition or a child");
}

/*
 * CREATE INDEX on a topic, which PostgreSQL only says to be a view, or on a
 * partitioned log table.
 */
static void
check_index(const IndexStmt *statement)
{
	Oid			relid = look_up(statement->relation);
	bool		is_view = OidIsValid(relid) && is_topic_view(relid);

	if (is_view ||
		(OidIsValid(relid) && get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE &&
		 is_log_table(relid)))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 is_view ? errmsg("cannot index topic \"%s\"", get_rel_name(relid)) :
				 errmsg("cannot index all segments of %s", topics_catalog_describe_log(relid)),
				 errdetail("Records are being appended, and that maintains no index."),
				 errhint("By partition and offset records are found without one. A superuser can index single segments that are sealed, see the view topics.segment.")));
}

/* TRUNCATE of a topic, which PostgreSQL only says to be no table. */
static void
check_truncate(const TruncateStmt *statement)
{
	Oid			relid = find_table(statement->relations, is_topic_view);

	if (OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot truncate topic \"%s\"", get_rel_name(relid)),
				 errhint("Use topics.delete_records() for each partition, with -1 for the log end.")));
}

/* GRANT and REVOKE on topics, by name or on all tables of their schema */
static void
check_grant(const GrantStmt *statement)
{
	ListCell   *lc;

	if (statement->objtype != OBJECT_TABLE)
		return;
	foreach(lc, statement->objects)
	{
		Oid			relid;

		if (statement->targtype == ACL_TARGET_ALL_IN_SCHEMA)
		{
			if (strcmp(strVal(lfirst(lc)), TOPIC_SCHEMA) != 0)
				continue;
		}
		else
		{
			relid = look_up(lfirst_node(RangeVar, lc));
			if (!OidIsValid(relid) || !is_topic_view(relid))
				continue;
		}
		topics_cluster_require_leader(statement->is_grant ? "GRANT on a topic" : "REVOKE on a topic");
	}
}

/* Check a command before it is run. */
void
topics_protect_check(Node *statement)
{
	Oid			relid = InvalidOid;

	switch (nodeTag(statement))
	{
		case T_AlterTableStmt:
		case T_RenameStmt:
		case T_AlterObjectSchemaStmt:
		case T_DropStmt:
		case T_CreateStmt:
		case T_IndexStmt:
		case T_ViewStmt:
		case T_RuleStmt:
		case T_CreateTrigStmt:
		case T_TruncateStmt:
		case T_GrantStmt:
			break;
		default:
			return;
	}
	if (is_permitted())
		return;
	if (IsA(statement, AlterTableStmt))
		check_alter_table((AlterTableStmt *) statement);
	else if (IsA(statement, RenameStmt))
		check_rename((RenameStmt *) statement);
	else if (IsA(statement, AlterObjectSchemaStmt))
	{
		relid = look_up(((AlterObjectSchemaStmt *) statement)->relation);
		if (OidIsValid(relid) && is_own_table(relid))
			refuse_change(relid, "change the schema");
	}
	else if (IsA(statement, DropStmt))
	{
		if (((DropStmt *) statement)->removeType == OBJECT_TRIGGER)
			check_drop_trigger((DropStmt *) statement);
	}
	else if (IsA(statement, CreateTrigStmt))
		check_create_trigger((CreateTrigStmt *) statement);
	else if (IsA(statement, CreateStmt))
		check_create_table((CreateStmt *) statement);
	else if (IsA(statement, IndexStmt))
		check_index((IndexStmt *) statement);
	else if (IsA(statement, GrantStmt))
		check_grant((GrantStmt *) statement);
	else if (IsA(statement, TruncateStmt))
		check_truncate((TruncateStmt *) statement);
	else if (IsA(statement, ViewStmt))
	{
		relid = ((ViewStmt *) statement)->replace ? look_up(((ViewStmt *) statement)->view) : InvalidOid;
		if (OidIsValid(relid) && is_topic_view(relid))
			refuse_change(relid, "replace the view");
	}
	else
	{
		relid = look_up(((RuleStmt *) statement)->relation);
		if (OidIsValid(relid) && (is_topic_view(relid) || is_own_table(relid)))
			refuse_change(relid, "change the rules");
	}
}
