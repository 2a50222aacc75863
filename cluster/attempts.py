"""Counts how often an item was started; the pool asks before every start.

Ray retries for ever and does not say why: a spot machine that went away is no fault of the item, but an item that kills
its own process would never end.
"""

from collections import defaultdict
from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

MOST = 3  # starts that count; the next one is refused
Nodes = Callable[[], tuple[set[str], set[str]]]  # ids of the nodes that are alive, and of those that are to end soon


class Verdict(StrEnum):
    """What an actor does with the item that it was given."""

    RUN = "run"
    ALONE = (
        "alone"  # it may have killed its process: ask again when nothing else runs there, so that no other is blamed
    )
    LEAVE = "leave"  # this machine is about to end: another one runs it
    REFUSE = "refuse"  # it was started too often


class Ruling(NamedTuple):
    """The answer to one start: `attempts` are the counted starts with this one, `starts` all that really ran or run."""

    verdict: Verdict
    attempts: int
    starts: int


class Attempts:
    """The starts of every item. A start does not count when its machine is gone or draining by the time of the next."""

    def __init__(self, nodes: Nodes | None = None) -> None:
        """`nodes` tells what nodes there are; None: Ray's."""
        self.nodes = nodes or _nodes
        self.starts: dict[int, list[str]] = defaultdict(list)  # item -> the nodes it was started on
        self.leaving: set[str] = set()  # nodes that were draining once

    def begun(self) -> bool:
        """Whether any item has been started."""
        return bool(self.starts)

    def rule(self, item: int, node: str, alone: bool) -> Ruling:
        """Rule on starting `item` on `node`; `alone`: nothing else runs in that process. Only RUN counts as a start."""
        alive, draining = self.nodes()
        self.leaving |= draining
        before = self.starts[item]
        counted = sum(n in alive and n not in self.leaving for n in before)
        if counted >= MOST:
            return Ruling(Verdict.REFUSE, counted + 1, len(before))
        if node in draining:
            return Ruling(Verdict.LEAVE, counted, len(before))
        if counted and not alone:
            return Ruling(Verdict.ALONE, counted, len(before))
        before.append(node)
        return Ruling(Verdict.RUN, counted + 1, len(before))


def start_attempts() -> Any:
    """An actor that keeps the Attempts of one pool, on the driver's own machine. It ends with its last handle."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Attempts)
    return actor.options(scheduling_strategy=here).remote()


def _nodes() -> tuple[set[str], set[str]]:
    """Ray's nodes. Draining has no public name; Ray Data asks in the same way."""
    from ray._private.state import state

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}, set(state.get_draining_nodes())
