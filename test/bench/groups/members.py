"""Members of consumer groups: what poll costs, and what a rebalance costs."""
import itertools
import json
import time

from server import Failure

TITLE = 'members of consumer groups'
BATCH = 500
ALL = 'max_bytes => 2147483647'
MEMBERS = 50
PARTITIONS = 200
STAYS = "session_timeout => '30 min', max_poll_interval => '1 day'"

groups = itertools.count()


def join(topic, group):
    return f"SELECT member_id FROM topics.join_group('{group}', ARRAY['{topic}'], {STAYS})"


def poll(members):
    """A statement each, and a transaction."""
    return '\n'.join(f"SELECT count(*) FROM topics.poll('{member}');" for member in members)


class Group:
    """A new group, whose members have all that is their own; one session calls for all of them."""

    def __init__(self, server, topic, size):
        self.server = server
        self.topic = topic
        self.name = f'group{next(groups)}'
        self.members = server.sql(';\n'.join([join(topic, self.name)] * size)).split('\n')
        self.settle()

    def settle(self):
        """Who has given up partitions in the first turn leaves them to the others in the second one."""
        self.server.sql('\n'.join([poll(self.members)] * 2))
        self.require_owners()

    def require_owners(self):
        free = self.server.number(f"SELECT count(*) FROM topics.consumer_lag WHERE group_id = '{self.name}' AND consumer_id IS NULL")
        if free:
            raise Failure(f'{free} partitions of {self.topic} are no member\'s')

    def leave(self):
        """A group that has committed nothing goes with its members."""
        self.server.sql('BEGIN;\n' + '\n'.join(f"SELECT topics.leave_group('{member}');" for member in self.members) + '\nCOMMIT;')


def run(bench):
    batches(bench)
    empty_polls(bench)
    one_more(bench)


def batches(bench):
    """Each run reads the whole log, as a new member.

    Both are sessions that have called before.  poll returns two columns more than fetch: topic and generation.
    """
    server = bench.server
    records = bench.size(200_000, 1_000_000)
    server.create_topic('t')
    server.fill('topic.t', records)

    def read(call, first):
        return server.load_rate('steps', f'SELECT * FROM {call}', binary=True, before=f'SELECT count(*) FROM {first}')

    def polls():
        member = server.sql(join('t', f'batches{next(groups)}'))
        result = read(f"topics.poll('{member}', {BATCH}, {ALL})",
                      f"topics.poll('{member}', 1); SELECT topics.seek('{member}', 't', 0, 0)")
        server.sql(f"SELECT topics.leave_group('{member}')")
        return result

    def fetch():
        return read(f"topics.fetch('t', 0, :position, {BATCH}, {ALL})", "topics.fetch('t', 0, 0, 1)")

    bench.compare(f'{records:,} records in batches of {BATCH}', 'records/s', {
        'poll': polls,
        'fetch': fetch,
    }, [('poll', 'fetch', '>= 0.8')])


def empty_polls(bench):
    """A member has as many partitions in a group of many as it has alone, and nothing comes."""
    server = bench.server
    each = PARTITIONS // MEMBERS
    server.create_topic('few', each)
    server.create_topic('many', PARTITIONS)
    alone, crowded = Group(server, 'few', 1), Group(server, 'many', MEMBERS)

    def empty(group):
        return lambda: server.rate(f"SELECT * FROM topics.poll('{group.members[0]}')", 1, bench.seconds)

    bench.compare(f'polls of {each} partitions without records, 1 session', 'polls/s', {
        'in a group of 1 member': empty(alone),
        f'in a group of {MEMBERS} members': empty(crowded),
    }, [(f'in a group of {MEMBERS} members', 'in a group of 1 member', '>= 0.9')])
    alone.leave()
    crowded.leave()


def one_more(bench):
    """From the call of join_group() until each member has polled twice; then all has an owner."""
    server = bench.server
    values = {}
    sizes = MEMBERS // 10, MEMBERS
    for _ in range(bench.rounds):
        for size in sizes:
            group = Group(server, 'many', size)
            with server.session('SELECT 1;') as session:
                session.ask(poll(group.members[:1]))  # that knows what it needs
                started = time.monotonic()
                group.members.append(session.ask(join('many', group.name) + ';'))
                joined = time.monotonic()
                session.ask('\n'.join([poll(group.members)] * 2))
                ended = time.monotonic()
            group.require_owners()
            moved = json.loads(server.sql(f"SELECT json_agg(partitions) FROM topics.group_member WHERE group_id = '{group.name}'"))
            if sum(moved) != PARTITIONS or max(moved) - min(moved) > 1:
                raise Failure(f'members have {moved} partitions')
            metrics = values.setdefault(f'{size} members', {})
            metrics.setdefault('join_group', []).append((joined - started) * 1000)
            metrics.setdefault('all have polled twice', []).append((ended - started) * 1000)
            metrics.setdefault('a poll', []).append((ended - joined) * 1000 / (2 * len(group.members)))
            group.leave()
    few, many = (f'{size} members' for size in sizes)
    bench.measured(f'one more joins a group that has {PARTITIONS} partitions, one session for all', 'ms', values,
                   [(many, few, None, metric) for metric in values[many]])
