"""What must hold of a history: pure functions, each of a kind of finding.

A check gets a Run, which is a history with its operations paired and its
final state, and yields findings.  It never looks at a server.  What it may
trust: values are unique per topic; "fail" is certain, "info" means unknown.

To add one: write the function, give it @check, and show in test_checks.py a
history that it complains about and one that it does not.
"""

import collections
import itertools
import re

import faults
import workload
from history import operations

CHECKS = []
LOCK_RETRIED = 15000000  # microseconds after a lock of at most 5 s has gone until a follower has tried again
LIMIT = 20  # findings of one kind that are reported


class Finding:
    def __init__(self, kind, message, ops=()):
        self.kind = kind
        self.message = message
        self.ops = [op.number for op in ops]

    def as_dict(self):
        return {"kind": self.kind, "message": self.message, "operations": self.ops}

    def __repr__(self):
        return f"{self.kind}: {self.message}"


def check(function):
    """A check whose findings have its name as their kind."""
    CHECKS.append(function)
    return function


class Place(collections.namedtuple("Place", "topic partition offset")):
    def __str__(self):
        return f"{self.topic}[{self.partition}]@{self.offset}"


class Record:
    """A record that somebody was going to produce."""

    def __init__(self, op, topic, partition, id, alive):
        self.op = op
        self.topic = topic
        self.partition = partition  # None: the key decided
        self.id = id
        self.alive = alive  # not rolled back to a savepoint
        self.places = []  # in the log at the end: one, if all is well
        self.told = None  # where last_produced() said that it is

    @property
    def may_exist(self):
        return self.alive and self.op.outcome != "fail"

    def __str__(self):
        return f"{self.id} of operation {self.op.number} ({self.op.client})"


