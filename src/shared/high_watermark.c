/*-------------------------------------------------------------------------
 *
 * high_watermark.c
 *		How far the log is confirmed, by synchronous standbys and by followers.
 *
 * With early lock release a commit is visible, and published, before a standby
 * has it; and a cluster's followers read only what is published.  If the server
 * is lost then, the standby that is promoted gives its offsets to other
 * records.  So where synchronous_standby_names is set, or a cluster wants a
 * number of followers to confirm (acks_followers), no reader goes beyond what is
 * confirmed, whatever the producer waited for: Kafka's high watermark.  Without
 * both nothing here is done: two flags are read.
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
 * SLOTS.  A database that is a node of a cluster has marks of its own, since it
 * waits for others than the rest of the server: a slot, taken when the first
 * process looks into its topic_log.cluster (log/cluster.c).  The first slot is of
 * all other databases.  A slot changes hands under its lock and the first one's,
 * and "changes" tells each process to look for its own again.
 *
 * ON A NODE THAT LEADS each publication is also noted in the feed, a ring of
 * partitions' places.  A follower's session (node/replica_feed.c) reads from it
 * which partitions have moved, and where they end, all under the lock: a cut at
 * which no transaction is torn.  The cut closes the open mark.  A follower that
 * has made a cut durable confirms its mark, and with it all that was published
 * up to then.  A mark is confirmed when as many followers as are wanted have
 * confirmed it or a later one; and the standbys, if there are any.  A follower that
 * does not have all of some partition says so before it confirms: its confirmations
 * are not about that one (excluded_by), whose end stays where it is until enough
 * others have it, or this one does.
 *
 * ON A NODE THAT FOLLOWS the replicator closes a mark when a cut of the leader's
 * is here as a whole, and gives it the newest of the leader's marks that has a
 * commit in the cut.  A cut that took several transactions here is remembered for a
 * while: a snapshot that sees some of them and not all must not be used once it is
 * confirmed (log/read_cut.c).  Readers go as far as the newest mark whose number the
 * leader has said to be confirmed.  The leader's numbers begin anew when it is
 * restarted: what had one of before waits for the next cut.
 *
 * WHEN THE SETTING CHANGES, the first process to notice starts or stops all
 * this.  What was committed before ("granted") counts as confirmed: it could be
 * read already.  A server that starts with the setting begins with nothing
 * confirmed but what the catalogue knows to be (next_offset_floor).
 *
 * LOCKING.  A slot's lock (an LWLock) comes after the append locks.  Under it
 * nothing is acquired but SyncRepLock, and a higher slot's.  It guards the slot,
 * and for the partitions of its databases the group of fields in PartitionState
 * that is named after it.  The registry lock comes before slots' locks, and
 * guards which database has which.
 *
 * See docs/decisions/0011-high-watermark.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/timeline.h"
#include "access/xlog.h"
#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
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

#define SLOTS (1 + MAX_CLUSTERS)
#define FEED_LENGTH 1024		/* publications that a follower may lag behind
								 * without a look at all partitions */
#define LINGER_MS 5				/* until a follower is told of nothing but
								 * what is confirmed */
#define STALE_MARK PG_UINT64_MAX	/* of a leader that was restarted */
#define ALL_MARKS ((uint64) PG_INT64_MAX)	/* where nothing is to be
											 * confirmed */

typedef struct HighWatermark
{
	Oid			database;		/* a node's; InvalidOid: free, or the first
								 * slot */
	ClusterKind kind;
	int			acks_followers; /* that a commit waits for, of a leader */
	bool		has_epoch;		/* a leader's: begun since the server's start */
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
	ConditionVariable confirmed_cv[HIGH_WATERMARK_MARKS];	/* of marks, by number
															 * modulo: they are
															 * confirmed */

	/*
	 * of a follower: local transactions of the open mark, and earlier long
	 * cuts
	 */
	TransactionId first_xid;	/* invalid: none */
	TransactionId last_xid;
	uint64		nlong;			/* that there were */
	LongCut		long_cuts[MAX_LONG_CUTS];	/* by number modulo */

	uint64		fed;			/* publications, of a leader */
	int			feed[FEED_LENGTH];	/* places of partitions, by number modulo */
	ConditionVariable feed_cv;	/* there are more, or "confirmed" is another */

	int			nlisted;
	int			listed[FLEXIBLE_ARRAY_MEMBER];	/* places of partitions */
} HighWatermark;

