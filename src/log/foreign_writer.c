/*-------------------------------------------------------------------------
 *
 * foreign_writer.c
 *		Writers that insert into a segment without log.c.
 *
 * These are COPY and INSERT of a restore, and a logical replication worker.
 * They bring their offsets with them, so nothing is stamped, but a foreign
 * writer must not run beside a producer or another foreign writer.  At its
 * first row it takes SHARE ROW EXCLUSIVE on the partition's table, until its
 * transaction ends.  A committing producer holds ROW EXCLUSIVE there, and so
 * conflicts.  The offsets must go up, and within a segment leave no gap, unless
 * the log is compacted, or the catalogue's rows are still to come.  The first
 * offset of a segment is not checked: a restore brings segments in any order,
 * and a copy may begin where the log that it is of did.  Such a gap shows in
 * topics.broken_topic (broken_topic.c).
 *
 * When it commits, the partition's next_offset becomes unknown, and is looked
 * up in the log anew (log_end.c, foreign_writes).
 *
 * After the commit record nothing here raises: what it needs is found in
 * topics_foreign_writer_pre_commit.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/partition.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "base/compat.h"
#include "shared/shared.h"
#include "log/log.h"
#include "pg_topics.h"

/* Where the foreign writer of this transaction wrote last, and what. */
typedef struct LatestWrite
{
	Oid			relid;
	LocalTransactionId lxid;
	SubTransactionId subxid;
	int64		last_offset;
	int64		gaps_below;		/* no gap may end above; it may anywhere where
								 * the catalogue does not say */
} LatestWrite;

static LatestWrite latest = {InvalidOid};

/* Tables of the partitions that it wrote to, in TopTransactionContext. */
static List *partitions = NIL;

/* The states of these, from before the commit record to after it. */
static PartitionState **states = NULL;
static PartitionState **topic_states = NULL;	/* of their partitions 0 */
static int	nstates = 0;
static int	nannounced = 0;		/* of these, that others know to be in a
								 * commit */

/* ----------------------------------------------------------------
 *		While the transaction runs
 * ----------------------------------------------------------------
 */

/*
 * Lock a partition's table as a foreign writer does, and note that this
 * transaction changes the log.
 */
void
topics_foreign_writer_note(Oid partition_relid)
{
	LockRelationOid(partition_relid, ShareRowExclusiveLock);
	if (!list_member_oid(partitions, partition_relid))
	{
		MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

		partitions = lappend_oid(partitions, partition_relid);
		MemoryContextSwitchTo(old);
	}
}

/* Look up below which offset the rows of a segment may have gaps. */
static int64
find_gaps_below(Relation rel)
{
	TopicPartition id = {.database = MyDatabaseId};
	int64		sequence;
	PartitionRow row;
	Topic	   *topic;

	if (!topics_log_am_parse_name(RelationGetRelationName(rel), &id.topic_id, &id.partition,
								  &sequence) ||
		!topics_log_start_read_row(&id, NULL, &row))
		return PG_INT64_MAX;
	topic = topics_catalog_by_id(id.topic_id);
	return topic == NULL || topic->settings.compact ? PG_INT64_MAX : row.gaps_below;
}

/* Begin with a segment: its first foreign row in this (sub)transaction. */
static void
begin_segment(Relation rel)
{
	topics_foreign_writer_note(get_partition_parent(RelationGetRelid(rel), true));
	latest.last_offset = topics_log_am_last_offset(rel);
	latest.gaps_below = find_gaps_below(rel);
	latest.relid = RelationGetRelid(rel);
	latest.lxid = topics_lxid();
	latest.subxid = GetCurrentSubTransactionId();
}

/* Check rows to be inserted into a segment: their offsets must follow. */
void
topics_foreign_writer_check(Relation rel, TupleTableSlot **slots, int nslots)
{
	if (latest.relid != RelationGetRelid(rel) || latest.lxid != topics_lxid() ||
		latest.subxid != GetCurrentSubTransactionId())
		begin_segment(rel);

	for (int i = 0; i < nslots; i++)
	{
		bool		isnull;
		int64		offset = DatumGetInt64(slot_getattr(slots[i], Anum_log_offset, &isnull));

		if (isnull || offset <= latest.last_offset)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("offset " INT64_FORMAT " cannot be written to %s",
							offset, topics_catalog_describe_log(RelationGetRelid(rel))),
					 errdetail("The log already has offset " INT64_FORMAT ", and is append-only.",
							   latest.last_offset),
					 errhint("Write records through topics.produce() or the topic's view.")));
		if (latest.last_offset >= 0 && offset > latest.last_offset + 1 &&
			offset > latest.gaps_below)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("offset " INT64_FORMAT " cannot be written to %s",
							offset, topics_catalog_describe_log(RelationGetRelid(rel))),
					 errdetail("The log has no offset between " INT64_FORMAT " and this one, and is dense.",
							   latest.last_offset),
					 errhint("The copy of a compacted log must have \"compact\" in its cleanup_policy.")));
		latest.last_offset = offset;
	}
}

