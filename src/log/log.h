/*-------------------------------------------------------------------------
 *
 * log/log.h
 *		The log: the only folder that touches schema topic_log.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PG_TOPICS_LOG_H
#define PG_TOPICS_LOG_H

#include "access/tableam.h"
#include "access/xlogdefs.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "nodes/parsenodes.h"
#include "nodes/plannodes.h"
#include "partitioning/partdefs.h"
#include "storage/lockdefs.h"
#include "utils/jsonb.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "base/compat.h"
#include "shared/shared.h"
#include "pg_topics.h"

/* Settings of a topic, in the units in which they are used. */
typedef struct TopicSettings
{
	int64		retention_ms;
	int64		retention_bytes;
	int64		delete_retention_ms;
	int64		min_compaction_lag_ms;
	double		min_cleanable_dirty_ratio;
	int64		segment_bytes;
	int64		segment_ms;
	int32		max_message_bytes;
	bool		log_append_time;
	bool		compact;		/* cleanup_policy has "compact" */
	bool		delete;			/* cleanup_policy has "delete" */
	bool		notify;			/* NOTIFY tells of new records */
	int32		min_insync_replicas;	/* for acks = all, with the leader */
} TopicSettings;

/* A key or value column of a topic: its type and how to get in and out. */
typedef struct TopicColumn
{
	Oid			type;			/* as declared, maybe a domain */
	Oid			base_type;		/* below all domains */
	int32		typmod;
	int32		base_typmod;	/* that base_type has by the domain */
	int16		typlen;
	bool		typbyval;
	char		typalign;
	Oid			ioparam;
	FmgrInfo	input;			/* of base_type: checks no domain */
	FmgrInfo	output;
	bool		needs_fixed_text;	/* fixed_text.c */
	void	   *domain_extra;	/* domain_check's cache */
} TopicColumn;

/* Where records of this transaction go (produce.h). */
typedef struct Destination Destination;

/*
 * A topic as a backend knows it.  In catalog.c's cache, keyed by the view's
 * OID; a pointer stays good until the end of the transaction, its contents are
 * right from one topics_catalog_get to the next.
 */
typedef struct Topic
{
	Oid			view_relid;		/* hash key: must be first */
	struct Topic *next;			/* in the list of all */
	bool		valid;
	uint32		changes;		/* counts invalidations */
	int64		topic_id;
	NameData	name;
	int32		partitions;
	Oid			root_relid;
	TopicColumn key;
	TopicColumn value;
	TupleDesc	tupdesc;		/* of the log table */
	TopicSettings settings;
	pg_uuid_t	notify_key;		/* the secret in the name of its channel */
	LeaderSets	leader_sets;
	MemoryContext cxt;			/* of what hangs off this struct */
	Oid		   *partition_relids;	/* InvalidOid until asked for */
	PartitionState **partition_states;	/* NULL until asked for */
	Destination **destinations; /* NULL but for this transaction's */
} Topic;

/* One segment of a partition, from PostgreSQL's own partition bounds. */
typedef struct Segment
{
	Oid			relid;
	int64		base_offset;	/* first offset it may hold */
	int64		end_offset;		/* first offset above it */
} Segment;

/*
 * A partition, resolved: found once, and then passed on as const Partition *,
 * or as Partition * to a function that opens its table, and closes it again.
 * It is a value, on the stack or in a struct of the caller that resolved it;
 * nothing is to be freed.
 *
 * LIFETIME.  The pointer to the state can always be followed.  Without a lock
 * on the topic's root the topic can be dropped at any time, and the state be
 * another topic's from then on.  "topic" is as good as any pointer to a
 * Topic; it may be NULL where only log tables are dealt with.
 *
 * LOCKS.  Resolving (topics_catalog_partition) takes none, and does not look
 * for the table: a group's call resolves all partitions of a topic, and needs
 * the table of one.  topics_catalog_open_partition locks the topic's root,
 * finds, locks and opens the table, and resolves the state again: both are the
 * partition's as long as these locks are held.  Where a lock on the table or on
 * the topic's root stands already, topics_catalog_reopen_partition opens the
 * table that was found under it.  The caller that opened the table closes it,
 * by topics_catalog_close_partition.
 */
