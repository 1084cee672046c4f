/*-------------------------------------------------------------------------
 *
 * group.c
 *		Consumer groups: whose they are; commit and reset offsets.
 *
 * A group belongs to the role whose transaction first used it.  That role, its
 * members, and those of topics_admin (role.c), may consume,
 * commit, reset and delete.  The views show the groups that the current user
 * may use, with the topics that the current user may read.
 *
 * Offsets are changed as consume() changes them: under the partition's claim,
 * which is waited for here, and when the transaction commits
 * (consumer_offset.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "base/base.h"
#include "log/log.h"
#include "produce/produce.h"
#include "read/read.h"
#include "group/group.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_commit_offset);
PG_FUNCTION_INFO_V1(topics_reset_offset);
PG_FUNCTION_INFO_V1(topics_delete_group);

#define MAX_METADATA_BYTES 4096 /* Kafka's offset.metadata.max.bytes */

/* ----------------------------------------------------------------
 *		Whose a group is
 * ----------------------------------------------------------------
 */

/* Return true if the current user may do what a group's owner may. */
bool
topics_group_may_use(Oid owner)
{
	return (OidIsValid(owner) && has_privs_of_role(GetUserId(), owner)) ||
		topics_catalog_is_admin();
}

static void
require_group_use(const char *group_id, Oid owner)
{
	if (!topics_group_may_use(owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for consumer group \"%s\"", group_id),
				 errdetail("GROUP_AUTHORIZATION_FAILED: it belongs to another role.")));
}

static void
report_no_group(const char *group_id)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("consumer group \"%s\" does not exist", group_id),
			 errhint("The view topics.consumer_group lists the groups that you may use.")));
}

/* Return an argument that names a group. */
char *
topics_group_get_argument(FunctionCallInfo fcinfo, int argument)
{
	char	   *group_id;

	group_id = topics_argument_get_text(fcinfo, argument);
	if (group_id[0] == '\0' || strlen(group_id) > MAX_GROUP_ID)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid group_id \"%s\"", group_id),
				 errdetail("It must have from 1 to %d bytes.", MAX_GROUP_ID)));
	return group_id;
}

/* Require that a group, if there is one, is the current user's to use. */
void
topics_group_require_owner(const char *group_id, bool missing_ok)
{
	GroupOffset entry;
	bool		found = topics_offset_table_peek(group_id, NO_TOPIC, NO_PARTITION, &entry);

	if (found)
		require_group_use(group_id, entry.facts.owner);

	/*
	 * an entry can outlive its group's deletion, or come before its first
	 * commit
	 */
	if (!missing_ok &&
		(!found || (int64) pg_atomic_read_u64(&entry.committed) == NO_OFFSET) &&
		topics_consumer_offset_find_local(group_id, NO_TOPIC, NO_PARTITION) == NULL)
		report_no_group(group_id);
}

/* Return the type that a group has in this transaction. */
static GroupType
get_type(const LocalOffset *group)
{
	return group->change ? group->change->type : group->shared->facts.type;
}

/* Raise TP011. */
static void
report_type(const char *group_id, GroupType type, GroupType wanted)
{
	ereport(ERROR,
			(errcode(ERRCODE_INCONSISTENT_PROTOCOL),
			 errmsg("consumer group \"%s\" is of type \"%s\"", group_id, topics_offset_log_type_name(type)),
			 errdetail("INCONSISTENT_GROUP_PROTOCOL: it cannot be used as one of type \"%s\".",
					   topics_offset_log_type_name(wanted)),
			 errhint("Use another group_id, or delete the group with topics.delete_group(), once its members have left.")));
}

/*
 * Require a group to be of a type.  A simple one, which nobody has consumed
 * with so far, becomes of that type when the transaction commits.  The lock
 * keeps two transactions from making it two things.
 */
