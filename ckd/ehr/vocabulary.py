"""What the codes of a MEDS data set stand for: the prefixes of meds_vocabulary.csv, and those of a user's own table.
Of the prefixes that a code begins with, the longest decides."""

import csv
import io
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import NamedTuple

import polars as pl

from ckd.errors import ConfigError
from ckd.store.files import read_bytes
from ckd.visits.subgroups import KEY, NOTHING

KINDS: tuple[str, ...] = (
    "admission",
    "discharge",
    "birth",
    "death",
    "sex",
    "race",
    "insurance",
    "diagnosis",
    "procedure",
)
KINDS += ("medication", "nothing")
UNKNOWN = "UNK"  # what the MIMIC-IV ETL writes for an empty part of a code
_COLUMNS = ["prefix", "read_as", "version"]


class Rule(NamedTuple):
    """A code that begins with `prefix` is read as one of KINDS; `version`: of its ICD code, "": it stands before it."""

    prefix: str
    read_as: str
    version: str


@dataclass(frozen=True)
class Vocabulary:
    """Rules, the longest prefix first."""

    rules: tuple[Rule, ...]

    @classmethod
    def of(cls, path: str = "") -> "Vocabulary":
        """The project's rules and, before them, those of the CSV file `path`. Raises ConfigError when it is none."""
        own = _rows("meds_vocabulary.csv", files("ckd.ehr").joinpath("meds_vocabulary.csv").read_text(encoding="utf-8"))
        given = _given(path) if path else ()
        known = {rule.prefix for rule in given}
        rules = [*given, *(rule for rule in own if rule.prefix not in known)]
        return cls(tuple(sorted(rules, key=lambda rule: -len(rule.prefix))))

    def with_groups(self, prefixes: Sequence[str]) -> "Vocabulary":
        """Also these prefixes, each read as a subgroup. Raises ConfigError for one whose events are read already."""
        rules = [Rule(f"{prefix}/", group_kind(prefix), "") for prefix in prefixes]
        for rule, other in itertools.product(rules, self.rules):
            if rule.prefix.startswith(other.prefix) or other.prefix.startswith(rule.prefix):
                raise ConfigError(f"{KEY}: codes that begin with '{other.prefix}' are read as {other.read_as}")
        return Vocabulary(tuple(sorted([*rules, *self.rules], key=lambda rule: -len(rule.prefix))))

    @property
    def kinds(self) -> list[str]:
        """All that a code is read as."""
        return list(dict.fromkeys(rule.read_as for rule in self.rules))

    def prefixes(self, *kinds: str) -> list[str]:
        """The prefixes that are read as one of `kinds`."""
        return [rule.prefix for rule in self.rules if rule.read_as in kinds]

    def of_kind(self, *kinds: str) -> pl.Expr:
        """Whether the column `event` is read as one of `kinds`."""
        prefixes = self.prefixes(*kinds)
        near = [rule for rule in self.rules if rule.prefix.startswith(tuple(prefixes))]
        return _by_rule(near, lambda rule: pl.lit(rule.read_as in kinds)).fill_null(False)

    def part(self, *kinds: str) -> pl.Expr:
        """The first part behind the prefix of an event of `kinds`; null for what stands for nothing."""
        return known(self.parts(*kinds)[0])

    def parts(self, *kinds: str) -> tuple[pl.Expr, pl.Expr]:
        """The first part behind the prefix of an event of `kinds`, and all that follows it."""
        parts = self._rest(kinds).str.splitn("//", 2).struct
        return parts.field("field_0"), parts.field("field_1")

    def coded(self, kind: str) -> tuple[pl.Expr, pl.Expr]:
        """Version and ICD code of an event of `kind`."""
        first, second = self.parts(kind)
        version = _by_rule(self._of(kind), lambda rule: pl.lit(rule.version))
        return known(pl.when(version == "").then(first).otherwise(version)), known(
            pl.when(version == "").then(second).otherwise(self._rest((kind,)))
        )

    def _of(self, *kinds: str) -> list[Rule]:
        return [rule for rule in self.rules if rule.read_as in kinds]

    def _rest(self, kinds: tuple[str, ...]) -> pl.Expr:
        rest = _by_rule(self._of(*kinds), lambda rule: pl.col("event").str.slice(len(rule.prefix)))
        return rest.str.replace("^/{1,2}", "")


def group_kind(name: str) -> str:
    """What the events of a subgroup are read as."""
    return f"subgroup {name.lower()}"


def _by_rule(rules: Sequence[Rule], value: Callable[[Rule], pl.Expr]) -> pl.Expr:
    """The value by the first rule whose prefix an event has."""
    return pl.coalesce(pl.when(pl.col("event").str.starts_with(rule.prefix)).then(value(rule)) for rule in rules)


def _given(path: str) -> tuple[Rule, ...]:
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        what = f"ingest.meds_codes={path}: cannot be read ({type(error).__name__})"
        raise ConfigError(f"{what}; expected a CSV file in UTF-8 with the columns {', '.join(_COLUMNS)}") from None
    return _rows(f"ingest.meds_codes={path}", text)


def _rows(where: str, text: str) -> tuple[Rule, ...]:
    reader = csv.DictReader(io.StringIO(text))
    if list(reader.fieldnames or ()) != _COLUMNS:
        raise ConfigError(f"{where}:1: expected the columns {', '.join(_COLUMNS)}")
    rules = []
    for row in reader:
        rule = Rule(*((row[name] or "").strip() for name in _COLUMNS))
        if not rule.prefix or rule.read_as not in KINDS or rule.version not in ("", "9", "10"):
            expected = f"expected a prefix, one of {', '.join(KINDS)}, and 9, 10 or nothing"
            raise ConfigError(f"{where}:{reader.line_num}: no rule; {expected}")
        rules.append(rule)
    return tuple(rules)


def known(part: pl.Expr) -> pl.Expr:
    """A part of a code; null for what an ETL writes where the source had nothing."""
    return pl.when(~part.is_in([UNKNOWN, "", *NOTHING])).then(part)
