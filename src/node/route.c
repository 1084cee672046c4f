/*-------------------------------------------------------------------------
 *
 * route.c
 *		Where a client finds the leader of a record's partition.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "funcapi.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "base/base.h"
#include "log/log.h"
#include "produce/produce.h"
#include "node/node.h"

PG_FUNCTION_INFO_V1(topics_route);

/* Arguments, and columns of the result */
enum
{
	ROUTE_TOPIC,
	ROUTE_KEY
};

enum
{
	ROUTE_PARTITION,
	ROUTE_LEADER,
	ROUTE_ADVERTISED,
	ROUTE_IS_SELF,
	ROUTE_COLUMNS
};

/* Get what clients are told of the node that leads, or NULL. */
static char *
get_leader_address(const ClusterRow *row)
{
	const MetadataNode *self;

	if (!row->leads)
		return row->leader_advertised;
	self = topics_metadata_find_node(row->leader);
	return self ? self->advertised : NULL;
}

/*
 * Choose the leader set of a record: without a key it goes to a partition that
 * is led here, if any is.
 */
static int
choose_set(const Topic *topic, int32 partition, bool has_no_key)
{
	for (int32 number = 0; has_no_key && number < topic->partitions; number++)
		if (!topics_cluster_follows(topics_leader_set_of(&topic->leader_sets, number)))
			return topics_leader_set_of(&topic->leader_sets, number);
	return topics_leader_set_of(&topic->leader_sets, partition);
}

/* route(topic, key): the key's partition, and who leads it */
Datum
topics_route(PG_FUNCTION_ARGS)
{
	Topic	   *topic = topics_catalog_lookup(topics_argument_get_text(fcinfo, ROUTE_TOPIC), false);
	Datum		values[ROUTE_COLUMNS];
	bool		nulls[ROUTE_COLUMNS] = {false};
	TupleDesc	tupdesc;
	int32		partition = 0;
	int			set;
	ClusterRow	row;
	bool		in_cluster;
	char	   *address;

	topics_settings_require_preload();
	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (!topics_catalog_may_see(topic))
		topics_catalog_require(topic, ACL_INSERT);
	nulls[ROUTE_PARTITION] = PG_ARGISNULL(ROUTE_KEY);
	if (!nulls[ROUTE_PARTITION])
		partition = topics_produce_partition_of(topic, PG_GETARG_TEXT_PP(ROUTE_KEY));
	values[ROUTE_PARTITION] = Int32GetDatum(partition);
	set = choose_set(topic, partition, PG_ARGISNULL(ROUTE_KEY));
	in_cluster = topics_cluster_read_row_of(set, &row);
	address = in_cluster ? get_leader_address(&row) : NULL;
	nulls[ROUTE_LEADER] = !in_cluster;
	if (in_cluster)
		values[ROUTE_LEADER] = CStringGetTextDatum(row.leader);
	nulls[ROUTE_ADVERTISED] = address == NULL;
	if (address)
		values[ROUTE_ADVERTISED] = CStringGetTextDatum(address);
	values[ROUTE_IS_SELF] = BoolGetDatum(!in_cluster || row.leads);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}
