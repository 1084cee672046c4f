/*-------------------------------------------------------------------------
 *
 * relation_memory.c
 *		What a session remembers of tables that it has met, for its own speed.
 *
 * A memory is a hash table by the table's oid, which is the first field of an
 * entry.  It may be lost at any time: when it has grown too large, all of it
 * is forgotten, so that a session which meets many tables stays small.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/hsearch.h"

#include "base/base.h"

#define FIRST_RELATIONS 64		/* room for as many at first */
#define MAX_RELATIONS 1024

/*
 * Return the entry of a table, made if need be: then *found is false, and all
 * of it but its key is undefined.
 */
void *
topics_relation_memory_enter(HTAB **memory, Size entry_size, Oid relid, bool *found)
{
	if (*memory && hash_get_num_entries(*memory) >= MAX_RELATIONS)
	{
		hash_destroy(*memory);
		*memory = NULL;
	}
	if (*memory == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = sizeof(Oid);
		ctl.entrysize = entry_size;
		*memory = hash_create("pg_topics relation memory", FIRST_RELATIONS, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	return hash_search(*memory, &relid, HASH_ENTER, found);
}
