/*-------------------------------------------------------------------------
 *
 * metadata.c
 *		The internal topic __cluster_metadata: what a cluster's nodes agree on.
 *
 * As in Kafka, metadata are records: JSON, with a key for each thing, of which
 * the latest record counts and a record without a value says that it is gone.
 *
 *	cluster			who leads, how many followers a commit waits for, and the feature level
 *	epoch/<number>	an epoch: its id and term, where in the leader's WAL the start of the
 *					server began which has begun it, and where all logs ended then
 *	node/<name>		a node: its number, conninfo, advertised_conninfo, the incarnation, the
 *					feature level that it has, and whether it counts as a copy
 *	topic/<id>		a topic: all that the view topic_log.topic_description says
 *	set/<number>	a leader set: the node that is to lead it, and what it began with
 *
 * LEADER SETS.  The topic has a partition for each leader set, whose leader
 * writes it.  What a set is voted by is in its own: who leads, its epochs, how
 * many followers a commit to it waits for, and which nodes count.  So each set
 * is for itself what a cluster of one set is, and what is said there of
 * elections, and of changes of nodes, goes for each.  Topics, sets, and which
 * nodes there are, are in the first; the leader of another set has the nodes
 * there as they are in the first (mirror_nodes, leader_set.c).
 *
 * The leader's catalogue is the truth of its topics, and the records follow
 * it: a transaction that may have changed what is described compares the two
 * before it commits, and produces the records of what differs, so that they
 * are there if and only if the change is.  On a follower the records are the
 * truth, and the catalogue follows: topics_metadata_apply_topics compares the
 * same two, and changes the catalogue.  So nothing has to be remembered of
 * what was done: what was missed, or failed, is a difference that the next
 * comparison finds.
 *
 * A topic has the same id on all nodes, and the same notify_key, which is
 * drawn when it is created: where the keys of one id differ, they are two
 * topics.  Roles are of each server.  A follower does not wait for a role: a
 * topic whose owner it does not have belongs to the extension's owner, and a
 * grant to such a role is left out, until the role is there.
 *
 * Tombstones of the metadata stay for good: who was away for however long hears
 * of each topic that is gone.
 *
 * conninfos may have passwords.  Nobody but superusers may read this topic, but
 * those who may read everything.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/tablecmds.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/fmgrprotos.h"
#include "utils/pg_lsn.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "topic/topic.h"
#include "node/node.h"

#define TERM_STRIDE 64			/* numbers are given again after so many nodes
								 * have joined */

#define OWN_SET "topic_log.leader_set()"

/* The latest record of each key that begins with "prefix/", of a leader set. */
#define LATEST_CLUSTER \
	"SELECT value FROM topic.\"" METADATA_TOPIC "\" WHERE partition = " OWN_SET " AND key = 'cluster' ORDER BY \"offset\" DESC LIMIT 1"
#define LATEST_OF(set, prefix) \
	"SELECT DISTINCT ON (key) key, value FROM topic.\"" METADATA_TOPIC "\"" \
	" WHERE partition = " set " AND key LIKE '" prefix "/%' ORDER BY key, \"offset\" DESC"
#define LATEST(prefix) LATEST_OF(OWN_SET, prefix)
#define LATEST_TOPICS LATEST_OF("0", "topic")
#define LATEST_SETS LATEST_OF("0", "set")

/*
 * The nodes of the leader set that this process acts for.  A set that nobody
 * has led yet begins with those that counted when it was made.  Where they are
 * says the first set: who leads another one may be where nobody finds it any
 * more.
 */
#define NODES \
	"SELECT own.key, CASE WHEN own.value ->> 'incarnation' = f.value ->> 'incarnation' THEN own.value" \
	" || jsonb_build_object('conninfo', f.value -> 'conninfo', 'advertised_conninfo', f.value -> 'advertised_conninfo')" \
	" ELSE own.value END AS value FROM (" LATEST("node") ") own LEFT JOIN (" LATEST_OF("0", "node") ") f USING (key)" \
	" UNION ALL SELECT n.key, n.value || jsonb_build_object('counts'," \
	" coalesce((s.value -> 'nodes' ->> substr(n.key, 6)) = (n.value ->> 'incarnation'), false))" \
	" FROM (" LATEST_OF("0", "node") ") n, (" LATEST_SETS ") s" \
	" WHERE s.key = 'set/' || " OWN_SET " AND n.value IS NOT NULL AND NOT EXISTS" \
	" (SELECT FROM topic.\"" METADATA_TOPIC "\" WHERE partition = " OWN_SET " AND key LIKE 'node/%')"

/* ----------------------------------------------------------------
 *		Records
 * ----------------------------------------------------------------
 */

/* The topic of the metadata. */
Topic *
topics_metadata_topic(void)
{
	return topics_catalog_lookup(METADATA_TOPIC, false);
}

/* Produce a record; without a value it says that the thing is gone. */
static void
put_record(const char *key, Jsonb *value)
{
	RecordDraft draft = {
		.partition = topics_leader_set,
		.create_time = GetCurrentTimestamp(),
		.key = CStringGetTextDatum(key),
		.value = value ? JsonbPGetDatum(value) : (Datum) 0,
		.value_isnull = value == NULL,
		.headers_isnull = true
	};

	(void) topics_append_buffer(topics_metadata_topic(), &draft);
}

/*
 * Return true if a record's key, text, says that it is about what a follower
 * has in its catalogue.
 */
bool
topics_metadata_is_of_topics(Datum key)
{
	char	   *name = TextDatumGetCString(key);

	return strncmp(name, "topic/", 6) == 0 || strncmp(name, "set/", 4) == 0;
}

/*
 * Run a query, as the extension's owner, that sees all that is committed,
 * whether followers have confirmed it or not.  Its result is there until
 * end_query.
 */
