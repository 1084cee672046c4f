/*-------------------------------------------------------------------------
 *
 * high_watermark.c
 *		How far the log is confirmed by the synchronous standbys.
 *
 * With early lock release a commit is visible, and published, before a standby
 * has it.  If the server is lost then, the standby that is promoted gives its
 * offsets to other records.  So where synchronous_standby_names is set, no
 * reader goes beyond what the standbys have confirmed, whatever
 * synchronous_commit the producer had: Kafka's high watermark.  Without it
 * nothing here is done: one flag is read.
 *
 * What is confirmed is a position in WAL, which the walsenders write down
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
 * WHEN THE SETTING CHANGES, the first process to notice starts or stops all
 * this.  What was committed before ("granted") counts as confirmed: it could be
 * read already.  A server that starts with the setting begins with nothing
 * confirmed but what the catalogue knows to be (next_offset_floor).
 *
 * LOCKING.  The lock (an LWLock) comes after the append locks.  Under it
 * nothing is acquired but SyncRepLock.  It guards what is in shared memory
 * here, and the group of fields in PartitionState that is named after it.
 *
 * See docs/decisions/0011-high-watermark.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/shmem.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"

/* Closed marks that are not confirmed, at most. */
#define MAX_UNCONFIRMED (HIGH_WATERMARK_MARKS - 1)

#define MIN_POLL_MS 10			/* between two looks at what is confirmed */
#define MAX_POLL_MS 100			/* after a while */

typedef struct HighWatermark
{
	bool		applies;		/* readers stop at the newest confirmed mark */
	XLogRecPtr	started_at;		/* all from before the server's start is
								 * below; invalid: nobody has asked */
	XLogRecPtr	granted;		/* what is below counts as confirmed */

	uint64		confirmed;		/* the newest mark known to be confirmed */
	uint64		open;			/* the mark that commits belong to now */
	int			open_commits;	/* that belong to it so far */
	XLogRecPtr	published;		/* the highest commit of all marks */
	XLogRecPtr	positions[HIGH_WATERMARK_MARKS];	/* of closed marks, by
													 * number modulo */
	ConditionVariable advanced; /* "confirmed" has become another */

	int			nlisted;
	int			listed[FLEXIBLE_ARRAY_MEMBER];	/* places of partitions */
} HighWatermark;

static HighWatermark *shared = NULL;
static LWLock *lock = NULL;
static bool has_advanced = false;	/* since this process has got the lock */

static Size
compute_shared_size(void)
{
	return add_size(offsetof(HighWatermark, listed),
					mul_size(pg_topics_max_partitions, sizeof(int)));
}

/* shmem_request_hook */
void
topics_high_watermark_shmem_request(void)
{
	RequestAddinShmemSpace(MAXALIGN(compute_shared_size()));
	RequestNamedLWLockTranche("pg_topics_high_watermark", 1);
}

/* Return true if commits have to wait for synchronous standbys. */
static bool
standbys_are_defined(void)
{
	return max_wal_senders > 0 && topics_sync_standbys_defined();
}

/* shmem_startup_hook; the caller holds AddinShmemInitLock. */
void
topics_high_watermark_shmem_startup(void)
{
	bool		found;

	lock = &GetNamedLWLockTranche("pg_topics_high_watermark")[0].lock;
	shared = ShmemInitStruct("pg_topics high watermark", compute_shared_size(), &found);
	if (!found)
	{
		memset(shared, 0, offsetof(HighWatermark, listed));
		shared->applies = max_wal_senders > 0 && topics_sync_standbys_set();
		shared->open = 1;
		ConditionVariableInit(&shared->advanced);
	}
}

/* Start or stop, now that the setting has changed. */
static void
follow_setting(bool applies)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (applies && !shared->applies)
	{
		/* all that was published so far counts as confirmed */
		shared->granted = GetXLogInsertRecPtr();
		shared->confirmed = shared->open++;
		shared->open_commits = 0;
	}
	shared->applies = applies;
	LWLockRelease(lock);
}

