/*-------------------------------------------------------------------------
 *
 * group/group.h
 *		Consumer groups and their committed offsets.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PG_TOPICS_GROUP_H
#define PG_TOPICS_GROUP_H

#include "lib/ilist.h"
#include "port/atomics.h"
#include "storage/lock.h"

#include "shared/shared.h"
#include "log/log.h"

/* The internal topic; Kafka's name. */

#define NO_OFFSET PG_INT64_MAX	/* nothing is committed */
#define NO_PARTITION (-1)		/* of a group or a subscription */
#define NO_TOPIC INT64CONST(0)	/* of a group */

/* In place of a committed offset, of a group or a subscription. */
#define IT_EXISTS INT64CONST(1)

/*
 * What an entry is about, one of three:
 *	a group				NO_TOPIC, NO_PARTITION
 *	a subscription		a topic, NO_PARTITION: a group's use of a topic
 *	a committed offset	a topic, a partition
 */
typedef struct GroupOffsetKey
{
	Oid			database;
	int32		partition;
	int64		topic_id;
	char		group_id[NAMEDATALEN];
} GroupOffsetKey;

/*
 * Kafka's auto.offset.reset: where a group begins, or goes on if retention has
 * removed its place.
 */
typedef enum OffsetReset
{
	RESET_EARLIEST,
	RESET_LATEST,
	RESET_NONE
} OffsetReset;

typedef enum GroupKind
{
	GROUP_CONSUME,				/* topics.consume(): claims for a transaction */
	GROUP_SIMPLE				/* topics.commit_offset() only */
} GroupKind;

/* What is fixed when an entry is made. */
typedef struct GroupOffsetFacts
{
	Oid			owner;			/* of a group */
	GroupKind	kind;			/* of a group */
	OffsetReset reset;			/* of a subscription */
	int32		partitions;		/* of a subscription: as many there were */
} GroupOffsetFacts;

/* An entry in shared memory; offset_table.c says which lock guards what. */
typedef struct GroupOffset
{
	GroupOffsetKey key;			/* hash key: must be first */
	GroupOffsetFacts facts;
	pg_atomic_uint64 committed; /* the committed offset, or NO_OFFSET; of a
								 * group or a subscription IT_EXISTS, or
								 * NO_OFFSET */
	pg_atomic_uint64 start;		/* where the group begins while nothing is
								 * committed, or NO_OFFSET */
	pg_atomic_uint64 commit_xid;	/* full xid of the last commit, or 0 */
	pg_atomic_uint64 commit_time;
	pg_atomic_uint64 record_offset; /* of its record in __consumer_offsets */
	pg_atomic_uint64 parted_at; /* where the log ended that goes on without
								 * what the group had consumed beyond, or
								 * NO_OFFSET */
	pg_atomic_uint64 served;	/* number of its last claim; of a subscription
								 * the last number given */
	pg_atomic_uint32 claimed_by;	/* pid of the process with the claim, or 0 */
	pg_atomic_uint32 pins;		/* number of transactions that use it */
	bool		has_metadata;
	dlist_node	link;			/* in the list of all entries */
} GroupOffset;

/* A change that the transaction will make when it commits. */
typedef struct OffsetChange
{
	struct OffsetChange *below; /* what it replaces, by an outer
								 * subtransaction */
	SubTransactionId subxid;
	bool		deleted;
	int64		offset;			/* or IT_EXISTS */
	const char *metadata;		/* or NULL */
	TimestampTz rewrite_of;		/* if a group's record is written anew: when
								 * it was committed; else 0 */
} OffsetChange;

/* An entry that the (sub)transaction uses; pinned until its end. */
typedef struct LocalOffset
{
	GroupOffset *shared;
	SubTransactionId subxid;	/* the one that uses it, or, if that was
								 * rolled back just now,
								 * InvalidSubTransactionId */
	OffsetChange *change;		/* or NULL */
	SubTransactionId claimed;	/* the one that took the claim, or
								 * InvalidSubTransactionId */
	bool		released;		/* the claim was rolled back just now */
	bool		wake;			/* processes that wait are to look again */
	PartitionState *topic_state;	/* for waking them, or NULL */
	int			set;			/* the leader set that it is of */
	int32		log_partition;	/* where its record goes */
	int64		ordinal;		/* of the record in this transaction, or -1 */
	TimestampTz commit_time;
} LocalOffset;

static inline bool
is_entry_committed(const GroupOffset *entry)
{
	return (int64) pg_atomic_read_u64((pg_atomic_uint64 *) &entry->committed) != NO_OFFSET;
}

/* ---- group.c ---- */

extern bool topics_group_may_use(Oid owner);
extern char *topics_group_get_argument(FunctionCallInfo fcinfo, int argument);
extern LocalOffset *topics_group_use(const char *group_id, GroupKind kind);
extern void topics_group_require_owner(const char *group_id, bool missing_ok);

/* ---- offset_table.c ---- */

