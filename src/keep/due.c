/*-------------------------------------------------------------------------
 *
 * due.c
 *		When something comes due for a partition by itself.
 *
 * A worker that goes leaves this behind (worker_due.c), so that the next one
 * comes in time.  What maintain.c finds due now, or would if it were later, is
 * here by its time; what somebody asks for is not, since who asks wakes a
 * worker, nor is what has failed, which has a time of its own (backoff.c).
 *
 *	age		of the active segment, if it has records: segment_time, and
 *			retention_time (active_segment_is_old);
 *	expiry	of the record that keeps the lowest segment, if there are any
 *			records (topics_retention_is_due);
 *	look	whether it pays to compact, where time alone can change that
 *			(compact.c).
 *
 * TO ADD A REASON to topics_maintain_is_due that comes by time: here, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "keep/keep.h"
#include "pg_topics.h"

/* It comes due so many milliseconds after a time, or before. */
static void
note_time(WorkDue *due, TimestampTz time, int64 delay_ms)
{
	int64		delay;

	/*
	 * a delay longer than history, or none, or nothing to count from; "older
	 * than" is not "as old as"
	 */
	if (delay_ms < 0 || time == DT_NOBEGIN || pg_mul_s64_overflow(delay_ms, 1000, &delay) ||
		pg_add_s64_overflow(time, delay, &time) || time >= DT_NOEND - 1)
		return;
	due->time = Min(due->time, time + 1);
}

/* The age of the active segment. */
static void
collect_age(const TopicSettings *settings, const PartitionState *state, int64 next_offset,
			WorkDue *due)
{
	if (state->active_started == 0 || next_offset <= state->active_base)
		return;
	note_time(due, state->active_started, settings->segment_ms);
	if (settings->delete)
		note_time(due, state->active_started, settings->retention_ms);
}

/* Find when something comes due for a partition, beside what is in *due. */
void
topics_due_collect(Topic *topic, int32 partition, WorkDue *due)
{
	const TopicSettings *settings = &topic->settings;
	const TopicPartition id = {MyDatabaseId, partition, topic->topic_id};
	PartitionState *state = topics_partition_state_find(&id);
	int64		next_offset;

	/* what a round has left: the next one has it again */
	if (topics_maintain_is_due(topic, partition))
	{
		due->at = 0;
		return;
	}
	Assert(state != NULL);
	next_offset = (int64) pg_atomic_read_u64(&state->next_offset);
	collect_age(settings, state, next_offset, due);
	if (settings->delete && (int64) pg_atomic_read_u64(&state->log_start_offset) < next_offset)
		note_time(due, state->lowest_kept, settings->retention_ms);
	if (!settings->compact)
		return;
	if (state->compact_at != COMPACTION_WANTED)
		due->at = Min(due->at, state->compact_at);
	else if (pg_topics_max_compactors == 0)
		due->at = 0;
}
