/*-------------------------------------------------------------------------
 *
 * replicator.c
 *		A process that brings a follower's partitions on, by asking the leader.
 *
 * A database that follows in a cluster has one (node/membership.c); the worker
 * finds that it is wanted, and the launcher starts it, as a compactor.  It ends
 * when the database does not follow any more.
 *
 * Round after round it asks the leader where all logs end, and reads what the
 * follower lacks (node/replica_fetch.c): the cluster's metadata first, after
 * which the catalogue follows them (node/metadata.c), then the other partitions.
 * So a partition that the leader tells of is one of a topic that is known here, as
 * the metadata had it at that time or later; or of one that cannot be had.
 *
 * An error costs a partition its turn, and the connection; the others go on.
 * backoff.c decides when it is tried again, and what is logged.  Where the leader
 * cannot be reached, that alone is tried again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "group/group.h"
#include "node/node.h"
#include "serve/serve.h"

#define MIN_NAP_MS 10			/* between rounds, when there is nothing new; */
#define MAX_NAP_MS 200			/* twice as long each time, up to that */

PGDLLEXPORT void topics_replicator_main(Datum main_arg);

/* What the launcher gives along. */
typedef struct ReplicatorArgs
{
	int			slot;
	Oid			database;
} ReplicatorArgs;

/* What a round goes by. */
typedef struct Round
{
	MemoryContext cxt;			/* of all that follows */
	ClusterRow	cluster;
	List	   *led;			/* of LedPartition */
	bool		any_news;		/* something was read */
} Round;

static WorkerSlot *replicator_slot = NULL;
static bool finished = false;	/* this database does not follow */
static Peer *leader = NULL;		/* the connection to it, if there is one */

/*
 * When to compare the catalogue with the metadata: at once if these have changed,
 * else from time to time, since a role may have come that they name.
 */
static MonotonicTime compare_at = 0;

/* ----------------------------------------------------------------
 *		In the launcher
 * ----------------------------------------------------------------
 */

/*
 * Start a replicator for a database, by its slot.  The result is palloc'd; NULL
 * if there is no process to be had.
 */
BackgroundWorkerHandle *
topics_replicator_start(int slot, Oid database)
{
	ReplicatorArgs args = {slot, database};

	return topics_background_start("topics_replicator_main", "pg_topics replicator",
								   &args, sizeof(args));
}

/* ----------------------------------------------------------------
 *		The replicator
 * ----------------------------------------------------------------
 */

/* before_shmem_exit: say that there is no replicator any more. */
static void
leave_replicator_slot(int code, Datum arg)
{
	if (topics_background_is_told_to_end())
		topics_backoff_excuse(SERVE_REPLICATOR);
	topics_worker_slot_leave_as(replicator_slot, SERVE_REPLICATOR, finished);
}

static void
close_leader(void)
{
	if (leader)
		topics_peer_close(leader);
	leader = NULL;
}

/* Between two transactions of a piece of work. */
static void
commit_and_go_on(void)
{
	CommitTransactionCommand();
	CHECK_FOR_INTERRUPTS();
	StartTransactionCommand();
	topics_membership_hold();
}

/* Read who leads.  Return false if it is not another node. */
static bool
read_cluster(Round *round)
{
	bool		follows = false;

	StartTransactionCommand();
	if (topics_extension_exists())
	{
		MemoryContext old = MemoryContextSwitchTo(round->cxt);

		follows = topics_cluster_read_row(&round->cluster) && !round->cluster.leads;
		MemoryContextSwitchTo(old);
	}
	CommitTransactionCommand();
	return follows;
}

/* Work: ask the leader for the state of its logs. */
static void
ask_leader(void *arg)
{
	Round	   *round = arg;
	const bool	first = leader == NULL;
	MemoryContext old;

	topics_backoff_step(STEP_CONNECT);
	if (first)
		leader = topics_peer_connect(round->cluster.leader, round->cluster.leader_conninfo);
	old = MemoryContextSwitchTo(round->cxt);
	round->led = topics_replica_fetch_ask(leader, round->cluster.node, first);
	MemoryContextSwitchTo(old);
}

/* A partition's turn. */
typedef struct Turn
{
	Round	   *round;
	const LedPartition *led;
} Turn;

/* Work: bring a partition to where the leader said that it ends. */
static void
fetch_partition(void *arg)
{
	const Turn *turn = arg;
	Topic	   *topic;
	bool		more = true;

	topics_backoff_step(STEP_FETCH);
	topics_membership_hold();
	topic = topics_catalog_by_id(turn->led->topic_id);
	if (topic && !turn->led->is_metadata && topics_replica_fetch_is_too_late(topic, turn->led))
	{
		topics_metadata_begin_anew(topic);
		compare_at = 0;
		return;
	}
	while (more && (topic = topics_catalog_by_id(turn->led->topic_id)) != NULL)
	{
		more = topics_replica_fetch_step(leader, topic, turn->led);
		if (more)
			commit_and_go_on();
	}
}

