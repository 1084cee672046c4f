/*-------------------------------------------------------------------------
 *
 * delay.c
 *		What keeps a step of the worker's from being done, though nothing fails.
 *
 * A transaction that stays open has a lock that dropping or compaction needs,
 * or a snapshot that still sees what is to go.  Those steps wait for nobody:
 * they try again later.  So nothing else tells that they are late.  The
 * process that finds something in the way notes it in the partition's state,
 * and takes the note back when it has got on.
 *
 * A note is written without a lock by one process at a time, as a rule, and
 * read by the view topics.worker, which looks up who is in the way by then
 * (serve/delay_monitor.c).  At worst it finds nobody, and shows no row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "miscadmin.h"

#include "base/base.h"
#include "shared/shared.h"

/* Others have locked a table, and did so without a break since it was noted. */
void
topics_delay_by_lock(WorkDelay *delay, Oid relid)
{
	if (delay->since == 0 || !OidIsValid(delay->relid))
		delay->since = topics_clock_now();
	delay->relid = relid;
}

/*
 * There may be a snapshot that sees no transaction from "xmin" on.  A note of
 * the same one stays.
 */
void
topics_delay_by_snapshot(WorkDelay *delay, TransactionId xmin)
{
	if (delay->since != 0 && !OidIsValid(delay->relid) && delay->xmin == xmin)
		return;
	delay->relid = InvalidOid;
	delay->xmin = xmin;
	delay->since = topics_clock_now();
}

/* Nothing is in the way. */
void
topics_delay_end(WorkDelay *delay)
{
	delay->since = 0;
}

static List *
add_delay(List *list, const PartitionState *state, WorkStep step, const WorkDelay *delay,
		  MonotonicTime not_before)
{
	PartitionDelay *entry = palloc(sizeof(PartitionDelay));

	entry->id = state->id;
	entry->step = step;
	entry->delay = *delay;
	entry->not_before = not_before;
	/* the state may be another partition's by now, or the delay over */
	if (entry->id.database != MyDatabaseId || entry->delay.since == 0 ||
		topics_clock_now() - entry->delay.since < DELAY_SHOWN_MS * INT64CONST(1000))
		return list;
	return lappend(list, entry);
}

/*
 * List the PartitionDelays of this database that have lasted for some time, so
 * that they are worth telling of.
 */
List *
topics_delay_list(void)
{
	List	   *result = NIL;

	for (int i = 0; i < pg_topics_max_partitions; i++)
	{
		const PartitionState *state = topics_partition_state_at(i);

		if (state->id.database != MyDatabaseId)
			continue;
		if (state->drop_delay.since != 0)
			result = add_delay(result, state, STEP_DROP, &state->drop_delay, 0);
		if (state->compact_delay.since != 0)
		{
			MonotonicTime at = state->compact_at;

			result = add_delay(result, state, STEP_COMPACT, &state->compact_delay,
							   at == COMPACTION_WANTED ? NEVER : at);
		}
	}
	return result;
}
