"""The tuning score against scikit-learn, and the rules that choose the epoch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, log_loss

from ckd.student.tuning import Selection, average_precision, choose_metric, score


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=40).filter(
        lambda rows: any(y for y, _ in rows)
    )
)
def test_average_precision_is_scikit_learns(rows):
    truth, scores = np.array([y for y, _ in rows], float), np.array([s for _, s in rows], float)
    assert average_precision(truth, scores) == pytest.approx(average_precision_score(truth, scores))


def labels(visits: int, frequent: int, positives: int = 5) -> np.ndarray:
    hard = np.zeros((visits, 25))
    hard[:positives, :frequent] = 1
    return hard


@pytest.mark.parametrize(
    ("hard", "metric", "counted"),
    [
        (labels(60, 10), "macro_auprc", 10),
        (labels(60, 9), "bce", 25),
        (labels(60, 25, positives=4), "bce", 25),
        (labels(49, 25), "last_epoch", 0),
        (np.zeros((0, 25)), "last_epoch", 0),
    ],
)
def test_few_positives_or_few_visits_change_the_score(hard, metric, counted):
    found, chosen, why = choose_metric(hard)
    assert (found, len(chosen)) == (metric, counted) and why


@pytest.mark.parametrize("flag", [0.0, 1.0])
def test_tuning_visits_of_one_class_choose_nothing(flag):
    found, chosen, why = choose_metric(np.full((60, 25), flag))
    assert (found, chosen) == ("last_epoch", [])
    assert "no label has both classes" in why


def test_scores_are_macro_auprc_and_minus_bce():
    rng = np.random.default_rng(0)
    logits, hard = rng.normal(size=(60, 25)), (rng.random((60, 25)) < 0.3).astype(float)
    macro = np.mean([average_precision_score(hard[:, i], logits[:, i]) for i in (3, 7)])
    assert score("macro_auprc", [3, 7], logits, hard) == pytest.approx(macro)
    assert score("bce", [], logits, hard) == pytest.approx(-log_loss(hard.ravel(), 1 / (1 + np.exp(-logits.ravel()))))


def test_patience_ends_training_and_the_best_epoch_wins():
    selection = Selection("macro_auprc", patience=2, epochs=10)
    for epoch, value in enumerate([0.3, 0.5, 0.5, 0.4], start=1):
        assert not selection.finished
        selection.update(epoch, epoch * 10, value)
    assert selection.finished and (selection.best_epoch, selection.best_step) == (2, 20)
    assert Selection.from_json(selection.to_json()) == selection


def test_without_a_score_all_epochs_are_trained_and_the_last_is_kept():
    selection = Selection("last_epoch", patience=1, epochs=3)
    for epoch in (1, 2, 3):
        assert not selection.finished
        selection.update(epoch, epoch * 10, 0.0)
    assert selection.finished and selection.best_step == 30
