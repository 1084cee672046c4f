/*-------------------------------------------------------------------------
 *
 * topic_setting.c
 *		The settings of a topic: one table in C has all that is said of each.
 *
 * A setting is an argument of create_topic() and of alter_topic(), a column of
 * topic_log.topic, a column of the view topics.topic, a row of what
 * describe_topic() returns, and a field of TopicSettings.  The arguments and
 * the columns of topic_log.topic stand in the order of the table below.
 *
 * TO ADD A SETTING: a row at the end of the table, of one of the kinds in
 * SettingKind, which also checks the value; a field of TopicSettings (log.h);
 * in the install script the argument of both functions, with their comments,
 * the column of topic_log.topic, before notify_key, and the column of
 * topics.topic.  The comment on the latter is what describe_topic() shows, with
 * Kafka's name of the setting in parentheses at its end.  And a line in
 * docs/reference/topics.md, which a test asks for.
 *
 * It stands below topic.c, whose functions take the arguments: catalog.c reads
 * the columns, and make_topic.c needs the defaults.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "log/log.h"

#define MIN_SEGMENT_BYTES 65536
#define MAX_MAX_MESSAGE_BYTES 268435456
#define MAX_INSYNC_REPLICAS 9	/* MAX_FOLLOWERS, and the leader */

/* What a setting is in SQL, and as what it is kept in TopicSettings. */
typedef enum SettingKind
{
	SETTING_TIME,				/* interval; int64, in ms; negative: no limit */
	SETTING_DELAY,				/* interval; int64, in ms; not negative */
	SETTING_BIGINT,				/* bigint; int64 */
	SETTING_INTEGER,			/* integer; int32 */
	SETTING_RATIO,				/* double precision; double */
	SETTING_WORD,				/* text; what "take_word" makes of it */
	SETTING_SWITCH				/* boolean; bool */
} SettingKind;

static const Oid kind_types[] = {
	[SETTING_TIME] = INTERVALOID,
	[SETTING_DELAY] = INTERVALOID,
	[SETTING_BIGINT] = INT8OID,
	[SETTING_INTEGER] = INT4OID,
	[SETTING_RATIO] = FLOAT8OID,
	[SETTING_WORD] = TEXTOID,
	[SETTING_SWITCH] = BOOLOID
};

typedef struct SettingRow
{
	const char *name;			/* of the argument and of the columns */
	SettingKind kind;
	const char *boot_value;		/* the default, as text */
	size_t		field;			/* where TopicSettings keeps it, but for words */
	const char *rule;			/* what an error says of the range; NULL: any
								 * value is good */
	double		min;			/* of numbers */
	double		max;
	const char *const *words;	/* all that are good, then NULL */
	void		(*take_word) (TopicSettings *settings, const char *word);
	void		(*check) (Datum value); /* raises an error, here and now, or
										 * NULL */
} SettingRow;

static const char *const timestamp_types[] = {"CreateTime", "LogAppendTime", NULL};
static const char *const cleanup_policies[] = {"delete", "compact", "compact,delete", NULL};

static void
take_timestamp_type(TopicSettings *settings, const char *word)
{
	settings->log_append_time = strcmp(word, "LogAppendTime") == 0;
}

static void
take_cleanup_policy(TopicSettings *settings, const char *word)
{
	settings->compact = strstr(word, "compact") != NULL;
	settings->delete = strstr(word, "delete") != NULL;
}

/* There must be as many replicas as that, if all followers are there. */
static void
check_min_insync_replicas(Datum value)
{
	topics_cluster_check_replicas(DatumGetInt32(value));
}

#define KEPT_IN(member) .field = offsetof(TopicSettings, member)

