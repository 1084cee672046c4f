"""Clients that look at one thing in many ways, and act on what they have seen.

They share two topics.  A transaction of PAIRED produces as many records to
each partition, and inserts as many rows into the table "book": one statement
can see whether it gets a cut.  A record of NUMBERED is produced by a
serializable transaction that notes the log ends it has seen.  What must hold
is in checks_visibility.py.
"""

import json
import select
import time

from workload import NUMBERED, PAIRED, SOURCE, TOPICS, WORKERS, PartitionReader, Producer, Reader, payload


class Pairer(Producer, PartitionReader):
    """Produces to both partitions of PAIRED and inserts into "book"; then looks whether it sees it."""

    think = 0.05
    rollback = 0.1
    modes = {"on": 60, "local": 20, "off": 20}
    topic = PAIRED
    looks = 0.5  # part of acknowledged commits

    def __init__(self, context, name, **options):
        super().__init__(context, name, **options)
        self.other = PartitionReader(context, name + "-other", topic=PAIRED)

    def step(self):
        self.transactions += 1
        self.records = []
        count = self.random.randint(1, 3)
        partitions = list(range(TOPICS[PAIRED]))
        self.random.shuffle(partitions)
        ids = {partition: [self.add(PAIRED, partition)[2] for _ in range(count)] for partition in partitions}
        rows_first = self.random.random() < 0.5
        end = self.random.choices(("rollback", "die", "commit"), (self.rollback, self.die, 1))[0]

        def insert():
            self.query("INSERT INTO book (id, synchronous) SELECT unnest(%s), %s", ids[0], self.synchronous)

        def body(answer):
            self.begin()
            if rows_first:
                insert()
            for partition in partitions:
                self.query("SELECT topics.produce_batch(%s, %s, partition => %s)", PAIRED,
                           [payload(id) for id in ids[partition]], partition)
            if not rows_first:
                insert()
            if end == "rollback":
                self.query("ROLLBACK")
                return "fail"
            if end == "die":
                return self.die_before_reply()
            self.commit()
            self.ranges(answer)
            return "ok"
        answer = self.perform("produce", body, records=self.records, planned_end=end)
        if answer and answer.get("ranges") and self.connection and self.random.random() < self.looks:
            self.look(*self.random.choice(answer["ranges"])[1:3])

    def look(self, partition, offset):
        """In this session, or in another."""
        reader = self.random.choice((self, self.other))
        if reader.connect():
            if self.random.random() < 0.5:
                reader.ends()
            else:
                reader.read(partition, offset, 1000, self.random.choice(("fetch", "select")))

    def disconnect(self):
        super().disconnect()
        if hasattr(self, "other"):
            self.other.disconnect()


# The log end of a partition, as a scalar: by topic, partition and an offset that is in the log.  Those of
# FROM_START say that offset, too, if the end is below: then what was in the log is hidden again, after a restart.
FROM_START = ("view", "count", "fetch")
WAYS = {
    "view": '(SELECT coalesce(max("offset") + 1, {start}) FROM topic.{topic} WHERE partition = {partition} AND "offset" >= {start})',
    "count": '(SELECT {start} + count(*) FROM topic.{topic} WHERE partition = {partition} AND "offset" >= {start})',
    "fetch": "(SELECT {start} + count(*) FROM topics.fetch('{topic}', {partition}, {start}, 1000000, 1000000000))",
    "list_offsets": "(SELECT \"offset\" FROM topics.list_offsets('{topic}', 'latest') WHERE partition = {partition})",
    "partition": "(SELECT log_end_offset FROM topics.partition WHERE topic = '{topic}' AND partition = {partition})",
    "lag": "(SELECT log_end_offset FROM topics.consumer_lag WHERE group_id = '" + WORKERS + "' AND topic = '{topic}'"
           " AND partition = {partition})",
}


