/*-------------------------------------------------------------------------
 *
 * append.c
 *		From a transaction's buffer into the log: the commit's own work.
 *
 * Before the commit record: find the segments, lock them (destination.c), take
 * the append locks, look again, stamp and append (topics_append_records).
 * After it: publish the new ends and let go of the locks
 * (topics_append_publish).  transaction.c says when and why.
 *
 * Until the locks are held anything may change, and under them nothing does:
 * so all is found without them, in topics_destination_open_segments, and
 * checked under them, in destination_still_fits.  If the check fails, that
 * partition is looked at again.
 *
 * See docs/decisions/0001-offsets-at-commit.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/tableam.h"
#include "access/xact.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/predicate.h"
#include "storage/sinval.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "pg_topics.h"

#define APPEND_BATCH 1000		/* tuples handed to the access method at once */

static List *destinations = NIL;	/* in TopTransactionContext */
static Destination **appending = NULL;	/* sorted, from append to publish */
static int	nappending = 0;

/* From publish to the standbys' confirmation: what was published. */
static Destination **unconfirmed = NULL;
static int	nunconfirmed = 0;

static bool committing = false; /* records that come now would be lost */

/* The result of topics.last_produced(), and the one that will replace it. */
static ProducedRange *produced = NULL;
static int	nproduced = 0;
static ProducedRange *next_produced = NULL;
static int	nnext_produced = 0;

/* ----------------------------------------------------------------
 *		While the transaction runs
 * ----------------------------------------------------------------
 */

/*
 * Find or make the destination of a partition's records.  The topic's entry
 * in the catalogue's cache points to it; if that was loaded anew, the
 * destination is found in the list.
 */
static Destination *
find_destination(Topic *topic, int32 partition, bool is_replica)
{
	Destination *dest = topic->destinations[partition];
	MemoryContext old;
	ListCell   *lc;

	if (dest)
		return dest;

	old = MemoryContextSwitchTo(TopTransactionContext);
	foreach(lc, destinations)
	{
		Destination *other = lfirst(lc);

		if (other->id.topic_id == topic->topic_id && other->id.partition == partition)
			dest = other;
	}
	if (dest == NULL)
	{
		TopicPartition id = {MyDatabaseId, partition, topic->topic_id};
		int			set;

		/* whether there is a cluster */
		topics_cluster_attend();
		(void) topics_mark_slot_sets();
		set = topics_mark_slot_set_of(topics_leader_set_of(&topic->leader_sets, partition));
		if (!is_replica && topics_cluster_follows(set))
			topics_cluster_report_not_leader(set, NameStr(topic->name), partition);
		dest = palloc0(sizeof(Destination));
		dest->id = id;
		dest->set = set;
		dest->is_replica = is_replica;
		dest->topic = topic->name;
		dest->partition.number = partition;
		dest->records = topics_buffer_list();
		destinations = lappend(destinations, dest);
	}
	dest->partition.topic = topic;
	topic->destinations[partition] = dest;
	MemoryContextSwitchTo(old);
	return dest;
}

/* Add a record to a destination. */
static void
add_record(Topic *topic, Destination *dest, int64 offset, RecordDraft *draft)
{
	Datum		values[Natts_log];
	bool		nulls[Natts_log] = {false};

	if (committing)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot produce while the transaction commits"),
				 errdetail("A library that was loaded before pg_topics tried to."),
				 errhint("Put pg_topics first in shared_preload_libraries.")));
	values[Anum_log_offset - 1] = Int64GetDatum(offset);
	values[Anum_log_timestamp - 1] = TimestampTzGetDatum(draft->create_time);
	values[Anum_log_partition - 1] = Int32GetDatum(draft->partition);
	values[Anum_log_key - 1] = draft->key;
	nulls[Anum_log_key - 1] = draft->key_isnull;
	values[Anum_log_value - 1] = draft->value;
	nulls[Anum_log_value - 1] = draft->value_isnull;
	values[Anum_log_headers - 1] = draft->headers;
	nulls[Anum_log_headers - 1] = draft->headers_isnull;
	topics_buffer_add(dest->records, topic->tupdesc, values, nulls,
					  dest->is_replica ? 0 : topics_recheck_note(topic, &dest->checks));
}

