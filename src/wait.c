/*-------------------------------------------------------------------------
 *
 * wait.c
 *		Wait for the log end of a partition: CALL topics.wait_offset, and
 *		max_wait of fetch.
 *
 * The procedure holds neither snapshot nor lock while it waits; what it needs
 * of the topic it has looked up before.  Once woken, topic and rights are
 * looked up again: nobody learns of a record that he may not read any more.
 * fetch waits within a statement, whose snapshot it keeps: shortly.
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

#include "compat.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_wait_offset);

/* A partition's log end is waited for. */
typedef struct OffsetWait
{
	Oid			view_relid;
	NameData	topic;
	Oid			partition_relid;
	TopicPartition id;
	PartitionState *state;
	PartitionState *topic_state;
	int64		wanted;			/* the log end */
} OffsetWait;

static void
report_dropped(const char *topic)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("topic \"%s\" was dropped", topic)));
}

/*
 * Look up what the wait needs.  Under a lock of the partition's table, so
 * that the states are the topic's, and whoever drops it will wake us.
 */
static void
prepare_wait(OffsetWait *wait, Topic *topic, int32 partition, int64 wanted)
{
	Partition	opened = topics_fetch_resolve(topic, partition);

	wait->view_relid = topic->view_relid;
	wait->topic = topic->name;
	wait->partition_relid = opened.relid;
	wait->wanted = wanted;
	wait->state = opened.state;
	wait->topic_state = topics_catalog_partition_state(topic, 0);
	wait->id = wait->state->id;
	topics_catalog_close_partition(&opened, AccessShareLock);
}

/* The log end where shared memory does not have it. */
static int64
look_up_end(OffsetWait *wait)
{
	Relation	rel = try_relation_open(wait->partition_relid, AccessShareLock);
	int64		end;

	if (rel == NULL)
		report_dropped(NameStr(wait->topic));
	PushActiveSnapshot(GetTransactionSnapshot());
	end = topics_log_end(rel, wait->state);
	PopActiveSnapshot();
	relation_close(rel, AccessShareLock);
	return end;
}

/* WakeupCheck */
static bool
is_reached(void *arg)
{
	OffsetWait *wait = arg;
	int64		end = (int64) pg_atomic_read_u64(&wait->state->next_offset);

	if (end < wait->wanted || end == UNKNOWN_OFFSET)
	{
		topics_wakeup_want(wait->state, wait->wanted);
		end = (int64) pg_atomic_read_u64(&wait->state->next_offset);
	}
	pg_read_barrier();
	if (memcmp(&wait->state->id, &wait->id, sizeof(TopicPartition)) != 0)
		report_dropped(NameStr(wait->topic));
	if (end == UNKNOWN_OFFSET || RecoveryInProgress())
		end = look_up_end(wait);
	return end >= wait->wanted;
}

/* The topic after the wait, if it is still there, and may still be read. */
static Topic *
topic_again(const OffsetWait *wait)
{
	Topic	   *topic;

	AcceptInvalidationMessages();
	topic = topics_catalog_get(wait->view_relid, true);
	if (topic == NULL || topic->topic_id != wait->id.topic_id)
		report_dropped(NameStr(wait->topic));
	topics_catalog_require(topic, ACL_SELECT);
	return topic;
}

/*
 * For a statement that has come to the end of a partition's log: wait until
 * the record of this offset is published.  The result is the topic, looked up
 * again, or NULL after timeout_ms.  The caller holds no lock of the
 * partition's table, or DROP would wait for him.
 */
Topic *
topics_wait_for_record(Topic *topic, int32 partition, int64 offset, long timeout_ms)
{
	OffsetWait	wait;

	prepare_wait(&wait, topic, partition, offset + 1);
	if (!topics_wakeup_wait(wait.topic_state, is_reached, &wait, timeout_ms))
		return NULL;
	return topic_again(&wait);
}

/* CALL wait_offset(topic, partition, after_offset, max_wait) */
Datum
topics_wait_offset(PG_FUNCTION_ARGS)
{
	OffsetWait	wait;
	Topic	   *topic;
	int64		after;
	long		timeout_ms;

	topics_require_preload();
	topics_argument_require_all(fcinfo, 4, "topics.wait_offset()");
	after = PG_GETARG_INT64(2);
	if (after < 0 || after == PG_INT64_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid after_offset: " INT64_FORMAT, after),
				 errdetail("It must be from 0 to " INT64_FORMAT ".", PG_INT64_MAX - 1)));
	timeout_ms = topics_wakeup_max_wait(PG_GETARG_INTERVAL_P(3), WAKEUP_MAX_WAIT_MS);
	topic = topics_catalog_lookup(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	topics_catalog_require(topic, ACL_SELECT);
	prepare_wait(&wait, topic, PG_GETARG_INT32(1), after + 1);

	topics_wakeup_release_snapshots(fcinfo, "topics.wait_offset()");
	(void) topics_wakeup_wait(wait.topic_state, is_reached, &wait, timeout_ms);
	topics_wakeup_restore_snapshot();
	(void) topic_again(&wait);
	PG_RETURN_VOID();
}
