/*-------------------------------------------------------------------------
 *
 * fetch.c
 *		Read a partition from an offset on; find offsets by name and time.
 *
 * A fetch keeps nothing: its caller tracks his own place, as Kafka's simple
 * consumer does.  It sees what the statement's snapshot sees, below the
 * published log end; if that is nothing, and it may wait (max_wait), what
 * comes meanwhile.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_fetch);
PG_FUNCTION_INFO_V1(topics_list_offsets);
PG_FUNCTION_INFO_V1(topics_list_offsets_by_time);

/* Columns of a record, as every result has them. */
enum
{
	RECORD_PARTITION,
	RECORD_OFFSET,
	RECORD_TIMESTAMP,
	RECORD_KEY,
	RECORD_VALUE,
	RECORD_HEADERS,
	RECORD_COLUMNS
};

/* ----------------------------------------------------------------
 *		Records as results
 * ----------------------------------------------------------------
 */

static OutputColumn
output_column(TopicColumn *column, bool as_bytes)
{
	OutputColumn output = {column, as_bytes, false};
	Oid			type = column->base_type;

	if (as_bytes)
		output.as_is = type == BYTEAOID ||
			((type == TEXTOID || type == VARCHAROID) && GetDatabaseEncoding() == PG_UTF8);
	else
		output.as_is = type == TEXTOID || type == VARCHAROID;
	return output;
}

/* As text, or as the bytes of the text in UTF-8. */
static Datum
convert(const OutputColumn *output, Datum value)
{
	char	   *text;

	if (output->as_is)
		return value;
	text = OutputFunctionCall(&output->column->output, value);
	if (output->as_bytes)
		text = pg_server_to_any(text, strlen(text), PG_UTF8);
	return PointerGetDatum(cstring_to_text(text));
}

static int64
value_bytes(Datum value, bool isnull)
{
	return isnull ? 0 : toast_raw_datum_size(value) - VARHDRSZ;
}

/* A row of the log table as a row of the result; its size is returned. */
static int64
form_record(TupleTableSlot *slot, const OutputColumn *key, const OutputColumn *value,
			Datum *values, bool *nulls)
{
	slot_getallattrs(slot);
	values[RECORD_PARTITION] = slot->tts_values[Anum_log_partition - 1];
	values[RECORD_OFFSET] = slot->tts_values[Anum_log_offset - 1];
	values[RECORD_TIMESTAMP] = slot->tts_values[Anum_log_timestamp - 1];
	nulls[RECORD_PARTITION] = nulls[RECORD_OFFSET] = nulls[RECORD_TIMESTAMP] = false;
	nulls[RECORD_KEY] = slot->tts_isnull[Anum_log_key - 1];
	if (!nulls[RECORD_KEY])
		values[RECORD_KEY] = convert(key, slot->tts_values[Anum_log_key - 1]);
	nulls[RECORD_VALUE] = slot->tts_isnull[Anum_log_value - 1];
	if (!nulls[RECORD_VALUE])
		values[RECORD_VALUE] = convert(value, slot->tts_values[Anum_log_value - 1]);
	nulls[RECORD_HEADERS] = slot->tts_isnull[Anum_log_headers - 1];
	values[RECORD_HEADERS] = slot->tts_values[Anum_log_headers - 1];

	return value_bytes(values[RECORD_KEY], nulls[RECORD_KEY]) +
		value_bytes(values[RECORD_VALUE], nulls[RECORD_VALUE]) +
		value_bytes(values[RECORD_HEADERS], nulls[RECORD_HEADERS]);
}

/* ----------------------------------------------------------------
 *		fetch
 * ----------------------------------------------------------------
 */

/* The arguments max_records, max_bytes and max_wait, which are not NULL. */
FetchLimits
topics_fetch_limits(FunctionCallInfo fcinfo, int first)
{
	FetchLimits limits;

	limits.max_records = PG_GETARG_INT32(first);
	limits.max_bytes = PG_GETARG_INT32(first + 1);
	limits.max_wait_ms = topics_wakeup_max_wait(PG_GETARG_INTERVAL_P(first + 2), SHORT_WAIT_MS);
	if (limits.max_records <= 0 || limits.max_bytes <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_records and max_bytes must be positive")));
	return limits;
}

/* The table of a partition, locked for reading. */
Relation
topics_fetch_open_partition(Topic *topic, int32 partition)
{
	Oid			relid;
	Relation	rel = NULL;

	topics_catalog_check_partition(topic, partition);
	relid = topics_catalog_partition_relid(topic, partition);
	if (OidIsValid(relid))
		rel = try_relation_open(relid, AccessShareLock);
	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("topic \"%s\" was dropped", NameStr(topic->name))));
	topics_segment_learn(relid, topics_catalog_partition_state(topic, partition));
	return rel;
}