/*
 * Add a checked record to the transaction.  The result is its number, from 0,
 * among those that go to its partition.
 */
int64
topics_append_buffer(Topic *topic, RecordDraft *draft)
{
	Destination *dest = find_destination(topic, draft->partition, false);

	if (dest->is_replica)
		elog(ERROR, "a transaction that replicates produces to the same partition");
	add_record(topic, dest, 0, draft);
	return topics_buffer_count(dest->records) - 1;
}

/*
 * This transaction brings a follower's partition from one log end to another,
 * as the leader has it.  The records follow, each with its offset: there may be
 * fewer than offsets, or none, where the leader has compacted its log or moved
 * its start.  The caller sees to what the catalogue has to say of such gaps.
 */
void
topics_append_replica_range(Topic *topic, int32 partition, int64 from, int64 upto)
{
	Destination *dest = find_destination(topic, partition, true);

	Assert(from < upto);
	if (topics_destination_span(dest) > 0)
		elog(ERROR, "a partition is replicated once in a transaction");
	dest->replica_from = from;
	dest->replica_upto = upto;
}

/* A record of such a range, whose offset is above that of the last one. */
void
topics_append_replica_record(Topic *topic, int64 offset, RecordDraft *draft)
{
	Destination *dest = find_destination(topic, draft->partition, true);

	Assert(dest->is_replica && offset >= dest->replica_from && offset < dest->replica_upto);
	add_record(topic, dest, offset, draft);
}

/* ----------------------------------------------------------------
 *		Before the commit record
 * ----------------------------------------------------------------
 */

/*
 * Under the lock: return true if what topics_destination_open_segments found
 * still holds.
 */
static bool
destination_still_fits(Destination *dest)
{
	PartitionState *state = dest->partition.state;
	int64		next = pg_atomic_read_u64(&state->next_offset);
	int64		last = next + topics_destination_span(dest) - 1;
	OpenSegment *lowest;
	OpenSegment *highest;

	Assert(topics_append_lock_held(state));
	if (memcmp(&state->id, &dest->id, sizeof(TopicPartition)) != 0 ||
		state->bounds_changes != dest->bounds_changes ||
		next == UNKNOWN_OFFSET || last >= state->append_limit ||
		!topics_destination_has_role(dest) ||
		(dest->is_replica && next != dest->replica_from))
		return false;
	lowest = linitial(dest->segments);
	highest = llast(dest->segments);
	if (next < lowest->segment.base_offset || last >= highest->segment.end_offset)
		return false;
	return !dest->in_one_segment ||
		last < topics_destination_find_segment(dest, next)->segment.end_offset;
}

/*
 * Do all that would have PostgreSQL wait under the append locks.  What is open
 * stays valid there, since we hear of no invalidation: so go on until none has
 * come since what is to be loaded was.
 */
static void
prepare_for_locks(void)
{
	uint64		heard;

	do
	{
		CHECK_FOR_INTERRUPTS();
		heard = SharedInvalidMessageCounter;
		topics_early_work_run();
		for (int i = 0; i < nappending; i++)
			topics_destination_load_toast(appending[i]);
	} while (heard != SharedInvalidMessageCounter);
}

/*
 * Error context: what the transaction waits for, and for whom.  A timeout, or a
 * cancel, says nothing of that.
 */
static void
describe_wait(void *arg)
{
	const TopicPartition *id = topics_append_wait_own();

	for (int i = 0; id != NULL && i < nappending; i++)
	{
		const Destination *dest = appending[i];
		int			holder = (int) pg_atomic_read_u32(&dest->partition.state->holder);

		if (memcmp(&dest->partition.state->id, id, sizeof(TopicPartition)) != 0)
			continue;
		if (holder != 0)
			errcontext("wait for process %d, which appends to partition %d of topic \"%s\"",
					   holder, id->partition, NameStr(dest->topic));
		else
			errcontext("wait to append to partition %d of topic \"%s\"",
					   id->partition, NameStr(dest->topic));
		break;
	}
}

