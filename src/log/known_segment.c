/*-------------------------------------------------------------------------
 *
 * known_segment.c
 *		What a process knows of the segments, and how it hears of others.
 *
 * PostgreSQL can keep a list of segments
 * (a PartitionDesc) that is out of date for as long as nothing else changes:
 * when the message of a change arrives while the list is being built, from
 * children that were read before the change.  A reader would stay behind; a
 * process that changes segments, under the lock that keeps others from it,
 * would attach a second one for the same offsets, which ATTACH itself does not
 * notice, since it checks overlaps by the same list.  So a process counts a
 * list as current only if no message of the table has come since there was no
 * list (KnownTable).  A message that arrives during the build takes the mark
 * away.  Before the list is used it is looked whether the mark is there, and
 * otherwise the list is made anew.  This goes by the messages of the commit
 * alone, in one process, so it holds on a hot standby as well.
 *
 * A commit is visible a moment before its messages are sent.  Who has a
 * snapshot, and is to go by all segments that it sees records in, hears of
 * them first (topics_segment_hear).  What the planner has seen of a table is
 * remembered, for the look at the start of a query (stale_plan.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "nodes/plannodes.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "storage/bufmgr.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/relcache.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "pg_topics.h"

#define PLANNED_SEGMENTS 4		/* that are remembered: those that get records */
#define NOT_KNOWN 0				/* of KnownTable.generation */


/*
 * A table whose descriptor is known to be current: no relcache invalidation of
 * it has come since it had none.
 */
typedef struct KnownTable
{
	Oid			relid;			/* hash key */
	uint32		generation;		/* of the table of them, or it does not count */
	int			nplanned;		/* when the planner has last looked: so many
								 * partitions, or segments; -1: it has not */
	Segment		planned[PLANNED_SEGMENTS];	/* the highest of these segments,
											 * from the top, as they were */
} KnownTable;

#define FIRST_TABLES 64			/* room for as many at first */
#define MANY_TABLES 10000		/* then those go that are not known */

static HTAB *known_tables = NULL;
static uint32 known_generation = 1; /* counts invalidations of everything */

/* ----------------------------------------------------------------
 *		Known tables
 * ----------------------------------------------------------------
 */

/* Look up the segments of a partition anew the next time. */
void
topics_segment_forget_bounds(Oid partition_relid)
{
	RelationCacheInvalidateEntry(partition_relid);
}

static void
forget_all_tables(void)
{
	if (++known_generation == NOT_KNOWN)
		known_generation++;
}

/*
 * Called for each relcache invalidation, maybe while a descriptor of the table
 * is being built: it is not known any more to be current.
 */
static void
forget_table(Datum arg, Oid relid)
{
	if (OidIsValid(relid))
	{
		KnownTable *known = hash_search(known_tables, &relid, HASH_FIND, NULL);

		if (known)
			known->generation = NOT_KNOWN;
	}
	else
		forget_all_tables();
}

/* Return true if the table's descriptor, if it has one, is current. */
bool
topics_segment_is_known(Oid relid)
{
	KnownTable *known = known_tables ? hash_search(known_tables, &relid, HASH_FIND, NULL) : NULL;

	return known && known->generation == known_generation;
}

/*
 * Hear of all segments that any snapshot of ours may see records in.  A commit
 * may be visible of which no message has come (cut.c): as long as there may be
 * one, no table is known, nor are the bounds of a segment, which are in the
 * cache of pg_class.  If it was announced before we ask, its messages are
 * there.
 */
void
topics_segment_hear(void)
{
	if (topics_partition_state_has_unannounced())
		InvalidateSystemCaches();
	AcceptInvalidationMessages();
}

/* Remove the tables that are not known. */
static void
remove_unknown_tables(void)
{
	HASH_SEQ_STATUS seq;
	KnownTable *known;

	hash_seq_init(&seq, known_tables);
	while ((known = hash_seq_search(&seq)) != NULL)
		if (known->generation != known_generation)
			(void) hash_search(known_tables, &known->relid, HASH_REMOVE, NULL);
}

/* Find or make the entry of a table; one that is new is not known. */
static KnownTable *
get_known_table(Oid relid)
{
	KnownTable *known;
	bool		found;

	if (known_tables == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(Oid),.entrysize = sizeof(KnownTable)};

		known_tables = hash_create("pg_topics known tables", FIRST_TABLES, &ctl,
								   HASH_ELEM | HASH_BLOBS);
		CacheRegisterRelcacheCallback(forget_table, (Datum) 0);
	}
	if (hash_get_num_entries(known_tables) >= MANY_TABLES)
		remove_unknown_tables();
	known = hash_search(known_tables, &relid, HASH_ENTER, &found);
	if (!found)
	{
		known->generation = NOT_KNOWN;
		known->nplanned = -1;
	}
	return known;
}

/*
 * Know a table from now on.  The caller has absorbed invalidation messages.
 * Return true if it was known; otherwise the descriptor that there may be is
 * forgotten.
 */
bool
topics_segment_learn_table(Oid relid)
{
	if (topics_segment_is_known(relid))
		return true;
	topics_segment_forget_bounds(relid);
	get_known_table(relid)->generation = known_generation;
	return false;
}

