/*-------------------------------------------------------------------------
 *
 * admission.c
 *		A copy of a node takes its place.
 *
 * A standby that was promoted, and a server that was restored or upgraded, has
 * this node's row, and maybe not the latest one: it can lack what the node has
 * promised, and records that it has confirmed.  Such a copy does not know what
 * it lacks, so for an election, and for what is acknowledged, it is not there,
 * until
 *
 *	- it has heard from all others that count, of which one may have asked the node for a
 *	  promise, and promises nothing that is lower than what they say; then it follows, if
 *	  another node leads, and is the node again when it has all that the leader has
 *	  (replicator.c);
 *	- or, if the node led, and nobody else does, it is elected by so many others that one of
 *	  them is in each election (topics_cluster_copy_quorum), each of which it is level with.
 *
 * THE NODE ITSELF, if it lives on beside its copy, or is started again in its
 * place, knows nothing of what the copy has confirmed and promised.  So a copy
 * has each of these others note, durably, which server it is
 * (topic_log.admitted), before it hears what they know.  From then on they
 * refuse the node on any other server.  Who promises holds its row of the
 * leader set, and who notes all rows: no promise to the old server comes in
 * between.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "node/node.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_admit);

#define LEADERSHIP_PATIENCE_MS 1000 /* for a node to say who leads */

/* A node is asked who leads, in a subtransaction. */
typedef struct Question
{
	const ClusterRow *row;
	Leadership	answer;			/* its node is set before */
} Question;

/* Have another node note that this server is the node, and no other one. */
static void
have_admitted(Peer *peer, const ClusterRow *row, long patience)
{
	const char *values[] = {row->node, row->cluster_id, row->incarnation, topics_cluster_own_server()};

	topics_peer_clear(topics_peer_query_within(peer, "SELECT topic_log.admit($1, $2, $3, $4)",
											   values, lengthof(values), patience));
}

static void
ask_node(void *arg)
{
	Question   *question = arg;
	const ClusterRow *row = question->row;
	Leadership *answer = &question->answer;
	const char *values[] = {
		psprintf("%d", topics_leader_set), row->node, row->cluster_id,
		psprintf(INT64_FORMAT, topics_max(row->term, row->promised_term))
	};
	long		patience = topics_min(LEADERSHIP_PATIENCE_MS, pg_topics_node_timeout);
	Peer	   *peer = topics_peer_connect_within(answer->node->name, answer->node->conninfo, patience);

	PG_TRY();
	{
		PeerResult *result;

		if (!row->is_admitted)
			have_admitted(peer, row, patience);
		result = topics_peer_query_within(peer, "SELECT * FROM topic_log.leadership($1::int4, $2, $3, $4::int8)",
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
 * Ask all others that count who leads, and return how many have answered.
 * *best is set to one that leads, in the highest term; its node is NULL if
 * there is none.  *highest_term is raised to any that they are in, or have
 * promised.
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

		if (strcmp(node->name, row->node) == 0 || topics_peer_try(ask_node, &question) != NULL)
			continue;
		count += node->counts ? 1 : 0;
		*highest_term = topics_max(*highest_term, question.answer.term);
		if (question.answer.leads && (best->node == NULL || question.answer.term > best->term))
			*best = question.answer;
	}
	return count;
}

/*
 * On a copy: hear from others what this node may have promised, and follow who
 * leads.  Return true if this node may follow then; false if it led, nobody
 * else does, and it has to be elected.
 */
bool
topics_admission_ask(const ClusterRow *row)
{
	bool		led = strcmp(row->leader, row->node) == 0;
	int64		highest_term = row->promised_term;
	Leadership	best;
	int			count;
	int			needed;

	if (row->voters <= 1)
	{
		topics_membership_lock();
		topics_membership_admit();
		return true;
	}
	count = topics_leadership_survey(row, &best, &highest_term);
	needed = led && best.node == NULL ? topics_cluster_copy_quorum(row) : row->voters - 1;
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
	return best.node != NULL || !led;
}

/* ----------------------------------------------------------------
 *		The others
 * ----------------------------------------------------------------
 */

/*
 * Get the server that this node has admitted as another one, palloc'd, or
 * NULL.
 */
char *
topics_admission_server(const char *node)
{
	MemoryContext cxt = CurrentMemoryContext;
	const MetadataNode *known = topics_metadata_find_node(node);
	Oid			types[] = {TEXTOID, TEXTOID};
	Datum		values[] = {CStringGetTextDatum(node), CStringGetTextDatum(known ? known->incarnation : "")};
	char	   *result = NULL;
	StatementScope scope;

	PushActiveSnapshot(GetLatestSnapshot());
	scope = topics_statement_begin();
	if (SPI_execute_with_args("SELECT server FROM topic_log.admitted WHERE node = $1 AND incarnation::text = $2",
							  lengthof(types), types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for admitted servers");
	if (SPI_processed > 0)
		result = MemoryContextStrdup(cxt, SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
	topics_statement_end(scope);
	PopActiveSnapshot();
	return result;
}

/*
 * Return true if this node has admitted another server as a node than the one
 * that asks.
 */
bool
topics_admission_is_replaced(const char *node, const char *incarnation, const char *server)
{
	const MetadataNode *known = topics_metadata_find_node(node);
	const char *admitted;

	if (known == NULL || strcmp(known->incarnation, incarnation) != 0)
		return false;
	admitted = topics_admission_server(node);
	return admitted && strcmp(admitted, server) != 0;
}

/*
 * admit(node, cluster_id, incarnation, server): this server is the node from
 * now on
 */
Datum
topics_admit(PG_FUNCTION_ARGS)
{
	const char *node = topics_argument_get_text(fcinfo, 0);
	const MetadataNode *known;
	StatementScope scope;

	topics_settings_require_preload();
	topics_argument_require_all(fcinfo, PG_NARGS());
	topics_replica_feed_check_role(node, topics_argument_get_text(fcinfo, 1));
	topics_membership_lock_all();
	known = topics_metadata_find_node(node);
	if (known == NULL || strcmp(known->incarnation, topics_argument_get_text(fcinfo, 2)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNKNOWN_MEMBER),
				 errmsg("this database is not known as node \"%s\" of the cluster", node)));
	PushActiveSnapshot(GetLatestSnapshot());
	scope = topics_statement_begin();
	topics_statement_execute("INSERT INTO topic_log.admitted VALUES (%s, %s, %s) ON CONFLICT (node) DO UPDATE"
							 " SET incarnation = EXCLUDED.incarnation, server = EXCLUDED.server",
							 quote_literal_cstr(node), quote_literal_cstr(known->incarnation),
							 quote_literal_cstr(topics_argument_get_text(fcinfo, 3)));
	topics_statement_end(scope);
	PopActiveSnapshot();
	/* the copy hears of it when it is durable */
	ForceSyncCommit();
	PG_RETURN_VOID();
}
