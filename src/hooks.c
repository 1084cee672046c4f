/*-------------------------------------------------------------------------
 *
 * hooks.c
 *		What pg_topics has to know of commands that are not its own.
 *
 * A topic is a view, and PostgreSQL's commands on views apply to it:
 *
 *	ALTER VIEW .. OWNER, REASSIGN OWNED		change the topic's owner.  The new
 *		one needs SELECT on the log table, through which the view reads
 *	ALTER VIEW .. RENAME	renames the topic, by Kafka's rule for names
 *	ALTER VIEW .. SET SCHEMA	refused
 *	DROP VIEW, DROP OWNED	refused: a topic's log does not go by accident
 *
 * INSERT and COPY into it need its triggers, and are refused where they do not
 * fire; COPY FROM goes to copy.c, which does without them.  ALTER DOMAIN
 * locks the topics that it is about (domain.c).  Commands on databases need the
 * worker out of the way; CREATE EXTENSION has it started, and DROP EXTENSION
 * has it end.  What would break a topic is refused by protect.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parsetree.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "group/group.h"
#include "topic/topic.h"
#include "doors.h"
#include "pg_topics.h"

static object_access_hook_type previous_object_access = NULL;
static ProcessUtility_hook_type previous_utility = NULL;
static ExecutorStart_hook_type previous_executor_start = NULL;

/* A command is under way that drops the extension, and topics with it. */
static bool dropping_extension = false;

/*
 * Databases, or this one's extension, come or go with this transaction: the
 * launcher is to hear of it, of the extension the worker, too.
 */
static bool databases_changed = false;
static bool extension_changed = false;

/* Workers of all databases are to hear that a role was renamed. */
static bool role_renamed = false;

/* Something was changed, by whichever session, since these were reset. */
static bool heard_of_roles = false;
static bool heard_of_databases = false;

/* Databases whose workers are to come back at the end of this transaction. */
static List *given_way = NIL;

/* ----------------------------------------------------------------
 *		Topics as views
 * ----------------------------------------------------------------
 */

/* The topic of a view in schema "topic", or NULL for anything else. */
static Topic *
find_topic_of_view(Oid relid)
{
	Oid			namespace = get_namespace_oid(TOPIC_SCHEMA, true);

	if (!OidIsValid(namespace) || get_rel_namespace(relid) != namespace ||
		get_rel_relkind(relid) != RELKIND_VIEW)
		return NULL;
	return topics_catalog_get(relid, true);
}

/* Grant or revoke SELECT on a topic's root table. */
static void
grant_select(Topic *topic, Oid role, bool grant)
{
	GrantStmt  *stmt = makeNode(GrantStmt);
	AccessPriv *privilege = makeNode(AccessPriv);
	RoleSpec   *grantee = makeNode(RoleSpec);
	char	   *name = GetUserNameFromId(role, true);

	if (name == NULL)
		return;
	privilege->priv_name = "select";
	grantee->roletype = ROLESPEC_CSTRING;
	grantee->rolename = name;
	grantee->location = -1;
	stmt->is_grant = grant;
	stmt->targtype = ACL_TARGET_OBJECT;
	stmt->objtype = OBJECT_TABLE;
	stmt->objects = list_make1(makeRangeVar(TOPIC_LOG_SCHEMA, get_rel_name(topic->root_relid), -1));
	stmt->privileges = list_make1(privilege);
	stmt->grantees = list_make1(grantee);
	stmt->behavior = DROP_RESTRICT;
	ExecuteGrantStmt(stmt);
}

/* The new owner of the view, and nobody else, reads the log table. */
static void
follow_view_owner(Topic *topic, Oid old_owner, Oid new_owner)
{
	OwnerScope	scope;
	Oid			log_owner;

	scope = topics_extension_become_owner();
	log_owner = GetUserId();
	if (old_owner != log_owner)
		grant_select(topic, old_owner, false);
	if (old_owner != log_owner && new_owner != log_owner)
		CommandCounterIncrement();
	if (new_owner != log_owner)
		grant_select(topic, new_owner, true);
	topics_extension_become_caller(scope);
}

/* Read the owner before the change: what the syscache still says. */
static Oid
read_view_owner(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;

	ReleaseSysCache(tuple);
	return owner;
}

