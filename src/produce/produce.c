/*-------------------------------------------------------------------------
 *
 * produce.c
 *		Check a record, choose its partition, hand it to the transaction.
 *
 * All that can be wrong with a record is found in the call: rights, type,
 * domain, size, partition, headers.  What remains for the commit can fail
 * only for reasons that have nothing to do with the record.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/typecmds.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "base/base.h"
#include "log/log.h"
#include "produce/produce.h"

PG_FUNCTION_INFO_V1(topics_produce);
PG_FUNCTION_INFO_V1(topics_produce_batch);
PG_FUNCTION_INFO_V1(topics_send);
PG_FUNCTION_INFO_V1(topics_last_produced);

/* Arguments of produce, and the first ones of send. */
enum
{
	PRODUCE_TOPIC,
	PRODUCE_VALUE,
	PRODUCE_KEY,
	PRODUCE_HEADERS,
	PRODUCE_PARTITION,
	PRODUCE_CREATE_TIME,

	/* behind these of produce alone */
	PRODUCE_PRODUCER_ID,
	PRODUCE_EPOCH,
	PRODUCE_SEQUENCE,

	/* and of send */
	SEND_OFFSET = PRODUCE_PRODUCER_ID,
	SEND_PRODUCER_ID,
	SEND_EPOCH,
	SEND_SEQUENCE
};

/* Arguments of produce_batch. */
enum
{
	BATCH_TOPIC = PRODUCE_TOPIC,
	BATCH_VALUES,
	BATCH_KEYS,
	BATCH_HEADERS,
	BATCH_PARTITION,
	BATCH_CREATE_TIMES
};

/* Columns of send's result. */
enum
{
	SENT_PARTITION,
	SENT_OFFSET,
	SENT_COLUMNS
};

/* Columns of last_produced's result. */
enum
{
	RANGE_TOPIC,
	RANGE_PARTITION,
	RANGE_FIRST_OFFSET,
	RANGE_RECORD_COUNT,
	RANGE_COLUMNS
};

/* ----------------------------------------------------------------
 *		Keys and values
 * ----------------------------------------------------------------
 */

static void
check_domain(TopicColumn *column, Datum value, bool isnull, MemoryContext cxt)
{
	if (column->type != column->base_type)
		domain_check(value, isnull, column->type, &column->domain_extra, cxt);
}

/* Check a value of the base type for a column whose type may be a domain. */
void
topics_produce_check_value(Topic *topic, TopicColumn *column, Datum value)
{
	check_domain(column, value, false, topic->cxt);
}

/*
 * Check NULL for a column whose type may be a domain that refuses it.
 * PostgreSQL up to 16 does not hear of it if a domain below becomes NOT NULL.
 */
void
topics_produce_check_null(Topic *topic, TopicColumn *column)
{
	Oid			type = column->type;
	bool		not_null = false;

	check_domain(column, (Datum) 0, true, topic->cxt);
	while (type != column->base_type && !not_null)
		type = topics_domain_below(type, &not_null);
	if (not_null)
		ereport(ERROR,
				(errcode(ERRCODE_NOT_NULL_VIOLATION),
				 errmsg("domain %s does not allow null values", format_type_be(column->type)),
				 errdatatype(column->type)));
}

/* Convert text in the server's encoding to a column's base type. */
static Datum
convert_cstring(TopicColumn *column, char *string)
{
	return InputFunctionCall(&column->input, string, column->ioparam, column->base_typmod);
}

/*
 * Convert a key or value as it came, of type text, bytea, jsonb or of the
 * column's own base type, to that base type.  Bytes for a topic that holds no
 * bytea are UTF-8 text.
 */
Datum
topics_produce_convert_to_base(TopicColumn *column, Oid given, Datum value)
{
	if (given == column->base_type && column->base_typmod < 0)
		return value;

	if (given == TEXTOID)
		return convert_cstring(column, TextDatumGetCString(value));
	if (given == JSONBOID)
	{
		Jsonb	   *jsonb = DatumGetJsonbP(value);

		return convert_cstring(column, JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb)));
	}
	else
	{
		bytea	   *bytes = DatumGetByteaPP(value);
		int			len = VARSIZE_ANY_EXHDR(bytes);
		char	   *string = pg_any_to_server(VARDATA_ANY(bytes), len, PG_UTF8);

		Assert(given == BYTEAOID);
		/* it is verified and has no NUL, but may be the argument's own bytes */
		if (string == VARDATA_ANY(bytes))
			string = pnstrdup(string, len);
		return convert_cstring(column, string);
	}
}

