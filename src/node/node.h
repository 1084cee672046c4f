/*-------------------------------------------------------------------------
 *
 * node/node.h
 *		Several nodes: a cluster, and its topics' replicas.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PG_TOPICS_NODE_H
#define PG_TOPICS_NODE_H

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"

#include "log/log.h"

/* ---- peer.c ---- */

typedef struct Peer Peer;		/* a connection to another node */
typedef struct pg_result PeerResult;

extern const char *const topics_peer_roles_hint;
extern char *topics_peer_check_conninfo(const char *conninfo);
extern Peer *topics_peer_connect(const char *node, const char *conninfo);
extern Peer *topics_peer_connect_within(const char *node, const char *conninfo, long ms);
extern void topics_peer_close(Peer *peer);
extern PeerResult *topics_peer_query(Peer *peer, const char *sql, const char *const *values,
									 int nvalues);
extern PeerResult *topics_peer_query_within(Peer *peer, const char *sql, const char *const *values,
											int nvalues, long ms);
extern void topics_peer_send(Peer *peer, const char *sql, const char *const *values, int nvalues);
extern PeerResult *topics_peer_receive(Peer *peer, long ms);
extern const char *topics_peer_value(const PeerResult *result, int row, int column);
extern int	topics_peer_count(const PeerResult *result);
extern void topics_peer_clear(PeerResult *result);
extern void topics_peer_prepare(Peer *peer, const char *name, const char *sql);
extern void topics_peer_send_bytes(Peer *peer, const char *name, const StringInfoData *bytes);
extern PeerResult *topics_peer_receive_bytes(Peer *peer, StringInfo bytes);
extern int	topics_peer_run(const char *node, const char *conninfo, const char *sql,
							const char *const *values, int nvalues);
extern ErrorData *topics_peer_try(void (*work) (void *arg), void *arg);
extern void topics_peer_nap(long ms);

/* ---- metadata.c ---- */

extern Topic *topics_metadata_topic(void);
extern int64 topics_metadata_next_term(const char *node, int64 above);
extern void topics_metadata_count_node(const char *node);
extern void topics_metadata_put_cluster(const char *leader, int acks_followers, bool is_default);
extern char *topics_metadata_preferred_leader(void);

/* An epoch, as its record says. */
typedef struct MetadataEpoch
{
	int64		number;
	char	   *id;
	int64		term;			/* begins with an election, with its first
								 * epoch */
	XLogRecPtr	started_at;		/* in the leader's WAL: its server, or
								 * InvalidXLogRecPtr */
	char	   *ends;			/* where all logs ended, as jsonb (log_ends.c) */
	bool		data_loss;		/* it began without a majority */
} MetadataEpoch;

extern bool topics_metadata_is_of_topics(Datum key);
extern void topics_metadata_put_epoch(const MetadataEpoch *epoch);
extern bool topics_metadata_find_epoch(const char *id, XLogRecPtr *ended_at);
extern MetadataEpoch *topics_metadata_next_epoch(int64 number);
extern MetadataEpoch *topics_metadata_find_term(int64 term);
extern void topics_metadata_list_epochs(char **numbers, char **ids);
extern MetadataEpoch *topics_metadata_find_common_epoch(const char *numbers, const char *ids);
extern int	topics_metadata_count_nodes(const char *except, bool *is_default);
extern void topics_metadata_remove_node(const char *node);

/* A node, as its record says. */
typedef struct MetadataNode
{
	char	   *name;
	char	   *conninfo;		/* for nodes: it may have a password */
	char	   *advertised;		/* for clients */
	char	   *incarnation;	/* of the database that has joined under the
								 * name */
	bool		counts;			/* as a copy */
	int			feature_level;	/* that its version has */
	int			number;			/* of its terms; 0: it is to get one */
} MetadataNode;

extern void topics_metadata_put_node(const MetadataNode *node);
extern bool topics_metadata_has_nodes(void);
extern Datum topics_metadata_put_set(int set, const char *leader, bool leads);
extern List *topics_metadata_list_preferred_leaders(void);
extern uint32 topics_metadata_list_new_sets(Datum records[MAX_LEADER_SETS]);
extern List *topics_metadata_list_nodes(void);
extern MetadataNode *topics_metadata_find_node(const char *name);

/* What the metadata say of a topic. */
typedef enum TopicKnowledge
{
	TOPIC_NOT_HEARD_OF,			/* maybe not yet */
	TOPIC_HEARD_OF,
	TOPIC_GONE
} TopicKnowledge;

