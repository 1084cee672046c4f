"""What is done to a primary and its synchronous standby, beside what is done to any server.

A standby that is away comes back, or is promoted: then the primary is killed
first, so there is never more than one that takes records.  While the standby
is away synchronous commits wait, and what they have produced is not confirmed.
"""

import signal
import time

import faults

# of those of any server; cancel is none: PostgreSQL takes a commit that is cancelled in its wait for a standby for done
PLAIN_KINDS = ("kill_backend", "kill_server", "terminate", "stop_backend", "kill_worker", "terminate_worker",
               "stop_worker")
PROMOTIONS = ("promote", "promote_behind", "promote_after_restart")
KINDS = ("standby_away", "standby_crash", "restart_without_standby", "names_off", *PROMOTIONS)
ALL_KINDS = KINDS + PLAIN_KINDS

faults.KILLS.update({"restart_without_standby": 1, "promote": 1, "promote_behind": 1, "promote_after_restart": 2})


class PairFaults(faults.Faults):
    ways = ("stop", "kill", "freeze", "cut", "deaf")  # in which a standby is away
    stopped = ()  # processes

    def sleep(self, least, most):
        """For some seconds; less if it is over."""
        self.done.wait(self.random.uniform(least, most))

    # ------------------------------------------------------------------
    # The standby goes, and comes
    # ------------------------------------------------------------------

    def leave(self, way):
        pair = self.server
        self.stopped = []
        if way == "stop":
            pair.standby.stop("immediate")
        elif way == "kill":
            pair.standby.kill_all()
        elif way == "cut":
            pair.cut()
        elif way == "freeze":
            self.stopped = [pair.standby.postmaster(), *pair.standby.processes()]
        else:  # it runs, and its readers read, but it hears nothing, and says nothing
            self.stopped = [pair.receiver()]
        for pid in filter(None, self.stopped):
            pair.standby.send(pid, signal.SIGSTOP)

    def let_run(self):
        for pid in filter(None, self.stopped):
            self.server.standby.send(pid, signal.SIGCONT)

    def standby_away(self):
        way = self.random.choice(self.ways)
        self.leave(way)
        self.sleep(0.5, 3)
        self.let_run()
        self.server.ensure_up()
        return {"way": way}

    def standby_crash(self):
        self.server.standby.kill_all()
        self.server.ensure_up()

    def restart_without_standby(self):
        """The primary crashes while the standby is away: what it finds in its WAL is not confirmed for that."""
        way = self.restart_alone()
        self.let_run()
        self.server.ensure_up()
        return {"way": way}

    def restart_alone(self):
        way = self.random.choice(self.ways)
        self.leave(way)
        self.sleep(0.3, 1.5)
        with self.restarting():
            self.server.primary.kill_all()
        self.server.primary.ensure_up()
        self.sleep(0.5, 2)
        return way

    def names_off(self):
        """Nobody waits for a standby for a while; with one, or without."""
        away = self.random.random() < 0.5
        if away:
            self.leave("cut")
            self.sleep(0.3, 1)
        self.server.set_names("")
        self.sleep(0.3, 1.5)
        self.server.set_names(None)
        if away:
            self.sleep(0.3, 1)
        self.server.ensure_up()
        self.server.await_synchronous()
        return {"away": away}

    # ------------------------------------------------------------------
    # The standby is promoted
    # ------------------------------------------------------------------

    def promote(self):
        return self.replace_primary()

    def promote_behind(self):
        """The primary is lost with what the standby has not confirmed."""
        way = self.random.choice(self.ways)
        self.leave(way)
        self.sleep(0.5, 2.5)
        return {"way": way, **self.replace_primary()}

    def promote_after_restart(self):
        """The same, and the primary has crashed in between."""
        return {"way": self.restart_alone(), **self.replace_primary()}

    def replace_primary(self):
        """
        Kills the primary, and promotes the standby, which works alone for a
        moment.  Then what was the primary is its standby.
        """
        pair = self.server
        with self.restarting(promotion=True):
            pair.primary.kill_all()
        self.let_run()
        started = time.monotonic()
        pair.promote()
        seconds = time.monotonic() - started
        self.sleep(0, 1)
        how = pair.rebuild(rewind=self.random.random() < 0.5)
        return {"seconds": round(seconds, 2), "rebuilt": how}
