/*-------------------------------------------------------------------------
 *
 * base/base.h
 *		What every folder can use, and no catalogue or shared state is behind.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PG_TOPICS_BASE_H
#define PG_TOPICS_BASE_H

#include "catalog/pg_attribute.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "storage/lock.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"

#include "pg_topics.h"

/*
 * The lower and the higher of two.  The macros Min and Max evaluate what they
 * take twice, so they are for what no other process changes: a limit that moves
 * would be compared as it was, and taken as it is.  test/lint looks for that.
 */
static inline int64
topics_min(int64 a, int64 b)
{
	return Min(a, b);
}

static inline int64
topics_max(int64 a, int64 b)
{
	return Max(a, b);
}

/* ---- settings.c ---- */

extern int	pg_topics_max_partitions;
extern int	pg_topics_max_group_offsets;
extern int	pg_topics_max_producers;
extern int	pg_topics_max_members;
extern int	pg_topics_producer_id_expiration;	/* ms */

/* When a commit's append locks are released. */
typedef enum EarlyLockRelease
{
	EARLY_LOCK_RELEASE_OFF,		/* when it is durable, and confirmed */
	EARLY_LOCK_RELEASE_AUTO,	/* before, unless tables wait for standbys */
	EARLY_LOCK_RELEASE_ON		/* before, always */
}			EarlyLockRelease;

/* What a producer's commit waits for: Kafka's acks. */
typedef enum Acks
{
	ACKS_NONE,					/* for nothing */
	ACKS_LEADER,				/* for its own server */
	ACKS_ALL					/* for followers, too */
}			Acks;

extern int	pg_topics_acks;		/* Acks */
extern int	pg_topics_acks_timeout; /* ms; 0: no limit */
extern int	pg_topics_node_timeout; /* ms */
extern bool pg_topics_automatic_failover;
extern int	pg_topics_early_lock_release;	/* EarlyLockRelease */
extern bool pg_topics_enable_offset_scan;
extern int	pg_topics_worker_interval;
extern int	pg_topics_max_workers;
extern int	pg_topics_max_compactors;
extern int	pg_topics_notify_interval;
extern int	pg_topics_compaction_rate;

/* What is said of a library that was not preloaded, or not first. */
#define PRELOAD_HINT "Put pg_topics first in shared_preload_libraries and restart the server."
#define LOADED_BEHIND_MESSAGE "pg_topics is not the first of \"shared_preload_libraries\""

extern void topics_settings_define(void);
extern void topics_settings_require_preload(void);
extern bool topics_settings_is_loaded_first(void);
extern void topics_settings_override(const char *name, const char *value);

/* ---- clock.c ---- */

typedef int64 MonotonicTime;	/* microseconds */

extern MonotonicTime topics_clock_now(void);
extern MonotonicTime topics_clock_in(int64 ms);
extern TimestampTz topics_clock_ago(int64 ms);
extern int64 topics_clock_us_until(MonotonicTime time);
extern int64 topics_clock_ms_until(MonotonicTime time);

/* ---- fixed_text.c ---- */

extern bool topics_fixed_text_is_needed(Oid type);
extern int	topics_fixed_text_begin(bool needed);
extern void topics_fixed_text_end(int guc_level);

/* ---- json_value.c ---- */

extern JsonbValue *topics_json_field(Jsonb *value, const char *name);
extern int64 topics_json_number(const JsonbValue *value, int64 missing);
extern char *topics_json_string(const JsonbValue *value);

/* ---- argument.c ---- */

extern char *topics_argument_function(FunctionCallInfo fcinfo);
extern void topics_argument_require(FunctionCallInfo fcinfo, int argument);
extern char *topics_argument_get_text(FunctionCallInfo fcinfo, int argument);
extern void topics_argument_require_no_block(FunctionCallInfo fcinfo, const char *command);
extern void topics_argument_require_all(FunctionCallInfo fcinfo, int count);

