/*-------------------------------------------------------------------------
 *
 * transaction.c
 *		Offsets are assigned while the transaction commits.
 *
 *		commit order = offset order = physical order = visibility order
 *
 * produce() puts a record into the transaction's buffer (buffer.c), and
 * nothing else: no lock, no row, no offset.  The commit does the rest:
 *
 *	1. XACT_EVENT_PRE_COMMIT: do what PostgreSQL would wait for later (below).
 *	   Then (append.c) find segments with room, and lock the partition's table
 *	   and them ROW EXCLUSIVE; assign the xid; take the append locks; look again
 *	   whether all is as it was found, else start over; stamp offsets from
 *	   next_offset on, append, and KEEP the locks.
 *	2. PostgreSQL writes the commit record, and ends the transaction in the
 *	   proc array: the records are visible.
 *	3. XACT_EVENT_COMMIT (publish_transaction): next_offset and the commit's LSN
 *	   are published, the locks released.
 *	4. RESOURCE_RELEASE_AFTER_LOCKS (durability.c): wait for the flush and the
 *	   synchronous standbys, for which synchronous_commit was lowered in step 1
 *	   (early lock release): commits of a partition share a flush.  Only now is
 *	   the client told.  Not earlier, or others would see the commit but meet
 *	   stale caches and our heavyweight locks while we wait.
 *
 * WHY NO RECORD COMES LATE: between taking the append lock and step 3 nobody
 * else can stamp or append, so of two transactions the one with lower offsets
 * became visible first, and every snapshot sees a prefix.  WHY THERE IS NO
 * GAP: next_offset moves in step 3 only, and a transaction that fails before
 * leaves it alone; its rows, if it had any, are dead.
 *
 * Steps 3 and 4 must not raise: an error after the commit record is a PANIC.
 * So all that they need is looked up and allocated in step 1.  On abort,
 * LWLocks are released before callbacks run: nothing that they guard is written
 * back then, but for append_xid, if it is still ours.
 *
 * Our callbacks run last if pg_topics was loaded first (callbacks run newest
 * first), so that the locks are not held over another library's work.
 *
 * With the locks held, PostgreSQL still does its own work between 1 and 2.
 * What it would wait for is done in step 1, before the append locks are taken
 * (early_work.c).  The rest obeys a cancel, for append locks do not hold
 * interrupts off (append_lock.c).
 *
 * A client's timeouts end what is waited for in step 1 (timeout.c), and nothing
 * later.
 *
 * This file only says what is called, and in which order: the order is the
 * invariant.  It stands above all other files, so that what a lower one has to
 * tell a higher one goes by a function that is handed down here.
 *
 * See docs/decisions/0001-offsets-at-commit.md and
 * docs/decisions/0002-early-lock-release.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/resowner.h"

#include "base/base.h"
#include "shared/shared.h"
#include "log/log.h"
#include "produce/produce.h"
#include "group/group.h"
#include "node/node.h"
#include "doors.h"
#include "pg_topics.h"

static bool appended = false;	/* step 1 is done, step 3 is not */
static bool topics_changed = false; /* and step 4 is not done */

/* With the append locks held: who was fenced meanwhile commits nothing. */
static void
require_fences(void)
{
	topics_producer_require_epochs();
	topics_consumer_offset_require_members();
}

/* Step 1: all that can fail.  The records come last, with the append locks. */
static void
append_transaction(void)
{
	/* what has no xid so far has written to nothing else */
	bool		wrote_tables = TransactionIdIsValid(GetTopTransactionIdIfAny());

	topics_timeout_begin_commit();
	topics_append_role_expect();
	topics_foreign_writer_pre_commit();
	topics_topic_changes_pre_commit();
	topics_consumer_offset_pre_commit();
	topics_producer_pre_commit();
	topics_metadata_pre_commit();
	topics_cluster_pre_commit();
	topics_membership_pre_commit();
	if (topics_append_is_pending())
		topics_early_work_run();
	if (topics_append_records(require_fences))
	{
		appended = true;
		topics_durability_defer(wrote_tables || topics_early_work_has_notified(),
								topics_append_may_wait());
	}
	topics_timeout_end_commit();
	/* a cancel that has come so far is in time: nothing is committed */
	if (appended)
		CHECK_FOR_INTERRUPTS();
}

/* What is in memory of a topic, or a database, that is no more. */
static void
forget_topic(int64 topic_id)
{
	topics_offset_table_forget_topic(topic_id);
	topics_producer_table_forget_topic(topic_id);
}

static void
forget_database(Oid database)
{
	topics_offset_table_forget_database(database);
	topics_producer_table_forget_database(database);
}

/*
 * Committed offsets, and what producers have stored, are those of another log
 * in these leader sets.
 */
static void
forget_sets(uint32 sets)
{
	for (int set = -1; (set = topics_leader_set_after(sets, set)) >= 0;)
	{
		topics_offset_table_forget_set(set);
		topics_producer_table_forget_set(set);
	}
}

