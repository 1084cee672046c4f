"""Every check is seen to complain, and not to complain, on histories made by hand.

  python3 -m unittest discover -s test/checker
"""

import inspect
import json
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import checks
import checks_damage  # their checks are among those of "checks" then
import checks_keeping
import checks_leaders
import checks_members
import checks_nodes
import checks_producers
import checks_visibility
import faults
import history
import workload


class Story:
    """Events of a history, a second after another."""

    def __init__(self):
        self.events = [{"t": 0, "type": "settings"}]
        self.time = 0
        self.ops = 0

    def tick(self):
        self.time += 1000000
        return self.time

    def invoke(self, f, client, **details):
        self.ops += 1
        self.events.append({"t": self.tick(), "type": "invoke", "op": self.ops, "client": client, "f": f, **details})
        return self.ops

    def complete(self, op, outcome, **details):
        self.events.append({"t": self.tick(), "type": outcome, "op": op, **details})

    def produce(self, *ids, outcome="ok", topic="main", partition=0, at=None, client="producer-1", taken_back=(),
                f="produce", **details):
        """A transaction; "at" is the offset that the producer was told."""
        records = [[topic, partition, id, id not in taken_back] for id in ids]
        op = self.invoke(f, client, records=records)
        answer = {"commit_at": self.tick(), **details}
        if at is not None:
            answer["ranges"] = [[topic, partition, at, len(ids) - len(taken_back)]]
        self.complete(op, outcome, **answer)
        return op

    def read(self, start, *records, topic="main", partition=0, how="fetch", complete=True, client="reader-1",
             outcome="ok", **details):
        op = self.invoke("read", client, topic=topic, partition=partition, how=how, **{"from": start, "limit": 100})
        answer = {"records": [list(record) for record in records], "complete": complete} if outcome == "ok" else {}
        self.complete(op, outcome, **answer, **details)

    def snapshot(self, *records, starts=((0, 0),), again=None):
        op = self.invoke("snapshot", "snapshotter-1", topic="main", starts=[list(pair) for pair in starts])
        self.complete(op, "ok", records=[list(record) for record in records],
                      **({"again": again} if again is not None else {}))

    def consume(self, partition, *rows, group="workers", outcome="ok", **details):
        op = self.invoke("consume", "worker-1", topic="main", group=group)
        self.complete(op, outcome, takes=[[partition, [list(row) for row in rows]]], commit_at=self.tick(), **details)

    def committed(self, *rows):
        op = self.invoke("committed", "offsetreader-1")
        self.complete(op, "ok", rows=[list(row) for row in rows])

    def groups(self, committed, work):
        self.final("groups", committed=committed, work=work)

    def fault(self, kind):
        for at in ("begin", "end"):
            self.events.append({"t": self.tick(), "type": "fault", "f": kind, "at": at})

    def restart(self, promotion=False):
        self.events.append({"t": self.tick(), "type": "restart", "at": "begin", "promotion": promotion})
        self.events.append({"t": self.tick(), "type": "restart", "at": "end"})

    def final(self, what, **details):
        self.events.append({"t": self.tick(), "type": "final", "what": what, **details})

    def log(self, *ids, topic="main", partition=0, start=0, end=None, offsets=None, times=None):
        offsets = offsets or range(start, start + len(ids))
        times = times or range(len(ids))
        self.final("log", topic=topic, partition=partition, start=start,
                   end=start + len(ids) if end is None else end,
                   records=[list(row) for row in zip(offsets, ids, times)])


