"""What the student learns: a sum of terms, one class each, with its weight, its formula and what it needs.

A new term is a class here, its name in TERMS and its keys in config; teacher data that no term had yet is read in
examples. R visits, L labels.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from ckd.config import Config, StudentConfig
from ckd.student.examples import EMBEDDINGS, SOFT_LABELS, Examples
from ckd.student.ranks import Ranks
from ckd.visits.cohort import Cohort
from ckd.visits.columns import cells

if TYPE_CHECKING:
    import torch

    Tensors = Mapping[str, torch.Tensor]

MOST = 20.0  # of any class weight: a label rarer than 1 in 21 would let a handful of visits decide the gradient
PROJECTION = (
    "embedding_projection"  # attribute of the model in training; checkpoints hold it, the exported student does not
)


@dataclass(frozen=True)
class TeacherData:
    """A stage of the teacher that a term needs."""

    stage: str
    command: str  # that makes it
    instead: str  # the setting that does without


class Term(ABC):
    """One loss per visit, times its weight."""

    teacher: ClassVar[TeacherData | None] = None  # what it needs of the teacher

    @classmethod
    def wanted(cls, student: StudentConfig) -> bool:
        """Whether the configuration gives it any weight."""
        return True

    @classmethod
    @abstractmethod
    def prepare(cls, config: Config, model: Any, examples: Examples, ranks: Ranks) -> Self:
        """Measure what it needs over the training visits, on rank 0 for all, and give `model` its output. A barrier."""

    @abstractmethod
    def __call__(self, outputs: "Tensors", batch: "Tensors") -> "torch.Tensor":
        """Weight · loss [R] of a micro-batch; `outputs` are the model's, logits in float32, `batch` is a MicroBatch."""


@dataclass(frozen=True)
class TrueLabels(Term):
    """hard_weight · BCE(z, y), the mean over the visit's known labels; student logits z, true labels y.

    The weight is each visit's own, so that a visit of few known labels counts as much beside its soft labels as others.
    `positive_weight_l` [L] multiplies the part with y: student.class_weighting=balanced.
    """

    positive_weight_l: "torch.Tensor | None" = None

    @classmethod
    def prepare(cls, config: Config, model: Any, examples: Examples, ranks: Ranks) -> Self:
        """Count the labels where they are to be balanced."""
        if config.student.class_weighting == "none":
            return cls()
        import torch

        return cls(torch.from_numpy(ranks.once(lambda: positive_weights(examples.cohort))))

    def __call__(self, outputs: "Tensors", batch: "Tensors") -> "torch.Tensor":
        """See the class."""
        from torch.nn.functional import binary_cross_entropy_with_logits as bce

        unknown_RL = batch["hard"].isnan()
        true_RL = batch["hard"].masked_fill(unknown_RL, 0)
        losses_RL = bce(outputs["logits"], true_RL, reduction="none", pos_weight=self.positive_weight_l)
        return batch["hard_weight"] * (losses_RL.masked_fill(unknown_RL, 0).sum(1) / (~unknown_RL).sum(1))


@dataclass(frozen=True)
class SoftLabels(Term):
    """(1 - hard_weight) · T² · BCE(z/T, sigmoid(t/T)), the mean over labels; logits z of the student, t of the teacher.

    The factor T² keeps the gradient's size when T changes (Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a
    Neural Network", section 2). At T=1 it is plain BCE against the teacher's probabilities. An unknown label counts
    here too: what the teacher says of it is learned.
    """

    teacher = TeacherData(SOFT_LABELS, "soft-labels", "student.hard_weight=1")

    temperature: float

    @classmethod
    def wanted(cls, student: StudentConfig) -> bool:
        """False only when the true labels have all the weight and no visit lacks them."""
        return student.hard_weight < 1 or student.use_unlabeled

    @classmethod
    def prepare(cls, config: Config, model: Any, examples: Examples, ranks: Ranks) -> Self:
        """Take the temperature."""
        return cls(config.student.temperature)

    def __call__(self, outputs: "Tensors", batch: "Tensors") -> "torch.Tensor":
        """See the class."""
        from torch.nn.functional import binary_cross_entropy_with_logits as bce

        softened_RL = (batch["soft_logits"] / self.temperature).sigmoid()
        losses_RL = bce(outputs["logits"] / self.temperature, softened_RL, reduction="none")
        return (1 - batch["hard_weight"]) * (losses_RL.mean(1) * self.temperature**2)


@dataclass(frozen=True)
class Embeddings(Term):
    """embedding_weight · (1 - cos(p, (e - mean_e) / deviation_e)); first token p, projected, and teacher's embedding e.

    The cosine is free of both sides' scale, so that its weight means the same for every teacher (DistilBERT's loss
    between hidden states is a cosine too: Sanh et al. 2019, "DistilBERT, a distilled version of BERT", section 3).
    Standardised, because the states of a language model all point the same way (Ethayarajh 2019, "How Contextual are
    Contextualized Word Representations?", section 4.1): with their common part left in, one constant vector is already
    close to all. A visit whose embedding is all zeros has none to match: its loss is 0.
    """

    teacher = TeacherData(EMBEDDINGS, "embed", "student.embedding_weight=0")

    weight: float
    mean_e: "torch.Tensor"
    deviation_e: "torch.Tensor"

    @classmethod
    def wanted(cls, student: StudentConfig) -> bool:
        """Whether it has a weight."""
        return student.embedding_weight > 0

    @classmethod
    def prepare(cls, config: Config, model: Any, examples: Examples, ranks: Ranks) -> Self:
        """Measure the embeddings' scale and give `model` the projection."""
        import torch

        parts = (examples.taught(EMBEDDINGS, shard) for shard in examples.shards)
        mean_E, deviation_E = ranks.once(lambda: measure(parts))
        attach(model, len(mean_E), config.seed)
        return cls(config.student.embedding_weight, torch.from_numpy(mean_E), torch.from_numpy(deviation_E))

    def __call__(self, outputs: "Tensors", batch: "Tensors") -> "torch.Tensor":
        """See the class; before its weight between 0 and 2."""
        from torch.nn.functional import cosine_similarity

        embedding_RE = batch["embeddings"].float()
        target_RE = (embedding_RE - self.mean_e) / self.deviation_e
        losses_R = 1 - cosine_similarity(outputs["projected"].float(), target_RE, dim=1)
        return self.weight * (losses_R * embedding_RE.any(dim=1))


