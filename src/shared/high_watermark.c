/*-------------------------------------------------------------------------
 *
 * high_watermark.c
 *		How far the log is confirmed, by synchronous standbys and by followers.
 *
 * With early lock release a commit is visible, and published, before a standby
 * has it; and a cluster's followers read only what is published.  If the
 * server is lost then, the standby that is promoted gives its offsets to other
 * records.  So where synchronous_standby_names is set, or a cluster wants a
 * number of followers to confirm (acks_followers), no reader goes beyond what
 * is confirmed, whatever the producer waited for: Kafka's high watermark.
 * Without both nothing here is done: two flags are read.
 *
 * What standbys confirm is a position in WAL, which the walsenders write down
 * (WalSndCtl->lsn).  What readers need is, for each partition, an offset; and
 * for all partitions together a cut: of a transaction all records or none, and
 * no record without those that its producer had read.  The map from the one to
 * the other is made of marks.
 *
 * MARKS.  A mark is a moment in the sequence of publications.  Every commit
 * publishes its partitions under our lock, and so belongs to the mark that is
 * open then, with all its records.  To close a mark is to give it a position:
 * the highest one of all commits up to then.  A closed mark is confirmed when
 * its position is.  Readers go as far as the newest confirmed mark.
 *
 * A partition knows for each closed mark that is not yet confirmed, and for the
 * newest one that is, where its log ended then (end_at_mark).  It writes that
 * down with its first publication after the mark: the old end was that of all
 * marks since the publication before.  There are at most MAX_UNCONFIRMED such
 * marks, so nothing is lost however far a standby is behind.  As long as marks
 * are plenty each commit closes its own.  When they run short, more and more
 * commits share one; the last one stays open until another one is confirmed.
 *
 * A producer that waits for the standbys waits until its mark is confirmed,
 * too, before it is answered (topics_high_watermark_wait): what is acknowledged
 * is readable.  It waits for its own commit in PostgreSQL's queue, and for the
 * mark in ours: PostgreSQL's must not have one position twice.  Whoever finds a
 * mark confirmed wakes those in ours, and that is mostly the producer whose
 * commit is the mark's position.
 *
 * THE LIST has every partition that may have something unconfirmed, so that a
 * reader's cut costs as much as there are such partitions.  A producer enters
 * its partition before the commit record.  So a reader whose snapshot sees the
 * commit finds the partition in the list, published or not.  A reader that
 * makes a cut removes those that have nothing unconfirmed, and no append in
 * progress.  The producer has set append_xid before it reads "listed"; the
 * reader, under our lock, resets "listed" before it reads append_xid, and sets
 * it again if that is set.  So one of both notices the other.
 *
 * A database that is a node of a cluster has marks of its own (mark_slot.c).
 * How its followers are given cuts, and confirm marks, says replica_cut.c.
 *
 * WHEN THE SETTING CHANGES, the first process to notice starts or stops all
 * this.  What was committed before ("granted") counts as confirmed: it could be
 * read already.  A server that starts with the setting begins with nothing
 * confirmed but what the catalogue knows to be (keep/checkpoint.c).
 *
 * LOCKING.  All is guarded by the slot's lock: the head of mark_slot.c.
 *
 * See docs/decisions/0011-high-watermark.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"
#include "shared/mark_slot.h"

/* Closed marks that are not confirmed, at most. */
#define MAX_UNCONFIRMED (HIGH_WATERMARK_MARKS - 1)

#define MIN_POLL_MS 10			/* between two looks at what is confirmed */
#define MAX_POLL_MS 100			/* after a while */
#define STANDBY_LOOK_MS 1		/* while a follower waits for standbys */

/* Return true if commits have to wait for synchronous standbys. */
bool
topics_high_watermark_has_standbys(void)
{
	return max_wal_senders > 0 && topics_sync_standbys_defined();
}

/* Return true if readers stop at what is confirmed. */
bool
topics_high_watermark_wants_confirmation(const HighWatermark *slot)
{
	return slot->kind == CLUSTER_FOLLOWER ||
		(slot->kind == CLUSTER_LEADER && topics_mark_slot_wanted(slot) > 0) ||
		topics_high_watermark_has_standbys();
}

/* ----------------------------------------------------------------
 *		Whether it applies
 * ----------------------------------------------------------------
 */

