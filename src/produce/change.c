/*-------------------------------------------------------------------------
 *
 * change.c
 *		Changes of any table as records of a topic: the trigger function
 *		topics.produce_change.
 *
 * The function is called after a row was changed.  It makes a JSON object of
 * the change and produces it as topics.produce() does: the object becomes a
 * record when the transaction commits, or not at all.
 *
 * The record has the row's key, so the changes of a row go to one partition, in
 * order.  An UPDATE that changes the key makes two records, the end of one row
 * under the old key and the beginning of another under the new one: a record
 * under one of the two keys alone would leave the other key's last record
 * wrong.  A TRUNCATE, which is about all keys, goes to all partitions.
 *
 * What is told is told of the table that the trigger was made on, whatever
 * partition it fires for: its name, its primary key, and columns in its order.
 * The key is the row's identity, so it is made under fixed settings
 * (fixed_text.c).
 *
 * The row becomes JSON by PostgreSQL's row_to_json, without SPI.  What is
 * known of table and trigger is looked up once per statement, and kept in the
 * function call's own memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/tupconvert.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/indexing.h"
#include "catalog/partition.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "log/log.h"
#include "produce/produce.h"

PG_FUNCTION_INFO_V1(topics_produce_change);

/* A trigger and its table, in fn_mcxt. */
typedef struct ChangeSource
{
	Oid			trigger;
	char	   *schema;			/* of the table that the trigger was made on */
	char	   *table;
	TupleConversionMap *map;	/* for a partition with another column order */
	int			nkeys;
	AttrNumber	keys[INDEX_MAX_KEYS];	/* in rows as get_row_desc has them */
	bool		key_needs_fixed_text;
	FmgrInfo	key_output;		/* of one key column */
	FmgrInfo	build_array;	/* of several: json_build_array */
} ChangeSource;

/* ----------------------------------------------------------------
 *		The trigger and its table
 * ----------------------------------------------------------------
 */

static void
report_trigger_misuse(const char *rule)
{
	ereport(ERROR,
			(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
			 errmsg("topics.produce_change() must be called %s", rule),
			 errhint("CREATE TRIGGER ... AFTER INSERT OR UPDATE OR DELETE ON ... FOR EACH ROW EXECUTE FUNCTION topics.produce_change('topic').")));
}

static TriggerData *
get_trigger_data(FunctionCallInfo fcinfo)
{
	TriggerData *data = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		report_trigger_misuse("as a trigger");
	if (!TRIGGER_FIRED_AFTER(data->tg_event))
		report_trigger_misuse("AFTER the change");
	if (TRIGGER_FIRED_BY_TRUNCATE(data->tg_event) == TRIGGER_FIRED_FOR_ROW(data->tg_event))
		report_trigger_misuse("FOR EACH ROW, or FOR EACH STATEMENT by TRUNCATE");
	if (data->tg_trigger->tgnargs < 1)
		report_trigger_misuse("with the name of a topic");
	return data;
}

/*
 * Find the table that a trigger was made on.  For the trigger of a partition
 * it is the partitioned table, which is what readers of the topic know.
 */
static Oid
find_table_of_trigger(Oid trigger, Oid relid)
{
	Relation	rel = table_open(TriggerRelationId, AccessShareLock);

	while (OidIsValid(trigger))
	{
		ScanKeyData key;
		SysScanDesc scan;
		HeapTuple	tuple;

		ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ,
					ObjectIdGetDatum(trigger));
		scan = systable_beginscan(rel, TriggerOidIndexId, true, NULL, 1, &key);
		tuple = systable_getnext(scan);
		trigger = InvalidOid;
		if (HeapTupleIsValid(tuple))
		{
			relid = ((Form_pg_trigger) GETSTRUCT(tuple))->tgrelid;
			trigger = ((Form_pg_trigger) GETSTRUCT(tuple))->tgparentid;
		}
		systable_endscan(scan);
	}
	table_close(rel, AccessShareLock);
	return relid;
}

/*
 * Arrange the columns of a table as they stand in the one that the trigger was
 * made on.  Return NULL if they do.  That table is not locked, since a session
 * that changes it may wait for our lock on the partition; this one keeps
 * columns from being renamed.
 */
static TupleConversionMap *
arrange_columns(Relation rel, Oid table)
{
	TupleDesc	desc = RelationGetDescr(rel);
	TupleDesc	arranged;
	AttrNumber *order = palloc(desc->natts * sizeof(AttrNumber));
	int			count = 0;
	bool		in_order = true;
	char	   *name;

	if (table == RelationGetRelid(rel))
		return NULL;
	for (AttrNumber i = 1; (name = get_attname(table, i, true)) != NULL; i++)
	{
		AttrNumber	attnum = get_attnum(RelationGetRelid(rel), name);

		if (attnum == InvalidAttrNumber)
			continue;			/* dropped */
		in_order &= count == 0 || attnum > order[count - 1];
		order[count++] = attnum;
	}
	if (in_order)
		return NULL;
	arranged = CreateTemplateTupleDesc(count);
	for (int i = 0; i < count; i++)
		TupleDescCopyEntry(arranged, i + 1, desc, order[i]);
	return convert_tuples_by_name(desc, BlessTupleDesc(arranged));
}

