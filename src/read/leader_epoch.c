/*-------------------------------------------------------------------------
 *
 * leader_epoch.c
 *		Leader epochs: for readers who had passed what was truncated.
 *
 * A leader epoch is a term, in which one node leads (node/promise.c).  An
 * offset that was given in one epoch, and was truncated since, may be given
 * again in a later one, to another record.  So an offset alone does not tell a
 * reader that what it read is gone: the epoch does, as in Kafka (KIP-320).  A
 * reader keeps the latest epoch that there was when it read, and the records
 * of that epoch end, in a log that has it, where the next one began.  In a log
 * that does not have the epoch its records are gone.
 *
 * THE CHAIN of epochs, with the ends that all logs had when each began, are
 * records of __cluster_metadata (node/metadata.c).  A session keeps what it
 * has read of them, and goes on from there; from the beginning if anything was
 * truncated since, or the topic made anew.  Only what a reader could see
 * counts for it: an epoch whose record is not confirmed has no confirmed
 * records either.  It may be newer than the records which the reader's
 * snapshot sees: they are in the log that the epoch went on from, as no
 * snapshot is good that is older than a truncation (log/read_cut.c).
 *
 * Without a cluster all is of epoch 0, and so is what was there before a
 * cluster was made.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "executor/tuptable.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "read/read.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_offset_for_leader_epoch);

#define EPOCH_KEY "epoch/"		/* of a record, before its number */
#define FIRST_EPOCHS 16			/* room for as many at first */

/* Arguments of offset_for_leader_epoch. */
enum
{
	EPOCH_TOPIC,
	EPOCH_PARTITION,
	EPOCH_LEADER_EPOCH
};

/* Columns of its result. */
enum
{
	EPOCH_END_EPOCH,
	EPOCH_END_OFFSET,
	EPOCH_END_COLUMNS
};

/* A leader epoch, as the first record of its term says. */
typedef struct LeaderEpoch
{
	int64		number;
	int64		record_offset;	/* in the metadata */
	Jsonb	   *ends;			/* of all logs when it began */
} LeaderEpoch;

/* What this session has read of the metadata of a leader set. */
typedef struct EpochChain
{
	MemoryContext cxt;			/* of all that is below; NULL: nothing is */
	Oid			view_relid;		/* of the topic that was read */
	int64		topic_id;
	TransactionId truncated_by; /* the latest truncation by then */
	int64		read_upto;		/* an offset */
	LeaderEpoch *epochs;		/* numbers rise */
	int			count;
	int			room;
} EpochChain;

static EpochChain chains[MAX_LEADER_SETS];
static EpochChain *chain = chains;	/* that was looked at last */

/* ----------------------------------------------------------------
 *		The chain
 * ----------------------------------------------------------------
 */

/* Forget what was read of another topic, or before a truncation. */
static void
begin_chain(const Topic *topic, TransactionId truncated_by, int64 end)
{
	/* a standby hears of no truncation */
	if (chain->cxt && chain->view_relid == topic->view_relid && chain->topic_id == topic->topic_id &&
		chain->truncated_by == truncated_by && chain->read_upto <= end && !RecoveryInProgress())
		return;
	if (chain->cxt)
		MemoryContextDelete(chain->cxt);
	memset(chain, 0, sizeof(EpochChain));
	chain->cxt = AllocSetContextCreate(TopMemoryContext, "pg_topics leader epochs", ALLOCSET_DEFAULT_SIZES);
	chain->view_relid = topic->view_relid;
	chain->topic_id = topic->topic_id;
	chain->truncated_by = truncated_by;
	chain->room = FIRST_EPOCHS;
	chain->epochs = MemoryContextAlloc(chain->cxt, sizeof(LeaderEpoch) * chain->room);
}

/* Add the epoch of a record, if it is one that begins a term. */
static void
add_epoch(TupleTableSlot *slot)
{
	LeaderEpoch epoch;
	Jsonb	   *value;
	JsonbValue *ends;
	Datum		datum;
	bool		isnull;
	char	   *key;

	datum = slot_getattr(slot, Anum_log_key, &isnull);
	key = isnull ? NULL : TextDatumGetCString(datum);
	datum = slot_getattr(slot, Anum_log_value, &isnull);
	if (key == NULL || isnull || strncmp(key, EPOCH_KEY, strlen(EPOCH_KEY)) != 0)
		return;
	value = DatumGetJsonbP(datum);
	epoch.number = topics_json_number(topics_json_field(value, "term"), 0);
	ends = topics_json_field(value, "ends");
	if (ends == NULL || ends->type != jbvBinary ||
		(chain->count > 0 && epoch.number <= chain->epochs[chain->count - 1].number))
		return;
	epoch.record_offset = topics_log_get_offset(slot);
	if (chain->count == chain->room)
	{
		chain->epochs = repalloc(chain->epochs, sizeof(LeaderEpoch) * chain->room * 2);
		chain->room *= 2;
	}
	epoch.ends = JsonbValueToJsonb(ends);
	epoch.ends = memcpy(MemoryContextAlloc(chain->cxt, VARSIZE(epoch.ends)), epoch.ends, VARSIZE(epoch.ends));
	chain->epochs[chain->count++] = epoch;
}

