"""A cluster of three private servers: the primary leads it, two follow.

Each follower finds the leader through a proxy of its own, which can cut it
off.  All have the same conninfo of the leader, without a host: that is in the
environment of the followers (PGHOST), a directory with the proxy's socket.
"""

import contextlib
import os
import socket
import threading

import psycopg2
from group import Group
from server import DATABASE, USER, Server, ServerFailure
from workload import OWN

FOLLOWERS = ("b", "c")  # their names
ACKS_TIMEOUT = 4  # seconds
PORT = 5432

# what commits of some clients wait for when both followers are away longer than that, they are not told of
CONFIGURATION = f"""
fsync = off
wal_level = logical
pg_topics.acks_timeout = {ACKS_TIMEOUT}s
"""

# Where logs end, also what readers are not shown yet: of the node itself
LOG_ENDS = """SELECT topic, partition, log_end_offset FROM topics.replica
    WHERE node = (SELECT node FROM topics.node WHERE is_self)"""
SHOWN_ENDS = "SELECT topic, partition, log_start_offset, log_end_offset FROM topics.partition"


class Proxy(threading.Thread):
    """
    Listens at a socket, and hands on what comes, in both directions.  What it does is a way:

      pass      that
      refuse    connections end, and new ones do
      up, down  what the follower, or the leader, sends is swallowed; who has lost something that way is
                disconnected when it passes again
      held      both wait, and go on where they were when it passes again
    """

    WAYS = ("refuse", "up", "down", "held")

    def __init__(self, directory, target):
        super().__init__(name="proxy", daemon=True)
        self.target = target
        self.way = "pass"
        self.passes = threading.Event()
        self.passes.set()
        self.connections = {}  # {(socket of the follower, of the leader): whether something was swallowed}
        os.mkdir(directory)
        self.path = os.path.join(directory, f".s.PGSQL.{PORT}")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.start()

    def run(self):
        while True:
            client = self.listener.accept()[0]
            server = socket.socket(socket.AF_UNIX)
            pair = client, server
            self.connections[pair] = False  # from now on go() ends it; what it has said before is looked at next
            try:
                if self.way == "refuse":
                    raise ConnectionRefusedError
                server.connect(self.target)
            except OSError:
                self._end(pair)
                client.close()
                server.close()
                continue
            threading.Thread(target=self._pump, args=(pair, "up", client, server), daemon=True).start()
            threading.Thread(target=self._pump, args=(pair, "down", server, client), daemon=True).start()

    def _pump(self, pair, direction, source, sink):
        with contextlib.suppress(OSError):
            while True:
                data = source.recv(65536)
                self.passes.wait()
                if not data:
                    break
                if self.way == direction:
                    self.connections[pair] = True
                else:
                    sink.sendall(data)
        self._end(pair)

    def _end(self, pair):
        self.connections.pop(pair, None)
        for end in pair:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def go(self, way):
        self.way = way
        for pair, swallowed in list(self.connections.items()):
            if way == "refuse" or way == "pass" and swallowed:
                self._end(pair)
        if way == "held":
            self.passes.clear()
        else:
            self.passes.set()


class Cluster(Group):
    def __init__(self, bindir, directory, configuration):
        self.directory = directory
        self.primary = Server(bindir, os.path.join(directory, "a"), configuration + CONFIGURATION)
        self.followers = {}
        self.proxies = {}
        for node in FOLLOWERS:
            follower = Server(bindir, os.path.join(directory, node), configuration + CONFIGURATION)
            place = os.path.join(directory, "to-" + node)
            self.proxies[node] = Proxy(place, os.path.join(self.primary.sockets, f".s.PGSQL.{PORT}"))
            follower.environment["PGHOST"] = place
            self.followers[node] = follower

    def others(self):
        return list(self.followers.values())

    def prepare(self, schema):
        """Topics are there before followers come."""
        self.primary.prepare(schema)
        self.ask(f"SELECT topics.create_cluster('a', '{self.conninfo('a')}', 'host=a')")
        for node, follower in self.followers.items():
            if not follower.start():
                raise ServerFailure("a follower does not start")
            follower.prepare(OWN)
            self.ask(f"CALL topics.add_node('{node}', '{self.conninfo(node)}')")
        self.await_true("SELECT acks_followers = 1 FROM topic_log.cluster", self.primary)
        self.await_followers()

    def conninfo(self, node):
        """How others reach a node."""
        host = f"host={self.followers[node].sockets} " if node in self.followers else ""
        return f"{host}user={USER} dbname={DATABASE}"

    def remove(self):
        super().remove()
        for proxy in self.proxies.values():
            if os.path.exists(proxy.path):
                os.unlink(proxy.path)

    def ensure_up(self):
        """All run, reach each other, and the followers show all that the leader has now."""
        self.primary.ensure_up()
        for node, follower in self.followers.items():
            self.proxies[node].go("pass")
            follower.ensure_up()
        self.await_followers()

    def connect_to_standby(self, name, node):
        return self.followers[node].connect(name)

    def log_ends(self, node):
        return {(topic, partition): end for topic, partition, end in self.ask_rows(LOG_ENDS, self.followers[node])}

    def await_followers(self, patience=60):
        asked = {}

        def have_all(follower):
            shown = {row[:2]: row[3] for row in self.ask_rows(SHOWN_ENDS, follower)}
            return all(shown.get(place, -1) >= end for place, end in asked.items())

        def ask():  # of the topics that stay
            topics = self.ask_rows("SELECT topic, partition, log_end_offset FROM topics.replica"
                                   " WHERE role = 'leader' AND topic <> 'side'")
            asked.update({(topic, partition): end for topic, partition, end in topics})
            return True

        self.await_that(ask, "the leader knows where its logs end", patience)
        for node, follower in self.followers.items():
            self.await_that(lambda follower=follower: have_all(follower), f"{node} shows all that the leader had", patience)

    def replicator(self, node):
        """The follower's process that asks the leader, or None."""
        return next((pid for pid, title in self.followers[node].processes().items() if "replicator" in title), None)

    def feeds(self):
        """The leader's sessions that serve followers."""
        try:
            return [pid for pid, in self.ask_rows(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'pg_topics' AND backend_type = 'client backend'")]
        except psycopg2.Error:
            return []
