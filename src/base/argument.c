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

#include "fmgr.h"
#include "utils/builtins.h"

#include "base/base.h"

/* Raise 22004, naming "name", unless the argument has a value. */
void
topics_argument_require(FunctionCallInfo fcinfo, int argument, const char *name)
{
	if (PG_ARGISNULL(argument))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name)));
}

/*
 * Return a text argument, palloc'd; raise 22004, naming "name", if it is NULL.
 */
char *
topics_argument_get_text(FunctionCallInfo fcinfo, int argument, const char *name)
{
	topics_argument_require(fcinfo, argument, name);
	return text_to_cstring(PG_GETARG_TEXT_PP(argument));
}

/* Raise 22004, naming "function", unless the first "count" have values. */
void
topics_argument_require_all(FunctionCallInfo fcinfo, int count, const char *function)
{
	for (int i = 0; i < count; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("arguments of %s must not be null", function)));
}