/* Print a key as text that is the same whatever the session's settings are. */
static char *
print_record_key(TopicColumn *column, Datum key)
{
	int			guc_level = topics_fixed_text_begin(column->needs_fixed_text);
	char	   *text = OutputFunctionCall(&column->output, key);

	topics_fixed_text_end(guc_level);
	return text;
}

/* Choose the partition by the bytes that Kafka's serializers make of a key. */
static int32
choose_partition_for_key(Topic *topic, Datum key)
{
	TopicColumn *column = &topic->key;
	const char *bytes;
	int			len;

	if (column->base_type == BYTEAOID || column->base_type == TEXTOID ||
		column->base_type == VARCHAROID)
	{
		struct varlena *data = PG_DETOAST_DATUM_PACKED(key);

		bytes = VARDATA_ANY(data);
		len = VARSIZE_ANY_EXHDR(data);
	}
	else
	{
		bytes = print_record_key(column, key);
		len = strlen(bytes);
	}
	if (column->base_type != BYTEAOID && GetDatabaseEncoding() != PG_UTF8)
	{
		char	   *utf8 = pg_server_to_any(bytes, len, PG_UTF8);

		if (utf8 != bytes)
		{
			bytes = utf8;
			len = strlen(utf8);
		}
	}
	return topics_partitioner_for_key(bytes, len, topic->partitions);
}

/* Find the partition of a key that is given as text. */
int32
topics_produce_partition_of(Topic *topic, text *key)
{
	return choose_partition_for_key(topic, topics_produce_convert_to_base(&topic->key, TEXTOID,
																		  PointerGetDatum(key)));
}

/* ----------------------------------------------------------------
 *		A record
 * ----------------------------------------------------------------
 */

/* Raise an error if this transaction may not produce at all. */
void
topics_produce_check_context(const char *command)
{
	PreventCommandIfReadOnly(command);
	PreventCommandIfParallelMode(command);
	if (InSecurityRestrictedOperation())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot execute %s within security-restricted operation", command)));
}

/*
 * The same, for the function that was called; which is named in an error only.
 */
void
topics_produce_check_call(FunctionCallInfo fcinfo)
{
	if (XactReadOnly || IsInParallelMode() || InSecurityRestrictedOperation())
		topics_produce_check_context(topics_argument_function(fcinfo));
}

/* Check a record against the settings of its topic. */
void
topics_produce_check_settings(Topic *topic, const RecordDraft *draft)
{
	int64		bytes;

	if (draft->key_isnull && topic->settings.compact)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a record of topic \"%s\" needs a key", NameStr(topic->name)),
				 errdetail("The topic's cleanup_policy includes \"compact\", which keeps the latest record of each key.")));

	bytes = topics_log_value_bytes(draft->key, draft->key_isnull, topic->key.typlen) +
		topics_log_value_bytes(draft->value, draft->value_isnull, topic->value.typlen) +
		topics_log_value_bytes(draft->headers, draft->headers_isnull, -1);
	if (bytes > topic->settings.max_message_bytes)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("record is too large for topic \"%s\"", NameStr(topic->name)),
				 errdetail("Key, value and headers have " INT64_FORMAT " bytes, max_message_bytes is %d.",
						   bytes, topic->settings.max_message_bytes),
				 errhint("The topic's owner can raise max_message_bytes by topics.alter_topic().")));
}

/*
 * Hand a record of the topic's types to the transaction, after the last
 * checks.  Its partition is chosen here unless it was given, and is the
 * result.  One that is "numbered", else that is NULL, is left out if it is
 * stored already.
 */
int32
topics_produce_record(Topic *topic, RecordDraft *draft, bool has_partition,
					  ProducerSequence *numbered)
{
	LocalProducer *producer = NULL;
	int64		ordinal;

	topics_produce_check_settings(topic, draft);
	if (TIMESTAMP_NOT_FINITE(draft->create_time))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("the timestamp of a record must be finite")));

	if (has_partition)
		topics_catalog_check_partition(topic, draft->partition);
	else if (draft->key_isnull)
		draft->partition = topics_sticky_partition_choose(topic);
	else
		draft->partition = choose_partition_for_key(topic, draft->key);

	if (numbered && (producer = topics_producer_admit(topic, draft->partition, numbered)) == NULL)
		return draft->partition;
	ordinal = topics_append_buffer(topic, draft);
	if (producer)
		topics_producer_note(producer, numbered, ordinal);
	return draft->partition;
}

/*
 * What of which record is looked at, for the context of an error.  PostgreSQL's
 * own errors of input functions and domains do not say.
 */
