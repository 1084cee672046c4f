/*-------------------------------------------------------------------------
 *
 * dropped_topic.c
 *		The tables of topics that were dropped.
 *
 * PostgreSQL keeps a lock for each table that a transaction drops, and for what
 * belongs to it: eight for a partition with one segment.  A topic that was made
 * partition by partition, or has grown segment by segment, can have more than
 * there is room for.  So topics.drop_topic() drops a topic with few tables at
 * once, and of a larger one all but the tables: the view, and so the name, the
 * catalogue's rows, the places of groups and the states in shared memory go
 * when it commits.  A row of topic_log.dropped_topic says that the tables are
 * to follow.  The worker drops them in transactions of its own, and so does
 * topics.maintain().  Between two of them the worker gives way to its other
 * work, and to other databases, and goes on in its next round.
 *
 * Nobody uses these tables any more, although they are there: whoever opens a
 * partition locks the topic's root first, and then looks whether there is the
 * view (catalog.c), and drop_topic() has the root's lock exclusively.  So it
 * also waits for those who do.
 *
 * A dump that is made meanwhile has the tables and the row.  Where it is
 * restored the worker leaves them alone, lest it drop what pg_restore is going
 * to fill: it knows its own rows by the OID of the root.  CALL
 * topics.maintain() by an administrator drops them, and topics.broken_topic
 * says so.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/twophase.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "pg_topics.h"

#define LOCKS_PER_TABLE 8		/* at most; see docs/operation.md */
#define MAX_TABLES_AT_ONCE 1000 /* dropped by drop_topic() itself */
#define MAX_STEP_TABLES 50		/* dropped in one transaction by the worker */
#define LOCK_TRIES 50			/* a millisecond apart */
#define MAX_DEPENDENTS 100		/* named in an error */

/* Columns of topic_log.dropped_topic */
enum
{
	Anum_dropped_id = 1,
	Anum_dropped_partitions,
	Anum_dropped_root
};

/* A dropped topic whose tables are to go. */
typedef struct DroppedTopic
{
	int64		topic_id;
	int32		partitions;
	Oid			root_relid;		/* or InvalidOid */
	int32		next;			/* the partitions below are gone */
} DroppedTopic;

/*
 * Where this process has left off for the sake of others: the partitions below
 * are not looked for again.
 */
static DroppedTopic left_off;

/*
 * How many tables a transaction drops so that it takes the n-th part of all
 * locks of the server at most.
 */
static int
count_droppable(int n)
{
	return Max(1, max_locks_per_xact * (MaxBackends + max_prepared_xacts) / LOCKS_PER_TABLE / n);
}

/* ----------------------------------------------------------------
 *		Some tables
 * ----------------------------------------------------------------
 */

/* Drop the tables of a topic that are attached to nothing (broken_topic.c). */
static void
drop_loose_tables(int64 topic_id)
{
	ListCell   *lc;

	foreach(lc, topics_broken_topic_loose_tables(topic_id))
		topics_statement_execute("DROP TABLE topic_log.%s", ((LooseTable *) lfirst(lc))->name);
}

/*
 * Lock a topic's root against other processes that drop its tables: a worker,
 * or who calls topics.maintain().  Their steps are waited for, and nobody else
 * waits behind us.  Return false if they have dropped all meanwhile.
 */
static bool
lock_against_others(const DroppedTopic *topic)
{
	if (!OidIsValid(topic->root_relid))
		return true;
	LockRelationOid(topic->root_relid, ShareUpdateExclusiveLock);
	return SearchSysCacheExists1(RELOID, ObjectIdGetDatum(topic->root_relid));
}

/* Drop the root and what is left below it. */
static void
drop_root(const DroppedTopic *topic)
{
	ObjectAddress root = {RelationRelationId, topic->root_relid, 0};

	if (OidIsValid(topic->root_relid))
		performDeletion(&root, DROP_RESTRICT, 0);
	drop_loose_tables(topic->topic_id);
}

/*
 * Lock a table that nobody uses, but a dump, a VACUUM, or who reads log tables
 * by their names.  That is not waited for in the queue, where others would wait
 * behind us.
 */
static void
lock_table(const DroppedTopic *topic, Oid relid)
{
	for (int i = 0; i < LOCK_TRIES; i++)
	{
		if (ConditionalLockRelationOid(relid, AccessExclusiveLock))
			return;
		CHECK_FOR_INTERRUPTS();
		pg_usleep(1000);
	}
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("could not drop the log tables of topic id " INT64_FORMAT ", which was dropped",
					topic->topic_id),
			 errdetail("Log table \"%s\" is in use.", get_rel_name(relid)),
			 errhint("The worker tries again; pg_locks tells who has locked the table.")));
}

/*
 * Drop segments of a partition, "budget" at most, and if that is all its table
 * as well.  Return what is left of the budget, which is none if there is more.
 */
