/*-------------------------------------------------------------------------
 *
 * stale_plan.c
 *		A query knows the segments that were attached before it began.
 *
 * A session hears that a segment was attached when it reads invalidation
 * messages, which it does after it has acquired a lock; but not for a lock
 * that it holds already, and has read messages for (LOCALLOCK.lockCleared).
 * So a READ COMMITTED transaction that asks a topic a second time would go by
 * the segments of the first time: by a cached plan, and by a new one too.  With
 * one partition, the transaction would only see records later.  But it would
 * see half of another transaction that produced to two partitions, if only one
 * of the two has a segment that the session does not know.
 *
 * Therefore, after the start of each query on a topic, the lock on the topic's
 * root table is made to be one for which messages are yet to be read.  Every
 * query on the topic acquires that lock before it is planned, or before a
 * cached plan is taken to be good.  That is always safe to say; it costs a look
 * at the table of local locks, and the next query a look at the message queue.
 *
 * The snapshot of a statement is taken after that.  So a segment may be
 * attached, and filled by a commit, between the two.  And a producer that
 * could have no process to attach a segment for it has attached it itself:
 * then its commit is visible with the segment, before any message of that is
 * sent (cut.c).
 *
 * So at the start of each query, when it has its snapshot, the session reads
 * the messages, and it is asked whether the query's tables are still known as
 * the planner has known them.  If not, cached plans are made anew the next
 * time: a message that arrives while the planner looks at the segments can
 * make a plan that lacks one, or is made from two ages of them (segment.c),
 * and nothing else would say that it is out of date.  And if there are
 * segments with records that the planner has not known, this query is refused:
 * its snapshot may see half of a transaction otherwise.  That takes a segment
 * that is attached and gets records while a query is planned.
 *
 * This is so for every plan on a topic, whether it has an Offset Scan or not.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "catalog/namespace.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "optimizer/plancat.h"
#include "optimizer/pathnode.h"
#include "storage/lock.h"
#include "utils/lsyscache.h"
#include "utils/plancache.h"

#include "base/compat.h"
#include "log/log.h"
#include "read/read.h"
#include "pg_topics.h"

static topics_relation_hook_type previous_relation_hook = NULL;
static ExecutorStart_hook_type previous_query_start = NULL;

/* Let the next statement on a table read invalidation messages again. */
static void
read_messages_again(Oid relid, LOCKMODE lockmode)
{
	LOCKTAG		tag;
	LOCALLOCK  *locallock;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relid);
	(void) topics_lock_acquire(&tag, lockmode, &locallock);
	locallock->lockCleared = false;
	LockRelease(&tag, lockmode, false);
}

/*
 * The planner's hook for each table that it meets.  A topic's root table has
 * its turn before its partitions: their bounds, as this session remembers
 * them, are brought up to date.
 */
static void
learn_segment_bounds(TOPICS_RELATION_HOOK_ARGS)
{
	Oid			parent = TOPICS_RELATION_HOOK_PARENT;

	if (previous_relation_hook)
		previous_relation_hook(TOPICS_RELATION_HOOK_PASS);
	if (OidIsValid(parent) && rel->part_scheme)
		topics_segment_note_planned(parent, root->glob->partition_directory);
}

static void
report_plan_lacks_records(Oid relid)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("a segment of %s was made, and got records, while the query was planned",
					topics_catalog_describe_log(relid)),
			 errdetail("The query would show a part of what was committed at once."),
			 errhint("Try again.")));
}

/* A query has its snapshot: is a topic's table still as it was planned? */
static void
check_table(const QueryDesc *query, const RangeTblEntry *rte, int eflags)
{
	bool		lacks;

	read_messages_again(rte->relid, rte->rellockmode);
	if (topics_segment_is_known(rte->relid))
		return;
	lacks = (eflags & EXEC_FLAG_EXPLAIN_ONLY) == 0 &&
		topics_segment_plan_lacks_records(query->plannedstmt, rte->relid);
	(void) topics_segment_learn_table(rte->relid);
	ResetPlanCache();
	if (lacks)
		report_plan_lacks_records(rte->relid);
}

/* ExecutorStart_hook: see the head of this file. */
static void
start_query(QueryDesc *query, int eflags)
{
	bool		has_heard = false;
	ListCell   *lc;

	if (previous_query_start)
		previous_query_start(query, eflags);
	else
		standard_ExecutorStart(query, eflags);

	if (IsParallelWorker())
		return;
	foreach(lc, query->plannedstmt->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (rte->rtekind == RTE_RELATION && rte->relkind == RELKIND_PARTITIONED_TABLE &&
			get_rel_namespace(rte->relid) == get_namespace_oid(TOPIC_LOG_SCHEMA, true))
		{
			if (!has_heard)
				topics_segment_hear();
			has_heard = true;
			check_table(query, rte, eflags);
		}
	}
}

void
topics_stale_plan_init(void)
{
	previous_query_start = ExecutorStart_hook;
	ExecutorStart_hook = start_query;
	previous_relation_hook = topics_relation_hook;
	topics_relation_hook = learn_segment_bounds;
}
