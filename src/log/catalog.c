/*-------------------------------------------------------------------------
 *
 * catalog.c
 *		Topics by name: the catalogue, a cache of it, and rights.
 *
 * A topic is a view in the schema "topic"; its row in topic_log.topic refers
 * to the view and holds the id, which names the log tables, and the settings.
 * The view is the one place for the topic's name, owner and rights, so that
 * ALTER, GRANT and pg_dump are PostgreSQL's own.
 *
 * The cache is keyed by the view's OID and follows relcache invalidation of
 * the view: whatever changes a topic's row invalidates the view as well
 * (topic.c).  Entries are freed between two transactions, so a pointer to one
 * stays valid until its transaction has ended: those that are not valid any
 * more, as those of dropped topics, and all if they are too many.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "pg_topics.h"

/* Columns of topic_log.topic */
enum
{
	Anum_topic_id = 1,
	Anum_topic_view,
	Anum_topic_partitions,
	Anum_topic_first_setting	/* and the others (topic_setting.c) */
};

#define Anum_topic_notify_key (Anum_topic_first_setting + topics_topic_setting_count())
#define Anum_topic_leader_sets (Anum_topic_notify_key + 1)

#define FIRST_TOPICS 64			/* room for as many in the cache at first */
#define MAX_TOPICS 256			/* in the cache from one transaction to the
								 * next; 3 kB each */

static HTAB *cache = NULL;
static Topic *all_topics = NULL;	/* in the cache */
static bool may_sweep = false;	/* a transaction has ended since the last time */
static bool has_invalid = false;	/* there are entries that are not valid */

/* ----------------------------------------------------------------
 *		The cache
 * ----------------------------------------------------------------
 */

static void
invalidate_topic(Topic *topic)
{
	topic->valid = false;
	topic->changes++;
	has_invalid = true;
}

/* Called for each relcache invalidation.  Raises nothing. */
static void
invalidate_relation(Datum arg, Oid relid)
{
	Topic	   *topic;

	if (cache == NULL)
		return;
	if (OidIsValid(relid))
	{
		topic = hash_search(cache, &relid, HASH_FIND, NULL);
		if (topic)
			invalidate_topic(topic);
		return;
	}
	for (topic = all_topics; topic != NULL; topic = topic->next)
		invalidate_topic(topic);
}

/*
 * Free entries that are not needed any more.  The transaction has not met any
 * of them, and what the last one did with them is done.
 */
static void
sweep_cache(void)
{
	Topic	   *next = all_topics;
	bool		all = hash_get_num_entries(cache) > MAX_TOPICS;

	may_sweep = false;
	if (!all && !has_invalid)
		return;
	all_topics = NULL;
	while (next != NULL)
	{
		Topic	   *topic = next;

		next = topic->next;
		if (topic->valid && !all)
		{
			topic->next = all_topics;
			all_topics = topic;
			continue;
		}
		if (topic->cxt)
			MemoryContextDelete(topic->cxt);
		(void) hash_search(cache, &topic->view_relid, HASH_REMOVE, NULL);
	}
	has_invalid = false;
}

/*
 * The transaction ends: nobody has a pointer to an entry when the next begins.
 */
void
topics_catalog_forget_transaction(void)
{
	may_sweep = cache != NULL;
}

/* Find the entry of a view in the cache, or make one. */
static Topic *
enter_topic(Oid view_relid)
{
	Topic	   *topic;
	bool		found;

	if (may_sweep)
		sweep_cache();
	if (cache == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = sizeof(Oid);
		ctl.entrysize = sizeof(Topic);
		cache = hash_create("pg_topics topics", FIRST_TOPICS, &ctl, HASH_ELEM | HASH_BLOBS);
		CacheRegisterRelcacheCallback(invalidate_relation, (Datum) 0);
	}
	topic = hash_search(cache, &view_relid, HASH_ENTER, &found);
	if (!found)
	{
		memset((char *) topic + sizeof(Oid), 0, sizeof(Topic) - sizeof(Oid));
		topic->next = all_topics;
		all_topics = topic;
		has_invalid = true;		/* it need not become a topic's */
	}
	return topic;
}

