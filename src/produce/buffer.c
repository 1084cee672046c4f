/*-------------------------------------------------------------------------
 *
 * buffer.c
 *		The records a transaction has produced so far.
 *
 * One list per partition, in the order of the calls.  Records are formed as
 * heap tuples at once, detoasted and compressed, with offset 0: the commit
 * has only to stamp and to append them.  They lie in chunks of memory; past
 * work_mem all chunks go to a temporary file and memory starts anew, so a
 * transaction of any size needs work_mem, and about 40 bytes per chunk.
 *
 * ROLLBACK TO must drop what came after the savepoint.  Whenever a
 * subtransaction first adds to a partition, an undo entry keeps that
 * partition's position; an abort pops the subtransaction's entries and goes
 * back to the positions.  When a subtransaction commits, its entries become its
 * parent's, except where the parent has one for the partition already, which
 * reaches further back: so a loop of a million savepoints needs no more memory
 * than one.
 *
 * See docs/decisions/0001-offsets-at-commit.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/heaptoast.h"
#include "access/toast_internals.h"
#include "access/xact.h"
#include "commands/tablespace.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/wait_event.h"

#include "produce/produce.h"
#include "pg_topics.h"

#define MIN_CHUNK 1024			/* bytes */
#define MAX_CHUNK (256 * 1024)
#define FIRST_CHUNKS 4			/* of a list: room for as many at first */
#define FIRST_UNDO_ENTRIES 16	/* likewise */
#define HEADER_ROOM 64			/* a tuple's header needs less */

/* Before each tuple of a chunk; keeps tuples aligned. */
typedef struct RecordHeader
{
	uint32		length;
	uint32		note;			/* the caller's */
} RecordHeader;

typedef struct Chunk
{
	Size		used;
	Size		size;			/* 0: it is in the file and takes no more */
	char	   *data;			/* NULL: in the file, at ... */
	off_t		offset;
} Chunk;

/* Where a partition's list ends. */
typedef struct Position
{
	int			nchunks;
	Size		used;			/* of the last chunk */
	int64		nrecords;
} Position;

struct RecordList
{
	Chunk	   *chunks;
	int			nchunks;
	int			maxchunks;
	int64		nrecords;
	int			undo;			/* its latest undo entry, or -1 */
};

typedef struct UndoEntry
{
	SubTransactionId subxid;
	RecordList *list;
	int			previous;		/* the list's undo entry before this one */
	Position	position;
} UndoEntry;

static MemoryContext buffer_cxt = NULL; /* a child of TopTransactionContext */
static List *lists = NIL;
static UndoEntry *undo = NULL;
static int	nundo = 0;
static int	maxundo = 0;
static bool has_wide = false;	/* some tuple will be stored out of line */
static Size in_memory = 0;		/* bytes of all chunks that are in memory */
static File file = -1;
static off_t file_size = 0;

/*
 * Memory of chunks of MAX_CHUNK that went to the file, for the next ones: to
 * free and allocate it again makes the kernel clear the pages each time.
 */
static List *free_chunks = NIL;

