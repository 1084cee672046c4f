/*-------------------------------------------------------------------------
 *
 * monitor.c
 *		What the administration views show: a row costs the same however
 *		long the log is.
 *
 * Users see the topics that they may read, or that are theirs; the roles that
 * look after the server see all.  The messages of errors can tell of records,
 * so what fails is shown to the topic's owner and to these roles only.
 *
 * A view's functions are called as its reader, not as its owner, so PUBLIC may
 * execute them: they look at who calls, and whoever lacks SELECT on the view
 * does not get at them, since schema topic_log is closed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/tableam.h"
#include "catalog/pg_class.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "serve/serve.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_partition_status);
PG_FUNCTION_INFO_V1(topics_segment_status);
PG_FUNCTION_INFO_V1(topics_broken_status);
PG_FUNCTION_INFO_V1(topics_may_see);
PG_FUNCTION_INFO_V1(topics_append_wait_status);

/* A segment with what is to be shown of it. */
typedef struct SegmentFacts
{
	int64		first_offset;	/* of the records that it has and shows */
	int64		end_offset;
	const char *state;
} SegmentFacts;

/* may_see(view oid): the filter of the view topics.topic */
Datum
topics_may_see(PG_FUNCTION_ARGS)
{
	Topic	   *topic;

	topics_settings_require_preload();
	topic = topics_catalog_get(PG_GETARG_OID(0), true);
	PG_RETURN_BOOL(topic != NULL && topics_catalog_may_see(topic));
}

static SegmentFacts
get_segment_facts(const Segment *segment, int64 log_start, int64 log_end)
{
	SegmentFacts facts;

	facts.first_offset = Max(segment->base_offset, log_start);
	facts.end_offset = Max(facts.first_offset, Min(segment->end_offset, log_end));
	facts.state = segment->end_offset <= log_start ? "deleted" :
		segment->end_offset <= log_end ? "sealed" :
		segment->base_offset <= log_end ? "active" : "spare";
	return facts;
}

/* Put the timestamp of the record with an offset, or of the next one. */
static void
put_timestamp(Relation partition_rel, int64 offset, int64 upto, Datum *value, bool *isnull)
{
	TimestampTz timestamp;

	*isnull = !topics_log_find_timestamp(partition_rel, offset, upto, GetActiveSnapshot(), &timestamp);
	if (!*isnull)
		*value = TimestampTzGetDatum(timestamp);
}

/*
 * A partition, and what is found out of it for a row.  "puts" puts the row, or
 * rows, also if the partition is damaged: then what could not be found out is
 * not in here.
 */
typedef struct PartitionView
{
	ReturnSetInfo *rsinfo;
	Topic	   *topic;
	int32		number;
	Partition	partition;		/* open during a look */

	bool		has_ends;
	int64		log_start;
	int64		log_end;
	Segment    *segments;		/* palloc'd, or NULL: not known */
	int			count;
	int			segment;		/* the one that is looked at */
	Datum	   *values;			/* of the row that is looked at */
	bool	   *nulls;
} PartitionView;

typedef void (*PartitionVisitor) (PartitionView *view);

/* Open the partition's table for a look. */
static void
open_view(PartitionView *view)
{
	Partition	partition = {.topic = view->topic,.number = view->number};

	topics_catalog_open_partition(&partition, AccessShareLock);
	view->partition = partition;
}

static void
close_view(PartitionView *view)
{
	topics_catalog_close_partition(&view->partition, AccessShareLock);
}

/* Look: the segments.  This needs no file of theirs. */
static void
look_at_segments(void *arg)
{
	PartitionView *view = arg;

	open_view(view);
	view->segments = topics_segment_list(view->partition.rel, &view->count);
	close_view(view);
	TEST_POINT("view-segments-listed");
}

