"""How long a consumer who waits learns of a record after its producer's commit."""
import itertools

TITLE = 'from the commit to a consumer who waits'
CHANNEL = "SELECT topics.channel('t')"


def run(bench):
    server = bench.server
    server.create_topic('t')
    new_group = itertools.count()

    def measure(rate, listens):
        def run_one():
            group = f'g{next(new_group)}'
            how = ({'listen': f'LISTEN "{server.sql(CHANNEL)}"'} if listens else
                   {'wait': f"CALL topics.wait('{group}', 't')"})
            server.sql(f"SELECT * FROM topics.consume('{group}', 't', auto_offset_reset => 'latest')")
            result = server.load('wakeup', "SELECT topics.produce('t', :sequence)", clients=8, rate=rate,
                                 warm_up=0.3, seconds=2 * bench.seconds,
                                 consume=f"SELECT value FROM topics.consume('{group}', 't', 1000)", **how)
            return {metric: result[metric] for metric in ('p50', 'p99', 'max')}
        return run_one

    for rate in 100, 5_000:
        bench.compare(f'{rate:,} commits a second', 'ms', {
            'wait': measure(rate, listens=False),
            'LISTEN': measure(rate, listens=True),
        })
