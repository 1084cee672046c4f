/*-------------------------------------------------------------------------
 *
 * attach_worker.c
 *		Have a segment attached by another process, in a transaction of its
 *		own that commits before the producer's.
 *
 * The producer waits for a dynamic background worker.  The deadlock detector
 * does not see such a wait: should the worker need a lock that the producer,
 * or somebody who waits for him, holds, it gives up after LOCK_TIMEOUT_MS,
 * and the producer attaches the segment itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

#include "pg_topics.h"

/* well below the usual deadlock_timeout: let others not be chosen as victims */
#define LOCK_TIMEOUT_MS "500"

/* What is asked for, in bgw_extra. */
typedef struct AttachRequest
{
	TopicPartition id;
	Oid			partition_relid;
	int64		first;
	int64		last;
	int64		segment_bytes;
} AttachRequest;

StaticAssertDecl(sizeof(AttachRequest) <= BGW_EXTRALEN, "request fits");

PGDLLEXPORT void topics_attach_worker_main(Datum main_arg);

void
topics_attach_worker_main(Datum main_arg)
{
	AttachRequest request;
	bool		done = false;

	pqsignal(SIGTERM, die);
	memcpy(&request, MyBgworkerEntry->bgw_extra, sizeof(request));
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(request.id.database, InvalidOid, 0);
	SetConfigOption("lock_timeout", LOCK_TIMEOUT_MS, PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("search_path", "pg_catalog", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("synchronous_commit", "off", PGC_SUSET, PGC_S_OVERRIDE);

	while (!done)
	{
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		done = topics_segment_cover(request.partition_relid, topics_shmem_get(&request.id),
									request.first, request.last, request.segment_bytes, true);
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
}

/*
 * Ask for segments for the offsets first .. last, and wait.  False if there
 * was no process to be had; true says only that one has tried.
 */
bool
topics_attach_worker_run(Oid partition_relid, const TopicPartition *id,
						 int64 first, int64 last, int64 segment_bytes)
{
	AttachRequest request = {*id, partition_relid, first, last, segment_bytes};
	BackgroundWorker worker = {0};
	BackgroundWorkerHandle *handle;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	strlcpy(worker.bgw_library_name, "pg_topics", MAXPGPATH);
	strlcpy(worker.bgw_function_name, "topics_attach_worker_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "pg_topics attach worker", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "pg_topics attach worker", BGW_MAXLEN);
	memcpy(worker.bgw_extra, &request, sizeof(request));

	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
		return false;
	return WaitForBackgroundWorkerShutdown(handle) == BGWH_STOPPED;
}