/*
 * Check the offset against the ends of the log; the result is the offset up
 * to which the caller may read.  A caller can know of a record that is
 * visible but not published: before an offset is called out of range,
 * everybody who is publishing must have finished.
 */
static int64
check_offset(Topic *topic, Relation partition_rel, PartitionState *state, int64 from)
{
	int64		start = topics_log_start(partition_rel, state);
	int64		end = topics_log_end(partition_rel, state);

	if (from > end)
		end = topics_log_end_settled(partition_rel, state);
	if (from < start || from > end)
		ereport(ERROR,
				(errcode(ERRCODE_OFFSET_OUT_OF_RANGE),
				 errmsg("offset " INT64_FORMAT " is out of range for partition %d of topic \"%s\"",
						from, state->id.partition, NameStr(topic->name)),
				 errdetail("OFFSET_OUT_OF_RANGE: the log starts at offset " INT64_FORMAT " and ends at offset " INT64_FORMAT ".",
						   start, end),
				 errhint("topics.list_offsets() gives the offsets to start from.")));
	return end;
}

/* Was the log compacted at this offset, when its policy was another one? */
static bool
may_have_gaps(PartitionState *state, int64 offset)
{
	int64		log_start;
	int64		floor;

	return topics_log_start_read(&state->id, NULL, &log_start, &floor) && offset < floor;
}

static void
report_missing(Topic *topic, int32 partition, int64 wanted, int64 found)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("offset " INT64_FORMAT " is missing in partition %d of topic \"%s\"",
					wanted, partition, NameStr(topic->name)),
			 errdetail("The next record has offset " INT64_FORMAT ".", found)));
}

/* The result of a function that returns records: fetch's, consume's, and the twins'. */
void
topics_fetch_begin_result(FetchResult *result, FunctionCallInfo fcinfo, Topic *topic)
{
	bool		as_bytes;

	InitMaterializedSRF(fcinfo, 0);
	result->rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	as_bytes = TupleDescAttr(result->rsinfo->setDesc, RECORD_VALUE)->atttypid == BYTEAOID;
	result->key = output_column(&topic->key, as_bytes);
	result->value = output_column(&topic->value, as_bytes);
}

/* Add a row of a log table to the result. */
void
topics_fetch_put_record(FetchResult *result, TupleTableSlot *slot)
{
	Datum		values[RECORD_COLUMNS];
	bool		nulls[RECORD_COLUMNS];

	(void) form_record(slot, &result->key, &result->value, values, nulls);
	tuplestore_putvalues(result->rsinfo->setResult, result->rsinfo->setDesc, values, nulls);
}

/*
 * Read records that a snapshot sees; their number is returned, and in *next,
 * if there are any, the offset to go on from.  With none, no lock of the
 * partition's table is kept.
 */
int32
topics_fetch_records(Topic *topic, int32 partition, int64 from, const FetchLimits *limits,
					 Snapshot snapshot, FetchResult *result, int64 *next)
{
	Relation	partition_rel = topics_fetch_open_partition(topic, partition);
	PartitionState *state = topics_catalog_partition_state(topic, partition);
	int64		upto = check_offset(topic, partition_rel, state, from);
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "pg_topics fetch",
											  ALLOCSET_DEFAULT_SIZES);
	LogReader  *reader = topics_log_reader_open(partition_rel, from, upto, snapshot, true);
	TupleTableSlot *slot;
	int64		bytes = 0;
	int64		expected = from;
	int32		count = 0;
	bool		gone = false;

	while (count < limits->max_records && (slot = topics_log_reader_next(reader)) != NULL)
	{
		Datum		values[RECORD_COLUMNS];
		bool		nulls[RECORD_COLUMNS];
		int64		offset;
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		old = MemoryContextSwitchTo(cxt);
		bytes += form_record(slot, &result->key, &result->value, values, nulls);
		offset = DatumGetInt64(values[RECORD_OFFSET]);
		if (offset != expected && !topic->settings.compact)
		{
			/* has retention taken what we were about to read? */
			gone = expected < topics_log_start(partition_rel, state);
			if (!gone && !may_have_gaps(state, expected))
				report_missing(topic, partition, expected, offset);
		}
		if (gone)
		{
			MemoryContextSwitchTo(old);
			break;
		}
		if (count == 0 || bytes <= limits->max_bytes)
		{
			tuplestore_putvalues(result->rsinfo->setResult, result->rsinfo->setDesc, values, nulls);
			count++;
			*next = expected = offset + 1;
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(cxt);
		if (bytes >= limits->max_bytes)
			break;
	}
	topics_log_reader_close(reader);
	if (gone && count == 0)
		(void) check_offset(topic, partition_rel, state, from);
	table_close(partition_rel, count > 0 ? NoLock : AccessShareLock);
	MemoryContextDelete(cxt);
	return count;
}

