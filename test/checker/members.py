"""Members of consumer groups, who come, go, die and are silent for too long.

What must hold of them is in checks_members.py.  The groups are in GROUPS.  In
those that are "exact" poll(), a row per record in the table "member_work",
which has no constraint that would mend anything, and commit_offset() are one transaction;
in others poll() is one, and commit_offset() another.  One group has no topics, but a
pattern, of topics that are made meanwhile.
"""

import re
import signal
import time

import psycopg2
from leaders import NODES, PLACES, AtLeader, LeaderProducer
from workload import (AGED, CUT, FRESH, LOADED, SOURCE, SPREAD, STATE, WORKED, WORKED_SPREAD, Client, Producer, identify,
                      payload)


class Kind:
    """What the members of a group have in common."""

    def __init__(self, topics, assignor, exact=True, static=False, pattern=None, spread=False):
        self.topics = topics  # that are there from the start
        self.pattern = pattern  # or None: they are named
        self.assignor = assignor
        self.exact = exact
        self.static = static
        self.spread = spread  # of topics whose leaders are spread: generations are each leader set's


GROUPS = {
    "exact": Kind(LOADED, "cooperative-sticky"),
    "exact_kept": Kind((AGED, CUT, STATE), "range"),
    "exact_static": Kind((SOURCE,), "sticky", static=True),
    "exact_pattern": Kind(("second",), "cooperative-sticky", pattern=f"second|{FRESH}.*"),
    "apart": Kind((SOURCE, STATE), "roundrobin", exact=False),
    "spread": Kind((SPREAD,), "cooperative-sticky", spread=True),
    "spread_apart": Kind((SPREAD,), "roundrobin", exact=False, spread=True),
}
OF_ONE_LEADER = tuple(group for group, kind in GROUPS.items() if not kind.spread)

UNKNOWN_MEMBER, ILLEGAL_GENERATION, OUT_OF_RANGE = ("TP003", "TP012"), "TP002", "TP001"
DRAIN = 60  # seconds at most for the last one of a group to read to the end


