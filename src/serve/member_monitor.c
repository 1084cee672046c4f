/*-------------------------------------------------------------------------
 *
 * member_monitor.c
 *		What the view of members of groups shows.
 *
 * Who they are, and which partitions each is to have, is in the group's
 * record; what is of the moment is in shared memory.  On a standby there is
 * the record alone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "group/group.h"
#include "serve/serve.h"

PG_FUNCTION_INFO_V1(topics_member_status);

/* Columns of member_status. */
enum
{
	MEMBER_GROUP_ID,
	MEMBER_MEMBER_ID,
	MEMBER_INSTANCE_ID,
	MEMBER_CLIENT_ID,
	MEMBER_HOST,
	MEMBER_ROLE,
	MEMBER_ASSIGNOR,
	MEMBER_GENERATION_ID,
	MEMBER_SUBSCRIPTION,
	MEMBER_PARTITIONS,
	MEMBER_ASSIGNMENT,
	MEMBER_SESSION_TIMEOUT,
	MEMBER_MAX_POLL_INTERVAL,
	MEMBER_LAST_HEARTBEAT,
	MEMBER_LAST_POLL,
	MEMBER_COLUMNS
};

/* What is of the moment. */
typedef struct MemberMoment
{
	bool		found;
	int32		generation;
	MonotonicTime heard_at;
	MonotonicTime polled_at;
} MemberMoment;

static Datum
form_interval(int64 us)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->time = us;
	return IntervalPGetDatum(interval);
}

static void
put_text(Datum *values, bool *nulls, int column, const char *text)
{
	nulls[column] = text == NULL;

	if (text)
		values[column] = CStringGetTextDatum(text);
}

/* Look at a member in shared memory. */
static MemberMoment
look_at_member(const char *member_id)
{
	MemberMoment result = {false};
	const Member *member;

	topics_offset_table_lock(LW_SHARED);
	member = topics_member_table_find(member_id);
	if (member)
	{
		result.found = true;
		result.generation = member->generation;
		result.heard_at = pg_atomic_read_u64(unconstify(pg_atomic_uint64 *, &member->heard_at));
		result.polled_at = pg_atomic_read_u64(unconstify(pg_atomic_uint64 *, &member->polled_at));
	}
	topics_offset_table_unlock();
	return result;
}

/* Get the name of a topic that the user may see, or NULL. */
static char *
get_topic_name(int64 topic_id)
{
	Topic	   *topic = topics_catalog_by_id(topic_id);

	return topic && topics_catalog_may_see(topic) ? NameStr(topic->name) : NULL;
}

/*
 * Form what a member has subscribed to: topics that the user may see, or a
 * pattern.
 */
static Datum
form_subscription(const MemberRow *row)
{
	Datum	   *names = palloc(sizeof(Datum) * (row->ntopics + 1));
	int			count = 0;

	if (row->pattern)
		names[count++] = CStringGetTextDatum(row->pattern);
	for (int i = 0; row->pattern == NULL && i < row->ntopics; i++)
	{
		char	   *name = get_topic_name(row->topic_ids[i]);

		if (name)
			names[count++] = CStringGetTextDatum(name);
	}
	return PointerGetDatum(construct_array(names, count, TEXTOID, -1, false, TYPALIGN_INT));
}

/* Form what a member is assigned; it stands in the order of topics. */
static Datum
form_assignment(const MemberRow *row)
{
	StringInfoData json;
	int64		topic_id = NO_TOPIC;
	char	   *name = NULL;
	bool		any = false;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	for (int i = 0; i < row->nassigned; i++)
	{
		bool		begins = row->assigned[i].topic_id != topic_id;

		if (begins)
		{
			if (name)
				appendStringInfoChar(&json, ']');
			topic_id = row->assigned[i].topic_id;
			name = get_topic_name(topic_id);
		}
		if (name == NULL)
			continue;
		if (begins)
		{
			appendStringInfoString(&json, any ? ", " : "");
			escape_json(&json, name);
			appendStringInfoString(&json, ": [");
		}
		appendStringInfo(&json, "%s%d", begins ? "" : ", ", row->assigned[i].partition);
		any = true;
	}
	appendStringInfoString(&json, name ? "]}" : "}");
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
}

