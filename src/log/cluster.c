/*-------------------------------------------------------------------------
 *
 * cluster.c
 *		What this node is in a cluster: the row of topic_log.cluster.
 *
 * The row is this node's own: it is not replicated, and not dumped.  A database
 * without it is in no cluster, and leads all its partitions.  The files of a server can
 * be copied, and the copy be started, as a standby is that is promoted: it has another
 * timeline, or system identifier, than the row says, and neither leads nor promises
 * anything until others have admitted it (node/admission.c).  node/ writes it;
 * here is what the log needs of it: whether this node leads, and the error for who
 * wants to write to what another node leads.  What the row says is told to shared
 * memory: mark_slot.c keeps it, and high_watermark.c decides what commits and readers
 * wait for.
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

/* Columns of topic_log.cluster */
enum
{
	Anum_cluster_node = 1,
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

/*
 * Read the row, as it is now; its texts are palloc'd.  Return false if this
 * database is in no cluster.
 */
bool
topics_cluster_read_row(ClusterRow *row)
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
	tuple = systable_getnext(scan);
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

/* Read the row of a database that was found to be in a cluster. */
void
topics_cluster_require_row(ClusterRow *row)
{
	if (!topics_cluster_read_row(row))
		elog(ERROR, "this database is in no cluster any more");
}

/* errdetail() of all that another node has to be asked for, with Kafka's name. */
static int
report_leader(const ClusterRow *row)
{
	if (*row->leader == '\0')
		return errdetail("NOT_LEADER_OR_FOLLOWER: no node leads, as far as is known here.");
	return errdetail("NOT_LEADER_OR_FOLLOWER: node \"%s\" leads: %s.", row->leader,
					 row->leader_advertised ? row->leader_advertised : "address unknown");
}

/* Get what tells this server from copies of it: system identifier and timeline; palloc'd. */
char *
topics_cluster_own_server(void)
{
	return psprintf(UINT64_FORMAT "/%u", GetSystemIdentifier(), GetWALInsertionTimeLine());
}

/*
 * Count the nodes whose promises let one lead, its own among them: a majority, so that
 * there are no two; and so many that one of them has any commit that was acknowledged.
 */
int
topics_cluster_quorum(const ClusterRow *row)
{
	return topics_max(row->voters / 2 + 1, row->voters - row->acks_followers);
}

/*
 * Count the others whose promises let a copy of a node lead, such as a standby that was
 * promoted: it may not know what the node itself has promised or confirmed, so it does
 * not count.  One of so many others is in each election, knows of each change of nodes, and
 * has each commit that was acknowledged.  Where commits wait for nobody that takes more than
 * there are.
 */
int
topics_cluster_copy_quorum(const ClusterRow *row)
{
	return topics_max(topics_min(topics_cluster_quorum(row), row->voters - 1), row->voters - row->acks_followers);
}

/* Read what this database is in each leader set. */
static void
read_facts(ClusterFacts facts[MAX_LEADER_SETS])
{
	ClusterRow	row;

	memset(facts, 0, sizeof(ClusterFacts) * MAX_LEADER_SETS);
	if (!topics_cluster_read_row(&row))
		return;
	facts[METADATA_SET].kind = row.leads ? CLUSTER_LEADER : CLUSTER_FOLLOWER;
	facts[METADATA_SET].acks_followers = row.acks_followers;
	facts[METADATA_SET].lease_followers = row.voters - topics_cluster_quorum(&row);
	facts[METADATA_SET].term = row.leads ? row.term : 0;
	facts[METADATA_SET].voters = row.voters;
	facts[METADATA_SET].data_loss = row.data_loss;
	facts[METADATA_SET].change_open = row.change_open;
}

/*
 * This transaction may have changed the row of topic_log.cluster; what it says when
 * the transaction commits.
 */
static bool row_changes = false;

/*
 * This transaction has done what only the node that leads a set may do; a generation of 0: it
 * has not.
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
	if (row_changes || RecoveryInProgress() || !IsTransactionState())
		return;
	if (topics_mark_slot_kind_of(METADATA_SET) == CLUSTER_NONE)
		topics_cluster_look();
	is_known = true;
}

/*
 * Look up what this node is.  It is known to shared memory from then on, and each
 * change of its row when that is committed.
 */
void
topics_cluster_look(void)
{
	uint32		changes;
	ClusterFacts facts[MAX_LEADER_SETS];

	do
	{
		changes = topics_mark_slot_row_changes();
		read_facts(facts);
	} while (!row_changes && !RecoveryInProgress() &&
			 !topics_mark_slot_attend(facts, changes));
}

/* The row was changed, unless that is undone. */
void
topics_cluster_note_change(void)
{
	row_changes = true;
}

/* Before the commit: see what the row says. */
void
topics_cluster_pre_commit(void)
{
	ClusterRow	row;

	if (required_generation != 0 &&
		topics_mark_slot_generation_of(required_set) != required_generation &&
		topics_cluster_read_row(&row) && !row.leads && !row_changes)
		ereport(ERROR,
				(errcode(ERRCODE_NOT_LEADER),
				 errmsg("another node has come to lead before the transaction committed"),
				 report_leader(&row),
				 errhint("Run the transaction on that node.")));
	if (!row_changes)
		return;
	CommandCounterIncrement();
	read_facts(next_facts);
}

/* Return true if this transaction has changed the row. */
bool
topics_cluster_is_pending(void)
{
	return row_changes;
}

/* Before that end: return true if this transaction makes this node lead, or follow. */
bool
topics_cluster_changes_role(void)
{
	bool		changes = false;

	for (int set = 0; row_changes && set < MAX_LEADER_SETS; set++)
		changes |= next_facts[set].kind != topics_mark_slot_kind_of(set);
	return changes;
}

/* At the end of a transaction.  Raises nothing. */
void
topics_cluster_at_end(bool commit)
{
	if (commit && row_changes)
		topics_mark_slot_row_changed(next_facts);
	row_changes = false;
	required_generation = 0;
}

/* Return true if this node follows in a leader set: its logs are written by replication alone. */
bool
topics_cluster_follows(int set)
{
	topics_cluster_attend();
	return topics_mark_slot_kind_of(set) == CLUSTER_FOLLOWER;
}

/*
 * Raise an error if a commit waits for fewer replicas than a topic is to want in
 * sync: that would promise what nobody keeps.
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
 * Require this node to lead the set that this process acts for, until the transaction has
 * ended: a command changes what all nodes have.
 */
void
topics_cluster_require_leader(const char *command)
{
	ClusterRow	row;
	uint64		generation = topics_mark_slot_generation();

	if (!topics_cluster_read_row(&row))
		return;
	if (row.leads)
	{
		if (required_generation == 0)
		{
			required_set = topics_leader_set;
			required_generation = generation;
		}
		return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_NOT_LEADER),
			 errmsg("%s must be called on the node that leads", command),
			 report_leader(&row),
			 errhint("%s", *row.leader ? "Connect to that node." : "Look at topics.node on other nodes. topics.failover() has one lead.")));
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

/* Raise the error of who would use a consumer group on a node that follows. */
void
topics_cluster_report_no_group(void)
{
	ClusterRow	row;

	topics_cluster_require_row(&row);
	ereport(ERROR,
			(errcode(ERRCODE_NOT_LEADER),
			 errmsg("consumer groups can be used only on the node that leads"),
			 report_leader(&row),
			 errhint("%s", *row.leader ? "Connect to that node." : "Look at topics.node on other nodes. topics.failover() has one lead.")));
}

/* Raise the error of who would write to a partition that is led elsewhere. */
void
topics_cluster_report_not_leader(const char *topic, int32 partition)
{
	ClusterRow	row;

	if (!topics_cluster_read_row(&row) || row.leads)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("partition %d of topic \"%s\" has got another leader", partition, topic)));
	ereport(ERROR,
			(errcode(ERRCODE_NOT_LEADER),
			 errmsg("partition %d of topic \"%s\" is not led by this node", partition, topic),
			 report_leader(&row),
			 errhint("%s", *row.leader ? "Connect to that node." : "Look at topics.node on other nodes. topics.failover() has one lead.")));
}
