"""Fits what a student has to beat: BASELINES, one row each. Train fits, tuning tunes; held_out gives features only."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckd.evaluation import logistic
from ckd.evaluation.history import read_history
from ckd.evaluation.scores import Flags, NotComputableError, Scores, Splits, texts
from ckd.evaluation.tfidf import fit_tfidf, sample
from ckd.visits.labels import NUM_LABELS

SHRINKAGE = 2.0  # persistence: visits' worth of the label's prevalence added to each conditional rate
MAX_TRAIN = 200_000  # training visits for label_logreg and history_logreg
_LABEL_GRID = (0.01, 0.1, 1.0)


@dataclass(frozen=True)
class Predictions:
    """A baseline's probabilities, and notes on its fit for metrics.json."""

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
    """The labels of the current visits: all that the label baselines get of held_out."""

    train: Flags  # [rows of train with known current labels, 25]
    train_next: Flags  # the same rows' labels at the next visit
    tuning: Flags
    held_out: Flags
    notes: dict[str, Any]


def fit_all(data: Splits, seed: int, say: Callable[[str], None]) -> dict[str, Result]:
    """Every baseline by name, or why it cannot be computed."""
    results: dict[str, Result] = {}
    reads = ""
    for name, baseline in BASELINES.items():
        if baseline.reads != reads:
            reads = baseline.reads
            say(f"baselines: {reads}")
        try:
            results[name] = baseline.fit(data, seed)
        except NotComputableError as error:
            results[name] = NotComputable(str(error))
    return results


def prevalence(labels: Flags) -> NDArray[np.float64]:
    """Share of positive visits per label [25]; labels [n, 25], n > 0."""
    return np.asarray(labels.mean(0), dtype=np.float64)


def current_visits(data: Splits) -> Current:
    """The current visits' labels.

    Raises NotComputableError unless every tuning and held_out visit has them: all models are scored on the same visits.
    """
    for name, rows in (("tuning", data.tuning), ("held_out", data.held_out)):
        unknown = int((~rows.has_current).sum())
        if unknown:
            raise NotComputableError(
                f"current labels unknown for {unknown} of {len(rows)} {name} visits, "
                "and no treatment clause names diseases"
            )
    splits = (data.train, data.tuning, data.held_out)
    guessed = sum(int(rows.from_clause.sum()) for rows in splits)
    known = sum(int(rows.has_current.sum()) for rows in splits)
    source = "current_labels" if not guessed else "treatment clause" if guessed == known else "both"
    usable = data.train.has_current
    notes = {"current_labels_from": source, "train_visits": int(usable.sum())}
    return Current(
        data.train.current[usable], data.train.labels[usable], data.tuning.current, data.held_out.current, notes
    )


def persistence_rates(now: Flags, following: Flags) -> NDArray[np.float64]:
    """P(label at the next visit | label absent, present now) per label, [2, 25], from now and following [n, 25].

    (count + SHRINKAGE · prevalence) / (visits + SHRINKAGE): a state never seen in train gets the label's prevalence.
    """
    prior = SHRINKAGE * prevalence(following)
    rates = [(np.sum(following & state, axis=0) + prior) / (np.sum(state, axis=0) + SHRINKAGE) for state in (~now, now)]
    return np.stack(rates)


def persist(rates: NDArray[np.float64], now: Flags) -> Scores:
    """The rate of each label's current state: rates [2, 25], now [n, 25] -> [n, 25]."""
    return np.asarray(np.where(now, rates[1], rates[0]), dtype=np.float32)


def _prevalence(data: Splits, seed: int) -> Predictions:
    rates = prevalence(data.train.labels)
    tuning, held_out = (
        np.broadcast_to(rates, (len(rows), NUM_LABELS)).astype(np.float32) for rows in (data.tuning, data.held_out)
    )
    return Predictions(tuning, held_out)


def _copy_forward(data: Splits, seed: int) -> Predictions:
    current = current_visits(data)
    return Predictions(current.tuning.astype(np.float32), current.held_out.astype(np.float32), current.notes)


def _persistence(data: Splits, seed: int) -> Predictions:
    current = _with_training(current_visits(data))
    rates = persistence_rates(current.train, current.train_next)
    return Predictions(persist(rates, current.tuning), persist(rates, current.held_out), current.notes)


def _label_logreg(data: Splits, seed: int) -> Predictions:
    current = _with_training(current_visits(data))
    chosen = sample(len(current.train), MAX_TRAIN, seed)
    x, y = current.train[chosen].astype(np.float64), current.train_next[chosen]
    tuning, held_out = (flags.astype(np.float64) for flags in (current.tuning, current.held_out))
    model = logistic.fit(x, y, tuning, data.tuning.labels, _LABEL_GRID)
    notes = {**current.notes, "train_visits": len(chosen), "c": model.c, "c_tuned": model.tuned}
    return Predictions(model.predict(tuning), model.predict(held_out), notes)


def _history_logreg(data: Splits, seed: int) -> Predictions:
    train, tuning, held_out = (read_history(data.cohort, split).features() for split in ("train", "tuning", "held_out"))
    chosen = sample(len(data.train), MAX_TRAIN, seed)
    model = logistic.fit(train[chosen], data.train.labels[chosen], tuning, data.tuning.labels, _LABEL_GRID)
    notes = {"train_visits": len(chosen), "of_train_visits": len(data.train), "c": model.c, "c_tuned": model.tuned}
    return Predictions(model.predict(tuning), model.predict(held_out), notes)


def _tfidf_logreg(data: Splits, seed: int) -> Predictions:
    train, tuning = texts(data.cohort, "train"), texts(data.cohort, "tuning")
    model = fit_tfidf(train, data.train.labels, tuning, data.tuning.labels, seed)
    notes = {
        "train_visits": model.trained_on,
        "of_train_visits": len(data.train),
        "c": model.regression.c,
        "c_tuned": model.regression.tuned,
    }
    return Predictions(
        model.predict(texts(data.cohort, "tuning")), model.predict(texts(data.cohort, "held_out")), notes
    )


def _with_training(current: Current) -> Current:
    if not len(current.train):
        raise NotComputableError("no training visit has known current labels")
    return current


@dataclass(frozen=True)
class Baseline:
    """A baseline for readers, and its fit, which raises NotComputableError where it has no figures."""

    title: str
    meaning: str  # a sentence
    reads: str  # what of the visits, for the console
    fit: Callable[[Splits, int], Predictions]  # splits, seed


_CURRENT = "labels of the current visit"
BASELINES = {  # name in metrics.json -> baseline, the simple ones first
    "prevalence": Baseline("Prevalence", "Everyone gets the training rate of the disease.", "", _prevalence),
    "copy_forward": Baseline(
        "Same diseases again", "The diseases of the present visit again.", _CURRENT, _copy_forward
    ),
    "persistence": Baseline(
        "Persistence",
        "How often the disease was there next time in training, given whether it is there now.",
        _CURRENT,
        _persistence,
    ),
    "label_logreg": Baseline(
        "Regression on diseases",
        "A logistic regression on the diseases of the present visit.",
        _CURRENT,
        _label_logreg,
    ),
    "history_logreg": Baseline(
        "Regression on history",
        "A logistic regression on the diseases of the present and the earlier visits.",
        "earlier visits",
        _history_logreg,
    ),
    "tfidf_logreg": Baseline(
        "Regression on words",
        "A logistic regression on the words of the visit (TF-IDF).",
        "words of the visit",
        _tfidf_logreg,
    ),
}
NAMES = tuple(BASELINES)
