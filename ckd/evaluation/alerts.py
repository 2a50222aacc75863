"""Measures the student's alerts at the thresholds that tuning chose: the block `alerts` of metrics.json."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckd.evaluation.scores import Flags, Rows


def alerts(held_out: Rows, alarms: Flags, thresholds: NDArray[np.float64], chosen: list[int]) -> dict[str, Any]:
    """Sensitivity, specificity, ppv and alerts_per_100 visits of each label of `chosen`, on the visits that know it.

    alarms are [n, L], thresholds [L].
    """
    per_label = {}
    for j in chosen:
        known = held_out.known[:, j]
        found = at_threshold(held_out.labels[known, j], alarms[known, j])
        per_label[held_out.task.names[j]] = {"threshold": float(thresholds[j]), **found}
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
