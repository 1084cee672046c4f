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
 * Out-of-line and compressed keys are compared by what they hold, and rows,
 * arrays and ranges by their parts, down to the last one: a row keeps a column
 * compressed that comes so from a table, and lacks one that its type got
 * later; an array may have room for NULLs that it has no more.
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
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/multirangetypes.h"
#include "utils/rangetypes.h"
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

/* ----------------------------------------------------------------
 *		The hash of a key
 * ----------------------------------------------------------------
 */

/* Hash bytes: each half of the result by a seed of its own. */
static KeyHash
hash_with_seeds(const OffsetMap *map, const unsigned char *bytes, int length)
{
	KeyHash		result;

	for (int i = 0; i < 2; i++)
		result.hash[i] = hash_bytes_extended(bytes, length, map->seed[i]);
	return result;
}

static KeyHash hash_value(const OffsetMap *map, Oid type, bool byval, int16 typlen, Datum value);

/* Add the next part of a value to the hash of those before it. */
static void
add_part(const OffsetMap *map, KeyHash *sum, KeyHash part)
{
	KeyHash		both[] = {*sum, part};

	*sum = hash_with_seeds(map, (unsigned char *) both, sizeof(both));
}

/* A part that is NULL. */
static const KeyHash null_part = {{0, 0}};

/* Hash a row by its columns. */
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
	KeyHash		result = null_part;

	heap_deform_tuple(&tuple, desc, values, nulls);
	for (int i = 0; i < natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		add_part(map, &result, nulls[i] || att->attisdropped ? null_part :
				 hash_value(map, att->atttypid, att->attbyval, att->attlen, values[i]));
	}
	ReleaseTupleDesc(desc);
	pfree(nulls);
	pfree(values);
	if ((Pointer) row != DatumGetPointer(datum))
		pfree(row);
	return result;
}

/* Hash an array by its bounds and elements. */
static KeyHash
hash_array(const OffsetMap *map, Datum datum)
{
	ArrayType  *array = DatumGetArrayTypeP(datum);
	ArrayIterator iterator = array_create_iterator(array, 0, NULL);
	Oid			type = ARR_ELEMTYPE(array);
	int16		typlen;
	bool		byval;
	Datum		value;
	bool		isnull;
	KeyHash		result;

	get_typlenbyval(type, &typlen, &byval);
	/* the lower bounds come behind the numbers of elements */
	result = hash_with_seeds(map, (unsigned char *) ARR_DIMS(array),
							 (int) (2 * sizeof(int) * ARR_NDIM(array)));
	while (array_iterate(iterator, &value, &isnull))
		add_part(map, &result, isnull ? null_part : hash_value(map, type, byval, typlen, value));
	array_free_iterator(iterator);
	if ((Pointer) array != DatumGetPointer(datum))
		pfree(array);
	return result;
}

/* Hash a range, of a type of which this is the cache's entry. */
static KeyHash
hash_range(const OffsetMap *map, TypeCacheEntry *type, const RangeType *range)
{
	const TypeCacheEntry *subtype = type->rngelemtype;
	const unsigned char flags = (unsigned char) range_get_flags(range);
	KeyHash		result = hash_with_seeds(map, &flags, 1);
	RangeBound	bounds[2];
	bool		empty;

	range_deserialize(type, range, &bounds[0], &bounds[1], &empty);
	for (int i = 0; i < 2 && !empty; i++)
		add_part(map, &result, bounds[i].infinite ? null_part :
				 hash_value(map, subtype->type_id, subtype->typbyval, subtype->typlen, bounds[i].val));
	return result;
}

/* Hash a value of a type that is a range, or several in one value. */
static KeyHash
hash_ranges(const OffsetMap *map, Oid type, bool several, Datum datum)
{
	struct varlena *value = PG_DETOAST_DATUM(datum);
	KeyHash		result = null_part;

	if (several)
	{
		TypeCacheEntry *rngtype = lookup_type_cache(type, TYPECACHE_MULTIRANGE_INFO)->rngtype;
		RangeType **ranges;
		int32		count;

		multirange_deserialize(rngtype, (MultirangeType *) value, &count, &ranges);
		for (int32 i = 0; i < count; i++)
		{
			add_part(map, &result, hash_range(map, rngtype, ranges[i]));
			pfree(ranges[i]);
		}
		if (count > 0)
			pfree(ranges);
	}
	else
		result = hash_range(map, lookup_type_cache(type, TYPECACHE_RANGE_INFO), (RangeType *) value);
	if ((Pointer) value != DatumGetPointer(datum))
		pfree(value);
	return result;
}

/* Hash a value by its bytes. */
static KeyHash
hash_whole(const OffsetMap *map, bool byval, int16 typlen, Datum value)
{
	const unsigned char *bytes = (const unsigned char *) DatumGetPointer(value);
	struct varlena *plain;
	KeyHash		result;

	if (byval)
		return hash_with_seeds(map, (unsigned char *) &value, sizeof(Datum));
	if (typlen != -1)
		return hash_with_seeds(map, bytes, typlen > 0 ? typlen : (int) strlen((const char *) bytes));
	plain = pg_detoast_datum_packed((struct varlena *) DatumGetPointer(value));
	result = hash_with_seeds(map, (unsigned char *) VARDATA_ANY(plain), VARSIZE_ANY_EXHDR(plain));
	if (plain != (struct varlena *) DatumGetPointer(value))
		pfree(plain);
	return result;
}

/* Hash a value of a type by its parts, if it has any. */
static KeyHash
hash_value(const OffsetMap *map, Oid type, bool byval, int16 typlen, Datum value)
{
	/*
	 * no need to look these up: the usual types of keys, and what has no
	 * parts
	 */
	if (typlen != -1 || type == TEXTOID || type == VARCHAROID || type == BYTEAOID ||
		type == NUMERICOID || type == JSONBOID)
		return hash_whole(map, byval, typlen, value);
	check_stack_depth();
	type = getBaseType(type);
	if (OidIsValid(get_element_type(type)))
		return hash_array(map, value);
	switch (get_typtype(type))
	{
		case TYPTYPE_COMPOSITE:
			return hash_row(map, value);
		case TYPTYPE_RANGE:
			return hash_ranges(map, type, false, value);
		case TYPTYPE_MULTIRANGE:
			return hash_ranges(map, type, true, value);
		default:
			return hash_whole(map, byval, typlen, value);
	}
}

/* Hash a key, which is of the column "att". */
KeyHash
topics_offset_map_hash(const OffsetMap *map, Form_pg_attribute att, Datum key)
{
	return hash_value(map, att->atttypid, att->attbyval, att->attlen, key);
}

/* ----------------------------------------------------------------
 *		Entries
 * ----------------------------------------------------------------
 */

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
