"""What must hold of topics that records leave: retention, compaction, bounds.

Checks as those of checks.py, which calls them: import this beside it.
"""

import bisect
import collections

import workload
from checks import Finding, check

# ----------------------------------------------------------------------
# I10 retention
# ----------------------------------------------------------------------

Bound = collections.namedtuple("Bound", "time value op")


class Rising:
    """What was known of a value that never goes back: the highest known before a time."""

    def __init__(self, bounds):
        self.bounds = sorted(bounds, key=lambda bound: bound.time)
        highest = None
        for number, bound in enumerate(self.bounds):
            highest = bound if highest is None or bound.value > highest.value else highest
            self.bounds[number] = Bound(bound.time, highest.value, highest.op)
        self.times = [bound.time for bound in self.bounds]

    def before(self, time):
        number = bisect.bisect_left(self.times, time)
        return self.bounds[number - 1] if number else Bound(0, 0, None)


class Limits:
    """What clients knew of both ends of the topics that records leave: {(topic, partition): Rising}."""

    def __init__(self, run):
        starts, ends = collections.defaultdict(list), collections.defaultdict(list)
        for op in run.operations:
            if op.end is None:
                continue
            if op.f == "bounds" and op.outcome == "ok":
                for partition, start, end in op["bounds"]:
                    starts[op["topic"], partition].append(Bound(op.end, start, op))
                    if end is not None:
                        ends[op["topic"], partition].append(Bound(op.end, end, op))
            elif op.f == "delete" and op.outcome == "ok":
                starts[op["topic"], op["partition"]].append(Bound(op.end, op["start"], op))
            elif op.f in ("produce", "state_produce") and run.is_acknowledged(op):
                for topic, partition, first, count in op.get("ranges") or ():
                    ends[topic, partition].append(Bound(op.end, first + count, op))
            elif op.f == "read" and op.outcome == "ok" and op["records"]:
                ends[op["topic"], op["partition"]].append(Bound(op.end, op["records"][-1][0] + 1, op))
        self.seen_starts = {key: list(bounds) for key, bounds in starts.items()}
        self.starts = collections.defaultdict(lambda: Rising([]), {key: Rising(bounds) for key, bounds in starts.items()})
        self.ends = collections.defaultdict(lambda: Rising([]), {key: Rising(bounds) for key, bounds in ends.items()})


@check
def log_start(run):
    """A log start or a log end that went back; or a record below a log start that was known, and was read."""
    limits = Limits(run)
    looks = [(op.start, op["topic"], *bound, op) for op in run.operations
             if op.f == "bounds" and op.outcome == "ok" for bound in op["bounds"]]
    looks += [(op.start, op["topic"], op["partition"], op["start"], None, op) for op in run.operations
              if op.f == "delete" and op.outcome == "ok"]
    looks += [(float("inf"), topic, partition, *run.ends[topic, partition], None)
              for topic, partition in run.ends if topic in workload.KEPT]
    for time, topic, partition, start, end, op in looks:
        for what, now, known in (("starts", start, limits.starts[topic, partition].before(time)),
                                 ("ends", end, limits.ends[topic, partition].before(time))):
            if now is not None and now < known.value and not (what == "ends" and op and run.may_hide(op)):
                yield Finding("log_start", f"{topic}[{partition}] {what} at {now}, and {known.op} knew of {known.value}",
                              [source for source in (known.op, op) if source])
    for op in run.reads:
        if op["topic"] in workload.KEPT and op["records"]:
            known = limits.starts[op["topic"], op["partition"]].before(op.start)
            if op["records"][0][0] < known.value:
                yield Finding("log_start", f"{op.client} read {op['topic']}[{op['partition']}]@{op['records'][0][0]}, and"
                              f" {known.op} knew that the log starts at {known.value}", [known.op, op])


@check
def ahead_of_policy(run):
    """A record is gone that the topic's policy keeps."""
    limits = Limits(run)
    born = collections.defaultdict(list)  # {partition: [(offset behind the last, not older than, operation)…]}
    for op in run.produced:
        if run.is_acknowledged(op):
            for topic, partition, first, count in op.get("ranges") or ():
                if topic == workload.AGED:
                    born[partition].append((first + count, op.start, op))
    for (topic, partition), bounds in limits.seen_starts.items():
        for time, start, look in bounds:
            if topic == workload.AGED and "clock" not in run.faults:
                for upto, since, op in born[partition]:
                    if time - since < workload.RETENTION_SECONDS * 1000000 and start >= upto:
                        yield Finding("ahead_of_policy", f"{topic}[{partition}] starts at {start}, {(time - since) / 1000000:.1f} s"
                                      f" after {op} produced what is before {upto}", [op, look])
            asked = [op for op in run.operations if op.f == "delete" and op["partition"] == partition
                     and op.outcome != "fail" and op.start < time]
            if topic == workload.CUT and not any(op["before"] == -1 or op["before"] >= start for op in asked) and start > 0:
                yield Finding("ahead_of_policy", f"{topic}[{partition}] starts at {start}, and nobody has deleted so much", [look])
            if topic == workload.STATE and start > 0:
                yield Finding("ahead_of_policy", f"{topic}[{partition}] starts at {start}, though it is only compacted", [look])
            least = workload.RETENTION_BYTES - workload.DEAD_BYTES
            if topic == workload.SIZED and start > 0 and look.get("bytes", least) < least:
                yield Finding("ahead_of_policy", f"{topic}[{partition}] starts at {start}, and has {look['bytes']} bytes,"
                              f" not {least}", [look])