TERMS: tuple[type[Term], ...] = (TrueLabels, SoftLabels, Embeddings)  # added up in this order


def wanted(student: StudentConfig) -> list[type[Term]]:
    """The terms that the configuration gives a weight."""
    return [term for term in TERMS if term.wanted(student)]


def teacher_data(student: StudentConfig) -> list[TeacherData]:
    """What the terms with a weight need of the teacher."""
    return list(dict.fromkeys(term.teacher for term in wanted(student) if term.teacher))


@dataclass(frozen=True)
class Loss:
    """The sum of its terms."""

    terms: tuple[Term, ...]

    @classmethod
    def prepare(cls, config: Config, model: Any, examples: Examples, ranks: Ranks) -> Self:
        """The loss of a configuration; `model` may get a further output. A barrier: the same on every rank."""
        return cls(tuple(term.prepare(config, model, examples, ranks) for term in wanted(config.student)))

    def on(self, device: "torch.device") -> Self:
        """The same on a device."""

        def moved(term: Any) -> Term:
            tensors = {name: value.to(device) for name, value in vars(term).items() if hasattr(value, "to")}
            found: Term = replace(term, **tensors)
            return found

        return replace(self, terms=tuple(map(moved, self.terms)))

    def __call__(self, outputs: "Tensors", batch: "Tensors") -> "torch.Tensor":
        """One loss per visit [R] of a micro-batch, in float32."""
        outputs = {**outputs, "logits": outputs["logits"].float()}
        losses_R, *more = [term(outputs, batch) for term in self.terms]
        for term_R in more:
            losses_R = losses_R + term_R
        return losses_R


def micro_batch_loss(
    losses_R: "torch.Tensor", weight_R: "torch.Tensor", *, micro_batches: int, batch_size: int
) -> "torch.Tensor":
    """The scalar to differentiate: Σ weight · loss · micro_batches / batch_size.

    Ranks and slots average their gradients over `micro_batches` = world × accumulation, so what remains is Σ over the
    global batch / batch_size, whatever the division into micro-batches.
    """
    return (weight_R * losses_R).sum() * (micro_batches / batch_size)


def positive_weights(cohort: Cohort) -> np.ndarray:
    """Weight [L], float32, of a positive beside 1 for a negative: negatives / positives, at most MOST; 1 without any.

    Both classes of a label then have the same total weight (King & Zeng 2001, "Logistic Regression in Rare Events
    Data", section 4.2, weighting with a population of equal halves). Counted over the known cells of the train visits.
    """
    positives_L, negatives_L = np.zeros((2, len(cohort.task)), np.int64)
    for shard in cohort.select("train"):
        labels_RL = cells(cohort.read(shard, ["labels"])["labels"])
        positives_L += (labels_RL == 1).sum(0)
        negatives_L += (labels_RL == 0).sum(0)
    ratio_L = negatives_L / np.maximum(positives_L, 1)
    return np.where(positives_L > 0, np.minimum(ratio_L, MOST), 1).astype(np.float32)


def measure(parts: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [E], float32, of embeddings [R, E] in parts; a deviation of 0 becomes 1.

    Parts are merged in float64 as in Chan, Golub & LeVeque 1983, "Algorithms for Computing the Sample Variance" (their
    equation 2.1), so that a mean that is large beside the deviation costs no digits.
    """
    count, mean_E, squares_E = 0, np.zeros(1), np.zeros(1)
    for part in parts:
        part_RE = part.astype(np.float64)
        rows, own_E = len(part_RE), part_RE.mean(0)
        apart_E = own_E - mean_E
        squares_E = squares_E + ((part_RE - own_E) ** 2).sum(0) + apart_E**2 * (count * rows / (count + rows))
        mean_E = mean_E + apart_E * (rows / (count + rows))
        count += rows
    deviation_E = np.sqrt(squares_E / max(count, 1))
    return mean_E.astype(np.float32), np.where(deviation_E > 0, deviation_E, 1).astype(np.float32)


def attach(model: Any, width: int, seed: int) -> None:
    """Give the model a linear layer to `width`: `projected` [R, width] of its output's first token.

    A part of the model, so that the optimizer, every checkpoint and ZeRO treat it like all else. It runs inside the
    model's forward pass, the only place where ZeRO stage 3 has the weights. Its values depend on nothing but `seed`.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        setattr(model, PROJECTION, torch.nn.Linear(model.config.hidden_size, width))
    first: list[torch.Tensor] = []

    def remember(_module: Any, _inputs: Any, output: Any) -> None:
        first[:] = [output.last_hidden_state[:, 0]]

    def project(module: Any, _inputs: Any, output: Any) -> None:
        output["projected"] = getattr(module, PROJECTION)(first.pop())

    model.base_model.register_forward_hook(remember)
    model.register_forward_hook(project)