/* A topic's view was altered: the new row is there, not yet visible. */
static void
check_altered_view(Oid relid)
{
	Topic	   *topic = find_topic_of_view(relid);
	Relation	rel;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Form_pg_class new = NULL;
	Oid			old_owner;
	Oid			new_owner = InvalidOid;

	if (topic == NULL)
		return;
	old_owner = read_view_owner(relid);

	rel = table_open(RelationRelationId, AccessShareLock);
	ScanKeyInit(&key, Anum_pg_class_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(rel, ClassOidIndexId, true, SnapshotSelf, 1, &key);
	if (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		new = (Form_pg_class) GETSTRUCT(tuple);
		if (new->relnamespace != get_namespace_oid(TOPIC_SCHEMA, false))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot move topic \"%s\" out of schema \"%s\"",
							NameStr(topic->name), TOPIC_SCHEMA),
					 errdetail("All topics are in this schema, which names them."),
					 errhint("Put the schema into search_path, or create a view of the topic in another one.")));
		if (strcmp(NameStr(new->relname), NameStr(topic->name)) != 0)
			topics_topic_check_name(NameStr(new->relname));
		new_owner = new->relowner;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);

	topics_topic_changes_note_description();
	if (OidIsValid(new_owner) && new_owner != old_owner)
		follow_view_owner(topic, old_owner, new_owner);
}

/* A view is dropped: raise if it is a topic and no command of ours does it. */
static void
refuse_dropped_view(Oid relid)
{
	Topic	   *topic;

	if (dropping_extension || topics_topic_is_being_dropped(relid))
		return;
	topic = find_topic_of_view(relid);
	if (topic)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop view %s because it is a topic",
						quote_qualified_identifier(TOPIC_SCHEMA, NameStr(topic->name))),
				 errhint("Use topics.drop_topic() to drop the topic and its log.")));
}

/*
 * An extension is dropped, by whatever command: if it is ours, its topics go
 * with it, and the worker.
 */
static void
note_dropped_extension(Oid extension)
{
	if (extension != get_extension_oid("pg_topics", true))
		return;
	topics_topic_changes_note_extension();
	extension_changed = true;
}

/*
 * An extension is created, by whatever command, maybe since another one
 * requires it: if it is ours, the worker comes.  Its row is not yet visible.
 */
static void
note_created_extension(Oid extension)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(extension));
	scan = systable_beginscan(rel, ExtensionOidIndexId, true, SnapshotSelf, 1, &key);
	if (HeapTupleIsValid(tuple = systable_getnext(scan)) &&
		strcmp(NameStr(((Form_pg_extension) GETSTRUCT(tuple))->extname), "pg_topics") == 0)
		extension_changed = true;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

/* object_access_hook */
static void
watch_object_access(ObjectAccessType access, Oid classid, Oid objectid, int subid, void *arg)
{
	if (previous_object_access)
		previous_object_access(access, classid, objectid, subid, arg);
	if (access == OAT_DROP && classid == ExtensionRelationId)
		note_dropped_extension(objectid);
	if (access == OAT_POST_CREATE && classid == ExtensionRelationId)
		note_created_extension(objectid);
	if (classid != RelationRelationId || subid != 0)
		return;
	if (access == OAT_POST_ALTER)
		check_altered_view(objectid);
	else if (access == OAT_DROP)
	{
		topics_protect_from_drop(objectid);
		refuse_dropped_view(objectid);
	}
	else if (access == OAT_TRUNCATE)
		topics_protect_from_truncate(objectid);
}

/*
 * With session_replication_role = replica a view's triggers do not fire, and
 * PostgreSQL reports rows as inserted that went nowhere.  (ENABLE ALWAYS is
 * for tables only: a dump of such a view could not be restored.)
 */
static void
refuse_without_triggers(Oid relid)
{
	Topic	   *topic;

	if (SessionReplicationRole != SESSION_REPLICATION_ROLE_REPLICA || !OidIsValid(relid))
		return;
	topic = find_topic_of_view(relid);
	if (topic)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot write to topic \"%s\" while \"session_replication_role\" is \"replica\"",
						NameStr(topic->name)),
				 errdetail("The triggers of the topic's view do not fire, so records would be lost."),
				 errhint("Use topics.produce(), or set session_replication_role to \"origin\".")));
}

