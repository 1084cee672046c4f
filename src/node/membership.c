/*-------------------------------------------------------------------------
 *
 * membership.c
 *		Make a cluster, and have nodes come and go.
 *
 * A node is a database with the extension, under a name.  Its row of
 * topic_log.cluster says which cluster it is in, and who leads; what all know
 * of each other is in the metadata (metadata.c).
 *
 *	create_cluster	this database becomes the first node, and leads.  Its topics
 *		stay as they are.
 *	add_node	the leader writes down the new node, and then calls it: it must be
 *		without topics, and becomes a follower.  Its replicator (serve/) does the
 *		rest.
 *	remove_node	the leader says that the node is gone, and tells it, if it can be
 *		reached: it leads its topics itself from then on.
 *	alter_cluster	says how many followers a commit waits for.
 *	alter_node	says where a node is.
 *
 * A new node counts as a copy when it has confirmed all that the leader has
 * (topics_membership_count_node).  As long as nobody has said how many
 * followers a commit waits for, that is half of the nodes that count: so a
 * node that comes keeps no commit waiting before it can confirm.
 *
 * Either step can be repeated after any failure: the record comes first and is
 * committed, and the other node does nothing if it is as it should be already.
 *
 * INCARNATIONS.  A database draws a uuid when it joins.  The node's record has
 * it, and so has each of its requests (replica_feed.c): of two databases that
 * have joined by one name, since the first was lost, or seemed to be, only the
 * second is served, and can confirm.  While the first follows, there is no
 * second one (require_not_followed).
 *
 * LOCKING.  Who changes this node's row of a leader set holds EXCLUSIVE on
 * that, by the set's number in topic_log.cluster, until its transaction has
 * ended, and who replicates holds ROW SHARE (topics_membership_hold): so a
 * node's role changes while nobody replicates.  Producers are not kept away:
 * they find the role under the append lock, where it is looked up anew after a
 * change (topics_partition_state_forget_ends).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "group/group.h"
#include "topic/topic.h"
#include "node/node.h"
#include "pg_topics.h"

PG_FUNCTION_INFO_V1(topics_create_cluster);
PG_FUNCTION_INFO_V1(topics_alter_cluster);
PG_FUNCTION_INFO_V1(topics_add_node);
PG_FUNCTION_INFO_V1(topics_alter_node);
PG_FUNCTION_INFO_V1(topics_remove_node);
PG_FUNCTION_INFO_V1(topics_join_cluster);
PG_FUNCTION_INFO_V1(topics_leave_cluster);

/* ----------------------------------------------------------------
 *		Arguments and requirements
 * ----------------------------------------------------------------
 */

/* Get a node's name, which can stand in names of slots and applications. */
static char *
get_node_argument(FunctionCallInfo fcinfo, int argument)
{
	char	   *name = topics_argument_get_text(fcinfo, argument);
	size_t		length = strlen(name);

	if (length == 0 || length > MAX_NODE_NAME ||
		strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != length)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid node name \"%s\"", name),
				 errdetail("It must have from 1 to %d lower-case letters, digits and underscores.",
						   MAX_NODE_NAME)));
	return name;
}

/* Get what clients are told of a node: as given, or what its conninfo shows. */
static char *
get_advertised_argument(FunctionCallInfo fcinfo, int argument, const char *conninfo)
{
	if (PG_ARGISNULL(argument))
		return topics_peer_check_conninfo(conninfo);
	(void) topics_peer_check_conninfo(conninfo);
	(void) topics_peer_check_conninfo(topics_argument_get_text(fcinfo, argument));
	return topics_argument_get_text(fcinfo, argument);
}

/* Require all that a call needs that changes the cluster. */
void
topics_membership_check_call(const char *command)
{
	topics_settings_require_preload();
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for %s", command),
				 errdetail("Only superusers may say which nodes are in a cluster.")));
	PreventCommandIfReadOnly(command);
}

#define POLL_MS 50
#define PATIENCE_MS 5000		/* until a node that is waited for is told of */

/* Lock the row of a leader set, whether there is one or not. */
static void
lock_row(int set, LOCKMODE mode)
{
	Oid			relid = get_relname_relid("cluster", get_namespace_oid(TOPIC_LOG_SCHEMA, false));

	LockDatabaseObject(relid, set, 0, mode);
}

/* Lock this node's row of the set that this process acts for. */
void
topics_membership_lock(void)
{
	lock_row(topics_leader_set, ExclusiveLock);
}

/*
 * The same, for who reads under the lock where the logs of the set end: they
 * are known before.
 */
void
topics_membership_lock_for_ends(void)
{
	topics_log_ends_learn(false);
	topics_membership_lock();
}

/*
 * A leader's first commit of records since the server's start says where all
 * logs end, and may be one under the lock of a row: they are known before
 * that.  Who has a topic locked may want the row next.
 *
 * Two transactions that have each dropped a topic before that first commit
 * wait for each other here; PostgreSQL's deadlock detector ends one.
 */
static void
prepare_to_write(void)
{
	topics_cluster_attend();
	if (unlikely(!topics_mark_slot_has_epoch()))
		topics_log_ends_learn(true);
}

/* Lock this node's row, for who commits records of the metadata then. */
void
topics_membership_lock_to_write(void)
{
	prepare_to_write();
	topics_membership_lock();
}