@check
def out_of_range(run):
    """An offset outside the log that was read in silence; or one inside that was refused."""
    limits = Limits(run)
    for op in run.operations:
        if op.f == "delete" and op["beyond"] and op.outcome == "ok":
            yield Finding("out_of_range", f"{op} went beyond the log end", [op])
        if op.f == "delete" and op.outcome == "ok" and op["start"] < op["before"]:
            yield Finding("out_of_range", f"{op} deleted up to {op['start']}, not {op['before']}", [op])
        if op.f != "read" or op["how"] != "fetch" or op["topic"] not in workload.KEPT:
            continue
        key = op["topic"], op["partition"]
        known = limits.starts[key].before(op.start)
        if op.outcome == "ok" and op["from"] < known.value:
            yield Finding("out_of_range", f"{op} fetched from {op['from']}, and {known.op} knew that the log starts"
                          f" at {known.value}", [known.op, op])
        elif op.outcome == "ok" and op["records"] and op["records"][0][0] != op["from"]:
            yield Finding("out_of_range", f"{op} fetched from {op['from']}, and got {op['records'][0][0]}", [op])
        elif op.get("error") == "TP001" and run.has_log and op["from"] >= run.log_start(*key) \
                and op["from"] <= limits.ends[key].before(op.start).value:
            yield Finding("out_of_range", f"{op} was refused {op['from']}, which is in the log", [op])


# ----------------------------------------------------------------------
# Compaction
# ----------------------------------------------------------------------

Version = collections.namedtuple("Version", "offset id began known op")  # known: acknowledged when; inf if never


class State:
    """What was produced to the topic that is compacted, by place and by key."""

    def __init__(self, run):
        self.at = {}  # {(partition, offset): (key, id)}, of what was acknowledged
        self.unknown = collections.defaultdict(list)  # {(key, id): [operation…]}, whose place nobody was told
        self.versions = collections.defaultdict(list)  # {key: [Version…]}
        self.twice = []
        self.produced = [op for op in run.operations if op.f == "state_produce"]
        self.ids = {id: op for op in self.produced for _, _, id in op["records"] if id}
        for op in self.produced:
            if op.outcome == "fail":
                continue
            places = {partition: first for _, partition, first, _ in op.get("ranges") or ()} if op.outcome == "ok" else {}
            for partition, key, id in op["records"]:
                if partition not in places:
                    self.unknown[key, id].append(op)
                    continue
                place = partition, places[partition]
                places[partition] += 1
                if place in self.at:
                    self.twice.append((place, op))
                self.at[place] = key, id
                self.versions[key].append(Version(place[1], id, op.start, op.end, op))
        # those that were read tell where they are
        looks = [op for op in run.operations if op.f in ("state_read", "latest")] + run.of("state_log")
        for look in looks:
            for partition, offset, key, id in look.get("rows", ()):
                if (partition, offset) not in self.at and self.unknown.get((key, id)):
                    source = min(self.unknown[key, id], key=lambda op: op.start)
                    self.at[partition, offset] = key, id
                    self.versions[key].append(Version(offset, id, source.start, float("inf"), source))
        for versions in self.versions.values():
            versions.sort(key=lambda version: version.offset)
        self.acknowledged = {key: Rising([Bound(version.known, version.offset, version) for version in versions
                                          if version.known != float("inf")]) for key, versions in self.versions.items()}

    def latest_before(self, key, time, shown=None):
        """The latest version of a key that was acknowledged by then, or None; of what was shown_ends, if that is not None."""
        if shown is not None:
            versions = [version for version in self.versions.get(key, ())
                        if version.offset < shown[partition_of(key)] and version.known < time]
            return versions[-1] if versions else None
        known = self.acknowledged.get(key)
        return known.before(time).op if known else None

    def may_replace(self, key, version, time):
        """What may stand in the place of a version for who looks until then: later ones, and itself."""
        return [other for other in self.versions.get(key, ())
                if (version is None or other.offset >= version.offset) and other.began < time]

    def unplaced(self, key, time):
        """Whether there may be versions that nobody knows the place of; True: also a tombstone."""
        return [id for (of, id), ops in self.unknown.items() if of == key and any(op.start < time for op in ops)]