/* Read the records up to an offset that were not read before. */
static void
read_records(const Partition *partition, int64 upto)
{
	bool		shows_all = topics_read_cut_show_all(true);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	LogReader  *reader = topics_log_reader_open(partition->rel, chain->read_upto, upto, snapshot, false);
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "pg_topics record", ALLOCSET_DEFAULT_SIZES);
	TupleTableSlot *slot;

	while ((slot = topics_log_reader_next(reader)) != NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(cxt);

		CHECK_FOR_INTERRUPTS();
		add_epoch(slot);
		/* an error from here on has nothing added twice */
		chain->read_upto = topics_log_get_offset(slot) + 1;
		MemoryContextSwitchTo(old);
		MemoryContextReset(cxt);
	}
	chain->read_upto = upto;
	topics_log_reader_close(reader);
	MemoryContextDelete(cxt);
	UnregisterSnapshot(snapshot);
	(void) topics_read_cut_show_all(shows_all);
}

/*
 * Read what is new of the chain of a leader set, and return the number of
 * epochs that a reader with a snapshot may know of; all with none.
 */
static int
load_chain(int set, Snapshot snapshot)
{
	Topic	   *topic = topics_catalog_lookup(METADATA_TOPIC, true);
	TransactionId truncated_by = topics_high_watermark_truncated_by(set);
	Partition	partition;
	int64		end;
	int64		limit = PG_INT64_MAX;
	int			count;

	chain = &chains[set];
	if (topic == NULL || set >= topic->partitions)
		return 0;
	partition = topics_catalog_open_for_reading(topic, set);
	end = topics_log_next_offset(&partition);
	begin_chain(topic, truncated_by, end);
	if (end > chain->read_upto)
		read_records(&partition, end);
	if (snapshot)
		limit = topics_log_end(&partition, snapshot);
	topics_catalog_close_partition(&partition, AccessShareLock);
	for (count = chain->count; count > 0 && chain->epochs[count - 1].record_offset >= limit; count--)
		;
	return count;
}

/* ----------------------------------------------------------------
 *		Where epochs end
 * ----------------------------------------------------------------
 */

/* Get where an epoch begins in a partition, or UNKNOWN_OFFSET. */
static int64
get_start(const LeaderEpoch *epoch, int64 topic_id, int32 partition)
{
	JsonbValue *ends = topics_json_field(epoch->ends, psprintf(INT64_FORMAT, topic_id));
	JsonbValue *end;

	/* the topic, or the partition, was made later */
	if (ends == NULL || ends->type != jbvBinary)
		return 0;
	end = getIthJsonbValueFromContainer(ends->val.binary.data, partition);
	return end ? topics_json_number(end, UNKNOWN_OFFSET) : 0;
}

/*
 * Get where the epoch before one of an index ends in a partition, or
 * PG_INT64_MAX.
 */
static int64
get_end_before(int index, int count, int64 topic_id, int32 partition)
{
	for (int i = index; i < count; i++)
	{
		int64		start = get_start(&chain->epochs[i], topic_id, partition);

		if (start != UNKNOWN_OFFSET)
			return start;
	}
	return PG_INT64_MAX;
}

/* Return the number of epochs, of so many, that are not above a number. */
static int
count_upto(int count, int64 number)
{
	while (count > 0 && chain->epochs[count - 1].number > number)
		count--;
	return count;
}

static int64
get_epoch_number(int count)
{
	return count > 0 ? chain->epochs[count - 1].number : 0;
}

/*
 * Require a reader that goes on from an offset, and has read up to there in a
 * leader epoch, to have read what is in the log.
 */
