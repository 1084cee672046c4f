/*-------------------------------------------------------------------------
 *
 * init.c
 *		Loading: settings, shared memory, hooks, the launcher.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/varlena.h"

#include "compat.h"
#include "consumer.h"
#include "pg_topics.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

int			pg_topics_max_partitions;
int			pg_topics_max_group_offsets;
bool		pg_topics_early_lock_release;
bool		pg_topics_enable_offset_scan;
int			pg_topics_worker_interval;
int			pg_topics_notify_interval;
int			pg_topics_compaction_rate;

static bool preloaded = false;
static shmem_request_hook_type previous_shmem_request = NULL;
static shmem_startup_hook_type previous_shmem_startup = NULL;

/*
 * Functions that need shared memory call this first, so that a library that
 * was loaded too late says so instead of crashing.
 */
void
topics_require_preload(void)
{
	if (!preloaded)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pg_topics must be loaded via \"shared_preload_libraries\""),
				 errhint("Put pg_topics first in shared_preload_libraries and restart the server.")));
}

static void
request_shmem(void)
{
	if (previous_shmem_request)
		previous_shmem_request();
	topics_shmem_request();
	topics_offset_table_shmem_request();
	topics_backoff_shmem_request();
}

static void
start_shmem(void)
{
	if (previous_shmem_startup)
		previous_shmem_startup();
	topics_shmem_startup();
	topics_offset_table_shmem_startup();
	topics_backoff_shmem_startup();
}

/* Transaction callbacks run newest first, and ours should run last. */
static void
warn_unless_first(void)
{
	char	   *libraries = pstrdup(shared_preload_libraries_string ?
								   shared_preload_libraries_string : "");
	List	   *names;

	if (SplitDirectoriesString(libraries, ',', &names) && names != NIL &&
		strcmp(first_dir_separator(linitial(names)) ? last_dir_separator(linitial(names)) + 1 :
			   (char *) linitial(names), "pg_topics") != 0)
		ereport(WARNING,
				(errmsg("pg_topics is not the first of \"shared_preload_libraries\""),
				 errdetail("Append locks are held while other libraries do their work at commit."),
				 errhint("Put pg_topics first in shared_preload_libraries.")));
}

static void
define_settings(void)
{
	DefineCustomIntVariable("pg_topics.max_partitions",
							"Partitions of all topics of all databases that shared memory has room for.",
							"Creating a topic beyond it fails. Each takes about 290 bytes.",
							&pg_topics_max_partitions, 10000, 16, 1000000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_topics.max_group_offsets",
							"Committed offsets of all consumer groups of all databases that shared memory has room for.",
							"A group takes one place, and one more for each topic and each partition that it consumes. Beyond it a group's first call fails. Each takes about 190 bytes.",
							&pg_topics_max_group_offsets, 100000, 100, 10000000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("pg_topics.early_lock_release",
							 "Lets the next producer of a partition go on while a commit waits for its flush.",
							 "Acknowledgements wait for it in any case.",
							 &pg_topics_early_lock_release, true,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("pg_topics.enable_offset_scan",
							 "Lets the planner read topics in the order of offsets, from the first wanted one.",
							 "Also topics.fetch() in FROM, record by record.",
							 &pg_topics_enable_offset_scan, true,
							 PGC_USERSET, GUC_EXPLAIN, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_topics.worker_interval",
							"Time between two rounds of the worker over all partitions.",
							"What cannot wait wakes it at once.",
							&pg_topics_worker_interval, 10000, 100, 3600000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_topics.notify_interval",
							"Least time between two notifications of a topic's new records.",
							"What comes meanwhile is told of together.",
							&pg_topics_notify_interval, 100, 10, 60000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_topics.compaction_rate",
							"How much compaction reads and writes in a second, at most.",
							"0 is no limit. CALL topics.maintain() has none.",
							&pg_topics_compaction_rate, 32768, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	MarkGUCPrefixReserved("pg_topics");
}

void
_PG_init(void)
{
	/* CREATE EXTENSION fails here, before anything is made */
	if (!process_shared_preload_libraries_in_progress)
		topics_require_preload();

	preloaded = true;
	warn_unless_first();
	define_settings();
	previous_shmem_request = shmem_request_hook;
	shmem_request_hook = request_shmem;
	previous_shmem_startup = shmem_startup_hook;
	shmem_startup_hook = start_shmem;
	topics_transaction_init();
	topics_hooks_init();
	topics_scan_init();
	topics_fetch_scan_init();
	if (!IsBinaryUpgrade)
		topics_worker_register();
}
