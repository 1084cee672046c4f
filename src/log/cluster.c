/*-------------------------------------------------------------------------
 *
 * cluster.c
 *		What this node is in a cluster: the rows of topic_log.cluster.
 *
 * There is a row for each leader set.  It is this node's own: it is not
 * replicated, and not dumped.  A database without it is in no cluster, and
 * leads all its partitions.  The files of a server can be copied, and the copy
 * be started, as a standby is that is promoted: it has another timeline, or
 * system identifier, than the row says, and neither leads nor promises
 * anything until others have admitted it (node/admission.c).  node/ writes it;
 * here is what the log needs of it: whether this node leads, and the error for
 * who wants to write to what another node leads.  What the row says is told to
 * shared memory: mark_slot.c keeps it, and high_watermark.c decides what
 * commits and readers wait for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "log/log.h"
#include "pg_topics.h"

/* To who finds that no node leads. */
static const char *const no_leader_hint =
"Try again: the nodes elect one within some seconds, if most of them can be reached and pg_topics.automatic_failover is on. Otherwise topics.failover() on another node has that one lead.";

/* Columns of topic_log.cluster */
enum
{
	Anum_cluster_leader_set = 1,
	Anum_cluster_node,
	Anum_cluster_leader,
	Anum_cluster_leader_conninfo,
	Anum_cluster_leader_advertised,
	Anum_cluster_id,
	Anum_cluster_system_identifier,
	Anum_cluster_epoch,
	Anum_cluster_acks_followers,
	Anum_cluster_epoch_id,
	Anum_cluster_incarnation,
	Anum_cluster_term,
	Anum_cluster_promised_term,
	Anum_cluster_promised_to,
	Anum_cluster_voters,
	Anum_cluster_timeline,
	Anum_cluster_data_loss,
	Anum_cluster_is_removed,
	Anum_cluster_feature_level,
	Anum_cluster_change_open
};

static char *
get_text(HeapTuple tuple, TupleDesc desc, AttrNumber column)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, column, desc, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

/* Get a uuid in its text form, or "" for NULL. */
static char *
get_uuid(HeapTuple tuple, TupleDesc desc, AttrNumber column)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, column, desc, &isnull);

	return isnull ? pstrdup("") : DatumGetCString(DirectFunctionCall1(uuid_out, value));
}

/* Find the row of a leader set in a scan, or NULL. */
static HeapTuple
find_row(SysScanDesc scan, TupleDesc desc, int set)
{
	HeapTuple	tuple;
	bool		isnull;

	do
		tuple = systable_getnext(scan);
	while (HeapTupleIsValid(tuple) &&
		   DatumGetInt32(heap_getattr(tuple, Anum_cluster_leader_set, desc, &isnull)) != set);
	return tuple;
}

/*
 * Read the row of a leader set, as it is now; its texts are palloc'd.  Return
 * false if this database is in no cluster, or that has no such set.
 */
