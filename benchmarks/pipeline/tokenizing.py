"""How many visits one core prepares for the GPU: template, tokenizer, truncation; and what reading and writing a shard costs beside it.

Prints, per CPU second: visits and tokens through the prompter (windows of 512, no threads of the tokenizer's own), visits read from a part of the
cohort, and embeddings written; and the bytes per visit that each leaves. Visits as in pipeline_overhead; `--base-model` names the tokenizer,
by default a byte-pair tokenizer with Qwen2's pre-tokenizer and 4,000 entries, trained on the same visits.

    python -m benchmarks.pipeline.tokenizing [--base-model Qwen/Qwen2.5-7B-Instruct]
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # before the tokenizer: its threads would hide what a core does

import numpy as np
import pyarrow as pa

from benchmarks.pipeline.overhead import HIDDEN, write_visits
from ckd.config import Config
from ckd.configfile import load
from ckd.prompts import Prompter
from ckd.run import Run
from ckd.store.artifacts import Stage
from ckd.teacher.embed import WINDOW, column
from ckd.visits.cohort import Cohort
from ckd.visits.labels import DISEASES, INSTRUCTION, OUTPUT_PREFIX

TRIALS = 5


def cpu_seconds(work: Callable[[], Any]) -> float:
    """Median CPU seconds of a call over TRIALS, after one that is not timed."""
    work()
    found = []
    for _ in range(TRIALS):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return median(found)


def prepared(root: str, visits: int) -> Config:
    """A run whose visits are prepared, in one shard of `visits` rows."""

    write_visits(Path(root) / "train.json", visits)
    held_out = {"instruction": INSTRUCTION, "input": "x", "output": OUTPUT_PREFIX + "None", "subject_id": "h"}
    (Path(root) / "held_out.json").write_text(json.dumps(held_out) + "\n")
    files = [f"data.train={root}/train.json", f"data.held_out={root}/held_out.json", f"run.results={root}"]
    config = load(None, [*files, f"data.shard_rows={visits}"])
    Run(config).prepare(lambda _: None)
    return config


def tokenizer(name: str, root: str) -> Any:
    """The named model's tokenizer, else one trained on the visits."""
    from transformers import AutoTokenizer

    from ckd.teacher.tiny import TeacherSize, make_teacher

    if not name:
        texts = [json.loads(line)["input"] for line in (Path(root) / "train.json").open()]
        size = TeacherSize(hidden=8, layers=1, vocabulary=4000, phrases=0, rank=1, base_steps=0, adapter_steps=0)
        make_teacher(f"{root}/teacher", texts, np.zeros((len(texts), len(DISEASES))), 0, size)
        name = f"{root}/teacher/base"
    return AutoTokenizer.from_pretrained(name)


def figures(root: str, visits: int, base_model: str) -> dict[str, float]:
    """The printed figures."""
    config = prepared(root, visits)
    cohort = Cohort.open(config.run.artifacts_root)
    shard = cohort.select("train")[0]
    columns = ["visit_id", "instruction", "input"]
    table = cohort.read(shard, columns)
    texts = [table[name].to_pylist() for name in columns[1:]]
    prompter = Prompter(tokenizer(base_model, root), config.teacher.max_length)
    windows = [[text[n : n + WINDOW] for text in texts] for n in range(0, visits, WINDOW)]
    tokens = sum(len(ids) for window in windows for ids in prompter.encode(*window)[0])
    stage = Stage(config.run.artifacts_root, "embeddings", {})
    vectors = np.random.default_rng(0).normal(0, 3, (visits, HIDDEN)).astype(np.float32)

    def write() -> None:
        part = pa.table({"visit_id": table["visit_id"], "embedding": column(vectors, config.teacher)})
        stage.write(shard.index, part, rows=visits, input_hash="")

    tokenising = cpu_seconds(lambda: [prompter.encode(*window) for window in windows])
    visit_part = Stage(config.run.artifacts_root, "visits", {}).path(shard.index)
    read_s, write_s = (
        cpu_seconds(lambda: Cohort.open(config.run.artifacts_root).read(shard, columns).to_pylist()),
        cpu_seconds(write),
    )
    return {
        "tokens per visit": tokens / visits,
        "characters per token": sum(map(len, texts[0] + texts[1])) / tokens,
        "visits tokenised per CPU second": visits / tokenising,
        "tokens per CPU second": tokens / tokenising,
        "visits read per CPU second": visits / read_s,
        "embeddings written per CPU second": visits / write_s,
        "bytes of the visit, read": Path(visit_part).stat().st_size / visits,
        "bytes of the embedding, written": Path(stage.path(shard.index)).stat().st_size / visits,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-model", default="", help="folder or Hub id whose tokenizer is measured")
    parser.add_argument("--visits", type=int, default=2048)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        for name, value in figures(root, arguments.visits, arguments.base_model).items():
            print(f"{name:36}{value:12,.1f}")


if __name__ == "__main__":
    main()