class Member(Client):
    think = 0.12
    group = "exact"
    limit = 60
    rollback = 0.1
    die = 0.04  # before the reply to COMMIT, or before COMMIT
    silent = 0.02  # for longer than it may
    leave = 0.03
    pausing = 0.04  # pauses or resumes a partition
    late = 0.5  # part of steps in which what was polled is not yet committed
    sleep = 0.1
    stale = 0.3  # part of its former lives that call again
    timeouts = (1.0, 2.0)  # seconds of silence that it may have

    def __init__(self, context, name, **options):
        super().__init__(context, name, **options)
        self.kind = GROUPS[self.group]
        self.instance = name if self.kind.static else None
        self.member = None
        self.former = None  # an id that is no member any more
        self.replaced = None  # one that will be none when another one has joined in its place
        self.lost_place = False  # what was polled may be lost, and is not committed
        self.pending = []  # [topic, partition, offset, generation] to be committed, where that is apart
        self.taken = []  # of those that were pending: the member has lost the partition, and may have got it again
        self.taken_at = None
        self.timeout = 1.0

    def step(self):
        choice = self.random.random()
        if self.former and choice < self.stale:
            self.call_again()
        elif self.member is None:
            self.join_group()
        elif self.lost_place:
            self.seek()
        elif choice > 1 - self.leave:
            self.go()
        elif choice > 1 - self.leave - self.silent:
            self.context.stop.wait(2 * self.timeout)
        elif choice > 1 - self.leave - self.silent - self.pausing:
            self.pause_or_resume()
        elif self.kind.exact:
            self.work()
        elif self.taken and self.random.random() < 0.2:
            self.commit_taken()
        elif self.pending and self.random.random() >= self.late:
            self.commit_pending()
        else:
            self.poll_only()

    # ------------------------------------------------------------------
    # What it is
    # ------------------------------------------------------------------

    def perform(self, f, body, **plan):
        """Who is no member is told so, and joins again; who does not know what was committed seeks."""
        told = {}

        def body_and_look(answer):
            told["answer"] = answer
            return body(answer)
        answer = super().perform(f, body_and_look, group=self.group, **plan)
        if answer is None:
            if f in ("member_work", "member_poll", "member_commit", "seek"):
                self.lost_place = True
                self.pending = []
            if told["answer"].get("error") in UNKNOWN_MEMBER and plan.get("member") == self.member:
                self.former, self.member = self.member, None
        return answer

    def alone(self):
        """Waits for the end of its own last session, whose COMMIT may be under way."""
        self.query("SELECT pg_advisory_xact_lock(hashtext(%s))", self.name)

    def join_group(self):
        roll_back = self.random.random() < 0.05
        self.timeout = self.random.uniform(*self.timeouts)

        def body(answer):
            self.begin()
            (answer["member"], answer["generation"]), = self.query(
                "SELECT * FROM topics.join_group(%s, %s, %s, %s, session_timeout => %s, group_instance_id => %s)", self.group,
                None if self.kind.pattern else list(self.kind.topics), self.kind.assignor, self.kind.pattern, f"{self.timeout} s",
                self.instance)
            answer["joined_at"] = self.history.now()  # in the order of the joins: each waits for the one before
            if roll_back:
                self.former = answer["member"]
                self.query("ROLLBACK")
                return "fail"
            self.member = answer["member"]  # unless the connection is lost before COMMIT: it will be told
            self.commit()
            return "ok"
        self.pending, self.taken = [], []
        if self.perform("join_group", body, instance=self.instance, timeout=self.timeout, planned_rollback=roll_back):
            self.lost_place = False
            self.former, self.replaced = self.replaced or self.former, None

    def go(self):
        """Leaves, or thinks better of it."""
        member, roll_back = self.member, self.random.random() < 0.2

        def body(answer):
            self.begin()
            self.query("SELECT topics.leave_group(%s)", member)
            if roll_back:
                self.query("ROLLBACK")
                return "fail"
            self.commit()
            return "ok"
        if self.perform("leave_group", body, member=member, planned_rollback=roll_back):
            self.former = member
            self.member = None

    def call_again(self):
        """As one who is no member: all is refused."""
        member, self.former = self.former, None
        call = self.random.choice(("heartbeat", "poll", "commit_offset", "leave_group"))

        def body(answer):
            self.begin()
            if call == "commit_offset":
                topic = self.kind.topics[0]
                committed = self.committed(topic, 0)
                self.query("SELECT topics.commit_offset(%s, %s, 0, %s, member_id => %s, generation_id => 1)", self.group, topic,
                           committed, member)
            else:
                self.query(f"SELECT topics.{call}(%s)", member)
            self.commit()
        self.perform("call_again", body, member=member, call=call)

    def lie_down(self):
        """Dies, or its connection does: the next one is another member, or goes on."""
        if self.random.random() < 0.5:
            self.replaced = self.member if self.instance else None
            self.member = None

    # ------------------------------------------------------------------
    # Where it is
    # ------------------------------------------------------------------

    def committed(self, topic, partition):
        """What is committed, or where the log begins."""
        rows = self.query("SELECT greatest(log_start_offset, committed_offset) FROM topics.partition LEFT JOIN"
                          " (SELECT * FROM topics.consumer_offset WHERE group_id = %s) o USING (topic, partition)"
                          " WHERE topic = %s AND partition = %s", self.group, topic, partition)
        return rows[0][0]

    def seek(self):
        """Goes back to what is committed, in what it has: nobody else commits there meanwhile."""
        def body(answer):
            self.begin()
            self.alone()
            for topic, partition, position in self.query("SELECT topic, partition, position FROM topics.assignment(%s)", self.member):
                if position is not None:
                    self.query("SELECT topics.seek(%s, %s, %s, %s)", self.member, topic, partition, self.committed(topic, partition))
            self.commit()
        if self.perform("seek", body, member=self.member):
            self.lost_place = False

    def look(self):
        """The partitions that it has, each with a generation, and whether it is paused; or None."""
        def body(answer):
            answer["places"] = self.query("SELECT topic, partition, generation_id, paused FROM topics.assignment(%s)", self.member)
        answer = self.perform("assignment", body, member=self.member)
        return answer and answer["places"]

    def pause_or_resume(self):
        """At once, whatever becomes of the transaction."""
        places = self.look()
        if places:
            stopped = [place for place in places if place[-1]]
            topic, partition, generation, paused = self.random.choice(stopped if stopped and self.random.random() < 0.5 else places)
            self.change_place("resume" if paused else "pause", topic, partition, generation)

    def change_place(self, call, topic, partition, generation):
        roll_back = self.random.random() < 0.3

        def body(answer):
            self.begin()
            self.query(f"SELECT topics.{call}(%s, %s, %s)", self.member, topic, partition)
            self.query("ROLLBACK" if roll_back else "COMMIT")
        return self.perform(call, body, member=self.member, place=[topic, partition], generation=generation)

    # ------------------------------------------------------------------
    # Work
    # ------------------------------------------------------------------

    def poll(self, answer, limit):
        max_wait = self.random.choice((0, 0, 0, 0.3))
        rows = self.query('SELECT topic, partition, "offset", value, generation_id FROM topics.poll(%s, %s, max_wait => %s)',
                          self.member, limit, f"{max_wait} s")
        answer["polled_at"] = self.history.now()
        takes = {}
        for topic, partition, offset, value, generation in rows:
            takes.setdefault((topic, partition), ([], generation))[0].append([offset, identify(value)])
        answer["takes"] = [[topic, partition, taken] for (topic, partition), (taken, _) in takes.items()]
        answer["generations"] = [generation for _, generation in takes.values()]  # all the same, but where leaders are spread

    def do(self, takes):
        for topic, partition, rows in takes:
            self.query("INSERT INTO member_work SELECT %s, %s, %s, * FROM unnest(%s::bigint[], %s::text[])", self.group, topic,
                       partition, [offset for offset, _ in rows], [id for _, id in rows])

    def work(self):
        """Poll, work and commit in one transaction."""
        member = self.member
        limit = self.random.randint(1, self.limit)
        isolation = self.random.choices((None, "REPEATABLE READ"), (90, 10))[0]
        too_late = self.random.random() < self.silent
        choice = self.random.random()
        end = "rollback" if choice < self.rollback else \
            self.random.choice(("die", "vanish", "killed")) if choice < self.rollback + self.die else "commit"

        def body(answer):
            self.begin(isolation)
            self.alone()
            self.poll(answer, limit)
            self.do(answer["takes"])
            for (topic, partition, rows), generation in zip(answer["takes"], answer["generations"]):
                self.query("SELECT topics.commit_offset(%s, %s, %s, %s, member_id => %s, generation_id => %s)", self.group, topic,
                           partition, rows[-1][0] + 1, member, generation)
            if self.random.random() < self.sleep:
                time.sleep(self.random.uniform(0, 0.3))
            if too_late:
                self.context.stop.wait(2 * self.timeout)
            if end in ("rollback", "vanish", "die"):
                return self.end_otherwise(end)
            if end == "killed":
                self.context.server.send(self.connection.info.backend_pid, signal.SIGTERM)
            self.commit()
            return "ok"
        self.perform("member_work", body, member=member, isolation=isolation, planned_end=end, exact=True)
        if end in ("die", "vanish", "killed"):
            self.lie_down()

    def poll_only(self):
        """
        Polls, and commits later, or never.  What was polled in a transaction that is rolled back was polled, and may be
        committed in another.
        """
        member = self.member
        limit = self.random.randint(1, self.limit)
        roll_back = self.random.random() < self.rollback

        def body(answer):
            self.begin()
            self.alone()
            self.poll(answer, limit)
            self.query("ROLLBACK" if roll_back else "COMMIT")
        answer = self.perform("member_poll", body, member=member, exact=False)
        if not answer:
            return
        for (topic, partition, rows), generation in zip(answer["takes"], answer["generations"]):
            self.pending = [row for row in self.pending if row[:2] != [topic, partition]]
            self.pending.append([topic, partition, rows[-1][0] + 1, generation])
        if self.pending and self.random.random() < 0.4:
            self.look_for_taken()
        if not answer["takes"] and self.random.random() < 0.3:
            self.wait()
        if self.random.random() < self.die / 2:
            self.disconnect()
            self.pending = []
            self.lost_place = True
            self.lie_down()

    def commit_pending(self):
        offsets = self.pending

        def body(answer):
            self.begin()
            self.alone()
            for topic, partition, offset, generation in offsets:
                self.query("SELECT topics.commit_offset(%s, %s, %s, %s, member_id => %s, generation_id => %s)", self.group, topic,
                           partition, offset, self.member, generation)
            self.commit()
        if self.perform("member_commit", body, member=self.member, offsets=offsets):
            self.pending = []

    def look_for_taken(self):
        """What it has polled, and may not commit any more: the partition is not its own, though it may be once more."""
        places = self.look()
        if places is not None:
            has = [[topic, partition] for topic, partition, *_ in places]
            taken = [row for row in self.pending if row[:2] not in has]
            if taken:
                self.taken, self.taken_at = taken, self.history.now()
                self.pending = [row for row in self.pending if row not in taken]

    def commit_taken(self):
        topic, partition, offset, generation = row = self.random.choice(self.taken)

        def body(answer):
            self.begin()
            self.query("SELECT topics.commit_offset(%s, %s, %s, %s, member_id => %s, generation_id => %s)", self.group, topic,
                       partition, offset, self.member, generation)
            self.commit()
        self.perform("commit_taken", body, member=self.member, offset=row, taken_at=self.taken_at)
        if self.random.random() < 0.2:
            self.taken = []

    def wait(self):
        seconds = self.random.uniform(0, 2)
        self.perform("poll_wait", lambda answer: self.query("CALL topics.poll_wait(%s, %s)", self.member, f"{seconds:.3f} s") and None,
                     member=self.member, seconds=seconds)

    # ------------------------------------------------------------------
    # The end
    # ------------------------------------------------------------------

    # also of partitions that the group does not know of
    LEFT = ("SELECT topic, partition, current_offset, p.log_end_offset, lag, consumer_id FROM topics.partition p LEFT JOIN"
            " (SELECT * FROM topics.consumer_lag WHERE group_id = %s) l USING (topic, partition)"
            " WHERE topic ~ %s AND (lag > 0 OR consumer_id IS NULL)")
    OTHERS = "SELECT count(*) FROM topics.group_member WHERE group_id = %s AND member_id <> %s"

    def drain(self):
        """
        After the load: one of each group reads to the end; then all partitions are some member's, and nothing is left.  Who
        has a pattern then gets one more topic, though no member comes or goes.
        """
        if self.group in self.context.drained:
            return
        self.context.drained.add(self.group)
        self.rollback = self.die = self.silent = self.leave = self.stale = self.sleep = self.pausing = 0
        self.limit = 1000
        self.read_to_end()
        if self.kind.pattern and self.is_alone():
            self.make_last_topic()
            self.read_to_end()
        self.disconnect()

    def until(self, condition):
        """Works on until a condition, which may be None as long as it is not known; the result is the last one."""
        deadline = time.monotonic() + DRAIN
        result = None
        while not result and time.monotonic() < deadline:
            if not self.connect():
                continue
            self.step()
            if self.pending:
                self.commit_pending()
            try:
                result = condition() if self.connection and self.member else None
            except psycopg2.Error:
                if not self.connection.closed:
                    raise
                self.disconnect()
            time.sleep(0.02)
        return result

    def read_to_end(self):
        pattern = f"^({self.kind.pattern or '|'.join(self.kind.topics)})$"
        left = None

        def is_at_end():
            nonlocal left
            left = self.query(self.LEFT, self.group, pattern)
            if left:
                for topic, partition, generation, paused in self.look() or ():
                    if paused:
                        self.change_place("resume", topic, partition, generation)
            return not left
        self.until(is_at_end)
        self.history.event("final", what="drained_group", group=self.group, left=left)

    def is_alone(self):
        """Others have been silent for too long by now."""
        return self.until(lambda: self.query(self.OTHERS, self.group, self.member)[0][0] == 0)

    def make_last_topic(self):
        topic, id = f"{FRESH}last", f"last.{self.name}"

        def body(answer):
            self.begin()
            self.query("SELECT topics.create_topic(%s, 1)", topic)
            self.query("SELECT topics.produce(%s, %s, partition => 0)", topic, payload(id))
            self.commit()
        self.perform("produce", body, records=[[topic, 0, id, True]], synchronous="on")


