"""Labels that the input itself holds: columns of the visits, or MEDS label tables, each row matched to one visit."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from ckd.ehr import usable
from ckd.ehr.frames import left_join
from ckd.ehr.parquetfile import ParquetFile
from ckd.errors import ConfigError, DataError
from ckd.visits.subgroups import NOTHING
from ckd.visits.task import Label, Task

TASK_FILE = "labels.yaml"  # beside the parts, where label tables alone say what the task is
UNREADABLE = -1  # a value that is neither true, false nor empty
NOT_KEPT, NO_TIME = "an admission that is left out", "no prediction time"
NOT_THEN, TWO_VALUES = "no visit between discharge and prediction then", "two values for one visit"
_COLUMNS = ("subject_id", "prediction_time", "boolean_value")
_OTHERS = ("float_value", "integer_value", "categorical_value")
_YES, _NO = ("1", "1.0", "true", "t", "yes", "y"), ("0", "0.0", "false", "f", "no", "n")


def task_of_tables(paths: Sequence[str]) -> Task:
    """The task of MEDS label tables: a label per file, named as the file. Raises ConfigError for two of one name."""
    stems = [Path(path).name.partition(".")[0] for path in paths]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None:
        raise ConfigError(f"--labels: two files are named '{twice}', after which a label is named; rename one")
    name = re.sub(r"[^A-Za-z0-9._-]", "-", stems[0]) if len(stems) == 1 else "meds-labels"
    try:
        return Task(name=name, labels=tuple(Label(name=stem.replace(",", ";"), given=stem) for stem in stems))
    except ValueError:
        raise ConfigError(f"--labels: '{stems[0]}' cannot name a task; begin the file's name with a letter") from None


def task_text(task: Task) -> str:
    """The task as a labels.yaml."""
    return yaml.safe_dump(task.stored, sort_keys=False, allow_unicode=True)


def label_tables(task: Task, paths: Sequence[str]) -> dict[int, ParquetFile]:
    """Number of each given label of `task` -> its table, which has the name that it is given by.
    Raises ConfigError for a label without a table and a table without a label, DataError for a file that is none."""
    tables = {Path(path).name.partition(".")[0]: path for path in paths}
    wanted = {number: label.given for number, label in enumerate(task.labels) if label.given}
    for number, stem in wanted.items():
        if stem not in tables:
            what = f"task.labels: label '{task.names[number]}' is given by '{stem}'"
            raise ConfigError(f"{what}, of which there is no table; give --labels {stem}.parquet")
    if unused := sorted(tables.keys() - set(wanted.values())):
        what = f"--labels: no label of task '{task.name}' is given by '{unused[0]}'"
        raise ConfigError(f"{what}; add one with given: {unused[0]}, or leave task.labels out")
    return {number: label_table(tables[stem]) for number, stem in wanted.items()}


def label_table(path: str) -> ParquetFile:
    """A MEDS label table: subject_id, prediction_time, boolean_value. Raises DataError for any other file."""
    if not Path(path).is_file():
        raise DataError(f"--labels {path}: no such file; expected one Parquet file of MEDS labels per task")
    file = ParquetFile.open(Path(path))
    missing = [name for name in _COLUMNS if name not in file.columns]
    if missing:
        raise DataError(f"{path}: no column '{missing[0]}'; expected {', '.join(_COLUMNS)}, as MEDS labels have them")
    if file.columns["boolean_value"] not in (pl.Boolean(), pl.Null()):
        found = file.columns["boolean_value"]
        raise DataError(f"{path}: boolean_value is {found}, expected true and false; write that column anew")
    others = [name for name in _OTHERS if name in file.columns]
    odd = pl.col("boolean_value").is_null() & pl.any_horizontal(pl.lit(False), pl.col(others).is_not_null())
    if others and file.scan().filter(odd).select(pl.len()).collect().item():
        raise DataError(
            f"{path}: a label of numbers or categories, which nothing here predicts; expected boolean_value, true or "
            "false"
        )
    return file


def value(column: str, dtype: pl.DataType) -> pl.Expr:
    """A column as labels: 1, 0, null for an empty cell, UNREADABLE."""
    if dtype == pl.Boolean:
        return pl.col(column).cast(pl.Int8)
    text = pl.col(column).cast(pl.String).str.strip_chars()
    plain = text.str.to_lowercase()
    known = pl.when(plain.is_in(_YES)).then(1).when(plain.is_in(_NO)).then(0)
    return known.when(text.is_not_null() & ~text.is_in(["", *NOTHING])).then(UNREADABLE).cast(pl.Int8)


def matched(rows: pl.DataFrame, chained: pl.DataFrame, numbers: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, Any]]:
    """stay_id, label, value of the rows that belong to a visit; and how many were read, used, rejected.

    A row with a visit id belongs to that visit. One with a time belongs to the visit of its subject that has ended by
    then, and whose prediction time is not over, to the second. `chained` with `admission`; `numbers`: visit, admission.
    """
    rows = rows.with_row_index("row").with_columns(pl.col("start").dt.truncate("1s"))
    kept = chained.filter(pl.col("role") != "excluded")
    by_id = rows.filter(pl.col("visit").is_not_null()).select("row", "visit")
    by_id = left_join(left_join(by_id, numbers, "visit"), kept.select("admission", "stay_id"), "admission")
    ends = kept.select("subject_id", "stay_id", ended=pl.col("end").dt.truncate("1s"), until="prediction_time")
    by_time = rows.filter(pl.col("visit").is_null()).select("row", "subject_id", "start").join(ends, on="subject_id")
    by_time = by_time.filter(pl.col("start").is_between("ended", "until"))
    found = pl.concat([by_id.select("row", "stay_id"), by_time.select("row", "stay_id")])
    rows = left_join(rows, found, "row")
    several = pl.struct("stay_id", "label").is_duplicated() & pl.col("stay_id").is_not_null()
    values = rows.group_by("stay_id", "label").agg(values=pl.col("value").n_unique())
    rows = rows.with_columns(several=several).join(values, on=["stay_id", "label"], how="left", maintain_order="left")
    nowhere = pl.col("stay_id").is_null()
    reason = (
        pl.when(nowhere & pl.col("visit").is_not_null()).then(pl.lit(NOT_KEPT))
        .when(nowhere & pl.col("start").is_null()).then(pl.lit(NO_TIME))
        .when(nowhere).then(pl.lit(NOT_THEN))
        .when(pl.col("several") & (pl.col("values") > 1)).then(pl.lit(TWO_VALUES))
    )  # fmt: skip
    rows = rows.with_columns(reason=reason)
    used = usable.used(rows).unique(["stay_id", "label"], keep="first", maintain_order=True)
    return used.select("stay_id", "label", "value"), usable.rejected(rows.with_columns(name=pl.lit("")))
