"""Packed variable-length attention: the prompts of a batch behind one another in one row, no padding computed at all. Measured against the
padded batches of the engine; needs flash-attn or torch.nn.attention.varlen on a GPU (2.10 or later), on a CPU a plain loop stands in for tests."""

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, DynamicCache

from benchmarks.teacher.ways import Prompts, Way
from ckd.batching import token_batches
from ckd.teacher.prefix import shared_prefix
from ckd.teacher.work import Work, forward_flops

PACKED = "benchmark_packed"
Kernel = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Packing:
    """Where each prompt lies in a packed batch; cumulative offsets are int32 [prompts + 1]."""

    queries: torch.Tensor
    keys: torch.Tensor
    longest_query: int
    longest_key: int
    gather: torch.Tensor | None  # int64: position of every key in (prefix, then the batch's own); None without a prefix
    prefix: Any  # the cache of the prefix, or None
    kernel: Kernel


def varlen_kernel(device: str) -> tuple[str, Kernel] | None:
    """Name and function(q, k, v, packing) on [tokens, heads, D], causal from the lower right; None where this device has none."""
    if device == "cpu":
        return "loop over prompts (reference)", _loop
    if importlib.util.find_spec("flash_attn") is not None:
        from flash_attn import flash_attn_varlen_func as flash  # type: ignore[import-not-found, unused-ignore]

        return "flash_attn_varlen_func", lambda q, k, v, p: flash(
            q, k, v, p.queries, p.keys, p.longest_query, p.longest_key, causal=True
        )
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return None
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(
        varlen_attn
    ).parameters  # a prototype: causal and grouped are asked for otherwise in each version
    options: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    grouped = "enable_gqa" in known
    options |= {"enable_gqa": True} if grouped else {}

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, p: Packing) -> torch.Tensor:
        if not grouped:
            k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
        out = varlen_attn(q, k, v, p.queries, p.keys, p.longest_query, p.longest_key, **options)
        return out if isinstance(out, torch.Tensor) else out[0]

    return "torch.nn.attention.varlen", run


def _loop(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, p: Packing) -> torch.Tensor:
    from torch.nn.attention.bias import causal_lower_right

    out = torch.empty_like(q)
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    for n in range(len(p.queries) - 1):
        mine, seen = slice(int(p.queries[n]), int(p.queries[n + 1])), slice(int(p.keys[n]), int(p.keys[n + 1]))
        bias = causal_lower_right(mine.stop - mine.start, seen.stop - seen.start)
        one_q, its_k, its_v = (x.transpose(0, 1)[None] for x in (q[mine], k[seen], v[seen]))
        out[mine] = torch.nn.functional.scaled_dot_product_attention(one_q, its_k, its_v, attn_mask=bias)[0].transpose(
            0, 1
        )
    return out


def _interface(
    module: Any, query: Any, key: Any, value: Any, mask: Any, packing: Packing | None = None, **_: Any
) -> tuple[torch.Tensor, None]:
    if packing is None:
        raise ValueError("packed attention needs its packing")
    if packing.gather is not None:
        layer = packing.prefix.layers[module.layer_idx]
        key, value = (torch.cat([a, b], 2)[:, :, packing.gather] for a, b in ((layer.keys, key), (layer.values, value)))
    q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
    return packing.kernel(q, k, v, packing)[None], None


AttentionInterface.register(PACKED, _interface)


class Packed(Way):
    """Packed batches of the longest prompts first, with or without the shared prefix computed once."""

    def __init__(self, causal: Any, budget: int, kernel: Kernel, prefix: bool) -> None:
        super().__init__(causal, PACKED)
        self.budget, self.kernel, self.share = budget, kernel, prefix

    def encode(self, prompts: Prompts) -> np.ndarray:
        skip = shared_prefix(prompts) if self.share else 0
        cache = self._prefix(list(prompts[0][:skip])) if skip else None
        order, states = [], []
        for rows in token_batches([len(p) - skip for p in prompts], self.budget):
            batch = [list(prompts[i][skip:]) for i in rows]
            states.append(self._forward(batch, skip, cache))
            order += rows
            self.work += Work(
                computed=sum(map(len, batch)), flops=sum(forward_flops(self.geometry, 1, len(p), skip) for p in batch)
            )
        vectors = np.empty((len(prompts), self.decoder.config.hidden_size), np.float32)
        vectors[order] = torch.cat(states).cpu().numpy()
        self.work += Work(prefix_saved=skip * (len(prompts) - 1))
        return vectors

    def _prefix(self, ids: list[int]) -> DynamicCache:
        self.causal.set_attn_implementation("sdpa")
        cache = DynamicCache(config=self.decoder.config)
        self.decoder(input_ids=torch.tensor([ids], device=self.device), past_key_values=cache, use_cache=True)
        self.causal.set_attn_implementation(self.attention)
        self.work += Work(computed=len(ids), flops=forward_flops(self.geometry, 1, len(ids), 0))
        return cache

    def _forward(self, batch: list[list[int]], skip: int, cache: Any) -> torch.Tensor:
        lengths = np.array([len(p) for p in batch])
        ids_1T = torch.tensor([[token for p in batch for token in p]], device=self.device)
        positions_1T = torch.from_numpy(np.concatenate([np.arange(skip, skip + n) for n in lengths])[None]).to(
            self.device
        )
        packing = self._packing(lengths, skip, cache)
        states_1TH = self.decoder(
            input_ids=ids_1T, position_ids=positions_1T, use_cache=False, packing=packing
        ).last_hidden_state
        last_BH: torch.Tensor = states_1TH[0, packing.queries[1:].long() - 1].float()
        return last_BH

    def _packing(self, lengths: np.ndarray, skip: int, cache: Any) -> Packing:
        ends = lengths.cumsum()
        gather = [
            position
            for end, n in zip(ends, lengths, strict=True)
            for position in (np.arange(skip), np.arange(skip + end - n, skip + end))
        ]
        return Packing(
            queries=self._offsets(lengths),
            keys=self._offsets(lengths + skip),
            longest_query=int(lengths.max()),
            longest_key=int(lengths.max()) + skip,
            gather=torch.from_numpy(np.concatenate(gather)).to(self.device) if skip else None,
            prefix=cache,
            kernel=self.kernel,
        )

    def _offsets(self, lengths: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([[0], lengths.cumsum()]).astype(np.int32)).to(self.device)
