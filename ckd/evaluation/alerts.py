"""Measures the student's alerts at the thresholds that tuning chose: the block `alerts` of metrics.json."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckd.evaluation.scores import Flags
from ckd.visits.labels import DISEASES


def alerts(labels: Flags, alarms: Flags, thresholds: NDArray[np.float64], chosen: list[int]) -> dict[str, Any]:
    """Sensitivity, specificity, ppv and alerts_per_100 visits of each label of `chosen`.

    labels and alarms are [n, 25], thresholds [25].
    """
    per_label = {
        DISEASES[j]: {"threshold": float(thresholds[j]), **at_threshold(labels[:, j], alarms[:, j])} for j in chosen
    }
    return {"model": "student", "per_label": per_label}


def at_threshold(y: Flags, alarm: Flags) -> dict[str, float | None]:
    """The figures of one column of alerts; y, alarm are [n], n > 0.

    Sensitivity, specificity and ppv are None without an event, a non-event, an alert.
    """
    hits = int(np.sum(alarm & y))
    return {
        "sensitivity": _share(hits, int(y.sum())),
        "specificity": _share(int(np.sum(~alarm & ~y)), int(np.sum(~y))),
        "ppv": _share(hits, int(alarm.sum())),
        "alerts_per_100": 100 * float(alarm.mean()),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
