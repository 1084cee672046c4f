"""Whether cost depends on how many groups there are."""
import itertools

from server import Server

TITLE = 'cost by the number of groups'
GROUPS = 50


def run(bench):
    many_readers(bench)
    idle_groups(bench)


def many_readers(bench):
    server = bench.server
    records = bench.size(20_000, 100_000)
    new_group = itertools.count()
    server.create_topic('t')
    server.fill('topic.t', records)

    def consume(groups):
        def run_one():
            group = next(new_group)
            result = server.load('rate', f"SELECT * FROM topics.consume('g{group}_' || :client::text, 't', 1000)",
                                 clients=groups, seconds=60, until_empty=True, binary=True)
            return result['rows'] / result['seconds']
        return run_one

    bench.compare(f'groups that each read {records:,} records in batches of 1,000, at a time', 'records/s', {
        '1 group': consume(1),
        f'{GROUPS} groups': consume(GROUPS),
    }, [(f'{GROUPS} groups', '1 group', '>= 0.9')])


def idle_groups(bench):
    """Two databases of one server: one has idle groups besides the one that is measured."""
    alone = bench.server
    crowded = Server(alone.work, alone.database + '_idle')
    crowded.create_database()
    try:
        for server in alone, crowded:
            server.create_topic('busy')
            server.fill('topic.busy', bench.size(60_000, 300_000))
        crowded.sql(f"SELECT topics.consume('idle' || i, 'busy', 10) FROM generate_series(1, {GROUPS}) i")
        for title, sql, clients in [
                ('produce, one record a transaction, 8 clients', "SELECT topics.produce('busy', :value)", 8),
                ('consume, one record a transaction, 1 session', "SELECT * FROM topics.consume('g', 'busy', 1)", 1)]:
            bench.compare(title, 'commits/s', {
                'no other group': lambda: alone.rate(sql, clients, bench.seconds),
                f'{GROUPS} idle groups': lambda: crowded.rate(sql, clients, bench.seconds),
            }, [(f'{GROUPS} idle groups', 'no other group', '>= 0.9')])
    finally:
        crowded.drop_database()