/*
 * Return true if readers have to stop at the high watermark.  Raises nothing.
 */
bool
topics_high_watermark_applies(void)
{
	bool		applies = standbys_are_defined();

	if (unlikely(applies != shared->applies))
		follow_setting(applies);
	return applies;
}

/* ----------------------------------------------------------------
 *		Marks.  The caller holds the lock, exclusively.
 * ----------------------------------------------------------------
 */

/* Close the open mark.  The caller has found that one more can be. */
static void
close_mark(void)
{
	Assert(shared->open - 1 - shared->confirmed < MAX_UNCONFIRMED);
	shared->positions[shared->open % HIGH_WATERMARK_MARKS] = shared->published;
	shared->open++;
	shared->open_commits = 0;
}

/* Get the position up to which the standbys have confirmed. */
static XLogRecPtr
get_confirmed_position(void)
{
	XLogRecPtr	position;

	LWLockAcquire(SyncRepLock, LW_SHARED);
	position = WalSndCtl->lsn[SYNC_REP_WAIT_FLUSH];
	LWLockRelease(SyncRepLock);
	return position;
}

/* Find out which marks are confirmed by now; then let release_lock release. */
static void
advance(void)
{
	XLogRecPtr	position = get_confirmed_position();
	uint64		before = shared->confirmed;

	while (shared->confirmed + 1 < shared->open &&
		   shared->positions[(shared->confirmed + 1) % HIGH_WATERMARK_MARKS] <= position)
		shared->confirmed++;
	if (shared->confirmed + 1 == shared->open && shared->open_commits > 0 &&
		shared->published <= position)
	{
		close_mark();
		shared->confirmed++;
	}
	has_advanced |= shared->confirmed != before;
}

/* Release the lock, and wake those who wait for what is confirmed now. */
static void
release_lock(void)
{
	bool		wake = has_advanced;

	has_advanced = false;
	LWLockRelease(lock);
	if (wake)
		ConditionVariableBroadcast(&shared->advanced);
}

/*
 * Return true if the open mark is to be closed: after each commit, or, as the
 * marks run short, after so many.
 */
static bool
is_mark_due(void)
{
	int			unconfirmed = shared->open - 1 - shared->confirmed;

	if (unconfirmed >= MAX_UNCONFIRMED)
		return false;
	return shared->open_commits >= (unconfirmed < MAX_UNCONFIRMED / 2 ? 1 :
									unconfirmed < MAX_UNCONFIRMED * 3 / 4 ? 4 : 16);
}

/* Enter a partition into the list, if it is not there. */
static void
enter_into_list(PartitionState *state)
{
	if (pg_atomic_read_u32(&state->listed) != 0)
		return;
	Assert(shared->nlisted < pg_topics_max_partitions);
	shared->listed[shared->nlisted++] = topics_partition_state_index(state);
	pg_atomic_write_u32(&state->listed, 1);
}

/*
 * Get where a partition's log ended at the newest confirmed mark.  While the
 * end is not known, it is what was known before.
 */
static int64
get_confirmed_end(const PartitionState *state)
{
	int64		end;

	if (state->mark > shared->confirmed)
		return state->end_at_mark[shared->confirmed % HIGH_WATERMARK_MARKS];
	end = (int64) pg_atomic_read_u64((pg_atomic_uint64 *) &state->next_offset);
	return end == UNKNOWN_OFFSET ? state->confirmed_end : end;
}

/*
 * A partition's log gets another end, and its next_offset is still the old one.
 * All marks since its last publication are to remember that.
 */
