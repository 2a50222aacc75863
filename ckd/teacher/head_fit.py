"""Fits the K fold heads and the final one in a single streaming pass over the stored embeddings per epoch.

One matrix [K+1, 25, hidden] on standardised embeddings; head k's loss is masked to the rows outside fold k, and each head keeps its own best
epoch and stops by itself, so a subject's labels reach its own fold's head on no path.

With head.calibrated there is a further head for every pair of folds, fitted without both. Fold k's map from logits to probabilities is fitted on
fold j's visits under head {j, k}, for all j but k: no label of fold k is in it. (The logits of head j alone would not do: it learned fold k.)
"""

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from ckd.calibration import fit_platt
from ckd.config import Config, HeadConfig
from ckd.errors import ConfigError
from ckd.store.artifacts import Stage
from ckd.teacher.folds import Folds
from ckd.teacher.head import EmbeddingReader, Heads
from ckd.visits.cohort import Cohort
from ckd.visits.labels import NUM_LABELS
from ckd.visits.visit import Split

PATIENCE = 5  # epochs without a better tuning loss after which a head keeps its best


def train_heads(config: Config, cohort: Cohort, stage: Stage, say: Callable[[str], None]) -> Heads:
    """Fit all heads on the labelled training shards, without the adapter's subjects (teacher.adapter_share).

    The tuning shards choose each head's epoch (none, or of one class: the last epoch).
    """
    read = EmbeddingReader(cohort, stage, config.teacher.adapter_share)
    folds = Folds.of(cohort, config.head.folds, config.seed, config.teacher.adapter_share)
    if folds.count < config.head.folds:
        say(f"head: {folds.count} folds instead of {config.head.folds}, one per training subject")
    if config.head.calibrated and folds.count < 3:
        raise ConfigError(
            f"head.calibrated=true: needs 3 folds, {folds.count} training subjects allow no more; set it to false"
        )
    left_out = _left_out(folds.count, pairs=config.head.calibrated)
    fit = _Fit(config.head, folds, left_out, *_moments(cohort, read, folds, left_out), device=_device(config))
    chooses = cohort.facts.get("tuning") != "one_class"
    for epoch in range(config.head.epochs):
        order = np.random.default_rng([config.seed, epoch])
        shards = cohort.select("train")
        for n in order.permutation(len(shards)):
            fit.shard(*read.labeled(shards[n]), order, epoch / config.head.epochs)
        tuning = fit.losses(_stream(cohort, read, "tuning")) if chooses else None
        if not fit.finite or (tuning is not None and not np.isfinite(tuning).all()):
            raise ConfigError(
                f"head.learning_rate={config.head.learning_rate:g}: the heads are no longer finite; lower it"
            )
        fit.keep_best(epoch, tuning)
        say(
            f"head: epoch {epoch + 1}/{config.head.epochs}"
            + (f", tuning loss {tuning[folds.count]:.4f}" if tuning is not None else "")
        )
        if fit.finished:
            break
    everything = fit.heads()
    heads = Heads(everything.weight[: folds.count + 1], everything.bias[: folds.count + 1], folds)
    saw = {"teacher_saw_held_out": cohort.facts.get("teacher_saw_held_out", False)}
    heads.report = fit.report() | _optimism(heads, cohort, read) | saw
    return _calibrated(heads, everything, cohort, read) if config.head.calibrated else heads


def _left_out(folds: int, *, pairs: bool) -> np.ndarray:
    """bool [heads, K]: the folds that a head may not learn from. K fold heads, the final one, then one per pair in the order of `combinations`."""
    sets: list[tuple[int, ...]] = [*((k,) for k in range(folds)), (), *(combinations(range(folds), 2) if pairs else ())]
    return np.array([[k in left for k in range(folds)] for left in sets])


