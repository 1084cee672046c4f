/*-------------------------------------------------------------------------
 *
 * read/read.h
 *		From an offset to records.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PG_TOPICS_READ_H
#define PG_TOPICS_READ_H

#include "access/sdir.h"
#include "nodes/execnodes.h"
#include "nodes/plannodes.h"

#include "log/log.h"

/* ---- fetch.c ---- */

/* Columns of a record, as every result has them. */
enum
{
	RECORD_PARTITION,
	RECORD_OFFSET,
	RECORD_TIMESTAMP,
	RECORD_KEY,
	RECORD_VALUE,
	RECORD_HEADERS,
	RECORD_COLUMNS
};

/* Arguments of fetch. */
enum
{
	FETCH_TOPIC,
	FETCH_PARTITION,
	FETCH_FROM_OFFSET,
	FETCH_MAX_RECORDS,
	FETCH_MAX_BYTES,
	FETCH_MAX_WAIT,
	FETCH_LEADER_EPOCH,
	FETCH_ARGUMENTS
};

typedef struct FetchLimits
{
	int32		max_records;
	int32		max_bytes;
	long		max_wait_ms;
} FetchLimits;

/* What is wanted. */
typedef struct FetchRequest
{
	Topic	   *topic;
	int32		partition;
	int64		from;
	FetchLimits limits;
	bool		may_be_removed; /* nothing is read then, else that is an error */
	int32		leader_epoch;	/* in which the reader has read what is
								 * before; or NO_LEADER_EPOCH */
} FetchRequest;

/* How a topic's column becomes the text or bytea of a result. */
typedef struct OutputColumn
{
	FmgrInfo	output;
	bool		as_bytes;
	bool		as_is;			/* no conversion needed */
} OutputColumn;

typedef struct RecordOutput
{
	OutputColumn key;
	OutputColumn value;
} RecordOutput;

/* A fetch in progress. */
typedef struct Fetch
{
	FetchLimits limits;
	NameData	topic;			/* a copy, as of the opening */
	bool		has_gaps;		/* the topic is compacted */
	Partition	partition;		/* open */
	LogReader  *reader;
	MemoryContext cxt;			/* of the current record */
	int64		from;
	bool		may_be_removed;
	int64		next;			/* the offset to go on from */
	int64		bytes;
	int32		count;
	bool		ended;
} Fetch;

/* Where rows go that are read at once. */
typedef struct RowSink
{
	TupleDesc	desc;
	struct Batch *batch;		/* of a Batch Scan, or NULL */
	struct Tuplestorestate *store;	/* of a function that is called as one */
} RowSink;

/* Where records go, and how they become rows. */
typedef struct FetchResult
{
	RowSink		sink;
	RecordOutput output;
} FetchResult;

extern FetchLimits topics_fetch_limits(FunctionCallInfo fcinfo, int max_records);
extern FetchRequest topics_fetch_request(FunctionCallInfo fcinfo);
extern RecordOutput topics_fetch_output(Topic *topic, TupleDesc desc);
extern RecordOutput topics_fetch_output_as(Topic *topic, bool as_bytes);
extern void topics_fetch_open(Fetch *fetch, const FetchRequest *request, Snapshot snapshot);
extern bool topics_fetch_next(Fetch *fetch, RecordOutput *output, Datum *values, bool *nulls);
extern void topics_fetch_close(Fetch *fetch);
extern Snapshot topics_fetch_wait(FetchRequest *request);
extern RowSink topics_fetch_open_sink(FunctionCallInfo fcinfo);
extern void topics_fetch_put_row(const RowSink *sink, Datum *values, bool *nulls);
extern void topics_fetch_begin_result(FetchResult *result, FunctionCallInfo fcinfo, Topic *topic);
extern void topics_fetch_put_record(FetchResult *result, TupleTableSlot *slot);
extern int32 topics_fetch_records(const FetchRequest *request, Snapshot snapshot,
								  FetchResult *result, int64 *next);

/* ---- leader_epoch.c ---- */

#define NO_LEADER_EPOCH (-1)
extern int32 topics_leader_epoch_argument(FunctionCallInfo fcinfo, int argument);
extern void topics_leader_epoch_check(const Topic *topic, int32 partition, int64 from,
									  int32 leader_epoch, Snapshot snapshot);
