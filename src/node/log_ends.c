/*-------------------------------------------------------------------------
 *
 * log_ends.c
 *		Where all logs of a leader set end here, as one value that goes to other nodes.
 *
 * It is jsonb, an object with a field for each topic, by its id: an array with
 * the log end of each partition, or null where that cannot be known, or is of
 * another set.  What it does not have was not there.  An epoch's record has
 * the ends at which it began (metadata.c), and a candidate says by its own
 * what it has (promise.c).
 *
 * A FOLLOWER'S ENDS are those of the last cut of the leader's that it has as a
 * whole.  One that takes several transactions is noted before, partition by
 * partition, in topic_log.unfinished_cut, in the transactions that append; so
 * a leader that begins where its last whole cut ended shows of each
 * transaction all records or none.
 *
 * WHAT A FOLLOWER LACKS.  One that comes into a leader's term has all that
 * there was when it began, but for partitions that are stopped here: these are
 * noted in topic_log.lacking, and until it has them it does not lead.  So are
 * partitions without which later cuts go on, since they are stopped here, or
 * locked at the leader: it may have a part of what was committed at once.
 *
 * WHO WAITS FOR A LOG'S END.  After a server's start an end is looked up in
 * its log, which waits for who has the topic locked; who drops one then waits
 * for the node's row.  So an end that is to be read under the row's lock is
 * learned before that is taken (topics_membership_lock_to_write,
 * topics_membership_lock_for_ends).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "node/node.h"

static int64
get_int(uint64 row, int column)
{
	bool		isnull;

	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &isnull));
}

/*
 * Run a query as the extension's owner, with a text parameter for each value.
 */
static StatementScope
begin_query(const char *sql, const char *const *texts, int ntexts, bool reads_only)
{
	Oid			types[] = {TEXTOID, TEXTOID, TEXTOID};
	Datum		values[lengthof(types)];
	char		nulls[lengthof(types)];
	StatementScope scope;

	Assert(ntexts <= (int) lengthof(types));
	for (int i = 0; i < ntexts; i++)
	{
		nulls[i] = texts[i] ? ' ' : 'n';
		values[i] = texts[i] ? CStringGetTextDatum(texts[i]) : (Datum) 0;
	}
	PushActiveSnapshot(GetLatestSnapshot());
	scope = topics_statement_begin();
	(void) topics_read_cut_show_all(true);
	if (SPI_execute_with_args(sql, ntexts, types, values, nulls, reads_only, 0) < 0)
		elog(ERROR, "could not look at the ends of logs");
	(void) topics_read_cut_show_all(false);
	return scope;
}

static void
end_query(StatementScope scope)
{
	topics_statement_end(scope);
	PopActiveSnapshot();
}

/* Run a statement that changes something. */
static void
execute(const char *sql, const char *const *texts, int ntexts)
{
	end_query(begin_query(sql, texts, ntexts, false));
}

/*
 * List what a query gives: topic, partition, end, and whether the topic is
 * absent (0, 1), all int8.  LogEnds, palloc'd.
 */
static List *
list_ends(const char *sql, const char *const *texts, int ntexts)
{
	MemoryContext cxt = CurrentMemoryContext;
	StatementScope scope = begin_query(sql, texts, ntexts, true);
	List	   *result = NIL;
	MemoryContext old = MemoryContextSwitchTo(cxt);

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		LogEnd	   *end = palloc(sizeof(LogEnd));

		end->topic_id = get_int(i, 1);
		end->partition = (int32) get_int(i, 2);
		end->log_end = get_int(i, 3);
		end->is_absent = get_int(i, 4) != 0;
		result = lappend(result, end);
	}
	MemoryContextSwitchTo(old);
	end_query(scope);
	return result;
}

/* List the ends of logs of which a part of a cut is here. */
static List *
read_unfinished(void)
{
	return list_ends("SELECT topic_id, partition::int8, log_end, 0::int8 FROM topic_log.unfinished_cut WHERE leader_set = topic_log.leader_set()", NULL, 0);
}

/*
 * Get the end of a partition's log, or UNKNOWN_OFFSET if it cannot be read, or
 * has been dropped.
 */
