/*-------------------------------------------------------------------------
 *
 * batch.c
 *		Rows that were read at once, and are returned one by one.
 *
 * What a tuplestore does, for a Batch Scan (batch_scan.c), at a third of the
 * cost: a row is not formed to a tuple and taken apart again.  It is kept as
 * the values that it is returned as, and what they point to, in one piece of
 * memory.  Of a batch that is larger than work_mem the rest goes to a
 * tuplestore, which writes it to a file.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "executor/executor.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#include "read/read.h"

/* Memory of the tuplestore behind a batch that has its own, in kB. */
#define REST_MEMORY_KB 64

/* A row: its values, then which of them are NULL, then what values point to. */
typedef struct BatchRow
{
	struct BatchRow *next;
	Datum		values[FLEXIBLE_ARRAY_MEMBER];
} BatchRow;

struct Batch
{
	TupleDesc	desc;
	int			npointers;
	int		   *pointers;		/* the columns whose values are pointers */
	MemoryContext cxt;			/* of the batch itself, and of "rest" */
	MemoryContext row_cxt;
	BatchRow   *first;
	BatchRow  **end;			/* where the next row is linked */
	BatchRow   *next;			/* that is returned next, or NULL */
	Tuplestorestate *rest;		/* the rows behind them, or NULL */
	TupleTableSlot *rest_slot;
};

/* Make an empty batch, in the current memory context. */
Batch *
topics_batch_create(TupleDesc desc)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "pg_topics batch", ALLOCSET_SMALL_SIZES);
	Batch	   *batch = MemoryContextAllocZero(cxt, sizeof(Batch));

	batch->desc = desc;
	batch->pointers = MemoryContextAlloc(cxt, sizeof(int) * desc->natts);
	for (int i = 0; i < desc->natts; i++)
	{
		if (TupleDescAttr(desc, i)->attbyval)
			continue;
		Assert(TupleDescAttr(desc, i)->attlen == -1);
		batch->pointers[batch->npointers++] = i;
	}
	batch->cxt = cxt;
	batch->row_cxt = GenerationContextCreate(cxt, "pg_topics batch rows", ALLOCSET_DEFAULT_SIZES);
	batch->end = &batch->first;
	return batch;
}

/* Return which values of a row are NULL. */
static bool *
get_nulls(const Batch *batch, BatchRow *row)
{
	return (bool *) &row->values[batch->desc->natts];
}

/* Add a row to those in memory. */
static void
put_row(Batch *batch, const Datum *values, const bool *nulls)
{
	const int	natts = batch->desc->natts;
	const Size	head = MAXALIGN(offsetof(BatchRow, values) + natts * (sizeof(Datum) + sizeof(bool)));
	Size		sizes[MaxTupleAttributeNumber];
	Size		size = head;
	BatchRow   *row;
	char	   *bytes;

	for (int i = 0; i < batch->npointers; i++)
	{
		const int	column = batch->pointers[i];

		sizes[i] = nulls[column] ? 0 : VARSIZE_ANY(DatumGetPointer(values[column]));
		size += MAXALIGN(sizes[i]);
	}
	row = MemoryContextAllocHuge(batch->row_cxt, size);
	row->next = NULL;
	memcpy(row->values, values, natts * sizeof(Datum));
	memcpy(get_nulls(batch, row), nulls, natts * sizeof(bool));
	bytes = (char *) row + head;
	for (int i = 0; i < batch->npointers; i++)
	{
		const int	column = batch->pointers[i];

		if (nulls[column])
			continue;
		memcpy(bytes, DatumGetPointer(values[column]), sizes[i]);
		row->values[column] = PointerGetDatum(bytes);
		bytes += MAXALIGN(sizes[i]);
	}
	*batch->end = row;
	batch->end = &row->next;
}

/* From here on rows go to a tuplestore. */
static void
open_rest(Batch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->cxt);

	batch->rest = tuplestore_begin_heap(false, false, REST_MEMORY_KB);
	tuplestore_set_eflags(batch->rest, EXEC_FLAG_REWIND);
	batch->rest_slot = MakeSingleTupleTableSlot(batch->desc, &TTSOpsMinimalTuple);
	MemoryContextSwitchTo(old);
}

/* Add a row.  When all are there, topics_batch_rewind goes to the first one. */
void
topics_batch_put(Batch *batch, Datum *values, bool *nulls)
{
	if (batch->rest == NULL && MemoryContextMemAllocated(batch->row_cxt, false) > work_mem * (Size) 1024)
		open_rest(batch);
	if (batch->rest)
		tuplestore_putvalues(batch->rest, batch->desc, values, nulls);
	else
		put_row(batch, values, nulls);
}

/*
 * Return the next row, as values that are good as long as the batch, or until
 * the next call.
 */
bool
topics_batch_next(Batch *batch, TupleTableSlot *slot)
{
	const int	natts = batch->desc->natts;
	Datum	   *values;
	bool	   *nulls;

	ExecClearTuple(slot);
	if (batch->next)
	{
		values = batch->next->values;
		nulls = get_nulls(batch, batch->next);
		batch->next = batch->next->next;
	}
	else if (batch->rest && tuplestore_gettupleslot(batch->rest, true, false, batch->rest_slot))
	{
		slot_getallattrs(batch->rest_slot);
		values = batch->rest_slot->tts_values;
		nulls = batch->rest_slot->tts_isnull;
	}
	else
		return false;
	memcpy(slot->tts_values, values, natts * sizeof(Datum));
	memcpy(slot->tts_isnull, nulls, natts * sizeof(bool));
	ExecStoreVirtualTuple(slot);
	return true;
}

/* Go to the first row. */
void
topics_batch_rewind(Batch *batch)
{
	batch->next = batch->first;
	if (batch->rest)
		tuplestore_rescan(batch->rest);
}

void
topics_batch_free(Batch *batch)
{
	if (batch->rest)
	{
		ExecDropSingleTupleTableSlot(batch->rest_slot);
		tuplestore_end(batch->rest);
	}
	MemoryContextDelete(batch->cxt);
}