/* Step 3.  Nothing here may raise. */
static void
publish_transaction(void)
{
	XLogRecPtr	lsn = XactLastCommitEnd;
	bool		wrote_log = appended || topics_foreign_writer_is_pending();
	uint64		marks[MAX_LEADER_SETS] = {0};
	bool		has_marks = false;
	uint32		changed_roles;

	if (wrote_log)
		TEST_POINT("commit-visible");
	if (topics_cut_is_pending())
		TEST_POINT("bounds-visible");
	if (appended)
	{
		topics_consumer_offset_publish();
		topics_producer_publish();
	}

	topics_membership_publish();
	topics_cluster_raise_acks();

	if (wrote_log)
	{
		uint32		sets = topics_append_sets() | topics_foreign_writer_sets();

		/*
		 * what the transaction has written to logs of a set belongs to one
		 * mark
		 */
		for (int set = -1; (set = topics_leader_set_after(sets, set)) >= 0;)
		{
			bool		is_marked = topics_high_watermark_begin_publication(set);

			topics_append_publish(set, lsn, is_marked);
			topics_foreign_writer_publish(set, lsn, is_marked);
			if (is_marked)
				marks[set] = topics_high_watermark_end_publication(lsn);
			has_marks |= marks[set] != 0;
		}
	}
	topics_foreign_writer_end();

	if (appended)
	{
		topics_append_release(has_marks);
		topics_durability_publish(lsn, marks);
	}
	topics_foreign_writer_tell(topics_state_load_changed);
	topics_log_start_at_end(true);
	topics_truncate_at_end(true);
	changed_roles = topics_cluster_changed_roles();
	forget_sets(changed_roles);
	topics_cluster_at_end(true);
	if (changed_roles != 0)
		TEST_POINT("role-changed");
	/* once more, for who has read the log as of the former role in between */
	forget_sets(changed_roles);
	topics_membership_at_end(true);
	topics_changed = topics_topic_changes_is_pending() || changed_roles != 0;
	topics_topic_changes_at_commit(forget_topic, forget_database);
}

/* Step 4, after PostgreSQL has released the locks.  Nothing here may raise. */
static void
settle_transaction(void)
{
	topics_cut_at_commit();
	topics_topic_changes_after_locks();
	/* members may be assigned others: who looks now hears of them */
	if (topics_changed && topics_member_table_any_here())
		topics_worker_registry_want_members(topics_clock_now(), true);
	topics_changed = false;
	topics_durability_wait();
}

static void
abort_transaction(void)
{
	topics_timeout_at_abort();
	topics_durability_at_abort();
	/* before states are given back, which others may take at once */
	topics_foreign_writer_forget();
	topics_append_at_abort();
	topics_append_lock_at_abort();
	topics_cut_at_abort();
	topics_log_start_at_end(false);
	topics_truncate_at_end(false);
	topics_cluster_at_end(false);
	topics_membership_at_end(false);
	topics_topic_changes_at_abort();
}

/* Begin anew, however the transaction ended. */
static void
forget_transaction(void)
{
	topics_append_forget();
	topics_producer_forget();
	topics_topic_changes_forget();
	topics_recheck_forget();
	topics_foreign_writer_forget();
	topics_sticky_partition_forget();
	topics_read_cut_forget();
	topics_log_forget_transaction();
	topics_catalog_forget_transaction();
	appended = false;
}

/*
 * What steps 3 and 4 complete, in the session that did step 1, or what others
 * wait for: such a transaction can neither be prepared nor wait.  What comes
 * first is told.
 */
static const PendingWork pending_work[] = {
	{topics_topic_changes_drops_extension, "has dropped the extension"},
	{topics_cluster_is_pending, "has changed what this node is in its cluster"},
	{topics_truncate_is_pending, "has truncated a log"},
	{topics_log_start_is_pending, "has deleted records"},
	{topics_foreign_writer_is_pending, "has written to a log table"},
	{topics_topic_changes_is_pending, "has created or changed a topic"},
	{topics_cut_is_pending, "has created or changed a topic"},
	{topics_consumer_offset_is_pending, "has used a consumer group"},
	{topics_producer_is_pending, "has used a producer's id"},
	{topics_append_is_pending, "has produced to a topic"},
};

static void
refuse_prepare(void)
{
	const char *what = topics_pending_describe();

	if (what)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot PREPARE a transaction that %s", what),
				 errdetail("That is completed when a transaction commits, which must be in this session.")));
}

/* ----------------------------------------------------------------
 *		Callbacks
 * ----------------------------------------------------------------
 */

static void
follow_transaction(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			append_transaction();
			break;
		case XACT_EVENT_COMMIT:
			publish_transaction();
			forget_transaction();
			break;
		case XACT_EVENT_ABORT:
			abort_transaction();
			forget_transaction();
			break;
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PARALLEL_ABORT:
			topics_read_cut_forget();
			break;
		case XACT_EVENT_PRE_PREPARE:
			refuse_prepare();
			break;
		case XACT_EVENT_PREPARE:

			/* no records, but maybe lists whose records were undone */
			forget_transaction();
			break;
		default:
			break;
	}
}

static void
follow_subtransaction(SubXactEvent event, SubTransactionId subxid,
					  SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		topics_buffer_subcommit(subxid, parent);
		topics_consumer_offset_subcommit(subxid, parent);
		topics_producer_subcommit(subxid, parent);
		topics_log_start_at_subend(true, subxid, parent);
		topics_cut_at_subend(true, subxid, parent);
		topics_topic_changes_at_subend(true, subxid, parent);
	}
	else if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		topics_append_lock_at_abort();
		(void) topics_read_cut_show_all(false);
		topics_buffer_subabort(subxid);
		topics_consumer_offset_subabort(subxid);
		topics_producer_subabort(subxid);
		topics_cut_at_subend(false, subxid, parent);
		topics_log_start_at_subend(false, subxid, parent);
		topics_topic_changes_at_subend(false, subxid, parent);
	}
}

static void
follow_resource_release(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void *arg)
{
	if (phase != RESOURCE_RELEASE_AFTER_LOCKS)
		return;
	topics_consumer_offset_after_locks(is_commit, is_top_level);
	if (is_top_level && is_commit)
		settle_transaction();
}

void
topics_transaction_init(void)
{
	topics_pending_set_list(pending_work, lengthof(pending_work));
	RegisterXactCallback(follow_transaction, NULL);
	RegisterSubXactCallback(follow_subtransaction, NULL);
	RegisterResourceReleaseCallback(follow_resource_release, NULL);
}