static StatementScope
begin_query(const char *sql, Oid *types, Datum *values, int nvalues)
{
	StatementScope scope = topics_statement_begin();

	PushActiveSnapshot(GetLatestSnapshot());
	(void) topics_read_cut_show_all(true);
	topics_settings_override("jit", "off");
	topics_settings_override("intervalstyle", "postgres");
	topics_settings_override("extra_float_digits", "1");
	if (SPI_execute_with_args(sql, nvalues, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the cluster's metadata");
	(void) topics_read_cut_show_all(false);
	return scope;
}

static void
end_query(StatementScope scope)
{
	PopActiveSnapshot();
	topics_statement_end(scope);
}

static char *
get_text(uint64 row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

static bool
is_true(const char *text)
{
	return text &&*text == 't';
}

/* ----------------------------------------------------------------
 *		Nodes
 * ----------------------------------------------------------------
 */

static char *
make_node_key(const char *node)
{
	return psprintf("node/%s", node);
}

/* Produce the record that a query gives. */
static void
put_query(const char *key, const char *sql, Oid *types, Datum *values, int nvalues)
{
	StatementScope scope = begin_query(sql, types, values, nvalues);
	bool		isnull;

	put_record(key, DatumGetJsonbPCopy(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
													 1, &isnull)));
	end_query(scope);
}

/*
 * Get a node's number.  A database that joins gets one that no other node has,
 * nor one that was removed, or replaced, until all numbers were given: such a
 * node may lead without hearing of that.  The cluster's record says how many
 * were given.
 */
static int32
get_node_number(const MetadataNode *node)
{
	Datum		values[] = {
		CStringGetTextDatum(make_node_key(node->name)), CStringGetTextDatum(node->incarnation), Int32GetDatum(TERM_STRIDE - 1)
	};
	Oid			types[] = {TEXTOID, TEXTOID, INT4OID};
	StatementScope scope;
	int64		given;
	int32		result;

	scope = begin_query("WITH known AS (" NODES ")"
						" SELECT (SELECT (value ->> 'number')::int FROM known WHERE key = $1 AND value ->> 'incarnation' = $2),"
						" (SELECT min(i) FROM topic_log.cluster, generate_series(numbers_given + 1, numbers_given + $3) i"
						" WHERE leader_set = 0 AND (i - 1) % $3 + 1 NOT IN (SELECT coalesce((value ->> 'number')::int, 0) FROM known WHERE value IS NOT NULL))",
						types, values, lengthof(values));
	result = get_text(0, 1) ? pg_strtoint32(get_text(0, 1)) : 0;
	given = pg_strtoint64(get_text(0, 2));
	end_query(scope);
	if (result != 0)
		return result;

	topics_membership_note_numbers(given);
	return (int32) ((given - 1) % (TERM_STRIDE - 1) + 1);
}

/* Say of a node all that there is to be said. */
void
topics_metadata_put_node(const MetadataNode *node)
{
	Datum		values[] = {
		CStringGetTextDatum(node->conninfo), CStringGetTextDatum(node->advertised),
		CStringGetTextDatum(node->incarnation), BoolGetDatum(node->counts),
		Int32GetDatum(node->feature_level),
		Int32GetDatum(node->number != 0 ? node->number : get_node_number(node))
	};
	Oid			types[] = {TEXTOID, TEXTOID, TEXTOID, BOOLOID, INT4OID, INT4OID};

	put_query(make_node_key(node->name),
			  "SELECT jsonb_build_object('conninfo', $1, 'advertised_conninfo', $2, 'incarnation', $3, 'counts', $4,"
			  " 'feature_level', $5, 'number', $6)", types, values, lengthof(values));
}

/*
 * Get the lowest term above one that a node may lead in.  Each node has terms
 * of its own, by its number: so no two nodes ever lead in the same term,
 * whoever has had them lead without a majority.
 */
int64
topics_metadata_next_term(const char *node, int64 above)
{
	Datum		values[] = {CStringGetTextDatum(make_node_key(node))};
	Oid			types[] = {TEXTOID};
	StatementScope scope = begin_query("SELECT coalesce(value ->> 'number', '0') FROM (" NODES ") latest"
									   " WHERE key = $1 AND value IS NOT NULL", types, values, lengthof(values));
	int64		number = SPI_processed > 0 ? pg_strtoint64(get_text(0, 1)) : 0;
	int64		result = above - above % TERM_STRIDE + number;

	end_query(scope);
	return result > above ? result : result + TERM_STRIDE;
}

/* Say of a node that it counts as a copy from now on. */
void
topics_metadata_count_node(const char *node)
{
	Datum		values[] = {CStringGetTextDatum(make_node_key(node))};
	Oid			types[] = {TEXTOID};

	put_query(make_node_key(node), "SELECT value || '{\"counts\": true}' FROM (" LATEST("node") ") latest"
			  " WHERE key = $1 AND value IS NOT NULL", types, values, lengthof(values));
}

/*
 * Say who leads, and how many followers a commit waits for.  By default that
 * is as the number of nodes wants it.  The first node that is said to lead is
 * the preferred one for good.
 */
void
topics_metadata_put_cluster(const char *leader, int acks_followers, bool is_default)
{
	Datum		values[] = {
		CStringGetTextDatum(leader), Int32GetDatum(acks_followers), BoolGetDatum(is_default)
	};
	Oid			types[] = {TEXTOID, INT4OID, BOOLOID};

	put_query("cluster", "SELECT jsonb_build_object('leader', $1, 'acks_followers', $2, 'is_default', $3,"
			  " 'preferred_leader', coalesce((" LATEST_CLUSTER ") ->> 'preferred_leader', $1),"
			  " 'feature_level', (SELECT feature_level FROM topic_log.cluster WHERE leader_set = " OWN_SET "),"
			  " 'numbers_given', (SELECT numbers_given FROM topic_log.cluster WHERE leader_set = " OWN_SET "))",
			  types, values, lengthof(values));
}

/* Get the node that is to lead if it can; palloc'd, or NULL. */
char *
topics_metadata_preferred_leader(void)
{
	MemoryContext cxt = CurrentMemoryContext;
	StatementScope scope = begin_query("SELECT CASE WHEN " OWN_SET " = 0 THEN (" LATEST_CLUSTER ") ->> 'preferred_leader'"
									   " ELSE (SELECT value ->> 'preferred_leader' FROM (" LATEST_SETS ") s WHERE key = 'set/' || " OWN_SET ") END",
									   NULL, NULL, 0);
	char	   *text = get_text(0, 1);
	char	   *result = text ? MemoryContextStrdup(cxt, text) : NULL;

	end_query(scope);
	return result;
}

/* ----------------------------------------------------------------
 *		Leader sets
 * ----------------------------------------------------------------
 */

/*
 * On the leader of the first set: say of another one, which is made, that a
 * node is to lead it, and "leads" from the beginning.  Return the record,
 * palloc'd.
 */
Datum
topics_metadata_put_set(int set, const char *leader, bool leads)
{
	MemoryContext cxt = CurrentMemoryContext;
	Datum		values[] = {CStringGetTextDatum(leader), BoolGetDatum(leads)};
	Oid			types[] = {TEXTOID, BOOLOID};
	StatementScope scope;
	MemoryContext old;
	Datum		result;
	bool		isnull;

	scope = begin_query("WITH known AS (" NODES ") SELECT jsonb_build_object('preferred_leader', $1, 'leader', CASE WHEN $2 THEN $1 END,"
						" 'incarnation', n.value -> 'incarnation', 'term', n.value -> 'number', 'nodes',"
						" (SELECT jsonb_object_agg(substr(key, 6), value ->> 'incarnation') FROM known WHERE (value ->> 'counts')::boolean),"
						" 'acks_followers', c.acks_followers)"
						" FROM known n, topic_log.cluster c WHERE c.leader_set = 0 AND n.key = 'node/' || $1",
						types, values, lengthof(values));
	if (SPI_processed != 1)
		elog(ERROR, "node \"%s\" is not in the metadata", leader);
	old = MemoryContextSwitchTo(cxt);
	result = JsonbPGetDatum(DatumGetJsonbPCopy(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)));
	MemoryContextSwitchTo(old);
	end_query(scope);
	put_record(psprintf("set/%d", set), DatumGetJsonbP(result));
	return result;
}

/* List the nodes that are to lead sets but the first: names, palloc'd. */
List *
topics_metadata_list_preferred_leaders(void)
{
	MemoryContext cxt = CurrentMemoryContext;
	StatementScope scope = begin_query("SELECT value ->> 'preferred_leader' FROM (" LATEST_SETS ") s", NULL, NULL, 0);
	List	   *result = NIL;
	MemoryContext old = MemoryContextSwitchTo(cxt);

	for (uint64 i = 0; i < SPI_processed; i++)
		result = lappend(result, get_text(i, 1));
	MemoryContextSwitchTo(old);
	end_query(scope);
	return result;
}

/*
 * List the records of leader sets of which this node has no row: a bit for
 * each, and the record.
 */
uint32
topics_metadata_list_new_sets(Datum records[MAX_LEADER_SETS])
{
	MemoryContext cxt = CurrentMemoryContext;
	StatementScope scope = begin_query("SELECT substr(key, 5)::int, value FROM (" LATEST_SETS ") s WHERE NOT EXISTS"
									   " (SELECT FROM topic_log.cluster WHERE leader_set = substr(key, 5)::int)", NULL, NULL, 0);
	uint32		result = 0;

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		int			set = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
		Datum		record = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &isnull);
		MemoryContext old;

		if (set < 0 || set >= MAX_LEADER_SETS)
			continue;
		old = MemoryContextSwitchTo(cxt);
		records[set] = JsonbPGetDatum(DatumGetJsonbPCopy(record));
		MemoryContextSwitchTo(old);
		result |= 1 << set;
	}
	end_query(scope);
	return result;
}

