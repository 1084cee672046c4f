/*-------------------------------------------------------------------------
 *
 * poll.c
 *		poll(): records of the partitions that a member was assigned.
 *
 * A member's position in each partition is in shared memory.  poll() moves it
 * at once, also if the caller rolls back, as it does in Kafka's client: what
 * is committed is what commit_offset() says.  So a member may poll in one
 * transaction, work in none, and commit in another.  After a restart, and in
 * each partition that it did not have before, it goes on from the committed
 * offset.
 *
 * A call takes part in a rebalance first: the member gives up what is no
 * longer its own, and gets what is free (member_table.c).  Then it reads
 * partitions in turn, from the one after that which was read last, until a
 * limit is reached.  Positions are moved at the end, all together: an error
 * moves none.
 *
 * Two calls for a member at the same time are one after the other
 * (topics_member_lock).
 *
 * A member may be in several leader sets (rebalance.c), which are read one
 * after the other.  If it goes from one of them meanwhile, what was read there
 * is returned, though nothing can be committed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "read/read.h"
#include "group/group.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_poll);
PG_FUNCTION_INFO_V1(topics_poll_wait);

/* So often in its session timeout a member that waits says that it lives. */
#define HEARTBEATS 3

/* Arguments of poll(); the first is that of poll_wait(), too. */
enum
{
	POLL_MEMBER_ID,
	POLL_MAX_RECORDS			/* and, behind it, max_bytes and max_wait */
};

/* Columns of its result: the record stands between the two of its own. */
enum
{
	POLL_TOPIC,
	POLL_RECORD,
	POLL_GENERATION_ID = POLL_RECORD + RECORD_COLUMNS,
	POLL_COLUMNS
};

/* What a member polls in a leader set. */
typedef struct PollPart
{
	MemberCall	call;
	MemberPlace *places;
	int			count;
	uint32		turn;			/* which place is polled first next time */
} PollPart;

/* A call of poll(). */
typedef struct Poll
{
	char	   *member_id;
	FetchLimits limits;			/* what is left of them */
	RowSink		sink;
	bool		as_bytes;
	int			nread;			/* records */
} Poll;

/* ----------------------------------------------------------------
 *		Places
 * ----------------------------------------------------------------
 */

/*
 * Find where the member stands in a partition.  Return false if the topic has
 * gone.
 */
static bool
find_place(const MemberPlace *known, Place *place, OffsetReset reset)
{
	Topic	   *topic = topics_catalog_by_id(known->entry.key.topic_id);

	if (topic == NULL || known->entry.key.partition >= topic->partitions)
		return false;
	place->partition = topics_catalog_partition(topic, known->entry.key.partition);
	topics_place_set(place, &known->entry, reset);
	if (known->position != NO_OFFSET)
	{
		place->position = known->position;
		place->parted_at = NO_OFFSET;
		place->has_begun = true;
	}
	return true;
}

/* Get where the group begins in a topic, by its subscription. */
static OffsetReset
get_reset(const MemberPlace *known)
{
	GroupOffset entry;

	if (!topics_offset_table_peek(known->entry.key.group_id, known->entry.key.topic_id, NO_PARTITION, &entry))
		return RESET_EARLIEST;
	return entry.facts.reset;
}

/* ----------------------------------------------------------------
 *		Reading
 * ----------------------------------------------------------------
 */

/*
 * Read records of a place into the result, and return the offset to go on
 * from.
 */
static int64
read_records(Poll *poll, const PollPart *part, const Place *place, Snapshot snapshot)
{
	Topic	   *topic = place->partition.topic;
	FetchRequest request = {topic, place->partition.number, place->position, poll->limits, true, NO_LEADER_EPOCH};
	RecordOutput output = topics_fetch_output_as(topic, poll->as_bytes);
	Datum		values[POLL_COLUMNS];
	bool		nulls[POLL_COLUMNS] = {false};
	Fetch		fetch;

	values[POLL_TOPIC] = CStringGetTextDatum(NameStr(topic->name));
	values[POLL_GENERATION_ID] = Int32GetDatum(part->call.generation);
	topics_fetch_open(&fetch, &request, snapshot);
	while (topics_fetch_next(&fetch, &output, values + POLL_RECORD, nulls + POLL_RECORD))
		topics_fetch_put_row(&poll->sink, values, nulls);
	topics_fetch_close(&fetch);
	poll->nread += fetch.count;
	poll->limits.max_records -= fetch.count;
	poll->limits.max_bytes -= Min(fetch.bytes, poll->limits.max_bytes);
	return fetch.count > 0 ? fetch.next : place->position;
}

