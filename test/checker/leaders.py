"""A cluster of three in which any node may lead, and its clients.

The nodes are the same.  Each reaches each other one through a proxy of its
own, so that any can be cut off, in one direction too: all have the same
conninfo of a node, which names a service, and a service file of their own.
Clients are not cut off: they reach a leader that has been deposed, and does
not know.
"""

import os
import socket
import time

import psycopg2
from nodes import PORT, Cluster, Proxy
from nodes import CONFIGURATION as OF_NODES
from server import DATABASE, USER, Server, ServerFailure
from workload import SPREAD, TOPICS, Producer, SimpleConsumer, Worker

NODES = ("a", "b", "c")
NODE_TIMEOUT = 1  # seconds

TERM = "SELECT node, term FROM topic_log.cluster WHERE leader = node AND leader_set = 0"
LEADS_PARTITION = """SELECT FROM topics.replica JOIN topics.cluster USING (node)
    WHERE topic = %s AND partition = %s AND replica.role = 'leader'"""

PLACES = "SELECT partition, node FROM topics.replica WHERE topic = %s AND role = 'leader' AND node IS NOT NULL ORDER BY 1"

STOPPED = b"has confirmed records that the leader does not have"  # in a node's log

CONFIGURATION = f"""{OF_NODES}
pg_topics.node_timeout = {NODE_TIMEOUT}s
"""


class ConfirmedLost(ServerFailure):
    """A node has confirmed what the log of its leader does not have, and so does not follow any more."""


class Leaders(Cluster):
    def __init__(self, bindir, directory, configuration, spread=()):
        self.directory = directory
        self.spread = (SPREAD, *spread)  # topics whose leaders are spread
        self.nodes = {node: Server(bindir, os.path.join(directory, node), configuration + CONFIGURATION) for node in NODES}
        self.primary = self.nodes["a"]  # that was last known to lead
        self.terms = {}  # {term: which node was seen to lead in it}
        self.proxies = {(node, other): Proxy(os.path.join(directory, f"{node}-{other}"),
                                             os.path.join(self.nodes[other].sockets, f".s.PGSQL.{PORT}"))
                        for node in NODES for other in NODES if node != other}
        self.connections = {node: [] for node in NODES}  # of clients that are where the leader is
        self.logs_seen = dict.fromkeys(NODES, 0)  # bytes of their servers' logs
        for node, server in self.nodes.items():
            server.environment["PGSERVICEFILE"] = path = os.path.join(directory, f"{node}.services")
            with open(path, "w", encoding="utf-8") as file:
                for other in NODES:
                    place = self.nodes[node].sockets if other == node else os.path.join(directory, f"{node}-{other}")
                    file.write(f"[{other}]\nhost={place}\nuser={USER}\ndbname={DATABASE}\n")

    def prepare(self, schema):
        super().prepare(schema)
        self.await_true("SELECT count(*) = 3 FROM topics.node WHERE counts", self.primary)
        for topic in self.spread:
            self.ask(f"SELECT topics.drop_topic('{topic}')")
            self.ask(f"SELECT topics.create_topic('{topic}', {TOPICS[topic]}, segment_bytes => 131072,"
                     " retention_time => '-1 s', leaders => 'spread')")
            for server in self.nodes.values():
                self.await_true(f"SELECT count(*) = 1 FROM topics.topic WHERE topic = '{topic}'", server)

    @property
    def followers(self):
        return {node: server for node, server in self.nodes.items() if server is not self.primary}

    def conninfo(self, node):
        return f"service={node}"

    def backends(self):
        """Of all nodes: a client may be anywhere."""
        return {pid: what for server in self.nodes.values() for pid, what in server.backends().items()}

    def name_of(self, server):
        return next(node for node, other in self.nodes.items() if other is server)

    # ------------------------------------------------------------------
    # Who leads
    # ------------------------------------------------------------------

    def look(self):
        """The name of the node that leads: of those that say so the one in the highest term."""
        terms = {}
        for node, server in self.nodes.items():
            try:
                terms[node] = self.ask("SELECT (SELECT term FROM topic_log.cluster WHERE leader = node AND leader_set = 0)", server)
            except psycopg2.Error:
                pass
        leading = [(term, node) for node, term in terms.items() if term is not None]
        for term, node in leading:
            if self.terms.setdefault(term, node) != node:
                raise ServerFailure(f"both {self.terms[term]} and {node} have led in term {term}")
        if leading:
            self.primary = self.nodes[max(leading)[1]]
        return max(leading)[1] if leading else None

    def await_leader(self, *without, patience=15):
        """Until another node leads than these; the result is how many seconds that took, or None if it never came."""
        started = time.monotonic()
        while time.monotonic() < started + patience:
            if self.look() not in (None, *without):
                return round(time.monotonic() - started, 2)
            time.sleep(0.05)
        return None

    def look_into_logs(self):
        for node, server in self.nodes.items():
            with open(server.log, "rb") as log:
                log.seek(self.logs_seen[node])
                lines = log.read().rpartition(b"\n")[0]
            if STOPPED in lines:
                raise ConfirmedLost(next(line.decode(errors="replace") for line in lines.split(b"\n") if STOPPED in line))
            self.logs_seen[node] += len(lines)

    def all_follow(self, leader, sets):
        return all(self.ask(f"SELECT bool_and(leader = '{leader}') FROM topic_log.cluster WHERE {sets}", server)
                   for server in self.nodes.values())

    def all_agree(self):
        """All follow the node that leads, in all leader sets: it is given those that others lead."""
        self.look_into_logs()
        leader = self.look()
        if not leader or not self.all_follow(leader, "leader_set = 0"):
            return False
        for node, server in self.nodes.items():
            if node != leader and self.ask("SELECT count(*) FROM topic_log.cluster WHERE leader = node", server):
                self.ask(f"CALL topics.move_leader('{leader}', '{node}')")
        return self.all_follow(leader, "true")

    def ensure_up(self):
        """All run, reach each other, follow the same node, and show all that it has now."""
        for proxy in self.proxies.values():
            proxy.go("pass")
        for server in self.nodes.values():
            server.ensure_up()
        deadline = time.monotonic() + 60
        while True:
            try:
                self.await_that(self.all_agree, "all nodes follow the same one", 30)
                return self.await_followers(10)
            except ConfirmedLost:
                raise
            except ServerFailure:  # another one may lead by now
                if time.monotonic() > deadline:
                    raise

    def settle(self):
        """Who leads leads on, however loaded the machine is."""
        for server in self.nodes.values():
            self.ask("ALTER SYSTEM SET pg_topics.automatic_failover = off", server)
            self.ask("SELECT pg_reload_conf()", server)
        self.ensure_up()

    # ------------------------------------------------------------------
    # Clients
    # ------------------------------------------------------------------

    def connect_to_standby(self, name, node):
        return self.nodes[node].connect(name)

    def connect_to_node(self, name, node):
        connection = self.nodes[node].connect(name, connect_timeout=2)
        self.connections[node] = [*(other for other in self.connections[node] if not other.closed), connection]
        return connection

    def connect_to_leader(self, name, random, leads="SELECT FROM topics.cluster WHERE leader = node", parameters=None):
        """A session with a node that says that it leads: of which the query, "leads", has a row."""
        for node in random.sample(NODES, len(NODES)):
            try:
                connection = self.connect_to_node(name, node)
                cursor = connection.cursor()
                cursor.execute(leads, parameters)
                if cursor.rowcount:
                    return connection
                connection.close()
            except psycopg2.Error:
                pass
        raise psycopg2.OperationalError("no node leads")

    def give_up(self, node):
        """Clients wait no longer for a node that does not answer."""
        connections, self.connections[node] = self.connections[node], []
        for connection in connections:
            try:
                with socket.socket(fileno=os.dup(connection.fileno())) as wire:
                    wire.shutdown(socket.SHUT_RDWR)
            except (OSError, psycopg2.Error):
                pass  # it has ended


