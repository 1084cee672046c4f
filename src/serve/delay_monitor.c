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
#include "group/group.h"
#include "serve/serve.h"

/*
 * Who has a lock.  What a prepared transaction has locked stands under the same
 * virtual transaction as its id.
 */
#define LOCK_HOLDER(condition) \
"SELECT CASE WHEN gid IS NULL THEN 'process' ELSE 'prepared' END, coalesce(gid, l.pid::text)" \
" FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid LEFT JOIN" \
" (SELECT virtualtransaction, gid, prepared FROM pg_locks" \
" JOIN pg_prepared_xacts ON transactionid = transaction WHERE locktype = 'transactionid') x" \
" ON l.pid IS NULL AND x.virtualtransaction = l.virtualtransaction" \
" WHERE " condition \
" AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())" \
" AND granted AND coalesce(gid, l.pid::text) IS NOT NULL" \
" AND coalesce(backend_type, '') NOT LIKE 'pg_topics%'" \
" ORDER BY coalesce(prepared, xact_start) LIMIT 1"

/* Of table $1. */
static const char *const lock_holder =
LOCK_HOLDER("locktype = 'relation' AND relation = $1 AND mode <> 'SIReadLock'");

/*
 * Of kind $1, on what a group's members are, $2 and $3; or on the group, $4 and
 * $5, which all lock in shared mode that use it.
 */
static const char *const group_holder =
LOCK_HOLDER("locktype = 'userlock' AND objsubid = $1"
			" AND (classid = $2 AND objid = $3 OR classid = $4 AND objid = $5 AND mode = 'ExclusiveLock')");

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
	const char *locks;			/* a format for its name, and for what it has
								 * locked */
	const char *sees;			/* one for its name */
	const char *hint;			/* a format for its name as a literal, twice,
								 * and the database's */
} HolderText;

static const HolderText holder_texts[] = {
	{"process",
		"a lock of process %s%s is in the way",
		"process %s has a transaction that may still need what is to go",
	"It goes on when that transaction ends."},
	{"prepared",
		"a lock of prepared transaction \"%s\"%s is in the way",
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

/* Who is in the way. */
typedef struct Holder
{
	const HolderText *said;		/* of its kind */
	char	   *name;
} Holder;

/*
 * Find who is in the way, by a query with parameters, palloc'd.  Return false
 * if it is nobody.
 */
static bool
find_holder(const char *query, int count, Oid *types, Datum *values, Holder *holder)
{
	MemoryContext cxt = CurrentMemoryContext;
	StatementScope scope = topics_statement_begin();
	bool		found;

	if (SPI_execute_with_args(query, count, types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for what is in the way");
	found = SPI_processed > 0;
	if (found)
	{
		char	   *kind = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);

		holder->said = holder_texts;
		while (strcmp(holder->said->kind, kind) != 0)
			holder->said++;
		holder->name = MemoryContextStrdup(cxt, SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2));
	}
	topics_statement_end(scope);
	return found;
}

static char *
make_hint(const Holder *holder)
{
	char	   *literal = quote_literal_cstr(holder->name);

	return psprintf(holder->said->hint, literal, literal, get_database_name(MyDatabaseId));
}

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
	Holder		holder;

	if (!find_holder(by_lock ? lock_holder : snapshot_holder, lengthof(types), types, values, &holder))
		return false;
	*message = psprintf(by_lock ? holder.said->locks : holder.said->sees, holder.name, "");
	*hint = make_hint(&holder);
	return true;
}

/* And who has locked a group, so that the worker cannot see to its members. */
bool
topics_delay_monitor_describe_group(const char *group_id, char **message, char **hint)
{
	const GroupOffsetKey group = topics_offset_table_make_key(group_id, NO_TOPIC, NO_PARTITION);
	const GroupOffsetKey members = topics_offset_table_make_key(group_id, NO_TOPIC, MEMBERS_PARTITION);
	const LOCKTAG group_tag = topics_offset_table_make_lock_tag(&group);
	const LOCKTAG members_tag = topics_offset_table_make_lock_tag(&members);
	Oid			types[] = {INT4OID, OIDOID, OIDOID, OIDOID, OIDOID};
	Datum		values[] = {
		Int32GetDatum(members_tag.locktag_field4),
		ObjectIdGetDatum(members_tag.locktag_field2), ObjectIdGetDatum(members_tag.locktag_field3),
		ObjectIdGetDatum(group_tag.locktag_field2), ObjectIdGetDatum(group_tag.locktag_field3)
	};
	Holder		holder;

	if (!find_holder(group_holder, lengthof(types), types, values, &holder))
		return false;
	*message = psprintf(holder.said->locks, holder.name, psprintf(" on consumer group \"%s\"", group_id));
	*hint = make_hint(&holder);
	return true;
}
