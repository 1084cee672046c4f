/*-------------------------------------------------------------------------
 *
 * user_lock.c
 *		Heavyweight locks on what is no relation.
 *
 * They are user locks, as those of pg_advisory_lock are, told from these by a
 * number of ours.  A deadlock among them, and with locks of tables, is found by
 * PostgreSQL.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/resowner.h"

#include "base/base.h"

/*
 * Make the tag of a lock on something of this database.  Two things with the
 * same hash share one lock: harmless.
 */
LOCKTAG
topics_user_lock_tag(UserLockKind kind, uint64 hash)
{
	LOCKTAG		tag;

	tag.locktag_field1 = MyDatabaseId;
	tag.locktag_field2 = (uint32) (hash >> 32);
	tag.locktag_field3 = (uint32) hash;
	tag.locktag_field4 = kind;
	tag.locktag_type = LOCKTAG_USERLOCK;
	tag.locktag_lockmethodid = DEFAULT_LOCKMETHOD;
	return tag;
}

/*
 * Acquire a lock until the (sub)transaction ends, and no longer: the owner of
 * what a cursor locks would be the cursor, which can be older than a savepoint.
 * Without "wait", return false if the lock is not free.
 */
bool
topics_user_lock_acquire(const LOCKTAG *tag, LOCKMODE mode, bool wait)
{
	ResourceOwner old = CurrentResourceOwner;
	bool		locked;

	/* should it fail, the (sub)transaction's abort sets this right */
	CurrentResourceOwner = CurTransactionResourceOwner;
	locked = LockAcquire(tag, mode, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
	CurrentResourceOwner = old;
	return locked;
}
