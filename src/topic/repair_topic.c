/*-------------------------------------------------------------------------
 *
 * repair_topic.c
 *		Put a topic right that lacks a part (broken_topic.c).
 *
 * In one transaction of the caller's: view and triggers, rows, tables,
 * segments, and then the logs.  What the rows had said is lost with them:
 * settings become the defaults.
 *
 * A log that has lost records must not give their offsets to others, nor show
 * that nothing is missing.
 *
 *	- Where the floor of next_offset, or a missing row, says that the end of
 *	  the log is lost, offsets may have been used up to the end of the highest
 *	  segment: a record has never stood above the segments that a dump, or a
 *	  table, has.  The log goes on there.
 *	- Where no record is left, the log starts there, too: a group or a reader
 *	  that stands below is out of range.
 *	- Where some are left, they are kept.  The log starts at the first, and
 *	  gaps_below says that it may have gaps, as after a compaction.
 *
 * What is left is also what stands in segments that are attached to nothing:
 * those that fill in what the log lacks come back into it.  Others may be of
 * another topic, restored beside this one, and stay where they are.
 *
 * The partition's table is locked against producers and foreign writers, as a
 * foreign writer does it, and its log end becomes unknown at the commit.  A row
 * that is made anew says that all that the log has is confirmed by synchronous
 * standbys or followers, also after a restart: so the repair waits until it is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/tablecmds.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "group/group.h"
#include "topic/topic.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_repair_topic);

/* Arguments, and columns of the result. */
enum
{
	REPAIR_TOPIC,
	REPAIR_TOPIC_ID
};
enum
{
	ACTION_PARTITION,
	ACTION_TEXT,
	ACTION_COLUMNS
};

/* A repair under way. */
typedef struct Repair
{
	const char *name;
	TopicParts	parts;
	Oid			caller;
	ReturnSetInfo *rsinfo;
	TopicSettings settings;
} Repair;

/* What a log holds, from its start on. */
typedef struct LogContents
{
	int64		first;			/* offset of the first record, or -1 */
	int64		last;			/* of the last one, or -1 */
	int64		gap_end;		/* of the highest gap that must not be, or 0 */
	int64		missing;		/* records in such gaps */
} LogContents;

/* Add a row to the result: what was done. */
static void
put_action(const Repair *repair, int32 partition, const char *text)
{
	Datum		values[ACTION_COLUMNS] = {Int32GetDatum(partition), CStringGetTextDatum(text)};
	bool		nulls[ACTION_COLUMNS] = {partition == WHOLE_TOPIC, false};

	tuplestore_putvalues(repair->rsinfo->setResult, repair->rsinfo->setDesc, values, nulls);
}

/* ----------------------------------------------------------------
 *		Which topic
 * ----------------------------------------------------------------
 */

/* Find what there is of the topic, by its id or else by its name. */
static void
find_topic_parts(Repair *repair, int64 topic_id)
{
	Oid			view_relid = get_relname_relid(repair->name, get_namespace_oid(TOPIC_SCHEMA, false));

	if (topic_id == ALL_TOPICS && !OidIsValid(view_relid))
		repair->parts.topic_id = ALL_TOPICS;
	else if (topics_broken_topic_find(topic_id, view_relid, &repair->parts))
	{
		if (repair->parts.view_relid != view_relid)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 OidIsValid(repair->parts.view_relid) ?
					 errmsg("topic \"%s\" has another name: \"%s\"", repair->name,
							get_rel_name(repair->parts.view_relid)) :
					 errmsg("topic \"%s\" already exists", repair->name)));
		return;
	}
	if (topic_id != ALL_TOPICS)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no topic with id " INT64_FORMAT, topic_id),
				 errhint("The view topics.broken_topic shows the ids of topics that lack a part.")));
	topics_broken_topic_report_other(repair->name);
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("topic \"%s\" does not exist", repair->name),
			 errhint("A topic without a view is repaired by its id, which topics.broken_topic shows.")));
}

