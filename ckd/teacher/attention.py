"""Causal attention behind a prefix, without a mask, so that padded batches can use the flash kernels.

Only for right-padded batches of causal models: no real token sees the padding behind it. Transformers knows it by name.
"""

from typing import Any

import torch
from torch.backends.cuda import SDPAParams, can_use_flash_attention
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

CAUSAL = "ckd_causal"  # transformers makes no mask for an implementation that it does not know


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """[B, T, heads, D] of queries [B, heads, T, D] on keys, values [B, groups, P + T, D]; query t sees 0 … P + t."""
    groups = query.shape[1] // key.shape[1]
    # Flash reads each key once for its group of heads; every other kernel wants the keys repeated.
    grouped = groups > 1 and can_use_flash_attention(SDPAParams(query, key, value, None, 0.0, False, True))
    if groups > 1 and not grouped:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    bias = causal_lower_right(query.shape[2], key.shape[2])
    states = scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale, enable_gqa=grouped)
    return states.transpose(1, 2).contiguous()


# To torch.compile one opaque operation: the choice of a kernel cannot be traced, and a break in each layer would undo
# the compilation.
_compiled = torch.library.custom_op("ckd::causal_attention", attend, mutates_args=())


@_compiled.register_fake
def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    rows, heads, tokens, _ = query.shape
    return query.new_empty(rows, tokens, heads, value.shape[3])


def _interface(
    module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float | None = None, **_: Any
) -> tuple[torch.Tensor, None]:
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return (_compiled if torch.compiler.is_compiling() else attend)(query, key, value, scale), None


AttentionInterface.register(CAUSAL, _interface)
