/*-------------------------------------------------------------------------
 *
 * replica_cut.c
 *		Cuts of what is published: for followers, and on them.
 *
 * ON A NODE THAT LEADS each publication is also noted in the feed, a ring of
 * partitions' places.  A follower's session (node/replica_feed.c) reads from
 * it which partitions have moved, and where they end, all under the slot's
 * lock: a cut at which no transaction is torn.  The cut closes the open mark.
 * A follower that has made a cut durable confirms its mark, and with it all
 * that was published up to then.  A mark is confirmed when as many followers
 * as are wanted have confirmed it or a later one; and the standbys, if there
 * are any.  A follower that does not have all of some partition says so before
 * it confirms: its confirmations are not about that one (excluded_by), whose
 * end stays where it is until enough others have it, or this one does.
 *
 * ON A NODE THAT FOLLOWS the replicator closes a mark when a cut of the
 * leader's is here as a whole, and gives it the newest of the leader's marks
 * that has a commit in the cut.  A cut that took several transactions here is
 * remembered for a while: a snapshot that sees some of them and not all must
 * not be used once it is confirmed (log/read_cut.c).  Readers go as far as the
 * newest mark whose number the leader has said to be confirmed.  The leader's
 * numbers begin anew when it is restarted: what had one of before waits for
 * the next cut.
 *
 * The marks are those of high_watermark.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "miscadmin.h"

#include "base/base.h"
#include "shared/shared.h"
#include "shared/mark_slot.h"

#define LINGER_MS 5				/* until a follower is told of nothing but
								 * what is confirmed */
#define STALE_MARK PG_UINT64_MAX	/* of a leader that was restarted */

/* ----------------------------------------------------------------
 *		A leader's followers
 * ----------------------------------------------------------------
 */

/* Note in the feed that something of a partition has changed. */
void
topics_replica_cut_feed(PartitionState *state)
{
	topics_mark_slot->feed[topics_mark_slot->fed++ % FEED_LENGTH] = topics_partition_state_index(state);
}

/*
 * Something of a partition has become another outside of a commit's
 * publication: its log start, or an end that was looked up.  Raises nothing.
 */
void
topics_replica_cut_note_moved(PartitionState *state)
{
	topics_mark_slot_choose_set(state->set);
	if (likely(topics_mark_slot->kind != CLUSTER_LEADER))
		return;
	topics_mark_slot_acquire_set(state->set, LW_EXCLUSIVE);
	topics_replica_cut_feed(state);
	topics_mark_slot_release();
	ConditionVariableBroadcast(&topics_mark_slot->feed_cv);
}

/* Add a partition to a cut, if it is this database's, and of the leader set. */
static void
add_to_cut(FollowerCut *cut, int place)
{
	PartitionState *state = topics_partition_state_at(place);

	if (state->id.database != MyDatabaseId || state->set != topics_leader_set)
		return;
	Assert(cut->count < cut->room);
	cut->ends[cut->count].id = state->id;
	cut->ends[cut->count].log_start = pg_atomic_read_u64(&state->log_start_offset);
	cut->ends[cut->count++].log_end = pg_atomic_read_u64(&state->next_offset);
}

/* Get the mark up to which a follower may show what it has. */
static uint64
get_mark_to_show(void)
{
	return topics_mark_slot->applies ? topics_mark_slot->confirmed : ALL_MARKS;
}

/* Get the room that a cut may need. */
int
topics_replica_cut_room(const FollowerCut *cut)
{
	return cut->wants_all ? pg_topics_max_partitions : FEED_LENGTH;
}

/*
 * Make a cut for a follower: the partitions that have moved since its last
 * one, or all, and where they start and end.  Return false if these are too
 * many, and all are wanted.
 */
