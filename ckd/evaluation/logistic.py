"""Fits 25 one-vs-rest logistic regressions with one C, chosen by tuning log-loss."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from ckd.evaluation.scores import Flags, Scores

MAX_ITERATIONS = 100
Features = Any  # a dense array or scipy sparse matrix [n, features]


@dataclass(frozen=True)
class OneVsRest:
    """A fitted logistic regression per label."""

    weight: NDArray[np.float64]  # [25, features]
    bias: NDArray[np.float64]  # [25]
    c: float  # inverse L2 strength, as in scikit-learn
    tuned: bool  # False: without tuning visits the middle of the grid is taken

    def predict(self, x: Features) -> Scores:
        """Probabilities [n, 25] of features [n, features]."""
        return np.asarray(1 / (1 + np.exp(-np.clip(self.logits(x), -50, 50))), dtype=np.float32)

    def logits(self, x: Features) -> NDArray[np.float64]:
        """Log-odds [n, 25] of features [n, features]."""
        return np.asarray(x @ self.weight.T) + self.bias


def fit(x: Features, y: Flags, x_tuning: Features, y_tuning: Flags, grid: Sequence[float]) -> OneVsRest:
    """Fit x [n, features] to y [n, 25] for every C of the ascending grid; keep the C with the least tuning log-loss.

    A label with one class in train gets a constant probability (positives + ½) / (n + 1).
    """
    candidates = _fit_path(x, y, grid)
    if not len(y_tuning):
        middle = candidates[len(grid) // 2]
        return OneVsRest(middle.weight, middle.bias, middle.c, tuned=False)
    return min(candidates, key=lambda model: log_loss(y_tuning, model.logits(x_tuning)))


def log_loss(y: Flags, logits: NDArray[np.float64]) -> float:
    """Mean binary cross-entropy (nats) of log-odds against labels of the same shape."""
    return float(np.mean(np.logaddexp(0, logits) - y * logits))


def _fit_path(x: Features, y: Flags, grid: Sequence[float]) -> list[OneVsRest]:
    n, k = y.shape
    weight, bias = np.zeros((len(grid), k, x.shape[1])), np.zeros((len(grid), k))
    for j in range(k):
        positives = int(y[:, j].sum())
        if positives in (0, n):
            bias[:, j] = np.log((positives + 0.5) / (n - positives + 0.5))
            continue
        model = LogisticRegression(warm_start=True, max_iter=MAX_ITERATIONS, tol=1e-3)  # each C starts from the last
        for i, c in enumerate(grid):
            model.set_params(C=c)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # near its optimum it is still that baseline
                model.fit(x, y[:, j])
            weight[i, j], bias[i, j] = model.coef_[0], model.intercept_[0]
    return [OneVsRest(weight[i], bias[i], float(c), tuned=True) for i, c in enumerate(grid)]
