/*-------------------------------------------------------------------------
 *
 * shared/shared.h
 *		What all processes share in memory, and the locks that guard it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PG_TOPICS_SHARED_H
#define PG_TOPICS_SHARED_H

#include "access/xlogdefs.h"
#include "fmgr.h"
#include "nodes/pg_list.h"
#include "port/atomics.h"
#include "port/pg_bitutils.h"
#include "storage/block.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "pg_topics.h"

/* What somebody asks of the worker for a partition (PartitionState.requests) */
#define REQUEST_SPARE	0x01	/* attach the segment after the active segment */
#define REQUEST_ROLL	0x02	/* cut the active segment at next_offset */
#define REQUEST_SEAL	0x04	/* freeze and index sealed segments */
#define REQUEST_DROP	0x08	/* drop what is below the log start */

#define HIGH_WATERMARK_MARKS 16 /* moments in time (high_watermark.c) */

#define MAX_FOLLOWERS	8		/* of a database */
#define MAX_LEADER_SETS (MAX_FOLLOWERS + 2) /* of a database */
#define METADATA_SET	0		/* the set of the metadata, and of all that is
								 * not spread */
#define MAX_CLUSTER_SLOTS 31	/* leader sets of all databases of a server
								 * that are nodes; a bit for each is in
								 * PartitionState.listed */

#define UNKNOWN_OFFSET	PG_INT64_MAX	/* of next_offset: not known yet */
#define NO_LIMIT		PG_INT64_MAX	/* of append_limit */
#define LOOKED_UP		(UINT64CONST(1) << 32)	/* in publish_xid */
#define NOBODY_WAITS	PG_INT64_MAX	/* of wake_at */
#define UNKNOWN_BYTES	(-1)	/* of droppable_bytes: look */
#define NOTHING_DROPPABLE (PG_INT64_MIN / 2)	/* there is only the active
												 * segment */
#define COMPACTION_WANTED 0		/* of compact_at: it pays, or a run goes on */
#define LOOK_NOW 1				/* of compact_at: a time long past */

/*
 * The leader sets of a topic's partitions: the first partition is of the first
 * one, and so on; when there are no more it begins anew.  A topic that has
 * none is of METADATA_SET.
 */
#define MAX_TOPIC_SETS	20

typedef struct LeaderSets
{
	int			count;
	int			sets[MAX_TOPIC_SETS];
} LeaderSets;

/* What is in the way of a step of the worker's (delay.c). */
typedef struct WorkDelay
{
	MonotonicTime since;		/* 0: nothing is */
	Oid			relid;			/* a table that others have locked; or
								 * InvalidOid: */
	TransactionId xmin;			/* snapshots as old as that */
} WorkDelay;

/*
 * What all processes share of one partition.  It lives in an array whose
 * elements are never moved or freed, so that a pointer to it and its lock
 * stay valid for ever; an element is given to another partition only after
 * its topic was dropped, which a process that holds append_lock sees in "id".
 *
 * Fields stand in groups, by what guards them.  A process may read a guarded
 * field without its guard where an old value does no harm.
 *
 * Locks are taken in this order: heavyweight locks; then append locks and the
 * database lock, none of which is waited for while another is held; then the
 * locks of heap's insert, or that of offset_table.c (src/README has all).
 *
 * The order is one for the processor, too.  What each commit reads and writes
 * stands together, from append_lock to active_file.  Of next_offset, commit_lsn
 * and append_xid a reader wants all three, so they are neighbours.
 */
