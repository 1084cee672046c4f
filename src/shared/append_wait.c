/*-------------------------------------------------------------------------
 *
 * append_wait.c
 *		Who waits for which append lock, and who has it: for the view
 *		topics.append_wait.
 *
 * pg_locks and pg_blocking_pids know nothing of LWLocks.  So a process that is
 * about to sleep for an append lock writes down what it waits for, in a slot of
 * its own, and erases that when it has the lock, or when its transaction
 * aborts, however that comes about.  (After a crash of any process the server
 * makes all shared memory anew.)  A producer that does not sleep writes nothing
 * but its pid, beside the lock (PartitionState.holder).
 *
 * LOCKING.  A slot's spinlock guards the slot, which its own process alone
 * writes.  A reader looks at one slot after the other, and at the holders
 * after that: what it finds is true of each, not of all at once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "storage/spin.h"

#include "base/compat.h"
#include "base/base.h"
#include "shared/shared.h"

typedef struct WaitSlot
{
	slock_t		mutex;
	AppendWait	wait;			/* waiter_pid 0: does not wait */
} WaitSlot;

static WaitSlot *slots = NULL;	/* MaxBackends, by MyProcNumber */

/* shmem_request_hook */
void
topics_append_wait_shmem_request(void)
{
	RequestAddinShmemSpace(MAXALIGN(mul_size(MaxBackends, sizeof(WaitSlot))));
}

/* shmem_startup_hook; the caller holds AddinShmemInitLock. */
void
topics_append_wait_shmem_startup(void)
{
	bool		found;

	slots = ShmemInitStruct("pg_topics append waits", mul_size(MaxBackends, sizeof(WaitSlot)),
							&found);
	if (!found)
		for (int i = 0; i < MaxBackends; i++)
		{
			SpinLockInit(&slots[i].mutex);
			memset(&slots[i].wait, 0, sizeof(AppendWait));
		}
}

/*
 * This process is about to sleep for the append lock of a partition, or with id
 * NULL for the database lock; "is_giant": to have that for itself.  It may come
 * again, also with something else, until topics_append_wait_leave.
 */
void
topics_append_wait_enter(const TopicPartition *id, bool is_giant)
{
	WaitSlot   *slot = &slots[MyProcNumber];
	TopicPartition target = {MyDatabaseId, 0, 0};
	TimestampTz since = slot->wait.waiter_pid != 0 ? slot->wait.since : GetCurrentTimestamp();

	Assert(MyProcNumber >= 0 && MyProcNumber < MaxBackends);
	if (id)
		target = *id;
	SpinLockAcquire(&slot->mutex);
	slot->wait.id = target;
	slot->wait.of_database = id == NULL;
	slot->wait.waiter_pid = MyProcPid;
	slot->wait.since = since;
	slot->wait.is_giant = is_giant;
	SpinLockRelease(&slot->mutex);
}

/* This process does not wait any more.  Raises nothing. */
void
topics_append_wait_leave(void)
{
	WaitSlot   *slot = &slots[MyProcNumber];

	SpinLockAcquire(&slot->mutex);
	slot->wait.waiter_pid = 0;
	SpinLockRelease(&slot->mutex);
}

/*
 * Return the partition that this process waits to append to, or NULL if it
 * waits for none.  Raises nothing, and takes no lock.
 */
const TopicPartition *
topics_append_wait_own(void)
{
	const AppendWait *wait = &slots[MyProcNumber].wait;

	return wait->waiter_pid != 0 && !wait->of_database ? &wait->id : NULL;
}

/* Add a wait and its holder to a list. */
static List *
add_wait(List *result, const AppendWait *wait, int holder_pid)
{
	AppendWait *copy = palloc(sizeof(AppendWait));

	*copy = *wait;
	copy->holder_pid = holder_pid;
	return lappend(result, copy);
}

/*
 * The holders of append locks of this database: a giant waits for all of them.
 */
static List *
list_holders(void)
{
	List	   *result = NIL;

	for (int i = 0; i < pg_topics_max_partitions; i++)
	{
		PartitionState *state = topics_partition_state_at(i);
		int			holder = (int) pg_atomic_read_u32(&state->holder);

		if (holder != 0 && state->id.database == MyDatabaseId)
			result = list_append_unique_int(result, holder);
	}
	return result;
}

/* Giants that wait themselves: others stand back for them. */
static List *
list_waiting_giants(List *waits)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, waits)
	{
		AppendWait *wait = lfirst(lc);

		if (wait->is_giant)
			result = lappend_int(result, wait->waiter_pid);
	}
	return result;
}

/* List the waits in this database, without their holders. */
static List *
list_waits(void)
{
	List	   *result = NIL;

	for (int i = 0; i < MaxBackends; i++)
	{
		AppendWait	wait;

		SpinLockAcquire(&slots[i].mutex);
		wait = slots[i].wait;
		SpinLockRelease(&slots[i].mutex);
		if (wait.waiter_pid != 0 && wait.id.database == MyDatabaseId)
			result = add_wait(result, &wait, 0);
	}
	return result;
}

/* List the pids of the processes that a wait is for. */
static List *
list_holders_of(const AppendWait *wait, List *waits)
{
	int			giant = topics_append_lock_giant();

	if (!wait->of_database)
	{
		PartitionState *state = topics_partition_state_find(&wait->id);
		int			holder = state ? (int) pg_atomic_read_u32(&state->holder) : 0;

		return holder != 0 ? list_make1_int(holder) : NIL;
	}
	if (giant != 0)
		return list_make1_int(giant);
	return wait->is_giant ? list_holders() : list_waiting_giants(waits);
}

/*
 * List who waits in this database: an AppendWait for each process that is
 * waited for, or one with holder_pid 0.
 */
List *
topics_append_wait_list(void)
{
	List	   *waits = list_waits();
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, waits)
	{
		AppendWait *wait = lfirst(lc);
		List	   *holders = list_holders_of(wait, waits);
		ListCell   *holder;

		if (holders == NIL)
			result = add_wait(result, wait, 0);
		foreach(holder, holders)
			result = add_wait(result, wait, lfirst_int(holder));
	}
	return result;
}
