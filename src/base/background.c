/*-------------------------------------------------------------------------
 *
 * background.c
 *		Have something done by another process, in transactions of its own
 *		that commit before ours, and wait for it or not.
 *
 * The deadlock detector does not see a wait for another process to end.  If
 * that process needs a lock that its master holds, or that another process
 * holds which waits for the master, it gives up after LOCK_TIMEOUT_MS, and the
 * master does the work itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/wait_event.h"

#include "base/compat.h"
#include "base/base.h"

/* well below the usual deadlock_timeout, so that others are not the victims */
#define LOCK_TIMEOUT_MS "500"

/*
 * What our processes run with, whatever is set for the server, the database or
 * a role: nothing of that is meant for them, and some of it would stop their
 * work.  They need all that autovacuum's processes need, and more, since they
 * run SQL.  What decides only how fast they are, or what is logged, is left as
 * it is.
 */
static const struct
{
	const char *name;
	const char *value;
}			own_settings[] = {

	/* they give up for a lock, and for nothing else */
	{"lock_timeout", LOCK_TIMEOUT_MS},
	{"statement_timeout", "0"},
	{"idle_in_transaction_session_timeout", "0"},
	TOPICS_SETTING_TRANSACTION_TIMEOUT
	{"temp_file_limit", "-1"},

	/* they write, and a deferrable transaction would wait for others' ends */
	{"default_transaction_read_only", "off"},
	{"default_transaction_isolation", "read committed"},
	{"default_transaction_deferrable", "off"},
	/* what is lost in a crash is done again: nobody waits for their flushes */
	{"synchronous_commit", "off"},

	/* SQL means the same everywhere, and may do everything */
	{"role", "none"},
	{"search_path", "pg_catalog"},
	{"session_replication_role", "origin"},
	{"row_security", "on"},

	/* they do not rewrite damaged pages as if these were sound */
	{"zero_damaged_pages", "off"},
	{"ignore_checksum_failure", "off"},

	/* one failure does not end the process */
	{"exit_on_error", "off"},
	{"stats_fetch_consistency", "none"}
};

static volatile sig_atomic_t told_to_end = false;
static bool is_ours = false;	/* this process is one of our own */

/* Return true if this process was told to end. */
bool
topics_background_is_told_to_end(void)
{
	return told_to_end;
}

/* SIGTERM's handler */
void
topics_background_end(SIGNAL_ARGS)
{
	told_to_end = true;
	die(TOPICS_SIGNAL_PASS);
}

/*
 * Begin, in the new process, before anything else.  Return what the master has
 * given along.
 */
const char *
topics_background_begin(void)
{
	pqsignal(SIGTERM, topics_background_end);
	BackgroundWorkerUnblockSignals();
	return MyBgworkerEntry->bgw_extra;
}

/*
 * Connect to a database, or with InvalidOid to none, with the settings of our
 * own processes.
 */
void
topics_background_connect(Oid database)
{
	is_ours = true;
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	/* after those of the database, and stronger; a reload leaves them */
	for (size_t i = 0; i < lengthof(own_settings); i++)
		SetConfigOption(own_settings[i].name, own_settings[i].value, PGC_SUSET, PGC_S_OVERRIDE);
}

/* Return true if this is one of our own processes. */
bool
topics_background_is_ours(void)
{
	return is_ours;
}

/*
 * Sleep until the latch is set, or for so long; -1: for ever.  Then read
 * settings that have changed.
 */
void
topics_background_wait(long timeout_ms, WaitReason reason)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (timeout_ms >= 0 ? WL_TIMEOUT : 0),
					 timeout_ms, topics_wait_event_get(reason));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/*
 * Start a function of this library in a new process, with "size" bytes of
 * "extra".  The result is palloc'd; NULL if there is no process to be had.
 */
BackgroundWorkerHandle *
topics_background_start(const char *function, const char *name, const void *extra, Size size)
{
	BackgroundWorker worker = {0};
	BackgroundWorkerHandle *handle;

	Assert(size <= BGW_EXTRALEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION |
		BGWORKER_INTERRUPTIBLE;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	strlcpy(worker.bgw_library_name, "pg_topics", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, function, sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, name, sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, name, sizeof(worker.bgw_type));
	memcpy(worker.bgw_extra, extra, size);

	return RegisterDynamicBackgroundWorker(&worker, &handle) ? handle : NULL;
}

/*
 * Start a process in the same way, and wait until it has ended.  Return false
 * if there was none to be had.  True says only that the process has tried.
 */
bool
topics_background_run(const char *function, const char *name, const void *extra, Size size)
{
	BackgroundWorkerHandle *handle = topics_background_start(function, name, extra, size);

	return handle != NULL && WaitForBackgroundWorkerShutdown(handle) == BGWH_STOPPED;
}
