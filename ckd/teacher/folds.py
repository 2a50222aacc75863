"""Which cross-fitting fold a training subject is in. Folds are of groups (subjects, or identical inputs), seeded."""

import numpy as np

from ckd.errors import DataError
from ckd.visits.cohort import Cohort
from ckd.visits.splits import of_adapter
from ckd.visits.visit import hash64


class Folds:
    """Folds by rank of the seeded group keys; their sizes differ by at most one. Holds 8 bytes per training group."""

    def __init__(self, keys: np.ndarray, count: int, seed: int) -> None:
        """`keys` are sorted and mixed with the seed; `of` makes them."""
        self.keys, self.count, self.seed = keys, count, seed

    @classmethod
    def of(cls, cohort: Cohort, count: int, seed: int, adapter_share: float = 0) -> "Folds":
        """Folds of the labelled training groups without the adapter's, at most one per group.

        Raises DataError for fewer than two groups.
        """
        groups = [cohort.read(shard, ["group"])["group"].to_numpy() for shard in cohort.select("train")]
        found = np.unique(np.concatenate(groups)) if groups else np.empty(0, np.uint64)
        keys = np.unique(_mix(found[~of_adapter(found, adapter_share)], seed))
        if len(keys) < 2:
            left = f" and taking out the adapter's (teacher.adapter_share={adapter_share:g})" if adapter_share else ""
            raise DataError(
                f"data.train: {len(keys)} training subject(s) after splitting{left}, cross-fitting needs at least 2; "
                "give more training visits"
            )
        return cls(keys, min(count, len(keys)), seed)

    def assign(self, groups: np.ndarray) -> np.ndarray:
        """int64 [n]: the fold of each group key; an unseen group gets the fold of its rank."""
        ranks: np.ndarray = np.searchsorted(self.keys, _mix(groups, self.seed)) % self.count
        return ranks


def _mix(groups: np.ndarray, seed: int) -> np.ndarray:
    return groups.astype(np.uint64) ^ np.uint64(hash64("folds", seed))
