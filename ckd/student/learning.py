"""What the student is asked to learn: the losses that the configuration names, put together. What is measured over the training visits
first, the embeddings' scale and the labels' weights, is the same on every rank."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch

from ckd.config import Config, StudentConfig
from ckd.student.examples import Examples
from ckd.student.loss import visit_loss
from ckd.student.matching import attach, matching_loss, measure
from ckd.student.ranks import Ranks
from ckd.student.weighting import positive_weights


@dataclass(frozen=True)
class Learning:
    """The loss of a visit under one configuration."""

    student: StudentConfig
    positive_weight_l: torch.Tensor | None  # [25]
    scale: tuple[torch.Tensor, torch.Tensor] | None  # mean and deviation [E] of the teacher's embeddings

    def on(self, device: torch.device) -> Self:
        """The same on a device."""
        weights, scale = self.positive_weight_l, self.scale
        return replace(
            self,
            positive_weight_l=None if weights is None else weights.to(device),
            scale=None if scale is None else (scale[0].to(device), scale[1].to(device)),
        )

    def losses(self, output: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """One loss per visit [R] of a micro-batch: that of the labels, plus embedding_weight · that of the embeddings."""
        s = self.student
        losses_r = visit_loss(
            output.logits,
            inputs["hard"],
            inputs["soft_logits"],
            inputs["hard_weight"],
            s.temperature,
            positive_weight_l=self.positive_weight_l,
        )
        if self.scale is None:
            return losses_r
        return losses_r + s.embedding_weight * matching_loss(output.projected, inputs["embedding"], self.scale)


def prepare(config: Config, model: Any, examples: Examples, ranks: Ranks) -> Learning:
    """Measure what the losses need, on rank 0 for all, and give `model` the projection where embeddings are matched. A barrier."""
    weights, scale = None, None
    if config.student.class_weighting == "balanced":
        weights = torch.from_numpy(ranks.once(lambda: positive_weights(examples.cohort)))
    if config.student.embedding_weight > 0:
        found = ranks.once(lambda: measure(_embeddings(examples)))
        scale = (torch.from_numpy(found.mean_e), torch.from_numpy(found.deviation_e))
        attach(model, len(found.mean_e), config.seed)
    return Learning(config.student, weights, scale)


def _embeddings(examples: Examples) -> Iterator[np.ndarray]:
    for shard in examples.shards:
        yield examples.embedded(shard)
