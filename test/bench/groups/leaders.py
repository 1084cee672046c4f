"""How long producers are without an acknowledgement when another node comes to lead, and how fast the old one comes back."""
import collections
import contextlib
import os
import signal
import subprocess
import time

from groups.nodes import cluster
from server import Failure

TITLE = 'another of three nodes comes to lead'
CLIENTS = 8
BEFORE = 0.5  # seconds that producers run before anything happens, and after
PATIENCE = 60
NODE_TIMEOUT = 1000  # ms
MANY_TOPICS, MANY_PARTITIONS = 20, 50
PRODUCE = "SELECT topics.produce('t', $1)"
PRODUCE_MANY = f"SELECT topics.produce('many' || (random() * {MANY_TOPICS - 1})::int, $1)"
LOG_END = "SELECT o.offset FROM topics.list_offsets('t', 'latest') o"
SET_OFF = 'a planned move'


def run(bench):
    with cluster(bench) as led:
        nodes = Nodes(led)
        nodes.set('node_timeout', f'{NODE_TIMEOUT} ms')
        nodes.set('automatic_failover', 'off')
        try:
            moves(bench, nodes)
            failovers(bench, nodes)
            divergent_tail(bench, nodes)
            many_partitions(bench, nodes)
        finally:
            nodes.restart_killed()


class Nodes:
    """The nodes of a cluster, and which of them leads."""

    def __init__(self, led):
        self.instances = led.instances
        self.databases = led.databases
        self.names = list(led.databases)
        self.leader = self.names[0]
        self.killed = set()

    def others(self):
        return [name for name in self.names if name != self.leader]

    def set(self, setting, value):
        """On all nodes, for new transactions, of background processes too."""
        for database in self.databases.values():
            database.sql(f"ALTER SYSTEM SET pg_topics.{setting} = '{value}'")
            database.sql('SELECT pg_reload_conf()')

    def kill(self, name):
        """As kill -9 does it: the postmaster; its processes end as they notice.  When that was."""
        self.killed.add(name)
        with open(os.path.join(self.instances[name].data, 'postmaster.pid'), encoding='ascii') as file:
            process = int(file.readline())
        killed_at = time.monotonic()
        os.kill(process, signal.SIGKILL)
        return killed_at

    def restart_killed(self):
        """So that they can be stopped."""
        for name in list(self.killed):
            self.restart(name)

    def restart(self, name):
        """After a kill, when the last of the processes has ended."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.instances[name].start()
                self.killed.remove(name)
                return
            except Failure:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def find_leader(self):
        """Until a node leads that can be reached."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for name in self.names:
                with contextlib.suppress(Failure):
                    if self.databases[name].sql("SELECT leader FROM topics.cluster WHERE node = leader") == name:
                        self.leader = name
                        return
            time.sleep(0.05)
        raise Failure('no node leads')

    def wait_until_level(self):
        """Until the other nodes follow, and have all."""
        self.databases[self.leader].wait_for(
            f'SELECT count(*) = {len(self.others())} FROM (SELECT node FROM topics.replica '
            "WHERE role = 'follower' GROUP BY node HAVING bool_and(in_sync AND lag = 0)) n")

    @contextlib.contextmanager
    def sessions(self, names):
        with contextlib.ExitStack() as stack:
            yield {name: stack.enter_context(self.databases[name].session('')) for name in names}

    def move(self, to):
        self.databases[self.leader].sql(f"CALL topics.move_leader('{to}')")
        self.leader = to


