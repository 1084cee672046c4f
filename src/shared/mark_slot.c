/*-------------------------------------------------------------------------
 *
 * mark_slot.c
 *		Which database has marks of its own, and what it is in a cluster.
 *
 * The marks of high_watermark.c are those of all databases of the server, but
 * a database that is a node of a cluster has marks of its own, since it waits
 * for others than the rest: a slot for each leader set, taken when the first
 * process looks into its topic_log.cluster (log/cluster.c).  The first slot is
 * of all other databases.  A slot changes hands under its lock and the first
 * one's, and "changes" tells each process to look for its own again.
 *
 * A LEADER SET has the partitions that one node leads, and this node is a
 * leader, or follows, of each by itself.  A process acts for one set at a time
 * (topics_leader_set): for set 0, which has the metadata and all that is not
 * spread, unless it has said otherwise.  What is about a partition goes by
 * that one's set, whatever the process acts for.
 *
 * LOCKING.  A slot's lock (an LWLock) comes after the append locks.  Under it
 * nothing is acquired but SyncRepLock, and a higher slot's.  It guards the
 * slot, and for the partitions of its databases the group of fields in
 * PartitionState that is named after it.  The registry lock comes before
 * slots' locks, and guards which database has which.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/timeline.h"
#include "access/transam.h"
#include "access/xlog.h"
#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "miscadmin.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"
#include "shared/mark_slot.h"

#define SLOTS (1 + MAX_CLUSTER_SLOTS)
#define FROZEN_LOOK_MS 100

typedef struct SlotTable
{
	pg_atomic_uint32 changes;	/* of which database has which slot */
	pg_atomic_uint64 generations;	/* that slots have had */
	uint32		row_changes;	/* of rows of topic_log.cluster (registry
								 * lock) */
	ConditionVariable row_cv;	/* these */
	pg_atomic_uint64 start_position;	/* in WAL; 0: nobody has asked */
} SlotTable;

static const ClusterFacts no_cluster = {CLUSTER_NONE};

static uint32 newcomer = 0;		/* the bit of a follower that is going to
								 * count */

static SlotTable *table = NULL;
static LWLockPadded *locks = NULL;	/* of the slots, then that of the registry */

int			topics_leader_set = 0;	/* that this process acts for */

/*
 * The slot that this process has chosen last, for a set, as of so many
 * changes.
 */
HighWatermark *topics_mark_slot = NULL;
static LWLock *lock = NULL;
static int	own_slot = 0;
static int	chosen_set = -1;
static int	slot_of_set[MAX_LEADER_SETS];	/* of this database */
static uint32 own_sets = 1;		/* those that have a slot: a bit for each */
static uint32 changes_seen = 0;

uint64		topics_mark_slot_confirmed_before;	/* when this process got the
												 * lock */

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
topics_mark_slot_shmem_request(void)
{
	RequestAddinShmemSpace(MAXALIGN(compute_shared_size()));
	RequestNamedLWLockTranche("pg_topics_high_watermark", SLOTS + 1);
}

/*
 * Begin with a slot of which nothing is published, and so nothing is known to
 * be confirmed.
 */
static void
begin_slot(HighWatermark *slot, Oid database, int set, const ClusterFacts *facts)
{
	memset(slot, 0, offsetof(HighWatermark, confirmed_cv));
	slot->database = database;
	slot->set = set;
	slot->kind = facts->kind;
	slot->acks_followers = facts->acks_followers;
	slot->lease_followers = facts->lease_followers;
	slot->voters = facts->voters;
	slot->term = facts->term;

	/* before the latest change there may have been one node more */
	if (facts->kind == CLUSTER_LEADER && facts->change_open && !facts->data_loss && facts->voters > 1)
	{
		slot->change_at_mark = 1;
		slot->change_confirmed_by = facts->voters / 2;
		slot->former_acks_followers = topics_max(facts->acks_followers, facts->voters / 2);
	}
	slot->generation = pg_atomic_add_fetch_u64(&table->generations, 1);
	slot->applies = topics_high_watermark_wants_confirmation(slot);
	slot->open = 1;
	/* a part of the first cut may have come before the server's start */
	slot->first_xid = facts->kind == CLUSTER_FOLLOWER ? FrozenTransactionId : InvalidTransactionId;
	slot->fed = 0;
	slot->nlisted = 0;
}

