/*-------------------------------------------------------------------------
 *
 * worker_monitor.c
 *		What the view topics.worker shows: the worker of this database, what of
 *		its work fails or is held up, and what is wrong with the server.
 *
 * The view also asks the processes whether they answer (worker_life.c): a
 * launcher that hangs asks nobody.
 *
 * The messages of errors can tell of records, so what fails is shown to the
 * topic's owner and to the roles that look after the server only.  Who keeps
 * the worker from a group's members, the group's owner sees, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "commands/dbcommands.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "group/group.h"
#include "serve/serve.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_worker_status);

/*
 * Columns of worker_status: the worker, and then a piece of work that fails.
 */
enum
{
	WORKER_PID,
	WORKER_STATE,
	WORKER_STATE_SINCE,
	WORKER_NEXT_ROUND,
	WORKER_LAST_ROUND,
	WORKER_PARTITIONS,
	FAILURE_TOPIC,
	FAILURE_PARTITION,
	FAILURE_STEP,
	FAILURE_SINCE,
	FAILURE_COUNT,
	FAILURE_SQLSTATE,
	FAILURE_MESSAGE,
	FAILURE_HINT,
	FAILURE_RETRY_AT,
	WORKER_COLUMNS
};

/* Return true if the current user may see why a piece of work is not done. */
static bool
may_see_work(Oid view_relid)
{
	return topics_catalog_is_monitor() ||
		(OidIsValid(view_relid) && topics_catalog_owns_view(view_relid));
}

/*
 * Put a failure into its columns.  Return false if it is not for the user to
 * see, or the topic has gone.
 */
static bool
put_failure(const WorkFailure *failure, Datum *values, bool *nulls)
{
	char	   *topic = NULL;

	if (OidIsValid(failure->piece.view_relid))
	{
		topic = get_rel_name(failure->piece.view_relid);
		if (topic == NULL)
			return false;
	}
	if (!may_see_work(failure->piece.view_relid))
		return false;
	nulls[FAILURE_TOPIC] = topic == NULL;
	if (topic)
		values[FAILURE_TOPIC] = CStringGetTextDatum(topic);
	nulls[FAILURE_PARTITION] = failure->piece.partition == WHOLE_TOPIC;
	values[FAILURE_PARTITION] = Int32GetDatum(failure->piece.partition);
	nulls[FAILURE_STEP] = nulls[FAILURE_SINCE] = nulls[FAILURE_COUNT] = false;
	nulls[FAILURE_MESSAGE] = nulls[FAILURE_RETRY_AT] = false;
	values[FAILURE_STEP] = CStringGetTextDatum(topics_backoff_step_name(failure->step));
	values[FAILURE_SINCE] = TimestampTzGetDatum(failure->since);
	values[FAILURE_COUNT] = Int32GetDatum(failure->failures);
	nulls[FAILURE_SQLSTATE] = failure->sqlstate == 0;
	if (failure->sqlstate != 0)
		values[FAILURE_SQLSTATE] = CStringGetTextDatum(unpack_sql_state(failure->sqlstate));
	values[FAILURE_MESSAGE] = CStringGetTextDatum(failure->message);
	nulls[FAILURE_HINT] = true;
	values[FAILURE_RETRY_AT] = TimestampTzGetDatum(topics_backoff_retry_time(failure));
	return true;
}

/* ----------------------------------------------------------------
 *		The worker
 * ----------------------------------------------------------------
 */

/* A row, as it grows. */
typedef struct WorkerRow
{
	ReturnSetInfo *rsinfo;
	Datum		values[WORKER_COLUMNS];
	bool		nulls[WORKER_COLUMNS];
	bool		shown;			/* a row was put */
} WorkerRow;

/* Put a moment, or NULL for none. */
static void
put_moment(WorkerRow *row, int column, MonotonicTime time)
{
	row->nulls[column] = time == 0 || time == NEVER || time > topics_clock_now() + NEVER / 4;
	if (!row->nulls[column])
		row->values[column] = TimestampTzGetDatum(topics_worker_registry_wall_time(time));
}

/*
 * Say what the worker does, and since when; or why there is none.  "due" is
 * when one is wanted.
 */
