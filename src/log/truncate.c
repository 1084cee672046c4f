/*-------------------------------------------------------------------------
 *
 * truncate.c
 *		Take the end of a partition's log away, as another leader's log goes on.
 *
 * A follower has records that the leader does not have, which nobody had
 * confirmed (node/divergence.c): they are deleted, as rows of any table, and
 * the offsets are given to others.  What compaction and failed transactions
 * leave behind looks the same to whoever goes by offsets: dead rows in
 * between.  A snapshot that is older still sees them, and none of what comes
 * in their place.
 *
 * A segment that was sealed, and is appended to again, loses its index, since
 * appending maintains none.  What the catalogue says of the partition comes
 * down to the new end.  Shared memory follows when the transaction has
 * committed (topics_truncate_at_end): until then, and for a moment longer,
 * readers find less than what they were told, as they do when an offset is
 * beyond a snapshot.
 *
 * The caller keeps all others from writing to the partition, and knows that
 * the log starts at the new end, or below.  The newest of what is taken away
 * is kept in topic_log.truncated.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "pg_topics.h"

#define MAX_KEPT 100000			/* records in topic_log.truncated */
#define MAX_KEPT_BYTES (64 * 1024 * 1024)	/* of their keys, values and
											 * headers */

/* A log that is truncated when the transaction commits. */
typedef struct PendingEnd
{
	PartitionState *state;
	TopicPartition id;
	int64		end;
} PendingEnd;

static List *pending_ends = NIL;	/* in TopTransactionContext */

/* Drop the indexes of a segment, which is going to be appended to. */
static void
drop_indexes(Oid segment_relid)
{
	Relation	rel = table_open(segment_relid, RowExclusiveLock);
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;

	table_close(rel, NoLock);
	foreach(lc, indexes)
	{
		ObjectAddress address = {RelationRelationId, lfirst_oid(lc), 0};

		performDeletion(&address, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
	}
}

/* Open the segments that have anything from an offset on for appending. */
static void
reopen_segments(const Partition *partition, int64 end)
{
	int			count;
	Segment    *segments = topics_segment_list(partition->rel, &count);

	for (int i = 0; i < count; i++)
		if (segments[i].end_offset > end)
			drop_indexes(segments[i].relid);
	topics_statement_execute("DELETE FROM topic_log.segment s USING"
							 " (SELECT max(base_offset) AS base FROM topic_log.segment WHERE topic_id = " INT64_FORMAT
							 " AND partition = %d AND base_offset <= " INT64_FORMAT ") l"
							 " WHERE topic_id = " INT64_FORMAT " AND partition = %d AND base_offset >= coalesce(l.base, 0)",
							 partition->state->id.topic_id, partition->number, end,
							 partition->state->id.topic_id, partition->number);
}

/*
 * Find the first of the records that are kept, from an offset on: the newest,
 * as many as may be kept.  Values of another type than text count as they are
 * stored.
 */
static int64
find_first_kept(const Partition *partition, int64 end)
{
	int64		next = topics_max(topics_log_next_offset(partition), end);
	int64		from = topics_max(end, next - MAX_KEPT);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	LogReader  *reader = topics_log_reader_open(partition->rel, from, PG_INT64_MAX, snapshot, true);
	int64	   *bytes = palloc0(sizeof(int64) * topics_max(next - from, 1));
	int64		total = 0;
	int64		result = next;
	TupleTableSlot *slot;

	while ((slot = topics_log_reader_next(reader)) != NULL)
	{
		int64		place = topics_log_get_offset(slot) - from;

		CHECK_FOR_INTERRUPTS();
		if (place >= next - from)
			break;
		slot_getallattrs(slot);
		for (int i = Anum_log_key - 1; i < Anum_log_headers; i++)
			bytes[place] += topics_log_value_bytes(slot->tts_values[i], slot->tts_isnull[i],
												   TupleDescAttr(slot->tts_tupleDescriptor, i)->attlen);
	}
	topics_log_reader_close(reader);
	UnregisterSnapshot(snapshot);
	while (result > from && total + bytes[result - from - 1] <= MAX_KEPT_BYTES)
		total += bytes[--result - from];
	pfree(bytes);
	return result;
}

#define KEPT_BYTES \
	"coalesce(octet_length(key), 0) + coalesce(octet_length(value), 0) + coalesce(octet_length(headers::text), 0)"

/* Keep the newest of what is going to be taken away. */
static void
keep_records(const Partition *partition, int64 end, int64 epoch)
{
	(void) topics_read_cut_show_all(true);
	topics_statement_execute("INSERT INTO topic_log.truncated (topic, topic_id, notify_key, partition, \"offset\", \"timestamp\", key, value, headers, epoch)"
							 " SELECT %s, t.topic_id, t.notify_key, %d, \"offset\", \"timestamp\", key::text, value::text, headers, " INT64_FORMAT
							 " FROM topic_log.%s, topic_log.topic t WHERE t.topic_id = " INT64_FORMAT
							 " AND \"offset\" >= " INT64_FORMAT " ORDER BY \"offset\"",
							 quote_literal_cstr(NameStr(partition->topic->name)), partition->number, epoch,
							 quote_identifier(RelationGetRelationName(partition->rel)),
							 partition->state->id.topic_id, find_first_kept(partition, end));
	(void) topics_read_cut_show_all(false);
	topics_statement_execute("DELETE FROM topic_log.truncated WHERE number <="
							 " (SELECT number FROM topic_log.truncated ORDER BY number DESC OFFSET %d LIMIT 1)", MAX_KEPT);
	/* the places are only looked up if there are too many bytes */
	topics_statement_execute("DELETE FROM topic_log.truncated t USING (SELECT number, sum(" KEPT_BYTES ") OVER w AS bytes"
							 " FROM topic_log.truncated WINDOW w AS (ORDER BY number DESC)) r"
							 " WHERE r.number = t.number AND bytes > %d"
							 " AND (SELECT sum(" KEPT_BYTES ") > %d FROM topic_log.truncated)",
							 MAX_KEPT_BYTES, MAX_KEPT_BYTES);
}

/* Delete the records from an offset on.  Return how many there were. */
static int64
delete_records(const Partition *partition, int64 end)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	LogReader  *reader = topics_log_reader_open(partition->rel, end, PG_INT64_MAX, snapshot, true);
	TupleTableSlot *slot;
	Relation	rel = NULL;
	int64		count = 0;

	while ((slot = topics_log_reader_next(reader)) != NULL)
	{
		if (rel == NULL || RelationGetRelid(rel) != slot->tts_tableOid)
		{
			if (rel)
				table_close(rel, NoLock);
			rel = table_open(slot->tts_tableOid, RowExclusiveLock);
		}
		CHECK_FOR_INTERRUPTS();
		/* past the access method, which refuses this of everybody */
		simple_heap_delete(rel, &slot->tts_tid);
		count++;
	}
	if (rel)
		table_close(rel, NoLock);
	topics_log_reader_close(reader);
	UnregisterSnapshot(snapshot);
	return count;
}

