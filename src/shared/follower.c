/*-------------------------------------------------------------------------
 *
 * follower.c
 *		What the followers of a cluster have said of themselves.
 *
 * On the leader, in shared memory only: which followers of a database have asked
 * for its logs, when, and how far theirs reach.  After a restart nothing is known
 * until they ask again.  A follower has a number in its database, from 0 on, under
 * which each partition's state has its log end (PartitionState.follower_end).
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

#define FOLLOWER_PLACES (4 * MAX_FOLLOWERS) /* of all databases together */

typedef struct FollowerTable
{
	slock_t		mutex;
	Follower	places[FOLLOWER_PLACES];	/* without a database: free */
}			FollowerTable;

static FollowerTable * followers = NULL;

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
 * Find the place of a follower of this database, or with "take" take one, the
 * number of which no other has.  The caller holds the mutex.
 */
static Follower *
find_place(const char *node, bool take)
{
	Follower   *place = NULL;
	uint32		numbers = 0;

	for (int i = 0; i < FOLLOWER_PLACES; i++)
	{
		Follower   *other = &followers->places[i];

		if (other->database == MyDatabaseId && strcmp(other->node, node) == 0)
			return other;
		if (other->database == MyDatabaseId)
			numbers |= 1 << other->number;
		else if (!OidIsValid(other->database) && place == NULL)
			place = other;
	}
	if (!take || place == NULL || numbers == (1 << MAX_FOLLOWERS) - 1)
		return NULL;
	memset(place, 0, sizeof(Follower));
	place->database = MyDatabaseId;
	strlcpy(place->node, node, sizeof(place->node));
	while (numbers & (1 << place->number))
		place->number++;
	return place;
}

/*
 * A follower of this database has asked.  Return its number, or -1 if there are
 * too many; *is_new says that nothing was known of it.
 */
int
topics_follower_note(const char *node, bool *is_new)
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
		number = place->number;
	}
	SpinLockRelease(&followers->mutex);
	return number;
}

/* Copy what is known of a follower of this database; false if nothing is. */
bool
topics_follower_read(const char *node, Follower * copy)
{
	Follower   *place;

	SpinLockAcquire(&followers->mutex);
	place = find_place(node, false);
	if (place)
		*copy = *place;
	SpinLockRelease(&followers->mutex);
	return place != NULL;
}

/* Forget a follower of this database that was removed.  Raises nothing. */
void
topics_follower_forget(const char *node)
{
	Follower   *place;

	SpinLockAcquire(&followers->mutex);
	place = find_place(node, false);
	if (place)
		place->database = InvalidOid;
	SpinLockRelease(&followers->mutex);
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
