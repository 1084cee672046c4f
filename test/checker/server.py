"""A private server, and what can be done to its processes.

The data directory is made below the directory of the run.  Where full disks
are to be tried, "disks" names two small file systems, and data and WAL go
there.  Clients connect through a Unix socket; there is no TCP.  The
configuration None makes no data directory: pair.py copies another's.
"""

import glob
import os
import shutil
import signal
import subprocess
import time

import psycopg2

USER = "checker"
DATABASE = "postgres"
FAKETIME = "/usr/lib/*/faketime/libfaketime.so.1"

CONFIGURATION = """
shared_preload_libraries = 'pg_topics'
listen_addresses = ''
max_connections = 60
max_prepared_transactions = 10
shared_buffers = 32MB
min_wal_size = 32MB
max_wal_size = 64MB
checkpoint_timeout = 30s
fsync = on
restart_after_crash = on
autovacuum_naptime = 5s
deadlock_timeout = 200ms
max_parallel_workers_per_gather = 0
log_line_prefix = '%m [%p] %e %a: '
log_min_messages = warning
log_min_error_statement = panic
log_checkpoints = off
pg_topics.worker_interval = 300ms
"""


class ServerFailure(Exception):
    pass


def faketime_library():
    """The path of libfaketime, or None."""
    found = sorted(glob.glob(FAKETIME))
    return found[0] if found else None


