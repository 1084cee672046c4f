/*-------------------------------------------------------------------------
 *
 * insert.c
 *		INSERT and COPY into a topic's view.
 *
 * Each topic's view has an INSTEAD OF INSERT trigger that gives the row to
 * the transaction, as topics.produce() does.  The executor has checked the
 * INSERT privilege, the types and the domains by then.  UPDATE and DELETE
 * meet triggers that raise.
 *
 * The usual COPY FROM gives its rows to the transaction without the trigger,
 * see copy.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "base/base.h"
#include "log/log.h"
#include "produce/produce.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_insert);
PG_FUNCTION_INFO_V1(topics_append_only);

/* Check a view's columns: the owner may have replaced the view. */
static void
check_view_columns(Topic *topic, Relation view)
{
	static const AttrNumber log_columns[] = {
		Anum_log_partition, Anum_log_offset, Anum_log_timestamp,
		Anum_log_key, Anum_log_value, Anum_log_headers
	};
	TupleDesc	desc = RelationGetDescr(view);

	for (int i = 0; i < Natts_view; i++)
		if (desc->natts != Natts_view || TupleDescAttr(desc, i)->atttypid !=
			TupleDescAttr(topic->tupdesc, log_columns[i] - 1)->atttypid ||
			namestrcmp(&TupleDescAttr(desc, i)->attname,
					   NameStr(TupleDescAttr(topic->tupdesc, log_columns[i] - 1)->attname)) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("view of topic \"%s\" does not have the columns of the topic",
							NameStr(topic->name)),
					 errdetail("They are partition, \"offset\", \"timestamp\", key, value and headers, in this order."),
					 errhint("Use topics.produce(), and give the columns their names back.")));
}

/* Return true if an INSERT of a row calls topics_insert and nothing else. */
bool
topics_insert_calls_us_only(Relation view)
{
	TriggerDesc *triggers = view->trigdesc;
	Oid			called = InvalidOid;
	FmgrInfo	function;

	if (triggers == NULL || SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA)
		return false;
	/* no look-up here: an invalidation would free the triggers */
	for (int i = 0; i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		if (!TRIGGER_FOR_INSERT(trigger->tgtype))
			continue;
		if (OidIsValid(called) || !TRIGGER_FOR_INSTEAD(trigger->tgtype) ||
			trigger->tgenabled != TRIGGER_FIRES_ON_ORIGIN)
			return false;
		called = trigger->tgfoid;
	}
	if (!OidIsValid(called))
		return false;
	fmgr_info(called, &function);
	return function.fn_addr == topics_insert;
}

/* Return the topic of a view that rows are about to be inserted into. */
Topic *
topics_insert_begin(Relation view)
{
	Topic	   *topic;

	topics_settings_require_preload();
	topic = topics_catalog_get(RelationGetRelid(view), false);
	topics_produce_check_context("INSERT into a topic");
	topics_catalog_require_not_internal(topic);
	check_view_columns(topic, view);
	return topic;
}

/*
 * Give a row of a topic's view to the transaction.  "values" and "nulls" are
 * those of the view's columns; what is chosen here is filled in.
 */