/*
 * Truncate a log to an end, in this transaction.  "epoch" is the one that the
 * records were of, for topics.truncated.  Return how many there were.
 */
int64
topics_truncate_log(const Partition *partition, int64 end, int64 epoch)
{
	StatementScope scope;
	MemoryContext old;
	PendingEnd *pending;
	int64		count;

	PushActiveSnapshot(GetLatestSnapshot());
	scope = topics_statement_begin();
	keep_records(partition, end, epoch);
	reopen_segments(partition, end);
	topics_statement_execute("UPDATE topic_log.partition SET next_offset_floor = LEAST(next_offset_floor, " INT64_FORMAT
							 "), high_watermark = LEAST(high_watermark, " INT64_FORMAT
							 "), clean_offset = LEAST(clean_offset, " INT64_FORMAT
							 "), gaps_below = LEAST(gaps_below, " INT64_FORMAT
							 ") WHERE topic_id = " INT64_FORMAT " AND partition = %d",
							 end, end, end, end, partition->state->id.topic_id, partition->number);
	topics_statement_end(scope);
	PopActiveSnapshot();
	count = delete_records(partition, end);

	old = MemoryContextSwitchTo(TopTransactionContext);
	pending = palloc(sizeof(PendingEnd));
	pending->state = partition->state;
	pending->id = partition->state->id;
	pending->end = end;
	pending_ends = lappend(pending_ends, pending);
	MemoryContextSwitchTo(old);
	return count;
}

/* Return true if this transaction truncates a log. */
bool
topics_truncate_is_pending(void)
{
	return pending_ends != NIL;
}

/* At the end of a transaction: tell shared memory.  Raises nothing. */
void
topics_truncate_at_end(bool commit)
{
	ListCell   *lc;

	foreach(lc, pending_ends)
	{
		const PendingEnd *pending = lfirst(lc);

		if (commit && memcmp(&pending->state->id, &pending->id, sizeof(TopicPartition)) == 0)
			topics_high_watermark_truncate(pending->state, pending->end);
	}
	pending_ends = NIL;
}