static void
load_column(TopicColumn *column, Form_pg_attribute att, MemoryContext cxt)
{
	Oid			function;
	bool		is_varlena;

	column->type = att->atttypid;
	column->typmod = att->atttypmod;
	column->base_typmod = att->atttypmod;
	column->base_type = getBaseTypeAndTypmod(att->atttypid, &column->base_typmod);
	column->typlen = att->attlen;
	column->typbyval = att->attbyval;
	column->typalign = att->attalign;
	column->needs_fixed_text = topics_fixed_text_is_needed(column->base_type);
	column->domain_extra = NULL;
	getTypeInputInfo(column->base_type, &function, &column->ioparam);
	fmgr_info_cxt(function, &column->input, cxt);
	getTypeOutputInfo(column->type, &function, &is_varlena);
	fmgr_info_cxt(function, &column->output, cxt);
}

/* Load the leader sets that a topic's row has. */
static void
load_leader_sets(LeaderSets *result, Datum sets)
{
	ArrayType  *array = DatumGetArrayTypeP(sets);
	Datum	   *values;
	int			count;

	deconstruct_array(array, INT4OID, sizeof(int32), true, TYPALIGN_INT, &values, NULL, &count);
	result->count = Min(count, MAX_TOPIC_SETS);
	for (int i = 0; i < result->count; i++)
	{
		int32		set = DatumGetInt32(values[i]);

		result->sets[i] = set < METADATA_SET || set >= MAX_LEADER_SETS ? METADATA_SET : set;
	}
	pfree(values);
}

