/*-------------------------------------------------------------------------
 *
 * wait_event.c
 *		What pg_stat_activity says of a process that waits in pg_topics.
 *
 * The type of all is Extension.  Before PostgreSQL 17 so is the name.
 *
 * TO ADD ONE: a WaitReason (base.h), its name in event_names, and a line in
 * docs/operation.md, which a test compares.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/compat.h"
#include "base/base.h"

static const char *const event_names[] = {
	[WAIT_APPEND_LOCK] = "PgTopicsAppendLock",
	[WAIT_RECORD] = "PgTopicsRecordWait",
	[WAIT_HIGH_WATERMARK] = "PgTopicsHighWatermark",
	[WAIT_LAUNCHER_IDLE] = "PgTopicsLauncherIdle",
	[WAIT_WORKER_IDLE] = "PgTopicsWorkerIdle",
	[WAIT_COMPACTOR_IDLE] = "PgTopicsCompactorIdle",
	[WAIT_COMPACTION_PACE] = "PgTopicsCompactionPace",
	[WAIT_REPLICATOR_IDLE] = "PgTopicsReplicatorIdle",
	[WAIT_REPLICA_FEED] = "PgTopicsReplicaFeed",
	[WAIT_PEER] = "PgTopicsPeer",
	[WAIT_MOVED_LEADER] = "PgTopicsMovedLeader",
};

/*
 * Return the event for PostgreSQL's functions that wait.  The first call for an
 * event in a process may take an LWLock, and raise, so the caller holds no lock
 * that does not allow that.  (The names cannot be registered while the library
 * is loaded: there is no shared memory for them then.)
 */
uint32
topics_wait_event_get(WaitReason reason)
{
	static uint32 events[lengthof(event_names)] = {0};

	if (events[reason] == 0)
		events[reason] = WaitEventExtensionNew(event_names[reason]);
	return events[reason];
}
