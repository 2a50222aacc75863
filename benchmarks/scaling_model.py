"""Hours and cost of the teacher's pass over millions of visits on N GPUs: a model, not a measurement. Prints the tables of docs/scaling.md.

python -m benchmarks.scaling_model
"""

import math
from dataclasses import dataclass

VISITS = (1_000_000, 10_000_000, 100_000_000)
GPUS = (1, 8, 64)
HOUR = 3600.0


@dataclass(frozen=True)
class Assumptions:
    """Per GPU, one worker each. Nothing here was measured on a GPU by this project; docs/scaling.md says where each comes from."""

    ceiling: float = 130.0  # visits/s at the whole matrix rate
    utilisation: float = 0.6
    shard_rows: int = 4096  # data.shard_rows
    machine_s: float = 180.0  # from the request to a machine that runs Python, paid
    load_s: float = 90.0  # weights from nothing onto the GPU, budget found
    slow_share: float = 0.1  # by how much the slowest GPU is slower
    given: int = 4  # shards that an actor holds when the last are given out: threads × GIVEN of cluster/pool.py
    preemptions_per_hour: float = 0.05  # of one spot GPU
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
        """Seconds that a preemption costs its GPU: half the shard in the forward pass, a new machine, a new load. What waited is not lost."""
        return self.shard_s / 2 + self.machine_s + self.load_s


def wall_s(visits: int, gpus: int, a: Assumptions) -> dict[str, float]:
    """Seconds of each part of the pass on `gpus` GPUs; they add up to its wall time.

    Shards are dealt as workers become free, so the last round is not full: ⌈shards / GPUs⌉ rounds instead of visits / (GPUs × rate). A slow GPU
    still has `given` shards when the others finish theirs.
    """
    used = min(gpus, math.ceil(visits / a.shard_rows))
    even = visits / (used * a.rate)
    rounds = math.ceil(math.ceil(visits / a.shard_rows) / used)
    tail = max(0.0, rounds * min(a.shard_s, visits / a.rate) - even)
    slow = a.slow_share * a.shard_s * min(a.given, rounds) if used > 1 else 0.0
    return {"start": a.machine_s + a.load_s, "visits": even, "tail": tail, "slow": slow}


def spot_share(a: Assumptions) -> float:
    """Share of a spot GPU's hour that preemptions cost."""
    return a.preemptions_per_hour * a.rework_s / HOUR


def table(a: Assumptions = Assumptions()) -> str:
    """The Markdown table: wall hours, GPU-hours and cost per number of visits and GPUs."""
    lines = [
        "| visits | GPUs | shards per GPU | hours | of which start, tail and slowest | GPU-hours | cost |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for visits in VISITS:
        for gpus in GPUS:
            parts = wall_s(visits, gpus, a)
            hours = sum(parts.values()) / HOUR
            other = 1 - parts["visits"] / sum(parts.values())
            shards = visits / a.shard_rows / gpus
            cost = hours * gpus * a.price
            lines.append(f"| {visits:,} | {gpus} | {shards:,.1f} | {hours:,.2f} | {other:.1%} | {hours * gpus:,.1f} | {cost:,.0f} |")
    return "\n".join(lines)


def main() -> None:
    a = Assumptions()
    print(table(a))
    print(
        f"\nvisits/s per GPU {a.rate:.0f}, seconds per shard {a.shard_s:.1f}, cost per million visits once loaded {1e6 / a.rate / HOUR * a.price:.2f}"
    )
    print(f"a preemption costs {a.rework_s:.0f} s of its GPU; at {a.preemptions_per_hour:g} per hour {spot_share(a):.2%} of its time")


if __name__ == "__main__":
    main()
