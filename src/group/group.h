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
#include "storage/lwlock.h"
#include "utils/jsonb.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"

#define GROUPS_LOOK_MS 300000	/* so often all groups are looked at that have
								 * members: Kafka's metadata.max.age.ms */
#define MAX_GROUP_ID 255		/* bytes of a group's name */
#define MAX_MEMBER_ID 127		/* of a member's */
#define MEMBER_UUID 37			/* at the end of that */
#define MAX_CLIENT_ID 63		/* of what a client calls itself */

#define NO_OFFSET PG_INT64_MAX	/* nothing is committed */
#define NO_PARTITION (-1)		/* of a group or a subscription */
#define MEMBERS_PARTITION (-2)	/* of what a group's members are in the first
								 * leader set; of other sets: below it */
#define NO_TOPIC INT64CONST(0)	/* of a group */

/* In place of a committed offset, of what is no partition. */
#define IT_EXISTS INT64CONST(1)

/*
 * What an entry is about, one of four:
 *	a group				NO_TOPIC, NO_PARTITION
 *	a group's members	NO_TOPIC, MEMBERS_PARTITION or below: in a leader set
 *	a subscription		a topic, NO_PARTITION: a group's use of a topic
 *	a committed offset	a topic, a partition
 */
typedef struct GroupOffsetKey
{
	Oid			database;
	int32		partition;
	int64		topic_id;
	char		group_id[MAX_GROUP_ID + 1];
} GroupOffsetKey;

/*
 * Get what stands for a partition in the key of a group's members in a leader
 * set.
 */
static inline int32
make_members_partition(int set)
{
	return MEMBERS_PARTITION - set;
}

/* Return true if a key's partition stands for a group's members. */
static inline bool
is_members_partition(int32 partition)
{
	return partition <= MEMBERS_PARTITION;
}

/* And get the leader set. */
static inline int
get_members_set(int32 partition)
{
	return MEMBERS_PARTITION - partition;
}

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

/*
 * Kafka's auto.offset.reset: where a group begins, or goes on if retention has
 * removed its place.
 */
typedef enum OffsetReset
{
	RESET_EARLIEST,
	RESET_LATEST,
	RESET_NONE,
	RESET_KINDS
} OffsetReset;

/* How a group consumes.  A simple one becomes another when it first does. */
typedef enum GroupType
{
	GROUP_CONSUME,				/* topics.consume(): claims for a transaction */
	GROUP_SIMPLE,				/* topics.commit_offset() only */
	GROUP_MEMBER,				/* topics.join_group(): members have
								 * partitions */
	GROUP_TYPES
} GroupType;

/* What is fixed when an entry is made. */
typedef struct GroupOffsetFacts
{
	Oid			owner;			/* of a group */
	GroupType	type;			/* of a group */
	OffsetReset reset;			/* of a subscription */
	int32		partitions;		/* of a subscription: as many there were */
} GroupOffsetFacts;

struct Member;

/* A partition of a group that has members. */
typedef struct Possession
{
	struct Member *owner;		/* who has it, or NULL */
	struct Member *target;		/* who is to have it, or NULL */
	int32		since;			/* the generation in which its owner got it */
	bool		paused;			/* its owner does not want to poll it */
	pg_atomic_uint64 position;	/* what its owner polls next; NO_OFFSET: from
								 * where the group stands */
	dlist_node	owned_link;		/* in its owner's list */
	dlist_node	target_link;	/* in its target's list */
} Possession;

/* What a group's members have in common. */
typedef struct MembersHead
{
	int32		generation;
	int32		count;			/* of members, by the record */
	bool		is_loaded;		/* and has not changed since */
	dlist_head	members;		/* of Member */
} MembersHead;

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
	union
	{
		Possession	assigned;	/* of a partition */
		MembersHead head;		/* of a group's members */
		MonotonicTime held_up_since;	/* of a group: others have locked it
										 * whenever the worker came to see to
										 * its members; 0: not */
	}			of;
} GroupOffset;

typedef struct MemberKey
{
	Oid			database;
	int32		set;			/* the leader set, in each of which it is a
								 * member by itself */
	char		member_id[MAX_MEMBER_ID + 1];
} MemberKey;

/*
 * A member of a group, in shared memory; member_table.c says which lock guards
 * what.
 */
