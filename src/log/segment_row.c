/*-------------------------------------------------------------------------
 *
 * segment_row.c
 *		What the catalogue knows of a sealed segment: topic_log.segment.
 *
 * The row holds when the segment was sealed, as far as is known: retention
 * needs a time that no producer has a say in.  And it holds since when the
 * segment's tombstones have been those of a clean segment (compact.c).  A
 * segment has its row from its sealing on; the row goes with the segment.  It
 * is not dumped: a restored segment counts as sealed when the restored server
 * first looked at it.
 *
 * Both times may be of a clock that was ahead.  Whoever goes by them calls
 * topics_segment_row_correct_times first, so that none is in the future.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "log/log.h"
#include "pg_topics.h"

/* Columns of topic_log.segment */
enum
{
	Anum_segment_topic_id = 1,
	Anum_segment_partition,
	Anum_segment_base_offset,
	Anum_segment_sealed_at,
	Anum_segment_tombstones_from
};

/* Get a column of a row that is a time, or 0. */
static TimestampTz
get_time(HeapTuple tuple, int column, Relation rel)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, column, RelationGetDescr(rel), &isnull);

	return isnull ? 0 : DatumGetTimestampTz(value);
}

/* Make the key of a row, whose first two parts are that of a partition's. */
static void
make_key(ScanKeyData *key, const TopicPartition *id, int64 base_offset)
{
	ScanKeyInit(&key[0], Anum_segment_topic_id, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(id->topic_id));
	ScanKeyInit(&key[1], Anum_segment_partition, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(id->partition));
	ScanKeyInit(&key[2], Anum_segment_base_offset, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(base_offset));
}