/*
 * There was nothing: wait for a record, and read again, with a new snapshot,
 * since the statement's own cannot see what came after it.  A transaction
 * with one snapshot for all its statements would wait in vain.
 */
static void
fetch_after_wait(Topic *topic, int32 partition, int64 from, const FetchLimits *limits,
				 FetchResult *result)
{
	Snapshot	snapshot;
	int64		next;

	topic = topics_wait_for_record(topic, partition, from, limits->max_wait_ms);
	if (topic == NULL)
		return;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	(void) topics_fetch_records(topic, partition, from, limits, snapshot, result, &next);
	UnregisterSnapshot(snapshot);
}

/* fetch(topic, partition, from_offset, max_records, max_bytes, max_wait) */
Datum
topics_fetch(PG_FUNCTION_ARGS)
{
	FetchLimits limits;
	FetchResult result;
	Topic	   *topic;
	int32		partition;
	int64		from;
	int64		next;

	topics_require_preload();
	for (int i = 0; i < PG_NARGS(); i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("arguments of topics.fetch() must not be null")));
	limits = topics_fetch_limits(fcinfo, 3);
	topic = topics_catalog_lookup(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	topics_catalog_require(topic, ACL_SELECT);
	partition = PG_GETARG_INT32(1);
	from = PG_GETARG_INT64(2);

	topics_fetch_begin_result(&result, fcinfo, topic);
	if (topics_fetch_records(topic, partition, from, &limits, GetActiveSnapshot(), &result, &next) == 0 &&
		limits.max_wait_ms > 0 && !IsolationUsesXactSnapshot())
		fetch_after_wait(topic, partition, from, &limits, &result);
	return (Datum) 0;
}

/* ----------------------------------------------------------------
 *		list_offsets
 * ----------------------------------------------------------------
 */

static void
put_offset(ReturnSetInfo *rsinfo, int32 partition, int64 offset,
		   TimestampTz timestamp, bool has_timestamp)
{
	Datum		values[3];
	bool		nulls[3] = {false, false, !has_timestamp};

	values[0] = Int32GetDatum(partition);
	values[1] = Int64GetDatum(offset);
	values[2] = TimestampTzGetDatum(timestamp);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* The timestamp of the first record from an offset on, as a snapshot sees it. */
static bool
timestamp_from(Relation partition_rel, int64 from, int64 upto, TimestampTz *timestamp)
{
	LogReader  *reader = topics_log_reader_open(partition_rel, from, upto, GetActiveSnapshot(), false);
	TupleTableSlot *slot = topics_log_reader_next(reader);
	bool		found = slot != NULL;
	bool		isnull;

	if (found)
		*timestamp = DatumGetTimestampTz(slot_getattr(slot, Anum_log_timestamp, &isnull));
	topics_log_reader_close(reader);
	return found;
}

static Topic *
topic_to_list(FunctionCallInfo fcinfo)
{
	Topic	   *topic;

	topics_require_preload();
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("arguments of topics.list_offsets() must not be null")));
	topic = topics_catalog_lookup(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	topics_catalog_require(topic, ACL_SELECT);
	InitMaterializedSRF(fcinfo, 0);
	return topic;
}

/* list_offsets(topic, at text): 'earliest' or 'latest' */
Datum
topics_list_offsets(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Topic	   *topic = topic_to_list(fcinfo);
	char	   *at = text_to_cstring(PG_GETARG_TEXT_PP(1));
	bool		earliest = strcmp(at, "earliest") == 0;

	if (!earliest && strcmp(at, "latest") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid offset specification \"%s\"", at),
				 errhint("Use 'earliest', 'latest', or a timestamptz.")));

	for (int32 partition = 0; partition < topic->partitions; partition++)
	{
		Relation	rel = topics_fetch_open_partition(topic, partition);
		PartitionState *state = topics_catalog_partition_state(topic, partition);
		int64		start = topics_log_start(rel, state);
		int64		end = topics_log_end(rel, state);
		TimestampTz timestamp = 0;
		bool		found;

		if (earliest)
			found = timestamp_from(rel, start, end, &timestamp);
		else
			found = end > start && timestamp_from(rel, end - 1, end, &timestamp);
		put_offset(rsinfo, partition, earliest ? start : end, timestamp, found);
		table_close(rel, NoLock);
	}
	return (Datum) 0;
}