/* Look: the two ends of the log. */
static void
look_at_ends(void *arg)
{
	PartitionView *view = arg;

	open_view(view);
	view->log_start = topics_log_start(view->partition.state);
	view->log_end = topics_log_end(&view->partition, GetActiveSnapshot());
	view->has_ends = true;
	close_view(view);
}

/* Call a look.  Return false if the topic has gone; otherwise go on. */
static bool
look_at_view(PartitionView *view, Look look)
{
	return topics_guarded_look(view->topic, view->number, look, view) != GUARDED_DROPPED;
}

/*
 * Look at a partition, and have its rows put.  Its table stays locked
 * meanwhile: so all looks have the same segments, and none has gone since the
 * first.
 */
static void
visit_partition(PartitionView *view, PartitionVisitor visit)
{
	const Oid	root_relid = view->topic->root_relid;
	const Oid	relid = topics_catalog_partition_relid(view->topic, view->number);

	/* in this order, as a DROP does */
	LockRelationOid(root_relid, AccessShareLock);
	if (OidIsValid(relid))
		LockRelationOid(relid, AccessShareLock);
	if (look_at_view(view, look_at_segments) && look_at_view(view, look_at_ends))
		visit(view);
	if (OidIsValid(relid))
		UnlockRelationOid(relid, AccessShareLock);
	UnlockRelationOid(root_relid, AccessShareLock);
}

/* Visit the partitions of all topics that the user may see. */
static void
visit_partitions(FunctionCallInfo fcinfo, PartitionVisitor visit)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "pg_topics partition view",
											  ALLOCSET_DEFAULT_SIZES);
	ListCell   *lc;

	topics_settings_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, topics_catalog_list())
	{
		Topic	   *topic = topics_catalog_get(lfirst_oid(lc), true);

		if (topic == NULL || !topics_catalog_may_see(topic))
			continue;
		for (int32 number = 0; number < topic->partitions; number++)
		{
			PartitionView view = {
				.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo,.topic = topic,.number = number
			};
			MemoryContext old = MemoryContextSwitchTo(cxt);

			CHECK_FOR_INTERRUPTS();
			visit_partition(&view, visit);
			MemoryContextSwitchTo(old);
			MemoryContextReset(cxt);
		}
	}
	MemoryContextDelete(cxt);
}

/* Put a value, or NULL where it was not found out. */
static void
put_value(PartitionView *view, int column, Datum value)
{
	view->values[column] = value;
	view->nulls[column] = false;
}

/* Put the timestamps of the first and of the last record below "upto". */
static void
put_timestamps(PartitionView *view, int64 from, int64 upto, int first_column, int last_column)
{
	open_view(view);
	put_timestamp(view->partition.rel, from, upto,
				  &view->values[first_column], &view->nulls[first_column]);
	put_timestamp(view->partition.rel, Max(from, upto - 1), upto,
				  &view->values[last_column], &view->nulls[last_column]);
	close_view(view);
}

/* Columns of partition_status. */
enum
{
	PARTITION_TOPIC,
	PARTITION_NUMBER,
	PARTITION_LOG_START,
	PARTITION_LOG_END,
	PARTITION_SIZE,
	PARTITION_FIRST_TIMESTAMP,
	PARTITION_LAST_TIMESTAMP,
	PARTITION_COLUMNS
};

/* Look: the sizes of the segments. */
static void
look_at_sizes(void *arg)
{
	PartitionView *view = arg;
	int64		size_bytes = 0;

	for (int i = 0; i < view->count; i++)
		size_bytes += topics_segment_bytes(view->segments[i].relid);
	put_value(view, PARTITION_SIZE, Int64GetDatum(size_bytes));
}

/* Look: the timestamps of the first and the last record. */
static void
look_at_timestamps(void *arg)
{
	PartitionView *view = arg;

	put_timestamps(view, view->log_start, view->log_end,
				   PARTITION_FIRST_TIMESTAMP, PARTITION_LAST_TIMESTAMP);
}