static void
require_type(LocalOffset *group, GroupType type)
{
	const char *group_id = group->shared->key.group_id;

	if (get_type(group) == GROUP_SIMPLE)
	{
		/* who consumes by claims waits for none of its kind */
		(void) topics_consumer_offset_lock_members(group_id, type != GROUP_CONSUME, true);
		if (get_type(group) == GROUP_SIMPLE)
			topics_consumer_offset_change_type(group, type);
	}
	if (get_type(group) != type)
		report_type(group_id, get_type(group), type);
}

/* Refuse a group of one type, to who wants one of another. */
void
topics_group_refuse_type(const char *group_id, GroupType refused, GroupType wanted)
{
	GroupOffset entry;

	if (topics_offset_table_peek(group_id, NO_TOPIC, NO_PARTITION, &entry) && entry.facts.type == refused)
		report_type(group_id, refused, wanted);
}

/*
 * Use a group in this transaction, as one of a type; GROUP_SIMPLE stands for
 * any.  A new one becomes the current user's.
 */
LocalOffset *
topics_group_use(const char *group_id, GroupType type)
{
	GroupOffsetFacts facts = {.owner = GetUserId(),.type = type};
	LocalOffset *group = topics_consumer_offset_use(group_id, NO_TOPIC, NO_PARTITION, &facts, NULL);

	require_group_use(group_id, group->shared->facts.owner);
	if (topics_consumer_offset_is_deleted(group))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("consumer group \"%s\" was deleted in this transaction", group_id),
				 errhint("Use it again after the commit.")));
	if (!topics_consumer_offset_exists(group))
		topics_consumer_offset_create(group);
	if (type != GROUP_SIMPLE && get_type(group) != type)
		require_type(group, type);
	return group;
}

/* ----------------------------------------------------------------
 *		Changing offsets
 * ----------------------------------------------------------------
 */

/* Find the topic of an argument, in which a group is to have an offset. */
static Topic *
get_topic_argument(FunctionCallInfo fcinfo, int argument)
{
	Topic	   *topic;

	topic = topics_catalog_lookup(topics_argument_get_text(fcinfo, argument), false);
	topics_catalog_require(topic, ACL_SELECT);
	return topic;
}

/*
 * Read the two ends of a partition's log.  A caller that knows of a record that
 * is visible but not published may ask for an offset above the end, "wanted":
 * then the end is read again after every producer that is publishing has done
 * so.
 */
static void
read_log_bounds(Partition *partition, int64 wanted, int64 *start, int64 *end)
{
	topics_catalog_open_partition(partition, AccessShareLock);
	*start = topics_log_start(partition->state);
	*end = topics_log_end(partition, NULL);
	if (wanted > *end)
		*end = topics_log_next_offset(partition);
	if (wanted > *end)
		*end = topics_log_next_offset_settled(partition);
	topics_catalog_close_partition(partition, AccessShareLock);
}

/*
 * Raise TP001.  The error tells the ends between which can be read, where a
 * client may start anew.
 */
static void
report_out_of_range(Partition *partition, int64 offset)
{
	int64		start;
	int64		end;

	read_log_bounds(partition, 0, &start, &end);
	topics_log_report_out_of_range(NameStr(partition->topic->name), partition->number, offset,
								   start, end, NULL);
}

/*
 * Use a partition for a group, and keep the topic from being dropped until the
 * transaction ends.  The result is the transaction's own entry; *partition is
 * resolved under the lock.
 */
static LocalOffset *
use_partition(const char *group_id, Topic *topic, int32 number, Partition *partition)
{
	LocalOffset *local = topics_consumer_offset_use(group_id, topic->topic_id, number, NULL, NULL);

	if (topics_cluster_follows(local->set))
		topics_cluster_report_not_leader(local->set, NameStr(topic->name), number);
	*partition = topics_catalog_open_for_reading(topic, number);
	topics_catalog_close_partition(partition, NoLock);
	return local;
}

