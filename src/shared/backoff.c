/*-------------------------------------------------------------------------
 *
 * backoff.c
 *		Pieces of the worker's work, and those that fail.
 *
 * A piece of work is the maintenance of a partition, or its compaction, or
 * what is done for a topic or for the whole database.  One that fails is noted
 * in shared memory, and not tried again before its time has come: 1 s after
 * the first failure, then twice as long each time, up to 5 minutes.  So a
 * broken topic costs the others nothing, and the log a line for each try.  A
 * failure that says no more than that another process was in the way is tried
 * again within 10 s, and within 3 s if another server cannot be reached, or
 * does not let us in.  The note goes when the piece has succeeded, when the
 * topic is altered, or when maintain() is called for it.
 *
 * A piece can also end the worker, or crash the server, again and again.  So it
 * is noted before it begins.  A worker that finds such a note of its
 * predecessor counts that as a failure, unless that one was told to end.  Notes
 * are written to a file as well, since a crash takes shared memory with it.
 * The file need not be flushed: what an operating system's crash takes along is
 * found out again.  After a crash that had another cause the piece loses a
 * second; but for replication, which is tried again at once the first time: a
 * follower's readers would lack this partition, and have what was committed
 * with it in others.
 * The notes of a server that was a primary and starts as a standby are dropped.
 *
 * There are MAX_BROKEN notes of topics.  If more pieces fail at the same
 * time, the whole round of the database fails instead, for which there is
 * always a place: nothing is logged more often, at the cost of the others.
 * The notes are kept together at the beginning, so that looking for one costs
 * next to nothing as long as nothing fails.
 *
 * LOCKING
 *
 *	notes_lock	(LWLock) all of BackoffShared, and the file.  Shared: read.
 *		Exclusive: change.  Nothing is acquired while it is held.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "base/base.h"
#include "shared/shared.h"

#define FIRST_DELAY_MS 1000
#define BUSY_DELAY_MS 10000		/* at most, if another process was in the way */
#define UNREACHABLE_DELAY_MS 3000	/* at most, if another server cannot be
									 * reached, or refuses us: commits there
									 * may wait for us */
#define MAX_DELAY_MS 300000
#define MAX_BROKEN 1000			/* pieces of topics and partitions */
#define PLACES (MAX_BROKEN + WORK_KINDS * MAX_WORKERS)
#define BACKOFF_FILE PG_STAT_TMP_DIR "/pg_topics.work"
#define FILE_MAGIC (0x70674b00 + sizeof(WorkFailure))

typedef struct BackoffShared
{
	int			count;
	WorkFailure failures[PLACES];	/* the first "count" */
} BackoffShared;

static BackoffShared *backoff = NULL;
static LWLock *notes_lock = NULL;

/* The piece that this process is at, if any. */
static WorkPiece current;
static bool at_work = false;

/* What an error was about, for the log. */
typedef struct WorkName
{
	const char *topic;
	int32		partition;
} WorkName;

static const char *const step_names[] = {
	[STEP_LOOK] = "look",
	[STEP_ROLL] = "roll",
	[STEP_SPARE] = "spare",
	[STEP_SEAL] = "seal",
	[STEP_EXPIRE] = "expire",
	[STEP_DROP] = "drop",
	[STEP_COMPACT] = "compact",
	[STEP_OWNERS] = "owners",
	[STEP_FLOORS] = "floors",
	[STEP_NOTIFY] = "notify",
	[STEP_CONNECT] = "connect",
	[STEP_METADATA] = "metadata",
	[STEP_FETCH] = "fetch",
	[STEP_ELECT] = "elect",
};

StaticAssertDecl(lengthof(step_names) == WORK_STEPS, "each step has a name");

static long count_ms_to_retry(const WorkFailure *failure);

/* ----------------------------------------------------------------
 *		Shared memory, and the file
 * ----------------------------------------------------------------
 */

