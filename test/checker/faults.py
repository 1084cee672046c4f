"""What is done to the server while clients work: each method of Faults is a kind.

A fault notes its begin and its end in the history.  When it returns, or
heal() was called, the server is on its way to work as before, and nothing is
stopped, full or late any more.
"""

import contextlib
import os
import random
import signal
import threading
import time

from server import faketime_library

KINDS = ("kill_backend", "kill_server", "kill_in_recovery", "immediate_shutdown", "cancel",
         "terminate", "stop_backend", "stop_server", "kill_worker", "terminate_worker",
         "stop_worker", "full_data_disk", "full_wal_disk", "clock")

# a client may see these beside those of every run
ERRORS = {
    "cancel": {"57014"},
    "clock": {"57014"},  # statement_timeout counts by the clock that jumps
    "full_data_disk": {"53100"},
    "full_wal_disk": {"53100"},
}
# any fault that ends sessions
SESSION_ERRORS = {"lost", "57P01", "57P02", "57P03", "57P05", "08006", "08000", "08003"}

DISK_FAULTS = {"full_data_disk", "full_wal_disk"}
# how often each ends the server without a checkpoint
KILLS = {"kill_backend": 1, "kill_server": 1, "kill_in_recovery": 2, "immediate_shutdown": 1, "kill_worker": 1}


def available(disks):
    """The kinds that can be done here, and {kind: why not} of the others."""
    missing = {}
    if not disks:
        missing = {kind: "no small disks: they need root, and mount" for kind in DISK_FAULTS}
    if not faketime_library():
        missing["clock"] = "libfaketime is not installed"
    return [kind for kind in KINDS if kind not in missing], missing


