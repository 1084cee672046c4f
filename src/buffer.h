/*-------------------------------------------------------------------------
 *
 * buffer.h
 *		Records that wait for the commit of their transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PG_TOPICS_BUFFER_H
#define PG_TOPICS_BUFFER_H

#include "access/htup_details.h"
#include "access/tupdesc.h"

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
extern void topics_buffer_add(RecordList *list, TupleDesc desc, Datum *values, bool *nulls);
extern void topics_buffer_subabort(SubTransactionId subxid);
extern void topics_buffer_subcommit(SubTransactionId subxid, SubTransactionId parent);
extern void topics_buffer_rewind(RecordCursor *cursor, RecordList *list);
extern int	topics_buffer_read(RecordCursor *cursor, HeapTupleData *tuples, int max);
extern void topics_buffer_close(void);
extern void topics_buffer_reset(void);

#endif							/* PG_TOPICS_BUFFER_H */
