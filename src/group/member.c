/*-------------------------------------------------------------------------
 *
 * member.c
 *		Members of consumer groups: join, leave, heartbeat, and what they have.
 *
 * Kafka's consumer groups: a member is assigned partitions, polls them
 * (poll.c) and commits offsets.  It is an id and a role, not a session: any
 * session of the role may call for it, so that a transaction pooler works, and
 * nobody holds a transaction open while it works.
 *
 * To join and to leave are changes of the group (rebalance.c), which take
 * effect when the transaction commits.  All else that a member says of itself
 * takes effect at once: that it lives, where it goes on, what it does not
 * want.
 *
 * Every call with a member_id is a heartbeat; poll() and poll_wait() say as
 * well that the member still works on what it gets.
 *
 * See docs/decisions/0018-members.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "regex/regex.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "read/read.h"
#include "group/group.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_join_group);
PG_FUNCTION_INFO_V1(topics_leave_group);
PG_FUNCTION_INFO_V1(topics_remove_member);
PG_FUNCTION_INFO_V1(topics_heartbeat);
PG_FUNCTION_INFO_V1(topics_assignment);
PG_FUNCTION_INFO_V1(topics_seek);
PG_FUNCTION_INFO_V1(topics_pause);
PG_FUNCTION_INFO_V1(topics_resume);

/*
 * Kafka's group.max.session.timeout.ms is as much; its minimum of 6 s spares
 * brokers.
 */
#define MIN_TIMEOUT_MS 100
#define MAX_SESSION_TIMEOUT_MS (30 * 60 * 1000)
#define MAX_INSTANCE_ID 249		/* Kafka's, bytes of group.instance.id */

/* ----------------------------------------------------------------
 *		Which member calls
 * ----------------------------------------------------------------
 */

/* Raise TP003: the member is another group's, or no one's. */
void
topics_member_report_not_of_group(const char *group_id, const char *member_id)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNKNOWN_MEMBER),
			 errmsg("consumer group \"%s\" has no member \"%s\"", group_id, member_id),
			 errdetail("UNKNOWN_MEMBER_ID: it is another group's, or has left, or was removed or replaced."),
			 errhint("The view topics.group_member lists members.")));
}

/* Raise TP004 if a member is one of a leader set that another node leads. */
static void
require_not_elsewhere(const char *group_id, const char *member_id)
{
	int			set;

	if (!topics_member_table_has_other_sets())
		return;
	/* what is a moment old does not do */
	topics_offset_log_prepare(false);
	set = topics_member_log_find_set(group_id, member_id);
	if (set >= 0)
		topics_cluster_report_member_elsewhere(set, member_id);
}

/*
 * Raise an error if there is such a member after all: what was known of members
 * was forgotten when this node got another role, and is known again now.
 */
static void
require_not_here(const char *member_id)
{
	for (int set = -1; (set = topics_leader_set_after(topics_member_table_sets(), set)) >= 0;)
	{
		MemberCall	call;

		if (topics_member_table_look(member_id, set, &call) && topics_member_log_may_call(set))
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("this node has come to lead while member \"%s\" called", member_id),
					 errhint("Try again.")));
	}
}

/*
 * Raise TP003, or TP012 if another program has taken the place of a static
 * member; or TP004 if another node may know better, or 40001 if this one has
 * just come to know.
 */
void
topics_member_report_unknown(const char *member_id)
{
	/* this node may have another role by now */
	topics_offset_log_prepare(true);
	require_not_here(member_id);
	for (int set = -1; (set = topics_leader_set_after(topics_member_table_sets(), set)) >= 0;)
		if (topics_member_log_may_call(set))
			topics_append_role_require_lease(topics_mark_slot_set_of(set));
	if (topics_member_table_is_replaced(member_id))
		ereport(ERROR,
				(errcode(ERRCODE_FENCED_INSTANCE),
				 errmsg("member \"%s\" is fenced", member_id),
				 errdetail("FENCED_INSTANCE_ID: another program has joined with its group_instance_id."),
				 errhint("End this program: each one needs a group_instance_id of its own.")));
	require_not_elsewhere(NULL, member_id);
	ereport(ERROR,
			(errcode(ERRCODE_UNKNOWN_MEMBER),
			 errmsg("member \"%s\" does not exist", member_id),
			 errdetail("UNKNOWN_MEMBER_ID: it has left, was removed or replaced, or its transaction has not committed."),
			 errhint("Call topics.join_group() again, and commit.")));
}

