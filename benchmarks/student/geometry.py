"""The sizes of the BERTs that the student's benchmarks make with random weights."""

from dataclasses import dataclass
from typing import Any

from transformers import BertConfig


@dataclass(frozen=True)
class Geometry:
    """A BERT's size."""

    layers: int
    hidden: int
    heads: int
    intermediate: int
    vocabulary: int

    @property
    def weights(self) -> int:
        """Weights that every token meets: four square projections and two of the feed-forward, per layer."""
        return self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.intermediate)

    def settings(self, **more: Any) -> BertConfig:
        """As transformers takes it."""
        width = {"hidden_size": self.hidden, "intermediate_size": self.intermediate, "vocab_size": self.vocabulary}
        return BertConfig(num_hidden_layers=self.layers, num_attention_heads=self.heads, **width, **more)


SMALL = Geometry(layers=4, hidden=256, heads=4, intermediate=1024, vocabulary=4000)
SMALLER = Geometry(layers=2, hidden=64, heads=2, intermediate=128, vocabulary=1000)
BERT_BASE = Geometry(layers=12, hidden=768, heads=12, intermediate=3072, vocabulary=30_522)
TINY = Geometry(layers=1, hidden=16, heads=2, intermediate=32, vocabulary=200)
