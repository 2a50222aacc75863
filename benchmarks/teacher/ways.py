"""The ways to get embeddings out of a teacher, from the public code's to this project's engine.

Each is called with prompts and returns float32 [n, hidden]. `take_work()` returns what that took, by the formula of
ckd.teacher.work.
"""

import gc
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.report import timed
from ckd.batching import token_batches
from ckd.teacher.decoder import geometry
from ckd.teacher.engine_hf import TransformersEngine
from ckd.teacher.work import Work, forward_flops

Prompts = Sequence[Sequence[int]]


class Way(ABC):
    """Counts the work; subclasses compute."""

    def __init__(self, causal: Any) -> None:
        self.causal, self.decoder, self.device = causal, causal.model, causal.device
        self.geometry, self.work = geometry(causal.model), Work()

    @torch.inference_mode()
    def __call__(self, prompts: Prompts) -> np.ndarray:
        """float32 [n, hidden] in the given order."""
        self.causal.set_attn_implementation("sdpa")  # the engine, which shares the model, has its own
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
        flops = forward_flops(self.geometry, rows, longest, 0)
        self.work += Work(computed=computed, padding=computed - useful, flops=flops)


class Public(Way):
    """The public research code's forward pass, written anew: one visit, all hidden states, the whole lm_head.

    It collects garbage after every visit, which costs more the more this process has imported: `collecting_s` CPU
    seconds.
    """

    def __init__(self, causal: Any) -> None:
        super().__init__(causal)
        self.geometry = replace(self.geometry, parameters=self.geometry.parameters + causal.lm_head.weight.numel())
        self.collecting_s = 0.0

    def encode(self, prompts: Prompts) -> np.ndarray:
        vectors = []
        for prompt in prompts:
            ids_1T = torch.tensor([list(prompt)], device=self.device)
            outputs = self.causal(input_ids=ids_1T, attention_mask=torch.ones_like(ids_1T), output_hidden_states=True)
            vectors.append(outputs.hidden_states[-1][0, -1].float().cpu().numpy())
            del outputs
            self.collecting_s += timed(gc.collect).cpu
            self.count(1, len(prompt), len(prompt))
        return np.stack(vectors)


class OneByOne(Way):
    """AutoModel: the decoder, one visit at a time."""

    def encode(self, prompts: Prompts) -> np.ndarray:
        vectors = []
        for prompt in prompts:
            ids_1T = torch.tensor([list(prompt)], device=self.device)
            states_1TH = self.decoder(input_ids=ids_1T, use_cache=False).last_hidden_state
            vectors.append(states_1TH[0, -1].float().cpu().numpy())
            self.count(1, len(prompt), len(prompt))
        return np.stack(vectors)


class Batches(Way):
    """Batches of similar length under a padded-token budget, with a mask and the whole prompt in each row."""

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
            last_BH = states_BTH[torch.arange(len(rows), device=self.device), lengths_B1[:, 0] - 1]
            vectors[rows] = last_BH.float().cpu().numpy()
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
