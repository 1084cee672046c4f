/*-------------------------------------------------------------------------
 *
 * segment.c
 *		The segments of a partition: find them, make them, set their bounds.
 *
 * A partition is a table partitioned by ranges of "offset"; each leaf is a
 * segment, a table of its own under the access method topic_log.  The bounds
 * are PostgreSQL's own, so they prune queries and need no catalogue of ours.
 * The active segment is the one that next_offset falls into; those
 * above it are spares; those below are sealed: full, frozen, indexed.
 *
 * A segment's upper bound is a guess when the segment is made, since a
 * partition bound counts offsets and segment_bytes counts bytes.  A guess that
 * proves too high, a segment that grows old and an active segment that must be
 * frozen all end in the same operation, the cut: the active segment's upper
 * bound comes down to next_offset, and the next segment begins there (cut.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/toasting.h"
#include "commands/event_trigger.h"
#include "commands/tablecmds.h"
#include "commands/tablespace.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_utilcmd.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "pg_topics.h"

/* ----------------------------------------------------------------
 *		Finding
 * ----------------------------------------------------------------
 */

/*
 * Get the segment below the bound "i"; return false if there is none.
 * PostgreSQL keeps the bounds of a partition's segments as ascending datums;
 * where indexes[i] is not -1, oids[indexes[i]] holds the offsets from
 * datums[i - 1] to datums[i] - 1.
 */
static inline bool
get_bound_segment(PartitionDesc desc, int i, Segment *segment)
{
	PartitionBoundInfo bounds = desc->boundinfo;

	if (i < 1 || i >= bounds->ndatums || bounds->indexes[i] < 0)
		return false;
	segment->relid = desc->oids[bounds->indexes[i]];
	segment->base_offset = DatumGetInt64(bounds->datums[i - 1][0]);
	segment->end_offset = DatumGetInt64(bounds->datums[i][0]);
	return true;
}

/* Return the index of the first bound above "offset", maybe ndatums. */
static int
find_bound_above(PartitionDesc desc, int64 offset)
{
	int			low = 0;
	int			high = desc->nparts > 0 ? desc->boundinfo->ndatums : 0;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (DatumGetInt64(desc->boundinfo->datums[middle][0]) > offset)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

/*
 * Get the descriptor of a table that is open.  One that is built here is
 * current when the build has ended, and not made from two ages: all messages of
 * commits that the build may have seen are absorbed then, and had none for the
 * table.  debug_discard_caches, of servers with assertions, forgets all tables
 * at each chance: like the relcache, do not begin again for that.
 */
static PartitionDesc
get_descriptor(Relation rel)
{
	for (;;)
	{
		bool		known = topics_segment_learn_table(RelationGetRelid(rel));
		bool		built = known && (rel->rd_partdesc || rel->rd_partdesc_nodetached);
		PartitionDesc desc = RelationGetPartitionDesc(rel, true);

		if (built)
			return desc;
		TEST_POINT("descriptor-built");
		AcceptInvalidationMessages();
		if (topics_segment_is_known(RelationGetRelid(rel)) || debug_discard_caches > 0)
			return desc;
		CHECK_FOR_INTERRUPTS();
	}
}

/* Find the segment for an offset.  Return false if there is none. */
bool
topics_segment_find(Relation partition_rel, int64 offset, Segment *segment)
{
	PartitionDesc desc = get_descriptor(partition_rel);

	return desc->nparts > 0 && get_bound_segment(desc, find_bound_above(desc, offset), segment);
}

/* Find the segment for an offset, or the next one above it. */
bool
topics_segment_find_next(Relation partition_rel, int64 offset, Segment *segment)
{
	PartitionDesc desc = get_descriptor(partition_rel);

	if (desc->nparts == 0)
		return false;
	for (int i = find_bound_above(desc, offset); i < desc->boundinfo->ndatums; i++)
		if (get_bound_segment(desc, i, segment))
			return true;
	return false;
}

/* Find the highest segment. */
bool
topics_segment_last(Relation partition_rel, Segment *segment)
{
	PartitionDesc desc = get_descriptor(partition_rel);

	if (desc->nparts == 0)
		return false;
	for (int i = desc->boundinfo->ndatums - 1; i > 0; i--)
		if (get_bound_segment(desc, i, segment))
			return true;
	return false;
}

/* List all segments, lowest first, palloc'd. */
Segment *
topics_segment_list(Relation partition_rel, int *count)
{
	PartitionDesc desc = get_descriptor(partition_rel);
	Segment    *result = palloc(sizeof(Segment) * Max(desc->nparts, 1));

	*count = 0;
	for (int i = 1; desc->nparts > 0 && i < desc->boundinfo->ndatums; i++)
		if (get_bound_segment(desc, i, &result[*count]))
			(*count)++;
	Assert(*count == desc->nparts);
	return result;
}

/*
 * The log end at which a segment is half full: then the next one is to be
 * made.
 */
int64
topics_segment_half(int64 base_offset, int64 end_offset)
{
	return base_offset + (end_offset - base_offset) / 2;
}

/* Return true if one segment has all offsets from first to last. */
bool
topics_segment_fits(Relation partition_rel, int64 first, int64 last)
{
	Segment		segment;

	return topics_segment_find(partition_rel, first, &segment) && last < segment.end_offset;
}

/* Return true if every offset from first to last has a segment. */
bool
topics_segment_covers(Relation partition_rel, int64 first, int64 last)
{
	Segment		segment;

	while (topics_segment_find(partition_rel, first, &segment))
	{
		if (segment.end_offset > last)
			return true;
		first = segment.end_offset;
	}
	return false;
}

/* ----------------------------------------------------------------
 *		Making tables, as the owner of the extension
 * ----------------------------------------------------------------
 */

/* CREATE TABLE "name" with the columns of the partition, still on its own. */
static Oid
create_table(Relation partition_rel, char *name)
{
	TupleDesc	desc = RelationGetDescr(partition_rel);
	CreateStmt *stmt = makeNode(CreateStmt);
	ListCell   *lc;
	Oid			relid = InvalidOid;

	stmt->relation = makeRangeVar(TOPIC_LOG_SCHEMA, name, -1);
	stmt->accessMethod = TOPIC_LOG_AM;
	stmt->oncommit = ONCOMMIT_NOOP;
	stmt->tablespacename = get_tablespace_name(OidIsValid(partition_rel->rd_rel->reltablespace) ?
											   partition_rel->rd_rel->reltablespace :
											   MyDatabaseTableSpace);
	/* the active segment is not vacuumed, a sealed one was by seal.c */
	stmt->options = list_make1(makeDefElem("autovacuum_vacuum_insert_threshold",
										   (Node *) makeInteger(-1), -1));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		ColumnDef  *column = makeColumnDef(NameStr(att->attname), att->atttypid,
										   att->atttypmod, att->attcollation);

		if (att->attnotnull)
			column->constraints = list_make1(topics_not_null_constraint());
		stmt->tableElts = lappend(stmt->tableElts, column);
	}

	foreach(lc, transformCreateStmt(stmt, "pg_topics segment"))
	{
		CreateStmt *create = lfirst(lc);

		if (!IsA(create, CreateStmt))
			elog(ERROR, "unexpected statement for a segment: %d", (int) nodeTag(create));
		relid = DefineRelation(create, RELKIND_RELATION, InvalidOid, NULL,
							   "pg_topics segment").objectId;
		CommandCounterIncrement();
	}
	NewRelationCreateToastTable(relid, (Datum) 0);
	CommandCounterIncrement();
	return relid;
}

