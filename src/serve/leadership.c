/*-------------------------------------------------------------------------
 *
 * leadership.c
 *		What the replicator does to have a node lead, and to know which one.
 *
 * ON A FOLLOWER, when no session with the leader can be had: it asks the
 * others who leads, and follows that one (node/admission.c has the question).
 * When the leader was not heard for pg_topics.node_timeout it stands for
 * election (node/election.c), if it is to (pg_topics.automatic_failover).
 * Which node does so first, and when, is chance: safety does not rest on it.
 *
 * ON THE LEADER it asks the others, as long as too few followers are heard,
 * whether another one leads by now, and then follows that one.  So a node that
 * comes back finds its place by itself.
 *
 * WHO HAS PROMISED A HIGHER TERM to a candidate that did not come to lead
 * takes nothing from the leader.  So the leader is elected once more, in a
 * higher one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "node/node.h"
#include "serve/serve.h"

#define RETRY_MS 200			/* between two elections, at least */
#define MAX_JITTER_MS 300		/* by which they are put off at random */
#define QUIET_MS 5000			/* in which they may come to nothing */
#define MIN_VOTERS 3			/* of two nodes one is no majority */

/* A look for the leader. */
typedef struct Search
{
	const NodeView *node;
	int64		highest_term;	/* that anybody has said */
} Search;

/*
 * Work: look for a node that leads in a higher term than the one that this
 * node knows of, or has promised, or in the same one, and follow it.
 */
static void
look_for_leader(void *arg)
{
	Search	   *search = arg;
	const NodeView *node = search->node;
	Leadership	best;

	(void) topics_leadership_survey(&node->row, &best, &search->highest_term);
	if (best.node == NULL || strcmp(best.node->name, node->row.leader) == 0 ||
		best.term <= node->row.term || best.term < node->row.promised_term)
		return;
	topics_membership_lock();
	topics_membership_follow(best.term, best.node->name);
}

/* Commit a step of an election. */
static void
commit_election_step(void)
{
	CommitTransactionCommand();
	CHECK_FOR_INTERRUPTS();
	StartTransactionCommand();
}

/*
 * When elections that come to nothing, as others hear the leader yet, are an
 * error.
 */
static MonotonicTime complain_at = NEVER;

/* Work: have this node elected. */
static void
stand_for_election(void *arg)
{
	const NodeView *node = arg;
	MemoryContext cxt = AllocSetContextCreate(node->cxt, "pg_topics election", ALLOCSET_DEFAULT_SIZES);

	if (topics_election_stand(cxt, commit_election_step, topics_clock_now() >= complain_at))
		complain_at = NEVER;
	else if (complain_at == NEVER)
		complain_at = topics_clock_in(QUIET_MS);
	MemoryContextDelete(cxt);
}

/* Work: begin the term that this node was elected in, unless it has. */
static void
begin_own_term(void *arg)
{
	if (topics_membership_has_begun_term())
		return;
	topics_membership_lock_to_write();
	topics_membership_say_leader();
}

/* A copy of a node has heard what that may have promised. */
static bool may_follow = false;

/* Work: enough others know of the latest change of nodes. */
static void
close_change(void *arg)
{
	topics_membership_close_change();
}

/*
 * Work: the nodes of another set than the first are as the first says, or one
 * more is now.
 */
static void
mirror_nodes(void *arg)
{
	bool	   *is_more = arg;

	topics_membership_lock();
	*is_more = topics_leader_set_mirror_nodes();
}

/* Work: have a copy of a node take its place. */
static void
be_admitted(void *arg)
{
	const NodeView *node = arg;

	may_follow = topics_admission_ask(&node->row);
	if (!may_follow)
		stand_for_election(arg);
}

/*
 * When this node will stand for election, unless the leader is heard by then.
 */
static MonotonicTime stand_at = NEVER;

