/*-------------------------------------------------------------------------
 *
 * election.c
 *		A node comes to lead: by failover, by a planned move, or as others want it.
 *
 *	failover	this node is the candidate, and asks the others for a promise (promise.c)
 *	move_leader	the node that leads has another one be the candidate, when that one has
 *		all, and lets nobody append meanwhile
 *	rebalance_leaders	... the node that is preferred
 *
 * Each is for all leader sets that one node leads, one after the other; an
 * election is of one.
 *
 * HOW MANY PROMISES.  So many that of any two elections one node promises in
 * both, and that of the nodes that promise one has any commit that was ever
 * acknowledged: a majority, or all but as many as have such a commit without
 * the leader (topics_cluster_quorum).  The candidate's own is one of them.  It
 * has in each partition what each of those that promise has, so it has all
 * that was acknowledged.
 *
 * WHEN IT LEADS.  The candidate goes back to its last whole cut, and says in
 * its row that it leads, in one transaction.  The next one begins the epoch:
 * the first records of the term are those of the metadata that say so
 * (membership.c).  Followers come into the term when they have all that there
 * was before (replica_feed.c), and confirm from then on; so nothing of the new
 * term is acknowledged, and nothing of earlier ones that was not, before
 * enough of them are in it.
 *
 * AFTER ANY FAILURE the same call can be made again.  A candidate that has
 * promised itself, and does not come to lead, stands in nobody's way: the next
 * term is higher.
 *
 * A PLANNED MOVE loses nothing, also with acks = 1: nobody appends from before
 * the other node has all until this one has promised.  Commits wait meanwhile,
 * and are refused (TP004) when it has.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "node/node.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_failover);
PG_FUNCTION_INFO_V1(topics_move_leader);
PG_FUNCTION_INFO_V1(topics_rebalance_leaders);
PG_FUNCTION_INFO_V1(topics_take_lead);
PG_FUNCTION_INFO_V1(topics_hand_over);

#define PEER_PATIENCE_MS 2000	/* for a node to answer a candidate */
#define PEER_TIMEOUT "SET statement_timeout = '2 s'"
#define MOVE_PATIENCE_MS 5000	/* for the other node to have all */
#define MOVE_LOOK_MS 2
#define TOPIC_LOOK_MS 10
#define TERM_TRIES 3			/* with a higher term, if another was promised */

/* An election in which this node is the candidate; all is in "cxt". */
typedef struct Election
{
	MemoryContext cxt;
	NextTransaction next_transaction;
	ClusterRow	row;
	int64		term;
	char	   *ends;
	bool		allow_data_loss;	/* lead also without enough promises */
	const char *lost_node;		/* which is not asked, or NULL */
	List	   *peers;			/* of ElectionPeer */
	bool		counts;			/* this node is one that counts, as far as it
								 * knows */
	int			own;			/* promises of our own that count: not of a
								 * copy */
	int			granted;		/* promises, with our own */
	int			needed;
	int64		highest_term;	/* that anybody has said */
	StringInfoData refusals;	/* why others do not promise */
	int			unreached;		/* length of those of nodes that could not be
								 * reached, which come first */
} Election;

typedef struct ElectionPeer
{
	const char *name;
	const char *incarnation;
	Peer	   *peer;
} ElectionPeer;

/* ----------------------------------------------------------------
 *		The other nodes
 * ----------------------------------------------------------------
 */

/* A connection that is tried. */
typedef struct Attempt
{
	const Election *election;
	const MetadataNode *node;
	Peer	   *peer;			/* the result, or to be asked */
	const char *voter;			/* its name */
	const char *voter_incarnation;
	bool		only_asks;
	const char *refusal;		/* the result; NULL: it promises */
	int64		term;
} Attempt;

