"""Which visits make global batch i of an epoch, and how they are dealt to ranks, from nothing but (seed, epoch)."""

import math
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

WINDOW = 8  # shards whose rows are shuffled among each other: all that is in memory at a time
Row = tuple[int, int]  # (position of its shard in the list of shards, row in the shard)


class Order:
    """The shuffled order of an epoch's visits: shards first, then the rows within each window. Random access."""

    def __init__(self, sizes: Sequence[int], *, seed: int, epoch: int, window: int = WINDOW) -> None:
        self.key = (seed, epoch)
        self.sizes = np.asarray(sizes, dtype=np.int64)
        shuffled = np.random.default_rng([*self.key, 0]).permutation(len(sizes))
        self.windows = [shuffled[start : start + window] for start in range(0, len(sizes), window)]
        self.starts = np.concatenate([[0], np.cumsum([self.sizes[w].sum() for w in self.windows], dtype=np.int64)])
        self._shuffled: OrderedDict[int, np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        return int(self.starts[-1])

    def rows(self, start: int, stop: int) -> list[Row]:
        """The visits at places start … stop-1 of the epoch."""
        found: list[Row] = []
        for place in range(start, min(stop, len(self))):
            window = int(np.searchsorted(self.starts, place, side="right")) - 1
            row = int(self._permutation(window)[place - self.starts[window]])
            bounds = np.cumsum(self.sizes[self.windows[window]])
            shard = int(np.searchsorted(bounds, row, side="right"))
            before = int(bounds[shard - 1]) if shard else 0
            found.append((int(self.windows[window][shard]), row - before))
        return found

    def _permutation(self, window: int) -> np.ndarray:
        if window not in self._shuffled:
            total = int(self.sizes[self.windows[window]].sum())
            self._shuffled[window] = np.random.default_rng([*self.key, 1, window]).permutation(total)
            if len(self._shuffled) > 2:  # a batch spans two windows at most, unless shards are tiny
                self._shuffled.popitem(last=False)
        return self._shuffled[window]


def steps_per_epoch(visits: int, batch_size: int) -> int:
    """Global batches of an epoch; the last may be short."""
    return math.ceil(visits / batch_size)


def deal(lengths: Sequence[int], world: int, accumulation: int) -> list[list[list[int]]]:
    """Deal the visits of one global batch by length: `deal(…)[rank][slot]` is a micro-batch of positions in `lengths`.

    Neighbours in length share a micro-batch, so little is padding. The micro-batches of one slot are neighbours too,
    dealt forth and back over the ranks, so that ranks which wait for each other have the same to do. Micro-batches
    differ by one visit at most; a short batch leaves some empty.
    """
    parts = world * accumulation
    ordered = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    small, longer = divmod(len(ordered), parts)
    cuts = np.cumsum([0] + [small + (part >= parts - longer) for part in range(parts)])
    micro = [ordered[cuts[part] : cuts[part + 1]] for part in range(parts)]
    return [
        [micro[slot * world + (rank if slot % 2 == 0 else world - 1 - rank)] for slot in range(accumulation)]
        for rank in range(world)
    ]