/* shmem_request_hook */
void
topics_backoff_shmem_request(void)
{
	RequestAddinShmemSpace(MAXALIGN(sizeof(BackoffShared)));
	RequestNamedLWLockTranche("pg_topics_backoff", 1);
}

/*
 * Return true if what was read from the file can be a note: a file may hold
 * anything.
 */
static bool
is_note(WorkFailure *failure)
{
	failure->message[MAX_FAILURE_MESSAGE - 1] = '\0';
	return OidIsValid(failure->piece.database) && failure->failures >= 0 &&
		(uint32) failure->step < lengthof(step_names);
}

/*
 * Return true if the server starts as a standby, or from a backup: whatever it
 * did before, another server has gone on from there.
 */
static bool
follows_another_server(void)
{
	return access(STANDBY_SIGNAL_FILE, F_OK) == 0 || access(RECOVERY_SIGNAL_FILE, F_OK) == 0;
}

/* Read the notes, and write the file anew. */
static void
read_notes(void)
{
	uint32		magic = 0;
	size_t		count = 0;
	FILE	   *file = follows_another_server() ? NULL : AllocateFile(BACKOFF_FILE, PG_BINARY_R);

	if (file)
	{
		if (fread(&magic, sizeof(magic), 1, file) == 1 && magic == FILE_MAGIC)
			count = fread(backoff->failures, sizeof(WorkFailure), PLACES, file);
		FreeFile(file);
	}
	for (size_t i = 0; i < count; i++)
		if (is_note(&backoff->failures[i]))
		{
			WorkFailure *failure = &backoff->failures[backoff->count++];

			*failure = backoff->failures[i];
			failure->retry_at = topics_clock_in(count_ms_to_retry(failure));
		}

	magic = FILE_MAGIC;
	count = backoff->count;
	file = AllocateFile(BACKOFF_FILE, PG_BINARY_W);
	if (file == NULL || fwrite(&magic, sizeof(magic), 1, file) != 1 ||
		fwrite(backoff->failures, sizeof(WorkFailure), count, file) != count)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", BACKOFF_FILE)));
	if (file)
		FreeFile(file);
}

/* shmem_startup_hook; the caller holds AddinShmemInitLock. */
void
topics_backoff_shmem_startup(void)
{
	bool		found;

	notes_lock = &GetNamedLWLockTranche("pg_topics_backoff")[0].lock;
	backoff = ShmemInitStruct("pg_topics backoff", sizeof(BackoffShared), &found);
	if (!found)
	{
		memset(backoff, 0, sizeof(BackoffShared));
		read_notes();
	}
}

/*
 * Write a note that has changed to the file.  Without the file it holds as long
 * as shared memory does.
 */
static void
write_note(WorkFailure *failure)
{
	static File notes_file = -1;
	int			place = failure - backoff->failures;

	Assert(LWLockHeldByMeInMode(notes_lock, LW_EXCLUSIVE));
	if (notes_file < 0)
		notes_file = PathNameOpenFile(BACKOFF_FILE, O_RDWR | PG_BINARY);
	if (notes_file >= 0)
		(void) FileWrite(notes_file, (char *) failure, sizeof(WorkFailure),
						 sizeof(uint32) + place * sizeof(WorkFailure), PG_WAIT_EXTENSION);
}

/* ----------------------------------------------------------------
 *		Notes; the caller holds the lock
 * ----------------------------------------------------------------
 */

static WorkFailure *
find_note(const WorkPiece *piece)
{
	Assert(LWLockHeldByMe(notes_lock));
	for (int i = 0; i < backoff->count; i++)
		if (memcmp(&backoff->failures[i].piece, piece, sizeof(WorkPiece)) == 0)
			return &backoff->failures[i];
	return NULL;
}