class Producers:
    """Clients that produce one record a commit to the node that leads, in the context; then what they were answered."""

    def __init__(self, nodes, sql=PRODUCE, connected='one'):
        self.nodes = nodes
        conninfos = [database.conninfo for database in nodes.databases.values()]
        program = os.path.join(nodes.databases[nodes.leader].work, 'producers')
        self.arguments = [program, str(CLIENTS), connected, sql, *conninfos]
        self.answers = []

    def __enter__(self):
        # acks = all: the default
        self.process = subprocess.Popen(self.arguments, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        time.sleep(BEFORE)
        self.began = time.monotonic()
        time.sleep(BEFORE)
        return self

    def __exit__(self, failure, *_):
        if failure:
            self.process.kill()
        else:
            time.sleep(BEFORE)
        output, _ = self.process.communicate()
        for line in output.splitlines():
            at, client, node, sqlstate = line.split()
            self.answers.append((float(at), int(client), self.nodes.names[int(node)], sqlstate))
        self.answers.sort()
        self.keep()

    def keep(self):
        """All that they were answered, for who looks into a gap."""
        directory = os.environ.get('PG_TOPICS_BENCH_ANSWERS')
        if directory:
            path = os.path.join(directory, f'{time.time():.3f}')
            with open(path, 'w', encoding='ascii') as file:
                file.writelines(f'{at:.6f} {client} {node} {sqlstate}\n' for at, client, node, sqlstate in self.answers)

    def acknowledgements(self):
        return [(at, client, node) for at, client, node, sqlstate in self.answers
                if sqlstate == '00000' and at >= self.began]

    def gaps(self):
        """The longest time, in ms, without an acknowledgement to any, and to one of them."""
        times = collections.defaultdict(list)
        for at, client, _ in self.acknowledgements():
            times['all'].append(at)
            times[client].append(at)
        if len(times) <= CLIENTS:
            raise Failure('a producer was not acknowledged anything')
        longest = {who: 1000 * max(after - before for before, after in zip(ats, ats[1:])) for who, ats in times.items()}
        return {'no producer': longest.pop('all'), 'one producer': max(longest.values())}

    def first_of(self, node, since):
        """How long, in ms, until a node acknowledged something."""
        times = [at for at, _, where in self.acknowledgements() if where == node and at > since]
        if not times:
            raise Failure(f'{node} has acknowledged nothing')
        return 1000 * (times[0] - since)


# -- what is measured ------------------------------------------------------


def move(nodes, **options):
    """A contestant: a planned move while there are producers."""
    def run_one():
        with Producers(nodes, **options) as producers:
            started = time.monotonic()
            nodes.move(nodes.others()[0])
            called = 1000 * (time.monotonic() - started)
        nodes.wait_until_level()
        return producers.gaps() | {'the call': called}
    return run_one


def nothing(nodes, **options):
    """A contestant: producers, and no other node comes to lead."""
    def run_one():
        with Producers(nodes, **options) as producers:
            time.sleep(BEFORE / 5)
        nodes.wait_until_level()
        return producers.gaps()
    return run_one


def moves(bench, nodes):
    bench.compare(f'longest time without an acknowledgement, {CLIENTS} producers', 'ms', {
        'nothing happens': nothing(nodes),
        SET_OFF: move(nodes),
        f'{SET_OFF}, clients connected to all nodes': move(nodes, connected='all'),
    }, [(SET_OFF, 100, '<= 1', 'no producer'),
        (f'{SET_OFF}, clients connected to all nodes', 100, '<= 1', 'no producer')],
        rounds=bench.size(5, 10))


def call_failover(nodes, sessions):
    """On a survivor that has all that the other one has.  Which one, when it was called there, and how often in vain."""
    for refused, name in enumerate(nodes.others()):
        started = time.monotonic()
        # who has less than the other one raises TP009
        with contextlib.suppress(Failure):
            sessions[name].ask(f"CALL topics.failover('{nodes.leader}');")
            return name, started, refused
    raise Failure('no node can lead')


def failover(nodes, **options):
    """A contestant: the leader is killed, and failover called at once."""
    def run_one():
        with nodes.sessions(nodes.others()) as sessions, Producers(nodes, **options) as producers:
            lost = nodes.leader
            nodes.kill(lost)
            name, started, refused = call_failover(nodes, sessions)
            called = 1000 * (time.monotonic() - started)
            nodes.leader = name
        nodes.restart(lost)
        nodes.wait_until_level()
        return {'': producers.first_of(name, started), 'the call': called, 'refused': refused}
    return run_one


def automatic_failover(nodes):
    """A contestant: the leader is killed, and the others notice."""
    def run_one():
        lost = nodes.leader
        nodes.set('automatic_failover', 'on')
        with Producers(nodes) as producers:
            killed_at = nodes.kill(lost)
            time.sleep(NODE_TIMEOUT / 1000)
            nodes.find_leader()
        nodes.restart(lost)
        nodes.wait_until_level()
        nodes.set('automatic_failover', 'off')
        return {'': producers.first_of(nodes.leader, killed_at)} | producers.gaps()
    return run_one


def failovers(bench, nodes):
    rounds = bench.size(3, 5)
    bench.compare('from the call of failover to the first acknowledgement', 'ms', {
        'the leader is killed': failover(nodes),
        'the leader is killed, clients connected to all nodes': failover(nodes, connected='all'),
    }, [('the leader is killed', 100, '<= 1'), ('the leader is killed, clients connected to all nodes', 100, '<= 1')],
        rounds=rounds)
    bench.compare(f'from a kill to the first acknowledgement, node_timeout = {NODE_TIMEOUT} ms', 'ms', {
        'automatic failover': automatic_failover(nodes),
    }, [('automatic failover', NODE_TIMEOUT + 500, '<= 1')], rounds=rounds)


# -- a tail that nobody has confirmed --------------------------------------


def wait_for_end(database, leader, end):
    """Until a node follows the leader, and has what that has."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        # 40001 while a snapshot is of a moment in between
        with contextlib.suppress(Failure):
            if database.sql(f'SELECT leader, ({LOG_END}) FROM topics.cluster') == f'{leader}|{end}':
                return
        time.sleep(0.02)
    raise Failure('a node does not come back')


def divergent_tail(bench, nodes):
    """Records that only the leader has, which is killed; it comes back, and follows another one."""
    def measure(records):
        def run_one():
            old = nodes.leader
            for name in nodes.others():
                nodes.instances[name].stop()
            database = nodes.databases[old]
            database.load('arrays', "SELECT topics.produce_batch('t', :array, partition => 0)", {'pg_topics.acks': '1'},
                          records=records, per_call=min(records, 10_000))
            # what is measured is no recovery
            database.checkpoint()
            nodes.kill(old)
            for name in nodes.others():
                nodes.instances[name].start()
            with nodes.sessions(nodes.others()) as sessions:
                nodes.leader, *_ = call_failover(nodes, sessions)
            nodes.databases[nodes.leader].sql(
                "SELECT count(topics.produce('t', 'new', partition => 0)) FROM generate_series(1, 10)")
            end = nodes.databases[nodes.leader].sql(LOG_END)
            started = time.monotonic()
            nodes.restart(old)
            up = time.monotonic()
            wait_for_end(database, nodes.leader, end)
            came = time.monotonic()
            nodes.wait_until_level()
            return {'records/s': records / (came - up), 'ms': 1000 * (came - up), 'ms to start': 1000 * (up - started)}
        return run_one

    records = bench.size(200_000, 1_000_000)
    few, many = 'a tail of 10 records', f'a tail of {records:,} records'
    bench.compare('a node that led comes back', '', {few: measure(10), many: measure(records)},
                  [(many, 500_000, '>= 1', 'records/s'), (many, few, None, 'ms')], rounds=bench.size(2, 3))


# -- many partitions -------------------------------------------------------


def many_partitions(bench, nodes):
    leader = nodes.databases[nodes.leader]
    for number in range(MANY_TOPICS):
        leader.create_topic(f'many{number}', MANY_PARTITIONS)
        leader.sql(f"SELECT count(topics.produce('many{number}', 'x', partition => p)) "
                   f'FROM generate_series(0, {MANY_PARTITIONS - 1}) p')
    nodes.wait_until_level()
    partitions = f'{MANY_TOPICS * MANY_PARTITIONS:,} partitions'
    bench.compare(f'longest time without an acknowledgement, {partitions}', 'ms', {
        'nothing happens': nothing(nodes, sql=PRODUCE_MANY),
        SET_OFF: move(nodes, sql=PRODUCE_MANY),
    }, [(SET_OFF, 1000, '<= 1', 'no producer')], rounds=bench.size(3, 5))
    bench.compare(f'from the call of failover to the first acknowledgement, {partitions}', 'ms', {
        'the leader is killed': failover(nodes, sql=PRODUCE_MANY),
    }, [('the leader is killed', 1000, '<= 1')], rounds=bench.size(3, 5))
