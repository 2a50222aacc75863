"""The labels of each visit of any task but ccs25, cell by cell: true, false, or unknown where the data cannot tell.

A cell that needs a time window is true as soon as the data shows it. It is false only when the window, or the patient's
life, had ended by the end of follow-up, or when the patient was seen again after it; else it is unknown.
Costs one join per time window; ccs25 has bit masks instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

from ckd.ehr.frames import left_join
from ckd.ehr.pairs import NEWBORN
from ckd.ehr.source import Source
from ckd.errors import ConfigError
from ckd.visits.task import Label, Task

UNKNOWN, FALSE, TRUE = -1, 0, 1
Cells = npt.NDArray[np.int8]  # [visits] or [visits, labels] of these
Flags = npt.NDArray[np.bool_]


def require_outcomes(task: Task, source: Source) -> None:
    """Raise ConfigError for a label that the source cannot have."""
    for label in task.labels:
        if not source.dated and (label.readmission_days or label.within_days):
            what = f"task.labels: label '{label.name}' needs days between stays"
            raise ConfigError(f"{what}, {source.folder} holds no dates; leave that label out")
        if label.death_days and label.death_days > source.death_days:
            has = (
                f"deaths up to {source.death_days:g} days after discharge" if source.death_days else "no date of death"
            )
            what = f"task.labels: label '{label.name}' needs deaths within {label.death_days:g} days"
            raise ConfigError(f"{what}, {source.folder} holds {has}; docs/tables.md says where a date of death stands")


@dataclass(frozen=True)
class History:
    """What one partition knows of its patients.

    kept: one row per visit, in its order: subject_id, stay_id, next_id (null: none), start, end, prediction_time.
    stays: every place in a patient's order: subject_id, stay_id (null: an admission that cannot be used), start, end,
    coded. coded: stay_id, label, distinct. deaths: subject_id, death. given: stay_id, label, value (1, 0, null).
    follow_up_end: until when the source tells what happens.
    """

    kept: pl.DataFrame
    stays: pl.DataFrame
    coded: pl.DataFrame
    deaths: pl.DataFrame
    given: pl.DataFrame
    follow_up_end: datetime

    @classmethod
    def of(
        cls,
        chained: pl.DataFrame,
        raw: Mapping[str, pl.DataFrame],
        diagnoses: pl.DataFrame,
        given: pl.DataFrame,
        end: datetime,
    ) -> "History":
        """From the judged admissions (with `admission`), the raw tables, the mapped diagnoses with `outcomes`, and the
        given labels (stay_id, label, value)."""
        admissions = raw["visits"].with_row_index("admission")
        coded = pl.col("admission").is_in(diagnoses["admission"].unique().implode())
        every = left_join(
            chained, admissions.select("admission", "died", own="start", own_end="end", coded=coded), "admission"
        )
        stays = every.filter(pl.col("stay_id").is_not_null()).select("subject_id", "stay_id", "start", "end", "coded")
        stays = stays.group_by("stay_id", maintain_order=True).agg(
            pl.col("subject_id", "start", "end").first(), pl.col("coded").any()
        )
        unclear = pl.col("stay_id").is_null() & pl.col("subject_id").is_not_null() & (pl.col("reason") != NEWBORN)
        stays = pl.concat(
            [stays, every.filter(unclear).select("subject_id", coded=False, start="own", end="own_end")], how="diagonal"
        )
        kept = every.filter(pl.col("role") != "excluded").sort("subject_id", "start", "stay_id")
        labels = diagnoses.filter(pl.col("outcomes").list.len() > 0).select("admission", label="outcomes")
        labels = left_join(labels, chained.select("admission", "stay_id"), "admission").drop_nulls("stay_id")
        dead = every.filter(pl.col("died").fill_null(False)).select("subject_id", death="end")
        deaths = [dead, *(raw[table].select("subject_id", death="dod") for table in ("visits", "patients"))]
        died = pl.concat(deaths).drop_nulls().group_by("subject_id").agg(pl.col("death").min())
        return cls(kept, stays, labels.select("stay_id", "label").explode("label").unique(), died, given, end)

    @cached_property
    def death(self) -> pl.Series:
        """Per visit the patient's time of death; null: none is known, or it is before the day of discharge."""
        death = left_join(self.kept, self.deaths, "subject_id").select("end", "death")
        sane = pl.col("death").dt.date() >= pl.col("end").dt.date()
        return death.select(pl.when(sane).then("death").alias("death")).to_series()

    @cached_property
    def contradicted(self) -> Flags:
        """Per visit: the patient is dead before the day of its discharge, or by the time of the prediction."""
        death = left_join(self.kept, self.deaths, "subject_id")["death"]
        before = death.dt.date() < self.kept["end"].dt.date()
        return (before | (death <= self.kept["prediction_time"])).fill_null(False).to_numpy()

    @cached_property
    def _numbered(self) -> pl.DataFrame:
        return self.kept.select("subject_id", "stay_id", "next_id", "end").with_row_index("visit")

    def within(self, days: float) -> pl.DataFrame:
        """visit, stay_id, coded of every later place that begins within so many days of discharge.

        An admission without a readable start is in every window that it may have begun in.
        """
        places = self.stays.select("subject_id", "coded", later="stay_id", begins="start", ends="end")
        joined = self._numbered.join(places, on="subject_id", how="inner")
        begins, end = pl.col("begins"), pl.col("end")
        soon = (begins > end) & (begins <= end + timedelta(days=days))
        soon = pl.when(begins.is_null()).then(pl.col("ends") > end).otherwise(soon)
        return joined.filter(soon.fill_null(True)).select("visit", "coded", stay_id="later")

    def following(self) -> pl.DataFrame:
        """visit, stay_id of each visit's next stay."""
        return self._numbered.drop_nulls("next_id").select("visit", stay_id="next_id")

    def now(self) -> pl.DataFrame:
        """visit, stay_id of each visit's own stay."""
        return self._numbered.select("visit", "stay_id")

    def followed(self, days: float) -> Flags:
        """Per visit: whether so many days after discharge, or all of the patient's life in them, are in the data."""
        seen = self.stays.group_by("subject_id").agg(seen=pl.max_horizontal("start", "end").max())
        until = pl.min_horizontal(self.kept["end"] + timedelta(days=days), self.death)
        rows = left_join(self.kept, seen, "subject_id").select(until=until, seen="seen")
        over = (pl.col("until") <= self.follow_up_end) | (pl.col("seen") > pl.col("until"))
        return rows.select(over.fill_null(False)).to_series().to_numpy()


