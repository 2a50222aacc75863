"""Which epoch's weights win: the tuning score and early stopping."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

import numpy as np

from ckd.student.examples import Examples

MIN_VISITS = 50  # fewer tuning visits choose nothing
MIN_POSITIVES = 5  # a label with fewer tuning positives does not count
MIN_LABELS = 10  # with fewer such labels (of fewer: without all) the score is the tuning loss
MIN_EVIDENCE = MIN_LABELS * MIN_POSITIVES  # positives of all such labels together, which few labels need too
Metric = Literal["macro_auprc", "bce", "last_epoch"]


def all_labels(tuning: Examples | None) -> np.ndarray:
    """The true labels [n, L] of all tuning visits, NaN where unknown (n and L may be 0)."""
    if not tuning or not tuning.shards:
        return np.zeros((0, 0), np.float32)
    return np.concatenate([tuning[shard].hard for shard in range(len(tuning.shards))])


def choose_metric(hard_nl: np.ndarray) -> tuple[Metric, list[int], str]:
    """Choose, before training, the score that the tuning labels [n, L] are enough for, its labels, and say why."""
    visits, positives_l, negatives_l = len(hard_nl), (hard_nl == 1).sum(0), (hard_nl == 0).sum(0)
    every = "all epochs are trained and the last one is kept"
    if visits < MIN_VISITS:
        return "last_epoch", [], f"{visits} tuning visits (fewer than {MIN_VISITS}): {every}"
    if not ((positives_l > 0) & (negatives_l > 0)).any():
        return "last_epoch", [], f"no label has both classes among {visits} tuning visits: {every}"
    labels = [int(i) for i in np.flatnonzero(positives_l >= MIN_POSITIVES)]
    counted = f"{len(labels)} labels with at least {MIN_POSITIVES} tuning positives"
    least, evidence = min(MIN_LABELS, len(positives_l)), int(positives_l[labels].sum())
    if len(labels) < least or evidence < MIN_EVIDENCE:
        few = f"fewer than {least}" if len(labels) < least else f"{evidence} positives, fewer than {MIN_EVIDENCE}"
        why = f"{counted} ({few}): the best epoch is that of the lowest tuning BCE"
        return "bce", list(range(hard_nl.shape[1])), why
    return "macro_auprc", labels, f"the best epoch is that of the highest macro AUPRC over {counted}"


def score(metric: Metric, labels: list[int], logits_nl: np.ndarray, hard_nl: np.ndarray) -> float:
    """Score logits [n, L]: macro average precision over `labels`, minus mean BCE, or 0. Higher is better.

    Each over the known cells. Chosen by `choose_metric`, every label of `labels` has some.
    """
    if metric == "last_epoch":
        return 0.0
    z, y, known = logits_nl.astype(np.float64), hard_nl, ~np.isnan(hard_nl)
    if metric == "bce":
        return -float((np.logaddexp(0, z) - y * z)[known].mean())
    rows = {label: known[:, label] for label in labels}
    return float(np.mean([average_precision(y[known, n], z[known, n]) for n, known in rows.items()]))


def average_precision(truth_n: np.ndarray, score_n: np.ndarray) -> float:
    """Σ (R_k - R_{k-1}) · P_k over the distinct scores from high to low, as in sklearn.metrics; NaN without positives.

    Written out here because importing scikit-learn takes longer than training an epoch of a small cohort.
    """
    order = np.argsort(-score_n, kind="stable")
    hits, sorted_scores = np.cumsum(truth_n[order]), score_n[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(sorted_scores)), len(order) - 1)
    positives = hits[last_of_tie]
    if positives[-1] == 0:
        return float("nan")
    precision = positives / (last_of_tie + 1)
    recall = positives / positives[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


@dataclass
class Selection:
    """Early stopping: the best epoch so far and how long ago it was. Stored in every checkpoint."""

    metric: Metric
    patience: int
    epochs: int
    best_score: float | None = None
    best_step: int | None = None
    best_epoch: int | None = None
    finished: bool = False
    history: list[dict[str, float]] = field(default_factory=list)

    def update(self, epoch: int, step: int, value: float) -> None:
        """Take in the score after `epoch` (from 1). The first of equal scores wins, without a metric the last epoch."""
        self.history.append({"epoch": epoch, "step": step, "score": value})
        if self.metric == "last_epoch" or self.best_score is None or value > self.best_score:
            self.best_score, self.best_step, self.best_epoch = value, step, epoch
        waited = epoch - (self.best_epoch or 0)
        self.finished = epoch >= self.epochs or (self.metric != "last_epoch" and waited >= self.patience)

    def to_json(self) -> dict[str, Any]:
        """As stored in a checkpoint."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Inverse of to_json."""
        return cls(**values)
