/*-------------------------------------------------------------------------
 *
 * assignor_sql.c
 *		Call an assignor from SQL, with a group in JSON.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "base/base.h"
#include "base/compat.h"
#include "group/group.h"

PG_FUNCTION_INFO_V1(topics_assign);

/* Arguments of assign. */
enum
{
	ASSIGN_ASSIGNOR,
	ASSIGN_SUBSCRIPTIONS,
	ASSIGN_PARTITIONS,
	ASSIGN_OWNED,
	ASSIGN_ARGUMENTS
};

/* As many as pg_topics.max_partitions can be. */
#define MAX_ASSIGNED_PARTITIONS 1000000

#define SUBSCRIPTIONS_HINT "Subscriptions are like {\"C0\": [\"orders\"], \"C1\": {\"topics\": [\"orders\"], \"group_instance_id\": \"i1\"}}."
#define PARTITIONS_HINT "Numbers of partitions are like {\"orders\": 3, \"clicks\": 1}, with no more than 1000000 altogether."
#define OWNED_HINT "What members own is like {\"C0\": {\"orders\": [0, 1]}, \"C1\": {\"orders\": [2]}}, each partition once."

/* A field of an object, or an element of an array, that a loop is at. */
typedef struct JsonItem
{
	JsonbIterator *iterator;
	JsonbValue	key;			/* of a field */
	JsonbValue	value;
} JsonItem;

/* The names of a JSON object's fields, in the order that jsonb has them in. */
typedef struct JsonNames
{
	int			count;
	char	  **names;
} JsonNames;

pg_noreturn static void
report_bad_json(const char *argument, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("argument \"%s\" is not as it must be", argument),
			 errhint("%s", hint)));
}

/*
 * Begin a loop over an object or an array; return false if it is something
 * else.
 */
static bool
begin_items(JsonItem *item, JsonbContainer *container, bool is_object)
{
	JsonbValue	ignored;

	if (is_object ? !JsonContainerIsObject(container) :
		!JsonContainerIsArray(container) || JsonContainerIsScalar(container))
		return false;
	item->iterator = JsonbIteratorInit(container);
	(void) JsonbIteratorNext(&item->iterator, &ignored, true);
	return true;
}

/* The same, for a value within another one. */
static bool
begin_nested_items(JsonItem *item, const JsonbValue *value, bool is_object)
{
	return value != NULL && value->type == jbvBinary &&
		begin_items(item, value->val.binary.data, is_object);
}

/* Go to the next field or element; return false after the last one. */
static bool
get_next_item(JsonItem *item)
{
	JsonbIteratorToken token = JsonbIteratorNext(&item->iterator, &item->value, true);

	CHECK_FOR_INTERRUPTS();
	if (token == WJB_KEY)
	{
		item->key = item->value;
		token = JsonbIteratorNext(&item->iterator, &item->value, true);
	}
	return token == WJB_VALUE || token == WJB_ELEM;
}

/* Return a number from 0 to "max", or -1 if the value is anything else. */
static int32
get_small_number(const JsonbValue *value, int32 max)
{
	char	   *text;
	char	   *end;
	long		number;

	if (value->type != jbvNumeric)
		return -1;
	text = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));

	errno = 0;
	number = strtol(text, &end, 10);
	return errno == 0 && *end == '\0' && number >= 0 && number <= max ? (int32) number : -1;
}

/* List the names of an object's fields, in an array that can be searched. */
static JsonNames
list_names(Jsonb *object, const char *argument, const char *hint)
{
	JsonNames	result = {0};
	JsonItem	item;

	if (!begin_items(&item, &object->root, true))
		report_bad_json(argument, hint);
	result.names = palloc(sizeof(char *) * (JsonContainerSize(&object->root) + 1));
	while (get_next_item(&item))
		result.names[result.count++] = topics_json_string(&item.key);
	return result;
}

