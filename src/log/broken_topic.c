/*-------------------------------------------------------------------------
 *
 * broken_topic.c
 *		Topics that lack a part: found, and told of in one way.
 *
 * A topic is a view with triggers, tables, and rows of the catalogue
 * (make_topic.c).  Together they come and go by our own commands, but a dump in
 * part, a replica that is not complete, or a superuser can leave some without
 * the others:
 *
 *		rows without a view or tables, tables and a view without rows,
 *		a view without its triggers, whose owner may not read the log, or that
 *		reads it with the rights of its readers,
 *		partitions without a table or a row,
 *		segments that are not attached, of another access method, or not logged,
 *		a log without records that it has had, or that cannot be read.
 *
 * A restore into a database that has other topics can also leave a view on the
 * log of one of these.
 *
 * The last is seen by next_offset_floor (log_start.c), and by segments that do
 * not begin or end as their bounds say.  A restore under way looks the same:
 * so nothing is put right on its own, but by topics.repair_topic()
 * (repair_topic.c), and until then the topic is not written to, nor read by
 * offset.  Everything that meets such a topic raises the one error of
 * topics_broken_topic_report; the view topics.broken_topic lists them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "log/log.h"
#include "pg_topics.h"

/*
 * Tables of topics that are attached to nothing.  The number of a partition has
 * five digits at most, which is more than MAX_TOPIC_PARTITIONS (topic.c) needs.
 */
#define LOOSE_TABLES \
	"SELECT substring(relname FROM '^t([0-9]{1,18})_')::int8 AS topic_id," \
	" substring(relname FROM '_p([0-9]{1,5})')::int4 AS partition, relname, relkind FROM pg_class" \
	" WHERE relnamespace = 'topic_log'::regnamespace AND NOT relispartition" \
	" AND (relkind = 'r' AND relname ~ '^t[0-9]{1,18}_p[0-9]{1,5}_s[0-9]{1,18}$'" \
	" OR relkind = 'p' AND relname ~ '^t[0-9]{1,18}_p[0-9]{1,5}$')"

/*
 * All topics of which there is anything, or the one with id $1: its log table,
 * its view, by its row or else by what the view reads, and its row.
 */
#define ANY_TOPIC \
	"WITH root AS (SELECT substr(relname::text, 2)::int8 AS topic_id, oid FROM pg_class" \
	" WHERE relnamespace = 'topic_log'::regnamespace AND relkind = 'p'" \
	" AND relname ~ '^t[0-9]{1,18}$')," \
	" loose AS (" LOOSE_TABLES ")," \
	" shown AS (SELECT r.topic_id, min(v.oid) AS view FROM root r" \
	" JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = r.oid" \
	" AND d.classid = 'pg_rewrite'::regclass" \
	" JOIN pg_rewrite w ON w.oid = d.objid" \
	" JOIN pg_class v ON v.oid = w.ev_class AND v.relkind = 'v'" \
	" AND v.relnamespace = 'topic'::regnamespace GROUP BY 1)," \
	" topic AS (SELECT id.topic_id, r.oid AS root, t.topic_id IS NOT NULL AS has_row," \
	" t.partitions, COALESCE(v.oid, s.view) AS view" \
	" FROM (SELECT topic_id FROM root UNION SELECT topic_id FROM topic_log.topic" \
	" UNION SELECT topic_id FROM topic_log.partition UNION SELECT topic_id FROM loose) id" \
	" LEFT JOIN root r ON r.topic_id = id.topic_id" \
	" LEFT JOIN topic_log.topic t ON t.topic_id = id.topic_id" \
	" LEFT JOIN pg_class v ON v.oid = t.view AND v.relkind = 'v'" \
	" AND v.relnamespace = 'topic'::regnamespace" \
	" LEFT JOIN shown s ON s.topic_id = id.topic_id" \
	" WHERE ($1 IS NULL OR id.topic_id = $1)" \
	" AND NOT EXISTS (SELECT FROM topic_log.dropped_topic d WHERE d.topic_id = id.topic_id))"

