/*-------------------------------------------------------------------------
 *
 * offset_map.c
 *		A map from keys to the latest offset of each, in bounded memory.
 *
 * It holds a hash of 128 bits in place of the key, as Kafka's offset map
 * does, so that an entry has 24 bytes however long the key is.  Two keys of
 * the same hash would pass for one, and compaction would lose a record: with
 * a hundred million keys the odds are about one to 10^22.  They cannot be
 * found on purpose either, since each map hashes with seeds of its own that
 * nobody knows.
 *
 * Keys are equal if their bytes are, as in Kafka.  The type's own operator is
 * not asked: it may be somebody's function, and the worker runs none.
 * Out-of-line and compressed keys are compared by what they hold, and rows
 * (keys of a composite type) by what their columns hold: a row keeps a column
 * compressed that comes so from a table, and has a header of its own.
 *
 * Open addressing with linear probing; it doubles until the next size would
 * not fit the budget beside the old one, and is full at 3/4.
 *
 * See docs/decisions/0009-compaction.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "base/base.h"
#include "base/compat.h"

#define FIRST_SIZE 1024			/* entries */
#define FULL_QUARTERS 3			/* of the entries may be in use */

typedef struct Entry
{
	uint64		hash[2];
	int64		offset;			/* -1: free */
} Entry;

struct OffsetMap
{
	MemoryContext cxt;
	Size		budget;			/* bytes */
	uint64		seed[2];
	int64		size;			/* a power of 2 */
	int64		count;
	Entry	   *entries;
};

static Entry *
allocate_entries(OffsetMap *map, int64 size)
{
	Entry	   *entries = MemoryContextAllocHuge(map->cxt, size * sizeof(Entry));

	for (int64 i = 0; i < size; i++)
		entries[i].offset = -1;
	return entries;
}

/*
 * Create an empty map of at most "budget" bytes, in the current memory
 * context.
 */
OffsetMap *
topics_offset_map_create(Size budget)
{
	OffsetMap  *map = palloc(sizeof(OffsetMap));

	map->cxt = CurrentMemoryContext;
	map->budget = budget;
	if (!pg_strong_random(map->seed, sizeof(map->seed)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a random seed")));
	map->size = FIRST_SIZE;
	map->count = 0;
	map->entries = allocate_entries(map, map->size);
	return map;
}

void
topics_offset_map_free(OffsetMap *map)
{
	pfree(map->entries);
	pfree(map);
}

/* Empty the map, and keep its memory. */
void
topics_offset_map_clear(OffsetMap *map)
{
	for (int64 i = 0; i < map->size; i++)
		map->entries[i].offset = -1;
	map->count = 0;
}

bool
topics_offset_map_is_empty(const OffsetMap *map)
{
	return map->count == 0;
}

/* Hash bytes: each half of the result by a seed of its own. */
static KeyHash
hash_with_seeds(const OffsetMap *map, const unsigned char *bytes, int length)
{
	KeyHash		result;

	for (int i = 0; i < 2; i++)
		result.hash[i] = hash_bytes_extended(bytes, length, map->seed[i]);
	return result;
}

/* Hash a row by its columns; one that is NULL has a hash of zeros. */
static KeyHash
hash_row(const OffsetMap *map, Datum datum)
{
	HeapTupleHeader row = DatumGetHeapTupleHeader(datum);
	HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(row),.t_data = row};
	TupleDesc	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(row),
											  HeapTupleHeaderGetTypMod(row));
	const int	natts = desc->natts;
	Datum	   *values = palloc(sizeof(Datum) * (natts + 1));
	bool	   *nulls = palloc(sizeof(bool) * (natts + 1));
	KeyHash    *parts = palloc0(sizeof(KeyHash) * (natts + 1));
	KeyHash		result;

	check_stack_depth();
	heap_deform_tuple(&tuple, desc, values, nulls);
	for (int i = 0; i < natts; i++)
		if (!nulls[i] && !TupleDescAttr(desc, i)->attisdropped)
			parts[i] = topics_offset_map_hash(map, TupleDescAttr(desc, i), values[i]);
	result = hash_with_seeds(map, (unsigned char *) parts, (int) (sizeof(KeyHash) * natts));
	ReleaseTupleDesc(desc);
	pfree(parts);
	pfree(nulls);
	pfree(values);
	if ((Pointer) row != DatumGetPointer(datum))
		pfree(row);
	return result;
}

/* Hash a key, which is of the column "att". */
KeyHash
topics_offset_map_hash(const OffsetMap *map, Form_pg_attribute att, Datum key)
{
	const unsigned char *bytes;
	int			length;
	struct varlena *plain = NULL;
	KeyHash		result;

	/* none of PostgreSQL's own types that a key has is a row */
	if (att->atttypid >= FirstNormalObjectId &&
		get_typtype(getBaseType(att->atttypid)) == TYPTYPE_COMPOSITE)
		return hash_row(map, key);
	if (att->attbyval)
	{
		bytes = (const unsigned char *) &key;
		length = sizeof(Datum);
	}
	else if (att->attlen == -1)
	{
		plain = pg_detoast_datum_packed((struct varlena *) DatumGetPointer(key));
		bytes = (const unsigned char *) VARDATA_ANY(plain);
		length = VARSIZE_ANY_EXHDR(plain);
	}
	else
	{
		bytes = (const unsigned char *) DatumGetPointer(key);
		length = att->attlen > 0 ? att->attlen : (int) strlen(DatumGetCString(key));
	}
	result = hash_with_seeds(map, bytes, length);
	if (plain && plain != (struct varlena *) DatumGetPointer(key))
		pfree(plain);
	return result;
}

/* Find a key's entry, or the free one where it belongs. */
static Entry *
find_entry(const OffsetMap *map, const KeyHash *key)
{
	int64		i = key->hash[0] & (map->size - 1);

	while (map->entries[i].offset >= 0 &&
		   (map->entries[i].hash[0] != key->hash[0] || map->entries[i].hash[1] != key->hash[1]))
		i = (i + 1) & (map->size - 1);
	return &map->entries[i];
}

/* Double the map.  Return false if that would exceed the budget. */
static bool
double_map(OffsetMap *map)
{
	Entry	   *old = map->entries;
	int64		old_size = map->size;

	/*
	 * the old entries stay until the new ones, twice as many, have been
	 * filled
	 */
	if ((Size) (old_size + 2 * old_size) * sizeof(Entry) > map->budget)
		return false;
	map->entries = allocate_entries(map, old_size * 2);
	map->size = old_size * 2;
	for (int64 i = 0; i < old_size; i++)
	{
		KeyHash		key = {{old[i].hash[0], old[i].hash[1]}};

		if (old[i].offset >= 0)
			*find_entry(map, &key) = old[i];
	}
	pfree(old);
	return true;
}

/*
 * Note a key's latest offset.  Return false if the key is new, and the map
 * full.
 */
bool
topics_offset_map_put(OffsetMap *map, const KeyHash *key, int64 offset)
{
	Entry	   *entry = find_entry(map, key);

	if (entry->offset < 0)
	{
		if (map->count >= map->size / 4 * FULL_QUARTERS)
		{
			if (!double_map(map))
				return false;
			entry = find_entry(map, key);
		}
		entry->hash[0] = key->hash[0];
		entry->hash[1] = key->hash[1];
		map->count++;
	}
	entry->offset = offset;
	return true;
}

/* A key's latest offset, or -1. */
int64
topics_offset_map_get(const OffsetMap *map, const KeyHash *key)
{
	return find_entry(map, key)->offset;
}