bool
topics_cluster_read_row_of(int set, ClusterRow *row)
{
	Oid			relid = get_relname_relid("cluster", topics_extension_find_log_schema());
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found;
	bool		isnull;

	memset(row, 0, sizeof(ClusterRow));
	if (!OidIsValid(relid))
		return false;
	rel = table_open(relid, AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	tuple = find_row(scan, RelationGetDescr(rel), set);
	found = HeapTupleIsValid(tuple);
	if (found)
	{
		row->node = get_text(tuple, RelationGetDescr(rel), Anum_cluster_node);
		row->leader = get_text(tuple, RelationGetDescr(rel), Anum_cluster_leader);
		row->leader_conninfo = get_text(tuple, RelationGetDescr(rel), Anum_cluster_leader_conninfo);
		row->leader_advertised = get_text(tuple, RelationGetDescr(rel),
										  Anum_cluster_leader_advertised);
		row->cluster_id = get_text(tuple, RelationGetDescr(rel), Anum_cluster_id);
		row->epoch = DatumGetInt64(heap_getattr(tuple, Anum_cluster_epoch, RelationGetDescr(rel),
												&isnull));
		row->acks_followers = DatumGetInt32(heap_getattr(tuple, Anum_cluster_acks_followers,
														 RelationGetDescr(rel), &isnull));
		row->epoch_id = get_uuid(tuple, RelationGetDescr(rel), Anum_cluster_epoch_id);
		row->incarnation = get_uuid(tuple, RelationGetDescr(rel), Anum_cluster_incarnation);
		row->term = DatumGetInt64(heap_getattr(tuple, Anum_cluster_term, RelationGetDescr(rel),
											   &isnull));
		row->promised_term = DatumGetInt64(heap_getattr(tuple, Anum_cluster_promised_term,
														RelationGetDescr(rel), &isnull));
		row->promised_to = get_text(tuple, RelationGetDescr(rel), Anum_cluster_promised_to);
		row->voters = DatumGetInt32(heap_getattr(tuple, Anum_cluster_voters, RelationGetDescr(rel),
												 &isnull));
		row->is_admitted = RecoveryInProgress() || row->voters <= 1 ||
			(DatumGetInt64(heap_getattr(tuple, Anum_cluster_system_identifier, RelationGetDescr(rel),
										&isnull)) == (int64) GetSystemIdentifier() &&
			 DatumGetInt64(heap_getattr(tuple, Anum_cluster_timeline, RelationGetDescr(rel),
										&isnull)) == GetWALInsertionTimeLine());
		row->data_loss = DatumGetBool(heap_getattr(tuple, Anum_cluster_data_loss, RelationGetDescr(rel), &isnull));
		row->is_removed = DatumGetBool(heap_getattr(tuple, Anum_cluster_is_removed,
													RelationGetDescr(rel), &isnull));
		row->feature_level = DatumGetInt32(heap_getattr(tuple, Anum_cluster_feature_level,
														RelationGetDescr(rel), &isnull));
		row->change_open = DatumGetBool(heap_getattr(tuple, Anum_cluster_change_open,
													 RelationGetDescr(rel), &isnull));
		row->leads = row->is_admitted && strcmp(row->node, row->leader) == 0;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/* Read that of the set that this process acts for. */
bool
topics_cluster_read_row(ClusterRow *row)
{
	return topics_cluster_read_row_of(topics_leader_set, row);
}

/* Read the row of a database that was found to be in a cluster. */
void
topics_cluster_require_row(ClusterRow *row)
{
	if (!topics_cluster_read_row(row))
		elog(ERROR, "this database is in no cluster any more");
}

/*
 * errdetail() of all that another node has to be asked for, with Kafka's name.
 */
static int
report_leader(const ClusterRow *row)
{
	if (*row->leader == '\0')
		return errdetail("NOT_LEADER_OR_FOLLOWER: no node leads, as far as is known here.");
	return errdetail("NOT_LEADER_OR_FOLLOWER: node \"%s\" leads: %s.", row->leader,
					 row->leader_advertised ? row->leader_advertised : "address unknown");
}

/*
 * Get what tells this server from copies of it: system identifier and
 * timeline; palloc'd.
 */
char *
topics_cluster_own_server(void)
{
	return psprintf(UINT64_FORMAT "/%u", GetSystemIdentifier(), GetWALInsertionTimeLine());
}

/*
 * Count the nodes whose promises let one lead, its own among them: a majority,
 * so that there are no two; and so many that one of them has any commit that
 * was acknowledged.
 */
int
topics_cluster_quorum(const ClusterRow *row)
{
	return topics_max(row->voters / 2 + 1, row->voters - row->acks_followers);
}

/*
 * Count the others whose promises let a copy of a node lead, such as a standby
 * that was promoted: it may not know what the node itself has promised or
 * confirmed, so it does not count.  One of so many others is in each election,
 * knows of each change of nodes, and has each commit that was acknowledged.
 * Where commits wait for nobody that takes more than there are.
 */
int
topics_cluster_copy_quorum(const ClusterRow *row)
{
	return topics_max(topics_min(topics_cluster_quorum(row), row->voters - 1), row->voters - row->acks_followers);
}

/* Read what this database is in a leader set. */
static ClusterFacts
read_facts(int set)
{
	ClusterFacts facts = {CLUSTER_NONE};
	ClusterRow	row;

	if (!topics_cluster_read_row_of(set, &row))
		return facts;
	facts.kind = row.leads ? CLUSTER_LEADER : CLUSTER_FOLLOWER;
	facts.acks_followers = row.acks_followers;
	facts.lease_followers = row.voters - topics_cluster_quorum(&row);
	facts.term = row.leads ? row.term : 0;
	facts.voters = row.voters;
	facts.data_loss = row.data_loss;
	facts.change_open = row.change_open;
	return facts;
}

/*
 * This transaction may have changed the rows of these leader sets, a bit for
 * each; what they say when the transaction commits.
 */
static uint32 row_changes = 0;

/*
 * This transaction has done what only the node that leads a set may do; a
 * generation of 0: it has not.
 */
static int	required_set = METADATA_SET;
static uint64 required_generation = 0;

static ClusterFacts next_facts[MAX_LEADER_SETS];

/*
 * Have shared memory know what this database is in a cluster, if it does not.
 * Whoever reads a log does this first: what is not confirmed may be hidden.
 */
void
topics_cluster_attend(void)
{
	static bool is_known = false;

	if (likely(is_known))
		return;
	if (row_changes != 0 || RecoveryInProgress() || !IsTransactionState())
		return;
	if (topics_mark_slot_kind_of(METADATA_SET) == CLUSTER_NONE)
		topics_cluster_look();
	is_known = true;
}

/*
 * Look up what this node is.  It is known to shared memory from then on, and
 * each change of its row when that is committed.
 */
void
topics_cluster_look(void)
{
	uint32		changes;
	ClusterFacts facts[MAX_LEADER_SETS];

	do
	{
		changes = topics_mark_slot_row_changes();
		memset(facts, 0, sizeof(facts));
		facts[METADATA_SET] = read_facts(METADATA_SET);
		for (int set = METADATA_SET + 1; set < MAX_LEADER_SETS && facts[METADATA_SET].kind != CLUSTER_NONE; set++)
			facts[set] = read_facts(set);
	} while (row_changes == 0 && !RecoveryInProgress() &&
			 !topics_mark_slot_attend(facts, changes));
}

/*
 * The row of the set that this process acts for was changed, unless that is
 * undone.
 */
void
topics_cluster_note_change(void)
{
	row_changes |= 1 << topics_leader_set;
}

/* Before the commit: see what the rows say. */
void
topics_cluster_pre_commit(void)
{
	ClusterRow	row;

	if (required_generation != 0 &&
		topics_mark_slot_generation_of(required_set) != required_generation &&
		topics_cluster_read_row_of(required_set, &row) && !row.leads && (row_changes & (1 << required_set)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NOT_LEADER),
				 errmsg("another node has come to lead before the transaction committed"),
				 report_leader(&row),
				 errhint("Run the transaction on that node.")));
	if (row_changes == 0)
		return;
	CommandCounterIncrement();
	for (int set = -1; (set = topics_leader_set_after(row_changes, set)) >= 0;)
		next_facts[set] = read_facts(set);
}

/*
 * After the commit, before anything of it is published: whoever publishes
 * later waits for as many followers as this transaction says, if it says more.
 * Raises nothing.
 */
void
topics_cluster_raise_acks(void)
{
	for (int set = -1; (set = topics_leader_set_after(row_changes, set)) >= 0;)
		if (next_facts[set].kind == CLUSTER_LEADER)
			topics_mark_slot_raise_acks(set, next_facts[set].acks_followers);
}

/* Return true if this transaction has changed a row. */
bool
topics_cluster_is_pending(void)
{
	return row_changes != 0;
}

/*
 * Before that end: get the leader sets that this transaction makes this node
 * lead, or follow in.
 */
uint32
topics_cluster_changed_roles(void)
{
	uint32		changes = 0;

	for (int set = -1; (set = topics_leader_set_after(row_changes, set)) >= 0;)
		changes |= next_facts[set].kind != topics_mark_slot_kind_of(set) ? 1 << set : 0;
	return changes;
}

/* At the end of a transaction.  Raises nothing. */
void
topics_cluster_at_end(bool commit)
{
	for (int set = -1; commit && (set = topics_leader_set_after(row_changes, set)) >= 0;)
		topics_mark_slot_row_changed(set, &next_facts[set]);
	row_changes = 0;
	required_generation = 0;
}

/*
 * Return true if this node follows in a leader set: its logs are written by
 * replication alone.  So it is of a set that has just come with its first
 * topic, and of which shared memory does not know yet.
 */
bool
topics_cluster_follows(int set)
{
	ClusterKind kind;

	topics_cluster_attend();
	kind = topics_mark_slot_kind_of(set);
	return kind == CLUSTER_FOLLOWER ||
		(kind == CLUSTER_NONE && set != METADATA_SET && topics_mark_slot_kind_of(METADATA_SET) != CLUSTER_NONE);
}

/*
 * Raise an error if a commit waits for fewer replicas than a topic is to want
 * in sync: that would promise what nobody keeps.
 */
void
topics_cluster_check_replicas(int32 min_insync_replicas)
{
	ClusterRow	row;
	int			replicas = topics_cluster_read_row(&row) ? row.acks_followers + 1 : 1;

	if (min_insync_replicas > replicas)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for topic setting \"%s\"", "min_insync_replicas"),
				 errdetail("A commit waits for %d %s of its records, the leader's among them.",
						   replicas, replicas == 1 ? "replica" : "replicas"),
				 errhint("Add nodes with topics.add_node(), or have commits wait for more followers with topics.alter_cluster().")));
}

