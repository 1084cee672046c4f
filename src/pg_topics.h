/*-------------------------------------------------------------------------
 *
 * pg_topics.h
 *		The nouns of pg_topics, and what its files offer each other.
 *
 * Prototypes are grouped by file in the order of the layers: a file calls
 * files of its own group or below, never above (src/README has the picture).
 *
 *-------------------------------------------------------------------------
 */
#ifndef PG_TOPICS_H
#define PG_TOPICS_H

#include "postgres.h"

#include <signal.h>

#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/sdir.h"
#include "access/tableam.h"
#include "access/xlogdefs.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "nodes/parsenodes.h"
#include "nodes/pg_list.h"
#include "nodes/plannodes.h"
#include "port/atomics.h"
#include "storage/block.h"
#include "storage/condition_variable.h"
#include "storage/lockdefs.h"
#include "storage/lwlock.h"
#include "storage/spin.h"
#include "tcop/cmdtag.h"
#include "utils/hsearch.h"
#include "utils/queryenvironment.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

/* What the SQL objects must be at; the control file's default_version. */
#define PG_TOPICS_VERSION "1.0"

/* Schemas, made by the install script. */
#define TOPICS_SCHEMA "topics"		/* functions and administration views */
#define TOPIC_SCHEMA "topic"		/* one view per topic */
#define TOPIC_LOG_SCHEMA "topic_log"	/* catalogue and log tables */
#define TOPIC_LOG_AM "topic_log"	/* the access method of segments */

/* Kafka's errors that a client branches on. */
#define ERRCODE_OFFSET_OUT_OF_RANGE MAKE_SQLSTATE('T', 'P', '0', '0', '1')
#define ERRCODE_UNKNOWN_MEMBER MAKE_SQLSTATE('T', 'P', '0', '0', '3')
#define ERRCODE_NOT_LEADER MAKE_SQLSTATE('T', 'P', '0', '0', '4')
#define ERRCODE_VERSION_MISMATCH MAKE_SQLSTATE('T', 'P', '0', '0', '5')

/*
 * Columns of a log table.  The first three are NOT NULL and of fixed width,
 * so in every record's tuple they stand at fixed places after the header:
 * that is how offsets are stamped into tuples that were formed long before
 * (log.c).
 */
#define Anum_log_offset		1
#define Anum_log_timestamp	2
#define Anum_log_partition	3
#define Anum_log_key		4
#define Anum_log_value		5
#define Anum_log_headers	6
#define Natts_log			6

/* Columns of a topic's view, in the order of a record. */
#define Anum_view_partition	1
#define Anum_view_offset	2
#define Anum_view_timestamp	3
#define Anum_view_key		4
#define Anum_view_value		5
#define Anum_view_headers	6
#define Natts_view			6

/* A partition of a topic of a database: Kafka's TopicPartition. */
typedef struct TopicPartition
{
	Oid			database;
	int32		partition;
	int64		topic_id;
} TopicPartition;

typedef enum PartitionRole
{
	ROLE_LEADER,				/* accepts records: all of them, on one node */
	ROLE_FOLLOWER				/* is written by replication only */
} PartitionRole;

/* What somebody asks of the worker for a partition (PartitionState.requests) */
#define REQUEST_SPARE	0x01	/* attach the segment after the tail */
#define REQUEST_ROLL	0x02	/* cut the tail at next_offset */
#define REQUEST_SEAL	0x04	/* freeze and index sealed segments */
#define REQUEST_DROP	0x08	/* drop what is below the log start */

/*
 * A step at which tests stop the process, or have the server die: nothing,
 * unless built with TEST_POINTS=1 (test/test_point.c).  It waits, takes no
 * interrupt and raises nothing, unless a test wants that, so it may stand
 * anywhere but under a spinlock.
 */
#ifdef TOPICS_TEST_POINTS
extern void topics_test_point(const char *name);
#define TEST_POINT(name) topics_test_point(name)
#else
#define TEST_POINT(name) ((void) 0)
#endif

#define UNKNOWN_OFFSET	PG_INT64_MAX	/* of next_offset: not known yet */
#define NO_LIMIT		PG_INT64_MAX	/* of append_limit */
#define NOBODY_WAITS	PG_INT64_MAX	/* of wake_at */
#define UNKNOWN_BYTES	(-1)	/* of droppable_bytes: look */
#define NOTHING_DROPPABLE (PG_INT64_MIN / 2)	/* there is but the tail */
#define COMPACTION_WANTED 0		/* of compact_at: it pays, or a run goes on */
#define LOOK_NOW 1				/* of compact_at: a time long past */

/*
 * What all processes share of one partition.  It lives in an array whose
 * elements are never moved or freed, so that a pointer to it and its lock
 * stay valid for ever; an element is given to another partition only after
 * its topic was dropped, which a process that holds append_lock sees in "id".
 *
 * Fields stand in groups, by what guards them.  What is said to be guarded may
 * be read without as well where an old value does no harm.
 *
 * The order is one for the processor, too.  What each commit reads and writes
 * stands together, in the 128 bytes from append_lock to wake_at, and next_offset,
 * commit_lsn and append_xid, of which a reader wants all three, are neighbours.
 */