/* What can be seen without a look into the logs. */
static const char *const catalog_problems = ANY_TOPIC
" SELECT topic_id, view, NULL::int4, problem FROM topic, LATERAL ("
"SELECT 'The catalogue has no row for it.' WHERE NOT has_row"
" UNION ALL SELECT 'It has no view.' WHERE view IS NULL"
" UNION ALL SELECT 'It has no log table.' WHERE root IS NULL"
" UNION ALL SELECT 'Its log table does not have the columns of a log table.'"
" WHERE (SELECT relnatts FROM pg_class WHERE oid = root) <> " CppAsString2(Natts_log)
" UNION ALL SELECT 'The owner of its view may not read its log table.'"
" WHERE NOT has_table_privilege((SELECT relowner FROM pg_class WHERE oid = view), root, 'SELECT')"
" UNION ALL SELECT 'Its view reads the log with the rights of its readers.'"
" WHERE EXISTS (SELECT FROM pg_class c, pg_options_to_table(c.reloptions) WHERE c.oid = view"
" AND option_name = 'security_invoker' AND option_value::bool)"
" UNION ALL SELECT 'Its view lacks a trigger.'"
" WHERE view IS NOT NULL AND (SELECT count(*) FROM pg_trigger WHERE tgrelid = view"
" AND tgfoid IN ('topics.insert_record'::regproc, 'topics.append_only'::regproc)) < 3"
") p (problem)"
" UNION ALL SELECT topic_id, view, n, problem FROM topic"
" CROSS JOIN generate_series(0, partitions - 1) n CROSS JOIN LATERAL ("
"SELECT 'The partition has no log table.' WHERE root IS NOT NULL AND NOT EXISTS"
" (SELECT FROM pg_class c JOIN pg_inherits ON inhrelid = c.oid"
" WHERE relname = format('t%s_p%s', topic_id, n) AND inhparent = root)"
" UNION ALL SELECT 'The catalogue has no row for the partition.' WHERE NOT EXISTS"
" (SELECT FROM topic_log.partition p WHERE p.topic_id = topic.topic_id AND p.partition = n)"
") p (problem)"
" UNION ALL SELECT topic_id, view, partition, format('Log table \"%s\" is not attached.', relname)"
" FROM topic JOIN loose USING (topic_id) WHERE relkind = 'r' OR partition >= partitions"
" UNION ALL SELECT topic_id, view, substring(c.relname FROM '_p([0-9]{1,9})_s')::int4,"
" format(CASE relpersistence WHEN 'p' THEN"
" 'Log table \"%s\" does not use the access method \"topic_log\".'"
" ELSE 'Log table \"%s\" is not logged.' END, c.relname)"
" FROM topic JOIN pg_inherits i ON i.inhparent = root JOIN pg_inherits j ON j.inhparent = i.inhrelid"
" JOIN pg_class c ON c.oid = j.inhrelid"
" WHERE relpersistence <> 'p' OR relam <> (SELECT oid FROM pg_am WHERE amname = 'topic_log')"
" ORDER BY 1, 3 NULLS FIRST";

/*
 * Views that would be topics, on the logs of topics that have another view; all
 * of them, or the one with OID $1.
 */
static const char *const stray_views =
"SELECT substr(r.relname::text, 2)::int8, v.oid, t.view FROM pg_class v"
" JOIN pg_rewrite w ON w.ev_class = v.oid"
" JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid"
" AND d.refclassid = 'pg_class'::regclass"
" JOIN pg_class r ON r.oid = d.refobjid AND r.relkind = 'p' AND r.relname ~ '^t[0-9]{1,18}$'"
" AND r.relnamespace = 'topic_log'::regnamespace"
" JOIN topic_log.topic t ON t.topic_id = substr(r.relname::text, 2)::int8 AND t.view <> v.oid"
" WHERE v.relkind = 'v' AND v.relnamespace = 'topic'::regnamespace AND ($1 IS NULL OR v.oid::int8 = $1)"
" AND EXISTS (SELECT FROM pg_trigger WHERE tgrelid = v.oid AND tgfoid = 'topics.insert_record'::regproc)"
" AND EXISTS (SELECT FROM pg_class WHERE oid = t.view)"
" GROUP BY 1, 2, 3 ORDER BY 1, 2";

/* ----------------------------------------------------------------
 *		The catalogue
 * ----------------------------------------------------------------
 */

/*
 * Note a problem, and how it is mended where that is not as usual, in the
 * memory context of the caller that collects.
 */
