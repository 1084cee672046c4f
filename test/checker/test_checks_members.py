"""The checks of members of groups are seen to complain, and not to complain.  See test_checks.py."""

import unittest

import checks
import checks_members  # its checks are among those of "checks" then
import test_checks


class MembersTest(unittest.TestCase):
    def setUp(self):
        self.story = test_checks.Story()
        self.story.produce("a", "b", at=0)

    def assert_finds(self, *kinds):
        self.assertEqual({finding.kind for finding in checks.findings(self.story.events)}, set(kinds))

    def join(self, member, generation, group="exact", instance=None, outcome="ok", timeout=1):
        op = self.story.invoke("join_group", member, group=group, instance=instance, timeout=timeout)
        joined_at = self.story.tick()
        self.story.complete(op, outcome, member=member, generation=generation, joined_at=joined_at)

    def call(self, f, member, outcome="ok", group="exact", **details):
        op = self.story.invoke(f, member, group=group, member=member)
        self.story.complete(op, outcome, **details)

    def poll(self, member, generation, *rows, f="member_poll", group="exact", outcome="ok", **details):
        op = self.story.invoke(f, member, group=group, member=member)
        polled_at = self.story.tick()
        commit_at = self.story.tick()
        self.story.complete(op, outcome, takes=[["main", 0, [list(row) for row in rows]]], generation=generation,
                            polled_at=polled_at, commit_at=commit_at, **details)

    def work(self, *arguments, **details):
        self.poll(*arguments, f="member_work", **details)

    def commit(self, member, generation, offset, outcome="ok", group="exact", **details):
        op = self.story.invoke("member_commit", member, group=group, member=member, offsets=[["main", 0, offset, generation]])
        self.story.complete(op, outcome, commit_at=self.story.tick(), **details)

    def looked(self, *rows):
        op = self.story.invoke("member_offsets", "memberoffsetreader-1")
        self.story.complete(op, "ok", rows=[list(row) for row in rows])

    def place(self, f, member, generation=1, outcome="ok", **details):
        op = self.story.invoke(f, member, group="exact", member=member, place=["main", 0], generation=generation)
        self.story.complete(op, outcome, **details)

    def assigned(self, member, paused, generation=1):
        self.call("assignment", member, places=[["main", 0, generation, paused]])

    def end(self, committed=None, *work, group="exact"):
        self.story.log("a", "b")
        self.story.final("members", committed=[[group, "main", 0, committed]] if committed else [],
                         work=[[group, "main", 0, *row] for row in work])

    # ------------------------------------------------------------------
    # Exactly once
    # ------------------------------------------------------------------

    def test_good_run(self):
        self.join("m", 1)
        self.work("m", 1, (0, "a"))
        self.looked(("exact", "main", 0, 1))
        self.join("n", 2)
        self.work("m", 1, (1, "b"), outcome="fail")
        self.call("seek", "m")
        self.call("heartbeat", "m")
        self.work("n", 2, (1, "b"))
        self.looked(("exact", "main", 0, 2))
        self.story.final("drained_group", group="exact", left=[])
        self.end(2, (0, "a"), (1, "b"))
        self.assert_finds()

    def test_work_that_is_not_as_committed(self):
        for done in ([(0, "a"), (0, "a"), (1, "b")], [(0, "a")], [(0, "a"), (1, "b"), (2, "c")], [(0, "a"), (1, "x")]):
            self.setUp()
            self.join("m", 1)
            self.work("m", 1, (0, "a"), (1, "b"))
            self.end(2, *done)
            self.assert_finds("exactly_once_members")

    def test_what_has_left_the_log(self):
        self.story.log("a", "b")
        self.story.produce("c", topic="cut", at=5)
        op = self.story.invoke("member_work", "m", group="exact_kept", member="m")
        self.story.complete(op, "ok", takes=[["cut", 0, [[5, "c"]]]], generation=1, polled_at=self.story.tick(),
                            commit_at=self.story.tick())
        self.story.log(topic="cut", start=6)
        for done, kinds in (([(5, "c")], []), ([(5, "c"), (5, "c")], ["exactly_once_members"])):
            self.story.final("members", committed=[["exact_kept", "cut", 0, 6]], work=[["exact_kept", "cut", 0, *row] for row in done])
            self.assert_finds(*kinds)
            self.story.events.pop()

    def test_work_where_any_node_may_lead(self):
        self.story.events[0].update(nodes=True, leaders=True)
        self.story.events[2]["synchronous"] = "on"
        self.work("m", 1, (0, "a"), (1, "b"))
        self.end(2)
        self.story.log("g|exact|main|0|0|a", "g|exact|main|0|1|b", topic="worked")
        self.assert_finds()
        self.story.log("g|exact|main|0|1|b", topic="worked", partition=1)
        self.assert_finds("exactly_once_members")

    def test_passed_over(self):
        self.poll("m", 1, (1, "b"), group="apart")
        self.commit("m", 1, 2, group="apart")
        self.end(2, group="apart")
        self.assert_finds("passed_over")

    def test_polled_and_not_committed(self):
        self.poll("m", 1, (0, "a"), (1, "b"), group="apart")
        self.poll("n", 2, (0, "a"), (1, "b"), group="apart")
        self.commit("n", 2, 2, group="apart")
        self.end(2, group="apart")
        self.assert_finds()

    # ------------------------------------------------------------------
    # Owners
    # ------------------------------------------------------------------

    def test_two_owners(self):
        self.join("m", 1)
        self.join("n", 2)
        self.poll("m", 2, (0, "a"))
        self.poll("n", 2, (0, "a"))
        self.end()
        self.assert_finds("two_owners")

    def test_polled_after_another(self):
        self.join("m", 1)
        self.join("n", 2)
        self.poll("n", 2, (0, "a"))
        self.poll("m", 1, (0, "a"))
        self.end()
        self.assert_finds("two_owners")

    def test_polled_in_a_generation_that_is_lost(self):
        for outcome, kinds in (("info", []), ("ok", ["two_owners", "fenced_member"])):
            self.setUp()
            self.join("m", 1)
            self.join("n", 500, outcome=outcome)
            self.poll("n", 500, (0, "a"), outcome="info")
            self.story.restart()
            self.poll("m", 300, (0, "a"))
            self.commit("m", 300, 1)
            self.end(1, (0, "a"))
            self.assert_finds(*kinds)

    def test_a_group_that_begins_anew(self):
        self.join("m", 1)
        self.poll("m", 1, (0, "a"))
        self.call("leave_group", "m")
        self.join("n", 1)
        self.poll("n", 1, (0, "a"))
        self.end()
        self.assert_finds()

    def test_a_static_member_comes_back(self):
        self.join("m", 1, "exact_static", "i")
        self.poll("m", 1, (0, "a"), group="exact_static")
        self.join("n", 1, "exact_static", "i")
        for event in self.story.events:  # another life, but for the generation
            if event.get("generation") == 1:
                event["generation"] = 2
        self.poll("n", 2, (0, "a"), group="exact_static")
        self.end()
        self.assert_finds()
        self.call("heartbeat", "m", group="exact_static")
        self.assert_finds("fenced_member")

    def test_served_after_it_has_left(self):
        for outcome, kinds in (("ok", ["fenced_member"]), ("info", []), ("fail", [])):
            self.setUp()
            self.join("m", 1)
            self.call("leave_group", "m", outcome=outcome)
            self.call("call_again", "m")
            self.assert_finds(*kinds)

    def test_served_though_it_never_joined(self):
        self.join("m", 1, outcome="fail")
        self.call("call_again", "m")
        self.assert_finds("fenced_member")

    def test_served_after_it_was_removed(self):
        for f, outcome, kinds in (("heartbeat", "ok", ["fenced_member"]), ("heartbeat", "fail", []), ("remove_member", "ok", ["fenced_member"])):
            self.setUp()
            self.join("m", 1)
            self.call("remove_member", "m")
            self.call(f, "m", outcome=outcome)
            self.assert_finds(*kinds)

    def test_committed_after_it_was_removed(self):
        for takes, kinds in (([["main", 0, [[0, "a"]]]], ["fenced_member"]), ([], [])):
            self.setUp()
            self.join("m", 1)
            op = self.story.invoke("member_work", "m", group="exact", member="m")
            polled_at = self.story.tick()
            self.call("remove_member", "m")
            self.story.complete(op, "ok", takes=takes, generation=1, polled_at=polled_at, commit_at=self.story.tick())
            self.assert_finds(*kinds)

    def test_served_after_it_was_told(self):
        for outcome, fault, kinds in (("ok", False, ["fenced_member"]), ("ok", True, []), ("info", False, [])):
            self.setUp()
            self.join("m", 1, outcome=outcome)  # one that is on its way is known later
            self.call("heartbeat", "m", outcome="fail", error="TP003", message="")
            if fault:
                self.story.fault("kill_server")
            self.call("call_again", "m")
            self.assert_finds(*kinds)

    def test_committed_after_another_had_it(self):
        for generation, kinds in ((1, ["fenced_member"]), (3, [])):
            self.setUp()
            self.join("m", 1)
            self.poll("m", 1, (0, "a"), (1, "b"))
            self.join("n", 2)
            self.poll("n", 2, (0, "a"))
            self.commit("m", generation, 2)
            self.end(2, (0, "a"), (1, "b"))
            self.assert_finds(*kinds)

    def test_committed_what_was_taken(self):
        for outcome, restarts, kinds in (("ok", False, ["fenced_member"]), ("ok", True, []), ("fail", False, [])):
            self.setUp()
            self.join("m", 1)
            taken_at = self.story.tick()
            if restarts:
                self.story.restart()
            self.call("commit_taken", "m", outcome=outcome, offset=["main", 0, 1, 1], taken_at=taken_at)
            self.assert_finds(*kinds)

    def test_refused_for_nothing(self):
        for f, lives, kinds in (("heartbeat", "ok", ["refused_member"]), ("heartbeat", "fail", [])):
            self.setUp()
            self.join("m", 1)
            self.work("m", 1, (0, "a"), outcome="fail", error="TP002", message="")
            self.call(f, "m", outcome=lives)
            self.end()
            self.assert_finds(*kinds)

    def test_refused_what_it_has_polled(self):
        for polls_on, kinds in ((False, ["refused_member"]), (True, [])):
            self.setUp()
            self.join("m", 1)
            self.poll("m", 1, (0, "a"))
            if polls_on:
                op = self.story.invoke("member_poll", "m", group="exact", member="m")
                self.story.complete(op, "ok", takes=[], polled_at=self.story.tick())
            self.commit("m", 1, 1, outcome="fail", error="TP002", message="")
            self.call("heartbeat", "m")
            self.end()
            self.assert_finds(*kinds)

    def test_forgotten(self):
        for timeout, removed, kinds in ((10, None, ["forgotten_member"]), (10, "info", []), (10, "fail", ["forgotten_member"]), (2, None, [])):
            self.setUp()
            self.join("m", 1, timeout=timeout)
            if removed:
                self.call("remove_member", "m", outcome=removed)
            self.call("heartbeat", "m")
            self.call("heartbeat", "m", outcome="fail", error="TP003", message="")
            self.assert_finds(*kinds)

    def test_forgotten_where_any_node_may_lead(self):
        for fault, kinds in ((False, ["forgotten_member"]), (True, [])):
            self.setUp()
            self.story.events[0].update(nodes=True, leaders=True)
            self.join("m", 1, timeout=10)
            if fault:
                self.story.fault("leader_cut")
            self.call("heartbeat", "m", outcome="fail", error="TP003", message="")
            self.assert_finds(*kinds)

    def test_replaced(self):
        self.join("m", 1, "exact_static", "i", timeout=10)
        self.join("n", 1, "exact_static", "i", timeout=10)
        self.call("heartbeat", "m", outcome="fail", error="TP012", message="", group="exact_static")
        self.assert_finds()
        self.call("heartbeat", "n", outcome="fail", error="TP012", message="", group="exact_static")
        self.assert_finds("forgotten_member")

    # ------------------------------------------------------------------
    # Where leaders are spread
    # ------------------------------------------------------------------

    def poll_parts(self, member, *parts, f="member_poll", outcome="ok"):
        """Parts are partition, generation, offset, id."""
        op = self.story.invoke(f, member, group="spread", member=member)
        polled_at = self.story.tick()
        self.story.complete(op, outcome, takes=[["spread", partition, [[offset, id]]] for partition, _, offset, id in parts],
                            generations=[generation for _, generation, *_ in parts], polled_at=polled_at, commit_at=self.story.tick())

    def commit_part(self, member, partition, generation, offset, **details):
        op = self.story.invoke("member_commit", member, group="spread", member=member, offsets=[["spread", partition, offset, generation]])
        self.story.complete(op, details.pop("outcome", "ok"), commit_at=self.story.tick(), **details)

    def test_generations_of_leader_sets(self):
        self.join("m", 1, "spread")
        self.join("n", 7, "spread")
        self.poll_parts("m", (0, 7, 0, "a"), (1, 2, 0, "b"))
        self.poll_parts("n", (2, 1, 0, "c"), (3, 2, 0, "d"))
        self.commit_part("m", 1, 2, 1)
        self.poll_parts("n", (0, 8, 1, "e"))
        self.assert_finds()
        self.commit_part("m", 1, 2, 1)
        self.commit_part("n", 0, 8, 2)
        self.assert_finds()
        self.commit_part("m", 0, 7, 2)
        self.assert_finds("fenced_member")

    def test_two_owners_in_a_leader_set(self):
        for joins_first, kinds in ((True, ["two_owners"]), (False, [])):
            self.setUp()
            self.join("m", 1, "spread")
            if joins_first:
                self.join("n", 1, "spread")
            self.poll_parts("m", (0, 1, 0, "a"))
            if not joins_first:  # another life
                self.join("n", 1, "spread")
            self.poll_parts("n", (0, 1, 0, "a"))
            self.assert_finds(*kinds)

    def test_polled_after_another_in_a_leader_set(self):
        for joins_first, kinds in ((True, ["two_owners"]), (False, [])):
            self.setUp()
            self.join("m", 5, "spread")
            if joins_first:
                self.join("n", 5, "spread")
            self.poll_parts("m", (0, 5, 0, "a"))
            if not joins_first:
                self.join("n", 1, "spread")
            self.poll_parts("n", (0, 1, 0, "a"))
            self.assert_finds(*kinds)

    def test_committed_after_it_took_over_again(self):
        """In a generation that it had before: the leader set has had another life meanwhile."""
        for generation, kinds in ((1, ["fenced_member"]), (9, [])):
            self.setUp()
            self.join("m", 1, "spread")
            self.poll_parts("m", (0, 1, 0, "a"))
            self.join("n", 5, "spread")
            self.poll_parts("n", (0, 5, 0, "a"))
            self.commit_part("n", 0, 5, 1)
            self.call("leave_group", "n", group="spread")
            self.commit_part("m", 0, generation, 1)
            self.assert_finds(*kinds)

    def test_generation_that_is_lost_in_a_leader_set(self):
        for partition, kinds in ((1, []), (0, ["two_owners"])):
            self.setUp()
            self.story.events[0].update(nodes=True, leaders=True)
            self.story.events[2]["synchronous"] = "on"
            self.join("m", 1, "spread")
            self.join("n", 500, "spread")
            self.poll_parts("n", (0, 500, 0, "a"))
            self.commit_part("n", partition, 500, 1)  # a generation of another leader set does not say that this one lasts
            self.poll_parts("m", (0, 300, 0, "a"))
            self.assert_finds(*kinds)

    def test_left_and_served_where_a_leader_set_had_gone(self):
        for fault, kinds in ((False, ["fenced_member"]), (True, [])):
            self.setUp()
            self.join("m", 1, "spread")
            self.call("leave_group", "m", group="spread")
            if fault:
                self.story.fault("leader_moved")
            self.call("call_again", "m", group="spread")
            self.assert_finds(*kinds)

    def test_told_by_a_node(self):
        for node, kinds in (("a", ["fenced_member"]), ("b", [])):
            self.setUp()
            self.join("m", 1, "spread")
            for outcome, at, details in (("fail", "a", {"error": "TP003", "message": ""}), ("ok", node, {})):
                op = self.story.invoke("heartbeat", "m", group="spread", member="m", node=at)
                self.story.complete(op, outcome, **details)
            self.assert_finds(*kinds)

    def test_refused_in_a_leader_set(self):
        for timeout, fault, kinds in ((10, False, ["refused_member"]), (10, True, []), (0, False, [])):
            self.setUp()
            self.join("m", 1, "spread", timeout=timeout)
            self.poll_parts("m", (0, 1, 0, "a"), (1, 3, 0, "b"))
            if fault:
                self.story.fault("leader_moved")
            self.commit_part("m", 1, 3, 1, outcome="fail", error="TP002", message="")
            self.call("heartbeat", "m", group="spread")
            self.assert_finds(*kinds)

    def test_work_where_leaders_are_spread(self):
        self.story.events[0].update(nodes=True, leaders=True, spread=True)
        self.story.events[2]["synchronous"] = "on"
        self.poll_parts("m", (0, 1, 0, "a"), f="member_work")
        self.story.log("a", "b")
        self.story.log("a", topic="spread")
        self.story.final("members", committed=[["spread", "spread", 0, 1]], work=[])
        self.story.log("g|spread|spread|0|0|a", topic="worked_spread")
        self.assert_finds()
        self.story.log("g|spread|spread|0|0|a", topic="worked_spread", partition=1)
        self.assert_finds("exactly_once_members")

    # ------------------------------------------------------------------
    # What is paused
    # ------------------------------------------------------------------

    def test_paused(self):
        self.assigned("m", False)
        self.place("pause", "m")
        self.assigned("m", True)
        self.place("resume", "m")
        self.poll("m", 1, (0, "a"))
        self.place("pause", "m")
        self.poll("m", 2, (1, "b"))  # it may have been another one's
        self.place("resume", "m", outcome="info")
        self.assigned("m", True)
        self.assigned("m", False)
        self.assert_finds()

    def test_polled_though_it_is_paused(self):
        for fault, kinds in ((False, ["paused"]), (True, [])):
            self.setUp()
            self.place("pause", "m")
            if fault:
                self.story.fault("kill_server")
            self.poll("m", 1, (0, "a"))
            self.assert_finds(*kinds)

    def test_not_paused_any_more(self):
        self.place("pause", "m")
        self.assigned("m", False, generation=2)
        self.assert_finds()
        self.assigned("m", False)
        self.assert_finds("paused")

    def test_paused_for_nothing(self):
        self.assigned("m", True)
        self.assert_finds("paused")

    def test_not_resumed(self):
        self.place("pause", "m")
        self.place("resume", "m")
        self.assigned("m", True, generation=2)
        self.assert_finds("paused")

    def test_topic_that_was_made(self):
        self.story.log("a", "b")
        self.story.produce("c", topic="fresh_0", at=0)
        op = self.story.invoke("member_work", "m", group="exact_pattern", member="m")
        self.story.complete(op, "ok", takes=[["fresh_0", 0, [[0, "c"]]]], generation=1, polled_at=self.story.tick(),
                            commit_at=self.story.tick())
        self.story.log("c", topic="fresh_0")
        for done, kinds in (([(0, "c")], []), ([], ["exactly_once_members"])):
            self.story.final("members", committed=[["exact_pattern", "fresh_0", 0, 1]],
                             work=[["exact_pattern", "fresh_0", 0, *row] for row in done])
            self.assert_finds(*kinds)
            self.story.events.pop()

    # ------------------------------------------------------------------
    # Offsets
    # ------------------------------------------------------------------

    def test_offset_that_goes_back(self):
        self.poll("m", 1, (0, "a"), (1, "b"))
        self.commit("m", 1, 1)
        self.commit("m", 1, 2)
        self.looked(("exact", "main", 0, 1))
        self.end(2, (0, "a"), (1, "b"))
        self.assert_finds("member_offset")

    def test_offset_that_was_not_confirmed(self):
        for promotion, kinds in ((True, []), (False, ["member_offset"])):
            self.setUp()
            self.story.events[0]["standby"] = True
            self.poll("m", 1, (0, "a"), (1, "b"))
            self.commit("m", 1, 1)
            self.commit("m", 1, 2, outcome="info")
            self.looked(("exact", "main", 0, 2))
            self.story.restart(promotion=promotion)
            self.looked(("exact", "main", 0, 1))
            self.end(1, (0, "a"))
            self.assert_finds(*kinds)

    def test_offset_that_nobody_has_committed(self):
        self.poll("m", 1, (0, "a"), (1, "b"))
        self.commit("m", 1, 1, outcome="fail", error="TP003", message="")
        self.looked(("exact", "main", 0, 1))
        self.end()
        self.assert_finds("member_offset")

    def test_offset_beyond_the_end(self):
        self.poll("m", 1, (0, "a"), (1, "b"))
        self.commit("m", 1, 3)
        self.end(3, (0, "a"), (1, "b"))
        self.assert_finds("member_offset")

    # ------------------------------------------------------------------
    # The end
    # ------------------------------------------------------------------

    def test_left(self):
        for left in (None, [["main", 0, 1, 2, 1, "m"]], [["main", 0, 2, 2, 0, None]]):
            self.setUp()
            self.story.final("drained_group", group="exact", left=left)
            self.assert_finds("unowned")

    def test_errors(self):
        self.call("call_again", "m", outcome="fail", error="TP003", message="")
        self.call("member_commit", "m", outcome="fail", error="TP002", message="", offsets=[])
        self.assert_finds()
        self.call("remove_member", "m", outcome="fail", error="TP003", message="")
        self.assert_finds()
        self.call("member_poll", "m", outcome="fail", error="TP002", message="")
        self.assert_finds("unexpected_error")

    def test_errors_of_places(self):
        self.place("pause", "m", outcome="fail", error="55000", message="")
        self.assert_finds("unexpected_error")
        self.story.fault("kill_server")
        self.assert_finds()


if __name__ == "__main__":
    unittest.main()
