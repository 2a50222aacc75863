"""Fits the K fold heads and the final one together: one streaming pass over the stored embeddings per epoch.

All are one matrix [K+1, L, hidden] on standardised embeddings. Head k's loss is masked to the rows outside fold k, and
each head keeps its own best epoch and stops by itself, so no label of a subject reaches the head of its own fold. A
label's loss is the mean over the cells in which it is known; the others have no part in anything.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from ckd.config import Config, HeadConfig
from ckd.errors import ConfigError, DataError
from ckd.store.artifacts import Stage
from ckd.teacher.folds import Folds
from ckd.teacher.head import EmbeddingReader, Heads
from ckd.visits.cohort import Cohort
from ckd.visits.visit import Split

PATIENCE = 5  # epochs without a better tuning loss after which a head keeps its best
# Embeddings [n, hidden], labels [n, L] (NaN: unknown), group keys [n].
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
# Of the training visits: mean and standard deviation of the embeddings [hidden], each head's log-odds [K+1, L], and a
# known cell's weight [L]: visits / visits of which the label is known.
Moments = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def train_heads(config: Config, cohort: Cohort, stage: Stage, say: Callable[[str], None]) -> Heads:
    """Fit all heads on the labelled training shards, without the adapter's subjects (teacher.adapter_share).

    The tuning shards choose each head's epoch (none, or of one class: the last epoch).
    """
    read = EmbeddingReader(cohort, stage, config.teacher.adapter_share)
    folds = Folds.of(cohort, config.head.folds, config.seed, config.teacher.adapter_share)
    if folds.count < config.head.folds:
        say(f"head: {folds.count} folds instead of {config.head.folds}, one per training subject")
    fit = _Fit(config.head, folds, _moments(read, folds, cohort.task.names), _device(config))
    chooses = cohort.facts.get("tuning") != "one_class"
    for epoch in range(config.head.epochs):
        order = np.random.default_rng([config.seed, epoch])
        shards = cohort.select("train")
        for n in order.permutation(len(shards)):
            fit.shard(*read.labeled(shards[n]), order, epoch / config.head.epochs)
        tuning = fit.losses(_stream(read, "tuning")) if chooses else None
        if not fit.finite or (tuning is not None and not np.isfinite(tuning).all()):
            rate = f"head.learning_rate={config.head.learning_rate:g}"
            raise ConfigError(f"{rate}: the heads are no longer finite; lower it")
        fit.keep_best(epoch, tuning)
        loss = f", tuning loss {tuning[folds.count]:.4f}" if tuning is not None else ""
        say(f"head: epoch {epoch + 1}/{config.head.epochs}{loss}")
        if fit.finished:
            break
    heads = fit.heads()
    saw = {"teacher_saw_held_out": cohort.facts.get("teacher_saw_held_out", False)}
    heads.report = fit.report() | _optimism(heads, read) | saw
    return heads


def log_loss(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Binary cross-entropy summed over the known cells of [n, L], and their number, both divided by L.

    With every cell known the number is n.
    """
    y, known = _cells(torch.from_numpy(labels))
    total = float(bce(torch.from_numpy(logits), y, weight=known, reduction="sum"))
    return total / labels.shape[1], _known(labels) / labels.shape[1]


