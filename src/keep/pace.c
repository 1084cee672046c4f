/*-------------------------------------------------------------------------
 *
 * pace.c
 *		How fast a process may work: it sleeps when it was too fast.
 *
 * The rate is like Kafka's log.cleaner.io.max.bytes.per.second: what is read
 * and what is written is counted, and together stays below so much a second.
 * Unlike vacuum_cost_delay it does not depend on how long a nap the system
 * gives.
 *
 * At each nap the process looks whether another one waits for a lock that it
 * holds.  If so, it gives up what it does, by an error, as autovacuum does: a
 * lock that is wanted must not be held for a nap's sake.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "base/compat.h"
#include "base/base.h"
#include "keep/keep.h"

#define NAP_MS 10				/* shorter naps are saved up */
#define LONG_NAP_MS 1000		/* at most, between two looks at others */

static int *max_rate = NULL;	/* kB a second, 0 for no limit */
static MonotonicTime paid_until = 0;	/* when what was done so far would be
										 * done */

/* The tables that are locked. */
enum
{
	LOCKED_ROOT,				/* the topic's */
	LOCKED_PARTITION,
	LOCKED_SEGMENT,
	LOCKED_RELIDS
};

static Oid	locked_relids[LOCKED_RELIDS];

/*
 * Keep this process to a rate: a setting, in kB a second, 0 for no limit.
 */
void
topics_pace_limit(int *rate)
{
	max_rate = rate;
}

/* A piece of work on a partition begins, with locks on these tables. */
void
topics_pace_begin(Oid root_relid, Oid partition_relid)
{
	locked_relids[LOCKED_ROOT] = root_relid;
	locked_relids[LOCKED_PARTITION] = partition_relid;
	locked_relids[LOCKED_SEGMENT] = InvalidOid;
}

/* The work goes on with a lock on this segment. */
void
topics_pace_note_locked(Oid segment_relid)
{
	locked_relids[LOCKED_SEGMENT] = segment_relid;
}

/*
 * Return true if a process waits for a lock on what we have locked.  Workers
 * do not count: they do not wait for long, and come back.
 *
 * Read without a lock: of a process that has just stopped waiting we may read
 * a lock that it does not wait for, since locks live in shared memory for
 * ever.  Then work is given up in vain.  A process that we miss we see at the
 * next nap.
 */
static bool
another_process_waits(void)
{
	for (uint32 i = 0; i < ProcGlobal->allProcCount; i++)
	{
		PGPROC	   *proc = &ProcGlobal->allProcs[i];
		LOCK	   *lock = *(LOCK *volatile *) &proc->waitLock;

		if (lock == NULL || topics_is_background(proc) ||
			lock->tag.locktag_type != LOCKTAG_RELATION ||
			lock->tag.locktag_field1 != MyDatabaseId)
			continue;
		for (size_t j = 0; j < lengthof(locked_relids); j++)
			if (lock->tag.locktag_field2 == locked_relids[j])
				return true;
	}
	return false;
}

/* Sleep for some milliseconds, or until this process is told to end. */
static void
take_nap(long ms)
{
	int			rate = *max_rate;

	topics_background_wait(ms, WAIT_COMPACTION_PACE);
	if (*max_rate != rate)
		paid_until = 0;
	if (another_process_waits())
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("canceling work on %s", topics_catalog_describe_log(locked_relids[LOCKED_PARTITION])),
				 errdetail("Another process waits for a lock that it holds."),
				 errhint("It begins anew by itself.")));
}

/* Bytes were read, or written: sleep if that was more than we may. */
void
topics_pace_account(Size bytes)
{
	MonotonicTime now;

	if (max_rate == NULL || *max_rate == 0)
		return;
	now = topics_clock_now();
	paid_until = Max(paid_until, now) + (int64) (bytes * (USECS_PER_SEC / 1024.0) / *max_rate);
	while (paid_until - now >= NAP_MS * 1000)
	{
		take_nap(Min((paid_until - now) / 1000, LONG_NAP_MS));
		now = topics_clock_now();
	}
}
