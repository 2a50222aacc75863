"""The earlier stays that a visit's text tells (`ingest.history`): which ones, and how long ago they ended.

A stay is told when it is not excluded, or excluded only for what comes after it: its times and codes are whole. So what
a text tells is decided by stays that ended before its own began, and nothing later changes it.
"""

import polars as pl

from ckd.ehr.pairs import ABOUT_WHAT_FOLLOWS
from ckd.ehr.source import Source
from ckd.errors import ConfigError


def require_dates(history: int, source: Source) -> None:
    """Raise ConfigError for a source that does not know the days between a patient's stays."""
    if history and not source.dated:
        what = f"ingest.history={history}: a text tells how many days ago a visit ended"
        raise ConfigError(f"{what}, {source.folder} holds no dates; leave it 0")


def tellable(chained: pl.DataFrame) -> pl.DataFrame:
    """The stays of `chain` that later texts may tell: stay (row number), subject_id, visit_id, start, end; in order."""
    first = pl.col("visit_id") == pl.col("stay_id")
    kept = chained.filter(first & (pl.col("reason").is_null() | pl.col("reason").is_in(ABOUT_WHAT_FOLLOWS)))
    stays = kept.sort("subject_id", "start", "visit_id").select("subject_id", "visit_id", "start", "end")
    return stays.with_row_index("stay")


def before(stays: pl.DataFrame, visits: pl.DataFrame, most: int) -> pl.DataFrame:
    """visit, stay, days: of each visit the `most` stays before it, the latest first.

    days: from the date on which the stay ended to the date on which the visit began.
    """
    numbers = visits.select("visit", "visit_id")
    of_subject, ended = pl.col("subject_id"), pl.col("end").dt.date()
    found = [
        stays.select(
            "visit_id",
            stay=pl.when(of_subject == of_subject.shift(back)).then(pl.col("stay").shift(back)),
            days=(pl.col("start").dt.date() - ended.shift(back)).dt.total_days(),
            back=pl.lit(back, pl.UInt32),
        )
        for back in range(1, most + 1)
    ]
    rows = pl.concat(found).drop_nulls("stay").join(numbers, on="visit_id")
    return rows.sort("visit", "back").select("visit", "stay", "days")