/* ---- wait_event.c ---- */

typedef enum WaitReason
{
	WAIT_APPEND_LOCK,			/* for an append lock, or for a cut to be over */
	WAIT_RECORD,				/* for records, or a claim */
	WAIT_HIGH_WATERMARK,		/* for synchronous standbys, to read */
	WAIT_LAUNCHER_IDLE,
	WAIT_WORKER_IDLE,
	WAIT_COMPACTOR_IDLE,		/* until locks are free that were in the way */
	WAIT_COMPACTION_PACE,		/* compaction is ahead of its rate */
	WAIT_REPLICATOR_IDLE,
	WAIT_REPLICA_FEED,			/* until a follower can be told something new */
	WAIT_PEER,					/* for another node */
	WAIT_MOVED_LEADER			/* while another node takes the lead over */
} WaitReason;

extern uint32 topics_wait_event_get(WaitReason reason);

/* ---- timeout.c ---- */

extern void topics_timeout_begin_commit(void);
extern void topics_timeout_end_commit(void);
extern void topics_timeout_at_abort(void);
extern void topics_timeout_begin_wait(void);
extern void topics_timeout_end_wait(void);

/* ---- subtransaction.c ---- */

extern ErrorData *topics_subtransaction_try(void (*work) (void *arg), void *arg);
extern bool topics_subtransaction_must_raise(const ErrorData *error);

/* ---- pending.c ---- */

/* Work that only the commit of this transaction, in this session, completes. */
typedef struct PendingWork
{
	bool		(*is_pending) (void);
	const char *what;			/* follows "a transaction that" */
} PendingWork;

extern void topics_pending_set_list(const PendingWork *work, int count);
extern const char *topics_pending_describe(void);

/* ---- background.c ---- */

extern bool topics_background_is_told_to_end(void);
extern void topics_background_end(SIGNAL_ARGS);
extern const char *topics_background_begin(void);
extern void topics_background_connect(Oid database);
extern bool topics_background_is_ours(void);
extern void topics_background_wait(long timeout_ms, WaitReason reason);
extern struct BackgroundWorkerHandle *topics_background_start(const char *function, const char *name,
															  const void *extra, Size size);
extern bool topics_background_run(const char *function, const char *name,
								  const void *extra, Size size);

/* ---- user_lock.c ---- */

/* What a lock of ours is on; tells our locks from others' user locks. */
typedef enum UserLockKind
{
	USER_LOCK_OFFSET = 0x7470,	/* a place of a consumer group, or the group */
	USER_LOCK_STATE_LOAD,		/* the right to read a state from its log */
	USER_LOCK_PRODUCER,			/* a producer's sequence in a partition */
	USER_LOCK_PRODUCER_NAME,
	USER_LOCK_MEMBER			/* the positions of a member of a group */
} UserLockKind;

extern LOCKTAG topics_user_lock_tag(UserLockKind kind, uint64 hash);
extern bool topics_user_lock_acquire(const LOCKTAG *tag, LOCKMODE mode, bool wait);

/* ---- relation_memory.c ---- */

extern void *topics_relation_memory_enter(HTAB **memory, Size entry_size, Oid relid, bool *found);

/* ---- offset_map.c ---- */

typedef struct OffsetMap OffsetMap;

typedef struct KeyHash
{
	uint64		hash[2];
} KeyHash;

extern OffsetMap *topics_offset_map_create(Size budget);
extern void topics_offset_map_free(OffsetMap *map);
extern void topics_offset_map_clear(OffsetMap *map);
extern bool topics_offset_map_is_empty(const OffsetMap *map);
extern KeyHash topics_offset_map_hash(const OffsetMap *map, Form_pg_attribute att, Datum key);
extern bool topics_offset_map_put(OffsetMap *map, const KeyHash *key, int64 offset);
extern int64 topics_offset_map_get(const OffsetMap *map, const KeyHash *key);

#endif							/* PG_TOPICS_BASE_H */