class Run:
    """A history, with what checks need of it worked out once."""

    def __init__(self, events):
        self.settings = next((event for event in events if event["type"] == "settings"), {})
        self.standby = self.settings.get("standby", False)
        self.nodes = self.settings.get("nodes", False)
        self.leaders = self.settings.get("leaders", False)  # any node may lead
        self.spread = self.settings.get("spread", False)  # numbered records, too, are of topics whose leaders are spread
        self.confirms = self.standby or self.nodes  # readers see what others have confirmed
        self.operations = operations(events)
        self.faults = {event["f"] for event in events if event["type"] == "fault"}
        self.fault_times = []  # (begin, end)
        self.fault_ends = [event for event in events if event["type"] == "fault" and event["at"] == "end"]
        self.leads = [event for event in events if event["type"] == "leads"]
        self.locked = []  # (node, topic, begin, end until the follower has tried again)
        for event in events:
            if event["type"] == "fault" and event["at"] == "begin":
                self.fault_times.append((event["t"], float("inf")))
            elif event["type"] == "fault":
                self.fault_times[-1] = (self.fault_times[-1][0], event["t"])
                # where a leader has one follower, which cannot have a topic, readers of the leader see less of that, too
                nodes = {"follower_locked": [event.get("node")], "topic_locked": event.get("nodes")}.get(event["f"], ())
                self.locked += [(node, event["topic"], self.fault_times[-1][0], event["t"] + LOCK_RETRIED) for node in nodes]
        self.locked = [(node, name, begin, self._until_nodes_are_there(end)) for node, name, begin, end in self.locked]
        self.final = [event for event in events if event["type"] == "final"]

        # {(topic, partition): [[offset, id, timestamp]…]}, in physical order
        self.log = {(event["topic"], event["partition"]): event["records"] for event in self.of("log")}
        self.ends = {(event["topic"], event["partition"]): (event["start"], event["end"]) for event in self.of("log")}
        self.ids = {key: {offset: id for offset, id, *_ in rows} for key, rows in self.log.items()}
        self.records = {}  # {(topic, id): Record}
        self.produced = [op for op in self.operations if op.f == "produce"]
        for op in self.produced:
            op.records = list(self._records_of(op))
            for record in op.records:
                self.records[record.topic, record.id] = record
        for (topic, partition), rows in self.log.items():
            for offset, id, *_ in rows:
                if (topic, id) in self.records:
                    self.records[topic, id].places.append(Place(topic, partition, offset))
        for op in self.produced:
            self._tell(op)
        restarts = [event for event in events if event["type"] == "restart"]
        self.restarts = [(begin["t"], end["t"], begin["promotion"]) for begin, end in zip(restarts[::2], restarts[1::2])]
        self.hidden = list(self._windows_of_restarts()) if self.confirms else []  # (begin, end)
        self.reads = [op for op in self.operations if op.f == "read" and op.outcome == "ok"]
        self.snapshots = [op for op in self.operations if op.f == "snapshot" and op.outcome == "ok"]
        self.follower_looks = [op for op in self.operations if op.f == "follower_look" and op.outcome == "ok"]
        self.survivors = [event for event in events if event["type"] == "survivors"]
        self.has_log = bool(self.log)

    def _until_nodes_are_there(self, end):
        """A follower that was to try again by a time tries when there is a leader again, if nodes are killed before."""
        for event, (begin, until) in zip(self.fault_ends, self.fault_times):
            if "killed" in event["f"] and begin <= end < until + LOCK_RETRIED:
                end = until + LOCK_RETRIED
        return end

    def is_acknowledged(self, op):
        """
        A commit was acknowledged, and nothing takes it back: with "local" a promotion may, with "off" a crash, too.
        And it is visible: where a standby is waited for, only what that has confirmed is.
        """
        mode = op.get("synchronous", "on")
        if self.nodes:
            return op.outcome == "ok" and not mode.startswith("acks_")
        return op.outcome == "ok" and (mode in ("on", "remote_apply") or not self.standby and (mode == "local" or not self.faults))

    def is_durable(self, op):
        """
        The same, but for readers: a leader keeps what it has acknowledged alone, and shows it when a follower has it;
        as long as it leads.
        """
        return self.is_acknowledged(op) or self.nodes and not self.leaders and op.outcome == "ok" and op["synchronous"] == "acks_1"

    def _windows_of_restarts(self):
        """From a restart until the standby has confirmed a commit that began after it, and so all that was before."""
        commits = sorted((op.start, op.end) for op in self.produced
                         if self.is_acknowledged(op) and any(record.alive for record in op.records))
        for begin, killed, _ in self.restarts:
            yield begin, min((end for start, end in commits if start > killed), default=float("inf"))

    def may_hide(self, op):
        """Readers may see less than others have seen before: it is confirmed, and the server does not know any more."""
        return op.get("isolation") != "SERIALIZABLE" and any(begin <= op.start < end for begin, end in self.hidden)

    def may_be_behind(self, op, topic):
        """Somebody has locked a topic of the follower that is looked at: its partitions are brought on later than others."""
        return any(node == op.get("node") and name == topic and begin <= op.end and op.start <= end
                   for node, name, begin, end in self.locked)

    def is_promoted_between(self, begin, end):
        return any(promotion and begin <= killed and time <= end for time, killed, promotion in self.restarts)

    def of(self, what):
        return [event for event in self.final if event["what"] == what]

    @staticmethod
    def _tell(op):
        """Notes where records are, by what their producer was told."""
        for topic, partition, first, count in op.get("ranges") or ():
            there = [record for record in op.records
                     if record.topic == topic and record.partition in (partition, None) and record.alive]
            if len(there) == count:
                for number, record in enumerate(there):
                    record.told = Place(topic, partition, first + number)

    def log_start(self, topic, partition):
        """At the end."""
        return self.ends.get((topic, partition), (0, None))[0]

    def may_be_gone(self, record):
        """Retention, or delete_records(), may have taken a record: it lies below the log start, or nobody knows where."""
        if record.topic not in workload.KEPT:
            return False
        return record.told is None or record.told.offset < self.log_start(*record.told[:2])

    @staticmethod
    def _records_of(op):
        for topic, partition, id, alive in op["records"]:
            yield Record(op, topic, partition, id, alive)
        for topic, partition, prefix, count in op.get("giants", ()):
            for number in range(count):
                yield Record(op, topic, partition, f"{prefix}{number}", True)

    def observations(self):
        """(operation, Place, id) of everything that clients have read."""
        for op in self.reads:
            for offset, id in op["records"]:
                yield op, Place(op["topic"], op["partition"], offset), id
        for op in self.snapshots:
            for partition, offset, id in op["records"] + op.get("again", []):
                yield op, Place(op["topic"], partition, offset), id
        for op in self.follower_looks:
            for topic, partition, offset, id in op["records"] + op.get("again", []):
                yield op, Place(topic, partition, offset), id
        for op in self.operations:
            for partition, rows in taken(op):
                for offset, id in rows:
                    yield op, Place(op["topic"], partition, offset), id
            for topic, partition, rows in polled(op):
                for offset, id in rows:
                    yield op, Place(topic, partition, offset), id

    def final_ids(self, topic, partition):
        """{offset: id} of a partition at the end."""
        return self.ids.get((topic, partition), {})


def taken(op):
    """(partition, [[offset, id]…]) of all that an operation has consumed, committed or not."""
    return op.get("takes", []) + op.get("dropped", []) if op.f == "consume" else []


def polled(op):
    """(topic, partition, [[offset, id]…]) of all that a member has polled, committed or not."""
    return op.get("takes", ()) if op.f in ("member_work", "member_poll") else ()


