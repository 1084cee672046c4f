/*-------------------------------------------------------------------------
 *
 * seal.c
 *		Freeze and index a segment that is full.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "commands/vacuum.h"
#include "nodes/makefuncs.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"

#include "compat.h"
#include "pg_topics.h"

static void
freeze_table(Oid relid)
{
	Relation	rel = table_open(relid, ShareUpdateExclusiveLock);
	VacuumParams params = {0};

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
	table_relation_vacuum(rel, &params, GetAccessStrategy(BAS_VACUUM));
	table_close(rel, NoLock);
}

/*
 * Freeze a full segment, in the caller's transaction: what every snapshot
 * sees, and nobody has pinned.  Replay cancels queries on standbys whose
 * snapshots do not see what was frozen.
 */
void
topics_segment_freeze(Oid segment_relid)
{
	Relation	rel = table_open(segment_relid, ShareUpdateExclusiveLock);
	Oid			toast_relid = rel->rd_rel->reltoastrelid;
	OwnerScope	scope;

	table_close(rel, NoLock);
	scope = topics_extension_become_owner();
	freeze_table(segment_relid);
	if (OidIsValid(toast_relid))
		freeze_table(toast_relid);
	topics_extension_become_caller(scope);
}

/*
 * Freeze a full segment and give it its BRIN index, in the caller's
 * transaction.  Nothing is done to one that has an index already, or no
 * rows: a restore may fill it yet.  A
 * snapshot somewhere that is older than some rows leaves those unfrozen, for
 * autovacuum to come back to.
 */
void
topics_segment_seal(Oid segment_relid)
{
	OwnerScope	scope;
	IndexStmt  *stmt;
	IndexElem  *column;
	Relation	rel = table_open(segment_relid, ShareUpdateExclusiveLock);
	bool		sealed = topics_log_am_has_index(rel) || !topics_log_am_is_log(rel) ||
		RelationGetNumberOfBlocks(rel) == 0;
	char	   *name = pstrdup(RelationGetRelationName(rel));

	table_close(rel, NoLock);
	if (sealed)
		return;

	topics_segment_freeze(segment_relid);
	TEST_POINT("seal-frozen");
	scope = topics_extension_become_owner();

	stmt = makeNode(IndexStmt);
	/* a restore that we run beside is going to make the one of the dump */
	stmt->idxname = psprintf("brin_%u", segment_relid);
	stmt->relation = makeRangeVar(TOPIC_LOG_SCHEMA, name, -1);
	stmt->accessMethod = "brin";
	column = makeNode(IndexElem);
	column->name = "offset";
	stmt->indexParams = list_make1(column);
	column = makeNode(IndexElem);
	column->name = "timestamp";
	stmt->indexParams = lappend(stmt->indexParams, column);
	topics_define_index(segment_relid, stmt);
	TEST_POINT("seal-indexed");
	topics_extension_become_caller(scope);
	CommandCounterIncrement();
}