/* ----------------------------------------------------------------
 *		Epochs
 * ----------------------------------------------------------------
 */

/* The epochs, with what their records say. */
#define EPOCHS \
	"epoch AS (SELECT split_part(key, '/', 2)::int8 AS number, value ->> 'id' AS id," \
	" (value ->> 'term')::int8 AS term, (value ->> 'started_at')::pg_lsn AS started_at," \
	" value -> 'ends' AS ends, coalesce((value ->> 'data_loss')::boolean, false) AS data_loss" \
	" FROM (" LATEST("epoch") ") latest)"

/* Say that an epoch has begun, and where all logs ended then. */
void
topics_metadata_put_epoch(const MetadataEpoch *epoch)
{
	Datum		values[] = {
		CStringGetTextDatum(epoch->id), LSNGetDatum(epoch->started_at), Int64GetDatum(epoch->term),
		CStringGetTextDatum(epoch->ends), BoolGetDatum(epoch->data_loss)
	};
	Oid			types[] = {TEXTOID, PG_LSNOID, INT8OID, TEXTOID, BOOLOID};

	put_query(psprintf("epoch/" INT64_FORMAT, epoch->number),
			  "SELECT jsonb_strip_nulls(jsonb_build_object('id', $1, 'started_at', $2, 'term', $3,"
			  " 'data_loss', nullif($5, false))) || jsonb_build_object('ends', $4::jsonb)",
			  types, values, lengthof(values));
}

/*
 * Find an epoch by its id.  *ended_at is set to where the server's next start
 * in the same term was, or to InvalidXLogRecPtr if it was the last one.
 */
bool
topics_metadata_find_epoch(const char *id, XLogRecPtr *ended_at)
{
	Datum		values[] = {CStringGetTextDatum(id)};
	Oid			types[] = {TEXTOID};
	StatementScope scope;
	bool		found;
	char	   *text;

	scope = begin_query("WITH " EPOCHS " SELECT (SELECT min(started_at) FROM epoch later"
						" WHERE later.number > e.number AND later.term = e.term) FROM epoch e WHERE id = $1",
						types, values, lengthof(values));
	found = SPI_processed > 0;
	text = found ? get_text(0, 1) : NULL;
	*ended_at = text ? DatumGetLSN(DirectFunctionCall1(pg_lsn_in, CStringGetDatum(text))) : InvalidXLogRecPtr;

	end_query(scope);
	return found;
}

