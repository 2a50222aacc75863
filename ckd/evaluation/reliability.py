"""Measures on held_out whether probabilities are the rates that happen: recalibration, Brier skill, calibration error.

On synthetic cohorts the distance to the true probability too. Undefined is None.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckd.calibration import Calibration, Floats
from ckd.evaluation.calibrate import log_odds
from ckd.evaluation.fits import fit_logistic
from ckd.evaluation.metrics import brier, brier_skill, mean
from ckd.evaluation.scores import Flags, Rows

BINS = 10
FIGURES = ("slope", "intercept", "in_the_large", "brier", "brier_skill", "ece", "ece_of_constant", "distance_to_truth")
Figures = dict[str, Any]


def reliability(
    rows: Rows,
    p_NL: NDArray[Any],
    calibration: Calibration | None,
    train_prevalence: Floats,
    chosen: Sequence[int],
    truth_NL: NDArray[Any] | None,
) -> Figures:
    """`raw` and `calibrated` figures of held_out probabilities [n, L], and how many labels have each kind of map.

    `calibrated` is None without a calibration. `chosen` are the labels of the macro average; `truth_NL` the true
    probabilities where they are known.
    """

    def block(p: NDArray[Any]) -> Figures:
        return summary(rows, np.asarray(p, np.float64), train_prevalence, chosen, truth_NL)

    calibrated = None if calibration is None else block(calibration.probabilities(log_odds(p_NL)))
    kinds = {} if calibration is None else Counter(one.kind for one in calibration.maps)
    return {"raw": block(p_NL), "calibrated": calibrated, "kinds": dict(sorted(kinds.items()))}


def summary(
    rows: Rows, p_NL: Floats, train_prevalence: Floats, chosen: Sequence[int], truth_NL: NDArray[Any] | None
) -> Figures:
    """Per label, macro (mean over `chosen`; None where one of them is undefined) and pooled; of the known cells."""
    constant_NL = np.broadcast_to(train_prevalence, p_NL.shape)

    def at(cells: Any) -> Figures:
        truth = None if truth_NL is None else truth_NL[cells]
        return figures(rows.labels[cells], p_NL[cells], constant_NL[cells], truth)

    per_label = [at((known_N, j)) for j, known_N in enumerate(rows.known.T)]
    pooled = at(rows.known)
    return {
        "macro": {"labels": len(chosen), **{name: mean([per_label[j][name] for j in chosen]) for name in FIGURES}},
        "pooled": pooled,
        "labels_with_brier_skill": sum(one["brier_skill"] is not None and one["brier_skill"] > 0 for one in per_label),
        "per_label": dict(zip(rows.task.names, per_label, strict=True)),
    }


def figures(y_N: Flags, p_N: Floats, constant_N: Floats, truth_N: NDArray[Any] | None) -> Figures:
    """All figures of one column: labels, probabilities, a constant's probabilities, the true ones (all [n])."""
    slope, intercept = recalibration(y_N, p_N)
    return {
        "slope": slope,
        "intercept": intercept,
        "in_the_large": float(p_N.mean() - y_N.mean()) if len(y_N) else None,
        "brier": brier(y_N, p_N),
        "brier_skill": brier_skill(y_N, p_N, constant_N),
        "ece": expected_calibration_error(y_N, p_N),
        "ece_of_constant": expected_calibration_error(y_N, constant_N),
        "distance_to_truth": None if truth_N is None or not len(p_N) else float(np.abs(p_N - truth_N).mean()),
    }


def recalibration(y_N: Flags, p_N: Floats) -> tuple[float | None, float | None]:
    """Slope and intercept of the logistic regression of labels on log-odds (Cox 1958): 1 and 0 for a calibrated model.

    None with one class, with constant probabilities, and where a threshold separates the classes (no finite slope).
    """
    if not len(y_N) or y_N.all() or not y_N.any() or p_N.min() == p_N.max():
        return None, None
    if p_N[~y_N].max() <= p_N[y_N].min() or p_N[y_N].max() <= p_N[~y_N].min():
        return None, None
    return fit_logistic(log_odds(p_N), y_N.astype(np.float64))


def expected_calibration_error(y_N: Flags, p_N: Floats) -> float | None:
    """Mean over visits of |mean p - mean y| of their bin; None without visits, or where a p is NaN.

    BINS bins of equally many visits by p; visits with equal p are always in one bin.
    """
    if not len(y_N) or np.isnan(p_N).any():
        return None
    below_N = np.searchsorted(np.sort(p_N), p_N, side="left")  # the same for equal probabilities
    bin_N = below_N * BINS // len(p_N)
    gaps = np.bincount(bin_N, weights=p_N - y_N, minlength=BINS)
    return float(np.abs(gaps).sum() / len(p_N))
