"""The patient-cluster bootstrap: every figure in draws of whole groups (patients), and percentile intervals.

A draw takes as many groups as there are, with replacement. A visit weighs as often as its group was drawn: no copies.
Draw r depends only on the seed and r: all models, labels and views get the same draws, so differences are paired.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ckd.evaluation.metrics import METRICS, SUMS, Cells, Drawn, Floats
from ckd.evaluation.ranking import Ranking
from ckd.evaluation.scores import Flags, Rows
from ckd.heartbeat import beat
from ckd.threads import thread_pool

MIN_GROUPS = 30  # patients below which no interval is given
LEVEL = 0.95
MICRO = -1  # the place of all labels pooled, after the others
_MAX_UNDEFINED = 0.05  # a figure that more of the draws leave undefined gets no interval
_COUNTS_AT_ONCE = 1 << 22  # groups x draws of a block: 16 MiB of float32
_DRAWS_AT_ONCE = 1000
Bounds = tuple[float, float] | None


@dataclass(frozen=True)
class Draws:
    """Which groups each of the draws takes."""

    members: NDArray[np.intp]  # [n] the number of each row's group
    groups: int
    resamples: int
    seed: int
    subjects: bool  # the groups are patients

    @property
    def reason(self) -> str | None:
        """Why there are no intervals; None where there are some."""
        kind = "patients" if self.subjects else "distinct inputs"
        return f"{self.groups} {kind}, fewer than {MIN_GROUPS}" if self.groups < MIN_GROUPS else None

    @property
    def note(self) -> str | None:
        """What a reader of the intervals must know, if anything."""
        return (
            None
            if self.subjects
            else "probably too narrow: without subject ids identical inputs are drawn, not patients"
        )

    def counts(self, start: int, stop: int) -> NDArray[np.float32]:
        """How often draws start..stop-1 take each group, whole numbers [groups, stop - start]."""
        drawn = [
            np.random.default_rng((self.seed, r)).integers(self.groups, size=self.groups) for r in range(start, stop)
        ]
        return np.stack([np.bincount(d, minlength=self.groups) for d in drawn], axis=1).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        """The block `intervals` of metrics.json."""
        return {
            "method": "percentile bootstrap over whole groups, the same draws for every model",
            "level": LEVEL,
            "resamples": 0 if self.reason else self.resamples,
            "groups": self.groups,
            "group": "subject" if self.subjects else "identical input",
            "reason": self.reason,
            "note": self.note,
        }


def make_draws(rows: Rows, resamples: int, seed: int) -> Draws:
    """The draws of the groups of these visits."""
    names, members = np.unique(rows.groups, return_inverse=True)
    return Draws(members, len(names), resamples, seed, rows.has_subjects)


def resample(
    draws: Draws,
    labels: Flags,
    p: Floats,
    cells: Flags,
    alarms: Flags,
    train_prevalence: Floats,
    chosen: Sequence[int],
) -> NDArray[np.float64]:
    """METRICS in every draw [resamples, L labels and micro, metrics] over the true `cells`; NaN where undefined.

    labels, p, cells, alarms (at the thresholds) are [n, L]; train_prevalence [L]. AUROC and average precision, which
    cost most, are NaN too for the labels that are not `chosen`: they get no interval.
    As many threads as the process has cores share the blocks of draws.
    """
    p = p.astype(np.float64)
    sums = _sums(draws, Cells(labels, p, alarms, np.broadcast_to(train_prevalence, p.shape)), cells)
    rankings = _rankings(draws, labels, p, cells, chosen)
    size = min(max(_COUNTS_AT_ONCE // max(draws.groups, 1), 32), _DRAWS_AT_ONCE, draws.resamples)
    starts = range(0, draws.resamples, size)
    for ranking in rankings.values():
        for width in {min(size, draws.resamples - start) for start in starts}:
            ranking.prepare(width)
    figures = np.full((draws.resamples, labels.shape[1] + 1, len(METRICS)), np.nan)

    def fill(start: int) -> None:
        stop = min(start + size, draws.resamples)
        counts = draws.counts(start, stop)
        areas = np.full((2, labels.shape[1] + 1, stop - start), np.nan)
        for place, ranking in rankings.items():
            areas[:, place] = ranking.figures(counts)
        drawn = _drawn(sums @ counts.astype(np.float64), areas)
        with np.errstate(divide="ignore", invalid="ignore"):
            figures[start:stop] = np.stack([metric.drawn(drawn) for metric in METRICS.values()]).T
        beat(f"evaluate: bootstrap draws up to {stop:,} of {draws.resamples:,}")

    with thread_pool(max(1, len(os.sched_getaffinity(0)))) as pool:
        list(pool.map(fill, starts))
    return figures


def _rankings(draws: Draws, labels: Flags, p: Floats, cells: Flags, chosen: Sequence[int]) -> dict[int, Ranking]:
    """The true `cells` of each chosen label, and all of them as MICRO."""
    known = {j: cells[:, j] for j in chosen}
    found = {j: Ranking(labels[c, j], p[c, j], draws.members[c], draws.groups) for j, c in known.items()}
    members = np.broadcast_to(draws.members[:, None], cells.shape)[cells]
    return {**found, MICRO: Ranking(labels[cells], p[cells], members, draws.groups)}


def macro(figures: NDArray[np.float64], chosen: Sequence[int]) -> NDArray[np.float64]:
    """Means over the labels `chosen` of figures [resamples, L + 1, m] -> [resamples, m].

    A label that a draw leaves undefined is left out of that draw; NaN where all are.
    """
    values = figures[:, list(chosen)]
    defined = ~np.isnan(values)
    count = defined.sum(1)
    return np.asarray(
        np.divide(np.where(defined, values, 0).sum(1), count, out=np.full(count.shape, np.nan), where=count > 0)
    )


def interval(values: NDArray[np.float64]) -> Bounds:
    """The percentile interval of a figure's draws [resamples]; None where over 5 % of them are undefined.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    known = values[~np.isnan(values)]
    if not len(known) or len(known) < (1 - _MAX_UNDEFINED) * len(values):
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def with_intervals(block: dict[str, Any], figures: NDArray[np.float64] | None, chosen: Sequence[int]) -> dict[str, Any]:
    """A block of metrics (macro, micro, per_label) with `intervals` {metric: [low, high] or null} beside its figures.

    A label outside `chosen` (too few visits for the macro average) has no interval, nor has a figure that is null.
    Without draws (None) there is none.
    """
    per_label = {}
    for j, (name, row) in enumerate(block["per_label"].items()):
        per_label[name] = _beside(row, figures[:, j] if figures is not None and j in chosen else None)
    means, pooled = (None, None) if figures is None else (macro(figures, chosen), figures[:, MICRO])
    return {
        **block,
        "macro": _beside(block["macro"], means),
        "micro": _beside(block["micro"], pooled),
        "per_label": per_label,
    }


