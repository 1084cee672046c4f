"""What clients do: each class is a kind of client, each step an operation.

Every client is a thread with a session of its own and a random generator of
its own, seeded from the run's seed and its name.  A client notes in the
history what it is going to do (the whole plan: the values that it will
produce, and which of them it will roll back to a savepoint), does it, and
notes what came of it:

  ok      the server said so
  fail    an error, with the connection alive, or a connection that was lost
          before COMMIT was sent: certainly not committed
  info    the connection was lost after COMMIT was sent: unknown

A value is an id, which no other record of its topic has, and for most a
filler that follows from the id; a reader notes the id only, after it has
compared the filler.

To add an operation: a method that calls perform() with a name for it, and in
checks.py what must hold of it.  To add a client: a class with step(), and a
line in PROFILES (profiles.py).
"""

import hashlib
import io
import random
import signal
import socket
import struct
import threading
import time
import zlib

import psycopg2

TOPICS = {"main": 3, "second": 2, "copy": 8, "consumed": 8, "sized": 1, "aged": 1, "cut": 2, "state": 2,
          "paired": 2, "numbered": 20, "damaged": 2, "spread": 4, "sequenced": 3, "worked": 2, "worked_spread": 4}
MAX_PARTITIONS = 6  # of main, which grows
LOADED = ("main", "second")  # what producers produce to
SOURCE, DESTINATION = "main", "copy"  # of copiers
CONSUMED = "consumed"  # where members of the group WORKERS produce what they consume
WORKERS, SIMPLE = "workers", "simple"  # groups: by consume(), and by commit_offset()
RESETS = "resets"  # the group of one client, which resets and deletes it
CONSUMERS = (WORKERS, SIMPLE, RESETS)  # that have no members
SIDE = "side"  # comes and goes
FRESH = "fresh_"  # topics whose names begin so are made during the load
SIZED, AGED, CUT = "sized", "aged", "cut"  # records leave by bytes; by time; by delete_records() only
KEPT = (SIZED, AGED, CUT)
STATE = "state"  # is compacted
KEYS = 12  # of STATE
TRIMMED = "trimmed"  # is compacted, and loses records by delete_records() only: no key comes twice
PAIRED = "paired"  # each transaction produces as many records to each partition, and as many rows of "book"
NUMBERED = "numbered"  # by serializable transactions, which note the log ends that they have seen
SEQUENCED = "sequenced"  # by producers that number their records
WORKED = "worked"  # what members of groups have done, where tables are each node's own
WORKED_SPREAD = "worked_spread"  # the same of SPREAD, each partition in the same leader set
SPREAD = "spread"  # has its leaders on several nodes, where any may lead
DAMAGED = "damaged"  # loses rows of the catalogue, and is repaired
LARGE = "L"  # ends the id of a value that is larger than most segments
LIMITED, LIMITED_TYPE = "limited", "limited_value"  # of a domain that gets constraints
RETENTION_BYTES = 150000  # of SIZED
# What transactions that failed may leave behind a segment's last record: counted as long as it is there, if the server
# has been started since, and cut off when the segment is sealed
DEAD_BYTES = 4 * 8192
RETENTION_SECONDS = 5  # of AGED

# what is each server's own: types and tables are not replicated
OWN = """
CREATE EXTENSION pg_topics;
CREATE DOMAIN limited_value bigint;
CREATE TABLE book (number bigserial PRIMARY KEY, id text, synchronous text);
CREATE TABLE work (group_id text, partition int, "offset" bigint, id text);
CREATE TABLE member_work (group_id text, topic text, partition int, "offset" bigint, id text);
CREATE TABLE place (partition int PRIMARY KEY, next_offset bigint NOT NULL DEFAULT 0);
CREATE TABLE balance (account int PRIMARY KEY, amount int NOT NULL);
INSERT INTO balance SELECT generate_series(1, 4), 0;
"""

