/*-------------------------------------------------------------------------
 *
 * log_start.c
 *		Where the log of a partition starts.
 *
 * Retention and delete_records() move the log start offset: what lies below
 * is gone for every reader from then on, and its files go when their locks
 * are free (retention.c).  It is kept in topic_log.partition, and published
 * in shared memory when the change is committed and durable.  It never goes
 * back.
 *
 * There are two kinds of readers.
 *
 * A reader that asks by offset (fetch) is compared with the published log
 * start: an offset below is out of range at once, whatever the snapshot.  The
 * reader reads from its offset on, so nothing more has to be hidden.
 *
 * A plain scan, with a WHERE clause or without, hides what is below the log
 * start as its own snapshot sees it: it reads the catalogue row with the scan's
 * snapshot.  So all scans of a statement, of however many segments and in
 * however many processes, agree on where the log starts, and what they see
 * together is dense.  With the published log start, which moves while the
 * statement runs, a scan could return the first segment, miss the next and
 * return the one after.  (A segment that has been dropped is missing for older
 * snapshots too, as after any DROP.  Segments are dropped from the lowest on,
 * so what is left is dense as well.)
 *
 * A scan reads that row only if it can matter: log_start_sought is raised
 * before the row is changed, and no scan hides what begins at or above it.
 * Otherwise a scan costs nothing.
 *
 * WHO REMOVES RECORDS of a segment that stays (compact.c) has to know what no
 * scan shows any more.  The published log start does not tell: an older
 * snapshot sees an older one.  The versions of the row tell: as long as one is
 * there, some snapshot may see it, so the lowest of their log starts holds for
 * all (topics_log_start_lowest).  That goes for standbys, too, whose snapshots
 * nobody knows here: when a version is removed, replaying that cancels the
 * queries that see it.  To remove a version is left to VACUUM elsewhere; here
 * the table is vacuumed where something waits for it
 * (topics_log_start_settle).
 *
 * THE FLOOR.  The same row has next_offset_floor: the log has had all offsets
 * below it.  What is lost is seen by it, whether a dump came without the
 * records, or a table lost them (broken_topic.c).  The worker raises it, for
 * many partitions at once, when their logs have grown, and the sealing of a
 * segment does.  It follows topics_log_end, so it never tells of a record that
 * can still be taken back; and the record's commit comes before the row's in
 * WAL, so that no crash, standby or dump has the row without the record.
 *
 * See docs/decisions/0007-retention.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "shared/shared.h"
#include "log/log.h"
#include "pg_topics.h"

/* A log start that is published when the transaction commits. */
typedef struct PendingStart
{
	PartitionState *state;
	TopicPartition id;
	int64		start;
	SubTransactionId subxid;
} PendingStart;

static List *pending_starts = NIL;	/* in TopTransactionContext */

/* Columns of topic_log.partition */
enum
{
	Anum_partition_topic_id = 1,
	Anum_partition_partition,
	Anum_partition_log_start_offset,
	Anum_partition_next_offset_floor,
	Anum_partition_clean_offset,
	Anum_partition_gaps_below,
	Anum_partition_tombstones_below,
	Anum_partition_high_watermark
};

/* A scan of the versions of a partition's row that a snapshot sees. */
typedef struct PartitionScan
{
	Relation	rel;
	SysScanDesc scan;
	ScanKeyData key[2];
} PartitionScan;

/* Get the table that has the rows. */
Oid
topics_log_start_relid(void)
{
	return get_relname_relid("partition", get_namespace_oid(TOPIC_LOG_SCHEMA, false));
}

/* Begin such a scan; a snapshot of NULL is the latest. */
static void
begin_partition_scan(PartitionScan *scan, const TopicPartition *id, Snapshot snapshot)
{
	Oid			namespace = get_namespace_oid(TOPIC_LOG_SCHEMA, false);

	scan->rel = table_open(topics_log_start_relid(), AccessShareLock);
	ScanKeyInit(&scan->key[0], Anum_partition_topic_id, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(id->topic_id));
	ScanKeyInit(&scan->key[1], Anum_partition_partition, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(id->partition));
	scan->scan = systable_beginscan(scan->rel, get_relname_relid("partition_pkey", namespace), true,
									snapshot, lengthof(scan->key), scan->key);
}

static void
end_partition_scan(PartitionScan *scan)
{
	systable_endscan(scan->scan);
	table_close(scan->rel, AccessShareLock);
}

/* Get a column of a partition's row: none is NULL. */
static int64
get_column(const PartitionScan *scan, HeapTuple tuple, int column)
{
	bool		isnull;

	return DatumGetInt64(heap_getattr(tuple, column, RelationGetDescr(scan->rel), &isnull));
}