/* shmem_startup_hook; the caller holds AddinShmemInitLock. */
void
topics_mark_slot_shmem_startup(void)
{
	bool		found;

	locks = GetNamedLWLockTranche("pg_topics_high_watermark");
	table = ShmemInitStruct("pg_topics high watermark", compute_shared_size(), &found);
	if (!found)
	{
		memset(table, 0, sizeof(SlotTable));
		pg_atomic_init_u32(&table->changes, 1);
		ConditionVariableInit(&table->row_cv);
		pg_atomic_init_u64(&table->start_position, 0);
		pg_atomic_init_u64(&table->generations, 0);
		for (int i = 0; i < SLOTS; i++)
		{
			begin_slot(get_slot(i), InvalidOid, 0, &no_cluster);
			for (int j = 0; j < HIGH_WATERMARK_MARKS; j++)
				ConditionVariableInit(&get_slot(i)->confirmed_cv[j]);
			ConditionVariableInit(&get_slot(i)->feed_cv);
			ConditionVariableInit(&get_slot(i)->frozen_cv);
		}
		get_slot(0)->applies = max_wal_senders > 0 && topics_sync_standbys_set();
	}
}

/* ----------------------------------------------------------------
 *		Slots
 * ----------------------------------------------------------------
 */

/*
 * Find the slot of a leader set of a database: the first, if it has none of
 * its own.
 */
int
topics_mark_slot_of(Oid database, int set)
{
	for (int i = 1; OidIsValid(database) && i < SLOTS; i++)
	{
		if (get_slot(i)->database == database && get_slot(i)->set == set)
			return i;
	}
	return 0;
}

/* Choose the slot of a set of this database. */
void
topics_mark_slot_choose_set(int set)
{
	uint32		changes = pg_atomic_read_u32(&table->changes);

	if (likely(changes == changes_seen && set == chosen_set))
		return;
	if (changes != changes_seen)
	{
		pg_read_barrier();
		/* where there is no cluster all is of the first slot, and of set 0 */
		own_sets = 1;
		memset(slot_of_set, 0, sizeof(slot_of_set));
		for (int i = 1; i < SLOTS; i++)
		{
			if (!OidIsValid(MyDatabaseId) || get_slot(i)->database != MyDatabaseId)
				continue;
			own_sets |= 1 << get_slot(i)->set;
			slot_of_set[get_slot(i)->set] = i;
		}
	}
	own_slot = slot_of_set[set];
	topics_mark_slot = get_slot(own_slot);
	lock = &locks[own_slot].lock;
	chosen_set = set;
	changes_seen = changes;
}

/* Choose the slot of the set that this process acts for. */
void
topics_mark_slot_choose(void)
{
	topics_mark_slot_choose_set(topics_leader_set);
}

/*
 * Get this database's leader sets, as far as shared memory knows: a bit for
 * each.
 */
uint32
topics_mark_slot_sets(void)
{
	topics_mark_slot_choose();
	return own_sets;
}

/*
 * Get the leader set by whose slot the partitions of a set go: without a
 * cluster, the first one.  Topics that are in several may come from one, by a
 * dump.  As of the slot that was chosen last, which stays so: its lock may be
 * held.
 */
int
topics_mark_slot_set_of(int set)
{
	return slot_of_set[METADATA_SET] == 0 ? METADATA_SET : set;
}

/*
 * Have this process act for a leader set.  Return the one that it has acted
 * for.
 */
int
topics_mark_slot_act_for(int set)
{
	int			before = topics_leader_set;

	Assert(set >= 0 && set < MAX_LEADER_SETS);
	topics_leader_set = set;
	return before;
}

/* Acquire the lock of the slot of a leader set. */
void
topics_mark_slot_acquire_set(int set, LWLockMode mode)
{
	for (;;)
	{
		topics_mark_slot_choose_set(set);
		LWLockAcquire(lock, mode);
		if (likely(changes_seen == pg_atomic_read_u32(&table->changes)))
			break;
		LWLockRelease(lock);
	}
	topics_mark_slot_confirmed_before = topics_mark_slot->confirmed;
}

/* Acquire that of the set that this process acts for. */
void
topics_mark_slot_acquire(LWLockMode mode)
{
	topics_mark_slot_acquire_set(topics_leader_set, mode);
}

/* Get the number of the slot that this process has chosen. */
int
topics_mark_slot_number(void)
{
	return own_slot;
}

/* Return true if this process has the lock of the slot that it has chosen. */
bool
topics_mark_slot_is_locked(void)
{
	return LWLockHeldByMeInMode(lock, LW_EXCLUSIVE);
}

