/*-------------------------------------------------------------------------
 *
 * replica_fetch.c
 *		Bring a follower's partition on, by reading the leader's log.
 *
 * The follower asks the leader where the logs of all partitions start and end
 * (topics_replica_state), and reads what it lacks by COPY, a range of offsets at
 * a time, into its own log through the same path as any producer's records
 * (produce/append.c), with the offsets that they have.  A range is all or
 * nothing: one transaction, which others see as a whole.
 *
 * WHY THE FOLLOWER'S LOG IS A PREFIX OF THE LEADER'S.  A range begins where the
 * follower's log ends, which is checked again under the append lock.  Its end is
 * not above the leader's log end when that was asked for: all records below were
 * committed then, and what reads them has a later snapshot, which sees them.
 * So what is not found in the range is not there any more: it was compacted, or
 * is below the log start.  Such gaps are noted in the follower's catalogue, in
 * the same transaction.
 *
 * Where the leader has removed tombstones that the follower has not come to, the
 * follower would keep what they delete: its topic is dropped, and made and read
 * anew (topics_metadata_begin_anew).
 *
 * The log start comes along, and is raised here as there.  Where the leader's
 * log starts above the follower's end, the follower goes on there: as in Kafka.
 *
 * VALUES go in PostgreSQL's binary form where that means the same on both
 * nodes, that is for types that initdb has made, but regclass and the like.
 * Others may have OIDs in it, which are of one database; they go as text.  The follower reads them as the
 * domain's base type, and checks nothing: the leader has.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "node/node.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_replica_state);

#define FIRST_TOLD 64			/* partitions: room for as many at first */
#define FIRST_RANGE 1000		/* offsets that are asked for at first */
#define MAX_RANGE 100000
#define RANGE_BYTES (4 * 1024 * 1024)	/* about so many are wanted at a time */
#define COPY_SIGNATURE "PGCOPY\n\377\r\n"	/* and a final 0 */

/* ----------------------------------------------------------------
 *		On the leader
 * ----------------------------------------------------------------
 */

/* Columns of topics_replica_state() */
enum
{
	STATE_TOPIC_ID,
	STATE_PARTITION,
	STATE_LOG_START,
	STATE_LOG_END,
	STATE_TOMBSTONES_BELOW,
	STATE_COLUMNS
};

/*
 * Find where a partition's log starts and ends.  Where shared memory does not
 * know, as after a restart, the log is looked at, unless somebody has locked it:
 * then the follower hears of it the next time.  Nobody's lock keeps followers
 * from the other partitions.
 */
static bool
find_log_ends(Topic *topic, int32 number, int64 *start, int64 *end)
{
	PartitionState *state = topics_catalog_try_partition_state(topic, number);
	Partition	partition = {.topic = topic,.number = number};

	if (state)
	{
		*start = pg_atomic_read_u64(&state->log_start_offset);
		*end = pg_atomic_read_u64(&state->next_offset);
		if (*start != UNKNOWN_OFFSET && *end != UNKNOWN_OFFSET)
			return true;
	}
	if (!ConditionalLockRelationOid(topic->root_relid, AccessShareLock))
		return false;
	if (!topics_catalog_try_open_partition(&partition, AccessShareLock))
		return false;
	*end = topics_log_next_offset(&partition);
	*start = topics_log_start(partition.state);
	topics_catalog_close_partition(&partition, AccessShareLock);
	return true;
}

/*
 * Find below which offset a follower must not end, if it has anything: tombstones
 * were removed there.  Where the follower is at the log end nobody looks.
 */
static int64
find_tombstones_below(Topic *topic, int32 number, int follower, int64 end)
{
	TopicPartition id = {MyDatabaseId, number, topic->topic_id};
	PartitionState *state = topics_partition_state_find(&id);
	PartitionRow row;

	if (!topic->settings.compact ||
		(state && (int64) pg_atomic_read_u64(&state->follower_end[follower]) == end))
		return 0;
	(void) topics_log_start_read_row(&id, NULL, &row);
	return row.tombstones_below;
}

