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

/* ---- worker.c ---- */

extern void topics_worker_register(void);

/* ---- compactor.c ---- */

extern bool topics_compactor_start(WorkerSlot *slot);

/* ---- notify.c ---- */

extern long topics_notify_send(WorkerSlot *slot);
extern void topics_notify_give_back(void);

#endif							/* PG_TOPICS_SERVE_H */