static void
put_member(ReturnSetInfo *rsinfo, const char *group_id, const GroupMembers *members, const MemberRow *row)
{
	Datum		values[MEMBER_COLUMNS] = {0};
	bool		nulls[MEMBER_COLUMNS] = {false};
	MemberMoment moment = look_at_member(row->member_id);
	MonotonicTime now = topics_clock_now();

	put_text(values, nulls, MEMBER_GROUP_ID, group_id);
	put_text(values, nulls, MEMBER_MEMBER_ID, row->member_id);
	put_text(values, nulls, MEMBER_INSTANCE_ID, row->instance_id);
	put_text(values, nulls, MEMBER_CLIENT_ID, row->client_id);
	put_text(values, nulls, MEMBER_HOST, row->host);
	values[MEMBER_ROLE] = ObjectIdGetDatum(row->role);
	put_text(values, nulls, MEMBER_ASSIGNOR, topics_assignor_name(members->assignor));
	values[MEMBER_GENERATION_ID] = Int32GetDatum(moment.found ? moment.generation : members->generation);
	values[MEMBER_SUBSCRIPTION] = form_subscription(row);
	values[MEMBER_PARTITIONS] = Int32GetDatum(row->nassigned);
	values[MEMBER_ASSIGNMENT] = form_assignment(row);
	values[MEMBER_SESSION_TIMEOUT] = form_interval(row->session_timeout_ms * INT64CONST(1000));
	values[MEMBER_MAX_POLL_INTERVAL] = form_interval(row->max_poll_interval_ms * INT64CONST(1000));
	nulls[MEMBER_LAST_HEARTBEAT] = nulls[MEMBER_LAST_POLL] = !moment.found;
	values[MEMBER_LAST_HEARTBEAT] = form_interval(Max(now - moment.heard_at, 0));
	values[MEMBER_LAST_POLL] = form_interval(Max(now - moment.polled_at, 0));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* Look: the record. */
typedef struct MembersLook
{
	const GroupOffset *entry;
	Jsonb	   *value;
} MembersLook;

static void
look_at_record(void *arg)
{
	MembersLook *look = arg;

	look->value = topics_offset_log_read_value(look->entry);
}

/* Show the members of a group. */
static void
put_group_members(ReturnSetInfo *rsinfo, const GroupOffset *entry)
{
	Topic	   *topic = topics_catalog_lookup(CONSUMER_OFFSETS_TOPIC, true);
	MembersLook look = {.entry = entry};
	GroupMembers *members;

	if (topic == NULL || !is_entry_committed(entry))
		return;
	(void) topics_guarded_look(topic, topics_offset_log_choose_partition(topic, &entry->key), look_at_record, &look);
	if (look.value == NULL)
		return;
	members = topics_member_log_parse(look.value);
	for (int i = 0; i < members->count; i++)
		put_member(rsinfo, entry->key.group_id, members, &members->rows[i]);
}

/* Return true if the user may see a group. */
static bool
may_see_group(const char *group_id)
{
	GroupOffset group;

	return topics_catalog_is_monitor() ||
		(topics_offset_table_peek(group_id, NO_TOPIC, NO_PARTITION, &group) && topics_group_may_use(group.facts.owner));
}

/* member_status(): the rows of the view topics.group_member */
Datum
topics_member_status(PG_FUNCTION_ARGS)
{
	GroupOffset *entries;
	int			count;

	topics_settings_require_preload();
	topics_offset_log_prepare(false);
	InitMaterializedSRF(fcinfo, 0);
	entries = topics_offset_table_list(NULL, NO_TOPIC, &count);
	for (int i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (entries[i].key.partition == MEMBERS_PARTITION && may_see_group(entries[i].key.group_id))
			put_group_members((ReturnSetInfo *) fcinfo->resultinfo, &entries[i]);
	}
	return (Datum) 0;
}