static List *
add_problem(List *problems, MemoryContext cxt, int64 topic_id, Oid view_relid, int32 partition,
			const char *text, const char *hint)
{
	MemoryContext old = MemoryContextSwitchTo(cxt);
	BrokenPart *part = palloc(sizeof(BrokenPart));

	part->topic_id = topic_id;
	part->view_relid = view_relid;
	part->partition = partition;
	part->problem = pstrdup(text);
	part->hint = hint ? pstrdup(hint) : NULL;
	problems = lappend(problems, part);
	MemoryContextSwitchTo(old);
	return problems;
}

/*
 * Run a query whose $1 is a topic's id, or NULL: within a statement's scope.
 * Unless it is "read_only", it sees what was done in the scope.
 */
static void
query_topics(const char *sql, int64 topic_id, bool read_only)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(topic_id)};
	char		nulls[] = {topic_id == ALL_TOPICS ? 'n' : ' '};

	/* PostgreSQL thinks that there are millions of topics */
	topics_settings_override("jit", "off");
	if (SPI_execute_with_args(sql, lengthof(types), types, values, nulls, read_only,
							  0) != SPI_OK_SELECT)
		elog(ERROR, "could not look for topics");
}

static int64
get_result(uint64 row, int column, int64 missing)
{
	bool		isnull;
	Datum		datum = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &isnull);

	if (isnull)
		return missing;
	switch (SPI_gettypeid(SPI_tuptable->tupdesc, column))
	{
		case INT8OID:
			return DatumGetInt64(datum);
		case INT4OID:
			return DatumGetInt32(datum);
		case BOOLOID:
			return DatumGetBool(datum);
		default:
			return DatumGetObjectId(datum);
	}
}

static List *
collect_catalog_problems(int64 topic_id)
{
	MemoryContext cxt = CurrentMemoryContext;
	StatementScope scope = topics_statement_begin();
	List	   *result = NIL;

	query_topics(catalog_problems, topic_id, true);
	for (uint64 i = 0; i < SPI_processed; i++)
		result = add_problem(result, cxt, get_result(i, 1, 0), get_result(i, 2, InvalidOid),
							 get_result(i, 3, WHOLE_TOPIC),
							 SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 4), NULL);
	topics_statement_end(scope);
	return result;
}

/* Add views that read the log of another topic, all or the one of this OID. */
static List *
add_stray_views(List *problems, Oid view_relid)
{
	MemoryContext cxt = CurrentMemoryContext;
	StatementScope scope = topics_statement_begin();

	query_topics(stray_views, OidIsValid(view_relid) ? (int64) view_relid : ALL_TOPICS, true);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Oid			view = get_result(i, 2, InvalidOid);
		char	   *view_name = get_rel_name(view);
		char	   *name = get_rel_name(get_result(i, 3, InvalidOid));

		/* whom another drops meanwhile is no problem any more */
		if (view_name == NULL)
			continue;
		problems = add_problem(problems, cxt, get_result(i, 1, 0), view, WHOLE_TOPIC,
							   psprintf("Its view reads the log of topic \"%s\".", name ? name : "?"),
							   psprintf("DROP VIEW %s removes it.",
										quote_qualified_identifier(TOPIC_SCHEMA, view_name)));
	}
	topics_statement_end(scope);
	return problems;
}

/*
 * Find what there is of a topic, by its id, or by its view's OID if topic_id is
 * ALL_TOPICS.  Return false if there is nothing.
 */
bool
topics_broken_topic_find(int64 topic_id, Oid view_relid, TopicParts *parts)
{
	StatementScope scope = topics_statement_begin();
	bool		found = false;

	query_topics(ANY_TOPIC " SELECT topic_id, root, view, partitions, has_row,"
				 " (SELECT max(substring(relname FROM '_p([0-9]+)')::int4) FROM pg_class"
				 " WHERE relnamespace = 'topic_log'::regnamespace AND relkind IN ('p', 'r')"
				 " AND (relkind = 'p' AND relispartition OR NOT has_row) AND relname ~ ('^t' || topic_id || '_p[0-9]{1,5}(_s[0-9]{1,18})?$')) FROM topic",
				 topic_id, true);
	for (uint64 i = 0; i < SPI_processed && !found; i++)
	{
		parts->topic_id = get_result(i, 1, 0);
		parts->root_relid = get_result(i, 2, InvalidOid);
		parts->view_relid = get_result(i, 3, InvalidOid);
		parts->has_row = get_result(i, 5, false);
		parts->partitions = topics_max(get_result(i, 4, 1), get_result(i, 6, -1) + 1);
		found = topic_id != ALL_TOPICS || parts->view_relid == view_relid;
	}
	topics_statement_end(scope);
	return found;
}

