"""From admissions to next-visit pairs, by times and ids only. The rules, in the order in which they hold:

1. An admission without subject_id is excluded. So is, as though it were not there, a newborn's own admission (unless
   asked for).
2. An admission without visit_id, or whose admission time is missing or unparseable, or whose discharge time is missing,
   unparseable or before its admission, is excluded but keeps its place: by its admission time, else by its discharge
   time. Without either it may have been anywhere (rule 7).
3. What is left is ordered per subject by admission time; ties by visit_id as text. An admission that begins before the
   latest discharge so far, or on the same calendar day as it, continues that stay. A stay keeps the id and the
   attributes of its first admission and ends with its latest discharge; it has died or has codes if any of its
   admissions has. The admissions after the first are excluded: they are in the stay.
4. A stay that ended in death is excluded, and so is one without diagnosis codes. The one with death may still be what
   comes next for the stay before.
5. What comes next for a stay is the next stay or the next admission of rule 2. Nothing next: it is the subject's last.
   An admission of rule 2 next: excluded. No diagnosis codes next: excluded, since the labels are unknown, which is not
   the same as none. An admission of rule 2 without admission time that ends on a day of a stay is part of that stay,
   which therefore began who knows when and has codes that it lacks: excluded, and so is the stay before it.
6. A prediction is made when the codes are complete: the end of the stay plus the coding delay. If the next stay has
   started by then: excluded.
7. A pair of a subject that has an admission without either time is excluded: that one may lie between the two stays.

So every admission is exactly one of pair, last or excluded, and the excluded one has the first reason that holds. The
row order of the input changes nothing. No stay follows itself, and none follows two.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

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
PART_UNPLACED = "part of the stay has no admission time"
NEXT_UNUSABLE = "next admission cannot be used"
NEXT_NOT_CODED = "next admission has no diagnosis codes"
UNPLACED = "an admission without a time"
NEXT_TOO_SOON = "next admission before the codes are complete"

# Reason -> what it means, in the order in which one is chosen where several hold.
REASONS: dict[str, str] = {
    NO_SUBJECT: "The admission names no subject, so it has no earlier or later one.",
    NEWBORN: "The subject was born in this admission (option ingest.newborns keeps it).",
    BAD_START: "The admission time is no time; the admission keeps a place in the order by its discharge time.",
    NO_START: "Without its admission time nobody knows when the stay began; it keeps a place by its discharge time.",
    NO_VISIT: "Without its visit_id no code or drug belongs to the admission.",
    BAD_END: "The discharge time is no time, so nobody knows when the codes were complete.",
    NO_END: "Without its discharge time nobody knows when the codes were complete.",
    END_FIRST: "The discharge time lies before the admission time; one of them is wrong.",
    MERGED: "The admission overlaps an earlier one or follows it on the day of discharge: one stay, kept under the "
    "first admission's id.",
    DIED: "The patient died in this stay; there is no next visit to predict. It may be the next visit of the stay "
    "before.",
    NOT_CODED: "The stay has no usable diagnosis code, or none with a CCS category: nothing is known of its diseases.",
    PART_UNPLACED: "An admission without a usable admission time ends within this stay, so when the stay began and "
    "which codes it has cannot be told.",
    NEXT_UNUSABLE: "The admission that follows has no visit_id or no usable times, so what the next visit is cannot be "
    "told.",
    NEXT_NOT_CODED: "The stay that follows has no usable diagnosis code: its labels are unknown, not empty.",
    NEXT_TOO_SOON: "The next stay began before the coding delay after discharge (option ingest.coding_delay_days) was "
    "over.",
    UNPLACED: "Another admission of this patient has neither time: it may be the next visit.",
}
# Reasons that lie in what comes after a stay alone: of the stay itself all is known.
ABOUT_WHAT_FOLLOWS = (NEXT_UNUSABLE, NEXT_NOT_CODED, NEXT_TOO_SOON, UNPLACED)
_OUT_OF_ORDER = (NO_SUBJECT, NEWBORN)
_NO_START = (NO_START, BAD_START)
_ORDER = ("subject_id", "start", "visit_id")
_ADMISSION = ("place", "visit_id", "subject_id", "stay_id")


LONG_AGO = datetime.fromisoformat("0001-01-01")


@dataclass(frozen=True)
class Rules:
    """What a cohort may choose: days from discharge to complete codes, whether a newborn's own admission counts."""

    coding_delay_days: float
    newborns: bool
    follow_up_end: datetime = LONG_AGO  # until when the source tells what happens to a patient
    open_stays: bool = False  # a patient's latest admission without a discharge time is a stay that goes on


