/*-------------------------------------------------------------------------
 *
 * producer.c
 *		Producers that number their records: what a transaction does to their
 *		sequences, and what becomes of that at its end.
 *
 * A producer whose connection broke does not know whether its last record is
 * stored.  If it has numbered its records, it produces that one again, and a
 * sequence that is stored is not stored twice.  It is Kafka's idempotent
 * producer: an id, an epoch, and per partition a sequence, from 0 on, by one.
 *
 * What is stored is a record of the internal topic __producer_state
 * (producer_log.c), in the transaction of the records, and what is current is
 * kept in memory (producer_table.c).  A transaction that numbers records does
 * the following:
 *
 *	1. admit: lock the sequence of the producer in the partition, and compare;
 *	2. pre_commit: give a record per sequence to the transaction's buffer;
 *	3. stamp: with the append locks held the offsets are known, and go into it;
 *	4. publish: after the commit record, with the append locks still held,
 *	   store what is new in the entries.
 *
 * NO RECORD IS STORED TWICE.  The lock of step 1, a heavyweight lock on
 * (producer, topic, partition), is held until the transaction has ended.  So
 * of two transactions with the same sequence the second one waits, and then
 * sees what the first has published, or that it has failed.  PostgreSQL
 * releases the lock after step 4.
 *
 * A RECORD THAT WAS STORED IS ACKNOWLEDGED ONCE IT IS DURABLE.  Early lock
 * release lets the second transaction see the first one's record before that
 * is flushed, or confirmed by followers.  So it, too, writes the record of the
 * sequence, anew: its commit comes behind the other one, and waits for no
 * less.
 *
 * FENCING.  A producer with a name gets a higher epoch from each
 * init_producer(), and who has a lower one is refused.  Whoever was paused
 * between that check and its commit is refused as well: the name's record and
 * that of the sequence are in one partition of __producer_state, and the epoch
 * is looked at again under its append lock (topics_producer_require_epochs),
 * under which init_producer() publishes the new one.  In a topic whose leaders
 * are spread the two are in different partitions, maybe of other nodes.  There
 * a lower epoch is refused for sure once the higher one has produced to the
 * partition.
 *
 * A NAME THAT IS USED DOES NOT EXPIRE.  A transaction that numbers records of
 * a name holds a lock on its use, shared, and the expiry takes it exclusively,
 * without waiting, before it looks when the name was last used
 * (producer_expiry.c).  It is not the lock on the name's entry, which
 * init_producer() takes: that one does not wait for who it fences.
 *
 * ROLES.  What is in memory is right while this node leads.  If it was
 * something else in between, the commit fails, as it does for consumer groups
 * (consumer_offset.c).
 *
 * See docs/decisions/0017-numbered-records.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "common/hashfn.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "produce/producer.h"

static List *locals = NIL;		/* of LocalProducer, in TopTransactionContext */
static LocalProducer *last_used = NULL;

/* What this node was in a leader set when the first one was used. */
static uint64 generations[MAX_LEADER_SETS];
static uint64 forgotten;		/* and how often sequences were forgotten */

static int64 state_topic_id;	/* where this commit's records go */

/* ----------------------------------------------------------------
 *		Entries of this transaction
 * ----------------------------------------------------------------
 */

/*
 * Before what is committed is looked at, for who will produce: note this
 * node's roles.
 */
void
topics_producer_prepare(bool for_write)
{
	topics_cluster_attend();
	if (locals == NIL)
	{
		topics_mark_slot_note_generations(generations);
		forgotten = topics_state_load_forgotten(STATE_PRODUCERS);
	}
	topics_producer_log_prepare(for_write);
}

static LOCKTAG
make_lock_tag(const ProducerKey *key)
{
	return topics_user_lock_tag(USER_LOCK_PRODUCER,
								hash_bytes_extended((const unsigned char *) key, sizeof(*key), 0));
}

static LocalProducer *
find_local(const ProducerKey *key)
{
	ListCell   *lc;

	if (last_used && memcmp(&last_used->key, key, sizeof(*key)) == 0)
		return last_used;
	foreach(lc, locals)
	{
		LocalProducer *local = lfirst(lc);

		if (memcmp(&local->key, key, sizeof(*key)) == 0)
			return local;
	}
	return NULL;
}

