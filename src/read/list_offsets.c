/*-------------------------------------------------------------------------
 *
 * list_offsets.c
 *		Find offsets by name and by time.
 *
 * list_offsets gives the ends of each partition's log, or the first offset
 * that is not older than a time; for the latter a segment's BRIN index on
 * "timestamp" is asked, by a query.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "base/base.h"
#include "log/log.h"
#include "read/read.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_list_offsets);
PG_FUNCTION_INFO_V1(topics_list_offsets_by_time);

/* Arguments of list_offsets. */
enum
{
	LIST_TOPIC,
	LIST_AT,
	LIST_ARGUMENTS
};

/* Columns of its result. */
enum
{
	LISTED_PARTITION,
	LISTED_OFFSET,
	LISTED_TIMESTAMP,
	LISTED_COLUMNS
};

/* Columns of the query that finds a record, from 1 on. */
enum
{
	FOUND_OFFSET = 1,
	FOUND_TIMESTAMP
};

/* Add a row to the result. */
static void
put_listed_offset(ReturnSetInfo *rsinfo, int32 partition, int64 offset,
				  TimestampTz timestamp, bool has_timestamp)
{
	Datum		values[LISTED_COLUMNS];
	bool		nulls[LISTED_COLUMNS] = {false};

	values[LISTED_PARTITION] = Int32GetDatum(partition);
	values[LISTED_OFFSET] = Int64GetDatum(offset);
	values[LISTED_TIMESTAMP] = TimestampTzGetDatum(timestamp);
	nulls[LISTED_TIMESTAMP] = !has_timestamp;
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * Read the timestamp of the first record from an offset on that the statement
 * sees; return false if there is none.
 */
static bool
read_first_timestamp(Relation partition_rel, int64 from, int64 upto, TimestampTz *timestamp)
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

/* Look up the topic of a call of list_offsets, and begin the result. */
static Topic *
begin_listing(FunctionCallInfo fcinfo)
{
	Topic	   *topic;

	topics_settings_require_preload();
	topics_argument_require_all(fcinfo, LIST_ARGUMENTS);
	topic = topics_catalog_lookup(text_to_cstring(PG_GETARG_TEXT_PP(LIST_TOPIC)), false);
	topics_catalog_require(topic, ACL_SELECT);
	InitMaterializedSRF(fcinfo, 0);
	return topic;
}

/* list_offsets(topic, at text): 'earliest' or 'latest' */
Datum
topics_list_offsets(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Topic	   *topic = begin_listing(fcinfo);
	char	   *at = text_to_cstring(PG_GETARG_TEXT_PP(LIST_AT));
	bool		earliest = strcmp(at, "earliest") == 0;

	if (!earliest && strcmp(at, "latest") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid offset specification \"%s\"", at),
				 errhint("Use 'earliest', 'latest', or a timestamptz.")));

	for (int32 partition = 0; partition < topic->partitions; partition++)
	{
		Partition	opened = topics_catalog_open_for_reading(topic, partition);
		int64		start = topics_log_start(opened.state);
		int64		end = topics_log_end(&opened, GetActiveSnapshot());
		TimestampTz timestamp = 0;
		bool		found;

		if (earliest)
			found = read_first_timestamp(opened.rel, start, end, &timestamp);
		else
			found = end > start && read_first_timestamp(opened.rel, end - 1, end, &timestamp);
		put_listed_offset(rsinfo, partition, earliest ? start : end, timestamp, found);
		topics_catalog_close_partition(&opened, NoLock);
	}
	return (Datum) 0;
}

/*
 * Find the first record of a segment whose timestamp is not before "at", with
 * an offset from "from" to "upto" - 1; return false if there is none.  A sealed
 * segment has a BRIN index, whose bitmap is read in physical order, which is
 * offset order, and the search stops at the first match.  The active segment
 * is read from its start.
 */
static bool
find_first_since(Oid segment_relid, int64 from, int64 upto, TimestampTz at,
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
		HeapTuple	row = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;

		*offset = DatumGetInt64(SPI_getbinval(row, desc, FOUND_OFFSET, &isnull));
		*timestamp = DatumGetTimestampTz(SPI_getbinval(row, desc, FOUND_TIMESTAMP, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
	return found;
}

/*
 * Return for each partition the first offset whose timestamp is not before
 * "at", as Kafka's offsetsForTimes does, with its timestamp in "timestamps" and
 * true in "found".  Where there is none, it is the log end, and "found" is
 * false.  "timestamps" and "found" may be NULL.
 */
int64 *
topics_list_offsets_since(Topic *topic, TimestampTz at, TimestampTz *timestamps, bool *found)
{
	int64	   *offsets = palloc(sizeof(int64) * topic->partitions);
	MemoryContext cxt = CurrentMemoryContext;
	OwnerScope	scope;
	int			guc_level = NewGUCNestLevel();
	static const char *const unwanted[] = {
		"enable_seqscan", "enable_indexscan", "enable_indexonlyscan", "jit",
		"pg_topics.enable_offset_scan"
	};

	/*
	 * Rows must come in physical order: by a bitmap of the BRIN index or by a
	 * plain scan, and not by an index that a user made on "timestamp".  The
	 * bitmap is to be used where there is an index: the planner would rather
	 * hope for a match near the start of the segment.
	 */
	for (int i = 0; i < (int) lengthof(unwanted); i++)
		topics_settings_override(unwanted[i], "off");
	topics_settings_override("max_parallel_workers_per_gather", "0");
	/* log tables belong to the extension's owner */
	scope = topics_extension_become_owner();
	SPI_connect();
	for (int32 partition = 0; partition < topic->partitions; partition++)
	{
		Partition	opened = topics_catalog_open_for_reading(topic, partition);
		int64		start = topics_log_start(opened.state);
		int64		end = topics_log_end(&opened, GetActiveSnapshot());
		TimestampTz timestamp = 0;
		int			count;
		Segment    *segments = topics_segment_list(opened.rel, &count);
		bool		has_record = false;

		offsets[partition] = end;
		for (int i = 0; i < count && !has_record && segments[i].base_offset < end; i++)
			has_record = find_first_since(segments[i].relid, start, end, at, &offsets[partition], &timestamp);
		if (timestamps)
			timestamps[partition] = timestamp;
		if (found)
			found[partition] = has_record;
		topics_catalog_close_partition(&opened, NoLock);
	}
	SPI_finish();
	topics_extension_become_caller(scope);
	AtEOXact_GUC(false, guc_level);
	MemoryContextSwitchTo(cxt);
	return offsets;
}

/* list_offsets(topic, at timestamptz) */
Datum
topics_list_offsets_by_time(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Topic	   *topic = begin_listing(fcinfo);
	TimestampTz *timestamps = palloc(sizeof(TimestampTz) * topic->partitions);
	bool	   *found = palloc(sizeof(bool) * topic->partitions);
	int64	   *offsets = topics_list_offsets_since(topic, PG_GETARG_TIMESTAMPTZ(LIST_AT),
													timestamps, found);

	for (int32 partition = 0; partition < topic->partitions; partition++)
		put_listed_offset(rsinfo, partition, offsets[partition], timestamps[partition], found[partition]);
	return (Datum) 0;
}