typedef struct PartitionState
{
	/* ---- the registry lock (partition_state.c), exclusive: to write ---- */

	TopicPartition id;
	int			set;			/* the leader set: 0 without a cluster */

	/* ---- append_lock ---- */

	LWLock		append_lock;
	ConditionVariable append_cv;	/* append_lock was released, or the limit
									 * lifted */
	pg_atomic_uint32 holder;	/* pid of the process that has it, or 0 */

	/*
	 * Written under the lock, and read by anybody at any time.  A foreign
	 * writer's commit writes the first two without it (foreign_writer.c).
	 */
	pg_atomic_uint64 next_offset;	/* the log end, published */
	pg_atomic_uint64 commit_lsn;	/* of the commit that published it */
	pg_atomic_uint32 append_xid;	/* of the transaction that has appended
									 * and not yet published, or invalid */
	pg_atomic_uint64 publish_xid;	/* of the one that published next_offset;
									 * with LOOKED_UP, the next one when that
									 * was looked up */
	pg_atomic_uint64 append_end;	/* the log end once append_xid is
									 * published */

	BlockNumber active_blocks;	/* up to the one with the last record, for the
								 * roll by size, and to append at */
	int64		active_toast_bytes; /* what the active segment has out of line */
	TimestampTz last_append_time;	/* LogAppendTime never goes back */
	int64		active_base;	/* first offset of the active segment */

	/*
	 * When the active segment got its first record; 0: it has none.  Two
	 * write it without the lock: the commit of a cut sets it to 0, while
	 * append_limit keeps producers away, and the worker that finds it in the
	 * future sets it to now, as any other writer would.
	 */
	TimestampTz active_started;
	int64		spare_at;		/* next_offset at which to ask for a spare */
	Oid			active_file;	/* that active_blocks is of, or invalid: not
								 * known */

	/*
	 * ---- the lock on the partition's table, SHARE UPDATE EXCLUSIVE ----
	 *
	 * Written by the transaction that changes the partition's segments, of
	 * which there is one at a time.  It sets the limit and cut_end under
	 * append_lock as well, under which producers read them, and resets them
	 * after its end, without any lock: nobody begins a cut as long as either
	 * stands (cut.c).
	 */

	uint32		bounds_changes; /* segments were re-bounded this often */
	int64		append_limit;	/* a cut in progress: no offset from here on */
	int64		cut_end;		/* former end of a segment whose cut is not
								 * complete, or 0 */

	/*
	 * ---- the lock of mark_slot.c ----
	 *
	 * "listed" is read without it, too.  Where neither synchronous standbys
	 * nor followers are waited for, all this is left alone.
	 */

	pg_atomic_uint32 listed;	/* is in the lists there: a bit for each slot */
	uint64		mark;			/* that the last publication belongs to */
	uint64		found_at_mark;	/* the open one when the log end was looked up */
	XLogRecPtr	found_position; /* all that was found is confirmed when this
								 * is, by standbys alone */
	int64		found_confirmed;	/* what was known to be confirmed of it
									 * then */
	int64		confirmed_end;	/* an end that was confirmed once */
	uint32		excluded_by;	/* followers whose confirmations are not about
								 * this: a bit for each number */
	int64		end_at_mark[HIGH_WATERMARK_MARKS];	/* log end at marks that
													 * are needed, by number
													 * modulo */

	/* ---- no lock: atomics ---- */

	pg_atomic_uint32 requests;	/* REQUEST_xxx */
	pg_atomic_uint32 foreign_writes;	/* commits of writers other than
										 * produce */
	pg_atomic_uint32 foreign_commits;	/* of theirs that are in progress */
	pg_atomic_uint32 attacher;	/* pid of the producer that has a segment
								 * attached by another process, or 0 */
	pg_atomic_uint64 wake_at;	/* lowest log end that anybody waits for, or
								 * NOBODY_WAITS (wakeup.c) */

	/* These two only rise, once they are known (log_start.c). */
	pg_atomic_uint64 log_start_offset;	/* published */
	pg_atomic_uint64 log_start_sought;	/* nothing that begins here or above
										 * is hidden from anybody */

	/* In a cluster: what was last said of this, or UNKNOWN_OFFSET. */
	pg_atomic_uint64 leader_end;	/* where the leader's log ends */
	pg_atomic_uint64 follower_end[MAX_FOLLOWERS];	/* by the followers'
													 * numbers */

	/* ---- the flag "moved": the process that has set it (moved.c) ---- */

	pg_atomic_uint32 moved;		/* is in a stack of moved partitions */
	int64		told_end;		/* the log end that the worker last told of */
	int			moved_below;	/* the next one in it, as index + 1, or 0 */

	/* ---- no lock: of the topic, in the state of its partition 0 ---- */

	ConditionVariable data_cv;	/* processes that wait for anything of the
								 * topic (wakeup.c) */
	pg_atomic_uint32 claim_wanted;	/* somebody waits for a released claim */
	pg_atomic_uint64 channels_wanted;	/* a bit for each channel that
										 * somebody waits on for the topic,
										 * too */

	/*
	 * ---- no lock: what the last process that looked has found ----
	 *
	 * At worst another one looks, too (maintain.c, retention.c, compact.c).
	 */

	bool		looked_at;		/* for what an earlier server left undone */
	int64		stored_floor;	/* next_offset_floor in the catalogue, or less */
	int64		stored_high_watermark;	/* high_watermark there, or less */
	TimestampTz lowest_kept;	/* the lowest segment has something to be kept
								 * that is of this time; DT_NOBEGIN: look */
	TimestampTz retention_looked;	/* when that was found; in the future:
									 * look, the clock was set back */
	int64		droppable_bytes;	/* of sealed segments above the lowest */
	MonotonicTime compact_at;	/* when to look whether compaction pays, or
								 * COMPACTION_WANTED */
	int			compact_tries;	/* in a row that locks were in the way of */
	MonotonicTime compact_not_before;	/* when the next one may be */
	WorkDelay	drop_delay;		/* of dropping segments below the log start */
	WorkDelay	compact_delay;
} PartitionState;

