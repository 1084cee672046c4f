"""Those who damage a topic of their own and put it right, and who alter what records were checked against.

What must hold of them is in checks_damage.py.
"""

import itertools
import threading

import psycopg2
from workload import DAMAGED, LIMITED, LIMITED_TYPE, Client, Producer

REFUSED = "0A000"
LOST_SESSION = ("57P01", "57P02", "57P03", None)


class Vandal(Producer):
    """
    Takes away what a dump in part leaves out, and has the topic repaired.  What
    would lose records it tries as well: that is refused to a superuser, too.
    """

    topics = (DAMAGED,)
    kinds = {"single": 50, "batch": 30, "transaction": 20}
    side = notify = 0
    think = 0.3
    loads = 3  # between two damages

    damages = {
        "a partition's row": "DELETE FROM topic_log.partition WHERE topic_id = %(topic)s AND partition = %(partition)s",
        "all partitions' rows": "DELETE FROM topic_log.partition WHERE topic_id = %(topic)s",
        "the topic's row": "DELETE FROM topic_log.topic WHERE topic_id = %(topic)s",
    }
    refused = (
        "ALTER TABLE {segment} SET UNLOGGED", "ALTER TABLE {segment} SET ACCESS METHOD heap", "TRUNCATE {segment}",
        "TRUNCATE {root}", "DROP TABLE {segment}", "ALTER TABLE {root}_p{partition} DETACH PARTITION {segment}",
        "ALTER TABLE {root} ADD COLUMN more int", "DROP TRIGGER produce ON topic.{topic}",
        # a gap, where none is allowed: above what a repair has left open, behind the records of a segment
        "INSERT INTO {segment} SELECT greatest(max(s.offset) + 2, (SELECT gaps_below + 1 FROM topic_log.partition p"
        " JOIN topics.topic t USING (topic_id) WHERE t.topic = '{topic}' AND p.partition = {partition})), now(), {partition}"
        " FROM {segment} s",
    )

    def __init__(self, context, name, **options):
        super().__init__(context, name, **options)
        self.steps = itertools.cycle([*[super().step] * self.loads, self.damage, self.repair, self.try_refused])
        self.is_damaged = False  # certainly

    def step(self):
        work = next(self.steps)
        if work == self.repair or self.repaired():
            work()

    def repaired(self):
        """
        What is damaged is put right first: by a COMMIT whose answer was lost, or since a repair was.  As long as the
        catalogue has no rows a gap is not refused, for instance.
        """
        try:
            (count,), = self.query("SELECT count(*) FROM topics.broken_topic WHERE topic = %s", DAMAGED)
        except psycopg2.Error:
            self.disconnect()
            return False
        return count == 0 or self.repair() is not None

    def place(self):
        """Where to do something, in a segment that has records; one without may be truncated."""
        rows = self.query(
            "SELECT inhparent::regclass::text, inhrelid::regclass::text FROM pg_inherits"
            " WHERE inhrelid::regclass::text ~ (SELECT format('^topic_log.t%%s_p[0-9]+_s', topic_id)"
            " FROM topics.topic WHERE topic = %s) AND pg_relation_size(inhrelid) > 0 ORDER BY 2", DAMAGED)
        if not rows:
            return None
        parent, segment = self.random.choice(rows)
        root, _, partition = parent.rpartition("_p")
        return {"root": root, "segment": segment, "partition": partition, "topic": DAMAGED}

    def damage(self):
        kind = self.random.choice(list(self.damages))
        partition = self.random.randrange(self.context.partitions[DAMAGED])

        def body(answer):
            (topic,), = self.query("SELECT topic_id FROM topics.topic WHERE topic = %s", DAMAGED)
            self.cursor.execute(self.damages[kind], {"topic": topic, "partition": partition})
            answer["rows"] = self.cursor.rowcount
        answer = self.perform("damage", body, kind=kind)
        self.is_damaged = bool(answer and answer["rows"])

    def repair(self):
        """Is it recognised, put right by one call, and right then?"""
        expected, self.is_damaged = self.is_damaged, False

        def problems():
            return [problem for problem, in self.query(
                "SELECT problem FROM topics.broken_topic WHERE topic = %s", DAMAGED)]

        def body(answer):
            answer["before"] = problems()
            answer["done"] = self.query("SELECT partition, action FROM topics.repair_topic(%s)", DAMAGED)
            answer["after"] = problems()
        return self.perform("repair", body, damaged=expected)

    def try_refused(self):
        statement = self.random.choice(self.refused)

        def body(answer):
            self.query("SET lock_timeout = '3s'")
            place = self.place()
            if place is None:
                answer["refused"] = "there is nothing yet"
                return
            try:
                self.query(statement.format(**place))
            except psycopg2.Error as error:
                if error.pgcode in LOST_SESSION:
                    raise
                answer["refused"] = error.pgcode
        self.perform("try_refused", body, statement=statement)

    def drain(self):
        """At the end it is whole."""
        if self.connect():
            self.repair()


class Straddler(Client):
    """Produces values of a domain, and commits a while later.  The values rise."""

    think = 0.02
    wait = 0.05
    values = itertools.count(1)  # of all
    lock = threading.Lock()

    def step(self):
        with self.lock:
            value = next(self.values)

        # ALTER DOMAIN waits for one that has locked the view
        insert = self.random.random() < 0.1

        def body(_):
            self.begin()
            self.query(f"INSERT INTO topic.{LIMITED} (value) VALUES (%s)" if insert else
                       f"SELECT topics.produce('{LIMITED}', %s::text)", value)
            self.context.stop.wait(self.random.uniform(0, self.wait))
            self.commit()
        self.perform("straddle", body, value=value)


class Tightener(Client):
    """Adds constraints to the domain, and looks whether all that is stored fulfils them."""

    think = 0.1
    ahead = 8  # the highest value that it allows, above what is there

    def step(self):
        valid = self.random.random() < 0.7

        def body(answer):
            self.query("SET lock_timeout = '3s'")
            self.query(f"ALTER DOMAIN {LIMITED_TYPE} DROP CONSTRAINT IF EXISTS at_most")
            (highest,), = self.query(f"SELECT coalesce(max(value::bigint), 0) FROM topic.{LIMITED}")
            limit = highest + self.random.randint(0, self.ahead)
            self.query(f"ALTER DOMAIN {LIMITED_TYPE} ADD CONSTRAINT at_most CHECK (VALUE <= {limit})"
                       + ("" if valid else " NOT VALID"))
            if not valid:
                self.query(f"ALTER DOMAIN {LIMITED_TYPE} VALIDATE CONSTRAINT at_most")
            answer["limit"] = limit
            for _ in range(5):
                self.context.stop.wait(self.random.uniform(0, 0.05))
                (answer["above"],), = self.query(f"SELECT count(*) FROM topic.{LIMITED} WHERE value::bigint > {limit}")
                if answer["above"]:
                    break
            self.query(f"ALTER DOMAIN {LIMITED_TYPE} DROP CONSTRAINT at_most")
        self.perform("tighten", body, valid=valid)
