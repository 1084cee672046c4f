/*-------------------------------------------------------------------------
 *
 * worker.c
 *		The worker of a database that has work.
 *
 * The launcher starts it (launcher.c).  It goes round the partitions that have
 * something to be done (maintain.c): when woken at once for those that asked,
 * and every pg_topics.worker_interval for all.  Between rounds, and between
 * their steps, it sends the notifications that are due (notify.c).  It has
 * another process do the compaction (compactor.c).  It schedules, and knows
 * nothing else.
 *
 * Each partition is a piece of work of its own: one that fails, or that ends
 * the worker, is not tried again before its time (backoff.c), and the others
 * go on.
 *
 * IT GOES when nobody has asked for anything for STAY_MS, and nothing comes due
 * in as long, so that a database that is in use keeps it, and need not wait for
 * a process to be started.  One that has come for nothing but what came due by
 * itself goes at once.  It also goes, between two pieces of work, when the
 * launcher wants its place for another database.  What it leaves undone stands
 * in shared memory (worker_due.c), together with when something comes due by
 * itself, which it finds out before it goes.
 *
 * No session waits for a worker.  Where there is none to be had, producers
 * attach segments themselves, and CALL topics.maintain() does the rest.
 *
 * See docs/decisions/0012-workers-on-demand.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "group/group.h"
#include "keep/keep.h"
#include "serve/serve.h"
#include "pg_topics.h"

#define STAY_MS 10000			/* after the last work that was asked for */

PGDLLEXPORT void topics_worker_main(Datum main_arg);

/* What a round finds. */
typedef struct Round
{
	MemoryContext cxt;			/* of the list */
	List	   *due;
	int			partitions;		/* that were looked at */
	Oid			view_relid;		/* the topic that is being looked at */
} Round;

static WorkerSlot *worker_slot = NULL;

/* By the monotonic clock. */
static MonotonicTime last_asked;	/* when somebody last wanted something */
static MonotonicTime stay_until;	/* there is work so soon that to go does
									 * not pay */

/* before_shmem_exit: say that there is no worker any more. */
static void
leave_worker_slot(int code, Datum arg)
{
	if (topics_background_is_told_to_end())
		topics_backoff_excuse(SERVE_WORKER);
	topics_notify_give_back();
	topics_worker_slot_leave(worker_slot);
}

/* Return true if the database has the extension; if not, say so in the slot. */
static bool
check_extension_exists(void)
{
	for (;;)
	{
		uint32		changes = topics_worker_slot_changes();
		bool		exists;

		StartTransactionCommand();
		exists = topics_extension_exists();
		CommitTransactionCommand();
		if (exists)
		{
			topics_worker_slot_note_extension(worker_slot);
			return true;
		}
		/* not by the transaction that dropped it: to write the file can fail */
		topics_backoff_forget_database();
		if (topics_worker_slot_note_no_extension(worker_slot, changes))
			return false;
	}
}

/*
 * Send the notifications that are due, outside of a transaction.  Return the
 * milliseconds until more are, or -1.
 */
static long
send_notifications(void)
{
	if (!topics_moved_is_empty(topics_worker_registry_index(worker_slot)) &&
		worker_slot->notify_not_before <= topics_clock_now())
		last_asked = topics_clock_now();
	return topics_notify_send(worker_slot);
}

/* Between two steps of a piece of work. */
static void
commit_and_notify(void)
{
	CommitTransactionCommand();
	CHECK_FOR_INTERRUPTS();
	(void) send_notifications();
	StartTransactionCommand();
}

/* Work: do what is due for a partition. */
static void
maintain_due_partition(void *arg)
{
	const DuePartition *due = arg;

	(void) topics_maintain_partition(due->piece.view_relid, due->piece.partition, false,
									 commit_and_notify);
}

/* Work: delete what producers have numbered that were silent for long. */
static void
expire_producers(void *arg)
{
	if (topics_extension_exists())
		topics_producer_expire((MemoryContext) arg, commit_and_notify);
}

