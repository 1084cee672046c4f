/*-------------------------------------------------------------------------
 *
 * subtransaction.c
 *		Something that may fail, and its transaction go on.
 *
 * A subtransaction that was begun here has ended when the caller is back, in
 * every case: an error that left it open would leave the session in it, and the
 * next statement would find a transaction that nobody has begun.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "base/base.h"

/*
 * Call a function in a subtransaction, in the current memory context.  Return
 * NULL if it has succeeded; otherwise what it has raised, and what it has done
 * is undone.  The caller raises again (ReThrowError) what it cannot handle.
 */
ErrorData *
topics_subtransaction_try(void (*work) (void *arg), void *arg)
{
	const MemoryContext cxt = CurrentMemoryContext;
	const ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(cxt);
	PG_TRY();
	{
		work(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(cxt);
	CurrentResourceOwner = owner;
	return error;
}

/*
 * Return true if an error is the statement's own, and says nothing about what
 * the statement was looking at: a cancel, a serialization failure, a lack of
 * memory, a lock that was not had in time.
 */
bool
topics_subtransaction_must_raise(const ErrorData *error)
{
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OPERATOR_INTERVENTION:
			return true;
		default:
			return error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE;
	}
}