@dataclass(frozen=True)
class Outcomes:
    """The labels of each visit [visits, labels]: those it has itself, and those that are predicted."""

    now: Cells
    after: Cells

    @classmethod
    def of(cls, task: Task, history: History) -> "Outcomes":
        """Of the visits of one partition."""
        return cls(cells_now(task, history), cells_after(task, history))

    @property
    def labeled(self) -> pl.Series:
        """Per visit whether any label is known."""
        return pl.Series((self.after != UNKNOWN).any(axis=1))

    @property
    def frame(self) -> pl.DataFrame:
        """now and after, Array(Int8) of the labels."""
        return pl.DataFrame({"now": self.now, "after": self.after})

    def echoes(self) -> dict[str, int]:
        """The labelled visits whose known labels are those that they have themselves; nothing where that is unknown."""
        known = self.after != UNKNOWN
        if ((self.now == UNKNOWN) & known).any():
            return {}
        same = ((self.now == self.after) | ~known).all(axis=1) & known.any(axis=1)
        return {"echoes": int(same.sum())}


def cells_now(task: Task, history: History) -> Cells:
    """Which labels each visit has itself [visits, labels]; unknown for a label that is no disease at a visit."""
    now = _coded(history, history.now(), len(task)).view(np.int8)
    for number, label in enumerate(task.labels):
        if not _is_present(task, label):
            now[:, number] = UNKNOWN
        elif label.any_of:
            now[:, number] = _any([now[:, number], *(now[:, task.index[name]] for name in label.any_of)])
    return now


