"""From admissions to next-visit pairs, by times and ids only. The rules, in the order in which they hold:

1. An admission without subject_id is excluded. So are, as though they were not there, a newborn's own admission (unless
   asked for) and an admission without a usable admission time: nothing shows its place in the order.
2. An admission without visit_id, or whose discharge time is missing, unparseable or before its admission, is excluded
   but keeps its place.
3. What is left is ordered per subject by admission time; ties by visit_id as text. An admission that begins before the
   latest discharge so far, or on the same calendar day as it, continues that stay. A stay keeps the id and the
   attributes of its first admission and ends with its latest discharge; it has died or has codes if any of its
   admissions has. The admissions after the first are excluded: they are in the stay.
4. A stay that ended in death is excluded, and so is one without diagnosis codes. The one with death may still be what
   comes next for the stay before.
5. What comes next for a stay is the next stay or the next admission of rule 2. Nothing next: it is the subject's last.
   An admission of rule 2 next: excluded. No diagnosis codes next: excluded, since the labels are unknown, which is not
   the same as none.
6. A prediction is made when the codes are complete: the end of the stay plus the coding delay. If the next stay has
   started by then: excluded.

So every admission is exactly one of pair, last or excluded, and the excluded one has the first reason that holds. The
row order of the input changes nothing. No stay follows itself, and none follows two.
"""

from dataclasses import dataclass
from datetime import timedelta

import polars as pl

from ckd.ehr.frames import left_join

NO_SUBJECT = "no subject_id"
NEWBORN = "newborn"
NO_START = "no admission time"
BAD_START = "unparseable admission time"
NO_VISIT = "no visit_id"
NO_END = "no discharge time"
BAD_END = "unparseable discharge time"
END_FIRST = "discharge before admission"
MERGED = "merged into an earlier stay"
DIED = "ended in death"
NOT_CODED = "no diagnosis codes"
NEXT_UNUSABLE = "next admission cannot be used"
NEXT_NOT_CODED = "next admission has no diagnosis codes"
NEXT_TOO_SOON = "next admission before the codes are complete"

# Reason -> what it means, in the order in which one is chosen where several hold.
REASONS: dict[str, str] = {
    NO_SUBJECT: "The admission names no subject, so it has no earlier or later one.",
    NEWBORN: "The subject was born in this admission (option ingest.newborns keeps it).",
    BAD_START: "The admission time is no time, so the admission has no place in the order.",
    NO_START: "Without its admission time the admission has no place in the order.",
    NO_VISIT: "Without its visit_id no code or drug belongs to the admission.",
    BAD_END: "The discharge time is no time, so nobody knows when the codes were complete.",
    NO_END: "Without its discharge time nobody knows when the codes were complete.",
    END_FIRST: "The discharge time lies before the admission time; one of them is wrong.",
    MERGED: "The admission overlaps an earlier one or follows it on the day of discharge: one stay, kept under the "
    "first admission's id.",
    DIED: "The patient died in this stay; there is no next visit to predict. It may be the next visit of the stay "
    "before.",
    NOT_CODED: "The stay has no usable diagnosis code, so nothing is known of its diseases.",
    NEXT_UNUSABLE: "The admission that follows has no visit_id or no usable discharge time, so what the next visit is "
    "cannot be told.",
    NEXT_NOT_CODED: "The stay that follows has no usable diagnosis code: its labels are unknown, not empty.",
    NEXT_TOO_SOON: "The next stay began before the coding delay after discharge (option ingest.coding_delay_days) was "
    "over.",
}
_OUT_OF_ORDER = (NO_SUBJECT, NEWBORN, NO_START, BAD_START)
_ORDER = ("subject_id", "start", "visit_id")
_ADMISSION = ("place", "visit_id", "subject_id", "stay_id")


@dataclass(frozen=True)
class Rules:
    """What a cohort may choose: days from discharge to complete codes, and whether a newborn's own admission counts."""

    coding_delay_days: float
    newborns: bool


