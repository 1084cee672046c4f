/*-------------------------------------------------------------------------
 *
 * destination.c
 *		A partition that a commit appends to: its table and segments, found,
 *		locked and open.
 *
 * append.c calls this before it takes the append locks, since anything may be
 * waited for here, and looks again under them whether what was found still
 * holds.  The tables stay locked until the transaction ends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/nbtree.h"
#include "access/table.h"
#include "access/toast_internals.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "pg_topics.h"

#define OPEN_AHEAD 1000			/* offsets by which other producers may
								 * overtake us without making us start over */
#define MAX_ATTEMPTS 3			/* at having one segment for all records */
#define CUT_NAP_MS 10
#define ATTACH_PATIENCE 1000	/* naps while another producer has a segment
								 * attached */
#define CUT_PATIENCE 10			/* naps while a cut is completed */

pg_noreturn static void
report_dropped_topic(const Destination *dest)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("topic \"%s\" was dropped before the transaction committed",
					NameStr(dest->topic)),
			 errdetail("Records were produced to it in this transaction.")));
}

/* Count the offsets that the records take, with gaps between them. */
int64
topics_destination_span(const Destination *dest)
{
	return dest->is_replica ? dest->replica_upto - dest->replica_from :
		topics_buffer_count(dest->records);
}

/*
 * Return true if this node may write the records: it leads, or follows and has
 * them from the leader.
 */
bool
topics_destination_has_role(const Destination *dest)
{
	return topics_cluster_follows(dest->set) == dest->is_replica;
}

/* Raise the error if it may not. */
void
topics_destination_report_role(const Destination *dest)
{
	if (dest->is_replica)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("partition %d of topic \"%s\" is led by this node",
						dest->id.partition, NameStr(dest->topic)),
				 errdetail("It is not written by replication.")));
	topics_cluster_report_not_leader(dest->set, NameStr(dest->topic), dest->id.partition);
}

/*
 * Require as many replicas in sync as a topic wants for acks = all, before
 * anything is appended.  In no cluster there are none to be had: a topic that
 * comes from one still says what it wants.
 */
static void
require_replicas(const Topic *topic, int set)
{
	int			replicas;

	if (likely(topic->settings.min_insync_replicas <= 1) || pg_topics_acks != ACKS_ALL)
		return;
	topics_cluster_attend();
	if (topics_mark_slot_kind_of(set) == CLUSTER_NONE)
		return;
	replicas = 1 + topics_follower_count_in_sync(set);
	if (replicas < topic->settings.min_insync_replicas)
		ereport(ERROR,
				(errcode(ERRCODE_NOT_ENOUGH_REPLICAS),
				 errmsg("too few replicas of topic \"%s\" are in sync", NameStr(topic->name)),
				 errdetail("NOT_ENOUGH_REPLICAS: %d of %d that the topic wants.",
						   replicas, topic->settings.min_insync_replicas),
				 errhint("Look at topics.replica, and try again; or set pg_topics.acks to 1. If there are to be fewer nodes, lower min_insync_replicas with topics.alter_topic().")));
}

/* Find the partition's state, table and settings, and lock the table. */
void
topics_destination_resolve(Destination *dest)
{
	Partition  *partition = &dest->partition;
	Topic	   *topic = topics_catalog_get(partition->topic->view_relid, true);

	if (topic == NULL || topic->topic_id != dest->id.topic_id ||
		!topics_catalog_try_open_partition(partition, RowExclusiveLock))
	{
		topics_broken_topic_report(NameStr(dest->topic), dest->id.topic_id);
		report_dropped_topic(dest);
	}

	if (topics_foreign_writer_wrote_to(partition->relid))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot produce to partition %d of topic \"%s\"",
						partition->number, NameStr(topic->name)),
				 errdetail("This transaction has written to its log table directly."),
				 errhint("COMMIT before.")));

	dest->topic = topic->name;
	dest->tupdesc = topic->tupdesc;
	dest->segment_bytes = topic->settings.segment_bytes;
	dest->log_append_time = topic->settings.log_append_time;
	dest->notify = topic->settings.notify;
	dest->topic_state = topics_catalog_partition_state(topic, 0);
	if (!dest->is_replica)
		require_replicas(topic, dest->set);
}

/*
 * Open what a segment's wide values go to, with all the locks that storing them
 * takes, so that these are not waited for under the append lock.  With a lock
 * that is new to us PostgreSQL would hear of invalidations there, and read
 * catalogues for what has become invalid.
 */
static void
open_toast(OpenSegment *open)
{
	if (!OidIsValid(open->rel->rd_rel->reltoastrelid))
		return;
	open->toast_rel = table_open(open->rel->rd_rel->reltoastrelid, RowExclusiveLock);
	(void) toast_open_indexes(open->toast_rel, RowExclusiveLock, &open->toast_indexes,
							  &open->ntoast_indexes);
	/* an identifier that is free is looked for */
	for (int i = 0; i < open->ntoast_indexes; i++)
		LockRelationOid(RelationGetRelid(open->toast_indexes[i]), AccessShareLock);
}

