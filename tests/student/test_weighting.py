"""Class weighting: counts of train only, and losses against plain ones."""

from collections import Counter

import numpy as np
import pytest
import torch

from ckd.config import Config
from ckd.run import Run
from ckd.student.fingerprint import STUDENT
from ckd.student.loss import MOST, positive_weights
from ckd.visits.cohort import Cohort
from ckd.visits.labels import INSTRUCTION, NUM_LABELS
from ckd.visits.visit import Visit
from tests.student.student_cohort import make_cohort, make_config, make_tokens, make_visits
from tests.student.test_loss import example, plain_bce, visit_loss
from tests.student.trainings import run_train


def commit(root, rows):
    return make_cohort(root, rows, shard_rows=4)


def labelled(split, rows):
    return [Visit(f"{split}{i}", INSTRUCTION, "w01", row, f"{split}{i}", split) for i, row in enumerate(rows)]


def test_weights_are_negatives_by_positives_of_train_capped_and_one_without_positives(tmp_path):
    rows = [
        tuple(label == 0 or (label == 1 and i < 20) or (label == 2 and i == 7) for label in range(NUM_LABELS))
        for i in range(40)
    ]
    others = [*labelled("tuning", [(True,) * NUM_LABELS] * 9), *labelled("held_out", [(True,) * NUM_LABELS] * 9)]
    others += make_visits("train", 5, labeled=False)
    found = positive_weights(commit(tmp_path, [*labelled("train", rows), *others]))
    counts = Counter({label: sum(row[label] for row in rows) for label in range(NUM_LABELS)})
    wanted = [min((40 - n) / n, MOST) if n else 1 for n in (counts[label] for label in range(NUM_LABELS))]
    assert found.tolist() == pytest.approx(wanted) and found[:4].tolist() == [0, 1, MOST, 1]
    assert found.tolist() == positive_weights(commit(tmp_path / "alone", labelled("train", rows))).tolist()


def test_the_hard_part_is_its_formula_and_the_soft_part_stays():
    logits, hard, soft, share = example(5)
    weight = torch.linspace(0.5, 3, 25)
    found = visit_loss(logits, hard, soft, share, 2.0, weight)
    for i in range(5):
        total = 0.0
        for label in range(25):
            y, z, w = hard[i, label].item(), logits[i, label].item(), weight[label].item()
            total += (w * y * plain_bce(z, 1) + (1 - y) * plain_bce(z, 0)) / 25
        hard_part = share[i].item() * total
        soft_part = (1 - share[i]) * visit_loss(logits[i : i + 1], hard[:1], soft[i : i + 1], torch.zeros(1), 2.0)[0]
        assert found[i].item() == pytest.approx(hard_part + soft_part.item(), rel=1e-5)


def losses(config: Config) -> list[float]:
    make_tokens(config)
    return [*run_train(config).losses().values()]


def test_it_changes_what_training_minimises_and_the_fingerprint_only_where_set(tmp_path, base):
    visits = make_visits("train", 16)
    found, fields = [], []
    for name, student in {"off": {}, "weights": {"class_weighting": "balanced"}}.items():
        config = make_config(tmp_path / name, base, dropout=0.0, epochs=1, **student)
        make_cohort(config.run.artifacts_root, visits)
        found.append(losses(config)[0])
        fields.append(STUDENT.artifact(Run(config)).fields)
    assert len(set(found)) == 2
    assert not {"student.class_weighting", "student.embedding_weight", "embeddings"} & fields[0].keys()
    assert fields[1] == fields[0] | {"student.class_weighting": "balanced"}


def test_weights_are_the_same_whatever_the_shards(tmp_path):
    visits = make_visits("train", 50)
    one, other = (positive_weights(make_cohort(tmp_path / str(rows), visits, shard_rows=rows)) for rows in (3, 50))
    assert np.array_equal(one, other)
    assert Cohort.open(str(tmp_path / "3")).select("train")
