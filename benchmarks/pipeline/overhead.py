"""What the pipeline costs around the teacher: prepare and embed with an engine that computes nothing.

Prints visits/s, tokens/s and the peak memory of driver and workers at two cohort sizes, and the ratio to the public
code's way (render and tokenise one visit at a time) on a sample of the same visits in the same run.

    python -m benchmarks.pipeline.overhead [--visits 20000 200000] [--workers 1]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.pipeline.visits import HIDDEN, first_rows, make_run, make_teacher_base, write_visits
from benchmarks.report import options
from ckd.config import Config
from ckd.run import Run
from ckd.section import Workers
from ckd.teacher.embed import EMBEDDINGS, EmbedWorker, shards_to_embed
from ckd.teacher.engine import Load
from ckd.teacher.work import Work
from jobs.console import Console
from jobs.shards import map_worker

SAMPLE = 2000


class NullEngine:
    """Tokenises with the model's real prompter; the forward pass is a constant."""

    hidden = HIDDEN
    load = Load(seconds=0.0, revision=None, adapter=None, engine="transformers", device="cpu")

    def __init__(self, config: Config) -> None:
        from transformers import AutoTokenizer

        from ckd.prompts import Prompter

        self.prompter = Prompter(AutoTokenizer.from_pretrained(config.teacher.base_model), config.teacher.max_length)

    def encode(self, prompts: list[list[int]]) -> np.ndarray:
        return np.ones((len(prompts), HIDDEN), np.float32)

    def take_work(self) -> Work:
        return Work()


class NullWorker:
    """EmbedWorker on the null engine; every row also carries the process's peak memory."""

    def __init__(self, run: Run) -> None:
        self.worker = EmbedWorker(run, NullEngine(run.config))

    def __call__(self, shard: object) -> dict[str, object]:
        return {**self.worker(shard), "peak_mib": peak_mib()}


def main(argv: list[str] | None = None) -> int:
    arguments = _parse(argv)
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.visits[0], arguments.workers)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_visits(root / "train.json", 200)
        teacher = make_teacher_base(root / "teacher", [row["input"] for row in first_rows(root, 200)])
        for count in arguments.visits:
            folder = root / str(count)
            folder.mkdir()
            command = [sys.executable, "-m", "benchmarks.pipeline.overhead", "--one", str(folder)]
            command += ["--visits", str(count), "--workers", str(arguments.workers)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            figures = json.loads(done.stdout.splitlines()[-1])
            figures["ratio_to_one_at_a_time"] = figures["embed_visits_per_s"] / one_at_a_time(folder, teacher)
            print("  ".join(f"{n} {v:,.2f}" if v < 100 else f"{n} {v:,.0f}" for n, v in figures.items()), flush=True)
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = options(__doc__)
    parser.add_argument("--visits", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--workers", type=int, default=1)
    # One size in a process of its own: peak memory is per process.
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def measure(folder: Path, count: int, workers: int) -> dict[str, float]:
    """Prepare and embed `count` visits; figures of this process and its workers."""
    run = make_run(folder, count, f"teacher.base_model={folder.parent}/teacher/base")
    with (folder / "log").open("w") as log:
        console, started = Console(log), time.monotonic()
        cohort = run.prepare(console.say)
        prepare_s = time.monotonic() - started
        EMBEDDINGS.stage(run)
        shards, machines = shards_to_embed(run.config, cohort), Workers(min=workers, max=workers)
        rows = map_worker(console, "embed", partial(NullWorker, run), shards, workers=machines)
    embed_s = sum(row["seconds"] for row in rows) / max(workers, 1)
    return {
        "visits": count,
        "prepare_visits_per_s": count / prepare_s,
        "embed_visits_per_s": count / embed_s,
        "embed_tokens_per_s": sum(row["tokens"] for row in rows) / embed_s,
        "driver_peak_mib": peak_mib(),
        "worker_peak_mib": max(row["peak_mib"] for row in rows) if workers else 0.0,
    }


def one_at_a_time(folder: Path, teacher: str) -> float:
    """visits/s of the public code's way: render and tokenise each visit by itself."""
    from transformers import AutoTokenizer

    tokenizer, rows = AutoTokenizer.from_pretrained(teacher), first_rows(folder, SAMPLE)
    started = time.monotonic()
    for row in rows:
        message = [{"role": "user", "content": f"{row['instruction']}\n{row['input']}"}]
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        tokenizer([text], truncation=True, max_length=1024)
    return len(rows) / (time.monotonic() - started)


def peak_mib() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    raise SystemExit(main())