static WorkStep
get_first_step(WorkKind kind)
{
	static const WorkStep steps[] = {
		[WORK_MAINTAIN] = STEP_LOOK,
		[WORK_OWNERS] = STEP_OWNERS,
		[WORK_FLOORS] = STEP_FLOORS,
		[WORK_NOTIFY] = STEP_NOTIFY,
		[WORK_COMPACT] = STEP_COMPACT,
		[WORK_TABLES] = STEP_DROP,
		[WORK_REPLICATE] = STEP_CONNECT,
		[WORK_METADATA] = STEP_METADATA,
		[WORK_ELECT] = STEP_ELECT,
		[WORK_PRODUCERS] = STEP_EXPIRE,
		[WORK_MEMBERS] = STEP_EXPIRE
	};

	StaticAssertStmt(lengthof(steps) == WORK_KINDS, "each kind of work has a first step");
	return steps[kind];
}

/* The note of a piece, made if need be; NULL if there is no place. */
static WorkFailure *
make_note(const WorkPiece *piece)
{
	WorkFailure *failure = find_note(piece);

	/* the last places are kept for pieces of databases */
	if (failure == NULL && backoff->count < (OidIsValid(piece->view_relid) ? MAX_BROKEN : PLACES))
	{
		failure = &backoff->failures[backoff->count++];
		memset(failure, 0, sizeof(WorkFailure));
		failure->piece = *piece;
		failure->step = get_first_step(piece->kind);
	}
	return failure;
}

/* Remove a note; the last one takes its place. */
static void
drop_note(WorkFailure *failure)
{
	WorkFailure *last = &backoff->failures[--backoff->count];
	WorkFailure moved = *last;

	memset(last, 0, sizeof(WorkFailure));
	write_note(last);
	if (failure != last)
	{
		*failure = moved;
		write_note(failure);
	}
}

/* Count a failure, at step failure->step, and set the time of the next try. */
static void
count_failure(WorkFailure *failure, int sqlstate, const char *message)
{
	bool		busy = sqlstate == ERRCODE_LOCK_NOT_AVAILABLE ||
		sqlstate == ERRCODE_T_R_DEADLOCK_DETECTED || sqlstate == ERRCODE_QUERY_CANCELED;
	bool		unreachable = ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_CONNECTION_EXCEPTION ||
		sqlstate == ERRCODE_CANNOT_CONNECT_NOW || ((failure->step == STEP_CONNECT || failure->step == STEP_ELECT) && sqlstate != 0);
	bool		may_be_blameless = sqlstate == 0 && failure->failures == 0 &&
		failure->piece.kind == WORK_REPLICATE;
	int64		delay = may_be_blameless ? 0 : FIRST_DELAY_MS;

	for (int i = 0; i < failure->failures && delay < MAX_DELAY_MS; i++)
		delay *= 2;
	delay = Min(delay, unreachable ? UNREACHABLE_DELAY_MS : busy ? BUSY_DELAY_MS : MAX_DELAY_MS);

	failure->under_way = false;
	if (failure->failures++ == 0)
		failure->since = GetCurrentTimestamp();
	failure->retry_at = topics_clock_in(delay);
	failure->sqlstate = sqlstate;
	memset(failure->message, 0, MAX_FAILURE_MESSAGE);
	memcpy(failure->message, message,
		   pg_mbcliplen(message, strlen(message), MAX_FAILURE_MESSAGE - 1));
	write_note(failure);
}

/* ----------------------------------------------------------------
 *		When to try again
 * ----------------------------------------------------------------
 */

/*
 * Microseconds until a piece that has failed is to be tried again; no longer
 * than a delay can be, also where the note was read from a file: the clock that
 * it goes by has begun anew if the machine has.
 */
static int64
count_us_to_retry(const WorkFailure *failure)
{
	int64		left = topics_clock_us_until(failure->retry_at);

	return left > MAX_DELAY_MS * INT64CONST(1000) ? 0 : left;
}

/* Milliseconds until then, rounded up: whoever sleeps so long is not early. */
static long
count_ms_to_retry(const WorkFailure *failure)
{
	return (count_us_to_retry(failure) + 999) / 1000;
}

