/*-------------------------------------------------------------------------
 *
 * produce.c
 *		Check a record, choose its partition, hand it to the transaction.
 *
 * All that can be wrong with a record is found in the call: rights, type,
 * domain, size, partition, headers.  What remains for the commit can
 * fail only for reasons that have nothing to do with the record.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
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

#include "compat.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_produce);
PG_FUNCTION_INFO_V1(topics_produce_batch);
PG_FUNCTION_INFO_V1(topics_send);
PG_FUNCTION_INFO_V1(topics_last_produced);

/* ----------------------------------------------------------------
 *		Keys and values
 * ----------------------------------------------------------------
 */

static Datum
check_domain(TopicColumn *column, Datum value, bool isnull, MemoryContext cxt)
{
	if (column->type != column->base_type)
		domain_check(value, isnull, column->type, &column->domain_extra, cxt);
	return value;
}

/* NULL for a column whose type may be a domain that refuses it. */
void
topics_produce_check_null(Topic *topic, TopicColumn *column)
{
	(void) check_domain(column, (Datum) 0, true, topic->cxt);
}

/* From text in the server's encoding. */
static Datum
column_from_cstring(TopicColumn *column, char *string)
{
	return InputFunctionCall(&column->input, string, column->ioparam, column->typmod);
}

/*
 * A key or value as it came, of type text, bytea or jsonb, as the topic's
 * type.  Bytes for a topic that holds no bytea are UTF-8 text.
 */
static Datum
column_from(TopicColumn *column, Oid given, Datum value, MemoryContext cxt)
{
	if (given == column->base_type && column->typmod < 0)
		return check_domain(column, value, false, cxt);

	if (given == TEXTOID)
		return column_from_cstring(column, TextDatumGetCString(value));
	if (given == JSONBOID)
	{
		Jsonb	   *jsonb = DatumGetJsonbP(value);

		return column_from_cstring(column, JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb)));
	}
	else
	{
		bytea	   *bytes = DatumGetByteaPP(value);
		int			len = VARSIZE_ANY_EXHDR(bytes);
		char	   *string = pg_any_to_server(VARDATA_ANY(bytes), len, PG_UTF8);

		Assert(given == BYTEAOID);
		/* verified by then, so it has no NUL, but may be our own bytes */
		if (string == VARDATA_ANY(bytes))
			string = pnstrdup(string, len);
		return column_from_cstring(column, string);
	}
}

/* The same, for others: a value of type text or bytea, or of the column's own. */
Datum
topics_produce_column(Topic *topic, TopicColumn *column, Oid given, Datum value)
{
	return column_from(column, given, value, topic->cxt);
}

/* A key's text, the same whatever the session's settings are. */
static char *
key_text(TopicColumn *column, Datum key)
{
	static const char *const settings[][2] = {
		{"datestyle", "ISO"}, {"intervalstyle", "postgres"}, {"timezone", "UTC"},
		{"extra_float_digits", "1"}, {"lc_monetary", "C"}, {"bytea_output", "hex"}
	};
	int			guc_level;
	char	   *text;

	if (!column->text_depends_on_settings)
		return OutputFunctionCall(&column->output, key);

	guc_level = NewGUCNestLevel();
	for (int i = 0; i < (int) lengthof(settings); i++)
		topics_settings_override(settings[i][0], settings[i][1]);
	text = OutputFunctionCall(&column->output, key);
	AtEOXact_GUC(true, guc_level);
	return text;
}

/* The bytes that Kafka's serializers would make of a key. */
static int32
partition_for_key(Topic *topic, Datum key)
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
		bytes = key_text(column, key);
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

static int64
datum_bytes(Datum value, bool isnull, int typlen)
{
	if (isnull)
		return 0;
	if (typlen == -1)
		return toast_raw_datum_size(value) - VARHDRSZ;
	if (typlen == -2)
		return strlen(DatumGetCString(value));
	return typlen;
}

/* ----------------------------------------------------------------
 *		A record
 * ----------------------------------------------------------------
 */

/* May this transaction produce at all? */
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
 * Hand a record of the topic's types to the transaction, after the last
 * checks; its partition is chosen here unless it was given.
 */