def cells_after(task: Task, history: History) -> Cells:
    """What each visit's labels are [visits, labels]. All labels by codes of the next stay are found at once."""
    found, known = _coded_after(history, None, len(task))
    after = _cells(found, known[:, None])
    within: dict[float, tuple[Flags, Flags]] = {}
    for number, label in enumerate(task.labels):
        parts = [after[:, task.index[name]] for name in label.any_of]
        if label.coded and not label.within_days:
            parts.append(after[:, number])
        elif label.within_days:
            if label.within_days not in within:
                within[label.within_days] = _coded_after(history, label.within_days, len(task))
            found, known = within[label.within_days]
            parts.append(_cells(found[:, number], known))
        elif label.given:
            parts.append(_given(history, number))
        elif not label.any_of:
            parts.append(_outcome(history, label))
        if label.any_of or not label.coded or label.within_days:
            after[:, number] = _any(parts)
    return after


def _is_present(task: Task, label: Label) -> bool:
    """Whether a label can be present at a visit: its codes can, and those of all that it unites."""
    parts = [task.labels[task.index[name]] for name in label.any_of]
    return (label.coded or bool(parts)) and all(_is_present(task, part) for part in parts)


def _coded_after(history: History, days: float | None, labels: int) -> tuple[Flags, Flags]:
    """Which coded labels follow [visits, labels], and for which visits one that does not is false [visits]."""
    if days is None:
        known = history.kept["next_id"].is_not_null().to_numpy()
        return _coded(history, history.following(), labels), known
    places = history.within(days)
    known = history.followed(days) & ~history.contradicted
    known[places.filter(~pl.col("coded"))["visit"].to_numpy()] = False
    return _coded(history, places.drop_nulls("stay_id"), labels), known


def _coded(history: History, places: pl.DataFrame, labels: int) -> Flags:
    """Which labels the stays of each visit (visit, stay_id) have by their codes [visits, labels]."""
    found = places.join(history.coded, on="stay_id")
    flags = np.zeros((history.kept.height, labels), bool)
    flags[found["visit"].to_numpy(), found["label"].to_numpy()] = True
    return flags


def _outcome(history: History, label: Label) -> Cells:
    """A readmission or a death within days of discharge."""
    kept, days = history.kept, label.readmission_days or label.death_days or 0
    last = kept["end"] + timedelta(days=days)
    if label.readmission_days:
        starts = history.stays.drop_nulls("stay_id").select(next_id="stay_id", following="start")
        happened = left_join(kept, starts, "next_id")["following"] <= last
        known = kept["next_id"].is_not_null().to_numpy() | history.followed(days)
    else:
        happened = history.death <= last
        known = history.followed(days)
    cells = _cells(happened.fill_null(False).to_numpy(), known)
    cells[history.contradicted] = UNKNOWN
    return cells


def _given(history: History, number: int) -> Cells:
    mine = history.given.filter(pl.col("label") == number).select("stay_id", "value")
    return left_join(history.kept, mine, "stay_id")["value"].fill_null(UNKNOWN).to_numpy().astype(np.int8)


def _cells(true: Flags, known: Flags) -> Cells:
    """1 where true; else 0 where known."""
    return true.view(np.int8) - (~(true | known)).view(np.int8)


def _any(parts: list[Cells]) -> Cells:
    """True if one is; else unknown if one is; else false. Kleene's "or"."""
    stacked = np.stack(parts)
    unknown = (stacked == UNKNOWN).any(axis=0)
    return np.where((stacked == TRUE).any(axis=0), TRUE, np.where(unknown, UNKNOWN, FALSE)).astype(np.int8)
