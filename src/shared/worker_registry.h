/*-------------------------------------------------------------------------
 *
 * shared/worker_registry.h
 *		The registry itself, for worker_registry.c and worker_slot.c alone.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PG_TOPICS_WORKER_REGISTRY_H
#define PG_TOPICS_WORKER_REGISTRY_H

#include "storage/spin.h"

#include "shared/shared.h"

typedef struct WorkerRegistry
{
	slock_t		mutex;			/* guards all below */
	Latch	   *launcher_latch;
	ServeProcess launcher;
	bool		look_again;		/* databases came or went */
	bool		forget_looks;	/* an extension came that there was no slot
								 * for */
	uint32		changes;		/* extensions came or went so often */
	uint32		role_changes;	/* roles were renamed so often, and once */
	bool		hinted[WORKER_HINTS];	/* that was logged */
	pg_atomic_uint64 wall_offset;	/* what the wall's clock is ahead of the
									 * monotonic one, as it is shown; 0: not
									 * known */
	WorkerSlot	slots[MAX_WORKERS];
} WorkerRegistry;

extern WorkerRegistry *topics_worker_registry;

extern void topics_worker_registry_set_latch(Latch *latch);

#endif							/* PG_TOPICS_WORKER_REGISTRY_H */