/* Require the right to repair the topic: who owns it, if that can be known. */
static void
require_repair_right(const Repair *repair)
{
	const TopicParts *parts = &repair->parts;

	if (topics_catalog_is_admin() ||
		(parts->has_row && OidIsValid(parts->view_relid) &&
		 topics_catalog_owns_view(parts->view_relid)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 parts->has_row ? errmsg("must be owner of topic \"%s\"", repair->name) :
			 errmsg("must be superuser to repair topic \"%s\"", repair->name)));
}

/* Return true if it is, or is to be, the log of groups. */
static bool
is_offsets_topic(const Repair *repair)
{
	return strcmp(repair->name, CONSUMER_OFFSETS_TOPIC) == 0;
}

/* Lock the topic, or the name that it is to get, and look again. */
static void
lock_parts_to_repair(Repair *repair, int64 topic_id)
{
	Oid			view_relid = repair->parts.view_relid;

	if (OidIsValid(view_relid))
		LockRelationOid(view_relid, AccessExclusiveLock);
	else
	{
		if (!is_offsets_topic(repair))
			topics_topic_check_name(repair->name);
		(void) topics_make_topic_lock_name(repair->name);
	}
	find_topic_parts(repair, topic_id);
	if (repair->parts.view_relid != view_relid)
		topics_catalog_report_dropped(repair->name);
	if (OidIsValid(repair->parts.root_relid))
		LockRelationOid(repair->parts.root_relid, ShareUpdateExclusiveLock);
}

/* ----------------------------------------------------------------
 *		View, rows and tables: within a statement's scope
 * ----------------------------------------------------------------
 */

static bool
has_problem(List *problems, int32 partition, const char *text)
{
	ListCell   *lc;

	foreach(lc, problems)
	{
		BrokenPart *part = lfirst(lc);

		if (part->partition == partition && strcmp(part->problem, text) == 0)
			return true;
	}
	return false;
}

static void
repair_view(Repair *repair, List *problems)
{
	TopicParts *parts = &repair->parts;

	if (!OidIsValid(parts->view_relid))
	{
		parts->view_relid = topics_make_topic_create_view(parts->topic_id, repair->name);
		CommandCounterIncrement();
		if (!is_offsets_topic(repair))
			ATExecChangeOwner(parts->view_relid, repair->caller, true, AccessExclusiveLock);
		put_action(repair, WHOLE_TOPIC, "It got a view.");
		return;
	}
	if (has_problem(problems, WHOLE_TOPIC, "Its view lacks a trigger."))
	{
		topics_make_topic_create_triggers(repair->name);
		put_action(repair, WHOLE_TOPIC, "Its view got its triggers.");
	}
	if (has_problem(problems, WHOLE_TOPIC, "Its view reads the log with the rights of its readers."))
	{
		topics_statement_execute("ALTER VIEW %s RESET (security_invoker)",
								 quote_qualified_identifier(TOPIC_SCHEMA, repair->name));
		put_action(repair, WHOLE_TOPIC, "Its view reads the log with the right of its owner.");
	}
}

static void
repair_row(Repair *repair)
{
	const TopicParts *parts = &repair->parts;

	if (parts->has_row)
		topics_statement_execute("UPDATE topic_log.topic SET view = %u, partitions = %d"
								 " WHERE topic_id = " INT64_FORMAT " AND (view, partitions) <> (%u, %d)",
								 parts->view_relid, parts->partitions, parts->topic_id,
								 parts->view_relid, parts->partitions);
	else
	{
		topics_make_topic_insert_row(parts->topic_id, parts->view_relid, repair->name,
									 parts->partitions);
		put_action(repair, WHOLE_TOPIC, is_offsets_topic(repair) ?
				   "The catalogue got a row for it." :
				   "The catalogue got a row for it, with the default settings, but without retention.");
	}
}