typedef struct SlotTable
{
	pg_atomic_uint32 changes;	/* of which database has which slot */
	uint32		row_changes;	/* of rows of topic_log.cluster (registry
								 * lock) */
	pg_atomic_uint64 start_position;	/* in WAL; 0: nobody has asked */
} SlotTable;

static SlotTable *table = NULL;
static LWLockPadded *locks = NULL;	/* of the slots, then that of the registry */

/* This process's slot, as of so many changes. */
static HighWatermark *shared = NULL;
static LWLock *lock = NULL;
static int	own_slot = 0;
static uint32 changes_seen = 0;

static uint64 confirmed_before; /* when this process got the lock */

static Size
compute_slot_size(void)
{
	return MAXALIGN(add_size(offsetof(HighWatermark, listed),
							 mul_size(pg_topics_max_partitions, sizeof(int))));
}

static Size
compute_shared_size(void)
{
	return add_size(MAXALIGN(sizeof(SlotTable)), mul_size(SLOTS, compute_slot_size()));
}

static HighWatermark *
get_slot(int number)
{
	return (HighWatermark *) ((char *) table + MAXALIGN(sizeof(SlotTable)) +
							  number * compute_slot_size());
}

/* shmem_request_hook */
void
topics_high_watermark_shmem_request(void)
{
	RequestAddinShmemSpace(MAXALIGN(compute_shared_size()));
	RequestNamedLWLockTranche("pg_topics_high_watermark", SLOTS + 1);
}

/* Return true if commits have to wait for synchronous standbys. */
bool
topics_high_watermark_has_standbys(void)
{
	return max_wal_senders > 0 && topics_sync_standbys_defined();
}

/* Return true if readers stop at what is confirmed. */
static bool
has_confirmation(const HighWatermark *slot)
{
	return slot->kind == CLUSTER_FOLLOWER ||
		(slot->kind == CLUSTER_LEADER && slot->acks_followers > 0) ||
		topics_high_watermark_has_standbys();
}

/*
 * Begin with a slot of which nothing is published, and so nothing is known to be
 * confirmed.
 */
static void
begin_slot(HighWatermark *slot, Oid database, ClusterKind kind, int acks_followers)
{
	memset(slot, 0, offsetof(HighWatermark, confirmed_cv));
	slot->database = database;
	slot->kind = kind;
	slot->acks_followers = acks_followers;
	slot->applies = has_confirmation(slot);
	slot->open = 1;
	slot->fed = 0;
	slot->nlisted = 0;
}

/* shmem_startup_hook; the caller holds AddinShmemInitLock. */
void
topics_high_watermark_shmem_startup(void)
{
	bool		found;

	locks = GetNamedLWLockTranche("pg_topics_high_watermark");
	table = ShmemInitStruct("pg_topics high watermark", compute_shared_size(), &found);
	if (!found)
	{
		memset(table, 0, sizeof(SlotTable));
		pg_atomic_init_u32(&table->changes, 1);
		pg_atomic_init_u64(&table->start_position, 0);
		for (int i = 0; i < SLOTS; i++)
		{
			begin_slot(get_slot(i), InvalidOid, CLUSTER_NONE, 0);
			for (int j = 0; j < HIGH_WATERMARK_MARKS; j++)
				ConditionVariableInit(&get_slot(i)->confirmed_cv[j]);
			ConditionVariableInit(&get_slot(i)->feed_cv);
		}
		get_slot(0)->applies = max_wal_senders > 0 && topics_sync_standbys_set();
	}
}

/* ----------------------------------------------------------------
 *		Slots
 * ----------------------------------------------------------------
 */

/* Find the slot of a database: the first, if it has none of its own. */
static int
find_slot(Oid database)
{
	for (int i = 1; OidIsValid(database) && i < SLOTS; i++)
	{
		if (get_slot(i)->database == database)
			return i;
	}
	return 0;
}

/* Find this process's slot, if any has changed hands. */
static inline void
choose_slot(void)
{
	uint32		changes = pg_atomic_read_u32(&table->changes);

	if (likely(changes == changes_seen))
		return;
	pg_read_barrier();
	own_slot = find_slot(MyDatabaseId);
	shared = get_slot(own_slot);
	lock = &locks[own_slot].lock;
	changes_seen = changes;
}

/* Acquire the lock of this process's slot. */
static void
acquire_lock(LWLockMode mode)
{
	for (;;)
	{
		choose_slot();
		LWLockAcquire(lock, mode);
		if (likely(changes_seen == pg_atomic_read_u32(&table->changes)))
			break;
		LWLockRelease(lock);
	}
	confirmed_before = shared->confirmed;
}

