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
	NODE_LAST_ASKED,
	NODE_COLUMNS
};

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
		const		MetadataNode *node = lfirst(lc);
		Datum		values[NODE_COLUMNS];
		bool		nulls[NODE_COLUMNS] = {false};
		bool		leads = strcmp(node->name, row.leader) == 0;
		Follower	follower;

		values[NODE_NAME] = CStringGetTextDatum(node->name);
		values[NODE_ADVERTISED] = CStringGetTextDatum(node->advertised);
		values[NODE_ROLE] = CStringGetTextDatum(leads ? "leader" : "follower");
		values[NODE_IS_SELF] = BoolGetDatum(strcmp(node->name, row.node) == 0);
		nulls[NODE_LAST_ASKED] = !row.leads || leads || !topics_follower_read(node->name, &follower);
		if (!nulls[NODE_LAST_ASKED])
			values[NODE_LAST_ASKED] = TimestampTzGetDatum(follower.asked);
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
	REPLICA_LOG_END,
	REPLICA_LAG,
	REPLICA_LAG_TIME,
	REPLICA_COLUMNS
};

/* A partition of a topic that the user may see, whose replicas are shown. */
typedef struct ReplicaView
{
	ReturnSetInfo *rsinfo;
	Partition	partition;
	int64		own_end;		/* of the log here */
	int64		leader_end;		/* of the leader's, as far as it is known */
}			ReplicaView;

/*
 * Put how long it is ago that the first record was appended that a follower
 * lacks, by its timestamp; only where the record is here.
 */
static void
put_lag_time(const ReplicaView * view, int64 end, Datum *values, bool *nulls)
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

/* Put a replica, which ends at "end", or UNKNOWN_OFFSET. */
static void
put_replica(const ReplicaView * view, const char *node, bool leads, int64 end)
{
	Datum		values[REPLICA_COLUMNS];
	bool		nulls[REPLICA_COLUMNS] = {false};

	values[REPLICA_TOPIC] = CStringGetTextDatum(NameStr(view->partition.topic->name));
	values[REPLICA_PARTITION] = Int32GetDatum(view->partition.number);
	values[REPLICA_NODE] = CStringGetTextDatum(node);
	values[REPLICA_ROLE] = CStringGetTextDatum(leads ? "leader" : "follower");
	values[REPLICA_LOG_END] = Int64GetDatum(end);
	nulls[REPLICA_LOG_END] = end == UNKNOWN_OFFSET;
	nulls[REPLICA_LAG] = end == UNKNOWN_OFFSET || view->leader_end == UNKNOWN_OFFSET;
	nulls[REPLICA_LAG_TIME] = true;
	if (!nulls[REPLICA_LAG])
	{
		/* the follower may know of a record that we have not looked for */
		int64		lag = topics_max(view->leader_end - end, 0);

		values[REPLICA_LAG] = Int64GetDatum(lag);
		if (lag > 0 && end < view->own_end)
			put_lag_time(view, end, values, nulls);
	}
	tuplestore_putvalues(view->rsinfo->setResult, view->rsinfo->setDesc, values, nulls);
}

/* Put the replicas of a partition that are known on this node. */
static void
put_replicas(ReplicaView * view, const ClusterRow *row, List *nodes)
{
	PartitionState *state = view->partition.state;
	ListCell   *lc;

	view->own_end = topics_log_next_offset(&view->partition);
	view->leader_end = row->leads ? view->own_end :
		(int64) pg_atomic_read_u64(&state->leader_end);
	foreach(lc, nodes)
	{
		const		MetadataNode *node = lfirst(lc);
		bool		leads = strcmp(node->name, row->leader) == 0;
		int64		end = UNKNOWN_OFFSET;
		Follower	follower;

		if (leads)
			end = view->leader_end;
		else if (strcmp(node->name, row->node) == 0)
			end = view->own_end;
		else if (row->leads && topics_follower_read(node->name, &follower))
			end = pg_atomic_read_u64(&state->follower_end[follower.number]);
		put_replica(view, node->name, leads, end);
	}
}

/* replica_status(): the rows of the view topics.replica */
Datum
topics_replica_status(PG_FUNCTION_ARGS)
{
	ReplicaView view = {.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo};
	ClusterRow	row;
	List	   *nodes;
	ListCell   *lc;

	topics_settings_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	if (!topics_cluster_read_row(&row))
		return (Datum) 0;
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
			if (!topics_catalog_try_open_partition(&view.partition, AccessShareLock))
				continue;
			put_replicas(&view, &row, nodes);
			topics_catalog_close_partition(&view.partition, AccessShareLock);
		}
	}
	return (Datum) 0;
}
