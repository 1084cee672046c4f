/*-------------------------------------------------------------------------
 *
 * node/node.h
 *		Several nodes: a cluster, and its topics' replicas.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PG_TOPICS_NODE_H
#define PG_TOPICS_NODE_H

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"

#include "log/log.h"

/* ---- peer.c ---- */

typedef struct pg_conn Peer;	/* a connection to another node */
typedef struct pg_result PeerResult;

extern char *topics_peer_check_conninfo(const char *conninfo);
extern Peer *topics_peer_connect(const char *node, const char *conninfo);
extern void topics_peer_close(Peer *peer);
extern PeerResult *topics_peer_query(Peer *peer, const char *sql, const char *const *values,
									 int nvalues);
extern int	topics_peer_rows(const PeerResult *result);
extern const char *topics_peer_value(const PeerResult *result, int row, int column);
extern int64 topics_peer_number(const PeerResult *result, int row, int column);
extern void topics_peer_clear(PeerResult *result);
extern void topics_peer_copy_begin(Peer *peer, const char *sql);
extern bool topics_peer_copy_read(Peer *peer, StringInfo data);

/* ---- metadata.c ---- */

#define METADATA_TOPIC "__cluster_metadata"

extern Topic *topics_metadata_topic(void);
extern void topics_metadata_put_node(const char *node, const char *conninfo, const char *advertised);
extern void topics_metadata_remove_node(const char *node);

/* A node, as clients see it. */
typedef struct MetadataNode
{
	char	   *name;
	char	   *advertised;
}			MetadataNode;

extern List *topics_metadata_list_nodes(void);
extern char *topics_metadata_node_conninfo(const char *node);
extern void topics_metadata_pre_commit(void);
extern void topics_metadata_drop_topic(int64 topic_id, Oid view_relid);
extern void topics_metadata_begin_anew(Topic *topic);
extern void topics_metadata_apply(MemoryContext cxt, NextTransaction next_transaction);

/* ---- replica_fetch.c ---- */

/* What the leader has of a partition. */
typedef struct LedPartition
{
	int64		topic_id;
	int32		partition;
	int64		log_start;
	int64		log_end;
	int64		tombstones_below;	/* who ends below may lack that keys are
									 * gone */
	bool		is_metadata;
} LedPartition;

extern void topics_replica_fetch_report(const LedPartition *led);
extern List *topics_replica_fetch_ask(Peer *peer, const char *node, bool first);
extern bool topics_replica_fetch_is_too_late(Topic *topic, const LedPartition *led);
extern bool topics_replica_fetch_step(Peer *peer, Topic *topic, const LedPartition *led);

/* ---- membership.c ---- */

extern void topics_membership_hold(void);
extern void topics_membership_at_end(bool commit);

#endif							/* PG_TOPICS_NODE_H */
