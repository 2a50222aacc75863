"""The probability at which each label raises an alarm: the one that maximises F1 on the tuning visits. Never looks at held_out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ckd.evaluation.metrics import Floats
from ckd.evaluation.scores import Flags
from ckd.labels import DISEASES

DEFAULT = 0.5


@dataclass(frozen=True)
class Thresholds:
    """One threshold per label (an alarm is p >= threshold), and why a label kept the default."""

    values: NDArray[np.float64]  # [25]
    reasons: dict[str, str]  # disease -> reason, only where the default stands


def best_threshold(y: Flags, p: Floats) -> float:
    """The score among p [n] at which alarms (p >= threshold) have the largest F1; of equals the highest. Needs a positive in y [n]."""
    order = np.argsort(-p, kind="stable")
    scores, hits = p[order], np.cumsum(y[order])
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # a threshold takes all visits that tie with it
    f1 = 2 * hits[ends] / (ends + 1 + hits[-1])
    return float(scores[ends[np.argmax(f1)]])


def choose_thresholds(labels: Flags, p: Floats) -> Thresholds:
    """Per-label thresholds from tuning labels and probabilities [n, 25]; 0.5 with a reason where tuning has no or one class."""
    values, reasons = np.full(len(DISEASES), DEFAULT), {}
    for j, disease in enumerate(DISEASES):
        y = labels[:, j]
        if not y.any():
            reasons[disease] = "no positive tuning visit" if len(y) else "no tuning visits"
        elif y.all():
            reasons[disease] = "no negative tuning visit"
        else:
            values[j] = best_threshold(y, p[:, j])
    return Thresholds(values, reasons)
