"""Clients that number their records, lose their connections and repeat: each record is stored once.

What must hold of them is in checks_producers.py.  A client counts the records
that it has for each partition of a topic of its own.  A record's id says which client,
in which epoch, which partition, and its count; its sequence is its count within the epoch.
"""

import signal
import threading

import psycopg2
from leaders import LEADS_PARTITION, AtLeader
from workload import SEQUENCED, TOPICS, Client, payload

PARTITIONS = range(TOPICS[SEQUENCED])


class Former(Client):
    """The session of a producer that another one has taken the name of; it does not know."""

    def __init__(self, producer):
        super().__init__(producer.context, producer.name + "-former")
        self.connection, self.cursor = producer.connection, producer.cursor
        self.synchronous = producer.synchronous


class NumberedProducer(Client):
    """
    Transactions of one or several records, of which many have an end that it does not learn of.  It repeats from the first
    record on that it has no answer for, asks for the last one, or gets another epoch.
    """

    think = 0.08
    named = True
    partitions = PARTITIONS
    several = 4  # records of a partition in a transaction, at most
    ends = {"commit": 70, "rollback": 6, "vanish": 4, "die": 12, "killed": 8}  # of transactions
    ends_of_one = {"commit": 70, "die": 15, "killed": 15}
    again = 0.15  # part of transactions that repeat what is acknowledged, too
    anew = 0.03  # part of steps that get another epoch; 0.25 of those that do not know what was stored
    ask = 0.2  # part of those, that ask before they repeat

    def __init__(self, context, name, **options):
        super().__init__(context, name, **options)
        self.prefix = "n" + name.rpartition("-")[2]
        self.key = None  # (producer id, epoch); None: it is to call init_producer()
        self.stored = dict.fromkeys(self.partitions, 0)  # so many records are stored, for certain
        self.planned = dict.fromkeys(self.partitions, 0)  # so many have been sent
        self.begins = {}  # {epoch: {partition: count of its first record}}
        self.in_doubt = False

    def step(self):
        if self.key is None:
            return self.begin_anew()
        if self.named and self.random.random() < (0.25 if self.in_doubt else self.anew):
            if self.random.random() < 0.5:
                return self.leave_behind()
            return self.begin_anew()
        if self.in_doubt and self.random.random() < self.ask:
            return self.look(self.random.sample(self.partitions, self.random.randint(1, len(self.partitions))))
        if self.random.random() < 0.3:
            return self.put_one()
        return self.put()

    # ------------------------------------------------------------------
    # Ids and sequences
    # ------------------------------------------------------------------

    def init(self, roll_back=False):
        """Gets an epoch; True if that is certain."""
        def body(answer):
            self.begin()
            (answer["id"], answer["epoch"]), = self.query("SELECT * FROM topics.init_producer(%s)",
                                                          self.name if self.named else None)
            if roll_back:
                self.query("ROLLBACK")
                return "fail"
            self.commit()
            return "ok"
        if not roll_back:
            self.key = None
        answer = self.perform("init_producer", body, producer=self.prefix, named=self.named, planned_rollback=roll_back)
        if answer:
            self.key = answer["id"], answer["epoch"]
            self.begins[answer["epoch"]] = {}
        return answer is not None

    def begin_anew(self):
        if self.random.random() < 0.1 and self.key:
            self.init(roll_back=True)
        elif self.init():
            self.look(self.partitions)

    def look(self, partitions):
        """
        Asks what is stored.  The numbers are of the epoch in which the latest record was stored, which the view says; nobody
        stores one meanwhile, as last_sequence() has locked it.
        """
        def body(answer):
            answer["last"] = []
            self.begin()
            for partition in partitions:
                (sequence,), = self.query("SELECT topics.last_sequence(%s, %s, %s)", self.key[0], SEQUENCED, partition)
                rows = self.query('SELECT producer_epoch, last_sequence, last_offset FROM topics.producer'
                                  ' WHERE producer_id = %s AND topic = %s AND partition = %s', self.key[0], SEQUENCED, partition)
                epoch, viewed, offset = rows[0] if rows else (None, None, None)
                count = 0 if sequence is None else self.begins.get(epoch, {}).get(partition, 0) + sequence + 1
                answer["last"].append([partition, epoch, sequence, viewed, offset, count])
            self.commit()
        answer = self.perform("last_sequence", body, producer=self.prefix, key=list(self.key))
        for partition, *_, count in answer["last"] if answer else ():
            self.stored[partition] = max(self.stored[partition], count)
            # what is not stored gets numbers of this epoch; those that it has had in it stay
            self.begins[self.key[1]].setdefault(partition, count)
        return answer is not None

    def begins_at(self, partition):
        """The count of the first record in this epoch; known, if there was another one before, by look()."""
        return self.begins[self.key[1]].setdefault(partition, 0) if len(self.begins) == 1 \
            else self.begins[self.key[1]].get(partition)

    # ------------------------------------------------------------------
    # Producing
    # ------------------------------------------------------------------

    def record(self, partition, count):
        return [partition, count, f"{self.prefix}.{self.key[1]}.{partition}.{count}"]

    def plan(self, places):
        """Records of these partitions, each from the first that is not acknowledged on."""
        records = []
        for partition in places:
            first = self.stored[partition]
            begin = self.begins_at(partition)
            if self.random.random() < self.again:
                first = max(begin, first - self.random.randint(1, 6))
            stop = max(self.planned[partition], self.stored[partition] + self.random.randint(1, self.several))
            self.planned[partition] = stop
            records += [self.record(partition, count) for count in range(first, stop)]
        return records

    def _produce(self, session, record, savepoint=False):
        partition, count, id = record
        (sent_to,), = session.query(
            "SELECT topics.produce(%s, %s, partition => %s, producer_id => %s, producer_epoch => %s, sequence => %s)",
            SEQUENCED, payload(id), partition, *self.key, count - self.begins_at(partition))
        assert sent_to == partition

    def kill_soon(self):
        """Somebody ends this session, now or in a moment."""
        timer = threading.Timer(self.random.choice((0, 0, 0.001, 0.005)), self.context.server.send,
                                (self.connection.info.backend_pid, signal.SIGTERM))
        timer.start()
        return timer

    def known_places(self):
        return [partition for partition in self.partitions if self.begins_at(partition) is not None]

    def put(self):
        known = self.known_places()
        if not known:
            return self.look(self.partitions)
        records = self.plan(self.random.sample(known, self.random.randint(1, len(known))))
        end = self.random.choices(list(self.ends), list(self.ends.values()))[0]
        takes_back = self.random.random() < 0.15
        fresh = not self.in_doubt and all(count >= self.stored[partition] for partition, count, _ in records)

        def body(answer):
            self.begin()
            for number, record in enumerate(records):
                if takes_back and number == len(records) // 2:  # and thinks better of it
                    self.query("SAVEPOINT s")
                    for again in records[number:]:
                        self._produce(self, again)
                    self.query("ROLLBACK TO s")
                self._produce(self, record)
            if end in ("rollback", "vanish", "die"):
                return self.end_otherwise(end)
            timer = self.kill_soon() if end == "killed" else None
            try:
                self.commit()
            finally:
                if timer:
                    timer.join()
            if fresh:  # else some of them may have been stored before
                self.tell(answer)
            if timer:
                self.disconnect()
            return "ok"
        self.done(records, self.perform("number", body, producer=self.prefix, key=list(self.key), records=records,
                                        planned_end=end, fresh=fresh))

    def tell(self, answer):
        try:
            answer["ranges"] = self.query("SELECT partition, first_offset, record_count FROM topics.last_produced()")
        except psycopg2.Error:
            self.disconnect()

    def done(self, records, answer):
        if not answer:
            self.in_doubt = True
            return
        for partition, count, _ in records:
            self.stored[partition] = max(self.stored[partition], count + 1)
        self.in_doubt = any(self.planned[partition] > self.stored[partition] for partition in self.partitions)

    def put_one(self):
        """By send(), which says where the record is, also if it was stored before."""
        known = self.known_places()
        if not known:
            return self.look(self.partitions)
        partition = self.random.choice(known)
        last = self.stored[partition] - 1
        is_last = self.random.random() < self.again and last >= self.begins_at(partition) and self.planned[partition] == last + 1
        record = self.record(partition, last if is_last else last + 1)
        self.planned[partition] = max(self.planned[partition], record[1] + 1)
        end = self.random.choices(list(self.ends_of_one), list(self.ends_of_one.values()))[0]
        call = ("CALL topics.send(%s, %s, partition => %s, producer_id => %s, producer_epoch => %s, sequence => %s)",
                (SEQUENCED, payload(record[2]), partition, *self.key, record[1] - self.begins_at(partition)))

        def body(answer):
            if end == "die":
                return self.die_before_reply(self.cursor.mogrify(*call).decode())
            timer = self.kill_soon() if end == "killed" else None
            try:
                rows = self.committing(call[0], *call[1])
            finally:
                if timer:
                    timer.join()
            answer["sent"] = [partition, record[1], rows[0][1]]
            if timer:
                self.disconnect()
            return "ok"
        self.done([record], self.perform("number", body, producer=self.prefix, key=list(self.key), records=[record],
                                         is_last=is_last))

    # ------------------------------------------------------------------
    # Fencing
    # ------------------------------------------------------------------

    def leave_behind(self):
        """
        A transaction has numbered records, and its producer's name gets a higher epoch before it commits, which
        may already have stored records, too.
        """
        known = self.known_places()
        if not known:
            return self.look(self.partitions)
        place = self.random.choice(known)
        records, key = self.plan([place]), self.key
        former, self.connection = Former(self), None
        tries_again = self.random.random() < 0.5

        def body(answer):
            former.begin()
            for record in records:
                self._produce(former, record)
            others = [partition for partition in self.partitions if partition != place]
            if self.connect() and self.init() and self.random.random() < 0.7 and self.connect() and self.look(others):
                self.put()
            former.commit()

        def body_of_one(answer):
            former.committing("SELECT topics.produce(%s, %s, partition => %s, producer_id => %s, producer_epoch => %s,"
                              " sequence => %s)", SEQUENCED, payload(records[0][2]), place, *key, sequence)
        sequence = records[0][1] - self.begins_at(place)
        self.in_doubt = True
        former.perform("number", body, producer=self.prefix, key=list(key), records=records, former=True)
        if tries_again and former.connection:
            former.perform("number", body_of_one, producer=self.prefix, key=list(key), records=records[:1], former=True)
        former.disconnect()
        if self.key and self.key != key and self.connect():
            self.look(self.partitions)