# nothing but AGED is to go by age: the clock jumps by years
SCHEMA = OWN + f"""
SELECT topics.create_topic('main', 3, segment_bytes => 262144, retention_time => '-1 s');
SELECT topics.create_topic('second', 2, segment_bytes => 131072, retention_time => '-1 s',
    timestamp_type => 'LogAppendTime');
SELECT topics.create_topic('copy', 8, retention_time => '-1 s');
SELECT topics.create_topic('consumed', 8, retention_time => '-1 s');
SELECT topics.create_topic('sized', 1, segment_bytes => 65536, retention_time => '-1 s', retention_bytes => {RETENTION_BYTES});
SELECT topics.create_topic('aged', 1, segment_bytes => 65536, retention_time => '{RETENTION_SECONDS} s');
SELECT topics.create_topic('cut', 2, segment_bytes => 65536, retention_time => '-1 s');
SELECT topics.create_topic('state', 2, segment_bytes => 65536, retention_time => '-1 s', cleanup_policy => 'compact',
    min_cleanable_dirty_ratio => 0.2, delete_retention_time => '1 s');
SELECT topics.create_topic('trimmed', 1, segment_bytes => 65536, retention_time => '-1 s', cleanup_policy => 'compact,delete',
    min_cleanable_dirty_ratio => 0);
SELECT topics.create_topic('paired', 2, segment_bytes => 131072, retention_time => '-1 s');
SELECT topics.create_topic('numbered', 20, retention_time => '-1 s');
SELECT topics.create_topic('sequenced', 3, segment_bytes => 131072, retention_time => '-1 s');
SELECT topics.create_topic('worked', 2, retention_time => '-1 s');
SELECT topics.create_topic('worked_spread', 4, retention_time => '-1 s');
SELECT topics.create_topic('damaged', 2, segment_bytes => 65536, retention_time => '-1 s');
SELECT topics.create_topic('spread', 4, segment_bytes => 131072, retention_time => '-1 s');
SELECT topics.create_topic('limited', 1, segment_bytes => 65536, value_type => 'limited_value');
"""

# of the server's clock, in seconds.  In ten years producers that number their records are forgotten: one
# round in two is without these, the other without those
CLOCK_JUMPS = (-3600, 3600)
FAR_JUMP = 315360000

STATEMENT_TIMEOUT = "57014"


def is_fresh(topic):
    return topic.startswith(FRESH)