def chain(visits: pl.DataFrame, rules: Rules) -> pl.DataFrame:
    """What became of each admission: one row per row of `visits`, ordered by subject_id, admission time and visit_id.

    `visits` holds whole subjects: visit_id and subject_id (text), start and end (Datetime), start_bad, end_bad, died,
    newborn and coded (Bool: the admission has a usable diagnosis row); a null flag is false. The result has place,
    visit_id, subject_id, stay_id (visit_id of the stay's first admission), role ("pair", "last" or "excluded"), reason
    (one of REASONS; null unless excluded), next_id (stay_id of a pair's next stay), start and end of the stay,
    prediction_time (null if excluded). stay_id, start and end are null for an admission that is in no stay.
    """
    columns = visits.select("place", *_ORDER, "end", pl.col("died", "coded").fill_null(False), own=_own_reason(rules))
    admissions = columns.sort(_ORDER, nulls_last=True).with_row_index("row")
    usable = admissions.filter(pl.col("own").is_null())
    usable = usable.with_columns(stay=pl.when(_begins_a_stay()).then("row").forward_fill())
    stays = usable.group_by("stay", maintain_order=True).agg(
        pl.col("subject_id", "start").first(),
        pl.col("visit_id").first().alias("stay_id"),
        pl.col("end").max(),
        pl.col("died", "coded").any(),
    )
    keeps_place = admissions.filter(pl.col("own").is_not_null() & ~pl.col("own").is_in(_OUT_OF_ORDER))
    places = pl.concat([stays, keeps_place.select("subject_id", stay="row")], how="diagonal").sort("stay")
    rows = admissions.select("row", "place", "visit_id", "subject_id", "own")
    rows = left_join(left_join(rows, usable.select("row", "stay"), "row"), _judge(places, rules), "stay")
    merged = pl.when(pl.col("row") != pl.col("stay")).then(pl.lit(MERGED))
    rows = rows.with_columns(reason=pl.coalesce("own", merged, "verdict"))
    kept, is_last = pl.col("reason").is_null(), pl.col("next_id").is_null()
    role = pl.when(~kept).then(pl.lit("excluded")).when(is_last).then(pl.lit("last")).otherwise(pl.lit("pair"))
    rows = rows.with_columns(pl.when(kept).then(pl.col("next_id", "prediction_time")), role=role)
    return rows.select(*_ADMISSION, "role", "reason", "next_id", "start", "end", "prediction_time")


def _own_reason(rules: Rules) -> pl.Expr:
    """Why an admission cannot be used whatever the others are; null if it can."""
    newborn = pl.lit(False) if rules.newborns else pl.col("newborn")
    return (
        pl.when(pl.col("subject_id").is_null()).then(pl.lit(NO_SUBJECT))
        .when(newborn).then(pl.lit(NEWBORN))
        .when(pl.col("start_bad")).then(pl.lit(BAD_START))
        .when(pl.col("start").is_null()).then(pl.lit(NO_START))
        .when(pl.col("visit_id").is_null()).then(pl.lit(NO_VISIT))
        .when(pl.col("end_bad")).then(pl.lit(BAD_END))
        .when(pl.col("end").is_null()).then(pl.lit(NO_END))
        .when(pl.col("end") < pl.col("start")).then(pl.lit(END_FIRST))
    )  # fmt: skip


def _begins_a_stay() -> pl.Expr:
    """In usable, ordered admissions: does this one begin after the last day of all the subject's earlier ones?"""
    # Days counted on from subject to subject, 2^32 apart: one running maximum serves all subjects, much faster than
    # a window over each.
    subject = (pl.col("subject_id") != pl.col("subject_id").shift(1)).fill_null(True).cum_sum().cast(pl.Int64)
    first_day, last_day = (subject * 2**32 + pl.col(time).dt.date().to_physical() for time in ("start", "end"))
    return (first_day > last_day.cum_max().shift(1)).fill_null(True)


def _judge(places: pl.DataFrame, rules: Rules) -> pl.DataFrame:
    """The verdict on each place, in order, from itself and from the next one. Unusable admissions have no stay_id."""
    delay = timedelta(days=rules.coding_delay_days)
    following = (pl.col("subject_id") == pl.col("subject_id").shift(-1)).fill_null(False)
    next_id, next_start, next_coded = (pl.col(name).shift(-1) for name in ("stay_id", "start", "coded"))
    verdict = (
        pl.when(pl.col("died")).then(pl.lit(DIED))
        .when(~pl.col("coded")).then(pl.lit(NOT_CODED))
        .when(following & next_id.is_null()).then(pl.lit(NEXT_UNUSABLE))
        .when(following & ~next_coded).then(pl.lit(NEXT_NOT_CODED))
        .when(following & (pl.col("prediction_time") >= next_start)).then(pl.lit(NEXT_TOO_SOON))
    )  # fmt: skip
    return places.with_columns(prediction_time=pl.col("end") + delay).select(
        "stay", "stay_id", "start", "end", "prediction_time", next_id=pl.when(following).then(next_id), verdict=verdict
    )
