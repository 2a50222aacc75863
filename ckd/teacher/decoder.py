"""Loads the decoder of a causal language model, frozen, without lm_head, with its LoRA adapter."""

from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.utils import load_peft_weights
from transformers import AutoModelForCausalLM

from ckd.config import TeacherConfig
from ckd.errors import ConfigError
from ckd.store.pretrained import (
    Source,
    has_weights,
    load_model,
    load_settings,
    load_tokenizer,
    outside_base,
    require_finite,
    require_rows,
    without_weights,
)
from ckd.teacher.work import Geometry


def load_decoder(config: TeacherConfig, source: Source, device: torch.device) -> tuple[Any, Any, list[str]]:
    """Tokenizer, the decoder in eval mode on its device(s), and what a person should know of the load.

    Raises ConfigError.
    """
    tokenizer, settings = load_tokenizer(source), load_settings(source)
    stored = settings.dtype
    model = _load(source, settings, config, device_map=config.device_map if _spread(config, device) else None)
    require_rows(source, tokenizer, model)
    causal = _with_adapter(model, config) if config.adapter else model
    # Without lm_head; an adapter that is not merged is inside the layers, so it stays active.
    decoder = causal.base_model.eval().requires_grad_(False)
    decoder = decoder if _spread(config, device) else decoder.to(device)
    require_finite(source, decoder)
    return tokenizer, decoder, _dtype_notes(config, stored, decoder)


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


def outline(config: TeacherConfig, source: Source) -> tuple[Any, Geometry, int]:
    """Tokenizer, geometry and width of the embeddings, without reading weights. Raises ConfigError.

    Where the weights are on this machine, what would be missing when they are loaded is refused as well.
    """
    tokenizer, settings = load_tokenizer(source), load_settings(source)
    if has_weights(source):
        model = _load(source, settings, config, device_map="meta")
        require_rows(source, tokenizer, model)
    else:
        model = without_weights(source, AutoModelForCausalLM, settings)
    return tokenizer, geometry(model.base_model), int(settings.get_text_config().hidden_size)


def _spread(config: TeacherConfig, device: torch.device) -> bool:
    return bool(config.device_map) and device.type == "cuda"


def _load(source: Source, settings: Any, config: TeacherConfig, device_map: str | None) -> Any:
    """The causal model; only its lm_head, which is never computed, may be missing."""
    return load_model(
        source,
        AutoModelForCausalLM,
        settings,
        new=outside_base,
        dtype=getattr(torch, config.dtype),
        attn_implementation="sdpa",
        device_map=device_map,
    ).model


def _dtype_notes(config: TeacherConfig, stored: torch.dtype | None, decoder: Any) -> list[str]:
    asked = getattr(torch, config.dtype)
    others = {weight.dtype for name, weight in decoder.named_parameters() if "lora_" not in name} - {asked}
    notes = []
    if stored == torch.float32 != asked:
        notes.append(f"its weights are stored in float32 and rounded to teacher.dtype={config.dtype}")
    if others:
        notes.append(
            f"some of its weights stay in {', '.join(sorted(map(_name, others)))} for teacher.dtype={config.dtype}"
        )
    return notes


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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