static void
try_to_connect(void *arg)
{
	Attempt    *attempt = arg;

	attempt->peer = topics_peer_connect_within(attempt->node->name, attempt->node->conninfo, PEER_PATIENCE_MS);
	/* what nobody waits for any more is not to go on there */
	topics_peer_clear(topics_peer_query_within(attempt->peer, PEER_TIMEOUT, NULL, 0, PEER_PATIENCE_MS));
}

/* Add why a node does not promise. */
static void
note_refusal(Election *election, const char *node, const char *refusal)
{
	appendStringInfo(&election->refusals, "%snode \"%s\": %s", election->refusals.len > 0 ? "; " : "",
					 node, refusal);
}

/*
 * Do something with another node that may fail.  Return false if it has
 * failed.
 */
static bool
try_peer(Election *election, const char *node, void (*work) (void *arg), void *arg)
{
	ErrorData  *error = topics_peer_try(work, arg);

	if (error == NULL)
		return true;
	note_refusal(election, node, error->message);
	FreeErrorData(error);
	return false;
}

/* Connect to the other nodes that count, but for the one that is lost. */
static void
connect_peers(Election *election)
{
	ListCell   *lc;

	resetStringInfo(&election->refusals);
	foreach(lc, topics_metadata_list_nodes())
	{
		Attempt		attempt = {.election = election,.node = lfirst(lc)};
		ElectionPeer *peer;
		MemoryContext old;

		if (!attempt.node->counts || strcmp(attempt.node->name, election->row.node) == 0)
			continue;
		if (election->lost_node && strcmp(attempt.node->name, election->lost_node) == 0)
			continue;
		if (!try_peer(election, attempt.node->name, try_to_connect, &attempt))
			continue;
		old = MemoryContextSwitchTo(election->cxt);
		peer = palloc(sizeof(ElectionPeer));
		peer->name = pstrdup(attempt.node->name);
		peer->incarnation = pstrdup(attempt.node->incarnation);
		peer->peer = attempt.peer;
		election->peers = lappend(election->peers, peer);
		MemoryContextSwitchTo(old);
	}
	election->unreached = election->refusals.len;
}

static void
close_peers(Election *election)
{
	ListCell   *lc;

	foreach(lc, election->peers)
		topics_peer_close(((ElectionPeer *) lfirst(lc))->peer);
	election->peers = NIL;
}

static void
send_to_peer(void *arg)
{
	Attempt    *attempt = arg;
	const Election *election = attempt->election;
	const char *values[] = {
		psprintf("%d", topics_leader_set), attempt->voter, attempt->voter_incarnation, topics_admission_server(attempt->voter), election->row.cluster_id, election->row.node,
		election->row.incarnation, topics_cluster_own_server(), psprintf(INT64_FORMAT, election->term), psprintf(INT64_FORMAT, election->row.term),
		election->ends, attempt->only_asks ? "t" : "f"
	};

	topics_peer_send(attempt->peer, "SELECT * FROM topic_log.promise($1::int4, $2, $3, $4, $5, $6, $7, $8, $9::int8, $10::int8, $11, $12::bool)",
					 values, lengthof(values));
}

static void
hear_peer(void *arg)
{
	Attempt    *attempt = arg;
	PeerResult *result = topics_peer_receive(attempt->peer, PEER_PATIENCE_MS);
	const char *refusal = topics_peer_value(result, 0, 0);

	attempt->refusal = refusal ? pstrdup(refusal) : NULL;
	attempt->term = pg_strtoint64(topics_peer_value(result, 0, 1));
	topics_peer_clear(result);
}

/*
 * Ask all at once for their promise, or, with "only_asks", what they would
 * say.
 */
