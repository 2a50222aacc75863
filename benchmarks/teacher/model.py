"""Qwen2-shaped models with random weights, made where they run, and the project's engine on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

from ckd.config import TeacherConfig
from ckd.teacher import decoder
from ckd.teacher.engine_hf import TransformersEngine

_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}{% endfor %}{% if add_generation_prompt %}<end>{% endif %}"
)
_RANK = 8
_WEAK = 0.1  # of the size that PEFT's untrained B would have: a tuned adapter changes a layer by some per cent


@dataclass(frozen=True)
class Shape:
    """The geometry of a decoder with grouped attention."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    groups: int
    vocabulary: int


CPU = Shape(layers=12, hidden=512, intermediate=2752, heads=8, groups=2, vocabulary=152_064)
QWEN_7B = Shape(layers=28, hidden=3584, intermediate=18_944, heads=28, groups=4, vocabulary=152_064)
TINY = Shape(layers=2, hidden=128, intermediate=128, heads=4, groups=2, vocabulary=1000)


def make_model(shape: Shape, dtype: torch.dtype, device: str) -> Any:
    """The causal model with its own lm_head (Qwen2.5-7B's is not tied); the same weights at every call on a device."""
    width = {"hidden_size": shape.hidden, "intermediate_size": shape.intermediate, "vocab_size": shape.vocabulary}
    heads = {"num_attention_heads": shape.heads, "num_key_value_heads": shape.groups}
    tokens = {"max_position_embeddings": 32_768, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0}
    settings = Qwen2Config(num_hidden_layers=shape.layers, tie_word_embeddings=False, **width, **heads, **tokens)
    torch.manual_seed(0)
    with torch.device(device):
        causal = AutoModelForCausalLM.from_config(settings, dtype=dtype, attn_implementation="sdpa")
    return causal.eval().requires_grad_(False)


def make_tokenizer() -> Any:
    """A tokenizer with a chat template: engines want one, prompts of token ids use none."""
    known = Tokenizer(models.WordLevel({"<end>": 0, "<unknown>": 1, "visit": 2}, unk_token="<unknown>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=known, chat_template=_TEMPLATE, eos_token="<end>", pad_token="<end>", unk_token="<unknown>"
    )


def write_adapter(folder: Path, causal: Any, base: Path) -> str:
    """Write a random LoRA adapter on every projection of the model in `base`, as PEFT does; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    generator, tensors = torch.Generator().manual_seed(1), {}
    for name, layer in causal.named_modules():
        if name.endswith("_proj"):
            outputs, inputs = layer.weight.shape
            a, b = (torch.empty(shape) for shape in ((_RANK, inputs), (outputs, _RANK)))
            for factor, weight, bound in (("A", a, inputs**-0.5), ("B", b, _WEAK * _RANK**-0.5)):
                weight.uniform_(-bound, bound, generator=generator)
                tensors[f"base_model.model.{name}.lora_{factor}.weight"] = weight
    save_file(tensors, folder / "adapter_model.safetensors")
    projections = sorted({name.split(".")[-3] for name in tensors})
    scale = {"r": _RANK, "lora_alpha": 2 * _RANK, "target_modules": projections}
    LoraConfig(**scale, task_type="CAUSAL_LM", base_model_name_or_path=str(base)).save_pretrained(folder)
    return str(folder)


def make_engine(causal: Any, folder: Path, device: str, **settings: Any) -> TransformersEngine:
    """The project's default engine on a model that is on its device. An adapter in `settings` becomes part of it."""
    causal.config.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    causal.set_attn_implementation("sdpa")  # as a model comes from a disk
    config = TeacherConfig(base_model=str(folder), dtype=str(causal.dtype).removeprefix("torch."), **settings)
    with _read_from_nowhere(causal):
        return TransformersEngine(config, gpus=float(device == "cuda"))


@contextmanager
def _read_from_nowhere(causal: Any) -> Iterator[None]:
    """Replaces only the reading of weights, so that 15 GB need not be written. All else is the engine's own code."""
    read, decoder._load = decoder._load, lambda *_, **__: causal
    try:
        yield
    finally:
        decoder._load = read