/* Find a name, which is a string; return its number, or -1. */
static int
find_json_name(const JsonNames *names, const JsonbValue *name)
{
	int			low = 0;
	int			high = names->count;

	while (low < high)
	{
		const int	middle = low + (high - low) / 2;
		const int	length = (int) strlen(names->names[middle]);
		int			order = name->val.string.len - length;

		/* jsonb sorts by length, and then by bytes */
		if (order == 0)
			order = memcmp(name->val.string.val, names->names[middle], length);
		if (order == 0)
			return middle;
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return -1;
}

/* Read the argument "partitions": topics whose partitions nobody has. */
static void
read_partitions(Jsonb *partitions, AssignorGroup *group)
{
	JsonItem	item;
	int32		rest = MAX_ASSIGNED_PARTITIONS;

	group->topics = palloc0(sizeof(AssignorTopic) * (JsonContainerSize(&partitions->root) + 1));
	(void) begin_items(&item, &partitions->root, true);
	while (get_next_item(&item))
	{
		AssignorTopic *topic = &group->topics[group->ntopics++];

		topic->name = topics_json_string(&item.key);
		topic->partitions = get_small_number(&item.value, rest);
		if (topic->partitions < 0)
			report_bad_json("partitions", PARTITIONS_HINT);
		rest -= topic->partitions;
		topic->owners = palloc(sizeof(int) * Max(topic->partitions, 1));
		for (int32 i = 0; i < topic->partitions; i++)
			topic->owners[i] = ASSIGNOR_NOBODY;
	}
}

/*
 * Read which topics a member subscribes to; those that are not there are left
 * out.
 */
static bool *
read_topics(const JsonbValue *list, const JsonNames *topics)
{
	bool	   *subscribed = palloc0(sizeof(bool) * Max(topics->count, 1));
	JsonItem	item;

	if (!begin_nested_items(&item, list, false))
		report_bad_json("subscriptions", SUBSCRIPTIONS_HINT);
	while (get_next_item(&item))
	{
		int			topic;

		if (item.value.type != jbvString)
			report_bad_json("subscriptions", SUBSCRIPTIONS_HINT);
		topic = find_json_name(topics, &item.value);
		if (topic >= 0)
			subscribed[topic] = true;
	}
	return subscribed;
}

/* Read a member's subscription: a list of topics, or an object with one. */
static AssignorMember
read_member(const JsonItem *subscription, const JsonNames *topics)
{
	AssignorMember member = {.member_id = topics_json_string(&subscription->key)};
	JsonbValue	list = subscription->value;
	JsonItem	field;

	if (begin_nested_items(&field, &subscription->value, true))
	{
		JsonbContainer *container = subscription->value.val.binary.data;
		JsonbValue *value = getKeyJsonValueFromContainer(container, "group_instance_id",
														 strlen("group_instance_id"), NULL);

		member.instance_id = topics_json_string(value);
		if (value && value->type != jbvString && value->type != jbvNull)
			report_bad_json("subscriptions", SUBSCRIPTIONS_HINT);
		value = getKeyJsonValueFromContainer(container, "topics", strlen("topics"), NULL);
		if (value == NULL)
			report_bad_json("subscriptions", SUBSCRIPTIONS_HINT);
		list = *value;
	}
	member.subscribed = read_topics(&list, topics);
	return member;
}

/* Read the argument "subscriptions". */
static void
read_subscriptions(Jsonb *subscriptions, const JsonNames *topics, AssignorGroup *group)
{
	JsonItem	item;
	AssignorMember *members;

	members = palloc(sizeof(AssignorMember) * (JsonContainerSize(&subscriptions->root) + 1));
	(void) begin_items(&item, &subscriptions->root, true);
	while (get_next_item(&item))
		members[group->nmembers++] = read_member(&item, topics);
	group->members = members;
}

/*
 * Read what a member has of a topic, or what one had that is not there any
 * more.
 */
static void
read_owned_partitions(const JsonItem *field, int member, AssignorTopic *topic)
{
	JsonItem	item;

	if (!begin_nested_items(&item, &field->value, false))
		report_bad_json("owned", OWNED_HINT);
	while (get_next_item(&item))
	{
		const int32 partition = get_small_number(&item.value, PG_INT32_MAX);

		if (partition < 0)
			report_bad_json("owned", OWNED_HINT);
		if (member < 0 || topic == NULL || partition >= topic->partitions)
			continue;
		if (topic->owners[partition] != ASSIGNOR_NOBODY)
			report_bad_json("owned", OWNED_HINT);
		topic->owners[partition] = member;
	}
}

/* Read the argument "owned". */
static void
read_owned(Jsonb *owned, const JsonNames *members, const JsonNames *topics, AssignorGroup *group)
{
	JsonItem	item;

	if (!begin_items(&item, &owned->root, true))
		report_bad_json("owned", OWNED_HINT);
	while (get_next_item(&item))
	{
		const int	member = find_json_name(members, &item.key);
		JsonItem	field;

		if (!begin_nested_items(&field, &item.value, true))
			report_bad_json("owned", OWNED_HINT);
		while (get_next_item(&field))
		{
			const int	topic = find_json_name(topics, &field.key);

			read_owned_partitions(&field, member, topic < 0 ? NULL : &group->topics[topic]);
		}
	}
}

/*
 * Append what a member has of each topic: {"t0": [0, 1]}, with those that it
 * has any of.
 */
static void
append_assigned(StringInfo json, const AssignorGroup *group, int member)
{
	const char *separator = "";

	appendStringInfoChar(json, '{');
	for (int i = 0; i < group->ntopics; i++)
	{
		const AssignorTopic *topic = &group->topics[i];
		bool		is_first = true;

		if (!group->members[member].subscribed[i])
			continue;
		CHECK_FOR_INTERRUPTS();
		for (int32 partition = 0; partition < topic->partitions; partition++)
		{
			if (topic->owners[partition] != member)
				continue;
			if (is_first)
			{
				appendStringInfoString(json, separator);
				escape_json(json, topic->name);
				appendStringInfoString(json, ": [");
			}
			appendStringInfo(json, is_first ? "%d" : ", %d", partition);
			is_first = false;
			separator = ", ";
		}
		if (!is_first)
			appendStringInfoChar(json, ']');
	}
	appendStringInfoChar(json, '}');
}

static Datum
make_result(const AssignorGroup *group)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	for (int member = 0; member < group->nmembers; member++)
	{
		if (member > 0)
			appendStringInfoString(&json, ", ");
		escape_json(&json, group->members[member].member_id);
		appendStringInfoString(&json, ": ");
		append_assigned(&json, group, member);
	}
	appendStringInfoChar(&json, '}');
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
}