bool
topics_replica_cut_make(FollowerCut *cut)
{
	bool		done;

	cut->count = 0;
	topics_mark_slot_acquire(LW_EXCLUSIVE);
	done = cut->wants_all || topics_mark_slot->fed - cut->fed <= FEED_LENGTH;
	if (!done)
		cut->wants_all = true;
	else
	{
		if (topics_mark_slot->open_commits > 0 && topics_high_watermark_has_free_mark())
			topics_high_watermark_close_mark();
		topics_high_watermark_advance();
		cut->mark = topics_mark_slot->open - 1;
		cut->newest_mark = topics_high_watermark_newest_mark();
		cut->confirmed = get_mark_to_show();
		if (cut->wants_all)
		{
			for (int i = 0; i < pg_topics_max_partitions; i++)
				add_to_cut(cut, i);
		}
		else
		{
			for (; cut->fed < topics_mark_slot->fed; cut->fed++)
				add_to_cut(cut, topics_mark_slot->feed[cut->fed % FEED_LENGTH]);
		}
		cut->fed = topics_mark_slot->fed;
		cut->wants_all = false;
	}
	topics_high_watermark_release();
	return done;
}

/*
 * Wait until a follower can be told something that it was not told with its
 * last cut, or until the time is over.  The wait can be interrupted.
 */
void
topics_replica_cut_wait(const FollowerCut *cut, MonotonicTime until)
{
	MonotonicTime linger_until = NEVER;

	topics_mark_slot_choose();
	ConditionVariablePrepareToSleep(&topics_mark_slot->feed_cv);
	for (;;)
	{
		bool		has_news;
		long		left;

		CHECK_FOR_INTERRUPTS();
		topics_mark_slot_acquire(LW_SHARED);
		has_news = topics_mark_slot->kind != CLUSTER_LEADER || topics_mark_slot->fed != cut->fed ||
			(topics_mark_slot->applies && topics_high_watermark_newest_mark() > cut->mark && topics_high_watermark_has_free_mark());
		if (get_mark_to_show() != cut->confirmed && linger_until == NEVER)
			linger_until = topics_clock_in(LINGER_MS);
		topics_mark_slot_release();
		left = (long) topics_clock_ms_until(topics_min(until, linger_until));
		if (has_news || left <= 0)
			break;
		(void) ConditionVariableTimedSleep(&topics_mark_slot->feed_cv, left,
										   topics_wait_event_get(WAIT_REPLICA_FEED));
	}
	ConditionVariableCancelSleep();
}

/*
 * A follower does not have all of a partition: what it confirms from now on is
 * not about that.
 */
void
topics_replica_cut_exclude(int follower, PartitionState *state)
{
	topics_mark_slot_acquire_set(state->set, LW_EXCLUSIVE);
	topics_high_watermark_advance();
	state->confirmed_end = topics_max(state->confirmed_end, topics_high_watermark_confirmed_end(state));
	state->excluded_by |= 1 << follower;
	topics_mark_slot->exclusions |= 1 << follower;
	if (topics_mark_slot->applies)
		topics_high_watermark_enter(state);
	topics_high_watermark_release();
}

/* What a follower is about to confirm is about a partition, too. */
void
topics_replica_cut_include(int follower, PartitionState *state)
{
	topics_mark_slot_acquire_set(state->set, LW_EXCLUSIVE);
	state->excluded_by &= ~(1 << follower);
	topics_high_watermark_release();
}

/*
 * Return true if what followers confirm may not be about all partitions of a
 * leader set.
 */
bool
topics_replica_cut_has_exclusions(int set)
{
	topics_mark_slot_choose_set(set);
	return *(volatile uint32 *) &topics_mark_slot->exclusions != 0;
}

/*
 * A follower has made durable what was published up to a mark, of what this
 * database was in a generation.
 */
void
topics_replica_cut_confirm(int follower, uint64 mark, uint64 generation)
{
	topics_mark_slot_acquire(LW_EXCLUSIVE);
	if (topics_mark_slot->generation == generation && topics_mark_slot->kind == CLUSTER_LEADER && topics_mark_slot->follower_marks[follower] < mark &&
		mark < topics_mark_slot->open)
		topics_mark_slot->follower_marks[follower] = mark;
	topics_high_watermark_advance();
	topics_high_watermark_release();
}

/* A follower's number is nobody's, or another one's.  Raises nothing. */
void
topics_replica_cut_forget_follower(int follower)
{
	topics_mark_slot_acquire(LW_EXCLUSIVE);
	topics_mark_slot->follower_marks[follower] = 0;
	topics_mark_slot_release();
}

