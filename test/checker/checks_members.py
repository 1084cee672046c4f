"""What must hold of members of consumer groups.

Checks as those of checks.py, which calls them: import this beside it.  That
what they poll is what the log has, without a gap, checks.py looks at.
"""

import bisect
import collections
import itertools

import members
import workload
from checks import Finding, Place, check

QUIET = 5000000  # microseconds after a lost connection in which its last call may still do something


def polls(run):
    """Operations that have polled, with an answer."""
    return [op for op in run.operations if op.f in ("member_work", "member_poll") and "polled_at" in op.details]


def parts(op):
    """(topic, partition, [[offset, id]…], generation) of what an operation has polled: of each partition in that of its leader set."""
    generations = op.get("generations") or itertools.repeat(op.get("generation"))
    return [(*take, generation) for take, generation in zip(op.get("takes", ()), generations)]


def commits(run):
    """(operation, [[topic, partition, committed offset, generation]…]) of all that commit offsets."""
    for op in run.operations:
        if op.f == "member_work" and op.get("takes"):
            yield op, [[topic, partition, rows[-1][0] + 1, generation] for topic, partition, rows, generation in parts(op)]
        elif op.f == "member_commit":
            yield op, op["offsets"]


def is_spread(group):
    return group in members.GROUPS and members.GROUPS[group].spread


def lives(run):
    """
    {member: in which life of its group it has joined}: a group whose last member has gone begins anew, with generation 1.
    Joins are one after the other, and each knows when it was its turn.  Where leaders are spread, each leader set begins
    anew: see Turns.
    """
    result, life = {}, collections.Counter()
    joins = [op for op in run.operations if op.f == "join_group" and "joined_at" in op.details and op.outcome != "fail"]
    for op in sorted(joins, key=lambda op: op["joined_at"]):
        life[op["group"]] += op["generation"] == 1 and not is_spread(op["group"])
        result[op["member"]] = life[op["group"]]
    return result


def instances(run):
    return {op["member"]: op["instance"] for op in run.operations if op.f == "join_group" and "member" in op.details}


def member_places(run):
    """{(group, topic, partition): committed offset} at the end."""
    return {(group, topic, partition): place for event in run.of("members") for group, topic, partition, place in event["committed"]}


def final_records(run, topic, partition):
    """{offset: id} of a partition at the end."""
    if topic != workload.STATE:
        return run.final_ids(topic, partition)
    return {offset: "null" if id is None else id for event in run.of("state_log")
            for number, offset, _, id in event["rows"] if number == partition}


def lasting(run, rows, group, topic, partition):
    """
    Of rows (time, (life, generation), ...) those of generations that nothing has taken back, as far as that is certain.  One
    that was not durable, or not confirmed, when its server ended, or another node came to lead, may be higher than later ones.
    """
    if not run.leaders and not run.restarts:
        return rows
    known = {op["generation"] for op in run.operations
             if op.f == "join_group" and op.outcome == "ok" and op["group"] == group and not is_spread(group)}
    known |= {generation for op, offsets in commits(run) if op.outcome == "ok" and op["group"] == group
              for *place, _, generation in offsets if not is_spread(group) or place == [topic, partition]}
    return [row for row in rows if row[1][1] in known]


def is_disturbed(run, begin, end):
    """A fault happened in between."""
    return any(since <= end and until >= begin for since, until in run.fault_times)


class Highest:
    """Of rows (time, what can be compared, ...) the highest up to a time."""

    def __init__(self, rows):
        self.times, self.rows = [], []
        for row in sorted(rows, key=lambda row: row[0]):
            self.times.append(row[0])
            self.rows.append(row if not self.rows or row[1] > self.rows[-1][1] else self.rows[-1])

    def before(self, time):
        number = bisect.bisect_left(self.times, time)
        return self.rows[number - 1] if number else None


