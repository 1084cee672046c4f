/*-------------------------------------------------------------------------
 *
 * leader_set.c
 *		Leader sets: the partitions that one node leads.
 *
 * The first set, METADATA_SET, has the metadata and all topics that are not
 * spread.  A topic that is (create_topic, leaders => 'spread') has its
 * partitions in others, of which there is one for each node that counted when
 * the first such topic was made.  A set is a cluster of its own, of the same
 * nodes: with a row of topic_log.cluster, a partition of the metadata, a
 * replicator, terms, epochs and marks.  So nothing that is said of elections,
 * of what is confirmed, and of changes of nodes says anything of sets: a
 * process acts for one (topics_leader_set).
 *
 * HOW A SET BEGINS.  The leader of the first set makes it with the first topic
 * that is in it, in one transaction: its record says which node is to lead it,
 * which nodes count, and how many followers a commit waits for.  Every node
 * that has the record has the row, and nobody leads.  The node that is to
 * stands for election at once; if it is lost, another one does, as it would
 * later.  Where it is the only node it leads from the beginning.
 *
 * HOW NODES COME AND GO.  Which nodes there are, and where, is in the first
 * set.  The leader of another one has what it says written into its own
 * (topics_leader_set_mirror_nodes): a node that is new counts there when it
 * has confirmed all of that set, and who was removed is no voter any more when
 * enough of that set know.  One change at a time, as in the first.
 *
 * A TRANSACTION may append to several sets that this node leads.  Each set
 * confirms what is its own, so who reads may see of it what is in one set
 * before what is in another; so it is in Kafka, with partitions.  It is
 * acknowledged when all have confirmed.
 *
 * A topic in several sets is not dropped here to be read anew, as this node
 * may lead some of it.  So it is not compacted: tombstones that a follower has
 * not seen would want that.  Those of __consumer_offsets stay for good then
 * (make_topic.c).
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
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_own_leader_set);

/* leader_set(): the set that this process acts for */
Datum
topics_own_leader_set(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(topics_leader_set);
}

/*
 * Read the leader sets of a topic, as its record has them: an array of JSON,
 * or NULL.
 */
LeaderSets
topics_leader_set_read(const char *json)
{
	LeaderSets	result = {0};
	const char *place = json;

	while (place && *place && result.count < MAX_TOPIC_SETS)
	{
		char	   *end;
		long		set;

		if (strchr("0123456789", *place) == NULL)
		{
			place++;
			continue;
		}
		set = strtol(place, &end, 10);
		if (set >= MAX_LEADER_SETS)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("there is no leader set %ld in this version", set)));
		result.sets[result.count++] = (int) set;
		place = end;
	}
	return result;
}

/*
 * Require a topic to have one leader: others cannot be dropped here, to be
 * read anew.
 */
void
topics_leader_set_require_one(const Topic *topic)
{
	if (topics_internal_topic_state(NameStr(topic->name)) >= 0 ? topic->partitions > STATE_PARTITIONS :
		topic->leader_sets.count > 0 && !topics_catalog_is_internal(NameStr(topic->name)))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("topic \"%s\" cannot be read anew", NameStr(topic->name)),
				 errdetail("What is here does not go on as it does on the node that leads, and other partitions have other leaders."),
				 errhint("Remove this node with topics.remove_node(), drop its topics, and add it again.")));
}

/* ----------------------------------------------------------------
 *		Sets are made
 * ----------------------------------------------------------------
 */

/*
 * Make this node's row of a set, by the set's record.  Nobody leads it, as far
 * as that says; with "leads" this node does, which is the only one, from the
 * commit on.  (Who has the record from another node does not know what came
 * later, and may have forgotten it.)
 */