/*
 * Read a place, and note where the member goes on.  Return false if there was
 * no record.
 */
static bool
read_place(Poll *poll, const PollPart *part, MemberPlace *known)
{
	Place		place;
	GroupTopic	at;
	bool		is_fresh = !IsolationUsesXactSnapshot();
	int64		end;
	Snapshot	snapshot;
	int64		next;

	if (!find_place(known, &place, known->position == NO_OFFSET ? get_reset(known) : RESET_NONE))
		return false;
	topics_place_look(&place);
	if (!topics_place_has_record_or_error(&place))
		return false;
	at = (GroupTopic)
	{
		known->entry.key.group_id, NameStr(place.partition.topic->name), get_reset(known), true
	};
	topics_catalog_require(place.partition.topic, ACL_SELECT);
	if (topics_place_settle(&place, &at) == PLACE_SKIPS_ALL)
		known->next = place.position;
	if (!topics_place_has_record_or_error(&place))
		return false;

	end = topics_place_readable_end(&place);
	/* taken after the end was read: it sees all records below */
	snapshot = RegisterSnapshot(is_fresh ? GetLatestSnapshot() : GetTransactionSnapshot());
	TEST_POINT("place-polled");
	next = read_records(poll, part, &place, snapshot);
	UnregisterSnapshot(snapshot);
	if (next > place.position)
	{
		known->next = next;
		return true;
	}
	/* compaction has taken all that there were */
	if (is_fresh && end != UNKNOWN_OFFSET && !topics_place_is_removed(&place))
		known->next = Max(end, place.position);
	return false;
}

/* Read what the member has in a leader set, in turn. */
static void
read_places(Poll *poll, PollPart *part)
{
	part->turn = part->call.turn;
	for (int i = 0; i < part->count; i++)
	{
		int			index = (part->call.turn + i) % part->count;

		if (poll->limits.max_records <= 0 || poll->limits.max_bytes <= 0)
			break;
		CHECK_FOR_INTERRUPTS();
		if (read_place(poll, part, &part->places[index]))
			part->turn = (index + 1) % part->count;
	}
}

/*
 * Take part in a rebalance of a leader set, if there is one, and look at what
 * the member has there.
 */
static bool
open_part(Poll *poll, int set, PollPart *part)
{
	if (!topics_member_table_look(poll->member_id, set, &part->call))
		return false;
	if (!part->call.is_settled)
	{
		topics_member_take(poll->member_id, &part->call, false);
		if (!topics_member_table_look(poll->member_id, set, &part->call))
			return false;
	}
	part->places = topics_member_table_list_places(&part->call, false, &part->count);
	return true;
}

/*
 * Get the leader sets in which a member is, in the order in which they are
 * polled: one after the other, from any one, so that none always has what is
 * left of the limits.
 */
static int
list_sets(uint32 sets, int result[MAX_LEADER_SETS])
{
	int			count = 0;
	int			first;

	for (int set = -1; (set = topics_leader_set_after(sets, set)) >= 0;)
		result[count++] = set;
	if (count < 2)
		return count;
	first = pg_prng_uint64_range(&pg_global_prng_state, 0, count - 1);
	for (int i = 0; i < first; i++)
	{
		const int	moved = result[0];

		memmove(result, result + 1, sizeof(int) * (count - 1));
		result[count - 1] = moved;
	}
	return count;
}

/* Read.  Return false if there was no record. */
static bool
poll_once(Poll *poll)
{
	PollPart	parts[MAX_LEADER_SETS];
	int			sets[MAX_LEADER_SETS];
	int			nsets;
	int			nparts = 0;
	bool		is_stored = false;

	topics_member_lock(poll->member_id);
	nsets = list_sets(topics_member_call(poll->member_id, true).sets, sets);
	for (int i = 0; i < nsets; i++)
		if (open_part(poll, sets[i], &parts[nparts]))
			read_places(poll, &parts[nparts++]);
	for (int i = 0; i < nparts; i++)
	{
		is_stored |= topics_member_table_store(poll->member_id, &parts[i].call, parts[i].places,
											   parts[i].count, parts[i].turn);
		pfree(parts[i].places);
	}
	/* if only a part has gone, the next call finds what is left */
	if (!is_stored)
		topics_member_report_unknown(poll->member_id);
	topics_member_unlock(poll->member_id);
	return poll->nread > 0;
}

/* ----------------------------------------------------------------
 *		Waiting
 * ----------------------------------------------------------------
 */

/* A member that waits. */
typedef struct MemberWait
{
	char	   *member_id;
	int			channel;
} MemberWait;

