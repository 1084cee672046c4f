"""What must hold of a cluster's followers: what their readers see, what they have, what they have had.

Checks as those of checks.py, which calls them: import this beside it.  What a
follower's readers have seen checks.py looks at as well, as at any read.
"""

import collections

import workload
from checks import Finding, Place, check


@check
def went_back(run):
    """A follower showed less than before, though it was not restarted meanwhile."""
    seen = collections.defaultdict(list)  # {(node, start of the server): [look…]}
    for op in run.follower_looks:
        seen[op["node"], op["server"]].append(op)
    for (node, _), looks in seen.items():
        shown = sorted((op.end, op, ends_of(op)) for op in looks)
        highest, position = {}, 0  # {place: (end, by whom)}
        for op in sorted(looks, key=lambda op: op.start):
            while position < len(shown) and shown[position][0] < op.start:
                _, other, ends = shown[position]
                for place, end in ends.items():
                    highest[place] = max(highest.get(place, (0, other)), (end, other), key=lambda pair: pair[0])
                position += 1
            ends = ends_of(op)
            starts = {(topic, partition): start for topic, partition, start in op["starts"]}
            for place, (end, other) in highest.items():
                if place[0] not in workload.KEPT and ends.get(place, 0) < end and starts.get(place, 0) < end:
                    yield Finding("went_back", f"{node} showed {place[0]}[{place[1]}] up to {end - 1}, and later"
                                  f" up to {ends.get(place, 0) - 1}", [other, op])


def ends_of(op):
    """{(topic, partition): where what a look has seen ends}"""
    ends = {}
    for topic, partition, offset, _ in op["records"]:
        ends[topic, partition] = max(offset + 1, ends.get((topic, partition), 0))
    return ends


@check
def unreplicated(run):
    """Both followers were killed, and what had been acknowledged by then, with acks=all, is not as a whole on either."""
    for event in run.survivors:
        ends = [{(topic, partition): end for topic, partition, end in rows} for _, rows in event["ends"]]
        for op in run.produced:
            if not run.is_acknowledged(op) or op.end >= event["killed_at"]:
                continue
            ranges = [(Place(topic, partition, first + count - 1)) for topic, partition, first, count in op.get("ranges") or ()
                      if topic != workload.SIDE]
            if not any(all(of.get(place[:2], 0) > place.offset for place in ranges) for of in ends):
                yield Finding("unreplicated", f"{op} was acknowledged, with {', '.join(map(str, ranges))}, before both"
                              f" followers were killed, which end there at {[[of.get(place[:2]) for place in ranges] for of in ends]}",
                              [op])


@check
def replica(run):
    """After the load a follower is not what the leader is, record by record."""
    for event in run.of("replica_bounds"):
        for node, bounds in event["followers"].items():
            for row in sorted(set(map(tuple, bounds)) ^ set(map(tuple, event["leader"]))):
                whose = "the leader" if list(row) in event["leader"] else node
                yield Finding("replica", f"{row[0]}[{row[1]}] goes from {row[2]} to {row[3]} on {whose} alone, not on"
                              f" {node if whose == 'the leader' else 'the leader'}")
    for event in run.of("replica"):
        if "follower" not in event:
            continue
        leader, follower = ({(partition, offset): rest for partition, offset, *rest in event[of]}
                            for of in ("leader", "follower"))
        for partition, offset in sorted(set(leader) | set(follower)):
            here, there = leader.get((partition, offset)), follower.get((partition, offset))
            if here == there or event["compacted"] and None in (here, there):
                continue
            yield Finding("replica", f"{Place(event['topic'], partition, offset)} of {event['node']} is {there}, not {here}")
        if event["compacted"]:
            here, there = latest_of(leader), latest_of(follower)
            for key in sorted(key for key in set(here) | set(there) if here.get(key) != there.get(key)):
                yield Finding("replica", f"the latest record of a key of {event['topic']} is {there.get(key)} on"
                              f" {event['node']}, and {here.get(key)} on the leader")


def latest_of(records):
    """{(partition, key): (offset, what it is)} of the last record of each key that is no tombstone."""
    latest = {}
    for (partition, offset), (digest, key, is_tombstone) in sorted(records.items()):
        latest[f"{partition} {key}"] = None if is_tombstone else (offset, digest)
    return {key: found for key, found in latest.items() if found}
