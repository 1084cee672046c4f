/*-------------------------------------------------------------------------
 *
 * promise.c
 *		A node promises to follow a candidate: its vote.
 *
 * A TERM is a time in which one node leads, and has one number: an election
 * begins it.  A node that wants to lead asks the others for a promise, and
 * leads when it has as many as make sure that one of them has all that was
 * ever acknowledged (election.c).  A promise is for a term and a candidate.
 * It is in this node's row of topic_log.cluster, and durable before the
 * candidate hears of it.  From then on
 *
 *	- it promises nobody else for that term, or for a lower one: so there is one leader
 *	  in a term;
 *	- it takes nothing from a leader of a lower term: whoever replicates holds the row,
 *	  and has seen that it is the same as before (replicator.c);
 *	- if it leads, it does not any more: commits find that under the append lock, and
 *	  those that wait to be confirmed are not acknowledged (mark_slot.c).  Nobody appends
 *	  from before it compares its log with the candidate's: what another node could confirm
 *	  in between would not be in the candidate's log.
 *
 * WHO IS REFUSED.  A candidate whose last term is lower than ours, or, in the
 * same one, whose log is shorter in any partition: both are prefixes of the
 * log of that term's leader, so the longer has all that the shorter has.  As
 * metadata are records like all others, a candidate that does not know of a
 * change of nodes that we know of is refused as well.
 *
 * A node that is asked what it would promise also refuses while it hears from
 * the leader: so one that was cut off and comes back does not end the term of
 * a leader that all others hear from (Raft: pre-vote).
 *
 * The model is test/model.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "node/node.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_promise);
PG_FUNCTION_INFO_V1(topics_follow);
PG_FUNCTION_INFO_V1(topics_leadership);

#define MAX_TERMS_AHEAD INT64CONST(1000000) /* that a node may have missed */

/* Arguments of promise */
enum
{
	PROMISE_SET,
	PROMISE_VOTER,
	PROMISE_VOTER_INCARNATION,
	PROMISE_VOTER_SERVER,
	PROMISE_CLUSTER_ID,
	PROMISE_CANDIDATE,
	PROMISE_INCARNATION,
	PROMISE_SERVER,
	PROMISE_TERM,
	PROMISE_LAST_TERM,
	PROMISE_ENDS,
	PROMISE_ONLY_ASKS
};

/* Columns of its result, and of that of leadership */
enum
{
	ANSWER_REFUSAL,
	ANSWER_TERM,
	ANSWER_COLUMNS
};

enum
{
	LEADERSHIP_LEADER,
	LEADERSHIP_LEADS,
	LEADERSHIP_TERM,
	LEADERSHIP_COLUMNS
};

/* Who wants to lead, and what it has. */
typedef struct Candidate
{
	const char *name;
	const char *incarnation;
	const char *server;			/* that it runs on (admission.c) */
	int64		term;			/* that is to begin */
	int64		last_term;		/* of its log */
	const char *ends;			/* of its logs (log_ends.c) */
	bool		only_asks;
} Candidate;

/*
 * Find why a candidate that is not further than we are is refused; NULL: it is
 * not.
 */
static char *
compare_logs(const Candidate *candidate, const ClusterRow *row)
{
	char	   *longer;

	if (candidate->last_term > row->term)
		return NULL;
	if (candidate->last_term < row->term)
		return psprintf("its log is of term " INT64_FORMAT ", and that of node \"%s\" of term " INT64_FORMAT,
						candidate->last_term, row->node, row->term);
	if (topics_log_ends_are_lacking(true))
		return psprintf("node \"%s\" reads a topic anew, of which it has confirmed more than it has", row->node);
	longer = topics_log_ends_find_longer(topics_log_ends_get(), candidate->ends);
	return longer ? psprintf("node \"%s\" has more of %s", row->node, longer) : NULL;
}

/* Require a term to be one that there can be, so that others come after it. */
static void
check_term(int64 term, const ClusterRow *row)
{
	if (term < 0 || term > topics_max(row->term, row->promised_term) + MAX_TERMS_AHEAD)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid term " INT64_FORMAT, term)));
}