def noise(id, size):
    """What does not compress."""
    return "".join(hashlib.sha512(f"{id}{i}".encode()).hexdigest() for i in range(size // 128 + 1))[:size]


def payload(id):
    """The value that belongs to an id."""
    if id.startswith("g"):
        return id
    number = zlib.crc32(id.encode())
    if id.endswith(LARGE):
        return id + " " + noise(id, 10000 + number % 190000)
    if number % 100 < 70:
        size = number // 100 % 100
    elif number % 100 < 98:
        size = 200 + number // 100 % 1500
    else:  # out of line
        return id + " " + noise(id, 7680)
    return id + " " + "x" * size


def identify(value):
    """The id of a value, or something that nobody has produced."""
    if value is None:
        return "null"
    id = value.partition(" ")[0]
    return id if payload(id) == value else "damaged:" + value[:60]


class Context:
    """What all clients of a run share."""

    def __init__(self, server, history, seed):
        self.server = server
        self.history = history
        self.seed = seed
        self.partitions = dict(TOPICS)
        self.drained = set()  # groups of members of which one has read on to the end
        self.jumps = CLOCK_JUMPS
        self.stop = threading.Event()


class Client(threading.Thread):
    think = 0.05  # seconds between steps, on average

    def __init__(self, context, name, **options):
        super().__init__(name=name, daemon=True)
        self.context = context
        self.history = context.history
        self.random = random.Random(f"{context.seed}/{name}")
        self.connection = None
        self.commit_at = None  # when COMMIT was sent
        self.synchronous = "on"  # the session's synchronous_commit
        self.rescued = False  # the runner had to end our statement
        self.failure = None  # of the checker itself
        for option, value in options.items():
            assert hasattr(type(self), option), option
            setattr(self, option, value)

    def run(self):
        try:
            while not self.context.stop.is_set():
                if self.connect():
                    self.step()
                    self.context.stop.wait(self.random.expovariate(1 / self.think) if self.think else 0)
        except Exception as failure:  # the runner reports it
            self.failure = failure

    def step(self):
        raise NotImplementedError

    # ------------------------------------------------------------------
    # Sessions and statements
    # ------------------------------------------------------------------

    def connect(self):
        """True if there is a connection; does not try for ever."""
        if self.connection is None:
            try:
                self.connection = self.open()
                self.synchronous = "on"
                self.cursor = self.connection.cursor()
            except psycopg2.Error:
                self.connection = None
                self.context.stop.wait(0.05)
        return self.connection is not None

    def open(self):
        return self.context.server.connect(self.name)

    def disconnect(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None

    def query(self, sql, *parameters):
        self.cursor.execute(sql, parameters or None)
        return self.cursor.fetchall() if self.cursor.description else []

    def begin(self, isolation=None):
        self.query("BEGIN" + (f" ISOLATION LEVEL {isolation}" if isolation else ""))

    def commit(self):
        self.commit_at = self.history.now()
        self.query("COMMIT")
        if self.cursor.statusmessage != "COMMIT":
            raise AssertionError(f"COMMIT was answered with {self.cursor.statusmessage}")

    def committing(self, sql, *parameters):
        """A statement that commits by itself."""
        self.commit_at = self.history.now()
        return self.query(sql, *parameters)

    def end_otherwise(self, end):
        """Ends a transaction without its answer: by ROLLBACK, by leaving, or by going away within COMMIT."""
        if end == "die":
            return self.die_before_reply()
        if end == "rollback":
            self.query("ROLLBACK")
        else:
            self.disconnect()
        return "fail"

    def die_before_reply(self, sql="COMMIT"):
        """Sends COMMIT, or what commits by itself, and goes away before the answer."""
        self.commit_at = self.history.now()
        message = sql.encode() + b"\0"
        wire = socket.socket(fileno=socket.dup(self.connection.fileno()))
        try:
            wire.sendall(b"Q" + struct.pack("!i", len(message) + 4) + message)
            time.sleep(self.random.choice((0, 0, 0.001, 0.01)))
            wire.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        finally:
            wire.close()
        self.disconnect()
        return "info"

    def perform(self, f, body, **plan):
        """
        Does an operation, and notes it.  body(answer) puts what came of it
        into "answer", and returns another outcome than ok, if it is another.
        The result is the answer, or None if it was not ok.
        """
        answer = {}
        self.commit_at = None
        op = self.history.invoke(self.name, f, **plan)
        try:
            outcome = body(answer) or "ok"
        except psycopg2.Error as error:
            outcome = self._outcome_of(error, answer)
        if self.commit_at is not None:
            answer["commit_at"] = self.commit_at
        if self.rescued:
            answer["rescued"] = True
        self.history.complete(op, outcome, **answer)
        return answer if outcome == "ok" else None

    def _outcome_of(self, error, answer):
        answer["error"] = error.pgcode or "lost"
        answer["message"] = str(error).partition("\n")[0][:200]
        if not self.connection.closed and error.pgcode != "40003":
            try:
                self.query("ROLLBACK")
                return "fail"
            except psycopg2.Error:
                pass  # the error was an answer all the same
        elif self.commit_at is not None:
            self.disconnect()
            return "info"
        self.disconnect()
        return "fail"


# ----------------------------------------------------------------------
# Producers
# ----------------------------------------------------------------------

class Producer(Client):
    """Single records, large ones, batches, transactions with savepoints, giants that are cancelled at commit."""

    kinds = {"single": 30, "send": 10, "batch": 15, "transaction": 44, "giant": 1}
    topics = LOADED
    rollback = 0.2
    die = 0.03  # before the reply to COMMIT
    vanish = 0.02  # without COMMIT
    notify = 0.1  # part of transactions: other work of PostgreSQL at commit
    side = 0.03  # also produces to the topic that comes and goes
    sleep = 0.1  # before the commit
    only_partitions = None  # produce to these
    modes = {"on": 90, "local": 5, "off": 5}  # of synchronous_commit; "acks_1", "acks_0": of pg_topics.acks, with "on"
    several = 0.5  # part of transactions that go to two partitions at least
    giant_records = 300  # per partition
    wide_records = 60  # of about 100 kB
    cancel_after = (1, 10)  # milliseconds of its COMMIT

    def __init__(self, context, name, **options):
        super().__init__(context, name, **options)
        self.transactions = 0
        self.prefix = "p" + name.rpartition("-")[2]

    def step(self):
        self.transactions += 1
        self.records = []
        kind = self.random.choices(list(self.kinds), list(self.kinds.values()))[0]
        getattr(self, kind)()

    def perform(self, f, body, **plan):
        """In one of the modes."""
        mode = self.random.choices(list(self.modes), list(self.modes.values()))[0]

        def body_in_mode(answer):
            if mode != self.synchronous:
                self.query(f"SET synchronous_commit = on; SET pg_topics.acks = '{mode[-1]}'" if mode.startswith("acks_")
                           else f"SET synchronous_commit = {mode}; SET pg_topics.acks = 'all'")
                self.synchronous = mode
            return body(answer)
        return super().perform(f, body_in_mode, synchronous=mode, **plan)

    def new_id(self):
        return f"{self.prefix}.{self.transactions}.{len(self.records)}"

    def destination(self, topic=None):
        topic = topic or self.random.choice(self.topics)
        partitions = self.only_partitions or range(self.context.partitions[topic])
        return topic, self.random.choice(list(partitions))

    def add(self, topic, partition, suffix=""):
        """A new record of the plan."""
        record = [topic, partition, self.new_id() + suffix, True]
        self.records.append(record)
        return record

    def ranges(self, answer):
        """Where the records went; the connection may be lost by now, and the commit is certain all the same."""
        try:
            answer["ranges"] = self.query("SELECT topic, partition, first_offset, record_count FROM topics.last_produced()")
        except psycopg2.Error:
            if self.connection.closed:
                self.disconnect()

    def large(self):
        self.single(LARGE)

    def wide(self):
        """More than a follower is given at once."""
        places = [self.destination() for _ in range(2)]
        for number in range(self.wide_records):
            self.add(*places[number % 2], LARGE)

        def body(answer):
            self.begin()
            for topic, partition, id, _ in self.records:
                self._produce(topic, partition, [id])
            self.commit()
            self.ranges(answer)
        self.perform("produce", body, records=self.records)

    def single(self, suffix=""):
        topic, partition = self.destination()
        by_key = self.random.random() < 0.3 and not self.only_partitions
        _, _, id, _ = self.add(topic, None if by_key else partition, suffix)

        def body(answer):
            self.committing("SELECT topics.produce(%s, %s, key => %s, partition => %s)",
                            topic, payload(id), id if by_key else None, None if by_key else partition)
            self.ranges(answer)
        self.perform("produce", body, records=self.records)

    def send(self):
        topic, partition = self.destination()
        _, _, id, _ = self.add(topic, partition)

        def body(answer):
            (partition_sent, offset), = self.committing(
                "CALL topics.send(%s, %s, partition => %s)", topic, payload(id), partition)
            answer["ranges"] = [[topic, partition_sent, offset, 1]]
        self.perform("produce", body, records=self.records)

    def batch(self):
        topic, partition = self.destination()
        for _ in range(self.random.randint(2, 12)):
            self.add(topic, partition)

        def body(answer):
            self.committing("SELECT topics.produce_batch(%s, %s, partition => %s)",
                            topic, [payload(record[2]) for record in self.records], partition)
            self.ranges(answer)
        self.perform("produce", body, records=self.records)

    def giant(self):
        """Many records to several partitions, and a cancel while they are appended."""
        topic = self.topics[0]
        partitions = list(self.only_partitions or range(self.context.partitions[topic]))
        prefix = f"g{self.prefix}.{self.transactions}."
        giants = [[topic, partition, f"{prefix}{partition}.", self.giant_records] for partition in partitions]
        delay = self.random.uniform(*self.cancel_after)
        self.random.shuffle(giants)

        def body(answer):
            self.begin()
            for name, partition, start, count in giants:
                self.query(f"INSERT INTO topic.{name} (partition, value)"
                           " SELECT %s, %s || i FROM generate_series(0, %s) i", partition, start, count - 1)
            # statement_timeout does not reach a COMMIT
            cancel = threading.Timer(delay / 1000, self.context.server.send,
                                     (self.connection.info.backend_pid, signal.SIGINT))
            cancel.start()
            try:
                self.commit()
            finally:
                cancel.cancel()
                cancel.join()
            self.ranges(answer)
        self.perform("produce", body, records=[], giants=giants, cancel_after=delay)

    def transaction(self):
        steps = self._plan()
        end = self.random.choices(
            ("rollback", "die", "vanish", "commit"),
            (self.rollback, self.die, self.vanish, 1 - self.rollback - self.die - self.vanish))[0]
        isolation = self.random.choices((None, "REPEATABLE READ", "SERIALIZABLE"), (80, 10, 10))[0]

        def body(answer):
            self.begin(isolation)
            if isolation == "SERIALIZABLE":  # others' balances decide on ours
                self.query("SELECT sum(amount) FROM balance")
                self.query("UPDATE balance SET amount = amount + 1 WHERE account = %s",
                           1 + self.transactions % 4)
            for step, *arguments in steps:
                getattr(self, "_" + step)(*arguments)
            if end in ("rollback", "vanish", "die"):
                return self.end_otherwise(end)
            self.commit()
            if any(stays for *_, stays in self.records):  # else it is told of the commit before
                self.ranges(answer)
            return "ok"
        self.perform("produce", body, records=self.records, planned_end=end, isolation=isolation)

    def _plan(self):
        """Steps of a transaction; fills self.records, and marks those that a savepoint takes back."""
        steps, places, depth = [], [self.destination()], []
        if self.random.random() < self.several:
            places += [self.destination() for _ in range(self.random.randint(1, 3))]
        for _ in range(self.random.randint(1, 9)):
            choice = self.random.random()
            if choice < 0.2 and len(depth) < 3:
                depth.append(len(self.records))
                steps.append(("savepoint", len(depth)))
            elif choice < 0.5 and depth:
                first = depth.pop()
                if self.random.random() < 0.6:
                    for record in self.records[first:]:
                        record[3] = False
                    steps.append(("rollback_to", len(depth) + 1))
                else:
                    steps.append(("release", len(depth) + 1))
            else:
                topic, partition = self.random.choice(places)
                how = self.random.choices(("produce", "insert", "copy"), (6, 2, 1))[0]
                count = 1 if how == "produce" else self.random.randint(1, 5)
                steps.append((how, topic, partition,
                              [self.add(topic, partition)[2] for _ in range(count)]))
        if len(places) > 1:  # for certain to two
            for topic, partition in places[:2]:
                steps.append(("produce", topic, partition, [self.add(topic, partition)[2]]))
        if self.random.random() < self.side:
            steps.append(("produce", SIDE, 0, [self.add(SIDE, 0)[2]]))
        if self.random.random() < self.notify:
            steps.append(("notify",))
        if self.random.random() < self.sleep:
            steps.append(("sleep", self.random.uniform(0, 0.4)))
        return steps

    def _savepoint(self, number):
        self.query(f"SAVEPOINT s{number}")

    def _rollback_to(self, number):
        self.query(f"ROLLBACK TO s{number}")
        self.query(f"RELEASE s{number}")

    def _release(self, number):
        self.query(f"RELEASE s{number}")

    def _produce(self, topic, partition, ids):
        self.query("SELECT topics.produce(%s, %s, partition => %s)", topic, payload(ids[0]), partition)

    def _insert(self, topic, partition, ids):
        self.query(f"INSERT INTO topic.{topic} (partition, value) SELECT %s, unnest(%s)",
                   partition, [payload(id) for id in ids])

    def _copy(self, topic, partition, ids):
        lines = "".join(f"{partition}\t{payload(id)}\n" for id in ids)
        self.cursor.copy_expert(f"COPY topic.{topic} (partition, value) FROM STDIN", io.StringIO(lines))

    def _notify(self):
        self.query("NOTIFY checker")

    def _sleep(self, seconds):
        time.sleep(seconds)


class Copier(Client):
    """Copies a partition of one topic to another, and keeps its place in a table: all in one transaction."""

    rollback = 0.2
    limit = 30

    def step(self):
        partition = self.random.randrange(self.context.partitions[SOURCE])
        limit = self.random.randint(1, self.limit)
        roll_back = self.random.random() < self.rollback

        def body(answer):
            self.begin()
            self.query("INSERT INTO place VALUES (%s) ON CONFLICT DO NOTHING", partition)
            (start,), = self.query("SELECT next_offset FROM place WHERE partition = %s FOR UPDATE", partition)
            values = [value for value, in self.query(
                "SELECT value FROM topics.fetch(%s, %s, %s, max_records => %s)", SOURCE, partition, start, limit)]
            answer.update({"from": start, "count": len(values)})
            if values:
                self.query("SELECT topics.produce_batch(%s, %s, partition => %s)", DESTINATION, values, partition)
                self.query("UPDATE place SET next_offset = %s WHERE partition = %s", start + len(values), partition)
            if roll_back:
                self.query("ROLLBACK")
                return "fail"
            self.commit()
            return "ok"
        self.perform("copy", body, partition=partition)


# ----------------------------------------------------------------------
# Consumers
# ----------------------------------------------------------------------

class Consumer(Client):
    """
    What consumers share.  Their work is a row per record in the table "work",
    in the same transaction, without a constraint that would mend anything.
    """

    group = WORKERS
    rollback = 0.2
    die = 0.03
    sleep = 0.1
    notify = 0.05

    def work(self, partition, rows):
        self.query('INSERT INTO work SELECT %s, %s, * FROM unnest(%s::bigint[], %s::text[])',
                   self.group, partition, [offset for offset, _ in rows], [id for _, id in rows])

    def end(self):
        """The end of a transaction, one way or another; its outcome."""
        if self.random.random() < self.sleep:
            time.sleep(self.random.uniform(0, 0.3))
        if self.random.random() < self.notify:
            self.query("NOTIFY checker")
        choice = self.random.random()
        if choice < self.rollback:
            self.query("ROLLBACK")
            return "fail"
        if choice < self.rollback + self.die:
            return self.die_before_reply()
        self.commit()
        return "ok"


class Worker(Consumer):
    """One of many sessions of a group: consume(), work and produce in one transaction."""

    limit = 40

    def step(self):
        limit = self.random.randint(1, self.limit)
        isolation = self.random.choices((None, "REPEATABLE READ", "SERIALIZABLE"), (85, 10, 5))[0]
        calls = self.random.choice((1, 1, 1, 2))
        try_first = self.random.random() < 0.15
        max_wait = self.random.choice((0, 0, 0, 0.5))

        def consume(takes):
            """Consumes; adds [partition, [[offset, id]…]] to takes; the values are the result."""
            rows = self.query('SELECT partition, "offset", value FROM topics.consume(%s, %s, %s, max_wait => %s)',
                              self.group, SOURCE, limit, f"{max_wait} s")
            if rows:
                takes.append([rows[0][0], [[offset, identify(value)] for _, offset, value in rows]])
            return [value for _, _, value in rows]

        def body(answer):
            answer["takes"], answer["dropped"] = [], []
            self.begin(isolation)
            if try_first:  # and think better of it
                self.query("SAVEPOINT s")
                consume(answer["dropped"])
                self.query("ROLLBACK TO s")
            for _ in range(calls):
                values = consume(answer["takes"])
                if values:
                    partition, rows = answer["takes"][-1]
                    self.work(partition, rows)
                    self.query("SELECT topics.produce_batch(%s, %s, partition => %s)", CONSUMED, values, partition)
            return self.end()
        answer = self.perform("consume", body, topic=SOURCE, group=self.group, isolation=isolation, limit=limit)
        if answer and not answer["takes"] and self.connection and self.random.random() < 0.5:
            self.wait()

    def wait(self):
        seconds = self.random.uniform(0, 2)
        self.perform("wait", lambda answer: self.query("CALL topics.wait(%s, %s, %s)", self.group, SOURCE,
                                                       f"{seconds:.3f} s") and None, seconds=seconds)


class SimpleConsumer(Consumer):
    """
    Is assigned a partition: fetch(), work and commit_offset() in one
    transaction.  The lock keeps it from meeting its own last session, whose
    COMMIT may be under way.
    """

    group = SIMPLE
    partition = 0
    limit = 40

    def committed(self):
        rows = self.query("SELECT committed_offset FROM topics.consumer_offset"
                          " WHERE group_id = %s AND topic = %s AND partition = %s", self.group, SOURCE, self.partition)
        return rows[0][0] if rows else 0

    def step(self):
        if self.random.random() < 0.05:
            return self.misbehave()
        limit = self.random.randint(1, self.limit)

        def body(answer):
            answer["takes"] = []
            self.begin()
            self.query("SELECT pg_advisory_xact_lock(%s)", self.partition)
            start = self.committed()
            rows = [[offset, identify(value)] for offset, value in self.query(
                'SELECT "offset", value FROM topics.fetch(%s, %s, %s, %s)', SOURCE, self.partition, start, limit)]
            if rows:
                answer["takes"].append([self.partition, rows])
                self.work(self.partition, rows)
                self.query("SELECT topics.commit_offset(%s, %s, %s, %s, metadata => %s)", self.group, SOURCE,
                           self.partition, rows[-1][0] + 1, self.random.choice((None, "note")))
            return self.end()
        return self.perform("consume", body, topic=SOURCE, group=self.group, limit=limit)

    def misbehave(self):
        """Commits that must be refused: a lower offset, and one beyond the end."""
        lower = self.random.random() < 0.5

        def body(answer):
            self.begin()
            self.query("SELECT pg_advisory_xact_lock(%s)", self.partition)
            committed = self.committed()
            answer["committed"] = committed
            if lower and committed == 0:
                self.query("ROLLBACK")
                return "fail"
            self.query("SELECT topics.commit_offset(%s, %s, %s, %s)", self.group, SOURCE, self.partition,
                       committed - 1 if lower else committed + 1000000000)
            self.commit()
            return "ok"
        self.perform("bad_commit", body, lower=lower)


class Resetter(Consumer):
    """Alone in its group: consumes, sets offsets back and forth, deletes the group, and knows where it must be."""

    group = RESETS
    limit = 40

    def __init__(self, context, name, **options):
        super().__init__(context, name, **options)
        self.seen = {}  # {partition: an offset that is in the log for certain}

    def step(self):
        choice = self.random.random()
        if choice < 0.25 and self.seen:
            partition = self.random.choice(list(self.seen))
            self.reset(partition, self.random.randint(0, self.seen[partition]))
        elif choice < 0.28 and self.seen:
            self.reset(None, 0)
        else:
            self.consume()

    def consume(self):
        limit = self.random.randint(1, self.limit)

        def body(answer):
            answer["takes"] = []
            self.begin()
            for _ in range(self.random.randint(1, 2)):
                rows = self.query('SELECT partition, "offset", value FROM topics.consume(%s, %s, %s)',
                                  self.group, SOURCE, limit)
                if rows:
                    answer["takes"].append([rows[0][0], [[offset, identify(value)] for _, offset, value in rows]])
            return self.end()
        answer = self.perform("consume", body, topic=SOURCE, group=self.group, limit=limit)
        for partition, rows in answer["takes"] if answer else ():
            self.seen[partition] = max(self.seen.get(partition, 0), rows[-1][0])

    def reset(self, partition, offset):
        def body(answer):
            self.begin()
            if partition is None:
                self.query("SELECT topics.delete_group(%s)", self.group)
            else:
                self.query("SELECT topics.reset_offset(%s, %s, %s, to_offset => %s)",
                           self.group, SOURCE, partition, offset)
            return self.end()
        self.perform("reset", body, group=self.group, partition=partition, to=offset)


class OffsetReader(Client):
    """Looks at committed offsets."""

    think = 0.2

    def step(self):
        def body(answer):
            answer["rows"] = self.query("SELECT group_id, partition, committed_offset FROM topics.consumer_offset"
                                        " WHERE topic = %s AND group_id = ANY (%s)", SOURCE, list(CONSUMERS))
        self.perform("committed", body)


# ----------------------------------------------------------------------
# Readers
# ----------------------------------------------------------------------

class PartitionReader(Client):
    """What readers of one partition share."""

    limit = 100
    topic = SOURCE

    def read(self, partition, start, limit, how, isolation=None):
        """
        The records from an offset on, as [[offset, id]…], or None.  how:
        "fetch"; "fetch_wait", which waits until there are some; "select", in
        order; "scan", in the order that the table has.
        """
        def body(answer):
            if isolation:
                self.begin(isolation)
            if how.startswith("fetch"):
                rows = self.query('SELECT "offset", value FROM topics.fetch(%s, %s, %s, %s, 1000000000, %s)',
                                  self.topic, partition, start, limit, "5 s" if how == "fetch_wait" else "0")
            elif how == "select":
                rows = self.query(f'SELECT "offset", value FROM topic.{self.topic} WHERE partition = %s'
                                  ' AND "offset" >= %s ORDER BY "offset" LIMIT %s', partition, start, limit)
            else:
                rows = self.query(f'SELECT "offset", value FROM topic.{self.topic} WHERE partition = %s'
                                  ' AND "offset" >= %s', partition, start)
            answer["records"] = [[offset, identify(value)] for offset, value in rows]
            answer["complete"] = how == "scan" or len(rows) < limit  # up to the end
            if isolation:
                self.query("COMMIT")
        answer = self.perform("read", body, topic=self.topic, partition=partition, how=how, isolation=isolation,
                              **{"from": start, "limit": limit})
        return answer and answer["records"]

    def ends(self):
        """The log ends; every reader knows one that is not below what it has fetched."""
        def body(answer):
            answer["ends"] = self.query('SELECT partition, "offset" FROM topics.list_offsets(%s, %s)',
                                        self.topic, "latest")
        answer = self.perform("ends", body, topic=self.topic)
        return answer and dict(answer["ends"])


class Reader(PartitionReader):
    """Is assigned a partition, and reads on from where it was, each record once."""

    partition = 0
    ask_ends = 0.3
    hows = {"fetch": 6, "select": 3, "scan": 1}
    isolations = {None: 70, "REPEATABLE READ": 20, "SERIALIZABLE": 10}

    def __init__(self, context, name, **options):
        super().__init__(context, name, **options)
        self.next_offset = 0

    def step(self):
        how = self.random.choices(list(self.hows), list(self.hows.values()))[0]
        isolation = self.random.choices(list(self.isolations), list(self.isolations.values()))[0]
        self.advance(self.random.randint(1, self.limit), how, isolation)
        if self.connection and self.random.random() < self.ask_ends:
            self.ends()

    def advance(self, limit, how, isolation=None):
        records = self.read(self.partition, self.next_offset, limit, how, isolation)
        if records:
            self.next_offset = max(offset for offset, _ in records) + 1
        return records

    def drain(self):
        """After the load: reads to the end of the log."""
        while self.connect():
            records = self.advance(1000, "fetch")
            if records is None or len(records) < 1000:
                self.disconnect()
                return


class Waiter(PartitionReader):
    """Waits for the next record of a partition, and reads it: nobody sleeps through it."""

    think = 0.01
    reads = True  # or it only knows then that there is one more

    def __init__(self, context, name, **options):
        super().__init__(context, name, **options)
        self.next_offset = 0

    def step(self):
        partition = 0

        def body(answer):
            self.query("CALL topics.wait_offset(%s, %s, %s, '5 s')", self.topic, partition, self.next_offset)
        how = "fetch"
        if not self.reads:
            started = time.monotonic()
            if self.perform("wait_offset", body, topic=self.topic, partition=partition, after=self.next_offset) \
                    is not None and time.monotonic() - started < 4:
                self.next_offset += 1
            return
        if self.random.random() < 0.5:
            self.perform("wait_offset", body, topic=self.topic, partition=partition, after=self.next_offset)
        else:
            how = "fetch_wait"
        if self.connection:
            records = self.read(partition, self.next_offset, 1000, how)
            if records:
                self.next_offset = records[-1][0] + 1


class Seeker(PartitionReader):
    """Reads a few records at random places; often as a session that knows nothing."""

    limit = 5
    reconnect = 0.3

    def step(self):
        ends = self.ends()
        if not ends:
            return
        for _ in range(self.random.randint(1, 10)):
            partition = self.random.choice(list(ends))
            if self.read(partition, self.random.randint(0, ends[partition]), self.limit, "fetch") is None:
                break
        if self.random.random() < self.reconnect:
            self.disconnect()


class Rereader(PartitionReader):
    """Reads from the start to the end, by pages, again and again."""

    think = 1.0

    def step(self):
        partition = self.random.randrange(self.context.partitions[self.topic])
        how = self.random.choice(("fetch", "fetch", "scan"))
        start = 0
        while not self.context.stop.is_set():
            records = self.read(partition, start, 500, how)
            if not records or how == "scan" or len(records) < 500:
                break
            start = records[-1][0] + 1


class Snapshotter(PartitionReader):
    """Looks at the ends of all partitions in one snapshot, twice."""

    think = 0.2
    window = 150  # about so many records of each partition
    wait = 0.5  # seconds at most between both looks

    def step(self):
        ends = self.ends()
        if not ends:
            return
        starts = {partition: max(0, end - self.random.randint(0, self.window))
                  for partition, end in ends.items()}
        isolation = self.random.choice(("REPEATABLE READ", "SERIALIZABLE"))
        condition = " OR ".join(f'partition = {partition} AND "offset" >= {start}'
                                for partition, start in starts.items())

        def look():
            return [[partition, offset, identify(value)] for partition, offset, value in self.query(
                f'SELECT partition, "offset", value FROM topic.{self.topic} WHERE {condition} ORDER BY 1, 2')]

        parallel = self.random.random() < 0.1

        def body(answer):
            self.begin(isolation)
            if parallel:
                for setting in ("max_parallel_workers_per_gather = 2", "min_parallel_table_scan_size = 0",
                                "parallel_setup_cost = 0", "parallel_tuple_cost = 0"):
                    self.query("SET LOCAL " + setting)
            answer["records"] = look()
            time.sleep(self.random.uniform(0, self.wait))
            again = look()
            self.query("COMMIT")
            if again != answer["records"]:
                answer["again"] = again
        self.perform("snapshot", body, topic=self.topic, starts=sorted(starts.items()), isolation=isolation)


# ----------------------------------------------------------------------
# Administration
# ----------------------------------------------------------------------

class Admin(Client):
    """Rare work: partitions, topics, VACUUM, REINDEX."""

    think = 1.0
    works = {"add_partition": 1, "side_topic": 4, "vacuum": 3, "vacuum_tail": 2, "vacuum_full": 1,
             "reindex": 1, "roll": 1, "maintain": 1, "analyze": 1}

    def step(self):
        work = self.random.choices(list(self.works), list(self.works.values()))[0]

        def body(answer):
            self.query("SET lock_timeout = '3s'")
            getattr(self, work)(answer)
        self.perform("admin", body, work=work)

    def segment(self, answer, condition="true"):
        tables = self.query("SELECT oid::regclass::text FROM pg_class"
                            f" WHERE relname ~ '^t[0-9]+_p[0-9]+_s[0-9]+$' AND relkind = 'r' AND {condition}")
        answer["table"] = self.random.choice(tables)[0] if tables else None
        return answer["table"]

    def add_partition(self, answer):
        # the answer to an earlier one may be lost: they count that are there
        (partitions,), = self.query("SELECT partitions FROM topics.topic WHERE topic = %s", SOURCE)
        if partitions < MAX_PARTITIONS:
            partitions += 1
            self.query("SELECT topics.add_partitions(%s, %s)", SOURCE, partitions)
        self.context.partitions[SOURCE] = partitions

    def side_topic(self, answer):
        (there,), = self.query("SELECT count(*) > 0 FROM topics.topic WHERE topic = %s", SIDE)
        if there:
            self.query("SELECT topics.drop_topic(%s, if_exists => true)", SIDE)
        else:
            self.query("SELECT topics.create_topic(%s, if_not_exists => true)", SIDE)

    def vacuum(self, answer):
        if self.segment(answer):
            self.query(f"VACUUM {self.random.choice(('', '(FREEZE)'))} {answer['table']}")

    def vacuum_tail(self, answer):
        """VACUUM of a segment that is appended to, if nobody was faster."""
        tables = self.query(
            "SELECT DISTINCT ON (partition) oid::regclass::text FROM ("
            " SELECT oid, (regexp_match(relname, '(.*)_s'))[1], (regexp_match(relname, '_s(.*)'))[1]::int FROM pg_class"
            " WHERE relname ~ '^t[0-9]+_p[0-9]+_s[0-9]+$' AND relkind = 'r' AND pg_relation_size(oid) > 0"
            ") AS segment (oid, partition, number) ORDER BY partition, number DESC")
        if tables:
            answer["table"] = self.random.choice(tables)[0]
            self.query(f"VACUUM {answer['table']}")

    def vacuum_full(self, answer):
        if self.segment(answer):
            self.query(f"VACUUM FULL {answer['table']}")

    def reindex(self, answer):
        if self.segment(answer, "relhasindex"):
            self.query(f"REINDEX TABLE {answer['table']}")

    def analyze(self, answer):
        if self.segment(answer):
            self.query(f"ANALYZE {answer['table']}")

    def roll(self, answer):
        self.query("CALL topics.roll_segment(%s)", self.random.choice(LOADED))

    def maintain(self, answer):
        self.query("CALL topics.maintain()")
