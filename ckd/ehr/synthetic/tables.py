"""The synthetic cohort as MIMIC-III-shaped tables, of any size, since it is made chunk by chunk.
The background of codes, drugs and procedures is section `tables` of parameters.yaml."""

import gzip
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ckd.ehr.synthetic.patients import Array, Encounters, generate, generator_fields, parameters
from ckd.errors import ConfigError
from ckd.store.artifacts import FolderArtifact
from ckd.store.files import make_folder

CHUNK = 5000  # patients, about 25,000 visits: what is in memory at once
LICENSE_FILE = "LICENSE.txt"
LICENSE = (
    "CC0-1.0: synthetic data made by `ckd synth`; no row describes a real person\n"
    "Only names and shapes of the tables are those of MIMIC-III. https://creativecommons.org/publicdomain/zero/1.0/\n"
)
_FIRST_DAY, _NEVER = np.datetime64("2100-01-01", "ms"), np.datetime64("NaT", "ms")
_DAY, _HOUR, _MINUTE = 86_400, 3600, 60  # seconds
_MANY_YEARS = np.timedelta64(300 * 366 * _DAY, "s")  # MIMIC-III moves the birth of patients over 89 out of reach
_COLUMNS = {
    "ADMISSIONS": "ROW_ID SUBJECT_ID HADM_ID ADMITTIME DISCHTIME DEATHTIME ADMISSION_TYPE ADMISSION_LOCATION "
    "DISCHARGE_LOCATION INSURANCE LANGUAGE RELIGION MARITAL_STATUS ETHNICITY EDREGTIME EDOUTTIME DIAGNOSIS "
    "HOSPITAL_EXPIRE_FLAG HAS_CHARTEVENTS_DATA",
    "PATIENTS": "ROW_ID SUBJECT_ID GENDER DOB DOD DOD_HOSP DOD_SSN EXPIRE_FLAG",
    "DIAGNOSES_ICD": "ROW_ID SUBJECT_ID HADM_ID SEQ_NUM ICD9_CODE",
    "PROCEDURES_ICD": "ROW_ID SUBJECT_ID HADM_ID SEQ_NUM ICD9_CODE",
    "PRESCRIPTIONS": "ROW_ID SUBJECT_ID HADM_ID ICUSTAY_ID STARTDATE ENDDATE DRUG_TYPE DRUG DRUG_NAME_POE "
    "DRUG_NAME_GENERIC FORMULARY_DRUG_CD GSN NDC PROD_STRENGTH DOSE_VAL_RX DOSE_UNIT_RX FORM_VAL_DISP FORM_UNIT_DISP "
    "ROUTE",
}


def write_tables(
    folder: str, patients: int, seed: int, report: Callable[[int], None] = lambda visits: None
) -> dict[str, int]:
    """Write the five tables (.csv.gz) and LICENSE.txt into a local folder, whole or not at all; returns their rows.

    Equal arguments give equal bytes. `report` gets the visits of each chunk. A folder that holds them already is left
    as it is; raises ConfigError when it holds other tables, which are never written over, or `patients` is below 1.
    """
    if patients < 1:
        raise ConfigError(f"--patients {patients}: expected 1 or more")
    fields = generator_fields(patients, seed)
    artifact, target = FolderArtifact(folder, fields), Path(folder)
    found = artifact.load()
    if found is not None and found["fields"] == fields:
        return dict(found["extra"])
    if found is not None or any((target / f"{name}.csv.gz").exists() for name in _COLUMNS):
        raise ConfigError(f"{folder}: holds other tables already; give another --out, or delete it")
    make_folder(target)
    part = target / f".{uuid.uuid4().hex}.tmp"
    try:
        make_folder(part)
        rows = _write(part, patients, seed, report)
        (part / LICENSE_FILE).write_text(LICENSE, encoding="utf-8")
        names = sorted(file.name for file in part.iterdir())
        for name in names:
            (part / name).replace(target / name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    artifact.commit(names, rows)
    return rows


def chunks(patients: int, seed: int) -> Iterator[Encounters]:
    """The encounters in chunks of patients; the first chunk is generate(min(patients, CHUNK), seed)."""
    for index, start in enumerate(range(0, patients, CHUNK)):
        own = seed if index == 0 else int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0])
        yield generate(min(CHUNK, patients - start), own)