/* Read the row of a view.  Return false if the view is no topic. */
static bool
load_topic_row(Topic *topic, int32 *partitions)
{
	Oid			namespace = topics_extension_find_log_schema();
	Oid			relid = OidIsValid(namespace) ? get_relname_relid("topic", namespace) : InvalidOid;
	Relation	rel = OidIsValid(relid) ? try_relation_open(relid, AccessShareLock) : NULL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (rel == NULL)
		return false;			/* a database without the extension */
	ScanKeyInit(&key, Anum_topic_view, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(topic->view_relid));
	scan = systable_beginscan(rel, get_relname_relid("topic_view_key", namespace), true,
							  NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		char		root[NAMEDATALEN];

		topic->topic_id = DatumGetInt64(heap_getattr(tuple, Anum_topic_id,
													 RelationGetDescr(rel), &isnull));
		*partitions = DatumGetInt32(heap_getattr(tuple, Anum_topic_partitions,
												 RelationGetDescr(rel), &isnull));
		topic->notify_key = *DatumGetUUIDP(heap_getattr(tuple, Anum_topic_notify_key,
														RelationGetDescr(rel), &isnull));
		topics_topic_setting_read_row(&topic->settings, tuple, RelationGetDescr(rel),
									  Anum_topic_first_setting);
		load_leader_sets(&topic->leader_sets, heap_getattr(tuple, Anum_topic_leader_sets,
														   RelationGetDescr(rel), &isnull));
		snprintf(root, sizeof(root), "t" INT64_FORMAT, topic->topic_id);
		topic->root_relid = get_relname_relid(root, namespace);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return HeapTupleIsValid(tuple) && OidIsValid(topic->root_relid);
}

/*
 * Make the descriptor of a log's records, from the columns of its root, in
 * "cxt".  NULL: it is gone, or was altered (broken_topic.c).  Without a lock
 * on the root: a session that waited for a DROP TOPIC here would get nothing
 * but an error, and log tables' columns never change.  And without its entry
 * in the relation cache, which cannot be built while the DROP commits.
 */
static TupleDesc
make_descriptor(Oid root, MemoryContext cxt)
{
	CatCList   *columns = SearchSysCacheList1(ATTNUM, ObjectIdGetDatum(root));
	Form_pg_attribute attributes[Natts_log];
	TupleDesc	result = NULL;
	int			count = 0;

	for (int i = 0; i < columns->n_members; i++)
	{
		Form_pg_attribute attribute = (Form_pg_attribute) GETSTRUCT(&columns->members[i]->tuple);

		if (attribute->attnum > Natts_log)
			count = Natts_log + 1;
		if (attribute->attnum < 1 || attribute->attnum > Natts_log)
			continue;
		attributes[attribute->attnum - 1] = attribute;
		count++;
	}
	if (count == Natts_log)
	{
		MemoryContext old = MemoryContextSwitchTo(cxt);
		TupleDesc	described = CreateTupleDesc(Natts_log, attributes);

		/* without what is a table's alone */
		result = CreateTupleDescCopy(described);
		FreeTupleDesc(described);
		MemoryContextSwitchTo(old);
	}
	ReleaseSysCacheList(columns);
	return result;
}

/* Fill the cache's entry of a topic.  Return false if it cannot be used. */
static bool
load_entry(Topic *topic)
{
	char	   *name = get_rel_name(topic->view_relid);
	int32		partitions;

	if (name == NULL || !load_topic_row(topic, &partitions))
		return false;
	topics_extension_check_version();
	namestrcpy(&topic->name, name);

	/* a caller up the stack may be using what the old context holds */
	if (topic->cxt)
		MemoryContextSetParent(topic->cxt, TopTransactionContext);
	topic->cxt = AllocSetContextCreate(CacheMemoryContext, "pg_topics topic",
									   ALLOCSET_SMALL_SIZES);
	topic->partitions = 0;		/* should an allocation fail */
	topic->partition_relids = MemoryContextAllocZero(topic->cxt, sizeof(Oid) * partitions);
	topic->partition_states = MemoryContextAllocZero(topic->cxt,
													 sizeof(PartitionState *) * partitions);
	topic->destinations = MemoryContextAllocZero(topic->cxt,
												 sizeof(Destination *) * partitions);
	topic->partitions = partitions;

	topic->tupdesc = make_descriptor(topic->root_relid, topic->cxt);
	if (topic->tupdesc == NULL)
	{
		topic->partitions = 0;
		return false;
	}
	load_column(&topic->key, TupleDescAttr(topic->tupdesc, Anum_log_key - 1), topic->cxt);
	load_column(&topic->value, TupleDescAttr(topic->tupdesc, Anum_log_value - 1), topic->cxt);
	for (int32 number = 0; topic->leader_sets.count > 0 && number < partitions; number++)
	{
		TopicPartition id = {MyDatabaseId, number, topic->topic_id};

		topics_partition_state_note_set(&id, topics_leader_set_of(&topic->leader_sets, number));
	}
	return true;
}

/*
 * Get the topic whose view has this OID.  With missing_ok, return NULL if there
 * is none (any more).
 */
Topic *
topics_catalog_get(Oid view_relid, bool missing_ok)
{
	Topic	   *topic = enter_topic(view_relid);

	while (!topic->valid)
	{
		uint32		changes = topic->changes;

		if (!load_entry(topic))
			break;

		/*
		 * An invalidation that arrives while loading makes us load again; not
		 * those of debug_discard_caches, as in segment.c's get_descriptor.
		 */
		topic->valid = changes == topic->changes || debug_discard_caches > 0;
	}

	if (topic->valid)
		return topic;
	if (!missing_ok)
	{
		char	   *name = get_rel_name(view_relid);

		if (name && get_rel_namespace(view_relid) == get_namespace_oid(TOPIC_SCHEMA, true))
			topics_broken_topic_report_other(name);
		ereport(ERROR,
				(errcode(name ? ERRCODE_WRONG_OBJECT_TYPE : ERRCODE_UNDEFINED_OBJECT),
				 name ? errmsg("\"%s\" is not a topic", name) : errmsg("the topic was dropped")));
	}
	return NULL;
}

/* Look a topic up by its name; see struct Topic for how long it is good. */
Topic *
topics_catalog_lookup(const char *name, bool missing_ok)
{
	Oid			namespace;
	Oid			view_relid = InvalidOid;
	Topic	   *topic = NULL;

	topics_settings_require_preload();

	/* what others did, say REVOKE or DROP, holds from the next call on */
	AcceptInvalidationMessages();

	namespace = get_namespace_oid(TOPIC_SCHEMA, true);
	if (OidIsValid(namespace) && strlen(name) < NAMEDATALEN)
		view_relid = get_relname_relid(name, namespace);
	if (OidIsValid(view_relid))
		topic = topics_catalog_get(view_relid, true);
	if (topic == NULL && OidIsValid(view_relid) && !missing_ok)
		topics_broken_topic_report_other(name);
	if (topic == NULL && !missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("topic \"%s\" does not exist", name),
				 errhint("The view topics.topic lists the topics that you may read.")));
	return topic;
}

