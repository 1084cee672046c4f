"""Reading a log from its start to its end."""
TITLE = 'reading a log from start to end'


def run(bench):
    server = bench.server
    records = bench.size(300_000, 1_000_000)
    server.create_topic('t')
    server.create_heap('heap')
    server.fill('topic.t', records)
    server.fill('heap', records)
    columns = 'partition, "offset", "timestamp", key, value, headers'

    def fetch(step, binary):
        return lambda: server.load_rate(
            'steps', f"SELECT * FROM topics.fetch('t', 0, :position, {step}, max_bytes => 2147483647)", binary=binary)

    def cursor(step, binary):
        return lambda: server.load_rate(
            'steps', f'FETCH {step} FROM c', binary=binary,
            before=f'BEGIN; DECLARE c{" BINARY" if binary else ""} CURSOR FOR SELECT {columns} FROM heap')

    def copy_out(table, binary):
        return lambda: server.load_rate(
            'copy-out', f'COPY (SELECT {columns} FROM {table}) TO STDOUT{" (FORMAT binary)" if binary else ""}',
            binary=binary)

    for binary in (False, True):
        form = 'binary' if binary else 'text'
        for step in (1_000, 10_000):
            bench.compare(f'{records:,} records in steps of {step:,}, {form}', 'records/s', {
                'fetch': fetch(step, binary),
                'cursor, heap': cursor(step, binary),
            }, [('fetch', 'cursor, heap', '>= 0.9')])
        bench.compare(f'COPY (SELECT ...) TO a client of {records:,}, {form}', 'records/s', {
            'topic': copy_out('topic.t', binary),
            'heap': copy_out('heap', binary),
        }, [('topic', 'heap', '>= 0.9')])