/* Find or make this transaction's view of an entry. */
LocalProducer *
topics_producer_get_local(const ProducerKey *key)
{
	LocalProducer *local = find_local(key);
	MemoryContext old;

	if (local)
		return local;
	old = MemoryContextSwitchTo(TopTransactionContext);
	local = palloc0(sizeof(LocalProducer));
	local->key = *key;
	local->log_partition = CHOSEN_LATER;
	local->ordinal = -1;
	locals = lappend(locals, local);
	MemoryContextSwitchTo(old);
	return local;
}

/*
 * Use an entry in this transaction: locked, with what is committed.  Without
 * "wait", return NULL if another transaction uses it.
 */
LocalProducer *
topics_producer_use(const ProducerKey *key, bool wait)
{
	LocalProducer *local = topics_producer_get_local(key);

	if (local->locked == InvalidSubTransactionId)
	{
		LOCKTAG		tag = make_lock_tag(key);

		if (!topics_user_lock_acquire(&tag, ExclusiveLock, wait))
			return NULL;
		local->locked = GetCurrentSubTransactionId();
		local->set = topics_producer_log_set(key);
		local->log_partition = CHOSEN_LATER;
		local->found = topics_producer_table_peek(key, &local->before);
	}
	last_used = local;
	return local;
}

/* What the entry is for this transaction, or NULL. */
const ProducerState *
topics_producer_get_state(const LocalProducer *local)
{
	if (local->change)
		return local->change->deleted ? NULL : &local->change->state;
	return local->found ? &local->before : NULL;
}

/* Find the producer of this transaction that has a name, or NULL. */
LocalProducer *
topics_producer_find_named(const char *name)
{
	ListCell   *lc;

	foreach(lc, locals)
	{
		LocalProducer *local = lfirst(lc);
		const ProducerState *state = topics_producer_get_state(local);

		if (state && topics_producer_has_name(&local->key) && strcmp(state->name, name) == 0)
			return local;
	}
	return NULL;
}

/*
 * Begin a change: with what there is, in place of one that this subtransaction
 * has made.
 */
ProducerChange *
topics_producer_change(LocalProducer *local)
{
	SubTransactionId subxid = GetCurrentSubTransactionId();
	ProducerChange *change = local->change;

	if (change == NULL || change->subxid != subxid)
	{
		change = MemoryContextAllocZero(TopTransactionContext, sizeof(ProducerChange));
		if (local->change)
			*change = *local->change;
		else if (local->found)
			change->state = local->before;
		change->below = local->change;
		change->subxid = subxid;
		local->change = change;
	}
	change->deleted = false;
	return change;
}

/* The entry will be no more when the transaction commits. */
void
topics_producer_delete(LocalProducer *local)
{
	topics_producer_change(local)->deleted = true;
}

/*
 * Make the tag of the lock on the use of a name: shared by transactions that
 * number records.
 */
static LOCKTAG
make_use_tag(int64 producer_id)
{
	const ProducerKey key = topics_producer_make_key(producer_id, 0, USE_OF_NAME);

	return make_lock_tag(&key);
}

/*
 * Keep a name from being used until the transaction ends.  Return false if a
 * transaction uses it.
 */
bool
topics_producer_lock_use(int64 producer_id)
{
	LOCKTAG		tag = make_use_tag(producer_id);

	return topics_user_lock_acquire(&tag, ExclusiveLock, false);
}

/*
 * Something of a producer was not found in memory: raise an error if that may
 * be since there was no room for it.
 */
void
topics_producer_require_all_known(int64 producer_id)
{
	const int	left_out = topics_state_load_left_out(STATE_PRODUCERS);

	if (likely(left_out == 0))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 producer_id != 0 ?
			 errmsg("what is stored of producer " INT64_FORMAT " is not known", producer_id) :
			 errmsg("what is stored of this producer is not known"),
			 errdetail("It may be among the %d sequences and names that are left out: all %d places for them in shared memory are taken.",
					   left_out, pg_topics_max_producers),
			 errhint("Increase pg_topics.max_producers and restart the server.")));
}

void
topics_producer_require_owner(Oid owner, int64 producer_id)
{
	if ((OidIsValid(owner) && has_privs_of_role(GetUserId(), owner)) || topics_catalog_is_admin())
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for producer " INT64_FORMAT, producer_id),
			 errdetail("It belongs to another role."),
			 errhint("Get an id of your own from topics.init_producer().")));
}

/* ----------------------------------------------------------------
 *		Epochs
 * ----------------------------------------------------------------
 */

