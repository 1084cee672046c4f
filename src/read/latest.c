/*-------------------------------------------------------------------------
 *
 * latest.c
 *		A topic as a table of state: the latest record of each key.
 *
 * Each partition is scanned twice: the first scan maps each key to its latest
 * offset (offset_map.c), the second returns the records at those offsets.  If
 * the map does not fit the memory of a hash table (work_mem,
 * hash_mem_multiplier), it is made for a slice of the keys at a time, chosen by
 * their hash: twice as many slices, until one fits.
 *
 * Nothing asks whether the log is compacted: compaction makes this faster, and
 * the result the same.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "log/log.h"
#include "read/read.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_latest);

/* The argument of latest. */
enum
{
	LATEST_TOPIC
};

/* Bits of the half of a key's hash that slices are chosen by. */
#define HASH_BITS 64

/* Keys whose hash begins with "bits" bits of the value "number". */
typedef struct Slice
{
	int			bits;
	uint64		number;
} Slice;

/* A partition being read. */
typedef struct Reading
{
	Relation	partition_rel;
	int64		start;
	int64		end;
	Snapshot	snapshot;
	OffsetMap  *map;
	MemoryContext cxt;			/* per record */
} Reading;

/* Return true if a record has a key of the slice; *hash is the key's hash. */
static bool
has_key_of_slice(Reading *reading, TupleTableSlot *slot, Slice slice, KeyHash *hash)
{
	bool		isnull;
	Datum		key = slot_getattr(slot, Anum_log_key, &isnull);

	if (isnull)
		return false;
	*hash = topics_offset_map_hash(reading->map,
								   TupleDescAttr(slot->tts_tupleDescriptor, Anum_log_key - 1), key);
	return slice.bits == 0 || hash->hash[1] >> (HASH_BITS - slice.bits) == slice.number;
}

/* Map the keys of a slice; return false if they are too many. */
static bool
map_slice(Reading *reading, Slice slice)
{
	LogReader  *reader = topics_log_reader_open(reading->partition_rel, reading->start, reading->end,
												reading->snapshot, true);
	TupleTableSlot *slot;
	bool		fits = true;

	topics_offset_map_clear(reading->map);
	while (fits && (slot = topics_log_reader_next(reader)) != NULL)
	{
		KeyHash		hash;

		CHECK_FOR_INTERRUPTS();
		if (has_key_of_slice(reading, slot, slice, &hash))
			fits = topics_offset_map_put(reading->map, &hash, topics_log_get_offset(slot));
	}
	topics_log_reader_close(reader);
	return fits;
}

/* Add the latest record of each key of a slice that is mapped to the result. */
static void
put_slice(Reading *reading, Slice slice, FetchResult *result)
{
	LogReader  *reader = topics_log_reader_open(reading->partition_rel, reading->start, reading->end,
												reading->snapshot, true);
	TupleTableSlot *slot;

	while ((slot = topics_log_reader_next(reader)) != NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(reading->cxt);
		KeyHash		hash;
		int64		offset = topics_log_get_offset(slot);

		CHECK_FOR_INTERRUPTS();
		if (has_key_of_slice(reading, slot, slice, &hash) &&
			topics_offset_map_get(reading->map, &hash) == offset &&
			!slot_attisnull(slot, Anum_log_value))
			topics_fetch_put_record(result, slot);
		MemoryContextSwitchTo(old);
		MemoryContextReset(reading->cxt);
	}
	topics_log_reader_close(reader);
}

/*
 * Add the latest record of each key of the partition to the result, slice by
 * slice.
 */
static void
put_latest_of_partition(Reading *reading, FetchResult *result)
{
	Slice		slice = {0, 0};

	while (slice.number >> slice.bits == 0)
	{
		if (map_slice(reading, slice))
		{
			put_slice(reading, slice, result);
			slice.number++;
		}
		else
		{
			slice.bits++;
			slice.number *= 2;
		}
	}
}

/* latest(topic) */
Datum
topics_latest(PG_FUNCTION_ARGS)
{
	FetchResult result;
	Topic	   *topic;
	Reading		reading;

	topics_settings_require_preload();
	topic = topics_catalog_lookup(topics_argument_get_text(fcinfo, LATEST_TOPIC), false);
	topics_catalog_require(topic, ACL_SELECT);
	topics_fetch_begin_result(&result, fcinfo, topic);

	reading.snapshot = GetActiveSnapshot();
	reading.map = topics_offset_map_create(get_hash_memory_limit());
	reading.cxt = AllocSetContextCreate(CurrentMemoryContext, "pg_topics latest",
										ALLOCSET_DEFAULT_SIZES);
	for (int32 partition = 0; partition < topic->partitions; partition++)
	{
		Partition	opened = topics_catalog_open_for_reading(topic, partition);

		reading.partition_rel = opened.rel;
		reading.start = topics_log_start(opened.state);
		reading.end = topics_log_end(&opened, reading.snapshot);
		put_latest_of_partition(&reading, &result);
		topics_catalog_close_partition(&opened, NoLock);
	}
	MemoryContextDelete(reading.cxt);
	topics_offset_map_free(reading.map);
	return (Datum) 0;
}