/*
 * Find the first epoch that the rest of a query on "epoch e" gives; palloc'd,
 * or NULL.  Its parameters are of one type.
 */
static MetadataEpoch *
search_epoch(const char *rest, Oid type, Datum *values, int nvalues)
{
	MemoryContext cxt = CurrentMemoryContext;
	Oid			types[] = {type, type};
	char	   *sql = psprintf("%s%s LIMIT 1", "WITH " EPOCHS " SELECT e.number, e.id, e.term, e.ends, e.data_loss FROM epoch e ", rest);
	StatementScope scope = begin_query(sql, types, values, nvalues);
	MemoryContext old = MemoryContextSwitchTo(cxt);
	MetadataEpoch *epoch = SPI_processed > 0 ? palloc0(sizeof(MetadataEpoch)) : NULL;

	Assert(nvalues <= (int) lengthof(types));
	if (epoch)
	{
		epoch->number = pg_strtoint64(get_text(0, 1));
		epoch->id = get_text(0, 2);
		epoch->term = pg_strtoint64(get_text(0, 3));
		epoch->ends = get_text(0, 4);
		epoch->data_loss = is_true(get_text(0, 5));
	}
	MemoryContextSwitchTo(old);
	end_query(scope);
	return epoch;
}

/*
 * Find the first epoch above a number, with the ends that all logs had when it
 * began: there the epoch of that number ended.  NULL: it goes on.
 */
MetadataEpoch *
topics_metadata_next_epoch(int64 number)
{
	Datum		values[] = {Int64GetDatum(number)};

	return search_epoch("WHERE number > $1 ORDER BY number", INT8OID, values, lengthof(values));
}

/* Find the epoch by which a term began, or NULL. */
MetadataEpoch *
topics_metadata_find_term(int64 term)
{
	Datum		values[] = {Int64GetDatum(term)};

	return search_epoch("WHERE term = $1 ORDER BY number", INT8OID, values, lengthof(values));
}

/*
 * Find the latest epoch of those that another node has, in the form of
 * topics_metadata_list_epochs, that is known here.  NULL: none is.
 */
MetadataEpoch *
topics_metadata_find_common_epoch(const char *numbers, const char *ids)
{
	Datum		values[] = {CStringGetTextDatum(numbers), CStringGetTextDatum(ids)};

	return search_epoch("JOIN ROWS FROM (unnest($1::int8[]), unnest($2::text[])) AS other (number, id) USING (number, id)"
						" ORDER BY e.number DESC", TEXTOID, values, lengthof(values));
}

/*
 * Get all epochs that are known here, as two arrays in text form: numbers, and
 * ids.
 */
void
topics_metadata_list_epochs(char **numbers, char **ids)
{
	MemoryContext cxt = CurrentMemoryContext;
	StatementScope scope = begin_query("WITH " EPOCHS " SELECT coalesce(array_agg(number ORDER BY number), '{}'),"
									   " coalesce(array_agg(id ORDER BY number), '{}') FROM epoch",
									   NULL, NULL, 0);

	*numbers = MemoryContextStrdup(cxt, get_text(0, 1));
	*ids = MemoryContextStrdup(cxt, get_text(0, 2));
	end_query(scope);
}

/*
 * Count the nodes that count as copies, but for one.  *is_default says whether
 * the number of followers that a commit waits for goes by them.
 */
int
topics_metadata_count_nodes(const char *except, bool *is_default)
{
	Datum		values[] = {CStringGetTextDatum(make_node_key(except))};
	Oid			types[] = {TEXTOID};
	StatementScope scope;
	int			result;

	scope = begin_query("SELECT count(*) FILTER (WHERE key <> $1 AND (value ->> 'counts')::boolean),"
						" coalesce(((" LATEST_CLUSTER ") ->> 'is_default')::boolean, true)"
						" FROM (" NODES ") latest", types, values, lengthof(values));
	result = pg_strtoint32(get_text(0, 1));
	*is_default = *get_text(0, 2) == 't';
	end_query(scope);
	return result;
}

/* Return true if the leader set has its own records of nodes. */
bool
topics_metadata_has_nodes(void)
{
	StatementScope scope = begin_query(LATEST("node") " LIMIT 1", NULL, NULL, 0);
	bool		result = SPI_processed > 0;

	end_query(scope);
	return result;
}

void
topics_metadata_remove_node(const char *node)
{
	put_record(make_node_key(node), NULL);
}

/*
 * The nodes of a leader set, as they were when the partitions that say so were
 * at these places.  A place is the log end, and the WAL position of the commit
 * that brought it there: a log that was truncated, and has come to the same
 * end again, has another one.
 */
typedef struct MetadataPlace
{
	int64		topic_id;
	uint64		log_end;
	uint64		commit_lsn;
	uint64		foreign_writes; /* the state's: a truncation is one */
} MetadataPlace;

typedef struct KnownNodes
{
	MemoryContext cxt;			/* of the list */
	List	   *nodes;
	MetadataPlace first;		/* of the first set's partition */
	MetadataPlace own;
} KnownNodes;

static KnownNodes known_nodes[MAX_LEADER_SETS];

/*
 * Get where a partition of the metadata is.  Return false if that is not
 * known, or this transaction sees what others do not.
 */
static bool
get_place(int partition, MetadataPlace *place)
{
	Topic	   *topic = topics_catalog_lookup(METADATA_TOPIC, true);
	PartitionState *state;

	if (topic == NULL || partition >= topic->partitions ||
		topics_truncate_is_pending() || topics_foreign_writer_is_pending())
		return false;
	state = topics_catalog_partition_state(topic, partition);
	place->topic_id = topic->topic_id;
	place->log_end = pg_atomic_read_u64(&state->next_offset);
	place->commit_lsn = pg_atomic_read_u64(&state->commit_lsn);
	place->foreign_writes = pg_atomic_read_u32(&state->foreign_writes);
	return place->log_end != UNKNOWN_OFFSET;
}