/* Return true if this transaction is a foreign writer of the partition. */
bool
topics_foreign_writer_wrote_to(Oid partition_relid)
{
	return list_member_oid(partitions, partition_relid);
}

/* Return true if this transaction is a foreign writer. */
bool
topics_foreign_writer_is_pending(void)
{
	return partitions != NIL;
}

/* ----------------------------------------------------------------
 *		At its end
 * ----------------------------------------------------------------
 */

/* From here on nobody meets a commit of ours that is not published. */
static void
end_announcements(void)
{
	while (nannounced > 0)
		pg_atomic_fetch_sub_u32(&states[--nannounced]->foreign_commits, 1);
}

/* What was confirmed before our rows is to be known. */
static void
make_end_known(Oid partition_relid, PartitionState *state)
{
	Partition	partition = {.relid = partition_relid,.state = state};

	if (pg_atomic_read_u64(&state->next_offset) != UNKNOWN_OFFSET)
		return;
	partition.rel = table_open(partition_relid, AccessShareLock);
	(void) topics_log_next_offset(&partition);
	table_close(partition.rel, NoLock);
}

/* Find the states of the partitions. */
void
topics_foreign_writer_pre_commit(void)
{
	ListCell   *lc;

	nstates = 0;
	if (partitions == NIL)
		return;
	states = MemoryContextAlloc(TopTransactionContext,
								sizeof(PartitionState *) * list_length(partitions));
	topic_states = MemoryContextAlloc(TopTransactionContext,
									  sizeof(PartitionState *) * list_length(partitions));
	foreach(lc, partitions)
	{
		TopicPartition id = {.database = MyDatabaseId};
		char	   *name = get_rel_name(lfirst_oid(lc));
		int64		sequence;

		if (name && topics_log_am_parse_name(name, &id.topic_id, &id.partition, &sequence))
		{
			TopicPartition first = {MyDatabaseId, 0, id.topic_id};

			topic_states[nstates] = topics_catalog_get_state(&first);
			states[nstates] = topics_catalog_get_state(&id);
			if (topics_high_watermark_applies_to(states[nstates]->set) ||
				topics_mark_slot_kind_of(states[nstates]->set) == CLUSTER_LEADER)
				make_end_known(lfirst_oid(lc), states[nstates]);
			pg_atomic_fetch_add_u32(&states[nstates]->foreign_commits, 1);
			nannounced = nstates + 1;
			topics_high_watermark_announce(states[nstates++]);
		}
	}
}

/* The leader sets of what was written, a bit for each. */
uint32
topics_foreign_writer_sets(void)
{
	uint32		sets = 0;

	for (int i = 0; i < nstates; i++)
		sets |= 1 << topics_mark_slot_set_of(states[i]->set);
	return sets;
}

/*
 * After the commit record, whose end is "lsn": make the log ends in a leader
 * set unknown, so that they are looked up anew; log_end.c says why this order
 * is right.  With "marks" the caller has begun a publication
 * (high_watermark.c).  Raises nothing.
 */
void
topics_foreign_writer_publish(int set, XLogRecPtr lsn, bool marks)
{
	for (int i = 0; i < nstates; i++)
	{
		if (topics_mark_slot_set_of(states[i]->set) != set)
			continue;
		if (marks)
			topics_high_watermark_publish(states[i]);
		pg_atomic_write_u64(&states[i]->commit_lsn, lsn);
		pg_atomic_fetch_add_u32(&states[i]->foreign_writes, 1);
		pg_atomic_write_u64(&states[i]->next_offset, UNKNOWN_OFFSET);
	}
}

/* All is published. */
void
topics_foreign_writer_end(void)
{
	end_announcements();
}

/*
 * Tell of what was published: "changed" is called for the topic of each
 * partition, once the old end is gone and before a process that waits is woken.
 * Raises nothing.
 */
void
topics_foreign_writer_tell(TopicCallback changed)
{
	for (int i = 0; i < nstates; i++)
	{
		changed(states[i]->id.topic_id);
		topics_wakeup_published(states[i], topic_states[i], UNKNOWN_OFFSET);
		topics_moved_push(states[i]);
		topics_worker_registry_note_change();
	}
}

/* Forget all at the end of a transaction. */
void
topics_foreign_writer_forget(void)
{
	end_announcements();
	latest.relid = InvalidOid;
	partitions = NIL;
	states = topic_states = NULL;
	nstates = 0;
}
