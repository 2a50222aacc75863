"""Loads the decoder of a causal language model, frozen, without lm_head, with its LoRA adapter."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from ckd.config import TeacherConfig
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
from ckd.teacher.adapter import read_adapter
from ckd.teacher.adapter_fit import require_fit
from ckd.teacher.tuned import with_adapter
from ckd.teacher.work import Geometry


def load_decoder(config: TeacherConfig, source: Source, device: torch.device) -> tuple[Any, Any, list[str]]:
    """Tokenizer, the decoder in eval mode on its device(s), and what a person should know of the load.

    Raises ConfigError.
    """
    tokenizer, settings = load_tokenizer(source), load_settings(source)
    stored = settings.dtype
    # Each tensor goes from its file to where it is computed: no copy of the model in this machine's memory.
    place = config.device_map if _spread(config, device) else {"": device}
    causal = _load(source, settings, config, device_map=place)
    require_rows(source, tokenizer, causal)
    require_finite(source, causal.base_model)
    notes = _dtype_notes(config, stored, causal.base_model)
    if config.adapter:
        causal, told = with_adapter(causal.eval(), config, device)
        notes += told
    # Without lm_head; an adapter that is not merged is inside the layers, so it stays active.
    return tokenizer, causal.base_model.eval().requires_grad_(False), notes


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

    Where the weights are on this machine, what would be missing when they are loaded is refused as well; and
    an adapter whose tensors do not fit.
    """
    tokenizer, settings = load_tokenizer(source), load_settings(source)
    if has_weights(source):
        model = _load(source, settings, config, device_map="meta")
        require_rows(source, tokenizer, model)
    else:
        model = without_weights(source, AutoModelForCausalLM, settings)
    shape = geometry(model.base_model)
    if config.adapter:
        require_fit(read_adapter(config.adapter), model)
    return tokenizer, shape, int(settings.get_text_config().hidden_size)


def _spread(config: TeacherConfig, device: torch.device) -> bool:
    return bool(config.device_map) and device.type == "cuda"


def _load(source: Source, settings: Any, config: TeacherConfig, device_map: str | dict[str, Any]) -> Any:
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
    others = {weight.dtype for weight in decoder.parameters()} - {asked}
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