static void
make_row(int set, Datum record, bool leads)
{
	Oid			types[] = {INT4OID, JSONBOID, BOOLOID};
	Datum		values[] = {Int32GetDatum(set), record, BoolGetDatum(leads)};
	StatementScope scope = topics_statement_begin();
	int			before;

	PushActiveSnapshot(GetLatestSnapshot());
	(void) topics_read_cut_show_all(true);
	if (SPI_execute_with_args("INSERT INTO topic_log.cluster (leader_set, node, cluster_id, incarnation, system_identifier, timeline,"
							  " leader, epoch, acks_followers, term, promised_term, promised_to, voters, feature_level)"
							  " SELECT $1, node, cluster_id, incarnation, system_identifier, timeline, CASE WHEN $3 THEN node ELSE '' END, 0,"
							  " ($2 ->> 'acks_followers')::int, t.term, t.term, CASE WHEN $3 THEN node ELSE '' END,"
							  " (SELECT count(*) FROM jsonb_object_keys($2 -> 'nodes')), feature_level"
							  " FROM topic_log.cluster, (SELECT CASE WHEN $3 THEN ($2 ->> 'term')::int8 ELSE 0 END AS term) t WHERE leader_set = 0",
							  lengthof(values), types, values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not make leader set %d", set);
	(void) topics_read_cut_show_all(false);
	PopActiveSnapshot();
	topics_statement_end(scope);
	before = topics_mark_slot_act_for(set);
	topics_cluster_note_change();
	(void) topics_mark_slot_act_for(before);
	topics_topic_changes_want_round();
}

/*
 * Return the sets that topics have, and the metadata no record of: a bit for
 * each.
 */
static uint32
find_new_sets(void)
{
	StatementScope scope = topics_statement_begin();
	uint32		result = 0;

	PushActiveSnapshot(GetLatestSnapshot());
	(void) topics_read_cut_show_all(true);
	if (SPI_execute("SELECT DISTINCT s FROM topic_log.topic t, unnest(leader_sets) s WHERE s > 0"
					" AND NOT EXISTS (SELECT FROM topic.\"" METADATA_TOPIC "\" WHERE partition = 0 AND key = 'set/' || s)"
					" AND NOT EXISTS (SELECT FROM pg_class WHERE oid = t.view AND relname ~ '^__')", true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not look for leader sets");
	(void) topics_read_cut_show_all(false);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;

		result |= 1 << DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
	}
	PopActiveSnapshot();
	topics_statement_end(scope);
	return result;
}

static bool
has_name(List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), name) == 0)
		return true;
	return false;
}

/*
 * Choose a node that counts, and is to lead none of the others, if there is
 * one.
 */
static const char *
choose_leader(List *others)
{
	const char *result = NULL;
	ListCell   *lc;

	foreach(lc, topics_metadata_list_nodes())
	{
		const MetadataNode *node = lfirst(lc);

		if (node->counts && (result == NULL || (has_name(others, result) && !has_name(others, node->name))))
			result = node->name;
	}
	if (result == NULL)
		elog(ERROR, "no node of the cluster counts");
	return result;
}

/*
 * On the leader of the first set, before the commit of a transaction that has
 * made topics: make the sets that these are the first ones in.
 */
void
topics_leader_set_make_new(void)
{
	uint32		sets = find_new_sets();
	List	   *leaders = sets != 0 ? topics_metadata_list_preferred_leaders() : NIL;
	ClusterRow	first;
	bool		is_only;

	topics_cluster_require_row(&first);
	is_only = first.voters == 1;

	/*
	 * the transaction makes the cluster, of topics of another one: its worker
	 * goes on
	 */
	if (sets != 0 && topics_metadata_list_nodes() == NIL)
		return;
	for (int set = -1; (set = topics_leader_set_after(sets, set)) >= 0;)
	{
		const char *leader = choose_leader(leaders);
		Datum		record;
		ClusterRow	row;
		bool		is_here = topics_cluster_read_row_of(set, &row);

		/* it is there already, unless the topic comes from a dump */
		topics_make_topic_cover_set(METADATA_TOPIC, set + 1);

		/*
		 * a set of which this node has a row, and the metadata lack the
		 * record, as they have gone back: somebody may lead it
		 */
		leaders = lappend(leaders, pstrdup(leader));
		record = topics_metadata_put_set(set, leader, !is_here && is_only);
		if (!is_here)
			make_row(set, record, is_only);
	}
}

/*
 * On a follower in the first set: make the sets of which there are records.
 * Return true if there were any new ones.
 */
bool
topics_leader_set_make_known(void)
{
	Datum		records[MAX_LEADER_SETS];
	uint32		sets = topics_metadata_list_new_sets(records);

	if (sets != 0)
		topics_mark_slot_require(1 + pg_leftmost_one_pos32(sets));
	for (int set = -1; (set = topics_leader_set_after(sets, set)) >= 0;)
	{
		PushActiveSnapshot(GetLatestSnapshot());
		topics_make_topic_cover_set(METADATA_TOPIC, set + 1);
		PopActiveSnapshot();
		CommandCounterIncrement();
		make_row(set, records[set], false);
	}
	return sets != 0;
}

/*
 * On the leader of another set than the first, with an epoch: have its own
 * part of the metadata say which nodes there are, if it does not yet.
 */
