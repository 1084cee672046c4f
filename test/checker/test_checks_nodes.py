"""The checks of a cluster's followers are seen to complain, and not to complain.  See test_checks.py."""

import os
import socket
import tempfile
import unittest

import checks
import checks_nodes  # its checks are among those of "checks" then
import nodes
import test_checks


class NodesTest(unittest.TestCase):
    def setUp(self):
        self.story = test_checks.Story()
        self.story.events[0]["nodes"] = True

    def assert_finds(self, *kinds):
        self.assertEqual({finding.kind for finding in checks.findings(self.story.events)}, set(kinds))

    def look(self, *records, node="b", server="1", starts=(), **details):
        op = self.story.invoke("follower_look", f"followerreader-{node}", node=node, server=server, standby=True,
                               starts=[list(start) for start in starts])
        self.story.complete(op, "ok", records=[list(record) for record in records], **details)

    def lock_on_follower(self, node, topic):
        self.story.events.append({"t": self.story.tick(), "type": "fault", "f": "follower_locked", "at": "begin"})
        self.story.events.append({"t": self.story.tick(), "type": "fault", "f": "follower_locked", "at": "end",
                                  "node": node, "topic": topic})

    def test_torn_where_a_topic_was_locked(self):
        self.produce_to_two()
        self.story.log("a")
        self.story.log("b", topic="second", partition=1)
        self.lock_on_follower("b", "main")
        self.look(("second", 1, 0, "b"))
        self.assert_finds()
        self.look(("second", 1, 0, "b"), node="c")
        self.assert_finds("torn_transaction")

    def test_torn_on_a_leader_whose_follower_was_locked(self):
        self.produce_to_two()
        self.story.log("a")
        self.story.log("b", topic="second", partition=1)
        self.story.fault("topic_locked")
        self.story.events[-1].update(nodes=["b", "c"], topic="main")
        self.look(("second", 1, 0, "b"))
        self.look(("second", 1, 0, "b"), node="c")
        self.assert_finds()

    def test_torn_until_a_follower_that_was_locked_finds_a_leader(self):
        self.produce_to_two()
        self.log_of_two()
        self.lock_on_follower("b", "main")
        self.story.fault("two_leaders_killed")
        self.story.events[-1]["t"] += 30000000
        self.story.time = self.story.events[-1]["t"] + 1000
        self.look(("second", 1, 0, "b"))
        self.assert_finds()

    def test_torn_long_after_a_follower_was_locked(self):
        self.produce_to_two()
        self.log_of_two()
        self.lock_on_follower("b", "main")
        self.story.time = self.story.events[-1]["t"] + 30000000
        self.look(("second", 1, 0, "b"))
        self.assert_finds("torn_transaction")

    def produce_to_two(self, outcome="ok"):
        op = self.story.invoke("produce", "producer-1", records=[["main", 0, "a", True], ["second", 1, "b", True]])
        self.story.complete(op, outcome, commit_at=self.story.tick(),
                            ranges=[["main", 0, 0, 1], ["second", 1, 0, 1]] if outcome == "ok" else [])
        return op

    def log_of_two(self):
        self.story.log("a")
        self.story.log("b", topic="second", partition=1)

    # ------------------------------------------------------------------
    # What readers see
    # ------------------------------------------------------------------

    def test_good_looks(self):
        self.look()
        self.produce_to_two()
        self.look()
        self.look(("main", 0, 0, "a"), ("second", 1, 0, "b"))
        self.look(("second", 1, 0, "b"), starts=[("main", 0, 1)])
        self.look(server="2")
        self.look(node="c")
        self.log_of_two()
        self.assert_finds()

    def test_torn(self):
        self.produce_to_two()
        self.look(("second", 1, 0, "b"))
        self.log_of_two()
        self.assert_finds("torn_transaction")

    def test_another_value(self):
        self.story.produce("a", outcome="info")
        self.story.produce("b", at=0)
        self.look(("main", 0, 0, "a"))
        self.story.log("b")
        self.assert_finds("inconsistent_offset", "early_read")

    def test_gap(self):
        self.story.produce("a", "b", at=0)
        self.look(("main", 0, 1, "b"))
        self.story.log("a", "b")
        self.assert_finds("late_arrival", "torn_transaction")

    def test_before_the_commit(self):
        op = self.story.invoke("produce", "producer-1", records=[["main", 0, "a", True]])
        self.look(("main", 0, 0, "a"))
        self.story.complete(op, "ok", commit_at=self.story.tick(), ranges=[["main", 0, 0, 1]])
        self.story.log("a")
        self.assert_finds("early_read")

    def test_went_back(self):
        self.story.produce("a", at=0)
        self.look(("main", 0, 0, "a"))
        self.look()
        self.story.log("a")
        self.assert_finds("went_back")

    def test_snapshot_that_changes(self):
        self.story.produce("a", at=0)
        self.look(("main", 0, 0, "a"), again=[])
        self.story.log("a")
        self.assert_finds("late_arrival")

    # ------------------------------------------------------------------
    # What was acknowledged
    # ------------------------------------------------------------------

    def survivors(self, b, c, killed_at=None):
        self.story.events.append({"t": self.story.tick(), "type": "survivors", "ends": [
            ["b", [["main", 0, b[0]], ["second", 1, b[1]]]], ["c", [["main", 0, c[0]], ["second", 1, c[1]]]]],
            "killed_at": self.story.time if killed_at is None else killed_at})

    def test_on_one_follower(self):
        self.produce_to_two()
        self.survivors((0, 0), (1, 1))
        self.log_of_two()
        self.assert_finds()

    def test_on_no_follower_as_a_whole(self):
        self.produce_to_two()
        self.survivors((0, 1), (1, 0))
        self.log_of_two()
        self.assert_finds("unreplicated")

    def test_acknowledged_later(self):
        self.produce_to_two()
        self.survivors((0, 0), (0, 0), killed_at=1)
        self.log_of_two()
        self.assert_finds()

    def test_what_may_be_lost(self):
        for mode, is_lost in (("on", True), ("off", True), ("acks_1", True), ("acks_0", False)):
            self.setUp()
            self.story.fault("kill_server")
            self.story.produce("a", at=0, synchronous=mode)
            self.survivors((0, 0), (0, 0), killed_at=1)
            self.story.log()
            self.assert_finds(*(["lost"] if is_lost else []))

    def test_what_one_node_acknowledges_need_not_be_on_others(self):
        self.story.produce("a", at=0, synchronous="acks_1")
        self.survivors((0, 0), (0, 0))
        self.story.log("a")
        self.assert_finds()

    def test_refused_while_no_follower_is_heard(self):
        self.story.produce("a", outcome="fail", error="TP004", message="", synchronous="acks_1")
        self.assert_finds()
        self.story.produce("b", outcome="fail", error="TP004", message="", synchronous="on")
        self.assert_finds("unexpected_error")

    # ------------------------------------------------------------------
    # What followers are at the end
    # ------------------------------------------------------------------

    def replicas(self, leader, follower, compacted=False):
        self.story.final("replica", node="b", topic="main", compacted=compacted, records=len(leader), leader=leader,
                         follower=follower)

    def test_same_bounds(self):
        self.story.final("replica_bounds", leader=[["main", 0, 0, 5]], followers={"b": [["main", 0, 0, 5]]})
        self.assert_finds()

    def test_other_bounds(self):
        self.story.final("replica_bounds", leader=[["main", 0, 0, 5]], followers={"b": [["main", 0, 0, 4]]})
        self.assert_finds("replica")

    def test_other_record(self):
        self.replicas([[0, 0, "x", "k", False]], [[0, 0, "y", "k", False]])
        self.assert_finds("replica")

    def test_record_that_is_not_there(self):
        self.replicas([[0, 0, "x", "k", False]], [])
        self.assert_finds("replica")

    def test_compacted_by_another(self):
        self.replicas([[0, 1, "y", "k", False], [0, 2, "z", "l", True]], [[0, 0, "x", "k", False], [0, 1, "y", "k", False]],
                      compacted=True)
        self.assert_finds()

    def test_older_than_the_latest(self):
        self.replicas([[0, 1, "y", "k", False]], [[0, 0, "x", "k", False]], compacted=True)
        self.assert_finds("replica")


