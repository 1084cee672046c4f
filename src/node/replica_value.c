/*-------------------------------------------------------------------------
 *
 * replica_value.c
 *		How the values of records go from node to node.
 *
 * A leader writes them (replica_feed.c), and a follower reads them
 * (replica_fetch.c): each a length, or -1 for NULL, and bytes, in PostgreSQL's
 * binary form or as text.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "libpq/pqformat.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "node/node.h"

/* ----------------------------------------------------------------
 *		To write
 * ----------------------------------------------------------------
 */

/* Return true if a type has a binary form. */
static bool
has_binary_form(Oid type)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	bool		result = false;

	if (HeapTupleIsValid(tuple))
	{
		Form_pg_type form = (Form_pg_type) GETSTRUCT(tuple);

		result = OidIsValid(form->typreceive) && OidIsValid(form->typsend);
		ReleaseSysCache(tuple);
	}
	return result;
}

/*
 * Values go in PostgreSQL's binary form where that means the same on both
 * nodes: for types that initdb has made, but those whose values are OIDs of a
 * database.  Others may have OIDs in it; they go as text.
 */
static bool
goes_as_text(Oid type)
{
	if (type >= FirstGenbkiObjectId || !has_binary_form(type))
		return true;
	switch (type)
	{
		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGCLASSOID:
		case REGTYPEOID:
		case REGROLEOID:
		case REGNAMESPACEOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
		case REGCOLLATIONOID:
			return true;
		default:
			return OidIsValid(get_element_type(type)) && goes_as_text(get_element_type(type));
	}
}

/* Find out how values of a column go, of a type that is no domain. */
void
topics_replica_value_set_writer(ValueWriter *writer, Oid type)
{
	Oid			function;
	bool		is_varlena;

	writer->as_text = goes_as_text(type);
	writer->is_varlena_text = type == TEXTOID || type == BYTEAOID;
	if (writer->as_text)
		getTypeOutputInfo(type, &function, &is_varlena);
	else
		getTypeBinaryOutputInfo(type, &function, &is_varlena);
	fmgr_info(function, &writer->function);
}

/* Write a value: its length, or -1 for NULL, and its bytes. */
void
topics_replica_value_write(StringInfo out, ValueWriter *writer, Datum value, bool isnull)
{
	if (isnull)
		pq_sendint32(out, -1);
	else if (writer->is_varlena_text)
	{
		/* textsend would convert to the client's encoding, which is ours */
		struct varlena *bytes = pg_detoast_datum_packed((struct varlena *) DatumGetPointer(value));

		pq_sendint32(out, VARSIZE_ANY_EXHDR(bytes));
		appendBinaryStringInfoNT(out, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	}
	else if (writer->as_text)
	{
		char	   *text = OutputFunctionCall(&writer->function, value);

		pq_sendint32(out, strlen(text));
		appendBinaryStringInfoNT(out, text, strlen(text));
	}
	else
	{
		bytea	   *bytes = SendFunctionCall(&writer->function, value);

		pq_sendint32(out, VARSIZE(bytes) - VARHDRSZ);
		appendBinaryStringInfoNT(out, VARDATA(bytes), VARSIZE(bytes) - VARHDRSZ);
	}
}

/* ----------------------------------------------------------------
 *		To read
 * ----------------------------------------------------------------
 */

/* Find out how values of a column come, of a type that is no domain. */
void
topics_replica_value_set_reader(ValueReader *reader, Oid type, int32 typmod, bool as_text)
{
	Oid			function;

	reader->type = type;
	reader->typmod = typmod;
	reader->as_text = as_text;
	if (as_text)
		getTypeInputInfo(type, &function, &reader->ioparam);
	else
		getTypeBinaryInputInfo(type, &function, &reader->ioparam);
	fmgr_info(function, &reader->function);
	initStringInfo(&reader->copy);
}

/* Read a value; the result is palloc'd. */
Datum
topics_replica_value_read(StringInfo data, ValueReader *reader, bool *isnull)
{
	int			length = (int) pq_getmsgint(data, sizeof(int32));
	const char *bytes;
	Datum		result;

	*isnull = length == -1;
	if (*isnull)
		return (Datum) 0;
	bytes = pq_getmsgbytes(data, length);
	if (reader->typmod < 0 && (reader->type == TEXTOID || reader->type == BYTEAOID))
		return PointerGetDatum(cstring_to_text_with_len(bytes, length));
	resetStringInfo(&reader->copy);
	appendBinaryStringInfo(&reader->copy, bytes, length);
	if (reader->as_text)
		return InputFunctionCall(&reader->function, reader->copy.data, reader->ioparam, reader->typmod);
	result = ReceiveFunctionCall(&reader->function, &reader->copy, reader->ioparam, reader->typmod);
	pq_getmsgend(&reader->copy);
	return result;
}
