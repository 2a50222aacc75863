"""What the visits of a split show of each label: true, false, known at all, and of two groups.

A label that has shown something is not looked at again for it, so that a visit costs nothing once all have.
"""

from collections.abc import Sequence

from ckd.visits.task import Labels


class Evidence:
    """Collects over visits, in any order. Memory does not grow with them."""

    def __init__(self, names: Sequence[str]) -> None:
        """Start with labels of these names, which have shown nothing."""
        self.names = names
        self._unseen = {flag: set(range(len(names))) for flag in (True, False)}
        self._alone = set(range(len(names)))  # labels that are known for visits of one group, or of none
        self._first: dict[int, int] = {}  # label -> the first group for which it is known

    def add(self, labels: Labels, group: int) -> None:
        """Take in a visit's labels and its group."""
        for flag, unseen in self._unseen.items():
            if unseen:
                unseen.difference_update([place for place in unseen if labels[place] == flag])
        if self._alone:
            known = [place for place in self._alone if labels[place] is not None]
            self._alone.difference_update([n for n in known if self._first.setdefault(n, group) != group])

    @property
    def mixed(self) -> bool:
        """Whether some label has shown both true and false."""
        return len(self._unseen[True] | self._unseen[False]) < len(self.names)

    @property
    def alone(self) -> list[str]:
        """The labels that are known for visits of fewer than two groups."""
        return [self.names[place] for place in sorted(self._alone)]

    def never(self, flag: bool) -> list[str]:
        """The labels that were known, but never `flag`."""
        known = self._unseen[flag] - (self._unseen[True] & self._unseen[False])
        return [self.names[place] for place in sorted(known)]
