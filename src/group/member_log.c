/*-------------------------------------------------------------------------
 *
 * member_log.c
 *		The records of __consumer_offsets that say who a group's members are, and
 *		which partitions each is to have.
 *
 * There is one record for a group, as Kafka has, in each leader set in which
 * it has members.  It is written when members come or go:
 *
 *	0/-2/g
 *		{"generation": 7, "assignor": "range", "members": [
 *			{"member_id": "app-52f1...", "group_instance_id": null, "client_id": "app",
 *			 "host": "10.0.0.7", "owner": "app", "owner_id": 16384, "system": 7....,
 *			 "session_timeout_ms": 45000, "max_poll_interval_ms": 300000,
 *			 "auto_offset_reset": "earliest", "topic_pattern": null, "topics": [17],
 *			 "topic_names": ["orders"], "assignment": [[17, 0, 5], [17, 1, 7]]}]}
 *
 * Topics are there by id, since they may be renamed, and by the names that the
 * member has given, since they may be dropped and made anew.  An assignment
 * says topic, partition, and since which generation it is the member's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "lib/qunique.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "group/group.h"
#include "pg_topics.h"

/* ----------------------------------------------------------------
 *		What a member wants, and is to have
 * ----------------------------------------------------------------
 */

static int
compare_topics(const void *a, const void *b)
{
	const int64 ta = ((const NamedTopic *) a)->topic_id;
	const int64 tb = ((const NamedTopic *) b)->topic_id;

	return ta < tb ? -1 : ta > tb;
}

/* Put the topics that a member has named in order, each once. */
void
topics_member_log_sort_topics(MemberRow *row)
{
	qsort(row->topics, row->ntopics, sizeof(NamedTopic), compare_topics);
	row->ntopics = qunique(row->topics, row->ntopics, sizeof(NamedTopic), compare_topics);
}

static int
compare_placed(const void *a, const void *b)
{
	const PlacedPartition *pa = a;
	const PlacedPartition *pb = b;

	if (pa->topic_id != pb->topic_id)
		return pa->topic_id < pb->topic_id ? -1 : 1;
	return pa->partition < pb->partition ? -1 : pa->partition > pb->partition;
}

/* Put what a member is to have in order. */
void
topics_member_log_sort_placed(MemberRow *row)
{
	qsort(row->assigned, row->nassigned, sizeof(PlacedPartition), compare_placed);
}

/* Find a partition that a member is to have, or NULL. */
PlacedPartition *
topics_member_log_find_placed(const MemberRow *row, int64 topic_id, int32 partition)
{
	const PlacedPartition key = {.topic_id = topic_id,.partition = partition};

	if (row->nassigned == 0)
		return NULL;
	return bsearch(&key, row->assigned, row->nassigned, sizeof(PlacedPartition), compare_placed);
}

/* ----------------------------------------------------------------
 *		Writing
 * ----------------------------------------------------------------
 */

static void
format_string(StringInfo json, const char *name, const char *value)
{
	appendStringInfo(json, "\"%s\": ", name);
	if (value)
		escape_json(json, value);
	else
		appendStringInfoString(json, "null");
	appendStringInfoString(json, ", ");
}

static void
format_row(StringInfo json, const MemberRow *row)
{
	appendStringInfoChar(json, '{');
	format_string(json, "member_id", row->member_id);
	format_string(json, "group_instance_id", row->instance_id);
	format_string(json, "client_id", row->client_id);
	format_string(json, "host", row->host);
	topics_internal_topic_format_owner(json, row->role);
	appendStringInfo(json, ", \"session_timeout_ms\": %d, \"max_poll_interval_ms\": %d, ",
					 row->session_timeout_ms, row->max_poll_interval_ms);
	format_string(json, "auto_offset_reset", topics_reset_names[row->reset]);
	format_string(json, "topic_pattern", row->pattern);
	appendStringInfoString(json, "\"topics\": [");
	for (int i = 0; i < row->ntopics; i++)
		appendStringInfo(json, "%s" INT64_FORMAT, i > 0 ? ", " : "", row->topics[i].topic_id);
	appendStringInfoString(json, "], \"topic_names\": [");
	for (int i = 0; i < row->ntopics; i++)
	{
		appendStringInfoString(json, i > 0 ? ", " : "");
		if (row->topics[i].name)
			escape_json(json, row->topics[i].name);
		else
			appendStringInfoString(json, "null");
	}
	appendStringInfoString(json, "], \"assignment\": [");
	for (int i = 0; i < row->nassigned; i++)
		appendStringInfo(json, "%s[" INT64_FORMAT ", %d, %d]", i > 0 ? ", " : "",
						 row->assigned[i].topic_id, row->assigned[i].partition, row->assigned[i].since);
	appendStringInfoString(json, "]}");
}

