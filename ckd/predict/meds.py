"""Predictions as tables for meds-evaluation: one Parquet file per label, whose columns are SCHEMA's."""

import re
import tempfile
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ckd.errors import DataError
from ckd.store.artifacts import Fields, Stage
from ckd.store.files import digest
from ckd.store.handover import FORMAT, publish, standing
from ckd.visits.cohort import Cohort
from ckd.visits.task import Task

KIND = "folder of MEDS tables"
SCHEMA = pa.schema(
    {  # the prediction schema of meds-evaluation (pypi.org/project/meds-evaluation)
        "subject_id": pa.int64(),
        "prediction_time": pa.timestamp("us"),
        "boolean_value": pa.bool_(),
        "predicted_boolean_value": pa.bool_(),
        "predicted_boolean_probability": pa.float64(),
    }
)
_INT64 = range(-(2**63), 2**63)


def table_names(task: Task) -> dict[str, str]:
    """Label -> its file: `Shock` -> `shock.parquet`; other characters than letters and digits become underscores.

    Labels that would share a file have their place at its end: `a_b.parquet`, `a_b_2.parquet`.
    """
    found: dict[str, str] = {}
    for place, name in enumerate(task.names, start=1):
        plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        taken = not plain or f"{plain}.parquet" in found.values()
        found[name] = f"{plain}_{place}.parquet".lstrip("_") if taken else f"{plain}.parquet"
    return found


def write_tables(folder: str, stage: Stage, cohort: Cohort) -> dict[str, Any] | None:
    """Write one table per label from the parts of a cohort, a part at a time; None when they are there already.

    Returns `visits` (rows of each table) and `left_out` (reason -> visits): MEDS wants an integer subject and a time.
    The probability is the calibrated one where there is one. Raises DataError when no visit is left, ConfigError when
    the folder holds something else.
    """
    task, tables, shards = cohort.task, table_names(cohort.task), cohort.shards
    fields: Fields = {FORMAT: KIND, "predictions": digest([dict(stage.fields), [s.content_hash for s in shards]])}
    there = standing(folder, KIND)
    if there is not None and there["fields"] == fields:
        return None
    left_out: Counter[str] = Counter()
    visits = 0
    with tempfile.TemporaryDirectory() as local:
        with ExitStack() as open_files:
            writers = [
                open_files.enter_context(pq.ParquetWriter(Path(local) / table, SCHEMA, compression="zstd"))
                for table in tables.values()
            ]
            for shard in shards:
                part = stage.read(shard.index, input_hash=shard.content_hash)
                subjects, times, usable = _who_and_when(part, left_out)
                visits += len(usable)
                if usable:
                    rows = _Rows(part.take(usable), subjects, times)
                    for j, writer in enumerate(writers):
                        writer.write_table(rows.of(j, task.names[j]))
        if not visits:
            raise DataError(
                f"{folder}: nothing to write: {'; '.join(_listed(left_out))}. "
                "MEDS tables need an integer subject_id and a prediction_time"
            )
        facts = {"visits": visits, "left_out": dict(left_out)}
        publish(local, folder, fields, {"tables": tables, **facts})
    return facts


def _who_and_when(part: pa.Table, left_out: Counter[str]) -> tuple[list[int], list[datetime], list[int]]:
    """Subjects and times of the rows that have both, and the positions of these rows; counts the others."""
    subjects, times, usable = [], [], []
    given = (part[name].to_pylist() for name in ("subject_id", "prediction_time"))
    for row, (subject, time) in enumerate(zip(*given, strict=True)):
        found_subject, found_time = _integer(subject), _time(time)
        if found_subject is None:
            left_out["without subject_id" if subject is None else "subject_id is no 64-bit integer"] += 1
        elif found_time is None:
            left_out["without prediction_time" if time is None else "prediction_time is no ISO 8601 time"] += 1
        else:
            subjects.append(found_subject)
            times.append(found_time)
            usable.append(row)
    return subjects, times, usable


class _Rows:
    """The rows of a part that get into the tables; a label's table is a column of each list."""

    def __init__(self, part: pa.Table, subjects: list[int], times: list[datetime]) -> None:
        self.labels = part["labels"]
        self.probabilities = part["probabilities"] if part["calibrated"].null_count else part["calibrated"]
        self.who_and_when = [pa.array(subjects, pa.int64()), pa.array(times, pa.timestamp("us"))]
        self.names = [None if row is None else set(row) for row in part["names"].to_pylist()]

    def of(self, label: int, name: str) -> pa.Table:
        """One label's table."""
        import pyarrow.compute as pc

        columns = [
            *self.who_and_when,
            pc.list_element(self.labels, label),
            pa.array([None if row is None else name in row for row in self.names], pa.bool_()),
            pc.list_element(self.probabilities, label).cast(pa.float64()),
        ]
        return pa.table(columns, schema=SCHEMA)


def _integer(text: str | None) -> int | None:
    """The integer that a text is written as; "0012" is none, or two subjects would become one."""
    if text is None or not re.fullmatch(r"-?[0-9]{1,19}", text) or str(int(text)) != text:
        return None
    return int(text) if int(text) in _INT64 else None


def _time(text: str | None) -> datetime | None:
    """Read a time as MEDS has it, without a zone; one with a zone is moved to UTC."""
    try:
        found = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return found.astimezone(UTC).replace(tzinfo=None) if found is not None and found.tzinfo else found


def _listed(left_out: Counter[str]) -> list[str]:
    return [f"{visits:,} visits {reason}" for reason, visits in left_out.most_common()]
