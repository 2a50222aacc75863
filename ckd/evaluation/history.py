"""Computes features of a history: the labels of this and of earlier visits, age, sex, number of earlier visits.

No `labels` column is read. A visit's own diseases are its current_labels (or those that its treatment clause names);
they are known at its prediction_time. The label of an earlier visit is the current_labels of the one after it, and
comes in by that one. Only visits of the same subject and split with an earlier prediction_time count.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from ckd.evaluation.logistic import Features, design
from ckd.evaluation.scores import Flags, NotComputableError, current_labels
from ckd.visits.cohort import Cohort
from ckd.visits.visit import Split

_COLUMNS = ["subject_id", "prediction_time", "age", "sex", "current_labels"]
_NUMBER = re.compile(r"\d+(\.\d+)?")


@dataclass(frozen=True)
class History:
    """The labelled visits of one split, in the order of scores.read_split; n rows."""

    current: Flags  # [n, L] recorded at this visit
    last: Flags  # [n, L] recorded at the visit before; nothing at a first visit
    ever: Flags  # [n, L] recorded at any visit before
    earlier: NDArray[np.int64]  # [n] number of visits before
    age: NDArray[np.float64]  # [n] years; NaN where unknown
    sex: NDArray[np.str_]  # [n] upper-case first letter; "" where unknown

    def features(self) -> Features:
        """[n, 3 · L + 5]: current, last, ever; log(1 + earlier visits); decades of age, whether known; woman, man.

        Neither woman nor man: unknown.
        """
        known = ~np.isnan(self.age)
        age = np.where(known, self.age, 0) / 10
        numbers = np.stack([np.log1p(self.earlier), age, known, self.sex == "F", self.sex == "M"], axis=1)
        return design(self.current, self.last, self.ever, numbers)


def read_history(cohort: Cohort, split: Split) -> History:
    """The history of a split's labelled visits; unlabelled visits of the split count as earlier ones too.

    Raises NotComputableError when a visit has no subject_id, readable prediction_time or current labels, or when no
    visit has an age, or none a sex.
    """
    subjects: list[str] = []
    times: list[float] = []
    ages: list[float] = []
    sexes: list[str] = []
    current: list[Flags] = [np.zeros((0, len(cohort.task)), dtype=bool)]
    present: list[Flags] = []
    scored: list[bool] = []
    for shard in cohort.select(split, labeled=None):
        table = cohort.read(shard, _COLUMNS)
        flags, known, from_clause = current_labels(cohort, shard, table)
        _require(f"{split} visits without current labels", ~(known.any(1) | from_clause))
        _require(f"{split} visits without subject_id", np.asarray(table["subject_id"].is_null()))
        moments = [moment(text) for text in table["prediction_time"].to_pylist()]
        _require(f"{split} visits without a prediction_time such as 2150-01-31T09:30:00", np.isnan(moments))
        subjects += table["subject_id"].to_pylist()
        times += moments
        ages += [_years(text) for text in table["age"].to_pylist()]
        sexes += [(text or "").strip()[:1].upper() for text in table["sex"].to_pylist()]
        current.append(flags)
        present.append(known | from_clause[:, None])
        scored += [shard.labeled] * shard.rows
    _require_present(split, present)
    age, sex, take = np.array(ages), np.array(sexes, dtype=np.str_), np.array(scored, dtype=bool)
    for name, unknown in (("age", np.isnan(age)), ("sex", sex == "")):
        if len(take) and unknown.all():
            raise NotComputableError(f"no {split} visit has a known {name}")
    recorded = np.concatenate(current)
    last, ever, earlier = before(subjects, times, recorded)
    return History(recorded[take], last[take], ever[take], earlier[take], age[take], sex[take])


def before(subjects: Sequence[str], times: Sequence[float], current: Flags) -> tuple[Flags, Flags, NDArray[np.int64]]:
    """What the subject's last earlier visit, and all earlier ones, recorded ([n, L] each), and their number [n].

    Rows are in any order. Visits at the same time are not earlier than each other; together they are "the visit before"
    of the next one.
    """
    n = len(subjects)
    last, ever, earlier = np.zeros_like(current), np.zeros_like(current), np.zeros(n, dtype=np.int64)
    count, recent, union = 0, np.zeros(current.shape[1], dtype=bool), np.zeros(current.shape[1], dtype=bool)
    _, who = np.unique(np.array(subjects, dtype=np.str_), return_inverse=True)
    order = np.lexsort((np.array(times), who))
    stamps = np.array(times)[order]
    new_subject, new_moment = np.ones(n, dtype=bool), np.ones(n, dtype=bool)
    new_subject[1:] = who[order][1:] != who[order][:-1]
    new_moment[1:] = new_subject[1:] | (stamps[1:] != stamps[:-1])
    starts = np.flatnonzero(new_moment)
    for start, stop in zip(starts, np.append(starts, n)[1:], strict=True):  # one moment of one subject
        rows = order[start:stop]
        if new_subject[start]:
            count, recent, union = 0, np.zeros_like(recent), np.zeros_like(union)
        last[rows], ever[rows], earlier[rows] = recent, union, count
        recent = np.asarray(current[rows].any(0))
        union, count = np.asarray(union | recent), count + len(rows)
    return last, ever, earlier


def _require_present(split: Split, present: Sequence[Flags]) -> None:
    """What one visit tells of the present, all must tell: an unknown label is no absent one."""
    found = np.concatenate(present) if present else np.zeros((0, 1), dtype=bool)
    _require(f"{split} visits with unknown current labels", np.asarray(~found[:, found.any(0)].all(1)))


def moment(text: str | None) -> float:
    """Seconds since 1970 of an ISO date or time (UTC where no zone is given); NaN where it is none."""
    try:
        when = datetime.fromisoformat((text or "").strip())
    except ValueError:
        return float("nan")
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _years(text: str | None) -> float:
    """The first number in the text: "67", "67.5", "> 89"; NaN without one."""
    found = _NUMBER.search(text or "")
    return float(found[0]) if found else float("nan")


def _require(what: str, missing: Flags) -> None:
    if missing.any():
        raise NotComputableError(f"{what}: at least {int(missing.sum())}")
