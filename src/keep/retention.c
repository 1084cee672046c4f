/*-------------------------------------------------------------------------
 *
 * retention.c
 *		What a partition keeps: records leave it from the lower end, by
 *		policy or by delete_records().
 *
 * Two steps, far apart in cost and in what they need:
 *
 *	advance	The log start moves up (log_start.c): one row changes, and no
 *		reader shows what is below any more.  Policy moves it by whole
 *		segments, never row by row, whether they were read or not.
 *	drop	Segments that lie below the log start are dropped, the lowest
 *		first, when their locks are free.
 *
 * TIME.  A segment goes when all of it is older than retention_time.  Its age
 * is that of its largest timestamp, as in Kafka, but a producer may have
 * written one of next century: so it is not younger than the time when the
 * segment was sealed (topic_log.segment).  An active segment is cut when it is
 * as old as retention_time (maintain.c), or when all of its records are
 * expired, so a quiet topic's last records go, too.
 *
 * BYTES.  As in Kafka: the lowest segment goes if without it there are still
 * retention_bytes.  The active segment always stays.  What is out of line
 * counts (TOAST), here and where the active segment is cut; indexes of sealed
 * segments do not.
 *
 * A CLOCK THAT WAS WRONG.  A segment that was sealed while the clock was ahead,
 * and so "in the future", counts as sealed now, and is put down as that: it
 * goes when retention_time has passed since the clock is right.  That the clock
 * was set back is seen by the last look, which is in the future then.
 *
 * Whether to look at all is decided from what the last look has left in
 * shared memory: a record of the lowest segment that kept it from going
 * (lowest_kept), and the bytes above (droppable_bytes).
 *
 * DROPPING a segment takes ACCESS EXCLUSIVE on the partition's table too,
 * since queries that were planned with the segment must have gone.  A process
 * that waits for that lock holds up all that come after it, behind the one
 * that holds the lock now, which may be pg_dump.  So the lock is tried without
 * waiting, and then waited for no longer than LOCK_WAIT_MS; the segment's own
 * lock is not waited for at all.  What did not work is tried again in the next
 * round.  DETACH CONCURRENTLY would never stand in the way, but it waits for
 * every transaction that uses the topic, for hours if need be, and meanwhile
 * holds the lock that attaching the next segment takes.
 *
 * See docs/decisions/0007-retention.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "keep/keep.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_delete_records);

#define LOCK_TRIES 20			/* without waiting, a millisecond apart */
#define LOCK_WAIT_MS "20"
#define MAX_DROPS 16			/* segments dropped in one transaction */

/*
 * Return the time before which records are expired; DT_NOBEGIN if they never
 * are.
 */
static TimestampTz
get_expiry_time(const TopicSettings *settings)
{
	return settings->delete && settings->retention_ms >= 0 ?
		topics_clock_ago(settings->retention_ms) : DT_NOBEGIN;
}

/*
 * Return true if a log has no records, nor an active segment with some that are
 * deleted.  Cheap, too.
 */
static bool
log_is_empty(const PartitionState *state)
{
	uint64		next_offset = pg_atomic_read_u64(&unconstify(PartitionState *, state)->next_offset);
	uint64		start = pg_atomic_read_u64(&unconstify(PartitionState *, state)->log_start_offset);

	return next_offset != UNKNOWN_OFFSET && start == next_offset && state->active_started == 0;
}

/*
 * The bytes of the active segment.  Before its first record those that were
 * published are of the one before.
 */
static int64
get_active_bytes(const PartitionState *state)
{
	return state->active_started == 0 ? 0 : topics_partition_state_active_bytes(state);
}

/*
 * Return true if something might have to leave.  Cheap: looks at shared memory
 * only.
 */
bool
topics_retention_is_due(const TopicSettings *settings, const PartitionState *state)
{
	TimestampTz before = log_is_empty(state) ? DT_NOBEGIN : get_expiry_time(settings);

	if (before != DT_NOBEGIN &&
		(state->lowest_kept < before || state->retention_looked > GetCurrentTimestamp()))
		return true;
	return settings->delete && settings->retention_bytes >= 0 &&
		(state->droppable_bytes == UNKNOWN_BYTES ||
		 state->droppable_bytes + get_active_bytes(state) >= settings->retention_bytes);
}

