/*-------------------------------------------------------------------------
 *
 * partitioner.c
 *		Which partition a key belongs to: Kafka's default partitioner.
 *
 * toPositive(murmur2(key bytes)) % partitions, with Kafka's seed, so that a
 * producer in Java and one in SQL put equal keys into the same partition.  A
 * record without a key goes where sticky_partition.c says.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "produce/produce.h"

#define MURMUR2_SEED 0x9747b28cU
#define MURMUR2_M 0x5bd1e995U
#define MURMUR2_R 24

/* MurmurHash2 of 32 bits, reading words as little-endian. */
uint32
topics_partitioner_murmur2(const char *data, int len)
{
	const unsigned char *bytes = (const unsigned char *) data;
	uint32		hash = MURMUR2_SEED ^ (uint32) len;

	for (; len >= 4; len -= 4, bytes += 4)
	{
		uint32		word = bytes[0] | (uint32) bytes[1] << 8 |
			(uint32) bytes[2] << 16 | (uint32) bytes[3] << 24;

		word *= MURMUR2_M;
		word ^= word >> MURMUR2_R;
		word *= MURMUR2_M;
		hash *= MURMUR2_M;
		hash ^= word;
	}
	if (len >= 3)
		hash ^= (uint32) bytes[2] << 16;
	if (len >= 2)
		hash ^= (uint32) bytes[1] << 8;
	if (len >= 1)
	{
		hash ^= bytes[0];
		hash *= MURMUR2_M;
	}
	hash ^= hash >> 13;
	hash *= MURMUR2_M;
	hash ^= hash >> 15;
	return hash;
}

int32
topics_partitioner_for_key(const char *key, int len, int32 partitions)
{
	return (int32) ((topics_partitioner_murmur2(key, len) & 0x7fffffffU) % (uint32) partitions);
}

PG_FUNCTION_INFO_V1(topics_murmur2);

/* murmur2(bytea) int: Kafka's Utils.murmur2, signed as in Java. */
Datum
topics_murmur2(PG_FUNCTION_ARGS)
{
	bytea	   *data = PG_GETARG_BYTEA_PP(0);

	PG_RETURN_INT32((int32) topics_partitioner_murmur2(VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data)));
}