/*
 * Read columns of a partition's row by a snapshot, or the latest row if that is
 * NULL.  Return false, with all values 0, if there is no row.
 */
static bool
read_partition_row(const TopicPartition *id, Snapshot snapshot, const int *columns, int64 *values,
				   int ncolumns)
{
	PartitionScan scan;
	HeapTuple	tuple;
	bool		found;

	begin_partition_scan(&scan, id, snapshot);
	tuple = systable_getnext(scan.scan);
	found = HeapTupleIsValid(tuple);
	for (int i = 0; i < ncolumns; i++)
		values[i] = found ? get_column(&scan, tuple, columns[i]) : 0;
	end_partition_scan(&scan);
	return found;
}

/*
 * Read what the catalogue knows of a partition beside its segments, by a
 * snapshot, or the latest if that is NULL: where its log starts, and what
 * next_offset never falls below.  Return false, with both 0, if there is no
 * row.
 */
bool
topics_log_start_read(const TopicPartition *id, Snapshot snapshot,
					  int64 *log_start_offset, int64 *next_offset_floor)
{
	static const int columns[] = {Anum_partition_log_start_offset, Anum_partition_next_offset_floor};
	int64		values[lengthof(columns)];
	bool		found = read_partition_row(id, snapshot, columns, values, lengthof(columns));

	*log_start_offset = values[0];
	*next_offset_floor = values[1];
	return found;
}

/* The same, and what else there is. */
bool
topics_log_start_read_row(const TopicPartition *id, Snapshot snapshot, PartitionRow *row)
{
	static const int columns[] = {
		Anum_partition_log_start_offset, Anum_partition_next_offset_floor, Anum_partition_gaps_below,
		Anum_partition_tombstones_below, Anum_partition_high_watermark
	};
	int64		values[lengthof(columns)];
	bool		found = read_partition_row(id, snapshot, columns, values, lengthof(columns));

	row->log_start_offset = values[0];
	row->next_offset_floor = values[1];
	row->gaps_below = values[2];
	row->tombstones_below = values[3];
	row->high_watermark = values[4];
	return found;
}

/* Read where the clean part of a compacted log ends. */
int64
topics_log_start_clean_offset(const TopicPartition *id)
{
	static const int columns[] = {Anum_partition_clean_offset};
	int64		value;

	(void) read_partition_row(id, NULL, columns, &value, lengthof(columns));
	return value;
}

/* Raise a log start in shared memory, or set it if it is not known. */
static void
raise_start(pg_atomic_uint64 *shared_start, int64 start)
{
	uint64		old = pg_atomic_read_u64(shared_start);

	while ((old == UNKNOWN_OFFSET || (int64) old < start) &&
		   !pg_atomic_compare_exchange_u64(shared_start, &old, start))
		;
}

/* Set a log start in shared memory if it is not known. */
static void
set_unknown_start(pg_atomic_uint64 *shared_start, int64 start)
{
	uint64		unknown = UNKNOWN_OFFSET;

	/*
	 * a process that has moved it meanwhile knows better than what we have
	 * read
	 */
	(void) pg_atomic_compare_exchange_u64(shared_start, &unknown, start);
}

/*
 * Get the published log start.  It is read from the catalogue the first time
 * after a restart; and every time in recovery, and in a restore that has not
 * come to the partition's row.
 */
int64
topics_log_start(PartitionState *state)
{
	/* what is read while it goes on is not kept, even if it ends meanwhile */
	bool		recovery = RecoveryInProgress();
	uint64		start;
	int64		log_start;
	int64		floor;
	bool		found;

	state = topics_partition_state_current(state);
	start = recovery ? UNKNOWN_OFFSET : pg_atomic_read_u64(&state->log_start_offset);
	if (start != UNKNOWN_OFFSET)
		return start;
	found = topics_log_start_read(&state->id, NULL, &log_start, &floor);
	if (!found || recovery)
		return log_start;
	set_unknown_start(&state->log_start_sought, log_start);
	set_unknown_start(&state->log_start_offset, log_start);
	return pg_atomic_read_u64(&state->log_start_offset);
}

/*
 * Get the lowest log start that any snapshot may see, here or on a standby:
 * what lies below nobody reads any more.
 */
int64
topics_log_start_lowest(PartitionState *state)
{
	int64		result = topics_log_start(state);
	PartitionScan scan;
	HeapTuple	tuple;

	begin_partition_scan(&scan, &state->id, SnapshotAny);
	/* an entry that is dead here leads to what a standby may see */
	if (scan.scan->iscan)
		scan.scan->iscan->ignore_killed_tuples = false;
	while (HeapTupleIsValid(tuple = systable_getnext(scan.scan)))
		result = topics_min(result, get_column(&scan, tuple, Anum_partition_log_start_offset));
	end_partition_scan(&scan);
	return result;
}