/* Start or stop in a leader set, now that the setting has changed. */
static void
follow_setting(int set)
{
	bool		applies;

	topics_mark_slot_acquire_set(set, LW_EXCLUSIVE);
	applies = topics_high_watermark_wants_confirmation(topics_mark_slot);
	if (applies && !topics_mark_slot->applies)
	{
		/* all that was published so far counts as confirmed */
		topics_mark_slot->granted = GetXLogInsertRecPtr();
		topics_mark_slot->confirmed = topics_mark_slot->open++;
		topics_mark_slot->open_commits = 0;
	}
	topics_mark_slot->applies = applies;
	topics_mark_slot_release();
}

/*
 * Return true if readers of a leader set have to stop at the high watermark.
 * Raises nothing.
 */
bool
topics_high_watermark_applies_to(int set)
{
	bool		applies;

	topics_mark_slot_choose_set(set);
	applies = topics_high_watermark_wants_confirmation(topics_mark_slot);
	if (unlikely(applies != topics_mark_slot->applies))
		follow_setting(set);
	return applies;
}

/* The same, of any leader set of this database. */
bool
topics_high_watermark_applies(void)
{
	uint32		sets = topics_mark_slot_sets();
	bool		applies = false;

	for (int set = -1; (set = topics_leader_set_after(sets, set)) >= 0;)
		applies |= topics_high_watermark_applies_to(set);
	return applies;
}

/* ----------------------------------------------------------------
 *		Marks.  The caller holds the lock, exclusively.
 * ----------------------------------------------------------------
 */

/* Close the open mark.  The caller has found that one more can be. */
void
topics_high_watermark_close_mark(void)
{
	Assert(topics_mark_slot->open - 1 - topics_mark_slot->confirmed < MAX_UNCONFIRMED);
	topics_mark_slot->positions[topics_mark_slot->open % HIGH_WATERMARK_MARKS] = topics_mark_slot->published;
	topics_mark_slot->open++;
	topics_mark_slot->open_commits = 0;
}

/*
 * Get the position up to which the standbys have confirmed, if there are any.
 */
static XLogRecPtr
get_confirmed_position(void)
{
	XLogRecPtr	position;

	if (!topics_high_watermark_has_standbys())
		return PG_UINT64_MAX;
	LWLockAcquire(SyncRepLock, LW_SHARED);
	position = WalSndCtl->lsn[SYNC_REP_WAIT_FLUSH];
	LWLockRelease(SyncRepLock);
	return position;
}

/*
 * Get the newest mark that so many followers have confirmed, but for those
 * that are in "except", by their bits.
 */
static uint64
get_mark_of(int followers, uint32 except)
{
	uint64		marks[MAX_FOLLOWERS];
	int			count = 0;

	if (followers == 0)
		return ALL_MARKS;
	if (followers > MAX_FOLLOWERS)
		return 0;
	/* from the newest on, as many as are wanted */
	for (int i = 0; i < MAX_FOLLOWERS; i++)
	{
		uint64		mark = (except & (1 << i)) != 0 ? 0 : topics_mark_slot->follower_marks[i];
		int			place = count++;

		for (; place > 0 && marks[place - 1] < mark; place--)
			marks[place] = marks[place - 1];
		marks[place] = mark;
	}
	return marks[followers - 1];
}

/*
 * Get the newest mark that enough followers have confirmed, but for those that
 * are in "except", by their bits.
 */
static uint64
get_followers_mark(uint32 except)
{
	uint64		mark;

	if (topics_mark_slot->kind != CLUSTER_LEADER)
		return ALL_MARKS;
	mark = get_mark_of(Max(topics_mark_slot->acks_followers, topics_mark_slot->raised_acks_followers), except);
	if (unlikely(topics_mark_slot->change_at_mark != 0))
		mark = topics_min(mark, get_mark_of(topics_mark_slot->former_acks_followers,
											except | topics_mark_slot->newcomers));
	return mark;
}

/* See whether enough of the former nodes know of the latest change of nodes. */
static void
end_change(void)
{
	if (get_mark_of(topics_mark_slot->change_confirmed_by, topics_mark_slot->newcomers) >=
		topics_mark_slot->change_at_mark)
		topics_mark_slot->change_at_mark = 0;
}

