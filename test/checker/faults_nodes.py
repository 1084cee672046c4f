"""What is done to a cluster of three, beside what is done to any server: its leader.

A commit waits for one follower of two, and is not acknowledged if both are away
for longer than pg_topics.acks_timeout.  The leader's disk stays, so whatever
was acknowledged, but with acks=0, stays.
"""

import signal

import faults
import nodes
import psycopg2
from faults_pair import PLAIN_KINDS

KINDS = ("follower_killed", "followers_killed", "follower_frozen", "followers_frozen", "replicator_stopped",
         "feed_terminated", "follower_cut", "follower_crash", "follower_locked")
ALL_KINDS = KINDS + ("cancel",) + PLAIN_KINDS

faults.KILLS.update({"follower_killed": 1, "followers_killed": 2, "follower_crash": 1})


class NodesFaults(faults.Faults):
    def sleep(self, least, most):
        """For some seconds; less if it is over."""
        self.done.wait(self.random.uniform(least, most))

    def one(self):
        return self.random.choice(nodes.FOLLOWERS)

    def stop_for_a_while(self, pids, least, most):
        """They are told at once, and go on one after the other."""
        pids = [pid for pid in pids if pid]
        for pid in pids:
            self.server.send(pid, signal.SIGSTOP)
        self.sleep(least, most)
        self.random.shuffle(pids)
        for pid in pids:
            self.server.send(pid, signal.SIGCONT)

    @staticmethod
    def all_of(follower):
        return [follower.postmaster(), *follower.processes()]

    # ------------------------------------------------------------------
    # The kinds
    # ------------------------------------------------------------------

    def follower_killed(self):
        node = self.one()
        follower = self.server.followers[node]
        follower.kill_all()
        self.sleep(0, 4)
        follower.ensure_up()
        return {"node": node}

    def follower_crash(self):
        """kill -9 of one process of a follower: its postmaster ends all others, and recovers."""
        node = self.one()
        processes = self.server.followers[node].processes()
        title = ""
        if processes:
            pid, title = self.random.choice(list(processes.items()))
            self.server.send(pid, signal.SIGKILL)
        self.sleep(0, 1)
        self.server.followers[node].ensure_up()
        return {"node": node, "process": title}

    def followers_killed(self):
        """
        Both at once, and what they have then, alone: all that was acknowledged must be on one of them.  Now and then
        they have heard nothing for a moment before, so that commits wait.  Their logs are looked at where they end,
        not by readers, who may be shown less.
        """
        followers = self.server.followers
        if self.random.random() < 0.5:
            for proxy in self.server.proxies.values():
                proxy.go("held")
            self.sleep(0.1, 1)
        killed_at = self.history.now()
        for follower in followers.values():
            if follower.postmaster():
                self.server.send(follower.postmaster(), signal.SIGSTOP)
        for follower in self.random.sample(list(followers.values()), len(followers)):
            follower.kill_all()
        for proxy in self.server.proxies.values():
            proxy.go("refuse")
        ends = []
        for node, follower in followers.items():
            follower.ensure_up()
            ends.append([node, [[*place, end] for place, end in self.server.log_ends(node).items()]])
        self.history.event("survivors", killed_at=killed_at, ends=ends)
        self.sleep(0, 2)
        for proxy in self.server.proxies.values():
            proxy.go("pass")

    def follower_frozen(self):
        node = self.one()
        self.stop_for_a_while(self.all_of(self.server.followers[node]), 0.3, 4)
        return {"node": node}

    def followers_frozen(self):
        """Both, and now and then so long that nobody is told of commits."""
        pids = [pid for follower in self.server.others() for pid in self.all_of(follower)]
        self.stop_for_a_while(pids, 0.3, nodes.ACKS_TIMEOUT * 1.5)

    def replicator_stopped(self):
        node = self.one()
        self.stop_for_a_while([self.server.replicator(node)], 0.3, 4)
        return {"node": node}

    def feed_terminated(self):
        feeds = self.server.feeds()
        return self.signal(self.random.choice(feeds) if feeds else None, signal.SIGTERM)

    def follower_cut(self):
        node, way = self.one(), self.random.choice(nodes.Proxy.WAYS)
        self.server.proxies[node].go(way)
        self.sleep(0.5, 5)
        self.server.proxies[node].go("pass")
        return {"node": node, "way": way}

    def follower_locked(self):
        """Somebody keeps all others from a topic of a follower: what comes of it has to wait, and the rest goes on."""
        node = self.one()
        server = self.server.followers[node]
        tables = self.server.ask_rows("SELECT topic, 'topic_log.t' || topic_id FROM topics.topic", server)
        topic, table = self.random.choice(tables)
        connection = server.connect("faults")
        try:
            cursor = connection.cursor()
            cursor.execute(f"SET lock_timeout = '2s'; BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            self.sleep(0.5, 5)
        except psycopg2.Error:
            pass  # others have it
        finally:
            connection.close()
        return {"node": node, "topic": topic}