def is_checked(topic):
    """Its records are told apart by their producers; the others' by their copiers, or they are gone."""
    return workload.is_fresh(topic) or topic in workload.LOADED + workload.KEPT + (workload.PAIRED, workload.NUMBERED, workload.DAMAGED)


# ----------------------------------------------------------------------
# I1 durable, I2 atomic
# ----------------------------------------------------------------------

@check
def lost(run):
    """A record was acknowledged, and is not in the log."""
    if not run.has_log:
        return
    for op in run.produced:
        if run.is_durable(op):
            for record in op.records:
                if is_checked(record.topic) and record.alive and not record.places and not run.may_be_gone(record):
                    yield Finding("lost", f"{record} was acknowledged, and is not in {record.topic}", [op])


@check
def aborted_read(run):
    """A record of a transaction that failed, or that a savepoint took back, was read or is in the log."""
    for op in run.produced:
        for record in op.records:
            if not record.may_exist:
                for place in record.places:
                    yield Finding("aborted_read", f"{record} was rolled back, and is in the log at {place}", [op])
    for reader, place, id in run.observations():
        record = run.records.get((place.topic, id))
        if record and not record.may_exist:
            yield Finding("aborted_read", f"{record} was rolled back, and was read at {place}", [record.op, reader])


@check
def invented(run):
    """A value that nobody has produced."""
    for (topic, partition), rows in run.log.items():
        if is_checked(topic):
            for offset, id, *_ in rows:
                if (topic, id) not in run.records:
                    yield Finding("invented", f"nobody has produced {id}, at {Place(topic, partition, offset)}")
    for op, place, id in run.observations():
        if is_checked(place.topic) and (place.topic, id) not in run.records:
            yield Finding("invented", f"nobody has produced {id}, read at {place}", [op])


@check
def torn_transaction(run):
    """Some records of a transaction, and not others: in the log, or in one snapshot."""
    for op in run.produced:
        if not run.has_log:
            break
        alive = [record for record in op.records
                 if record.may_exist and is_checked(record.topic) and not run.may_be_gone(record)]
        there = sum(1 for record in alive if record.places)
        if 0 < there < len(alive):
            yield Finding("torn_transaction", f"{there} of {len(alive)} records of operation {op.number}"
                          f" ({op.client}) are in the log", [op])
    for op in run.snapshots:
        starts = dict((partition, start) for partition, start in op["starts"])
        seen = {id for _, _, id in op["records"]}
        for writer in {run.records[op["topic"], id].op for _, _, id in op["records"] if (op["topic"], id) in run.records}:
            missing = [record for record in writer.records
                       if record.topic == op["topic"] and record.may_exist and record.id not in seen
                       and any(place.partition in starts and place.offset >= starts[place.partition]
                               for place in record.places)]
            if missing:
                yield Finding("torn_transaction", f"a snapshot of {op.client} has records of operation"
                              f" {writer.number}, but not {missing[0]} at {missing[0].places[0]}", [writer, op])
    for op in run.follower_looks:
        seen = {(topic, partition, offset) for topic, partition, offset, _ in op["records"]}
        starts = {(topic, partition): start for topic, partition, start in op["starts"]}
        for writer in {run.records[topic, id].op for topic, _, _, id in op["records"] if (topic, id) in run.records}:
            missing = [(record, place) for record in writer.records for place in record.places
                       if place not in seen and place.offset >= starts.get(place[:2], 0) and place.topic not in workload.KEPT
                       and not run.may_be_behind(op, place.topic)]
            if missing:
                record, place = missing[0]
                yield Finding("torn_transaction", f"a look of {op.client} at {op['node']} has records of operation"
                              f" {writer.number}, but not {record} at {place}", [writer, op])


# ----------------------------------------------------------------------
# I3 one value per place, I7 duplicates
# ----------------------------------------------------------------------

@check
def inconsistent_offset(run):
    """A place in the log has two values; or a record is not where its producer was told."""
    values = {}
    for (topic, partition), rows in run.log.items():
        for offset, id, *_ in rows:
            place = Place(topic, partition, offset)
            if values.setdefault(place, id) != id:
                yield Finding("inconsistent_offset", f"{place} has {values[place]} and {id}")
    for op, place, id in run.observations():
        if values.setdefault(place, id) != id:
            yield Finding("inconsistent_offset", f"{place} has {values[place]}, and was read as {id}", [op])
    for op in run.produced:
        ranges = op.get("ranges")
        if op.outcome != "ok" or ranges is None:
            continue
        for record in op.records:
            for place in record.places:
                if is_checked(record.topic) and not any(
                        (topic, partition) == place[:2] and first <= place.offset < first + count
                        for topic, partition, first, count in ranges):
                    yield Finding("inconsistent_offset", f"{record} is at {place}, its producer was told {ranges}", [op])


