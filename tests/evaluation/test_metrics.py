import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from ckd.evaluation.metrics import METRICS, Cells, auprc, auroc, brier, f1, figures, macro_auroc, macro_labels, score
from ckd.visits.labels import DISEASES, NUM_LABELS


def sample(n=200, seed=0, levels=20):
    rng = np.random.default_rng(seed)
    labels = rng.random((n, NUM_LABELS)) < rng.uniform(0.05, 0.5, NUM_LABELS)
    p = (np.round(levels * np.clip(rng.random((n, NUM_LABELS)) * 0.7 + 0.3 * labels, 0, 1)) / levels).astype(np.float32)
    return labels, p


def slow_auroc(y, p):
    wins = [float(a > b) + 0.5 * float(a == b) for a in p[y] for b in p[~y]]
    return sum(wins) / len(wins)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=2, max_size=40))
def test_auroc_is_the_chance_that_a_positive_ranks_above_a_negative(pairs):
    y, p = np.array([a for a, _ in pairs]), np.array([b / 4 for _, b in pairs])
    if y.all() or not y.any():
        assert auroc(y, p) is None
    else:
        assert auroc(y, p) == pytest.approx(slow_auroc(y, p))


@given(st.integers(0, 10**6), st.integers(2, 300), st.integers(1, 400), st.sampled_from(["f4", "f8"]))
def test_areas_have_scikit_learns_digits(seed, visits, levels, dtype):
    rng = np.random.default_rng(seed)
    y, p = rng.random(visits) < rng.random(), (rng.integers(0, levels, visits) / levels).astype(dtype)
    y[:2] = True, False
    assert (auroc(y, p), auprc(y, p)) == (sk.roc_auc_score(y, p), sk.average_precision_score(y, p))
    with pytest.raises(ValueError, match="not finite"):
        auroc(y, np.where(y, np.nan, p))


def test_undefined_figures_are_none_and_never_a_half():
    none, p = np.zeros(5, dtype=bool), np.linspace(0, 0.4, 5)
    assert auroc(none, p) is None and auroc(~none, p) is None
    assert auprc(none, p) is None
    assert f1(none, none) is None
    assert f1(none, ~none) == 0
    assert brier(none[:0], p[:0]) is None
    assert set(figures(Cells(none[:0], p[:0], none[:0], p[:0])).values()) == {None}


def test_a_constant_prediction_ranks_at_a_half_and_its_average_precision_is_the_prevalence():
    y = np.array([True] * 3 + [False] * 7)
    found = figures(Cells(y, np.full(10, 0.3), np.zeros(10, bool), np.full(10, 0.3)))
    assert found["auroc"] == 0.5
    assert found["auprc"] == pytest.approx(0.3) == found["prevalence"]
    assert found["brier_skill"] == pytest.approx(0)
    assert found["f1"] == 0


def test_per_label_figures_equal_scikit_learn():
    labels, p = sample()
    thresholds, rates = np.linspace(0.2, 0.8, NUM_LABELS), np.linspace(0.1, 0.4, NUM_LABELS)
    block = score(labels, p, np.ones_like(labels), p >= thresholds, rates, macro_labels(labels), DISEASES)
    for j, disease in enumerate(DISEASES):
        y, q, found = labels[:, j], p[:, j].astype(np.float64), block["per_label"][disease]
        assert found["auroc"] == pytest.approx(sk.roc_auc_score(y, q))
        assert found["auprc"] == pytest.approx(sk.average_precision_score(y, q))
        assert found["brier"] == pytest.approx(sk.brier_score_loss(y, q))
        assert found["brier_skill"] == pytest.approx(
            1 - sk.brier_score_loss(y, q) / sk.brier_score_loss(y, np.full(len(y), rates[j]))
        )
        assert found["f1"] == pytest.approx(sk.f1_score(y, q >= thresholds[j]))
        assert found["f1_at_05"] == pytest.approx(sk.f1_score(y, q >= 0.5))
        assert (found["n"], found["positives"]) == (len(y), y.sum())


def test_macro_is_the_mean_over_the_chosen_labels_and_micro_pools_all_cells():
    labels, p = sample()
    thresholds, rates, chosen = np.full(NUM_LABELS, 0.4), labels.mean(0), [1, 4, 7]
    block = score(labels, p, np.ones_like(labels), p >= thresholds, rates, chosen, DISEASES)
    assert block["macro"]["labels"] == 3
    for metric in METRICS:
        assert block["macro"][metric] == pytest.approx(
            np.mean([block["per_label"][DISEASES[j]][metric] for j in chosen])
        )
    assert block["macro"]["auroc"] == pytest.approx(macro_auroc(labels, p, chosen))
    assert block["micro"]["auroc"] == pytest.approx(sk.roc_auc_score(labels.ravel(), p.ravel()))
    assert block["micro"]["f1"] == pytest.approx(sk.f1_score(labels.ravel(), p.ravel() >= 0.4))
    reference = np.mean((rates[None] - labels) ** 2)
    assert block["micro"]["brier_skill"] == pytest.approx(1 - np.mean((p.astype(float) - labels) ** 2) / reference)


def test_cells_restrict_every_label_to_its_own_visits():
    labels, p = sample()
    cells = np.random.default_rng(3).random(labels.shape) < 0.5
    block = score(labels, p, cells, p >= 0.5, labels.mean(0), [0], DISEASES)
    for j, disease in enumerate(DISEASES):
        keep = cells[:, j]
        assert block["per_label"][disease]["auroc"] == pytest.approx(slow_auroc(labels[keep, j], p[keep, j]))
    assert block["micro"]["n"] == cells.sum()


def test_the_macro_set_needs_ten_positive_and_ten_negative_visits():
    labels = np.zeros((25, NUM_LABELS), dtype=bool)
    labels[:9, 0] = labels[:10, 1] = labels[:15, 2] = labels[:16, 3] = True
    assert macro_labels(labels) == [1, 2]
    cells = np.ones_like(labels)
    cells[0, 1] = False  # one positive of label 1 less
    assert macro_labels(labels, cells) == [2]


def test_an_empty_macro_set_gives_no_macro_figure():
    labels, p = sample(n=5)
    block = score(labels, p, np.ones_like(labels), p >= 0.5, labels.mean(0), macro_labels(labels), DISEASES)
    assert block["macro"] == {"labels": 0, **dict.fromkeys(METRICS)}
