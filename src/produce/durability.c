/*-------------------------------------------------------------------------
 *
 * durability.c
 *		Early lock release: the append locks go before the commit is durable.
 *
 * PostgreSQL flushes a commit record, and waits for synchronous standbys,
 * before the transaction is over for other sessions.  With the append lock held
 * for so long, a partition would have one commit per flush.  So the commit
 * lowers synchronous_commit for its own record, publishes, lets go of all
 * locks, and then waits here for what the setting asks for: commits of a
 * partition share a flush.  The client is told only afterwards.
 *
 * What other sessions see meanwhile can still be lost by a crash, so a scan
 * flushes a commit before it shows the commit's records (log_am.c), and hides
 * what is still to be confirmed (high_watermark.c).  That goes for topics.  A
 * transaction that has written to tables as well keeps to PostgreSQL's order
 * where it waits for standbys (early_lock_release = auto).
 *
 * IN A CLUSTER the commit then waits for the followers (pg_topics.acks).  What
 * others see of the transaction's writes to tables does not wait: no follower
 * has these.
 *
 * WHEN THE WAIT FOR A STANDBY IS CANCELLED, PostgreSQL reports the commit as
 * done, with a warning.  To a producer that would be an acknowledgement that is
 * not true, and no error can be raised after a commit.  So the connection is
 * closed, and the client does not know, as after any lost connection.  CALL
 * send() can still tell: it asks to keep the connection
 * (topics_durability_keep_connection), and raises in its next transaction if
 * the commit was unconfirmed.  So it is with a wait for followers that is
 * cancelled, or takes longer than pg_topics.acks_timeout.
 *
 * From the commit record on nothing here may raise.
 *
 * See docs/decisions/0002-early-lock-release.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"

#include "base/compat.h"
#include "base/base.h"
#include "produce/produce.h"
#include "pg_topics.h"

/* From the append to the publication: synchronous_commit was lowered. */
static bool lowered = false;
static int	saved_synchronous_commit;

/*
 * From the publication to the wait: the end of the commit record, its mark
 * (high_watermark.c), and whether PostgreSQL has left us the wait for the
 * flush.
 */
static XLogRecPtr commit_end = InvalidXLogRecPtr;
static uint64 commit_marks[MAX_LEADER_SETS];
static uint32 commit_sets = 0;	/* those that have a mark */
static bool flush_wanted;

/*
 * From the append to the wait: followers are to confirm, if there are to be
 * any then.
 */
static bool may_want_followers = false;

/* For a commit that no standby has confirmed: see refuse_acknowledgement. */
static bool keeps_connection = false;
static bool unconfirmed = false;

static void
restore_synchronous_commit(void)
{
	if (lowered)
		synchronous_commit = saved_synchronous_commit;
	lowered = false;
}

/* Return true if commits of this transaction wait for synchronous standbys. */
static bool
waits_for_standbys(void)
{
	return SyncRepRequested() && topics_high_watermark_has_standbys();
}

/* Return true if commits to any of some leader sets wait for followers. */
static bool
wants_followers(uint32 sets)
{
	for (int set = -1; (set = topics_leader_set_after(sets, set)) >= 0;)
		if (topics_mark_slot_acks_followers(set) > 0)
			return true;
	return false;
}

/*
 * After the append: have PostgreSQL commit without a wait for durability,
 * unless the strict order is wanted.  "has_other_effects" says whether the
 * transaction has written to anything but topics, or has used NOTIFY: while a
 * standby is away, that would be visible for hours before it is confirmed.
 * (Who is notified of a record that cannot be read yet does not look again.)
 * "may_wait" says whether the transaction waits for followers, as far as the
 * settings say so: what administration has produced does not.
 */
void
topics_durability_defer(bool has_other_effects, bool may_wait)
{
	bool		strict = pg_topics_early_lock_release == EARLY_LOCK_RELEASE_OFF ||
		(pg_topics_early_lock_release == EARLY_LOCK_RELEASE_AUTO && has_other_effects &&
		 waits_for_standbys());

	may_want_followers = may_wait && pg_topics_acks == ACKS_ALL;
	if (!strict && synchronous_commit > SYNCHRONOUS_COMMIT_OFF)
	{
		saved_synchronous_commit = synchronous_commit;
		synchronous_commit = SYNCHRONOUS_COMMIT_OFF;
		lowered = true;
	}
}

/*
 * After the commit record, whose end is "lsn": note what to wait for, a mark
 * in each leader set, or 0.
 */
void
topics_durability_publish(XLogRecPtr lsn, const uint64 marks[MAX_LEADER_SETS])
{
	commit_end = lsn;
	memcpy(commit_marks, marks, sizeof(commit_marks));
	commit_sets = 0;
	for (int set = 0; set < MAX_LEADER_SETS; set++)
		commit_sets |= marks[set] != 0 ? 1 << set : 0;
	flush_wanted = lowered;
	/* nothing is waited for */
	if (lowered && pg_topics_acks == ACKS_NONE)
		commit_end = InvalidXLogRecPtr;
	restore_synchronous_commit();
}

/* There is no commit to wait for. */
void
topics_durability_at_abort(void)
{
	restore_synchronous_commit();
	commit_end = InvalidXLogRecPtr;
	may_want_followers = false;
}