class AtLeader:
    """A client of whichever node leads: one that does not lead any more is left, as one that has gone."""

    def open(self):
        return self.context.server.connect_to_leader(self.name, self.random)

    def _outcome_of(self, error, answer):
        outcome = super()._outcome_of(error, answer)
        if error.pgcode == "TP004":
            self.disconnect()
        return outcome


class LeaderProducer(AtLeader, Producer):
    """
    An attempt is never made again: each has ids of its own.  Each session says which node leads, and in which term; those
    that do not wait for followers say at each commit in which one it was.
    """

    def open(self):
        connection = super().open()
        with connection.cursor() as cursor:
            cursor.execute(TERM)
            node, term = cursor.fetchone() or (None, None)
        if term is not None:
            self.history.event("leads", node=node, term=term)
        return connection

    def perform(self, f, body, **plan):
        def body_in_term(answer):
            before = self.query(TERM)
            outcome = body(answer)
            try:
                if outcome is None and self.connection and self.query(TERM) == before and before:
                    answer["led"] = before[0]
            except psycopg2.Error:
                if self.connection.closed:
                    self.disconnect()
            return outcome
        return super().perform(f, body_in_term if "acks_1" in self.modes else body, **plan)


class SpreadProducer(AtLeader, Producer):
    """Of a partition of a topic whose leaders are spread: it goes where the leader of that is."""

    topics = (SPREAD,)
    kinds = {"single": 40, "send": 10, "batch": 20, "transaction": 30}

    def open(self):
        return self.context.server.connect_to_leader(self.name, self.random, LEADS_PARTITION, (SPREAD, *self.only_partitions))


# Tables are each node's own: what a group has done is what it has produced

class LeaderWorker(AtLeader, Worker):
    def work(self, partition, rows):
        pass


class LeaderConsumer(AtLeader, SimpleConsumer):
    def work(self, partition, rows):
        pass