extern TopicKnowledge topics_metadata_know_topic(int64 topic_id);
extern char *topics_metadata_find_missing_topic(void);
extern void topics_metadata_pre_commit(void);
extern void topics_metadata_drop_topic(int64 topic_id, Oid view_relid);
extern void topics_metadata_begin_anew(Topic *topic);
extern void topics_metadata_apply_cluster(void);
extern void topics_metadata_apply_topics(MemoryContext cxt, NextTransaction next_transaction);

/* ---- leader_set.c ---- */

extern LeaderSets topics_leader_set_read(const char *json);
extern void topics_leader_set_make_new(void);
extern bool topics_leader_set_make_known(void);
extern void topics_leader_set_begin(const ClusterRow *row);
extern bool topics_leader_set_mirror_nodes(void);
extern void topics_leader_set_require_one(const Topic *topic);

/* ---- feature_level.c ---- */

extern const char *const topics_feature_level_query;
extern int	topics_feature_level_own(void);
extern void topics_feature_level_require(const ClusterRow *row, const char *node, int level);
extern void topics_feature_level_note(const ClusterRow *row, const char *node, int level);

/* ---- log_ends.c ---- */

/* Where a partition's log ends, or is to end. */
typedef struct LogEnd
{
	int64		topic_id;
	int32		partition;
	int64		log_end;
	bool		is_absent;		/* the whole topic is */
} LogEnd;

extern void topics_log_ends_learn(bool all_sets);
extern char *topics_log_ends_get(void);
extern char *topics_log_ends_get_all(void);
extern char *topics_log_ends_find_longer(const char *here, const char *there);
extern List *topics_log_ends_list_longer(const char *longer, const char *ends);
extern List *topics_log_ends_list(const char *ends);
extern void topics_log_ends_note_unfinished(int64 topic_id, int32 partition, int64 log_end);
extern void topics_log_ends_note_finished(void);
extern bool topics_log_ends_are_unfinished(void);
extern void topics_log_ends_note_lacking(const char *began_with);
extern void topics_log_ends_note_anew(Topic *topic, int32 partitions);
extern void topics_log_ends_note_stopped(const List *stopped);
extern bool topics_log_ends_are_lacking(bool anew);

/* ---- divergence.c ---- */

/* Where the log of a node that is to follow, and the leader's, part. */
typedef struct Divergence
{
	int64		term;			/* of the leader */
	char	   *began_with;		/* the ends of all logs then, as jsonb */
	bool		has_common;		/* the latest epoch that both know: */
	int64		epoch;
	char	   *epoch_id;
	int64		epoch_term;
	char	   *ends;			/* of it at the leader; NULL: it goes on */
	bool		data_loss;		/* confirmed records may be lost */
} Divergence;

extern Divergence *topics_divergence_ask(Peer *peer, const ClusterRow *row);
extern bool topics_divergence_heal(const Divergence *divergence, const ClusterRow *row);
extern void topics_divergence_finish_cut(const ClusterRow *row);

/* ---- admission.c ---- */

/* What another node says of who leads. */
typedef struct Leadership
{
	const MetadataNode *node;	/* that was asked */
	char	   *leader;
	bool		leads;			/* it leads itself */
	int64		term;			/* that it is in, or has promised */
} Leadership;

extern int	topics_leadership_survey(const ClusterRow *row, Leadership *best, int64 *highest_term);
extern bool topics_admission_ask(const ClusterRow *row);
extern char *topics_admission_server(const char *node);
extern bool topics_admission_is_replaced(const char *node, const char *incarnation, const char *server);

/* ---- election.c ---- */

extern bool topics_election_stand(MemoryContext cxt, NextTransaction next_transaction, bool reports);

/* ---- replica_feed.c, and replica_fetch.c on the other side ---- */

extern void topics_replica_feed_check_role(const char *node, const char *cluster_id);
extern void topics_replica_feed_check_node(const char *node, const char *incarnation,
										   const char *server, const char *cluster_id, int64 term,
										   int64 promised_term);

#define REPLICA_PROTOCOL 4		/* version of requests and responses */
#define NO_CUT (-1)				/* in place of a cut's mark */
#define PAUSED_PARTITION (-1)	/* in place of a log end: send nothing of it */
#define END_OF_RECORDS (-1)		/* in place of the next record's offset */

/* ---- replica_fetch.c ---- */