def _calibrated(heads: Heads, everything: Heads, cohort: Cohort, read: EmbeddingReader) -> Heads:
    """The heads with Platt's slope and intercept of their logits folded in: calibrated logits are linear in the embedding too.

    Reads the embeddings K+1 times, and holds the logits of the training visits for one fold's map at a time: 125 bytes per visit with the labels.
    """
    count = heads.folds.count
    pair = {frozenset(two): count + 1 + n for n, two in enumerate(combinations(range(count), 2))}
    own_N, y_NL = [], []
    for _, y, groups in _stream(cohort, read, "train"):
        own_N.append(heads.folds.assign(groups))
        y_NL.append(y.astype(bool))
    fold_N, labels_NL = np.concatenate(own_N), np.concatenate(y_NL)
    slopes, intercepts = np.ones((count + 1, NUM_LABELS)), np.zeros((count + 1, NUM_LABELS))
    for k in range(count + 1):
        wanted = np.array([pair.get(frozenset({j, k}), k) if k < count else j for j in range(count)])
        logits_NL = np.concatenate(
            [
                everything.logits(x, wanted[heads.folds.assign(groups)])
                for x, _, groups in _stream(cohort, read, "train")
            ]
        )
        rows = fold_N != k
        for label in range(NUM_LABELS):
            found = fit_platt(logits_NL[rows, label], labels_NL[rows, label])
            slopes[k, label], intercepts[k, label] = found.slope, found.intercept
    weight = (slopes[:, :, None] * heads.weight).astype(np.float32)
    bias = (slopes * heads.bias + intercepts).astype(np.float32)
    report = {**heads.report, "platt_slopes": slopes.tolist(), "platt_intercepts": intercepts.tolist()}
    return Heads(weight, bias, heads.folds, report)


def _device(config: Config) -> torch.device:
    """A GPU where the teacher's workers have one and this process sees it: the head is small enough for either."""
    return torch.device("cuda" if config.teacher.gpus_per_worker > 0 and torch.cuda.is_available() else "cpu")


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Sum over rows of the mean over labels of the binary cross-entropy."""
    return float(bce(torch.from_numpy(logits), torch.from_numpy(labels), reduction="sum")) / NUM_LABELS


def _stream(cohort: Cohort, read: EmbeddingReader, split: Split) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return (read.labeled(shard) for shard in cohort.select(split))


def _moments(
    cohort: Cohort, read: EmbeddingReader, folds: Folds, left_out: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and standard deviation [hidden] of the training embeddings, and each head's starting log-odds [heads, 25]."""
    total = squares = np.zeros(1)
    rows, positive, seen = 0, np.zeros((len(left_out), NUM_LABELS)), np.zeros((len(left_out), 1))
    for x, y, groups in _stream(cohort, read, "train"):
        wide = x.astype(np.float64)
        total, squares, rows = total + wide.sum(0), squares + (wide**2).sum(0), rows + len(x)
        mask = _mask(folds, left_out, groups)
        positive += mask.T @ y
        seen += mask.sum(0)[:, None]
    mean = total / rows
    deviation = np.sqrt(np.maximum(squares / rows - mean**2, 0))
    share = (positive + 0.5) / (seen + 1)
    return mean, np.where(deviation > 1e-6, deviation, 1.0), np.log(share / (1 - share))