/*
 * The same, after old versions of rows have been removed if there are any of
 * this partition.  They stay while a snapshot may see them, or another process
 * is at it.
 */
int64
topics_log_start_settle(PartitionState *state)
{
	int64		lowest = topics_log_start_lowest(state);
	Oid			namespace = get_namespace_oid(TOPIC_LOG_SCHEMA, false);

	if (lowest < topics_log_start(state) &&
		topics_seal_clean_catalog(get_relname_relid("partition", namespace)))
		lowest = topics_log_start_lowest(state);
	return lowest;
}

/*
 * Get what a scan with this snapshot must not show of a segment that begins at
 * "base_offset": offsets below the result.
 */
int64
topics_log_start_for_scan(const TopicPartition *id, PartitionState *state,
						  int64 base_offset, Snapshot snapshot)
{
	int64		log_start;
	int64		floor;

	if (state && !RecoveryInProgress())
	{
		uint64		sought = pg_atomic_read_u64(&state->log_start_sought);

		if (sought != UNKNOWN_OFFSET && (int64) sought <= base_offset)
			return 0;
	}
	(void) topics_log_start_read(id, snapshot, &log_start, &floor);
	return log_start > base_offset ? log_start : 0;
}

/* Name a partition for a message, by its topic's id if that has no name. */
static char *
describe_partition(const TopicPartition *id)
{
	char	   *name = topics_catalog_describe(id->topic_id, id->partition);

	return name ? name : psprintf("partition %d of the topic with id " INT64_FORMAT,
								  id->partition, id->topic_id);
}

/*
 * Raise a column of a partition's row; a value that is higher stays.  Return
 * the value then.  No other process changes the row until our transaction
 * ends.
 */
static int64
raise_column(const TopicPartition *id, const char *column, int64 value)
{
	static const Oid types[] = {INT8OID, INT8OID, INT4OID};
	Datum		values[] = {
		Int64GetDatum(value), Int64GetDatum(id->topic_id), Int32GetDatum(id->partition)
	};
	char	   *sql = psprintf("UPDATE topic_log.partition SET %s = GREATEST(%s, $1)"
							   " WHERE topic_id OPERATOR(pg_catalog.=) $2"
							   " AND partition OPERATOR(pg_catalog.=) $3 RETURNING %s",
							   column, column, column);
	OwnerScope	scope;
	bool		isnull;

	scope = topics_extension_become_owner();
	SPI_connect();
	if (SPI_execute_with_args(sql, lengthof(types), (Oid *) types, values, NULL, false, 0) !=
		SPI_OK_UPDATE_RETURNING || SPI_processed != 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("could not change the catalogue of %s", describe_partition(id)),
				 errdetail("It has no row for the partition."),
				 errhint("See topics.broken_topic.")));
	value = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	topics_extension_become_caller(scope);
	return value;
}

/* Note how far compaction has come (compact.c). */
void
topics_log_start_raise_clean_offset(const TopicPartition *id, int64 clean_offset)
{
	(void) raise_column(id, "clean_offset", clean_offset);
}

/* Note that offsets below are used, even if no record of the log shows it. */
void
topics_log_start_raise_floor(const TopicPartition *id, int64 next_offset_floor)
{
	(void) raise_column(id, "next_offset_floor", next_offset_floor);
}

/* Note that what is below an offset was confirmed (keep/checkpoint.c). */
void
topics_log_start_raise_high_watermark(const TopicPartition *id, int64 high_watermark)
{
	(void) raise_column(id, "high_watermark", high_watermark);
}

/* Note that compaction has removed tombstones below an offset. */
void
topics_log_start_note_tombstones(const TopicPartition *id, int64 tombstones_below)
{
	(void) raise_column(id, "tombstones_below", tombstones_below);
}

/*
 * Note that records below an offset may be missing, and all offsets are used.
 */
void
topics_log_start_allow_gaps(const TopicPartition *id, int64 gaps_below)
{
	(void) raise_column(id, "gaps_below", gaps_below);
	topics_log_start_raise_floor(id, gaps_below);
}

/*
 * Store ends of logs as the floors of their next offsets, and, where they are
 * a cut, as high watermarks (keep/checkpoint.c), in the caller's transaction,
 * by one statement.  A row that another transaction has locked, as
 * delete_records() does, is left for the next time, and with it the high
 * watermarks of all.  Return how many of the floors stand in the catalogue
 * when the transaction commits; these come first in "floors" then.
 */