/*
 * The first record of a segment whose timestamp is not before "at".  Sealed
 * segments have a BRIN index, whose bitmap is read in physical, i.e. offset
 * order, and stops at the first match; the active one is read from its start.
 */
static bool
first_since(Oid segment_relid, int64 from, int64 upto, TimestampTz at,
			int64 *offset, TimestampTz *timestamp)
{
	static const Oid types[] = {TIMESTAMPTZOID, INT8OID, INT8OID};
	Datum		values[] = {TimestampTzGetDatum(at), Int64GetDatum(from), Int64GetDatum(upto)};
	char	   *sql;
	bool		found;
	bool		isnull;

	sql = psprintf("SELECT \"offset\", \"timestamp\" FROM %s"
				   " WHERE \"timestamp\" OPERATOR(pg_catalog.>=) $1"
				   " AND \"offset\" OPERATOR(pg_catalog.>=) $2"
				   " AND \"offset\" OPERATOR(pg_catalog.<) $3 LIMIT 1",
				   quote_qualified_identifier(TOPIC_LOG_SCHEMA, get_rel_name(segment_relid)));
	if (SPI_execute_with_args(sql, lengthof(types), (Oid *) types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not search segment for a timestamp");
	found = SPI_processed > 0;
	if (found)
	{
		*offset = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
		*timestamp = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
	return found;
}

/*
 * For each partition the first offset whose timestamp is not before "at", as
 * Kafka's offsetsForTimes, and its timestamp; where there is none, the log
 * end, and in "found" false.  Timestamps and found may be NULL.
 */
int64 *
topics_fetch_offsets_since(Topic *topic, TimestampTz at, TimestampTz *timestamps, bool *found)
{
	int64	   *offsets = palloc(sizeof(int64) * topic->partitions);
	MemoryContext cxt = CurrentMemoryContext;
	Oid			save_userid;
	int			save_context;
	int			guc_level = NewGUCNestLevel();
	static const char *const unwanted[] = {
		"enable_seqscan", "enable_indexscan", "enable_indexonlyscan", "jit",
		"pg_topics.enable_offset_scan"
	};

	/*
	 * Rows must come in physical order: by a bitmap of the BRIN index, or a
	 * plain scan; not by an index that somebody made on "timestamp".  And by
	 * the bitmap where there is one: the planner would rather hope for a match
	 * near the start of the segment.
	 */
	for (int i = 0; i < (int) lengthof(unwanted); i++)
		(void) set_config_option(unwanted[i], "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("max_parallel_workers_per_gather", "0", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	/* log tables are the extension owner's */
	topics_extension_become_owner(&save_userid, &save_context);
	SPI_connect();
	for (int32 partition = 0; partition < topic->partitions; partition++)
	{
		Relation	rel = topics_fetch_open_partition(topic, partition);
		PartitionState *state = topics_catalog_partition_state(topic, partition);
		int64		start = topics_log_start(rel, state);
		int64		end = topics_log_end(rel, state);
		TimestampTz timestamp = 0;
		int			count;
		Segment    *segments = topics_segment_list(rel, &count);
		bool		has_record = false;

		offsets[partition] = end;
		for (int i = 0; i < count && !has_record && segments[i].base_offset < end; i++)
			has_record = first_since(segments[i].relid, start, end, at, &offsets[partition], &timestamp);
		if (timestamps)
			timestamps[partition] = timestamp;
		if (found)
			found[partition] = has_record;
		table_close(rel, NoLock);
	}
	SPI_finish();
	SetUserIdAndSecContext(save_userid, save_context);
	AtEOXact_GUC(false, guc_level);
	MemoryContextSwitchTo(cxt);
	return offsets;
}

/* list_offsets(topic, at timestamptz) */
Datum
topics_list_offsets_by_time(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Topic	   *topic = topic_to_list(fcinfo);
	TimestampTz *timestamps = palloc(sizeof(TimestampTz) * topic->partitions);
	bool	   *found = palloc(sizeof(bool) * topic->partitions);
	int64	   *offsets = topics_fetch_offsets_since(topic, PG_GETARG_TIMESTAMPTZ(1),
													 timestamps, found);

	for (int32 partition = 0; partition < topic->partitions; partition++)
		put_offset(rsinfo, partition, offsets[partition], timestamps[partition], found[partition]);
	return (Datum) 0;
}
