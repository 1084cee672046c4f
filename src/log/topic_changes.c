/*-------------------------------------------------------------------------
 *
 * topic_changes.c
 *		What this transaction does to topics as a whole.
 *
 * The tables and rows of a topic are transactional by themselves.  Its states
 * in shared memory are not: a topic that was created and rolled back, or
 * dropped for good, must give them back, and sessions that wait for a topic's
 * records must look again when it has got more partitions.  So each command
 * that creates or drops topics or partitions leaves a note, and the end of the
 * (sub)transaction settles it.
 *
 * After the commit record nothing here raises: what it needs is found in
 * topics_topic_changes_pre_commit.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "shared/shared.h"
#include "log/log.h"
#include "pg_topics.h"

/*
 * Partitions that this transaction creates or drops; or the extension, and so
 * all topics of the database, that it drops.
 */
typedef struct TopicNote
{
	int64		topic_id;		/* or ALL_TOPICS */
	int32		from;
	int32		to;
	bool		created;		/* else dropped */
	SubTransactionId subxid;
} TopicNote;

static List *notes = NIL;		/* in TopTransactionContext */

/* The worker has something to do when this transaction commits. */
static bool round_wanted = false;

/*
 * This transaction, or a part of it that was rolled back, changes settings, or
 * repairs a topic.
 */
static bool settings_changed = false;

/* Likewise a name, an owner or a grant. */
static bool description_changed = false;

/* Topics with more partitions, from before the commit to the end of locks. */
static PartitionState **grown_topics = NULL;
static int	ngrown = 0;

/*
 * Shared memory follows the fate of what this (sub)transaction does to a
 * topic: partitions from .. to-1 are created, or dropped.  The note comes
 * before the states are taken.
 */
void
topics_topic_changes_note(int64 topic_id, int32 from, int32 to, bool created)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	TopicNote  *note = palloc(sizeof(TopicNote));

	note->topic_id = topic_id;
	note->from = from;
	note->to = to;
	note->created = created;
	note->subxid = GetCurrentSubTransactionId();
	notes = lappend(notes, note);
	MemoryContextSwitchTo(old);
}

/* Return true if this transaction drops a topic. */
bool
topics_topic_changes_drops(int64 topic_id)
{
	ListCell   *lc;

	foreach(lc, notes)
	{
		const TopicNote *note = lfirst(lc);

		if (note->topic_id == topic_id && !note->created)
			return true;
	}
	return false;
}

/* The same for the extension, which is dropped. */
void
topics_topic_changes_note_extension(void)
{
	topics_topic_changes_note(ALL_TOPICS, 0, 0, false);
}

/* Have the worker make a round when this transaction commits. */
void
topics_topic_changes_want_round(void)
{
	round_wanted = true;
}

/*
 * Settings of a topic change, or it is repaired: what was found of it before
 * does not hold, and what has failed may do better.
 */
void
topics_topic_changes_note_settings(void)
{
	settings_changed = true;
}

/* What the cluster's metadata say of a topic may change: see metadata.c. */
void
topics_topic_changes_note_description(void)
{
	description_changed = true;
}

bool
topics_topic_changes_are_described(void)
{
	return notes != NIL || settings_changed || description_changed;
}

/* A transaction has changed settings, and is committed.  Raises nothing. */
void
topics_topic_changes_settings_committed(void)
{
	topics_partition_state_look_again(MyDatabaseId);
	topics_worker_registry_wake_worker();
}

/* However the transaction ended. */
void
topics_topic_changes_forget(void)
{
	settings_changed = description_changed = false;
}

/* Return true if this transaction has dropped the extension. */
bool
topics_topic_changes_drops_extension(void)
{
	ListCell   *lc;

	foreach(lc, notes)
	{
		if (((TopicNote *) lfirst(lc))->topic_id == ALL_TOPICS)
			return true;
	}
	return false;
}

/* Return true if this transaction has created or changed a topic. */
bool
topics_topic_changes_is_pending(void)
{
	return notes != NIL;
}

/* Find the states of topics that get more partitions. */
void
topics_topic_changes_pre_commit(void)
{
	ListCell   *lc;

	ngrown = 0;
	if (notes == NIL)
		return;
	grown_topics = MemoryContextAlloc(TopTransactionContext,
									  sizeof(PartitionState *) * list_length(notes));
	foreach(lc, notes)
	{
		TopicNote  *note = lfirst(lc);
		TopicPartition id = {MyDatabaseId, 0, note->topic_id};

		if (note->created && note->from > 0)
			grown_topics[ngrown++] = topics_catalog_get_state(&id);
	}
}

/* Give back the states of the partitions that a note is about. */
static void
release_states(const TopicNote *note)
{
	if (note->topic_id == ALL_TOPICS)
		topics_partition_state_release_database(MyDatabaseId);
	else
		topics_partition_state_release(note->topic_id, note->from, note->to);
	topics_moved_sort(MyDatabaseId);
}

/*
 * At commit: what was dropped needs no state any more.  "forget" is called for
 * each such topic, or "forget_all" if the extension has gone.  Raises nothing.
 *
 * A transaction that drops the extension may have created it again, and topics
 * with it.  Their states go too, which does no harm: what is in them is
 * published in the log, and no other process has met them, since the tables are
 * still locked.
 */
void
topics_topic_changes_at_commit(TopicCallback forget, DatabaseCallback forget_all)
{
	ListCell   *lc;

	if (notes != NIL)
		TEST_POINT("topics-committed");
	foreach(lc, notes)
	{
		TopicNote  *note = lfirst(lc);

		if (note->created)
			continue;
		release_states(note);
		if (note->topic_id == ALL_TOPICS)
		{
			forget_all(MyDatabaseId);
			/* it is no node of a cluster any more */
			topics_follower_forget_database(MyDatabaseId);
			topics_mark_slot_forget_database(MyDatabaseId);
		}
		else
			forget(note->topic_id);
	}
	if (notes != NIL)
	{
		TEST_POINT("topics-forgotten");
		topics_worker_registry_note_change();
	}
	if (settings_changed)
		topics_topic_changes_settings_committed();
	notes = NIL;
}

/* At abort: what was created needs no state any more. */
void
topics_topic_changes_at_abort(void)
{
	ListCell   *lc;

	foreach(lc, notes)
	{
		TopicNote  *note = lfirst(lc);

		if (note->created)
			release_states(note);
	}
	notes = NIL;
	ngrown = 0;
	round_wanted = false;
}

/* At the end of a subtransaction. */
void
topics_topic_changes_at_subend(bool commit, SubTransactionId subxid, SubTransactionId parent)
{
	ListCell   *lc;

	foreach(lc, notes)
	{
		TopicNote  *note = lfirst(lc);

		if (note->subxid != subxid)
			continue;
		if (commit)
			note->subxid = parent;
		else
		{
			if (note->created)
				release_states(note);
			notes = foreach_delete_current(notes, lc);
		}
	}
}

/*
 * Wake the sessions that wait for a topic that got more partitions, and the
 * worker: not before other sessions have heard of these, and locks are free.
 * Raises nothing.
 */
void
topics_topic_changes_after_locks(void)
{
	for (int i = 0; i < ngrown; i++)
		topics_wakeup_topic(grown_topics[i]);
	ngrown = 0;
	if (round_wanted)
		topics_worker_registry_wake_worker();
	round_wanted = false;
}
