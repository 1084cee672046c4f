#!/usr/bin/python3
"""fuzz.py: random statements by ordinary roles; test/fuzz/run builds what it needs.

Several sessions call every function of pg_topics with random arguments, query
and change topics, tables and views, in random transactions; sqlsmith does so
with random queries.  Meanwhile statements are cancelled, sessions ended, and
settings changed.  A finding is a crash, an internal error (class XX) that is
not known as PostgreSQL's own, a statement that does not end, a record that a
role has no right to, and what is wrong with the topics at the end, also after
a restart and a crash.

A finding is printed with the last statements of its session.  The histories of
all sessions, the server's log and what sqlsmith said are left in --keep.
"""

import argparse
import collections
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time

import psycopg2

sys.path.insert(1, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "checker"))

import judge  # noqa: E402
import server as servers  # noqa: E402
from session import Session  # noqa: E402
from sql import identifier  # noqa: E402
from world import NEW_NAMES, OWN_TOPICS, SCHEMA, SECRETS, TOPICS, World, evil_schema  # noqa: E402

CONFIGURATION = """
max_connections = 40
log_error_verbosity = verbose
log_min_error_statement = error
log_line_prefix = '%m [%p] %a '
log_parameter_max_length_on_error = 100
log_temp_files = -1
temp_file_limit = 500MB
fsync = off
statement_timeout = 2s
idle_in_transaction_session_timeout = 5s
max_parallel_workers_per_gather = 2
max_worker_processes = 12
pg_topics.max_partitions = 200
pg_topics.max_group_offsets = 1000
pg_topics.worker_interval = 500ms
pg_topics.notify_interval = 20ms
autovacuum_naptime = 3s
max_wal_size = 256MB
"""

KINDS_TO_STOP_AT = ("hang",)
MOST_FINDINGS = 20


