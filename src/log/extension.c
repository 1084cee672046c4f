/*-------------------------------------------------------------------------
 *
 * extension.c
 *		The extension's own row: its owner and its version.
 *
 * Log tables belong to the extension's owner, and are made and changed by that
 * role.  The version must be the library's: a server that was not restarted
 * after an update has the old one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "log/log.h"
#include "pg_topics.h"

/* Read the extension's row.  Return false if this database does not have it. */
static bool
read_extension_row(Oid *owner, char **version)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("pg_topics"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		datum = heap_getattr(tuple, Anum_pg_extension_extversion,
										 RelationGetDescr(rel), &isnull);

		*version = TextDatumGetCString(datum);
		*owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return HeapTupleIsValid(tuple);
}

/* Return true if this database has the extension. */
bool
topics_extension_exists(void)
{
	Oid			owner;
	char	   *version;

	return read_extension_row(&owner, &version);
}

/*
 * Find the schema of log tables and catalogue, or InvalidOid in a database
 * without the extension.  There a schema of that name is anybody's, and so is
 * what is in it: hooks get here in every database.
 */
Oid
topics_extension_find_log_schema(void)
{
	Oid			namespace = get_namespace_oid(TOPIC_LOG_SCHEMA, true);

	return OidIsValid(namespace) && topics_extension_exists() ? namespace : InvalidOid;
}

/*
 * Become the extension's owner, restricted.  The caller becomes itself again
 * by topics_extension_become_caller; an error on the way does so by aborting.
 */
OwnerScope
topics_extension_become_owner(void)
{
	OwnerScope	scope;
	Oid			owner;
	char	   *version;

	if (!read_extension_row(&owner, &version))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"pg_topics\" does not exist"),
				 errhint("Run CREATE EXTENSION pg_topics.")));
	GetUserIdAndSecContext(&scope.userid, &scope.context);
	SetUserIdAndSecContext(owner, scope.context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	return scope;
}

/* Become the caller again, when the owner's work is done. */
void
topics_extension_become_caller(OwnerScope scope)
{
	SetUserIdAndSecContext(scope.userid, scope.context);
}

/* Return true if the extension's owner acts, between the two calls above. */
bool
topics_extension_is_acting(void)
{
	Oid			owner;
	char	   *version;
	Oid			userid;
	int			context;

	GetUserIdAndSecContext(&userid, &context);
	return (context & SECURITY_RESTRICTED_OPERATION) != 0 &&
		read_extension_row(&owner, &version) && userid == owner;
}

/* Require SQL objects of the library's version. */
void
topics_extension_check_version(void)
{
	Oid			owner;
	char	   *version;

	if (read_extension_row(&owner, &version) && strcmp(version, PG_TOPICS_VERSION) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_VERSION_MISMATCH),
				 errmsg("library and SQL objects of pg_topics have different versions"),
				 errdetail("The library is version %s, the extension in this database is version %s.",
						   PG_TOPICS_VERSION, version),
				 errhint("Restart the server after installing a new library, then run ALTER EXTENSION pg_topics UPDATE.")));
}