/*
 * List the tables of a topic that are attached to nothing, by partition:
 * LooseTables, palloc'd.  Within a statement's scope.
 */
List *
topics_broken_topic_loose_tables(int64 topic_id)
{
	List	   *result = NIL;

	query_topics("SELECT relname, partition, relkind = 'r' FROM (" LOOSE_TABLES
				 ") loose WHERE topic_id = $1 ORDER BY 2, relname", topic_id, false);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		LooseTable *table = palloc(sizeof(LooseTable));

		table->name = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);
		table->partition = get_result(i, 2, WHOLE_TOPIC);
		table->is_segment = get_result(i, 3, false);
		result = lappend(result, table);
	}
	return result;
}

/* ----------------------------------------------------------------
 *		The logs
 * ----------------------------------------------------------------
 */

static char *
describe_missing(int64 from, int64 upto)
{
	return psprintf("Records are missing from offset " INT64_FORMAT " to " INT64_FORMAT ".",
					from, upto - 1);
}

/*
 * Find records that the log must have, and has not, where that shows at the
 * ends of segments.  Return what to say of it, or NULL.
 */
static char *
describe_log(const Partition *partition)
{
	PartitionRow row;
	int			count;
	Segment    *segments;
	Snapshot	snapshot;
	char	   *result = NULL;
	int64		next;
	int64		end;

	if (!topics_log_start_read_row(&partition->state->id, NULL, &row))
		return NULL;			/* told of already */
	/* in this order: the snapshot sees what is below the end */
	end = topics_log_next_offset(partition);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	next = Max(row.log_start_offset, row.gaps_below);
	segments = topics_segment_list(partition->rel, &count);
	for (int i = 0; i < count && next < end && result == NULL; i++)
	{
		int64		upto = Min(segments[i].end_offset, end);
		int64		found;

		if (upto <= next)
			continue;
		found = topics_log_find_first(partition->rel, next, end, snapshot);
		if (found != next)
			result = describe_missing(next, found);
		else if (topics_log_find_first(partition->rel, upto - 1, upto, snapshot) == upto)
			result = psprintf("Records are missing before offset " INT64_FORMAT ".", upto);
		next = upto;
	}
	if (result == NULL && next < end)
		result = describe_missing(next, end);
	UnregisterSnapshot(snapshot);
	pfree(segments);
	return result;
}

/* What the look at a partition's log is called with, and finds. */
typedef struct LogProblem
{
	Topic	   *topic;
	int32		number;
	char	   *problem;		/* or NULL */
} LogProblem;

/* Find what a partition's log lacks, if anything. */
static void
find_log_problem(void *arg)
{
	LogProblem *found = arg;
	Partition	partition = {.topic = found->topic,.number = found->number};

	if (!topics_catalog_try_open_partition(&partition, AccessShareLock))
		return;
	topics_segment_learn(&partition);
	found->problem = describe_log(&partition);
	topics_catalog_close_partition(&partition, AccessShareLock);
}

/*
 * Add it.  An error, as of a file that is not there, is a problem of this
 * partition and not one of all.
 */
static List *
try_log_problem(List *problems, Topic *topic, int32 number)
{
	LogProblem	found = {.topic = topic,.number = number};
	const int64 topic_id = topic->topic_id;
	const Oid	view_relid = topic->view_relid;
	ErrorData  *error = topics_subtransaction_try(find_log_problem, &found);

	if (error && topics_subtransaction_must_raise(error))
		ReThrowError(error);
	if (error)
		found.problem = psprintf("It cannot be read: %s.", error->message);
	if (found.problem)
		problems = add_problem(problems, CurrentMemoryContext, topic_id, view_relid, number,
							   found.problem, error ?
							   "Restore the file, or have its log table dropped with allow_system_table_mods and call topics.repair_topic()." :
							   NULL);
	return problems;
}

/*
 * Add topics that were dropped, of which a dump had tables that were still to
 * go (dropped_topic.c): the worker leaves them alone.
 */