static void
ask_peers(Election *election, bool only_asks)
{
	List	   *asked = NIL;
	ListCell   *lc;

	election->granted = election->own;
	election->refusals.len = election->unreached;
	election->refusals.data[election->unreached] = '\0';
	if (!election->row.is_admitted)
		note_refusal(election, election->row.node, "it is a copy of that node, which was not admitted yet");
	foreach(lc, election->peers)
	{
		ElectionPeer *peer = lfirst(lc);
		Attempt		attempt = {.election = election,.peer = peer->peer,.voter = peer->name,.voter_incarnation = peer->incarnation,.only_asks = only_asks};

		if (try_peer(election, peer->name, send_to_peer, &attempt))
			asked = lappend(asked, peer);
	}
	foreach(lc, asked)
	{
		ElectionPeer *peer = lfirst(lc);
		Attempt		attempt = {.election = election,.peer = peer->peer};

		if (!try_peer(election, peer->name, hear_peer, &attempt))
			continue;
		election->highest_term = topics_max(election->highest_term, attempt.term);
		if (attempt.refusal)
			note_refusal(election, peer->name, attempt.refusal);
		else
			election->granted++;
	}
}

static void
tell_peer(void *arg)
{
	Attempt    *attempt = arg;
	const ClusterRow *row = &attempt->election->row;
	const char *values[] = {
		psprintf("%d", topics_leader_set), row->cluster_id, row->node, row->incarnation,
		psprintf(INT64_FORMAT, attempt->election->term)
	};

	topics_peer_clear(topics_peer_query_within(attempt->peer, "SELECT topic_log.follow($1::int4, $2, $3, $4, $5::int8)",
											   values, lengthof(values), PEER_PATIENCE_MS));
}

/* Tell the others that this node leads; who does not hear of it asks. */
static void
tell_peers(Election *election)
{
	ListCell   *lc;

	foreach(lc, election->peers)
	{
		ElectionPeer *peer = lfirst(lc);
		Attempt		attempt = {.election = election,.peer = peer->peer};

		(void) try_peer(election, peer->name, tell_peer, &attempt);
	}
}

/* ----------------------------------------------------------------
 *		The candidate
 * ----------------------------------------------------------------
 */

/* Go to the next transaction, and stay in our memory. */
static void
next_transaction(Election *election)
{
	election->next_transaction();
	MemoryContextSwitchTo(election->cxt);
}

/*
 * Find how many promises are needed, by the nodes that this one knows of now.
 */
static void
set_quorum(Election *election)
{
	const MetadataNode *self = topics_metadata_find_node(election->row.node);

	election->counts = self && self->counts && strcmp(self->incarnation, election->row.incarnation) == 0;
	election->own = election->row.is_admitted && election->counts ? 1 : 0;
	election->needed = election->row.is_admitted ? topics_cluster_quorum(&election->row) :
		topics_cluster_copy_quorum(&election->row);
}

/* Take the next term that is this node's, above all that are known. */
static void
set_term(Election *election)
{
	int64		above = topics_max(topics_max(election->row.term, election->row.promised_term), election->highest_term);

	election->term = topics_metadata_next_term(election->row.node, above);
}

/*
 * Forget connections to nodes that do not count any more, as far as is known
 * now.
 */
static void
drop_peers(Election *election)
{
	ListCell   *lc;

	foreach(lc, election->peers)
	{
		ElectionPeer *peer = lfirst(lc);
		const MetadataNode *node = topics_metadata_find_node(peer->name);

		if (node && node->counts && strcmp(node->incarnation, peer->incarnation) == 0)
			continue;
		topics_peer_close(peer->peer);
		election->peers = foreach_delete_current(election->peers, lc);
	}
}

/*
 * Raise an error if this node does not count.  Who counts may have elected
 * another one without it.
 */
static void
require_counted(const Election *election)
{
	if (!election->counts)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("node \"%s\" cannot lead", election->row.node),
				 errdetail("As far as it knows, it does not count as a copy, as it has not had all that the leader has, or was removed."),
				 errhint("Call topics.failover() on another node. With allow_data_loss this node leads what it has.")));
}

/*
 * Promise ourselves; nothing comes from an earlier leader from then on.
 * Commits.
 */
