"""Runs clients and faults against a private server, and checks what came of it.

Called by ./run, which builds the server.  A round is: a new server, clients
and faults for some seconds, then none, then the final state, then checks.
"""

import argparse
import json
import os
import pwd
import random
import shutil
import signal
import sys
import time

import checks
import checks_damage  # their checks are among those of "checks" then
import checks_keeping
import checks_leaders
import checks_members
import checks_nodes
import checks_producers
import checks_visibility
import faults
import faults_leaders
import faults_nodes
import faults_pair
import followers
import producers
import profiles
import psycopg2
import workload
from history import History, load, operations
from leaders import Leaders
from nodes import Cluster
from pair import Pair
from server import Server, ServerFailure


class Observer(workload.Rereader):
    """Looks at the final state."""

    def probe(self):
        """Everything moves again: each partition takes a record."""
        for topic in (*workload.LOADED, *workload.KEPT, workload.SPREAD):
            for partition in range(self.context.partitions[topic]):
                id = f"probe.{topic}.{partition}"

                def body(answer):
                    self.query("SET statement_timeout = '20s'")
                    (sent_to, offset), = self.committing(
                        "CALL topics.send(%s, %s, partition => %s)", topic, workload.payload(id), partition)
                    answer["ranges"] = [[topic, sent_to, offset, 1]]
                if self.connect():
                    self.perform("produce", body, records=[[topic, partition, id, True]], probe=True)
        for partition in range(self.context.partitions[workload.STATE]):
            key, id = f"k{partition}", f"probe.{partition}"

            def body_of_state(answer):
                (_, offset), = self.committing("CALL topics.send(%s, %s, %s, partition => %s)",
                                               workload.STATE, workload.payload(id), key, partition)
                answer["ranges"] = [[workload.STATE, partition, offset, 1]]
            if self.connect():
                self.perform("state_produce", body_of_state, records=[[partition, key, id]], probe=True)
        if self.connect():
            self.query("SET statement_timeout = 0")

    def seek_everywhere(self, times):
        """Few records at random places, by sessions that know nothing and by one that remembers."""
        for number in range(times):
            if number % 5 == 0:
                self.disconnect()
            if not self.connect():
                continue
            partition = self.random.randrange(self.context.partitions[self.topic])
            end = (self.ends() or {}).get(partition, 0)
            self.read(partition, self.random.randint(0, end), 5, "fetch")

    def records(self, topic, partition):
        return self.query('SELECT "offset", value, (extract(epoch FROM "timestamp") * 1000000)::bigint'
                          f' FROM topic.{topic} WHERE partition = %s', partition)

    def record_state(self):
        """The compacted topic, and what latest() makes of it."""
        identify = workload.identify
        rows, latest = ([[partition, offset, key, None if value is None else identify(value)]
                         for partition, offset, key, value in self.query(
                             f'SELECT partition, "offset", key, value FROM {source} ORDER BY 1, 2')]
                        for source in (f"topic.{workload.STATE}", f"topics.latest('{workload.STATE}')"))
        self.history.event("final", what="state_log", rows=rows, latest=latest)

    # What there is of what, and how much there may be.  Whether bytes are due is
    # judged by the last record of the tail: what died behind it is not counted.
    KEEPING = {
        "bytes of sized above its lowest segment": (
            "SELECT coalesce(sum(size_bytes), 0)::bigint FROM (SELECT size_bytes, row_number() OVER (ORDER BY base_offset) AS number"
            f" FROM topics.segment WHERE topic = '{workload.SIZED}' AND state IN ('sealed', 'active')) s WHERE number > 1",
            workload.RETENTION_BYTES + 4 * 8192 + workload.DEAD_BYTES),
        "records of aged that are too old": (
            f"SELECT count(*) FROM topic.{workload.AGED} WHERE \"timestamp\" < now() - interval '{workload.RETENTION_SECONDS + 15} s'", 0),
        "segments that are deleted, and not dropped": ("SELECT count(*) FROM topics.segment WHERE state = 'deleted'", 0),
        "tables left by compaction": ("SELECT count(*) FROM pg_class WHERE relname LIKE 'pg_temp_%' AND relkind = 'r'"
                                      " AND relnamespace = 'topic_log'::regnamespace", 0),
        "rows of segments that there are not": (
            "SELECT count(*) FROM topic_log.segment s WHERE NOT EXISTS (SELECT FROM topics.topic t JOIN topics.segment o USING (topic)"
            " WHERE t.topic_id = s.topic_id AND o.partition = s.partition AND o.base_offset = s.base_offset)", 0),
        "sessions that hold back VACUUM": (
            "SELECT count(*) FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()"
            " AND backend_type LIKE 'pg_topics%'", 0),
    }

    def record_keeping(self, patience=15):
        """What is kept, when all that is due should be done."""
        deadline = time.monotonic() + patience
        while True:
            values = {what: (self.query(sql, *())[0][0], limit) for what, (sql, limit) in self.KEEPING.items()}
            if all(value <= limit for value, limit in values.values()) or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        self.history.event("final", what="keeping", values=values)

    def record_log(self):
        """The whole log, in the order in which the tables have it."""
        self.query("SET enable_indexscan = off")
        self.query("SET enable_bitmapscan = off")
        bounds = "SELECT topic, partition, log_start_offset, log_end_offset FROM topics.partition"
        for topic, partition, start, end in self.query(bounds):
            if topic == workload.STATE or topic not in workload.TOPICS and not workload.is_fresh(topic):
                continue
            rows = self.records(topic, partition)
            while topic in workload.KEPT:  # until the log start has not moved meanwhile
                found = self.query(bounds + " WHERE topic = %s AND partition = %s", topic, partition)[0][2]
                if found == start:
                    break
                start, rows = found, self.records(topic, partition)
            self.history.event("final", what="log", topic=topic, partition=partition, start=start, end=end,
                               records=[[offset, workload.identify(value), stamp] for offset, value, stamp in rows])
        self.history.event("final", what="places",
                           places=self.query("SELECT partition, next_offset FROM place ORDER BY 1"))
        self.history.event("final", what="groups", committed=self.query(
            "SELECT group_id, partition, committed_offset FROM topics.consumer_offset WHERE topic = %s AND group_id = ANY (%s)"
            " ORDER BY 1, 2", workload.SOURCE, list(workload.CONSUMERS)), work=self.query("SELECT * FROM work ORDER BY 1, 2, 3"))
        self.history.event("final", what="members", committed=self.query(
            "SELECT group_id, topic, partition, committed_offset FROM topics.consumer_offset WHERE group_id <> ALL (%s)"
            " ORDER BY 1, 2, 3", list(workload.CONSUMERS)), work=self.query("SELECT * FROM member_work ORDER BY 1, 2, 3, 4"))
        self.history.event("final", what="book", ids=[id for id, in self.query("SELECT id FROM book ORDER BY number")])

    def record_sessions(self):
        """What sessions that are idle hold: nothing, or it has leaked."""
        rows = self.query("""
            SELECT a.application_name, a.state, a.backend_xmin::text, l.locktype, l.relation::regclass::text, l.mode
            FROM pg_stat_activity a LEFT JOIN pg_locks l ON l.pid = a.pid
            WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid() AND a.state LIKE 'idle%'
                AND (l.pid IS NOT NULL OR a.state <> 'idle' OR a.backend_xmin IS NOT NULL)""")
        self.history.event("final", what="sessions", rows=rows)


