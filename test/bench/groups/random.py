"""100 records at a random offset."""
TITLE = '100 records at a random offset'


def run(bench):
    server = bench.server
    records = bench.size(300_000, 1_000_000)
    server.create_topic('t')
    server.create_keyed('keyed')
    server.fill('topic.t', records)
    server.fill('keyed', records)
    server.sql('VACUUM ANALYZE keyed')

    def rate(sql, clients):
        return lambda: server.rate(sql, clients, bench.seconds, random_below=records - 100)

    for clients in bench.size((1,), (1, 8)):
        bench.compare(f'{records:,} records, clients: {clients}', 'reads/s', {
            'fetch': rate("SELECT * FROM topics.fetch('t', 0, :random, 100)", clients),
            'SELECT from the topic': rate('SELECT * FROM topic.t WHERE partition = 0 AND "offset" >= :random '
                                          'ORDER BY "offset" LIMIT 100', clients),
            'heap with a key': rate('SELECT * FROM keyed WHERE "offset" >= :random ORDER BY "offset" LIMIT 100',
                                    clients),
        }, [('fetch', 'heap with a key', '>= 1.0'),
            ('SELECT from the topic', 'heap with a key', '>= 0.8')])