/*
 * Before a member is looked at: make sure that members are known, and call
 * here.  A node that leads nothing names the one that leads for the member.
 */
void
topics_member_prepare(const char *member_id)
{
	if (topics_cluster_follows(METADATA_SET) && !topics_cluster_leads_any())
		require_not_elsewhere(NULL, member_id);
	topics_offset_log_prepare(true);
}

static void
require_role(const char *member_id, Oid role)
{
	if (!topics_group_may_use(role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for member \"%s\"", member_id),
				 errdetail("GROUP_AUTHORIZATION_FAILED: it belongs to another role."),
				 errhint("Get a member of your own from topics.join_group().")));
}

/*
 * Find a member that has joined, and note that it has called, in each leader
 * set in which it is.  Return it in the first of these.  Raises the error if
 * there is none.
 */
MemberCall
topics_member_call(const char *member_id, bool is_poll)
{
	MemberCall	first = {0};
	uint32		sets = 0;

	TEST_POINT("member-called");
	for (int set = -1; (set = topics_leader_set_after(topics_member_table_sets(), set)) >= 0;)
	{
		MemberCall	call;

		if (!topics_member_table_look(member_id, set, &call) || !topics_member_log_may_call(set))
			continue;
		require_role(member_id, call.role);
		topics_member_table_note_call(&call, is_poll);
		if (sets == 0)
			first = call;
		sets |= 1U << set;
	}
	if (sets == 0)
		topics_member_report_unknown(member_id);
	first.sets = sets;
	return first;
}

/*
 * Arguments of seek(), pause() and resume(), behind the member; only the last
 * one may be NULL.
 */
enum
{
	PLACE_ARG_TOPIC = 1,
	PLACE_ARG_PARTITION,
	PLACE_ARG_TO_OFFSET
};

/*
 * Return the argument that names a member, once what is known of members is
 * there.
 */
static char *
get_member_argument(FunctionCallInfo fcinfo)
{
	char	   *member_id;

	topics_settings_require_preload();
	topics_argument_require_all(fcinfo, (int) topics_min(PG_NARGS(), PLACE_ARG_TO_OFFSET));
	topics_produce_check_call(fcinfo);
	member_id = text_to_cstring(PG_GETARG_TEXT_PP(0));
	topics_member_prepare(member_id);
	return member_id;
}

/* Make the tag of the lock that gives the right to poll for a member. */
static LOCKTAG
make_member_tag(const char *member_id)
{
	return topics_user_lock_tag(USER_LOCK_MEMBER,
								hash_bytes_extended((const unsigned char *) member_id, strlen(member_id), 0));
}

/*
 * Acquire the right to change where a member stands: to topics_member_unlock,
 * or to an error.
 */