/* Return true if a row of a partition has a time in the future. */
static bool
any_time_is_ahead(const TopicPartition *id)
{
	Oid			namespace = get_namespace_oid(TOPIC_LOG_SCHEMA, false);
	Relation	rel = table_open(get_relname_relid("segment", namespace), AccessShareLock);
	TimestampTz now = GetCurrentTimestamp();
	ScanKeyData key[3];
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		result = false;

	make_key(key, id, 0);
	scan = systable_beginscan(rel, get_relname_relid("segment_pkey", namespace), true, NULL, 2, key);
	while (!result && HeapTupleIsValid(tuple = systable_getnext(scan)))
		result = get_time(tuple, Anum_segment_sealed_at, rel) > now ||
			get_time(tuple, Anum_segment_tombstones_from, rel) > now;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * Read a segment's row; times that are not known are 0.  Return false if there
 * is no row.
 */
bool
topics_segment_row_read(const TopicPartition *id, int64 base_offset,
						TimestampTz *sealed_at, TimestampTz *tombstones_from)
{
	Oid			namespace = get_namespace_oid(TOPIC_LOG_SCHEMA, false);
	Relation	rel = table_open(get_relname_relid("segment", namespace), AccessShareLock);
	ScanKeyData key[3];
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found;

	*sealed_at = *tombstones_from = 0;
	make_key(key, id, base_offset);
	scan = systable_beginscan(rel, get_relname_relid("segment_pkey", namespace), true, NULL, 3, key);
	tuple = systable_getnext(scan);
	found = HeapTupleIsValid(tuple);
	if (found)
	{
		*sealed_at = get_time(tuple, Anum_segment_sealed_at, rel);
		*tombstones_from = get_time(tuple, Anum_segment_tombstones_from, rel);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/* Read when a segment was sealed; 0 if it is not known. */
TimestampTz
topics_segment_row_sealed_at(const TopicPartition *id, int64 base_offset)
{
	TimestampTz sealed_at;
	TimestampTz tombstones_from;

	(void) topics_segment_row_read(id, base_offset, &sealed_at, &tombstones_from);
	return sealed_at;
}

/* Execute SQL as the owner of the extension; $1 to $3 are the row's key. */
static void
execute_for_row(const char *sql, const TopicPartition *id, int64 base_offset)
{
	static const Oid types[] = {INT8OID, INT4OID, INT8OID};
	Datum		values[] = {
		Int64GetDatum(id->topic_id), Int32GetDatum(id->partition), Int64GetDatum(base_offset)
	};
	OwnerScope	scope;

	scope = topics_extension_become_owner();
	SPI_connect();
	if (SPI_execute_with_args(sql, lengthof(types), (Oid *) types, values, NULL, false, 0) < 0)
		elog(ERROR, "could not execute \"%s\"", sql);
	SPI_finish();
	topics_extension_become_caller(scope);
}

/*
 * See to it that no segment of a partition has a time in the future: there it
 * is of a clock that was ahead, and becomes the time of now.
 */
void
topics_segment_row_correct_times(const TopicPartition *id)
{
	static const Oid types[] = {INT8OID, INT4OID, TIMESTAMPTZOID};
	Datum		values[] = {
		Int64GetDatum(id->topic_id), Int32GetDatum(id->partition),
		TimestampTzGetDatum(GetCurrentTimestamp())
	};
	OwnerScope	scope;

	if (!any_time_is_ahead(id))
		return;
	scope = topics_extension_become_owner();
	SPI_connect();
	if (SPI_execute_with_args("UPDATE topic_log.segment SET sealed_at = LEAST(sealed_at, $3),"
							  " tombstones_from = CASE WHEN tombstones_from IS NOT NULL"
							  " THEN LEAST(tombstones_from, $3) END"
							  " WHERE topic_id OPERATOR(pg_catalog.=) $1"
							  " AND partition OPERATOR(pg_catalog.=) $2"
							  " AND GREATEST(sealed_at, tombstones_from) OPERATOR(pg_catalog.>) $3",
							  lengthof(types), (Oid *) types, values, NULL, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not correct the times of segments");
	SPI_finish();
	topics_extension_become_caller(scope);
	CommandCounterIncrement();
}

/* Note that a segment is sealed, now.  Return false if that was known. */
bool
topics_segment_row_note_sealed(const TopicPartition *id, const Segment *segment)
{
	if (topics_segment_row_sealed_at(id, segment->base_offset) != 0)
		return false;
	/* one process at a time, or the row would be inserted twice */
	LockRelationOid(segment->relid, ShareUpdateExclusiveLock);
	if (topics_segment_row_sealed_at(id, segment->base_offset) == 0)
		execute_for_row("INSERT INTO topic_log.segment (topic_id, partition, base_offset, sealed_at)"
						" VALUES ($1, $2, $3, pg_catalog.clock_timestamp())", id, segment->base_offset);
	return true;
}

/* Note a compaction; tombstones_from is 0 if no tombstone is to go later. */
void
topics_segment_row_update(const TopicPartition *id, int64 base_offset,
						  TimestampTz sealed_at, TimestampTz tombstones_from)
{
	static const Oid types[] = {INT8OID, INT4OID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID};
	Datum		values[] = {
		Int64GetDatum(id->topic_id), Int32GetDatum(id->partition), Int64GetDatum(base_offset),
		TimestampTzGetDatum(sealed_at), TimestampTzGetDatum(tombstones_from)
	};
	char		nulls[] = {' ', ' ', ' ', ' ', tombstones_from == 0 ? 'n' : ' '};
	OwnerScope	scope;

	scope = topics_extension_become_owner();
	SPI_connect();
	if (SPI_execute_with_args("UPDATE topic_log.segment SET sealed_at = $4, tombstones_from = $5"
							  " WHERE topic_id OPERATOR(pg_catalog.=) $1"
							  " AND partition OPERATOR(pg_catalog.=) $2"
							  " AND base_offset OPERATOR(pg_catalog.=) $3"
							  " AND (sealed_at, tombstones_from) IS DISTINCT FROM ($4, $5)",
							  lengthof(types), (Oid *) types, values, nulls, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not update the row of a segment");
	SPI_finish();
	topics_extension_become_caller(scope);
}

/* Delete the row of a segment that is dropped. */
void
topics_segment_row_forget(const TopicPartition *id, int64 base_offset)
{
	execute_for_row("DELETE FROM topic_log.segment WHERE topic_id OPERATOR(pg_catalog.=) $1"
					" AND partition OPERATOR(pg_catalog.=) $2 AND base_offset OPERATOR(pg_catalog.=) $3",
					id, base_offset);
}