/* Release the lock, where nothing can have been confirmed. */
void
topics_mark_slot_release(void)
{
	LWLockRelease(lock);
}

/* Wake all processes that wait for one of a slot's marks: let them look. */
static void
wake_waiters(HighWatermark *slot)
{
	for (int i = 0; i < HIGH_WATERMARK_MARKS; i++)
		ConditionVariableBroadcast(&slot->confirmed_cv[i]);
	ConditionVariableBroadcast(&slot->feed_cv);
	ConditionVariableBroadcast(&slot->frozen_cv);
}

/*
 * Wake all processes that wait for records of this database's topics: another
 * node may have them.
 */
static void
wake_topics(void)
{
	for (int i = 0; i < pg_topics_max_partitions; i++)
	{
		PartitionState *state = topics_partition_state_at(i);

		if (state->id.database == MyDatabaseId && state->id.partition == 0)
			topics_wakeup_topic(state);
	}
}

/*
 * Give a slot, or the first one, to the partitions of a database's leader set.
 * The caller holds the registry lock.  Ends of logs are looked up anew
 * afterwards.
 */
static void
move_set(Oid database, int set, int from, int to, const ClusterFacts *facts)
{
	int			low = Min(from, to);
	int			high = Max(from, to);

	LWLockAcquire(&locks[low].lock, LW_EXCLUSIVE);
	LWLockAcquire(&locks[high].lock, LW_EXCLUSIVE);
	topics_partition_state_forget_marks(database, set);
	if (from > 0)
	{
		for (int i = 0; i < get_slot(from)->nlisted; i++)
			pg_atomic_fetch_and_u32(&topics_partition_state_at(get_slot(from)->listed[i])->listed,
									~(1 << from));
		get_slot(from)->database = InvalidOid;
	}
	if (to > 0)
		begin_slot(get_slot(to), database, set, facts);
	pg_atomic_fetch_add_u32(&table->changes, 1);
	LWLockRelease(&locks[high].lock);
	LWLockRelease(&locks[low].lock);
	wake_waiters(get_slot(high));
}

/*
 * The open mark of a slot that has just begun gets what a partition's log has
 * beyond what was known to be confirmed.
 */
static void
carry_over(HighWatermark *slot, int number, PartitionState *state, int64 confirmed_end)
{
	int64		end = pg_atomic_read_u64(&state->next_offset);

	pg_atomic_fetch_and_u32(&state->listed, ~(1 << number));
	state->mark = 0;
	state->found_at_mark = 0;
	state->found_position = InvalidXLogRecPtr;
	state->found_confirmed = state->confirmed_end = confirmed_end;
	state->excluded_by = 0;
	if (!slot->applies || end == UNKNOWN_OFFSET || end <= confirmed_end)
		return;
	topics_high_watermark_enter(state);
	state->found_at_mark = state->mark = slot->open;
	state->found_position = slot->published;
	state->end_at_mark[slot->confirmed % HIGH_WATERMARK_MARKS] = confirmed_end;
	slot->open_commits++;
}

/*
 * Return true if a state is that of a partition of this database's, and of a
 * set.
 */
static bool
is_of_set(const PartitionState *state, int set)
{
	return state->id.database == MyDatabaseId && state->set == set;
}

/*
 * This database leads from now on, or follows: its slot begins anew.  Nobody
 * has to look up ends, nor is anything seen that was not before: what was not
 * confirmed is to be confirmed again, now by others.
 */
