"""A small made-up cohort with labels, current labels and stage parts, for the tests of evaluation."""

import numpy as np
import pyarrow as pa

from ckd.evaluation.scores import Rows
from ckd.store.artifacts import Stage
from ckd.visits.cohort import Cohort, commit
from ckd.visits.labels import CCS25
from ckd.visits.task import Task
from ckd.visits.visit import SPLITS, SUBGROUP_FIELDS, Visit

MARKER = "zyxmarkerqq"


def task_of(count, **labels):
    """A task of so many labels, named L0, L1, …; `labels` gives single ones other keys, under their names."""
    rows = [{"name": f"L{j}", **labels.get(f"L{j}", {"ccs": [j + 1]})} for j in range(count)]
    return Task.model_validate({"name": "made", "labels": rows})


def rows_of(labels, known=None, *, task=CCS25, groups=None):
    """Labelled visits without anything but labels [n, L]; `known` is where they are known (None: everywhere)."""
    none, n = np.zeros_like(labels), len(labels)
    known = np.ones_like(labels) if known is None else known
    groups = np.arange(n, dtype=np.uint64) if groups is None else groups
    ids = pa.array([f"v{i}" for i in range(n)], pa.string())
    return Rows(task, ids, labels, known, none, none, np.zeros(n, bool), groups, True)


def hidden(labels, unknown):
    """A visit's labels with None where `unknown` [L]; None when that is everywhere."""
    found = tuple(None if gone else flag for flag, gone in zip(labels, unknown, strict=True))
    return None if all(flag is None for flag in found) else found


def make_visits(
    sizes=(300, 120, 160), *, seed=0, known=True, subjects=True, informative=6, dated=True, task=CCS25, often=0.3
):
    """Visits per split: labels that partly stay, words that depend on `informative` labels.

    A subject has two visits, a day apart. A label is there now with the chance `often`.
    """
    count, informative = len(task), min(informative, len(task))
    rng = np.random.default_rng(seed)
    visits = []
    for split, size in zip(SPLITS, sizes, strict=True):
        for row in range(size):
            current = rng.random(count) < often
            hint = rng.random(count) < 0.3
            chance = np.where(current, 0.6, often / 2)
            chance[:informative] += 0.25 * hint[:informative]
            labels = rng.random(count) < chance
            words = " ".join(f"sign{j}" for j in np.flatnonzero(hint[:informative]))
            visits.append(
                Visit(
                    visit_id=f"{split}-{row}",
                    instruction=task.question,
                    input=f"{MARKER} visit {row} {words}",
                    labels=tuple(map(bool, labels)),
                    subject_id=f"{split}-{row // 2}" if subjects else None,
                    split=split,
                    current_labels=tuple(map(bool, current)) if known else None,
                    prediction_time=f"2150-01-{1 + row % 2:02d}T09:30:00" if dated else None,
                    subgroups={"age": str(40 + row % 50), "sex": "FM"[row // 2 % 2]},
                )
            )
    return visits


def write_cohort(root, visits, facts=None, shard_rows=64, task=CCS25) -> Cohort:
    fields = {"source": "test"}
    own = tuple(dict.fromkeys(name for v in visits for name in v.subgroups if name not in SUBGROUP_FIELDS))
    facts = facts or {}
    return commit(str(root), visits, fields=fields, shard_rows=shard_rows, facts=facts, task=task, subgroups=own)


def as_lists(values):
    table = np.asarray(values, dtype=np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(table.reshape(-1)), table.shape[1])


def write_stage(cohort, name, probabilities, *, fields=None, skip=()):
    """A stage's parts over tuning and held_out from {visit_id: probabilities}.

    Rows are in reverse order: the join is by visit_id.
    """
    stage = Stage(cohort.root, name, fields or {"model": name})
    for shard in cohort.select("tuning", "held_out"):
        ids = [v for v in reversed(cohort.read(shard, ["visit_id"]).column("visit_id").to_pylist()) if v not in skip]
        table = pa.table({"visit_id": ids, "probabilities": as_lists([probabilities[v] for v in ids])})
        stage.write(shard.index, table, rows=len(ids), input_hash=shard.text_hash)
    return stage


def noisy(visits, seed, noise=1.5):
    """Probabilities that know the labels through noise."""
    rng = np.random.default_rng(seed)
    return {
        v.visit_id: 1 / (1 + np.exp(-(2 * np.array(v.labels, float) - 1 + noise * rng.normal(size=len(v.labels)))))
        for v in visits
    }


def write_all(root, visits, facts=None, student_noise=1.5, task=CCS25):
    cohort = write_cohort(root, visits, facts, task=task)
    write_stage(cohort, "predictions", noisy(visits, 1, student_noise))
    write_stage(cohort, "soft_labels", noisy(visits, 2))
    return cohort
