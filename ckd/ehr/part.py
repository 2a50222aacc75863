"""A finished part of a cohort: the table that is stored, and the sums of it that the card shows."""

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ckd.ehr.groups import GROUPS
from ckd.ehr.outcomes import TRUE, UNKNOWN, Cells
from ckd.visits.columns import lists
from ckd.visits.labels import NUM_LABELS
from ckd.visits.task import Task
from ckd.visits.visit import SUBGROUP_FIELDS, visit_schema

if TYPE_CHECKING:
    import pyarrow as pa

LENGTH_STEP = 50  # characters: text lengths are counted in steps of it


def part_table(
    task: Task,
    visits: pl.DataFrame,
    inputs: pl.Series,
    outcomes: pl.DataFrame | None,
    subgroups: tuple[str, ...] = (),
) -> "pa.Table":
    """The columns of `visit_schema()` that an input needs. `outcomes`: now and after; without it the visits' masks.
    `subgroups`: names of the elements of GROUPS."""
    import pyarrow as pa

    names = ("visit_id", "subject_id", "split", "prediction_time", *SUBGROUP_FIELDS)
    columns = {name: visits[name].to_arrow() for name in names}
    columns |= {name: visits[GROUPS].list.get(place).to_arrow() for place, name in enumerate(subgroups)}
    columns["input"] = inputs.to_arrow()
    if outcomes is None:
        columns |= {"labels": _flags(visits["next"]), "current_labels": _flags(visits["current"])}
    else:
        columns |= {"labels": _lists(outcomes["after"]), "current_labels": _lists(outcomes["now"])}
    # One text in every row: as a dictionary it costs nothing to write.
    once = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), visits.height), [task.question])
    schema = visit_schema(len(task), subgroups)
    typed = {field.name: columns[field.name].cast(field.type) for field in schema if field.name in columns}
    typed["instruction"] = once
    return pa.table({field.name: typed[field.name] for field in schema if field.name in typed})


def summary(task: Task, visits: pl.DataFrame, inputs: pl.Series, outcomes: pl.DataFrame | None) -> dict[str, Any]:
    """Sums that add up over partitions: visits, subjects and positives per split; the texts' characters in steps.
    Of `outcomes` also for how many visits each label is known."""
    steps = inputs.str.len_chars() // LENGTH_STEP * LENGTH_STEP
    splits = visits.group_by("split").agg(
        labeled=pl.col("labeled").sum(),
        unlabeled=(~pl.col("labeled")).sum(),
        subjects=pl.col("subject_id").n_unique(),
        positives=pl.concat_list((pl.col("next") & (1 << k) > 0).sum() for k in range(NUM_LABELS)),
    )
    found: dict[str, Any] = {row.pop("split"): row for row in splits.to_dicts()}
    if outcomes is not None:
        after = outcomes["after"].to_numpy()
        for split, sums in found.items():
            cells = after[(visits["split"] == split).to_numpy()]
            sums["positives"] = (cells == TRUE).sum(axis=0).tolist()
            sums["known"] = (cells != UNKNOWN).sum(axis=0).tolist()
    lengths = steps.alias("step").value_counts(name="visits")
    return {"splits": found, "lengths": {str(k): n for k, n in lengths.iter_rows()}}


def _flags(masks: pl.Series) -> "pa.Array":
    """Bit masks as lists of 25 booleans; null stays null."""
    bits = masks.fill_null(0).to_numpy()[:, None] >> np.arange(NUM_LABELS, dtype=np.uint32) & 1
    return lists(bits.astype(bool), masks.is_not_null().to_numpy())


def _lists(column: pl.Series) -> "pa.Array":
    """Cells as lists of booleans, null where unknown; a list without a known one is null."""
    cells: Cells = column.to_numpy()
    known = cells != UNKNOWN
    labeled = known.any(axis=1)
    return lists(cells == TRUE, labeled, known | ~labeled[:, None])