/*
 * Require this node to lead a leader set, until the transaction has ended: a
 * command changes what all nodes have.
 */
void
topics_cluster_require_leader_of(int set, const char *command)
{
	ClusterRow	row;
	uint64		generation = topics_mark_slot_generation_of(set);

	if (!topics_cluster_read_row_of(set, &row))
		return;
	if (row.leads)
	{
		if (required_generation == 0)
		{
			required_set = set;
			required_generation = generation;
		}
		return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_NOT_LEADER),
			 errmsg("%s must be called on the node that leads", command),
			 report_leader(&row),
			 errhint("%s", *row.leader ? "Connect to that node." : no_leader_hint)));
}

/* The same of the set that this process acts for. */
void
topics_cluster_require_leader(const char *command)
{
	topics_cluster_require_leader_of(topics_leader_set, command);
}

/* Raise the error of who takes another node for the leader. */
void
topics_cluster_report_other_leader(const char *node)
{
	ClusterRow	row;

	topics_cluster_require_row(&row);
	ereport(ERROR,
			(errcode(ERRCODE_NOT_LEADER),
			 errmsg("node \"%s\" does not lead", node),
			 report_leader(&row),
			 errhint("topics.node says who leads.")));
}

/*
 * Raise the error of who would use a consumer group, in a leader set, on a
 * node that follows.
 */