/* Return true if a standby to wait for has not confirmed "lsn". */
static bool
standby_is_behind(XLogRecPtr lsn)
{
	int			mode;
	bool		behind;

	/* as SyncRepWaitForLSN: without standbys that a commit has to wait for */
	if (!SyncRepRequested() || !topics_sync_standbys_defined())
		return false;
	mode = synchronous_commit == SYNCHRONOUS_COMMIT_REMOTE_WRITE ? SYNC_REP_WAIT_WRITE :
		synchronous_commit == SYNCHRONOUS_COMMIT_REMOTE_APPLY ? SYNC_REP_WAIT_APPLY :
		SYNC_REP_WAIT_FLUSH;
	LWLockAcquire(SyncRepLock, LW_SHARED);
	behind = topics_sync_standbys_defined() && WalSndCtl->lsn[mode] < lsn;
	LWLockRelease(SyncRepLock);
	return behind;
}

/*
 * PostgreSQL reports a commit as done when its wait for a synchronous standby
 * is cancelled, with a warning.  To a producer that would be an
 * acknowledgement that is not true.  The transaction is committed here, so no
 * error can be raised any more: CALL send does it in its next transaction,
 * and any other client loses its connection, the one honest answer left.
 */
static void
refuse_acknowledgement(void)
{
	unconfirmed = true;
	if (keeps_connection)
		return;
	whereToSendOutput = DestNone;
	ProcDiePending = true;
	InterruptPending = true;
}

/*
 * Wait until the marks of a commit are confirmed.  Return false if one is not.
 */
static bool
wait_for_marks(HighWatermarkCheck check, MonotonicTime until)
{
	bool		confirmed = true;

	for (int set = -1; confirmed && (set = topics_leader_set_after(commit_sets, set)) >= 0;)
		confirmed = topics_high_watermark_wait(set, commit_marks[set], topics_append_role_generation(set), check, until);
	return confirmed;
}

/*
 * Return true if this node does not lead any more what the transaction has
 * appended to.
 */
static bool
is_deposed(void)
{
	for (int set = -1; (set = topics_leader_set_after(commit_sets, set)) >= 0;)
		if (topics_mark_slot_kind_of(set) == CLUSTER_FOLLOWER &&
			topics_mark_slot_generation_of(set) != topics_append_role_generation(set))
			return true;
	return false;
}

/*
 * Tell a client whose connection is closed then why, as PostgreSQL warns of
 * standbys.
 */
static void
warn_unconfirmed(bool deposed)
{
	if (keeps_connection)
		return;
	if (deposed)
		ereport(WARNING,
				(errcode(ERRCODE_T_R_STATEMENT_COMPLETION_UNKNOWN),
				 errmsg("closing the connection, since another node has come to lead before the commit was confirmed"),
				 errdetail("The transaction is committed here. Its records are in the log of the new leader, or were taken out of this node's."),
				 errhint("Look for them on the new leader, which topics.node names, and in topics.truncated here.")));
	else
		ereport(WARNING,
				(errcode(ERRCODE_T_R_STATEMENT_COMPLETION_UNKNOWN),
				 errmsg("closing the connection, since too few followers have confirmed the commit"),
				 errdetail("The transaction is committed here. Its records are shown when as many followers have them as acks_followers says, and may be lost if this server is lost before. The wait was cancelled, or took longer than pg_topics.acks_timeout."),
				 errhint("Look at topics.replica for followers that are not in sync, and at topics.worker there.")));
}

/* Wait until as many followers as are wanted have the commit. */
static void
wait_for_followers(XLogRecPtr lsn)
{
	MonotonicTime until = pg_topics_acks_timeout == 0 ? NEVER :
		topics_clock_in(pg_topics_acks_timeout);

	/* also with synchronous_commit = off: no follower gets what can be lost */
	XLogFlush(lsn);
	if (wait_for_marks(topics_append_is_confirmed, until))
	{
		topics_append_confirmed();
		return;
	}

	/* it is sent before the connection is closed */
	warn_unconfirmed(is_deposed());
	refuse_acknowledgement();
}

/*
 * When the transaction's locks are gone: wait until it is durable, and, where
 * that is asked for, confirmed by the standbys, and can be read.
 */
void
topics_durability_wait(void)
{
	XLogRecPtr	lsn = commit_end;

	if (lsn == InvalidXLogRecPtr)
		return;
	commit_end = InvalidXLogRecPtr;
	if (flush_wanted)
	{
		TEST_POINT("commit-published");
		XLogFlush(lsn);
		TEST_POINT("commit-durable");
		SyncRepWaitForLSN(lsn, true);
	}
	/* the log of another leader goes on, and this commit is not in it */
	if (is_deposed())
	{
		warn_unconfirmed(true);
		refuse_acknowledgement();
	}
	else if (standby_is_behind(lsn))
		refuse_acknowledgement();
	else if (may_want_followers && wants_followers(commit_sets))
		wait_for_followers(lsn);
	else if (commit_sets != 0 && waits_for_standbys() && !wants_followers(commit_sets) &&
			 synchronous_commit >= SYNCHRONOUS_COMMIT_REMOTE_FLUSH)
	{
		(void) wait_for_marks(NULL, NEVER);
		topics_append_confirmed();
	}
	may_want_followers = false;
}

/*
 * Say whether the caller is going to ask topics_durability_is_unconfirmed
 * after the commit, and to report it: then the connection need not be closed.
 */
void
topics_durability_keep_connection(bool keep)
{
	keeps_connection = keep;
	if (keep)
		unconfirmed = false;
}

/* Return true if a wait for a standby was cancelled in a commit since then. */
bool
topics_durability_is_unconfirmed(void)
{
	return unconfirmed;
}