class Fuzz:
    """A run: the server, the sessions, the findings."""

    def __init__(self, options):
        self.options = options
        self.seed = options.seed
        self.directory = options.directory
        self.random = random.Random(f"{self.seed}/pest")
        self.findings = collections.OrderedDict()  # signature: [how often, text]
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.lost_connections = []
        self.calls = collections.Counter()  # function: calls that succeeded
        self.server = None
        self.world = None
        self.sessions = []
        self.smith = None
        self.smith_queries = 0

    # ------------------------------------------------------------------
    # What sessions use
    # ------------------------------------------------------------------

    def is_over(self):
        return self.stop.is_set()

    def succeeded(self, sql):
        for name in set(re.findall(r'\b(topics|topic_log)\."(\w+)"\(', sql)):
            self.calls[name] += 1

    def report(self, kind, message, session=None):
        """Prints a finding once, and counts it."""
        signature = kind + ("" if kind == "crash: what ran" else re.sub(r"\d+", "N", message)[:200])
        with self.lock:
            seen = self.findings.get(signature)
            if seen:
                seen[0] += 1
                return
            self.findings[signature] = [1, f"{kind}: {message}"]
            lines = [f"== finding {len(self.findings)}: {kind}", message]
            if session is not None:
                lines += [f"seed {self.seed}, session {session.number}, role {session.role}, process {session.pid}; its last statements:"]
                lines += ["    " + line.replace("\n", "\n    ") for line in session.history()]
            print("\n".join(lines), flush=True)
            if kind in KINDS_TO_STOP_AT or len(self.findings) >= MOST_FINDINGS:
                self.stop.set()

    def report_crash(self, line):
        """A line of the server's log; the session is the one whose process it names."""
        kind = "crash: what ran" if "Failed process was running" in line else "crash"
        for session in self.sessions:
            if session.pid and re.search(rf"\b{session.pid}\b", line):
                self.report(kind, line, session)
                return
        self.report(kind, line)

    # ------------------------------------------------------------------
    # The run
    # ------------------------------------------------------------------

    def run(self):
        self.server = servers.Server(self.options.bindir, os.path.join(self.directory, "server"),
                                     CONFIGURATION + f"backtrace_functions = '{self.options.backtrace}'\n")
        if not self.server.start():
            raise servers.ServerFailure("the server does not start")
        log = judge.LogReader(self.server.log, self.report, self.report_crash)
        log.start()
        for part in SCHEMA.split("-- then\n"):
            self.server.prepare(part)
        self.server.prepare(evil_schema())
        with self.server.connect("world") as connection:
            self.world = World(connection)
        self.sessions = [Session(self, number) for number in range(1, self.options.sessions + 1)]
        threads = [*self.sessions, threading.Thread(target=self.pester, daemon=True), threading.Thread(target=self.watch, daemon=True)]
        for thread in threads:
            thread.start()
        self.let_run()
        self.stop.set()
        self.end_threads(threads)
        self.judge_final_state()
        self.server.stop("fast")
        log.finish()
        return self.summarize(log)

    def end_threads(self, threads):
        """Waits for their end; a process that nothing ends takes the server with it."""
        deadline = time.monotonic() + self.options.patience + 10
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for thread in threads:
            if thread.is_alive():
                self.report("hang", f"{thread.name} does not end", thread if thread in self.sessions else None)
        if any(thread.is_alive() for thread in threads):
            self.server.stop("immediate")
            self.server.start()

    def let_run(self):
        """Until the time is over; sqlsmith beside."""
        deadline = time.monotonic() + self.options.minutes * 60
        said = time.monotonic()
        while time.monotonic() < deadline and not self.stop.is_set():
            self.stop.wait(0.5)
            self.keep_smith_going()
            if time.monotonic() - said > 60:
                said = time.monotonic()
                print(f"{int((deadline - said) / 60)} minutes to go: {self.progress()}", flush=True)
        if self.smith is not None:
            self.smith.terminate()
            self.smith.wait()

    def progress(self):
        count = sum(session.count for session in self.sessions)
        return f"{count} statements, {len(self.findings)} findings"

    def keep_smith_going(self):
        """sqlsmith ends with its number of queries, or when the server goes."""
        if not self.options.sqlsmith or (self.smith is not None and self.smith.poll() is None):
            return
        self.smith_queries += 1
        target = f"host={self.server.sockets} dbname=postgres user=granted application_name=sqlsmith"
        # psycopg2's thread is not in the way of what sqlsmith prints
        output = open(os.path.join(self.directory, "sqlsmith.log"), "ab")  # pylint: disable=consider-using-with
        self.smith = subprocess.Popen(
            [self.options.sqlsmith, f"--target={target}", f"--seed={self.seed + self.smith_queries}", "--max-queries=2000", "--verbose",
             *(["--exclude-catalog"] if self.smith_queries % 3 else [])],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        output.close()

    # ------------------------------------------------------------------
    # The pest, and the watch
    # ------------------------------------------------------------------

    def admin(self):
        connection = self.server.connect("admin")
        connection.cursor().execute("SET statement_timeout = '5s'; SET lock_timeout = '300ms'; SET idle_in_transaction_session_timeout = 0")
        return connection

    def repeatedly(self, work, pause):
        """Calls work(connection, round) as a superuser until the run ends; a server that is away comes back."""
        connection, number = None, 0
        while not self.stop.wait(pause):
            try:
                connection = connection or self.admin()
                work(connection, number)
            except (psycopg2.OperationalError, psycopg2.InterfaceError):
                if connection is None or connection.closed:
                    connection = None
            except psycopg2.Error:
                pass
            number += 1
        if connection is not None:
            connection.close()

    def pester(self):
        self.repeatedly(self.disturb, 0.07)

    def disturb(self, connection, number):
        cursor = connection.cursor()
        kind = self.random.random()
        if kind < 0.75:
            session = self.random.choice(self.sessions)
            if session.pid:
                cursor.execute("SELECT pg_cancel_backend(%s)" if kind < 0.74 else "SELECT pg_terminate_backend(%s)", [session.pid])
        elif kind < 0.8:
            cursor.execute("SELECT gid FROM pg_prepared_xacts WHERE prepared < now() - interval '2 s'")
            for gid, in cursor.fetchall():
                cursor.execute(self.random.choice(["COMMIT PREPARED %s", "ROLLBACK PREPARED %s"]), [gid])
        if number % 20 == 19:
            self.mend_world(cursor)

    def mend_world(self, cursor):
        """Gives back the topics and rights that the sessions have done away with."""
        cursor.execute("SELECT topic FROM topics.topic")
        there = {topic for topic, in cursor.fetchall()}
        known = set(OWN_TOPICS) | {topic.name for topic in TOPICS} | set(SECRETS) | {"worker.rounds"}
        statements = []
        for topic in TOPICS:
            if topic.name not in there:
                statements.append(f"SELECT topics.create_topic('{topic.name}', {topic.options})")
                statements.append(f"GRANT {topic.granted} ON topic.{identifier(topic.name)} TO owners")
        for name in OWN_TOPICS:
            if name not in there:
                statements.append(f"SET SESSION AUTHORIZATION granted; SELECT topics.create_topic('{name}', partitions => 2)")
                statements.append("RESET SESSION AUTHORIZATION")
        for name in there - known - (set(NEW_NAMES) if len(there) < 40 else set()):
            statements.append("SELECT topics.drop_topic('{}')".format(name.replace("'", "''")))
        statements += [line for line in SCHEMA.splitlines() if line.startswith("GRANT ") and ("SCHEMA" in line or "ALL ON" in line)]
        statements.append("ALTER DOMAIN public.short_text DROP NOT NULL")
        for statement in statements:
            try:
                cursor.execute(statement)
            except psycopg2.OperationalError:
                raise
            except psycopg2.Error:
                pass

    def watch(self):
        self.repeatedly(self.look_for_hangs, 0.5)

    def look_for_hangs(self, connection, _number):
        """A statement that its timeout has not ended is a finding, and what it waits for is shown."""
        for session in self.sessions:
            started = session.started
            if started is None or time.monotonic() - started < self.options.patience:
                continue
            cursor = connection.cursor()
            cursor.execute("SELECT pid, wait_event_type, wait_event, state, query FROM pg_stat_activity WHERE state <> 'idle' OR backend_type LIKE 'pg_topics%'")
            activity = "\n    ".join(str(row)[:400] for row in cursor.fetchall())
            cursor.execute("SELECT pid, locktype, relation::regclass, mode, granted FROM pg_locks WHERE NOT granted")
            activity += "\n    ".join(["", *(str(row) for row in cursor.fetchall())])
            stack = subprocess.run(["gdb", "-p", str(session.pid), "-batch", "-ex", "bt"], stdin=subprocess.DEVNULL, capture_output=True,
                                   text=True, check=False).stdout[-6000:] if shutil.which("gdb") else ""
            self.report("hang", f"a statement takes {time.monotonic() - started:.0f} s\n    {activity}\n{stack}", session)
            cursor.execute("SELECT pg_terminate_backend(%s)", [session.pid])

    # ------------------------------------------------------------------
    # The end
    # ------------------------------------------------------------------

    def judge_final_state(self):
        """The topics, as they are, after a restart, and after a crash."""
        if not self.server.is_up():
            self.server.ensure_up()
        self.settle()
        ends = self.judge_topics("at the end", None)
        if not self.server.stop("fast"):
            self.report("hang", "the server does not stop")
        if not self.server.start():
            self.report("final state", "the server does not start again")
            return
        ends = self.judge_topics("after a restart", ends)
        self.server.stop("immediate")
        if not self.server.start():
            self.report("final state", "the server does not start after a crash")
            return
        self.judge_topics("after a crash", ends)

    def settle(self):
        """Ends prepared transactions, and what sqlsmith left running."""
        connection = self.server.connect("settle")
        cursor = connection.cursor()
        cursor.execute("SELECT gid FROM pg_prepared_xacts")
        for gid, in cursor.fetchall():
            cursor.execute("ROLLBACK PREPARED %s", [gid])
        deadline = time.monotonic() + self.options.patience
        while time.monotonic() < deadline:
            cursor.execute("SELECT pid, query FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")
            left = cursor.fetchall()
            if not left:
                break
            cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")
            time.sleep(0.2)
        else:
            self.report("hang", f"processes do not end: {left}")
        cursor.execute("SELECT topics.create_topic('worker.rounds', if_not_exists => true)")
        connection.close()

    def judge_topics(self, when, before):
        """Reports what is wrong; the log ends are those of before."""
        connection = self.server.connect("judge")
        for problem in judge.topics(connection):
            self.report("final state", f"{when}: {problem}")
        ends, problems = judge.logs(connection)
        for problem in problems:
            self.report("final state", f"{when}: {problem}")
        for place, (_, end) in (before or {}).items():
            if place[0] != "worker.rounds" and ends.get(place, (0, end))[1] != end:
                self.report("final state", f"{when}: {place} ends at {ends.get(place)}, before at {end}")
        if not judge.worker_works(connection):
            self.report("final state", f"{when}: the worker does no rounds")
        try:
            connection.cursor().execute("CALL topics.maintain()")
        except psycopg2.Error as error:
            self.report("final state", f"{when}: topics.maintain: {error}")
        connection.close()
        return ends

    def judge_itself(self, log):
        """A run that has tried nothing finds nothing."""
        connected = set().union(*(session.connected for session in self.sessions))
        for session in self.sessions:
            for role in session.refused.keys() - connected:
                self.report("fuzz failed", f"role {role} could not connect: {session.refused[role]}")
            if not session.sqlstates["00000"]:
                self.report("fuzz failed", f"no statement of session {session.number} succeeded")
        if not self.calls:
            self.report("fuzz failed", "no function was called with success")
        if self.options.sqlsmith and self.options.minutes >= 1 and "sqlsmith" not in log.applications:
            self.report("fuzz failed", "sqlsmith has sent nothing: see sqlsmith.log")

    def summarize(self, log):
        self.judge_itself(log)
        for session, pid, message in self.lost_connections:
            if pid not in log.ended and not any(text.startswith("crash") for _, text in self.findings.values()):
                self.report("lost connection", f"process {pid}: {message}", session)
        sqlstates = sum((session.sqlstates for session in self.sessions), collections.Counter())
        called = {(f.schema, f.name) for f in self.world.functions}
        never = sorted(".".join(name) for name in called - set(self.calls))
        print("outcomes:", ", ".join(f"{state} {count}" for state, count in sqlstates.most_common(200)))
        print(f"functions: {len(called) - len(never)} of {len(called)} succeeded; never:", ", ".join(never))
        for count, text in self.findings.values():
            print(f"{count} times: {text.splitlines()[0][:300]}")
        smith = " and sqlsmith" if self.options.sqlsmith else ""
        print(f"seed {self.seed}: {self.options.minutes:g} minutes, {sum(session.count for session in self.sessions)} statements{smith}, "
              f"{sqlstates['00000']} succeeded, {len(self.findings)} findings")
        return 1 if self.findings else 0

    def keep(self):
        if not self.options.keep or self.server is None:
            return
        os.makedirs(self.options.keep, exist_ok=True)
        for name in os.listdir(self.directory):
            if name.endswith((".sql", ".log")):
                shutil.copy(os.path.join(self.directory, name), self.options.keep)
        shutil.copy(self.server.log, self.options.keep)


def main():
    parser = argparse.ArgumentParser(prog="test/fuzz/run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="what the statements are made from; the time, unless given")
    parser.add_argument("--sessions", type=int, default=4)
    parser.add_argument("--patience", type=float, default=30, help="seconds after which a statement hangs")
    parser.add_argument("--sqlsmith", metavar="PROGRAM", help="also sqlsmith's random queries")
    parser.add_argument("--backtrace", metavar="FUNCTIONS", default="relation_open,RelationIdGetRelation",
                        help="PostgreSQL's functions whose errors leave a backtrace in the log")
    parser.add_argument("--keep", metavar="DIRECTORY", help="where histories and logs are left")
    parser.add_argument("--bindir", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--directory", required=True, help=argparse.SUPPRESS)
    options = parser.parse_args()
    fuzz = Fuzz(options)
    print(f"seed {options.seed}", flush=True)
    try:
        return fuzz.run()
    finally:
        fuzz.keep()


if __name__ == "__main__":
    sys.exit(main())