static int
drop_partition(const DroppedTopic *topic, Oid relid, int budget)
{
	ObjectAddresses *objects = new_object_addresses();
	ObjectAddress object = {RelationRelationId, InvalidOid, 0};
	List	   *segments;
	ListCell   *lc;

	lock_table(topic, relid);
	segments = find_inheritance_children(relid, NoLock);
	foreach(lc, segments)
	{
		if (budget == 0)
			break;
		object.objectId = lfirst_oid(lc);
		lock_table(topic, object.objectId);
		add_exact_object_address(&object, objects);
		budget--;
	}
	if (lc == NULL && budget > 0)
	{
		object.objectId = relid;
		add_exact_object_address(&object, objects);
		budget--;
	}
	else
		budget = 0;
	performMultipleDeletions(objects, DROP_RESTRICT, 0);
	free_object_addresses(objects);
	return budget;
}

/*
 * Drop some of a topic's tables, in the caller's transaction.  Return false
 * when all are gone, and the row that says that they have to go.
 */
static bool
drop_some_tables(DroppedTopic *topic)
{
	StatementScope scope;
	Oid			namespace = get_namespace_oid(TOPIC_LOG_SCHEMA, false);
	int			budget = topics_min(MAX_STEP_TABLES, count_droppable(8));

	if (!lock_against_others(topic))
		return false;
	scope = topics_statement_begin();
	if (OidIsValid(topic->root_relid))
		lock_table(topic, topic->root_relid);
	while (topic->next < topic->partitions && budget > 0)
	{
		char	   *name = psprintf("t" INT64_FORMAT "_p%d", topic->topic_id, topic->next);
		Oid			relid = get_relname_relid(name, namespace);

		CHECK_FOR_INTERRUPTS();
		if (OidIsValid(relid))
			budget = drop_partition(topic, relid, budget);
		else
			topic->next++;
	}
	if (topic->next >= topic->partitions)
	{
		drop_root(topic);
		topics_statement_execute("DELETE FROM topic_log.dropped_topic WHERE topic_id = " INT64_FORMAT,
								 topic->topic_id);
		/* should a VACUUM or a foreign writer have made a state again */
		topics_topic_changes_note(topic->topic_id, 0, topic->partitions, false);
	}
	topics_statement_end(scope);
	return topic->next < topic->partitions;
}

/* ----------------------------------------------------------------
 *		drop_topic, and what follows
 * ----------------------------------------------------------------
 */

/* Count a topic's tables, as far as "upto". */
static uint64
count_tables(int64 topic_id, int upto)
{
	/* by the index of names, which are sorted as bytes */
	if (SPI_execute(psprintf("SELECT FROM pg_class WHERE relnamespace = 'topic_log'::regnamespace"
							 " AND relname >= 't" INT64_FORMAT "_p' AND relname < 't" INT64_FORMAT "_q'"
							 " AND relkind IN ('r', 'p')", topic_id, topic_id),
					false, upto) != SPI_OK_SELECT)
		elog(ERROR, "could not look for log tables");
	return SPI_processed;
}

