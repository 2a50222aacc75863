"""Any number of labels, some cells unknown: the heads learn from the known cells alone, each label by its own mean."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from ckd.errors import DataError
from ckd.run import Run
from ckd.teacher.head import HEAD, EmbeddingReader, save_heads
from ckd.teacher.head_fit import log_loss, train_heads
from ckd.teacher.soft_labels import SoftLabelWorker
from ckd.visits.task import Label, Task
from tests.teacher.embedded import embedded, visits
from tests.teacher.test_head import SPLITS, arrays, quiet, vector


def task_of(count):
    return Task(name="t", labels=tuple(Label(name=f"label {n}", given=f"c{n}") for n in range(count)))


def hidden(rows, share=0.4, seed=1):
    """The same visits, each with some cells unknown."""
    rng = np.random.default_rng(seed)
    for visit in rows:
        masks = rng.random(len(visit.labels)) < share
        labels = tuple(None if mask else flag for mask, flag in zip(masks, visit.labels, strict=True))
        yield replace(visit, labels=labels if set(labels) != {None} else visit.labels)


@pytest.mark.parametrize("count", [1, 3, 40, 500])
def test_heads_and_soft_labels_have_as_many_columns_as_the_task_has_labels(tmp_path, count):
    task = task_of(count)
    rows = list(hidden(visits(SPLITS, task=task), share=0.2))
    config, cohort, stage = embedded(tmp_path, rows, task=task, overrides=["head.epochs=2"])
    heads = train_heads(config, cohort, stage, quiet)
    assert heads.weight.shape == (6, count, 6) and heads.bias.shape == (6, count)
    assert np.isfinite(heads.weight).all() and np.isfinite(heads.report["adapter_optimism"])
    run = Run(config, {"embeddings": stage.fields, "head": {"a": 1}, "soft_labels": {"b": 1}})
    (tmp_path / "t/artifacts/head").mkdir()
    (tmp_path / "t/artifacts/head/h.pt").write_bytes(b"x")
    save_heads(HEAD.artifact(run), heads, "h.pt")
    worker = SoftLabelWorker(run)
    worker(cohort.shards[0])
    part = worker.stage.read(0)
    assert part["logits"].type.list_size == part["probabilities"].type.list_size == count


def test_the_value_that_a_hidden_cell_had_changes_nothing(tmp_path):
    rows = list(visits(SPLITS))
    flipped = [replace(v, labels=tuple(not x for x in v.labels)) for v in rows]
    mixed = [
        replace(v, labels=tuple(f if m is None else x for x, f, m in zip(v.labels, w.labels, k.labels, strict=True)))
        for v, w, k in zip(rows, flipped, hidden(rows), strict=True)
    ]
    a, b = (
        train_heads(*embedded(tmp_path / name, list(hidden(part))), quiet) for name, part in (("a", rows), ("b", mixed))
    )
    full, other = (train_heads(*embedded(tmp_path / name, part), quiet) for name, part in (("c", rows), ("d", mixed)))
    assert (full.weight != other.weight).any(), "the values do differ"
    np.testing.assert_array_equal(a.weight, b.weight)
    np.testing.assert_array_equal(a.bias, b.bias)
    assert a.report == b.report


def test_each_label_is_fitted_as_scikit_learn_fits_it_on_its_known_visits(tmp_path):
    task, rng = task_of(3), np.random.default_rng(0)
    rows = list(visits(["train"] * 900 + ["tuning"] * 200, per_subject=1, task=task))
    truth = rng.normal(0, 0.3, (6, 3))
    rows = [replace(v, labels=tuple((rng.random(3) < 1 / (1 + np.exp(-vector(v) @ truth))).tolist())) for v in rows]
    rows = [
        replace(v, labels=(v.labels[0], *(None if n % 4 else flag for flag in v.labels[1:])))
        for n, v in enumerate(rows)
    ]
    chosen = ["head.epochs=80", "head.batch_size=64", "head.learning_rate=0.01", "head.l2=0"]
    config, cohort, stage = embedded(tmp_path, rows, overrides=chosen, shard_rows=256, task=task)
    heads = train_heads(config, cohort, stage, quiet)
    (x, y, _), (tx, ty, _) = arrays(cohort, stage, "train"), arrays(cohort, stage, "tuning")
    ours = heads.logits(tx, np.full(len(tx), heads.final))
    losses = np.logaddexp(0, ours) - ours * ty
    for label in range(3):
        known = ~np.isnan(y[:, label])
        assert known.sum() == (900 if label == 0 else 225)
        fitted = LogisticRegression(C=1e4, max_iter=1000).fit(x[known], y[known, label])
        reference = fitted.decision_function(tx)
        theirs = np.nanmean(np.logaddexp(0, reference) - reference * ty[:, label])
        assert np.nanmean(losses[:, label]) <= theirs * 1.02
    assert heads.report["tuning_log_loss"] == pytest.approx(np.nanmean(losses), rel=1e-5)


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(1, 6), st.integers(0, 99))
def test_a_log_loss_is_over_the_known_cells_and_without_unknown_ones_it_is_the_plain_one(rows, count, seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (rows, count)).astype(np.float32)
    labels = (rng.random((rows, count)) < 0.5).astype(np.float32)
    plain = torch.nn.functional.binary_cross_entropy_with_logits(
        *map(torch.from_numpy, (logits, labels)), reduction="sum"
    )
    assert log_loss(logits, labels) == (float(plain) / count, rows)
    labels[rng.random((rows, count)) < 0.5] = np.nan
    total, number = log_loss(logits, labels)
    wanted = np.logaddexp(0, logits) - logits * labels
    assert number * count == pytest.approx((~np.isnan(labels)).sum())
    assert total * count == pytest.approx(np.nansum(wanted), rel=1e-4, abs=1e-5)


def test_a_label_of_one_fold_only_is_refused_by_its_name(tmp_path):
    rows = list(visits(SPLITS))
    rows = [v if v.subject_id == "strain3" else replace(v, labels=(v.labels[0], None, *v.labels[2:])) for v in rows]
    config, cohort, stage = embedded(tmp_path, rows)
    with pytest.raises(
        DataError, match=r"^label 'Acute cerebrovascular disease' is known for train subjects of at most one fold"
    ):
        train_heads(config, cohort, stage, quiet)


def test_the_reader_gives_unknown_cells_as_nan(tmp_path):
    rows = list(hidden(visits(SPLITS)))
    _, cohort, stage = embedded(tmp_path, rows)
    _, y, _ = EmbeddingReader(cohort, stage).labeled(cohort.shards[0])
    wanted = np.array([v.labels for v in rows if v.split == cohort.shards[0].split][: len(y)], np.float32)
    np.testing.assert_array_equal(y, wanted)
