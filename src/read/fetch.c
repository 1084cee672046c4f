/*-------------------------------------------------------------------------
 *
 * fetch.c
 *		Read a partition from an offset on.
 *
 * The server keeps nothing of a fetch: the client remembers its own place, as
 * Kafka's simple consumer does.  A fetch sees what a plain SELECT in the same
 * statement sees.  If that is nothing, and the fetch may wait (max_wait), it
 * sees what comes meanwhile.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

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

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "read/read.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_fetch);

/* ----------------------------------------------------------------
 *		Records as results
 * ----------------------------------------------------------------
 */

/* Return how values of a topic's column become text, or bytes. */
static OutputColumn
make_output_column(const TopicColumn *column, bool as_bytes)
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

/* Convert a value to text, or to the bytes of the text in UTF-8. */
static Datum
convert_value(OutputColumn *output, Datum value)
{
	char	   *text;

	if (output->as_is)
		return value;
	text = OutputFunctionCall(&output->output, value);

	if (output->as_bytes)
		text = pg_server_to_any(text, strlen(text), PG_UTF8);

	return PointerGetDatum(cstring_to_text(text));
}

/* Make a row of the result from a row of the log table; return its size. */
static int64
form_record(TupleTableSlot *slot, RecordOutput *output, Datum *values, bool *nulls)
{
	slot_getallattrs(slot);
	values[RECORD_PARTITION] = slot->tts_values[Anum_log_partition - 1];
	values[RECORD_OFFSET] = slot->tts_values[Anum_log_offset - 1];
	values[RECORD_TIMESTAMP] = slot->tts_values[Anum_log_timestamp - 1];
	nulls[RECORD_PARTITION] = nulls[RECORD_OFFSET] = nulls[RECORD_TIMESTAMP] = false;
	nulls[RECORD_KEY] = slot->tts_isnull[Anum_log_key - 1];
	values[RECORD_KEY] = nulls[RECORD_KEY] ? (Datum) 0 :
		convert_value(&output->key, slot->tts_values[Anum_log_key - 1]);
	nulls[RECORD_VALUE] = slot->tts_isnull[Anum_log_value - 1];
	values[RECORD_VALUE] = nulls[RECORD_VALUE] ? (Datum) 0 :
		convert_value(&output->value, slot->tts_values[Anum_log_value - 1]);
	nulls[RECORD_HEADERS] = slot->tts_isnull[Anum_log_headers - 1];
	values[RECORD_HEADERS] = slot->tts_values[Anum_log_headers - 1];

	return topics_log_value_bytes(values[RECORD_KEY], nulls[RECORD_KEY], -1) +
		topics_log_value_bytes(values[RECORD_VALUE], nulls[RECORD_VALUE], -1) +
		topics_log_value_bytes(values[RECORD_HEADERS], nulls[RECORD_HEADERS], -1);
}

/* ----------------------------------------------------------------
 *		fetch
 * ----------------------------------------------------------------
 */

/*
 * Return the arguments max_records, max_bytes and max_wait, which stand beside
 * each other and are not NULL; "max_records" is the position of the first.
 */
FetchLimits
topics_fetch_limits(FunctionCallInfo fcinfo, int max_records)
{
	int			max_bytes = max_records + 1;
	int			max_wait = max_records + 2;
	FetchLimits limits;

	limits.max_records = PG_GETARG_INT32(max_records);
	limits.max_bytes = PG_GETARG_INT32(max_bytes);
	limits.max_wait_ms = topics_wakeup_max_wait(PG_GETARG_INTERVAL_P(max_wait), SHORT_WAIT_MS);
	if (limits.max_records <= 0 || limits.max_bytes <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be positive", limits.max_records <= 0 ? "max_records" : "max_bytes"),
				 errdetail("It is %d.", limits.max_records <= 0 ? limits.max_records : limits.max_bytes)));
	return limits;
}

/*
 * Check an offset against the ends of the log, and return the offset up to
 * which a reader with this snapshot may read.  An offset above that may be of a
 * later record, or of one that cannot be read yet.  A client can know of a
 * record that is visible but not published.  So before an offset is called out
 * of range, every producer that is publishing must have finished.  The error
 * tells the end that can be read, from which a client may start anew.
 */