/* ----------------------------------------------------------------
 *		A follower
 * ----------------------------------------------------------------
 */

/* The leader's marks, as it had told them, say nothing any more. */
void
topics_replica_cut_forget_leader(void)
{
	topics_mark_slot_acquire(LW_EXCLUSIVE);
	for (uint64 mark = topics_mark_slot->confirmed + 1; mark < topics_mark_slot->open; mark++)
		topics_mark_slot->positions[mark % HIGH_WATERMARK_MARKS] = STALE_MARK;
	topics_mark_slot_release();
}

/*
 * The open mark is about to be closed: note which transactions are in it, if
 * there are several.  The first one after the server's start goes on with what
 * had come before that: it counts as if it had begun there.
 */
static void
note_long_cut(void)
{
	LongCut    *cut = &topics_mark_slot->long_cuts[topics_mark_slot->nlong % MAX_LONG_CUTS];

	if (topics_mark_slot->first_xid != topics_mark_slot->last_xid)
	{
		cut->mark = topics_mark_slot->open;
		cut->first_xid = topics_mark_slot->first_xid;
		cut->last_xid = topics_mark_slot->last_xid;
		topics_mark_slot->nlong++;
	}
	topics_mark_slot->first_xid = topics_mark_slot->last_xid = InvalidTransactionId;
}

/*
 * All that is published here is a cut of the leader's, whose newest mark this
 * was: it may be shown when that is confirmed.
 */
void
topics_replica_cut_end(uint64 newest_mark)
{
	topics_mark_slot_acquire(LW_EXCLUSIVE);
	if (topics_mark_slot->kind == CLUSTER_FOLLOWER)
	{
		/* this cut has what earlier leaders' cuts had */
		for (uint64 mark = topics_mark_slot->confirmed + 1; mark < topics_mark_slot->open; mark++)
			if (topics_mark_slot->positions[mark % HIGH_WATERMARK_MARKS] == STALE_MARK)
				topics_mark_slot->positions[mark % HIGH_WATERMARK_MARKS] = newest_mark;
		if (topics_mark_slot->open_commits > 0 && topics_high_watermark_has_free_mark())
		{
			note_long_cut();
			topics_high_watermark_close_mark();
			topics_mark_slot->positions[(topics_mark_slot->open - 1) % HIGH_WATERMARK_MARKS] = newest_mark;
		}
		else if (topics_mark_slot->open_commits == 0 && topics_mark_slot->confirmed + 1 < topics_mark_slot->open)
		{
			uint64	   *position = &topics_mark_slot->positions[(topics_mark_slot->open - 1) % HIGH_WATERMARK_MARKS];

			*position = Min(*position, newest_mark);
		}
	}
	topics_mark_slot_release();
}

/* The leader says that all up to one of its marks may be shown. */
void
topics_replica_cut_follow(uint64 leader_mark)
{
	topics_mark_slot_acquire(LW_EXCLUSIVE);
	if (topics_mark_slot->kind == CLUSTER_FOLLOWER)
	{
		for (uint64 mark = topics_mark_slot->open - 1; mark > topics_mark_slot->confirmed; mark--)
		{
			if (topics_mark_slot->positions[mark % HIGH_WATERMARK_MARKS] > leader_mark)
				continue;
			topics_mark_slot->confirmed = mark;
			break;
		}
	}
	topics_high_watermark_release();
}

/*
 * On a follower in a leader set: copy the long cuts that are confirmed, the
 * latest ones; return their number.  *is_all says whether there were no
 * others.
 */
int
topics_replica_cut_long(int set, LongCut *cuts, bool *is_all)
{
	int			count = 0;

	topics_mark_slot_acquire_set(set, LW_SHARED);
	*is_all = topics_mark_slot->nlong <= MAX_LONG_CUTS;
	for (uint64 i = *is_all ? 0 : topics_mark_slot->nlong - MAX_LONG_CUTS; i < topics_mark_slot->nlong; i++)
	{
		if (topics_mark_slot->long_cuts[i % MAX_LONG_CUTS].mark <= topics_mark_slot->confirmed)
			cuts[count++] = topics_mark_slot->long_cuts[i % MAX_LONG_CUTS];
	}
	topics_mark_slot_release();
	return count;
}
