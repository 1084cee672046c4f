/*-------------------------------------------------------------------------
 *
 * extension.c
 *		The extension's own row: who owns it, and of which version it is.
 *
 * Log tables belong to the owner, and are made and changed in his name.  The
 * version must be the library's: a server that was not restarted after an
 * update has the old one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_extension.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "pg_topics.h"

/* False if the extension is not in this database. */
static bool
read_row(Oid *owner, char **version)
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

/* Is the extension there, in this database? */
bool
topics_extension_exists(void)
{
	Oid			owner;
	char	   *version;

	return read_row(&owner, &version);
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

	if (!read_row(&owner, &version))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"pg_topics\" does not exist"),
				 errhint("Run CREATE EXTENSION pg_topics.")));
	GetUserIdAndSecContext(&scope.userid, &scope.context);
	SetUserIdAndSecContext(owner, scope.context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	return scope;
}

/* The owner's work is done. */
void
topics_extension_become_caller(OwnerScope scope)
{
	SetUserIdAndSecContext(scope.userid, scope.context);
}

/* The SQL objects must be of the library's version. */
void
topics_extension_check_version(void)
{
	Oid			owner;
	char	   *version;

	if (read_row(&owner, &version) && strcmp(version, PG_TOPICS_VERSION) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_VERSION_MISMATCH),
				 errmsg("library and SQL objects of pg_topics have different versions"),
				 errdetail("The library is version %s, the extension in this database is version %s.",
						   PG_TOPICS_VERSION, version),
				 errhint("Restart the server after installing a new library, then run ALTER EXTENSION pg_topics UPDATE.")));
}
