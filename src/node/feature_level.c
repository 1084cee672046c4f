/*-------------------------------------------------------------------------
 *
 * feature_level.c
 *		What all nodes of a cluster can do.
 *
 * Nodes are upgraded one after the other, so for a while some have a newer
 * library, and newer SQL objects, than others.  topic_log.feature_level() of
 * the install script tells what a version can write, and read; a version that
 * brings a new kind of record, or another format, has a higher one.  The
 * cluster's feature level is in the metadata, and is the lowest that all of
 * its nodes have: it rises when the last one says so, and never falls.  Who
 * writes what needs a level looks at that of the cluster (ClusterRow), not at
 * its own.  (Kafka: metadata.version, but that an operator raises that.)
 *
 * A node says its level when it begins to follow (divergence.c).  One whose
 * level is lower than the cluster's, since its server went back to an older
 * version, neither follows, nor leads, nor joins.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "node/node.h"
#include "pg_topics.h"

const char *const topics_feature_level_query = "SELECT topic_log.feature_level()";

/* Return the level of this node's version. */
int
topics_feature_level_own(void)
{
	StatementScope scope;
	int			result;

	PushActiveSnapshot(GetLatestSnapshot());
	scope = topics_statement_begin();
	if (SPI_execute(topics_feature_level_query, true, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not get the feature level");
	result = pg_strtoint32(SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
	topics_statement_end(scope);
	PopActiveSnapshot();
	return result;
}

/*
 * Require a node of a level to be able to do what the cluster's other nodes
 * do.
 */
void
topics_feature_level_require(const ClusterRow *row, const char *node, int level)
{
	if (level < row->feature_level)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("node \"%s\" has feature level %d, and the cluster has %d", node, level, row->feature_level),
				 errdetail("Other nodes may write what it cannot read."),
				 errhint("Install the version of pg_topics there that the others have, and run ALTER EXTENSION pg_topics UPDATE.")));
}

/*
 * A node has a level.  Find whether its record, or that of this node, says
 * another one, and whether the cluster's level may rise; with "is_locked" have
 * the metadata say so.
 */
static bool
settle(const char *name, int level, bool is_locked)
{
	int			own = topics_feature_level_own();
	int			lowest = PG_INT32_MAX;
	bool		is_new = false;
	ClusterRow	row;
	ListCell   *lc;

	topics_cluster_require_row(&row);
	foreach(lc, topics_metadata_list_nodes())
	{
		MetadataNode *node = lfirst(lc);
		int			known = node->feature_level;

		if (strcmp(node->name, row.node) == 0)
			node->feature_level = own;
		else if (strcmp(node->name, name) == 0)
			node->feature_level = level;
		lowest = topics_min(lowest, node->feature_level);
		is_new |= node->feature_level != known;
		if (is_locked && node->feature_level != known)
			topics_metadata_put_node(node);
	}
	if (is_locked && lowest > row.feature_level)
	{
		topics_membership_raise_feature_level(lowest);
		ereport(LOG, (errmsg("pg_topics: the cluster has feature level %d from now on", lowest)));
	}
	return is_new || lowest > row.feature_level;
}

/*
 * On the leader: a node, which may be itself, says its level.  With the last
 * one the cluster's rises.
 */
void
topics_feature_level_note(const ClusterRow *row, const char *node, int level)
{
	topics_feature_level_require(row, node, level);
	if (!settle(node, level, false))
		return;
	topics_membership_lock_to_write();
	topics_cluster_require_leader("topic_log.find_divergence()");
	(void) settle(node, level, true);
}