@check
def duplicate(run):
    """A record is in the log twice, or a reader met it at two places."""
    for record in run.records.values():
        if len(record.places) > 1:
            yield Finding("duplicate", f"{record} is at {' and '.join(map(str, record.places))}", [record.op])
    places = {}
    for op, place, id in run.observations():
        if is_checked(place.topic) and places.setdefault((place.topic, id), place) != place:
            yield Finding("duplicate", f"{id} was read at {places[place.topic, id]} and at {place}", [op])


# ----------------------------------------------------------------------
# I4 no late arrival, I5 order, I6 no early read
# ----------------------------------------------------------------------

def holes(rows, start):
    """The offsets that are missing from start on, below the highest that is there."""
    offsets = {offset for offset, _ in rows if offset >= start}
    highest = max(offsets, default=start)
    if len(offsets) == highest - start + 1:
        return []
    return [offset for offset in range(start, highest) if offset not in offsets]


def windows(run):
    """(operation, topic, partition, first offset asked for, [[offset, id]…]) of all that was read at once."""
    for op in run.reads:
        start = op["from"]
        if op["topic"] in workload.KEPT and op["how"] != "fetch" and op["records"]:
            start = op["records"][0][0]  # below is what its snapshot did not see any more: "log_start" looks at it
        yield op, op["topic"], op["partition"], start, op["records"]
    for op in run.snapshots:
        for look in ("records", "again"):
            rows = collections.defaultdict(list)
            for partition, offset, id in op.get(look, ()):
                rows[partition].append([offset, id])
            for partition, start in op["starts"]:
                yield op, op["topic"], partition, start, rows[partition]
    for op in run.follower_looks:
        starts = {(topic, partition): start for topic, partition, start in op["starts"]}
        for look in ("records", "again"):
            rows = collections.defaultdict(list)
            for topic, partition, offset, id in op.get(look, ()):
                rows[topic, partition].append([offset, id])
            for (topic, partition), seen in rows.items():
                start = seen[0][0] if topic in workload.KEPT else starts.get((topic, partition), 0)
                yield op, topic, partition, start, seen
    for op in run.operations:
        for partition, rows in taken(op):
            yield op, op["topic"], partition, rows[0][0], rows
        for topic, partition, rows in polled(op):
            if topic != workload.STATE:
                yield op, topic, partition, rows[0][0], rows


@check
def skip(run):
    """A reader passed over an offset that the log never has; or the log itself missed a record."""
    for op, topic, partition, start, rows in windows(run):
        final = run.final_ids(topic, partition)
        missing = [offset for offset in holes(rows, start) if offset not in final]
        if missing:
            yield Finding("skip", f"{op.client} read {topic}[{partition}] from {start},"
                          f" and {missing[0]} was not there ({len(missing)} offsets)", [op])
    for op in run.operations:
        if op.get("error") == "XX001":
            yield Finding("skip", f"{op.client}: {op['message']}", [op])


@check
def late_arrival(run):
    """A reader passed an offset that was filled later; or a snapshot changed."""
    for op, topic, partition, start, rows in windows(run):
        final = run.final_ids(topic, partition)
        missing = [offset for offset in holes(rows, start) if offset in final]
        if missing:
            yield Finding("late_arrival", f"{op.client} read {topic}[{partition}] from {start} without {missing[0]},"
                          f" which has {final[missing[0]]} ({len(missing)} offsets)", [op])
    for op in run.snapshots + run.follower_looks:
        if "again" in op.details:
            yield Finding("late_arrival", f"two looks of {op.client} in one snapshot differ", [op])


@check
def unseen(run):
    """A record was there before a read began that went to the end, and was not returned."""
    known = collections.defaultdict(list)  # {(topic, partition): [(time, offset, by whom)…]}
    for op in run.produced:
        if run.is_acknowledged(op):
            for topic, partition, first, count in op.get("ranges") or ():
                known[topic, partition].append((op.end, first + count - 1, op))
    for op in run.reads:
        if op["records"] and op["how"] == "fetch":
            known[op["topic"], op["partition"]].append(
                (op.end, max(offset for offset, _ in op["records"]), op))
    for rows in known.values():
        rows.sort(key=lambda row: row[0])
        highest = None
        for number, row in enumerate(rows):  # the highest known by then
            highest = row if highest is None or row[1] > highest[1] else highest
            rows[number] = (row[0], highest[1], highest[2])
    positions = collections.defaultdict(int)
    for op in sorted(run.reads, key=lambda op: op.start):
        if not op.get("complete") or op.get("standby") or run.may_hide(op):
            continue
        rows = known[op["topic"], op["partition"]]
        key = op["topic"], op["partition"]
        while positions[key] < len(rows) and rows[positions[key]][0] < op.start:
            positions[key] += 1
        if positions[key] == 0:
            continue
        _, offset, source = rows[positions[key] - 1]
        seen = max((offset for offset, _ in op["records"]), default=op["from"] - 1)
        if offset > seen and offset >= max(op["from"], run.log_start(*key)):
            yield Finding("unseen", f"{op.client} read {op['topic']}[{op['partition']}] from {op['from']} to the end,"
                          f" which was {seen}, when {source} knew of {offset}", [source, op])