def _mask(folds: Folds, left_out: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """float32 [n, heads]: 1 where the head may learn from the row."""
    mask: np.ndarray = (~left_out[:, folds.assign(groups)]).T.astype(np.float32)
    return mask


def _optimism(heads: Heads, cohort: Cohort, read: EmbeddingReader) -> dict[str, Any]:
    """Mean log-losses of out-of-fold train and tuning, and their gap: what the LLM's adapter remembers of its training labels."""
    sums, visits = {"train": 0.0, "tuning": 0.0}, 0
    for x, y, groups in _stream(cohort, read, "train"):
        sums["train"] += log_loss(heads.logits(x, heads.folds.assign(groups)), y)
        visits += len(x)
    for x, y, _ in _stream(cohort, read, "tuning"):
        sums["tuning"] += log_loss(heads.logits(x, np.full(len(x), heads.final)), y)
    train = sums["train"] / visits
    tuning = sums["tuning"] / cohort.count("tuning") if cohort.count("tuning") else None
    return {
        "out_of_fold_train_log_loss": train,
        "tuning_log_loss": tuning,
        "adapter_optimism": None if tuning is None else tuning - train,
    }


class _Fit:
    """The weights in training, and the best of each head so far."""

    def __init__(
        self,
        config: HeadConfig,
        folds: Folds,
        left_out: np.ndarray,
        mean: np.ndarray,
        deviation: np.ndarray,
        bias: np.ndarray,
        *,
        device: torch.device,
    ) -> None:
        self.config, self.folds, self.left_out, self.device = config, folds, left_out, device
        self.mean, self.deviation = mean, deviation
        self.weight = torch.zeros(len(left_out), NUM_LABELS, len(mean), device=device, requires_grad=True)
        self.bias = torch.tensor(bias, dtype=torch.float32, device=device, requires_grad=True)
        self.adam = torch.optim.Adam([self.weight, self.bias], lr=config.learning_rate)
        self.best_weight, self.best_bias = self.weight.detach().clone(), self.bias.detach().clone()
        self.best_loss = np.full(len(left_out), np.inf)
        self.best_epoch = np.full(len(left_out), -1)
        self.tuning_losses: list[float] = []
        self.finished = False

    def shard(self, x: np.ndarray, y: np.ndarray, groups: np.ndarray, order: np.random.Generator, done: float) -> None:
        """One pass over a shard's rows in random order; `done` is the share of the epochs behind (the step size decays linearly)."""
        inputs, labels = self._standardise(x), torch.from_numpy(y).to(self.device)
        mask = torch.from_numpy(_mask(self.folds, self.left_out, groups)).to(self.device)
        for group in self.adam.param_groups:
            group["lr"] = self.config.learning_rate * (1 - done)
        permutation = torch.from_numpy(order.permutation(len(x))).to(self.device)
        for rows in (
            permutation.split(self.config.batch_size) if len(x) else ()
        ):  # all of a shard's subjects may be the adapter's
            each = self._row_losses(inputs[rows], labels[rows])
            loss = (each * mask[rows]).sum() / len(rows) + 0.5 * self.config.l2 * self.weight.square().sum()
            self.adam.zero_grad()
            loss.backward()
            self.adam.step()

    @property
    def finite(self) -> bool:
        """Whether all weights are numbers."""
        return bool(self.weight.isfinite().all() and self.bias.isfinite().all())

    def _standardise(self, x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(((x - self.mean) / self.deviation).astype(np.float32)).to(self.device)

    def _row_losses(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """[n, heads]: sum over labels of each row's cross-entropy under each head."""
        logits = torch.einsum("nh,klh->nkl", x, self.weight) + self.bias
        return bce(logits, y[:, None].expand_as(logits), reduction="none").sum(2)

    @torch.no_grad()
    def losses(self, rows: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray | None:
        """[heads]: mean loss per label of each head on the given rows; None when there are none."""
        total, count = np.zeros(len(self.left_out)), 0
        for x, y, _ in rows:
            total += (
                self._row_losses(self._standardise(x), torch.from_numpy(y).to(self.device))
                .sum(0)
                .double()
                .cpu()
                .numpy()
            )
            count += len(x)
        return total / (count * NUM_LABELS) if count else None

    def keep_best(self, epoch: int, tuning: np.ndarray | None) -> None:
        """Each head for itself: keep this epoch where its tuning loss is the lowest so far and its patience has not run out."""
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
            "best_epochs": (self.best_epoch + 1).tolist()[: self.folds.count + 1],
            "tuning_loss_by_epoch": self.tuning_losses,
        }
