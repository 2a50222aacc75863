"""What a student has to beat: prevalence, copy-forward, persistence, regressions on labels, history and text. Fitted on train, tuned on tuning;
held_out gives features only. What their predictions are worth belongs to metrics."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckd.evaluation import logistic
from ckd.evaluation.history import UnknownHistoryError, read_history
from ckd.evaluation.scores import Flags, Rows, Scores, texts
from ckd.evaluation.tfidf import NoWordsError, fit_tfidf, sample
from ckd.visits.cohort import Cohort
from ckd.visits.labels import NUM_LABELS

NAMES = ("prevalence", "copy_forward", "persistence", "label_logreg", "history_logreg", "tfidf_logreg")
SHRINKAGE = 2.0  # persistence: visits' worth of the label's prevalence added to each conditional rate
MAX_TRAIN = 200_000  # training visits for label_logreg and history_logreg
_LABEL_GRID = (0.01, 0.1, 1.0)


@dataclass(frozen=True)
class Predictions:
    """A baseline's probabilities and what a reader should know of its fit."""

    tuning: Scores  # [m, 25]
    held_out: Scores  # [n, 25]
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NotComputable:
    """Why a baseline has no figures."""

    reason: str


Result = Predictions | NotComputable


@dataclass(frozen=True)
class Current:
    """What is known of the current visits: the only thing of held_out that the label baselines get."""

    train: Flags  # [rows of train with known current labels, 25]
    train_next: Flags  # the same rows' labels at the next visit
    tuning: Flags
    held_out: Flags
    notes: dict[str, Any]


def fit_all(
    cohort: Cohort, train: Rows, tuning: Rows, held_out: Rows, *, seed: int, say: Callable[[str], None]
) -> dict[str, Result]:
    """Every baseline by name, or why it cannot be computed."""
    rates = prevalence(train.labels)
    results: dict[str, Result] = {"prevalence": Predictions(_repeat(rates, len(tuning)), _repeat(rates, len(held_out)))}
    say("baselines: labels of the current visit")
    results |= current_label_baselines(train, tuning, held_out, seed)
    say("baselines: earlier visits")
    results["history_logreg"] = _history(cohort, train, tuning, seed)
    say("baselines: words of the visit")
    results["tfidf_logreg"] = _tfidf(cohort, train, tuning, seed)
    return {name: results[name] for name in NAMES}


def prevalence(labels: Flags) -> NDArray[np.float64]:
    """Share of positive visits per label [25]; labels [n, 25], n > 0."""
    return np.asarray(labels.mean(0), dtype=np.float64)


def current_label_baselines(train: Rows, tuning: Rows, held_out: Rows, seed: int) -> dict[str, Result]:
    """copy_forward, persistence and label_logreg, each from the labels of the current visit."""
    current = gather_current(train, tuning, held_out)
    if isinstance(current, NotComputable):
        return dict.fromkeys(("copy_forward", "persistence", "label_logreg"), current)
    copies = Predictions(current.tuning.astype(np.float32), current.held_out.astype(np.float32), current.notes)
    if not len(current.train):
        nothing = NotComputable("no training visit has known current labels")
        return {"copy_forward": copies, "persistence": nothing, "label_logreg": nothing}
    rates = persistence_rates(current.train, current.train_next)
    persisted = Predictions(persist(rates, current.tuning), persist(rates, current.held_out), current.notes)
    return {
        "copy_forward": copies,
        "persistence": persisted,
        "label_logreg": _label_regression(current, tuning.labels, seed),
    }


def gather_current(train: Rows, tuning: Rows, held_out: Rows) -> Current | NotComputable:
    """The current visits' labels; NotComputable unless every tuning and held_out visit has them (all models see the same visits)."""
    for name, rows in (("tuning", tuning), ("held_out", held_out)):
        unknown = int((~rows.has_current).sum())
        if unknown:
            return NotComputable(
                f"current labels unknown for {unknown} of {len(rows)} {name} visits, and no treatment clause names diseases"
            )
    usable = train.has_current
    guessed = sum(int(rows.from_clause.sum()) for rows in (train, tuning, held_out))
    source = (
        "current_labels"
        if not guessed
        else "treatment clause"
        if guessed == _usable(train, tuning, held_out)
        else "both"
    )
    notes = {"current_labels_from": source, "train_visits": int(usable.sum())}
    return Current(train.current[usable], train.labels[usable], tuning.current, held_out.current, notes)


def persistence_rates(now: Flags, following: Flags) -> NDArray[np.float64]:
    """P(label at the next visit | label absent, present now) per label, [2, 25], from now and following [n, 25].

    (count + SHRINKAGE · prevalence) / (visits + SHRINKAGE): a state never seen in train falls back to the label's prevalence.
    """
    prior = SHRINKAGE * prevalence(following)
    rates = [(np.sum(following & state, axis=0) + prior) / (np.sum(state, axis=0) + SHRINKAGE) for state in (~now, now)]
    return np.stack(rates)


def persist(rates: NDArray[np.float64], now: Flags) -> Scores:
    """The rate of each label's current state: rates [2, 25], now [n, 25] -> [n, 25]."""
    return np.asarray(np.where(now, rates[1], rates[0]), dtype=np.float32)


def _label_regression(current: Current, tuning_labels: Flags, seed: int) -> Predictions:
    chosen = sample(len(current.train), MAX_TRAIN, seed)
    x, y = current.train[chosen].astype(np.float64), current.train_next[chosen]
    model = logistic.fit(x, y, current.tuning.astype(np.float64), tuning_labels, _LABEL_GRID)
    notes = {**current.notes, "train_visits": len(chosen), "c": model.c, "c_tuned": model.tuned}
    return Predictions(
        model.predict(current.tuning.astype(np.float64)), model.predict(current.held_out.astype(np.float64)), notes
    )


def _history(cohort: Cohort, train: Rows, tuning: Rows, seed: int) -> Result:
    try:
        before, between, after = (read_history(cohort, split).features() for split in ("train", "tuning", "held_out"))
    except UnknownHistoryError as error:
        return NotComputable(str(error))
    chosen = sample(len(train), MAX_TRAIN, seed)
    model = logistic.fit(before[chosen], train.labels[chosen], between, tuning.labels, _LABEL_GRID)
    notes = {"train_visits": len(chosen), "of_train_visits": len(train), "c": model.c, "c_tuned": model.tuned}
    return Predictions(model.predict(between), model.predict(after), notes)


def _tfidf(cohort: Cohort, train: Rows, tuning: Rows, seed: int) -> Result:
    try:
        model = fit_tfidf(texts(cohort, "train"), train.labels, texts(cohort, "tuning"), tuning.labels, seed)
    except NoWordsError as error:
        return NotComputable(str(error))
    notes = {
        "train_visits": model.trained_on,
        "of_train_visits": len(train),
        "c": model.regression.c,
        "c_tuned": model.regression.tuned,
    }
    return Predictions(model.predict(texts(cohort, "tuning")), model.predict(texts(cohort, "held_out")), notes)


def _usable(*splits: Rows) -> int:
    return sum(int(rows.has_current.sum()) for rows in splits)


def _repeat(rates: NDArray[np.float64], n: int) -> Scores:
    return np.broadcast_to(rates, (n, NUM_LABELS)).astype(np.float32)
