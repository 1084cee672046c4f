"""A client: gives statements to the server, keeps its history, looks at what comes back."""

import collections
import io
import os
import random
import re
import threading
import time

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_UNKNOWN, new_type, register_type
from statements import Statements
from values import Values
from world import CANARY, CANARY_BYTES, NAMED, ROLES

# Errors of class XX that PostgreSQL raises without pg_topics as well: (file, text)
ALLOWED = [
    # GRANT, ALTER and DROP of one object by several at a time, of which the catalogue has a row
    ("heapam.c", r"tuple concurrently (updated|deleted)"),
    # a commit that is cancelled while it truncates temporary tables (ON COMMIT DELETE ROWS): their indexes stay empty files
    ("md.c", r'could not read blocks? .* in file "base/\d+/t\d+_\d+": read only 0 of'),
    # a literal of no type, where a subquery has hidden that it is one
    ("parse_coerce.c", r"failed to find conversion function from unknown to"),
    # functions of types that sqlsmith gives numbers of its own
    ("timestamp.c", r"invalid INTERVAL typmod"),
    # a cursor with SCROLL whose query is volatile, read backward
    ("nodeLimit.c", r"LIMIT subplan failed to run backwards"),
]

# ... and those of some statements: (file, text, how the statement begins)
ALLOWED_IN = [
    # a table of the role's that is dropped meanwhile
    ("relation.c", r"could not open relation with OID", "REASSIGN OWNED"),
]

ROWS = 20000  # of a result that are looked at
SECRET_TEXTS = (CANARY, CANARY_BYTES, CANARY.encode("utf-16").hex())

# a backend that ends with one of these was told to
ENDED = ("57P01", "25P03", "25P04", "57P05")


class Finding(Exception):
    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind
        self.message = message


def is_allowed(file, message, sql):
    return (any(file == name and re.search(text, message) for name, text in ALLOWED) or
            any(file == name and re.search(text, message) and sql.startswith(begin) for name, text, begin in ALLOWED_IN))


def internal_error(sqlstate, message, file, line, function, sql=""):
    """What to say of an error of class XX; None if it is no finding."""
    if not sqlstate or not sqlstate.startswith("XX") or is_allowed(file, message, sql):
        return None
    return Finding("internal error", f"{sqlstate} {message.splitlines()[0]} ({function}, {file}:{line})")


def take_all_as_text(connection):
    """Values stay as the server sends them: Python's types hold less than PostgreSQL's."""
    cursor = connection.cursor()
    cursor.execute("SELECT array_agg(oid::int) FROM pg_catalog.pg_type WHERE oid < 16384 AND typname NOT IN ('text')")
    register_type(new_type(tuple(cursor.fetchone()[0]), "RAW", lambda value, _: value), connection)