static const char *
describe_state(const WorkerSlot *worker, MonotonicTime due, MonotonicTime *since)
{
	bool		launcher = topics_worker_registry_launcher()->pid != 0;

	*since = worker->wanted_since[SERVE_WORKER];
	if (worker->process[SERVE_WORKER].pid != 0)
	{
		bool		hung = topics_worker_life_is_hung(&worker->process[SERVE_WORKER]);

		*since = hung ? worker->process[SERVE_WORKER].asked_at : worker->busy_since;
		return hung ? "hung" : worker->busy_since != 0 ? "busy" : "idle";
	}
	if (due > topics_clock_now())
	{
		*since = 0;
		return "resting";
	}
	if (!launcher || worker->process[SERVE_WORKER].trouble == TROUBLE_NO_PROCESS ||
		(!OidIsValid(worker->database) && topics_worker_registry_is_full()))
		return "missing";
	return worker->process[SERVE_WORKER].trouble == TROUBLE_NO_PLACE ? "waiting" : "starting";
}

/* Put the worker into its columns. */
static void
put_worker(WorkerRow *row, const WorkerSlot *worker, MonotonicTime due)
{
	MonotonicTime since;
	const char *state = describe_state(worker, due, &since);

	row->nulls[WORKER_PID] = worker->process[SERVE_WORKER].pid == 0;
	row->values[WORKER_PID] = Int32GetDatum(worker->process[SERVE_WORKER].pid);
	row->nulls[WORKER_STATE] = false;
	row->values[WORKER_STATE] = CStringGetTextDatum(state);
	put_moment(row, WORKER_STATE_SINCE, since);
	put_moment(row, WORKER_NEXT_ROUND, strcmp(state, "resting") == 0 ? due : 0);
	row->nulls[WORKER_LAST_ROUND] = row->nulls[WORKER_PARTITIONS] = worker->last_round == 0;
	row->values[WORKER_LAST_ROUND] = TimestampTzGetDatum(worker->last_round);
	row->values[WORKER_PARTITIONS] = Int32GetDatum(worker->partitions);
}

/* Add the row as it is, and begin another one for the same worker. */
static void
add_row(WorkerRow *row)
{
	tuplestore_putvalues(row->rsinfo->setResult, row->rsinfo->setDesc, row->values, row->nulls);
	memset(row->nulls + FAILURE_TOPIC, true, WORKER_COLUMNS - FAILURE_TOPIC);
	row->shown = true;
}

/* ----------------------------------------------------------------
 *		What nobody has failed at
 * ----------------------------------------------------------------
 */

/* Add a row of it. */
static void
add_trouble(WorkerRow *row, const char *step, int sqlstate, const char *message, const char *hint)
{
	row->nulls[FAILURE_STEP] = row->nulls[FAILURE_SQLSTATE] = row->nulls[FAILURE_MESSAGE] = false;
	row->values[FAILURE_STEP] = CStringGetTextDatum(step);
	row->values[FAILURE_SQLSTATE] = CStringGetTextDatum(unpack_sql_state(sqlstate));
	row->values[FAILURE_MESSAGE] = CStringGetTextDatum(message);
	row->nulls[FAILURE_HINT] = hint == NULL;
	row->values[FAILURE_HINT] = hint ? CStringGetTextDatum(hint) : (Datum) 0;
	add_row(row);
}

/*
 * Return when a step that somebody was in the way of is tried again, which is
 * in a round over all; 0 if that is not known, or it is tried all the time.
 */
static MonotonicTime
get_next_try(const PartitionDelay *delayed, const WorkerSlot *worker)
{
	if (delayed->not_before == NEVER || worker->full_began == 0)
		return 0;
	return topics_max(delayed->not_before, topics_worker_due_full_round(worker));
}

/*
 * Add the steps that somebody else's lock or snapshot is in the way of, or was
 * until just now: "worker" is the slot of who tries them again.
 */