#ifdef TOPICS_TEST_POINTS
#define MAX_WORKERS 4			/* so that a test can have more databases */
#else
#define MAX_WORKERS 256			/* databases with the extension */
#endif
#define WORKER_RESTART_MS 5000	/* least time between two starts of a worker
								 * that did not end by itself */
#define MAX_RESTART_DOUBLED 6	/* which doubles so often if none gets so far
								 * as to look into the database */
#define SILENT_MS 10000			/* who does not answer for so long is hung */
#define NEVER PG_INT64_MAX		/* of a MonotonicTime */

/* Why a process that is wanted is not there. */
typedef enum StartTrouble
{
	TROUBLE_NONE,
	TROUBLE_NO_PLACE,			/* as many as may be are at work elsewhere */
	TROUBLE_NO_PROCESS			/* the server has none to be had */
} StartTrouble;

/* The processes that a database may have. */
typedef enum ServeKind
{
	SERVE_WORKER,
	SERVE_COMPACTOR,
	SERVE_REPLICATOR,			/* of the first leader set; then those of the
								 * others */
	SERVE_KINDS = SERVE_REPLICATOR + MAX_LEADER_SETS
} ServeKind;

/*
 * One of our processes, as others see it: whether it is there, and whether it
 * answers.  A process is asked by SIGUSR2, whose handler does nothing but
 * answer: only one that the operating system does not let run says nothing.
 */
typedef struct ServeProcess
{
	pid_t		pid;			/* 0: not running */
	bool		starting;		/* was started, and has not come yet */
	bool		leave;			/* is asked to give its place to others */
	MonotonicTime since;		/* when it came */
	MonotonicTime not_before;	/* no new start until then */
	int			futile;			/* starts since one was last connected */
	StartTrouble trouble;		/* why there is none, if one is wanted */
	pg_atomic_uint32 asked;		/* so often; fewer are answered if one still */
	pg_atomic_uint32 answered;	/* is to be */
	MonotonicTime asked_at;		/* the last time */
} ServeProcess;

/*
 * When work comes due by itself that no process will ask for: by either clock,
 * as the clock of the wall can be set.
 */
typedef struct WorkDue
{
	MonotonicTime at;			/* NEVER: not by this clock; 0: with the next
								 * round over all that there is */
	TimestampTz time;			/* DT_NOEND: likewise */
	TimestampTz noted;			/* what time it was when this was found out;
								 * earlier now: the clock was set back */
} WorkDue;

/*
 * A database's processes, in shared memory.  worker_registry.c has
 * the spinlock that guards it, and alone touches what is in it.
 */
typedef struct WorkerSlot
{
	Oid			database;		/* InvalidOid: free */
	ServeProcess process[SERVE_KINDS];
	struct Latch *latch;		/* of the running worker */
	bool		has_extension;	/* as of the last look of a worker */
	bool		is_confirmed;	/* a worker has found it, and it is still
								 * there */
	int			commands;		/* in progress that the worker gives way to */

	/* what there is to be done */
	bool		round_wanted;	/* somebody asks for a round now */
	pg_atomic_uint32 changed;	/* the next regular round is wanted */
	WorkDue		due;			/* as the last worker has left it */
	MonotonicTime members_due;	/* when members of groups are to be looked at;
								 * 0: not */
	uint32		topic_changes;	/* for which all groups that have members are
								 * to be looked at */
	uint32		topics_followed;	/* as many there were when they were */
	MonotonicTime groups_looked;	/* when */
	MonotonicTime wanted_since[SERVE_KINDS];	/* a process is, and there is
												 * none; 0: it is not */
	MonotonicTime notify_not_before;	/* no notification until then */

	/* what was done */
	MonotonicTime busy_since;	/* the worker is at work; 0: it waits for some */
	MonotonicTime round_began;	/* the last one; 0: none yet */
	MonotonicTime full_began;	/* the last one over all that there is */
	TimestampTz last_round;		/* end of the last complete one; 0: none yet */
	int			partitions;		/* that it looked at in that round */
	uint32		roles_followed; /* role_changes when owners of groups were
								 * looked at */
} WorkerSlot;

/* Whether the launcher has a slot for a database. */
typedef enum SlotClaim
{
	SLOT_FOUND,
	SLOT_NOT_YET,				/* others are being looked into */
	SLOT_NONE					/* all are taken for good */
} SlotClaim;

/* What the launcher logs once. */
typedef enum WorkerHint
{
	HINT_NO_PROCESS,
	HINT_NO_SLOT,
	WORKER_HINTS
} WorkerHint;