/* Take all rights to the root away, so that roles that have them can go. */
static void
revoke_rights(const DroppedTopic *topic)
{
	char	   *grantees;

	if (SPI_execute(psprintf("SELECT string_agg(DISTINCT quote_ident(pg_get_userbyid(grantee)), ', ')"
							 " FROM pg_class, aclexplode(relacl)"
							 " WHERE pg_class.oid = %u AND grantee NOT IN (0, relowner)",
							 topic->root_relid), false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for rights");
	grantees = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (grantees)
		topics_statement_execute("REVOKE ALL ON topic_log.t" INT64_FORMAT " FROM %s",
								 topic->topic_id, grantees);
}

/*
 * Raise the error that DROP would, if others have made something of a topic's
 * tables: of those that go later nobody would be told.
 */
static void
refuse_dependents(const DroppedTopic *topic)
{
	char	   *dependents;

	if (SPI_execute(psprintf("SELECT string_agg(format('%%s depends on %%s', dependent, used), E'\n')"
							 " FROM (SELECT DISTINCT pg_describe_object(refclassid, refobjid, 0) AS used,"
							 " CASE WHEN ev_class IS NULL THEN pg_describe_object(classid, objid, objsubid)"
							 " ELSE pg_describe_object('pg_class'::regclass, ev_class, 0) END AS dependent"
							 " FROM pg_class c CROSS JOIN LATERAL (VALUES"
							 " ('pg_class'::regclass::oid, c.oid), ('pg_type'::regclass::oid, c.reltype)) o (class, oid)"
							 " JOIN pg_depend d ON refclassid = o.class AND refobjid = o.oid AND deptype = 'n'"
							 " LEFT JOIN pg_rewrite w ON classid = 'pg_rewrite'::regclass AND w.oid = objid"
							 " WHERE relnamespace = 'topic_log'::regnamespace AND (c.oid = %u OR"
							 " relname >= 't" INT64_FORMAT "_p' AND relname < 't" INT64_FORMAT "_q')"
							 " ORDER BY 2, 1 LIMIT %d) d (used, dependent)",
							 topic->root_relid, topic->topic_id, topic->topic_id, MAX_DEPENDENTS),
					false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for dependent objects");
	dependents = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (dependents)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop table %s.t" INT64_FORMAT " because other objects depend on it",
						TOPIC_LOG_SCHEMA, topic->topic_id),
				 errdetail("%s", dependents),
				 errhint("Drop the dependent objects first.")));
}

/*
 * Drop the tables of a topic of which all else is dropped: now if they are few,
 * else later.  Within a statement's scope; the caller has locked the root.
 */
void
topics_dropped_topic_take_tables(const TopicParts *parts)
{
	DroppedTopic topic = {parts->topic_id, parts->partitions, parts->root_relid, 0};
	int			few = topics_min(MAX_TABLES_AT_ONCE, count_droppable(4));

	if (count_tables(topic.topic_id, few) < (uint64) few)
	{
		drop_root(&topic);
		return;
	}
	refuse_dependents(&topic);
	revoke_rights(&topic);
	topics_statement_execute("INSERT INTO topic_log.dropped_topic (topic_id, partitions, root)"
							 " VALUES (" INT64_FORMAT ", %d, %u)",
							 topic.topic_id, topic.partitions, topic.root_relid);
	topics_topic_changes_want_round();
}

/* Read a row of topic_log.dropped_topic into "topic"; return its root. */
static Oid
read_row(HeapTuple row, TupleDesc desc, DroppedTopic *topic)
{
	bool		isnull;

	topic->topic_id = DatumGetInt64(heap_getattr(row, Anum_dropped_id, desc, &isnull));
	topic->partitions = DatumGetInt32(heap_getattr(row, Anum_dropped_partitions, desc, &isnull));
	topic->root_relid = get_relname_relid(psprintf("t" INT64_FORMAT, topic->topic_id),
										  get_namespace_oid(TOPIC_LOG_SCHEMA, false));
	return DatumGetObjectId(heap_getattr(row, Anum_dropped_root, desc, &isnull));
}

/*
 * List the topics whose tables are to be dropped: with "all" also those that
 * came by a restore.  In the current memory context.
 */
static List *
list_dropped_topics(bool all)
{
	Oid			namespace = get_namespace_oid(TOPIC_LOG_SCHEMA, false);
	Relation	rel = table_open(get_relname_relid("dropped_topic", namespace), AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;
	List	   *result = NIL;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		DroppedTopic *topic = palloc0(sizeof(DroppedTopic));
		Oid			root = read_row(tuple, RelationGetDescr(rel), topic);

		if (topic->topic_id == left_off.topic_id && topic->root_relid == left_off.root_relid)
			topic->next = left_off.next;
		if (all || !OidIsValid(topic->root_relid) || topic->root_relid == root)
			result = lappend(result, topic);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/* A step: some tables of a topic, in one transaction. */
typedef struct DropStep
{
	DroppedTopic *topic;
	bool		more;			/* there are more tables */
} DropStep;

static void
take_step(void *arg)
{
	DropStep   *step = arg;

	PushActiveSnapshot(GetTransactionSnapshot());
	step->more = drop_some_tables(step->topic);
	PopActiveSnapshot();
}

/*
 * Take steps until a topic's tables are gone, or others wait.  Return true if
 * there are more then.  What a topic fails with is left to the caller, who is
 * to go on with other topics: in *error, in the current memory context.
 */
static bool
take_steps(DroppedTopic *topic, NextTransaction next_transaction, OthersWait others_wait,
		   ErrorData **error)
{
	MemoryContext cxt = CurrentMemoryContext;
	DropStep	step = {topic, true};

	while (step.more && *error == NULL)
	{
		*error = topics_subtransaction_try(take_step, &step);
		if (*error && (*error)->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE &&
			topics_subtransaction_must_raise(*error))
			ReThrowError(*error);
		next_transaction();
		MemoryContextSwitchTo(cxt);
		TEST_POINT("tables-dropped");
		if (step.more && *error == NULL && others_wait && others_wait())
		{
			left_off = *topic;
			return true;
		}
	}
	return false;
}

/*
 * Drop the tables of dropped topics, with "all" also of those that came by a
 * restore.  The call is made in a transaction, and returns in another one;
 * "parent" is a memory context that outlives both.  Return true if there are
 * more, since "others_wait", which is asked between steps unless it is NULL,
 * has said so.
 *
 * A topic that fails, since somebody uses a table of it, does not keep the
 * others from their turns: the error is raised when nothing else is left.
 */
bool
topics_dropped_topic_finish(bool all, MemoryContext parent, NextTransaction next_transaction,
							OthersWait others_wait)
{
	MemoryContext cxt = AllocSetContextCreate(parent, "pg_topics dropped topics",
											  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);
	ErrorData  *first_error = NULL;
	bool		more = false;
	ListCell   *lc;

	foreach(lc, list_dropped_topics(all))
	{
		ErrorData  *error = NULL;

		more = take_steps(lfirst(lc), next_transaction, others_wait, &error);
		if (more)
			break;
		if (first_error == NULL)
			first_error = error;
	}
	if (first_error && !more)
		ReThrowError(first_error);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(cxt);
	return more;
}