/*
 * Require this node to be the one that a candidate asks, by name and
 * incarnation, on the server that this one has admitted, if any: its vote
 * counts once.
 */
static void
check_voter(FunctionCallInfo fcinfo)
{
	const char *voter = topics_argument_get_text(fcinfo, PROMISE_VOTER);
	ClusterRow	row;

	topics_cluster_require_row(&row);
	if (strcmp(voter, row.node) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNKNOWN_MEMBER),
				 errmsg("this is node \"%s\", not node \"%s\"", row.node, voter),
				 errhint("topics.alter_node() says where a node is.")));
	if (strcmp(topics_argument_get_text(fcinfo, PROMISE_VOTER_INCARNATION), row.incarnation) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNKNOWN_MEMBER),
				 errmsg("node \"%s\" is another database by now", voter)));
	if (!PG_ARGISNULL(PROMISE_VOTER_SERVER) &&
		strcmp(topics_argument_get_text(fcinfo, PROMISE_VOTER_SERVER), topics_cluster_own_server()) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNKNOWN_MEMBER),
				 errmsg("another server was admitted as node \"%s\"", voter)));
}

/* Find why a candidate is refused; NULL: it is not. */
static char *
find_refusal(const Candidate *candidate, const ClusterRow *row)
{
	const MetadataNode *node = topics_metadata_find_node(candidate->name);

	if (row->is_removed)
		return psprintf("node \"%s\" was removed from the cluster", row->node);
	if (!row->is_admitted)
		return psprintf("node \"%s\" is a copy of that node, which was not admitted yet", row->node);
	if (node == NULL || strcmp(node->incarnation, candidate->incarnation) != 0)
		return psprintf("node \"%s\" does not know this database as a node of the cluster", row->node);
	if (topics_admission_is_replaced(candidate->name, candidate->incarnation, candidate->server))
		return psprintf("node \"%s\" has admitted another server as that node", row->node);
	if (!node->counts)
		return pstrdup("it has not had all that the leader has");
	if (candidate->term < row->promised_term ||
		(candidate->term == row->promised_term && strcmp(row->promised_to, candidate->name) != 0))
		return psprintf("node \"%s\" has promised term " INT64_FORMAT " to node \"%s\"",
						row->node, row->promised_term, row->promised_to);
	if (candidate->term <= row->term)
		return psprintf("node \"%s\" is in term " INT64_FORMAT, row->node, row->term);
	if (candidate->only_asks && !row->leads && strcmp(row->leader, candidate->name) != 0 &&
		topics_mark_slot_hears_leader(pg_topics_node_timeout))
		return psprintf("node \"%s\" hears from node \"%s\", which leads", row->node, row->leader);
	if (candidate->only_asks && row->leads && topics_follower_is_heard(topics_leader_set, row->voters - topics_cluster_quorum(row)))
		return psprintf("node \"%s\" leads", row->node);
	return compare_logs(candidate, row);
}

/*
 * promise(leader_set, voter, voter_incarnation, voter_server, cluster_id,
 * candidate, incarnation, server, term, last_term, ends, only_asks): whether
 * this node follows the candidate when it leads in that term, and nobody of a
 * lower one from now on
 */