/* Make an empty list, which lives until the end of the transaction. */
RecordList *
topics_buffer_list(void)
{
	MemoryContext old;
	RecordList *list;

	if (buffer_cxt == NULL)
		buffer_cxt = AllocSetContextCreate(TopTransactionContext, "pg_topics records",
										   ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(buffer_cxt);
	list = palloc0(sizeof(RecordList));
	list->undo = -1;
	lists = lappend(lists, list);
	MemoryContextSwitchTo(old);
	return list;
}

int64
topics_buffer_count(const RecordList *list)
{
	return list->nrecords;
}

/* Return true if a record will be stored out of line in part. */
bool
topics_buffer_has_wide(void)
{
	return has_wide;
}

/* ----------------------------------------------------------------
 *		Adding
 * ----------------------------------------------------------------
 */

static char *
allocate_chunk(Size size)
{
	char	   *data;

	if (size != MAX_CHUNK || free_chunks == NIL)
		return MemoryContextAlloc(buffer_cxt, size);
	data = llast(free_chunks);
	free_chunks = list_delete_last(free_chunks);
	return data;
}

static void
free_chunk(Chunk *chunk)
{
	if (chunk->size == MAX_CHUNK)
	{
		MemoryContext old = MemoryContextSwitchTo(buffer_cxt);

		free_chunks = lappend(free_chunks, chunk->data);
		MemoryContextSwitchTo(old);
	}
	else
		pfree(chunk->data);
	chunk->data = NULL;
}

/*
 * Write a chunk to the file.  The file is written and read by whole chunks,
 * so there is nothing for a BufFile to buffer: it would copy all once more,
 * and go by 8 kB.
 */
static void
write_chunk(Chunk *chunk)
{
	Size		done = 0;

	while (done < chunk->used)
	{
		int			written;

		errno = 0;
		written = FileWrite(file, chunk->data + done, chunk->used - done,
							file_size + done, WAIT_EVENT_BUFFILE_WRITE);
		if (written <= 0)
		{
			if (errno == 0)
				errno = ENOSPC;
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not write to temporary file of produced records: %m")));
		}
		done += written;
	}
	chunk->offset = file_size;
	file_size += chunk->used;
}

static void
read_chunk(const Chunk *chunk, char *data)
{
	Size		done = 0;

	while (done < chunk->used)
	{
		int			got = FileRead(file, data + done, chunk->used - done,
								   chunk->offset + done, WAIT_EVENT_BUFFILE_READ);

		if (got < 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not read from temporary file of produced records: %m")));
		if (got == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("temporary file of produced records is too short")));
		done += got;
	}
}

/* Write all chunks that are in memory to the file. */
static void
spill_chunks(void)
{
	ListCell   *lc;

	if (file < 0)
	{
		ResourceOwner owner = CurrentResourceOwner;

		/* it must outlive the subtransaction that happens to fill memory */
		PrepareTempTablespaces();
		CurrentResourceOwner = TopTransactionResourceOwner;
		file = OpenTemporaryFile(false);
		CurrentResourceOwner = owner;
		file_size = 0;
	}

	foreach(lc, lists)
	{
		RecordList *list = lfirst(lc);

		/* chunks go to the file in order: those in memory are the last ones */
		for (int i = list->nchunks - 1; i >= 0 && list->chunks[i].data; i--)
		{
			Chunk	   *chunk = &list->chunks[i];

			write_chunk(chunk);
			free_chunk(chunk);
			chunk->size = 0;
		}
	}
	in_memory = 0;
}

/* Reserve space for a record of "length" bytes at the end of a list. */
static char *
reserve_record(RecordList *list, Size length, uint32 note)
{
	Size		need = sizeof(RecordHeader) + MAXALIGN(length);
	Chunk	   *chunk = list->nchunks > 0 ? &list->chunks[list->nchunks - 1] : NULL;
	RecordHeader *header;

	if (chunk == NULL || chunk->size - chunk->used < need || chunk->size == 0)
	{
		Size		size = chunk && chunk->size > 0 ? Min(chunk->size * 2, MAX_CHUNK) : MIN_CHUNK;

		size = Max(size, need);
		if (in_memory > 0 && in_memory + size > (Size) work_mem * 1024)
		{
			spill_chunks();
			size = Max(size, need);
		}
		if (list->nchunks >= list->maxchunks)
		{
			list->maxchunks = Max(FIRST_CHUNKS, list->maxchunks * 2);
			list->chunks = list->chunks ?
				repalloc_huge(list->chunks, sizeof(Chunk) * list->maxchunks) :
				MemoryContextAlloc(buffer_cxt, sizeof(Chunk) * list->maxchunks);
		}
		Assert(list->chunks != NULL);
		chunk = &list->chunks[list->nchunks];
		chunk->data = allocate_chunk(size);
		chunk->size = size;
		chunk->used = 0;
		list->nchunks++;
		in_memory += size;
	}

	header = (RecordHeader *) (chunk->data + chunk->used);
	header->length = length;
	header->note = note;
	/* what is between records goes to the file with them */
	memset((char *) (header + 1) + length, 0, MAXALIGN(length) - length);
	chunk->used += need;
	list->nrecords++;
	return (char *) (header + 1);
}

/* Keep the position of a list at the first record of this subtransaction. */
static void
note_undo(RecordList *list)
{
	SubTransactionId subxid = GetCurrentSubTransactionId();
	UndoEntry  *entry;

	if (list->undo >= 0 && undo[list->undo].subxid == subxid)
		return;
	if (nundo >= maxundo)
	{
		maxundo = Max(FIRST_UNDO_ENTRIES, maxundo * 2);
		undo = undo ? repalloc_huge(undo, sizeof(UndoEntry) * maxundo) :
			MemoryContextAlloc(buffer_cxt, sizeof(UndoEntry) * maxundo);
	}
	entry = &undo[nundo];
	entry->subxid = subxid;
	entry->list = list;
	entry->previous = list->undo;
	entry->position.nchunks = list->nchunks;
	entry->position.used = list->nchunks > 0 ? list->chunks[list->nchunks - 1].used : 0;
	entry->position.nrecords = list->nrecords;
	list->undo = nundo++;
}

/*
 * Bring out-of-line values in, and compress values while the tuple is wide.
 * Return the size of the tuple's data.
 */
static Size
prepare_values(TupleDesc desc, Datum *values, bool *nulls)
{
	Size		size;

	for (int i = Anum_log_key - 1; i < Natts_log; i++)
		if (!nulls[i] && TupleDescAttr(desc, i)->attlen == -1 &&
			VARATT_IS_EXTERNAL(DatumGetPointer(values[i])))
			values[i] = PointerGetDatum(detoast_external_attr((struct varlena *) DatumGetPointer(values[i])));

	size = heap_compute_data_size(desc, values, nulls);
	for (int i = Anum_log_value - 1; i < Natts_log && size > TOAST_TUPLE_THRESHOLD - HEADER_ROOM; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Datum		compressed;

		if (nulls[i] || att->attlen != -1 || VARATT_IS_COMPRESSED(DatumGetPointer(values[i])) ||
			(att->attstorage != TYPSTORAGE_EXTENDED && att->attstorage != TYPSTORAGE_MAIN))
			continue;
		compressed = toast_compress_datum(values[i], att->attcompression);
		if (DatumGetPointer(compressed) != NULL)
		{
			values[i] = compressed;
			size = heap_compute_data_size(desc, values, nulls);
		}
	}
	return size;
}

/*
 * Form a record and add it to the list.  "values" are in the order of the log
 * table, offset and timestamp included, and may be changed.  "note" is kept
 * beside the record, see topics_buffer_note.
 */
void
topics_buffer_add(RecordList *list, TupleDesc desc, Datum *values, bool *nulls, uint32 note)
{
	bool		hasnull = nulls[Anum_log_key - 1] || nulls[Anum_log_value - 1] ||
		nulls[Anum_log_headers - 1];
	Size		hoff = MAXALIGN(offsetof(HeapTupleHeaderData, t_bits) +
								(hasnull ? BITMAPLEN(Natts_log) : 0));
	Size		data_length = prepare_values(desc, values, nulls);
	HeapTupleHeader tuple;

	if (hoff + data_length > TOAST_TUPLE_THRESHOLD)
		has_wide = true;

	note_undo(list);
	tuple = (HeapTupleHeader) reserve_record(list, hoff + data_length, note);
	memset(tuple, 0, hoff + data_length);
	ItemPointerSetInvalid(&tuple->t_ctid);
	HeapTupleHeaderSetNatts(tuple, Natts_log);
	tuple->t_hoff = hoff;
	heap_fill_tuple(desc, values, nulls, (char *) tuple + hoff, data_length,
					&tuple->t_infomask, hasnull ? tuple->t_bits : NULL);
}

/* ----------------------------------------------------------------
 *		Savepoints
 * ----------------------------------------------------------------
 */

/* Take back what was added to a list since it was at a position. */
static void
restore_position(RecordList *list, const Position *position)
{
	while (list->nchunks > position->nchunks)
	{
		Chunk	   *chunk = &list->chunks[--list->nchunks];

		if (chunk->data)
		{
			in_memory -= chunk->size;
			free_chunk(chunk);
		}
	}
	if (list->nchunks > 0)
		list->chunks[list->nchunks - 1].used = position->used;
	list->nrecords = position->nrecords;
}

/* A subtransaction was rolled back: take back what it has added. */
void
topics_buffer_subabort(SubTransactionId subxid)
{
	while (nundo > 0 && undo[nundo - 1].subxid == subxid)
	{
		UndoEntry  *entry = &undo[--nundo];

		restore_position(entry->list, &entry->position);
		entry->list->undo = entry->previous;
	}
}

/* A subtransaction has committed: its undo entries become its parent's. */
void
topics_buffer_subcommit(SubTransactionId subxid, SubTransactionId parent)
{
	int			first = nundo;
	int			kept;

	while (first > 0 && undo[first - 1].subxid == subxid)
		first--;
	kept = first;
	for (int i = first; i < nundo; i++)
	{
		UndoEntry	entry = undo[i];

		if (entry.previous >= 0 && undo[entry.previous].subxid == parent)
			entry.list->undo = entry.previous;
		else
		{
			entry.subxid = parent;
			entry.list->undo = kept;
			undo[kept++] = entry;
		}
	}
	nundo = kept;
}

/* ----------------------------------------------------------------
 *		Reading back
 * ----------------------------------------------------------------
 */

/* Put a cursor before the first record of a list. */
void
topics_buffer_rewind(RecordCursor *cursor, RecordList *list)
{
	memset(cursor, 0, sizeof(RecordCursor));
	cursor->list = list;
	cursor->chunk = -1;
}

/* Go to the beginning of the cursor's chunk, read from the file if need be. */
static void
load_cursor_chunk(RecordCursor *cursor)
{
	Chunk	   *chunk = &cursor->list->chunks[cursor->chunk];

	cursor->position = 0;
	cursor->data = chunk->data;
	if (chunk->data)
		return;
	if (cursor->space_size < chunk->used)
	{
		if (cursor->space)
			pfree(cursor->space);
		cursor->space_size = Max(chunk->used, MAX_CHUNK);
		cursor->space = MemoryContextAlloc(buffer_cxt, cursor->space_size);
	}
	cursor->data = cursor->space;
	read_chunk(chunk, cursor->data);
}

/*
 * Read up to "max" tuples from the cursor on: fewer at the end of a chunk, 0
 * at the end of the list.  They are good until the next call.
 */
int
topics_buffer_read(RecordCursor *cursor, HeapTupleData *tuples, int max)
{
	RecordList *list = cursor->list;
	int			count = 0;

	while (cursor->chunk < 0 || cursor->position >= list->chunks[cursor->chunk].used)
	{
		if (cursor->chunk + 1 >= list->nchunks)
			return 0;
		cursor->chunk++;
		load_cursor_chunk(cursor);
	}
	while (count < max && cursor->position < list->chunks[cursor->chunk].used)
	{
		RecordHeader *header = (RecordHeader *) (cursor->data + cursor->position);

		tuples[count].t_len = header->length;
		tuples[count].t_tableOid = InvalidOid;
		ItemPointerSetInvalid(&tuples[count].t_self);
		tuples[count].t_data = (HeapTupleHeader) (header + 1);
		count++;
		cursor->position += sizeof(RecordHeader) + MAXALIGN(header->length);
	}
	return count;
}

/* The note that came with a tuple of topics_buffer_read. */
uint32
topics_buffer_note(const HeapTupleData *tuple)
{
	return ((const RecordHeader *) tuple->t_data)[-1].note;
}

/* Close the file, while errors can still be raised. */
void
topics_buffer_close(void)
{
	if (file >= 0)
		FileClose(file);
	file = -1;
}

/*
 * Forget all at the end of a transaction.  After an abort the memory context
 * and the resource owner free what is left.
 */
void
topics_buffer_reset(void)
{
	file = -1;
	buffer_cxt = NULL;
	lists = NIL;
	free_chunks = NIL;
	undo = NULL;
	nundo = maxundo = 0;
	in_memory = 0;
	has_wide = false;
}
