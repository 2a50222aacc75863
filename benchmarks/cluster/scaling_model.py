"""Hours and cost of the teacher's pass over millions of visits on N GPUs, by the model of ckd/estimate.py.

Prints the table of docs/scaling.md: python -m benchmarks.cluster.scaling_model
"""

from benchmarks.report import options
from ckd.estimate import HOUR, Assumptions, spot_share, wall_s

VISITS = (1_000_000, 10_000_000, 100_000_000)
GPUS = (1, 8, 64)


def table(a: Assumptions) -> str:
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
            work = f"| {visits:,} | {gpus} | {shards:,.1f} | {hours:,.2f} | {other:.1%} |"
            lines.append(f"{work} {hours * gpus:,.1f} | {cost:,.0f} |")
    return "\n".join(lines)


def main() -> int:
    options(__doc__).parse_args()
    a = Assumptions()
    print(table(a))
    cost, often = (
        1e6 / a.rate / HOUR * a.price,
        f"at {a.preemptions_per_hour:g} per hour {spot_share(a):.2%} of its time",
    )
    print(f"\nvisits/s per GPU {a.rate:.0f}, seconds per shard {a.shard_s:.1f}", end="")
    print(f", cost per million visits once loaded {cost:.2f}")
    print(f"a preemption costs {a.rework_s:.0f} s of its GPU; {often}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