static int64
check_offset(const Fetch *fetch, int64 from, Snapshot snapshot)
{
	const Partition *partition = &fetch->partition;
	int64		start = topics_log_start(partition->state);
	int64		upto = topics_log_end(partition, snapshot);
	int64		end = upto;

	topics_broken_topic_check(partition);
	if (from > end)
		end = topics_log_next_offset(partition);
	if (from > end)
		end = topics_log_next_offset_settled(partition);
	if ((from < start && !fetch->may_be_removed) || from > end)
		topics_log_report_out_of_range(NameStr(fetch->topic), partition->number, from, start, upto,
									   "topics.list_offsets() gives the offsets to start from.");
	return upto;
}

/*
 * Return true if the log was compacted at this offset, maybe when the topic's
 * policy was another one, or repaired.
 */
static bool
may_have_gaps(PartitionState *state, int64 offset)
{
	PartitionRow row;

	return topics_log_start_read_row(&state->id, NULL, &row) && offset < row.gaps_below;
}

/*
 * The next record has offset "found".  Offsets are dense: raise if one before
 * it is missing.  Return false if retention has taken the records that were to
 * be read.
 */
static bool
check_next_offset(const Fetch *fetch, int64 found)
{
	if (found == fetch->next || fetch->has_gaps)
		return true;
	if (fetch->next < topics_log_start(fetch->partition.state))
		return false;
	if (!may_have_gaps(fetch->partition.state, fetch->next))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("offset " INT64_FORMAT " is missing in partition %d of topic \"%s\"",
						fetch->next, fetch->partition.number, NameStr(fetch->topic)),
				 errdetail("The next record has offset " INT64_FORMAT ".", found),
				 errhint("Call topics.repair_topic() to have it read on from there.")));
	return true;
}

/* Return how a topic's records become rows of a result. */
RecordOutput
topics_fetch_output(Topic *topic, TupleDesc desc)
{
	return topics_fetch_output_as(topic, TupleDescAttr(desc, RECORD_VALUE)->atttypid == BYTEAOID);
}

/* The same, with key and value as bytes or as text. */
RecordOutput
topics_fetch_output_as(Topic *topic, bool as_bytes)
{
	RecordOutput output;

	output.key = make_output_column(&topic->key, as_bytes);
	output.value = make_output_column(&topic->value, as_bytes);
	return output;
}

/*
 * Get where the rows of a function's result go: to the Batch Scan that has
 * called it, or to a tuplestore.
 */
RowSink
topics_fetch_open_sink(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	if (rsinfo && IsA(rsinfo, ReturnSetInfo) && (rsinfo->allowedModes & SFRM_BATCH))
		return (RowSink)
	{
		.desc = rsinfo->expectedDesc,.batch = ((BatchSetInfo *) rsinfo)->batch
	};
	InitMaterializedSRF(fcinfo, 0);
	return (RowSink)
	{
		.desc = rsinfo->setDesc,.store = rsinfo->setResult
	};
}

/* Add a row to a function's result. */
void
topics_fetch_put_row(const RowSink *sink, Datum *values, bool *nulls)
{
	if (sink->batch)
		topics_batch_put(sink->batch, values, nulls);
	else
		tuplestore_putvalues(sink->store, sink->desc, values, nulls);
}

/* Begin the result of a function that returns records. */
void
topics_fetch_begin_result(FetchResult *result, FunctionCallInfo fcinfo, Topic *topic)
{
	result->sink = topics_fetch_open_sink(fcinfo);
	result->output = topics_fetch_output(topic, result->sink.desc);
}

/* Add a row of a log table to the result. */
void
topics_fetch_put_record(FetchResult *result, TupleTableSlot *slot)
{
	Datum		values[RECORD_COLUMNS];
	bool		nulls[RECORD_COLUMNS];

	(void) form_record(slot, &result->output, values, nulls);
	topics_fetch_put_row(&result->sink, values, nulls);
}

/* Open a partition, and begin to read the records that a snapshot sees. */
void
topics_fetch_open(Fetch *fetch, const FetchRequest *request, Snapshot snapshot)
{
	Topic	   *topic = request->topic;

	fetch->limits = request->limits;
	fetch->topic = topic->name;
	fetch->has_gaps = topic->settings.compact;
	fetch->may_be_removed = request->may_be_removed;
	fetch->partition = topics_catalog_open_for_reading(topic, request->partition);
	if (request->leader_epoch != NO_LEADER_EPOCH)
		topics_leader_epoch_check(topic, request->partition, request->from, request->leader_epoch, snapshot);
	fetch->reader = topics_log_reader_open(fetch->partition.rel, request->from,
										   check_offset(fetch, request->from, snapshot), snapshot,
										   true);
	fetch->cxt = AllocSetContextCreate(CurrentMemoryContext, "pg_topics fetch",
									   ALLOCSET_DEFAULT_SIZES);
	fetch->from = fetch->next = request->from;
	fetch->bytes = 0;
	fetch->count = 0;
	fetch->ended = fetch->may_be_removed &&
		request->from < topics_log_start(fetch->partition.state);
}