/*
 * Find out which marks are confirmed by now; then let release_lock release.  A
 * follower is told by topics_replica_cut_follow.
 */
void
topics_high_watermark_advance(void)
{
	XLogRecPtr	position = get_confirmed_position();
	uint64		mark;

	if (unlikely(topics_mark_slot->change_at_mark != 0))
		end_change();
	mark = get_followers_mark(0);
	if (topics_mark_slot->kind == CLUSTER_FOLLOWER)
		return;
	while (topics_mark_slot->confirmed + 1 < topics_mark_slot->open && topics_mark_slot->confirmed < mark &&
		   topics_mark_slot->positions[(topics_mark_slot->confirmed + 1) % HIGH_WATERMARK_MARKS] <= position)
		topics_mark_slot->confirmed++;
	if (topics_mark_slot->confirmed + 1 == topics_mark_slot->open && topics_mark_slot->open_commits > 0 &&
		mark == ALL_MARKS && topics_mark_slot->published <= position)
	{
		topics_high_watermark_close_mark();
		topics_mark_slot->confirmed++;
	}
}

/* Release the lock, and wake those who wait for what is confirmed now. */
void
topics_high_watermark_release(void)
{
	uint64		confirmed = topics_mark_slot->confirmed;
	uint64		mark = topics_mark_slot_confirmed_before;

	topics_mark_slot_release();
	if (confirmed == mark)
		return;
	mark = Max(mark, confirmed - Min(confirmed, HIGH_WATERMARK_MARKS));
	while (mark++ < confirmed)
		ConditionVariableBroadcast(&topics_mark_slot->confirmed_cv[mark % HIGH_WATERMARK_MARKS]);
	if (topics_mark_slot->kind == CLUSTER_LEADER)
		ConditionVariableBroadcast(&topics_mark_slot->feed_cv);
}

/* Return true if one more mark can be closed. */
bool
topics_high_watermark_has_free_mark(void)
{
	return topics_mark_slot->open - 1 - topics_mark_slot->confirmed < MAX_UNCONFIRMED;
}

/*
 * Return true if the open mark is to be closed: after each commit, or, as the
 * marks run short, after so many.  Where only followers confirm, their cuts
 * close marks.
 */
static bool
is_mark_due(void)
{
	int			unconfirmed = topics_mark_slot->open - 1 - topics_mark_slot->confirmed;

	if (!topics_high_watermark_has_free_mark() || !topics_high_watermark_has_standbys() ||
		topics_mark_slot->kind == CLUSTER_FOLLOWER)
		return false;
	return topics_mark_slot->open_commits >= (unconfirmed < MAX_UNCONFIRMED / 2 ? 1 :
											  unconfirmed < MAX_UNCONFIRMED * 3 / 4 ? 4 : 16);
}

/* Return true if a partition is in the slot's list. */
static bool
is_listed(PartitionState *state)
{
	return (pg_atomic_read_u32(&state->listed) & (1 << topics_mark_slot_number())) != 0;
}

/* Enter a partition into the list, if it is not there. */
void
topics_high_watermark_enter(PartitionState *state)
{
	if (is_listed(state))
		return;
	Assert(topics_mark_slot->nlisted < pg_topics_max_partitions);
	topics_mark_slot->listed[topics_mark_slot->nlisted++] = topics_partition_state_index(state);
	pg_atomic_fetch_or_u32(&state->listed, 1 << topics_mark_slot_number());
}

/*
 * Get where a partition's log ended at the newest confirmed mark.  While the
 * end is not known, it is what was known before.
 */
static int64
get_end_at_confirmed_mark(const PartitionState *state)
{
	int64		end;

	if (state->mark > topics_mark_slot->confirmed)
		return state->end_at_mark[topics_mark_slot->confirmed % HIGH_WATERMARK_MARKS];
	end = (int64) pg_atomic_read_u64((pg_atomic_uint64 *) &state->next_offset);
	return end == UNKNOWN_OFFSET ? state->confirmed_end : end;
}

/*
 * Get how far a partition is confirmed.  If what some followers say does not
 * go for it, and the others are too few or behind, that is as far as it was.
 */
int64
topics_high_watermark_confirmed_end(PartitionState *state)
{
	if (likely(state->excluded_by == 0))
		return get_end_at_confirmed_mark(state);
	if (get_followers_mark(state->excluded_by) >= topics_mark_slot->confirmed)
		state->confirmed_end = topics_max(state->confirmed_end, get_end_at_confirmed_mark(state));
	return state->confirmed_end;
}

