/*-------------------------------------------------------------------------
 *
 * wait.c
 *		Wait for the log end of a partition: CALL topics.wait_offset, and
 *		max_wait of fetch.
 *
 * The procedure holds neither snapshot nor lock while it waits; it has looked
 * up before what it needs of the topic.  Once it is woken, it looks the topic
 * and the rights up again: nobody learns of a record that may not be read any
 * more.  fetch waits within a statement, which keeps its snapshot, so it waits
 * for a short time only.
 *
 * THE END IS NO RECORD.  Where compaction has taken the last records of a log,
 * its end is above the offset that a reader goes on from, and yet there is
 * nothing to be read.  So a wait that would be over before it begins looks for
 * a record; without one it is for the first that comes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xlog.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "read/read.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_wait_offset);

/* Arguments of wait_offset. */
enum
{
	WAIT_TOPIC,
	WAIT_PARTITION,
	WAIT_AFTER_OFFSET,
	WAIT_MAX_WAIT,
	WAIT_ARGUMENTS
};

/* A process waits until a partition's log end is here, or above. */
typedef struct OffsetWait
{
	Oid			view_relid;
	NameData	topic;
	TopicPartition id;
	Partition	partition;		/* not locked, so "id" is compared */
	PartitionState *topic_state;
	int64		wanted;			/* the log end that it waits for */
	bool		gap_is_known;	/* no need to look for a record any more */
} OffsetWait;

/*
 * Look up what the wait needs, under a lock on the partition's table: then the
 * states are the topic's, and a session that drops the topic will wake this
 * process.
 */
static void
prepare_wait(OffsetWait *wait, Topic *topic, int32 partition, int64 wanted)
{
	wait->view_relid = topic->view_relid;
	wait->topic = topic->name;
	wait->wanted = wanted;
	wait->gap_is_known = false;
	wait->partition = topics_catalog_open_for_reading(topic, partition);
	wait->topic_state = topics_catalog_partition_state(topic, 0);
	wait->id = wait->partition.state->id;
	topics_catalog_close_partition(&wait->partition, AccessShareLock);
}

/* Look the log end up where shared memory does not have it. */
static int64
look_up_log_end(OffsetWait *wait)
{
	Partition  *partition = &wait->partition;
	int64		end;

	partition->rel = try_relation_open(partition->relid, AccessShareLock);
	if (partition->rel == NULL)
		topics_catalog_report_dropped(NameStr(wait->topic));
	/* a wait that has begun in recovery goes on by the shared state */
	partition->state = topics_partition_state_current(partition->state);
	PushActiveSnapshot(GetTransactionSnapshot());
	end = topics_log_end(partition, NULL);
	PopActiveSnapshot();
	topics_catalog_close_partition(partition, AccessShareLock);
	return end;
}

/*
 * Return true if there is a record that can be read, from an offset to
 * another.
 */
static bool
record_exists(OffsetWait *wait, int64 from, int64 upto)
{
	Partition  *partition = &wait->partition;
	bool		found;

	partition->rel = try_relation_open(partition->relid, AccessShareLock);
	if (partition->rel == NULL)
		topics_catalog_report_dropped(NameStr(wait->topic));
	PushActiveSnapshot(GetLatestSnapshot());
	found = topics_log_find_first(partition->rel, from, upto, GetActiveSnapshot()) < upto;
	PopActiveSnapshot();
	topics_catalog_close_partition(partition, AccessShareLock);
	return found;
}

/*
 * What can be read ends at "end", where the process waits for it, or above,
 * before it has slept.  If that is only since the last records have gone, wait
 * for the next one.
 */
static void
skip_gap(OffsetWait *wait, int64 end)
{
	int64		from = wait->wanted - 1;
	PartitionRow row;

	wait->gap_is_known = true;
	if (topics_log_start_read_row(&wait->id, NULL, &row) && from < row.gaps_below &&
		from >= row.log_start_offset && !record_exists(wait, from, end))
		wait->wanted = end + 1;
}