static void
put_partition_status(PartitionView *view)
{
	Datum		values[PARTITION_COLUMNS] = {0};
	bool		nulls[PARTITION_COLUMNS];

	memset(nulls, true, sizeof(nulls));
	view->values = values;
	view->nulls = nulls;
	put_value(view, PARTITION_TOPIC, CStringGetTextDatum(NameStr(view->topic->name)));
	put_value(view, PARTITION_NUMBER, Int32GetDatum(view->number));
	if (view->segments && !look_at_view(view, look_at_sizes))
		return;
	if (view->has_ends)
	{
		put_value(view, PARTITION_LOG_START, Int64GetDatum(view->log_start));
		put_value(view, PARTITION_LOG_END, Int64GetDatum(view->log_end));
		if (!look_at_view(view, look_at_timestamps))
			return;
	}
	tuplestore_putvalues(view->rsinfo->setResult, view->rsinfo->setDesc, values, nulls);
}

/* Columns of segment_status. */
enum
{
	SEGMENT_TOPIC,
	SEGMENT_PARTITION,
	SEGMENT_FIRST_OFFSET,
	SEGMENT_END_OFFSET,
	SEGMENT_SIZE,
	SEGMENT_FIRST_TIMESTAMP,
	SEGMENT_LAST_TIMESTAMP,
	SEGMENT_LOWER_BOUND,
	SEGMENT_UPPER_BOUND,
	SEGMENT_STATE,
	SEGMENT_COLUMNS
};

/* Look: what there is to know of a segment, beside its bounds. */
static void
look_at_segment(void *arg)
{
	PartitionView *view = arg;
	const Segment *segment = &view->segments[view->segment];
	SegmentFacts facts;

	put_value(view, SEGMENT_SIZE, Int64GetDatum(topics_segment_bytes(segment->relid)));
	if (!view->has_ends)
		return;
	facts = get_segment_facts(segment, view->log_start, view->log_end);
	put_value(view, SEGMENT_FIRST_OFFSET, Int64GetDatum(facts.first_offset));
	put_value(view, SEGMENT_END_OFFSET, Int64GetDatum(facts.end_offset));
	put_value(view, SEGMENT_STATE, CStringGetTextDatum(facts.state));
	put_timestamps(view, facts.first_offset, facts.end_offset,
				   SEGMENT_FIRST_TIMESTAMP, SEGMENT_LAST_TIMESTAMP);
}

static void
put_segment_status(PartitionView *view)
{
	for (view->segment = 0; view->segment < view->count; view->segment++)
	{
		const Segment *segment = &view->segments[view->segment];
		Datum		values[SEGMENT_COLUMNS] = {0};
		bool		nulls[SEGMENT_COLUMNS];

		memset(nulls, true, sizeof(nulls));
		view->values = values;
		view->nulls = nulls;
		put_value(view, SEGMENT_TOPIC, CStringGetTextDatum(NameStr(view->topic->name)));
		put_value(view, SEGMENT_PARTITION, Int32GetDatum(view->number));
		put_value(view, SEGMENT_LOWER_BOUND, Int64GetDatum(segment->base_offset));
		put_value(view, SEGMENT_UPPER_BOUND, Int64GetDatum(segment->end_offset));
		if (!look_at_view(view, look_at_segment))
			return;
		tuplestore_putvalues(view->rsinfo->setResult, view->rsinfo->setDesc, values, nulls);
	}
}

/* partition_status(): the rows of the view topics.partition */
Datum
topics_partition_status(PG_FUNCTION_ARGS)
{
	visit_partitions(fcinfo, put_partition_status);
	return (Datum) 0;
}

/* segment_status(): the rows of the view topics.segment */
Datum
topics_segment_status(PG_FUNCTION_ARGS)
{
	visit_partitions(fcinfo, put_segment_status);
	return (Datum) 0;
}

/* ----------------------------------------------------------------
 *		Topics that lack a part
 * ----------------------------------------------------------------
 */