/* Return the columns of rows as arrange_row returns them. */
static TupleDesc
get_row_desc(const ChangeSource *source, Relation rel)
{
	return source->map ? source->map->outdesc : RelationGetDescr(rel);
}

static HeapTuple
arrange_row(const ChangeSource *source, HeapTuple row)
{
	return source->map ? execute_attr_map_tuple(row, source->map) : row;
}

static void
add_key_column(ChangeSource *source, AttrNumber attnum)
{
	if (source->nkeys == INDEX_MAX_KEYS)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_COLUMNS),
				 errmsg("too many key columns for changes of table \"%s\"", source->table),
				 errdetail("At most %d are possible.", INDEX_MAX_KEYS)));
	source->keys[source->nkeys++] = attnum;
}

/* Take the columns that the trigger names as those of the key. */
static void
find_named_columns(ChangeSource *source, TupleDesc desc, Trigger *trigger)
{
	for (int arg = 1; arg < trigger->tgnargs; arg++)
	{
		AttrNumber	attnum = desc->natts;

		while (attnum > 0 && (TupleDescAttr(desc, attnum - 1)->attisdropped ||
							  namestrcmp(&TupleDescAttr(desc, attnum - 1)->attname,
										 trigger->tgargs[arg]) != 0))
			attnum--;
		if (attnum == 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of relation \"%s\" does not exist",
							trigger->tgargs[arg], source->table),
					 errdetail("Trigger \"%s\" names it as a key column.", trigger->tgname)));
		add_key_column(source, attnum);
	}
}

/*
 * Return true if the primary key of "rel" is that of "table", a partitioned
 * table above it.  A partition's own would not tell its rows from those of
 * others.
 */
static bool
shares_primary_key(Relation rel, Oid table)
{
	Oid			index = rel->rd_pkindex;

	while (IndexGetRelation(index, false) != table)
	{
		if (!get_rel_relispartition(index))
			return false;
		index = get_partition_parent(index, true);
	}
	return true;
}

/* Take the primary key's columns, in the table's order. */
static void
find_primary_key(ChangeSource *source, Relation rel, Oid table)
{
	TupleDesc	desc = get_row_desc(source, rel);
	Bitmapset  *columns = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_PRIMARY_KEY);

	if (bms_is_empty(columns) || !shares_primary_key(rel, table))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no primary key", source->table),
				 errdetail("Records of its changes need a key, to stay in order."),
				 errhint("Name the columns of another key as further arguments of topics.produce_change().")));
	for (AttrNumber i = 1; i <= desc->natts; i++)
	{
		AttrNumber	attnum = source->map ? source->map->attrMap->attnums[i - 1] : i;

		if (bms_is_member(attnum - FirstLowInvalidHeapAttributeNumber, columns))
			add_key_column(source, i);
	}
}

/* Look up how key columns become text. */
static void
prepare_key_output(ChangeSource *source, TupleDesc desc, MemoryContext cxt)
{
	List	   *args = NIL;

	for (int i = 0; i < source->nkeys; i++)
		source->key_needs_fixed_text |=
			topics_fixed_text_is_needed(TupleDescAttr(desc, source->keys[i] - 1)->atttypid);
	if (source->nkeys == 1)
	{
		Oid			function;
		bool		is_varlena;

		getTypeOutputInfo(TupleDescAttr(desc, source->keys[0] - 1)->atttypid, &function, &is_varlena);
		fmgr_info_cxt(function, &source->key_output, cxt);
		return;
	}

	/* json_build_array asks its call expression for the arguments' types */
	for (int i = 0; i < source->nkeys; i++)
	{
		Param	   *param = makeNode(Param);

		param->paramkind = PARAM_EXTERN;
		param->paramid = i + 1;
		param->paramtype = TupleDescAttr(desc, source->keys[i] - 1)->atttypid;
		param->paramtypmod = -1;
		param->location = -1;
		args = lappend(args, param);
	}
	fmgr_info_cxt(F_JSON_BUILD_ARRAY_ANY, &source->build_array, cxt);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_JSON_BUILD_ARRAY_ANY, JSONOID, args,
											 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL),
					   &source->build_array);
}