/*
 * Have what the relcache reads from catalogues only when it is asked for, and
 * forgets when an entry becomes invalid.
 */
static void
load_toast(const OpenSegment *open)
{
	if (open->toast_rel == NULL)
		return;
	list_free(RelationGetIndexList(open->toast_rel));
	for (int i = 0; i < open->ntoast_indexes; i++)
		for (AttrNumber key = 1;
			 key <= IndexRelationGetNumberOfKeyAttributes(open->toast_indexes[i]); key++)
			(void) index_getprocinfo(open->toast_indexes[i], key, BTORDER_PROC);
}

/* The same for all segments that are open. */
void
topics_destination_load_toast(const Destination *dest)
{
	ListCell   *lc;

	foreach(lc, dest->segments)
		load_toast(lfirst(lc));
}

static void
close_toast(OpenSegment *open)
{
	if (open->toast_rel == NULL)
		return;
	toast_close_indexes(open->toast_indexes, open->ntoast_indexes, NoLock);
	table_close(open->toast_rel, NoLock);
}

/*
 * Measure what a segment has out of line, if we may have added to it.  The
 * files are open, so nothing is looked up.
 */
int64
topics_destination_measure_toast(const OpenSegment *open)
{
	int64		blocks;

	if (open->toast_rel == NULL)
		return UNKNOWN_BYTES;
	blocks = RelationGetNumberOfBlocks(open->toast_rel);
	for (int i = 0; i < open->ntoast_indexes; i++)
		blocks += RelationGetNumberOfBlocks(open->toast_indexes[i]);
	return blocks * BLCKSZ;
}

/*
 * Open a segment to append to, after a check that it is what it should be.
 * Return false if it has become full, and sealed, since we looked for it.
 */
static bool
try_open_segment(Destination *dest, const Segment *segment)
{
	OpenSegment *open = palloc0(sizeof(OpenSegment));

	open->segment = *segment;
	open->rel = table_open(segment->relid, RowExclusiveLock);
	if (!topics_log_am_is_log(open->rel) || !RelationIsPermanent(open->rel))
		topics_broken_topic_report(NameStr(dest->topic), dest->id.topic_id);
	if (topics_log_index_exists(open->rel) &&
		topics_log_next_offset(&dest->partition) >= segment->end_offset)
	{
		table_close(open->rel, NoLock);
		pfree(open);
		return false;
	}
	if (topics_log_index_exists(open->rel))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the active segment of partition %d of topic \"%s\" has an index",
						dest->partition.number, NameStr(dest->topic)),
				 errdetail("Appending maintains no index, so a query that uses it would miss records."),
				 errhint("Drop the index of table %s; index segments that are sealed.",
						 quote_qualified_identifier(TOPIC_LOG_SCHEMA, RelationGetRelationName(open->rel)))));
	if (topics_buffer_has_wide())
		open_toast(open);
	dest->segments = lappend(dest->segments, open);
	return true;
}

/* Close the segments, and keep their locks. */
void
topics_destination_close_segments(Destination *dest)
{
	ListCell   *lc;

	foreach(lc, dest->segments)
	{
		OpenSegment *open = lfirst(lc);

		close_toast(open);
		table_close(open->rel, NoLock);
	}
	list_free_deep(dest->segments);
	dest->segments = NIL;
}

/*
 * Attaching here keeps a partition's table locked until the end, and it may
 * turn out under the append locks that another partition needs it, too.  So
 * take these locks of all partitions, in the order in which all processes lock
 * them: no two that attach wait for each other.
 */
static void
lock_tables_to_attach(const List *all)
{
	ListCell   *lc;

	foreach(lc, all)
	{
		const Destination *dest = lfirst(lc);

		if (topics_destination_span(dest) > 0)
			LockRelationOid(dest->partition.relid, ShareUpdateExclusiveLock);
	}
}

/* Callback: this process has a segment attached no more. */
static void
end_attaching(int code, Datum arg)
{
	PartitionState *state = (PartitionState *) DatumGetPointer(arg);
	uint32		expected = MyProcPid;

	(void) pg_atomic_compare_exchange_u32(&state->attacher, &expected, 0);
	ConditionVariableBroadcast(&state->append_cv);
}

/*
 * Have another process attach a segment.  Return false if there is none to be
 * had; true says only that one has tried.
 */
static bool
run_attach_worker(const Partition *partition, const CoverRequest *request)
{
	Datum		arg = PointerGetDatum(partition->state);
	bool		result;

	PG_ENSURE_ERROR_CLEANUP(end_attaching, arg);
	{
		result = topics_attach_worker_run(partition, request);
	}
	PG_END_ENSURE_ERROR_CLEANUP(end_attaching, arg);
	end_attaching(0, arg);
	return result;
}

