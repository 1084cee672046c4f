/*-------------------------------------------------------------------------
 *
 * produce/producer.h
 *		Producers that number their records, for the files producer*.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PG_TOPICS_PRODUCER_H
#define PG_TOPICS_PRODUCER_H

#include "lib/ilist.h"
#include "miscadmin.h"

#include "log/log.h"
#include "produce/produce.h"

#define PRODUCER_BATCHES 5		/* Kafka's:
								 * max.in.flight.requests.per.connection */
#define NO_EPOCH (-1)			/* of an entry that nobody has committed yet */
#define BATCHES_SIZE (32 + PRODUCER_BATCHES * 64)	/* of their text, at most */
#define CHOSEN_LATER (-1)		/* in place of a partition of the log */
#define USE_OF_NAME (-2)		/* in place of a partition: for a lock */
#define UNKNOWN_PLACE INT64CONST(-1)	/* of a batch that is not kept any
										 * more */

/*
 * What an entry is about: a producer's sequence in a partition, or, with topic
 * 0 and partition -1, a producer that has a name.
 */
typedef struct ProducerKey
{
	Oid			database;
	int32		partition;
	int64		topic_id;
	int64		producer_id;
} ProducerKey;

/*
 * Records of one transaction, with sequences from first to last, and offsets
 * likewise.
 */
typedef struct ProducerBatch
{
	int32		first;
	int32		last;
	int64		offset;			/* of the first; until the commit has offsets,
								 * its number in the transaction */
} ProducerBatch;

/* What is committed of it. */
typedef struct ProducerState
{
	int32		epoch;			/* or NO_EPOCH */
	Oid			owner;
	TimestampTz used_at;		/* when that was committed */
	int32		first;			/* the sequence that it began with: of those
								 * before nothing is known */
	int			nbatches;
	ProducerBatch batches[PRODUCER_BATCHES];	/* of a sequence, ascending */
	char		name[NAMEDATALEN];	/* of a producer that has one */
} ProducerState;

/* An entry in shared memory; producer_table.c says which lock guards it. */
typedef struct ProducerEntry
{
	ProducerKey key;			/* hash key: must be first */
	ProducerState state;
	int32		log_partition;	/* of __producer_state, which has its record */
	int64		record_offset;	/* where that is */
	dlist_node	link;			/* in the list of all entries */
} ProducerEntry;

static inline bool
topics_producer_has_name(const ProducerKey *key)
{
	return key->topic_id == 0;
}

/* What an entry will be when the transaction commits. */
typedef struct ProducerChange
{
	struct ProducerChange *below;	/* what it replaces, by an outer
									 * subtransaction */
	SubTransactionId subxid;
	bool		deleted;
	bool		is_admitted;	/* the producer has given the epoch */
	int			nlocal;			/* of the batches, the last ones, are this
								 * transaction's: their offsets are ordinals */
	ProducerState state;
} ProducerChange;

/* An entry that the transaction uses. */
struct LocalProducer
{
	ProducerKey key;
	int			set;			/* the leader set that it is of */
	SubTransactionId locked;	/* the one that holds its lock, or
								 * InvalidSubTransactionId */
	SubTransactionId in_use;	/* of a name: the one that holds the lock on
								 * its use, or InvalidSubTransactionId */
	bool		found;			/* something was committed when it was locked */
	ProducerState before;		/* that */
	ProducerChange *change;		/* or NULL */
	bool		reserved;		/* an entry without a state is in the table */
	int32		log_partition;	/* where its record goes, or CHOSEN_LATER */
	int64		ordinal;		/* of the record in this transaction, or -1 */
};

static inline ProducerKey
topics_producer_make_key(int64 producer_id, int64 topic_id, int32 partition)
{
	return (ProducerKey)
	{
		MyDatabaseId, partition, topic_id, producer_id
	};
}

static inline ProducerKey
topics_producer_make_name_key(int64 producer_id)
{
	return topics_producer_make_key(producer_id, 0, -1);
}

/*
 * An id tells whether it belongs to a name: such a producer is known, or
 * refused.
 */
static inline bool
topics_producer_id_has_name(int64 producer_id)
{
	return producer_id % 2 != 0;
}

/* ---- producer.c ---- */

extern LocalProducer *topics_producer_get_local(const ProducerKey *key);
extern LocalProducer *topics_producer_use(const ProducerKey *key, bool wait);
extern LocalProducer *topics_producer_find_named(const char *name);
extern const ProducerState *topics_producer_get_state(const LocalProducer *local);
extern ProducerChange *topics_producer_change(LocalProducer *local);
extern void topics_producer_delete(LocalProducer *local);
extern bool topics_producer_lock_use(int64 producer_id);
extern void topics_producer_require_all_known(int64 producer_id);
extern void topics_producer_require_owner(Oid owner, int64 producer_id);
extern void topics_producer_require_leader(const Topic *topic, int32 partition);

/* ---- producer_table.c ---- */

extern bool topics_producer_table_peek(const ProducerKey *key, ProducerState *state);
extern bool topics_producer_table_find_name(const char *name, ProducerKey *key, ProducerState *state);
extern TimestampTz topics_producer_table_last_use(int64 producer_id);
extern void topics_producer_table_reserve(const ProducerKey *key, int32 log_partition);
extern void topics_producer_table_unreserve(const ProducerKey *key);
extern void topics_producer_table_store(const ProducerKey *key, const ProducerState *state,
										int32 log_partition, int64 record_offset);
extern bool topics_producer_table_load(const ProducerKey *key, const ProducerState *state,
									   int32 log_partition, int64 record_offset);
extern ProducerEntry *topics_producer_table_list(int64 topic_id, int *count);

/* ---- producer_log.c ---- */

extern int	topics_producer_log_set_of_partition(int32 log_partition);
extern int	topics_producer_log_set(const ProducerKey *key);
extern int32 topics_producer_log_choose_partition(Topic *state_topic, const ProducerKey *key);
extern Datum topics_producer_log_format_key(const ProducerKey *key);
extern int	topics_producer_log_print_batches(char *buffer, const ProducerState *state, int nlocal);
extern Datum topics_producer_log_format_value(const ProducerKey *key, const ProducerState *state,
											  int nlocal);
extern void topics_producer_log_prepare(bool for_write);

#endif							/* PG_TOPICS_PRODUCER_H */