/* What is to be done for members of groups. */
typedef struct MembersWork
{
	MemoryContext cxt;
	bool		all;			/* of all groups */
} MembersWork;

/*
 * Work: remove members of groups that have gone, and assign topics that have
 * changed.
 */
static void
settle_members(void *arg)
{
	const MembersWork *work = arg;

	if (topics_extension_exists())
		topics_settle_groups(work->cxt, work->all, commit_and_notify);
}

/*
 * See to the members of groups, if it is time; all of them if that has failed
 * before.
 */
static void
see_to_members(void)
{
	const WorkPiece members = {MyDatabaseId, InvalidOid, WHOLE_TOPIC, WORK_MEMBERS, METADATA_SET};
	MembersWork work = {NULL, false};
	uint32		changes = 0;
	bool		is_due = topics_worker_slot_take_members(worker_slot, topics_clock_in(-GROUPS_LOOK_MS + 1000),
														 &work.all, &changes);

	if (!is_due && topics_backoff_left(&members) != 0)
		return;
	work.cxt = AllocSetContextCreate(TopMemoryContext, "pg_topics members", ALLOCSET_DEFAULT_SIZES);
	if (topics_backoff_run(&members, CONSUMER_OFFSETS_TOPIC, settle_members, &work) && work.all)
		topics_worker_slot_note_groups_looked(worker_slot, changes);
	MemoryContextDelete(work.cxt);
}

/* Work: write anew what records of groups say of their owners. */
static void
follow_group_owners(void *arg)
{
	if (topics_extension_exists())
		topics_offset_log_follow_owners((MemoryContext) arg, commit_and_notify);
}

/* Work: store how far logs have come. */
static void
store_log_floors(void *arg)
{
	if (topics_extension_exists())
		topics_checkpoint_store(InvalidOid, (MemoryContext) arg, commit_and_notify);
}

/*
 * Return true if this worker is to leave for the sake of another database.  If
 * it compacts itself, it does not in the middle of a run (compactor.c).
 */
static bool
gives_way(void)
{
	return !topics_compact_is_running() &&
		topics_worker_slot_is_asked_to_leave(worker_slot, SERVE_WORKER);
}

/* Return true if somebody waits for this worker. */
static bool
others_wait(void)
{
	return gives_way() || topics_worker_slot_is_round_wanted(worker_slot);
}

/*
 * Work: drop tables of topics that were dropped.  If somebody waits, the next
 * round has the rest.
 */
static void
drop_tables(void *arg)
{
	if (topics_extension_exists() &&
		topics_dropped_topic_finish(false, (MemoryContext) arg, commit_and_notify, others_wait))
		topics_worker_slot_want_round(worker_slot);
}

/*
 * Work: collect the partitions of a topic that have something to be done now,
 * or for which something has failed that is to be tried again now.
 */
static void
collect_due_of_topic(void *arg)
{
	Round	   *round = arg;
	Topic	   *topic = topics_catalog_get(round->view_relid, true);
	WorkPiece	piece = {MyDatabaseId, round->view_relid, 0, WORK_MAINTAIN, METADATA_SET};

	if (topic == NULL)
	{
		/* a DROP that has just committed holds its lock until all know of it */
		LockRelationOid(round->view_relid, AccessShareLock);
		if (get_rel_name(round->view_relid) != NULL)
			topics_broken_topic_report_view(get_rel_name(round->view_relid));
		if (get_rel_name(round->view_relid) != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("topic \"%s\" cannot be used", get_rel_name(round->view_relid))));
	}
	for (; topic && piece.partition < topic->partitions; piece.partition++)
	{
		long		left = topics_backoff_left(&piece);

		round->partitions++;
		if (left == 0 || (left < 0 && topics_maintain_is_due(topic, piece.partition)))
		{
			DuePartition *due = MemoryContextAlloc(round->cxt, sizeof(DuePartition));
			MemoryContext old = MemoryContextSwitchTo(round->cxt);

			due->piece = piece;
			due->topic = topic->name;
			round->due = lappend(round->due, due);
			MemoryContextSwitchTo(old);
		}
	}
}

