"""Which adapters an engine can take that applies plain LoRA with its own code and does not say what it leaves out."""

import math
from collections.abc import Iterable
from pathlib import Path

from ckd.store.tensorfile import tensors_in
from ckd.teacher.adapter import SETTINGS, Adapter, Shapes, refusal

# Settings that change what an adapter computes. vLLM 0.29 ignores rank_pattern, alpha_pattern, lora_bias,
# layer_replication and init_lora_weights: it would scale or place such an adapter otherwise than PEFT and say nothing.
_CHANGES = (
    "use_dora", "lora_bias", "modules_to_save", "rank_pattern", "alpha_pattern", "layer_replication",
    "alora_invocation_tokens", "use_qalora", "use_bdlora", "trainable_token_indices", "target_parameters",
    "fan_in_fan_out", "kasa_config", "monteclora_config", "velora_config", "arrow_config",
)  # fmt: skip
# They set A and B alone; others (PiSSA, OLoRA, …) change the base weights too.
_OWN_INITS = ("gaussian", "eva", "orthogonal")


def plain_lora_rank(adapter: Adapter) -> int:
    """The rank r of an adapter. Raises ConfigError unless it is plain LoRA.

    Plain is W + (alpha / r or alpha / √r) · B · A with one r and one alpha.
    """
    settings = adapter.settings
    unusual = [key for key in _CHANGES if settings.get(key)]
    unusual += ["bias"] * (settings.get("bias", "none") != "none")
    start = settings.get("init_lora_weights", True)
    unusual += ["init_lora_weights"] * (isinstance(start, str) and start not in _OWN_INITS)
    expected = "plain LoRA with one rank; set teacher.engine=transformers, which runs it through PEFT"
    if adapter.kind != "LORA":
        raise refusal(adapter.name, f"it is {adapter.kind}", expected)
    rank = settings.get("r")
    if unusual or not isinstance(rank, int):
        raise refusal(adapter.name, f"{SETTINGS} sets {', '.join(unusual) or 'no rank r'}", expected)
    return rank


def shapes_in(folder: str) -> Shapes:
    """Every tensor's shape in a folder's safetensors files. Empty when there are none."""
    files = sorted(Path(folder).glob("*.safetensors"))
    return {name: tensor.shape for file in files for name, tensor in tensors_in(str(file)).items()}


def weights_outside_embeddings(tensors: Iterable[tuple[str, tuple[int, ...]]]) -> int:
    """How many weights a forward pass without embedding table and lm_head multiplies with."""
    return sum(math.prod(shape) for name, shape in tensors if "embed_tokens" not in name and "lm_head" not in name)