/* What the leader has sent of a partition. */
typedef struct LedPartition
{
	int64		topic_id;
	int32		partition;
	bool		is_metadata;
	int64		log_start;
	int64		log_end;
	int64		tombstones_below;	/* who ends below may lack that keys are
									 * gone */
	int64		given;			/* where the leader believes that ours ends */
	int64		upto;			/* how far the records go */
	int			records;		/* where they begin in the response */
	int			length;			/* their bytes, or 0 */
} LedPartition;

/* What the leader has answered. */
typedef struct FetchResponse
{
	PeerResult *result;			/* has the bytes */
	StringInfoData data;
	int64		term;			/* of the leader */
	int64		epoch;			/* likewise */
	const char *epoch_id;
	int64		position;		/* in its WAL: all that was given is below,
								 * and durable there */
	int64		mark;			/* of its cut */
	int64		newest_mark;
	int64		confirmed;		/* what is of marks up to here may be shown */
	bool		is_complete;	/* the cut is, with this */
	bool		says_topics;	/* metadata that were appended are of topics,
								 * or of leader sets */
	List	   *led;			/* of LedPartition; those of metadata first */
} FetchResponse;

extern void topics_replica_fetch_begin(Peer *peer);
extern void topics_replica_fetch_report(int64 topic_id, int32 partition, int64 log_end);
extern void topics_replica_fetch_send(Peer *peer, const ClusterRow *cluster, bool first,
									  int64 position, int64 durable_mark);
extern FetchResponse *topics_replica_fetch_receive(Peer *peer);
extern void topics_replica_fetch_free(FetchResponse *response);
extern bool topics_replica_fetch_is_too_late(Topic *topic, const LedPartition *led);
extern void topics_replica_fetch_append(FetchResponse *response, Topic *topic,
										const LedPartition *led, bool is_whole);

/* ---- replica_value.c ---- */

/* How the values of a column are written. */
typedef struct ValueWriter
{
	FmgrInfo	function;
	bool		as_text;
	bool		is_varlena_text;	/* the bytes are the value */
} ValueWriter;

/* How the values of a column come. */
typedef struct ValueReader
{
	Oid			type;
	FmgrInfo	function;
	Oid			ioparam;
	int32		typmod;
	bool		as_text;
	StringInfoData copy;		/* a value's bytes, with a 0 behind */
} ValueReader;

extern void topics_replica_value_set_writer(ValueWriter *writer, Oid type);
extern void topics_replica_value_write(StringInfo out, ValueWriter *writer, Datum value, bool isnull);
extern void topics_replica_value_set_reader(ValueReader *reader, Oid type, int32 typmod, bool as_text);
extern Datum topics_replica_value_read(StringInfo data, ValueReader *reader, bool *isnull);

/* ---- membership.c ---- */

extern void topics_membership_hold(void);
extern void topics_membership_pre_commit(void);
extern void topics_membership_publish(void);
extern void topics_membership_enter_epoch(int64 term, int64 epoch, const char *id);
extern void topics_membership_lock(void);
extern void topics_membership_lock_for_ends(void);
extern void topics_membership_lock_to_write(void);
extern void topics_membership_lock_all(void);
extern void topics_membership_run_on_leader(const ClusterRow *row, const char *procedure, const char *sql,
											const char *const *values, int nvalues);
extern void topics_membership_freeze(void);
extern void topics_membership_promise(int64 term, const char *node);
extern void topics_membership_follow(int64 term, const char *node);
extern void topics_membership_admit(void);
extern void topics_membership_raise_term(int64 term);
extern void topics_membership_lead(int64 term, bool data_loss);
extern void topics_membership_accept_loss(void);
extern void topics_membership_close_change(void);
extern void topics_membership_note_numbers(int64 given);
extern void topics_membership_raise_feature_level(int level);
extern void topics_membership_note_removed(bool is_removed);
extern void topics_membership_say_leader(void);
extern bool topics_membership_has_begun_term(void);
extern void topics_membership_check_call(const char *command);
extern void topics_membership_report_no_node(const char *node);
extern void topics_membership_at_end(bool commit);
extern void topics_membership_adjust_acks(const char *node, bool counts);
extern void topics_membership_set_acks(int acks_followers, bool is_default);
extern void topics_membership_forget_follower(const char *node);
extern bool topics_membership_count_node(const char *node, const char *incarnation, int number);

#endif							/* PG_TOPICS_NODE_H */
