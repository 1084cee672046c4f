"""What is looked at: the server's log while the clients work, and the topics when they have ended."""

import os
import re
import threading
import time

from session import ENDED, internal_error
from sql import identifier
from world import CANARY, NAMED, SECRETS

CRASH = re.compile(r"PANIC:|TRAP:|terminated by signal|Sanitizer|runtime error:|DEADLYSIGNAL|exited with exit code (?![01]\b)\d+|"
                   r"(reference|refcount|file|File|snapshot) leak|leaked hash_seq_search|"
                   r"problem in (alloc set|slab|[Gg]eneration|[Bb]ump)|resource was not closed|you don't own a lock|"
                   r"AbortTransaction while in|AbortSubTransaction while in|lock table corrupted|snapshot .* still active")
PREFIX = re.compile(r"^\d{4}-\d\d-\d\d [\d:.]+ \S+ \[(\d+)\] (\S*) ([A-Z][A-Z ]*\d?):  (.*)")


class LogReader(threading.Thread):
    """Follows the server's log, and reports crashes and internal errors of any process."""

    def __init__(self, path, report, report_crash):
        super().__init__(name="log", daemon=True)
        self.path = path
        self.report = report
        self.report_crash = report_crash
        self.stopped = threading.Event()
        self.pending = {}  # process: the internal error whose LOCATION is to come
        self.ended = set()  # processes that were told to
        self.applications = set()  # those that errors are of

    def run(self):
        while not os.path.exists(self.path):
            if self.stopped.wait(0.1):
                return
        with open(self.path, encoding="utf-8", errors="backslashreplace") as file:
            while True:
                last = self.stopped.is_set()
                for line in file:
                    self.take(line.rstrip("\n"))
                if last:
                    return
                self.stopped.wait(0.2)

    def finish(self):
        self.stopped.set()
        self.join()

    def take(self, line):
        match = PREFIX.match(line)
        if not match:
            if CRASH.search(line):
                self.report_crash(line)
            return
        pid, application, severity, text = match.groups()
        self.applications.add(application)
        if severity in ("ERROR", "FATAL", "PANIC", "WARNING") and text.startswith("XX"):
            self.pending[pid] = (application, severity, text)
        elif severity == "FATAL" and text[:5] in ENDED:
            self.ended.add(pid)
        elif severity == "LOCATION" and pid in self.pending:
            self.located(pid, text)
        if severity == "DETAIL" and text.startswith("Failed process was running"):
            self.report_crash(line)
        elif severity in ("WARNING", "LOG", "PANIC") and CRASH.search(f"{severity}:  {text}"):
            # sqlsmith gives back advisory locks that it does not have
            if not (application.startswith("sqlsmith") and "you don't own a lock" in text):
                self.report_crash(line)

    def located(self, pid, text):
        application, severity, error = self.pending.pop(pid)
        function, _, place = text.partition(", ")
        file, _, line = place.partition(":")
        if application.startswith("fuzz-") and severity == "ERROR":
            return  # the session reports it
        finding = internal_error(error[:5], error[7:], file, line, function)
        if finding:
            self.report(finding.kind, f"{application} [{pid}]: {finding.message}")


# ----------------------------------------------------------------------
# When the clients have ended
# ----------------------------------------------------------------------

PARTITIONS = """
SELECT t.topic, p.partition, p.log_start_offset, p.log_end_offset, c.gaps_below
FROM topics.topic t JOIN topics.partition p USING (topic) JOIN topic_log.partition c ON c.topic_id = t.topic_id AND c.partition = p.partition
ORDER BY 1, 2"""


def _rows(connection, sql, *arguments):
    with connection.cursor() as cursor:
        cursor.execute(sql, arguments or None)
        return cursor.fetchall() if cursor.description else []