typedef struct PartitionState
{
	/* ---- the registry lock (partition_state.c), exclusive: to write ---- */

	TopicPartition id;

	/* ---- append_lock ---- */

	LWLock		append_lock;
	ConditionVariable append_cv;	/* append_lock was released, or the limit
									 * lifted */

	/*
	 * Written under the lock, and read by anybody at any time.  A foreign
	 * writer's commit writes the first two without it (transaction.c).
	 */
	pg_atomic_uint64 next_offset;	/* the log end, published */
	pg_atomic_uint64 commit_lsn;	/* of the commit that published it */
	pg_atomic_uint32 append_xid;	/* who appended and has not published */

	BlockNumber tail_blocks;	/* up to the one with the last record, for the
								 * roll by size, and to append at */
	TimestampTz last_append_time;	/* LogAppendTime never goes back */
	int64		tail_base;		/* first offset of the tail */

	/*
	 * When the tail got its first record; 0: it has none.  Two write it
	 * without the lock: the commit of a cut sets it to 0, while append_limit
	 * keeps producers away, and the worker that finds it in the future sets it
	 * to now, as any other writer would.
	 */
	TimestampTz tail_started;
	int64		spare_at;		/* next_offset at which to ask for a spare */
	Oid			tail_file;		/* that tail_blocks is of, or invalid: not
								 * known */

	/*
	 * ---- the lock on the partition's table, SHARE UPDATE EXCLUSIVE ----
	 *
	 * Written by the transaction that changes the partition's segments, of
	 * which there is one at a time.  It sets the limit and cut_end under
	 * append_lock as well, under which producers read them, and resets them
	 * after its end, without any lock: nobody begins a cut as long as either
	 * stands (segment.c).
	 */

	uint32		bounds_changes; /* segments were re-bounded this often */
	int64		append_limit;	/* a cut in progress: no offset from here on */
	int64		cut_end;		/* former end of a segment whose cut is not
								 * complete, or 0 */

	/* ---- no lock: atomics ---- */

	pg_atomic_uint32 requests;	/* REQUEST_xxx */
	pg_atomic_uint32 foreign_writes;	/* commits of writers other than
										 * produce */
	pg_atomic_uint64 wake_at;	/* lowest log end that anybody waits for, or
								 * NOBODY_WAITS (wakeup.c) */

	/* These two only rise, once they are known (log_start.c). */
	pg_atomic_uint64 log_start_offset;	/* published */
	pg_atomic_uint64 log_start_sought;	/* nothing that begins here or above
										 * is hidden from anybody */

	/* ---- the flag "moved": the process that has set it (moved.c) ---- */

	pg_atomic_uint32 moved;		/* is in a stack of moved partitions */
	int			moved_below;	/* the next one in it, as index + 1, or 0 */

	/* ---- no lock: of the topic, in the state of its partition 0 ---- */

	ConditionVariable data_cv;	/* who waits for anything of the topic
								 * (wakeup.c) */
	pg_atomic_uint32 claim_wanted;	/* somebody waits for a released claim */
	pg_atomic_uint32 topic_bounds_changes;	/* segments of any partition were
											 * re-bounded (segment.c) */

	/* ---- no lock: written when the state is made ---- */

	PartitionRole role;
	int32		leader_epoch;

	/*
	 * ---- no lock: what the last process that looked has found ----
	 *
	 * At worst another one looks, too (maintain.c, retention.c, compact.c).
	 */

	bool		looked_at;		/* for what was left undone before we were */
	TimestampTz lowest_kept;	/* the lowest segment has something to be kept
								 * that is of this time; 0: look */
	int64		droppable_bytes;	/* of sealed segments above the lowest */
	TimestampTz compact_at;		/* when to look whether compaction pays, or
								 * COMPACTION_WANTED */
} PartitionState;

#define MAX_WORKERS 256
#define WORKER_RESTART_MS 5000	/* least time between two starts of a worker */

/*
 * A database's worker and compactor, in shared memory.  worker_registry.c has
 * the spinlock that guards it, and alone touches what is in it.
 */
typedef struct WorkerSlot
{
	Oid			database;		/* InvalidOid: free */
	pid_t		pid;			/* 0: not running */
	pid_t		compactor;		/* likewise */
	struct Latch *latch;		/* of the running worker */
	bool		has_extension;	/* as of its last look */
	int			commands;		/* in progress that the worker gives way to */
	TimestampTz not_before;		/* no new start until then */
	bool		round_wanted;	/* was woken for more than notifications */
	TimestampTz last_round;		/* end of the worker's last round; 0: none yet */
	int			partitions;		/* that it looked at in that round */
} WorkerSlot;

/* A piece of the worker's work (backoff.c), and the steps that it may be at. */
typedef enum WorkKind
{
	WORK_MAINTAIN,				/* what maintain.c does */
	WORK_OWNERS,				/* of groups, that were renamed */
	WORK_NOTIFY,
	WORK_COMPACT,				/* what the compactor does (compactor.c) */
	WORK_KINDS
} WorkKind;

typedef enum WorkStep
{
	STEP_LOOK,					/* at what there is, or is to be done */
	STEP_ROLL,
	STEP_SPARE,
	STEP_SEAL,
	STEP_EXPIRE,
	STEP_DROP,
	STEP_COMPACT,
	STEP_OWNERS,
	STEP_NOTIFY
} WorkStep;

#define WHOLE_TOPIC (-1)		/* in place of a partition */

typedef struct WorkPiece
{
	Oid			database;
	Oid			view_relid;		/* InvalidOid: all topics of the database */
	int32		partition;		/* or WHOLE_TOPIC */
	WorkKind	kind;
} WorkPiece;

/* A partition that has something to be done. */
typedef struct DuePartition
{
	WorkPiece	piece;
	NameData	topic;
} DuePartition;

/* Commits a step of a piece of work, and begins the transaction of the next. */
typedef void (*NextTransaction) (void);