/* Read the nodes from the records, into the current memory context. */
static List *
read_nodes(void)
{
	MemoryContext cxt = CurrentMemoryContext;
	StatementScope scope;
	List	   *result = NIL;

	scope = begin_query("SELECT substr(key, 6), coalesce(value ->> 'conninfo', ''), coalesce(value ->> 'advertised_conninfo', ''),"
						" coalesce(value ->> 'incarnation', ''), value ->> 'counts',"
						" coalesce(value ->> 'feature_level', '0'), coalesce(value ->> 'number', '0') FROM (" NODES ") latest"
						" WHERE value IS NOT NULL ORDER BY 1", NULL, NULL, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(cxt);
		MetadataNode *node = palloc(sizeof(MetadataNode));

		node->name = get_text(i, 1);
		node->conninfo = get_text(i, 2);
		node->advertised = get_text(i, 3);
		node->incarnation = get_text(i, 4);
		node->counts = is_true(get_text(i, 5));
		node->feature_level = pg_strtoint32(get_text(i, 6));
		node->number = pg_strtoint32(get_text(i, 7));
		result = lappend(result, node);
		MemoryContextSwitchTo(old);
	}
	end_query(scope);
	return result;
}

/* Copy nodes into the current memory context. */
static List *
copy_nodes(const List *nodes)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, nodes)
	{
		MetadataNode *copy = palloc(sizeof(MetadataNode));

		*copy = *(const MetadataNode *) lfirst(lc);
		copy->name = pstrdup(copy->name);
		copy->conninfo = pstrdup(copy->conninfo);
		copy->advertised = pstrdup(copy->advertised);
		copy->incarnation = pstrdup(copy->incarnation);
		result = lappend(result, copy);
	}
	return result;
}

/*
 * List the nodes of the cluster by name: MetadataNodes, palloc'd.  Elections
 * and sessions ask for them again and again, so they are kept.  A place is
 * read before the records: these may be newer than it says, and then are read
 * once more.
 */
List *
topics_metadata_list_nodes(void)
{
	KnownNodes *known = &known_nodes[topics_leader_set];
	KnownNodes	now = {0};
	bool		is_known = get_place(METADATA_SET, &now.first) && get_place(topics_leader_set, &now.own);
	List	   *nodes;
	MemoryContext old;

	if (is_known && known->cxt && memcmp(&known->first, &now.first, sizeof(MetadataPlace)) == 0 &&
		memcmp(&known->own, &now.own, sizeof(MetadataPlace)) == 0)
		return copy_nodes(known->nodes);
	nodes = read_nodes();
	if (!is_known)
		return nodes;
	now.cxt = AllocSetContextCreate(TopMemoryContext, "pg_topics nodes", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(now.cxt);
	now.nodes = copy_nodes(nodes);
	MemoryContextSwitchTo(old);
	if (known->cxt)
		MemoryContextDelete(known->cxt);
	*known = now;
	return nodes;
}

/* Get a node, palloc'd, or NULL if it is not in the cluster. */
MetadataNode *
topics_metadata_find_node(const char *name)
{
	ListCell   *lc;

	foreach(lc, topics_metadata_list_nodes())
	{
		MetadataNode *node = lfirst(lc);

		if (strcmp(node->name, name) == 0)
			return node;
	}
	return NULL;
}

/* ----------------------------------------------------------------
 *		On the leader: the records follow the catalogue
 * ----------------------------------------------------------------
 */

/*
 * Get the name of a topic that the metadata have, and this node does not,
 * palloc'd; or NULL.
 */
char *
topics_metadata_find_missing_topic(void)
{
	MemoryContext cxt = CurrentMemoryContext;
	StatementScope scope = begin_query("SELECT value ->> 'topic' FROM (" LATEST_TOPICS ") l WHERE value IS NOT NULL"
									   " AND NOT EXISTS (SELECT FROM topic_log.topic WHERE topic_id = substr(key, 7)::int8) ORDER BY key LIMIT 1",
									   NULL, NULL, 0);
	char	   *result = SPI_processed > 0 ? MemoryContextStrdup(cxt, get_text(0, 1)) : NULL;

	end_query(scope);
	return result;
}

/* Get what the metadata say of a topic here. */
TopicKnowledge
topics_metadata_know_topic(int64 topic_id)
{
	Datum		values[] = {CStringGetTextDatum(psprintf("topic/" INT64_FORMAT, topic_id))};
	Oid			types[] = {TEXTOID};
	StatementScope scope = begin_query("SELECT value IS NOT NULL FROM topic.\"" METADATA_TOPIC "\""
									   " WHERE partition = 0 AND key = $1 ORDER BY \"offset\" DESC LIMIT 1",
									   types, values, lengthof(values));
	TopicKnowledge result = SPI_processed == 0 ? TOPIC_NOT_HEARD_OF : is_true(get_text(0, 1)) ? TOPIC_HEARD_OF : TOPIC_GONE;

	end_query(scope);
	return result;
}

/* Produce the records of topics that are not as their latest records say. */
static void
put_changed_topics(void)
{
	StatementScope scope;

	CommandCounterIncrement();
	scope = begin_query("SELECT coalesce(d.key, l.key), d.value FROM topic_log.topic_description d"
						" FULL JOIN (" LATEST_TOPICS ") l USING (key)"
						" WHERE d.value IS DISTINCT FROM l.value ORDER BY 1", NULL, NULL, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		Datum		value = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &isnull);

		/*
		 * what is not here need not be gone: it may be one that could not be
		 * had
		 */
		if (isnull && !topics_topic_changes_drops(pg_strtoint64(get_text(i, 1) + strlen("topic/"))))
			continue;
		put_record(get_text(i, 1), isnull ? NULL : DatumGetJsonbP(value));
	}
	end_query(scope);
}

