/*-------------------------------------------------------------------------
 *
 * node_monitor.c
 *		What the views of a cluster's nodes show.
 *
 * The leader knows of its followers what they said when they last asked
 * (shared/follower.c); a follower knows what the leader said, and of the others
 * nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "node/node.h"
#include "serve/serve.h"

PG_FUNCTION_INFO_V1(topics_node_status);
PG_FUNCTION_INFO_V1(topics_replica_status);

/* Columns of node_status. */
enum
{
	NODE_NAME,
	NODE_ADVERTISED,
	NODE_ROLE,
	NODE_IS_SELF,
	NODE_EPOCH,
	NODE_COUNTS,
	NODE_IN_SYNC,
	NODE_LAST_ASKED,
	NODE_FEATURE_LEVEL,
	NODE_COLUMNS
};

/*
 * Return true if a node leads, as far as this one knows: a copy of one does
 * not yet.
 */
static bool
is_leader(const ClusterRow *row, const char *node)
{
	return strcmp(node, row->leader) == 0 && (row->leads || strcmp(node, row->node) != 0);
}

/* node_status(): the rows of the view topics.node */
Datum
topics_node_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ClusterRow	row;
	ListCell   *lc;

	topics_settings_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	if (!topics_cluster_read_row(&row))
		return (Datum) 0;
	foreach(lc, topics_metadata_list_nodes())
	{
		const MetadataNode *node = lfirst(lc);
		Datum		values[NODE_COLUMNS];
		bool		nulls[NODE_COLUMNS] = {false};
		bool		leads = is_leader(&row, node->name);
		Follower	follower;

		values[NODE_NAME] = CStringGetTextDatum(node->name);
		values[NODE_ADVERTISED] = CStringGetTextDatum(node->advertised);
		values[NODE_ROLE] = CStringGetTextDatum(leads ? "leader" : "follower");
		values[NODE_IS_SELF] = BoolGetDatum(strcmp(node->name, row.node) == 0);
		values[NODE_EPOCH] = Int64GetDatum(row.term);
		values[NODE_COUNTS] = BoolGetDatum(node->counts);
		values[NODE_FEATURE_LEVEL] = Int32GetDatum(node->feature_level);
		nulls[NODE_LAST_ASKED] = !row.leads || leads || !topics_follower_read(node->name, &follower);
		if (!nulls[NODE_LAST_ASKED])
			values[NODE_LAST_ASKED] = TimestampTzGetDatum(follower.asked);
		nulls[NODE_IN_SYNC] = !row.leads;
		values[NODE_IN_SYNC] = BoolGetDatum(leads || (!nulls[NODE_LAST_ASKED] &&
													  topics_follower_is_in_sync(&follower)));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* Columns of replica_status. */
enum
{
	REPLICA_TOPIC,
	REPLICA_PARTITION,
	REPLICA_NODE,
	REPLICA_ROLE,
	REPLICA_EPOCH,
	REPLICA_LOG_END,
	REPLICA_HIGH_WATERMARK,
	REPLICA_LAG,
	REPLICA_LAG_BYTES,
	REPLICA_LAG_TIME,
	REPLICA_IN_SYNC,
	REPLICA_STATE,
	REPLICA_MESSAGE,
	REPLICA_COLUMNS
};

/* A partition of a topic that the user may see, whose replicas are shown. */
typedef struct ReplicaView
{
	ReturnSetInfo *rsinfo;
	const ClusterRow *row;		/* of its leader set */
	int			set;
	const WorkFailure *failures;	/* of this server's processes */
	int			nfailures;
	Partition	partition;
	int64		own_end;		/* of the log here */
	int64		leader_end;		/* of the leader's, as far as it is known */
} ReplicaView;

/* What is known of a replica; unknown: UNKNOWN_OFFSET, or NULL. */
typedef struct ReplicaKnowledge
{
	int64		end;
	int64		high_watermark;
	const char *state;
	const char *message;
	bool		knows_in_sync;
	bool		in_sync;
} ReplicaKnowledge;

/*
 * Put how long it is ago that the first record was appended that a follower
 * lacks, by its timestamp; only where the record is here.
 */
static void
put_lag_time(const ReplicaView *view, int64 end, Datum *values, bool *nulls)
{
	Interval   *lag;
	TimestampTz timestamp;

	if (!topics_log_find_timestamp(view->partition.rel, end, view->own_end, GetActiveSnapshot(),
								   &timestamp))
		return;
	lag = palloc0(sizeof(Interval));
	lag->time = topics_max(GetCurrentTimestamp() - timestamp, 0);
	values[REPLICA_LAG_TIME] = IntervalPGetDatum(lag);
	nulls[REPLICA_LAG_TIME] = false;
}

/*
 * Put about how many bytes so many records have, by those of the active
 * segment.
 */
static void
put_lag_bytes(const ReplicaView *view, int64 lag, Datum *values, bool *nulls)
{
	const PartitionState *state = view->partition.state;
	int64		records = view->own_end - state->active_base;

	if (lag > 0 && records <= 0)
		return;
	values[REPLICA_LAG_BYTES] = Int64GetDatum(lag == 0 ? 0 :
											  (int64) ((double) lag * topics_partition_state_active_bytes(state) / records));
	nulls[REPLICA_LAG_BYTES] = false;
}

static void
put_text(int column, const char *text, Datum *values, bool *nulls)
{
	nulls[column] = text == NULL;

	if (text)
		values[column] = CStringGetTextDatum(text);
}

static void
put_offset(int column, int64 offset, Datum *values, bool *nulls)
{
	nulls[column] = offset == UNKNOWN_OFFSET;
	values[column] = Int64GetDatum(offset);
}

/* Put a replica. */
static void
put_replica(const ReplicaView *view, const char *node, bool leads, const ReplicaKnowledge *known)
{
	Datum		values[REPLICA_COLUMNS];
	bool		nulls[REPLICA_COLUMNS] = {false};

	put_text(REPLICA_TOPIC, NameStr(view->partition.topic->name), values, nulls);
	values[REPLICA_PARTITION] = Int32GetDatum(view->partition.number);
	put_text(REPLICA_NODE, node, values, nulls);
	put_text(REPLICA_ROLE, leads ? "leader" : "follower", values, nulls);
	values[REPLICA_EPOCH] = Int64GetDatum(view->row->term);
	put_offset(REPLICA_LOG_END, known->end, values, nulls);
	put_offset(REPLICA_HIGH_WATERMARK, known->high_watermark, values, nulls);
	put_text(REPLICA_STATE, known->state, values, nulls);
	put_text(REPLICA_MESSAGE, known->message, values, nulls);
	nulls[REPLICA_IN_SYNC] = !known->knows_in_sync;
	values[REPLICA_IN_SYNC] = BoolGetDatum(known->in_sync);
	nulls[REPLICA_LAG] = known->end == UNKNOWN_OFFSET || view->leader_end == UNKNOWN_OFFSET;
	nulls[REPLICA_LAG_TIME] = nulls[REPLICA_LAG_BYTES] = true;
	if (!nulls[REPLICA_LAG])
	{
		/* the follower may know of a record that we have not looked for */
		int64		lag = topics_max(view->leader_end - known->end, 0);

		values[REPLICA_LAG] = Int64GetDatum(lag);
		put_lag_bytes(view, lag, values, nulls);
		if (lag > 0 && known->end < view->own_end)
			put_lag_time(view, known->end, values, nulls);
	}
	tuplestore_putvalues(view->rsinfo->setResult, view->rsinfo->setDesc, values, nulls);
}

/*
 * Find why the replicator of this node does not get on, with a partition or at
 * all.
 */
static const WorkFailure *
find_failure(const ReplicaView *view, Oid view_relid, int32 partition)
{
	for (int i = 0; i < view->nfailures; i++)
	{
		const WorkFailure *failure = &view->failures[i];

		if (failure->piece.database == MyDatabaseId && failure->piece.kind == WORK_REPLICATE &&
			failure->piece.set == view->set &&
			failure->piece.view_relid == view_relid && failure->piece.partition == partition &&
			failure->failures > 0)
			return failure;
	}
	return NULL;
}

/* Say of this node, which follows, how it gets on with a partition. */
static void
know_own(const ReplicaView *view, ReplicaKnowledge *known)
{
	const Partition *partition = &view->partition;
	const WorkFailure *stopped = find_failure(view, partition->topic->view_relid, partition->number);
	const WorkFailure *lost = find_failure(view, InvalidOid, WHOLE_TOPIC);

	known->end = view->own_end;
	known->high_watermark = topics_log_end(partition, NULL);
	known->knows_in_sync = stopped != NULL;
	known->state = stopped ? "stopped" : lost ? "not connected" :
		view->own_end == view->leader_end ? "following" : "catching up";
	known->message = stopped ? stopped->message : lost ? lost->message : NULL;
}

/* Say of a follower what this node, which leads, has heard of it. */
static void
know_follower(const ReplicaView *view, const char *node, ReplicaKnowledge *known)
{
	PartitionState *state = view->partition.state;
	Follower	follower;
	bool		is_stopped;

	if (!topics_follower_read(node, &follower))
		return;
	is_stopped = (state->excluded_by & (1 << follower.number)) != 0;
	known->end = pg_atomic_read_u64(&state->follower_end[follower.number]);
	known->knows_in_sync = true;
	known->in_sync = topics_follower_is_in_sync(&follower) && !is_stopped;
	known->state = is_stopped ? "stopped" : follower.session == 0 ? "not connected" :
		known->in_sync ? "following" : "catching up";
}

/* Put the replicas of a partition, with what is known of them on this node. */
static void
put_replicas(ReplicaView *view, List *nodes)
{
	const ClusterRow *row = view->row;
	ListCell   *lc;

	view->own_end = topics_log_next_offset(&view->partition);
	view->leader_end = row->leads ? view->own_end :
		(int64) pg_atomic_read_u64(&view->partition.state->leader_end);
	foreach(lc, nodes)
	{
		const MetadataNode *node = lfirst(lc);
		bool		leads = is_leader(row, node->name);
		ReplicaKnowledge known = {.end = UNKNOWN_OFFSET,.high_watermark = UNKNOWN_OFFSET};

		if (leads)
		{
			known.end = view->leader_end;
			known.state = "leading";
			known.knows_in_sync = known.in_sync = row->leads;
			if (row->leads)
				known.high_watermark = topics_log_end(&view->partition, NULL);
		}
		else if (strcmp(node->name, row->node) == 0)
			know_own(view, &known);
		else if (row->leads)
			know_follower(view, node->name, &known);
		put_replica(view, node->name, leads, &known);
	}
}

/*
 * The same, acting for the partition's leader set: so followers are those that
 * ask for that.
 */
static void
put_replicas_of_set(ReplicaView *view, List *nodes)
{
	int			before = topics_mark_slot_act_for(view->set);

	PG_TRY();
	{
		put_replicas(view, nodes);
	}
	PG_FINALLY();
	{
		(void) topics_mark_slot_act_for(before);
	}
	PG_END_TRY();
}

/* replica_status(): the rows of the view topics.replica */
Datum
topics_replica_status(PG_FUNCTION_ARGS)
{
	ReplicaView view = {.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo};
	ClusterRow	rows[MAX_LEADER_SETS];
	List	   *nodes;
	ListCell   *lc;

	topics_settings_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	memset(rows, 0, sizeof(rows));
	for (int set = METADATA_SET; set < MAX_LEADER_SETS; set++)
		(void) topics_cluster_read_row_of(set, &rows[set]);
	if (rows[METADATA_SET].node == NULL)
		return (Datum) 0;
	view.failures = topics_backoff_list(&view.nfailures);
	nodes = topics_metadata_list_nodes();
	foreach(lc, topics_catalog_list())
	{
		Topic	   *topic = topics_catalog_get(lfirst_oid(lc), true);

		for (int32 number = 0; topic && topics_catalog_may_see(topic) && number < topic->partitions; number++)
		{
			CHECK_FOR_INTERRUPTS();
			view.partition = (Partition)
			{
				.topic = topic,.number = number
			};
			view.set = topics_leader_set_of(&topic->leader_sets, number);
			view.row = &rows[view.set];
			/* a set is made with the first topic that is in it */
			if (view.row->node == NULL)
				continue;
			if (!topics_catalog_try_open_partition(&view.partition, AccessShareLock))
				continue;
			put_replicas_of_set(&view, nodes);
			topics_catalog_close_partition(&view.partition, AccessShareLock);
		}
	}
	return (Datum) 0;
}