static Node *
make_offset_literal(int64 offset)
{
	A_Const    *literal = makeNode(A_Const);

	literal->val.fval.type = T_Float;
	literal->val.fval.fval = psprintf(INT64_FORMAT, offset);
	literal->location = -1;
	return (Node *) literal;
}

/* ALTER TABLE, of which event triggers do not hear. */
static void
alter_table(Oid relid, List *cmds)
{
	AlterTableStmt *stmt = makeNode(AlterTableStmt);
	AlterTableUtilityContext context = {0};

	stmt->relation = makeRangeVar(TOPIC_LOG_SCHEMA, get_rel_name(relid), -1);
	stmt->cmds = cmds;
	stmt->objtype = OBJECT_TABLE;
	context.pstmt = makeNode(PlannedStmt);
	context.pstmt->commandType = CMD_UTILITY;
	context.pstmt->utilityStmt = (Node *) stmt;
	context.queryString = "pg_topics segment";
	context.relid = relid;

	EventTriggerInhibitCommandCollection();
	PG_TRY();
	{
		AlterTable(stmt, ShareUpdateExclusiveLock, &context);
	}
	PG_FINALLY();
	{
		EventTriggerUndoInhibitCommandCollection();
	}
	PG_END_TRY();
	CommandCounterIncrement();
}

/*
 * Keep ANALYZE away from key and value if their types are not PostgreSQL's own.
 * ANALYZE runs as the table's owner, a superuser, and would call functions of
 * such a type, say a range's subtype_diff, that the type's creator can write.
 */
void
topics_segment_protect_from_analyze(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	List	   *cmds = NIL;

	for (int i = Anum_log_key - 1; i < Anum_log_value; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);
		AlterTableCmd *cmd;

		if (att->atttypid < FirstNormalObjectId)
			continue;
		cmd = makeNode(AlterTableCmd);
		cmd->subtype = AT_SetStatistics;
		cmd->name = pstrdup(NameStr(att->attname));
		cmd->def = (Node *) makeInteger(0);
		cmds = lappend(cmds, cmd);
	}
	table_close(rel, NoLock);
	if (cmds != NIL)
	{
		LockRelationOid(relid, ShareUpdateExclusiveLock);
		alter_table(relid, cmds);
	}
}

