/*-------------------------------------------------------------------------
 *
 * segment.c
 *		The segments of a partition: find, attach, cut, seal.
 *
 * A partition is a table partitioned by ranges of "offset"; each leaf is a
 * segment, a table of its own under the access method topic_log.  The bounds
 * are PostgreSQL's own, so they prune queries and need no catalogue of ours.
 * The active segment, the tail, is the one that next_offset falls into; those
 * above it are spares; those below are sealed: full, frozen, indexed.
 *
 * A segment's upper bound is a guess when it is made, since a partition
 * bound counts offsets and segment_bytes counts bytes.  A guess that proves
 * too high, a segment that grows old, a tail that must be frozen all end in
 * the same operation, the cut: the tail's upper bound comes down to
 * next_offset, and the next segment begins there.
 *
 * WHY A CUT IS SAFE, AND WHY IT TAKES TWO TRANSACTIONS
 *
 * The first transaction brings the bound down in pg_class, as
 * StorePartitionBound wrote it, under SHARE UPDATE EXCLUSIVE on the
 * partition's table (one cutter or attacher at a time) and on the segment
 * (no VACUUM or ANALYZE, which update pg_class in place).  Neither producers
 * nor readers are locked out.  Producers are kept below the cut by
 * append_limit, set under the append lock together with the choice of the
 * offset; when it is lifted, bounds_changes tells them that what they know of
 * the segments is out of date.  No row lies above the cut, so a reader that
 * still uses the old bound misses nothing.
 *
 * The second transaction puts a segment in place from the cut on.  Were it
 * the same transaction, another backend could build a partition descriptor
 * from two ages: RelationBuildPartitionDesc lists the children by a fresh
 * snapshot, but takes their bounds from the syscache, and the tail's entry
 * there is old until the invalidation message arrives, which is sent only
 * after the commit is visible.  It would see the new segment inside the old
 * bounds of the tail, and with the same upper bound twice it would write
 * outside of an array.
 *
 * So between the two, everybody who may use the old entry must have gone:
 * before a segment is given offsets that another one had.  Who builds a descriptor holds ACCESS SHARE on pg_inherits from before he
 * takes the snapshot, and whoever acquires that lock absorbs invalidation
 * messages first.  A holder from before the first transaction's messages is
 * therefore waited for (wait_for_old_readers); a later one has read them.
 * (Messages are sent before the cutter's lock on the partition's table goes:
 * who has that lock now comes after them.)  Holders let go at once, but for a
 * transaction that has queried pg_inherits itself, such as pg_dump's: if one
 * does not go for OLD_READERS_MS, the cut is not begun, or is taken back.
 *
 * A hot standby replays both commits with nothing between them; there the
 * remaining rule keeps memory safe: the upper bound that the cut segment had
 * is not given to another one.  A descriptor that mixes both ages is then
 * merely without a segment for the cut one's offsets, for one query in some
 * microseconds per cut.
 *
 * WHY A NEW SEGMENT IS ATTACHED BEFORE IT IS NEEDED
 *
 * A query that was planned before the segment was attached does not know
 * it, and would see of a transaction that spans both only what is in the old
 * one.  So the segment's commit comes well before its first record: the
 * worker keeps a spare ahead of the tail, and a producer that finds none has
 * it attached by another process.  Only if that fails it is
 * attached in the producer's own transaction.
 *
 * Early is not enough: a transaction that runs a cached plan while it holds
 * all locks hears of no segment for as long as it runs.  So the records
 * that one transaction produces to a partition lie in one segment.  Where
 * they do not fit the end of the tail is raised, which every plan that has
 * the tail follows, after the spare above was moved out of the way in a
 * transaction before.  (Only where no process is to be had for
 * that do they go on in the next segment.)
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
#include "catalog/pg_inherits.h"
#include "catalog/toasting.h"
#include "commands/event_trigger.h"
#include "commands/tablecmds.h"
#include "commands/tablespace.h"
#include "commands/vacuum.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_utilcmd.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "pg_topics.h"

/* Records per segment: what a guess is kept between. */
#define MIN_SEGMENT_RECORDS INT64CONST(100)
#define MAX_SEGMENT_RECORDS (INT64CONST(1) << 40)
#define FIRST_GUESS_RECORD_BYTES 128