typedef struct DraftPlace
{
	ErrorContextCallback callback;
	const char *topic;
	int			element;		/* of a batch, from 1; or 0 */
	const char *part;			/* of the record; NULL: all of it */
} DraftPlace;

/* Error context callback. */
static void
describe_draft(void *arg)
{
	const DraftPlace *place = arg;

	if (place->element > 0)
		errcontext("%s %d of a batch for topic \"%s\"",
				   place->part ? psprintf("%s of element", place->part) : "element",
				   place->element, place->topic);
	else
		errcontext("%s for topic \"%s\"",
				   place->part ? psprintf("%s of a record", place->part) : "record", place->topic);
}

/* Begin to describe drafts; the caller says which. */
static void
begin_draft(DraftPlace *place, Topic *topic)
{
	memset(place, 0, sizeof(*place));
	place->topic = NameStr(topic->name);
	place->callback.callback = describe_draft;
	place->callback.arg = place;
	place->callback.previous = error_context_stack;
	error_context_stack = &place->callback;
}

static void
end_draft(DraftPlace *place)
{
	error_context_stack = place->callback.previous;
}

static void
draft_column(Topic *topic, TopicColumn *column, Oid given, bool isnull, Datum value,
			 Datum *result, bool *result_isnull)
{
	*result_isnull = isnull;
	if (isnull)
		topics_produce_check_null(topic, column);
	else
	{
		*result = topics_produce_convert_to_base(column, given, value);
		topics_produce_check_value(topic, column, *result);
	}
}

/* Find the topic that a call is about, and check the caller's right. */
static Topic *
find_topic_to_produce(FunctionCallInfo fcinfo)
{
	Topic	   *topic;

	topics_settings_require_preload();
	topics_produce_check_call(fcinfo);
	topic = topics_catalog_lookup(topics_argument_get_text(fcinfo, PRODUCE_TOPIC), false);
	topics_catalog_require(topic, ACL_INSERT);
	topics_catalog_require_not_internal(topic);
	return topic;
}

static void
draft_argument(FunctionCallInfo fcinfo, int argument, Topic *topic, TopicColumn *column,
			   Datum *result, bool *result_isnull)
{
	bool		isnull = PG_ARGISNULL(argument);

	draft_column(topic, column, get_fn_expr_argtype(fcinfo->flinfo, argument),
				 isnull, isnull ? 0 : PG_GETARG_DATUM(argument), result, result_isnull);
}

/*
 * Read the number of a record from arguments, the first of which is the
 * producer's id.  Return false if it has none.
 */
static bool
read_sequence(FunctionCallInfo fcinfo, int first, ProducerSequence *numbered)
{
	const int	given = !PG_ARGISNULL(first) + !PG_ARGISNULL(first + 1) + !PG_ARGISNULL(first + 2);

	if (likely(given == 0))
		return false;
	if (given < 3 || PG_ARGISNULL(PRODUCE_PARTITION))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("producer_id, producer_epoch, sequence and partition are given together"),
				 errdetail("Sequences count a producer's records in a partition: to repeat one, the producer has to know which."),
				 errhint("Get the first two from topics.init_producer(), and choose the partition.")));
	memset(numbered, 0, sizeof(*numbered));
	numbered->producer_id = PG_GETARG_INT64(first);
	numbered->epoch = PG_GETARG_INT32(first + 1);
	numbered->sequence = PG_GETARG_INT32(first + 2);
	topics_settings_require_preload();
	topics_produce_check_call(fcinfo);
	topics_producer_begin(numbered);
	return true;
}

/*
 * Produce a record from the arguments of produce or send; "numbered" or NULL.
 */
static int32
produce_from_arguments(FunctionCallInfo fcinfo, Topic *topic, ProducerSequence *numbered)
{
	RecordDraft draft = {0};
	DraftPlace	place;
	int32		partition;

	begin_draft(&place, topic);
	place.part = "key";
	draft_argument(fcinfo, PRODUCE_KEY, topic, &topic->key, &draft.key, &draft.key_isnull);
	place.part = "value";
	draft_argument(fcinfo, PRODUCE_VALUE, topic, &topic->value, &draft.value, &draft.value_isnull);
	place.part = "headers";
	draft.headers_isnull = PG_ARGISNULL(PRODUCE_HEADERS);
	if (!draft.headers_isnull)
		draft.headers = topics_header_normalize(PG_GETARG_DATUM(PRODUCE_HEADERS));
	place.part = NULL;
	if (!PG_ARGISNULL(PRODUCE_PARTITION))
		draft.partition = PG_GETARG_INT32(PRODUCE_PARTITION);
	draft.create_time = PG_ARGISNULL(PRODUCE_CREATE_TIME) ? GetCurrentTimestamp() :
		PG_GETARG_TIMESTAMPTZ(PRODUCE_CREATE_TIME);
	partition = topics_produce_record(topic, &draft, !PG_ARGISNULL(PRODUCE_PARTITION), numbered);
	end_draft(&place);
	return partition;
}

