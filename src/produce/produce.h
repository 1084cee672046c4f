/*-------------------------------------------------------------------------
 *
 * produce/produce.h
 *		A record's way from a call to its place in the log.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PG_TOPICS_PRODUCE_H
#define PG_TOPICS_PRODUCE_H

#include "access/htup_details.h"
#include "access/tupdesc.h"
#include "nodes/plannodes.h"
#include "tcop/cmdtag.h"
#include "utils/queryenvironment.h"

#include "log/log.h"

/* A record on its way in, not yet formed: what produce() and INSERT know. */
typedef struct RecordDraft
{
	int32		partition;
	TimestampTz create_time;
	Datum		key;
	bool		key_isnull;
	Datum		value;
	bool		value_isnull;
	Datum		headers;
	bool		headers_isnull;
} RecordDraft;

/* Where one transaction's records of one partition went. */
typedef struct ProducedRange
{
	NameData	topic;
	int32		partition;
	int64		first_offset;
	int64		record_count;
} ProducedRange;

/* The number that a producer has given a record. */
typedef struct ProducerSequence
{
	int64		producer_id;
	int32		epoch;
	int32		sequence;

	/* found out */
	bool		is_stored;		/* it was stored before */
	int64		stored_at;		/* then: its offset, or -1 if that is not
								 * known */
} ProducerSequence;

/* ---- produce.c ---- */

extern void topics_produce_check_context(const char *command);
extern void topics_produce_check_call(FunctionCallInfo fcinfo);
extern int32 topics_produce_record(Topic *topic, RecordDraft *draft, bool has_partition,
								   ProducerSequence *numbered);
extern void topics_produce_check_settings(Topic *topic, const RecordDraft *draft);
extern int32 topics_produce_partition_of(Topic *topic, text *key);
extern Datum topics_produce_convert_to_base(TopicColumn *column, Oid given, Datum value);
extern void topics_produce_check_value(Topic *topic, TopicColumn *column, Datum value);
extern void topics_produce_check_null(Topic *topic, TopicColumn *column);

/* ---- header.c ---- */

extern Datum topics_header_normalize(Datum headers);

/* ---- partitioner.c ---- */

extern uint32 topics_partitioner_murmur2(const char *data, int len);
extern int32 topics_partitioner_for_key(const char *key, int len, int32 partitions);

/* ---- insert.c ---- */

extern bool topics_insert_calls_us_only(Relation view);
extern Topic *topics_insert_begin(Relation view);
extern void topics_insert_row(Topic *topic, Datum *values, bool *nulls);

/* ---- copy.c ---- */

extern bool topics_copy_from(PlannedStmt *pstmt, const char *query, QueryEnvironment *env,
							 QueryCompletion *qc);

/* ---- buffer.c ---- */

typedef struct RecordList RecordList;

/* A place in a list that is being read. */
typedef struct RecordCursor
{
	RecordList *list;
	int			chunk;
	Size		position;		/* in the chunk */
	char	   *data;			/* the chunk */
	char	   *space;			/* for chunks that come from the file */
	Size		space_size;
} RecordCursor;

extern RecordList *topics_buffer_list(void);
extern int64 topics_buffer_count(const RecordList *list);
extern bool topics_buffer_has_wide(void);
extern void topics_buffer_add(RecordList *list, TupleDesc desc, Datum *values, bool *nulls,
							  uint32 note);
extern void topics_buffer_subabort(SubTransactionId subxid);
extern void topics_buffer_subcommit(SubTransactionId subxid, SubTransactionId parent);
extern void topics_buffer_rewind(RecordCursor *cursor, RecordList *list);
extern int	topics_buffer_read(RecordCursor *cursor, HeapTupleData *tuples, int max);
extern uint32 topics_buffer_note(const HeapTupleData *tuple);
extern void topics_buffer_close(void);
extern void topics_buffer_reset(void);

/* ---- recheck.c ---- */

/* What the records of one list were checked against. */
typedef struct RecordChecks
{
	int32		max_message_bytes;	/* at most */
	bool		key_optional;	/* some could be without a key */
	uint64		known_types;	/* changes of types up to this were looked at */
} RecordChecks;

extern void topics_recheck_init(void);
extern uint32 topics_recheck_note(const Topic *topic, RecordChecks *checks);
extern void topics_recheck_records(Topic *topic, RecordList *records, RecordChecks *checks);
extern void topics_recheck_forget(void);

/* ---- early_work.c ---- */

extern void topics_early_work_run(void);
extern bool topics_early_work_has_notified(void);

/* ---- destination.c ---- */

/* A segment that a commit may append to. */
typedef struct OpenSegment
{
	Segment		segment;
	Relation	rel;

	/* where its wide values go, if there are any */
	Relation	toast_rel;
	Relation   *toast_indexes;
	int			ntoast_indexes;
} OpenSegment;

/* A partition that this transaction produces to. */
struct Destination
{
	TopicPartition id;
	int			set;			/* the leader set */
	NameData	topic;
	Partition	partition;		/* its topic's array "destinations" points to
								 * us; resolved and open during the commit */
	RecordList *records;
	RecordChecks checks;		/* of the records */

