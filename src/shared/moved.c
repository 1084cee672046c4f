/*-------------------------------------------------------------------------
 *
 * moved.c
 *		Partitions whose log end has moved, for the worker to tell of.
 *
 * A partition whose log end has moved is pushed onto its database's stack, for
 * the worker to tell of, once: its flag "moved" says that it is in one.  A push
 * takes the flag first, then links the partition to the top.  A pop takes the
 * whole stack, follows the links, and clears each flag before its caller looks
 * at what the flag was about.  So a producer that finds the flag set has
 * published before that look, and only the process that holds the flag writes
 * the link.  Nobody pops less than everything, so a partition cannot be popped
 * and pushed again under a process that compares the top.
 *
 * A state can be given to another topic while it is in a stack.  Then the
 * worker looks at it for nothing; or, if its database is another one now, the
 * worker that pops it pushes it onto that database's stack (notify.c).  When a
 * database is dropped, topics_moved_sort empties its stack in the same way.
 *
 * LOCKING
 *
 *	MovedStacks.tops, PartitionState.moved		atomics.
 *	PartitionState.moved_below		is written by the process that has set
 *		"moved", before it changes the top, and read by the one that has taken
 *		the stack.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/ipc.h"
#include "storage/shmem.h"

#include "shared/shared.h"

/* For each slot of worker_registry.c, the top of its database's stack. */
typedef struct MovedStacks
{
	pg_atomic_uint32 tops[MAX_WORKERS]; /* index of the state + 1, or 0 */
} MovedStacks;

static MovedStacks *stacks = NULL;

/* shmem_request_hook */
void
topics_moved_shmem_request(void)
{
	RequestAddinShmemSpace(MAXALIGN(sizeof(MovedStacks)));
}

/* shmem_startup_hook; the caller holds AddinShmemInitLock. */
void
topics_moved_shmem_startup(void)
{
	bool		found;

	stacks = ShmemInitStruct("pg_topics moved partitions", sizeof(MovedStacks), &found);
	if (!found)
		for (int i = 0; i < MAX_WORKERS; i++)
			pg_atomic_init_u32(&stacks->tops[i], 0);
}

static pg_atomic_uint32 *
find_top(const WorkerSlot *slot)
{
	return &stacks->tops[topics_worker_registry_index(slot)];
}

/* Take a whole stack.  Return the index + 1 of its uppermost state, or 0. */
static uint32
take_stack(const WorkerSlot *slot)
{
	return pg_atomic_exchange_u32(find_top(slot), 0);
}

/*
 * Take the uppermost state off a stack that was taken.  From now on it can be
 * pushed again.
 */
static PartitionState *
unlink_top(uint32 *top)
{
	PartitionState *state = topics_partition_state_at(*top - 1);

	*top = state->moved_below;
	pg_atomic_exchange_u32(&state->moved, 0);
	return state;
}

/*
 * Push a partition whose log end has moved, for its database's worker to tell
 * of.  The new end was stored before.  Raises nothing.
 */
void
topics_moved_push(PartitionState *state)
{
	WorkerSlot *slot;
	uint32		top;

	pg_memory_barrier();
	if (pg_atomic_read_u32(&state->moved) != 0 ||
		pg_atomic_exchange_u32(&state->moved, 1) != 0)
		return;
	slot = OidIsValid(state->id.database) ? topics_worker_registry_get(state->id.database) : NULL;
	if (slot == NULL)
	{
		pg_atomic_write_u32(&state->moved, 0);
		return;
	}

	top = pg_atomic_read_u32(find_top(slot));
	do
	{
		state->moved_below = top;
		pg_write_barrier();
	} while (!pg_atomic_compare_exchange_u32(find_top(slot), &top,
											 topics_partition_state_index(state) + 1));
	/* if it was not empty, the first process to push has set the latch */
	if (top == 0)
		topics_worker_registry_wake_notifier(slot);
}

/* Return true if no partition of the database with that slot has moved. */
bool
topics_moved_is_empty(int slot)
{
	return pg_atomic_read_u32(&stacks->tops[slot]) == 0;
}

/*
 * Take all of a stack into "result", which has room for all states there are.
 * From now on they can be pushed again, so their log ends are to be looked at
 * after this.
 */
int
topics_moved_pop(const WorkerSlot *slot, PartitionState **result)
{
	uint32		top = take_stack(slot);
	int			count = 0;

	while (top != 0)
		result[count++] = unlink_top(&top);
	return count;
}

/*
 * Sort out a database's stack: states of the database were given back, and may
 * have another owner now.
 */
void
topics_moved_sort(Oid database)
{
	WorkerSlot *slot = topics_worker_registry_find(database);
	uint32		top = slot ? take_stack(slot) : 0;

	while (top != 0)
		topics_moved_push(unlink_top(&top));
}
