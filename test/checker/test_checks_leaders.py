"""The checks where any node may lead are seen to complain, and not to complain.  See test_checks.py."""

import unittest

import checks
import checks_leaders  # its checks are among those of "checks" then
import test_checks


class LeadersTest(unittest.TestCase):
    def setUp(self):
        self.story = test_checks.Story()
        self.story.events[0].update(nodes=True, leaders=True)

    def assert_finds(self, *kinds):
        self.assertEqual({finding.kind for finding in checks.findings(self.story.events)}, set(kinds))

    # ------------------------------------------------------------------
    # What another leader has
    # ------------------------------------------------------------------

    def test_what_may_be_lost(self):
        for mode, is_lost in (("on", True), ("off", True), ("acks_1", False)):
            self.setUp()
            self.story.produce("a", at=0, synchronous=mode)
            self.story.log()
            self.assert_finds(*(["lost"] if is_lost else []))

    def test_what_was_read_stays(self):
        self.story.produce("a", at=0, synchronous="acks_1")
        self.story.read(0, (0, "a"), client="standbyreader-1", standby=True)
        self.story.log()
        self.assert_finds("early_read")

    def test_another_in_its_place(self):
        self.story.produce("a", outcome="info")
        self.story.produce("b", at=0)
        self.story.read(0, (0, "a"), client="copy-1")
        self.story.log("b")
        self.assert_finds("early_read", "inconsistent_offset")

    def test_truncated_and_never_read(self):
        self.story.produce("a", outcome="info")
        self.story.produce("b", at=0)
        self.story.read(0, (0, "b"), client="copy-1")
        self.story.log("b")
        self.assert_finds()

    def test_refused_by_who_does_not_lead(self):
        self.story.produce("a", outcome="fail", error="TP004", message="")
        self.assert_finds()
        self.story.events[0]["leaders"] = False
        self.assert_finds("unexpected_error")

    # ------------------------------------------------------------------
    # Consumers
    # ------------------------------------------------------------------

    def test_consumed_once(self):
        self.story.produce("a", "b", at=0)
        self.story.consume(0, (0, "a"), (1, "b"), outcome="info")
        self.story.consume(0, (0, "a"))
        self.story.consume(0, (1, "b"))
        self.story.consume(0, (0, "a"), group="simple")
        self.story.log("a", "b")
        self.assert_finds()

    def test_consumed_twice(self):
        self.story.produce("a", at=0)
        self.story.consume(0, (0, "a"))
        self.story.consume(0, (0, "a"))
        self.story.log("a")
        self.assert_finds("consumed_twice")

    def test_tables_are_each_nodes_own(self):
        self.story.produce("a", at=0)
        self.story.consume(0, (0, "a"), group="simple")
        self.story.log("a")
        self.story.groups([["simple", 0, 1]], [])
        self.assert_finds()

    def test_consumption_undone(self):
        self.story.produce("a", at=0)
        self.story.consume(0, (0, "a"), group="simple")
        self.story.log("a")
        self.story.groups([["simple", 0, 0]], [])
        self.assert_finds("committed_offset")

    # ------------------------------------------------------------------
    # Elections
    # ------------------------------------------------------------------

    def elected(self, seconds):
        self.story.fault("leader_killed")
        self.story.events[-1]["elected"] = seconds

    def test_elected(self):
        self.story.fault("leader_moved")
        self.elected(1.5)
        self.assert_finds()

    def test_nobody_elected(self):
        self.elected(None)
        self.assert_finds("leaderless")

    def taken(self, seconds, term=1):
        """With acks=1, so long after another node was seen to lead in term 2."""
        self.story.events.append({"t": self.story.time, "type": "leads", "node": "b", "term": 2})
        self.story.time += (seconds - 1) * 1000000
        self.story.produce("a", at=0, synchronous="acks_1", led=["a", term])
        self.story.log("a")

    def test_taken_within_the_lease(self):
        self.taken(1)
        self.assert_finds()

    def test_taken_after_the_lease(self):
        self.taken(2)
        self.assert_finds("lease")

    def test_taken_in_the_later_term(self):
        self.taken(2, term=2)
        self.assert_finds()


if __name__ == "__main__":
    unittest.main()