static const SettingRow setting_rows[] = {
	{"retention_time", SETTING_TIME, "7 days", KEPT_IN(retention_ms)},
	{"retention_bytes", SETTING_BIGINT, "-1", KEPT_IN(retention_bytes)},
	{"segment_bytes", SETTING_BIGINT, "1073741824", KEPT_IN(segment_bytes),
		.rule = "It must be at least " CppAsString2(MIN_SEGMENT_BYTES) ".",
	.min = MIN_SEGMENT_BYTES,.max = INFINITY},
	{"segment_time", SETTING_TIME, "7 days", KEPT_IN(segment_ms)},
	{"max_message_bytes", SETTING_INTEGER, "1048576", KEPT_IN(max_message_bytes),
		.rule = "It must be from 1 to " CppAsString2(MAX_MAX_MESSAGE_BYTES)
		": larger rows break logical decoding and pg_dump.",
	.min = 1,.max = MAX_MAX_MESSAGE_BYTES},
	{"timestamp_type", SETTING_WORD, "CreateTime",
		.rule = "It must be CreateTime or LogAppendTime.",
	.words = timestamp_types,.take_word = take_timestamp_type},
	{"cleanup_policy", SETTING_WORD, "delete",
		.rule = "It must be delete, compact or compact,delete.",
	.words = cleanup_policies,.take_word = take_cleanup_policy},
	{"delete_retention_time", SETTING_DELAY, "1 day", KEPT_IN(delete_retention_ms),
	.rule = "It must not be negative."},
	{"min_compaction_lag_time", SETTING_DELAY, "0", KEPT_IN(min_compaction_lag_ms),
	.rule = "It must not be negative."},
	{"min_cleanable_dirty_ratio", SETTING_RATIO, "0.5", KEPT_IN(min_cleanable_dirty_ratio),
	.rule = "It must be from 0 to 1.",.min = 0,.max = 1},
	{"notify", SETTING_SWITCH, "true", KEPT_IN(notify)},
	{"min_insync_replicas", SETTING_INTEGER, "1", KEPT_IN(min_insync_replicas),
		.rule = "It must be from 1 to " CppAsString2(MAX_INSYNC_REPLICAS) ".",
	.min = 1,.max = MAX_INSYNC_REPLICAS,.check = check_min_insync_replicas},
};

#define SETTINGS ((int) lengthof(setting_rows))

struct TopicSettingValues
{
	Datum		values[SETTINGS];
	char		nulls[SETTINGS];	/* as SPI has them: 'n' where there is
									 * none */
};

int
topics_topic_setting_count(void)
{
	return SETTINGS;
}

/* ----------------------------------------------------------------
 *		Values, as SQL has them
 * ----------------------------------------------------------------
 */

static bool
is_in_range(const SettingRow *row, double number)
{
	/* not so for NaN */
	return number >= row->min && number <= row->max;
}

static bool
is_known_word(const SettingRow *row, const char *word)
{
	for (const char *const *good = row->words; *good; good++)
		if (strcmp(word, *good) == 0)
			return true;
	return false;
}

/* Return true if a setting can have a value. */
static bool
is_good_value(const SettingRow *row, Datum value)
{
	Interval   *interval;

	if (row->rule == NULL)
		return true;
	switch (row->kind)
	{
		case SETTING_DELAY:
			interval = DatumGetIntervalP(value);
			return interval->month >= 0 && interval->day >= 0 && interval->time >= 0;
		case SETTING_BIGINT:
			return is_in_range(row, (double) DatumGetInt64(value));
		case SETTING_INTEGER:
			return is_in_range(row, DatumGetInt32(value));
		case SETTING_RATIO:
			return is_in_range(row, DatumGetFloat8(value));
		case SETTING_WORD:
			return is_known_word(row, TextDatumGetCString(value));
		case SETTING_TIME:
		case SETTING_SWITCH:
			break;
	}
	return true;
}

/* Create a set without any values, palloc'd. */
static TopicSettingValues *
create_values(void)
{
	TopicSettingValues *values = palloc0(sizeof(TopicSettingValues));

	memset(values->nulls, 'n', sizeof(values->nulls));
	return values;
}

static void
set_value(TopicSettingValues *values, int i, Datum value)
{
	values->values[i] = value;
	values->nulls[i] = ' ';
}

/*
 * Read the values among a function's arguments, of which the first is the one
 * at "first".  They are checked; what is NULL has no value.  Palloc'd.
 */
TopicSettingValues *
topics_topic_setting_arguments(FunctionCallInfo fcinfo, int first)
{
	TopicSettingValues *values = create_values();

	for (int i = 0; i < SETTINGS; i++)
	{
		const SettingRow *row = &setting_rows[i];

		if (PG_ARGISNULL(first + i))
			continue;
		if (!is_good_value(row, PG_GETARG_DATUM(first + i)))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value for topic setting \"%s\"", row->name),
					 errdetail("%s", row->rule)));
		if (row->check)
			row->check(PG_GETARG_DATUM(first + i));
		set_value(values, i, PG_GETARG_DATUM(first + i));
	}
	return values;
}

static Datum
parse_value(const SettingRow *row, const char *text)
{
	Oid			input;
	Oid			ioparam;

	getTypeInputInfo(kind_types[row->kind], &input, &ioparam);
	return OidInputFunctionCall(input, pstrdup(text), ioparam, -1);
}

static int
find_setting(const char *name)
{
	for (int i = 0; i < SETTINGS; i++)
		if (strcmp(name, setting_rows[i].name) == 0)
			return i;
	elog(ERROR, "there is no topic setting \"%s\"", name);
}

