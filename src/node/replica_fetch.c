/*-------------------------------------------------------------------------
 *
 * replica_fetch.c
 *		On a follower: ask the leader for what is lacking, and append it.
 *
 * The other side is replica_feed.c, which has the protocol.  What the leader
 * sends of a partition goes into the log here through the same path as any
 * producer's records (produce/append.c), with the offsets that they have.
 *
 * WHY NOTHING IS LEFT OUT.  The leader says where it believes that the log
 * ends here, and the records go on from there; a log that ends elsewhere takes
 * none of them, and the session begins anew.  Offsets that are missing between
 * them are compacted, or below the log start.  Such gaps are noted in the
 * catalogue, in the same transaction.
 *
 * Where the leader has removed tombstones that the follower has not come to,
 * the follower would keep what they delete: its topic is dropped, and made and
 * read anew (topics_metadata_begin_anew).
 *
 * The log start comes along, and is raised here as there.  Where the leader's
 * log starts above the follower's end, the follower goes on there: as in Kafka.
 *
 * VALUES are read as the domain's base type, and nothing is checked: the leader
 * has.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "node/node.h"
#include "pg_topics.h"

#define FETCH_STATEMENT "replica_fetch"
#define FETCH_WAIT_MS 1000		/* the leader answers by then, news or not */

/* ----------------------------------------------------------------
 *		To ask
 * ----------------------------------------------------------------
 */

/* What the next request says of partitions, and of how many. */
static StringInfoData reported;
static int	nreported = 0;

/* Begin a session with a leader: it knows nothing yet. */
void
topics_replica_fetch_begin(Peer *peer)
{
	if (reported.data == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		initStringInfo(&reported);
		MemoryContextSwitchTo(old);
	}
	resetStringInfo(&reported);
	nreported = 0;
	topics_peer_prepare(peer, FETCH_STATEMENT, "CALL topic_log.replica_fetch($1, NULL)");
}

/* Have the next request say where a partition's log ends here. */
void
topics_replica_fetch_report(int64 topic_id, int32 partition, int64 log_end)
{
	pq_sendint64(&reported, topic_id);
	pq_sendint32(&reported, partition);
	pq_sendint64(&reported, log_end);
	nreported++;
}

/*
 * Send a request.  "first" says that the connection is new, "position" how far
 * the leader's WAL is known here to have gone, "durable_mark" which cut is
 * durable here, or NO_CUT.
 */
void
topics_replica_fetch_send(Peer *peer, const ClusterRow *cluster, bool first, int64 position,
						  int64 durable_mark)
{
	StringInfoData request;

	initStringInfo(&request);
	pq_sendint16(&request, REPLICA_PROTOCOL);
	pq_sendint16(&request, topics_leader_set);
	appendBinaryStringInfo(&request, cluster->node, strlen(cluster->node) + 1);
	appendBinaryStringInfo(&request, cluster->incarnation, strlen(cluster->incarnation) + 1);
	appendBinaryStringInfo(&request, cluster->cluster_id, strlen(cluster->cluster_id) + 1);
	pq_sendint64(&request, cluster->epoch);
	appendBinaryStringInfo(&request, cluster->epoch_id, strlen(cluster->epoch_id) + 1);
	pq_sendint64(&request, cluster->term);
	pq_sendint64(&request, cluster->promised_term);
	pq_sendint64(&request, position);
	pq_sendbyte(&request, first);
	pq_sendint64(&request, durable_mark);
	pq_sendint32(&request, topics_min(FETCH_WAIT_MS, pg_topics_node_timeout / 3));
	pq_sendint32(&request, nreported);
	appendBinaryStringInfo(&request, reported.data, reported.len);
	topics_peer_send_bytes(peer, FETCH_STATEMENT, &request);
	pfree(request.data);
	resetStringInfo(&reported);
	nreported = 0;
}

/* ----------------------------------------------------------------
 *		The response
 * ----------------------------------------------------------------
 */