/* Wake all processes that wait for one of a slot's marks: let them look. */
static void
wake_waiters(HighWatermark *slot)
{
	for (int i = 0; i < HIGH_WATERMARK_MARKS; i++)
		ConditionVariableBroadcast(&slot->confirmed_cv[i]);
	ConditionVariableBroadcast(&slot->feed_cv);
}

/*
 * Give a slot, or the first one, to a database's partitions.  The caller holds
 * the registry lock.  Ends of logs are looked up anew afterwards.
 */
static void
move_database(Oid database, int from, int to, ClusterKind kind, int acks_followers)
{
	int			low = Min(from, to);
	int			high = Max(from, to);

	LWLockAcquire(&locks[low].lock, LW_EXCLUSIVE);
	LWLockAcquire(&locks[high].lock, LW_EXCLUSIVE);
	topics_partition_state_forget_marks(database);
	if (from > 0)
	{
		for (int i = 0; i < get_slot(from)->nlisted; i++)
			pg_atomic_fetch_and_u32(&topics_partition_state_at(get_slot(from)->listed[i])->listed,
									~(1 << from));
		get_slot(from)->database = InvalidOid;
	}
	if (to > 0)
		begin_slot(get_slot(to), database, kind, acks_followers);
	pg_atomic_fetch_add_u32(&table->changes, 1);
	LWLockRelease(&locks[high].lock);
	LWLockRelease(&locks[low].lock);
	wake_waiters(get_slot(high));
}

/* Find a slot that no database has; 0 if there is none. */
static int
find_free_slot(void)
{
	for (int i = 1; i < SLOTS; i++)
	{
		if (!OidIsValid(get_slot(i)->database))
			return i;
	}
	return 0;
}

/* ----------------------------------------------------------------
 *		The server's start
 * ----------------------------------------------------------------
 */

/*
 * Find where this start of the server has begun to write WAL: behind all that
 * earlier ones have left, and below all that this one commits.  Recovery ends with
 * a checkpoint there; with a promotion there is none, but a timeline begins.  The
 * launcher asks first, before there is another checkpoint.
 */
static XLogRecPtr
find_start_position(void)
{
	bool		crc_is_right;
	ControlFileData *control = get_controlfile(DataDir, &crc_is_right);
	XLogRecPtr	result = control->checkPointCopy.redo;
	List	   *history = readTimeLineHistory(GetWALInsertionTimeLine());

	if (!crc_is_right)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("could not read pg_control")));
	result = topics_max(result, ((TimeLineHistoryEntry *) linitial(history))->begin);
	list_free_deep(history);
	pfree(control);
	return result;
}

/* Get the position in WAL at which this start of the server has begun. */
XLogRecPtr
topics_high_watermark_start_position(void)
{
	uint64		result = pg_atomic_read_u64(&table->start_position);
	uint64		unknown = 0;

	if (likely(result != 0))
		return result;
	result = find_start_position();
	return pg_atomic_compare_exchange_u64(&table->start_position, &unknown, result) ? result : unknown;
}

/*
 * Return true unless this node leads and has begun no epoch since the server's
 * start: its next commit with records does.
 */
bool
topics_high_watermark_has_epoch(void)
{
	choose_slot();
	return shared->kind != CLUSTER_LEADER || shared->has_epoch;
}

/* A transaction has begun an epoch, and is committed.  Raises nothing. */
void
topics_high_watermark_note_epoch(void)
{
	acquire_lock(LW_EXCLUSIVE);
	shared->has_epoch = true;
	LWLockRelease(lock);
}

/* Get what this database is in a cluster, as far as shared memory knows. */
ClusterKind
topics_high_watermark_kind(void)
{
	choose_slot();
	return shared->kind;
}

/* ----------------------------------------------------------------
 *		Whether it applies
 * ----------------------------------------------------------------
 */

/* Start or stop, now that the setting has changed. */
static void
follow_setting(void)
{
	bool		applies;

	acquire_lock(LW_EXCLUSIVE);
	applies = has_confirmation(shared);
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
	bool		applies;

	choose_slot();
	applies = has_confirmation(shared);
	if (unlikely(applies != shared->applies))
		follow_setting();
	return applies;
}