/* Add a row for each partition of a topic, for the follower with this number. */
static void
put_partitions(Topic *topic, int follower, ReturnSetInfo *rsinfo)
{
	for (int32 number = 0; number < topic->partitions; number++)
	{
		Datum		values[STATE_COLUMNS];
		bool		nulls[STATE_COLUMNS] = {false};
		int64		start;
		int64		end;

		CHECK_FOR_INTERRUPTS();
		if (!find_log_ends(topic, number, &start, &end))
			continue;
		values[STATE_TOPIC_ID] = Int64GetDatum(topic->topic_id);
		values[STATE_PARTITION] = Int32GetDatum(number);
		values[STATE_LOG_START] = Int64GetDatum(start);
		values[STATE_LOG_END] = Int64GetDatum(end);
		values[STATE_TOMBSTONES_BELOW] = Int64GetDatum(find_tombstones_below(topic, number, follower, end));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

/* Arguments of replica_state() */
enum
{
	ARG_NODE,
	ARG_TOPIC_IDS,
	ARG_PARTITIONS,
	ARG_LOG_ENDS
};

/* Note where the logs of a follower end, as it says.  Return its number. */
static int
take_report(FunctionCallInfo fcinfo, const char *node)
{
	static const Oid types[] = {INT8OID, INT4OID, INT8OID};
	Datum	   *columns[lengthof(types)];
	int			counts[lengthof(types)];
	bool		is_new;
	int			number = topics_follower_note(node, &is_new);

	if (number < 0)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many followers"),
				 errdetail("A node has up to %d.", MAX_FOLLOWERS)));
	if (is_new)
		topics_partition_state_forget_follower(number);
	for (int i = 0; i < (int) lengthof(types); i++)
	{
		topics_argument_require(fcinfo, ARG_TOPIC_IDS + i);
		deconstruct_array(PG_GETARG_ARRAYTYPE_P(ARG_TOPIC_IDS + i), types[i],
						  types[i] == INT8OID ? sizeof(int64) : sizeof(int32),
						  types[i] == INT8OID ? FLOAT8PASSBYVAL : true,
						  types[i] == INT8OID ? TYPALIGN_DOUBLE : TYPALIGN_INT,
						  &columns[i], NULL, &counts[i]);
		if (counts[i] != counts[0])
			ereport(ERROR,
					(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
					 errmsg("the arrays must have the same length")));
	}
	for (int i = 0; i < counts[0]; i++)
	{
		const TopicPartition id = {MyDatabaseId, DatumGetInt32(columns[1][i]), DatumGetInt64(columns[0][i])};
		PartitionState *state = topics_partition_state_find(&id);

		if (state)
			pg_atomic_write_u64(&state->follower_end[number], DatumGetInt64(columns[2][i]));
	}
	return number;
}

/*
 * replica_state(node, topic_ids, partitions, log_ends): where the logs of all
 * partitions start and end; those of the node that asks have changed as it says
 */
Datum
topics_replica_state(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *node = topics_argument_get_text(fcinfo, ARG_NODE);
	int			follower;
	ClusterRow	row;
	ListCell   *lc;

	topics_settings_require_preload();
	if (!has_rolreplication(GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to replicate topics"),
				 errhint("A node's role needs the attribute REPLICATION.")));
	InitMaterializedSRF(fcinfo, 0);
	if (RecoveryInProgress() || !topics_cluster_read_row(&row))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database leads no cluster")));
	topics_cluster_require_leader("topic_log.replica_state()");
	if (topics_metadata_node_conninfo(node) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNKNOWN_MEMBER),
				 errmsg("node \"%s\" is not in the cluster", node),
				 errhint("Add it with topics.add_node().")));
	follower = take_report(fcinfo, node);
	foreach(lc, topics_catalog_list())
	{
		Topic	   *topic = topics_catalog_get(lfirst_oid(lc), true);

		if (topic)
			put_partitions(topic, follower, rsinfo);
	}
	return (Datum) 0;
}

/* ----------------------------------------------------------------
 *		What the leader says
 * ----------------------------------------------------------------
 */

/* Where a partition's log ended when the leader was last told. */
typedef struct ToldEnd
{
	TopicPartition id;			/* hash key */
	int64		end;
}			ToldEnd;

static HTAB *told_ends = NULL;

/* What the leader is to be told: elements of three arrays. */
static StringInfoData report[3];

/* Begin to tell a leader: it knows nothing yet. */
static void
begin_report(void)
{
	HASHCTL		ctl = {.keysize = sizeof(TopicPartition),.entrysize = sizeof(ToldEnd)};
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	for (int i = 0; i < (int) lengthof(report); i++)
	{
		if (told_ends == NULL)
			initStringInfo(&report[i]);
		resetStringInfo(&report[i]);
	}
	MemoryContextSwitchTo(old);
	if (told_ends)
		hash_destroy(told_ends);
	told_ends = hash_create("pg_topics told ends", FIRST_TOLD, &ctl, HASH_ELEM | HASH_BLOBS);
}