/* Read what the response says of a partition. */
static LedPartition *
read_partition(StringInfo data)
{
	LedPartition *led = palloc(sizeof(LedPartition));

	led->topic_id = pq_getmsgint64(data);
	led->partition = (int32) pq_getmsgint(data, sizeof(int32));
	led->is_metadata = pq_getmsgbyte(data) != 0;
	led->log_start = pq_getmsgint64(data);
	led->log_end = pq_getmsgint64(data);
	led->tombstones_below = pq_getmsgint64(data);
	led->given = pq_getmsgint64(data);
	led->upto = pq_getmsgint64(data);
	led->length = (int) pq_getmsgint(data, sizeof(int32));
	led->records = data->cursor;
	(void) pq_getmsgbytes(data, led->length);
	return led;
}

/* Receive the response to a request, palloc'd. */
FetchResponse *
topics_replica_fetch_receive(Peer *peer)
{
	FetchResponse *response = palloc0(sizeof(FetchResponse));
	StringInfo	data = &response->data;
	int			count;

	response->result = topics_peer_receive_bytes(peer, data);
	PG_TRY();
	{
		response->term = pq_getmsgint64(data);
		response->epoch = pq_getmsgint64(data);
		response->epoch_id = pq_getmsgrawstring(data);
		response->position = pq_getmsgint64(data);
		response->mark = pq_getmsgint64(data);
		response->newest_mark = pq_getmsgint64(data);
		response->confirmed = pq_getmsgint64(data);
		response->is_complete = pq_getmsgbyte(data) != 0;
		count = (int) pq_getmsgint(data, sizeof(int32));
		for (int i = 0; i < count; i++)
			response->led = lappend(response->led, read_partition(data));
		pq_getmsgend(data);
	}
	PG_CATCH();
	{
		topics_replica_fetch_free(response);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return response;
}

/* Free what a response has outside of memory contexts.  Raises nothing. */
void
topics_replica_fetch_free(FetchResponse *response)
{
	topics_peer_clear(response->result);
	response->result = NULL;
}

/* ----------------------------------------------------------------
 *		Records
 * ----------------------------------------------------------------
 */

/* Records of a partition, while they are appended. */
typedef struct ReplicaRange
{
	Topic	   *topic;
	int32		partition;
	int64		upto;
	int64		next;			/* the offset behind the last record */
	int64		gap_end;		/* of the last gap, or 0 */
} ReplicaRange;

/*
 * Append records to the transaction; of metadata *says_topics says whether any
 * are of topics, else it is NULL.
 */
static void
append_records(StringInfo data, ReplicaRange *range, bool *says_topics)
{
	Topic	   *topic = range->topic;
	bool		key_as_text = pq_getmsgbyte(data) != 0;
	bool		value_as_text = pq_getmsgbyte(data) != 0;
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "pg_topics replica",
											  ALLOCSET_DEFAULT_SIZES);
	ValueReader key;
	ValueReader value;
	ValueReader headers;
	int64		offset;

	topics_replica_value_set_reader(&key, topic->key.base_type, topic->key.base_typmod, key_as_text);
	topics_replica_value_set_reader(&value, topic->value.base_type, topic->value.base_typmod, value_as_text);
	topics_replica_value_set_reader(&headers, JSONBOID, -1, false);
	while ((offset = pq_getmsgint64(data)) != END_OF_RECORDS)
	{
		RecordDraft draft = {.partition = range->partition};
		MemoryContext old = MemoryContextSwitchTo(cxt);

		CHECK_FOR_INTERRUPTS();
		if (offset < range->next || offset >= range->upto)
			ereport(ERROR,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("what the leader has sent of a log cannot be read")));
		if (offset > range->next)
			range->gap_end = offset;
		range->next = offset + 1;
		draft.create_time = (TimestampTz) pq_getmsgint64(data);
		draft.key = topics_replica_value_read(data, &key, &draft.key_isnull);
		draft.value = topics_replica_value_read(data, &value, &draft.value_isnull);
		draft.headers = topics_replica_value_read(data, &headers, &draft.headers_isnull);
		topics_append_replica_record(topic, offset, &draft);
		if (says_topics && !draft.key_isnull)
			*says_topics |= topics_metadata_is_of_topics(draft.key);
		MemoryContextSwitchTo(old);
		MemoryContextReset(cxt);
	}
	if (range->next < range->upto)
		range->gap_end = range->upto;
	MemoryContextDelete(cxt);
}

