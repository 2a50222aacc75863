"""Reads the labels and probabilities of a split as arrays, joined by visit_id over the shards."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ckd.errors import ArtifactError
from ckd.store.artifacts import Fields, Stage, require_equal
from ckd.visits.cohort import Cohort
from ckd.visits.columns import cells, joined, matrix
from ckd.visits.grammar import diseases_in_treatment_clause, names_the_labels
from ckd.visits.task import Task
from ckd.visits.visit import Shard, Split

if TYPE_CHECKING:
    import pyarrow as pa

Flags = NDArray[np.bool_]
Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Rows:
    """The labelled visits of one split, in shard order; n rows, L labels. A cell is a pair of a visit and a label."""

    task: Task
    visit_ids: "pa.Array"  # string [n]
    labels: Flags  # [n, L] what is to be predicted; meaningful where known
    known: Flags  # [n, L] every figure is over these cells only
    current: Flags  # [n, L] current visit; meaningful where current_known or from_clause
    current_known: Flags  # [n, L] the current_labels column has it
    from_clause: Flags  # [n] else the input's treatment clause names some
    groups: NDArray[np.uint64]  # [n] the subject, or without subject ids the identical input
    has_subjects: bool  # every visit has a subject_id
    scores: Mapping[str, Scores] = field(default_factory=dict)  # stage name -> probabilities [n, L]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def has_current(self) -> Flags:
        """[n, L] whether it is known, or named in the text, that the label is there now."""
        return self.current_known | self.from_clause[:, None]


@dataclass(frozen=True)
class Splits:
    """The labelled visits of a cohort."""

    cohort: Cohort
    train: Rows
    tuning: Rows
    held_out: Rows

    @property
    def task(self) -> Task:
        """What is predicted."""
        return self.cohort.task

    @cached_property
    def present_now(self) -> Flags:
        """[L] the labels that can be there now: known of the present visit somewhere. Readmission never is."""
        splits = (self.train, self.tuning, self.held_out)
        return np.asarray(np.any([rows.has_current.any(0) for rows in splits], axis=0))


class NotComputableError(ValueError):
    """The visits do not say what a baseline needs. The message is the reason, for metrics.json."""


def read_split(cohort: Cohort, split: Split, stages: Sequence[str] = ()) -> Rows:
    """Read a split's labelled visits and the `probabilities` of the named stages, one pass over the shards.

    Raises ArtifactError where a stage lacks a visit, mixes fingerprints, or holds a value outside 0..1.
    """
    readers = {name: _StageReader(Stage(cohort.root, name, {})) for name in stages}
    parts = [_read_shard(cohort, shard, readers) for shard in cohort.select(split)]
    return _concatenate([_no_rows(cohort.task, stages), *parts])


def texts(cohort: Cohort, split: Split) -> Iterator[list[str]]:
    """The inputs of a split's labelled visits, shard by shard, in the order of `read_split`."""
    for shard in cohort.select(split):
        yield cohort.read(shard, ["input"]).column("input").to_pylist()


def align(visit_ids: "pa.Array", table: "pa.Table", where: str, column: str = "probabilities") -> Scores:
    """Probabilities [n, L] of the given visits from a table of visit_id and `column`, in the order of the ids.

    Raises ArtifactError naming a visit that the table lacks, or a value that is no probability.
    """
    values = matrix(joined(table, visit_ids, where, more=True)[column])
    if not ((values >= 0) & (values <= 1)).all():
        raise ArtifactError(
            f"{where}: a value is no probability (NaN or outside 0..1); delete it and run the stage again"
        )
    return values


def current_labels(cohort: Cohort, shard: Shard, table: "pa.Table") -> tuple[Flags, Flags, Flags]:
    """The current visits' labels of a shard [n, L], which of them the column has [n, L], which rows have the clause's.

    A row without any of the column's has those that its input's treatment clause names, where that names the task's.
    """
    current, known = flags(table["current_labels"])
    without = ~known.any(1)
    from_clause = np.zeros(len(table), dtype=bool)
    if without.any() and names_the_labels(cohort.task):
        inputs = cohort.read(shard, ["input"]).column("input")
        for row in np.flatnonzero(without):
            named = diseases_in_treatment_clause(inputs[int(row)].as_py())
            if named is not None:
                current[row], from_clause[row] = named, True
    return current, known, from_clause


def flags(column: "pa.ChunkedArray") -> tuple[Flags, Flags]:
    """A column of label lists: which cells are true, and which are known (both [n, L])."""
    values = cells(column)
    return values == 1, ~np.isnan(values)


class _StageReader:
    """Reads the parts of one stage and refuses two parts made differently."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.fields: Fields | None = None

    def read(self, shard: Shard, visit_ids: "pa.Array") -> Scores:
        where = self.stage.path(shard.index)
        footer = self.stage.footer(shard.index)
        if footer is None:
            raise ArtifactError(f"{where}: missing; run the stage that makes {self.stage.name} first")
        self.fields = footer.fields if self.fields is None else self.fields
        require_equal(where, footer.fields, self.fields)
        table = self.stage.read(shard.index, ["visit_id", "probabilities"], input_hash=shard.text_hash)
        return align(visit_ids, table, where)


def _read_shard(cohort: Cohort, shard: Shard, readers: Mapping[str, _StageReader]) -> Rows:
    table = cohort.read(shard, ["visit_id", "subject_id", "labels", "current_labels", "group"])
    labels, known = flags(table["labels"])
    current, current_known, from_clause = current_labels(cohort, shard, table)
    visit_ids = table.column("visit_id").combine_chunks()
    return Rows(
        task=cohort.task,
        visit_ids=visit_ids,
        labels=labels,
        known=known,
        current=current,
        current_known=current_known,
        from_clause=from_clause,
        groups=table.column("group").to_numpy(),
        has_subjects=table.column("subject_id").null_count == 0,
        scores={name: reader.read(shard, visit_ids) for name, reader in readers.items()},
    )


def _no_rows(task: Task, stages: Sequence[str]) -> Rows:
    import pyarrow as pa

    no_cells, none = np.zeros((0, len(task)), dtype=bool), np.zeros(0, dtype=bool)
    scores = {name: np.zeros((0, len(task)), dtype=np.float32) for name in stages}
    ids, groups = pa.array([], pa.string()), np.zeros(0, dtype=np.uint64)
    return Rows(task, ids, no_cells, no_cells, no_cells, no_cells, none, groups, True, scores)


def _concatenate(parts: Sequence[Rows]) -> Rows:
    import pyarrow as pa

    return Rows(
        task=parts[0].task,
        visit_ids=pa.concat_arrays([p.visit_ids for p in parts]),
        labels=np.concatenate([p.labels for p in parts]),
        known=np.concatenate([p.known for p in parts]),
        current=np.concatenate([p.current for p in parts]),
        current_known=np.concatenate([p.current_known for p in parts]),
        from_clause=np.concatenate([p.from_clause for p in parts]),
        groups=np.concatenate([p.groups for p in parts]),
        has_subjects=all(p.has_subjects for p in parts),
        scores={name: np.concatenate([p.scores[name] for p in parts]) for name in parts[0].scores},
    )
