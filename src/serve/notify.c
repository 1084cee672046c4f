/*-------------------------------------------------------------------------
 *
 * notify.c
 *		NOTIFY of new records, sent by the worker; topics.channel().
 *
 * A transaction that calls NOTIFY holds a lock of the whole cluster from before
 * its commit record to after it, which would make producers of all partitions
 * stand in one line.  So a producer only pushes the partition onto its
 * database's stack (moved.c), once, and the worker sends for all of them: at
 * once after a rest, then every pg_topics.notify_interval.  What it does grows
 * with the partitions that have moved, not with those there are.
 *
 * A notification is a hint and may come twice; the record is read from the
 * log.  It is not lost as long as the server runs: the worker gives back what
 * it has taken from the stack and has not sent, when it fails or ends.  A
 * worker that rests leaves in its slot when the next one may send.
 *
 * Any role may LISTEN to any channel, so a channel's name is a secret, known to
 * roles that have had the right to read the topic: topic_ and the digits of a
 * random number that is kept in the catalogue.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/async.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "serve/serve.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_channel);

#define MAX_PAYLOAD (BLCKSZ - NAMEDATALEN - 128 - 1)	/* as in async.c */
#define MAX_ENTRY 40			/* ,"2147483647":9223372036854775807 */
#define PAYLOAD_END "}}"

/* A partition to tell of. */
typedef struct Moved
{
	PartitionState *state;
	TopicPartition id;			/* as it was when taken from the stack */
} Moved;

/* Those of one topic. */
typedef struct MovedTopic
{
	Oid			view_relid;
	const Moved *moved;
	int			count;
} MovedTopic;

static PartitionState **taken = NULL;	/* from the stack, not yet told of */
static int	ntaken = 0;

/* ----------------------------------------------------------------
 *		Channels
 * ----------------------------------------------------------------
 */

static char *
format_channel(const Topic *topic)
{
	StringInfoData name;

	initStringInfo(&name);
	appendStringInfoString(&name, "topic_");
	for (int i = 0; i < UUID_LEN; i++)
		appendStringInfo(&name, "%02x", topic->notify_key.data[i]);
	return name.data;
}

/* channel(topic) */
Datum
topics_channel(PG_FUNCTION_ARGS)
{
	Topic	   *topic;

	topics_settings_require_preload();
	topic = topics_catalog_lookup(topics_argument_get_text(fcinfo, 0), false);
	topics_catalog_require(topic, ACL_SELECT);
	PG_RETURN_TEXT_P(cstring_to_text(format_channel(topic)));
}

/* ----------------------------------------------------------------
 *		What to send
 * ----------------------------------------------------------------
 */

static int
compare_moved(const void *a, const void *b)
{
	const TopicPartition *ia = &((const Moved *) a)->id;
	const TopicPartition *ib = &((const Moved *) b)->id;

	if (ia->topic_id != ib->topic_id)
		return ia->topic_id < ib->topic_id ? -1 : 1;
	return ia->partition < ib->partition ? -1 : ia->partition > ib->partition;
}

/* Select this database's partitions, sorted by topic and partition. */
static Moved *
sort_taken(int *count)
{
	Moved	   *moved = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(Moved) * ntaken);

	*count = 0;
	for (int i = 0; i < ntaken; i++)
	{
		TopicPartition id = taken[i]->id;

		if (id.database == MyDatabaseId)
		{
			moved[*count].state = taken[i];
			moved[(*count)++].id = id;
		}
		else
			topics_moved_push(taken[i]);	/* another database has it now */
	}
	qsort(moved, *count, sizeof(Moved), compare_moved);
	return moved;
}

/*
 * Find the log end to tell of.  The result is -1 if the partition has gone, or
 * has no new record that may be read.  If it has one that will be, it is for
 * later, too.
 */
static int64
find_log_end(Topic *topic, const Moved *moved)
{
	PartitionState *state = moved->state;
	int64		next = pg_atomic_read_u64(&state->next_offset);
	int64		end;

	if (next == UNKNOWN_OFFSET)
	{
		Partition	partition = {.topic = topic,.number = moved->id.partition};

		if (partition.number >= topic->partitions ||
			!topics_catalog_try_open_partition(&partition, AccessShareLock))
			return -1;
		next = topics_log_next_offset(&partition);
		topics_catalog_close_partition(&partition, AccessShareLock);
	}
	/* nobody is told of a record that a crash can take back */
	topics_log_flush(state);
	end = topics_min(next, topics_read_cut_limit(state, NULL));
	if (end < next)
	{
		topics_moved_push(state);
		if (end <= state->told_end)
			return -1;
	}
	state->told_end = end;
	return end;
}

