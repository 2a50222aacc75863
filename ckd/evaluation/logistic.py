"""Fits one-vs-rest logistic regressions with one C, chosen by tuning log-loss."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, hstack
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from ckd.evaluation.scores import Flags, Scores

MAX_ITERATIONS = 100
MOST_DENSE = (
    200  # columns of a dense design; wider ones are nearly empty: 283 labels and their past would be 7 kB a visit
)
Features = Any  # a dense array or scipy sparse matrix [n, features]


@dataclass(frozen=True)
class OneVsRest:
    """A fitted logistic regression per label."""

    weight: NDArray[np.float64]  # [L, features]
    bias: NDArray[np.float64]  # [L]
    c: float  # inverse L2 strength, as in scikit-learn
    tuned: bool  # False: without tuning visits the middle of the grid is taken

    def predict(self, x: Features) -> Scores:
        """Probabilities [n, L] of features [n, features]."""
        return np.asarray(1 / (1 + np.exp(-np.clip(self.logits(x), -50, 50))), dtype=np.float32)

    def logits(self, x: Features) -> NDArray[np.float64]:
        """Log-odds [n, L] of features [n, features]."""
        return np.asarray(x @ self.weight.T) + self.bias


@dataclass(frozen=True)
class Examples:
    """Features and labels to learn from, or to choose by."""

    x: Features  # [n, features]
    y: Flags  # [n, L]
    known: Flags  # [n, L] the cells that count


def fit(train: Examples, tuning: Examples, grid: Sequence[float]) -> OneVsRest:
    """Fit train for every C of the ascending grid; keep the C with the least tuning log-loss.

    A label is fitted on the visits that know it. One with one class in train gets a constant probability
    (positives + ½) / (n + 1).
    """
    candidates = _fit_path(train, grid)
    if not tuning.known.any():
        middle = candidates[len(grid) // 2]
        return OneVsRest(middle.weight, middle.bias, middle.c, tuned=False)
    return min(candidates, key=lambda model: log_loss(tuning.y, model.logits(tuning.x), tuning.known))


def design(*blocks: NDArray[Any]) -> Features:
    """Blocks of columns [n, ·] side by side as float64, sparse where there are more than MOST_DENSE."""
    if sum(block.shape[1] for block in blocks) <= MOST_DENSE:
        return np.concatenate(blocks, axis=1).astype(np.float64)
    return hstack([csr_array(block) for block in blocks], format="csr", dtype=np.float64)


def log_loss(y: Flags, logits: NDArray[np.float64], known: Flags) -> float:
    """Mean binary cross-entropy (nats) of log-odds against labels, over the known cells; all of the same shape."""
    return float(np.mean((np.logaddexp(0, logits) - y * logits)[known]))


def _fit_path(train: Examples, grid: Sequence[float]) -> list[OneVsRest]:
    k = train.y.shape[1]
    weight, bias = np.zeros((len(grid), k, train.x.shape[1])), np.zeros((len(grid), k))
    for j, known in enumerate(train.known.T):
        x, y = (train.x, train.y[:, j]) if known.all() else (train.x[known], train.y[known, j])
        n, positives = len(y), int(y.sum())
        if positives in (0, n):
            bias[:, j] = np.log((positives + 0.5) / (n - positives + 0.5))
            continue
        model = LogisticRegression(warm_start=True, max_iter=MAX_ITERATIONS, tol=1e-3)  # each C starts from the last
        for i, c in enumerate(grid):
            model.set_params(C=c)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # near its optimum it is still that baseline
                model.fit(x, y)
            weight[i, j], bias[i, j] = model.coef_[0], model.intercept_[0]
    return [OneVsRest(weight[i], bias[i], float(c), tuned=True) for i, c in enumerate(grid)]
