"""Consuming in a transaction: the records, and the committed offset with them."""
import contextlib
import itertools

TITLE = 'consume'
HELD = 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class;'
ALL = 'max_bytes => 2147483647'


def run(bench):
    batches(bench)
    single(bench)
    held_snapshot(bench)


def batches(bench):
    """Each run reads the whole log, as a new group."""
    server = bench.server
    records = bench.size(300_000, 1_000_000)
    new_group = itertools.count()
    server.create_topic('t')
    server.create_topic('eight', 8)
    server.fill('topic.t', records)
    for partition in range(8):
        server.fill('topic.eight', records // 8, partition=partition)

    def consume(topic, sessions):
        def run_one():
            group = f'g{next(new_group)}'
            result = server.load('rate', f"SELECT * FROM topics.consume('{group}', '{topic}', 1000, {ALL})",
                                 clients=sessions, seconds=60, until_empty=True, binary=True)
            return result['rows'] / result['seconds']
        return run_one

    def read(call, first):
        """The whole log, by a session that has called before."""
        return server.load_rate('steps', f'SELECT * FROM {call}', binary=True, before=f'SELECT count(*) FROM {first}')

    def consume_alone():
        group = f'g{next(new_group)}'
        return read(f"topics.consume('{group}', 't', 1000, {ALL})", f"topics.consume('{group}', 't', 1)")

    def fetch():
        return read(f"topics.fetch('t', 0, :position, 1000, {ALL})", "topics.fetch('t', 0, 0, 1)")

    bench.compare(f'{records:,} records in batches of 1,000, a commit each', 'records/s', {
        'consume': consume_alone,
        'fetch': fetch,
    }, [('consume', 'fetch', '>= 0.8')])
    bench.compare(f'{records:,} records of 8 partitions in batches of 1,000, a commit each', 'records/s', {
        '8 sessions': consume('eight', 8),
        '1 session': consume('eight', 1),
    }, [('8 sessions', '1 session', None)])


def single(bench):
    server = bench.server
    for sessions, topic in (1, 'single'), (8, 'single_eight'):
        server.create_topic(topic, sessions)
        for partition in range(sessions):
            server.fill(f'topic.{topic}', bench.size(100_000, 300_000) // sessions, partition=partition)

        def consume():
            return server.rate(f"SELECT * FROM topics.consume('g', '{topic}', 1)", sessions, bench.seconds)

        def produce():
            return server.rate(f"SELECT topics.produce('{topic}', :value)", sessions, bench.seconds)

        bench.compare(f'one record a transaction, {sessions} of both, sessions and partitions', 'commits/s', {
            'consume': consume,
            'produce': produce,
        }, [('consume', 'produce', '>= 0.8')])


def held_snapshot(bench):
    """Commits of offsets leave no dead rows that a snapshot would keep: the last are as fast as the first."""
    server = bench.server
    chunk = bench.size(3_000, 10_000)
    chunks = bench.size(4, 10)
    for topic in 'held', 'free':
        server.create_topic(topic)
        server.fill(f'topic.{topic}', chunk * chunks)

    def consume(topic, chunk):
        return server.pgbench(f"SELECT * FROM topics.consume('g', '{topic}', 1)", 1, transactions=chunk)

    for topic, snapshot in ('free', None), ('held', HELD):
        with server.session(snapshot) if snapshot else contextlib.nullcontext():
            rates = [consume(topic, chunk) for _ in range(chunks)]
            dead = server.number('SELECT sum(pg_stat_get_dead_tuples(oid)) FROM pg_class')
        name = 'with a snapshot held open' if snapshot else 'without'
        bench.measured(f'{chunk * chunks:,} transactions that consume one record, {name}', 'commits/s', {
            f'first {chunk:,}': rates[:1], f'last {chunk:,}': rates[-1:]},
            [(f'last {chunk:,}', f'first {chunk:,}', '>= 0.9')])
        bench.note(f'dead rows afterwards, {name}', 'rows', {'whole database': dead})