/* Look up the trigger and its table, once in a statement. */
static ChangeSource *
get_change_source(FunctionCallInfo fcinfo, TriggerData *data)
{
	ChangeSource *source = fcinfo->flinfo->fn_extra;
	Relation	rel = data->tg_relation;
	MemoryContext old;
	Oid			relid;

	if (source && source->trigger == data->tg_trigger->tgoid)
		return source;

	old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	source = palloc0(sizeof(ChangeSource));
	relid = RelationGetRelid(rel);
	if (data->tg_trigger->tgisclone)
		relid = find_table_of_trigger(data->tg_trigger->tgoid, relid);
	source->schema = get_namespace_name(get_rel_namespace(relid));
	source->table = get_rel_name(relid);
	if (TRIGGER_FIRED_FOR_ROW(data->tg_event))
	{
		source->map = arrange_columns(rel, relid);
		if (data->tg_trigger->tgnargs > 1)
			find_named_columns(source, get_row_desc(source, rel), data->tg_trigger);
		else
			find_primary_key(source, rel, relid);
		prepare_key_output(source, get_row_desc(source, rel), fcinfo->flinfo->fn_mcxt);
	}
	source->trigger = data->tg_trigger->tgoid;
	fcinfo->flinfo->fn_extra = source;
	MemoryContextSwitchTo(old);
	return source;
}

/* ----------------------------------------------------------------
 *		Key and value
 * ----------------------------------------------------------------
 */

/* Return true if the key of both rows is the same, to the last bit. */
static bool
has_same_key(const ChangeSource *source, TupleDesc desc, HeapTuple a, HeapTuple b)
{
	for (int i = 0; i < source->nkeys; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, source->keys[i] - 1);
		bool		a_isnull;
		bool		b_isnull;
		Datum		a_value = heap_getattr(a, source->keys[i], desc, &a_isnull);
		Datum		b_value = heap_getattr(b, source->keys[i], desc, &b_isnull);

		if (a_isnull != b_isnull ||
			(!a_isnull && !datum_image_eq(a_value, b_value, att->attbyval, att->attlen)))
			return false;
	}
	return true;
}

/*
 * Convert text to the base type of a column; if it holds bytes, these are
 * UTF-8.
 */
static Datum
convert_text(TopicColumn *column, char *text)
{
	if (column->base_type == BYTEAOID)
	{
		text = pg_server_to_any(text, strlen(text), PG_UTF8);

		return topics_produce_convert_to_base(column, BYTEAOID, PointerGetDatum(cstring_to_text(text)));
	}
	return topics_produce_convert_to_base(column, TEXTOID, PointerGetDatum(cstring_to_text(text)));
}

/* Print the key of several columns: a JSON array of their values. */
static char *
print_array_key(ChangeSource *source, TupleDesc desc, HeapTuple row)
{
	LOCAL_FCINFO(call, INDEX_MAX_KEYS);

	InitFunctionCallInfoData(*call, &source->build_array, source->nkeys, InvalidOid, NULL, NULL);
	for (int i = 0; i < source->nkeys; i++)
		call->args[i].value = heap_getattr(row, source->keys[i], desc, &call->args[i].isnull);
	return TextDatumGetCString(FunctionCallInvoke(call));
}

/* Return true if the key is the value of one column, as it is. */
static bool
key_needs_no_text(const TopicColumn *column, const ChangeSource *source, TupleDesc desc)
{
	return source->nkeys == 1 && column->base_typmod < 0 &&
		getBaseType(TupleDescAttr(desc, source->keys[0] - 1)->atttypid) == column->base_type;
}

/*
 * Set the key of a row.  The settings are fixed while text is made and read.
 * The check of a domain runs under the session's own, as anywhere: its
 * functions may need search_path.
 */
static void
set_key(Topic *topic, ChangeSource *source, TupleDesc desc, HeapTuple row, RecordDraft *draft)
{
	TopicColumn *column = &topic->key;

	if (source->nkeys == 1)
		draft->key = heap_getattr(row, source->keys[0], desc, &draft->key_isnull);
	if (draft->key_isnull)
	{
		topics_produce_check_null(topic, column);
		return;
	}
	if (!key_needs_no_text(column, source, desc))
	{
		int			guc_level = topics_fixed_text_begin(source->key_needs_fixed_text ||
														column->needs_fixed_text);
		char	   *text = source->nkeys == 1 ?
			OutputFunctionCall(&source->key_output, draft->key) :
			print_array_key(source, desc, row);

		draft->key = convert_text(column, text);
		topics_fixed_text_end(guc_level);
	}
	topics_produce_check_value(topic, column, draft->key);
}