void
topics_cluster_report_no_group(int set)
{
	ClusterRow	row;

	if (!topics_cluster_read_row_of(set, &row))
		topics_cluster_require_row(&row);
	ereport(ERROR,
			(errcode(ERRCODE_NOT_LEADER),
			 errmsg("consumer groups can be used only on the node that leads"),
			 report_leader(&row),
			 errhint("%s", *row.leader ? "Connect to that node." : no_leader_hint)));
}

/*
 * Raise the error of a member that calls, of a leader set that another node
 * leads.
 */
void
topics_cluster_report_member_elsewhere(int set, const char *member_id)
{
	ClusterRow	row;

	if (!topics_cluster_read_row_of(set, &row) || row.leads)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("the partitions of member \"%s\" have got another leader", member_id)));
	ereport(ERROR,
			(errcode(ERRCODE_NOT_LEADER),
			 errmsg("the partitions of member \"%s\" are led by another node", member_id),
			 report_leader(&row),
			 errhint("%s", *row.leader ? "Call for it on that node." : no_leader_hint)));
}

/*
 * Raise the error of who would use a group for the first time on a topic where
 * other partitions are led than those of the metadata.
 */
void
topics_cluster_report_no_subscription(const char *group_id, const char *topic)
{
	ClusterRow	row;

	topics_cluster_require_row(&row);
	ereport(ERROR,
			(errcode(ERRCODE_NOT_LEADER),
			 errmsg("consumer group \"%s\" has not consumed from topic \"%s\" yet", group_id, topic),
			 report_leader(&row),
			 errhint("Its first call of topics.consume() or topics.join_group() is made on that node. Try again when this node has heard of it.")));
}