int32
topics_produce_record(Topic *topic, RecordDraft *draft, bool has_partition)
{
	int64		bytes;

	if (draft->key_isnull && topic->settings.compact)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a record of topic \"%s\" needs a key", NameStr(topic->name)),
				 errdetail("The topic's cleanup_policy includes \"compact\", which keeps the latest record of each key.")));
	if (TIMESTAMP_NOT_FINITE(draft->create_time))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("the timestamp of a record must be finite")));

	bytes = datum_bytes(draft->key, draft->key_isnull, topic->key.typlen) +
		datum_bytes(draft->value, draft->value_isnull, topic->value.typlen) +
		datum_bytes(draft->headers, draft->headers_isnull, -1);
	if (bytes > topic->settings.max_message_bytes)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("record is too large for topic \"%s\"", NameStr(topic->name)),
				 errdetail("Key, value and headers have " INT64_FORMAT " bytes, max_message_bytes is %d.",
						   bytes, topic->settings.max_message_bytes),
				 errhint("The topic's owner can raise max_message_bytes by topics.alter_topic().")));

	if (has_partition)
		topics_catalog_check_partition(topic, draft->partition);
	else if (draft->key_isnull)
		draft->partition = topics_sticky_partition_choose(topic);
	else
		draft->partition = partition_for_key(topic, draft->key);

	topics_append_buffer(topic, draft);
	return draft->partition;
}

static void
draft_column(Topic *topic, TopicColumn *column, Oid given, bool isnull, Datum value,
			 Datum *result, bool *result_isnull)
{
	*result_isnull = isnull;
	if (isnull)
		topics_produce_check_null(topic, column);
	else
		*result = column_from(column, given, value, topic->cxt);
}