/* The same, the rows of all sets. */
void
topics_membership_lock_all(void)
{
	prepare_to_write();
	for (int set = METADATA_SET; set < MAX_LEADER_SETS; set++)
		lock_row(set, ExclusiveLock);
}

/* Until the transaction ends: this node stays what it is in the leader set. */
void
topics_membership_hold(void)
{
	lock_row(topics_leader_set, RowShareLock);
}

/* Read the row of a node that leads. */
static ClusterRow
require_leader(const char *command)
{
	ClusterRow	row;

	if (!topics_cluster_read_row(&row))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database is in no cluster"),
				 errhint("Make one with topics.create_cluster().")));
	topics_cluster_require_leader(command);
	return row;
}

void
topics_membership_report_no_node(const char *node)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("node \"%s\" is not in the cluster", node),
			 errhint("topics.node has those that are.")));
}

/* Run a call on the node that leads, and that is another one. */
void
topics_membership_run_on_leader(const ClusterRow *row, const char *procedure, const char *sql,
								const char *const *values, int nvalues)
{
	if (row->leader_conninfo == NULL)
		topics_cluster_require_leader(procedure);
	(void) topics_peer_run(row->leader, row->leader_conninfo, sql, values, nvalues);
}

/* ----------------------------------------------------------------
 *		The first node
 * ----------------------------------------------------------------
 */

/* Make this node's row. */
static void
insert_row(const char *node, const char *leader, const char *leader_conninfo,
		   const char *leader_advertised, const char *cluster_id)
{
	StatementScope scope = topics_statement_begin();

	topics_statement_execute("INSERT INTO topic_log.cluster (node, leader, leader_conninfo, leader_advertised_conninfo, cluster_id, system_identifier, epoch, acks_followers, term, timeline)"
							 " VALUES (%s, %s, %s, %s, %s, " INT64_FORMAT ", 0, 0, %d, %u)",
							 quote_literal_cstr(node), quote_literal_cstr(leader),
							 leader_conninfo ? quote_literal_cstr(leader_conninfo) : "NULL",
							 leader_advertised ? quote_literal_cstr(leader_advertised) : "NULL",
							 cluster_id ? quote_literal_cstr(cluster_id) : "gen_random_uuid()::text",
							 (int64) GetSystemIdentifier(), strcmp(node, leader) == 0 ? 1 : 0, GetWALInsertionTimeLine());
	topics_statement_end(scope);
	topics_cluster_note_change();
}

/*
 * Drop the topic of the metadata, if there is one.  A database that is in no
 * cluster may have one from a dump of a node.
 */
static void
drop_metadata(void)
{
	Topic	   *topic = topics_catalog_lookup(METADATA_TOPIC, true);

	if (topic == NULL)
		return;
	topics_metadata_drop_topic(topic->topic_id, topic->view_relid);
}

/* ----------------------------------------------------------------
 *		Epochs
 * ----------------------------------------------------------------
 */

/* This transaction begins an epoch in these leader sets, a bit for each. */
static uint32 begins_epoch = 0;

/* Change this node's row, which is locked, as an assignment says. */
static void
update_row(const char *assignment)
{
	StatementScope scope;

	PushActiveSnapshot(GetLatestSnapshot());
	scope = topics_statement_begin();
	topics_statement_execute("UPDATE topic_log.cluster SET %s WHERE leader_set = %d", assignment, topics_leader_set);
	topics_statement_end(scope);
	PopActiveSnapshot();
}

/*
 * This server is the node from the commit on, and no copy of it; the row is
 * locked.
 */
void
topics_membership_admit(void)
{
	update_row(psprintf("timeline = %u, system_identifier = " INT64_FORMAT, GetWALInsertionTimeLine(),
						(int64) GetSystemIdentifier()));
	topics_cluster_note_change();
}

/*
 * Begin an epoch, in a transaction that has locked the row.  It says where all
 * logs end: nobody appends before it has begun.
 */
static void
begin_epoch(void)
{
	MetadataEpoch epoch = {.started_at = topics_mark_slot_start_position()};
	ClusterRow	row;

	update_row("epoch = epoch + 1, epoch_id = gen_random_uuid()");
	topics_cluster_require_row(&row);
	topics_feature_level_require(&row, row.node, topics_feature_level_own());
	topics_leader_set_begin(&row);
	epoch.number = row.epoch;
	epoch.id = row.epoch_id;
	epoch.term = row.term;
	epoch.data_loss = row.data_loss && topics_metadata_find_term(row.term) == NULL;
	epoch.ends = topics_log_ends_get_all();
	topics_metadata_put_epoch(&epoch);
	begins_epoch |= 1 << topics_leader_set;
}

/*
 * Before a commit with records of a leader set: on a node that leads it, the
 * first one since the server's start begins an epoch.  So a leader that has
 * lost what followers have, since it was restored to an earlier state, or is a
 * standby that was promoted, is in another epoch than they when it writes
 * anything (replica_feed.c).
 */
static void
begin_epoch_of_start(void)
{
	ClusterRow	row;

	if (likely(topics_mark_slot_has_epoch()))
		return;
	topics_membership_lock_to_write();
	if (!topics_mark_slot_has_epoch() && topics_cluster_read_row(&row) && row.leads)
		begin_epoch();
}