/*
 * A partition's log gets another end, and its next_offset is still the old one.
 * All marks since its last publication are to remember that.
 */
static void
note_old_end(PartitionState *state)
{
	int64		old_end = (int64) pg_atomic_read_u64(&state->next_offset);

	topics_high_watermark_enter(state);
	state->confirmed_end = topics_max(state->confirmed_end, topics_high_watermark_confirmed_end(state));
	if (old_end == UNKNOWN_OFFSET)
		old_end = state->confirmed_end;
	for (uint64 mark = Max(state->mark, topics_mark_slot->confirmed); mark < topics_mark_slot->open; mark++)
		state->end_at_mark[mark % HIGH_WATERMARK_MARKS] = old_end;
	state->mark = topics_mark_slot->open;
}

/*
 * Get the position below which all is confirmed, whatever the mark: by
 * standbys alone.
 */
static XLogRecPtr
get_position_confirmed_alone(void)
{
	if (topics_mark_slot->kind == CLUSTER_FOLLOWER || get_followers_mark(0) != ALL_MARKS)
		return InvalidXLogRecPtr;
	return get_confirmed_position();
}

/* A commit that ends at "lsn", or that much of WAL, was published. */
static void
note_published(XLogRecPtr lsn)
{
	uint64		mark = topics_mark_slot->open;

	topics_mark_slot->published = Max(topics_mark_slot->published, lsn);
	topics_mark_slot->open_commits++;
	if (topics_mark_slot->open - 1 - topics_mark_slot->confirmed >= MAX_UNCONFIRMED / 2)
		topics_high_watermark_advance();
	if (topics_mark_slot->open == mark && is_mark_due())
		topics_high_watermark_close_mark();
}

/* Get the newest mark that has a commit. */
uint64
topics_high_watermark_newest_mark(void)
{
	return topics_mark_slot->open_commits > 0 ? topics_mark_slot->open : topics_mark_slot->open - 1;
}

/* ----------------------------------------------------------------
 *		Producers
 * ----------------------------------------------------------------
 */

/*
 * Before the commit record, when append_xid is set, under the append lock: let
 * readers know that the partition will have something unconfirmed.
 */
void
topics_high_watermark_announce(PartitionState *state)
{
	if (likely(!topics_high_watermark_applies_to(state->set)))
		return;
	pg_memory_barrier();
	if (is_listed(state))
		return;
	topics_mark_slot_acquire_set(state->set, LW_EXCLUSIVE);
	topics_high_watermark_enter(state);
	topics_mark_slot_release();
}

/*
 * Begin to publish what a commit has in a leader set.  Return true if the
 * caller has to call topics_high_watermark_publish for each of its partitions
 * there, and then topics_high_watermark_end_publication.  In between the lock
 * is held.
 */
bool
topics_high_watermark_begin_publication(int set)
{
	if (likely(!topics_high_watermark_applies_to(set) && topics_mark_slot->kind != CLUSTER_LEADER))
		return false;
	topics_mark_slot_acquire_set(set, LW_EXCLUSIVE);
	return true;
}

/*
 * Note a partition that gets a new end.  Its next_offset is still the old one.
 */
void
topics_high_watermark_publish(PartitionState *state)
{
	Assert(topics_mark_slot_is_locked());
	if (topics_mark_slot->applies)
		note_old_end(state);
	if (topics_mark_slot->kind == CLUSTER_LEADER)
		topics_replica_cut_feed(state);
}

/*
 * The commit whose record ends at "lsn" is published.  Return its mark, for
 * topics_high_watermark_wait, or 0 if there is nothing to wait for.
 */
uint64
topics_high_watermark_end_publication(XLogRecPtr lsn)
{
	uint64		mark = 0;
	bool		feeds = topics_mark_slot->kind == CLUSTER_LEADER;

	if (topics_mark_slot->applies)
	{
		mark = topics_mark_slot->open;
		note_published(lsn);
	}
	if (topics_mark_slot->kind == CLUSTER_FOLLOWER)
	{
		topics_mark_slot->last_xid = GetTopTransactionIdIfAny();
		if (!TransactionIdIsValid(topics_mark_slot->first_xid))
			topics_mark_slot->first_xid = topics_mark_slot->last_xid;
	}
	topics_high_watermark_release();
	if (feeds)
		ConditionVariableBroadcast(&topics_mark_slot->feed_cv);
	return mark;
}

