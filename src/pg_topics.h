/*-------------------------------------------------------------------------
 *
 * pg_topics.h
 *		What all folders know: names, SQLSTATEs, columns, and a partition's id.
 *
 * Each folder has a header of its own, with the nouns that it owns and the
 * functions that it offers.  A file includes headers of its own folder and of
 * those before it in this order (test/layers):
 *
 *		base < shared < log < produce < read < group < topic < node < keep < serve
 *
 * The files beside this one are the doors, by which PostgreSQL comes in.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PG_TOPICS_H
#define PG_TOPICS_H

#include "postgres.h"

/* What the SQL objects must be at; the control file's default_version. */
#define PG_TOPICS_VERSION "1.0"

/* Schemas, made by the install script. */
#define TOPICS_SCHEMA "topics"	/* functions and administration views */
#define TOPIC_SCHEMA "topic"	/* one view per topic */
#define TOPIC_LOG_SCHEMA "topic_log"	/* catalogue and log tables */
#define TOPIC_LOG_AM "topic_log"	/* the access method of segments */

/*
 * The internal topics: what a cluster's nodes agree on, and what has a state.
 */
#define METADATA_TOPIC "__cluster_metadata"
#define CONSUMER_OFFSETS_TOPIC "__consumer_offsets"
#define PRODUCER_STATE_TOPIC "__producer_state"
#define STATE_PARTITIONS 8		/* of the latter, in the first leader set */

/* Kafka's errors that a client branches on. */
#define ERRCODE_OFFSET_OUT_OF_RANGE MAKE_SQLSTATE('T', 'P', '0', '0', '1')
#define ERRCODE_ILLEGAL_GENERATION MAKE_SQLSTATE('T', 'P', '0', '0', '2')
#define ERRCODE_UNKNOWN_MEMBER MAKE_SQLSTATE('T', 'P', '0', '0', '3')
#define ERRCODE_NOT_LEADER MAKE_SQLSTATE('T', 'P', '0', '0', '4')
#define ERRCODE_PRODUCER_FENCED MAKE_SQLSTATE('T', 'P', '0', '0', '7')
#define ERRCODE_OUT_OF_ORDER_SEQUENCE MAKE_SQLSTATE('T', 'P', '0', '0', '8')
#define ERRCODE_NOT_ENOUGH_REPLICAS MAKE_SQLSTATE('T', 'P', '0', '0', '9')
#define ERRCODE_LOG_TRUNCATED MAKE_SQLSTATE('T', 'P', '0', '1', '0')
#define ERRCODE_INCONSISTENT_PROTOCOL MAKE_SQLSTATE('T', 'P', '0', '1', '1')
#define ERRCODE_FENCED_INSTANCE MAKE_SQLSTATE('T', 'P', '0', '1', '2')
#define ERRCODE_VERSION_MISMATCH MAKE_SQLSTATE('T', 'P', '0', '0', '5')

/*
 * Columns of a log table.  The first three are NOT NULL and of fixed width,
 * so in every record's tuple they stand at fixed places after the header:
 * that is how offsets are stamped into tuples that were formed long before
 * (log.c).
 */
#define Anum_log_offset		1
#define Anum_log_timestamp	2
#define Anum_log_partition	3
#define Anum_log_key		4
#define Anum_log_value		5
#define Anum_log_headers	6
#define Natts_log			6

/* Columns of a topic's view, in the order of a record. */
#define Anum_view_partition	1
#define Anum_view_offset	2
#define Anum_view_timestamp	3
#define Anum_view_key		4
#define Anum_view_value		5
#define Anum_view_headers	6
#define Natts_view			6

/* A partition of a topic of a database: Kafka's TopicPartition. */
typedef struct TopicPartition
{
	Oid			database;
	int32		partition;
	int64		topic_id;
} TopicPartition;

/*
 * A step at which tests stop the process, or have the server die: nothing,
 * unless built with TEST_POINTS=1 (test/test_point.c).  It waits, takes no
 * interrupt and raises nothing, unless a test wants that, so it may stand
 * anywhere but under a spinlock.
 */
#ifdef TOPICS_TEST_POINTS
extern void topics_test_point(const char *name);
#define TEST_POINT(name) topics_test_point(name)
#else
#define TEST_POINT(name) ((void) 0)
#endif

#endif							/* PG_TOPICS_H */