/*
 * Note for the next time that the leader is asked where a partition's log ends
 * here; and for those who look here where the leader's does.
 */
void
topics_replica_fetch_report(const LedPartition *led)
{
	const TopicPartition id = {MyDatabaseId, led->partition, led->topic_id};
	PartitionState *state = topics_partition_state_find(&id);
	ToldEnd    *told;
	bool		found;
	int64		end;

	if (state == NULL)
		return;
	pg_atomic_write_u64(&state->leader_end, led->log_end);
	end = pg_atomic_read_u64(&state->next_offset);
	if (end == UNKNOWN_OFFSET)
		return;
	told = hash_search(told_ends, &id, HASH_ENTER, &found);
	if (found && told->end == end)
		return;
	told->end = end;
	for (int i = 0; i < (int) lengthof(report); i++)
		appendStringInfo(&report[i], "%s" INT64_FORMAT, report[i].len > 0 ? "," : "",
						 i == 0 ? id.topic_id : i == 1 ? id.partition : end);
}

/*
 * Ask the leader for the state of all partitions: LedPartitions, palloc'd; those
 * of the metadata first.  "first" says that the connection is new.
 */
List *
topics_replica_fetch_ask(Peer *peer, const char *node, bool first)
{
	const char *values[1 + lengthof(report)] = {node};
	PeerResult *result;
	List	   *list = NIL;

	if (first)
		begin_report();
	for (int i = 0; i < (int) lengthof(report); i++)
	{
		values[1 + i] = psprintf("{%s}", report[i].data);
		resetStringInfo(&report[i]);
	}
	result = topics_peer_query(peer, "SELECT s.topic_id, s.partition, s.log_start_offset, s.log_end_offset, s.tombstones_below,"
							   " t.view = 'topic." METADATA_TOPIC "'::pg_catalog.regclass"
							   " FROM topic_log.replica_state($1, $2, $3, $4) s JOIN topic_log.topic t USING (topic_id)"
							   " ORDER BY 6 DESC, 1, 2", values, lengthof(values));
	for (int row = 0; row < topics_peer_rows(result); row++)
	{
		LedPartition *led = palloc(sizeof(LedPartition));

		led->topic_id = topics_peer_number(result, row, 0);
		led->partition = (int32) topics_peer_number(result, row, 1);
		led->log_start = topics_peer_number(result, row, 2);
		led->log_end = topics_peer_number(result, row, 3);
		led->tombstones_below = topics_peer_number(result, row, 4);
		led->is_metadata = *topics_peer_value(result, row, 5) == 't';
		list = lappend(list, led);
	}
	topics_peer_clear(result);
	return list;
}

/* ----------------------------------------------------------------
 *		Reading COPY's binary form
 * ----------------------------------------------------------------
 */

/* What comes of a COPY, and how its values are read. */
typedef struct CopyInput
{
	Peer	   *peer;
	StringInfoData data;		/* what has come, from data.cursor on unread */
	bool		is_at_end;
	int64		bytes;			/* read so far */
} CopyInput;

/* How values of a column come. */
typedef struct CopyColumn
{
	FmgrInfo	function;
	Oid			ioparam;
	int32		typmod;
	bool		as_text;
	const char *expression;		/* that has them */
} CopyColumn;

pg_noreturn static void
report_malformed(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("what the leader has sent of a log cannot be read")));
}

/* Have so many bytes ready, and return them; they are good until the next call. */
static char *
take_bytes(CopyInput *input, int count)
{
	char	   *result;

	/* what was read makes room */
	if (input->data.len - input->data.cursor < count && input->data.cursor > 0)
	{
		input->data.len -= input->data.cursor;
		memmove(input->data.data, input->data.data + input->data.cursor, input->data.len);
		input->data.data[input->data.len] = '\0';
		input->data.cursor = 0;
	}
	while (input->data.len - input->data.cursor < count)
		if (!topics_peer_copy_read(input->peer, &input->data))
			report_malformed();
	result = input->data.data + input->data.cursor;
	input->data.cursor += count;
	input->bytes += count;
	return result;
}

static int16
take_int16(CopyInput *input)
{
	uint16		value;

	memcpy(&value, take_bytes(input, sizeof(value)), sizeof(value));
	return (int16) pg_ntoh16(value);
}

static int32
take_int32(CopyInput *input)
{
	uint32		value;

	memcpy(&value, take_bytes(input, sizeof(value)), sizeof(value));
	return (int32) pg_ntoh32(value);
}

