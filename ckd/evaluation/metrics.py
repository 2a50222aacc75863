"""Measures probabilities against labels: per label, macro, micro. Undefined is None, never 0.5.

A metric is one row of METRICS: blocks, intervals, comparisons and the tables for readers all follow from it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ckd.evaluation.scores import Flags

MIN_COUNT = 10  # positive and negative visits that a label needs to enter the macro average
Floats = NDArray[np.floating[Any]]
Figures = dict[str, Any]
Drawn = Mapping[str, NDArray[np.float64]]  # name of an area or a sum -> its value in every draw


class Cells(NamedTuple):
    """Pairs of a visit and a label; four arrays of one shape."""

    y: Flags
    p: Floats
    alarms: Flags
    rate: Floats  # the label's train prevalence

    def at(self, where: Any) -> "Cells":
        """The cells that a numpy index takes."""
        return Cells(*(values[where] for values in self))


def macro_labels(labels: Flags, cells: Flags | None = None, min_count: int = MIN_COUNT) -> list[int]:
    """The labels with at least `min_count` positive and negative visits among `cells` (both [n, L]); None: all.

    Looks at no model, so the macro average is over the same labels for every model.
    """
    cells = np.ones_like(labels) if cells is None else cells
    positive, negative = (labels & cells).sum(0), (~labels & cells).sum(0)
    return [int(j) for j in np.flatnonzero((positive >= min_count) & (negative >= min_count))]


def auroc(y: Flags, p: Floats) -> float | None:
    """Area under the ROC curve; None with one class.

    The digits of scikit-learn's roc_auc_score, without the checks of each call that 283 labels pay 283 times.
    """
    if not y.any() or y.all():
        return None
    true, false = _hits(y, p)
    corner = np.ones(len(true), bool)  # a point on the line between its neighbours adds nothing but a rounding
    corner[1:-1] = (np.diff(true, 2) != 0) | (np.diff(false, 2) != 0)
    rates = (np.append(0, found[corner]) / found[-1] for found in (true, false))
    return float(np.trapezoid(*rates))


def auprc(y: Flags, p: Floats) -> float | None:
    """Average precision (no interpolation), scikit-learn's average_precision_score; None without a positive."""
    if not y.any():
        return None
    true, false = _hits(y, p)
    recall = np.append((true / true[-1])[::-1], 0)
    return float(max(0, -np.sum(np.diff(recall) * (true / (true + false))[::-1])))


def _hits(y: Flags, p: Floats) -> tuple[Floats, Floats]:
    """True and false positives at every distinct probability as the threshold, from the highest on."""
    if not np.isfinite(p).all():
        raise ValueError("a probability is not finite")
    order = np.argsort(-p, kind="stable")
    last = np.append(np.flatnonzero(np.diff(p[order])), len(p) - 1)
    true = np.cumsum(y[order], dtype=np.float64)[last]
    return true, 1 + last - true


def f1(y: Flags, predicted: Flags) -> float | None:
    """2·TP / (2·TP + FP + FN); None when there is neither a positive nor an alarm."""
    alarms = int(y.sum()) + int(predicted.sum())
    return 2 * int((y & predicted).sum()) / alarms if alarms else None


def brier(y: Flags, p: Floats) -> float | None:
    """Mean squared error of the probabilities; None without visits."""
    return float(np.mean((p - y) ** 2)) if len(y) else None


def brier_skill(y: Flags, p: Floats, rate: Floats) -> float | None:
    """1 - Brier / Brier of always predicting the train prevalence; None without visits, or if that one has no error.

    None too where a rate is NaN: no training visit knows the label.
    """
    error, reference = brier(y, p), brier(y, rate)
    return 1 - error / reference if error is not None and reference and reference > 0 else None


