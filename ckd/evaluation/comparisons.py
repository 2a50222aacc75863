"""Compares one model with others in the same draws: paired differences, bootstrap p-values, Holm's correction."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckd.evaluation.bootstrap import interval, macro
from ckd.evaluation.metrics import METRICS

Figures = NDArray[np.float64]  # [resamples, L + 1, metrics], see bootstrap.resample
ALPHA = 0.05  # below it a label is called better or worse
_AUROC = list(METRICS).index("auroc")


def compare(
    model: str, blocks: Mapping[str, Any], figures: Mapping[str, Figures | None], chosen: Sequence[int]
) -> dict[str, Any]:
    """`model` minus every other model that has figures: {other: {macro: {metric: …}, per_label: {label: …}}}.

    Each entry has difference, interval, p. per_label compares AUROC over the labels `chosen`; it has p_holm too,
    corrected over these labels for this pair of models. Without draws there are no `figures`: intervals and p are None.
    """
    return {
        name: _pair(blocks[model], block, figures.get(model), figures.get(name), chosen)
        for name, block in blocks.items()
        if name != model and block["macro"] is not None
    }


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjusted p-values, in the given order; None (not tested) stays None and does not count.

    Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6 (1979): with m
    tests, the k-th smallest becomes the largest of (m - i + 1) · p_(i) over i <= k, at most 1.
    """
    adjusted: list[float | None] = [None] * len(p)
    tested = sorted((value, place) for place, value in enumerate(p) if value is not None)
    largest = 0.0
    for i, (value, place) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - i) * value))
        adjusted[place] = largest
    return adjusted


def p_value(differences: NDArray[np.float64]) -> float:
    """Two-sided p of "no difference" from its values in the draws [resamples] (NaN: left out): twice the smaller tail.

    A tail is (1 + draws) / (1 + resamples), as in Davison and Hinkley, Bootstrap Methods and their Application (1997),
    4.2. So p is never 0, and below .05 just when the percentile interval leaves 0 out (but for the added 1).
    """
    known = differences[~np.isnan(differences)]
    tail = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2 * (1 + tail) / (1 + len(known)))


def lines(comparisons: Mapping[str, Any], intervals: Mapping[str, Any]) -> list[str]:
    """The student's comparisons for a terminal, and where their intervals come from."""
    width = max(len(f"student - {name}") for name in comparisons)
    headings = [METRICS[metric].heading.ljust(24) for metric in ("auroc", "auprc")]
    shown = ["  ".join(["".ljust(width), *headings, f"AUROC by label, Holm's p < {ALPHA}"])]
    for name, row in comparisons.items():
        better, worse = decided(row)
        verdict = "-" if intervals["reason"] else f"{better} better, {worse} worse of {len(row['per_label'])}"
        cells = [_cell(row["macro"][metric]).ljust(24) for metric in ("auroc", "auprc")]
        shown.append("  ".join([f"student - {name}".ljust(width), *cells, verdict]))
    if intervals["reason"] is not None:
        return [*shown, f"no intervals: {intervals['reason']}"]
    groups = f"{intervals['groups']:,} {intervals['group']}s"
    basis = f"95 % intervals: {intervals['resamples']:,} paired bootstrap draws of {groups}"
    return [*shown, basis if intervals["note"] is None else f"{basis}; {intervals['note']}"]


def decided(pair: Mapping[str, Any]) -> tuple[int, int]:
    """How many labels of a compared pair are better and worse at Holm's p < ALPHA."""
    rows = [row for row in pair["per_label"].values() if row["p_holm"] is not None and row["p_holm"] < ALPHA]
    return sum(row["difference"] > 0 for row in rows), sum(row["difference"] < 0 for row in rows)


def _cell(entry: Mapping[str, Any]) -> str:
    if entry["difference"] is None:
        return "-"
    bounds = f" ({entry['interval'][0]:+.3f} to {entry['interval'][1]:+.3f})" if entry["interval"] else ""
    return f"{entry['difference']:+.3f}{bounds}"


def _pair(
    first: Mapping[str, Any], second: Mapping[str, Any], a: Figures | None, b: Figures | None, chosen: Sequence[int]
) -> dict[str, Any]:
    gaps = None if a is None or b is None else a - b
    # A label that a draw leaves undefined for one of both is left out for both.
    means = None if gaps is None else macro(gaps, chosen)
    over_all = {
        name: _entry(first["macro"][name], second["macro"][name], None if means is None else means[:, i])
        for i, (name, metric) in enumerate(METRICS.items())
        if metric.compared
    }
    rows, names = {}, list(first["per_label"])
    for j in chosen:
        one, other = (block["per_label"][names[j]]["auroc"] for block in (first, second))
        rows[names[j]] = _entry(one, other, None if gaps is None else gaps[:, j, _AUROC])
    for row, adjusted in zip(rows.values(), holm([row["p"] for row in rows.values()]), strict=True):
        row["p_holm"] = adjusted
    return {"macro": over_all, "per_label": rows}


def _entry(first: float | None, second: float | None, gaps: NDArray[np.float64] | None) -> dict[str, Any]:
    known = first is not None and second is not None
    bounds = interval(gaps) if known and gaps is not None else None
    return {
        "difference": first - second if first is not None and second is not None else None,
        "interval": None if bounds is None else list(bounds),
        "p": p_value(gaps) if bounds is not None and gaps is not None else None,
    }
