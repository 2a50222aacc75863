"""A paired, patient-cluster bootstrap interval of a macro AUROC difference: whole groups (patients) are drawn, both models see the same draw.

A draw is a weight per visit (how often its group was drawn), so nothing is copied: with the negatives sorted by score, AUROC is the weighted
mean over positives of the negatives' weight below, ties counting half (Mann-Whitney), which cumulative sums give for many draws at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ckd.evaluation.metrics import Floats
from ckd.evaluation.scores import Flags

MIN_GROUPS = 30  # patients below which no interval is given
RESAMPLES = 500
LEVEL = 0.95
_DRAWS_AT_ONCE = 50  # bounds memory: visits × draws × 8 bytes, a few times


@dataclass(frozen=True)
class Interval:
    """A percentile interval, or None with the reason."""

    bounds: tuple[float, float] | None
    reason: str | None
    groups: int
    resamples: int


def macro_auroc_difference(
    labels: Flags,
    first: Floats,
    second: Floats,
    groups: NDArray[np.uint64],
    chosen: Sequence[int],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> Interval:
    """The 95 % interval of macro AUROC(first) - macro AUROC(second) over the labels `chosen`.

    labels, first, second are [n, 25], groups [n]. A label that a draw leaves with one class is left out of that draw, for both models.
    """
    _, members = np.unique(groups, return_inverse=True)
    count = int(members.max()) + 1 if len(members) else 0
    if count < MIN_GROUPS:
        return Interval(None, f"{count} patients, fewer than {MIN_GROUPS}", count, 0)
    if not chosen:
        return Interval(None, "no label has enough held_out visits", count, 0)
    drawn = []
    for weights in _draws(members, count, resamples, np.random.default_rng(seed)):
        gaps = [weighted_auroc(labels[:, j], first[:, j], weights) - weighted_auroc(labels[:, j], second[:, j], weights) for j in chosen]
        drawn.append(mean_defined(np.stack(gaps)))
    values = np.concatenate(drawn)
    values = values[~np.isnan(values)]
    if not len(values):
        return Interval(None, "every draw left every label with one class", count, resamples)
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval((float(low), float(high)), None, count, resamples)


def weighted_auroc(y: Flags, p: Floats, weights: Floats) -> NDArray[np.float64]:
    """AUROC of y, p [n] under each of B row weightings [n, B]; NaN where a weighting leaves one class."""
    negatives = np.flatnonzero(~y)
    negatives = negatives[np.argsort(p[negatives], kind="stable")]
    positives = np.flatnonzero(y)
    below = np.zeros((len(negatives) + 1, weights.shape[1]))
    np.cumsum(weights[negatives], axis=0, out=below[1:])
    sorted_scores = p[negatives]
    left = below[np.searchsorted(sorted_scores, p[positives], "left")]
    right = below[np.searchsorted(sorted_scores, p[positives], "right")]
    wins = (weights[positives] * (left + right)).sum(0) / 2
    pairs = weights[positives].sum(0) * below[-1]
    return np.asarray(np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))


def mean_defined(values: Floats) -> NDArray[np.float64]:
    """Column means [B] of values [k, B] over what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(values)
    count = defined.sum(0)
    total = np.where(defined, values, 0.0).sum(0)
    return np.asarray(np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0))


def _draws(members: NDArray[np.intp], count: int, resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Row weights [n, B] of `resamples` draws of `count` groups with replacement, a block of draws at a time."""
    for start in range(0, resamples, _DRAWS_AT_ONCE):
        size = min(_DRAWS_AT_ONCE, resamples - start)
        drawn = [np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(size)]
        yield np.stack(drawn, axis=1).astype(np.float64)[members]
