"""Who takes part in a round: the clients of each profile."""

from damage import Straddler, Tightener, Vandal
from followers import FollowerComparer, FollowerReader
from keeping import Idler, Keeper, KeptReader, StateProducer, StateReader, Trimmer
from leaders import NODES, LeaderConsumer, LeaderProducer, LeaderWorker, SpreadProducer
from members import (OF_ONE_LEADER, LeaderMember, LeaderRemover, LeaderTopicMaker, Member, MemberOffsetReader, Remover, SpreadMember,
                     TopicMaker)
from nodes import FOLLOWERS
from producers import PARTITIONS, LeaderNumberedProducer, NumberedProducer, SpreadNumberedProducer
from visibility import Comparer, Listener, Numberer, Pairer, StandbyReader
from workload import (KEPT, SPREAD, STATE, TOPICS, Admin, Copier, OffsetReader, Producer, Reader, Rereader, Resetter, Seeker,
                      SimpleConsumer, Snapshotter, Waiter, Worker)


def readers(count, **options):
    return [(Reader, 1, {"partition": partition, **options}) for partition in range(count)]


def keepers(count, think):
    """Those who work with topics that records leave."""
    return [(Producer, count, {"topics": KEPT, "think": think, "side": 0, "sleep": 0, "several": 0.3,
                               "kinds": {"single": 20, "send": 10, "batch": 40, "transaction": 27, "large": 3}}),
            (Keeper, count, {"think": 6 * think}), (KeptReader, count, {"think": 2 * think}), (Idler, 1, {}),
            (StateProducer, count, {"think": think}), (StateReader, count, {"think": 3 * think}),
            (Trimmer, count + 1, {"think": 4 * think})]


def members(count, kind=Member, groups=OF_ONE_LEADER, **options):
    """Members of some groups."""
    return [(kind, count, {"group": group, **options}) for group in groups]


ACKNOWLEDGED_EARLY = {"modes": {"local": 1, "off": 1}}  # goes on without a standby

ACKS = {"modes": {"on": 60, "local": 10, "off": 10, "acks_1": 15, "acks_0": 5}}

