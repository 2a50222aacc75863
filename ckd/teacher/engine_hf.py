"""The transformers engine: the shared prefix once, then length-sorted batches under a token budget; CPU and CUDA."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ckd.batching import token_batches
from ckd.config import TeacherConfig
from ckd.errors import ConfigError
from ckd.heartbeat import beat
from ckd.store.models import adapter_hash, model_fields
from ckd.store.pretrained import Source
from ckd.teacher.attention import CAUSAL
from ckd.teacher.budget import CPU_BUDGET, automatic_budget, one_prompt_too_many
from ckd.teacher.chat_template import load_prompter
from ckd.teacher.clock import DeviceClock
from ckd.teacher.decoder import geometry, load_decoder
from ckd.teacher.engine import Load
from ckd.teacher.prefix import MIN_PREFIX, can_share_prefix, prefix_cache, shared_prefix
from ckd.teacher.work import Work, forward_flops

# A prefix position costs a row only its keys and values in front of the row's own, one layer at a time; a computed
# token costs a wide MLP. In Qwen2.5-7B 2 kB (14 kB where a kernel wants the keys repeated for every head) against about
# 130 kB.
PREFIX_POSITIONS_PER_TOKEN = 8
_NO_PREFIX = "this model cannot share a prefix: every prompt is computed whole"


class TransformersEngine:
    """`Engine` on transformers and PEFT. The adapter stays unmerged unless asked: merging in bf16 can lose a weak one.

    With a model of another kind (sliding windows, recurrent layers, …) every prompt is computed whole; `load.note` then
    says so.
    """

    def __init__(self, config: TeacherConfig, gpus: float) -> None:
        """Load model and adapter, and find the token budget, which may take seconds. Raises ConfigError."""
        started = time.monotonic()
        self.device = _device(gpus)
        self._gpus = [] if self.device.type == "cpu" else _all_gpus() if config.device_map else [self.device]
        source = Source.find("teacher.base_model", config.base_model)
        tokenizer, self.model, notes = load_decoder(config, source, self.device)
        self.prompter = load_prompter(config, tokenizer)
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0)
        self.hidden = int(self.model.config.get_text_config().hidden_size)
        self._geometry, self._clock, self._work = geometry(self.model), DeviceClock(self.device), Work()
        self.step = self.model  # what runs a batch
        self.causal = can_share_prefix(self.model) and self._agrees()
        if config.compile:
            self.step = torch.compile(self.model, dynamic=True)
        self.load = Load(
            seconds=time.monotonic() - started,
            revision=str(model_fields("teacher.base_model", config.base_model)["teacher.base_model"]),
            adapter=adapter_hash("teacher.adapter", config.adapter) if config.adapter else None,
            engine=config.engine,
            device=torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            note="; ".join([*notes, *([] if self.causal else [_NO_PREFIX])]),
        )
        self.budget = config.token_budget or self._automatic_budget(config)
        self.load = replace(self.load, seconds=time.monotonic() - started)
        self.take_work()

    def encode(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        """See Engine.encode. Halves a batch that does not fit; raises ConfigError when one prompt does not."""
        vectors = np.empty((len(prompts), self.hidden), np.float32)
        if not prompts:
            return vectors
        with torch.inference_mode():
            skip = shared_prefix(prompts) if self.causal else 0
            done = list(self._batches(prompts, skip, self._prefix(prompts[0][:skip], len(prompts))))
            states_NH = torch.cat([states_BH for _, states_BH in done])
            vectors[[i for rows, _ in done for i in rows]] = (
                states_NH.cpu().numpy()
            )  # the call's only wait for the device
        self._work += Work(prompts=len(prompts), tokens=sum(map(len, prompts)))
        return vectors

    def take_work(self) -> Work:
        """See Engine.take_work."""
        peak = sum(map(torch.cuda.max_memory_allocated, self._gpus))
        taken = replace(self._work, busy_s=self._clock.take(), peak_bytes=peak)
        for gpu in self._gpus:
            torch.cuda.reset_peak_memory_stats(gpu)
        self._work = Work()
        return taken

    def _prefix(self, ids: Sequence[int], prompts: int) -> Any:
        """The cache of the prefix that `prompts` prompts share; None without one."""
        if not ids:
            return None
        cache = self._unless_memory_is_short(prefix_cache, self.model, self._on_device(np.array([ids], np.int64)))
        if cache is None:
            raise one_prompt_too_many(len(ids))
        flops = forward_flops(self._geometry, 1, len(ids), 0)
        self._work += Work(computed=len(ids), prefix_saved=len(ids) * (prompts - 1), flops=flops)
        return cache

    def _batches(
        self, prompts: Sequence[Sequence[int]], skip: int, cache: Any
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """(positions, float32 [B, H] on the device) of prompts without their first `skip` tokens; never waits."""
        lengths, overhead = [len(p) - skip for p in prompts], skip // PREFIX_POSITIONS_PER_TOKEN
        todo = deque(token_batches(lengths, self.budget, overhead))
        while todo:
            rows = todo.popleft()
            batch, longest = [prompts[i][skip:] for i in rows], lengths[rows[0]]
            states_BH = self._unless_memory_is_short(self._forward, batch, cache)
            if states_BH is None:
                if len(rows) == 1:
                    raise one_prompt_too_many(longest + skip)
                # For the rest of this call only: what a later call does must not depend on this one.
                rest, half = [i for batch in (rows, *todo) for i in batch], (longest + overhead) * len(rows) // 2
                smaller = token_batches([lengths[i] for i in rest], half, overhead)
                todo = deque([rest[i] for i in batch] for batch in smaller)
                self._work += Work(ooms=1)
                continue
            computed = longest * len(rows)
            padding = computed - sum(lengths[i] for i in rows)
            flops = forward_flops(self._geometry, len(rows), longest, skip)
            self._work += Work(computed=computed, padding=padding, flops=flops)
            beat(f"embed: a batch of {len(rows):,} prompts computed, {len(todo):,} batches to go before the next count")
            yield rows, states_BH

    def _forward(self, prompts: Sequence[Sequence[int]], cache: Any = None) -> torch.Tensor:
        """float32 [B, H]: the last layer's state at each row's last token, behind the cache's prefix."""
        lengths = np.array([len(prompt) for prompt in prompts])
        ids = np.full((len(prompts), lengths.max()), self.pad_id, np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = prompt
        ids_BT, lengths_B = self._on_device(ids), self._on_device(lengths)
        before = cache.get_seq_length() if cache is not None else 0
        positions_1T = torch.arange(before, before + ids.shape[1], device=self.device)[None]
        # Where a token only looks back, the padding behind every real one needs no mask.
        mask_BT = None if self.causal else (positions_1T < lengths_B[:, None]).long()
        states_BTH: torch.Tensor = self.step(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            position_ids=positions_1T,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        last_BH = states_BTH[torch.arange(len(prompts), device=self.device), lengths_B - 1]
        return last_BH.float()

    def _on_device(self, values: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(values)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def _unless_memory_is_short(self, forward: Callable[..., Any], *given: Any) -> Any:
        """What `forward(*given)` returns, on the device's clock; None when memory ran out."""
        try:
            with self._clock.running():
                return forward(*given)
        except torch.OutOfMemoryError:
            pass
        # Not in the handler: while it runs, its traceback keeps the failed batch's tensors alive.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    @torch.inference_mode()
    def _agrees(self) -> bool:
        """Whether a shared prefix without masks gives this model's plain states; tried on two prompts.

        Switches the model's attention over when it does: config and class names cannot promise that a model is an
        ordinary one.
        """
        vocabulary = self.model.config.get_text_config().vocab_size
        prompts = np.random.default_rng(0).integers(0, vocabulary, (2, 2 * MIN_PREFIX))
        prompts[1, :MIN_PREFIX] = prompts[0, :MIN_PREFIX]
        self.causal = False
        plain = self._forward(prompts.tolist())
        self.causal = True
        self.model.set_attn_implementation(CAUSAL)
        cache = prefix_cache(self.model, self._on_device(prompts[:1, :MIN_PREFIX].copy()))
        shared = self._forward(prompts[:, MIN_PREFIX:].tolist(), cache)
        # Half precision rounds in every layer; a wrong mask is far off.
        close = 1e-3 if self.model.dtype == torch.float32 else 0.1
        if bool((shared - plain).norm() <= close * plain.norm()):
            return True
        self.model.set_attn_implementation("sdpa")
        return False

    def _automatic_budget(self, config: TeacherConfig) -> int:
        if not self._gpus:
            return CPU_BUDGET
        facts: dict[str, str | int | bool | None] = {
            "device": self.load.device,
            "devices": len(self._gpus),
            "memory": sum(torch.cuda.mem_get_info(g)[1] for g in self._gpus),
            "model": self.load.revision,
            "adapter": self.load.adapter,
            "merged": config.merge_adapter,
            "compile": config.compile,
            "dtype": config.dtype,
            "max_length": config.max_length,
            "torch": torch.__version__,
        }

        @torch.inference_mode()
        def filled_by(tokens: int) -> float:
            room = [torch.cuda.mem_get_info(g)[0] + torch.cuda.memory_reserved(g) for g in self._gpus]
            self._forward([[self.pad_id] * config.max_length] * (tokens // config.max_length))
            return max(torch.cuda.max_memory_allocated(g) / free for g, free in zip(self._gpus, room, strict=True))

        budget = automatic_budget(facts, config.max_length, filled_by)
        torch.cuda.empty_cache()
        return budget


def _all_gpus() -> list[torch.device]:
    return [torch.device("cuda", n) for n in range(torch.cuda.device_count())]


def _device(gpus: float) -> torch.device:
    if gpus > 0 and not torch.cuda.is_available():
        need = f"teacher.gpus_per_worker={gpus:g}: this worker sees no CUDA device"
        raise ConfigError(f"{need}; set it to 0 or run on a GPU machine")
    return torch.device("cuda" if gpus > 0 else "cpu")