/* Before the commit of a transaction that may have changed topics. */
void
topics_metadata_pre_commit(void)
{
	ClusterRow	row;

	if (!topics_topic_changes_are_described() || topics_topic_changes_drops_extension() ||
		topics_leader_set != METADATA_SET || !topics_cluster_read_row(&row) || !row.leads)
		return;
	topics_leader_set_make_new();
	put_changed_topics();
}

/* ----------------------------------------------------------------
 *		On a follower: the catalogue follows the records
 * ----------------------------------------------------------------
 */

/* Columns of "differences" */
enum
{
	DIFFERENCE_ID = 1,
	DIFFERENCE_WANTED,
	DIFFERENCE_HERE,
	DIFFERENCE_SAME,
	DIFFERENCE_NAME,
	DIFFERENCE_NAME_HERE,
	DIFFERENCE_NOTIFY_KEY,
	DIFFERENCE_KEY_TYPE,
	DIFFERENCE_VALUE_TYPE,
	DIFFERENCE_PARTITIONS,
	DIFFERENCE_PARTITIONS_HERE,
	DIFFERENCE_OWNER,
	DIFFERENCE_SETTINGS,
	DIFFERENCE_GRANTS,
	DIFFERENCE_LEADER_SETS,
	DIFFERENCE_OWNER_HERE
};

/*
 * Topics whose latest records say another thing than the catalogue.  What the
 * records say of roles is taken as far as these are here.  What is to go comes
 * first, for its name may be wanted.
 */
static const char *const differences =
"WITH latest AS (" LATEST_TOPICS "), known AS ("
"SELECT key, value || jsonb_build_object("
" 'owner', coalesce((SELECT rolname::text FROM pg_roles WHERE rolname = value ->> 'owner'), CURRENT_USER::text),"
" 'grants', (SELECT coalesce(jsonb_agg(g ORDER BY g::text), '[]') FROM jsonb_array_elements(value -> 'grants') g"
" WHERE g ->> 'grantee' IS NULL OR EXISTS (SELECT FROM pg_roles WHERE rolname = g ->> 'grantee'))) AS value"
" FROM latest WHERE value IS NOT NULL)"
" SELECT substr(key, 7)::int8, k.value IS NOT NULL, d.value IS NOT NULL,"
" k.value -> 'uuid' = d.value -> 'uuid', k.value ->> 'topic', d.value ->> 'topic', k.value ->> 'uuid',"
" k.value ->> 'key_type', k.value ->> 'value_type', k.value ->> 'partitions', d.value ->> 'partitions',"
" k.value ->> 'owner', k.value ->> 'settings', k.value ->> 'grants', k.value ->> 'leader_sets', d.value ->> 'owner'"
" FROM known k FULL JOIN topic_log.topic_description d USING (key)"
" WHERE k.value IS DISTINCT FROM d.value"
" ORDER BY k.value IS NOT NULL, substr(key, 7)::int8";

/* What a topic is to be, and what it is here: texts, or NULL. */
typedef struct TopicDifference
{
	int64		topic_id;
	bool		wanted;			/* else it is gone */
	bool		here;
	bool		same;			/* what is here is this topic, not another of
								 * its id */
	bool		shrinks;		/* it would be, but has too many partitions */
	char	   *text[DIFFERENCE_OWNER_HERE + 1];
} TopicDifference;

static int32
get_partitions(const TopicDifference *difference, int column)
{
	return pg_strtoint32(difference->text[column]);
}

/* List what differs, in the memory context "cxt". */
static List *
find_differences(MemoryContext cxt)
{
	StatementScope scope;
	List	   *result = NIL;

	scope = begin_query(differences, NULL, NULL, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(cxt);
		TopicDifference *difference = palloc0(sizeof(TopicDifference));

		for (int column = DIFFERENCE_ID; column <= DIFFERENCE_OWNER_HERE; column++)
			difference->text[column] = get_text(i, column);
		difference->topic_id = pg_strtoint64(difference->text[DIFFERENCE_ID]);
		difference->wanted = is_true(difference->text[DIFFERENCE_WANTED]);
		difference->here = is_true(difference->text[DIFFERENCE_HERE]);
		difference->same = is_true(difference->text[DIFFERENCE_SAME]);
		/* partitions that another leader had added are none of this one's */
		if (difference->wanted && difference->here &&
			get_partitions(difference, DIFFERENCE_PARTITIONS_HERE) >
			get_partitions(difference, DIFFERENCE_PARTITIONS))
		{
			difference->shrinks = difference->same;
			difference->same = false;
		}
		result = lappend(result, difference);
		MemoryContextSwitchTo(old);
	}
	end_query(scope);
	return result;
}

/* Get the settings that a record has. */
static TopicSettingValues *
get_settings(const TopicDifference *difference)
{
	Datum		values[] = {CStringGetTextDatum(difference->text[DIFFERENCE_SETTINGS])};
	Oid			types[] = {TEXTOID};
	StatementScope scope;
	MemoryContext old;
	const char *(*pairs)[2];
	TopicSettingValues *result;
	int			count;

	scope = begin_query("SELECT key, value FROM jsonb_each_text($1::jsonb)", types, values, lengthof(values));
	count = (int) SPI_processed;
	pairs = palloc(sizeof(*pairs) * Max(count, 1));
	for (int i = 0; i < count; i++)
	{
		pairs[i][0] = get_text(i, 1);
		pairs[i][1] = get_text(i, 2);
	}
	old = MemoryContextSwitchTo(CurTransactionContext);
	result = topics_topic_setting_from_text((const char *const(*)[2]) pairs, count);
	MemoryContextSwitchTo(old);
	end_query(scope);
	return result;
}

/* The view of a topic that is here. */
static Oid
get_view(const TopicDifference *difference)
{
	return get_relname_relid(difference->text[DIFFERENCE_NAME_HERE],
							 get_namespace_oid(TOPIC_SCHEMA, false));
}