/* A piece of the worker's work (backoff.c), and the steps that it may be at. */
typedef enum WorkKind
{
	WORK_MAINTAIN,				/* what maintain.c does */
	WORK_OWNERS,				/* of groups, that were renamed */
	WORK_FLOORS,				/* ends of logs, for the catalogue */
	WORK_NOTIFY,
	WORK_COMPACT,				/* what the compactor does (compactor.c) */
	WORK_TABLES,				/* of dropped topics */
	WORK_REPLICATE,				/* what the replicator does (replicator.c) */
	WORK_METADATA,				/* of the cluster, on the node that leads */
	WORK_ELECT,					/* who leads (leadership.c) */
	WORK_PRODUCERS,				/* that were silent for long */
	WORK_MEMBERS,				/* of groups, that were silent */
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
	STEP_FLOORS,
	STEP_NOTIFY,
	STEP_CONNECT,
	STEP_METADATA,
	STEP_FETCH,
	STEP_ELECT,
	WORK_STEPS
} WorkStep;

#define WHOLE_TOPIC (-1)		/* in place of a partition */

typedef struct WorkPiece
{
	Oid			database;
	Oid			view_relid;		/* InvalidOid: all topics of the database */
	int32		partition;		/* or WHOLE_TOPIC */
	WorkKind	kind;
	int			set;			/* of what a replicator does: the leader set */
} WorkPiece;

/* A partition that has something to be done. */
typedef struct DuePartition
{
	WorkPiece	piece;
	NameData	topic;
} DuePartition;

/* Commits a step of a piece of work, and begins the transaction of the next. */
typedef void (*NextTransaction) (void);

/* Return true if somebody waits for what this process could do instead. */
typedef bool (*OthersWait) (void);

/* The piece that looks for what is to be done in this database. */
#define WHOLE_ROUND {MyDatabaseId, InvalidOid, WHOLE_TOPIC, WORK_MAINTAIN, METADATA_SET}

/* To see who leads, and that somebody does. */
#define WHOLE_ELECTION {MyDatabaseId, InvalidOid, WHOLE_TOPIC, WORK_ELECT, topics_leader_set}

/* The session of a follower with its leader. */
#define WHOLE_REPLICATION {MyDatabaseId, InvalidOid, WHOLE_TOPIC, WORK_REPLICATE, topics_leader_set}

#define MAX_FAILURE_MESSAGE 256 /* bytes, with the final 0 */

/* A piece of work that is under way, or has failed. */
typedef struct WorkFailure
{
	WorkPiece	piece;
	WorkStep	step;			/* which it is at, or has failed at */
	bool		under_way;
	int32		failures;		/* in a row */
	int			sqlstate;		/* of the last one; 0: the worker has ended */
	TimestampTz since;			/* the first one in the row */
	MonotonicTime retry_at;
	char		message[MAX_FAILURE_MESSAGE];
} WorkFailure;

/* ---- partition_state.c ---- */

extern void topics_partition_state_shmem_request(void);
extern void topics_partition_state_shmem_startup(void);
extern void topics_partition_state_count_unannounced(int change);
extern bool topics_partition_state_has_unannounced(void);
extern PartitionState *topics_partition_state_find(const TopicPartition *id);
extern PartitionState *topics_partition_state_get(const TopicPartition *id, int set);
extern void topics_partition_state_note_set(const TopicPartition *id, int set);
extern int	topics_leader_set_of(const LeaderSets *sets, int32 partition);
extern bool topics_partition_state_is_current(const PartitionState *state);
extern PartitionState *topics_partition_state_current(PartitionState *state);
extern void topics_partition_state_reserve(int64 topic_id, int32 from, int32 to, const LeaderSets *sets);
extern void topics_partition_state_release(int64 topic_id, int32 from, int32 to);
extern void topics_partition_state_release_database(Oid database);
extern Oid	topics_partition_state_next_database(Oid after);
extern void topics_partition_state_look_again(Oid database);
extern void topics_partition_state_forget_ends(Oid database);
extern void topics_partition_state_forget_marks(Oid database, int set);
extern void topics_partition_state_forget_follower(int set, int number);
extern int64 topics_partition_state_active_bytes(const PartitionState *state);
extern int	topics_partition_state_index(const PartitionState *state);
extern PartitionState *topics_partition_state_at(int index);

/* ---- worker_registry.c ---- */

extern void topics_worker_registry_shmem_request(void);
extern void topics_worker_registry_shmem_startup(void);
extern WorkerSlot *topics_worker_registry_find(Oid database);
extern WorkerSlot *topics_worker_registry_get(Oid database);
extern bool topics_worker_registry_read(Oid database, WorkerSlot *copy);
extern int	topics_worker_registry_index(const WorkerSlot *slot);
extern WorkerSlot *topics_worker_registry_at(int index);
extern void topics_worker_registry_wake_worker(void);
extern void topics_worker_registry_wake_notifier(WorkerSlot *slot);
extern void topics_worker_registry_want_members(MonotonicTime at, bool topics_changed);
extern void topics_worker_registry_note_change(void);
extern void topics_worker_registry_note_roles(void);
extern void topics_worker_registry_wake_launcher(void);
extern void topics_worker_registry_note_extension(void);
extern bool topics_worker_registry_give_way(Oid database);
extern void topics_worker_registry_come_back(Oid database);
extern ServeProcess *topics_worker_registry_launcher(void);
extern bool topics_worker_registry_places_hang(void);
extern bool topics_worker_registry_serves(Oid database);
extern TimestampTz topics_worker_registry_wall_time(MonotonicTime time);

