"""Whether cost depends on how long the log is."""
TITLE = 'cost by the length of the log'


def run(bench):
    server = bench.server
    sizes = bench.size((100_000, 1_000_000), (100_000, 1_000_000, 10_000_000))
    names = {size: f'{size:,} records' for size in sizes}
    for size in sizes:
        server.create_topic(f't{size}')
        server.create_keyed(f'keyed{size}')
        server.fill(f'topic.t{size}', size)
        server.fill(f'keyed{size}', size)
    server.sql('VACUUM ANALYZE')

    def fetch(size):
        return lambda: server.rate(f"SELECT * FROM topics.fetch('t{size}', 0, :random, 100)", 2, bench.seconds,
                                      random_below=size - 100)

    def fetch_keyed(size):
        sql = f'SELECT * FROM keyed{size} WHERE "offset" >= :random ORDER BY "offset" LIMIT 100'
        return lambda: server.rate(sql, 2, bench.seconds, random_below=size - 100)

    def produce(size):
        return lambda: server.rate(f"SELECT topics.produce('t{size}', :value)", 8, bench.seconds)

    def flat(prefix=''):
        return [(prefix + names[size], prefix + names[sizes[0]], '>= 0.9') for size in sizes[1:]]

    contestants = {names[size]: fetch(size) for size in sizes}
    contestants.update({f'heap with a key, {names[size]}': fetch_keyed(size) for size in sizes})
    bench.compare('fetch of 100 at a random offset', 'reads/s', contestants,
                  flat() + [(f'heap with a key, {names[size]}', f'heap with a key, {names[sizes[0]]}', None)
                            for size in sizes[1:]])
    bench.compare('one record a transaction, 8 clients', 'commits/s', {names[size]: produce(size) for size in sizes},
                  flat())
