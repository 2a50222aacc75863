"""A small made-up cohort with labels, current labels and stage parts, for the tests of evaluation."""

import numpy as np
import pyarrow as pa

from ckd.store.artifacts import Stage
from ckd.visits.cohort import Cohort, commit
from ckd.visits.labels import INSTRUCTION, NUM_LABELS
from ckd.visits.visit import SPLITS, Visit

MARKER = "zyxmarkerqq"


def make_visits(sizes=(300, 120, 160), *, seed=0, known=True, subjects=True, informative=6, dated=True):
    """Visits per split: labels that partly stay, words that depend on `informative` labels.

    A subject has two visits, a day apart.
    """
    rng = np.random.default_rng(seed)
    visits = []
    for split, size in zip(SPLITS, sizes, strict=True):
        for row in range(size):
            current = rng.random(NUM_LABELS) < 0.3
            hint = rng.random(NUM_LABELS) < 0.3
            chance = np.where(current, 0.6, 0.15)
            chance[:informative] += 0.25 * hint[:informative]
            labels = rng.random(NUM_LABELS) < chance
            words = " ".join(f"sign{j}" for j in np.flatnonzero(hint[:informative]))
            visits.append(
                Visit(
                    visit_id=f"{split}-{row}",
                    instruction=INSTRUCTION,
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


def write_cohort(root, visits, facts=None, shard_rows=64) -> Cohort:
    return commit(str(root), visits, fields={"source": "test"}, shard_rows=shard_rows, facts=facts or {})


def as_lists(values):
    return pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(values, dtype=np.float32).reshape(-1)), NUM_LABELS)


def write_stage(cohort, name, probabilities, *, fields=None, skip=()):
    """A stage's parts over tuning and held_out from {visit_id: 25 probabilities}.

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
        v.visit_id: 1 / (1 + np.exp(-(2 * np.array(v.labels) - 1 + noise * rng.normal(size=NUM_LABELS))))
        for v in visits
    }


def write_all(root, visits, facts=None, student_noise=1.5):
    cohort = write_cohort(root, visits, facts)
    write_stage(cohort, "predictions", noisy(visits, 1, student_noise))
    write_stage(cohort, "soft_labels", noisy(visits, 2))
    return cohort