class Turns:
    """
    Who has polled a partition: rows (time, (life, generation), member, operation).  Where leaders are spread, only those count
    for a member that come after it has joined: in those before the leader set may have had another life.  A member that
    takes over without joining anew gets a higher generation.
    """

    def __init__(self, run, group, topic, partition, rows):
        self.rows = sorted(lasting(run, rows, group, topic, partition), key=lambda row: row[0])
        self.highest = Highest(self.rows)
        self.joined = joins(run) if is_spread(group) else None

    def later(self, time, when, member):
        """A row before a time, of another member, in a later generation; or None."""
        if self.joined is not None:
            return next((row for row in self.rows if self.joined[member] < row[0] < time and row[1] > when and row[2] != member), None)
        row = self.highest.before(time)
        if row and row[2] == member:  # it may have got the partition again
            row = next((row for row in self.rows if row[0] < time and row[1] > when and row[2] != member), None)
        return row if row and row[1] > when else None


def joins(run):
    """{member: when it has joined}"""
    return {op["member"]: op["joined_at"] for op in run.operations if op.f == "join_group" and "joined_at" in op.details}


@check
def exactly_once_members(run):
    """What a group has worked on is not what its committed offset says, where both are in one transaction: each record once."""
    if not run.has_log:
        return
    places = member_places(run)
    work = collections.defaultdict(list)
    if run.leaders:  # where tables are each node's own
        for (topic, _), rows in run.log.items():
            for _, value, *_ in rows if topic in (workload.WORKED, workload.WORKED_SPREAD) else ():
                _, group, of, partition, offset, id = value.split("|", 5)
                work[group, of, int(partition)].append((int(offset), id))
    for event in run.of("members"):
        for group, topic, partition, offset, id in event["work"] if not run.leaders else ():
            work[group, topic, partition].append((offset, id))
    for group, topic, partition in sorted({*places, *work}):
        if group not in members.GROUPS or not members.GROUPS[group].exact:
            continue
        place = places.get((group, topic, partition), 0)
        done = work[group, topic, partition]
        twice = sorted(row for row, count in collections.Counter(done).items() if count > 1)
        beyond = sorted(row for row in done if row[0] >= place)
        there = {row for row in final_records(run, topic, partition).items() if row[0] < place}
        missing = sorted(there - set(done))
        strange = []
        if topic != workload.STATE:  # compaction takes records
            strange = sorted(row for row in set(done) - there if run.log_start(topic, partition) <= row[0] < place)
        if twice or beyond or missing or strange:
            yield Finding("exactly_once_members", f"group {group}, {topic}[{partition}], committed {place}: {len(done)} were worked on;"
                          f" twice {twice[:3]}, not {missing[:3]}, beyond {beyond[:3]}, not in the log {strange[:3]}"
                          f" ({len(twice)}, {len(missing)}, {len(beyond)}, {len(strange)})")


@check
def passed_over(run):
    """A group has committed an offset behind a record that no member of it has polled."""
    if not run.has_log:
        return
    polled = collections.defaultdict(set)
    for op in polls(run):
        for topic, partition, rows in op["takes"]:
            polled[op["group"], topic, partition].update(offset for offset, _ in rows)
    for (group, topic, partition), place in sorted(member_places(run).items()):
        if group not in members.GROUPS:
            continue
        missing = sorted(offset for offset in final_records(run, topic, partition)
                         if offset < place and offset not in polled[group, topic, partition])
        if missing:
            yield Finding("passed_over", f"group {group} has committed {place} in {topic}[{partition}], and nobody has polled"
                          f" {missing[0]} ({len(missing)} records)")


