/*-------------------------------------------------------------------------
 *
 * role.c
 *		The four roles that have rights over all topics.
 *
 *	topics_reader		reads and consumes every topic
 *	topics_writer		produces to every topic
 *	topics_admin		is shown, and may use, every consumer group, and sees
 *						and repairs every topic
 *	topics_monitor		is shown what pg_monitor is shown
 *
 * Roles are of the whole cluster, and who may CREATE ROLE may give one any
 * name.  So a name alone means nothing: topics.create_roles() makes the roles,
 * or takes over what is there if it is told to, and records them in
 * topic_log.role.  One counts as long as its name, its OID and the cluster are
 * as recorded.  A role that was dropped and made again has another OID; rows
 * that came here by logical replication, or by pg_upgrade, are of another
 * cluster.  The rows are not dumped: OIDs mean nothing where a dump is
 * restored.
 *
 * The reader's and the writer's right to a topic is an ACL entry of its view,
 * given when the view is made (or, to the views that there are, when the role
 * is), because that is what PostgreSQL itself checks for SELECT, INSERT and
 * COPY.  It is like any other grant of the topic's owner, who may revoke it,
 * and costs nothing when it is checked.  The other two roles are looked up
 * where they matter.
 *
 * LOCKING.  Who makes a view holds ROW EXCLUSIVE on topic_log.role from before
 * it reads the table to the end of its transaction, and topics.create_roles()
 * SHARE ROW EXCLUSIVE: each topic is met by one of the two.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "base/base.h"
#include "log/log.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_create_roles);

/* Columns of topic_log.role */
enum
{
	Anum_role_name = 1,
	Anum_role_oid,
	Anum_role_system_identifier
};

/* What create_roles() gives to a role. */
typedef struct RoleFacts
{
	const char *name;
	const char *topic_right;	/* on the view of each topic, or NULL */
	const char *schemas;		/* that it may look into */
	const char *routines;		/* that it may call */
	bool		sees_views;		/* SELECT on the administration views */
} RoleFacts;

#define ALL_ROUTINES "ALL ROUTINES IN SCHEMA topics"

static const RoleFacts all_roles[] = {
	[TOPICS_READER] = {"topics_reader", "SELECT", "topics, topic", ALL_ROUTINES, true},
	[TOPICS_WRITER] = {"topics_writer", "INSERT", "topics, topic", ALL_ROUTINES, false},
	[TOPICS_ADMIN] = {"topics_admin", NULL, "topics, topic", ALL_ROUTINES, true},
	[TOPICS_MONITOR] = {"topics_monitor", NULL, "topics",
	"FUNCTION topics.describe_topic(text)", true},
};

/* ----------------------------------------------------------------
 *		Look up
 * ----------------------------------------------------------------
 */

/*
 * Find the table of roles, or InvalidOid in a database without the extension.
 */
static Oid
get_table(void)
{
	Oid			namespace = get_namespace_oid(TOPIC_LOG_SCHEMA, true);

	return OidIsValid(namespace) ? get_relname_relid("role", namespace) : InvalidOid;
}