void
topics_member_lock(const char *member_id)
{
	LOCKTAG		tag = make_member_tag(member_id);

	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

void
topics_member_unlock(const char *member_id)
{
	LOCKTAG		tag = make_member_tag(member_id);

	LockRelease(&tag, ExclusiveLock, false);
}

/*
 * Have a member take the partitions of a leader set that are its own and that
 * nobody has.  With "keep" it gives up nothing, and its generation stays,
 * until it polls.
 */
void
topics_member_take(const char *member_id, const MemberCall *call, bool keep)
{
	const GroupOffsetKey key = topics_offset_table_make_key(call->group_id, NO_TOPIC, make_members_partition(call->set));
	Topic	   *topic = topics_internal_topic_require(CONSUMER_OFFSETS_TOPIC);
	PartitionState *state = topics_catalog_partition_state(topic, topics_offset_log_choose_partition(topic, &key));
	Member	   *member;
	bool		gave_up = false;

	topics_append_lock_acquire(&state, 1);
	topics_offset_table_lock(LW_EXCLUSIVE);
	member = topics_member_table_find(member_id, call->set);
	/* not if the topic has gone, and with it all that is known of members */
	if (member && state->id.topic_id == topic->topic_id && state->id.database == MyDatabaseId)
		gave_up = topics_member_table_adopt(member, keep);
	topics_offset_table_unlock();
	topics_append_lock_release();
	if (gave_up)
		topics_wakeup_channel(topics_member_table_channel(call->group_id));
}

/* ----------------------------------------------------------------
 *		join_group
 * ----------------------------------------------------------------
 */

/* Arguments of join_group(). */
enum
{
	JOIN_GROUP_ID,
	JOIN_TOPICS,
	JOIN_ASSIGNOR,
	JOIN_TOPIC_PATTERN,
	JOIN_SESSION_TIMEOUT,
	JOIN_MAX_POLL_INTERVAL,
	JOIN_INSTANCE_ID,
	JOIN_CLIENT_ID,
	JOIN_AUTO_OFFSET_RESET
};

/* Columns of its result. */
enum
{
	JOINED_MEMBER_ID,
	JOINED_GENERATION_ID,
	JOINED_COLUMNS
};

/* Return an argument that is a time, in milliseconds. */
static int32
get_ms_argument(FunctionCallInfo fcinfo, int argument, const char *name, int64 limit_ms)
{
	Interval   *interval;
	int64		days;
	int64		ms;

	topics_argument_require(fcinfo, argument);
	interval = PG_GETARG_INTERVAL_P(argument);
	days = (int64) interval->month * DAYS_PER_MONTH + interval->day;
	/* cannot overflow: 2^31 months and days, 2^63 microseconds */
	ms = days * SECS_PER_DAY * 1000 + interval->time / 1000;
	if (ms < MIN_TIMEOUT_MS || ms > limit_ms)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be from %d to " INT64_FORMAT " milliseconds", name, MIN_TIMEOUT_MS, limit_ms),
				 errdetail("It is " INT64_FORMAT ".", ms)));
	return ms;
}

/*
 * Return an argument that is a name of so many bytes at most, in
 * TopTransactionContext, or NULL.
 */
static char *
get_name_argument(FunctionCallInfo fcinfo, int argument, const char *name, Size most)
{
	char	   *value;

	if (PG_ARGISNULL(argument))
		return NULL;
	value = text_to_cstring(PG_GETARG_TEXT_PP(argument));
	if (value[0] == '\0' || strlen(value) > most)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid %s \"%s\"", name, value),
				 errdetail("It must have from 1 to %zu bytes.", most)));
	return MemoryContextStrdup(TopTransactionContext, value);
}

/* Find the topics of a list, by name, as they are now: each once. */
static void
look_up_topics(MemberRow *row, ArrayType *array)
{
	Datum	   *names;
	bool	   *nulls;
	int			count;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &names, &nulls, &count);
	if (count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("topics must not be empty")));
	row->ntopics = 0;
	row->topics = MemoryContextAlloc(TopTransactionContext, sizeof(NamedTopic) * Max(count, 1));
	for (int i = 0; i < count; i++)
	{
		Topic	   *topic;

		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("topics must not contain null")));
		topic = topics_catalog_lookup(TextDatumGetCString(names[i]), false);
		topics_catalog_require(topic, ACL_SELECT);
		if (topics_catalog_is_internal(NameStr(topic->name)))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("topic \"%s\" cannot be assigned to members", NameStr(topic->name)),
					 errdetail("It is one of pg_topics' own."),
					 errhint("Read it with topics.fetch().")));
		row->topics[row->ntopics++] = (NamedTopic)
		{
			topic->topic_id, MemoryContextStrdup(TopTransactionContext, NameStr(topic->name))
		};
	}
	topics_member_log_sort_topics(row);
}

/*
 * Get the address of the client, in TopTransactionContext, or NULL if it has
 * none.
 */
