/*-------------------------------------------------------------------------
 *
 * keep/keep.h
 *		What becomes of records later: retention and compaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PG_TOPICS_KEEP_H
#define PG_TOPICS_KEEP_H

#include "access/tableam.h"
#include "executor/tuptable.h"
#include "nodes/pg_list.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "pg_topics.h"

/* ---- retention.c ---- */

extern bool topics_retention_is_due(const TopicSettings *settings, const PartitionState *state);
extern bool topics_retention_advance(Partition *partition);
extern bool topics_retention_drop(Partition *partition);
extern bool topics_retention_lock_is_free(Oid relid);
extern bool topics_retention_lock(Oid relid);

/* ---- due.c ---- */

extern void topics_due_collect(Topic *topic, int32 partition, WorkDue *due);

/* ---- compact.c ---- */

typedef enum CompactResult
{
	COMPACT_DONE,				/* nothing more is to be done */
	COMPACT_MORE,				/* the next turn can come at once */
	COMPACT_LATER				/* another process is in the way */
} CompactResult;

extern bool topics_compact_is_due(const TopicSettings *settings, const PartitionState *state);
extern bool topics_compact_is_wanted(const TopicSettings *settings, const PartitionState *state);
extern bool topics_compact_is_running(void);
extern void topics_compact_look(Partition *partition);
extern CompactResult topics_compact_turn(Partition *partition);
extern void topics_compact_note_unsealed(PartitionState *state);
extern void topics_compact_check(bool later);
extern void topics_compact_abandon(void);

/* ---- compact_segment.c ---- */

/* A segment that a run of compaction may replace, and what becomes of it. */
typedef struct CompactCandidate
{
	Segment		segment;
	int64		bytes;			/* on disk, now */
	bool		counted;		/* else nothing goes from it, and it was not
								 * read */
	int64		records;
	int64		live;
	bool		tombstones;		/* among those that stay, clean or not */
	TimestampTz tombstones_from;	/* since when all of them are clean; 0:
									 * not all are, or there are none */
	TimestampTz sealed_at;
} CompactCandidate;

/* Segments to be replaced by one. */
typedef struct SegmentGroup
{
	List	   *candidates;
	int64		read;			/* bytes on disk, now */
	int64		live;			/* of these, what stays */
	int64		dead;			/* records that go */
	bool		tombstones;
	TimestampTz tombstones_from;
} SegmentGroup;

/* A run of compaction, from turn to turn. */
typedef struct CompactRun
{
	MemoryContext cxt;			/* of the map */
	TopicPartition id;
	OffsetMap  *map;
	bool		mapping;		/* else copying */
	MonotonicTime not_before;	/* locks were in the way */
	MonotonicTime give_up_at;	/* should they still be; 0: none is */
	Oid			blocked;		/* the table that was locked */
	bool		full;			/* the map is full: there may be more to do */
	bool		expired;		/* there are tombstones to be let go */
	bool		delayed;		/* mapping has ended at what is in the way */
	bool		changed;		/* records have gone */
	int64		clean_offset;	/* where the clean part ended */
	int64		next;			/* to be mapped next; to be copied next */
	int64		mapped;			/* end of what is mapped */
	Oid			froze;			/* the segment that was frozen last */
	CompactCandidate counted;	/* did not go with the last group */
} CompactRun;

/* A turn of it, in which segments are replaced. */
typedef struct CompactTurn
{
	CompactRun *run;
	const TopicSettings *settings;
	const Partition *partition; /* open only while segments are chosen */
	int64		log_start;		/* as it is published */
	int64		lowest_start;	/* below it no snapshot reads */
} CompactTurn;

extern List *topics_compact_segment_list(const Partition *partition, int64 from, int64 below);
extern bool topics_compact_segment_tombstones_expired(const CompactCandidate *candidate,
													  const TopicSettings *settings);
extern TableScanDesc topics_compact_segment_begin_scan(Relation rel, Snapshot snapshot);
extern bool topics_compact_segment_next_row(TableScanDesc scan, TupleTableSlot *slot);
extern bool topics_compact_segment_hash_key(const CompactRun *run, TupleTableSlot *slot,
											KeyHash *hash);
extern SegmentGroup topics_compact_segment_choose(const CompactTurn *turn, bool *busy);
extern bool topics_compact_segment_replace(const CompactTurn *turn, const SegmentGroup *group);

/* ---- pace.c ---- */

extern void topics_pace_limit(int *rate);
extern void topics_pace_begin(Oid root_relid, Oid partition_relid);
extern void topics_pace_note_locked(Oid segment_relid);
extern void topics_pace_account(Size bytes);

/* ---- checkpoint.c ---- */

extern void topics_checkpoint_store(Oid view_relid, MemoryContext cxt,
									NextTransaction next_transaction);
extern bool topics_checkpoint_reach(const PartitionState *state, int64 offset);

/* ---- maintain.c ---- */

extern bool topics_maintain_is_due(Topic *topic, int32 partition);
extern List *topics_maintain_collect_compaction(MemoryContext cxt);
extern bool topics_maintain_compact(Oid view_relid, int32 partition,
									NextTransaction next_transaction);
extern bool topics_maintain_partition(Oid view_relid, int32 partition, bool roll,
									  NextTransaction next_transaction);

#endif							/* PG_TOPICS_KEEP_H */
