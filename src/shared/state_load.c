/*-------------------------------------------------------------------------
 *
 * state_load.c
 *		Whether the state of an internal topic is in shared memory.
 *
 * A state is the latest record of each key (log/internal_topic.c).  What is in
 * shared memory follows each commit; it is read from the log when it is
 * lacking: after a restart, when a foreign writer has changed the log, or when
 * this node has got another role.  One process reads, under a heavyweight
 * lock, and others wait for it.
 *
 * A state that is forgotten while it is read has to be read anew: the reader
 * does not find its note any more (topics_state_load_end).  So who forgets
 * removes the note under the same lock as what was read, the lock of that
 * state's table; ours comes after that.
 *
 * FORGOTTEN IN BETWEEN.  Who has found a state loaded looks at it a moment
 * later, and by then it may be forgotten: nothing is committed then, it seems.
 * So a transaction notes before how often that has happened, and its commit
 * fails if it has happened since.  The number goes up under the lock of the
 * state's table, before anything is removed: who sees nothing sees the number.
 *
 * LEFT OUT.  There may be no room for all that the log has.  Then the note says
 * of how much, and who does not find something has to ask: it may be among
 * that.  The number stays until the log has been read again, also while that is
 * done, and also if a leader set's part is forgotten: of the others' parts it
 * goes on being true.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "base/base.h"
#include "shared/shared.h"

/*
 * Each state topic has so many partitions at least, so that there are no more
 * notes; and some, of databases that were dropped, whose notes go a little
 * later.
 */
#define MAX_NOTES (pg_topics_max_partitions / STATE_PARTITIONS + 64)
#define FORGOTTEN_COUNTERS 64	/* each for some databases */
#define OLD_MS 1000				/* so long it need not be read again */

typedef enum LoadProgress
{
	NOT_LOADED,
	FORGOTTEN,					/* by set, of a state that was left out in
								 * part */
	BEING_READ,					/* and nobody has changed the log since */
	LOADED,
	LOADED_OLD					/* other nodes have added to the log since */
} LoadProgress;

/* What is known of a state of a database. */
typedef struct LoadNote
{
	Oid			database;		/* InvalidOid: the place is free */
	StateKind	kind;
	LoadProgress progress;
	int64		topic_id;		/* of the log that was read, or 0 */
	MonotonicTime read_at;
	int			left_out;		/* of what was read, as there was no room */
} LoadNote;

static LoadNote *notes = NULL;
static pg_atomic_uint64 *forgotten = NULL;	/* FORGOTTEN_COUNTERS of each kind */
static LWLock *notes_lock = NULL;

static int	last_found[STATE_KINDS];	/* where this process looks first */

/* shmem_request_hook */
void
topics_state_load_shmem_request(void)
{
	RequestAddinShmemSpace(MAXALIGN(sizeof(LoadNote) * MAX_NOTES));
	RequestAddinShmemSpace(MAXALIGN(sizeof(pg_atomic_uint64) * STATE_KINDS * FORGOTTEN_COUNTERS));
	RequestNamedLWLockTranche("pg_topics_state_load", 1);
}

/* shmem_startup_hook; the caller holds AddinShmemInitLock. */
void
topics_state_load_shmem_startup(void)
{
	bool		found;

	notes_lock = &GetNamedLWLockTranche("pg_topics_state_load")[0].lock;
	notes = ShmemInitStruct("pg_topics state load", sizeof(LoadNote) * MAX_NOTES, &found);
	if (!found)
		memset(notes, 0, sizeof(LoadNote) * MAX_NOTES);
	forgotten = ShmemInitStruct("pg_topics state forgotten",
								sizeof(pg_atomic_uint64) * STATE_KINDS * FORGOTTEN_COUNTERS, &found);
	for (int i = 0; !found && i < STATE_KINDS * FORGOTTEN_COUNTERS; i++)
		pg_atomic_init_u64(&forgotten[i], 0);
}

/* How often a state of a database, or of some others, was forgotten. */
static pg_atomic_uint64 *
get_forgotten(Oid database, StateKind kind)
{
	return &forgotten[kind * FORGOTTEN_COUNTERS + database % FORGOTTEN_COUNTERS];
}

/*
 * Return how often a state of this database was forgotten so far: who has asked
 * whether it is loaded, and then finds something else, has looked at nothing.
 */
uint64
topics_state_load_forgotten(StateKind kind)
{
	return pg_atomic_read_u64(get_forgotten(MyDatabaseId, kind));
}

/* Find a database's note, or NULL.  The caller holds the lock. */
static LoadNote *
find_note(Oid database, StateKind kind)
{
	for (int i = 0; i < MAX_NOTES; i++)
	{
		int			place = (last_found[kind] + i) % MAX_NOTES;

		if (notes[place].database == database && notes[place].kind == kind)
		{
			last_found[kind] = place;
			return &notes[place];
		}
	}
	return NULL;
}

/* Return true if the log was read; or, with "may_be_old", a moment ago. */
static bool
is_loaded(StateKind kind, bool may_be_old)
{
	LoadNote   *note;
	bool		result;

	LWLockAcquire(notes_lock, LW_SHARED);
	note = find_note(MyDatabaseId, kind);
	result = note && (note->progress == LOADED ||
					  (may_be_old && note->progress == LOADED_OLD &&
					   note->read_at >= topics_clock_in(-OLD_MS)));
	LWLockRelease(notes_lock);
	return result;
}