static void
change_kind(int number, const ClusterFacts *facts)
{
	HighWatermark *slot = get_slot(number);
	int			set = slot->set;

	topics_mark_slot_acquire_set(set, LW_EXCLUSIVE);
	Assert(topics_mark_slot == slot);
	for (int i = 0; i < pg_topics_max_partitions; i++)
	{
		PartitionState *state = topics_partition_state_at(i);

		if (is_of_set(state, set))
			state->confirmed_end = topics_high_watermark_confirmed_end(state);
	}
	for (int i = 0; i < slot->nlisted; i++)
		pg_atomic_fetch_and_u32(&topics_partition_state_at(slot->listed[i])->listed, ~(1 << number));
	begin_slot(slot, MyDatabaseId, set, facts);
	slot->published = GetXLogInsertRecPtr();
	for (int i = 0; i < pg_topics_max_partitions; i++)
	{
		PartitionState *state = topics_partition_state_at(i);

		if (is_of_set(state, set))
			carry_over(slot, number, state, state->confirmed_end);
	}
	topics_mark_slot_release();
	topics_follower_forget_heard(set);
	wake_waiters(slot);
	wake_topics();
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
 * earlier ones have left, and below all that this one commits.  Recovery ends
 * with a checkpoint there; with a promotion there is none, but a timeline
 * begins.  The launcher asks first, before there is another checkpoint.
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
topics_mark_slot_start_position(void)
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
topics_mark_slot_has_epoch(void)
{
	topics_mark_slot_choose();
	return topics_mark_slot->kind != CLUSTER_LEADER || topics_mark_slot->has_epoch;
}

/* A transaction has begun an epoch, and is committed.  Raises nothing. */
void
topics_mark_slot_note_epoch(int set)
{
	topics_mark_slot_acquire_set(set, LW_EXCLUSIVE);
	topics_mark_slot->has_epoch = true;
	topics_mark_slot_release();
}

/*
 * Get the generation of what this database is.  Who appends remembers it
 * before looking whether this node leads: when it is another one afterwards,
 * somebody else may lead, and what was appended stands for nothing.
 */
uint64
topics_mark_slot_generation_of(int set)
{
	topics_mark_slot_choose_set(set);
	return *(volatile uint64 *) &topics_mark_slot->generation;
}

/*
 * Note the generations of all leader sets; 0 where this database is in no
 * cluster.
 */
void
topics_mark_slot_note_generations(uint64 generations[MAX_LEADER_SETS])
{
	memset(generations, 0, sizeof(uint64) * MAX_LEADER_SETS);
	for (int set = -1; (set = topics_leader_set_after(topics_mark_slot_sets(), set)) >= 0;)
		if (topics_mark_slot_kind_of(set) != CLUSTER_NONE)
			generations[set] = topics_mark_slot_generation_of(set);
}

/*
 * Return true if this database is still what it was when a generation was
 * noted.
 */
bool
topics_mark_slot_is_generation(int set, uint64 generation)
{
	return generation == 0 || topics_mark_slot_generation_of(set) == generation;
}

/* The same, of the set that this process acts for. */
uint64
topics_mark_slot_generation(void)
{
	return topics_mark_slot_generation_of(topics_leader_set);
}

/* Get what this database is in a leader set, as far as shared memory knows. */
ClusterKind
topics_mark_slot_kind_of(int set)
{
	topics_mark_slot_choose_set(set);
	return topics_mark_slot->kind;
}

/* The same, of the set that this process acts for. */
ClusterKind
topics_mark_slot_kind(void)
{
	return topics_mark_slot_kind_of(topics_leader_set);
}

/* On a leader: a follower has promised a term that is higher than ours. */
void
topics_mark_slot_note_higher_term(int64 term)
{
	topics_mark_slot_acquire(LW_EXCLUSIVE);
	topics_mark_slot->higher_term = topics_max(topics_mark_slot->higher_term, term);
	topics_mark_slot_release();
}

/* Get the highest of these, or 0. */
int64
topics_mark_slot_higher_term(void)
{
	topics_mark_slot_choose();
	return *(volatile int64 *) &topics_mark_slot->higher_term;
}

/* On a follower: the leader has answered. */
void
topics_mark_slot_note_leader(void)
{
	topics_mark_slot_choose();
	*(volatile MonotonicTime *) &topics_mark_slot->leader_heard = topics_clock_now();
}

/* On a follower: return true if the leader has answered within so many ms. */
bool
topics_mark_slot_hears_leader(int64 ms)
{
	MonotonicTime heard;

	topics_mark_slot_choose();
	heard = *(volatile MonotonicTime *) &topics_mark_slot->leader_heard;
	return heard != 0 && heard >= topics_clock_in(-ms);
}

/*
 * Return true unless this node leads, and another one may have been elected by
 * now: too few followers have asked for too long.
 */
bool
topics_mark_slot_has_lease(int set)
{
	topics_mark_slot_choose_set(set);
	return topics_mark_slot->kind != CLUSTER_LEADER || topics_mark_slot->lease_followers == 0 ||
		!pg_topics_automatic_failover || topics_follower_is_heard(set, topics_mark_slot->lease_followers);
}

/* ----------------------------------------------------------------
 *		A leader's role is handed over
 * ----------------------------------------------------------------
 */

/*
 * Wait until all appends to this process's leader set that are under way have
 * ended.
 */
void
topics_mark_slot_drain(void)
{
	for (int i = 0; i < pg_topics_max_partitions; i++)
	{
		PartitionState *state = topics_partition_state_at(i);

		if (!is_of_set(state, topics_leader_set))
			continue;
		topics_append_lock_acquire(&state, 1);
		topics_append_lock_release();
	}
}

/*
 * Have nobody append any more, until topics_mark_slot_thaw or another role.
 * Return false if this node does not lead, or another process hands it over;
 * with "takes_over" that one does not any more.  Appends that were under way
 * have ended then.
 */
bool
topics_mark_slot_freeze(bool takes_over)
{
	bool		done;

	topics_mark_slot_acquire(LW_EXCLUSIVE);
	done = topics_mark_slot->kind == CLUSTER_LEADER &&
		(topics_mark_slot->frozen_by == 0 || takes_over);
	if (done)
		topics_mark_slot->frozen_by = MyProcPid;
	topics_mark_slot_release();
	if (done)
		topics_mark_slot_drain();
	return done;
}

/*
 * Let others append again, if this process kept them from it.  Raises nothing.
 */
void
topics_mark_slot_thaw(int set)
{
	topics_mark_slot_acquire_set(set, LW_EXCLUSIVE);
	if (topics_mark_slot->frozen_by == MyProcPid)
		topics_mark_slot->frozen_by = 0;
	topics_mark_slot_release();
	ConditionVariableBroadcast(&topics_mark_slot->frozen_cv);
}

bool
topics_mark_slot_is_frozen(int set)
{
	topics_mark_slot_choose_set(set);
	return *(volatile pid_t *) &topics_mark_slot->frozen_by != 0;
}

/* Wait until others may append again.  The wait can be interrupted. */
void
topics_mark_slot_wait_frozen(int set)
{
	topics_mark_slot_choose_set(set);
	ConditionVariablePrepareToSleep(&topics_mark_slot->frozen_cv);
	while (topics_mark_slot_is_frozen(set))
		(void) ConditionVariableTimedSleep(&topics_mark_slot->frozen_cv, FROZEN_LOOK_MS,
										   topics_wait_event_get(WAIT_MOVED_LEADER));
	ConditionVariableCancelSleep();
}

/* Return how many followers a commit to a leader set waits for. */
int
topics_mark_slot_acks_followers(int set)
{
	topics_mark_slot_choose_set(set);
	return topics_mark_slot->kind == CLUSTER_LEADER ? topics_mark_slot_wanted(topics_mark_slot) : 0;
}

/* ----------------------------------------------------------------
 *		Which database has which slot
 * ----------------------------------------------------------------
 */

/*
 * Nodes or acks_followers may have changed.  An election by nodes that do not
 * know of that has the former quorum: so what was waited for goes on being
 * waited for, until so many of the former nodes know that there is no such
 * election without one of them.
 */
static void
change_nodes(HighWatermark *slot, const ClusterFacts *facts)
{
	bool		changes = slot->kind == CLUSTER_LEADER &&
		(facts->acks_followers != slot->acks_followers || facts->voters != slot->voters);
	bool		again = slot->change_at_mark != 0;

	/*
	 * a copy of this node is elected without it; who removes the last other
	 * node knows
	 */
	int			confirmed_by = slot->voters > 1 && facts->voters > 1 ?
		Max(slot->lease_followers, 1) : slot->lease_followers;

	if (facts->data_loss)
		slot->change_at_mark = 0;
	else if (changes && (confirmed_by > 0 || again))
	{

		slot->former_acks_followers = again ?
			topics_max(slot->former_acks_followers, slot->acks_followers) : slot->acks_followers;
		slot->change_confirmed_by = again ?
			topics_max(slot->change_confirmed_by, confirmed_by) : confirmed_by;
		slot->newcomers = (again ? slot->newcomers : 0) | newcomer;
		slot->change_at_mark = topics_high_watermark_newest_mark();
	}
	newcomer = 0;
	slot->acks_followers = facts->acks_followers;
	slot->raised_acks_followers = 0;
	slot->lease_followers = facts->lease_followers;
	slot->voters = facts->voters;
}

/*
 * So many followers are to be waited for, by a change that is committed, and
 * about to be published: what is published behind it in a log is not to be
 * acknowledged by fewer, and who knows of the change elects with that in mind.
 * Raises nothing.
 */
void
topics_mark_slot_raise_acks(int set, int acks_followers)
{
	topics_mark_slot_acquire_set(set, LW_EXCLUSIVE);
	if (topics_mark_slot->kind == CLUSTER_LEADER)
		topics_mark_slot->raised_acks_followers = acks_followers;
	topics_mark_slot_release();
}

/*
 * The change of nodes that this transaction commits is that a follower counts.
 */
void
topics_mark_slot_note_newcomer(int number)
{
	newcomer = 1 << number;
}

/* Return true if too few nodes know of the latest change of nodes. */
bool
topics_mark_slot_is_changing(void)
{
	topics_mark_slot_choose();
	return *(volatile uint64 *) &topics_mark_slot->change_at_mark != 0;
}

/*
 * This database is, in a leader set, what its row of that says.  Return false
 * if no slot is left.  The caller holds the registry lock.
 */
static bool
set_kind(int set, const ClusterFacts *facts)
{
	int			number = topics_mark_slot_of(MyDatabaseId, set);

	if (number > 0 && facts->kind == CLUSTER_NONE)
		move_set(MyDatabaseId, set, number, 0, facts);
	if (facts->kind == CLUSTER_NONE)
		return true;
	if (number > 0 && (get_slot(number)->kind != facts->kind || get_slot(number)->term != facts->term))
		change_kind(number, facts);
	if (number == 0)
	{
		number = find_free_slot();
		if (number == 0)
			return false;
		move_set(MyDatabaseId, set, 0, number, facts);
	}
	topics_mark_slot_acquire_set(set, LW_EXCLUSIVE);
	change_nodes(topics_mark_slot, facts);
	topics_high_watermark_advance();
	topics_high_watermark_release();
	/* who waits looks whether it still has to */
	wake_waiters(get_slot(number));
	return true;
}

/* Get the number of changes of rows, for topics_mark_slot_attend. */
uint32
topics_mark_slot_row_changes(void)
{
	uint32		result;

	LWLockAcquire(&locks[SLOTS].lock, LW_SHARED);
	result = table->row_changes;
	LWLockRelease(&locks[SLOTS].lock);
	return result;
}

/* Have this process's latch set when there is one more, until it has not. */
void
topics_mark_slot_watch_rows(void)
{
	ConditionVariablePrepareToSleep(&table->row_cv);
}

void
topics_mark_slot_unwatch_rows(void)
{
	ConditionVariableCancelSleep();
}

static void
report_no_slot(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("too many databases of this server are nodes of clusters"),
			 errdetail("They may have %d leader sets together.", MAX_CLUSTER_SLOTS)));
}