static char *
get_client_host(void)
{
	LOCAL_FCINFO(fcinfo, 0);
	Datum		address;

	InitFunctionCallInfoData(*fcinfo, NULL, 0, InvalidOid, NULL, NULL);
	address = inet_client_addr(fcinfo);
	if (fcinfo->isnull)
		return NULL;
	return MemoryContextStrdup(TopTransactionContext,
							   TextDatumGetCString(DirectFunctionCall1(network_host, address)));
}

static regex_t *
compile_pattern(const char *pattern)
{
	return RE_compile_and_cache(cstring_to_text(pattern), REG_ADVANCED, C_COLLATION_OID);
}

/*
 * Check a pattern.  It is one by itself, and in what says that it matches all
 * of a name.  It must have no back references: to match one can take for
 * ever, and the worker does.
 */
static void
check_pattern(const char *pattern)
{
	(void) compile_pattern(pattern);
	if (compile_pattern(psprintf("^(?:%s)$", pattern))->re_info & REG_UBACKREF)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_REGULAR_EXPRESSION),
				 errmsg("topic_pattern must not have back references")));
}

/* Read what is asked for. */
static MemberRow
get_join_arguments(FunctionCallInfo fcinfo, Assignor *assignor)
{
	MemberRow	row = {0};
	char	   *name = topics_argument_get_text(fcinfo, JOIN_ASSIGNOR);

	if (!topics_assignor_find(name, assignor))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid assignor \"%s\"", name),
				 errhint("Use 'range', 'roundrobin', 'sticky' or 'cooperative-sticky'.")));
	if (PG_ARGISNULL(JOIN_TOPICS) == PG_ARGISNULL(JOIN_TOPIC_PATTERN))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("exactly one of topics and topic_pattern must be given")));
	row.session_timeout_ms = get_ms_argument(fcinfo, JOIN_SESSION_TIMEOUT, "session_timeout", MAX_SESSION_TIMEOUT_MS);
	row.max_poll_interval_ms = get_ms_argument(fcinfo, JOIN_MAX_POLL_INTERVAL, "max_poll_interval", PG_INT32_MAX);
	row.instance_id = get_name_argument(fcinfo, JOIN_INSTANCE_ID, "group_instance_id", MAX_INSTANCE_ID);
	row.client_id = get_name_argument(fcinfo, JOIN_CLIENT_ID, "client_id", MAX_CLIENT_ID);
	row.pattern = get_name_argument(fcinfo, JOIN_TOPIC_PATTERN, "topic_pattern", MAX_INSTANCE_ID);
	if (row.client_id == NULL)
		row.client_id = MemoryContextStrdup(TopTransactionContext,
											application_name && application_name[0] ? application_name : "consumer");
	if (row.pattern)
		check_pattern(row.pattern);
	else
		look_up_topics(&row, PG_GETARG_ARRAYTYPE_P(JOIN_TOPICS));
	row.host = get_client_host();
	row.reset = topics_place_reset_argument(fcinfo, JOIN_AUTO_OFFSET_RESET);
	row.role = GetUserId();
	return row;
}

/* Make an id that no other member has or had: Kafka's, of a name and a UUID. */
static char *
make_member_id(const MemberRow *row)
{
	const char *name = row->instance_id ? row->instance_id : row->client_id;
	char	   *uuid = DatumGetCString(DirectFunctionCall1(uuid_out, DirectFunctionCall1(gen_random_uuid, (Datum) 0)));
	int			most = MAX_MEMBER_ID - 1 - strlen(uuid);
	int			length = pg_mbcliplen(name, strlen(name), most);
	char	   *result = psprintf("%.*s-%s", length, name, uuid);

	return MemoryContextStrdup(TopTransactionContext, result);
}

/* Return true if a member wants the same as it did under its former id. */
static bool
wants_same(const MemberRow *row, const MemberRow *before)
{
	if ((row->pattern == NULL) != (before->pattern == NULL) || row->ntopics != before->ntopics)
		return false;
	if (row->pattern)
		return strcmp(row->pattern, before->pattern) == 0;
	for (int i = 0; i < row->ntopics; i++)
		if (row->topics[i].topic_id != before->topics[i].topic_id)
			return false;
	return true;
}

