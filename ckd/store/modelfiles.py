"""Looks at the files of a model without loading it: is each whole, and of a kind that this project loads.

Costs a few small reads per file. What only a load can find, `pretrained` finds.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ckd.errors import ConfigError
from ckd.store.files import join, read_bytes
from ckd.store.tensorfile import tensors_in

if TYPE_CHECKING:
    from pyarrow import fs

_POINTER = b"version https://git-lfs.github.com/spec/"
_WEIGHTS = (".safetensors", ".bin")
_INDEX = "model.safetensors.index.json"


def require_usable(key: str, name: str, files: "list[fs.FileInfo]") -> None:
    """Raise ConfigError naming the file when one of a model folder's files cannot be what it should be.

    `files` are those directly in the folder or at the URL `name`: Git LFS pointers, files that end too early, shards
    that an index names and that are not there, quantised weights, an adapter among them.
    """
    there = {file.base_name: file.size for file in files if _loaded(file.base_name)}
    for file in sorted(there):
        if there[file] < 1024:
            require_content(key, name, file, read_bytes(join(name, file)))
    for file in sorted(there):
        if file.endswith(".safetensors"):
            try:
                tensors = tensors_in(join(name, file))
            except ValueError as error:
                raise ConfigError(f"{key}={name}: {file} {error}") from None
            if not tensors:
                raise _damaged(key, name, f"{file} holds no tensors")
    if "adapter_config.json" in there:
        raise ConfigError(
            f"{key}={name}: holds an adapter_config.json beside the model, which transformers would apply unasked; "
            "move the adapter to a folder of its own and name that as teacher.adapter, or merge it"
        )
    if _INDEX in there:
        _require_shards(key, name, set(there))
    require_plain(key, name, _json(key, name, "config.json"))


def _require_shards(key: str, name: str, there: set[str]) -> None:
    weights = _json(key, name, _INDEX).get("weight_map")
    if not isinstance(weights, dict):
        raise _damaged(key, name, f"{_INDEX} has no weight_map")
    shards = set(map(str, weights.values()))
    lost = sorted(shards - there)
    if lost:
        raise ConfigError(
            f"{key}={name}: {len(lost)} of the {len(shards)} files that {_INDEX} names are missing "
            f"(first: {lost[0]}); copy or download the folder again"
        )


def require_content(key: str, name: str, file: str, start: bytes) -> None:
    """Raise ConfigError for a file that begins as what Git LFS leaves in the place of a large one."""
    if start.startswith(_POINTER):
        raise ConfigError(
            f"{key}={name}: {file} is a Git LFS pointer, not the file itself; run 'git lfs pull' in that repository"
        )


def _loaded(file: str) -> bool:
    """Whether transformers reads a file of this name: of weights only its own names, not Mistral's consolidated.*."""
    return file.startswith(("model", "pytorch_model")) or not file.endswith((*_WEIGHTS, ".gguf", ".onnx", ".pth"))


def require_plain(key: str, name: str, settings: Mapping[str, Any]) -> None:
    """Raise ConfigError when a model's config.json says that its weights are quantised."""
    quantised = settings.get("quantization_config")
    if quantised:
        found = quantised if isinstance(quantised, dict) else vars(quantised)
        method = found.get("quant_method") or "bitsandbytes"
        method = getattr(method, "value", method)
        raise ConfigError(
            f"{key}={name}: its weights are quantised ({method}), which changes every value; "
            "name the model that they were made from, or save it dequantised"
        )


def _damaged(key: str, name: str, what: str) -> ConfigError:
    return ConfigError(f"{key}={name}: {what}: damaged, or not copied to its end; copy or download it again")


def _json(key: str, name: str, file: str) -> dict[str, Any]:
    try:
        found = json.loads(read_bytes(join(name, file)))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise _damaged(key, name, f"{file} is not a JSON object")
    return found