/*
 * Raise the error of who appends to what another node has come to lead, unless
 * "set" is -1.
 */
static void
require_role(int set)
{
	for (int i = 0; unlikely(set >= 0) && i < nappending; i++)
		if (appending[i]->set == set)
			topics_cluster_report_not_leader(set, NameStr(appending[i]->topic), appending[i]->id.partition);
}

/* Take all append locks, with everything found right under them. */
static void
lock_destinations(void)
{
	PartitionState **states = palloc(sizeof(PartitionState *) * nappending);
	ErrorContextCallback callback = {error_context_stack, describe_wait, NULL};

	error_context_stack = &callback;
	for (int i = 0; i < nappending; i++)
		states[i] = appending[i]->partition.state;
	for (;;)
	{
		Destination *changed = NULL;

		prepare_for_locks();
		topics_append_role_wait();
		topics_append_lock_acquire(states, nappending);
		topics_append_role_note();
		for (int i = 0; i < nappending && changed == NULL; i++)
			if (!destination_still_fits(appending[i]))
				changed = appending[i];
		if (changed == NULL && !topics_append_role_must_wait())
		{
			require_role(topics_append_role_find_unexpected());
			break;
		}

		topics_append_lock_release();
		CHECK_FOR_INTERRUPTS();
		if (changed == NULL)
			continue;
		topics_catalog_close_partition(&changed->partition, NoLock);
		topics_destination_resolve(changed);
		topics_destination_open_segments(changed, destinations);
		for (int i = 0; i < nappending; i++)
			states[i] = appending[i]->partition.state;
	}
	error_context_stack = callback.previous;
	pfree(states);
}

/*
 * The block to append at, if it is known without asking for the size of the
 * segment: that of the last record that was published.  The rows that failed
 * transactions have put behind it are dead and stay where they are: when the
 * block is full, heap goes on behind all of them.
 */
static BlockNumber
find_last_block(const PartitionState *state, Relation segment_rel)
{
	if (state->active_blocks > 0 && state->active_file == segment_rel->rd_locator.relNumber)
		return state->active_blocks - 1;
	return InvalidBlockNumber;
}

/*
 * No record was appended: the segment of the new log end becomes the active
 * one.
 */
static void
note_place_without_records(Destination *dest)
{
	const PartitionState *state = dest->partition.state;
	const OpenSegment *open = topics_destination_find_segment(dest, dest->replica_upto - 1);
	bool		same = state->active_base == open->segment.base_offset;

	dest->active_base = open->segment.base_offset;
	dest->active_end = open->segment.end_offset;
	dest->active_blocks = same ? state->active_blocks : RelationGetNumberOfBlocks(open->rel);
	dest->active_toast_bytes = UNKNOWN_BYTES;
	dest->active_file = same ? state->active_file : open->rel->rd_locator.relNumber;
}

/* Count the tuples, from the first on, whose offsets are below an end. */
static int
count_below(const HeapTupleData *tuples, int ntuples, int64 end)
{
	int			count = 0;

	while (count < ntuples && topics_log_tuple_offset(&tuples[count]) < end)
		count++;
	return count;
}

/*
 * Append a destination's records from next_offset on; those of a replica have
 * their offsets.
 */
