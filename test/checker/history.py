"""The history of a run: what was asked, when, and what was answered.

A file of JSON lines, one event a line, in the order in which they happened.
"t" is in microseconds of one monotonic clock, so events of different clients
can be compared.

  {"t":…, "type":"invoke", "op":7, "client":"producer-1", "f":"produce", …}
      a client begins an operation; what it is going to do is in the rest
  {"t":…, "type":"ok", "op":7, …}      it was done; the rest is the answer
  {"t":…, "type":"fail", "op":7, …}    it was certainly not done
  {"t":…, "type":"info", "op":7, …}    nobody knows: the answer did not come
  {"t":…, "type":"fault", "f":"kill_server", "at":"begin"|"end", …}
  {"t":…, "type":"restart", "at":"begin"|"end", …}
      the server is killed, and will come back, or its standby be promoted
  {"t":…, "type":"survivors", "killed_at":…, "ends":[[node, [[topic, partition, log end]…]]…]}
      what both followers have, which were killed at once
  {"t":…, "type":"leads", "node":…, "term":…}
      a node was seen to lead in a term
  {"t":…, "type":"settings", …}        first line: seed and options
  {"t":…, "type":"final", …}           last lines: what was found at the end
"""

import json
import threading
import time


class History:
    """Writes a history; any thread may."""

    def __init__(self, path):
        self.path = path
        self._file = open(path, "w", encoding="utf-8")
        self._lock = threading.Lock()
        self._started = time.monotonic_ns()
        self.operations = 0  # that have begun

    def now(self):
        return (time.monotonic_ns() - self._started) // 1000

    def _write(self, event):
        line = json.dumps(event, separators=(",", ":"))
        self._file.write(line + "\n")

    def invoke(self, client, f, **details):
        """Notes that an operation begins; the result is its number."""
        with self._lock:
            self.operations += 1
            self._write({"t": self.now(), "type": "invoke", "op": self.operations,
                         "client": client, "f": f, **details})
            return self.operations

    def complete(self, op, outcome, **details):
        with self._lock:
            self._write({"t": self.now(), "type": outcome, "op": op, **details})

    def event(self, kind, **details):
        with self._lock:
            self._write({"t": self.now(), "type": kind, **details})

    def close(self):
        with self._lock:
            self._file.close()


def load(path):
    """The events of a history."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


class Operation:
    """An invocation and its completion in one; details by op["name"]."""

    def __init__(self, invocation):
        self.number = invocation["op"]
        self.client = invocation["client"]
        self.f = invocation["f"]
        self.start = invocation["t"]
        self.end = None  # None: it never ended
        self.outcome = "info"
        self.details = dict(invocation)

    def complete(self, event):
        self.end = event["t"]
        self.outcome = event["type"]
        self.details.update(event)

    def __getitem__(self, name):
        return self.details[name]

    def get(self, name, default=None):
        return self.details.get(name, default)

    def __repr__(self):
        return f"operation {self.number} ({self.f} of {self.client})"


def operations(events):
    """The operations of a history, in the order in which they began."""
    result = {}
    for event in events:
        if event["type"] == "invoke":
            result[event["op"]] = Operation(event)
        elif event["type"] in ("ok", "fail", "info"):
            result[event["op"]].complete(event)
    return list(result.values())
