/*-------------------------------------------------------------------------
 *
 * divergence.c
 *		A follower goes back to where its log and the leader's are the same.
 *
 * Kafka's OffsetsForLeaderEpoch, for all partitions at once.  A node that led,
 * or followed another leader, may have records that nobody has confirmed, and
 * that are not in the log of the node that leads now.  Before it follows it
 * says which epochs it knows (topic_log.find_divergence), and hears the latest
 * that both know, and where the next one began at the leader.  Up to there, or
 * to where its own next one began if that is less, both have the same, since a
 * log whose last epoch is e is a prefix of the log of e's leader.  What is
 * beyond is taken away (log/truncate.c), in one transaction, which also says
 * that this node is in that epoch's term.
 *
 * NOTHING THAT WAS CONFIRMED is taken away as long as the rules of an election
 * are kept (promise.c).  Where it would be, the follower stops, and says so;
 * unless somebody has had a node lead without a majority, allow_data_loss,
 * which the epoch's record says.
 *
 * A log that starts, or was compacted, beyond where it would have to end has
 * nothing of its own to go on with: its topic is dropped, and read anew.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "node/node.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_find_divergence);

/* ----------------------------------------------------------------
 *		On the leader
 * ----------------------------------------------------------------
 */

#define BEGIN_WAIT_MS 1000		/* for a candidate to begin its term */
#define BEGIN_LOOK_MS 2

/* Columns of find_divergence's result */
enum
{
	DIVERGENCE_TERM,
	DIVERGENCE_EPOCH,
	DIVERGENCE_EPOCH_ID,
	DIVERGENCE_EPOCH_TERM,
	DIVERGENCE_ENDS,
	DIVERGENCE_DATA_LOSS,
	DIVERGENCE_BEGAN_WITH,
	DIVERGENCE_COLUMNS
};

static void
put_text(Datum *values, bool *nulls, int column, const char *text)
{
	nulls[column] = text == NULL;

	if (text)
		values[column] = CStringGetTextDatum(text);
}

/*
 * This node may be about to lead, and a node that has promised to follow it
 * has come already: wait a moment until the term has begun.  The connection is
 * there then, and nothing is acknowledged before followers are in the term.
 */
static void
wait_for_term(int64 promised_term)
{
	MonotonicTime until = topics_clock_in(topics_min(BEGIN_WAIT_MS, pg_topics_node_timeout / 3));
	ClusterRow	row;

	for (;;)
	{
		topics_cluster_require_row(&row);
		if (row.promised_term < promised_term || strcmp(row.promised_to, row.node) != 0 ||
			(row.leads && row.term >= promised_term && topics_metadata_find_term(row.term) != NULL) ||
			topics_clock_now() >= until)
			return;
		topics_peer_nap(BEGIN_LOOK_MS);
	}
}

/*
 * find_divergence(leader_set, node, incarnation, server, cluster_id,
 * promised_term, term, numbers, ids, feature_level): what a node that is in an
 * earlier term, and knows these epochs, has to know before it follows this one
 */