/* Get the log end as shared memory has it, and want to hear of a change. */
static int64
watch_log_end(OffsetWait *wait)
{
	PartitionState *state = wait->partition.state;
	int64		end = (int64) pg_atomic_read_u64(&state->next_offset);

	if (end < wait->wanted || end == UNKNOWN_OFFSET)
	{
		topics_wakeup_want(state, wait->wanted);
		end = (int64) pg_atomic_read_u64(&state->next_offset);
	}
	pg_read_barrier();
	if (memcmp(&state->id, &wait->id, sizeof(TopicPartition)) != 0)
		topics_catalog_report_dropped(NameStr(wait->topic));
	if (end == UNKNOWN_OFFSET || RecoveryInProgress())
		end = look_up_log_end(wait);
	return end;
}

/* WakeupCheck: return true if the log end is where the process waits for it. */
static bool
is_log_end_reached(void *arg)
{
	OffsetWait *wait = arg;
	int64		end = watch_log_end(wait);

	if (!wait->gap_is_known && end >= wait->wanted)
	{
		int64		upto = topics_min(end, topics_read_cut_limit(wait->partition.state, NULL));

		if (upto >= wait->wanted)
			skip_gap(wait, upto);
		end = watch_log_end(wait);
	}
	if (end < wait->wanted)
	{
		wait->gap_is_known = true;	/* what comes is a record */
		return false;
	}
	/* whoever finds it confirmed wakes us, if we say so before we look */
	if (topics_read_cut_limit(wait->partition.state, NULL) < wait->wanted)
		topics_wakeup_want(wait->partition.state, wait->wanted);
	if (topics_read_cut_limit(wait->partition.state, NULL) >= wait->wanted)
	{
		/* nobody is told of a record that a crash can take back */
		topics_log_flush(wait->partition.state);
		return true;
	}
	topics_wakeup_want_confirmation();
	return false;
}

/*
 * Look the topic up again after the wait.  Raise if it is gone, or may not be
 * read any more.
 */
static Topic *
look_up_topic_again(const OffsetWait *wait)
{
	Topic	   *topic;

	AcceptInvalidationMessages();
	topic = topics_catalog_get(wait->view_relid, true);
	if (topic == NULL || topic->topic_id != wait->id.topic_id)
		topics_catalog_report_dropped(NameStr(wait->topic));
	topics_catalog_require(topic, ACL_SELECT);
	return topic;
}

/*
 * For a statement that has come to the end of a partition's log: wait until
 * the record of this offset is published.  Return the topic, looked up again,
 * or NULL after timeout_ms.  The caller holds no lock on the partition's table,
 * or DROP would wait for it.
 */
Topic *
topics_wait_for_record(Topic *topic, int32 partition, int64 offset, long timeout_ms)
{
	OffsetWait	wait;

	prepare_wait(&wait, topic, partition, offset + 1);
	if (!topics_wakeup_wait(wait.topic_state, is_log_end_reached, &wait, timeout_ms))
		return NULL;
	return look_up_topic_again(&wait);
}

/* CALL wait_offset(topic, partition, after_offset, max_wait) */
Datum
topics_wait_offset(PG_FUNCTION_ARGS)
{
	OffsetWait	wait;
	Topic	   *topic;
	int64		after;
	long		timeout_ms;

	topics_settings_require_preload();
	topics_argument_require_all(fcinfo, WAIT_ARGUMENTS);
	after = PG_GETARG_INT64(WAIT_AFTER_OFFSET);
	if (after < 0 || after == PG_INT64_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid after_offset: " INT64_FORMAT, after),
				 errdetail("It must be from 0 to " INT64_FORMAT ".", PG_INT64_MAX - 1)));
	timeout_ms = topics_wakeup_max_wait(PG_GETARG_INTERVAL_P(WAIT_MAX_WAIT), WAKEUP_MAX_WAIT_MS);
	topic = topics_catalog_lookup(text_to_cstring(PG_GETARG_TEXT_PP(WAIT_TOPIC)), false);
	topics_catalog_require(topic, ACL_SELECT);
	prepare_wait(&wait, topic, PG_GETARG_INT32(WAIT_PARTITION), after + 1);

	topics_wakeup_release_snapshots(fcinfo, "topics.wait_offset()");
	(void) topics_wakeup_wait(wait.topic_state, is_log_end_reached, &wait, timeout_ms);
	topics_wakeup_restore_snapshot();
	(void) look_up_topic_again(&wait);
	PG_RETURN_VOID();
}