static void
append_destination(Destination *dest, TupleTableSlot **slots, HeapTupleData *tuples, int max)
{
	PartitionState *state = dest->partition.state;
	CommandId	cid = GetCurrentCommandId(true);
	int64		offset = pg_atomic_read_u64(&state->next_offset);
	OpenSegment *open = NULL;
	RecordCursor cursor;
	bool		is_first = true;
	TimestampTz last_timestamp = 0;
	int			count;

	dest->first_offset = offset;
	dest->append_time = 0;
	if (dest->log_append_time && !dest->is_replica)
		dest->append_time = topics_max(GetCurrentTimestamp(), state->last_append_time);
	pg_atomic_write_u64(&state->append_end, offset + topics_destination_span(dest));
	pg_write_barrier();
	pg_atomic_write_u32(&state->append_xid, GetTopTransactionId());
	topics_high_watermark_announce(state);

	topics_buffer_rewind(&cursor, dest->records);
	while ((count = topics_buffer_read(&cursor, tuples, max)) > 0)
	{
		int			done = 0;

		while (done < count)
		{
			int			fitting;

			/* the rows are dead then, and next_offset has not moved */
			CHECK_FOR_INTERRUPTS();
			if (dest->is_replica)
				offset = topics_log_tuple_offset(&tuples[done]);
			open = topics_destination_find_segment(dest, offset);
			fitting = dest->is_replica ?
				count_below(tuples + done, count - done, open->segment.end_offset) :
				Min(count - done, open->segment.end_offset - offset);
			for (int i = 0; i < fitting; i++)
				if (slots[i] == NULL)
					slots[i] = MakeSingleTupleTableSlot(dest->tupdesc, &TTSOpsHeapTuple);
			if (!dest->is_replica)
				topics_producer_stamp(&dest->id, dest->tupdesc, tuples + done, fitting,
									  offset - dest->first_offset);
			topics_log_append(open->rel, slots, tuples + done, fitting,
							  dest->is_replica ? GIVEN_OFFSETS : offset,
							  dest->append_time, cid,
							  is_first ? find_last_block(state, open->rel) : InvalidBlockNumber);
			is_first = false;
			offset += fitting;
			done += fitting;
			last_timestamp = topics_log_tuple_timestamp(&tuples[done - 1]);
		}
	}
	/* where this node leads one day, time does not go back either */
	if (dest->log_append_time && dest->is_replica)
		dest->append_time = topics_max(last_timestamp, state->last_append_time);
	Assert(dest->is_replica || offset == dest->first_offset + topics_destination_span(dest));
	/* readers of the partition are warned of more than the segments they saw */
	CheckForSerializableConflictIn(dest->partition.rel, NULL, InvalidBlockNumber);

	/*
	 * who has no records is no destination, but of a replica: they were
	 * compacted
	 */
	Assert(open != NULL || dest->is_replica);
	if (open == NULL)
	{
		note_place_without_records(dest);
		return;
	}
	dest->active_base = open->segment.base_offset;
	dest->active_end = open->segment.end_offset;
	dest->active_blocks = RelationGetTargetBlock(open->rel) + 1;
	dest->active_toast_bytes = topics_destination_measure_toast(open);
	dest->active_file = open->rel->rd_locator.relNumber;
}

static int
compare_destinations(const void *a, const void *b)
{
	const Destination *da = *(Destination *const *) a;
	const Destination *db = *(Destination *const *) b;
	int			ia = topics_partition_state_index(da->partition.state);
	int			ib = topics_partition_state_index(db->partition.state);

	return ia < ib ? -1 : ia > ib;
}

static int
compare_destination_ids(const ListCell *a, const ListCell *b)
{
	const TopicPartition *ia = &((const Destination *) lfirst(a))->id;
	const TopicPartition *ib = &((const Destination *) lfirst(b))->id;

	if (ia->topic_id != ib->topic_id)
		return ia->topic_id < ib->topic_id ? -1 : 1;
	return ia->partition < ib->partition ? -1 : ia->partition > ib->partition;
}

/*
 * Resolve the partitions that have records.  Their order is the same in all
 * processes.
 */
static void
collect_destinations(void)
{
	uint32		sets = 0;
	ListCell   *lc;

	appending = MemoryContextAlloc(TopTransactionContext,
								   sizeof(Destination *) * list_length(destinations));
	nappending = 0;
	/* tables are locked in the order in which domain.c locks them */
	list_sort(destinations, compare_destination_ids);
	foreach(lc, destinations)
	{
		Destination *dest = lfirst(lc);

		if (topics_destination_span(dest) == 0)
			continue;
		topics_destination_resolve(dest);
		appending[nappending++] = dest;
		sets |= 1 << dest->set;
	}
	topics_append_role_begin(sets, nappending > 0 && appending[0]->is_replica);
	if (nappending > 1)
		qsort(appending, nappending, sizeof(Destination *), compare_destinations);
}