@dataclass(frozen=True)
class Metric:
    """A figure of some cells, and the same in bootstrap draws, from the drawn `auroc`, `auprc` and SUMS."""

    value: Callable[[Cells], float | None]
    drawn: Callable[[Drawn], NDArray[np.float64]]
    title: str = ""  # a reader's name of one label's figure; without it report and model card do not show the metric
    heading: str = ""  # a reader's name of the macro average; without it no table of models shows the metric
    compared: bool = True  # between models


METRICS: dict[str, Metric] = {
    "auroc": Metric(lambda c: auroc(c.y, c.p), lambda d: d["auroc"], "AUROC", "macro AUROC"),
    "auprc": Metric(lambda c: auprc(c.y, c.p), lambda d: d["auprc"], "AUPRC", "macro AUPRC"),
    "prevalence": Metric(
        lambda c: float(c.y.mean()) if len(c.y) else None, lambda d: d["positives"] / d["visits"], compared=False
    ),
    "brier": Metric(lambda c: brier(c.y, c.p), lambda d: d["error"] / d["visits"]),
    "brier_skill": Metric(
        lambda c: brier_skill(c.y, c.p, c.rate),
        lambda d: np.where(d["reference"] > 0, 1 - d["error"] / d["reference"], np.nan),
        "Brier skill",
        "Brier skill",
    ),
    "f1": Metric(
        lambda c: f1(c.y, c.alarms),
        lambda d: 2 * d["hits"] / (d["positives"] + d["alarms"]),
        "F1",
        "F1 at thresholds",
    ),
    "f1_at_05": Metric(
        lambda c: f1(c.y, c.p >= 0.5),
        lambda d: 2 * d["hits_at_05"] / (d["positives"] + d["alarms_at_05"]),
        heading="F1 at .5",
    ),
}
SHOWN = {name: metric for name, metric in METRICS.items() if metric.title}
SUMS: dict[str, Callable[[Cells], NDArray[Any]]] = {  # what METRICS need in a draw, cell by cell
    "visits": lambda c: np.ones_like(c.y),
    "positives": lambda c: c.y,
    "error": lambda c: (c.p - c.y) ** 2,
    "reference": lambda c: (c.rate - c.y) ** 2,
    "hits": lambda c: c.y & c.alarms,
    "alarms": lambda c: c.alarms,
    "hits_at_05": lambda c: c.y & (c.p >= 0.5),
    "alarms_at_05": lambda c: c.p >= 0.5,
}


def figures(cells: Cells) -> Figures:
    """Every metric of some cells [n]; p is float64."""
    return {name: metric.value(cells) for name, metric in METRICS.items()}


def score(
    labels: Flags,
    p: Floats,
    cells: Flags,
    alarms: Flags,
    train_prevalence: Floats,
    chosen: Sequence[int],
    names: Sequence[str],
) -> Figures:
    """Figures of the true `cells`: per label, macro (mean over the labels `chosen`) and micro (all labels pooled).

    labels, p, cells, alarms are [n, L]; train_prevalence [L].
    """
    table = Cells(labels, p.astype(np.float64), alarms, np.broadcast_to(train_prevalence, labels.shape))
    columns = (table.at((cells[:, j], j)) for j in range(len(names)))
    per_label = [{"n": len(c.y), "positives": int(c.y.sum()), **figures(c)} for c in columns]
    return {
        "macro": {"labels": len(chosen), **{m: mean([per_label[j][m] for j in chosen]) for m in METRICS}},
        "micro": {"n": int(cells.sum()), **figures(table.at(cells))},
        "per_label": dict(zip(names, per_label, strict=True)),
    }


def macro_auroc(labels: Flags, p: Floats, chosen: Sequence[int], known: Flags | None = None) -> float | None:
    """Mean AUROC over the labels `chosen` on their `known` visits [n, L] (None: all).

    None when there is no label or one is undefined.
    """
    rows = [slice(None) if known is None else known[:, j] for j in chosen]
    return mean([auroc(labels[where, j], p[where, j]) for where, j in zip(rows, chosen, strict=True)])


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of all values; None when there are none, or one is undefined.

    A mean over fewer labels would not be over the same ones for every model.
    """
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