/* Return how many followers a commit of this database waits for. */
int
topics_high_watermark_acks_followers(void)
{
	choose_slot();
	return shared->kind == CLUSTER_LEADER ? shared->acks_followers : 0;
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

/* Get the position up to which the standbys have confirmed, if there are any. */
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
 * Get the newest mark that enough followers have confirmed, but for those that are
 * in "except", by their bits.
 */
static uint64
get_followers_mark(uint32 except)
{
	uint64		marks[MAX_FOLLOWERS];
	int			count = 0;

	if (shared->kind != CLUSTER_LEADER || shared->acks_followers == 0)
		return ALL_MARKS;
	if (shared->acks_followers > MAX_FOLLOWERS)
		return 0;
	/* from the newest on, as many as are wanted */
	for (int i = 0; i < MAX_FOLLOWERS; i++)
	{
		uint64		mark = (except & (1 << i)) != 0 ? 0 : shared->follower_marks[i];
		int			place = count++;

		for (; place > 0 && marks[place - 1] < mark; place--)
			marks[place] = marks[place - 1];
		marks[place] = mark;
	}
	return marks[shared->acks_followers - 1];
}

/*
 * Find out which marks are confirmed by now; then let release_lock release.  A
 * follower is told by topics_high_watermark_follow.
 */
static void
advance(void)
{
	XLogRecPtr	position = get_confirmed_position();
	uint64		mark = get_followers_mark(0);

	if (shared->kind == CLUSTER_FOLLOWER)
		return;
	while (shared->confirmed + 1 < shared->open && shared->confirmed < mark &&
		   shared->positions[(shared->confirmed + 1) % HIGH_WATERMARK_MARKS] <= position)
		shared->confirmed++;
	if (shared->confirmed + 1 == shared->open && shared->open_commits > 0 &&
		mark == ALL_MARKS && shared->published <= position)
	{
		close_mark();
		shared->confirmed++;
	}
}

/* Release the lock, and wake those who wait for what is confirmed now. */
static void
release_lock(void)
{
	uint64		confirmed = shared->confirmed;
	uint64		mark = confirmed_before;

	LWLockRelease(lock);
	if (confirmed == mark)
		return;
	mark = Max(mark, confirmed - Min(confirmed, HIGH_WATERMARK_MARKS));
	while (mark++ < confirmed)
		ConditionVariableBroadcast(&shared->confirmed_cv[mark % HIGH_WATERMARK_MARKS]);
	if (shared->kind == CLUSTER_LEADER)
		ConditionVariableBroadcast(&shared->feed_cv);
}

/* Return true if one more mark can be closed. */
static bool
has_free_mark(void)
{
	return shared->open - 1 - shared->confirmed < MAX_UNCONFIRMED;
}

/*
 * Return true if the open mark is to be closed: after each commit, or, as the
 * marks run short, after so many.  Where only followers confirm, their cuts close
 * marks.
 */
static bool
is_mark_due(void)
{
	int			unconfirmed = shared->open - 1 - shared->confirmed;

	if (!has_free_mark() || !topics_high_watermark_has_standbys() ||
		shared->kind == CLUSTER_FOLLOWER)
		return false;
	return shared->open_commits >= (unconfirmed < MAX_UNCONFIRMED / 2 ? 1 :
									unconfirmed < MAX_UNCONFIRMED * 3 / 4 ? 4 : 16);
}

/* Return true if a partition is in the slot's list. */
static bool
is_listed(PartitionState *state)
{
	return (pg_atomic_read_u32(&state->listed) & (1 << own_slot)) != 0;
}

/* Enter a partition into the list, if it is not there. */
static void
enter_into_list(PartitionState *state)
{
	if (is_listed(state))
		return;
	Assert(shared->nlisted < pg_topics_max_partitions);
	shared->listed[shared->nlisted++] = topics_partition_state_index(state);
	pg_atomic_fetch_or_u32(&state->listed, 1 << own_slot);
}

/*
 * Get where a partition's log ended at the newest confirmed mark.  While the
 * end is not known, it is what was known before.
 */
static int64
get_end_at_confirmed_mark(const PartitionState *state)
{
	int64		end;

	if (state->mark > shared->confirmed)
		return state->end_at_mark[shared->confirmed % HIGH_WATERMARK_MARKS];
	end = (int64) pg_atomic_read_u64((pg_atomic_uint64 *) &state->next_offset);
	return end == UNKNOWN_OFFSET ? state->confirmed_end : end;
}

/*
 * Get how far a partition is confirmed.  If what some followers say does not go for
 * it, and the others are too few or behind, that is as far as it was.
 */
static int64
get_confirmed_end(PartitionState *state)
{
	if (likely(state->excluded_by == 0))
		return get_end_at_confirmed_mark(state);
	if (get_followers_mark(state->excluded_by) >= shared->confirmed)
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
 *		Which database has which slot
 * ----------------------------------------------------------------
 */

/*
 * This database is what its row of topic_log.cluster says.  Return false if no
 * slot is left.  The caller holds the registry lock.
 */
static bool
set_kind(ClusterKind kind, int acks_followers)
{
	int			number = find_slot(MyDatabaseId);

	if (number > 0 && get_slot(number)->kind != kind)
	{
		move_database(MyDatabaseId, number, 0, CLUSTER_NONE, 0);
		number = 0;
	}
	if (kind == CLUSTER_NONE)
		return true;
	if (number == 0)
	{
		number = find_free_slot();
		if (number == 0)
			return false;
		move_database(MyDatabaseId, 0, number, kind, acks_followers);
	}
	acquire_lock(LW_EXCLUSIVE);
	shared->acks_followers = acks_followers;
	advance();
	release_lock();
	/* who waits looks whether it still has to */
	wake_waiters(get_slot(number));
	return true;
}

/* Get the number of changes of rows, for topics_high_watermark_attend. */
uint32
topics_high_watermark_row_changes(void)
{
	uint32		result;

	LWLockAcquire(&locks[SLOTS].lock, LW_SHARED);
	result = table->row_changes;
	LWLockRelease(&locks[SLOTS].lock);
	return result;
}

static void
report_no_slot(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("too many databases of this server are nodes of clusters"),
			 errdetail("There may be %d.", MAX_CLUSTERS)));
}

