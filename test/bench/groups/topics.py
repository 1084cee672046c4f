"""Whether cost depends on how many topics there are."""
from server import Server

TITLE = 'cost by the number of topics'


def run(bench):
    """Two databases of one server: one has one topic, the other has many."""
    count = bench.size(200, 1_000)
    few = bench.server
    many = Server(few.work, few.database + '_many')
    records = 100_000
    many.create_database()
    try:
        many.sql('DO $$ BEGIN FOR i IN 0 .. %d LOOP PERFORM topics.create_topic(\'t\' || i); COMMIT; END LOOP; END $$'
                 % (count - 1))
        few.create_topic('t0')
        for server in few, many:
            server.fill('topic.t0', records)

        def produce(server, topics):
            # with a warm-up: each session meets each topic for the first time once
            return lambda: server.load('rate', "SELECT topics.produce('t' || :random::text, :value)", clients=8,
                                       seconds=bench.seconds, warm_up=0.1 + topics / 500,
                                       random_below=topics)['rate']

        def fetch(server):
            return lambda: server.rate("SELECT * FROM topics.fetch('t0', 0, :random, 100)", 2, bench.seconds,
                                          random_below=records - 100)

        names = ['1 topic', f'1 of {count:,} topics', f'any of {count:,} topics']
        bench.compare('one record a transaction, 8 clients', 'commits/s', {
            names[0]: produce(few, 1), names[1]: produce(many, 1), names[2]: produce(many, count),
        }, [(names[1], names[0], '>= 0.9'), (names[2], names[0], '>= 0.9')])
        bench.compare('fetch of 100 at a random offset', 'reads/s', {
            names[0]: fetch(few), names[1]: fetch(many),
        }, [(names[1], names[0], '>= 0.9')])
    finally:
        many.drop_database()
