"""What must hold of topics that were damaged, and of what records were checked against.

Checks as those of checks.py, which calls them: import this beside it.
"""

from checks import Finding, check


@check
def damage(run):
    """What a topic lacks is not recognised, or not put right by one call; what would lose records was not refused."""
    for op in run.operations:
        if op.outcome != "ok":
            continue
        if op.f == "repair":
            if op["damaged"] and not op["before"]:
                yield Finding("damage", f"{op.client} has damaged a topic, and topics.broken_topic does not show it", [op])
            if op["after"]:
                yield Finding("damage", f"after repair_topic: {op['after'][0]}", [op])
        elif op.f == "try_refused" and not op.get("refused"):
            yield Finding("damage", f"not refused: {op['statement']}", [op])


@check
def constraint(run):
    """Values were stored that a domain does not allow."""
    for op in run.operations:
        if op.f == "tighten" and op.get("above"):
            yield Finding("constraint", f"{op['above']} values above {op['limit']} are stored, which the constraint"
                          f" of {op} does not allow", [op])