int
topics_log_start_store_floors(LogFloor *floors, int count, bool is_cut)
{
	static const char *const sql =
		"WITH moved AS MATERIALIZED (SELECT number, p.topic_id, p.partition, floor FROM"
		" ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3))"
		" WITH ORDINALITY m (topic_id, partition, floor, number)"
		" JOIN topic_log.partition p ON p.topic_id OPERATOR(pg_catalog.=) m.topic_id"
		" AND p.partition OPERATOR(pg_catalog.=) m.partition FOR NO KEY UPDATE OF p SKIP LOCKED),"
		" cut AS (SELECT $4 AND pg_catalog.count(*) OPERATOR(pg_catalog.=) pg_catalog.cardinality($1)"
		" AS is_whole FROM moved),"
		" raised AS (UPDATE topic_log.partition p SET next_offset_floor = GREATEST(next_offset_floor, floor),"
		" high_watermark = CASE WHEN is_whole THEN GREATEST(high_watermark, floor) ELSE high_watermark END"
		" FROM moved, cut"
		" WHERE p.topic_id OPERATOR(pg_catalog.=) moved.topic_id"
		" AND p.partition OPERATOR(pg_catalog.=) moved.partition"
		" AND (next_offset_floor OPERATOR(pg_catalog.<) floor"
		" OR is_whole AND high_watermark OPERATOR(pg_catalog.<) floor))"
		" SELECT number FROM moved ORDER BY number";
	static const Oid types[] = {INT8ARRAYOID, INT4ARRAYOID, INT8ARRAYOID, BOOLOID};
	Datum	   *topics = palloc(sizeof(Datum) * count);
	Datum	   *partitions = palloc(sizeof(Datum) * count);
	Datum	   *ends = palloc(sizeof(Datum) * count);
	Datum		values[lengthof(types)];
	OwnerScope	scope;
	int			stored;

	for (int i = 0; i < count; i++)
	{
		topics[i] = Int64GetDatum(floors[i].id.topic_id);
		partitions[i] = Int32GetDatum(floors[i].id.partition);
		ends[i] = Int64GetDatum(floors[i].floor);
	}
	values[0] = PointerGetDatum(construct_array(topics, count, INT8OID, sizeof(int64),
												FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[1] = PointerGetDatum(construct_array(partitions, count, INT4OID, sizeof(int32),
												true, TYPALIGN_INT));
	values[2] = PointerGetDatum(construct_array(ends, count, INT8OID, sizeof(int64),
												FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[3] = BoolGetDatum(is_cut);

	scope = topics_extension_become_owner();
	SPI_connect();
	if (SPI_execute_with_args(sql, lengthof(types), (Oid *) types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not store the ends of logs");
	stored = (int) SPI_processed;
	for (int i = 0; i < stored; i++)
	{
		bool		isnull;
		int64		number = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
														 1, &isnull));

		floors[i] = floors[number - 1];
	}
	SPI_finish();
	topics_extension_become_caller(scope);
	return stored;
}

/*
 * Move the log start up, when the transaction commits.  Return the log start as
 * it will be.
 */
int64
topics_log_start_move(PartitionState *state, int64 start)
{
	int64		current = topics_log_start(state);
	MemoryContext old;
	PendingStart *move;

	if (start <= current)
		return current;

	/* before the row changes: see the head of this file */
	raise_start(&state->log_start_sought, start);

	start = raise_column(&state->id, "log_start_offset", start);

	/* a crash must not take back what others were told */
	ForceSyncCommit();
	old = MemoryContextSwitchTo(TopTransactionContext);
	move = palloc(sizeof(PendingStart));
	move->state = state;
	move->id = state->id;
	move->start = start;
	move->subxid = GetCurrentSubTransactionId();
	pending_starts = lappend(pending_starts, move);
	MemoryContextSwitchTo(old);
	return start;
}

/* Return true if this transaction moves a log start. */
bool
topics_log_start_is_pending(void)
{
	return pending_starts != NIL;
}

/* Publish the log starts of a transaction that ends.  Raises nothing. */
void
topics_log_start_at_end(bool commit)
{
	ListCell   *lc;

	if (pending_starts == NIL)
		return;
	foreach(lc, pending_starts)
	{
		PendingStart *move = lfirst(lc);

		if (!commit || memcmp(&move->state->id, &move->id, sizeof(TopicPartition)) != 0)
			continue;
		raise_start(&move->state->log_start_offset, move->start);
		topics_replica_cut_note_moved(move->state);
		pg_atomic_fetch_or_u32(&move->state->requests, REQUEST_DROP);
	}
	pending_starts = NIL;
	if (commit)
		topics_worker_registry_wake_worker();
}

void
topics_log_start_at_subend(bool commit, SubTransactionId subxid, SubTransactionId parent)
{
	ListCell   *lc;

	foreach(lc, pending_starts)
	{
		PendingStart *move = lfirst(lc);

		if (move->subxid != subxid)
			continue;
		if (commit)
			move->subxid = parent;
		else
			pending_starts = foreach_delete_current(pending_starts, lc);
	}
}
