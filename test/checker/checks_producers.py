"""What must hold of records that producers number, beside what holds of any log.

Checks as those of checks.py, which calls them: import this beside it.  A
record's id is "producer.epoch.partition.count".
"""

import collections

import workload
from checks import Finding, Place, check


def numbered(run):
    return [op for op in run.operations if op.f == "number"]


def parse(id):
    """(producer, epoch, count) of an id, or None: it is of none."""
    parts = id.split(".")
    if len(parts) != 4 or not all(part.isdigit() for part in parts[1:]):
        return None
    return parts[0], int(parts[1]), int(parts[3])


def stored_at(run):
    """{(producer, partition): [(count, epoch, offset)…]} of the log at the end, in its order."""
    result = collections.defaultdict(list)
    for (topic, partition), rows in run.log.items():
        for offset, id, *_ in sorted(rows) if topic == workload.SEQUENCED else ():
            if parse(id):
                producer, epoch, count = parse(id)
                result[producer, partition].append((count, epoch, offset))
    return result


@check
def stored_once(run):
    """What a producer has numbered is not in the log once, in order, without a gap."""
    if not run.has_log:
        return
    outcomes = collections.defaultdict(set)  # {(partition, id): outcomes of who would store it}
    acknowledged = collections.defaultdict(dict)  # {(producer, partition): {count: operation}}
    for op in numbered(run):
        for partition, count, id in op["records"]:
            outcomes[partition, id].add(op.outcome)
            if op.outcome == "ok":
                acknowledged[op["producer"], partition][count] = op
    there = stored_at(run)
    for (producer, partition), rows in sorted(there.items()):
        counts = [count for count, _, _ in rows]
        if counts != list(range(len(counts))):
            wrong = next(number for number, count in enumerate(counts) if number != count)
            again = "again " if counts[wrong] in counts[:wrong] else ""
            yield Finding("stored_once", f"{producer} in {workload.SEQUENCED}[{partition}]: at offset {rows[wrong][2]} its"
                          f" record {counts[wrong]} is {again}stored, where {wrong} would be")
        for (_, before, _), (count, after, offset) in zip(rows, rows[1:]):
            if after < before:
                yield Finding("stored_once", f"{producer} in {workload.SEQUENCED}[{partition}]: its record {count} of epoch {after}"
                              f" is at offset {offset}, behind one of epoch {before}")
    for (producer, partition), ops in sorted(acknowledged.items()):
        missing = sorted(set(ops) - {count for count, _, _ in there.get((producer, partition), ())})
        if missing:
            yield Finding("stored_once", f"{producer} in {workload.SEQUENCED}[{partition}]: {ops[missing[0]]} has stored its record"
                          f" {missing[0]}, which is not there ({len(missing)} records)", [ops[missing[0]]])
    for (topic, partition), rows in run.log.items():
        for offset, id, *_ in rows if topic == workload.SEQUENCED else ():
            if outcomes.get((partition, id), {"fail"}) == {"fail"}:
                yield Finding("stored_once", f"{Place(topic, partition, offset)} has {id}, which"
                              f" {'was rolled back' if (partition, id) in outcomes else 'nobody has produced'}")


@check
def told_offset(run):
    """A numbered record is not where its producer was told, when it was stored or when it was repeated."""
    if not run.has_log:
        return
    places = {(producer, partition, count): offset for (producer, partition), rows in stored_at(run).items()
              for count, _, offset in rows}
    for op in numbered(run):
        told = {}
        for partition, first, _ in op.get("ranges") or ():
            mine = [count for other, count, _ in op["records"] if other == partition]
            told.update({(op["producer"], partition, count): first + number for number, count in enumerate(mine)})
        if op.outcome == "ok" and "sent" in op.details:
            partition, count, offset = op["sent"]
            if offset is not None:
                told[op["producer"], partition, count] = offset
            elif op.get("is_last"):
                yield Finding("told_offset", f"{op} repeated the latest record of {workload.SEQUENCED}[{partition}], and was not"
                              " told where that is", [op])
        for (producer, partition, count), offset in told.items():
            if places.get((producer, partition, count), offset) != offset:
                yield Finding("told_offset", f"{op} was told that {producer}'s record {count} of {workload.SEQUENCED}[{partition}] is"
                              f" at {offset}, and it is at {places[producer, partition, count]}", [op])


@check
def sequence_taken_back(run):
    """An answer of last_sequence() that was not true, or was not true any more later."""
    there = stored_at(run)
    latest = {}  # {(producer, partition): [(when it was certain, count, operation)…]}
    for op in run.operations:
        if op.outcome != "ok" or op.f not in ("number", "last_sequence"):
            continue
        rows = [(row[0], row[-1]) for row in op["last"]] if op.f == "last_sequence" else \
            [(partition, count + 1) for partition, count, _ in op["records"]]
        for partition, count in rows:
            latest.setdefault((op["producer"], partition), []).append((op.end, count, op))
    for op in run.operations:
        if op.f != "last_sequence" or op.outcome != "ok":
            continue
        for partition, epoch, sequence, viewed, offset, count in op["last"]:
            what = f"{op} was told of sequence {sequence} in epoch {epoch} of {workload.SEQUENCED}[{partition}]"
            if viewed != sequence:
                yield Finding("sequence_taken_back", f"{what}, and the view says {viewed}", [op])
            rows = there.get((op["producer"], partition), [])
            if run.has_log and len(rows) < count:
                yield Finding("sequence_taken_back", f"{what}, which is its record {count - 1}, and there are {len(rows)}", [op])
            elif run.has_log and count and offset is not None and rows[count - 1] != (count - 1, epoch, offset):
                yield Finding("sequence_taken_back", f"{what} at {offset}, where record {count - 1} is not", [op])
            known = max((row for row in latest.get((op["producer"], partition), ()) if row[0] < op.start),
                        key=lambda row: row[1], default=None)
            if known and known[1] > count:
                yield Finding("sequence_taken_back", f"{what}, after {known[2]} knew of {known[1]} records, not {count}", [known[2], op])


@check
def fenced_producer(run):
    """A producer has stored a record in an epoch when its name had a higher one."""
    epochs = collections.defaultdict(list)  # {producer: [(when it was certain, epoch, operation)…]}
    for op in run.operations:
        if op.f == "init_producer" and op.outcome == "ok":
            epochs[op["producer"]].append((op.end, op["id"], op["epoch"], op))
    stored = collections.defaultdict(list)  # the same of those that have stored a record, each in one partition only
    for op in numbered(run):
        if op.outcome == "ok":
            stored[op["producer"]].append((op.end, *op["key"], op))
    for op in numbered(run):
        if op.outcome != "ok":
            continue
        id, epoch = op["key"]
        # where leaders are spread, one that has stored nothing need not be known to others
        known = (stored if run.spread else epochs)[op["producer"]]
        higher = [row for row in known if row[1] == id and row[2] > epoch and row[0] < op["commit_at"]]
        if higher:
            yield Finding("fenced_producer", f"{op} was acknowledged in epoch {epoch}, after {higher[0][3]} had got {higher[0][2]}",
                          [higher[0][3], op])
    for rows in epochs.values():
        for before, after in zip(rows, rows[1:]):
            if after[1] == before[1] and after[2] <= before[2]:
                yield Finding("fenced_producer", f"{after[3]} got epoch {after[2]}, after {before[3]} had got {before[2]}",
                              [before[3], after[3]])