static int64
get_end(Topic *topic, int32 number, const List *unfinished)
{
	Partition	partition = {.topic = topic,.number = number};
	PartitionState *state = topics_catalog_try_partition_state(topic, number);
	int64		end;
	ListCell   *lc;

	if (state == NULL)
		return UNKNOWN_OFFSET;
	end = pg_atomic_read_u64(&state->next_offset);

	/*
	 * under the row's lock only of a log that lacks records, or that others
	 * have put aside since
	 */
	if (end == UNKNOWN_OFFSET)
	{
		if (!topics_catalog_try_open_partition(&partition, AccessShareLock))
			return UNKNOWN_OFFSET;
		end = topics_log_next_offset(&partition);
		topics_catalog_close_partition(&partition, AccessShareLock);
	}
	foreach(lc, unfinished)
	{
		const LogEnd *found = lfirst(lc);

		if (found->topic_id == topic->topic_id && found->partition == number)
			end = topics_min(end, found->log_end);
	}
	return end;
}

/* Return true if any partition of a topic is of the leader set. */
static bool
is_in_set(const Topic *topic)
{
	for (int32 number = 0; number < Min(topic->partitions, MAX_TOPIC_SETS); number++)
		if (topics_leader_set_of(&topic->leader_sets, number) == topics_leader_set)
			return true;
	return false;
}

/*
 * Append topics that the metadata have, and that could not be had here: with
 * no partition.
 */
static void
append_missing(StringInfo text)
{
	MemoryContext cxt = text->data ? GetMemoryChunkContext(text->data) : CurrentMemoryContext;
	StatementScope scope = begin_query("SELECT substr(key, 7) FROM (SELECT DISTINCT ON (key) key, value FROM topic.\"" METADATA_TOPIC "\""
									   " WHERE partition = 0 AND key LIKE 'topic/%' ORDER BY key, \"offset\" DESC) latest"
									   " WHERE value IS NOT NULL AND substr(key, 7)::int8 NOT IN (SELECT topic_id FROM topic_log.topic)",
									   NULL, 0, true);
	MemoryContext old = MemoryContextSwitchTo(cxt);

	for (uint64 i = 0; i < SPI_processed; i++)
		appendStringInfo(text, "%s\"%s\": []", text->len > 1 ? ", " : "",
						 SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1));
	MemoryContextSwitchTo(old);
	end_query(scope);
}

/*
 * Have shared memory know where the logs of the leader set, or of all sets,
 * end; wait for who has one locked.
 */
void
topics_log_ends_learn(bool all_sets)
{
	ListCell   *lc;

	foreach(lc, topics_catalog_list())
	{
		Topic	   *topic = topics_catalog_get(lfirst_oid(lc), true);

		for (int32 number = 0; topic && number < topic->partitions; number++)
		{
			CHECK_FOR_INTERRUPTS();
			if (all_sets || topics_leader_set_of(&topic->leader_sets, number) == topics_leader_set)
				(void) get_end(topic, number, NIL);
		}
	}
}

static char *
make_ends(const List *unfinished)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	appendStringInfoChar(&text, '{');
	foreach(lc, topics_catalog_list())
	{
		Topic	   *topic = topics_catalog_get(lfirst_oid(lc), true);

		if (topic == NULL || !is_in_set(topic))
			continue;
		appendStringInfo(&text, "%s\"" INT64_FORMAT "\": [", text.len > 1 ? ", " : "", topic->topic_id);
		for (int32 number = 0; number < topic->partitions; number++)
		{
			int64		end = topics_leader_set_of(&topic->leader_sets, number) != topics_leader_set ?
				UNKNOWN_OFFSET : get_end(topic, number, unfinished);

			CHECK_FOR_INTERRUPTS();
			appendStringInfoString(&text, number > 0 ? ", " : "");
			if (end == UNKNOWN_OFFSET)
				appendStringInfoString(&text, "null");
			else
				appendStringInfo(&text, INT64_FORMAT, end);
		}
		appendStringInfoChar(&text, ']');
	}
	append_missing(&text);
	appendStringInfoChar(&text, '}');
	return text.data;
}

/*
 * Get the ends of all logs at the last whole cut, as jsonb in text form,
 * palloc'd.
 */
char *
topics_log_ends_get(void)
{
	return make_ends(read_unfinished());
}

/* The same, of all that there is. */
char *
topics_log_ends_get_all(void)
{
	return make_ends(NIL);
}

/* The rows of such a value, which is a parameter. */
#define ENDS_OF(parameter) \
	"(SELECT t.key::int8 AS topic_id, p.number - 1 AS partition, (p.value #>> '{}')::int8 AS log_end, p.value = 'null' AS is_null" \
	" FROM jsonb_each(" parameter "::jsonb) t, jsonb_array_elements(t.value) WITH ORDINALITY p (value, number))"

