"""Fits what a student has to beat: BASELINES, one row each. Train fits, tuning tunes; held_out gives features only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckd.evaluation import logistic
from ckd.evaluation.history import read_history
from ckd.evaluation.scores import Flags, NotComputableError, Rows, Scores, Splits, texts
from ckd.evaluation.tfidf import fit_tfidf, sample
from ckd.visits.grammar import names_the_labels
from ckd.visits.visit import SPLITS

SHRINKAGE = 2.0  # persistence: visits' worth of the label's prevalence added to each conditional rate
MAX_TRAIN = 200_000  # training visits for label_logreg and history_logreg
_LABEL_GRID = (0.01, 0.1, 1.0)


@dataclass(frozen=True)
class Predictions:
    """A baseline's probabilities, and notes on its fit for metrics.json."""

    tuning: Scores  # [m, L]
    held_out: Scores  # [n, L]
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NotComputable:
    """Why a baseline has no figures."""

    reason: str


Result = Predictions | NotComputable


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


def prevalence(labels: Flags, known: Flags) -> NDArray[np.float64]:
    """Share of positives among the known visits of each label [L], NaN without one; labels, known are [n, L]."""
    visits = known.sum(0)
    rates = np.divide((labels & known).sum(0), visits, out=np.full(len(visits), np.nan), where=visits > 0)
    return np.asarray(rates)


def persistence_rates(now: Flags, following: Flags, known: Flags) -> NDArray[np.float64]:
    """P(label | label absent, present now) per label, [2, L], from the known cells of now and following [n, L].

    (count + SHRINKAGE · prevalence) / (visits + SHRINKAGE): a state never seen in train gets the label's prevalence.
    """
    prior = SHRINKAGE * _guess(prevalence(following, known))
    states = (~now & known, now & known)
    return np.stack([((following & at).sum(0) + prior) / (at.sum(0) + SHRINKAGE) for at in states])


def persist(rates: NDArray[np.float64], now: Flags) -> Scores:
    """The rate of each label's current state: rates [2, L], now [n, L] -> [n, L]."""
    return np.asarray(np.where(now, rates[1], rates[0]), dtype=np.float32)


def _guess(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Training rates as predictions: a half for a label that no training visit knows."""
    return np.nan_to_num(rates, nan=0.5)


def _prevalence(data: Splits, seed: int) -> Predictions:
    rates = _guess(prevalence(data.train.labels, data.train.known))
    return _both(data, lambda rows: np.broadcast_to(rates, rows.labels.shape).astype(np.float32), {})


def _copy_forward(data: Splits, seed: int) -> Predictions:
    notes = _current_notes(data)
    without = int((~data.present_now).sum())
    if without:
        raise NotComputableError(f"{without} of {len(data.task)} labels cannot be there at the present visit")
    return _both(data, lambda rows: rows.current.astype(np.float32), notes)


def _persistence(data: Splits, seed: int) -> Predictions:
    notes, usable = _current_notes(data), _with_current(data)
    train = data.train
    rates = persistence_rates(train.current[usable], train.labels[usable], train.known[usable])
    rates[:, ~data.present_now] = _guess(prevalence(train.labels, train.known))[~data.present_now]
    return _both(data, lambda rows: persist(rates, rows.current), notes)


def _label_logreg(data: Splits, seed: int) -> Predictions:
    notes, usable = _current_notes(data), _with_current(data)
    current = (data.train.current[usable], data.tuning.current, data.held_out.current)
    return _regression([logistic.design(one) for one in current], usable, data, seed, notes)


def _history_logreg(data: Splits, seed: int) -> Predictions:
    features = [read_history(data.cohort, split).features() for split in SPLITS]
    notes = {"train_visits": 0, "of_train_visits": len(data.train)}
    return _regression(features, np.full(len(data.train), True), data, seed, notes)


def _tfidf_logreg(data: Splits, seed: int) -> Predictions:
    train, tuning = texts(data.cohort, "train"), texts(data.cohort, "tuning")
    model = fit_tfidf(train, data.train, tuning, data.tuning, seed)
    notes = {"train_visits": model.trained_on, "of_train_visits": len(data.train), **_tuned(model.regression)}
    return Predictions(
        model.predict(texts(data.cohort, "tuning")), model.predict(texts(data.cohort, "held_out")), notes
    )


def _both(data: Splits, predict: Callable[[Rows], Scores], notes: dict[str, Any]) -> Predictions:
    return Predictions(predict(data.tuning), predict(data.held_out), notes)


def _regression(
    features: Sequence[logistic.Features], usable: Flags, data: Splits, seed: int, notes: dict[str, Any]
) -> Predictions:
    """A logistic regression from the features of train, tuning and held_out on at most MAX_TRAIN visits of train.

    The features of train are those of its `usable` visits [n].
    """
    of_train, tuning, held_out = features
    chosen = sample(of_train.shape[0], MAX_TRAIN, seed)
    places = np.flatnonzero(usable)[chosen]
    train = logistic.Examples(of_train[chosen], data.train.labels[places], data.train.known[places])
    model = logistic.fit(train, logistic.Examples(tuning, data.tuning.labels, data.tuning.known), _LABEL_GRID)
    notes = {**notes, "train_visits": len(chosen), **_tuned(model)}
    return Predictions(model.predict(tuning), model.predict(held_out), notes)


def _tuned(model: logistic.OneVsRest) -> dict[str, Any]:
    return {"c": model.c, "c_tuned": model.tuned}


def _current_notes(data: Splits) -> dict[str, Any]:
    """Where the labels of the current visits are from.

    Raises NotComputableError unless every tuning and held_out visit has those that can be there now: all models are
    scored on the same visits.
    """
    clause = ", and no treatment clause names diseases" if names_the_labels(data.task) else ""
    for name, rows in (("tuning", data.tuning), ("held_out", data.held_out)):
        unknown = int((~_complete(data, rows)).sum())
        if unknown:
            raise NotComputableError(f"current labels unknown for {unknown} of {len(rows)} {name} visits{clause}")
    splits = (data.train, data.tuning, data.held_out)
    guessed, known = sum(r.from_clause.sum() for r in splits), sum(_complete(data, r).sum() for r in splits)
    source = "current_labels" if not guessed else "treatment clause" if guessed == known else "both"
    notes = {"current_labels_from": source, "train_visits": int(_complete(data, data.train).sum())}
    without = int((~data.present_now).sum())
    return {**notes, "labels_without_present": without} if without else notes


def _complete(data: Splits, rows: Rows) -> Flags:
    """Which visits tell of every label that can be there now whether it is [n]; none where no label can."""
    return np.asarray(rows.has_current[:, data.present_now].all(1) & data.present_now.any())


def _with_current(data: Splits) -> Flags:
    """Which visits of train have current labels [n]."""
    found = _complete(data, data.train)
    if not found.any():
        raise NotComputableError("no training visit has known current labels")
    return found


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
