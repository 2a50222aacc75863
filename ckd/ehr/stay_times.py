"""Orders of drugs without a visit id, which belong to the one stay of their patient that contains their time."""

from collections.abc import Callable

import polars as pl

from ckd.ehr.canonical import BY_TIME, CELLS, ODD, SEVERAL


def with_their_stay(rows: pl.DataFrame, stays: Callable[[], pl.DataFrame]) -> pl.DataFrame:
    """Medications with the visit id of their stay; ODD says which were found so, and which lie in several.
    `stays`: subject_id, stay, began, ended; called only where a row has no visit id."""
    nowhere = rows.filter(pl.col("visit_id").is_null() & pl.col("start").is_not_null())
    if nowhere.is_empty():
        return rows
    inside = nowhere.select("place", "subject_id", "start").join(stays(), on="subject_id")
    inside = inside.filter(pl.col("start").is_between("began", "ended"))
    found = inside.group_by("place").agg(stay=pl.col("stay").first(), stays=pl.len())
    rows = rows.join(found, on="place", how="left", maintain_order="left")
    one, several = pl.col("stays") == 1, pl.col("stays") > 1
    note = [
        pl.when(when).then(pl.lit(1 << CELLS["medications"].index(name), pl.UInt32)).otherwise(0)
        for name, when in ((BY_TIME, one), (SEVERAL, several))
    ]
    visit = pl.coalesce("visit_id", pl.when(one).then("stay"))
    return rows.with_columns(pl.col(ODD) | note[0] | note[1], visit_id=visit).drop("stay", "stays")
