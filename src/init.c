/*-------------------------------------------------------------------------
 *
 * init.c
 *		Loading: what PostgreSQL calls first, and what it is to call later.
 *
 * One of the three doors, by which PostgreSQL comes in; the others are hooks.c
 * and transaction.c.  No file calls a door, but that _PG_init registers the
 * other two.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"

#include "base/base.h"
#include "shared/shared.h"
#include "produce/produce.h"
#include "read/read.h"
#include "group/group.h"
#include "serve/serve.h"
#include "doors.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

static shmem_request_hook_type previous_shmem_request = NULL;
static shmem_startup_hook_type previous_shmem_startup = NULL;

static void
request_shmem(void)
{
	if (previous_shmem_request)
		previous_shmem_request();
	topics_partition_state_shmem_request();
	topics_worker_registry_shmem_request();
	topics_moved_shmem_request();
	topics_append_lock_shmem_request();
	topics_mark_slot_shmem_request();
	topics_append_wait_shmem_request();
	topics_state_load_shmem_request();
	topics_producer_table_shmem_request();
	topics_offset_table_shmem_request();
	topics_backoff_shmem_request();
	topics_follower_shmem_request();
	topics_wakeup_shmem_request();
	topics_member_table_shmem_request();
}

static void
start_shmem(void)
{
	if (previous_shmem_startup)
		previous_shmem_startup();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	topics_partition_state_shmem_startup();
	topics_worker_registry_shmem_startup();
	topics_moved_shmem_startup();
	topics_append_lock_shmem_startup();
	topics_mark_slot_shmem_startup();
	topics_append_wait_shmem_startup();
	topics_state_load_shmem_startup();
	topics_producer_table_shmem_startup();
	topics_offset_table_shmem_startup();
	topics_backoff_shmem_startup();
	topics_follower_shmem_startup();
	topics_wakeup_shmem_startup();
	topics_member_table_shmem_startup();
	LWLockRelease(AddinShmemInitLock);
}

/* Warn unless pg_topics was loaded first; topics.worker goes on saying so. */
static void
warn_unless_first(void)
{
	if (!topics_settings_is_loaded_first())
		ereport(WARNING,
				(errmsg(LOADED_BEHIND_MESSAGE),
				 errdetail("Append locks are held while other libraries do their work at commit."),
				 errhint(PRELOAD_HINT)));
}

void
_PG_init(void)
{
	/* CREATE EXTENSION fails here, before anything is made */
	if (!process_shared_preload_libraries_in_progress)
		topics_settings_require_preload();

	warn_unless_first();
	topics_settings_define();
	previous_shmem_request = shmem_request_hook;
	shmem_request_hook = request_shmem;
	previous_shmem_startup = shmem_startup_hook;
	shmem_startup_hook = start_shmem;
	topics_transaction_init();
	topics_recheck_init();
	topics_hooks_init();
	topics_read_cut_init();
	topics_stale_plan_init();
	topics_offset_scan_init();
	topics_offset_path_init();
	topics_fetch_scan_init();
	topics_batch_scan_init();
	if (!IsBinaryUpgrade)
		topics_launcher_register();
}