/* What this transaction changes of a partition's segments. */
typedef struct PendingChange
{
	PartitionState *state;
	TopicPartition id;
	bool		has_limit;		/* we set append_limit */
	bool		is_cut;			/* ... in a cut's first half */
	int64		completes;		/* the cut_end that our commit makes obsolete */
} PendingChange;

#define OLD_READERS_MS 1000

/* One at a time: the worker's and each producer's transaction need no more. */
static List *pending = NIL;

/* How often the segments below a table had changed when we looked last. */
typedef struct KnownBounds
{
	Oid			relid;			/* hash key */
	uint32		changes;
} KnownBounds;

static HTAB *known_bounds = NULL;

/* ----------------------------------------------------------------
 *		Finding
 * ----------------------------------------------------------------
 */

/*
 * The bounds of a partition's segments as PostgreSQL keeps them: ascending
 * datums; where indexes[i] is not -1, oids[indexes[i]] holds the offsets from
 * datums[i - 1] to datums[i] - 1.
 */
static inline bool
bound_segment(PartitionDesc desc, int i, Segment *segment)
{
	PartitionBoundInfo bounds = desc->boundinfo;

	if (i < 1 || i >= bounds->ndatums || bounds->indexes[i] < 0)
		return false;
	segment->relid = desc->oids[bounds->indexes[i]];
	segment->base_offset = DatumGetInt64(bounds->datums[i - 1][0]);
	segment->end_offset = DatumGetInt64(bounds->datums[i][0]);
	return true;
}

/* Index of the first bound above "offset", maybe ndatums. */
static int
bound_above(PartitionDesc desc, int64 offset)
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
 * Have the segments of a partition looked up anew.  PostgreSQL can keep a
 * descriptor that is out of date, for as long as nothing else changes: when
 * the message of a change arrives while the descriptor is being built, from
 * a list of children that was read before the change.  Who changes segments,
 * under the lock that keeps others from it, would then attach a second one
 * for the same offsets.  ATTACH itself does not notice, it checks overlaps by
 * the same descriptor.
 */
void
topics_segment_forget_bounds(Oid partition_relid)
{
	RelationCacheInvalidateEntry(partition_relid);
}

/*
 * Have we not looked at a table since "changes"?  Then the answer is true, once.
 */
static bool
is_news(Oid relid, uint32 changes)
{
	bool		found;
	KnownBounds *known = topics_relation_memory_enter(&known_bounds, sizeof(KnownBounds), relid, &found);
	bool		news = !found || known->changes != changes;

	known->changes = changes;
	return news;
}

/*
 * Look the segments of a partition up anew, once for each time that they were
 * changed, as far as "bounds_changes" counts.  The caller has read that before
 * he absorbed invalidation messages; a change that comes later makes it count
 * on, so that the next look is a new one.
 */
void
topics_segment_learn_bounds(Oid partition_relid, uint32 bounds_changes)
{
	if (is_news(partition_relid, bounds_changes))
		topics_segment_forget_bounds(partition_relid);
}

/* The same for a reader, who has the partition's table open. */
void
topics_segment_learn(Oid partition_relid, const PartitionState *state)
{
	uint32		bounds_changes = *(volatile const uint32 *) &state->bounds_changes;

	pg_read_barrier();
	AcceptInvalidationMessages();
	topics_segment_learn_bounds(partition_relid, bounds_changes);
}

/*
 * The same for all partitions of a topic, before the planner looks at them:
 * "relid" is the topic's log table, or any other table.
 */
