"""One record a transaction, from several clients."""
TITLE = 'one record a transaction'


def run(bench):
    server = bench.server
    server.create_topic('one')
    server.create_topic('eight', 8)
    server.create_heap('heap')
    server.create_keyed('keyed')
    seconds = bench.size(1, 3)

    def produce(topic, clients, settings):
        return lambda: server.pgbench(f"SELECT topics.produce('{topic}', :value)", clients, settings, seconds=seconds)

    def insert(table, clients, settings):
        return lambda: server.pgbench(f'INSERT INTO {table} (value) VALUES (:value)', clients, settings,
                                      seconds=seconds)

    for commit, settings, counts in [('durable', None, bench.size((1, 32), (1, 8, 32, 64))),
                                     ('synchronous_commit = off', {'synchronous_commit': 'off'},
                                      bench.size((32,), (1, 8, 32, 64)))]:
        by_clients = {}
        for clients in counts:
            by_clients[clients] = bench.compare(f'{commit}, clients: {clients}', 'commits/s', {
                'one partition': produce('one', clients, settings),
                '8 partitions': produce('eight', clients, settings),
                'heap': insert('heap', clients, settings),
                'heap with a key': insert('keyed', clients, settings),
            }, [('one partition', 'heap', '>= 0.95'),
                ('8 partitions', 'heap', '>= 0.95')])
        if 64 in by_clients:
            names = ['one partition', '8 partitions', 'heap']
            bench.measured(f'{commit}, whether 64 clients are too many', 'commits/s',
                           {f'{name}, {clients} clients': by_clients[clients][name]
                            for name in names for clients in (64, 32)},
                           [(f'{name}, 64 clients', f'{name}, 32 clients', '>= 0.67' if name != 'heap' else None)
                            for name in names])
