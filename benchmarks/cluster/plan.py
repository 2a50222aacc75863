"""Which blow falls when in the chaos benchmark, only from a seed: the kind, and how far the run is by then."""

import random
from dataclasses import dataclass

KINDS = {  # kind -> how often among 25; and what it is
    "actor": 5,  # SIGKILL to one worker process
    "raylet": 3,  # SIGKILL to a node's raylet: its workers live on until they notice
    "machine": 4,  # SIGKILL to all processes of a node at once
    "drought": 2,  # the same, and the cloud has no machine to replace it for a while
    "drain": 5,  # a notice with a deadline, then the machine
    "driver": 4,  # SIGKILL to the driver; the same command again
    "head": 2,  # SIGKILL to the head, its driver and all nodes; a new cluster, the same command again
}
STAGES = ("embed", "student")


@dataclass(frozen=True)
class Blow:
    """The next kill: its kind, and the least progress (shards done, or optimizer steps done) at which it falls."""

    kind: str
    stage: str
    at: int


def plan(seed: int, kills: int, shards: int, steps: int) -> list[Blow]:
    """`kills` blows, half in each stage, at random points of its progress that leave work behind them."""
    rng = random.Random(seed)
    found = []
    for stage, total, count in (("embed", shards, kills - kills // 2), ("student", steps, kills // 2)):
        points = sorted(rng.sample(range(1, total - 4), count))
        found += [Blow(kind, stage, at) for kind, at in zip(deal(rng, count), points, strict=True)]
    return found


def deal(rng: random.Random, count: int) -> list[str]:
    """`count` kinds in random order, as often as KINDS says; when there are few, as many different ones as possible."""
    found: list[str] = []
    while len(found) < count:
        once, more = list(KINDS), [kind for kind, often in KINDS.items() for _ in range(often - 1)]
        rng.shuffle(once)
        rng.shuffle(more)
        found += (once + more)[: count - len(found)]
    rng.shuffle(found)
    return found