/* Run the statements that a query returns, each in a row. */
static void
run_statements(const char *sql, Oid *types, Datum *values, int nvalues)
{
	StatementScope scope;
	List	   *statements = NIL;
	ListCell   *lc;

	scope = begin_query(sql, types, values, nvalues);
	for (uint64 i = 0; i < SPI_processed; i++)
		statements = lappend(statements, get_text(i, 1));
	foreach(lc, statements)
		topics_statement_execute("%s", (char *) lfirst(lc));
	end_query(scope);
}

/*
 * Read the grants on a topic's view, as they are now, in the form of records.
 */
static char *
read_grants_here(const TopicDifference *difference)
{
	MemoryContext cxt = CurrentMemoryContext;
	Datum		values[] = {Int64GetDatum(difference->topic_id)};
	Oid			types[] = {INT8OID};
	StatementScope scope;
	char	   *result;

	scope = begin_query("SELECT value ->> 'grants' FROM topic_log.topic_description WHERE key = 'topic/' || $1",
						types, values, lengthof(values));
	result = MemoryContextStrdup(cxt, SPI_processed > 0 ? get_text(0, 1) : "[]");
	end_query(scope);
	return result;
}

/* Give a topic's view the grants that its record has. */
static void
set_grants(const TopicDifference *difference)
{
	char	   *here = read_grants_here(difference);
	Datum		values[] = {
		CStringGetTextDatum(difference->text[DIFFERENCE_NAME]),
		CStringGetTextDatum(here),
		CStringGetTextDatum(difference->text[DIFFERENCE_GRANTS])
	};
	Oid			types[] = {TEXTOID, TEXTOID, TEXTOID};

	/* no ACL stays none */
	if (strcmp(here, difference->text[DIFFERENCE_GRANTS]) == 0)
		return;
	run_statements("SELECT DISTINCT format('REVOKE ALL ON topic.%I FROM %s CASCADE', $1,"
				   " coalesce(quote_ident(g ->> 'grantee'), 'PUBLIC')) FROM jsonb_array_elements($2::jsonb) g",
				   types, values, lengthof(values) - 1);
	run_statements("SELECT format('GRANT %s ON topic.%I TO %s%s', g ->> 'privilege', $1,"
				   " coalesce(quote_ident(g ->> 'grantee'), 'PUBLIC'),"
				   " CASE WHEN (g ->> 'grantable')::boolean THEN ' WITH GRANT OPTION' END)"
				   " FROM jsonb_array_elements($3::jsonb) g WHERE $2 IS NOT NULL",
				   types, values, lengthof(values));
}

/*
 * A topic's name is wanted by another one: if there is a topic here that has
 * it, by what the records said before, it gets out of the way.  Its own record
 * says what it is called.
 */
static void
free_name(const char *name)
{
	Topic	   *topic = topics_catalog_lookup(name, true);

	if (topic == NULL)
		return;
	RenameRelationInternal(topic->view_relid, psprintf("__renamed_" INT64_FORMAT, topic->topic_id),
						   false, false);
	CommandCounterIncrement();
}

static void
create_topic(const TopicDifference *difference)
{
	NewTopic	topic = {
		.name = difference->text[DIFFERENCE_NAME],
		.topic_id = difference->topic_id,
		.notify_key = difference->text[DIFFERENCE_NOTIFY_KEY],
		.partitions = get_partitions(difference, DIFFERENCE_PARTITIONS),
		.key_type = difference->text[DIFFERENCE_KEY_TYPE],
		.value_type = difference->text[DIFFERENCE_VALUE_TYPE],
		.settings = get_settings(difference),
		.leader_sets = topics_leader_set_read(difference->text[DIFFERENCE_LEADER_SETS]),
		.owner = get_role_oid(difference->text[DIFFERENCE_OWNER], false)
	};

	free_name(topic.name);
	if (!topics_make_topic_lock_name(topic.name))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("relation \"%s\" in schema \"%s\" has the name of a topic of the cluster",
						topic.name, TOPIC_SCHEMA),
				 errhint("Drop or rename it.")));
	topics_make_topic_create(&topic);
	set_grants(difference);
}

/* Drop a topic with all its parts, for the cluster. */
void
topics_metadata_drop_topic(int64 topic_id, Oid view_relid)
{
	TopicParts	parts;

	LockRelationOid(view_relid, AccessExclusiveLock);
	PushActiveSnapshot(GetLatestSnapshot());
	if (topics_broken_topic_find(topic_id, InvalidOid, &parts))
		topics_topic_drop_parts(&parts);
	PopActiveSnapshot();
}

/*
 * Drop a topic here that the cluster has: the next comparison makes it again,
 * empty.
 */
void
topics_metadata_begin_anew(Topic *topic)
{
	topics_leader_set_require_one(topic);
	ereport(LOG,
			(errmsg("pg_topics: topic \"%s\" is read anew from the leader", NameStr(topic->name)),
			 errdetail("What is here does not go on as it does there: the leader has removed tombstones that this node has not seen, say.")));
	topics_log_ends_note_anew(topic, topic->partitions);
	topics_metadata_drop_topic(topic->topic_id, topic->view_relid);
}

/*
 * Give a topic that is here the name, settings and so on of its record.
 * Readers are in the way, for as long as their transactions last, of what they
 * are in the way of on the leader, too, and of nothing else: what is lacking
 * meanwhile others see.
 */