class CheckTest(unittest.TestCase):
    def setUp(self):
        self.story = Story()

    def kinds(self):
        return {finding.kind for finding in checks.findings(self.story.events)}

    def assert_finds(self, *kinds):
        self.assertEqual(self.kinds(), set(kinds))

    # ------------------------------------------------------------------

    def test_good_run(self):
        story = self.story
        story.produce("a", "b", at=0)
        story.produce("c", "d", outcome="ok", taken_back="d", at=2)
        story.produce("e", outcome="fail")
        story.produce("f", outcome="info")
        story.read(0, (0, "a"), (1, "b"), (2, "c"))
        story.snapshot((0, 1, "b"), (0, 2, "c"), starts=[(0, 1)])
        story.log("a", "b", "c")
        self.assert_finds()

    def test_lost(self):
        self.story.produce("a", at=0)
        self.story.produce("b", at=1)
        self.story.log("a")
        self.assert_finds("lost")

    def test_unknown_is_not_lost(self):
        self.story.produce("a", outcome="info")
        self.story.log()
        self.assert_finds()

    def test_aborted_in_the_log(self):
        self.story.produce("a", outcome="fail")
        self.story.log("a")
        self.assert_finds("aborted_read")

    def test_aborted_read(self):
        self.story.produce("a", outcome="fail")
        self.story.read(0, (0, "a"))
        self.assert_finds("aborted_read")

    def test_taken_back_by_a_savepoint(self):
        self.story.produce("a", "b", taken_back="b")
        self.story.log("a", "b")
        self.assert_finds("aborted_read")

    def test_invented(self):
        self.story.log("a")
        self.assert_finds("invented")

    def test_invented_and_read(self):
        self.story.read(0, (0, "damaged:a"))
        self.assert_finds("invented")

    def test_torn_in_the_log(self):
        self.story.produce("a", "b", outcome="info")
        self.story.log("a")
        self.assert_finds("torn_transaction")

    def test_torn_in_a_snapshot(self):
        story = self.story
        op = story.invoke("produce", "producer-1", records=[["main", 0, "a", True], ["main", 1, "b", True]])
        story.complete(op, "ok", commit_at=story.tick())
        story.snapshot((0, 0, "a"), starts=[(0, 0), (1, 0)])
        story.log("a")
        story.log("b", partition=1)
        self.assert_finds("torn_transaction")

    def test_snapshot_that_begins_behind(self):
        story = self.story
        op = story.invoke("produce", "producer-1", records=[["main", 0, "a", True], ["main", 1, "b", True]])
        story.complete(op, "ok", commit_at=story.tick())
        story.snapshot((0, 0, "a"), starts=[(0, 0), (1, 1)])
        story.log("a")
        story.log("b", partition=1)
        self.assert_finds()

    def test_two_values_at_an_offset(self):
        self.story.produce("a")
        self.story.produce("b", outcome="info")
        self.story.read(0, (0, "a"))
        self.story.read(0, (0, "b"))
        self.assert_finds("inconsistent_offset")

    def test_not_where_the_producer_was_told(self):
        self.story.produce("a", at=0)
        self.story.produce("b", at=0)
        self.story.log("a", "b")
        self.assert_finds("inconsistent_offset")

    def test_duplicate(self):
        self.story.produce("a", at=0)
        self.story.log("a", "a")
        self.assertIn("duplicate", self.kinds())

    def test_duplicate_for_readers(self):
        self.story.produce("a")
        self.story.read(0, (0, "a"), complete=False)
        self.story.read(1, (1, "a"), complete=False)
        self.assert_finds("duplicate")

    def test_skip(self):
        self.story.produce("a", "b")
        self.story.read(0, (1, "b"))
        self.assert_finds("skip")

    def test_skip_that_the_log_noticed(self):
        self.story.read(0, outcome="fail", error="XX001", message="offset 0 is missing")
        self.assert_finds("skip")

    def test_late_arrival(self):
        self.story.produce("a", outcome="info")
        self.story.produce("b", at=1)
        self.story.read(0, (1, "b"))
        self.story.log("a", "b")
        self.assert_finds("late_arrival")

    def test_snapshot_that_changes(self):
        self.story.produce("a", outcome="info")
        self.story.snapshot(again=[[0, 0, "a"]])
        self.assert_finds("late_arrival")

    def test_unseen(self):
        self.story.produce("a", at=0)
        self.story.read(0)
        self.assert_finds("unseen")

    def test_unseen_after_another_has_read_it(self):
        self.story.produce("a", outcome="info")
        self.story.read(0, (0, "a"))
        self.story.read(0, client="reader-2")
        self.assert_finds("unseen")

    def test_limit_explains_what_was_not_seen(self):
        self.story.produce("a", "b", at=0)
        self.story.read(0, (0, "a"), complete=False)
        self.assert_finds()

    def test_undelivered(self):
        self.story.produce("a", "b")
        self.story.read(0, (0, "a"), complete=False)
        self.story.final("drained")
        self.story.log("a", "b")
        self.assert_finds("undelivered")

    def test_disorder_in_the_table(self):
        self.story.produce("a", outcome="info")
        self.story.produce("b", outcome="info")
        self.story.log("b", "a", offsets=[1, 0], end=2)
        self.assert_finds("non_monotonic")

    def test_disorder_in_a_read(self):
        self.story.produce("a", "b")
        self.story.read(0, (1, "b"), (0, "a"))
        self.assert_finds("non_monotonic")

    def test_later_commit_with_lower_offset(self):
        self.story.produce("a")
        self.story.produce("b")
        self.story.log("b", "a")
        self.assert_finds("non_monotonic")

    def test_transaction_out_of_order(self):
        self.story.produce("a", "b")
        self.story.log("b", "a")
        self.assert_finds("non_monotonic")

    def test_transaction_not_contiguous(self):
        self.story.produce("a", "c", outcome="info")
        self.story.produce("b", outcome="info")
        self.story.log("a", "b", "c")
        self.assert_finds("non_monotonic")

    def test_append_time(self):
        self.story.produce("a", "b", topic="second")
        self.story.log("a", "b", topic="second", times=[5, 4])
        self.assert_finds("append_time")

    def test_read_before_the_commit(self):
        story = self.story
        op = story.invoke("produce", "producer-1", records=[["main", 0, "a", True]])
        story.read(0, (0, "a"))
        story.complete(op, "ok", commit_at=story.tick())
        self.assert_finds("early_read")

    def test_read_and_taken_back(self):
        self.story.produce("a", outcome="info")
        self.story.read(0, (0, "a"))
        self.story.log()
        self.assert_finds("early_read")

    def test_fetched_beyond_the_end(self):
        self.story.produce("a")
        self.story.read(0, (0, "a"))
        op = self.story.invoke("ends", "reader-1", topic="main")
        self.story.complete(op, "ok", ends=[[0, 0]])
        self.assert_finds("early_read", "stale_end")

    def test_gap(self):
        self.story.produce("a")
        self.story.produce("b")
        self.story.log("a", "b", offsets=[0, 2], end=3)
        self.assert_finds("gap")

    def test_end_beyond_the_last_record(self):
        self.story.produce("a")
        self.story.log("a", end=2)
        self.assert_finds("gap")

    def test_copy(self):
        self.story.produce("a", "b")
        self.story.log("a", "b")
        self.story.log("a", topic="copy")
        self.story.final("places", places=[[0, 1]])
        self.assert_finds()

    def test_copied_twice(self):
        self.story.produce("a", "b")
        self.story.log("a", "b")
        self.story.log("a", "a", topic="copy")
        self.story.final("places", places=[[0, 1]])
        self.assert_finds("exactly_once_copy")

    def test_not_copied(self):
        self.story.produce("a", "b")
        self.story.log("a", "b")
        self.story.log("b", topic="copy")
        self.story.final("places", places=[[0, 2]])
        self.assert_finds("exactly_once_copy")

    def test_consume(self):
        self.story.produce("a", "b", "c", at=0)
        self.story.consume(0, (0, "a"), (1, "b"))
        self.story.committed(("workers", 0, 2))
        self.story.consume(0, (2, "c"), outcome="fail")
        self.story.log("a", "b", "c")
        self.story.log("a", "b", topic="consumed")
        self.story.groups([["workers", 0, 2]], [["workers", 0, 0, "a"], ["workers", 0, 1, "b"]])
        self.assert_finds()

    def test_worked_on_twice(self):
        self.story.produce("a", at=0)
        self.story.log("a")
        self.story.groups([["simple", 0, 1]], [["simple", 0, 0, "a"], ["simple", 0, 0, "a"]])
        self.assert_finds("exactly_once_consume")

    def test_not_worked_on(self):
        self.story.produce("a", "b", at=0)
        self.story.log("a", "b")
        self.story.groups([["simple", 0, 2]], [["simple", 0, 0, "a"]])
        self.assert_finds("exactly_once_consume")

    def test_worked_on_and_not_committed(self):
        self.story.produce("a", at=0)
        self.story.log("a")
        self.story.groups([], [["simple", 0, 0, "a"]])
        self.assert_finds("exactly_once_consume")

    def test_consumed_and_not_produced(self):
        self.story.produce("a", at=0)
        self.story.log("a")
        self.story.groups([["workers", 0, 1]], [["workers", 0, 0, "a"]])
        self.assert_finds("exactly_once_consume")

    def test_committed_offset_that_goes_back(self):
        self.story.committed(("workers", 0, 2))
        self.story.committed(("workers", 0, 1))
        self.assert_finds("committed_offset")

    def test_committed_offset_that_is_gone(self):
        self.story.committed(("workers", 0, 2))
        self.story.committed()
        self.assert_finds("committed_offset")

    def test_committed_offset_that_was_acknowledged(self):
        self.story.produce("a", at=0)
        self.story.consume(0, (0, "a"))
        self.story.committed(("workers", 0, 0))
        self.assert_finds("committed_offset")

    def test_committed_offset_lost_at_the_end(self):
        self.story.committed(("workers", 0, 1))
        self.story.groups([["workers", 0, 0]], [])
        self.assert_finds("committed_offset")

    def test_committed_offset_that_a_promotion_takes_back(self):
        self.story.committed(("workers", 0, 2))
        self.story.restart(promotion=True)
        self.story.committed(("workers", 0, 1))
        self.story.groups([["workers", 0, 1]], [])
        self.assert_finds()

    def test_committed_offset_seen_while_a_primary_ends(self):
        self.story.restart(promotion=True)
        killed = self.story.events.pop()
        self.story.committed(("workers", 0, 2))
        self.story.events.append({**killed, "t": self.story.tick()})
        self.story.committed(("workers", 0, 1))
        self.assert_finds()

    def test_committed_offset_that_a_restart_takes_back(self):
        self.story.committed(("workers", 0, 2))
        self.story.restart()
        self.story.committed(("workers", 0, 1))
        self.assert_finds("committed_offset")

    def test_acknowledged_offset_that_a_promotion_takes_back(self):
        self.story.produce("a", at=0)
        self.story.consume(0, (0, "a"))
        self.story.restart(promotion=True)
        self.story.committed(("workers", 0, 0))
        self.assert_finds("committed_offset")

    def test_committed_offset_that_goes_back_after_a_promotion(self):
        self.story.restart(promotion=True)
        self.story.committed(("workers", 0, 2))
        self.story.committed(("workers", 0, 1))
        self.assert_finds("committed_offset")

    def test_committed_beyond_the_end(self):
        self.story.log()
        self.story.groups([["simple", 0, 1]], [])
        self.assert_finds("committed_offset")

    def test_commit_that_must_be_refused(self):
        op = self.story.invoke("bad_commit", "simpleconsumer-1", lower=True)
        self.story.complete(op, "ok")
        self.assert_finds("committed_offset")

    def test_consumer_skips(self):
        self.story.produce("a", "b", "c", at=0)
        self.story.consume(0, (0, "a"), (2, "c"), outcome="fail")
        self.assert_finds("skip")

    def reset(self, partition, to, outcome="ok"):
        op = self.story.invoke("reset", "resetter-1", group="resets", partition=partition, to=to)
        self.story.complete(op, outcome, commit_at=self.story.tick())

    def resetting(self, *starts):
        """Consumes from each of these offsets, one record."""
        for start in starts:
            self.story.consume(0, (start, "abc"[start]), group="resets")

    def test_position(self):
        self.story.produce("a", "b", "c", at=0)
        self.resetting(0, 1)
        self.reset(0, 1)
        self.resetting(1)
        self.reset(0, 0, outcome="info")
        self.resetting(2)
        self.reset(None, 0)
        self.resetting(0)
        self.reset(0, 2, outcome="fail")
        self.story.groups([["resets", 0, 1]], [])
        self.assert_finds()

    def test_unknown_reset_that_was_done(self):
        self.story.produce("a", "b", "c", at=0)
        self.resetting(0, 1)
        self.reset(0, 0, outcome="info")
        self.resetting(0)
        self.assert_finds()

    def test_position_that_was_not_reset(self):
        self.story.produce("a", "b", "c", at=0)
        self.resetting(0, 1)
        self.reset(0, 0)
        self.resetting(2)
        self.assert_finds("position")

    def test_position_after_a_rollback(self):
        self.story.produce("a", "b", "c", at=0)
        self.resetting(0)
        self.reset(0, 0, outcome="fail")
        self.resetting(0)
        self.assert_finds("position")

    def test_position_at_the_end(self):
        self.story.produce("a", at=0)
        self.resetting(0)
        self.story.groups([["resets", 0, 0]], [])
        self.assert_finds("position")

    # ------------------------------------------------------------------
    # Keeping
    # ------------------------------------------------------------------

    def bounds(self, topic, start, end=None, **details):
        op = self.story.invoke("bounds", "keeper-1", topic=topic)
        self.story.complete(op, "ok", bounds=[[0, start, end]], **details)

    def delete(self, before, start=None, outcome="ok", beyond=False, **details):
        op = self.story.invoke("delete", "keeper-1", topic="cut", partition=0, before=before, beyond=beyond)
        self.story.complete(op, outcome, **({"start": before if start is None else start} if outcome == "ok" else {}), **details)

    def test_keeping(self):
        story = self.story
        story.produce("a", "b", "c", "d", topic="cut", at=0)
        self.bounds("cut", 0, 4)
        self.delete(2)
        self.delete(1, start=2)
        self.delete(2000, outcome="fail", beyond=True, error="TP001", message="out of range")
        story.read(0, outcome="fail", topic="cut", error="TP001", message="out of range")
        story.read(0, (2, "c"), (3, "d"), topic="cut", how="scan")
        story.read(2, (2, "c"), (3, "d"), topic="cut")
        self.bounds("cut", 2, 4)
        story.log("c", "d", topic="cut", start=2)
        self.assert_finds()

    def test_lost_above_the_log_start(self):
        self.story.produce("a", "b", "c", topic="cut", at=0)
        self.delete(1)
        self.story.log("c", topic="cut", start=1, offsets=[2], end=3)
        self.assert_finds("lost", "torn_transaction", "gap")

    def test_log_start_goes_back(self):
        self.story.produce("a", "b", topic="cut", at=0)
        self.delete(2)
        self.bounds("cut", 1, 2)
        self.assert_finds("log_start")

    def test_log_start_goes_back_at_the_end(self):
        self.story.produce("a", "b", topic="cut", at=0)
        self.delete(2)
        self.story.log("b", topic="cut", start=1)
        self.assert_finds("log_start")

    def test_log_end_goes_back(self):
        self.story.produce("a", "b", topic="cut", at=0)
        self.bounds("cut", 0, 1)
        self.assert_finds("log_start")

    def test_hidden_record_comes_back(self):
        self.story.produce("a", "b", topic="cut", at=0)
        self.delete(1)
        self.story.read(0, (0, "a"), (1, "b"), topic="cut", how="scan")
        self.assert_finds("log_start")

    def test_gone_too_young(self):
        self.story.produce("a", topic="aged", at=0)
        self.bounds("aged", 1, 1)
        self.assert_finds("ahead_of_policy")

    def test_gone_when_old(self):
        self.story.produce("a", topic="aged", at=0)
        self.story.time += 5000000
        self.bounds("aged", 1, 1)
        self.assert_finds()

    def test_gone_with_too_few_bytes(self):
        self.story.produce("a", "b", topic="sized", at=0)
        self.bounds("sized", 1, 2, bytes=1000000)
        self.assert_finds()
        self.bounds("sized", 1, 2, bytes=100000)
        self.assert_finds("ahead_of_policy")

    def test_deleted_by_nobody(self):
        self.story.produce("a", "b", topic="cut", at=0)
        self.delete(2, outcome="fail")
        self.delete(1)
        self.bounds("cut", 2, 2)
        self.assert_finds("ahead_of_policy")

    def test_compaction_moves_the_log_start(self):
        self.bounds("state", 1, 2)
        self.assert_finds("ahead_of_policy")

    def test_silence_below_the_log_start(self):
        self.story.produce("a", "b", topic="cut", at=0)
        self.delete(1)
        self.story.read(0, (1, "b"), topic="cut")
        self.assertIn("out_of_range", self.kinds())

    def test_refused_within_the_log(self):
        self.story.produce("a", "b", topic="cut", at=0)
        self.story.read(1, outcome="fail", topic="cut", error="TP001", message="out of range")
        self.story.log("a", "b", topic="cut")
        self.assert_finds("out_of_range")

    def test_deleted_beyond_the_end(self):
        self.story.produce("a", topic="cut", at=0)
        self.delete(100, start=1, beyond=True)
        self.assert_finds("out_of_range")

    def state(self, *records, at=0, outcome="ok", **details):
        """Produces [key, id or None], all of keys in partition 0."""
        op = self.story.invoke("state_produce", "stateproducer-1", records=[[0, key, id] for key, id in records])
        answer = {"ranges": [["state", 0, at, len(records)]]} if outcome == "ok" else {}
        self.story.complete(op, outcome, commit_at=self.story.tick(), **answer, **details)

    def state_read(self, *rows, start=0, **details):
        op = self.story.invoke("state_read", "statereader-1", partition=None, **{"from": start})
        self.story.complete(op, "ok", rows=[[0, *row] for row in rows], complete=True, **details)

    def test_state_that_is_hidden_after_a_restart(self):
        self.story.events[0].update(nodes=True)
        self.state(("k0", "a"), ("k2", "b"), ("k0", "c"))
        self.story.restart()
        self.state_read((0, "k0", "a"), (1, "k2", "b"))
        self.state_latest((0, "k0", "a"), (1, "k2", "b"))
        self.assert_finds()
        self.state_read((1, "k2", "b"))
        self.state_latest((1, "k2", "b"))
        self.assert_finds("compaction", "latest")

    def state_latest(self, *rows):
        op = self.story.invoke("latest", "statereader-1")
        self.story.complete(op, "ok", rows=[[0, *row] for row in rows])

    def test_compacted(self):
        self.state(("k0", "a"), ("k2", "b"), ("k0", "c"), ("k4", "d"), ("k4", None))
        self.state(("k2", "e"), outcome="fail", error="57014", message="cancelled")
        self.story.fault("cancel")
        self.state_read((1, "k2", "b"), (2, "k0", "c"), (4, "k4", None))
        self.state_read((1, "k2", "b"), (2, "k0", "c"))
        self.state_read((2, "k0", "c"), start=2)
        self.state_latest((1, "k2", "b"), (2, "k0", "c"))
        self.state(("k2", "f"), outcome="info")
        self.state_latest((2, "k0", "c"), (5, "k2", "f"))
        self.state(("k6", "g"), outcome="info")
        rows = [[0, 2, "k0", "c"], [0, 5, "k2", "f"], [0, 6, "k6", "g"]]
        self.story.final("state_log", rows=rows, latest=rows)
        self.assert_finds()

    def test_latest_record_of_a_key_is_gone(self):
        self.state(("k0", "a"), ("k2", "b"), ("k0", "c"))
        self.state_read((1, "k2", "b"))
        self.assert_finds("compaction")

    def test_older_record_instead_of_the_latest(self):
        self.state(("k0", "a"), ("k0", "b"))
        self.state_read((0, "k0", "a"))
        self.assert_finds("compaction")

    def test_compacted_to_another_offset(self):
        self.state(("k0", "a"), ("k0", "b"))
        self.state_read((0, "k0", "b"))
        self.assertEqual(self.kinds(), {"compaction"})

    def test_gone_in_the_final_log(self):
        self.state(("k0", "a"), ("k0", "b"))
        self.story.final("state_log", rows=[], latest=[[0, 1, "k0", "b"]])
        self.assert_finds("compaction")

    def test_compacted_out_of_order(self):
        self.state(("k0", "a"), ("k2", "b"))
        self.state_read((1, "k2", "b"), (0, "k0", "a"))
        self.assert_finds("compaction")

    def test_compacted_under_a_snapshot(self):
        self.state(("k0", "a"))
        self.state_read((0, "k0", "a"), again=[])
        self.assert_finds("compaction")

    def test_idle_snapshot(self):
        for differs in (False, True):
            op = self.story.invoke("idle", "idler-1", topic="cut", kind="cursor")
            self.story.complete(op, "ok", differs=differs)
            self.assertEqual(self.kinds(), {"snapshot_changed"} if differs else set())

    def test_newer_than_the_snapshot(self):
        op = self.story.invoke("state_read", "statereader-1", partition=None, **{"from": 0})
        snapshot_at = self.story.tick()
        self.state(("k0", "a"))
        self.story.complete(op, "ok", rows=[[0, 0, "k0", "a"]], complete=True, snapshot_at=snapshot_at)
        self.assert_finds("compaction")

    def test_place_of_a_compacted_record_is_used_again(self):
        self.state(("k0", None))
        self.state(("k0", "b"))
        self.assert_finds("compaction")

    def trim_look(self, *offsets):
        op = self.story.invoke("trim_look", "trimmer-1")
        self.story.complete(op, "ok", offsets=list(offsets), snapshot_at=self.story.tick())

    def test_trimmed(self):
        self.trim_look(3, 4, 5)
        self.trim_look()
        self.assert_finds()

    def test_gone_from_the_middle(self):
        self.trim_look(3, 4, 6)
        self.assert_finds("hole")

    def test_latest_is_older(self):
        self.state(("k0", "a"), ("k0", "b"))
        self.state_latest((0, "k0", "a"))
        self.assert_finds("latest")

    def test_latest_after_a_tombstone(self):
        self.state(("k0", "a"), ("k0", None))
        self.state_latest((0, "k0", "a"))
        self.assert_finds("latest")

    def test_latest_is_a_tombstone(self):
        self.state(("k0", None))
        self.state_latest((0, "k0", None))
        self.assert_finds("latest")

    def test_latest_without_a_key(self):
        self.state(("k0", "a"), ("k2", "b"))
        self.state_latest((1, "k2", "b"))
        self.assert_finds("latest")

    def test_unbounded(self):
        self.story.final("keeping", values={"segments": [0, 0]})
        self.assert_finds()
        self.story.final("keeping", values={"segments": [1, 0]})
        self.assert_finds("unbounded")

    # ------------------------------------------------------------------

    def overslept(self, seconds):
        op = self.story.invoke("wait_offset", "waiter-1", topic="main", partition=0, after=0)
        self.story.produce("a", at=0)
        self.story.time += seconds * 1000000
        self.story.complete(op, "ok")

    def test_overslept(self):
        self.overslept(5)
        self.assert_finds("overslept")

    def test_overslept_in_fetch(self):
        op = self.story.invoke("read", "waiter-1", topic="main", partition=0, how="fetch_wait", **{"from": 0, "limit": 100})
        self.story.produce("a", at=0)
        self.story.time += 5000000
        self.story.complete(op, "ok", records=[], complete=True)
        self.assert_finds("overslept")

    def test_woken_in_time(self):
        self.overslept(1)
        self.assert_finds()

    def test_slept_because_of_a_fault(self):
        self.story.fault("stop_server")
        self.story.events[-1]["t"] += 60000000
        self.overslept(5)
        self.assert_finds()

    def test_stuck(self):
        self.story.produce("a", outcome="fail", error="57P01", message="terminating", rescued=True)
        self.assert_finds("stuck")

    def test_never_ended(self):
        self.story.invoke("produce", "producer-1", records=[])
        self.assert_finds("stuck")

    def test_probe(self):
        self.story.fault("kill_server")
        self.story.produce("a", outcome="fail", probe=True, error="lost", message="gone")
        self.assert_finds("stuck")

    def operation(self, f, answer, **plan):
        op = self.story.invoke(f, "vandal-1", **plan)
        self.story.complete(op, "ok", **answer)

    def test_damage(self):
        self.operation("repair", {"before": ["no row"], "after": []}, damaged=True)
        self.operation("repair", {"before": ["no row"], "after": []}, damaged=False)
        self.operation("try_refused", {"refused": "0A000"}, statement="DROP")
        self.assert_finds()

    def test_damage_that_is_not_told(self):
        self.operation("repair", {"before": [], "after": []}, damaged=True)
        self.assert_finds("damage")

    def test_damage_that_is_not_repaired(self):
        self.operation("repair", {"before": ["no row"], "after": ["no row"]}, damaged=True)
        self.assert_finds("damage")

    def test_damage_that_is_not_refused(self):
        self.operation("try_refused", {}, statement="DROP")
        self.assert_finds("damage")

    def test_constraint(self):
        self.operation("tighten", {"limit": 3, "above": 0}, valid=True)
        self.assert_finds()
        self.operation("tighten", {"limit": 3, "above": 1}, valid=True)
        self.assert_finds("constraint")

    def test_unexpected_error(self):
        self.story.produce("a", outcome="fail", error="53100", message="disk full")
        self.assert_finds("unexpected_error")

    def test_deadlock_of_a_reader(self):
        op = self.story.invoke("compare", "comparer-1")
        self.story.complete(op, "fail", error="40P01", message="deadlock detected")
        self.assert_finds("unexpected_error")

    def test_deadlock_with_reindex(self):
        reindex = self.story.invoke("admin", "admin-1", work="reindex")
        op = self.story.invoke("compare", "comparer-1")
        self.story.complete(op, "fail", error="40P01", message="deadlock detected")
        self.story.complete(reindex, "ok", table="topic_log.t1_p0_s1")
        self.assert_finds()

    def test_serialization_failure_without_isolation(self):
        op = self.story.invoke("compare", "comparer-1")
        self.story.complete(op, "fail", error="40001", message="could not serialize access")
        self.assert_finds("unexpected_error")

    def test_plan_older_than_a_segment(self):
        op = self.story.invoke("compare", "comparer-1")
        self.story.complete(op, "fail", error="40001", message='a segment of partition 1 of topic "paired" was made,'
                            " and got records, while the query was planned")
        self.assert_finds()

    def test_expected_error(self):
        self.story.fault("full_data_disk")
        self.story.produce("a", outcome="fail", error="53100", message="disk full")
        self.assert_finds()

    def test_connecting_to_a_full_disk(self):
        self.story.produce("a", outcome="fail", error="XX000", message="could not write init file")
        self.assert_finds("unexpected_error")
        self.story.fault("full_data_disk")
        self.assert_finds()

    def test_server_log(self):
        self.story.final("server_log", lines=["2026 [1] 00000 : LOG:  server process (PID 2) was terminated by signal 11: Segmentation fault"])
        self.assert_finds("server_log")

    def test_leak_in_the_server_log(self):
        self.story.final("server_log", lines=["2026 [1] 01000 : WARNING:  buffer refcount leak: [42]"])
        self.assert_finds("server_log")

    def test_damage_in_the_server_log(self):
        for line in ("WARNING:  problem in alloc set TopMemoryContext: detected write past chunk end in block 0x1, chunk 0x2",
                     "WARNING:  leaked hash_seq_search scan for hash table 0x1",
                     "WARNING:  resource was not closed: relation \"t\""):
            with self.subTest(line):
                self.setUp()
                self.story.final("server_log", lines=["2026 [1] 01000 : " + line])
                self.assert_finds("server_log")

    def test_killed_by_us(self):
        self.story.fault("kill_backend")
        self.story.final("server_log", lines=["2026 [1] 00000 : LOG:  server process (PID 2) was terminated by signal 9: Killed"])
        self.assert_finds()

    def test_panic_only_without_room(self):
        lines = ["2026 [1] 53100 : PANIC:  could not write to file \"x\": No space left on device",
                 "2026 [1] 00000 : LOG:  server process (PID 2) was terminated by signal 6: Aborted"]
        self.story.final("server_log", lines=lines)
        self.assert_finds("server_log")
        self.story.fault("full_wal_disk")
        self.assert_finds()

    def test_leak(self):
        self.story.final("sessions", rows=[["producer-1", "idle", None, "relation", "topic_log.t1", "AccessShareLock"]])
        self.assert_finds("leak")