class Server:
    def __init__(self, bindir, directory, configuration="", disks=None, fake_clock=False):
        os.makedirs(directory, exist_ok=True)
        self.bindir = bindir
        self.directory = directory
        self.log = os.path.join(directory, "server.log")
        self.sockets = os.path.join(directory, "s")
        self.disks = disks
        self.data = os.path.join(disks[0] if disks else directory, "data")
        self.wal = os.path.join(disks[1], "wal") if disks else None
        self.clock_file = os.path.join(directory, "clock")
        self.environment = {name: value for name, value in os.environ.items()
                            if not name.startswith("PG")}
        if fake_clock:
            self.set_clock(0)
            self.environment.update(
                LD_PRELOAD=faketime_library(), FAKETIME_TIMESTAMP_FILE=self.clock_file,
                FAKETIME_CACHE_DURATION="1", FAKETIME_DONT_FAKE_MONOTONIC="1",
                DONT_FAKE_MONOTONIC="1", FAKETIME_DISABLE_SHM="1")
        os.mkdir(self.sockets)
        if configuration is not None:
            self._make(configuration)

    def program(self, name, *arguments, check=True):
        """Runs one of PostgreSQL's programs; True if it succeeded."""
        result = subprocess.run([os.path.join(self.bindir, name), *arguments],
                                env=self.environment, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if check and result.returncode != 0:
            raise ServerFailure(f"{name} failed: {result.stdout}")
        return result.returncode == 0

    def _make(self, configuration):
        arguments = ["-D", self.data, "-U", USER, "-A", "trust", "-N", "--no-locale", "-E", "UTF8"]
        if self.wal:
            arguments += ["-X", self.wal]
        self.program("initdb", *arguments)
        with open(os.path.join(self.data, "postgresql.conf"), "a", encoding="utf-8") as file:
            file.write(f"{CONFIGURATION}{configuration}\n")

    def logs(self):
        return [self.log]

    def remove(self):
        for directory in (self.data, self.wal):
            if directory:
                shutil.rmtree(directory, ignore_errors=True)

    # ------------------------------------------------------------------
    # Start and stop
    # ------------------------------------------------------------------

    def start(self, wait=True):
        """Starts it; with wait, until it accepts connections."""
        # pg_ctl gives its output to the server: a pipe would never end
        with open(os.path.join(self.directory, "pg_ctl.log"), "a", encoding="utf-8") as output:
            result = subprocess.run(
                [os.path.join(self.bindir, "pg_ctl"), "-D", self.data, "-l", self.log,
                 "-o", f"-c unix_socket_directories='{self.sockets}'", "-t", "60", "-w" if wait else "-W", "start"],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        return result.returncode == 0

    def prepare(self, schema):
        """Makes what clients need."""
        connection = self.connect("setup")
        connection.cursor().execute(schema)
        connection.close()

    def stop(self, mode):
        return self.program("pg_ctl", "-D", self.data, "-m", mode, "-t", "60", "-w", "stop", check=False)

    def is_up(self):
        try:
            self.connect("check", connect_timeout=2).close()
            return True
        except psycopg2.Error:
            return False

    def ensure_up(self, patience=60):
        """Waits until it accepts connections; starts it if its postmaster has gone."""
        deadline = time.monotonic() + patience
        while not self.is_up():
            if time.monotonic() > deadline:
                raise ServerFailure("the server does not come back")
            if not self.postmaster():
                self.start()
            time.sleep(0.05)

    def connect(self, name, connect_timeout=10):
        connection = psycopg2.connect(host=self.sockets, user=USER, dbname=DATABASE,
                                      application_name=name, connect_timeout=connect_timeout)
        connection.autocommit = True
        return connection

    def switch_wal(self):
        """Lets it go on in its next WAL file; False if it cannot."""
        try:
            connection = self.connect("faults", connect_timeout=2)
            connection.cursor().execute("SELECT pg_switch_wal()")
            connection.close()
            return True
        except psycopg2.Error:
            return False

    # ------------------------------------------------------------------
    # Processes
    # ------------------------------------------------------------------

    def postmaster(self):
        """The postmaster's process id, or None if it is not running."""
        try:
            with open(os.path.join(self.data, "postmaster.pid"), encoding="utf-8") as file:
                pid = int(file.readline())
            with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
                return pid if "postgres" in file.read() else None
        except (OSError, ValueError):
            return None

    def processes(self):
        """{process id: title} of the postmaster's children."""
        postmaster = self.postmaster()
        result = {}
        for entry in os.listdir("/proc") if postmaster else ():
            if not entry.isdigit():
                continue
            try:
                with open(f"/proc/{entry}/stat", encoding="utf-8") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
                if parent != postmaster:
                    continue
                with open(f"/proc/{entry}/cmdline", encoding="utf-8") as file:
                    result[int(entry)] = file.read().rstrip("\0 ")
            except (OSError, ValueError):
                continue
        return result

    def backends(self):
        """{process id: what it does} of the sessions of clients."""
        prefix = f"postgres: {USER} {DATABASE} [local]"
        return {pid: title[len(prefix):].strip() for pid, title in self.processes().items()
                if title.startswith(prefix)}

    def workers(self):
        return [pid for pid, title in self.processes().items() if "pg_topics" in title]

    @staticmethod
    def send(pid, number):
        """Sends a signal; False if the process has gone."""
        try:
            os.kill(pid, number)
            return True
        except ProcessLookupError:
            return False

    def kill_all(self):
        """kill -9 of all processes, and waits for their end."""
        postmaster = self.postmaster()
        if not postmaster:
            return
        self.send(postmaster, signal.SIGSTOP)  # it must not start any
        victims = [*self.processes(), postmaster]
        for pid in victims:
            self.send(pid, signal.SIGKILL)
        while any(_is_alive(pid) for pid in victims):
            time.sleep(0.005)

    def continue_all(self):
        for pid in [self.postmaster(), *self.processes()]:
            if pid:
                self.send(pid, signal.SIGCONT)

    # ------------------------------------------------------------------
    # Clock and disks
    # ------------------------------------------------------------------

    def set_clock(self, seconds):
        """The server's clock: this many seconds from now; it hears of it within a second."""
        new = self.clock_file + ".new"
        with open(new, "w", encoding="utf-8") as file:
            file.write(f"{seconds:+d}\n")
        os.replace(new, self.clock_file)

    def fill_disk(self, number, spare):
        """Fills a small disk up to "spare" bytes.  The result is the file that does it."""
        path = os.path.join(self.disks[number], "ballast")
        space = os.statvfs(self.disks[number])
        size = space.f_bavail * space.f_frsize - spare
        with open(path, "wb") as file:
            if size > 0:
                try:
                    os.posix_fallocate(file.fileno(), 0, size)
                except OSError:
                    pass  # the server was faster; what there is will do
        return path


def _is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
