"""Runs one function on every node of a cluster, for `ckd doctor`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


@dataclass(frozen=True)
class Node:
    """A machine that is up: its name, what it offers, and what the function returned there (None: no answer)."""

    name: str
    resources: dict[str, float]
    found: dict[str, Any] | None


def survey(look: Callable[[], dict[str, Any]], *, seconds: float) -> list[Node]:
    """Run `look()` on every node that is up, at once, with `seconds` for all. It reserves nothing."""
    task = ray.remote(num_cpus=0, max_retries=0)(_call)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(look)
        for node in nodes
    ]
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=seconds)
    return [
        Node(node["NodeManagerAddress"], dict(node["Resources"]), _answer(ref) if ref in answered else None)
        for node, ref in zip(nodes, asked, strict=True)
    ]


def wake(resources: dict[str, float], *, seconds: float) -> bool:
    """Wait until one task with these resources has run, for which an autoscaler starts a machine; False: none did."""
    gpus, cpus = resources.get("GPU", 0), resources.get("CPU", 0)
    asked = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=-1)(_awake).remote()
    answered, _ = ray.wait([asked], timeout=seconds)
    if not answered:
        ray.cancel(asked, force=True)
    return bool(answered)


def _call(look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    return look()


def _awake() -> bool:
    return True


def _answer(ref: Any) -> dict[str, Any] | None:
    try:
        return dict(ray.get(ref))
    except ray.exceptions.RayError:
        return None