static void
promise_self(Election *election)
{
	topics_membership_lock_for_ends();
	if (!election->row.leads)
		topics_metadata_apply_cluster();
	CommandCounterIncrement();
	topics_cluster_require_row(&election->row);
	set_quorum(election);
	set_term(election);
	drop_peers(election);
	topics_membership_promise(election->term, election->row.node);
	ForceSyncCommit();
	next_transaction(election);
	TEST_POINT("election-promised");
	/* they stay as they are now, unless another one comes to lead */
	election->ends = topics_log_ends_get();
}

/*
 * Lead, if nothing has been promised to another one meanwhile.  Commits.
 * Return false if it has.
 */
static bool
begin_term(Election *election, bool data_loss)
{
	ClusterRow	row;

	topics_membership_lock_for_ends();
	topics_cluster_require_row(&row);
	if (row.promised_term != election->term || strcmp(row.promised_to, row.node) != 0)
		return false;
	topics_divergence_finish_cut(&row);
	topics_membership_lead(election->term, data_loss);
	ForceSyncCommit();
	next_transaction(election);
	TEST_POINT("election-won");
	topics_membership_lock_to_write();
	topics_membership_say_leader();
	next_transaction(election);
	ereport(data_loss ? WARNING : LOG,
			(errmsg("pg_topics: node \"%s\" leads from now on, in term " INT64_FORMAT, row.node, election->term),
			 data_loss ? errdetail("Too few nodes have promised to follow it: what was acknowledged may be lost.") : 0));
	tell_peers(election);
	return true;
}

/* Raise why this node does not come to lead. */
static void
report_no_quorum(const Election *election)
{
	ereport(ERROR,
			(errcode(ERRCODE_NOT_ENOUGH_REPLICAS),
			 errmsg("node \"%s\" cannot lead", election->row.node),
			 errdetail("%d of %d nodes have promised to follow it, and %d are needed%s%s.", election->granted,
					   election->row.voters, election->needed, election->refusals.len > 0 ? ": " : "",
					   election->refusals.data),
			 errhint("Call topics.failover() on a node that has more, or when more nodes can be reached. With allow_data_loss this node leads what it has.")));
}

/* Raise an error if this node lacks what was there before its term. */
static void
require_whole(const Election *election)
{
	if (topics_log_ends_are_lacking(false))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("node \"%s\" cannot lead", election->row.node),
				 errdetail("It does not have all of some partitions, which were stopped there."),
				 errhint("Call topics.failover() on another node. With allow_data_loss this node leads what it has.")));
}

/*
 * Raise an error if this node lacks a topic, and is to lead the metadata: what
 * others have of it could be lost by that.  One that has just come is made by
 * the replicator.
 */
static void
require_topics(void)
{
	MonotonicTime until = topics_clock_in(PEER_PATIENCE_MS);
	char	   *missing;

	if (topics_leader_set != METADATA_SET)
		return;
	for (; (missing = topics_metadata_find_missing_topic()) != NULL; topics_peer_nap(TOPIC_LOOK_MS))
		if (topics_clock_now() >= until)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("this node cannot lead"),
					 errdetail("It does not have topic \"%s\".", missing),
					 errhint("Look at topics.worker here, or call topics.failover() on another node. With allow_data_loss this node leads what it has.")));
}

/* Begin an election, with all that is in "cxt". */
static void
begin_election(Election *election, MemoryContext cxt, NextTransaction next, const char *lost_node)
{
	memset(election, 0, sizeof(Election));
	election->cxt = cxt;
	election->next_transaction = next;
	election->lost_node = lost_node;
	initStringInfo(&election->refusals);
	topics_cluster_require_row(&election->row);
	topics_feature_level_require(&election->row, election->row.node, topics_feature_level_own());
	set_quorum(election);
}