typedef struct Partition
{
	Topic	   *topic;
	int32		number;
	Oid			relid;			/* of its table, or InvalidOid: not looked for */
	Relation	rel;			/* its table, or NULL: not open */
	Oid			locked_root;	/* locked when it was opened, or InvalidOid */
	PartitionState *state;
} Partition;

/* What a file of a higher layer does with a topic, called from below. */
typedef void (*TopicCallback) (int64 topic_id);
typedef void (*DatabaseCallback) (Oid database);

/* ---- extension.c ---- */

/* The caller's role, while the extension's owner acts. */
typedef struct OwnerScope
{
	Oid			userid;
	int			context;
} OwnerScope;

extern bool topics_extension_exists(void);
extern Oid	topics_extension_find_log_schema(void);
extern OwnerScope topics_extension_become_owner(void);
extern void topics_extension_become_caller(OwnerScope scope);
extern bool topics_extension_is_acting(void);
extern void topics_extension_check_version(void);

/* ---- statement.c ---- */

typedef struct StatementScope
{
	OwnerScope	owner;
	int			guc_level;
} StatementScope;

extern StatementScope topics_statement_begin(void);
extern StatementScope topics_statement_begin_as_caller(void);
extern void topics_statement_end(StatementScope scope);
extern void topics_statement_execute(const char *format,...) pg_attribute_printf(1, 2);
extern void topics_statement_require_change(void);

/* ---- topic_setting.c ---- */

typedef struct TopicSettingValues TopicSettingValues;	/* as SQL has them */
extern int	topics_topic_setting_count(void);
extern TopicSettingValues *topics_topic_setting_arguments(FunctionCallInfo fcinfo, int first);
extern TopicSettingValues *topics_topic_setting_from_text(const char *const(*pairs)[2], int count);
extern void topics_topic_setting_add_defaults(TopicSettingValues *values);
extern TopicSettings topics_topic_setting_used(const TopicSettingValues *values);
extern void topics_topic_setting_read_row(TopicSettings *settings, HeapTuple tuple,
										  TupleDesc desc, AttrNumber first);
extern char *topics_topic_setting_columns(void);
extern char *topics_topic_setting_parameters(void);
extern char *topics_topic_setting_assignments(void);
extern char *topics_topic_setting_descriptions(void);
extern void topics_topic_setting_execute(const char *sql, TopicSettingValues *values);

/* ---- catalog.c ---- */

extern void topics_catalog_forget_transaction(void);
extern Topic *topics_catalog_lookup(const char *name, bool missing_ok);
extern Topic *topics_catalog_get(Oid view_relid, bool missing_ok);
extern Oid	topics_catalog_view_of(int64 topic_id);
extern char *topics_catalog_describe(int64 topic_id, int32 partition);
extern char *topics_catalog_describe_log(Oid relid);
extern Topic *topics_catalog_by_id(int64 topic_id);
extern List *topics_catalog_list(void);
extern Oid	topics_catalog_partition_relid(Topic *topic, int32 partition);
extern int	topics_catalog_highest_set(void);
extern PartitionState *topics_catalog_get_state(const TopicPartition *id);
extern PartitionState *topics_catalog_try_partition_state(Topic *topic, int32 partition);
extern PartitionState *topics_catalog_partition_state(Topic *topic, int32 partition);
extern void topics_catalog_report_dropped(const char *topic);
extern void topics_catalog_check_partition(Topic *topic, int32 partition);
extern Partition topics_catalog_partition(Topic *topic, int32 partition);
extern bool topics_catalog_try_open_partition(Partition *partition, LOCKMODE mode);
extern void topics_catalog_open_partition(Partition *partition, LOCKMODE mode);
extern void topics_catalog_reopen_partition(Partition *partition, LOCKMODE mode);
extern void topics_catalog_close_partition(Partition *partition, LOCKMODE mode);
extern void topics_catalog_hold_partition(const Partition *partition);
extern Partition topics_catalog_open_for_reading(Topic *topic, int32 number);
extern bool topics_catalog_owns_view(Oid view_relid);
extern bool topics_catalog_may_read_view(Oid view_relid);
extern bool topics_catalog_may_read(Topic *topic);
extern void topics_catalog_require(Topic *topic, AclMode mode);
extern void topics_catalog_require_owner(Topic *topic);
extern bool topics_catalog_is_internal(const char *name);
extern void topics_catalog_require_not_internal(Topic *topic);
extern bool topics_catalog_is_owner(Topic *topic);
extern bool topics_catalog_is_admin(void);
extern bool topics_catalog_is_monitor(void);
extern bool topics_catalog_may_see(Topic *topic);

