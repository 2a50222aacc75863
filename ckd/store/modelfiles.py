"""Looks at the files of a model without loading it: is each whole, and of a kind that this project loads.

Costs a few small reads per file. What only a load can find, `pretrained` finds.
"""

import json
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ckd.errors import ConfigError
from ckd.store.files import join, open_file, read_bytes
from ckd.store.filesystems import reaching

if TYPE_CHECKING:
    from pyarrow import fs

_POINTER = b"version https://git-lfs.github.com/spec/"
_WEIGHTS = (".safetensors", ".bin")
_INDEX = "model.safetensors.index.json"
_HEADER = 100 << 20  # the most bytes that safetensors allows for a file's header


def require_usable(key: str, name: str, files: "list[fs.FileInfo]") -> None:
    """Raise ConfigError naming the file when one of a model folder's files cannot be what it should be.

    `files` are those directly in the folder or at the URL `name`: Git LFS pointers, files that end too early, shards
    that an index names and that are not there, quantised weights.
    """
    there = {file.base_name: file.size for file in files if _loaded(file.base_name)}
    for file in sorted(there):
        if there[file] < 1024 and read_bytes(join(name, file)).startswith(_POINTER):
            raise ConfigError(
                f"{key}={name}: {file} is a Git LFS pointer, not the file itself; run 'git lfs pull' in that repository"
            )
    for file in sorted(there):
        if file.endswith(".safetensors"):
            _require_whole(key, name, file, there[file])
    if _INDEX in there:
        shards = set(_json(key, name, _INDEX).get("weight_map", {}).values())
        lost = sorted(shard for shard in shards if shard not in there)
        if lost:
            raise ConfigError(
                f"{key}={name}: {len(lost)} of the {len(shards)} files that {_INDEX} names are missing "
                f"(first: {lost[0]}); copy or download the folder again"
            )
    require_plain(key, name, _json(key, name, "config.json"))


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


def _require_whole(key: str, name: str, file: str, size: int) -> None:
    """Raise ConfigError when a safetensors file of `size` bytes is damaged or ends too early."""
    path = join(name, file)
    try:
        with reaching(path), open_file(path) as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length)) if length <= min(size, _HEADER) else {}
        ends = [facts["data_offsets"][1] for name, facts in header.items() if name != "__metadata__"]
        end = 8 + length + max(ends)
    except (struct.error, ValueError, AttributeError, LookupError, TypeError):
        raise _damaged(key, name, f"{file} has no readable header") from None
    if end != size:
        raise _damaged(key, name, f"{file} has {size:,} bytes, its header names {end:,}")


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
