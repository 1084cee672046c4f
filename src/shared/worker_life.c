/*-------------------------------------------------------------------------
 *
 * worker_life.c
 *		Whether one of our processes answers.
 *
 * A process that was stopped (SIGSTOP), or hangs in the operating system,
 * still stands in its slot, and in pg_stat_activity as it was.  So it is
 * asked: the signal SIGUSR2, which PostgreSQL leaves to background workers,
 * has a handler that answers in shared memory, and does nothing else.  A
 * process answers whatever it is at: a long VACUUM, a wait for a lock, a nap
 * of compaction.  One that has not answered for SILENT_MS does not run.
 *
 * The launcher asks those that there are, every ASK_MS; the view topics.worker
 * asks, too, so that also a launcher that hangs is found out.
 *
 * Rejected: a sign of life that the process leaves by itself.  Between two of
 * them may be an hour of VACUUM, which we are not called from; and a timer that
 * leaves them goes by the clock of the wall in PostgreSQL (timeout.c there), so
 * that all would seem to hang once that is set back.
 *
 * No lock: "asked" and "answered" are atomics, and asked_at is written by the
 * process that asks, before.  If two ask at once it is asked twice.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "base/base.h"
#include "shared/shared.h"

/* What others see of this process. */
static ServeProcess *mine = NULL;

/* SIGUSR2's handler */
static void
answer(SIGNAL_ARGS)
{
	pg_atomic_write_u32(&mine->answered, pg_atomic_read_u32(&mine->asked));
}

/* This process is to be seen there.  It answers from now on. */
void
topics_worker_life_begin(ServeProcess *process)
{
	mine = process;
	pqsignal(SIGUSR2, answer);
}

/* Ask a process, if it is there, and has answered the last time. */
void
topics_worker_life_ask(ServeProcess *process)
{
	pid_t		pid = *(volatile pid_t *) &process->pid;
	uint32		asked = pg_atomic_read_u32(&process->asked);

	if (pid == 0 || asked != pg_atomic_read_u32(&process->answered))
		return;
	process->asked_at = topics_clock_now();
	pg_write_barrier();
	pg_atomic_write_u32(&process->asked, asked + 1);
	kill(pid, SIGUSR2);
}

/* Return true if a process is there and has not answered for SILENT_MS. */
bool
topics_worker_life_is_hung(const ServeProcess *process)
{
	return process->pid != 0 &&
		pg_atomic_read_u32(unconstify(pg_atomic_uint32 *, &process->asked)) !=
		pg_atomic_read_u32(unconstify(pg_atomic_uint32 *, &process->answered)) &&
		topics_clock_now() - process->asked_at > SILENT_MS * INT64CONST(1000);
}