# name: lists of (class, number of clients, options)
PROFILES = {
    # everything, with pauses: about half a processor
    "all": [(Producer, 6, {}), (Copier, 2, {}), *readers(3), (Seeker, 1, {"think": 0.3}),
            (Rereader, 1, {}), (Snapshotter, 2, {}), (Admin, 1, {}), (Worker, 3, {}),
            *[(SimpleConsumer, 1, {"partition": partition, "think": 0.1}) for partition in range(3)],
            (Resetter, 1, {}), (OffsetReader, 1, {}), (Waiter, 1, {}), *keepers(1, 0.08),
            (Pairer, 1, {"think": 0.15}), (Comparer, 1, {"think": 0.25}), (Numberer, 2, {"think": 0.1}), (Listener, 1, {}),
            (Vandal, 1, {}), (Straddler, 1, {"think": 0.1}), (Tightener, 1, {"think": 0.5}),
            (NumberedProducer, 2, {}), (NumberedProducer, 1, {"named": False}), *members(2, think=0.25), (MemberOffsetReader, 1, {}),
            (Remover, 1, {}), (TopicMaker, 1, {})],
    # a synchronous standby, and who reads while it is away
    "standby": [(Producer, 2, {"modes": {"on": 55, "remote_apply": 5, "local": 20, "off": 20}}), (Producer, 1, ACKNOWLEDGED_EARLY),
                (Pairer, 2, {}), (Pairer, 1, ACKNOWLEDGED_EARLY), (Comparer, 2, {}), (Numberer, 2, {"think": 0.05}),
                *readers(3), (StandbyReader, 1, {}), (Seeker, 1, {"think": 0.3}), (Snapshotter, 1, {}), (Waiter, 1, {}),
                (Listener, 1, {}), (Worker, 2, {}), (SimpleConsumer, 1, {"think": 0.1}), (Copier, 1, {}),
                (OffsetReader, 1, {}), (Admin, 1, {}), (NumberedProducer, 2, {}), (NumberedProducer, 1, {"named": False}),
                *members(2, groups=("exact", "exact_static", "exact_pattern", "apart"), think=0.25), (MemberOffsetReader, 1, {}),
                (Remover, 1, {}), (TopicMaker, 1, {})],
    # a cluster's leader, and who reads on its followers
    "nodes": [(Producer, 3, ACKS), (Producer, 1, {"kinds": {"wide": 1}, "topics": ("second",), "think": 2, "side": 0}),
              (Pairer, 2, ACKS), (Comparer, 1, {}), (Numberer, 2, {"think": 0.1}), *readers(3),
              (Seeker, 1, {"think": 0.5}), (Snapshotter, 1, {}), (Waiter, 1, {}), (Listener, 1, {}), (Worker, 2, {}),
              (SimpleConsumer, 1, {"think": 0.1}), (Copier, 1, {}), (OffsetReader, 1, {}), (Admin, 1, {}), *keepers(1, 0.15),
              (NumberedProducer, 1, {}), (NumberedProducer, 1, {"named": False}), *members(2, groups=("exact", "apart"), think=0.25),
              *members(1, groups=("exact_kept", "exact_static", "exact_pattern"), think=0.25), (MemberOffsetReader, 1, {}),
              (Remover, 1, {}), (TopicMaker, 1, {}),
              *[(kind, 1, {"node": node}) for kind in (FollowerReader, FollowerComparer, StandbyReader) for node in FOLLOWERS]],
    # a cluster in which any node may lead, and who reads on all of them
    "leaders": [(LeaderProducer, 7, {"side": 0, "modes": {"on": 95, "local": 2, "off": 3}}),
                (LeaderProducer, 1, {"side": 0, "modes": {"acks_1": 1}}), (LeaderWorker, 3, {}),
                *[(LeaderConsumer, 1, {"partition": partition, "think": 0.1}) for partition in range(3)],
                (LeaderNumberedProducer, 2, {}), (LeaderNumberedProducer, 1, {"named": False}),
                *members(2, LeaderMember, ("exact", "exact_static")), *members(1, LeaderMember, ("exact_pattern", "apart")),
                (LeaderRemover, 1, {}), (LeaderTopicMaker, 1, {}),
                *[(kind, 1, {"node": node}) for kind in (FollowerReader, FollowerComparer, StandbyReader) for node in NODES]],
    # the same, and a topic whose leaders are spread
    "spread": [(LeaderProducer, 3, {"side": 0, "modes": {"on": 95, "local": 2, "off": 3}}),
               *[(SpreadProducer, 1, {"side": 0, "modes": {"on": 1}, "only_partitions": (partition,)})
                 for partition in range(TOPICS[SPREAD])], (LeaderWorker, 2, {}),
               *[(SpreadNumberedProducer, 1, {"partitions": (partition,), "named": named}) for partition in PARTITIONS
                 for named in (True, False)], *members(2, LeaderMember, ("exact",)),
               *members(4, SpreadMember, ("spread",)), *members(3, SpreadMember, ("spread_apart",)),
               *[(kind, 1, {"node": node}) for kind in (FollowerReader, FollowerComparer, StandbyReader) for node in NODES]],
    # topics that records leave, by policy, by hand and by compaction
    "keeping": keepers(2, 0.02),
    # what a reader sees, and what follows from that
    "visibility": [(Pairer, 3, {"think": 0.01}), (Comparer, 2, {"think": 0.01, "wait": 0.02}), (Numberer, 4, {"think": 0.002}),
                   (Listener, 1, {})],
    # who damages topics and puts them right; who alters what records were checked against
    "damage": [(Vandal, 1, {"think": 0.05}), (Straddler, 4, {}), (Tightener, 1, {})],
    # producers that number their records
    "numbering": [(NumberedProducer, 4, {"think": 0.01}), (NumberedProducer, 2, {"think": 0.01, "named": False})],
    # members that come and go
    "members": [(Producer, 3, {"think": 0.03, "sleep": 0, "side": 0}), *keepers(1, 0.1), *members(4, think=0.02, leave=0.06),
                (MemberOffsetReader, 1, {"think": 0.05}), (Admin, 1, {"works": {"add_partition": 1}, "think": 5}),
                (Remover, 1, {"think": 0.4}), (TopicMaker, 1, {})],
    # the rest is for mutants: much of what shows them
    # members that commit late what they have polled, while others come and go
    "generations": [(Producer, 2, {"think": 0.02, "sleep": 0, "side": 0, "topics": ("main",)}),
                    *members(4, groups=("apart",), think=0.02, leave=0.08, die=0.08, late=0.8, rollback=0), (MemberOffsetReader, 1, {})],
    # snapshots that are used when what came after them has been compacted
    "snapshots": [(StateProducer, 2, {"think": 0.02}), (Keeper, 1, {"works": {"roll": 1}, "rolled": (STATE,), "think": 0.1}),
                  (StateReader, 3, {"works": {"look": 1}, "wait": 1.5, "wait_again": 0})],
    # snapshots that are older than a log start, and compaction
    "trims": [(Trimmer, 4, {"think": 0.05})],
    # many commits that meet each other
    "commits": [(Producer, 8, {"think": 0.002, "notify": 0.5, "several": 0.8, "sleep": 0, "topics": ("main",),
                               "only_partitions": (0, 1)}),
                *readers(2), (Snapshotter, 1, {})],
    # producers and nobody who would flush for them
    "producers": [(Producer, 6, {"think": 0.01, "sleep": 0, "side": 0})],
    # the same in a cluster
    "nodes_producers": [(Producer, 4, {"think": 0.02, "sleep": 0, "side": 0, "topics": ("main",)})],
    # few commits, so that no node has more than others when it is asked for a promise
    "elections": [(LeaderProducer, 2, {"side": 0, "think": 0.7, "sleep": 0, "kinds": {"single": 1}})],
    # commits that fail after they have appended; VACUUM behind them; random reads
    "giants": [(Producer, 2, {"kinds": {"giant": 60, "single": 40}, "think": 0.02, "topics": ("main",),
                              "giant_records": 1500, "cancel_after": (1, 9)}),
               (Producer, 2, {"think": 0.02, "topics": ("main",), "side": 0}),
               *readers(3), (Seeker, 2, {"think": 0.02}),
               (Admin, 1, {"think": 0.1, "works": {"vacuum": 1}})],
    # who waits for records that come now and then
    "waiters": [(Producer, 2, {"think": 0.4, "side": 0, "topics": ("main",)}), (Waiter, 2, {})],
    # who is told of records that nobody has flushed, and nobody reads
    "told": [(Producer, 3, {"modes": {"off": 1}, "think": 0.02, "sleep": 0, "side": 0, "topics": ("main",),
                            "only_partitions": (0,), "kinds": {"single": 1}}),
             (Waiter, 1, {"reads": False, "think": 0}), (Listener, 1, {})],
    # members of a group close to each other
    "consumers": [(Producer, 3, {"think": 0.01, "sleep": 0, "side": 0, "topics": ("main",)}),
                  (Worker, 6, {"think": 0.002, "notify": 0.5, "sleep": 0.3, "limit": 10}),
                  (SimpleConsumer, 1, {"think": 0.02}), (Resetter, 1, {}), (OffsetReader, 1, {"think": 0.05}),
                  (Waiter, 2, {})],
    # few rows per page of the tail die, and VACUUM is there at once
    "tails": [(Producer, 2, {"kinds": {"giant": 30, "single": 70}, "think": 0.01, "topics": ("main",),
                             "giant_records": 150, "cancel_after": (0.5, 2.5)}),
              (Producer, 2, {"think": 0.02, "topics": ("main",), "side": 0}),
              *readers(3, hows={"scan": 1, "fetch": 1}), (Admin, 2, {"think": 0.01, "works": {"vacuum_tail": 1}})],
    # readers close behind producers
    "readers": [(Producer, 4, {"think": 0.01, "sleep": 0, "side": 0, "topics": ("main",)}),
                *readers(3, think=0.002, ask_ends=1.0, hows={"fetch": 1}), (Snapshotter, 2, {"think": 0.05})],
}

WITH_STANDBY = {"standby"}
WITH_NODES = {"nodes", "nodes_producers"}
WITH_LEADERS = {"leaders", "spread", "elections"}
WITH_SPREAD = {"spread"}


def clients(context, profile):
    """The clients of a profile, numbered by kind; not started."""
    result, numbers = [], {}
    for kind, count, options in PROFILES[profile]:
        for _ in range(count):
            number = numbers[kind] = numbers.get(kind, 0) + 1
            result.append(kind(context, f"{kind.__name__.lower()}-{number}", **options))
    return result