/* Work: collect what is due now, of all topics. */
static void
collect_due(void *arg)
{
	Round	   *round = arg;
	ListCell   *lc;

	/* else each topic would say so */
	topics_extension_check_version();
	foreach(lc, topics_catalog_list())
	{
		Oid			view_relid = lfirst_oid(lc);
		const WorkPiece piece = {MyDatabaseId, view_relid, WHOLE_TOPIC, WORK_MAINTAIN, METADATA_SET};

		round->view_relid = view_relid;
		(void) topics_backoff_run(&piece, get_rel_name(view_relid), collect_due_of_topic, round);
	}
}

/*
 * Work, where no compactor is to be had: a turn of compaction.  If there are
 * more, the next round has the next one.
 */
static void
compact_due_partition(void *arg)
{
	const DuePartition *due = arg;

	if (topics_maintain_compact(due->piece.view_relid, due->piece.partition, commit_and_notify))
		topics_worker_registry_wake_worker();
}

/*
 * Work: have the metadata of the cluster say what the catalogue does, also
 * where that has changed without a command on a topic, as when a role or a
 * type is renamed.  The commit looks (metadata.c).
 */
static void
compare_metadata(void *arg)
{
	if (topics_extension_exists())
		topics_topic_changes_note_description();
}

/*
 * Have a replicator for each leader set, if this database is in a cluster with
 * other nodes.
 */
static void
arrange_replication(void)
{
	StartTransactionCommand();
	for (int set = METADATA_SET; set < MAX_LEADER_SETS; set++)
	{
		ClusterRow	row;

		(void) topics_worker_slot_want(worker_slot, SERVE_REPLICATOR + set,
									   topics_cluster_read_row_of(set, &row) && (!row.leads || topics_cluster_has_others(&row)));
	}
	CommitTransactionCommand();
}

/* Let a compactor compact what is wanted, or else do it in this process. */
static void
arrange_compaction(MemoryContext cxt)
{
	List	   *wanted;
	ListCell   *lc;

	StartTransactionCommand();
	wanted = topics_maintain_collect_compaction(cxt);
	CommitTransactionCommand();
	MemoryContextSwitchTo(cxt);

	if (topics_worker_slot_want(worker_slot, SERVE_COMPACTOR, wanted != NIL) || wanted == NIL)
	{
		topics_compact_abandon();
		return;
	}
	foreach(lc, wanted)
	{
		DuePartition *due = lfirst(lc);

		CHECK_FOR_INTERRUPTS();
		due->piece.kind = WORK_MAINTAIN;	/* the worker's, should it not
											 * survive it */
		(void) topics_backoff_run(&due->piece, NameStr(due->topic), compact_due_partition, due);
	}
}

/*
 * Do what is due for partitions.  Return false if some of it is left, since
 * another database wants the place.
 */
static bool
maintain_due(List *due_partitions)
{
	const WorkPiece whole = WHOLE_ROUND;
	ListCell   *lc;

	foreach(lc, due_partitions)
	{
		DuePartition *due = lfirst(lc);

		CHECK_FOR_INTERRUPTS();
		if (gives_way())
			return false;
		if (!topics_backoff_run(&due->piece, NameStr(due->topic), maintain_due_partition, due) &&
			topics_backoff_left(&whole) >= 0)
			break;				/* too much fails */
		pgstat_report_stat(false);
	}
	return true;
}

