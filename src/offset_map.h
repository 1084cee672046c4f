/*-------------------------------------------------------------------------
 *
 * offset_map.h
 *		From keys to the latest offset of each (offset_map.c).
 *
 *-------------------------------------------------------------------------
 */
#ifndef PG_TOPICS_OFFSET_MAP_H
#define PG_TOPICS_OFFSET_MAP_H

#include "postgres.h"

#include "catalog/pg_attribute.h"

typedef struct OffsetMap OffsetMap;

typedef struct KeyHash
{
	uint64		hash[2];
} KeyHash;

extern OffsetMap *topics_offset_map_create(Size budget);
extern void topics_offset_map_free(OffsetMap *map);
extern void topics_offset_map_clear(OffsetMap *map);
extern bool topics_offset_map_is_empty(const OffsetMap *map);
extern KeyHash topics_offset_map_hash(const OffsetMap *map, Form_pg_attribute att, Datum key);
extern bool topics_offset_map_put(OffsetMap *map, const KeyHash *key, int64 offset);
extern int64 topics_offset_map_get(const OffsetMap *map, const KeyHash *key);

#endif							/* PG_TOPICS_OFFSET_MAP_H */