typedef struct Member
{
	MemberKey	key;			/* hash key: must be first */
	uint64		serial;			/* that no other one has had */
	bool		joined;			/* the transaction that made it has committed */
	bool		listed;			/* for a moment: it is to stay */
	bool		is_static;		/* it has a group.instance.id, with which its
								 * id begins */
	GroupOffset *group;			/* its group's members, in its leader set */
	Oid			role;
	int32		session_timeout_ms;
	int32		max_poll_interval_ms;
	char		client_id[MAX_CLIENT_ID + 1];
	char		host[NAMEDATALEN];
	int32		generation;		/* whose partitions it has taken */
	int			pending;		/* partitions of that which others still have */
	uint32		turn;			/* which of its partitions is polled first */
	pg_atomic_uint64 heard_at;	/* MonotonicTime: when it last called */
	pg_atomic_uint64 polled_at; /* and polled */
	dlist_node	all_link;		/* in the list of all members */
	dlist_node	link;			/* in its group's list, once it has joined */
	dlist_head	owned;			/* the partitions that it has */
	dlist_head	targets;		/* those that it is to have */
} Member;

/* A member that calls, as it was when it did, in a leader set. */
typedef struct MemberCall
{
	const Member *member;		/* one that had this serial: it may have gone */
	uint64		serial;
	int			set;
	uint32		sets;			/* all in which it is: a bit for each */
	Oid			role;
	char		group_id[MAX_GROUP_ID + 1];
	int32		generation;
	int32		group_generation;
	bool		is_settled;		/* it has all that the generation gives it */
	uint32		turn;			/* which of its partitions is polled first */
	int32		session_timeout_ms; /* it has to call, and poll, within */
} MemberCall;

/* A partition that a member has, as it was a moment ago. */
typedef struct MemberPlace
{
	GroupOffset *shared;		/* its entry: may be another one's by now */
	GroupOffset entry;			/* a copy */
	int64		position;		/* what is polled next, or NO_OFFSET */
	int64		next;			/* what is to be polled after that, or
								 * NO_OFFSET: the same */
} MemberPlace;

/* What a member wants of a partition that it has. */
typedef enum PlaceWish
{
	WISH_SEEK,
	WISH_PAUSE,
	WISH_RESUME
} PlaceWish;

/* A partition that a record assigns to a member. */
typedef struct PlacedPartition
{
	int64		topic_id;
	int32		partition;
	int32		since;			/* it has been the member's since this
								 * generation */
	GroupOffset *entry;			/* pinned, or NULL */
} PlacedPartition;

/* A topic that a member has named. */
typedef struct NamedTopic
{
	int64		topic_id;
	char	   *name;			/* as it was then; or NULL: not known */
} NamedTopic;

/* A member, as a record says. */
typedef struct MemberRow
{
	char	   *member_id;
	char	   *instance_id;	/* group.instance.id, or NULL */
	char	   *client_id;
	char	   *host;			/* or NULL: not by a network */
	Oid			role;
	int32		session_timeout_ms;
	int32		max_poll_interval_ms;
	OffsetReset reset;			/* for topics that the pattern finds later */
	char	   *pattern;		/* of names of topics, or NULL: those listed */
	NamedTopic *topics;			/* by id, each once */
	int			ntopics;
	PlacedPartition *assigned;	/* by topic and partition */
	int			nassigned;
	Member	   *shared;			/* its place in shared memory, or NULL */
	uint64		serial;			/* that it has there */
} MemberRow;

/* A group that has members in a leader set. */
typedef struct MemberGroup
{
	int			set;
	char		group_id[MAX_GROUP_ID + 1];
} MemberGroup;

/* All members of a group in a leader set, as a record says; palloc'd. */
typedef struct GroupMembers
{
	int32		generation;
	Assignor	assignor;
	int			count;
	MemberRow  *rows;
} GroupMembers;