/* The same for each leader set that the transaction appends to. */
void
topics_membership_pre_commit(void)
{
	uint32		sets = topics_append_pending_sets() & ~begins_epoch;
	int			before = topics_leader_set;

	if (sets == 0)
		return;
	topics_cluster_attend();
	PG_TRY();
	{
		for (int set = -1; (set = topics_leader_set_after(sets, set)) >= 0;)
		{
			(void) topics_mark_slot_act_for(set);
			begin_epoch_of_start();
		}
	}
	PG_FINALLY();
	{
		(void) topics_mark_slot_act_for(before);
	}
	PG_END_TRY();
}

/*
 * The commit is visible, and its records are about to be published: whoever is
 * given them is told of the epoch.  Raises nothing.
 */
void
topics_membership_publish(void)
{
	bool		any = false;

	for (int set = -1; (set = topics_leader_set_after(begins_epoch, set)) >= 0;)
	{
		if (topics_mark_slot_kind_of(set) != CLUSTER_LEADER)
			continue;
		topics_mark_slot_note_epoch(set);
		any = true;
	}
	if (any)
		topics_state_load_changed(0);
}

/* ----------------------------------------------------------------
 *		Terms
 * ----------------------------------------------------------------
 */

/*
 * On a follower, which has all that there was when it began: come into an
 * epoch, maybe of another term; or go back to an earlier one, as the log does.
 * The row is locked.
 */
void
topics_membership_enter_epoch(int64 term, int64 epoch, const char *id)
{
	update_row(psprintf("term = " INT64_FORMAT ", epoch = " INT64_FORMAT ", epoch_id = %s,"
						" promised_term = GREATEST(promised_term, " INT64_FORMAT ")",
						term, epoch, quote_literal_cstr(id), term));
}

/*
 * Have the row, which is locked, say who leads or may come to lead: nobody in
 * place of ourselves, as that is for topics_membership_lead.
 */
static void
say_leader(const char *name)
{
	ClusterRow	row;
	const MetadataNode *node;
	bool		is_own;

	topics_cluster_require_row(&row);
	is_own = strcmp(name, row.node) == 0;
	/* it leads on until it does in the higher term, or another one does */
	if (row.leads && is_own)
		return;
	node = is_own ? NULL : topics_metadata_find_node(name);
	if (node == NULL)
		update_row("leader = '', leader_conninfo = NULL, leader_advertised_conninfo = NULL");
	else
		update_row(psprintf("leader = %s, leader_conninfo = %s, leader_advertised_conninfo = %s",
							quote_literal_cstr(node->name), quote_literal_cstr(node->conninfo),
							quote_literal_cstr(node->advertised)));
	topics_cluster_note_change();
	topics_topic_changes_want_round();
}

/*
 * This transaction keeps others from appending to these leader sets, a bit for
 * each.
 */
static uint32 frozen_sets = 0;

/*
 * Until the transaction ends, on a node that leads: nobody appends; the row is
 * locked.
 */
void
topics_membership_freeze(void)
{
	frozen_sets |= 1 << topics_leader_set;
	(void) topics_mark_slot_freeze(true);
}

/* Promise a node, or ourselves, a term; the row is locked. */
void
topics_membership_promise(int64 term, const char *node)
{
	update_row(psprintf("promised_term = " INT64_FORMAT ", promised_to = %s", term, quote_literal_cstr(node)));
	say_leader(node);
}

/*
 * A node was elected in a term without our promise: follow it; the row is
 * locked.
 */
void
topics_membership_follow(int64 term, const char *node)
{
	ClusterRow	row;

	topics_cluster_require_row(&row);
	if (row.promised_term > term || row.term > term)
		return;
	topics_membership_promise(term, node);
}

/*
 * On the node that leads: go on whatever others know, and may do without us,
 * until another term; the row is locked.
 */
void
topics_membership_accept_loss(void)
{
	update_row("data_loss = true");
	topics_cluster_note_change();
}

/*
 * On the node that leads, which had its row say so before: enough others know
 * of the latest change of nodes by now.  So this server need not wait for that
 * when it starts again.
 */
void
topics_membership_close_change(void)
{
	topics_membership_lock();
	/* who changes nodes holds the row until this is told */
	if (!topics_mark_slot_is_changing())
		update_row("change_open = false");
}

/*
 * On the node that leads: so many numbers of nodes were given; the row is
 * locked.
 */
void
topics_membership_note_numbers(int64 given)
{
	update_row(psprintf("numbers_given = " INT64_FORMAT, given));
	topics_membership_say_leader();
}

/* On the node that leads: all nodes have a feature level; the row is locked. */
void
topics_membership_raise_feature_level(int level)
{
	update_row(psprintf("feature_level = %d", level));
	topics_cluster_note_change();
	topics_membership_say_leader();
}

/*
 * On a follower: the node that leads says that this one is not in the cluster,
 * or has it again.
 */
void
topics_membership_note_removed(bool is_removed)
{
	update_row(is_removed ? "is_removed = true" : "is_removed = false");
}

/* Promise nothing that is lower than a term; the row is locked. */
void
topics_membership_raise_term(int64 term)
{
	update_row(psprintf("promised_to = CASE WHEN promised_term < " INT64_FORMAT " THEN '' ELSE promised_to END,"
						" promised_term = GREATEST(promised_term, " INT64_FORMAT ")", term, term));
}

/*
 * Lead from the commit on, in a term, which begins without a majority or with
 * one; the row is locked.
 */
