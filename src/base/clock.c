/*-------------------------------------------------------------------------
 *
 * clock.c
 *		How long something takes, is to take, or is past.
 *
 * The clock of the wall can be set, by hours or years, in both directions.  So
 * a delay, a nap or a limit is never the difference of two timestamps: it goes
 * by the monotonic clock, which all processes of a machine share, and which
 * only goes on.  It begins anew when the machine does.
 *
 * A timestamp is for what it says: when something was.  One that is compared
 * with the time of now, as by retention, may be of a clock that was wrong; who
 * compares takes what lies in the future for now.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "portability/instr_time.h"
#include "utils/timestamp.h"

#include "base/base.h"

/* Return the time of the monotonic clock; never 0. */
MonotonicTime
topics_clock_now(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (MonotonicTime) INSTR_TIME_GET_MICROSEC(now) + 1;
}

/* Return the time so many milliseconds from now. */
MonotonicTime
topics_clock_in(int64 ms)
{
	return topics_clock_now() + ms * 1000;
}

/*
 * Return the time of the wall's clock so many milliseconds ago, or DT_NOBEGIN,
 * which is before all timestamps, if there was none.
 */
TimestampTz
topics_clock_ago(int64 ms)
{
	TimestampTz now = GetCurrentTimestamp();

	return ms > now / 1000 - MIN_TIMESTAMP / 1000 ? DT_NOBEGIN : now - ms * 1000;
}

/* Count the microseconds until a time: 0 if it has come. */
int64
topics_clock_us_until(MonotonicTime time)
{
	return topics_max(time - topics_clock_now(), 0);
}

/* Count the milliseconds until a time, rounded up: 0 if it has come. */
int64
topics_clock_ms_until(MonotonicTime time)
{
	return (topics_clock_us_until(time) + 999) / 1000;
}