/* ----------------------------------------------------------------
 *		Advance
 * ----------------------------------------------------------------
 */

/*
 * Find a record that keeps a segment from expiring: one that is not older than
 * "before".  Return false if there is none; else *kept is its time.  The BRIN
 * index of a sealed segment leads to it.
 */
static bool
find_kept_time(Oid segment_relid, TimestampTz before, int64 from, TimestampTz *kept)
{
	static const Oid types[] = {TIMESTAMPTZOID, INT8OID};
	Datum		values[] = {TimestampTzGetDatum(before), Int64GetDatum(from)};
	int			guc_level = NewGUCNestLevel();
	OwnerScope	scope;
	char	   *sql;
	bool		found;
	bool		isnull;

	*kept = DT_NOBEGIN;
	sql = psprintf("SELECT \"timestamp\" FROM %s"
				   " WHERE \"timestamp\" OPERATOR(pg_catalog.>=) $1"
				   " AND \"offset\" OPERATOR(pg_catalog.>=) $2 LIMIT 1",
				   quote_qualified_identifier(TOPIC_LOG_SCHEMA, get_rel_name(segment_relid)));
	scope = topics_extension_become_owner();
	topics_settings_override("enable_seqscan", "off");
	topics_settings_override("jit", "off");
	topics_settings_override("max_parallel_workers_per_gather", "0");
	SPI_connect();
	if (SPI_execute_with_args(sql, lengthof(types), (Oid *) types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not search segment for a timestamp");
	found = SPI_processed > 0;
	if (found)
		*kept = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
												  1, &isnull));
	SPI_finish();
	topics_extension_become_caller(scope);
	AtEOXact_GUC(false, guc_level);
	return found;
}

/*
 * Return true if a segment has all of its records.  One that a restore has not
 * filled yet looks empty, and must not pass for expired: indexes come last.
 * Nor must one whose records are lost: where compaction has not been, a full
 * segment has some.
 *
 * One that has records, and lost its index, waits for that.  Who took it away
 * has asked for another one; should that have got lost, it is asked for here.
 */
static bool
segment_is_complete(const Segment *segment, PartitionState *state)
{
	Relation	rel = table_open(segment->relid, AccessShareLock);
	bool		has_index = topics_log_index_exists(rel);
	bool		is_empty = RelationGetNumberOfBlocks(rel) == 0;
	PartitionRow row;

	table_close(rel, NoLock);
	if (!has_index && !is_empty)
		pg_atomic_fetch_or_u32(&state->requests, REQUEST_SEAL);
	if (has_index && is_empty)
		return topics_log_start_read_row(&state->id, NULL, &row) &&
			segment->end_offset <= row.gaps_below;
	return has_index;
}

/*
 * Return true if a sealed segment is expired.  If not, *kept says what keeps
 * it.
 */
static bool
segment_is_expired(const Segment *segment, const TopicPartition *id,
				   TimestampTz before, TimestampTz *kept)
{
	TimestampTz sealed_at = topics_segment_row_sealed_at(id, segment->base_offset);

	*kept = DT_NOBEGIN;
	if (sealed_at != 0 && sealed_at < before)
		return true;
	if (!find_kept_time(segment->relid, before, segment->base_offset, kept))
		return true;
	if (sealed_at != 0)
		*kept = Min(*kept, sealed_at);
	return false;
}

/*
 * Return true if all records of the active segment, of which there are some,
 * are expired.  The last record nearly always tells that they are not.
 */
static bool
active_segment_is_expired(Relation partition_rel, const Segment *active, int64 start, int64 end,
						  TimestampTz before, TimestampTz *kept)
{
	LogReader  *reader = topics_log_reader_open(partition_rel, end - 1, end,
												GetActiveSnapshot(), true);
	TupleTableSlot *slot = topics_log_reader_next(reader);
	bool		isnull;

	*kept = DT_NOBEGIN;
	if (slot)
		*kept = DatumGetTimestampTz(slot_getattr(slot, Anum_log_timestamp, &isnull));
	topics_log_reader_close(reader);
	if (slot && *kept >= before)
		return false;
	return !find_kept_time(active->relid, before, start, kept);
}