void
topics_leader_epoch_check(const Topic *topic, int32 partition, int64 from, int32 leader_epoch,
						  Snapshot snapshot)
{
	int			count = load_chain(topics_leader_set_of(&topic->leader_sets, partition), snapshot);
	int			upto = count_upto(count, leader_epoch);
	int64		end;

	if (leader_epoch > get_epoch_number(count))
		ereport(ERROR,
				(errcode(ERRCODE_NOT_LEADER),
				 errmsg("this node does not know leader epoch %d", leader_epoch),
				 errdetail("UNKNOWN_LEADER_EPOCH: the latest that it knows is " INT64_FORMAT ".", get_epoch_number(count)),
				 errhint("Try again, when this node has what the leader has, or on the node that leads.")));
	end = get_end_before(upto, count, topic->topic_id, partition);
	if (leader_epoch == get_epoch_number(upto) && from <= end)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_LOG_TRUNCATED),
			 errmsg("partition %d of topic \"%s\" was truncated", partition, NameStr(topic->name)),
			 leader_epoch == get_epoch_number(upto) ?
			 errdetail("LogTruncationException: the records of leader epoch %d end at offset " INT64_FORMAT ", before offset " INT64_FORMAT ".",
					   leader_epoch, end, from) :
			 errdetail("LogTruncationException: none of the records of leader epoch %d are in the log.", leader_epoch),
			 leader_epoch == get_epoch_number(upto) ?
			 errhint("Go back to offset " INT64_FORMAT ", with leader_epoch => %d: what was read from there on is gone.",
					 end, leader_epoch) :
			 errhint("Go back to where that epoch began in what was read, with the leader_epoch before it.")));
}

/*
 * Return the latest leader epoch of a partition that a reader with a snapshot
 * may know of.
 */
int64
topics_leader_epoch_latest(const Topic *topic, int32 partition, Snapshot snapshot)
{
	return get_epoch_number(load_chain(topics_leader_set_of(&topic->leader_sets, partition), snapshot));
}

/* Read all that there is of the chains, for topics_leader_epoch_find_end. */
void
topics_leader_epoch_load(void)
{
	for (int set = -1; (set = topics_leader_set_after(topics_mark_slot_sets(), set)) >= 0;)
		(void) load_chain(set, NULL);
}

/*
 * A record of a log says an offset of another partition's log, of the same
 * leader set.  Return where the log of that partition ended when the epoch
 * after that record's began, or PG_INT64_MAX.  The chain was loaded before.
 */
int64
topics_leader_epoch_find_end(int set, const TopicPartition *log, int64 record_offset, int64 topic_id, int32 partition)
{
	int			count = chains[set].count;
	int			after = count;

	chain = &chains[set];

	while (after > 0)
	{
		int64		start = get_start(&chain->epochs[after - 1], log->topic_id, log->partition);

		if (start == UNKNOWN_OFFSET || start <= record_offset)
			break;
		after--;
	}
	return get_end_before(after, count, topic_id, partition);
}

/*
 * Return an argument that is a leader epoch, or NO_LEADER_EPOCH if it is NULL.
 */
int32
topics_leader_epoch_argument(FunctionCallInfo fcinfo, int argument)
{
	int32		result = PG_ARGISNULL(argument) ? NO_LEADER_EPOCH : PG_GETARG_INT32(argument);

	if (!PG_ARGISNULL(argument) && result < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid leader_epoch: %d", result),
				 errdetail("It must be from 0 to %d.", PG_INT32_MAX)));
	return result;
}

/* offset_for_leader_epoch(topic, partition, leader_epoch) */
Datum
topics_offset_for_leader_epoch(PG_FUNCTION_ARGS)
{
	int32		wanted;
	Topic	   *topic;
	Partition	partition;
	TupleDesc	desc;
	Datum		values[EPOCH_END_COLUMNS] = {0};
	bool		nulls[EPOCH_END_COLUMNS] = {false};
	int			count;
	int			upto;
	int64		end;

	topics_settings_require_preload();
	topics_argument_require_all(fcinfo, EPOCH_LEADER_EPOCH);
	wanted = topics_leader_epoch_argument(fcinfo, EPOCH_LEADER_EPOCH);
	topic = topics_catalog_lookup(text_to_cstring(PG_GETARG_TEXT_PP(EPOCH_TOPIC)), false);
	topics_catalog_require(topic, ACL_SELECT);
	partition = topics_catalog_open_for_reading(topic, PG_GETARG_INT32(EPOCH_PARTITION));

	count = load_chain(partition.state->set, GetActiveSnapshot());
	upto = wanted == NO_LEADER_EPOCH ? count : count_upto(count, wanted);
	end = topics_min(get_end_before(upto, count, topic->topic_id, partition.number),
					 topics_log_end(&partition, GetActiveSnapshot()));
	topics_catalog_close_partition(&partition, AccessShareLock);

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	nulls[EPOCH_END_EPOCH] = nulls[EPOCH_END_OFFSET] = wanted > get_epoch_number(count);
	values[EPOCH_END_EPOCH] = Int32GetDatum((int32) get_epoch_number(upto));
	values[EPOCH_END_OFFSET] = Int64GetDatum(end);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
