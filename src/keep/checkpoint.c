/*-------------------------------------------------------------------------
 *
 * checkpoint.c
 *		How far logs have come, and are confirmed, for the catalogue.
 *
 * The worker stores two offsets in a partition's row of topic_log.partition,
 * for all partitions that have grown, in one transaction:
 *
 *	next_offset_floor	the log has had all offsets below it (log_start.c);
 *	high_watermark		what is below it was confirmed (high_watermark.c):
 *						Kafka's checkpoint of the high watermark.
 *
 * AFTER A RESTART nobody knows what was confirmed, but for what is below
 * high_watermark.  Readers stop there until followers, or standbys, have
 * confirmed the rest again; and so they do on a follower until the leader says
 * more.  So the high watermarks that are stored are a cut: of a transaction
 * all records are below them or none.  They come from one snapshot, with the
 * cut that readers keep with it (read_cut.c), and are stored all together or
 * not at all:
 *
 *	- the snapshot is taken before topics are listed: the list has what it
 *	  sees;
 *	- a log end that is not known is looked up; a log that has lost records
 *	  has none, and is left out;
 *	- a row that another transaction has locked, as delete_records() does,
 *	  leaves the high watermarks of all for the next time.  Floors are stored
 *	  without it.
 *
 * A floor tells nothing of other partitions: what seals a segment raises it,
 * too.
 *
 * COMPACTION removes a record because of a later one of its key.  A reader who
 * stops in between would see neither.  So before the first file is swapped the
 * stored high watermark has to be above all that was mapped
 * (topics_checkpoint_reach).  Where nobody confirms anything it is raised
 * alone if the cut cannot be stored, lest compaction wait.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "keep/keep.h"
#include "pg_topics.h"

/* Ends of logs that are to be stored. */
typedef struct Checkpoint
{
	Oid			view_relid;		/* of a topic, or of all if invalid */
	bool		is_cut;			/* they are of one moment, and nothing is
								 * missing */
	LogFloor   *ends;
	int			count;
	int			room;
} Checkpoint;

/* What to look at for it. */
typedef struct Collection
{
	Checkpoint *checkpoint;
	Snapshot	snapshot;
	Topic	   *topic;
	int32		number;
} Collection;

static void
add_end(Checkpoint *checkpoint, PartitionState *state, int64 end)
{
	LogFloor   *added;

	if (checkpoint->count == checkpoint->room)
	{
		checkpoint->room *= 2;
		checkpoint->ends = repalloc(checkpoint->ends, sizeof(LogFloor) * checkpoint->room);
	}
	added = &checkpoint->ends[checkpoint->count++];
	added->state = state;
	added->id = state->id;
	added->floor = end;
}

/* Get up to where there is nothing to store of a partition. */
static int64
get_stored(const Checkpoint *checkpoint, const PartitionState *state)
{
	return checkpoint->is_cut ? Min(state->stored_floor, state->stored_high_watermark) :
		state->stored_floor;
}

/*
 * Return true if the end of a log is not known, or above what is stored.
 * Looks at shared memory only.
 */
static bool
has_grown(const Checkpoint *checkpoint, const TopicPartition *id)
{
	PartitionState *state = topics_partition_state_find(id);
	uint64		next_offset;

	if (state == NULL)
		return true;
	next_offset = pg_atomic_read_u64(&state->next_offset);
	return next_offset == UNKNOWN_OFFSET || (int64) next_offset > get_stored(checkpoint, state);
}

/*
 * Collect the end of a partition's log, unless it is stored, as while nobody
 * confirms more; in a subtransaction.
 */
static void
collect_end(void *arg)
{
	Collection *collection = arg;
	Checkpoint *checkpoint = collection->checkpoint;
	Partition	partition = {.topic = collection->topic,.number = collection->number};

	if (!topics_catalog_try_open_partition(&partition, AccessShareLock))
		return;
	(void) topics_log_next_offset(&partition);
	if (pg_atomic_read_u64(&partition.state->next_offset) != UNKNOWN_OFFSET)
	{
		int64		end = topics_log_end(&partition, collection->snapshot);

		if (end > get_stored(checkpoint, partition.state))
			add_end(checkpoint, partition.state, end);
	}
	topics_catalog_close_partition(&partition, AccessShareLock);
}

/*
 * Collect the end of a partition's log, if it has grown.  One that cannot be
 * read is left out: the worker's steps say so.
 */
static void
try_to_collect_end(Collection *collection)
{
	const TopicPartition id = {MyDatabaseId, collection->number, collection->topic->topic_id};
	ErrorData  *error;

	if (!has_grown(collection->checkpoint, &id))
		return;
	error = topics_subtransaction_try(collect_end, collection);
	if (error == NULL)
		return;
	if (topics_subtransaction_must_raise(error))
		ReThrowError(error);
	FreeErrorData(error);
}

