"""A run of a task of another size, some cells unknown, from input rows to the finished student."""

import io
import json
import random
from pathlib import Path

import numpy as np
import pytest

from ckd.configfile import load
from ckd.run import Run
from ckd.student.fingerprint import STUDENT
from ckd.student.model import load_student
from ckd.teacher.embed import EMBEDDINGS
from ckd.teacher.head import HEAD, load_heads
from ckd.teacher.soft_labels import SOFT_LABELS
from ckd.visits.columns import cells, matrix
from jobs import embed, soft_labels, train_head, train_student
from jobs.console import Console
from jobs.public_files import public_problems, require_own
from testbed.rows import write_jsonl
from tests.student.student_cohort import WORDS, make_base

TASK = "name: t{0}\noutput: 'Will have: '\nlabels:\n"


def write_task(folder, count):
    labels = "".join(f"  - {{name: 'label {n}', given: c{n}}}\n" for n in range(count))
    (folder / f"{count}.yaml").write_text(TASK.format(count) + labels)
    return f"task.labels={folder}/{count}.yaml"


def rows(count, visits=160):
    """Visits whose words decide their labels; of each visit about a third of the labels is unknown, of a few all."""
    rng = random.Random(count)
    for n in range(visits):
        words = rng.choices(WORDS[:60], k=12)
        hidden = [i for i in range(count) if rng.random() < 0.3]
        true = [f"label {i}" for i in range(count) if (i not in hidden and f"w{i:02d}" in words) or (i == 0 and n % 2)]
        true = [name for name in true if int(name[6:]) not in hidden]
        yield {
            "visit_id": f"v{n}",
            "subject_id": f"s{n // 2}",
            "instruction": "x",
            "input": f"visit {' '.join(random.Random(n).choices(WORDS[:60], k=12))}",
            "output": f"Will have: {', '.join(true) or 'None'}",
            "unknown_labels": [f"label {i}" for i in hidden],
            "split": ("train", "train", "tuning", "held_out")[n // 2 % 4],
        }


def run_to_the_student(folder, count, teacher, *overrides):
    base = folder / "base"
    base = str(base) if base.exists() else make_base(base, others=["visit"])
    given = [f"run.results={folder}/results", f"run.public_files={folder}/public", "run.name=forty"]
    given += [f"data.train={write_jsonl(folder / f'{count}.json', list(rows(count)))}", write_task(folder, count)]
    given += [f"teacher.base_model={teacher}/base", "teacher.dtype=float32", "task.instruction=generic"]
    given += [f"student.base_model={base}", "student.epochs=1", "student.max_length=32", "student.batch_size=16"]
    run, out = Run(load(None, [*given, "head.epochs=3", "data.shard_rows=32", *overrides])), io.StringIO()
    for job in (embed, train_head, soft_labels, train_student):
        job.work(run, Console(out))
    return run, out.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("labels")


@pytest.fixture(scope="module")
def forty(folder, teacher_folder):
    return run_to_the_student(folder, 40, teacher_folder, "student.use_unlabeled=true")


def check(run, count):
    assert len(run.cohort.task) == count
    unknown = [np.isnan(cells(run.cohort.read(s, ["labels"])["labels"])).mean() for s in run.cohort.select()]
    assert count == 1 or 0.2 < np.mean(unknown) < 0.4
    heads = load_heads(HEAD.artifact(run))
    assert heads.weight.shape[1] == count and np.isfinite(heads.weight).all()
    for shard in run.cohort.select():
        soft = matrix(SOFT_LABELS.stage(run).read(shard.index)["probabilities"])
        assert soft.shape == (shard.rows, count) and ((soft > 0) & (soft < 1)).all()
    student = load_student(STUDENT.artifact(run).fetched())
    assert list(student.config.id2label.values()) == list(run.task.names)
    assert student.classifier.weight.shape[0] == count and student.classifier.weight.isfinite().all()
    public = json.loads((Path(run.config.run.public_folder) / "data/hands_name_train.json").read_text())
    assert list(public[0]) == list(run.task.names) and len(public) == run.cohort.count("train")


def test_forty_labels_of_which_a_third_of_the_cells_is_unknown(forty):
    check(forty[0], 40)


def test_one_label_below_a_run_whose_teacher_has_read_everything_already(folder, forty, teacher_folder, monkeypatch):
    monkeypatch.setattr("ckd.teacher.embed.load_engine", lambda *_: pytest.fail("a model was loaded"))
    lender = forty[0]
    public = Path(lender.config.run.public_folder)
    before = {path: path.read_bytes() for path in public.rglob("*") if path.is_file()}
    run, said = run_to_the_student(folder, 1, teacher_folder, "run.task=one")
    check(run, 1)
    assert f"run.task=one: 106 visits taken from {lender.root}, 0 to compute" in said
    assert before and before == {path: path.read_bytes() for path in before}
    assert run.config.run.public_folder == str(public / "tasks/one") and not public_problems(run)
    require_own(run)
    assert run.cohort.count(labeled=False) > 20, "a visit of which nothing is known is unlabeled"
    theirs = {
        i: v.tobytes()
        for index in EMBEDDINGS.stage(lender).indices()
        for part in [EMBEDDINGS.stage(lender).read(index)]
        for i, v in zip(part["visit_id"].to_pylist(), matrix(part["embedding"], None), strict=True)
    }
    for shard in run.cohort.select():
        part = EMBEDDINGS.stage(run).read(shard.index)
        vectors = matrix(part["embedding"], None)
        assert [theirs[i] for i in part["visit_id"].to_pylist()] == [v.tobytes() for v in vectors]