/* ExecutorStart_hook */
static void
watch_executor_start(QueryDesc *query, int eflags)
{
	if (SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA &&
		!(eflags & EXEC_FLAG_EXPLAIN_ONLY))
	{
		Bitmapset  *targets = topics_result_relations(query->plannedstmt);
		int			i = -1;

		while ((i = bms_next_member(targets, i)) >= 0)
			refuse_without_triggers(rt_fetch(i, query->plannedstmt->rtable)->relid);
	}
	if (previous_executor_start)
		previous_executor_start(query, eflags);
	else
		standard_ExecutorStart(query, eflags);
}

/* ----------------------------------------------------------------
 *		Databases and the extension
 * ----------------------------------------------------------------
 */

/* The database that a command needs for itself, or InvalidOid. */
static Oid
find_wanted_database(Node *statement)
{
	const char *name = NULL;
	ListCell   *lc;

	if (IsA(statement, DropdbStmt))
		name = ((DropdbStmt *) statement)->dbname;
	else if (IsA(statement, RenameStmt) &&
			 ((RenameStmt *) statement)->renameType == OBJECT_DATABASE)
		name = ((RenameStmt *) statement)->subname;
	else if (IsA(statement, AlterDatabaseStmt))
	{
		foreach(lc, ((AlterDatabaseStmt *) statement)->options)
		{
			if (strcmp(((DefElem *) lfirst(lc))->defname, "tablespace") == 0)
				name = ((AlterDatabaseStmt *) statement)->dbname;
		}
	}
	else if (IsA(statement, CreatedbStmt))
	{
		foreach(lc, ((CreatedbStmt *) statement)->options)
		{
			DefElem    *option = lfirst(lc);

			if (strcmp(option->defname, "template") == 0 && option->arg)
				name = defGetString(option);
		}
	}
	return name ? get_database_oid(name, true) : InvalidOid;
}

/*
 * Keep a database's worker away until this transaction ends.  The note is made
 * first: a worker that was not told to go loses nothing by being told to come
 * back.
 */
static void
claim_database(Oid database)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	given_way = lappend_oid(given_way, database);
	MemoryContextSwitchTo(old);
	if (!topics_worker_registry_give_way(database))
		given_way = list_delete_last(given_way);
}

/* Let the workers of those databases come back. */
static void
give_databases_back(void)
{
	ListCell   *lc;

	foreach(lc, given_way)
		topics_worker_registry_come_back(lfirst_oid(lc));
	list_free(given_way);
	given_way = NIL;
}

/*
 * Return true if the user may run the command at all.  Otherwise the worker
 * stays.
 */
static bool
may_claim_database(Oid database)
{
	return OidIsValid(database) && object_ownercheck(DatabaseRelationId, database, GetUserId());
}

/* Return true for CREATE EXTENSION pg_topics and, with *drop, for its DROP. */
static bool
is_extension_command(Node *statement, bool *drop)
{
	ListCell   *lc;

	*drop = false;
	if (IsA(statement, DropStmt) && ((DropStmt *) statement)->removeType == OBJECT_EXTENSION)
		foreach(lc, ((DropStmt *) statement)->objects)
	{
		if (strcmp(strVal(lfirst(lc)), "pg_topics") == 0)
			*drop = true;
	}
	return *drop ||
		(IsA(statement, CreateExtensionStmt) &&
		 strcmp(((CreateExtensionStmt *) statement)->extname, "pg_topics") == 0);
}

static bool
is_commit_prepared(Node *statement)
{
	return IsA(statement, TransactionStmt) &&
		((TransactionStmt *) statement)->kind == TRANS_STMT_COMMIT_PREPARED;
}

/* CacheRegisterSyscacheCallback */
static void
hear_of_change(Datum arg, int cacheid, uint32 hash_value)
{
	if (cacheid == AUTHOID)
		heard_of_roles = true;
	else
		heard_of_databases = true;
}

/*
 * COMMIT PREPARED is about to be run.  What its transaction did another session
 * knew; of roles and databases its invalidations tell.
 */
static void
begin_commit_prepared(void)
{
	static bool registered = false;

	if (!registered)
	{
		CacheRegisterSyscacheCallback(AUTHOID, hear_of_change, (Datum) 0);
		CacheRegisterSyscacheCallback(DATABASEOID, hear_of_change, (Datum) 0);
		registered = true;
	}
	AcceptInvalidationMessages();
	heard_of_roles = heard_of_databases = false;
}

