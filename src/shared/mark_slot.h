/*-------------------------------------------------------------------------
 *
 * shared/mark_slot.h
 *		A slot of marks, for mark_slot.c, high_watermark.c and replica_cut.c alone.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PG_TOPICS_MARK_SLOT_H
#define PG_TOPICS_MARK_SLOT_H

#include "storage/condition_variable.h"
#include "storage/lwlock.h"

#include "shared/shared.h"

#define FEED_LENGTH 1024		/* publications that a follower may lag behind
								 * without a look at all partitions */
#define ALL_MARKS ((uint64) PG_INT64_MAX)	/* where nothing is to be
											 * confirmed */

typedef struct HighWatermark
{
	Oid			database;		/* a node's; InvalidOid: free, or the first
								 * slot */
	int			set;			/* the leader set */
	ClusterKind kind;
	int			acks_followers; /* that a commit waits for, of a leader */
	int			voters;			/* of a leader: nodes that count */
	int			lease_followers;	/* see ClusterFacts */

	/*
	 * of a leader: nodes, or acks_followers, have changed, and others may not
	 * know: until so many that knew the former ones have confirmed a mark,
	 * the former ones go, too
	 */
	uint64		change_at_mark; /* 0: there is no such change */
	int			change_confirmed_by;
	int			former_acks_followers;
	int			raised_acks_followers;	/* that are to be waited for, by a
										 * change that is being published; 0:
										 * none is */
	uint32		newcomers;		/* bits of followers that are not among the
								 * former nodes */
	int64		term;			/* a leader's */
	int64		higher_term;	/* a leader's: that a follower has promised */
	MonotonicTime leader_heard; /* a follower's: when it last answered */
	bool		has_epoch;		/* a leader's: begun since the server's start */
	uint64		generation;		/* of what the database is: no other has it */
	pid_t		frozen_by;		/* the process that hands a leader's role
								 * over, for which all appending waits; 0:
								 * none */
	uint64		follower_marks[MAX_FOLLOWERS];	/* that they have confirmed */
	uint32		exclusions;		/* bits that were ever set in excluded_by */

	bool		applies;		/* readers stop at the newest confirmed mark */
	XLogRecPtr	granted;		/* what is below counts as confirmed */

	uint64		confirmed;		/* the newest mark known to be confirmed */
	uint64		open;			/* the mark that commits belong to now */
	int			open_commits;	/* that belong to it so far */
	XLogRecPtr	published;		/* the highest commit of all marks */
	uint64		positions[HIGH_WATERMARK_MARKS];	/* of closed marks, by
													 * number modulo: in WAL,
													 * or the leader's marks */

	/*
	 * of a follower: local transactions of the open mark, and earlier long
	 * cuts
	 */
	TransactionId first_xid;	/* invalid: none */
	TransactionId last_xid;
	uint64		nlong;			/* that there were */
	LongCut		long_cuts[MAX_LONG_CUTS];	/* by number modulo */

	/* from here on mark_slot.c, begin_slot, leaves things alone */
	ConditionVariable confirmed_cv[HIGH_WATERMARK_MARKS];	/* of marks, by number
															 * modulo: they are
															 * confirmed */
	TransactionId truncated_by; /* the latest transaction that has taken
								 * records away which nobody had confirmed;
								 * invalid: none */
	uint64		fed;			/* publications, of a leader */
	int			feed[FEED_LENGTH];	/* places of partitions, by number modulo */
	ConditionVariable feed_cv;	/* there are more, or "confirmed" is another */
	ConditionVariable frozen_cv;	/* frozen_by is 0 */

	int			nlisted;
	int			listed[FLEXIBLE_ARRAY_MEMBER];	/* places of partitions */
} HighWatermark;

/* How many followers a commit waits for, by what was, or is, agreed on. */
static inline int
topics_mark_slot_wanted(const HighWatermark *slot)
{
	int			result = Max(slot->acks_followers, slot->raised_acks_followers);

	return slot->change_at_mark != 0 && slot->former_acks_followers > result ?
		slot->former_acks_followers : result;
}

extern HighWatermark *topics_mark_slot; /* that this process has chosen */
extern uint64 topics_mark_slot_confirmed_before;	/* when it got the lock */

extern void topics_mark_slot_choose(void);
extern void topics_mark_slot_choose_set(int set);
extern int	topics_mark_slot_number(void);
extern int	topics_mark_slot_of(Oid database, int set);
extern void topics_mark_slot_acquire(LWLockMode mode);
extern void topics_mark_slot_acquire_set(int set, LWLockMode mode);
extern bool topics_mark_slot_is_locked(void);
extern void topics_mark_slot_release(void);

extern bool topics_high_watermark_wants_confirmation(const HighWatermark *slot);
extern bool topics_high_watermark_has_free_mark(void);
extern void topics_high_watermark_close_mark(void);
extern uint64 topics_high_watermark_newest_mark(void);
extern void topics_high_watermark_advance(void);
extern void topics_high_watermark_release(void);
extern void topics_high_watermark_enter(PartitionState *state);
extern int64 topics_high_watermark_confirmed_end(PartitionState *state);

extern void topics_replica_cut_feed(PartitionState *state);

#endif							/* PG_TOPICS_MARK_SLOT_H */