/* Make room for what topics.last_produced() will say. */
static void
prepare_last_produced(void)
{
	if (next_produced)
		pfree(next_produced);
	next_produced = MemoryContextAlloc(TopMemoryContext, sizeof(ProducedRange) * nappending);
}

/* Note what the user produced, and not the offsets that were committed. */
static void
note_last_produced(void)
{
	nnext_produced = 0;
	for (int i = 0; i < nappending; i++)
	{
		ProducedRange *range = &next_produced[nnext_produced];

		if (topics_catalog_is_internal(NameStr(appending[i]->topic)))
			continue;
		range->topic = appending[i]->topic;
		range->partition = appending[i]->id.partition;
		range->first_offset = appending[i]->first_offset;
		range->record_count = topics_buffer_count(appending[i]->records);
		nnext_produced++;
	}
}

/*
 * Storing out-of-line values does not look at a snapshot, but assertions want
 * one, whether any value is to be stored or not.
 */
static bool
append_needs_snapshot(void)
{
#ifdef USE_ASSERT_CHECKING
	return true;
#else
	return topics_buffer_has_wide();
#endif
}

/*
 * Append the records of this transaction, and keep the append locks.  Return
 * false if there are none.  "require_fences" is called once the locks are
 * held: it raises an error if somebody else has been given meanwhile what the
 * transaction goes by.
 */
bool
topics_append_records(void (*require_fences) (void))
{
	MemoryContext old;
	TupleTableSlot **slots;
	HeapTupleData *tuples;
	int64		most = 0;
	bool		snapshot = false;

	committing = true;
	if (destinations == NIL)
		return false;
	AcceptInvalidationMessages();
	old = MemoryContextSwitchTo(TopTransactionContext);
	collect_destinations();
	if (nappending == 0)
	{
		topics_buffer_close();
		MemoryContextSwitchTo(old);
		return false;
	}

	if (append_needs_snapshot())
	{
		PushActiveSnapshot(GetLatestSnapshot());
		snapshot = true;
	}
	for (int i = 0; i < nappending; i++)
	{
		topics_destination_open_segments(appending[i], destinations);
		most = topics_max(most, topics_buffer_count(appending[i]->records));
	}
	prepare_last_produced();
	most = Min(most, APPEND_BATCH);
	slots = palloc0(sizeof(TupleTableSlot *) * most);
	tuples = palloc(sizeof(HeapTupleData) * most);
	(void) GetTopTransactionId();

	lock_destinations();
	TEST_POINT("append-locked");
	require_fences();
	for (int i = 0; i < nappending; i++)
		append_destination(appending[i], slots, tuples, most);
	TEST_POINT("append-done");
	/* another node may lead by now, whose log goes on without this */
	require_role(topics_append_role_find_changed());

	note_last_produced();
	for (int i = 0; i < nappending; i++)
	{
		topics_destination_close_segments(appending[i]);
		topics_catalog_close_partition(&appending[i]->partition, NoLock);
	}
	for (int i = 0; i < most && slots[i]; i++)
		ExecDropSingleTupleTableSlot(slots[i]);
	topics_buffer_close();
	if (snapshot)
		PopActiveSnapshot();

	MemoryContextSwitchTo(old);
	return true;
}

/* ----------------------------------------------------------------
 *		After the commit record
 * ----------------------------------------------------------------
 */