def record_server_log(server, history):
    lines = []
    for log in server.logs():
        with open(log, encoding="utf-8", errors="replace") as file:
            lines += [line.rstrip("\n")[:300] for line in file if checks.SUSPICIOUS.search(line)]
    history.event("final", what="server_log", lines=lines[:500])


class Round:
    """One server, one seed."""

    def __init__(self, options, seed, profile, kinds):
        self.options = options
        self.seed = seed
        self.profile = profile
        self.kinds = kinds
        self.seconds = options.seconds
        self.standby = profile in profiles.WITH_STANDBY
        self.leaders = profile in profiles.WITH_LEADERS
        self.nodes = self.leaders or profile in profiles.WITH_NODES
        self.directory = os.path.join(options.directory, f"round-{seed}")
        self.history_path = os.path.join(self.directory, "history.jsonl")

    def run(self):
        """Runs it.  The result is its part of the report."""
        started = time.monotonic()
        os.makedirs(self.directory)
        server = self._make_server()
        history = History(self.history_path)
        history.event("settings", seed=self.seed, profile=self.profile, faults=self.kinds,
                      seconds=self.seconds, standby=self.standby, nodes=self.nodes,
                      leaders=self.leaders, spread=self.profile in profiles.WITH_SPREAD)
        context = workload.Context(server, history, self.seed)
        try:
            if not server.start():
                raise ServerFailure("the server does not start")
            server.prepare(workload.SCHEMA)
            nemesis = self._load(server, context)
            self._finish(server, context)
        finally:
            history.close()
            server.continue_all()
            server.kill_all()
            server.remove()
        events = load(self.history_path)
        return self._report(events, nemesis, time.monotonic() - started)

    def _make_server(self):
        configuration = "\n".join(self.options.conf or ())
        if self.standby:
            return Pair(self.options.bindir, self.directory, configuration, self.seed)
        if self.leaders:
            spread = (workload.SEQUENCED, workload.WORKED_SPREAD) if self.profile in profiles.WITH_SPREAD else ()
            return Leaders(self.options.bindir, self.directory, configuration, spread)
        if self.nodes:
            return Cluster(self.options.bindir, self.directory, configuration)
        disks = self.options.disks if faults.DISK_FAULTS & set(self.kinds) else None
        return Server(self.options.bindir, self.directory, configuration, disks, fake_clock="clock" in self.kinds)

    def _load(self, server, context):
        self.clients = profiles.clients(context, self.profile)
        if "clock" in self.kinds and self.seed % 2 == 0:
            context.jumps = (*workload.CLOCK_JUMPS, workload.FAR_JUMP)
            self.clients = [client for client in self.clients if not isinstance(client, producers.NumberedProducer)]
        kind_of_faults = (faults_pair.PairFaults if self.standby else faults_leaders.LeadersFaults if self.leaders
                          else faults_nodes.NodesFaults if self.nodes else faults.Faults)
        nemesis = kind_of_faults(context, self.kinds, self.options.pause)
        for client in self.clients:
            client.start()
        if self.kinds:
            nemesis.start()
        context.stop.wait(self.seconds)
        until = time.monotonic() + 9 * self.seconds
        while context.history.operations < self.options.operations and time.monotonic() < until and not nemesis.failure:
            context.stop.wait(0.2)
        if nemesis.failure:
            raise nemesis.failure
        if self.kinds:
            nemesis.heal()
            time.sleep(1)  # clients come back, and work for a moment without faults
        context.stop.set()
        self._join(server, context.history)
        for thread in [*self.clients, nemesis]:
            if thread.failure:
                raise thread.failure
        return nemesis

    def _join(self, server, history):
        """Waits for clients; ends the sessions of those that do not come back."""
        def all_ended(patience):
            deadline = time.monotonic() + patience
            for client in self.clients:
                client.join(max(0, deadline - time.monotonic()))
            return not any(client.is_alive() for client in self.clients)

        if all_ended(self.options.patience):
            return
        for client in self.clients:
            client.rescued = client.is_alive()
        for pid in server.backends():
            server.send(pid, signal.SIGTERM)
        if all_ended(5):
            return
        history.event("restart", at="begin", promotion=False)
        server.kill_all()
        history.event("restart", at="end")
        server.ensure_up()
        if not all_ended(20):
            raise ServerFailure("clients do not end")

    def _finish(self, server, context):
        """The final state."""
        server.ensure_up()
        observer = Observer(context, "observer-1")
        observer.connect()
        observer.record_sessions()
        for client in self.clients:
            client.disconnect()
        observer.probe()
        server.ensure_up()  # and a standby has come after
        for client in self.clients:
            if hasattr(client, "drain"):
                client.drain()
        context.history.event("final", what="drained")
        observer.seek_everywhere(60)
        observer.connect()
        observer.record_log()
        observer.record_state()
        observer.record_keeping()
        observer.disconnect()
        if self.nodes:
            followers.record_replicas(server, context.history)
        record_server_log(server, context.history)

    def _report(self, events, nemesis, elapsed):
        outcomes = {"ok": 0, "fail": 0, "info": 0}
        records_read = 0
        all_operations = operations(events)
        for operation in all_operations:
            if operation.f in ("produce", "state_produce", "copy", "consume"):
                outcomes[operation.outcome] += 1
            records_read += len(operation.get("records", ())) if operation.f == "read" else 0
        return {
            "seed": self.seed, "profile": self.profile, "faults": self.kinds,
            "seconds": round(elapsed, 1),
            "transactions": {"committed": outcomes["ok"], "aborted": outcomes["fail"],
                             "unknown": outcomes["info"]},
            "records_read": records_read,
            "operations": len(all_operations),
            "faults_done": nemesis.counts,
            "kills": sum(count * faults.KILLS.get(kind, 0) for kind, count in nemesis.counts.items()),
            "findings": [finding.as_dict() for finding in checks.findings(events)],
        }


