"""The checks of numbered records are seen to complain, and not to complain.  See test_checks.py."""

import unittest

import checks
import checks_producers  # its checks are among those of "checks" then
import test_checks
from workload import SEQUENCED


class ProducersTest(unittest.TestCase):
    def setUp(self):
        self.story = test_checks.Story()

    def assert_finds(self, *kinds):
        self.assertEqual({finding.kind for finding in checks.findings(self.story.events)}, set(kinds))

    def init(self, epoch, outcome="ok"):
        op = self.story.invoke("init_producer", "numberedproducer-1", producer="n1")
        self.story.complete(op, outcome, id=9, epoch=epoch)

    def number(self, *counts, epoch=0, outcome="ok", **details):
        records = [[0, count, f"n1.{epoch}.0.{count}"] for count in counts]
        op = self.story.invoke("number", "numberedproducer-1", producer="n1", key=[9, epoch], records=records,
                               is_last=details.pop("is_last", False), former=details.pop("former", False))
        self.story.complete(op, outcome, commit_at=self.story.tick(), **details)

    def last(self, count, epoch=0, sequence=None, viewed=None, offset=None):
        sequence = count - 1 if sequence is None else sequence
        op = self.story.invoke("last_sequence", "numberedproducer-1", producer="n1", key=[9, epoch])
        self.story.complete(op, "ok", last=[[0, epoch, sequence, sequence if viewed is None else viewed, offset, count]])

    def log(self, *records):
        """Of records (epoch, count)."""
        self.story.log(*(f"n1.{epoch}.0.{count}" for epoch, count in records), topic=SEQUENCED)

    def test_good_run(self):
        self.init(0)
        self.number(0, 1, ranges=[[0, 0, 2]])
        self.number(2, outcome="info")
        self.number(2, 3)
        self.number(3, sent=[0, 3, 3], is_last=True)
        self.init(1)
        self.number(4, outcome="fail", error="TP007", message="", former=True)
        self.last(4, offset=3)
        self.number(4, epoch=1, sent=[0, 4, 4])
        self.last(5, epoch=1, sequence=0, offset=4)
        self.log((0, 0), (0, 1), (0, 2), (0, 3), (1, 4))
        self.assert_finds()

    def test_stored_twice(self):
        self.number(0, outcome="info")
        self.number(0)
        self.log((0, 0), (0, 0))
        self.assert_finds("stored_once")

    def test_out_of_order(self):
        self.number(0, 1)
        self.log((0, 1), (0, 0))
        self.assert_finds("stored_once")

    def test_lost(self):
        self.number(0, 1)
        self.log((0, 0))
        self.assert_finds("stored_once")

    def test_rolled_back(self):
        self.number(0, outcome="fail")
        self.log((0, 0))
        self.assert_finds("stored_once")

    def test_invented(self):
        self.log((0, 0))
        self.assert_finds("stored_once")

    def test_behind_a_higher_epoch(self):
        self.number(0, epoch=1)
        self.number(1, outcome="info")
        self.log((1, 0), (0, 1))
        self.assert_finds("stored_once")

    def test_told_another_place(self):
        for told in ({"ranges": [[0, 7, 1]]}, {"sent": [0, 0, 7]}, {"sent": [0, 0, None], "is_last": True}):
            self.setUp()
            self.number(0, **told)
            self.log((0, 0))
            self.assert_finds("told_offset")

    def test_not_told_any_more(self):
        self.number(0, sent=[0, 0, None])
        self.log((0, 0))
        self.assert_finds()

    def test_last_sequence_that_is_not_there(self):
        self.number(0, 1, outcome="info")
        self.last(2)
        self.log((0, 0))
        self.assert_finds("sequence_taken_back")

    def test_last_sequence_at_another_place(self):
        self.number(0, 1)
        self.last(2, offset=0)
        self.log((0, 0), (0, 1))
        self.assert_finds("sequence_taken_back")

    def test_last_sequence_that_goes_back(self):
        self.number(0, 1)
        self.last(1)
        self.log((0, 0), (0, 1))
        self.assert_finds("sequence_taken_back")

    def test_last_sequence_beside_the_view(self):
        self.number(0, 1)
        self.last(2, viewed=0)
        self.log((0, 0), (0, 1))
        self.assert_finds("sequence_taken_back")

    def test_fenced(self):
        self.init(1)
        self.number(0, former=True)
        self.log((0, 0))
        self.assert_finds("fenced_producer")

    def test_fenced_or_not(self):
        self.init(1, outcome="info")
        self.number(0, former=True)
        self.log((0, 0))
        self.assert_finds()

    def test_fenced_where_leaders_are_spread(self):
        for stored, kinds in ((True, ["fenced_producer"]), (False, [])):
            self.setUp()
            self.story.events[0].update(nodes=True, leaders=True, spread=True)
            self.init(1)
            if stored:
                self.number(0, epoch=1)
            self.number(1, former=True)
            self.log(*[(1, 0)] * stored, (0, 1))
            self.assertEqual({finding.kind for finding in checks.findings(self.story.events)} - {"stored_once"}, set(kinds))

    def test_epoch_that_is_given_again(self):
        self.init(1)
        self.init(1)
        self.assert_finds("fenced_producer")

    def test_errors(self):
        self.number(0, outcome="fail", error="TP007", message="")
        self.assert_finds("unexpected_error")
        self.setUp()
        self.number(0, outcome="fail", error="TP008", message="")
        self.assert_finds("unexpected_error")

    def test_final_errors_of_who_has_led(self):
        """A node that does not know whether it leads says that, and nothing of what is stored."""
        for error, kinds in (("TP004", []), ("TP007", ["unexpected_error"]), ("TP008", ["unexpected_error"])):
            self.setUp()
            self.story.events[0].update(nodes=True, leaders=True)
            self.story.fault("leader_cut")
            self.number(0, outcome="fail", error=error, message="")
            self.assert_finds(*kinds)


if __name__ == "__main__":
    unittest.main()
