"""The order of a patient's hospital stays where a data set tells no dates, as eICU-CRD does.

Known is the year of each discharge; of two stays of one year the younger age is the earlier; a death is the last. No
more: ids and the order of rows say nothing. Each stay gets times that keep exactly this: START for the patient's first,
GAP more for each that is known to be later, and the length of the stay. They are no dates: only order and length mean
something.

- Stays of which neither is known to be earlier lose their start, so that pairs.py excludes them and every pair that
  would have one of them next; they keep a place among the others by their end.
- A stay without a year may be anywhere: it has neither time, and no pair of its patient is kept.
- Where they contradict each other (older in an earlier year, alive in a later one than that of the death, two deaths)
  nothing is known of the patient's order.
"""

from datetime import datetime, timedelta

import polars as pl

from ckd.ehr.canonical import TIME

START, GAP = datetime.fromisoformat("2000-01-01"), timedelta(days=7305)  # 20 years: beyond any coding delay
LONGEST = 3650  # days; a longer stay is an error in its offsets
_PATIENT, _KEY = "subject_id", ("year", "age_then", "died")


def placed(stays: pl.DataFrame) -> pl.DataFrame:
    """`stays` with start, end and unordered (Bool), in their order.

    stays: subject_id, year (whole number), years (age in whole years), died (Bool), minutes (length); each may be null.
    """
    rows = stays.with_row_index("row").with_columns(_age_in_year(), pl.col("died").fill_null(False))
    rows = rows.sort(_PATIENT, *_KEY, nulls_last=True)
    one = pl.len().over(_PATIENT) == 1
    lost = ~one & (pl.col("year").is_null() | pl.col(_PATIENT).is_in(_contradicting(stays).implode()))
    rows = rows.with_columns(rank=pl.struct(_KEY).rle_id().over(_PATIENT), lost=lost.fill_null(False))
    rows = rows.with_columns(tied=(pl.len().over(_PATIENT, *_KEY) > 1) & ~pl.col("lost"))
    length = pl.col("minutes").cast(pl.Int64)
    length = pl.when(length <= LONGEST * 24 * 60).then(length)
    start = (pl.lit(START) + pl.col("rank").cast(pl.Int64) * pl.lit(GAP)).cast(TIME)
    end = start + pl.duration(minutes=pl.when("tied").then(length.fill_null(0).clip(0)).otherwise(length))
    rows = rows.with_columns(
        start=pl.when(~pl.col("tied") & ~pl.col("lost")).then(start),
        end=pl.when(~pl.col("lost")).then(end).cast(TIME),
        unordered=pl.col("tied") | pl.col("lost"),
    )
    return rows.sort("row").select(*stays.columns, "start", "end", "unordered")


def _age_in_year() -> pl.Expr:
    """The age, null for all stays of a patient's year if one of them has none: that one may be between any two."""
    return pl.when(pl.col("years").is_not_null().all().over(_PATIENT, "year")).then("years").alias("age_then")


def _contradicting(stays: pl.DataFrame) -> pl.Series:
    """The patients who were older in an earlier year, or whose death is not the last by year and by age, or not one."""
    by_year = (
        stays.drop_nulls("year").group_by(_PATIENT, "year").agg(lo=pl.col("years").min(), hi=pl.col("years").max())
    )
    before = pl.col("hi").cum_max().shift(1).forward_fill().over(_PATIENT)
    younger = by_year.sort(_PATIENT, "year").filter(pl.col("lo") < before)[_PATIENT]
    died = pl.col("died").fill_null(False)
    later = [pl.col(name).max() > pl.col(name).filter(died).max() for name in ("year", "years")]
    lives = stays.group_by(_PATIENT).agg(wrong=(died.sum() > 1) | later[0].fill_null(False) | later[1].fill_null(False))
    return pl.concat([younger, lives.filter("wrong")[_PATIENT]]).drop_nulls().unique()