class Session(threading.Thread):
    """One of several; "number" makes its seed."""

    def __init__(self, fuzz, number):
        super().__init__(name=f"session-{number}", daemon=True)
        self.fuzz = fuzz
        self.number = number
        self.random = random.Random(f"{fuzz.seed}/{number}")
        self.values = Values(self.random, fuzz.world)
        self.statements = Statements(self.random, fuzz.world, self.values, number)
        self.path = os.path.join(fuzz.directory, f"session-{number}.sql")
        self.file = open(self.path, "w", encoding="utf-8", errors="backslashreplace")  # pylint: disable=consider-using-with
        self.file.write(f"-- seed {fuzz.seed}, session {number}; the schema is made by world.py\n")
        self.connection = None
        self.pid = None
        self.role = None
        self.started = None  # when the statement that runs began
        self.count = 0
        self.sqlstates = collections.Counter()
        self.refused = {}  # role: why it could not connect
        self.connected = set()  # roles that could
        self.recent = collections.deque(maxlen=40)

    # ------------------------------------------------------------------
    # History
    # ------------------------------------------------------------------

    def note(self, text):
        lines = text.splitlines()
        self.recent.append("\n".join(lines[:5]) + (" ..." if len(lines) > 5 else ""))
        self.file.write(text + "\n")

    def history(self):
        """What to show of it: the last statements."""
        return list(self.recent)

    # ------------------------------------------------------------------
    # The loop
    # ------------------------------------------------------------------

    def run(self):
        try:
            while not self.fuzz.is_over():
                if self.connection is None and not self.connect():
                    time.sleep(0.2)
                    continue
                self.step()
        except Exception as error:  # pylint: disable=broad-exception-caught
            self.fuzz.report("fuzz failed", repr(error), self)
            raise
        finally:
            self.close()
            self.file.close()

    def connect(self):
        self.role = self.random.choices(list(ROLES), list(ROLES.values()))[0]
        try:
            self.connection = psycopg2.connect(host=self.fuzz.server.sockets, user=self.role, dbname="postgres",
                                               application_name=f"fuzz-{self.number}", connect_timeout=20)
            self.connection.autocommit = True
            self.pid = self.connection.info.backend_pid
            take_all_as_text(self.connection)
        except psycopg2.Error as error:
            self.refused[self.role] = str(error)
            self.close()
            return False
        self.connected.add(self.role)
        self.note(f"\\connect - {self.role}\n-- process {self.pid}")
        return True

    def close(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None

    def step(self):
        status = self.connection.info.transaction_status
        if status == TRANSACTION_STATUS_UNKNOWN or self.random.random() < 0.002:
            self.close()
            return
        statement = self.statements.next(status)
        self.count += 1
        self.note(statement.sql + ";" + (f"\n{statement.copy_data}\\." if statement.copy_data is not None else ""))
        self.file.flush()  # it is there if the statement ends all
        began = time.time()
        self.started = time.monotonic()
        try:
            outcome = self.execute(statement)
        except Finding as finding:
            outcome = f"FINDING {finding.message}"
            self.fuzz.report(finding.kind, finding.message, self)
        except psycopg2.Error as error:
            outcome = self.failed(statement, error)
        except (UnicodeError, ValueError) as error:  # psycopg2 cannot decode it
            outcome = f"client: {error}"
        except MemoryError as error:
            outcome = f"client: {error}"
        finally:
            took = time.monotonic() - self.started
            self.started = None
        self.note(f"-- {time.strftime('%H:%M:%S', time.localtime(began))} {took * 1000:.0f} ms {outcome}")

    # ------------------------------------------------------------------
    # A statement
    # ------------------------------------------------------------------

    def execute(self, statement):
        with self.connection.cursor() as cursor:
            if statement.copies:
                output = io.StringIO()
                # psycopg2 wants a file for either way
                cursor.copy_expert(statement.sql, io.StringIO(statement.copy_data) if statement.copy_data is not None else _Bytes(output))
                self.look_at(statement, output.getvalue())
                result = "copied"
            else:
                cursor.execute(statement.sql)
                result = cursor.statusmessage or "done"
                if cursor.description is not None:
                    rows = cursor.fetchmany(ROWS)
                    self.look_at(statement, repr(rows))
        self.sqlstates["00000"] += 1
        self.fuzz.succeeded(statement.sql)
        self.look_at_notices(statement)
        return result

    def look_at_notices(self, statement):
        notices = self.connection.notices
        if notices:
            self.look_at(statement, "".join(notices))
            del notices[:]

    def look_at(self, statement, text):
        """Raises a Finding if a role saw what it has no right to."""
        if any(secret in text for secret in SECRET_TEXTS):
            raise Finding("secret", f"{self.role} was shown {CANARY}")
        if NAMED in text and NAMED not in statement.sql and not self.may_know_names(statement.sql):
            raise Finding("secret", f"{self.role} was shown a name with {NAMED}")

    @staticmethod
    def may_know_names(sql):
        """PostgreSQL's catalogues show the names of views to all, and what was kept from an earlier statement is not looked at."""
        return any(word in sql for word in ("pg_", "regclass", "EXECUTE", "FETCH", "c1", "c2", "v1", "v2", "m1", "p1", "pg_temp", "evil", "ANALYZE", "VACUUM"))

    def failed(self, statement, error):
        diagnostics = error.diag
        sqlstate = error.pgcode
        self.sqlstates[sqlstate] += 1
        message = str(error)
        finding = internal_error(sqlstate, message, diagnostics.source_file, diagnostics.source_line, diagnostics.source_function, statement.sql)
        if finding:
            self.fuzz.report(finding.kind, finding.message, self)
        if any(secret in message for secret in SECRET_TEXTS):
            self.fuzz.report("secret", f"{self.role} was told {message}", self)
        if self.connection.closed:
            self.lost(sqlstate, message)
        else:
            self.look_at_notices_of_failed(statement)
        return f"ERROR {sqlstate} {message.splitlines()[0] if message else ''}"

    def look_at_notices_of_failed(self, statement):
        try:
            self.look_at_notices(statement)
        except Finding as finding:
            self.fuzz.report(finding.kind, finding.message, self)

    def lost(self, sqlstate, message):
        """The server's log says why, in time."""
        self.connection = None
        if sqlstate not in ENDED:
            self.fuzz.lost_connections.append((self, str(self.pid), message))


class _Bytes:
    """A file for COPY TO: takes bytes or text, binary as hexadecimal."""

    def __init__(self, output):
        self.output = output

    def write(self, data):
        if self.output.tell() < 1000000:
            self.output.write(data if isinstance(data, str) else data.decode("utf-8", "backslashreplace"))
        return len(data)

    def read(self, _size=-1):
        return ""