/*
 * A node that leads partitions, and not what is not spread, hears of names and
 * their epochs as a follower: one that it does not know may be there.
 */
static void
require_to_know_all(int64 producer_id)
{
	topics_append_role_require_lease(METADATA_SET);
	if (topics_mark_slot_kind_of(METADATA_SET) == CLUSTER_FOLLOWER)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("this node does not know this epoch of producer " INT64_FORMAT, producer_id),
				 errdetail("It follows the node that gives epochs, and may not have heard of it yet."),
				 errhint("Try again. If it stays so, call topics.init_producer() again.")));
}

/*
 * Raise TP007: another epoch of a producer was given than the current one.
 * Who has a lower one is fenced; nobody has been told a higher one, for which
 * Kafka's transaction coordinator has the same error.
 */
static void
report_other_epoch(int64 producer_id, int32 given, int32 current)
{
	if (given > current)
		require_to_know_all(producer_id);
	topics_append_role_require_lease(METADATA_SET);
	ereport(ERROR,
			(errcode(ERRCODE_PRODUCER_FENCED),
			 given > current ? errmsg("producer " INT64_FORMAT " has no epoch %d", producer_id, given) :
			 errmsg("producer " INT64_FORMAT " is fenced", producer_id),
			 errdetail("PRODUCER_FENCED: its epoch is %d, and %d was given.", current, given),
			 given > current ? errhint("Give the epoch that topics.init_producer() has returned.") :
			 errhint("Another process goes on in its place, with an epoch of topics.init_producer() of its own: this one ends.")));
}

static void
report_unknown(int64 producer_id)
{
	topics_producer_require_all_known(producer_id);
	require_to_know_all(producer_id);
	ereport(ERROR,
			(errcode(ERRCODE_PRODUCER_FENCED),
			 errmsg("producer " INT64_FORMAT " does not exist", producer_id),
			 errdetail("PRODUCER_FENCED: no name has this id. It has expired, was replaced by another one, or is of another database."),
			 errhint("Call topics.init_producer() again.")));
}

/* Keep a name from expiring until the (sub)transaction ends. */
static void
use_name(LocalProducer *name)
{
	LOCKTAG		tag;

	if (name->in_use != InvalidSubTransactionId)
		return;
	tag = make_use_tag(name->key.producer_id);
	(void) topics_user_lock_acquire(&tag, ShareLock, true);
	name->in_use = GetCurrentSubTransactionId();
}

/* Require a producer that has a name to be at an epoch. */
static void
check_named_epoch(const ProducerSequence *given)
{
	const ProducerKey key = topics_producer_make_name_key(given->producer_id);
	LocalProducer *name = topics_producer_get_local(&key);
	ProducerState state;

	use_name(name);
	if (name->locked != InvalidSubTransactionId && topics_producer_get_state(name))
		state = *topics_producer_get_state(name);
	else if (!topics_producer_table_peek(&key, &state))
		report_unknown(given->producer_id);
	topics_producer_require_owner(state.owner, given->producer_id);
	if (state.epoch != given->epoch)
		report_other_epoch(given->producer_id, given->epoch, state.epoch);
}

/*
 * With the append locks held: require what was admitted to be of epochs that
 * are current.  Raises the error of who was fenced.
 */
void
topics_producer_require_epochs(void)
{
	ListCell   *lc;

	foreach(lc, locals)
	{
		const LocalProducer *local = lfirst(lc);
		const ProducerKey key = topics_producer_make_name_key(local->key.producer_id);
		const LocalProducer *name;
		ProducerState state;

		if (local->change == NULL || !local->change->is_admitted || !topics_producer_id_has_name(key.producer_id))
			continue;
		name = find_local(&key);
		/* this transaction has it locked: nobody else changes it */
		if (name && name->change)
			continue;
		if (!topics_producer_table_peek(&key, &state))
			report_unknown(key.producer_id);
		if (state.epoch != local->change->state.epoch)
			report_other_epoch(key.producer_id, local->change->state.epoch, state.epoch);
	}
}

/* ----------------------------------------------------------------
 *		Sequences
 * ----------------------------------------------------------------
 */

/* The sequence behind another one; Kafka's begin anew behind the highest. */
static int32
next_sequence(int32 sequence)
{
	return sequence == PG_INT32_MAX ? 0 : sequence + 1;
}

/* Count the sequences from one to another one. */
static int32
count_between(int32 from, int32 to)
{
	return ((uint32) to - (uint32) from) & PG_INT32_MAX;
}

