"""Fits the parametric calibration maps to logits and labels: Platt's and one temperature, by Newton's method."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckd.calibration import UNCHANGED, Flags, Floats, Map, sigmoid

COOLEST, HOTTEST = 0.01, 100.0  # temperatures outside are not believed
_ITERATIONS, _ENOUGH = 100, 1e-10


def fit_platt(logits_N: NDArray[Any], y_N: Flags) -> Map:
    """Slope and intercept with the least cross-entropy against Platt's targets; `none` without visits.

    Targets (n₊ + 1) / (n₊ + 2) and 1 / (n₋ + 2) keep separable data finite: Platt 1999; Lin, Lin and Weng 2007,
    "A note on Platt's probabilistic outputs for support vector machines". A slope below 0 would reverse the ranking:
    then it is 0.
    """
    if not len(y_N):
        return UNCHANGED
    t_N = platt_targets(y_N)
    slope, intercept = fit_logistic(logits_N, t_N)
    if slope <= 0:
        return Map("platt", slope=0.0, intercept=_log_odds(float(t_N.mean())))
    return Map("platt", slope=slope, intercept=intercept)


def fit_logistic(logits_N: NDArray[Any], targets_N: NDArray[Any]) -> tuple[float, float]:
    """Slope and intercept of sigmoid(slope·z + intercept) with the least cross-entropy to targets in 0..1.

    Slope 0 where the logits are constant. Without a finite optimum (separable classes) it stops on the way.
    """
    z_N, t_N = np.asarray(logits_N, np.float64), np.asarray(targets_N, np.float64)
    center, scale, base = float(z_N.mean()), float(z_N.std()), _log_odds(float(t_N.mean()))
    if not scale > _ENOUGH * max(1.0, abs(center)):
        return 0.0, base
    columns_N2 = np.stack([(z_N - center) / scale, np.ones_like(z_N)], axis=1)
    slope, intercept = _newton(columns_N2, t_N, np.array([0.0, base]))
    return float(slope / scale), float(intercept - slope * center / scale)


def fit_temperature(logits_NL: NDArray[Any], y_NL: Flags, known_NL: Flags) -> Map:
    """The one temperature, COOLEST to HOTTEST, with the least cross-entropy to the Platt targets of all known cells.

    Guo et al. 2017, "On calibration of modern neural networks".
    """
    z_C = np.asarray(logits_NL, np.float64)[known_NL]  # the known cells, row after row
    t_NL = np.zeros(y_NL.shape)
    for j, known_N in enumerate(known_NL.T):
        t_NL[known_N, j] = platt_targets(y_NL[known_N, j])
    if not z_C.any():
        return UNCHANGED
    scale = float(np.sqrt(np.mean(z_C**2)))
    (warmth,) = _newton((z_C / scale).reshape(-1, 1), t_NL[known_NL], np.array([scale]))
    return Map("temperature", temperature=float(1 / np.clip(warmth / scale, 1 / HOTTEST, 1 / COOLEST)))


def platt_targets(y_N: Flags) -> Floats:
    """(n₊ + 1) / (n₊ + 2) for the positives, 1 / (n₋ + 2) for the negatives."""
    positives = int(y_N.sum())
    return np.where(y_N, (positives + 1) / (positives + 2), 1 / (len(y_N) - positives + 2))


def _newton(x_NC: Floats, t_N: Floats, start_C: Floats) -> Floats:
    """The weights of the logistic regression of targets t on x. The loss is convex; a step that raises it is halved."""
    w_C, loss = start_C, _cross_entropy(x_NC @ start_C, t_N)
    for _ in range(_ITERATIONS):
        p_N = sigmoid(x_NC @ w_C)
        gradient_C = x_NC.T @ (p_N - t_N) / len(t_N)
        if np.abs(gradient_C).max() < _ENOUGH:
            break
        hessian_CC = (x_NC * (p_N * (1 - p_N))[:, None]).T @ x_NC / len(t_N) + 1e-12 * np.eye(len(w_C))
        step_C = np.linalg.solve(hessian_CC, gradient_C)
        size = 1.0
        while (after := _cross_entropy(x_NC @ (w_C - size * step_C), t_N)) > loss and size > _ENOUGH:
            size /= 2
        if after > loss:
            break
        w_C, loss = w_C - size * step_C, after
    return w_C


def _cross_entropy(z_N: Floats, t_N: Floats) -> float:
    return float(np.mean(np.logaddexp(0, z_N) - t_N * z_N))


def _log_odds(share: float) -> float:
    return math.log(share / (1 - share))