/* A change that the transaction will make when it commits. */
typedef struct OffsetChange
{
	struct OffsetChange *below; /* what it replaces, by an outer
								 * subtransaction */
	SubTransactionId subxid;
	bool		deleted;
	int64		offset;			/* or IT_EXISTS */
	const char *metadata;		/* or NULL */
	GroupType	type;			/* of a group, from the commit on */
	const GroupMembers *members;	/* of a group's members, or NULL */
	const Member *member;		/* who commits the offset, or NULL: who holds
								 * the claim */
	uint64		serial;			/* of the member */
	int32		generation;		/* that it has given */
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

/* A group's use of a topic. */
typedef struct GroupTopic
{
	char	   *group_id;
	char	   *topic_name;
	OffsetReset reset;
	bool		is_member;		/* a member looks, which can seek */
} GroupTopic;

/* Where a group stands in a partition. */
typedef struct Place
{
	Partition	partition;
	int64		position;		/* next offset to be consumed, or NO_OFFSET */
	bool		has_begun;		/* that is committed, or is the transaction's */
	int64		parted_at;		/* of a group that had consumed what is gone,
								 * or NO_OFFSET */
	int64		log_start;
	int64		log_end;		/* that may be read */
	int64		next_offset;	/* that is published */
} Place;

/* What becomes of a place that is about to be read. */
typedef enum PlaceMove
{
	PLACE_STAYS,
	PLACE_SKIPS_ALL				/* it was removed, and is at the log end now */
} PlaceMove;

/* ---- place.c ---- */

extern OffsetReset topics_place_reset_argument(FunctionCallInfo fcinfo, int argument);
extern LocalOffset *topics_place_subscribe(const char *group_id, Topic *topic, OffsetReset reset);
extern void topics_place_set(Place *place, const GroupOffset *entry, OffsetReset reset);
extern void topics_place_look(Place *place);
extern bool topics_place_has_record_or_error(const Place *place);
extern bool topics_place_watch(Place *place);
extern PlaceMove topics_place_settle(Place *place, const GroupTopic *at);
extern bool topics_place_is_removed(const Place *place);
extern int64 topics_place_readable_end(const Place *place);

/* ---- group.c ---- */

extern bool topics_group_may_use(Oid owner);
extern char *topics_group_get_argument(FunctionCallInfo fcinfo, int argument);
extern LocalOffset *topics_group_use(const char *group_id, GroupType type);
extern void topics_group_refuse_type(const char *group_id, GroupType refused, GroupType wanted);
extern void topics_group_require_owner(const char *group_id, bool missing_ok);

/* ---- offset_table.c ---- */

extern void topics_offset_table_shmem_request(void);
extern void topics_offset_table_shmem_startup(void);
extern GroupOffsetKey topics_offset_table_make_key(const char *group_id, int64 topic_id, int32 partition);
extern LOCKTAG topics_offset_table_make_lock_tag(const GroupOffsetKey *key);
extern GroupOffset *topics_offset_table_pin(const GroupOffsetKey *key, const GroupOffsetFacts *facts,
											const int64 *starts, uint32 *pins);
extern void topics_offset_table_unpin(GroupOffset *entry);
extern void topics_offset_table_lock(LWLockMode mode);
extern bool topics_offset_table_is_locked(LWLockMode mode);
extern void topics_offset_table_trim(GroupOffset *entry);
extern GroupOffset *topics_offset_table_find(const GroupOffsetKey *key);
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
extern uint32 topics_offset_table_hash_key(const void *key, Size size);
extern int	topics_offset_table_compare_keys(const void *a, const void *b, Size size);

/* ---- consumer_offset.c ---- */

extern void topics_consumer_offset_note_generations(void);
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
extern void topics_consumer_offset_change_type(LocalOffset *local, GroupType type);
extern void topics_consumer_offset_change_members(LocalOffset *local, const GroupMembers *members);
extern void topics_consumer_offset_change_as_member(LocalOffset *local, int64 offset, const char *metadata,
													const Member *member, uint64 serial, int32 generation);
extern bool topics_consumer_offset_lock_members(const char *group_id, bool exclusive, bool wait);
extern void topics_consumer_offset_require_members(void);
extern bool topics_consumer_offset_is_deleted(const LocalOffset *local);
extern bool topics_consumer_offset_claim(LocalOffset *local, PartitionState *topic_state, bool wait);
extern void topics_consumer_offset_unclaim(LocalOffset *local);
extern bool topics_consumer_offset_rewrite_group(const char *group_id);
extern void topics_consumer_offset_lock_group(const char *group_id, bool exclusive);
extern bool topics_consumer_offset_try_lock_group(const char *group_id, bool exclusive);
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
extern Jsonb *topics_offset_log_read_value(const GroupOffset *entry);
extern const char *topics_offset_log_type_name(GroupType type);
extern const char *const topics_reset_names[RESET_KINDS];
extern void topics_offset_log_note_roles(bool followed);
extern bool topics_offset_log_knows_owners(void);
extern void topics_offset_log_follow_owners(MemoryContext parent, NextTransaction next_transaction);

/* ---- member_table.c ---- */

extern void topics_member_table_shmem_request(void);
extern void topics_member_table_shmem_startup(void);
extern uint32 topics_member_table_sets(void);
extern bool topics_member_table_has_other_sets(void);
extern Member *topics_member_table_find(const char *member_id, int set);
extern bool topics_member_table_look(const char *member_id, int set, MemberCall *call);
extern void topics_member_table_note_call(const MemberCall *call, bool is_poll);
extern bool topics_member_table_reserve(MemberRow *row, GroupOffset *group);
extern void topics_member_table_report_full(void);
extern void topics_member_table_release_unused(void);
extern void topics_member_table_apply(GroupOffset *group, const GroupMembers *members, bool is_loaded);
extern void topics_member_table_detach(GroupOffset *entry);
extern bool topics_member_table_is_replaced(const char *member_id);
extern bool topics_member_table_is_wanted(const MemberCall *call);
extern bool topics_member_table_adopt(Member *member, bool keep);
extern MemberPlace *topics_member_table_list_places(const MemberCall *call, bool all, int *count);
extern bool topics_member_table_change_place(const MemberCall *call, int64 topic_id, int32 partition,
											 PlaceWish wish, int64 position);
extern bool topics_member_table_store(const char *member_id, const MemberCall *call, MemberPlace *places, int count, uint32 turn);
extern void topics_member_table_require_owner(const GroupOffset *entry, const Member *member, uint64 serial, int32 generation);
extern bool topics_member_table_has_members(const char *group_id, int set);
extern bool topics_member_table_is_overdue(const Member *member, MonotonicTime now);
extern MemberGroup *topics_member_table_list_groups(bool all, int *count, MonotonicTime *due);
extern bool topics_member_table_is_settled(const Member *member);
extern void topics_member_table_note_held_up(const char *group_id, bool is_held_up);
extern bool topics_member_table_any_here(void);
extern int	topics_member_table_channel(const char *group_id);

/* ---- member_log.c ---- */

extern void topics_member_log_sort_topics(MemberRow *row);
extern void topics_member_log_sort_placed(MemberRow *row);
extern PlacedPartition *topics_member_log_find_placed(const MemberRow *row, int64 topic_id, int32 partition);
extern void topics_member_log_format(StringInfo json, const GroupMembers *members);
extern GroupMembers *topics_member_log_parse(Jsonb *value);
extern bool topics_member_log_may_call(int set);
extern int	topics_member_log_find_set(const char *group_id, const char *member_id);
extern void topics_member_log_load(const GroupOffsetKey *key, Jsonb *value, TimestampTz commit_time, int64 record_offset);

/* ---- rebalance.c ---- */

extern GroupMembers *topics_rebalance_read(const char *group_id, int set, LocalOffset **local);
extern uint32 topics_rebalance_wanted_sets(const MemberRow *row);
extern bool topics_rebalance_read_assignor(const char *group_id, int set, Assignor *assignor);
extern bool topics_rebalance_has_members(const char *group_id);
extern void topics_rebalance_replace(const char *group_id, LocalOffset *local, GroupMembers *members);
extern void topics_rebalance_run(const char *group_id, LocalOffset *local, GroupMembers *members);
extern bool topics_rebalance_look_again(const char *group_id, LocalOffset *local, GroupMembers *members);

/* ---- settle.c ---- */

extern void topics_settle_groups(MemoryContext parent, bool topics_changed, NextTransaction next_transaction);

/* ---- member.c ---- */

pg_noreturn extern void topics_member_report_unknown(const char *member_id);
pg_noreturn extern void topics_member_report_not_of_group(const char *group_id, const char *member_id);
extern void topics_member_prepare(const char *member_id);
extern MemberCall topics_member_call(const char *member_id, bool is_poll);
extern void topics_member_lock(const char *member_id);
extern void topics_member_unlock(const char *member_id);
extern void topics_member_take(const char *member_id, const MemberCall *call, bool keep);

#endif							/* PG_TOPICS_GROUP_H */