/*
 * The log end of a partition was looked up, and is about to be stored, under
 * its append lock.  Return a position in WAL that all records below are covered
 * by: they are from before the server's start, or from foreign writers, whose
 * last commit the state knows, unless another one is in progress.
 *
 * Nobody knows what of it is confirmed, but for the offsets below
 * "confirmed_end".  The rest is when that position is: by now, or when a mark
 * says so.  (If it were left to a mark in any case, this partition would end
 * below others for a moment, in which nothing is hidden any more of what was
 * committed with it.)
 */
XLogRecPtr
topics_high_watermark_looked_up(PartitionState *state, int64 confirmed_end)
{
	bool		applies = topics_high_watermark_applies_to(state->set);
	XLogRecPtr	start = topics_mark_slot_start_position();
	XLogRecPtr	position;

	topics_mark_slot_acquire_set(state->set, LW_EXCLUSIVE);
	if (pg_atomic_read_u32(&state->foreign_commits) > 0)
		position = GetXLogInsertRecPtr();
	else
	{
		position = pg_atomic_read_u64(&state->commit_lsn);
		position = Max(position, start);
	}
	if (applies && position > topics_mark_slot->granted)
	{
		state->confirmed_end = Max(state->confirmed_end, confirmed_end);
		state->found_at_mark = topics_mark_slot->open;
		state->found_position = position;
		state->found_confirmed = state->confirmed_end;
		if (get_position_confirmed_alone() < position)
		{
			note_old_end(state);
			note_published(position);
		}
	}
	topics_high_watermark_release();
	return position;
}

/*
 * A log was truncated, and nobody appends: what was known of its end goes for
 * nothing, and no reader goes beyond the new one.  Raises nothing.
 */
void
topics_high_watermark_truncate(PartitionState *state, int64 end)
{
	topics_mark_slot_acquire_set(state->set, LW_EXCLUSIVE);
	topics_mark_slot->truncated_by = GetTopTransactionIdIfAny();
	state->confirmed_end = topics_min(state->confirmed_end, end);
	state->found_confirmed = topics_min(state->found_confirmed, end);
	for (int i = 0; i < HIGH_WATERMARK_MARKS; i++)
		state->end_at_mark[i] = topics_min(state->end_at_mark[i], end);
	state->stored_floor = topics_min(state->stored_floor, end);
	state->stored_high_watermark = topics_min(state->stored_high_watermark, end);
	state->told_end = topics_min(state->told_end, end);
	pg_atomic_write_u64(&state->leader_end, UNKNOWN_OFFSET);
	/* who is looking it up right now does so again (log_end.c) */
	pg_atomic_fetch_add_u32(&state->foreign_writes, 1);
	pg_atomic_write_u64(&state->next_offset, UNKNOWN_OFFSET);
	topics_mark_slot_release();
}

/*
 * Get the latest transaction that has truncated a log of a leader set since the
 * server's start: a snapshot that does not see it sees what was taken away.
 */
TransactionId
topics_high_watermark_truncated_by(int set)
{
	topics_mark_slot_choose_set(set);
	return *(volatile TransactionId *) &topics_mark_slot->truncated_by;
}

/*
 * Return true if somebody has found a mark of a leader set confirmed.  It only
 * rises, and is written in one piece.
 */
static bool
is_mark_known_confirmed(int set, uint64 mark)
{
	topics_mark_slot_choose_set(set);
	return *(volatile uint64 *) &topics_mark_slot->confirmed >= mark;
}

/* Find out whether a mark is confirmed.  If it is not, have it closed. */
static bool
is_mark_confirmed(int set, uint64 mark)
{
	bool		confirmed;

	if (is_mark_known_confirmed(set, mark))
		return true;
	/* followers' sessions close marks, and find them confirmed */
	if (!topics_high_watermark_has_standbys() || topics_mark_slot->kind == CLUSTER_FOLLOWER)
		return false;
	topics_mark_slot_acquire_set(set, LW_EXCLUSIVE);
	topics_high_watermark_advance();
	confirmed = topics_mark_slot->confirmed >= mark;
	if (!confirmed && mark == topics_mark_slot->open && topics_high_watermark_has_free_mark())
		topics_high_watermark_close_mark();
	topics_high_watermark_release();
	return confirmed;
}

