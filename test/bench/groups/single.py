"""One record a transaction, from several clients."""
TITLE = 'one record a transaction'


def run(bench):
    server = bench.server
    server.create_topic('one')
    server.create_topic('eight', 8)
    server.create_heap('heap')

    def produce(topic, clients, settings):
        return lambda: server.pgbench(f"SELECT topics.produce('{topic}', :value)", clients, bench.seconds,
                                      settings=settings)

    def insert(clients, settings):
        return lambda: server.pgbench('INSERT INTO heap (value) VALUES (:value)', clients, bench.seconds,
                                      settings=settings)

    for commit, settings, counts in [('durable', None, (1, 8, 32, 64)),
                                     ('synchronous_commit = off', {'synchronous_commit': 'off'},
                                      bench.size((32,), (1, 8, 32, 64)))]:
        for clients in counts:
            bench.compare(f'{commit}, {clients} clients' if clients > 1 else f'{commit}, 1 client', 'commits/s', {
                'one partition': produce('one', clients, settings),
                '8 partitions': produce('eight', clients, settings),
                'heap': insert(clients, settings),
            }, [('one partition', 'heap', '>= 0.95'),
                ('8 partitions', 'heap', '>= 0.95')])