/* Find a static member, which has the same group.instance.id, or NULL. */
static MemberRow *
find_instance(GroupMembers *members, const char *instance_id)
{
	for (int i = 0; instance_id && i < members->count; i++)
		if (members->rows[i].instance_id && strcmp(members->rows[i].instance_id, instance_id) == 0)
			return &members->rows[i];
	return NULL;
}

/* Add a member, as the group's record will say. */
static void
add_row(GroupMembers *members, const MemberRow *row)
{
	MemberRow  *rows = MemoryContextAlloc(TopTransactionContext, sizeof(MemberRow) * (members->count + 1));

	memcpy(rows, members->rows, sizeof(MemberRow) * members->count);
	rows[members->count++] = *row;
	members->rows = rows;
}

/*
 * A member joins.  Who had its group.instance.id is fenced; it has the same
 * partitions, and if it wants the same topics there is no new generation.
 */
static void
join(const char *group_id, LocalOffset *local, GroupMembers *members, MemberRow *row)
{
	MemberRow  *former = find_instance(members, row->instance_id);
	bool		same = former && wants_same(row, former);

	if (former)
	{
		row->assigned = former->assigned;
		row->nassigned = former->nassigned;
		*former = *row;
	}
	else
		add_row(members, row);
	if (same)
		topics_rebalance_replace(group_id, local, members);
	else
		topics_rebalance_run(group_id, local, members);
}

/* Say so where a group begins otherwise in a topic than its new member says. */
static void
notice_other_reset(const char *group_id, const MemberRow *row)
{
	for (int i = 0; i < row->ntopics; i++)
	{
		Topic	   *topic = topics_catalog_by_id(row->topics[i].topic_id);
		GroupOffset entry;

		if (topic && topics_offset_table_peek(group_id, topic->topic_id, NO_PARTITION, &entry) &&
			entry.facts.reset != row->reset)
			ereport(NOTICE,
					(errmsg("auto_offset_reset \"%s\" is ignored in topic \"%s\"", topics_reset_names[row->reset], NameStr(topic->name)),
					 errdetail("Consumer group \"%s\" has \"%s\" there, as the first member that wanted the topic has said.",
							   group_id, topics_reset_names[entry.facts.reset])));
	}
}

/*
 * Get the leader sets that this node leads, of those that there are: a bit for
 * each.
 */
static uint32
get_led_sets(void)
{
	uint32		result = 0;

	for (int set = METADATA_SET; set < MAX_LEADER_SETS; set++)
		if (!topics_cluster_follows(set))
			result |= 1U << set;
	return result;
}

/*
 * Choose the leader sets in which a member joins: a bit for each.  They are
 * those of its topics' partitions that this node leads.  One that gets none
 * here can be a member in the first set, whose leader makes the group; and one
 * with a pattern in any, since topics may come.
 */
static uint32
choose_sets(const MemberRow *row)
{
	const uint32 led = get_led_sets();
	const uint32 result = topics_rebalance_wanted_sets(row) & led;
	const Topic *topic = row->ntopics > 0 ? topics_catalog_by_id(row->topics[0].topic_id) : NULL;

	if (result != 0)
		return result;
	if ((led & (1U << METADATA_SET)) != 0)
		return 1U << METADATA_SET;
	if (topic)
		topics_cluster_report_not_leader(topics_leader_set_of(&topic->leader_sets, 0), NameStr(topic->name), 0);
	if (led == 0)
		topics_cluster_report_no_group(METADATA_SET);
	return 1U << topics_leader_set_after(led, -1);
}

static void
check_assignor(const char *group_id, Assignor used, Assignor assignor)
{
	if (used != assignor)
		ereport(ERROR,
				(errcode(ERRCODE_INCONSISTENT_PROTOCOL),
				 errmsg("consumer group \"%s\" uses another assignor", group_id),
				 errdetail("INCONSISTENT_GROUP_PROTOCOL: its members use \"%s\", and \"%s\" was given.",
						   topics_assignor_name(used), topics_assignor_name(assignor)),
				 errhint("Join with the same one, or let all members leave before.")));
}

/*
 * In the leader sets in which a member does not join: those that are there use
 * the same assignor, also where another node leads, and who had its
 * group.instance.id is fenced.
 */
