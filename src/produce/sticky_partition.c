/*-------------------------------------------------------------------------
 *
 * sticky_partition.c
 *		Where a transaction's records without a key go.  (With a key:
 *		partitioner.c.  topics_produce_record asks one of the two.)
 *
 * All of them go to one partition, chosen at random, as Kafka's sticky
 * partitioner does for a batch: a transaction with many such records appends
 * to one partition, and takes one append lock.  Where leaders are spread it is
 * one that this node leads, if there is any.
 *
 * The choice outlives a ROLLBACK TO: it says nothing of any record.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "utils/memutils.h"

#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "pg_topics.h"

/* The choices of this transaction: TopicPartition, in TopTransactionContext. */
static List *choices = NIL;

/* The latest choice: records of the same topic need not search for it. */
static int64 latest_topic = 0;
static int32 latest_partition = 0;

/*
 * Choose a partition at random, of those that this node leads, or of all if it
 * leads none.
 */
static int32
choose_at_random(const Topic *topic)
{
	int32	   *led;
	int32		result;
	int			count = 0;

	if (likely(topic->leader_sets.count == 0))
		return pg_prng_uint64_range(&pg_global_prng_state, 0, topic->partitions - 1);
	led = palloc(sizeof(int32) * topic->partitions);
	for (int32 number = 0; number < topic->partitions; number++)
		if (!topics_cluster_follows(topics_leader_set_of(&topic->leader_sets, number)))
			led[count++] = number;
	result = count > 0 ? led[pg_prng_uint64_range(&pg_global_prng_state, 0, count - 1)] :
		(int32) pg_prng_uint64_range(&pg_global_prng_state, 0, topic->partitions - 1);
	pfree(led);
	return result;
}

/* Choose the partition for this transaction's records without a key. */
int32
topics_sticky_partition_choose(Topic *topic)
{
	if (latest_topic != topic->topic_id)
	{
		MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
		ListCell   *lc;

		latest_topic = topic->topic_id;
		latest_partition = -1;
		foreach(lc, choices)
		{
			TopicPartition *choice = lfirst(lc);

			if (choice->topic_id == topic->topic_id)
				latest_partition = choice->partition;
		}
		if (latest_partition < 0)
		{
			TopicPartition *choice = palloc0(sizeof(TopicPartition));

			choice->topic_id = topic->topic_id;
			choice->partition = latest_partition = choose_at_random(topic);
			choices = lappend(choices, choice);
		}
		MemoryContextSwitchTo(old);
	}
	return latest_partition;
}

/* Forget all choices at the end of a transaction. */
void
topics_sticky_partition_forget(void)
{
	choices = NIL;
	latest_topic = 0;
}