class LeaderMember(AtLeader, Member):
    """Tables are each node's own: what a group has done is what it has produced."""

    def do(self, takes):
        values = [f"g|{self.group}|{topic}|{partition}|{offset}|{id}" for topic, partition, rows in takes for offset, id in rows]
        if values:
            self.query("SELECT topics.produce_batch(%s, %s, partition => %s)", WORKED, values, len(values) % 2)


class SpreadMember(LeaderMember):
    """
    Of a topic whose leaders are spread: it joins at one of the nodes that lead a part of it, of which each is some
    program's.  Where that leads no more what it had, it calls at the node that does; who has no node any more, or finds
    that another one is to be its own, joins there.
    """

    group = "spread"
    topics = (SPREAD,)
    look_around = 0.06  # part of steps
    by_message = 0.5  # part of refusals after which it goes where the message says

    def __init__(self, context, name, **options):
        super().__init__(context, name, **options)
        self.number = int(name.rpartition("-")[2])
        self.at = None  # the node that it calls
        self.had = set()  # partitions that it polled last

    def leaders(self):
        """{partition: node that leads it}, as some node says."""
        for node in self.random.sample(NODES, len(NODES)):
            try:
                connection = self.context.server.connect_to_node(self.name, node)
                try:
                    cursor = connection.cursor()
                    cursor.execute(PLACES, self.topics)
                    places = dict(cursor.fetchall())
                finally:
                    connection.close()
            except psycopg2.Error:
                continue
            if places:
                return places
        raise psycopg2.OperationalError("no node knows who leads")

    def own_node(self):
        """That it is to join at."""
        nodes = sorted(set(self.leaders().values()))
        return nodes[self.number % len(nodes)]

    def open(self):
        if self.at is None and self.member and self.had:
            places = self.leaders()
            self.at = self.random.choice([places.get(partition) for partition in sorted(self.had)])
        if self.at is None:
            self.at = self.own_node()
        try:
            connection = self.context.server.connect_to_node(self.name, self.at)
        except psycopg2.Error:
            self.at = None
            raise
        return connection

    def join_group(self):
        self.had = set()
        super().join_group()

    def perform(self, f, body, **plan):
        answer = super().perform(f, body, node=self.at, **plan)
        if answer and answer.get("takes"):
            self.had = {partition for _, partition, _ in answer["takes"]}
        return answer

    def _outcome_of(self, error, answer):
        outcome = super()._outcome_of(error, answer)
        if error.pgcode == "TP004":
            named = re.search(r'node "(\w)" leads', str(error))
            self.at = named[1] if named and self.random.random() < self.by_message else None
        elif not self.connection:
            self.at = None  # looks who leads, though that may be the same one
        return outcome

    def step(self):
        if self.random.random() < self.look_around:
            return self.find_own_node()
        return super().step()

    def find_own_node(self):
        """
        It is to be at another one: leaves, or is silent here from now on; or stays, which others may, too.  Who has not polled
        anything may have joined where nothing is led any more.
        """
        try:
            node = self.own_node()
        except psycopg2.Error:
            return
        if node == self.at or self.random.random() < 0.3:
            return
        if self.member and self.random.random() < 0.6:
            self.go()
        self.member = self.former = None
        self.had = set()
        self.disconnect()
        self.at = node

    def call_again(self):
        super().call_again()
        self.former = None

    def do(self, takes):
        for topic, partition, rows in takes:
            self.query("SELECT topics.produce_batch(%s, %s, partition => %s)", WORKED_SPREAD,
                       [f"g|{self.group}|{topic}|{partition}|{offset}|{id}" for offset, id in rows], partition)

    def drain(self):
        self.look_around = 0
        super().drain()