/* ---- role.c ---- */

/* The roles that topics.create_roles() makes. */
typedef enum TopicsRole
{
	TOPICS_READER,
	TOPICS_WRITER,
	TOPICS_ADMIN,
	TOPICS_MONITOR
} TopicsRole;

extern bool topics_role_is_held(TopicsRole role);
extern void topics_role_grant_new_topic(const char *topic);

/* ---- domain.c ---- */

extern Oid	topics_domain_below(Oid domain, bool *not_null);
extern void topics_domain_lock_topics(const AlterDomainStmt *stmt);

/* ---- broken_topic.c ---- */

#define ALL_TOPICS (-1)			/* in place of a topic's id */

/* Something that a topic lacks. */
typedef struct BrokenPart
{
	int64		topic_id;
	Oid			view_relid;		/* or InvalidOid */
	int32		partition;		/* or WHOLE_TOPIC */
	char	   *problem;		/* a sentence */
	const char *hint;			/* what is to be done, where
								 * topics.repair_topic() does not do it, or
								 * NULL */
} BrokenPart;

/* What there is of a topic. */
typedef struct TopicParts
{
	int64		topic_id;
	Oid			root_relid;		/* or InvalidOid */
	Oid			view_relid;		/* likewise */
	bool		has_row;
	int32		partitions;		/* by its row, or its tables if they are more */
} TopicParts;

/* A table of a topic that is attached to nothing. */
typedef struct LooseTable
{
	char	   *name;			/* as we name them: needs no quotes */
	int32		partition;
	bool		is_segment;		/* else the table of the partition */
} LooseTable;

extern bool topics_broken_topic_find(int64 topic_id, Oid view_relid, TopicParts *parts);
extern List *topics_broken_topic_loose_tables(int64 topic_id);
extern List *topics_broken_topic_list(int64 topic_id);
extern void topics_broken_topic_report(const char *name, int64 topic_id);
extern void topics_broken_topic_report_view(const char *name);
extern void topics_broken_topic_report_other(const char *name);
extern void topics_broken_topic_check(const Partition *partition);

/* ---- dropped_topic.c ---- */

extern void topics_dropped_topic_take_tables(const TopicParts *parts);
extern bool topics_dropped_topic_finish(bool all, MemoryContext parent,
										NextTransaction next_transaction, OthersWait others_wait);

/* ---- cluster.c ---- */

/*
 * What this node is in a leader set of a cluster: a row of topic_log.cluster.
 */
typedef struct ClusterRow
{
	char	   *node;			/* its own name */
	char	   *cluster_id;
	char	   *leader;			/* "": none is known */
	char	   *leader_conninfo;	/* for nodes; NULL: it leads */
	char	   *leader_advertised;	/* for clients */
	int64		epoch;			/* of the leader; 0: not heard of yet */
	char	   *epoch_id;		/* or "" */
	char	   *incarnation;	/* of this node: drawn when it joins */
	int32		acks_followers; /* that a commit waits for */
	int32		voters;			/* nodes that count, with this one */
	int64		term;			/* of the epoch: it begins with an election */
	int64		promised_term;	/* nothing is taken of a lower one */
	char	   *promised_to;	/* the candidate, or "" */
	bool		is_admitted;	/* this server is the one whose promises the
								 * row has, and no copy of it */
	bool		data_loss;		/* its term was begun without a majority */
	bool		is_removed;		/* the leader says that it is no node any more */
	int			feature_level;	/* that all nodes have; 0: not heard of yet */
	bool		change_open;	/* too few others may know of the latest
								 * change of nodes */
	bool		leads;
} ClusterRow;