extern int64 topics_leader_epoch_latest(const Topic *topic, int32 partition, Snapshot snapshot);
extern void topics_leader_epoch_load(void);
extern int64 topics_leader_epoch_find_end(int set, const TopicPartition *log, int64 record_offset,
										  int64 topic_id, int32 partition);

/* ---- list_offsets.c ---- */

extern int64 *topics_list_offsets_since(Topic *topic, TimestampTz at,
										TimestampTz *timestamps, bool *found);

/* ---- wait.c ---- */

#define SHORT_WAIT_MS 60000L	/* in a statement, which keeps its snapshot */
extern Topic *topics_wait_for_record(Topic *topic, int32 partition, int64 offset, long timeout_ms);

/* ---- custom_scan.c ---- */

struct CustomExecMethods;
struct CustomPath;
struct CustomPathMethods;
struct CustomScanMethods;
struct ExplainState;
struct PlannerInfo;
struct RelOptInfo;
extern struct CustomPath *topics_custom_scan_make_path(struct RelOptInfo *rel,
													   const struct CustomPathMethods *methods);
extern CustomScan *topics_custom_scan_make_plan(const struct CustomPath *path, List *tlist,
												List *quals,
												const struct CustomScanMethods *methods);
extern CustomScanState *topics_custom_scan_make_state(Size size,
													  const struct CustomExecMethods *methods);
extern void topics_custom_scan_explain(CustomScanState *css, const char *label,
									   Node *expression, List *ancestors,
									   struct ExplainState *es);

/* ---- call_scan.c ---- */

/* A function's call that a plan node of ours reads. */
typedef struct ScannedCall
{
	FuncExpr   *expression;
	FmgrInfo	function;		/* the one called, for errors */
	List	   *arguments;		/* ExprStates */
	FunctionCallInfo fcinfo;
} ScannedCall;

extern bool topics_call_scan_fits(struct RelOptInfo *rel, RangeTblEntry *rte,
								  const char *const *sources, int count);
extern void topics_call_scan_add_path(struct RelOptInfo *rel, const struct CustomPathMethods *methods,
									  double cost);
extern Plan *topics_call_scan_make_plan(struct PlannerInfo *root, struct RelOptInfo *rel,
										const struct CustomPath *path, List *tlist, List *clauses,
										const struct CustomScanMethods *methods);
extern void topics_call_scan_begin(ScannedCall *call, CustomScanState *css);
extern FunctionCallInfo topics_call_scan_evaluate(ScannedCall *call, PlanState *ps);
extern void topics_call_scan_explain(const ScannedCall *call, CustomScanState *css, List *ancestors,
									 struct ExplainState *es);

/* ---- batch.c ---- */

/* A batch is rows that were read at once, and are returned one by one. */
typedef struct Batch Batch;

extern Batch *topics_batch_create(TupleDesc desc);
extern void topics_batch_put(Batch *batch, Datum *values, bool *nulls);
extern bool topics_batch_next(Batch *batch, TupleTableSlot *slot);
extern void topics_batch_rewind(Batch *batch);
extern void topics_batch_free(Batch *batch);

/* A ReturnSetInfo with SFRM_BATCH among its modes is one of these. */
#define SFRM_BATCH 0x10000
typedef struct BatchSetInfo
{
	ReturnSetInfo rsinfo;		/* must be first */
	Batch	   *batch;
} BatchSetInfo;

/* ---- batch_scan.c ---- */

extern void topics_batch_scan_init(void);

/* ---- stale_plan.c ---- */

extern void topics_stale_plan_init(void);

/* ---- offset_path.c ---- */

extern void topics_offset_path_init(void);

/* ---- offset_scan.c ---- */

extern void topics_offset_scan_init(void);
extern void topics_offset_scan_operator(const OpExpr *op, int *strategy, Oid *type);
extern bool topics_offset_scan_narrow(int64 *lower, int64 *upper, int strategy, Oid type,
									  Datum datum);
extern List *topics_offset_scan_private(ScanDirection direction, const Segment *segment);
extern const struct CustomScanMethods *topics_offset_scan_methods(const List *custom_private);

/* ---- fetch_scan.c ---- */

extern void topics_fetch_scan_init(void);

#endif							/* PG_TOPICS_READ_H */