/* Require that this database has a slot, or can have one. */
void
topics_high_watermark_require_slot(void)
{
	bool		found;

	LWLockAcquire(&locks[SLOTS].lock, LW_SHARED);
	found = find_slot(MyDatabaseId) > 0 || find_free_slot() > 0;
	LWLockRelease(&locks[SLOTS].lock);
	if (!found)
		report_no_slot();
}

/*
 * This database's row was read, after so many changes of rows.  Return false if
 * there was another one since: then it is to be read again.
 */
bool
topics_high_watermark_attend(ClusterKind kind, int acks_followers, uint32 row_changes)
{
	bool		counts;
	bool		done = true;

	LWLockAcquire(&locks[SLOTS].lock, LW_EXCLUSIVE);
	counts = row_changes == table->row_changes;
	if (counts)
		done = set_kind(kind, acks_followers);
	LWLockRelease(&locks[SLOTS].lock);
	if (!done)
		report_no_slot();
	return counts;
}

/* This database's row has changed, by a commit.  Raises nothing. */
void
topics_high_watermark_row_changed(ClusterKind kind, int acks_followers)
{
	LWLockAcquire(&locks[SLOTS].lock, LW_EXCLUSIVE);
	table->row_changes++;
	(void) set_kind(kind, acks_followers);
	LWLockRelease(&locks[SLOTS].lock);
	topics_high_watermark_applies();
}

/* A database is no more.  Raises nothing. */
void
topics_high_watermark_forget_database(Oid database)
{
	int			number;

	LWLockAcquire(&locks[SLOTS].lock, LW_EXCLUSIVE);
	number = find_slot(database);
	if (number > 0)
		move_database(database, number, 0, CLUSTER_NONE, 0);
	LWLockRelease(&locks[SLOTS].lock);
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
	if (is_listed(state))
		return;
	acquire_lock(LW_EXCLUSIVE);
	enter_into_list(state);
	LWLockRelease(lock);
}

/* Note in the feed that something of a partition has changed. */
static void
feed_followers(PartitionState *state)
{
	shared->feed[shared->fed++ % FEED_LENGTH] = topics_partition_state_index(state);
}

/*
 * Begin to publish a commit.  Return true if the caller has to call
 * topics_high_watermark_publish for each of its partitions, and then
 * topics_high_watermark_end_publication.  In between the lock is held.
 */
bool
topics_high_watermark_begin_publication(void)
{
	if (likely(!topics_high_watermark_applies() && shared->kind != CLUSTER_LEADER))
		return false;
	acquire_lock(LW_EXCLUSIVE);
	return true;
}

/*
 * Note a partition that gets a new end.  Its next_offset is still the old one.
 */