/* The look at what is to be done in this database. */
#define WHOLE_ROUND {MyDatabaseId, InvalidOid, WHOLE_TOPIC, WORK_MAINTAIN}

/* One that is under way, or has failed. */
#define MAX_FAILURE_MESSAGE 256

typedef struct WorkFailure
{
	WorkPiece	piece;
	WorkStep	step;			/* which it is at, or has failed at */
	bool		under_way;
	int32		failures;		/* in a row */
	int			sqlstate;		/* of the last one; 0: the worker has ended */
	TimestampTz since;			/* the first one in the row */
	TimestampTz retry_at;
	char		message[MAX_FAILURE_MESSAGE];
} WorkFailure;

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
} TopicSettings;

/* A key or value column of a topic: its type and how to get in and out. */
typedef struct TopicColumn
{
	Oid			type;			/* as declared, maybe a domain */
	Oid			base_type;		/* below all domains */
	int32		typmod;
	int16		typlen;
	bool		typbyval;
	char		typalign;
	Oid			ioparam;
	FmgrInfo	input;
	FmgrInfo	output;
	bool		text_depends_on_settings;	/* DateStyle and the like */
	void	   *domain_extra;	/* domain_check's cache */
} TopicColumn;

/* Where records of this transaction go (append.c). */
typedef struct Destination Destination;

/*
 * A topic as a backend knows it.  In catalog.c's cache, keyed by the view's
 * OID; a pointer stays good until the end of the session, its contents are
 * right from one topics_catalog_get to the next.
 */