/* The topic that a function is called for, with the right to produce to it. */
static Topic *
topic_to_produce(FunctionCallInfo fcinfo, const char *command)
{
	Topic	   *topic;

	topics_require_preload();
	topics_produce_check_context(command);
	topics_argument_require(fcinfo, 0, "topic");
	topic = topics_catalog_lookup(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	topics_catalog_require(topic, ACL_INSERT);
	topics_catalog_require_not_internal(topic);
	return topic;
}

/* Arguments 0 .. 5 of produce and send: topic, value, key, headers, partition, create_time. */
static int32
produce_from_arguments(FunctionCallInfo fcinfo, Topic *topic)
{
	RecordDraft draft = {0};

	draft_column(topic, &topic->key, get_fn_expr_argtype(fcinfo->flinfo, 2),
				 PG_ARGISNULL(2), PG_ARGISNULL(2) ? 0 : PG_GETARG_DATUM(2),
				 &draft.key, &draft.key_isnull);
	draft_column(topic, &topic->value, get_fn_expr_argtype(fcinfo->flinfo, 1),
				 PG_ARGISNULL(1), PG_ARGISNULL(1) ? 0 : PG_GETARG_DATUM(1),
				 &draft.value, &draft.value_isnull);
	draft.headers_isnull = PG_ARGISNULL(3);
	if (!draft.headers_isnull)
		draft.headers = topics_header_normalize(PG_GETARG_DATUM(3));
	if (!PG_ARGISNULL(4))
		draft.partition = PG_GETARG_INT32(4);
	draft.create_time = PG_ARGISNULL(5) ? GetCurrentTimestamp() : PG_GETARG_TIMESTAMPTZ(5);
	return topics_produce_record(topic, &draft, !PG_ARGISNULL(4));
}

/* produce(topic, value, key, headers, partition, create_time) */
Datum
topics_produce(PG_FUNCTION_ARGS)
{
	Topic	   *topic = topic_to_produce(fcinfo, "topics.produce()");

	PG_RETURN_INT32(produce_from_arguments(fcinfo, topic));
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
batch_column(FunctionCallInfo fcinfo, int argument, const char *name, int expected)
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
batch_isnull(const BatchColumn *column, int i)
{
	return column->count < 0 || column->nulls[i];
}

/* produce_batch(topic, record_values, keys, headers, partition, create_times) */
Datum
topics_produce_batch(PG_FUNCTION_ARGS)
{
	Topic	   *topic = topic_to_produce(fcinfo, "topics.produce_batch()");
	BatchColumn values = batch_column(fcinfo, 1, "record_values", -1);
	BatchColumn keys = batch_column(fcinfo, 2, "keys", values.count);
	BatchColumn headers = batch_column(fcinfo, 3, "headers", values.count);
	BatchColumn times = batch_column(fcinfo, 5, "create_times", values.count);
	TimestampTz now = GetCurrentTimestamp();
	MemoryContext cxt;
	MemoryContext old;

	if (values.count < 0)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("record_values must not be null")));

	cxt = AllocSetContextCreate(CurrentMemoryContext, "pg_topics record", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(cxt);
	for (int i = 0; i < values.count; i++)
	{
		RecordDraft draft = {0};

		CHECK_FOR_INTERRUPTS();
		draft_column(topic, &topic->key, keys.element_type, batch_isnull(&keys, i),
					 batch_isnull(&keys, i) ? 0 : keys.values[i],
					 &draft.key, &draft.key_isnull);
		draft_column(topic, &topic->value, values.element_type, values.nulls[i], values.values[i],
					 &draft.value, &draft.value_isnull);
		draft.headers_isnull = batch_isnull(&headers, i);
		if (!draft.headers_isnull)
			draft.headers = topics_header_normalize(headers.values[i]);
		if (!PG_ARGISNULL(4))
			draft.partition = PG_GETARG_INT32(4);
		draft.create_time = batch_isnull(&times, i) ? now : DatumGetTimestampTz(times.values[i]);
		topics_produce_record(topic, &draft, !PG_ARGISNULL(4));
		MemoryContextReset(cxt);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(cxt);
	PG_RETURN_INT64(values.count);
}

/* ----------------------------------------------------------------
 *		send: produce, commit, and say where it is
 * ----------------------------------------------------------------
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
	if (topics_durability_is_unconfirmed())
		ereport(ERROR,
				(errcode(ERRCODE_T_R_STATEMENT_COMPLETION_UNKNOWN),
				 errmsg("the record is committed, but no synchronous standby has confirmed it"),
				 errdetail("The wait was cancelled. The record may be lost if this server fails.")));
	SPI_finish();
}

/* CALL send(topic, value, key, headers, INOUT partition, create_time, INOUT "offset") */
Datum
topics_send(PG_FUNCTION_ARGS)
{
	CallContext *context = (CallContext *) fcinfo->context;
	Topic	   *topic;
	TupleDesc	tupdesc;
	NameData	name;
	int32		partition;
	const ProducedRange *ranges;
	int			count;
	Datum		values[2] = {0};
	bool		nulls[2] = {false, true};

	if (context == NULL || !IsA(context, CallContext) || context->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("topics.send() cannot run inside a transaction block"),
				 errdetail("It commits, to know the record's offset."),
				 errhint("Use topics.produce(), and topics.last_produced() after the commit.")));
	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	tupdesc = BlessTupleDesc(tupdesc);

	topic = topic_to_produce(fcinfo, "topics.send()");
	name = topic->name;
	partition = produce_from_arguments(fcinfo, topic);
	commit_for_send();

	values[0] = Int32GetDatum(partition);
	ranges = topics_append_last_produced(&count);
	for (int i = 0; i < count; i++)
		if (strcmp(NameStr(ranges[i].topic), NameStr(name)) == 0 &&
			ranges[i].partition == partition)
		{
			values[1] = Int64GetDatum(ranges[i].first_offset + ranges[i].record_count - 1);
			nulls[1] = false;
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

	topics_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	ranges = topics_append_last_produced(&count);
	for (int i = 0; i < count; i++)
	{
		Datum		values[4];
		bool		nulls[4] = {false};

		values[0] = CStringGetTextDatum(NameStr(ranges[i].topic));
		values[1] = Int32GetDatum(ranges[i].partition);
		values[2] = Int64GetDatum(ranges[i].first_offset);
		values[3] = Int64GetDatum(ranges[i].record_count);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