@check
def two_owners(run):
    """Two members have polled a partition in one generation, or one of them after another one had it in a later one."""
    life, instance, joined = lives(run), instances(run), joins(run)
    seen = collections.defaultdict(list)  # {(group, topic, partition): [(when, (life, generation), member, operation)…]}
    for op in polls(run):
        if op["member"] in life:
            for topic, partition, _, generation in parts(op):
                seen[op["group"], topic, partition].append((op["polled_at"], (life[op["member"]], generation), op["member"], op))
    for (group, topic, partition), rows in seen.items():
        owners = {}  # {(life, generation): (member, operation)}
        for _, when, member, op in sorted(rows, key=lambda row: row[0]):
            other, source = owners.setdefault(when, (member, op))
            # who has joined since is in another life of the leader set: to join is another generation
            if is_spread(group) and joined[member] > source["polled_at"]:
                owners[when] = member, op
                continue
            # a static member has what it had under its former id
            if other != member and (instance.get(other) is None or instance.get(other) != instance.get(member)):
                yield Finding("two_owners", f"group {group}, {topic}[{partition}]: {source} and {op} have polled it for"
                              f" {other} and {member} in generation {when[1]}", [source, op])
        turns = Turns(run, group, topic, partition, rows)
        for _, when, member, op in rows:
            later = turns.later(op.start, when, member)
            if later:
                yield Finding("two_owners", f"group {group}, {topic}[{partition}]: {op} has polled it for {member} in generation"
                              f" {when[1]}, after {later[3]} for {later[2]} in {later[1][1]}", [later[3], op])


@check
def fenced_member(run):
    """Who is no member was served; or an offset was committed by one whose partition another one had by then."""
    life, gone = lives(run), {}  # {member: when that was certain}
    instance = instances(run)
    static = {}  # {(group, instance): [(time, member, operation)…]}
    joined = {op["member"] for op in run.operations if op.f == "join_group" and op.outcome == "ok"}
    told = {}  # {member: by which operation}
    for op in run.operations:
        if op.f in ("leave_group", "remove_member") and op.outcome == "ok":
            gone.setdefault(op["member"], (op.end, op))
        elif op.get("error") in members.UNKNOWN_MEMBER and op.get("member") in joined and op.f != "remove_member":
            told.setdefault(op["member"], op)
        elif op.f == "join_group" and "member" in op.details:
            if op.outcome == "fail":
                gone[op["member"]] = op.end, op
            elif op.outcome == "ok" and op["instance"]:
                static.setdefault((op["group"], op["instance"]), []).append((op["joined_at"], op["member"], op))
    for rows in static.values():
        for (_, former, _), (_, _, op) in zip(sorted(rows, key=lambda row: row[0]), sorted(rows, key=lambda row: row[0])[1:]):
            gone.setdefault(former, (op.end, op))
    polled = collections.defaultdict(list)
    for op in polls(run):
        for topic, partition, _, generation in parts(op):
            if op["member"] in life:
                polled[op["group"], topic, partition].append(
                    (op["polled_at"], (life[op["member"]], generation), op["member"], op))
    turns = {place: Turns(run, *place, rows) for place, rows in polled.items()}
    for op in run.operations:
        since, source = gone.get(op.get("member"), (float("inf"), None))
        if op.outcome != "ok" or op.f == "join_group":
            continue
        is_commit = op.f == "member_commit" or op.f == "member_work" and op["takes"]
        if (op.get("commit_at", op.start) if is_commit else op.start) > since:
            # where leaders are spread it may have left what that node had led, and not what had moved
            if not is_spread(op["group"]) or not is_disturbed(run, source.start - QUIET, op.end):
                yield Finding("fenced_member", f"{op} was done for a member that was none any more: {source}", [source, op])
        # a removal that was not durable, or not confirmed, may be taken back
        source = told.get(op.get("member"))
        if source and op.start > source.end and op.get("node") == source.get("node") and not is_disturbed(run, source.start - QUIET, op.end):
            yield Finding("fenced_member", f"{op} was done for a member that was told that it is none: {source}", [source, op])
    for op in run.operations:
        # a generation that was never durable may be given again
        if op.f == "commit_taken" and op.outcome == "ok" and not run.leaders \
                and not any(begin <= op.end and op["taken_at"] <= end for begin, end, _ in run.restarts):
            topic, partition, offset, generation = op["offset"]
            yield Finding("fenced_member", f"{op} has committed {Place(topic, partition, offset)} for {op['group']} in generation"
                          f" {generation}; the member did not have it any more, after that", [op])
    for op, offsets in commits(run):
        if op.outcome != "ok" or op["member"] not in life:
            continue
        for topic, partition, offset, generation in offsets:
            place, when = (op["group"], topic, partition), (life[op["member"]], generation)
            later = turns[place].later(op["commit_at"], when, op["member"]) if place in turns else None
            if later:
                yield Finding("fenced_member", f"{op} has committed {Place(topic, partition, offset)} for {op['group']} in"
                              f" generation {generation}, after {later[3]} had polled there for another member, in {later[1][1]}",
                              [later[3], op])


