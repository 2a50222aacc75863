"""Decides which counts of few visits are not shown, and what else is left out so that no total shows them either."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

MIN_CELL = 10  # visits, patients, events, non-events
OTHER = "other groups, each too small to show"
WITHHELD = "withheld"


def shown(*cells: Sequence[int]) -> list[bool]:
    """Which parts of a known total may be shown.

    `cells` are one or more counts per part (events, non-events), each with a known total. A part is left out when one
    of its counts is under MIN_CELL. The totals would then give it away, so the smallest other parts are left out too,
    until there are at least two and together they have MIN_CELL of every count.
    """
    table = np.asarray(cells, dtype=np.int64).reshape(len(cells), -1)
    told: NDArray[np.bool_] = np.all(table >= MIN_CELL, axis=0, keepdims=True)[0]
    while not told.all() and told.any() and (np.sum(~told) < 2 or (table[:, ~told].sum(1) < MIN_CELL).any()):
        candidates = np.flatnonzero(told)
        told[candidates[np.argmin(table.min(0)[candidates])]] = False
    return [bool(value) for value in told]


def pooled(sizes: Mapping[str, int], most: int) -> dict[str, str]:
    """Group -> the row that shows it, itself or OTHER. `sizes`: the smaller of a group's visits and patients.

    Groups under MIN_CELL and those beyond the `most` largest are pooled; so are further ones, the smallest first, until
    the pool has MIN_CELL. So no row is small, and none follows from the others by subtraction.
    """
    ordered = sorted(sizes, key=lambda group: (sizes[group], group))
    pool = {group for place, group in enumerate(ordered) if sizes[group] < MIN_CELL or place < len(ordered) - most}
    for group in ordered:
        if not pool or sum(sizes[name] for name in pool) >= MIN_CELL:
            break
        pool.add(group)
    return {group: OTHER if group in pool else group for group in sizes}


def count_text(value: int) -> str:
    """A count for a reader."""
    return f"{value:,}" if not small(value) else f"<{MIN_CELL}"


def part_text(part: int, whole: int) -> str:
    """A count for a reader who knows the `whole`: a bound where the part, or what is not in it, is small."""
    return f">{whole - MIN_CELL:,}" if small(whole - part) else count_text(part)


def small(value: int) -> bool:
    """Whether a count must not be shown."""
    return 0 < value < MIN_CELL


def total_tells(parts: Mapping[str, int]) -> bool:
    """Whether the total of these parts would give away a small one that parts_text withholds.

    It does where no other part can be withheld beside it.
    """
    counted = [value for value in parts.values() if value]
    return any(map(small, counted)) and (len(counted) < 2 or sum(counted) < MIN_CELL)


def parts_text(parts: Mapping[str, int]) -> dict[str, str]:
    """Counts for a reader who knows their total: small ones, and what would give them away, are withheld.

    0 is shown: nothing is there. Where total_tells, the total must be withheld as well.
    """
    counted = {name: value for name, value in parts.items() if value}
    told = dict(zip(counted, shown(list(counted.values())), strict=True))
    return {
        name: "0" if not value else f"{value:,}" if told[name] else f"<{MIN_CELL}" if value < MIN_CELL else WITHHELD
        for name, value in parts.items()
    }
