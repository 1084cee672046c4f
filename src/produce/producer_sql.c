/*-------------------------------------------------------------------------
 *
 * producer_sql.c
 *		SQL functions of producers that number their records: init_producer and
 *		last_sequence.
 *
 * An id without a name is drawn, and nothing is stored of it before its first
 * record is.  A name is a producer's entry of its own, with the id, and an
 * epoch that each call raises.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "common/hashfn.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "base/base.h"
#include "log/log.h"
#include "produce/produce.h"
#include "produce/producer.h"

PG_FUNCTION_INFO_V1(topics_init_producer);
PG_FUNCTION_INFO_V1(topics_last_sequence);

/*
 * Kafka's producer epoch has 16 bits; behind the last one a name gets another
 * id.
 */
#define MAX_EPOCH PG_INT16_MAX

/* Columns of init_producer's result. */
enum
{
	INIT_PRODUCER_ID,
	INIT_EPOCH,
	INIT_COLUMNS
};

/* Draw a new id.  It was never given before: it has 62 random bits. */
static int64
draw_id(bool has_name)
{
	int64		id;

	do
		if (!pg_strong_random(&id, sizeof(id)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate a producer id")));
	while ((id = (id & PG_INT64_MAX) & ~INT64CONST(1)) == 0);
	return has_name ? id + 1 : id;
}

static void
check_name(const char *name)
{
	if (name[0] == '\0' || strlen(name) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid producer name \"%s\"", name),
				 errdetail("A name has 1 to %d bytes.", NAMEDATALEN - 1)));
}

/*
 * Get the id and the next epoch of a name; a new one becomes the current
 * user's.
 */
static ProducerState
take_name(const char *name, int64 *producer_id)
{
	LOCKTAG		tag = topics_user_lock_tag(USER_LOCK_PRODUCER_NAME,
										   hash_bytes_extended((const unsigned char *) name, strlen(name), 0));
	ProducerKey key;
	ProducerState state;
	LocalProducer *local;
	ProducerChange *change;
	bool		found;

	check_name(name);
	(void) topics_user_lock_acquire(&tag, ExclusiveLock, true);
	/* what this transaction has made of it, or else what is committed */
	local = topics_producer_find_named(name);
	if (local)
		key = local->key;
	found = local || topics_producer_table_find_name(name, &key, &state);
	if (found)
	{
		local = topics_producer_use(&key, true);
		/* it may have expired while the lock was waited for */
		found = topics_producer_get_state(local) != NULL;
	}
	if (found)
	{
		topics_producer_require_owner(topics_producer_get_state(local)->owner, key.producer_id);
		if (topics_producer_get_state(local)->epoch == MAX_EPOCH)
		{
			topics_producer_delete(local);
			found = false;
		}
	}
	if (!found)
	{
		topics_producer_require_all_known(0);
		key = topics_producer_make_name_key(draw_id(true));
		local = topics_producer_use(&key, true);
	}
	change = topics_producer_change(local);
	if (found)
		change->state.epoch++;
	else
	{
		change->state.owner = GetUserId();
		strlcpy(change->state.name, name, sizeof(change->state.name));
	}
	*producer_id = key.producer_id;
	return change->state;
}

/* init_producer(producer_name): producer_id, producer_epoch */
Datum
topics_init_producer(PG_FUNCTION_ARGS)
{
	TupleDesc	tupdesc;
	Datum		values[INIT_COLUMNS];
	bool		nulls[INIT_COLUMNS] = {false};
	ProducerState state = {0};
	int64		producer_id;

	topics_settings_require_preload();
	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (PG_ARGISNULL(0))
		producer_id = draw_id(false);
	else
	{
		topics_produce_check_call(fcinfo);
		topics_cluster_require_leader("topics.init_producer()");
		topics_producer_prepare(true);
		state = take_name(text_to_cstring(PG_GETARG_TEXT_PP(0)), &producer_id);
	}
	values[INIT_PRODUCER_ID] = Int64GetDatum(producer_id);
	values[INIT_EPOCH] = Int32GetDatum(state.epoch);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}

/* Arguments of last_sequence. */
enum
{
	LAST_PRODUCER_ID,
	LAST_TOPIC,
	LAST_PARTITION
};

/* last_sequence(producer_id, topic, partition) */
Datum
topics_last_sequence(PG_FUNCTION_ARGS)
{
	Topic	   *topic;
	ProducerKey key;
	LocalProducer *local;
	const ProducerState *state;

	topics_settings_require_preload();
	topics_argument_require_all(fcinfo, PG_NARGS());
	topics_produce_check_call(fcinfo);
	topics_producer_prepare(false);
	topic = topics_catalog_lookup(topics_argument_get_text(fcinfo, LAST_TOPIC), false);
	topics_catalog_require(topic, ACL_INSERT);
	topics_catalog_check_partition(topic, PG_GETARG_INT32(LAST_PARTITION));
	topics_producer_require_leader(topic, PG_GETARG_INT32(LAST_PARTITION));
	key = topics_producer_make_key(PG_GETARG_INT64(LAST_PRODUCER_ID), topic->topic_id, PG_GETARG_INT32(LAST_PARTITION));
	local = topics_producer_use(&key, true);
	state = topics_producer_get_state(local);
	if (state == NULL)
	{
		topics_producer_require_all_known(key.producer_id);
		PG_RETURN_NULL();
	}
	topics_producer_require_owner(state->owner, key.producer_id);

	/*
	 * as for a record that is stored: the answer is true once this has
	 * committed
	 */
	if (local->change == NULL)
		(void) topics_producer_change(local);
	PG_RETURN_INT32(state->batches[state->nbatches - 1].last);
}