static List *
add_restored_tables(List *problems)
{
	MemoryContext cxt = CurrentMemoryContext;
	StatementScope scope = topics_statement_begin();

	if (SPI_execute("SELECT topic_id FROM topic_log.dropped_topic d JOIN pg_class c"
					" ON relname = 't' || topic_id AND relnamespace = 'topic_log'::regnamespace"
					" WHERE c.oid <> d.root ORDER BY 1", true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not look for dropped topics");
	for (uint64 i = 0; i < SPI_processed; i++)
		problems = add_problem(problems, cxt, get_result(i, 1, 0), InvalidOid, WHOLE_TOPIC,
							   "It was dropped before the dump, which had its log tables nevertheless.",
							   "CALL topics.maintain() drops them, by a superuser or a member of topics_admin.");
	topics_statement_end(scope);
	return problems;
}

/*
 * List what topics lack, all of them or one: BrokenParts, in the current
 * memory context.
 */
List *
topics_broken_topic_list(int64 topic_id)
{
	List	   *result = collect_catalog_problems(topic_id);
	ListCell   *lc;

	if (topic_id == ALL_TOPICS)
		result = add_restored_tables(add_stray_views(result, InvalidOid));
	foreach(lc, topics_catalog_list())
	{
		Topic	   *topic = topics_catalog_get(lfirst_oid(lc), true);

		if (topic == NULL || (topic_id != ALL_TOPICS && topic->topic_id != topic_id))
			continue;
		for (int32 number = 0; number < topic->partitions; number++)
		{
			CHECK_FOR_INTERRUPTS();
			result = try_log_problem(result, topic, number);
		}
	}
	return result;
}

/* ----------------------------------------------------------------
 *		The one error
 * ----------------------------------------------------------------
 */

/* Raise it, for the first problem, if there is any. */
static void
report_first(const char *name, List *problems)
{
	BrokenPart *part;

	if (problems == NIL)
		return;
	part = linitial(problems);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("topic \"%s\" is not complete", name),
			 part->partition == WHOLE_TOPIC ? errdetail("%s", part->problem) :
			 errdetail("Partition %d: %s", part->partition, part->problem),
			 part->hint ? errhint("%s", part->hint) :
			 errhint("See topics.broken_topic, and call topics.repair_topic() or topics.drop_topic()."
					 " While a dump is restored, wait for its end; restore its data with --disable-triggers.")));
}

/* Raise it if a topic lacks anything. */
void
topics_broken_topic_report(const char *name, int64 topic_id)
{
	List	   *problems;

	PushActiveSnapshot(GetLatestSnapshot());
	problems = topics_broken_topic_list(topic_id);
	PopActiveSnapshot();
	report_first(name, problems);
}

/* The same by the topic's name, of which there may be no row. */
void
topics_broken_topic_report_view(const char *name)
{
	Oid			view_relid = get_relname_relid(name, get_namespace_oid(TOPIC_SCHEMA, false));
	TopicParts	parts;
	bool		found;
	List	   *strays = NIL;

	if (!OidIsValid(view_relid) || get_rel_relkind(view_relid) != RELKIND_VIEW)
		return;
	PushActiveSnapshot(GetLatestSnapshot());
	found = topics_broken_topic_find(ALL_TOPICS, view_relid, &parts);
	if (!found)
		strays = add_stray_views(NIL, view_relid);
	PopActiveSnapshot();
	if (found)
		topics_broken_topic_report(name, parts.topic_id);
	report_first(name, strays);
}

/* Return true if there is a relation, whatever the caches say. */
static bool
is_committed(Oid relid)
{
	Relation	rel = table_open(RelationRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	bool		result;

	ScanKeyInit(&key, Anum_pg_class_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(rel, ClassOidIndexId, true, SnapshotSelf, 1, &key);
	result = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * Raise it, or another error, if what has the name of a topic is none.  Who has
 * just dropped a topic may not have told the caches yet: then there is nothing.
 */
void
topics_broken_topic_report_other(const char *name)
{
	Oid			namespace = get_namespace_oid(TOPIC_SCHEMA, true);
	Oid			relid = OidIsValid(namespace) ? get_relname_relid(name, namespace) : InvalidOid;

	if (!OidIsValid(relid) || topics_catalog_get(relid, true) != NULL)
		return;
	topics_broken_topic_report_view(name);
	if (is_committed(relid))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("relation \"%s\" in schema \"%s\" is not a topic", name, TOPIC_SCHEMA)));
}

/*
 * Raise it if the end of a partition's log is not known, and cannot be.  The
 * caller has the partition's table open.
 */
void
topics_broken_topic_check(const Partition *partition)
{
	if (!topics_log_is_complete(partition))
		topics_broken_topic_report(NameStr(partition->topic->name), partition->topic->topic_id);
}