/*
 * produce(topic, value, key, headers, partition, create_time, producer_id,
 * producer_epoch,
 *		   sequence)
 */
Datum
topics_produce(PG_FUNCTION_ARGS)
{
	ProducerSequence numbered;
	const bool	is_numbered = read_sequence(fcinfo, PRODUCE_PRODUCER_ID, &numbered);
	Topic	   *topic = find_topic_to_produce(fcinfo);

	PG_RETURN_INT32(produce_from_arguments(fcinfo, topic, is_numbered ? &numbered : NULL));
}

/* ----------------------------------------------------------------
 *		Batches
 * ----------------------------------------------------------------
 */

/* One array argument of produce_batch; without elements if it is NULL. */
typedef struct BatchColumn
{
	Oid			element_type;
	Datum	   *values;
	bool	   *nulls;
	int			count;
} BatchColumn;

static BatchColumn
read_batch_column(FunctionCallInfo fcinfo, int argument, const char *name, int expected)
{
	BatchColumn column = {InvalidOid, NULL, NULL, -1};
	ArrayType  *array;
	int16		typlen;
	bool		typbyval;
	char		typalign;

	if (PG_ARGISNULL(argument))
		return column;
	array = PG_GETARG_ARRAYTYPE_P(argument);
	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("%s must be an array of one dimension", name)));
	column.element_type = ARR_ELEMTYPE(array);
	get_typlenbyvalalign(column.element_type, &typlen, &typbyval, &typalign);
	deconstruct_array(array, column.element_type, typlen, typbyval, typalign,
					  &column.values, &column.nulls, &column.count);
	if (expected >= 0 && column.count != expected)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must have as many elements as record_values", name),
				 errdetail("They have %d and %d.", column.count, expected)));
	return column;
}

static inline bool
batch_element_is_null(const BatchColumn *column, int i)
{
	return column->count < 0 || column->nulls[i];
}

/*
 * produce_batch(topic, record_values, keys, headers, partition,
 *				 create_times)
 */
Datum
topics_produce_batch(PG_FUNCTION_ARGS)
{
	Topic	   *topic = find_topic_to_produce(fcinfo);
	BatchColumn values;
	BatchColumn keys;
	BatchColumn headers;
	BatchColumn times;
	bool		has_partition = !PG_ARGISNULL(BATCH_PARTITION);
	TimestampTz now = GetCurrentTimestamp();
	MemoryContext cxt;
	MemoryContext old;
	DraftPlace	place;

	topics_argument_require(fcinfo, BATCH_VALUES);
	values = read_batch_column(fcinfo, BATCH_VALUES, "record_values", -1);
	keys = read_batch_column(fcinfo, BATCH_KEYS, "keys", values.count);
	headers = read_batch_column(fcinfo, BATCH_HEADERS, "headers", values.count);
	times = read_batch_column(fcinfo, BATCH_CREATE_TIMES, "create_times", values.count);

	begin_draft(&place, topic);
	cxt = AllocSetContextCreate(CurrentMemoryContext, "pg_topics record", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(cxt);
	for (int i = 0; i < values.count; i++)
	{
		RecordDraft draft = {0};

		CHECK_FOR_INTERRUPTS();
		place.element = i + 1;
		place.part = "key";
		draft_column(topic, &topic->key, keys.element_type, batch_element_is_null(&keys, i),
					 batch_element_is_null(&keys, i) ? 0 : keys.values[i],
					 &draft.key, &draft.key_isnull);
		place.part = "value";
		draft_column(topic, &topic->value, values.element_type, values.nulls[i], values.values[i],
					 &draft.value, &draft.value_isnull);
		place.part = "headers";
		draft.headers_isnull = batch_element_is_null(&headers, i);
		if (!draft.headers_isnull)
			draft.headers = topics_header_normalize(headers.values[i]);
		place.part = NULL;
		if (has_partition)
			draft.partition = PG_GETARG_INT32(BATCH_PARTITION);
		draft.create_time = batch_element_is_null(&times, i) ? now :
			DatumGetTimestampTz(times.values[i]);
		topics_produce_record(topic, &draft, has_partition, NULL);
		MemoryContextReset(cxt);
	}
	end_draft(&place);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(cxt);
	PG_RETURN_INT64(values.count);
}

/* ----------------------------------------------------------------
 *		send: produce, commit, and say where it is
 * ----------------------------------------------------------------
 */

/*
 * Commit, and raise an error if no standby has confirmed that it should.  A
 * cancel that has come during the commit, and not ended it, is too late, as it
 * would be behind the COMMIT of a client: the record is there, and an error
 * would say that it is not.
 */
static void
commit_for_send(void)
{
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	topics_durability_keep_connection(true);
	PG_TRY();
	{
		SPI_commit();
	}
	PG_FINALLY();
	{
		topics_durability_keep_connection(false);
	}
	PG_END_TRY();
	QueryCancelPending = false;
	if (topics_durability_is_unconfirmed())
		ereport(ERROR,
				(errcode(ERRCODE_T_R_STATEMENT_COMPLETION_UNKNOWN),
				 errmsg("the record is committed, but too few other servers have confirmed it"),
				 errdetail("The wait for synchronous standbys or followers was cancelled, or took longer than pg_topics.acks_timeout. The record may be lost if this server fails."),
				 errhint("Look at topics.replica, or pg_stat_replication, for servers that are behind, and at topics.worker there.")));
	SPI_finish();
}

/*
 * Refuse a value for "offset", a result, which a procedure can only have as an
 * argument, too.  In PL/pgSQL the argument is the variable that it goes to, and
 * may have what an earlier call has put there.
 */
static void
refuse_offset_argument(FunctionCallInfo fcinfo)
{
	if (!PG_ARGISNULL(SEND_OFFSET) && !SPI_inside_nonatomic_context())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"offset\" of %s must be null", topics_argument_function(fcinfo)),
				 errdetail("It is a result: the offset is assigned when the record is committed."),
				 errhint("Leave it out, or pass NULL.")));
}

