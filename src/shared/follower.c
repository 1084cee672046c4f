/*-------------------------------------------------------------------------
 *
 * follower.c
 *		What the followers of a cluster have said of themselves.
 *
 * On the leader, in shared memory only: which followers of a database have
 * asked for its logs, when, and how far theirs reach.  After a restart nothing
 * is known until they ask again.  It asks for each leader set by itself, and
 * has a number there, from 0 on, under which each partition's state has its
 * log end (PartitionState.follower_end).
 *
 * LOCKING
 *
 *	mutex	(spinlock) the places.  Nothing is called while it is held.  The ends
 *		are atomics: who reads one while its number is given to another follower
 *		may read that one's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "shared/shared.h"

#define FOLLOWER_PLACES (MAX_LEADER_SETS * MAX_FOLLOWERS)	/* of all databases
															 * together */
#define IN_SYNC_MS 10000		/* since it had all that there was, at most */

typedef struct FollowerTable
{
	slock_t		mutex;
	Follower	places[FOLLOWER_PLACES];	/* without a database: free */
} FollowerTable;

static FollowerTable *followers = NULL;

/* shmem_request_hook */
void
topics_follower_shmem_request(void)
{
	RequestAddinShmemSpace(MAXALIGN(sizeof(FollowerTable)));
}

/* shmem_startup_hook; the caller holds AddinShmemInitLock. */
void
topics_follower_shmem_startup(void)
{
	bool		found;

	followers = ShmemInitStruct("pg_topics followers", sizeof(FollowerTable), &found);
	if (!found)
	{
		memset(followers, 0, sizeof(FollowerTable));
		SpinLockInit(&followers->mutex);
	}
}

/*
 * Return true if a place is that of a follower of this database in a leader
 * set.
 */
static bool
is_of_set(const Follower *place, int set)
{
	return place->database == MyDatabaseId && place->set == set;
}

/*
 * Find the place of a follower in the leader set that this process acts for,
 * or with "take" take one, the number of which no other has.  The caller holds
 * the mutex.
 */
static Follower *
find_place(const char *node, bool take)
{
	Follower   *place = NULL;
	uint32		numbers = 0;

	for (int i = 0; i < FOLLOWER_PLACES; i++)
	{
		Follower   *other = &followers->places[i];

		if (is_of_set(other, topics_leader_set) && strcmp(other->node, node) == 0)
			return other;
		if (is_of_set(other, topics_leader_set))
			numbers |= 1 << other->number;
		else if (!OidIsValid(other->database) && place == NULL)
			place = other;
	}
	if (!take || place == NULL || numbers == (1 << MAX_FOLLOWERS) - 1)
		return NULL;
	memset(place, 0, sizeof(Follower));
	place->database = MyDatabaseId;
	place->set = topics_leader_set;
	strlcpy(place->node, node, sizeof(place->node));
	while (numbers & (1 << place->number))
		place->number++;
	return place;
}

/*
 * This process serves a follower of this database from now on; one that has so
 * far does not any more.  Return its number, or -1 if there are too many;
 * *is_new says that nothing was known of it.
 */
int
topics_follower_begin(const char *node, bool *is_new)
{
	TimestampTz now = GetCurrentTimestamp();
	Follower   *place;
	int			number = -1;

	SpinLockAcquire(&followers->mutex);
	place = find_place(node, true);
	if (place)
	{
		*is_new = place->asked == 0;
		place->asked = now;
		place->session = MyProcPid;
		number = place->number;
	}
	SpinLockRelease(&followers->mutex);
	return number;
}

/*
 * The follower that this process serves has asked, and had at "caught_up" all
 * that there was, or 0.  Return false if another process serves it, or it is
 * gone.
 */
bool
topics_follower_note(const char *node, bool counts, MonotonicTime caught_up)
{
	TimestampTz now = GetCurrentTimestamp();
	MonotonicTime heard = topics_clock_now();
	Follower   *place;
	bool		ours;

	SpinLockAcquire(&followers->mutex);
	place = find_place(node, false);
	ours = place && place->session == MyProcPid;
	if (ours)
	{
		place->asked = now;
		place->heard = heard;
		place->counts = counts;
		place->caught_up = Max(place->caught_up, caught_up);
	}
	SpinLockRelease(&followers->mutex);
	return ours;
}

/* This process serves no follower any more.  Raises nothing. */
void
topics_follower_end_session(void)
{
	SpinLockAcquire(&followers->mutex);
	for (int i = 0; i < FOLLOWER_PLACES; i++)
		if (followers->places[i].database == MyDatabaseId &&
			followers->places[i].session == MyProcPid)
			followers->places[i].session = 0;
	SpinLockRelease(&followers->mutex);
}