/* Not before so long, and not all nodes at once. */
static void
put_election_off(int64 ms)
{
	stand_at = topics_clock_in(ms + (int64) (pg_prng_double(&pg_global_prng_state) * MAX_JITTER_MS));
}

/* Return true if this node is what it was when it was looked at. */
static bool
is_same(const NodeView *node)
{
	return topics_mark_slot_row_changes() == node->row_changes;
}

/*
 * Return true if this node may follow a leader: a copy of one has to hear from
 * others before, and is elected here if it led.
 */
bool
topics_leadership_may_follow(NodeView *node)
{
	const WorkPiece election = WHOLE_ELECTION;

	if (likely(node->row.is_admitted) || may_follow)
		return true;
	(void) topics_backoff_run(&election, NULL, be_admitted, node);
	return false;
}

/* Work: see whether this node is to lead a set that nobody has led yet. */
static void
look_whether_preferred(void *arg)
{
	const char *preferred = topics_metadata_preferred_leader();
	ClusterRow	row;

	topics_cluster_require_row(&row);
	*(bool *) arg = preferred && strcmp(preferred, row.node) == 0;
}

/*
 * Return true if this node begins to lead a set that nobody has led yet, as
 * far as it knows, and that it is to lead: it stands for election, until it is
 * elected or another one is.
 */
bool
topics_leadership_begins(NodeView *node)
{
	const WorkPiece election = WHOLE_ELECTION;
	Search		search = {node, 0};
	bool		is_preferred = false;

	if (likely(topics_leader_set == METADATA_SET || node->row.term > 0 || *node->row.leader != '\0'))
		return false;
	(void) topics_backoff_run(&election, NULL, look_whether_preferred, &is_preferred);
	if (!is_preferred)
		return false;
	(void) topics_backoff_run(&election, NULL, look_for_leader, &search);
	if (is_same(node))
		(void) topics_backoff_run(&election, NULL, stand_for_election, node);
	return true;
}

/* Get when it is time to look who leads. */
MonotonicTime
topics_leadership_due_at(void)
{
	return stand_at;
}

/*
 * The session with the leader has ended, and has heard from it or not.  Look
 * who leads, and lead if nobody is heard for too long.
 */
void
topics_leadership_seek(NodeView *node, bool was_heard)
{
	const WorkPiece election = WHOLE_ELECTION;
	Search		search = {node, 0};

	if (was_heard || stand_at == NEVER)
		put_election_off(pg_topics_node_timeout);
	if (node->row.leads || topics_clock_now() < stand_at)
		return;
	(void) topics_backoff_run(&election, NULL, look_for_leader, &search);
	if (is_same(node) && pg_topics_automatic_failover && !node->row.is_removed &&
		node->row.voters >= MIN_VOTERS)
		(void) topics_backoff_run(&election, NULL, stand_for_election, node);
	put_election_off(RETRY_MS);
}

/*
 * This node leads: see whether it still does.  Followers that are heard have
 * promised nobody else a higher term.
 */
void
topics_leadership_keep(NodeView *node)
{
	const WorkPiece election = WHOLE_ELECTION;
	Search		search = {node, topics_mark_slot_higher_term()};

	stand_at = NEVER;
	(void) topics_backoff_run(&election, NULL, begin_own_term, NULL);
	if (node->row.change_open && !topics_mark_slot_is_changing())
		(void) topics_backoff_run(&election, NULL, close_change, NULL);
	for (bool is_more = topics_leader_set != METADATA_SET; is_more && is_same(node);)
		if (!topics_backoff_run(&election, NULL, mirror_nodes, &is_more))
			break;
	if (search.highest_term > node->row.term || !topics_follower_is_heard(topics_leader_set, node->row.voters / 2))
		(void) topics_backoff_run(&election, NULL, look_for_leader, &search);
	/* a candidate was promised a term, and did not come to lead in it */
	if (is_same(node) && search.highest_term > node->row.term)
		(void) topics_backoff_run(&election, NULL, stand_for_election, node);
}
