/*-------------------------------------------------------------------------
 *
 * fetch.c
 *		Read a partition from an offset on.
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
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_fetch);

/* ----------------------------------------------------------------
 *		Records as results
 * ----------------------------------------------------------------
 */

static OutputColumn
output_column(const TopicColumn *column, bool as_bytes)
{
	OutputColumn output = {.as_bytes = as_bytes};
	Oid			type = column->base_type;

	/* a copy: the topic's entry in the cache may be loaded anew meanwhile */
	fmgr_info_copy(&output.output, (FmgrInfo *) &column->output, CurrentMemoryContext);
	if (as_bytes)
		output.as_is = type == BYTEAOID ||
			((type == TEXTOID || type == VARCHAROID) && GetDatabaseEncoding() == PG_UTF8);
	else
		output.as_is = type == TEXTOID || type == VARCHAROID;
	return output;
}

/* As text, or as the bytes of the text in UTF-8. */
static Datum
convert(OutputColumn *output, Datum value)
{
	char	   *text;

	if (output->as_is)
		return value;
	text = OutputFunctionCall(&output->output, value);
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
form_record(TupleTableSlot *slot, RecordOutput *output, Datum *values, bool *nulls)
{
	slot_getallattrs(slot);
	values[RECORD_PARTITION] = slot->tts_values[Anum_log_partition - 1];
	values[RECORD_OFFSET] = slot->tts_values[Anum_log_offset - 1];
	values[RECORD_TIMESTAMP] = slot->tts_values[Anum_log_timestamp - 1];
	nulls[RECORD_PARTITION] = nulls[RECORD_OFFSET] = nulls[RECORD_TIMESTAMP] = false;
	nulls[RECORD_KEY] = slot->tts_isnull[Anum_log_key - 1];
	if (!nulls[RECORD_KEY])
		values[RECORD_KEY] = convert(&output->key, slot->tts_values[Anum_log_key - 1]);
	nulls[RECORD_VALUE] = slot->tts_isnull[Anum_log_value - 1];
	if (!nulls[RECORD_VALUE])
		values[RECORD_VALUE] = convert(&output->value, slot->tts_values[Anum_log_value - 1]);
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

/*
 * Resolve a partition, and open its table for reading.  The state is resolved
 * under the table's lock only: before, the topic could be dropped, and a state
 * be made for a partition that there is no more.
 */
Partition
topics_fetch_resolve(Topic *topic, int32 number)
{
	Partition	partition = {.topic = topic,.number = number};

	topics_catalog_check_partition(topic, number);
	partition.relid = topics_catalog_partition_relid(topic, number);
	topics_catalog_open_partition(&partition, AccessShareLock);
	return partition;
}

/* The table of a partition, locked for reading. */
Relation
topics_fetch_open_partition(Topic *topic, int32 number)
{
	return topics_fetch_resolve(topic, number).rel;
}

/*
 * Check the offset against the ends of the log; the result is the offset up
 * to which the caller may read.  A caller can know of a record that is
 * visible but not published: before an offset is called out of range,
 * everybody who is publishing must have finished.
 */
static int64
check_offset(const Fetch *fetch, int64 from)
{
	const Partition *partition = &fetch->partition;
	int64		start = topics_log_start(partition->rel, partition->state);
	int64		end = topics_log_end(partition->rel, partition->state);

	if (from > end)
		end = topics_log_end_settled(partition->rel, partition->state);
	if (from < start || from > end)
		topics_log_report_out_of_range(NameStr(fetch->topic), partition->number, from, start, end,
									   "topics.list_offsets() gives the offsets to start from.");
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

/*
 * Offsets are dense: is there none that is missing before "found"?  False if
 * retention has taken what we were about to read.
 */
static bool
check_next(const Fetch *fetch, int64 found)
{
	if (found == fetch->next || fetch->has_gaps)
		return true;
	if (fetch->next < topics_log_start(fetch->partition.rel, fetch->partition.state))
		return false;
	if (!may_have_gaps(fetch->partition.state, fetch->next))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("offset " INT64_FORMAT " is missing in partition %d of topic \"%s\"",
						fetch->next, fetch->partition.number, NameStr(fetch->topic)),
				 errdetail("The next record has offset " INT64_FORMAT ".", found)));
	return true;
}

RecordOutput
topics_fetch_output(Topic *topic, TupleDesc desc)
{
	bool		as_bytes = TupleDescAttr(desc, RECORD_VALUE)->atttypid == BYTEAOID;
	RecordOutput output;

	output.key = output_column(&topic->key, as_bytes);
	output.value = output_column(&topic->value, as_bytes);
	return output;
}

/* The result of a function that returns records: fetch's, consume's, and the twins'. */
void
topics_fetch_begin_result(FetchResult *result, FunctionCallInfo fcinfo, Topic *topic)
{
	InitMaterializedSRF(fcinfo, 0);
	result->rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	result->output = topics_fetch_output(topic, result->rsinfo->setDesc);
}

static void
put_values(FetchResult *result, Datum *values, bool *nulls)
{
	tuplestore_putvalues(result->rsinfo->setResult, result->rsinfo->setDesc, values, nulls);
}

/* Add a row of a log table to the result. */
void
topics_fetch_put_record(FetchResult *result, TupleTableSlot *slot)
{
	Datum		values[RECORD_COLUMNS];
	bool		nulls[RECORD_COLUMNS];

	(void) form_record(slot, &result->output, values, nulls);
	put_values(result, values, nulls);
}

/* Begin to read records that a snapshot sees. */
void
topics_fetch_open(Fetch *fetch, const FetchRequest *request, Snapshot snapshot)
{
	Topic	   *topic = request->topic;

	fetch->limits = request->limits;
	fetch->topic = topic->name;
	fetch->has_gaps = topic->settings.compact;
	fetch->partition = topics_fetch_resolve(topic, request->partition);
	fetch->reader = topics_log_reader_open(fetch->partition.rel, request->from,
										   check_offset(fetch, request->from), snapshot, true);
	fetch->cxt = AllocSetContextCreate(CurrentMemoryContext, "pg_topics fetch",
									   ALLOCSET_DEFAULT_SIZES);
	fetch->from = fetch->next = request->from;
	fetch->bytes = 0;
	fetch->count = 0;
	fetch->ended = false;
}

/*
 * The next record, as values that are good until the next call; or false, from
 * then on, when the log or one of the limits has come to an end.  If retention
 * was quicker than the first record, that is an error; if it overtakes us
 * later, an end.
 */
bool
topics_fetch_next(Fetch *fetch, RecordOutput *output, Datum *values, bool *nulls)
{
	TupleTableSlot *slot = NULL;
	MemoryContext old;

	if (fetch->ended)
		return false;
	fetch->ended = true;
	if (fetch->count >= fetch->limits.max_records || fetch->bytes >= fetch->limits.max_bytes ||
		(slot = topics_log_reader_next(fetch->reader)) == NULL)
		return false;

	CHECK_FOR_INTERRUPTS();
	MemoryContextReset(fetch->cxt);
	old = MemoryContextSwitchTo(fetch->cxt);
	fetch->bytes += form_record(slot, output, values, nulls);
	if (check_next(fetch, DatumGetInt64(values[RECORD_OFFSET])))
		fetch->ended = fetch->count > 0 && fetch->bytes > fetch->limits.max_bytes;
	else if (fetch->count == 0)
		(void) check_offset(fetch, fetch->from);
	MemoryContextSwitchTo(old);
	if (fetch->ended)
		return false;
	fetch->count++;
	fetch->next = DatumGetInt64(values[RECORD_OFFSET]) + 1;
	return true;
}

/* Nothing more is wanted.  If there was no record, no lock of the partition's table is kept. */
void
topics_fetch_close(Fetch *fetch)
{
	topics_log_reader_close(fetch->reader);
	topics_catalog_close_partition(&fetch->partition,
								   fetch->count > 0 ? NoLock : AccessShareLock);
	MemoryContextDelete(fetch->cxt);
}

/*
 * Read records into a result; their number is returned, and in *next, if there
 * are any, the offset to go on from.
 */
int32
topics_fetch_records(const FetchRequest *request, Snapshot snapshot, FetchResult *result, int64 *next)
{
	Fetch		fetch;
	Datum		values[RECORD_COLUMNS];
	bool		nulls[RECORD_COLUMNS];

	topics_fetch_open(&fetch, request, snapshot);
	while (topics_fetch_next(&fetch, &result->output, values, nulls))
		put_values(result, values, nulls);
	topics_fetch_close(&fetch);
	if (fetch.count > 0)
		*next = fetch.next;
	return fetch.count;
}

/* The arguments of fetch: (topic, partition, from_offset, max_records, max_bytes, max_wait) */
FetchRequest
topics_fetch_request(FunctionCallInfo fcinfo)
{
	FetchRequest request;

	topics_require_preload();
	topics_argument_require_all(fcinfo, FETCH_ARGUMENTS, "topics.fetch()");
	request.limits = topics_fetch_limits(fcinfo, 3);
	request.topic = topics_catalog_lookup(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	topics_catalog_require(request.topic, ACL_SELECT);
	request.partition = PG_GETARG_INT32(1);
	request.from = PG_GETARG_INT64(2);
	return request;
}

/*
 * There was nothing: wait for a record.  The result is a snapshot to read it
 * with, registered, since the statement's own cannot see what came after it;
 * or NULL if there still is nothing.  A transaction with one snapshot for all
 * its statements would wait in vain.
 */
Snapshot
topics_fetch_wait(FetchRequest *request)
{
	if (request->limits.max_wait_ms == 0 || IsolationUsesXactSnapshot())
		return NULL;
	request->topic = topics_wait_for_record(request->topic, request->partition, request->from,
											request->limits.max_wait_ms);
	return request->topic ? RegisterSnapshot(GetLatestSnapshot()) : NULL;
}

/* fetch, where it is called as a function; in FROM it mostly is a scan (fetch_scan.c) */
Datum
topics_fetch(PG_FUNCTION_ARGS)
{
	FetchRequest request = topics_fetch_request(fcinfo);
	FetchResult result;
	Snapshot	snapshot;
	int64		next;

	topics_fetch_begin_result(&result, fcinfo, request.topic);
	if (topics_fetch_records(&request, GetActiveSnapshot(), &result, &next) == 0 &&
		(snapshot = topics_fetch_wait(&request)) != NULL)
	{
		(void) topics_fetch_records(&request, snapshot, &result, &next);
		UnregisterSnapshot(snapshot);
	}
	return (Datum) 0;
}
