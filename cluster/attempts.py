"""How often an item was started, asked by the pool before every start. Ray retries for ever and tells nobody, whether a spot machine went away or
the item itself kills its process: the first is no fault of the item, the second would never end."""

from collections import defaultdict
from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

MOST = 3  # starts that count; the next one is refused
Look = Callable[[], tuple[set[str], set[str]]]


class Verdict(StrEnum):
    """What an actor is to do with the item that it was given."""

    RUN = "run"
    ALONE = "alone"  # it may have killed its process: run it beside nothing else, so that no other item is blamed, and ask again
    LEAVE = "leave"  # this machine is about to end: another one shall run it
    REFUSE = "refuse"  # it was started too often


class Ruling(NamedTuple):
    """The answer to one start: `attempts` are the counted starts including this one, `starts` all that really ran or run."""

    verdict: Verdict
    attempts: int
    starts: int


class Attempts:
    """The starts of every item. A start does not count when its machine is gone, or was seen draining, by the time of the next one."""

    def __init__(self, look: Look | None = None) -> None:
        self.look = look or _look
        self.starts: dict[int, list[str]] = defaultdict(list)  # item -> the nodes it was started on
        self.leaving: set[str] = set()  # nodes once seen draining

    def begin(self, item: int, node: str, alone: bool) -> Ruling:
        """Rule on starting `item` on `node`; `alone`: nothing else runs in that process. Only RUN is written down."""
        alive, draining = self.look()
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
    """An actor that keeps the Attempts of one pool, on the driver's own machine, which outlives the spot ones. It ends with its last handle."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return (
        ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Attempts)
        .options(scheduling_strategy=here)
        .remote()
    )


def _look() -> tuple[set[str], set[str]]:
    """The ids of the nodes that are alive, and of those that are to end soon. The latter has no public name; Ray Data asks in the same way."""
    from ray._private.state import state

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}, set(state.get_draining_nodes())
