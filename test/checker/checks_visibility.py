"""What must hold of what readers see: of one statement, of one snapshot, of what is done because of it."""

import collections
import graphlib

import visibility
import workload
from checks import Finding, check

# wait_offset() that came back this much earlier than it may has found what it waited for, in microseconds
EARLY = 4500000
NEAR = 30  # records before and behind a log end, whose transactions may have met the one that saw it


def ends_of(op, look):
    """
    A look of a "compare".  Who found nothing from its start on saw an end there or below: it is taken for the lowest
    that others saw.
    """
    starts = dict(op.get("starts", ()))
    lowest = {}
    for way, partition, end in look:
        if way not in visibility.FROM_START:
            lowest[partition] = min(end, lowest.get(partition, end))
    return [[way, partition, min(end, lowest.get(partition, end))
             if way in visibility.FROM_START and end == starts.get(partition) else end] for way, partition, end in look]


def ends_told(run):
    """(operation, topic, partition, log end) of all that were told to anybody, committed or not."""
    for op in run.operations:
        if op.f == "ends":
            for partition, end in op.get("ends", ()):
                yield op, op["topic"], partition, end
        elif op.f == "compare":
            for look in op.get("looks", ()):
                for _, partition, end in ends_of(op, look):
                    if partition is not None:
                        yield op, op["topic"], partition, end
        elif op.get("seen"):
            for partition, end in op["seen"]:
                yield op, workload.NUMBERED, partition, end
        elif op.f == "wait_offset" and op.outcome == "ok" and op.end - op.start < EARLY:
            yield op, op["topic"], op["partition"], op["after"] + 1


@check
def taken_back(run):
    """A log end that was told, and below which something was committed later; a row that was read, and is gone."""
    newest = {}  # {(topic, partition): for each offset, the latest COMMIT that was sent up to there, and whose}
    for (topic, partition), rows in run.log.items():
        latest, commits = (-1, None), {}
        for offset, id, *_ in sorted(rows):
            record = run.records.get((topic, id))
            if record:
                latest = max(latest, (record.op.get("commit_at") or -1, record.op), key=lambda pair: pair[0])
            commits[offset] = latest
        newest[topic, partition] = commits
    for op, topic, partition, end in ends_told(run):
        if (topic, partition) not in newest or op.end is None:
            continue
        _, final_end = run.ends[topic, partition]
        at, writer = newest[topic, partition].get(end - 1, (-1, None))
        if end > final_end:
            yield Finding("taken_back", f"{op.client} was told that {topic}[{partition}] ends at {end}, and it ends at"
                          f" {final_end}", [op])
        elif at > op.end:
            yield Finding("taken_back", f"{op.client} was told that {topic}[{partition}] ends at {end}, and below that is"
                          f" what {writer} committed later", [op, writer])
    for event in run.of("book"):
        there = set(event["ids"])
        for op in run.operations:
            gone = [id for id in op.get("book", ()) if id not in there] if op.f == "compare" else ()
            if gone and not run.may_hide(op):  # where records would be hidden, rows are as PostgreSQL has them
                yield Finding("taken_back", f"{op.client} has read the row {gone[0]}, and it is gone", [op])


@check
def stale_end(run):
    """A log end that is lower than one that was known before it was asked for."""
    known = collections.defaultdict(list)  # {(topic, partition): [(time, end, by whom)…]}
    asked = []
    for op in run.produced:
        if run.is_acknowledged(op):
            for topic, partition, first, count in op.get("ranges") or ():
                known[topic, partition].append((op.end, first + count, op))
    for op in run.reads:
        if op["how"] == "fetch" and op["records"] and not op.get("standby"):
            known[op["topic"], op["partition"]].append((op.end, op["records"][-1][0] + 1, op))
    for op, topic, partition, end in ends_told(run):
        if op.outcome == "ok":
            if not op.get("standby"):  # what a standby has replayed its primary may not know to be confirmed
                known[topic, partition].append((op.end, end, op))
            late = op.f == "wait_offset" or op.get("notified") or op.get("standby")
            if not late and not run.may_hide(op):
                asked.append((op, (topic, partition), end))
    positions, highest = collections.defaultdict(int), {}
    for rows in known.values():
        rows.sort(key=lambda row: row[0])
    for op, key, end in sorted(asked, key=lambda row: row[0].start):
        rows = known[key]
        while positions[key] < len(rows) and rows[positions[key]][0] < op.start:
            highest[key] = max(highest.get(key, (0, -1, None)), rows[positions[key]], key=lambda row: row[1])
            positions[key] += 1
        if key in highest and end < highest[key][1]:
            yield Finding("stale_end", f"{op.client} was told that {key[0]}[{key[1]}] ends at {end}, when"
                          f" {highest[key][2]} knew of {highest[key][1]}", [highest[key][2], op])


