"""The shared prefix of one call's prompts: its keys and values are computed once and reused by every batch."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

MIN_PREFIX = 16  # shorter ones save less than their own forward pass and the longer keys cost


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all share, at most all but one of the shortest; 0 below MIN_PREFIX or for one prompt."""
    if len(prompts) < 2:
        return 0
    # Sorted, everything lies between the first and the last: what these two share, all share.
    low, high = min(prompts, key=tuple), max(prompts, key=tuple)
    limit = min(map(len, prompts)) - 1
    length = next((n for n in range(limit) if low[n] != high[n]), limit)
    return length if length >= MIN_PREFIX else 0


class _PrefixLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values [1, heads, prefix, D] in front of any batch's own, of which it stores nothing."""

    def __init__(self, filled: DynamicLayer) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = filled.keys, filled.values, True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = key_states.shape[0]
        keys = torch.cat([self.keys.expand(rows, -1, -1, -1), key_states], dim=-2)
        return keys, torch.cat([self.values.expand(rows, -1, -1, -1), value_states], dim=-2)


def prefix_cache(model: Any, ids: torch.Tensor) -> Cache:
    """The keys and values of token ids [1, P] as a cache that does not change, for any number of batches."""
    filled = DynamicCache(config=model.config)
    model(input_ids=ids, past_key_values=filled, use_cache=True)
    return Cache(layers=[_PrefixLayer(layer) for layer in filled.layers])


def can_share_prefix(model: Any) -> bool:
    """Whether every layer is plain causal attention, whose keys do not depend on later tokens.

    Sliding windows, recurrent layers, bidirectional attention and rotations that change with the batch's longest text
    are not.
    """
    config = model.config.get_text_config(decoder=True)
    rotation = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    plain = all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)
    functional = getattr(model, "_supports_attention_backend", False)  # as attention.py needs it
    return plain and functional and getattr(config, "is_causal", True) and rotation not in ("dynamic", "longrope")
