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

/*
 * Look at a member in shared memory, in a leader set; of several what came
 * last counts.
 */
static void
look_at_member(const char *member_id, int set, MemberMoment *moment)
{
	Member	   *member;

	topics_offset_table_lock(LW_SHARED);
	member = topics_member_table_find(member_id, set);
	if (member)
	{
		moment->found = true;
		moment->generation = Max(moment->generation, member->generation);
		moment->heard_at = topics_max(moment->heard_at, (MonotonicTime) pg_atomic_read_u64(&member->heard_at));
		moment->polled_at = topics_max(moment->polled_at, (MonotonicTime) pg_atomic_read_u64(&member->polled_at));
	}
	topics_offset_table_unlock();
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
		char	   *name = get_topic_name(row->topics[i].topic_id);

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
	MemberMoment moment = {false};
	MonotonicTime now = topics_clock_now();

	for (int set = -1; (set = topics_leader_set_after(topics_member_table_sets(), set)) >= 0;)
		look_at_member(row->member_id, set, &moment);
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

/*
 * Read the members of a group in a leader set, or NULL if there is no record.
 */
static GroupMembers *
read_members(Topic *topic, const GroupOffset *entry)
{
	MembersLook look = {.entry = entry};

	(void) topics_guarded_look(topic, topics_offset_log_choose_partition(topic, &entry->key), look_at_record, &look);
	return look.value ? topics_member_log_parse(look.value) : NULL;
}

/* What a member is to have in another leader set it has, too. */
static void
add_assigned(MemberRow *row, const MemberRow *other)
{
	const int	count = row->nassigned + other->nassigned;
	PlacedPartition *assigned = palloc(sizeof(PlacedPartition) * Max(count, 1));

	memcpy(assigned, row->assigned, sizeof(PlacedPartition) * row->nassigned);
	memcpy(assigned + row->nassigned, other->assigned, sizeof(PlacedPartition) * other->nassigned);
	row->assigned = assigned;
	row->nassigned = count;
	topics_member_log_sort_placed(row);
}

/* Find a member by its id, or NULL. */
static MemberRow *
find_row(const GroupMembers *members, const char *member_id)
{
	for (int i = 0; i < members->count; i++)
		if (strcmp(members->rows[i].member_id, member_id) == 0)
			return &members->rows[i];
	return NULL;
}

/* Add the members of another leader set: who is in both is one. */
static void
add_members(GroupMembers *members, const GroupMembers *others)
{
	members->rows = repalloc(members->rows, sizeof(MemberRow) * (members->count + others->count + 1));
	members->generation = Max(members->generation, others->generation);
	for (int i = 0; i < others->count; i++)
	{
		MemberRow  *row = find_row(members, others->rows[i].member_id);

		if (row)
			add_assigned(row, &others->rows[i]);
		else
			members->rows[members->count++] = others->rows[i];
	}
}

/*
 * Show the members of a group: "entries" are it, one for each leader set, up
 * to the next group.
 */
static void
put_group_members(ReturnSetInfo *rsinfo, const GroupOffset *entries, int count)
{
	Topic	   *topic = topics_catalog_lookup(CONSUMER_OFFSETS_TOPIC, true);
	GroupMembers *members = NULL;

	for (int i = 0; topic && i < count && strcmp(entries[i].key.group_id, entries->key.group_id) == 0; i++)
	{
		GroupMembers *others = is_entry_committed(&entries[i]) ? read_members(topic, &entries[i]) : NULL;

		if (members && others)
			add_members(members, others);
		else if (others)
			members = others;
	}
	for (int i = 0; members && i < members->count; i++)
		put_member(rsinfo, entries->key.group_id, members, &members->rows[i]);
}

/* Groups together, what is of members before all else. */
static int
compare_entries(const void *a, const void *b)
{
	const GroupOffset *ea = a;
	const GroupOffset *eb = b;
	const int	by_kind = is_members_partition(eb->key.partition) - is_members_partition(ea->key.partition);

	return by_kind != 0 ? by_kind : strcmp(ea->key.group_id, eb->key.group_id);
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
	qsort(entries, count, sizeof(GroupOffset), compare_entries);
	for (int i = 0; i < count && is_members_partition(entries[i].key.partition); i++)
	{
		const char *group_id = entries[i].key.group_id;

		CHECK_FOR_INTERRUPTS();
		if ((i == 0 || strcmp(entries[i - 1].key.group_id, group_id) != 0) && may_see_group(group_id))
			put_group_members((ReturnSetInfo *) fcinfo->resultinfo, &entries[i], count - i);
	}
	return (Datum) 0;
}
