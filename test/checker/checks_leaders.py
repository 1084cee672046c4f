"""What must hold where another node comes to lead, beside what holds of any log and of any follower.

Checks as those of checks.py, which calls them: import this beside it.  That
nothing is lost or doubled, that all nodes are the same, and that what was
read stays, checks.py and checks_nodes.py look at.
"""

from checks import Finding, Place, check


@check
def consumed_twice(run):
    """Two transactions that were acknowledged have consumed the same record for the same group."""
    if not run.leaders:
        return
    consumed = {}  # {(group, place): operation}
    for op in run.operations:
        if op.f != "consume" or op.outcome != "ok":
            continue
        for partition, rows in op["takes"]:
            places = [(op["group"], Place(op["topic"], partition, offset)) for offset, _ in rows]
            again = [place for place in places if consumed.setdefault(place, op) is not op]
            if again:
                other = consumed[again[0]]
                yield Finding("consumed_twice", f"{again[0][1]} was consumed for {op['group']} by {other} and by {op}"
                              f" ({len(again)} records)", [other, op])


@check
def leaderless(run):
    """No node came to lead, though two of three ran, and reached each other."""
    for event in run.fault_ends:
        if event.get("elected", 0) is None:
            yield Finding("leaderless", f"no node led in time in the fault {event['f']} at {event['t']}: {event}")