/* Read an 8-byte column that is NOT NULL. */
static int64
take_int64_column(CopyInput *input)
{
	uint64		value;

	if (take_int32(input) != sizeof(value))
		report_malformed();
	memcpy(&value, take_bytes(input, sizeof(value)), sizeof(value));
	return (int64) pg_ntoh64(value);
}

/* Read a value; the result is palloc'd. */
static Datum
take_value(CopyInput *input, CopyColumn *column, bool *isnull)
{
	int32		length = take_int32(input);
	StringInfoData value;
	Datum		result;

	*isnull = length == -1;
	if (*isnull)
		return (Datum) 0;
	if (length < 0)
		report_malformed();
	initStringInfo(&value);
	appendBinaryStringInfo(&value, take_bytes(input, length), length);
	if (column->as_text)
		return InputFunctionCall(&column->function, value.data, column->ioparam, column->typmod);
	result = ReceiveFunctionCall(&column->function, &value, column->ioparam, column->typmod);
	if (value.cursor != value.len)
		report_malformed();
	return result;
}

static void
take_copy_header(CopyInput *input)
{
	if (memcmp(take_bytes(input, sizeof(COPY_SIGNATURE)), COPY_SIGNATURE, sizeof(COPY_SIGNATURE)) != 0 ||
		take_int32(input) != 0)
		report_malformed();
	(void) take_bytes(input, take_int32(input));
}

/* Return true if a type has a binary form. */
static bool
has_binary_form(Oid type)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	bool		result = HeapTupleIsValid(tuple) && OidIsValid(((Form_pg_type) GETSTRUCT(tuple))->typreceive);

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return result;
}

/*
 * Return true if a type's binary form means the same on all nodes: if initdb has
 * made the type, and it has no OIDs of one database in it.
 */
static bool
is_same_everywhere(Oid type)
{
	Oid			element = get_element_type(type);

	if (type >= FirstNormalObjectId)
		return false;
	switch (OidIsValid(element) ? element : type)
	{
		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGCLASSOID:
		case REGCOLLATIONOID:
		case REGTYPEOID:
		case REGROLEOID:
		case REGNAMESPACEOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
			return false;
		default:
			return has_binary_form(type) && (!OidIsValid(element) || has_binary_form(element));
	}
}

/* Find out how values of a column come, of a type that is no domain. */
static void
set_column(CopyColumn *column, const char *name, Oid type, int32 typmod)
{
	Oid			function;

	column->typmod = typmod;
	column->as_text = !is_same_everywhere(type);
	if (column->as_text)
	{
		/* by the output function: a cast to text may be anybody's */
		column->expression = psprintf("CASE WHEN %s IS NOT NULL THEN pg_catalog.format('%%s', %s) END",
									  name, name);
		getTypeInputInfo(type, &function, &column->ioparam);
	}
	else
	{
		column->expression = name;
		getTypeBinaryInputInfo(type, &function, &column->ioparam);
	}
	fmgr_info(function, &column->function);
}

/* ----------------------------------------------------------------
 *		A range
 * ----------------------------------------------------------------
 */

/* A range of offsets of a partition, while it is read. */
typedef struct ReplicaRange
{
	Topic	   *topic;
	int32		partition;
	int64		from;			/* where records are wanted from */
	int64		upto;
	int64		next;			/* the offset behind the last record */
	int64		gap_end;		/* of the last gap, or 0 */
	CopyColumn	key;
	CopyColumn	value;
	CopyColumn	headers;
} ReplicaRange;

/* Read a record, and add it to the transaction. */
static void
take_record(CopyInput *input, ReplicaRange *range)
{
	RecordDraft draft = {.partition = range->partition};
	int64		offset = take_int64_column(input);

	if (offset < range->next || offset >= range->upto)
		report_malformed();
	if (offset > range->next)
		range->gap_end = offset;
	range->next = offset + 1;
	draft.create_time = (TimestampTz) take_int64_column(input);
	draft.key = take_value(input, &range->key, &draft.key_isnull);
	draft.value = take_value(input, &range->value, &draft.value_isnull);
	draft.headers = take_value(input, &range->headers, &draft.headers_isnull);
	topics_append_replica_record(range->topic, offset, &draft);
}

