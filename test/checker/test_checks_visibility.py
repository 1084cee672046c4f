"""The checks of what readers see are seen to complain, and not to complain.  See test_checks.py."""

import unittest

import checks
import checks_visibility  # its checks are among those of "checks" then
import test_checks


class VisibilityTest(unittest.TestCase):
    def setUp(self):
        self.story = test_checks.Story()

    def assert_finds(self, *kinds):
        self.assertEqual({finding.kind for finding in checks.findings(self.story.events)}, set(kinds))

    def with_standby(self):
        self.story.events[0]["standby"] = True

    def ends(self, *ends, client="reader-1", topic="main", **details):
        op = self.story.invoke("ends", client, topic=topic, **details)
        self.story.complete(op, "ok", ends=[[partition, end] for partition, end in enumerate(ends)])

    def compare(self, *looks, topic="paired", isolation=None, starts=(), **details):
        """Looks are dictionaries: "way" or "way partition", and the end."""
        op = self.story.invoke("compare", "comparer-1", topic=topic, isolation=isolation, starts=starts)
        self.story.complete(op, "ok", looks=[
            [[name.split()[0], int(name.split()[1]) if " " in name else None, end] for name, end in look.items()]
            for look in looks], **details)

    def number(self, id, seen, partition=0, at=None, outcome="ok"):
        """A serializable transaction, which meets all others; without "at" it only looks."""
        records = [] if at is None else [["numbered", partition, id, True]]
        op = self.story.invoke("produce", "numberer-1", records=records, isolation="SERIALIZABLE")
        self.story.events[-1]["t"] = 1
        answer = {"seen": seen, "commit_at": self.story.tick()}
        if at is not None and outcome == "ok":
            answer["ranges"] = [["numbered", partition, at, 1]]
        self.story.complete(op, outcome, **answer)

    # ------------------------------------------------------------------
    # What was acknowledged or read
    # ------------------------------------------------------------------

    def lost_with(self, mode, standby=False, fault=None):
        self.setUp()
        if standby:
            self.with_standby()
        if fault:
            self.story.fault(fault)
        self.story.produce("a", at=0, synchronous=mode)
        self.story.log()
        return {finding.kind for finding in checks.findings(self.story.events)}

    def test_what_may_be_lost(self):
        for mode, standby, fault, kinds in (
                ("on", True, "promote", {"lost"}), ("local", True, "promote", set()), ("off", True, "promote", set()),
                ("on", False, "kill_server", {"lost"}), ("local", False, "kill_server", {"lost"}),
                ("off", False, "kill_server", set()), ("off", False, None, {"lost"})):
            self.assertEqual(self.lost_with(mode, standby, fault), kinds)

    def test_lost_after_it_was_read(self):
        self.with_standby()
        self.story.produce("a", at=0, synchronous="off")
        self.story.read(0, (0, "a"))
        self.story.log()
        self.assert_finds("early_read")

    def test_not_confirmed_and_not_seen(self):
        self.with_standby()
        self.story.produce("a", at=0, synchronous="local")
        self.story.read(0)
        self.ends(0)
        self.assert_finds()

    def test_acknowledged_and_not_seen(self):
        self.with_standby()
        self.story.produce("a", at=0)
        self.story.read(0)
        self.assert_finds("unseen")

    def test_standby_that_is_behind(self):
        self.with_standby()
        self.story.produce("a", at=0)
        op = self.story.invoke("read", "standbyreader-1", topic="main", partition=0, how="fetch", standby=True,
                               **{"from": 0, "limit": 100})
        self.story.complete(op, "ok", records=[], complete=True)
        self.ends(0, standby=True)
        self.assert_finds()

    def test_standby_that_is_ahead(self):
        self.with_standby()
        self.ends(1, standby=True)
        self.ends(0)
        self.assert_finds()

    # ------------------------------------------------------------------
    # After a restart, until a standby confirms
    # ------------------------------------------------------------------

    def test_hidden_after_a_restart(self):
        self.with_standby()
        self.story.produce("a", at=0)
        self.story.read(0, (0, "a"))
        self.ends(1)
        self.story.restart()
        self.story.read(0)
        self.story.read(1)
        self.ends(0)
        self.story.produce("b", at=1, synchronous="off")  # nobody has confirmed
        self.ends(0)
        self.story.log("a", "b")
        self.assert_finds()

    def test_hidden_without_a_standby(self):
        self.story.produce("a", at=0)
        self.story.restart()
        self.story.read(0)
        self.ends(0)
        self.assert_finds("unseen", "stale_end")

    def test_hidden_after_it_is_confirmed(self):
        self.with_standby()
        self.story.produce("a", at=0)
        self.story.read(0, (0, "a"))
        self.story.restart(promotion=True)
        self.story.produce("other", at=0, topic="second")
        self.story.read(0)
        self.ends(0)
        self.assert_finds("unseen", "stale_end", "early_read")

    def test_confirmed_by_the_old_primary(self):
        self.with_standby()
        self.story.produce("a", at=0)
        op = self.story.invoke("produce", "producer-1", records=[["second", 0, "b", True]])
        self.story.restart(promotion=True)
        self.story.complete(op, "ok", commit_at=self.story.time)  # in time
        self.ends(0)
        self.assert_finds()

    def test_hidden_from_a_serializable_transaction(self):
        self.with_standby()
        self.ends(1)
        self.story.restart()
        self.compare({"list_offsets 0": 0}, topic="main", isolation="REPEATABLE READ")
        self.assert_finds()
        self.compare({"list_offsets 0": 0}, topic="main", isolation="SERIALIZABLE")
        self.assert_finds("stale_end")

    def test_partitions_that_differ_after_a_restart(self):
        self.with_standby()
        op = self.story.invoke("produce", "producer-1", records=[["main", 0, "a", True], ["main", 1, "b", True]])
        self.story.complete(op, "ok", commit_at=self.story.tick())
        self.story.restart()
        self.story.log("a")
        self.story.log("b", partition=1)
        self.compare({"view 0": 0, "view 1": 0})
        self.story.snapshot(starts=[(0, 0), (1, 0)])
        self.assert_finds()
        self.compare({"view 0": 1, "view 1": 2})
        self.story.snapshot((0, 0, "a"), starts=[(0, 0), (1, 0)])
        self.assert_finds("disagreement", "torn_transaction")

    def test_torn_after_a_restart(self):
        self.with_standby()
        op = self.story.invoke("produce", "producer-1", records=[["main", 0, "a", True], ["main", 0, "b", True]])
        self.story.complete(op, "ok", commit_at=self.story.tick())
        self.story.restart()
        self.story.snapshot((0, 0, "a"), starts=[(0, 0)])
        self.story.log("a", "b")
        self.assert_finds("torn_transaction")

    def test_row_that_recovery_has_found(self):
        self.with_standby()
        self.story.restart()
        self.compare({"book": 1}, book=["a"])
        self.story.restart(promotion=True)
        self.story.final("book", ids=[])
        self.assert_finds()

    def test_lost_although_it_was_hidden(self):
        self.with_standby()
        self.story.produce("a", at=0)
        self.ends(1)
        self.story.restart(promotion=True)
        self.ends(0)
        self.story.log()
        self.assert_finds("lost", "taken_back")

    # ------------------------------------------------------------------
    # Log ends
    # ------------------------------------------------------------------

    def test_end_that_is_taken_back(self):
        self.story.produce("a", outcome="info")
        self.ends(1)
        self.story.log()
        self.assert_finds("taken_back")

    def test_end_below_which_others_commit(self):
        self.story.produce("a", outcome="info")
        self.ends(1)
        self.story.produce("b", at=0)
        self.story.log("b")
        self.assert_finds("taken_back")

    def test_end_told_by_a_wait(self):
        op = self.story.invoke("wait_offset", "waiter-1", topic="main", partition=0, after=0)
        self.story.complete(op, "ok")
        self.story.log()
        self.assert_finds("taken_back")

    def test_wait_that_found_nothing(self):
        op = self.story.invoke("wait_offset", "waiter-1", topic="main", partition=0, after=0)
        self.story.time += 5000000
        self.story.complete(op, "ok")
        self.story.log()
        self.assert_finds()

    def test_row_that_is_taken_back(self):
        self.compare({"book": 1}, book=["a"])
        self.story.final("book", ids=[])
        self.assert_finds("taken_back")

    def test_stale_end(self):
        self.story.produce("a", at=0)
        self.ends(0)
        self.assert_finds("stale_end")

    def test_end_that_goes_back(self):
        self.ends(1)
        self.ends(0)
        self.assert_finds("stale_end")

    def test_notification_that_is_late(self):
        self.ends(1)
        self.ends(0, notified=True)
        self.assert_finds()

    # ------------------------------------------------------------------
    # One statement, one snapshot
    # ------------------------------------------------------------------

    def test_agreement(self):
        look = {"view 0": 1, "view 1": 1, "fetch 0": 1, "list_offsets 1": 1, "book": 1}
        self.compare(look)
        self.compare(look, look, isolation="REPEATABLE READ")
        self.compare({"view 0": 2, "lag 0": 2, "view 1": 3, "lag 1": 3}, topic="main")
        self.assert_finds()

    def test_look_from_above_the_end(self):
        starts = [[0, 5]]
        self.compare({"view 0": 5, "count 0": 5, "fetch 0": 5, "lag 0": 3, "list_offsets 0": 3}, topic="main", starts=starts)
        self.compare({"view 0": 5, "lag 0": 5}, topic="main", starts=starts)
        self.assert_finds()

    def test_look_from_above_the_end_that_disagrees(self):
        self.compare({"view 0": 5, "fetch 0": 6, "lag 0": 3}, topic="main", starts=[[0, 5]])
        self.assert_finds("disagreement")

    def test_records_and_their_rows(self):
        self.story.produce("a", topic="paired")
        self.story.log("a", topic="paired")
        self.story.final("book", ids=["a"])
        self.assert_finds()

    def test_ways_that_disagree(self):
        self.compare({"view 0": 1, "fetch 0": 2}, topic="main")
        self.assert_finds("disagreement")

    def test_partitions_that_disagree(self):
        self.compare({"view 0": 1, "view 1": 2})
        self.assert_finds("disagreement")

    def test_snapshot_that_moves(self):
        self.compare({"view 0": 1}, {"view 0": 2}, isolation="REPEATABLE READ")
        self.assert_finds("disagreement")

    def test_rows_without_records(self):
        self.compare({"view 0": 1, "book": 2})
        self.assert_finds("disagreement")

    def test_rows_before_their_records(self):
        self.with_standby()
        self.compare({"view 0": 1, "book": 2})
        self.assert_finds()
        self.compare({"view 0": 1, "book": 2}, isolation="SERIALIZABLE")
        self.assert_finds("disagreement")

    def test_records_before_their_rows(self):
        self.with_standby()
        self.compare({"view 0": 2, "book": 1})
        self.assert_finds("disagreement")

    def test_records_without_rows_at_the_end(self):
        self.story.produce("a", topic="paired")
        self.story.log("a", topic="paired")
        self.story.final("book", ids=[])
        self.assert_finds("disagreement")

    # ------------------------------------------------------------------
    # Serializable transactions
    # ------------------------------------------------------------------

    def test_serializable(self):
        self.number("a", [[0, 0]], at=0)
        self.number("b", [[0, 0]], at=1, outcome="fail")
        self.number("c", [[0, 1]], at=1)
        self.number("look", [[0, 1], [1, 0]])
        self.number("d", [[0, 1]], partition=1, at=0)  # before c
        self.story.log("a", "c", topic="numbered")
        self.story.log("d", topic="numbered", partition=1)
        self.assert_finds()

    def test_others_that_did_not_look(self):
        self.number("a", [], at=0)
        self.number("b", [[0, 0]], at=1)
        self.story.log("a", "b", topic="numbered")
        self.assert_finds()

    def test_look_between(self):
        self.number("a", [], at=0)
        self.number("b", [[0, 0]], at=1)
        self.number("look", [[0, 1]])
        self.story.log("a", "b", topic="numbered")
        self.assert_finds("serialization")

    def test_both_found_nothing(self):
        self.number("a", [[0, 0]], at=0)
        self.number("b", [[0, 0]], at=1, outcome="info")
        self.story.log("a", "b", topic="numbered")
        self.assert_finds("serialization")

    def test_each_found_nothing_of_the_other(self):
        self.number("a", [[1, 0]], partition=0, at=0)
        self.number("b", [[0, 0]], partition=1, at=0)
        self.story.log("a", topic="numbered")
        self.story.log("b", topic="numbered", partition=1)
        self.assert_finds("serialization")

    def test_look_that_saw_the_later_only(self):
        self.number("a", [[1, 0]], partition=0, at=0)
        self.number("b", [[0, 1]], partition=1, at=0)
        self.number("look", [[0, 0], [1, 1]])
        self.story.log("a", topic="numbered")
        self.story.log("b", topic="numbered", partition=1)
        self.assert_finds("serialization")


if __name__ == "__main__":
    unittest.main()