/*
 * The ends of both nodes, by partition, as "here" and "there"; a partition
 * that one of them does not have ends at 0 there.
 */
#define COMPARED \
	"(SELECT topic_id, partition, coalesce(here.log_end, 0) AS here, coalesce(there.log_end, 0) AS there," \
	" here.is_null OR there.is_null AS is_unknown, NOT $2::jsonb ? topic_id::text AS is_absent FROM " \
	ENDS_OF("$1") " here FULL JOIN " ENDS_OF("$2") " there USING (topic_id, partition))"

/*
 * Find a partition whose log is longer "here" than "there".  Return its
 * description, palloc'd, or NULL if there is none.  A topic that is not there
 * at all was dropped, by the metadata, which are compared as well; of another
 * set than the first they are not, and it may not have been heard of there.
 */
char *
topics_log_ends_find_longer(const char *here, const char *there)
{
	const char *texts[] = {here, there};
	MemoryContext cxt = CurrentMemoryContext;
	StatementScope scope;
	char	   *result = NULL;

	if (strcmp(here, there) == 0)
		return NULL;
	scope = begin_query("SELECT topic_id, partition, here, there FROM " COMPARED " c"
						" WHERE here > there AND is_unknown IS NOT true AND (NOT is_absent OR topic_log.leader_set() <> 0) ORDER BY 1, 2 LIMIT 1",
						texts, lengthof(texts), true);
	if (SPI_processed > 0)
	{
		int64		topic_id = get_int(0, 1);
		int64		partition = get_int(0, 2);
		int64		end = get_int(0, 3);
		int64		other = get_int(0, 4);
		MemoryContext old = MemoryContextSwitchTo(cxt);
		char	   *name = topics_catalog_describe(topic_id, (int32) partition);

		result = psprintf("%s: its log ends at offset " INT64_FORMAT ", and not at offset " INT64_FORMAT,
						  name ? name : "a topic that was dropped", end, other);
		MemoryContextSwitchTo(old);
	}
	end_query(scope);
	return result;
}

/* List what "longer" has beyond "ends": LogEnds, palloc'd. */
List *
topics_log_ends_list_longer(const char *longer, const char *ends)
{
	const char *texts[] = {longer, ends};

	return list_ends("SELECT topic_id, partition, there, is_absent::int::int8 FROM " COMPARED " c"
					 " WHERE here > there AND is_unknown IS NOT true ORDER BY 1, 2", texts, lengthof(texts));
}

/* List all ends that are known. */
List *
topics_log_ends_list(const char *ends)
{
	return list_ends("SELECT topic_id, partition, log_end, 0::int8 FROM " ENDS_OF("$1") " e WHERE NOT is_null",
					 &ends, 1);
}

/* ----------------------------------------------------------------
 *		Cuts that are not finished
 * ----------------------------------------------------------------
 */

/*
 * A transaction appends to a log what is only a part of the leader's cut: note
 * where it ended before, unless that was noted since the last whole cut.
 */
void
topics_log_ends_note_unfinished(int64 topic_id, int32 partition, int64 log_end)
{
	execute(psprintf("INSERT INTO topic_log.unfinished_cut VALUES (" INT64_FORMAT ", %d, " INT64_FORMAT
					 ", %d) ON CONFLICT DO NOTHING", topic_id, partition, log_end, topics_leader_set), NULL, 0);
}

/* The cut is here as a whole, with this transaction. */
void
topics_log_ends_note_finished(void)
{
	execute("DELETE FROM topic_log.unfinished_cut WHERE leader_set = topic_log.leader_set()", NULL, 0);
}

/* Return true if a part of a cut is here. */
bool
topics_log_ends_are_unfinished(void)
{
	return read_unfinished() != NIL;
}

/* ----------------------------------------------------------------
 *		What is lacking
 * ----------------------------------------------------------------
 */

/*
 * This follower comes into a term that began with these ends: note what it
 * lacks.
 */
void
topics_log_ends_note_lacking(const char *began_with)
{
	char	   *here = topics_log_ends_get();
	const char *texts[] = {began_with, here};

	execute("INSERT INTO topic_log.lacking SELECT topic_id, partition, here, false, topic_log.leader_set(), false FROM " COMPARED " c"
			" WHERE here > there AND EXISTS (SELECT FROM topic.\"" METADATA_TOPIC "\" m"
			" WHERE m.key = 'topic/' || topic_id OR topic_id = (SELECT t.topic_id FROM topic_log.topic t"
			" WHERE t.view = 'topic.\"" METADATA_TOPIC "\"'::regclass))"
			" ON CONFLICT (topic_id, partition, is_stopped) DO UPDATE SET log_end = GREATEST(lacking.log_end, EXCLUDED.log_end)",
			texts, lengthof(texts));
}