/*
 * Open and lock the table of topics, or return NULL if the extension was
 * dropped meanwhile.
 */
static Relation
open_topic_table(void)
{
	Oid			before = InvalidOid;

	for (;;)
	{
		Oid			namespace = get_namespace_oid(TOPIC_LOG_SCHEMA, true);
		Oid			relid = OidIsValid(namespace) ? get_relname_relid("topic", namespace) : InvalidOid;
		Relation	rel = OidIsValid(relid) ? try_relation_open(relid, AccessShareLock) : NULL;

		if (rel != NULL || !topics_extension_exists())
			return rel;
		/* dropped and made again, or else the catalogue is damaged */
		if (relid == before)
			return table_open(relid, AccessShareLock);
		before = relid;
	}
}

/* Look up the view of the topic with an id, or InvalidOid. */
Oid
topics_catalog_view_of(int64 topic_id)
{
	Relation	rel = open_topic_table();
	Oid			view_relid = InvalidOid;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (rel == NULL)
		return InvalidOid;
	ScanKeyInit(&key, Anum_topic_id, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(topic_id));
	scan = systable_beginscan(rel, get_relname_relid("topic_pkey", RelationGetNamespace(rel)),
							  true, NULL, 1, &key);
	if (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;

		view_relid = DatumGetObjectId(heap_getattr(tuple, Anum_topic_view,
												   RelationGetDescr(rel), &isnull));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return view_relid;
}

/* Find the topic with an id in the cache, as it is now, or return NULL. */
static Topic *
find_cached_topic(int64 topic_id)
{
	AcceptInvalidationMessages();
	for (const Topic *cached = all_topics; cached != NULL; cached = cached->next)
	{
		if (cached->valid && cached->topic_id == topic_id)
		{
			Topic	   *topic = topics_catalog_get(cached->view_relid, true);

			return topic && topic->topic_id == topic_id ? topic : NULL;
		}
	}
	return NULL;
}

/* Get the topic with an id, or NULL. */
Topic *
topics_catalog_by_id(int64 topic_id)
{
	Topic	   *topic = find_cached_topic(topic_id);
	Oid			view_relid;

	if (topic)
		return topic;
	view_relid = topics_catalog_view_of(topic_id);
	return OidIsValid(view_relid) ? topics_catalog_get(view_relid, true) : NULL;
}

/*
 * The state of a partition of which the caller may know no more than the id,
 * made if need be.  The caller has a lock as for topics_partition_state_get.
 */
PartitionState *
topics_catalog_get_state(const TopicPartition *id)
{
	PartitionState *state = topics_partition_state_find(id);
	Topic	   *topic;

	if (state)
		return state;
	/* while a dump is restored it may not be there yet */
	topic = topics_catalog_by_id(id->topic_id);
	return topics_partition_state_get(id, topic ? topics_leader_set_of(&topic->leader_sets, id->partition) :
									  METADATA_SET);
}

/* Get the highest leader set that any topic of users' has a partition in. */
int
topics_catalog_highest_set(void)
{
	int			result = METADATA_SET;
	ListCell   *lc;

	foreach(lc, topics_catalog_list())
	{
		const Topic *topic = topics_catalog_get(lfirst_oid(lc), true);

		if (topic == NULL || topics_catalog_is_internal(NameStr(topic->name)))
			continue;
		for (int i = 0; i < topic->leader_sets.count; i++)
			result = Max(result, topic->leader_sets.sets[i]);
	}
	return result;
}

/*
 * Name a partition, or with WHOLE_TOPIC a topic, for a message.  The result is
 * palloc'd; NULL if the catalogue does not know the topic.
 */
char *
topics_catalog_describe(int64 topic_id, int32 partition)
{
	Oid			view_relid = topics_catalog_view_of(topic_id);
	char	   *name = OidIsValid(view_relid) ? get_rel_name(view_relid) : NULL;

	if (name == NULL)
		return NULL;
	return partition == WHOLE_TOPIC ? psprintf("topic \"%s\"", name) :
		psprintf("partition %d of topic \"%s\"", partition, name);
}

/*
 * Name what a log table is of, for a message: users know topics and partitions.
 * A table that is of none has its own name.  The result is palloc'd.
 */
char *
topics_catalog_describe_log(Oid relid)
{
	Oid			namespace = topics_extension_find_log_schema();
	char	   *relname = get_rel_name(relid);
	char	   *result = NULL;
	int64		topic_id;
	int32		partition;
	int64		sequence;

	if (relname == NULL)
		return pstrdup("log table");
	if (OidIsValid(namespace) && get_rel_namespace(relid) == namespace &&
		topics_log_am_parse_name(relname, &topic_id, &partition, &sequence))
		result = topics_catalog_describe(topic_id, partition < 0 ? WHOLE_TOPIC : partition);
	return result ? result : psprintf("log table \"%s\"", relname);
}

/* List the OIDs of the views of all topics of this database. */
List *
topics_catalog_list(void)
{
	Relation	rel = open_topic_table();
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *result = NIL;

	if (rel == NULL)
		return NIL;
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		view = heap_getattr(tuple, Anum_topic_view, RelationGetDescr(rel), &isnull);

		result = lappend_oid(result, DatumGetObjectId(view));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/* ----------------------------------------------------------------
 *		Partitions
 * ----------------------------------------------------------------
 */

/*
 * Raise an error: a topic that was there when the call began is no more, or
 * lacks a part.
 */
void
topics_catalog_report_dropped(const char *topic)
{
	topics_broken_topic_report_view(topic);
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("topic \"%s\" was dropped", topic)));
}