static void
note_old_end(PartitionState *state)
{
	int64		old_end = (int64) pg_atomic_read_u64(&state->next_offset);

	enter_into_list(state);
	state->confirmed_end = topics_max(state->confirmed_end, get_confirmed_end(state));
	if (old_end == UNKNOWN_OFFSET)
		old_end = state->confirmed_end;
	for (uint64 mark = Max(state->mark, shared->confirmed); mark < shared->open; mark++)
		state->end_at_mark[mark % HIGH_WATERMARK_MARKS] = old_end;
	state->mark = shared->open;
}

/* A commit that ends at "lsn", or that much of WAL, was published. */
static void
note_published(XLogRecPtr lsn)
{
	uint64		mark = shared->open;

	shared->published = Max(shared->published, lsn);
	shared->open_commits++;
	if (shared->open - 1 - shared->confirmed >= MAX_UNCONFIRMED / 2)
		advance();
	if (shared->open == mark && is_mark_due())
		close_mark();
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
	if (likely(!topics_high_watermark_applies()))
		return;
	pg_memory_barrier();
	if (pg_atomic_read_u32(&state->listed) != 0)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	enter_into_list(state);
	LWLockRelease(lock);
}

/*
 * Begin to publish a commit.  Return true if the caller has to call
 * topics_high_watermark_publish for each of its partitions, and then
 * topics_high_watermark_end_publication.  In between the lock is held.
 */
bool
topics_high_watermark_begin_publication(void)
{
	if (likely(!topics_high_watermark_applies()))
		return false;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	return true;
}

/*
 * Note a partition that gets a new end.  Its next_offset is still the old one.
 */
void
topics_high_watermark_publish(PartitionState *state)
{
	Assert(LWLockHeldByMeInMode(lock, LW_EXCLUSIVE));
	note_old_end(state);
}

/*
 * The commit whose record ends at "lsn" is published.  Return its mark, for
 * topics_high_watermark_wait.
 */
uint64
topics_high_watermark_end_publication(XLogRecPtr lsn)
{
	uint64		mark = shared->open;

	note_published(lsn);
	release_lock();
	return mark;
}

/*
 * The log end of a partition was looked up, and is about to be stored, under
 * its append lock.  Return a position in WAL that all records below are covered
 * by: they are from before the server's start, or from foreign writers, whose
 * last commit the state knows, unless another one is in progress.
 *
 * Nobody knows what of it is confirmed, but for the offsets below
 * "confirmed_end".  The rest is when that position is.
 */
XLogRecPtr
topics_high_watermark_looked_up(PartitionState *state, int64 confirmed_end)
{
	bool		applies = topics_high_watermark_applies();
	XLogRecPtr	position;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (shared->started_at == InvalidXLogRecPtr)
		shared->started_at = GetFlushRecPtr(NULL);
	if (pg_atomic_read_u32(&state->foreign_commits) > 0)
		position = GetXLogInsertRecPtr();
	else
	{
		position = pg_atomic_read_u64(&state->commit_lsn);
		position = Max(position, shared->started_at);
	}
	if (applies && position > shared->granted)
	{
		state->confirmed_end = Max(state->confirmed_end, confirmed_end);
		state->found_at_mark = shared->open;
		note_old_end(state);
		note_published(position);
	}
	release_lock();
	return position;
}

/* Find out whether a mark is confirmed.  If it is not, have it closed. */
static bool
is_mark_confirmed(uint64 mark)
{
	bool		confirmed;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	advance();
	confirmed = shared->confirmed >= mark;
	if (!confirmed && mark == shared->open &&
		shared->open - 1 - shared->confirmed < MAX_UNCONFIRMED)
		close_mark();
	release_lock();
	return confirmed;
}

/* Return true if somebody has found a mark confirmed. */
static bool
is_mark_known_confirmed(uint64 mark)
{
	bool		confirmed;

	LWLockAcquire(lock, LW_SHARED);
	confirmed = shared->confirmed >= mark;
	LWLockRelease(lock);
	return confirmed;
}

