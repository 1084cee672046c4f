"""Three nodes beside three brokers of Apache Kafka, all on this machine.  run has had Maven get Kafka."""
import base64
import contextlib
import functools
import os
import socket
import subprocess
import tempfile
import uuid

from groups.nodes import CLIENTS, cluster
from server import WARM_UP, Failure, run_program

TITLE = 'three nodes beside three brokers of Kafka'
BROKERS = 3
METER = os.path.join(os.path.dirname(__file__), os.pardir, 'kafka', 'Meter.java')
TOPICS = {'Kafka': ('written', ''), 'Kafka, flush.messages = 1': ('flushed', 'flush.messages=1')}
TARGETS = {'Kafka': '>= 1', 'Kafka, flush.messages = 1': '>= 2'}

CONFIGURATION = '''process.roles=broker,controller
node.id={number}
log.dirs={directory}/log
controller.quorum.voters={voters}
listeners=PLAINTEXT://{address},CONTROLLER://{controller}
controller.listener.names=CONTROLLER
'''


def run(bench):
    with cluster(bench) as led, brokers(bench.server.work) as servers, Meter(bench.server.work, servers) as meter:
        meter.ask(f'brokers {BROKERS}')
        for topic, settings in TOPICS.values():
            meter.ask(f'create {topic} {BROKERS} min.insync.replicas=2 {settings}')
            # the brokers' virtual machines compile while they work
            meter.measure(topic, max(CLIENTS), bench.size(5, 30))

        for clients in bench.size((1, 32), CLIENTS):
            ours = {'two followers': led.produce(clients, bench.seconds)}
            if led.can_acknowledge:
                ours['one of two followers, acks = all'] = led.produce(clients, bench.seconds, 1, 'all')
            theirs = {name: functools.partial(meter.measure, topic, clients, bench.seconds)
                      for name, (topic, _) in TOPICS.items()}
            bench.compare(f'one record an acknowledgement, clients: {clients}', 'records/s', ours | theirs,
                          [('one of two followers, acks = all', name, target)
                           for name, target in TARGETS.items() if led.can_acknowledge])


def java(work, *arguments):
    """Of a program that ends with this one, whatever happens to it."""
    return ['setpriv', '--pdeathsig', 'KILL', 'java', '-Xmx512m', '-cp', os.path.join(work, 'kafka', '*'), *arguments]


@contextlib.contextmanager
def brokers(work, settings=''):
    """Brokers that are controllers as well, with some settings more, by the addresses by which clients find them."""
    free = free_addresses(2 * BROKERS)
    addresses, controllers = free[:BROKERS], free[BROKERS:]
    voters = ','.join(f'{number}@{address}' for number, address in enumerate(controllers, 1))
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip('=')
    started = {}
    with contextlib.ExitStack() as stack:
        for number, (address, controller) in enumerate(zip(addresses, controllers), 1):
            directory = stack.enter_context(tempfile.TemporaryDirectory(dir=work))
            configuration = os.path.join(directory, 'server.properties')
            with open(configuration, 'w', encoding='ascii') as file:
                file.write(CONFIGURATION.format(number=number, directory=directory, voters=voters, address=address,
                                                controller=controller) + settings)
            run_program(java(work, 'kafka.tools.StorageTool', 'format', '-t', cluster_id, '-c', configuration),
                        os.environ)
            started[address] = Broker(java(work, 'kafka.Kafka', configuration))
            stack.callback(started[address].kill)
        yield started


class Broker:
    """A broker's process."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def kill(self):
        end(self.process)

    def shut_down(self):
        """The controlled shutdown: its partitions get other leaders before."""
        self.process.terminate()
        self.process.wait()


def end(process):
    """What it has written is removed: it need not end well."""
    process.kill()
    process.wait()


def free_addresses(count):
    """On this machine, and nobody's at the moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(('127.0.0.1', 0))) for _ in range(count)]
        return [f'127.0.0.1:{each.getsockname()[1]}' for each in sockets]


class Meter:
    """Kafka's clients: kafka/Meter.java, told one thing after the other."""

    def __init__(self, work, servers):
        self.process = subprocess.Popen(java(work, METER, ','.join(servers)), text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        end(self.process)

    def ask(self, command):
        self.process.stdin.write(command + '\n')
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if not answer:
            raise Failure(f'Kafka: {command}')
        return answer

    def measure(self, topic, clients, seconds):
        """Records acknowledged a second."""
        rate = float(self.ask(f'measure {topic} {clients} {WARM_UP} {seconds}'))
        os.sync()  # what Kafka has left to the system is not to be written while others are measured
        return rate