/* The same, and claim it. */
static LocalOffset *
claim_partition(const char *group_id, Topic *topic, int32 number, Partition *partition)
{
	LocalOffset *local = use_partition(group_id, topic, number, partition);

	(void) topics_consumer_offset_claim(local, topics_catalog_partition_state(topic, 0), true);
	return local;
}

/*
 * For who is no member: require the group to have none, and keep them from
 * joining until the transaction ends.  A group that consumes by claims never
 * has any.
 */
static void
require_no_members(const char *group_id, const LocalOffset *group, int code, const char *detail)
{
	if (group && get_type(group) == GROUP_CONSUME)
		return;
	(void) topics_consumer_offset_lock_members(group_id, false, true);
	if (topics_rebalance_has_members(group_id))
		ereport(ERROR,
				(errcode(code),
				 errmsg("consumer group \"%s\" has members", group_id),
				 errdetail("%s", detail),
				 errhint("Stop them before: topics.leave_group(), topics.remove_member(). The view topics.group_member lists them.")));
}

/*
 * Return the member that commits an offset, by its arguments, or NULL: none
 * does.
 */
static char *
get_committing_member(FunctionCallInfo fcinfo, const char *group_id, int member_id, int generation_id)
{
	MemberCall	call;
	char	   *name;

	if (PG_ARGISNULL(member_id) && PG_ARGISNULL(generation_id))
		return NULL;
	topics_argument_require(fcinfo, generation_id);
	name = topics_argument_get_text(fcinfo, member_id);
	call = topics_member_call(name, false);
	if (strcmp(call.group_id, group_id) != 0)
		topics_member_report_not_of_group(group_id, name);
	return name;
}

/* Return an argument that is the metadata of a committed offset, or NULL. */
static char *
get_metadata_argument(FunctionCallInfo fcinfo, int argument)
{
	char	   *metadata;

	if (PG_ARGISNULL(argument))
		return NULL;
	metadata = text_to_cstring(PG_GETARG_TEXT_PP(argument));
	if (strlen(metadata) > MAX_METADATA_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("metadata of a committed offset is too large"),
				 errdetail("OFFSET_METADATA_TOO_LARGE: it has %zu bytes, and may have %d.",
						   strlen(metadata), MAX_METADATA_BYTES)));
	return metadata;
}

/* Require that an offset is within the log, and not below the one before. */
static void
check_offset_to_commit(const char *group_id, Partition *partition, int64 committed, int64 offset)
{
	const char *topic = NameStr(partition->topic->name);
	int64		start;
	int64		end;

	read_log_bounds(partition, offset, &start, &end);
	if (offset < 0 || offset > end)
		report_out_of_range(partition, offset);
	if (committed != NO_OFFSET && offset < committed)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("committed offset of consumer group \"%s\" cannot go back", group_id),
				 errdetail("The committed offset in partition %d of topic \"%s\" is " INT64_FORMAT ", the new one " INT64_FORMAT ".",
						   partition->number, topic, committed, offset),
				 errhint("Use topics.reset_offset() to go back.")));
}

/*
 * Commit an offset for a member, which may go back, as in Kafka: it alone
 * commits there.  The transaction's commit looks again whether the partition
 * is still the member's.
 */
static void
commit_as_member(LocalOffset *local, Partition *partition, const char *member_id, int32 generation,
				 int64 offset, const char *metadata)
{
	MemberCall	call = {0};
	int64		start;
	int64		end;

	(void) topics_member_table_look(member_id, local->set, &call);
	topics_member_table_require_owner(local->shared, call.member, call.serial, generation);
	read_log_bounds(partition, offset, &start, &end);
	if (offset < 0 || offset > end)
		report_out_of_range(partition, offset);
	topics_consumer_offset_change_as_member(local, offset, metadata, call.member, call.serial, generation);
}

/* Arguments of commit_offset(). */
enum
{
	COMMIT_ARG_GROUP_ID,
	COMMIT_ARG_TOPIC,
	COMMIT_ARG_PARTITION,
	COMMIT_ARG_COMMITTED_OFFSET,
	COMMIT_ARG_METADATA,
	COMMIT_ARG_MEMBER_ID,
	COMMIT_ARG_GENERATION_ID
};