/*
 * Choose where the log should start by policy.  *cut is set if the active
 * segment must be cut before anything more can go.  The active snapshot is
 * younger than "end": it sees all records below.
 */
static int64
choose_log_start(const Partition *partition, int64 end, bool *cut)
{
	const TopicSettings *settings = &partition->topic->settings;
	PartitionState *state = partition->state;
	int64		start = topics_log_start(state);
	TimestampTz before = get_expiry_time(settings);
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz kept = DT_NOBEGIN;
	int			count;
	Segment    *segments = topics_segment_list(partition->rel, &count);
	int64	   *bytes = palloc0(sizeof(int64) * Max(count, 1));
	int64		total = 0;
	int			i = 0;

	*cut = false;
	if (settings->retention_bytes >= 0)
		for (int j = 0; j < count && segments[j].base_offset <= end; j++)
			if (segments[j].end_offset > start)
				total += bytes[j] = topics_segment_bytes(segments[j].relid);

	for (; i < count && segments[i].base_offset < end; i++)
	{
		if (segments[i].end_offset <= start)
			continue;
		if (segments[i].end_offset > end)
		{
			/* the active segment; where all was deleted, it needs but be cut */
			*cut = start == end ||
				(before != DT_NOBEGIN &&
				 active_segment_is_expired(partition->rel, &segments[i],
										   Max(start, segments[i].base_offset), end,
										   before, &kept));
			break;
		}
		if (!segment_is_complete(&segments[i], state))
			break;
		if (!(settings->retention_bytes >= 0 && total - bytes[i] >= settings->retention_bytes) &&
			!(before != DT_NOBEGIN && segment_is_expired(&segments[i], &state->id, before, &kept)))
			break;
		total -= bytes[i];
		start = segments[i].end_offset;
	}

	/* what the next look need not look at; without records it comes later */
	state->lowest_kept = i < count && segments[i].base_offset < end ? kept : now;
	state->retention_looked = now;
	if (settings->retention_bytes < 0)
		state->droppable_bytes = UNKNOWN_BYTES;
	else
	{
		state->droppable_bytes = 0;
		for (int j = i + 1; j < count && segments[j].end_offset <= end; j++)
			state->droppable_bytes += bytes[j];
		if (i >= count || segments[i].end_offset > end)
			state->droppable_bytes = NOTHING_DROPPABLE;
	}
	pfree(bytes);
	pfree(segments);
	return start;
}

/* Return true if the catalogue has a row for the partition. */
static bool
log_start_is_known(PartitionState *state)
{
	(void) topics_log_start(state);
	return pg_atomic_read_u64(&state->log_start_offset) != UNKNOWN_OFFSET;
}

/*
 * Move the log start to where policy wants it, in the caller's transaction.
 * Return true if the active segment must be cut, and this called again, for
 * more to go.
 */
bool
topics_retention_advance(Partition *partition)
{
	PartitionState *state = partition->state;
	int64		end;
	bool		cut = false;

	topics_catalog_reopen_partition(partition, AccessShareLock);
	TEST_POINT("retention-begun");
	end = topics_log_end(partition, NULL);
	/* in a restore the partition's row may be still to come */
	if (!log_start_is_known(state))
	{
		topics_catalog_close_partition(partition, NoLock);
		return false;
	}
	/* a follower's log starts where the leader's does */
	if (partition->topic->settings.delete &&
		!topics_cluster_follows(state->set))
	{
		int64		start;

		/*
		 * What the snapshot does not show looks expired: records below the
		 * end that were committed after it was taken, in a segment that
		 * another process has sealed meanwhile.  So it is taken now.
		 */
		topics_segment_row_correct_times(&state->id);
		PushActiveSnapshot(GetLatestSnapshot());
		start = choose_log_start(partition, end, &cut);
		PopActiveSnapshot();
		if (start > topics_log_start(state))
		{
			(void) topics_log_start_move(state, start);
			TEST_POINT("retention-moved");
		}
	}
	else
	{
		Segment		active;

		/* what an earlier look has left does not hold when policy returns */
		state->lowest_kept = DT_NOBEGIN;
		state->droppable_bytes = UNKNOWN_BYTES;
		cut = topics_log_start(state) == end &&
			topics_segment_find(partition->rel, end, &active) && active.base_offset < end;
	}
	topics_catalog_close_partition(partition, NoLock);
	return cut;
}