/* Format the value of the record. */
void
topics_member_log_format(StringInfo json, const GroupMembers *members)
{
	appendStringInfo(json, "{\"generation\": %d, \"assignor\": \"%s\", \"members\": [",
					 members->generation, topics_assignor_name(members->assignor));
	for (int i = 0; i < members->count; i++)
	{
		if (i > 0)
			appendStringInfoString(json, ", ");
		format_row(json, &members->rows[i]);
	}
	appendStringInfoString(json, "]}");
}

/* ----------------------------------------------------------------
 *		Reading
 * ----------------------------------------------------------------
 */

/* Get an array of a record, and its length; NULL if it is something else. */
static JsonbContainer *
get_array(const JsonbValue *value, int *length)
{
	*length = 0;
	if (value == NULL || value->type != jbvBinary || !JsonContainerIsArray(value->val.binary.data))
		return NULL;
	*length = JsonContainerSize(value->val.binary.data);
	return value->val.binary.data;
}

static int64
get_number(JsonbContainer *array, int index)
{
	return topics_json_number(getIthJsonbValueFromContainer(array, index), 0);
}

/* Read a number that is an int32, from 0 on. */
static int32
parse_count(Jsonb *value, const char *name, int32 missing)
{
	int64		number = topics_json_number(topics_json_field(value, name), missing);

	return number < 0 || number > PG_INT32_MAX ? missing : number;
}

/* Read what a member is to have; what stands there twice it has once. */
static void
parse_assignment(MemberRow *row, JsonbContainer *array, int length)
{
	row->assigned = palloc0(sizeof(PlacedPartition) * Max(length, 1));
	for (int i = 0; i < length; i++)
	{
		PlacedPartition *placed = &row->assigned[row->nassigned];
		JsonbContainer *numbers;
		int			count;

		numbers = get_array(getIthJsonbValueFromContainer(array, i), &count);
		if (count != 3)
			continue;
		placed->topic_id = get_number(numbers, 0);
		placed->partition = topics_min(get_number(numbers, 1), PG_INT32_MAX);
		placed->since = topics_min(get_number(numbers, 2), PG_INT32_MAX);
		if (placed->topic_id > 0 && placed->partition >= 0 && placed->since >= 0)
			row->nassigned++;
	}
	topics_member_log_sort_placed(row);
}

/*
 * Read the topics that a member has named: their ids, and their names, if a
 * node has written the record that knows of these.
 */
static void
parse_topics(MemberRow *row, Jsonb *value)
{
	int			count;
	int			named;
	JsonbContainer *ids = get_array(topics_json_field(value, "topics"), &count);
	JsonbContainer *names = get_array(topics_json_field(value, "topic_names"), &named);

	row->topics = palloc(sizeof(NamedTopic) * Max(count, 1));
	row->ntopics = count;
	for (int i = 0; i < count; i++)
	{
		char	   *name = i < named ? topics_json_string(getIthJsonbValueFromContainer(names, i)) : NULL;

		if (name && strlen(name) >= NAMEDATALEN)
			name = NULL;
		row->topics[i] = (NamedTopic)
		{
			get_number(ids, i), name
		};
	}
	topics_member_log_sort_topics(row);
}

static OffsetReset
parse_reset(const char *name)
{
	for (int i = 0; name && i < RESET_KINDS; i++)
		if (strcmp(name, topics_reset_names[i]) == 0)
			return (OffsetReset) i;
	return RESET_EARLIEST;
}