/*
 * A topic is dropped here, and so many of its partitions are read anew from
 * the leader: note where their logs end, since this node has confirmed what
 * they have.
 */
void
topics_log_ends_note_anew(Topic *topic, int32 partitions)
{
	for (int32 number = 0; number < partitions; number++)
	{
		int64		end = get_end(topic, number, NIL);

		if (end != UNKNOWN_OFFSET && end > 0)
			execute(psprintf("INSERT INTO topic_log.lacking VALUES (" INT64_FORMAT ", %d, " INT64_FORMAT ", true, 0, false)"
							 " ON CONFLICT (topic_id, partition, is_stopped) DO UPDATE SET is_anew = true,"
							 " log_end = GREATEST(lacking.log_end, EXCLUDED.log_end)",
							 topic->topic_id, number, end), NULL, 0);
	}
}

/*
 * The cut that is here as a whole with this transaction, and those that
 * follow, are without what the leader has more of some partitions (LogEnd,
 * whose ends are not known), and of no others.
 */
void
topics_log_ends_note_stopped(const List *stopped)
{
	StringInfoData list;
	ListCell   *lc;

	initStringInfo(&list);
	foreach(lc, stopped)
	{
		const LogEnd *end = lfirst(lc);

		appendStringInfo(&list, "%s(" INT64_FORMAT "::int8, %d)", list.len > 0 ? ", " : "", end->topic_id, end->partition);
	}
	execute(psprintf("DELETE FROM topic_log.lacking WHERE is_stopped AND leader_set = topic_log.leader_set()%s",
					 stopped ? psprintf(" AND (topic_id, partition) NOT IN (VALUES %s)", list.data) : ""), NULL, 0);
	if (stopped)
		execute(psprintf("INSERT INTO topic_log.lacking SELECT v.*, " INT64_FORMAT ", false, %d, true"
						 " FROM (VALUES %s) v ON CONFLICT DO NOTHING", PG_INT64_MAX, topics_leader_set, list.data), NULL, 0);
}

/*
 * Return true if anything is noted as lacking, or, with "anew", as read anew.
 */
static bool
is_noted(bool anew)
{
	StatementScope scope = begin_query(anew ? "SELECT FROM topic_log.lacking WHERE is_anew AND leader_set = topic_log.leader_set() LIMIT 1" :
									   "SELECT FROM topic_log.lacking WHERE leader_set = topic_log.leader_set() LIMIT 1", NULL, 0, true);
	bool		result = SPI_processed > 0;

	end_query(scope);
	return result;
}

/*
 * Forget what is not lacking any more: it is here, or its topic is gone.  That
 * the metadata here say nothing of a topic means that it is gone where a
 * term's beginning was compared with them; of what was left out since, they
 * may just not have heard.  They say nothing of their own topic.
 *
 * Return true if anything is: this node cannot lead without a loss; with
 * "anew" only if it is read anew: then it cannot vote either.
 */
bool
topics_log_ends_are_lacking(bool anew)
{
	const char *texts[] = {NULL, "{}"};

	/* mostly there is nothing to look for */
	if (!is_noted(anew))
		return false;
	texts[0] = topics_log_ends_get();
	execute("DELETE FROM topic_log.lacking l WHERE leader_set = topic_log.leader_set() AND (log_end <= coalesce((SELECT here FROM " COMPARED " c"
			" WHERE c.topic_id = l.topic_id AND c.partition = l.partition), 0)"
			" OR (SELECT CASE WHEN m.value IS NOT NULL THEN false WHEN m.key IS NOT NULL THEN true"
			" ELSE NOT is_stopped AND NOT EXISTS (SELECT FROM topic_log.topic t"
			" WHERE t.topic_id = l.topic_id AND t.view = 'topic.\"" METADATA_TOPIC "\"'::regclass) END"
			" FROM (SELECT) one LEFT JOIN (SELECT key, value FROM topic.\"" METADATA_TOPIC "\""
			" WHERE partition = 0 AND key = 'topic/' || l.topic_id ORDER BY \"offset\" DESC LIMIT 1) m ON true))",
			texts, lengthof(texts));
	return is_noted(anew);
}