void
topics_membership_lead(int64 term, bool data_loss)
{
	StatementScope scope;

	topics_membership_admit();
	update_row(psprintf("leader = node, leader_conninfo = NULL, leader_advertised_conninfo = NULL,"
						" term = " INT64_FORMAT ", change_open = true, data_loss = %s", term, data_loss ? "true" : "false"));
	PushActiveSnapshot(GetLatestSnapshot());
	scope = topics_statement_begin();
	(void) topics_read_cut_show_all(true);
	topics_statement_execute("DELETE FROM topic_log.lacking WHERE leader_set = %d", topics_leader_set);
	/* topics that this node makes have ids above those of all others */
	if (topics_leader_set == METADATA_SET)
		topics_statement_execute("SELECT setval('topic_log.topic_id_seq', max(id), true)"
								 " FROM (SELECT substr(key, 7)::int8 AS id FROM topic.\"" METADATA_TOPIC "\" WHERE key LIKE 'topic/%%'"
								 " UNION ALL SELECT topic_id FROM topic_log.topic UNION ALL SELECT last_value FROM topic_log.topic_id_seq) i"
								 " HAVING max(id) > 0");
	(void) topics_read_cut_show_all(false);
	topics_statement_end(scope);
	PopActiveSnapshot();
	topics_cluster_note_change();
	topics_topic_changes_want_round();
}

/*
 * Have the metadata say what the row does: that this node leads, which is the
 * first record of its term, and what is the same on all nodes.
 */
void
topics_membership_say_leader(void)
{
	ClusterRow	row;
	bool		is_default;

	topics_cluster_require_row(&row);
	if (!row.leads)
		return;
	(void) topics_metadata_count_nodes("", &is_default);
	topics_metadata_put_cluster(row.node, row.acks_followers, is_default);
}

/* Return true unless this node leads, and has not begun its term. */
bool
topics_membership_has_begun_term(void)
{
	ClusterRow	row;

	return !topics_cluster_read_row(&row) || !row.leads || topics_metadata_find_term(row.term) != NULL;
}

/* create_cluster(node, conninfo, advertised_conninfo) */
Datum
topics_create_cluster(PG_FUNCTION_ARGS)
{
	char	   *node = get_node_argument(fcinfo, 0);
	char	   *conninfo = topics_argument_get_text(fcinfo, 1);
	char	   *advertised = get_advertised_argument(fcinfo, 2, conninfo);
	MetadataNode self = {.name = node,.conninfo = conninfo,.advertised = advertised,.counts = true};
	int			highest_set;
	ClusterRow	row;

	topics_membership_check_call("topics.create_cluster()");
	topics_membership_lock_all();
	if (topics_cluster_read_row(&row))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("this database is in a cluster already, as node \"%s\"", row.node)));
	/* topics from another cluster, or a dump of one, may be spread */
	highest_set = topics_catalog_highest_set();
	topics_mark_slot_require(1 + highest_set);
	drop_metadata();
	topics_make_topic_create_internal(METADATA_TOPIC, 1 + highest_set);
	topics_internal_topic_cover_sets(highest_set, false);
	insert_row(node, node, NULL, NULL, NULL);
	self.feature_level = topics_feature_level_own();
	update_row(psprintf("feature_level = %d", self.feature_level));
	begin_epoch();
	topics_cluster_require_row(&row);
	self.incarnation = row.incarnation;
	/* with its number comes the record of the cluster */
	topics_metadata_put_node(&self);
	PG_RETURN_VOID();
}

/* ----------------------------------------------------------------
 *		How many followers a commit waits for
 * ----------------------------------------------------------------
 */

/* Have commits wait for so many, once this one is done. */
void
topics_membership_set_acks(int acks_followers, bool is_default)
{
	ClusterRow	row;

	update_row(psprintf("acks_followers = %d, change_open = true", acks_followers));
	topics_cluster_note_change();
	topics_cluster_require_row(&row);
	topics_metadata_put_cluster(row.leader, acks_followers, is_default);
}

/*
 * A node counts as a copy from now on, or does not any more: where nobody has
 * said otherwise, half of those that count are waited for.
 */
void
topics_membership_adjust_acks(const char *node, bool counts)
{
	bool		is_default;
	int			count = topics_metadata_count_nodes(node, &is_default) + (counts ? 1 : 0);

	ClusterRow	row;

	update_row(psprintf("voters = %d, change_open = true", count));
	topics_membership_admit();
	if (is_default)
		topics_membership_set_acks(count / 2, true);
	else if (topics_cluster_read_row(&row) && row.acks_followers >= count)
	{
		ereport(NOTICE,
				(errmsg_plural("commits wait for %d follower now, as there are no more",
							   "commits wait for %d followers now, as there are no more",
							   count - 1, count - 1)));
		topics_membership_set_acks(count - 1, false);
	}
}

/* Require that no topic wants more replicas in sync. */
static void
require_enough_for_topics(int acks_followers)
{
	ListCell   *lc;

	foreach(lc, topics_catalog_list())
	{
		const Topic *topic = topics_catalog_get(lfirst_oid(lc), true);

		if (topic && topic->settings.min_insync_replicas > acks_followers + 1)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid acks_followers: %d", acks_followers),
					 errdetail("Topic \"%s\" has min_insync_replicas = %d.", NameStr(topic->name),
							   topic->settings.min_insync_replicas),
					 errhint("Lower that with topics.alter_topic() before.")));
	}
}