/* It was run: topics.alter_topic, too, is what there may have been. */
static void
end_commit_prepared(void)
{
	WorkerSlot	slot;

	AcceptInvalidationMessages();
	role_renamed |= heard_of_roles;
	databases_changed |= heard_of_databases;
	if (topics_worker_registry_read(MyDatabaseId, &slot) && slot.has_extension)
		topics_topic_changes_settings_committed();
}

static bool
is_role_renamed(Node *statement)
{
	return IsA(statement, RenameStmt) && ((RenameStmt *) statement)->renameType == OBJECT_ROLE;
}

/*
 * Error context of DROP EXTENSION, which locks all tables of all topics at
 * once: where there is no room for these locks, PostgreSQL's hint is to make
 * more.
 */
static void
hint_at_large_topics(void *arg)
{
	if (geterrcode() == ERRCODE_OUT_OF_MEMORY)
		errhint("Drop large topics before, each with topics.drop_topic(), which takes few locks at a time. Otherwise increase max_locks_per_transaction.");
}

/* ProcessUtility_hook */
static void
watch_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree, ProcessUtilityContext context,
			  ParamListInfo params, QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *statement = pstmt->utilityStmt;
	Oid			database = find_wanted_database(statement);
	bool		drop;
	bool		extension = is_extension_command(statement, &drop);
	bool		was_dropping = dropping_extension;
	ErrorContextCallback callback = {error_context_stack, hint_at_large_topics, NULL};
	bool		databases_change = OidIsValid(database) || IsA(statement, CreatedbStmt) ||
		IsA(statement, AlterDatabaseStmt);

	topics_protect_check(statement);
	if (may_claim_database(database))
		claim_database(database);
	if (SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA &&
		IsA(statement, CopyStmt) && ((CopyStmt *) statement)->is_from)
		refuse_without_triggers(RangeVarGetRelid(((CopyStmt *) statement)->relation, NoLock, true));
	if (IsA(statement, AlterDomainStmt))
		topics_domain_lock_topics((AlterDomainStmt *) statement);
	if (is_commit_prepared(statement))
		begin_commit_prepared();
	dropping_extension = was_dropping || drop;
	if (drop)
		error_context_stack = &callback;
	PG_TRY();
	{
		if (previous_utility)
			previous_utility(pstmt, query, read_only_tree, context, params, env, dest, qc);
		else if (!IsA(statement, CopyStmt) || !topics_copy_from(pstmt, query, env, qc))
			standard_ProcessUtility(pstmt, query, read_only_tree, context, params, env, dest, qc);
	}
	PG_FINALLY();
	{
		dropping_extension = was_dropping;
	}
	PG_END_TRY();
	error_context_stack = callback.previous;

	databases_changed |= databases_change;
	extension_changed |= extension;
	if (is_commit_prepared(statement))
		end_commit_prepared();
	if (is_role_renamed(statement))
		role_renamed = true;
	if (IsA(statement, GrantStmt) || IsA(statement, DropOwnedStmt))
		topics_topic_changes_note_description();
}

/* Return true if a command is under way that drops the extension. */
bool
topics_hooks_is_dropping_extension(void)
{
	return dropping_extension;
}

/*
 * XactCallback: do what is to be done when the commands' transaction ends.
 * Raises nothing.
 */
static void
finish_watched_commands(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT && databases_changed)
		topics_worker_registry_wake_launcher();
	if (event == XACT_EVENT_COMMIT && extension_changed)
	{
		topics_worker_registry_note_extension();
		topics_worker_registry_wake_worker();
	}
	if (event == XACT_EVENT_COMMIT && role_renamed)
		topics_worker_registry_note_roles();
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
	{
		give_databases_back();
		databases_changed = extension_changed = role_renamed = false;
	}
}

void
topics_hooks_init(void)
{
	previous_object_access = object_access_hook;
	object_access_hook = watch_object_access;
	previous_utility = ProcessUtility_hook;
	ProcessUtility_hook = watch_utility;
	previous_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = watch_executor_start;
	RegisterXactCallback(finish_watched_commands, NULL);
}
