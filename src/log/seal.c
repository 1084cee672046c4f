/*-------------------------------------------------------------------------
 *
 * seal.c
 *		Freeze and index a segment that is full.
 *
 * A full segment gets no row any more.  Its rows are frozen once, so that
 * VACUUM need not come back to it, and it gets the one index that a log table
 * has: BRIN, which is small, and fits since both columns ascend with the place.
 * Both is done as the owner of the extension, under SHARE UPDATE EXCLUSIVE.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "commands/vacuum.h"
#include "nodes/makefuncs.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/rel.h"

#include "base/compat.h"
#include "log/log.h"
#include "pg_topics.h"

/* VACUUM (FREEZE) of a table that we have locked, in our transaction. */
static void
freeze_table(Relation rel)
{
	VacuumParams params = {0};
	OwnerScope	scope;

	params.options = VACOPT_VACUUM | VACOPT_FREEZE;
	params.index_cleanup = VACOPTVALUE_ENABLED;
	params.truncate = VACOPTVALUE_DISABLED;
	params.freeze_min_age = 0;
	params.freeze_table_age = -1;	/* not aggressive: pages that a cursor has
									 * pinned are not waited for */
	params.multixact_freeze_min_age = 0;
	params.multixact_freeze_table_age = -1;
	params.log_min_duration = -1;
	params.nworkers = -1;
	scope = topics_extension_become_owner();
	table_relation_vacuum(rel, &params, GetAccessStrategy(BAS_VACUUM));
	topics_extension_become_caller(scope);
}

/*
 * Freeze of a full segment, in the caller's transaction, the rows that every
 * snapshot sees, on pages that no process has pinned.  Replay cancels queries
 * on standbys whose snapshots do not see what was frozen.
 */
void
topics_seal_freeze(Oid segment_relid)
{
	Relation	rel = table_open(segment_relid, ShareUpdateExclusiveLock);
	Oid			toast_relid = rel->rd_rel->reltoastrelid;

	freeze_table(rel);
	table_close(rel, NoLock);
	if (OidIsValid(toast_relid))
	{
		rel = table_open(toast_relid, ShareUpdateExclusiveLock);
		freeze_table(rel);
		table_close(rel, NoLock);
	}
}

/*
 * Remove from a table of the catalogue, in the caller's transaction, what no
 * snapshot sees.  Replay cancels queries on standbys that see it.  Return false
 * if another process is at it.
 */
bool
topics_seal_clean_catalog(Oid relid)
{
	Relation	rel;

	if (!ConditionalLockRelationOid(relid, ShareUpdateExclusiveLock))
		return false;
	rel = table_open(relid, NoLock);
	freeze_table(rel);
	table_close(rel, ShareUpdateExclusiveLock);
	return true;
}

static IndexElem *
make_index_column(char *name)
{
	IndexElem  *column = makeNode(IndexElem);

	column->name = name;
	return column;
}

/* CREATE INDEX on the table's offset and timestamp, BRIN. */
static void
make_index(Oid relid, char *name)
{
	IndexStmt  *stmt = makeNode(IndexStmt);

	/*
	 * A dump brings the names that its indexes had in another cluster, where
	 * other tables had these OIDs, before or after we get here.
	 */
	stmt->idxname = psprintf("brin_%u_%llx", relid,
							 (unsigned long long) GetSystemIdentifier());
	stmt->relation = makeRangeVar(TOPIC_LOG_SCHEMA, name, -1);
	stmt->accessMethod = "brin";
	stmt->indexParams = list_make2(make_index_column("offset"), make_index_column("timestamp"));
	topics_define_index(relid, stmt);
}

/*
 * Freeze a full segment and give it its BRIN index, in the caller's
 * transaction.  A segment that has an index already is left alone, and so is
 * one without rows, which a restore may still fill.  Rows that are newer than
 * some snapshot stay unfrozen, for autovacuum to come back to.
 */
void
topics_seal_segment(Oid segment_relid)
{
	Relation	rel = table_open(segment_relid, ShareUpdateExclusiveLock);
	bool		leave_alone = topics_log_index_exists(rel) || !topics_log_am_is_log(rel) ||
		RelationGetNumberOfBlocks(rel) == 0;
	char	   *name = pstrdup(RelationGetRelationName(rel));
	OwnerScope	scope;

	table_close(rel, NoLock);
	if (leave_alone)
		return;

	topics_seal_freeze(segment_relid);
	TEST_POINT("seal-frozen");
	scope = topics_extension_become_owner();
	make_index(segment_relid, name);
	TEST_POINT("seal-indexed");
	topics_extension_become_caller(scope);
	CommandCounterIncrement();
}