# ----------------------------------------------------------------------
# Many rounds
# ----------------------------------------------------------------------

def schedule(options, kinds):
    """The kinds of faults of each round, without end."""
    generator = random.Random(options.seed)
    undisturbed = [kind for kind in kinds if kind not in faults.DISK_FAULTS and kind != "clock"]
    while True:
        if options.faults == "alternate":
            yield undisturbed
            yield list(kinds)
            continue
        if options.faults != "each":
            yield list(kinds)
            continue
        for kind in generator.sample(kinds, len(kinds)):
            yield [kind]
            yield undisturbed  # on a real disk, by the real clock
        yield list(kinds)
        yield []


def summarize(options, rounds, missing, failure=None):
    totals = {"rounds": len(rounds), "hours": round(sum(r["seconds"] for r in rounds) / 3600, 3),
              "kills": sum(r["kills"] for r in rounds), "faults": {},
              "transactions": {"committed": 0, "aborted": 0, "unknown": 0},
              "records_read": sum(r["records_read"] for r in rounds),
              "seeds": [r["seed"] for r in rounds],
              "findings": sum(len(r["findings"]) for r in rounds)}
    for entry in rounds:
        for kind, count in entry["faults_done"].items():
            totals["faults"][kind] = totals["faults"].get(kind, 0) + count
        for outcome, count in entry["transactions"].items():
            totals["transactions"][outcome] += count
    return {"profile": options.profile, "faults_not_available": missing, "failure": failure,
            "totals": totals, "rounds": rounds}