/*
 * Require that this database has slots for so many leader sets, or can have
 * them.
 */
void
topics_mark_slot_require(int sets)
{
	int			usable = 0;

	LWLockAcquire(&locks[SLOTS].lock, LW_SHARED);
	for (int i = 1; i < SLOTS; i++)
		usable += !OidIsValid(get_slot(i)->database) || get_slot(i)->database == MyDatabaseId;
	LWLockRelease(&locks[SLOTS].lock);
	if (usable < sets)
		report_no_slot();
}

/*
 * What this database is in each leader set was read, after so many changes of
 * rows.  Return false if there was another one since: then it is to be read
 * again.
 */
bool
topics_mark_slot_attend(const ClusterFacts facts[MAX_LEADER_SETS], uint32 row_changes)
{
	bool		counts;
	bool		done = true;

	LWLockAcquire(&locks[SLOTS].lock, LW_EXCLUSIVE);
	counts = row_changes == table->row_changes;
	/* the first set last: who finds it known takes it that all are */
	for (int set = MAX_LEADER_SETS - 1; counts && set >= METADATA_SET; set--)
		done &= set_kind(set, &facts[set]);
	LWLockRelease(&locks[SLOTS].lock);
	if (!done)
		report_no_slot();
	return counts;
}

/*
 * This database's row of a leader set has changed, by a commit.  Raises
 * nothing.
 */
void
topics_mark_slot_row_changed(int set, const ClusterFacts *facts)
{
	LWLockAcquire(&locks[SLOTS].lock, LW_EXCLUSIVE);
	table->row_changes++;
	(void) set_kind(set, facts);
	LWLockRelease(&locks[SLOTS].lock);
	ConditionVariableBroadcast(&table->row_cv);
	topics_high_watermark_applies();
}

/* A database is no more.  Raises nothing. */
void
topics_mark_slot_forget_database(Oid database)
{
	LWLockAcquire(&locks[SLOTS].lock, LW_EXCLUSIVE);
	for (int i = 1; i < SLOTS; i++)
		if (get_slot(i)->database == database && OidIsValid(database))
			move_set(database, get_slot(i)->set, i, 0, &no_cluster);
	LWLockRelease(&locks[SLOTS].lock);
}
