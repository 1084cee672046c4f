/*-------------------------------------------------------------------------
 *
 * fixed_text.c
 *		Text of values that is the same whatever the session's settings are.
 *
 * Where text says which records are of one key, or which partition a key goes
 * to, it must not depend on who produces: TimeZone alone would give one row
 * many keys.  Such text is made, and read, between topics_fixed_text_begin and
 * topics_fixed_text_end.
 *
 * TO ADD A SETTING: a line in fixed_settings, with the form that the text of
 * existing keys has.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "base/base.h"

/*
 * What input and output functions look at.  search_path and
 * quote_all_identifiers are for the types that name objects, like regclass;
 * array_nulls, timezone_abbreviations and the order in DateStyle for text that
 * is read.
 */
static const char *const fixed_settings[][2] = {
	{"array_nulls", "on"},
	{"bytea_output", "hex"},
	{"datestyle", "ISO, MDY"},
	{"extra_float_digits", "1"},
	{"intervalstyle", "postgres"},
	{"lc_monetary", "C"},
	{"quote_all_identifiers", "off"},
	{"search_path", "pg_catalog, pg_temp"},
	{"timezone", "UTC"},
	{"timezone_abbreviations", "Default"}
};

/*
 * Return true if the text of a type's values may depend on settings, or the
 * value that text stands for.  It does not for the usual types of keys; of all
 * others, and of what is made of others, it is assumed.
 */
bool
topics_fixed_text_is_needed(Oid type)
{
	type = getBaseType(type);
	switch (type)
	{
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case NAMEOID:
		case CHAROID:
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case OIDOID:
		case NUMERICOID:
		case UUIDOID:
		case INETOID:
		case CIDROID:
		case JSONOID:
		case JSONBOID:
			return false;
		default:
			return get_typtype(type) != TYPTYPE_ENUM;
	}
}

/* Fix the settings if that is needed.  The result is for the call that ends. */
int
topics_fixed_text_begin(bool needed)
{
	int			guc_level;

	if (!needed)
		return 0;

	guc_level = NewGUCNestLevel();
	for (int i = 0; i < (int) lengthof(fixed_settings); i++)
	{
		const char *name = fixed_settings[i][0];
		const char *value = fixed_settings[i][1];

		/* to set one is much dearer than to look at it */
		if (strcmp(GetConfigOption(name, false, false), value) != 0)
			topics_settings_override(name, value);
	}
	return guc_level;
}

/* Give the session its settings back. */
void
topics_fixed_text_end(int guc_level)
{
	if (guc_level > 0)
		AtEOXact_GUC(true, guc_level);
}