extern bool topics_cluster_read_row(ClusterRow *row);
extern bool topics_cluster_read_row_of(int set, ClusterRow *row);
extern Datum topics_leader_set_call(FunctionCallInfo fcinfo, PGFunction function);
extern Datum topics_leader_set_call_any(FunctionCallInfo fcinfo, PGFunction function);
extern void topics_cluster_require_row(ClusterRow *row);
extern void topics_cluster_attend(void);
extern void topics_cluster_note_change(void);
extern void topics_cluster_pre_commit(void);
extern bool topics_cluster_is_pending(void);
extern void topics_cluster_raise_acks(void);
extern uint32 topics_cluster_changed_roles(void);
extern void topics_cluster_at_end(bool commit);
extern void topics_cluster_check_replicas(int32 min_insync_replicas);
extern bool topics_cluster_follows(int set);
extern void topics_cluster_look(void);
extern void topics_cluster_require_leader(const char *command);
extern void topics_cluster_require_leader_of(int set, const char *command);
extern char *topics_cluster_own_server(void);
extern int	topics_cluster_quorum(const ClusterRow *row);
extern int	topics_cluster_copy_quorum(const ClusterRow *row);
extern void topics_cluster_report_other_leader(const char *node);
extern bool topics_cluster_leads_any(void);
extern bool topics_cluster_has_others(const ClusterRow *row);
extern void topics_cluster_report_no_group(int set);
pg_noreturn extern void topics_cluster_report_member_elsewhere(int set, const char *member_id);
extern void topics_cluster_report_no_subscription(const char *group_id, const char *topic);
extern void topics_cluster_report_not_leader(int set, const char *topic, int32 partition);

/* ---- truncate.c ---- */

extern int64 topics_truncate_log(const Partition *partition, int64 end, int64 epoch);
extern bool topics_truncate_is_pending(void);
extern void topics_truncate_at_end(bool commit);

/* ---- make_topic.c ---- */

/* What a topic is to be, when it is made. */
typedef struct NewTopic
{
	int64		topic_id;		/* 0: the next one */
	const char *notify_key;		/* NULL: a new one */
	LeaderSets	leader_sets;
	const char *name;
	int32		partitions;
	const char *key_type;		/* as it can stand in any statement */
	const char *value_type;
	TopicSettingValues *settings;	/* that are not to be the defaults */
	Oid			owner;			/* InvalidOid: the extension's */
} NewTopic;

extern bool topics_make_topic_lock_name(const char *name);
extern void topics_make_topic_create(const NewTopic *topic);
extern void topics_make_topic_create_internal_as(NewTopic *topic);
extern void topics_make_topic_cover_set(const char *name, int32 partitions);
extern void topics_make_topic_create_internal(const char *name, int32 partitions);
extern void topics_make_topic_create_partitions(int64 topic_id, int32 from, int32 to, int64 segment_bytes,
												const LeaderSets *sets);
extern Oid	topics_make_topic_create_table(int64 topic_id, int32 partition);
extern void topics_make_topic_attach_partition(int64 topic_id, int32 partition);
extern Oid	topics_make_topic_create_view(int64 topic_id, const char *name);
extern void topics_make_topic_create_triggers(const char *name);
extern void topics_make_topic_insert_row(int64 topic_id, Oid view, const char *name,
										 int32 partitions);

/* ---- internal_topic.c ---- */

/*
 * What is done with a record that is read; the slot is good until it returns.
 */
typedef void (*StateReader) (TupleTableSlot *slot, void *arg);

extern int	topics_internal_topic_state(const char *name);
extern bool topics_internal_topic_tolerates_missed(const char *name);
extern void topics_internal_topic_cover_sets(int highest_set, bool create);
extern void topics_internal_topic_create(const char *name);
extern int	topics_internal_topic_set_of(int64 topic_id, int32 partition);
extern int32 topics_internal_topic_partition_of_set(const Topic *topic, int set);
extern Topic *topics_internal_topic_require(const char *name);
extern int64 topics_internal_topic_read(Topic *topic, int32 number, StateReader read, void *arg);
extern const char *topics_internal_topic_parse_key(const char *text, int64 *topic_id, int32 *partition);
extern void topics_internal_topic_format_owner(StringInfo json, Oid owner);
extern Oid	topics_internal_topic_read_owner(Jsonb *value);
extern bool topics_internal_topic_is_left(int64 topic_id);

/* ---- topic_changes.c ---- */

