"""Clients of topics that records leave, each for one reason.

SIZED and AGED lose records by policy, CUT by delete_records() alone, STATE by
compaction, TRIMMED by both of the latter.  What must hold of them is in checks_keeping.py.
"""

import time

import psycopg2

from workload import (CUT, KEPT, KEYS, LARGE, SIZED, STATE, TOPICS, TRIMMED, Client, PartitionReader, identify,
                      payload)


class Keeper(PartitionReader):
    """Deletes records, rolls, maintains; and looks at both ends of logs that records leave."""

    think = 0.3
    works = {"bounds": 6, "delete": 3, "roll": 2, "maintain": 1}
    rolled = (*KEPT, STATE, STATE)

    def step(self):
        work = self.random.choices(list(self.works), list(self.works.values()))[0]
        getattr(self, work)()

    def bounds(self, topic=None):
        """Where logs start and end, and what SIZED keeps; {partition: (start, end)}."""
        topic = topic or self.random.choice((*KEPT, STATE))
        kept = ("SELECT coalesce(sum(size_bytes), 0)::bigint FROM topics.segment"
                " WHERE topic = %s AND partition = 0 AND state <> 'deleted'")

        def body(answer):
            answer["bounds"] = self.query("SELECT partition, log_start_offset, log_end_offset FROM topics.partition"
                                          " WHERE topic = %s ORDER BY 1", topic)
            if topic == SIZED:  # a look may miss a segment that has just been made
                answer["bytes"] = max(self.query(kept, topic)[0][0] for _ in range(2))
        answer = self.perform("bounds", body, topic=topic)
        return answer and {partition: (start, end) for partition, start, end in answer["bounds"]}

    def delete(self):
        bounds = self.bounds(CUT)
        if not bounds:
            return
        partition, (start, end) = self.random.choice(list(bounds.items()))
        kind = self.random.choices(("within", "lower", "end", "beyond"), (10, 2, 1, 1))[0]
        before = {"within": self.random.randint(start, start + (end - start) // 2), "lower": start // 2,
                  "end": -1, "beyond": end + 1000000}[kind]
        roll_back = self.random.random() < 0.2

        def body(answer):
            self.begin()
            answer["start"] = self.query("SELECT topics.delete_records(%s, %s, %s)", CUT, partition, before)[0][0]
            if roll_back:
                self.query("ROLLBACK")
                return "fail"
            self.commit()
            return "ok"
        self.perform("delete", body, topic=CUT, partition=partition, before=before, beyond=kind == "beyond")

    def roll(self):
        self.administer("roll", "CALL topics.roll_segment(%s)", self.random.choice(self.rolled))

    def maintain(self):
        self.administer("maintain", "CALL topics.maintain(%s)", self.random.choice((*KEPT, STATE)))

    def administer(self, work, sql, topic):
        def body(answer):
            self.query("SET lock_timeout = '3s'")
            self.query(sql, topic)
        self.perform("admin", body, work=work, topic=topic)


class KeptReader(PartitionReader):
    """Reads logs that records leave: on from where it was, or from any offset that there ever was."""

    think = 0.1
    limit = 60

    def __init__(self, context, name, **options):
        super().__init__(context, name, **options)
        self.positions = {}

    def step(self):
        self.topic = self.random.choice(KEPT)
        partition = self.random.randrange(self.context.partitions[self.topic])
        key = self.topic, partition
        position = self.positions.get(key, 0)
        how = self.random.choices(("fetch", "select", "scan"), (8, 2, 1))[0]
        start = position if self.random.random() < 0.6 else self.random.randint(0, position)
        isolation = self.random.choice((None, None, "REPEATABLE READ"))
        records = self.read(partition, start, self.limit, how, isolation)
        if records:
            self.positions[key] = max(position, records[-1][0] + 1)
        elif records is None and self.connection:  # out of range: on from the log start
            ends = self.starts()
            if ends:
                self.positions[key] = max(position, ends.get(partition, 0))

    def starts(self):
        def body(answer):
            answer["bounds"] = [[partition, offset, None] for partition, offset in self.query(
                'SELECT partition, "offset" FROM topics.list_offsets(%s, %s)', self.topic, "earliest")]
        answer = self.perform("bounds", body, topic=self.topic)
        return answer and {partition: start for partition, start, _ in answer["bounds"]}


class StateProducer(Client):
    """Few keys, each in a partition of its own choice, and tombstones: [partition, key, id], null for a tombstone."""

    think = 0.03
    rollback = 0.1
    die = 0.02
    tombstones = 0.15
    large = 0.003

    def __init__(self, context, name, **options):
        super().__init__(context, name, **options)
        self.transactions = 0

    def step(self):
        self.transactions += 1
        records = []
        for number in range(self.random.randint(1, 8)):
            key = self.random.randrange(KEYS)
            tombstone = self.random.random() < self.tombstones
            id = f"s{self.name.rpartition('-')[2]}.{self.transactions}.{number}"
            if self.random.random() < self.large:
                id += LARGE
            records.append([key % TOPICS[STATE], f"k{key}", None if tombstone else id])
        end = self.random.choices(("rollback", "die", "commit"), (self.rollback, self.die, 1))[0]

        def body(answer):
            self.begin()
            for partition, key, id in records:
                self.query("SELECT topics.produce(%s, %s::text, key => %s, partition => %s)",
                           STATE, id and payload(id), key, partition)
            if end == "rollback":
                self.query("ROLLBACK")
                return "fail"
            if end == "die":
                return self.die_before_reply()
            self.commit()
            try:
                answer["ranges"] = self.query("SELECT topic, partition, first_offset, record_count FROM topics.last_produced()")
            except psycopg2.Error:
                if self.connection.closed:
                    self.disconnect()
            return "ok"
        self.perform("state_produce", body, records=records)


class StateReader(Client):
    """Reads the topic that is compacted: by page, as a whole, twice in a snapshot, and the latest of each key."""

    think = 0.15
    works = {"page": 3, "whole": 3, "look": 2, "latest": 3}
    wait = 0.6  # seconds at most from a snapshot to its first look
    wait_again = 0.3  # and to its second, which keeps compaction waiting

    def step(self):
        getattr(self, self.random.choices(list(self.works), list(self.works.values()))[0])()

    def rows(self, sql, *parameters):
        return [[partition, offset, key, None if value is None else identify(value)]
                for partition, offset, key, value in self.query(sql, *parameters)]

    def page(self):
        partition = self.random.randrange(self.context.partitions[STATE])
        start = 0
        while not self.context.stop.is_set():
            def body(answer):
                answer["rows"] = self.rows('SELECT partition, "offset", key, value FROM topics.fetch(%s, %s, %s, %s, 1000000000)',
                                           STATE, partition, start, 100)
                answer["complete"] = len(answer["rows"]) < 100
            answer = self.perform("state_read", body, partition=partition, **{"from": start})
            if not answer or answer["complete"]:
                return
            start = answer["rows"][-1][1] + 1

    def whole(self):
        def body(answer):
            answer["rows"] = self.rows(f'SELECT partition, "offset", key, value FROM topic.{STATE} ORDER BY 1, 2')
            answer["complete"] = True
        self.perform("state_read", body, partition=None, **{"from": 0})

    def look(self):
        """The snapshot is there some time before it is used: compaction may come in between."""
        def body(answer):
            self.begin("REPEATABLE READ")
            self.query("SELECT count(*) FROM balance")
            answer["snapshot_at"] = self.history.now()
            time.sleep(self.random.uniform(0, self.wait))
            answer["rows"] = self.rows(f'SELECT partition, "offset", key, value FROM topic.{STATE} ORDER BY 1, 2')
            answer["complete"] = True
            time.sleep(self.random.uniform(0, self.wait_again))
            again = self.rows(f'SELECT partition, "offset", key, value FROM topic.{STATE} ORDER BY 1, 2')
            self.query("COMMIT")
            if again != answer["rows"]:
                answer["again"] = again
        self.perform("state_read", body, partition=None, isolation="REPEATABLE READ", **{"from": 0})

    def latest(self):
        def body(answer):
            answer["rows"] = self.rows('SELECT partition, "offset", key, value FROM topics.latest(%s) ORDER BY 1, 2', STATE)
        self.perform("latest", body)


class Idler(Client):
    """
    Sits there with what others might wait for: a snapshot, an open cursor, a
    prepared transaction.  Nobody but what removes records may notice, and that
    must go on when it has ended.
    """

    think = 5.0
    wait = 6.0  # seconds at most
    kinds = {"snapshot": 2, "cursor": 2, "prepared": 2}
    everything = "(SELECT partition, \"offset\", value FROM topic.{} ORDER BY 1, 2) record"

    def step(self):
        topic = self.random.choice((*KEPT, STATE))
        kind = self.random.choices(list(self.kinds), list(self.kinds.values()))[0]
        seconds = self.random.uniform(0, self.wait)

        def body(answer):
            self.begin("REPEATABLE READ")
            getattr(self, "hold_" + kind)(topic, seconds, answer)
        self.perform("idle", body, topic=topic, kind=kind)
        if kind == "prepared":
            self.drain()

    def sit(self, seconds):
        self.context.stop.wait(seconds)

    def look(self, topic):
        """What a snapshot has of a topic, in short."""
        return self.query("SELECT count(*), md5(string_agg(record::text, ',')) FROM " + self.everything.format(topic))

    def hold_snapshot(self, topic, seconds, answer):
        before = self.look(topic)
        self.sit(seconds)
        answer["differs"] = self.look(topic) != before
        self.query("COMMIT")

    def hold_cursor(self, topic, seconds, answer):
        """It is read half, and a second one tells what it should have given."""
        for name in ("half", "other"):
            self.query(f"DECLARE {name} CURSOR FOR SELECT record::text FROM " + self.everything.format(topic))
        first = self.query("FETCH 20 FROM half")
        self.sit(seconds)
        answer["differs"] = first + self.query("FETCH ALL FROM half") != self.query("FETCH ALL FROM other")
        self.query("COMMIT")

    def hold_prepared(self, topic, seconds, answer):
        """It has read the topic, and so its locks outlive sessions and servers."""
        self.look(topic)
        self.query("INSERT INTO work (group_id) VALUES ('idle')")
        self.query(f"PREPARE TRANSACTION '{self.name}.{self.random.random()}'")
        self.sit(seconds)

    def drain(self):
        """Nobody but this client knows of its prepared transaction: it must end, whatever happens."""
        while self.connect():
            try:
                for name, in self.query("SELECT gid FROM pg_prepared_xacts WHERE gid LIKE %s", self.name + ".%"):
                    self.query(f"ROLLBACK PREPARED '{name}'")
                return
            except psycopg2.Error:
                self.disconnect()
                self.context.stop.wait(0.05)


class Trimmer(Client):
    """Produces keys that no other record has, deletes records, compacts; and looks, with an older snapshot, at what is left."""

    think = 0.1
    works = {"add": 4, "trim": 2, "look": 2}
    wait = 0.5  # seconds at most from a snapshot to its look

    def __init__(self, context, name, **options):
        super().__init__(context, name, **options)
        self.keys = 0

    def step(self):
        getattr(self, self.random.choices(list(self.works), list(self.works.values()))[0])()

    def add(self):
        ids = []
        for _ in range(self.random.randint(10, 40)):
            self.keys += 1
            ids.append(f"t{self.name.rpartition('-')[2]}.{self.keys}")

        def body(answer):
            self.begin()
            for id in ids:
                self.query("SELECT topics.produce(%s, %s::text, key => %s)", TRIMMED, payload(id), id)
            self.commit()
        self.perform("trim_produce", body, ids=ids)

    def trim(self):
        """From the middle of a segment on, mostly."""
        share = self.random.random()

        def body(answer):
            self.query("SET lock_timeout = '3s'")
            self.query("CALL topics.roll_segment(%s)", TRIMMED)
            answer["start"] = self.query(
                "SELECT topics.delete_records(%s, 0, log_start_offset + ((log_end_offset - log_start_offset) * %s::float8)::bigint)"
                " FROM topics.partition WHERE topic = %s", TRIMMED, share, TRIMMED)[0][0]
            self.query("CALL topics.maintain(%s)", TRIMMED)
        self.perform("admin", body, work="trim", topic=TRIMMED)

    def look(self):
        """Only the lowest segment is kept from being dropped: those above can be compacted meanwhile."""
        def body(answer):
            start = self.query("SELECT log_start_offset FROM topics.partition WHERE topic = %s", TRIMMED)[0][0]
            self.begin("REPEATABLE READ")
            self.query(f'SELECT count(*) FROM topic.{TRIMMED} WHERE "offset" <= %s', start)
            answer["snapshot_at"] = self.history.now()
            time.sleep(self.random.uniform(0, self.wait))
            answer["offsets"] = [offset for offset, in self.query(f'SELECT "offset" FROM topic.{TRIMMED} ORDER BY 1')]
            self.query("COMMIT")
        self.perform("trim_look", body)