static Datum
promise(PG_FUNCTION_ARGS)
{
	const char *cluster_id = topics_argument_get_text(fcinfo, PROMISE_CLUSTER_ID);
	Candidate	candidate = {
		.name = topics_argument_get_text(fcinfo, PROMISE_CANDIDATE),
		.incarnation = topics_argument_get_text(fcinfo, PROMISE_INCARNATION),
		.server = topics_argument_get_text(fcinfo, PROMISE_SERVER),
		.term = PG_GETARG_INT64(PROMISE_TERM),
		.last_term = PG_GETARG_INT64(PROMISE_LAST_TERM),
		.ends = topics_argument_get_text(fcinfo, PROMISE_ENDS),
		.only_asks = PG_GETARG_BOOL(PROMISE_ONLY_ASKS)
	};
	Datum		values[ANSWER_COLUMNS];
	bool		nulls[ANSWER_COLUMNS] = {false};
	TupleDesc	tupdesc;
	ClusterRow	row;
	char	   *refusal;

	for (int i = PROMISE_CLUSTER_ID; i <= PROMISE_ONLY_ASKS; i++)
		topics_argument_require(fcinfo, i);
	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	topics_replica_feed_check_role(candidate.name, cluster_id);
	check_voter(fcinfo);
	topics_log_ends_learn(false);
	if (candidate.only_asks)
		topics_membership_hold();
	else
		topics_membership_lock();
	topics_cluster_require_row(&row);
	check_term(candidate.term, &row);

	/*
	 * what is appended while the logs are compared could be confirmed by
	 * others, and not be in the candidate's
	 */
	if (row.leads && !candidate.only_asks)
		topics_membership_freeze();
	refusal = find_refusal(&candidate, &row);
	if (refusal == NULL && !candidate.only_asks)
	{
		TEST_POINT("promise-given");
		topics_membership_promise(candidate.term, candidate.name);
		if (row.leads)
			ereport(LOG,
					(errmsg("pg_topics: node \"%s\" leads no more: node \"%s\" is to, in term " INT64_FORMAT,
							row.node, candidate.name, candidate.term)));
		/* the candidate hears of it when it is durable */
		ForceSyncCommit();
	}

	nulls[ANSWER_REFUSAL] = refusal == NULL;
	if (refusal)
		values[ANSWER_REFUSAL] = CStringGetTextDatum(refusal);
	values[ANSWER_TERM] = Int64GetDatum(topics_max(row.promised_term, row.term));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}

Datum
topics_promise(PG_FUNCTION_ARGS)
{
	return topics_leader_set_call(fcinfo, promise);
}

/*
 * follow(leader_set, cluster_id, leader, incarnation, term): a node was
 * elected, and tells of it
 */
static Datum
follow(PG_FUNCTION_ARGS)
{
	const char *cluster_id = topics_argument_get_text(fcinfo, 1);
	const char *leader = topics_argument_get_text(fcinfo, 2);
	int64		term = PG_GETARG_INT64(4);
	const MetadataNode *node;
	ClusterRow	row;

	topics_argument_require_all(fcinfo, PG_NARGS());
	topics_replica_feed_check_role(leader, cluster_id);
	topics_membership_lock();
	topics_cluster_require_row(&row);
	check_term(term, &row);
	node = topics_metadata_find_node(leader);
	if (node && strcmp(node->incarnation, topics_argument_get_text(fcinfo, 3)) == 0)
		topics_membership_follow(term, leader);
	PG_RETURN_VOID();
}

Datum
topics_follow(PG_FUNCTION_ARGS)
{
	return topics_leader_set_call(fcinfo, follow);
}

/*
 * leadership(leader_set, node, cluster_id, promised_term): who leads, as far
 * as this node knows, and in which term.  If it is this one, it hears what the
 * other has promised.
 */
static Datum
leadership(PG_FUNCTION_ARGS)
{
	int64		promised_term = PG_GETARG_INT64(3);
	Datum		values[LEADERSHIP_COLUMNS];
	bool		nulls[LEADERSHIP_COLUMNS] = {false};
	TupleDesc	tupdesc;
	ClusterRow	row;

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	topics_replica_feed_check_role(topics_argument_get_text(fcinfo, 1), topics_argument_get_text(fcinfo, 2));
	topics_argument_require_all(fcinfo, PG_NARGS());
	topics_cluster_require_row(&row);
	if (row.leads && promised_term > row.term)
		topics_mark_slot_note_higher_term(promised_term);
	values[LEADERSHIP_LEADER] = CStringGetTextDatum(row.leader);
	values[LEADERSHIP_LEADS] = BoolGetDatum(row.leads);
	values[LEADERSHIP_TERM] = Int64GetDatum(topics_max(row.promised_term, row.term));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}

Datum
topics_leadership(PG_FUNCTION_ARGS)
{
	return topics_leader_set_call(fcinfo, leadership);
}
