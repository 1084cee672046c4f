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

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"

#include "produce/produce.h"

#define BASE64_KEY "base64"

/* What an error shows of a header's name: this many bytes of it. */
#define SHOWN_NAME_BYTES 63

/*
 * Raise an error for a header, or for all of them: "number" is 0 then,
 * otherwise from 1.  The header's name, if it has one, is a string; its value
 * is not shown.
 */
static void
report_bad_header(int number, const JsonbValue *name, const char *detail)
{
	StringInfoData header;

	initStringInfo(&header);
	if (number > 0)
		appendStringInfo(&header, "Header %d", number);
	if (name)
	{
		int			len = Min(name->val.string.len, SHOWN_NAME_BYTES);

		len = pg_mbcliplen(name->val.string.val, name->val.string.len, len);
		appendStringInfo(&header, ", \"%.*s%s\"", len, name->val.string.val,
						 len < name->val.string.len ? "..." : "");
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid headers"),
			 number > 0 ? errdetail("%s: %s", header.data, detail) : errdetail("%s", detail),
			 errhint("Headers are a list of pairs such as [[\"name\", \"value\"], [\"name\", {\"base64\": \"AAE=\"}], [\"name\", null]], or an object of names and values.")));
}

/*
 * Return true if decode(string, 'base64') takes it.  Its own error would show a
 * part of the value, and say of which header it is not.
 */
static bool
is_base64(const char *string, int len)
{
	int			position = 0;	/* in a group of four */
	bool		ended = false;

	for (int i = 0; i < len; i++)
	{
		unsigned char c = string[i];

		if (c == ' ' || c == '\t' || c == '\n' || c == '\r')
			continue;
		if (c == '=')
		{
			if (!ended && position < 2)
				return false;
			ended = true;
		}
		else if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
				   c == '+' || c == '/'))
			return false;
		position = (position + 1) % 4;
	}
	return position == 0;
}

/* Check a header's value: text, null, or {"base64": "..."}. */
static void
check_header_value(int number, const JsonbValue *name, JsonbValue *value)
{
	JsonbValue *base64;

	if (value->type == jbvString || value->type == jbvNull)
		return;
	if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data) ||
		JsonContainerSize(value->val.binary.data) != 1 ||
		(base64 = getKeyJsonValueFromContainer(value->val.binary.data, BASE64_KEY,
											   strlen(BASE64_KEY), NULL)) == NULL ||
		base64->type != jbvString)
		report_bad_header(number, name, "its value is neither a string, nor null, nor an object with the one key \"base64\".");
	else if (!is_base64(base64->val.string.val, base64->val.string.len))
		report_bad_header(number, name, "its value is not valid base64.");
}

/* Check a list of headers: each is a pair of name and value. */
static void
check_header_list(JsonbContainer *list)
{
	int			count = JsonContainerSize(list);

	for (int i = 0; i < count; i++)
	{
		JsonbValue *pair = getIthJsonbValueFromContainer(list, i);
		JsonbValue *name;

		CHECK_FOR_INTERRUPTS();
		if (pair->type != jbvBinary || !JsonContainerIsArray(pair->val.binary.data) ||
			JsonContainerSize(pair->val.binary.data) != 2)
			report_bad_header(i + 1, NULL, "it is not a pair.");
		name = getIthJsonbValueFromContainer(pair->val.binary.data, 0);
		if (name->type != jbvString)
			report_bad_header(i + 1, NULL, "its name is not a string.");
		check_header_value(i + 1, name, getIthJsonbValueFromContainer(pair->val.binary.data, 1));
	}
}

/* Convert an object to a list: {"a": "1"} means [["a", "1"]]. */
static Datum
convert_header_object(Jsonb *headers)
{
	JsonbIterator *iterator = JsonbIteratorInit(&headers->root);
	JsonbIteratorToken token;
	JsonbValue	name = {0};
	JsonbValue	value;
	StringInfoData list;
	int			number = 0;

	initStringInfo(&list);
	appendStringInfoChar(&list, '[');
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			name = value;
			appendStringInfoString(&list, number++ > 0 ? ",[" : "[");
			escape_json(&list, pnstrdup(value.val.string.val, value.val.string.len));
		}
		else if (token == WJB_VALUE)
		{
			check_header_value(number, &name, &value);
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
		report_bad_header(0, NULL, "It is neither a list nor an object.");
	check_header_list(&headers->root);
	return JsonbPGetDatum(headers);
}
