"""What is done to a cluster of three in which any node may lead.

What was acknowledged with acks=all is on two of three, so it stays, whoever
leads.  Where another node has to come to lead, the end of a fault says in how
many seconds one did ("elected").
"""

import signal
import threading
import time

import faults
import nodes
import psycopg2
from faults_nodes import NodesFaults
from leaders import NODE_TIMEOUT, NODES

KINDS = ("leader_killed", "two_leaders_killed", "nodes_killed", "node_killed", "leader_crash", "leader_frozen", "node_frozen",
         "leader_cut", "node_cut", "leader_moved", "move_interrupted", "failover", "leader_deposed", "leader_asked",
         "promised_killed", "promised_cut", "topic_locked", "acks_changed", "rebalanced")
# of those of any server, for the one that leads
ALL_KINDS = KINDS + ("cancel", "terminate", "kill_worker", "terminate_worker", "stop_worker")

faults.KILLS.update({"leader_killed": 1, "two_leaders_killed": 2, "nodes_killed": 3, "node_killed": 1, "leader_crash": 1,
                     "move_interrupted": 1, "failover": 1, "promised_killed": 2, "promised_cut": 1, "topic_locked": 2})


class LeadersFaults(NodesFaults):
    def heal(self):
        super().heal()
        self.server.settle()

    def leader(self):
        return self.server.look() or self.server.name_of(self.server.primary)

    def note_leader(self):
        """For who still takes another one for the leader."""
        if self.server.look():
            term = max(self.server.terms)
            self.history.event("leads", node=self.server.terms[term], term=term)

    def other(self, *without):
        return self.random.choice([node for node in NODES if node not in without])

    def kill(self, node):
        self.server.nodes[node].kill_all()

    def come_back(self, *names):
        for node in self.random.sample(names, len(names)):
            self.server.nodes[node].ensure_up()
            self.sleep(0, 1)

    def call(self, node, sql):
        """The SQLSTATE of a call at a node."""
        try:
            self.server.ask(sql, self.server.nodes[node])
            return "00000"
        except psycopg2.Error as error:
            return error.pgcode or "lost"

    # ------------------------------------------------------------------
    # The kinds
    # ------------------------------------------------------------------

    def leader_killed(self):
        """It comes back when another one leads, or before.  Now and then one of the others is behind."""
        node = self.leader()
        behind = self.random.random() < 0.4 and self.other(node)
        if behind:
            frozen = [pid for pid in self.all_of(self.server.nodes[behind]) if pid]
            for pid in frozen:
                self.server.send(pid, signal.SIGSTOP)
            self.sleep(0.1, NODE_TIMEOUT)
        self.kill(node)
        if behind:
            for pid in frozen:
                self.server.send(pid, signal.SIGCONT)
        waits = self.random.random() < 0.7
        elected = {"elected": self.server.await_leader(node)} if waits else {}
        self.sleep(0, 3 if waits else NODE_TIMEOUT)
        self.come_back(node)
        return {"node": node, "behind": behind, **elected}

    def two_leaders_killed(self):
        """The second one as soon as it leads: the third has to wait for one of them."""
        first = self.leader()
        self.kill(first)
        elected = self.server.await_leader(first)
        self.sleep(0, 0.5)
        second = self.leader()
        self.kill(second)
        self.sleep(0, 2)
        self.come_back(first, second)
        return {"nodes": [first, second], "elected": elected}

    def nodes_killed(self):
        for node in self.random.sample(NODES, len(NODES)):
            self.kill(node)
        self.come_back(*NODES)
        return {"elected": self.server.await_leader()}

    def node_killed(self):
        node = self.other(self.leader())
        self.kill(node)
        self.sleep(0, 3)
        self.come_back(node)
        return {"node": node}

    def leader_crash(self):
        """kill -9 of one process: its postmaster ends all others, and recovers, mostly before another one leads."""
        node = self.leader()
        processes = self.server.nodes[node].processes()
        title = ""
        if processes:
            pid, title = self.random.choice(list(processes.items()))
            self.server.send(pid, signal.SIGKILL)
        self.sleep(0, 1)
        self.come_back(node)
        return {"node": node, "process": title}

    def freeze(self, node, least, most):
        """Clients wait for a while, and give up; the node goes on, and knows nothing of that."""
        giving_up = threading.Timer(self.random.uniform(0, most), self.server.give_up, (node,))
        giving_up.start()
        self.stop_for_a_while(self.all_of(self.server.nodes[node]), least, most)
        giving_up.cancel()
        giving_up.join()
        return {"node": node}

    def leader_frozen(self):
        return self.freeze(self.leader(), NODE_TIMEOUT / 2, 4 * NODE_TIMEOUT)

    def node_frozen(self):
        return self.freeze(self.other(self.leader()), NODE_TIMEOUT / 2, 3 * NODE_TIMEOUT)

    def cut(self, node):
        """It is cut off from both others, or one direction of its own connections, or of theirs."""
        way, whose = self.random.choice(nodes.Proxy.WAYS), self.random.choice(("both", "both", "own", "theirs"))
        cut = [proxy for (here, there), proxy in self.server.proxies.items()
               if here == node and whose != "theirs" or there == node and whose != "own"]
        for proxy in cut:
            proxy.go(way)
        until = time.monotonic() + self.random.uniform(NODE_TIMEOUT / 2, 6 * NODE_TIMEOUT)
        while time.monotonic() < until and not self.done.wait(0.1):
            self.note_leader()
        for proxy in cut:
            proxy.go("pass")
        return {"node": node, "way": way, "whose": whose}

    def between(self, way, *pairs):
        for pair in pairs:
            self.server.proxies[pair].go(way)

    def ask_leader(self, to, leader, third):
        """A node, which the third one cannot reach, asks the leader for its promise: before that, it has given up hearing it."""
        return [self.call(to, f"CALL topics.failover('{lost}')") for lost in (leader, third)]

    def promise(self, goes_on):
        """
        The leader promises one of the others, from which it and the third one are cut off then.  goes_on(leader, third)
        returns which of these two has gone when they are not cut off any more, and the other one hears who leads.
        """
        leader = self.leader()
        to = self.other(leader)
        third = self.other(leader, to)
        cut = [(leader, to), (third, to), (to, third)]
        self.between("refuse", *cut)
        result = self.ask_leader(to, leader, third)
        cut.append((to, leader))
        self.between("refuse", *cut)
        gone = goes_on(leader, third)
        self.kill(gone)
        self.between("pass", *cut)
        elected = self.server.await_leader(gone)
        self.sleep(0, 2)
        self.come_back(gone)
        return {"node": leader, "to": to, "result": result, "gone": gone, "elected": elected}

    def promised_killed(self):
        """It is killed at once: when it is back it leads no more."""
        def kill(leader, _):
            self.kill(leader)
            self.server.nodes[leader].ensure_up()
            self.sleep(1, 3)
            return leader
        return self.promise(kill)

    def promised_cut(self):
        """The third one misses it, and asks it for a promise of its own, which has to be for a higher term."""
        def ask(leader, third):
            to = self.other(leader, third)
            self.ask_leader(third, leader, to)
            self.sleep(NODE_TIMEOUT, 3 * NODE_TIMEOUT)
            return third
        return self.promise(ask)

    def topic_locked(self):
        """
        A node cannot bring a topic on, comes into the term of the next leader without, and could be elected by a node that
        was away meanwhile.
        """
        first = self.leader()
        behind = self.other(first)
        second = self.other(first, behind)
        elected = 0
        connection = self.server.nodes[behind].connect("faults")
        try:
            cursor = connection.cursor()
            cursor.execute("SELECT 'topic_log.t' || topic_id FROM topics.topic WHERE topic = 'main'")
            table, = cursor.fetchone()
            cursor.execute(f"SET lock_timeout = '2s'; BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            self.sleep(1, 3)
            self.kill(first)
            elected = self.server.await_leader(first)
            self.sleep(1, 3)
            self.kill(second)
        except psycopg2.Error:
            pass  # others have it
        finally:
            connection.close()
        self.come_back(first)
        self.sleep(2, 4)
        self.come_back(second)
        return {"nodes": [behind, second, first], "topic": "main", "elected": elected}

    def acks_changed(self):
        """The leader is cut off, and told to wait for nobody: as long as others do not know, they could elect another one."""
        node = self.leader()
        cut = [pair for pair in self.server.proxies if node in pair]
        self.between("refuse", *cut)
        result = self.call(node, "SELECT topics.alter_cluster(0)")
        self.sleep(0, 4 * NODE_TIMEOUT)
        self.between("pass", *cut)
        until = time.monotonic() + 15
        while self.call(self.leader(), "SELECT topics.alter_cluster(NULL)") != "00000" and time.monotonic() < until:
            time.sleep(0.1)
        return {"node": node, "result": result}

    def leader_cut(self):
        return self.cut(self.leader())

    def node_cut(self):
        return self.cut(self.other(self.leader()))

    def leader_moved(self):
        """A planned move, or two."""
        results = []
        for _ in range(self.random.randint(1, 2)):
            node = self.leader()
            to, at = self.other(node), self.random.choice(NODES)
            results.append([at, node, to, self.call(at, f"CALL topics.move_leader('{to}', '{node}')")])
        return {"moves": results}

    def rebalanced(self):
        """Each leader set goes to the node that it prefers."""
        return {"result": self.call(self.leader(), "CALL topics.rebalance_leaders()")}

    def move_interrupted(self):
        """A move, in which one of the two is killed."""
        node = self.leader()
        to = self.other(node)
        moving = threading.Thread(target=self.call, args=(node, f"CALL topics.move_leader('{to}')"), daemon=True)
        moving.start()
        self.sleep(0, 0.1)
        victim = self.random.choice((node, to))
        self.kill(victim)
        moving.join()
        self.sleep(0, 2 * NODE_TIMEOUT)
        self.come_back(victim)
        return {"node": node, "to": to, "killed": victim}

    def failover(self):
        """The leader is lost, and another one is told to lead, or both others at once."""
        node = self.leader()
        self.kill(node)
        self.sleep(0, NODE_TIMEOUT)
        result = self.call_failover(node)
        elected = self.server.await_leader(node)
        self.sleep(0, 2)
        self.come_back(node)
        return {"node": node, "elected": elected, **result}

    def leader_deposed(self):
        """The same, but the leader is well, and its clients go on with it until they hear of that."""
        node = self.leader()
        return {"node": node, **self.call_failover(node)}

    def leader_asked(self):
        """One of the others, or each, takes the other one for lost, and asks the leader, which is well, for its promise."""
        node = self.leader()
        others = [other for other in NODES if other != node]
        pairs = [tuple(others), tuple(reversed(others))]
        self.between("refuse", *pairs)
        results = self.at_once(lambda to: self.ask_leader(to, node, dict(pairs)[to]), others)
        self.between("pass", *pairs)
        return {"node": node, "results": results}

    def call_failover(self, leader):
        candidates = [node for node in NODES if node != leader]
        return {"results": self.at_once(lambda to: self.call(to, f"CALL topics.failover('{leader}')"), candidates)}

    def at_once(self, call, candidates):
        """Calls it for one of two nodes, or for both at once.  The result is {node: result}."""
        results = {}

        def note(to):
            results[to] = call(to)
        calls = [threading.Thread(target=note, args=(to,), daemon=True)
                 for to in self.random.sample(candidates, self.random.randint(1, 2))]
        for thread in calls:
            thread.start()
        for thread in calls:
            thread.join()
        return results