/*
 * commit_offset(group_id, topic, partition, committed_offset, metadata,
 *				 member_id, generation_id)
 */
Datum
topics_commit_offset(PG_FUNCTION_ARGS)
{
	char	   *group_id = topics_group_get_argument(fcinfo, COMMIT_ARG_GROUP_ID);
	Topic	   *topic;
	int32		number;
	int64		offset;
	char	   *metadata;
	Partition	partition;
	LocalOffset *local;
	LocalOffset *group;
	char	   *member_id;

	topics_settings_require_preload();
	topics_produce_check_context("topics.commit_offset()");
	topics_argument_require(fcinfo, COMMIT_ARG_PARTITION);
	topics_argument_require(fcinfo, COMMIT_ARG_COMMITTED_OFFSET);
	number = PG_GETARG_INT32(COMMIT_ARG_PARTITION);
	offset = PG_GETARG_INT64(COMMIT_ARG_COMMITTED_OFFSET);
	metadata = get_metadata_argument(fcinfo, COMMIT_ARG_METADATA);
	(void) get_topic_argument(fcinfo, COMMIT_ARG_TOPIC);
	topics_offset_log_prepare(true);
	topics_group_require_owner(group_id, true);
	member_id = get_committing_member(fcinfo, group_id, COMMIT_ARG_MEMBER_ID, COMMIT_ARG_GENERATION_ID);
	topics_consumer_offset_lock_group(group_id, false);
	group = topics_group_use(group_id, GROUP_SIMPLE);
	if (member_id == NULL)
		require_no_members(group_id, group, ERRCODE_UNKNOWN_MEMBER,
						   "UNKNOWN_MEMBER_ID: only they commit offsets, with member_id and generation_id.");

	topic = get_topic_argument(fcinfo, COMMIT_ARG_TOPIC);
	topics_catalog_check_partition(topic, number);
	if (member_id)
	{
		local = use_partition(group_id, topic, number, &partition);
		commit_as_member(local, &partition, member_id, PG_GETARG_INT32(COMMIT_ARG_GENERATION_ID), offset, metadata);
		PG_RETURN_VOID();
	}
	local = claim_partition(group_id, topic, number, &partition);
	check_offset_to_commit(group_id, &partition, topics_consumer_offset_get_position(local), offset);
	topics_consumer_offset_change(local, offset, metadata);
	PG_RETURN_VOID();
}

/* ----------------------------------------------------------------
 *		reset_offset
 * ----------------------------------------------------------------
 */

/* Arguments of reset_offset(); one of four says where to reset to. */
enum
{
	RESET_ARG_GROUP_ID,
	RESET_ARG_TOPIC,
	RESET_ARG_PARTITION,
	RESET_ARG_TO_POSITION,
	RESET_ARG_TO_OFFSET,
	RESET_ARG_TO_TIME,
	RESET_ARG_SHIFT_BY,
	RESET_ARG_DRY_RUN
};

/* Columns of its result. */
enum
{
	RESULT_PARTITION,
	RESULT_BEFORE,
	RESULT_AFTER,
	RESULT_COLUMNS
};

typedef enum TargetKind
{
	TARGET_EARLIEST,
	TARGET_LATEST,
	TARGET_OFFSET,
	TARGET_TIME,
	TARGET_SHIFT
} TargetKind;

/* Where to reset to. */
typedef struct ResetTarget
{
	TargetKind	kind;
	int64		offset;			/* or, for TARGET_SHIFT, by how much */
	TimestampTz time;
} ResetTarget;