def _write(folder: Path, patients: int, seed: int, report: Callable[[int], None]) -> dict[str, int]:
    rows = dict.fromkeys(_COLUMNS, 0)
    with ExitStack() as stack:
        streams: dict[str, Any] = {}
        for name in _COLUMNS:
            raw = stack.enter_context((folder / f"{name}.csv.gz").open("wb"))
            # No name and no time in the header: equal seeds give equal bytes.
            streams[name] = stack.enter_context(gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0))
        for encounters in chunks(patients, seed):
            visits = _Visits.draw(encounters, rows["PATIENTS"] + 1, rows["ADMISSIONS"] + 100_001)
            for name, frame in visits.tables().items():
                streams[name].write(_csv(name, frame, rows[name]).encode())
                rows[name] += frame.height
            report(len(encounters.patient))
    return rows


def _csv(name: str, frame: pl.DataFrame, before: int) -> str:
    """Rows of a table as CSV, with every column and the header where no row came before."""
    columns = _COLUMNS[name].split()
    row_id = pl.int_range(before + 1, before + frame.height + 1, dtype=pl.Int64, eager=True).alias("ROW_ID")
    empty = (pl.lit(None, pl.String).alias(column) for column in columns[1:] if column not in frame.columns)
    whole = frame.with_columns(row_id, *empty).select(columns)
    return whole.write_csv(include_header=before == 0, datetime_format="%Y-%m-%d %H:%M:%S")


