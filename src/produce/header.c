/*-------------------------------------------------------------------------
 *
 * header.c
 *		The headers of a record, Kafka's: checked, and brought into one form.
 *
 * Kafka's headers are an ordered list in which a name may come twice, and a
 * value is bytes or null.  Here they are kept as jsonb, an array of pairs:
 *
 *		[["name", "text"], ["name", {"base64": "AAE="}], ["name", null]]
 *
 * A producer may also give an object of names and values, which becomes such
 * an array.  topics_header_normalize refuses everything else, when the record
 * is produced, so that a reader never meets it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"

#include "produce/produce.h"

#define BASE64_KEY "base64"

static void
report_bad_header(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid headers"),
			 errdetail("%s", detail),
			 errhint("Headers are a list of pairs such as [[\"name\", \"value\"], [\"name\", {\"base64\": \"AAE=\"}], [\"name\", null]], or an object of names and values.")));
}

/* Check a header's value: text, null, or {"base64": "..."}. */
static void
check_header_value(JsonbValue *value)
{
	JsonbValue *base64;

	if (value->type == jbvString || value->type == jbvNull)
		return;
	if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data) ||
		JsonContainerSize(value->val.binary.data) != 1 ||
		(base64 = getKeyJsonValueFromContainer(value->val.binary.data, BASE64_KEY,
											   strlen(BASE64_KEY), NULL)) == NULL ||
		base64->type != jbvString)
		report_bad_header("A value is neither a string, nor null, nor an object with the one key \"base64\".");
	else
		(void) DirectFunctionCall2(binary_decode,
								   PointerGetDatum(cstring_to_text_with_len(base64->val.string.val,
																			base64->val.string.len)),
								   CStringGetTextDatum(BASE64_KEY));
}

/* Check a list of headers: each is a pair of name and value. */
static void
check_header_list(JsonbContainer *list)
{
	int			count = JsonContainerSize(list);

	for (int i = 0; i < count; i++)
	{
		JsonbValue *pair = getIthJsonbValueFromContainer(list, i);

		CHECK_FOR_INTERRUPTS();
		if (pair->type != jbvBinary || !JsonContainerIsArray(pair->val.binary.data) ||
			JsonContainerSize(pair->val.binary.data) != 2)
			report_bad_header("An element is not a pair.");
		if (getIthJsonbValueFromContainer(pair->val.binary.data, 0)->type != jbvString)
			report_bad_header("A name is not a string.");
		check_header_value(getIthJsonbValueFromContainer(pair->val.binary.data, 1));
	}
}

/* Convert an object to a list: {"a": "1"} means [["a", "1"]]. */
static Datum
convert_header_object(Jsonb *headers)
{
	JsonbIterator *iterator = JsonbIteratorInit(&headers->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	StringInfoData list;
	const char *separator = "";

	initStringInfo(&list);
	appendStringInfoChar(&list, '[');
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			appendStringInfo(&list, "%s[", separator);
			escape_json(&list, pnstrdup(value.val.string.val, value.val.string.len));
			separator = ",";
		}
		else if (token == WJB_VALUE)
		{
			check_header_value(&value);
			appendStringInfoChar(&list, ',');
			if (value.type == jbvNull)
				appendStringInfoString(&list, "null");
			else if (value.type == jbvString)
				escape_json(&list, pnstrdup(value.val.string.val, value.val.string.len));
			else
				(void) JsonbToCString(&list, value.val.binary.data, value.val.binary.len);
			appendStringInfoChar(&list, ']');
		}
	}
	appendStringInfoChar(&list, ']');
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(list.data));
}

/* Check headers, and bring them into the form in which they are kept. */
Datum
topics_header_normalize(Datum datum)
{
	Jsonb	   *headers = DatumGetJsonbP(datum);

	if (JB_ROOT_IS_OBJECT(headers))
		return convert_header_object(headers);
	if (!JB_ROOT_IS_ARRAY(headers) || JB_ROOT_IS_SCALAR(headers))
		report_bad_header("It is neither a list nor an object.");
	check_header_list(&headers->root);
	return JsonbPGetDatum(headers);
}