/* Read the records of a range from the leader.  Return how many bytes came. */
static int64
read_range(Peer *peer, ReplicaRange *range)
{
	CopyInput	input = {.peer = peer};
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "pg_topics replica",
											  ALLOCSET_DEFAULT_SIZES);
	int16		columns;

	initStringInfo(&input.data);
	topics_peer_copy_begin(peer, psprintf("COPY (SELECT \"offset\", \"timestamp\", %s, %s, %s FROM topic_log.t" INT64_FORMAT "_p%d"
										  " WHERE \"offset\" >= " INT64_FORMAT " AND \"offset\" < " INT64_FORMAT
										  " ORDER BY \"offset\") TO STDOUT (FORMAT binary)",
										  range->key.expression, range->value.expression,
										  range->headers.expression, range->topic->topic_id,
										  range->partition, range->from, range->upto));
	take_copy_header(&input);
	while ((columns = take_int16(&input)) != -1)
	{
		MemoryContext old = MemoryContextSwitchTo(cxt);

		CHECK_FOR_INTERRUPTS();
		if (columns != 5)
			report_malformed();
		take_record(&input, range);
		MemoryContextSwitchTo(old);
		MemoryContextReset(cxt);
	}
	if (topics_peer_copy_read(peer, &input.data))
		report_malformed();
	if (range->next < range->upto)
		range->gap_end = range->upto;
	MemoryContextDelete(cxt);
	pfree(input.data.data);
	return input.bytes;
}

/* How many offsets are asked for, by how large records were. */
static int64
choose_range(int64 last_range, int64 bytes)
{
	int64		wanted = bytes == 0 ? MAX_RANGE :
		(int64) ((double) last_range * RANGE_BYTES / bytes);

	/* no more than twice as many: others may be larger */
	return Max(1, Min(Min(wanted, 2 * last_range), MAX_RANGE));
}

/* Note in the catalogue that records below an offset may be missing. */
static void
allow_gaps(const Partition *partition, int64 gap_end)
{
	PushActiveSnapshot(GetLatestSnapshot());
	topics_log_start_allow_gaps(&partition->state->id, gap_end);
	PopActiveSnapshot();
}

/* Raise the log start to where the leader's is.  Return where it is then. */
static int64
follow_log_start(Partition *partition, int64 log_start)
{
	int64		start = topics_log_start(partition->state);

	if (log_start <= start)
		return start;
	PushActiveSnapshot(GetLatestSnapshot());
	start = topics_log_start_move(partition->state, log_start);
	PopActiveSnapshot();
	return start;
}

/*
 * Return true if a partition cannot be brought on, since the leader has removed
 * tombstones that it has not seen: the follower would keep what they delete.
 */
bool
topics_replica_fetch_is_too_late(Topic *topic, const LedPartition *led)
{
	Partition	partition;
	int64		end;
	int64		start;

	if (led->tombstones_below == 0 || led->partition >= topic->partitions)
		return false;
	partition = topics_catalog_open_for_reading(topic, led->partition);
	end = topics_log_next_offset(&partition);
	start = topics_log_start(partition.state);
	topics_catalog_close_partition(&partition, NoLock);
	return end < led->tombstones_below && start < end;
}

/*
 * Bring a partition on in this transaction, as far as one range goes.  Return
 * false if it is where the leader is.
 */
bool
topics_replica_fetch_step(Peer *peer, Topic *topic, const LedPartition *led)
{
	static int64 offsets_a_range = FIRST_RANGE;
	ReplicaRange range = {.topic = topic,.partition = led->partition};
	Partition	partition;
	int64		end;
	int64		start;

	if (led->partition >= topic->partitions)
		return false;			/* its metadata have not come so far */
	partition = topics_catalog_open_for_reading(topic, led->partition);
	end = topics_log_next_offset(&partition);
	start = follow_log_start(&partition, led->log_start);
	topics_catalog_close_partition(&partition, NoLock);
	if (end > led->log_end)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("partition %d of topic \"%s\" has records that the leader does not have",
						led->partition, NameStr(topic->name)),
				 errdetail("It ends at offset " INT64_FORMAT ", the leader's log at offset " INT64_FORMAT ".",
						   end, led->log_end)));
	if (end == led->log_end)
		return false;

	range.from = range.next = topics_max(end, start);
	range.upto = topics_min(led->log_end, range.from + offsets_a_range);
	topics_append_replica_range(topic, led->partition, end, topics_max(range.upto, range.from));
	if (range.from < range.upto)
	{
		int64		bytes;

		set_column(&range.key, "key", topic->key.base_type, topic->key.base_typmod);
		set_column(&range.value, "value", topic->value.base_type, topic->value.base_typmod);
		set_column(&range.headers, "headers", JSONBOID, -1);
		bytes = read_range(peer, &range);
		offsets_a_range = choose_range(offsets_a_range, bytes);
		if (range.gap_end > 0)
			allow_gaps(&partition, range.gap_end);
	}
	return range.upto < led->log_end;
}
