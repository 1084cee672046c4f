"""Many records a transaction, in one session."""
TITLE = 'many records a transaction, one session'


def run(bench):
    server = bench.server
    records = bench.size(300_000, 1_000_000)
    server.create_topic('t')
    server.create_heap('heap')
    server.create_keyed('keyed')
    server.sql("CREATE UNLOGGED TABLE source (value text)")
    server.load('copy-in', 'COPY source FROM STDIN', records=records)
    server.sql('SELECT count(*) FROM source')

    def batch(per_transaction):
        return lambda: server.load_rate('arrays', "SELECT topics.produce_batch('t', :array)", records=records,
                                        per_call=10_000, per_transaction=per_transaction)

    def copy_binary(table, per_transaction):
        return lambda: server.load_rate('copy-in', f'COPY {table} (value) FROM STDIN (FORMAT binary)', binary=True,
                                        records=records, per_transaction=per_transaction)

    def copy_text(table):
        return lambda: server.load_rate('copy-in', f'COPY {table} (value) FROM STDIN', records=records)

    def insert_select(table):
        return lambda: server.load_rate('statement', f'INSERT INTO {table} (value) SELECT value FROM source',
                                        records=records)

    bench.compare('10,000 records a commit', 'records/s', {
        'produce_batch': batch(10_000),
        'COPY BINARY, heap': copy_binary('heap', 10_000),
        'COPY BINARY, heap with a key': copy_binary('keyed', 10_000),
    }, [('produce_batch', 'COPY BINARY, heap', '>= 0.95'),
        ('produce_batch', 'COPY BINARY, heap with a key', '>= 2')])
    bench.compare(f'{records:,} records in one commit', 'records/s', {
        'produce_batch of 10,000': batch(records),
        'COPY BINARY, heap': copy_binary('heap', records),
    }, [('produce_batch of 10,000', 'COPY BINARY, heap', None)])
    bench.compare(f'INSERT ... SELECT of {records:,}', 'records/s', {
        'topic': insert_select('topic.t'),
        'heap': insert_select('heap'),
    }, [('topic', 'heap', '>= 0.9')])
    bench.compare(f'COPY of {records:,} from a client', 'records/s', {
        'topic': copy_text('topic.t'),
        'heap': copy_text('heap'),
    }, [('topic', 'heap', '>= 0.85')])