static void
add_delays(WorkerRow *row, const WorkerSlot *worker)
{
	ListCell   *lc;

	foreach(lc, topics_delay_list())
	{
		PartitionDelay *delayed = lfirst(lc);
		Topic	   *topic = topics_catalog_by_id(delayed->id.topic_id);
		const MonotonicTime next_try = get_next_try(delayed, worker);
		int			sqlstate = OidIsValid(delayed->delay.relid) ?
			ERRCODE_LOCK_NOT_AVAILABLE : ERRCODE_OBJECT_IN_USE;
		NameData	name;
		char	   *message;
		char	   *hint;

		/* dropped, or altered since */
		if (topic == NULL || !may_see_work(topic->view_relid) ||
			(delayed->step == STEP_COMPACT && !topic->settings.compact))
			continue;
		name = topic->name;
		if (!topics_delay_monitor_describe(&delayed->delay, &message, &hint))
		{
			if (next_try == 0)
				continue;
			sqlstate = ERRCODE_SUCCESSFUL_COMPLETION;
			message = "nobody is in the way any more";
			hint = "It is done with the next try, or at once by CALL topics.maintain().";
		}
		row->nulls[FAILURE_TOPIC] = row->nulls[FAILURE_PARTITION] = false;
		row->values[FAILURE_TOPIC] = CStringGetTextDatum(NameStr(name));
		row->values[FAILURE_PARTITION] = Int32GetDatum(delayed->id.partition);
		put_moment(row, FAILURE_SINCE, delayed->delay.since);
		put_moment(row, FAILURE_RETRY_AT, next_try);
		add_trouble(row, topics_backoff_step_name(delayed->step), sqlstate, message, hint);
	}
}

/* Add the groups whose members the worker cannot see to. */
static void
add_held_up_groups(WorkerRow *row)
{
	const MonotonicTime latest = topics_clock_now() - DELAY_SHOWN_MS * INT64CONST(1000);
	int			count;
	GroupOffset *entries = topics_offset_table_list(NULL, NO_TOPIC, &count);

	for (int i = 0; i < count; i++)
	{
		const GroupOffset *group = &entries[i];
		char	   *message;
		char	   *hint;

		CHECK_FOR_INTERRUPTS();
		if (group->key.partition != NO_PARTITION || group->of.held_up_since == 0 ||
			group->of.held_up_since > latest ||
			!(topics_catalog_is_monitor() || topics_group_may_use(group->facts.owner)) ||
			!topics_delay_monitor_describe_group(group->key.group_id, &message, &hint))
			continue;
		put_moment(row, FAILURE_SINCE, group->of.held_up_since);
		add_trouble(row, topics_backoff_step_name(STEP_EXPIRE), ERRCODE_LOCK_NOT_AVAILABLE, message, hint);
	}
	pfree(entries);
}

/* Say where the workers are, of which there is none for this database. */
static char *
describe_places(void)
{
	StringInfoData text;
	const char *separator = ": ";

	initStringInfo(&text);
	if (pg_topics_max_workers == 1)
		appendStringInfoString(&text, "the worker is in another database");
	else
		appendStringInfo(&text, "all %d workers are in other databases", pg_topics_max_workers);
	for (int i = 0; i < MAX_WORKERS; i++)
	{
		const WorkerSlot *slot = topics_worker_registry_at(i);
		char	   *name = slot->process[SERVE_WORKER].pid != 0 && slot->database != MyDatabaseId ?
			get_database_name(slot->database) : NULL;

		if (name == NULL)
			continue;
		appendStringInfo(&text, "%s\"%s\"", separator, name);
		separator = ", ";
	}
	return text.data;
}

/* Add why there is no worker, if one is wanted: "worker" is its slot. */
static void
add_lack_of_worker(WorkerRow *row, const WorkerSlot *worker, MonotonicTime due)
{
	if (worker->process[SERVE_WORKER].pid != 0 || due > topics_clock_now())
		return;
	if (topics_worker_registry_launcher()->pid == 0)
		add_trouble(row, "start", ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
					"the launcher of pg_topics does not run",
					"It comes back within 5 s, unless the server had no process for it: then raise max_worker_processes and restart the server.");
	else if (!OidIsValid(worker->database) && topics_worker_registry_is_full())
		add_trouble(row, "start", ERRCODE_PROGRAM_LIMIT_EXCEEDED,
					psprintf("all %d places for databases with the extension are taken", MAX_WORKERS),
					"CALL topics.maintain() here regularly, or drop the extension in another database.");
	else if (worker->process[SERVE_WORKER].trouble == TROUBLE_NO_PROCESS)
		add_trouble(row, "start", ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
					"no background worker process is left",
					"Raise max_worker_processes and restart the server.");
	else if (worker->process[SERVE_WORKER].trouble == TROUBLE_NO_PLACE)
		add_trouble(row, "start", ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
					describe_places(),
					topics_worker_registry_places_hang() ?
					"None of these answers, so no place comes free: the log says which processes they are. Meanwhile CALL topics.maintain() here." :
					"It comes when another one rests, or in turn. Raise pg_topics.max_workers if this lasts.");
}

