"""Bytes: on disk, of WAL, of shared memory, and of a large transaction's own memory."""
TITLE = 'bytes on disk, of WAL and in memory'


def run(bench):
    server = bench.server
    records = bench.size(200_000, 1_000_000)
    server.create_topic('t')
    server.create_topic('single')
    server.create_heap('heap', 'single_heap')
    server.create_keyed('keyed', 'single_keyed')

    def wal(work):
        start = server.sql('SELECT pg_current_wal_insert_lsn()')
        count = work()
        return server.number(f"SELECT pg_current_wal_insert_lsn() - '{start}'") / count

    def bulk(table):
        def work():
            return server.load('copy-in', f'COPY {table} (value) FROM STDIN', records=records,
                               per_transaction=10_000)['records']
        return work

    def single(sql):
        def work():
            return server.load('rate', sql, clients=8, seconds=bench.seconds)['records']
        return work

    server.checkpoint()
    bench.note('WAL per record, 10,000 a commit', 'bytes', {
        'topic': wal(bulk('topic.t')), 'heap': wal(bulk('heap')), 'heap with a key': wal(bulk('keyed'))})
    bench.note('WAL per record, one a commit by 8 clients', 'bytes', {
        'topic': wal(single("SELECT topics.produce('single', :value)")),
        'heap': wal(single('INSERT INTO single_heap (value) VALUES (:value)')),
        'heap with a key': wal(single('INSERT INTO single_keyed (value) VALUES (:value)'))})
    bench.note('disk per record, 10,000 a commit', 'bytes', {
        'topic': server.number("SELECT sum(size_bytes) / sum(log_end_offset) FROM topics.partition WHERE topic = 't'"),
        'heap': server.number('SELECT pg_total_relation_size(\'heap\') / count(*)::float FROM heap'),
        'heap with a key': server.number('SELECT pg_total_relation_size(\'keyed\') / count(*)::float FROM keyed')})
    bench.note('shared memory', 'bytes', {
        'per partition of pg_topics.max_partitions': server.number(
            "SELECT sum(allocated_size) / current_setting('pg_topics.max_partitions')::float "
            "FROM pg_shmem_allocations WHERE name LIKE 'pg_topics%'")})

    statement = "INSERT INTO {} (value) SELECT repeat('x', 100) FROM generate_series(1, 1000000);"
    bench.note('memory of a transaction of 1,000,000 records by INSERT ... SELECT', 'kB', {
        'topic': memory(server, "SELECT topics.produce('single', 'x');", statement.format('topic.single')),
        'heap': memory(server, "INSERT INTO single_heap (value) VALUES ('x');", statement.format('single_heap'))})


def memory(server, first, sql):
    """By how much a new session's own memory has grown at most after sql, in kB."""
    with server.session(first) as session:
        pid = session.ask('SELECT pg_backend_pid();')
        before = private_peak(pid)
        session.ask(sql)
        return private_peak(pid) - before


def private_peak(pid):
    """Memory that a process has had at most, less what it shares, in kB."""
    with open(f'/proc/{pid}/status', encoding='ascii') as file:
        status = dict(line.split(':', 1) for line in file)
    return int(status['VmHWM'].split()[0]) - int(status['RssShmem'].split()[0]) - int(status['RssFile'].split()[0])