/* Return when a piece that has failed is to be tried again, for a person. */
TimestampTz
topics_backoff_retry_time(const WorkFailure *failure)
{
	return topics_worker_registry_wall_time(failure->retry_at);
}

/*
 * Return the milliseconds until any piece is to be tried again, or -1 if it has
 * not failed.
 */
long
topics_backoff_left(const WorkPiece *piece)
{
	WorkFailure *failure;
	long		result = -1;

	LWLockAcquire(notes_lock, LW_SHARED);
	failure = find_note(piece);
	if (failure && failure->failures > 0)
		result = count_ms_to_retry(failure);
	LWLockRelease(notes_lock);
	return result;
}

/*
 * Return true if the worker's rounds need not come for the piece: notify.c, the
 * compactor and the replicator look at the time of theirs themselves.
 */
static bool
has_own_time(const WorkPiece *piece)
{
	return piece->kind == WORK_NOTIFY || piece->kind == WORK_COMPACT ||
		piece->kind == WORK_REPLICATE || piece->kind == WORK_ELECT;
}

/*
 * Milliseconds until the next round that tries something again, or -1; no
 * earlier than there can be a round.
 */
long
topics_backoff_next_round(void)
{
	long		result = topics_backoff_left(&(WorkPiece) WHOLE_ROUND);

	if (result >= 0)
		return result;
	LWLockAcquire(notes_lock, LW_SHARED);
	for (int i = 0; i < backoff->count; i++)
	{
		const WorkFailure *failure = &backoff->failures[i];
		long		left;

		if (failure->piece.database != MyDatabaseId || failure->failures == 0 ||
			has_own_time(&failure->piece))
			continue;
		left = count_ms_to_retry(failure);
		result = result < 0 ? left : Min(result, left);
	}
	LWLockRelease(notes_lock);
	return result;
}

/*
 * Return when something of a database that has failed is to be tried again: the
 * first such time after "after", which is when its last round began, since what
 * that round has not tried is not wanted.  With "notify" it is about
 * notifications of the database, else about all that rounds do or have done.
 * NEVER if nothing is.
 */
MonotonicTime
topics_backoff_next_try(Oid database, MonotonicTime after, bool notify)
{
	MonotonicTime result = NEVER;

	LWLockAcquire(notes_lock, LW_SHARED);
	for (int i = 0; i < backoff->count; i++)
	{
		const WorkFailure *failure = &backoff->failures[i];

		if (failure->piece.database == database && failure->failures > 0 &&
			failure->retry_at > after && (failure->piece.kind == WORK_NOTIFY) == notify &&
			(!notify || !OidIsValid(failure->piece.view_relid)))
			result = Min(result, failure->retry_at);
	}
	LWLockRelease(notes_lock);
	return result;
}

/* ----------------------------------------------------------------
 *		Trying
 * ----------------------------------------------------------------
 */

/* A piece is under way from now on. */
static void
note_begin(const WorkPiece *piece)
{
	WorkFailure *failure;

	LWLockAcquire(notes_lock, LW_EXCLUSIVE);
	failure = make_note(piece);
	if (failure)
	{
		failure->under_way = true;
		failure->step = get_first_step(piece->kind);
		write_note(failure);
	}
	LWLockRelease(notes_lock);
}

/*
 * A piece, or a part of one, has succeeded: its note goes.  But if a part has
 * failed for which there was no place, the note is of that failure instead; it
 * is not "under way" any more, and stays.
 */
static void
note_success(const WorkPiece *piece, bool part)
{
	WorkFailure *failure;

	LWLockAcquire(notes_lock, LW_EXCLUSIVE);
	failure = find_note(piece);
	if (failure && (part || failure->under_way))
		drop_note(failure);
	LWLockRelease(notes_lock);
}