@dataclass(frozen=True)
class _Visits:
    """One chunk with its ids and times: arrays of V visits; `rng` draws what the generator leaves open."""

    encounters: Encounters
    rng: np.random.Generator
    subject: Array  # int, unique over all chunks
    visit: Array
    start: Array  # datetime64[ms]
    stay: Array  # seconds
    first: Array  # bool: the subject's first visit

    @classmethod
    def draw(cls, encounters: Encounters, first_subject: int, first_visit: int) -> "_Visits":
        rng = np.random.default_rng([encounters.seed, 2])
        count, shares = len(encounters.patient), parameters().raw["tables"]["stay"]
        start = encounters.day * _DAY + rng.integers(0, 24, count) * _HOUR + rng.integers(0, 60, count) * _MINUTE
        gap = np.where(encounters.has_next, np.append(start[1:], 0) - start, np.inf)
        stay = _HOUR + rng.exponential(shares["days"], count) * _DAY
        cut = (stay >= gap) & (rng.random(count) >= shares["overlapping"])
        stay = np.where(cut, rng.uniform(0.05, 0.95, count) * np.abs(gap, where=cut, out=np.ones(count)), stay)
        return cls(
            encounters=encounters,
            rng=rng,
            subject=first_subject + encounters.patient,
            visit=first_visit + np.arange(count),
            start=_FIRST_DAY + start.astype("timedelta64[s]"),
            stay=np.maximum(stay.astype(np.int64), _MINUTE),
            first=encounters.order == 0,
        )

    def tables(self) -> dict[str, pl.DataFrame]:
        """The five tables without ROW_ID and without the columns that stay empty."""
        tables = parameters().raw["tables"]
        conditions = [c.code for c in parameters().conditions]
        procedures = [p["code"] for p in parameters().raw["procedures"]]
        return {
            "ADMISSIONS": self._admissions(tables),
            "PATIENTS": self._patients(),
            "DIAGNOSES_ICD": self._coded(self.encounters.recorded, conditions, tables["diagnoses"]),
            "PROCEDURES_ICD": self._coded(self.encounters.done, procedures, tables["procedures"]),
            "PRESCRIPTIONS": self._prescriptions(tables),
        }

    def _end(self) -> Array:
        return np.asarray(self.start + self.stay.astype("timedelta64[s]"))

    def _admissions(self, tables: dict[str, Any]) -> pl.DataFrame:
        died, end = self.encounters.died, self._end()
        of_subject = np.cumsum(self.first) - 1
        columns: dict[str, Array] = {
            "ADMITTIME": self.start,
            "DISCHTIME": end,
            "DEATHTIME": np.where(died, end, _NEVER),
        }
        for name in ("admission_type", "admission_location", "discharge_location"):
            columns[name.upper()] = self._drawn(tables[name], len(died))
        for name in ("insurance", "marital_status", "ethnicity"):
            columns[name.upper()] = self._drawn(tables[name], int(self.first.sum()))[of_subject]
        columns["DISCHARGE_LOCATION"] = np.where(died, "DEAD/EXPIRED", columns["DISCHARGE_LOCATION"])
        columns |= {"HOSPITAL_EXPIRE_FLAG": died.astype(int), "HAS_CHARTEVENTS_DATA": np.ones(len(died), int)}
        return self._ids(slice(None)).with_columns(**{name: pl.Series(values) for name, values in columns.items()})

    def _patients(self) -> pl.DataFrame:
        age, start = self.encounters.age[self.first], self.start[self.first]
        birth = np.where(age < 89, _day(start - (age * 365.25).astype("timedelta64[D]")), _day(start) - _MANY_YEARS)
        last = np.append(self.first[1:], True)
        death = np.where(self.encounters.died[last], _day(self._end()[last]), _NEVER)
        columns = {
            "SUBJECT_ID": self.subject[self.first],
            "GENDER": np.where(self.encounters.male[self.first], "M", "F"),
            "DOB": birth,
            "DOD": death,
            "DOD_HOSP": death,
            "EXPIRE_FLAG": self.encounters.died[last].astype(int),
        }
        return pl.DataFrame(columns)

    def _coded(self, flags: Array, codes: list[str], background: dict[str, float]) -> pl.DataFrame:
        """One row per true flag [V, C] and per background code drawn, in random order within a visit."""
        row, column = self._with_background(flags, list(background.values()))
        order = np.lexsort((self.rng.random(len(row)), row))
        row, column = row[order], column[order]
        sequence = np.arange(len(row)) - np.searchsorted(row, row) + 1
        code = pl.Series([*codes, *background]).gather(column)
        return self._ids(row).with_columns(SEQ_NUM=pl.Series(sequence), ICD9_CODE=code)

    def _prescriptions(self, tables: dict[str, Any]) -> pl.DataFrame:
        row, drug = self._with_background(self.encounters.given, list(tables["drugs"].values()))
        name = 2 * drug + self.rng.integers(0, 2, len(row))
        orders = 1 + self.rng.poisson(tables["orders"], len(row))
        row, name = np.repeat(row, orders), np.repeat(name, orders)
        days = self.stay[row] // _DAY
        begin, length = np.floor(self.rng.random(len(row)) * (days + 1)), self.rng.integers(0, 5, len(row))
        order = np.lexsort((self.rng.random(len(row)), begin, row))
        row, name, begin, length = row[order], name[order], begin[order], length[order]
        first = _day(self.start[row]) + begin.astype("timedelta64[D]")
        dates = {"STARTDATE": pl.Series(first), "ENDDATE": pl.Series(first + length.astype("timedelta64[D]"))}
        return self._ids(row).with_columns(**dates).hstack(_formulary()[name])

    def _with_background(self, flags: Array, shares: list[float]) -> tuple[Array, Array]:
        """Visit and column of every true flag and background column drawn; the background's columns come last."""
        drawn = self.rng.random((len(flags), len(shares)), np.float32) < np.array(shares, np.float32)
        row, column = np.nonzero(np.hstack([flags, drawn]))
        return row, column

    def _ids(self, rows: Array | slice) -> pl.DataFrame:
        return pl.DataFrame({"SUBJECT_ID": self.subject[rows], "HADM_ID": self.visit[rows]})

    def _drawn(self, shares: dict[str, float], count: int) -> Array:
        """`count` of the names, each with its share."""
        bounds = np.cumsum(list(shares.values()))
        return np.array(list(shares))[np.searchsorted(bounds / bounds[-1], self.rng.random(count), side="right")]


def _day(times: Array) -> Array:
    """Midnight before each time."""
    return times.astype("datetime64[D]").astype("datetime64[ms]")


@cache
def _formulary() -> pl.DataFrame:
    """What an order of a drug says, two rows per drug: under its first name and under its last."""
    drugs = (*parameters().drugs, *((name,) for name in parameters().raw["tables"]["drugs"]))
    names = [name for drug in drugs for name in (drug[0], drug[-1])]
    number = np.arange(len(names))
    return pl.DataFrame(
        {
            "DRUG_TYPE": ["MAIN"] * len(names),
            "DRUG": names,
            "DRUG_NAME_POE": names,
            "DRUG_NAME_GENERIC": names,
            "FORMULARY_DRUG_CD": [f"SYN{n // 2:03d}" for n in number],
            "NDC": [f"{n:011d}" for n in number],
            "DOSE_VAL_RX": [str(1 + n % 5) for n in number],
            "DOSE_UNIT_RX": [("TAB", "mg", "mL")[n % 3] for n in number],
            "ROUTE": [("PO", "IV")[n % 2] for n in number],
        }
    )
