"""Do two actors do twice the work of one? The real worker, store and pool around an engine that sleeps as long as a GPU would compute.

The engine takes tokens / --tokens-per-s per call (default: 130 visits/s of 656 tokens, the floor for Qwen2.5-7B on one H200) and leaves the cores
to the rest meanwhile, so two actors on two cores show what the pipeline itself loses to a second one. Prints visits/s of each, the share of the
time in which the engines did not sleep, and the efficiency v2 / (2 v1):

steady          from the moment when every actor has delivered its first shard to the last shard's end (so the tail, when one actor has
                nothing left to do, counts against it); visits by the share of their forward passes inside. The target is >= 95 %.
first to last   results after the first, over the time from the first result to the last, over all actors. Flatters more actors: what the
                others have nearly finished at the first result counts as done in no time.
with start      everything, from the start of Ray to the last row: what a job this short would see.

    python -m benchmarks.cluster.scaling [--visits 3072] [--shard-rows 128] [--repeat 1]
"""

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.pipeline.overhead import HIDDEN, NullEngine, write_visits
from ckd.config import Config, Workers
from ckd.configfile import load
from ckd.run import Run
from ckd.teacher.accounting import Account, figures
from ckd.teacher.embed import EMBEDDINGS, EmbedWorker, shards_to_embed
from ckd.teacher.work import Work
from ckd.visits.labels import DISEASES, INSTRUCTION, OUTPUT_PREFIX
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


def run(config: Config, workers: int, tokens_per_s: float) -> tuple[dict[str, float], float]:
    """Embed the prepared visits anew with so many actors; visits/s in the three ways, and the devices' idle share."""
    one = Run(config)
    stage = EMBEDDINGS.stage(one)
    for index in stage.indices():
        stage.delete(index)
    shards = shards_to_embed(config, one.cohort)
    with (Path(config.run.results) / "log").open("a") as log:
        started = time.monotonic()
        rows = map_worker(
            Console(log),
            "embed",
            partial(SleepingWorker, one, tokens_per_s),
            shards,
            workers=Workers(min=workers, max=workers),
            threads=THREADS,
        )
        seconds = time.monotonic() - started
    rates = {
        "steady": steady(rows, workers),
        "first to last": first_to_last(rows),
        "with start": sum(r["rows"] for r in rows) / seconds,
    }
    return rates, figures(map(Account.from_row, rows), config.teacher, seconds)["idle_share"]


def steady(rows: list[dict[str, Any]], workers: int) -> float:
    """visits/s between the moment when every worker has delivered and the last end. One machine's processes share the monotonic clock."""
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


def prepared(root: str, visits: int, shard_rows: int) -> Config:
    """A run whose visits are prepared, with a tiny tokenizer."""
    from ckd.teacher.tiny import UNTRAINED, make_teacher

    write_visits(Path(root) / "train.json", visits)
    held_out = {"instruction": INSTRUCTION, "input": "x", "output": OUTPUT_PREFIX + "None", "subject_id": "h"}
    (Path(root) / "held_out.json").write_text(json.dumps(held_out) + "\n")
    texts = [json.loads(line)["input"] for _, line in zip(range(200), (Path(root) / "train.json").open(), strict=False)]
    make_teacher(f"{root}/teacher", texts, np.zeros((len(texts), len(DISEASES))), 0, UNTRAINED)
    files = [f"data.train={root}/train.json", f"data.held_out={root}/held_out.json", f"data.shard_rows={shard_rows}"]
    config = load(
        None, [*files, f"run.results={root}", f"teacher.base_model={root}/teacher/base", "teacher.dtype=float32"]
    )
    Run(config).prepare(lambda _: None)
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--visits", type=int, default=3072)
    parser.add_argument("--shard-rows", type=int, default=128)
    parser.add_argument("--tokens-per-s", type=float, default=130 * 656)
    parser.add_argument("--repeat", type=int, default=1, help="alternating runs of each; medians are printed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        config = prepared(root, arguments.visits, arguments.shard_rows)
        found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
        for _ in range(arguments.repeat):
            for workers, runs in found.items():
                rates, idle = run(config, workers, arguments.tokens_per_s)
                runs.append(rates)
                said = ", ".join(f"{name} {value:.1f}" for name, value in rates.items())
                print(f"{workers} actors, visits/s: {said}; engines idle {idle:.1%}", flush=True)
    for way in found[1][0]:
        one, two = (median(one_run[way] for one_run in runs) for runs in found.values())
        print(f"efficiency, {way}: {two / (2 * one):.1%} ({one:.1f} and {two:.1f} visits/s)")


if __name__ == "__main__":
    main()
