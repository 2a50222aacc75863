"""The weights and tokenizer behind a folder, a URL or a Hub id: their fingerprint fields, found without loading them.

A model at a URL is copied once per machine, into <user cache>/models.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ckd.errors import ConfigError
from ckd.store.artifacts import Fields
from ckd.store.copies import Facts, copy_down, fetched_folder, kept_copy
from ckd.store.files import digest, exists, join, read_bytes
from ckd.store.filesystems import is_local
from ckd.store.folders import cache_folder
from ckd.store.hashes import TEMPLATES, folder_hash, model_files_in
from ckd.store.hub import adapter_files, adapter_on_hub, model_files, readable, small_files
from ckd.store.modelfiles import require_usable
from ckd.store.tokenizing import tokenizer_hash

if TYPE_CHECKING:
    from pyarrow import fs

_WEIGHTS = (".safetensors", ".bin")
_OF_TRAINING = ("training_args", "optimizer", "scheduler", "random_states", "rng_state")


def model_fields(key: str, name: str) -> Fields:
    """`{<key>, <key> tokenizer}`, `key` being the config key: hashes of a folder's content, or org/name@commit.

    A folder and its copy at a URL have the same hashes. Every byte counts, and is read once per machine (see hashes):
    at a URL from this machine's copy where there is one, else through the network. Of a Hub id only config.json is
    read. Raises ConfigError when `name` is none of these.
    """
    if not _is_folder(name):
        found = readable(key, name, "config.json")
        return {key: found, f"{key} tokenizer": found}
    if not is_local(name):
        copy = _copy_of(name, _require_model(key, name))
        name = str(copy) if copy.is_dir() else name
    files = _require_model(key, name)
    require_usable(key, name, [info for file, info in files.items() if "/" not in file])
    return {key: folder_hash(name, _decides_weights), f"{key} tokenizer": tokenizer_hash(name)}


def require_there(key: str, name: str) -> None:
    """Raise ConfigError where no model lies at `name`, UnreachableError where that is not known. Reads no weights."""
    if _is_folder(name):
        _require_model(key, name)
    else:
        readable(key, name, "config.json")


def model_seen(key: str, name: str) -> str:
    """What two machines compare to see whether a name is one model: as `model_fields`, but of a URL only the listing.

    So it costs no download. Raises as `model_fields`.
    """
    if not is_local(name):
        return _copy_of(name, _require_model(key, name)).name
    return str(model_fields(key, name)[key])


def local_folder(key: str, name: str) -> str:
    """The folder that the model libraries can load: `name`, or this machine's copy of a URL or Hub id, made if need be.

    The copy's name is a hash of the URL and its listing (names, sizes, times), so a changed model is another copy; of
    a Hub id it is the Hub cache's folder of one commit, so nothing that loads it needs a revision.
    Raises ConfigError when no model lies there, UnreachableError when the Hub does not answer.
    """
    if Path(name).is_dir():
        return name
    if is_local(name):
        return model_files(key, name)
    listed = _require_model(key, name)
    return kept_copy(name, _sizes(listed), _copy_of(name, listed))


@contextmanager
def without_weights(key: str, name: str) -> Iterator[str]:
    """The folder in which the libraries find a model's configuration and tokenizer; for a URL it is a temporary one.

    Raises ConfigError when no model lies there, UnreachableError when the Hub does not answer.
    """
    if is_local(name):
        yield name if Path(name).is_dir() else small_files(key, name)
        return
    listed = _require_model(key, name)
    files = _sizes({file: info for file, info in listed.items() if not file.endswith(_WEIGHTS)})
    with tempfile.TemporaryDirectory() as folder:
        copy_down(name, files, Path(folder) / "model")
        yield f"{folder}/model"


def known_positions(name: str) -> int | None:
    """The most tokens that the config.json of a folder or URL allows; None where it does not say, and for a Hub id."""
    try:
        settings = json.loads(read_bytes(join(name, "config.json")))
    except (OSError, ValueError):
        return None
    known = settings.get("max_position_embeddings") if isinstance(settings, dict) else None
    return known if isinstance(known, int) else None


def adapter_hash(key: str, name: str) -> str:
    """Content hash of a LoRA folder, local or at a URL, or org/name@commit.

    Raises ConfigError when it holds no adapter_config.json, UnreachableError when the Hub does not answer.
    """
    if adapter_on_hub(name):
        return readable(key, name, "adapter_config.json")
    require_adapter(key, name)
    return folder_hash(name, lambda f: f.startswith("adapter_"))


def require_adapter(key: str, name: str) -> None:
    """Raise as `adapter_hash`, and read no weights."""
    if adapter_on_hub(name):
        readable(key, name, "adapter_config.json")
    elif not exists(join(name, "adapter_config.json")):
        expected = "expected a LoRA folder as PEFT or LLaMA-Factory write it, or org/name@revision of the Hub"
        raise ConfigError(f"{key}={name}: no adapter_config.json there; {expected}")


def local_adapter(name: str) -> str:
    """The folder that PEFT and vLLM can load: `name`, or this machine's copy of a URL or a Hub id."""
    if adapter_on_hub(name):
        return adapter_files("teacher.adapter", name)
    # LLaMA-Factory keeps whole checkpoints in folders below.
    return fetched_folder(name, lambda file: "/" not in file or file.startswith(f"{TEMPLATES}/"))


def _is_folder(name: str) -> bool:
    return not is_local(name) or Path(name).is_dir()


def _decides_weights(file: str) -> bool:
    """Also an adapter inside a model's folder: transformers applies it."""
    known = file == "config.json" or file.endswith((*_WEIGHTS, ".index.json")) or file.startswith("adapter_")
    return known and not file.startswith(_OF_TRAINING)


def _require_model(key: str, name: str) -> "dict[str, fs.FileInfo]":
    """The files of a model folder, by relative name; raises ConfigError when it is none, or the URL cannot be read."""
    try:
        files = model_files_in(name)
    except (OSError, ValueError) as error:
        why = f"cannot be listed ({type(error).__name__})"
        raise ConfigError(f"{key}={name}: {why}; check the URL and this machine's access to it") from None
    if "config.json" not in files:
        raise ConfigError(f"{key}={name}: no config.json there; expected a model folder as save_pretrained writes it")
    return files


def _sizes(files: "dict[str, fs.FileInfo]") -> Facts:
    return {name: {"size": info.size} for name, info in files.items()}


def _copy_of(name: str, files: "dict[str, fs.FileInfo]") -> Path:
    listing = [[file, info.size, info.mtime_ns] for file, info in files.items()]
    return cache_folder() / "models" / digest([name.rstrip("/"), listing])