/*
 * Read the next record, as values that are good until the next call.  Return
 * false, from then on, when the log or one of the limits has come to an end.
 * If retention has removed the first record, that is an error, unless the
 * request allows for it; if it has removed a later one, the fetch ends there.
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
	if (check_next_offset(fetch, DatumGetInt64(values[RECORD_OFFSET])))
		fetch->ended = fetch->count > 0 && fetch->bytes > fetch->limits.max_bytes;
	else if (fetch->count == 0)
		(void) check_offset(fetch, fetch->from, NULL);
	MemoryContextSwitchTo(old);
	if (fetch->ended)
		return false;
	fetch->count++;
	fetch->next = DatumGetInt64(values[RECORD_OFFSET]) + 1;
	return true;
}

/*
 * End a fetch.  If there was no record, the lock on the partition's table is
 * released.
 */
void
topics_fetch_close(Fetch *fetch)
{
	topics_log_reader_close(fetch->reader);
	topics_catalog_close_partition(&fetch->partition,
								   fetch->count > 0 ? NoLock : AccessShareLock);
	MemoryContextDelete(fetch->cxt);
}

/*
 * Read records into a result, and return their number.  If there are any, *next
 * is set to the offset to go on from.
 */
int32
topics_fetch_records(const FetchRequest *request, Snapshot snapshot, FetchResult *result, int64 *next)
{
	Fetch		fetch;
	Datum		values[RECORD_COLUMNS];
	bool		nulls[RECORD_COLUMNS];

	topics_fetch_open(&fetch, request, snapshot);
	while (topics_fetch_next(&fetch, &result->output, values, nulls))
		topics_fetch_put_row(&result->sink, values, nulls);
	topics_fetch_close(&fetch);
	if (fetch.count > 0)
		*next = fetch.next;
	return fetch.count;
}

/* Return the arguments of fetch, checked. */
FetchRequest
topics_fetch_request(FunctionCallInfo fcinfo)
{
	FetchRequest request = {0};

	topics_settings_require_preload();
	topics_argument_require_all(fcinfo, FETCH_LEADER_EPOCH);
	request.limits = topics_fetch_limits(fcinfo, FETCH_MAX_RECORDS);
	request.topic = topics_catalog_lookup(text_to_cstring(PG_GETARG_TEXT_PP(FETCH_TOPIC)), false);
	topics_catalog_require(request.topic, ACL_SELECT);
	request.partition = PG_GETARG_INT32(FETCH_PARTITION);
	request.from = PG_GETARG_INT64(FETCH_FROM_OFFSET);
	request.leader_epoch = topics_leader_epoch_argument(fcinfo, FETCH_LEADER_EPOCH);
	return request;
}

/*
 * There was no record: wait for one.  Return a registered snapshot to read it
 * with, since the statement's own cannot see what came after it, or NULL if
 * there still is no record.  A transaction with one snapshot for all its
 * statements would wait in vain.  A reader that tells its leader epoch gets
 * nothing if another one began meanwhile.
 */
Snapshot
topics_fetch_wait(FetchRequest *request)
{
	int64		epoch = 0;
	Snapshot	snapshot;

	if (request->limits.max_wait_ms == 0 || IsolationUsesXactSnapshot())
		return NULL;
	if (request->leader_epoch != NO_LEADER_EPOCH)
		epoch = topics_leader_epoch_latest(request->topic, request->partition, GetActiveSnapshot());
	request->topic = topics_wait_for_record(request->topic, request->partition, request->from,
											request->limits.max_wait_ms);
	if (request->topic == NULL)
		return NULL;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	if (request->leader_epoch == NO_LEADER_EPOCH || topics_leader_epoch_latest(request->topic, request->partition, snapshot) == epoch)
		return snapshot;
	/* the statement says an epoch which these records are not of */
	UnregisterSnapshot(snapshot);
	return NULL;
}

/*
 * fetch(topic, partition, from_offset, max_records, max_bytes, max_wait,
 * leader_epoch), where it is called as a function; in FROM it mostly is a scan
 * (fetch_scan.c).
 */
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
