"""The vLLM engine: its pooling runner with LAST pooling, no normalisation, prefix cache on.

Needs `pip install -c constraints-vllm.txt '.[vllm]'`. vLLM batches by itself, and can share one model among GPUs
(tensor parallelism). It schedules inside this process: the same call then makes the same batches, so that a shard done
again gets the same bytes, and no process is left holding the GPU when this one is killed. Only tensor parallelism
starts processes, which end with this one.
"""

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ckd.config import TeacherConfig
from ckd.errors import ConfigError
from ckd.store.models import adapter_hash, local_folder, model_fields
from ckd.store.pretrained import Source, load_settings, load_tokenizer, without_weights
from ckd.teacher.adapter import Shapes, read_adapter
from ckd.teacher.chat_template import load_prompter
from ckd.teacher.engine import Load
from ckd.teacher.lora_file import plain_lora_rank, shapes_in, weights_outside_embeddings
from ckd.teacher.work import Geometry, Work, forward_flops
from ckd.visits.labels import INSTRUCTION

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the values that vLLM's max_lora_rank can take
_CPU_CACHE = 1 << 30  # bytes of KV cache on a CPU, where vLLM would take half of the memory
_ONLY_TRANSFORMERS = {"merge_adapter": False, "compile": False, "device_map": ""}


class VllmEngine:
    """`Engine` on vLLM."""

    def __init__(self, config: TeacherConfig, gpus: float) -> None:
        """Raises ConfigError when vLLM is not here, cannot load the model, or would leave out a part of the adapter."""
        started = time.monotonic()
        _refuse(config, gpus)
        folder = local_folder("teacher.base_model", config.base_model)  # vLLM, tokenizer and checks read the same files
        source = Source("teacher.base_model", config.base_model, folder)
        adapter, options, notes = _lora(config, source) if config.adapter else ({}, {}, [])
        vllm = _library(gpus)
        self._lora = vllm.lora.request.LoRARequest("adapter", 1, config.adapter) if config.adapter else None
        self._llm = _load(vllm, folder, config, gpus, options)
        self._params = vllm.PoolingParams(use_activation=False)
        self.prompter = load_prompter(config, load_tokenizer(source))
        text = self._llm.model_config.hf_text_config
        self.hidden = int(text.hidden_size)
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        weights = weights_outside_embeddings([*shapes_in(folder).items(), *adapter.items()])
        self._geometry = Geometry(weights, int(text.num_hidden_layers), int(text.num_attention_heads * head))
        self._work = Work()
        if config.adapter:
            self._require_adapter_works(config.adapter)
        named = model_fields("teacher.base_model", config.base_model)
        self.load = Load(
            seconds=time.monotonic() - started,
            revision=str(named["teacher.base_model"]),
            adapter=adapter_hash("teacher.adapter", config.adapter) if config.adapter else None,
            engine=config.engine,
            device=str(vllm.platforms.current_platform.get_device_name()) if gpus > 0 else "cpu",
            note="; ".join([*notes, "vLLM keeps no device clock: its own scheduling counts as busy"]),
        )

    def encode(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        """See Engine.encode."""
        started = time.monotonic()
        vectors, cached = self._pool(prompts, self._lora)
        flops = sum(forward_flops(self._geometry, 1, len(p) - n, n) for p, n in zip(prompts, cached, strict=True))
        tokens = sum(map(len, prompts))
        self._work += Work(
            prompts=len(prompts),
            tokens=tokens,
            computed=tokens - sum(cached),
            prefix_saved=sum(cached),
            busy_s=time.monotonic() - started,
            flops=flops,
            peak_bytes=torch.cuda.max_memory_allocated(),  # 0 where this process has not used CUDA
        )
        return vectors

    def take_work(self) -> Work:
        """See Engine.take_work. With tensor_parallel > 1 peak_bytes is 0: the memory is in vLLM's own processes."""
        work, self._work = self._work, Work()
        return work

    def _pool(self, prompts: Sequence[Sequence[int]], lora: Any) -> tuple[np.ndarray, list[int]]:
        """float32 [n, hidden] and each prompt's tokens from the cache, which starts empty: see Engine.encode."""
        vectors = np.empty((len(prompts), self.hidden), np.float32)
        if not prompts:
            return vectors, []
        self._llm.reset_prefix_cache()
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        outputs = self._llm.encode(inputs, self._params, pooling_task="embed", lora_request=lora, use_tqdm=False)
        for row, output in enumerate(outputs):
            vectors[row] = output.outputs.data.float().cpu().numpy()
        return vectors, [int(output.num_cached_tokens or 0) for output in outputs]

    def _require_adapter_works(self, adapter: str) -> None:
        """Raises ConfigError unless the adapter changes an empty visit's embedding by more than a second run does."""
        probe = self.prompter.encode([INSTRUCTION], [""])[0]
        (bare,), (_, again) = self._pool(probe, None)[0], self._pool(probe * 2, None)[0]
        try:
            (tuned,), _ = self._pool(probe, self._lora)
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"teacher.adapter={adapter}: vLLM cannot load it ({type(error).__name__}: {_line(error)})"
            ) from error
        if not np.abs(tuned - bare).max() > np.abs(again - bare).max():
            raise ConfigError(
                f"teacher.adapter={adapter}: vLLM's embeddings are the same with and without it; "
                "expected an adapter that changes them; check that it was trained, or set teacher.engine=transformers"
            )


