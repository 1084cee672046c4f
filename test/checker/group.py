"""Several private servers of which one is produced to.

To clients and to faults a Group is a Server: what is not said here, or in what
is made of it, is the primary's, whichever of them that is.

fsync is off.  Only processes are killed here, never the machine: what was
written is in the kernel's cache, and survives.  What is lost is what a
process had not written, and what others had not received.
"""

import time

import psycopg2
from server import ServerFailure


class Group:
    primary = None

    def __getattr__(self, name):
        return getattr(self.primary, name)

    def others(self):
        """All servers but the primary."""
        raise NotImplementedError

    def servers(self):
        return [self.primary, *self.others()]

    def logs(self):
        return [server.log for server in self.servers()]

    def kill_all(self):
        for server in self.servers():
            server.kill_all()

    def continue_all(self):
        for server in self.servers():
            server.continue_all()

    def remove(self):
        for server in self.servers():
            server.remove()

    def ask(self, sql, server=None):
        """A value, asked of the primary, or of another, by a session of its own."""
        rows = self.ask_rows(sql, server)
        return rows[0][0] if rows else None

    def ask_rows(self, sql, server=None):
        connection = (server or self.primary).connect("faults")
        try:
            cursor = connection.cursor()
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def await_true(self, sql, server, patience=60):
        self.await_that(lambda: self.ask(sql, server), sql, patience)

    @staticmethod
    def await_that(condition, what, patience=60):
        """Waits until something is true; errors of sessions mean that it is not, yet."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            try:
                if condition():
                    return
            except psycopg2.Error:
                pass
            time.sleep(0.05)
        raise ServerFailure(f"a server does not come after: not within {patience} s: {what}")
