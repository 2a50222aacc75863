import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from ckd.evaluation import bootstrap
from ckd.evaluation.bootstrap import macro_auroc_difference, mean_defined, weighted_auroc
from ckd.labels import NUM_LABELS


def sample(subjects=40, seed=0):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(subjects), rng.integers(1, 4, subjects)).astype(np.uint64)
    labels = rng.random((len(groups), NUM_LABELS)) < 0.3
    first = np.round(rng.random(labels.shape) + 0.5 * labels, 1)
    second = np.round(rng.random(labels.shape) + 0.2 * labels, 1)
    return labels, first, second, groups


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_a_weight_counts_like_that_many_copies_of_the_row(rows):
    y, p, w = np.array([r[0] for r in rows]), np.array([r[1] / 3 for r in rows]), np.array([r[2] for r in rows])
    found = weighted_auroc(y, p, w[:, None].astype(float))[0]
    copied = np.repeat(np.arange(len(y)), w)
    if len(set(y[copied])) < 2:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(roc_auc_score(y[copied], p[copied]))


def test_the_interval_equals_one_from_really_repeated_rows():
    labels, first, second, groups = sample()
    chosen = [0, 3, 9]
    interval = macro_auroc_difference(labels, first, second, groups, chosen, seed=5, resamples=60)
    rng, gaps = np.random.default_rng(5), []
    names = np.unique(groups)
    for _ in range(60):
        drawn = rng.integers(len(names), size=len(names))
        rows = np.concatenate([np.flatnonzero(groups == names[g]) for g in drawn])
        scores = [roc_auc_score(labels[rows, j], first[rows, j]) - roc_auc_score(labels[rows, j], second[rows, j]) for j in chosen]
        gaps.append(np.mean(scores))
    assert interval.bounds == pytest.approx(tuple(np.quantile(gaps, [0.025, 0.975])))
    assert interval.groups == 40 and interval.reason is None


def test_draws_in_blocks_are_the_draws_at_once(monkeypatch):
    labels, first, second, groups = sample()
    whole = macro_auroc_difference(labels, first, second, groups, [1, 2], seed=1, resamples=30)
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 7)
    assert macro_auroc_difference(labels, first, second, groups, [1, 2], seed=1, resamples=30).bounds == pytest.approx(whole.bounds)


def test_few_patients_or_no_label_give_no_interval_and_the_reason():
    labels, first, second, groups = sample(subjects=29)
    few = macro_auroc_difference(labels, first, second, groups, [0], seed=0)
    assert few.bounds is None and few.reason == "29 patients, fewer than 30"
    labels, first, second, groups = sample()
    assert macro_auroc_difference(labels, first, second, groups, [], seed=0).bounds is None


def test_visits_of_one_patient_are_drawn_together():
    labels, first, second, _ = sample(subjects=100)
    alone = np.arange(len(labels)).astype(np.uint64)
    copied = [np.repeat(x, 4, axis=0) for x in (labels, first, second)]
    once = macro_auroc_difference(labels, first, second, alone, [0, 1], seed=2, resamples=200)
    again = macro_auroc_difference(*copied, np.repeat(alone, 4), [0, 1], seed=2, resamples=200)
    assert again.bounds == pytest.approx(once.bounds)  # repeating a patient's rows adds no certainty


def test_a_draw_without_a_class_leaves_that_label_out_for_both():
    values = np.array([[0.5, np.nan], [0.3, np.nan]])
    assert mean_defined(values)[0] == pytest.approx(0.4)
    assert np.isnan(mean_defined(values)[1])
