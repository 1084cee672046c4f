/*-------------------------------------------------------------------------
 *
 * test_point.c
 *		A test stops a process at a step of an operation.
 *
 * Part of the library if it is built by "make TEST_POINTS=1", which ./check
 * does for TAP tests that ask for it (t/Topics.pm), and nobody else should.
 *
 * A test arms TEST_POINT("name") by the file test_points/name in the data
 * directory.  The first process that comes by renames it to name.<pid>, and
 * waits until that is gone: so one process is stopped, the test sees which
 * one and where, and it goes on, or is killed, when the test says so.  Where
 * the operation may fail, it can be made to: the test renames the file once
 * more, to name.<pid>.fail.  Or to name.<pid>.scans: then the process has as many
 * scans of hash tables open as PostgreSQL allows, and another hash_seq_init
 * raises, until it comes to another test point.
 *
 * The process may hold LWLocks or be past its commit record: it takes no
 * interrupt, and raises nothing that it was not told to.  An immediate
 * shutdown ends it, and the death of the postmaster.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "miscadmin.h"
#include "storage/pmsignal.h"
#include "utils/hsearch.h"

#include "../src/pg_topics.h"

#define MAX_SCANS 100			/* MAX_SEQ_SCANS of dynahash.c */

static HASH_SEQ_STATUS scans[MAX_SCANS];
static bool scans_are_open = false;

/* Open as many scans of hash tables as there can be. */
static void
open_all_scans(void)
{
	static HTAB *table = NULL;
	HASHCTL		ctl = {.keysize = sizeof(Oid),.entrysize = sizeof(Oid)};

	if (table == NULL)
		table = hash_create("test point", 1, &ctl, HASH_ELEM | HASH_BLOBS);
	for (int i = 0; i < MAX_SCANS; i++)
		hash_seq_init(&scans[i], table);
	scans_are_open = true;
}

static void
close_all_scans(void)
{
	for (int i = 0; i < MAX_SCANS && scans_are_open; i++)
		hash_seq_term(&scans[i]);
	scans_are_open = false;
}

void
topics_test_point(const char *name)
{
	char		armed[MAXPGPATH];
	char		stopped[MAXPGPATH];
	char		failing[MAXPGPATH];
	char		scanning[MAXPGPATH];
	int			save_errno = errno;

	snprintf(armed, MAXPGPATH, "test_points/%s", name);
	snprintf(stopped, MAXPGPATH, "test_points/%s.%d", name, MyProcPid);
	snprintf(failing, MAXPGPATH, "test_points/%s.%d.fail", name, MyProcPid);
	snprintf(scanning, MAXPGPATH, "test_points/%s.%d.scans", name, MyProcPid);
	close_all_scans();
	if (rename(armed, stopped) == 0)
	{
		while (access(stopped, F_OK) == 0)
		{
			if (!PostmasterIsAlive())
				_exit(2);
			pg_usleep(1000);
		}
		if (unlink(failing) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("made to fail at test point \"%s\"", name)));
		if (unlink(scanning) == 0)
			open_all_scans();
	}
	errno = save_errno;
}