@check
def undelivered(run):
    """After the load, an assigned reader has read on to the end, and never got some record."""
    got = collections.defaultdict(set)
    assigned = {}
    for op in run.reads:
        if op.client.startswith(("reader-", "standbyreader-")):
            assigned[op.client] = op["topic"], op["partition"]
            got[op.client].update(offset for offset, _ in op["records"])
    if not run.of("drained"):
        return
    for client, (topic, partition) in assigned.items():
        missing = sorted(set(run.final_ids(topic, partition)) - got[client])
        if missing:
            yield Finding("undelivered", f"{client} never got {Place(topic, partition, missing[0])}"
                          f" ({len(missing)} records)")


@check
def non_monotonic(run):
    """Offsets that do not rise: in the table, in a read, in time, within a transaction."""
    for (topic, partition), rows in run.log.items():
        for (before, _, *_), (after, _, *_) in zip(rows, rows[1:]):
            if after <= before:
                yield Finding("non_monotonic", f"{topic}[{partition}] has {after} behind {before}")
    for op, topic, partition, _, rows in windows(run):
        for (before, _), (after, _) in zip(rows, rows[1:]):
            if after <= before:
                yield Finding("non_monotonic", f"{op.client} read {topic}[{partition}]: {after} behind {before}", [op])
    # who committed before another began to commit has the lower offset
    for (topic, partition), rows in run.log.items():
        latest, latest_op = -1, None
        for offset, id, *_ in sorted(rows):
            record = run.records.get((topic, id))
            if record is None:
                continue
            op = record.op
            if op.outcome == "ok" and op.end < latest:
                yield Finding("non_monotonic", f"{topic}[{partition}]: {record} at {offset} was acknowledged before"
                              f" {latest_op} with a lower offset was committed", [op, latest_op])
            if op.get("commit_at", -1) > latest:
                latest, latest_op = op["commit_at"], op
    for op in run.produced:
        positions = collections.defaultdict(list)
        for record in op.records:
            for place in record.places:
                positions[place.topic, place.partition].append(place.offset)
        for (topic, partition), offsets in positions.items():
            if offsets != list(range(offsets[0], offsets[0] + len(offsets))):
                yield Finding("non_monotonic", f"records of operation {op.number} in {topic}[{partition}] are"
                              f" not in the order of its calls, or not contiguous: {offsets[:20]}", [op])


@check
def append_time(run):
    """LogAppendTime went back within a partition."""
    for (topic, partition), rows in run.log.items():
        if topic != "second":
            continue
        for (_, _, before), (offset, _, after) in zip(rows, rows[1:]):
            if after < before:
                yield Finding("append_time", f"the time of {Place(topic, partition, offset)} is before that of the"
                              " record in front of it")


@check
def early_read(run):
    """A record was read before its commit, or was taken back after it was read, or lay beyond the published end."""
    for op, place, id in run.observations():
        record = run.records.get((place.topic, id))
        if record is None or not record.may_exist:
            continue
        if record.op.get("commit_at") is not None and op.end is not None and op.end < record.op["commit_at"]:
            yield Finding("early_read", f"{record} was read at {place} before its commit began", [record.op, op])
        if run.has_log and is_checked(place.topic) and not record.places and not run.is_acknowledged(record.op) \
                and place.offset >= run.log_start(*place[:2]):
            yield Finding("early_read", f"{record} was read at {place}, and is not there any more", [record.op, op])
    fetched = {}  # {(client, topic, partition): (offset, operation)}
    for op in run.operations:
        if op.outcome != "ok" or op.get("standby"):  # a standby that crashed begins some way back
            continue
        if op.f == "read" and op["how"] == "fetch" and op["records"]:
            key = op.client, op["topic"], op["partition"]
            fetched[key] = max((op["records"][-1][0], op), fetched.get(key, (-1, op)), key=lambda pair: pair[0])
        if op.f == "ends" and not run.may_hide(op):
            for partition, end in op["ends"]:
                offset, source = fetched.get((op.client, op["topic"], partition), (-1, None))
                if end <= offset:
                    yield Finding("early_read", f"{op.client} has fetched {Place(op['topic'], partition, offset)},"
                                  f" and the log ends at {end} after that", [source, op])


