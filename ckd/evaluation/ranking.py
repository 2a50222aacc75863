"""Computes AUROC and average precision of one column of scores under many row weightings at once.

Both change only at the scores that a positive has (the steps), so the rows are sorted once. A step needs the weight of
its positives and of the negatives since the step before. For all draws that is one product of a sparse matrix (which
group's rows are in the step) with the groups' counts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ckd.evaluation.metrics import Floats
from ckd.evaluation.scores import Flags

_EXACT_ROWS = 1 << 20  # rows up to which float32 holds a step's weight exactly (16 times as many are still below 2^24)
_STEPS_AT_ONCE = 1 << 17  # steps x draws of a block: 1 MiB of float64, what a core's cache holds
Groups = NDArray[np.integer[Any]]  # [n] the number of each row's group


@dataclass(frozen=True)
class _Steps:
    """Successive steps, highest score first: which group's rows each holds, as sparse matrices [steps, groups]."""

    positives: Any
    negatives: Any  # since the step before; those with the step's own score included
    tied: Any  # of these, those with the step's own score; only the steps `with_ties`
    with_ties: NDArray[np.intp]


class Ranking:
    """Labels and scores [n] whose rows belong to groups 0..count-1, sorted once."""

    def __init__(self, y: Flags, p: Floats, groups: Groups, count: int) -> None:
        order = np.argsort(-p, kind="stable")
        y, p, groups = y[order], p[order], groups[order].astype(np.int32)
        # Equal scores have equal rank.
        rank = np.cumsum(np.append(False, p[1:] != p[:-1])) if len(p) else np.zeros(0, dtype=np.intp)
        self.count = count
        self.type: Any = np.float32 if len(y) <= _EXACT_ROWS else np.float64
        of_class = np.stack([np.bincount(groups[side], minlength=count) for side in (y, ~y)])
        self.of_class: Floats = of_class.astype(self.type)  # [2, groups]
        ranks, starts = np.unique(rank[y], return_index=True)
        step = np.searchsorted(ranks, rank[~y])  # of each negative; len(ranks): below every positive
        ahead = step < len(ranks)
        step, positives, negatives = step[ahead], groups[y], groups[~y][ahead]
        tied = ranks[step] == rank[~y][ahead]
        self._positives = (positives, np.append(starts, len(positives)))
        self._negatives = (negatives, np.searchsorted(step, np.arange(len(ranks) + 1)))
        self._with_ties, first = np.unique(step[tied], return_index=True)
        self._tied = (negatives[tied], np.append(first, int(tied.sum())))
        self._steps: dict[int, list[_Steps]] = {}

    def prepare(self, draws: int) -> None:
        """Cut the steps for blocks of that many draws (threads then share them)."""
        self._steps[draws] = list(self._cut(max(1, _STEPS_AT_ONCE // draws)))

    def figures(self, counts: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """AUROC [B] (ties count half) and average precision [B] with every row weighted by its group's count.

        Counts are whole numbers [groups, B]. NaN where a weighting leaves one class (AUROC) or no positive (precision).
        """
        if counts.shape[1] not in self._steps:
            self.prepare(counts.shape[1])
        counts = counts.astype(self.type, copy=False)
        positives, negatives = (self.of_class @ counts).astype(np.float64)
        hits, alarms, lost, precision = (np.zeros(counts.shape[1]) for _ in range(4))
        for steps in self._steps[counts.shape[1]]:
            weight = (steps.positives @ counts).astype(np.float64)
            true = _running(weight, hits)
            false = _running(steps.negatives @ counts, alarms)
            hits, alarms = true[-1].copy(), false[-1].copy()
            lost += np.einsum("kb,kb->b", weight, false)
            if len(steps.with_ties):
                lost -= np.einsum("kb,kb->b", weight[steps.with_ties], steps.tied @ counts) / 2
            false += true
            np.divide(true, np.maximum(false, 1, out=false), out=true)
            precision += np.einsum("kb,kb->b", weight, true)
        pairs = positives * negatives
        return _ratio(pairs - lost, pairs), _ratio(precision, positives)

    def _cut(self, size: int) -> Iterator[_Steps]:
        total = len(self._positives[1]) - 1
        for start in range(0, total, size):
            stop = min(start + size, total)
            first, last = np.searchsorted(self._with_ties, [start, stop])
            yield _Steps(
                self._matrix(*self._positives, start, stop),
                self._matrix(*self._negatives, start, stop),
                self._matrix(*self._tied, first, last),
                self._with_ties[first:last] - start,
            )

    def _matrix(self, groups: Groups, ends: Groups, start: int, stop: int) -> Any:
        ends = ends[start : stop + 1]
        inside = groups[ends[0] : ends[-1]]
        return csr_array(
            (np.ones(len(inside), dtype=self.type), inside, (ends - ends[0]).astype(np.int32)),
            shape=(stop - start, self.count),
        )


def _running(weights: Floats, before: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of weights [steps, B] down to each step, `before` [B] added."""
    # Converting within cumsum costs three times as much.
    sums = np.asarray(np.cumsum(weights.astype(np.float64, copy=False), axis=0))
    sums += before
    return sums


def _ratio(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.divide(a, b, out=np.full(len(b), np.nan), where=b > 0))
