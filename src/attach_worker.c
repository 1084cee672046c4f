/*-------------------------------------------------------------------------
 *
 * attach_worker.c
 *		Have a segment attached by another process, in a transaction of its
 *		own that commits before the producer's (background.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "postmaster/bgworker.h"
#include "utils/snapmgr.h"

#include "pg_topics.h"

/* What is asked for. */
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

	memcpy(&request, topics_background_begin(), sizeof(request));
	topics_background_connect(request.id.database);
	while (!done)
	{
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		done = topics_segment_cover(request.partition_relid, topics_partition_state_get(&request.id),
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

	return topics_background_run("topics_attach_worker_main", "pg_topics attach worker",
								 &request, sizeof(request));
}
