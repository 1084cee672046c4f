/*-------------------------------------------------------------------------
 *
 * recheck.c
 *		What a record was checked against must hold when it is stored.
 *
 * A record is checked when it is produced, and stored when its transaction
 * commits.  What it was checked against may change meanwhile: a domain gets a
 * constraint, a topic's settings get stricter.  A heap has the row from the
 * beginning, so that the one who adds a constraint waits for the transaction,
 * and finds the row.  Nobody waits for a record in a buffer: a transaction that
 * stays open after produce() delays nobody.  So the commit looks whether
 * anything has changed, and only then checks the records again.  A record that
 * fails fails the commit.
 *
 * WHAT CAN CHANGE.
 *	- The domain of a column, or a domain below it.  Whatever adds a constraint
 *	  to a domain, or makes it NOT NULL, invalidates its row of pg_type.  A
 *	  syscache callback notes these rows.  A record may have been checked long
 *	  before it was produced: an INSERT prepares the checks of all its rows when
 *	  it begins.  So a change counts if it was heard of since the last
 *	  transaction ended.  That may be earlier than need be, which costs a check.
 *	- max_message_bytes, and "compact" in cleanup_policy.  Kafka checks both
 *	  when a record is appended.
 * Nothing else: ALTER DOMAIN is refused where an array, a composite type or a
 * range of the domain is a column's type, even while the table is empty, and so
 * are changes of composite types that stored values would not follow.
 *
 * WHY NOTHING CHANGES AFTER THE CHECK.  The commit checks when it has locked
 * the tables of the partition and the segments ROW EXCLUSIVE, until it ends.
 * ALTER DOMAIN takes SHARE locks on them (log/domain.c), and has its own
 * until its transaction has ended and all were told: whoever locks the table
 * after it hears of the change with the lock, before the check.  If the commit
 * has the lock first, ALTER DOMAIN waits for it, and then finds the record.
 * Only a constraint that is NOT VALID is added without a lock.  It is checked
 * if it is known, and those who VALIDATE it later find the record.
 *
 * WHO CHECKS.  A CHECK runs code of the domain's owner, which was run by the
 * role that produced, under its search_path.  At the commit the role and the
 * path may be others: those of the caller of a SECURITY DEFINER function, say.
 * So a note at each record tells which they were.  The code can write nothing:
 * deferred triggers and constraints were done before.  The role cannot be left.
 *
 * See docs/decisions/0001-offsets-at-commit.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "base/base.h"
#include "log/log.h"
#include "produce/produce.h"
#include "pg_topics.h"

#define MAX_CHANGED_TYPES 64	/* more: all count as changed */
#define FIRST_CHECKERS 4		/* room for as many at first */
#define RECHECK_BATCH 100		/* records that are read at once */

/*
 * Types whose rows have changed since the last transaction ended: hash values
 * of the syscache, where 0 stands for all types.
 */
static uint32 changed_types[MAX_CHANGED_TYPES];
static uint64 nchanged_types = 0;	/* may be more than there is room for */

/* On whose behalf records were checked; the note of a record is an index. */
typedef struct Checker
{
	Oid			role;
	char	   *search_path;
} Checker;

static Checker *checkers = NULL;	/* in TopTransactionContext */
static uint32 ncheckers = 0;
static uint32 max_checkers = 0;

/* What the session has while it checks on behalf of a checker. */
typedef struct CheckerScope
{
	Oid			role;
	int			context;
	int			guc_level;
	bool		read_only;
} CheckerScope;

/* ----------------------------------------------------------------
 *		While the transaction runs
 * ----------------------------------------------------------------
 */

/* Called for each invalidation of a row of pg_type. */
static void
note_changed_type(Datum arg, int cacheid, uint32 hash_value)
{
	if (nchanged_types < MAX_CHANGED_TYPES)
		changed_types[nchanged_types] = hash_value;
	nchanged_types++;
}

/* Find or make the entry of the role and the search_path of now. */
static uint32
note_checker(void)
{
	Oid			role = GetUserId();

	for (uint32 i = ncheckers; i-- > 0;)
		if (checkers[i].role == role && strcmp(checkers[i].search_path, namespace_search_path) == 0)
			return i;

	if (ncheckers >= max_checkers)
	{
		max_checkers = Max(FIRST_CHECKERS, max_checkers * 2);
		checkers = checkers ? repalloc(checkers, sizeof(Checker) * max_checkers) :
			MemoryContextAlloc(TopTransactionContext, sizeof(Checker) * max_checkers);
	}
	checkers[ncheckers].search_path = MemoryContextStrdup(TopTransactionContext,
														  namespace_search_path);
	checkers[ncheckers].role = role;
	return ncheckers++;
}

static bool
column_has_domain(const TopicColumn *column)
{
	return column->type != column->base_type;
}

/*
 * Note what a record that is put into the buffer was checked against.  The
 * result is to be kept with the record.
 */
uint32
topics_recheck_note(const Topic *topic, RecordChecks *checks)
{
	checks->max_message_bytes = Max(checks->max_message_bytes, topic->settings.max_message_bytes);
	checks->key_optional |= !topic->settings.compact;
	if (!column_has_domain(&topic->key) && !column_has_domain(&topic->value))
		return 0;
	return note_checker();
}

/* ----------------------------------------------------------------
 *		At the commit
 * ----------------------------------------------------------------
 */

/*
 * Return true if a type's row has changed since "from" changes were heard of.
 */