/* Columns of broken_status. */
enum
{
	BROKEN_TOPIC,
	BROKEN_TOPIC_ID,
	BROKEN_PARTITION,
	BROKEN_PROBLEM,
	BROKEN_HINT,
	BROKEN_COLUMNS
};

/* Return true if the current user may see what a topic lacks. */
static bool
may_see_broken(const BrokenPart *part)
{
	return topics_catalog_is_monitor() ||
		(OidIsValid(part->view_relid) && topics_catalog_may_read_view(part->view_relid));
}

/* broken_status(): the rows of the view topics.broken_topic */
Datum
topics_broken_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell   *lc;

	topics_settings_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, topics_broken_topic_list(ALL_TOPICS))
	{
		BrokenPart *part = lfirst(lc);
		char	   *name = OidIsValid(part->view_relid) ? get_rel_name(part->view_relid) : NULL;
		Datum		values[BROKEN_COLUMNS];
		bool		nulls[BROKEN_COLUMNS] = {false};

		/* dropped while others were looked at */
		if (OidIsValid(part->view_relid) && name == NULL)
			continue;
		if (!may_see_broken(part))
			continue;
		nulls[BROKEN_TOPIC] = name == NULL;
		if (name)
			values[BROKEN_TOPIC] = CStringGetTextDatum(name);
		values[BROKEN_TOPIC_ID] = Int64GetDatum(part->topic_id);
		nulls[BROKEN_PARTITION] = part->partition == WHOLE_TOPIC;
		values[BROKEN_PARTITION] = Int32GetDatum(part->partition);
		values[BROKEN_PROBLEM] = CStringGetTextDatum(part->problem);
		values[BROKEN_HINT] =
			CStringGetTextDatum(part->hint ? part->hint : name ?
								psprintf("topics.repair_topic(%s) puts it right, topics.drop_topic(%s) removes it.",
										 quote_literal_cstr(name), quote_literal_cstr(name)) :
								psprintf("topics.repair_topic(name, topic_id => " INT64_FORMAT ") gives it a view of that name.",
										 part->topic_id));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* ----------------------------------------------------------------
 *		Waits for append locks
 * ----------------------------------------------------------------
 */

/* Columns of append_wait_status. */
enum
{
	WAIT_TOPIC,
	WAIT_PARTITION,
	WAIT_WAITER_PID,
	WAIT_HOLDER_PID,
	WAIT_SINCE,
	WAIT_COLUMNS
};

/*
 * Put what is waited for into its columns: a partition, or nothing for the lock
 * of the whole database.  Return false if the topic is not for the user to see,
 * or has gone.
 */
static bool
put_wait_target(const AppendWait *wait, Datum *values, bool *nulls)
{
	Topic	   *topic;

	nulls[WAIT_TOPIC] = nulls[WAIT_PARTITION] = wait->of_database;
	if (wait->of_database)
		return true;
	topic = topics_catalog_by_id(wait->id.topic_id);
	if (topic == NULL || !topics_catalog_may_see(topic))
		return false;
	values[WAIT_TOPIC] = CStringGetTextDatum(NameStr(topic->name));
	values[WAIT_PARTITION] = Int32GetDatum(wait->id.partition);
	return true;
}

/* append_wait_status(): the rows of the view topics.append_wait */
Datum
topics_append_wait_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell   *lc;

	topics_settings_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, topics_append_wait_list())
	{
		const AppendWait *wait = lfirst(lc);
		Datum		values[WAIT_COLUMNS] = {0};
		bool		nulls[WAIT_COLUMNS] = {false};

		if (!put_wait_target(wait, values, nulls))
			continue;
		values[WAIT_WAITER_PID] = Int32GetDatum(wait->waiter_pid);
		nulls[WAIT_HOLDER_PID] = wait->holder_pid == 0;
		values[WAIT_HOLDER_PID] = Int32GetDatum(wait->holder_pid);
		values[WAIT_SINCE] = TimestampTzGetDatum(wait->since);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
