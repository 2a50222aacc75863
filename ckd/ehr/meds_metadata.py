"""The files beside the shards of a MEDS data set: its splits, the descriptions of its codes, its license."""

import json
from pathlib import Path

import polars as pl

from ckd.ehr.canonical import TITLES, UNREADABLE
from ckd.ehr.cells import Cells
from ckd.ehr.layouts import NOT_STATED
from ckd.ehr.vocabulary import Vocabulary
from ckd.errors import DataError
from ckd.visits.visit import SPLITS

SPLITS_FILE, CODES_FILE = "metadata/subject_splits.parquet", "metadata/codes.parquet"
CODED = {"diagnoses": "diagnosis", "procedures": "procedure"}  # table -> what its events are read as


def splits(folder: str) -> pl.DataFrame | None:
    """subject_id and split of every subject as the data set has them; None where it has none.
    Raises DataError for a file that is no such table, or a subject that is in it twice."""
    path = Path(folder, SPLITS_FILE)
    if not path.exists() and not path.is_symlink():
        return None
    remedy = f"expected the columns subject_id and split, one row for each subject: {', '.join(SPLITS)}; mend it"
    remedy += ", or move it away to split by hash"
    try:
        found = pl.read_parquet(path, glob=False)
    except UNREADABLE as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__}); {remedy}") from None
    if not {"subject_id", "split"} <= set(found.columns):
        raise DataError(f"{path}: columns {', '.join(found.columns)}; {remedy}")
    columns = {name: (name, found.schema[name]) for name in ("subject_id",)}
    subjects = Cells("patients", columns, str(path)).read(found.select("subject_id"))["subject_id"]
    table = pl.DataFrame({"subject_id": subjects, "split": found["split"].cast(pl.String, strict=False)})
    if not table["split"].is_in(SPLITS).all() or table["split"].null_count():
        raise DataError(f"{path}: a split that is none; {remedy}")
    if table["subject_id"].null_count() or not table["subject_id"].is_unique().all():
        raise DataError(f"{path}: a subject that is there twice, or is none; {remedy}")
    return table


def titles(folder: str, vocabulary: Vocabulary) -> pl.DataFrame:
    """The descriptions of ICD codes, as Source.titles gives them. Raises DataError for a damaged file."""
    path = Path(folder, CODES_FILE)
    if not path.exists() and not path.is_symlink():
        return pl.DataFrame(schema=TITLES)
    try:
        return _described(path, vocabulary)
    except UNREADABLE as error:
        what = f"cannot be read ({type(error).__name__})"
        raise DataError(f"{path}: {what}; get the file again, or remove it: it only gives codes titles") from None


def license_of(folder: str) -> str:
    """What metadata/dataset.json states."""
    try:
        content = json.loads(Path(folder, "metadata", "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return NOT_STATED
    stated = content.get("license") if isinstance(content, dict) else None
    return stated if isinstance(stated, str) and stated else NOT_STATED


def _described(path: Path, vocabulary: Vocabulary) -> pl.DataFrame:
    frames, rows = [pl.DataFrame(schema=TITLES)], pl.scan_parquet(path, glob=False)
    if rows.collect_schema().get("description") == pl.String:
        rows = rows.filter(pl.col("description").str.len_bytes() > 0)
        rows = rows.with_columns(event=pl.col("code").cast(pl.String))
        for kind in CODED.values():
            version, code = vocabulary.coded(kind)
            columns = {"kind": pl.lit(kind), "version": version, "code": code, "title": pl.col("description")}
            frames.append(rows.filter(vocabulary.of_kind(kind)).select(**columns).collect())
    return pl.concat(frames)