void
topics_high_watermark_publish(PartitionState *state)
{
	Assert(LWLockHeldByMeInMode(lock, LW_EXCLUSIVE));
	if (shared->applies)
		note_old_end(state);
	if (shared->kind == CLUSTER_LEADER)
		feed_followers(state);
}

/*
 * The commit whose record ends at "lsn" is published.  Return its mark, for
 * topics_high_watermark_wait, or 0 if there is nothing to wait for.
 */
uint64
topics_high_watermark_end_publication(XLogRecPtr lsn)
{
	uint64		mark = 0;
	bool		feeds = shared->kind == CLUSTER_LEADER;

	if (shared->applies)
	{
		mark = shared->open;
		note_published(lsn);
	}
	if (shared->kind == CLUSTER_FOLLOWER)
	{
		shared->last_xid = GetTopTransactionIdIfAny();
		if (!TransactionIdIsValid(shared->first_xid))
			shared->first_xid = shared->last_xid;
	}
	release_lock();
	if (feeds)
		ConditionVariableBroadcast(&shared->feed_cv);
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
	XLogRecPtr	start = topics_high_watermark_start_position();
	XLogRecPtr	position;

	acquire_lock(LW_EXCLUSIVE);
	if (pg_atomic_read_u32(&state->foreign_commits) > 0)
		position = GetXLogInsertRecPtr();
	else
	{
		position = pg_atomic_read_u64(&state->commit_lsn);
		position = Max(position, start);
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

/*
 * Return true if somebody has found a mark confirmed.  It only rises, and is
 * written in one piece.
 */
static bool
is_mark_known_confirmed(uint64 mark)
{
	return *(volatile uint64 *) &shared->confirmed >= mark;
}

/* Find out whether a mark is confirmed.  If it is not, have it closed. */
static bool
is_mark_confirmed(uint64 mark)
{
	bool		confirmed;

	if (is_mark_known_confirmed(mark))
		return true;
	/* followers' sessions close marks, and find them confirmed */
	if (!topics_high_watermark_has_standbys() || shared->kind == CLUSTER_FOLLOWER)
		return false;
	acquire_lock(LW_EXCLUSIVE);
	advance();
	confirmed = shared->confirmed >= mark;
	if (!confirmed && mark == shared->open && has_free_mark())
		close_mark();
	release_lock();
	return confirmed;
}

/*
 * After a commit has waited for the standbys, as it does by SyncRepWaitForLSN:
 * wait until its mark is confirmed as well, so that its records can be read; and
 * until "check", if there is one, says that this goes for all of them.  Return
 * false if it is not, since the wait was cancelled or has come to its
 * time.  Raises nothing, and is not ended by the postmaster's death here, where
 * the commit is not complete.
 *
 * Nobody may be there to advance the mark, say if the commit at its position
 * did not wait.  So the waiter looks by itself now and then.
 */
bool
topics_high_watermark_wait(uint64 mark, HighWatermarkCheck check, MonotonicTime until)
{
	bool		confirmed;

	for (;;)
	{
		confirmed = !topics_high_watermark_applies() ||
			(is_mark_confirmed(mark) && (check == NULL || check()));
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
		ConditionVariablePrepareToSleep(&shared->confirmed_cv[mark % HIGH_WATERMARK_MARKS]);
		if (is_mark_known_confirmed(mark) && (check == NULL || check()))
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
 *		A leader's followers
 * ----------------------------------------------------------------
 */

/*
 * Something of a partition has become another outside of a commit's publication:
 * its log start, or an end that was looked up.  Raises nothing.
 */
void
topics_high_watermark_note_moved(PartitionState *state)
{
	choose_slot();
	if (likely(shared->kind != CLUSTER_LEADER))
		return;
	acquire_lock(LW_EXCLUSIVE);
	feed_followers(state);
	LWLockRelease(lock);
	ConditionVariableBroadcast(&shared->feed_cv);
}

/* Add a partition to a cut, if it is this database's. */
static void
add_to_cut(FollowerCut *cut, int place)
{
	PartitionState *state = topics_partition_state_at(place);

	if (state->id.database != MyDatabaseId)
		return;
	Assert(cut->count < cut->room);
	cut->ends[cut->count].id = state->id;
	cut->ends[cut->count].log_start = pg_atomic_read_u64(&state->log_start_offset);
	cut->ends[cut->count++].log_end = pg_atomic_read_u64(&state->next_offset);
}

/* Get the newest mark that has a commit. */
static uint64
get_newest_mark(void)
{
	return shared->open_commits > 0 ? shared->open : shared->open - 1;
}

/* Get the mark up to which a follower may show what it has. */
static uint64
get_mark_to_show(void)
{
	return shared->applies ? shared->confirmed : ALL_MARKS;
}

/* Get the room that a cut may need. */
int
topics_high_watermark_cut_room(const FollowerCut *cut)
{
	return cut->wants_all ? pg_topics_max_partitions : FEED_LENGTH;
}

/*
 * Make a cut for a follower: the partitions that have moved since its last one,
 * or all, and where they start and end.  Return false if these are too many, and
 * all are wanted.
 */
bool
topics_high_watermark_make_follower_cut(FollowerCut *cut)
{
	bool		done;

	cut->count = 0;
	acquire_lock(LW_EXCLUSIVE);
	done = cut->wants_all || shared->fed - cut->fed <= FEED_LENGTH;
	if (!done)
		cut->wants_all = true;
	else
	{
		if (shared->open_commits > 0 && has_free_mark())
			close_mark();
		advance();
		cut->mark = shared->open - 1;
		cut->newest_mark = get_newest_mark();
		cut->confirmed = get_mark_to_show();
		if (cut->wants_all)
		{
			for (int i = 0; i < pg_topics_max_partitions; i++)
				add_to_cut(cut, i);
		}
		else
		{
			for (; cut->fed < shared->fed; cut->fed++)
				add_to_cut(cut, shared->feed[cut->fed % FEED_LENGTH]);
		}
		cut->fed = shared->fed;
		cut->wants_all = false;
	}
	release_lock();
	return done;
}

/*
 * Wait until a follower can be told something that it was not told with its last
 * cut, or until the time is over.  The wait can be interrupted.
 */
void
topics_high_watermark_wait_for_feed(const FollowerCut *cut, MonotonicTime until)
{
	MonotonicTime linger_until = NEVER;

	choose_slot();
	ConditionVariablePrepareToSleep(&shared->feed_cv);
	for (;;)
	{
		bool		has_news;
		long		left;

		CHECK_FOR_INTERRUPTS();
		acquire_lock(LW_SHARED);
		has_news = shared->kind != CLUSTER_LEADER || shared->fed != cut->fed ||
			(shared->applies && get_newest_mark() > cut->mark && has_free_mark());
		if (get_mark_to_show() != cut->confirmed && linger_until == NEVER)
			linger_until = topics_clock_in(LINGER_MS);
		LWLockRelease(lock);
		left = (long) topics_clock_ms_until(topics_min(until, linger_until));
		if (has_news || left <= 0)
			break;
		(void) ConditionVariableTimedSleep(&shared->feed_cv, left,
										   topics_wait_event_get(WAIT_REPLICA_FEED));
	}
	ConditionVariableCancelSleep();
}

/*
 * A follower does not have all of a partition: what it confirms from now on is not
 * about that.
 */
void
topics_high_watermark_exclude(int follower, PartitionState *state)
{
	acquire_lock(LW_EXCLUSIVE);
	advance();
	state->confirmed_end = topics_max(state->confirmed_end, get_confirmed_end(state));
	state->excluded_by |= 1 << follower;
	shared->exclusions |= 1 << follower;
	if (shared->applies)
		enter_into_list(state);
	release_lock();
}

/* What a follower is about to confirm is about a partition, too. */
void
topics_high_watermark_include(int follower, PartitionState *state)
{
	acquire_lock(LW_EXCLUSIVE);
	state->excluded_by &= ~(1 << follower);
	release_lock();
}

/* Return true if what followers confirm may not be about all partitions. */
bool
topics_high_watermark_has_exclusions(void)
{
	return *(volatile uint32 *) &shared->exclusions != 0;
}

/* A follower has made durable what was published up to a mark. */
void
topics_high_watermark_confirm(int follower, uint64 mark)
{
	acquire_lock(LW_EXCLUSIVE);
	if (shared->kind == CLUSTER_LEADER && shared->follower_marks[follower] < mark &&
		mark < shared->open)
		shared->follower_marks[follower] = mark;
	advance();
	release_lock();
}

/* A follower's number is nobody's, or another one's.  Raises nothing. */
void
topics_high_watermark_forget_follower(int follower)
{
	acquire_lock(LW_EXCLUSIVE);
	shared->follower_marks[follower] = 0;
	LWLockRelease(lock);
}

/* ----------------------------------------------------------------
 *		A follower
 * ----------------------------------------------------------------
 */

/* The leader's marks, as it had told them, say nothing any more. */
void
topics_high_watermark_forget_leader(void)
{
	acquire_lock(LW_EXCLUSIVE);
	for (uint64 mark = shared->confirmed + 1; mark < shared->open; mark++)
		shared->positions[mark % HIGH_WATERMARK_MARKS] = STALE_MARK;
	LWLockRelease(lock);
}

/* The open mark is about to be closed: note which transactions are in it, if there
 * are several. */
static void
note_long_cut(void)
{
	LongCut    *cut = &shared->long_cuts[shared->nlong % MAX_LONG_CUTS];

	if (shared->first_xid != shared->last_xid)
	{
		cut->mark = shared->open;
		cut->first_xid = shared->first_xid;
		cut->last_xid = shared->last_xid;
		shared->nlong++;
	}
	shared->first_xid = shared->last_xid = InvalidTransactionId;
}

/*
 * All that is published here is a cut of the leader's, whose newest mark this
 * was: it may be shown when that is confirmed.
 */
void
topics_high_watermark_end_leader_cut(uint64 newest_mark)
{
	acquire_lock(LW_EXCLUSIVE);
	if (shared->kind == CLUSTER_FOLLOWER)
	{
		/* this cut has what earlier leaders' cuts had */
		for (uint64 mark = shared->confirmed + 1; mark < shared->open; mark++)
			if (shared->positions[mark % HIGH_WATERMARK_MARKS] == STALE_MARK)
				shared->positions[mark % HIGH_WATERMARK_MARKS] = newest_mark;
		if (shared->open_commits > 0 && has_free_mark())
		{
			note_long_cut();
			close_mark();
			shared->positions[(shared->open - 1) % HIGH_WATERMARK_MARKS] = newest_mark;
		}
		else if (shared->open_commits == 0 && shared->confirmed + 1 < shared->open)
		{
			uint64	   *position = &shared->positions[(shared->open - 1) % HIGH_WATERMARK_MARKS];

			*position = Min(*position, newest_mark);
		}
	}
	LWLockRelease(lock);
}

/* The leader says that all up to one of its marks may be shown. */
void
topics_high_watermark_follow(uint64 leader_mark)
{
	acquire_lock(LW_EXCLUSIVE);
	if (shared->kind == CLUSTER_FOLLOWER)
	{
		for (uint64 mark = shared->open - 1; mark > shared->confirmed; mark--)
		{
			if (shared->positions[mark % HIGH_WATERMARK_MARKS] > leader_mark)
				continue;
			shared->confirmed = mark;
			break;
		}
	}
	release_lock();
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

	acquire_lock(LW_EXCLUSIVE);
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
	pg_atomic_fetch_and_u32(&state->listed, ~(1 << own_slot));
	pg_memory_barrier();
	if (find_slot(state->id.database) == own_slot &&
		(pg_atomic_read_u32(&state->append_xid) != InvalidTransactionId ||
		 pg_atomic_read_u32(&state->foreign_commits) != 0))
	{
		pg_atomic_fetch_or_u32(&state->listed, 1 << own_slot);
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
	acquire_lock(LW_EXCLUSIVE);
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

		bool		is_gone = !OidIsValid(state->id.database) ||
			find_slot(state->id.database) != own_slot;

		if ((is_gone || (state->mark <= shared->confirmed && state->excluded_by == 0 &&
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

/*
 * On a follower: copy the long cuts that are confirmed, the latest ones; return their
 * number.  *is_all says whether there were no others.
 */
int
topics_high_watermark_long_cuts(LongCut *cuts, bool *is_all)
{
	int			count = 0;

	acquire_lock(LW_SHARED);
	*is_all = shared->nlong <= MAX_LONG_CUTS;
	for (uint64 i = *is_all ? 0 : shared->nlong - MAX_LONG_CUTS; i < shared->nlong; i++)
	{
		if (shared->long_cuts[i % MAX_LONG_CUTS].mark <= shared->confirmed)
			cuts[count++] = shared->long_cuts[i % MAX_LONG_CUTS];
	}
	LWLockRelease(lock);
	return count;
}

/* Return how many partitions of all databases are in the list, about. */
int
topics_high_watermark_count_listed(void)
{
	choose_slot();
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

	acquire_lock(LW_SHARED);
	mark = get_newest_mark();
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

	if (!topics_high_watermark_has_standbys())
		return;
	XLogFlush(position);
	while (get_confirmed_position() < position)
		topics_high_watermark_nap(&polls);
}
