"""What the pipeline costs around the teacher: prepare and embed with an engine that computes nothing.

Prints visits/s, tokens/s and the peak memory of driver and workers at two cohort sizes, and the ratio to the public code's way (render and
tokenise one visit at a time) on a sample of the same visits in the same run.

    python -m benchmarks.pipeline.overhead [--visits 20000 200000] [--workers 1]
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from ckd.config import Config
from ckd.configfile import load
from ckd.run import Run
from ckd.teacher.embed import EMBEDDINGS, EmbedWorker, shards_to_embed
from ckd.teacher.engine import Load
from ckd.teacher.work import Work
from ckd.visits.grammar import render_input
from ckd.visits.labels import DISEASES, INSTRUCTION, OUTPUT_PREFIX
from jobs.console import Console
from jobs.shards import map_worker

HIDDEN = 3584  # Qwen2.5-7B
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


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_visits(path: Path, count: int) -> None:
    """Public JSONL of random visits about as long as MIMIC-III's (median 440 WordPiece tokens of input)."""
    rng = random.Random(0)
    titles = [f"Disorders of system {i} not elsewhere classified" for i in range(400)]
    drugs = [f"Medication {i} {5 * (i % 9 + 1)}mg" for i in range(800)]
    procedures = [f"Procedure {i} NEC" for i in range(200)]
    with path.open("w", encoding="utf-8") as file:
        for n in range(count):
            treated = {disease: rng.sample(drugs, 4) for disease in rng.sample(DISEASES, 3)}
            text = render_input(rng.sample(titles, 9), rng.sample(drugs, 25), rng.sample(procedures, 4), treated)
            output = OUTPUT_PREFIX + ", ".join(rng.sample(DISEASES, 3))
            file.write(
                json.dumps({"instruction": INSTRUCTION, "input": text, "output": output, "subject_id": f"s{n // 3}"})
                + "\n"
            )


def run(folder: Path, count: int, workers: int) -> dict[str, float]:
    """Prepare and embed `count` visits; figures of this process and its workers."""

    write_visits(folder / "train.json", count)
    (folder / "held_out.json").write_text(
        json.dumps({"instruction": INSTRUCTION, "input": "x", "output": OUTPUT_PREFIX + "None", "subject_id": "h"})
        + "\n"
    )
    files = [f"data.train={folder}/train.json", f"data.held_out={folder}/held_out.json"]
    config = load(None, [*files, f"run.results={folder}", f"teacher.base_model={folder.parent}/teacher/base"])
    console = Console((folder / "log").open("w"))
    started = time.monotonic()
    one = Run(config)
    cohort = one.prepare(console.say)
    prepared = time.monotonic()
    EMBEDDINGS.stage(one)
    from ckd.config import Workers

    rows = map_worker(
        console,
        "embed",
        partial(NullWorker, one),
        shards_to_embed(config, cohort),
        workers=Workers(min=workers, max=workers),
    )
    embed_s = sum(row["seconds"] for row in rows) / max(workers, 1)
    return {
        "visits": count,
        "prepare_visits_per_s": count / (prepared - started),
        "embed_visits_per_s": count / embed_s,
        "embed_tokens_per_s": sum(row["tokens"] for row in rows) / embed_s,
        "driver_peak_mib": peak_mib(),
        "worker_peak_mib": max(row["peak_mib"] for row in rows) if workers else 0.0,
    }


def one_at_a_time(folder: Path, teacher: Path) -> float:
    """visits/s of the public code's way: render and tokenise each visit alone."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(teacher)
    rows = [json.loads(line) for _, line in zip(range(SAMPLE), (folder / "train.json").open(), strict=False)]
    started = time.monotonic()
    for row in rows:
        message = [{"role": "user", "content": f"{row['instruction']}\n{row['input']}"}]
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        tokenizer([text], truncation=True, max_length=1024)
    return len(rows) / (time.monotonic() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--visits", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--one", type=Path, help=argparse.SUPPRESS
    )  # one size in a process of its own: peak memory is per process
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run(arguments.one, arguments.visits[0], arguments.workers)))
        return
    with tempfile.TemporaryDirectory() as root:
        from ckd.teacher.tiny import UNTRAINED, make_teacher

        write_visits(Path(root) / "vocabulary.json", 200)
        texts = [json.loads(line)["input"] for line in (Path(root) / "vocabulary.json").open()]
        make_teacher(f"{root}/teacher", texts, np.zeros((len(texts), len(DISEASES))), 0, UNTRAINED)
        for count in arguments.visits:
            folder = Path(root) / str(count)
            folder.mkdir()
            command = [
                sys.executable,
                "-m",
                "benchmarks.pipeline.overhead",
                "--one",
                str(folder),
                "--visits",
                str(count),
                "--workers",
                str(arguments.workers),
            ]
            figures = json.loads(
                subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
            )
            peer = one_at_a_time(folder, Path(root) / "teacher" / "base")
            figures["ratio_to_one_at_a_time"] = figures["embed_visits_per_s"] / peer
            print(
                "  ".join(
                    f"{name} {value:,.2f}" if value < 100 else f"{name} {value:,.0f}" for name, value in figures.items()
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