void
topics_segment_learn_topic(Oid relid)
{
	TopicPartition first = {.database = MyDatabaseId};
	int64		sequence;
	char	   *name;
	PartitionState *state;

	if (get_rel_namespace(relid) != get_namespace_oid(TOPIC_LOG_SCHEMA, true) ||
		(name = get_rel_name(relid)) == NULL ||
		!topics_log_am_parse_name(name, &first.topic_id, &first.partition, &sequence) ||
		first.partition != -1)
		return;
	first.partition = 0;
	state = topics_partition_state_find(&first);
	if (state && is_news(relid, pg_atomic_read_u32(&state->topic_bounds_changes)))
	{
		Relation	root = table_open(relid, NoLock);
		PartitionDesc desc = RelationGetPartitionDesc(root, true);

		for (int i = 0; i < desc->nparts; i++)
			topics_segment_forget_bounds(desc->oids[i]);
		table_close(root, NoLock);
	}
}

/* The segment for an offset. */
bool
topics_segment_find(Relation partition_rel, int64 offset, Segment *segment)
{
	PartitionDesc desc = RelationGetPartitionDesc(partition_rel, true);

	return desc->nparts > 0 && bound_segment(desc, bound_above(desc, offset), segment);
}

/* The segment for an offset, or the next one above it. */
bool
topics_segment_find_next(Relation partition_rel, int64 offset, Segment *segment)
{
	PartitionDesc desc = RelationGetPartitionDesc(partition_rel, true);

	if (desc->nparts == 0)
		return false;
	for (int i = bound_above(desc, offset); i < desc->boundinfo->ndatums; i++)
		if (bound_segment(desc, i, segment))
			return true;
	return false;
}

bool
topics_segment_last(Relation partition_rel, Segment *segment)
{
	PartitionDesc desc = RelationGetPartitionDesc(partition_rel, true);

	if (desc->nparts == 0)
		return false;
	for (int i = desc->boundinfo->ndatums - 1; i > 0; i--)
		if (bound_segment(desc, i, segment))
			return true;
	return false;
}

/* All segments, lowest first, palloc'd. */
Segment *
topics_segment_list(Relation partition_rel, int *count)
{
	PartitionDesc desc = RelationGetPartitionDesc(partition_rel, true);
	Segment    *result = palloc(sizeof(Segment) * Max(desc->nparts, 1));

	*count = 0;
	for (int i = 1; desc->nparts > 0 && i < desc->boundinfo->ndatums; i++)
		if (bound_segment(desc, i, &result[*count]))
			(*count)++;
	Assert(*count == desc->nparts);
	return result;
}

/* Is there one segment for all offsets from first to last? */
bool
topics_segment_fits(Relation partition_rel, int64 first, int64 last)
{
	Segment		segment;

	return topics_segment_find(partition_rel, first, &segment) && last < segment.end_offset;
}

/* Is there a segment for every offset from first to last? */
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
	/* the active segment is not vacuumed, the sealed one by seal_segment */
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
offset_literal(int64 offset)
{
	A_Const    *literal = makeNode(A_Const);

	literal->val.fval.type = T_Float;
	literal->val.fval.fval = psprintf(INT64_FORMAT, offset);
	literal->location = -1;
	return (Node *) literal;
}

/* ALTER TABLE, but event triggers do not hear of it. */
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
 * Have ANALYZE leave key and value alone if their types are not PostgreSQL's
 * own.  It runs as the table's owner, a superuser, and would call functions
 * of such a type, say a range's subtype_diff, that its creator can write.
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
	attach->bound->lowerdatums = list_make1(offset_literal(base_offset));
	attach->bound->upperdatums = list_make1(offset_literal(end_offset));
	attach->bound->location = -1;
	cmd->subtype = AT_AttachPartition;
	cmd->def = (Node *) attach;
	alter_table(partition_relid, list_make1(cmd));
}