/* See to the owners of groups, unless no role was renamed since. */
static void
see_to_owners(MemoryContext cxt)
{
	const WorkPiece owners = {MyDatabaseId, InvalidOid, WHOLE_TOPIC, WORK_OWNERS, METADATA_SET};
	uint32		changes = topics_worker_slot_role_changes();

	topics_offset_log_note_roles(worker_slot->roles_followed == changes);
	if (topics_backoff_run(&owners, CONSUMER_OFFSETS_TOPIC, follow_group_owners, cxt) &&
		topics_offset_log_knows_owners())
		topics_worker_slot_note_roles_followed(worker_slot, changes);
}

/* One round over all that is due; "full" if it is time for one over all. */
static void
run_round(bool full)
{
	const WorkPiece whole = WHOLE_ROUND;
	const WorkPiece floors = {MyDatabaseId, InvalidOid, WHOLE_TOPIC, WORK_FLOORS, METADATA_SET};
	const WorkPiece tables = {MyDatabaseId, InvalidOid, WHOLE_TOPIC, WORK_TABLES, METADATA_SET};
	const WorkPiece metadata = {MyDatabaseId, InvalidOid, WHOLE_TOPIC, WORK_METADATA, METADATA_SET};
	const WorkPiece producers = {MyDatabaseId, InvalidOid, WHOLE_TOPIC, WORK_PRODUCERS, METADATA_SET};
	const MonotonicTime began = topics_clock_now();
	MemoryContext cxt = AllocSetContextCreate(TopMemoryContext, "pg_topics worker",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);
	Round		round = {cxt, NIL, 0, InvalidOid};
	bool		looked;

	TEST_POINT("round-begins");
	looked = topics_backoff_run(&whole, NULL, collect_due, &round);
	if (!maintain_due(round.due))
		topics_worker_slot_want_round(worker_slot);
	else
	{
		see_to_members();
		see_to_owners(cxt);
		(void) topics_backoff_run(&tables, NULL, drop_tables, cxt);
		/* in between, only if they have failed, and are to be tried again now */
		if (full || topics_backoff_left(&floors) == 0)
			(void) topics_backoff_run(&floors, NULL, store_log_floors, cxt);
		if (full || topics_backoff_left(&producers) == 0)
			(void) topics_backoff_run(&producers, PRODUCER_STATE_TOPIC, expire_producers, cxt);
		if (full || topics_backoff_left(&metadata) == 0)
			(void) topics_backoff_run(&metadata, NULL, compare_metadata, NULL);
		pgstat_report_stat(false);
		if (looked && topics_backoff_left(&whole) < 0)
		{
			topics_backoff_forget_untried(began);
			topics_worker_slot_end_round(worker_slot, round.partitions);
		}

		/*
		 * where nothing can be looked at, a compactor would only end, and
		 * come again
		 */
		arrange_replication();
		if (looked)
			arrange_compaction(cxt);
		else
			(void) topics_worker_slot_want(worker_slot, SERVE_COMPACTOR, false);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(cxt);
}

/* The time of the next round over all that there is. */
static MonotonicTime
get_full_round(void)
{
	return worker_slot->full_began + pg_topics_worker_interval * INT64CONST(1000);
}

/*
 * Count the milliseconds until the next round over all partitions, or over what
 * has failed, or until members are to be looked at.
 */
static long
count_ms_to_round(void)
{
	long		left = (long) topics_clock_ms_until(get_full_round());
	long		again = topics_backoff_next_round();

	if (worker_slot->members_due != 0)
		left = topics_min(left, topics_clock_ms_until(worker_slot->members_due));
	return again >= 0 ? Min(left, again) : left;
}

/* ----------------------------------------------------------------
 *		To stay or to go
 * ----------------------------------------------------------------
 */

/* Find when work comes due by itself, of all topics; in a subtransaction. */
static void
collect_due_times(void *arg)
{
	WorkDue    *due = arg;
	ListCell   *lc;

	foreach(lc, topics_catalog_list())
	{
		Topic	   *topic = topics_catalog_get(lfirst_oid(lc), true);
		WorkPiece	piece = {MyDatabaseId, lfirst_oid(lc), 0, WORK_MAINTAIN, METADATA_SET};

		/* what has failed has a time of its own */
		for (; topic && piece.partition < topic->partitions; piece.partition++)
			if (topics_backoff_left(&piece) < 0)
				topics_due_collect(topic, piece.partition, due);
	}
}

/*
 * Find when work comes due by itself.  Where that cannot be found out, it is at
 * the time of the next full round.
 */
static WorkDue
find_due(void)
{
	WorkDue		due = {NEVER, DT_NOEND, GetCurrentTimestamp()};
	ErrorData  *error;

	StartTransactionCommand();
	error = topics_subtransaction_try(collect_due_times, &due);
	if (error)
	{
		FreeErrorData(error);
		due.at = 0;
	}
	CommitTransactionCommand();
	return due;
}

/*
 * Leave, if the worker may.  Return false if it stays: there is work so soon
 * that to go does not pay, or a round was asked for meanwhile.
 */
static bool
try_to_rest(bool asked_to_leave)
{
	WorkDue		due = find_due();
	WorkerSlot	slot = *worker_slot;
	MonotonicTime time;

	slot.due = due;
	slot.round_wanted = false;
	time = topics_worker_due_time(topics_worker_registry_index(worker_slot), &slot);
	if (!asked_to_leave && time < topics_clock_in(STAY_MS))
	{
		stay_until = topics_max(time, topics_clock_in(STAY_MS / 10));
		return false;
	}
	return topics_worker_slot_rest(worker_slot, &due);
}

/*
 * Send the notifications that are due, and wait until it is time for a round.
 * Return false if the worker is to go instead.
 */
static bool
wait_for_round(void)
{
	for (;;)
	{
		bool		leave = gives_way();
		long		timeout;
		long		notify;
		MonotonicTime until;

		notify = send_notifications();
		see_to_members();
		if (!leave && topics_worker_slot_take_round_wanted(worker_slot))
		{
			last_asked = topics_clock_now();
			return true;
		}
		timeout = count_ms_to_round();
		if (!leave && timeout == 0)
			return true;
		if (topics_compact_is_running())
			last_asked = topics_clock_now();
		until = Max(last_asked + STAY_MS * INT64CONST(1000), stay_until);
		if (leave || until <= topics_clock_now())
		{
			if (try_to_rest(leave))
				return false;
			continue;
		}
		timeout = topics_min(timeout, (long) topics_clock_ms_until(until));
		if (notify >= 0)
			timeout = Min(timeout, notify);
		topics_worker_slot_note_busy(worker_slot, false);
		topics_background_wait(timeout, WAIT_WORKER_IDLE);
		topics_worker_slot_note_busy(worker_slot, true);
	}
}

void
topics_worker_main(Datum main_arg)
{
	Oid			database = DatumGetObjectId(main_arg);

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, topics_background_end);
	BackgroundWorkerUnblockSignals();
	worker_slot = topics_worker_slot_enter(database);
	if (worker_slot == NULL)
		proc_exit(0);
	before_shmem_exit(leave_worker_slot, 0);
	topics_background_connect(database);
	topics_pace_limit(&pg_topics_compaction_rate);

	topics_backoff_take_over(SERVE_WORKER);
	/* another one may have ended while it looked at them */
	if (topics_member_table_any_here())
		topics_worker_registry_want_members(topics_clock_now(), false);
	/* for what comes due by itself nobody has asked, and nobody comes back */
	if (topics_worker_slot_take_round_wanted(worker_slot) || !worker_slot->is_confirmed)
		last_asked = topics_clock_now();
	while (check_extension_exists())
	{
		bool		full = get_full_round() <= topics_clock_now();

		pgstat_report_activity(STATE_RUNNING, "maintaining topics");
		/* what it may have come for */
		(void) send_notifications();
		topics_worker_slot_begin_round(worker_slot, full);
		run_round(full);
		pgstat_report_activity(STATE_IDLE, NULL);
		if (!wait_for_round())
			break;
	}
	proc_exit(0);
}