/* The log is going to be read: whoever changes it meanwhile says so. */
static void
note_begin(StateKind kind)
{
	LoadNote   *note;

	LWLockAcquire(notes_lock, LW_EXCLUSIVE);
	note = find_note(MyDatabaseId, kind);
	if (note == NULL)
		note = find_note(InvalidOid, 0);
	if (note)
	{
		note->database = MyDatabaseId;
		note->kind = kind;
		note->topic_id = 0;
		note->progress = BEING_READ;
	}
	LWLockRelease(notes_lock);
	if (note == NULL)
		elog(ERROR, "no place is left to note that a state is loaded");
}

/*
 * Return true if a state is still to be read, whose topic is there.  Then the
 * caller does that, and calls topics_state_load_end; other processes wait here
 * meanwhile.  With "may_be_old" what other nodes have committed in the last
 * moments may be lacking.
 */
bool
topics_state_load_begin(StateKind kind, bool may_be_old)
{
	LOCKTAG		tag = topics_user_lock_tag(USER_LOCK_STATE_LOAD, kind);

	if (likely(is_loaded(kind, may_be_old)))
		return false;
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	if (!is_loaded(kind, may_be_old))
	{
		note_begin(kind);
		return true;
	}
	LockRelease(&tag, ExclusiveLock, false);
	return false;
}

/*
 * The log of this topic has been read, or 0 if it has just gone.  What has
 * come to it meanwhile is lacking, and the next one to ask reads it again.
 * Return false if what was read has been forgotten: then the caller begins
 * anew.
 */
bool
topics_state_load_end(StateKind kind, int64 topic_id)
{
	LOCKTAG		tag = topics_user_lock_tag(USER_LOCK_STATE_LOAD, kind);
	LoadNote   *note;
	bool		read;

	LWLockAcquire(notes_lock, LW_EXCLUSIVE);
	note = find_note(MyDatabaseId, kind);
	if (note && note->progress == BEING_READ)
	{
		note->topic_id = topic_id;
		note->read_at = topics_clock_now();
		note->progress = LOADED;
	}
	read = note && note->progress != FORGOTTEN;
	LWLockRelease(notes_lock);
	LockRelease(&tag, ExclusiveLock, false);
	return read;
}

/*
 * The caller has read a log, and found no room for so many of its states.
 * Return for how many the one before had not.
 */
int
topics_state_load_note_left_out(StateKind kind, int count)
{
	LoadNote   *note;
	int			before = 0;

	Assert(count >= 0);
	LWLockAcquire(notes_lock, LW_EXCLUSIVE);
	note = find_note(MyDatabaseId, kind);
	if (note)
	{
		before = note->left_out;
		note->left_out = count;
	}
	LWLockRelease(notes_lock);
	return before;
}

/*
 * Return how many states of this database's log are not in shared memory, as
 * there was no room.
 */
int
topics_state_load_left_out(StateKind kind)
{
	const LoadNote *note;
	int			result;

	LWLockAcquire(notes_lock, LW_SHARED);
	note = find_note(MyDatabaseId, kind);
	result = note ? note->left_out : 0;
	LWLockRelease(notes_lock);
	return result;
}

/*
 * What was read of a database is forgotten: the caller holds the lock of its
 * table.
 */
void
topics_state_load_forget(Oid database, StateKind kind)
{
	LoadNote   *note;

	(void) pg_atomic_fetch_add_u64(get_forgotten(database, kind), 1);
	LWLockAcquire(notes_lock, LW_EXCLUSIVE);
	note = find_note(database, kind);
	if (note && note->left_out > 0)
		note->progress = FORGOTTEN;
	else if (note)
		memset(note, 0, sizeof(*note));
	LWLockRelease(notes_lock);
}

/* A database is no more: nothing is left out of it, and its note can go. */
void
topics_state_load_forget_left_out(Oid database, StateKind kind)
{
	LoadNote   *note;

	LWLockAcquire(notes_lock, LW_EXCLUSIVE);
	note = find_note(database, kind);
	if (note)
		note->left_out = 0;
	LWLockRelease(notes_lock);
}

/*
 * A topic's log has changed otherwise than by a commit that tells shared
 * memory.  If that is, or may be, one with a state, it is to be read again.
 * With 0 all are.
 */
void
topics_state_load_changed(int64 topic_id)
{
	LWLockAcquire(notes_lock, LW_EXCLUSIVE);
	for (int kind = 0; kind < STATE_KINDS; kind++)
	{
		LoadNote   *note = find_note(MyDatabaseId, kind);

		if (note && note->progress != FORGOTTEN && (topic_id == 0 || note->topic_id == 0 || note->topic_id == topic_id))
			note->progress = NOT_LOADED;
	}
	LWLockRelease(notes_lock);
}

/*
 * Other nodes have added to a state: what this node leads itself is in shared
 * memory, and is not of theirs.  Who reads it right now may have read less,
 * and reads it again.
 */
void
topics_state_load_grew(StateKind kind)
{
	LoadNote   *note;

	LWLockAcquire(notes_lock, LW_EXCLUSIVE);
	note = find_note(MyDatabaseId, kind);
	if (note && note->progress == LOADED)
		note->progress = LOADED_OLD;
	else if (note && note->progress == BEING_READ)
		note->progress = NOT_LOADED;
	LWLockRelease(notes_lock);
}