/* The name of the next segment: one above the highest that there is. */
static char *
next_name(Relation partition_rel)
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

		/* one that was detached, say, keeps its name */
		if (!OidIsValid(get_relname_relid(name, RelationGetNamespace(partition_rel))))
			return name;
	}
}

/* ----------------------------------------------------------------
 *		Changing bounds
 * ----------------------------------------------------------------
 */

static PendingChange *
note_change(PartitionState *state)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	PendingChange *change = palloc(sizeof(PendingChange));

	change->state = state;
	change->id = state->id;
	change->has_limit = change->is_cut = false;
	change->completes = 0;
	pending = lappend(pending, change);
	MemoryContextSwitchTo(old);
	return change;
}

static PartitionRangeDatum *
offset_bound(int64 offset)
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
	bound->lowerdatums = list_make1(offset_bound(segment->base_offset));
	bound->upperdatums = list_make1(offset_bound(segment->end_offset));
	bound->location = -1;
	values[Anum_pg_class_relpartbound - 1] = CStringGetTextDatum(nodeToString(bound));
	replaces[Anum_pg_class_relpartbound - 1] = true;
	new = heap_modify_tuple(old, RelationGetDescr(pg_class), values, nulls, replaces);
	CatalogTupleUpdate(pg_class, &new->t_self, new);
	table_close(pg_class, RowExclusiveLock);

	CacheInvalidateRelcacheByRelid(partition_relid);
	CommandCounterIncrement();
}

/* How many records will fill "bytes", from those in the tail by now. */
static int64
guess_records(PartitionState *state, int64 bytes)
{
	int64		records = (int64) pg_atomic_read_u64(&state->next_offset) - state->tail_base;
	double		guess = (double) bytes / FIRST_GUESS_RECORD_BYTES;

	if (state->tail_blocks > 10 && records > 100 && records < MAX_SEGMENT_RECORDS)
		guess = (double) bytes / ((double) state->tail_blocks * BLCKSZ / records);
	return (int64) Max(MIN_SEGMENT_RECORDS, Min(guess, (double) MAX_SEGMENT_RECORDS));
}

/* Attach one segment above the others, for at least the offsets up to "last". */
static void
attach_above(Relation partition_rel, PartitionState *state, int64 first, int64 last,
			 int64 segment_bytes)
{
	Oid			partition_relid = RelationGetRelid(partition_rel);
	char	   *name = next_name(partition_rel);
	Segment		top;
	int64		base_offset;
	int64		end_offset;
	int64		records = guess_records(state, segment_bytes);
	Oid			relid;

	base_offset = topics_segment_last(partition_rel, &top) ? top.end_offset : first;
	if (last > PG_INT64_MAX - MAX_SEGMENT_RECORDS - 1)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("offsets of \"%s\" are exhausted", RelationGetRelationName(partition_rel))));
	end_offset = Max(base_offset + records, last + 1);
	if (end_offset == state->cut_end)
		end_offset++;			/* see the head of this file */

	relid = create_table(partition_rel, name);
	TEST_POINT("segment-created");
	/* ALTER TABLE wants the table unused by its own session */
	table_close(partition_rel, NoLock);
	topics_segment_protect_from_analyze(relid);
	attach_table(partition_relid, name, base_offset, end_offset);
	TEST_POINT("segment-attached");
}

/*
 * Wait until nobody holds a lock on pg_inherits who holds one now.  False if
 * somebody still does after OLD_READERS_MS.
 */
static bool
wait_for_old_readers(void)
{
	VirtualTransactionId *old;
	LOCKTAG		tag;
	int			nold;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, InheritsRelationId);
	old = GetLockConflicts(&tag, AccessExclusiveLock, &nold);
	for (int waited = 0; nold > 0; waited++)
	{
		int			nheld;
		VirtualTransactionId *holders;

		if (waited >= OLD_READERS_MS)
			return false;
		CHECK_FOR_INTERRUPTS();
		pg_usleep(1000);
		holders = GetLockConflicts(&tag, AccessExclusiveLock, &nheld);
		for (int i = 0; i < nold; i++)
		{
			bool		holds = false;

			for (int j = 0; j < nheld && !holds; j++)
				holds = VirtualTransactionIdEquals(old[i], holders[j]);
			if (!holds)
				old[i--] = old[--nold];
		}
		pfree(holders);
	}
	pfree(old);
	return true;
}