static void
join_beside(const char *group_id, const MemberRow *row, Assignor assignor, uint32 sets)
{
	for (int set = -1; (set = topics_leader_set_after(topics_member_table_sets() & ~sets, set)) >= 0;)
	{
		Assignor	used;
		LocalOffset *local;
		GroupMembers *members;
		MemberRow  *former;

		if (topics_rebalance_read_assignor(group_id, set, &used))
			check_assignor(group_id, used, assignor);
		if (row->instance_id == NULL || !topics_member_log_may_call(set))
			continue;
		members = topics_rebalance_read(group_id, set, &local);
		former = find_instance(members, row->instance_id);
		if (former == NULL)
			continue;
		*former = members->rows[--members->count];
		topics_rebalance_run(group_id, local, members);
	}
}

/*
 * A member joins in each leader set that this node leads for it.  Return the
 * highest generation.
 */
static int32
join_sets(const char *group_id, const MemberRow *row, Assignor assignor)
{
	const uint32 sets = choose_sets(row);
	int32		generation = 0;

	join_beside(group_id, row, assignor, sets);
	for (int set = -1; (set = topics_leader_set_after(sets, set)) >= 0;)
	{
		MemberRow	joining = *row;
		LocalOffset *local;
		GroupMembers *members = topics_rebalance_read(group_id, set, &local);

		if (members->count > 0)
			check_assignor(group_id, members->assignor, assignor);
		members->assignor = assignor;
		join(group_id, local, members, &joining);
		generation = Max(generation, members->generation);
	}
	return generation;
}

/*
 * join_group(group_id, topics, assignor, topic_pattern, session_timeout,
 *			  max_poll_interval, group_instance_id, client_id,
 *			  auto_offset_reset): member_id, generation_id
 */
Datum
topics_join_group(PG_FUNCTION_ARGS)
{
	char	   *group_id = topics_group_get_argument(fcinfo, JOIN_GROUP_ID);
	TupleDesc	tupdesc;
	Datum		values[JOINED_COLUMNS];
	bool		nulls[JOINED_COLUMNS] = {false};
	Assignor	assignor;
	MemberRow	row;

	topics_settings_require_preload();
	topics_produce_check_context("topics.join_group()");
	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	row = get_join_arguments(fcinfo, &assignor);
	/* who cannot join here is told where; where the metadata are led all can */
	if (topics_cluster_follows(METADATA_SET))
		(void) choose_sets(&row);
	topics_offset_log_prepare(true);
	topics_group_require_owner(group_id, true);
	topics_consumer_offset_lock_group(group_id, false);
	(void) topics_group_use(group_id, GROUP_MEMBER);
	(void) topics_consumer_offset_lock_members(group_id, true, true);

	/* locks may have been waited for */
	if (row.pattern == NULL)
		look_up_topics(&row, PG_GETARG_ARRAYTYPE_P(JOIN_TOPICS));
	row.member_id = make_member_id(&row);
	notice_other_reset(group_id, &row);

	values[JOINED_MEMBER_ID] = CStringGetTextDatum(row.member_id);
	values[JOINED_GENERATION_ID] = Int32GetDatum(join_sets(group_id, &row, assignor));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}

/* ----------------------------------------------------------------
 *		leave_group
 * ----------------------------------------------------------------
 */

/*
 * Take a member out of its group in a leader set, when the transaction
 * commits.  Return false if it is not in it.
 */
static bool
remove_from_set(const char *group_id, const char *member_id, int set)
{
	LocalOffset *local;
	GroupMembers *members = topics_rebalance_read(group_id, set, &local);
	int			left = 0;

	for (int i = 0; i < members->count; i++)
		if (strcmp(members->rows[i].member_id, member_id) != 0)
			members->rows[left++] = members->rows[i];
	if (left == members->count)
		return false;
	members->count = left;
	topics_rebalance_run(group_id, local, members);
	return true;
}