/*
 * Find the batch with a sequence, among the first "count"; NULL if that is not
 * kept.
 */
static const ProducerBatch *
find_batch(const ProducerState *state, int count, int32 sequence)
{
	for (int i = 0; i < count; i++)
	{
		const ProducerBatch *batch = &state->batches[i];

		if (count_between(batch->first, sequence) <= count_between(batch->first, batch->last))
			return batch;
	}
	return NULL;
}

/*
 * Return true if a sequence is stored: it is one of those that are kept, or
 * lies before them, by no more than half of all, and not before the one that
 * the producer began with.
 */
static bool
is_stored(const ProducerState *state, int32 sequence)
{
	const int32 last = state->batches[state->nbatches - 1].last;
	const int32 distance = count_between(sequence, last);

	return find_batch(state, state->nbatches, sequence) != NULL ||
		(distance <= PG_INT32_MAX / 2 && distance <= count_between(state->first, last));
}

/*
 * The offset of a sequence that is stored, or UNKNOWN_PLACE if that is not
 * kept.
 */
static int64
find_place(const ProducerState *state, int ncommitted, int32 sequence)
{
	const ProducerBatch *batch = find_batch(state, ncommitted, sequence);

	if (batch == NULL || batch->offset == UNKNOWN_PLACE)
		return UNKNOWN_PLACE;
	return batch->offset + count_between(batch->first, sequence);
}

static void
report_out_of_order(const Topic *topic, int32 partition, const ProducerSequence *given, int32 first, int32 expected)
{
	topics_append_role_require_lease(topics_mark_slot_set_of(topics_leader_set_of(&topic->leader_sets, partition)));
	ereport(ERROR,
			(errcode(ERRCODE_OUT_OF_ORDER_SEQUENCE),
			 errmsg("sequence %d of producer " INT64_FORMAT " is out of order",
					given->sequence, given->producer_id),
			 first != given->sequence && count_between(given->sequence, first) <= PG_INT32_MAX / 2 ?
			 errdetail("OUT_OF_ORDER_SEQUENCE_NUMBER: in partition %d of topic \"%s\" the next one is %d, and the first that is known is %d.",
					   partition, NameStr(topic->name), expected, first) :
			 errdetail("OUT_OF_ORDER_SEQUENCE_NUMBER: in partition %d of topic \"%s\" the next one is %d.",
					   partition, NameStr(topic->name), expected),
			 errhint("Produce the sequences in between before, or begin with 0 at the next epoch, by topics.init_producer() with the producer's name.")));
}

