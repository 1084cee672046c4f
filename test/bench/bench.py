"""Measures pg_topics beside plain tables.  Started by run, which makes the server.

A group (groups/*.py) is a module with TITLE and run(bench).  It compares contestants: each is run once in
every round, one after the other, so that what else the machine does, and what it did before, meets all of
them alike.  What counts is the median of the ratios within rounds.
"""
import argparse
import datetime
import importlib
import itertools
import json
import os
import platform
import statistics
import sys
import time

import report
from server import CORES, Failure, Server

GROUPS = ['bulk', 'single', 'numbered', 'pipelined', 'read', 'random', 'size', 'topics', 'snapshot', 'waiting',
          'latency', 'space', 'consume', 'wakeup', 'groups', 'members', 'retention', 'compaction', 'nodes', 'leaders',
          'kafka', 'kafka_leaders']
ON_REQUEST = ['kafka', 'kafka_leaders']  # measured only if they are asked for by name


class Bench:
    """What a group works with: a database of its own, sizes, and compare()."""

    def __init__(self, server, quick):
        self.server = server
        self.servers = [server]  # all that are measured
        self.quick = quick
        self.rounds = 2 if quick else 5
        self.seconds = 0.5 if quick else 3  # of each measurement by time
        self.measurements = []

    def size(self, quick, full):
        return quick if self.quick else full

    def compare(self, title, unit, contestants, ratios=(), rounds=None, warm_up=True):
        """Runs contestants in turn, and notes values and ratios.  Gives contestant -> {metric: [values]}.

        contestants: name -> function without arguments that gives a number, or a dictionary of metric -> number.
        ratios: (contestant, against, target, metric); target is text like '>= 0.95', or None.  Metric can be left out.
            against is another contestant, or a number in the same unit.
        warm_up: a round before, which is not counted.
        """
        rounds = rounds or self.rounds
        values = {name: {} for name in contestants}
        say(f'\n{title}')
        for server in self.servers:
            server.checkpoint()
        for turn in range(0 if warm_up else 1, rounds + 1):
            for name, measure in contestants.items():
                result = measure()
                if not isinstance(result, dict):
                    result = {'': result}
                label = f'round {turn} of {rounds}' if turn else 'warm-up'
                say(f'  {label}: {name}: {report.metrics_text(result, unit)}')
                if turn:
                    for metric, value in result.items():
                        values[name].setdefault(metric, []).append(value)

        self.measured(title, unit, values, ratios, say_title=False)
        return values

    def measured(self, title, unit, values, ratios=(), say_title=True):
        """Keeps values, contestant -> [values] or contestant -> {metric: [values]}, and their ratios."""
        values = {name: metrics if isinstance(metrics, dict) else {'': metrics} for name, metrics in values.items()}
        measurement = {'title': title, 'unit': unit, 'values': values,
                       'ratios': [make_ratio(values, *ratio) for ratio in ratios]}
        self.measurements.append(measurement)
        if say_title:
            say(f'\n{title}')
            for name, metrics in values.items():
                say(f'  {name}: ' + report.metrics_text({m: statistics.median(v) for m, v in metrics.items()}, unit))
        for ratio in measurement['ratios']:
            say('  ' + report.ratio_text(ratio))

    def skip(self, what, reason):
        say(f'\nSKIPPED: {what}: {reason}')

    def note(self, title, unit, values):
        """Keeps numbers that are counted, not timed: contestant -> number."""
        self.measured(title, unit, {name: [value] for name, value in values.items()})


def make_ratio(values, contestant, against, target=None, metric=''):
    base = values[against][metric] if against in values else itertools.repeat(against)
    pairs = list(zip(values[contestant][metric], base))
    if not all(b > 0 for _, b in pairs):
        raise Failure(f'{against} has done nothing that {contestant} could be compared with')
    ratios = [a / b for a, b in pairs]
    median = statistics.median(ratios)
    met = None
    if target:
        sign, limit = target.split()
        met = median >= float(limit) if sign == '>=' else median <= float(limit)
    return {'contestant': contestant, 'against': str(against), 'metric': metric, 'target': target, 'met': met,
            'median': median, 'min': min(ratios), 'max': max(ratios)}


def say(text):
    print(text, flush=True)


def machine():
    """What the figures depend on."""
    def first(path, key):
        with open(path, encoding='utf-8') as file:
            for line in file:
                if line.startswith(key):
                    return line.split(':', 1)[1].strip()
        return ''
    return {'processor': f'{CORES} × {first("/proc/cpuinfo", "model name")}',
            'memory': f'{int(first("/proc/meminfo", "MemTotal").split()[0]) / 1024 / 1024:.0f} GB',
            'system': f'{platform.system()} {platform.release()}'}


def run_group(name, work, quick):
    group = importlib.import_module(f'groups.{name}')
    say(f'\n== {name}: {group.TITLE}')
    server = Server(work, f'bench_{name}')
    server.create_database()
    bench = Bench(server, quick)
    started = time.monotonic()
    try:
        group.run(bench)
    finally:
        server.drop_database()
    return {'format': report.FORMAT, 'group': name, 'title': group.TITLE, 'seconds': round(time.monotonic() - started),
            'measurements': bench.measurements}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--work', required=True)
    parser.add_argument('--commit', default='')
    parser.add_argument('--quick', action='store_true')
    parser.add_argument('groups', nargs='*')
    arguments = parser.parse_args()

    results = os.path.join(arguments.work, 'results')
    load = os.getloadavg()[0]
    if load > CORES / 2:
        say(f'The machine is not idle, its load average is {load:.1f}: do not trust what is measured now.')
    about = dict(machine(), load=load, commit=arguments.commit, quick=arguments.quick,
                 server=Server(arguments.work, 'postgres').sql('SHOW server_version'),
                 date=datetime.datetime.now().astimezone().isoformat(timespec='seconds'))
    groups = arguments.groups or [group for group in GROUPS if group not in ON_REQUEST]
    for name in groups:
        result = dict(run_group(name, arguments.work, arguments.quick), about=about)
        with open(os.path.join(results, f'{name}.json'), 'w', encoding='utf-8') as file:
            json.dump(result, file, indent=1)
        report.write(results, GROUPS)
    say('\n' + report.summary(results, groups))


if __name__ == '__main__':
    try:
        main()
    except Failure as failure:
        sys.exit(f'bench: {failure}')
