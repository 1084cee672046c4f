"""What is done to a cluster of three in which any node may lead.

What was acknowledged with acks=all is on two of three, so it stays, whoever
leads.  Where another node has to come to lead, the end of a fault says in how
many seconds one did ("elected").
"""

import signal
import threading

import faults
import nodes
import psycopg2
from faults_nodes import NodesFaults
from leaders import NODE_TIMEOUT, NODES

KINDS = ("leader_killed", "two_leaders_killed", "nodes_killed", "node_killed", "leader_crash", "leader_frozen", "node_frozen",
         "leader_cut", "node_cut", "leader_moved", "move_interrupted", "failover", "leader_deposed")
# of those of any server, for the one that leads
ALL_KINDS = KINDS + ("cancel", "terminate", "kill_worker", "terminate_worker", "stop_worker")

faults.KILLS.update({"leader_killed": 1, "two_leaders_killed": 2, "nodes_killed": 3, "node_killed": 1, "leader_crash": 1,
                     "move_interrupted": 1, "failover": 1})


class LeadersFaults(NodesFaults):
    def heal(self):
        super().heal()
        self.server.settle()

    def leader(self):
        return self.server.look() or self.server.name_of(self.server.primary)

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
        self.sleep(NODE_TIMEOUT / 2, 6 * NODE_TIMEOUT)
        for proxy in cut:
            proxy.go("pass")
        return {"node": node, "way": way, "whose": whose}

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
        """
        The same, but the leader is well, and its clients go on with it until they hear of that.  Or each of the others
        takes the other one for lost, so that both ask the leader for its promise.
        """
        node = self.leader()
        return {"node": node, **self.call_failover(node, self.random.random() < 0.5)}

    def call_failover(self, leader, each_other=False):
        candidates = [node for node in NODES if node != leader]
        lost = dict(zip(candidates, reversed(candidates))) if each_other else dict.fromkeys(candidates, leader)
        results = {}

        def call(to):
            results[to] = self.call(to, f"CALL topics.failover('{lost[to]}')")
        calls = [threading.Thread(target=call, args=(to,), daemon=True)
                 for to in self.random.sample(candidates, 2 if each_other else self.random.randint(1, 2))]
        for thread in calls:
            thread.start()
        for thread in calls:
            thread.join()
        return {"results": results}