void
topics_leader_set_begin(const ClusterRow *row)
{
	ListCell   *lc;

	if (topics_leader_set == METADATA_SET || topics_metadata_has_nodes())
		return;
	foreach(lc, topics_metadata_list_nodes())
		topics_metadata_put_node(lfirst(lc));
	topics_metadata_put_cluster(row->node, row->acks_followers, true);
}

/* ----------------------------------------------------------------
 *		Nodes come and go
 * ----------------------------------------------------------------
 */

static MetadataNode *
find_node(List *nodes, const char *name)
{
	ListCell   *lc;

	foreach(lc, nodes)
	{
		MetadataNode *node = lfirst(lc);

		if (strcmp(node->name, name) == 0)
			return node;
	}
	return NULL;
}

/*
 * Return true if two records say the same of a node, but for whether it
 * counts, and where it is.
 */
static bool
is_same_node(const MetadataNode *a, const MetadataNode *b)
{
	return strcmp(a->incarnation, b->incarnation) == 0 && a->feature_level == b->feature_level &&
		a->number == b->number;
}

/*
 * Have a node's record here say what the first set's does.  Return true if the
 * number of those that count has become another one: there is one such change
 * at a time.
 */
static bool
mirror_node(const MetadataNode *node, const MetadataNode *here)
{
	MetadataNode copy = *node;
	bool		replaces = here && strcmp(here->incarnation, node->incarnation) != 0;

	copy.counts = here && here->counts && !replaces;
	topics_metadata_put_node(&copy);
	if (!replaces)
		return false;
	topics_membership_forget_follower(node->name);
	if (here->counts)
		topics_membership_adjust_acks(node->name, false);
	return here->counts;
}

/*
 * Take a node out that is not in the first set any more.  Return as
 * mirror_node does.
 */
static bool
remove_node(const MetadataNode *here)
{
	if (here->counts)
		topics_membership_adjust_acks(here->name, false);
	topics_metadata_remove_node(here->name);
	topics_membership_forget_follower(here->name);
	return here->counts;
}

/*
 * List the nodes of the first set; *is_default as of
 * topics_metadata_count_nodes.
 */
static List *
list_first_nodes(bool *is_default)
{
	int			before = topics_mark_slot_act_for(METADATA_SET);
	List	   *volatile result = NIL;

	PG_TRY();
	{
		result = topics_metadata_list_nodes();
		(void) topics_metadata_count_nodes("", is_default);
	}
	PG_FINALLY();
	{
		(void) topics_mark_slot_act_for(before);
	}
	PG_END_TRY();
	return result;
}

/*
 * On the leader of another set than the first: have its nodes, and how many
 * followers a commit waits for, be as the first set says.  Return true if
 * there was anything to do, and maybe is more.
 */
bool
topics_leader_set_mirror_nodes(void)
{
	bool		is_default;
	List	   *nodes = list_first_nodes(&is_default);
	List	   *here;
	ClusterRow	first;
	ClusterRow	row;
	bool		is_default_here;
	int			count;
	ListCell   *lc;

	if (!topics_cluster_read_row_of(METADATA_SET, &first))
		return false;
	topics_cluster_require_row(&row);
	if (!row.leads || !topics_metadata_has_nodes())
		return false;
	here = topics_metadata_list_nodes();
	count = topics_metadata_count_nodes("", &is_default_here);
	foreach(lc, nodes)
	{
		const MetadataNode *node = lfirst(lc);
		const MetadataNode *known = find_node(here, node->name);

		if (known && is_same_node(node, known))
			continue;
		if (known && known->counts && topics_mark_slot_is_changing())
			continue;
		(void) mirror_node(node, known);
		return true;
	}
	if (row.feature_level < first.feature_level)
	{
		topics_membership_raise_feature_level(first.feature_level);
		return true;
	}
	if (topics_mark_slot_is_changing())
		return false;
	foreach(lc, here)
	{
		const MetadataNode *known = lfirst(lc);

		if (find_node(nodes, known->name) || strcmp(known->name, row.node) == 0)
			continue;
		(void) remove_node(known);
		return true;
	}
	if (is_default && !is_default_here)
		topics_membership_set_acks(count / 2, true);
	else if (!is_default && (is_default_here || row.acks_followers != topics_min(first.acks_followers, count - 1)))
		topics_membership_set_acks(topics_min(first.acks_followers, count - 1), false);
	else
		return false;
	return true;
}