@check
def refused_member(run):
    """A member that went on later was refused a commit in partitions that it had just polled."""
    later = collections.defaultdict(list)  # {member: [(start, operation)…] of what was done for it}
    lost = collections.defaultdict(list)  # {client: when its connections were lost}
    latest = {}  # {member: its latest poll}
    timeouts = {op["member"]: op["timeout"] * 1000000 for op in run.operations if op.f == "join_group" and "member" in op.details}
    for op in run.operations:
        if op.outcome == "ok" and op.get("member") and op.f not in ("join_group", "remove_member"):
            later[op["member"]].append((op.start, op))
        if op.get("error") == "lost" or op.outcome == "info":
            lost[op.client].append(op.end or op.start)
    for op in run.operations:
        # only a poll gives partitions up
        if op.f == "member_poll":
            latest[op.get("member")] = op
        if op.f not in ("member_work", "member_commit") or op.get("error") != members.ILLEGAL_GENERATION:
            continue
        offsets = next((offsets for other, offsets in commits(run) if other is op), [])
        if op.f == "member_commit":
            source = latest.get(op["member"])
            taken = {(topic, partition, generation) for topic, partition, _, generation in parts(source)} if source else set()
            if not all((topic, partition, generation) in taken for topic, partition, _, generation in offsets):
                continue
        # where leaders are spread it may have been silent too long for one leader set, or where that was led meanwhile
        if is_spread(op["group"]) and (op.end - op.start > timeouts[op["member"]] or is_disturbed(run, op.start - QUIET, op.end)):
            continue
        if any(op.start - QUIET < time <= op.end for time in lost[op.client]):
            continue
        after = next((other for start, other in later[op["member"]] if start > op.end), None)
        if after and offsets:
            yield Finding("refused_member", f"{op} was refused: {op['message']}; and {op['member']} has polled that before, and went on"
                          f" in {after}", [op, after])


@check
def forgotten_member(run):
    """A member was told that it is none, though it has called in time, and nobody has removed or replaced it."""
    joins, calls, removals, replacements = {}, *(collections.defaultdict(list) for _ in range(3))
    for op in run.operations:
        if op.f == "join_group" and "member" in op.details:
            joins[op["member"]] = op
            if op["instance"] and op.outcome != "fail":
                replacements[op["group"], op["instance"]].append(op["joined_at"])
        elif op.f in ("leave_group", "remove_member"):
            if op.outcome != "fail":
                removals[op["member"]].append(op.start)
        elif op.get("member") and (op.outcome == "ok" or "polled_at" in op.details):
            calls[op["member"]].append((op.start, op.end or float("inf")))
    for op in run.operations:
        member, join = op.get("member"), joins.get(op.get("member"))
        if op.get("error") not in members.UNKNOWN_MEMBER or op.f == "remove_member" or join is None or join.outcome != "ok":
            continue
        if any(start < op.end for start in removals[member]) \
                or any(join["joined_at"] < other < op.end for other in replacements[join["group"], join["instance"]]) \
                or "clock" in run.faults or run.leaders and is_disturbed(run, op.start - QUIET, op.end):
            continue
        # it was heard at some time of each call
        heard = [row for row in [(join["joined_at"], join.end), *calls[member]] if op.start - QUIET < row[0] < op.start]
        silences = [end - start for (start, _), (_, end) in zip(heard, [*heard[1:], (op.start, op.end)])]
        if silences and max(silences) < join["timeout"] * 1000000:
            yield Finding("forgotten_member", f"{op} was told that {member} is no member, which has joined by {join} and was never"
                          f" silent for longer than {max(silences) / 1000000:.1f} s of {join['timeout']:.1f} s", [join, op])


