"""How often the target repeats what the visit itself records: data that does so is no next-visit prediction."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ckd.visits.task import Labels


@dataclass
class Echo:
    """Counts visits whose target equals their current labels, over the labels that are known of both.

    A treatment clause names only diseases with a known drug. What no clause of the input ever names is therefore not
    compared: its absence says nothing. Memory: what differs in labels that no clause has named yet, at most one entry
    per such set.
    """

    known: int = 0  # labelled visits whose current labels are known
    _equal: int = 0
    _nameable: int = 0  # mask of the labels that a clause has named
    _open: Counter[int] = field(default_factory=Counter)  # labels that differ, none of them named so far -> visits

    def recorded(self, current: Labels, target: Labels) -> None:
        """Count a visit whose own row holds its current labels."""
        self.known += 1
        self._equal += current == target or all(
            None in pair or pair[0] == pair[1] for pair in zip(current, target, strict=True)
        )

    def named(self, clause: tuple[bool, ...], target: Labels) -> None:
        """Count a visit of which only the treatment clause says what is present."""
        self.known += 1
        if None in target:
            target = tuple(flag if other is None else other for flag, other in zip(clause, target, strict=True))
        present = _mask(clause)
        differing = present ^ _mask(target)
        if present & ~self._nameable:
            self._nameable |= present
            for others in [others for others in self._open if others & self._nameable]:
                del self._open[others]
        if not differing & self._nameable:
            self._open[differing] += 1

    @property
    def equal(self) -> int:
        """Visits whose target equals the current labels."""
        return self._equal + sum(self._open.values())


def _mask(flags: Sequence[bool | None]) -> int:
    """One byte per label, which costs a tenth of one bit per label."""
    return int.from_bytes(bytes(flags), "big")  # type: ignore[arg-type]  # no None is left
