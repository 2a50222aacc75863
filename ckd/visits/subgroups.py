"""Subgroups that a user names (`ingest.subgroups`) beside SUBGROUP_FIELDS, and what such a column may hold.

Its values are stored with the visits and name groups of a report, so each must be one of many patients: a column of
ids, dates or free text is refused before anything is made of it. No message quotes a value.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ckd.errors import ConfigError, DataError
from ckd.visits.visit import SUBGROUP_FIELDS, UNREAD_FIELDS, Visit, visit_schema

if TYPE_CHECKING:
    import pyarrow as pa

KEY = "ingest.subgroups"
MARK = b"ckd.subgroups"  # of a Parquet schema: a line per subgroup, in the order of its columns
MOST_VALUES = 50
LONGEST = 60  # characters of a value
# An empty cell as programs write it; of "NA" the small letters may be a word (sodium).
NOTHING: tuple[str, ...] = (
    *("NULL", "null", "Null", "NA", "N/A", "n/a", "nan", "NaN", "NAN", "None", "none", "NONE", "NaT", "<NA>"),
    *("\\N", "#N/A"),
)
_DATE = re.compile(r"\d{1,4}([-./])\d{1,2}\1\d{1,4}(\D.*)?")
_WHOLE = re.compile(r"(-?\d+)\.0+")
_TAKEN = ("output", "unknown_labels", "visits", *UNREAD_FIELDS)
_WANTED = f"expected a column of groups: at most {MOST_VALUES} values of at most {LONGEST} characters, each of patients"


def mark_of(names: Sequence[str]) -> dict[bytes, bytes]:
    """What a part says of its subgroups beside its rows; nothing without any."""
    return {MARK: "\n".join(names).encode()} if names else {}


def marked(schema: "pa.Schema") -> tuple[str, ...]:
    """The subgroups of a part, as `mark_of` says them."""
    said = (schema.metadata or {}).get(MARK, b"").decode(errors="replace")
    return tuple(name for name in said.split("\n") if name in schema.names)


def require_free(names: Sequence[str]) -> None:
    """Raise ConfigError for a name that a visit has already."""
    for name in names:
        if name.lower() in SUBGROUP_FIELDS:
            raise ConfigError(f"{KEY}: '{name}' is a subgroup of every cohort already; leave it out")
        if name.lower() in {*visit_schema(0).names, *_TAKEN}:
            raise ConfigError(f"{KEY}: '{name}' means something else in a visit; leave it out or rename that column")


def group_of(value: Any) -> str | None:
    """The group that a cell of JSON or Parquet names; None where it holds nothing. Raises TypeError for no cell."""
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, bool):
        value = str(value).lower()
    if value is not None and not isinstance(value, str | int | float | Decimal):
        raise TypeError(type(value).__name__)
    text = "" if value is None else str(value).strip()
    text.encode()  # JSON escapes can spell half a surrogate pair
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else None if text in ("", *NOTHING) else text


def require_groups(name: str, values: Collection[str], patients: int, where: str) -> None:
    """Raise DataError unless these are the values of a column of groups: all of them, or MOST_VALUES and one more.
    `patients`: how many have a value, exact up to 2 * MOST_VALUES; `where`: the input."""
    faults = {
        f"has more than {MOST_VALUES} values": len(values) > MOST_VALUES,
        f"has {len(values)} values for {patients} patients": len(values) > 2 and 2 * len(values) > patients,
        "holds text": any(len(value) > LONGEST or "\n" in value for value in values),
        "holds dates": bool(values) and all(_DATE.fullmatch(value) for value in values),
    }
    for what in (what for what, found in faults.items() if found):
        raise DataError(f"{where}: {KEY}: column '{name}' {what}; {_WANTED}; group its values, or leave it out")


class Tally:
    """Counts the values of the subgroups that were asked for, as far as `require_groups` needs them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.unknown = dict.fromkeys(names, 0)
        self._values: Mapping[str, set[str]] = defaultdict(set)
        self._patients: Mapping[str, set[int]] = defaultdict(set)

    def add(self, visit: Visit) -> None:
        """One more visit."""
        for name in self.unknown:
            value = visit.subgroups.get(name)
            if value is None:
                self.unknown[name] += 1
                continue
            if len(self._values[name]) <= MOST_VALUES:
                self._values[name].add(value)
            if len(self._patients[name]) < 2 * MOST_VALUES:
                self._patients[name].add(visit.group)

    def found(self) -> dict[str, dict[str, int]]:
        """Per subgroup how many values it has, and how many visits have none."""
        return {name: {"values": len(self._values[name]), "unknown": n} for name, n in self.unknown.items()}

    def require_known(self, where: str, fields: Callable[[], Sequence[str]]) -> None:
        """Raise ConfigError for a subgroup of which the input `where` holds no value. `fields`: what its rows hold."""
        for name in self.unknown:
            if self.unknown[name] and not self._values[name]:  # without a visit every row was bad, which is told
                there = ", ".join(fields()[:30])
                raise ConfigError(f"{KEY}: no row of {where} has a value of '{name}'; its rows have {there}")

    def require(self, where: str) -> None:
        """Raise DataError for a column that holds no groups."""
        for name in self.unknown:
            require_groups(name, self._values[name], len(self._patients[name]), where)
