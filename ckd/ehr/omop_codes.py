"""The ICD code of an OMOP condition, per distinct kind of row, and where it was found. In this order:

1. the source concept, where it is of an ICD vocabulary;
2. the source value, unless it is the source concept's own code of another vocabulary: a code behind a word for its
   edition (ICD10CM:I50.9), else one that is a concept of one edition alone, else one that HCUP's tables know in one
   edition alone;
3. back from the standard concept: where all ICD codes that are mapped to it have the same CCS category, the shortest of
   them, under the standard concept's own name.

Else there is none: the row keeps what it has, the code of its source concept, of its standard concept or its source
value, with the vocabulary as its version. So it counts as not mapped, and `ingest.code_map` can say what it is. Nothing
is chosen among codes that mean different things.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import polars as pl

from ckd.ehr.ccs import ccs, normal, read_version
from ckd.ehr.icdtext import known_version_of
from ckd.ehr.omop_concepts import ICD, Concepts
from ckd.errors import DataError

SOURCE_CONCEPT, SOURCE_VALUE, STANDARD, NONE = "source concept", "source value", "standard concept", "none"
WAYS = (SOURCE_CONCEPT, SOURCE_VALUE, STANDARD, NONE)
KEY = ("source", "value", "concept")  # of a condition: source concept, source value, standard concept
_TYPED = re.compile(r"(ICD[\w -]*?)\s*[:|]\s*(\S+)", re.IGNORECASE)


class Choice(NamedTuple):
    """A code, its version, a title that wins over the code's own, and which of WAYS found it."""

    code: str | None
    version: str | None
    title: str | None
    way: str


@dataclass(frozen=True)
class CodeBook:
    """All that a choice needs. `concepts`: id -> (name, vocabulary, code)."""

    concepts: Mapping[int, tuple[str | None, str | None, str | None]]
    versions: Mapping[str, Collection[str]] = field(default_factory=dict)  # normal code -> editions that have it
    mapped: Mapping[int, Collection[tuple[str, str]]] = field(default_factory=dict)  # standard concept -> version, code

    @classmethod
    def of(cls, conditions: pl.DataFrame, concepts: Concepts) -> "CodeBook":
        """What is needed for the distinct `conditions` (columns KEY)."""
        ids = {number for name in ("source", "concept") for number in conditions[name].drop_nulls().to_list()}
        found = {number: (name, vocabulary, code) for number, name, vocabulary, code in concepts.of(ids).iter_rows()}
        standard = conditions["concept"].drop_nulls().to_list()
        values = {normal(value) for value in conditions["value"].drop_nulls().to_list()}
        return cls(found, concepts.icd_versions(values), concepts.mapped_to(standard))

    def choose(self, source: int | None, value: str | None, concept: int | None) -> Choice:
        """The code of a condition."""
        _, vocabulary, code = self.concepts.get(source or 0, (None, None, None))
        if vocabulary and code and vocabulary in ICD:
            return Choice(code, ICD[vocabulary], None, SOURCE_CONCEPT)
        if value and (found := self._of_value(value, own=normal(code or ""))):
            return Choice(found[1], found[0], None, SOURCE_VALUE)
        if concept and (back := self._back(concept)):
            return Choice(back[1], back[0], self.concepts.get(concept, (None,))[0], STANDARD)
        return self._as_it_is(source, value, concept)

    def _as_it_is(self, source: int | None, value: str | None, concept: int | None) -> Choice:
        for number in filter(None, (source, concept)):
            _, vocabulary, code = self.concepts.get(number, (None, None, None))
            if vocabulary and code:
                return Choice(code, vocabulary, None, NONE)
        return Choice(value, None, None, NONE)

    def _of_value(self, value: str, own: str) -> tuple[str, str] | None:
        """Version and code of a source value. `own`: the source concept's code, of another vocabulary than ICD."""
        if typed := _TYPED.fullmatch(value.strip()):
            version = read_version(typed[1].replace(" ", "-"))
            return (version, typed[2]) if version else None
        if normal(value) == own:
            return None
        there = self.versions.get(normal(value), ())
        version = next(iter(there)) if len(there) == 1 else known_version_of(value)
        return (version, value.strip()) if version else None

    def _back(self, concept: int) -> tuple[str, str] | None:
        """Version and code that stand for all ICD codes that are mapped to a standard concept."""
        codes = self.mapped.get(concept, ())
        groups = {ccs(normal(code), version) for version, code in codes}
        if len(groups) != 1 or None in groups:
            return None
        return min(codes, key=lambda code: (len(normal(code[1])), code))


def chosen(conditions: pl.DataFrame, book: CodeBook) -> pl.DataFrame:
    """`conditions` (KEY and whatever else) with code, version, title and way."""
    choices = [book.choose(*row) for row in conditions.select(KEY).iter_rows()]
    schema = dict.fromkeys(("code", "version", "title", "way"), pl.String)
    return conditions.hstack(pl.DataFrame(choices, schema=schema, orient="row").get_columns())


def no_code(where: str, conditions: pl.DataFrame) -> DataError:
    """The error for conditions (rows, vocabulary of the source concept) of which none has an ICD code."""
    rows = conditions.group_by("vocabulary").agg(pl.col("rows").sum())
    rows = rows.sort(["rows", "vocabulary"], descending=[True, False])
    found = ", ".join(f"{vocabulary or 'none'} ({n:,})" for vocabulary, n in rows.iter_rows())
    what = f"none of {rows['rows'].sum():,} conditions of hospital stays has an ICD code: source concepts of {found}"
    expected = f"expected source concepts of {', '.join(ICD)}, ICD codes in condition_source_value, a table "
    expected += "concept_relationship that leads to them, or what the codes are in ingest.code_map (docs/tables.md)"
    return DataError(f"{where}: {what}; {expected}")


def notes_of(ways: Mapping[str, int], unnamed_drugs: int) -> list[str]:
    """What a person must read of where codes and names are from. `ways`: rows of conditions by each of WAYS."""
    said = ", ".join(f"{n:,} {'without' if way == NONE else f'by the {way}'}" for way, n in ways.items())
    notes = [f"ICD codes of the conditions: {said}"]
    if unnamed_drugs:
        what = f"drugs: the concept of {unnamed_drugs:,} rows has no name"
        notes.append(f"{what}: they are called as drug_source_value says")
    return notes