@check
def gap(run):
    """The log is not dense from its start to its end."""
    for (topic, partition), rows in run.log.items():
        start, end = run.ends[topic, partition]
        offsets = sorted(offset for offset, *_ in rows)
        if topic == workload.DAMAGED:  # a repair leaves room for what may be lost
            continue
        if len(offsets) != end - start or offsets and (offsets[0], offsets[-1]) != (start, end - 1):
            missing = itertools.islice((offset for offset in itertools.chain(
                *(range(a + 1, b) for a, b in zip([start - 1, *offsets], [*offsets, end])))), 10)
            yield Finding("gap", f"{topic}[{partition}] goes from {start} to {end} and has {len(offsets)} records,"
                          f" without {list(missing)}")


# ----------------------------------------------------------------------
# Exactly once
# ----------------------------------------------------------------------

@check
def exactly_once_copy(run):
    """What copiers have copied is what was in front of their place, once, in order."""
    for event in run.of("places"):
        for partition, place in event["places"]:
            source = [id for offset, id, *_ in sorted(run.log.get((workload.SOURCE, partition), ())) if offset < place]
            copied = [id for _, id, *_ in sorted(run.log.get((workload.DESTINATION, partition), ()))]
            if source != copied:
                different = next((number for number, pair in enumerate(zip(source, copied)) if pair[0] != pair[1]),
                                 min(len(source), len(copied)))
                yield Finding("exactly_once_copy", f"partition {partition} was copied up to {place}: {len(copied)}"
                              f" records are there, the first that differs is {different}")


def consumed_places(run):
    """{(group, partition): committed offset} at the end."""
    return {(group, partition): place for event in run.of("groups") for group, partition, place in event["committed"]}


@check
def exactly_once_consume(run):
    """The work of a group, or what it produced, is not what its committed offset says: each record once, in order."""
    places = consumed_places(run)
    for event in run.of("groups"):
        work = collections.defaultdict(list)
        for group, partition, offset, id in event["work"]:
            work[group, partition].append((offset, id))
        for group, partition in sorted({*places, *work}):
            if group == workload.RESETS:
                continue
            place = places.get((group, partition), 0)
            log = sorted((offset, id) for offset, id, *_ in run.log.get((workload.SOURCE, partition), ()))
            expected = [row for row in log if row[0] < place]
            done = sorted(work[group, partition])
            if done != expected and not run.leaders:  # where the rows are each node's own
                twice = [row for row, count in collections.Counter(done).items() if count > 1]
                missing = sorted(set(expected) - set(done))
                beyond = sorted(set(done) - set(expected))
                yield Finding("exactly_once_consume", f"group {group}, partition {partition}, committed {place}:"
                              f" {len(done)} were worked on; twice {twice[:3]}, not {missing[:3]}, beyond {beyond[:3]}")
            if group == workload.WORKERS:
                produced = [id for _, id, *_ in sorted(run.log.get((workload.CONSUMED, partition), ()))]
                if produced != [id for _, id in expected]:
                    yield Finding("exactly_once_consume", f"group {group}, partition {partition}, committed {place}:"
                                  f" {len(produced)} records were produced, not the {len(expected)} in front of it")


@check
def committed_offset(run):
    """A committed offset that is lower than before or than what was acknowledged, or beyond the log end."""
    known = collections.defaultdict(list)  # {(group, partition): [(time, offset, operation)…]}
    looks = []
    for op in run.operations:
        if op.outcome != "ok" or op.get("group") == workload.RESETS:
            continue
        for partition, rows in op["takes"] if op.f == "consume" else ():
            known[op["group"], partition].append((op.end, rows[-1][0] + 1, op))
        if op.f == "committed":
            for group, partition, offset in op["rows"]:
                if group == workload.RESETS:
                    continue  # goes back; "position" looks at it
                known[group, partition].append((op.end, offset, op))
            looks.append((op.start, {(group, partition): offset for group, partition, offset in op["rows"]}, op))
        if op.f == "bad_commit":
            yield Finding("committed_offset", f"{op} committed an offset that"
                          f" {'is lower' if op['lower'] else 'is beyond the log end'}", [op])
    for group_partition, place in consumed_places(run).items():
        looks.append((float("inf"), {group_partition: place}, None))
        end = run.ends.get((workload.SOURCE, group_partition[1]), (0, None))[1]
        if end is not None and place > end:
            yield Finding("committed_offset", f"group {group_partition[0]} has committed {place} in partition"
                          f" {group_partition[1]}, which ends at {end}")
    for start, places, look in looks:
        for key in known if look else places:
            # what a view shows need not be confirmed, and a promotion may take it back
            highest = max(((offset, number) for number, (end, offset, op) in enumerate(known[key]) if end < start
                           and not (op.f == "committed" and run.is_promoted_between(op.start, start))), default=None)
            if highest and places.get(key, 0) < highest[0]:
                source = known[key][highest[1]][2]
                yield Finding("committed_offset", f"group {key[0]} stood at {highest[0]} in partition {key[1]},"
                              f" and at {places.get(key, 0)} later", [op for op in (source, look) if op])


