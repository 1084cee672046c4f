"""What sessions that wait for records cost those who produce."""
import contextlib

TITLE = 'producing while others wait or listen'
FAR = 10 ** 15  # an offset that does not come
LOG_END = '''CREATE FUNCTION log_end(topic text) RETURNS bigint LANGUAGE sql
    AS $$ SELECT o.offset FROM topics.list_offsets(topic, 'latest') o $$'''


def run(bench):
    server = bench.server
    server.sql(LOG_END)
    for topic in 't', 'other':
        server.create_topic(topic)
        server.fill(f'topic.{topic}', 10_000)

    def measure(sessions, topic='t', position=FAR):
        def run_one():
            with waiting(server, sessions, topic, position):
                return server.rate("SELECT topics.produce('t', :value)", 8, bench.seconds)
        return run_one

    def measure_listeners(sessions):
        def run_one():
            channel = server.sql("SELECT topics.channel('t')")
            with server.background('listen', f'LISTEN "{channel}"', clients=sessions, seconds=3600):
                server.wait_for_sessions(sessions, 'LISTEN%')
                return server.rate("SELECT topics.produce('t', :value)", 8, bench.seconds)
        return run_one

    names = ['nobody waits', '1 waits', '100 wait', '100 wait for another topic', '100 follow the log']
    bench.compare('one record a transaction, 8 clients', 'commits/s', {
        names[0]: measure(0), names[1]: measure(1), names[2]: measure(100), names[3]: measure(100, 'other'),
        names[4]: measure(100, position="log_end('t')"), '100 listen': measure_listeners(100),
    }, [(name, names[0], '>= 0.9') for name in names[1:4]] +
        [('100 listen', names[0], '>= 0.9'), (names[4], names[0], None)])


@contextlib.contextmanager
def waiting(server, sessions, topic, position):
    """Sessions that wait in CALL topics.wait_offset, and again whenever it returns."""
    if sessions == 0:
        yield
        return
    with server.background('rate', f"CALL topics.wait_offset('{topic}', 0, {position}, max_wait => '1 hour')",
                           clients=sessions, seconds=3600):
        server.wait_for_sessions(sessions, 'CALL topics.wait%')
        yield
