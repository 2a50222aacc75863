"""From text to 25 probabilities, in every way that the student benchmark compares: what a pass includes, and what it costs in FLOPs.

Each way is called with texts and returns float64 probabilities [n, 25]; tokenising is inside, and its share of the CPU seconds is kept.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from ckd.batching import token_batches
from ckd.predict.scorer import TOKEN_BUDGET, Logits, in_batches, torch_forward
from ckd.prompts import Prompter
from ckd.visits.labels import INSTRUCTION, NUM_LABELS


@dataclass(frozen=True)
class StudentShape:
    """The geometry of a BERT."""

    layers: int
    hidden: int
    heads: int
    vocabulary: int = 30_522


CPU = StudentShape(layers=4, hidden=256, heads=4)
BERT_BASE = StudentShape(layers=12, hidden=768, heads=12)
TINY = StudentShape(layers=1, hidden=32, heads=2)


def make_student(shape: StudentShape) -> Any:
    """A BERT with 25 labels and random weights in float32."""
    settings = BertConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.hidden,
        num_labels=NUM_LABELS,
        initializer_range=shape.hidden**-0.5 / 2,  # BERT's .02 is meant for 768
    )
    torch.manual_seed(0)
    return BertForSequenceClassification(settings).eval().requires_grad_(False)


class StudentWay:
    """The student's whole pass, as `ckd` makes predictions: one tokenizer call, batches of like length under a token budget, sigmoid."""

    def __init__(self, tokenizer: Any, max_length: int, logits: Logits) -> None:
        self.tokenizer, self.max_length, self.logits, self.tokenising_s = tokenizer, max_length, logits, 0.0

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        started = time.process_time()
        ids = self.tokenizer(list(texts), truncation=True, max_length=self.max_length, return_attention_mask=False)[
            "input_ids"
        ]
        sequences = [np.asarray(row, np.int64) for row in ids]
        self.tokenising_s += time.process_time() - started
        return _sigmoid(self.logits(sequences))


class TeacherWay:
    """A teacher's whole pass: prompts, embeddings, the 25-label head. `alone`: tokenised one by one, as the public code does."""

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
            self.head = (
                np.random.default_rng(0)
                .normal(0, vectors.shape[1] ** -0.5, (vectors.shape[1], NUM_LABELS))
                .astype(np.float32)
            )
        return _sigmoid(vectors @ self.head)


def torch_logits(model: Any, device: str, dtype: torch.dtype) -> Logits:
    """As `ckd` runs a student, but for a compiled model or another dtype (autocast)."""

    logits = in_batches(torch_forward(model, device), 0)

    def run(sequences: Sequence[np.ndarray]) -> np.ndarray:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            return logits(sequences)

    return run


def student_flops(shape: StudentShape, lengths: Sequence[int], budget: int = TOKEN_BUDGET) -> float:
    """Model FLOPs of one pass over texts of `lengths` tokens, padding included: ckd.teacher.work's formula, where every token attends to all."""
    weights = shape.layers * 12 * shape.hidden**2  # four attention matrices, and a feed-forward of 4 × hidden both ways
    total = 0.0
    for rows in token_batches(lengths, budget):
        longest = lengths[rows[0]]
        total += len(rows) * (2.0 * weights * longest + 4.0 * shape.layers * shape.hidden * longest**2)
    return total


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-logits.astype(np.float64))))