/* Read a member.  Return false if it is something else. */
static bool
parse_row(MemberRow *row, Jsonb *value)
{
	JsonbContainer *array;
	int			length;

	memset(row, 0, sizeof(*row));
	row->member_id = topics_json_string(topics_json_field(value, "member_id"));
	if (row->member_id == NULL || row->member_id[0] == '\0' || strlen(row->member_id) > MAX_MEMBER_ID)
		return false;
	row->instance_id = topics_json_string(topics_json_field(value, "group_instance_id"));
	row->client_id = topics_json_string(topics_json_field(value, "client_id"));
	if (row->client_id == NULL)
		row->client_id = pstrdup("");
	row->host = topics_json_string(topics_json_field(value, "host"));
	row->role = topics_internal_topic_read_owner(value);
	row->session_timeout_ms = parse_count(value, "session_timeout_ms", 45000);
	row->max_poll_interval_ms = parse_count(value, "max_poll_interval_ms", 300000);
	row->reset = parse_reset(topics_json_string(topics_json_field(value, "auto_offset_reset")));
	row->pattern = topics_json_string(topics_json_field(value, "topic_pattern"));
	parse_topics(row, value);
	array = get_array(topics_json_field(value, "assignment"), &length);
	parse_assignment(row, array, length);
	return true;
}

/*
 * Return true if a member before this one has the same name, which no record
 * of ours says.
 */
static bool
is_repeated(const GroupMembers *members, const MemberRow *row)
{
	for (int i = 0; i < members->count; i++)
		if (strcmp(members->rows[i].member_id, row->member_id) == 0)
			return true;
	return false;
}

/*
 * Read the value of the record, palloc'd.  What somebody else wrote may be
 * anything.
 */
GroupMembers *
topics_member_log_parse(Jsonb *value)
{
	GroupMembers *members = palloc0(sizeof(GroupMembers));
	char	   *assignor = topics_json_string(topics_json_field(value, "assignor"));
	JsonbContainer *array;
	int			length;

	members->generation = parse_count(value, "generation", 0);
	if (assignor == NULL || !topics_assignor_find(assignor, &members->assignor))
		members->assignor = ASSIGNOR_RANGE;
	array = get_array(topics_json_field(value, "members"), &length);
	members->rows = palloc0(sizeof(MemberRow) * (length + 1));
	for (int i = 0; i < length; i++)
	{
		JsonbValue *row = getIthJsonbValueFromContainer(array, i);

		if (row->type == jbvBinary && JsonContainerIsObject(row->val.binary.data) &&
			parse_row(&members->rows[members->count], JsonbValueToJsonb(row)) &&
			!is_repeated(members, &members->rows[members->count]))
			members->count++;
	}
	return members;
}

/* ----------------------------------------------------------------
 *		Loading
 * ----------------------------------------------------------------
 */

/*
 * Return true if members of a leader set call here: neither on a standby, nor
 * on a node that follows.
 */
bool
topics_member_log_may_call(int set)
{
	return !RecoveryInProgress() && !topics_cluster_follows(set);
}

/* Return true if a record names a member. */
static bool
names_member(const GroupOffset *entry, const char *member_id)
{
	Jsonb	   *value = topics_offset_log_read_value(entry);
	GroupMembers *members = value ? topics_member_log_parse(value) : NULL;

	for (int i = 0; members && i < members->count; i++)
		if (strcmp(members->rows[i].member_id, member_id) == 0)
			return true;
	return false;
}

/*
 * Find a leader set that another node leads, in which a group, or with NULL
 * any one, has a member of this id, by the records; or return -1.
 */
int
topics_member_log_find_set(const char *group_id, const char *member_id)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "pg_topics member", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = CurrentMemoryContext;
	int			count;
	GroupOffset *entries = topics_offset_table_list(group_id, NO_TOPIC, &count);
	int			result = -1;

	for (int i = 0; i < count && result < 0; i++)
	{
		const GroupOffsetKey *key = &entries[i].key;

		CHECK_FOR_INTERRUPTS();
		if (!is_members_partition(key->partition) || !is_entry_committed(&entries[i]) ||
			!topics_cluster_follows(get_members_set(key->partition)))
			continue;
		MemoryContextSwitchTo(cxt);
		if (names_member(&entries[i], member_id))
			result = get_members_set(key->partition);
		MemoryContextSwitchTo(old);
		MemoryContextReset(cxt);
	}
	MemoryContextDelete(cxt);
	pfree(entries);
	return result;
}