def state_looks(run):
    """(operation, rows, complete, from, partition, begin, end of what it may see) of all that was read."""
    for op in run.operations:
        if op.f == "state_read" and op.outcome == "ok":
            yield op, op["rows"], op["complete"], op["from"], op["partition"], op.start, op.get("snapshot_at", op.end)
    for event in run.of("state_log"):
        yield None, event["rows"], True, 0, None, float("inf"), float("inf")


def partition_of(key):
    return int(key[1:]) % workload.TOPICS[workload.STATE]


def shown_ends(run, op, rows):
    """{partition: where the log ended for who looked}, if that may be lower than what was acknowledged; or None."""
    if op is None or not run.may_hide(op):
        return None
    ends = collections.defaultdict(int)
    for partition, offset, *_ in rows:
        ends[partition] = max(ends[partition], offset + 1)
    return ends


def as_list(*ops):
    return [op for op in ops if op]


@check
def compaction(run):
    """A compacted log that has lost the latest record of a key, or has what it should not; a snapshot that changed."""
    state = State(run)
    for place, op in state.twice:
        yield Finding("compaction", f"the place {place} of {op} has another record already", [op])
    for op, rows, complete, start, partition, begin, end in state_looks(run):
        who = op or "the final log"
        if op and "again" in op.details:
            yield Finding("compaction", f"two looks of {op} in one snapshot differ", [op])
        highest, before = {}, (-1, -1)
        for place_partition, offset, key, id in rows:
            if (place_partition, offset) <= before:
                yield Finding("compaction", f"{who} has {offset} behind {before[1]} in partition {place_partition}", as_list(op))
            before = place_partition, offset
            produced = state.at.get((place_partition, offset))
            if produced != (key, id):
                yield Finding("compaction", f"{who} has {key} {id} at {place_partition}/{offset}, where"
                              f" {produced or 'nothing'} was produced", as_list(op, state.ids.get(id)))
            elif id and state.ids[id].start > end:
                yield Finding("compaction", f"{who} has {key} {id}, which was produced after its snapshot",
                              as_list(op, state.ids[id]))
            highest[key] = offset
        shown = shown_ends(run, op, rows)
        for key in state.versions if complete else ():
            latest = state.latest_before(key, begin, shown)
            if latest is None or latest.id is None or latest.offset < start \
                    or partition not in (None, partition_of(key)):
                continue
            if highest.get(key, -1) < latest.offset and None not in state.unplaced(key, end) \
                    and all(version.id for version in state.may_replace(key, latest, end)):
                yield Finding("compaction", f"{who} has not {key} {latest.id} at {latest.offset}, its latest record",
                              as_list(latest.op, op))


@check
def snapshot_changed(run):
    """A snapshot, or a cursor, that lost records or got some while it lay there."""
    for op in run.operations:
        if op.f == "idle" and op.get("differs"):
            yield Finding("snapshot_changed", f"two looks of {op} differ", [op])


@check
def hole(run):
    """A snapshot that has lost records from its middle, where only records below a log start may go."""
    for op in run.operations:
        if op.f != "trim_look" or op.outcome != "ok":
            continue
        for before, offset in zip(op["offsets"], op["offsets"][1:]):
            if offset != before + 1:
                yield Finding("hole", f"{op} saw {offset} behind {before}, and no key is there twice", [op])
                break


@check
def latest(run):
    """latest() is not what the history comes to: an older record, or none, or one of a key that is gone."""
    state = State(run)
    looks = [(op, op["rows"], op.start, op.end) for op in run.operations if op.f == "latest" and op.outcome == "ok"]
    looks += [(None, event["latest"], float("inf"), float("inf")) for event in run.of("state_log")]
    for op, rows, begin, end in looks:
        found = {}
        for _, offset, key, id in rows:
            if key in found:
                yield Finding("latest", f"{op or 'latest() at the end'} has {key} twice", as_list(op))
            found[key] = offset, id
        shown = shown_ends(run, op, rows)
        for key in sorted({*state.versions, *found}):
            known = state.latest_before(key, begin, shown)
            possible = [(version.offset, version.id) for version in state.may_replace(key, known, end)]
            unplaced = state.unplaced(key, end)
            if key not in found:
                right = known is None or None in unplaced or any(id is None for _, id in possible)
            else:
                right = found[key][1] is not None and (found[key] in possible or found[key][1] in unplaced)
            if not right:
                yield Finding("latest", f"{op or 'latest() at the end'} has {found.get(key)} for {key}, not"
                              f" {' or '.join(map(str, possible[:5]))}", as_list(known and known.op, op))


# ----------------------------------------------------------------------
# I16 bounds
# ----------------------------------------------------------------------

@check
def unbounded(run):
    """After the load and some time: what retention and compaction should have taken, or have left behind, is there."""
    for event in run.of("keeping"):
        for what, (value, limit) in event["values"].items():
            if value > limit:
                yield Finding("unbounded", f"{what}: {value}, and the limit is {limit}")