void
topics_insert_row(Topic *topic, Datum *values, bool *nulls)
{
	RecordDraft draft;

	/* the view is locked, but the topic's settings may have changed */
	if (!topic->valid)
		topic = topics_catalog_get(topic->view_relid, false);

	if (!nulls[Anum_view_offset - 1])
		ereport(ERROR,
				(errcode(ERRCODE_GENERATED_ALWAYS),
				 errmsg("cannot insert a value into column \"offset\""),
				 errdetail("Offsets are assigned when the transaction commits."),
				 errhint("Leave the column out.")));

	draft.partition = nulls[Anum_view_partition - 1] ? 0 :
		DatumGetInt32(values[Anum_view_partition - 1]);
	draft.create_time = nulls[Anum_view_timestamp - 1] ? GetCurrentTimestamp() :
		DatumGetTimestampTz(values[Anum_view_timestamp - 1]);
	draft.key = values[Anum_view_key - 1];
	draft.key_isnull = nulls[Anum_view_key - 1];
	draft.value = values[Anum_view_value - 1];
	draft.value_isnull = nulls[Anum_view_value - 1];
	draft.headers_isnull = nulls[Anum_view_headers - 1];
	draft.headers = draft.headers_isnull ? 0 :
		topics_header_normalize(values[Anum_view_headers - 1]);
	/* COPY and INSERT leave the NULL of a missing column unchecked */
	if (draft.key_isnull)
		topics_produce_check_null(topic, &topic->key);
	if (draft.value_isnull)
		topics_produce_check_null(topic, &topic->value);
	draft.partition = topics_produce_record(topic, &draft, !nulls[Anum_view_partition - 1], NULL);

	values[Anum_view_partition - 1] = Int32GetDatum(draft.partition);
	values[Anum_view_timestamp - 1] = TimestampTzGetDatum(draft.create_time);
	nulls[Anum_view_partition - 1] = false;
	nulls[Anum_view_timestamp - 1] = topic->settings.log_append_time;
	values[Anum_view_headers - 1] = draft.headers;
}

/* What topics_insert keeps from row to row of a statement. */
typedef struct InsertState
{
	Topic	   *topic;
	bool		alone;			/* no other trigger looks at the tuple */
} InsertState;

static InsertState *
begin_insert_statement(FunctionCallInfo fcinfo)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	InsertState *state;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_INSTEAD(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_INSERT(trigger->tg_event) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("topics.insert_record() must be fired instead of INSERT, for each row")));

	state = MemoryContextAlloc(fcinfo->flinfo->fn_mcxt, sizeof(InsertState));
	state->topic = topics_insert_begin(trigger->tg_relation);
	state->alone = topics_insert_calls_us_only(trigger->tg_relation);
	fcinfo->flinfo->fn_extra = state;
	return state;
}

static void
free_tuple(void *tuple)
{
	heap_freetuple(tuple);
}

/* INSTEAD OF INSERT FOR EACH ROW on every topic's view */
Datum
topics_insert(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	InsertState *state = fcinfo->flinfo->fn_extra;
	TupleTableSlot *slot;
	MemoryContextCallback *callback;

	if (state == NULL)
		state = begin_insert_statement(fcinfo);

	/* the slot that the tuple was formed from has the columns still apart */
	slot = trigger->tg_trigslot;
	slot_getallattrs(slot);
	if (!state->alone || !TTS_IS_VIRTUAL(slot))
	{
		Datum		values[Natts_view];
		bool		nulls[Natts_view];

		memcpy(values, slot->tts_values, sizeof(values));
		memcpy(nulls, slot->tts_isnull, sizeof(nulls));
		topics_insert_row(state->topic, values, nulls);
		return PointerGetDatum(heap_form_tuple(slot->tts_tupleDescriptor, values, nulls));
	}

	/*
	 * RETURNING shows the slot: the record as far as it is known, without
	 * offset.  So the slot is changed, and the tuple, which is not looked at
	 * any more, is handed back as it is: then the executor need not put
	 * another one into the slot.  But then the executor does not free the
	 * tuple, which lives as long as the statement: an INSERT of a million
	 * rows would keep them all.  So a callback frees it when the row's memory
	 * is cleared.
	 */
	topics_insert_row(state->topic, slot->tts_values, slot->tts_isnull);
	callback = palloc(sizeof(MemoryContextCallback));
	callback->func = free_tuple;
	callback->arg = trigger->tg_trigtuple;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);
	return PointerGetDatum(trigger->tg_trigtuple);
}

/* BEFORE and INSTEAD OF UPDATE OR DELETE on every topic's view */
Datum
topics_append_only(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("topics.append_only() must be called as a trigger")));
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("topic \"%s\" is append-only", RelationGetRelationName(trigger->tg_relation)),
			 errhint("Produce a new record instead; records leave a topic by retention.")));
	return (Datum) 0;
}