class Faults(threading.Thread):
    """Does faults of some kinds, one after the other, with pauses."""

    def __init__(self, context, kinds, pause):
        super().__init__(name="faults", daemon=True)
        self.server = context.server
        self.history = context.history
        self.random = random.Random(f"{context.seed}/faults")
        self.kinds = list(kinds)
        self.pause = pause
        self.done = threading.Event()
        self.stop = context.stop  # of the clients
        self.jumps = context.jumps
        self.counts = {}
        self.failure = None

    def run(self):
        # all kinds in a random order, then again: a short run meets many of them
        queue = []
        try:
            while not self.done.wait(self.random.uniform(0.5, 1.5) * self.pause):
                if not queue:
                    queue = self.random.sample(self.kinds, len(self.kinds))
                kind = queue.pop()
                self.history.event("fault", f=kind, at="begin")
                details = getattr(self, kind)() or {}
                self.history.event("fault", f=kind, at="end", **details)
                self.counts[kind] = self.counts.get(kind, 0) + 1
                if not queue:
                    self.server.ensure_up()
        except Exception as failure:  # the runner reports it
            self.failure = failure
            self.stop.set()

    def heal(self):
        """No more faults, and the end of those that last."""
        self.done.set()
        self.join()
        self.server.continue_all()
        if "clock" in self.kinds:
            self.server.set_clock(0)
        self.server.ensure_up()

    # ------------------------------------------------------------------
    # Which process
    # ------------------------------------------------------------------

    def victim(self, busy=0.8):
        """A session, rather one that is at work; or None."""
        backends = self.server.backends()
        at_work = [pid for pid, what in backends.items() if not what.startswith("idle")]
        if at_work and self.random.random() < busy:
            return self.random.choice(at_work)
        return self.random.choice(list(backends)) if backends else None

    @contextlib.contextmanager
    def restarting(self, promotion=False):
        """Inside, all sessions end; what the server knew in memory nobody knows after it."""
        self.history.event("restart", at="begin", promotion=promotion)
        yield
        self.history.event("restart", at="end")

    def signal(self, pid, number):
        return {"pid": pid, "sent": bool(pid) and self.server.send(pid, number)}

    # ------------------------------------------------------------------
    # The kinds
    # ------------------------------------------------------------------

    def kill_backend(self):
        """kill -9 of a session: the postmaster ends all others, and recovers."""
        with self.restarting():
            details = self.signal(self.victim(), signal.SIGKILL)
            time.sleep(0.2)
        self.server.ensure_up()
        return details

    # workers come and go; the launcher, which is among them, stays

    def kill_worker(self):
        workers = self.server.workers()
        with self.restarting():
            details = self.signal(self.random.choice(workers) if workers else None, signal.SIGKILL)
            time.sleep(0.2)
        self.server.ensure_up()
        return details

    def terminate_worker(self):
        workers = self.server.workers()
        return self.signal(self.random.choice(workers) if workers else None, signal.SIGTERM)

    def stop_worker(self):
        """SIGSTOP of some of them: what they are at, and what they are asked for, waits."""
        victims = [pid for pid in self.server.workers() if self.random.random() < 0.7]
        for pid in victims:
            self.server.send(pid, signal.SIGSTOP)
        self.done.wait(self.random.uniform(0.1, 3))
        for pid in victims:
            self.server.send(pid, signal.SIGCONT)
        return {"pids": victims}

    def kill_server(self):
        """kill -9 of all processes: WAL that was not written is gone."""
        with self.restarting():
            self.server.kill_all()
        self.server.ensure_up()

    def kill_in_recovery(self):
        with self.restarting():
            self.server.kill_all()
            self.server.start(wait=False)
            time.sleep(self.random.uniform(0, 0.3))
            self.server.kill_all()
        self.server.ensure_up()

    def immediate_shutdown(self):
        with self.restarting():
            self.server.stop("immediate")
        self.server.ensure_up()

    def cancel(self):
        for _ in range(self.random.randint(1, 20)):
            self.signal(self.victim(1), signal.SIGINT)
            time.sleep(self.random.uniform(0, 0.02))

    def terminate(self):
        for _ in range(self.random.randint(1, 4)):
            self.signal(self.victim(), signal.SIGTERM)
            time.sleep(self.random.uniform(0, 0.05))

    def stop_backend(self):
        """SIGSTOP: a process that does not run for a while, wherever it is."""
        victims = [pid for pid in {self.victim(1) for _ in range(self.random.randint(1, 3))} if pid]
        for pid in victims:
            self.server.send(pid, signal.SIGSTOP)
        self.done.wait(self.random.uniform(0.1, 1.5))
        for pid in victims:
            self.server.send(pid, signal.SIGCONT)
        return {"pids": victims}

    def stop_server(self):
        victims = [pid for pid in [self.server.postmaster(), *self.server.processes()] if pid]
        for pid in victims:
            self.server.send(pid, signal.SIGSTOP)
        self.done.wait(self.random.uniform(0.1, 1))
        self.random.shuffle(victims)
        for pid in victims:
            self.server.send(pid, signal.SIGCONT)
            time.sleep(self.random.uniform(0, 0.02))

    def full_data_disk(self):
        path = self.server.fill_disk(0, 0)
        self.done.wait(self.random.uniform(1, 4))
        os.unlink(path)
        time.sleep(0.2)
        self.server.ensure_up()

    def full_wal_disk(self):
        """The server may PANIC: it cannot write WAL.  It must come back when there is space."""
        path = self.server.fill_disk(1, 0)
        deadline = time.monotonic() + self.random.uniform(0.5, 3)
        switched = 0
        while not self.done.wait(0.1) and time.monotonic() < deadline:
            switched += self.server.switch_wal()  # until no file is left to be used again
        os.unlink(path)
        time.sleep(0.2)
        self.server.ensure_up()
        return {"switched": switched}

    def clock(self):
        """An hour back, or forward, or ten years forward, and home."""
        jump = self.random.choice(self.jumps)
        self.server.set_clock(jump)
        self.done.wait(self.random.uniform(1.5, 3))
        self.server.set_clock(0)
        return {"seconds": jump}
