"""Producers when another node, or another broker of Apache Kafka, comes to lead.  run has had Maven get Kafka."""
import time

from groups.kafka import BROKERS, Meter, brokers
from groups.leaders import BEFORE, CLIENTS, NODE_TIMEOUT, Nodes, automatic_failover, move
from groups.nodes import cluster

TITLE = 'another leader, beside three brokers of Kafka'
# a broker that is killed is noticed as soon as a node, and so is a controller
SETTINGS = f'''broker.session.timeout.ms={NODE_TIMEOUT}
broker.heartbeat.interval.ms={NODE_TIMEOUT // 5}
controller.quorum.fetch.timeout.ms={NODE_TIMEOUT}
controller.quorum.election.timeout.ms={NODE_TIMEOUT // 2}
'''
SETTLE = 5  # seconds until a broker that is back works as the others


def run(bench):
    with cluster(bench) as led:
        nodes = Nodes(led)
        nodes.set('node_timeout', f'{NODE_TIMEOUT} ms')
        nodes.set('automatic_failover', 'off')
        try:
            with brokers(bench.server.work, SETTINGS) as servers, Meter(bench.server.work, servers) as meter:
                measure(bench, nodes, servers, meter)
        finally:
            nodes.restart_killed()


def measure(bench, nodes, servers, meter):
    meter.ask(f'brokers {BROKERS}')
    meter.ask(f'create t {BROKERS} min.insync.replicas=2')
    meter.measure('t', CLIENTS, bench.size(5, 30))

    def kafka(change, wait):
        def run_one():
            meter.ask(f'start t {CLIENTS}')
            time.sleep(2 * BEFORE)
            broker = servers[meter.ask('leader t')]
            change(broker)
            time.sleep(wait)
            longest, longest_of_one = map(float, meter.ask('stop').split())
            broker.start()
            meter.ask(f'brokers {BROKERS}')
            meter.ask(f'replicas t {BROKERS}')
            time.sleep(SETTLE)
            return {'no producer': longest, 'one producer': longest_of_one}
        return run_one

    title = f'longest time without an acknowledgement, {CLIENTS} producers'
    rounds = bench.size(2, 5)
    bench.compare(f'{title}: planned', 'ms', {
        'a planned move': move(nodes),
        'Kafka, a controlled shutdown': kafka(lambda broker: broker.shut_down(), 2),
    }, [('a planned move', 'Kafka, a controlled shutdown', '<= 1', 'no producer')], rounds=rounds)
    bench.compare(f'{title}: a kill, noticed after {NODE_TIMEOUT} ms', 'ms', {
        'automatic failover': automatic_failover(nodes),
        'Kafka': kafka(lambda broker: broker.kill(), 5 * NODE_TIMEOUT / 1000),
    }, [('automatic failover', 'Kafka', '<= 1', 'no producer')], rounds=rounds)