static void
append_row_json(StringInfo json, TupleDesc desc, HeapTuple row)
{
	if (row == NULL)
		appendStringInfoString(json, "null");
	else
	{
		Datum		as_text = DirectFunctionCall1(row_to_json, heap_copy_tuple_as_datum(row, desc));

		appendBinaryStringInfo(json, VARDATA_ANY(DatumGetPointer(as_text)),
							   VARSIZE_ANY_EXHDR(DatumGetPointer(as_text)));
	}
}

static char *
build_change_json(const ChangeSource *source, const char *op, TupleDesc desc, HeapTuple old, HeapTuple new)
{
	StringInfoData json;
	char		time[MAXDATELEN + 1];

	JsonEncodeDateTime(time, TimestampTzGetDatum(GetCurrentTransactionStartTimestamp()),
					   TIMESTAMPTZOID, NULL);
	initStringInfo(&json);
	appendStringInfo(&json, "{\"op\":\"%s\",\"schema\":", op);
	escape_json(&json, source->schema);
	appendStringInfoString(&json, ",\"table\":");
	escape_json(&json, source->table);
	appendStringInfo(&json, ",\"time\":\"%s\",\"old\":", time);
	append_row_json(&json, desc, old);
	appendStringInfoString(&json, ",\"new\":");
	append_row_json(&json, desc, new);
	appendStringInfoChar(&json, '}');
	return json.data;
}

/* ----------------------------------------------------------------
 *		Produce
 * ----------------------------------------------------------------
 */

static void
set_value(Topic *topic, char *json, RecordDraft *draft)
{
	draft->value = convert_text(&topic->value, json);
	topics_produce_check_value(topic, &topic->value, draft->value);
}

/* Produce the change of a row, under the key of one of its versions. */
static void
produce_row_change(Topic *topic, ChangeSource *source, TupleDesc desc, const char *op,
				   HeapTuple old, HeapTuple new)
{
	RecordDraft draft = {0};

	Assert(old != NULL || new != NULL);
	set_key(topic, source, desc, new ? new : old, &draft);
	set_value(topic, build_change_json(source, op, desc, old, new), &draft);
	draft.headers_isnull = true;
	draft.create_time = GetCurrentTimestamp();
	topics_produce_record(topic, &draft, false, NULL);

	/* the latest record of a key that is no more: Kafka's tombstone */
	if (new == NULL && topic->settings.compact)
	{
		topics_produce_check_null(topic, &topic->value);
		draft.value_isnull = true;
		topics_produce_record(topic, &draft, false, NULL);
	}
}

/* Produce a TRUNCATE, in its place among the changes of each partition. */
static void
produce_truncate(Topic *topic, ChangeSource *source)
{
	RecordDraft draft = {0};

	topics_produce_check_null(topic, &topic->key);
	draft.key_isnull = draft.headers_isnull = true;
	set_value(topic, build_change_json(source, "TRUNCATE", NULL, NULL, NULL), &draft);
	draft.create_time = GetCurrentTimestamp();
	for (draft.partition = 0; draft.partition < topic->partitions; draft.partition++)
		topics_produce_record(topic, &draft, true, NULL);
}

/* Produce what has fired the trigger for a row. */
static void
produce_event(Topic *topic, ChangeSource *source, TriggerData *data)
{
	TupleDesc	desc = get_row_desc(source, data->tg_relation);
	HeapTuple	row = arrange_row(source, data->tg_trigtuple);
	HeapTuple	new;

	if (TRIGGER_FIRED_BY_INSERT(data->tg_event))
	{
		produce_row_change(topic, source, desc, "INSERT", NULL, row);
		return;
	}
	if (TRIGGER_FIRED_BY_DELETE(data->tg_event))
	{
		produce_row_change(topic, source, desc, "DELETE", row, NULL);
		return;
	}
	new = arrange_row(source, data->tg_newtuple);
	if (has_same_key(source, desc, row, new))
		produce_row_change(topic, source, desc, "UPDATE", row, new);
	else
	{
		produce_row_change(topic, source, desc, "DELETE", row, NULL);
		produce_row_change(topic, source, desc, "INSERT", NULL, new);
	}
}

/* produce_change('topic' [, key column, ...]): AFTER trigger of any table */
Datum
topics_produce_change(PG_FUNCTION_ARGS)
{
	TriggerData *data = get_trigger_data(fcinfo);
	ChangeSource *source;
	Topic	   *topic;

	topics_settings_require_preload();
	topics_produce_check_context("topics.produce_change()");
	topic = topics_catalog_lookup(data->tg_trigger->tgargs[0], false);
	topics_catalog_require(topic, ACL_INSERT);
	topics_catalog_require_not_internal(topic);
	source = get_change_source(fcinfo, data);

	if (TRIGGER_FIRED_BY_TRUNCATE(data->tg_event))
		produce_truncate(topic, source);
	else
		produce_event(topic, source, data);
	return PointerGetDatum(NULL);
}