/* Note in the catalogue that records below an offset may be missing. */
static void
allow_gaps(const Partition *partition, int64 gap_end)
{
	PushActiveSnapshot(GetLatestSnapshot());
	topics_log_start_allow_gaps(&partition->state->id, gap_end);
	PopActiveSnapshot();
}

/* Raise the log start to where the leader's is.  Return where it is then. */
static int64
follow_log_start(Partition *partition, int64 log_start)
{
	int64		start = topics_log_start(partition->state);

	if (log_start <= start)
		return start;
	PushActiveSnapshot(GetLatestSnapshot());
	start = topics_log_start_move(partition->state, log_start);
	PopActiveSnapshot();
	return start;
}

/*
 * Return true if a partition cannot be brought on, since the leader has
 * removed tombstones that it has not seen: the follower would keep what they
 * delete.  Where it cannot read the topic anew, it may (make_topic.c).
 */
bool
topics_replica_fetch_is_too_late(Topic *topic, const LedPartition *led)
{
	Partition	partition;
	int64		end;
	int64		start;

	if (led->tombstones_below == 0 || led->partition >= topic->partitions)
		return false;
	if (topic->partitions > STATE_PARTITIONS && topics_internal_topic_tolerates_missed(NameStr(topic->name)))
		return false;
	partition = topics_catalog_open_for_reading(topic, led->partition);
	end = topics_log_next_offset(&partition);
	start = topics_log_start(partition.state);
	topics_catalog_close_partition(&partition, NoLock);
	return end < led->tombstones_below && start < end;
}

/* Require a log to end where the leader believes that it does. */
static void
check_end(const Topic *topic, const LedPartition *led, int64 end)
{
	if (end > led->log_end)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("partition %d of topic \"%s\" has records that the leader does not have",
						led->partition, NameStr(topic->name)),
				 errdetail("It ends at offset " INT64_FORMAT ", the leader's log at offset " INT64_FORMAT ".",
						   end, led->log_end)));
	if (end != led->given)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("partition %d of topic \"%s\" does not end where the leader believes it does",
						led->partition, NameStr(topic->name)),
				 errdetail("It ends at offset " INT64_FORMAT ", and not at offset " INT64_FORMAT ".",
						   end, led->given)));
}

/*
 * Bring a partition on in this transaction, as far as a response goes.
 * "is_whole" says that the transaction has all that is lacking of the leader's
 * cut.
 */
void
topics_replica_fetch_append(FetchResponse *response, Topic *topic, const LedPartition *led,
							bool is_whole)
{
	ReplicaRange range = {.topic = topic,.partition = led->partition,.upto = led->upto};
	Partition	partition = topics_catalog_open_for_reading(topic, led->partition);
	int64		end = topics_log_next_offset(&partition);
	int64		start = follow_log_start(&partition, led->log_start);

	topics_catalog_close_partition(&partition, NoLock);
	pg_atomic_write_u64(&partition.state->leader_end, led->log_end);
	check_end(topic, led, end);
	range.next = topics_max(end, start);
	if (topics_max(led->upto, range.next) > end && !is_whole)
		topics_log_ends_note_unfinished(led->topic_id, led->partition, end);
	if (topics_max(led->upto, range.next) > end)
		topics_append_replica_range(topic, led->partition, end, topics_max(led->upto, range.next));
	if (led->length == 0)
		return;
	response->data.cursor = led->records;
	append_records(&response->data, &range, led->is_metadata ? &response->says_topics : NULL);
	if (range.gap_end > 0)
		allow_gaps(&partition, range.gap_end);
}