class CompletenessTest(unittest.TestCase):
    def test_every_check_is_seen_to_complain(self):
        directory = os.path.dirname(os.path.abspath(__file__))
        source = ""
        for name in ("test_checks.py", "test_checks_leaders.py", "test_checks_members.py", "test_checks_nodes.py",
                     "test_checks_producers.py", "test_checks_visibility.py"):
            with open(os.path.join(directory, name), encoding="utf-8") as file:
                source += file.read()
        for function in checks.CHECKS:
            self.assertIn(f'"{function.__name__}"', source)

    def test_findings_are_named_as_their_check(self):
        for function in checks.CHECKS:
            self.assertIn(f'Finding("{function.__name__}"', inspect.getsource(function))

    def test_every_fault_can_be_done(self):
        for kind in faults.KINDS:
            self.assertTrue(callable(getattr(faults.Faults, kind)))
        for kinds in (faults.ERRORS, faults.DISK_FAULTS, faults.KILLS):
            self.assertLessEqual(set(kinds), set(faults.KINDS))


class HistoryTest(unittest.TestCase):
    def test_operations_are_paired(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "history.jsonl")
            notes = history.History(path)
            first = notes.invoke("a", "read", partition=1)
            second = notes.invoke("b", "read", partition=2)
            notes.complete(second, "ok", records=[])
            notes.close()
            with open(path, encoding="utf-8") as file:
                for line in file:
                    json.loads(line)
            one, two = history.operations(history.load(path))
        self.assertEqual((one.number, one.outcome, one.end), (first, "info", None))
        self.assertEqual((two.number, two.outcome, two["records"], two["partition"]), (second, "ok", [], 2))
        self.assertLessEqual(two.start, two.end)