/* Collect the ends of all logs that have grown, as a snapshot sees them. */
static void
collect_ends(Checkpoint *checkpoint, Snapshot snapshot)
{
	Collection	collection = {.checkpoint = checkpoint,.snapshot = snapshot};
	List	   *views;
	ListCell   *lc;

	AcceptInvalidationMessages();
	views = OidIsValid(checkpoint->view_relid) ? list_make1_oid(checkpoint->view_relid) :
		topics_catalog_list();
	foreach(lc, views)
	{
		Topic	   *topic = topics_catalog_get(lfirst_oid(lc), true);

		collection.topic = topic;
		for (collection.number = 0; topic && collection.number < topic->partitions; collection.number++)
		{
			CHECK_FOR_INTERRUPTS();
			try_to_collect_end(&collection);
		}
	}
	list_free(views);
}

/* Collect a cut; in a subtransaction. */
static void
collect_cut(void *arg)
{
	Snapshot	snapshot = RegisterSnapshot(GetTransactionSnapshot());

	collect_ends(arg, snapshot);
	UnregisterSnapshot(snapshot);
}

/*
 * Collect what is to be stored of a topic, or of all: a cut, if it is of all.
 * In a serializable transaction that would have to wait for the followers; and
 * a follower may refuse the snapshot, since it has a part of one of the
 * leader's cuts.
 */
static void
collect(Checkpoint *checkpoint)
{
	ErrorData  *error;

	checkpoint->room = 64;
	checkpoint->ends = palloc(sizeof(LogFloor) * checkpoint->room);
	checkpoint->is_cut = !OidIsValid(checkpoint->view_relid) && !IsolationIsSerializable();
	if (checkpoint->is_cut)
	{
		error = topics_subtransaction_try(collect_cut, checkpoint);
		if (error == NULL)
			return;
		if (error->sqlerrcode != ERRCODE_T_R_SERIALIZATION_FAILURE)
			ReThrowError(error);
		FreeErrorData(error);
		checkpoint->count = 0;
		checkpoint->is_cut = false;
	}
	collect_ends(checkpoint, NULL);
}

/* Store what was collected, in this transaction. */
static void
store(Checkpoint *checkpoint)
{
	int			wanted = checkpoint->count;

	if (wanted == 0)
		return;
	PushActiveSnapshot(GetTransactionSnapshot());
	checkpoint->count = topics_log_start_store_floors(checkpoint->ends, wanted, checkpoint->is_cut);
	PopActiveSnapshot();
	checkpoint->is_cut &= checkpoint->count == wanted;
}

/*
 * Store how far logs have come that have grown since: of a topic, or of all if
 * "view_relid" is invalid, with their high watermarks.  The call is made in a
 * transaction, and returns in another one; "cxt" outlives both.
 */
void
topics_checkpoint_store(Oid view_relid, MemoryContext cxt, NextTransaction next_transaction)
{
	MemoryContext old = MemoryContextSwitchTo(cxt);
	Checkpoint	checkpoint = {.view_relid = view_relid};

	collect(&checkpoint);
	store(&checkpoint);
	MemoryContextSwitchTo(old);
	next_transaction();
	for (int i = 0; i < checkpoint.count; i++)
	{
		PartitionState *state = checkpoint.ends[i].state;

		/* it may be another topic's by now, whose end is not this one */
		if (memcmp(&state->id, &checkpoint.ends[i].id, sizeof(TopicPartition)) != 0)
			continue;
		state->stored_floor = topics_max(state->stored_floor, checkpoint.ends[i].floor);
		if (checkpoint.is_cut)
			state->stored_high_watermark = topics_max(state->stored_high_watermark,
													  checkpoint.ends[i].floor);
	}
	pfree(checkpoint.ends);
}

/*
 * Return true if a partition's stored high watermark is at an offset, or
 * above.
 */
static bool
is_stored(const PartitionState *state, int64 offset)
{
	PartitionRow row;

	return topics_log_start_read_row(&state->id, NULL, &row) &&
		topics_max(row.high_watermark, row.log_start_offset) >= offset;
}

/*
 * Have the stored high watermark of a partition at an offset, or above, when
 * this transaction commits.  Return false if that cannot be done now.
 */
bool
topics_checkpoint_reach(const PartitionState *state, int64 offset)
{
	Checkpoint	checkpoint = {.view_relid = InvalidOid};

	if (is_stored(state, offset))
		return true;
	collect(&checkpoint);
	if (checkpoint.is_cut)
		store(&checkpoint);
	pfree(checkpoint.ends);
	CommandCounterIncrement();
	if (is_stored(state, offset))
		return true;
	if (topics_high_watermark_applies_to(state->set))
		return false;
	topics_log_start_raise_high_watermark(&state->id, offset);
	return true;
}