class ProxyTest(unittest.TestCase):
    """A proxy between both ends of a connection."""

    def setUp(self):
        self.place = tempfile.TemporaryDirectory()
        self.addCleanup(self.place.cleanup)
        self.listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.listener.close)
        target = os.path.join(self.place.name, "target")
        self.listener.bind(target)
        self.listener.listen()
        self.proxy = nodes.Proxy(os.path.join(self.place.name, "to"), target)
        self.follower = socket.socket(socket.AF_UNIX)
        self.addCleanup(self.follower.close)
        self.follower.connect(self.proxy.path)
        self.leader = self.listener.accept()[0]
        self.addCleanup(self.leader.close)
        for end in (self.follower, self.leader):
            end.settimeout(0.3)

    def test_passes(self):
        self.follower.sendall(b"ask")
        self.assertEqual(self.leader.recv(10), b"ask")
        self.leader.sendall(b"answer")
        self.assertEqual(self.follower.recv(10), b"answer")

    def test_swallows_in_one_direction(self):
        self.proxy.go("down")
        self.follower.sendall(b"ask")
        self.assertEqual(self.leader.recv(10), b"ask")
        self.leader.sendall(b"answer")
        with self.assertRaises(TimeoutError):
            self.follower.recv(10)
        self.proxy.go("pass")
        self.assertEqual(self.follower.recv(10), b"")

    def test_holds(self):
        self.proxy.go("held")
        self.leader.sendall(b"answer")
        with self.assertRaises(TimeoutError):
            self.follower.recv(10)
        self.proxy.go("pass")
        self.assertEqual(self.follower.recv(10), b"answer")

    def test_refuses(self):
        self.proxy.go("refuse")
        self.assertEqual(self.leader.recv(10), b"")


if __name__ == "__main__":
    unittest.main()