/* Publish a partition's new end, and ask the worker for what is due now. */
static void
publish_destination(Destination *dest, XLogRecPtr lsn)
{
	PartitionState *state = dest->partition.state;
	int64		next_offset = dest->first_offset + topics_destination_span(dest);
	uint32		requests = 0;

	Assert(topics_append_lock_held(state));
	Assert(dest->first_offset == (int64) pg_atomic_read_u64(&state->next_offset));

	if (dest->append_time != 0)
		state->last_append_time = dest->append_time;
	if (state->active_base != dest->active_base || state->active_started == 0)
	{
		state->active_base = dest->active_base;
		state->active_started = GetCurrentTimestamp();
		state->active_toast_bytes = 0;
		state->spare_at = topics_segment_half(dest->active_base, dest->active_end);
		/* what lies in the active segment may be expired from the start */
		requests |= REQUEST_DROP;
		if (dest->active_base > 0)
			requests |= REQUEST_SEAL;
	}
	state->active_blocks = dest->active_blocks;
	state->active_file = dest->active_file;
	if (dest->active_toast_bytes != UNKNOWN_BYTES)
		state->active_toast_bytes = dest->active_toast_bytes;
	if (next_offset >= state->spare_at)
	{
		state->spare_at = NO_LIMIT;
		requests |= REQUEST_SPARE;
	}
	if (topics_partition_state_active_bytes(state) >= dest->segment_bytes)
		requests |= REQUEST_ROLL;

	/* a reader that sees the new end sees an LSN that covers it */
	pg_atomic_write_u64(&state->commit_lsn, lsn);
	pg_atomic_write_u64(&state->publish_xid, pg_atomic_read_u32(&state->append_xid));
	pg_write_barrier();
	pg_atomic_write_u64(&state->next_offset, next_offset);
	pg_write_barrier();
	pg_atomic_write_u32(&state->append_xid, InvalidTransactionId);

	/*
	 * After the new end: a worker that takes a request off and sees the old
	 * end would find nothing to be done, and nobody would ask again.  The
	 * barrier is for the read below: a request that it finds set must not
	 * have been taken off before the new end could be seen.
	 */
	pg_memory_barrier();
	if ((pg_atomic_read_u32(&state->requests) & requests) != requests)
	{
		pg_atomic_fetch_or_u32(&state->requests, requests);
		topics_worker_registry_wake_worker();
	}
}

/*
 * This node has got another role since the append, which says whose log goes
 * on: this partition's end is looked up.  The caller holds the lock under
 * which roles change.
 */
static void
forget_destination(Destination *dest)
{
	PartitionState *state = dest->partition.state;

	pg_atomic_fetch_add_u32(&state->foreign_writes, 1);
	pg_atomic_write_u64(&state->next_offset, UNKNOWN_OFFSET);
	pg_write_barrier();
	pg_atomic_write_u32(&state->append_xid, InvalidTransactionId);
}

/*
 * Wake the processes that wait for records of these partitions.  The caller may
 * hold no lock: a topic that was dropped meanwhile has no readers, and its
 * states may be another one's, whose readers are not to miss anything.
 */
static void
wake_readers(Destination *const *published, int count)
{
	for (int i = 0; i < count; i++)
	{
		const Destination *dest = published[i];

		if (memcmp(&dest->partition.state->id, &dest->id, sizeof(TopicPartition)) != 0 ||
			dest->topic_state->id.topic_id != dest->id.topic_id)
			continue;
		topics_wakeup_published(dest->partition.state, dest->topic_state,
								dest->first_offset + topics_destination_span(dest));
		if (dest->notify)
			topics_moved_push(dest->partition.state);
	}
}

/*
 * From append to publish: the leader sets of what was appended, a bit for
 * each.
 */
uint32
topics_append_sets(void)
{
	return nappending > 0 ? topics_append_role_sets() : 0;
}

/*
 * Publish what was appended to a leader set.  Raises nothing; "lsn" is the end
 * of the commit record.  With "marks" the caller has begun a publication
 * (high_watermark.c).
 */
void
topics_append_publish(int set, XLogRecPtr lsn, bool marks)
{
	bool		is_overtaken = marks && topics_mark_slot_generation_of(set) != topics_append_role_generation(set);

	for (int i = 0; i < nappending; i++)
	{
		if (appending[i]->set != set)
			continue;
		if (is_overtaken)
			forget_destination(appending[i]);
		else
		{
			if (marks)
				topics_high_watermark_publish(appending[i]->partition.state);
			publish_destination(appending[i], lsn);
		}
	}
}

/*
 * Release the locks, and wake the processes that wait for what was published.
 * With "unconfirmed_yet" they will be woken once more.  Raises nothing.
 */
