"""Checks a LoRA folder from its files alone, without loading a model: is it plain, and does it fit the base model.

For engines that apply an adapter with their own code and do not say which parts they leave out.
"""

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ckd.errors import ConfigError

Shapes = dict[str, tuple[int, ...]]

# adapter_config.json keys that change what an adapter computes. vLLM 0.29 ignores rank_pattern, alpha_pattern,
# lora_bias, layer_replication and init_lora_weights: it would scale or place such an adapter otherwise than PEFT and
# say nothing.
_CHANGES = (
    "use_dora", "lora_bias", "modules_to_save", "rank_pattern", "alpha_pattern", "layer_replication",
    "alora_invocation_tokens", "use_qalora", "use_bdlora", "trainable_token_indices", "target_parameters",
    "fan_in_fan_out", "kasa_config", "monteclora_config", "velora_config",
)  # fmt: skip
_OWN_INITS = (
    "gaussian",
    "eva",
    "orthogonal",
)  # only A and B; others (PiSSA, OLoRA, …) change the base weights too
_TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


def plain_lora_rank(adapter: str) -> int:
    """The rank r of a LoRA folder. Raises ConfigError unless it is plain.

    Plain is W + (alpha / r or alpha / √r) · B · A with one r and one alpha.
    """
    settings = _settings(adapter)
    unusual = [key for key in _CHANGES if settings.get(key)]
    unusual += ["peft_type"] * (settings.get("peft_type") != "LORA")
    unusual += ["bias"] * (settings.get("bias", "none") != "none")
    start = settings.get("init_lora_weights", True)
    unusual += ["init_lora_weights"] * (isinstance(start, str) and start not in _OWN_INITS)
    rank = settings.get("r")
    if unusual or not isinstance(rank, int):
        raise ConfigError(
            f"teacher.adapter={adapter}: adapter_config.json sets {', '.join(unusual) or 'no rank r'}, expected plain "
            "LoRA with one rank; set teacher.engine=transformers, which runs it through PEFT"
        )
    return rank


def require_fit(adapter: str, tensors: Shapes, base: Shapes) -> None:
    """Raises ConfigError unless all tensors are pairs that fit a linear layer of the base model in both shapes."""
    lost = [name for name in tensors if not _fits(name, tensors, base)]
    if lost or not tensors:
        raise ConfigError(
            f"teacher.adapter={adapter}: {len(lost)} of its {len(tensors)} tensors do not fit teacher.base_model; "
            "name the base model it was tuned on"
        )


def _fits(name: str, tensors: Shapes, base: Shapes) -> bool:
    found = _TENSOR.fullmatch(name)
    if found is None:
        return False
    module = found[1]
    a, b = (tensors.get(f"base_model.model.{module}.lora_{part}.weight", ()) for part in "AB")
    weight = base.get(f"{module}.weight", ())
    return len(a) == len(b) == len(weight) == 2 and a[0] == b[1] and (b[0], a[1]) == weight


def shapes(folder: str, pattern: str = "*.safetensors") -> Shapes:
    """Every tensor's shape in a folder's safetensors files, read from their headers. Empty when there are none."""
    from safetensors import safe_open

    found: Shapes = {}
    for file in sorted(Path(folder).glob(pattern)):
        with safe_open(file, framework="np") as tensors:
            names = tensors.keys()  # no mapping
            found |= {name: tuple(tensors.get_slice(name).get_shape()) for name in names}
    return found


def weights_outside_embeddings(tensors: Iterable[tuple[str, tuple[int, ...]]]) -> int:
    """How many weights a forward pass without embedding table and lm_head multiplies with."""
    return sum(math.prod(shape) for name, shape in tensors if "embed_tokens" not in name and "lm_head" not in name)


def _settings(adapter: str) -> dict[str, Any]:
    try:
        settings = json.loads((Path(adapter) / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"teacher.adapter={adapter}: adapter_config.json cannot be read ({type(error).__name__}); "
            "expected a LoRA folder"
        ) from error
    if not isinstance(settings, dict):
        raise ConfigError(
            f"teacher.adapter={adapter}: adapter_config.json holds no settings; "
            "expected a LoRA folder as PEFT writes it"
        )
    return settings