static ResetTarget
get_target_arguments(FunctionCallInfo fcinfo)
{
	ResetTarget target = {0};
	int			given = 0;

	for (int i = RESET_ARG_TO_POSITION; i <= RESET_ARG_SHIFT_BY; i++)
		given += !PG_ARGISNULL(i);
	if (given != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("exactly one of to_position, to_offset, to_time and shift_by must be given"),
				 errdetail("%d are.", given)));
	if (!PG_ARGISNULL(RESET_ARG_TO_POSITION))
	{
		char	   *position = text_to_cstring(PG_GETARG_TEXT_PP(RESET_ARG_TO_POSITION));

		target.kind = strcmp(position, "earliest") == 0 ? TARGET_EARLIEST : TARGET_LATEST;
		if (target.kind == TARGET_LATEST && strcmp(position, "latest") != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid to_position \"%s\"", position),
					 errhint("Use 'earliest' or 'latest'.")));
	}
	else if (!PG_ARGISNULL(RESET_ARG_TO_OFFSET))
	{
		target.kind = TARGET_OFFSET;
		target.offset = PG_GETARG_INT64(RESET_ARG_TO_OFFSET);
	}
	else if (!PG_ARGISNULL(RESET_ARG_TO_TIME))
	{
		target.kind = TARGET_TIME;
		target.time = PG_GETARG_TIMESTAMPTZ(RESET_ARG_TO_TIME);
	}
	else
	{
		target.kind = TARGET_SHIFT;
		target.offset = PG_GETARG_INT64(RESET_ARG_SHIFT_BY);
	}
	return target;
}

/*
 * Find the new offset of a partition; "since" is that of to_time.  Before, the
 * group stood at "before", or nowhere if that is NO_OFFSET.
 */
static int64
resolve_target(const ResetTarget *target, Partition *partition, int64 since, int64 before)
{
	int64		wanted = target->kind == TARGET_OFFSET ? target->offset : 0;
	int64		shift = target->offset;
	int64		start;
	int64		end;

	read_log_bounds(partition, wanted, &start, &end);
	if (before == NO_OFFSET)
		before = start;
	switch (target->kind)
	{
		case TARGET_EARLIEST:
			return start;
		case TARGET_LATEST:
			return end;
		case TARGET_TIME:
			return since;
		case TARGET_OFFSET:
			if (wanted < start || wanted > end)
				report_out_of_range(partition, wanted);
			return wanted;
		case TARGET_SHIFT:
			/* no further than the log's ends; the sums cannot overflow */
			if (shift < 0)
				return shift < start - before ? start : Min(before + shift, end);
			return shift > end - before ? end : Max(before + shift, start);
	}
	pg_unreachable();
}