void
topics_append_release(bool unconfirmed_yet)
{
	topics_append_lock_release();
	topics_worker_registry_note_change();
	wake_readers(appending, nappending);
	unconfirmed = unconfirmed_yet ? appending : NULL;
	nunconfirmed = unconfirmed_yet ? nappending : 0;

	if (nnext_produced > 0)
	{
		if (produced)
			pfree(produced);
		produced = next_produced;
		nproduced = nnext_produced;
		next_produced = NULL;
	}
}

/*
 * The mark of what was published in a leader set is confirmed: return true if
 * that goes for all partitions of it.
 */
bool
topics_append_is_confirmed(int set)
{
	if (likely(!topics_replica_cut_has_exclusions(set)))
		return true;
	for (int i = 0; i < nunconfirmed; i++)
	{
		const Destination *dest = unconfirmed[i];

		if (dest->set == set && memcmp(&dest->partition.state->id, &dest->id, sizeof(TopicPartition)) == 0 &&
			topics_high_watermark_get(dest->partition.state) <
			dest->first_offset + topics_destination_span(dest))
			return false;
	}
	return true;
}

/*
 * Synchronous standbys have confirmed what was published: wake the processes
 * that wait for it again.  Raises nothing.
 */
void
topics_append_confirmed(void)
{
	wake_readers(unconfirmed, nunconfirmed);
	nunconfirmed = 0;
}

/*
 * What was appended is dead.  The lock was released, and another process may
 * append by now: then append_xid is not ours any more.
 */
void
topics_append_at_abort(void)
{
	for (int i = 0; i < nappending; i++)
	{
		uint32		xid = GetTopTransactionIdIfAny();

		if (TransactionIdIsValid(xid))
			(void) pg_atomic_compare_exchange_u32(&appending[i]->partition.state->append_xid, &xid,
												  InvalidTransactionId);
	}
}

static const Destination *
get_appending(int64 topic_id, int32 partition)
{
	for (int i = 0; i < nappending; i++)
		if (appending[i]->id.topic_id == topic_id && appending[i]->id.partition == partition)
			return appending[i];
	pg_unreachable();
}

/* From append to publish: the first offset of our records in a partition. */
int64
topics_append_first_offset(int64 topic_id, int32 partition)
{
	return get_appending(topic_id, partition)->first_offset;
}

/* The same, while we append: also of a partition whose turn has not come. */
int64
topics_append_next_offset(int64 topic_id, int32 partition)
{
	return pg_atomic_read_u64(&get_appending(topic_id, partition)->partition.state->next_offset);
}

/*
 * Get the leader sets of the records that wait for the commit, a bit for each.
 */
uint32
topics_append_pending_sets(void)
{
	uint32		sets = 0;
	ListCell   *lc;

	foreach(lc, destinations)
	{
		const Destination *dest = lfirst(lc);

		if (topics_destination_span(dest) > 0)
			sets |= 1 << dest->set;
	}
	return sets;
}

/* Return true if there are records that wait for the commit. */
bool
topics_append_is_pending(void)
{
	ListCell   *lc;

	foreach(lc, destinations)
	{
		if (topics_destination_span(lfirst(lc)) > 0)
			return true;
	}
	return false;
}

/*
 * From append to publish: return true if the transaction has produced to
 * anything but the cluster's metadata.  Administration is not to hang without
 * followers.
 */
bool
topics_append_may_wait(void)
{
	for (int i = 0; i < nappending; i++)
	{
		if (strcmp(NameStr(appending[i]->topic), METADATA_TOPIC) != 0)
			return true;
	}
	return false;
}

/* Forget all at the end of a transaction. */
void
topics_append_forget(void)
{
	ListCell   *lc;

	foreach(lc, destinations)
	{
		Destination *dest = lfirst(lc);
		Topic	   *topic = dest->partition.topic;

		/* the topic's array may have another length by now, but is its own */
		if (topic->topic_id == dest->id.topic_id && dest->id.partition < topic->partitions)
			topic->destinations[dest->id.partition] = NULL;
	}
	topics_buffer_reset();
	committing = false;
	destinations = NIL;
	appending = NULL;
	nappending = 0;
}

const ProducedRange *
topics_append_last_produced(int *count)
{
	*count = nproduced;
	return produced;
}
