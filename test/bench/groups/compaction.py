"""Compaction: what it costs those who produce and fetch meanwhile, and how fast it is by itself."""
import os
import threading
import time

from server import VALUE

TITLE = 'compaction'
KEYS = 100_000
OFF = "'delete', retention_time => '-1 s'"
ON = "'compact', min_cleanable_dirty_ratio => 0"
IDLE = "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pg_topics compactor' AND state = 'active'"
CLEAN = """SELECT p.clean_offset >= {1} FROM topic_log.partition p JOIN topics.topic t USING (topic_id)
    WHERE t.topic = '{0}'"""
PID = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_topics compactor'"


def run(bench):
    server = bench.server
    records = bench.size(1_000_000, 10_000_000)
    segment_bytes = bench.size(8, 64) * 1024 * 1024
    server.sql("ALTER SYSTEM SET pg_topics.worker_interval = '100ms'", 'postgres')
    server.sql('SELECT pg_reload_conf()')
    try:
        foreground(bench, records, segment_bytes)
        alone(bench, records, segment_bytes)
    finally:
        server.sql('ALTER SYSTEM RESET pg_topics.worker_interval', 'postgres')
        server.sql('ALTER SYSTEM RESET pg_topics.compaction_rate', 'postgres')
        server.sql('SELECT pg_reload_conf()')


def fill(server, topic, records, segment_bytes):
    """A topic with so many records of KEYS keys, sealed and not compacted."""
    server.sql(f"SELECT topics.create_topic('{topic}', segment_bytes => {segment_bytes}, cleanup_policy => {OFF})")
    append(server, topic, records)
    server.sql(f"CALL topics.roll_segment('{topic}')")


def append(server, topic, records):
    per_commit = 50_000
    for _ in range(records // per_commit):
        server.sql(f"INSERT INTO topic.{topic} (key, value) SELECT 'key' || (random() * {KEYS})::int, '{VALUE}' "
                   f'FROM generate_series(1, {per_commit})')


def set_policy(server, topic, policy):
    server.sql(f"SELECT topics.alter_topic('{topic}', cleanup_policy => {policy})")


def set_rate(server, rate):
    server.sql(f"ALTER SYSTEM SET pg_topics.compaction_rate = '{rate}'", 'postgres')
    server.sql('SELECT pg_reload_conf()')


def foreground(bench, records, segment_bytes):
    """Commits and reads at the same time, in the partition that is compacted, above what is compacted."""
    server = bench.server
    recent = 100_000
    fill(server, 't', records, segment_bytes)
    append(server, 't', recent)
    base = int(server.number("SELECT o.offset FROM topics.list_offsets('t', 'latest') o")) - recent
    default = server.sql('SHOW pg_topics.compaction_rate')

    def measure(rate):
        def run_one():
            if rate is not None:
                set_rate(server, rate)
                set_policy(server, 't', ON)
                server.wait_for(IDLE.replace('= 0', '= 1'))
            result = both(server, base, recent, bench.seconds)
            if rate is not None:
                if server.sql(CLEAN.format('t', base)) == 't':
                    raise RuntimeError('compaction was too fast to be measured: it needs more records')
                set_policy(server, 't', OFF)
                server.wait_for(IDLE)
            return result
        return run_one

    names = ['nothing else', f'compaction, {default} a second']
    bench.compare(f'one record a transaction by 4 clients, fetch of 100 by 1 client, {records:,} records of '
                  f'{KEYS:,} keys being compacted', 'a second', {
                      names[0]: measure(None), names[1]: measure(default),
                  }, [(names[1], names[0], '>= 0.9', metric) for metric in ('commits', 'fetches')])
    server.sql("SELECT topics.drop_topic('t')")


def both(server, base, recent, seconds):
    """Rates of a producer and a reader that run at the same time."""
    result = {}

    def produce():
        result['commits'] = server.rate("SELECT topics.produce('t', :value, 'key' || :random)", 4, seconds,
                                        random_below=KEYS)

    def fetch():
        result['fetches'] = server.rate(f"SELECT * FROM topics.fetch('t', 0, {base} + :random, 100)", 1, seconds,
                                        random_below=recent - 100)

    threads = [threading.Thread(target=work) for work in (produce, fetch)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return result


def alone(bench, records, segment_bytes):
    """Without a limit, and nobody else there: a log that is dirty, and one that is clean but for a tenth."""
    server = bench.server
    set_rate(server, 0)
    fill(server, 'own', records, segment_bytes)
    for title, more in ('all of it dirty', 0), ('compacted, and a tenth more', records // 10):
        if more:
            append(server, 'own', more)
            server.sql("CALL topics.roll_segment('own')")
        before = size(server)
        seconds, memory = compact(server)
        after = size(server)
        bench.note(f'compaction of {records:,} records of {KEYS:,} keys, {title}', 'MB/s', {
            'log read': before / seconds / 1e6, 'log written': after / seconds / 1e6})
        bench.note(f'… size before and after, {title}', 'MB', {'before': before / 1e6, 'after': after / 1e6})
        bench.note(f'… the compactor, {title}', 'MB', {'peak of its own memory': memory / 1024})
    server.sql("SELECT topics.drop_topic('own')")


def size(server):
    return server.number("SELECT sum(size_bytes) FROM topics.segment WHERE topic = 'own' AND state = 'sealed'")


def compact(server):
    """Seconds from the compactor's start until all is clean, and its peak memory in kB."""
    server.checkpoint()
    peak = 0
    started = None
    end = server.sql("SELECT max(end_offset) FROM topics.segment WHERE topic = 'own' AND state = 'sealed'")
    with server.session('') as session:
        set_policy(server, 'own', ON)
        while True:
            pid, clean = session.ask(f"SELECT ({PID}), ({CLEAN.format('own', end)});").split('|')
            now = time.monotonic()
            if pid:
                started = started or now
                peak = max(peak, own_memory(pid))
            if clean == 't':
                break
            time.sleep(0.01)
    set_policy(server, 'own', OFF)
    server.wait_for(IDLE)
    return now - started, peak


def own_memory(pid):
    """What a process has now that it does not share, in kB; 0 if it has gone."""
    try:
        with open(f'/proc/{pid}/status', encoding='ascii') as file:
            status = dict(line.split(':', 1) for line in file)
        return int(status['RssAnon'].split()[0])
    except (FileNotFoundError, ProcessLookupError, KeyError):
        return 0