/* alter_cluster(acks_followers) */
Datum
topics_alter_cluster(PG_FUNCTION_ARGS)
{
	bool		is_default;
	int			count;

	topics_membership_check_call("topics.alter_cluster()");
	topics_membership_lock_to_write();
	(void) require_leader("topics.alter_cluster()");
	count = topics_metadata_count_nodes("", &is_default);
	if (PG_ARGISNULL(0))
	{
		require_enough_for_topics(count / 2);
		topics_membership_set_acks(count / 2, true);
		PG_RETURN_VOID();
	}
	if (PG_GETARG_INT32(0) < 0 || PG_GETARG_INT32(0) >= count)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid acks_followers: %d", PG_GETARG_INT32(0)),
				 errdetail("It must be from 0 to %d, the number of followers that have caught up once.",
						   count - 1)));
	require_enough_for_topics(PG_GETARG_INT32(0));
	topics_membership_set_acks(PG_GETARG_INT32(0), false);
	if (!topics_follower_is_heard(topics_leader_set, count / 2))
		ereport(WARNING,
				(errmsg("commits wait as before until more nodes know of this"),
				 errdetail("Too few followers are heard. They could elect another node without knowing of it."),
				 errhint("If they are lost for good, CALL topics.failover() with one of them and allow_data_loss => true here lets this node go on without them.")));
	PG_RETURN_VOID();
}

/*
 * On the leader, from the session of a follower that has confirmed all that
 * there is: it counts as a copy from now on.  Commits.  Return false if it
 * does not yet, as too few nodes know of the latest change.
 */
bool
topics_membership_count_node(const char *node, const char *incarnation, int number)
{
	const MetadataNode *known;

	if (topics_mark_slot_is_changing())
		return false;
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	topics_membership_lock_to_write();
	known = topics_metadata_find_node(node);
	if (known && !known->counts && strcmp(known->incarnation, incarnation) == 0)
	{
		topics_metadata_count_node(node);
		topics_membership_adjust_acks(node, true);
		topics_mark_slot_note_newcomer(number);
	}
	SPI_commit();
	SPI_finish();
	return true;
}

/*
 * Require enough nodes to know of the latest change of nodes, for there is one
 * at a time.
 */
static void
require_no_change(void)
{
	if (topics_mark_slot_is_changing())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("too few nodes know of the latest change of nodes"),
				 errdetail("They could elect another node without knowing of it."),
				 errhint("Wait until they follow. If they are lost for good, CALL topics.failover() with one of them and allow_data_loss => true here lets this node go on without them.")));
}

/* ----------------------------------------------------------------
 *		Another node comes
 * ----------------------------------------------------------------
 */

/* What this database is, for the question whether it may join. */
static const char *const join_check =
"SELECT pg_catalog.current_setting('server_encoding'), (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'pg_topics'),"
" pg_catalog.current_setting('is_superuser')";

/* Require the other database to be one that can join. */
static void
check_candidate(Peer *peer, const ClusterRow *row, MetadataNode *candidate)
{
	const char *node = candidate->name;
	PeerResult *result = topics_peer_query(peer, join_check, NULL, 0);
	char	   *encoding = pstrdup(topics_peer_value(result, 0, 0));
	const char *version = topics_peer_value(result, 0, 1);

	bool		is_superuser = strcmp(topics_peer_value(result, 0, 2), "on") == 0;

	version = version ? pstrdup(version) : "none";
	topics_peer_clear(result);
	if (!is_superuser)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to make a database node \"%s\"", node),
				 errdetail("The role of the conninfo is no superuser there."),
				 errhint("%s", topics_peer_roles_hint)));
	if (strcmp(encoding, GetDatabaseEncodingName()) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("node \"%s\" has another encoding", node),
				 errdetail("Its database has encoding %s, this one %s.", encoding,
						   GetDatabaseEncodingName())));
	if (strcmp(version, PG_TOPICS_VERSION) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_VERSION_MISMATCH),
				 errmsg("node \"%s\" does not have version %s of pg_topics", node, PG_TOPICS_VERSION),
				 errdetail("The version of the extension in its database is: %s.", version),
				 errhint("Run CREATE EXTENSION pg_topics there, or ALTER EXTENSION pg_topics UPDATE.")));
	result = topics_peer_query(peer, topics_feature_level_query, NULL, 0);
	candidate->feature_level = pg_strtoint32(topics_peer_value(result, 0, 0));
	topics_peer_clear(result);
	topics_feature_level_require(row, node, candidate->feature_level);
}

/* What a new node is told, in the order of the arguments of join_cluster(). */
enum
{
	INVITATION_NODE,
	INVITATION_LEADER,
	INVITATION_CLUSTER_ID,
	INVITATION_CONNINFO,
	INVITATION_ADVERTISED,
	INVITATION_TOPIC_ID,
	INVITATION_NOTIFY_KEY,
	INVITATION_VALUES
};