/* ----------------------------------------------------------------
 *		Drop
 * ----------------------------------------------------------------
 */

static void
lock_exclusively(void *relid)
{
	int			guc_level = NewGUCNestLevel();

	topics_settings_override("lock_timeout", LOCK_WAIT_MS);
	LockRelationOid(*(Oid *) relid, AccessExclusiveLock);
	AtEOXact_GUC(false, guc_level);
}

/*
 * Wait for an ACCESS EXCLUSIVE lock, but not for long.  Return true if we have
 * it.
 */
static bool
wait_for_exclusive_lock(Oid relid)
{
	ErrorData  *error = topics_subtransaction_try(lock_exclusively, &relid);

	if (error == NULL)
		return true;
	if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
		ReThrowError(error);
	FreeErrorData(error);
	return false;
}

/*
 * Return true if no other process has a lock on a table, but for readers that
 * are done in no time.
 *
 * The lock is not taken for that.  To take ACCESS EXCLUSIVE is written to the
 * WAL, and to give it back is not: a standby would have it until we commit, and
 * cancel its readers of the table, or keep them waiting.
 */
bool
topics_retention_lock_is_free(Oid relid)
{
	LOCKTAG		tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relid);
	for (int i = 0; i < LOCK_TRIES; i++)
	{
		VirtualTransactionId *holders;
		int			count;

		holders = GetLockConflicts(&tag, AccessExclusiveLock, &count);
		pfree(holders);
		if (count == 0)
			return true;
		CHECK_FOR_INTERRUPTS();
		pg_usleep(1000);
	}
	return false;
}

/*
 * Lock a table ACCESS EXCLUSIVE without waiting in the queue.  Return false if
 * it could not be had.
 */
static bool
try_lock(Oid relid)
{
	for (int i = 0; i < LOCK_TRIES; i++)
	{
		if (ConditionalLockRelationOid(relid, AccessExclusiveLock))
			return true;
		CHECK_FOR_INTERRUPTS();
		pg_usleep(1000);
	}
	return false;
}

/*
 * Lock a table ACCESS EXCLUSIVE, with little delay for others: without waiting,
 * if it can be had in LOCK_TRIES; else in the queue, for a short time.
 */
bool
topics_retention_lock(Oid relid)
{
	return try_lock(relid) || wait_for_exclusive_lock(relid);
}

/*
 * List the segments below the log start, lowest first, at most MAX_DROPS; the
 * last one that there is is left alone.  With "lock", those that could be
 * locked.
 */
static List *
list_droppable(const Partition *partition, bool lock)
{
	int64		start = topics_log_start(partition->state);
	int			count;
	Segment    *segments = topics_segment_list(partition->rel, &count);
	List	   *result = NIL;

	for (int i = 0; i < count - 1 && segments[i].end_offset <= start; i++)
	{
		Segment    *segment;

		if (list_length(result) >= MAX_DROPS ||
			(lock && !ConditionalLockRelationOid(segments[i].relid, AccessExclusiveLock)))
			break;				/* those above must not go before it */
		segment = palloc(sizeof(Segment));
		*segment = segments[i];
		result = lappend(result, segment);
	}
	pfree(segments);
	return result;
}

static void
drop_listed_segments(List *segments, const TopicPartition *id)
{
	ObjectAddresses *objects = new_object_addresses();
	ListCell   *lc;
	OwnerScope	scope;

	scope = topics_extension_become_owner();
	foreach(lc, segments)
	{
		Segment    *segment = lfirst(lc);
		ObjectAddress object = {RelationRelationId, segment->relid, 0};

		add_exact_object_address(&object, objects);
		topics_segment_row_forget(id, segment->base_offset);
	}
	performMultipleDeletions(objects, DROP_RESTRICT, 0);
	free_object_addresses(objects);
	topics_extension_become_caller(scope);
}

