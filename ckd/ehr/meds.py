"""The kind of source that has events: MEDS shards as the canonical tables, by the codes of the public MIMIC-IV ETL.
A stay is made of its admission, discharge and death events."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ckd.ehr.canonical import SCHEMAS, SUSPECT, TITLES, UNREADABLE, with_missing
from ckd.ehr.layouts import NOT_STATED, missing_column
from ckd.ehr.parquetfile import ParquetFile
from ckd.ehr.source import Source
from ckd.errors import DataError
from ckd.visits.datafolder import entries, is_part, reason_to_refuse, table_mark

ADMISSION, DISCHARGE, BIRTH, DEATH = "HOSPITAL_ADMISSION", "HOSPITAL_DISCHARGE", "MEDS_BIRTH", "MEDS_DEATH"
SEX, RACES, MEDICATION, STOPPED = "GENDER//", ("RACE//", "ETHNICITY//"), "MEDICATION//", "MEDICATION//STOP//"
CODED = {"diagnoses": "DIAGNOSIS//ICD//", "procedures": "PROCEDURE//ICD//"}  # then version//code
_NEEDED, _VISIT_IDS = ("subject_id", "time", "code"), ("hadm_id", "visit_id")
# Canonical column -> column of the events; the visit id and the split column have names of their own in each source.
_COLUMNS = {"subject_id": "subject_id", "start": "time", "code": "code", "insurance": "insurance", "ethnicity": "race"}
_DIED = ("DIED", "EXPIRED")
_UNKNOWN = "UNK"  # what the ETL writes for an empty part of a code
_NOT_GIVEN = r"(?i)\bnot\b|\bhold dose\b"  # "Not Given", "Delayed Not Confirmed", …: the patient did not get the drug


@dataclass(frozen=True)
class Meds(Source):
    """A MEDS data set. `split_column` is a column of the admission events."""

    @classmethod
    def open(cls, kind: str, folder: str, split_column: str) -> "Meds":
        """Find data/**/*.parquet, or all below `folder` if it has no folder data, and read the schemas.
        Raises DataError when there is no shard, one lacks a column, above all a visit id, or more may hold events."""
        base = Path(folder, "data") if Path(folder, "data").is_dir() else Path(folder)
        found = dict(_below(base, frozenset()))
        shards = sorted(path for path, why in found.items() if not why)
        if not shards:
            raise DataError(f"{base}: no *.parquet file; expected the event shards of a MEDS data set below data/")
        for path, why in sorted(found.items()):
            if why:
                raise DataError(f"{path}: {why}")
        source = cls(kind, folder, split_column, tuple(map(ParquetFile.open, shards)))
        for index in source.indices("visits"):
            source._require_columns(index)
        return source

    def indices(self, table: str) -> Sequence[int]:
        """All shards: any of them may have events of a table."""
        return range(len(self.opened))

    def usual_license(self) -> str:
        """What metadata/dataset.json states."""
        try:
            content = json.loads(Path(self.folder, "metadata", "dataset.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return NOT_STATED
        stated = content.get("license") if isinstance(content, dict) else None
        return stated if isinstance(stated, str) and stated else NOT_STATED

    def rows(self, table: str) -> pl.LazyFrame:
        """The events that make rows of `table`."""
        events = pl.concat([self._events(index) for index in self.indices(table)])
        if table in CODED:
            version, code = _coded(CODED[table])
            rows = _of(events, CODED[table]).with_columns(version=_known(version), code=_known(code))
        else:
            rows = {"medications": _medications, "patients": _patients, "visits": _visits}[table](events)
        schema = {**SCHEMAS[table], "subject_id": pl.String()}
        return with_missing(rows, schema).select(*schema, pl.lit(False).alias(SUSPECT))

    def titles(self) -> pl.DataFrame:
        """The descriptions in metadata/codes.parquet."""
        path = Path(self.folder, "metadata", "codes.parquet")
        if not path.exists() and not path.is_symlink():
            return pl.DataFrame(schema=TITLES)
        try:
            return _described(path)
        except UNREADABLE as error:
            what = f"cannot be read ({type(error).__name__})"
            raise DataError(f"{path}: {what}; get the file again, or remove it: it only gives codes titles") from None

    def _events(self, index: int) -> pl.LazyFrame:
        return self.opened[index].scan().select(**self._cells(index), place=self.place(index))

    def _cells(self, index: int) -> dict[str, pl.Expr]:
        columns = self.opened[index].columns
        visit = next(name for name in _VISIT_IDS if name in columns)
        wanted = {**_COLUMNS, "visit_id": visit, "cut": self.split_column}
        return {
            name: self.cell(name, column, index) if column in columns else pl.lit(None, pl.String)
            for name, column in wanted.items()
        }

    def _require_columns(self, index: int) -> None:
        path, columns = self.opened[index].path, self.opened[index].columns
        for name in _NEEDED:
            if name not in columns:
                raise missing_column(path, name, columns, _NEEDED)
        if not any(name in columns for name in _VISIT_IDS):
            raise DataError(
                f"{path}: no column 'hadm_id' or 'visit_id' among {', '.join(columns)}; without a visit id nobody can "
                "tell which codes belong to which visit, nor the next visit: make the shards with an ETL that keeps it"
            )
        self._cells(index)  # raises DataError for a type that will not do


def _below(folder: Path, above: frozenset[Path]) -> Iterator[tuple[Path, str]]:
    """Every shard below a folder, and what may be one, with the reason why it is not read. Links are followed."""
    found = entries(str(folder))
    for name, size in found.items():
        path = folder / name
        if mark := table_mark(str(folder), name, found):
            yield path, mark
        elif is_part(name, size):
            yield path, ""
        elif size is not None or name[0] in "._":
            if why := reason_to_refuse(name, size):
                yield path, why
        elif name != "metadata" and (there := path.resolve()) not in above:
            yield from _below(path, above | {there})


def _described(path: Path) -> pl.DataFrame:
    frames, rows = [pl.DataFrame(schema=TITLES)], pl.scan_parquet(path, glob=False)
    if rows.collect_schema().get("description") == pl.String:
        rows = rows.filter(pl.col("description").str.len_bytes() > 0).with_columns(pl.col("code").cast(pl.String))
        for table, kind in (("diagnoses", "diagnosis"), ("procedures", "procedure")):
            version, code = _coded(CODED[table])
            columns = {"kind": pl.lit(kind), "version": version, "code": code, "title": pl.col("description")}
            frames.append(_of(rows, CODED[table]).select(**columns).collect())
    return pl.concat(frames)


def _of(events: pl.LazyFrame, *prefixes: str) -> pl.LazyFrame:
    return events.filter(pl.any_horizontal(pl.col("code").str.starts_with(prefix) for prefix in prefixes))


def _coded(prefix: str) -> tuple[pl.Expr, pl.Expr]:
    """Version and code after the prefix of a coded event."""
    parts = pl.col("code").str.strip_prefix(prefix).str.splitn("//", 2).struct
    return parts.field("field_0"), parts.field("field_1")


def _known(part: pl.Expr) -> pl.Expr:
    """A part of a code; null for what the ETL writes where the source had nothing."""
    return pl.when((part != _UNKNOWN) & (part != "")).then(part)


def _part(number: int) -> pl.Expr:
    return _known(pl.col("code").str.split("//").list.get(number, null_on_oob=True))


def _medications(events: pl.LazyFrame) -> pl.LazyFrame:
    """Orders (MEDICATION//START//drug) and administrations (MEDICATION//drug//event), unless nothing was given."""
    rows = _of(events, MEDICATION).filter(~pl.col("code").str.starts_with(STOPPED))
    parts = pl.col("code").str.strip_prefix(MEDICATION).str.strip_prefix("START//").str.splitn("//", 2).struct
    rows = rows.with_columns(drug=_known(parts.field("field_0")), event=parts.field("field_1"))
    return rows.filter(~pl.col("event").fill_null("").str.contains(_NOT_GIVEN))


def _patients(events: pl.LazyFrame) -> pl.LazyFrame:
    born = pl.col("code") == BIRTH
    sex = pl.when(pl.col("code").str.starts_with(SEX)).then(_part(1))
    rows = _of(events, SEX, BIRTH).select("subject_id", "place", sex=sex, birth=pl.when(born).then("start"))
    return rows.group_by("subject_id").agg(pl.col("sex").min(), pl.col("birth").min(), pl.col("place").min())


def _visits(events: pl.LazyFrame) -> pl.LazyFrame:
    """One row per admission event, with the latest discharge of its visit and the subject's death."""
    admissions = _of(events, ADMISSION).with_columns(admission_type=_part(1))
    died = _part(1).str.to_uppercase().is_in(_DIED).fill_null(False).any()
    ends = {"end": pl.col("start").max(), "discharged_dead": died}
    discharges = _of(events, DISCHARGE).group_by("subject_id", "visit_id").agg(**ends)
    deaths = _of(events, DEATH).group_by("subject_id").agg(death=pl.col("start").min())
    races = _of(events, *RACES).group_by("subject_id").agg(race=_part(1).min())
    stays = admissions.join(discharges, on=["subject_id", "visit_id"], how="left")
    stays = stays.join(deaths, on="subject_id", how="left").join(races, on="subject_id", how="left")
    return stays.with_columns(
        ethnicity=pl.coalesce("ethnicity", "race"),
        # A death with a date only is at midnight of its day.
        died=(pl.col("discharged_dead") | (pl.col("death") <= pl.col("end"))).fill_null(False),
        newborn=(pl.col("admission_type").str.to_uppercase() == "NEWBORN").fill_null(False),
        start_bad=pl.lit(False),
        end_bad=pl.lit(False),
    )
