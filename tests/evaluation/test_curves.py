"""The points of the report's curves, against scikit-learn and against a count over all visits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve, roc_curve

from ckd.evaluation.report import curves
from ckd.evaluation.thresholds import rank

Y_P = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.99])), min_size=2, max_size=40)


@given(Y_P)
def test_curves_are_those_of_scikit_learn(pairs):
    y, p = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
    if y.all() or not y.any():
        return
    ranked = rank(y, p)
    false, found, _ = roc_curve(y, p, drop_intermediate=False)
    assert np.allclose(curves.roc(ranked), (false, found))
    precision, recall, _ = precision_recall_curve(y, p)
    assert np.allclose(curves.precision_recall(ranked), (recall[:-1][::-1], precision[:-1][::-1]))


@given(Y_P, st.floats(0.01, 0.95))
def test_net_benefit_is_vickers_and_elkins(pairs, t):
    n = len(pairs)
    true, false = sum(y for y, p in pairs if p >= t), sum(not y for y, p in pairs if p >= t)
    ranked = rank(np.array([y for y, _ in pairs]), np.array([p for _, p in pairs]))
    assert curves.net_benefit(ranked, np.array([t]))[0] == pytest.approx(true / n - false / n * t / (1 - t))
    events = sum(y for y, _ in pairs)
    assert curves.net_benefit_of_all(ranked, np.array([t]))[0] == pytest.approx(
        events / n - (n - events) / n * t / (1 - t)
    )


def test_thinned_curves_keep_their_ends_and_their_shape():
    rng = np.random.default_rng(0)
    y, p = rng.random(5000) < 0.3, rng.random(5000)
    ranked = rank(y, p)
    x, found = curves.roc(ranked)
    assert len(x) <= curves.MOST_POINTS + 2 and (x[0], found[0], x[-1], found[-1]) == (0, 0, 1, 1)
    whole = (ranked.alerts - ranked.hits) / (ranked.visits - ranked.events), ranked.hits / ranked.events
    assert np.abs(np.interp(whole[0], x, found) - whole[1]).max() < 0.03


def test_reliability_bins_hold_enough_visits():
    y, p = np.arange(100) % 2 == 0, np.linspace(0, 1, 100)
    predicted, observed = curves.reliability(y, p)
    assert len(predicted) == len(observed) == 3 and predicted[0] == pytest.approx(p[:34].mean())
    assert len(curves.reliability(y[:59], p[:59])[0]) == 0
