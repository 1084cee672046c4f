"""What must hold where another node comes to lead, beside what holds of any log and of any follower.

Checks as those of checks.py, which calls them: import this beside it.  That
nothing is lost or doubled, that all nodes are the same, and that what was
read stays, checks.py and checks_nodes.py look at.
"""

from checks import Finding, Place, check

LEASE = 1500000  # microseconds: node_timeout (leaders.py), and some more


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


@check
def lease(run):
    """
    A node took a commit that waits for no followers, though another one had led in a later term for longer than the
    node may lead without hearing of them.
    """
    for op in run.produced:
        if op.outcome != "ok" or "led" not in op.details:
            continue
        node, term = op["led"]
        later = [event for event in run.leads if event["term"] > term and event["t"] + LEASE < op.start]
        if later:
            yield Finding("lease", f"{op} was taken by {node} in term {term} at {op.start}, and {later[0]['node']} had led in term"
                          f" {later[0]['term']} at {later[0]['t']}", [op])