/* Add a process that does not answer; of this database a kind, or not. */
static void
add_if_hung(WorkerRow *row, const ServeProcess *process, const char *name, bool in_database,
			ServeKind kind)
{
	WorkFailure note;
	char	   *at = "";

	if (!topics_worker_life_is_hung(process))
		return;
	if (in_database && topics_backoff_find_under_way(kind, &note))
	{
		char	   *topic = get_rel_name(note.piece.view_relid);

		at = psprintf(" at step \"%s\"", topics_backoff_step_name(note.step));
		row->nulls[FAILURE_TOPIC] = topic == NULL;
		if (topic)
			row->values[FAILURE_TOPIC] = CStringGetTextDatum(topic);
		row->nulls[FAILURE_PARTITION] = topic == NULL || note.piece.partition == WHOLE_TOPIC;
		row->values[FAILURE_PARTITION] = Int32GetDatum(note.piece.partition);
	}
	put_moment(row, FAILURE_SINCE, process->asked_at);
	add_trouble(row, "hang", ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
				psprintf("the %s, process %d, does not answer%s", name, (int) process->pid, at),
				"It was stopped, or hangs in the operating system: look at it there. If it was stopped, kill -CONT lets it go on; kill -KILL restarts all of the server.");
}

/* Add the rows of what is wrong with the server. */
static void
add_troubles(WorkerRow *row, const WorkerSlot *worker, MonotonicTime due)
{
	if (!topics_catalog_is_monitor())
		return;
	if (!topics_settings_is_loaded_first())
		add_trouble(row, "load", ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, LOADED_BEHIND_MESSAGE,
					PRELOAD_HINT);
	add_lack_of_worker(row, worker, due);
	add_if_hung(row, topics_worker_registry_launcher(), "launcher", false, SERVE_KINDS);
	for (int kind = 0; kind < SERVE_KINDS; kind++)
		add_if_hung(row, &worker->process[kind], topics_worker_slot_name(kind), true, kind);
}

/* Ask the processes whether they answer. */
static void
ask_processes(void)
{
	WorkerSlot *slot = topics_worker_registry_find(MyDatabaseId);

	topics_worker_life_ask(topics_worker_registry_launcher());
	if (slot == NULL)
		return;
	for (int kind = 0; kind < SERVE_KINDS; kind++)
		topics_worker_life_ask(&slot->process[kind]);
}

/* worker_status(): the rows of the view topics.worker */
Datum
topics_worker_status(PG_FUNCTION_ARGS)
{
	WorkerRow	row = {.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo};
	WorkerSlot	worker = {0};	/* this database's; all 0 if it has none */
	MonotonicTime due = RecoveryInProgress() ? NEVER : 0;	/* a standby has none */
	WorkFailure *failures;
	int			count;

	topics_settings_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	ask_processes();
	if (topics_worker_registry_read(MyDatabaseId, &worker))
		due = topics_worker_due_time(topics_worker_registry_index(topics_worker_registry_find(MyDatabaseId)),
									 &worker);
	memset(row.nulls, true, sizeof(row.nulls));
	put_worker(&row, &worker, due);
	failures = topics_backoff_list(&count);
	for (int i = 0; i < count; i++)
		if (put_failure(&failures[i], row.values, row.nulls))
			add_row(&row);
	add_delays(&row, &worker);
	add_held_up_groups(&row);
	add_troubles(&row, &worker, due);
	if (!row.shown)
		add_row(&row);
	return (Datum) 0;
}
