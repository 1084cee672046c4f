/*-------------------------------------------------------------------------
 *
 * notify.c
 *		NOTIFY of new records, sent by the worker; topics.channel().
 *
 * A transaction that calls NOTIFY holds a lock of the whole cluster from
 * before its commit record to after it, which would make producers of all
 * partitions stand in one line.  So producers only push the partition onto
 * its database's stack (shmem.c), once, and the worker sends for all of
 * them: at once after a rest, then every pg_topics.notify_interval.  What
 * it does grows with the partitions that have moved, not with those there are.
 *
 * A notification is a hint and may come twice; the record is read from the
 * log.  It is not lost as long as the server runs: what the worker has taken
 * from the stack and has not sent it gives back, when it fails or ends.
 *
 * Anybody may LISTEN to anything, so a channel's name is a secret, known to
 * who has had the right to read the topic: topic_ and the digits of a random
 * number that is kept in the catalogue.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "commands/async.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_channel);

#define MAX_PAYLOAD (BLCKSZ - NAMEDATALEN - 128 - 1)	/* as in async.c */
#define MAX_ENTRY 40			/* ,"2147483647":9223372036854775807 */
#define RETRY_MS 5000

/* A partition to tell of. */
typedef struct Moved
{
	PartitionState *state;
	TopicPartition id;			/* as it was when taken from the stack */
} Moved;

static PartitionState **taken = NULL;	/* from the stack, and not yet told of */
static int	ntaken = 0;

static bool resting = false;	/* nothing is sent until rest_ms after last_sent */
static instr_time last_sent;
static long rest_ms;

/* ----------------------------------------------------------------
 *		Channels
 * ----------------------------------------------------------------
 */

static char *
channel_name(const Topic *topic)
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

	topics_require_preload();
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("topic must not be null")));
	topic = topics_catalog_lookup(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	topics_catalog_require(topic, ACL_SELECT);
	PG_RETURN_TEXT_P(cstring_to_text(channel_name(topic)));
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

/* What was taken, by topic and partition. */
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
			topics_shmem_push_moved(taken[i]);	/* was given away meanwhile */
	}
	qsort(moved, *count, sizeof(Moved), compare_moved);
	return moved;
}

/* The log end, looked up if a foreign writer has moved it; -1 if it has gone. */
static int64
log_end(Topic *topic, const Moved *moved)
{
	int64		end = pg_atomic_read_u64(&moved->state->next_offset);
	Oid			relid;
	Relation	rel;

	if (end != UNKNOWN_OFFSET)
		return end;
	if (moved->id.partition >= topic->partitions)
		return -1;
	relid = topics_catalog_partition_relid(topic, moved->id.partition);
	rel = OidIsValid(relid) ? try_relation_open(relid, AccessShareLock) : NULL;
	if (rel == NULL)
		return -1;
	end = topics_log_end(rel, topics_catalog_partition_state(topic, moved->id.partition));
	relation_close(rel, AccessShareLock);
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
	appendStringInfoString(payload, "}}");
	Async_Notify(channel, payload->data);
}

/* Tell of one topic's partitions: as few notifications as can hold them. */
static void
notify_topic(Topic *topic, const Moved *moved, int count)
{
	char	   *channel = channel_name(topic);
	StringInfoData payload;
	int			entries = 0;

	initStringInfo(&payload);
	begin_payload(&payload, topic);
	for (int i = 0; i < count; i++)
	{
		int64		end = log_end(topic, &moved[i]);

		if (end < 0)
			continue;
		if (payload.len + MAX_ENTRY + 2 > MAX_PAYLOAD)
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

static void
notify_taken(void)
{
	int			count;
	Moved	   *moved = sort_taken(&count);

	for (int i = 0, n; i < count; i += n)
	{
		Topic	   *topic = topics_catalog_by_id(moved[i].id.topic_id);

		for (n = 1; i + n < count && moved[i + n].id.topic_id == moved[i].id.topic_id; n++)
			;
		if (topic && topic->settings.notify)
			notify_topic(topic, &moved[i], n);
	}
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
		topics_shmem_push_moved(taken[--ntaken]);
}

/* Send for all that was taken; false if that has failed, and was logged. */
static bool
send_taken(void)
{
	MemoryContext cxt = CurrentMemoryContext;
	volatile bool sent = false;

	PG_TRY();
	{
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		if (topics_extension_exists())
			notify_taken();
		PopActiveSnapshot();
		CommitTransactionCommand();
		ntaken = 0;
		sent = true;
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		EmitErrorReport();
		AbortCurrentTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(cxt);
	topics_notify_give_back();
	return sent;
}

/*
 * In the worker, outside of a transaction: send what is due.  The result is
 * the time in milliseconds until more is, or -1 if nothing waits.
 */
long
topics_notify_send(WorkerSlot *slot)
{
	if (pg_atomic_read_u32(&slot->moved) == 0)
		return -1;
	if (resting)
	{
		instr_time	now;
		long		left;

		INSTR_TIME_SET_CURRENT(now);
		INSTR_TIME_SUBTRACT(now, last_sent);
		left = rest_ms - (long) INSTR_TIME_GET_MILLISEC(now);
		if (left > 0)
			return left;
	}

	if (taken == NULL)
		taken = MemoryContextAllocHuge(TopMemoryContext,
									   sizeof(PartitionState *) * pg_topics_max_partitions);
	ntaken = topics_shmem_pop_moved(slot, taken);
	rest_ms = send_taken() ? pg_topics_notify_interval : RETRY_MS;
	resting = true;
	INSTR_TIME_SET_CURRENT(last_sent);
	return pg_atomic_read_u32(&slot->moved) == 0 ? -1 : rest_ms;
}
