"""The ways to get embeddings out of a teacher that the benchmark compares, from the public code's to this project's engine.

Each is called with prompts and returns float32 [n, hidden]; `take_work()` tells what that took, by the formula of ckd.teacher.work.
"""

import gc
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ckd.batching import token_batches
from ckd.teacher.decoder import geometry
from ckd.teacher.engine_hf import TransformersEngine
from ckd.teacher.work import Work, forward_flops

Prompts = Sequence[Sequence[int]]


class Way(ABC):
    """Counts the work; subclasses compute."""

    def __init__(self, causal: Any, attention: str = "sdpa") -> None:
        self.causal, self.decoder, self.attention = causal, causal.model, attention
        self.device, self.geometry, self.work = causal.device, geometry(causal.model), Work()

    @torch.inference_mode()
    def __call__(self, prompts: Prompts) -> np.ndarray:
        """float32 [n, hidden] in the given order."""
        self.causal.set_attn_implementation(self.attention)  # the ways share one model, and each has its own
        vectors = self.encode(prompts)
        self.work += Work(prompts=len(prompts), tokens=sum(map(len, prompts)))
        return vectors

    @abstractmethod
    def encode(self, prompts: Prompts) -> np.ndarray:
        """float32 [n, hidden] in the given order, the work counted."""

    def take_work(self) -> Work:
        """What was done since the last time this was asked."""
        work, self.work = self.work, Work()
        return work

    def count(self, rows: int, longest: int, useful: int) -> None:
        """One forward pass over `rows` rows of `longest` tokens, `useful` of them real."""
        computed = rows * longest
        self.work += Work(
            computed=computed, padding=computed - useful, flops=forward_flops(self.geometry, rows, longest, 0)
        )


class Public(Way):
    """The public research code's forward pass, written anew: one visit, all hidden states, the whole lm_head, a garbage collection per row."""

    def __init__(self, causal: Any) -> None:
        super().__init__(causal)
        self.geometry = replace(self.geometry, parameters=self.geometry.parameters + causal.lm_head.weight.numel())
        self.collecting_s = (
            0.0  # CPU seconds of garbage collections: they grow with everything this process has imported
        )

    def encode(self, prompts: Prompts) -> np.ndarray:
        vectors = []
        for prompt in prompts:
            ids_1T = torch.tensor([list(prompt)], device=self.device)
            outputs = self.causal(input_ids=ids_1T, attention_mask=torch.ones_like(ids_1T), output_hidden_states=True)
            vectors.append(outputs.hidden_states[-1][0, -1].float().cpu().numpy())
            del outputs
            started = time.process_time()
            gc.collect()
            self.collecting_s += time.process_time() - started
            self.count(1, len(prompt), len(prompt))
        return np.stack(vectors)


class OneByOne(Way):
    """AutoModel: the decoder alone, one visit at a time."""

    def encode(self, prompts: Prompts) -> np.ndarray:
        vectors = []
        for prompt in prompts:
            ids_1T = torch.tensor([list(prompt)], device=self.device)
            vectors.append(
                self.decoder(input_ids=ids_1T, use_cache=False).last_hidden_state[0, -1].float().cpu().numpy()
            )
            self.count(1, len(prompt), len(prompt))
        return np.stack(vectors)


class Batches(Way):
    """Batches of like length under a padded-token budget, with an attention mask and the whole prompt in each row."""

    def __init__(self, causal: Any, budget: int) -> None:
        super().__init__(causal)
        self.budget = budget

    def encode(self, prompts: Prompts) -> np.ndarray:
        vectors = np.empty((len(prompts), self.decoder.config.hidden_size), np.float32)
        for rows in token_batches([len(p) for p in prompts], self.budget):
            longest = len(prompts[rows[0]])
            ids_BT = torch.tensor([[*prompts[i], *[0] * (longest - len(prompts[i]))] for i in rows], device=self.device)
            lengths_B1 = torch.tensor([[len(prompts[i])] for i in rows], device=self.device)
            mask_BT = (torch.arange(longest, device=self.device) < lengths_B1).long()
            states_BTH = self.decoder(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).last_hidden_state
            vectors[rows] = (
                states_BTH[torch.arange(len(rows), device=self.device), lengths_B1[:, 0] - 1].float().cpu().numpy()
            )
            self.count(len(rows), longest, int(lengths_B1.sum()))
        return vectors


class Default:
    """The project's transformers engine as `ckd embed` uses it."""

    def __init__(self, engine: TransformersEngine) -> None:
        self.engine, self.attention = engine, engine.model.config._attn_implementation

    def __call__(self, prompts: Prompts) -> np.ndarray:
        self.engine.model.set_attn_implementation(self.attention)
        return self.engine.encode(prompts)

    def take_work(self) -> Work:
        return self.engine.take_work()


def cosines(vectors: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """[n]: the cosine of each pair of rows."""
    return np.asarray((vectors * wanted).sum(1) / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(wanted, axis=1)))
