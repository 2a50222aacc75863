"""Computes the points of a label's curves: ROC, precision-recall, alerts by sensitivity, reliability, net benefit."""

import numpy as np
from numpy.typing import NDArray

from ckd.evaluation.metrics import Floats
from ckd.evaluation.scores import Flags
from ckd.evaluation.thresholds import Ranked

MOST_POINTS = 120  # of one curve: more cannot be seen at the size of a panel
MOST_BINS = 10
BIN_VISITS = 30  # in every bin of a reliability curve
Points = tuple[NDArray[np.float64], NDArray[np.float64]]  # x, y


def roc(ranked: Ranked) -> Points:
    """1 - specificity, sensitivity."""
    return _thinned((ranked.alerts - ranked.hits) / (ranked.visits - ranked.events), ranked.hits / ranked.events)


def precision_recall(ranked: Ranked) -> Points:
    """Sensitivity, positive predictive value; where there is an alert."""
    return _thinned(ranked.hits[1:] / ranked.events, ranked.hits[1:] / ranked.alerts[1:])


def alerts_for_sensitivity(ranked: Ranked) -> Points:
    """Sensitivity, alerts per 100 visits."""
    return _thinned(ranked.hits / ranked.events, 100 * ranked.alerts / ranked.visits)


def reliability(y: Flags, p: Floats) -> Points:
    """Mean predicted and observed rate in bins of equally many visits, at least BIN_VISITS each.

    Empty when the visits are too few for two bins.
    """
    bins = min(MOST_BINS, len(y) // BIN_VISITS)
    if bins < 2:
        return np.zeros(0), np.zeros(0)
    groups = np.array_split(np.argsort(p, kind="stable"), bins)
    return np.array([p[g].mean() for g in groups], dtype=np.float64), np.array([y[g].mean() for g in groups])


def net_benefit(ranked: Ranked, thresholds: Floats) -> NDArray[np.float64]:
    """TP/n - FP/n · t/(1 - t) of alerts at p >= t for every t < 1 of `thresholds`.

    Vickers and Elkin, Medical Decision Making 26 (2006) 565-574.
    """
    at = np.searchsorted(-ranked.thresholds, -np.asarray(thresholds), side="right") - 1  # the last entry with p >= t
    hits, false = ranked.hits[at], ranked.alerts[at] - ranked.hits[at]
    return np.asarray((hits - false * thresholds / (1 - thresholds)) / ranked.visits)


def net_benefit_of_all(ranked: Ranked, thresholds: Floats) -> NDArray[np.float64]:
    """The same when every visit is an alert."""
    rate = ranked.events / ranked.visits
    return np.asarray(rate - (1 - rate) * thresholds / (1 - thresholds))


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> Points:
    """At most MOST_POINTS of the points, spread over the curve's length; the first and last always."""
    if len(x) <= MOST_POINTS:
        return x, y
    steps = np.abs(np.diff(x)) / max(np.ptp(x), 1e-12) + np.abs(np.diff(y)) / max(np.ptp(y), 1e-12)
    way = np.append(0.0, np.cumsum(steps))
    chosen = np.unique(np.searchsorted(way, np.linspace(0, way[-1], MOST_POINTS - 1)))
    chosen = np.unique(np.append(chosen, [0, len(x) - 1]))
    return x[chosen], y[chosen]