class LeaderNumberedProducer(AtLeader, NumberedProducer):
    pass


class SpreadNumberedProducer(AtLeader, NumberedProducer):
    """
    To a partition of a topic whose leaders are spread: it goes where the leader of that is, and for an epoch to the one of all
    that is not spread.  A session that does not know of the next epoch is refused when a record of that is stored, not
    before: so no other one is left behind, nor a statement on its way.
    """

    partitions = (0,)
    ends_of_one = {"commit": 80, "killed": 20}

    def open(self):
        return self.context.server.connect_to_leader(self.name, self.random, LEADS_PARTITION, (SEQUENCED, *self.partitions))

    def init(self, roll_back=False):
        here = self.connection
        try:
            self.connection = self.context.server.connect_to_leader(self.name, self.random)
            self.cursor = self.connection.cursor()
            return super().init(roll_back)
        except psycopg2.Error:
            self.key = None
            return False
        finally:
            if self.connection is not here:
                self.disconnect()
            self.connection = here
            self.cursor = here.cursor() if here else None

    def leave_behind(self):
        former, key = Former(self), self.key
        records = self.plan(self.partitions)[:1] if self.known_places() else []
        sequence = records[0][1] - self.begins_at(records[0][0]) if records else None
        self.connection = None
        if self.connect() and self.init() and self.look(self.partitions):
            self.put()
        if records and self.key and self.key != key and not self.in_doubt:
            def body(answer):
                former.committing("SELECT topics.produce(%s, %s, partition => %s, producer_id => %s, producer_epoch => %s,"
                                  " sequence => %s)", SEQUENCED, payload(records[0][2]), records[0][0], *key, sequence)
            former.perform("number", body, producer=self.prefix, key=list(key), records=records, former=True)
        former.disconnect()
