"""Retention: what it costs those who produce and fetch while a hundred segments go."""
from groups.compaction import both
from server import VALUE

TITLE = 'retention'
SEGMENTS = 100
GONE = "SELECT min(base_offset) >= %d FROM topics.segment WHERE topic = 't'"


def run(bench):
    server = bench.server
    recent = 100_000
    per_segment = bench.size(1_000, 10_000)
    server.sql("SELECT topics.create_topic('t', retention_time => '-1 s')")

    def fill():
        """A hundred sealed segments, and above them one with what is fetched."""
        for _ in range(SEGMENTS):
            server.sql(f"INSERT INTO topic.t (value) SELECT '{VALUE}' FROM generate_series(1, {per_segment});\n"
                       "CALL topics.roll_segment('t')")
        server.fill('topic.t', recent)
        return int(server.number("SELECT o.offset FROM topics.list_offsets('t', 'latest') o")) - recent

    def measure(retention):
        def run_one():
            base = fill()
            server.checkpoint()
            if retention:
                # all but the active segment: the worker begins at once, and drops them while we measure
                server.sql("SELECT topics.alter_topic('t', retention_bytes => 0)")
            result = both(server, base, recent, bench.seconds)
            server.sql("SELECT topics.alter_topic('t', retention_bytes => 0)")
            server.wait_for(GONE % base)
            server.sql("SELECT topics.alter_topic('t', retention_bytes => -1)")
            return result
        return run_one

    names = ['nothing goes', f'{SEGMENTS} segments go']
    bench.compare(f'one record a transaction by 4 clients, fetch of 100 by 1 client, {SEGMENTS} segments of '
                  f'{per_segment:,} records', 'a second', {
                      names[0]: measure(False), names[1]: measure(True),
                  }, [(names[1], names[0], '>= 0.9', metric) for metric in ('commits', 'fetches')])