def _refuse(config: TeacherConfig, gpus: float) -> None:
    """Settings that vLLM would ignore or that cannot work, before anything is loaded."""
    for key, unset in _ONLY_TRANSFORMERS.items():
        if getattr(config, key) != unset:
            raise ConfigError(
                f"teacher.{key}={getattr(config, key)}: for teacher.engine=transformers only; "
                "leave it out with teacher.engine=vllm"
            )
    if max(config.tensor_parallel, gpus) > 1 and gpus != config.tensor_parallel:
        raise ConfigError(
            f"teacher.tensor_parallel={config.tensor_parallel}: teacher.gpus_per_worker is {gpus:g}; "
            "set both to the GPUs that share one model"
        )
    if config.adapter and config.dtype == "float32" and gpus > 0:
        raise ConfigError(
            "teacher.dtype=float32: vLLM's LoRA kernels on GPUs take bfloat16 or float16; "
            "set one, or teacher.engine=transformers"
        )


def _lora(config: TeacherConfig, source: Source) -> tuple[Shapes, dict[str, Any], list[str]]:
    """An adapter's tensors, vLLM's options for it, notes. Raises ConfigError unless vLLM applies it as PEFT does."""
    adapter = read_adapter(config.adapter)
    rank = plain_lora_rank(adapter)
    if rank > _RANKS[-1]:
        raise ConfigError(
            f"teacher.adapter={adapter.name}: rank {rank}, vLLM takes {_RANKS[-1]} at most; "
            "set teacher.engine=transformers"
        )
    from transformers import AutoModelForCausalLM

    from ckd.teacher.adapter_fit import another_base, require_plain_fit, shapes
    from ckd.teacher.tuned import stored_tensors

    stored = shapes(stored_tensors(adapter))
    require_plain_fit(adapter, stored, without_weights(source, AutoModelForCausalLM, load_settings(source)))
    options = {"enable_lora": True, "max_loras": 1, "max_lora_rank": min(known for known in _RANKS if known >= rank)}
    return stored, options, another_base(adapter, config)


def _library(gpus: float) -> Any:
    """The vllm package, imported quietly. Raises ConfigError when it is not here or computes on another device."""
    # Nothing is sent anywhere; the engine runs in this process.
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    for name, value in {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }.items():
        os.environ.setdefault(name, value)
    try:
        import vllm
        import vllm.config
        import vllm.lora.request
        import vllm.platforms
    except ImportError as error:
        raise ConfigError(
            f"teacher.engine=vllm: it cannot be imported ({_line(error)}); "
            "pip install -c constraints-vllm.txt '.[vllm]' or set teacher.engine=transformers"
        ) from error
    wanted, found = "cuda" if gpus > 0 else "cpu", vllm.platforms.current_platform.device_type
    if found != wanted:
        raise ConfigError(
            f"teacher.gpus_per_worker={gpus:g}: needs a vLLM that computes on {wanted}, this one has "
            f"{found or 'no device'}; set teacher.engine=transformers, or gpus_per_worker to what this machine has"
        )
    return vllm


def _load(vllm: Any, folder: str, config: TeacherConfig, gpus: float, options: dict[str, Any]) -> Any:
    if config.token_budget:
        options["max_num_batched_tokens"] = config.token_budget
    if gpus == 0:
        options |= {"enforce_eager": True, "kv_cache_memory_bytes": _CPU_CACHE}
    elif gpus < 1:
        options["gpu_memory_utilization"] = 0.9 * gpus  # others hold the rest of this GPU
    if config.tensor_parallel > 1:
        # Inside a Ray actor vLLM would ask Ray for the GPUs that this actor already holds.
        options["distributed_executor_backend"] = "mp"
    try:
        return vllm.LLM(
            folder,
            runner="pooling",
            pooler_config=vllm.config.PoolerConfig(seq_pooling_type="LAST", use_activation=False),
            dtype=config.dtype,
            max_model_len=config.max_length,
            tensor_parallel_size=config.tensor_parallel,
            enable_prefix_caching=True,
            use_tqdm_on_load=False,
            **options,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"teacher.base_model={config.base_model}: vLLM cannot load it ({type(error).__name__}: {_line(error)})"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