/*
 * Take the first half of a cut back, where the second cannot follow: the
 * segment that ends at "offset" gets its old end.  Nothing was attached since
 * in between, so no descriptor of whatever age has an overlap.  A query that
 * was planned in between, for offsets from the cut on, does not see records
 * that come now: to it they have not come yet.
 */
static void
undo_cut(Oid partition_relid, PartitionState *state, int64 offset)
{
	Relation	partition_rel = table_open(partition_relid, NoLock);
	Segment		cut;
	bool		found = topics_segment_find(partition_rel, offset - 1, &cut) &&
		cut.end_offset == offset;

	table_close(partition_rel, NoLock);
	if (!found)
		elog(ERROR, "no segment ends at offset " INT64_FORMAT, offset);
	cut.end_offset = state->cut_end;
	topics_segment_set_bounds(partition_relid, &cut);
	TEST_POINT("cut-undone");
}

/*
 * Keep producers below an offset until our commit or abort is announced.
 * False if the log has gone beyond it already.
 */
static bool
set_limit(PendingChange *change, Oid partition_relid, int64 limit)
{
	PartitionState *state = change->state;
	Relation	partition_rel = table_open(partition_relid, NoLock);
	bool		below;

	/* who had our lock before us may be about to lift his */
	while (state->append_limit != NO_LIMIT)
		topics_append_lock_sleep(state, 10);

	topics_append_lock_acquire(&state, 1);
	below = topics_log_end_locked(partition_rel, state) <= limit;
	if (below)
	{
		change->has_limit = true;
		state->append_limit = limit;
	}
	topics_append_lock_release();
	table_close(partition_rel, NoLock);
	return below;
}

/*
 * A segment ends before "last": raise its end.  False if the next segment,
 * which is empty, had to be moved up for that, and was: another transaction
 * can raise the end then.
 */
static bool
raise_end(PendingChange *change, Oid partition_relid, Segment *segment,
		  const Segment *next, int64 last)
{
	if (next == NULL || next->base_offset > last)
	{
		segment->end_offset = last + 1;
		topics_segment_set_bounds(partition_relid, segment);
		TEST_POINT("end-raised");
		return true;
	}
	else
	{
		Segment		moved = *next;

		/* if it is not empty any more, look again at where the log end is */
		if (!set_limit(change, partition_relid, next->base_offset))
			return true;
		moved.base_offset = last + 1;
		moved.end_offset = Max(next->end_offset, last + 1 + (next->end_offset - next->base_offset));
		topics_segment_set_bounds(partition_relid, &moved);
		TEST_POINT("spare-moved");
		return false;
	}
}

/*
 * One step towards a segment for the offsets from first to last; true if
 * none is left.  *again says whether there can be another transaction, and
 * is set if the next step needs one.
 */
