"""Do two actors do twice the work of one? The real worker, store and pool around an engine that sleeps.

It sleeps tokens / --tokens-per-s per call (default: 130 visits/s of 656 tokens, the floor for Qwen2.5-7B on one H200)
and leaves the cores to the rest, so two actors on two cores show what the pipeline itself loses to a second one. Prints
visits/s of each, the idle share of the engines, and the efficiency v2 / (2 v1):

steady          from when every actor has delivered a shard to the last shard's end, so that the tail counts; visits by
                the share of their forward passes inside. The target is >= 95 %.
first to last   results after the first, from the first to the last. Flatters more actors: what the others have nearly
                finished at the first result counts as done in no time.
with start      everything, from the start of Ray to the last row: what a job this short would get.

    python -m benchmarks.cluster.scaling [--visits 3072] [--shard-rows 128] [--repeat 1]
"""

import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.pipeline.overhead import NullEngine
from benchmarks.pipeline.visits import HIDDEN, first_rows, make_run, make_teacher_base
from benchmarks.report import options
from ckd.config import Config
from ckd.run import Run
from ckd.section import Workers
from ckd.teacher.accounting import Account, figures
from ckd.teacher.embed import EMBEDDINGS, EmbedWorker, shards_to_embed
from ckd.teacher.work import Work
from jobs.console import Console
from jobs.shards import map_worker

THREADS = 2  # as jobs/embed.py has it for a GPU


class SleepingEngine(NullEngine):
    """Tokenises with the model's real prompter; the forward pass is a sleep."""

    def __init__(self, config: Config, tokens_per_s: float) -> None:
        super().__init__(config)
        self.tokens_per_s, self.work, self.calls = tokens_per_s, Work(), []

    def encode(self, prompts: list[list[int]]) -> np.ndarray:
        tokens, started = sum(map(len, prompts)), time.monotonic()
        time.sleep(tokens / self.tokens_per_s)
        ended = time.monotonic()
        self.work += Work(prompts=len(prompts), tokens=tokens, computed=tokens, busy_s=ended - started)
        self.calls.append((started, ended, len(prompts)))
        return np.ones((len(prompts), HIDDEN), np.float32)

    def take_work(self) -> Work:
        taken, self.work = self.work, Work()
        return taken


class SleepingWorker:
    """EmbedWorker on the sleeping engine; every row also carries all calls of the engine so far."""

    def __init__(self, run: Run, tokens_per_s: float) -> None:
        self.engine = SleepingEngine(run.config, tokens_per_s)
        self.worker = EmbedWorker(run, self.engine)

    def __call__(self, shard: Any) -> dict[str, Any]:
        row = self.worker(shard)
        return {**row, "calls": list(self.engine.calls)}


def embed_anew(run: Run, workers: int, tokens_per_s: float) -> tuple[dict[str, float], float]:
    """Embed the prepared visits with so many actors; visits/s in the three ways, and the devices' idle share."""
    stage = EMBEDDINGS.stage(run)
    for index in stage.indices():
        stage.delete(index)
    shards, machines = shards_to_embed(run.config, run.cohort), Workers(min=workers, max=workers)
    make = partial(SleepingWorker, run, tokens_per_s)
    with Path(run.config.run.results, "log").open("a") as log:
        started = time.monotonic()
        rows = map_worker(Console(log), "embed", make, shards, workers=machines, threads=THREADS)
        seconds = time.monotonic() - started
    whole = sum(row["rows"] for row in rows) / seconds
    rates = {"steady": steady(rows, workers), "first to last": first_to_last(rows), "with start": whole}
    return rates, figures(map(Account.from_row, rows), run.config.teacher, seconds)["idle_share"]


def steady(rows: list[dict[str, Any]], workers: int) -> float:
    """visits/s from when every worker has delivered to the last end. One machine's processes share the clock."""
    by_worker: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_worker.setdefault(row["account"]["worker"], []).append(row)
    if len(by_worker) != workers:
        raise SystemExit(f"{len(by_worker)} of {workers} actors did all the work: more visits are needed")
    begin = max(min(row["account"]["ended"] for row in mine) for mine in by_worker.values())
    end = max(row["account"]["ended"] for row in rows)
    done = 0.0
    for mine in by_worker.values():
        for started, ended, prompts in max((row["calls"] for row in mine), key=len):
            done += prompts * max(0.0, ended - max(started, begin)) / (ended - started)
    return done / (end - begin)


def first_to_last(rows: list[dict[str, Any]]) -> float:
    """visits/s of the results after the first."""
    ordered = sorted(rows, key=lambda row: row["account"]["ended"])
    return sum(r["rows"] for r in ordered[1:]) / (ordered[-1]["account"]["ended"] - ordered[0]["account"]["ended"])


def prepared(root: Path, visits: int, shard_rows: int) -> Run:
    """A run whose visits are prepared, with a tiny tokenizer."""
    teacher = [f"teacher.base_model={root}/teacher/base", "teacher.dtype=float32"]
    run = make_run(root, visits, f"data.shard_rows={shard_rows}", *teacher)
    make_teacher_base(root / "teacher", [row["input"] for row in first_rows(root, 200)])
    run.prepare(lambda _: None)
    return run


def main(argv: list[str] | None = None) -> int:
    parser = options(__doc__)
    parser.add_argument("--visits", type=int, default=3072)
    parser.add_argument("--shard-rows", type=int, default=128)
    parser.add_argument("--tokens-per-s", type=float, default=130 * 656)
    parser.add_argument("--repeat", type=int, default=1, help="alternating runs of each; medians are printed")
    arguments = parser.parse_args(argv)
    found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as root:
        run = prepared(Path(root), arguments.visits, arguments.shard_rows)
        for _ in range(arguments.repeat):
            for workers, runs in found.items():
                rates, idle = embed_anew(run, workers, arguments.tokens_per_s)
                runs.append(rates)
                said = ", ".join(f"{name} {value:.1f}" for name, value in rates.items())
                print(f"{workers} actors, visits/s: {said}; engines idle {idle:.1%}", flush=True)
    for way in found[1][0]:
        one, two = (median(rates[way] for rates in runs) for runs in found.values())
        print(f"efficiency, {way}: {two / (2 * one):.1%} ({one:.1f} and {two:.1f} visits/s)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