/*
 * After a commit has waited for the standbys, as it does by SyncRepWaitForLSN:
 * wait until its mark of a leader set is confirmed as well, so that its
 * records can be read; and until "check", if there is one, says that this goes
 * for all of them.  Return false if it is not, since the wait was cancelled or
 * has come to its time, or this database is not what it was in "generation":
 * the mark is another one then, and another node may have no such commit.
 * Raises nothing, and is not ended by the postmaster's death here, where the
 * commit is not complete.
 *
 * Nobody may be there to advance the mark, say if the commit at its position
 * did not wait.  So the waiter looks by itself now and then.
 */
bool
topics_high_watermark_wait(int set, uint64 mark, uint64 generation, HighWatermarkCheck check,
						   MonotonicTime until)
{
	bool		confirmed;

	for (;;)
	{
		confirmed = false;
		if (topics_mark_slot_generation_of(set) != generation)
			break;
		confirmed = !topics_high_watermark_applies_to(set) ||
			(is_mark_confirmed(set, mark) && (check == NULL || check(set)));
		/* in between the mark may have become another one */
		confirmed = confirmed && topics_mark_slot_generation_of(set) == generation;
		if (confirmed)
			break;
		if (QueryCancelPending || ProcDiePending)
		{
			/* it was meant for the wait: the commit stands */
			QueryCancelPending = false;
			break;
		}
		if (topics_clock_now() >= until)
			break;
		/* a look that wakes others would take us out of the queue again */
		topics_mark_slot_choose_set(set);
		ConditionVariablePrepareToSleep(&topics_mark_slot->confirmed_cv[mark % HIGH_WATERMARK_MARKS]);
		if (is_mark_known_confirmed(set, mark) && (check == NULL || check(set)))
			continue;
		if (WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_POSTMASTER_DEATH, MIN_POLL_MS,
					  WAIT_EVENT_SYNC_REP) & WL_POSTMASTER_DEATH)
			ProcDiePending = true;
		ResetLatch(MyLatch);
	}
	ConditionVariableCancelSleep();
	return confirmed;
}

/* ----------------------------------------------------------------
 *		Readers
 * ----------------------------------------------------------------
 */

/* Get the offset at which readers of a partition have to stop now. */
int64
topics_high_watermark_get(PartitionState *state)
{
	int64		end;

	topics_mark_slot_acquire_set(state->set, LW_EXCLUSIVE);
	topics_high_watermark_advance();
	end = topics_high_watermark_confirmed_end(state);
	topics_high_watermark_release();
	return end;
}

/*
 * Remove from the list, unless an append is in progress.  Return true if done.
 */
static bool
remove_from_list(int place, PartitionState *state)
{
	pg_atomic_fetch_and_u32(&state->listed, ~(1 << topics_mark_slot_number()));
	pg_memory_barrier();
	if (topics_mark_slot_of(state->id.database, state->set) == topics_mark_slot_number() &&
		(pg_atomic_read_u32(&state->append_xid) != InvalidTransactionId ||
		 pg_atomic_read_u32(&state->foreign_commits) != 0))
	{
		pg_atomic_fetch_or_u32(&state->listed, 1 << topics_mark_slot_number());
		return false;
	}
	topics_mark_slot->listed[place] = topics_mark_slot->listed[--topics_mark_slot->nlisted];
	return true;
}

/*
 * Make a cut: the partitions of a leader set in which something may be hidden,
 * each with the offset at which to stop.  "limits" has room for "room" of
 * them; *count is set to their number, *mark to what is open now, *generation
 * to what this database is then, and *position to what is confirmed whatever
 * the mark: a partition whose end is looked up later is not among them
 * (topics_high_watermark_limit_found).  Return false if there was not enough
 * room.
 */