extern void topics_offset_table_shmem_request(void);
extern void topics_offset_table_shmem_startup(void);
extern GroupOffsetKey topics_offset_table_make_key(const char *group_id, int64 topic_id, int32 partition);
extern LOCKTAG topics_offset_table_make_lock_tag(const GroupOffsetKey *key);
extern GroupOffset *topics_offset_table_pin(const GroupOffsetKey *key, const GroupOffsetFacts *facts,
											const int64 *starts, uint32 *pins);
extern void topics_offset_table_unpin(GroupOffset *entry);
extern void topics_offset_table_lock_shared(void);
extern void topics_offset_table_unlock(void);
extern bool topics_offset_table_peek(const char *group_id, int64 topic_id, int32 partition,
									 GroupOffset *copy);
extern GroupOffset *topics_offset_table_list(const char *group_id, int64 topic_id, int *count);
extern void topics_offset_table_forget_topic(int64 topic_id);
extern void topics_offset_table_forget_database(Oid database);
extern Oid	topics_offset_table_next_database(Oid after);
extern void topics_offset_table_report_full(int wanted);
extern bool topics_offset_table_begin_load(bool may_be_old);
extern bool topics_offset_table_end_load(int64 offsets_topic_id);
extern void topics_offset_table_load_record(const GroupOffsetKey *key, const GroupOffsetFacts *facts,
											int64 offset, TimestampTz commit_time,
											int64 record_offset, int64 parted_at, bool has_metadata);
extern void topics_offset_table_load_start(const GroupOffsetKey *key, int64 start);
extern void topics_offset_table_forget_set(int set);
extern void topics_consumer_offset_note_generations(void);

/* ---- consumer_offset.c ---- */

extern LocalOffset *topics_consumer_offset_use(const char *group_id, int64 topic_id, int32 partition,
											   const GroupOffsetFacts *facts, const int64 *starts);
extern LocalOffset *topics_consumer_offset_find_local(const char *group_id, int64 topic_id,
													  int32 partition);
extern bool topics_consumer_offset_exists(const LocalOffset *local);
extern int64 topics_consumer_offset_get_position(const LocalOffset *local);
extern void topics_consumer_offset_create(LocalOffset *local);
extern void topics_consumer_offset_change(LocalOffset *local, int64 offset, const char *metadata);
extern void topics_consumer_offset_delete(LocalOffset *local, PartitionState *topic_state);
extern void topics_consumer_offset_delete_topic(int64 topic_id);
extern bool topics_consumer_offset_is_deleted(const LocalOffset *local);
extern bool topics_consumer_offset_claim(LocalOffset *local, PartitionState *topic_state, bool wait);
extern void topics_consumer_offset_unclaim(LocalOffset *local);
extern bool topics_consumer_offset_rewrite_group(const char *group_id);
extern void topics_consumer_offset_lock_group(const char *group_id, bool exclusive);
extern bool topics_consumer_offset_is_pending(void);
extern void topics_consumer_offset_pre_commit(void);
extern void topics_consumer_offset_publish(void);
extern void topics_consumer_offset_subcommit(SubTransactionId subxid, SubTransactionId parent);
extern void topics_consumer_offset_subabort(SubTransactionId subxid);
extern void topics_consumer_offset_after_locks(bool is_commit, bool is_top_level);

/* ---- offset_log.c ---- */

extern void topics_offset_log_prepare(bool for_write);
extern int	topics_offset_log_leader_set(const GroupOffsetKey *key);
extern int32 topics_offset_log_choose_partition(Topic *offsets_topic, const GroupOffsetKey *key);
extern void topics_offset_log_add_record(Topic *offsets_topic, LocalOffset *local);
extern char *topics_offset_log_metadata(const GroupOffset *entry);
extern void topics_offset_log_note_roles(bool followed);
extern bool topics_offset_log_knows_owners(void);
extern void topics_offset_log_follow_owners(MemoryContext parent, NextTransaction next_transaction);

/* ---- assignor.c ---- */

/* Kafka's partition.assignment.strategy. */
typedef enum Assignor
{
	ASSIGNOR_RANGE,
	ASSIGNOR_ROUNDROBIN,
	ASSIGNOR_STICKY,
	ASSIGNOR_COOPERATIVE_STICKY
} Assignor;

#define ASSIGNOR_NOBODY (-1)	/* no member */

typedef struct AssignorTopic
{
	const char *name;
	int32		partitions;
	int		   *owners;			/* in: of each partition the index of the
								 * member that has it, or ASSIGNOR_NOBODY;
								 * out: of the member that it goes to */
} AssignorTopic;

typedef struct AssignorMember
{
	const char *member_id;
	const char *instance_id;	/* of a static member, or NULL */
	const bool *subscribed;		/* to each topic */
} AssignorMember;

typedef struct AssignorGroup
{
	int			ntopics;
	AssignorTopic *topics;
	int			nmembers;
	const AssignorMember *members;
} AssignorGroup;

extern void topics_assignor_assign(Assignor assignor, AssignorGroup *group);
extern bool topics_assignor_find(const char *name, Assignor *assignor);
extern const char *topics_assignor_name(Assignor assignor);

#endif							/* PG_TOPICS_GROUP_H */