/* Return true if a partition is where the leader is, as far as shared memory knows. */
static bool
is_settled(const LedPartition *led)
{
	const TopicPartition id = {MyDatabaseId, led->partition, led->topic_id};
	PartitionState *state = topics_partition_state_find(&id);

	return state && (int64) pg_atomic_read_u64(&state->next_offset) == led->log_end &&
		(int64) pg_atomic_read_u64(&state->log_start_offset) >= led->log_start;
}

/* Look up the view of a topic, and its name, if it is here. */
static Oid
find_view(int64 topic_id, NameData *name)
{
	Topic	   *topic;
	Oid			view = InvalidOid;

	StartTransactionCommand();
	topic = topics_catalog_by_id(topic_id);
	if (topic)
	{
		view = topic->view_relid;
		*name = topic->name;
	}
	CommitTransactionCommand();
	return view;
}

/*
 * Bring a partition on.  Return false if that has failed, and with it the
 * connection.
 */
static bool
follow_partition(Round *round, const LedPartition *led)
{
	WorkPiece	piece = {MyDatabaseId, InvalidOid, led->partition, WORK_REPLICATE};
	Turn		turn = {round, led};
	NameData	name;

	if (is_settled(led))
		return true;
	piece.view_relid = find_view(led->topic_id, &name);
	if (!OidIsValid(piece.view_relid) || topics_backoff_left(&piece) > 0)
		return true;
	round->any_news = true;
	if (led->is_metadata)
		compare_at = 0;
	if (!topics_backoff_run(&piece, NameStr(name), fetch_partition, &turn))
	{
		close_leader();
		return false;
	}
	if (strcmp(NameStr(name), CONSUMER_OFFSETS_TOPIC) == 0)
		topics_offset_table_log_changed(led->topic_id);
	pgstat_report_stat(false);
	return true;
}

/* Work: have the topics of the cluster here. */
static void
apply_metadata(void *arg)
{
	topics_backoff_step(STEP_METADATA);
	topics_membership_hold();
	topics_metadata_apply(((Round *) arg)->cxt, commit_and_go_on);
}

/* Have the catalogue follow the metadata, if it may not. */
static void
follow_metadata(Round *round, const LedPartition *led)
{
	WorkPiece	piece = {MyDatabaseId, InvalidOid, WHOLE_TOPIC, WORK_REPLICATE};
	NameData	name;

	if (compare_at > topics_clock_now())
		return;
	piece.view_relid = find_view(led->topic_id, &name);
	if (OidIsValid(piece.view_relid) && topics_backoff_run(&piece, NameStr(name), apply_metadata, round))
		compare_at = topics_clock_in(pg_topics_worker_interval);
}

/* Go once over all that the leader has.  Return false if this node does not follow. */
static bool
run_round(Round *round)
{
	const WorkPiece whole = {MyDatabaseId, InvalidOid, WHOLE_TOPIC, WORK_REPLICATE};
	ListCell   *lc;

	if (!read_cluster(round))
		return false;
	if (!topics_backoff_run(&whole, NULL, ask_leader, round))
	{
		close_leader();
		return true;
	}
	foreach(lc, round->led)
	{
		const LedPartition *led = lfirst(lc);

		CHECK_FOR_INTERRUPTS();
		if (!follow_partition(round, led))
			break;
		topics_replica_fetch_report(led);
		if (led->is_metadata)
			follow_metadata(round, led);
	}
	return true;
}

void
topics_replicator_main(Datum main_arg)
{
	ReplicatorArgs args;
	MemoryContext cxt;
	long		nap = MIN_NAP_MS;

	memcpy(&args, topics_background_begin(), sizeof(args));
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	replicator_slot = topics_worker_registry_at(args.slot);
	if (!topics_worker_slot_enter_as(replicator_slot, SERVE_REPLICATOR, args.database))
		proc_exit(0);
	before_shmem_exit(leave_replicator_slot, 0);
	topics_background_connect(args.database);
	topics_backoff_take_over(SERVE_REPLICATOR);

	cxt = AllocSetContextCreate(TopMemoryContext, "pg_topics replicator", ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		Round		round = {.cxt = cxt};

		topics_worker_slot_take_wish(replicator_slot, SERVE_REPLICATOR);
		pgstat_report_activity(STATE_RUNNING, "replicating topics");
		if (!run_round(&round))
			break;
		nap = round.any_news ? MIN_NAP_MS : Min(2 * nap, MAX_NAP_MS);
		MemoryContextReset(cxt);
		pgstat_report_activity(STATE_IDLE, NULL);
		topics_background_wait(nap, WAIT_REPLICATOR_IDLE);
	}
	finished = true;
	proc_exit(0);
}