/* Have this node elected.  Raises an error if it is not. */
static void
elect(Election *election)
{
	if (!election->allow_data_loss)
	{
		require_topics();
		require_whole(election);
		require_counted(election);
	}
	if (election->peers == NIL)
		connect_peers(election);
	for (int tries = 0; tries < TERM_TRIES; tries++)
	{
		promise_self(election);
		if (!election->allow_data_loss)
			require_counted(election);
		ask_peers(election, false);
		if (election->granted >= election->needed || election->highest_term < election->term)
			break;
	}
	TEST_POINT("election-asked");
	if (election->granted < election->needed && !election->allow_data_loss)
		report_no_quorum(election);
	if (!begin_term(election, election->granted < election->needed))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("node \"%s\" has promised to follow another one meanwhile", election->row.node),
				 errhint("Look at topics.node, and call topics.failover() again if no node leads.")));
}

/* The same, if enough of the others would promise. */
static void
elect_if_wanted(Election *election)
{
	set_term(election);
	election->ends = topics_log_ends_get();
	require_topics();
	require_whole(election);
	require_counted(election);
	connect_peers(election);
	for (int tries = 0; tries < TERM_TRIES; tries++)
	{
		ask_peers(election, true);
		if (election->granted >= election->needed || election->highest_term < election->term)
			break;

		/*
		 * a node that has promised itself a term, and cannot lead, is in
		 * nobody's way
		 */
		set_term(election);
	}
	if (election->granted >= election->needed)
		elect(election);
}

/*
 * Run an election, by one of the two, and close the connections that it has
 * made.
 */
static void
run_election(Election *election, void (*run) (Election *election))
{
	PG_TRY();
	{
		run(election);
	}
	PG_CATCH();
	{
		close_peers(election);
		PG_RE_THROW();
	}
	PG_END_TRY();
	close_peers(election);
}

/*
 * From the replicator of a node that does not hear from the leader: have this
 * node elected, if enough of the others would promise.  Return false if they
 * would not, or, with "reports", raise an error that says why.  All is in
 * "cxt".
 */
bool
topics_election_stand(MemoryContext cxt, NextTransaction next, bool reports)
{
	MemoryContext old = MemoryContextSwitchTo(cxt);
	Election	election;

	begin_election(&election, cxt, next, NULL);
	election.lost_node = election.row.leads ? NULL : election.row.leader;
	run_election(&election, elect_if_wanted);
	if (election.granted < election.needed && reports)
		report_no_quorum(&election);
	MemoryContextSwitchTo(old);
	return election.granted >= election.needed;
}

/* ----------------------------------------------------------------
 *		failover
 * ----------------------------------------------------------------
 */

static void
commit_in_procedure(void)
{
	SPI_commit();
}

static void
require_call(FunctionCallInfo fcinfo, const char *command)
{
	topics_membership_check_call(command);
	topics_argument_require_no_block(fcinfo, command);
}

/* Read the row of a database that is in a cluster. */
static void
read_row(ClusterRow *row)
{
	if (!topics_cluster_read_row(row))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database is in no cluster"),
				 errhint("Make one with topics.create_cluster().")));
}

/*
 * Error context: in a cluster with spread leaders the sets before this one are
 * done.
 */
static void
describe_set(void *arg)
{
	if (topics_leader_set != METADATA_SET)
		errcontext("leader set %d", topics_leader_set);
}

/* Do something for a leader set, which this process acts for meanwhile. */
static void
act_for(int set, void (*work) (void *arg), void *arg)
{
	int			before = topics_mark_slot_act_for(set);
	ErrorContextCallback callback = {error_context_stack, describe_set, NULL};

	error_context_stack = &callback;
	PG_TRY();
	{
		work(arg);
	}
	PG_FINALLY();
	{
		(void) topics_mark_slot_act_for(before);
	}
	PG_END_TRY();
	error_context_stack = callback.previous;
}

/* A failover, and what has become of it. */
typedef struct Failover
{
	char	   *lost_node;
	bool		allow_data_loss;
	bool		leads;			/* this node some set already */
	bool		elected;
} Failover;