@check
def position(run):
    """A group of one client is not where its own commits and resets have put it."""
    possible = collections.defaultdict(lambda: {0})  # {partition: offsets where it can stand}
    for op in run.operations:
        if op.get("group") != workload.RESETS:
            continue
        after = {}
        if op.f == "reset" and op["partition"] is None:
            after = {partition: 0 for partition in possible}
        elif op.f == "reset":
            after = {op["partition"]: op["to"]}
        for partition, rows in taken(op):
            start = rows[0][0]
            expected = {after[partition]} if partition in after else possible[partition]
            if start not in expected:
                yield Finding("position", f"{op} got partition {partition} from {start},"
                              f" and stood at {' or '.join(map(str, sorted(expected)))}", [op])
            if partition not in after:
                possible[partition] = {start}  # the claim says that nothing else is under way
            after[partition] = rows[-1][0] + 1
        for partition, place in after.items():
            if op.outcome == "ok":
                possible[partition] = {place}
            elif op.outcome == "info":
                possible[partition].add(place)
    for (group, partition), place in consumed_places(run).items():
        if group == workload.RESETS and place not in possible[partition]:
            yield Finding("position", f"group {group} stands at {place} in partition {partition} at the end,"
                          f" not at {' or '.join(map(str, sorted(possible[partition])))}")


# ----------------------------------------------------------------------
# I15 liveness, I17 clean exit, and what nobody expected
# ----------------------------------------------------------------------

@check
def stuck(run):
    """An operation that did not end after the last fault, until its session was ended."""
    for op in run.operations:
        if op.get("rescued") or op.end is None:
            yield Finding("stuck", f"{op} did not end by itself: {op.get('message', '')}", [op])
        elif op.get("probe") and op.outcome != "ok":
            yield Finding("stuck", f"after the load, {op} could not produce: {op.get('message')}", [op])


SLEPT = 2500000  # microseconds too long: a loaded machine is not a lost wake-up


@check
def overslept(run):
    """Who waited for a record slept on long after it was acknowledged, while no fault stood in the way."""
    there = collections.defaultdict(list)
    for op in run.produced:
        if run.is_acknowledged(op):
            for topic, partition, first, count in op.get("ranges") or ():
                there[topic, partition].append((op.end, first + count - 1, op))
    for op in run.operations:
        if op.outcome != "ok" or op.f != "wait_offset" and op.get("how") != "fetch_wait":
            continue
        after = op["after"] if op.f == "wait_offset" else op["from"]
        reached = [row for row in there[op["topic"], op["partition"]] if row[1] >= after]
        if not reached:
            continue
        since, _, source = min(reached, key=lambda row: row[0])
        since = max(since, op.start)
        if op.end - since > SLEPT and not any(begin < op.end and end > since for begin, end in run.fault_times):
            yield Finding("overslept", f"{op} slept on for {(op.end - since) / 1000000:.1f} s after {source}"
                          f" had produced what it waited for", [source, op])


def meets_reindex(run, op):
    """Whether REINDEX of a table went on meanwhile.  In newer majors it begins with the index of the TOAST table, and who
    reads a long value by another index ends there: either may be told of a deadlock, whatever the table's owner."""
    return any(other.f == "admin" and other.get("work") == "reindex" and other.start < op.end
               and (other.end is None or other.end > op.start) for other in run.operations)


def meets_segment(op):
    """Whether the query's plan was made before a segment was, and its snapshot taken after that had records: docs/limits.md
    says so of a READ COMMITTED query too."""
    return op.get("error") == "40001" and "got records, while the query was planned" in op["message"]