def _beside(row: dict[str, Any], values: NDArray[np.float64] | None) -> dict[str, Any]:
    found = {m: None if values is None or row[m] is None else interval(values[:, i]) for i, m in enumerate(METRICS)}
    return {**row, "intervals": {name: None if bounds is None else list(bounds) for name, bounds in found.items()}}


def _sums(draws: Draws, values: Cells, cells: Flags) -> NDArray[np.float64]:
    """SUMS over each group's true `cells`: [sums · L, groups]."""
    n = len(cells)
    of_group = csr_array((np.ones(n), (draws.members, np.arange(n))), shape=(draws.groups, n))
    return np.concatenate([(of_group @ np.where(cells, of(values), 0.0)).T for of in SUMS.values()])


def _drawn(sums: NDArray[np.float64], areas: NDArray[np.float64]) -> Drawn:
    """What METRICS are made of, [L + 1, B] each, from the draws' sums [sums · L, B] and the areas [2, L + 1, B]."""
    by_label = sums.reshape(len(SUMS), areas.shape[1] - 1, -1)
    pooled = np.concatenate([by_label, by_label.sum(1, keepdims=True)], axis=1)  # micro pools the labels' cells
    return {**dict(zip(SUMS, pooled, strict=True)), "auroc": areas[0], "auprc": areas[1]}