static bool
cover_step(PendingChange *change, Oid partition_relid, int64 first, int64 last,
		   int64 segment_bytes, bool drained, bool *again)
{
	PartitionState *state = change->state;
	int64		end = pg_atomic_read_u64(&state->next_offset);
	bool		may_repeat = *again;

	Relation	partition_rel = table_open(partition_relid, NoLock);
	Segment		segment;
	Segment		next;
	Segment		top;
	bool		has_next;

	/* the log has grown since the caller looked: what he needs is further up */
	if (end != UNKNOWN_OFFSET && end > first)
	{
		last += end - first;
		first = end;
	}

	*again = false;
	if (topics_segment_fits(partition_rel, first, last))
	{
		table_close(partition_rel, NoLock);
		return true;
	}
	if (topics_segment_find(partition_rel, first, &segment))
	{
		has_next = topics_segment_find_next(partition_rel, segment.end_offset, &next);
		/* if the end cannot be raised, let the records go on above */
		if (!drained ||
			(has_next && next.base_offset <= last &&
			 (!may_repeat || !topics_segment_last(partition_rel, &top) ||
			  top.relid != next.relid)))
		{
			int64		uncovered = first;

			while (uncovered <= last && topics_segment_find(partition_rel, uncovered, &segment))
				uncovered = segment.end_offset;
			if (uncovered <= last && !topics_segment_find_next(partition_rel, uncovered, &next))
			{
				attach_above(partition_rel, state, first, last, segment_bytes);
				return false;
			}
			table_close(partition_rel, NoLock);
			if (uncovered > last)
				return true;
			/* somebody has moved it up, and then could not raise the end */
			next.base_offset = uncovered;
			topics_segment_set_bounds(partition_relid, &next);
			TEST_POINT("gap-closed");
			return false;
		}
		table_close(partition_rel, NoLock);
		*again = !raise_end(change, partition_relid, &segment, has_next ? &next : NULL, last);
	}
	else if (topics_segment_find_next(partition_rel, first, &next))
	{
		table_close(partition_rel, NoLock);
		if (!drained && state->cut_end != 0)
			undo_cut(partition_relid, state, first);
		else
		{
			next.base_offset = first;
			topics_segment_set_bounds(partition_relid, &next);
			TEST_POINT("gap-closed");
		}
	}
	else if (!drained && state->cut_end != 0)
	{
		table_close(partition_rel, NoLock);
		undo_cut(partition_relid, state, first);
	}
	else
		attach_above(partition_rel, state, first, last, segment_bytes);
	return false;
}

/*
 * Have one segment for the offsets from first to last, or where that cannot
 * be, several: by attaching one above the others, by raising the end of the
 * one that has "first", or by bringing the one above down to where a cut has
 * left a gap.  In the caller's transaction; false, only with may_repeat, if
 * it takes another one after this.  The caller has no lock of ours (append_lock.c), and not the
 * partition's table open.
 */
bool
topics_segment_cover(Oid partition_relid, PartitionState *state,
					 int64 first, int64 last, int64 segment_bytes, bool may_repeat)
{
	OwnerScope	scope;
	PendingChange *change;
	bool		drained;
	bool		again;

	/* from the top, as DROP takes them: attaching looks at the root */
	LockRelationOid(get_partition_parent(partition_relid, false), AccessShareLock);
	LockRelationOid(partition_relid, ShareUpdateExclusiveLock);
	topics_segment_forget_bounds(partition_relid);
	change = note_change(state);
	change->completes = state->cut_end;
	scope = topics_extension_become_owner();
	drained = wait_for_old_readers();
	do
	{
		CHECK_FOR_INTERRUPTS();
		again = may_repeat;
		if (cover_step(change, partition_relid, first, last, segment_bytes, drained, &again))
			break;
	} while (!again);
	topics_extension_become_caller(scope);
	return !again;
}

/*
 * Choose where to cut: under the append lock, so that from here on no
 * producer goes beyond.  False if the tail has no record, or is not "tail".
 */
static bool
choose_cut(Relation partition_rel, PartitionState *state, Segment *tail, int64 *cut_at)
{
	PendingChange *change = note_change(state);
	Oid			expected = tail->relid;
	bool		found;

	topics_append_lock_acquire(&state, 1);
	*cut_at = topics_log_end_locked(partition_rel, state);
	found = topics_segment_find(partition_rel, *cut_at, tail) && tail->relid == expected;
	if (found && tail->base_offset < *cut_at)
	{
		change->has_limit = change->is_cut = true;
		state->append_limit = *cut_at;
		state->cut_end = tail->end_offset;
	}
	else
		found = false;
	topics_append_lock_release();
	return found;
}