static void
begin_payload(StringInfo payload, const Topic *topic)
{
	resetStringInfo(payload);
	appendStringInfoString(payload, "{\"topic\":");
	escape_json(payload, NameStr(topic->name));
	appendStringInfoString(payload, ",\"end_offsets\":{");
}

static void
send_payload(StringInfo payload, const char *channel)
{
	appendStringInfoString(payload, PAYLOAD_END);
	Async_Notify(channel, payload->data);
}

/*
 * Work: tell of one topic's partitions, in as few notifications as can hold
 * them.
 */
static void
notify_topic(void *arg)
{
	const MovedTopic *work = arg;
	Topic	   *topic = topics_catalog_get(work->view_relid, true);
	const Moved *moved = work->moved;
	char	   *channel;
	StringInfoData payload;
	int			entries = 0;

	if (topic == NULL || !topic->settings.notify)
		return;
	TEST_POINT("notify-topic");
	channel = format_channel(topic);
	initStringInfo(&payload);
	begin_payload(&payload, topic);
	for (int i = 0; i < work->count; i++)
	{
		int64		end = find_log_end(topic, &moved[i]);

		if (end < 0)
			continue;
		if (payload.len + MAX_ENTRY + strlen(PAYLOAD_END) > MAX_PAYLOAD)
		{
			send_payload(&payload, channel);
			begin_payload(&payload, topic);
			entries = 0;
		}
		appendStringInfo(&payload, "%s\"%d\":" INT64_FORMAT, entries++ > 0 ? "," : "",
						 moved[i].id.partition, end);
	}
	if (entries > 0)
		send_payload(&payload, channel);
}

/*
 * Work: tell of all that was taken.  The partitions of a topic that fails are
 * for later.
 */
static void
notify_taken(void *arg)
{
	int			count;
	Moved	   *moved;

	PushActiveSnapshot(GetTransactionSnapshot());
	topics_extension_check_version();
	moved = topics_extension_exists() ? sort_taken(&count) : NULL;
	for (int i = 0; moved && i < count;)
	{
		MovedTopic	work = {topics_catalog_view_of(moved[i].id.topic_id), &moved[i], 0};
		const WorkPiece piece = {MyDatabaseId, work.view_relid, WHOLE_TOPIC, WORK_NOTIFY, METADATA_SET};

		while (i < count && moved[i].id.topic_id == work.moved->id.topic_id)
		{
			work.count++;
			i++;
		}
		if (OidIsValid(work.view_relid) &&
			!topics_backoff_run(&piece, get_rel_name(work.view_relid), notify_topic, &work))
			for (int j = 0; j < work.count; j++)
				topics_moved_push(work.moved[j].state);
	}
	PopActiveSnapshot();
}

/* ----------------------------------------------------------------
 *		When to send
 * ----------------------------------------------------------------
 */

/* Give back what was taken and not told of: it is told of later. */
void
topics_notify_give_back(void)
{
	while (ntaken > 0)
		topics_moved_push(taken[--ntaken]);
}

/*
 * In the worker, outside of a transaction: send what is due.  The result is
 * the time in milliseconds until more is, or -1 if nothing waits.
 */
long
topics_notify_send(WorkerSlot *slot)
{
	const WorkPiece piece = {MyDatabaseId, InvalidOid, WHOLE_TOPIC, WORK_NOTIFY, METADATA_SET};
	const int	index = topics_worker_registry_index(slot);
	long		left;

	if (topics_moved_is_empty(index))
		return -1;
	left = topics_max(topics_backoff_left(&piece),
					  (long) topics_clock_ms_until(slot->notify_not_before));
	if (left > 0)
		return left;

	if (taken == NULL)
		taken = MemoryContextAllocHuge(TopMemoryContext,
									   sizeof(PartitionState *) * pg_topics_max_partitions);
	ntaken = topics_moved_pop(slot, taken);
	if (topics_backoff_run(&piece, NULL, notify_taken, NULL))
		ntaken = 0;
	topics_notify_give_back();
	topics_worker_slot_note_notified(slot, pg_topics_notify_interval);
	return topics_moved_is_empty(index) ? -1 :
		topics_max(topics_backoff_left(&piece), pg_topics_notify_interval);
}