/* Have this node lead a set, if another one does that is lost. */
static void
fail_over(void *arg)
{
	Failover   *failover = arg;
	Election	election;
	ClusterRow	row;

	if (!topics_cluster_read_row(&row))
		return;
	if (row.leads)
	{
		/* it was called before, or another way of failover was faster */
		failover->leads = true;
		if (failover->allow_data_loss)
		{
			topics_membership_lock();
			topics_membership_accept_loss();
		}
		return;
	}
	/* of other sets than the first only those that it has led */
	if (topics_leader_set != METADATA_SET && *row.leader && strcmp(failover->lost_node, row.leader) != 0)
		return;
	/* one that it has promised to follow may not lead */
	if (*row.leader && strcmp(failover->lost_node, row.leader) != 0 && row.promised_term <= row.term &&
		topics_mark_slot_hears_leader(pg_topics_node_timeout))
		return;
	failover->elected = true;
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	begin_election(&election, CurrentMemoryContext, commit_in_procedure, failover->lost_node);
	election.allow_data_loss = failover->allow_data_loss;
	run_election(&election, elect);
	SPI_finish();
}

/* CALL failover(lost_node, allow_data_loss) */
Datum
topics_failover(PG_FUNCTION_ARGS)
{
	Failover	failover = {
		.lost_node = topics_argument_get_text(fcinfo, 0),
		.allow_data_loss = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1)
	};
	ClusterRow	row;

	require_call(fcinfo, "topics.failover()");
	read_row(&row);
	if (strcmp(failover.lost_node, row.node) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("node \"%s\" is this node", failover.lost_node),
				 errhint("Call topics.failover() on the node that is to lead, or topics.move_leader() here.")));
	if (topics_metadata_find_node(failover.lost_node) == NULL)
		topics_membership_report_no_node(failover.lost_node);
	if (row.is_removed && !failover.allow_data_loss)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("node \"%s\" was removed from the cluster", row.node),
				 errhint("SELECT topic_log.leave_cluster() has it lead its topics by itself; topics.add_node() on the node that leads has it come back.")));
	for (int set = METADATA_SET; set < MAX_LEADER_SETS; set++)
		act_for(set, fail_over, &failover);
	if (!failover.elected && !failover.leads)
		topics_cluster_report_other_leader(failover.lost_node);
	if (!failover.elected)
		ereport(NOTICE, (errmsg("node \"%s\" leads already", row.node)));
	PG_RETURN_VOID();
}

/* Connections for the election that comes, in TopMemoryContext. */
static List *prepared_peers = NIL;

/*
 * Connect to the others, and ask them what they would say: then they know all
 * that they look up.
 */
static void
prepare_election(Election *election)
{
	election->peers = prepared_peers;
	prepared_peers = NIL;
	close_peers(election);
	connect_peers(election);
	set_term(election);
	election->ends = topics_log_ends_get();
	ask_peers(election, true);
	prepared_peers = election->peers;
	election->peers = NIL;
}

/*
 * take_lead(leader_set, prepares): have this node elected, for the node that
 * leads, which is asked, too; or prepare that: see move_leader
 */
static Datum
take_lead(PG_FUNCTION_ARGS)
{
	bool		prepares = PG_GETARG_BOOL(1);
	Election	election;
	ClusterRow	row;

	PreventCommandIfReadOnly("topic_log.take_lead()");
	topics_argument_require_no_block(fcinfo, "topic_log.take_lead()");
	read_row(&row);
	topics_replica_feed_check_role(row.node, row.cluster_id);
	if (row.leads)
		PG_RETURN_VOID();
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	begin_election(&election, prepares ? TopMemoryContext : CurrentMemoryContext, commit_in_procedure, NULL);
	if (!prepares)
	{
		election.peers = prepared_peers;
		prepared_peers = NIL;
	}
	run_election(&election, prepares ? prepare_election : elect);
	SPI_finish();
	PG_RETURN_VOID();
}

