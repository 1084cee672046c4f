"""Clients of followers, and what followers are at the end."""

import time

import psycopg2
from nodes import SHOWN_ENDS
from visibility import Comparer
from workload import SIDE, STATE, TOPICS, Client, identify

LOOKED_AT = tuple(topic for topic in TOPICS if topic != STATE)  # that may be dropped, and read anew


class FollowerReader(Client):
    """Reads the ends of all topics in one snapshot, again and again, and now and then all of them."""

    think = 0.15
    node = None
    window = 20  # records of each partition
    whole = 0.03
    wait = 0.3  # seconds at most between two looks at one snapshot, and between a snapshot and the first of them

    def __init__(self, context, name, **options):
        super().__init__(context, name, **options)
        self.ends = {topic: {} for topic in LOOKED_AT}

    def open(self):
        connection = self.context.server.connect_to_standby(self.name, self.node)
        cursor = connection.cursor()
        # the checkpointer is started anew after a crash, too
        cursor.execute("SELECT backend_start::text, pg_backend_pid() FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
        self.started, self.pid = cursor.fetchone()
        return connection

    def step(self):
        whole = self.random.random() < self.whole
        starts = {topic: {partition: 0 if whole else max(0, end - self.window) for partition, end in ends.items()}
                  for topic, ends in self.ends.items()}
        topics = self.random.sample(LOOKED_AT, len(LOOKED_AT))
        one_statement = self.random.random() < 0.5
        again = self.random.random() < 0.2
        late = self.random.random() < 0.5

        def select(topic):
            conditions = [f'(partition = {partition} AND "offset" >= {start})' for partition, start in starts[topic].items()]
            conditions.append(f"partition >= {len(starts[topic])}")
            return (f"SELECT '{topic}', partition, \"offset\", value::text FROM topic.{topic}"
                    f" WHERE {' OR '.join(conditions)}")

        def look():
            statements = [" UNION ALL ".join(map(select, topics))] if one_statement else map(select, topics)
            return sorted([topic, partition, offset, identify(value)] for statement in statements
                          for topic, partition, offset, value in self.query(statement))

        def body(answer):
            self.begin("REPEATABLE READ" if again or late or not one_statement else None)
            if late:
                self.query("SELECT 1")
                time.sleep(self.random.uniform(0, self.wait))
            answer["records"] = look()
            if again:
                time.sleep(self.random.uniform(0, self.wait))
                second = look()
                if second != answer["records"]:
                    answer["again"] = second
            self.query("COMMIT")
        answer = self.perform("follower_look", body, node=self.node, server=self.started, session=self.pid, standby=True,
                              starts=[[topic, partition, start] for topic, of in starts.items() for partition, start in of.items()])
        for topic, partition, offset, _ in answer["records"] if answer else ():
            ends = self.ends[topic]
            for number in range(partition + 1):
                ends.setdefault(number, 0)
            ends[partition] = max(ends[partition], offset + 1)


class FollowerComparer(Comparer):
    """Compares what ways to learn a log end say on a follower."""

    modes = {None: 4, "REPEATABLE READ": 3}
    has_book = False

    def open(self):
        return self.context.server.connect_to_standby(self.name, self.node)

    def perform(self, f, body, **plan):
        return super().perform(f, body, standby=True, **plan)


# A record as a whole, its key, and whether it is a tombstone
RECORDS = ("SELECT partition, \"offset\", md5(ROW(key, value, headers, extract(epoch FROM \"timestamp\"))::text), md5(key::text),"
           " value IS NULL FROM topic.{topic} ORDER BY 1, 2")


def record_replicas(server, history, patience=20):
    """What each node has of each topic, when all are as the leader: or when they do not become so."""
    topics = {topic: policy for topic, policy in server.ask_rows("SELECT topic, cleanup_policy FROM topics.topic")
              if topic != SIDE}

    def bounds(of):
        return {(topic, partition): (start, end) for topic, partition, start, end in server.ask_rows(SHOWN_ENDS, of)
                if topic != SIDE}

    def records(topic, of):
        try:
            return [list(row) for row in server.ask_rows(RECORDS.format(topic=topic), of)]
        except psycopg2.Error as error:
            return [[0, 0, str(error).partition("\n")[0], None, False]]

    deadline = time.monotonic() + patience
    while True:
        before = bounds(server.primary)
        followers = {node: bounds(follower) for node, follower in server.followers.items()}
        if all(found == before for found in followers.values()) or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    for topic, policy in topics.items():
        compacted = "compact" in policy
        for _ in range(20):  # until nothing has come or gone meanwhile
            lead = records(topic, server.primary)
            rows = {node: records(topic, follower) for node, follower in server.followers.items()}
            if compacted or all(found == lead for found in rows.values()):
                break
            time.sleep(0.2)
        for node, found in rows.items():
            history.event("final", what="replica", node=node, topic=topic, compacted=compacted,
                          records=len(lead), **({} if found == lead else {"leader": lead, "follower": found}))
    history.event("final", what="replica_bounds", leader=[[*place, *ends] for place, ends in sorted(before.items())],
                  followers={node: [[*place, *ends] for place, ends in sorted(found.items())]
                             for node, found in followers.items()})
