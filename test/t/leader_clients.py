"""Producers and consumers of a cluster whose leaders are killed, for 083_leader_kills.pl.

    leader_clients.py <file of results> <seed> <number of partitions> <conninfo>...

With 0 partitions their leaders are spread: who produces says none, and goes to another node now and
then; whoever finds nothing to be consumed goes to the next one.

They work until a line comes on standard input, which is the conninfo of the node that
leads then.  After that the groups go on to the end of the log, and what was
acknowledged is compared with what is there.  A line of the results is the name of a check, how
often it was violated, and some of these cases.

Nobody does anything twice: each attempt has ids of its own.  So an attempt is acknowledged,
certainly rolled back, or nobody knows, and then it is in the log once or not at all.
"""

import random
import sys
import threading
import time

import psycopg2

PRODUCERS = 16  # that are acknowledged by followers
HASTY = 4  # that are not
CONSUMERS = 3  # of each group
GROUPS = ("plain", "copying")  # the second one produces to topic "copy" what it consumes
PATIENCE = 60  # seconds

ending = threading.Event()
failures = []  # of clients, which are none of the cluster's


class Unknown(Exception):
    """Nobody knows whether a transaction is committed."""


class Refused(Exception):
    """A transaction is rolled back for sure."""


class Client(threading.Thread):
    """Goes from node to node until one does what it wants."""

    def __init__(self, name, nodes, seed):
        super().__init__(name=name, daemon=True)
        self.random = random.Random(f"{seed} {name}")
        self.nodes = self.random.sample(nodes, len(nodes))
        self.connection = None
        self.acknowledged, self.refused, self.unknown = [], [], []

    def run(self):
        try:
            while not ending.is_set():
                self.step()
        except Exception as error:  # pylint: disable=broad-except
            failures.append(f"{self.name}: {error!r}")

    def transaction(self, work):
        """The result of work(cursor), when its commit was acknowledged; or one of both exceptions."""
        committing = False
        try:
            if self.connection is None:
                self.connection = psycopg2.connect(self.nodes[0], application_name=self.name, connect_timeout=5)
            cursor = self.connection.cursor()
            result = work(cursor)
            committing = True
            self.connection.commit()
            return result
        except psycopg2.Error as error:
            # an ERROR is an answer: with it all is rolled back
            answered = error.diag.severity_nonlocalized == "ERROR" and error.pgcode != "40003"
            self.leave()
            if committing and not answered:
                raise Unknown(str(error)) from error
            raise Refused(str(error)) from error

    def note(self, work, what):
        """The same; "what" is noted by what became of it.  False if it was refused."""
        try:
            self.transaction(work)
            self.acknowledged.append(what)
        except Unknown:
            self.unknown.append(what)
        except Refused:
            self.refused.append(what)
            return False
        return True

    def leave(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None
        self.nodes.append(self.nodes.pop(0))
        time.sleep(0.02)


class Producer(Client):
    """Of each transaction the ids of its records are noted, by what became of it."""

    def __init__(self, name, nodes, seed, partitions, acks):
        super().__init__(name, nodes, seed)
        self.partitions = partitions
        self.acks = acks
        self.number = 0

    def step(self):
        ids = []
        for _ in range(self.random.choice((1, 1, 1, 2, 3))):
            self.number += 1
            ids.append(f"{self.name}.{self.number}")
        partitions = [self.random.randrange(self.partitions) if self.partitions else None for _ in ids]

        def produce(cursor):
            cursor.execute("SELECT set_config('pg_topics.acks', %s, false)", [self.acks])
            for one, partition in zip(ids, partitions):
                cursor.execute("SELECT topics.produce('t', %s, partition => %s)", [one, partition])
        self.note(produce, ids)
        time.sleep(self.random.uniform(0, 0.02))
        if not self.partitions and self.random.random() < 0.1:
            self.leave()


class Consumer(Client):
    """What it got is noted by what became of the transaction, too: (partition, offset, value)."""

    def __init__(self, name, nodes, seed, partitions, group):
        super().__init__(name, nodes, seed)
        self.partitions = partitions
        self.group = group

    def step(self):
        if self.consume():
            return
        if self.partitions:
            time.sleep(0.02)
        else:
            self.leave()

    def consume(self):
        """Whether there was anything."""
        got = []

        def take(cursor):
            cursor.execute("SELECT r.partition, r.offset, r.value FROM topics.consume(%s, 't', %s) r",
                           [self.group, self.random.randint(1, 100)])
            got.extend(cursor.fetchall())
            if self.group == "copying" and got:
                cursor.execute("SELECT count(topics.produce('copy', v, partition => %s)) FROM unnest(%s) v",
                               [got[0][0], [value for _, _, value in got]])
            if not ending.is_set() and self.random.random() < 0.1:
                raise psycopg2.Error("rolled back on purpose")
        return not self.note(take, got) or bool(got)


def all_of(clients, *kinds):
    """All ids, or all that was consumed, of transactions that came to these ends."""
    return [one for client in clients for kind in kinds for some in getattr(client, kind) for one in some]


def read_log(cursor, topic):
    cursor.execute(f'SELECT partition, "offset", value FROM topic.{topic} ORDER BY 1, 2')
    return cursor.fetchall()


def drain(groups, leader):
    """Groups go on to the end of the log, where there is one leader, and nobody disturbs it."""
    deadline = time.monotonic() + PATIENCE
    with psycopg2.connect(leader) as connection, connection.cursor() as cursor:
        for consumers in groups.values():
            for consumer in consumers:
                consumer.nodes = [leader]
            while True:
                cursor.execute("""SELECT sum(lag) FROM topics.consumer_lag WHERE group_id = %s AND topic = 't'""",
                               [consumers[0].group])
                if cursor.fetchone()[0] == 0:
                    break
                consumers[0].consume()
                connection.rollback()
                if time.monotonic() > deadline:
                    failures.append(f"group {consumers[0].group} does not come to the end")
                    break


def twice(those):
    seen, again = set(), []
    for one in those:
        (again.append if one in seen else seen.add)(one)
    return again


def check(producers, groups, leader):
    """Yields the name of each check, and what violates it."""
    with psycopg2.connect(leader) as connection, connection.cursor() as cursor:
        log, copy = read_log(cursor, "t"), read_log(cursor, "copy")
    place = {(partition, offset): value for partition, offset, value in log}
    there = {value for _, _, value in log}
    careful = [producer for producer in producers if producer.acks == "all"]

    yield "lost", [one for one in all_of(careful, "acknowledged") if one not in there]
    yield "doubled", twice(value for _, _, value in log)
    yield "rolled back", [one for one in all_of(producers, "refused") if one in there]
    known = set(all_of(producers, "acknowledged", "unknown", "refused"))
    yield "invented", sorted(there - known)
    yield "torn", [ids for producer in producers for kind in (producer.acknowledged, producer.unknown) for ids in kind
                   if 0 < sum(one in there for one in ids) < len(ids)]

    highest, wrong = {}, []
    for partition, _, value in log:
        name, number = value.split(".")
        if int(number) <= highest.get((name, partition), 0):
            wrong.append((partition, value))
        highest[name, partition] = int(number)
    yield "reordered", wrong

    consumed = {group: all_of(consumers, "acknowledged") for group, consumers in groups.items()}
    yield "taken back", [(group, one) for group, consumers in groups.items()
                         for one in all_of(consumers, "acknowledged", "unknown", "refused") if place.get(one[:2]) != one[2]]
    yield "consumed twice", [(group, one) for group in groups for one in twice(consumed[group])]
    yield "skipped", [(group, one) for group, consumers in groups.items()
                      for one in set(log) - set(consumed[group]) - set(all_of(consumers, "unknown"))]
    copied = [value for _, _, value in copy]
    yield "copied twice", twice(copied)
    yield "not copied", sorted(there.symmetric_difference(copied))
    yield "failed clients", failures

    # these are no faults, but without them not much was tested
    yield "acknowledged", all_of(careful, "acknowledged")
    yield "unknown", all_of(producers, "unknown")
    yield "hasty and lost", [one for one in all_of(producers, "acknowledged") if one not in there]
    yield "consumed", [one for group in groups for one in consumed[group]]
    yield "consumed, unknown", [one for consumers in groups.values() for one in all_of(consumers, "unknown")]


def main():
    results, seed, partitions, *nodes = sys.argv[1:]
    partitions = int(partitions)
    producers = [Producer(f"p{i}", nodes, seed, partitions, "all") for i in range(PRODUCERS)]
    producers += [Producer(f"h{i}", nodes, seed, partitions, "1") for i in range(HASTY)]
    groups = {group: [Consumer(f"{group}{i}", nodes, seed, partitions, group) for i in range(CONSUMERS)]
              for group in GROUPS}
    clients = [*producers, *(consumer for consumers in groups.values() for consumer in consumers)]
    for client in clients:
        client.start()
    leader = sys.stdin.readline().strip()
    ending.set()
    for client in clients:
        client.join(PATIENCE)
        if client.is_alive():
            failures.append(f"{client.name} does not end")
        elif client.connection:
            client.connection.close()
            client.connection = None
    if not leader:
        return
    drain(groups, leader)
    with open(results, "w", encoding="utf-8") as file:
        for name, cases in check(producers, groups, leader):
            print(name, len(cases), *cases[:5], sep="\t", file=file)


main()