class Comparer(PartitionReader):
    """Asks in one statement for the log ends in all ways, and for the rows that came with the records."""

    think = 0.1
    topics = (PAIRED, PAIRED, SOURCE)
    window = 30  # records back to begin at
    wait = 0.5  # seconds at most between two statements of a transaction
    node = None  # of a follower
    modes = {None: 4, "REPEATABLE READ": 3, "SERIALIZABLE": 2}
    has_book = True

    def __init__(self, context, name, **options):
        super().__init__(context, name, **options)
        self.starts = {}

    def step(self):
        topic = self.random.choice(self.topics)
        isolation = self.random.choices(list(self.modes), list(self.modes.values()))[0]
        starts = {partition: self.starts.get((topic, partition), 0) for partition in range(TOPICS[topic])}
        columns = [(way, partition, sql.format(topic=topic, partition=partition, start=start))
                   for way, sql in WAYS.items() for partition, start in starts.items()]
        with_book = topic == PAIRED and self.has_book
        if with_book:
            columns.append(("book", None, "(SELECT count(*) FROM book)"))
        self.random.shuffle(columns)
        statement = "SELECT " + ", ".join(sql for _, _, sql in columns)
        waits = [self.random.uniform(0, self.wait) for _ in range(self.random.randint(0, 2))] if isolation else []

        def look():
            return [[way, partition, end] for (way, partition, _), end in zip(columns, self.query(statement)[0])
                    if end is not None]

        def body(answer):
            answer["looks"] = []
            if isolation:
                self.begin(isolation)
            answer["looks"].append(look())
            for seconds in waits:
                time.sleep(seconds)
                answer["looks"].append(look())
            if with_book:  # rows that a promotion must not take back
                answer["book"] = [id for id, in self.query(
                    "SELECT id FROM book WHERE synchronous = 'on' ORDER BY number DESC LIMIT 20")]
            if isolation:
                self.query("COMMIT")
        answer = self.perform("compare", body, topic=topic, isolation=isolation, starts=list(starts.items()),
                              **({"node": self.node} if self.node else {}))
        for _, partition, end in answer["looks"][0] if answer else ():
            if partition is not None:
                self.starts[topic, partition] = max(self.starts.get((topic, partition), 0), end - self.window)


class Numberer(Producer):
    """
    In SERIALIZABLE: sees where logs end, by one way or another, and produces.
    Several find nothing new, and one of them only may be right.
    """

    think = 0.01
    modes = {"on": 1}
    topics = (NUMBERED,)
    hot = 2  # partitions that all produce to; the others begin empty, and they meet there one after the other
    meeting = 0.5  # seconds in each
    works = {"same": 6, "across": 2, "look": 1}
    window = 10  # records back to begin at

    def __init__(self, context, name, **options):
        super().__init__(context, name, **options)
        self.starts = {}

    def step(self):
        self.transactions += 1
        self.records = []
        work = self.random.choices(list(self.works), list(self.works.values()))[0]
        partition = self.random.randrange(self.hot)
        if self.random.random() < 0.3:
            partition = self.hot + int(time.monotonic() / self.meeting) % (TOPICS[NUMBERED] - self.hot)
        seen = {"same": [partition], "across": [(partition + 1) % self.hot if partition < self.hot else 0],
                "look": list(range(self.hot))}[work]
        ways = [self.random.choice([way for way in WAYS if way != "lag"]) for _ in seen]
        pause = self.random.choice((0, self.random.uniform(0, 0.01)))
        if work != "look":
            self.add(NUMBERED, partition)

        def body(answer):
            self.begin("SERIALIZABLE")
            if pause:  # others commit between the snapshot and the look
                self.query("SELECT 1")
                time.sleep(pause)
            answer["seen"] = []
            for number, way in zip(seen, ways):
                (end,), = self.query("SELECT " + WAYS[way].format(topic=NUMBERED, partition=number,
                                                                  start=self.starts.get(number, 0)))
                answer["seen"].append([number, end])
            for _, to, id, _ in self.records:
                self.query("SELECT topics.produce(%s, %s, partition => %s)", NUMBERED, payload(id), to)
            self.commit()
            if self.records:
                self.ranges(answer)
        answer = self.perform("produce", body, records=self.records, isolation="SERIALIZABLE", ways=ways)
        for number, end in answer["seen"] if answer else ():
            self.starts[number] = max(self.starts.get(number, 0), end - self.window)


class Listener(PartitionReader):
    """Is told by NOTIFY where logs end."""

    think = 0.01

    def open(self):
        connection = super().open()
        cursor = connection.cursor()
        cursor.execute("SELECT topics.channel(%s)", (self.topic,))
        cursor.execute(f'LISTEN "{cursor.fetchone()[0]}"')
        return connection

    def step(self):
        def body(answer):
            answer["ends"] = []
            select.select([self.connection], [], [], 0.5)
            self.connection.poll()
            while self.connection.notifies:
                told = json.loads(self.connection.notifies.pop(0).payload)["end_offsets"]
                answer["ends"] += [[int(partition), end] for partition, end in told.items()]
        self.perform("ends", body, topic=self.topic, notified=True)


class StandbyReader(Reader):
    """Reads on the standby, whose promotion its session survives; or on a follower."""

    think = 0.1
    node = None
    isolations = {None: 70, "REPEATABLE READ": 30}

    def open(self):
        return self.context.server.connect_to_standby(self.name, self.node)

    def perform(self, f, body, **plan):
        return super().perform(f, body, standby=True, **plan)
