/*-------------------------------------------------------------------------
 *
 * attach_worker.c
 *		A process that attaches a segment, in a transaction of its own that
 *		commits before the producer's (background.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/partition.h"
#include "postmaster/bgworker.h"
#include "storage/lmgr.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "pg_topics.h"

/* What the worker is asked for, in bgw_extra. */
typedef struct AttachRequest
{
	TopicPartition id;
	Oid			partition_relid;
	CoverRequest cover;
} AttachRequest;

StaticAssertDecl(sizeof(AttachRequest) <= BGW_EXTRALEN, "request fits");

PGDLLEXPORT void topics_attach_worker_main(Datum main_arg);

/*
 * Keep a partition from being dropped until the transaction ends.  Return false
 * if it is gone: the process that asked for us need not be there any more.
 */
static bool
hold_partition(Oid partition_relid)
{
	Oid			root_relid = get_partition_parent(partition_relid, true);

	/* DROP begins at the root */
	if (OidIsValid(root_relid))
		LockRelationOid(root_relid, AccessShareLock);
	return OidIsValid(root_relid) &&
		SearchSysCacheExists1(RELOID, ObjectIdGetDatum(partition_relid));
}

void
topics_attach_worker_main(Datum main_arg)
{
	AttachRequest request;
	bool		done = false;

	memcpy(&request, topics_background_begin(), sizeof(request));
	topics_background_connect(request.id.database);
	while (!done)
	{
		Partition	partition = {.number = request.id.partition,.relid = request.partition_relid};

		StartTransactionCommand();
		if (hold_partition(partition.relid))
		{
			PushActiveSnapshot(GetTransactionSnapshot());
			partition.state = topics_catalog_get_state(&request.id);
			done = topics_cut_cover(&partition, &request.cover, COVER_ALONE);
			PopActiveSnapshot();
		}
		else
			done = true;
		CommitTransactionCommand();
	}
}

/*
 * Let another process cover offsets, and wait for it.  Return false if there is
 * no process to be had; true says only that one has tried.  The caller holds a
 * lock on the partition's table.
 */
bool
topics_attach_worker_run(const Partition *partition, const CoverRequest *cover)
{
	AttachRequest request = {partition->state->id, partition->relid, *cover};

	return topics_background_run("topics_attach_worker_main", "pg_topics attach worker",
								 &request, sizeof(request));
}