static void
change_topic(const TopicDifference *difference)
{
	Oid			view = get_view(difference);
	const char *name = difference->text[DIFFERENCE_NAME];
	int32		partitions = get_partitions(difference, DIFFERENCE_PARTITIONS);
	int32		partitions_here = get_partitions(difference, DIFFERENCE_PARTITIONS_HERE);
	TopicSettingValues *settings = get_settings(difference);
	bool		renames = strcmp(name, difference->text[DIFFERENCE_NAME_HERE]) != 0;
	bool		changes_owner = strcmp(difference->text[DIFFERENCE_OWNER],
									   difference->text[DIFFERENCE_OWNER_HERE]) != 0;
	StatementScope scope;

	LockRelationOid(view, renames || changes_owner ? AccessExclusiveLock : ShareUpdateExclusiveLock);
	if (renames)
	{
		free_name(name);
		RenameRelationInternal(view, name, false, false);
		CommandCounterIncrement();
	}
	scope = topics_statement_begin();
	if (partitions > partitions_here)
	{
		LeaderSets	sets = topics_leader_set_read(difference->text[DIFFERENCE_LEADER_SETS]);

		topics_make_topic_create_partitions(difference->topic_id, partitions_here, partitions,
											topics_topic_setting_used(settings).segment_bytes, &sets);
	}
	topics_topic_setting_execute(psprintf("UPDATE topic_log.topic SET partitions = %d, %s"
										  " WHERE topic_id = " INT64_FORMAT, partitions,
										  topics_topic_setting_assignments(), difference->topic_id),
								 settings);
	CacheInvalidateRelcacheByRelid(view);
	CommandCounterIncrement();
	if (changes_owner)
		ATExecChangeOwner(view, get_role_oid(difference->text[DIFFERENCE_OWNER], false), true,
						  AccessExclusiveLock);
	topics_statement_end(scope);
	topics_backoff_reset(view);
	topics_topic_changes_note_settings();
	set_grants(difference);
}

/* In a subtransaction: have a topic as its record says. */
static void
settle_difference(void *arg)
{
	const TopicDifference *difference = arg;

	PushActiveSnapshot(GetLatestSnapshot());
	if (difference->here && difference->wanted && difference->shrinks)
	{
		Topic	   *topic = topics_catalog_by_id(difference->topic_id);

		if (topic)
			topics_leader_set_require_one(topic);
		if (topic)
			topics_log_ends_note_anew(topic, get_partitions(difference, DIFFERENCE_PARTITIONS));
	}
	if (difference->here && !(difference->wanted && difference->same))
		topics_metadata_drop_topic(difference->topic_id, get_view(difference));
	if (difference->wanted && difference->here && difference->same)
		change_topic(difference);
	else if (difference->wanted)
		create_topic(difference);
	PopActiveSnapshot();
}

static const char *
get_difference_name(const TopicDifference *difference)
{
	return difference->text[difference->wanted ? DIFFERENCE_NAME : DIFFERENCE_NAME_HERE];
}

/* Error context: which topic of the cluster could not be had. */
static void
describe_difference(void *arg)
{
	errcontext("topic \"%s\" as the cluster has it", get_difference_name(arg));
}

/*
 * Have an error name its topic where only its message is shown
 * (topics.worker).
 */
static void
name_topic(ErrorData *error, const TopicDifference *difference)
{
	error->message = psprintf("topic \"%s\" cannot be had: %s", get_difference_name(difference),
							  error->message);
}

/*
 * Have the row of this node's leader set say of the cluster and its leader
 * what the records say.
 */
void
topics_metadata_apply_cluster(void)
{
	StatementScope scope;
	bool		changed;

	PushActiveSnapshot(GetLatestSnapshot());
	(void) topics_read_cut_show_all(true);
	scope = topics_statement_begin();
	SPI_execute("WITH said AS (SELECT key, (r.value ->> 'acks_followers')::int AS acks_followers,"
				" (r.value ->> 'feature_level')::int AS feature_level, (r.value ->> 'numbers_given')::int8 AS numbers_given, n.value ->> 'conninfo' AS conninfo, n.value ->> 'advertised_conninfo' AS advertised,"
				" count(*) FILTER (WHERE (n.value ->> 'counts')::boolean) OVER () AS voters"
				" FROM (" NODES ") n, (" LATEST_CLUSTER ") r)"
				" UPDATE topic_log.cluster c SET acks_followers = s.acks_followers, voters = s.voters, feature_level = s.feature_level, numbers_given = s.numbers_given,"
				" leader_conninfo = s.conninfo, leader_advertised_conninfo = s.advertised"
				" FROM said s WHERE c.leader_set = " OWN_SET " AND s.key = 'node/' || c.leader AND s.conninfo IS NOT NULL"
				" AND (c.acks_followers, c.voters, c.feature_level, c.numbers_given, c.leader_conninfo, c.leader_advertised_conninfo)"
				" IS DISTINCT FROM (s.acks_followers, s.voters, s.feature_level, s.numbers_given, s.conninfo, s.advertised)", false, 0);
	changed = SPI_processed > 0;
	topics_statement_end(scope);
	(void) topics_read_cut_show_all(false);
	PopActiveSnapshot();
	if (changed)
		topics_cluster_note_change();
}

/*
 * Have the topics of this follower as the records say, each in a transaction of
 * its own.  One that cannot be had, as its type is not here, does not keep the
 * others: the first error is raised when all were tried.  "cxt" has what is
 * needed meanwhile.
 */
void
topics_metadata_apply_topics(MemoryContext cxt, NextTransaction next_transaction)
{
	ErrorData  *first = NULL;
	int			failures = 0;
	List	   *list;
	ListCell   *lc;

	if (topics_leader_set != METADATA_SET)
		return;
	if (topics_leader_set_make_known())
		next_transaction();
	list = find_differences(cxt);
	foreach(lc, list)
	{
		ErrorContextCallback callback = {error_context_stack, describe_difference, lfirst(lc)};
		MemoryContext old = MemoryContextSwitchTo(cxt);
		ErrorData  *error;

		error_context_stack = &callback;
		error = topics_subtransaction_try(settle_difference, lfirst(lc));
		error_context_stack = callback.previous;
		if (error && topics_subtransaction_must_raise(error))
			ReThrowError(error);
		if (error && failures++ == 0)
		{
			name_topic(error, lfirst(lc));
			first = error;
		}
		MemoryContextSwitchTo(old);
		next_transaction();
	}
	if (failures > 1)
		first->message = psprintf("%s (and %d more)", first->message, failures - 1);
	if (first)
		ReThrowError(first);
}
