"""Two private servers: a primary, and its synchronous standby.

The standby finds the primary through a link to its sockets, which is taken
away to cut it off, and which a promotion turns round; so both have the same
configuration.
"""

import os
import random
import shutil
import signal
import threading
import time

import psycopg2
from group import Group
from server import DATABASE, USER, Server, ServerFailure

STANDBY = "standby"  # its name for synchronous_standby_names
# all ask for this standby; the last is what a quorum looks like that has lost a member
NAMES = (STANDBY, f"FIRST 1 ({STANDBY})", "*", f"ANY 1 ({STANDBY}, missing)")

CONFIGURATION = """
fsync = off
synchronous_standby_names = '{names}'
primary_conninfo = 'host={link} user={user} application_name={standby}'
wal_keep_size = 1GB
wal_log_hints = on
wal_retrieve_retry_interval = 200ms
wal_receiver_status_interval = 1s
wal_sender_timeout = 3s
wal_receiver_timeout = 3s
"""


class Pair(Group):
    def __init__(self, bindir, directory, configuration, seed):
        self.directory = directory
        self.link = os.path.join(directory, "primary")
        self.names = random.Random(f"{seed}/pair").choice(NAMES)
        self.primary = Server(bindir, os.path.join(directory, "a"), configuration + CONFIGURATION.format(
            names=self.names, link=self.link, user=USER, standby=STANDBY))
        self.standby = Server(bindir, os.path.join(directory, "b"), None)

    def others(self):
        return [self.standby]

    # ------------------------------------------------------------------
    # Start and stop
    # ------------------------------------------------------------------

    def prepare(self, schema):
        """Before there is a standby, so that it never shows what was before."""
        self.primary.prepare("SET synchronous_commit = local; " + schema)
        self.rebuild(rewind=False)

    def remove(self):
        if os.path.lexists(self.link):
            os.unlink(self.link)
        super().remove()

    def ensure_up(self):
        """Both run, are joined, and the standby has all that the primary has written until now."""
        self.primary.ensure_up()
        self.join()
        self.standby.ensure_up()
        self.await_standby()

    def connect_to_standby(self, name, node=None):
        return self.standby.connect(name)

    # ------------------------------------------------------------------
    # What is between them
    # ------------------------------------------------------------------

    def join(self):
        """The standby can reach the primary."""
        new = self.link + ".new"
        if os.path.lexists(new):
            os.unlink(new)
        os.symlink(self.primary.sockets, new)
        os.replace(new, self.link)

    def cut(self):
        """It cannot, and what there was of connections ends."""
        if os.path.lexists(self.link):
            os.unlink(self.link)
        for pid, title in self.primary.processes().items():
            if "walsender" in title:
                self.primary.send(pid, signal.SIGTERM)

    def receiver(self):
        """The standby's process that receives WAL, or None."""
        return next((pid for pid, title in self.standby.processes().items() if "walreceiver" in title), None)

    def await_standby(self):
        """The standby has, and has replayed, all that the primary has written until now."""
        now = self.ask("SELECT pg_current_wal_insert_lsn()")
        self.await_true(f"SELECT count(*) > 0 FROM pg_stat_replication WHERE application_name = '{STANDBY}'"
                        f" AND state = 'streaming' AND flush_lsn >= '{now}'", self.primary)
        self.await_true(f"SELECT pg_last_wal_replay_lsn() >= '{now}'", self.standby)

    def set_names(self, names):
        """Sets synchronous_standby_names, or with None what it was from the start."""
        self.ask("ALTER SYSTEM " + ("RESET synchronous_standby_names" if names is None
                                    else f"SET synchronous_standby_names = '{names}'"))
        self.ask("SELECT pg_reload_conf()")

    def await_synchronous(self):
        """
        Commits wait for the standby (who waits is decided by the checkpointer,
        when it has read the configuration), which has all of the time before.
        """
        self.await_standby()
        receiver = self.receiver()
        self.standby.send(receiver, signal.SIGSTOP)
        try:
            deadline = time.monotonic() + 20
            while not self._commit_waits():
                if time.monotonic() > deadline:
                    raise ServerFailure("commits do not wait for the standby")
        finally:
            self.standby.send(receiver, signal.SIGCONT)
        self.await_standby()

    def _commit_waits(self):
        """A commit, while the standby does not confirm: True if it waits."""
        connection = self.primary.connect("faults")
        pid = connection.info.backend_pid

        def commit():
            try:
                connection.cursor().execute("SELECT pg_logical_emit_message(true, 'faults', '')")
            except psycopg2.Error:
                pass
        committing = threading.Thread(target=commit, daemon=True)
        committing.start()
        try:
            while committing.is_alive():
                if self.ask(f"SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = {pid}"):
                    return True
            return False
        finally:
            self.primary.send(pid, signal.SIGTERM)
            committing.join(10)
            connection.close()

    # ------------------------------------------------------------------
    # Promotion
    # ------------------------------------------------------------------

    def promote(self):
        """The standby becomes the primary; the primary has been killed."""
        self.standby.ensure_up()
        if not self.standby.program("pg_ctl", "-D", self.standby.data, "-t", "60", "-w", "promote", check=False):
            raise ServerFailure("the standby cannot be promoted")
        self.primary, self.standby = self.standby, self.primary
        self.primary.ensure_up()  # what it says of itself may be ahead of what its postmaster knows

    def rebuild(self, rewind):
        """Makes the standby anew, and starts it: by pg_rewind of what it was, or as a copy.  The result is how."""
        how = "rewound" if rewind and self._rewind() else "copied"
        if how == "copied":
            shutil.rmtree(self.standby.data, ignore_errors=True)
            self.standby.program("pg_basebackup", "-h", self.primary.sockets, "-U", USER, "-D", self.standby.data,
                                 "-c", "fast", "-X", "stream", "-N")
        with open(os.path.join(self.standby.data, "standby.signal"), "w", encoding="utf-8"):
            pass
        self.join()
        self.standby.start()
        self.ensure_up()
        return how

    def _rewind(self):
        self.ask("CHECKPOINT")  # pg_rewind looks for the new timeline in the control file
        return self.standby.program("pg_rewind", "-N", "-D", self.standby.data, "--source-server",
                                    f"host={self.primary.sockets} user={USER} dbname={DATABASE}", check=False)