class WorkloadTest(unittest.TestCase):
    def producer(self, seed):
        notes = history.History(os.devnull)
        self.addCleanup(notes.close)
        return workload.Producer(workload.Context(None, notes, seed), "producer-1")

    def test_values_are_recognized(self):
        for number in range(300):
            id = f"p1.{number}.0"
            self.assertEqual(workload.identify(workload.payload(id)), id)
            self.assertTrue(workload.identify(workload.payload(id) + "y").startswith("damaged:"))

    def test_a_seed_gives_one_plan(self):
        def plan(seed):
            producer = self.producer(seed)
            result = []
            for producer.transactions in range(50):
                producer.records = []
                result.append((producer._plan(), producer.records))
            return result
        self.assertEqual(plan(1), plan(1))
        self.assertNotEqual(plan(1), plan(2))

    def test_plans_mark_what_savepoints_take_back(self):
        producer = self.producer(1)
        taken_back = 0
        for producer.transactions in range(500):
            producer.records = []
            alive = []
            depth = []
            for step, *arguments in producer._plan():
                if step == "savepoint":
                    depth.append(len(alive))
                elif step == "rollback_to":
                    del alive[depth[arguments[0] - 1]:]
                    del depth[arguments[0] - 1:]
                elif step == "release":
                    del depth[arguments[0] - 1:]
                elif step in ("produce", "insert", "copy"):
                    alive += arguments[2]
            self.assertEqual(alive, [record[2] for record in producer.records if record[3]])
            taken_back += sum(not record[3] for record in producer.records)
        self.assertGreater(taken_back, 100)


if __name__ == "__main__":
    unittest.main()