bool
topics_high_watermark_cut(int set, PartitionLimit *limits, int room, int *count, uint64 *mark,
						  uint64 *generation, XLogRecPtr *position)
{
	*count = 0;
	topics_mark_slot_acquire_set(set, LW_EXCLUSIVE);
	topics_high_watermark_advance();
	*mark = topics_mark_slot->open;
	*generation = topics_mark_slot->generation;
	*position = get_position_confirmed_alone();
	if (room < topics_mark_slot->nlisted)
	{
		topics_high_watermark_release();
		return false;
	}
	for (int place = 0; place < topics_mark_slot->nlisted;)
	{
		PartitionState *state = topics_partition_state_at(topics_mark_slot->listed[place]);

		bool		is_gone = !OidIsValid(state->id.database) ||
			topics_mark_slot_of(state->id.database, state->set) != topics_mark_slot_number();

		if ((is_gone || (state->mark <= topics_mark_slot->confirmed && state->excluded_by == 0 &&
						 pg_atomic_read_u64(&state->next_offset) != UNKNOWN_OFFSET)) &&
			remove_from_list(place, state))
			continue;
		if (state->id.database == MyDatabaseId && !is_gone)
		{
			limits[*count].state = state;
			limits[(*count)++].limit = topics_high_watermark_confirmed_end(state);
		}
		place++;
	}
	topics_high_watermark_release();
	return true;
}

/*
 * Get the offset at which a cut stops in a partition whose end was looked up
 * after the cut was made, or NO_LIMIT.  What was found is from before the
 * server's start, as a rule, and other partitions in the cut have of it what
 * was known to be confirmed then, or all: so has this one, whatever was
 * confirmed since.
 */
int64
topics_high_watermark_limit_found(PartitionState *state, XLogRecPtr position)
{
	int64		limit;

	topics_mark_slot_acquire_set(state->set, LW_SHARED);
	limit = position >= state->found_position ? NO_LIMIT : state->found_confirmed;
	topics_mark_slot_release();
	return limit;
}

/* Return how many partitions are in a leader set's list, about. */
int
topics_high_watermark_count_listed(int set)
{
	topics_mark_slot_choose_set(set);
	return ((volatile HighWatermark *) topics_mark_slot)->nlisted;
}

/*
 * Sleep until the next look, the longer the more there were; can be cancelled.
 */
void
topics_high_watermark_nap(int *polls)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 Min(MIN_POLL_MS + (*polls)++, MAX_POLL_MS),
					 topics_wait_event_get(WAIT_HIGH_WATERMARK));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * Wait until all that is published now in a leader set is confirmed, and
 * return its mark.  *generation is set to what this database is then: where
 * that changes meanwhile the marks begin anew.  The wait can be cancelled;
 * "check" is called meanwhile, and may raise an error.  It ends, too, when
 * there are no synchronous standbys any more.
 */
uint64
topics_high_watermark_wait_for_all(int set, SnapshotCheck check, Snapshot snapshot, uint64 *generation)
{
	uint64		mark = 0;
	int			polls = 0;

	*generation = 0;
	for (;;)
	{
		if (topics_mark_slot_generation_of(set) != *generation)
		{
			topics_mark_slot_acquire_set(set, LW_SHARED);
			*generation = topics_mark_slot->generation;
			mark = topics_high_watermark_newest_mark();
			topics_mark_slot_release();
		}
		if ((!topics_high_watermark_applies_to(set) || is_mark_confirmed(set, mark)) &&
			topics_mark_slot_generation_of(set) == *generation)
			break;
		check(snapshot);
		topics_high_watermark_nap(&polls);
	}
	return mark;
}

/*
 * Wait until the standbys have confirmed WAL up to a record of ours, and so all
 * that was committed before.  The wait can be cancelled, and ends as above.
 */
void
topics_high_watermark_wait_for_position(XLogRecPtr position)
{
	int			polls = 0;

	if (!topics_high_watermark_has_standbys())
		return;
	XLogFlush(position);
	while (get_confirmed_position() < position)
		topics_high_watermark_nap(&polls);
}

/*
 * The same, until a time.  Return false if they have not by then.  It is
 * looked often: a follower waits for it, and commits for the follower.
 */
bool
topics_high_watermark_wait_for_standbys(XLogRecPtr position, MonotonicTime until)
{
	XLogFlush(position);
	while (topics_high_watermark_has_standbys() && get_confirmed_position() < position)
	{
		if (topics_clock_now() >= until)
			return false;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, STANDBY_LOOK_MS,
						 topics_wait_event_get(WAIT_HIGH_WATERMARK));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}
