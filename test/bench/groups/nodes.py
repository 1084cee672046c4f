"""What followers cost the leader, how far they are behind, and how fast one of them catches up."""
import concurrent.futures
import contextlib
import queue
import statistics
import time

from server import WARM_UP, Failure, Instance

TITLE = 'a cluster of three nodes'
CLIENTS = (1, 8, 32, 64)
FOLLOWERS = ('b', 'c')
PRODUCE = "SELECT topics.produce('t', :value)"
LOG_END = "SELECT o.offset FROM topics.list_offsets('t', 'latest') o"
SAMPLE = 0.01  # seconds from one look at the leader's log end to the next


def run(bench):
    with cluster(bench) as led, subscribers(bench, led) as heap:
        commits(bench, led, heap)
        lag(bench, led)
        catching_up(bench, led, heap)


# -- what is measured ------------------------------------------------------


class Cluster:
    """Topic t on servers a, which leads, b and c, which follow: instances by name, and the database of each."""

    def __init__(self, instances):
        self.instances = instances
        self.databases = {name: instance.create_database('nodes') for name, instance in instances.items()}
        self.leader = self.databases['a']
        self.can_acknowledge = self.leader.sql("SELECT to_regproc('topics.alter_cluster') IS NOT NULL") == 't'

    def wait_until_level(self):
        """Until both followers have what the leader has."""
        self.leader.wait_for(f"SELECT count(*) FILTER (WHERE lag = 0) = {len(FOLLOWERS)} "
                             "FROM topics.replica WHERE topic = 't' AND role = 'follower'")

    def acknowledge(self, followers):
        """How many followers a commit is to wait for."""
        if self.can_acknowledge:
            self.leader.sql(f'SELECT topics.alter_cluster(acks_followers => {followers})')

    def produce(self, clients, seconds, followers=0, acks=None):
        """A contestant: one record a transaction."""
        def run_one():
            self.acknowledge(followers)
            rate = produce(self.leader, clients, seconds, acks)
            self.wait_until_level()
            return rate
        return run_one


def produce(server, clients, seconds, acks=None):
    return server.rate(PRODUCE, clients, seconds, settings={'pg_topics.acks': acks} if acks else None)


@contextlib.contextmanager
def cluster(bench):
    with contextlib.ExitStack() as stack:
        led = Cluster({name: stack.enter_context(Instance(bench.server.work, name)) for name in ('a', *FOLLOWERS)})
        create_cluster(led.leader)
        for name in FOLLOWERS:
            led.leader.sql(f"CALL topics.add_node('{name}', '{led.databases[name].conninfo}')")
        led.wait_until_level()
        bench.servers += led.databases.values()
        if not led.can_acknowledge:
            bench.skip('commits that wait for a follower', 'there is no function topics.alter_cluster')
        yield led


def create_cluster(server):
    server.sql(f"SELECT topics.create_cluster('a', '{server.conninfo}')")
    server.create_topic('t')


class Subscribers:
    """PostgreSQL's own replication of a heap: from a server of its own to databases of b and c."""

    def __init__(self, publisher, instances):
        self.publisher = publisher
        self.databases = {name: instances[name].create_database('heap') for name in FOLLOWERS}
        publisher.create_heap('heap')
        publisher.sql('CREATE PUBLICATION heap FOR TABLE heap')
        for name, database in self.databases.items():
            database.create_heap('heap')
            # with synchronous_commit = off, the default, commits would wait for the subscriber's WAL writer
            database.sql(f"CREATE SUBSCRIPTION {name} CONNECTION '{publisher.conninfo}' PUBLICATION heap "
                         'WITH (synchronous_commit = on)')
            database.wait_for("SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel")
        publisher.sql(f"ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 ({', '.join(FOLLOWERS)})'")
        publisher.sql('SELECT pg_reload_conf()')
        publisher.wait_for(f"SELECT count(*) FILTER (WHERE sync_state = 'quorum') = {len(FOLLOWERS)} "
                           'FROM pg_stat_replication')

    def wait_until_level(self, subscribers=len(FOLLOWERS)):
        end = self.publisher.sql('SELECT pg_current_wal_lsn()')
        self.publisher.wait_for(f"SELECT count(*) FILTER (WHERE flush_lsn >= '{end}') = {subscribers} "
                                'FROM pg_stat_replication')

    def insert(self, clients, seconds):
        """A contestant: one row a transaction."""
        def run_one():
            rate = self.publisher.rate('INSERT INTO heap (value) VALUES (:value)', clients, seconds)
            self.wait_until_level()
            return rate
        return run_one


@contextlib.contextmanager
def subscribers(bench, led):
    with Instance(bench.server.work, 'd', 'wal_level = logical\n') as instance:
        publisher = instance.create_database('heap')
        bench.servers.append(publisher)
        yield Subscribers(publisher, led.instances)


# -- one record a transaction ----------------------------------------------