def _cells(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Labels with 0 where they are unknown, and their weights 0 and 1; no weights where all are known."""
    unknown = y.isnan()
    if not unknown.any():
        return y, None
    return y.masked_fill(unknown, 0), (~unknown).to(y.dtype)


def _known(labels: np.ndarray) -> int:
    return int(labels.size - np.isnan(labels).sum())


def _device(config: Config) -> torch.device:
    """A GPU where the teacher's workers have one and this process sees it: the head is small enough for either."""
    return torch.device("cuda" if config.teacher.gpus_per_worker > 0 and torch.cuda.is_available() else "cpu")


def _stream(read: EmbeddingReader, split: Split) -> Iterator[Rows]:
    return (read.labeled(shard) for shard in read.cohort.select(split))


def _moments(read: EmbeddingReader, folds: Folds, names: Sequence[str]) -> Moments:
    """Raises DataError naming a label of which a head would know nothing."""
    total = squares = np.zeros(1)
    rows, positive, seen = 0, np.zeros((folds.count + 1, len(names))), np.zeros((folds.count + 1, len(names)))
    for x, y, groups in _stream(read, "train"):
        wide = x.astype(np.float64)
        total, squares, rows = total + wide.sum(0), squares + (wide**2).sum(0), rows + len(x)
        mask = _mask(folds, groups)
        positive += mask.T @ np.nan_to_num(y)
        seen += mask.T @ (~np.isnan(y)).astype(np.float32)
    mean = total / rows
    deviation = np.sqrt(np.maximum(squares / rows - mean**2, 0))
    if not seen.all():
        name = names[int(np.flatnonzero(~seen.all(0))[0])]
        raise DataError(
            f"label '{name}' is known for train subjects of at most one fold; expected two, since each fold's head "
            "learns from the others: another seed, more head.folds, or leave it out of task.labels"
        )
    share = (positive + 0.5) / (seen + 1)
    return mean, np.where(deviation > 1e-6, deviation, 1.0), np.log(share / (1 - share)), rows / seen[-1]


def _mask(folds: Folds, groups: np.ndarray) -> np.ndarray:
    """float32 [n, K+1]: 1 where the head may learn from the row; the final head, K, learns from all."""
    mask: np.ndarray = (np.arange(folds.count + 1)[:, None] != folds.assign(groups)).T.astype(np.float32)
    return mask


def _optimism(heads: Heads, read: EmbeddingReader) -> dict[str, Any]:
    """Mean log-losses of out-of-fold train and tuning; their gap is what the adapter remembers of its labels."""
    train = _mean(log_loss(heads.logits(x, heads.folds.assign(groups)), y) for x, y, groups in _stream(read, "train"))
    tuning = _mean(log_loss(heads.logits(x, np.full(len(x), heads.final)), y) for x, y, _ in _stream(read, "tuning"))
    return {
        "out_of_fold_train_log_loss": train,
        "tuning_log_loss": tuning,
        "adapter_optimism": None if tuning is None or train is None else tuning - train,
    }


def _mean(parts: Iterable[tuple[float, float]]) -> float | None:
    """The sum of the first values by that of the second ones; None when there are none."""
    total = number = 0.0
    for part, count in parts:
        total, number = total + part, number + count
    return total / number if number else None


class _Fit:
    """The weights in training, and the best of each head so far."""

    def __init__(self, config: HeadConfig, folds: Folds, moments: Moments, device: torch.device) -> None:
        """Start from zero weights and each head's log-odds."""
        self.config, self.folds, self.device = config, folds, device
        self.mean, self.deviation, bias, cell_weight = moments
        heads = folds.count + 1
        self.weight = torch.zeros(*bias.shape, len(self.mean), device=device, requires_grad=True)
        self.bias = torch.tensor(bias, dtype=torch.float32, device=device, requires_grad=True)
        self.cell_weight = torch.tensor(cell_weight, dtype=torch.float32, device=device)
        self.adam = torch.optim.Adam([self.weight, self.bias], lr=config.learning_rate)
        self.best_weight, self.best_bias = self.weight.detach().clone(), self.bias.detach().clone()
        self.best_loss, self.best_epoch = np.full(heads, np.inf), np.full(heads, -1)
        self.tuning_losses: list[float] = []
        self.finished = False

    def shard(self, x: np.ndarray, y: np.ndarray, groups: np.ndarray, order: np.random.Generator, done: float) -> None:
        """One pass over a shard's rows in random order.

        `done` is the share of the epochs that are finished; the step size falls linearly with it.
        """
        inputs, (labels, known) = self._standardise(x), _cells(torch.from_numpy(y).to(self.device))
        weight = self._weight(labels, known)
        mask = torch.from_numpy(_mask(self.folds, groups)).to(self.device)
        for group in self.adam.param_groups:
            group["lr"] = self.config.learning_rate * (1 - done)
        permutation = torch.from_numpy(order.permutation(len(x))).to(self.device)
        if not len(x):  # all of a shard's subjects may be the adapter's
            return
        for rows in permutation.split(self.config.batch_size):
            each = self._row_losses(inputs[rows], labels[rows], None if weight is None else weight[rows])
            loss = (each * mask[rows]).sum() / len(rows) + 0.5 * self.config.l2 * self.weight.square().sum()
            self.adam.zero_grad()
            loss.backward()
            self.adam.step()

    def _weight(self, labels: torch.Tensor, known: torch.Tensor | None) -> torch.Tensor | None:
        """What each cell weighs in training [n, L]; None where all cells of all shards are known."""
        if bool((self.cell_weight == 1).all()):
            return None
        return self.cell_weight.expand_as(labels) if known is None else known * self.cell_weight

    @property
    def finite(self) -> bool:
        """Whether all weights are numbers."""
        return bool(self.weight.isfinite().all() and self.bias.isfinite().all())

    def _standardise(self, x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(((x - self.mean) / self.deviation).astype(np.float32)).to(self.device)

    def _row_losses(self, x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """[n, K+1]: sum over labels of each row's cross-entropy under each head, times the cells' weight [n, L]."""
        logits = torch.einsum("nh,klh->nkl", x, self.weight) + self.bias
        weights = None if weight is None else weight[:, None].expand_as(logits)
        return bce(logits, y[:, None].expand_as(logits), weight=weights, reduction="none").sum(2)

    @torch.no_grad()
    def losses(self, rows: Iterator[Rows]) -> np.ndarray | None:
        """[K+1]: mean loss per known cell of each head on the given rows; None when there are none."""
        total, number = np.zeros(self.folds.count + 1), 0
        for x, y, _ in rows:
            each = self._row_losses(self._standardise(x), *_cells(torch.from_numpy(y).to(self.device)))
            total += each.sum(0).double().cpu().numpy()
            number += _known(y)
        return total / number if number else None

    def keep_best(self, epoch: int, tuning: np.ndarray | None) -> None:
        """Keep this epoch of each head whose tuning loss is its lowest so far and whose patience has not run out."""
        if tuning is None:
            better = np.ones(len(self.best_epoch), bool)
        else:
            self.tuning_losses.append(float(tuning[self.folds.count]))
            better = (tuning < self.best_loss) & (epoch - self.best_epoch <= PATIENCE)
            self.best_loss[better] = tuning[better]
            self.finished = bool((epoch - np.where(better, epoch, self.best_epoch) >= PATIENCE).all())
        self.best_epoch[better] = epoch
        chosen = torch.from_numpy(better).to(self.device)
        self.best_weight[chosen] = self.weight.detach()[chosen]
        self.best_bias[chosen] = self.bias.detach()[chosen]

    def heads(self) -> Heads:
        """The best heads with the standardisation folded back, so that they take raw embeddings."""
        weight = self.best_weight.double().cpu().numpy() / self.deviation
        bias = self.best_bias.double().cpu().numpy() - weight @ self.mean
        return Heads(weight.astype(np.float32), bias.astype(np.float32), self.folds)

    def report(self) -> dict[str, Any]:
        """What happened: folds, epochs kept, the final head's tuning loss after every epoch."""
        return {
            "folds": self.folds.count,
            "best_epochs": (self.best_epoch + 1).tolist(),
            "tuning_loss_by_epoch": self.tuning_losses,
        }