extern bool topics_topic_changes_drops(int64 topic_id);
extern void topics_topic_changes_note(int64 topic_id, int32 from, int32 to, bool created);
extern void topics_topic_changes_note_extension(void);
extern void topics_topic_changes_want_round(void);
extern void topics_topic_changes_note_settings(void);
extern void topics_topic_changes_settings_committed(void);
extern void topics_topic_changes_note_description(void);
extern bool topics_topic_changes_are_described(void);
extern void topics_topic_changes_forget(void);
extern bool topics_topic_changes_drops_extension(void);
extern bool topics_topic_changes_is_pending(void);
extern void topics_topic_changes_pre_commit(void);
extern void topics_topic_changes_at_commit(TopicCallback forget, DatabaseCallback forget_all);
extern void topics_topic_changes_at_abort(void);
extern void topics_topic_changes_at_subend(bool commit, SubTransactionId subxid,
										   SubTransactionId parent);
extern void topics_topic_changes_after_locks(void);

/* ---- log_start.c ---- */


/* What the catalogue knows of a partition's offsets: topic_log.partition. */
typedef struct PartitionRow
{
	int64		log_start_offset;
	int64		next_offset_floor;	/* next_offset never falls below */
	int64		gaps_below;		/* below it records may be missing */
	int64		tombstones_below;	/* below it tombstones were removed */
	int64		high_watermark; /* what was confirmed, by the latest cut that
								 * was stored (keep/checkpoint.c) */
} PartitionRow;

/* An end of a log, to be stored as the floor of its next offset. */
typedef struct LogFloor
{
	PartitionState *state;
	TopicPartition id;
	int64		floor;
} LogFloor;

extern bool topics_log_start_read_row(const TopicPartition *id, Snapshot snapshot,
									  PartitionRow *row);
extern bool topics_log_start_read(const TopicPartition *id, Snapshot snapshot,
								  int64 *log_start_offset, int64 *next_offset_floor);
extern Oid	topics_log_start_relid(void);
extern int64 topics_log_start(PartitionState *state);
extern int64 topics_log_start_lowest(PartitionState *state);
extern int64 topics_log_start_settle(PartitionState *state);
extern int64 topics_log_start_for_scan(const TopicPartition *id, PartitionState *state,
									   int64 base_offset, Snapshot snapshot);
extern int64 topics_log_start_move(PartitionState *state, int64 start);
extern int64 topics_log_start_clean_offset(const TopicPartition *id);
extern void topics_log_start_raise_clean_offset(const TopicPartition *id, int64 clean_offset);
extern void topics_log_start_raise_floor(const TopicPartition *id, int64 next_offset_floor);
extern void topics_log_start_note_tombstones(const TopicPartition *id, int64 tombstones_below);
extern void topics_log_start_allow_gaps(const TopicPartition *id, int64 gaps_below);
extern void topics_log_start_raise_high_watermark(const TopicPartition *id, int64 high_watermark);
extern int	topics_log_start_store_floors(LogFloor *floors, int count, bool is_cut);
extern bool topics_log_start_is_pending(void);
extern void topics_log_start_at_end(bool commit);
extern void topics_log_start_at_subend(bool commit, SubTransactionId subxid,
									   SubTransactionId parent);

/* ---- segment.c ---- */

extern void topics_segment_forget_bounds(Oid partition_relid);
extern bool topics_segment_is_known(Oid relid);
extern void topics_segment_hear(void);
extern bool topics_segment_learn_table(Oid relid);
extern void topics_segment_learn(const Partition *partition);
extern void topics_segment_note_planned(Oid relid, PartitionDirectory directory);
extern bool topics_segment_plan_lacks_records(const PlannedStmt *plan, Oid relid);
extern bool topics_segment_find(Relation partition_rel, int64 offset, Segment *segment);
extern bool topics_segment_find_next(Relation partition_rel, int64 offset, Segment *segment);
extern bool topics_segment_last(Relation partition_rel, Segment *segment);
extern Segment *topics_segment_list(Relation partition_rel, int *count);
extern int64 topics_segment_half(int64 base_offset, int64 end_offset);
extern bool topics_segment_covers(Relation partition_rel, int64 first, int64 last);
extern bool topics_segment_fits(Relation partition_rel, int64 first, int64 last);
extern void topics_segment_protect_from_analyze(Oid relid);
extern void topics_segment_set_bounds(Oid partition_relid, const Segment *segment);
extern void topics_segment_attach(Oid partition_relid, int64 base_offset, int64 end_offset);
extern int64 topics_segment_bytes(Oid segment_relid);
extern int64 topics_segment_toast_bytes(Relation segment_rel);

