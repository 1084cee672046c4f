/*-------------------------------------------------------------------------
 *
 * copy.c
 *		COPY into a topic's view, without its trigger.
 *
 * PostgreSQL's COPY into a view forms a tuple of each row, calls the view's
 * INSTEAD OF trigger, and takes the tuple that it returns apart again, for no
 * use.  That costs more than all else that is done with the row before the
 * commit.  So the usual COPY is done here: PostgreSQL's own reader and parser
 * (BeginCopyFrom, NextCopyFrom) read the rows, and these go where the trigger
 * would have given them (topics_insert_row).
 *
 * Any other COPY goes PostgreSQL's way and meets the trigger, which does the
 * same more slowly: WHERE, options that NextCopyFrom does not deal with alone,
 * triggers that were added to the view or disabled, a right that is given by
 * columns or not at all, also that to read the server's files, a read-only
 * transaction, other libraries that have a say in commands or rights.  So no
 * error of COPY about them is repeated here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "commands/copy.h"
#include "commands/progress.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "parser/parse_node.h"
#include "pgstat.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "log/log.h"
#include "produce/produce.h"
#include "pg_topics.h"

/* Return true if an option only says how the text is to be read. */
static bool
is_reading_option(const char *name)
{
	static const char *const options[] = {
		"format", "delimiter", "null", "header", "quote", "escape", "encoding",
		"force_not_null", "force_null"
	};

	for (int i = 0; i < (int) lengthof(options); i++)
		if (strcmp(name, options[i]) == 0)
			return true;
	return false;
}

/* Return true if the role may read what is read: of a client, it always may. */
static bool
may_read_source(const CopyStmt *stmt)
{
	return stmt->filename == NULL ||
		has_privs_of_role(GetUserId(), stmt->is_program ? ROLE_PG_EXECUTE_SERVER_PROGRAM :
						  ROLE_PG_READ_SERVER_FILES);
}

/* Return true for a COPY whose rows can be read here; see above. */
static bool
is_usual_copy(const CopyStmt *stmt)
{
	ListCell   *lc;

	if (!stmt->is_from || stmt->relation == NULL || stmt->whereClause != NULL ||
		!may_read_source(stmt))
		return false;
	foreach(lc, stmt->options)
	{
		if (!is_reading_option(((DefElem *) lfirst(lc))->defname))
			return false;
	}
	return !XactReadOnly && !IsInParallelMode() && ExecutorCheckPerms_hook == NULL;
}

/* Open and lock the topic's view that a COPY inserts into, or return NULL. */
static Relation
open_topic_view(const CopyStmt *stmt)
{
	Oid			relid = RangeVarGetRelid(stmt->relation, NoLock, true);
	Relation	view;

	if (!OidIsValid(relid) || get_rel_relkind(relid) != RELKIND_VIEW ||
		get_rel_namespace(relid) != get_namespace_oid(TOPIC_SCHEMA, true) ||
		topics_catalog_get(relid, true) == NULL)
		return NULL;

	view = table_openrv(stmt->relation, RowExclusiveLock);
	if (RelationGetRelid(view) == relid && topics_insert_calls_us_only(view) &&
		pg_class_aclcheck(relid, GetUserId(), ACL_INSERT) == ACLCHECK_OK)
		return view;
	table_close(view, NoLock);
	return NULL;
}

/* Give each row of the COPY to the transaction; return their number. */
static uint64
copy_rows(Topic *topic, CopyFromState state)
{
	EState	   *estate = CreateExecutorState();
	ExprContext *econtext = GetPerTupleExprContext(estate);
	MemoryContext old = CurrentMemoryContext;
	ErrorContextCallback context = {
		.callback = CopyFromErrorCallback,
		.arg = state,
		.previous = error_context_stack
	};
	Datum		values[Natts_view];
	bool		nulls[Natts_view];
	uint64		count = 0;

	error_context_stack = &context;
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		ResetPerTupleExprContext(estate);
		MemoryContextSwitchTo(GetPerTupleMemoryContext(estate));
		if (!NextCopyFrom(state, econtext, values, nulls))
			break;
		topics_insert_row(topic, values, nulls);
		pgstat_progress_update_param(PROGRESS_COPY_TUPLES_PROCESSED, ++count);
	}
	error_context_stack = context.previous;
	MemoryContextSwitchTo(old);
	FreeExecutorState(estate);
	return count;
}

/*
 * Do a COPY if it is a usual one into a topic.  Return false if it is not:
 * then nothing was done but to lock the view as COPY does.
 */
bool
topics_copy_from(PlannedStmt *pstmt, const char *query, QueryEnvironment *env,
				 QueryCompletion *qc)
{
	CopyStmt   *stmt = castNode(CopyStmt, pstmt->utilityStmt);
	Relation	view;
	Topic	   *topic;
	ParseState *pstate;
	CopyFromState state;
	uint64		count;

	if (!is_usual_copy(stmt) || (view = open_topic_view(stmt)) == NULL)
		return false;

	topic = topics_insert_begin(view);
	pstate = make_parsestate(NULL);
	pstate->p_sourcetext = query;
	pstate->p_queryEnv = env;
	state = BeginCopyFrom(pstate, view, NULL, stmt->filename, stmt->is_program, NULL,
						  stmt->attlist, stmt->options);
	count = copy_rows(topic, state);
	EndCopyFrom(state);
	free_parsestate(pstate);
	table_close(view, NoLock);
	if (qc)
		SetQueryCompletion(qc, CMDTAG_COPY, count);
	return true;
}