/* Raise an error unless a topic has this partition. */
void
topics_catalog_check_partition(Topic *topic, int32 partition)
{
	if (partition < 0 || partition >= topic->partitions)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("partition %d of topic \"%s\" does not exist",
						partition, NameStr(topic->name)),
				 errdetail("The topic has partitions 0 to %d.", topic->partitions - 1)));
}

/* Look up the table of a partition; InvalidOid if it is gone. */
Oid
topics_catalog_partition_relid(Topic *topic, int32 partition)
{
	Oid		   *relid = &topic->partition_relids[partition];

	Assert(partition >= 0 && partition < topic->partitions);
	if (!OidIsValid(*relid))
	{
		char		name[NAMEDATALEN];

		snprintf(name, sizeof(name), "t" INT64_FORMAT "_p%d", topic->topic_id, partition);
		*relid = get_relname_relid(name, get_namespace_oid(TOPIC_LOG_SCHEMA, false));
	}
	return *relid;
}

/*
 * Lock a topic's root, which a DROP has exclusively until all know of it.
 * Return false, and lock nothing, if the topic was dropped: its tables may be
 * there still (dropped_topic.c).
 */
static bool
lock_root(Topic *topic)
{
	LockRelationOid(topic->root_relid, AccessShareLock);
	if (topic->valid || SearchSysCacheExists1(RELOID, ObjectIdGetDatum(topic->view_relid)))
		return true;
	UnlockRelationOid(topic->root_relid, AccessShareLock);
	return false;
}