/* Read it, palloc'd; the first two are there already. */
static void
read_invitation(const char **values)
{
	MemoryContext cxt = CurrentMemoryContext;
	StatementScope scope = topics_statement_begin();

	(void) topics_read_cut_show_all(true);
	if (SPI_execute(psprintf("SELECT c.cluster_id, m.value ->> 'conninfo', m.value ->> 'advertised_conninfo', t.topic_id, t.notify_key"
							 " FROM topic_log.cluster c, topic_log.topic t, topic.\"" METADATA_TOPIC "\" m"
							 " WHERE c.leader_set = 0 AND m.partition = 0 AND t.view = 'topic.\"" METADATA_TOPIC "\"'::regclass AND m.key = 'node/%s'"
							 " ORDER BY m.\"offset\" DESC LIMIT 1", values[INVITATION_LEADER]), true, 0) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "the metadata do not say where node \"%s\" is", values[INVITATION_LEADER]);
	(void) topics_read_cut_show_all(false);
	for (int i = INVITATION_CLUSTER_ID; i < INVITATION_VALUES; i++)
		values[i] = MemoryContextStrdup(cxt, SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
														  i - INVITATION_CLUSTER_ID + 1));
	topics_statement_end(scope);
}

static bool
is_followed(const char *node)
{
	Follower	follower;

	return topics_follower_read(node, &follower) && follower.session != 0;
}

/*
 * Require a node's name not to be that of another database, which follows.
 * One that has just lost all takes a moment to notice, for which we wait.
 */
static void
require_not_followed(const char *node, long patience_ms)
{
	MonotonicTime until = topics_clock_in(patience_ms);

	for (; is_followed(node); topics_peer_nap(POLL_MS))
		if (topics_clock_now() >= until)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("node \"%s\" is another database, which follows", node),
					 errhint("Choose another name, or remove that one with topics.remove_node().")));
}

/*
 * Return true if who has had a node's name so far, or NULL, is another
 * database.
 */
static bool
is_another(const MetadataNode *before, const MetadataNode *node)
{
	return before && strcmp(before->incarnation, node->incarnation) != 0;
}

/* What was known of a follower is of another one, or of none. */
void
topics_membership_forget_follower(const char *node)
{
	int			number = topics_follower_forget(node);

	if (number >= 0)
		topics_replica_cut_forget_follower(number);
}

/*
 * Have a node that is connected to join; within SPI.  It is in the metadata
 * before it asks for anything, and only if it can join.
 */
static void
invite(Peer *peer, const ClusterRow *row, MetadataNode *node)
{
	const char *invitation[INVITATION_VALUES] = {node->name, row->node};
	PeerResult *result;
	const MetadataNode *before;
	bool		replaces;

	check_candidate(peer, row, node);
	read_invitation(invitation);
	/* one of the values may have a password */
	topics_peer_clear(topics_peer_query(peer, "SET log_statement = 'none'; SET log_min_duration_statement = -1;"
										" SET log_min_duration_sample = -1; SET log_parameter_max_length = 0;"
										" SET log_parameter_max_length_on_error = 0; BEGIN", NULL, 0));
	result = topics_peer_query(peer, "SELECT topic_log.join_cluster($1, $2, $3, $4, $5, $6, $7)",
							   invitation, INVITATION_VALUES);
	node->incarnation = pstrdup(topics_peer_value(result, 0, 0));
	topics_peer_clear(result);

	if (is_another(topics_metadata_find_node(node->name), node))
		require_not_followed(node->name, PATIENCE_MS);
	topics_membership_lock_to_write();
	before = topics_metadata_find_node(node->name);
	replaces = is_another(before, node);
	if (replaces)
		require_not_followed(node->name, 0);
	/* who joins anew has nothing, whatever the one of this name had before */
	node->counts = before && before->counts && !replaces;
	topics_metadata_put_node(node);
	if (replaces && before->counts)
	{
		require_no_change();
		topics_membership_adjust_acks(node->name, false);
	}
	SPI_commit();
	if (replaces)
		topics_membership_forget_follower(node->name);
	topics_peer_clear(topics_peer_query(peer, "COMMIT", NULL, 0));
}

/*
 * Wait until a new node counts as a copy.  If this is cancelled, it will
 * later.
 */
static void
wait_until_counted(const char *node)
{
	MonotonicTime tell_at = topics_clock_in(PATIENCE_MS);
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "pg_topics look at nodes",
											  ALLOCSET_SMALL_SIZES);

	for (;;)
	{
		MemoryContext old;
		const MetadataNode *known;

		if (topics_clock_now() >= tell_at)
		{
			ereport(NOTICE,
					(errmsg("node \"%s\" does not have all yet", node),
					 errhint("It goes on also when this call is cancelled. Look at topics.progress here, and at topics.worker there.")));
			tell_at = NEVER;
		}
		MemoryContextReset(cxt);
		old = MemoryContextSwitchTo(cxt);
		known = topics_metadata_find_node(node);
		MemoryContextSwitchTo(old);
		if (known == NULL || known->counts)
			break;
		SPI_commit();
		topics_peer_nap(POLL_MS);
	}
}