static Datum
find_divergence(PG_FUNCTION_ARGS)
{
	const char *node = topics_argument_get_text(fcinfo, 1);
	const char *cluster_id = topics_argument_get_text(fcinfo, 4);
	int64		promised_term = PG_GETARG_INT64(5);
	int64		term = PG_GETARG_INT64(6);
	Datum		values[DIVERGENCE_COLUMNS];
	bool		nulls[DIVERGENCE_COLUMNS] = {false};
	TupleDesc	tupdesc;
	ClusterRow	row;
	MetadataEpoch *common;
	MetadataEpoch *next;
	MetadataEpoch *began;

	topics_argument_require_all(fcinfo, PG_NARGS());
	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	topics_replica_feed_check_role(node, cluster_id);
	wait_for_term(promised_term);
	topics_replica_feed_check_node(node, topics_argument_get_text(fcinfo, 2),
								   topics_argument_get_text(fcinfo, 3), cluster_id, term, promised_term);
	topics_cluster_require_row(&row);
	if (topics_leader_set == METADATA_SET)
		topics_feature_level_note(&row, node, PG_GETARG_INT32(9));
	began = topics_metadata_find_term(row.term);
	if (began == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the node that leads has not begun its term yet")));
	values[DIVERGENCE_TERM] = Int64GetDatum(row.term);
	values[DIVERGENCE_BEGAN_WITH] = CStringGetTextDatum(began->ends);
	common = topics_metadata_find_common_epoch(topics_argument_get_text(fcinfo, 7),
											   topics_argument_get_text(fcinfo, 8));
	nulls[DIVERGENCE_EPOCH] = nulls[DIVERGENCE_EPOCH_TERM] = common == NULL;
	put_text(values, nulls, DIVERGENCE_EPOCH_ID, common ? common->id : NULL);
	if (common)
	{
		values[DIVERGENCE_EPOCH] = Int64GetDatum(common->number);
		values[DIVERGENCE_EPOCH_TERM] = Int64GetDatum(common->term);
	}
	next = common ? topics_metadata_next_epoch(common->number) : NULL;
	put_text(values, nulls, DIVERGENCE_ENDS, next ? next->ends : NULL);
	values[DIVERGENCE_DATA_LOSS] = BoolGetDatum((next && next->data_loss) || began->data_loss);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}

Datum
topics_find_divergence(PG_FUNCTION_ARGS)
{
	return topics_leader_set_call(fcinfo, find_divergence);
}

/* ----------------------------------------------------------------
 *		On the node that is to follow
 * ----------------------------------------------------------------
 */

/*
 * Ask the leader where our log and its own part.  The result is palloc'd.
 * Nothing is to be done where this node is in the leader's term.
 */
Divergence *
topics_divergence_ask(Peer *peer, const ClusterRow *row)
{
	Divergence *result = palloc0(sizeof(Divergence));
	char	   *numbers;
	char	   *ids;
	const char *values[] = {
		psprintf("%d", topics_leader_set), row->node, row->incarnation, topics_cluster_own_server(), row->cluster_id,
		psprintf(INT64_FORMAT, row->promised_term),
		psprintf(INT64_FORMAT, row->term), NULL, NULL, psprintf("%d", topics_feature_level_own())
	};
	PeerResult *answer;
	const char *text;

	topics_metadata_list_epochs(&numbers, &ids);
	values[7] = numbers;
	values[8] = ids;
	answer = topics_peer_query(peer, "SELECT * FROM topic_log.find_divergence($1::int4, $2, $3, $4, $5, $6::int8, $7::int8, $8, $9, $10::int4)",
							   values, lengthof(values));
	result->term = pg_strtoint64(topics_peer_value(answer, 0, DIVERGENCE_TERM));
	text = topics_peer_value(answer, 0, DIVERGENCE_EPOCH);
	result->has_common = text !=NULL;

	if (text)
	{
		result->epoch = pg_strtoint64(text);
		result->epoch_id = pstrdup(topics_peer_value(answer, 0, DIVERGENCE_EPOCH_ID));
		result->epoch_term = pg_strtoint64(topics_peer_value(answer, 0, DIVERGENCE_EPOCH_TERM));
	}
	text = topics_peer_value(answer, 0, DIVERGENCE_ENDS);
	result->ends = text ? pstrdup(text) : NULL;

	result->data_loss = strcmp(topics_peer_value(answer, 0, DIVERGENCE_DATA_LOSS), "t") == 0;
	result->began_with = pstrdup(topics_peer_value(answer, 0, DIVERGENCE_BEGAN_WITH));
	topics_peer_clear(answer);
	return result;
}

/* A log would have to go back behind what was confirmed. */
static void
report_confirmed(const Partition *partition, int64 confirmed, int64 end)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("partition %d of topic \"%s\" has confirmed records that the leader does not have",
					partition->number, NameStr(partition->topic->name)),
			 errdetail("FENCED_LEADER_EPOCH: it is confirmed up to offset " INT64_FORMAT ", and is to be the same as the leader's up to offset " INT64_FORMAT " only.",
					   confirmed, end),
			 errhint("The leader was restored to an earlier state, or has lost its files' latest changes. Have this node lead, by topics.failover(), or remove it with topics.remove_node(), drop its topics, and add it again.")));
}

/*
 * Take away what a partition has from an offset on.  Return how many records
 * there were, or -1 if the whole topic has to be read anew.
 */