/*
 * Put down what an error says in one line: with the first object that is in the
 * way, where it does not name any.
 */
static void
describe_error(const ErrorData *error, char *buffer, Size size)
{
	const char *detail = error->sqlerrcode == ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST ? error->detail : NULL;

	snprintf(buffer, size, "%s%s%.*s", error->message ? error->message : "", detail ? ": " : "",
			 detail ? (int) strcspn(detail, "\n") : 0, detail ? detail : "");
}

/* A piece, or a part of one, has failed. */
static void
note_failure(const WorkPiece *piece, const ErrorData *error)
{
	char		message[MAX_FAILURE_MESSAGE];
	WorkFailure *failure;

	describe_error(error, message, sizeof(message));
	LWLockAcquire(notes_lock, LW_EXCLUSIVE);
	failure = make_note(piece);
	if (failure == NULL)
		failure = make_note(&(WorkPiece) WHOLE_ROUND);
	if (failure)
		count_failure(failure, error->sqlerrcode, message);
	LWLockRelease(notes_lock);
}

/* The process has come to a step of its piece of work, if it is at one. */
void
topics_backoff_step(WorkStep step)
{
	WorkFailure *failure;

	if (!at_work)
		return;
	LWLockAcquire(notes_lock, LW_EXCLUSIVE);
	failure = find_note(&current);
	if (failure && failure->step != step)
	{
		failure->step = step;
		write_note(failure);
	}
	LWLockRelease(notes_lock);
}

/* Error context: say which topic an error is about. */
static void
describe_piece(void *arg)
{
	const WorkName *name = arg;

	if (name->topic == NULL)
		errcontext("work for all topics of the database");
	else if (name->partition < 0)
		errcontext("work for topic \"%s\"", name->topic);
	else
		errcontext("work for partition %d of topic \"%s\"", name->partition, name->topic);
}

/*
 * Do a piece of work, unless it has failed and its time has not come.  An error
 * ends it, and is logged and noted.  Return true if it was done.
 *
 * It is done in a transaction of its own.  Called within a transaction, this
 * does a part of a piece, that which concerns one topic, in a subtransaction;
 * the part is noted only when it fails.  "topic" is the topic's name, or NULL
 * if the piece concerns all.  "work" may go to the next transaction if this is
 * not a part.
 */
