"""Estimates what a run takes before anybody pays for it: hours of N workers, on demand and on spot.

It is a model, not a measurement: Assumptions holds what is assumed.
"""

import math
from dataclasses import dataclass

HOUR = 3600.0


@dataclass(frozen=True)
class Assumptions:
    """Per worker of the teacher, for Qwen2.5-7B on one H200; docs/scaling.md says where each value comes from."""

    ceiling: float = 130.0  # visits/s at the whole matrix rate
    utilisation: float = 0.6
    shard_rows: int = 4096  # data.shard_rows
    machine_s: float = 180.0  # from the request to a machine that runs Python, paid
    load_s: float = 90.0  # weights from nothing onto the GPU, budget found
    slow_share: float = 0.1  # how much slower the slowest GPU is
    given: int = 4  # shards that an actor holds when the last are given out: threads × GIVEN of cluster/pool.py
    preemptions_per_hour: float = 0.05  # of one spot machine
    price: float = 4.0  # per GPU-hour

    @property
    def rate(self) -> float:
        """visits/s of a loaded worker."""
        return self.ceiling * self.utilisation

    @property
    def shard_s(self) -> float:
        """Seconds per full shard."""
        return self.shard_rows / self.rate

    @property
    def rework_s(self) -> float:
        """Seconds that a preemption costs its GPU: half a shard, a new machine, a new load."""
        return self.shard_s / 2 + self.machine_s + self.load_s


MATRIX_RATE = 790e12  # FLOP/s in bfloat16 of one GPU, an H200
TRAINING_UTILISATION = 0.3  # of it, for a student of BERT's size: short rows, an optimizer step per batch


def wall_s(visits: int, gpus: int, a: Assumptions) -> dict[str, float]:
    """Seconds of each part of the pass on `gpus` GPUs; they add up to its wall time.

    Workers take shards as they become free, so the last round is not full: ⌈shards / GPUs⌉ rounds instead of
    visits / (GPUs × rate). A slow GPU still has `given` shards when the others finish theirs.
    """
    used = min(gpus, math.ceil(visits / a.shard_rows))
    even = visits / (used * a.rate)
    rounds = math.ceil(math.ceil(visits / a.shard_rows) / used)
    tail = max(0.0, rounds * min(a.shard_s, visits / a.rate) - even)
    slow = a.slow_share * a.shard_s * min(a.given, rounds) if used > 1 else 0.0
    return {"start": a.machine_s + a.load_s, "visits": even, "tail": tail, "slow": slow}


def spot_share(a: Assumptions, rework_s: float | None = None, machines: int = 1) -> float:
    """Share of a spot machine's time that preemptions cost: preemptions per hour × rework / 3600.

    Where the preemption of any of `machines` machines stops all of them, that many times as much.
    """
    return machines * a.preemptions_per_hour * (a.rework_s if rework_s is None else rework_s) / HOUR


def spot_hours(hours: float, share: float) -> float:
    """Machine-hours on spot for `hours` of work: hours / (1 - share), infinite from share 1 on.

    What is done again can be preempted too.
    """
    return hours / (1 - share) if share < 1 else math.inf


def training_flops(parameters: int, layers: int, width: int, tokens: int) -> float:
    """FLOPs of one visit of `tokens` tokens in a training step: three times the forward pass.

    That takes 2 per weight and token (Kaplan et al. 2020, section 2.1), and 4 × layers × width × tokens² for attention
    in both directions.
    """
    return 3.0 * (2.0 * parameters * tokens + 4.0 * layers * width * tokens**2)