def write_report(path, report):
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)
        file.write("\n")
    os.replace(path + ".new", path)


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(prog="test/checker/run", description=__doc__.partition("\n")[0])
    parser.add_argument("--bindir", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--directory", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--disks", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=30, help="of load in a round")
    parser.add_argument("--operations", type=int, default=0,
                        help="the load goes on until there were so many, but not longer than 10 times --seconds")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--hours", type=float, help="rounds for so long, instead of --rounds")
    parser.add_argument("--profile", default="all", help="who takes part; several by commas, in turn. Profiles:"
                        f" {', '.join(profiles.PROFILES)}")
    parser.add_argument("--faults", default="each",
                        help="kinds, by commas, all together in each round; or all, none; or each: one kind"
                        f" after the other, and all. Kinds: {', '.join(faults.KINDS)}; with a standby:"
                        f" {', '.join(faults_pair.ALL_KINDS)}; in a cluster: {', '.join(faults_nodes.ALL_KINDS)};"
                        f" where any node may lead: {', '.join(faults_leaders.ALL_KINDS)}")
    parser.add_argument("--pause", type=float, default=3, help="seconds between faults, about")
    parser.add_argument("--patience", type=float, default=20, help="seconds for operations after the last fault")
    parser.add_argument("--conf", action="append", metavar="LINE", help="of postgresql.conf")
    parser.add_argument("--report", help="file for the report, machine-readable; rewritten after each round")
    parser.add_argument("--keep", help="directory for histories and server logs of rounds with findings")
    parser.add_argument("--keep-all", action="store_true", help="of all rounds")
    options = parser.parse_args(arguments)
    check_places(parser, options)
    return options


