/*-------------------------------------------------------------------------
 *
 * clock.c
 *		A test sets the clock of a server, and of all its processes.
 *
 * To be preloaded (LD_PRELOAD): the time of day is as many seconds off as the
 * file says that TEST_CLOCK names.  The monotonic clock is left alone, as it is
 * where somebody sets the clock of a machine.  libfaketime does the same, but
 * does not reach background workers: the postmaster starts them in a signal
 * handler, maybe in the middle of one of the calls that libfaketime stands in
 * for.  Here only system calls are made, so it does not matter where.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int			clock_gettime(clockid_t id, struct timespec *now);
int			gettimeofday(struct timeval *restrict now, void *restrict zone);
time_t		time(time_t * result);

/* Read the offset, which may be negative. */
static long
read_offset(void)
{
	const char *path = getenv("TEST_CLOCK");
	char text[	32] = {0};
	int			fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;

	if (fd < 0)
		return 0;
	if (read(fd, text, sizeof(text) - 1) < 0)
		text[		0] = '\0';

	close(fd);
	return strtol(text, NULL, 10);
}

int
clock_gettime(clockid_t id, struct timespec *now)
{
	int			result = syscall(SYS_clock_gettime, id, now);

	if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
		now->tv_sec += read_offset();
	return result;
}

int
gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec exact;

	(void) zone;
	(void) clock_gettime(CLOCK_REALTIME, &exact);
	now->tv_sec = exact.tv_sec;
	now->tv_usec = exact.tv_nsec / 1000;
	return 0;
}

time_t
time(time_t * result)
{
	struct timespec exact;

	(void) clock_gettime(CLOCK_REALTIME, &exact);
	if (result)
		*result = exact.tv_sec;
	return exact.tv_sec;
}