/* ALTER TABLE partition ATTACH PARTITION name FOR VALUES FROM base TO end */
static void
attach_table(Oid partition_relid, char *name, int64 base_offset, int64 end_offset)
{
	AlterTableCmd *cmd = makeNode(AlterTableCmd);
	PartitionCmd *attach = makeNode(PartitionCmd);

	attach->name = makeRangeVar(TOPIC_LOG_SCHEMA, name, -1);
	attach->bound = makeNode(PartitionBoundSpec);
	attach->bound->strategy = PARTITION_STRATEGY_RANGE;
	attach->bound->lowerdatums = list_make1(make_offset_literal(base_offset));
	attach->bound->upperdatums = list_make1(make_offset_literal(end_offset));
	attach->bound->location = -1;
	cmd->subtype = AT_AttachPartition;
	cmd->def = (Node *) attach;
	alter_table(partition_relid, list_make1(cmd));
}

/* Choose the name of the next segment: its number is above the highest one. */
static char *
choose_segment_name(Relation partition_rel)
{
	int			count;
	Segment    *segments = topics_segment_list(partition_rel, &count);
	int64		highest = 0;

	for (int i = 0; i < count; i++)
	{
		char	   *name = get_rel_name(segments[i].relid);
		int64		topic_id;
		int64		sequence;
		int32		partition;

		if (name && topics_log_am_parse_name(name, &topic_id, &partition, &sequence))
			highest = Max(highest, sequence);
	}
	for (;;)
	{
		char	   *name = psprintf("%s_s" INT64_FORMAT, RelationGetRelationName(partition_rel),
									++highest);

		/* a segment that was detached, say, keeps its name */
		if (!OidIsValid(get_relname_relid(name, RelationGetNamespace(partition_rel))))
			return name;
	}
}

/*
 * Make a segment for the offsets from base_offset to end_offset - 1, for
 * which there is none.  The caller acts as the owner of the extension, holds
 * SHARE UPDATE EXCLUSIVE on the partition's table, and does not have it open:
 * ALTER TABLE wants the table unused by its own session.
 */
void
topics_segment_attach(Oid partition_relid, int64 base_offset, int64 end_offset)
{
	Relation	partition_rel = table_open(partition_relid, NoLock);
	char	   *name = choose_segment_name(partition_rel);
	Oid			relid = create_table(partition_rel, name);

	TEST_POINT("segment-created");
	table_close(partition_rel, NoLock);
	topics_segment_protect_from_analyze(relid);
	attach_table(partition_relid, name, base_offset, end_offset);
	TEST_POINT("segment-attached");
}

/* ----------------------------------------------------------------
 *		Changing bounds
 * ----------------------------------------------------------------
 */

static PartitionRangeDatum *
make_offset_bound(int64 offset)
{
	PartitionRangeDatum *bound = makeNode(PartitionRangeDatum);

	bound->kind = PARTITION_RANGE_DATUM_VALUE;
	bound->value = (Node *) makeConst(INT8OID, -1, InvalidOid, sizeof(int64),
									  Int64GetDatum(offset), false, true);
	bound->location = -1;
	return bound;
}

/*
 * Store new bounds for an attached segment.  The caller holds SHARE UPDATE
 * EXCLUSIVE on the partition's table, and knows that every row of the segment
 * lies within the new bounds and no other segment does.
 */
void
topics_segment_set_bounds(Oid partition_relid, const Segment *segment)
{
	Relation	pg_class;
	HeapTuple	old;
	HeapTuple	new;
	Datum		values[Natts_pg_class] = {0};
	bool		nulls[Natts_pg_class] = {0};
	bool		replaces[Natts_pg_class] = {0};
	PartitionBoundSpec *bound = makeNode(PartitionBoundSpec);

	LockRelationOid(segment->relid, ShareUpdateExclusiveLock);
	pg_class = table_open(RelationRelationId, RowExclusiveLock);
	old = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(segment->relid));
	if (!HeapTupleIsValid(old))
		elog(ERROR, "cache lookup failed for segment %u", segment->relid);

	bound->strategy = PARTITION_STRATEGY_RANGE;
	bound->lowerdatums = list_make1(make_offset_bound(segment->base_offset));
	bound->upperdatums = list_make1(make_offset_bound(segment->end_offset));
	bound->location = -1;
	values[Anum_pg_class_relpartbound - 1] = CStringGetTextDatum(nodeToString(bound));
	replaces[Anum_pg_class_relpartbound - 1] = true;
	new = heap_modify_tuple(old, RelationGetDescr(pg_class), values, nulls, replaces);
	CatalogTupleUpdate(pg_class, &new->t_self, new);
	table_close(pg_class, RowExclusiveLock);

	CacheInvalidateRelcacheByRelid(partition_relid);
	CommandCounterIncrement();
}

/* Return the bytes on disk of what is out of line: TOAST table and index. */
int64
topics_segment_toast_bytes(Relation segment_rel)
{
	Oid			toast_relid = segment_rel->rd_rel->reltoastrelid;

	if (!OidIsValid(toast_relid))
		return 0;
	return DatumGetInt64(DirectFunctionCall1(pg_total_relation_size, ObjectIdGetDatum(toast_relid)));
}

/*
 * Return the bytes on disk: the table with its maps, and its TOAST table.  The
 * caller has the partition's table locked, so the segment is there.
 */
int64
topics_segment_bytes(Oid segment_relid)
{
	return DatumGetInt64(DirectFunctionCall1(pg_table_size, ObjectIdGetDatum(segment_relid)));
}