/* Return true if a role is recorded with this OID, in this cluster. */
static bool
is_recorded(const char *name, Oid role)
{
	Oid			relid = get_table();
	Relation	rel = OidIsValid(relid) ? try_table_open(relid, AccessShareLock) : NULL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		result = false;

	if (rel == NULL)
		return false;
	ScanKeyInit(&key, Anum_role_name, BTEqualStrategyNumber, F_NAMEEQ, CStringGetDatum(name));
	scan = systable_beginscan(rel, get_relname_relid("role_pkey", RelationGetNamespace(rel)),
							  true, NULL, 1, &key);
	if (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		TupleDesc	desc = RelationGetDescr(rel);
		bool		isnull;

		result = role == DatumGetObjectId(heap_getattr(tuple, Anum_role_oid, desc, &isnull)) &&
			GetSystemIdentifier() == (uint64) DatumGetInt64(heap_getattr(tuple, Anum_role_system_identifier,
																		 desc, &isnull));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/* Get a role that counts, or InvalidOid. */
static Oid
get_role(TopicsRole role)
{
	Oid			oid = get_role_oid(all_roles[role].name, true);

	return OidIsValid(oid) && is_recorded(all_roles[role].name, oid) ? oid : InvalidOid;
}

/*
 * Return true if the current user has the rights of a role that counts.  What
 * PostgreSQL caches comes first, so only members of a role of this name pay for
 * the look into the table.
 */
bool
topics_role_is_held(TopicsRole role)
{
	Oid			oid = get_role_oid(all_roles[role].name, true);

	return OidIsValid(oid) && has_privs_of_role(GetUserId(), oid) &&
		is_recorded(all_roles[role].name, oid);
}

/* ----------------------------------------------------------------
 *		Give rights
 * ----------------------------------------------------------------
 */

/* Give a role its right to a topic. */
static void
grant_topic(const RoleFacts *facts, const char *topic)
{
	topics_statement_execute("GRANT %s ON %s TO %s", facts->topic_right,
							 quote_qualified_identifier(TOPIC_SCHEMA, topic), facts->name);
}

/*
 * Give the reader and the writer their rights to a topic whose view was just
 * made and still belongs to who acts, the extension's owner.  pg_topics' own
 * topics are nobody's to read.
 */
void
topics_role_grant_new_topic(const char *topic)
{
	if (topics_catalog_is_internal(topic))
		return;
	LockRelationOid(get_table(), RowExclusiveLock);
	for (int role = 0; role < (int) lengthof(all_roles); role++)
	{
		if (all_roles[role].topic_right && OidIsValid(get_role(role)))
			grant_topic(&all_roles[role], topic);
	}
}

/*
 * Give a role its right to all topics that there are.  On a node that follows
 * they have the leader's grants, also to this role when it is there.
 */
static void
grant_all_topics(const RoleFacts *facts)
{
	ListCell   *lc;

	if (topics_cluster_follows(METADATA_SET))
		return;
	foreach(lc, topics_catalog_list())
	{
		Oid			view = lfirst_oid(lc);
		char	   *topic;

		/* it is neither dropped nor renamed until the grant is committed */
		LockRelationOid(view, AccessShareLock);
		topic = get_rel_name(view);
		if (topic && !topics_catalog_is_internal(topic) &&
			get_rel_namespace(view) == get_namespace_oid(TOPIC_SCHEMA, false))
			grant_topic(facts, topic);
	}
}

/* Give a role what it needs to come to the topics, and to see them. */
static void
grant_access(const RoleFacts *facts)
{
	topics_statement_execute("GRANT USAGE ON SCHEMA %s TO %s", facts->schemas, facts->name);
	topics_statement_execute("GRANT EXECUTE ON %s TO %s", facts->routines, facts->name);
	if (facts->sees_views)
		topics_statement_execute("GRANT SELECT ON ALL TABLES IN SCHEMA topics TO %s", facts->name);
}

/* ----------------------------------------------------------------
 *		create_roles
 * ----------------------------------------------------------------
 */

static void
report_unknown_role(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_DUPLICATE_OBJECT),
			 errmsg("role \"%s\" already exists", name),
			 errdetail("It was not made by topics.create_roles() in this database and cluster, so it has no rights here by its name."),
			 errhint("If it and its members are to have these rights, call topics.create_roles(take_over => true). Otherwise drop or rename it.")));
}

/* Make a role, or take it over, and record it; or do nothing if it counts. */
static void
make_role(TopicsRole role, bool take_over)
{
	const RoleFacts *facts = &all_roles[role];
	Oid			oid = get_role_oid(facts->name, true);

	if (OidIsValid(oid) && is_recorded(facts->name, oid))
	{
		grant_access(facts);
		/* what owners have revoked */
		if (take_over && facts->topic_right)
			grant_all_topics(facts);
		return;
	}
	if (!OidIsValid(oid))
		topics_statement_execute("CREATE ROLE %s", facts->name);
	else if (!take_over)
		report_unknown_role(facts->name);
	topics_statement_execute("INSERT INTO topic_log.role VALUES ('%s', %u, " INT64_FORMAT ")"
							 " ON CONFLICT ON CONSTRAINT role_pkey DO UPDATE"
							 " SET role = excluded.role, system_identifier = excluded.system_identifier",
							 facts->name, get_role_oid(facts->name, false),
							 (int64) GetSystemIdentifier());
	grant_access(facts);
	if (facts->topic_right)
		grant_all_topics(facts);
}

/*
 * create_roles(take_over)
 *
 * It acts as the caller, who must be a superuser: who only may CREATE ROLE
 * could make itself a member of what it makes.
 */
Datum
topics_create_roles(PG_FUNCTION_ARGS)
{
	bool		take_over = !PG_ARGISNULL(0) && PG_GETARG_BOOL(0);
	StatementScope scope;

	topics_settings_require_preload();
	PreventCommandIfReadOnly("topics.create_roles()");
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to create the roles of pg_topics"),
				 errdetail("They have rights over all topics and consumer groups.")));
	scope = topics_statement_begin_as_caller();
	LockRelationOid(get_table(), ShareRowExclusiveLock);
	for (int role = 0; role < (int) lengthof(all_roles); role++)
		make_role(role, take_over);
	topics_statement_end(scope);
	PG_RETURN_VOID();
}