static void
put_reset_offset(ReturnSetInfo *rsinfo, int32 partition, int64 before, int64 after)
{
	Datum		values[RESULT_COLUMNS];
	bool		nulls[RESULT_COLUMNS] = {false};

	values[RESULT_PARTITION] = Int32GetDatum(partition);
	values[RESULT_BEFORE] = Int64GetDatum(before);
	nulls[RESULT_BEFORE] = before == NO_OFFSET;
	values[RESULT_AFTER] = Int64GetDatum(after);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* Reset a group's offsets in the partitions from "first" up to "upto" - 1. */
static void
reset_partitions(ReturnSetInfo *rsinfo, const char *group_id, const ResetTarget *target,
				 Topic *topic, int32 first, int32 upto, bool dry_run)
{
	Partition  *partitions = palloc(sizeof(Partition) * topic->partitions);
	LocalOffset **locals = palloc(sizeof(LocalOffset *) * topic->partitions);
	int64	   *since = NULL;

	for (int32 number = first; number < upto; number++)
		locals[number] = claim_partition(group_id, topic, number, &partitions[number]);
	if (target->kind == TARGET_TIME)
		since = topics_list_offsets_since(topic, target->time, NULL, NULL);
	for (int32 number = first; number < upto; number++)
	{
		int64		before = topics_consumer_offset_get_position(locals[number]);
		int64		after = resolve_target(target, &partitions[number], since ? since[number] : 0,
										   before);

		if (!dry_run)
			topics_consumer_offset_change(locals[number], after, NULL);
		put_reset_offset(rsinfo, number, before, after);
	}
}

/*
 * reset_offset(group_id, topic, partition, to_position, to_offset, to_time,
 *				shift_by, dry_run)
 */
Datum
topics_reset_offset(PG_FUNCTION_ARGS)
{
	char	   *group_id = topics_group_get_argument(fcinfo, RESET_ARG_GROUP_ID);
	ResetTarget target = get_target_arguments(fcinfo);
	bool		dry_run = !PG_ARGISNULL(RESET_ARG_DRY_RUN) && PG_GETARG_BOOL(RESET_ARG_DRY_RUN);
	Topic	   *topic;
	int32		first = 0;
	int32		upto;

	topics_settings_require_preload();
	topics_produce_check_context("topics.reset_offset()");
	(void) get_topic_argument(fcinfo, RESET_ARG_TOPIC);
	topics_offset_log_prepare(true);
	topics_group_require_owner(group_id, true);
	topics_consumer_offset_lock_group(group_id, false);
	if (!dry_run)
		require_no_members(group_id, topics_group_use(group_id, GROUP_SIMPLE),
						   ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
						   "NON_EMPTY_GROUP: their offsets are not reset behind their backs.");

	topic = get_topic_argument(fcinfo, RESET_ARG_TOPIC);
	upto = topic->partitions;
	if (!PG_ARGISNULL(RESET_ARG_PARTITION))
	{
		first = PG_GETARG_INT32(RESET_ARG_PARTITION);
		topics_catalog_check_partition(topic, first);
		upto = first + 1;
	}
	InitMaterializedSRF(fcinfo, 0);
	reset_partitions((ReturnSetInfo *) fcinfo->resultinfo, group_id, &target, topic, first, upto,
					 dry_run);
	return (Datum) 0;
}

/* ----------------------------------------------------------------
 *		delete_group
 * ----------------------------------------------------------------
 */

/* Delete an entry of a group when the transaction commits. */
static void
delete_entry(const GroupOffsetKey *key)
{
	LocalOffset *local = topics_consumer_offset_use(key->group_id, key->topic_id, key->partition,
													NULL, NULL);
	Topic	   *topic = key->topic_id == NO_TOPIC ? NULL : topics_catalog_by_id(key->topic_id);

	/* what is led elsewhere may have come to more by now than is known here */
	for (int32 number = 0; topic && topic->leader_sets.count > 0 && number < topic->partitions; number++)
	{
		int			set = topics_leader_set_of(&topic->leader_sets, number);

		if (topics_cluster_follows(set))
			topics_cluster_report_not_leader(set, NameStr(topic->name), number);
	}
	topics_consumer_offset_delete(local, topic ? topics_catalog_try_partition_state(topic, 0) : NULL);
}

/* delete_group(group_id) */
Datum
topics_delete_group(PG_FUNCTION_ARGS)
{
	char	   *group_id = topics_group_get_argument(fcinfo, 0);
	GroupOffset *entries;
	int			count;

	topics_settings_require_preload();
	topics_produce_check_context("topics.delete_group()");
	topics_offset_log_prepare(true);
	topics_group_require_owner(group_id, false);
	topics_consumer_offset_lock_group(group_id, true);
	topics_group_require_owner(group_id, false);
	require_no_members(group_id, NULL, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
					   "NON_EMPTY_GROUP: it cannot be deleted.");

	/* with the lock held no entry of the group comes or goes */
	entries = topics_offset_table_list(group_id, NO_TOPIC, &count);
	for (int i = 0; i < count; i++)
	{
		const GroupOffsetKey *key = &entries[i].key;

		/* what its generation was where another node leads is kept there */
		if (!is_members_partition(key->partition) || !topics_cluster_follows(get_members_set(key->partition)))
			delete_entry(key);
	}
	PG_RETURN_VOID();
}
