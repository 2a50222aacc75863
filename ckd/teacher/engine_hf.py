"""The transformers engine: base model + LoRA adapter through PEFT, no lm_head, padded token-budget batches. Runs on CPU and CUDA."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.utils import load_peft_weights
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from ckd.batching import token_batches
from ckd.config import TeacherConfig
from ckd.errors import ConfigError
from ckd.pretrained import revision
from ckd.prompts import Prompter
from ckd.teacher.pooling import last_token


class TransformersEngine:
    """`Engine` on transformers and PEFT. The adapter stays unmerged: merging in bf16 can lose a weak one."""

    def __init__(self, config: TeacherConfig, gpus: float, padding_side: str = "right") -> None:
        self.device = _device(gpus)
        self.budget = config.token_budget
        tokenizer, model = _load(config)
        self.prompter = Prompter(tokenizer, config.max_length)
        self.padding_side = padding_side
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0)
        causal = _with_adapter(model, config.adapter) if config.adapter else model
        # The decoder without lm_head; a PEFT adapter lives inside its layers, so it stays active.
        self.model = causal.base_model.to(self.device).eval().requires_grad_(False)
        self.hidden = int(self.model.config.get_text_config().hidden_size)

    def encode(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        """See Engine.encode."""
        out = np.empty((len(prompts), self.hidden), np.float32)
        for rows in token_batches([len(p) for p in prompts], self.budget):
            out[rows] = self._forward([prompts[i] for i in rows])
        return out

    @torch.inference_mode()
    def _forward(self, prompts: list[Sequence[int]]) -> np.ndarray:
        longest = max(map(len, prompts))
        ids = np.full((len(prompts), longest), self.pad_id, np.int64)
        mask = np.zeros((len(prompts), longest), np.int64)
        for row, prompt in enumerate(prompts):
            where = slice(0, len(prompt)) if self.padding_side == "right" else slice(longest - len(prompt), longest)
            ids[row, where], mask[row, where] = prompt, 1
        ids_BT, mask_BT = torch.from_numpy(ids).to(self.device), torch.from_numpy(mask).to(self.device)
        positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
        states_BTH = self.model(input_ids=ids_BT, attention_mask=mask_BT, position_ids=positions_BT, use_cache=False).last_hidden_state
        pooled: np.ndarray = last_token(states_BTH, mask_BT).float().cpu().numpy()
        return pooled


def _device(gpus: float) -> torch.device:
    if gpus > 0 and not torch.cuda.is_available():
        raise ConfigError(f"teacher.gpus_per_worker={gpus:g}: this worker sees no CUDA device; set it to 0 or run on a GPU machine")
    return torch.device("cuda" if gpus > 0 else "cpu")


def _load(config: TeacherConfig) -> tuple[Any, Any]:
    commit = revision("teacher.base_model", config.base_model)
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.base_model, revision=commit)
        model = AutoModelForCausalLM.from_pretrained(
            config.base_model, revision=commit, dtype=getattr(torch, config.dtype), attn_implementation="sdpa"
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"teacher.base_model={config.base_model}: cannot be loaded ({type(error).__name__}); "
            "expected a folder or Hub id of a causal language model with safetensors weights"
        ) from error
    return tokenizer, model


def _with_adapter(model: Any, adapter: str) -> Any:
    """The causal model with the adapter active. Raises ConfigError when not every adapter tensor found its place (PEFT only warns)."""
    try:
        wrapped = PeftModel.from_pretrained(model, adapter, is_trainable=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"teacher.adapter={adapter}: cannot be loaded ({type(error).__name__}); expected a LoRA adapter tuned on teacher.base_model"
        ) from error
    stored, loaded = load_peft_weights(adapter, device="cpu"), get_peft_model_state_dict(wrapped)
    lost = [name for name in stored if name not in loaded or not torch.equal(stored[name].to(loaded[name].dtype), loaded[name].cpu())]
    if lost or not stored:
        raise ConfigError(
            f"teacher.adapter={adapter}: {len(lost)} of its {len(stored)} tensors do not fit teacher.base_model; name the base model it was tuned on"
        )
    return wrapped.get_base_model()
