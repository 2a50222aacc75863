"""How many visits one core prepares for the GPU (template, tokenizer, truncation), and what a shard's files cost.

Per CPU second: visits and tokens through the prompter (windows of 512, without threads in the tokenizer), visits read
from a part, and embeddings written; and the bytes per visit of both files. The default tokenizer is byte-pair, with
Qwen2's pre-tokenizer and 4,000 entries, trained on the same visits.

    python -m benchmarks.pipeline.tokenizing [--base-model Qwen/Qwen2.5-7B-Instruct]
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # before the tokenizer: its threads would hide what a core does

import numpy as np
import pyarrow as pa

from benchmarks.pipeline.visits import HIDDEN, first_rows, make_run, make_teacher_base
from benchmarks.report import options, timed
from ckd.prompts import Prompter
from ckd.store.artifacts import Stage
from ckd.teacher.embed import WINDOW, column
from ckd.visits.cohort import Cohort

TRIALS = 5
SIZE = {"hidden": 8, "layers": 1, "vocabulary": 4000, "phrases": 0, "rank": 1, "base_steps": 0, "adapter_steps": 0}


def main(argv: list[str] | None = None) -> int:
    parser = options(__doc__)
    parser.add_argument("--base-model", default="", help="folder or Hub id whose tokenizer is measured")
    parser.add_argument("--visits", type=int, default=2048)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as root:
        for name, value in figures(Path(root), arguments.visits, arguments.base_model).items():
            print(f"{name:36}{value:12,.1f}")
    return 0


def figures(root: Path, visits: int, base_model: str) -> dict[str, float]:
    """The printed figures, of visits in one shard."""
    from transformers import AutoTokenizer

    run = make_run(root, visits, f"data.shard_rows={visits}")
    cohort = run.prepare(lambda _: None)
    shard, columns = cohort.select("train")[0], ["visit_id", "instruction", "input"]
    table = cohort.read(shard, columns)
    texts = [table[name].to_pylist() for name in columns[1:]]
    if not base_model:
        base_model = make_teacher_base(root / "teacher", [row["input"] for row in first_rows(root, visits)], **SIZE)
    prompter = Prompter(AutoTokenizer.from_pretrained(base_model), run.config.teacher.max_length)
    windows = [[text[n : n + WINDOW] for text in texts] for n in range(0, visits, WINDOW)]
    tokens = sum(len(ids) for window in windows for ids in prompter.encode(*window)[0])
    visit_part, stage = Stage(run.root, "visits", {}).path(shard.index), Stage(run.root, "embeddings", {})
    vectors = np.random.default_rng(0).normal(0, 3, (visits, HIDDEN)).astype(np.float32)

    def write() -> None:
        part = pa.table({"visit_id": table["visit_id"], "embedding": column(vectors, run.config.teacher)})
        stage.write(shard.index, part, rows=visits, input_hash="")

    tokenising_s = cpu_seconds(lambda: [prompter.encode(*window) for window in windows])
    read_s = cpu_seconds(lambda: Cohort.open(run.root).read(shard, columns).to_pylist())
    write_s = cpu_seconds(write)
    return {
        "tokens per visit": tokens / visits,
        "characters per token": sum(map(len, texts[0] + texts[1])) / tokens,
        "visits tokenised per CPU second": visits / tokenising_s,
        "tokens per CPU second": tokens / tokenising_s,
        "visits read per CPU second": visits / read_s,
        "embeddings written per CPU second": visits / write_s,
        "bytes of the visit, read": Path(visit_part).stat().st_size / visits,
        "bytes of the embedding, written": Path(stage.path(shard.index)).stat().st_size / visits,
    }


def cpu_seconds(work: Callable[[], Any]) -> float:
    """Median CPU seconds of a call over TRIALS, after one that is not timed."""
    work()
    return median(timed(work).cpu for _ in range(TRIALS))


if __name__ == "__main__":
    raise SystemExit(main())