/* Take a member out of its group, in each leader set that this node leads. */
static void
remove_from_group(const char *group_id, const char *member_id)
{
	bool		found = false;

	topics_consumer_offset_lock_group(group_id, false);
	(void) topics_consumer_offset_lock_members(group_id, true, true);
	for (int set = -1; (set = topics_leader_set_after(topics_member_table_sets(), set)) >= 0;)
		if (topics_member_log_may_call(set))
			found |= remove_from_set(group_id, member_id, set);
	if (!found)
	{
		require_not_elsewhere(group_id, member_id);
		topics_member_report_not_of_group(group_id, member_id);
	}
	if (topics_member_table_has_other_sets() && topics_member_log_find_set(group_id, member_id) >= 0)
		ereport(NOTICE,
				(errmsg("member \"%s\" still has partitions that another node leads", member_id),
				 errhint("Let it leave there as well.")));
}

/* leave_group(member_id) */
Datum
topics_leave_group(PG_FUNCTION_ARGS)
{
	char	   *member_id = get_member_argument(fcinfo);
	MemberCall	call = topics_member_call(member_id, false);

	remove_from_group(call.group_id, member_id);
	PG_RETURN_VOID();
}

/* remove_member(group_id, member_id) */
Datum
topics_remove_member(PG_FUNCTION_ARGS)
{
	char	   *group_id = topics_group_get_argument(fcinfo, 0);
	char	   *member_id;

	topics_settings_require_preload();
	topics_produce_check_call(fcinfo);
	member_id = topics_argument_get_text(fcinfo, 1);
	topics_member_prepare(member_id);
	topics_group_require_owner(group_id, false);
	remove_from_group(group_id, member_id);
	PG_RETURN_VOID();
}

/* ----------------------------------------------------------------
 *		What a member has
 * ----------------------------------------------------------------
 */

/*
 * heartbeat(member_id): the group's generation; the highest, if it has several
 * here
 */
Datum
topics_heartbeat(PG_FUNCTION_ARGS)
{
	char	   *member_id = get_member_argument(fcinfo);
	const uint32 sets = topics_member_call(member_id, false).sets;
	int32		generation = 0;

	for (int set = -1; (set = topics_leader_set_after(sets, set)) >= 0;)
	{
		MemberCall	call;

		if (topics_member_table_look(member_id, set, &call))
			generation = Max(generation, call.group_generation);
	}
	PG_RETURN_INT32(generation);
}

/* Columns of assignment(). */
enum
{
	ASSIGNED_GENERATION_ID,
	ASSIGNED_TOPIC,
	ASSIGNED_PARTITION,
	ASSIGNED_POSITION,
	ASSIGNED_PAUSED,
	ASSIGNED_COLUMNS
};

/* Put what a member has in a leader set. */
static void
put_assignment(ReturnSetInfo *rsinfo, const MemberCall *call)
{
	int			count;
	MemberPlace *places = topics_member_table_list_places(call, true, &count);

	for (int i = 0; i < count; i++)
	{
		Topic	   *topic = topics_catalog_by_id(places[i].entry.key.topic_id);
		Datum		values[ASSIGNED_COLUMNS];
		bool		nulls[ASSIGNED_COLUMNS] = {false};

		if (topic == NULL || !topics_catalog_may_see(topic))
			continue;

		/*
		 * what it has got since it polled is its own in the group's
		 * generation
		 */
		values[ASSIGNED_GENERATION_ID] = Int32GetDatum(Max(call->generation, places[i].entry.of.assigned.since));
		values[ASSIGNED_TOPIC] = CStringGetTextDatum(NameStr(topic->name));
		values[ASSIGNED_PARTITION] = Int32GetDatum(places[i].entry.key.partition);
		values[ASSIGNED_POSITION] = Int64GetDatum(places[i].position);
		nulls[ASSIGNED_POSITION] = places[i].position == NO_OFFSET;
		values[ASSIGNED_PAUSED] = BoolGetDatum(places[i].entry.of.assigned.paused);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	pfree(places);
}

/* assignment(member_id) */
Datum
topics_assignment(PG_FUNCTION_ARGS)
{
	char	   *member_id = get_member_argument(fcinfo);
	const uint32 sets = topics_member_call(member_id, false).sets;

	InitMaterializedSRF(fcinfo, 0);
	for (int set = -1; (set = topics_leader_set_after(sets, set)) >= 0;)
	{
		MemberCall	call;

		if (!topics_member_table_look(member_id, set, &call))
			continue;
		if (!call.is_settled)
			topics_member_take(member_id, &call, true);
		put_assignment((ReturnSetInfo *) fcinfo->resultinfo, &call);
	}
	return (Datum) 0;
}

static void
report_not_assigned(const char *member_id, const char *topic, int32 partition)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("partition %d of topic \"%s\" is not assigned to member \"%s\"", partition, topic, member_id),
			 errhint("topics.assignment() lists what is; topics.poll() takes what a rebalance has given.")));
}