def commits(bench, led, heap):
    alone = led.instances['a'].create_database('alone')
    alone.create_topic('t')
    one = led.instances['a'].create_database('one')
    create_cluster(one)
    for clients in bench.size((1, 32), CLIENTS):
        contestants = {
            'no cluster': lambda: produce(alone, clients, bench.seconds),
            'a cluster of one': lambda: produce(one, clients, bench.seconds),
            'two followers': led.produce(clients, bench.seconds),
        }
        ratios = [('a cluster of one', 'no cluster', '>= 0.95'), ('two followers', 'no cluster', '>= 0.5')]
        subscribed = 'heap, one of two subscribers'
        if led.can_acknowledge:
            contestants |= {
                'one of two followers, acks = 1': led.produce(clients, bench.seconds, 1, '1'),
                'one of two followers, acks = all': led.produce(clients, bench.seconds, 1, 'all'),
            }
            ratios += [('one of two followers, acks = 1', 'no cluster', None),
                       ('one of two followers, acks = all', 'one of two followers, acks = 1', None),
                       ('one of two followers, acks = all', subscribed, '>= 1')]
        contestants[subscribed] = heap.insert(clients, bench.seconds)
        bench.compare(f'one record a transaction, clients: {clients}', 'commits/s', contestants, ratios)


# -- lag -------------------------------------------------------------------


def lag(bench, led):
    """From a look at the leader's log end until a follower's log ends there, while records are produced."""
    def measure(clients, rate=0):
        def run_one():
            led.acknowledge(0)
            with led.leader.session('') as session, concurrent.futures.ThreadPoolExecutor() as pool:
                looks = {name: queue.SimpleQueue() for name in FOLLOWERS}
                delays = [pool.submit(follow, led.databases[name], looks[name]) for name in FOLLOWERS]
                try:
                    load = pool.submit(led.leader.load, 'rate', PRODUCE, clients=clients, rate=rate,
                                       seconds=2 * bench.seconds, warm_up=WARM_UP)
                    look_until_done(session, load, looks.values())
                finally:
                    for look in looks.values():
                        look.put(None)
                delays = [delay.result() for delay in delays]
            percentiles = statistics.quantiles([delay for each in delays for delay in each], n=100)
            return {'p50': percentiles[49], 'p99': percentiles[98], 'at the end': max(each[-1] for each in delays)}
        return run_one

    bench.compare('from the leader\'s log end to that of its followers', 'ms', {
        '1,000 commits a second': measure(8, 1_000),
        '32 clients': measure(32),
    })


def look_until_done(session, load, looks):
    """Tells when the leader's log ended where: while there is load, and a last time after it."""
    done = False
    while not done:
        done = load.done()
        looked_at = time.monotonic()
        end = int(session.ask(f'{LOG_END};'))
        for look in looks:
            look.put((looked_at, end))
        time.sleep(SAMPLE)
    load.result()


def follow(follower, looks):
    """How long after each look the follower's log ended there, in ms."""
    delays = []
    with follower.session('') as session:
        for looked_at, end in iter(looks.get, None):
            if end > 0:
                session.ask(f"CALL topics.wait_offset('t', 0, {end - 1}, max_wait => '1 min');")
                delays.append((time.monotonic() - looked_at) * 1000)
                if delays[-1] >= 60_000:
                    raise Failure('a follower has not come to its leader\'s log end in a minute')
    return delays


# -- catching up -----------------------------------------------------------


def catching_up(bench, led, heap):
    """The other follower is stopped all the while."""
    records = bench.size(200_000, 1_000_000)
    name, other = FOLLOWERS
    instance = led.instances[name]
    follower = led.databases[name]
    led.acknowledge(0)
    led.instances[other].stop()
    bench.servers.remove(led.databases[other])

    def measure(wait_for_all):
        """The follower is stopped, and lacks records: what it takes a second, with the server's start."""
        started = time.monotonic()
        instance.start()
        wait_for_all()
        return records / (time.monotonic() - started)

    def topic():
        start = int(follower.number(LOG_END))
        instance.stop()
        led.leader.fill('topic.t', records)

        def wait_for(offset):
            follower.sql(f"CALL topics.wait_offset('t', 0, {offset}, max_wait => '1 min')")
            if follower.number(LOG_END) <= offset:
                raise Failure('a follower does not catch up')
        return measure(lambda: wait_for(start + records - 1))

    def table():
        heap.publisher.sql('TRUNCATE heap')
        instance.stop()
        heap.publisher.load('copy-in', 'COPY heap (value) FROM STDIN', {'synchronous_commit': 'local'},
                            records=records, per_transaction=10_000)
        return measure(lambda: heap.wait_until_level(1))

    bench.compare(f'catching up with {records:,} records', 'records/s', {
        'topic, a follower': topic,
        'heap, a subscriber': table,
    }, [('topic, a follower', 'heap, a subscriber', '>= 1')])