/* Know the segments of a partition, whose table is open, as they are now. */
void
topics_segment_learn(const Partition *partition)
{
	topics_segment_hear();
	(void) topics_segment_learn_table(partition->relid);
}

/* ----------------------------------------------------------------
 *		What the planner has seen
 * ----------------------------------------------------------------
 */

/*
 * The planner looks at the partitions of a topic, whose log table this is: know
 * their segments as they are now.  At the topic's own table the planner has
 * looked already; so if that is not known, it stays so, and start_query
 * (stale_plan.c) finds it.
 */
static void
learn_partitions(Oid relid)
{
	Relation	root = table_open(relid, NoLock);
	PartitionDesc desc = RelationGetPartitionDesc(root, true);

	for (int i = 0; i < desc->nparts; i++)
		(void) topics_segment_learn_table(desc->oids[i]);
	table_close(root, NoLock);
}

/*
 * Remember the highest segments of a partition as the planner has found them.
 */
static void
note_planned_segments(KnownTable *known, const PartitionDesc desc)
{
	PartitionBoundInfo bounds = desc->boundinfo;
	int			count = 0;

	for (int i = bounds ? bounds->ndatums - 1 : 0; i > 0 && count < PLANNED_SEGMENTS; i--)
	{
		if (bounds->indexes[i] < 0)
			continue;
		known->planned[count].relid = desc->oids[bounds->indexes[i]];
		known->planned[count].base_offset = DatumGetInt64(bounds->datums[i - 1][0]);
		known->planned[count++].end_offset = DatumGetInt64(bounds->datums[i][0]);
	}
}

/*
 * The planner has looked at a partitioned table, and has its children in a
 * directory.  For any that is not a topic's this does nothing.
 */
void
topics_segment_note_planned(Oid relid, PartitionDirectory directory)
{
	int64		topic_id;
	int64		sequence;
	int32		partition;
	char	   *name;
	KnownTable *known;
	Relation	rel;
	PartitionDesc desc;

	if (get_rel_namespace(relid) != get_namespace_oid(TOPIC_LOG_SCHEMA, true) ||
		(name = get_rel_name(relid)) == NULL ||
		!topics_log_am_parse_name(name, &topic_id, &partition, &sequence))
		return;
	if (partition == -1)
	{
		topics_segment_hear();
		learn_partitions(relid);
	}
	rel = table_open(relid, NoLock);
	desc = PartitionDirectoryLookup(directory, rel);
	known = get_known_table(relid);
	known->nplanned = desc->nparts;
	if (partition != -1)
		note_planned_segments(known, desc);
	/* the directory's is of an earlier part of the query */
	if (desc != RelationGetPartitionDesc(rel, true))
		known->generation = NOT_KNOWN;
	table_close(rel, NoLock);
}

/* Return true if a plan has a table. */
static bool
is_in_plan(const PlannedStmt *plan, Oid relid)
{
	ListCell   *lc;

	foreach(lc, plan->rtable)
		if (lfirst_node(RangeTblEntry, lc)->relid == relid)
		return true;
	return false;
}

/*
 * Return true if the planner has known all offsets of a segment, and wants
 * none of them: they were those of a segment, this one or one that was cut
 * since, which it has left out.
 */
static bool
is_left_out(const PlannedStmt *plan, const KnownTable *known, const Segment *segment)
{
	int			count = Min(known->nplanned, PLANNED_SEGMENTS);

	for (int i = 0; i < count; i++)
		if (known->planned[i].base_offset <= segment->base_offset &&
			known->planned[i].end_offset >= segment->end_offset)
			return !is_in_plan(plan, known->planned[i].relid);
	/* below those that are remembered no segment gets records */
	return known->nplanned > PLANNED_SEGMENTS &&
		segment->end_offset <= known->planned[PLANNED_SEGMENTS - 1].base_offset;
}

static bool
has_rows(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	bool		result = RelationGetNumberOfBlocks(rel) > 0;

	table_close(rel, AccessShareLock);
	return result;
}

/*
 * A table of a topic is not known any more as the planner has known it.
 * Return true if it has children with records which the plan lacks, and which
 * the planner has not left out.  The caller has absorbed messages, and has a
 * lock on the table.
 */
bool
topics_segment_plan_lacks_records(const PlannedStmt *plan, Oid relid)
{
	KnownTable	known = *get_known_table(relid);
	Relation	rel;
	Segment    *segments;
	int			count;
	bool		lacks = false;

	if (known.nplanned < 0)
		return false;
	rel = table_open(relid, NoLock);
	if (RelationGetPartitionKey(rel)->strategy == PARTITION_STRATEGY_LIST)
		lacks = RelationGetPartitionDesc(rel, true)->nparts > known.nplanned;
	else
	{
		segments = topics_segment_list(rel, &count);
		for (int i = count - 1; i >= 0 && !lacks; i--)
			lacks = !is_in_plan(plan, segments[i].relid) && !is_left_out(plan, &known, &segments[i]) &&
				has_rows(segments[i].relid);
		pfree(segments);
	}
	table_close(rel, NoLock);
	return lacks;
}
