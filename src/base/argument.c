/*-------------------------------------------------------------------------
 *
 * argument.c
 *		Arguments of SQL functions that must not be NULL.
 *
 * The functions are not STRICT, since NULL means "the default" in most of
 * their other arguments.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_proc.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "miscadmin.h"
#include "nodes/parsenodes.h"

#include "base/base.h"

/*
 * Name the function that was called, which may be one of several that have the
 * same C function: topics.fetch_bytea().  The result is palloc'd.
 */
char *
topics_argument_function(FunctionCallInfo fcinfo)
{
	Oid			function = fcinfo->flinfo->fn_oid;

	return psprintf("%s.%s()", get_namespace_name(get_func_namespace(function)),
					get_func_name(function));
}

/* Get the name of an argument, counted from 0, of the function called. */
static char *
get_argument_name(FunctionCallInfo fcinfo, int argument)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(fcinfo->flinfo->fn_oid));
	char	  **names = NULL;
	Datum		modes;
	bool		isnull;
	int			count = 0;

	if (HeapTupleIsValid(tuple))
	{
		Datum		datum = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_proargnames, &isnull);

		if (!isnull)
		{
			modes = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_proargmodes, &isnull);
			count = get_func_input_arg_names(datum, isnull ? PointerGetDatum(NULL) : modes, &names);
		}
		ReleaseSysCache(tuple);
	}
	return names && argument < count && names[argument] ? names[argument] : psprintf("$%d", argument + 1);
}

/* Raise 22004 unless the argument has a value. */
void
topics_argument_require(FunctionCallInfo fcinfo, int argument)
{
	if (PG_ARGISNULL(argument))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" of %s must not be null",
						get_argument_name(fcinfo, argument), topics_argument_function(fcinfo))));
}

/* Return a text argument, palloc'd; raise 22004 if it is NULL. */
char *
topics_argument_get_text(FunctionCallInfo fcinfo, int argument)
{
	topics_argument_require(fcinfo, argument);
	return text_to_cstring(PG_GETARG_TEXT_PP(argument));
}

/* Raise 22004 unless the first "count" arguments have values. */
void
topics_argument_require_all(FunctionCallInfo fcinfo, int count)
{
	for (int i = 0; i < count; i++)
		topics_argument_require(fcinfo, i);
}

/*
 * Require a procedure to be called on its own, by a role that may write: it
 * commits as it goes.
 */
void
topics_argument_require_no_block(FunctionCallInfo fcinfo, const char *command)
{
	CallContext *context = (CallContext *) fcinfo->context;

	topics_settings_require_preload();
	if (context == NULL || !IsA(context, CallContext) || context->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run inside a transaction block", command),
				 errdetail("It commits as it goes."),
				 errhint("Call it on its own, or in a procedure after COMMIT. A driver that begins transactions by itself needs autocommit for it.")));
	PreventCommandIfReadOnly(command);
}
