/*-------------------------------------------------------------------------
 *
 * domain.c
 *		Domains as types of topics, and the one who adds a constraint to one.
 *
 * ALTER DOMAIN looks for the tables that have columns of the domain, locks them
 * SHARE one after the other, and reads them.  For a topic that is too little:
 *
 *	- A segment that is attached after it has looked is neither locked nor read.
 *	- It locks the segments first and the topic's view later, while an INSERT
 *	  has the view first, and the segments at its commit: a deadlock.
 *	- From PostgreSQL 18 on, VALIDATE CONSTRAINT locks SHARE UPDATE EXCLUSIVE,
 *	  which a commit does not meet.
 *
 * So before ALTER DOMAIN begins, the views and the partitions' tables of the
 * topics are locked SHARE, until the transaction ends.  The view keeps INSERT
 * and COPY out; a partition's table keeps out commits, and attaching of
 * segments.  Partitions' tables are locked by topic and number, as a commit
 * does (append.c), so the two do not meet in a deadlock.
 *
 * The head of recheck.c says what that is for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_type.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "log/log.h"

/* Forms of ALTER DOMAIN: AlterDomainStmt's subtype */
#define ALTER_DOMAIN_SET_NOT_NULL 'O'
#define ALTER_DOMAIN_ADD_CONSTRAINT 'C'
#define ALTER_DOMAIN_VALIDATE_CONSTRAINT 'V'

/*
 * Look up the type that a domain is made of, maybe a domain itself.  With
 * not_null, say whether the domain was declared NOT NULL.
 */
Oid
topics_domain_below(Oid domain, bool *not_null)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(domain));
	Form_pg_type form;
	Oid			below;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", domain);
	form = (Form_pg_type) GETSTRUCT(tuple);
	below = form->typbasetype;
	if (not_null)
		*not_null = form->typnotnull;
	ReleaseSysCache(tuple);
	return below;
}

/* Return true if a column's type is this domain, or one above it. */
static bool
column_is_of_domain(const TopicColumn *column, Oid domain)
{
	for (Oid type = column->type; type != column->base_type; type = topics_domain_below(type, NULL))
		if (type == domain)
			return true;
	return false;
}

/* Return true if a command reads the values of a domain, and refuses some. */
static bool
command_reads_values(const AlterDomainStmt *stmt)
{
	switch ((char) stmt->subtype)
	{
		case ALTER_DOMAIN_SET_NOT_NULL:
		case ALTER_DOMAIN_VALIDATE_CONSTRAINT:
			return true;
		case ALTER_DOMAIN_ADD_CONSTRAINT:
			return !castNode(Constraint, stmt->def)->skip_validation;
		default:
			return false;
	}
}

/* Find the domain that a command may alter, or InvalidOid. */
static Oid
find_domain(const AlterDomainStmt *stmt)
{
	Oid			domain = LookupTypeNameOid(NULL, makeTypeNameFromNameList(stmt->typeName), true);

	if (OidIsValid(domain) && object_ownercheck(TypeRelationId, domain, GetUserId()))
		return domain;
	return InvalidOid;
}

static int
compare_topics(const ListCell *a, const ListCell *b)
{
	int64		ia = ((const Topic *) lfirst(a))->topic_id;
	int64		ib = ((const Topic *) lfirst(b))->topic_id;

	return ia < ib ? -1 : ia > ib;
}

/* List the topics with a column of a domain, by their ids. */
static List *
list_topics_of_domain(Oid domain)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, topics_catalog_list())
	{
		Topic	   *topic = topics_catalog_get(lfirst_oid(lc), true);

		if (topic && (column_is_of_domain(&topic->key, domain) ||
					  column_is_of_domain(&topic->value, domain)))
			result = lappend(result, topic);
	}
	list_sort(result, compare_topics);
	return result;
}

/* Lock the partitions' tables of a topic, unless it is dropped meanwhile. */
static void
lock_partitions(Topic *topic)
{
	topic = topics_catalog_get(topic->view_relid, true);
	for (int32 number = 0; topic && number < topic->partitions; number++)
	{
		Partition	partition = {.topic = topic,.number = number};

		CHECK_FOR_INTERRUPTS();
		if (topics_catalog_try_open_partition(&partition, ShareLock))
			topics_catalog_close_partition(&partition, NoLock);
	}
}

/*
 * ALTER DOMAIN is about to be run: keep producers out of the topics that it is
 * about, until the transaction ends.
 */
void
topics_domain_lock_topics(const AlterDomainStmt *stmt)
{
	Oid			domain;
	List	   *topics;
	ListCell   *lc;

	if (XactReadOnly || !command_reads_values(stmt) || !topics_extension_exists() ||
		!OidIsValid(domain = find_domain(stmt)))
		return;

	topics = list_topics_of_domain(domain);
	foreach(lc, topics)
		LockRelationOid(((Topic *) lfirst(lc))->view_relid, ShareLock);
	foreach(lc, topics)
		lock_partitions(lfirst(lc));
}
