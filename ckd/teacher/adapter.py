"""What an adapter folder says of itself, from its files alone: neither torch nor PEFT is loaded, no weights are read.

Both engines start from here, and so do the checks that run before any GPU is asked for.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ckd.errors import ConfigError
from ckd.store.files import exists, join, open_file, read_bytes
from ckd.store.hub import adapter_on_hub
from ckd.store.modelfiles import require_content
from ckd.store.models import local_adapter
from ckd.store.tensorfile import Tensor, tensors_in

SETTINGS, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
HEADS = ("score", "classifier")  # of a classifier: PEFT stores them with its adapter, embeddings do not need them

# Kinds of PEFT that act beside the layers: before the prompt, by task, by a first pass. Without PEFT's own forward they
# would be gone and the bare base model left.
_BESIDE = dict.fromkeys(
    ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE", "ADAPTION_PROMPT",
     "XLORA", "POLY", "SHADOW"),
    "acts beside the layers",
)  # fmt: skip
_REFUSED_KINDS = {**_BESIDE, "LILY": "mixes all tokens of a batch, so that a visit would depend on its neighbours"}
_REFUSED_SETTINGS = {
    "alora_invocation_tokens": "activated LoRA acts beside the layers",
    "layer_replication": "repeated layers would share one cache",
}
_DRAWN_AT_LOAD = "pissa_niter_"  # PEFT factorises the base weights with random numbers, anew at every load


Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Adapter:
    """The settings and the tensors of one adapter folder."""

    name: str  # teacher.adapter, or the folder of its copy here
    settings: Mapping[str, Any]  # adapter_config.json
    tensors: Mapping[str, Tensor] | None  # by their stored names; None: pickled, which torch alone reads

    @property
    def kind(self) -> str:
        """PEFT's name of the method: LORA, IA3, …."""
        return str(self.settings["peft_type"])


def read_adapter(name: str) -> Adapter:
    """The adapter in a folder, at a URL or on the Hub. Raises ConfigError for what cannot be run whole."""
    folder = local_adapter(name) if adapter_on_hub(name) else name
    adapter = Adapter(name, _settings(name, folder), _tensors(name, folder))
    if adapter.kind in _REFUSED_KINDS:
        wrong = f"it is {adapter.kind}, which {_REFUSED_KINDS[adapter.kind]}"
        raise refusal(name, wrong, "an adapter inside the layers, such as LoRA")
    for key, why in _REFUSED_SETTINGS.items():
        if adapter.settings.get(key):
            raise refusal(name, f"{SETTINGS} sets {key}: {why}", "an adapter trained without it")
    start = adapter.settings.get("init_lora_weights")
    if str(start).startswith(_DRAWN_AT_LOAD):
        wrong = f"{SETTINGS} sets init_lora_weights={start}, which draws other base weights at every load"
        raise refusal(
            name, wrong, "plain LoRA, which PEFT's save_pretrained(path_initial_model_for_weight_conversion=) makes"
        )
    if adapter.tensors is not None:
        require_values(name, {tensor: found.shape for tensor, found in adapter.tensors.items()})
    return adapter


def require_values(name: str, shapes: Shapes) -> None:
    """Raises ConfigError for a file without tensors, or with empty ones, as a sharded training saves by mistake."""
    if not shapes:
        raise refusal(name, "its weights file holds no tensors", "the folder that the training saved last")
    empty = [tensor for tensor, shape in shapes.items() if 0 in shape]
    if empty:
        wrong = f"{empty[0]} has shape {list(shapes[empty[0]])}{and_more(empty)}: saved while DeepSpeed ZeRO-3 or FSDP "
        raise refusal(
            name, f"{wrong}held the values elsewhere", "a save of gathered weights (zero_to_fp32.py makes one)"
        )


def refusal(name: str, wrong: str, expected: str) -> ConfigError:
    """The one line for an adapter that cannot be used."""
    return ConfigError(f"teacher.adapter={name}: {wrong}; expected {expected}")


def and_more(names: list[str]) -> str:
    """How many there are beside the first one, which is named."""
    return f", and {len(names) - 1} more like it" if len(names) > 1 else ""


def _settings(name: str, folder: str) -> dict[str, Any]:
    expected = "a LoRA folder as PEFT or LLaMA-Factory write it"
    try:
        content = read_bytes(join(folder, SETTINGS))
    except (FileNotFoundError, NotADirectoryError):
        raise refusal(name, f"no {SETTINGS} there", expected) from None
    except OSError as error:
        raise refusal(name, f"{SETTINGS} cannot be read ({type(error).__name__})", expected) from None
    require_content("teacher.adapter", name, SETTINGS, content)
    try:
        settings = json.loads(content)
    except ValueError:
        raise refusal(name, f"{SETTINGS} is no JSON", expected) from None
    if not isinstance(settings, dict) or not isinstance(settings.get("peft_type"), str):
        raise refusal(name, f"{SETTINGS} names no peft_type", expected)
    return settings


def _tensors(name: str, folder: str) -> dict[str, Tensor] | None:
    file = next((file for file in (WEIGHTS, PICKLED) if exists(join(folder, file))), None)
    if file is None:
        raise refusal(name, f"neither {WEIGHTS} nor {PICKLED} there", "the folder that the training saved last")
    with open_file(join(folder, file)) as stream:
        require_content("teacher.adapter", name, file, bytes(stream.read(64)))
    try:
        return tensors_in(join(folder, file)) if file == WEIGHTS else None
    except ValueError as error:
        raise ConfigError(f"teacher.adapter={name}: {file} {error}") from None
