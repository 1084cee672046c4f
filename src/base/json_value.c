/*-------------------------------------------------------------------------
 *
 * json_value.c
 *		What a jsonb object has, which may be anything.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "base/base.h"

/* Get a field of an object, or NULL. */
JsonbValue *
topics_json_field(Jsonb *value, const char *name)
{
	return getKeyJsonValueFromContainer(&value->root, name, strlen(name), NULL);
}

/* Return a number, or "missing" if the value is none. */
int64
topics_json_number(const JsonbValue *value, int64 missing)
{
	if (value == NULL || value->type != jbvNumeric)
		return missing;
	return DatumGetInt64(DirectFunctionCall1(numeric_int8, NumericGetDatum(value->val.numeric)));
}

/* Return a string, palloc'd, or NULL if the value is none. */
char *
topics_json_string(const JsonbValue *value)
{
	if (value == NULL || value->type != jbvString)
		return NULL;
	return pnstrdup(value->val.string.val, value->val.string.len);
}