/*
 * Return true if there are other nodes for who leads a set: that vote there,
 * or in the first set, and are to.
 */
bool
topics_cluster_has_others(const ClusterRow *row)
{
	ClusterRow	first;

	return row->voters > 1 || (topics_cluster_read_row_of(METADATA_SET, &first) && (first.voters > 1 || !first.leads));
}

/*
 * Return true if this node leads any leader set, as far as shared memory
 * knows.
 */
bool
topics_cluster_leads_any(void)
{
	for (int set = -1; (set = topics_leader_set_after(topics_mark_slot_sets(), set)) >= 0;)
		if (topics_mark_slot_kind_of(set) == CLUSTER_LEADER)
			return true;
	return false;
}

/* Raise the error of who would write to a partition that is led elsewhere. */
void
topics_cluster_report_not_leader(int set, const char *topic, int32 partition)
{
	ClusterRow	row;

	if (!topics_cluster_read_row_of(set, &row) && set != METADATA_SET)
		ereport(ERROR,
				(errcode(ERRCODE_NOT_LEADER),
				 errmsg("partition %d of topic \"%s\" is not led by this node", partition, topic),
				 errdetail("LEADER_NOT_AVAILABLE: the first topic whose leaders are spread is being made, and no node leads it yet."),
				 errhint("Commit topics.create_topic() before, and try again.")));
	if (!topics_cluster_read_row_of(set, &row) || row.leads)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("partition %d of topic \"%s\" has got another leader", partition, topic)));
	ereport(ERROR,
			(errcode(ERRCODE_NOT_LEADER),
			 errmsg("partition %d of topic \"%s\" is not led by this node", partition, topic),
			 report_leader(&row),
			 errhint("%s", *row.leader ? "Connect to that node." : no_leader_hint)));
}

/* Get the leader set that is an SQL function's first argument. */
static int
get_set_argument(FunctionCallInfo fcinfo)
{
	int			set;

	topics_settings_require_preload();
	topics_argument_require(fcinfo, 0);
	set = PG_GETARG_INT32(0);
	if (set < METADATA_SET || set >= MAX_LEADER_SETS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid leader set %d", set)));
	return set;
}

/* Call an SQL function, for which this process acts for a leader set. */
static Datum
call_for(int set, FunctionCallInfo fcinfo, PGFunction function)
{
	int			before = topics_mark_slot_act_for(set);
	volatile Datum result = (Datum) 0;

	PG_TRY();
	{
		result = function(fcinfo);
	}
	PG_FINALLY();
	{
		(void) topics_mark_slot_act_for(before);
	}
	PG_END_TRY();
	return result;
}

/*
 * Call an SQL function that is about a leader set, which is its first
 * argument: this process acts for that meanwhile.
 */
Datum
topics_leader_set_call(FunctionCallInfo fcinfo, PGFunction function)
{
	return call_for(get_set_argument(fcinfo), fcinfo, function);
}

/* Call one that finds out for which set it acts by itself. */
Datum
topics_leader_set_call_any(FunctionCallInfo fcinfo, PGFunction function)
{
	return call_for(topics_leader_set, fcinfo, function);
}
