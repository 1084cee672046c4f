/*-------------------------------------------------------------------------
 *
 * producer_expiry.c
 *		What becomes of producers: silent ones are forgotten, and what was numbered
 *		in topics that are dropped.
 *
 * What is deleted is a change of a transaction like any other (producer.c): a
 * tombstone in __producer_state, and an entry that is no more when it commits.
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

/*
 * A topic is dropped: delete what producers have numbered in it.  That needs no lock:
 * whoever has locked an entry of the topic has not committed before us, and fails.
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
		local->set = topics_producer_log_set(&local->key);
		local->found = true;
		local->before = entries[i].state;
		topics_producer_delete(local);
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
 * Delete an entry that was not used since a time.  Return false if it was, or is used right
 * now, or is another node's to delete.
 */
static bool
expire_entry(const ProducerKey *key, TimestampTz before)
{
	LocalProducer *local;

	ProducerState state;

	if (!topics_producer_table_peek(key, &state) || state.used_at >= before ||
		topics_cluster_follows(topics_producer_log_set(key)))
		return false;
	topics_producer_prepare(false);
	local = topics_producer_use(key, false);
	if (local == NULL || !local->found || local->before.used_at >= before)
		return false;
	topics_producer_delete(local);
	return true;
}

/*
 * Delete what was not used for pg_topics.producer_id_expiration.  The caller is in a
 * transaction, and in another one at the end; "parent" outlives them.
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
		if (!expire_entry(&entry->key, before))
			is_used = true;
		else if (++deleted % EXPIRED_BATCH == 0)
			next_transaction();
	}
	pfree(entries);
	next_transaction();
}
