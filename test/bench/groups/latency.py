"""How long a commit takes while another session commits 100,000 records at a time."""
import contextlib

TITLE = 'latency of single commits beside commits of 100,000'


def run(bench):
    server = bench.server
    server.create_topic('t', 2)
    server.create_heap('heap', 'other_heap')

    def measure(sql, background):
        def run_one():
            with background() if background else contextlib.nullcontext():
                result = server.load('rate', sql, clients=8, rate=500, warm_up=0.3, seconds=2 * bench.seconds)
            return {metric: result[metric] for metric in ('p50', 'p99', 'p99.9')}
        return run_one

    def giant_topic(partition):
        sql = f"SELECT topics.produce_batch('t', :array, partition => {partition})"
        return lambda: server.background('arrays', sql, seconds=3600, per_transaction=100_000)

    def giant_heap(table):
        return lambda: server.background('copy-in', f'COPY {table} (value) FROM STDIN (FORMAT binary)', binary=True,
                                         seconds=3600, per_transaction=100_000)

    produce = "SELECT topics.produce('t', :value, partition => 0)"
    insert = 'INSERT INTO heap (value) VALUES (:value)'
    for title, topic, heap in [('alone', None, None),
                               ('giants to the same partition', giant_topic(0), giant_heap('heap')),
                               ('giants to another partition', giant_topic(1), giant_heap('other_heap'))]:
        bench.compare(f'500 commits a second, {title}', 'ms', {
            'topic': measure(produce, topic),
            'heap': measure(insert, heap),
        }, [('topic', 'heap', None, metric) for metric in ('p50', 'p99', 'p99.9')])
