"""What each tabular source calls its files and columns. A new source is one more Layout in LAYOUTS."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ckd.errors import DataError

NOT_STATED = "not stated"  # a license


@dataclass(frozen=True)
class Table:
    """One source table: the file's name without ending, and canonical column -> source column, both lower case."""

    file: str
    required: Mapping[str, str]
    optional: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)  # canonical column -> value in every row
    formerly: Mapping[str, str] = field(default_factory=dict)  # canonical column -> name in an older release

    @property
    def columns(self) -> dict[str, str]:
        """Canonical column -> source column, whether required or not."""
        return {**self.required, **self.optional}

    def found(self, columns: Collection[str]) -> dict[str, str]:
        """Canonical column -> the source column that a file with these `columns` has for it."""
        wanted = {name: (column, self.formerly.get(name, column)) for name, column in self.columns.items()}
        there = {name: [column for column in names if column in columns] for name, names in wanted.items()}
        return {name: names[0] for name, names in there.items() if names}


@dataclass(frozen=True)
class Layout:
    """A tabular source. `visits` may also map `expired` and `death`, from which `died` is made."""

    help: str  # what `ckd ingest` says of it
    tables: Mapping[str, Table]
    titles: Mapping[str, Table]  # "diagnosis", "procedure" -> optional table of code, version, title
    license: str  # what holds where the folder has no LICENSE file
    subfolders: tuple[str, ...] = ()  # where the tables may be beside the folder itself
    death_days: float = math.inf  # for so many days after discharge its dates of death are complete

    @property
    def all_tables(self) -> dict[str, Table]:
        """Tables and tables of titles."""
        return {**self.tables, **self.titles}


_PHYSIONET = "PhysioNet Credentialed Health Data License 1.5.0 (the open demo: ODbL 1.0)"
_KEYS = {"visit_id": "hadm_id", "subject_id": "subject_id"}
_TIMES = {"start": "admittime", "end": "dischtime"}
_STAY = {**_KEYS, **_TIMES, "expired": "hospital_expire_flag", "admission_type": "admission_type"}
_PATIENT = {"subject_id": "subject_id", "sex": "gender"}
_ANCHOR = {"anchor_age": "anchor_age", "anchor_year": "anchor_year"}
_DEATH = {"dod": "dod"}  # the date of death, wherever it was
_ICD9 = {"version": "9"}
_CODED3 = {**_KEYS, "seq": "seq_num", "code": "icd9_code"}
_CODED4 = {**_KEYS, "seq": "seq_num", "code": "icd_code", "version": "icd_version"}
_TITLES3 = {"code": "icd9_code", "title": "long_title"}
_TITLES4 = {"code": "icd_code", "version": "icd_version", "title": "long_title"}

MIMIC3 = Layout(
    help="MIMIC-III tables, CSV (gz, zst) or Parquet",
    tables={
        "visits": Table(
            "admissions", _STAY, {"death": "deathtime", "insurance": "insurance", "ethnicity": "ethnicity"}
        ),
        "patients": Table("patients", {**_PATIENT, "birth": "dob"}, _DEATH),
        "diagnoses": Table("diagnoses_icd", _CODED3, constants=_ICD9),
        "medications": Table("prescriptions", {**_KEYS, "start": "startdate", "drug": "drug"}),
        "procedures": Table("procedures_icd", _CODED3, constants=_ICD9),
    },
    titles={
        "diagnosis": Table("d_icd_diagnoses", _TITLES3, constants=_ICD9),
        "procedure": Table("d_icd_procedures", _TITLES3, constants=_ICD9),
    },
    license=_PHYSIONET,
)

MIMIC4 = Layout(
    help="MIMIC-IV tables (DIR/hosp, DIR/core), ICD-9 and ICD-10",
    tables={
        "visits": Table(
            "admissions",
            _STAY,
            {"death": "deathtime", "insurance": "insurance", "ethnicity": "race"},
            formerly={"ethnicity": "ethnicity"},
        ),
        "patients": Table("patients", {**_PATIENT, **_ANCHOR}, _DEATH),
        "diagnoses": Table("diagnoses_icd", _CODED4),
        "medications": Table("prescriptions", {**_KEYS, "start": "starttime", "drug": "drug"}),
        "procedures": Table("procedures_icd", _CODED4),
    },
    titles={"diagnosis": Table("d_icd_diagnoses", _TITLES4), "procedure": Table("d_icd_procedures", _TITLES4)},
    license=_PHYSIONET,
    subfolders=("hosp", "core"),  # MIMIC-IV 1.0 kept admissions and patients in core
    death_days=365,
)


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_GENERIC_CODED = _same("visit_id", "subject_id", "code", "version")

# docs/tables.md documents these for users.
TABLES = Layout(
    help="the generic tables of docs/tables.md, Parquet or CSV",
    tables={
        "visits": Table(
            "visits",
            {**_same("visit_id", "subject_id", "start", "end"), "expired": "died"},
            {**_same("newborn", "age", "sex", "ethnicity", "insurance", "admission_type"), "dod": "death"},
        ),
        "diagnoses": Table("diagnoses", _GENERIC_CODED, _same("seq", "title")),
        "medications": Table("medications", _same("visit_id", "subject_id", "drug"), _same("start")),
        "procedures": Table("procedures", _GENERIC_CODED, _same("seq", "title")),
    },
    titles={},
    license=NOT_STATED,
)

LAYOUTS: Mapping[str, Layout] = {"mimic3": MIMIC3, "mimic4": MIMIC4, "tables": TABLES}


def missing_column(path: Path, column: str, found: Collection[str], wanted: Collection[str]) -> DataError:
    """The error for a table without a column. If it has none of `wanted`, line 1 may be a patient: it is not quoted."""
    what = (
        f"among {', '.join(found)}"
        if any(name in found for name in wanted)
        else f"in its first line, nor any other of {', '.join(wanted)}"
    )
    return DataError(f"{path}: no column '{column}' {what}; it is needed, under that name")
