/*-------------------------------------------------------------------------
 *
 * settings.c
 *		The settings of the server that begin with "pg_topics.", and settings
 *		of PostgreSQL's that we change for a moment.
 *
 * TO ADD A SETTING of the server: a variable here, its declaration in base.h, a
 * call in topics_settings_define, and a heading in docs/reference/settings.md,
 * which a test compares.  (Settings of a topic: log/topic_setting.c.)
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/varlena.h"

#include "base/base.h"

int			pg_topics_max_partitions;
int			pg_topics_max_group_offsets;
int			pg_topics_max_producers;
int			pg_topics_max_members;
int			pg_topics_producer_id_expiration;

/* from 16 on an assertion wants it to have its first value: 0 is another one */
int			pg_topics_early_lock_release = EARLY_LOCK_RELEASE_AUTO;

int			pg_topics_acks = ACKS_ALL;
int			pg_topics_acks_timeout;
int			pg_topics_node_timeout;
bool		pg_topics_automatic_failover;

bool		pg_topics_enable_offset_scan;
int			pg_topics_worker_interval;
int			pg_topics_max_workers;
int			pg_topics_max_compactors;
int			pg_topics_notify_interval;
int			pg_topics_compaction_rate;

static const struct config_enum_entry early_lock_release_options[] = {
	{"auto", EARLY_LOCK_RELEASE_AUTO, false},
	{"on", EARLY_LOCK_RELEASE_ON, false},
	{"off", EARLY_LOCK_RELEASE_OFF, false},
	{"true", EARLY_LOCK_RELEASE_ON, true},
	{"false", EARLY_LOCK_RELEASE_OFF, true},
	{"yes", EARLY_LOCK_RELEASE_ON, true},
	{"no", EARLY_LOCK_RELEASE_OFF, true},
	{"1", EARLY_LOCK_RELEASE_ON, true},
	{"0", EARLY_LOCK_RELEASE_OFF, true},
	{NULL, 0, false}
};

static const struct config_enum_entry acks_options[] = {
	{"all", ACKS_ALL, false},
	{"1", ACKS_LEADER, false},
	{"0", ACKS_NONE, false},
	{"-1", ACKS_ALL, true},
	{NULL, 0, false}
};

/* The library was loaded at server start, and has its shared memory. */
static bool preloaded = false;

/* Define them: called once, by _PG_init, in a library that is preloaded. */
void
topics_settings_define(void)
{
	DefineCustomIntVariable("pg_topics.max_partitions",
							"Partitions of all topics of all databases that shared memory has room for.",
							"Creating a topic beyond it fails. Each takes about 800 bytes.",
							&pg_topics_max_partitions, 10000, 16, 1000000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_topics.max_group_offsets",
							"Committed offsets of all consumer groups of all databases that shared memory has room for.",
							"A group takes one place, and one more for each topic and each partition that it consumes. Beyond it a group's first call fails. Each takes about 470 bytes.",
							&pg_topics_max_group_offsets, 100000, 100, 10000000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_topics.max_members",
							"Members of all consumer groups of all databases that shared memory has room for.",
							"Beyond it topics.join_group() fails. Each takes about 420 bytes.",
							&pg_topics_max_members, 10000, 16, 1000000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_topics.max_producers",
							"Producers that number their records, of all databases, that shared memory has room for.",
							"A producer takes one place for each partition that it numbers records of, and one if it has a name. Beyond it the commit fails. Each takes about 250 bytes.",
							&pg_topics_max_producers, 10000, 16, 10000000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_topics.producer_id_expiration",
							"How long a producer that numbers its records is remembered after the last one.",
							"Kafka: producer.id.expiration.ms. What is repeated after that is stored again.",
							&pg_topics_producer_id_expiration, 86400000, 1000, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomEnumVariable("pg_topics.early_lock_release",
							 "Lets the next producer of a partition go on while a commit waits for its flush, and for synchronous standbys.",
							 "\"auto\" does not for a transaction that has written to tables, or has used NOTIFY, and waits for synchronous standbys. Acknowledgements wait in any case.",
							 &pg_topics_early_lock_release, EARLY_LOCK_RELEASE_AUTO,
							 early_lock_release_options, PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable("pg_topics.acks",
							 "What a commit that produces records, or commits offsets, waits for before it is acknowledged.",
							 "\"all\": as many followers as topics.alter_cluster() wants, in a cluster; \"1\": its own server; \"0\": nothing, as with synchronous_commit = off.",
							 &pg_topics_acks, ACKS_ALL, acks_options,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_topics.acks_timeout",
							"How long a commit waits for followers; then the connection is closed.",
							"The outcome is not known then. 0 is no limit.",
							&pg_topics_acks_timeout, 30000, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_topics.node_timeout",
							"How long a cluster's node is silent until it is taken for lost.",
							"A follower that has not heard from the leader for so long has another one elected. A leader that has not heard from enough followers for so long takes no records with acks = 1 or 0. Has to be the same on all nodes.",
							&pg_topics_node_timeout, 9000, 100, 3600000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomBoolVariable("pg_topics.automatic_failover",
							 "Lets a follower lead, if most nodes want it, when the leader is lost.",
							 "Without it, topics.failover() has to be called.",
							 &pg_topics_automatic_failover, true,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("pg_topics.enable_offset_scan",
							 "Lets the planner read topics in the order of offsets, from the first wanted one.",
							 "Also topics.fetch(), poll() and consume() in FROM, by plan nodes of their own.",
							 &pg_topics_enable_offset_scan, true,
							 PGC_USERSET, GUC_EXPLAIN, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_topics.worker_interval",
							"Time between two rounds of the worker over all partitions.",
							"What cannot wait wakes it at once.",
							&pg_topics_worker_interval, 10000, 100, 3600000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_topics.max_workers",
							"Worker processes at a time, in all databases.",
							"They come to databases that have work, in turns if there are more, and go when there is none.",
							&pg_topics_max_workers, 3, 1, 256,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_topics.max_compactors",
							"Compactor processes at a time, in all databases.",
							"With 0 workers compact, and are late with the rest.",
							&pg_topics_max_compactors, 1, 0, 256,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
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
	preloaded = true;
}

/*
 * Raise an error unless the library was preloaded.  Functions that need shared
 * memory call this first: a library that was loaded too late has none.
 */
void
topics_settings_require_preload(void)
{
	if (!preloaded)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pg_topics must be loaded via \"shared_preload_libraries\""),
				 errhint(PRELOAD_HINT)));
}

/* Return true if a name in shared_preload_libraries is this library's. */
static bool
is_own_library(const char *path)
{
	const char *separator = last_dir_separator(path);
	const char *name = separator ? separator + 1 : path;

	return strcmp(name, "pg_topics") == 0 || strcmp(name, "pg_topics" DLSUFFIX) == 0;
}

/*
 * Return true if pg_topics stands first in shared_preload_libraries.
 * Transaction callbacks run newest first, and ours should run last.
 */
bool
topics_settings_is_loaded_first(void)
{
	char	   *libraries = pstrdup(shared_preload_libraries_string ?
									shared_preload_libraries_string : "");
	List	   *names;

	return !SplitDirectoriesString(libraries, ',', &names) || names == NIL ||
		is_own_library(linitial(names));
}

/*
 * Give a setting of PostgreSQL's another value for a while: until the caller
 * ends the level that NewGUCNestLevel began, by AtEOXact_GUC.
 */
void
topics_settings_override(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}
