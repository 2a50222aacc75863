"""Random visits about as long as MIMIC-III's, a run on them, and a tiny teacher with a tokenizer trained on them."""

import json
import random
from itertools import islice
from pathlib import Path

import numpy as np

from ckd.configfile import load
from ckd.run import Run
from ckd.visits.grammar import render_input
from ckd.visits.labels import DISEASES, INSTRUCTION, NUM_LABELS, OUTPUT_PREFIX

HIDDEN = 3584  # Qwen2.5-7B


def write_visits(path: Path, count: int) -> None:
    """Write public JSONL whose inputs have a median of 440 WordPiece tokens, as MIMIC-III's."""
    rng = random.Random(0)
    titles = [f"Disorders of system {i} not elsewhere classified" for i in range(400)]
    drugs = [f"Medication {i} {5 * (i % 9 + 1)}mg" for i in range(800)]
    procedures = [f"Procedure {i} NEC" for i in range(200)]
    with path.open("w", encoding="utf-8") as file:
        for n in range(count):
            treated = {disease: rng.sample(drugs, 4) for disease in rng.sample(DISEASES, 3)}
            text = render_input(rng.sample(titles, 9), rng.sample(drugs, 25), rng.sample(procedures, 4), treated)
            file.write(_row(text, ", ".join(rng.sample(DISEASES, 3)), f"s{n // 3}"))


def _row(text: str, diseases: str, subject: str) -> str:
    output = OUTPUT_PREFIX + diseases
    return json.dumps({"instruction": INSTRUCTION, "input": text, "output": output, "subject_id": subject}) + "\n"


def make_run(folder: Path, count: int, *settings: str) -> Run:
    """A run on `count` visits with its files below `folder`; nothing is prepared yet."""
    write_visits(folder / "train.json", count)
    (folder / "held_out.json").write_text(_row("x", "None", "h"))
    files = [f"data.train={folder}/train.json", f"data.held_out={folder}/held_out.json", f"run.results={folder}"]
    return Run(load(None, [*files, *settings]))


def first_rows(folder: Path, count: int) -> list[dict[str, str]]:
    """The first rows of a run's visits."""
    with (folder / "train.json").open() as file:
        return [json.loads(line) for line in islice(file, count)]


def make_teacher_base(folder: Path, texts: list[str], **size: int) -> str:
    """A tiny untrained teacher; `size` as of TeacherSize. Returns the folder of its base model."""
    from ckd.teacher.tiny import UNTRAINED, TeacherSize, make_teacher

    made = TeacherSize(**size) if size else UNTRAINED
    make_teacher(str(folder), texts, np.zeros((len(texts), NUM_LABELS)), 0, made)
    return str(folder / "base")