/*
 * Return true if a follower is in sync: it is connected, and had all that
 * there was not long ago (Kafka: replica.lag.time.max.ms).
 */
bool
topics_follower_is_in_sync(const Follower *follower)
{
	return follower->session != 0 && follower->caught_up != 0 &&
		topics_clock_now() - follower->caught_up <= IN_SYNC_MS * INT64CONST(1000);
}

/* Count the followers in a leader set that are in sync. */
int
topics_follower_count_in_sync(int set)
{
	int			count = 0;

	SpinLockAcquire(&followers->mutex);
	for (int i = 0; i < FOLLOWER_PLACES; i++)
		if (is_of_set(&followers->places[i], set) &&
			topics_follower_is_in_sync(&followers->places[i]))
			count++;
	SpinLockRelease(&followers->mutex);
	return count;
}

/*
 * Return true if so many followers that count have asked not long ago: none of
 * these had promised to follow another node then.
 */
bool
topics_follower_is_heard(int set, int count)
{
	MonotonicTime since = topics_clock_in(-(int64) pg_topics_node_timeout);
	int			heard = 0;

	SpinLockAcquire(&followers->mutex);
	for (int i = 0; i < FOLLOWER_PLACES; i++)
		if (is_of_set(&followers->places[i], set) && followers->places[i].counts &&
			followers->places[i].heard != 0 && followers->places[i].heard >= since)
			heard++;
	SpinLockRelease(&followers->mutex);
	return heard >= count;
}

/*
 * Nothing was heard since this node leads, or does not any more.  Raises
 * nothing.
 */
void
topics_follower_forget_heard(int set)
{
	SpinLockAcquire(&followers->mutex);
	for (int i = 0; i < FOLLOWER_PLACES; i++)
		if (is_of_set(&followers->places[i], set))
			followers->places[i].heard = followers->places[i].caught_up = 0;
	SpinLockRelease(&followers->mutex);
}

/*
 * Get where all logs of the leader set end, by the places of their states in
 * shared memory; palloc'd.
 */
uint64 *
topics_follower_get_ends(void)
{
	uint64	   *ends = palloc0(mul_size(pg_topics_max_partitions, sizeof(uint64)));

	for (int i = 0; i < pg_topics_max_partitions; i++)
	{
		PartitionState *state = topics_partition_state_at(i);

		ends[i] = state->id.database == MyDatabaseId && state->set == topics_leader_set ? pg_atomic_read_u64(&state->next_offset) : 0;
	}
	return ends;
}

/*
 * Return true if a follower has said that it has all that there is, by its
 * number, or, with "ends", all that there was then.
 */
bool
topics_follower_has_all(int number, const uint64 *ends)
{
	for (int i = 0; i < pg_topics_max_partitions; i++)
	{
		PartitionState *state = topics_partition_state_at(i);
		uint64		end = ends ? ends[i] : pg_atomic_read_u64(&state->next_offset);
		uint64		has = pg_atomic_read_u64(&state->follower_end[number]);

		if (state->id.database != MyDatabaseId || state->set != topics_leader_set)
			continue;
		if ((state->excluded_by & (1 << number)) != 0)
			return false;
		if (end != UNKNOWN_OFFSET && end > 0 && (has == UNKNOWN_OFFSET || has < end))
			return false;
	}
	return true;
}

/* Copy what is known of a follower in the leader set; false if nothing is. */
bool
topics_follower_read(const char *node, Follower *copy)
{
	Follower   *place;

	SpinLockAcquire(&followers->mutex);
	place = find_place(node, false);
	if (place)
		*copy = *place;
	SpinLockRelease(&followers->mutex);
	return place != NULL;
}

/*
 * Forget a follower in the leader set, as it was removed.  Return the number
 * that it had, or -1.  Raises nothing.
 */
int
topics_follower_forget(const char *node)
{
	Follower   *place;
	int			number = -1;

	SpinLockAcquire(&followers->mutex);
	place = find_place(node, false);
	if (place)
	{
		number = place->number;
		place->database = InvalidOid;
	}
	SpinLockRelease(&followers->mutex);
	return number;
}

/* Forget those of a database that is no more.  Raises nothing. */
void
topics_follower_forget_database(Oid database)
{
	SpinLockAcquire(&followers->mutex);
	for (int i = 0; i < FOLLOWER_PLACES; i++)
		if (followers->places[i].database == database)
			followers->places[i].database = InvalidOid;
	SpinLockRelease(&followers->mutex);
}