/* CALL add_node(node, conninfo, advertised_conninfo) */
Datum
topics_add_node(PG_FUNCTION_ARGS)
{
	char	   *node = get_node_argument(fcinfo, 0);
	char	   *conninfo = topics_argument_get_text(fcinfo, 1);
	char	   *advertised = get_advertised_argument(fcinfo, 2, conninfo);
	MetadataNode joining = {.name = node,.conninfo = conninfo,.advertised = advertised};
	ClusterRow	row;
	Peer	   *peer;

	topics_membership_check_call("topics.add_node()");
	topics_argument_require_no_block(fcinfo, "topics.add_node()");
	row = require_leader("topics.add_node()");
	if (strcmp(node, row.node) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("node \"%s\" is this node", node),
				 errhint("topics.alter_node() says where it is.")));
	if (topics_metadata_find_node(node) == NULL &&
		list_length(topics_metadata_list_nodes()) > MAX_FOLLOWERS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many nodes"),
				 errdetail("A cluster has the leader and up to %d followers.", MAX_FOLLOWERS)));
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	peer = topics_peer_connect(node, conninfo);
	PG_TRY();
	{
		invite(peer, &row, &joining);
	}
	PG_FINALLY();
	{
		topics_peer_close(peer);
	}
	PG_END_TRY();
	wait_until_counted(node);
	SPI_finish();
	PG_RETURN_VOID();
}

/* Require a database that has nothing of its own that would be in the way. */
static void
require_no_topics(void)
{
	if (topics_catalog_list() != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a database with topics cannot join a cluster"),
				 errdetail("It gets the cluster's topics, under the same names and ids."),
				 errhint("Use a new database, or run DROP EXTENSION pg_topics CASCADE there, and CREATE EXTENSION pg_topics.")));
}

/*
 * Require the leader to be where its conninfo says, and to let this node
 * replicate.
 */
static void
require_leader_answers(const char *node, const char *leader, const char *conninfo,
					   const char *cluster_id)
{
	const char *values[] = {node, cluster_id};

	/* somebody there may wait for a lock behind who waits for us */
	(void) topics_peer_run(leader, conninfo, "SELECT topic_log.check_follower($1, $2)"
						   " FROM pg_catalog.set_config('lock_timeout', '10s', true)", values,
						   lengthof(values));
}

/*
 * join_cluster(node, leader, cluster_id, conninfo, advertised, topic_id,
 * notify_key), on the new node: its incarnation, also if it is that node
 * already
 */
Datum
topics_join_cluster(PG_FUNCTION_ARGS)
{
	char	   *node = get_node_argument(fcinfo, INVITATION_NODE);
	char	   *leader = topics_argument_get_text(fcinfo, INVITATION_LEADER);
	char	   *cluster_id = topics_argument_get_text(fcinfo, INVITATION_CLUSTER_ID);
	char	   *conninfo = topics_argument_get_text(fcinfo, INVITATION_CONNINFO);
	NewTopic	topic = {
		.name = METADATA_TOPIC,
		.partitions = 1,
		.topic_id = pg_strtoint64(topics_argument_get_text(fcinfo, INVITATION_TOPIC_ID)),
		.notify_key = topics_argument_get_text(fcinfo, INVITATION_NOTIFY_KEY)
	};
	ClusterRow	row;

	topics_membership_check_call("topic_log.join_cluster()");
	topics_membership_lock_all();
	if (topics_cluster_read_row(&row))
	{
		if (strcmp(row.cluster_id, cluster_id) == 0 && strcmp(row.node, node) == 0)
			PG_RETURN_TEXT_P(cstring_to_text(row.incarnation));
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("the database is in a cluster already, as node \"%s\"", row.node),
				 errhint("Call topics.remove_node('%s') on the node that leads that cluster, or run SELECT topic_log.leave_cluster() in the database.", row.node)));
	}
	topics_mark_slot_require(1);
	drop_metadata();
	require_no_topics();
	require_leader_answers(node, leader, conninfo, cluster_id);
	insert_row(node, leader, conninfo, topics_argument_get_text(fcinfo, INVITATION_ADVERTISED),
			   cluster_id);
	topics_make_topic_create_internal_as(&topic);
	topics_topic_changes_want_round();
	topics_cluster_require_row(&row);
	PG_RETURN_TEXT_P(cstring_to_text(row.incarnation));
}

/* ----------------------------------------------------------------
 *		Where a node is
 * ----------------------------------------------------------------
 */

/* On a follower: where its leader is, until the leader says otherwise. */
static void
find_leader_at(const char *conninfo, const char *advertised)
{
	update_row(psprintf("leader_conninfo = %s, leader_advertised_conninfo = %s",
						quote_literal_cstr(conninfo), quote_literal_cstr(advertised)));
}

/* alter_node(node, conninfo, advertised_conninfo) */
Datum
topics_alter_node(PG_FUNCTION_ARGS)
{
	char	   *node = get_node_argument(fcinfo, 0);
	char	   *conninfo = topics_argument_get_text(fcinfo, 1);
	char	   *advertised = get_advertised_argument(fcinfo, 2, conninfo);
	MetadataNode *known;
	ClusterRow	row;

	topics_membership_check_call("topics.alter_node()");
	topics_membership_lock_to_write();
	if (topics_cluster_read_row(&row) && !row.leads && strcmp(node, row.leader) == 0)
	{
		find_leader_at(conninfo, advertised);
		PG_RETURN_VOID();
	}
	(void) require_leader("topics.alter_node()");
	known = topics_metadata_find_node(node);
	if (known == NULL)
		topics_membership_report_no_node(node);
	known->conninfo = conninfo;
	known->advertised = advertised;
	topics_metadata_put_node(known);
	PG_RETURN_VOID();
}

/* ----------------------------------------------------------------
 *		A node goes
 * ----------------------------------------------------------------
 */

/* This transaction ends this node's membership. */
static bool leaving = false;