extern void topics_worker_registry_enter_launcher(void);
extern void topics_worker_registry_leave_launcher(void);
extern bool topics_worker_registry_take_look_again(bool *forget_looks);
extern void topics_worker_registry_read_at(int index, WorkerSlot *copy);
extern SlotClaim topics_worker_registry_claim_slot(Oid database);
extern bool topics_worker_registry_is_full(void);
extern bool topics_worker_registry_is_vacant(Oid database);
extern void topics_worker_registry_forget(Oid database);
extern void topics_worker_registry_want(int index, ServeKind kind, StartTrouble trouble);
extern bool topics_worker_registry_begin_start(int index, ServeKind kind);
extern void topics_worker_registry_end_start(int index, ServeKind kind, bool no_process);
extern void topics_worker_registry_forget_lack(void);
extern void topics_worker_registry_ask_to_leave(int index, ServeKind kind);
extern void topics_worker_registry_ask_for_round(int index);
extern bool topics_worker_registry_claim_hint(WorkerHint hint);

/* ---- worker_slot.c ---- */

extern const char *topics_worker_slot_name(ServeKind kind);
extern WorkerSlot *topics_worker_slot_enter(Oid database);
extern bool topics_worker_slot_take_members(WorkerSlot *slot, MonotonicTime look_after, bool *all, uint32 *changes);
extern void topics_worker_slot_note_groups_looked(WorkerSlot *slot, uint32 changes);
extern bool topics_worker_slot_rest(WorkerSlot *slot, const WorkDue *due);
extern void topics_worker_slot_leave(WorkerSlot *slot);
extern bool topics_worker_slot_is_asked_to_leave(const WorkerSlot *slot, ServeKind kind);
extern uint32 topics_worker_slot_changes(void);
extern void topics_worker_slot_note_extension(WorkerSlot *slot);
extern bool topics_worker_slot_note_no_extension(WorkerSlot *slot, uint32 changes);
extern bool topics_worker_slot_take_round_wanted(WorkerSlot *slot);
extern bool topics_worker_slot_is_round_wanted(const WorkerSlot *slot);
extern void topics_worker_slot_want_round(WorkerSlot *slot);
extern void topics_worker_slot_begin_round(WorkerSlot *slot, bool full);
extern void topics_worker_slot_end_round(WorkerSlot *slot, int partitions);
extern void topics_worker_slot_note_busy(WorkerSlot *slot, bool busy);
extern void topics_worker_slot_note_notified(WorkerSlot *slot, int interval_ms);
extern uint32 topics_worker_slot_role_changes(void);
extern void topics_worker_slot_note_roles_followed(WorkerSlot *slot, uint32 role_changes);
extern bool topics_worker_slot_want(WorkerSlot *slot, ServeKind kind, bool wanted);
extern bool topics_worker_slot_enter_as(WorkerSlot *slot, ServeKind kind, Oid database);
extern void topics_worker_slot_take_wish(WorkerSlot *slot, ServeKind kind);
extern void topics_worker_slot_leave_as(WorkerSlot *slot, ServeKind kind, bool finished);

/* ---- worker_life.c ---- */

extern void topics_worker_life_begin(ServeProcess *process);
extern void topics_worker_life_ask(ServeProcess *process);
extern bool topics_worker_life_is_hung(const ServeProcess *process);

/* ---- worker_due.c ---- */

extern MonotonicTime topics_worker_due_full_round(const WorkerSlot *slot);
extern MonotonicTime topics_worker_due_time(int index, const WorkerSlot *slot);

/* ---- follower.c ---- */

#define MAX_NODE_NAME 40		/* bytes: it is part of other names */

/* What a follower of a database has said. */
typedef struct Follower
{
	Oid			database;		/* here */
	int			set;			/* the leader set that it follows in */
	char		node[MAX_NODE_NAME + 1];
	int			number;			/* of its own, below MAX_FOLLOWERS */
	TimestampTz asked;			/* when it last asked; 0: never */
	pid_t		session;		/* that serves it; 0: it is not connected */
	MonotonicTime caught_up;	/* it had all that there was then; 0: never */
	MonotonicTime heard;		/* when it last asked; 0: not since this node
								 * leads */
	bool		counts;			/* as a copy */
} Follower;