@check
def paused(run):
    """A member got records of a partition that it has paused, or one is paused that it has not, or not any more."""
    known = {}  # {(member, topic, partition): (is it paused, in which generation, operation)}
    touched = set()
    for op in run.operations:
        if op.f in ("pause", "resume"):
            key = op["member"], *op["place"]
            touched.add(key)
            known[key] = op.f == "pause", op["generation"], op
            if op.outcome != "ok":
                del known[key]
            continue
        seen = []
        if op.f == "assignment" and op.outcome == "ok":
            seen = [(topic, partition, generation, is_paused) for topic, partition, generation, is_paused in op["places"]]
        elif op.f in ("member_work", "member_poll"):
            seen = [(topic, partition, generation, False) for topic, partition, _, generation in parts(op)]
        for topic, partition, generation, is_paused in seen:
            key = op["member"], topic, partition
            was, since, source = known.get(key, (None, None, None))
            if key not in touched and is_paused:
                yield Finding("paused", f"{op} found {topic}[{partition}] paused, which {op['member']} has never asked for", [op])
            # it may have lost the partition in between, and got it again
            elif source and was != is_paused and (is_paused or generation == since) \
                    and not is_disturbed(run, source.start - (QUIET if run.leaders else 0), op.end):
                yield Finding("paused", f"{op} found {topic}[{partition}] {'' if is_paused else 'not '}paused, after {source}",
                              [source, op])


@check
def member_offset(run):
    """An offset that members have committed went back, or lies beyond the log end, or nobody has committed it."""
    known = collections.defaultdict(list)  # {(group, topic, partition): [(when it was certain, offset, operation)…]}
    possible = collections.defaultdict(set)
    looks = []
    for op, offsets in commits(run):
        for topic, partition, offset, _ in offsets:
            if op.outcome == "ok":
                known[op["group"], topic, partition].append((op.end, offset, op))
            if op.outcome != "fail":
                possible[op["group"], topic, partition].add(offset)
    for op in run.operations:
        if op.f == "member_offsets" and op.outcome == "ok":
            looks.append((op.start, {(group, topic, partition): offset for group, topic, partition, offset in op["rows"]}, op))
            if not run.leaders and not any(promotion for *_, promotion in run.restarts):  # what a view shows need not be confirmed
                for group, topic, partition, offset in op["rows"]:
                    known[group, topic, partition].append((op.end, offset, op))
    for key, place in member_places(run).items():
        looks.append((float("inf"), {key: place}, None))
        end = run.ends.get(key[1:], (0, None))[1]
        if end is not None and place > end:
            yield Finding("member_offset", f"group {key[0]} has committed {place} in {key[1]}[{key[2]}], which ends at {end}")
    highest = {key: Highest(rows) for key, rows in known.items()}
    for start, places, look in looks:
        for key, place in places.items():
            if key[0] not in members.GROUPS:
                continue
            group, topic, partition = key
            if place not in possible[key]:
                yield Finding("member_offset", f"group {group} stands at {place} in {topic}[{partition}], which nobody has committed",
                              [look] if look else [])
            before = highest[key].before(start) if key in highest else None
            if before and before[1] > place:
                _, offset, source = before
                yield Finding("member_offset", f"group {group} stood at {offset} in {topic}[{partition}], and at {place} later",
                              [op for op in (source, look) if op])


@check
def unowned(run):
    """After the load a member of a group polls on, and a partition is nobody's, or there are records left."""
    for event in run.of("drained_group"):
        if event["left"] is None:
            yield Finding("unowned", f"after the load, group {event['group']} has taken no member")
        for topic, partition, committed, end, lag, consumer in event["left"] or ():
            yield Finding("unowned", f"after the load, group {event['group']} stands at {committed} in {topic}[{partition}], which ends"
                          f" at {end}, and {'nobody' if consumer is None else consumer} has that")