/*
 * Get the state of a partition, made if need be, or NULL if the topic was
 * dropped.  A state is made under a lock on the topic's root.  A DROP has that
 * exclusively until it has given back the states that there are, so that none
 * is made which nobody would give back.
 */
PartitionState *
topics_catalog_try_partition_state(Topic *topic, int32 partition)
{
	PartitionState **state = &topic->partition_states[partition];
	TopicPartition id = {MyDatabaseId, partition, topic->topic_id};
	bool		is_there;

	if (*state && memcmp(&(*state)->id, &id, sizeof(id)) == 0 &&
		topics_partition_state_is_current(*state))
		return *state;
	*state = topics_partition_state_find(&id);
	if (*state)
		return *state;

	if (!lock_root(topic))
		return NULL;
	is_there = OidIsValid(topics_catalog_partition_relid(topic, partition));
	if (is_there)
		*state = topics_partition_state_get(&id, topics_leader_set_of(&topic->leader_sets, partition));
	UnlockRelationOid(topic->root_relid, AccessShareLock);
	return is_there ? *state : NULL;
}

/* The same.  Raise if the topic was dropped. */
PartitionState *
topics_catalog_partition_state(Topic *topic, int32 partition)
{
	PartitionState *state = topics_catalog_try_partition_state(topic, partition);

	if (state == NULL)
		topics_catalog_report_dropped(NameStr(topic->name));
	return state;
}

/*
 * Resolve a partition that the topic has, without a lock; its table is not
 * looked for.  A caller that needs the table anyway opens it first
 * (topics_catalog_open_for_reading).
 */
Partition
topics_catalog_partition(Topic *topic, int32 partition)
{
	Partition	result = {.topic = topic,.number = partition};

	result.state = topics_catalog_partition_state(topic, partition);
	return result;
}

/*
 * Find, lock and open the table of a partition.  Return false, and lock
 * nothing, if the topic was dropped meanwhile.  The caller that goes by the
 * segments learns of them itself, at the moment that suits it.
 */
bool
topics_catalog_try_open_partition(Partition *partition, LOCKMODE mode)
{
	Assert(partition->rel == NULL);
	if (!lock_root(partition->topic))
		return false;
	partition->relid = topics_catalog_partition_relid(partition->topic, partition->number);
	if (OidIsValid(partition->relid))
		partition->rel = try_relation_open(partition->relid, mode);
	if (partition->rel == NULL)
	{
		UnlockRelationOid(partition->topic->root_relid, AccessShareLock);
		return false;
	}
	partition->locked_root = partition->topic->root_relid;
	partition->state = topics_catalog_partition_state(partition->topic, partition->number);
	return true;
}

/*
 * The same, and know its segments as they are now.  Raise if the topic was
 * dropped meanwhile.
 */
void
topics_catalog_open_partition(Partition *partition, LOCKMODE mode)
{
	if (!topics_catalog_try_open_partition(partition, mode))
		topics_catalog_report_dropped(NameStr(partition->topic->name));
	topics_segment_learn(partition);
}

/*
 * Open the table of a partition that was resolved before, and cannot have gone
 * since: the caller has a lock on the table, or on the topic's root.
 */
void
topics_catalog_reopen_partition(Partition *partition, LOCKMODE mode)
{
	Assert(partition->rel == NULL);
	partition->rel = table_open(partition->relid, mode);
}

/*
 * Close the table; with NoLock it stays locked until the transaction ends, and
 * so does the root if it was locked with it.
 */
void
topics_catalog_close_partition(Partition *partition, LOCKMODE mode)
{
	table_close(partition->rel, mode);
	partition->rel = NULL;
	if (mode != NoLock && OidIsValid(partition->locked_root))
		UnlockRelationOid(partition->locked_root, AccessShareLock);
	partition->locked_root = InvalidOid;
}