extern void topics_follower_shmem_request(void);
extern void topics_follower_shmem_startup(void);
extern int	topics_follower_begin(const char *node, bool *is_new);
extern bool topics_follower_note(const char *node, bool counts, MonotonicTime caught_up);
extern bool topics_follower_is_heard(int set, int count);
extern uint64 *topics_follower_get_ends(void);
extern bool topics_follower_has_all(int number, const uint64 *ends);
extern void topics_follower_forget_heard(int set);
extern void topics_follower_end_session(void);
extern bool topics_follower_is_in_sync(const Follower *follower);
extern int	topics_follower_count_in_sync(int set);
extern bool topics_follower_read(const char *node, Follower *copy);
extern int	topics_follower_forget(const char *node);
extern void topics_follower_forget_database(Oid database);

/* ---- state_load.c ---- */

/* What an internal topic keeps. */
typedef enum StateKind
{
	STATE_OFFSETS,				/* of consumer groups */
	STATE_PRODUCERS
} StateKind;

#define STATE_KINDS (STATE_PRODUCERS + 1)

extern void topics_state_load_shmem_request(void);
extern void topics_state_load_shmem_startup(void);
extern bool topics_state_load_begin(StateKind kind, bool may_be_old);
extern bool topics_state_load_end(StateKind kind, int64 topic_id);
extern int	topics_state_load_note_left_out(StateKind kind, int count);
extern int	topics_state_load_left_out(StateKind kind);
extern uint64 topics_state_load_forgotten(StateKind kind);
extern void topics_state_load_forget(Oid database, StateKind kind);
extern void topics_state_load_forget_left_out(Oid database, StateKind kind);
extern void topics_state_load_changed(int64 topic_id);
extern void topics_state_load_grew(StateKind kind);

/* ---- moved.c ---- */

extern void topics_moved_shmem_request(void);
extern void topics_moved_shmem_startup(void);
extern void topics_moved_push(PartitionState *state);
extern bool topics_moved_is_empty(int slot);
extern int	topics_moved_pop(const WorkerSlot *slot, PartitionState **result);
extern void topics_moved_sort(Oid database);

/* ---- append_lock.c ---- */

extern void topics_append_lock_shmem_request(void);
extern void topics_append_lock_shmem_startup(void);
extern void topics_append_lock_acquire(PartitionState **states, int nstates);
extern void topics_append_lock_release(void);
extern bool topics_append_lock_held(const PartitionState *state);
extern int	topics_append_lock_giant(void);
extern void topics_append_lock_sleep(PartitionState *state, long timeout_ms);
extern void topics_append_lock_end_sleeping(void);
extern void topics_append_lock_at_abort(void);

/* ---- mark_slot.c ---- */

/* What a database is in a cluster. */
typedef enum ClusterKind
{
	CLUSTER_NONE,				/* it is in none */
	CLUSTER_LEADER,
	CLUSTER_FOLLOWER
} ClusterKind;

/* What its row says of that. */
typedef struct ClusterFacts
{
	ClusterKind kind;
	int			acks_followers; /* that a commit waits for */
	int			lease_followers;	/* that a leader must hear from, or else
									 * another one may have been elected */
	int64		term;			/* that a leader leads in */
	int			voters;			/* nodes that count */
	bool		data_loss;		/* it leads whatever others know */
	bool		change_open;	/* too few others may know of the latest
								 * change of nodes */
} ClusterFacts;

extern int	topics_leader_set;	/* that this process acts for */

/* Get the next one of some leader sets, above one or -1; or -1. */
static inline int
topics_leader_set_after(uint32 sets, int set)
{
	sets &= PG_UINT32_MAX << (set + 1);
	return sets == 0 ? -1 : pg_rightmost_one_pos32(sets);
}