/*
 * Lock a partition's table, to drop segments of which this is the lowest.
 * Return InvalidOid, or the table that another process has locked.
 */
static Oid
lock_for_dropping(const Partition *partition, Oid lowest)
{
	/* else the other lock is taken in vain, on standbys too */
	if (!topics_retention_lock_is_free(lowest))
		return lowest;
	return topics_retention_lock(partition->relid) ? InvalidOid : partition->relid;
}

/*
 * Drop some of the segments below the log start, in the caller's transaction.
 * Return true if there may be more to drop right now.  Where locks are in the
 * way, it stays requested.
 */
bool
topics_retention_drop(Partition *partition)
{
	PartitionState *state = partition->state;
	List	   *segments;
	Oid			lowest;
	Oid			blocked;

	/* from the top, as DROP takes them */
	LockRelationOid(get_partition_parent(partition->relid, false), AccessShareLock);
	topics_catalog_reopen_partition(partition, AccessShareLock);
	segments = list_droppable(partition, false);
	topics_catalog_close_partition(partition, AccessShareLock);
	if (segments == NIL)
	{
		topics_delay_end(&state->drop_delay);
		return false;
	}

	lowest = ((Segment *) linitial(segments))->relid;
	blocked = lock_for_dropping(partition, lowest);
	if (!OidIsValid(blocked))
	{
		blocked = lowest;
		topics_catalog_reopen_partition(partition, NoLock);
		segments = list_droppable(partition, true);
		topics_catalog_close_partition(partition, NoLock);
		if (segments != NIL)
		{
			TEST_POINT("retention-locked");
			drop_listed_segments(segments, &state->id);
			topics_delay_end(&state->drop_delay);
			TEST_POINT("retention-dropped");
			/* of what is left, more may be dirty */
			if (state->compact_at != COMPACTION_WANTED)
				state->compact_at = LOOK_NOW;
			return true;
		}
	}
	topics_delay_by_lock(&state->drop_delay, blocked);
	pg_atomic_fetch_or_u32(&state->requests, REQUEST_DROP);
	topics_worker_registry_note_change();
	return false;
}

/* ----------------------------------------------------------------
 *		By hand
 * ----------------------------------------------------------------
 */

/* Arguments of delete_records. */
enum
{
	DELETE_TOPIC,
	DELETE_PARTITION,
	DELETE_BEFORE_OFFSET,
	DELETE_ARGUMENTS
};

/* delete_records(topic, partition, before_offset) */
Datum
topics_delete_records(PG_FUNCTION_ARGS)
{
	Topic	   *topic;
	Partition	partition;
	int32		number;
	int64		before;
	int64		start;
	int64		end;

	topics_settings_require_preload();
	topics_produce_check_context("topics.delete_records()");
	topics_argument_require_all(fcinfo, DELETE_ARGUMENTS);
	topic = topics_catalog_lookup(text_to_cstring(PG_GETARG_TEXT_PP(DELETE_TOPIC)), false);
	topics_catalog_require_owner(topic);
	number = PG_GETARG_INT32(DELETE_PARTITION);
	topics_catalog_check_partition(topic, number);
	topics_cluster_require_leader_of(topics_leader_set_of(&topic->leader_sets, number), "topics.delete_records()");
	before = PG_GETARG_INT64(DELETE_BEFORE_OFFSET);

	partition = topics_catalog_open_for_reading(topic, number);
	start = topics_log_start(partition.state);
	end = topics_log_end(&partition, NULL);
	/* what is lost would not be missed any more */
	topics_broken_topic_check(&partition);
	if (before > end && before > topics_log_next_offset(&partition))
	{
		/* the caller may know of a record that is about to be published */
		(void) topics_log_next_offset_settled(&partition);
		end = topics_log_end(&partition, NULL);
	}
	if (before == -1)
		before = end;
	if (before < 0 || before > end)
		topics_log_report_out_of_range(NameStr(topic->name), partition.number, before, start, end,
									   "Use -1 for the log end.");
	start = topics_log_start_move(partition.state, before);
	topics_catalog_close_partition(&partition, NoLock);
	PG_RETURN_INT64(start);
}