/* Read values that are given as text, in pairs of name and value; palloc'd. */
TopicSettingValues *
topics_topic_setting_from_text(const char *const(*pairs)[2], int count)
{
	TopicSettingValues *values = create_values();

	for (int i = 0; i < count; i++)
	{
		int			number = find_setting(pairs[i][0]);

		set_value(values, number, parse_value(&setting_rows[number], pairs[i][1]));
	}
	return values;
}

/* Set what has no value to its default. */
void
topics_topic_setting_add_defaults(TopicSettingValues *values)
{
	for (int i = 0; i < SETTINGS; i++)
		if (values->nulls[i] == 'n')
			set_value(values, i, parse_value(&setting_rows[i], setting_rows[i].boot_value));
}

/* ----------------------------------------------------------------
 *		Values, as they are used
 * ----------------------------------------------------------------
 */

static int64
convert_interval(const Interval *interval)
{
	int64		days;

	Assert(interval != NULL);
	days = (int64) interval->month * DAYS_PER_MONTH + interval->day;
	return days * SECS_PER_DAY * 1000 + interval->time / 1000;
}

static void
keep_value(TopicSettings *settings, const SettingRow *row, Datum value)
{
	void	   *field = (char *) settings + row->field;

	switch (row->kind)
	{
		case SETTING_TIME:
		case SETTING_DELAY:
			*(int64 *) field = convert_interval(DatumGetIntervalP(value));
			break;
		case SETTING_BIGINT:
			*(int64 *) field = DatumGetInt64(value);
			break;
		case SETTING_INTEGER:
			*(int32 *) field = DatumGetInt32(value);
			break;
		case SETTING_RATIO:
			*(double *) field = DatumGetFloat8(value);
			break;
		case SETTING_WORD:
			row->take_word(settings, TextDatumGetCString(value));
			break;
		case SETTING_SWITCH:
			*(bool *) field = DatumGetBool(value);
			break;
	}
}

/* Convert values, which must all be there, to what is used. */
TopicSettings
topics_topic_setting_used(const TopicSettingValues *values)
{
	TopicSettings settings = {0};

	for (int i = 0; i < SETTINGS; i++)
		keep_value(&settings, &setting_rows[i], values->values[i]);
	return settings;
}

/*
 * Likewise of a row of topic_log.topic, in which the first setting is "first".
 */
void
topics_topic_setting_read_row(TopicSettings *settings, HeapTuple tuple, TupleDesc desc,
							  AttrNumber first)
{
	for (int i = 0; i < SETTINGS; i++)
	{
		bool		isnull;

		keep_value(settings, &setting_rows[i], heap_getattr(tuple, first + i, desc, &isnull));
	}
}

/* ----------------------------------------------------------------
 *		Parts of statements on topic_log.topic
 * ----------------------------------------------------------------
 */

/* ", name, name .." */
char *
topics_topic_setting_columns(void)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (int i = 0; i < SETTINGS; i++)
		appendStringInfo(&sql, ", %s", setting_rows[i].name);
	return sql.data;
}

/* ", $1, $2 ..", for topics_topic_setting_execute */
char *
topics_topic_setting_parameters(void)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (int i = 0; i < SETTINGS; i++)
		appendStringInfo(&sql, ", $%d", i + 1);
	return sql.data;
}

/* "name = COALESCE($1, name) ..", for the same */
char *
topics_topic_setting_assignments(void)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (int i = 0; i < SETTINGS; i++)
		appendStringInfo(&sql, "%s%s = COALESCE($%d, %s)", i > 0 ? ", " : "",
						 setting_rows[i].name, i + 1, setting_rows[i].name);
	return sql.data;
}

/* ", (number, name, value, is_default, NULL) ..", of the topic's row t */
char *
topics_topic_setting_descriptions(void)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (int i = 0; i < SETTINGS; i++)
	{
		const SettingRow *row = &setting_rows[i];

		appendStringInfo(&sql, ", (%d, '%s', t.%s::text, t.%s = '%s'::%s, NULL)",
						 i, row->name, row->name, row->name, row->boot_value,
						 format_type_be(kind_types[row->kind]));
	}
	return sql.data;
}

/* Run a statement that has the values as its parameters $1 .. */
void
topics_topic_setting_execute(const char *sql, TopicSettingValues *values)
{
	Oid			types[SETTINGS];

	for (int i = 0; i < SETTINGS; i++)
		types[i] = kind_types[setting_rows[i].kind];
	if (SPI_execute_with_args(sql, SETTINGS, types, values->values, values->nulls, false, 0) < 0)
		elog(ERROR, "could not execute \"%s\"", sql);
}