/*
 * Return true if a partition that a member has got a record, or an error to
 * tell it.
 */
static bool
has_place_record(const MemberWait *wait, const MemberPlace *known)
{
	Place		place;

	if (!find_place(known, &place, get_reset(known)))
		return false;
	topics_wakeup_want_channel(topics_catalog_partition_state(place.partition.topic, 0), wait->channel);
	return topics_place_watch(&place);
}

/*
 * Return true if a poll would get something, or wants to: records of any
 * partition that the member has, or others' partitions.
 */
static bool
is_poll_due(void *arg)
{
	const MemberWait *wait = arg;
	bool		found = false;

	AcceptInvalidationMessages();
	for (int set = -1; (set = topics_leader_set_after(topics_member_table_sets(), set)) >= 0;)
	{
		MemberCall	call;
		MemberPlace *places;
		int			count;

		if (!topics_member_table_look(wait->member_id, set, &call))
			continue;
		found = true;
		if (topics_member_table_is_wanted(&call))
			return true;
		places = topics_member_table_list_places(&call, false, &count);
		for (int i = 0; i < count; i++)
			if (has_place_record(wait, &places[i]))
				return true;
		pfree(places);
	}
	/* it has gone: who looks hears of it */
	return !found;
}

/*
 * Wait until a poll is worth it, or until the deadline; the member lives
 * meanwhile, and a wait counts as polling.  Return false if it is not.
 */
static bool
wait_for_poll(MemberWait *wait, MonotonicTime deadline)
{
	for (;;)
	{
		MemberCall	call;
		long		left = topics_clock_ms_until(deadline);
		long		slice;

		/* this node may have another role by now */
		topics_member_prepare(wait->member_id);
		call = topics_member_call(wait->member_id, true);
		wait->channel = topics_member_table_channel(call.group_id);
		slice = Max(call.session_timeout_ms / HEARTBEATS, 1);
		if (left <= 0)
			return false;
		if (topics_wakeup_wait_on_channel(wait->channel, is_poll_due, wait, Min(left, slice)))
		{
			/* one that has gone, or is another node's by now, is told so */
			topics_member_prepare(wait->member_id);
			(void) topics_member_call(wait->member_id, true);
			return true;
		}
	}
}

/* ----------------------------------------------------------------
 *		SQL
 * ----------------------------------------------------------------
 */

/* poll(member_id, max_records, max_bytes, max_wait) */
Datum
topics_poll(PG_FUNCTION_ARGS)
{
	Poll		poll = {0};
	MonotonicTime deadline;

	topics_settings_require_preload();
	topics_argument_require_all(fcinfo, PG_NARGS());
	topics_produce_check_call(fcinfo);
	poll.member_id = text_to_cstring(PG_GETARG_TEXT_PP(POLL_MEMBER_ID));
	poll.limits = topics_fetch_limits(fcinfo, POLL_MAX_RECORDS);
	topics_member_prepare(poll.member_id);
	poll.sink = topics_fetch_open_sink(fcinfo);
	poll.as_bytes = TupleDescAttr(poll.sink.desc, POLL_RECORD + RECORD_VALUE)->atttypid == BYTEAOID;
	deadline = topics_clock_in(poll.limits.max_wait_ms);
	while (!poll_once(&poll) && poll.limits.max_wait_ms > 0 && !IsolationUsesXactSnapshot())
	{
		MemberWait	wait = {.member_id = poll.member_id};

		if (!wait_for_poll(&wait, deadline))
			break;
	}
	return (Datum) 0;
}

/* CALL poll_wait(member_id, max_wait) */
Datum
topics_poll_wait(PG_FUNCTION_ARGS)
{
	MemberWait	wait = {0};
	long		timeout_ms;

	topics_settings_require_preload();
	topics_argument_require_all(fcinfo, PG_NARGS());
	wait.member_id = text_to_cstring(PG_GETARG_TEXT_PP(POLL_MEMBER_ID));
	timeout_ms = topics_wakeup_max_wait(PG_GETARG_INTERVAL_P(POLL_MEMBER_ID + 1), WAKEUP_MAX_WAIT_MS);
	PreventCommandDuringRecovery("topics.poll_wait()");
	topics_member_prepare(wait.member_id);
	(void) topics_member_call(wait.member_id, true);
	topics_wakeup_release_snapshots(fcinfo, "topics.poll_wait()");
	(void) wait_for_poll(&wait, topics_clock_in(timeout_ms));
	topics_wakeup_restore_snapshot();
	PG_RETURN_VOID();
}
