"""What probabilities are worth against labels: per label, macro, micro, with alarms given. Undefined is None, never 0.5. Raising
alarms and resampling belong to calibrate and bootstrap."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from ckd.evaluation.scores import Flags
from ckd.visits.labels import DISEASES

MIN_COUNT = 10  # positive and negative visits that a label needs to enter the macro average
METRICS = ("auroc", "auprc", "prevalence", "brier", "brier_skill", "f1", "f1_at_05")
Floats = NDArray[np.floating[Any]]
Figures = dict[str, Any]


def macro_labels(labels: Flags, cells: Flags | None = None, min_count: int = MIN_COUNT) -> list[int]:
    """The labels with at least `min_count` positive and negative visits among `cells` (both [n, 25]); looks at no model."""
    cells = np.ones_like(labels) if cells is None else cells
    positive, negative = (labels & cells).sum(0), (~labels & cells).sum(0)
    return [int(j) for j in np.flatnonzero((positive >= min_count) & (negative >= min_count))]


def auroc(y: Flags, p: Floats) -> float | None:
    """Area under the ROC curve; None with one class."""
    return float(roc_auc_score(y, p)) if y.any() and not y.all() else None


def auprc(y: Flags, p: Floats) -> float | None:
    """Average precision (no interpolation); None without a positive."""
    return float(average_precision_score(y, p)) if y.any() else None


def f1(y: Flags, predicted: Flags) -> float | None:
    """2·TP / (2·TP + FP + FN); None when there is neither a positive nor an alarm."""
    alarms = int(y.sum()) + int(predicted.sum())
    return 2 * int((y & predicted).sum()) / alarms if alarms else None


def brier(y: Flags, p: Floats | float) -> float | None:
    """Mean squared error of the probabilities; None without visits."""
    return float(np.mean((p - y) ** 2)) if len(y) else None


def binary(y: Flags, p: Floats, alarms: Flags, train_prevalence: Floats | float) -> Figures:
    """All figures of one column of decisions: y, p, alarms are [n]; the train prevalence is one value or one per row.

    Brier skill is 1 - Brier / Brier of always predicting the train prevalence.
    """
    p = p.astype(np.float64)
    error, reference = brier(y, p), brier(y, train_prevalence)
    return {
        "auroc": auroc(y, p),
        "auprc": auprc(y, p),
        "prevalence": float(y.mean()) if len(y) else None,
        "brier": error,
        "brier_skill": 1 - error / reference if error is not None and reference else None,
        "f1": f1(y, alarms),
        "f1_at_05": f1(y, p >= 0.5),
    }


def score(
    labels: Flags, p: Floats, cells: Flags, alarms: Flags, train_prevalence: Floats, chosen: Sequence[int]
) -> Figures:
    """Per label, macro (mean over the labels `chosen` beforehand) and micro (all 25 labels pooled) over the true `cells`.

    labels, p, cells, alarms are [n, 25]; train_prevalence [25].
    """
    per_label: list[Figures] = []
    for j in range(len(DISEASES)):
        rows = cells[:, j]
        y = labels[rows, j]
        per_label.append(
            {
                "n": len(y),
                "positives": int(y.sum()),
                **binary(y, p[rows, j], alarms[rows, j], float(train_prevalence[j])),
            }
        )
    pooled = binary(labels[cells], p[cells], alarms[cells], _per_cell(train_prevalence, cells))
    return {
        "macro": {"labels": len(chosen), **{m: _mean([per_label[j][m] for j in chosen]) for m in METRICS}},
        "micro": {"n": int(cells.sum()), **pooled},
        "per_label": dict(zip(DISEASES, per_label, strict=True)),
    }


def macro_auroc(labels: Flags, p: Floats, chosen: Sequence[int]) -> float | None:
    """Mean AUROC over the labels `chosen`; None when there is none or one is undefined."""
    return _mean([auroc(labels[:, j], p[:, j]) for j in chosen])


def _per_cell(values: Floats, cells: Flags) -> Floats:
    return np.asarray(np.broadcast_to(values, cells.shape)[cells])


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of all values; None when there are none, or one is undefined (a smaller set would not be the same for every model)."""
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
