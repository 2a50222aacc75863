"""MEDS events as the canonical tables, by the code vocabulary of the public MIMIC-IV ETL: which code prefix means what, and what a stay is made
of. Finding columns' types belongs to cells, the files to parquetfile; scan gives all of it to the later steps."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from ckd.ehr import cells
from ckd.ehr.layouts import NOT_STATED, PLACE_BITS, SCHEMAS, missing_column
from ckd.ehr.parquetfile import ROW, scan_rows
from ckd.errors import DataError

ADMISSION, DISCHARGE, BIRTH, DEATH = "HOSPITAL_ADMISSION", "HOSPITAL_DISCHARGE", "MEDS_BIRTH", "MEDS_DEATH"
SEX, RACES, MEDICATION, STOPPED = "GENDER//", ("RACE//", "ETHNICITY//"), "MEDICATION//", "MEDICATION//STOP//"
CODED = {"diagnoses": "DIAGNOSIS//ICD//", "procedures": "PROCEDURE//ICD//"}  # then version//code
_VISIT_IDS = ("hadm_id", "visit_id")
_DIED = ("DIED", "EXPIRED")
_UNKNOWN = "UNK"  # what the ETL writes for an empty part of a code
_NOT_GIVEN = r"(?i)\bnot\b|\bhold dose\b"  # "Not Given", "Delayed Not Confirmed", …: the patient did not get the drug
Columns = Sequence[Mapping[str, pl.DataType]]


def shards(root: Path) -> tuple[Path, ...]:
    """The event files: data/**/*.parquet, or all below `root` if it has no folder data. Raises DataError when there is none."""
    base = root / "data" if (root / "data").is_dir() else root
    found = sorted(
        p for p in base.rglob("*.parquet") if p.is_file() and not p.name.startswith(".") and p.parent.name != "metadata"
    )
    if not found:
        raise DataError(f"{base}: no *.parquet file; expected the event shards of a MEDS data set below data/")
    return tuple(found)


def require_columns(path: Path, columns: Mapping[str, pl.DataType]) -> None:
    """Raise DataError when a shard lacks a column, above all a visit id."""
    for name in ("subject_id", "time", "code"):
        if name not in columns:
            raise missing_column(path, name, columns, ("subject_id", "time", "code"))
    if not any(name in columns for name in _VISIT_IDS):
        raise DataError(
            f"{path}: no column 'hadm_id' or 'visit_id' among {', '.join(columns)}; without a visit id nobody can tell which codes belong to which "
            "visit, nor the next visit: make the shards with an ETL that keeps it"
        )
    _cells(path, columns, "")


def scan(table: str, paths: Sequence[Path], columns: Columns, split_column: str) -> pl.LazyFrame:
    """Canonical table `table`; medications, diagnoses and procedures with subject_id. `split_column` is a column of the admission events."""
    events = pl.concat([_events(index, path, columns[index], split_column) for index, path in enumerate(paths)])
    if table in CODED:
        parts = pl.col("code").str.strip_prefix(CODED[table]).str.splitn("//", 2).struct
        rows = _of(events, CODED[table]).with_columns(
            version=_known(parts.field("field_0")), code=_known(parts.field("field_1"))
        )
    elif table == "medications":
        rows = _medications(events)
    else:
        rows = _patients(events) if table == "patients" else _visits(events)
    schema = {**SCHEMAS[table], "subject_id": pl.String()}
    there = rows.collect_schema().names()
    missing = [pl.lit(None, dtype).alias(name) for name, dtype in schema.items() if name not in there]
    return rows.with_columns(missing).select(*schema)


def titles(root: Path) -> pl.DataFrame:
    """kind, version, code, title of metadata/codes.parquet; empty where there is none, or no descriptions in it."""
    empty = pl.DataFrame(schema=dict.fromkeys(("kind", "version", "code", "title"), pl.String))
    path = root / "metadata" / "codes.parquet"
    if not path.is_file():
        return empty
    rows = pl.scan_parquet(path, glob=False)
    if rows.collect_schema().get("description") != pl.String:
        return empty
    frames = [empty]
    for table, kind in (("diagnoses", "diagnosis"), ("procedures", "procedure")):
        parts = pl.col("code").cast(pl.String).str.strip_prefix(CODED[table]).str.splitn("//", 2).struct
        named = rows.filter(
            pl.col("code").cast(pl.String).str.starts_with(CODED[table]) & (pl.col("description").str.len_bytes() > 0)
        )
        columns = {
            "kind": pl.lit(kind),
            "version": parts.field("field_0"),
            "code": parts.field("field_1"),
            "title": pl.col("description"),
        }
        frames.append(named.select(**columns).collect())
    return pl.concat(frames)


def stated_license(root: Path) -> str:
    """The license in metadata/dataset.json."""
    try:
        content = json.loads((root / "metadata" / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return NOT_STATED
    stated = content.get("license") if isinstance(content, dict) else None
    return stated if isinstance(stated, str) and stated else NOT_STATED


def _events(index: int, path: Path, columns: Mapping[str, pl.DataType], split_column: str) -> pl.LazyFrame:
    place = pl.col(ROW).cast(pl.UInt64) + (index << PLACE_BITS) + 1
    return scan_rows(path, columns).select(**_cells(path, columns, split_column), place=place)


def _cells(path: Path, columns: Mapping[str, pl.DataType], split_column: str) -> dict[str, pl.Expr]:
    visit = next(name for name in _VISIT_IDS if name in columns)
    wanted = {
        "subject_id": "subject_id",
        "visit_id": visit,
        "start": "time",
        "code": "code",
        "insurance": "insurance",
        "ethnicity": "race",
    }
    wanted["cut"] = split_column
    found = {name: source for name, source in wanted.items() if source in columns}
    cell = {
        name: cells.column(name, source, columns[source], ("%Y-%m-%d %H:%M:%S",), str(path))
        for name, source in found.items()
    }
    return cell | {name: pl.lit(None, pl.String) for name in wanted if name not in found}


def _of(events: pl.LazyFrame, *prefixes: str) -> pl.LazyFrame:
    return events.filter(pl.any_horizontal(pl.col("code").str.starts_with(prefix) for prefix in prefixes))


def _known(part: pl.Expr) -> pl.Expr:
    """A part of a code; null for what the ETL writes where the source had nothing."""
    return pl.when((part != _UNKNOWN) & (part != "")).then(part)


def _part(number: int) -> pl.Expr:
    return _known(pl.col("code").str.split("//").list.get(number, null_on_oob=True))


def _medications(events: pl.LazyFrame) -> pl.LazyFrame:
    """Orders (MEDICATION//START//drug) and administrations (MEDICATION//drug//event) but those that say that nothing was given."""
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
    discharges = (
        _of(events, DISCHARGE).group_by("subject_id", "visit_id").agg(end=pl.col("start").max(), discharged_dead=died)
    )
    deaths = _of(events, DEATH).group_by("subject_id").agg(death=pl.col("start").min())
    races = _of(events, *RACES).group_by("subject_id").agg(race=_part(1).min())
    stays = admissions.join(discharges, on=["subject_id", "visit_id"], how="left").join(
        deaths, on="subject_id", how="left"
    )
    return stays.join(races, on="subject_id", how="left").with_columns(
        ethnicity=pl.coalesce("ethnicity", "race"),
        # A death that is only dated lies at midnight of its day.
        died=(pl.col("discharged_dead") | (pl.col("death") <= pl.col("end"))).fill_null(False),
        newborn=(pl.col("admission_type").str.to_uppercase() == "NEWBORN").fill_null(False),
        start_bad=pl.lit(False),
        end_bad=pl.lit(False),
    )
