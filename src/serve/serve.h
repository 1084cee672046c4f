/*-------------------------------------------------------------------------
 *
 * serve/serve.h
 *		Background processes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PG_TOPICS_SERVE_H
#define PG_TOPICS_SERVE_H

#include "shared/shared.h"
#include "log/log.h"

/* ---- launcher.c ---- */

extern void topics_launcher_register(void);

/* ---- compactor.c ---- */

extern struct BackgroundWorkerHandle *topics_compactor_start(int slot, Oid database);

/* ---- replicator.c ---- */

extern struct BackgroundWorkerHandle *topics_replicator_start(int slot, Oid database, int set);

/* ---- leadership.c ---- */

/* What this node is, as the replicator has read it. */
typedef struct NodeView
{
	ClusterRow	row;
	uint32		row_changes;	/* before that was read */
	MemoryContext cxt;			/* of what an election needs */
} NodeView;

extern bool topics_leadership_may_follow(NodeView *node);
extern bool topics_leadership_begins(NodeView *node);
extern MonotonicTime topics_leadership_due_at(void);
extern void topics_leadership_seek(NodeView *node, bool was_heard);
extern void topics_leadership_keep(NodeView *node);

/* ---- guarded.c ---- */

/* What has become of a look at a partition. */
typedef enum GuardedResult
{
	GUARDED_DONE,
	GUARDED_DAMAGED,
	GUARDED_DROPPED
} GuardedResult;

typedef void (*Look) (void *arg);
extern GuardedResult topics_guarded_look(Topic *topic, int32 partition, Look look, void *arg);

/* ---- delay_monitor.c ---- */

extern bool topics_delay_monitor_describe(const WorkDelay *delay, char **message, char **hint);
extern bool topics_delay_monitor_describe_group(const char *group_id, char **message, char **hint);

/* ---- notify.c ---- */

extern long topics_notify_send(WorkerSlot *slot);
extern void topics_notify_give_back(void);

#endif							/* PG_TOPICS_SERVE_H */