Datum
topics_take_lead(PG_FUNCTION_ARGS)
{
	return topics_leader_set_call(fcinfo, take_lead);
}

/* ----------------------------------------------------------------
 *		move_leader
 * ----------------------------------------------------------------
 */

/*
 * Wait until a follower has all that there is, or, with "ends", all that there
 * was.  Raise an error if it takes too long.
 */
static void
wait_for_node(const char *node, const uint64 *ends)
{
	MonotonicTime until = topics_clock_in(MOVE_PATIENCE_MS);
	Follower	follower;

	for (;; topics_peer_nap(MOVE_LOOK_MS))
	{
		if (topics_follower_read(node, &follower) && follower.session != 0 &&
			topics_follower_has_all(follower.number, ends))
			return;
		if (topics_clock_now() >= until)
			ereport(ERROR,
					(errcode(ERRCODE_NOT_ENOUGH_REPLICAS),
					 errmsg("node \"%s\" does not have all that this node has", node),
					 errdetail("This node goes on leading what was not moved before. The other one was given %d s.", MOVE_PATIENCE_MS / 1000),
					 errhint("Look at topics.replica, and call topics.move_leader() again when the node is in sync.")));
	}
}

/* before_shmem_exit and PG_ENSURE_ERROR_CLEANUP: others may append again. */
static void
thaw(int code, Datum set)
{
	topics_mark_slot_thaw(DatumGetInt32(set));
}

/*
 * A node has been elected, maybe without our promise: follow it, before
 * anybody appends here again.
 */
static void
follow_taker(Peer *peer, const char *node)
{
	const char *values[] = {psprintf("%d", topics_leader_set)};
	PeerResult *result = topics_peer_query_within(peer, "SELECT term FROM topic_log.cluster WHERE leader = node AND leader_set = $1::int4",
												  values, lengthof(values), 2 * MOVE_PATIENCE_MS);
	int64		term = topics_peer_count(result) > 0 ? pg_strtoint64(topics_peer_value(result, 0, 0)) : 0;

	topics_peer_clear(result);
	topics_membership_lock();
	topics_membership_follow(term, node);
	SPI_commit();
}

/* Have the other node be elected, or prepare that. */
static void
have_take_lead(Peer *peer, bool prepares)
{
	const char *values[] = {psprintf("%d", topics_leader_set), prepares ? "t" : "f"};

	topics_peer_clear(topics_peer_query_within(peer, "CALL topic_log.take_lead($1::int4, $2::bool)",
											   values, lengthof(values), 2 * MOVE_PATIENCE_MS));
}

/* Hand over to a node that is connected, and in sync. */
static void
hand_over(Peer *peer, const char *node)
{
	Datum		set = Int32GetDatum(topics_leader_set);

	PG_ENSURE_ERROR_CLEANUP(thaw, set);
	{
		if (!topics_mark_slot_freeze(false))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("this node is handing over, or does not lead any more"),
					 errhint("Look at topics.node.")));
		TEST_POINT("move-frozen");
		wait_for_node(node, NULL);
		have_take_lead(peer, false);
		follow_taker(peer, node);
	}
	PG_END_ENSURE_ERROR_CLEANUP(thaw, set);
	topics_mark_slot_thaw(topics_leader_set);
}

/*
 * Have another node lead, by way of a connection to it.  The transaction is
 * committed before.
 */
static void
move_to(const MetadataNode *to)
{
	Peer	   *peer;

	SPI_connect_ext(SPI_OPT_NONATOMIC);
	/* who is asked for a promise waits for no snapshot or lock of ours */
	SPI_commit();
	peer = topics_peer_connect(to->name, to->conninfo);
	PG_TRY();
	{
		/* this much is not waited for while nobody may append */
		wait_for_node(to->name, topics_follower_get_ends());
		have_take_lead(peer, true);
		hand_over(peer, to->name);
	}
	PG_FINALLY();
	{
		topics_peer_close(peer);
	}
	PG_END_TRY();
	SPI_finish();
}

