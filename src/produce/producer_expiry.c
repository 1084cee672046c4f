/*-------------------------------------------------------------------------
 *
 * producer_expiry.c
 *		What is forgotten of producers: of those that are silent, and of topics
 *		that are dropped.
 *
 * What is deleted is a change of a transaction like any other (producer.c): a
 * tombstone in __producer_state, and an entry that is no more when it commits.
 * It goes into the partition that has the record, and is written by the node
 * that leads that one.
 *
 * A NAME goes when it, and all sequences of its producer, were not used for
 * pg_topics.producer_id_expiration.  No transaction uses it then, and none
 * comes to before this one has ended: it holds the lock on the use of the
 * name, under which it looks when that was last used.  Where leaders are
 * spread that is what this node has heard of the other ones.
 *
 * WHAT WAS LEFT OUT when the log was read, as there was no room
 * (producer_log.c), is not in memory, and so does not expire.  As long as
 * there is such a thing the log is read again before, and when there is room.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "produce/producer.h"

/* Sequences that expire in a transaction. */
#define EXPIRED_BATCH 100

/* The entry will be no more when the transaction commits. */
static void
delete_entry(LocalProducer *local, const ProducerEntry *entry)
{
	/* of a topic that is gone nothing else says where its record is */
	local->log_partition = entry->log_partition;
	local->set = topics_producer_log_set_of_partition(entry->log_partition);
	topics_producer_delete(local);
}

/*
 * A topic is dropped: delete what producers have numbered in it.  That needs
 * no lock: whoever has locked an entry of the topic has not committed before
 * us, and fails.
 */
void
topics_producer_delete_topic(int64 topic_id)
{
	int			count;
	ProducerEntry *entries = topics_producer_table_list(topic_id, &count);

	for (int i = 0; i < count; i++)
	{
		LocalProducer *local = topics_producer_get_local(&entries[i].key);

		CHECK_FOR_INTERRUPTS();
		local->found = true;
		local->before = entries[i].state;
		delete_entry(local, &entries[i]);
	}
	pfree(entries);
}

/* Order entries by producers, each with its name last. */
static int
compare_entries(const void *a, const void *b)
{
	const ProducerKey *ka = &((const ProducerEntry *) a)->key;
	const ProducerKey *kb = &((const ProducerEntry *) b)->key;

	if (ka->producer_id != kb->producer_id)
		return ka->producer_id < kb->producer_id ? -1 : 1;
	return (int) topics_producer_has_name(ka) - (int) topics_producer_has_name(kb);
}

/*
 * Return true if no transaction uses a name, nor has since a time: then it
 * stays so.
 */
static bool
is_name_idle(int64 producer_id, TimestampTz before)
{
	return topics_producer_lock_use(producer_id) &&
		topics_producer_table_last_use(producer_id) < before;
}

/*
 * Delete an entry that was not used since a time.  Return false if it was, or
 * is used right now, or is another node's to delete.
 */
static bool
expire_entry(const ProducerEntry *entry, TimestampTz before)
{
	const ProducerKey *key = &entry->key;
	LocalProducer *local;
	ProducerState state;

	if (!topics_producer_table_peek(key, &state) || state.used_at >= before ||
		topics_cluster_follows(topics_producer_log_set_of_partition(entry->log_partition)))
		return false;
	topics_producer_prepare(false);
	local = topics_producer_use(key, false);
	if (local == NULL || !local->found || local->before.used_at >= before)
		return false;
	if (topics_producer_has_name(key) && !is_name_idle(key->producer_id, before))
		return false;
	delete_entry(local, entry);
	return true;
}

/* If something was left out when the log was read, have it read again. */
static void
read_left_out(void)
{
	const Topic *state_topic = topics_catalog_lookup(PRODUCER_STATE_TOPIC, true);

	if (state_topic == NULL || topics_state_load_left_out(STATE_PRODUCERS) == 0)
		return;
	topics_state_load_changed(state_topic->topic_id);
	topics_producer_prepare(false);
}

/*
 * Delete what was not used for pg_topics.producer_id_expiration.  The caller
 * is in a transaction, and in another one at the end; "parent" outlives them.
 */
void
topics_producer_expire(MemoryContext parent, NextTransaction next_transaction)
{
	TimestampTz before = topics_clock_ago(pg_topics_producer_id_expiration);
	MemoryContext old;
	ProducerEntry *entries;
	int			count;
	int			deleted = 0;
	bool		is_used = false;	/* by a sequence of this producer that
									 * stays */

	if (topics_catalog_lookup(PRODUCER_STATE_TOPIC, true) == NULL)
		return;
	topics_producer_prepare(false);
	read_left_out();
	old = MemoryContextSwitchTo(parent);	/* it outlives transactions */
	entries = topics_producer_table_list(0, &count);
	MemoryContextSwitchTo(old);
	/* a name comes behind its sequences, and goes no sooner */
	qsort(entries, count, sizeof(ProducerEntry), compare_entries);
	for (int i = 0; i < count; i++)
	{
		const ProducerEntry *entry = &entries[i];

		CHECK_FOR_INTERRUPTS();
		if (i == 0 || entry->key.producer_id != entries[i - 1].key.producer_id)
			is_used = false;
		if (is_used && topics_producer_has_name(&entry->key))
			continue;
		if (!expire_entry(entry, before))
			is_used = true;
		else if (++deleted % EXPIRED_BATCH == 0)
			next_transaction();
	}
	pfree(entries);
	next_transaction();
	if (deleted > 0)
		read_left_out();
}