bool
topics_backoff_run(const WorkPiece *piece, const char *topic, Work work, void *arg)
{
	const MemoryContext cxt = CurrentMemoryContext;
	const ResourceOwner owner = CurrentResourceOwner;
	const WorkPiece outer = current;
	const bool	outer_at_work = at_work;
	const bool	part = IsTransactionState();
	const long	left = topics_backoff_left(piece);
	WorkName	name = {topic, piece->partition};
	ErrorContextCallback callback = {error_context_stack, describe_piece, &name};
	volatile bool done = false;

	if (left > 0)
		return false;
	if (!part)
	{
		note_begin(piece);
		current = *piece;
		at_work = true;
	}
	error_context_stack = &callback;
	PG_TRY();
	{
		if (part)
			BeginInternalSubTransaction(NULL);
		else
		{
			/* what it writes says when */
			SetCurrentStatementStartTimestamp();
			StartTransactionCommand();
		}
		work(arg);
		if (part)
			ReleaseCurrentSubTransaction();
		else
			CommitTransactionCommand();
		done = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		EmitErrorReport();
		if (part)
			RollbackAndReleaseCurrentSubTransaction();
		else
			AbortCurrentTransaction();
		FlushErrorState();
		MemoryContextSwitchTo(cxt);
		note_failure(piece, error);
		FreeErrorData(error);
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	error_context_stack = callback.previous;
	MemoryContextSwitchTo(cxt);
	CurrentResourceOwner = owner;
	if (done && (!part || left >= 0))
		note_success(piece, part);
	current = outer;
	at_work = outer_at_work;
	return done;
}

/* ----------------------------------------------------------------
 *		The beginning and the end of a worker
 * ----------------------------------------------------------------
 */

/* Which process does a piece of work. */
static ServeKind
find_process(const WorkPiece *piece)
{
	return piece->kind == WORK_COMPACT ? SERVE_COMPACTOR :
		piece->kind == WORK_REPLICATE || piece->kind == WORK_ELECT ? SERVE_REPLICATOR + piece->set : SERVE_WORKER;
}

/*
 * Find a note of this database's, of a process's work, that says "under way";
 * the caller holds the lock.
 */
static WorkFailure *
find_under_way(ServeKind kind)
{
	for (int i = 0; i < backoff->count; i++)
	{
		WorkFailure *failure = &backoff->failures[i];

		if (failure->piece.database == MyDatabaseId && failure->under_way &&
			find_process(&failure->piece) == kind)
			return failure;
	}
	return NULL;
}

/*
 * Count as failed one piece of work in which the predecessor ended, if there is
 * one.
 */
static bool
count_unfinished(ServeKind kind, WorkFailure *result)
{
	WorkFailure *failure;

	LWLockAcquire(notes_lock, LW_EXCLUSIVE);
	failure = find_under_way(kind);
	if (failure)
	{
		count_failure(failure, 0, "the worker or the server ended during this work");
		*result = *failure;
	}
	LWLockRelease(notes_lock);
	return failure != NULL;
}

/*
 * In a new process: what its predecessor did not come to an end
 * of is a failure.
 */
void
topics_backoff_take_over(ServeKind kind)
{
	WorkFailure failure;

	StartTransactionCommand();
	while (count_unfinished(kind, &failure))
	{
		char	   *topic = get_rel_name(failure.piece.view_relid);

		ereport(LOG,
				(errmsg("pg_topics worker or the server ended during work that is tried again in %ld s",
						(count_ms_to_retry(&failure) + 999) / 1000),
				 topic == NULL ? errdetail("It was at step \"%s\" for all topics of the database.",
										   step_names[failure.step]) :
				 errdetail("It was at step \"%s\" for partition %d of topic \"%s\".",
						   step_names[failure.step], failure.piece.partition, topic)));
	}
	CommitTransactionCommand();
}

/*
 * A process ends because it was told to: its piece of work has not failed.
 */
void
topics_backoff_excuse(ServeKind kind)
{
	WorkFailure *failure;

	LWLockAcquire(notes_lock, LW_EXCLUSIVE);
	while ((failure = find_under_way(kind)) != NULL)
	{
		failure->under_way = false;
		if (failure->failures == 0)
			drop_note(failure);
		else
			write_note(failure);
	}
	LWLockRelease(notes_lock);
}

/* ----------------------------------------------------------------
 *		Forgetting, and looking
 * ----------------------------------------------------------------
 */

/* No failure of the piece counts any more; the caller holds the lock. */
static void
forget_failures(WorkFailure *failure)
{
	if (failure->under_way)
		failure->failures = 0;
	else
		drop_note(failure);
}

/* Try a piece again at once. */
void
topics_backoff_reset_piece(const WorkPiece *piece)
{
	WorkFailure *failure;

	LWLockAcquire(notes_lock, LW_EXCLUSIVE);
	failure = find_note(piece);
	if (failure)
		forget_failures(failure);
	LWLockRelease(notes_lock);
}

/* Try a topic's work again at once; with InvalidOid, that of the database. */
void
topics_backoff_reset(Oid view_relid)
{
	LWLockAcquire(notes_lock, LW_EXCLUSIVE);
	for (int i = backoff->count - 1; i >= 0; i--)
		if (backoff->failures[i].piece.database == MyDatabaseId &&
			backoff->failures[i].piece.view_relid == view_relid &&
			backoff->failures[i].failures > 0)
			forget_failures(&backoff->failures[i]);
	LWLockRelease(notes_lock);
	/* its time was what a worker would have come for */
	topics_worker_registry_note_change();
}

/*
 * Return true if work of a kind has failed in this database, for the leader
 * set that this process acts for, and not succeeded since.
 */
bool
topics_backoff_has_failures(WorkKind kind)
{
	bool		result = false;

	LWLockAcquire(notes_lock, LW_SHARED);
	for (int i = 0; i < backoff->count && !result; i++)
		result = backoff->failures[i].piece.database == MyDatabaseId &&
			backoff->failures[i].piece.kind == kind &&
			backoff->failures[i].piece.set == topics_leader_set && backoff->failures[i].failures > 0;
	LWLockRelease(notes_lock);
	return result;
}

/*
 * Work of a kind is not wanted any more in this database, for the leader set.
 */
void
topics_backoff_forget_kind(WorkKind kind)
{
	LWLockAcquire(notes_lock, LW_EXCLUSIVE);
	for (int i = backoff->count - 1; i >= 0; i--)
		if (backoff->failures[i].piece.database == MyDatabaseId &&
			backoff->failures[i].piece.kind == kind && backoff->failures[i].piece.set == topics_leader_set)
			drop_note(&backoff->failures[i]);
	LWLockRelease(notes_lock);
}

/*
 * A round that began at this time is over: what it did not try again is not
 * wanted any more, as after a DROP.  What is not tried by rounds stays a little
 * longer.
 */
void
topics_backoff_forget_untried(MonotonicTime began)
{
	LWLockAcquire(notes_lock, LW_EXCLUSIVE);
	for (int i = backoff->count - 1; i >= 0; i--)
	{
		WorkFailure *failure = &backoff->failures[i];
		MonotonicTime before = has_own_time(&failure->piece) ?
			began - MAX_DELAY_MS * INT64CONST(1000) : began;

		if (failure->piece.database == MyDatabaseId && failure->failures > 0 &&
			failure->retry_at < before)
			forget_failures(failure);
	}
	LWLockRelease(notes_lock);
}

/* The extension has gone from this database. */
void
topics_backoff_forget_database(void)
{
	LWLockAcquire(notes_lock, LW_EXCLUSIVE);
	for (int i = backoff->count - 1; i >= 0; i--)
		if (backoff->failures[i].piece.database == MyDatabaseId)
			drop_note(&backoff->failures[i]);
	LWLockRelease(notes_lock);
}

/*
 * Forget all databases but these.  One that was created since they were listed
 * can lose a note, which does no harm.
 */
void
topics_backoff_keep_databases(List *databases)
{
	LWLockAcquire(notes_lock, LW_EXCLUSIVE);
	for (int i = backoff->count - 1; i >= 0; i--)
		if (!list_member_oid(databases, backoff->failures[i].piece.database))
			drop_note(&backoff->failures[i]);
	LWLockRelease(notes_lock);
}

/* List what fails in this database; palloc'd. */
WorkFailure *
topics_backoff_list(int *count)
{
	WorkFailure *result;

	*count = 0;
	LWLockAcquire(notes_lock, LW_SHARED);
	result = palloc(sizeof(WorkFailure) * (backoff->count + 1));
	for (int i = 0; i < backoff->count; i++)
		if (backoff->failures[i].piece.database == MyDatabaseId && backoff->failures[i].failures > 0)
			result[(*count)++] = backoff->failures[i];
	LWLockRelease(notes_lock);
	return result;
}

/*
 * Find what a process of this database is at.  Return false
 * if it is at nothing.
 */
bool
topics_backoff_find_under_way(ServeKind kind, WorkFailure *note)
{
	WorkFailure *found;

	LWLockAcquire(notes_lock, LW_SHARED);
	found = find_under_way(kind);
	if (found)
		*note = *found;
	LWLockRelease(notes_lock);
	return found != NULL;
}

const char *
topics_backoff_step_name(WorkStep step)
{
	return step_names[step];
}