def allowed_errors(run, op):
    allowed = {"40001"} if op.get("isolation") or op.f in ("read", "snapshot", "consume", "copy") else set()
    if op.get("standby"):
        allowed |= {"40001", "40P01", "TP001"}  # conflicts with what is replayed; what it has still to replay
    if any(topic == workload.SIDE for topic, *_ in op.get("records", ()) if op.f == "produce"):
        allowed |= {"42704", "55000", "42P01"}
    if op.get("cancel_after"):
        allowed |= {"57014"} | ({"lost"} if run.nodes else set())  # or in the wait for followers, which closes the connection
    if run.nodes and op.f in ("produce", "number"):
        allowed |= {"40003"}  # send() says so of a commit that no follower has confirmed
        if op.get("synchronous", "on").startswith("acks_"):
            allowed |= {"TP004"}  # no follower has asked for anything since pg_topics.node_timeout
    if run.nodes and run.faults and (op.get("member") or op.f == "number"):
        allowed |= {"TP004"}  # the same: then the leader says nothing final
    if run.leaders:
        allowed |= {"TP004", "40001"}  # another node leads, or has just come to lead
    if op.f == "reset" and op["partition"] is None:
        allowed |= {"42704"}  # deleted before, by a COMMIT whose answer was lost
    if op.f == "bad_commit":
        allowed |= {"22023", "TP001"}
    if op.f == "read" and op["topic"] in workload.KEPT and op["how"] == "fetch":
        allowed |= {"TP001"}  # "out_of_range" looks whether it is right
    if op.f == "delete" and op["beyond"]:
        allowed |= {"TP001"}
    if op.f == "admin":
        allowed |= {"55P03", "42P01", "42704", "42710"}
    if op.get("error") == "40P01" and op.f in ("compare", "read", "snapshot", "copy", "admin") and meets_reindex(run, op):
        allowed |= {"40P01"}
    if meets_segment(op):
        allowed |= {"40001"}
    if op.f in ("straddle", "tighten"):
        allowed |= {"23514", "55P03"}
    if op.f in ("number", "member_work") and op.get("planned_end", "commit") != "commit" or op.f == "number":
        allowed |= faults.SESSION_ERRORS  # they end sessions themselves
    if op.get("former"):
        allowed |= {"TP007"}
    if op.get("member") or op.f == "call_again":
        allowed |= {"TP003", "TP012"}  # it was silent for too long, or is replaced
    if op.f in ("member_work", "member_commit", "commit_taken"):
        allowed |= {"TP002"}  # "refused_member" looks whether it is right
    if op.f == "seek":
        allowed |= {"TP001"}  # the log start has moved
    if op.f in ("pause", "resume") and run.faults:
        allowed |= {"55000"}  # after a restart it has only what it is to have
    if op.f == "remove_member":
        allowed |= {"42704"}  # a group that has committed nothing ends with its last member
    if run.faults:
        allowed |= faults.SESSION_ERRORS
    for fault in run.faults:
        allowed |= faults.ERRORS.get(fault, set())
    return allowed


# what PostgreSQL says of a full disk, not all of it with 53100
NO_SPACE = re.compile(r"No space left on device|could not write init file")


def is_full_disk(run, text):
    return bool(run.faults & faults.DISK_FAULTS) and bool(NO_SPACE.search(text))


@check
def unexpected_error(run):
    """An error that neither the operation nor a fault explains."""
    for op in run.operations:
        if op.get("error") and op["error"] != "XX001" and not op.get("rescued") \
                and op["error"] not in allowed_errors(run, op) and not is_full_disk(run, op["message"]):
            yield Finding("unexpected_error", f"{op}: {op['error']} {op['message']}", [op])


SUSPICIOUS = re.compile(
    r"PANIC:|TRAP:|terminated by signal (?!9:)|Sanitizer|: runtime error:|leak(ed)?:|reference leak|refcount"
    r"|leaked hash_seq_search|resource was not closed|problem in (alloc set|slab|[Gg]eneration|[Bb]ump)"
    r"|you don't own|not closed at|still referenced| XX\d\d\d .*(ERROR|FATAL|WARNING):")
ABORTED = re.compile(r"terminated by signal 6:")


@check
def server_log(run):
    """PANIC, crashes, internal errors and leaks in the server's log."""
    for event in run.of("server_log"):
        panic = any("PANIC:" in line and NO_SPACE.search(line) for line in event["lines"])
        for line in event["lines"]:
            if not SUSPICIOUS.search(line):
                continue
            # without room for WAL, PANIC is what PostgreSQL does
            if run.faults & faults.DISK_FAULTS and (NO_SPACE.search(line) or panic and ABORTED.search(line)):
                continue
            if " XX001 " in line and "is missing in partition" in line:
                continue  # "skip" reports it
            yield Finding("server_log", line)


@check
def leak(run):
    """After the load, idle sessions hold locks, snapshots or transactions."""
    for event in run.of("sessions"):
        for row in event["rows"]:
            yield Finding("leak", f"an idle session holds something: {row}")


# ----------------------------------------------------------------------

def findings(events):
    """All findings of a history, at most LIMIT of each check."""
    run = Run(events)
    result = []
    for function in CHECKS:
        result.extend(itertools.islice(function(run), LIMIT))
    return result
