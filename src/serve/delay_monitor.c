/*-------------------------------------------------------------------------
 *
 * delay_monitor.c
 *		Who keeps steps of the worker's from being done (shared/delay.c), for the
 *		view topics.worker.
 *
 * PostgreSQL's own views tell that, at the moment that the row is made.  Of
 * several the oldest is named: those that came later often are in the way for
 * its sake.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "serve/serve.h"

/*
 * Who has locked table $1.  What a prepared transaction has locked stands under
 * the same virtual transaction as its id.
 */
static const char *const lock_holder =
"SELECT CASE WHEN gid IS NULL THEN 'process' ELSE 'prepared' END, coalesce(gid, l.pid::text)"
" FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid LEFT JOIN"
" (SELECT virtualtransaction, gid, prepared FROM pg_locks"
" JOIN pg_prepared_xacts ON transactionid = transaction WHERE locktype = 'transactionid') x"
" ON l.pid IS NULL AND x.virtualtransaction = l.virtualtransaction"
" WHERE locktype = 'relation' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
" AND relation = $1 AND granted AND mode <> 'SIReadLock' AND coalesce(gid, l.pid::text) IS NOT NULL"
" AND coalesce(backend_type, '') NOT LIKE 'pg_topics%'"
" ORDER BY coalesce(prepared, xact_start) LIMIT 1";

/*
 * Who has a snapshot as old as $1, or a transaction that such snapshots do not
 * see.  A standby tells of its own by hot_standby_feedback, through its slot if
 * it has one.  VACUUM has a snapshot that keeps nothing.
 */
static const char *const snapshot_holder =
"SELECT kind, name FROM ("
"SELECT 'prepared', gid, transaction, NULL::xid, prepared FROM pg_prepared_xacts"
" WHERE database = current_database()"
" UNION ALL SELECT 'slot', slot_name, xmin, NULL::xid, '-infinity' FROM pg_replication_slots"
" UNION ALL SELECT CASE backend_type WHEN 'walsender' THEN 'standby' ELSE 'process' END, pid::text,"
" backend_xmin, backend_xid, xact_start FROM pg_stat_activity"
" WHERE (datname = current_database() OR backend_type = 'walsender')"
" AND backend_type <> 'autovacuum worker' AND query !~* '^\\s*vacuum'"
") x (kind, name, xmin, xid, since)"
" WHERE greatest(age(xmin), age(xid)) >= age($1) ORDER BY since NULLS FIRST LIMIT 1";

/* What is said of each kind of them. */
typedef struct HolderText
{
	const char *kind;
	const char *locks;			/* a format for its name */
	const char *sees;
	const char *hint;			/* a format for its name as a literal, twice,
								 * and the database's */
} HolderText;

static const HolderText holder_texts[] = {
	{"process",
		"a lock of process %s is in the way",
		"process %s has a transaction that may still need what is to go",
	"It goes on when that transaction ends."},
	{"prepared",
		"a lock of prepared transaction \"%s\" is in the way",
		"prepared transaction \"%s\" is older than what is to be done",
	"Use COMMIT PREPARED %s or ROLLBACK PREPARED %s in database \"%s\"."},
	{"standby",
		NULL,
		"the standby of process %s has a query that may still need what is to go",
	"It goes on when that query ends; see hot_standby_feedback."},
	{"slot",
		NULL,
		"replication slot \"%s\" keeps what is to go for its standby",
	"It goes on when the query on the standby ends. If there is no such standby any more, drop the slot."},
};

/*
 * Find out who is in the way, and what is to be said of that, palloc'd.  Return
 * false if it is nobody any more.
 */
bool
topics_delay_monitor_describe(const WorkDelay *delay, char **message, char **hint)
{
	const bool	by_lock = OidIsValid(delay->relid);
	Oid			types[] = {by_lock ? OIDOID : XIDOID};
	Datum		values[] = {
		by_lock ? ObjectIdGetDatum(delay->relid) : TransactionIdGetDatum(delay->xmin)
	};
	MemoryContext cxt = CurrentMemoryContext;
	StatementScope scope = topics_statement_begin();
	bool		found;

	if (SPI_execute_with_args(by_lock ? lock_holder : snapshot_holder, lengthof(types), types, values,
							  NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for what is in the way");
	found = SPI_processed > 0;
	if (found)
	{
		char	   *kind = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
		char	   *name = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2);
		const HolderText *text = holder_texts;
		MemoryContext old = MemoryContextSwitchTo(cxt);

		while (strcmp(text->kind, kind) != 0)
			text	  ++;

		*message = psprintf(by_lock ? text->locks : text->sees, name);
		*hint = psprintf(text->hint, quote_literal_cstr(name), quote_literal_cstr(name),
						 get_database_name(MyDatabaseId));

		MemoryContextSwitchTo(old);
	}
	topics_statement_end(scope);
	return found;
}
