"""Draws a sample of the inputs for `ckd plan`, each row with equal chances. A figure for all visits is the sample's
share or mean times all rows of its input.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ckd.config import Config
from ckd.errors import DataError
from ckd.visits.inputs import Sample
from ckd.visits.intake import configured_inputs
from ckd.visits.splits import PUBLIC_SHARES
from ckd.visits.task import Task
from ckd.visits.taskfile import load_task
from ckd.visits.visit import Split, Visit

SAMPLE = 1000  # rows per input
SEED = 1


@dataclass(frozen=True)
class Sampled:
    """The drawn visits that can be used; one value per visit in every list."""

    rows: int  # of all inputs
    drawn: int
    visits: Sequence[Visit]
    task: Task
    weights: Sequence[float]  # rows that one visit stands for: all rows of its input / rows drawn of it
    embedded: Sequence[float]  # 1 where the teacher embeds it, else 0
    training: Sequence[float]  # the chance that it trains the student

    def total(self, values: Sequence[float]) -> float:
        """Sum over all visits of a value that is known for the drawn ones."""
        return sum(weight * value for weight, value in zip(self.weights, values, strict=True))

    @property
    def every(self) -> float:
        """Number of all visits that can be used."""
        return self.total([1.0] * len(self.visits))

    def visit_bytes(self) -> int:
        """Size of the drawn visits as Parquet."""
        from ckd.visits.visit import to_table

        rows = [v if v.split else replace(v, split=v.source) for v in self.visits]
        return table_bytes(to_table(rows, len(self.task)))


def sample(config: Config) -> Sampled:
    """Draw from the configured inputs. Raises DataError without any, or when no row drawn can be used."""
    task = load_task(config.task)
    inputs = configured_inputs(config.data, task)
    if not inputs:
        raise DataError("nothing to plan for; give data.train in the configuration or as an override")
    found: list[Sample] = [one.sample(SAMPLE, SEED) for one in inputs]
    drawn = sum(one.drawn for one in found)
    visits = [visit for one in found for visit in one.visits]
    if not visits:
        raise DataError(f"{inputs[0].path}: none of {drawn} rows drawn can be used; 'ckd validate' says why")
    weights = [one.rows / one.drawn for one in found for _ in one.visits]
    embedded = [float(v.labels is not None or config.student.use_unlabeled) for v in visits]
    training = [_training(v, config) * known for v, known in zip(visits, embedded, strict=True)]
    return Sampled(sum(one.rows for one in found), drawn, visits, task, weights, embedded, training)


def table_bytes(table: Any) -> int:
    """Size of a table as the store writes it; it is written in memory."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.tell()


def _training(visit: Visit, config: Config) -> float:
    """The chance that a visit gets into train: 1 or 0 where its row or file decides."""
    if config.data.split == "public":
        return PUBLIC_SHARES["train"]
    split: Split = visit.split or visit.source
    return float(split == "train")
