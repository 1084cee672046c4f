/*-------------------------------------------------------------------------
 *
 * worker_due.c
 *		When a database wants a worker that it does not have.
 *
 * All that is work stands in shared memory, so the launcher and the view
 * topics.worker see it without looking into the database:
 *
 *	a round was asked for, or nobody has looked yet whether the extension is
 *		there: now;
 *	partitions have moved that are to be told of (moved.c): now, or when
 *		pg_topics.notify_interval has passed, or notifications that have failed
 *		are tried again;
 *	something that failed is to be tried again (backoff.c): then;
 *	members of groups may have gone, or have other topics (WorkerSlot.members_due):
 *		then;
 *	something has changed since the last round over all: when the next one is
 *		due, pg_topics.worker_interval after that;
 *	something comes due by itself, as the age of a segment: when the last worker
 *		has found it will (WorkDue, keep/due.c).
 *
 * What is to be compacted is the compactor's, and waits for one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "base/base.h"
#include "shared/shared.h"

/* When to tell of partitions that have moved. */
static MonotonicTime
get_notify_time(int index, const WorkerSlot *slot)
{
	MonotonicTime retry;

	if (topics_moved_is_empty(index))
		return NEVER;
	retry = topics_backoff_next_try(slot->database, 0, true);
	return Max(retry == NEVER ? 0 : retry, slot->notify_not_before);
}

/* When the next round over all that there is comes, or can come. */
MonotonicTime
topics_worker_due_full_round(const WorkerSlot *slot)
{
	return slot->full_began + pg_topics_worker_interval * INT64CONST(1000);
}

/* When something comes due by itself, if not with that round. */
static MonotonicTime
get_own_time(const WorkDue *due)
{
	const TimestampTz now = GetCurrentTimestamp();

	if (due->time == DT_NOEND)
		return due->at;
	/* it has come, or who knows: the clock was set back */
	if (now >= due->time || now < due->noted)
		return 0;
	/* it may be further off than any clock goes */
	return topics_min(due->at, topics_clock_now() + Min(due->time - now, NEVER / 2));
}

/* When there is to be a round that nobody asks for. */
static MonotonicTime
get_round_time(const WorkerSlot *slot)
{
	MonotonicTime time = get_own_time(&slot->due);

	if (pg_atomic_read_u32(unconstify(pg_atomic_uint32 *, &slot->changed)) != 0)
		time = 0;
	return time == NEVER ? NEVER : topics_max(time, topics_worker_due_full_round(slot));
}

/*
 * Return when a database wants a worker, by what is in its slot, of which this
 * is a copy: any time that has passed is now.  NEVER: not as long as nothing is
 * asked for.
 */
MonotonicTime
topics_worker_due_time(int index, const WorkerSlot *slot)
{
	MonotonicTime result;

	if (!OidIsValid(slot->database) || !slot->has_extension)
		return NEVER;
	if (!slot->is_confirmed || slot->round_wanted)
		return 0;
	result = topics_backoff_next_try(slot->database, slot->round_began, false);
	result = topics_min(result, get_notify_time(index, slot));
	if (slot->members_due != 0)
		result = topics_min(result, slot->members_due);
	return topics_min(result, get_round_time(slot));
}