/*
 * Require an offset to be one from which the partition can be read, or will
 * be.
 */
static void
check_offset_to_seek(Topic *topic, int32 number, int64 offset)
{
	Place		place = {.partition = topics_catalog_partition(topic, number)};
	int64		settled;

	topics_place_look(&place);
	if (offset >= place.log_start && offset <= place.next_offset)
		return;
	topics_catalog_open_partition(&place.partition, AccessShareLock);
	settled = topics_log_next_offset_settled(&place.partition);
	topics_catalog_close_partition(&place.partition, AccessShareLock);
	if (offset < place.log_start || offset > settled)
		topics_log_report_out_of_range(NameStr(topic->name), number, offset, place.log_start, place.log_end,
									   "topics.list_offsets() gives the two ends.");
}

/*
 * Do what a member wants of a partition, under its lock.  Return false if it
 * does not have it.
 */
static bool
change_owned_place(const char *member_id, const Topic *topic, int32 number, PlaceWish wish, int64 position)
{
	MemberCall	call;

	if (!topics_member_table_look(member_id, topics_leader_set_of(&topic->leader_sets, number), &call))
		return false;
	if (!call.is_settled)
		topics_member_take(member_id, &call, true);
	return topics_member_table_change_place(&call, topic->topic_id, number, wish, position);
}

/* Do what a member wants of a partition that it has, at once. */
static void
change_place(FunctionCallInfo fcinfo, PlaceWish wish)
{
	char	   *member_id = get_member_argument(fcinfo);
	Topic	   *topic = topics_catalog_lookup(text_to_cstring(PG_GETARG_TEXT_PP(PLACE_ARG_TOPIC)), false);
	int32		number = PG_GETARG_INT32(PLACE_ARG_PARTITION);
	MemberCall	call = topics_member_call(member_id, false);
	int64		position = NO_OFFSET;
	bool		is_owner;
	int			set;

	topics_catalog_require(topic, ACL_SELECT);
	topics_catalog_check_partition(topic, number);
	set = topics_leader_set_of(&topic->leader_sets, number);
	if (topics_cluster_follows(set))
		topics_cluster_report_not_leader(set, NameStr(topic->name), number);
	if (wish == WISH_SEEK && !PG_ARGISNULL(PLACE_ARG_TO_OFFSET))
	{
		position = PG_GETARG_INT64(PLACE_ARG_TO_OFFSET);
		check_offset_to_seek(topic, number, position);
	}
	topics_member_lock(member_id);
	is_owner = change_owned_place(member_id, topic, number, wish, position);
	topics_member_unlock(member_id);
	if (!is_owner)
		report_not_assigned(member_id, NameStr(topic->name), number);
	/* it may wait in another session */
	topics_wakeup_channel(topics_member_table_channel(call.group_id));
}

/* seek(member_id, topic, partition, to_offset) */
Datum
topics_seek(PG_FUNCTION_ARGS)
{
	change_place(fcinfo, WISH_SEEK);
	PG_RETURN_VOID();
}

/* pause(member_id, topic, partition) */
Datum
topics_pause(PG_FUNCTION_ARGS)
{
	change_place(fcinfo, WISH_PAUSE);
	PG_RETURN_VOID();
}

/* resume(member_id, topic, partition) */
Datum
topics_resume(PG_FUNCTION_ARGS)
{
	change_place(fcinfo, WISH_RESUME);
	PG_RETURN_VOID();
}