/* Have the owner of the view read the log through it (make_topic.c). */
static void
repair_right(Repair *repair, List *problems)
{
	const TopicParts *parts = &repair->parts;

	if (SPI_execute(psprintf("SELECT format('GRANT SELECT ON %%s TO %%I', %u::regclass, pg_get_userbyid(relowner))"
							 " FROM pg_class WHERE oid = %u AND NOT has_table_privilege(relowner, %u, 'SELECT')",
							 parts->root_relid, parts->view_relid, parts->root_relid),
					false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look at the right to read the log");
	if (SPI_processed > 0)
		topics_statement_execute("%s", SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
	if (has_problem(problems, WHOLE_TOPIC, "The owner of its view may not read its log table."))
		put_action(repair, WHOLE_TOPIC, "The owner of its view may read its log table again.");
}

/* Make the log table, if there is none, but a table that is to be below it. */
static void
repair_root(Repair *repair)
{
	List	   *loose;
	char	   *name;

	if (OidIsValid(repair->parts.root_relid))
		return;
	loose = topics_broken_topic_loose_tables(repair->parts.topic_id);
	if (loose == NIL)
		return;
	name = psprintf("t" INT64_FORMAT, repair->parts.topic_id);
	topics_statement_execute("CREATE TABLE topic_log.%s (LIKE topic_log.%s) PARTITION BY LIST (partition)",
							 name, ((LooseTable *) linitial(loose))->name);
	repair->parts.root_relid = get_relname_relid(name, get_namespace_oid(TOPIC_LOG_SCHEMA, false));
	topics_segment_protect_from_analyze(repair->parts.root_relid);
	put_action(repair, WHOLE_TOPIC, "It got a log table.");
}

static void
repair_partition_table(Repair *repair, int32 partition)
{
	const TopicParts *parts = &repair->parts;
	char		name[NAMEDATALEN];
	Oid			relid;

	snprintf(name, sizeof(name), "t" INT64_FORMAT "_p%d", parts->topic_id, partition);
	relid = get_relname_relid(name, get_namespace_oid(TOPIC_LOG_SCHEMA, false));
	if (OidIsValid(relid) && get_rel_relispartition(relid))
		return;
	if (OidIsValid(relid))
		topics_make_topic_attach_partition(parts->topic_id, partition);
	else
		topics_make_topic_create_table(parts->topic_id, partition);
	put_action(repair, partition, "The partition got a log table.");
}

/*
 * Return true if the log has had a record of this offset, by what the catalogue
 * says, or if that says nothing.
 */
static bool
was_in_log(const Repair *repair, int32 partition, int64 offset)
{
	const TopicPartition id = {MyDatabaseId, partition, repair->parts.topic_id};
	PartitionRow row;

	return !topics_log_start_read_row(&id, NULL, &row) || offset < row.next_offset_floor;
}

/*
 * Make room for the offsets from "first" to "last": drop segments without rows
 * that were made for them meanwhile.  Raise if there are rows.
 */
static void
make_room(Oid partition_relid, const char *name, int64 first, int64 last)
{
	Relation	partition_rel = table_open(partition_relid, ShareRowExclusiveLock);
	int			count;
	Segment    *segments;

	topics_segment_forget_bounds(partition_relid);
	segments = topics_segment_list(partition_rel, &count);
	table_close(partition_rel, NoLock);
	for (int i = 0; i < count; i++)
	{
		Relation	rel;
		BlockNumber nblocks;

		if (segments[i].base_offset > last || segments[i].end_offset <= first)
			continue;
		rel = table_open(segments[i].relid, AccessShareLock);
		nblocks = RelationGetNumberOfBlocks(rel);
		table_close(rel, NoLock);
		if (nblocks > 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("%s cannot be repaired",
							topics_catalog_describe_log(partition_relid)),
					 errdetail("Log table \"%s\", which is attached to nothing, has offsets from " INT64_FORMAT " to " INT64_FORMAT ", of which log table \"%s\" has some, too.",
							   name, first, last, get_rel_name(segments[i].relid)),
					 errhint("Drop the first, or move it to another schema, and call topics.repair_topic() again.")));
		topics_statement_execute("DROP TABLE topic_log.%s",
								 quote_identifier(get_rel_name(segments[i].relid)));
	}
}

/* Attach a segment that is attached to nothing, or drop it if it is empty. */
static void
attach_segment(const Repair *repair, const char *name, int32 partition)
{
	char	   *partition_name = psprintf("t" INT64_FORMAT "_p%d", repair->parts.topic_id, partition);
	char	   *bounds[2];

	if (SPI_execute(psprintf("SELECT min(\"offset\"), max(\"offset\") + 1"
							 " FROM ONLY topic_log.%s", name), false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look at log table \"%s\"", name);
	bounds[0] = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	bounds[1] = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2);
	if (bounds[0] == NULL)
	{
		topics_statement_execute("DROP TABLE topic_log.%s", name);
		put_action(repair, partition, psprintf("Log table \"%s\" was empty, and attached to nothing: it was dropped.", name));
		return;
	}
	if (partition >= repair->parts.partitions ||
		!was_in_log(repair, partition, pg_strtoint64(bounds[0])))
	{
		put_action(repair, partition,
				   psprintf("Log table \"%s\" has records that the log has not had: drop it, or move it to another schema.", name));
		return;
	}
	make_room(get_relname_relid(partition_name, get_namespace_oid(TOPIC_LOG_SCHEMA, false)), name,
			  pg_strtoint64(bounds[0]), pg_strtoint64(bounds[1]) - 1);
	topics_statement_execute("ALTER TABLE topic_log.%s ATTACH PARTITION topic_log.%s"
							 " FOR VALUES FROM (%s) TO (%s)",
							 partition_name, name, bounds[0], bounds[1]);
	put_action(repair, partition, psprintf("Log table \"%s\" was attached again.", name));
}

static void
attach_segments(const Repair *repair)
{
	ListCell   *lc;

	foreach(lc, topics_broken_topic_loose_tables(repair->parts.topic_id))
	{
		const LooseTable *table = lfirst(lc);

		if (table->is_segment)
			attach_segment(repair, table->name, table->partition);
	}
}

/* Require rows of a heap to be in order, as they are after a restore. */
static void
require_order(const char *name)
{
	if (SPI_execute(psprintf("SELECT FROM (SELECT \"offset\" AS o, lag(\"offset\") OVER (ORDER BY ctid) AS p"
							 " FROM ONLY topic_log.%s) s WHERE p >= o LIMIT 1", name), true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look at log table \"%s\"", name);
	if (SPI_processed > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s cannot be repaired",
						topics_catalog_describe_log(get_relname_relid(name, get_namespace_oid(TOPIC_LOG_SCHEMA, false)))),
				 errdetail("The rows of log table \"%s\" are not in the order of their offsets.", name),
				 errhint("Restore the topic again, without --no-table-access-method.")));
}

/*
 * Make segments ours again that have another access method, or are not logged.
 */
static void
repair_segments(Repair *repair)
{
	SPITupleTable *segments;
	uint64		count;

	topics_settings_override("synchronize_seqscans", "off");
	if (SPI_execute(psprintf("SELECT c.relname, relpersistence <> 'p', relam <> (SELECT oid FROM pg_am WHERE amname = '%s'),"
							 " substring(c.relname FROM '_p([0-9]{1,9})_s')"
							 " FROM pg_inherits i JOIN pg_inherits j ON j.inhparent = i.inhrelid"
							 " JOIN pg_class c ON c.oid = j.inhrelid WHERE i.inhparent = %u ORDER BY 1",
							 TOPIC_LOG_AM, repair->parts.root_relid), true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not look for segments");
	segments = SPI_tuptable;
	count = SPI_processed;
	for (uint64 i = 0; i < count; i++)
	{
		char	   *name = SPI_getvalue(segments->vals[i], segments->tupdesc, 1);
		char	   *number = SPI_getvalue(segments->vals[i], segments->tupdesc, 4);
		int32		partition = number ? pg_strtoint32(number) : WHOLE_TOPIC;

		if (strcmp(SPI_getvalue(segments->vals[i], segments->tupdesc, 3), "t") == 0)
		{
			require_order(quote_identifier(name));
			topics_statement_execute("ALTER TABLE topic_log.%s SET ACCESS METHOD topic_log",
									 quote_identifier(name));
			put_action(repair, partition, psprintf("Log table \"%s\" got its access method.", name));
		}
		if (strcmp(SPI_getvalue(segments->vals[i], segments->tupdesc, 2), "t") == 0)
		{
			topics_statement_execute("ALTER TABLE topic_log.%s SET LOGGED", quote_identifier(name));
			put_action(repair, partition, psprintf("Log table \"%s\" is logged again.", name));
		}
	}
}

/* ----------------------------------------------------------------
 *		Logs
 * ----------------------------------------------------------------
 */

/* Read a log from its start on; records below "allowed" may be missing. */
static LogContents
read_log(Relation partition_rel, int64 start, int64 allowed)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	LogReader  *reader = topics_log_reader_open(partition_rel, start, PG_INT64_MAX, snapshot, false);
	LogContents contents = {-1, -1, 0, 0};
	TupleTableSlot *slot;

	while ((slot = topics_log_reader_next(reader)) != NULL)
	{
		int64		offset = topics_log_get_offset(slot);
		int64		expected = Max(contents.last + 1, allowed);

		CHECK_FOR_INTERRUPTS();
		if (contents.first < 0)
			contents.first = offset;
		else if (offset > expected)
		{
			contents.gap_end = offset;
			contents.missing += offset - expected;
		}
		contents.last = offset;
	}
	topics_log_reader_close(reader);
	UnregisterSnapshot(snapshot);
	return contents;
}

/* Store what the catalogue is to say of a partition. */
static void
store_row(const Repair *repair, PartitionState *state, bool has_row, const PartitionRow *row)
{
	if (!has_row)
	{
		topics_statement_execute("INSERT INTO topic_log.partition"
								 " (topic_id, partition, log_start_offset, next_offset_floor, gaps_below, high_watermark)"
								 " VALUES (" INT64_FORMAT ", %d, " INT64_FORMAT ", " INT64_FORMAT ", " INT64_FORMAT ", " INT64_FORMAT ")",
								 repair->parts.topic_id, state->id.partition, row->log_start_offset,
								 row->next_offset_floor, row->gaps_below, row->next_offset_floor);
		return;
	}
	(void) topics_log_start_move(state, row->log_start_offset);
	topics_log_start_raise_floor(&state->id, row->next_offset_floor);
	if (row->gaps_below > 0)
		topics_log_start_allow_gaps(&state->id, row->gaps_below);
}

/* Say what is lost. */
static void
put_loss(const Repair *repair, int32 partition, const LogContents *contents,
		 const PartitionRow *before, const PartitionRow *after, bool tail_lost)
{
	int64		allowed = Max(before->log_start_offset, before->gaps_below);

	if (contents->first < 0)
	{
		put_action(repair, partition,
				   psprintf("It has no record: the log starts, and goes on, at offset " INT64_FORMAT ".",
							after->next_offset_floor));
		return;
	}
	if (after->log_start_offset > allowed)
		put_action(repair, partition,
				   psprintf("Records below offset " INT64_FORMAT " are lost: the log starts there.",
							after->log_start_offset));
	if (contents->missing > 0)
		put_action(repair, partition,
				   psprintf(repair->settings.compact ?
							INT64_FORMAT " records between those that it has are compacted away, or lost." :
							INT64_FORMAT " records between those that it has are lost.",
							contents->missing));
	if (tail_lost)
		put_action(repair, partition,
				   psprintf("Records after offset " INT64_FORMAT " may be lost: the log goes on at offset " INT64_FORMAT ".",
							contents->last, after->next_offset_floor));
}

/* Find an offset that no record of the log has ever had. */
static int64
find_unused_offset(Relation partition_rel, const PartitionRow *row, int64 last)
{
	Segment		top;
	int64		unused = Max(Max(row->next_offset_floor, row->log_start_offset), last + 1);

	if (topics_segment_last(partition_rel, &top))
		unused = Max(unused, top.end_offset);
	return unused;
}

/* Repair a partition's log and its row. */
static void
repair_log(const Repair *repair, int32 number)
{
	const TopicPartition id = {MyDatabaseId, number, repair->parts.topic_id};
	Partition	partition = {.number = number,.state = topics_catalog_get_state(&id)};
	PartitionRow row;
	PartitionRow after;
	LogContents contents;
	bool		has_row = topics_log_start_read_row(&id, NULL, &row);
	bool		tail_lost;
	int64		allowed = Max(row.log_start_offset, row.gaps_below);
	int64		used = row.next_offset_floor;
	Segment		lowest;

	partition.relid = get_relname_relid(psprintf("t" INT64_FORMAT "_p%d", id.topic_id, number),
										get_namespace_oid(TOPIC_LOG_SCHEMA, false));
	topics_foreign_writer_note(partition.relid);
	topics_catalog_reopen_partition(&partition, NoLock);
	topics_segment_forget_bounds(partition.relid);
	contents = read_log(partition.rel, row.log_start_offset, allowed);
	after = row;
	/* what is below the lowest segment was given, too: see find_end */
	if (topics_segment_find_next(partition.rel, 0, &lowest))
		used = Max(used, lowest.base_offset);
	tail_lost = !has_row || used > Max(contents.last + 1, allowed);
	if (tail_lost)
		after.next_offset_floor = find_unused_offset(partition.rel, &row, contents.last);
	if (contents.first < 0 && tail_lost)
		after.log_start_offset = after.next_offset_floor;
	else if (contents.first > allowed)
		after.log_start_offset = contents.first;
	if (contents.first >= 0 && (tail_lost || contents.gap_end > 0))
		after.gaps_below = tail_lost ? after.next_offset_floor : contents.gap_end;
	topics_catalog_close_partition(&partition, NoLock);

	if (memcmp(&after, &row, sizeof(PartitionRow)) == 0 && has_row)
		return;
	store_row(repair, partition.state, has_row, &after);
	topics_high_watermark_wait_for_position(XactLastRecEnd);
	put_loss(repair, number, &contents, &row, &after, tail_lost);
	topics_cut_cover_offset(&partition, Max(after.next_offset_floor, contents.last + 1),
							repair->settings.segment_bytes, COVER_BESIDES);
}

/* ----------------------------------------------------------------
 *		The call
 * ----------------------------------------------------------------
 */

/*
 * Require a topic with the columns that it must have, now that it has all
 * parts.
 */
static Topic *
require_topic(const Repair *repair)
{
	Topic	   *topic = topics_catalog_get(repair->parts.view_relid, true);

	if (topic == NULL ||
		(is_offsets_topic(repair) && (topic->key.type != TEXTOID || topic->value.type != JSONBOID)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("topic \"%s\" cannot be repaired", repair->name),
				 errdetail("Its log table does not have the columns of a log table."),
				 errhint("Use topics.drop_topic() to drop the topic and its log.")));
	return topic;
}

static void
repair_parts(Repair *repair)
{
	List	   *problems = topics_broken_topic_list(repair->parts.topic_id);
	StatementScope scope = topics_statement_begin();

	repair_root(repair);
	if (!OidIsValid(repair->parts.root_relid))
	{
		topics_statement_end(scope);
		topics_topic_drop_parts(&repair->parts);
		put_action(repair, WHOLE_TOPIC, "Nothing was left of its log: it was dropped.");
		return;
	}
	repair_view(repair, problems);
	repair_row(repair);
	repair_right(repair, problems);
	for (int32 partition = 0; partition < repair->parts.partitions; partition++)
		repair_partition_table(repair, partition);
	attach_segments(repair);
	repair_segments(repair);
	CacheInvalidateRelcacheByRelid(repair->parts.view_relid);
	CommandCounterIncrement();
	repair->settings = require_topic(repair)->settings;
	for (int32 partition = 0; partition < repair->parts.partitions; partition++)
		repair_log(repair, partition);
	topics_statement_end(scope);
}

/* repair_topic(topic, topic_id) */
Datum
topics_repair_topic(PG_FUNCTION_ARGS)
{
	int64		topic_id = PG_ARGISNULL(REPAIR_TOPIC_ID) ? ALL_TOPICS :
		PG_GETARG_INT64(REPAIR_TOPIC_ID);
	Repair		repair = {.caller = GetUserId()};

	repair.name = topics_argument_get_text(fcinfo, REPAIR_TOPIC);
	topics_settings_require_preload();
	PreventCommandIfReadOnly("topics.repair_topic()");
	InitMaterializedSRF(fcinfo, 0);
	repair.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	find_topic_parts(&repair, topic_id);
	require_repair_right(&repair);
	lock_parts_to_repair(&repair, topic_id);
	repair_parts(&repair);
	topics_backoff_reset(repair.parts.view_relid);
	topics_topic_changes_note_settings();
	return (Datum) 0;
}