/* ---- segment_row.c ---- */

extern void topics_segment_row_correct_times(const TopicPartition *id);
extern TimestampTz topics_segment_row_sealed_at(const TopicPartition *id, int64 base_offset);
extern bool topics_segment_row_read(const TopicPartition *id, int64 base_offset,
									TimestampTz *sealed_at, TimestampTz *tombstones_from);
extern bool topics_segment_row_note_sealed(const TopicPartition *id, const Segment *segment);
extern void topics_segment_row_update(const TopicPartition *id, int64 base_offset,
									  TimestampTz sealed_at, TimestampTz tombstones_from);
extern void topics_segment_row_forget(const TopicPartition *id, int64 base_offset);

/* ---- cut.c ---- */

/* Offsets that are to have a segment. */
typedef struct CoverRequest
{
	int64		first;
	int64		last;
	int64		segment_bytes;	/* what a new segment is made for */
} CoverRequest;

/* What the transaction that covers offsets does besides. */
typedef enum CoverMode
{
	COVER_ALONE,				/* nothing: another can follow it */
	COVER_FOR_RECORDS,			/* it commits, with records for them */
	COVER_BESIDES				/* anything else */
} CoverMode;

/* What has become of the first half of a cut. */
typedef enum CutResult
{
	CUT_NOTHING,				/* the active segment has no record */
	CUT_PUT_OFF,				/* not now: to be tried again */
	CUT_BEGUN					/* the second half follows */
} CutResult;

extern bool topics_cut_cover(Partition *partition, const CoverRequest *request, CoverMode mode);
extern void topics_cut_cover_offset(Partition *partition, int64 offset, int64 segment_bytes,
									CoverMode mode);
extern CutResult topics_cut_active_segment(Partition *partition, int64 *cut_at);
extern bool topics_cut_is_pending(void);
extern void topics_cut_at_commit(void);
extern void topics_cut_at_abort(void);
extern void topics_cut_at_subend(bool commit, SubTransactionId subxid, SubTransactionId parent);

/* ---- seal.c ---- */

extern void topics_seal_freeze(Oid segment_relid);
extern bool topics_seal_clean_catalog(Oid relid);
extern void topics_seal_segment(Oid segment_relid);

/* ---- log.c ---- */

typedef struct LogReader LogReader;

extern int	topics_log_range_detail(int64 start, int64 end);
extern void topics_log_report_out_of_range(const char *topic, int32 partition, int64 offset,
										   int64 start, int64 end, const char *hint);
#define GIVEN_OFFSETS (-1)		/* in place of the first of them */
extern int64 topics_log_tuple_offset(const HeapTupleData *tuple);
extern int64 topics_log_value_bytes(Datum value, bool isnull, int typlen);
extern TimestampTz topics_log_tuple_timestamp(const HeapTupleData *tuple);
extern void topics_log_append(Relation segment_rel, TupleTableSlot **slots,
							  HeapTupleData *tuples, int ntuples, int64 first_offset,
							  TimestampTz append_time, CommandId cid, BlockNumber last_block);
extern void topics_log_scan_blocks(Relation rel, Snapshot snapshot, TableScanDesc *scan,
								   BlockNumber low, BlockNumber high);
extern BlockNumber topics_log_seek(Relation rel, const Segment *segment, int64 target,
								   int *probes);
extern BlockNumber topics_log_seek_end(Relation rel, const Segment *segment, int64 target,
									   int *probes);
extern void topics_log_seek_remember(Relation rel, int64 offset, BlockNumber block);
extern LogReader *topics_log_reader_open(Relation partition_rel, int64 from,
										 int64 upto, Snapshot snapshot, bool keep_locks);
extern TupleTableSlot *topics_log_reader_next(LogReader *reader);
extern void topics_log_reader_close(LogReader *reader);
extern bool topics_log_find_timestamp(Relation partition_rel, int64 from, int64 upto,
									  Snapshot snapshot, TimestampTz *timestamp);
extern int64 topics_log_find_first(Relation partition_rel, int64 from, int64 upto, Snapshot snapshot);

/* Get the offset of a row of a log table, where it is never NULL. */
static inline int64
topics_log_get_offset(TupleTableSlot *slot)
{
	bool		isnull;

	return DatumGetInt64(slot_getattr(slot, Anum_log_offset, &isnull));
}

