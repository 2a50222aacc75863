"""The ways from text to 25 probabilities that student and teacher are compared in, and what they cost in FLOPs.

Each is called with texts and returns float64 probabilities [n, 25]. Tokenising is inside; its CPU seconds are kept.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import BertForSequenceClassification

from benchmarks.student.geometry import SMALL, Geometry
from ckd.batching import token_batches
from ckd.predict.scorer import TOKEN_BUDGET, Logits, in_batches, torch_forward
from ckd.prompts import Prompter
from ckd.visits.labels import INSTRUCTION, NUM_LABELS

CPU = replace(SMALL, vocabulary=30_522)
TINY = Geometry(layers=1, hidden=32, heads=2, intermediate=128, vocabulary=30_522)


def make_student(shape: Geometry) -> Any:
    """A BERT with 25 labels and random weights in float32."""
    spread = shape.hidden**-0.5 / 2  # BERT's .02 is meant for 768
    settings = shape.settings(num_labels=NUM_LABELS, initializer_range=spread)
    torch.manual_seed(0)
    return BertForSequenceClassification(settings).eval().requires_grad_(False)


class StudentWay:
    """The student's whole pass, as `ckd` predicts: one tokenizer call, batches of similar length, sigmoid."""

    def __init__(self, tokenizer: Any, max_length: int, logits: Logits) -> None:
        self.tokenizer, self.max_length, self.logits, self.tokenising_s = tokenizer, max_length, logits, 0.0

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        started = time.process_time()
        cut = {"truncation": True, "max_length": self.max_length, "return_attention_mask": False}
        sequences = [np.asarray(row, np.int64) for row in self.tokenizer(list(texts), **cut)["input_ids"]]
        self.tokenising_s += time.process_time() - started
        return _sigmoid(self.logits(sequences))


class TeacherWay:
    """A teacher's whole pass: prompts, embeddings, the 25-label head. `alone`: tokenised one by one, the public way."""

    def __init__(self, prompter: Prompter, embed: Callable[[list[list[int]]], np.ndarray], alone: bool = False) -> None:
        self.prompter, self.embed, self.alone, self.tokenising_s = prompter, embed, alone, 0.0
        self.head: np.ndarray | None = None

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        started = time.process_time()
        groups = [[text] for text in texts] if self.alone else [list(texts)]
        prompts = [ids for group in groups for ids in self.prompter.encode([INSTRUCTION] * len(group), group)[0]]
        self.tokenising_s += time.process_time() - started
        vectors = self.embed(prompts)
        if self.head is None:
            width = vectors.shape[1]
            head = np.random.default_rng(0).normal(0, width**-0.5, (width, NUM_LABELS))
            self.head = head.astype(np.float32)
        return _sigmoid(vectors @ self.head)


def torch_logits(model: Any, device: str, dtype: torch.dtype) -> Logits:
    """As `ckd` runs a student, but for a compiled model or another dtype (autocast)."""
    logits = in_batches(torch_forward(model, device), 0)

    def run(sequences: Sequence[np.ndarray]) -> np.ndarray:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            return logits(sequences)

    return run


def student_flops(shape: Geometry, lengths: Sequence[int], budget: int = TOKEN_BUDGET) -> float:
    """Model FLOPs of one pass over texts of `lengths` tokens, padding included.

    The formula of ckd.teacher.work, where every token attends to all.
    """
    total = 0.0
    for rows in token_batches(lengths, budget):
        longest = lengths[rows[0]]
        total += len(rows) * (2.0 * shape.weights * longest + 4.0 * shape.layers * shape.hidden * longest**2)
    return total


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-logits.astype(np.float64))))