def check_places(parser, options):
    """Refuse, before the first round, what could not be written after it."""
    places = {"--keep": options.keep, "--report": options.report and os.path.dirname(os.path.abspath(options.report))}
    for option, place in places.items():
        try:
            if place:
                os.makedirs(place, exist_ok=True)
        except OSError as error:
            parser.error(f"{option}: {error}")
        if place and not os.access(place, os.W_OK | os.X_OK):
            parser.error(f"{option}: {pwd.getpwuid(os.geteuid()).pw_name}, who runs the servers, may not write to {place}")


def choose_kinds(options, profile):
    """The kinds of faults to do, and {kind: why not}."""
    if profile not in profiles.PROFILES:
        sys.exit(f"there is no profile {profile}")
    if profile in profiles.WITH_STANDBY:
        known, possible, missing = faults_pair.ALL_KINDS, faults_pair.ALL_KINDS, {}
    elif profile in profiles.WITH_LEADERS:
        known, possible, missing = faults_leaders.ALL_KINDS, faults_leaders.ALL_KINDS, {}
    elif profile in profiles.WITH_NODES:
        known, possible, missing = faults_nodes.ALL_KINDS, faults_nodes.ALL_KINDS, {}
    else:
        known, (possible, missing) = faults.KINDS, faults.available(options.disks)
    if options.faults == "none":
        return [], {}
    if options.faults in ("each", "all", "alternate"):
        return possible, missing
    chosen = options.faults.split(",")
    for kind in chosen:
        if kind not in known:
            sys.exit(f"there is no fault {kind} in the profile {profile}")
    return [kind for kind in chosen if kind in possible], {k: why for k, why in missing.items() if k in chosen}


def main(arguments):
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # and end the server
    options = parse_arguments(arguments)
    turns, missing = [], {}
    for profile in options.profile.split(","):
        kinds, not_there = choose_kinds(options, profile)
        turns.append((profile, schedule(options, kinds)))
        missing.update(not_there)
    for kind, why in missing.items():
        print(f"fault {kind} is left out: {why}", flush=True)
    if options.report:
        write_report(options.report, summarize(options, [], missing))
    until = time.monotonic() + options.hours * 3600 if options.hours else None
    rounds = []
    while time.monotonic() < until if until else len(rounds) < options.rounds:
        seed = options.seed + len(rounds)
        profile, kinds_of_rounds = turns[len(rounds) % len(turns)]
        round_kinds = next(kinds_of_rounds)
        this = Round(options, seed, profile, round_kinds)
        try:
            result = this.run()
        except (ServerFailure, psycopg2.Error) as failure:
            # a server that does not come back is the worst of findings
            result = {"seed": seed, "profile": profile, "faults": round_kinds, "seconds": 0,
                      "transactions": {}, "records_read": 0, "operations": 0, "faults_done": {}, "kills": 0,
                      "findings": [{"kind": "down", "message": f"{type(failure).__name__}: {failure}",
                                    "operations": []}]}
        rounds.append(result)
        print_round(result)
        if options.keep and (result["findings"] or options.keep_all):
            shutil.copytree(this.directory, os.path.join(options.keep, f"round-{seed}"),
                            ignore=shutil.ignore_patterns("s", "data"), dirs_exist_ok=True)
        shutil.rmtree(this.directory, ignore_errors=True)
        if options.report:
            write_report(options.report, summarize(options, rounds, missing))
    totals = summarize(options, rounds, missing)["totals"]
    print(f"{totals['rounds']} rounds, {totals['kills']} kills, {totals['transactions']['committed']} committed,"
          f" {totals['transactions']['aborted']} aborted, {totals['transactions']['unknown']} unknown,"
          f" {totals['findings']} findings", flush=True)
    return 1 if totals["findings"] else 0


def print_round(result):
    print(f"seed {result['seed']}: {', '.join(result['faults']) or 'no faults'}: {result['seconds']} s,"
          f" {result['transactions'].get('committed', 0)} committed, {result['kills']} kills,"
          f" {len(result['findings'])} findings", flush=True)
    for finding in result["findings"]:
        print(f"  {finding['kind']}: {finding['message']} {finding['operations'] or ''}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