def chain(visits: pl.DataFrame, rules: Rules) -> pl.DataFrame:
    """What became of each admission: one row per row of `visits`, ordered by subject_id, time and visit_id.

    `visits` holds whole subjects: visit_id and subject_id (text), start and end (Datetime), start_bad, end_bad, died,
    newborn and coded (Bool: the admission has a usable diagnosis row); a null flag is false. The result has place,
    visit_id, subject_id, stay_id (visit_id of the stay's first admission), role ("pair", "last" or "excluded"), reason
    (one of REASONS; null unless excluded), next_id (stay_id of a pair's next stay), start and end of the stay,
    prediction_time (null if excluded). stay_id, start and end are null for an admission that is in no stay.
    """
    visits = _with_open_stays(visits, rules)
    columns = visits.select(
        "place", "open", *_ORDER, "end", pl.col("died", "coded").fill_null(False), own=_own_reason(rules)
    )
    # Only a start that is null can be missing from the order: its discharge time stands for it.
    without_start = pl.col("own").is_in(_NO_START)
    columns = columns.with_columns(at=pl.when(without_start).then("end").otherwise("start"))
    admissions = columns.sort("subject_id", "at", "visit_id", nulls_last=True).with_row_index("row")
    usable = admissions.filter(pl.col("own").is_null())
    usable = usable.with_columns(stay=pl.when(_begins_a_stay()).then("row").forward_fill())
    stays = usable.group_by("stay", maintain_order=True).agg(
        pl.col("subject_id", "start").first(),
        pl.col("visit_id").first().alias("stay_id"),
        pl.col("end").max(),
        pl.col("died", "coded", "open").any(),
    )
    keeps_place = admissions.filter(pl.col("own").is_not_null() & ~pl.col("own").is_in(_OUT_OF_ORDER))
    unstarted = keeps_place.filter(without_start)
    stays = _with_doubt(stays, unstarted)
    keeps_place = keeps_place.filter(pl.col("at").is_not_null()).select("subject_id", stay="row")
    places = pl.concat([stays, keeps_place], how="diagonal").sort("stay")
    rows = admissions.select("row", "place", "visit_id", "subject_id", "own")
    rows = left_join(left_join(rows, usable.select("row", "stay"), "row"), _judge(places, rules), "stay")
    merged = pl.when(pl.col("row") != pl.col("stay")).then(pl.lit(MERGED))
    rows = rows.with_columns(reason=pl.coalesce("own", merged, "verdict"))
    kept, is_last = pl.col("reason").is_null(), pl.col("next_id").is_null()
    role = pl.when(~kept).then(pl.lit("excluded")).when(is_last).then(pl.lit("last")).otherwise(pl.lit("pair"))
    rows = rows.with_columns(pl.when(kept).then(pl.col("next_id", "prediction_time")), role=role)
    return rows.select(*_ADMISSION, "role", "reason", "next_id", "start", "end", "prediction_time")


def _with_open_stays(visits: pl.DataFrame, rules: Rules) -> pl.DataFrame:
    """`visits` with `open`: a stay that goes on, which gets its start as its end."""
    if not rules.open_stays:
        return visits.with_columns(open=pl.lit(False))
    latest = pl.col("start") == pl.col("start").max().over("subject_id")
    visits = visits.with_columns(open=(latest & pl.col("end").is_null() & ~pl.col("end_bad")).fill_null(False))
    return visits.with_columns(end=pl.when("open").then("start").otherwise("end"))


def _with_doubt(stays: pl.DataFrame, unstarted: pl.DataFrame) -> pl.DataFrame:
    """`stays` with `torn`, whether one of `unstarted` (admissions without a start) ends on a day of the stay, and
    `doubt`, whether its subject has one that has no end either."""
    nowhere = unstarted.filter(pl.col("end").is_null())["subject_id"].unique()
    ends = unstarted.filter(pl.col("end").is_not_null()).select("subject_id", ended=pl.col("end").dt.date())
    days = stays.select("stay", "subject_id", first=pl.col("start").dt.date(), last=pl.col("end").dt.date())
    torn = days.join(ends, on="subject_id").filter(pl.col("ended").is_between("first", "last"))["stay"].unique()
    return stays.with_columns(
        torn=pl.col("stay").is_in(torn.implode()), doubt=pl.col("subject_id").is_in(nowhere.implode())
    )


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
    next_id, next_start, next_coded, next_torn = (
        pl.col(name).shift(-1) for name in ("stay_id", "start", "coded", "torn")
    )
    verdict = (
        pl.when(pl.col("died")).then(pl.lit(DIED))
        .when(~pl.col("coded")).then(pl.lit(NOT_CODED))
        .when(pl.col("torn")).then(pl.lit(PART_UNPLACED))
        .when(following & (next_id.is_null() | next_torn)).then(pl.lit(NEXT_UNUSABLE))
        .when(following & ~next_coded).then(pl.lit(NEXT_NOT_CODED))
        .when(following & (pl.col("prediction_time") >= next_start)).then(pl.lit(NEXT_TOO_SOON))
        .when(following & pl.col("doubt")).then(pl.lit(UNPLACED))
    )  # fmt: skip
    due = pl.when(pl.col("open").fill_null(False)).then(None).otherwise(pl.col("end") + delay)
    return places.with_columns(prediction_time=due).select(
        "stay", "stay_id", "start", "end", "prediction_time", next_id=pl.when(following).then(next_id), verdict=verdict
    )