def _partition_problem(connection, topic, partition, start, end, gaps_below):
    """What is wrong with a partition's records, or None."""
    view = "topic." + identifier(topic)
    count, distinct, low, high, disorder, text = _rows(connection, f"""
        SELECT count(*), count(DISTINCT o), min(o), max(o), count(*) FILTER (WHERE o <= before), max(r)
        FROM (SELECT "offset" AS o, lag("offset") OVER () AS before, length(s::text) AS r FROM {view} s WHERE partition = {partition}) r""")[0]
    if start is None or end is None:
        return "its ends are not known"
    if distinct != count or disorder:
        return f"{count} records, {distinct} offsets, {disorder} out of order"
    if count and (low < start or high >= end):
        return f"records from {low} to {high}, but the log is from {start} to {end}"
    if gaps_below <= start and count != end - start:
        return f"{count} records from {start} to {end}"
    scanned = _rows(connection, f"""SELECT count(*) FROM (SELECT * FROM {view} r WHERE r.partition = {partition} AND r.offset >= {start}
                                    ORDER BY r.offset LIMIT 1000000000) r""")[0][0]
    back = _rows(connection, f"""SELECT count(*) FROM (SELECT * FROM {view} r WHERE r.partition = {partition} AND r.offset < {end}
                                 ORDER BY r.offset DESC) r""")[0][0]
    fetched = _rows(connection, "SELECT count(*) FROM topics.fetch_bytea(%s, %s, %s, max_records => 2147483647, max_bytes => 2147483647)",
                    topic, partition, start)[0][0]
    if not count == scanned == back == fetched:
        return f"{count} records; by Offset Scan {scanned}, backward {back}, by fetch {fetched}"
    return None


def logs(connection):
    """Checks all partitions.  ({(topic, partition): (start, end)}, [what is wrong])"""
    ends, problems = {}, []
    _rows(connection, "SET max_parallel_workers_per_gather = 0")
    _rows(connection, "SET statement_timeout = '2min'")
    for topic, partition, start, end, gaps_below in _rows(connection, PARTITIONS):
        ends[topic, partition] = (start, end)
        for attempt in range(3):
            try:
                problem = _partition_problem(connection, topic, partition, start, end, gaps_below)
            except Exception as error:  # pylint: disable=broad-exception-caught
                problem = f"cannot be read: {error}"
            if not problem:
                break
            # records may have expired since
            time.sleep(0.5)
            row = [row for row in _rows(connection, PARTITIONS) if row[0] == topic and row[1] == partition]
            if not row:
                problem = None
                break
            start, end, gaps_below = row[0][2:]
        if problem:
            problems.append(f"{topic}[{partition}]: {problem}")
    return ends, problems


def topics(connection):
    """What is wrong otherwise, as a list."""
    problems = [f"broken_topic: {row}" for row in _rows(connection, "SELECT * FROM topics.broken_topic")]
    problems += [f"append_wait: {row}" for row in _rows(connection, "SELECT * FROM topics.append_wait")]
    problems += [f"worker: {row}" for row in _rows(
        connection, "SELECT topic, partition, step, sqlstate, message FROM topics.worker WHERE sqlstate NOT IN ('55P03', '55006', '57014', '00000') "
                    "OR state IN ('hung', 'missing')")]
    problems += [f"group of {NAMED}: {row}" for row in _rows(
        connection, f"SELECT * FROM topics.consumer_offset WHERE group_id LIKE '{NAMED}%%' AND (committed_offset <> 1 OR metadata NOT LIKE '{CANARY}%%')")]
    for name in SECRETS:
        count = _rows(connection, f"SELECT count(*) FROM topic.{identifier(name)} WHERE value LIKE '{CANARY}%%'")[0][0]
        total = _rows(connection, f"SELECT sum(log_end_offset - log_start_offset) FROM topics.partition WHERE topic = '{name}'")[0][0]
        if (count, total) != (200, 200):
            problems.append(f"{name}: {count} of {total} records are those that it had")
    problems += [f"evil: {row}" for row in _rows(connection, "SELECT * FROM evil.caught LIMIT 5")]
    return problems


def worker_works(connection, patience=60):
    """Whether the worker, after now, looks at all partitions."""
    began = _rows(connection, "SELECT clock_timestamp()")[0][0]
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        _rows(connection, "SELECT topics.produce('worker.rounds', 'x')")
        if _rows(connection, "SELECT 1 FROM topics.worker WHERE last_round > %s", began):
            return True
        time.sleep(0.3)
    return False
