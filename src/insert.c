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
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "utils/builtins.h"
#include "utils/rel.h"

#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_insert);
PG_FUNCTION_INFO_V1(topics_append_only);

/* Columns of a topic's view, in the order of a record. */
enum
{
	Anum_view_partition = 1,
	Anum_view_offset,
	Anum_view_timestamp,
	Anum_view_key,
	Anum_view_value,
	Anum_view_headers,
	Natts_view = Anum_view_headers
};

/* The view may have been replaced by its owner; its columns must stand. */
static void
check_view(Topic *topic, Relation view)
{
	static const AttrNumber log_columns[] = {
		Anum_log_partition, Anum_log_offset, Anum_log_timestamp,
		Anum_log_key, Anum_log_value, Anum_log_headers
	};
	TupleDesc	desc = RelationGetDescr(view);

	for (int i = 0; i < Natts_view; i++)
		if (desc->natts != Natts_view || TupleDescAttr(desc, i)->atttypid !=
			TupleDescAttr(topic->tupdesc, log_columns[i] - 1)->atttypid)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("view of topic \"%s\" has not the columns of the topic",
							NameStr(topic->name))));
}

/* INSTEAD OF INSERT FOR EACH ROW on every topic's view */
Datum
topics_insert(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	Relation	view;
	Topic	   *topic;
	RecordDraft draft;
	Datum		values[Natts_view];
	bool		nulls[Natts_view];

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_INSTEAD(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_INSERT(trigger->tg_event) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("topics.insert_record() must be fired instead of INSERT, for each row")));

	view = trigger->tg_relation;
	topics_require_preload();
	topic = topics_catalog_get(RelationGetRelid(view), false);
	if (fcinfo->flinfo->fn_extra != topic)
	{
		topics_produce_check_context("INSERT into a topic");
		topics_catalog_require_not_internal(topic);
		check_view(topic, view);
		fcinfo->flinfo->fn_extra = topic;
	}

	heap_deform_tuple(trigger->tg_trigtuple, RelationGetDescr(view), values, nulls);
	if (!nulls[Anum_view_offset - 1])
		ereport(ERROR,
				(errcode(ERRCODE_GENERATED_ALWAYS),
				 errmsg("cannot insert a value into column \"offset\""),
				 errdetail("Offsets are assigned when the transaction commits.")));

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
		topics_produce_headers(values[Anum_view_headers - 1]);
	/* COPY and INSERT leave the NULL of a missing column unchecked */
	if (draft.key_isnull)
		topics_produce_check_null(topic, &topic->key);
	if (draft.value_isnull)
		topics_produce_check_null(topic, &topic->value);
	draft.partition = topics_produce_record(topic, &draft, !nulls[Anum_view_partition - 1]);

	/*
	 * What RETURNING shows: the record as far as it is known, without offset.
	 * It is a new tuple in any case: the executor frees the one that it gave
	 * us only if it gets another one back, and COPY of a million rows would
	 * keep them all.
	 */
	values[Anum_view_partition - 1] = Int32GetDatum(draft.partition);
	values[Anum_view_timestamp - 1] = TimestampTzGetDatum(draft.create_time);
	nulls[Anum_view_partition - 1] = false;
	nulls[Anum_view_timestamp - 1] = topic->settings.log_append_time;
	values[Anum_view_headers - 1] = draft.headers;
	return PointerGetDatum(heap_form_tuple(RelationGetDescr(view), values, nulls));
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
