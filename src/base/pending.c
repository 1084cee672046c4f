/*-------------------------------------------------------------------------
 *
 * pending.c
 *		What a transaction has done, or holds, that only its commit in this
 *		session completes.
 *
 * Such a transaction can neither be prepared, since another session would
 * commit it, nor wait for long, since others wait for its end.  Each file knows
 * of its own part.  transaction.c hands down the list of all.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/base.h"

static const PendingWork *pending_work = NULL;
static int	npending_work = 0;

/* Set the list.  It stays the caller's. */
void
topics_pending_set_list(const PendingWork *work, int count)
{
	pending_work = work;
	npending_work = count;
}

/*
 * Say what this transaction has pending, as "has ...", or return NULL if it has
 * nothing.
 */
const char *
topics_pending_describe(void)
{
	for (int i = 0; i < npending_work; i++)
	{
		if (pending_work[i].is_pending())
			return pending_work[i].what;
	}
	return NULL;
}