extern void topics_mark_slot_shmem_request(void);
extern void topics_mark_slot_shmem_startup(void);
extern uint32 topics_mark_slot_row_changes(void);
extern void topics_mark_slot_watch_rows(void);
extern void topics_mark_slot_unwatch_rows(void);
extern void topics_mark_slot_require(int sets);
extern bool topics_mark_slot_attend(const ClusterFacts facts[MAX_LEADER_SETS], uint32 row_changes);
extern void topics_mark_slot_row_changed(int set, const ClusterFacts *facts);
extern void topics_mark_slot_forget_database(Oid database);
extern ClusterKind topics_mark_slot_kind(void);
extern ClusterKind topics_mark_slot_kind_of(int set);
extern uint64 topics_mark_slot_generation(void);
extern uint64 topics_mark_slot_generation_of(int set);
extern void topics_mark_slot_note_generations(uint64 generations[MAX_LEADER_SETS]);
extern bool topics_mark_slot_is_generation(int set, uint64 generation);
extern uint32 topics_mark_slot_sets(void);
extern int	topics_mark_slot_set_of(int set);
extern int	topics_mark_slot_act_for(int set);
extern void topics_mark_slot_note_newcomer(int number);
extern bool topics_mark_slot_is_changing(void);
extern void topics_mark_slot_drain(void);
extern bool topics_mark_slot_freeze(bool takes_over);
extern void topics_mark_slot_thaw(int set);
extern bool topics_mark_slot_is_frozen(int set);
extern void topics_mark_slot_wait_frozen(int set);
extern int	topics_mark_slot_acks_followers(int set);
extern void topics_mark_slot_raise_acks(int set, int acks_followers);
extern XLogRecPtr topics_mark_slot_start_position(void);
extern bool topics_mark_slot_has_epoch(void);
extern void topics_mark_slot_note_higher_term(int64 term);
extern int64 topics_mark_slot_higher_term(void);
extern void topics_mark_slot_note_leader(void);
extern bool topics_mark_slot_hears_leader(int64 ms);
extern bool topics_mark_slot_has_lease(int set);
extern void topics_mark_slot_note_epoch(int set);

/* ---- high_watermark.c ---- */

/* How far readers of a partition go. */
typedef struct PartitionLimit
{
	PartitionState *state;
	int64		limit;			/* they stop before this offset */
} PartitionLimit;

typedef bool (*HighWatermarkCheck) (int set);
typedef void (*SnapshotCheck) (Snapshot snapshot);

extern bool topics_high_watermark_has_standbys(void);
extern bool topics_high_watermark_applies(void);
extern void topics_high_watermark_announce(PartitionState *state);
extern bool topics_high_watermark_begin_publication(int set);
extern void topics_high_watermark_publish(PartitionState *state);
extern uint64 topics_high_watermark_end_publication(XLogRecPtr lsn);
extern void topics_high_watermark_truncate(PartitionState *state, int64 end);
extern TransactionId topics_high_watermark_truncated_by(int set);
extern XLogRecPtr topics_high_watermark_looked_up(PartitionState *state, int64 confirmed_end);
extern bool topics_high_watermark_wait(int set, uint64 mark, uint64 generation,
									   HighWatermarkCheck check, MonotonicTime until);
extern int64 topics_high_watermark_get(PartitionState *state);
extern bool topics_high_watermark_applies_to(int set);
extern int	topics_high_watermark_count_listed(int set);
extern int64 topics_high_watermark_limit_found(PartitionState *state, XLogRecPtr position);
extern bool topics_high_watermark_cut(int set, PartitionLimit *limits, int room, int *count,
									  uint64 *mark, uint64 *generation, XLogRecPtr *position);
extern void topics_high_watermark_nap(int *polls);
extern uint64 topics_high_watermark_wait_for_all(int set, SnapshotCheck check, Snapshot snapshot,
												 uint64 *generation);
extern void topics_high_watermark_wait_for_position(XLogRecPtr position);
extern bool topics_high_watermark_wait_for_standbys(XLogRecPtr position, MonotonicTime until);

/* ---- replica_cut.c ---- */

/* Where a partition's log starts and ends, or UNKNOWN_OFFSET. */
typedef struct PartitionEnds
{
	TopicPartition id;
	int64		log_start;
	int64		log_end;
} PartitionEnds;

/*
 * What a follower's session on the leader goes by, from one cut to the next.
 * A cut is what is published at a moment: of each transaction all records or
 * none.
 */
typedef struct FollowerCut
{
	bool		wants_all;		/* partitions, not those that have moved */
	uint64		fed;			/* publications that were looked at */
	uint64		mark;			/* all up to here is in the cut */
	uint64		newest_mark;	/* that anything in the cut is of */
	uint64		confirmed;		/* a follower may show what is of marks up to
								 * here */
	PartitionEnds *ends;		/* with room for so many */
	int			room;
	int			count;
} FollowerCut;

extern void topics_replica_cut_note_moved(PartitionState *state);
extern int	topics_replica_cut_room(const FollowerCut *cut);
extern bool topics_replica_cut_make(FollowerCut *cut);
extern void topics_replica_cut_wait(const FollowerCut *cut, MonotonicTime until);
extern void topics_replica_cut_exclude(int follower, PartitionState *state);
extern void topics_replica_cut_include(int follower, PartitionState *state);
extern bool topics_replica_cut_has_exclusions(int set);
extern void topics_replica_cut_confirm(int follower, uint64 mark, uint64 generation);
extern void topics_replica_cut_forget_follower(int follower);
extern void topics_replica_cut_forget_leader(void);
extern void topics_replica_cut_end(uint64 newest_mark);
extern void topics_replica_cut_follow(uint64 leader_mark);

/*
 * A cut of the leader's that has taken several transactions of this
 * follower's, from the first to the last one.
 */
