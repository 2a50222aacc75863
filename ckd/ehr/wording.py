"""What the texts of a cohort are written with, kept beside it: a visit of today is written with the same words.

These are the drugs of the clause that all visits outside train got, the source's own titles of its codes, what the
site's own map says of them, and how many earlier visits a text tells.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import polars as pl

from ckd.ehr.canonical import TITLES
from ckd.ehr.ccs import normal, read_version
from ckd.ehr.codemap import CodeMap, Meant
from ckd.ehr.codes import DIAGNOSIS, PROCEDURE, Codes
from ckd.errors import ConfigError, DataError
from ckd.store.files import exists, join
from ckd.store.jsonfile import read_json, sealed, write_json
from ckd.visits.grammar import render_input
from ckd.visits.labels import DISEASES

FILE = "wording.json"
_AGAIN = "run 'ckd ingest' again"


class Code(NamedTuple):
    """A code with its version, as data sets write both: "I50.9", "10"."""

    code: str
    version: str


@dataclass(frozen=True)
class Recorded:
    """What is recorded of a visit, each in the order in which a text lists it."""

    diagnoses: Sequence[Code] = ()
    medications: Sequence[str] = ()
    procedures: Sequence[Code] = ()


@dataclass(frozen=True)
class Wording:
    """The words of one cohort."""

    clause: Mapping[str, Sequence[str]]  # disease -> drugs
    titles: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=TITLES))
    code_map: CodeMap = field(default_factory=dict)
    history: int = 0  # earlier visits that a text tells at most

    @classmethod
    def of(cls, cohort: str) -> "Wording":
        """Read the words of the cohort of `ckd ingest` in a folder.

        Raises ConfigError for a folder without them, ArtifactError for a damaged file.
        """
        path = join(cohort, FILE)
        if not exists(path):
            raise ConfigError(f"{path}: no such file; expected a cohort that 'ckd ingest' of this version has made")
        content = read_json(path, _AGAIN)
        try:
            titles = pl.DataFrame(content["titles"], schema=TITLES, orient="row")
            mapped = {(code, version): Meant(ccs, None) for code, version, ccs in content.get("code_map", ())}
            return cls(dict(content["clause"]), titles, mapped, int(content.get("history", 0)))
        except (KeyError, TypeError, ValueError, pl.exceptions.PolarsError):
            raise DataError(f"{path}: not what 'ckd ingest' writes; {_AGAIN}") from None

    def save(self, cohort: str) -> None:
        """Write the file into the cohort's folder."""
        content: dict[str, Any] = {"clause": {name: list(drugs) for name, drugs in self.clause.items()}}
        own = [[*key, meant.ccs] for key, meant in self.code_map.items()]
        content |= {"code_map": own} if own else {}
        content |= {"history": self.history} if self.history else {}
        write_json(join(cohort, FILE), sealed({**content, "titles": self.titles.rows()}), ensure_ascii=False)

    def all_titles(self, own: pl.DataFrame) -> pl.DataFrame:
        """These titles, then those of another source: a code keeps the title that the cohort gave it."""
        return pl.concat([own.select(*TITLES), self.titles.select(*TITLES)])


def used_titles(titles: pl.DataFrame, codes: pl.DataFrame) -> pl.DataFrame:
    """The rows of a source's titles that its codes (kind, code, version) or their categories may need."""
    needed = set()
    for kind, code, version in codes.select("kind", "code", "version").iter_rows():
        whole, known = normal(code or ""), read_version(version)
        needed |= {(kind, known, whole[:end]) for end in (2, 3, 4, len(whole))}
    rows = titles.select(*TITLES).iter_rows()
    kept = [row for row in rows if row[2] and (row[0], read_version(row[1]), normal(row[2])) in needed]
    return pl.DataFrame(kept, schema=TITLES, orient="row")


class Writer:
    """Writes the text of a visit from its codes and drugs, as the cohort's own texts were written."""

    def __init__(self, wording: Wording) -> None:
        self._clause, self._codes = wording.clause, Codes(wording.titles, code_map=wording.code_map)

    def __call__(self, visit: Recorded) -> str:
        """The visit's text. Raises UnknownCodeError for a code that has no title or a version that is none."""
        diseases, labels = self._named(DIAGNOSIS, visit.diagnoses)
        operations, _ = self._named(PROCEDURE, visit.procedures)
        drugs = [" ".join(name.split()) for name in visit.medications]
        present = {DISEASES[label] for label in labels}
        treated = {name: self._clause[name] for name in DISEASES if name in present and self._clause.get(name)}
        return render_input(diseases, _distinct(filter(None, drugs)), operations, treated)

    def _named(self, kind: str, codes: Sequence[Code]) -> tuple[list[str], set[int]]:
        """Distinct titles in their order, and the labels of diagnoses."""
        if not codes:
            return [], set()
        rows = pl.DataFrame(codes, schema={"code": pl.String, "version": pl.String}, orient="row")
        found = (self._codes.diagnoses if kind == DIAGNOSIS else self._codes.procedures)(rows)
        for place, (title, known) in enumerate(found.select("title", "known_version").iter_rows()):
            if title is None or not known:
                raise UnknownCodeError(kind, place, known=known)
        labels = found["label"].drop_nulls().to_list() if kind == DIAGNOSIS else []
        return _distinct(found["title"]), set(labels)


class UnknownCodeError(ValueError):
    """A code of a visit that nobody can write down. Holds its place, never the code."""

    def __init__(self, kind: str, place: int, *, known: bool) -> None:
        self.kind, self.place = kind, place
        self.reason = f"no {kind} code that has a title" if known else "version is not 9 or 10"
        super().__init__(f"{kind} {place + 1}: {self.reason}")


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
