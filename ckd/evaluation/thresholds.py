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
from ckd.evaluation.scores import Flags, Rows
from ckd.visits.task import Label, Task


@dataclass(frozen=True)
class Thresholds:
    """One threshold per label (an alarm is p >= threshold), and why a label kept the default."""

    values: NDArray[np.float64]  # [L]
    reasons: dict[str, str]  # label -> reason, only where the default is kept


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


def choose_thresholds(tuning: Rows, p: Floats, wanted: EvaluationConfig | None = None) -> Thresholds:
    """Per-label thresholds from the known labels of tuning and probabilities [n, L].

    For F1 unless `wanted` or the label itself says otherwise. 0.5 with a reason where tuning has no or one class, or no
    threshold reaches the target.
    """
    wanted = wanted or EvaluationConfig()
    values, reasons = np.full(len(tuning.task), DEFAULT), {}
    for j, label in enumerate(tuning.task.labels):
        known = tuning.known[:, j]
        y, (kind, target) = tuning.labels[known, j], aim(label, wanted)
        if not y.any():
            reasons[label.name] = "no positive tuning visit" if len(y) else "no tuning visits"
        elif y.all():
            reasons[label.name] = "no negative tuning visit"
        elif (found := _one(y, p[known, j], kind, target)) is None:
            reasons[label.name] = f"no threshold reaches precision {target:g} on tuning"
        else:
            values[j] = found
    return Thresholds(values, reasons)


def aim(label: Label, wanted: EvaluationConfig) -> tuple[str, float | None]:
    """What a label's threshold is for (f1, sensitivity, precision) and its target: the label's own before `wanted`."""
    own = label.threshold
    return (wanted.threshold_for, wanted.threshold_target) if own is None else (own.kind, own.target)


def own_aims(task: Task) -> dict[str, dict[str, str | float]]:
    """Label -> `for` and `target`, of the labels with a threshold of their own."""
    return {one.name: one.threshold.model_dump(by_alias=True) for one in task.labels if one.threshold}


def _one(y: Flags, p: Floats, kind: str, target: float | None) -> float | None:
    if target is None:
        return best_threshold(y, p)
    choose = sensitivity_threshold if kind == "sensitivity" else precision_threshold
    return choose(y, p, target)