/*
 * Wait while another producer has a segment attached, but not for ever.  Return
 * true if it has done so.
 */
static bool
wait_for_attacher(PartitionState *state)
{
	int			patience = ATTACH_PATIENCE;

	while (pg_atomic_read_u32(&state->attacher) != 0 && patience-- > 0)
		topics_append_lock_sleep(state, CUT_NAP_MS);
	topics_append_lock_end_sleeping();
	return patience >= 0;
}

/*
 * Return true if another process was there to attach a segment: then the caller
 * looks again.  Of several producers of a partition one asks for it.
 */
static bool
have_attached(const Partition *partition, const CoverRequest *request)
{
	uint32		nobody = 0;

	if (!pg_atomic_compare_exchange_u32(&partition->state->attacher, &nobody, MyProcPid))
		return wait_for_attacher(partition->state);
	if (!run_attach_worker(partition, request))
		return false;
	topics_segment_learn(partition);
	/* or others have filled what was attached */
	return topics_segment_covers(partition->rel, request->first, request->last) ||
		topics_log_next_offset(partition) > request->first;
}

/*
 * Let another process attach a segment for offsets first .. last, so that its
 * commit comes before their first record, or else do it here; see cut.c.  No
 * other process can see a table of this very transaction.
 */
static void
make_room(Destination *dest, const List *all, int64 first, int64 last)
{
	Partition  *partition = &dest->partition;
	CoverRequest request = {first, last, dest->segment_bytes};
	bool		is_ours = partition->rel->rd_createSubid != InvalidSubTransactionId;

	if (!is_ours && have_attached(partition, &request))
		return;
	if (!is_ours)
		lock_tables_to_attach(all);
	topics_catalog_close_partition(partition, NoLock);
	PushActiveSnapshot(GetLatestSnapshot());
	(void) topics_cut_cover(partition, &request, is_ours ? COVER_BESIDES : COVER_FOR_RECORDS);
	PopActiveSnapshot();
	topics_destination_resolve(dest);
}

/*
 * The active segment is being cut: wait until that is announced, and then for
 * the segment that follows, but not for long: we can attach it ourselves.
 */
static void
wait_for_cut(Destination *dest)
{
	PartitionState *state = dest->partition.state;
	int			patience = CUT_PATIENCE;

	while (memcmp(&state->id, &dest->id, sizeof(TopicPartition)) == 0 &&
		   (state->append_limit != NO_LIMIT || (state->cut_end != 0 && patience-- > 0)))
		topics_append_lock_sleep(state, CUT_NAP_MS);
	topics_append_lock_end_sleeping();
}

/*
 * Open the segment that the records will go to, as far as can be known: one
 * for all, so that a plan which lacks the next one sees all or none of them;
 * or, if that is not to be had, several.
 */
void
topics_destination_open_segments(Destination *dest, const List *all)
{
	Partition  *partition = &dest->partition;
	int64		count = topics_destination_span(dest);
	int64		end;
	int64		next;
	Segment		segment;

	topics_destination_close_segments(dest);
	for (int attempt = 0;; attempt++)
	{
		wait_for_cut(dest);
		/* in this order: the recheck sees a change after the first line */
		dest->bounds_changes = partition->state->bounds_changes;
		pg_read_barrier();
		topics_segment_learn(partition);
		end = topics_log_next_offset(partition);
		topics_broken_topic_check(partition);
		if (!topics_destination_has_role(dest))
			topics_destination_report_role(dest);
		if (dest->is_replica && end != dest->replica_from)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("the log of partition %d of topic \"%s\" ends at offset " INT64_FORMAT ", and not at " INT64_FORMAT,
							partition->number, NameStr(dest->topic), end, dest->replica_from)));
		dest->in_one_segment = topics_segment_fits(partition->rel, end, end + count - 1);
		if (dest->in_one_segment ||
			(attempt >= MAX_ATTEMPTS &&
			 topics_segment_covers(partition->rel, end, end + count - 1)))
			break;
		make_room(dest, all, end, end + count - 1 + (count > 1 ? OPEN_AHEAD : 0));
	}

	next = end;
	while (next < end + count + OPEN_AHEAD &&
		   topics_segment_find(partition->rel, next, &segment))
	{
		if (!try_open_segment(dest, &segment))
		{
			topics_destination_open_segments(dest, all);
			return;
		}
		next = segment.end_offset;
	}

	/* with these locks: what is checked here cannot change any more */
	if (!dest->is_replica)
		topics_recheck_records(partition->topic, dest->records, &dest->checks);
}

/* The open segment that an offset goes to. */
OpenSegment *
topics_destination_find_segment(Destination *dest, int64 offset)
{
	ListCell   *lc;

	foreach(lc, dest->segments)
	{
		OpenSegment *open = lfirst(lc);

		if (offset >= open->segment.base_offset && offset < open->segment.end_offset)
			return open;
	}
	elog(ERROR, "no segment is open for offset " INT64_FORMAT, offset);
	return NULL;
}
