"""One record a transaction, with a producer's id and a sequence, and without."""
import secrets

TITLE = 'records that a producer numbers'

# each client is a producer of its own, which is known to nobody before
NUMBER = r"""\set producer :first + 2 * :client_id
\set sequence :sequence + 1
"""


def run(bench):
    server = bench.server
    server.create_topic('one')
    server.create_topic('eight', 8)
    seconds = bench.size(2, 5)

    def plain(topic, partition, clients, settings):
        return lambda: server.pgbench(f"SELECT topics.produce('{topic}', :value, partition => {partition})", clients,
                                      settings, seconds=seconds, before=NUMBER,
                                      variables={'first': 0, 'sequence': -1})

    def numbered(topic, partition, clients, settings):
        return lambda: server.pgbench(
            f"SELECT topics.produce('{topic}', :value, partition => {partition}, producer_id => :producer, "
            "producer_epoch => 0, sequence => :sequence)", clients, settings, seconds=seconds, before=NUMBER,
            variables={'first': 2 * secrets.randbits(60), 'sequence': -1})

    for commit, settings in [('durable', None), ('synchronous_commit = off', {'synchronous_commit': 'off'})]:
        for clients in (1, 32):
            for topic, partition, where in [('one', 0, 'one partition'), ('eight', ':client_id % 8', '8 partitions')]:
                if clients == 1 and topic == 'eight':
                    continue
                bench.compare(f'{commit}, clients: {clients}, {where}', 'commits/s', {
                    'with a number': numbered(topic, partition, clients, settings),
                    'without': plain(topic, partition, clients, settings),
                }, [('with a number', 'without', '>= 0.8')])