static void
check_range(const char *name, int64 value)
{
	if (value < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be negative", name)));
}

/*
 * Before a topic is looked at that a numbered record is for: make sure that
 * what is stored of producers is known.
 */
void
topics_producer_begin(const ProducerSequence *given)
{
	check_range("producer_id", given->producer_id);
	check_range("producer_epoch", given->epoch);
	check_range("sequence", given->sequence);
	topics_producer_prepare(true);
}

/*
 * Require this node to lead a partition: what a follower knows of producers is
 * old.
 */
void
topics_producer_require_leader(const Topic *topic, int32 partition)
{
	const int	set = topics_mark_slot_set_of(topics_leader_set_of(&topic->leader_sets, partition));

	if (topics_cluster_follows(set))
		topics_cluster_report_not_leader(set, NameStr(topic->name), partition);
}

/*
 * Look whether a numbered record is to be stored in a partition.  Return NULL
 * if it is stored; then "stored_at" is its offset, or -1 if that is not known
 * (any more, or before the commit).  Otherwise the caller produces it, and
 * says so (topics_producer_note).
 *
 * As in Kafka, of a producer that nothing is known of any sequence is taken:
 * what was known has expired.
 */
LocalProducer *
topics_producer_admit(const Topic *topic, int32 partition, ProducerSequence *given)
{
	const ProducerKey key = topics_producer_make_key(given->producer_id, topic->topic_id, partition);
	LocalProducer *local;
	const ProducerState *state;
	int32		last;

	topics_producer_require_leader(topic, partition);
	if (topics_producer_id_has_name(given->producer_id))
		check_named_epoch(given);
	local = topics_producer_use(&key, true);
	state = topics_producer_get_state(local);
	given->stored_at = UNKNOWN_PLACE;
	if (state == NULL)
	{
		topics_producer_require_all_known(given->producer_id);
		return local;
	}

	topics_producer_require_owner(state->owner, given->producer_id);
	if (given->epoch < state->epoch)
		report_other_epoch(given->producer_id, given->epoch, state->epoch);
	if (given->epoch > state->epoch)
	{
		if (given->sequence != 0)
			report_out_of_order(topic, partition, given, 0, 0);
		return local;
	}
	last = state->batches[state->nbatches - 1].last;
	if (given->sequence == next_sequence(last))
		return local;
	if (!is_stored(state, given->sequence))
		report_out_of_order(topic, partition, given, state->first, next_sequence(last));

	given->is_stored = true;
	given->stored_at = find_place(state, state->nbatches - (local->change ? local->change->nlocal : 0),
								  given->sequence);
	/* the commit is to wait for no less than that of the record */
	topics_producer_change(local)->is_admitted = true;
	return NULL;
}

/*
 * A record that was admitted is in the transaction's buffer, as so many were
 * before it.
 */
void
topics_producer_note(LocalProducer *local, const ProducerSequence *given, int64 ordinal)
{
	ProducerChange *change = topics_producer_change(local);
	ProducerState *state = &change->state;
	ProducerBatch *batch = state->nbatches > 0 ? &state->batches[state->nbatches - 1] : NULL;

	change->is_admitted = true;
	if (state->nbatches == 0 || state->epoch != given->epoch)
	{
		if (!OidIsValid(state->owner))
			state->owner = GetUserId();
		state->epoch = given->epoch;
		state->first = given->sequence;
		state->nbatches = change->nlocal = 0;
	}
	/* it goes on, unless other records have come in between */
	else if (change->nlocal > 0 && given->sequence > batch->first &&
			 ordinal - batch->offset == given->sequence - batch->first)
	{
		batch->last = given->sequence;
		return;
	}
	if (state->nbatches == PRODUCER_BATCHES)
	{
		memmove(&state->batches[0], &state->batches[1], sizeof(ProducerBatch) * (PRODUCER_BATCHES - 1));
		state->nbatches--;
	}
	state->batches[state->nbatches++] = (ProducerBatch)
	{
		given->sequence, given->sequence, ordinal
	};
	change->nlocal = Min(change->nlocal + 1, PRODUCER_BATCHES);
}

/* ----------------------------------------------------------------
 *		The end of a transaction
 * ----------------------------------------------------------------
 */

/* Return true if the transaction uses a producer's id. */
bool
topics_producer_is_pending(void)
{
	return locals != NIL;
}

/*
 * Require this node to be what it was when the producer was looked at:
 * otherwise it may have produced on another node, which led meanwhile.  And
 * require that what it has stored was not forgotten since.
 */
static void
require_same_role(int set)
{
	if (!topics_mark_slot_is_generation(set, generations[set]) ||
		topics_state_load_forgotten(STATE_PRODUCERS) != forgotten)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("another node may have led since this transaction has numbered a record"),
				 errhint("The transaction might succeed if retried.")));
}

static void
add_record(Topic *state_topic, LocalProducer *local)
{
	ProducerChange *change = local->change;
	RecordDraft draft = {0};

	change->state.used_at = GetCurrentTimestamp();
	draft.key = topics_producer_log_format_key(&local->key);
	draft.value_isnull = change->deleted;
	draft.headers_isnull = true;
	if (!change->deleted)
		draft.value = topics_producer_log_format_value(&local->key, &change->state, change->nlocal);
	draft.partition = local->log_partition;
	draft.create_time = change->state.used_at;
	local->ordinal = topics_append_buffer(state_topic, &draft);
}

/* Before the commit record: give records to the transaction's buffer. */
void
topics_producer_pre_commit(void)
{
	Topic	   *state_topic = NULL;
	ListCell   *lc;

	foreach(lc, locals)
	{
		LocalProducer *local = lfirst(lc);

		local->ordinal = -1;
		if (local->change == NULL || (local->change->deleted && !local->found))
			continue;

		/*
		 * of a topic that is dropped a follower gets the records from the
		 * leader
		 */
		if (local->change->deleted && topics_cluster_follows(local->set))
			continue;
		require_same_role(local->set);
		if (state_topic == NULL)
		{
			state_topic = topics_internal_topic_require(PRODUCER_STATE_TOPIC);
			state_topic_id = state_topic->topic_id;
		}
		if (local->log_partition == CHOSEN_LATER)
			local->log_partition = topics_producer_log_choose_partition(state_topic, &local->key);
		/* who leads the set writes what is of it */
		Assert(topics_producer_log_set_of_partition(local->log_partition) == local->set);
		/* one that is there stays: we have it locked, and this role */
		if (!local->change->deleted && !local->found)
		{
			local->reserved = true;
			topics_producer_table_reserve(&local->key, local->log_partition);
		}
		add_record(state_topic, local);
	}
}

