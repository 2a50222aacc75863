"""Which labels of a task a diagnosis code stands for: by CCS categories, prefixes, ranges, lists of whole codes."""

from collections import defaultdict
from collections.abc import Collection

from ckd.errors import ConfigError
from ckd.visits.task import Label, Task

_VERSIONS = {"9": "icd9", "10": "icd10"}


class Definitions:
    """The codes of all labels, indexed: a code is looked up by each of its beginnings, not compared with each label."""

    def __init__(self, task: Task, categories: Collection[int]) -> None:
        """Raises ConfigError for a CCS category that is none of `categories`: it would never be true."""
        self._ccs: dict[str, list[int]] = defaultdict(list)
        self._prefixes: dict[tuple[str, str], list[int]] = defaultdict(list)
        self._whole: dict[tuple[str, str], list[int]] = defaultdict(list)
        self._ranges: list[tuple[str, str, str, int]] = []
        self._excluding: dict[int, list[tuple[str, str, str]]] = {}
        for number, label in enumerate(task.labels):
            for ccs in label.ccs:
                if ccs not in categories:
                    what = f"label '{label.name}' names the CCS category {ccs}, which HCUP's single-level list has not"
                    raise ConfigError(f"task.labels: {what}; expected one of {min(categories)} to {max(categories)}")
                self._ccs[str(ccs)].append(number)
            self._index(label, number)

    def of(self, code: str, version: str, ccs: str | None) -> list[int]:
        """The numbers of the labels that a normal code stands for, in order. `ccs`: its category."""
        found = {*self._ccs.get(ccs or "", ()), *self._whole.get((version, code), ())}
        for end in range(1, len(code) + 1):
            found.update(self._prefixes.get((version, code[:end]), ()))
        found.update(number for v, low, high, number in self._ranges if v == version and _within(code, low, high))
        return [number for number in sorted(found) if not self._excluded(number, code, version)]

    def _index(self, label: Label, number: int) -> None:
        for version, kind in _VERSIONS.items():
            for low, high in map(_ends, getattr(label, kind)):
                if low == high:
                    self._prefixes[version, low].append(number)
                else:
                    self._ranges.append((version, low, high, number))
            excluded = [(version, *_ends(each)) for each in getattr(label.excluding, kind)]
            self._excluding.setdefault(number, []).extend(excluded)
        for code, version in label.codes:
            self._whole[version, _normal(code)].append(number)

    def _excluded(self, number: int, code: str, version: str) -> bool:
        return any(v == version and _within(code, low, high) for v, low, high in self._excluding[number])


def _normal(code: str) -> str:
    return code.replace(".", "").upper()


def _ends(code: str) -> tuple[str, str]:
    """The first and the last prefix of a range; a prefix alone is both."""
    low, _, high = code.partition("-")
    return _normal(low), _normal(high or low)


def _within(code: str, low: str, high: str) -> bool:
    """Whether a code begins with a prefix from low to high, each compared at its own length."""
    long_enough = len(code) >= max(len(low), len(high))
    return long_enough and low <= code[: len(low)] and code[: len(high)] <= high