@check
def disagreement(run):
    """One statement, or one snapshot, that saw two states; records without their rows, or rows without their records."""
    for op in run.operations:
        if op.f != "compare" or op.outcome != "ok":
            continue
        looks = [ends_of(op, look) for look in op["looks"]]
        for look in looks:
            yield from _judge(run, op, look)
        first = {(way, partition): end for way, partition, end in looks[0]}
        for look in looks[1:]:
            for way, partition, end in look:
                if first.get((way, partition), end) != end:
                    yield Finding("disagreement", f"{op.client} saw {first[way, partition]} and then {end} in one"
                                  f" {op['isolation']} transaction by {way} in partition {partition}", [op])
    for event in run.of("book"):
        log = [id for id in run.final_ids(workload.PAIRED, 0).values() if not id.startswith("probe")]
        different = sorted(set(log) ^ set(event["ids"]))
        if different and run.has_log:
            yield Finding("disagreement", f"{different[0]} is in {'the log' if different[0] in set(log) else 'the table'}"
                          f" alone ({len(different)} records)")


def _judge(run, op, look):
    """One statement."""
    ends = {(way, partition): end for way, partition, end in look if partition is not None}
    groups = collections.defaultdict(set)
    for (_, partition), end in ends.items():
        groups[None if op["topic"] == workload.PAIRED and not run.may_be_behind(op, workload.PAIRED) else partition].add(end)
    for partition, values in groups.items():
        if len(values) > 1:
            said = ", ".join(f"{way}[{number}] {end}" for (way, number), end in sorted(ends.items())
                             if partition in (None, number))
            yield Finding("disagreement", f"{op.client} saw in one statement ({op['isolation']}) of {op['topic']}: {said}", [op])
    rows = [end for way, _, end in look if way == "book"]
    if rows and len(groups[None]) == 1:
        end, = groups[None]
        # where nobody confirms all that is committed is read; else rows may be there before their records
        if end > rows[0] or end < rows[0] and (not run.confirms or op["isolation"] == "SERIALIZABLE"):
            yield Finding("disagreement", f"{op.client} saw in one statement ({op['isolation']}) {rows[0]} rows, and"
                          f" {end} records that were committed with them", [op])


@check
def serialization(run):
    """
    Serializable transactions that no order explains: each saw less than the
    other had done.  Who saw less than is at a lower offset comes earlier; of
    those that did not look the offsets say nothing, as little as a sequence.
    """
    writers = {}  # {(partition, offset): number of an operation}
    for op in run.produced:
        for record in op.records:
            for place in record.places if record.topic == workload.NUMBERED else ():
                writers[place.partition, place.offset] = op.number
    before = collections.defaultdict(set)  # {number of an operation: of those that come before it}
    written = set(writers.values())
    for op in run.produced:
        if op.number in written or op.outcome == "ok":
            for partition, end in op.get("seen") or ():
                for offset in range(end - NEAR, end + NEAR):
                    other = writers.get((partition, offset), op.number)
                    if other != op.number and offset < end:
                        before[op.number].add(other)
                    elif other != op.number:
                        before[other].add(op.number)
    by_number = {op.number: op for op in run.operations}
    while True:
        try:
            graphlib.TopologicalSorter(before).prepare()
            return
        except graphlib.CycleError as error:
            cycle = [by_number[number] for number in error.args[1][1:]]
            said = "; ".join(f"{op.number} saw {op.get('seen')} by {op.get('ways')}, and is at"
                             f" {[str(place) for record in op.records for place in record.places]}" for op in cycle[:3])
            yield Finding("serialization", f"no order explains {len(cycle)} operations: {said}", cycle)
            for op in cycle:
                before.pop(op.number, None)