/* Have another node lead the set, here or on the node that leads it. */
static void
move_set(const ClusterRow *row, const char *to_node)
{
	const char *values[] = {psprintf("%d", topics_leader_set), to_node};
	const MetadataNode *to = topics_metadata_find_node(to_node);

	if (!row->leads)
		topics_membership_run_on_leader(row, "this procedure", "CALL topic_log.hand_over($1::int4, $2)",
										values, lengthof(values));
	else if (to == NULL)
		topics_membership_report_no_node(to_node);
	else
		move_to(to);
}

/*
 * hand_over(leader_set, to_node): have another node lead a set that this node
 * leads
 */
static Datum
hand_over_set(PG_FUNCTION_ARGS)
{
	char	   *to_node = topics_argument_get_text(fcinfo, 1);
	ClusterRow	row;

	require_call(fcinfo, "topic_log.hand_over()");
	read_row(&row);
	if (strcmp(row.leader, to_node) == 0)
		PG_RETURN_VOID();
	topics_cluster_require_leader("topic_log.hand_over()");
	move_set(&row, to_node);
	PG_RETURN_VOID();
}

Datum
topics_hand_over(PG_FUNCTION_ARGS)
{
	return topics_leader_set_call(fcinfo, hand_over_set);
}

/* A planned move of all that a node leads. */
typedef struct Move
{
	const char *to_node;
	const char *from_node;
	bool		found;			/* a set that the one leads, or the other
								 * already */
} Move;

static void
move_if_led(void *arg)
{
	Move	   *move = arg;
	ClusterRow	row;

	if (!topics_cluster_read_row(&row))
		return;
	/* it was called before */
	if (strcmp(row.leader, move->to_node) == 0)
		move->found |= topics_leader_set == METADATA_SET;
	else if (strcmp(row.leader, move->from_node) == 0)
	{
		move->found = true;
		move_set(&row, move->to_node);
	}
}

/* CALL move_leader(to_node, from_node) */
Datum
topics_move_leader(PG_FUNCTION_ARGS)
{
	Move		move = {
		.to_node = topics_argument_get_text(fcinfo, 0),
		.from_node = PG_ARGISNULL(1) ? NULL : topics_argument_get_text(fcinfo, 1)
	};
	ClusterRow	row;

	require_call(fcinfo, "topics.move_leader()");
	read_row(&row);
	if (move.from_node == NULL)
		move.from_node = row.node;
	if (topics_metadata_find_node(move.to_node) == NULL)
		topics_membership_report_no_node(move.to_node);
	if (topics_metadata_find_node(move.from_node) == NULL)
		topics_membership_report_no_node(move.from_node);
	for (int set = METADATA_SET; set < MAX_LEADER_SETS; set++)
		act_for(set, move_if_led, &move);
	if (!move.found)
		topics_cluster_report_other_leader(move.from_node);
	PG_RETURN_VOID();
}

/* Give a set back to its preferred node. */
static void
rebalance(void *arg)
{
	const char *preferred;
	ClusterRow	row;

	if (!topics_cluster_read_row(&row))
		return;
	preferred = topics_metadata_preferred_leader();
	if (preferred == NULL || strcmp(preferred, row.leader) == 0)
		return;
	if (topics_metadata_find_node(preferred) == NULL)
		ereport(NOTICE,
				(errmsg("node \"%s\", which is the preferred leader, has left the cluster", preferred)));
	else
		move_set(&row, preferred);
}

/* CALL rebalance_leaders() */
Datum
topics_rebalance_leaders(PG_FUNCTION_ARGS)
{
	ClusterRow	row;

	require_call(fcinfo, "topics.rebalance_leaders()");
	read_row(&row);
	for (int set = METADATA_SET; set < MAX_LEADER_SETS; set++)
		act_for(set, rebalance, NULL);
	PG_RETURN_VOID();
}
