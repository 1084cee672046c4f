"""Whether a snapshot that is held open costs anybody anything."""
import contextlib

TITLE = 'a snapshot held open'
HELD = 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class;'


def run(bench):
    """In each run: open the snapshot or do not, let the log grow, and then measure."""
    server = bench.server
    growth = bench.size(50_000, 200_000)
    for topic in 'without', 'with':
        server.create_topic(topic)
        server.fill(f'topic.{topic}', growth)

    def measure(topic, held):
        def run_one():
            with server.session(HELD) if held else contextlib.nullcontext():
                end = server.number(f"SELECT o.offset FROM topics.list_offsets('{topic}', 'latest') o")
                server.fill(f'topic.{topic}', growth)
                return {
                    'commits': server.rate(f"SELECT topics.produce('{topic}', :value)", 8, bench.seconds),
                    'reads': server.rate(f"SELECT * FROM topics.fetch('{topic}', 0, :random, 100)", 2, bench.seconds,
                                            random_below=int(end)),
                }
        return run_one

    bench.compare('one record a transaction by 8 clients; fetch of 100 at a random offset by 2', 'a second', {
        'without': measure('without', False),
        'with': measure('with', True),
    }, [('with', 'without', '>= 0.9', 'commits'), ('with', 'without', '>= 0.9', 'reads')])

    # A reader inside the snapshot sees a prefix: what came later must not make it slow to find its place.
    with server.session(HELD) as session:
        snapshot = session.ask('SELECT pg_export_snapshot();')
        end = int(server.number("SELECT o.offset FROM topics.list_offsets('with', 'latest') o"))
        server.fill('topic.with', growth)

        def fetch(snapshot_sql):
            return lambda: server.load('rate', "SELECT * FROM topics.fetch('with', 0, :random, 100)", clients=2,
                                       before=f'BEGIN ISOLATION LEVEL REPEATABLE READ; {snapshot_sql}',
                                       seconds=bench.seconds, random_below=end - 100)['rate']

        bench.compare('fetch of 100 at a random offset, by 2 readers in a snapshot', 'reads/s', {
            'new snapshot': fetch(''),
            'old snapshot': fetch(f"SET TRANSACTION SNAPSHOT '{snapshot}'"),
        }, [('old snapshot', 'new snapshot', '>= 0.9')])