/*
 * With the append locks held: give this transaction's batches their offsets,
 * in memory, and in the text of the record, which has room for them.
 */
static void
stamp_record(LocalProducer *local, const HeapTupleData *tuple, TupleDesc tupdesc)
{
	bool		isnull;
	Datum		value = heap_getattr(unconstify(HeapTupleData *, tuple), Anum_log_value, tupdesc, &isnull);
	ProducerChange *change = local->change;
	ProducerState *state = &change->state;
	char		batches[BATCHES_SIZE];
	int64		base;
	int			length;

	if (isnull || change->nlocal == 0)
		return;
	base = topics_append_next_offset(local->key.topic_id, local->key.partition);
	for (int i = state->nbatches - change->nlocal; i < state->nbatches; i++)
		state->batches[i].offset += base;

	Assert(!VARATT_IS_EXTENDED(DatumGetPointer(value)) || VARATT_IS_SHORT(DatumGetPointer(value)));
	length = topics_producer_log_print_batches(batches, state, change->nlocal);
	Assert(length <= (int) VARSIZE_ANY_EXHDR(DatumGetPointer(value)));
	memcpy(VARDATA_ANY(DatumGetPointer(value)), batches, length);
	change->nlocal = 0;
}

/*
 * With the append locks held, before the records are appended: stamp those of
 * them that are of sequences.  They are "first" and those behind it, of their
 * partition in this transaction.  Raises nothing.
 */
void
topics_producer_stamp(const TopicPartition *id, TupleDesc tupdesc, HeapTupleData *tuples,
					  int ntuples, int64 first)
{
	ListCell   *lc;

	if (likely(locals == NIL))
		return;
	foreach(lc, locals)
	{
		LocalProducer *local = lfirst(lc);

		if (local->ordinal < first || local->ordinal >= first + ntuples ||
			local->log_partition != id->partition || state_topic_id != id->topic_id ||
			topics_producer_has_name(&local->key))
			continue;
		stamp_record(local, &tuples[local->ordinal - first], tupdesc);
	}
}

/*
 * After the commit record, with the append locks still held: store what is
 * new.  Raises nothing.
 */
void
topics_producer_publish(void)
{
	ListCell   *lc;

	foreach(lc, locals)
	{
		LocalProducer *local = lfirst(lc);

		if (local->ordinal < 0)
			continue;
		topics_producer_table_store(&local->key, local->change->deleted ? NULL : &local->change->state,
									local->log_partition, local->ordinal +
									topics_append_first_offset(state_topic_id, local->log_partition));
		local->reserved = false;	/* it is used now */
	}
}

/* What a subtransaction uses and changes becomes its parent's. */
void
topics_producer_subcommit(SubTransactionId subxid, SubTransactionId parent)
{
	ListCell   *lc;

	foreach(lc, locals)
	{
		LocalProducer *local = lfirst(lc);
		ProducerChange *change = local->change;

		if (local->locked == subxid)
			local->locked = parent;
		if (local->in_use == subxid)
			local->in_use = parent;
		if (change == NULL || change->subxid != subxid)
			continue;
		change->subxid = parent;
		if (change->below && change->below->subxid == parent)
			change->below = change->below->below;
	}
}

/* Undo what a subtransaction locked and changed. */
void
topics_producer_subabort(SubTransactionId subxid)
{
	ListCell   *lc;

	foreach(lc, locals)
	{
		LocalProducer *local = lfirst(lc);

		if (local->locked == subxid)
			local->locked = InvalidSubTransactionId;
		if (local->in_use == subxid)
			local->in_use = InvalidSubTransactionId;
		while (local->change && local->change->subxid == subxid)
			local->change = local->change->below;
	}
}

/* Forget all at the end of a transaction.  Raises nothing. */
void
topics_producer_forget(void)
{
	ListCell   *lc;

	foreach(lc, locals)
	{
		const LocalProducer *local = lfirst(lc);

		if (local->reserved)
			topics_producer_table_unreserve(&local->key);
	}
	locals = NIL;				/* the memory goes with the transaction */
	last_used = NULL;
}
