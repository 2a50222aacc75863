"""Embedding matching: the student's first token, projected into the teacher's space, is to point where the teacher's embedding does.
Reading the embeddings belongs to examples, weighing this loss against the labels' to trainer."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

PROJECTION = "embedding_projection"  # attribute of the model in training; its weights stand in checkpoints, never in the exported student


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation [E] of the teacher's embeddings over the visits learned from, float32."""

    mean_e: np.ndarray
    deviation_e: np.ndarray


def measure(parts: Iterable[np.ndarray]) -> Scale:
    """The scale of embeddings [R, E] that come part by part, in float64; 1 instead of 0 for a dimension that never changes.

    Parts are merged as in Chan, Golub & LeVeque 1983, "Algorithms for Computing the Sample Variance" (their equation 2.1), so that a mean that is
    large beside the deviation costs no digits.
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
    return Scale(mean_E.astype(np.float32), np.where(deviation_E > 0, deviation_E, 1).astype(np.float32))


def matching_loss(
    projected_RE: "torch.Tensor", embedding_RE: "torch.Tensor", scale: "tuple[torch.Tensor, torch.Tensor]"
) -> "torch.Tensor":
    """One loss per visit [R], between 0 and 2: 1 - cos(projection, standardised embedding), in float32.

    The cosine is free of both sides' scale, so that its weight means the same for every teacher (DistilBERT's loss between hidden states is a cosine
    too: Sanh et al. 2019, "DistilBERT, a distilled version of BERT", section 3). Standardised, because the states of a language model all point
    the same way (Ethayarajh 2019, "How Contextual are Contextualized Word Representations?", section 4.1): without their common part taken off, one
    constant vector would already be close to all. A visit whose embedding is all zeros has none to match: its loss is 0.
    """
    from torch.nn.functional import cosine_similarity

    mean_E, deviation_E = scale
    losses_R = 1 - cosine_similarity(projected_RE.float(), (embedding_RE.float() - mean_E) / deviation_E, dim=1)
    return losses_R * embedding_RE.any(dim=1)


def attach(model: Any, width: int, seed: int) -> None:
    """Give the model a linear layer from its hidden size to `width`; from now on its outputs carry `projected` [R, width] of the first token.

    A part of the model, so that the optimizer, every checkpoint and ZeRO treat it like all else, and run inside its forward pass, which is where
    ZeRO stage 3 has the weights. Its random values depend on `seed` alone.
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