/*
 * The first half of a cut: bring the tail's end down to next_offset.  False,
 * and nothing done, if there is nothing to cut, or the second half could not
 * follow.  The caller commits, and then calls topics_segment_cover(cut_at,
 * cut_at) in its next transaction; producers wait a little for that, and then
 * do it themselves.
 *
 * All locks are taken before the limit is set, so that nobody who holds one
 * of them, say ANALYZE, keeps producers waiting.
 */
bool
topics_segment_cut(Oid partition_relid, PartitionState *state, int64 *cut_at)
{
	Relation	partition_rel = table_open(partition_relid, ShareUpdateExclusiveLock);
	Segment		tail;
	bool		found = false;

	topics_segment_forget_bounds(partition_relid);
	/* the second half of an earlier cut comes first */
	if (state->append_limit == NO_LIMIT && state->cut_end == 0 &&
		wait_for_old_readers() &&
		topics_segment_find(partition_rel, topics_log_end(partition_rel, state), &tail))
	{
		LockRelationOid(tail.relid, ShareUpdateExclusiveLock);
		found = choose_cut(partition_rel, state, &tail, cut_at);
	}
	table_close(partition_rel, NoLock);

	if (found)
	{
		OwnerScope	scope;

		TEST_POINT("cut-limited");
		scope = topics_extension_become_owner();
		tail.end_offset = *cut_at;
		topics_segment_set_bounds(partition_relid, &tail);
		TEST_POINT("cut-bound");
		topics_extension_become_caller(scope);
	}
	return found;
}

/* A partition's segments have changed: so have the topic's. */
static void
count_for_topic(TopicPartition id)
{
	PartitionState *state;

	id.partition = 0;
	state = topics_partition_state_find(&id);
	if (state)
		pg_atomic_fetch_add_u32(&state->topic_bounds_changes, 1);
}

/*
 * After our commit, when others were told of it (invalidation messages were
 * sent), or after our abort.  Must not raise.
 *
 * After a commit our lock on the partition's table is gone, and somebody else
 * may be changing segments.  What we write is ours all the same: nobody
 * begins a cut while a limit or cut_end stands, and each is reset only by
 * who set it, or found it set while he had the lock.
 *
 * A limit stands only until the first half is announced, whatever becomes of
 * the second: then bounds_changes makes producers look at the bounds again.
 */
static void
finish_changes(bool commit)
{
	ListCell   *lc;

	foreach(lc, pending)
	{
		PendingChange *change = lfirst(lc);
		PartitionState *state = change->state;

		if (memcmp(&state->id, &change->id, sizeof(TopicPartition)) != 0)
			continue;
		if (change->has_limit && !commit)
			state->cut_end = 0;
		if (change->completes != 0 && commit)
			state->cut_end = 0;
		/* the new tail has no record: nobody appends while the limit stands */
		if (change->is_cut && commit)
			state->tail_started = 0;
		state->bounds_changes++;
		count_for_topic(change->id);
		pg_write_barrier();
		if (change->has_limit)
			state->append_limit = NO_LIMIT;
		ConditionVariableBroadcast(&state->append_cv);
	}
	list_free_deep(pending);
	pending = NIL;
}

/* Does this transaction change segments? */
bool
topics_segment_is_pending(void)
{
	return pending != NIL;
}

void
topics_segment_at_commit(void)
{
	if (pending != NIL)
		TEST_POINT("bounds-committed");
	finish_changes(true);
}

void
topics_segment_at_abort(void)
{
	finish_changes(false);
}

/* Bytes on disk: the table with its maps, and its TOAST table. */
int64
topics_segment_bytes(Oid segment_relid)
{
	return DatumGetInt64(DirectFunctionCall1(pg_table_size, ObjectIdGetDatum(segment_relid)));
}

/* ----------------------------------------------------------------
 *		Sealing
 * ----------------------------------------------------------------
 */

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
