"""Loads the decoder of a causal language model, frozen, without lm_head, with its LoRA adapter."""

from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.utils import load_peft_weights
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from ckd.config import TeacherConfig
from ckd.errors import ConfigError
from ckd.store.models import revision
from ckd.teacher.work import Geometry


def load_decoder(config: TeacherConfig, folder: str, device: torch.device) -> tuple[Any, Any]:
    """Tokenizer, and the decoder in eval mode on its device(s). Raises ConfigError.

    `folder` is where teacher.base_model lies on this machine.
    """
    tokenizer, model = _load(config, folder, device)
    causal = _with_adapter(model, config) if config.adapter else model
    # Without lm_head; an adapter that is not merged is inside the layers, so it stays active.
    decoder = causal.base_model.eval().requires_grad_(False)
    return tokenizer, decoder if _spread(config, device) else decoder.to(device)


def geometry(decoder: Any) -> Geometry:
    """What the FLOP formula counts: all weights but the embedding table's."""
    config = decoder.config.get_text_config()
    table = decoder.get_input_embeddings().weight
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Geometry(
        parameters=sum(p.numel() for p in decoder.parameters() if p is not table),
        layers=config.num_hidden_layers,
        width=config.num_attention_heads * head,
    )


def outline(config: TeacherConfig, folder: str) -> tuple[Any, Geometry, int]:
    """Tokenizer, geometry and width of the embeddings, without reading weights. Raises ConfigError."""
    commit = revision("teacher.base_model", folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, revision=commit)
        settings = AutoConfig.from_pretrained(folder, revision=commit)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(settings)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"teacher.base_model={config.base_model}: no configuration and tokenizer of a causal language model "
            f"({type(error).__name__}); give a folder, a URL or a Hub id of one"
        ) from error
    return tokenizer, geometry(model.base_model), int(settings.get_text_config().hidden_size)


def _spread(config: TeacherConfig, device: torch.device) -> bool:
    return bool(config.device_map) and device.type == "cuda"


def _load(config: TeacherConfig, folder: str, device: torch.device) -> tuple[Any, Any]:
    commit = revision("teacher.base_model", folder)
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, revision=commit)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            revision=commit,
            dtype=getattr(torch, config.dtype),
            attn_implementation="sdpa",
            device_map=config.device_map if _spread(config, device) else None,
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"teacher.base_model={config.base_model}: cannot be loaded ({type(error).__name__}); "
            "expected a folder or Hub id of a causal language model with safetensors weights"
        ) from error
    return tokenizer, model


def _with_adapter(model: Any, config: TeacherConfig) -> Any:
    """The causal model with the adapter active. Raises ConfigError when a tensor found no place (PEFT only warns)."""
    adapter = config.adapter
    try:
        wrapped = PeftModel.from_pretrained(model, adapter, is_trainable=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"teacher.adapter={adapter}: cannot be loaded ({type(error).__name__}); "
            "expected a LoRA adapter tuned on teacher.base_model"
        ) from error
    stored, loaded = load_peft_weights(adapter, device="cpu"), get_peft_model_state_dict(wrapped)
    lost = [
        name
        for name in stored
        if name not in loaded or not torch.equal(stored[name].to(loaded[name].dtype), loaded[name].cpu())
    ]
    if lost or not stored:
        raise ConfigError(
            f"teacher.adapter={adapter}: {len(lost)} of its {len(stored)} tensors do not fit teacher.base_model; "
            "name the base model it was tuned on"
        )
    return wrapped.merge_and_unload() if config.merge_adapter else wrapped.get_base_model()