	/* of a follower's partition: what the leader's log has there */
	bool		is_replica;
	int64		replica_from;	/* the log end before */
	int64		replica_upto;	/* the log end behind */

	/* the rest is for the commit */
	PartitionState *topic_state;	/* of partition 0, for wakeup.c */
	TupleDesc	tupdesc;		/* the topic's: it has no reference count,
								 * which a thousand slots would keep busy */
	int64		segment_bytes;
	bool		log_append_time;
	bool		notify;
	uint32		bounds_changes; /* before we looked at the segments */
	bool		in_one_segment; /* there is one for all records */
	List	   *segments;		/* of OpenSegment, ascending */
	int64		first_offset;
	TimestampTz append_time;
	int64		active_base;	/* where the last record went */
	int64		active_end;
	BlockNumber active_blocks;
	int64		active_toast_bytes; /* or UNKNOWN_BYTES: as before */
	Oid			active_file;
};

extern int64 topics_destination_span(const Destination *dest);
extern bool topics_destination_has_role(const Destination *dest);
extern void topics_destination_report_role(const Destination *dest);
extern void topics_destination_resolve(Destination *dest);
extern void topics_destination_open_segments(Destination *dest, const List *all);
extern void topics_destination_close_segments(Destination *dest);
extern OpenSegment *topics_destination_find_segment(Destination *dest, int64 offset);
extern void topics_destination_load_toast(const Destination *dest);
extern int64 topics_destination_measure_toast(const OpenSegment *open);

/* ---- append.c ---- */

extern int64 topics_append_buffer(Topic *topic, RecordDraft *draft);
extern void topics_append_replica_range(Topic *topic, int32 partition, int64 from, int64 upto);
extern void topics_append_replica_record(Topic *topic, int64 offset, RecordDraft *draft);
extern bool topics_append_records(void (*require_fences) (void));
extern uint32 topics_append_sets(void);
extern uint32 topics_append_pending_sets(void);
extern void topics_append_publish(int set, XLogRecPtr lsn, bool marks);
extern void topics_append_release(bool unconfirmed_yet);
extern bool topics_append_is_confirmed(int set);
extern void topics_append_confirmed(void);
extern void topics_append_at_abort(void);
extern int64 topics_append_first_offset(int64 topic_id, int32 partition);
extern int64 topics_append_next_offset(int64 topic_id, int32 partition);
extern bool topics_append_is_pending(void);
extern bool topics_append_may_wait(void);
extern void topics_append_forget(void);
extern const ProducedRange *topics_append_last_produced(int *count);

/* ---- producer.c ---- */

typedef struct LocalProducer LocalProducer;

extern void topics_producer_prepare(bool for_write);
extern void topics_producer_begin(const ProducerSequence *given);
extern LocalProducer *topics_producer_admit(const Topic *topic, int32 partition, ProducerSequence *given);
extern void topics_producer_note(LocalProducer *local, const ProducerSequence *given, int64 ordinal);
extern bool topics_producer_is_pending(void);
extern void topics_producer_pre_commit(void);
extern void topics_producer_require_epochs(void);
extern void topics_producer_stamp(const TopicPartition *id, TupleDesc tupdesc, HeapTupleData *tuples,
								  int ntuples, int64 first);
extern void topics_producer_publish(void);
extern void topics_producer_subcommit(SubTransactionId subxid, SubTransactionId parent);
extern void topics_producer_subabort(SubTransactionId subxid);
extern void topics_producer_forget(void);

/* ---- producer_expiry.c ---- */

extern void topics_producer_delete_topic(int64 topic_id);
extern void topics_producer_expire(MemoryContext parent, NextTransaction next_transaction);

/* ---- producer_table.c ---- */

extern void topics_producer_table_shmem_request(void);
extern void topics_producer_table_shmem_startup(void);
extern void topics_producer_table_forget_topic(int64 topic_id);
extern void topics_producer_table_forget_database(Oid database);
extern void topics_producer_table_forget_set(int set);
extern Oid	topics_producer_table_next_database(Oid after);

/* ---- append_role.c ---- */

extern void topics_append_role_expect(void);
extern void topics_append_role_begin(uint32 sets, bool is_replica);
extern void topics_append_role_wait(void);
extern void topics_append_role_require_lease(int set);
extern void topics_append_role_note(void);
extern bool topics_append_role_must_wait(void);
extern int	topics_append_role_find_unexpected(void);
extern int	topics_append_role_find_changed(void);
extern uint32 topics_append_role_sets(void);
extern uint64 topics_append_role_generation(int set);

/* ---- sticky_partition.c ---- */

extern int32 topics_sticky_partition_choose(Topic *topic);
extern void topics_sticky_partition_forget(void);

/* ---- durability.c ---- */

extern void topics_durability_defer(bool has_other_effects, bool may_wait);
extern void topics_durability_publish(XLogRecPtr lsn, const uint64 marks[MAX_LEADER_SETS]);
extern void topics_durability_at_abort(void);
extern void topics_durability_wait(void);
extern void topics_durability_keep_connection(bool keep);
extern bool topics_durability_is_unconfirmed(void);

#endif							/* PG_TOPICS_PRODUCE_H */