/*
 * After a commit has waited for the standbys, as it does by SyncRepWaitForLSN:
 * wait until its mark is confirmed as well, so that its records can be read.
 * If the wait is cancelled this returns at once.  Raises nothing, and is not
 * ended by the postmaster's death here, where the commit is not complete.
 *
 * Nobody may be there to advance the mark, say if the commit at its position
 * did not wait.  So the waiter looks by itself now and then.
 */
void
topics_high_watermark_wait(uint64 mark)
{
	while (topics_high_watermark_applies() && !is_mark_confirmed(mark))
	{
		if (QueryCancelPending || ProcDiePending)
		{
			/* it was meant for the wait: the commit stands */
			QueryCancelPending = false;
			break;
		}
		/* a look that wakes others would take us out of the queue again */
		ConditionVariablePrepareToSleep(&shared->advanced);
		if (is_mark_known_confirmed(mark))
			break;
		if (WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_POSTMASTER_DEATH, MIN_POLL_MS,
					  WAIT_EVENT_SYNC_REP) & WL_POSTMASTER_DEATH)
			ProcDiePending = true;
		ResetLatch(MyLatch);
	}
	ConditionVariableCancelSleep();
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

	LWLockAcquire(lock, LW_EXCLUSIVE);
	advance();
	end = get_confirmed_end(state);
	release_lock();
	return end;
}

/*
 * Remove from the list, unless an append is in progress.  Return true if done.
 */
static bool
remove_from_list(int place, PartitionState *state)
{
	pg_atomic_write_u32(&state->listed, 0);
	pg_memory_barrier();
	if (pg_atomic_read_u32(&state->append_xid) != InvalidTransactionId ||
		pg_atomic_read_u32(&state->foreign_commits) != 0)
	{
		pg_atomic_write_u32(&state->listed, 1);
		return false;
	}
	shared->listed[place] = shared->listed[--shared->nlisted];
	return true;
}

/*
 * Make a cut: the partitions of this database in which something may be hidden,
 * each with the offset at which to stop.  "limits" has room for "room" of them;
 * *count is set to their number, and *mark to what is open now: a partition
 * whose end is looked up later is not among them.  Return false if there was
 * not enough room.
 */
bool
topics_high_watermark_cut(PartitionLimit *limits, int room, int *count, uint64 *mark)
{
	*count = 0;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	advance();
	*mark = shared->open;
	if (room < shared->nlisted)
	{
		release_lock();
		return false;
	}
	for (int place = 0; place < shared->nlisted;)
	{
		PartitionState *state = topics_partition_state_at(shared->listed[place]);

		bool		is_gone = !OidIsValid(state->id.database);

		if ((is_gone || (state->mark <= shared->confirmed &&
						 pg_atomic_read_u64(&state->next_offset) != UNKNOWN_OFFSET)) &&
			remove_from_list(place, state))
			continue;
		if (state->id.database == MyDatabaseId)
		{
			limits[*count].state = state;
			limits[(*count)++].limit = get_confirmed_end(state);
		}
		place++;
	}
	release_lock();
	return true;
}

/* Return how many partitions of all databases are in the list, about. */
int
topics_high_watermark_count_listed(void)
{
	return ((volatile HighWatermark *) shared)->nlisted;
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
 * Wait until all that is published now is confirmed, and return its mark.  The
 * wait can be cancelled.  It ends, too, when there are no synchronous standbys
 * any more.
 */
uint64
topics_high_watermark_wait_for_all(void)
{
	uint64		mark;
	int			polls = 0;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	mark = shared->open_commits > 0 ? shared->open : shared->open - 1;
	LWLockRelease(lock);
	while (topics_high_watermark_applies() && !is_mark_confirmed(mark))
		topics_high_watermark_nap(&polls);
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

	if (!topics_high_watermark_applies())
		return;
	XLogFlush(position);
	while (topics_high_watermark_applies() && get_confirmed_position() < position)
		topics_high_watermark_nap(&polls);
}