class Remover(Client):
    """An operator, who removes members; and now and then one that is none any more, which is refused."""

    think = 1.5
    groups = tuple(GROUPS)
    again = 0.2

    def __init__(self, context, name, **options):
        super().__init__(context, name, **options)
        self.removed = []  # [group, member]

    def step(self):
        if self.removed and self.random.random() < self.again:
            return self.remove(*self.random.choice(self.removed))
        rows = []
        try:
            rows = self.query("SELECT group_id, member_id FROM topics.group_member WHERE group_id = ANY (%s) ORDER BY 1, 2",
                              list(self.groups))
        except psycopg2.Error:
            self.disconnect()
        if rows:
            self.remove(*self.random.choice(rows), roll_back=self.random.random() < 0.2)

    def remove(self, group, member, roll_back=False):
        def body(answer):
            self.begin()
            self.query("SELECT topics.remove_member(%s, %s)", group, member)
            if roll_back:
                self.query("ROLLBACK")
                return "fail"
            self.commit()
            return "ok"
        if self.perform("remove_member", body, group=group, member=member, planned_rollback=roll_back):
            self.removed.append([group, member])


class LeaderRemover(AtLeader, Remover):
    pass


class TopicMaker(Producer):
    """Makes topics that members have a pattern of, and produces to them."""

    think = 0.3
    make = 0.15
    with_record = 0.5  # part of topics that are made with a first record
    most = 8
    side = 0
    modes = {"on": 1}
    kinds = {"single": 30, "send": 10, "batch": 30, "transaction": 30}

    def __init__(self, context, name, **options):
        super().__init__(context, name, **options)
        self.prefix = "f" + self.prefix
        self.topics = []

    def step(self):
        if self.topics and (len(self.topics) >= self.most or self.random.random() >= self.make):
            return super().step()
        self.transactions += 1
        self.records = []
        return self.make_topic()

    def make_topic(self):
        """What it has no answer for it makes again."""
        number = len(self.topics)
        topic, partitions = f"{FRESH}{number}", 1 + number % 2
        if self.random.random() < self.with_record:
            self.add(topic, 0)

        def body(answer):
            self.begin()
            self.query("SELECT topics.create_topic(%s, %s, segment_bytes => 65536, retention_time => '-1 s', if_not_exists => true)",
                       topic, partitions)
            for _, partition, id, _ in self.records:
                self._produce(topic, partition, [id])
            self.commit()
        if self.perform("produce", body, records=self.records, makes=topic):
            self.context.partitions[topic] = partitions
            self.topics.append(topic)


class LeaderTopicMaker(LeaderProducer, TopicMaker):
    """Administration waits for no follower: a topic stays for certain when a record of it is acknowledged."""

    with_record = 1


class MemberOffsetReader(Client):
    """Looks at what members have committed."""

    think = 0.25

    def step(self):
        def body(answer):
            answer["rows"] = self.query("SELECT group_id, topic, partition, committed_offset FROM topics.consumer_offset"
                                        " WHERE group_id = ANY (%s)", list(GROUPS))
        self.perform("member_offsets", body)