/*
 * assign(assignor, subscriptions, partitions, owned) jsonb
 *
 * Members and topics keep the order that jsonb has them in, by length first:
 * the assignor has to sort them itself.
 */
Datum
topics_assign(PG_FUNCTION_ARGS)
{
	AssignorGroup group = {0};
	Assignor	assignor;
	JsonNames	members;
	JsonNames	topics;
	char	   *name;

	topics_argument_require_all(fcinfo, ASSIGN_ARGUMENTS);
	name = topics_argument_get_text(fcinfo, ASSIGN_ASSIGNOR);
	if (!topics_assignor_find(name, &assignor))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown assignor \"%s\"", name),
				 errhint("Assignors are %s, %s, %s and %s.",
						 topics_assignor_name(ASSIGNOR_RANGE),
						 topics_assignor_name(ASSIGNOR_ROUNDROBIN),
						 topics_assignor_name(ASSIGNOR_STICKY),
						 topics_assignor_name(ASSIGNOR_COOPERATIVE_STICKY))));
	topics = list_names(PG_GETARG_JSONB_P(ASSIGN_PARTITIONS), "partitions", PARTITIONS_HINT);
	members = list_names(PG_GETARG_JSONB_P(ASSIGN_SUBSCRIPTIONS), "subscriptions", SUBSCRIPTIONS_HINT);
	read_partitions(PG_GETARG_JSONB_P(ASSIGN_PARTITIONS), &group);
	read_subscriptions(PG_GETARG_JSONB_P(ASSIGN_SUBSCRIPTIONS), &topics, &group);
	read_owned(PG_GETARG_JSONB_P(ASSIGN_OWNED), &members, &topics, &group);
	topics_assignor_assign(assignor, &group);
	return make_result(&group);
}