/*
 * CALL send(topic, value, key, headers, INOUT partition, create_time,
 *			 INOUT "offset", producer_id, producer_epoch, sequence)
 */
Datum
topics_send(PG_FUNCTION_ARGS)
{
	CallContext *context = (CallContext *) fcinfo->context;
	Topic	   *topic;
	TupleDesc	tupdesc;
	NameData	name;
	ProducerSequence numbered;
	bool		is_numbered;
	int32		partition;
	const ProducedRange *ranges;
	int			count;
	Datum		values[SENT_COLUMNS] = {0};
	bool		nulls[SENT_COLUMNS] = {false};

	if (context == NULL || !IsA(context, CallContext) || context->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run inside a transaction block", topics_argument_function(fcinfo)),
				 errdetail("It commits, to know the record's offset."),
				 errhint("Use topics.produce(), and topics.last_produced() after the commit.")));
	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	tupdesc = BlessTupleDesc(tupdesc);

	refuse_offset_argument(fcinfo);
	is_numbered = read_sequence(fcinfo, SEND_PRODUCER_ID, &numbered);
	topic = find_topic_to_produce(fcinfo);
	name = topic->name;
	partition = produce_from_arguments(fcinfo, topic, is_numbered ? &numbered : NULL);
	commit_for_send();

	values[SENT_PARTITION] = Int32GetDatum(partition);
	nulls[SENT_OFFSET] = true;
	ranges = topics_append_last_produced(&count);
	if (is_numbered && numbered.is_stored)
	{
		count = 0;
		values[SENT_OFFSET] = Int64GetDatum(numbered.stored_at);
		nulls[SENT_OFFSET] = numbered.stored_at < 0;
	}
	for (int i = 0; i < count; i++)
		if (strcmp(NameStr(ranges[i].topic), NameStr(name)) == 0 &&
			ranges[i].partition == partition)
		{
			values[SENT_OFFSET] = Int64GetDatum(ranges[i].first_offset + ranges[i].record_count - 1);
			nulls[SENT_OFFSET] = false;
		}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(tupdesc, values, nulls)));
}

/* last_produced(): topic, partition, first_offset, record_count */
Datum
topics_last_produced(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	const ProducedRange *ranges;
	int			count;

	topics_settings_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	ranges = topics_append_last_produced(&count);
	for (int i = 0; i < count; i++)
	{
		Datum		values[RANGE_COLUMNS];
		bool		nulls[RANGE_COLUMNS] = {false};

		values[RANGE_TOPIC] = CStringGetTextDatum(NameStr(ranges[i].topic));
		values[RANGE_PARTITION] = Int32GetDatum(ranges[i].partition);
		values[RANGE_FIRST_OFFSET] = Int64GetDatum(ranges[i].first_offset);
		values[RANGE_RECORD_COUNT] = Int64GetDatum(ranges[i].record_count);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
