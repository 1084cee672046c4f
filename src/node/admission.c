/*-------------------------------------------------------------------------
 *
 * admission.c
 *		A copy of a node takes its place.
 *
 * A standby that was promoted, and a server that was restored or upgraded, has this
 * node's row, and maybe not the latest one: it can lack what the node has promised, and
 * records that it has confirmed.  Such a copy does not know what it lacks, so for an
 * election, and for what is acknowledged, it is not there, until
 *
 *	- it has heard from so many others that one of them has each promise that an election
 *	  rests on (topics_cluster_copy_quorum), and promises nothing that is lower than what
 *	  they say; then it follows, if another node leads, and is the node again when it has
 *	  all that the leader has (replicator.c);
 *	- or, if the node led, it is elected by so many others, each of which it is level with.
 *
 * The node itself, if it lives on beside its copy, is refused by those that have promised
 * the copy a higher term.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "node/node.h"
#include "pg_topics.h"

#define LEADERSHIP_PATIENCE_MS 1000 /* for a node to say who leads */

/* A node is asked who leads, in a subtransaction. */
typedef struct Question
{
	const ClusterRow *row;
	Leadership	answer;			/* its node is set before */
} Question;

static void
ask_node(void *arg)
{
	Question   *question = arg;
	const ClusterRow *row = question->row;
	Leadership *answer = &question->answer;
	const char *values[] = {
		row->node, row->cluster_id, psprintf(INT64_FORMAT, topics_max(row->term, row->promised_term))
	};
	long		patience = topics_min(LEADERSHIP_PATIENCE_MS, pg_topics_node_timeout);
	Peer	   *peer = topics_peer_connect_within(answer->node->name, answer->node->conninfo, patience);

	PG_TRY();
	{
		PeerResult *result = topics_peer_query_within(peer, "SELECT * FROM topic_log.leadership($1, $2, $3::int8)",
													  values, lengthof(values), patience);

		answer->leader = pstrdup(topics_peer_value(result, 0, 0));
		answer->leads = strcmp(topics_peer_value(result, 0, 1), "t") == 0;
		answer->term = pg_strtoint64(topics_peer_value(result, 0, 2));
		topics_peer_clear(result);
	}
	PG_FINALLY();
	{
		topics_peer_close(peer);
	}
	PG_END_TRY();
}

/*
 * Ask all others that count who leads, and return how many have answered.  *best is set to
 * one that leads, in the highest term; its node is NULL if there is none.  *highest_term is
 * raised to any that they are in, or have promised.
 */
int
topics_leadership_survey(const ClusterRow *row, Leadership *best, int64 *highest_term)
{
	int			count = 0;
	ListCell   *lc;

	memset(best, 0, sizeof(Leadership));
	foreach(lc, topics_metadata_list_nodes())
	{
		const MetadataNode *node = lfirst(lc);
		Question	question = {.row = row,.answer.node = node};
		ErrorData  *error;

		if (strcmp(node->name, row->node) == 0)
			continue;
		error = topics_subtransaction_try(ask_node, &question);
		if (error && topics_subtransaction_must_raise(error))
			ReThrowError(error);
		if (error)
			continue;
		count += node->counts ? 1 : 0;
		*highest_term = topics_max(*highest_term, question.answer.term);
		if (question.answer.leads && (best->node == NULL || question.answer.term > best->term))
			*best = question.answer;
	}
	return count;
}

/*
 * On a copy: hear from others what this node may have promised, and follow who leads.
 * Return true if this node may follow then; false if it led, nobody else does, and it has
 * to be elected.
 */
bool
topics_admission_ask(const ClusterRow *row)
{
	int			needed = topics_cluster_copy_quorum(row);
	int64		highest_term = row->promised_term;
	Leadership	best;
	int			count;

	if (row->voters <= 1)
	{
		topics_membership_lock();
		topics_membership_admit();
		return true;
	}
	count = topics_leadership_survey(row, &best, &highest_term);
	if (count < needed)
		ereport(ERROR,
				(errcode(ERRCODE_NOT_ENOUGH_REPLICAS),
				 errmsg("this server is a copy of node \"%s\", and is not admitted yet", row->node),
				 errdetail("%d of the other nodes have answered, and %d are needed to know what that node has promised and confirmed.",
						   count, needed),
				 errhint("It goes on when they can be reached. If they are lost, topics.failover() with allow_data_loss has a node lead.")));
	topics_membership_lock();
	if (best.node && best.term > row->term && best.term >= highest_term)
		topics_membership_follow(best.term, best.node->name);
	else
		topics_membership_raise_term(highest_term);
	return best.node != NULL || strcmp(row->leader, row->node) != 0;
}