/* ---- log_end.c ---- */

/*
 * The two ends that a log has, above.
 *
 *		topics_log_end			how far a reader with this snapshot reads, the one
 *								place that decides it: what the snapshot sees,
 *								published or not, and no synchronous standby has
 *								still to confirm.  All reads of a statement
 *								agree.  NULL: as of now.
 *
 *		topics_log_next_offset	the offset of the next record: for those who
 *								write, and for errors
 *		topics_log_lock_end		the same, with the append lock, which the caller
 *								releases
 *		topics_log_next_offset_settled	after all who are publishing have done
 *								so: for a caller that knows of a record which is
 *								visible and maybe not published
 */
extern int64 topics_log_end(const Partition *partition, Snapshot snapshot);
extern int64 topics_log_next_offset(const Partition *partition);
extern int64 topics_log_lock_end(const Partition *partition);
extern int64 topics_log_next_offset_settled(const Partition *partition);
extern void topics_log_flush(PartitionState *state);
extern void topics_log_flush_published(PartitionState *state);
extern void topics_log_meet_writers(Relation partition_rel, Snapshot snapshot);
extern void topics_log_forget_transaction(void);
extern bool topics_log_is_complete(const Partition *partition);

/* ---- read_cut.c ---- */

extern bool topics_read_cut_may_hide(Snapshot snapshot);
extern int64 topics_read_cut_limit(PartitionState *state, Snapshot snapshot);
extern bool topics_read_cut_show_all(bool show);
extern void topics_read_cut_forget(void);
extern void topics_read_cut_init(void);

/* ---- log_am.c ---- */

#define TOPIC_LOG_APPEND 0x40000000 /* insert option: the caller is log.c */
#define TOPIC_LOG_AIMED	0x20000000	/* and it has set the target block */
extern bool topics_log_am_is_log(Relation rel);
extern bool topics_log_am_is_segment(Relation rel);
extern PartitionState *topics_log_am_state(Relation rel);
extern int64 topics_log_am_hidden_below(Relation rel, Snapshot snapshot);
extern int64 topics_log_am_hidden_from(Relation rel, Snapshot snapshot);
extern void topics_log_am_know_end(Relation rel);
extern void topics_log_am_lock_partition(Relation rel, Snapshot snapshot);
extern void topics_log_am_bounds(Oid relid, int64 *base_offset, int64 *end_offset);
extern bool topics_log_am_is_sealed(Relation rel);
extern bool topics_log_am_parse_name(const char *relname, int64 *topic_id,
									 int32 *partition, int64 *sequence);
extern TableScanDesc topics_log_am_begin_tidrange(Relation rel, Snapshot snapshot,
												  ItemPointer mintid, ItemPointer maxtid);
extern int64 topics_log_am_last_offset(Relation rel);

/* ---- log_index.c ---- */

extern bool topics_log_index_exists(Relation rel);
extern double topics_log_index_build_range_scan(Relation rel, Relation index,
												struct IndexInfo *info, bool allow_sync,
												bool anyvisible, bool progress,
												BlockNumber start_blockno, BlockNumber numblocks,
												IndexBuildCallback callback, void *callback_state,
												TableScanDesc scan);
extern void topics_log_index_validate_scan(Relation rel, Relation index, struct IndexInfo *info,
										   Snapshot snapshot, struct ValidateIndexState *state);

/* ---- foreign_writer.c ---- */

extern void topics_foreign_writer_check(Relation rel, TupleTableSlot **slots, int nslots);
extern void topics_foreign_writer_note(Oid partition_relid);
extern bool topics_foreign_writer_wrote_to(Oid partition_relid);
extern bool topics_foreign_writer_is_pending(void);
extern void topics_foreign_writer_pre_commit(void);
extern uint32 topics_foreign_writer_sets(void);
extern void topics_foreign_writer_end(void);
extern void topics_foreign_writer_publish(int set, XLogRecPtr lsn, bool marks);
extern void topics_foreign_writer_tell(TopicCallback changed);
extern void topics_foreign_writer_forget(void);

/* ---- attach_worker.c ---- */

extern bool topics_attach_worker_run(const Partition *partition, const CoverRequest *cover);

#endif							/* PG_TOPICS_LOG_H */
