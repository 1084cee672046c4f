"""64 transactions in flight on one connection."""
TITLE = 'one record a transaction, 64 in flight on one connection'


def run(bench):
    server = bench.server
    server.create_topic('t')
    server.create_heap('heap')

    def rate(sql, settings):
        return lambda: server.load('rate', sql, settings, in_flight=64, seconds=bench.seconds, warm_up=0.2)['rate']

    for commit, settings in [('durable', None), ('synchronous_commit = off', {'synchronous_commit': 'off'})]:
        bench.compare(commit, 'commits/s', {
            'topic': rate("SELECT topics.produce('t', :value)", settings),
            'heap': rate('INSERT INTO heap (value) VALUES (:value)', settings),
        }, [('topic', 'heap', '>= 0.95')])
