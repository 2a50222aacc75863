"""What mapping the student's examples into memory saves: the ranks of one machine read all shards twice, each for itself and with MappedArrays.

    python -m benchmarks.student.mapped_examples     # 4 processes, 16 shards of 4,096 visits on a local disk; about a CPU minute

CPU seconds of each rank per epoch, and by how much the proportional set sizes of all ranks together have grown while all hold an epoch's examples.
Writes benchmarks/results/mapped-examples.json. No model is trained, and nothing lies at a URL, where reading once counts for more.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import mean
from typing import Any

import pyarrow as pa

from benchmarks.student.training import make_config
from benchmarks.student.visits import TINY, make_visits, write_base, write_cohort
from benchmarks.teacher.speed import ROOT, header
from ckd.config import Config
from ckd.student.examples import Examples
from ckd.student.fingerprint import token_fields
from ckd.student.mapped import MappedArrays
from ckd.visits.cohort import Cohort

EPOCHS = 2
PATIENCE = 600.0  # seconds a rank waits for the others


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--shards", type=int, default=16, help="at most 16 are kept in memory")
    parser.add_argument("--rows", type=int, default=4096, help="visits per shard")
    parser.add_argument("--commit", help="where the checkout's git history did not travel along")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "mapped-examples.json")
    arguments = parser.parse_args(argv)
    report = header("cpu", sys.argv[1:] if argv is None else argv, arguments.commit, "mapped_examples")
    report["versions"]["pyarrow"] = pa.__version__
    report |= {
        "ranks": arguments.ranks,
        "shards": arguments.shards,
        "visits_per_shard": arguments.rows,
        "epochs": EPOCHS,
        "ways": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        config = make_config(root, write_base(root / "base", TINY), rows=arguments.rows)
        write_cohort(config, make_visits(arguments.shards * arguments.rows, 30_000, 0))
        for name, kept in (("each for itself", None), ("mapped", root / "mapped")):
            report["ways"][name] = figures = measure(config, arguments.ranks, kept)
            print(f"{name}: {figures}", flush=True)
    report["load_average_after"] = os.getloadavg()[0]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"written to {arguments.out}")
    return 0


def measure(config: Config, ranks: int, kept: Path | None) -> dict[str, Any]:
    """Let `ranks` processes read every shard EPOCHS times; `kept` is the folder of their mapped files, None for none."""
    context = multiprocessing.get_context("fork")  # what the ranks have imported is theirs before the first figure
    queue: Queue[tuple[list[float], float]] = context.Queue()
    barrier = context.Barrier(ranks)
    processes = [context.Process(target=_rank, args=(config, kept, barrier, queue)) for _ in range(ranks)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=PATIENCE) for _ in processes]
    for process in processes:
        process.join()
    files = sorted(kept.glob("*.arrow")) if kept else []
    return {
        "cpu_s_per_epoch": [[round(seconds[epoch], 3) for seconds, _ in found] for epoch in range(EPOCHS)],
        "mean_cpu_s_per_epoch": [round(mean(seconds[epoch] for seconds, _ in found), 3) for epoch in range(EPOCHS)],
        "pss_growth_mb": round(sum(grown for _, grown in found), 1),
        "mapped_files_mb": round(sum(file.stat().st_size for file in files) / 1e6, 1),
    }


def _rank(config: Config, kept: Path | None, barrier: Barrier, queue: "Queue[tuple[list[float], float]]") -> None:
    """One rank: each epoch with Examples of its own, as if its shards had left memory in between."""
    barrier.wait(PATIENCE)
    before, seconds = _proportional_mb(), []
    barrier.wait(PATIENCE)
    for _ in range(EPOCHS):
        begun = time.process_time()
        examples = _examples(config, kept)
        _touch(examples, range(len(examples.shards)))
        seconds.append(time.process_time() - begun)
        barrier.wait(PATIENCE)
        grown = _proportional_mb() - before
        barrier.wait(PATIENCE)  # nobody lets go while another one still counts
    queue.put((seconds, grown))


def _examples(config: Config, kept: Path | None) -> Examples:
    root = config.run.artifacts_root
    mapped = MappedArrays(kept) if kept else None
    return Examples(
        root,
        Cohort.open(root).shards,
        token_fields(config),
        hard_weight=config.student.hard_weight,
        soft=True,
        mapped=mapped,
    )


def _touch(examples: Examples, shards: Sequence[int]) -> None:
    """Read every number, as training does in the course of an epoch."""
    for position in shards:
        shard = examples[position]
        for array in (shard.tokens, shard.offsets, shard.hard, shard.soft_logits):
            array.sum()


def _proportional_mb() -> float:
    """This process's memory, pages shared by n processes counted as 1/n."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


if __name__ == "__main__":
    raise SystemExit(main())
