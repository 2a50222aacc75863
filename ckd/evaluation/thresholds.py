"""Chooses the probability at which each label raises an alarm: the largest F1, or a given sensitivity or precision.

Uses tuning visits only.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ckd.calibration import DEFAULT_THRESHOLD as DEFAULT
from ckd.config import EvaluationConfig
from ckd.evaluation.metrics import Floats
from ckd.evaluation.scores import Flags
from ckd.visits.labels import DISEASES


@dataclass(frozen=True)
class Thresholds:
    """One threshold per label (an alarm is p >= threshold), and why a label kept the default."""

    values: NDArray[np.float64]  # [25]
    reasons: dict[str, str]  # disease -> reason, only where the default is kept


class Ranked(NamedTuple):
    """Counts at every distinct probability, the highest first, after a first entry without any alert."""

    thresholds: NDArray[np.float64]  # [k + 1], the first is infinite
    hits: NDArray[np.float64]  # alerts (p >= threshold) that are events
    alerts: NDArray[np.float64]
    events: int
    visits: int


def rank(y: Flags, p: Floats) -> Ranked:
    """The counts of y, p [n]; n > 0."""
    order = np.argsort(-p, kind="stable")
    scores, hits = p[order].astype(np.float64), np.cumsum(y[order])
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # visits that tie become alerts together
    thresholds, found, alerts = np.append(np.inf, scores[ends]), np.append(0.0, hits[ends]), np.append(0.0, ends + 1)
    return Ranked(thresholds, found, alerts, int(y.sum()), len(y))


def best_threshold(y: Flags, p: Floats) -> float:
    """The score among p [n] at which alarms (p >= threshold) have the largest F1; of equals the highest.

    Needs a positive in y [n].
    """
    ranked = rank(y, p)
    return float(ranked.thresholds[np.argmax(2 * ranked.hits / (ranked.alerts + ranked.events))])


def sensitivity_threshold(y: Flags, p: Floats, target: float) -> float:
    """The highest score at which at least the share `target` of positives raises an alarm. Needs a positive in y."""
    ranked = rank(y, p)
    return float(ranked.thresholds[np.argmax(ranked.hits / ranked.events >= target)])  # the lowest finds them all


def precision_threshold(y: Flags, p: Floats, target: float) -> float | None:
    """The score that finds most positives of those at which at least the share `target` of the alarms is right.

    Of equals the highest; None when there is no such score.
    """
    ranked = rank(y, p)
    hits = ranked.hits[1:]
    reached = hits / ranked.alerts[1:] >= target
    return float(ranked.thresholds[1:][np.argmax(np.where(reached, hits, -1))]) if reached.any() else None


def choose_thresholds(labels: Flags, p: Floats, wanted: EvaluationConfig | None = None) -> Thresholds:
    """Per-label thresholds from tuning labels and probabilities [n, 25], for F1 unless `wanted` says otherwise.

    0.5 with a reason where tuning has no or one class, or no threshold reaches the target.
    """
    wanted = wanted or EvaluationConfig()
    values, reasons = np.full(len(DISEASES), DEFAULT), {}
    for j, disease in enumerate(DISEASES):
        y = labels[:, j]
        if not y.any():
            reasons[disease] = "no positive tuning visit" if len(y) else "no tuning visits"
        elif y.all():
            reasons[disease] = "no negative tuning visit"
        elif (found := _one(y, p[:, j], wanted)) is None:
            reasons[disease] = f"no threshold reaches precision {wanted.threshold_target:g} on tuning"
        else:
            values[j] = found
    return Thresholds(values, reasons)


def _one(y: Flags, p: Floats, wanted: EvaluationConfig) -> float | None:
    if wanted.threshold_target is None:
        return best_threshold(y, p)
    choose = sensitivity_threshold if wanted.threshold_for == "sensitivity" else precision_threshold
    return choose(y, p, wanted.threshold_target)