/*
 * Lock the table of a partition until the transaction ends, lest the topic be
 * gone at the commit.
 */
void
topics_catalog_hold_partition(const Partition *partition)
{
	Partition	opened = *partition;

	Assert(partition->rel == NULL);
	topics_catalog_open_partition(&opened, AccessShareLock);
	topics_catalog_close_partition(&opened, NoLock);
}

/*
 * Resolve a partition of a topic, and open its table for reading.  The state is
 * not looked up before the table is locked: until then the topic could be
 * dropped, and a state be made for a partition that there is no more.
 */
Partition
topics_catalog_open_for_reading(Topic *topic, int32 number)
{
	Partition	partition = {.topic = topic,.number = number};

	topics_catalog_check_partition(topic, number);
	topics_catalog_open_partition(&partition, AccessShareLock);
	return partition;
}

/* ----------------------------------------------------------------
 *		Rights
 * ----------------------------------------------------------------
 */

/*
 * Nothing here locks the topic's view, so a DROP may have removed it since it
 * was found: then the user has no right to it, and no error is raised.
 */

/* Return true if the current user owns the topic that has this view. */
bool
topics_catalog_owns_view(Oid view_relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(view_relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		return false;
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return has_privs_of_role(GetUserId(), owner);
}

bool
topics_catalog_is_owner(Topic *topic)
{
	return topics_catalog_owns_view(topic->view_relid);
}

/*
 * Return true if the current user may read the topic that has this view, or
 * owns it.
 */
bool
topics_catalog_may_read_view(Oid view_relid)
{
	bool		is_missing = false;

	return pg_class_aclcheck_ext(view_relid, GetUserId(), ACL_SELECT, &is_missing) == ACLCHECK_OK ||
		topics_catalog_owns_view(view_relid);
}

bool
topics_catalog_may_read(Topic *topic)
{
	return topics_catalog_may_read_view(topic->view_relid);
}

/* Return true if the current user is a superuser, or one of topics_admin. */
bool
topics_catalog_is_admin(void)
{
	return superuser() || topics_role_is_held(TOPICS_ADMIN);
}

/*
 * Return true if the current user looks after the server, or after all topics:
 * the views show such a user every topic and group, but no record.
 */
bool
topics_catalog_is_monitor(void)
{
	return topics_catalog_is_admin() || has_privs_of_role(GetUserId(), ROLE_PG_MONITOR) ||
		topics_role_is_held(TOPICS_MONITOR);
}

/* Return true if the views show the topic to the current user. */
bool
topics_catalog_may_see(Topic *topic)
{
	return topics_catalog_may_read(topic) || topics_catalog_is_monitor();
}

static void
report_denied_topic(Topic *topic)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for topic \"%s\"", NameStr(topic->name))));
}

/* Require ACL_SELECT to consume, ACL_INSERT to produce. */
void
topics_catalog_require(Topic *topic, AclMode mode)
{
	bool		is_missing = false;

	if (pg_class_aclcheck_ext(topic->view_relid, GetUserId(), mode, &is_missing) == ACLCHECK_OK)
		return;
	if (is_missing)
		topics_catalog_report_dropped(NameStr(topic->name));
	report_denied_topic(topic);
}

void
topics_catalog_require_owner(Topic *topic)
{
	if (!topics_catalog_is_owner(topic))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of topic \"%s\"", NameStr(topic->name))));
}

/* Return true if the name is one of pg_topics' own topics. */
bool
topics_catalog_is_internal(const char *name)
{
	return strncmp(name, "__", 2) == 0;
}

/* Refuse a topic of pg_topics' own, which no user changes or writes to. */
void
topics_catalog_require_not_internal(Topic *topic)
{
	if (topics_catalog_is_internal(NameStr(topic->name)))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("topic \"%s\" is internal", NameStr(topic->name)),
				 errdetail("Only pg_topics itself writes to it.")));
}