static bool
type_has_changed(Oid type, uint64 from)
{
	uint32		hash_value = GetSysCacheHashValue1(TYPEOID, ObjectIdGetDatum(type));

	if (nchanged_types > MAX_CHANGED_TYPES)
		return true;
	for (uint64 i = from; i < nchanged_types; i++)
		if (changed_types[i] == hash_value || changed_types[i] == 0)
			return true;
	return false;
}

/* Return true if the domain of a column, or one below it, has changed. */
static bool
domain_has_changed(const TopicColumn *column, uint64 from)
{
	for (Oid type = column->type; type != column->base_type; type = topics_domain_below(type, NULL))
		if (type_has_changed(type, from))
			return true;
	return false;
}

/* Check as a role may that is not the session's, and without a trace. */
static void
become_checker(const Checker *checker, CheckerScope *scope)
{
	GetUserIdAndSecContext(&scope->role, &scope->context);
	scope->guc_level = NewGUCNestLevel();
	scope->read_only = XactReadOnly;
	topics_settings_override("search_path", checker->search_path);
	SetUserIdAndSecContext(checker->role, scope->context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	XactReadOnly = true;
}

/* The session is itself again.  An error on the way does so by aborting. */
static void
leave_checker(const CheckerScope *scope)
{
	XactReadOnly = scope->read_only;
	SetUserIdAndSecContext(scope->role, scope->context);
	AtEOXact_GUC(false, scope->guc_level);
}

static void
check_column(Topic *topic, TopicColumn *column, Datum value, bool isnull)
{
	if (isnull)
		topics_produce_check_null(topic, column);
	else
		topics_produce_check_value(topic, column, value);
}

/* Take a record apart, as it was drafted. */
static void
read_draft(HeapTuple tuple, TupleDesc desc, RecordDraft *draft)
{
	Datum		values[Natts_log];
	bool		nulls[Natts_log];

	heap_deform_tuple(tuple, desc, values, nulls);
	draft->key = values[Anum_log_key - 1];
	draft->key_isnull = nulls[Anum_log_key - 1];
	draft->value = values[Anum_log_value - 1];
	draft->value_isnull = nulls[Anum_log_value - 1];
	draft->headers = values[Anum_log_headers - 1];
	draft->headers_isnull = nulls[Anum_log_headers - 1];
}

/* Check some records again.  The session is itself before and after. */
static void
check_batch(Topic *topic, TupleDesc desc, HeapTupleData *tuples, int count, bool domains)
{
	CheckerScope scope;
	uint32		checker = 0;

	for (int i = 0; i < count; i++)
	{
		RecordDraft draft;

		read_draft(&tuples[i], desc, &draft);
		topics_produce_check_settings(topic, &draft);
		if (!domains)
			continue;
		if (i == 0 || topics_buffer_note(&tuples[i]) != checker)
		{
			if (i > 0)
				leave_checker(&scope);
			checker = topics_buffer_note(&tuples[i]);
			become_checker(&checkers[checker], &scope);
		}
		check_column(topic, &topic->key, draft.key, draft.key_isnull);
		check_column(topic, &topic->value, draft.value, draft.value_isnull);
	}
	if (domains)
		leave_checker(&scope);
}

static void
add_context(void *arg)
{
	errcontext("check of a record of topic \"%s\" when its transaction commits",
			   NameStr(((Topic *) arg)->name));
}

/* Check all records of a list again. */
static void
check_list(Topic *topic, RecordList *records, bool domains)
{
	TupleDesc	desc = topic->tupdesc;	/* a CHECK may have the topic reloaded */
	HeapTupleData *tuples = palloc(sizeof(HeapTupleData) * RECHECK_BATCH);
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "pg_topics recheck",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);
	ErrorContextCallback context = {
		.callback = add_context,
		.arg = topic,
		.previous = error_context_stack
	};
	RecordCursor cursor;
	int			count;

	error_context_stack = &context;
	if (domains)
		PushActiveSnapshot(GetTransactionSnapshot());
	topics_buffer_rewind(&cursor, records);
	while ((count = topics_buffer_read(&cursor, tuples, RECHECK_BATCH)) > 0)
	{
		CHECK_FOR_INTERRUPTS();
		check_batch(topic, desc, tuples, count, domains);
		MemoryContextReset(cxt);
	}
	if (domains)
	{
		PopActiveSnapshot();
		/* cursors that a CHECK has left open: nobody closes them any more */
		(void) PreCommit_Portals(false);
	}
	error_context_stack = context.previous;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(cxt);
	pfree(tuples);
}

/*
 * Check a partition's records again, if what they were checked against has
 * changed.  The caller has locked the partition's table and the segments, and
 * holds no append lock: code of others may run here.
 */
void
topics_recheck_records(Topic *topic, RecordList *records, RecordChecks *checks)
{
	uint64		known_types = nchanged_types;
	bool		domains = known_types > checks->known_types &&
		(domain_has_changed(&topic->key, checks->known_types) ||
		 domain_has_changed(&topic->value, checks->known_types));

	if (domains || topic->settings.max_message_bytes < checks->max_message_bytes ||
		(topic->settings.compact && checks->key_optional))
		check_list(topic, records, domains);
	checks->known_types = known_types;
	checks->max_message_bytes = topic->settings.max_message_bytes;
	checks->key_optional = !topic->settings.compact;
}

/* Forget all at the end of a transaction. */
void
topics_recheck_forget(void)
{
	nchanged_types = 0;
	checkers = NULL;
	ncheckers = max_checkers = 0;
}

void
topics_recheck_init(void)
{
	CacheRegisterSyscacheCallback(TYPEOID, note_changed_type, (Datum) 0);
}
