"""Chooses and fits each label's map from logits to probabilities: shared temperature, Platt or isotonic.

The kind with the least cross-validated log-loss inside tuning is taken; a fold holds whole groups (patients).
Reads tuning only.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from ckd.calibration import UNCHANGED, Calibration, Floats, Map, sigmoid
from ckd.config import EvaluationConfig
from ckd.evaluation.fits import fit_platt, fit_temperature, platt_targets
from ckd.evaluation.scores import Flags, Rows, read_split
from ckd.evaluation.thresholds import choose_thresholds
from ckd.visits.cohort import Cohort

FOLDS = 5
NEEDED = {"temperature": 0, "platt": 20, "isotonic": 100}  # tuning visits of a label's rarer class; simplest first
_SMALLEST = 2.0**-25  # half a float32 step below 1: a probability that was rounded to 0 or 1


def calibrate_student(cohort: Cohort, wanted: EvaluationConfig, seed: int) -> Calibration:
    """The student's maps and thresholds from the cohort's tuning visits.

    Raises ArtifactError when predictions are missing.
    """
    tuning = read_split(cohort, "tuning", ["predictions"])
    return calibrate(tuning, tuning.scores["predictions"], wanted, seed)


def calibrate(tuning: Rows, p_NL: NDArray[Any], wanted: EvaluationConfig, seed: int) -> Calibration:
    """Maps and thresholds of a model from its tuning probabilities [n, L].

    Thresholds are chosen on cross-fitted calibrated probabilities: each visit's map was fitted without its group.
    With fewer than two groups nothing can be fitted: the maps are `none`, and thresholds use the given probabilities.
    """
    z_NL = log_odds(p_NL)
    fold_N = group_folds(tuning.groups, seed)
    if not len(fold_N) or not fold_N.any():
        maps, crossed_NL = (UNCHANGED,) * len(tuning.task), sigmoid(z_NL)
    else:
        labels, known = tuning.labels, tuning.known
        crossed = cross_fitted(z_NL, labels, known, fold_N)
        kinds = choose_kinds(crossed, labels, known)
        maps = fit(z_NL, labels, known, kinds)
        crossed_NL = np.stack([crossed[kind][:, j] for j, kind in enumerate(kinds)], axis=1)
    chosen = choose_thresholds(tuning, crossed_NL, wanted)
    return Calibration(maps, chosen.values, chosen.reasons, wanted.threshold_for, wanted.threshold_target)


def log_odds(p: NDArray[Any]) -> Floats:
    """The logits of probabilities, finite: 0 and 1 count as half a float32 step inside.

    A float32 probability gives its logit back within 3e-8 / (1 - p). That moves no calibrated probability by more than
    the slope times this rounding.
    """
    inside = np.clip(np.asarray(p, np.float64), _SMALLEST, 1 - _SMALLEST)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def group_folds(groups_N: NDArray[np.uint64], seed: int) -> NDArray[np.int64]:
    """A seeded fold of each row's group, int64 [n] below FOLDS; folds differ by one group at most.

    The order of rows plays no part.
    """
    keys, position_N = np.unique(groups_N, return_inverse=True)
    fold = np.random.default_rng([seed, len(keys)]).permutation(len(keys)) % FOLDS
    return np.asarray(fold[position_N], np.int64)


def cross_fitted(z_NL: Floats, y_NL: Flags, known_NL: Flags, fold_N: NDArray[np.int64]) -> dict[str, Floats]:
    """Kind -> calibrated probabilities [n, L] of every visit from maps fitted on the known cells of the other folds.

    NaN where a label has too few visits for the kind.
    """
    out = {kind: np.full(z_NL.shape, np.nan) for kind in NEEDED}
    enough = {kind: np.flatnonzero(_rarer(y_NL, known_NL) >= needed) for kind, needed in NEEDED.items()}
    for fold in range(int(fold_N.max()) + 1):
        inside, others = fold_N == fold, fold_N != fold
        shared = fit_temperature(z_NL[others], y_NL[others], known_NL[others])
        for kind, labels in enough.items():
            for j in labels:
                of_N = others & known_NL[:, j]
                one = shared if kind == "temperature" else _fit(kind, z_NL[of_N, j], y_NL[of_N, j])
                out[kind][inside, j] = one(z_NL[inside, j])
    return out


def choose_kinds(crossed: Mapping[str, Floats], y_NL: Flags, known_NL: Flags) -> list[str]:
    """Per label the kind with the least cross-validated log-loss; of equals the simpler one."""
    losses = np.stack([_log_loss(p_NL, y_NL, known_NL) for p_NL in crossed.values()])  # [kinds, L]
    kinds = list(crossed)
    return [kinds[int(np.argmin(losses[:, j]))] for j in range(losses.shape[1])]


def fit(z_NL: Floats, y_NL: Flags, known_NL: Flags, kinds: list[str]) -> tuple[Map, ...]:
    """The maps of the given kinds, one per label, fitted on all known cells."""
    shared = fit_temperature(z_NL, y_NL, known_NL)
    return tuple(
        shared if kind == "temperature" else _fit(kind, z_NL[known_N, j], y_NL[known_N, j])
        for j, (kind, known_N) in enumerate(zip(kinds, known_NL.T, strict=True))
    )


def fit_isotonic(z_N: NDArray[Any], y_N: Flags) -> Map:
    """The rising points with the least squared error (pool adjacent violators: Zadrozny and Elkan 2002).

    They stay between Platt's targets, so that no visit is certain. `none` without visits.
    """
    if not len(y_N):
        return UNCHANGED
    targets = platt_targets(y_N)
    model = IsotonicRegression(y_min=float(targets.min()), y_max=float(targets.max()), out_of_bounds="clip").fit(
        z_N, y_N.astype(np.float64)
    )
    return Map(
        "isotonic", logits=tuple(model.X_thresholds_.tolist()), probabilities=tuple(model.y_thresholds_.tolist())
    )


def _fit(kind: str, z_N: Floats, y_N: Flags) -> Map:
    return fit_platt(z_N, y_N) if kind == "platt" else fit_isotonic(z_N, y_N)


def _rarer(y_NL: Flags, known_NL: Flags) -> NDArray[np.int64]:
    return np.asarray(np.minimum((y_NL & known_NL).sum(0), (~y_NL & known_NL).sum(0)))


def _log_loss(p_NL: Floats, y_NL: Flags, known_NL: Flags) -> Floats:
    """Sum per label [L] over the known visits; infinite where the kind was not fitted."""
    with np.errstate(divide="ignore"):
        loss = -np.where(known_NL, np.log(np.where(y_NL, p_NL, 1 - p_NL)), 0.0).sum(0)
    return np.asarray(np.where(np.isnan(loss), np.inf, loss))
