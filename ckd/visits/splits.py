"""Decides the split of every visit, so that no subject (without subject_id: no identical input) is in two splits.

Also which train subjects are for the adapter only, and the set of 64-bit hashes that all this needs.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ckd.errors import DataError
from ckd.visits.visit import SPLITS, Split, Visit, hash64

HALVES: Mapping[Split, float] = {"tuning": 0.5, "held_out": 0.5}
PUBLIC_SHARES: Mapping[Split, float] = {"train": 0.72, "tuning": 0.08, "held_out": 0.20}  # 20 % test, 10 % of the rest


def choose(group: int, seed: int, shares: Mapping[Split, float]) -> Split:
    """The split of a group (Visit.group) by seeded hash, whatever the order and the other groups. `shares` sum to 1."""
    place, edge = point(group, seed), 0.0
    for split, share in shares.items():
        edge += share
        if place < edge:
            return split
    return list(shares)[-1]  # rounding: the edges end just below 1


def point(group: int, seed: int) -> float:
    """The place of a group between 0 and 1, which `choose` compares with the shares."""
    return hash64("split", seed, group) / 2**64


def of_adapter(groups: Iterable[int], share: float) -> NDArray[np.bool_]:
    """Which of the train groups (Visit.group) [n] are the adapter's: about `share` of them, by hash of the group only.

    Neither a seed nor other subjects matter, so `ckd export` and the run that uses the adapter always agree.
    """
    if not share:
        return np.zeros(len(list(groups)), bool)
    return np.array([hash64("adapter", int(group)) / 2**64 < share for group in groups], bool)


def edges(labeled: Sequence[float], shares: Mapping[Split, float]) -> dict[Split, float]:
    """The point at which each split ends: the running sum of the shares, moved where a split would be empty.

    Empty means without a group that has a labelled visit; `labeled` holds the points of those groups, in any order.
    With as many groups as splits each split gets one; with more, train gets two, which cross-fitting needs; with fewer
    nothing is moved. Once every split has a group, more groups move no edge.
    """
    ranked, splits = np.sort(np.asarray(labeled, float)), list(shares)
    ends = np.cumsum(list(shares.values()))[:-1]
    least, spare = len(splits), len(ranked) - len(splits)
    if spare >= 0:
        for k in range(least - 1):
            below = int(np.searchsorted(ranked, ends[k]))
            low = (int(np.searchsorted(ranked, ends[k - 1])) if k else min(spare, 1)) + 1
            wanted = min(max(below, low), len(ranked) - (least - 1 - k))
            if wanted != below:
                ends[k] = ranked[wanted]
    return dict(zip(splits, [*ends.tolist(), 1.0], strict=True))


class HashSet:
    """A set of unsigned 64-bit hashes at about 8 bytes each: a sorted array, and a small set of new ones."""

    def __init__(self, smallest_merge: int = 1 << 16) -> None:
        self._sorted = np.empty(0, np.uint64)
        self._pending: set[int] = set()
        self._smallest_merge = smallest_merge

    def __len__(self) -> int:
        return len(self._sorted) + len(self._pending)

    def __contains__(self, value: int) -> bool:
        if value in self._pending:
            return True
        wanted = np.uint64(value)
        place = int(self._sorted.searchsorted(wanted))
        return place < len(self._sorted) and bool(self._sorted[place] == wanted)

    def add(self, value: int) -> bool:
        """Add a hash; returns whether it was new."""
        if value in self:
            return False
        self._pending.add(value)
        # A Python int in a set costs about 80 bytes; below 1/64 of the whole that is about 1 byte per hash.
        if len(self._pending) >= max(self._smallest_merge, len(self._sorted) // 64):
            new = np.fromiter(self._pending, np.uint64, len(self._pending))
            self._sorted = np.concatenate([self._sorted, np.sort(new)])
            self._sorted.sort(kind="stable")  # two sorted runs: one linear merge
            self._pending.clear()
        return True


class Splitter:
    """Gives visits their split as they come in the order train, tuning, held_out; a group keeps the first it gets.

    mode "files": a row's own split wins, else its file decides (with `halve_tuning`, `choose` halves data.tuning).
    mode "public": 72/8/20 over everything, whatever rows and files say. Memory: 8 bytes per group ("files") or none.
    """

    def __init__(self, mode: Literal["files", "public"], seed: int, *, halve_tuning: bool) -> None:
        self._mode, self._seed, self._halve_tuning = mode, seed, halve_tuning
        self._groups: dict[Split, HashSet] = {split: HashSet() for split in SPLITS}
        self.moved = 0  # visits that left their file's split because their group was in an earlier one
        self.contradictions = 0  # visits whose own split is not the one their group already has
        self.first_contradiction = ""

    def place(self, visit: Visit, location: str) -> Split:
        """The visit's split. `location` (file:line) is kept for the message of the first contradiction."""
        group = visit.group
        if self._mode == "public":
            return choose(group, self._seed, PUBLIC_SHARES)
        wanted = visit.split or self._by_file(visit, group)
        known = next((split for split in SPLITS if group in self._groups[split]), None)
        if known is None:
            self._groups[wanted].add(group)
            return wanted
        if known != wanted and visit.split is not None:
            self.contradictions += 1
            self.first_contradiction = self.first_contradiction or location
        elif known != wanted:
            self.moved += 1
        return known

    def check(self) -> None:
        """Raise DataError when rows of one group had different splits."""
        if self.contradictions:
            raise DataError(
                f"{self.first_contradiction}: the first of {self.contradictions:,} visits whose 'split' differs from "
                "that of earlier visits of the same subject (without subject_id: of the same input); expected one "
                "split per subject: mend the split column, or leave it out"
            )

    def _by_file(self, visit: Visit, group: int) -> Split:
        if visit.source == "tuning" and self._halve_tuning:
            return choose(group, self._seed, HALVES)
        return visit.source
