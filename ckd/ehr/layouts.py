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

_VISIT = {"visit_id": "visit_occurrence_id", "subject_id": "person_id"}

# omop.py says how. A column that CELLS does not have is looked up or added to one that it has.
OMOP = Layout(
    help="OMOP CDM 5.3 or 5.4 with its concepts, CSV or Parquet",
    tables={
        "visits": Table(
            "visit_occurrence",
            {**_VISIT, "concept": "visit_concept_id", "start": "visit_start_date", "end": "visit_end_date"},
            {"start_time": "visit_start_datetime", "end_time": "visit_end_datetime"},
        ),
        "patients": Table(
            "person",
            {"subject_id": "person_id", "gender": "gender_concept_id", "anchor_year": "year_of_birth"},
            {"month": "month_of_birth", "day": "day_of_birth", "sex": "gender_source_value"}
            | {"race": "race_concept_id", "ethnicity": "race_source_value"},
        ),
        "diagnoses": Table(
            "condition_occurrence",
            {**_VISIT, "concept": "condition_concept_id"},
            {"source": "condition_source_concept_id", "code": "condition_source_value"},
        ),
        "medications": Table(
            "drug_exposure",
            {**_VISIT, "concept": "drug_concept_id", "start": "drug_exposure_start_date"},
            {"start_time": "drug_exposure_start_datetime", "drug": "drug_source_value"},
        ),
        "procedures": Table("procedure_occurrence", {**_VISIT, "source": "procedure_source_concept_id"}),
        "death": Table("death", {"subject_id": "person_id", "death": "death_date"}, {"death_time": "death_datetime"}),
        "concept": Table(
            "concept",
            {"id": "concept_id", "name": "concept_name", "vocabulary": "vocabulary_id", "code": "concept_code"},
            {"domain": "domain_id"},
        ),
    },
    titles={  # optional
        "relationship": Table(
            "concept_relationship",
            {"first": "concept_id_1", "second": "concept_id_2", "relation": "relationship_id"},
            {"invalid": "invalid_reason"},
        )
    },
    license=NOT_STATED,
)

# eicu.py says how.
_UNIT = {"unit": "patientunitstayid"}
EICU = Layout(
    help="eICU-CRD 2.0 (no dates: only stays of which the order is known make pairs)",
    tables={
        "visits": Table(
            "patient",
            {**_UNIT, "visit_id": "patienthealthsystemstayid", "subject_id": "uniquepid"}
            | {"admit": "hospitaladmitoffset", "discharge": "hospitaldischargeoffset", "year": "hospitaldischargeyear"}
            | {"status": "hospitaldischargestatus", "age": "age", "sex": "gender", "ethnicity": "ethnicity"},
            {"number": "unitvisitnumber", "unit_status": "unitdischargestatus"},
        ),
        "diagnoses": Table("diagnosis", {**_UNIT, "code": "icd9code", "priority": "diagnosispriority"}),
        "medications": Table(
            "medication",
            {**_UNIT, "drug": "drugname", "offset": "drugstartoffset", "cancelled": "drugordercancelled"},
        ),
    },
    titles={},
    license=_PHYSIONET,
)

LAYOUTS: Mapping[str, Layout] = {
    "mimic3": MIMIC3,
    "mimic4": MIMIC4,
    "tables": TABLES,
    "omop": OMOP,
    "eicu": EICU,
}


def missing_column(path: Path, column: str, found: Collection[str], wanted: Collection[str]) -> DataError:
    """The error for a table without a column. If it has none of `wanted`, line 1 may be a patient: it is not quoted."""
    what = (
        f"among {', '.join(found)}"
        if any(name in found for name in wanted)
        else f"in its first line, nor any other of {', '.join(wanted)}"
    )
    return DataError(f"{path}: no column '{column}' {what}; it is needed, under that name")