static int64
truncate_partition(const LogEnd *end, const ClusterRow *row, bool data_loss)
{
	Topic	   *topic = topics_catalog_by_id(end->topic_id);
	Partition	partition;
	PartitionRow known;
	int64		confirmed;
	int64		result;

	if (topic == NULL || end->partition >= topic->partitions)
		return 0;

	/*
	 * it was dropped there, or made here only; or not known, by a leader of
	 * another set
	 */
	if (end->is_absent && strcmp(NameStr(topic->name), METADATA_TOPIC) != 0 && topics_leader_set == METADATA_SET)
		return -1;
	partition = topics_catalog_open_for_reading(topic, end->partition);
	(void) topics_log_start_read_row(&partition.state->id, NULL, &known);
	confirmed = topics_max(topics_high_watermark_get(partition.state), known.high_watermark);
	if (confirmed > end->log_end && !data_loss)
		report_confirmed(&partition, confirmed, end->log_end);
	if (topics_max(topics_max(known.log_start_offset, known.gaps_below),
				   topics_log_start_clean_offset(&partition.state->id)) > end->log_end &&
		strcmp(NameStr(topic->name), METADATA_TOPIC) != 0)
	{
		topics_catalog_close_partition(&partition, NoLock);
		return -1;
	}
	result = topics_truncate_log(&partition, end->log_end, row->term);
	topics_catalog_close_partition(&partition, NoLock);
	return result;
}

/* Log what was taken away, as there may be somebody who misses it. */
static void
log_truncation(int64 records, int partitions, int64 epoch)
{
	if (records == 0)
		return;
	ereport(LOG,
			(errmsg("pg_topics: " INT64_FORMAT " unconfirmed records of %d partitions were truncated", records, partitions),
			 errdetail("The log of the node that leads goes on from epoch " INT64_FORMAT " without them.", epoch),
			 errhint("topics.truncated has the newest of them.")));
}

/*
 * Take logs back to the ends of a list, in this transaction.  Topics that have
 * to be read anew are dropped.  Return true if anything was taken away.
 */
static bool
truncate_all(const List *ends, const ClusterRow *row, bool data_loss, int64 epoch)
{
	int64		records = 0;
	int			partitions = 0;
	ListCell   *lc;

	foreach(lc, ends)
	{
		const LogEnd *end = lfirst(lc);
		int64		count = truncate_partition(end, row, data_loss);

		CHECK_FOR_INTERRUPTS();
		if (count < 0)
		{
			Topic	   *topic = topics_catalog_by_id(end->topic_id);

			if (!end->is_absent)
				topics_leader_set_require_one(topic);
			topics_metadata_drop_topic(topic->topic_id, topic->view_relid);
			CommandCounterIncrement();
		}
		else
			records += count;
		partitions += count > 0 ? 1 : 0;
	}
	log_truncation(records, partitions, epoch);
	return ends != NIL;
}

/*
 * Go back to where this node's log and the leader's are the same; in a
 * transaction, on a node whose row nobody changes until it ends.  Return true
 * if anything was taken away.
 */
bool
topics_divergence_heal(const Divergence *divergence, const ClusterRow *row)
{
	const MetadataEpoch *own;
	List	   *ends;
	bool		result;

	if (divergence->term == row->term)
		return false;

	/*
	 * a node that has joined, and has come into no term yet: it has confirmed
	 * nothing
	 */
	if (!divergence->has_common && row->epoch == 0)
		return truncate_all(topics_log_ends_list_longer(topics_log_ends_get_all(), "{}"), row, true, 0);
	if (!divergence->has_common)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("node \"%s\" has no epoch in common with the node that leads", row->node),
				 errdetail("UNKNOWN_LEADER_EPOCH: it is in epoch " INT64_FORMAT ".", row->epoch),
				 errhint("Remove it with topics.remove_node(), drop its topics, and add it again.")));
	own = topics_metadata_next_epoch(divergence->epoch);
	/* read before the metadata go back as well */
	ends = divergence->ends ? topics_log_ends_list_longer(topics_log_ends_get_all(), divergence->ends) : NIL;
	result = truncate_all(ends, row, divergence->data_loss, divergence->epoch);
	CommandCounterIncrement();
	if (own)
		result |= truncate_all(topics_log_ends_list_longer(topics_log_ends_get_all(), own->ends), row,
							   divergence->data_loss, divergence->epoch);

	/*
	 * never a higher term: metadata can be here that say of an epoch, and not
	 * what there was when it began
	 */
	if (divergence->epoch < row->epoch)
		topics_membership_enter_epoch(divergence->epoch_term, divergence->epoch, divergence->epoch_id);
	return result;
}

/*
 * A node that is going to lead goes back to its last whole cut, in this
 * transaction.
 */
void
topics_divergence_finish_cut(const ClusterRow *row)
{
	char	   *whole;

	if (!topics_log_ends_are_unfinished())
		return;
	whole = topics_log_ends_get();
	(void) truncate_all(topics_log_ends_list_longer(topics_log_ends_get_all(), whole), row, false, row->epoch);
	topics_log_ends_note_finished();
}