/* Make the entries that a group's members need, and pin them. */
static void
pin_entries(const GroupOffsetKey *key, GroupMembers *members, GroupOffset *group)
{
	for (int i = 0; i < members->count; i++)
	{
		MemberRow  *row = &members->rows[i];

		if (!topics_member_table_reserve(row, group))
		{
			ereport(WARNING,
					(errmsg("member \"%s\" of consumer group \"%s\" is taken for gone", row->member_id, key->group_id),
					 errdetail("All %d places for members in shared memory are taken.", pg_topics_max_members),
					 errhint("Increase pg_topics.max_members and restart the server.")));
			continue;
		}
		for (int j = 0; j < row->nassigned; j++)
		{
			PlacedPartition *placed = &row->assigned[j];
			GroupOffsetKey place = *key;
			uint32		pins;

			if (!topics_internal_topic_is_left(placed->topic_id))
				continue;
			place.topic_id = placed->topic_id;
			place.partition = placed->partition;
			placed->entry = topics_offset_table_pin(&place, NULL, NULL, &pins);
			if (placed->entry == NULL)
				topics_offset_table_report_full(1);
		}
	}
}

static void
unpin_entries(const GroupMembers *members)
{
	for (int i = 0; i < members->count; i++)
		for (int j = 0; j < members->rows[i].nassigned; j++)
			if (members->rows[i].assigned[j].entry)
				topics_offset_table_unpin(members->rows[i].assigned[j].entry);
}

/*
 * Return true if what is known of a group's members is what a record says, or
 * newer.  Who leads another leader set reads all of them again and again.
 * Members that were loaded while this node was losing the set are not what is
 * to be known.  The caller holds the table lock.
 */
static bool
is_known(GroupOffset *group, bool may_call, int64 record_offset)
{
	const int64 known = pg_atomic_read_u64(&group->record_offset);
	const bool	has_members = !dlist_is_empty(&group->of.head.members);

	if (record_offset != known)
		return record_offset < known;
	return is_entry_committed(group) && has_members == (may_call && group->of.head.count > 0);
}

/*
 * A group's members are those of a record, unless what is known of them is
 * newer.  Each has so much time to call as if it had just done so.  A standby,
 * or a follower, has no members that call.
 */
void
topics_member_log_load(const GroupOffsetKey *key, Jsonb *value, TimestampTz commit_time, int64 record_offset)
{
	const bool	may_call = topics_member_log_may_call(get_members_set(key->partition));
	GroupMembers *members;
	int			count;
	bool		is_new;
	GroupOffset *group;
	uint32		pins;

	group = topics_offset_table_pin(key, NULL, NULL, &pins);
	if (group == NULL)
		topics_offset_table_report_full(1);
	topics_offset_table_lock(LW_SHARED);
	is_new = !is_known(group, may_call, record_offset);
	topics_offset_table_unlock();
	if (!is_new)
	{
		topics_offset_table_unpin(group);
		return;
	}
	members = topics_member_log_parse(value);
	count = members->count;
	if (!may_call)
		members->count = 0;
	PG_TRY();
	{
		pin_entries(key, members, group);
	}
	PG_CATCH();
	{
		unpin_entries(members);
		topics_offset_table_unpin(group);
		PG_RE_THROW();
	}
	PG_END_TRY();
	topics_offset_table_lock(LW_EXCLUSIVE);
	is_new = !is_known(group, may_call, record_offset);
	if (is_new)
	{
		MembersHead *head = &group->of.head;
		const bool	is_loaded = head->is_loaded || !is_entry_committed(group) ||
			record_offset != (int64) pg_atomic_read_u64(&group->record_offset);

		/* what is read again was there, and owners go by polls */
		topics_member_table_apply(group, members, dlist_is_empty(&head->members));
		/* a record that was not written here is not, because it is read twice */
		head->is_loaded = is_loaded;
		head->count = count;
		pg_atomic_write_u64(&group->commit_time, commit_time);
		pg_atomic_write_u64(&group->record_offset, record_offset);
		pg_atomic_write_u64(&group->committed, IT_EXISTS);
	}
	topics_offset_table_unlock();
	unpin_entries(members);
	topics_offset_table_unpin(group);
	if (is_new && may_call)
		topics_worker_registry_want_members(topics_clock_now(), true);
}
