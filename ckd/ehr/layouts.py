"""What each source calls its files and columns, and the canonical tables they become. Finding and reading the files is scan's business,
MEDS, which has events instead of tables, is read by meds."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from ckd.errors import DataError

TIME = pl.Datetime("us")
PLACE_BITS = 40  # place = (file index << 40) | 1-based record of that file (the header of a CSV file is record 1)

# The canonical tables as every later step sees them. Cells are as they stand in the source; an empty cell is null.
SCHEMAS: Mapping[str, Mapping[str, pl.DataType]] = {
    "visits": {
        "visit_id": pl.String(),
        "subject_id": pl.String(),
        "start": TIME,
        "start_bad": pl.Boolean(),
        "end": TIME,
        "end_bad": pl.Boolean(),
        "died": pl.Boolean(),
        "newborn": pl.Boolean(),
        "age": pl.String(),
        "sex": pl.String(),
        "ethnicity": pl.String(),
        "insurance": pl.String(),
        "admission_type": pl.String(),
        "cut": pl.String(),
        "place": pl.UInt64(),
    },
    "patients": {
        "subject_id": pl.String(),
        "sex": pl.String(),
        "birth": TIME,
        "anchor_age": pl.Int32(),
        "anchor_year": pl.Int32(),
        "cut": pl.String(),
        "place": pl.UInt64(),
    },
    "diagnoses": {
        "visit_id": pl.String(),
        "seq": pl.Int32(),
        "code": pl.String(),
        "version": pl.String(),
        "title": pl.String(),
        "place": pl.UInt64(),
    },
    "medications": {"visit_id": pl.String(), "start": TIME, "drug": pl.String(), "place": pl.UInt64()},
    "procedures": {
        "visit_id": pl.String(),
        "seq": pl.Int32(),
        "code": pl.String(),
        "version": pl.String(),
        "title": pl.String(),
        "place": pl.UInt64(),
    },
}
TABLE_NAMES = tuple(SCHEMAS)


@dataclass(frozen=True)
class Table:
    """One source table: the file's name without ending, and canonical column -> source column, both lower case."""

    file: str
    required: Mapping[str, str]
    optional: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)  # canonical column -> value in every row


@dataclass(frozen=True)
class Layout:
    """A kind of source. `visits` may also map `expired` and `death`, from which `died` is made."""

    tables: Mapping[str, Table]
    titles: Mapping[str, Table]  # "diagnosis", "procedure" -> optional table of code, version, title
    time_formats: tuple[str, ...]
    license: str  # what holds where the folder has no LICENSE file
    parquet: bool = False  # whether tables may also be Parquet, or folders of parts


NOT_STATED = "not stated"
_PHYSIONET = "PhysioNet Credentialed Health Data License 1.5.0 (the open demo: ODbL 1.0)"
_KEYS3 = {"visit_id": "hadm_id", "subject_id": "subject_id"}
_STAY = {
    **_KEYS3,
    "start": "admittime",
    "end": "dischtime",
    "expired": "hospital_expire_flag",
    "admission_type": "admission_type",
}
_CODED3 = {**_KEYS3, "seq": "seq_num", "code": "icd9_code"}
_CODED4 = {**_KEYS3, "seq": "seq_num", "code": "icd_code", "version": "icd_version"}
_TITLES3 = {"code": "icd9_code", "title": "long_title"}
_TITLES4 = {"code": "icd_code", "version": "icd_version", "title": "long_title"}
_ICD9 = {"version": "9"}

MIMIC3 = Layout(
    tables={
        "visits": Table(
            "admissions", _STAY, {"death": "deathtime", "insurance": "insurance", "ethnicity": "ethnicity"}
        ),
        "patients": Table("patients", {"subject_id": "subject_id", "sex": "gender", "birth": "dob"}),
        "diagnoses": Table("diagnoses_icd", _CODED3, constants=_ICD9),
        "medications": Table("prescriptions", {**_KEYS3, "start": "startdate", "drug": "drug"}),
        "procedures": Table("procedures_icd", _CODED3, constants=_ICD9),
    },
    titles={
        "diagnosis": Table("d_icd_diagnoses", _TITLES3, constants=_ICD9),
        "procedure": Table("d_icd_procedures", _TITLES3, constants=_ICD9),
    },
    time_formats=("%Y-%m-%d %H:%M:%S",),
    license=_PHYSIONET,
)

MIMIC4 = Layout(
    tables={
        "visits": Table("admissions", _STAY, {"death": "deathtime", "insurance": "insurance", "ethnicity": "race"}),
        "patients": Table(
            "patients",
            {"subject_id": "subject_id", "sex": "gender", "anchor_age": "anchor_age", "anchor_year": "anchor_year"},
        ),
        "diagnoses": Table("diagnoses_icd", _CODED4),
        "medications": Table("prescriptions", {**_KEYS3, "start": "starttime", "drug": "drug"}),
        "procedures": Table("procedures_icd", _CODED4),
    },
    titles={"diagnosis": Table("d_icd_diagnoses", _TITLES4), "procedure": Table("d_icd_procedures", _TITLES4)},
    time_formats=("%Y-%m-%d %H:%M:%S",),
    license=_PHYSIONET,
)


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_GENERIC_CODED = _same("visit_id", "subject_id", "code", "version")

# docs/tables.md documents these for users.
TABLES = Layout(
    tables={
        "visits": Table(
            "visits",
            {**_same("visit_id", "subject_id", "start", "end"), "expired": "died"},
            _same("newborn", "age", "sex", "ethnicity", "insurance", "admission_type"),
        ),
        "diagnoses": Table("diagnoses", _GENERIC_CODED, _same("seq", "title")),
        "medications": Table("medications", _same("visit_id", "subject_id", "drug"), _same("start")),
        "procedures": Table("procedures", _GENERIC_CODED, _same("seq", "title")),
    },
    titles={},
    time_formats=(
        "%Y-%m-%d %H:%M:%S%.f",
        "%Y-%m-%d %H:%M",
        "%Y-%m-%d",
    ),  # after "T" became a blank and a final "Z" went
    license=NOT_STATED,
    parquet=True,
)

LAYOUTS: Mapping[str, Layout] = {"mimic3": MIMIC3, "mimic4": MIMIC4, "tables": TABLES}
KINDS = (*LAYOUTS, "meds")


def missing_column(path: Path, column: str, found: Collection[str], wanted: Collection[str]) -> DataError:
    """The error for a table without a column. Where none of the wanted ones is there, line 1 may be no header but a patient: nothing is quoted."""
    what = (
        f"among {', '.join(found)}"
        if any(name in found for name in wanted)
        else f"in its first line, nor any other of {', '.join(wanted)}"
    )
    return DataError(f"{path}: no column '{column}' {what}; it is needed, under that name")