typedef struct Topic
{
	Oid			view_relid;		/* hash key: must be first */
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
 * A partition, resolved: found once, and then passed on as const Partition *.
 * It is a value, on the stack or in an array of whoever resolved it
 * (topics_catalog_partition); nothing is to be freed.
 *
 * LIFETIME.  The pointer to the state can always be followed.  Without a lock
 * on the partition's table the topic can be dropped at any time, and the state
 * be another topic's from then on.  "topic" is as good as any pointer to a
 * Topic; it may be NULL where only log tables are dealt with.
 *
 * LOCKS.  Resolving takes none, and does not look for the table: a group's call
 * resolves all partitions of a topic, and needs the table of one.
 * topics_catalog_open_partition finds, locks and opens the table, and resolves
 * the state again: both are the partition's as long as that lock is held.
 * Whoever opened the table closes it, by topics_catalog_close_partition.
 */
typedef struct Partition
{
	Topic	   *topic;
	int32		number;
	Oid			relid;			/* of its table, or InvalidOid: not looked for */
	Relation	rel;			/* its table, or NULL: not open */
	PartitionState *state;
} Partition;

/* A record on its way in, not yet formed: what produce() and INSERT know. */
typedef struct RecordDraft
{
	int32		partition;
	TimestampTz create_time;
	Datum		key;
	bool		key_isnull;
	Datum		value;
	bool		value_isnull;
	Datum		headers;
	bool		headers_isnull;
} RecordDraft;

/* Where one transaction's records of one partition went. */
typedef struct ProducedRange
{
	NameData	topic;
	int32		partition;
	int64		first_offset;
	int64		record_count;
} ProducedRange;

/* What a file of a higher layer does with a topic, called from below. */
typedef void (*TopicCallback) (int64 topic_id);

/* ---- the ground ---- */

/* settings.c */
extern int	pg_topics_max_partitions;
extern int	pg_topics_max_group_offsets;
extern bool pg_topics_early_lock_release;
extern bool pg_topics_enable_offset_scan;
extern int	pg_topics_worker_interval;
extern int	pg_topics_notify_interval;
extern int	pg_topics_compaction_rate;
extern void topics_settings_define(void);
extern void topics_require_preload(void);
extern void topics_settings_override(const char *name, const char *value);

/* argument.c */
extern void topics_argument_require(FunctionCallInfo fcinfo, int argument, const char *name);
extern void topics_argument_require_all(FunctionCallInfo fcinfo, int count, const char *function);

/* wait_event.c */
typedef enum WaitReason
{
	WAIT_APPEND_LOCK,			/* for an append lock, or for a cut to be over */
	WAIT_RECORD,				/* for records, or a claim */
	WAIT_LAUNCHER_IDLE,
	WAIT_WORKER_IDLE,
	WAIT_COMPACTOR_IDLE,		/* until locks are free that were in the way */
	WAIT_COMPACTION_PACE		/* compaction has done more than its rate allows */
} WaitReason;

extern uint32 topics_wait_event_get(WaitReason reason);

/* partition_state.c */
extern void topics_partition_state_shmem_request(void);
extern void topics_partition_state_shmem_startup(void);
extern PartitionState *topics_partition_state_find(const TopicPartition *id);
extern PartitionState *topics_partition_state_get(const TopicPartition *id);
extern void topics_partition_state_reserve(int64 topic_id, int32 from, int32 to);
extern void topics_partition_state_release(int64 topic_id, int32 from);
extern void topics_partition_state_release_database(Oid database);
extern int	topics_partition_state_index(const PartitionState *state);
extern PartitionState *topics_partition_state_at(int index);

/* worker_registry.c */
extern void topics_worker_registry_shmem_request(void);
extern void topics_worker_registry_shmem_startup(void);
extern WorkerSlot *topics_worker_registry_find(Oid database);
extern WorkerSlot *topics_worker_registry_get(Oid database);
extern bool topics_worker_registry_read(Oid database, WorkerSlot *copy);
extern int	topics_worker_registry_index(const WorkerSlot *slot);
extern WorkerSlot *topics_worker_registry_at(int index);
extern void topics_worker_registry_wake_worker(void);
extern void topics_worker_registry_wake_notifier(const WorkerSlot *slot);
extern void topics_worker_registry_wake_launcher(void);
extern bool topics_worker_registry_give_way(Oid database);
extern void topics_worker_registry_come_back(Oid database);
extern void topics_worker_registry_enter_launcher(void);
extern bool topics_worker_registry_take_look_again(void);
extern void topics_worker_registry_list(Oid *databases);
extern bool topics_worker_registry_is_vacant(Oid database);
extern void topics_worker_registry_forget(Oid database);
extern bool topics_worker_registry_claim_start(Oid database, bool look_again);
extern long topics_worker_registry_time_to_start(long limit);
extern bool topics_worker_registry_claim_hint(void);
extern WorkerSlot *topics_worker_registry_enter(Oid database);
extern void topics_worker_registry_leave(WorkerSlot *slot);
extern void topics_worker_registry_note_no_extension(WorkerSlot *slot);
extern void topics_worker_registry_note_round(WorkerSlot *slot, int partitions);
extern bool topics_worker_registry_take_round_wanted(WorkerSlot *slot);
extern bool topics_worker_registry_has_compactor(const WorkerSlot *slot);
extern bool topics_worker_registry_enter_compactor(WorkerSlot *slot, Oid database);
extern void topics_worker_registry_leave_compactor(WorkerSlot *slot);

/* moved.c */
extern void topics_moved_shmem_request(void);
extern void topics_moved_shmem_startup(void);
extern void topics_moved_push(PartitionState *state);
extern bool topics_moved_is_empty(const WorkerSlot *slot);
extern int	topics_moved_pop(const WorkerSlot *slot, PartitionState **result);
extern void topics_moved_sort(Oid database);

/* backoff.c */
typedef void (*Work) (void *arg);
extern void topics_backoff_shmem_request(void);
extern void topics_backoff_shmem_startup(void);
extern long topics_backoff_left(const WorkPiece *piece);
extern long topics_backoff_next_round(void);
extern bool topics_backoff_run(const WorkPiece *piece, const char *topic, Work work, void *arg);
extern void topics_backoff_step(WorkStep step);
extern const char *topics_backoff_step_name(WorkStep step);
extern void topics_backoff_take_over(bool compactor);
extern void topics_backoff_excuse(bool compactor);
extern void topics_backoff_reset(Oid view_relid);
extern void topics_backoff_forget_untried(TimestampTz began);
extern void topics_backoff_forget_database(void);
extern void topics_backoff_keep_databases(List *databases);
extern WorkFailure *topics_backoff_list(int *count);

/* append_lock.c */
extern void topics_append_lock_shmem_request(void);
extern void topics_append_lock_shmem_startup(void);
extern void topics_append_lock_acquire(PartitionState **states, int nstates);
extern void topics_append_lock_release(void);
extern bool topics_append_lock_held(const PartitionState *state);
extern void topics_append_lock_sleep(PartitionState *state, long timeout_ms);
extern void topics_append_lock_at_abort(void);

/* extension.c */
/* Who the caller was, while the extension's owner acts. */
typedef struct OwnerScope
{
	Oid			userid;
	int			context;
} OwnerScope;

extern bool topics_extension_exists(void);
extern OwnerScope topics_extension_become_owner(void);
extern void topics_extension_become_caller(OwnerScope scope);
extern void topics_extension_check_version(void);

/* relation_memory.c */
extern void *topics_relation_memory_enter(HTAB **memory, Size entry_size, Oid relid, bool *found);

/* pace.c */
extern void topics_pace_limit(int *rate);
extern void topics_pace_begin(Oid root_relid, Oid partition_relid);
extern void topics_pace_note_locked(Oid segment_relid);
extern void topics_pace_account(Size bytes);

/* log_start.c */
extern bool topics_log_start_read(const TopicPartition *id, Snapshot snapshot,
								  int64 *log_start_offset, int64 *next_offset_floor);
extern int64 topics_log_start_published(PartitionState *state);
extern int64 topics_log_start_for_scan(const TopicPartition *id, PartitionState *state,
									   int64 base_offset, Snapshot snapshot);
extern int64 topics_log_start_move(PartitionState *state, int64 start);
extern int64 topics_log_start_clean_offset(const TopicPartition *id);
extern void topics_log_start_raise_clean_offset(const TopicPartition *id, int64 clean_offset);
extern void topics_log_start_raise_floor(const TopicPartition *id, int64 next_offset_floor);
extern bool topics_log_start_is_pending(void);
extern void topics_log_start_at_end(bool commit);
extern void topics_log_start_at_subend(bool commit, SubTransactionId subxid,
									   SubTransactionId parent);

/* topic_changes.c */
extern void topics_topic_changes_note(int64 topic_id, int32 from_partition, bool created);
extern bool topics_topic_changes_is_pending(void);
extern void topics_topic_changes_pre_commit(void);
extern void topics_topic_changes_at_commit(TopicCallback forget);
extern void topics_topic_changes_at_abort(void);
extern void topics_topic_changes_at_subend(bool commit, SubTransactionId subxid,
										   SubTransactionId parent);
extern void topics_topic_changes_after_locks(void);

/* log_am.c */
#define TOPIC_LOG_APPEND 0x40000000 /* insert option: the caller is log.c */
#define TOPIC_LOG_AIMED	0x20000000	/* and it has set the target block */
extern bool topics_log_am_is_log(Relation rel);
extern bool topics_log_am_is_segment(Relation rel);
extern PartitionState *topics_log_am_state(Relation rel);
extern int64 topics_log_am_hidden_below(Relation rel, Snapshot snapshot);
extern void topics_log_am_bounds(Oid relid, int64 *base_offset, int64 *end_offset);
extern bool topics_log_am_is_sealed(Relation rel);
extern bool topics_log_am_parse_name(const char *relname, int64 *topic_id,
									 int32 *partition, int64 *sequence);
extern TableScanDesc topics_log_am_begin_tidrange(Relation rel, Snapshot snapshot,
												  ItemPointer mintid, ItemPointer maxtid);
extern int64 topics_log_am_last_offset(Relation rel);

/* foreign_writer.c */
extern void topics_foreign_writer_check(Relation rel, TupleTableSlot **slots, int nslots);
extern bool topics_foreign_writer_wrote_to(Oid partition_relid);
extern bool topics_foreign_writer_is_pending(void);
extern void topics_foreign_writer_pre_commit(void);
extern void topics_foreign_writer_publish(XLogRecPtr lsn, TopicCallback changed);
extern void topics_foreign_writer_forget(void);

/* log_index.c */
extern bool topics_log_index_exists(Relation rel);
extern double topics_log_index_build_range_scan(Relation rel, Relation index,
												struct IndexInfo *info, bool allow_sync,
												bool anyvisible, bool progress,
												BlockNumber start_blockno, BlockNumber numblocks,
												IndexBuildCallback callback, void *callback_state,
												TableScanDesc scan);
extern void topics_log_index_validate_scan(Relation rel, Relation index, struct IndexInfo *info,
										   Snapshot snapshot, struct ValidateIndexState *state);

/* ---- log tables ---- */

/* statement.c */
typedef struct StatementScope
{
	OwnerScope	owner;
	int			guc_level;
} StatementScope;

extern StatementScope topics_statement_begin(void);
extern void topics_statement_end(StatementScope scope);
extern void topics_statement_execute(const char *format,...) pg_attribute_printf(1, 2);
extern void topics_statement_require_change(void);

/* topic_setting.c */
typedef struct TopicSettingValues TopicSettingValues;	/* as SQL has them */
extern int	topics_topic_setting_count(void);
extern TopicSettingValues *topics_topic_setting_arguments(FunctionCallInfo fcinfo, int first);
extern TopicSettingValues *topics_topic_setting_from_text(const char *const (*pairs)[2], int count);
extern void topics_topic_setting_add_defaults(TopicSettingValues *values);
extern TopicSettings topics_topic_setting_used(const TopicSettingValues *values);
extern void topics_topic_setting_read_row(TopicSettings *settings, HeapTuple tuple,
										  TupleDesc desc, AttrNumber first);
extern char *topics_topic_setting_columns(void);
extern char *topics_topic_setting_parameters(void);
extern char *topics_topic_setting_assignments(void);
extern char *topics_topic_setting_descriptions(void);
extern void topics_topic_setting_execute(const char *sql, TopicSettingValues *values);

/* make_topic.c */
/* What a topic is to be, when it is made. */
typedef struct NewTopic
{
	const char *name;
	int32		partitions;
	const char *key_type;		/* as it can stand in any statement */
	const char *value_type;
	TopicSettingValues *settings;	/* that are not to be the defaults */
	Oid			owner;			/* InvalidOid: the extension's */
} NewTopic;

extern bool topics_make_topic_lock_name(const char *name);
extern void topics_make_topic_create(const NewTopic *topic);
extern void topics_make_topic_create_internal(const char *name, int32 partitions);
extern void topics_make_topic_create_partitions(int64 topic_id, int32 from, int32 to,
												int64 segment_bytes);

/* segment.c */
extern void topics_segment_forget_bounds(Oid partition_relid);
extern void topics_segment_learn_bounds(Oid partition_relid, uint32 bounds_changes);
extern void topics_segment_learn(Oid partition_relid, const PartitionState *state);
extern void topics_segment_learn_topic(Oid relid);
extern bool topics_segment_find(Relation partition_rel, int64 offset, Segment *segment);
extern bool topics_segment_find_next(Relation partition_rel, int64 offset, Segment *segment);
extern bool topics_segment_last(Relation partition_rel, Segment *segment);
extern Segment *topics_segment_list(Relation partition_rel, int *count);
extern bool topics_segment_covers(Relation partition_rel, int64 first, int64 last);
extern bool topics_segment_fits(Relation partition_rel, int64 first, int64 last);
extern void topics_segment_protect_from_analyze(Oid relid);
extern void topics_segment_set_bounds(Oid partition_relid, const Segment *segment);
extern void topics_segment_attach(Oid partition_relid, int64 base_offset, int64 end_offset);
extern int64 topics_segment_bytes(Oid segment_relid);

/* cut.c */
/* Offsets that are to have a segment. */
typedef struct CoverRequest
{
	Oid			partition_relid;
	int64		first;
	int64		last;
	int64		segment_bytes;	/* what a new segment is made for */
} CoverRequest;

extern bool topics_cut_cover(const CoverRequest *request, PartitionState *state, bool may_repeat);
extern void topics_cut_cover_offset(Oid partition_relid, PartitionState *state, int64 offset,
									int64 segment_bytes);
extern bool topics_cut_tail(Oid partition_relid, PartitionState *state, int64 *cut_at);
extern bool topics_cut_is_pending(void);
extern void topics_cut_at_commit(void);
extern void topics_cut_at_abort(void);

/* seal.c */
extern void topics_seal_freeze(Oid segment_relid);
extern void topics_seal_segment(Oid segment_relid);

/* segment_row.c */
extern TimestampTz topics_segment_row_sealed_at(const TopicPartition *id, int64 base_offset);
extern bool topics_segment_row_read(const TopicPartition *id, int64 base_offset,
									TimestampTz *sealed_at, TimestampTz *tombstones_from);
extern bool topics_segment_row_note_sealed(const TopicPartition *id, const Segment *segment);
extern void topics_segment_row_update(const TopicPartition *id, int64 base_offset,
									  TimestampTz sealed_at, TimestampTz tombstones_from);
extern void topics_segment_row_forget(const TopicPartition *id, int64 base_offset);

/* log.c */
typedef struct LogReader LogReader;
extern int64 topics_log_end(Relation partition_rel, PartitionState *state);
extern int64 topics_log_end_locked(Relation partition_rel, PartitionState *state);
extern int64 topics_log_end_settled(Relation partition_rel, PartitionState *state);
extern int64 topics_log_start(PartitionState *state);
extern int	topics_log_range_detail(int64 start, int64 end);
extern void topics_log_report_out_of_range(const char *topic, int32 partition, int64 offset,
										   int64 start, int64 end, const char *hint);
extern void topics_log_append(Relation segment_rel, TupleTableSlot **slots,
							  HeapTupleData *tuples, int ntuples, int64 first_offset,
							  TimestampTz append_time, CommandId cid, BlockNumber last_block);
extern BlockNumber topics_log_seek(Relation rel, const Segment *segment, int64 target,
								   int *probes);
extern BlockNumber topics_log_seek_end(Relation rel, const Segment *segment, int64 target,
									   int *probes);
extern void topics_log_seek_remember(Relation rel, int64 offset, BlockNumber block);
extern LogReader *topics_log_reader_open(Relation partition_rel, int64 from,
										 int64 upto, Snapshot snapshot, bool keep_locks);
extern TupleTableSlot *topics_log_reader_next(LogReader *reader);
extern void topics_log_reader_close(LogReader *reader);

/* ---- the parts ---- */

/* append.c */
extern int64 topics_append_buffer(Topic *topic, RecordDraft *draft);
extern bool topics_append_records(void);
extern void topics_append_publish(XLogRecPtr lsn);
extern int64 topics_append_first_offset(int64 topic_id, int32 partition);
extern bool topics_append_is_pending(void);
extern void topics_append_forget(void);
extern const ProducedRange *topics_append_last_produced(int *count);

/* sticky_partition.c */
extern int32 topics_sticky_partition_choose(Topic *topic);
extern void topics_sticky_partition_forget(void);

/* durability.c */
extern void topics_durability_defer(void);
extern void topics_durability_publish(XLogRecPtr lsn);
extern void topics_durability_at_abort(void);
extern void topics_durability_wait(void);
extern void topics_durability_keep_connection(bool keep);
extern bool topics_durability_is_unconfirmed(void);

/* transaction.c */
extern void topics_transaction_init(void);

/* catalog.c */
extern void topics_catalog_init(void);
extern Topic *topics_catalog_lookup(const char *name, bool missing_ok);
extern Topic *topics_catalog_get(Oid view_relid, bool missing_ok);
extern Oid	topics_catalog_view_of(int64 topic_id);
extern Topic *topics_catalog_by_id(int64 topic_id);
extern List *topics_catalog_list(void);
extern Oid	topics_catalog_partition_relid(Topic *topic, int32 partition);
extern PartitionState *topics_catalog_partition_state(Topic *topic, int32 partition);
extern void topics_catalog_check_partition(Topic *topic, int32 partition);
extern Partition topics_catalog_partition(Topic *topic, int32 partition);
extern void topics_catalog_open_partition(Partition *partition, LOCKMODE mode);
extern void topics_catalog_close_partition(Partition *partition, LOCKMODE mode);
extern void topics_catalog_hold_partition(const Partition *partition);
extern Partition topics_catalog_open_for_reading(Topic *topic, int32 number);
extern bool topics_catalog_may_read(Topic *topic);
extern void topics_catalog_require(Topic *topic, AclMode mode);
extern void topics_catalog_require_owner(Topic *topic);
extern bool topics_catalog_is_internal(const char *name);
extern void topics_catalog_require_not_internal(Topic *topic);
extern bool topics_catalog_is_owner(Topic *topic);
extern bool topics_catalog_is_admin(void);

/* background.c */
extern bool topics_background_is_told_to_end(void);
extern void topics_background_end(SIGNAL_ARGS);
extern const char *topics_background_begin(void);
extern void topics_background_connect(Oid database);
extern void topics_background_wait(long timeout_ms, WaitReason reason);
extern struct BackgroundWorkerHandle *topics_background_start(const char *function, const char *name,
															 const void *extra, Size size);
extern bool topics_background_run(const char *function, const char *name,
								  const void *extra, Size size);

/* attach_worker.c */
extern bool topics_attach_worker_run(const TopicPartition *id, const CoverRequest *cover);

/* partitioner.c */
extern uint32 topics_partitioner_murmur2(const char *data, int len);
extern int32 topics_partitioner_for_key(const char *key, int len, int32 partitions);

/* wakeup.c */
#define WAKEUP_MAX_WAIT_MS 2147483000L	/* 24 days, what PostgreSQL can wait */
/*
 * Is the wait over?  If not, it has said what it waits for, before looking,
 * by topics_wakeup_want or topics_wakeup_want_claim.
 */
typedef bool (*WakeupCheck) (void *arg);
extern void topics_wakeup_published(PartitionState *state, PartitionState *topic_state,
									int64 next_offset);
extern void topics_wakeup_topic(PartitionState *topic_state);
extern void topics_wakeup_claim_released(PartitionState *topic_state);
extern void topics_wakeup_want(PartitionState *state, int64 next_offset);
extern void topics_wakeup_want_claim(PartitionState *topic_state);
extern bool topics_wakeup_wait(PartitionState *topic_state, WakeupCheck check, void *arg,
							   long timeout_ms);
extern long topics_wakeup_max_wait(const Interval *max_wait, long limit_ms);
extern void topics_wakeup_release_snapshots(FunctionCallInfo fcinfo, const char *command);
extern void topics_wakeup_restore_snapshot(void);

/* ---- what SQL calls ---- */

/* fetch.c */
/* Columns of a record, as every result has them. */
enum
{
	RECORD_PARTITION,
	RECORD_OFFSET,
	RECORD_TIMESTAMP,
	RECORD_KEY,
	RECORD_VALUE,
	RECORD_HEADERS,
	RECORD_COLUMNS
};

/* Arguments of fetch. */
enum
{
	FETCH_TOPIC,
	FETCH_PARTITION,
	FETCH_FROM_OFFSET,
	FETCH_MAX_RECORDS,
	FETCH_MAX_BYTES,
	FETCH_MAX_WAIT,
	FETCH_ARGUMENTS
};

typedef struct FetchLimits
{
	int32		max_records;
	int32		max_bytes;
	long		max_wait_ms;
} FetchLimits;

/* What is wanted. */
typedef struct FetchRequest
{
	Topic	   *topic;
	int32		partition;
	int64		from;
	FetchLimits limits;
} FetchRequest;

/* How a topic's column becomes the text or bytea of a result. */
typedef struct OutputColumn
{
	FmgrInfo	output;
	bool		as_bytes;
	bool		as_is;			/* no conversion needed */
} OutputColumn;

typedef struct RecordOutput
{
	OutputColumn key;
	OutputColumn value;
} RecordOutput;

/* A fetch in progress. */
typedef struct Fetch
{
	FetchLimits limits;
	NameData	topic;			/* a copy, as of the opening */
	bool		has_gaps;		/* the topic is compacted */
	Partition	partition;		/* open */
	LogReader  *reader;
	MemoryContext cxt;			/* of the current record */
	int64		from;
	int64		next;			/* the offset to go on from */
	int64		bytes;
	int32		count;
	bool		ended;
} Fetch;

/* Where records go that are read at once, and how they get there. */
typedef struct FetchResult
{
	struct ReturnSetInfo *rsinfo;
	RecordOutput output;
} FetchResult;

extern FetchLimits topics_fetch_limits(FunctionCallInfo fcinfo, int max_records);
extern FetchRequest topics_fetch_request(FunctionCallInfo fcinfo);
extern Relation topics_fetch_open_partition(Topic *topic, int32 number);
extern RecordOutput topics_fetch_output(Topic *topic, TupleDesc desc);
extern void topics_fetch_open(Fetch *fetch, const FetchRequest *request, Snapshot snapshot);
extern bool topics_fetch_next(Fetch *fetch, RecordOutput *output, Datum *values, bool *nulls);
extern void topics_fetch_close(Fetch *fetch);
extern Snapshot topics_fetch_wait(FetchRequest *request);
extern void topics_fetch_begin_result(FetchResult *result, FunctionCallInfo fcinfo, Topic *topic);
extern void topics_fetch_put_record(FetchResult *result, TupleTableSlot *slot);
extern int32 topics_fetch_records(const FetchRequest *request, Snapshot snapshot,
								  FetchResult *result, int64 *next);

/* list_offsets.c */
extern int64 *topics_list_offsets_since(Topic *topic, TimestampTz at,
										TimestampTz *timestamps, bool *found);

/* wait.c */
#define SHORT_WAIT_MS 60000L	/* in a statement, which keeps its snapshot */
extern Topic *topics_wait_for_record(Topic *topic, int32 partition, int64 offset, long timeout_ms);

/* produce.c */
extern void topics_produce_check_context(const char *command);
extern int32 topics_produce_record(Topic *topic, RecordDraft *draft, bool has_partition);
extern Datum topics_produce_convert_column(Topic *topic, TopicColumn *column, Oid given, Datum value);
extern void topics_produce_check_null(Topic *topic, TopicColumn *column);

/* header.c */
extern Datum topics_header_normalize(Datum headers);

/* insert.c */
extern bool topics_insert_calls_us_only(Relation view);
extern Topic *topics_insert_begin(Relation view);
extern void topics_insert_row(Topic *topic, Datum *values, bool *nulls);

/* copy.c */
extern bool topics_copy_from(PlannedStmt *pstmt, const char *query, QueryEnvironment *env,
							 QueryCompletion *qc);

/* custom_scan.c */
struct CustomExecMethods;
struct CustomPath;
struct CustomPathMethods;
struct CustomScanMethods;
struct CustomScanState;
struct ExplainState;
struct RelOptInfo;
extern struct CustomPath *topics_custom_scan_make_path(struct RelOptInfo *rel,
													   const struct CustomPathMethods *methods);
extern CustomScan *topics_custom_scan_make_plan(const struct CustomPath *path, List *tlist,
												List *quals,
												const struct CustomScanMethods *methods);
extern struct CustomScanState *topics_custom_scan_make_state(Size size,
															 const struct CustomExecMethods *methods);
extern void topics_custom_scan_explain(struct CustomScanState *css, const char *label,
									   Node *expression, List *ancestors,
									   struct ExplainState *es);

/* stale_plan.c */
extern void topics_stale_plan_init(void);

/* offset_scan.c */
extern void topics_offset_scan_init(void);
extern void topics_offset_scan_operator(const OpExpr *op, int *strategy, Oid *type);
extern bool topics_offset_scan_narrow(int64 *lower, int64 *upper, int strategy, Oid type,
									  Datum datum);
extern List *topics_offset_scan_private(ScanDirection direction, const Segment *segment);
extern const struct CustomScanMethods *topics_offset_scan_methods(const List *custom_private);

/* offset_path.c */
extern void topics_offset_path_init(void);

/* fetch_scan.c */
extern void topics_fetch_scan_init(void);

/* topic.c */
extern void topics_topic_check_name(const char *name);
extern bool topics_topic_is_being_dropped(Oid view_relid);

/* retention.c */
extern bool topics_retention_is_due(const TopicSettings *settings, const PartitionState *state);
extern bool topics_retention_advance(Topic *topic, Oid partition_relid, PartitionState *state);
extern bool topics_retention_drop(Oid partition_relid, PartitionState *state);
extern bool topics_retention_try_lock(Oid relid);
extern bool topics_retention_lock(Oid relid);

/* A segment that a run of compaction may replace, and what becomes of it. */
typedef struct CompactCandidate
{
	Segment		segment;
	int64		bytes;			/* on disk, now */
	bool		counted;		/* else nothing goes from it, and it was not read */
	int64		records;
	int64		live;
	bool		tombstones;		/* among those that stay */
	TimestampTz tombstones_from;	/* since when the segment's count as clean */
	TimestampTz sealed_at;
} CompactCandidate;

/* Segments to be replaced by one. */
typedef struct SegmentGroup
{
	List	   *candidates;
	int64		read;			/* bytes on disk, now */
	int64		live;			/* of these, what stays */
	int64		dead;			/* records that go */
	bool		tombstones;
	TimestampTz tombstones_from;
} SegmentGroup;

/* A run of compaction, from turn to turn. */
typedef struct CompactRun
{
	MemoryContext cxt;			/* of the map */
	TopicPartition id;
	struct OffsetMap *map;
	bool		mapping;		/* else copying */
	TimestampTz not_before;		/* locks were in the way */
	bool		full;			/* the map is full: there may be more to do */
	bool		expired;		/* there are tombstones to be let go */
	int64		clean_offset;	/* where the clean part ended */
	int64		next;			/* to be mapped next; to be copied next */
	int64		mapped;			/* end of what is mapped */
	Oid			froze;			/* the segment that was frozen last */
	CompactCandidate counted;	/* did not go with the last group */
} CompactRun;

/* A turn of it, in which segments are replaced. */
typedef struct CompactTurn
{
	CompactRun *run;
	const TopicSettings *settings;
	PartitionState *state;
	Oid			partition_relid;
	int64		log_start;
} CompactTurn;

/* compact_segment.c */
struct KeyHash;
extern List *topics_compact_segment_list(Relation partition_rel, PartitionState *state,
										 int64 from, int64 below);
extern bool topics_compact_segment_tombstones_expired(const CompactCandidate *candidate,
													  const TopicSettings *settings);
extern TableScanDesc topics_compact_segment_begin_scan(Relation rel, Snapshot snapshot);
extern bool topics_compact_segment_next_row(TableScanDesc scan, TupleTableSlot *slot);
extern int64 topics_compact_segment_offset(TupleTableSlot *slot);
extern bool topics_compact_segment_hash_key(const CompactRun *run, TupleTableSlot *slot,
											struct KeyHash *hash);
extern SegmentGroup topics_compact_segment_choose(const CompactTurn *turn, Relation partition_rel,
												  bool *busy);
extern bool topics_compact_segment_replace(const CompactTurn *turn, const SegmentGroup *group);

/* compact.c */
typedef enum CompactResult
{
	COMPACT_DONE,				/* nothing more is to be done */
	COMPACT_MORE,				/* the next turn can come at once */
	COMPACT_LATER				/* another process is in the way */
} CompactResult;

extern bool topics_compact_is_due(const TopicSettings *settings, const PartitionState *state);
extern bool topics_compact_is_wanted(const TopicSettings *settings, const PartitionState *state);
extern bool topics_compact_is_running(void);
extern void topics_compact_look(Topic *topic, Oid partition_relid, PartitionState *state);
extern CompactResult topics_compact_turn(Topic *topic, Oid partition_relid, PartitionState *state);
extern void topics_compact_check(bool later);
extern void topics_compact_abandon(void);

/* maintain.c */
extern bool topics_maintain_is_due(Topic *topic, int32 partition);
extern List *topics_maintain_collect_compaction(MemoryContext cxt);
extern bool topics_maintain_compact(Oid view_relid, int32 partition,
									NextTransaction next_transaction);
extern void topics_maintain_partition(Oid view_relid, int32 partition, bool roll,
									  NextTransaction next_transaction);

/* notify.c */
extern long topics_notify_send(WorkerSlot *slot);
extern void topics_notify_give_back(void);

/* hooks.c */
extern void topics_hooks_init(void);

/* ---- the worker ---- */

/* compactor.c */
extern bool topics_compactor_start(WorkerSlot *slot);

/* worker.c */
extern void topics_worker_register(void);

#endif							/* PG_TOPICS_H */