typedef struct LongCut
{
	uint64		mark;
	TransactionId first_xid;
	TransactionId last_xid;
} LongCut;

#define MAX_LONG_CUTS 16		/* the latest ones are remembered */

extern int	topics_replica_cut_long(int set, LongCut *cuts, bool *is_all);

/* ---- append_wait.c ---- */

/* A process that waits for an append lock, and one that has it. */
typedef struct AppendWait
{
	TopicPartition id;
	bool		of_database;	/* the database lock: only the database counts */
	bool		is_giant;		/* wants that for itself */
	int			waiter_pid;
	int			holder_pid;		/* 0: not known */
	TimestampTz since;
} AppendWait;

extern void topics_append_wait_shmem_request(void);
extern void topics_append_wait_shmem_startup(void);
extern void topics_append_wait_enter(const TopicPartition *id, bool is_giant);
extern void topics_append_wait_leave(void);
extern const TopicPartition *topics_append_wait_own(void);
extern List *topics_append_wait_list(void);

/* ---- wakeup.c ---- */

#define WAKEUP_CHANNELS 64		/* for who waits for several topics */

#define WAKEUP_MAX_WAIT_MS 2147483000L	/* 24 days, what PostgreSQL can wait */
/*
 * Returns true if the wait is over.  Otherwise the check has said, before it
 * looked, what the process waits for: by topics_wakeup_want or
 * topics_wakeup_want_claim.
 */
typedef bool (*WakeupCheck) (void *arg);
extern void topics_wakeup_published(PartitionState *state, PartitionState *topic_state,
									int64 next_offset);
extern void topics_wakeup_shmem_request(void);
extern void topics_wakeup_shmem_startup(void);
extern void topics_wakeup_topic(PartitionState *topic_state);
extern void topics_wakeup_channel(int channel);
extern void topics_wakeup_want_channel(PartitionState *topic_state, int channel);
extern bool topics_wakeup_wait_on_channel(int channel, WakeupCheck check, void *arg, long timeout_ms);
extern void topics_wakeup_claim_released(PartitionState *topic_state);
extern void topics_wakeup_want(PartitionState *state, int64 next_offset);
extern void topics_wakeup_want_claim(PartitionState *topic_state);
extern void topics_wakeup_want_confirmation(void);
extern bool topics_wakeup_wait(PartitionState *topic_state, WakeupCheck check, void *arg,
							   long timeout_ms);
extern long topics_wakeup_max_wait(const Interval *max_wait, long limit_ms);
extern void topics_wakeup_release_snapshots(FunctionCallInfo fcinfo, const char *command);
extern void topics_wakeup_restore_snapshot(void);

/* ---- backoff.c ---- */

typedef void (*Work) (void *arg);
extern void topics_backoff_shmem_request(void);
extern void topics_backoff_shmem_startup(void);
extern long topics_backoff_left(const WorkPiece *piece);
extern TimestampTz topics_backoff_retry_time(const WorkFailure *failure);
extern long topics_backoff_next_round(void);
extern MonotonicTime topics_backoff_next_try(Oid database, MonotonicTime after, bool notify);
extern bool topics_backoff_run(const WorkPiece *piece, const char *topic, Work work, void *arg);
extern void topics_backoff_step(WorkStep step);
extern const char *topics_backoff_step_name(WorkStep step);
extern void topics_backoff_take_over(ServeKind kind);
extern void topics_backoff_excuse(ServeKind kind);
extern bool topics_backoff_has_failures(WorkKind kind);
extern void topics_backoff_reset_piece(const WorkPiece *piece);
extern void topics_backoff_forget_kind(WorkKind kind);
extern void topics_backoff_reset(Oid view_relid);
extern void topics_backoff_forget_untried(MonotonicTime began);
extern void topics_backoff_forget_database(void);
extern void topics_backoff_keep_databases(List *databases);
extern WorkFailure *topics_backoff_list(int *count);
extern bool topics_backoff_find_under_way(ServeKind kind, WorkFailure *note);

/* ---- delay.c ---- */

#define DELAY_SHOWN_MS 5000		/* a delay is told of when it has lasted so
								 * long */

/* A step that something has been in the way of for some time. */
typedef struct PartitionDelay
{
	TopicPartition id;
	WorkStep	step;
	WorkDelay	delay;
	MonotonicTime not_before;	/* it is not tried earlier; NEVER: it is tried
								 * all the time */
} PartitionDelay;

extern void topics_delay_by_lock(WorkDelay *delay, Oid relid);
extern void topics_delay_by_snapshot(WorkDelay *delay, TransactionId xmin);
extern void topics_delay_end(WorkDelay *delay);
extern List *topics_delay_list(void);

#endif							/* PG_TOPICS_SHARED_H */