/* leave_cluster(): this database leads its topics itself from now on */
Datum
topics_leave_cluster(PG_FUNCTION_ARGS)
{
	StatementScope scope;
	ClusterRow	row;

	topics_membership_check_call("topic_log.leave_cluster()");
	topics_membership_lock_all();
	if (!topics_cluster_read_row(&row))
		PG_RETURN_VOID();
	if (row.leads && list_length(topics_metadata_list_nodes()) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the node that leads cannot leave its cluster"),
				 errhint("Remove the other nodes before, with topics.remove_node().")));
	leaving = true;
	drop_metadata();
	scope = topics_statement_begin();
	topics_statement_execute("DELETE FROM topic_log.cluster");
	topics_statement_end(scope);
	for (int set = METADATA_SET; set < MAX_LEADER_SETS; set++)
	{
		int			before = topics_mark_slot_act_for(set);

		topics_cluster_note_change();
		(void) topics_mark_slot_act_for(before);
	}
	PG_RETURN_VOID();
}

/*
 * At the end of a transaction.  When this node has left, it leads what it has:
 * nobody replicates now, for our lock is held until after this.  Raises
 * nothing.
 */
void
topics_membership_at_end(bool commit)
{
	if (commit && leaving && topics_mark_slot_kind() == CLUSTER_NONE)
	{
		topics_partition_state_forget_ends(MyDatabaseId);
		topics_follower_forget_database(MyDatabaseId);
	}
	leaving = false;
	for (int set = -1; (set = topics_leader_set_after(frozen_sets, set)) >= 0;)
		topics_mark_slot_thaw(set);
	frozen_sets = 0;
	/* the cluster that has just been made */
	if (commit)
		topics_membership_publish();
	begins_epoch = 0;
}

/*
 * Give others some time to hear of the latest change of nodes.  The wait can
 * be cancelled.
 */
static void
wait_for_no_change(void)
{
	MonotonicTime until = topics_clock_in(PATIENCE_MS);

	while (topics_mark_slot_is_changing() && topics_clock_now() < until)
		topics_peer_nap(POLL_MS);
}

typedef struct RemovedNode
{
	const char *node;
	const char *conninfo;
	const char *cluster_id;
} RemovedNode;

/* Tell a node that it is in the cluster no more, if it is that node. */
static void
tell_removed(void *arg)
{
	const RemovedNode *removed = arg;
	const char *values[] = {removed->node, removed->cluster_id};

	if (topics_peer_run(removed->node, removed->conninfo, "SELECT topic_log.leave_cluster() FROM topic_log.cluster"
						" WHERE leader_set = 0 AND node = $1 AND cluster_id = $2", values, lengthof(values)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the database there is not that node")));
}

/* On a follower: have the leader remove a node. */
static void
have_leader_remove(const ClusterRow *row, const char *node)
{
	if (strcmp(node, row->node) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("node \"%s\" is this node", node),
				 errhint("Call topics.remove_node() on another one.")));
	topics_membership_run_on_leader(row, "topics.remove_node()", "CALL topics.remove_node($1)", &node, 1);
}

/*
 * Require a node not to lead any leader set: who leads it when the node is
 * gone has to be elected before.
 */
static void
require_leads_none(const char *node)
{
	ClusterRow	row;

	for (int set = METADATA_SET + 1; set < MAX_LEADER_SETS; set++)
		if (topics_cluster_read_row_of(set, &row) && strcmp(row.leader, node) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("node \"%s\" leads partitions of topics whose leaders are spread", node),
					 errhint("CALL topics.move_leader('<another node>', '%s') before, or topics.failover('%s') on another node if it is lost.", node, node)));
}

/* CALL remove_node(node) */
Datum
topics_remove_node(PG_FUNCTION_ARGS)
{
	RemovedNode removed = {.node = get_node_argument(fcinfo, 0)};
	const MetadataNode *known;
	ClusterRow	row;
	ErrorData  *error;

	topics_membership_check_call("topics.remove_node()");
	topics_argument_require_no_block(fcinfo, "topics.remove_node()");
	if (topics_cluster_read_row(&row) && !row.leads)
	{
		have_leader_remove(&row, removed.node);
		PG_RETURN_VOID();
	}
	row = require_leader("topics.remove_node()");
	removed.cluster_id = row.cluster_id;
	if (strcmp(removed.node, row.node) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("node \"%s\" is this node, which leads", removed.node)));
	require_leads_none(removed.node);
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	wait_for_no_change();
	topics_membership_lock_to_write();
	require_leads_none(removed.node);
	known = topics_metadata_find_node(removed.node);
	if (known == NULL)
		topics_membership_report_no_node(removed.node);
	if (known->counts)
		require_no_change();
	removed.conninfo = known->conninfo;
	if (known->counts)
		topics_membership_adjust_acks(removed.node, false);
	topics_metadata_remove_node(removed.node);
	SPI_commit();
	topics_membership_forget_follower(removed.node);
	error = topics_peer_try(tell_removed, &removed);
	if (error)
		ereport(WARNING,
				(errmsg("node \"%s\" was removed, but could not be told", removed.node),
				 errdetail_internal("%s", error->detail ? error->detail : error->message),
				 errhint("It gets nothing any more. SELECT topic_log.leave_cluster() there lets it lead its topics itself.")));
	SPI_finish();
	PG_RETURN_VOID();
}
